//! What surfaces may ask of the engine: one method a verb, refusals that explain themselves.

use std::sync::Arc;

use alloy::primitives::{Address, B256};

use crate::{
    payment::{AgentId, PaymentId, PaymentRequest, State},
    refusal::Refusal,
    view::{
        AgentView, ApprovalView, PaymentPage, PaymentView, Permissions, ProposalView, ProposeBody,
        SignatureBody, Simulation, TightenOrder, WalletView,
    },
};

/// The engine's handle: cheap to clone, shared by every surface.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<()>,
}

/// A signed request's single-use nonce, proven by its signature.
#[derive(Clone, Debug)]
pub struct NonceClaim {
    /// The signer: an agent's key id (RFC 7638 thumbprint) or an operator's address.
    pub key_id: String,
    /// The nonce as sent.
    pub nonce: String,
    /// Unix seconds after which the signature is stale and the nonce may be forgotten.
    pub expires_s: u64,
}

/// An accepted payment, and whether this call made it.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// As it stands.
    pub payment: PaymentView,
    /// False where the idempotency key found an earlier one.
    pub fresh: bool,
}

impl Engine {
    /// Finds the agent a request key belongs to: its name and its 32-byte Ed25519 public key.
    pub fn agent_by_key_id(&self, key_id: &str) -> Option<(AgentId, [u8; 32])> {
        let _ = (&self.inner, key_id);
        unimplemented!()
    }
    /// Is the address an operator in the contract?
    pub fn is_operator(&self, address: Address) -> bool {
        let _ = address;
        unimplemented!()
    }
    /// Tells what is public about the wallet: chain, addresses, categories, operators.
    pub async fn wallet(&self) -> Result<WalletView, Refusal> {
        unimplemented!()
    }
    /// Chain id and wallet address: the domain of operators' signed requests.
    pub fn domain(&self) -> (u64, Address) {
        unimplemented!()
    }
    /// Spends a nonce durably. Refusal `invalid_signature` if it was spent before.
    pub async fn claim(&self, claim: NonceClaim) -> Result<(), Refusal> {
        let _ = claim;
        unimplemented!()
    }
    /// Records a request that failed authentication (bounded: the log samples under flood).
    pub async fn note_unauthenticated(&self, key_id: Option<&str>, target: &str, why: &str) {
        let _ = (key_id, target, why);
        unimplemented!()
    }
    /// Accepts a payment, or says why not. Spends `claim` in the same commit.
    pub async fn submit(
        &self,
        agent: AgentId,
        claim: NonceClaim,
        idempotency_key: String,
        request: PaymentRequest,
    ) -> Result<Accepted, Refusal> {
        let _ = (agent, claim, idempotency_key, request);
        unimplemented!()
    }
    /// Decides without paying.
    pub async fn simulate(
        &self,
        agent: &AgentId,
        request: PaymentRequest,
    ) -> Result<Simulation, Refusal> {
        let _ = (agent, request);
        unimplemented!()
    }
    /// Reads one payment; `agent` None for operators.
    pub async fn payment(
        &self,
        agent: Option<&AgentId>,
        id: PaymentId,
    ) -> Result<PaymentView, Refusal> {
        let _ = (agent, id);
        unimplemented!()
    }
    /// Lists payments, newest first; `limit` 1 to 200. `agent` None: of all agents; `state` None: in
    /// every state.
    pub async fn payments(
        &self,
        agent: Option<&AgentId>,
        state: Option<State>,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<PaymentPage, Refusal> {
        let _ = (agent, state, cursor, limit);
        unimplemented!()
    }
    /// Says what the agent may do.
    pub async fn permissions(&self, agent: &AgentId) -> Result<Permissions, Refusal> {
        let _ = agent;
        unimplemented!()
    }
    /// Lists what waits for operators, oldest first.
    pub async fn approvals(&self) -> Result<Vec<ApprovalView>, Refusal> {
        unimplemented!()
    }
    /// Shows one of them.
    pub async fn approval(&self, id: PaymentId) -> Result<ApprovalView, Refusal> {
        let _ = id;
        unimplemented!()
    }
    /// Adds an operator's signature.
    pub async fn approve(
        &self,
        id: PaymentId,
        body: SignatureBody,
    ) -> Result<ApprovalView, Refusal> {
        let _ = (id, body);
        unimplemented!()
    }
    /// Refuses a waiting payment.
    pub async fn reject(
        &self,
        id: PaymentId,
        operator: Address,
        reason: String,
    ) -> Result<PaymentView, Refusal> {
        let _ = (id, operator, reason);
        unimplemented!()
    }
    /// Lists the agents.
    pub async fn agents(&self) -> Result<Vec<AgentView>, Refusal> {
        unimplemented!()
    }
    /// Lists the payees.
    pub async fn payees(&self) -> Result<Vec<crate::payment::Payee>, Refusal> {
        unimplemented!()
    }
    /// Takes an operator's tightening order: holds in the daemon at once, goes to the chain next.
    /// Returns the transaction's hash.
    pub async fn tighten(&self, order: TightenOrder) -> Result<B256, Refusal> {
        let _ = order;
        unimplemented!()
    }
    /// Lists proposals, newest first.
    pub async fn proposals(&self) -> Result<Vec<ProposalView>, Refusal> {
        unimplemented!()
    }
    /// Shows one proposal.
    pub async fn proposal(&self, id: B256) -> Result<ProposalView, Refusal> {
        let _ = id;
        unimplemented!()
    }
    /// Files a proposal.
    pub async fn propose(
        &self,
        operator: Address,
        body: ProposeBody,
    ) -> Result<ProposalView, Refusal> {
        let _ = (operator, body);
        unimplemented!()
    }
    /// Adds an operator's signature to a proposal.
    pub async fn sign_proposal(
        &self,
        id: B256,
        body: SignatureBody,
    ) -> Result<ProposalView, Refusal> {
        let _ = (id, body);
        unimplemented!()
    }
    /// Sends a complete proposal to the chain, or runs one whose delay is over.
    pub async fn apply_proposal(&self, id: B256) -> Result<ProposalView, Refusal> {
        let _ = id;
        unimplemented!()
    }
    /// Drops a proposal that is still collecting signatures (one on chain takes a `revoke` order).
    pub async fn cancel_proposal(
        &self,
        id: B256,
        operator: Address,
    ) -> Result<ProposalView, Refusal> {
        let _ = (id, operator);
        unimplemented!()
    }
    /// Is the daemon ready: store writable, chain reached, right chain id, contract there?
    pub async fn ready(&self) -> Result<(), Refusal> {
        unimplemented!()
    }
    /// Renders the metrics in OpenMetrics text.
    pub fn metrics(&self) -> String {
        unimplemented!()
    }
}
