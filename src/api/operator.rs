//! Operators' routes. What is signed here is judged by the contract; the daemon only carries it.

use alloy::primitives::B256;
use axum::{Json, extract::Path};
use serde::{Deserialize, Serialize};

use super::{
    agent::{page_limit, payment_id},
    caller::Operator,
    problem::{Problem, Refused},
};
use crate::{
    payment::{AgentId, Payee, State},
    refusal::{Code, Refusal},
    view::{
        AgentView, ApprovalView, PaymentPage, PaymentView, ProposalView, ProposeBody, RejectBody,
        SignatureBody, StatusView, TightenOrder,
    },
};

/// What the operators' listing of payments takes.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OperatorQuery {
    /// Only this agent's.
    #[param(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// Only payments in this state.
    #[param(value_type = Option<String>)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// 1 to 200; 50 if absent.
    #[param(minimum = 1, maximum = 200)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// The transaction that carries a tightening order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct TightenReceipt {
    /// Its hash.
    #[schema(value_type = String)]
    pub transaction: B256,
}

fn change_id(text: &str) -> Result<B256, Refusal> {
    text.parse().map_err(|_| {
        let detail = "a proposal's id is 0x and 64 hexadecimal digits";
        Refusal::new(Code::InvalidRequest, detail)
    })
}

/// Lists what waits for operators, oldest first.
#[utoipa::path(
    get, path = "/v1/operator/approvals", tag = "operator", operation_id = "listApprovals",
    security(("operator" = [])),
    responses(
        (status = 200, description = "What waits", body = Vec<ApprovalView>),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn approvals(operator: Operator) -> Result<Json<Vec<ApprovalView>>, Refused> {
    Ok(Json(operator.approvals().await?))
}

/// Shows a waiting payment, with the typed data to sign and its digest.
#[utoipa::path(
    get, path = "/v1/operator/approvals/{id}", tag = "operator", operation_id = "getApproval",
    security(("operator" = [])),
    params(("id" = String, Path, description = "`pay_` and 32 hexadecimal digits")),
    responses(
        (status = 200, description = "The approval", body = ApprovalView),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn approval(
    Path(id): Path<String>,
    operator: Operator,
) -> Result<Json<ApprovalView>, Refused> {
    let id = payment_id(&id)?;
    Ok(Json(operator.approval(id).await?))
}

/// Adds an operator's signature. The last one needed sends the payment on its way.
#[utoipa::path(
    post, path = "/v1/operator/approvals/{id}/signatures", tag = "operator", operation_id = "signApproval",
    security(("operator" = [])),
    params(("id" = String, Path, description = "`pay_` and 32 hexadecimal digits")),
    request_body = SignatureBody,
    responses(
        (status = 200, description = "The approval with the signature", body = ApprovalView),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn approve(
    Path(id): Path<String>,
    operator: Operator,
) -> Result<Json<ApprovalView>, Refused> {
    let (id, body) = (payment_id(&id)?, operator.json()?);
    Ok(Json(operator.approve(id, body).await?))
}

/// Refuses a waiting payment for good; the agent sees the reason.
#[utoipa::path(
    post, path = "/v1/operator/approvals/{id}/reject", tag = "operator", operation_id = "rejectApproval",
    security(("operator" = [])),
    params(("id" = String, Path, description = "`pay_` and 32 hexadecimal digits")),
    request_body = RejectBody,
    responses(
        (status = 200, description = "The payment, rejected", body = PaymentView),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn reject(
    Path(id): Path<String>,
    operator: Operator,
) -> Result<Json<PaymentView>, Refused> {
    let (id, body) = (payment_id(&id)?, operator.json::<RejectBody>()?);
    Ok(Json(operator.reject(id, body.reason).await?))
}

/// Lists payments of all agents, newest first.
#[utoipa::path(
    get, path = "/v1/operator/payments", tag = "operator", operation_id = "listAllPayments",
    security(("operator" = [])),
    params(OperatorQuery),
    responses(
        (status = 200, description = "A page", body = PaymentPage),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn payments(operator: Operator) -> Result<Json<PaymentPage>, Refused> {
    let query: OperatorQuery = operator.query()?;
    let limit = page_limit(query.limit)?;
    let (agent, cursor) = (query.agent.as_ref(), query.cursor.as_deref());
    Ok(Json(operator.payments(agent, query.state, cursor, limit).await?))
}

/// Shows any payment.
#[utoipa::path(
    get, path = "/v1/operator/payments/{id}", tag = "operator", operation_id = "getAnyPayment",
    security(("operator" = [])),
    params(("id" = String, Path, description = "`pay_` and 32 hexadecimal digits")),
    responses(
        (status = 200, description = "The payment", body = PaymentView),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn payment(
    Path(id): Path<String>,
    operator: Operator,
) -> Result<Json<PaymentView>, Refused> {
    let id = payment_id(&id)?;
    Ok(Json(operator.payment(id).await?))
}

/// Lists the agents, their limits, and what each could still spend if it were stolen.
#[utoipa::path(
    get, path = "/v1/operator/agents", tag = "operator", operation_id = "listAgents",
    security(("operator" = [])),
    responses(
        (status = 200, description = "The agents", body = Vec<AgentView>),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn agents(operator: Operator) -> Result<Json<Vec<AgentView>>, Refused> {
    Ok(Json(operator.agents().await?))
}

/// Tells how the daemon fares: queue, chain, gas, caps, alerts, webhooks, store.
#[utoipa::path(
    get, path = "/v1/operator/status", tag = "operator", operation_id = "getStatus",
    security(("operator" = [])),
    responses(
        (status = 200, description = "How it fares", body = StatusView),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn status(operator: Operator) -> Result<Json<StatusView>, Refused> {
    Ok(Json(operator.status().await?))
}

/// Lists the registered payees.
#[utoipa::path(
    get, path = "/v1/operator/payees", tag = "operator", operation_id = "listPayees",
    security(("operator" = [])),
    responses(
        (status = 200, description = "The payees", body = Vec<Payee>),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn payees(operator: Operator) -> Result<Json<Vec<Payee>>, Refused> {
    Ok(Json(operator.payees().await?))
}

/// Takes one operator's signed order that only tightens: freeze, lower, remove, revoke.
///
/// It holds in the daemon at once and goes to the chain next.
#[utoipa::path(
    post, path = "/v1/operator/tighten", tag = "operator", operation_id = "tighten",
    security(("operator" = [])),
    request_body = TightenOrder,
    responses(
        (status = 200, description = "Taken", body = TightenReceipt),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn tighten(operator: Operator) -> Result<Json<TightenReceipt>, Refused> {
    let order = operator.json()?;
    let transaction = operator.tighten(order).await?;
    Ok(Json(TightenReceipt { transaction }))
}

/// Lists proposals, newest first.
#[utoipa::path(
    get, path = "/v1/operator/proposals", tag = "operator", operation_id = "listProposals",
    security(("operator" = [])),
    responses(
        (status = 200, description = "The proposals", body = Vec<ProposalView>),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn proposals(operator: Operator) -> Result<Json<Vec<ProposalView>>, Refused> {
    Ok(Json(operator.proposals().await?))
}

/// Proposes a change of policy, unfreezing included. It needs the quorum and waits out its delay.
#[utoipa::path(
    post, path = "/v1/operator/proposals", tag = "operator", operation_id = "propose",
    security(("operator" = [])),
    request_body = ProposeBody,
    responses(
        (status = 200, description = "The proposal", body = ProposalView),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn propose(operator: Operator) -> Result<Json<ProposalView>, Refused> {
    let body = operator.json::<ProposeBody>()?;
    Ok(Json(operator.propose(body).await?))
}

/// Shows a proposal, with the typed data to sign and its digest.
#[utoipa::path(
    get, path = "/v1/operator/proposals/{id}", tag = "operator", operation_id = "getProposal",
    security(("operator" = [])),
    params(("id" = String, Path, description = "keccak-256 of the change")),
    responses(
        (status = 200, description = "The proposal", body = ProposalView),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn proposal(
    Path(id): Path<String>,
    operator: Operator,
) -> Result<Json<ProposalView>, Refused> {
    let id = change_id(&id)?;
    Ok(Json(operator.proposal(id).await?))
}

/// Adds an operator's signature to a proposal.
#[utoipa::path(
    post, path = "/v1/operator/proposals/{id}/signatures", tag = "operator", operation_id = "signProposal",
    security(("operator" = [])),
    params(("id" = String, Path, description = "keccak-256 of the change")),
    request_body = SignatureBody,
    responses(
        (status = 200, description = "The proposal with the signature", body = ProposalView),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn sign_proposal(
    Path(id): Path<String>,
    operator: Operator,
) -> Result<Json<ProposalView>, Refused> {
    let (id, body) = (change_id(&id)?, operator.json()?);
    Ok(Json(operator.sign_proposal(id, body).await?))
}

/// Sends a complete proposal to the chain, or runs one whose delay is over.
#[utoipa::path(
    post, path = "/v1/operator/proposals/{id}/apply", tag = "operator", operation_id = "applyProposal",
    security(("operator" = [])),
    params(("id" = String, Path, description = "keccak-256 of the change")),
    responses(
        (status = 200, description = "The proposal", body = ProposalView),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn apply_proposal(
    Path(id): Path<String>,
    operator: Operator,
) -> Result<Json<ProposalView>, Refused> {
    let id = change_id(&id)?;
    Ok(Json(operator.apply_proposal(id).await?))
}

/// Drops a proposal that is still collecting signatures.
#[utoipa::path(
    post, path = "/v1/operator/proposals/{id}/cancel", tag = "operator", operation_id = "cancelProposal",
    security(("operator" = [])),
    params(("id" = String, Path, description = "keccak-256 of the change")),
    responses(
        (status = 200, description = "The proposal, cancelled", body = ProposalView),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn cancel_proposal(
    Path(id): Path<String>,
    operator: Operator,
) -> Result<Json<ProposalView>, Refused> {
    let id = change_id(&id)?;
    Ok(Json(operator.cancel_proposal(id).await?))
}
