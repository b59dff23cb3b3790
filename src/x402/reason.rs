//! Why a payment was not taken: the specification's names, and those that others use for the same.

use std::{convert::Infallible, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A reason on the wire. We write the specification's names; of what others write, synonyms are read as
/// the same, and the rest is kept. Nothing about money may hang on the exact text: ask
/// [`Reason::is_pending`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The outcome is not known yet: the transaction is on its way.
    SettlementPending,
    /// The signature is not the payer's.
    InvalidSignature,
    /// The payer has less than the amount.
    InsufficientFunds,
    /// Signed for another payee.
    RecipientMismatch,
    /// Signed for another amount.
    ValueMismatch,
    /// Not valid yet.
    ValidAfter,
    /// Expired, or nearly.
    ValidBefore,
    /// The authorization was used or cancelled before.
    NonceUsed,
    /// The offer cannot be used.
    InvalidRequirements,
    /// The token would refuse the transfer, or did.
    InvalidTransactionState,
    /// The payload is not what the scheme's is.
    InvalidPayload,
    /// Another chain than this one.
    InvalidNetwork,
    /// Another scheme than the offer's.
    InvalidScheme,
    /// A scheme, or a way of it, that is not offered here.
    UnsupportedScheme,
    /// Neither 1 nor 2.
    InvalidVersion,
    /// The payer's wallet is not deployed.
    UndeployedWallet,
    /// The same settlement is being made.
    DuplicateSettlement,
    /// Could not be verified, for no fault of the payment.
    UnexpectedVerifyError,
    /// Was not settled, for no fault of the payment.
    UnexpectedSettleError,
    /// Any other name, such as those of `batch-settlement`.
    Other(String),
}

impl Reason {
    /// The names that are written, then the synonyms that are read.
    const NAMES: [(&'static str, Self); 33] = [
        ("settlement_pending", Self::SettlementPending),
        ("invalid_exact_evm_payload_signature", Self::InvalidSignature),
        ("insufficient_funds", Self::InsufficientFunds),
        ("invalid_exact_evm_payload_recipient_mismatch", Self::RecipientMismatch),
        ("invalid_exact_evm_payload_authorization_value_mismatch", Self::ValueMismatch),
        ("invalid_exact_evm_payload_authorization_valid_after", Self::ValidAfter),
        ("invalid_exact_evm_payload_authorization_valid_before", Self::ValidBefore),
        ("invalid_exact_evm_nonce_already_used", Self::NonceUsed),
        ("invalid_payment_requirements", Self::InvalidRequirements),
        ("invalid_transaction_state", Self::InvalidTransactionState),
        ("invalid_payload", Self::InvalidPayload),
        ("invalid_network", Self::InvalidNetwork),
        ("invalid_scheme", Self::InvalidScheme),
        ("unsupported_scheme", Self::UnsupportedScheme),
        ("invalid_x402_version", Self::InvalidVersion),
        ("smart_wallet_deployment_failed", Self::UndeployedWallet),
        ("duplicate_settlement", Self::DuplicateSettlement),
        ("unexpected_verify_error", Self::UnexpectedVerifyError),
        ("unexpected_settle_error", Self::UnexpectedSettleError),
        ("invalid_exact_evm_signature", Self::InvalidSignature),
        ("invalid_exact_evm_insufficient_balance", Self::InsufficientFunds),
        ("invalid_exact_evm_recipient_mismatch", Self::RecipientMismatch),
        ("payment_expired", Self::ValidBefore),
        ("invalid_exact_evm_missing_eip712_domain", Self::InvalidRequirements),
        ("invalid_exact_evm_token_name_mismatch", Self::InvalidRequirements),
        ("invalid_exact_evm_token_version_mismatch", Self::InvalidRequirements),
        ("invalid_exact_evm_transaction_simulation_failed", Self::InvalidTransactionState),
        ("invalid_exact_evm_transaction_failed", Self::InvalidTransactionState),
        ("invalid_exact_evm_transfer_event_mismatch", Self::InvalidTransactionState),
        ("eip6492_factory_not_allowed", Self::UndeployedWallet),
        ("invalid_exact_evm_scheme", Self::InvalidScheme),
        ("invalid_exact_evm_network_mismatch", Self::InvalidNetwork),
        ("unsupported_payload_type", Self::InvalidPayload),
    ];

    /// Returns the name that is written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(name) => name,
            known => Self::NAMES.iter().find(|(_, reason)| reason == known).map_or("", |row| row.0),
        }
    }

    /// May the money move, or have moved, all the same?
    #[must_use]
    pub const fn is_pending(&self) -> bool {
        matches!(self, Self::SettlementPending)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Reason {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        let known = Self::NAMES.iter().find(|(name, _)| *name == text);
        Ok(known.map_or_else(|| Self::Other(text.to_owned()), |(_, reason)| reason.clone()))
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Reason {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Ok(reason) = std::borrow::Cow::<'de, str>::deserialize(from)?.parse();
        Ok(reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_and_the_specification_s_is_written() {
        for (name, reason) in Reason::NAMES {
            assert_eq!(name.parse::<Reason>().unwrap(), reason);
            assert!(!reason.as_str().is_empty());
        }
        let read: Reason = serde_json::from_str(r#""invalid_exact_evm_signature""#).unwrap();
        assert_eq!(
            serde_json::to_string(&read).unwrap(),
            r#""invalid_exact_evm_payload_signature""#
        );
        let other: Reason = "invalid_batch_settlement_evm_channel_busy".parse().unwrap();
        assert_eq!(other.as_str(), "invalid_batch_settlement_evm_channel_busy");
        assert!(!other.is_pending() && Reason::SettlementPending.is_pending());
    }
}
