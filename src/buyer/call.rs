//! A call that can be made, and made again.

use std::collections::BTreeMap;

use alloy::primitives::{B256, keccak256};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::FetchRequest;
use crate::{
    money::Usdc,
    refusal::{Code, Refusal},
};

/// Bytes of a URL.
const URL_LIMIT: usize = 2_048;
/// Headers of a call.
const HEADERS: usize = 32;
/// Bytes of all headers of a call.
const HEADER_BYTES: usize = 8_192;

/// Headers that the daemon sets itself, or that carry credentials or a payment.
const RESERVED: [&str; 17] = [
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "expect",
    "host",
    "idempotency-key",
    "payer-metadata",
    "payment-authorization",
    "payment-signature",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "x-payment",
];

/// What is sent, each time the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Upper case.
    pub method: String,
    /// Without a fragment.
    pub url: String,
    /// Names in lower case.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Standard base64; empty: no body.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
}

/// A call ready to be sent.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

/// A request that could be read.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub call: Call,
    pub ready: Ready,
    /// Lower case, without port.
    pub host: String,
    pub path: String,
    pub max_price: Option<Usdc>,
    pub quote: Option<B256>,
    /// Hash of what is asked: a retry has the same, a reused key another.
    pub fingerprint: B256,
}

fn invalid(detail: impl Into<String>, hint: &str) -> Refusal {
    Refusal::new(Code::InvalidRequest, detail).hint(hint)
}

impl Call {
    /// Makes it ready to be sent.
    ///
    /// # Errors
    /// `invalid_request`, with what is wrong.
    pub(super) fn ready(&self) -> Result<Ready, Refusal> {
        let method: Method = self
            .method
            .parse()
            .map_err(|_| invalid("method is no HTTP method", "send GET, POST, PUT, ..."))?;
        let url: Url = self
            .url
            .parse()
            .map_err(|_| invalid("url is no URL", "send scheme, host and path: https://…"))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let wrong = || invalid(format!("header `{name}` cannot be sent"), "use plain ASCII");
            let name: HeaderName = name.parse().map_err(|_| wrong())?;
            headers.insert(name.clone(), HeaderValue::from_str(value).map_err(|_| wrong())?);
        }
        let body = BASE64_STANDARD
            .decode(&self.body)
            .map_err(|_| invalid("body_base64 is not standard base64", "pad it with ="))?;
        Ok(Ready { method, url, headers, body })
    }
}

impl Asked {
    /// Reads a request.
    ///
    /// # Errors
    /// `invalid_request`, with the field that is wrong.
    pub(super) fn read(request: &FetchRequest) -> Result<Self, Refusal> {
        if request.url.len() > URL_LIMIT {
            return Err(invalid("url is too long", "send 2,048 bytes at most"));
        }
        let mut url: Url = request
            .url
            .parse()
            .map_err(|_| invalid("url is no URL", "send scheme, host and path: https://…"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(invalid("url is not https://", "only the web is fetched"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("url holds a password", "calls are made without credentials"));
        }
        url.set_fragment(None);
        let host = url
            .host_str()
            .map(|host| host.trim_end_matches('.').to_ascii_lowercase())
            .filter(|host| !host.is_empty())
            .ok_or_else(|| invalid("url has no host", "send scheme, host and path: https://…"))?;
        let method = request.method.as_deref().unwrap_or("GET").to_ascii_uppercase();
        if !["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"].contains(&method.as_str())
        {
            return Err(invalid(
                "method is not one that is sent",
                "send GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS",
            ));
        }
        let body = match (&request.body, &request.body_base64) {
            (Some(_), Some(_)) => {
                return Err(invalid("body and body_base64 are both there", "send one of them"));
            }
            (Some(text), None) => BASE64_STANDARD.encode(text),
            (None, Some(coded)) => coded.clone(),
            (None, None) => String::new(),
        };
        let headers: BTreeMap<String, String> = request
            .headers
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .collect();
        if let Some(name) = headers.keys().find(|name| RESERVED.contains(&name.as_str())) {
            return Err(invalid(
                format!("header `{name}` is not the agent's to send"),
                "calls are made without credentials; the daemon adds the payment",
            ));
        }
        let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        if headers.len() > HEADERS || bytes > HEADER_BYTES {
            return Err(invalid("too many headers", "send 32 at most, 8 KiB in all"));
        }
        let max_price = request
            .max_price
            .as_ref()
            .map(|text| {
                text.parse::<Usdc>().map_err(|error| {
                    invalid(format!("max_price: {error}"), "send decimal USDC as a string")
                })
            })
            .transpose()?;
        let call = Call { method, url: url.to_string(), headers, body };
        let ready = call.ready()?;
        // serde_json's map is sorted: the same request, the same text.
        let asked = json!({
            "call": call, "max_price": max_price.map(Usdc::units), "quote": request.quote,
        });
        let fingerprint = keccak256(asked.to_string());
        let path = url.path().to_owned();
        Ok(Self { call, ready, host, path, max_price, quote: request.quote, fingerprint })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(url: &str) -> FetchRequest {
        serde_json::from_value(json!({ "url": url })).unwrap()
    }

    #[test]
    fn reads_what_can_be_called() {
        let asked = Asked::read(&request("https://API.Example.com./v1/x?q=1#part")).unwrap();
        assert_eq!((asked.host.as_str(), asked.path.as_str()), ("api.example.com", "/v1/x"));
        assert!(!asked.call.url.contains('#'));
        let again = Asked::read(&request("https://API.Example.com./v1/x?q=1#else")).unwrap();
        assert_eq!(again.fingerprint, asked.fingerprint);
        let other = Asked::read(&request("https://api.example.com/v1/x?q=2")).unwrap();
        assert_ne!(other.fingerprint, asked.fingerprint);
    }

    #[test]
    fn refuses_credentials_in_every_place() {
        for url in ["ftp://a.b/", "https://user:word@a.b/", "file:///etc/passwd", "nonsense", ""] {
            assert!(Asked::read(&request(url)).is_err(), "{url}");
        }
        for name in ["Authorization", "Cookie", "PAYMENT-SIGNATURE", "X-Payment", "Host"] {
            let mut with = request("https://a.b/");
            with.headers.insert(name.to_owned(), "x".to_owned());
            let refusal = Asked::read(&with).unwrap_err();
            assert!(refusal.detail.contains(&name.to_ascii_lowercase()), "{}", refusal.detail);
        }
        let mut both = request("https://a.b/");
        (both.body, both.body_base64) = (Some("x".into()), Some("eA==".into()));
        assert!(Asked::read(&both).is_err());
    }
}
