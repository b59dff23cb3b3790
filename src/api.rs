//! The HTTP surface: routes, authentication, problem details, OpenAPI. Thin: it translates.
//!
//! No handler can reach the engine but through `caller::{Agent, Operator, Public}`, and each of
//! them offers only its own verbs: forgetting to authenticate, or freezing from an agent's route,
//! does not compile.

mod agent;
mod caller;
mod channel;
mod escrow;
mod facilitator;
mod frame;
mod operator;
mod problem;
mod public;
mod webhooks;

use std::{sync::Arc, time::Duration};

use axum::{Router, middleware};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{ApiKey, ApiKeyValue, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::engine::Engine;

pub use self::{
    escrow::EscrowQuery,
    operator::{OperatorQuery, TightenReceipt},
    problem::Problem,
    public::Ready,
    webhooks::{DeliveryQuery, ReplayReceipt},
};

/// What the surface needs to know beside the engine.
#[derive(Clone, Debug)]
pub struct ApiConfig {
    /// The origin that callers sign over, without a trailing slash: `https://wallet.example.com`.
    pub public_origin: String,
    /// Largest body, in bytes.
    pub body_limit: usize,
    /// Longest time an answer may take.
    pub timeout: Duration,
}

impl ApiConfig {
    /// Takes the origin; bodies up to 64 KiB, answers within 30 s.
    pub fn new(public_origin: impl Into<String>) -> Self {
        let origin = public_origin.into();
        Self {
            public_origin: origin.trim_end_matches('/').to_owned(),
            body_limit: 64 * 1024,
            timeout: Duration::from_secs(30),
        }
    }
}

/// Builds the whole surface.
pub fn router(engine: Engine, config: ApiConfig) -> Router {
    let config = Arc::new(config);
    let (router, _) = routes().split_for_parts();
    router
        .fallback(frame::no_such_route)
        .method_not_allowed_fallback(frame::wrong_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&config), frame::frame))
        .with_state(caller::Api::new(engine, config))
}

/// Returns the OpenAPI document, as `GET /openapi.json` serves it.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().split_for_parts().1
}

fn routes() -> OpenApiRouter<caller::Api> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(agent::submit, agent::list))
        .routes(routes!(agent::show))
        .routes(routes!(agent::simulate))
        .routes(routes!(agent::permissions))
        .routes(routes!(agent::fetch))
        .routes(routes!(agent::purchases))
        .routes(routes!(agent::purchase))
        .routes(routes!(escrow::open, escrow::list))
        .routes(routes!(escrow::show))
        .routes(routes!(escrow::act))
        .routes(routes!(escrow::all))
        .routes(routes!(escrow::any))
        .routes(routes!(escrow::hand_in))
        .routes(routes!(escrow::approvals))
        .routes(routes!(escrow::approval))
        .routes(routes!(escrow::approve))
        .routes(routes!(operator::approvals))
        .routes(routes!(operator::approval))
        .routes(routes!(operator::approve))
        .routes(routes!(operator::reject))
        .routes(routes!(operator::payments))
        .routes(routes!(operator::payment))
        .routes(routes!(operator::agents))
        .routes(routes!(operator::payees))
        .routes(routes!(operator::tighten))
        .routes(routes!(operator::proposals, operator::propose))
        .routes(routes!(operator::proposal))
        .routes(routes!(operator::sign_proposal))
        .routes(routes!(operator::apply_proposal))
        .routes(routes!(operator::cancel_proposal))
        .routes(routes!(operator::status))
        .routes(routes!(channel::list))
        .routes(routes!(channel::claim))
        .routes(routes!(channel::close))
        .routes(routes!(webhooks::list))
        .routes(routes!(webhooks::deliveries))
        .routes(routes!(webhooks::enable))
        .routes(routes!(webhooks::test))
        .routes(routes!(webhooks::replay))
        .routes(routes!(facilitator::supported))
        .routes(routes!(facilitator::verify))
        .routes(routes!(facilitator::settle))
        .routes(routes!(public::wallet))
        .routes(routes!(public::health))
        .routes(routes!(public::ready))
        .routes(routes!(public::metrics))
        .routes(routes!(public::openapi))
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "bursar",
        description = "A self-hosted USDC wallet for AI agents. Refusals are RFC 9457 problems that \
                       say which rule, what is left, when to come back and whether money moved.",
    ),
    components(schemas(Problem)),
    tags(
        (name = "agent", description = "What an agent may ask. Nothing here changes a limit."),
        (name = "operator", description = "What operators see and sign."),
        (name = "facilitator", description = "x402: settles payments of others, where it is enabled."),
        (name = "public", description = "Needs no signature."),
    ),
    modifiers(&Security),
)]
struct Document;

struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let header = |name, text| {
            SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(name, text)))
        };
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(
            "agent",
            header(
                "Signature",
                "RFC 9421, Ed25519: Content-Digest, Signature-Input (tag=\"bursar-agent\"), \
                 Signature. See docs/api.md.",
            ),
        );
        components.add_security_scheme(
            "operator",
            header(
                "Bursar-Operator",
                "An operator's EIP-712 signature over method, target, body, time and nonce. See \
                 docs/api.md.",
            ),
        );
    }
}

#[cfg(test)]
mod tests;
