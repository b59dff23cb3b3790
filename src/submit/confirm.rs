//! Confirm: heads and receipts, and the end of a transaction at depth.
//!
//! A receipt counts only while its block is the chain's block of that number, and decides only at
//! depth. Absence decides nothing. What a final receipt says is written in one commit: payments,
//! ledger, audit, outbox.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::Duration,
};

use alloy::{
    primitives::{B256, U256},
    rpc::types::TransactionReceipt,
};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, error, info, warn};

use super::{
    Flight, Manifest, Outgoing,
    assign::give_up,
    fate::{self, Fate, Funded, Place, Signed},
    outcome::{self, BatchLogs, Outcome, Reason},
    prepare,
};
use crate::{
    audit::{Draft, EventKind},
    crash::{self, Point},
    engine::{EngineError, Inner, Stop},
    escrow, facilitator, governance,
    money::Usdc,
    outcome::SendClass,
    payment::{Event, FundsMoved, State},
    pulse,
    refusal::{Code, Refusal},
    rpc::{At, Head, RpcError},
    store::{OpenTx, PaymentRow, StoreError, Tx, Word},
};

/// Transactions that may fail a payment before it is given up.
const TRIES: u32 = 8;

/// Longest pause after a look at the chain that failed.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How long a head below the newest one counts as a node that is behind.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs until told to stop.
pub(crate) async fn run(inner: Arc<Inner>, stop: Stop) {
    let mut tick = interval(inner.config.poll());
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen: Option<Head> = None;
    let mut faults = 0_u32;
    loop {
        pulse::rest();
        tokio::select! {
            () = stop.asked() => return,
            _ = tick.tick() => {}
        }
        pulse::work();
        match look(&inner, &mut seen).await {
            Ok(()) => {
                faults = 0;
                inner.set_chain_reached(true);
            }
            // Said where it was found; what is left is looked at with the next tick.
            Err(EngineError::NotOurs(_)) => {}
            Err(error) => {
                inner.set_chain_reached(false);
                warn!(%error, "the chain could not be read; trying again");
                // A node that is out of order or limits us is not asked at the same pace.
                let pause = inner.config.poll().saturating_mul(1 << faults.min(16));
                faults = faults.saturating_add(1);
                tick.reset_after(pause.min(LONGEST_PAUSE).max(inner.config.poll()));
            }
        }
    }
}

/// One look at the newest head. `seen` moves only when everything up to it is done.
pub(crate) async fn look(inner: &Inner, seen: &mut Option<Head>) -> Result<(), EngineError> {
    let head = match inner.rpc.latest().await {
        Ok(head) => head,
        Err(error) => {
            let is_wrong = matches!(error, RpcError::WrongChain { .. });
            inner.wrong_chain.fetch_or(is_wrong, Ordering::Relaxed);
            return Err(error.into());
        }
    };
    inner.wrong_chain.store(false, Ordering::Relaxed);
    if is_behind(inner, &head) {
        inner.rpc.turn();
        return Ok(());
    }
    inner.set_head(head);
    if inner.leases.has_adopted() {
        // What a relayer brought with it was not there when this head was looked at.
        *seen = None;
    }
    if seen.as_ref() == Some(&head) {
        return Ok(());
    }
    let last = last_final(inner, &head).await?;
    // Neither holds up the other: a node that refuses one kind of question may answer the other.
    let policy = match &last {
        // Policy events count when they are final, like payments: a reorganisation takes none back.
        Some(last) => governance::follow(inner, last).await,
        None => Ok(()),
    };
    let booked = receipts(inner, head, last).await;
    // After the payments: an escrow's money is booked in before it is booked out.
    let escrows = match (&booked, &last) {
        // Nor while a restored store's payments may still be booked.
        (Ok(()), Some(last)) if !inner.is_settling() => escrow::follow::follow(inner, last).await,
        _ => Ok(()),
    };
    booked?;
    inner.set_booked(head);
    escrows?;
    policy?;
    *seen = Some(head);
    Ok(())
}

/// Is a node behind what is known? Blocks do not get fewer, or not for long.
fn is_behind(inner: &Inner, head: &Head) -> bool {
    let newest = inner.height();
    let mut since = inner.behind_since.lock().unwrap_or_else(PoisonError::into_inner);
    if head.height() >= newest {
        *since = None;
        return false;
    }
    let now = inner.clock.steady();
    let first = since.is_none();
    let patient = now.saturating_sub(*since.get_or_insert(now)) < PATIENCE;
    if first {
        debug!(head = head.height(), newest, "the node is behind: asking another one");
    } else if !patient {
        warn!(head = head.height(), newest, "every node is behind: going on from there");
        *since = None;
    }
    patient
}

/// Reads the newest block that is final under `head`.
pub(crate) async fn last_final(inner: &Inner, head: &Head) -> Result<Option<Head>, EngineError> {
    match (head.height() + 1).checked_sub(confirmations(inner)) {
        Some(number) if number == head.height() => Ok(Some(*head)),
        Some(number) => {
            let heads = inner.rpc.heads_under(head, &[number]).await?;
            Ok(heads.into_iter().flatten().next())
        }
        None => Ok(None),
    }
}

fn confirmations(inner: &Inner) -> u64 {
    inner.config.chain.confirmations
}

async fn receipts(inner: &Inner, head: Head, last: Option<Head>) -> Result<(), EngineError> {
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
        .receipts(&head, &hashes)
        .await?
        .into_iter()
        .flatten()
        .map(|receipt| (receipt.transaction_hash, receipt))
        .collect();
    let mut numbers: Vec<u64> = found.values().filter_map(|receipt| receipt.block_number).collect();
    // Where a receipt is missing: is its block still there?
    numbers.extend(flights.iter().filter_map(|flight| flight.open.tx.block));
    numbers.sort_unstable();
    numbers.dedup();
    let blocks: HashMap<u64, Head> = inner
        .rpc
        .heads_under(&head, &numbers)
        .await?
        .into_iter()
        .flatten()
        .map(|block| (block.height(), block))
        .collect();

    let mut fault = None;
    for flight in flights {
        let mined = flight.open.attempts.iter().find_map(|attempt| {
            let receipt = found.get(&attempt.hash)?;
            let block = blocks.get(&receipt.block_number?)?;
            // A receipt of a block that is not on this chain is no receipt.
            (receipt.block_hash == Some(block.hash)).then_some((receipt, block))
        });
        let depth = mined.map(|(_, block)| (head.height() + 1).saturating_sub(block.height()));
        let step = match (mined, depth, &last) {
            (Some((receipt, block)), Some(depth), Some(last)) if depth >= confirmations(inner) => {
                let mined = Mined { hash: receipt.transaction_hash, block, receipt: Some(receipt) };
                finish(inner, &flight, &mined, last).await
            }
            // Where it stood at the last look: nothing to note.
            (Some((_, block)), ..) if flight.open.tx.block == Some(block.height()) => {
                inner.flights.update(&flight.open.tx, |known| known.place = Some(block.hash));
                Ok(())
            }
            (Some((receipt, block)), ..) => {
                place(inner, &flight.open, Some((receipt.transaction_hash, block))).await
            }
            (None, _, Some(last))
                if flight.answer == Some(Err(SendClass::NonceTooLow))
                    && (flight.waiting || flight.open.tx.block.is_none()) =>
            {
                displaced(inner, &flight, last).await
            }
            _ if fell_out(&flight, &blocks) => {
                warn!(tx = flight.open.tx.id, "its block fell out of the chain: sending again");
                place(inner, &flight.open, None).await
            }
            _ => Ok(()),
        };
        // One that cannot be booked holds up no other.
        if let Err(error) = step {
            if matches!(error, EngineError::NotOurs(_)) {
                fault.get_or_insert(error);
                continue;
            }
            error!(%error, tx = flight.open.tx.id, "a transaction could not be booked; trying again");
            fault = Some(error);
        }
    }
    fault.map_or(Ok(()), Err)
}

/// Did the block that a transaction stood in lose its place to another one? That a node has no
/// receipt, or not that block, proves nothing.
fn fell_out(flight: &Flight, blocks: &HashMap<u64, Head>) -> bool {
    let block = flight.open.tx.block.and_then(|number| blocks.get(&number));
    block.is_some_and(|block| flight.place != Some(block.hash))
}

/// Notes the block a transaction stands in, or that it lost it.
async fn place(inner: &Inner, open: &OpenTx, at: Option<(B256, &Head)>) -> Result<(), EngineError> {
    let now_ms = inner.clock.now_ms();
    let mut store = inner.begin_as(open.tx.sender).await?;
    store.place_tx(&open.tx.id, at.map(|(_, block)| block.height())).await?;
    match at {
        Some((hash, block)) => {
            store.mark_included(&open.tx.id, hash, block.height(), now_ms).await?;
        }
        None => {
            store.mark_reorganised(&open.tx.id, now_ms).await?;
            let draft = Draft::new(EventKind::PaymentReorganised, "chain").tx(&open.tx.id);
            store.append_audit(&[draft], now_ms).await?;
        }
    }
    store.commit().await?;
    crash::at(Point::PlaceCommitted);
    inner.flights.update(&open.tx, |flight| {
        flight.open.tx.block = at.map(|(_, block)| block.height());
        flight.place = at.map(|(_, block)| block.hash);
        flight.last_sent = None;
    });
    inner.facilitator.landed.notify_waiters();
    if at.is_none() {
        inner.signed.notify_one();
    }
    Ok(())
}

/// What a commit changed in the windows, applied to the book after it.
#[derive(Default)]
struct Booked {
    settled: Vec<PaymentRow>,
    voided: Vec<PaymentRow>,
}

/// A transaction's end on the chain.
struct Mined<'a> {
    hash: B256,
    block: &'a Head,
    /// `None`: its nonce was spent by bytes that are not in the store.
    receipt: Option<&'a TransactionReceipt>,
}

/// Ends a transaction whose nonce was spent, in a final block, by bytes that are not in the store:
/// a store restored from a backup, or a relayer's key used elsewhere. What those bytes did is not
/// known here, but the contract knows of each nonce that an agent signed.
async fn displaced(inner: &Inner, flight: &Flight, last: &Head) -> Result<(), EngineError> {
    let tx = &flight.open.tx;
    let next = inner.rpc.transaction_count(tx.sender, last.into()).await?;
    if next <= tx.nonce {
        return Ok(());
    }
    // Once more, now that somebody has seen it spent.
    let ours: Vec<B256> = flight.open.attempts.iter().map(|attempt| attempt.hash).collect();
    if inner.rpc.receipts(last, &ours).await?.iter().any(Option::is_some) {
        return Ok(());
    }
    error!(tx = tx.id, sender = %tx.sender, nonce = tx.nonce,
        "another transaction took its nonce: is the relayer's key used elsewhere?");
    let mut store = inner.begin_as(tx.sender).await?;
    store.raise_nonce(&tx.sender.to_string(), next).await?;
    store.commit().await?;
    let hash = flight.open.attempts.last().map(|attempt| attempt.hash).unwrap_or_default();
    finish(inner, flight, &Mined { hash, block: last, receipt: None }, last).await
}

/// Books a final transaction in one commit: whole, or, where something it carried can still run,
/// the part whose end is known.
async fn finish(
    inner: &Inner,
    flight: &Flight,
    mined: &Mined<'_>,
    last: &Head,
) -> Result<(), EngineError> {
    let (open, block) = (&flight.open, mined.block);
    let gas_used = mined.receipt.map_or(0, |receipt| receipt.gas_used);
    let manifest: Manifest = serde_json::from_str(&open.tx.manifest)
        .map_err(|error| EngineError::Encode(format!("manifest of {}: {error}", open.tx.id)))?;
    let mut payments = inner.store.payments_of_tx(&open.tx.id).await?;
    payments.retain(|payment| {
        matches!(payment.state, State::Signed | State::Broadcast | State::Included)
    });
    let fates = fates(inner, open, &manifest, mined, last).await?;
    let (mut known, mut waiting) = (Vec::new(), Vec::new());
    for payment in payments {
        match fates.of(&payment)? {
            Some(end) => known.push((payment, end)),
            None => waiting.push(payment),
        }
    }
    if !waiting.is_empty() && known.is_empty() && flight.waiting {
        return Ok(());
    }

    let ready = governance::still_waits(inner, &manifest, mined.receipt).await?;
    let why = escrow::act::why(inner, open, &manifest, mined.receipt, block).await;
    let settlement = facilitator::ended(inner, &manifest, mined.receipt, last).await?;
    crash::at(Point::FinishRead);
    let now_ms = inner.clock.now_ms();
    let mut store = inner.begin_as(open.tx.sender).await?;
    let ended = waiting.is_empty();
    if ended && !store.finish_tx(&open.tx.id, block.height(), gas_used).await? {
        inner.flights.remove(&open.tx);
        return Ok(());
    }
    let mut drafts = Vec::new();
    let mut booked = Booked::default();
    store.place_tx(&open.tx.id, Some(block.height())).await?;
    store.mark_included(&open.tx.id, mined.hash, block.height(), now_ms).await?;
    for (mut payment, (outcome, place)) in known {
        payment.state = State::Included;
        payment.tx_hash = Some(place.hash);
        payment.block = Some(place.block);
        payment.block_time_s = Some(place.time_s);
        if outcome == Outcome::Paid {
            payment.refusal = None;
            booked.settled.push(payment);
            continue;
        }
        unpaid(&mut store, &mut payment, outcome, now_ms, &mut drafts).await?;
        if payment.state == State::Failed {
            booked.voided.push(payment);
        }
    }
    if !flight.waiting {
        for payment in &mut waiting {
            let why = fates.why(payment);
            hold(&mut store, payment, why, now_ms, &mut drafts).await?;
        }
    }
    paid(&mut store, &mut booked.settled, now_ms, &mut drafts).await?;
    let (mut changed, mut again) = (false, None);
    match (mined.receipt, &manifest) {
        (Some(receipt), _) if ended => {
            changed =
                governance::finished(&mut store, &manifest, receipt, ready, &mut drafts).await?;
            if let Manifest::Escrow { action } = &manifest {
                escrow::act::finished(&mut store, action, receipt, why, now_ms, &mut drafts)
                    .await?;
            }
        }
        // The contracts take each of these once: it can be sent again.
        (
            None,
            Manifest::Proposal { .. }
            | Manifest::Tighten { .. }
            | Manifest::Escrow { .. }
            | Manifest::Settlement { .. },
        ) => {
            let call = Outgoing {
                kind: open.tx.kind,
                target: open.tx.target,
                calldata: open.tx.calldata.clone(),
                gas: open.tx.gas,
                manifest: manifest.clone(),
            };
            let next = prepare(inner, &mut store, open.tx.sender, call).await?;
            facilitator::moved(&mut store, &manifest, &next, now_ms).await?;
            again = Some(next);
        }
        _ => {}
    }
    if let Some(ending) = settlement {
        ending.write(inner, &mut store, &open.tx, now_ms, &mut drafts).await?;
    }
    // The contract counted each part of an escrow against its own payee: its records say so.
    let shared_out = booked.settled.iter().any(|payment| payment.escrow.is_some());
    if shared_out {
        store.say(Word::Policy { block: block.height() });
    }
    store.append_audit(&drafts, now_ms).await?;
    store.commit().await?;
    crash::at(Point::FinishCommitted);
    inner.facilitator.landed.notify_waiters();

    if ended {
        inner.flights.remove(&open.tx);
        inner.metrics.gas_used.inc_by(gas_used);
    } else {
        info!(
            tx = open.tx.id,
            waiting = waiting.len(),
            "final, but what it carried can still be relayed: waiting"
        );
        inner.flights.update(&open.tx, |flight| {
            flight.waiting = true;
            flight.open.tx.block = Some(block.height());
            flight.place = mined.receipt.map(|_| block.hash);
        });
    }
    {
        let mut book = inner.book();
        for payment in &booked.settled {
            book.settle(&payment.agent, &payment.facts(), payment.paid_in());
            inner.metrics.paid.inc();
            inner.metrics.observe_final(now_ms - payment.created_ms);
        }
        for payment in &booked.voided {
            book.void(&payment.agent, &payment.facts());
            inner.metrics.failed.inc();
        }
    }
    if shared_out {
        inner.read_policy_again(block.height());
    }
    if let Some(again) = again {
        inner.launch(again);
    }
    // A sender has room again, and a payment may be queued again.
    inner.queued.notify_one();
    if changed {
        governance::reload(inner).await?;
    }
    debug!(tx = open.tx.id, paid = booked.settled.len(), "booked");
    Ok(())
}

/// What became of the batches of a transaction, in their order.
struct Fates {
    list: Vec<(Fate, Signed)>,
    here: Place,
    /// Why this transaction did not pay what it did not pay.
    reasons: Vec<Outcome>,
}

impl Fates {
    /// Returns how a payment ended and where; `None` while its signature can still run.
    fn of(&self, payment: &PaymentRow) -> Result<Option<(Outcome, Place)>, EngineError> {
        let missing =
            || EngineError::Encode(format!("{} has no place in its transaction", payment.id));
        let item = payment.item.ok_or_else(missing)?;
        let index = item.batch as usize;
        let (fate, signed) = self.list.get(index).ok_or_else(missing)?;
        let reason = || self.reasons.get(index).cloned().ok_or_else(missing);
        Ok(match fate {
            Fate::Ran(logs, place) => Some((logs.item(item.item.into(), payment.amount), *place)),
            Fate::Voided => {
                let why = Refusal::new(Code::Conflict, "an operator voided its signature")
                    .hint("ask again under a new Idempotency-Key if it should be paid");
                Some((Outcome::Never(why), self.here))
            }
            Fate::Dead if signed.approved => Some((reason()?.for_good(), self.here)),
            Fate::Dead => Some((reason()?, self.here)),
            // What operators approved is sent again under the very same signatures: the contract
            // pays it once. Under another policy version it can never run again.
            Fate::Live if signed.approved => Some((reason()?.while_live(), self.here)),
            Fate::Live => None,
        })
    }
}

impl Fates {
    /// Says why our transaction did not pay a payment.
    fn why(&self, payment: &PaymentRow) -> Option<Refusal> {
        match self.reasons.get(payment.item?.batch as usize)? {
            Outcome::Again(why) | Outcome::Late(why) | Outcome::Never(why) | Outcome::Dead(why) => {
                Some(why.clone())
            }
            Outcome::Paid => None,
        }
    }
}

async fn fates(
    inner: &Inner,
    open: &OpenTx,
    manifest: &Manifest,
    mined: &Mined<'_>,
    last: &Head,
) -> Result<Fates, EngineError> {
    let wallet = inner.config.chain.wallet;
    let here =
        Place { hash: mined.hash, block: mined.block.height(), time_s: mined.block.time_s() };
    let mut fates = Fates { list: Vec::new(), here, reasons: Vec::new() };
    let signed: Vec<Signed> = match manifest {
        Manifest::Batches(batches) => batches
            .iter()
            .map(|batch| Signed {
                agent: batch.agent,
                nonce: batch.nonce,
                deadline_s: batch.deadline_s,
                context: batch.context,
                since: batch.since,
                approved: false,
                funded: None,
            })
            .collect(),
        Manifest::Approved { payment, agent, nonce, deadline_s } => {
            let row = inner
                .store
                .payment(*payment)
                .await?
                .ok_or_else(|| EngineError::Encode(format!("{payment} is not in the store")))?;
            // It may have left in an earlier transaction: the search starts at the wallet's birth.
            let since = inner.config.chain.from_block;
            vec![Signed {
                agent: *agent,
                nonce: *nonce,
                deadline_s: *deadline_s,
                context: row.context_hash,
                since,
                approved: true,
                funded: Funded::of(&row),
            }]
        }
        Manifest::Proposal { .. }
        | Manifest::Tighten { .. }
        | Manifest::Escrow { .. }
        | Manifest::Settlement { .. }
        | Manifest::Cancel
        | Manifest::Claim { .. }
        | Manifest::Closing { .. } => return Ok(fates),
    };
    let logs = mined
        .receipt
        .map(|receipt| outcome::batches(wallet, receipt.inner.logs()))
        .unwrap_or_default();
    let mut revert = None;
    for (index, signed) in signed.into_iter().enumerate() {
        let fate = fate::of(inner, &signed, mined.receipt, here, last).await?;
        let reason = match (&fate, logs.get(&(signed.agent, signed.nonce))) {
            (Fate::Ran(logs, _), _) => {
                whole(manifest, index, logs)?;
                Outcome::Paid
            }
            (_, Some(BatchLogs { refused: Some(selector), .. })) => {
                outcome::judge(Reason { selector: *selector, left: U256::ZERO }, Usdc::ZERO)
            }
            // The call reverted: that says nothing against any single payment of a batch.
            _ => {
                if revert.is_none() {
                    revert = Some(match mined.receipt {
                        Some(_) => reverted(inner, open, mined.block).await?,
                        None => Outcome::Again(Refusal::new(
                            Code::Unavailable,
                            "another transaction of the relayer took its nonce",
                        )),
                    });
                }
                match revert.clone().unwrap_or_else(unexplained) {
                    Outcome::Never(why) | Outcome::Dead(why) if !signed.approved => {
                        Outcome::Again(why)
                    }
                    other => other,
                }
            }
        };
        fates.list.push((fate, signed));
        fates.reasons.push(reason);
    }
    Ok(fates)
}

/// The contract and we must agree on how many items a batch had: nobody guesses with money.
fn whole(manifest: &Manifest, index: usize, logs: &BatchLogs) -> Result<(), EngineError> {
    let Manifest::Batches(batches) = manifest else { return Ok(()) };
    let asked = batches.get(index).map_or(0, |batch| u64::from(batch.items));
    let (paid, skipped) = (logs.ran.map_or(0, |(count, _)| count), logs.skipped.len() as u64);
    if paid + skipped == asked {
        return Ok(());
    }
    Err(EngineError::Encode(format!("a batch paid {paid} and skipped {skipped} of {asked} items")))
}

fn unexplained() -> Outcome {
    Outcome::Again(Refusal::new(Code::Unavailable, "the transaction did not pay it"))
}

/// Asks the node why a call reverted, at the block below. The answer steers whether to try again
/// and what is told; that nothing was paid is known from the nonce.
async fn reverted(inner: &Inner, open: &OpenTx, block: &Head) -> Result<Outcome, EngineError> {
    let at = block.height().saturating_sub(1);
    let answer = inner
        .rpc
        .eth_call(open.tx.target, Some(open.tx.sender), &open.tx.calldata, At::Number(at))
        .await;
    Ok(match answer {
        Err(RpcError::Refused { data, message, .. }) => {
            match outcome::revert_reason(data.as_deref()) {
                Some(reason) => outcome::judge(reason, Usdc::ZERO),
                None => Outcome::Again(Refusal::new(
                    Code::Unavailable,
                    format!("the transaction reverted: {message}"),
                )),
            }
        }
        Ok(_) | Err(_) => unexplained(),
    })
}

/// Writes that payments were paid.
pub(crate) async fn paid(
    store: &mut Tx,
    payments: &mut [PaymentRow],
    now_ms: i64,
    drafts: &mut Vec<Draft>,
) -> Result<(), StoreError> {
    let moved = store.advance_all(payments, Event::Settled, now_ms).await?;
    if moved != payments.len() as u64 {
        let why = format!("{moved} of {} paid payments were on their way", payments.len());
        return Err(StoreError::corrupt("payment.state", why));
    }
    store.post(payments, now_ms).await?;
    store.tell_end(EventKind::PaymentFinalized, payments, now_ms).await?;
    for payment in payments {
        let draft = Draft::new(EventKind::PaymentFinalized, "chain")
            .agent(&payment.agent)
            .payment(payment.id)
            .data(json!({
                "tx": payment.tx_hash, "block": payment.block,
                "payee": payment.payee, "amount": payment.amount,
            }));
        // What was found on the chain was carried by nothing in this store.
        drafts.push(match payment.tx_id.as_deref() {
            Some(id) => draft.tx(id),
            None => draft,
        });
    }
    Ok(())
}

/// Writes why a payment waits: refused here, but its signature is good until its deadline.
async fn hold(
    store: &mut Tx,
    payment: &mut PaymentRow,
    why: Option<Refusal>,
    now_ms: i64,
    drafts: &mut Vec<Draft>,
) -> Result<(), EngineError> {
    let mut why = why.unwrap_or_else(|| Refusal::new(Code::Unavailable, "it was not paid"));
    why.funds_moved = FundsMoved::Maybe;
    payment.state = State::Included;
    payment.refusal = Some(why.clone());
    store.advance(payment, Event::Mined, now_ms).await?;
    drafts.push(
        Draft::new(EventKind::PaymentSkipped, "chain")
            .agent(&payment.agent)
            .payment(payment.id)
            .tx(payment.tx_id.as_deref().unwrap_or_default())
            .data(json!({ "refusal": why, "held": "until its signature is used or dead" })),
    );
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
    // Late is nobody's fault but the queue's; a payment with signatures of its own was out once.
    let counts = !matches!(outcome, Outcome::Late(_)) || payment.has_own_door();
    match outcome {
        Outcome::Never(why) | Outcome::Dead(why) => {
            give_up(store, payment, why, now_ms, drafts).await?;
        }
        // What is signed once is tried until its deadline, which alone ends it.
        Outcome::Again(why) if payment.tries + 1 >= TRIES && !payment.has_own_door() => {
            give_up(store, payment, why, now_ms, drafts).await?;
        }
        Outcome::Again(why) | Outcome::Late(why) => {
            let reference = payment.tx_id.take().unwrap_or_default();
            payment.tries += u32::from(counts);
            let pause = why.retry_after.unwrap_or(1 << payment.tries.min(6));
            payment.not_before_ms = now_ms + crate::intake::seconds(pause);
            payment.refusal = Some(why.clone());
            payment.item = None;
            payment.tx_hash = None;
            payment.block = None;
            payment.block_time_s = None;
            if !store.advance(payment, Event::Skipped, now_ms).await? {
                return Err(EngineError::Encode(format!("{} has moved on", payment.id)));
            }
            drafts.push(
                Draft::new(EventKind::PaymentSkipped, "chain")
                    .agent(&payment.agent)
                    .payment(payment.id)
                    .tx(&reference)
                    .data(json!({ "refusal": why, "tries": payment.tries })),
            );
        }
        Outcome::Paid => {
            return Err(EngineError::Encode(format!("{} is not resolved", payment.id)));
        }
    }
    Ok(())
}
