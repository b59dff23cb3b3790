//! Operators' routes to the webhooks: how endpoints fare, what went to them, and sending it again.

use axum::{Json, extract::Path};
use serde::{Deserialize, Serialize};

use super::{
    agent::page_limit,
    caller::Operator,
    problem::{Problem, Refused},
};
use crate::view::{DeliveryState, DeliveryView, ReplayBody, WebhookView};

/// What the listing of deliveries takes.
#[derive(Clone, Debug, Default, Serialize, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeliveryQuery {
    /// Only this endpoint's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Only those in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<DeliveryState>,
    /// Only this event's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<String>,
    /// 1 to 200; 50 if absent.
    #[param(minimum = 1, maximum = 200)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// How many events are sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReplayReceipt {
    /// Events, 10,000 at most; ask again for the rest.
    pub queued: u64,
}

/// Lists the webhook endpoints of the configuration, and how they fare.
#[utoipa::path(
    get, path = "/v1/operator/webhooks", tag = "operator", operation_id = "listWebhooks",
    security(("operator" = [])),
    responses(
        (status = 200, description = "The endpoints", body = Vec<WebhookView>),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(operator: Operator) -> Result<Json<Vec<WebhookView>>, Refused> {
    Ok(Json(operator.webhooks().await?))
}

/// Lists deliveries, newest event first.
#[utoipa::path(
    get, path = "/v1/operator/webhooks/deliveries", tag = "operator",
    operation_id = "listDeliveries", security(("operator" = [])), params(DeliveryQuery),
    responses(
        (status = 200, description = "Deliveries", body = Vec<DeliveryView>),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn deliveries(operator: Operator) -> Result<Json<Vec<DeliveryView>>, Refused> {
    let query: DeliveryQuery = operator.query()?;
    let limit = page_limit(query.limit)?;
    Ok(Json(operator.deliveries(&query, limit).await?))
}

/// Lets an endpoint that was disabled (it answered 410) be sent to again, at once.
#[utoipa::path(
    post, path = "/v1/operator/webhooks/{name}/enable", tag = "operator",
    operation_id = "enableWebhook", security(("operator" = [])),
    params(("name" = String, Path, description = "The endpoint's name")),
    responses(
        (status = 200, description = "The endpoint", body = WebhookView),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn enable(
    Path(name): Path<String>,
    operator: Operator,
) -> Result<Json<WebhookView>, Refused> {
    Ok(Json(operator.enable_webhook(name).await?))
}

/// Sends a `webhook.test` event to one endpoint. Its delivery tells what came of it.
#[utoipa::path(
    post, path = "/v1/operator/webhooks/{name}/test", tag = "operator",
    operation_id = "testWebhook", security(("operator" = [])),
    params(("name" = String, Path, description = "The endpoint's name")),
    responses(
        (status = 200, description = "The delivery, on its way", body = DeliveryView),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn test(
    Path(name): Path<String>,
    operator: Operator,
) -> Result<Json<DeliveryView>, Refused> {
    Ok(Json(operator.test_webhook(name).await?))
}

/// Sends events to one endpoint once more, under the same ids.
#[utoipa::path(
    post, path = "/v1/operator/webhooks/{name}/replay", tag = "operator",
    operation_id = "replayWebhooks", security(("operator" = [])),
    params(("name" = String, Path, description = "The endpoint's name")),
    request_body = ReplayBody,
    responses(
        (status = 200, description = "How many", body = ReplayReceipt),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn replay(
    Path(name): Path<String>,
    operator: Operator,
) -> Result<Json<ReplayReceipt>, Refused> {
    let body = operator.json()?;
    Ok(Json(ReplayReceipt { queued: operator.replay_webhooks(name, body).await? }))
}
