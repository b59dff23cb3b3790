//! Intake: idempotency ▸ policy ▸ reserve ▸ payment row, many requests in one commit.
//!
//! One task takes the requests in order, so two of them can never both find the same room under a
//! cap. What it decides for a group becomes durable in one transaction, and only then is anyone
//! told. A request becomes a row before it becomes a promise.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use alloy::primitives::{Address, B256, U256, keccak256};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tracing::error;

use crate::{
    audit::{Draft, EventKind},
    contract::{self, ApprovedPayment},
    crash::{self, Point},
    engine::{Accepted, Inner, NonceClaim, Stop},
    money::Usdc,
    payment::{AgentId, Context, PaymentId, PaymentRequest, State},
    policy::{Decision, Facts, Judgement},
    refusal::{Code, Refusal},
    store::{ApprovalRow, PaymentRow, StoreError, Tx},
    view::{RuleTrace, Simulation, Verdict},
};

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
    pub request: Request,
    pub reply: Reply<Accepted>,
}

/// A request that could be read, its payee found.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    payee: Address,
    payee_label: Option<String>,
    amount: Usdc,
    reason: String,
    context: Context,
    fingerprint: B256,
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
    let Some(payee) = book.resolve(&request.payee) else {
        let shown: String = request.payee.chars().take(60).collect();
        if request.payee.starts_with("0x") {
            return invalid(
                format!("`{shown}` is not an address, or its checksum is wrong"),
                "send 0x and 40 hexadecimal digits, all lower case or checksummed",
            );
        }
        let detail = format!("no payee is registered as `{shown}`");
        return Err(Refusal::new(Code::PayeeUnknown, detail)
            .rule("payees")
            .hint("GET /v1/permissions lists the payees you may pay; only operators add one"));
    };
    Ok(Request {
        payee,
        payee_label: book.label(payee),
        amount,
        reason: request.reason.clone(),
        context: request.context.clone(),
        fingerprint,
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
    let judgement = inner
        .book()
        .judge(agent, &request.facts(0), &request.context, taken, inner.now_s())
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
}

fn unknown_agent(agent: &AgentId) -> Refusal {
    Refusal::new(Code::AgentInactive, format!("there is no agent `{agent}` any more"))
        .hint("ask an operator")
}

/// Runs until told to stop, then answers what is already in the queue. Ends at once where a commit's
/// outcome is not known: the daemon then stops, and its next start reads what the store kept.
pub(crate) async fn run(inner: Arc<Inner>, mut jobs: mpsc::Receiver<Job>, stop: Stop) {
    let mut group = Vec::with_capacity(GROUP_LIMIT);
    loop {
        tokio::select! {
            biased;
            taken = jobs.recv_many(&mut group, GROUP_LIMIT) => if taken == 0 { return },
            // Closed, the queue still gives what it holds; then `recv_many` answers 0.
            () = stop.asked(), if !jobs.is_closed() => {
                jobs.close();
                continue;
            }
        }
        let group = std::mem::replace(&mut group, Vec::with_capacity(GROUP_LIMIT));
        if !settle(&inner, group).await {
            return;
        }
    }
}

/// Decides a group and answers it. Says whether it can go on: not where a commit's outcome is not
/// known.
pub(crate) async fn settle(inner: &Inner, group: Vec<Job>) -> bool {
    match decide(inner, &group).await {
        Ok(answers) => answer(group, answers),
        Err(fault) if fault.is_unknown_outcome() => {
            answer_alone(group, Err(fault));
            return false;
        }
        // One unreadable row must not refuse its neighbours: each job by itself.
        Err(_) if group.len() > 1 => {
            for job in group {
                let alone = [job];
                let answers = decide(inner, &alone).await;
                let unknown = answers.as_ref().is_err_and(StoreError::is_unknown_outcome);
                answer_alone(alone, answers);
                if unknown {
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
    list: Vec<(AgentId, Facts)>,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        let mut book = self.inner.book();
        for (agent, facts) in self.list.drain(..) {
            book.void(&agent, &facts);
        }
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
            .filter_map(|submit| {
                Some((submit.request.payee, submit.request.context.invoice.as_deref()?))
            })
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
        let Submit { agent, key, request, .. } = submit;
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
            if earlier.fingerprint != request.fingerprint {
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

        let now_ms = inner.clock.now_ms();
        let now_s = inner.now_s();
        let invoice = request.context.invoice.as_ref().map(|text| (request.payee, text.clone()));
        let taken = invoice.as_ref().is_some_and(|invoice| self.invoices.contains(invoice));
        let judged = {
            let mut book = inner.book();
            let judged = book.judge(agent, &request.facts(0), &request.context, taken, now_s);
            if let Some(Judgement { decision, .. }) = &judged
                && let Some(overrides) = decision.overrides()
            {
                let facts = request.facts(overrides);
                book.reserve(agent, &facts, now_s);
                self.reserved.list.push((agent.clone(), facts));
            }
            judged.map(|judgement| {
                let known = book.agents.get(agent);
                let version = known.and_then(|known| known.chain.as_ref()).map_or(0, |c| c.version);
                (judgement, version, known.map_or(Address::ZERO, |known| known.address))
            })
        };
        let Some((judgement, policy_version, agent_address)) = judged else {
            return Ok(Err(unknown_agent(agent)));
        };

        let id = PaymentId::generate();
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
            Draft::new(kind, actor.clone()).agent(agent).payment(id).data(json!({
                "payee": request.payee, "amount": request.amount, "reason": request.reason,
                "context": request.context, "context_hash": row.context_hash, "key": key,
                "policy_version": policy_version,
                // A passed request is explained by the rules it passed, a refused one by the first
                // that it failed.
                "rules": rules.iter().map(|r| (r.rule.as_str(), r.passed)).collect::<Vec<_>>(),
            }))
        };
        match judgement.decision {
            Decision::Deny(refusal) => {
                self.drafts.push(
                    draft(EventKind::PaymentDenied, &judgement.trace)
                        .and("refusal", json!(refusal)),
                );
                if !refusal.code.is_retryable() {
                    row.state = State::Denied;
                    row.refusal = Some(refusal.clone());
                    self.known.insert((agent.clone(), key.clone()), row.clone());
                    self.denied.push(row);
                }
                return Ok(Err(refusal));
            }
            Decision::Ask { overrides, because } => {
                row.state = State::AwaitingApproval;
                row.overrides = overrides;
                row.refusal = because.first().cloned();
                row.expires_ms = now_ms + seconds(inner.config.payments.approval_ttl_s);
                self.drafts.push(
                    draft(EventKind::PaymentAwaitingApproval, &judgement.trace)
                        .and("because", json!(because))
                        .and("overrides", json!(overrides)),
                );
                let nonce = inner.wallet_nonce(tx, agent_address).await?;
                // The signatures outlive the wait for the quorum by the time any signature has.
                let deadline_s = u64::try_from(row.expires_ms / 1_000).unwrap_or(0)
                    + inner.config.submit.signature_ttl_s;
                let message = approval_message(&row, agent_address, nonce, deadline_s);
                tx.insert_approval(&ApprovalRow {
                    payment: id,
                    digest: contract::digest(&message, &inner.domain),
                    nonce,
                    deadline_s,
                    policy_version,
                })
                .await?;
            }
            Decision::Allow => {
                self.drafts.push(draft(EventKind::PaymentQueued, &judgement.trace));
            }
        }
        self.known.insert((agent.clone(), key.clone()), row.clone());
        self.invoices.extend(invoice);
        let payment = inner.view(&row);
        self.accepted.push(row);
        Ok(Ok(Accepted { payment, fresh: true }))
    }
}

/// Builds what agent and operators sign for a payment past its limits.
pub(crate) fn approval_message(
    payment: &PaymentRow,
    agent: Address,
    nonce: U256,
    deadline_s: u64,
) -> ApprovedPayment {
    ApprovedPayment {
        agent,
        to: payment.payee,
        amount: U256::from(payment.amount.units()),
        nonce,
        deadline: U256::from(deadline_s),
        context: payment.context_hash,
        overrides: U256::from(payment.overrides),
        policyVersion: U256::from(payment.policy_version),
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
