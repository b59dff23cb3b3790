//! The method `evm`, intent `charge`: one payment in a token of an EVM chain.

use alloy::primitives::{Address, Bytes};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::x402::exact;

/// The method's name.
pub const EVM: &str = "evm";

fn checksummed<S: Serializer>(address: &Address, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(address)
}

/// What a challenge of `evm/charge` asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChargeRequest {
    /// Base units of the token, as a decimal string.
    pub amount: String,
    /// The token.
    #[serde(serialize_with = "checksummed")]
    pub currency: Address,
    /// Who is paid.
    #[serde(serialize_with = "checksummed")]
    pub recipient: Address,
    /// The chain, and how it may be paid.
    pub method_details: MethodDetails,
    /// `description`, `externalId`, and what is not known here.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The chain, and how it may be paid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MethodDetails {
    /// EIP-155.
    pub chain_id: u64,
    /// Credentials that are taken: `authorization`, `hash`, …. Absent means what nobody sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_types: Option<Vec<String>>,
    /// Of the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decimals: Option<u8>,
    /// `permit2Address`, `splits`, and what is not known here.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl ChargeRequest {
    /// Asks for `amount` base units of a token of six decimals, by authorization.
    #[must_use]
    pub fn new(amount: u64, currency: Address, recipient: Address, chain_id: u64) -> Self {
        Self {
            amount: amount.to_string(),
            currency,
            recipient,
            method_details: MethodDetails {
                chain_id,
                credential_types: Some(vec!["authorization".into()]),
                decimals: Some(6),
                other: Map::new(),
            },
            other: Map::new(),
        }
    }

    /// Can it be paid by [`Authorization`]? Payments that are split cannot.
    #[must_use]
    pub fn takes_authorization(&self) -> bool {
        let details = &self.method_details;
        let splits = details.other.get("splits").and_then(Value::as_array);
        splits.is_none_or(Vec::is_empty)
            && details
                .credential_types
                .as_ref()
                .is_some_and(|types| types.iter().any(|name| name == "authorization"))
    }
}

/// A credential's payload: EIP-3009's `TransferWithAuthorization`, whose nonce is
/// [`super::Challenge::nonce`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename = "authorization")]
pub struct Authorization {
    /// What was signed.
    #[serde(flatten)]
    pub authorization: exact::Authorization,
    /// The payer's.
    pub signature: Bytes,
}

/// Writes who pays, as a credential names it: `did:pkh:eip155:84532:0x…`.
#[must_use]
pub fn source(chain_id: u64, payer: Address) -> String {
    format!("did:pkh:eip155:{chain_id}:{payer}")
}

/// Reads who pays; `None` if it is not an account of an EVM chain.
#[must_use]
pub fn source_account(source: &str) -> Option<(u64, Address)> {
    let (chain_id, payer) = source.strip_prefix("did:pkh:eip155:")?.split_once(':')?;
    Some((chain_id.parse().ok()?, payer.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use alloy::primitives::address;
    use serde_json::json;

    use super::*;

    #[test]
    fn the_request_is_written_as_published() {
        let request = ChargeRequest::new(
            10_000,
            address!("0x036CbD53842c5426634e7929541eC2318f3dCF7e"),
            address!("0x70997970C51812dc3A010C7d01b50e0d17dc79C8"),
            84_532,
        );
        assert_eq!(
            crate::audit::canonical(&serde_json::to_value(&request).unwrap()).unwrap(),
            r#"{"amount":"10000","currency":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","methodDetails":{"chainId":84532,"credentialTypes":["authorization"],"decimals":6},"recipient":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8"}"#
        );
        assert!(request.takes_authorization());
    }

    #[test]
    fn what_cannot_be_authorized_is_told_apart() {
        let with = |details: Value| -> ChargeRequest {
            serde_json::from_value(json!({
                "amount": "1", "currency": Address::ZERO, "recipient": Address::ZERO,
                "methodDetails": details, "externalId": "7",
            }))
            .unwrap()
        };
        assert!(!with(json!({ "chainId": 1 })).takes_authorization());
        assert!(!with(json!({ "chainId": 1, "credentialTypes": ["hash"] })).takes_authorization());
        let split = json!({
            "chainId": 1, "credentialTypes": ["authorization"],
            "splits": [{ "recipient": Address::ZERO, "amount": "1" }],
        });
        assert!(!with(split).takes_authorization());
        let both = with(json!({ "chainId": 1, "credentialTypes": ["hash", "authorization"] }));
        assert!(both.takes_authorization() && both.other["externalId"] == "7");
    }

    #[test]
    fn a_source_names_chain_and_account() {
        let payer = address!("0x70997970C51812dc3A010C7d01b50e0d17dc79C8");
        let text = source(31_337, payer);
        assert_eq!(text, "did:pkh:eip155:31337:0x70997970C51812dc3A010C7d01b50e0d17dc79C8");
        assert_eq!(source_account(&text), Some((31_337, payer)));
        assert_eq!(source_account("did:web:example.com"), None);
    }
}
