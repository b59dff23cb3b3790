//! Operators' routes for channels.

use axum::Json;

use super::{
    caller::Operator,
    problem::{Problem, Refused},
};
use crate::view::{ChannelsView, ClaimsView};

/// Lists channels: those that we are paid through, those that owe first, and the wallet's own.
#[utoipa::path(
    get, path = "/v1/operator/channels", tag = "operator", operation_id = "listChannels",
    security(("operator" = [])),
    responses(
        (status = 200, description = "At most 500 of each kind", body = ChannelsView),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn list(operator: Operator) -> Result<Json<ChannelsView>, Refused> {
    Ok(Json(operator.channels().await?))
}

/// Claims now what channels owe, whatever it is. It does so by itself by value, age and risk.
#[utoipa::path(
    post, path = "/v1/operator/channels/claim", tag = "operator", operation_id = "claimChannels",
    security(("operator" = [])),
    responses(
        (status = 200, description = "What was sent", body = ClaimsView),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn claim(operator: Operator) -> Result<Json<ClaimsView>, Refused> {
    Ok(Json(operator.claim_channels().await?))
}
