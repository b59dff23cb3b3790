//! One endpoint, and one request to it.

use std::{path::PathBuf, time::Duration};

use ipnet::IpNet;
use reqwest::{StatusCode, Url, redirect};
use serde::Serialize;
use serde_json::value::RawValue;
use url::Host;

use crate::{
    clock,
    config::{WebhookEndpoint, WebhooksConfig},
    guard::{Guard, GuardError},
    keys::{KeyError, WebhookSecrets},
    store::Due,
};

/// Bytes of an answer that are read; the rest is not waited for.
const ANSWER_LIMIT: usize = 4_096;
/// Characters of an answer that are kept.
const EXCERPT: usize = 160;
/// Longest time to connect.
const CONNECT: Duration = Duration::from_secs(10);

/// Why an endpoint of the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The URL.
    #[error("webhook endpoint `{name}`: url `{url}` {why}")]
    Url {
        /// The endpoint.
        name: String,
        /// What stands there.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// A network.
    #[error("webhook endpoint `{name}`: `{network}` is no network: write it like 127.0.0.1/32")]
    Network {
        /// The endpoint.
        name: String,
        /// What stands there.
        network: String,
    },
    /// The address in the URL.
    #[error("webhook endpoint `{name}`: {source}")]
    Guard {
        /// The endpoint.
        name: String,
        /// Why.
        source: GuardError,
    },
    /// The secrets.
    #[error("webhook endpoint `{name}`: {source}")]
    Secrets {
        /// The endpoint.
        name: String,
        /// Why.
        source: KeyError,
    },
    /// The HTTP client.
    #[error("webhook endpoint `{name}`: no HTTP client: {source}")]
    Client {
        /// The endpoint.
        name: String,
        /// Why.
        source: reqwest::Error,
    },
}

/// Where events go.
pub(crate) struct Endpoint {
    pub name: String,
    pub url: Url,
    pub kinds: Vec<String>,
    pub secret_file: PathBuf,
    pub concurrency: u32,
    pub timeout: Duration,
    guard: Guard,
    http: reqwest::Client,
}

/// What an endpoint answered, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// 2xx.
    Took(String),
    /// 410: it wants no more.
    Gone(String),
    /// Anything else, or nothing.
    Failed(String),
}

impl Answer {
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Took(text) | Self::Gone(text) | Self::Failed(text) => text,
        }
    }
}

/// The body of every webhook.
#[derive(Serialize)]
struct Body<'a> {
    r#type: &'a str,
    timestamp: jiff::Timestamp,
    data: &'a RawValue,
}

impl Endpoint {
    /// Makes every endpoint of the configuration.
    ///
    /// # Errors
    /// The first that can never work: a URL that is none, an address inside, secrets that cannot be
    /// read.
    pub(crate) fn all(config: &WebhooksConfig) -> Result<Vec<Self>, EndpointError> {
        let timeout = Duration::from_secs(config.timeout_s);
        config.endpoints.iter().map(|endpoint| Self::new(endpoint, timeout)).collect()
    }

    /// Makes one.
    ///
    /// # Errors
    /// As [`Endpoint::all`].
    pub(crate) fn new(config: &WebhookEndpoint, timeout: Duration) -> Result<Self, EndpointError> {
        let name = config.name.clone();
        let wrong = |why: &str| EndpointError::Url {
            name: name.clone(),
            url: config.url.clone(),
            why: why.to_owned(),
        };
        let url: Url = config.url.parse().map_err(|_| wrong("is no URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(wrong("is not https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(wrong("holds a password: webhooks are signed instead"));
        }
        let mut networks: Vec<IpNet> = Vec::with_capacity(config.networks.len());
        for network in &config.networks {
            networks.push(network.parse().map_err(|_| EndpointError::Network {
                name: name.clone(),
                network: network.clone(),
            })?);
        }
        let guard = Guard::new(networks, url.scheme() == "https");
        // An address in the URL is never resolved, and so is judged here.
        let literal = match url.host() {
            Some(Host::Ipv4(four)) => Some(four.into()),
            Some(Host::Ipv6(six)) => Some(six.into()),
            Some(Host::Domain(_)) => None,
            None => return Err(wrong("has no host")),
        };
        if let Some(address) = literal {
            let judged = guard.judge(address);
            judged.map_err(|source| EndpointError::Guard { name: name.clone(), source })?;
        }
        WebhookSecrets::read(&config.secret_file)
            .map_err(|source| EndpointError::Secrets { name: name.clone(), source })?;
        let http = reqwest::Client::builder()
            .user_agent(concat!("bursar/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .timeout(timeout)
            // A redirect would lead past the guard, a proxy would connect for us.
            .redirect(redirect::Policy::none())
            .no_proxy()
            .dns_resolver(guard.clone())
            .build()
            .map_err(|source| EndpointError::Client { name: name.clone(), source })?;
        Ok(Self {
            name,
            url,
            kinds: config.kinds.clone(),
            secret_file: config.secret_file.clone(),
            concurrency: config.concurrency,
            timeout,
            guard,
            http,
        })
    }

    /// Does its name lead to addresses that may be connected to?
    ///
    /// # Errors
    /// [`GuardError`].
    pub(crate) async fn resolve(&self) -> Result<(), GuardError> {
        match self.url.host() {
            Some(Host::Domain(name)) => self.guard.resolve(name.to_owned()).await.map(drop),
            _ => Ok(()),
        }
    }

    /// Sends one event, signed as of `at_s`.
    pub(super) async fn post(&self, secrets: &WebhookSecrets, due: &Due, at_s: u64) -> Answer {
        let timestamp = clock::at_ms(due.created_ms);
        let body = Body { r#type: &due.kind, timestamp, data: &due.data };
        let body = match serde_json::to_string(&body) {
            Ok(body) => body,
            Err(error) => return Answer::Failed(format!("the event is unreadable: {error}")),
        };
        let request = self
            .http
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("webhook-id", &due.event)
            .header("webhook-timestamp", at_s)
            .header("webhook-signature", secrets.sign(&due.event, at_s, body.as_bytes()))
            .body(body);
        match self.send(request).await {
            Ok((status, text)) => judge(status, &text),
            Err(error) => {
                let error = error.without_url();
                let mut cause: &dyn std::error::Error = &error;
                while let Some(deeper) = cause.source() {
                    cause = deeper;
                }
                let why = if error.is_timeout() {
                    format!("no answer within {} s", self.timeout.as_secs())
                } else {
                    cause.to_string()
                };
                Answer::Failed(excerpt(&why))
            }
        }
    }

    async fn send(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<(StatusCode, String), reqwest::Error> {
        let mut response = request.send().await?;
        let status = response.status();
        let mut bytes = Vec::new();
        while bytes.len() < ANSWER_LIMIT {
            match response.chunk().await {
                Ok(Some(chunk)) => bytes.extend(chunk.iter().take(ANSWER_LIMIT)),
                // The status decides; what became of the rest does not matter.
                Ok(None) | Err(_) => break,
            }
        }
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    }
}

fn judge(status: StatusCode, text: &str) -> Answer {
    let code = status.as_u16();
    if status.is_success() {
        Answer::Took(code.to_string())
    } else if status == StatusCode::GONE {
        Answer::Gone("410: it wants no more webhooks".to_owned())
    } else if status.is_redirection() {
        Answer::Failed(format!("{code}: redirects are not followed; name the final URL"))
    } else {
        Answer::Failed(excerpt(&format!("{code}: {text}")))
    }
}

/// One line, short enough for a table.
fn excerpt(text: &str) -> String {
    let line = crate::review::one_line(text.trim());
    line.chars().take(EXCERPT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn case_28_only_2xx_is_delivered() {
        for code in [200, 201, 202, 204, 299] {
            let answer = judge(StatusCode::from_u16(code).unwrap(), "");
            assert_eq!(answer, Answer::Took(code.to_string()));
        }
        for code in [100, 300, 301, 302, 304, 307, 308, 400, 401, 404, 429, 500, 503] {
            let answer = judge(StatusCode::from_u16(code).unwrap(), "no\u{1b}[2J\nsecond");
            assert!(matches!(&answer, Answer::Failed(text) if !text.contains(['\n', '\u{1b}'])));
        }
        assert!(matches!(judge(StatusCode::GONE, ""), Answer::Gone(_)));
    }
}
