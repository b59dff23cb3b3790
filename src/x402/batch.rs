//! The scheme `batch-settlement`: a channel is funded once, each request brings a voucher over the
//! whole sum so far, and many vouchers are claimed at a time.

use alloy::primitives::{Address, B256, Bytes, U256};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    exact::{PayloadError, bounded, read},
    text::{checksummed, decimal_option, decimal128},
};
use crate::contract::hub::{self, Entry, Hub};

pub use crate::contract::hub::{ERC3009_COLLECTOR, HUB, WITHDRAW_DELAY};

/// Rows in one claim.
pub const CLAIM_LIMIT: usize = 100;
/// What the scheme's own error names begin with.
pub const ERROR_PREFIX: &str = "invalid_batch_settlement_evm_";

/// What a channel is; any other field is another channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelConfig {
    /// Whose money.
    #[serde(with = "checksummed")]
    pub payer: Address,
    /// The key that signs vouchers. Zero would mean the payer by ERC-1271, which is not taken here.
    #[serde(with = "checksummed")]
    pub payer_authorizer: Address,
    /// Who is paid.
    #[serde(with = "checksummed")]
    pub receiver: Address,
    /// Who signs claims and refunds for the receiver.
    #[serde(with = "checksummed")]
    pub receiver_authorizer: Address,
    /// The asset.
    #[serde(with = "checksummed")]
    pub token: Address,
    /// Seconds, in [`WITHDRAW_DELAY`].
    pub withdraw_delay: u32,
    /// Tells apart channels that are otherwise the same.
    pub salt: B256,
}

/// The payer's word: up to this much of the channel, all in all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Voucher {
    /// Whose.
    pub channel_id: B256,
    /// Base units from the channel's beginning on.
    #[serde(with = "decimal128")]
    pub max_claimable_amount: u128,
    /// By `payerAuthorizer`.
    pub signature: Bytes,
}

/// What a buyer sends with a request, and what a seller asks of a facilitator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Payload {
    /// Money into the channel, and a voucher over the first of it.
    Deposit(Deposit),
    /// A voucher.
    Voucher(Vouched),
    /// What is left goes back.
    Refund(RefundPayload),
    /// Vouchers are claimed. From sellers only.
    Claim(Claim),
    /// What was claimed is paid out. From sellers only.
    Settle(SettlePayload),
}

/// A channel and a voucher of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Vouched {
    /// The channel.
    pub channel_config: ChannelConfig,
    /// The voucher.
    pub voucher: Voucher,
}

/// A deposit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Deposit {
    /// The channel.
    pub channel_config: ChannelConfig,
    /// The voucher.
    pub voucher: Voucher,
    /// The money.
    pub deposit: DepositTerms,
}

/// How much, and by whose leave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DepositTerms {
    /// Base units.
    #[serde(with = "decimal128")]
    pub amount: u128,
    /// The payer's leave.
    pub authorization: DepositAuthorization,
}

/// The payer's leave to take a deposit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DepositAuthorization {
    /// By EIP-3009. Other ways are not taken here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub erc3009_authorization: Option<Erc3009Authorization>,
}

/// `ReceiveWithAuthorization` to the collector, with [`hub::deposit_nonce`] as its nonce.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Erc3009Authorization {
    /// Unix seconds.
    #[serde(with = "super::text::decimal")]
    pub valid_after: U256,
    /// Unix seconds.
    #[serde(with = "super::text::decimal")]
    pub valid_before: U256,
    /// Makes the nonce.
    #[serde(with = "salt")]
    pub salt: U256,
    /// By the payer.
    pub signature: Bytes,
}

/// A refund. A buyer sends the first three; the seller adds the rest for its facilitator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefundPayload {
    /// The channel.
    pub channel_config: ChannelConfig,
    /// A voucher over exactly what was charged.
    pub voucher: Voucher,
    /// Base units; all that is left where there is none.
    #[serde(default, with = "decimal_option", skip_serializing_if = "Option::is_none")]
    pub amount: Option<U256>,
    /// The channel's next.
    #[serde(default, with = "decimal_option", skip_serializing_if = "Option::is_none")]
    pub refund_nonce: Option<U256>,
    /// What is claimed before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<ClaimRow>,
    /// By `receiverAuthorizer`, where that is not the facilitator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_authorizer_signature: Option<Bytes>,
    /// By `receiverAuthorizer`, where that is not the facilitator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_authorizer_signature: Option<Bytes>,
}

/// A claim of many vouchers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claim {
    /// At most [`CLAIM_LIMIT`].
    pub claims: Vec<ClaimRow>,
    /// By `receiverAuthorizer` over all rows, where that is not the facilitator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim_authorizer_signature: Option<Bytes>,
}

/// One voucher, and how much of it is claimed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimRow {
    /// What was signed.
    pub voucher: ClaimVoucher,
    /// By `payerAuthorizer`.
    pub signature: Bytes,
    /// Base units from the channel's beginning on, at most the voucher's.
    #[serde(with = "decimal128")]
    pub total_claimed: u128,
}

/// A voucher that brings its channel along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimVoucher {
    /// The channel.
    pub channel: ChannelConfig,
    /// Base units from the channel's beginning on.
    #[serde(with = "decimal128")]
    pub max_claimable_amount: u128,
}

/// A payout of what was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SettlePayload {
    /// Who is paid.
    #[serde(with = "checksummed")]
    pub receiver: Address,
    /// The asset.
    #[serde(with = "checksummed")]
    pub token: Address,
}

/// A channel as its chain, and its seller, know it: `extra.channelState`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelState {
    /// Whose.
    pub channel_id: B256,
    /// Base units that were put in and not taken back.
    #[serde(with = "decimal128")]
    pub balance: u128,
    /// Base units of them that were claimed.
    #[serde(with = "decimal128")]
    pub total_claimed: u128,
    /// Unix seconds; 0: the payer has not asked for its money.
    pub withdraw_requested_at: u64,
    /// The next refund's.
    #[serde(with = "super::text::decimal")]
    pub refund_nonce: U256,
    /// Base units that the seller has charged. Only sellers know.
    #[serde(default, with = "decimal_option", skip_serializing_if = "Option::is_none")]
    pub charged_cumulative_amount: Option<U256>,
}

/// The seller's proof of what it holds: `extra.voucherState` of a corrective answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VoucherState {
    /// Base units.
    #[serde(with = "decimal128")]
    pub signed_max_claimable: u128,
    /// The payer's own.
    pub signature: Bytes,
}

impl Payload {
    /// Reads a payment's `payload`.
    ///
    /// # Errors
    /// [`PayloadError`].
    pub fn read(payload: &Map<String, Value>) -> Result<Self, PayloadError> {
        let payload: Self = read(payload)?;
        for signature in payload.signatures() {
            bounded(signature)?;
        }
        if payload.rows().len() > CLAIM_LIMIT {
            return Err(PayloadError::TooManyRows(payload.rows().len()));
        }
        Ok(payload)
    }

    /// Returns the rows of a claim, or of a refund.
    #[must_use]
    pub fn rows(&self) -> &[ClaimRow] {
        match self {
            Self::Claim(claim) => &claim.claims,
            Self::Refund(refund) => &refund.claims,
            Self::Deposit(_) | Self::Voucher(_) | Self::Settle(_) => &[],
        }
    }

    fn signatures(&self) -> Vec<&Bytes> {
        let mut all: Vec<&Bytes> = self.rows().iter().map(|row| &row.signature).collect();
        match self {
            Self::Deposit(deposit) => {
                all.push(&deposit.voucher.signature);
                let leave = &deposit.deposit.authorization.erc3009_authorization;
                all.extend(leave.as_ref().map(|leave| &leave.signature));
            }
            Self::Voucher(vouched) => all.push(&vouched.voucher.signature),
            Self::Refund(refund) => {
                all.push(&refund.voucher.signature);
                all.extend(&refund.refund_authorizer_signature);
                all.extend(&refund.claim_authorizer_signature);
            }
            Self::Claim(claim) => all.extend(&claim.claim_authorizer_signature),
            Self::Settle(_) => {}
        }
        all
    }
}

impl From<ChannelConfig> for hub::ChannelConfig {
    fn from(config: ChannelConfig) -> Self {
        Self {
            payer: config.payer,
            payerAuthorizer: config.payer_authorizer,
            receiver: config.receiver,
            receiverAuthorizer: config.receiver_authorizer,
            token: config.token,
            withdrawDelay: alloy::primitives::aliases::U40::from(config.withdraw_delay),
            salt: config.salt,
        }
    }
}

impl ClaimRow {
    /// Returns what the receiver's signature over a claim covers of this row.
    #[must_use]
    pub fn entry(&self, hub: &Hub) -> Entry {
        Entry {
            channel_id: hub.channel_id(&self.voucher.channel.into()),
            max: self.voucher.max_claimable_amount,
            total: self.total_claimed,
        }
    }
}

/// A salt: written as 32 bytes, read as those or as a decimal string.
mod salt {
    use std::borrow::Cow;

    use alloy::primitives::{B256, U256};
    use serde::{Deserialize, Deserializer, Serialize as _, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(value: &U256, to: S) -> Result<S::Ok, S::Error> {
        B256::from(*value).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<U256, D::Error> {
        let text = Cow::<'de, str>::deserialize(from)?;
        let value = match text.strip_prefix("0x") {
            Some(hex) if (1..=64).contains(&hex.len()) => U256::from_str_radix(hex, 16).ok(),
            Some(_) => None,
            None => crate::x402::text::decimal::parse(&text),
        };
        value.ok_or_else(|| D::Error::custom("expected 32 bytes, or a decimal string"))
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{address, b256};
    use serde_json::json;

    use super::*;

    fn config() -> ChannelConfig {
        ChannelConfig {
            payer: Address::repeat_byte(0x11),
            payer_authorizer: Address::repeat_byte(0x22),
            receiver: Address::repeat_byte(0x33),
            receiver_authorizer: Address::repeat_byte(0x44),
            token: address!("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"),
            withdraw_delay: 900,
            salt: B256::with_last_byte(1),
        }
    }

    fn row() -> ClaimRow {
        ClaimRow {
            voucher: ClaimVoucher { channel: config(), max_claimable_amount: 1_000 },
            signature: Bytes::from(vec![1; 65]),
            total_claimed: 700,
        }
    }

    /// The digests themselves are checked beside [`Hub`].
    #[test]
    fn a_config_and_a_row_are_the_contract_s() {
        let hub = Hub::new(8_453, HUB);
        let id = b256!("0x91146eded5ed3b7c7445a0e16997bc09682641d1321795f539494ff6536568d5");
        assert_eq!(hub.channel_id(&config().into()), id);
        assert_eq!(row().entry(&hub), Entry { channel_id: id, max: 1_000, total: 700 });
    }

    #[test]
    fn payloads_are_written_as_they_are_read() {
        let config = json!({
            "payer": "0x1111111111111111111111111111111111111111",
            "payerAuthorizer": "0x2222222222222222222222222222222222222222",
            "receiver": "0x3333333333333333333333333333333333333333",
            "receiverAuthorizer": "0x4444444444444444444444444444444444444444",
            "token": "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913",
            "withdrawDelay": 900,
            "salt": B256::with_last_byte(1),
        });
        let voucher = json!({
            "channelId": B256::repeat_byte(9), "maxClaimableAmount": "3700", "signature": "0x01",
        });
        let claim = json!({
            "voucher": { "channel": config, "maxClaimableAmount": "1000" },
            "signature": "0x02", "totalClaimed": "700",
        });
        for payload in [
            json!({ "type": "voucher", "channelConfig": config, "voucher": voucher }),
            json!({
                "type": "deposit", "channelConfig": config, "voucher": voucher,
                "deposit": {
                    "amount": "50000",
                    "authorization": { "erc3009Authorization": {
                        "validAfter": "0", "validBefore": "1900000000",
                        "salt": B256::with_last_byte(3), "signature": "0x03",
                    } },
                },
            }),
            json!({ "type": "refund", "channelConfig": config, "voucher": voucher }),
            json!({
                "type": "refund", "channelConfig": config, "voucher": voucher, "amount": "5",
                "refundNonce": "0", "claims": [claim], "refundAuthorizerSignature": "0x04",
            }),
            json!({ "type": "claim", "claims": [claim], "claimAuthorizerSignature": "0x05" }),
            json!({
                "type": "settle", "receiver": config["receiver"], "token": config["token"],
            }),
        ] {
            let read = Payload::read(payload.as_object().unwrap()).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), payload);
        }
        let many = json!({ "type": "claim", "claims": vec![claim; CLAIM_LIMIT + 1] });
        let many = Payload::read(many.as_object().unwrap());
        assert!(matches!(many, Err(PayloadError::TooManyRows(101))));
        let other = json!({ "type": "void" });
        assert!(matches!(Payload::read(other.as_object().unwrap()), Err(PayloadError::Json(_))));
        let salt: Erc3009Authorization = serde_json::from_value(json!({
            "validAfter": "0", "validBefore": "1", "salt": "12", "signature": "0x",
        }))
        .unwrap();
        assert_eq!(salt.salt, U256::from(12));
    }
}
