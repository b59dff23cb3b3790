//! Broadcast: stored bytes go out, again and again until the chain has the nonce; nothing else
//! ever does. What a node answers steers when to send next, and never ends a payment.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alloy::primitives::{Address, Bytes};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use super::{Flight, Manifest, Outgoing, prepare_at, sign};
use crate::{
    audit::{Draft, EventKind},
    crash::{self, Point},
    engine::{EngineError, Inner, Stop},
    fees::{self, Bump, Fees},
    lease,
    outcome::{SendClass, classify},
    pulse,
    rpc::RpcError,
    store::{AttemptRow, TxKind},
    view::WaitKind,
};

/// Gas of a transfer of ether.
const GAS_TRANSFER: u64 = 21_000;
/// Seconds between two higher offers to a node that wants more, at most: about a block.
const BUMP_PAUSE_S: u64 = 5;

/// Runs until told to stop.
pub(crate) async fn run(inner: Arc<Inner>, stop: Stop) {
    let mut tick = interval(Duration::from_millis(500));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pulse::rest();
        tokio::select! {
            () = stop.asked() => return,
            () = inner.signed.notified() => {}
            _ = tick.tick() => {}
        }
        pulse::work();
        round(&inner).await;
    }
}

/// Sends what is due: the senders side by side, each sender's nonces in order.
async fn round(inner: &Arc<Inner>) {
    let mut senders = JoinSet::new();
    for flights in due(inner).into_values() {
        let inner = Arc::clone(inner);
        senders.spawn(pulse::shared(async move { in_order(&inner, flights).await }));
    }
    while let Some(sent) = senders.join_next().await {
        // A sender that panicked is never served again: the daemon must end, not limp.
        if let Err(fault) = sent
            && let Ok(panic) = fault.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Finds what is due: each sender's transactions, by nonce.
pub(crate) fn due(inner: &Inner) -> BTreeMap<Address, Vec<Flight>> {
    let mut due: BTreeMap<Address, Vec<Flight>> = BTreeMap::new();
    for flight in inner.flights.all() {
        if is_due(inner, &flight) {
            due.entry(flight.open.tx.sender).or_default().push(flight);
        }
    }
    due
}

/// Sends one sender's transactions. What cannot be stored holds up those behind it.
pub(crate) async fn in_order(inner: &Inner, flights: Vec<Flight>) {
    for flight in flights {
        match send(inner, flight).await {
            Ok(()) => {}
            // Whoever has the lease sends it.
            Err(EngineError::NotOurs(_)) => return,
            Err(error) => {
                warn!(%error, "a transaction could not be sent; trying again");
                return;
            }
        }
    }
}

fn is_due(inner: &Inner, flight: &Flight) -> bool {
    if flight.open.tx.block.is_some() {
        return false;
    }
    let Some(last) = flight.last_sent else { return true };
    let settings = &inner.config.submit;
    // Back off on a node that has no room or no answer: 1, 2, 4 … seconds up to the resend time.
    let resend = Duration::from_secs(settings.resend_after_s.max(1));
    let pause = match flight.answer {
        Some(Ok(()) | Err(SendClass::AlreadyKnown | SendClass::NonceTooLow)) => resend,
        Some(Err(class)) if class.wants_higher_fees() => Duration::from_secs(1),
        _ => Duration::from_secs(1 << flight.sends.min(6)).min(resend),
    };
    inner.clock.steady().saturating_sub(last) >= pause
}

async fn send(inner: &Inner, mut flight: Flight) -> Result<(), EngineError> {
    if let Some(attempt) = replacement(inner, &flight)? {
        let mut store = inner.begin_as(flight.open.tx.sender).await?;
        store.insert_attempt(&attempt).await?;
        let draft =
            Draft::new(EventKind::PaymentReplaced, "daemon").tx(&flight.open.tx.id).data(json!({
                "hash": attempt.hash, "max_fee": attempt.max_fee.to_string(),
                "tip": attempt.tip.to_string(),
            }));
        store.append_audit(&[draft], inner.clock.now_ms()).await?;
        store.commit().await?;
        crash::at(Point::BumpCommitted);
        info!(tx = flight.open.tx.id, hash = %attempt.hash, "replaced with higher fees");
        flight.open.attempts.push(attempt.clone());
        inner.flights.update(&flight.open.tx, |known| known.open.attempts.push(attempt));
    }
    let Some(attempt) = flight.open.attempts.last() else { return Ok(()) };
    if !inner.may_send(flight.open.tx.sender) {
        return Err(EngineError::NotOurs(lease::relayer(flight.open.tx.sender)));
    }
    let (answer, words) = hand_over(inner, attempt, flight.sends as usize).await;
    crash::at(Point::SendAnswered);
    if flight.open.attempts.len() > 1 {
        crash::at(Point::BumpAnswered);
    }
    inner.metrics.sends.get_or_create(&answer.into()).inc();
    let first = flight.sends == 0;
    inner.flights.update(&flight.open.tx, |known| {
        known.last_sent = Some(inner.clock.steady());
        known.sends = known.sends.saturating_add(1);
        known.answer = Some(answer);
    });
    let has_it = matches!(answer, Ok(()) | Err(SendClass::AlreadyKnown));
    let is_gap = answer == Err(SendClass::NonceTooHigh);
    // A node that queues gaps does not say so: what it has and does not mine may wait behind one.
    let (sender, nonce) = (flight.open.tx.sender, flight.open.tx.nonce);
    if is_gap || (has_it && flight.sends > 0 && !inner.flights.is_behind(sender, nonce)) {
        heal(inner, &flight).await?;
    }
    if let Err(class) = answer
        && !has_it
        && class != SendClass::NonceTooLow
    {
        warn!(tx = flight.open.tx.id, class = class.as_str(), words, "the node did not take it");
    }
    if first || !has_it {
        let now_ms = inner.clock.now_ms();
        let mut store = inner.begin_as(flight.open.tx.sender).await?;
        // Whatever the answer was, the bytes have left: only the chain can say now.
        store.mark_sent(&flight.open.tx.id, attempt.hash, now_ms).await?;
        store.note_answer(attempt.hash, &words).await?;
        if first {
            let draft = Draft::new(EventKind::PaymentBroadcast, "daemon")
                .tx(&flight.open.tx.id)
                .data(json!({ "hash": attempt.hash, "answer": words }));
            store.append_audit(&[draft], now_ms).await?;
        }
        store.commit().await?;
    }
    Ok(())
}

/// Sees to it that the nonces below are used: by what is on its way, else by what was final and
/// fell out of the chain deeper than anybody thought.
async fn heal(inner: &Inner, flight: &Flight) -> Result<(), EngineError> {
    let (sender, nonce) = (flight.open.tx.sender, flight.open.tx.nonce);
    if inner.flights.resend_below(sender, nonce) {
        inner.signed.notify_one();
        return Ok(());
    }
    // A node that cannot say has said nothing.
    let Ok(next) = inner.rpc.transaction_count(sender, inner.newest()).await else {
        return Ok(());
    };
    let missing = inner.store.attempts_between(sender, next, nonce).await?;
    if next < nonce {
        warn!(%sender, next, nonce, stored = missing.len(), "nonces are missing: sending them again");
    }
    for attempt in &missing {
        let (answer, _) = hand_over(inner, attempt, flight.sends as usize).await;
        inner.metrics.sends.get_or_create(&answer.into()).inc();
    }
    fill(inner, sender, next, nonce).await
}

/// Uses up the relayer's nonces from `next` to below `nonce` that no stored transaction has, each by a
/// transfer of nothing to itself: what comes after them would wait for ever. The counter can be ahead
/// of what was signed where a node showed blocks that fell out again, or after a restored backup. If
/// the key did sign for such a nonce, the chain takes one of the two; that pays nothing twice.
async fn fill(inner: &Inner, sender: Address, next: u64, nonce: u64) -> Result<(), EngineError> {
    if next >= nonce || !inner.may_sign() {
        return Ok(());
    }
    let mut store = inner.begin_as(sender).await?;
    let mut made = Vec::new();
    let mut drafts = Vec::new();
    for nonce in store.unused_nonces(sender, next, nonce).await? {
        let call = Outgoing {
            kind: TxKind::Cancel,
            target: sender,
            calldata: Bytes::new(),
            gas: GAS_TRANSFER,
            manifest: Manifest::Cancel,
        };
        let open = prepare_at(inner, &mut store, (sender, nonce), call).await?;
        let hash = open.attempts.first().map(|attempt| attempt.hash);
        let data = json!({ "sender": sender, "nonce": nonce, "hash": hash });
        drafts.push(Draft::new(EventKind::RelayerGapFilled, "daemon").tx(&open.tx.id).data(data));
        made.push(open);
    }
    if made.is_empty() {
        return Ok(());
    }
    store.append_audit(&drafts, inner.clock.now_ms()).await?;
    store.commit().await?;
    warn!(%sender, nonces = made.len(), "nonces that nothing was signed for are used up");
    for open in made {
        inner.launch(open);
    }
    Ok(())
}

/// Hands stored bytes to the node. The only place that sends.
async fn hand_over(
    inner: &Inner,
    attempt: &AttemptRow,
    turns: usize,
) -> (Result<(), SendClass>, String) {
    match inner.rpc.send_raw(&attempt.raw, turns).await {
        Ok(hash) if hash == attempt.hash => (Ok(()), "accepted".into()),
        Ok(hash) => (Err(SendClass::Unknown), format!("answered with a foreign hash {hash}")),
        Err(RpcError::Refused { code, message, .. }) => {
            let class = classify(Some(code), &message);
            (Err(class), message)
        }
        Err(error) => (Err(SendClass::Unknown), error.to_string()),
    }
}

/// Signs a replacement where fees are the trouble: the node said so, or it has the bytes and the
/// chain goes on without them. A node that is silent, short of money or ahead gets no higher offer.
fn replacement(inner: &Inner, flight: &Flight) -> Result<Option<AttemptRow>, EngineError> {
    let (Some(last), Some(answer)) = (flight.open.attempts.last(), flight.answer) else {
        return Ok(None);
    };
    if !inner.may_sign() {
        return Ok(None);
    }
    let age_ms = inner.clock.now_ms() - last.created_ms;
    let ignored = matches!(answer, Ok(()) | Err(SendClass::AlreadyKnown))
        && age_ms >= crate::intake::seconds(inner.config.submit.replace_after_s);
    let pause_s = inner.config.submit.replace_after_s.min(BUMP_PAUSE_S);
    let refused = matches!(answer, Err(class) if class.wants_higher_fees())
        && age_ms >= crate::intake::seconds(pause_s);
    if !(ignored || refused) {
        return Ok(None);
    }
    let Some(fees) = higher(inner, last) else { return Ok(None) };
    let signer = inner.relayer(flight.open.tx.sender)?;
    Ok(Some(sign(inner, &signer, &flight.open.tx, fees)?))
}

/// The next offer after `last`, if both ceilings leave room for one.
fn higher(inner: &Inner, last: &AttemptRow) -> Option<Fees> {
    let previous = Fees { max_fee: last.max_fee, tip: last.tip };
    match fees::replacement(previous, inner.base_fee(), inner.fee_ceiling()) {
        Bump::Fees(fees) if fees.tip <= inner.tip_ceiling() => Some(fees),
        Bump::Fees(_) | Bump::AtCeiling => None,
    }
}

/// What a transaction waits for that sending it again does not change.
pub(crate) fn waits_for(inner: &Inner, flight: &Flight) -> Option<WaitKind> {
    let last = flight.open.attempts.last()?;
    if flight.open.tx.block.is_some() || flight.waiting {
        return None;
    }
    let refused =
        |wanted: fn(SendClass) -> bool| matches!(flight.answer, Some(Err(class)) if wanted(class));
    if refused(|class| class == SendClass::InsufficientFunds) {
        return Some(WaitKind::GasMoney);
    }
    let too_low = last.max_fee < inner.base_fee() || refused(SendClass::wants_higher_fees);
    (too_low && higher(inner, last).is_none()).then_some(WaitKind::LowerFees)
}
