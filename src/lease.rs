//! Leases: daemons on one store share the work, and no two do the same.
//!
//! Each relayer key is one daemon's at a time: it alone assigns, signs, sends and confirms under it,
//! and each of its commits checks the lease's fence. The keys are shared out evenly among the daemons
//! that live. One of them is the keeper, for what needs doing once. A holder beats four times in a
//! lease's length; whoever is not seen to beat for a whole length has lost, by the others' clocks and
//! by its own, whichever comes first. A SQLite file has one daemon, and it holds everything.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use alloy::primitives::Address;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{error, info, warn};

use crate::{
    clock::Clock,
    engine::{EngineError, Inner, Stop},
    pulse,
    store::{LeaseRow, Store, StoreError, Tx},
    submit,
    view::LeaseView,
};

/// What needs doing once, by one daemon: reconciliation, alerts, deadlines, retention.
pub(crate) const KEEPER: &str = "keeper";
/// Prefix of the leases that say which daemons live.
pub(crate) const DAEMON: &str = "daemon:";

/// The time by which leases run out: the system's, whatever clock decides about payments.
fn steady() -> Duration {
    Clock::system().steady()
}

/// Returns the name of a relayer's lease.
pub(crate) fn relayer(sender: Address) -> String {
    format!("relayer:{sender}")
}

/// A lease that this daemon has.
#[derive(Clone, Copy, Debug)]
struct Held {
    fence: u64,
    /// By [`steady`]: past it, others may have taken it.
    until: Duration,
    /// What its holder must know is known: a relayer's transactions and nonce.
    ready: bool,
}

/// When a lease was last seen to change, by this daemon's steady clock.
#[derive(Clone, Copy, Debug)]
struct Seen {
    fence: u64,
    beat: u64,
    at: Duration,
}

/// The leases of this daemon.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    held: Mutex<HashMap<String, Held>>,
    seen: Mutex<HashMap<String, Seen>>,
    /// Since when the chain is out of this daemon's reach, by [`steady`].
    cut_off: Mutex<Option<Duration>>,
    /// A relayer's transactions were read since [`Leases::has_adopted`] was asked last.
    adopted: AtomicBool,
}

impl Leases {
    fn held(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<String, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Were a relayer's transactions taken up since this was asked last?
    pub(crate) fn has_adopted(&self) -> bool {
        self.adopted.swap(false, Ordering::AcqRel)
    }

    /// Has the chain been out of this daemon's reach for so long? One that cannot send must not keep
    /// others from it.
    fn is_cut_off(&self, is_reached: bool, now: Duration, length: Duration) -> bool {
        let mut since = self.cut_off.lock().unwrap_or_else(PoisonError::into_inner);
        if is_reached {
            *since = None;
        }
        !is_reached && now.saturating_sub(*since.get_or_insert(now)) >= length
    }

    /// Has this lease been without a beat for its whole length? Its row was asked for after `asked`
    /// and had come by `read`: a daemon may sleep between the two, and must not count that.
    fn is_over(&self, row: &LeaseRow, asked: Duration, read: Duration) -> bool {
        let mut seen = self.seen();
        let fresh = Seen { fence: row.fence, beat: row.beat, at: read };
        let last = seen.entry(row.name.clone()).or_insert(fresh);
        if (last.fence, last.beat) != (row.fence, row.beat) {
            *last = fresh;
        }
        asked.saturating_sub(last.at) >= Duration::from_millis(row.length_ms)
    }
}

/// Runs until told to stop.
pub(crate) async fn run(inner: Arc<Inner>, stop: Stop) {
    let mut tick = interval(Duration::from_millis(inner.lease_ms() / 4));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pulse::rest();
        tokio::select! {
            () = stop.asked() => break,
            _ = tick.tick() => {}
        }
        pulse::work();
        if let Err(error) = round(&inner).await {
            warn!(%error, "the leases could not be renewed; trying again");
        }
        inner.drop_strangers();
        // Hears what other daemons did, also when nothing is asked of this one.
        drop(inner.book());
    }
}

/// Gives every lease back, so that others need not wait for it to run out.
pub(crate) async fn give_back(inner: &Inner) -> Result<(), StoreError> {
    let held = std::mem::take(&mut *inner.leases.held());
    let mut tx = inner.store.begin().await?;
    for (name, lease) in &held {
        tx.give_lease(name, lease.fence).await?;
    }
    tx.drop_lease(&presence(inner)).await?;
    tx.commit().await
}

/// Lists who does what: nothing on SQLite, where one daemon does everything.
pub(crate) async fn shown(store: &Store) -> Result<Vec<LeaseView>, StoreError> {
    if store.is_sqlite() {
        return Ok(Vec::new());
    }
    let rows = store.leases().await?.into_iter();
    Ok(rows
        .map(|LeaseRow { name, holder, fence, .. }| LeaseView {
            lease: name,
            daemon: holder,
            fence,
        })
        .collect())
}

fn presence(inner: &Inner) -> String {
    format!("{DAEMON}{}", inner.store.me())
}

/// The first round of a run: what this daemon, or the file's last one, held before is taken at once.
/// It cannot be running any more, since this one has its lock.
pub(crate) async fn start(inner: &Inner) -> Result<(), EngineError> {
    take_part(inner, true).await
}

async fn round(inner: &Inner) -> Result<(), EngineError> {
    if inner.store.is_sqlite() { Ok(()) } else { take_part(inner, false).await }
}

/// What a round decided, told only after its commit.
#[derive(Default)]
struct Plan {
    held: HashMap<String, Held>,
    /// With the fence this daemon had.
    lost: Vec<(String, u64)>,
    given: Vec<(String, u64)>,
    taken: Vec<String>,
}

async fn take_part(inner: &Inner, first: bool) -> Result<(), EngineError> {
    // The lease counts from before it is written: no other can think that it lasts less long.
    let now = steady();
    let length = inner.lease_ms();
    let until =
        if inner.store.is_sqlite() { Duration::MAX } else { now + Duration::from_millis(length) };
    let mut tx = inner.store.begin().await?;
    let rows: BTreeMap<String, LeaseRow> =
        tx.leases().await?.into_iter().map(|row| (row.name.clone(), row)).collect();
    let read = steady();
    let mine = inner.leases.held().clone();
    let mut plan = Plan::default();
    for (name, lease) in mine {
        if tx.beat(&name, lease.fence).await? {
            plan.held.insert(name, Held { until, ..lease });
        } else {
            plan.lost.push((name, lease.fence));
        }
    }
    let me = presence(inner);
    // A daemon of which nothing is seen takes no share any more, and is struck out.
    let mut others = Vec::new();
    for row in rows.values().filter(|row| row.name.starts_with(DAEMON) && row.name != me) {
        if row.holder.is_empty() || inner.store.is_sqlite() || inner.leases.is_over(row, now, read)
        {
            tx.drop_lease(&row.name).await?;
        } else {
            others.push(&row.name);
        }
    }
    let is_reached = inner.chain_reached.load(Ordering::Relaxed);
    if inner.leases.is_cut_off(is_reached, now, Duration::from_millis(length)) && !others.is_empty()
    {
        for (name, lease) in plan.held.drain() {
            tx.give_lease(&name, lease.fence).await?;
            plan.given.push((name, lease.fence));
        }
        tx.drop_lease(&me).await?;
        tx.commit().await?;
        if !plan.given.is_empty() {
            warn!("the chain is out of reach: the work goes to the other daemons");
        }
        return inner.carry_out(plan, others.len()).await;
    }
    if !plan.held.contains_key(&me) {
        let fence = tx.take_lease(&me, length).await?;
        plan.held.insert(me.clone(), Held { fence, until, ready: true });
    }
    let is_free = |name: &str| {
        rows.get(name).is_none_or(|row| {
            row.holder.is_empty()
                || inner.store.is_sqlite()
                || (first && row.holder == inner.store.me())
                || inner.leases.is_over(row, now, read)
        })
    };
    let relayers: Vec<String> = inner.relayer_addresses().into_iter().map(relayer).collect();
    let daemons = others.len() + 1;
    let has = |daemon: &str| {
        let theirs = |row: &&LeaseRow| relayers.contains(&row.name) && row.holder == daemon;
        rows.values().filter(theirs).count()
    };
    // Nobody moves a key that nobody lacks: whoever has one more than another keeps it.
    let least = relayers.len() / daemons;
    let is_lacking = others.iter().any(|name| has(name.trim_start_matches(DAEMON)) < least);
    let share = if is_lacking { least } else { relayers.len().div_ceil(daemons) };
    let mut own: Vec<&String> =
        relayers.iter().filter(|name| plan.held.contains_key(*name)).collect();
    for name in &relayers {
        if own.len() < share && !plan.held.contains_key(name) && is_free(name) {
            let fence = tx.take_lease(name, length).await?;
            plan.held.insert(name.clone(), Held { fence, until, ready: false });
            plan.taken.push(name.clone());
            own.push(name);
        }
    }
    if own.len() > share
        && let Some(name) = own.last()
        && let Some(lease) = plan.held.remove(*name)
    {
        tx.give_lease(name, lease.fence).await?;
        plan.given.push(((*name).clone(), lease.fence));
    }
    if !plan.held.contains_key(KEEPER) && is_free(KEEPER) {
        let fence = tx.take_lease(KEEPER, length).await?;
        plan.held.insert(KEEPER.to_owned(), Held { fence, until, ready: true });
        plan.taken.push(KEEPER.to_owned());
    }
    tx.commit().await?;
    inner.carry_out(plan, daemons).await
}

impl Inner {
    fn lease_ms(&self) -> u64 {
        self.config.submit.lease_s.saturating_mul(1_000)
    }

    async fn carry_out(&self, plan: Plan, daemons: usize) -> Result<(), EngineError> {
        {
            let mut held = self.leases.held();
            for (name, lease) in plan.held {
                match held.get_mut(&name) {
                    // An order of an operator took it after this round was written.
                    Some(now) if now.fence > lease.fence => {}
                    Some(now) if now.fence == lease.fence => now.until = lease.until,
                    _ => drop(held.insert(name, lease)),
                }
            }
            for (name, fence) in plan.lost.iter().chain(&plan.given) {
                if held.get(name).is_some_and(|now| now.fence == *fence) {
                    held.remove(name);
                }
            }
        }
        for (name, _) in plan.lost {
            error!(name, "another daemon has the lease: this one leaves it alone from now on");
        }
        for (name, _) in plan.given {
            info!(name, daemons, "gave a lease to the other daemons");
        }
        for name in plan.taken {
            info!(name, daemons, "took a lease");
        }
        self.drop_strangers();
        for sender in self.relayer_addresses() {
            let name = relayer(sender);
            let unread = self.leases.held().get(&name).copied().filter(|lease| !lease.ready);
            if let Some(Held { fence, .. }) = unread {
                submit::adopt(self, sender).await?;
                self.leases.adopted.store(true, Ordering::Release);
                if let Some(lease) = self.leases.held().get_mut(&name)
                    // Else an order took it anew meanwhile: what happened between is not read yet.
                    && lease.fence == fence
                {
                    lease.ready = true;
                }
                self.queued.notify_one();
                self.signed.notify_one();
            }
        }
        Ok(())
    }

    /// Does this daemon hold a lease, by its own clock?
    fn holds(&self, name: &str) -> bool {
        let now = steady();
        self.leases.held().get(name).is_some_and(|lease| now < lease.until)
    }

    /// Is this daemon the one that does what needs doing once? Whoever writes under it checks
    /// [`Inner::begin_as_keeper`] too.
    pub(crate) fn is_keeper(&self) -> bool {
        self.holds(KEEPER)
    }

    /// Does this daemon hold every relayer, so that no other can have been at work for long?
    pub(crate) fn is_alone(&self) -> bool {
        self.own_relayers().len() == self.relayer_addresses().len()
    }

    /// The fence of the keeper's lease, while this daemon has it.
    pub(crate) fn keeper_fence(&self) -> Option<u64> {
        let now = steady();
        self.leases.held().get(KEEPER).filter(|lease| now < lease.until).map(|lease| lease.fence)
    }

    /// The fence under which this daemon keeps, or did until somebody deprives it: what was read under
    /// another one is not to be written.
    pub(crate) fn held_keeper_fence(&self) -> Option<u64> {
        self.leases.held().get(KEEPER).map(|lease| lease.fence)
    }

    /// The daemon that keeps, as the store has it.
    pub(crate) async fn keeper(&self) -> Option<String> {
        let leases = self.store.leases().await.ok()?;
        leases.into_iter().find(|row| row.name == KEEPER).map(|row| row.holder)
    }

    /// May this daemon send what is signed by a relayer?
    pub(crate) fn may_send(&self, sender: Address) -> bool {
        self.holds(&relayer(sender))
    }

    /// The relayers that are this daemon's now, ready to sign.
    pub(crate) fn own_relayers(&self) -> Vec<Address> {
        let held = self.leases.held();
        let is_own =
            |sender: &Address| held.get(&relayer(*sender)).is_some_and(|lease| lease.ready);
        self.relayer_addresses().into_iter().filter(is_own).collect()
    }

    /// Starts a transaction that acts for a relayer.
    ///
    /// # Errors
    /// [`EngineError::NotOurs`] if another daemon has its lease, or may have.
    pub(crate) async fn begin_as(&self, sender: Address) -> Result<Tx, EngineError> {
        self.begin_under(&relayer(sender)).await
    }

    /// Starts a transaction that does what one daemon does for all.
    ///
    /// # Errors
    /// [`EngineError::NotOurs`].
    pub(crate) async fn begin_as_keeper(&self) -> Result<Tx, EngineError> {
        self.begin_under(KEEPER).await
    }

    async fn begin_under(&self, name: &str) -> Result<Tx, EngineError> {
        if !self.leases.held().contains_key(name) {
            return Err(EngineError::NotOurs(name.to_owned()));
        }
        // The fence decides, not the clock: a slow holder whom nobody has deprived may write.
        let mut tx = self.store.begin().await?;
        self.check_fence(&mut tx, name).await?;
        Ok(tx)
    }

    async fn check_fence(&self, tx: &mut Tx, name: &str) -> Result<(), EngineError> {
        if self.store.is_sqlite() {
            // The file's lock is the fence.
            return Ok(());
        }
        let fence = self.leases.held().get(name).map(|lease| lease.fence);
        if let Some(fence) = fence
            && tx.is_fenced(name, fence).await?
        {
            return Ok(());
        }
        {
            let mut held = self.leases.held();
            if held.get(name).map(|lease| lease.fence) == fence {
                held.remove(name);
            }
        }
        error!(name, "another daemon has the lease: this one leaves it alone from now on");
        self.drop_strangers();
        Err(EngineError::NotOurs(name.to_owned()))
    }

    /// Makes sure of a relayer within a running transaction: one of this daemon's, or, where it has
    /// none, any: taken at once, since an operator's order waits for no lease. After the commit
    /// [`Inner::launch`] must follow.
    pub(crate) async fn relayer_for_order(
        &self,
        tx: &mut Tx,
    ) -> Result<Option<Address>, EngineError> {
        while let Some(sender) = self.sender_among(&self.own_relayers(), u32::MAX) {
            match self.check_fence(tx, &relayer(sender)).await {
                Ok(()) => return Ok(Some(sender)),
                // Lost, and noted as lost: another, then.
                Err(EngineError::NotOurs(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let Some(sender) = self.sender_among(&self.relayer_addresses(), u32::MAX) else {
            return Ok(None);
        };
        let name = relayer(sender);
        let length = self.lease_ms();
        let until = steady() + Duration::from_millis(length);
        let fence = tx.take_lease(&name, length).await?;
        // Until the next round reads what else is on its way, it signs nothing more. If the commit
        // fails, the fence is not there, and this is found out at the next use.
        self.leases.held().insert(name, Held { fence, until, ready: false });
        Ok(Some(sender))
    }

    /// Lets go of transactions whose relayer is another daemon's.
    fn drop_strangers(&self) {
        let held = self.leases.held();
        self.flights.retain(|sender| held.contains_key(&relayer(sender)));
    }
}
