//! Escrows: agents' routes and operators'. An agent sees what it opened and what it is paid by.

use alloy::primitives::B256;
use axum::{
    Json,
    extract::Path,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};

use super::{
    agent::page_limit,
    caller::{Agent, Operator},
    problem::{Problem, Refused},
};
use crate::{
    escrow::{ActionRequest, EscrowPage, EscrowRequest, EscrowView, Opened, StepApprovalView},
    refusal::{Code, Refusal},
    view::SignatureBody,
};

/// What a listing of escrows takes.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EscrowQuery {
    /// `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// 1 to 200; 50 if absent.
    #[param(minimum = 1, maximum = 200)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

fn escrow_id(text: &str) -> Result<B256, Refusal> {
    text.parse().map_err(|_| {
        let detail = "an escrow's id is 0x and 64 hexadecimal digits";
        Refusal::new(Code::InvalidRequest, detail)
    })
}

/// Opens a job: an escrow for each of its milestones, all or none.
///
/// Each is judged as a payment to everybody who has a part of it, and waits for operators where a
/// payment would. The key names the job: the same key and body find the same job.
#[utoipa::path(
    post, path = "/v1/escrows", tag = "agent", operation_id = "openEscrow",
    security(("agent" = [])),
    params(("Idempotency-Key" = String, Header, description = "1 to 128 characters, in quotes")),
    request_body = EscrowRequest,
    responses(
        (status = 202, description = "Accepted; on their way, or waiting for operators",
            body = Opened),
        (status = 200, description = "The key found a job of before", body = Opened),
        (status = "4XX", description = "Refused; `funds_moved` says whether money moved",
            body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn open(agent: Agent) -> Result<Response, Refused> {
    let read = agent.idempotency_key().and_then(|key| Ok((key, agent.escrow_request()?)));
    let (key, request) = match read {
        Ok(read) => read,
        Err(refusal) => return Err(agent.refuse(refusal).await.into()),
    };
    let (opened, fresh) = agent.open_escrow(key, request).await?;
    let status = if fresh { StatusCode::ACCEPTED } else { StatusCode::OK };
    let first = opened.escrows.first().map(|escrow| format!("/v1/escrows/{}", escrow.id));
    let location = [(header::LOCATION, first.unwrap_or_else(|| "/v1/escrows".into()))];
    Ok((status, location, Json(opened)).into_response())
}

/// Shows an escrow with its timeline, to the agent that opened it or is paid by it.
#[utoipa::path(
    get, path = "/v1/escrows/{id}", tag = "agent", operation_id = "getEscrow",
    security(("agent" = [])),
    params(("id" = String, Path, description = "Its id on chain")),
    responses(
        (status = 200, description = "The escrow", body = EscrowView),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn show(
    Path(id): Path<String>,
    agent: Agent,
) -> Result<Json<EscrowView>, Refused> {
    let id = escrow_id(&id)?;
    Ok(Json(agent.escrow(id).await?))
}

/// Lists the escrows that the agent opened or is paid by, newest first.
#[utoipa::path(
    get, path = "/v1/escrows", tag = "agent", operation_id = "listEscrows",
    security(("agent" = [])), params(EscrowQuery),
    responses(
        (status = 200, description = "A page", body = EscrowPage),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(agent: Agent) -> Result<Json<EscrowPage>, Refused> {
    let query: EscrowQuery = agent.query()?;
    let limit = page_limit(query.limit)?;
    Ok(Json(agent.escrows(query.cursor.as_deref(), limit).await?))
}

/// Asks something of an escrow: submit, release, dispute, award, void, reclaim, finalize, withdraw.
///
/// The contract is asked first: a refusal says why it would not take it, and nothing was sent. Asking
/// the same again finds the first. What became of it stands in `actions`, where the escrow stands in
/// `state`, both final at depth.
#[utoipa::path(
    post, path = "/v1/escrows/{id}/actions", tag = "agent", operation_id = "actOnEscrow",
    security(("agent" = [])),
    params(("id" = String, Path, description = "Its id on chain")),
    request_body = ActionRequest,
    responses(
        (status = 202, description = "On its way, or waiting for operators", body = EscrowView),
        (status = "4XX", description = "Refused, with the contract's reason",
            body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn act(Path(id): Path<String>, agent: Agent) -> Result<Response, Refused> {
    let (id, request) = (escrow_id(&id)?, agent.action_request()?);
    let view = agent.escrow_act(id, request).await?;
    Ok((StatusCode::ACCEPTED, Json(view)).into_response())
}

/// Lists all escrows, newest first.
#[utoipa::path(
    get, path = "/v1/operator/escrows", tag = "operator", operation_id = "listAllEscrows",
    security(("operator" = [])), params(EscrowQuery),
    responses(
        (status = 200, description = "A page", body = EscrowPage),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn all(operator: Operator) -> Result<Json<EscrowPage>, Refused> {
    let query: EscrowQuery = operator.query()?;
    let limit = page_limit(query.limit)?;
    Ok(Json(operator.escrows(query.cursor.as_deref(), limit).await?))
}

/// Shows any escrow.
#[utoipa::path(
    get, path = "/v1/operator/escrows/{id}", tag = "operator", operation_id = "getAnyEscrow",
    security(("operator" = [])),
    params(("id" = String, Path, description = "Its id on chain")),
    responses(
        (status = 200, description = "The escrow", body = EscrowView),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn any(
    Path(id): Path<String>,
    operator: Operator,
) -> Result<Json<EscrowView>, Refused> {
    let id = escrow_id(&id)?;
    Ok(Json(operator.escrow(id).await?))
}

/// Hands in what a party signed, or does what anybody may: reclaim, finalize, withdraw.
///
/// To dispute, or to do in the payer's name whatever else the contract lets it, operators sign a change
/// `callEscrow`: a dispute is a tightening order of one of them, the rest a proposal.
#[utoipa::path(
    post, path = "/v1/operator/escrows/{id}/actions", tag = "operator",
    operation_id = "handInForEscrow",
    security(("operator" = [])),
    params(("id" = String, Path, description = "Its id on chain")),
    request_body = ActionRequest,
    responses(
        (status = 202, description = "On its way", body = EscrowView),
        (status = "4XX", description = "Refused, with the contract's reason",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn hand_in(
    Path(id): Path<String>,
    operator: Operator,
) -> Result<Response, Refused> {
    let (id, request) = (escrow_id(&id)?, operator.json()?);
    let view = operator.escrow_hand_in(id, request).await?;
    Ok((StatusCode::ACCEPTED, Json(view)).into_response())
}

/// Lists the releases above their agents' own authority that wait for operators, oldest first.
#[utoipa::path(
    get, path = "/v1/operator/escrow-approvals", tag = "operator",
    operation_id = "listEscrowApprovals",
    security(("operator" = [])),
    responses(
        (status = 200, description = "What waits", body = Vec<StepApprovalView>),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn approvals(operator: Operator) -> Result<Json<Vec<StepApprovalView>>, Refused> {
    Ok(Json(operator.escrow_approvals().await?))
}

/// Shows one of them, with the typed data to sign and its digest.
#[utoipa::path(
    get, path = "/v1/operator/escrow-approvals/{id}", tag = "operator",
    operation_id = "getEscrowApproval",
    security(("operator" = [])),
    params(("id" = String, Path, description = "`act_` and 32 hexadecimal digits")),
    responses(
        (status = 200, description = "The release", body = StepApprovalView),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn approval(
    Path(id): Path<String>,
    operator: Operator,
) -> Result<Json<StepApprovalView>, Refused> {
    Ok(Json(operator.escrow_approval(&id).await?))
}

/// Adds an operator's signature. The last one needed sends the release on its way.
#[utoipa::path(
    post, path = "/v1/operator/escrow-approvals/{id}/signatures", tag = "operator",
    operation_id = "signEscrowApproval",
    security(("operator" = [])),
    params(("id" = String, Path, description = "`act_` and 32 hexadecimal digits")),
    request_body = SignatureBody,
    responses(
        (status = 200, description = "The release with the signature", body = StepApprovalView),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn approve(
    Path(id): Path<String>,
    operator: Operator,
) -> Result<Json<StepApprovalView>, Refused> {
    let body = operator.json()?;
    Ok(Json(operator.approve_escrow(id, body).await?))
}
