//! What is asked, read and held against the offer.

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};

use super::{Declined, batch};
use crate::{
    contract::token::token_domain,
    engine::{EngineError, Inner},
    store::{SettlementKind, SettlementRow, SettlementState},
    x402::{
        self, FacilitatorRequest, OfferError, Reason, Requirements, Terms, caip2,
        exact::{self, Delegated, Payload},
    },
};

/// A payment to settle.
#[derive(Debug)]
pub(super) struct Job {
    /// The same payment has the same.
    pub id: String,
    pub kind: SettlementKind,
    pub payer: Address,
    pub payee: Address,
    pub asset: Address,
    pub amount: U256,
    /// Makes the id.
    pub nonce: B256,
    /// Who answers for its failures: a payer is cheap to invent where a contract of its own is called.
    pub origin: Address,
    /// What the payer gave.
    pub leave: Leave,
    /// Most gas that it may take.
    pub gas_limit: u64,
    /// The contract to call, and the call.
    pub target: Address,
    pub calldata: Bytes,
}

/// By what leave the money is moved.
#[derive(Debug)]
pub(super) enum Leave {
    /// A signed transfer.
    Signed(Signed),
    /// A contract that pays when called.
    Delegated,
    /// The hub's rules, which alone decide.
    Hub,
}

/// A transfer that the payer signed.
#[derive(Debug)]
pub(super) struct Signed {
    pub signature: Bytes,
    /// Unix seconds.
    pub valid_after: U256,
    /// Unix seconds.
    pub valid_before: U256,
    /// What the signature covers, in the domain that the offer names.
    pub digest: B256,
    /// That domain's hash.
    pub separator: B256,
}

impl Job {
    /// Is it the payment of that row, and not another one with its nonce?
    pub(super) fn is(&self, row: &SettlementRow) -> bool {
        // A payout is what it is when it is made.
        (self.kind == row.kind && self.kind == SettlementKind::Payout)
            || (self.payee, self.amount, self.asset) == (row.payee, row.amount, row.asset)
    }

    /// Is it on its way, or settled?
    pub(super) async fn is_known(&self, inner: &Inner) -> Result<bool, EngineError> {
        let row = inner.store.settlement(&self.id).await?;
        Ok(row.is_some_and(|row| row.state != SettlementState::Failed && self.is(&row)))
    }
}

/// Reads what to settle.
pub(super) async fn job(inner: &Inner, request: &FacilitatorRequest) -> Result<Job, Declined> {
    match scheme(request)? {
        x402::BATCH_SETTLEMENT => batch::job(inner, request).await,
        _ => exactly(inner, request),
    }
}

/// Reads which scheme a request is of: one that is settled here.
pub(super) fn scheme(request: &FacilitatorRequest) -> Result<&str, Declined> {
    let (payment, offer) = (&request.payment_payload, &request.payment_requirements);
    let version = payment.x402_version;
    if !matches!(version, 1 | 2) || request.x402_version.is_some_and(|named| named != version) {
        return Err(Declined::new(Reason::InvalidVersion, "x402Version is 1 or 2"));
    }
    if (version == 2) != payment.accepted.is_some() {
        let why = "version 2 names its offer in `accepted`, version 1 does not";
        return Err(Declined::new(Reason::InvalidPayload, why));
    }
    if payment.network() != offer.network() {
        return Err(Declined::new(Reason::InvalidNetwork, "the payment is for another network"));
    }
    if payment.scheme() != offer.scheme() {
        return Err(Declined::new(Reason::InvalidScheme, "the payment is of another scheme"));
    }
    match offer.scheme() {
        scheme @ (x402::EXACT | x402::BATCH_SETTLEMENT) => Ok(scheme),
        other => {
            let why = format!("the scheme `{other}` is not settled here");
            Err(Declined::new(Reason::UnsupportedScheme, why))
        }
    }
}

/// Reads what an offer asks for, on this chain and in this token.
pub(super) fn terms(inner: &Inner, offer: &Requirements) -> Result<Terms, Declined> {
    checked(inner, offer.terms())
}

/// Holds what an offer asks for against this chain and this token.
pub(super) fn checked(inner: &Inner, terms: Result<Terms, OfferError>) -> Result<Terms, Declined> {
    let terms = terms.map_err(|error| {
        let reason = match error {
            OfferError::Network(_) => Reason::InvalidNetwork,
            OfferError::Field(_) => Reason::InvalidRequirements,
        };
        Declined::new(reason, error.to_string())
    })?;
    let chain = &inner.config.chain;
    if terms.chain_id != chain.chain_id {
        let why = format!("payments are settled on {} only", caip2(chain.chain_id));
        return Err(Declined::new(Reason::InvalidNetwork, why));
    }
    if terms.asset != chain.usdc {
        let why = format!("payments are settled in {} only", chain.usdc);
        return Err(Declined::new(Reason::InvalidRequirements, why));
    }
    Ok(terms)
}

/// What makes an authorization of the token the same one.
pub(super) fn eip3009_id(terms: &Terms, payer: Address, nonce: B256) -> String {
    format!("eip3009:{}:{}:{payer}:{nonce}", terms.chain_id, terms.asset)
}

/// Reads a payment of the scheme `exact`.
pub(super) fn exactly(inner: &Inner, request: &FacilitatorRequest) -> Result<Job, Declined> {
    let (payload, offer) = (&request.payment_payload.payload, &request.payment_requirements);
    let terms = terms(inner, offer)?;
    let gas_limit = inner.config.facilitator.gas_limit;
    let unreadable =
        |error: exact::PayloadError| Declined::new(Reason::InvalidPayload, error.to_string());
    match exact::transfer_method(offer) {
        exact::EIP3009 => {
            let payload = Payload::read(payload).map_err(unreadable)?;
            let given = payload.authorization;
            held_against(&payload, &terms).map_err(|declined| declined.payer(given.from))?;
            let (Some(name), Some(version)) =
                (offer.extra_text("name"), offer.extra_text("version"))
            else {
                let why = "the offer's extra has no name and version of the token";
                return Err(Declined::new(Reason::InvalidRequirements, why).payer(given.from));
            };
            let domain = token_domain(name, version, terms.chain_id, terms.asset);
            Ok(Job {
                id: eip3009_id(&terms, given.from, given.nonce),
                kind: SettlementKind::Exact,
                payer: given.from,
                payee: terms.pay_to,
                asset: terms.asset,
                amount: terms.amount,
                nonce: given.nonce,
                origin: given.from,
                calldata: given.message().call(&payload.signature),
                leave: Leave::Signed(Signed {
                    signature: payload.signature,
                    valid_after: given.valid_after,
                    valid_before: given.valid_before,
                    digest: given.digest(&domain),
                    separator: domain.separator(),
                }),
                gas_limit,
                target: terms.asset,
            })
        }
        exact::ERC7710 if request.payment_payload.x402_version == 2 => {
            let given = Delegated::read(payload).map_err(unreadable)?;
            let (payer, target) = (given.delegator, given.delegation_manager);
            if target == terms.asset {
                let why = "the token is no delegation manager";
                return Err(Declined::new(Reason::InvalidPayload, why).payer(payer));
            }
            let calldata = given.call(terms.asset, terms.pay_to, terms.amount);
            let nonce = keccak256(&calldata);
            Ok(Job {
                id: format!("erc7710:{}:{target}:{payer}:{nonce}", terms.chain_id),
                kind: SettlementKind::Delegated,
                payer,
                payee: terms.pay_to,
                asset: terms.asset,
                amount: terms.amount,
                nonce,
                origin: target,
                leave: Leave::Delegated,
                gas_limit,
                target,
                calldata,
            })
        }
        other => {
            let why = format!("transfers by `{other}` are not settled here");
            Err(Declined::new(Reason::UnsupportedScheme, why))
        }
    }
}

/// Holds what was signed against what is asked for.
fn held_against(payload: &Payload, terms: &Terms) -> Result<(), Declined> {
    let signed = &payload.authorization;
    if payload.is_undeployed() {
        let why = "the payer's wallet must be deployed, and its signature bare";
        return Err(Declined::new(Reason::UndeployedWallet, why));
    }
    if signed.to != terms.pay_to {
        let why = format!("signed for {}, not for {}", signed.to, terms.pay_to);
        return Err(Declined::new(Reason::RecipientMismatch, why));
    }
    if signed.value != terms.amount {
        let why = format!("signed over {}, not over {}", signed.value, terms.amount);
        return Err(Declined::new(Reason::ValueMismatch, why));
    }
    Ok(())
}
