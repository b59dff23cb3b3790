//! What is asked, read and held against the offer: no chain, no clock.

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};

use super::Declined;
use crate::{
    contract::token::token_domain,
    engine::Inner,
    store::{SettlementKind, SettlementRow},
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
    pub payer: Address,
    pub payee: Address,
    pub asset: Address,
    pub amount: U256,
    /// Makes the id.
    pub nonce: B256,
    /// What the payer gave.
    pub leave: Leave,
    /// The contract to call, and the call.
    pub target: Address,
    pub calldata: Bytes,
}

/// By what leave the money is moved.
#[derive(Debug)]
pub(super) enum Leave {
    /// A signed transfer; the digest is in the domain that the offer names, whose hash is beside it.
    Signed { payload: Payload, digest: B256, separator: B256 },
    /// A contract that pays when called.
    Delegated,
}

impl Job {
    pub(super) const fn kind(&self) -> SettlementKind {
        match self.leave {
            Leave::Signed { .. } => SettlementKind::Exact,
            Leave::Delegated => SettlementKind::Delegated,
        }
    }

    /// Who answers for its failures: a payer is cheap to invent where a contract is called.
    pub(super) const fn origin(&self) -> Address {
        match self.leave {
            Leave::Signed { .. } => self.payer,
            Leave::Delegated => self.target,
        }
    }

    /// Is it the payment of that row, and not another one with its nonce?
    pub(super) fn is(&self, row: &SettlementRow) -> bool {
        (self.payee, self.amount, self.asset) == (row.payee, row.amount, row.asset)
    }
}

/// Reads a request.
pub(super) fn job(inner: &Inner, request: &FacilitatorRequest) -> Result<Job, Declined> {
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
    let terms = terms(inner, offer)?;
    match offer.scheme() {
        x402::EXACT => exactly(request, &terms),
        other => {
            let why = format!("the scheme `{other}` is not settled here");
            Err(Declined::new(Reason::UnsupportedScheme, why))
        }
    }
}

fn terms(inner: &Inner, offer: &Requirements) -> Result<Terms, Declined> {
    let terms = offer.terms().map_err(|error| {
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

fn exactly(request: &FacilitatorRequest, terms: &Terms) -> Result<Job, Declined> {
    let (payload, offer) = (&request.payment_payload.payload, &request.payment_requirements);
    let unreadable =
        |error: exact::PayloadError| Declined::new(Reason::InvalidPayload, error.to_string());
    let job = |payer, nonce, leave, target, calldata, name: &str| Job {
        id: format!("{name}:{}:{}:{payer}:{nonce}", terms.chain_id, terms.asset),
        payer,
        payee: terms.pay_to,
        asset: terms.asset,
        amount: terms.amount,
        nonce,
        leave,
        target,
        calldata,
    };
    match exact::transfer_method(offer) {
        exact::EIP3009 => {
            let payload = Payload::read(payload).map_err(unreadable)?;
            let signed = payload.authorization;
            held_against(&payload, terms).map_err(|declined| declined.payer(signed.from))?;
            let (Some(name), Some(version)) =
                (offer.extra_text("name"), offer.extra_text("version"))
            else {
                let why = "the offer's extra has no name and version of the token";
                return Err(Declined::new(Reason::InvalidRequirements, why).payer(signed.from));
            };
            let domain = token_domain(name, version, terms.chain_id, terms.asset);
            let calldata = signed.message().call(&payload.signature);
            let (digest, separator) = (signed.digest(&domain), domain.separator());
            let leave = Leave::Signed { payload, digest, separator };
            Ok(job(signed.from, signed.nonce, leave, terms.asset, calldata, "eip3009"))
        }
        exact::ERC7710 if request.payment_payload.x402_version == 2 => {
            let given = Delegated::read(payload).map_err(unreadable)?;
            let calldata = given.call(terms.asset, terms.pay_to, terms.amount);
            let nonce = keccak256(&calldata);
            let (payer, target) = (given.delegator, given.delegation_manager);
            if target == terms.asset {
                let why = "the token is no delegation manager";
                return Err(Declined::new(Reason::InvalidPayload, why).payer(payer));
            }
            let name = format!("erc7710:{target}");
            Ok(job(payer, nonce, Leave::Delegated, target, calldata, &name))
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
