//! What a request costs: the 402, for every protocol at once.

use alloy::primitives::U256;
use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use super::{Notes, Shop, Way, answer, ask::Ask};
use crate::{
    channel::scheme,
    clock,
    mpp::{self, Challenge, ChargeRequest, MppError, Problem, ProblemType},
    refusal::{Code, Refusal},
    x402::{self, PaymentRequired, Requirements, ResourceInfo, Terms, exact, v1_name},
};

/// The extension by which a buyer names its purchase.
pub(super) const IDENTIFIER: &str = "payment-identifier";
/// A number in `extra` that buyers echo and no chain shows: whoever has it was there when it was paid.
pub(super) const TICKET: &str = "ticket";

/// Why an offer cannot be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum OfferError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Header(#[from] x402::HeaderError),
    #[error(transparent)]
    Mpp(#[from] MppError),
    #[error(transparent)]
    Value(#[from] http::header::InvalidHeaderValue),
}

impl Shop {
    fn terms(&self, ask: &Ask) -> Terms {
        let chain = &self.inner.config.chain;
        Terms {
            chain_id: chain.chain_id,
            amount: U256::from(ask.route.price.units()),
            asset: chain.usdc,
            pay_to: ask.pay_to,
            max_timeout_s: ask.route.timeout_s,
        }
    }

    /// The token's domain, as offers have it.
    fn extra(&self) -> Map<String, Value> {
        let (name, version) = &self.token;
        [("name".into(), json!(name)), ("version".into(), json!(version))].into_iter().collect()
    }

    /// The offer of x402, version 2, for one way.
    pub(super) fn v2_offer(
        &self,
        ask: &Ask,
        way: Way,
        ticket: Option<&str>,
    ) -> Result<Option<Requirements>, serde_json::Error> {
        let mut extra = self.extra();
        let mut scheme = x402::EXACT;
        match way {
            Way::Exact => {}
            Way::BatchSettlement => {
                let Some(meters) = &self.inner.meters else { return Ok(None) };
                extra.extend(scheme::extra(&self.inner, meters, ask.route.price));
                scheme = x402::BATCH_SETTLEMENT;
            }
            Way::Erc7710 => {
                extra.insert("assetTransferMethod".into(), json!(exact::ERC7710));
            }
            Way::Mpp => return Ok(None),
        }
        if let Some(ticket) = ticket {
            extra.insert(TICKET.into(), json!(ticket));
        }
        Requirements::new(scheme, &self.terms(ask), extra).map(Some)
    }

    /// The offer of x402, version 1, where that version has a name for the chain.
    pub(super) fn v1_offer(&self, ask: &Ask) -> Result<Option<Requirements>, serde_json::Error> {
        let terms = self.terms(ask);
        let Some(network) = v1_name(terms.chain_id) else { return Ok(None) };
        if !ask.route.offers.contains(&Way::Exact) {
            return Ok(None);
        }
        let Value::Object(fields) = json!({
            "scheme": x402::EXACT,
            "network": network,
            "maxAmountRequired": terms.amount.to_string(),
            "resource": ask.url(self),
            "description": ask.route.description,
            "mimeType": ask.route.mime_type,
            "payTo": terms.pay_to.to_checksum(None),
            "maxTimeoutSeconds": terms.max_timeout_s,
            "asset": terms.asset.to_checksum(None),
            "extra": self.extra(),
        }) else {
            return Ok(None);
        };
        Requirements::from_fields(fields).map(Some)
    }

    /// What MPP is asked for.
    pub(super) fn charge(&self, ask: &Ask) -> ChargeRequest {
        let chain = &self.inner.config.chain;
        ChargeRequest::new(ask.route.price.units(), chain.usdc, ask.pay_to, chain.chain_id)
    }

    fn challenge(&self, ask: &Ask) -> Result<Challenge, MppError> {
        let mut challenge = Challenge::new(&self.realm, mpp::EVM, mpp::CHARGE, &self.charge(ask))?;
        let now_ms = self.inner.clock.now_ms();
        let left_ms = i64::try_from(ask.route.timeout_s.saturating_mul(1_000)).unwrap_or(i64::MAX);
        // Whole seconds: what `validBefore` can say.
        let end_ms = now_ms.saturating_add(left_ms) / 1_000 * 1_000;
        challenge.expires = Some(clock::at_ms(end_ms).to_string());
        challenge.description = Some(ask.route.description.clone());
        challenge.digest = ask.digest_field();
        let notes = Notes {
            method: ask.method.clone(),
            target: ask.target.clone(),
            once: format!("{:032x}", rand::random::<u128>()),
        };
        Ok(self.secret.seal(challenge.with_notes(&notes)?))
    }

    /// Asks for payment. `why` is x402's error, `problem` what was wrong with a credential of MPP.
    pub(super) fn required(&self, ask: &Ask, why: &str, problem: Option<Problem>) -> Response {
        self.asked(ask, why, problem, None)
    }

    /// Asks for payment through a channel, and tells its payer where that stands.
    pub(super) fn corrected(&self, ask: &Ask, why: &str, channel: Requirements) -> Response {
        self.asked(ask, why, None, Some(channel))
    }

    fn asked(
        &self,
        ask: &Ask,
        why: &str,
        problem: Option<Problem>,
        channel: Option<Requirements>,
    ) -> Response {
        self.write(ask, why, problem, channel).unwrap_or_else(|error| {
            tracing::error!(%error, "an offer cannot be written");
            answer::refuse(
                Refusal::new(Code::Internal, "the price of this route cannot be written"),
                &ask.target,
            )
        })
    }

    fn write(
        &self,
        ask: &Ask,
        why: &str,
        problem: Option<Problem>,
        mut channel: Option<Requirements>,
    ) -> Result<Response, OfferError> {
        let (route, url) = (&ask.route, ask.url(self));
        let ticket = format!("{:032x}", rand::random::<u128>());
        let mut accepts = Vec::new();
        for way in &route.offers {
            let offer = match way {
                // Channels are one daemon's; of several, the others sell by the other ways.
                Way::BatchSettlement if !self.inner.is_keeper() => continue,
                Way::BatchSettlement if channel.is_some() => {
                    channel.take().map(|offer| ticketed(&offer, &ticket)).transpose()?
                }
                way => self.v2_offer(ask, *way, Some(&ticket))?,
            };
            accepts.extend(offer);
        }
        let resource = ResourceInfo {
            url,
            description: Some(route.description.clone()),
            mime_type: Some(route.mime_type.clone()),
            other: Map::new(),
        };
        let by_mpp = route.offers.contains(&Way::Mpp);
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::PAYMENT_REQUIRED;
        let headers = response.headers_mut();
        answer::no_store(headers);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut mechanisms = Vec::new();
        if !accepts.is_empty() {
            mechanisms.push("x402");
            let required = PaymentRequired {
                x402_version: 2,
                error: Some(why.to_owned()),
                resource: Some(resource),
                accepts,
                extensions: Some(extensions()),
            };
            headers.insert(x402::PAYMENT_REQUIRED, x402::encode(&required)?.parse()?);
        }
        if by_mpp {
            mechanisms.push("mpp");
            let challenge = self.challenge(ask)?.to_header()?;
            headers.append(header::WWW_AUTHENTICATE, challenge.parse()?);
        }
        // Version 1 lives in the body; the first four are for whoever speaks neither.
        let chain = &self.inner.config.chain;
        let problem = problem.unwrap_or_else(|| Problem::new(ProblemType::PaymentRequired, why));
        let mut body = json!({
            "cost": route.price,
            "recipient": ask.pay_to.to_checksum(None),
            "payment_mechanism": mechanisms,
            "resource_description": route.description,
            "currency": "USDC",
            "cost_units": route.price.units(),
            "chain_id": chain.chain_id,
            "asset": chain.usdc.to_checksum(None),
            "error": why,
            "type": problem.kind,
            "title": problem.title,
            "status": 402,
            "detail": problem.detail,
        });
        if let Some(offer) = self.v1_offer(ask)? {
            body["x402Version"] = json!(1);
            body["accepts"] = json!([serde_json::to_value(&offer)?]);
        }
        *response.body_mut() = Body::from(body.to_string());
        Ok(response)
    }
}

/// An offer with a ticket in it.
fn ticketed(offer: &Requirements, ticket: &str) -> Result<Requirements, serde_json::Error> {
    let mut fields: Map<String, Value> = serde_json::from_value(serde_json::to_value(offer)?)?;
    fields.entry("extra").or_insert_with(|| json!({}))[TICKET] = json!(ticket);
    Requirements::from_fields(fields)
}

/// What a buyer may add.
fn extensions() -> Map<String, Value> {
    let schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "required": { "type": "boolean" },
            "id": { "type": "string", "minLength": 16, "maxLength": 128, "pattern": "^[A-Za-z0-9_-]+$" },
        },
        "required": ["required"],
    });
    let entry = json!({ "info": { "required": false }, "schema": schema });
    [(IDENTIFIER.to_owned(), entry)].into_iter().collect()
}
