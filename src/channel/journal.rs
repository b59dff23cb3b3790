//! The journal: many requests' vouchers in one commit. A request waits for its own commit and for
//! no other; while one is being written the next gathers.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::meter::MeterRow;
use crate::{
    engine::{Inner, Stop},
    pulse,
    refusal::{Code, Refusal},
    store::Earning,
};

/// Changes in one commit at most.
const GROUP: usize = 1_024;
/// Changes that wait at most; beyond it callers are told to come back.
const WAITING: usize = 8_192;

/// One change: a channel's row, and what it earned.
struct Entry {
    row: MeterRow,
    earned: Option<Earning>,
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

    /// Makes a row durable; returns when it is.
    ///
    /// # Errors
    /// 503 if the store does not take it, or too many wait.
    pub async fn keep(&self, row: MeterRow, earned: Option<Earning>) -> Result<(), Refusal> {
        let (done, kept) = oneshot::channel();
        self.0.try_send(Entry { row, earned, done }).map_err(|_| {
            Refusal::new(Code::Unavailable, "too many vouchers wait to be stored")
                .retry_after(1)
                .hint("send the same request with the same voucher again")
        })?;
        kept.await.unwrap_or_else(|_| {
            Err(Refusal::new(Code::Unavailable, "the daemon is ending")
                .retry_after(5)
                .hint("send the same request with the same voucher again"))
        })
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
            let outcome = write(&inner, &group).await;
            for entry in group.drain(..) {
                // Whoever does not wait any more finds it in the store.
                let _ = entry.done.send(outcome.clone());
            }
        }
    }
}

/// One daemon keeps the meters of all: two that each believed their own would both serve one voucher.
async fn write(inner: &Inner, group: &[Entry]) -> Result<(), Refusal> {
    let mut tx = inner.begin_as_keeper().await.map_err(|error| Refusal::from(&error))?;
    let rows: Vec<&MeterRow> = group.iter().map(|entry| &entry.row).collect();
    tx.put_meters(&rows).await?;
    let earned: Vec<&Earning> = group.iter().filter_map(|entry| entry.earned.as_ref()).collect();
    tx.add_earnings(&earned).await?;
    tx.commit().await?;
    Ok(())
}
