//! A reverse proxy behind the paywall: one upstream, everything bounded, nothing of the payment passed on.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    response::Response,
};
use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use tower::{Layer as _, Service};
use tracing::warn;
use url::Url;

use super::{Gate, Paywall, Sale, answer, bodies::Bodies, sell};
use crate::refusal::{Code, Refusal};

/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(10);
/// Longest time between two pieces of an answer.
const IDLE: Duration = Duration::from_secs(60);

/// What the upstream is told of the buyer's request, by us alone.
const FORWARDED_HOST: &str = "x-forwarded-host";
const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// Why there is no proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The upstream's URL.
    #[error("upstream `{0}`: write it like http://127.0.0.1:9000, without a query")]
    Upstream(String),
    /// The HTTP client.
    #[error("no HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// Passes requests to one upstream. Cheap to clone.
#[derive(Clone)]
pub struct Proxy {
    client: reqwest::Client,
    /// Without a trailing slash.
    upstream: Arc<str>,
    /// Scheme that buyers use.
    scheme: HeaderValue,
    /// Bodies of requests that cost nothing.
    bodies: Bodies,
}

impl Proxy {
    /// Makes a proxy to `upstream`, an `http://` or `https://` URL whose path is put before every path.
    ///
    /// # Errors
    /// [`ProxyError`].
    pub fn new(paywall: &Paywall, upstream: &Url) -> Result<Self, ProxyError> {
        let is_plain = matches!(upstream.scheme(), "http" | "https")
            && upstream.has_host()
            && upstream.query().is_none()
            && upstream.fragment().is_none();
        if !is_plain {
            return Err(ProxyError::Upstream(upstream.to_string()));
        }
        let client = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .read_timeout(IDLE)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        let scheme = paywall.list().public_origin.split(':').next().unwrap_or("http");
        Ok(Self {
            client,
            upstream: upstream.as_str().trim_end_matches('/').into(),
            scheme: HeaderValue::from_str(scheme).unwrap_or(HeaderValue::from_static("http")),
            bodies: Bodies::new(&paywall.list().limits),
        })
    }

    /// Puts it behind the paywall.
    #[must_use]
    pub fn behind(self, paywall: &Paywall) -> Gate<Self> {
        paywall.layer(self)
    }

    async fn pass(self, request: Request) -> Response {
        let path = request.uri().path().to_owned();
        match self.try_pass(request).await {
            Ok(response) => response,
            Err(refusal) => answer::refuse(refusal, &path),
        }
    }

    async fn try_pass(self, request: Request) -> Result<Response, Refusal> {
        let (mut parts, body) = request.into_parts();
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
        let url = Url::parse(&format!("{}{target}", self.upstream))
            .map_err(|_| Refusal::new(Code::InvalidRequest, "the path cannot be passed on"))?;
        // What is paid for was read already, and has a place among the paid requests.
        let is_paid = parts.extensions.get::<Sale>().is_some();
        let _place = if is_paid { None } else { self.bodies.place(&body)? };
        let body = self.bodies.read(body).await?;
        let host = parts.uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok());
        self.forward(&mut parts.headers, host, parts.extensions.get::<Sale>());
        let sent = self.client.request(parts.method, url).headers(parts.headers).body(body);
        let answer = sent.send().await.map_err(|error| {
            // Where it is, is not for buyers; what they asked, not for logs.
            let error = error.without_url();
            warn!(%error, "upstream");
            Refusal::new(
                Code::BadGateway,
                "what is sold here cannot be reached; nothing was charged",
            )
            .retry_after(5)
        })?;
        let mut response = Response::new(());
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        answer::strip_hops(response.headers_mut());
        let (head, ()) = response.into_parts();
        let pieces = stream::try_unfold(answer, |mut answer| async move {
            let piece: Option<Bytes> = answer.chunk().await.map_err(reqwest::Error::without_url)?;
            Ok::<_, reqwest::Error>(piece.map(|piece| (piece, answer)))
        });
        Ok(Response::from_parts(head, Body::from_stream(pieces)))
    }

    /// Makes a buyer's headers those of a request to the upstream. `host` is what its address names.
    fn forward(&self, headers: &mut HeaderMap, host: Option<HeaderValue>, sale: Option<&Sale>) {
        answer::strip_hops(headers);
        answer::strip_like(headers, &[FORWARDED_HOST, FORWARDED_PROTO, sell::SALE, sell::PAYER]);
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::EXPECT);
        if let Some(host) = headers.remove(header::HOST).or(host) {
            headers.insert(HeaderName::from_static(FORWARDED_HOST), host);
        }
        headers.insert(HeaderName::from_static(FORWARDED_PROTO), self.scheme.clone());
        let Some(sale) = sale else { return };
        for (name, value) in [(sell::SALE, sale.id.clone()), (sell::PAYER, sale.payer_field())] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(HeaderName::from_static(name), value);
            }
        }
    }
}

impl Service<Request> for Proxy {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.pass(request).await) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_says_who_asks_whom() {
        let proxy = Proxy {
            client: reqwest::Client::new(),
            upstream: "http://127.0.0.1:1".into(),
            scheme: HeaderValue::from_static("https"),
            bodies: Bodies::new(&crate::seller::Limits::default()),
        };
        let evil = HeaderValue::from_static("evil");
        for (host, address, said) in [
            (Some("api.example.com"), None, Some("api.example.com")),
            (None, Some("other.example.com"), Some("other.example.com")),
            (None, None, None),
        ] {
            let mut headers = HeaderMap::new();
            for name in ["x-forwarded-host", "x-forwarded-proto", "bursar-payer", "bursar-sale"] {
                for name in [name.to_owned(), name.replace('-', "_")] {
                    headers.append(name.parse::<HeaderName>().unwrap(), evil.clone());
                }
            }
            if let Some(host) = host {
                headers.insert(header::HOST, HeaderValue::from_static(host));
            }
            proxy.forward(&mut headers, address.map(HeaderValue::from_static), None);
            assert!(!headers.values().any(|value| *value == evil), "{headers:?}");
            let forwarded = headers.get(FORWARDED_HOST).map(|host| host.to_str().unwrap());
            assert_eq!((forwarded, &headers[FORWARDED_PROTO]), (said, &proxy.scheme));
        }
    }
}
