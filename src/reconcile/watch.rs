//! Continuous reconciliation: what is new at each head, from a stored mark on.
//!
//! Two looks at every block. The first at the head: a transfer that no payment explains is found at
//! once, and forgotten if a reorganisation takes its block away. The second when the block is final:
//! both ways now, and the mark moves on, block by block and hash by hash. The second reads anew, so
//! that a node that lagged at the first hides nothing. What a payment's books say is taken from the
//! audit log, in its order, from the same mark on.
//!
//! Nothing else is kept: a look that breaks off is repeated, a daemon that was down reads on from
//! the mark, and a payment's transfer is recognised by what the store holds of it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use alloy::primitives::{B256, U256};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{debug, warn};

use super::{
    ReconcileError,
    chain::{Moves, balance_of, transfers_in},
    explain::{Verdict, explain},
    found::Found,
    restored,
};
use crate::{
    engine::{Inner, Stop},
    ledger::Account,
    payment::{PaymentId, State},
    pulse,
    rpc::{At, Head, LOG_SPAN},
    store::{Claim, Finalized, Finding, FindingKind, Store, StoreError},
};

/// Audit entries read in one step.
const ENTRIES: u64 = 20_000;
/// Pause between two looks at what is final, where the newest block is not.
const SETTLE_EVERY: Duration = Duration::from_secs(2);
/// Pause before what could not be settled is looked at again.
const AGAIN: Duration = Duration::from_secs(1);
/// Longest such pause.
const AGAIN_AT_MOST: Duration = Duration::from_secs(30);
/// How long a look waits for the booking of the head at most.
const BOOKING: Duration = Duration::from_secs(1);
/// Final blocks that a payment's booking may take before that is a difference.
const PATIENCE: u64 = 256;
/// Blocks to go back when a final block fell out of the chain.
const LOOK_BACK: u64 = 1_000;
/// Blocks without a transfer after which the mark is stored all the same: whoever reads the store
/// sees how far the daemon is.
const QUIET: u64 = 16;
/// Standing differences that are looked at again in one step.
const STANDING: u32 = 50;

pub(super) const MARK: &str = "reconciled";

/// How far reconciliation has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// First block that is not checked.
    pub next: u64,
    /// Hash of the block before it.
    pub hash: Option<B256>,
    /// Last audit entry that was held against the chain.
    pub seq: u64,
    /// The wallet's balance when it was last read: at the end of which block, how much.
    pub balance: Option<(u64, U256)>,
    /// What came in since.
    pub came_in: U256,
    /// What went out since.
    pub went_out: U256,
    /// When, milliseconds.
    pub at_ms: i64,
}

impl Mark {
    /// Reads the stored mark; `None` before the first step.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read(store: &Store) -> Result<Option<Self>, StoreError> {
        let Some(text) = store.meta(MARK).await? else { return Ok(None) };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|_| StoreError::corrupt("meta.reconciled", text))
    }

    const fn start(next: u64) -> Self {
        Self {
            next,
            hash: None,
            seq: 0,
            balance: None,
            came_in: U256::ZERO,
            went_out: U256::ZERO,
            at_ms: 0,
        }
    }

    fn text(&self) -> Result<String, StoreError> {
        serde_json::to_string(self).map_err(|error| StoreError::corrupt("meta.reconciled", error))
    }
}

/// Runs until told to stop.
pub(crate) async fn run(inner: Arc<Inner>, stop: Stop) {
    let mut tick = interval(inner.config.poll());
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut watch = Watch::default();
    let mut unbooked: Option<Duration> = None;
    loop {
        pulse::rest();
        tokio::select! {
            () = stop.asked() => return,
            _ = tick.tick() => {}
        }
        pulse::work();
        if !inner.is_keeper() {
            // Another daemon compares; whoever takes over goes on from its stored mark.
            watch = Watch::default();
            if let Err(error) = inner.hear_restored().await {
                warn!(%error, "whether the store is settled could not be read; trying again");
            }
            continue;
        }
        let Some(head) = inner.head() else { continue };
        // Where the newest block is final, its payments are being booked right now: looked at before,
        // all of them would have to be read again. Nothing hides behind a booking that does not come.
        if inner.config.chain.confirmations == 1 && inner.booked() != Some(head) {
            let now = inner.clock.steady();
            if now.saturating_sub(*unbooked.get_or_insert(now)) < BOOKING {
                continue;
            }
        }
        unbooked = None;
        match watch.look(&inner, head).await {
            Ok(()) => {}
            Err(ReconcileError::Moved) => watch.wait(&inner),
            Err(error) => {
                warn!(%error, "chain and books could not be compared; trying again");
                watch.wait(&inner);
            }
        }
    }
}

/// What the task remembers between two looks; all of it can be lost.
pub(crate) struct Watch {
    /// The head that was looked at last.
    seen: Option<Head>,
    /// The last block whose transfers were looked at before they were final.
    read: Option<(u64, B256)>,
    mark: Option<Mark>,
    /// The mark as the store has it, and its `next`.
    stored: Option<(String, u64)>,
    /// Blocks in the next question.
    span: u64,
    /// When everything final was checked, by [`crate::clock::Clock::steady`].
    settled: Option<Duration>,
    /// Nothing is looked at again before.
    not_before: Option<Duration>,
    pause: Duration,
    /// Payments whose transfer was not found once.
    doubted: HashSet<PaymentId>,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            seen: None,
            read: None,
            mark: None,
            stored: None,
            span: LOG_SPAN,
            settled: None,
            not_before: None,
            pause: AGAIN,
            doubted: HashSet::new(),
        }
    }
}

/// How a step ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Everything final is checked.
    Done,
    /// There is more to check.
    More,
    /// Something is not booked yet, or was not found: look again after a while.
    Held,
}

/// A span of final blocks, read; without a block where nothing is final that is not checked.
struct Stretch {
    to: u64,
    hash: Option<B256>,
    moves: Moves,
    verdict: Verdict,
}

impl Watch {
    fn wait(&mut self, inner: &Inner) {
        self.not_before = Some(inner.clock.steady() + self.pause);
        self.pause = (self.pause * 2).min(AGAIN_AT_MOST);
    }

    pub(crate) async fn look(&mut self, inner: &Inner, head: Head) -> Result<(), ReconcileError> {
        let now = inner.clock.steady();
        let is_new = self.seen != Some(head);
        if !is_new && self.not_before.is_some_and(|at| now < at) {
            return Ok(());
        }
        let confirmations = inner.config.chain.confirmations;
        let Some(last) = (head.height() + 1).checked_sub(confirmations) else { return Ok(()) };
        if restored::look(inner, &head, last, is_new).await? {
            // What is unexplained now may be booked before long.
            return Ok(());
        }
        if is_new {
            self.fresh(inner, head, last).await?;
            self.seen = Some(head);
        }
        // Where the newest block is final, this is the first look at it.
        let is_first = is_new && last == head.height();
        if !is_first && self.settled.is_some_and(|at| now < at + SETTLE_EVERY) {
            return Ok(());
        }
        match self.settle(inner, &head, last).await? {
            Step::Done => {
                self.settled = Some(now);
                (self.not_before, self.pause) = (None, AGAIN);
            }
            Step::More => self.settled = None,
            Step::Held => self.wait(inner),
        }
        Ok(())
    }

    /// Looks at the transfers of the blocks above `last` that were not looked at yet.
    async fn fresh(&mut self, inner: &Inner, head: Head, last: u64) -> Result<(), ReconcileError> {
        let from = match self.read {
            Some((number, hash))
                if number >= last && is_below(inner, &head, number, hash).await? =>
            {
                number + 1
            }
            _ => last + 1,
        };
        if from > head.height() {
            return Ok(());
        }
        let chain = &inner.config.chain;
        let moves = Moves::read_outgoing(chain, &inner.rpc, (from, head.height()), &head).await?;
        let mut verdict = explain(&inner.store, inner.config.chain.wallet, &moves).await?;
        restored::spare(inner, &mut verdict);
        let mut found = Found::default();
        found.unexplained(inner, &moves, &verdict, head.height());
        if from == last + 1 {
            // All that is not final was read: what was found there before and is not, is gone.
            let standing = inner.store.findings_open(STANDING).await?;
            found.clear_others(standing.iter().filter(|old| old.block > last));
        }
        if !found.is_empty() {
            found.write(inner, None).await?;
        }
        self.read = Some((head.height(), head.hash));
        Ok(())
    }

    /// Checks the next blocks that are final under `head`, up to `last`, both ways, and moves the mark.
    async fn settle(
        &mut self,
        inner: &Inner,
        head: &Head,
        last: u64,
    ) -> Result<Step, ReconcileError> {
        let mark = self.mark(inner).await?;
        let mut found = Found::default();
        // Both of one chain, and that the head's: of several nodes one may be on a branch that the
        // others have left, and not know yet that what is final there is another block.
        let numbers = [last, mark.next.saturating_sub(1)];
        let [Some(last), Some(checked)] = inner.rpc.heads_under(head, &numbers).await?[..] else {
            return Err(ReconcileError::Moved);
        };
        if mark.hash.is_some_and(|hash| hash != checked.hash) {
            let back = rewound(inner, &last, &mark, &mut found).await?;
            self.save(inner, &found, back).await?;
            return Ok(Step::More);
        }
        let Some(stretch) = self.stretch(inner, &last, &mark).await? else {
            return Ok(Step::Held);
        };
        let Stretch { to, hash, moves, verdict } = stretch;

        let standing = inner.store.findings_open(STANDING).await?;
        found.unexplained(inner, &moves, &verdict, to);
        found.clear_others(standing.iter().filter(|old| {
            old.kind == FindingKind::Unexplained && (mark.next..=to).contains(&old.block)
        }));
        for claim in &verdict.missing {
            found.missing(inner, claim, claim.block.unwrap_or(to));
        }
        for (out, claim) in &verdict.explained {
            if claim.state != State::Paid {
                found.unbooked(inner, out, claim);
            }
        }
        let (mut entries, mut seq) = inner.store.finalized_after(mark.seq, ENTRIES).await?;
        // What was booked above this span has its turn with the next: also where every node is behind
        // the one that showed it.
        let later =
            |entry: &Finalized| entry.data["block"].as_u64().is_some_and(|block| to < block);
        if let Some(at) = entries.iter().position(later) {
            seq = entries[at].seq - 1;
            entries.truncate(at);
        }
        let doubted = self.books(inner, &entries, (&verdict, to), head, &mut found).await?;
        again(inner, &standing, &entries, (&mark, head), &mut found).await?;

        let mut next = Mark {
            next: mark.next.max(to + 1),
            hash,
            seq: doubted.map_or(seq, |doubted| doubted - 1),
            came_in: mark.came_in + moves.came_in,
            went_out: mark.went_out + moves.went_out,
            ..mark
        };
        if to == last.height() && next.next > mark.next {
            weigh(inner, &mut next, &last, &mut found).await;
        }
        inner.metrics.reconciled.set(to.cast_signed());
        let moved = !moves.out.is_empty() || !moves.came_in.is_zero() || !entries.is_empty();
        let behind = self.stored.as_ref().map_or(u64::MAX, |(_, at)| next.next.saturating_sub(*at));
        if moved || !found.is_empty() || behind >= QUIET {
            self.save(inner, &found, next).await?;
        } else {
            self.mark = Some(next);
        }
        Ok(match doubted {
            Some(_) => Step::Held,
            None if to < last.height() => Step::More,
            None => Step::Done,
        })
    }

    /// The mark: in memory it may be some quiet blocks ahead of the stored one.
    async fn mark(&mut self, inner: &Inner) -> Result<Mark, ReconcileError> {
        if let Some(mark) = &self.mark {
            return Ok(mark.clone());
        }
        inner.metrics.findings.set(inner.store.findings_count().await?.cast_signed());
        let mark = match Mark::read(&inner.store).await? {
            Some(mark) => {
                self.stored = Some((mark.text()?, mark.next));
                mark
            }
            None => {
                self.stored = None;
                Mark::start(inner.config.chain.from_block)
            }
        };
        self.mark = Some(mark.clone());
        Ok(mark)
    }

    /// Writes a step's findings and its mark in one commit. Of several daemons on one store the
    /// first writes, and the others read its mark.
    async fn save(
        &mut self,
        inner: &Inner,
        found: &Found,
        mut mark: Mark,
    ) -> Result<(), ReconcileError> {
        mark.at_ms = inner.clock.now_ms();
        let text = mark.text()?;
        let before = self.stored.as_ref().map(|(text, _)| text.as_str());
        // Until it is written, what is in memory counts for nothing.
        self.mark = None;
        if !found.write(inner, Some((before, &text))).await? {
            return Err(ReconcileError::Moved);
        }
        self.stored = Some((text, mark.next));
        self.mark = Some(mark);
        Ok(())
    }

    /// Reads final blocks from the mark on, as far as everything in them is booked. `None`: the
    /// first of them is not. `last` is the newest final block.
    async fn stretch(
        &mut self,
        inner: &Inner,
        last: &Head,
        mark: &Mark,
    ) -> Result<Option<Stretch>, ReconcileError> {
        if mark.next > last.height() {
            let (moves, verdict) = (Moves::default(), Verdict::default());
            let to = mark.next.saturating_sub(1);
            return Ok(Some(Stretch { to, hash: mark.hash, moves, verdict }));
        }
        let mut to = last.height().min(mark.next.saturating_add(self.span - 1));
        loop {
            let end = inner.rpc.heads_under(last, &[to]).await?.into_iter().flatten().next();
            let hash = Some(end.ok_or(ReconcileError::Moved)?.hash);
            let chain = &inner.config.chain;
            let read = Moves::read(chain, &inner.rpc, (mark.next, to), last).await;
            if read.is_err() {
                // Too much for one answer, perhaps.
                self.span = (self.span / 2).max(1);
            }
            let moves = read?;
            let mut verdict = explain(&inner.store, inner.config.chain.wallet, &moves).await?;
            restored::spare(inner, &mut verdict);
            let waits = verdict
                .explained
                .iter()
                .filter(|(out, claim)| {
                    claim.state != State::Paid && last.height().saturating_sub(out.block) < PATIENCE
                })
                .map(|(out, _)| out.block)
                .min();
            match waits {
                None => {
                    self.span = (self.span * 2).min(LOG_SPAN);
                    return Ok(Some(Stretch { to, hash, moves, verdict }));
                }
                Some(block) if block <= mark.next => return Ok(None),
                Some(block) => to = block - 1,
            }
        }
    }

    /// Holds what was newly called paid against the chain, the payment's row and its ledger row.
    /// Returns the first entry whose transfer was not found for the first time.
    async fn books(
        &mut self,
        inner: &Inner,
        entries: &[Finalized],
        (verdict, to): (&Verdict, u64),
        head: &Head,
        found: &mut Found,
    ) -> Result<Option<u64>, ReconcileError> {
        // What this step has just read as paid is not read twice: nothing comes after that state.
        let mut claims: HashMap<PaymentId, Claim> = verdict
            .explained
            .iter()
            .map(|(_, claim)| claim)
            .filter(|claim| claim.state == State::Paid)
            .chain(&verdict.missing)
            .map(|claim| (claim.id, claim.clone()))
            .collect();
        let seen: HashSet<PaymentId> = claims.keys().copied().collect();
        let ids: Vec<PaymentId> =
            entries.iter().map(|entry| entry.payment).filter(|id| !seen.contains(id)).collect();
        claims.extend(
            inner.store.claims_by_id(&ids).await?.into_iter().map(|claim| (claim.id, claim)),
        );
        let mut unseen = Vec::new();
        let mut invoices = Vec::new();
        for entry in entries {
            let claim = claims.get(&entry.payment);
            if let Some(what) = disagreement(entry, claim) {
                found.ledger(inner, entry, to, what);
            }
            let Some(claim) = claim else { continue };
            if let Some(invoice) = &claim.invoice {
                invoices.push((claim.payee, invoice.clone()));
            }
            if claim.state == State::Paid && !seen.contains(&claim.id) {
                unseen.push((entry.seq, claim));
            }
        }
        for paid in inner.store.invoices_paid_twice(&invoices).await? {
            found.invoice(inner, &paid, to);
        }
        let claims: Vec<&Claim> = unseen.iter().map(|(_, claim)| *claim).collect();
        let absent = absent(inner, head, &claims).await?;
        let mut doubted = None;
        for (seq, claim) in unseen {
            if !absent.contains(&claim.id) {
                self.doubted.remove(&claim.id);
            } else if self.doubted.remove(&claim.id) {
                found.missing(inner, claim, claim.block.unwrap_or(to));
            } else {
                // A node may lag behind the one that showed it.
                self.doubted.insert(claim.id);
                doubted.get_or_insert(seq);
            }
        }
        Ok(doubted)
    }
}

/// Is block `number` with this hash on the chain under `head`?
async fn is_below(
    inner: &Inner,
    head: &Head,
    number: u64,
    hash: B256,
) -> Result<bool, ReconcileError> {
    if number == head.height() {
        return Ok(hash == head.hash);
    }
    if number + 1 == head.height() {
        return Ok(hash == head.parent_hash);
    }
    if number > head.height() {
        return Ok(false);
    }
    let block = inner.rpc.heads_under(head, &[number]).await?.into_iter().flatten().next();
    Ok(block.is_some_and(|block| block.hash == hash))
}

/// The last checked block fell out of the chain that ends in `last`: says so and steps back.
async fn rewound(
    inner: &Inner,
    last: &Head,
    mark: &Mark,
    found: &mut Found,
) -> Result<Mark, ReconcileError> {
    found.reorg(inner, mark.next.saturating_sub(1), mark.hash.unwrap_or_default());
    let next = mark.next.saturating_sub(LOOK_BACK).max(inner.config.chain.from_block);
    let start = inner.rpc.heads_under(last, &[next]).await?.into_iter().flatten().next();
    let time_s = start.ok_or(ReconcileError::Moved)?.time_s();
    let at_ms = i64::try_from(time_s).unwrap_or(i64::MAX / 1_000).saturating_mul(1_000);
    let drift_ms =
        i64::try_from(inner.config.chain.clock_drift_s).unwrap_or(0).saturating_mul(1_000);
    let seq = inner.store.audit_before(at_ms.saturating_sub(drift_ms)).await?;
    Ok(Mark { seq: seq.min(mark.seq), next, ..Mark::start(next) })
}

/// In what a payment's audit entry, its row and its ledger row differ.
fn disagreement(entry: &Finalized, claim: Option<&Claim>) -> Option<String> {
    let id = entry.payment;
    let Some(claim) = claim else {
        return Some(format!("the audit log calls {id} paid, and there is no such payment"));
    };
    let Claim { state, payee, amount, .. } = claim;
    if *state != State::Paid {
        return Some(format!("the audit log calls {id} paid, its row calls it {state}"));
    }
    let row = json!({ "tx": claim.transaction, "block": claim.block, "payee": payee,
        "amount": amount });
    let says = |field: &str| entry.data[field] == row[field];
    if !["tx", "block", "payee", "amount"].into_iter().all(says) {
        return Some(format!("the audit log says of {id} {}, its row says {row}", entry.data));
    }
    let account = claim.escrow.map_or(Account::Payee(*payee), Account::Escrow);
    let posted = ("posted".to_owned(), account.to_string(), amount.as_i64());
    match &claim.ledger {
        Some(ledger) if *ledger == posted => None,
        Some((stage, account, units)) => Some(format!(
            "{id} paid {amount} USDC to {payee}, its ledger row says {stage}: {units} units to \
             {account}"
        )),
        None => Some(format!("{id} is paid and has no ledger row")),
    }
}

/// Of payments that are called paid, finds those that their transaction's receipt does not show.
async fn absent(
    inner: &Inner,
    head: &Head,
    claims: &[&Claim],
) -> Result<HashSet<PaymentId>, ReconcileError> {
    let mut hashes: Vec<B256> = claims.iter().filter_map(|claim| claim.transaction).collect();
    hashes.sort_unstable();
    hashes.dedup();
    let mut shown = HashMap::new();
    if !hashes.is_empty() {
        for (hash, receipt) in hashes.iter().zip(inner.rpc.receipts(head, &hashes).await?) {
            let logs = receipt.as_ref().map_or(&[][..], |receipt| receipt.inner.logs());
            shown.insert(*hash, transfers_in(&inner.config.chain, logs));
        }
    }
    Ok(claims
        .iter()
        .filter(|claim| {
            let key = (claim.payee, U256::from(claim.amount.units()));
            let left = claim
                .transaction
                .and_then(|hash| shown.get_mut(&hash)?.get_mut(&key))
                .filter(|left| **left > 0);
            left.map(|left| *left -= 1).is_none()
        })
        .map(|claim| claim.id)
        .collect())
}

/// Looks again at what stands from earlier steps, where it can be over.
async fn again(
    inner: &Inner,
    standing: &[Finding],
    entries: &[Finalized],
    (mark, head): (&Mark, &Head),
    found: &mut Found,
) -> Result<(), ReconcileError> {
    let of = |kind| standing.iter().filter(move |old| old.kind == kind);
    let ids: Vec<PaymentId> = [FindingKind::Missing, FindingKind::Unbooked]
        .into_iter()
        .flat_map(of)
        .filter_map(|old| old.payment)
        .collect();
    if !ids.is_empty() {
        let claims = inner.store.claims_by_id(&ids).await?;
        let paid: Vec<&Claim> = claims.iter().filter(|claim| claim.state == State::Paid).collect();
        let absent = absent(inner, head, &paid).await?;
        for old in of(FindingKind::Missing).chain(of(FindingKind::Unbooked)) {
            let is_paid = paid.iter().any(|claim| Some(claim.id) == old.payment);
            if is_paid && old.payment.is_some_and(|id| !absent.contains(&id)) {
                found.clear(old);
            }
        }
    }
    // A transfer that had no payment then may have one by now: a store that caught up.
    let booked: HashSet<B256> = entries
        .iter()
        .filter_map(|entry| serde_json::from_value(entry.data["tx"].clone()).ok())
        .collect();
    for old in of(FindingKind::Unexplained).filter(|old| old.block < mark.next) {
        if !old.transaction.is_some_and(|hash| booked.contains(&hash)) {
            continue;
        }
        let chain = &inner.config.chain;
        let moves = Moves::read_outgoing(chain, &inner.rpc, (old.block, old.block), head).await?;
        let verdict = explain(&inner.store, inner.config.chain.wallet, &moves).await?;
        let mut now = Found::default();
        now.unexplained(inner, &moves, &verdict, old.block);
        if now.findings.iter().all(|finding| finding.id != old.id) {
            found.clear(old);
        }
    }
    Ok(())
}

/// Holds the wallet's balance against what moved since it was read last. A node that has no state
/// of that block is asked again at a later one.
async fn weigh(inner: &Inner, mark: &mut Mark, last: &Head, found: &mut Found) {
    let config = &inner.config.chain;
    let read = async |at: At| balance_of(config, &inner.rpc, config.wallet, at).await;
    let block = last.height();
    let mut balance = match read(last.into()).await {
        Ok(balance) => balance,
        Err(error) => {
            debug!(%error, block, "the wallet's balance could not be read");
            return;
        }
    };
    if let Some((since, mut before)) = mark.balance {
        let after = |before: U256| (before + mark.came_in).checked_sub(mark.went_out);
        if after(before) != Some(balance) {
            // A node that is just taking in the next block may answer with the state after it: now,
            // or when it was asked last. Both blocks lie deeper a moment later.
            tokio::time::sleep(AGAIN).await;
            balance = read(last.into()).await.unwrap_or(balance);
            let earlier = inner.rpc.heads_under(last, &[since]).await.unwrap_or_default();
            if let Some(earlier) = earlier.into_iter().flatten().next() {
                before = read(At::from(&earlier)).await.unwrap_or(before);
            }
        }
        if after(before) != Some(balance) {
            found.balance(inner, (since, block), after(before), balance);
        }
    }
    mark.balance = Some((block, balance));
    (mark.came_in, mark.went_out) = (U256::ZERO, U256::ZERO);
}
