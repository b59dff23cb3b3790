//! Answers: the handler's as it is kept, receipts, and why there is none.

use alloy::primitives::B256;
use axum::{
    body::{Body, Bytes},
    response::Response,
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};

use super::{Protocol, Shop, presented::Presented};
use crate::{
    api::Problem,
    clock,
    mpp::{self, Receipt},
    payment::FundsMoved,
    refusal::{Code, Refusal},
    store::SaleRow,
    x402::{self, SettleResponse},
};

/// Headers of an answer that are kept.
const HEADERS: usize = 64;

/// Headers that belong to one connection (RFC 9110, section 7.6.1), not to what is passed on.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Headers of answers that only the paywall writes.
const OURS: [&str; 5] = [
    x402::PAYMENT_REQUIRED,
    x402::PAYMENT_RESPONSE,
    x402::X_PAYMENT_RESPONSE,
    mpp::PAYMENT_RECEIPT,
    "extension-responses",
];

/// A handler's answer as it is kept for whoever shows the same payment again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stored {
    status: u16,
    headers: Vec<(String, String)>,
    /// Base64; absent where it was too long to be kept.
    body: Option<String>,
}

impl Stored {
    /// Takes an answer's head, and its body unless that was too long.
    pub(super) fn new(head: &http::response::Parts, body: Option<&Bytes>) -> Self {
        let text = |(name, value): (&HeaderName, &HeaderValue)| {
            Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned()))
        };
        Self {
            status: head.status.as_u16(),
            headers: head.headers.iter().filter_map(text).take(HEADERS).collect(),
            body: body.map(|body| BASE64_STANDARD.encode(body)),
        }
    }

    /// Makes the answer again; `None` if its body was not kept.
    pub(super) fn response(&self) -> Option<Response> {
        let body = BASE64_STANDARD.decode(self.body.as_ref()?).ok()?;
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = StatusCode::from_u16(self.status).ok()?;
        for (name, value) in &self.headers {
            if let (Ok(name), Ok(value)) =
                (name.parse::<HeaderName>(), HeaderValue::from_str(value))
            {
                response.headers_mut().append(name, value);
            }
        }
        Some(response)
    }
}

/// Removes what belongs to one connection, and what the `Connection` header names.
pub(super) fn strip_hops(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().map(HeaderName::as_str).chain(HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Removes headers that have these names, or may seem to: CGI, and what is like it, makes one variable of
/// `Bursar-Payer` and `Bursar_Payer`.
pub(super) fn strip_like(headers: &mut HeaderMap, names: &[&str]) {
    let folded = |name: &str| {
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect::<String>()
    };
    let is_like = |name: &&HeaderName| names.contains(&folded(name.as_str()).as_str());
    let like: Vec<HeaderName> = headers.keys().filter(is_like).cloned().collect();
    for name in like {
        headers.remove(name);
    }
}

/// Removes from a handler's answer what only the paywall may say, and what its length was.
pub(super) fn clean(headers: &mut HeaderMap) {
    strip_hops(headers);
    for name in OURS {
        headers.remove(name);
    }
    headers.remove(header::CONTENT_LENGTH);
}

/// Writes a refusal.
pub(super) fn refuse(refusal: Refusal, path: &str) -> Response {
    let id = format!("req_{}", uuid::Uuid::now_v7().simple());
    let mut response = Problem::new(refusal, path, &id).into_response();
    no_store(response.headers_mut());
    response
}

/// Refuses a request for what is sold under other methods, or in another spelling.
pub(super) fn otherwise(methods: &[&str], method: &str, path: &str) -> Response {
    if methods.contains(&method) {
        let why = "something is sold here, in another spelling: mind the slash at its end and the \
                   case of its letters";
        return refuse(Refusal::new(Code::NotFound, why), path);
    }
    let allowed = methods.join(", ");
    let why = format!("this path is sold by {allowed} only");
    let mut response = refuse(Refusal::new(Code::MethodNotAllowed, why), path);
    if let Ok(allowed) = HeaderValue::from_str(&allowed) {
        response.headers_mut().insert(header::ALLOW, allowed);
    }
    response
}

/// An answer without what is in it.
pub(super) fn head_only(response: Response) -> Response {
    let (mut head, _) = response.into_parts();
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, Body::empty())
}

/// A refusal by a store or chain that cannot be asked.
pub(super) fn fault(refusal: Refusal, path: &str) -> Response {
    refuse(refusal.hint("send the same request with the same payment again"), path)
}

pub(super) fn no_store(headers: &mut HeaderMap) {
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

/// What is paid for is nobody else's.
pub(super) fn private(headers: &mut HeaderMap) {
    let now = headers.get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok());
    let merged = match now {
        None => "private".to_owned(),
        Some(now) => {
            let kept = now.split(',').map(str::trim).filter(|part| {
                !part.is_empty()
                    && !["public", "private"].contains(part)
                    && !part.starts_with("s-maxage")
            });
            std::iter::once("private").chain(kept).collect::<Vec<_>>().join(", ")
        }
    };
    if let Ok(value) = HeaderValue::from_str(&merged) {
        headers.insert(header::CACHE_CONTROL, value);
    }
}

/// Writes the receipt of a sale whose money moved.
pub(super) fn receipt(
    shop: &Shop,
    presented: &Presented,
    (sale, hash): (&SaleRow, B256),
    headers: &mut HeaderMap,
) {
    private(headers);
    let settled = SettleResponse {
        success: true,
        transaction: hash.to_string(),
        network: presented.request.payment_requirements.network().to_owned(),
        payer: Some(sale.payer.to_string()),
        ..SettleResponse::default()
    };
    match presented.protocol {
        Protocol::X402V2 | Protocol::X402V1 => say(presented.protocol, &settled, headers),
        Protocol::Mpp => {
            let receipt = Receipt {
                status: "success".into(),
                method: mpp::EVM.into(),
                timestamp: clock::at_ms(sale.updated_ms).to_string(),
                reference: hash.to_string(),
                challenge_id: presented.challenge.as_ref().map(|challenge| challenge.id.clone()),
                chain_id: Some(shop.inner.config.chain.chain_id),
                other: serde_json::Map::new(),
            };
            if let Some(value) = receipt.to_header().ok().and_then(|text| text.parse().ok()) {
                headers.insert(mpp::PAYMENT_RECEIPT, value);
            }
        }
    }
}

/// Tells a buyer of x402 what became of the settlement.
pub(super) fn say(protocol: Protocol, settled: &SettleResponse, headers: &mut HeaderMap) {
    let name = match protocol {
        Protocol::X402V2 => x402::PAYMENT_RESPONSE,
        Protocol::X402V1 => x402::X_PAYMENT_RESPONSE,
        // Receipts of MPP tell of success only.
        Protocol::Mpp => return,
    };
    if let Some(value) = x402::encode(settled).ok().and_then(|text| text.parse().ok()) {
        headers.insert(name, value);
    }
}

/// The answer while it is not known whether the money moves: not to be paid again.
pub(super) fn pending(protocol: Protocol, settled: &SettleResponse, path: &str) -> Response {
    let mut refusal = Refusal::new(
        Code::SettlementPending,
        "the payment is on its way to the chain; the answer is kept until it is there",
    )
    .retry_after(2)
    .hint("send the same request with the same payment again; sign no other");
    refusal.funds_moved = FundsMoved::Maybe;
    let mut response = refuse(refusal, path);
    say(protocol, settled, response.headers_mut());
    response
}

/// The answer after a settlement that failed for good. Nothing in it can be paid.
pub(super) fn failed(
    presented: &Presented,
    settled: &SettleResponse,
    refusal: &Refusal,
    path: &str,
) -> Response {
    let mut response = refuse(refusal.clone(), path);
    // As official servers do; a 402 of MPP would ask for another payment.
    if presented.protocol != Protocol::Mpp {
        *response.status_mut() = StatusCode::PAYMENT_REQUIRED;
    }
    say(presented.protocol, settled, response.headers_mut());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_comes_back_as_it_was_kept() {
        let response = Response::builder()
            .status(201)
            .header("content-type", "text/plain")
            .header("set-cookie", "a=1")
            .header("set-cookie", "b=2")
            .body(())
            .unwrap();
        let (head, ()) = response.into_parts();
        let kept = Stored::new(&head, Some(&Bytes::from_static(b"\0\xff")));
        let text = serde_json::to_string(&kept).unwrap();
        let again = serde_json::from_str::<Stored>(&text).unwrap().response().unwrap();
        assert_eq!((again.status(), again.headers()), (StatusCode::CREATED, &head.headers));
        assert!(Stored::new(&head, None).response().is_none());
    }

    #[test]
    fn what_belongs_to_a_connection_stays_there() {
        let mut headers = HeaderMap::new();
        for name in ["connection", "x-secret", "te", "payment-response", "content-length", "etag"] {
            headers.insert(name, HeaderValue::from_static("1"));
        }
        headers.insert("connection", HeaderValue::from_static("close, X-Secret"));
        clean(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["etag"]);
    }

    #[test]
    fn a_name_that_seems_to_be_another_goes_with_it() {
        let mut headers = HeaderMap::new();
        for name in ["bursar-payer", "bursar_payer", "Bursar.Payer", "bursar-payers", "bursarpayer"]
        {
            headers.append(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static("1"));
        }
        strip_like(&mut headers, &["bursar-payer"]);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["bursar-payers", "bursarpayer"]);
    }

    #[test]
    fn what_was_paid_for_is_not_cached_by_others() {
        for (before, after) in [
            (None, "private"),
            (Some("public, max-age=60, s-maxage=9"), "private, max-age=60"),
            (Some("no-store"), "private, no-store"),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(before) = before {
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(before));
            }
            private(&mut headers);
            assert_eq!(headers[header::CACHE_CONTROL], after);
        }
    }
}
