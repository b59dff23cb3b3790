//! The x402 facilitator's routes. Their bodies and answers are x402's; what the payment cannot be
//! blamed for (no JSON, too many requests) is a problem like everywhere.

use axum::Json;

use super::{
    caller::Seller,
    problem::{Problem, Refused},
};
use crate::x402::{Reason, SettleResponse, Supported, VerifyResponse};

/// Why a request is not answered by the chain.
const NOT_SERVED: &str = "payments to this payee are not settled here";
const UNREADABLE: &str =
    "the request needs paymentPayload and paymentRequirements, as x402 has them";

/// Tells which schemes and networks are settled here, and by whom.
#[utoipa::path(
    get, path = "/facilitator/supported", tag = "facilitator", operation_id = "x402Supported",
    responses(
        (status = 200, description = "x402's `supported`", body = Object),
        (status = 404, description = "Not enabled",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn supported(seller: Seller) -> Json<Supported> {
    Json(seller.facilitator.supported())
}

/// Looks whether a payment could be settled now; changes nothing.
#[utoipa::path(
    post, path = "/facilitator/verify", tag = "facilitator", operation_id = "x402Verify",
    request_body(content = Object, description = "x402's `{x402Version, paymentPayload, paymentRequirements}`"),
    responses(
        (status = 200, description = "x402's VerifyResponse, also where the payment is not valid",
            body = Object),
        (status = 400, description = "Not JSON",
            body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Not enabled",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn verify(seller: Seller) -> Result<Json<VerifyResponse>, Refused> {
    let invalid = |reason, why: &str| VerifyResponse {
        invalid_reason: Some(reason),
        invalid_message: Some(why.to_owned()),
        ..VerifyResponse::default()
    };
    Ok(Json(match seller.request()? {
        None => invalid(Reason::InvalidPayload, UNREADABLE),
        Some(request) if !seller.facilitator.serves(&request.payment_requirements) => {
            invalid(Reason::InvalidRequirements, NOT_SERVED)
        }
        Some(request) => seller.facilitator.verify(&request).await,
    }))
}

/// Settles a payment, once, however often it is asked for; and says so once.
#[utoipa::path(
    post, path = "/facilitator/settle", tag = "facilitator", operation_id = "x402Settle",
    request_body(content = Object, description = "x402's `{x402Version, paymentPayload, paymentRequirements}`"),
    responses(
        (status = 200, description = "x402's SettleResponse, also where it failed, or is `settlement_pending`",
            body = Object),
        (status = 400, description = "Not JSON",
            body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Not enabled",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn settle(seller: Seller) -> Result<Json<SettleResponse>, Refused> {
    let failed = |reason, network: &str, why: &str| SettleResponse {
        network: network.to_owned(),
        error_reason: Some(reason),
        error_message: Some(why.to_owned()),
        ..SettleResponse::default()
    };
    Ok(Json(match seller.request()? {
        None => failed(Reason::InvalidPayload, "", UNREADABLE),
        Some(request) if !seller.facilitator.serves(&request.payment_requirements) => {
            let network = request.payment_requirements.network();
            failed(Reason::InvalidRequirements, network, NOT_SERVED)
        }
        Some(request) => seller.facilitator.settle_for_others(&request).await,
    }))
}
