//! An agent's HTTP client: signs, sends, and sends again while the daemon is away.

use std::{
    path::Path,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::bail;
use bursar::{
    auth::{Request, agent, fresh_nonce},
    keys::read_agent_key,
    view::PaymentView,
};
use ed25519_dalek::SigningKey;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header::CONTENT_TYPE};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// How long a daemon may be away before a client gives up: it is killed and restarted on the way.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

/// A signed request, as bytes that can be sent again.
#[derive(Clone, Debug)]
pub struct Sealed {
    method: Method,
    target: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// An answer, whatever it says.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The code of a refusal.
    pub fn code(&self) -> Option<&str> {
        self.body.get("code")?.as_str()
    }

    /// The payment that a success shows.
    pub fn payment(&self) -> Option<PaymentView> {
        if (200..300).contains(&self.status) { read(&self.body) } else { None }
    }
}

/// A question and its answer.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The bytes that were answered.
    pub sealed: Sealed,
    pub answer: Answer,
    /// Were there tries without an answer before? One of them may have been accepted.
    pub retried: bool,
}

fn read<T: DeserializeOwned>(body: &Value) -> Option<T> {
    serde_json::from_value(body.clone()).ok()
}

/// Who signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sign {
    /// The agent.
    Own,
    /// A key that nobody knows.
    Stranger,
    /// Nobody.
    Nobody,
}

/// One agent's connection to the daemon.
#[derive(Clone)]
pub struct Client {
    origin: String,
    key: SigningKey,
    http: reqwest::Client,
}

impl Client {
    /// Reads the agent's request key from its file.
    pub fn open(origin: &str, key: &Path) -> anyhow::Result<Self> {
        let key = read_agent_key(key)?;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build()?;
        Ok(Self { origin: origin.to_owned(), key, http })
    }

    /// Signs a payment request.
    pub fn seal_payment(
        &self,
        body: &Value,
        idempotency_key: Option<&str>,
        who: Sign,
    ) -> anyhow::Result<Sealed> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(key) = idempotency_key {
            let value = HeaderValue::from_str(key)?;
            headers.insert(HeaderName::from_static("idempotency-key"), value);
        }
        self.seal(Method::POST, "/v1/payments", headers, serde_json::to_vec(body)?, who)
    }

    fn seal(
        &self,
        method: Method,
        path: &str,
        mut headers: HeaderMap,
        body: Vec<u8>,
        who: Sign,
    ) -> anyhow::Result<Sealed> {
        let target = format!("{}{path}", self.origin);
        let stranger = SigningKey::generate(&mut rand::rngs::OsRng);
        let key = match who {
            Sign::Own => Some(&self.key),
            Sign::Stranger => Some(&stranger),
            Sign::Nobody => None,
        };
        if let Some(key) = key {
            let request =
                Request { method: &method, target: &target, headers: &headers, body: &body };
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
            headers.extend(agent::sign(request, key, now, &fresh_nonce())?);
        }
        Ok(Sealed { method, target, headers, body })
    }

    /// Sends the bytes as they are, once. `None` where no answer came.
    pub async fn send(&self, sealed: &Sealed) -> Option<Answer> {
        let request = self.http.request(sealed.method.clone(), &sealed.target);
        let sent = request.headers(sealed.headers.clone()).body(sealed.body.clone()).send().await;
        let answer = sent.ok()?;
        let status = answer.status().as_u16();
        // A cut connection after the status line is no answer.
        let body = answer.json().await.ok()?;
        Some(Answer { status, body })
    }

    /// Sends what `seal` makes until there is an answer, and returns the bytes that got it. Each try
    /// is signed anew. An overloaded or starting daemon counts as away.
    pub async fn ask(&self, seal: impl Fn() -> anyhow::Result<Sealed>) -> anyhow::Result<Asked> {
        let deadline = Instant::now() + PATIENCE;
        let mut retried = false;
        while Instant::now() < deadline {
            let sealed = seal()?;
            if let Some(answer) = self.send(&sealed).await
                && !matches!(answer.status, 502..=504)
            {
                return Ok(Asked { sealed, answer, retried });
            }
            retried = true;
            tokio::time::sleep(PAUSE).await;
        }
        bail!("no answer from {} within {} s", self.origin, PATIENCE.as_secs())
    }

    /// Sends the same bytes until there is an answer.
    pub async fn repeat(&self, sealed: &Sealed) -> anyhow::Result<Answer> {
        self.ask(|| Ok(sealed.clone())).await.map(|asked| asked.answer)
    }

    /// Reads something of the agent's own.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let answer = self
            .ask(|| self.seal(Method::GET, path, HeaderMap::new(), Vec::new(), Sign::Own))
            .await?
            .answer;
        match read(&answer.body) {
            Some(value) if answer.status == 200 => Ok(value),
            _ => bail!("GET {path}: {} {}", answer.status, answer.body),
        }
    }
}
