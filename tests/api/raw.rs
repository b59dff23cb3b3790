//! Requests that no typed client would send.

use bursar::{api::Problem, auth};
use ed25519_dalek::SigningKey;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use reqwest::Response;

use crate::support::World;

/// A request in pieces: change any of them between signing and sending.
#[derive(Clone)]
pub struct Raw {
    pub method: Method,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

pub fn now_s() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap()
}

impl Raw {
    pub fn get(path: &str) -> Self {
        let (path, headers, body) = (path.to_owned(), HeaderMap::new(), Vec::new());
        Self { method: Method::GET, path, headers, body }
    }

    pub fn post(path: &str, body: impl Into<Vec<u8>>) -> Self {
        let raw = Self { method: Method::POST, body: body.into(), ..Self::get(path) };
        raw.with("content-type", "application/json")
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        self
    }

    /// Signs as an agent at `created`.
    pub fn signed_at(mut self, world: &World, key: &SigningKey, created: u64) -> Self {
        let target = format!("{}{}", world.card.api, self.path);
        let request = auth::Request {
            method: &self.method,
            target: &target,
            headers: &self.headers,
            body: &self.body,
        };
        let signature = auth::agent::sign(request, key, created, &auth::fresh_nonce()).unwrap();
        self.headers.extend(signature);
        self
    }

    pub fn signed(self, world: &World, agent: &str) -> Self {
        self.signed_at(world, &world.request_key(agent), now_s())
    }

    /// Signs as operator `index`.
    pub fn by_operator(mut self, world: &World, index: usize) -> Self {
        let target = format!("{}{}", world.card.api, self.path);
        let request = auth::Request {
            method: &self.method,
            target: &target,
            headers: &self.headers,
            body: &self.body,
        };
        let domain = auth::operator::domain(world.card.chain_id, world.card.wallet);
        let key = world.operator_key(index);
        let nonce = auth::fresh_nonce();
        let value = auth::operator::sign(request, &key, &domain, now_s(), &nonce).unwrap();
        self.headers.insert(HeaderName::from_static(auth::operator::HEADER), value);
        self
    }

    pub async fn send(&self, world: &World) -> Response {
        let url = format!("{}{}", world.card.api, self.path);
        let request = reqwest::Client::new().request(self.method.clone(), url);
        request.headers(self.headers.clone()).body(self.body.clone()).send().await.unwrap()
    }

    /// Sends it and reads the problem that must come back; its headers and its body agree.
    pub async fn refused(&self, world: &World) -> Problem {
        let answer = self.send(world).await;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.text().await.unwrap();
        assert!(!status.is_success(), "{} {}: {status} {text}", self.method, self.path);
        assert_eq!(headers["content-type"], "application/problem+json");
        let problem: Problem = serde_json::from_str(&text).unwrap();
        assert_eq!(problem.status, status.as_u16());
        assert_eq!(problem.correlation_id, headers["x-request-id"].to_str().unwrap());
        assert_eq!(problem.instance, self.path.split('?').next().unwrap());
        assert_eq!(problem.kind, format!("urn:bursar:problem:{}", problem.refusal.code.as_str()));
        let waits = headers.get("retry-after").map(|v| v.to_str().unwrap().parse().unwrap());
        assert_eq!(problem.refusal.retry_after, waits);
        problem
    }
}
