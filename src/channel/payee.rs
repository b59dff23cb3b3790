//! The payee's side: one request at a time in a channel, many channels at once.
//!
//! A request holds its channel's lock from the moment its voucher is judged until its answer is
//! durable; another request in the same channel is told that it is busy. Two commits, each shared with
//! whoever comes along ([`super::journal`]): the voucher before the handler runs, the charge with the
//! answer before the answer leaves. A kill before the first: nothing happened. Between them: the same
//! voucher buys the same request once more, uncharged so far. After the second: the same request gets
//! the stored answer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use alloy::primitives::B256;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, Semaphore};

use super::{
    journal::Journal,
    meter::{Admitted, Delivered, Meter, MeterRow, OnChain, Presented, Reject},
    on_chain,
};
use crate::{
    contract::hub::Hub,
    engine::Inner,
    refusal::{Code, Refusal},
    store::Earning,
    x402::batch::ChannelConfig,
};

/// Channels in memory at most; idle ones make room.
const LIVE: usize = 65_536;
/// Questions to the chain about channels that are not in the store, at once.
const STRANGERS: usize = 8;
/// Milliseconds between two looks at the chain for a deposit.
const LOOK_MS: i64 = 250;
/// Bytes of an answer that are kept for a payer that did not get it.
pub const KEPT: usize = 64 * 1024;

/// Why a voucher bought nothing. The row says where the channel stands, for a corrective answer.
#[derive(Debug)]
pub enum NotTaken {
    /// Another request holds the channel.
    Busy,
    /// The voucher, or the channel, is not good for it.
    Rejected(Reject, Box<MeterRow>),
    /// There is no such channel at a final block.
    Unfunded,
    /// Store or chain have no answer now.
    Unavailable(Refusal),
}

impl From<Refusal> for NotTaken {
    fn from(refusal: Refusal) -> Self {
        Self::Unavailable(refusal)
    }
}

/// What comes of a voucher.
pub enum Taken {
    /// Serve, then call [`Charge::done`]; dropped, nothing is charged.
    Serve(Charge),
    /// The same request was served before: its answer.
    Again(Box<Delivered>, Box<MeterRow>),
}

/// A channel, held for one request.
pub struct Charge {
    meter: OwnedMutexGuard<Meter>,
    journal: Journal,
}

impl Charge {
    /// The channel as it stands.
    #[must_use]
    pub fn row(&self) -> &MeterRow {
        self.meter.row()
    }

    /// Charges what was served, durably; then the answer may leave.
    ///
    /// # Errors
    /// 503 if it could not be stored: the answer must not leave.
    pub async fn done(
        mut self,
        delivered: Delivered,
        earning: Earning,
        now_ms: i64,
    ) -> Result<MeterRow, Refusal> {
        let next = self.meter.charge(delivered, now_ms);
        let earned = (!earning.amount.is_zero()).then_some(earning);
        self.journal.keep(next.clone(), earned).await?;
        self.meter.set(next.clone());
        Ok(next)
    }
}

/// Every channel that pays us.
pub(crate) struct Meters {
    hub: Hub,
    journal: Journal,
    live: Mutex<HashMap<B256, Arc<AsyncMutex<Meter>>>>,
    /// Turns at asking the chain for channels that are not in the store.
    strangers: Semaphore,
    /// The keeper's lease under which `live` was filled.
    fence: Mutex<Option<u64>>,
}

impl Meters {
    pub(crate) fn new(hub: Hub, journal: Journal) -> Self {
        Self {
            hub,
            journal,
            live: Mutex::default(),
            strangers: Semaphore::new(STRANGERS),
            fence: Mutex::default(),
        }
    }

    /// The contract.
    pub(crate) const fn hub(&self) -> &Hub {
        &self.hub
    }

    fn live(&self) -> MutexGuard<'_, HashMap<B256, Arc<AsyncMutex<Meter>>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a voucher for a request. `id` is the hash of `config`, by whoever read it.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub(crate) async fn take(
        &self,
        inner: &Inner,
        id: B256,
        config: &ChannelConfig,
        voucher: Presented<'_>,
    ) -> Result<Taken, NotTaken> {
        self.check_keeper(inner)?;
        let meter = self.meter(inner, id, config).await?;
        let mut meter = meter.try_lock_owned().map_err(|_| NotTaken::Busy)?;
        let age_ms = inner.clock.now_ms().saturating_sub(meter.row().chain.read_ms);
        if age_ms >= fresh_ms(config.withdraw_delay) {
            self.refresh(inner, &mut meter).await?;
        }
        let mut outcome = meter.admit(&self.hub, voucher);
        // Only who holds the channel's key comes here, and perhaps from a deposit.
        if let Err(Reject::AboveBalance { .. }) = outcome
            && age_ms >= LOOK_MS
        {
            self.refresh(inner, &mut meter).await?;
            outcome = meter.admit(&self.hub, voucher);
        }
        match outcome {
            Ok(Admitted::Again(delivered)) => {
                Ok(Taken::Again(delivered, Box::new(meter.row().clone())))
            }
            Ok(Admitted::Serve(next)) => {
                self.journal.keep((*next).clone(), None).await?;
                meter.set(*next);
                Ok(Taken::Serve(Charge { meter, journal: self.journal.clone() }))
            }
            Err(reject) => Err(NotTaken::Rejected(reject, Box::new(meter.row().clone()))),
        }
    }

    /// Meters are one daemon's at a time. What is in memory is from its own time as that one.
    fn check_keeper(&self, inner: &Inner) -> Result<(), Refusal> {
        let fence = inner.keeper_fence();
        let mut seen = self.fence.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen != fence {
            self.live().clear();
            *seen = fence;
        }
        match fence {
            Some(_) => Ok(()),
            None => Err(Refusal::new(Code::Unavailable, "another daemon keeps the channels")
                .retry_after(1)
                .hint("send the same request to the daemon that `bursar status` names")),
        }
    }

    /// Finds a channel in memory, in the store, or on chain.
    async fn meter(
        &self,
        inner: &Inner,
        id: B256,
        config: &ChannelConfig,
    ) -> Result<Arc<AsyncMutex<Meter>>, NotTaken> {
        if let Some(meter) = self.live().get(&id) {
            return Ok(Arc::clone(meter));
        }
        let row = match inner.store.meter(id).await.map_err(Refusal::from)? {
            Some(row) => row,
            None => {
                // Anybody can name channels that are none.
                let _turn = self.strangers.try_acquire().map_err(|_| {
                    Refusal::new(Code::Unavailable, "too many unknown channels at once")
                        .retry_after(1)
                        .hint("send the same request again")
                })?;
                let chain = self.read(inner, id).await?;
                if chain.balance.is_zero() {
                    return Err(NotTaken::Unfunded);
                }
                MeterRow::new(id, *config, chain)
            }
        };
        let mut live = self.live();
        if live.len() >= LIVE {
            // Those that nobody holds are in the store as they are here.
            live.retain(|_, meter| Arc::strong_count(meter) > 1);
        }
        // Of two that read it at once, the first one's is everybody's.
        let meter = live.entry(id).or_insert_with(|| Arc::new(AsyncMutex::new(Meter::new(row))));
        Ok(Arc::clone(meter))
    }

    async fn refresh(&self, inner: &Inner, meter: &mut Meter) -> Result<(), NotTaken> {
        let chain = self.read(inner, meter.row().id).await?;
        let next = meter.seen(chain);
        meter.set(next);
        Ok(())
    }

    /// Reads a channel at the newest final block.
    async fn read(&self, inner: &Inner, id: B256) -> Result<OnChain, Refusal> {
        on_chain::read(inner, self.hub.address(), &[id])
            .await
            .map_err(|error| Refusal::from(&error))?
            .pop()
            .ok_or_else(|| Refusal::new(Code::Unavailable, "the chain cannot be read"))
    }

    /// Takes what the chain says of a channel, and keeps it; skipped while a request holds it (that
    /// one is told at its next look).
    pub(crate) async fn note(
        &self,
        row: &MeterRow,
        chain: OnChain,
    ) -> Result<Option<MeterRow>, Refusal> {
        let meter = {
            let mut live = self.live();
            let fresh = || Arc::new(AsyncMutex::new(Meter::new(row.clone())));
            Arc::clone(live.entry(row.id).or_insert_with(fresh))
        };
        let Ok(mut meter) = meter.try_lock_owned() else { return Ok(None) };
        let next = meter.seen(chain);
        self.journal.keep(next.clone(), None).await?;
        meter.set(next.clone());
        Ok(Some(next))
    }
}

/// Milliseconds for which a channel's state on chain is believed: a third of the time in which the
/// payer could leave, between 30 seconds and 5 minutes (x402 batch-settlement, seller's rules).
fn fresh_ms(withdraw_delay_s: u32) -> i64 {
    i64::from((withdraw_delay_s / 3).clamp(30, 300)) * 1_000
}
