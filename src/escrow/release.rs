//! Release: the payee's side is paid on proof. The payer's own word above its agent's ceiling needs
//! the operators' quorum over the same typed data.

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol_types::SolCall as _,
};
use serde_json::{Value, json};
use tracing::warn;

use super::{
    ActionKind, ActionRequest, ActionState, StepApprovalView,
    act::{self, Caller, Plan},
    request::amount,
    show,
};
use crate::{
    audit::EventKind,
    clock,
    contract::{
        self,
        escrow::{EscrowRelease, IEscrowPayer, IWorkEscrow, Proof, by},
    },
    engine::Inner,
    money::Usdc,
    refusal::{Code, Refusal},
    store::{ActionRow, EscrowRow},
    submit,
    view::SignatureBody,
};

/// Steps listed that wait for operators.
const LISTED: u32 = 500;
/// The field of a waiting action's detail that holds the request, for the call; nobody is shown it.
const REQUEST: &str = "request";

/// What operators are asked to sign.
pub(super) struct Ask {
    pub digest: B256,
    pub deadline_s: u64,
    pub request: Value,
}

impl Ask {
    /// Keeps with a waiting action what its call will need.
    pub(super) fn keep(self, action: &mut ActionRow) {
        action.state = ActionState::AwaitingApproval;
        action.digest = Some(self.digest);
        action.deadline_s = Some(self.deadline_s);
        if let Some(detail) = action.detail.as_object_mut() {
            detail.insert(REQUEST.into(), self.request);
        }
    }
}

impl ActionRow {
    /// What people are told of it.
    pub(crate) fn story(&self) -> Value {
        let mut detail = self.detail.clone();
        if let Some(fields) = detail.as_object_mut() {
            fields.remove(REQUEST);
            fields.insert("action".into(), json!(self.kind));
            fields.insert("id".into(), json!(self.id));
        }
        detail
    }
}

/// A release that could be read.
struct Shown {
    total: Usdc,
    by_payer: bool,
    proof: Proof,
}

fn read(escrow: &EscrowRow, request: &ActionRequest) -> Result<Shown, Refusal> {
    let ActionRequest::Release { total, as_payer, arbiter, preimage, condition_data } = request
    else {
        return Err(Refusal::new(Code::Internal, "a release that is none"));
    };
    let total = match total {
        Some(text) => amount(text, "total")?,
        None => escrow.amount(),
    };
    let bare = arbiter.is_none() && preimage.is_none() && condition_data.is_none();
    let by_payer = *as_payer || bare;
    let claims = [
        (by_payer, by::PAYER),
        (arbiter.is_some(), by::ARBITER),
        (preimage.is_some(), by::PREIMAGE),
        (condition_data.is_some(), by::CONDITION),
    ]
    .into_iter()
    .filter(|(shown, _)| *shown)
    .fold(0, |bits, (_, bit)| bits | bit);
    let proof = Proof {
        claims,
        payerDeadline: U256::ZERO,
        payerSignature: Bytes::new(),
        arbiterDeadline: U256::from(arbiter.as_ref().map_or(0, |signed| signed.deadline)),
        arbiterSignature: arbiter.as_ref().map(|one| one.signature.clone()).unwrap_or_default(),
        preimage: preimage.unwrap_or_default(),
        conditionData: condition_data.clone().unwrap_or_default(),
    };
    Ok(Shown { total, by_payer, proof })
}

pub(super) fn plan(
    inner: &Inner,
    payer: bool,
    escrow: &EscrowRow,
    request: &ActionRequest,
) -> Result<Plan, Refusal> {
    let place = inner.place()?;
    let shown = read(escrow, request)?;
    let effect = json!({ "total": shown.total, "by": super::Release::of(shown.proof.claims) });
    let plan = |target, calldata, ask| Plan {
        kind: ActionKind::Release,
        effect,
        target,
        calldata,
        ask,
        refusal: None,
    };
    if !shown.by_payer {
        let call = IWorkEscrow::captureCall {
            terms: escrow.terms.clone(),
            payouts: escrow.payouts.clone(),
            cumulative: shown.total.units(),
            proof: shown.proof,
        };
        return Ok(plan(place.address, call.abi_encode().into(), None));
    }
    if !payer {
        return Err(Refusal::new(
            Code::Conflict,
            "the payer's word is the opening agent's; others need a proof",
        )
        .rule("escrow.release")
        .hint("hand in the arbiter's signature over Release, the preimage, or condition data"));
    }
    let agent = act::standing(inner, &escrow.agent)?;
    let ceiling = {
        let book = inner.book();
        let chain = book.agents.get(&escrow.agent).and_then(|agent| agent.chain);
        chain.map_or(Usdc::ZERO, |chain| chain.ceiling)
    };
    let asks = shown.total > ceiling;
    let waits_s = if asks { inner.config.payments.approval_ttl_s } else { 0 };
    let deadline_s = inner.now_s() + waits_s + inner.config.submit.signature_ttl_s;
    let message = message(escrow, agent, shown.total, deadline_s);
    let wallet = inner.config.chain.wallet;
    if asks {
        let digest = contract::digest(&message, &inner.domain);
        let request = serde_json::to_value(request).unwrap_or_default();
        return Ok(plan(wallet, Bytes::new(), Some(Ask { digest, deadline_s, request })));
    }
    Ok(plan(wallet, call(inner, escrow, message, shown.proof, Bytes::new())?, None))
}

fn message(escrow: &EscrowRow, agent: Address, total: Usdc, deadline_s: u64) -> EscrowRelease {
    EscrowRelease {
        agent,
        escrowId: escrow.id,
        cumulative: total.units(),
        deadline: U256::from(deadline_s),
        context: escrow.id,
    }
}

fn call(
    inner: &Inner,
    escrow: &EscrowRow,
    release: EscrowRelease,
    proof: Proof,
    quorum: Bytes,
) -> Result<Bytes, Refusal> {
    let digest = contract::digest(&release, &inner.domain);
    let (r, vs) = inner.compact(&act::sign(inner, &escrow.agent, digest)?);
    let step = IWorkEscrow::captureCall {
        terms: escrow.terms.clone(),
        payouts: escrow.payouts.clone(),
        cumulative: release.cumulative,
        proof,
    };
    let call = IEscrowPayer::stepEscrowCall {
        agent: release.agent,
        call: step.abi_encode().into(),
        deadline: release.deadline,
        context: release.context,
        r,
        vs,
        quorum,
    };
    Ok(call.abi_encode().into())
}

/// Lists the releases that wait for operators, oldest first.
pub(crate) async fn waiting(inner: &Inner) -> Result<Vec<StepApprovalView>, Refusal> {
    let mut views = Vec::new();
    for action in inner.store.escrow_actions_waiting(LISTED).await? {
        views.push(view(inner, &action).await?);
    }
    Ok(views)
}

fn not_waiting(id: &str) -> Refusal {
    let id: String = id.chars().take(60).collect();
    Refusal::new(Code::NotFound, format!("{id} does not wait for operators"))
        .hint("GET /v1/operator/escrow-approvals lists what does")
}

/// A waiting release, and what it would say.
async fn waiting_one(
    inner: &Inner,
    action: &ActionRow,
) -> Result<(EscrowRow, Shown, EscrowRelease, B256, u64), Refusal> {
    let escrow = inner.store.escrow(action.escrow).await?.ok_or_else(|| not_waiting(&action.id))?;
    let (Some(digest), Some(deadline_s)) = (action.digest, action.deadline_s) else {
        return Err(not_waiting(&action.id));
    };
    let request = action.detail.get(REQUEST).cloned().unwrap_or_default();
    let request: ActionRequest =
        serde_json::from_value(request).map_err(|_| not_waiting(&action.id))?;
    let shown = read(&escrow, &request)?;
    let agent = inner.book().agents.get(&escrow.agent).map(|agent| agent.address);
    let message = message(&escrow, agent.unwrap_or_default(), shown.total, deadline_s);
    Ok((escrow, shown, message, digest, deadline_s))
}

async fn view(inner: &Inner, action: &ActionRow) -> Result<StepApprovalView, Refusal> {
    let (escrow, _, message, digest, deadline_s) = waiting_one(inner, action).await?;
    let signatures = inner.store.signatures(digest).await?;
    Ok(StepApprovalView {
        action: show::action(action),
        escrow: show::one(inner, &escrow).await?,
        typed_data: contract::typed_data(&message, &inner.domain)
            .map_err(|error| Refusal::new(Code::Internal, error.to_string()))?,
        digest,
        threshold: inner.book().threshold,
        signed_by: signatures.iter().map(|row| row.signer).collect(),
        expires_at: clock::at_s(deadline_s),
    })
}

/// Shows one that waits, or waited.
pub(crate) async fn approval(inner: &Inner, id: &str) -> Result<StepApprovalView, Refusal> {
    let action = inner.store.escrow_action(id).await?.ok_or_else(|| not_waiting(id))?;
    view(inner, &action).await
}

/// Adds an operator's signature; the last one needed sends the release on its way.
pub(crate) async fn approve(
    inner: &Inner,
    id: &str,
    body: SignatureBody,
) -> Result<StepApprovalView, Refusal> {
    let action = inner.store.escrow_action(id).await?.ok_or_else(|| not_waiting(id))?;
    if action.state != ActionState::AwaitingApproval {
        return Err(Refusal::new(Code::Conflict, format!("{} is {}", action.id, action.state)));
    }
    let (escrow, _, _, digest, deadline_s) = waiting_one(inner, &action).await?;
    if deadline_s < inner.now_s() {
        return Err(Refusal::new(Code::Conflict, "it waited too long for its quorum"));
    }
    let signature = inner.check_operator(digest, &body)?;
    let now_ms = inner.clock.now_ms();
    let mut store = inner.store.begin().await?;
    let (fresh, signers) = store.add_signature(digest, &signature, now_ms).await?;
    if !fresh {
        let detail = format!("{} has approved {} already", body.signer, action.id);
        return Err(Refusal::new(Code::Conflict, detail).hint("another operator must sign"));
    }
    let (count, threshold) = (inner.count_operators(&signers), inner.book().threshold);
    let draft = act::story(EventKind::EscrowApproved, format!("operator:{}", body.signer), &escrow)
        .data(action.story())
        .and("digest", json!(digest))
        .and("signatures", json!(count))
        .and("threshold", json!(threshold));
    store.append_audit(&[draft], now_ms).await?;
    store.commit().await?;
    if count >= threshold {
        send(inner, &Caller::Operator(body.signer), action).await?;
    }
    approval(inner, id).await
}

/// Sends a release whose quorum is complete. What fails for want of the chain is tried again by
/// [`attend`]; what the contract would refuse ends here.
async fn send(inner: &Inner, by: &Caller, mut action: ActionRow) -> Result<(), Refusal> {
    let (escrow, shown, message, digest, _) = waiting_one(inner, &action).await?;
    // Only today's operators count; exactly a quorum is sent, the earliest signers first.
    let all = inner.store.signatures(digest).await?;
    let (quorum, threshold): (Vec<_>, u64) = {
        let book = inner.book();
        let theirs = all.into_iter().filter(|row| book.operators.contains(&row.signer));
        let theirs = theirs.take(usize::try_from(book.threshold).unwrap_or(usize::MAX));
        (theirs.map(|row| (row.signer, row.signature)).collect(), book.threshold)
    };
    if (quorum.len() as u64) < threshold {
        return Ok(());
    }
    let gas = act::gas(&escrow, quorum.len());
    let quorum = contract::encode_quorum(quorum);
    let calldata = call(inner, &escrow, message, shown.proof, quorum)?;
    let wallet = inner.config.chain.wallet;
    match act::dry_run(inner, wallet, &calldata).await {
        Ok(()) => {}
        Err(refusal) if refusal.code == Code::Unavailable => return Err(refusal),
        Err(refusal) => {
            fail(inner, by, action, refusal.clone()).await?;
            return Err(refusal);
        }
    }
    let now_ms = inner.clock.now_ms();
    let mut store = by.begin(inner).await.map_err(|error| Refusal::from(&error))?;
    let outgoing = act::outgoing(&action.id, wallet, calldata, gas);
    let open = submit::relay(inner, &mut store, outgoing).await?;
    action.state = ActionState::Sent;
    action.tx_id = Some(open.tx.id.clone());
    action.tx_hash = open.attempts.first().map(|attempt| attempt.hash);
    if store.move_action(ActionState::AwaitingApproval, &action, now_ms).await? {
        let draft = act::story(EventKind::EscrowActed, action.actor.clone(), &escrow);
        store.append_audit(&[draft.tx(&open.tx.id).data(action.story())], now_ms).await?;
        store.commit().await?;
        inner.launch(open);
    }
    Ok(())
}

/// Ends a waiting release.
async fn fail(
    inner: &Inner,
    by: &Caller,
    mut action: ActionRow,
    why: Refusal,
) -> Result<(), Refusal> {
    let now_ms = inner.clock.now_ms();
    action.state = ActionState::Failed;
    action.refusal = Some(why.clone());
    let mut store = by.begin(inner).await.map_err(|error| Refusal::from(&error))?;
    if store.move_action(ActionState::AwaitingApproval, &action, now_ms).await?
        && let Some(escrow) = store.escrow(action.escrow).await?
    {
        let draft = act::story(EventKind::EscrowRefused, Caller::Daemon.name(), &escrow);
        let draft = draft.data(action.story()).and("refusal", json!(why));
        store.append_audit(&[draft], now_ms).await?;
        store.commit().await?;
    }
    Ok(())
}

/// Looks after the releases that wait: sends what is complete, ends what waited too long.
pub(crate) async fn attend(inner: &Inner) -> Result<(), Refusal> {
    let (now_s, by) = (inner.now_s(), &Caller::Daemon);
    for action in inner.store.escrow_actions_waiting(LISTED).await? {
        if action.deadline_s.is_some_and(|deadline| deadline < now_s) {
            let why = Refusal::new(Code::Conflict, "no quorum of operators in time");
            fail(inner, by, action, why).await?;
        } else if let Err(refusal) = send(inner, by, action).await {
            warn!(detail = refusal.detail, "a release could not be sent");
        }
    }
    Ok(())
}
