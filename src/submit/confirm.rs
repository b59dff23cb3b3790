//! Confirm: heads and receipts, and the end of a transaction at depth.
//!
//! A receipt counts only while its block is the chain's block of that number, and decides only at
//! depth. Absence decides nothing. What a final receipt says is written in one commit: payments,
//! ledger, audit, outbox.

use std::{collections::HashMap, sync::Arc};

use alloy::{
    primitives::{Address, B256, U256},
    rpc::types::TransactionReceipt,
};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, error, info, warn};

use super::{
    Flight, Manifest, Outgoing,
    assign::{facts, give_up},
    held,
    outcome::{self, BatchLogs, Outcome},
    prepare,
};
use crate::{
    audit::{Draft, EventKind},
    clock,
    engine::{EngineError, Inner, Stop},
    governance,
    outcome::SendClass,
    payment::{Event, State},
    refusal::{Code, Refusal},
    rpc::{Head, RpcError},
    store::{OpenTx, PaymentRow, Tx, TxRow},
};

/// Transactions that may fail a payment before it is given up.
pub(super) const TRIES: u32 = 8;

/// Runs until told to stop.
pub(crate) async fn run(inner: Arc<Inner>, stop: Stop) {
    let mut tick = interval(inner.config.poll());
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen: Option<Head> = None;
    loop {
        tokio::select! {
            () = stop.asked() => return,
            _ = tick.tick() => {}
        }
        match look(&inner, &mut seen).await {
            Ok(()) => inner.set_chain_reached(true),
            Err(error) => {
                inner.set_chain_reached(false);
                warn!(%error, "the chain could not be read; trying again");
            }
        }
    }
}

/// One look at the newest head. `seen` moves only when everything up to it is done.
async fn look(inner: &Inner, seen: &mut Option<Head>) -> Result<(), EngineError> {
    let head = inner.rpc.latest().await?;
    inner.set_head(head);
    if seen.as_ref() == Some(&head) {
        return Ok(());
    }
    // Policy events count when they are final, like payments: a reorganisation takes none back.
    let last_final = (head.height() + 1).saturating_sub(confirmations(inner));
    governance::follow(inner, last_final).await?;
    receipts(inner, head, last_final).await?;
    held::look(inner, last_final).await?;
    *seen = Some(head);
    Ok(())
}

fn confirmations(inner: &Inner) -> u64 {
    inner.config.chain.confirmations
}

async fn receipts(inner: &Inner, head: Head, last_final: u64) -> Result<(), EngineError> {
    // Also what this run has not sent yet: a former run may have, and a head is looked at once.
    let flights: Vec<Flight> = inner.flights.all();
    if flights.is_empty() {
        return Ok(());
    }
    let hashes: Vec<B256> = flights
        .iter()
        .flat_map(|flight| flight.open.attempts.iter().map(|attempt| attempt.hash))
        .collect();
    let found: HashMap<B256, TransactionReceipt> = inner
        .rpc
        .receipts(&hashes)
        .await?
        .into_iter()
        .flatten()
        .map(|receipt| (receipt.transaction_hash, receipt))
        .collect();
    let mut numbers: Vec<u64> = found.values().filter_map(|receipt| receipt.block_number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let blocks: HashMap<u64, Head> = inner
        .rpc
        .heads(&numbers)
        .await?
        .into_iter()
        .flatten()
        .map(|block| (block.height(), block))
        .collect();

    // One that cannot be booked must not hold up the others.
    let mut fault = None;
    for flight in flights {
        let mined = flight.open.attempts.iter().find_map(|attempt| {
            let receipt = found.get(&attempt.hash)?;
            let block = blocks.get(&receipt.block_number?)?;
            // A receipt of a block that is not on this chain is no receipt.
            (receipt.block_hash == Some(block.hash)).then_some((receipt, block))
        });
        let depth = mined.map(|(_, block)| (head.height() + 1).saturating_sub(block.height()));
        match (mined, depth) {
            (Some((receipt, block)), Some(depth)) if depth >= confirmations(inner) => {
                if let Err(error) = finish(inner, &flight.open, receipt, block).await {
                    error!(%error, tx = flight.open.tx.id, "a final transaction could not be booked; trying again");
                    fault = Some(error);
                }
            }
            // Where it stood at the last look: nothing to note.
            (Some((_, block)), _) if flight.open.tx.block == Some(block.height()) => {}
            (Some((receipt, block)), _) => {
                place(inner, &flight.open, Some((receipt.transaction_hash, block.height())))
                    .await?;
            }
            _ if flight.open.tx.block.is_some() => {
                warn!(tx = flight.open.tx.id, "its block fell out of the chain: sending again");
                place(inner, &flight.open, None).await?;
            }
            _ if flight.answer == Some(Err(SendClass::NonceTooLow)) => {
                let sender = flight.open.tx.sender;
                let next = inner.rpc.transaction_count(sender, Some(last_final)).await?;
                if next > flight.open.tx.nonce {
                    displaced(inner, &flight.open, last_final, next).await?;
                }
            }
            _ => {}
        }
    }
    fault.map_or(Ok(()), Err)
}

/// Notes the block a transaction stands in, or that it lost it.
async fn place(inner: &Inner, open: &OpenTx, at: Option<(B256, u64)>) -> Result<(), EngineError> {
    let now_ms = clock::now_ms();
    let mut store = inner.store.begin().await?;
    store.place_tx(&open.tx.id, at.map(|(_, block)| block)).await?;
    match at {
        Some((hash, block)) => store.mark_included(&open.tx.id, hash, block, now_ms).await?,
        None => {
            store.mark_reorganised(&open.tx.id, now_ms).await?;
            let draft = Draft::new(EventKind::PaymentReorganised, "chain").tx(&open.tx.id);
            store.append_audit(&[draft], now_ms).await?;
        }
    }
    store.commit().await?;
    inner.flights.update(&open.tx, |flight| {
        flight.open.tx.block = at.map(|(_, block)| block);
        flight.last_sent = None;
    });
    if at.is_none() {
        inner.signed.notify_one();
    }
    Ok(())
}

/// Ends a transaction whose nonce was spent, in a final block, by bytes that are not in the store:
/// a store restored from a backup, or a relayer's key that was used elsewhere. What those bytes did
/// is not known here, and a node may lag: so payments are held, which asks the contract, and
/// operators' calls, which it takes once, are sent again.
async fn displaced(
    inner: &Inner,
    open: &OpenTx,
    last_final: u64,
    next: u64,
) -> Result<(), EngineError> {
    let tx = &open.tx;
    error!(tx = tx.id, sender = %tx.sender, nonce = tx.nonce,
        "another transaction took its nonce: is the relayer's key used elsewhere?");
    let manifest = manifest(tx)?;
    let payments = inner.store.payments_of_tx(&tx.id).await?;
    let hash = open.attempts.last().map(|attempt| attempt.hash).unwrap_or_default();
    let now_ms = clock::now_ms();
    let mut store = inner.store.begin().await?;
    let mut drafts = Vec::new();
    store.raise_nonce(&tx.sender.to_string(), next).await?;
    store.finish_tx(&tx.id, last_final, 0).await?;
    store.mark_included(&tx.id, hash, last_final, now_ms).await?;
    for mut payment in payments {
        payment.state = State::Included;
        let why = "another transaction of the relayer took its nonce";
        let why = Refusal::new(Code::Unavailable, why);
        hold(&mut store, &mut payment, why, now_ms, &mut drafts).await?;
    }
    let again = match &manifest {
        Manifest::Batches(_) | Manifest::Approved { .. } => None,
        Manifest::Proposal { .. } | Manifest::Tighten { .. } => {
            let call =
                Outgoing { kind: tx.kind, calldata: tx.calldata.clone(), gas: tx.gas, manifest };
            Some(prepare(inner, &mut store, tx.sender, call).await?)
        }
    };
    store.append_audit(&drafts, now_ms).await?;
    store.commit().await?;
    inner.flights.hold(&tx.id);
    inner.flights.remove(tx);
    if let Some(again) = again {
        inner.launch(again);
    }
    inner.queued.notify_one();
    Ok(())
}

pub(super) fn manifest(tx: &TxRow) -> Result<Manifest, EngineError> {
    serde_json::from_str(&tx.manifest)
        .map_err(|error| EngineError::Encode(format!("manifest of {}: {error}", tx.id)))
}

/// What a commit changed in the windows, applied to the book after it.
#[derive(Default)]
pub(super) struct Booked {
    settled: Vec<PaymentRow>,
    voided: Vec<PaymentRow>,
    again: bool,
}

impl Booked {
    /// Writes how an included payment came out; what was paid is written by [`Self::close`].
    pub(super) async fn end(
        &mut self,
        store: &mut Tx,
        mut payment: PaymentRow,
        outcome: Outcome,
        now_ms: i64,
        drafts: &mut Vec<Draft>,
    ) -> Result<(), EngineError> {
        if outcome == Outcome::Paid {
            payment.refusal = None;
            self.settled.push(payment);
            return Ok(());
        }
        unpaid(store, &mut payment, outcome, now_ms, drafts).await?;
        match payment.state {
            State::Failed => self.voided.push(payment),
            _ => self.again = true,
        }
        Ok(())
    }

    /// Notes that a payment is queued again.
    pub(super) const fn queue(&mut self) {
        self.again = true;
    }

    /// Writes what was paid and the entries of it all; the caller commits.
    pub(super) async fn close(
        &mut self,
        store: &mut Tx,
        now_ms: i64,
        drafts: &mut Vec<Draft>,
    ) -> Result<(), EngineError> {
        paid(store, &mut self.settled, now_ms, drafts).await?;
        store.append_audit(drafts, now_ms).await?;
        Ok(())
    }

    /// Call it after the commit.
    pub(super) fn apply(self, inner: &Inner, now_ms: i64) {
        let mut book = inner.book();
        for payment in &self.settled {
            // Written with the end itself: a paid payment has its block's time.
            let time_s = payment.block_time_s.unwrap_or_default();
            book.settle(&payment.agent, &facts(payment), time_s);
            inner.metrics.paid.inc();
            inner.metrics.observe_final(now_ms - payment.created_ms);
        }
        for payment in &self.voided {
            book.void(&payment.agent, &facts(payment));
            inner.metrics.failed.inc();
        }
        drop(book);
        if self.again {
            inner.queued.notify_one();
        }
    }
}

/// Ends a transaction in one commit.
async fn finish(
    inner: &Inner,
    open: &OpenTx,
    receipt: &TransactionReceipt,
    block: &Head,
) -> Result<(), EngineError> {
    let manifest = manifest(&open.tx)?;
    let payments = inner.store.payments_of_tx(&open.tx.id).await?;
    let ends = match &manifest {
        Manifest::Batches(_) | Manifest::Approved { .. } => {
            ends(inner, open, &manifest, &payments, receipt, block).await?
        }
        Manifest::Proposal { .. } | Manifest::Tighten { .. } => Vec::new(),
    };
    let now_ms = clock::now_ms();
    let mut store = inner.store.begin().await?;
    if !store.finish_tx(&open.tx.id, block.height(), receipt.gas_used).await? {
        inner.flights.remove(&open.tx);
        return Ok(());
    }
    let mut drafts = Vec::new();
    let mut booked = Booked::default();
    store.mark_included(&open.tx.id, receipt.transaction_hash, block.height(), now_ms).await?;
    let mut holds = false;
    for (mut payment, end) in payments.into_iter().zip(ends) {
        payment.state = State::Included;
        end.place.write(&mut payment);
        if end.live
            && let Outcome::Again(why) | Outcome::Never(why) = end.outcome
        {
            hold(&mut store, &mut payment, why, now_ms, &mut drafts).await?;
            holds = true;
        } else {
            booked.end(&mut store, payment, end.outcome, now_ms, &mut drafts).await?;
        }
    }
    let done = governance::finished(inner, &mut store, &manifest, receipt, &mut drafts).await?;
    booked.close(&mut store, now_ms, &mut drafts).await?;
    store.commit().await?;

    if holds {
        inner.flights.hold(&open.tx.id);
    }
    inner.flights.remove(&open.tx);
    inner.metrics.gas_used.inc_by(receipt.gas_used);
    booked.apply(inner, now_ms);
    // A sender has room again.
    inner.queued.notify_one();
    if done {
        governance::reload(inner).await?;
    }
    debug!(tx = open.tx.id, "final");
    Ok(())
}

/// Where a payment was really paid: our transaction, or another that carried the same signature.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub hash: B256,
    pub block: u64,
    pub time_s: u64,
}

impl Place {
    pub(super) const fn write(self, payment: &mut PaymentRow) {
        payment.tx_hash = Some(self.hash);
        payment.block = Some(self.block);
        payment.block_time_s = Some(self.time_s);
    }
}

/// What a final receipt says of one payment.
struct End {
    outcome: Outcome,
    place: Place,
    /// Not paid, but whoever relays the same signature again before its deadline may pay it.
    live: bool,
}

async fn ends(
    inner: &Inner,
    open: &OpenTx,
    manifest: &Manifest,
    payments: &[PaymentRow],
    receipt: &TransactionReceipt,
    block: &Head,
) -> Result<Vec<End>, EngineError> {
    let wallet = inner.config.chain.wallet;
    let here =
        Place { hash: receipt.transaction_hash, block: block.height(), time_s: block.time_s() };
    let mut list = Vec::with_capacity(payments.len());
    match manifest {
        Manifest::Approved { agent, nonce, deadline, .. } => {
            let live = block.time_s() <= *deadline;
            for payment in payments {
                let outcome = if outcome::approved(wallet, receipt, *agent, *nonce) {
                    Outcome::Paid
                } else {
                    revert(inner, open, block, payment).await?
                };
                let (outcome, place) =
                    elsewhere(inner, outcome, here, payment, *agent, *nonce, 0).await?;
                list.push(End { outcome, place, live });
            }
        }
        Manifest::Batches(batches) if receipt.status() => {
            let logs = outcome::batches(wallet, receipt.inner.logs());
            let nothing = BatchLogs::default();
            for payment in payments {
                let item = payment.item.ok_or_else(|| missing_place(payment))?;
                let batch =
                    batches.get(item.batch as usize).ok_or_else(|| missing_place(payment))?;
                let part = logs.get(&(batch.agent, batch.nonce)).unwrap_or(&nothing);
                if let Some((count, _)) = part.ran
                    && count + part.skipped.len() as u64 != u64::from(batch.items)
                {
                    // The contract and we disagree on what was asked: nobody guesses with money.
                    return Err(EngineError::Encode(format!(
                        "batch {} of {} paid {count} and skipped {} of {} items",
                        batch.nonce,
                        batch.agent,
                        part.skipped.len(),
                        batch.items
                    )));
                }
                let index = item.item.into();
                let outcome = part.item(index, payment.amount);
                // A spent nonce is resolved by the transaction that spent it.
                let live = outcome != Outcome::Elsewhere
                    && part.may_run_later()
                    && block.time_s() <= batch.deadline;
                let (outcome, place) =
                    elsewhere(inner, outcome, here, payment, batch.agent, batch.nonce, index)
                        .await?;
                list.push(End { outcome, place, live });
            }
        }
        Manifest::Batches(batches) => {
            let why = match payments.first() {
                Some(payment) => revert(inner, open, block, payment).await?,
                None => return Ok(list),
            };
            // The whole call reverted: it says nothing against any single payment.
            let why = match why {
                Outcome::Again(refusal) => Outcome::Again(refusal),
                Outcome::Never(refusal) => {
                    Outcome::Again(Refusal::new(Code::Unavailable, refusal.detail))
                }
                Outcome::Paid | Outcome::Elsewhere => {
                    Outcome::Again(Refusal::new(Code::Unavailable, "the transaction reverted"))
                }
            };
            let live = batches.iter().any(|batch| block.time_s() <= batch.deadline);
            list.extend(payments.iter().map(|_| End { outcome: why.clone(), place: here, live }));
        }
        Manifest::Proposal { .. } | Manifest::Tighten { .. } => {}
    }
    Ok(list)
}

pub(super) fn missing_place(payment: &PaymentRow) -> EngineError {
    EngineError::Encode(format!("{} has no place in its transaction", payment.id))
}

/// Asks the node why a call reverted, at the block below. Only the outcome "not paid" is certain;
/// the reason steers whether to try again.
async fn revert(
    inner: &Inner,
    open: &OpenTx,
    block: &Head,
    payment: &PaymentRow,
) -> Result<Outcome, EngineError> {
    let at = block.height().saturating_sub(1);
    let wallet = inner.config.chain.wallet;
    let answer =
        inner.rpc.eth_call(wallet, Some(open.tx.sender), &open.tx.calldata, Some(at)).await;
    match answer {
        Err(RpcError::Refused { data, message, .. }) => {
            Ok(match outcome::revert_reason(data.as_deref()) {
                Some(reason) => outcome::judge(reason, payment.amount),
                None => Outcome::Again(Refusal::new(
                    Code::Unavailable,
                    format!("the transaction reverted: {message}"),
                )),
            })
        }
        Ok(_) => Ok(Outcome::Again(Refusal::new(
            Code::Unavailable,
            "the transaction reverted, but would pass now",
        ))),
        Err(error) => Err(error.into()),
    }
}

/// Follows a nonce that another transaction spent to that transaction's logs.
pub(super) async fn elsewhere(
    inner: &Inner,
    outcome: Outcome,
    here: Place,
    payment: &PaymentRow,
    agent: Address,
    nonce: U256,
    index: u64,
) -> Result<(Outcome, Place), EngineError> {
    if outcome != Outcome::Elsewhere {
        return Ok((outcome, here));
    }
    let chain = &inner.config.chain;
    let logs = inner
        .rpc
        .logs_of(
            chain.wallet,
            chain.from_block,
            here.block,
            &outcome::nonce_topics(),
            agent.into_word(),
            B256::from(nonce),
        )
        .await?;
    let Some(log) = logs.first() else {
        // Cancelled by an operator: the nonce is spent, nothing was paid.
        return Ok((
            Outcome::Never(
                Refusal::new(Code::Conflict, "an operator voided its signature")
                    .hint("ask again under a new Idempotency-Key if it should be paid"),
            ),
            here,
        ));
    };
    let (Some(hash), Some(block)) = (log.transaction_hash, log.block_number) else {
        return Err(EngineError::Encode("a log without its transaction".into()));
    };
    let receipt = inner.rpc.receipts(&[hash]).await?.into_iter().flatten().next();
    let head = inner.rpc.heads(&[block]).await?.into_iter().flatten().next();
    let (Some(receipt), Some(head)) = (receipt, head) else {
        return Err(RpcError::Unknown {
            method: "eth_getTransactionReceipt",
            why: "the log's transaction is not there".into(),
        }
        .into());
    };
    let there = Place { hash, block, time_s: head.time_s() };
    let logs = outcome::batches(chain.wallet, receipt.inner.logs());
    let found = match logs.get(&(agent, nonce)) {
        Some(part) => part.item(index, payment.amount),
        None if outcome::approved(chain.wallet, &receipt, agent, nonce) => Outcome::Paid,
        None => {
            return Err(EngineError::Encode(format!("nonce {nonce} of {agent} is unexplained")));
        }
    };
    info!(payment = %payment.id, %hash, "relayed by somebody else");
    Ok((found, there))
}

/// Leaves a payment undecided that the chain refused: see [`held`].
async fn hold(
    store: &mut Tx,
    payment: &mut PaymentRow,
    why: Refusal,
    now_ms: i64,
    drafts: &mut Vec<Draft>,
) -> Result<(), EngineError> {
    payment.refusal = Some(why.clone());
    store.advance(payment, Event::Mined, now_ms).await?;
    drafts.push(
        Draft::new(EventKind::PaymentSkipped, "chain")
            .agent(&payment.agent)
            .payment(payment.id)
            .tx(payment.tx_id.as_deref().unwrap_or_default())
            .data(json!({ "refusal": why, "tries": payment.tries, "held": true })),
    );
    Ok(())
}

/// Writes that payments were paid.
async fn paid(
    store: &mut Tx,
    payments: &mut [PaymentRow],
    now_ms: i64,
    drafts: &mut Vec<Draft>,
) -> Result<(), EngineError> {
    let moved = store.advance_all(payments, Event::Settled, now_ms).await?;
    if moved != payments.len() as u64 {
        let why = format!("{moved} of {} paid payments were on their way", payments.len());
        return Err(EngineError::Encode(why));
    }
    store.post(payments, now_ms).await?;
    store.outbox("payment.finalized", payments, now_ms).await?;
    for payment in payments {
        drafts.push(
            Draft::new(EventKind::PaymentFinalized, "chain")
                .agent(&payment.agent)
                .payment(payment.id)
                .tx(payment.tx_id.as_deref().unwrap_or_default())
                .data(json!({
                    "tx": payment.tx_hash, "block": payment.block,
                    "payee": payment.payee, "amount": payment.amount,
                })),
        );
    }
    Ok(())
}

/// Writes why a payment was not paid.
async fn unpaid(
    store: &mut Tx,
    payment: &mut PaymentRow,
    outcome: Outcome,
    now_ms: i64,
    drafts: &mut Vec<Draft>,
) -> Result<(), EngineError> {
    match outcome {
        Outcome::Never(why) => give_up(store, payment, why, now_ms, drafts).await?,
        Outcome::Again(why) if payment.tries + 1 >= TRIES || payment.overrides != 0 => {
            give_up(store, payment, why, now_ms, drafts).await?;
        }
        Outcome::Again(why) => {
            let reference = payment.tx_id.take().unwrap_or_default();
            payment.tries += 1;
            let pause = why.retry_after.unwrap_or(1 << payment.tries.min(6));
            payment.not_before_ms = now_ms + crate::intake::seconds(pause);
            payment.refusal = Some(why.clone());
            payment.item = None;
            payment.tx_hash = None;
            payment.block = None;
            payment.block_time_s = None;
            store.advance(payment, Event::Skipped, now_ms).await?;
            drafts.push(
                Draft::new(EventKind::PaymentSkipped, "chain")
                    .agent(&payment.agent)
                    .payment(payment.id)
                    .tx(&reference)
                    .data(json!({ "refusal": why, "tries": payment.tries })),
            );
        }
        Outcome::Paid | Outcome::Elsewhere => {
            return Err(EngineError::Encode(format!("{} is not resolved", payment.id)));
        }
    }
    Ok(())
}
