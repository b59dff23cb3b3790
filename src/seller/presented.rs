//! The payment that a request shows, in any of the protocols, read into what the facilitator is asked.

use alloy::primitives::{Address, B256, keccak256};
use http::{HeaderMap, header};
use serde_json::{Map, Value};

use super::{
    Notes, Protocol, Shop, Way,
    ask::Ask,
    offer::{IDENTIFIER, TICKET},
};
use crate::{
    mpp::{self, Authorization, Challenge, ChargeRequest, Credential, Problem, ProblemType},
    x402::{
        self, FacilitatorRequest, HeaderError, PaymentPayload, Requirements, batch,
        exact::{self, Payload},
    },
};

/// Headers of requests that are for the paywall only.
const OURS: [&str; 2] = [x402::PAYMENT_SIGNATURE, x402::X_PAYMENT];

/// A payment, not verified.
pub(super) struct Presented {
    pub protocol: Protocol,
    pub request: FacilitatorRequest,
    /// As the facilitator names it.
    pub payment: String,
    /// Whose money it says it is.
    pub payer: Address,
    /// The buyer's name for its purchase, with the payer before it.
    pub identifier: Option<String>,
    /// Hash of what no chain shows of it.
    pub proof: Option<B256>,
    /// When it ends, unix seconds.
    pub valid_before_s: u64,
    /// What MPP asked.
    pub challenge: Option<Challenge>,
}

/// A payload of a channel, not verified.
pub(super) struct Channelled {
    pub offer: Requirements,
    pub payment: PaymentPayload,
    pub payload: batch::Payload,
    /// Hash of what no chain shows of it.
    pub proof: Option<B256>,
}

/// What a request shows.
pub(super) enum Shown {
    /// A payment for this request alone.
    Once(Box<Presented>),
    /// Out of a channel.
    Channel(Box<Channelled>),
}

/// Why a payment is not looked at.
pub(super) enum Unfit {
    /// It cannot be read: 400.
    Malformed(String),
    /// It is for no offer of ours: 402, with x402's word for it.
    NoOffer(&'static str),
    /// A credential of MPP: the problem says which status.
    Mpp(Problem),
}

/// Reads the payment of a request; `None` if it shows none.
pub(super) fn read(shop: &Shop, ask: &Ask, headers: &HeaderMap) -> Result<Option<Shown>, Unfit> {
    let text = |name: &str| {
        let value = headers.get(name)?;
        Some(value.to_str().map_err(|_| Unfit::Malformed(format!("{name} is not plain text"))))
    };
    let credentials: Vec<_> = credentials(headers).collect();
    let v2 = text(x402::PAYMENT_SIGNATURE).transpose()?;
    let v1 = text(x402::X_PAYMENT).transpose()?;
    match (v2, v1, credentials.as_slice()) {
        (None, None, []) => Ok(None),
        (Some(text), None, []) => x402_payment(shop, ask, decode(text)?, 2).map(Some),
        (None, Some(text), []) => x402_payment(shop, ask, decode(text)?, 1).map(Some),
        (None, None, [header]) => mpp_payment(shop, ask, header).map(once),
        _ => Err(Unfit::Malformed("the request shows more than one payment".into())),
    }
}

/// Does a request show a payment, good or bad?
pub(super) fn shows(headers: &HeaderMap) -> bool {
    OURS.iter().any(|name| headers.contains_key(*name)) || credentials(headers).next().is_some()
}

fn once(presented: Presented) -> Option<Shown> {
    Some(Shown::Once(Box::new(presented)))
}

/// The values of `Authorization` that are MPP's.
fn credentials(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let all = headers.get_all(header::AUTHORIZATION).iter();
    all.filter_map(|value| value.to_str().ok()).filter(|text| Credential::read(text).is_some())
}

/// Removes every payment from a request that goes on.
pub(super) fn strip(headers: &mut HeaderMap) {
    for name in OURS {
        headers.remove(name);
    }
    if credentials(headers).next().is_some() {
        headers.remove(header::AUTHORIZATION);
    }
}

fn decode(text: &str) -> Result<PaymentPayload, Unfit> {
    x402::decode(text).map_err(|error: HeaderError| Unfit::Malformed(error.to_string()))
}

fn x402_payment(
    shop: &Shop,
    ask: &Ask,
    payment: PaymentPayload,
    version: u8,
) -> Result<Shown, Unfit> {
    const NONE: Unfit = Unfit::NoOffer("No matching payment requirements");
    if payment.x402_version != version {
        return Err(Unfit::Malformed("x402Version is not that of the header".into()));
    }
    let broken = |_| NONE;
    let offer = if version == 1 {
        shop.v1_offer(ask).map_err(broken)?.filter(|offer| payment.is_for(offer))
    } else {
        let mut fits = None;
        let is_channel = payment.scheme() == x402::BATCH_SETTLEMENT;
        for way in &ask.route.offers {
            if is_channel == (*way == Way::BatchSettlement) {
                let offer = shop.v2_offer(ask, *way, None).map_err(broken)?;
                fits = fits
                    .or(offer.filter(|offer| payment.is_for(offer) && same_way(&payment, offer)));
            }
        }
        fits
    };
    let Some(offer) = offer else { return Err(NONE) };
    let identifier = identifier(&payment).map_err(Unfit::Malformed)?;
    let ticket = payment.accepted.as_ref().and_then(|accepted| accepted.extra_text(TICKET));
    let secret = [ticket, identifier.as_deref()].into_iter().flatten().collect::<Vec<_>>();
    let proof = (!secret.is_empty()).then(|| keccak256(secret.join("|")));
    if offer.scheme() == x402::BATCH_SETTLEMENT {
        let payload = batch::Payload::read(&payment.payload)
            .map_err(|error| Unfit::Malformed(error.to_string()))?;
        return Ok(Shown::Channel(Box::new(Channelled { offer, payment, payload, proof })));
    }
    let protocol = if version == 1 { Protocol::X402V1 } else { Protocol::X402V2 };
    let request = FacilitatorRequest {
        x402_version: Some(version),
        payment_payload: payment,
        payment_requirements: offer,
    };
    let presented = finish(shop, ask, (protocol, request), (identifier, proof, None))?;
    Ok(Shown::Once(Box::new(presented)))
}

/// `extra` may have more keys than were offered, but not another way to move the money.
fn same_way(payment: &PaymentPayload, offer: &Requirements) -> bool {
    let accepted = payment.accepted.as_ref();
    accepted.map(exact::transfer_method) == Some(exact::transfer_method(offer))
}

fn finish(
    shop: &Shop,
    ask: &Ask,
    (protocol, request): (Protocol, FacilitatorRequest),
    (identifier, proof, challenge): (Option<String>, Option<B256>, Option<Challenge>),
) -> Result<Presented, Unfit> {
    let named = shop.facilitator.identify(&request);
    let (payment, payer) = named.map_err(|declined| match protocol {
        Protocol::Mpp => Unfit::Mpp(Problem::new(ProblemType::VerificationFailed, declined.1)),
        _ => Unfit::Malformed(format!("{}: {}", declined.0, declined.1)),
    })?;
    let end = Payload::read(&request.payment_payload.payload)
        .map(|payload| payload.authorization.valid_before.saturating_to::<u64>());
    let now_s = shop.inner.now_s();
    Ok(Presented {
        protocol,
        payment,
        payer,
        identifier: identifier.map(|name| format!("{payer}:{name}")),
        proof,
        // A delegated payment does not end by itself.
        valid_before_s: end.unwrap_or(now_s.saturating_add(ask.route.timeout_s)),
        request,
        challenge,
    })
}

/// Reads the buyer's name for its purchase.
fn identifier(payment: &PaymentPayload) -> Result<Option<String>, String> {
    let entry = payment.extensions.as_ref().and_then(|all| all.get(IDENTIFIER));
    let id = entry.and_then(|entry| entry.pointer("/info/id")).filter(|id| !id.is_null());
    let Some(id) = id else { return Ok(None) };
    let is_good = |id: &&str| {
        (16..=128).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    match id.as_str().filter(is_good) {
        Some(id) => Ok(Some(id.to_owned())),
        None => Err("payment-identifier: 16 to 128 of A-Z a-z 0-9 - _".into()),
    }
}

fn mpp_payment(shop: &Shop, ask: &Ask, header: &str) -> Result<Presented, Unfit> {
    let problem = |kind, detail: &str| Unfit::Mpp(Problem::new(kind, detail));
    let malformed = |detail: &str| problem(ProblemType::MalformedCredential, detail);
    let invalid = |detail: &str| problem(ProblemType::InvalidChallenge, detail);
    let credential = match Credential::read(header) {
        Some(Ok(credential)) => credential,
        Some(Err(error)) => return Err(malformed(&error.to_string())),
        None => return Err(malformed("not a credential of `Payment`")),
    };
    let challenge = credential.challenge;
    if challenge.method != mpp::EVM || challenge.intent != mpp::CHARGE {
        return Err(problem(ProblemType::MethodUnsupported, "evm/charge is what is taken here"));
    }
    if !ask.route.offers.contains(&Way::Mpp) {
        return Err(problem(ProblemType::MethodUnsupported, "this route is not sold by MPP"));
    }
    if challenge.realm != shop.realm || !shop.secret.is_ours(&challenge) {
        return Err(invalid("the challenge is not ours, or was changed"));
    }
    let notes: Notes = challenge.notes().map_err(|_| invalid("the challenge was changed"))?;
    if (&notes.method, &notes.target) != (&ask.method, &ask.target)
        || challenge.digest != ask.digest_field()
    {
        return Err(invalid("the challenge was for another request"));
    }
    let terms: ChargeRequest = challenge.terms().map_err(|_| invalid("the terms are not ours"))?;
    if terms != shop.charge(ask) {
        return Err(invalid("the price has changed"));
    }
    let payload = Value::Object(credential.payload);
    let paid: Authorization =
        serde_json::from_value(payload).map_err(|error| malformed(&error.to_string()))?;
    let failed = |detail: &str| problem(ProblemType::VerificationFailed, detail);
    if paid.authorization.nonce != challenge.nonce() {
        return Err(failed("the authorization's nonce is not that of the challenge"));
    }
    let chain_id = shop.inner.config.chain.chain_id;
    let named = credential.source.as_deref().map(mpp::source_account);
    if named.is_some_and(|named| named != Some((chain_id, paid.authorization.from))) {
        return Err(failed("the source is not who signed"));
    }
    // The same transfer under another name: one facilitator settles both.
    let broken = |_| failed("the payment cannot be read");
    let offer = shop.v2_offer(ask, Way::Exact, None).map_err(broken)?;
    let Some(offer) = offer else { return Err(failed("this route is not sold")) };
    let exact = Payload { signature: paid.signature, authorization: paid.authorization };
    let Value::Object(payload) = serde_json::to_value(&exact).map_err(broken)? else {
        return Err(failed("the payment cannot be read"));
    };
    let request = FacilitatorRequest {
        x402_version: Some(2),
        payment_payload: PaymentPayload {
            x402_version: 2,
            resource: None,
            accepted: Some(offer.clone()),
            v1_scheme: None,
            v1_network: None,
            payload,
            extensions: None,
        },
        payment_requirements: offer,
    };
    // The chain shows a hash of the id, not the id.
    let proof = Some(keccak256(&challenge.id));
    finish(shop, ask, (Protocol::Mpp, request), (None, proof, Some(challenge)))
}

impl Presented {
    /// Is it the very payment of a sale, signature and all?
    pub(super) fn is(&self, payload: &Map<String, Value>) -> bool {
        self.request.payment_payload.payload == *payload
    }

    /// Has the challenge ended? Payments of x402 end by themselves.
    pub(super) fn is_late(&self, now_ms: i64) -> bool {
        let end = self.challenge.as_ref().and_then(|challenge| challenge.expires.as_ref());
        end.is_some_and(|end| {
            end.parse::<jiff::Timestamp>().is_ok_and(|end| end.as_millisecond() <= now_ms)
        })
    }
}
