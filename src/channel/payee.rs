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
    time::Duration,
};

use alloy::primitives::{Address, B256};
use tokio::{
    sync::{Mutex as AsyncMutex, OwnedMutexGuard, Semaphore},
    time::{Instant, sleep, timeout},
};

use super::{
    claim::{Claiming, Tried},
    journal::Journal,
    meter::{Admitted, Delivered, Meter, MeterRow, OnChain, Presented, Reject},
    on_chain,
};
use crate::{
    contract::hub::Hub,
    crash::{self, Point},
    engine::{EngineError, Inner},
    money::Usdc,
    refusal::{Code, Refusal},
    store::Earning,
    x402::batch::ChannelConfig,
};

/// Channels in memory at most; idle ones make room.
const LIVE: usize = 16_384;
/// Questions to the chain about channels that are not in the store, at once.
const STRANGERS: usize = 8;
/// Milliseconds between two looks at the chain for a deposit.
const LOOK_MS: i64 = 250;
/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;
/// Pause between two looks for a deposit that is awaited.
const PAUSE: Duration = Duration::from_millis(100);
/// Looks for a channel's row where each one before was to be read again.
const TRIES: usize = 3;
/// Longest wait of a request for the one before it in its channel.
const TURN: Duration = Duration::from_secs(1);
/// Bytes of an answer that are kept for a payer that did not get it.
pub(crate) const KEPT: usize = 32 * 1024;

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
pub(crate) enum Taken {
    /// Serve, then call [`Charge::done`]; dropped, nothing is charged.
    Serve(Charge),
    /// The same request was served before: its answer.
    Again(Arc<Delivered>, Box<MeterRow>),
}

/// A channel, held for one request.
pub(crate) struct Charge {
    meter: OwnedMutexGuard<Meter>,
    journal: Journal,
    fence: u64,
    /// The voucher that was taken.
    due: Usdc,
    /// Total and signature of the one before it.
    former: (Usdc, Vec<u8>),
}

impl Charge {
    /// The channel as it stands.
    pub(crate) fn row(&self) -> &MeterRow {
        self.meter.row()
    }

    /// The total that the voucher in hand is for.
    pub(crate) const fn due(&self) -> Usdc {
        self.due
    }

    /// Does code stand at the payer's address?
    pub(crate) fn payer_is_contract(&self) -> bool {
        self.meter.payer_is_contract()
    }

    /// Charges what was served, durably; then the answer may leave.
    ///
    /// # Errors
    /// 503 if it could not be stored: the answer must not leave.
    pub(crate) async fn done(
        self,
        delivered: Delivered,
        route: &str,
        now_ms: i64,
    ) -> Result<MeterRow, Refusal> {
        let next = self.meter.charge(delivered, now_ms);
        let amount = next.charged.saturating_sub(self.row().charged);
        let earned = (!amount.is_zero()).then(|| Earning {
            day: u64::try_from(now_ms / DAY_MS).unwrap_or_default(),
            route: route.to_owned(),
            receiver: next.config.receiver,
            amount,
        });
        self.keep(next, earned).await.map(Self::into_row)
    }

    /// Charges nothing: the handler has failed. The voucher is not held any longer.
    ///
    /// # Errors
    /// 503 if that could not be stored; nothing is charged all the same.
    pub(crate) async fn spared(mut self) -> Result<MeterRow, Refusal> {
        if self.former.0 == self.row().ceiling {
            return Ok(self.into_row());
        }
        let former = std::mem::take(&mut self.former);
        let next = self.meter.give_up(former);
        self.keep(next, None).await.map(Self::into_row)
    }

    fn into_row(self) -> MeterRow {
        self.row().clone()
    }

    /// Keeps a row, also when the caller goes away: what the store has and what memory has are one.
    async fn keep(mut self, row: MeterRow, earned: Option<Earning>) -> Result<Self, Refusal> {
        let kept = tokio::spawn(async move {
            match self.journal.keep(row, earned, self.fence).await {
                Ok(kept) => {
                    self.meter.set(kept);
                    Ok(self)
                }
                Err(refusal) => {
                    self.meter.lose();
                    Err(refusal)
                }
            }
        });
        kept.await.unwrap_or_else(|_| {
            Err(Refusal::new(Code::Internal, "a fault of the daemon; its log has the details")
                .hint("send the same request with the same voucher again"))
        })
    }
}

/// Every channel that pays us.
pub(crate) struct Meters {
    hub: Hub,
    /// Signs claims and refunds: a relayer's key.
    authorizer: Address,
    journal: Journal,
    live: Mutex<HashMap<B256, Arc<AsyncMutex<Meter>>>>,
    /// Turns at asking the chain for channels that are not in memory.
    strangers: Semaphore,
    /// The keeper's lease under which `live` was filled.
    fence: Mutex<Option<u64>>,
    /// When groups were claimed last.
    pub(super) tried: Tried,
    /// Whose claim is on its way.
    pub(super) claiming: Claiming,
}

impl Meters {
    pub(crate) fn new(hub: Hub, authorizer: Address, journal: Journal) -> Self {
        Self {
            hub,
            authorizer,
            journal,
            live: Mutex::default(),
            strangers: Semaphore::new(STRANGERS),
            fence: Mutex::default(),
            tried: Tried::default(),
            claiming: Claiming::default(),
        }
    }

    /// The contract.
    pub(crate) const fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Who signs claims and refunds: `receiverAuthorizer` of every channel that is offered.
    pub(crate) const fn authorizer(&self) -> Address {
        self.authorizer
    }

    fn live(&self) -> MutexGuard<'_, HashMap<B256, Arc<AsyncMutex<Meter>>>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a voucher for a request. `id` is the hash of `config`, by whoever read it. A channel that
    /// does not hold enough is looked at until `until`: a deposit is on its way.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub(crate) async fn take(
        &self,
        inner: &Inner,
        (id, config): (B256, &ChannelConfig),
        voucher: Presented<'_>,
        until: Option<Instant>,
    ) -> Result<Taken, NotTaken> {
        loop {
            let outcome = self.take_now(inner, (id, config), voucher).await;
            let awaited = matches!(
                outcome,
                Err(NotTaken::Unfunded | NotTaken::Rejected(Reject::AboveBalance { .. }, _))
            );
            if !awaited || until.is_none_or(|until| Instant::now() >= until) {
                return outcome;
            }
            sleep(PAUSE).await;
        }
    }

    async fn take_now(
        &self,
        inner: &Inner,
        (id, config): (B256, &ChannelConfig),
        voucher: Presented<'_>,
    ) -> Result<Taken, NotTaken> {
        let mut held = self.hold(inner, id, config, TURN).await?;
        let age_ms = inner.clock.now_ms().saturating_sub(held.row().chain.read_ms);
        let is_moving = held.row().refunding().is_some() && age_ms >= LOOK_MS;
        if age_ms >= fresh_ms(config.withdraw_delay) || is_moving {
            self.refresh(inner, &mut held).await?;
        }
        let mut outcome = held.meter.admit(&self.hub, voucher);
        // Only who holds the channel's key comes here, and perhaps from a deposit.
        if let Err(Reject::AboveBalance { .. }) = outcome
            && age_ms >= LOOK_MS
        {
            self.refresh(inner, &mut held).await?;
            outcome = held.meter.admit(&self.hub, voucher);
        }
        match outcome {
            Ok(Admitted::Again(delivered)) => {
                Ok(Taken::Again(delivered, Box::new(held.row().clone())))
            }
            Ok(Admitted::Serve(next)) => {
                held.due = voucher.ceiling;
                held.former = (held.row().ceiling, held.row().signature.clone());
                let held = held.keep(*next, None).await?;
                crash::at(Point::VoucherCommitted);
                Ok(Taken::Serve(held))
            }
            Err(reject) => Err(NotTaken::Rejected(reject, Box::new(held.row().clone()))),
        }
    }

    /// What was charged in a channel so far, whether it is known here or not, funded or not.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub(crate) async fn charged(
        &self,
        inner: &Inner,
        (id, config): (B256, &ChannelConfig),
    ) -> Result<Usdc, NotTaken> {
        match self.hold(inner, id, config, TURN).await {
            Ok(held) => Ok(held.row().charged),
            // Emptied and forgotten, perhaps: what was claimed still counts.
            Err(NotTaken::Unfunded) => Ok(self.read(inner, id).await?.claimed),
            Err(other) => Err(other),
        }
    }

    /// Gives money back: what the payer asks, or all that is free. Answers with the row, in which the
    /// refund stands that is to be signed and sent, durably.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub(crate) async fn give_back(
        &self,
        inner: &Inner,
        (id, config): (B256, &ChannelConfig),
        voucher: (Usdc, &[u8]),
        wish: (B256, Option<Usdc>),
    ) -> Result<MeterRow, NotTaken> {
        let mut held = self.hold(inner, id, config, TURN).await?;
        // A refund's nonce must be the chain's, and what a withdrawal has taken is not there.
        self.refresh(inner, &mut held).await?;
        match held.meter.give_back(&self.hub, voucher, wish) {
            Ok(next) => {
                let kept = held.keep(next, None).await?;
                crash::at(Point::RefundKept);
                Ok(kept.into_row())
            }
            Err(reject) => Err(NotTaken::Rejected(reject, Box::new(held.row().clone()))),
        }
    }

    /// Takes a channel for one request, waiting so long for who holds it.
    async fn hold(
        &self,
        inner: &Inner,
        id: B256,
        config: &ChannelConfig,
        wait: Duration,
    ) -> Result<Charge, NotTaken> {
        for _ in 0..TRIES {
            let fence = self.check_keeper(inner).await?;
            let shared = self.meter(inner, (id, config), fence).await?;
            let lock = Arc::clone(&shared).lock_owned();
            let meter = timeout(wait, lock).await.map_err(|_| NotTaken::Busy)?;
            if !meter.is_lost() {
                let (journal, former) = (self.journal.clone(), (Usdc::ZERO, Vec::new()));
                return Ok(Charge { meter, journal, fence, due: Usdc::ZERO, former });
            }
            let mut live = self.live();
            if live.get(&id).is_some_and(|known| Arc::ptr_eq(known, &shared)) {
                live.remove(&id);
            }
        }
        Err(NotTaken::Busy)
    }

    /// Meters are one daemon's at a time. What is in memory is from its own time as that one.
    async fn check_keeper(&self, inner: &Inner) -> Result<u64, Refusal> {
        let fence = {
            let mut seen = self.fence.lock().unwrap_or_else(PoisonError::into_inner);
            let fence = inner.keeper_fence();
            if *seen != fence {
                self.live().clear();
                *seen = fence;
            }
            fence
        };
        if let Some(fence) = fence {
            return Ok(fence);
        }
        let why = match inner.keeper().await {
            Some(keeper) if !keeper.is_empty() => format!("the daemon {keeper} keeps the channels"),
            _ => "no daemon keeps the channels at the moment".to_owned(),
        };
        Err(Refusal::new(Code::Unavailable, why)
            .retry_after(1)
            .hint("send the same request to that daemon, or pay by another scheme"))
    }

    /// Finds a channel in memory, in the store, or on chain, under the keeper's lease `fence`.
    async fn meter(
        &self,
        inner: &Inner,
        (id, config): (B256, &ChannelConfig),
        fence: u64,
    ) -> Result<Arc<AsyncMutex<Meter>>, NotTaken> {
        if let Some(meter) = self.live().get(&id) {
            return Ok(Arc::clone(meter));
        }
        // Anybody can name channels that are none.
        let _turn = self.strangers.try_acquire().map_err(|_| {
            Refusal::new(Code::Unavailable, "too many unknown channels at once")
                .retry_after(1)
                .hint("send the same request again")
        })?;
        let row = match inner.store.meter(id).await.map_err(Refusal::from)? {
            Some(row) => row,
            None => {
                let chain = self.read(inner, id).await?;
                if chain.balance.is_zero() {
                    return Err(NotTaken::Unfunded);
                }
                MeterRow::new(id, *config, chain)
            }
        };
        let code = inner.rpc.code(config.payer).await;
        let is_contract =
            !code.map_err(|error| Refusal::from(&EngineError::from(error)))?.is_empty();
        // The lease was lost since the row was read: another daemon may have changed it.
        let seen = self.fence.lock().unwrap_or_else(PoisonError::into_inner);
        if *seen != Some(fence) {
            return Err(NotTaken::Busy);
        }
        let mut live = self.live();
        if live.len() >= LIVE {
            // Those that nobody holds are in the store as they are here.
            live.retain(|_, meter| Arc::strong_count(meter) > 1);
        }
        // Of two that read it at once, the first one's is everybody's.
        let fresh = || Arc::new(AsyncMutex::new(Meter::new(row, is_contract)));
        Ok(Arc::clone(live.entry(id).or_insert_with(fresh)))
    }

    async fn refresh(&self, inner: &Inner, held: &mut Charge) -> Result<(), NotTaken> {
        let chain = self.read(inner, held.row().id).await?;
        let next = held.meter.seen(chain);
        held.meter.set(next);
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

    /// Takes what the chain says of a channel, and keeps it; `None` while a request holds it (that one
    /// is told at its next look).
    ///
    /// # Errors
    /// [`NotTaken`].
    pub(crate) async fn note(
        &self,
        inner: &Inner,
        row: &MeterRow,
        chain: OnChain,
    ) -> Result<Option<MeterRow>, NotTaken> {
        let held = match self.hold(inner, row.id, &row.config, Duration::ZERO).await {
            Ok(held) => held,
            Err(NotTaken::Busy) => return Ok(None),
            Err(other) => return Err(other),
        };
        let next = held.meter.seen(chain);
        let kept = held.keep(next, None).await?;
        Ok(Some(kept.into_row()))
    }
}

/// Milliseconds for which a channel's state on chain is believed: a third of the time in which the
/// payer could leave, between 30 seconds and 5 minutes (x402 batch-settlement, seller's rules).
fn fresh_ms(withdraw_delay_s: u32) -> i64 {
    i64::from((withdraw_delay_s / 3).clamp(30, 300)) * 1_000
}
