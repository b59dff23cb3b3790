//! Who calls: the only ways from a handler to the engine.

use std::sync::Arc;

use alloy::primitives::{Address, B256};
use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Query, Request},
};
use http::{HeaderMap, Method, StatusCode, Uri, header, request::Parts};
use serde::de::DeserializeOwned;

use super::{ApiConfig, problem::Refused, webhooks::DeliveryQuery};
use crate::{
    auth::{self, AuthError, idempotency_key},
    buyer::{FetchRequest, FetchView, PurchasePage, Receipt},
    engine::{Accepted, Engine, NonceClaim},
    escrow::{ActionRequest, EscrowPage, EscrowRequest, EscrowView, Opened, StepApprovalView},
    facilitator::Facilitator,
    payment::{AgentId, Payee, PaymentId, PaymentRequest, State},
    refusal::{Code, Refusal},
    view::{
        AgentView, ApprovalView, ChannelsView, ClaimsView, DeliveryView, PaymentPage, PaymentView,
        Permissions, ProposalView, ProposeBody, PurseView, ReplayBody, SignatureBody, Simulation,
        StatusView, TightenOrder, WalletView, WebhookView,
    },
    x402::FacilitatorRequest,
};

/// The routes' state. Its engine is private to this module.
#[derive(Clone)]
pub(super) struct Api {
    engine: Engine,
    config: Arc<ApiConfig>,
}

impl Api {
    pub(super) fn new(engine: Engine, config: Arc<ApiConfig>) -> Self {
        Self { engine, config }
    }
}

/// A request as it arrived, read whole before anyone believes it.
struct Arrived {
    method: Method,
    /// Public origin, path and query.
    target: String,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Arrived {
    async fn read(request: Request, api: &Api) -> Result<Self, Refused> {
        let (parts, body) = request.into_parts();
        // The routes are mounted at the root, so this is the whole target.
        let uri = parts.uri;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let target = format!("{}{path}", api.config.public_origin);
        let body = axum::body::to_bytes(body, api.config.body_limit).await.map_err(|_| {
            Refusal::new(
                Code::BodyTooLarge,
                format!("the body is larger than {} bytes, or broke off", api.config.body_limit),
            )
        })?;
        Ok(Self { method: parts.method, target, uri, headers: parts.headers, body })
    }

    fn signed(&self) -> auth::Request<'_> {
        auth::Request {
            method: &self.method,
            target: &self.target,
            headers: &self.headers,
            body: &self.body,
        }
    }

    fn query<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        Query::try_from_uri(&self.uri)
            .map(|Query(query)| query)
            .map_err(|error| Refusal::new(Code::InvalidRequest, error.body_text()))
    }

    /// Reads the JSON body; `code` is the refusal's if it cannot be read.
    fn json<T: DeserializeOwned>(&self, code: Code) -> Result<T, Refusal> {
        let sent = self.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = sent.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let detail = "the body must be application/json";
            return Err(Refusal::new(Code::UnsupportedMediaType, detail));
        }
        let mut deserializer = serde_json::Deserializer::from_slice(&self.body);
        let read = serde_path_to_error::deserialize(&mut deserializer);
        let value = read.map_err(|error| {
            let path = error.path().to_string();
            let refusal = Refusal::new(code, format!("{path}: {}", error.inner()));
            refusal.rule(format!("body.{path}")).hint("GET /openapi.json has the body's schema")
        })?;
        match deserializer.end() {
            Ok(()) => Ok(value),
            Err(error) => Err(Refusal::new(code, format!("after the body: {error}"))),
        }
    }
}

/// Tells the audit log of a request nobody can be held to.
async fn unauthenticated(engine: &Engine, arrived: &Arrived, error: AuthError) -> Refused {
    let key_id = match &error {
        AuthError::UnknownKey(id) => Some(id.as_str()),
        _ => None,
    };
    engine.note_unauthenticated(key_id, arrived.uri.path(), &error.to_string()).await;
    Refusal::from(error).into()
}

/// Tells the audit log of a signature that was used before.
async fn replayed(engine: &Engine, key_id: &str, target: &str, refusal: Refusal) -> Refusal {
    if refusal.code == Code::InvalidSignature {
        engine.note_unauthenticated(Some(key_id), target, &refusal.detail).await;
    }
    refusal
}

/// An agent whose signature holds. Every verb spends the request's nonce first, and needs the whole
/// caller: one request, one verb.
pub(super) struct Agent {
    engine: Engine,
    id: AgentId,
    claim: NonceClaim,
    arrived: Arrived,
}

impl FromRequest<Api> for Agent {
    type Rejection = Refused;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Refused> {
        let arrived = Arrived::read(request, api).await?;
        let lookup = |key_id: &str| api.engine.agent_by_key_id(key_id);
        match auth::agent::verify(arrived.signed(), api.engine.clock().now_s(), lookup) {
            Ok(verified) => {
                let (key_id, nonce) = (verified.key_id, verified.nonce);
                let claim = NonceClaim { key_id, nonce, expires_s: verified.expires };
                Ok(Self { engine: api.engine.clone(), id: verified.who, claim, arrived })
            }
            Err(error) => Err(unauthenticated(&api.engine, &arrived, error).await),
        }
    }
}

impl Agent {
    pub(super) fn query<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        self.arrived.query()
    }

    pub(super) fn payment_request(&self) -> Result<PaymentRequest, Refusal> {
        self.arrived.json(Code::InvalidPayment)
    }

    pub(super) fn escrow_request(&self) -> Result<EscrowRequest, Refusal> {
        self.arrived.json(Code::InvalidPayment)
    }

    pub(super) fn action_request(&self) -> Result<ActionRequest, Refusal> {
        self.arrived.json(Code::InvalidRequest)
    }

    /// Reads `Idempotency-Key`. Repeats are joined by a comma, and so refused.
    pub(super) fn idempotency_key(&self) -> Result<String, Refusal> {
        let missing = |detail: String| {
            Refusal::new(Code::IdempotencyKeyMissing, detail).hint(
                "choose one key per purchase, before the first try: Idempotency-Key: \"order-7f3a\"",
            )
        };
        let mut values = self.arrived.headers.get_all("idempotency-key").iter();
        match (values.next().map(|value| value.to_str()), values.next()) {
            (None, _) => Err(missing("the request has no `Idempotency-Key`".into())),
            (Some(Ok(text)), None) => idempotency_key(text.trim())
                .map_err(|why| missing(format!("`Idempotency-Key` cannot be read: {why}"))),
            _ => Err(missing("`Idempotency-Key` must stand once, in plain ASCII".into())),
        }
    }

    pub(super) async fn submit(
        self,
        key: String,
        request: PaymentRequest,
    ) -> Result<Accepted, Refusal> {
        let (engine, key_id) = (self.engine, self.claim.key_id.clone());
        match engine.submit(self.id, self.claim, key, request).await {
            Ok(accepted) => Ok(accepted),
            Err(refusal) => Err(replayed(&engine, &key_id, self.arrived.uri.path(), refusal).await),
        }
    }

    pub(super) async fn open_escrow(
        self,
        key: String,
        request: EscrowRequest,
    ) -> Result<(Opened, bool), Refusal> {
        let (engine, key_id) = (self.engine, self.claim.key_id.clone());
        match engine.open_escrow(self.id, self.claim, key, request).await {
            Ok(opened) => Ok(opened),
            Err(refusal) => Err(replayed(&engine, &key_id, self.arrived.uri.path(), refusal).await),
        }
    }

    pub(super) async fn escrow(self, id: B256) -> Result<EscrowView, Refusal> {
        let (engine, agent) = self.claimed().await?;
        engine.escrow(Some(&agent), id).await
    }

    pub(super) async fn escrows(
        self,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<EscrowPage, Refusal> {
        let (engine, agent) = self.claimed().await?;
        engine.escrows(Some(&agent), cursor, limit).await
    }

    pub(super) async fn escrow_act(
        self,
        id: B256,
        request: ActionRequest,
    ) -> Result<EscrowView, Refusal> {
        let (engine, agent) = self.claimed().await?;
        engine.escrow_act(agent, id, request).await
    }

    /// Refuses what cannot be read, on the record.
    pub(super) async fn refuse(self, refusal: Refusal) -> Refusal {
        let (engine, key_id) = (self.engine, self.claim.key_id.clone());
        let refusal = engine.refuse(&self.id, self.claim, "", refusal).await;
        replayed(&engine, &key_id, self.arrived.uri.path(), refusal).await
    }

    /// Spends the nonce.
    async fn claimed(self) -> Result<(Engine, AgentId), Refusal> {
        let key_id = self.claim.key_id.clone();
        match self.engine.claim(self.claim).await {
            Ok(()) => Ok((self.engine, self.id)),
            Err(refusal) => {
                Err(replayed(&self.engine, &key_id, self.arrived.uri.path(), refusal).await)
            }
        }
    }

    pub(super) async fn simulate(self, request: PaymentRequest) -> Result<Simulation, Refusal> {
        let (engine, agent) = self.claimed().await?;
        engine.simulate(&agent, request).await
    }

    pub(super) async fn payment(self, id: PaymentId) -> Result<PaymentView, Refusal> {
        let (engine, agent) = self.claimed().await?;
        engine.payment(Some(&agent), id).await
    }

    pub(super) async fn payments(
        self,
        state: Option<State>,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<PaymentPage, Refusal> {
        let (engine, agent) = self.claimed().await?;
        engine.payments(Some(&agent), state, cursor, limit).await
    }

    pub(super) fn fetch_request(&self) -> Result<FetchRequest, Refusal> {
        self.arrived.json(Code::InvalidRequest)
    }

    pub(super) async fn fetch(
        self,
        key: Option<String>,
        request: FetchRequest,
    ) -> Result<FetchView, Refusal> {
        let (engine, agent) = self.claimed().await?;
        engine.fetch(agent, key, request).await
    }

    pub(super) async fn purchase(self, id: PaymentId) -> Result<Receipt, Refusal> {
        let (engine, agent) = self.claimed().await?;
        engine.purchase(&agent, id).await
    }

    pub(super) async fn purchases(
        self,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<PurchasePage, Refusal> {
        let (engine, agent) = self.claimed().await?;
        engine.purchases(&agent, cursor, limit).await
    }

    pub(super) async fn permissions(self) -> Result<Permissions, Refusal> {
        let (engine, agent) = self.claimed().await?;
        engine.permissions(&agent).await
    }
}

/// An operator whose signature holds, who is one in the contract, and whose nonce is spent.
pub(super) struct Operator {
    engine: Engine,
    address: Address,
    arrived: Arrived,
}

impl FromRequest<Api> for Operator {
    type Rejection = Refused;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Refused> {
        let engine = api.engine.clone();
        let arrived = Arrived::read(request, api).await?;
        let (chain_id, wallet) = engine.domain();
        let domain = auth::operator::domain(chain_id, wallet);
        let verified =
            match auth::operator::verify(arrived.signed(), &domain, engine.clock().now_s()) {
                Ok(verified) => verified,
                Err(error) => return Err(unauthenticated(&engine, &arrived, error).await),
            };
        // Before the nonce: a stranger's signature must not fill the store with nonces.
        let address = verified.address;
        if !engine.is_operator(address) {
            let why = format!("{address} is not an operator of this wallet");
            engine.note_unauthenticated(None, arrived.uri.path(), &why).await;
            let hint = "sign with an operator's key; GET /v1/wallet lists the operators";
            return Err(Refusal::new(Code::NotOperator, why).hint(hint).into());
        }
        let (key_id, nonce) = (address.to_string(), verified.nonce);
        let claim = NonceClaim { key_id, nonce, expires_s: verified.expires };
        match engine.claim(claim).await {
            Ok(()) => Ok(Self { engine, address, arrived }),
            Err(refusal) => {
                let signer = address.to_string();
                Err(replayed(&engine, &signer, arrived.uri.path(), refusal).await.into())
            }
        }
    }
}

impl Operator {
    pub(super) fn query<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        self.arrived.query()
    }

    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, Refusal> {
        self.arrived.json(Code::InvalidRequest)
    }

    pub(super) async fn approvals(self) -> Result<Vec<ApprovalView>, Refusal> {
        self.engine.approvals().await
    }

    pub(super) async fn approval(self, id: PaymentId) -> Result<ApprovalView, Refusal> {
        self.engine.approval(id).await
    }

    pub(super) async fn approve(
        self,
        id: PaymentId,
        body: SignatureBody,
    ) -> Result<ApprovalView, Refusal> {
        self.engine.approve(id, body).await
    }

    pub(super) async fn reject(
        self,
        id: PaymentId,
        reason: String,
    ) -> Result<PaymentView, Refusal> {
        self.engine.reject(id, self.address, reason).await
    }

    pub(super) async fn payment(self, id: PaymentId) -> Result<PaymentView, Refusal> {
        self.engine.payment(None, id).await
    }

    pub(super) async fn payments(
        self,
        agent: Option<&AgentId>,
        state: Option<State>,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<PaymentPage, Refusal> {
        self.engine.payments(agent, state, cursor, limit).await
    }

    pub(super) async fn escrow(self, id: B256) -> Result<EscrowView, Refusal> {
        self.engine.escrow(None, id).await
    }

    pub(super) async fn escrows(
        self,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<EscrowPage, Refusal> {
        self.engine.escrows(None, cursor, limit).await
    }

    pub(super) async fn escrow_hand_in(
        self,
        id: B256,
        request: ActionRequest,
    ) -> Result<EscrowView, Refusal> {
        self.engine.escrow_hand_in(self.address, id, request).await
    }

    pub(super) async fn escrow_approvals(self) -> Result<Vec<StepApprovalView>, Refusal> {
        self.engine.escrow_approvals().await
    }

    pub(super) async fn escrow_approval(self, id: &str) -> Result<StepApprovalView, Refusal> {
        self.engine.escrow_approval(id).await
    }

    pub(super) async fn approve_escrow(
        self,
        id: String,
        body: SignatureBody,
    ) -> Result<StepApprovalView, Refusal> {
        self.engine.approve_escrow(id, body).await
    }

    pub(super) async fn agents(self) -> Result<Vec<AgentView>, Refusal> {
        self.engine.agents().await
    }

    pub(super) async fn payees(self) -> Result<Vec<Payee>, Refusal> {
        self.engine.payees().await
    }

    pub(super) async fn status(self) -> Result<StatusView, Refusal> {
        self.engine.status().await
    }

    pub(super) async fn channels(self) -> Result<ChannelsView, Refusal> {
        self.engine.channels().await
    }

    pub(super) async fn close_channel(self, id: B256) -> Result<PurseView, Refusal> {
        self.engine.close_channel(id, self.address).await
    }

    pub(super) async fn claim_channels(self) -> Result<ClaimsView, Refusal> {
        self.engine.claim_channels().await
    }

    pub(super) async fn webhooks(self) -> Result<Vec<WebhookView>, Refusal> {
        self.engine.webhooks().await
    }

    pub(super) async fn deliveries(
        self,
        query: &DeliveryQuery,
        limit: u32,
    ) -> Result<Vec<DeliveryView>, Refusal> {
        let (endpoint, event) = (query.endpoint.as_deref(), query.event.as_deref());
        self.engine.deliveries(endpoint, query.state, event, limit).await
    }

    pub(super) async fn enable_webhook(self, name: String) -> Result<WebhookView, Refusal> {
        self.engine.enable_webhook(name).await
    }

    pub(super) async fn test_webhook(self, name: String) -> Result<DeliveryView, Refusal> {
        self.engine.test_webhook(name).await
    }

    pub(super) async fn replay_webhooks(
        self,
        name: String,
        body: ReplayBody,
    ) -> Result<u64, Refusal> {
        self.engine.replay_webhooks(name, body).await
    }

    pub(super) async fn tighten(self, order: TightenOrder) -> Result<B256, Refusal> {
        self.engine.tighten(order).await
    }

    pub(super) async fn proposals(self) -> Result<Vec<ProposalView>, Refusal> {
        self.engine.proposals().await
    }

    pub(super) async fn proposal(self, id: B256) -> Result<ProposalView, Refusal> {
        self.engine.proposal(id).await
    }

    pub(super) async fn propose(self, body: ProposeBody) -> Result<ProposalView, Refusal> {
        self.engine.propose(self.address, body).await
    }

    pub(super) async fn sign_proposal(
        self,
        id: B256,
        body: SignatureBody,
    ) -> Result<ProposalView, Refusal> {
        self.engine.sign_proposal(id, body).await
    }

    pub(super) async fn apply_proposal(self, id: B256) -> Result<ProposalView, Refusal> {
        self.engine.apply_proposal(id).await
    }

    pub(super) async fn cancel_proposal(self, id: B256) -> Result<ProposalView, Refusal> {
        self.engine.cancel_proposal(id, self.address).await
    }
}

/// Anyone: health, metrics, and what the chain shows of the wallet anyway.
pub(super) struct Public {
    engine: Engine,
}

impl FromRequestParts<Api> for Public {
    type Rejection = StatusCode;

    async fn from_request_parts(_: &mut Parts, api: &Api) -> Result<Self, StatusCode> {
        Ok(Self { engine: api.engine.clone() })
    }
}

impl Public {
    pub(super) async fn wallet(self) -> Result<WalletView, Refusal> {
        self.engine.wallet().await
    }

    pub(super) async fn ready(self) -> Result<(), Refusal> {
        self.engine.ready().await
    }

    pub(super) fn metrics(self) -> String {
        self.engine.metrics()
    }
}

/// Anybody, where the daemon settles payments of others.
pub(super) struct Seller {
    /// What the seller may ask.
    pub(super) facilitator: Facilitator,
    body: Bytes,
}

impl FromRequest<Api> for Seller {
    type Rejection = Refused;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Refused> {
        let facilitator = api.engine.facilitator();
        if !facilitator.is_public() {
            return Err(Refusal::new(Code::NotFound, "this daemon settles nobody's payments")
                .hint("its operator can enable it: `[facilitator] enabled = true`")
                .into());
        }
        if !facilitator.admits() {
            let busy = Refusal::new(Code::Unavailable, "too many requests to the facilitator");
            return Err(busy.retry_after(1).into());
        }
        let body = Arrived::read(request, api).await?.body;
        Ok(Self { facilitator, body })
    }
}

impl Seller {
    /// Reads what is asked: JSON that is no such request is an answer of the protocol's, `None`; what
    /// is no JSON is refused.
    pub(super) fn request(&self) -> Result<Option<FacilitatorRequest>, Refusal> {
        match serde_json::from_slice(&self.body) {
            Ok(request) => Ok(Some(request)),
            Err(error) if error.is_data() => Ok(None),
            Err(error) => Err(Refusal::new(Code::InvalidRequest, format!("the body: {error}"))),
        }
    }
}
