//! The scheme `batch-settlement`: a channel is funded once, each request brings a voucher over the
//! whole sum so far, and many vouchers are claimed at a time.

use alloy::{
    primitives::{Address, B256, Bytes, U256, address, keccak256},
    sol_types::{Eip712Domain, SolStruct, SolValue as _, eip712_domain},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::abi::{ClaimBatch, ClaimEntry};
use super::{
    exact::{PayloadError, bounded, read},
    text::{checksummed, decimal_option, decimal128},
};
use crate::contract;

/// Where every chain has the contract of the channels.
pub const HUB: Address = address!("0x4020074e9dF2ce1deE5A9C1b5c3f541D02a10003");
/// Where every chain has the collector of deposits by EIP-3009.
pub const EIP3009_COLLECTOR: Address = address!("0x4020806089470a89826cB9fB1f4059150b550004");
/// Seconds that a payer waits for its money at least.
pub const MIN_WITHDRAW_DELAY_S: u32 = 900;
/// Seconds that a payer waits for its money at most.
pub const MAX_WITHDRAW_DELAY_S: u32 = 2_592_000;
/// Rows in one claim.
pub const CLAIM_LIMIT: usize = 100;
/// What the scheme's own error names begin with.
pub const ERROR_PREFIX: &str = "invalid_batch_settlement_evm_";

/// What `sol!` generates: the typed data of a channel's domain.
#[allow(missing_docs)]
mod abi {
    use alloy::sol;

    sol! {
        #![sol(all_derives)]

        struct ChannelConfig {
            address payer;
            address payerAuthorizer;
            address receiver;
            address receiverAuthorizer;
            address token;
            uint40 withdrawDelay;
            bytes32 salt;
        }

        struct Voucher {
            bytes32 channelId;
            uint128 maxClaimableAmount;
        }

        struct Refund {
            bytes32 channelId;
            uint256 nonce;
            uint128 amount;
        }

        struct ClaimEntry {
            bytes32 channelId;
            uint128 maxClaimableAmount;
            uint128 totalClaimed;
        }

        struct ClaimBatch {
            ClaimEntry[] claims;
        }
    }
}

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
    /// Seconds: [`MIN_WITHDRAW_DELAY_S`] to [`MAX_WITHDRAW_DELAY_S`].
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

/// `ReceiveWithAuthorization` to the collector, with [`deposit_nonce`] as its nonce.
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

/// The EIP-712 domain of a chain's channels.
#[derive(Clone, Debug)]
pub struct Domain(Eip712Domain);

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

impl ChannelConfig {
    fn typed(&self) -> abi::ChannelConfig {
        abi::ChannelConfig {
            payer: self.payer,
            payerAuthorizer: self.payer_authorizer,
            receiver: self.receiver,
            receiverAuthorizer: self.receiver_authorizer,
            token: self.token,
            withdrawDelay: alloy::primitives::aliases::U40::from(self.withdraw_delay),
            salt: self.salt,
        }
    }
}

impl Domain {
    /// Returns the domain of the channels at `hub`: name "x402 Batch Settlement", version "1".
    #[must_use]
    pub fn new(chain_id: u64, hub: Address) -> Self {
        Self(eip712_domain! {
            name: "x402 Batch Settlement",
            version: "1",
            chain_id: chain_id,
            verifying_contract: hub,
        })
    }

    fn digest(&self, message: &impl SolStruct) -> B256 {
        contract::digest(message, &self.0)
    }

    /// Returns a channel's id: the EIP-712 hash of its config.
    #[must_use]
    pub fn channel_id(&self, config: &ChannelConfig) -> B256 {
        self.digest(&config.typed())
    }

    /// Returns what a voucher's signature covers.
    #[must_use]
    pub fn voucher(&self, channel_id: B256, max_claimable: u128) -> B256 {
        self.digest(&abi::Voucher { channelId: channel_id, maxClaimableAmount: max_claimable })
    }

    /// Returns what the receiver's signature over a refund covers.
    #[must_use]
    pub fn refund(&self, channel_id: B256, nonce: U256, amount: u128) -> B256 {
        self.digest(&abi::Refund { channelId: channel_id, nonce, amount })
    }

    /// Returns what the receiver's signature over a claim covers.
    #[must_use]
    pub fn claims(&self, rows: &[ClaimRow]) -> B256 {
        let claims = rows
            .iter()
            .map(|row| ClaimEntry {
                channelId: self.channel_id(&row.voucher.channel),
                maxClaimableAmount: row.voucher.max_claimable_amount,
                totalClaimed: row.total_claimed,
            })
            .collect();
        self.digest(&ClaimBatch { claims })
    }
}

/// Returns the nonce of a deposit's authorization: `keccak256(abi.encode(channelId, salt))`.
#[must_use]
pub fn deposit_nonce(channel_id: B256, salt: U256) -> B256 {
    keccak256((channel_id, salt).abi_encode())
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
    use alloy::primitives::b256;
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

    /// Vectors equal to those of the official package.
    #[test]
    fn ids_and_digests_are_the_published_ones() {
        for (found, expected) in [
            (
                config().typed().eip712_type_hash(),
                b256!("0x1c9a06ceab9b0ebbd3301dc56c9111bb6d9af421356dc9ccb3b7084c755db308"),
            ),
            (
                config().typed().eip712_hash_struct(),
                b256!("0xc8429d78733f0eeacc41cf57eafe7349a7006aa7704f4396dcf24f4d634b8d1a"),
            ),
        ] {
            assert_eq!(found, expected);
        }
        for (chain, separator, id) in [
            (
                8_453,
                b256!("0xd8d982716899b0e20cf2c1e706a37b8a892c83fdd4ac9b540cfeec11f9c73a39"),
                b256!("0x91146eded5ed3b7c7445a0e16997bc09682641d1321795f539494ff6536568d5"),
            ),
            (
                84_532,
                b256!("0xfdef80764086b1e0fc6ba99f0cb9aa1d59109fda7c23d60334c89d2de44dffce"),
                b256!("0x530f2c4da2224ee9299085e2bc355e9615710ecdc324f76be875e6b7998daa2d"),
            ),
            (
                31_337,
                b256!("0xbf720f8d28a5c76a2f7743512598984fa4b90dd1efdb19af73f64cc6587d68af"),
                b256!("0xd75d8cb8280dede4a395513af10eb3fa9f36dac2c3bd50c33703c415da3c8557"),
            ),
        ] {
            let domain = Domain::new(chain, HUB);
            assert_eq!(domain.0.separator(), separator);
            assert_eq!(domain.channel_id(&config()), id);
        }
        let domain = Domain::new(8_453, HUB);
        let id = domain.channel_id(&config());
        assert_eq!(
            domain.voucher(id, 1_000),
            b256!("0x7d0c13c615bdfba821fe9343b390efb939bd02433ce597400d9144d24c1540d7")
        );
        assert_eq!(
            domain.refund(id, U256::ZERO, 1_500),
            b256!("0x3fb2f0cfd9254bde4d88d1101e195af9896d3345a50f5be694bcd92d71f18ba6")
        );
        assert_eq!(
            domain.claims(&[row()]),
            b256!("0x2566d6573bfec325bbb1fa83c56edd59aca32dc9aa7d3b6f3d5d64e5aa344b06")
        );
        assert_eq!(
            deposit_nonce(id, U256::from(1)),
            b256!("0x527994c72e1c12cd188f2c56d3eeddd93ee2451aa80bbb4686cb97c0437e06ad")
        );
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
