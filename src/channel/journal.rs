//! The journal: many requests' vouchers in one commit. A request waits for its own commit and for
//! no other; while one is being written the next gathers.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::meter::{MeterRow, Unstored};
use crate::{
    audit::{Draft, EventKind},
    engine::{EngineError, Inner, Stop},
    lease,
    money::Usdc,
    pulse,
    refusal::{Code, Refusal},
    store::Earning,
};

/// Changes in one commit at most.
const GROUP: usize = 1_024;
/// Changes that wait at most; beyond it callers are told to come back.
const WAITING: usize = 8_192;

/// One change: a channel's row, what it earned, and what the chain says was claimed since.
struct Entry {
    row: MeterRow,
    earned: Option<Earning>,
    claimed: Usdc,
    /// The keeper's lease under which the row was read.
    fence: u64,
    done: oneshot::Sender<Result<(), Refusal>>,
}

/// Where changes go. Cheap to clone.
#[derive(Clone)]
pub struct Journal(mpsc::Sender<Entry>);

impl Journal {
    /// Makes the two ends.
    #[must_use]
    pub fn new() -> (Self, Writer) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), Writer(receiver))
    }

    /// Makes a row durable; returns it, as it is kept, when it is. Its version is one that was not kept
    /// before: what it books is booked once.
    ///
    /// # Errors
    /// 503 if the store does not take it, too many wait, or another daemon keeps the channels now.
    pub async fn keep(
        &self,
        mut row: MeterRow,
        earned: Option<Earning>,
        fence: u64,
    ) -> Result<MeterRow, Refusal> {
        let (done, kept) = oneshot::channel();
        let claimed = row.chain.claimed.saturating_sub(row.booked);
        row.booked = row.booked.max(row.chain.claimed);
        let entry = Entry { row: row.clone(), earned, claimed, fence, done };
        self.0.try_send(entry).map_err(|_| {
            Refusal::new(Code::Unavailable, "too many vouchers wait to be stored")
                .retry_after(1)
                .hint("send the same request with the same voucher again")
        })?;
        kept.await.unwrap_or_else(|_| {
            Err(Refusal::new(Code::Unavailable, "the daemon is ending")
                .retry_after(5)
                .hint("send the same request with the same voucher again"))
        })?;
        row.unstored = Unstored::Nothing;
        Ok(row)
    }
}

/// The end that writes.
pub struct Writer(mpsc::Receiver<Entry>);

impl Writer {
    /// Writes until told to stop, and then what waits.
    pub(crate) async fn run(mut self, inner: Arc<Inner>, stop: Stop) {
        let mut group = Vec::with_capacity(GROUP);
        loop {
            pulse::rest();
            let taken = tokio::select! {
                taken = self.0.recv_many(&mut group, GROUP) => taken,
                () = stop.asked(), if !self.0.is_closed() => {
                    self.0.close();
                    continue;
                }
            };
            pulse::work();
            if taken == 0 {
                return;
            }
            let fence = inner.held_keeper_fence();
            let (mut now, late): (Vec<Entry>, Vec<Entry>) =
                group.drain(..).partition(|entry| Some(entry.fence) == fence);
            let mut overtaken = Vec::new();
            let mut outcome = write(&inner, &now, fence).await;
            if matches!(outcome, Ok(false)) {
                outcome = match tell_apart(&inner, now).await {
                    Ok((good, bad)) => {
                        (now, overtaken) = (good, bad);
                        write(&inner, &now, fence).await
                    }
                    Err((all, refusal)) => {
                        now = all;
                        Err(refusal)
                    }
                };
            }
            let outcome = outcome.and_then(|kept| if kept { Ok(()) } else { Err(was_changed()) });
            for entry in now {
                // Whoever does not wait any more finds it in the store.
                let _ = entry.done.send(outcome.clone());
            }
            for entry in overtaken {
                let _ = entry.done.send(Err(was_changed()));
            }
            for entry in late {
                let _ = entry.done.send(Err(not_ours()));
            }
        }
    }
}

/// Parts those whose channels are another's in the store from the others, which are then written whole.
async fn tell_apart(
    inner: &Inner,
    group: Vec<Entry>,
) -> Result<(Vec<Entry>, Vec<Entry>), (Vec<Entry>, Refusal)> {
    let rows: Vec<&MeterRow> = group.iter().map(|entry| &entry.row).collect();
    match inner.store.overtaken(&rows).await {
        Ok(overtaken) => {
            warn!(channels = ?overtaken, "what was to be kept of channels is not the store's next");
            let (bad, mut good): (Vec<Entry>, Vec<Entry>) =
                group.into_iter().partition(|entry| overtaken.contains(&entry.row.id));
            for entry in &mut good {
                entry.row.unstored = Unstored::Everything;
            }
            Ok((good, bad))
        }
        Err(error) => Err((group, error.into())),
    }
}

/// One daemon keeps the meters of all: two that each believed their own would both serve one voucher.
/// Answers `false`, and keeps nothing, where a channel is another one in the store.
async fn write(inner: &Inner, group: &[Entry], fence: Option<u64>) -> Result<bool, Refusal> {
    if group.is_empty() {
        return Ok(true);
    }
    let now_ms = inner.clock.now_ms();
    let mut tx = inner.begin_as_keeper().await.map_err(|error| Refusal::from(&error))?;
    // Lost and taken anew since the group was sorted: another daemon may have written between.
    if inner.held_keeper_fence() != fence {
        return Err(not_ours());
    }
    let rows: Vec<&MeterRow> = group.iter().map(|entry| &entry.row).collect();
    if !tx.put_meters(&rows).await? {
        return Ok(false);
    }
    let earned: Vec<&Earning> = group.iter().filter_map(|entry| entry.earned.as_ref()).collect();
    tx.add_earnings(&earned).await?;
    let mut drafts = Vec::new();
    for Entry { row, claimed, .. } in group.iter().filter(|entry| !entry.claimed.is_zero()) {
        let receiver = row.config.receiver;
        let claim = format!("claim:{}:{}", row.id, row.version);
        let wallet = inner.config.chain.wallet;
        tx.book_claimed(&claim, (receiver, wallet), *claimed, now_ms).await?;
        drafts.push(Draft::new(EventKind::ChannelClaimFinalized, "chain").data(json!({
            "channel": row.id, "payer": row.config.payer, "receiver": receiver,
            "amount": claimed, "claimed": row.chain.claimed,
        })));
    }
    if !drafts.is_empty() {
        tx.append_audit(&drafts, now_ms).await?;
    }
    tx.commit().await?;
    let metrics = &inner.metrics;
    metrics.voucher_calls.inc_by(earned.len() as u64);
    metrics.voucher_units.inc_by(earned.iter().map(|earning| earning.amount.units()).sum());
    metrics.voucher_units_claimed.inc_by(group.iter().map(|entry| entry.claimed.units()).sum());
    Ok(true)
}

fn was_changed() -> Refusal {
    Refusal::new(Code::Unavailable, "the channel was changed by another request meanwhile")
        .retry_after(1)
        .hint("send the same request with the same voucher again")
}

fn not_ours() -> Refusal {
    Refusal::from(&EngineError::NotOurs(lease::KEEPER.to_owned()))
}
