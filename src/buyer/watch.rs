//! What became of purchases, by final logs of the token and of the wallet: the only word on money that
//! is believed.
//!
//! An authorization was used when the token logged its payer and nonce in a final block; what the wallet
//! is asked to pay itself (ERC-7710) was paid when it logged the purchase. It never will be when a final
//! block's time is at or past its end and the nonce is unused there: token and wallet take it in blocks
//! before that time only.

use std::{collections::HashMap, sync::Arc};

use alloy::{
    primitives::{Address, B256, U256},
    sol_types::{SolCall as _, SolEvent as _},
};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::{PayerKind, PurchaseState, shop::story};
use crate::{
    audit::EventKind,
    book::PaidIn,
    contract::{IPolicyWallet, token::IEip3009},
    crash::{self, Point},
    engine::{EngineError, Inner, Stop},
    rpc::{At, Head, LOG_SPAN},
    store::PurchaseRow,
    submit::confirm::last_final,
};

/// Purchases in one question for logs.
const AT_ONCE: u32 = 100;

/// Runs until told to stop.
pub(crate) async fn run(inner: Arc<Inner>, stop: Stop) {
    let mut tick = interval(inner.config.poll());
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch::default();
    loop {
        tokio::select! {
            () = stop.asked() => return,
            _ = tick.tick() => {}
        }
        // One daemon is enough to look.
        let Some(head) = inner.head().filter(|_| inner.is_keeper()) else { continue };
        if let Err(error) = watch.look(&inner, head).await {
            warn!(%error, "the fate of purchases could not be looked up; trying again");
        }
    }
}

/// What the task remembers; all of it can be lost.
#[derive(Default)]
struct Watch {
    /// The last final block in which the open purchases were looked for.
    read: Option<u64>,
}

impl Watch {
    async fn look(&mut self, inner: &Inner, head: Head) -> Result<(), EngineError> {
        let confirmations = inner.config.chain.confirmations;
        let Some(last) = (head.height() + 1).checked_sub(confirmations) else { return Ok(()) };
        if self.read.is_some_and(|read| read >= last) {
            return Ok(());
        }
        let Some(block) = last_final(inner, &head).await? else { return Ok(()) };
        let mut after = None;
        loop {
            let open = inner.store.purchases_open(after, AT_ONCE).await?;
            let Some(final_one) = open.last() else { break };
            after = Some(final_one.id);
            // What was signed since the last look was signed at a head above the block read then.
            let first = open.iter().map(|row| row.since_block + 1).min().unwrap_or(last);
            let from = self.read.map_or(first, |read| read + 1).max(first);
            let used = used(inner, &open, from, &block).await?;
            for row in open {
                match used.get(&(row.payer, row.nonce)) {
                    Some(Used::Paid(hash, number)) => {
                        paid(inner, row, (*hash, *number), &block).await?;
                    }
                    Some(Used::Voided) => unpaid(inner, row).await?,
                    None if block.time_s() >= row.valid_before_s => {
                        ended(inner, row, &block).await?;
                    }
                    None => {}
                }
            }
        }
        self.read = Some(last);
        Ok(())
    }
}

/// What the chain's logs say of a nonce.
#[derive(Clone, Copy, Debug)]
enum Used {
    /// It paid, in this transaction and block.
    Paid(B256, u64),
    /// An operator voided it.
    Voided,
}

/// An authorization is past its end: token or wallet says whether it was used.
async fn ended(inner: &Inner, row: PurchaseRow, block: &Head) -> Result<(), EngineError> {
    let chain = &inner.config.chain;
    let is_used = if row.payer_kind == PayerKind::Delegation {
        let agent = inner.book().agents.get(&row.agent).map(|known| known.address);
        let agent = agent.ok_or_else(|| {
            EngineError::Encode(format!(
                "{} was signed by `{}`, whose policy file is gone: put it back",
                row.id, row.agent
            ))
        })?;
        let nonce = U256::from_be_bytes(row.nonce.0);
        let call = IPolicyWallet::nonceUsedCall { agent, nonce }.abi_encode().into();
        let answer = inner.rpc.eth_call(chain.wallet, None, &call, At::from(block)).await?;
        IPolicyWallet::nonceUsedCall::abi_decode_returns_validate(&answer)?
    } else {
        let call = IEip3009::authorizationStateCall { authorizer: row.payer, nonce: row.nonce };
        let call = call.abi_encode().into();
        let answer = inner.rpc.eth_call(chain.usdc, None, &call, At::from(block)).await?;
        IEip3009::authorizationStateCall::abi_decode_returns(&answer)?
    };
    if !is_used {
        return unpaid(inner, row).await;
    }
    // Its log is behind what was read: everything is read anew.
    let first = chain.from_block;
    let found = used(inner, std::slice::from_ref(&row), first, block).await?;
    match found.get(&(row.payer, row.nonce)) {
        // By another that had the same nonce, before this one was signed: this one never can be.
        Some(Used::Paid(_, number)) if *number <= row.since_block => unpaid(inner, row).await,
        Some(Used::Paid(hash, number)) => paid(inner, row, (*hash, *number), block).await,
        Some(Used::Voided) => unpaid(inner, row).await,
        None => Err(EngineError::Encode(format!(
            "the chain calls the nonce of {} used, and its log is not there",
            row.id
        ))),
    }
}

/// Finds what token and wallet logged of these purchases' payers and nonces.
async fn used(
    inner: &Inner,
    open: &[PurchaseRow],
    from: u64,
    top: &Head,
) -> Result<HashMap<(Address, B256), Used>, EngineError> {
    let chain = &inner.config.chain;
    let (delegated, signed): (Vec<_>, Vec<_>) =
        open.iter().partition(|row| row.payer_kind == PayerKind::Delegation);
    let mut payers: Vec<B256> = signed.iter().map(|row| row.payer.into_word()).collect();
    payers.sort_unstable();
    payers.dedup();
    let nonces: Vec<B256> = signed.iter().map(|row| row.nonce).collect();
    let mut found = HashMap::new();
    let mut from = from;
    while from <= top.height() {
        let to = top.height().min(from.saturating_add(LOG_SPAN - 1));
        let mut logs = Vec::new();
        if !signed.is_empty() {
            let topics = json!([IEip3009::AuthorizationUsed::SIGNATURE_HASH, payers, nonces]);
            logs = inner.rpc.logs_by(chain.usdc, (from, to), topics, top).await?;
        }
        if !delegated.is_empty() {
            let kinds = [
                IPolicyWallet::Paid::SIGNATURE_HASH,
                IPolicyWallet::NonceCancelled::SIGNATURE_HASH,
            ];
            logs.extend(inner.rpc.logs_by(chain.wallet, (from, to), json!([kinds]), top).await?);
        }
        for log in logs {
            let (Some(hash), Some(block)) = (log.transaction_hash, log.block_number) else {
                continue;
            };
            let paid = Used::Paid(hash, block);
            let (key, what) = if let Ok(log) = IEip3009::AuthorizationUsed::decode_log(&log.inner) {
                ((log.data.authorizer, log.data.nonce), paid)
            } else if let Ok(log) = IPolicyWallet::Paid::decode_log(&log.inner) {
                ((chain.wallet, log.data.context), paid)
            } else {
                let event = IPolicyWallet::NonceCancelled::decode_log(&log.inner)?.data;
                ((chain.wallet, B256::from(event.nonce)), Used::Voided)
            };
            found.insert(key, what);
        }
        from = to + 1;
    }
    Ok(found)
}

async fn paid(
    inner: &Inner,
    mut row: PurchaseRow,
    (hash, block): (B256, u64),
    top: &Head,
) -> Result<(), EngineError> {
    let head = inner.rpc.heads_under(top, &[block]).await?.into_iter().flatten().next();
    let Some(head) = head else {
        return Err(EngineError::Encode(format!("block {block} of {} is not there", row.id)));
    };
    crash::at(Point::PurchaseRead);
    let now_ms = inner.clock.now_ms();
    let mut tx = inner.store.begin().await?;
    let Some(now) = tx.purchase(row.id).await?.filter(|now| !now.state.is_terminal()) else {
        return Ok(());
    };
    let from = now.state;
    row = PurchaseRow {
        state: PurchaseState::Paid,
        tx_hash: Some(hash),
        block: Some(block),
        block_time_s: Some(head.time_s()),
        note: now.note.clone().filter(|_| now.answer.is_none()),
        ..now
    };
    if tx.move_purchase(from, &row, now_ms).await? {
        let draft = story(EventKind::X402Paid, &row).and("block", json!(block));
        tx.append_audit(&[draft], now_ms).await?;
        tx.commit().await?;
        if let Some(facts) = row.facts() {
            inner.book().settle(&row.agent, &facts, PaidIn { block, time_s: head.time_s() });
        }
        inner.metrics.purchases_paid.inc();
        info!(purchase = %row.id, %hash, block, "paid");
    }
    Ok(())
}

async fn unpaid(inner: &Inner, row: PurchaseRow) -> Result<(), EngineError> {
    let now_ms = inner.clock.now_ms();
    let mut tx = inner.store.begin().await?;
    let Some(now) = tx.purchase(row.id).await?.filter(|now| !now.state.is_terminal()) else {
        return Ok(());
    };
    let from = now.state;
    // What a seller called settled and the chain never saw was no settlement.
    let row = PurchaseRow { state: PurchaseState::Unpaid, tx_hash: None, ..now };
    if tx.move_purchase(from, &row, now_ms).await? {
        let draft = story(EventKind::X402Lapsed, &row).and("was", json!(from));
        tx.append_audit(&[draft.and("note", json!(row.note))], now_ms).await?;
        tx.commit().await?;
        if let Some(facts) = row.facts() {
            inner.book().void(&row.agent, &facts);
        }
        inner.metrics.purchases_lapsed.inc();
        info!(purchase = %row.id, "ended unused");
    }
    Ok(())
}
