//! The facilitator: verifies x402 payments, and carries them to the chain for sellers.
//!
//! It holds no money and needs no trust with any: what a payer signed goes to one payee, once, and the
//! token sees to that. What it spends is gas, and what it owes is the truth. So a settlement is a row,
//! keyed by what makes it the same one, with its signed transaction, before anything is sent; who asks
//! again waits for the same transaction; and what is not known yet is called `settlement_pending`.

mod batch;
mod check;
mod read;
mod settle;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use alloy::primitives::{Address, B256};
use serde_json::{Map, Value};
use tokio::sync::{Notify, OnceCell};
use tracing::warn;

pub(crate) use self::settle::{ended, moved};
use crate::{
    engine::{EngineError, Inner},
    store::{SettlementState, TxKind},
    view::FacilitatorView,
    x402::{
        self, FacilitatorRequest, Kind, Reason, Requirements, SettleResponse, Supported,
        VerifyResponse, caip2, v1_name,
    },
};

/// What the facilitator keeps in memory, beside the store.
#[derive(Debug)]
pub(crate) struct Desk {
    /// The chain has x402's channels where everybody looks for them.
    has_hub: bool,
    /// A transaction has a block, lost it, or is final.
    pub landed: Notify,
    /// The token's EIP-712 domain, as the token computes it.
    separator: OnceCell<B256>,
    /// Requests in this second: unix seconds, and how many.
    seen: Mutex<(u64, u32)>,
}

impl Desk {
    /// `has_hub`: there is code at [`crate::contract::hub::HUB`].
    pub(crate) fn new(has_hub: bool) -> Self {
        Self { has_hub, landed: Notify::new(), separator: OnceCell::new(), seen: Mutex::default() }
    }
}

/// Why a payment is not taken, or not settled (yet).
#[derive(Debug)]
struct Declined {
    reason: Reason,
    /// For people.
    why: String,
    payer: Option<Address>,
    /// What is on its way, or was.
    transaction: Option<B256>,
}

impl Declined {
    fn new(reason: Reason, why: impl Into<String>) -> Self {
        Self { reason, why: why.into(), payer: None, transaction: None }
    }

    /// Where nobody can be blamed; which of the two `unexpected_…` it is, the answer knows.
    fn fault(error: &EngineError) -> Self {
        warn!(%error, "a payment could not be looked at");
        let why = match error {
            EngineError::Rpc(_) => "the chain cannot be reached; nothing was sent",
            EngineError::NotOurs(_) => "another daemon has the relayers; nothing was sent",
            _ => "a fault of the facilitator; nothing was sent",
        };
        Self::new(Reason::UnexpectedVerifyError, why)
    }

    fn payer(self, payer: Address) -> Self {
        Self { payer: Some(payer), ..self }
    }

    /// Version 1 has a closed list of names.
    fn reason(&self, version: u8) -> Reason {
        match (version, &self.reason) {
            (1, Reason::NonceUsed) => Reason::InvalidTransactionState,
            (_, reason) => reason.clone(),
        }
    }
}

impl<E: Into<EngineError>> From<E> for Declined {
    fn from(error: E) -> Self {
        Self::fault(&error.into())
    }
}

/// Verifies and settles x402 payments, versions 2 and 1. Cheap to clone.
///
/// `exact` by EIP-3009 from accounts and from contracts (ERC-1271), and by ERC-7710; of
/// `batch-settlement` deposits by EIP-3009, claims, payouts and refunds; in USDC, on the daemon's chain.
#[derive(Clone)]
pub struct Facilitator {
    inner: Arc<Inner>,
}

impl Facilitator {
    pub(crate) const fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Is it served to others (`facilitator.enabled`)?
    #[must_use]
    pub fn is_public(&self) -> bool {
        self.inner.config.facilitator.enabled
    }

    /// May somebody who is not this daemon be paid by this offer (`facilitator.payees`)?
    #[must_use]
    pub fn serves(&self, offer: &Requirements) -> bool {
        let payees = &self.inner.config.facilitator.payees;
        payees.is_empty() || offer.terms().is_ok_and(|terms| payees.contains(&terms.pay_to))
    }

    /// Is there room for one more request in this second? Counts it.
    #[must_use]
    pub fn admits(&self) -> bool {
        let now_s = self.inner.clock.now_s();
        let mut seen = self.inner.facilitator.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0 != now_s {
            *seen = (now_s, 0);
        }
        seen.1 = seen.1.saturating_add(1);
        seen.1 <= self.inner.config.facilitator.requests_per_second
    }

    /// Tells what it can do: schemes, networks, and the accounts that send.
    #[must_use]
    pub fn supported(&self) -> Supported {
        let chain_id = self.inner.config.chain.chain_id;
        let kind = |x402_version, scheme: &str, network: String| Kind {
            x402_version,
            scheme: scheme.to_owned(),
            network,
            extra: Some(Map::new()),
        };
        let mut kinds = vec![kind(2, x402::EXACT, caip2(chain_id))];
        if self.inner.facilitator.has_hub {
            kinds.push(kind(2, x402::BATCH_SETTLEMENT, caip2(chain_id)));
        }
        kinds.extend(v1_name(chain_id).map(|name| kind(1, x402::EXACT, name.to_owned())));
        let signers = self.inner.relayer_addresses().iter().map(Address::to_string).collect();
        Supported { kinds, extensions: Vec::new(), signers: [("eip155:*".into(), signers)].into() }
    }

    /// Names a payment as its settlement is named, and whose money it says it is; the chain is not asked.
    ///
    /// # Errors
    /// Why it cannot be a payment for its offer: the reason, and the same for people.
    pub(crate) fn identify(
        &self,
        request: &FacilitatorRequest,
    ) -> Result<(String, Address), (Reason, String)> {
        let version = request.payment_payload.x402_version;
        read::exactly(&self.inner, request)
            .map(|job| (job.id, job.payer))
            .map_err(|declined| (declined.reason(version), declined.why))
    }

    /// Looks whether a payment could be settled now. Changes nothing.
    pub async fn verify(&self, request: &FacilitatorRequest) -> VerifyResponse {
        let looked = self.look(request).await;
        match &looked {
            Ok(_) => {
                self.inner.metrics.verified.inc();
            }
            Err(declined) => self.count_declined(&declined.reason),
        }
        match looked {
            Ok((payer, extra)) => VerifyResponse {
                is_valid: true,
                payer: Some(payer.to_string()),
                extra,
                ..VerifyResponse::default()
            },
            Err(declined) => VerifyResponse {
                is_valid: false,
                payer: declined.payer.map(|payer| payer.to_string()),
                invalid_reason: Some(declined.reason(request.payment_payload.x402_version)),
                invalid_message: Some(declined.why),
                ..VerifyResponse::default()
            },
        }
    }

    fn count_declined(&self, reason: &Reason) {
        self.inner.metrics.declined.get_or_create(&reason.into()).inc();
    }

    /// Shows how it fares.
    pub(crate) fn view(&self) -> FacilitatorView {
        let (inner, metrics) = (&self.inner, &self.inner.metrics);
        FacilitatorView {
            public: self.is_public(),
            channels: inner.facilitator.has_hub,
            pending: inner.flights.count(TxKind::Settlement) as u64,
            verified: metrics.verified.get(),
            settled: metrics.settled.get(),
            failed: metrics.unsettled.get(),
        }
    }

    async fn look(
        &self,
        request: &FacilitatorRequest,
    ) -> Result<(Address, Option<Map<String, Value>>), Declined> {
        if read::scheme(request)? == x402::BATCH_SETTLEMENT {
            let (payer, state) = batch::verify(&self.inner, request).await?;
            let extra = serde_json::to_value(state).ok();
            return Ok((payer, extra.and_then(|extra| extra.as_object().cloned())));
        }
        let job = read::exactly(&self.inner, request)?;
        let checked = async {
            match self.inner.store.settlement(&job.id).await? {
                Some(row) if !job.is(&row) => Err(used("its nonce was used for another payment")),
                Some(row) if row.told => Err(used("it was settled before")),
                // Whoever asked first never heard of it: the same payment is as good as new.
                Some(row) if row.state != SettlementState::Failed => Ok(()),
                _ => check::now(&self.inner, &job).await.map(|_| ()),
            }
        };
        let checked: Result<(), Declined> = checked.await;
        checked.map_err(|declined| declined.payer(job.payer))?;
        Ok((job.payer, None))
    }

    /// Settles a payment, once: the same payment again finds the same transaction, and hears again that
    /// it is settled. For a seller in this process, who keeps its sales apart by their payments.
    ///
    /// Waits for the chain up to `facilitator.wait_s`; then the answer is `settlement_pending` with the
    /// hash, and the same request may be made again.
    pub async fn settle(&self, request: &FacilitatorRequest) -> SettleResponse {
        self.settle_as(request, true).await
    }

    /// The same for sellers elsewhere, who serve whenever they hear that a payment is settled: of all who
    /// ask with one payment, one hears that. The others hear `duplicate_settlement`, with the transaction.
    pub async fn settle_for_others(&self, request: &FacilitatorRequest) -> SettleResponse {
        self.settle_as(request, false).await
    }

    async fn settle_as(&self, request: &FacilitatorRequest, again: bool) -> SettleResponse {
        let network = request.payment_requirements.network().to_owned();
        let version = request.payment_payload.x402_version;
        // A caller that goes away must not leave a stored transaction that nobody sends.
        let (this, request) = (self.clone(), request.clone());
        let run = tokio::spawn(async move { settle::settle(&this.inner, &request, again).await });
        let outcome = match run.await {
            Ok(outcome) => outcome,
            Err(error) => {
                warn!(%error, "a settlement ended in a fault");
                let why = "a fault of the facilitator: ask again with the same payment";
                Err(Declined::new(Reason::SettlementPending, why))
            }
        };
        if let Err(declined) = &outcome {
            self.count_declined(&declined.reason);
        }
        match outcome {
            Ok(done) => SettleResponse {
                success: true,
                transaction: done.transaction.to_string(),
                network,
                payer: Some(done.payer.to_string()),
                amount: done.amount,
                extra: done.extra,
                ..SettleResponse::default()
            },
            Err(declined) => SettleResponse {
                success: false,
                transaction: declined.transaction.map(|hash| hash.to_string()).unwrap_or_default(),
                network,
                payer: declined.payer.map(|payer| payer.to_string()),
                error_reason: Some(match declined.reason(version) {
                    Reason::UnexpectedVerifyError => Reason::UnexpectedSettleError,
                    reason => reason,
                }),
                error_message: Some(declined.why),
                ..SettleResponse::default()
            },
        }
    }

    fn wait(inner: &Inner) -> Duration {
        Duration::from_secs(inner.config.facilitator.wait_s)
    }
}

fn used(why: &str) -> Declined {
    Declined::new(Reason::NonceUsed, why)
}
