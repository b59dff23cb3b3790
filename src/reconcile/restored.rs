//! A store that is older than what was done with its keys: restored from a backup, copied back, lost.
//!
//! The chain remembers what such a store forgot, but not for whom it was. Three things must not
//! happen: a payment of the store that was paid since is paid under another nonce, or called failed;
//! and a request that the store forgot is paid again when its key comes again. So the daemon, once it
//! notices ([`notice`]), signs nothing and promises nothing until a final block is past the deadline of
//! everything that was signed before: then the chain has all of it, or it is dead. What the chain has
//! and no payment explains is booked ([`look`]): as the payment whose context was signed, where the
//! hash proves it; else as a payment that was *found*, and nobody is paid the same, by the same agent
//! to the same payee, until an operator has said what it was.

use std::collections::{HashMap, HashSet};

use alloy::primitives::{Address, B256};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::{info, warn};

use super::{
    ReconcileError,
    attribute::{self, Signed},
    chain::{Moves, Outgoing},
    explain::{Verdict, explain},
    watch::Mark,
};
use crate::{
    alert::{Alert, AlertKind},
    audit::Anchor,
    clock::{self, Clock},
    config::Config,
    contract::coupon::{self, CouponGrant},
    engine::{EngineError, Inner},
    keys::Keys,
    money::Usdc,
    payment::{AgentId, Context, Event, PaymentId, State},
    refusal::{Code, Refusal},
    rpc::{At, Head, LOG_SPAN, Rpc},
    store::{PaymentRow, Store, StoreError, Tx, found_key},
    submit::confirm,
};

/// The setting in which the state stands.
const KEY: &str = "restored";
/// The setting by which `bursar store restore` says that it was there: when the backup was made.
pub(crate) const FROM_BACKUP: &str = "restored_from";
/// Seconds that a block takes at most, in the long run.
const BLOCK_S: u64 = 15;
/// Found payments that are counted for the alert.
const COUNTED: u32 = 1_000;
/// Bytes at the end of the anchors' file in which its last whole line begins.
const TAIL: usize = 4_096;

/// A store that was noticed to be older than what was done with its keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// When it was noticed, unix milliseconds.
    pub since_ms: i64,
    /// By what.
    pub signs: Vec<String>,
    /// Unix seconds, by the chain, after which nothing can run that an agent signed before.
    pub until_s: u64,
    /// First block whose transfers are not booked yet.
    pub next: u64,
    /// Is everything booked that was signed before? Then the daemon signs again.
    pub is_settled: bool,
    /// Transfers that may be payments of this store that still wait.
    pub undecided: Vec<Undecided>,
}

/// A transfer that may be a payment of this store, or one that it forgot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undecided {
    /// In which transaction.
    pub transaction: B256,
    /// Its place among the block's logs.
    pub log: u64,
    /// In which block.
    pub block: u64,
    /// Time of that block, unix seconds.
    pub time_s: u64,
    /// Who signed it.
    pub agent: AgentId,
    /// To whom it went.
    pub payee: Address,
    /// How much.
    pub amount: Usdc,
    /// The hash that was signed.
    pub context: B256,
    /// The agent's policy version on chain.
    pub version: u64,
    /// What an operator says it is: the daemon carries it out.
    pub word: Option<Word>,
}

/// An operator's word on a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// It is this payment.
    Payment(PaymentId),
    /// It is none of the payments that wait.
    Other,
}

impl Restored {
    /// Reads the state; `None` where nothing was noticed, or everything is settled.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn read(store: &Store) -> Result<Option<Self>, StoreError> {
        Ok(read(store).await?.map(|(_, state)| state))
    }

    /// Writes an operator's word on the transfers of a transaction that are like `payment` (`None`: on
    /// all of them). The running daemon carries it out, or the next one. Answers on how many.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is written where the daemon changed the state meanwhile.
    pub async fn say(
        store: &Store,
        transaction: B256,
        payment: Option<&PaymentRow>,
    ) -> Result<usize, StoreError> {
        let Some((before, mut state)) = read(store).await? else { return Ok(0) };
        let mut said = 0;
        for one in state.undecided.iter_mut().filter(|one| one.transaction == transaction) {
            match payment {
                Some(payment) if one.is_like(payment) && said == 0 => {
                    one.word = Some(Word::Payment(payment.id));
                }
                None => one.word = Some(Word::Other),
                Some(_) => continue,
            }
            said += 1;
        }
        let mut tx = store.begin().await?;
        if said == 0 || !tx.replace_meta(KEY, Some(&before), &text(&state)?).await? {
            return Ok(0);
        }
        tx.commit().await?;
        Ok(said)
    }
}

impl Undecided {
    /// Can it be this payment?
    #[must_use]
    pub fn is_like(&self, payment: &PaymentRow) -> bool {
        !payment.has_own_door() && self.is_of(&payment.agent, payment.payee, payment.amount)
    }

    /// Was it paid by this agent, to this payee, this much?
    #[must_use]
    pub fn is_of(&self, agent: &AgentId, payee: Address, amount: Usdc) -> bool {
        (&self.agent, self.payee, self.amount) == (agent, payee, amount)
    }
}

async fn read(store: &Store) -> Result<Option<(String, Restored)>, StoreError> {
    let Some(text) = store.meta(KEY).await? else { return Ok(None) };
    let state =
        serde_json::from_str(&text).map_err(|_| StoreError::corrupt("meta.restored", &text))?;
    Ok(Some((text, state)))
}

fn text(state: &Restored) -> Result<String, StoreError> {
    serde_json::to_string(state).map_err(|error| StoreError::corrupt("meta.restored", error))
}

/// Looks at start for signs that the store is older than what was done with its keys: a restored
/// backup says so, the log's anchors know of later entries, the chain of later transactions. Where there
/// is one, the wallet's nonces are drawn from a new range, so that none is signed twice.
///
/// # Errors
/// The store or the chain cannot be read: nothing is known.
pub(crate) async fn notice(
    config: &Config,
    store: &Store,
    rpc: &Rpc,
    (keys, clock): (&Keys, &Clock),
    relayers: &[Address],
) -> Result<Option<Restored>, EngineError> {
    let mut signs = Vec::new();
    if let Some(made_ms) = store.meta(FROM_BACKUP).await? {
        let made = made_ms.parse().map(clock::at_ms).map_or(made_ms, |at| at.to_string());
        signs.push(format!("it was restored from a backup of {made}"));
    }
    if let Some(anchor) = last_anchor(config, keys)
        && store.audit_hash(anchor.seq).await? != Some(anchor.hash)
    {
        signs.push(format!(
            "{} vouches for entry {} of the audit log, which this store does not have",
            config.audit_anchors.display(),
            anchor.seq
        ));
    }
    for relayer in relayers {
        // The chain first: what is sent meanwhile was stored before.
        let sent = rpc.transaction_count(*relayer, At::Latest).await?;
        let known = store.next_nonce(&relayer.to_string()).await?;
        if sent > known {
            signs
                .push(format!("{relayer} has sent {sent} transactions, of which it knows {known}"));
        }
    }
    let known = read(store).await?.map(|(_, state)| state);
    if signs.is_empty() {
        return Ok(known);
    }
    let (now_s, head) = (clock.now_s(), rpc.latest().await?);
    let chain_s = head.time_s().min(now_s.saturating_add(config.chain.clock_drift_s));
    let checked = Mark::read(store).await?.map_or(config.chain.from_block, |mark| mark.next);
    let (next, undecided) = match known {
        Some(known) => (known.next.min(checked), known.undecided),
        None => (checked, Vec::new()),
    };
    let state = Restored {
        since_ms: clock.now_ms(),
        until_s: now_s.max(chain_s).saturating_add(config.submit.signature_ttl_s),
        next,
        is_settled: false,
        undecided,
        signs,
    };
    warn!(signs = state.signs.join("; "), "the store is older than what was done with its keys");
    let mut tx = store.begin().await?;
    tx.set_meta(KEY, &text(&state)?).await?;
    tx.set_meta(NONCE_EPOCH, &rand::random::<u64>().to_string()).await?;
    tx.delete_meta(FROM_BACKUP).await?;
    tx.commit().await?;
    Ok(Some(state))
}

/// The setting with the high half of the wallet's nonces.
pub(crate) const NONCE_EPOCH: &str = "nonce_epoch";

/// Reads the last whole line of the anchors' file, if this seed's owner signed it.
fn last_anchor(config: &Config, keys: &Keys) -> Option<Anchor> {
    let bytes = match std::fs::read(&config.audit_anchors) {
        Ok(bytes) => bytes,
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                warn!(%error, "the audit log's anchors cannot be read");
            }
            return None;
        }
    };
    let tail = &bytes[bytes.len().saturating_sub(TAIL)..];
    let end = tail.iter().rposition(|byte| *byte == b'\n')?;
    let line = tail[..end].rsplit(|byte| *byte == b'\n').next()?;
    let anchor: Anchor = serde_json::from_slice(line).ok()?;
    (anchor.seq > 0 && anchor.is_signed_by(&keys.audit_key().verifying_key())).then_some(anchor)
}

impl Inner {
    /// The state of a restored store; `None` where there is nothing to settle.
    pub(crate) fn restored(&self) -> Option<Restored> {
        self.restored.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Reads the state again, where this daemon does not write it.
    pub(crate) async fn hear_restored(&self) -> Result<(), StoreError> {
        if self.restored().is_some() {
            self.set_restored(Restored::read(&self.store).await?);
        }
        Ok(())
    }

    fn set_restored(&self, state: Option<Restored>) {
        *self.restored.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = state;
    }

    /// Can what was signed before the store was restored still run? Then nothing new is signed, and
    /// nothing ends.
    pub(crate) fn is_settling(&self) -> bool {
        self.restored().is_some_and(|state| !state.is_settled)
    }

    /// May it have been paid before the store was restored?
    pub(crate) fn is_undecided(&self, payment: &PaymentRow) -> bool {
        self.restored().is_some_and(|state| state.undecided.iter().any(|one| one.is_like(payment)))
    }
}

/// Refuses what is asked of a store that was restored, while it is not settled.
pub(crate) fn settling(inner: &Inner, state: &Restored, from_s: u64) -> Refusal {
    let left = from_s.saturating_sub(inner.now_s()).max(5);
    Refusal::new(
        Code::Unavailable,
        "the store was restored from a backup: what was signed since is waited for; nothing was \
         started",
    )
    .retry_after(left)
    .hint(format!(
        "send the same request with the same Idempotency-Key again after {}",
        clock::at_ms(i64::try_from(state.until_s.max(from_s)).unwrap_or(0).saturating_mul(1_000))
    ))
}

/// Refuses a purchase that a restored store cannot promise: any, while what was signed for one before can
/// still run and be booked; then one like a payment that was found.
///
/// # Errors
/// `unavailable`, `maybe_paid`, or `gone` where an operator said that this key is paid.
pub(crate) async fn may_buy(
    inner: &Inner,
    tx: &mut Tx,
    (agent, key): (&AgentId, &str),
    (payee, amount): (Address, Usdc),
) -> Result<(), Refusal> {
    if let Some(paid) = tx.payments_by_keys(&[(agent, key)]).await?.first()
        && paid.is_found()
    {
        let detail = format!(
            "this key's purchase was paid ({}) before the store was restored; what it bought is lost",
            paid.id
        );
        let mut refusal = Refusal::new(Code::Gone, detail)
            .hint("use a new Idempotency-Key if it should be bought once more");
        refusal.funds_moved = crate::payment::FundsMoved::Yes;
        return Err(refusal);
    }
    let Some(state) = inner.restored() else { return Ok(()) };
    if let Some(until_s) = buys_from(inner, &state) {
        return Err(settling(inner, &state, until_s));
    }
    if let Some(found) = tx.found_like(agent, payee, amount).await? {
        return Err(may_be_paid(Some(found)));
    }
    Ok(())
}

/// Unix seconds until which a restored store buys nothing; `None`: it buys.
pub(crate) fn buys_from(inner: &Inner, state: &Restored) -> Option<u64> {
    let since_s = u64::try_from(state.since_ms / 1_000).unwrap_or(0);
    // And a while for its block to be final.
    let final_s = BLOCK_S.saturating_mul(inner.config.chain.confirmations);
    let until_s = since_s.saturating_add(inner.config.fetch.valid_s).saturating_add(final_s);
    (!state.is_settled || inner.head_time_s() <= until_s).then_some(until_s)
}

/// Refuses what may have been paid before the store was restored.
pub(crate) fn may_be_paid(found: Option<PaymentId>) -> Refusal {
    let what =
        found.map_or_else(|| "a transfer that the chain has".to_owned(), |id| id.to_string());
    let mut refusal = Refusal::new(
        Code::MaybePaid,
        format!("the store was restored from a backup, and {what} may be this very payment"),
    )
    .hint("an operator says which request it was: `bursar store found`; then send this one again");
    refusal.funds_moved = crate::payment::FundsMoved::Maybe;
    refusal
}

/// Takes out of what no payment explains what waits for an operator's word.
pub(super) fn spare(inner: &Inner, verdict: &mut Verdict) {
    let Some(state) = inner.restored() else { return };
    verdict.unexplained.retain(|(out, _)| {
        !state.undecided.iter().any(|one| {
            (one.transaction, one.payee, one.amount) == (out.transaction, out.payee, out.amount)
        })
    });
}

/// Takes a restored store further, up to block `last`, which is final under `head`; `is_new` says that
/// this head was not looked at before. Answers whether the books still wait.
///
/// # Errors
/// [`ReconcileError`]: nothing was booked; look again.
pub(super) async fn look(
    inner: &Inner,
    head: &Head,
    last: u64,
    is_new: bool,
) -> Result<bool, ReconcileError> {
    if inner.restored().is_none() {
        return Ok(false);
    }
    // An operator, or another daemon, may have written it.
    let Some((before, state)) = read(&inner.store).await? else {
        inner.set_restored(None);
        return Ok(false);
    };
    inner.set_restored(Some(state.clone()));
    if state.undecided.iter().any(|one| one.word.is_some()) {
        carry_out(inner, &before, state).await?;
        return Ok(inner.is_settling());
    }
    if state.is_settled && !is_new {
        return Ok(false);
    }
    if last < state.next {
        tell(inner, &state).await?;
        return Ok(!state.is_settled);
    }
    let block = inner.rpc.heads_under(head, &[last]).await?.into_iter().flatten().next();
    let time_s = block.ok_or(ReconcileError::Moved)?.time_s();
    if !state.is_settled && time_s <= state.until_s {
        tell(inner, &state).await?;
        return Ok(true);
    }
    // An approval or an escrow's opening lives longer than a batch.
    let late_s = inner.config.payments.approval_ttl_s + inner.config.submit.signature_ttl_s;
    let open = inner.store.found(1).await?;
    if state.is_settled
        && state.undecided.is_empty()
        && open.is_empty()
        && time_s > state.until_s.saturating_add(late_s)
    {
        let mut tx = inner.begin_as_keeper().await?;
        tx.delete_meta(KEY).await?;
        tx.commit().await?;
        inner.set_restored(None);
        info!("what was signed before the store was restored is settled");
        return Ok(false);
    }
    import(inner, &before, state, (last, head)).await?;
    if let Some(state) = inner.restored() {
        tell(inner, &state).await?;
    }
    Ok(inner.is_settling())
}

/// Raises and clears the alerts of a restored store.
async fn tell(inner: &Inner, state: &Restored) -> Result<(), ReconcileError> {
    let kind = AlertKind::Restored;
    let up = inner.store.alerts().await?;
    let found = inner.store.found(COUNTED).await?.len();
    let waits = (!state.is_settled).then(|| {
        let until = clock::at_ms(i64::try_from(state.until_s).unwrap_or(0).saturating_mul(1_000));
        let detail = format!(
            "the store is older than what was done with its keys ({}): nothing is signed until the \
             chain is past {until}",
            state.signs.join("; ")
        );
        (detail, json!({ "until_s": state.until_s }))
    });
    let asks = (found > 0 || !state.undecided.is_empty()).then(|| {
        let detail = "transfers on the chain that the restored store forgot wait for an operator's \
                      word: `bursar store found`; if you do not know them, freeze first";
        (detail.to_owned(), json!({ "found": found, "undecided": state.undecided.len() }))
    });
    for (subject, wanted) in [("until", waits), ("found", asks)] {
        let is_up = up.iter().any(|alert| alert.kind == kind && alert.subject == subject);
        match wanted {
            Some((detail, data)) if !is_up => {
                let (subject, since_ms) = (subject.to_owned(), inner.clock.now_ms());
                inner.raise(Alert { kind, subject, detail, data, since_ms }).await?;
            }
            None if is_up => {
                inner.clear(kind, subject).await?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// What is booked in one commit.
#[derive(Default)]
struct Plan {
    /// Payments of the store, with the place where they were paid.
    proven: Vec<PaymentRow>,
    /// Payments that the store forgot.
    found: Vec<PaymentRow>,
    /// Counters of coupons, and the first number that was not used.
    coupons: HashMap<String, u64>,
}

/// A coupon that USDC took.
struct Spent {
    agent: Address,
    /// The counter it was taken from.
    counter: String,
    number: u16,
}

/// Finds whose coupons these nonces are, in blocks of these times (unix seconds): a nonce is a hash, so
/// every coupon that could have been spent then is tried.
fn spent(inner: &Inner, used: HashSet<B256>, times: &[u64]) -> HashMap<B256, Spent> {
    let mut found = HashMap::new();
    if used.is_empty() {
        return found;
    }
    let grants: Vec<(Address, CouponGrant)> =
        inner.book().agents.values().map(|known| (known.address, known.coupons)).collect();
    for (agent, grant) in grants {
        let mut periods: Vec<u64> = times.iter().filter_map(|time| grant.period(*time)).collect();
        periods.sort_unstable();
        periods.dedup();
        for period in periods {
            for (class, coupons) in grant.classes.iter().enumerate() {
                for number in 0..coupons.count {
                    let nonce = coupon::nonce(agent, period, coupon::index(class, number));
                    if used.contains(&nonce) {
                        let counter = coupon::counter(agent, period, class);
                        found.insert(nonce, Spent { agent, counter, number });
                    }
                }
            }
        }
    }
    found
}

/// Books what the next blocks have that no payment explains.
async fn import(
    inner: &Inner,
    before: &str,
    mut state: Restored,
    (last, head): (u64, &Head),
) -> Result<(), ReconcileError> {
    let chain = &inner.config.chain;
    let to = last.min(state.next.saturating_add(LOG_SPAN - 1));
    let moves = Moves::read_outgoing(chain, &inner.rpc, (state.next, to), head).await?;
    let verdict = explain(&inner.store, chain.wallet, &moves).await?;
    let mut left: Vec<Outgoing> = verdict.unexplained.into_iter().map(|(out, _)| out).collect();
    let mut hashes: Vec<B256> = left.iter().map(|out| out.transaction).collect();
    hashes.dedup();
    let mut numbers: Vec<u64> = left.iter().map(|out| out.block).collect();
    numbers.dedup();
    let heads: HashMap<u64, Head> = if numbers.is_empty() {
        HashMap::new()
    } else {
        let heads = inner.rpc.heads_under(head, &numbers).await?;
        heads.into_iter().flatten().map(|head| (head.height(), head)).collect()
    };
    let receipts =
        if hashes.is_empty() { Vec::new() } else { inner.rpc.receipts(head, &hashes).await? };
    let times: Vec<u64> = heads.values().map(Head::time_s).collect();
    let used = hashes.iter().filter_map(|hash| moves.used.get(hash)).flatten().copied().collect();
    let spent = spent(inner, used, &times);
    let mut open = inner.store.payments_open().await?;
    let mut plan = Plan::default();
    for coupon in spent.values() {
        let next = plan.coupons.entry(coupon.counter.clone()).or_default();
        *next = (*next).max(u64::from(coupon.number) + 1);
    }
    for receipt in receipts {
        let receipt = receipt.ok_or(ReconcileError::Moved)?;
        let place = receipt.block_number.and_then(|number| heads.get(&number));
        let place = place.filter(|head| receipt.block_hash == Some(head.hash));
        let (hash, place) = (receipt.transaction_hash, place.ok_or(ReconcileError::Moved)?);
        let whose = |nonce| spent.get(&nonce).map(|coupon: &Spent| coupon.agent);
        for mut signed in attribute::read(chain, receipt.inner.logs(), whose) {
            // From then on a batch of ours is explained; another one is for the watch to find.
            if state.is_settled && signed.is_batch {
                continue;
            }
            let agent = inner.book().agent_by_address(signed.agent).cloned();
            let Some(agent) = agent else { continue };
            let all = signed.parts.len();
            signed.parts.retain(|part| {
                let at = left.iter().position(|out| {
                    (out.transaction, out.payee, out.amount) == (hash, part.payee, part.amount)
                });
                at.map(|at| left.swap_remove(at)).is_some()
            });
            let own: Vec<PaymentRow> =
                open.iter().filter(|payment| payment.agent == agent).cloned().collect();
            let proven = if all == signed.parts.len() { signed.proven(&own) } else { None };
            if let Some(proven) = proven {
                for payment in proven {
                    open.retain(|one| one.id != payment.id);
                    plan.proven.push(PaymentRow {
                        tx_hash: Some(hash),
                        block: Some(place.height()),
                        block_time_s: Some(place.time_s()),
                        refusal: None,
                        ..payment.clone()
                    });
                }
                continue;
            }
            for transfer in transfers(&signed, &agent, hash, place) {
                if signed.is_batch && own.iter().any(|payment| transfer.is_like(payment)) {
                    state.undecided.push(transfer);
                } else {
                    plan.found.push(found(inner, &transfer, &signed));
                }
            }
        }
    }
    state.next = to + 1;
    let was_settled = state.is_settled;
    state.is_settled |= to == last;
    let quiet =
        plan.proven.is_empty() && plan.found.is_empty() && plan.coupons.is_empty() && was_settled;
    if quiet && to == last {
        // Nothing to keep: the next look reads these blocks once more.
        return Ok(());
    }
    info!(
        to,
        proven = plan.proven.len(),
        found = plan.found.len(),
        undecided = state.undecided.len(),
        "read what was paid before the store was restored"
    );
    book(inner, before, state, plan).await
}

fn transfers(
    signed: &Signed,
    agent: &AgentId,
    transaction: B256,
    place: &Head,
) -> impl Iterator<Item = Undecided> {
    signed.parts.iter().map(move |part| Undecided {
        transaction,
        log: part.log,
        block: place.height(),
        time_s: place.time_s(),
        agent: agent.clone(),
        payee: part.payee,
        amount: part.amount,
        context: signed.context,
        version: signed.version,
        word: None,
    })
}

/// Makes a row of a transfer whose request is not known.
fn found(inner: &Inner, transfer: &Undecided, signed: &Signed) -> PaymentRow {
    let mut row = row(inner, transfer);
    row.overrides = signed.overrides;
    if let Some(escrow) = signed.escrow {
        row.reason = format!("{}; it funded escrow {escrow}", row.reason);
    }
    row
}

fn row(inner: &Inner, transfer: &Undecided) -> PaymentRow {
    let at_ms = i64::try_from(transfer.time_s).unwrap_or(0).saturating_mul(1_000);
    PaymentRow {
        id: PaymentId::generate(),
        agent: transfer.agent.clone(),
        idempotency_key: found_key(transfer.transaction, transfer.log),
        fingerprint: B256::ZERO,
        payee: transfer.payee,
        payee_label: inner.book().label(transfer.payee),
        amount: transfer.amount,
        reason: "found on the chain after the store was restored; its request is lost".to_owned(),
        context: Context::default(),
        context_hash: transfer.context,
        state: State::Included,
        overrides: 0,
        policy_version: transfer.version,
        refusal: None,
        escrow: None,
        channel: None,
        tx_id: None,
        item: None,
        tries: 0,
        not_before_ms: at_ms,
        expires_ms: at_ms,
        tx_hash: Some(transfer.transaction),
        block: Some(transfer.block),
        block_time_s: Some(transfer.time_s),
        created_ms: at_ms,
        updated_ms: inner.clock.now_ms(),
    }
}

/// Carries out operators' words.
async fn carry_out(inner: &Inner, before: &str, mut state: Restored) -> Result<(), ReconcileError> {
    let mut plan = Plan::default();
    for transfer in state.undecided.extract_if(.., |one| one.word.is_some()) {
        let payment = match transfer.word {
            Some(Word::Payment(id)) => inner.store.payment(id).await?,
            Some(Word::Other) | None => None,
        };
        match payment.filter(|payment| transfer.is_like(payment) && !payment.state.is_terminal()) {
            Some(payment) => plan.proven.push(PaymentRow {
                tx_hash: Some(transfer.transaction),
                block: Some(transfer.block),
                block_time_s: Some(transfer.time_s),
                refusal: None,
                ..payment
            }),
            None => plan.found.push(row(inner, &transfer)),
        }
    }
    book(inner, before, state, plan).await?;
    if let Some(state) = inner.restored() {
        tell(inner, &state).await?;
    }
    Ok(())
}

/// Books a plan and writes the state, in one commit.
async fn book(
    inner: &Inner,
    before: &str,
    state: Restored,
    mut plan: Plan,
) -> Result<(), ReconcileError> {
    let now_ms = inner.clock.now_ms();
    let mut tx = inner.begin_as_keeper().await?;
    if !tx.replace_meta(KEY, Some(before), &text(&state)?).await? {
        return Err(ReconcileError::Moved);
    }
    for payment in &mut plan.proven {
        include(&mut tx, payment, now_ms).await?;
    }
    // What the chain has seen is not signed again.
    for (counter, next) in &plan.coupons {
        tx.raise_nonce(counter, *next).await?;
    }
    tx.insert_payments(&plan.found).await?;
    tx.reserve(&plan.found, now_ms).await?;
    let mut drafts = Vec::new();
    confirm::paid(&mut tx, &mut plan.proven, now_ms, &mut drafts).await?;
    confirm::paid(&mut tx, &mut plan.found, now_ms, &mut drafts).await?;
    tx.append_audit(&drafts, now_ms).await?;
    tx.commit().await?;
    {
        let mut book = inner.book();
        for payment in &plan.found {
            book.replay(&payment.agent, &payment.facts(), crate::policy::Outcome::Pending);
        }
        for payment in plan.proven.iter().chain(&plan.found) {
            book.settle(&payment.agent, &payment.facts(), payment.paid_in());
        }
    }
    // The contract counted each part of an escrow against its own payee.
    let last = plan.proven.iter().chain(&plan.found).filter_map(|payment| payment.block).max();
    inner.read_policy_again(last.unwrap_or_default());
    inner.set_restored(Some(state));
    inner.queued.notify_one();
    Ok(())
}

/// Moves a payment, wherever it stands, to where it is in a block.
async fn include(tx: &mut Tx, payment: &mut PaymentRow, now_ms: i64) -> Result<(), ReconcileError> {
    let events: &[Event] = match payment.state {
        State::AwaitingApproval => &[Event::Approved, Event::Assigned, Event::Mined],
        State::Queued => &[Event::Assigned, Event::Mined],
        _ => &[Event::Mined],
    };
    for event in events {
        if !tx.advance(payment, *event, now_ms).await? {
            return Err(ReconcileError::Moved);
        }
    }
    Ok(())
}
