//! Routes without a signature: what the chain shows anyway, and what watches the daemon.

use axum::{Json, response::IntoResponse};
use http::header;
use serde::{Deserialize, Serialize};

use super::{
    caller::Public,
    problem::{Problem, Refused},
};
use crate::view::WalletView;

/// The answer of `GET /readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Ready {
    /// Always true; where it is not, the answer is 503.
    pub ready: bool,
}

/// Tells the chain, the wallet, its categories and its operators.
#[utoipa::path(
    get, path = "/v1/wallet", tag = "public", operation_id = "getWallet",
    responses((status = 200, description = "The wallet", body = WalletView)),
)]
pub(super) async fn wallet(public: Public) -> Result<Json<WalletView>, Refused> {
    Ok(Json(public.wallet().await?))
}

/// Is the process alive?
#[utoipa::path(
    get, path = "/healthz", tag = "public", operation_id = "health",
    responses((status = 200, description = "Alive", body = str, content_type = "text/plain")),
)]
pub(super) async fn health() -> &'static str {
    "ok"
}

/// Can it work: store writable, chain reached, right chain id, contract there?
#[utoipa::path(
    get, path = "/readyz", tag = "public", operation_id = "ready",
    responses(
        (status = 200, description = "Ready", body = Ready),
        (status = 503, description = "Not ready, and why",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn ready(public: Public) -> Result<Json<Ready>, Refused> {
    public.ready().await?;
    Ok(Json(Ready { ready: true }))
}

/// Metrics, as Prometheus reads them.
#[utoipa::path(
    get, path = "/metrics", tag = "public", operation_id = "metrics",
    responses((status = 200, description = "OpenMetrics", body = str,
        content_type = "application/openmetrics-text")),
)]
pub(super) async fn metrics(public: Public) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], public.metrics())
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", tag = "public", operation_id = "openapi",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)),
)]
pub(super) async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(super::openapi())
}
