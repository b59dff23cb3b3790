//! What a buyer sends, and what it gets for it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Challenge, MppError, from_base64url, to_base64url};

/// A payment for a challenge: the value of `Authorization`. Never log one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// As the seller wrote it.
    pub challenge: Challenge,
    /// The method's: [`super::Authorization`].
    pub payload: Map<String, Value>,
    /// Who pays: see [`super::source`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
}

impl Credential {
    /// Reads the value of a header; `None` if it is of another scheme.
    pub fn read(header: &str) -> Option<Result<Self, MppError>> {
        let (scheme, rest) = header.trim().split_once(' ')?;
        scheme.eq_ignore_ascii_case("payment").then(|| from_base64url(rest.trim()))
    }

    /// Writes the value of a header.
    ///
    /// # Errors
    /// [`MppError`]: none in practice.
    pub fn to_header(&self) -> Result<String, MppError> {
        Ok(format!("Payment {}", to_base64url(self)?))
    }
}

/// What became of a payment that succeeded: the value of `Payment-Receipt`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// Always `success`.
    pub status: String,
    /// `evm`.
    pub method: String,
    /// When, RFC 3339.
    pub timestamp: String,
    /// The transaction.
    pub reference: String,
    /// What was paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub challenge_id: Option<String>,
    /// EIP-155.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain_id: Option<u64>,
    /// What is not known here.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Receipt {
    /// Reads the value of a header.
    ///
    /// # Errors
    /// [`MppError`].
    pub fn read(header: &str) -> Result<Self, MppError> {
        from_base64url(header.trim())
    }

    /// Writes the value of a header.
    ///
    /// # Errors
    /// [`MppError`]: none in practice.
    pub fn to_header(&self) -> Result<String, MppError> {
        to_base64url(self)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::Authorization, *};

    #[test]
    fn a_credential_comes_back_from_its_header() {
        let challenge = Challenge::new("r", "evm", "charge", &json!({ "amount": "1" })).unwrap();
        let payload = json!({
            "type": "authorization", "from": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
            "to": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8", "value": "1", "validAfter": "0",
            "validBefore": "2", "nonce": alloy::primitives::B256::ZERO, "signature": "0x01",
        });
        let Value::Object(fields) = payload.clone() else { panic!() };
        let credential = Credential { challenge, payload: fields, source: None };
        let header = credential.to_header().unwrap();
        assert_eq!(Credential::read(&header).unwrap().unwrap(), credential);
        let shouted = header.replacen("Payment", "PAYMENT", 1);
        assert_eq!(Credential::read(&shouted).unwrap().unwrap(), credential);
        assert!(Credential::read("Bearer abc").is_none() && Credential::read("Payment").is_none());
        assert!(Credential::read("Payment abc").unwrap().is_err());
        let read: Authorization = serde_json::from_value(payload.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), payload);
        let hash = json!({ "type": "hash", "hash": "0x01" });
        assert!(serde_json::from_value::<Authorization>(hash).is_err());
    }

    #[test]
    fn a_receipt_keeps_what_is_not_known() {
        let text = r#"{"status":"success","method":"evm","timestamp":"2026-01-01T00:00:00Z","reference":"0x01","chainId":1,"more":{"a":1}}"#;
        let receipt: Receipt = serde_json::from_str(text).unwrap();
        assert_eq!(Receipt::read(&receipt.to_header().unwrap()).unwrap(), receipt);
        assert_eq!(receipt.other["more"]["a"], 1);
    }
}
