//! The typed client: what agents and operators send, signed, with bounded retries.
//!
//! Reads are tried up to three times. A payment is tried again too, under the same idempotency key
//! with a new signature, so that it is bought once. Nothing else is repeated.

use std::time::Duration;

use alloy::{
    primitives::{Address, B256},
    signers::local::PrivateKeySigner,
    sol_types::Eip712Domain,
};
use ed25519_dalek::SigningKey;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    api::{DeliveryQuery, OperatorQuery, Problem, ReplayReceipt, TightenReceipt},
    auth::{self, AuthError},
    buyer::{FetchRequest, FetchView, PurchasePage, Receipt},
    clock::Clock,
    escrow::{ActionRequest, EscrowPage, EscrowRequest, EscrowView, Opened, StepApprovalView},
    payment::{Payee, PaymentId, PaymentRequest, State},
    view::{
        AgentView, ApprovalView, ChannelsView, ClaimsView, DeliveryView, PaymentPage, PaymentView,
        Permissions, ProposalView, ProposeBody, PurseView, RejectBody, ReplayBody, SignatureBody,
        Simulation, StatusView, TightenOrder, WalletView, WebhookView,
    },
};

/// Tries of what may be repeated.
const TRIES: u32 = 3;
/// Wait before the second try; doubled before the third.
const BACKOFF: Duration = Duration::from_millis(200);
/// Longest answer read, in bytes.
const MAX_ANSWER: usize = 16 << 20;

/// What can go wrong between here and the daemon.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The daemon refused, and says why.
    #[error("{}", .0.refusal.detail)]
    Refused(Box<Problem>),
    /// No answer. A payment may have been accepted: ask again under the same key.
    #[error("cannot reach the daemon at {url}: {why}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        why: String,
    },
    /// An answer that no daemon of this version gives.
    #[error("unexpected answer from {url} (status {status}): {why}")]
    Unexpected {
        /// Where.
        url: String,
        /// The status.
        status: u16,
        /// What is wrong with it.
        why: String,
    },
    /// The request cannot be written or signed.
    #[error("the request cannot be sent: {0}")]
    Unsendable(String),
}

impl From<AuthError> for ClientError {
    fn from(error: AuthError) -> Self {
        Self::Unsendable(error.to_string())
    }
}

/// An agent's client.
#[derive(Clone)]
pub struct AgentClient {
    http: Http,
    key: SigningKey,
}

impl AgentClient {
    /// Makes a client of the daemon at `base_url`, which is also the origin that is signed.
    ///
    /// # Errors
    /// [`ClientError::Unsendable`] if `base_url` is no http(s) URL.
    pub fn new(base_url: &str, key: SigningKey) -> Result<Self, ClientError> {
        Ok(Self { http: Http::new(base_url)?, key })
    }

    /// Signs another origin than the one connected to: the daemon's `public_origin`, where a proxy
    /// or a tunnel stands between.
    #[must_use]
    pub fn signed_origin(mut self, origin: &str) -> Self {
        self.http.origin = origin.trim_end_matches('/').to_owned();
        self
    }

    /// Signs by another clock than the system's.
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.http.clock = clock;
        self
    }

    /// Asks for a payment. `key` names the purchase: choose it once, keep it over retries.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn submit(
        &self,
        request: &PaymentRequest,
        key: &str,
    ) -> Result<PaymentView, ClientError> {
        self.send(Call::post("/v1/payments", request)?.keyed(key)?).await
    }

    /// Shows a payment.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn payment(&self, id: PaymentId) -> Result<PaymentView, ClientError> {
        self.send(Call::get(format!("/v1/payments/{id}"))).await
    }

    /// Lists payments, newest first; `limit` 1 to 200.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn payments(
        &self,
        state: Option<State>,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<PaymentPage, ClientError> {
        let cursor = cursor.map(str::to_owned);
        let query = OperatorQuery { agent: None, state, cursor, limit: Some(limit) };
        self.send(Call::get(with_query("/v1/payments", &query)?)).await
    }

    /// Decides without paying.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn simulate(&self, request: &PaymentRequest) -> Result<Simulation, ClientError> {
        self.send(Call::post("/v1/payments/simulate", request)?.again()).await
    }

    /// Says what the agent may do.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn permissions(&self) -> Result<Permissions, ClientError> {
        self.send(Call::get("/v1/permissions".to_owned())).await
    }

    /// Makes a call over HTTP, and pays for it where it must and may. `key` names the purchase: choose
    /// it once, keep it over retries.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn fetch(&self, request: &FetchRequest, key: &str) -> Result<FetchView, ClientError> {
        self.send(Call::post("/v1/fetch", request)?.keyed(key)?).await
    }

    /// Shows what a call costs and what would be paid; pays nothing.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn inspect(&self, request: &FetchRequest) -> Result<FetchView, ClientError> {
        let request = FetchRequest { inspect: true, ..request.clone() };
        self.send(Call::post("/v1/fetch", &request)?).await
    }

    /// Shows a purchase.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn purchase(&self, id: PaymentId) -> Result<Receipt, ClientError> {
        self.send(Call::get(format!("/v1/purchases/{id}"))).await
    }

    /// Lists purchases, newest first; `limit` 1 to 200.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn purchases(
        &self,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<PurchasePage, ClientError> {
        let query = paged(cursor, limit);
        self.send(Call::get(with_query("/v1/purchases", &query)?)).await
    }

    /// Opens a job: an escrow for each milestone. `key` names the job: choose it once, keep it over
    /// retries.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn open_escrow(
        &self,
        request: &EscrowRequest,
        key: &str,
    ) -> Result<Opened, ClientError> {
        self.send(Call::post("/v1/escrows", request)?.keyed(key)?).await
    }

    /// Shows an escrow that the agent opened or is paid by.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn escrow(&self, id: B256) -> Result<EscrowView, ClientError> {
        self.send(Call::get(format!("/v1/escrows/{id}"))).await
    }

    /// Lists them, newest first; `limit` 1 to 200.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn escrows(
        &self,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<EscrowPage, ClientError> {
        let query = paged(cursor, limit);
        self.send(Call::get(with_query("/v1/escrows", &query)?)).await
    }

    /// Asks something of an escrow; the same again finds the first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn act_on_escrow(
        &self,
        id: B256,
        request: &ActionRequest,
    ) -> Result<EscrowView, ClientError> {
        self.send(Call::post(&format!("/v1/escrows/{id}/actions"), request)?.again()).await
    }

    async fn send<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let sign = |request: auth::Request<'_>| {
            auth::agent::sign(request, &self.key, self.http.clock.now_s(), &auth::fresh_nonce())
        };
        self.http.send(call, sign).await
    }
}

/// An operator's client.
#[derive(Clone)]
pub struct OperatorClient {
    http: Http,
    key: PrivateKeySigner,
    domain: Eip712Domain,
}

/// Tells what is public about the wallet that the daemon at `base_url` serves.
///
/// # Errors
/// [`ClientError`].
pub async fn wallet(base_url: &str) -> Result<WalletView, ClientError> {
    let unsigned = |_: auth::Request<'_>| Ok(HeaderMap::new());
    Http::new(base_url)?.send(Call::get("/v1/wallet".to_owned()), unsigned).await
}

impl OperatorClient {
    /// Makes a client of the daemon at `base_url`, which is also the origin that is signed, for the
    /// wallet on that chain.
    ///
    /// # Errors
    /// [`ClientError::Unsendable`] if `base_url` is no http(s) URL.
    pub fn new(
        base_url: &str,
        key: PrivateKeySigner,
        chain_id: u64,
        wallet: Address,
    ) -> Result<Self, ClientError> {
        let domain = auth::operator::domain(chain_id, wallet);
        Ok(Self { http: Http::new(base_url)?, key, domain })
    }

    /// As [`AgentClient::signed_origin`].
    #[must_use]
    pub fn signed_origin(mut self, origin: &str) -> Self {
        self.http.origin = origin.trim_end_matches('/').to_owned();
        self
    }

    /// As [`AgentClient::clock`].
    #[must_use]
    pub fn clock(mut self, clock: Clock) -> Self {
        self.http.clock = clock;
        self
    }

    /// Returns the key, for signing what was reviewed.
    #[must_use]
    pub const fn key(&self) -> &PrivateKeySigner {
        &self.key
    }

    /// Lists what waits for operators, oldest first.
    ///
    /// # Errors
    /// [`ClientError`], as every method here.
    pub async fn approvals(&self) -> Result<Vec<ApprovalView>, ClientError> {
        self.get("/v1/operator/approvals".to_owned()).await
    }

    /// Shows one of them.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn approval(&self, id: PaymentId) -> Result<ApprovalView, ClientError> {
        self.get(format!("/v1/operator/approvals/{id}")).await
    }

    /// Adds a signature to an approval.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn approve(
        &self,
        id: PaymentId,
        body: &SignatureBody,
    ) -> Result<ApprovalView, ClientError> {
        self.post(&format!("/v1/operator/approvals/{id}/signatures"), body).await
    }

    /// Refuses a waiting payment.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn reject(&self, id: PaymentId, reason: &str) -> Result<PaymentView, ClientError> {
        let body = RejectBody { reason: reason.to_owned() };
        self.post(&format!("/v1/operator/approvals/{id}/reject"), &body).await
    }

    /// Lists payments of all agents, newest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn payments(&self, query: &OperatorQuery) -> Result<PaymentPage, ClientError> {
        self.get(with_query("/v1/operator/payments", query)?).await
    }

    /// Shows any payment.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn payment(&self, id: PaymentId) -> Result<PaymentView, ClientError> {
        self.get(format!("/v1/operator/payments/{id}")).await
    }

    /// Lists all escrows, newest first; `limit` 1 to 200.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn escrows(
        &self,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<EscrowPage, ClientError> {
        let query = paged(cursor, limit);
        self.get(with_query("/v1/operator/escrows", &query)?).await
    }

    /// Shows any escrow.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn escrow(&self, id: B256) -> Result<EscrowView, ClientError> {
        self.get(format!("/v1/operator/escrows/{id}")).await
    }

    /// Hands in what a party signed, or does what anybody may.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn act_on_escrow(
        &self,
        id: B256,
        request: &ActionRequest,
    ) -> Result<EscrowView, ClientError> {
        self.post(&format!("/v1/operator/escrows/{id}/actions"), request).await
    }

    /// Lists the releases that wait for operators, oldest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn escrow_approvals(&self) -> Result<Vec<StepApprovalView>, ClientError> {
        self.get("/v1/operator/escrow-approvals".to_owned()).await
    }

    /// Shows one of them.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn escrow_approval(&self, id: &str) -> Result<StepApprovalView, ClientError> {
        self.get(format!("/v1/operator/escrow-approvals/{id}")).await
    }

    /// Adds a signature to one of them.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn approve_escrow(
        &self,
        id: &str,
        body: &SignatureBody,
    ) -> Result<StepApprovalView, ClientError> {
        self.post(&format!("/v1/operator/escrow-approvals/{id}/signatures"), body).await
    }

    /// Lists the agents.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn agents(&self) -> Result<Vec<AgentView>, ClientError> {
        self.get("/v1/operator/agents".to_owned()).await
    }

    /// Lists the payees.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn payees(&self) -> Result<Vec<Payee>, ClientError> {
        self.get("/v1/operator/payees".to_owned()).await
    }

    /// Asks how the daemon fares.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn status(&self) -> Result<StatusView, ClientError> {
        self.get("/v1/operator/status".to_owned()).await
    }

    /// Lists channels: those that we are paid through, and the wallet's own.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn channels(&self) -> Result<ChannelsView, ClientError> {
        self.get("/v1/operator/channels".to_owned()).await
    }

    /// Closes one of the wallet's own channels.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn close_channel(&self, id: B256) -> Result<PurseView, ClientError> {
        self.bare(format!("/v1/operator/channels/{id}/close")).await
    }

    /// Claims now what channels owe.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn claim_channels(&self) -> Result<ClaimsView, ClientError> {
        self.bare("/v1/operator/channels/claim".to_owned()).await
    }

    /// Lists the webhook endpoints and how they fare.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn webhooks(&self) -> Result<Vec<WebhookView>, ClientError> {
        self.get("/v1/operator/webhooks".to_owned()).await
    }

    /// Lists deliveries, newest event first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn deliveries(
        &self,
        query: &DeliveryQuery,
    ) -> Result<Vec<DeliveryView>, ClientError> {
        let pairs = [
            ("endpoint", query.endpoint.clone()),
            ("state", query.state.map(|state| state.as_str().to_owned())),
            ("event", query.event.clone()),
            ("limit", query.limit.map(|limit| limit.to_string())),
        ];
        self.get(with_pairs("/v1/operator/webhooks/deliveries", pairs)?).await
    }

    /// Lets an endpoint be sent to again.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn enable_webhook(&self, name: &str) -> Result<WebhookView, ClientError> {
        self.bare(webhook_path(name, "enable")).await
    }

    /// Sends an event of its own to an endpoint.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn test_webhook(&self, name: &str) -> Result<DeliveryView, ClientError> {
        self.bare(webhook_path(name, "test")).await
    }

    /// Sends events to an endpoint once more; returns how many.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn replay_webhooks(&self, name: &str, body: &ReplayBody) -> Result<u64, ClientError> {
        let receipt: ReplayReceipt = self.post(&webhook_path(name, "replay"), body).await?;
        Ok(receipt.queued)
    }

    /// Gives an order that only tightens; returns the transaction.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn tighten(&self, order: &TightenOrder) -> Result<B256, ClientError> {
        let receipt: TightenReceipt = self.post("/v1/operator/tighten", order).await?;
        Ok(receipt.transaction)
    }

    /// Lists proposals, newest first.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn proposals(&self) -> Result<Vec<ProposalView>, ClientError> {
        self.get("/v1/operator/proposals".to_owned()).await
    }

    /// Shows one proposal.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn proposal(&self, id: B256) -> Result<ProposalView, ClientError> {
        self.get(format!("/v1/operator/proposals/{id}")).await
    }

    /// Files a proposal.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn propose(&self, body: &ProposeBody) -> Result<ProposalView, ClientError> {
        self.post("/v1/operator/proposals", body).await
    }

    /// Adds a signature to a proposal.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn sign_proposal(
        &self,
        id: B256,
        body: &SignatureBody,
    ) -> Result<ProposalView, ClientError> {
        self.post(&format!("/v1/operator/proposals/{id}/signatures"), body).await
    }

    /// Sends a complete proposal to the chain, or runs one whose delay is over.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn apply_proposal(&self, id: B256) -> Result<ProposalView, ClientError> {
        self.bare(format!("/v1/operator/proposals/{id}/apply")).await
    }

    /// Drops a proposal that is still collecting signatures.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn cancel_proposal(&self, id: B256) -> Result<ProposalView, ClientError> {
        self.bare(format!("/v1/operator/proposals/{id}/cancel")).await
    }

    async fn get<T: DeserializeOwned>(&self, path: String) -> Result<T, ClientError> {
        self.send(Call::get(path)).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.send(Call::post(path, body)?).await
    }

    async fn bare<T: DeserializeOwned>(&self, path: String) -> Result<T, ClientError> {
        self.send(Call { method: Method::POST, again: false, ..Call::get(path) }).await
    }

    async fn send<T: DeserializeOwned>(&self, call: Call) -> Result<T, ClientError> {
        let sign = |request: auth::Request<'_>| {
            let nonce = auth::fresh_nonce();
            let value = auth::operator::sign(
                request,
                &self.key,
                &self.domain,
                self.http.clock.now_s(),
                &nonce,
            )?;
            let name = HeaderName::from_static(auth::operator::HEADER);
            Ok(HeaderMap::from_iter([(name, value)]))
        };
        self.http.send(call, sign).await
    }
}

/// A name that is none cannot lead to another route: what is not part of a name becomes `_`.
fn webhook_path(name: &str, verb: &str) -> String {
    let fits = |c: &char| c.is_ascii_alphanumeric() || "-_.".contains(*c);
    let name: String = name.chars().map(|c| if fits(&c) { c } else { '_' }).collect();
    format!("/v1/operator/webhooks/{name}/{verb}")
}

fn paged(cursor: Option<&str>, limit: u32) -> OperatorQuery {
    let cursor = cursor.map(str::to_owned);
    OperatorQuery { cursor, limit: Some(limit), ..OperatorQuery::default() }
}

fn with_query(path: &str, query: &OperatorQuery) -> Result<String, ClientError> {
    let pairs = [
        ("agent", query.agent.as_ref().map(ToString::to_string)),
        ("state", query.state.map(|state| state.to_string())),
        ("cursor", query.cursor.clone()),
        ("limit", query.limit.map(|limit| limit.to_string())),
    ];
    with_pairs(path, pairs)
}

fn with_pairs(path: &str, pairs: [(&str, Option<String>); 4]) -> Result<String, ClientError> {
    let pairs = pairs.into_iter().filter_map(|(name, value)| Some((name, value?)));
    // Only its query is used; the encoder needs a whole URL.
    let url = reqwest::Url::parse_with_params("http://localhost/", pairs)
        .map_err(|error| ClientError::Unsendable(error.to_string()))?;
    Ok(match url.query() {
        Some(query) if !query.is_empty() => format!("{path}?{query}"),
        _ => path.to_owned(),
    })
}

/// One request before it is signed.
struct Call {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Vec<u8>,
    /// May it be sent again without a second effect?
    again: bool,
}

impl Call {
    fn get(path: String) -> Self {
        Self { method: Method::GET, path, headers: HeaderMap::new(), body: Vec::new(), again: true }
    }

    fn post(path: &str, body: &impl Serialize) -> Result<Self, ClientError> {
        let body = serde_json::to_vec(body).map_err(|e| ClientError::Unsendable(e.to_string()))?;
        let call = Self { method: Method::POST, body, again: false, ..Self::get(path.to_owned()) };
        call.with("content-type", "application/json")
    }

    fn with(mut self, name: &'static str, value: &str) -> Result<Self, ClientError> {
        let value = HeaderValue::from_str(value)
            .map_err(|_| ClientError::Unsendable(format!("`{name}` must be plain ASCII")))?;
        self.headers.insert(HeaderName::from_static(name), value);
        Ok(self)
    }

    /// Names the request (RFC 8941's quoted string), so that it may be sent again.
    fn keyed(self, key: &str) -> Result<Self, ClientError> {
        let quoted = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
        Ok(self.with("idempotency-key", &quoted)?.again())
    }

    fn again(mut self) -> Self {
        self.again = true;
        self
    }
}

#[derive(Clone)]
struct Http {
    client: reqwest::Client,
    base: String,
    origin: String,
    clock: Clock,
}

impl Http {
    fn new(base_url: &str) -> Result<Self, ClientError> {
        let base = base_url.trim_end_matches('/').to_owned();
        let fits = ["http://", "https://"].iter().any(|scheme| base.starts_with(scheme));
        if !fits || base.parse::<http::Uri>().is_err() {
            let why = format!("`{base_url}` is not a URL: write http://host:port or https://host");
            return Err(ClientError::Unsendable(why));
        }
        let client = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(40))
            // A redirect would send a signature where it was not meant for.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| ClientError::Unsendable(error.to_string()))?;
        Ok(Self { client, origin: base.clone(), base, clock: Clock::system() })
    }

    async fn send<T: DeserializeOwned>(
        &self,
        call: Call,
        sign: impl Fn(auth::Request<'_>) -> Result<HeaderMap, AuthError>,
    ) -> Result<T, ClientError> {
        let tries = if call.again { TRIES } else { 1 };
        let mut wait = BACKOFF;
        for _ in 1..tries {
            match self.once(&call, &sign).await {
                Err(error) if is_passing(&error) => tokio::time::sleep(wait).await,
                outcome => return outcome,
            }
            wait *= 2;
        }
        self.once(&call, &sign).await
    }

    async fn once<T: DeserializeOwned>(
        &self,
        call: &Call,
        sign: &impl Fn(auth::Request<'_>) -> Result<HeaderMap, AuthError>,
    ) -> Result<T, ClientError> {
        let signature = sign(auth::Request {
            method: &call.method,
            target: &format!("{}{}", self.origin, call.path),
            headers: &call.headers,
            body: &call.body,
        })?;
        let url = format!("{}{}", self.base, call.path);
        let request = self.client.request(call.method.clone(), &url);
        let answer = request
            .headers(call.headers.clone())
            .headers(signature)
            .body(call.body.clone())
            .send()
            .await;
        let mut answer = answer.map_err(|error| self.unreachable(error))?;
        let status = answer.status();
        let unexpected = |why: String| ClientError::Unexpected {
            url: url.clone(),
            status: status.as_u16(),
            why,
        };
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| self.unreachable(error))? {
            if body.len() + chunk.len() > MAX_ANSWER {
                return Err(unexpected(format!("longer than {MAX_ANSWER} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| unexpected(error.to_string()));
        }
        match serde_json::from_slice(&body) {
            Ok(problem) => Err(ClientError::Refused(Box::new(problem))),
            Err(_) => Err(unexpected("not a problem of bursar; is the URL right?".to_owned())),
        }
    }

    /// Says why without repeating the URL.
    fn unreachable(&self, error: reqwest::Error) -> ClientError {
        let error = error.without_url();
        let mut cause: &dyn std::error::Error = &error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        ClientError::Unreachable { url: self.base.clone(), why: cause.to_string() }
    }
}

/// May the next try find it passed?
fn is_passing(error: &ClientError) -> bool {
    let passing = [
        StatusCode::BAD_GATEWAY.as_u16(),
        StatusCode::SERVICE_UNAVAILABLE.as_u16(),
        StatusCode::GATEWAY_TIMEOUT.as_u16(),
    ];
    match error {
        ClientError::Unreachable { .. } => true,
        ClientError::Refused(problem) => passing.contains(&problem.status),
        ClientError::Unexpected { status, .. } => passing.contains(status),
        ClientError::Unsendable(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_encoded() {
        let query = OperatorQuery {
            agent: Some("scout".parse().unwrap()),
            state: Some(State::AwaitingApproval),
            cursor: Some("a&b=c d".to_owned()),
            limit: Some(7),
        };
        assert_eq!(
            with_query("/v1/x", &query).unwrap(),
            "/v1/x?agent=scout&state=awaiting_approval&cursor=a%26b%3Dc+d&limit=7"
        );
        assert_eq!(with_query("/v1/x", &OperatorQuery::default()).unwrap(), "/v1/x");
    }

    #[test]
    fn only_http_urls_are_taken() {
        for url in ["localhost:8080", "ftp://x", "", "http://a b"] {
            assert!(matches!(Http::new(url), Err(ClientError::Unsendable(_))), "{url}");
        }
        assert_eq!(Http::new("http://localhost:8080/").unwrap().base, "http://localhost:8080");
    }

    #[tokio::test]
    async fn a_dead_daemon_is_unreachable_after_three_tries() {
        let started = std::time::Instant::now();
        let client =
            AgentClient::new("http://127.0.0.1:9", SigningKey::from_bytes(&[1; 32])).unwrap();
        let outcome = client.permissions().await;
        assert!(matches!(outcome, Err(ClientError::Unreachable { .. })), "{outcome:?}");
        assert!(started.elapsed() >= BACKOFF * 3);
    }
}
