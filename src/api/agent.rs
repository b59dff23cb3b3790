//! Agents' routes. None of them changes a limit, a payee, an approval or a freeze.

use axum::{
    Json,
    extract::Path,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header};
use serde::Deserialize;

use super::{
    caller::Agent,
    problem::{Problem, Refused},
};
use crate::{
    buyer::{FetchRequest, FetchView, PurchasePage, Receipt},
    payment::{PaymentId, PaymentRequest, State},
    refusal::{Code, Refusal},
    view::{PaymentPage, PaymentView, Permissions, Simulation},
};

/// Payments on a page where the caller does not say.
pub(super) const PAGE: u32 = 50;

/// Asks for a payment.
///
/// The key names the purchase: the same key and body find the same payment, however often and
/// however parallel; the same key with another body is refused (409). Poll `Location` until the
/// state is final, or ask again with the same key.
#[utoipa::path(
    post, path = "/v1/payments", tag = "agent", operation_id = "submitPayment",
    security(("agent" = [])),
    params(("Idempotency-Key" = String, Header, description = "1 to 128 characters, in quotes")),
    request_body = PaymentRequest,
    responses(
        (status = 202, description = "Accepted; on its way, or waiting for operators",
            body = PaymentView),
        (status = 200, description = "The key found a payment that has come to its end",
            body = PaymentView),
        (status = "4XX", description = "Refused; `funds_moved` says whether money moved",
            body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn submit(agent: Agent) -> Result<Response, Refused> {
    let read = agent.idempotency_key().and_then(|key| Ok((key, agent.payment_request()?)));
    let (key, request) = match read {
        Ok(read) => read,
        Err(refusal) => return Err(agent.refuse(refusal).await.into()),
    };
    let accepted = agent.submit(key, request).await?;
    let done = !accepted.fresh && accepted.payment.state.is_terminal();
    let status = if done { StatusCode::OK } else { StatusCode::ACCEPTED };
    let location = format!("/v1/payments/{}", accepted.payment.id);
    Ok((status, [(header::LOCATION, location)], Json(accepted.payment)).into_response())
}

/// Shows one of the agent's payments.
#[utoipa::path(
    get, path = "/v1/payments/{id}", tag = "agent", operation_id = "getPayment",
    security(("agent" = [])),
    params(("id" = String, Path, description = "`pay_` and 32 hexadecimal digits")),
    responses(
        (status = 200, description = "The payment", body = PaymentView),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn show(
    Path(id): Path<String>,
    agent: Agent,
) -> Result<Json<PaymentView>, Refused> {
    let id = payment_id(&id)?;
    Ok(Json(agent.payment(id).await?))
}

/// What a listing takes.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200; 50 if absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
    /// Only payments in this state.
    #[param(value_type = Option<String>)]
    state: Option<State>,
}

/// Lists the agent's payments, newest first.
#[utoipa::path(
    get, path = "/v1/payments", tag = "agent", operation_id = "listPayments",
    security(("agent" = [])), params(PageQuery),
    responses(
        (status = 200, description = "A page", body = PaymentPage),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(agent: Agent) -> Result<Json<PaymentPage>, Refused> {
    let query: PageQuery = agent.query()?;
    let limit = page_limit(query.limit)?;
    Ok(Json(agent.payments(query.state, query.cursor.as_deref(), limit).await?))
}

/// Decides without paying: the same rules in the same order, nothing reserved.
#[utoipa::path(
    post, path = "/v1/payments/simulate", tag = "agent", operation_id = "simulatePayment",
    security(("agent" = [])), request_body = PaymentRequest,
    responses(
        (status = 200, description = "What would happen, and why", body = Simulation),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn simulate(agent: Agent) -> Result<Json<Simulation>, Refused> {
    let request = agent.payment_request()?;
    Ok(Json(agent.simulate(request).await?))
}

/// Makes a call over HTTP, and pays for it where the server answers 402 and the policy allows.
///
/// The key names the purchase: the same key and body carry the same payment, however often; a repeat
/// of a call that was delivered gives the stored answer. `status` in the answer is the server's.
/// With `inspect`, the offers are shown and nothing is paid; no key is needed then.
#[utoipa::path(
    post, path = "/v1/fetch", tag = "agent", operation_id = "fetch",
    security(("agent" = [])),
    params(("Idempotency-Key" = Option<String>, Header,
        description = "1 to 128 characters, in quotes; needed unless `inspect`")),
    request_body = FetchRequest,
    responses(
        (status = 200, description = "What the server delivered, and the receipt",
            body = FetchView),
        (status = "4XX", description = "Refused; `funds_moved` says whether money moved",
            body = Problem, content_type = "application/problem+json"),
        (status = "5XX", description = "Not now, or nobody knows: send it again with the same key",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn fetch(agent: Agent) -> Result<Json<FetchView>, Refused> {
    let read = agent.fetch_request().and_then(|request| {
        let key = match agent.idempotency_key() {
            Ok(key) => Some(key),
            Err(_) if request.inspect => None,
            Err(refusal) => return Err(refusal),
        };
        Ok((key, request))
    });
    match read {
        Ok((key, request)) => Ok(Json(agent.fetch(key, request).await?)),
        Err(refusal) => Err(agent.refuse(refusal).await.into()),
    }
}

/// Shows one of the agent's purchases: what was paid for a call, and how far that has come.
#[utoipa::path(
    get, path = "/v1/purchases/{id}", tag = "agent", operation_id = "getPurchase",
    security(("agent" = [])),
    params(("id" = String, Path, description = "`pay_` and 32 hexadecimal digits")),
    responses(
        (status = 200, description = "The purchase", body = Receipt),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn purchase(
    Path(id): Path<String>,
    agent: Agent,
) -> Result<Json<Receipt>, Refused> {
    let id = payment_id(&id)?;
    Ok(Json(agent.purchase(id).await?))
}

/// What a listing of purchases takes.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PurchaseQuery {
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200; 50 if absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

/// Lists the agent's purchases, newest first.
#[utoipa::path(
    get, path = "/v1/purchases", tag = "agent", operation_id = "listPurchases",
    security(("agent" = [])), params(PurchaseQuery),
    responses(
        (status = 200, description = "A page", body = PurchasePage),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn purchases(agent: Agent) -> Result<Json<PurchasePage>, Refused> {
    let query: PurchaseQuery = agent.query()?;
    let limit = page_limit(query.limit)?;
    Ok(Json(agent.purchases(query.cursor.as_deref(), limit).await?))
}

/// Tells the agent its limits, what is used, what is left, and whom it may pay.
#[utoipa::path(
    get, path = "/v1/permissions", tag = "agent", operation_id = "getPermissions",
    security(("agent" = [])),
    responses(
        (status = 200, description = "What the agent may do now", body = Permissions),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn permissions(agent: Agent) -> Result<Json<Permissions>, Refused> {
    Ok(Json(agent.permissions().await?))
}

/// Reads an id from a path.
pub(super) fn payment_id(text: &str) -> Result<PaymentId, Refusal> {
    text.parse().map_err(|error| Refusal::new(Code::InvalidRequest, format!("{error}")))
}

/// Checks a page's length.
pub(super) fn page_limit(limit: Option<u32>) -> Result<u32, Refusal> {
    match limit.unwrap_or(PAGE) {
        limit @ 1..=200 => Ok(limit),
        limit => {
            let detail = format!("limit {limit}: a page has 1 to 200 payments");
            Err(Refusal::new(Code::InvalidRequest, detail))
        }
    }
}
