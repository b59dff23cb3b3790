//! x402's `batch-settlement` as a seller speaks it: what an offer says, how a payload becomes a charge,
//! what a payer is told so that it can set itself right. Source: protocol's scheme document for EVM
//! chains, seller's rules.

use std::sync::Arc;

use alloy::primitives::{B256, Bytes, U256};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{
    meter::{Delivered, MeterRow, Presented, Reject},
    payee::{Charge, Meters, NotTaken, Taken},
};
use crate::{
    engine::Inner,
    money::Usdc,
    refusal::Refusal,
    x402::{
        Reason, Requirements,
        batch::{ChannelConfig, ChannelState, ERROR_PREFIX, Voucher, VoucherState},
    },
};

/// What an offer says of channels beside the token: who claims, how long a payer waits for its money, the
/// least deposit.
pub(crate) fn extra(inner: &Inner, meters: &Meters, price: Usdc) -> [(String, Value); 3] {
    let config = &inner.config.channels;
    let calls = Usdc::from_units(price.units().saturating_mul(DEPOSIT_CALLS)).unwrap_or(price);
    let least = calls.max(config.min_deposit);
    [
        ("receiverAuthorizer".to_owned(), json!(meters.authorizer().to_string())),
        ("withdrawDelay".to_owned(), json!(config.withdraw_delay_s)),
        ("minDeposit".to_owned(), json!(least.units().to_string())),
    ]
}

/// Calls that a deposit is for at least, as x402's own servers have it.
const DEPOSIT_CALLS: u64 = 10;

/// Why a payload of a channel is not taken.
pub(crate) enum Not {
    /// Not good: the reason, and the offer with what its payer needs to know.
    Refused(Reason, Box<Requirements>),
    /// Store or chain have no answer now.
    Unavailable(Refusal),
}

impl From<Refusal> for Not {
    fn from(refusal: Refusal) -> Self {
        Self::Unavailable(refusal)
    }
}

/// What comes of a voucher.
pub(crate) enum Step {
    /// Serve; then [`Charge::done`].
    Serve(Charge),
    /// It was served before.
    Again(Arc<Delivered>, Box<MeterRow>),
}

/// A channel and a voucher of it, held against an offer.
pub(crate) struct Shown<'a> {
    inner: &'a Inner,
    meters: &'a Meters,
    offer: &'a Requirements,
    id: B256,
    config: &'a ChannelConfig,
    ceiling: Usdc,
    signature: &'a Bytes,
    price: Usdc,
}

impl<'a> Shown<'a> {
    /// Holds a channel against the offer it was sent for; the signature is not looked at.
    ///
    /// # Errors
    /// [`Not::Refused`].
    pub(crate) fn read(
        inner: &'a Inner,
        offer: &'a Requirements,
        config: &'a ChannelConfig,
        voucher: &'a Voucher,
    ) -> Result<Self, Not> {
        let meters = inner.meters.as_ref().ok_or_else(|| no(offer, "channel_not_found"))?;
        // The id before anything is looked up by it.
        let id = meters.hub().channel_id(&(*config).into());
        if id != voucher.channel_id {
            return Err(no(offer, "channel_id_mismatch"));
        }
        if let Some(reason) = mismatch(offer, config) {
            return Err(no(offer, reason));
        }
        let price = offer.terms().ok().and_then(|terms| terms.usdc());
        let ceiling = u64::try_from(voucher.max_claimable_amount).ok().and_then(Usdc::from_units);
        let (Some(price), Some(ceiling)) = (price, ceiling) else {
            return Err(no(offer, "cumulative_exceeds_balance"));
        };
        let signature = &voucher.signature;
        Ok(Self { inner, meters, offer, id, config, ceiling, signature, price })
    }

    /// Takes the voucher for a request. A channel that does not hold enough is looked at until `until`:
    /// a deposit is on its way.
    ///
    /// # Errors
    /// [`Not`].
    pub(crate) async fn take(&self, request: B256, until: Option<Instant>) -> Result<Step, Not> {
        let Self { ceiling, signature, price, .. } = *self;
        let voucher = Presented { ceiling, signature, price, request };
        let taken = self.meters.take(self.inner, (self.id, self.config), voucher, until).await;
        let metrics = &self.inner.metrics;
        let taken = taken.map_err(|not| {
            let not = self.not(not);
            if let Not::Refused(reason, _) = &not {
                metrics.vouchers_refused.get_or_create(&reason.into()).inc();
            }
            not
        });
        match taken? {
            Taken::Serve(charge) => {
                metrics.vouchers_taken.inc();
                Ok(Step::Serve(charge))
            }
            Taken::Again(delivered, row) => Ok(Step::Again(delivered, row)),
        }
    }

    /// Would the voucher buy something once there is enough in the channel?
    ///
    /// # Errors
    /// [`Not`].
    pub(crate) async fn is_next(&self) -> Result<bool, Not> {
        let charged = self.meters.charged(self.inner, (self.id, self.config)).await;
        let charged = charged.map_err(|not| self.not(not))?;
        Ok(charged.checked_add(self.price) == Some(self.ceiling))
    }

    /// Refuses a voucher that is for another total than is due, in a channel that is not there yet.
    pub(crate) fn other_total(&self) -> Not {
        no(self.offer, "cumulative_amount_mismatch")
    }

    /// Gives back `amount`, or all that is free: the row says what is to be signed and sent.
    ///
    /// # Errors
    /// [`Not`].
    pub(crate) async fn give_back(
        &self,
        wish: B256,
        amount: Option<U256>,
    ) -> Result<MeterRow, Not> {
        let narrow = |amount: U256| u64::try_from(amount).ok().and_then(Usdc::from_units);
        let amount = match amount {
            Some(amount) => {
                Some(narrow(amount).ok_or_else(|| no(self.offer, "refund_amount_invalid"))?)
            }
            None => None,
        };
        let voucher = (self.ceiling, self.signature.as_ref());
        let channel = (self.id, self.config);
        let given = self.meters.give_back(self.inner, channel, voucher, (wish, amount)).await;
        given.map_err(|not| self.not(not))
    }

    fn not(&self, not: NotTaken) -> Not {
        let (reject, row) = match not {
            NotTaken::Busy => return no(self.offer, "channel_busy"),
            NotTaken::Unfunded => return no(self.offer, "channel_not_found"),
            NotTaken::Unavailable(refusal) => return Not::Unavailable(refusal),
            NotTaken::Rejected(reject, row) => (reject, row),
        };
        let reason = match reject {
            // Only who holds the channel's key learns where it stands.
            Reject::Signature(_) => return no(self.offer, "voucher_signature"),
            Reject::Mismatch { presented, .. } if presented < row.chain.claimed => {
                "cumulative_below_claimed"
            }
            Reject::Mismatch { .. } => "cumulative_amount_mismatch",
            Reject::AboveBalance { .. } | Reject::Overflow => "cumulative_exceeds_balance",
            Reject::Withdrawing => "insufficient_balance",
            Reject::Refunding => "channel_busy",
            Reject::NothingLeft => "refund_no_balance",
            Reject::RefundAmount { .. } => "refund_amount_invalid",
        };
        match corrective(self.offer, &row) {
            Ok(offer) => Not::Refused(named(reason), Box::new(offer)),
            Err(refusal) => Not::Unavailable(refusal),
        }
    }
}

fn named(reason: &str) -> Reason {
    Reason::Other(format!("{ERROR_PREFIX}{reason}"))
}

fn no(offer: &Requirements, reason: &str) -> Not {
    Not::Refused(named(reason), Box::new(offer.clone()))
}

/// Holds a channel's fields against the offer's.
fn mismatch(offer: &Requirements, config: &ChannelConfig) -> Option<&'static str> {
    let terms = offer.terms().ok()?;
    let authorizer = offer.extra_text("receiverAuthorizer").and_then(|text| text.parse().ok());
    let delay = offer.extra("withdrawDelay").and_then(Value::as_u64);
    if config.receiver != terms.pay_to {
        Some("receiver_mismatch")
    } else if Some(config.receiver_authorizer) != authorizer {
        Some("receiver_authorizer_mismatch")
    } else if config.token != terms.asset {
        Some("token_mismatch")
    } else if Some(u64::from(config.withdraw_delay)) != delay {
        Some("withdraw_delay_mismatch")
    } else if config.payer_authorizer.is_zero() {
        Some("authorizer_not_configured")
    } else {
        None
    }
}

/// The channel as we know it.
pub(crate) fn state(row: &MeterRow) -> ChannelState {
    ChannelState {
        channel_id: row.id,
        balance: row.chain.balance.units().into(),
        total_claimed: row.chain.claimed.units().into(),
        withdraw_requested_at: row.chain.withdraw_since_s.unwrap_or_default(),
        refund_nonce: U256::from(row.chain.refund_nonce),
        charged_cumulative_amount: Some(U256::from(row.charged.units())),
    }
}

/// The offer with the channel's state in it, and the payer's own last voucher as proof of it.
fn corrective(offer: &Requirements, row: &MeterRow) -> Result<Requirements, Refusal> {
    let unwritable = |_| Refusal::new(crate::refusal::Code::Internal, "an offer cannot be written");
    let mut fields: Map<String, Value> =
        serde_json::to_value(offer).and_then(serde_json::from_value).map_err(unwritable)?;
    let extra = fields.entry("extra").or_insert_with(|| json!({}));
    extra["channelState"] = json!(state(row));
    if !row.signature.is_empty() {
        extra["voucherState"] = json!(VoucherState {
            signed_max_claimable: row.ceiling.units().into(),
            signature: row.signature.clone().into(),
        });
    }
    Requirements::from_fields(fields).map_err(unwritable)
}
