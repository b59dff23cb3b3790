//! What a 402 asks for: every offer of it, by whatever protocol, as it came.

use std::sync::Arc;

use alloy::primitives::{Address, B256, U256, keccak256};
use jiff::Timestamp;
use reqwest::Url;
use serde_json::{Value, json};

use super::web::Reply;
use crate::{
    mpp::{self, Challenge, ChargeRequest},
    x402::{self, PaymentRequired, Requirements, Terms, exact},
};

/// Offers of one answer that are looked at.
const MOST: usize = 32;
/// Seconds for which an MPP challenge without an end is paid.
const CHALLENGE_S: u64 = 300;
/// Characters of a seller's text that are shown.
const SHOWN: usize = 120;

/// An offer as its protocol writes it: what a payment answers to.
#[derive(Clone, Debug)]
pub(super) enum Wire {
    /// x402 version 2, with everything that was offered beside it.
    V2(Arc<PaymentRequired>, Requirements),
    /// x402 version 1.
    V1(Requirements),
    /// MPP.
    Mpp(Box<Challenge>),
}

/// One offer.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub wire: Wire,
    /// `exact`, ... in the seller's words, like the four after it: for showing.
    pub scheme: String,
    pub network: String,
    pub asset: String,
    pub price: String,
    pub pay_to: String,
    /// What it asks for; else what about it cannot be used.
    pub terms: Result<Terms, String>,
    /// The host that it says is paid for, where it names one.
    pub resource_host: Option<String>,
    /// Names what it asks for, however it is written.
    pub quote: B256,
}

/// Everything a 402 offers.
#[derive(Clone, Debug, Default)]
pub(super) struct Quote {
    pub offers: Vec<Offer>,
    /// Why payment is asked for, in the seller's words.
    pub error: Option<String>,
}

impl Wire {
    pub(super) const fn protocol(&self) -> &'static str {
        match self {
            Self::V2(..) => "x402",
            Self::V1(_) => "x402-v1",
            Self::Mpp(_) => "mpp",
        }
    }

    /// Does it want the payer's contract to be asked to pay (ERC-7710)?
    pub(super) fn is_delegated(&self) -> bool {
        matches!(self, Self::V2(_, accepted) if exact::transfer_method(accepted) == exact::ERC7710)
    }

    /// Is it paid through a channel?
    pub(super) fn is_channel(&self) -> bool {
        matches!(self, Self::V2(_, accepted) if accepted.scheme() == x402::BATCH_SETTLEMENT)
    }

    /// The seller's own text, for the record.
    pub(super) fn record(&self) -> Value {
        match self {
            Self::V2(_, accepted) | Self::V1(accepted) => json!(accepted),
            Self::Mpp(challenge) => json!(challenge),
        }
    }
}

fn host_of(url: &str) -> Option<String> {
    let url: Url = url.parse().ok()?;
    url.host_str().map(|host| host.trim_end_matches('.').to_ascii_lowercase())
}

/// Shortens a stranger's text to one line.
pub(super) fn shown(text: &str) -> String {
    crate::review::one_line(text).chars().take(SHOWN).collect()
}

impl Offer {
    fn x402(wire: Wire, accepted: &Requirements, resource: Option<&str>) -> Self {
        let text = |key| shown(accepted.get(key).and_then(Value::as_str).unwrap_or_default());
        let terms = accepted.terms().map_err(|error| shown(&error.to_string()));
        let (asset, pay_to) = (text("asset"), text("payTo"));
        let price = Some(text("amount"))
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| text("maxAmountRequired"));
        // By value where it can be read, so that a quote survives another spelling.
        let quote = match &terms {
            Ok(terms) => quote_x402(&wire, accepted, terms, terms.pay_to),
            Err(_) => named(&json!([
                wire.protocol(),
                accepted.scheme(),
                accepted.network(),
                asset,
                price,
                pay_to
            ])),
        };
        Self {
            scheme: shown(accepted.scheme()),
            network: shown(accepted.network()),
            asset,
            price,
            pay_to,
            terms,
            resource_host: resource.and_then(host_of),
            quote,
            wire,
        }
    }

    /// Returns the quote of the same offer to another payee; `None` where it cannot be read.
    pub(super) fn quote_to(&self, payee: Address) -> Option<B256> {
        let terms = self.terms.as_ref().ok()?;
        Some(match &self.wire {
            Wire::V2(_, accepted) | Wire::V1(accepted) => {
                quote_x402(&self.wire, accepted, terms, payee)
            }
            Wire::Mpp(_) => {
                let asks = [&self.scheme, &self.network, &self.asset, &self.price];
                quote_mpp(asks, &payee.to_string())
            }
        })
    }

    fn mpp(challenge: Challenge, now_s: u64) -> Self {
        let request: Result<ChargeRequest, _> = challenge.terms();
        let terms = match &request {
            Ok(request) => charge(&challenge, request, now_s),
            Err(error) => Err(shown(&error.to_string())),
        };
        let (asset, pay_to, price, chain) = match &request {
            Ok(request) => (
                request.currency.to_string(),
                request.recipient.to_string(),
                shown(&request.amount),
                x402::caip2(request.method_details.chain_id),
            ),
            Err(_) => Default::default(),
        };
        let scheme = shown(&format!("{}/{}", challenge.method, challenge.intent));
        // Its id is another each time; what it asks for is not.
        let quote = quote_mpp([&scheme, &chain, &asset, &price], &pay_to);
        Self {
            wire: Wire::Mpp(Box::new(challenge)),
            scheme,
            network: chain,
            asset,
            price,
            pay_to,
            terms,
            resource_host: None,
            quote,
        }
    }
}

fn named(asks: &Value) -> B256 {
    keccak256(asks.to_string())
}

fn quote_x402(wire: &Wire, accepted: &Requirements, terms: &Terms, payee: Address) -> B256 {
    named(&json!([
        wire.protocol(),
        accepted.scheme(),
        terms.chain_id,
        terms.asset,
        terms.amount.to_string(),
        payee,
        exact::transfer_method(accepted),
    ]))
}

fn quote_mpp([scheme, chain, asset, price]: [&String; 4], payee: &str) -> B256 {
    named(&json!(["mpp", scheme, chain, asset, price, payee]))
}

/// Reads what an MPP challenge asks for.
fn charge(challenge: &Challenge, request: &ChargeRequest, now_s: u64) -> Result<Terms, String> {
    if challenge.method != mpp::EVM || challenge.intent != mpp::CHARGE {
        return Err("only evm/charge is paid".to_owned());
    }
    if !request.takes_authorization() {
        return Err("it takes no authorization, only other ways to pay".to_owned());
    }
    let is_plain = (1..=78).contains(&request.amount.len())
        && request.amount.bytes().all(|byte| byte.is_ascii_digit());
    let amount = U256::from_str_radix(&request.amount, 10).ok().filter(|_| is_plain);
    let left_s = match &challenge.expires {
        None => CHALLENGE_S,
        Some(text) => text
            .parse::<Timestamp>()
            .ok()
            .and_then(|end| u64::try_from(end.as_second()).ok())
            .and_then(|end| end.checked_sub(now_s))
            .filter(|left| *left > 0)
            .ok_or_else(|| "the challenge is over".to_owned())?,
    };
    Ok(Terms {
        chain_id: request.method_details.chain_id,
        amount: amount.ok_or_else(|| "its amount is no number".to_owned())?,
        asset: request.currency,
        pay_to: request.recipient,
        max_timeout_s: left_s,
    })
}

/// Reads the offers of a 402, as of `now_s`. What cannot be read offers nothing. Of x402, version 2 is
/// read from its header, else version 1 from the body; MPP's challenges are offers beside them.
pub(super) fn read(reply: &Reply, now_s: u64) -> Quote {
    let mut quote = of_x402(reply);
    let headers = reply.headers.get_all(mpp::WWW_AUTHENTICATE);
    let headers = headers.iter().filter_map(|value| value.to_str().ok());
    quote
        .offers
        .extend(mpp::Challenge::read_all(headers).into_iter().map(|c| Offer::mpp(c, now_s)));
    quote.offers.truncate(MOST);
    quote
}

fn of_x402(reply: &Reply) -> Quote {
    if let Some(header) = reply.header(x402::PAYMENT_REQUIRED) {
        let Ok(mut offered) = x402::decode::<PaymentRequired>(header) else {
            return Quote::default();
        };
        if offered.x402_version != 2 {
            return Quote::default();
        }
        offered.accepts.truncate(MOST);
        let offered = Arc::new(offered);
        let resource = offered.resource.as_ref().map(|resource| resource.url.as_str());
        let offers = offered.accepts.iter().map(|accepted| {
            Offer::x402(Wire::V2(Arc::clone(&offered), accepted.clone()), accepted, resource)
        });
        return Quote { offers: offers.collect(), error: offered.error.as_deref().map(shown) };
    }
    match serde_json::from_slice::<PaymentRequired>(&reply.body) {
        Ok(offered) if offered.x402_version == 1 => {
            let offers = offered.accepts.into_iter().take(MOST).map(|accepted| {
                let resource = accepted.get("resource").and_then(Value::as_str);
                let resource = resource.map(str::to_owned);
                Offer::x402(Wire::V1(accepted.clone()), &accepted, resource.as_deref())
            });
            Quote { offers: offers.collect(), error: offered.error.as_deref().map(shown) }
        }
        _ => Quote::default(),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    fn read_now(reply: &Reply) -> Quote {
        read(reply, 1_900_000_000)
    }

    const PAY_TO: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";

    fn offer(price: &str) -> Value {
        json!({
            "scheme": "exact", "network": "eip155:84532", "amount": price,
            "asset": "0x036CbD53842c5426634e7929541eC2318f3dCF7e", "payTo": PAY_TO,
            "maxTimeoutSeconds": 60, "extra": { "name": "USDC", "version": "2" },
        })
    }

    fn reply(header: Option<&Value>, body: &Value) -> Reply {
        let mut headers = HeaderMap::new();
        if let Some(offered) = header {
            let text = x402::encode(offered).unwrap();
            headers.insert("payment-required", text.parse().unwrap());
        }
        Reply { status: 402, headers, body: body.to_string().into_bytes(), truncated: false }
    }

    #[test]
    fn the_header_comes_before_the_body() {
        let v2 = json!({ "x402Version": 2, "error": "Payment\nrequired",
            "resource": { "url": "https://API.example.com/x" }, "accepts": [offer("10000")] });
        let mut v1 = offer("0");
        v1["maxAmountRequired"] = json!("500");
        v1["amount"] = Value::Null;
        v1["network"] = json!("base-sepolia");
        v1["resource"] = json!("https://api.example.com/x");
        let v1 = json!({ "x402Version": 1, "accepts": [v1] });
        let quote = read_now(&reply(Some(&v2), &v1));
        assert_eq!(quote.offers.len(), 1);
        assert_eq!(quote.offers[0].wire.protocol(), "x402");
        assert_eq!(quote.offers[0].resource_host.as_deref(), Some("api.example.com"));
        assert!(!quote.error.unwrap().contains('\n'));
        let quote = read_now(&reply(None, &v1));
        assert_eq!(quote.offers[0].wire.protocol(), "x402-v1");
        assert_eq!(quote.offers[0].price, "500");
        assert_eq!(quote.offers[0].terms.as_ref().unwrap().usdc().unwrap().units(), 500);
    }

    #[test]
    fn a_quote_names_what_is_asked_for() {
        let of = |offer: Value| {
            let v2 = json!({ "x402Version": 2, "accepts": [offer] });
            read_now(&reply(Some(&v2), &json!({}))).offers[0].quote
        };
        let mut same = offer("10000");
        same["payTo"] = json!(PAY_TO.to_ascii_lowercase());
        same["maxTimeoutSeconds"] = json!(61);
        assert_eq!(of(same), of(offer("10000")));
        assert_ne!(of(offer("10001")), of(offer("10000")));
        for key in ["payTo", "asset"] {
            let mut other = offer("10000");
            other[key] = json!("0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC");
            assert_ne!(of(other), of(offer("10000")), "{key}");
        }
        // The quote of the same offer to another payee is known without having seen that.
        let mut moved = offer("10000");
        moved["payTo"] = json!("0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC");
        let v2 = json!({ "x402Version": 2, "accepts": [moved] });
        let moved = read_now(&reply(Some(&v2), &json!({}))).offers.remove(0);
        assert_eq!(moved.quote_to(PAY_TO.parse().unwrap()), Some(of(offer("10000"))));
        assert_ne!(moved.quote_to(PAY_TO.parse().unwrap()), Some(of(offer("10001"))));
    }

    #[test]
    fn nonsense_offers_nothing() {
        for body in [json!({}), json!([]), json!({ "x402Version": 2, "accepts": [offer("1")] })] {
            assert!(read_now(&reply(None, &body)).offers.is_empty());
        }
        let many: Vec<Value> = (0..100).map(|n| offer(&n.to_string())).collect();
        let v2 = json!({ "x402Version": 2, "accepts": many });
        assert_eq!(read_now(&reply(Some(&v2), &json!({}))).offers.len(), MOST);
        let odd = json!({ "x402Version": 2, "accepts": [{ "scheme": 7, "network": "solana:x" }] });
        assert!(read_now(&reply(Some(&odd), &json!({}))).offers[0].terms.is_err());
    }

    #[test]
    fn a_challenge_is_an_offer_until_it_ends() {
        let usdc = "0x036CbD53842c5426634e7929541eC2318f3dCF7e".parse().unwrap();
        let request = ChargeRequest::new(700, usdc, PAY_TO.parse().unwrap(), 84_532);
        let mut challenge = Challenge::new("r", "evm", "charge", &request).unwrap();
        challenge.id = "abc".into();
        challenge.expires = Some("2030-03-17T17:46:40Z".into());
        let ask = |challenge: &Challenge| {
            let mut asks = reply(None, &json!({}));
            asks.headers
                .insert("www-authenticate", challenge.to_header().unwrap().parse().unwrap());
            read(&asks, 1_900_000_000 - 60).offers.remove(0)
        };
        let offer = ask(&challenge);
        let terms = offer.terms.as_ref().unwrap();
        assert_eq!((terms.usdc().unwrap().units(), terms.max_timeout_s), (700, 60));
        assert_eq!((offer.scheme.as_str(), offer.wire.protocol()), ("evm/charge", "mpp"));
        let fresh = Challenge { id: "other".into(), ..challenge.clone() };
        assert_eq!(ask(&fresh).quote, offer.quote);
        for (change, why) in [
            (
                Challenge { expires: Some("2030-03-17T17:45:00Z".into()), ..challenge.clone() },
                "over",
            ),
            (Challenge { intent: "session".into(), ..challenge.clone() }, "evm/charge"),
            (Challenge { request: "e30".into(), ..challenge.clone() }, "JSON"),
        ] {
            assert!(ask(&change).terms.unwrap_err().contains(why), "{why}");
        }
    }
}
