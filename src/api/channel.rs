//! Operators' routes for channels.

use alloy::primitives::B256;
use axum::{Json, extract::Path};

use super::{
    caller::Operator,
    problem::{Problem, Refused},
};
use crate::{
    refusal::{Code, Refusal},
    view::{ChannelsView, ClaimsView, PurseView},
};

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

/// Closes one of the wallet's own channels: nothing more is bought with it, and what is left comes back
/// after its delay.
#[utoipa::path(
    post, path = "/v1/operator/channels/{id}/close", tag = "operator", operation_id = "closeChannel",
    security(("operator" = [])),
    params(("id" = String, Path, description = "0x and 64 hexadecimal digits")),
    responses(
        (status = 200, description = "The channel", body = PurseView),
        (status = "4XX", description = "Refused",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn close(
    Path(id): Path<String>,
    operator: Operator,
) -> Result<Json<PurseView>, Refused> {
    let id: B256 = id.parse().map_err(|_| {
        let detail = "a channel's id is 0x and 64 hexadecimal digits";
        Refusal::new(Code::InvalidRequest, detail)
    })?;
    Ok(Json(operator.close_channel(id).await?))
}
