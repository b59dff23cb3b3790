//! Assign: queued payments become a signed, stored transaction, in one commit.

use std::{collections::BTreeMap, slice::from_ref, sync::Arc, time::Duration};

use alloy::{
    primitives::{Address, B256, U256, keccak256},
    signers::SignerSync as _,
    sol_types::SolCall as _,
};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use super::{BatchRef, Manifest, Outgoing, prepare};
use crate::{
    audit::{Draft, EventKind},
    contract::{self, Batch, IPolicyWallet, PayBatch, escrow::IEscrowPayer, hub::IChannelPayer},
    crash::{self, Point},
    engine::{EngineError, Inner, Stop},
    intake::{Message, Purpose},
    payment::{AgentId, Event},
    pulse,
    refusal::{Code, Refusal},
    store::{EscrowRow, ItemRef, PaymentRow, PurseRow, Tx, TxKind},
};

/// Gas of a `payBatch` call beside its items: intrinsic, words, event. Unused gas is returned.
const GAS_BASE: u64 = 150_000;
/// Gas of one agent's batch: signature, nonce, windows.
const GAS_BATCH: u64 = 90_000;
/// Gas of one item at its worst: a new receiver, a payee with cap and cooldown. With at most 100
/// items, each another agent's, a call stays below 2^24 gas (EIP-7825).
const GAS_ITEM: u64 = 65_000;
/// Gas of `payApproved` with its quorum; passkeys without a precompile need most of it.
const GAS_APPROVED: u64 = 300_000;
/// Gas of `openEscrow` beside that of a payment: the escrow's own word, its logs, the allowance.
const GAS_OPENING: u64 = 300_000;
/// Gas of `fundChannel` beside that of a payment: the hub's words and logs, the way back.
const GAS_FUNDING: u64 = 200_000;
/// Gas for each operator's signature beside it.
const GAS_SIGNATURE: u64 = 400_000;

/// Returns the gas limit of a batch of so many payments at its worst: each of another agent.
pub(crate) const fn full_gas(items: u32) -> u64 {
    GAS_BASE + (GAS_BATCH + GAS_ITEM) * items as u64
}
/// Milliseconds a payment steps back when it cannot be assigned now.
const STEP_BACK_MS: i64 = 5_000;

/// Runs until told to stop.
pub(crate) async fn run(inner: Arc<Inner>, stop: Stop) {
    let wait = Duration::from_millis(inner.config.submit.batch_wait_ms);
    let mut tick = interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pulse::rest();
        tokio::select! {
            () = stop.asked() => return,
            () = inner.queued.notified() => tokio::time::sleep(wait).await,
            _ = tick.tick() => {}
        }
        pulse::work();
        loop {
            match some(&inner).await {
                Ok(true) if !stop.is_asked() => {}
                Ok(_) => break,
                Err(error) => {
                    warn!(%error, "payments could not be assigned; trying again");
                    break;
                }
            }
        }
    }
}

/// Assigns one transaction's worth. Answers whether there may be more.
pub(crate) async fn some(inner: &Inner) -> Result<bool, EngineError> {
    let relayers = inner.own_relayers();
    let Some(sender) = inner.sender_among(&relayers, inner.config.submit.in_flight) else {
        return Ok(false);
    };
    let now_ms = inner.clock.now_ms();
    if !inner.may_sign() || inner.is_settling() || !inner.store.is_queued(now_ms).await? {
        return Ok(false);
    }
    // What is signed is read within the turn in which it is signed: another daemon may have taken
    // it, or frozen its agent, the moment before.
    let mut store = inner.begin_as(sender).await?;
    let mut rows = store.payments_queued(now_ms, inner.config.submit.batch_items).await?;
    let Some(first) = rows.first() else { return Ok(false) };
    // Approved payments and escrows have doors of their own: one at a time, in their turn.
    if first.has_own_door() {
        let payment = rows.swap_remove(0);
        return approved(inner, store, sender, payment, now_ms).await;
    }
    rows.retain(|row| !row.has_own_door());
    batch(inner, store, sender, rows, now_ms).await
}

/// What to do with a payment before it is signed.
enum Readiness {
    Go { agent: Address, key_index: u32 },
    Wait,
    Never(Refusal),
}

fn readiness(inner: &Inner, payment: &PaymentRow, now_ms: i64) -> Readiness {
    if inner.is_undecided(payment) {
        return Readiness::Wait;
    }
    if payment.expires_ms <= now_ms {
        let mut why = payment.refusal.clone().unwrap_or_else(|| {
            Refusal::new(Code::Unavailable, "the chain did not take it in time")
        });
        why.detail = format!("given up after its time in the queue: {}", why.detail);
        return Readiness::Never(why);
    }
    let book = inner.book();
    if book.wallet.frozen {
        return Readiness::Wait;
    }
    let Some(agent) = book.agents.get(&payment.agent) else {
        return Readiness::Never(Refusal::new(Code::AgentInactive, "the agent was removed"));
    };
    let frozen_on_chain = agent.chain.as_ref().is_some_and(|chain| chain.frozen);
    if agent.usage.frozen || frozen_on_chain {
        return Readiness::Never(
            Refusal::new(Code::AgentFrozen, "an operator froze the agent before it was signed")
                .rule("frozen")
                .hint("ask again once an operator has lifted the freeze"),
        );
    }
    Readiness::Go { agent: agent.address, key_index: agent.policy.key_index }
}

async fn batch(
    inner: &Inner,
    mut store: Tx,
    sender: Address,
    rows: Vec<PaymentRow>,
    now_ms: i64,
) -> Result<bool, EngineError> {
    let mut by_agent: BTreeMap<AgentId, (Address, u32, Vec<PaymentRow>)> = BTreeMap::new();
    let mut waiting = Vec::new();
    let mut never = Vec::new();
    for row in rows {
        match readiness(inner, &row, now_ms) {
            Readiness::Go { agent, key_index } => by_agent
                .entry(row.agent.clone())
                .or_insert_with(|| (agent, key_index, Vec::new()))
                .2
                .push(row),
            Readiness::Wait => waiting.push(row),
            Readiness::Never(why) => never.push((row, why)),
        }
    }

    let mut drafts = Vec::new();
    for row in &waiting {
        store.step_back(row.id, now_ms + STEP_BACK_MS).await?;
    }
    for (row, why) in &mut never {
        give_up(&mut store, row, why.clone(), now_ms, &mut drafts).await?;
    }
    let mut open = None;
    if !by_agent.is_empty() {
        let deadline = inner.now_s() + inner.config.submit.signature_ttl_s;
        let mut batches = Vec::with_capacity(by_agent.len());
        let mut refs = Vec::with_capacity(by_agent.len());
        for (id, (agent, key_index, rows)) in &by_agent {
            let nonce = inner.wallet_nonce(&mut store, *agent).await?;
            let items: Vec<B256> =
                rows.iter().map(|row| contract::item(row.payee, row.amount.units())).collect();
            let message = PayBatch {
                agent: *agent,
                nonce,
                deadline: U256::from(deadline),
                context: contexts(rows),
                items: items.clone(),
            };
            let digest = contract::digest(&message, &inner.domain);
            let signature = inner.keys.agent(*key_index)?.sign_hash_sync(&digest)?;
            let (r, vs) = inner.compact(&signature);
            refs.push(BatchRef {
                id: id.clone(),
                agent: *agent,
                nonce,
                items: u32::try_from(items.len()).unwrap_or(u32::MAX),
                deadline_s: deadline,
                context: message.context,
                // A head may fall, and the transaction then stand below it; what is final stays.
                since: inner.height().saturating_sub(inner.config.chain.confirmations),
            });
            batches.push(Batch {
                agent: *agent,
                nonce,
                deadline: U256::from(deadline),
                context: message.context,
                items,
                r,
                vs,
            });
        }
        let count: usize = by_agent.values().map(|(_, _, rows)| rows.len()).sum();
        let gas = GAS_BASE + GAS_BATCH * batches.len() as u64 + GAS_ITEM * count as u64;
        let calldata = IPolicyWallet::payBatchCall { batches }.abi_encode().into();
        let call = Outgoing {
            kind: TxKind::Batch,
            target: inner.config.chain.wallet,
            calldata,
            gas,
            manifest: Manifest::Batches(refs),
        };
        let made = prepare(inner, &mut store, sender, call).await?;
        let mut signed = Vec::with_capacity(count);
        for (position, (_, _, rows)) in by_agent.into_values().enumerate() {
            for (index, mut row) in rows.into_iter().enumerate() {
                row.tx_id = Some(made.tx.id.clone());
                row.item = Some(ItemRef {
                    batch: u32::try_from(position).unwrap_or(u32::MAX),
                    item: u32::try_from(index).unwrap_or(u32::MAX),
                });
                row.tx_hash = made.attempts.first().map(|attempt| attempt.hash);
                signed.push(row);
            }
        }
        let moved = store.advance_all(&mut signed, Event::Assigned, now_ms).await?;
        if moved != signed.len() as u64 {
            // What is signed here and queued there would be signed again.
            let why = format!("{moved} of {} payments were still queued", signed.len());
            return Err(EngineError::Encode(why));
        }
        let ids: Vec<_> = signed.iter().map(|row| row.id).collect();
        drafts.push(Draft::new(EventKind::PaymentSigned, "daemon").tx(&made.tx.id).data(json!({
            "payments": ids, "sender": made.tx.sender, "nonce": made.tx.nonce,
            "hash": made.attempts.first().map(|attempt| attempt.hash), "kind": "batch",
        })));
        debug!(tx = made.tx.id, payments = count, "assigned");
        open = Some(made);
    }
    store.append_audit(&drafts, now_ms).await?;
    store.commit().await?;
    crash::at(Point::AssignCommitted);
    inner.free(&never);
    if let Some(open) = open {
        inner.launch(open);
    }
    Ok(true)
}

/// One hash over the contexts of a batch's items, in order: keccak-256 of their concatenation.
fn contexts(rows: &[PaymentRow]) -> B256 {
    keccak256(rows.iter().flat_map(|row| row.context_hash.0).collect::<Vec<u8>>())
}

async fn approved(
    inner: &Inner,
    mut store: Tx,
    sender: Address,
    mut payment: PaymentRow,
    now_ms: i64,
) -> Result<bool, EngineError> {
    let Some(approval) = inner.store.approval(payment.id).await? else {
        let why = Refusal::new(Code::Internal, "its approval is not in the store");
        return never(inner, store, payment, why, now_ms).await;
    };
    // Once signed, agent's and operators' signatures are public and stay good until the deadline:
    // nothing but the chain can end the payment then. Past the deadline it is sent once more, to
    // be refused where all can see it.
    let left = payment.tries > 0;
    let past = inner.now_s() > approval.deadline_s;
    let (agent, key_index) = match readiness(inner, &payment, now_ms) {
        Readiness::Go { agent, key_index } => (agent, key_index),
        Readiness::Never(why) if !left => return never(inner, store, payment, why, now_ms).await,
        Readiness::Wait | Readiness::Never(_) if !(left && past) => {
            store.step_back(payment.id, now_ms + STEP_BACK_MS).await?;
            store.commit().await?;
            return Ok(true);
        }
        Readiness::Wait | Readiness::Never(_) => {
            let book = inner.book();
            let Some(agent) = book.agents.get(&payment.agent) else {
                return Err(EngineError::Encode(format!(
                    "{} was signed by `{}`, whose policy file is gone: put it back",
                    payment.id, payment.agent
                )));
            };
            (agent.address, agent.policy.key_index)
        }
    };
    let (threshold, version) = {
        let book = inner.book();
        let chain = book.agents.get(&payment.agent).and_then(|agent| agent.chain);
        (book.threshold, chain.map_or(0, |chain| chain.version))
    };
    // Within its limits an escrow is judged by today's policy, on chain.
    let needs = if payment.overrides == 0 { 0 } else { threshold };
    if needs != 0 && version != approval.policy_version && !left {
        let why = Refusal::new(
            Code::Conflict,
            format!(
                "the operators approved it under policy version {}, the contract now has {version}",
                approval.policy_version
            ),
        )
        .rule("policy_version")
        .hint("ask again under a new Idempotency-Key; operators decide anew");
        return never(inner, store, payment, why, now_ms).await;
    }
    // Only today's operators count; exactly a quorum is sent, the earliest signers first.
    let signatures: Vec<_> = {
        let all = inner.store.signatures(approval.digest).await?;
        let book = inner.book();
        all.into_iter()
            .filter(|row| book.operators.contains(&row.signer))
            .take(usize::try_from(needs).unwrap_or(usize::MAX))
            .collect()
    };
    if (signatures.len() as u64) < needs && !left {
        let why = Refusal::new(
            Code::Conflict,
            "an operator who approved it is no operator any more: the quorum is incomplete",
        )
        .hint("ask again under a new Idempotency-Key");
        return never(inner, store, payment, why, now_ms).await;
    }
    let funds = inner.funds_of(&payment).await?;
    let message =
        Message::new(&payment, funds.purpose(), agent, approval.nonce, approval.deadline_s);
    let digest = message.digest(&inner.domain);
    if digest != approval.digest {
        let why = Refusal::new(Code::Internal, "the payment differs from what was approved");
        return never(inner, store, payment, why, now_ms).await;
    }
    let (r, vs) = inner.compact(&inner.keys.agent(key_index)?.sign_hash_sync(&digest)?);
    let quorum = signatures.iter().map(|row| (row.signer, row.signature)).collect::<Vec<_>>();
    let gas = GAS_APPROVED + GAS_SIGNATURE * quorum.len() as u64;
    let quorum = contract::encode_quorum(quorum);
    let payouts = match funds {
        Funds::Escrow(escrow) => escrow.payouts,
        Funds::Nothing | Funds::Channel(_) => Vec::new(),
    };
    let (kind, gas, calldata) = match message {
        Message::Payment(message) => {
            let call = IPolicyWallet::payApprovedCall {
                agent,
                to: message.to,
                amount: message.amount,
                nonce: message.nonce,
                deadline: message.deadline,
                context: message.context,
                overrides: message.overrides,
                policyVersion: message.policyVersion,
                r,
                vs,
                quorum,
            };
            (TxKind::Approved, gas, call.abi_encode())
        }
        Message::Escrow(opening) => {
            let gas = gas + GAS_OPENING + GAS_ITEM * payouts.len() as u64;
            let call = IEscrowPayer::openEscrowCall { opening: *opening, payouts, r, vs, quorum };
            (TxKind::Opening, gas, call.abi_encode())
        }
        Message::Channel(funding) => {
            let call = IChannelPayer::fundChannelCall { funding: *funding, r, vs, quorum };
            (TxKind::Funding, gas + GAS_FUNDING, call.abi_encode())
        }
    };
    let manifest = Manifest::Approved {
        payment: payment.id,
        agent,
        nonce: approval.nonce,
        deadline_s: approval.deadline_s,
    };
    let target = inner.config.chain.wallet;
    let call = Outgoing { kind, target, calldata: calldata.into(), gas, manifest };
    let open = prepare(inner, &mut store, sender, call).await?;
    payment.tx_id = Some(open.tx.id.clone());
    payment.item = Some(ItemRef { batch: 0, item: 0 });
    payment.tx_hash = open.attempts.first().map(|attempt| attempt.hash);
    if !store.advance(&mut payment, Event::Assigned, now_ms).await? {
        return Err(EngineError::Encode(format!("{} is not queued any more", payment.id)));
    }
    let draft = Draft::new(EventKind::PaymentSigned, "daemon").tx(&open.tx.id).data(json!({
        "payments": [payment.id], "sender": open.tx.sender, "nonce": open.tx.nonce,
        "hash": payment.tx_hash, "kind": kind.as_str(),
        "approved_by": signatures.iter().map(|row| row.signer).collect::<Vec<_>>(),
    }));
    store.append_audit(&[draft], now_ms).await?;
    store.commit().await?;
    crash::at(Point::ApprovedCommitted);
    inner.launch(open);
    Ok(true)
}

async fn never(
    inner: &Inner,
    mut store: Tx,
    mut payment: PaymentRow,
    why: Refusal,
    now_ms: i64,
) -> Result<bool, EngineError> {
    let mut drafts = Vec::new();
    give_up(&mut store, &mut payment, why.clone(), now_ms, &mut drafts).await?;
    store.append_audit(&drafts, now_ms).await?;
    store.commit().await?;
    inner.free(&[(payment, why)]);
    Ok(true)
}

/// Ends a payment that was never signed, or whose transaction is final without it.
pub(super) async fn give_up(
    store: &mut Tx,
    payment: &mut PaymentRow,
    why: Refusal,
    now_ms: i64,
    drafts: &mut Vec<Draft>,
) -> Result<(), EngineError> {
    payment.refusal = Some(why.clone());
    if !store.advance(payment, Event::GivenUp, now_ms).await? {
        return Err(EngineError::Encode(format!("{} has moved on", payment.id)));
    }
    store.void(from_ref(payment), now_ms).await?;
    store.tell_end(EventKind::PaymentFailed, from_ref(payment), now_ms).await?;
    drafts.push(
        Draft::new(EventKind::PaymentFailed, "daemon")
            .agent(&payment.agent)
            .payment(payment.id)
            .data(json!({ "refusal": why, "tries": payment.tries })),
    );
    Ok(())
}

impl Inner {
    /// Frees the reservations of payments that ended unpaid, after their commit.
    fn free(&self, ended: &[(PaymentRow, Refusal)]) {
        let mut book = self.book();
        for (payment, _) in ended {
            book.void(&payment.agent, &payment.facts());
            self.metrics.failed.inc();
        }
    }
}

impl PaymentRow {
    /// Has it a call of its own, under a signature that was made once?
    pub(crate) const fn has_own_door(&self) -> bool {
        self.overrides != 0 || self.escrow.is_some() || self.channel.is_some()
    }
}

/// What a payment funds, read from the store.
pub(crate) enum Funds {
    /// Nothing: it goes to the payee at once.
    Nothing,
    /// An escrow.
    Escrow(Box<EscrowRow>),
    /// A channel.
    Channel(Box<PurseRow>),
}

impl Funds {
    /// What is signed for it.
    pub(crate) fn purpose(&self) -> Purpose<'_> {
        match self {
            Self::Nothing => Purpose::Payee,
            Self::Escrow(escrow) => Purpose::Escrow(escrow),
            Self::Channel(purse) => Purpose::Channel(&purse.config),
        }
    }
}

impl Inner {
    /// Reads what a payment funds.
    pub(crate) async fn funds_of(&self, payment: &PaymentRow) -> Result<Funds, EngineError> {
        let missing = |what, id| EngineError::Encode(format!("{what} {id} is not in the store"));
        if let Some(id) = payment.escrow {
            let escrow = self.store.escrow(id).await?.ok_or_else(|| missing("escrow", id))?;
            return Ok(Funds::Escrow(Box::new(escrow)));
        }
        if let Some(id) = payment.channel {
            let purse = self.store.purse(id).await?.ok_or_else(|| missing("channel", id))?;
            return Ok(Funds::Channel(Box::new(purse)));
        }
        Ok(Funds::Nothing)
    }
}
