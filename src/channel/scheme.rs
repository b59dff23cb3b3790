//! x402's `batch-settlement` as a seller speaks it: what an offer says, how a payload becomes a charge,
//! what a payer is told so that it can set itself right. Source: protocol's scheme document for EVM
//! chains, seller's rules.

use alloy::primitives::{Address, B256, U256};
use serde_json::{Map, Value, json};

use super::{
    meter::{Delivered, MeterRow, Presented, Reject},
    payee::{Charge, NotTaken, Taken},
};
use crate::{
    engine::Inner,
    money::Usdc,
    refusal::Refusal,
    x402::{
        BATCH_SETTLEMENT, Reason, Requirements, SettleResponse, Terms,
        batch::{ChannelConfig, ChannelState, ERROR_PREFIX, Voucher, VoucherState},
        caip2,
    },
};

/// Name and version of the token's EIP-712 domain: what a deposit by authorization is signed under.
#[derive(Clone, Debug)]
pub struct TokenDomain {
    /// `name()`.
    pub name: String,
    /// `version()`.
    pub version: String,
}

/// Makes the offer: at most `price` for a request, vouchers claimed by `authorizer`.
///
/// # Errors
/// [`serde_json::Error`]: none in practice.
pub(crate) fn offer(
    inner: &Inner,
    terms: &Terms,
    authorizer: Address,
    token: &TokenDomain,
) -> Result<Requirements, serde_json::Error> {
    let extra = Map::from_iter([
        ("receiverAuthorizer".to_owned(), json!(authorizer.to_string())),
        ("withdrawDelay".to_owned(), json!(inner.config.channels.withdraw_delay_s)),
        ("name".to_owned(), json!(token.name)),
        ("version".to_owned(), json!(token.version)),
    ]);
    Requirements::new(BATCH_SETTLEMENT, terms, extra)
}

/// What comes of a voucher.
pub(crate) enum Step {
    /// Serve; then [`Charge::done`].
    Serve(Charge),
    /// It was served before.
    Again(Box<Delivered>, SettleResponse),
    /// Not good: the reason, and the offer with what the payer needs to know.
    Refused(Reason, Box<Requirements>),
}

/// Takes a voucher against the offer it was sent for. `request` names the request it came with.
///
/// # Errors
/// 503 where store or chain have no answer.
pub(crate) async fn take(
    inner: &Inner,
    offer: &Requirements,
    config: &ChannelConfig,
    voucher: &Voucher,
    request: B256,
) -> Result<Step, Refusal> {
    let refused = |reason: &str| {
        Ok(Step::Refused(Reason::Other(format!("{ERROR_PREFIX}{reason}")), Box::new(offer.clone())))
    };
    let Some(meters) = &inner.meters else { return refused("channel_not_found") };
    // The id before anything is looked up by it.
    let id = meters.hub().channel_id(&(*config).into());
    if id != voucher.channel_id {
        return refused("channel_id_mismatch");
    }
    if let Some(reason) = mismatch(offer, config) {
        return refused(reason);
    }
    let price = offer.terms().ok().and_then(|terms| terms.usdc());
    let ceiling = u64::try_from(voucher.max_claimable_amount).ok().and_then(Usdc::from_units);
    let (Some(price), Some(ceiling)) = (price, ceiling) else {
        return refused("cumulative_exceeds_balance");
    };
    let presented = Presented { ceiling, signature: &voucher.signature, price, request };
    match meters.take(inner, id, config, presented).await {
        Ok(Taken::Serve(charge)) => Ok(Step::Serve(charge)),
        Ok(Taken::Again(delivered, row)) => {
            let receipt = receipt(inner, &row, delivered.charged);
            Ok(Step::Again(delivered, receipt))
        }
        Err(NotTaken::Busy) => refused("channel_busy"),
        Err(NotTaken::Unfunded) => refused("channel_not_found"),
        Err(NotTaken::Unavailable(refusal)) => Err(refusal),
        Err(NotTaken::Rejected(reject, row)) => {
            let (reason, telling) = match reject {
                Reject::Signature(_) => ("voucher_signature", false),
                Reject::Mismatch { presented, .. } if presented < row.chain.claimed => {
                    ("cumulative_below_claimed", true)
                }
                Reject::Mismatch { .. } => ("cumulative_amount_mismatch", true),
                Reject::AboveBalance { .. } | Reject::Overflow => {
                    ("cumulative_exceeds_balance", true)
                }
                Reject::Withdrawing => ("insufficient_balance", true),
            };
            let reason = Reason::Other(format!("{ERROR_PREFIX}{reason}"));
            // Only who holds the channel's key learns where it stands.
            let offer = if telling { corrective(offer, &row)? } else { offer.clone() };
            Ok(Step::Refused(reason, Box::new(offer)))
        }
    }
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

/// The receipt of a request: no transaction, and where the channel stands.
pub(crate) fn receipt(inner: &Inner, row: &MeterRow, charged: Usdc) -> SettleResponse {
    let extra = Map::from_iter([
        ("chargedAmount".to_owned(), json!(charged.units().to_string())),
        ("channelState".to_owned(), json!(state(row))),
    ]);
    SettleResponse {
        success: true,
        transaction: String::new(),
        network: caip2(inner.config.chain.chain_id),
        payer: Some(row.config.payer.to_string()),
        amount: Some(String::new()),
        extra: Some(extra),
        ..SettleResponse::default()
    }
}

/// The channel as we know it.
fn state(row: &MeterRow) -> ChannelState {
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
