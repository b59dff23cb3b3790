//! Intake: idempotency ▸ policy ▸ reserve ▸ payment row, many requests in one commit.
//!
//! One task takes the requests in order, so two of them can never both find the same room under a
//! cap. What it decides for a group becomes durable in one transaction, and only then is anyone
//! told. A request becomes a row before it becomes a promise.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use alloy::{
    primitives::{Address, B256, U256, keccak256},
    sol_types::Eip712Domain,
};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use crate::{
    audit::{Draft, EventKind},
    book::Book,
    channel::purse::PurseState,
    contract::{
        self, ApprovedPayment,
        escrow::{self, EscrowOpening},
        hub::ChannelFunding,
    },
    crash::{self, Point},
    engine::{Accepted, Inner, NonceClaim, Stop},
    escrow::open::{self, Opening},
    money::Usdc,
    payment::{AgentId, Context, PaymentId, PaymentRequest, State},
    policy::{Decision, Facts, Judgement},
    pulse,
    reconcile::restored,
    refusal::{Code, Refusal},
    store::{ApprovalRow, EscrowRow, PaymentRow, PurseRow, StoreError, Tx},
    view::{RuleTrace, Simulation, Verdict},
    x402::batch::ChannelConfig,
};

/// How long a group that the store could not take for a passing reason is tried again.
const INSIST: Duration = Duration::from_secs(2);
/// Pause between two such tries.
const BETWEEN_TRIES: Duration = Duration::from_millis(100);
/// Requests decided in one commit.
const GROUP_LIMIT: usize = 256;
/// The largest payment: what the contract's 48-bit caps can count. Sums of payments stay far from
/// the end of the store's integers.
const LARGEST: Usdc = match Usdc::from_units((1 << 48) - 1) {
    Some(largest) => largest,
    None => Usdc::ZERO,
};
/// Bytes of a reason.
const REASON_LIMIT: usize = 500;
/// Seconds an opening within its limits may wait for the chain.
const OPENING_TTL_S: u64 = 3_600;
/// Bytes of an idempotency key.
const KEY_LIMIT: usize = 128;

type Reply<T> = oneshot::Sender<Result<T, Refusal>>;

/// What the intake task is asked.
pub(crate) enum Job {
    /// A payment.
    Submit(Box<Submit>),
    /// A signed request that moves no money spends its nonce, perhaps with a word to the audit log.
    Claim(NonceClaim, Option<Draft>, Reply<()>),
    /// Something for the audit log.
    Note(Draft),
}

impl Job {
    /// The nonce it spends: key id, nonce, unix seconds of its end.
    fn claim(&self) -> Option<(&str, &str, u64)> {
        let claim = match self {
            Self::Submit(submit) => &submit.claim,
            Self::Claim(claim, ..) => claim,
            Self::Note(_) => return None,
        };
        Some((&claim.key_id, &claim.nonce, claim.expires_s))
    }
}

pub(crate) struct Submit {
    pub agent: AgentId,
    pub claim: NonceClaim,
    pub key: String,
    /// One payment, or one for each milestone of a job: all are accepted, or none. Never empty.
    pub requests: Vec<Request>,
    pub reply: Reply<Accepted>,
}

/// A request that could be read, its payee found.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// What the payment funds, where it does not go to the payee at once.
    pub escrow: Option<Box<Opening>>,
    /// The channel it funds.
    pub channel: Option<Box<ChannelConfig>>,
    /// Only if nothing like it is on its way, whichever daemon asked for that.
    once: bool,
    payee: Address,
    payee_label: Option<String>,
    amount: Usdc,
    reason: String,
    context: Context,
    pub fingerprint: B256,
}

/// Seconds that the nonce of a request of the daemon's own is remembered.
const OWN_CLAIM_S: u64 = 60;

/// Asks for a payment that an agent's purchase needs, as the agent would, and waits until it is accepted,
/// or one like it was: to the same payee, or into a channel that serves as well. `what` it is for begins
/// its idempotency key.
///
/// # Errors
/// A rule refuses it, or too many requests wait.
pub(crate) async fn ask_for(
    inner: &Inner,
    agent: &AgentId,
    what: &str,
    mut request: Request,
) -> Result<(), Refusal> {
    request.once = true;
    let name = uuid::Uuid::now_v7().simple().to_string();
    let claim = NonceClaim {
        key_id: format!("{what}:{agent}"),
        nonce: name.clone(),
        expires_s: inner.clock.now_s().saturating_add(OWN_CLAIM_S),
    };
    let (reply, answer) = oneshot::channel();
    let submit = Submit {
        agent: agent.clone(),
        claim,
        key: format!("{what}-{name}"),
        requests: vec![request],
        reply,
    };
    let busy = || Refusal::new(Code::Overloaded, "too many requests wait").retry_after(1);
    inner.intake.try_send(Job::Submit(Box::new(submit))).map_err(|_| busy())?;
    match answer.await.map_err(|_| busy())? {
        Err(refusal) if refusal.code == Code::Conflict => Ok(()),
        answer => answer.map(drop),
    }
}

/// Would a rule refuse now what [`ask_for`] asks for?
///
/// # Errors
/// The rule that would.
pub(crate) fn allows(inner: &Inner, agent: &AgentId, request: &Request) -> Result<(), Refusal> {
    let judgement = judge(&inner.book(), agent, request, false, inner.now_s());
    match judgement.ok_or_else(|| unknown_agent(agent))?.decision {
        Decision::Deny(refusal) => Err(refusal),
        Decision::Allow | Decision::Ask { .. } => Ok(()),
    }
}

/// Reads a request: amounts, texts, payee.
///
/// # Errors
/// 400, 403 or 422 with the field that is wrong.
pub(crate) fn read(inner: &Inner, request: &PaymentRequest) -> Result<Request, Refusal> {
    let invalid =
        |detail: String, hint: &str| Err(Refusal::new(Code::InvalidPayment, detail).hint(hint));
    let amount: Usdc = match request.amount.parse() {
        Ok(amount) => amount,
        Err(error) => return invalid(format!("amount: {error}"), "send decimal USDC as a string"),
    };
    if amount.is_zero() {
        return invalid("amount is zero".into(), "ask for at least 0.000001 USDC");
    }
    if amount > LARGEST {
        return invalid(
            format!("amount is above the largest payment, {LARGEST} USDC"),
            "the contract counts its caps in 48 bits; pay in parts",
        );
    }
    if request.currency != "USDC" {
        let shown: String = request.currency.chars().take(20).collect();
        return Err(Refusal::new(
            Code::Unprocessable,
            format!("this wallet pays USDC, not `{shown}`"),
        )
        .hint("set \"currency\": \"USDC\""));
    }
    if request.reason.trim().is_empty()
        || request.reason.len() > REASON_LIMIT
        || request.reason.chars().any(|c| c.is_control() && c != '\n')
    {
        return invalid(
            format!("reason must be 1 to {REASON_LIMIT} bytes of text"),
            "say in a sentence what this pays for",
        );
    }
    if let Some(field) = request.context.fault() {
        return invalid(
            format!(
                "context.{field} must be 1 to {} bytes without control characters",
                Context::MAX_TEXT
            ),
            "shorten it, or put a hash of it there",
        );
    }
    let fingerprint = fingerprint(request);
    let payee = payee(inner, &request.payee)?;
    let book = inner.book();
    if let Some(category) = &request.context.category
        && book.categories.bit(category).is_none()
    {
        return Err(Refusal::new(
            Code::Unprocessable,
            format!("`{category}` is not a category of this wallet"),
        )
        .hint(format!("use one of: {}", book.categories.names().join(", "))));
    }
    Ok(Request {
        escrow: None,
        channel: None,
        once: false,
        payee,
        payee_label: book.label(payee),
        amount,
        reason: request.reason.clone(),
        context: request.context.clone(),
        fingerprint,
    })
}

/// Finds a payee by its label, or reads its address.
///
/// # Errors
/// 400 for an address that is none, 403 for a label that nobody has.
pub(crate) fn payee(inner: &Inner, named: &str) -> Result<Address, Refusal> {
    inner.book().resolve(named).ok_or_else(|| {
        let shown: String = named.chars().take(60).collect();
        if named.starts_with("0x") {
            let detail = format!("`{shown}` is not an address, or its checksum is wrong");
            return Refusal::new(Code::InvalidPayment, detail)
                .hint("send 0x and 40 hexadecimal digits, all lower case or checksummed");
        }
        Refusal::new(Code::PayeeUnknown, format!("no payee is registered as `{shown}`"))
            .rule("payees")
            .hint("GET /v1/permissions lists the payees you may pay; only operators add one")
    })
}

/// Hashes what a request asks for: a retry has the same, a reused key another. Amounts count by
/// value: "1.50" retries "1.5".
fn fingerprint(request: &PaymentRequest) -> B256 {
    let amount = request.amount.parse::<Usdc>().map_or(0, Usdc::units);
    let body = json!({
        "payee": request.payee, "amount": amount, "currency": request.currency,
        "reason": request.reason, "context": request.context,
    });
    keccak256(body.to_string())
}

/// Checks an idempotency key: 1 to 128 printable ASCII characters.
///
/// # Errors
/// `idempotency_key_missing`.
pub(crate) fn check_key(key: &str) -> Result<(), Refusal> {
    if (1..=KEY_LIMIT).contains(&key.len()) && key.bytes().all(|b| (0x21..0x7f).contains(&b)) {
        return Ok(());
    }
    Err(Refusal::new(
        Code::IdempotencyKeyMissing,
        format!("Idempotency-Key must be 1 to {KEY_LIMIT} printable ASCII characters"),
    )
    .hint("make one per purchase, store it before the first call, and repeat it on every retry"))
}

/// Decides without paying.
pub(crate) async fn simulate(
    inner: &Inner,
    agent: &AgentId,
    request: PaymentRequest,
) -> Result<Simulation, Refusal> {
    let request = read(inner, &request)?;
    let taken = match &request.context.invoice {
        Some(invoice) => inner.store.invoice_taken(request.payee, invoice).await?,
        None => false,
    };
    let judgement = judge(&inner.book(), agent, &request, taken, inner.now_s())
        .ok_or_else(|| unknown_agent(agent))?;
    let (decision, because) = match judgement.decision {
        Decision::Allow => (Verdict::Allow, Vec::new()),
        Decision::Ask { because, .. } => (Verdict::Ask, because),
        Decision::Deny(refusal) => (Verdict::Deny, vec![refusal]),
    };
    Ok(Simulation { decision, because, rules: judgement.trace })
}

impl Request {
    const fn facts(&self, overrides: u8) -> Facts {
        Facts { payee: self.payee, amount: self.amount, overrides }
    }

    /// What others than the payee get of it: the contract judges each by its share.
    fn shares(&self) -> Vec<Facts> {
        let Some(opening) = &self.escrow else { return Vec::new() };
        let payouts = &opening.draft.payouts;
        let (shares, _) = escrow::split(payouts, self.amount.units());
        payouts
            .iter()
            .zip(shares)
            .filter_map(|(payout, units)| {
                let amount = Usdc::from_units(units).filter(|amount| !amount.is_zero())?;
                Some(Facts { payee: payout.to, amount, overrides: 0 })
            })
            .collect()
    }

    /// Is it the request of this payment? Of one that was found on the chain nobody knows more than
    /// who got how much.
    fn is_of(&self, payment: &PaymentRow) -> bool {
        if payment.is_found() {
            return (payment.payee, payment.amount) == (self.payee, self.amount);
        }
        payment.fingerprint == self.fingerprint
    }

    /// The key its payment is stored under.
    fn key(&self, key: &str) -> String {
        open::key_of(key, self.escrow.as_ref().map_or(1, |opening| opening.milestone))
    }
}

fn unknown_agent(agent: &AgentId) -> Refusal {
    Refusal::new(Code::AgentInactive, format!("there is no agent `{agent}` any more"))
        .hint("ask an operator")
}

/// Runs until told to stop, then answers what is already in the queue. Ends at once where a commit's
/// outcome is not known or the store is damaged: the daemon then stops, and its next start reads what
/// the store kept.
pub(crate) async fn run(inner: Arc<Inner>, mut jobs: mpsc::Receiver<Job>, stop: Stop) {
    let mut group = Vec::with_capacity(GROUP_LIMIT);
    loop {
        pulse::rest();
        tokio::select! {
            biased;
            taken = jobs.recv_many(&mut group, GROUP_LIMIT) => if taken == 0 { return },
            // Closed, the queue still gives what it holds; then `recv_many` answers 0.
            () = stop.asked(), if !jobs.is_closed() => {
                jobs.close();
                continue;
            }
        }
        pulse::work();
        let group = std::mem::replace(&mut group, Vec::with_capacity(GROUP_LIMIT));
        if !settle(&inner, group).await {
            return;
        }
    }
}

/// Decides a group and answers it. Says whether it can go on: not where a commit's outcome is not
/// known, or the store is damaged.
pub(crate) async fn settle(inner: &Inner, group: Vec<Job>) -> bool {
    let began = Instant::now();
    let mut decided = decide(inner, &group).await;
    // Two writers in each other's way, a connection that broke before its commit: nothing happened.
    while decided.as_ref().is_err_and(StoreError::is_passing) && began.elapsed() < INSIST {
        tokio::time::sleep(BETWEEN_TRIES).await;
        decided = decide(inner, &group).await;
    }
    match decided {
        Ok(answers) => answer(group, answers),
        Err(fault) if fault.is_the_end() => {
            inner.store.distrust();
            answer_alone(group, Err(fault));
            return false;
        }
        // One unreadable row must not refuse its neighbours: each job by itself.
        Err(fault) if group.len() > 1 && !fault.is_passing() => {
            for job in group {
                let alone = [job];
                let answers = decide(inner, &alone).await;
                let is_the_end = answers.as_ref().is_err_and(StoreError::is_the_end);
                answer_alone(alone, answers);
                if is_the_end {
                    inner.store.distrust();
                    return false;
                }
            }
        }
        Err(fault) => answer_alone(group, Err(fault)),
    }
    true
}

enum Answer {
    Submit(Box<Result<Accepted, Refusal>>),
    Claim(Result<(), Refusal>),
    None,
}

fn answer(jobs: impl IntoIterator<Item = Job>, answers: Vec<Answer>) {
    for (job, answer) in jobs.into_iter().zip(answers) {
        // A caller that has gone away has its payment all the same.
        match (job, answer) {
            (Job::Submit(submit), Answer::Submit(answer)) => drop(submit.reply.send(*answer)),
            (Job::Claim(_, _, reply), Answer::Claim(answer)) => drop(reply.send(answer)),
            _ => {}
        }
    }
}

fn answer_alone(jobs: impl IntoIterator<Item = Job>, answers: Result<Vec<Answer>, StoreError>) {
    match answers {
        Ok(answers) => answer(jobs, answers),
        Err(fault) => {
            error!(%fault, "the store refused a request");
            for job in jobs {
                match job {
                    Job::Submit(submit) => drop(submit.reply.send(Err(Refusal::from(&fault)))),
                    Job::Claim(_, _, reply) => drop(reply.send(Err(Refusal::from(&fault)))),
                    Job::Note(_) => {}
                }
            }
        }
    }
}

/// What a group has reserved so far, freed again unless its commit succeeds.
struct Reserved<'a> {
    inner: &'a Inner,
    list: Vec<(AgentId, Facts, u64)>,
}

impl Reserved<'_> {
    fn free_from(&mut self, first: usize) {
        let mut book = self.inner.book();
        for (agent, facts, now_s) in self.list.drain(first..) {
            book.unreserve(&agent, &facts, now_s);
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.free_from(0);
    }
}

async fn decide(inner: &Inner, jobs: &[Job]) -> Result<Vec<Answer>, StoreError> {
    let mut tx = inner.store.begin_next().await?;
    let claims: Vec<_> = jobs.iter().filter_map(Job::claim).collect();
    let mut unspent = tx.spend_nonces(&claims).await?.into_iter();
    let mut group = Group::read(inner, &mut tx, jobs).await?;
    let mut answers = Vec::with_capacity(jobs.len());
    for job in jobs {
        answers.push(match job {
            Job::Submit(submit) => {
                let unspent = unspent.next().unwrap_or(false);
                Answer::Submit(Box::new(group.decide(&mut tx, submit, unspent).await?))
            }
            Job::Claim(_, draft, _) => {
                let unspent = unspent.next().unwrap_or(false);
                group.drafts.extend(draft.clone().filter(|_| unspent));
                Answer::Claim(unspent.then_some(()).ok_or_else(replayed))
            }
            Job::Note(draft) => {
                group.drafts.push(draft.clone());
                Answer::None
            }
        });
    }
    let now_ms = inner.clock.now_ms();
    tx.insert_payments(&group.accepted).await?;
    for escrow in &group.escrows {
        tx.insert_escrow(escrow).await?;
    }
    for purse in &group.purses {
        tx.open_purse(purse).await?;
    }
    tx.insert_payments(&group.denied).await?;
    tx.reserve(&group.accepted, now_ms).await?;
    tx.append_audit(&group.drafts, now_ms).await?;
    tx.commit().await?;
    if !group.accepted.is_empty() {
        crash::at(Point::AcceptCommitted);
    }
    group.reserved.list.clear();
    for answer in &answers {
        let Answer::Submit(answer) = answer else { continue };
        match answer.as_ref() {
            Ok(accepted) if accepted.fresh => {
                inner.metrics.accepted.inc();
                if accepted.payment.state == State::Queued {
                    inner.queued.notify_one();
                }
            }
            Ok(_) => {}
            Err(refusal) => inner.count_denied(refusal.code),
        }
    }
    Ok(answers)
}

fn replayed() -> Refusal {
    Refusal::new(Code::InvalidSignature, "this signed request was sent before")
        .hint("sign every attempt anew with a fresh nonce; keep the Idempotency-Key")
}

/// A group of requests: what the store knew of them, and what they add to it.
struct Group<'a> {
    inner: &'a Inner,
    /// Payments by agent and idempotency key: stored, or decided earlier in this group.
    known: HashMap<(AgentId, String), PaymentRow>,
    /// Invoices that are paid or being paid, by payee.
    invoices: HashSet<(Address, String)>,
    reserved: Reserved<'a>,
    accepted: Vec<PaymentRow>,
    escrows: Vec<EscrowRow>,
    purses: Vec<PurseRow>,
    denied: Vec<PaymentRow>,
    drafts: Vec<Draft>,
}

impl<'a> Group<'a> {
    async fn read(inner: &'a Inner, tx: &mut Tx, jobs: &[Job]) -> Result<Self, StoreError> {
        let submits = || {
            jobs.iter().filter_map(|job| match job {
                Job::Submit(submit) => Some(submit),
                Job::Claim(..) | Job::Note(_) => None,
            })
        };
        let keys: Vec<_> = submits().map(|submit| (&submit.agent, submit.key.as_str())).collect();
        let invoices: Vec<_> = submits()
            .flat_map(|submit| &submit.requests)
            .filter_map(|request| Some((request.payee, request.context.invoice.as_deref()?)))
            .collect();
        let known = tx.payments_by_keys(&keys).await?;
        Ok(Self {
            inner,
            known: known
                .into_iter()
                .map(|row| ((row.agent.clone(), row.idempotency_key.clone()), row))
                .collect(),
            invoices: tx.invoices_taken(&invoices).await?,
            reserved: Reserved { inner, list: Vec::new() },
            accepted: Vec::with_capacity(keys.len()),
            escrows: Vec::new(),
            purses: Vec::new(),
            denied: Vec::new(),
            drafts: Vec::with_capacity(jobs.len()),
        })
    }

    /// Decides one request; `unspent` says whether its nonce was.
    async fn decide(
        &mut self,
        tx: &mut Tx,
        submit: &Submit,
        unspent: bool,
    ) -> Result<Result<Accepted, Refusal>, StoreError> {
        let Submit { agent, key, requests, .. } = submit;
        let inner = self.inner;
        let actor = format!("agent:{agent}");
        if !unspent {
            self.drafts.push(
                Draft::new(EventKind::AgentUnauthenticated, actor)
                    .agent(agent)
                    .data(json!({ "key": key })),
            );
            return Ok(Err(replayed()));
        }
        if let Some(earlier) = self.known.get(&(agent.clone(), key.clone())) {
            if !requests.iter().all(|request| request.is_of(earlier)) {
                self.drafts.push(
                    Draft::new(EventKind::PaymentDenied, actor)
                        .agent(agent)
                        .payment(earlier.id)
                        .data(json!({ "code": Code::IdempotencyKeyReused, "key": key })),
                );
                return Ok(Err(Refusal::new(
                    Code::IdempotencyKeyReused,
                    format!("this key belongs to {}, which asked for something else", earlier.id),
                )
                .hint("use a new Idempotency-Key for a new purchase")));
            }
            return Ok(match (earlier.state, &earlier.refusal) {
                // A decision is a result: the same question has the same answer.
                (State::Denied, Some(refusal)) => Err(refusal.clone()),
                _ => Ok(Accepted { payment: inner.view(earlier), fresh: false }),
            });
        }

        if let Some(refusal) = self.unsettled(tx, submit).await? {
            self.drafts.push(
                Draft::new(EventKind::PaymentDenied, actor)
                    .agent(agent)
                    .data(json!({ "code": refusal.code, "key": key })),
            );
            return Ok(Err(refusal));
        }

        // A job is accepted whole or not at all: what this request adds is kept apart until the end.
        let held = self.reserved.list.len();
        let mut made = Made::default();
        for request in requests {
            if let Err(refusal) = self.one(tx, submit, request, &mut made).await? {
                self.reserved.free_from(held);
                self.drafts.append(&mut made.drafts);
                if !refusal.code.is_retryable()
                    && let Some(row) = made.denied
                {
                    self.known.insert((agent.clone(), key.clone()), row.clone());
                    self.denied.push(row);
                }
                return Ok(Err(refusal));
            }
        }
        let Some(first) = made.accepted.first() else {
            return Ok(Err(Refusal::new(Code::InvalidPayment, "nothing was asked for")));
        };
        for approval in &made.approvals {
            tx.insert_approval(approval).await?;
        }
        let payment = inner.view(first);
        for row in &made.accepted {
            self.known.insert((agent.clone(), row.idempotency_key.clone()), row.clone());
            self.invoices.extend(row.context.invoice.clone().map(|invoice| (row.payee, invoice)));
        }
        self.drafts.append(&mut made.drafts);
        self.accepted.append(&mut made.accepted);
        self.escrows.append(&mut made.escrows);
        self.purses.append(&mut made.purses);
        Ok(Ok(Accepted { payment, fresh: true }))
    }

    /// Refuses what a restored store cannot promise: anything while what was signed before can still
    /// run, and then what the chain has and nobody has said for whom it was.
    async fn unsettled(&self, tx: &mut Tx, submit: &Submit) -> Result<Option<Refusal>, StoreError> {
        let inner = self.inner;
        let Some(state) = inner.restored() else { return Ok(None) };
        if !state.is_settled {
            return Ok(Some(restored::settling(inner, &state, state.until_s)));
        }
        // The signature of an opening lives longer.
        let openings_s = state.until_s + OPENING_TTL_S + inner.config.submit.signature_ttl_s;
        for request in &submit.requests {
            if request.escrow.is_some() && inner.head_time_s() <= openings_s {
                return Ok(Some(restored::settling(inner, &state, openings_s)));
            }
            let (agent, payee, amount) = (&submit.agent, request.payee, request.amount);
            if state.undecided.iter().any(|one| one.is_of(agent, payee, amount)) {
                return Ok(Some(restored::may_be_paid(None)));
            }
            if let Some(found) = tx.found_like(agent, payee, amount).await? {
                return Ok(Some(restored::may_be_paid(Some(found))));
            }
        }
        Ok(None)
    }

    /// Is a payment like this on its way? Inside the transaction: what other daemons accepted is known.
    async fn is_on_its_way(&self, agent: &AgentId, request: &Request) -> Result<bool, StoreError> {
        let inner = self.inner;
        let Some(config) = request.channel.as_deref() else {
            return Ok(inner.book().wallet.is_underway(request.payee));
        };
        let serves = |purse: &PurseRow| {
            purse.state == PurseState::Open
                && purse.chain.withdraw_since_s.is_none()
                && purse.config == ChannelConfig { salt: purse.config.salt, ..*config }
        };
        let purses = inner.store.purses_to(agent, request.payee).await?;
        match purses.iter().find(|purse| serves(purse)) {
            Some(purse) if purse.config == *config => inner.store.is_funding(purse.id).await,
            other => Ok(other.is_some()),
        }
    }

    /// Decides one payment of a request.
    async fn one(
        &mut self,
        tx: &mut Tx,
        submit: &Submit,
        request: &Request,
        made: &mut Made,
    ) -> Result<Result<(), Refusal>, StoreError> {
        let (inner, agent) = (self.inner, &submit.agent);
        if request.once && self.is_on_its_way(agent, request).await? {
            return Ok(Err(Refusal::new(Code::Conflict, "a payment like this is on its way")));
        }
        let key = request.key(&submit.key);
        let now_ms = inner.clock.now_ms();
        let now_s = inner.now_s();
        let invoice = request.context.invoice.as_ref().map(|text| (request.payee, text.clone()));
        let taken = invoice.as_ref().is_some_and(|invoice| self.invoices.contains(invoice));
        let judged = {
            let mut book = inner.book();
            let judged = judge(&book, agent, request, taken, now_s);
            if let Some(Judgement { decision, .. }) = &judged
                && let Some(overrides) = decision.overrides()
            {
                let facts = request.facts(overrides);
                book.reserve(agent, &facts, now_s);
                self.reserved.list.push((agent.clone(), facts, now_s));
            }
            judged.map(|judgement| {
                let known = book.agents.get(agent);
                let version = known.and_then(|known| known.chain.as_ref()).map_or(0, |c| c.version);
                let key_index = known.map_or(0, |known| known.policy.key_index);
                let address = known.map_or(Address::ZERO, |known| known.address);
                (judgement, version, address, key_index)
            })
        };
        let Some((judgement, policy_version, agent_address, key_index)) = judged else {
            return Ok(Err(unknown_agent(agent)));
        };

        let id = PaymentId::generate();
        let escrow = request.escrow.as_ref().zip(inner.escrow.as_ref()).map(|(opening, place)| {
            opening.accept(place, id, (agent, agent_address), now_s, now_ms)
        });
        let purse = request.channel.as_ref().zip(inner.meters.as_ref()).map(|(config, meters)| {
            let id = meters.hub().channel_id(&(**config).into());
            let host = request.context.host.clone().unwrap_or_default();
            PurseRow::new(id, (agent, key_index), host, **config, now_ms)
        });
        let mut row = PaymentRow {
            id,
            agent: agent.clone(),
            idempotency_key: key.clone(),
            fingerprint: request.fingerprint,
            payee: request.payee,
            payee_label: request.payee_label.clone(),
            amount: request.amount,
            reason: request.reason.clone(),
            context: request.context.clone(),
            context_hash: request.context.hash(id, agent, &request.reason),
            state: State::Queued,
            overrides: 0,
            policy_version,
            refusal: None,
            escrow: escrow.as_ref().map(|escrow| escrow.id),
            channel: purse.as_ref().map(|purse| purse.id),
            tx_id: None,
            item: None,
            tries: 0,
            not_before_ms: now_ms,
            expires_ms: now_ms + seconds(inner.config.payments.queue_ttl_s),
            tx_hash: None,
            block: None,
            block_time_s: None,
            created_ms: now_ms,
            updated_ms: now_ms,
        };
        let draft = |kind: EventKind, rules: &[RuleTrace]| {
            let draft = Draft::new(kind, format!("agent:{agent}"));
            let draft = draft.agent(agent).payment(id).data(json!({
                "payee": request.payee, "amount": request.amount, "reason": request.reason,
                "context": request.context, "context_hash": row.context_hash, "key": key,
                "policy_version": policy_version,
                // A passed request is explained by the rules it passed, a refused one by the first
                // that it failed.
                "rules": rules.iter().map(|r| (r.rule.as_str(), r.passed)).collect::<Vec<_>>(),
            }));
            match (&escrow, &purse) {
                (Some(escrow), _) => draft.and("escrow", escrow.story()),
                (None, Some(purse)) => draft.and("channel", json!(purse.id)),
                (None, None) => draft,
            }
        };
        let mut waits = false;
        match judgement.decision {
            Decision::Deny(refusal) => {
                made.drafts.clear();
                made.drafts.push(
                    draft(EventKind::PaymentDenied, &judgement.trace)
                        .and("refusal", json!(refusal)),
                );
                row.state = State::Denied;
                row.refusal = Some(refusal.clone());
                row.idempotency_key.clone_from(&submit.key);
                row.escrow = None;
                row.channel = None;
                made.denied = Some(row);
                return Ok(Err(refusal));
            }
            Decision::Ask { overrides, because } => {
                waits = true;
                row.state = State::AwaitingApproval;
                row.overrides = overrides;
                row.refusal = because.first().cloned();
                row.expires_ms = now_ms + seconds(inner.config.payments.approval_ttl_s);
                made.drafts.push(
                    draft(EventKind::PaymentAwaitingApproval, &judgement.trace)
                        .and("because", json!(because))
                        .and("overrides", json!(overrides)),
                );
            }
            Decision::Allow => {
                if escrow.is_some() || purse.is_some() {
                    // Terms grow old: what is not funded soon is better asked for anew.
                    let soon = seconds(inner.config.payments.queue_ttl_s.min(OPENING_TTL_S));
                    row.expires_ms = now_ms + soon;
                }
                made.drafts.push(draft(EventKind::PaymentQueued, &judgement.trace));
            }
        }
        // An opening is signed once, like what operators approve: the contract takes its nonce once.
        if waits || escrow.is_some() || purse.is_some() {
            let nonce = inner.wallet_nonce(tx, agent_address).await?;
            // The signatures outlive the wait for the quorum by the time any signature has.
            let deadline_s = u64::try_from(row.expires_ms / 1_000).unwrap_or(0)
                + inner.config.submit.signature_ttl_s;
            let purpose = match (&escrow, &request.channel) {
                (Some(escrow), _) => Purpose::Escrow(escrow),
                (None, Some(channel)) => Purpose::Channel(channel),
                (None, None) => Purpose::Payee,
            };
            let message = Message::new(&row, purpose, agent_address, nonce, deadline_s);
            made.approvals.push(ApprovalRow {
                payment: id,
                digest: message.digest(&inner.domain),
                nonce,
                deadline_s,
                policy_version,
            });
        }
        made.escrows.extend(escrow);
        made.purses.extend(purse);
        made.accepted.push(row);
        Ok(Ok(()))
    }
}

/// What one request adds to its group.
#[derive(Default)]
struct Made {
    accepted: Vec<PaymentRow>,
    escrows: Vec<EscrowRow>,
    purses: Vec<PurseRow>,
    approvals: Vec<ApprovalRow>,
    denied: Option<PaymentRow>,
    drafts: Vec<Draft>,
}

/// Judges a payment, and everybody else who has a part of it: the first refusal decides, and what
/// operators may set aside is collected over all.
fn judge(
    book: &Book,
    agent: &AgentId,
    request: &Request,
    taken: bool,
    now_s: u64,
) -> Option<Judgement> {
    let mut judgement = book.judge(agent, &request.facts(0), &request.context, taken, now_s)?;
    for share in request.shares() {
        if matches!(judgement.decision, Decision::Deny(_)) {
            break;
        }
        let one = book.judge(agent, &share, &Context::default(), false, now_s)?;
        judgement.trace.extend(one.trace);
        judgement.decision = match (judgement.decision, one.decision) {
            (decision, Decision::Allow) => decision,
            (
                Decision::Ask { overrides, mut because },
                Decision::Ask { overrides: more, because: also },
            ) => {
                because.extend(also);
                Decision::Ask { overrides: overrides | more, because }
            }
            (_, decision) => decision,
        };
    }
    if request.channel.is_some()
        && let Decision::Ask { because, .. } = &judgement.decision
    {
        // Operators co-sign payments, not what an agent may sign away call by call.
        let why = because.first().cloned().unwrap_or_else(|| {
            Refusal::new(Code::Unprocessable, "a deposit into a channel stays within the limits")
        });
        judgement.decision =
            Decision::Deny(why.hint("a deposit into a channel needs no approval: make it smaller"));
    }
    Some(judgement)
}

/// What agent and operators sign under one digest.
pub(crate) enum Message {
    /// A payment past its limits.
    Payment(Box<ApprovedPayment>),
    /// An escrow, within its limits or past them.
    Escrow(Box<EscrowOpening>),
    /// A deposit into a channel, within its limits.
    Channel(Box<ChannelFunding>),
}

/// What a payment funds.
pub(crate) enum Purpose<'a> {
    /// Nothing: it goes to the payee at once.
    Payee,
    /// An escrow for it.
    Escrow(&'a EscrowRow),
    /// A channel to it.
    Channel(&'a ChannelConfig),
}

impl Message {
    /// Builds it from the stored rows.
    pub(crate) fn new(
        payment: &PaymentRow,
        purpose: Purpose<'_>,
        agent: Address,
        nonce: U256,
        deadline_s: u64,
    ) -> Self {
        let (deadline, overrides) = (U256::from(deadline_s), U256::from(payment.overrides));
        let (context, version) = (payment.context_hash, U256::from(payment.policy_version));
        match purpose {
            Purpose::Escrow(escrow) => Self::Escrow(Box::new(EscrowOpening {
                agent,
                nonce,
                deadline,
                context,
                overrides,
                policyVersion: version,
                terms: escrow.terms.clone(),
            })),
            Purpose::Channel(channel) => Self::Channel(Box::new(ChannelFunding {
                nonce,
                deadline,
                context,
                overrides,
                policyVersion: version,
                amount: payment.amount.units().into(),
                channel: (*channel).into(),
            })),
            Purpose::Payee => Self::Payment(Box::new(ApprovedPayment {
                agent,
                to: payment.payee,
                amount: U256::from(payment.amount.units()),
                nonce,
                deadline,
                context,
                overrides,
                policyVersion: version,
            })),
        }
    }

    pub(crate) fn digest(&self, domain: &Eip712Domain) -> B256 {
        match self {
            Self::Payment(message) => contract::digest(message.as_ref(), domain),
            Self::Escrow(message) => contract::digest(message.as_ref(), domain),
            Self::Channel(message) => contract::digest(message.as_ref(), domain),
        }
    }

    pub(crate) fn typed_data(
        &self,
        domain: &Eip712Domain,
    ) -> Result<serde_json::Value, contract::TypedDataError> {
        match self {
            Self::Payment(message) => contract::typed_data(message.as_ref(), domain),
            Self::Escrow(message) => contract::typed_data(message.as_ref(), domain),
            Self::Channel(message) => contract::typed_data(message.as_ref(), domain),
        }
    }
}

pub(crate) fn seconds(seconds: u64) -> i64 {
    i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX / 4)
}

impl Inner {
    /// Puts something into the audit log soon. Under a flood it is dropped and counted: the log
    /// must not become the way to fill the disk, and half of the queue is for requests.
    pub(crate) fn note(&self, draft: Draft) {
        let room = self.intake.capacity() * 2 > self.intake.max_capacity();
        if !room || self.intake.try_send(Job::Note(draft)).is_err() {
            self.metrics.notes_dropped.inc();
        }
    }
}
