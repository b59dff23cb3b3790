//! The way out: one request, one answer, both bounded, never inside.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderName, HeaderValue};
use ipnet::IpNet;
use reqwest::{Url, redirect};
use url::Host;

use super::{Answer, call::Ready};
use crate::{
    config::FetchConfig,
    guard::{Guard, GuardError},
    refusal::{Code, Refusal},
};

/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// Bytes of an answer's header value that are handed on.
const HEADER_LIMIT: usize = 2_048;

/// Headers of an answer that a reader needs.
const HANDED_ON: [&str; 15] = [
    "cache-control",
    "content-disposition",
    "content-language",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expires",
    "last-modified",
    "link",
    "location",
    "ratelimit",
    "retry-after",
    "vary",
    "x-request-id",
];

/// Why agents cannot fetch.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// A network of the configuration.
    #[error("fetch.networks: `{0}` is no network: write it like 127.0.0.1/32")]
    Network(String),
    /// The HTTP client.
    #[error("no HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum NoAnswer {
    /// Nothing left this host.
    NotSent(Refusal),
    /// It left, and may have arrived.
    Lost(String),
}

/// An answer, read.
#[derive(Debug)]
pub(super) struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub truncated: bool,
}

impl Reply {
    /// What of it is handed on.
    pub(super) fn answer(&self) -> Answer {
        let headers = HANDED_ON
            .iter()
            .filter_map(|name| {
                let value = self.headers.get(*name)?.to_str().ok()?;
                (value.len() <= HEADER_LIMIT).then(|| ((*name).to_owned(), value.to_owned()))
            })
            .collect::<BTreeMap<_, _>>();
        let text = std::str::from_utf8(&self.body).ok().map(str::to_owned);
        let coded = text.is_none().then(|| BASE64_STANDARD.encode(&self.body));
        Answer {
            status: self.status,
            headers,
            body: text,
            body_base64: coded,
            truncated: self.truncated,
        }
    }

    /// One of its headers as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// The clients: one that may go everywhere outside, encrypted, and one for the networks inside.
pub(super) struct Web {
    tls: (reqwest::Client, Guard),
    plain: (reqwest::Client, Guard),
    timeout: Duration,
    body_limit: usize,
}

impl Web {
    pub(super) fn new(config: &FetchConfig) -> Result<Self, WebError> {
        let mut networks: Vec<IpNet> = Vec::with_capacity(config.networks.len());
        for network in &config.networks {
            networks.push(network.parse().map_err(|_| WebError::Network(network.clone()))?);
        }
        let client = |tls: bool| -> Result<(reqwest::Client, Guard), WebError> {
            let guard = Guard::new(networks.clone(), tls);
            let client = reqwest::Client::builder()
                .user_agent(concat!("bursar/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT)
                // A redirect would lead past the policy and the guard, a proxy would connect for us.
                .redirect(redirect::Policy::none())
                .no_proxy()
                .dns_resolver(guard.clone())
                .build()?;
            Ok((client, guard))
        };
        Ok(Self {
            tls: client(true)?,
            plain: client(false)?,
            timeout: Duration::from_secs(config.timeout_s),
            body_limit: usize::try_from(config.body_kib.saturating_mul(1_024))
                .unwrap_or(usize::MAX),
        })
    }

    /// Makes one call, with these headers on top.
    pub(super) async fn send(
        &self,
        ready: &Ready,
        more: &[(HeaderName, HeaderValue)],
    ) -> Result<Reply, NoAnswer> {
        let (client, guard) = if ready.url.scheme() == "https" { &self.tls } else { &self.plain };
        reachable(&ready.url, guard).await.map_err(NoAnswer::NotSent)?;
        let mut headers = ready.headers.clone();
        for (name, value) in more {
            headers.insert(name.clone(), value.clone());
        }
        let mut request = client.request(ready.method.clone(), ready.url.clone()).headers(headers);
        if !ready.body.is_empty() {
            request = request.body(ready.body.clone());
        }
        match tokio::time::timeout(self.timeout, self.exchange(request)).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) if error.is_connect() => Err(NoAnswer::NotSent(
                Refusal::new(Code::SellerFailed, format!("cannot connect: {}", cause(error)))
                    .hint("check the URL; try again later"),
            )),
            Ok(Err(error)) => Err(NoAnswer::Lost(cause(error))),
            Err(_) => Err(NoAnswer::Lost(format!("no answer within {} s", self.timeout.as_secs()))),
        }
    }

    async fn exchange(&self, request: reqwest::RequestBuilder) -> Result<Reply, reqwest::Error> {
        let mut response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let (mut body, mut truncated) = (Vec::new(), false);
        while let Some(chunk) = response.chunk().await? {
            let room = self.body_limit - body.len();
            body.extend(chunk.iter().take(room));
            if chunk.len() > room {
                truncated = true;
                break;
            }
        }
        Ok(Reply { status, headers, body, truncated })
    }
}

/// May the URL's host be connected to? Judged again at each connection; asked first for an error in
/// words, and because an address in a URL is never resolved.
async fn reachable(url: &Url, guard: &Guard) -> Result<(), Refusal> {
    let judged = match url.host() {
        Some(Host::Ipv4(four)) => guard.judge(four.into()),
        Some(Host::Ipv6(six)) => guard.judge(six.into()),
        Some(Host::Domain(name)) => guard.resolve(name.to_owned()).await.map(drop),
        None => Ok(()),
    };
    judged.map_err(|error| match error {
        GuardError::Unresolved { .. } => Refusal::new(Code::SellerFailed, error.to_string()),
        GuardError::Plain { .. } | GuardError::Inside { .. } | GuardError::LinkLocal { .. } => {
            Refusal::new(Code::HostNotAllowed, error.to_string())
                .rule("fetch.networks")
                .hint("call a public https:// address; operators name inner networks in [fetch]")
        }
    })
}

/// The innermost reason, in one line.
fn cause(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut cause: &dyn std::error::Error = &error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    crate::review::one_line(&cause.to_string()).chars().take(160).collect()
}
