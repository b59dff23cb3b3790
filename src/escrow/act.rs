//! Acting: what a party asks of an escrow becomes a signed, stored transaction, or a refusal that
//! says why the contract would not take it.

use alloy::{
    primitives::{Address, B256, Bytes, Signature, U256, keccak256},
    rpc::types::TransactionReceipt,
    signers::SignerSync as _,
    sol_types::SolCall as _,
};
use serde_json::{Value, json};

use super::{
    ActionKind, ActionRequest, ActionState, EscrowView, Signed, refund,
    refuse::explain,
    release::{self, Ask},
    request::{amount, check_url},
    show, unknown,
};
use crate::{
    audit::{Draft, EventKind},
    contract::{
        self,
        escrow::{Dispute, EscrowDispute, IEscrowPayer, IWorkEscrow, Submit, Void},
    },
    engine::{EngineError, Inner},
    payment::{AgentId, FundsMoved},
    refusal::{Code, Refusal},
    rpc::{At, Head, RpcError},
    store::{ActionRow, EscrowRow, OpenTx, Tx, TxKind},
    submit::{self, Manifest, Outgoing},
};

/// Gas of a step beside what follows.
const GAS_STEP: u64 = 500_000;
/// Gas of one more payout.
const GAS_PAYOUT: u64 = 80_000;
/// Gas for each operator's signature.
const GAS_SIGNATURE: u64 = 400_000;

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    Agent(AgentId),
    Operator(Address),
    Daemon,
}

impl Caller {
    pub(super) fn name(&self) -> String {
        match self {
            Self::Agent(agent) => format!("agent:{agent}"),
            Self::Operator(operator) => format!("operator:{operator}"),
            Self::Daemon => "daemon".into(),
        }
    }

    /// Begins to write what this one does. What the daemon does by itself, one daemon does for all.
    pub(super) async fn begin(&self, inner: &Inner) -> Result<Tx, EngineError> {
        match self {
            Self::Agent(_) | Self::Operator(_) => Ok(inner.store.begin().await?),
            Self::Daemon => inner.begin_as_keeper().await,
        }
    }
}

/// A call, and what it is.
pub(super) struct Plan {
    pub kind: ActionKind,
    /// What would happen, without signatures and deadlines: the same twice is one action.
    pub effect: Value,
    pub target: Address,
    pub calldata: Bytes,
    /// The payer's word above the agent's ceiling: the quorum signs first.
    pub ask: Option<Ask>,
    /// Why it cannot be done, unless it was asked before.
    pub refusal: Option<Refusal>,
}

/// Does what is asked, or finds that it was asked before.
pub(crate) async fn act(
    inner: &Inner,
    caller: Caller,
    id: B256,
    request: ActionRequest,
) -> Result<EscrowView, Refusal> {
    let escrow = find(inner, &caller, id).await?;
    let plan = plan(inner, &caller, &escrow, request).await?;
    let fingerprint = keccak256(json!([plan.kind, plan.effect]).to_string());
    let before = inner.store.escrow_actions(id).await?;
    let known = before
        .iter()
        .any(|action| action.fingerprint == fingerprint && action.state != ActionState::Failed);
    if known {
        return show::one(inner, &escrow).await;
    }
    let under_way = before
        .iter()
        .any(|action| action.kind == ActionKind::Refund && action.state == ActionState::Sent);
    let takes = match plan.refusal {
        // The amount is over what came back before: that must be final first.
        _ if plan.kind == ActionKind::Refund && under_way => {
            Err(Refusal::new(Code::Conflict, "another refund is on its way")
                .rule("escrow.under_way")
                .hint("ask again when it is done"))
        }
        Some(refusal) => Err(refusal),
        None if plan.ask.is_none() => dry_run(inner, plan.target, &plan.calldata).await,
        None => Ok(()),
    };
    if let Err(refusal) = takes {
        if refusal.code != Code::Unavailable && !matches!(caller, Caller::Daemon) {
            inner.note(story(EventKind::EscrowRefused, caller.name(), &escrow).data(json!({
                "action": plan.kind, "what": plan.effect, "refusal": refusal,
            })));
        }
        return Err(refusal);
    }
    let now_ms = inner.clock.now_ms();
    let mut action = ActionRow {
        id: format!("act_{}", uuid::Uuid::now_v7().simple()),
        escrow: id,
        kind: plan.kind,
        fingerprint,
        actor: caller.name(),
        detail: plan.effect,
        state: ActionState::Sent,
        digest: None,
        deadline_s: None,
        refusal: None,
        tx_id: None,
        tx_hash: None,
        created_ms: now_ms,
        updated_ms: now_ms,
    };
    let mut store = caller.begin(inner).await.map_err(|error| Refusal::from(&error))?;
    let Some(ask) = plan.ask else {
        let gas = gas(&escrow, 0);
        let call = outgoing(&action.id, plan.target, plan.calldata, gas);
        let open = submit::relay(inner, &mut store, call).await?;
        action.tx_id = Some(open.tx.id.clone());
        action.tx_hash = open.attempts.first().map(|attempt| attempt.hash);
        if store.insert_action(&action).await? {
            let draft = story(EventKind::EscrowActed, action.actor.clone(), &escrow)
                .tx(&open.tx.id)
                .data(action.story());
            store.append_audit(&[draft], now_ms).await?;
            store.commit().await?;
            inner.launch(open);
        }
        return show::one(inner, &escrow).await;
    };
    ask.keep(&mut action);
    if store.insert_action(&action).await? {
        let draft = story(EventKind::EscrowAwaitingApproval, action.actor.clone(), &escrow)
            .data(action.story())
            .and("digest", json!(action.digest));
        store.append_audit(&[draft], now_ms).await?;
        store.commit().await?;
    }
    show::one(inner, &escrow).await
}

/// Begins an audit entry: every one of them names the payment that funded the escrow.
pub(crate) fn story(kind: EventKind, actor: impl Into<String>, escrow: &EscrowRow) -> Draft {
    Draft::new(kind, actor).agent(&escrow.agent).payment(escrow.payment).data(json!({
        "escrow": escrow.id, "job": escrow.job_id, "milestone": escrow.milestone,
        "payee": escrow.terms.payee, "total": escrow.amount(), "state": escrow.state,
    }))
}

pub(super) fn outgoing(action: &str, target: Address, calldata: Bytes, gas: u64) -> Outgoing {
    let manifest = Manifest::Escrow { action: action.to_owned() };
    Outgoing { kind: TxKind::Escrow, target, calldata, gas, manifest }
}

pub(super) fn gas(escrow: &EscrowRow, signatures: usize) -> u64 {
    GAS_STEP + GAS_PAYOUT * escrow.payouts.len() as u64 + GAS_SIGNATURE * signatures as u64
}

/// Finds an escrow that the caller is a party to.
pub(crate) async fn find(inner: &Inner, caller: &Caller, id: B256) -> Result<EscrowRow, Refusal> {
    let escrow = inner.store.escrow(id).await?.ok_or_else(|| unknown(id))?;
    let party = match caller {
        Caller::Agent(agent) => *agent == escrow.agent || is_payee(inner, agent, &escrow),
        Caller::Operator(_) | Caller::Daemon => true,
    };
    if party { Ok(escrow) } else { Err(unknown(id)) }
}

fn is_payee(inner: &Inner, agent: &AgentId, escrow: &EscrowRow) -> bool {
    inner.book().agents.get(agent).is_some_and(|agent| agent.address == escrow.terms.payee)
}

/// What the payee says: its own agent's signature, or one handed in.
pub(super) fn payee_says(
    inner: &Inner,
    caller: &Caller,
    escrow: &EscrowRow,
    signed: Option<Signed>,
    digest: impl Fn(u64) -> B256,
) -> Result<Signed, Refusal> {
    if let Some(signed) = signed {
        return Ok(signed);
    }
    let deadline = inner.now_s() + inner.config.submit.signature_ttl_s;
    match caller {
        Caller::Agent(agent) if is_payee(inner, agent, escrow) => {
            let signature = sign(inner, agent, digest(deadline))?.as_bytes().into();
            Ok(Signed { signature, deadline })
        }
        _ => Err(Refusal::new(Code::Conflict, "only the payee can do that")
            .hint("ask as the payee's agent, or hand in the payee's signature as `signed`")),
    }
}

pub(super) fn sign(inner: &Inner, agent: &AgentId, digest: B256) -> Result<Signature, Refusal> {
    let index = inner.book().agents.get(agent).map(|agent| agent.policy.key_index);
    let index = index.ok_or_else(|| {
        Refusal::new(Code::AgentInactive, format!("there is no agent `{agent}` any more"))
    })?;
    let fault = |error: EngineError| Refusal::from(&error);
    let key = inner.keys.agent(index).map_err(|error| fault(error.into()))?;
    key.sign_hash_sync(&digest).map_err(|error| fault(error.into()))
}

async fn plan(
    inner: &Inner,
    caller: &Caller,
    escrow: &EscrowRow,
    request: ActionRequest,
) -> Result<Plan, Refusal> {
    let place = inner.place()?;
    let (id, terms, payouts) = (escrow.id, escrow.terms.clone(), escrow.payouts.clone());
    let payer = matches!(caller, Caller::Agent(agent) if *agent == escrow.agent);
    let on_escrow = |kind, effect: Value, calldata: Vec<u8>| Plan {
        kind,
        effect,
        target: place.address,
        calldata: calldata.into(),
        ask: None,
        refusal: None,
    };
    Ok(match request {
        ActionRequest::Submit { deliverable, url, signed } => {
            check_url(url.as_deref(), "url")?;
            let (hash, text) = deliverable.read("deliverable")?;
            let said = payee_says(inner, caller, escrow, signed, |deadline| {
                let message =
                    Submit { escrowId: id, deliverable: hash, deadline: U256::from(deadline) };
                contract::digest(&message, &place.domain)
            })?;
            let call = IWorkEscrow::submitCall {
                terms,
                deliverable: hash,
                deadline: U256::from(said.deadline),
                signature: said.signature,
            };
            let effect = json!({ "deliverable": hash, "text": text, "url": url });
            on_escrow(ActionKind::Submit, effect, call.abi_encode())
        }
        ActionRequest::Dispute { evidence, url, signed } => {
            check_url(url.as_deref(), "url")?;
            let (hash, text) = evidence.read("evidence")?;
            let effect = |party| json!({ "evidence": hash, "text": text, "url": url, "by": party });
            if payer && signed.is_none() {
                return payer_disputes(inner, escrow, hash, effect("payer"));
            }
            let said = payee_says(inner, caller, escrow, signed, |deadline| {
                let message =
                    Dispute { escrowId: id, evidence: hash, deadline: U256::from(deadline) };
                contract::digest(&message, &place.domain)
            })?;
            let call = IWorkEscrow::disputeCall {
                party: terms.payee,
                terms,
                evidence: hash,
                deadline: U256::from(said.deadline),
                signature: said.signature,
            };
            on_escrow(ActionKind::Dispute, effect("payee"), call.abi_encode())
        }
        ActionRequest::Award { captured, reason, signed } => {
            let captured = amount(&captured, "captured")?;
            let (hash, text) = reason.read("reason")?;
            if captured > escrow.amount() {
                let detail = "captured: more than the escrow's amount";
                return Err(Refusal::new(Code::InvalidPayment, detail).rule("body.captured"));
            }
            let refunded = escrow.amount().saturating_sub(captured);
            let call = IWorkEscrow::awardCall {
                terms,
                payouts,
                captured: captured.units(),
                refunded: refunded.units(),
                reason: hash,
                deadline: U256::from(signed.deadline),
                signature: signed.signature,
            };
            let effect = json!({
                "captured": captured, "refunded": refunded, "reason": hash, "text": text,
            });
            on_escrow(ActionKind::Award, effect, call.abi_encode())
        }
        ActionRequest::Void { signed } => {
            let said = payee_says(inner, caller, escrow, signed, |deadline| {
                let message = Void { escrowId: id, deadline: U256::from(deadline) };
                contract::digest(&message, &place.domain)
            })?;
            let call = IWorkEscrow::voidCall {
                terms,
                deadline: U256::from(said.deadline),
                signature: said.signature,
            };
            on_escrow(ActionKind::Void, json!({}), call.abi_encode())
        }
        ActionRequest::Reclaim => {
            let call = IWorkEscrow::reclaimCall { terms };
            on_escrow(ActionKind::Reclaim, json!({}), call.abi_encode())
        }
        ActionRequest::Finalize => {
            let call = IWorkEscrow::finalizeCall { terms, payouts };
            on_escrow(ActionKind::Finalize, json!({}), call.abi_encode())
        }
        ActionRequest::Withdraw { account } => {
            let account = account.unwrap_or(inner.config.chain.wallet);
            let call = IWorkEscrow::withdrawCall { account };
            // An account can be owed again and again: each time is one of its own.
            let effect = json!({ "account": account, "at_ms": inner.clock.now_ms() });
            on_escrow(ActionKind::Withdraw, effect, call.abi_encode())
        }
        ActionRequest::Refund { total, signed } => {
            refund::plan(inner, caller, escrow, total.as_deref(), signed).await?
        }
        ActionRequest::Release { .. } => release::plan(inner, payer, escrow, &request)?,
    })
}

fn payer_disputes(
    inner: &Inner,
    escrow: &EscrowRow,
    evidence: B256,
    effect: Value,
) -> Result<Plan, Refusal> {
    let agent = standing(inner, &escrow.agent)?;
    let deadline = U256::from(inner.now_s() + inner.config.submit.signature_ttl_s);
    let context = escrow.id;
    let dispute = EscrowDispute { agent, escrowId: escrow.id, evidence, deadline, context };
    let digest = contract::digest(&dispute, &inner.domain);
    let (r, vs) = inner.compact(&sign(inner, &escrow.agent, digest)?);
    let step = IWorkEscrow::disputeCall {
        terms: escrow.terms.clone(),
        party: escrow.terms.payer,
        evidence,
        deadline: U256::ZERO,
        signature: Bytes::new(),
    };
    let call = IEscrowPayer::stepEscrowCall {
        agent,
        call: step.abi_encode().into(),
        deadline,
        context,
        r,
        vs,
        quorum: Bytes::new(),
    };
    Ok(Plan {
        kind: ActionKind::Dispute,
        effect,
        target: inner.config.chain.wallet,
        calldata: call.abi_encode().into(),
        ask: None,
        refusal: None,
    })
}

/// The agent's address, unless it may say nothing in the payer's name now.
pub(super) fn standing(inner: &Inner, agent: &AgentId) -> Result<Address, Refusal> {
    let book = inner.book();
    let known = book.agents.get(agent).ok_or_else(|| {
        Refusal::new(Code::AgentInactive, format!("there is no agent `{agent}` any more"))
    })?;
    if book.wallet.frozen {
        return Err(Refusal::new(Code::WalletFrozen, "the whole wallet is frozen"));
    }
    if known.usage.frozen || known.chain.as_ref().is_some_and(|chain| chain.frozen) {
        return Err(Refusal::new(Code::AgentFrozen, "the agent is frozen")
            .hint("the quorum can still release, and one operator dispute"));
    }
    Ok(known.address)
}

impl EscrowRow {
    /// What the audit log keeps of its terms.
    pub(crate) fn story(&self) -> Value {
        json!({
            "id": self.id, "job": self.job_id, "milestone": self.milestone,
            "milestones": self.milestones, "title": self.title, "job_hash": self.job.hash,
            "terms": self.terms, "payouts": self.payouts,
        })
    }
}

/// Ends an action whose transaction is final. `why`: from [`why`].
pub(crate) async fn finished(
    store: &mut Tx,
    action: &str,
    receipt: &TransactionReceipt,
    why: Option<Refusal>,
    now_ms: i64,
    drafts: &mut Vec<Draft>,
) -> Result<(), EngineError> {
    let Some(mut row) = store.escrow_action(action).await? else {
        return Err(EngineError::Encode(format!("{action} is not in the store")));
    };
    row.tx_hash = Some(receipt.transaction_hash);
    row.refusal = why;
    row.state = if receipt.status() { ActionState::Done } else { ActionState::Failed };
    if store.move_action(ActionState::Sent, &row, now_ms).await?
        && let Some(refusal) = &row.refusal
        && let Some(escrow) = store.escrow(row.escrow).await?
    {
        let draft = story(EventKind::EscrowRefused, "chain", &escrow);
        drafts.push(
            draft
                .data(row.story())
                .and("refusal", json!(refusal))
                .and("tx", json!(receipt.transaction_hash)),
        );
    }
    Ok(())
}

/// Asks the node why an action reverted, at the block below. Asked before the store's transaction
/// begins: no writer waits for a node.
pub(crate) async fn why(
    inner: &Inner,
    open: &OpenTx,
    manifest: &Manifest,
    receipt: Option<&TransactionReceipt>,
    block: &Head,
) -> Option<Refusal> {
    let (Manifest::Escrow { .. }, Some(receipt)) = (manifest, receipt) else { return None };
    if receipt.status() {
        return None;
    }
    let at = At::Number(block.height().saturating_sub(1));
    let tx = &open.tx;
    let answer = inner.rpc.eth_call(tx.target, Some(tx.sender), &tx.calldata, at).await;
    let mut refusal = match answer {
        Err(RpcError::Refused { data, message, .. }) => explain(data.as_deref(), message),
        Ok(_) | Err(_) => Refusal::new(
            Code::Conflict,
            "the escrow had moved on when it came: look at its timeline",
        ),
    };
    // What a party signed is public now, and good until its deadline.
    refusal.funds_moved = FundsMoved::Maybe;
    Some(refusal)
}

/// Asks the contract whether it would take a call, so that whoever asked hears it now.
pub(super) async fn dry_run(
    inner: &Inner,
    target: Address,
    calldata: &Bytes,
) -> Result<(), Refusal> {
    let from = inner.relayer_addresses().first().copied();
    match inner.rpc.eth_call(target, from, calldata, inner.newest()).await {
        Ok(_) => Ok(()),
        Err(RpcError::Refused { data, message, .. }) => Err(explain(data.as_deref(), message)),
        Err(_) => Err(Refusal::new(Code::Unavailable, "the chain cannot be reached")
            .retry_after(5)
            .hint("nothing was sent; ask again when the chain can be reached")),
    }
}
