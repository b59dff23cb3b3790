//! The objects of both versions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Reason, Requirements};

/// What a seller answers with 402. Version 2 sends it in a header, version 1 in the body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentRequired {
    /// 1 or 2.
    pub x402_version: u8,
    /// Why payment is asked for (again).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What is sold. Version 1 has it in each offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceInfo>,
    /// The offers. Those that cannot be used here are in it, too.
    pub accepts: Vec<Requirements>,
    /// By name; a buyer echoes what it was shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions: Option<Map<String, Value>>,
}

/// What is sold.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceInfo {
    /// Its address.
    pub url: String,
    /// In words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What comes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mime_type: Option<String>,
    /// Anything else, such as `serviceName`, `tags`, `iconUrl`.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What a buyer sends: which offer it takes, and the scheme's payload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PaymentPayload {
    /// 1 or 2.
    pub x402_version: u8,
    /// What is bought. Version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<ResourceInfo>,
    /// The offer that is taken, as it came. Version 2; [`PaymentPayload::scheme`] reads both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Requirements>,
    /// Version 1.
    #[serde(default, rename = "scheme", skip_serializing_if = "Option::is_none")]
    pub v1_scheme: Option<String>,
    /// Version 1.
    #[serde(default, rename = "network", skip_serializing_if = "Option::is_none")]
    pub v1_network: Option<String>,
    /// The scheme's: [`super::exact::Payload`], [`super::batch::Payload`].
    pub payload: Map<String, Value>,
    /// Echoed and added to. Version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions: Option<Map<String, Value>>,
}

impl PaymentPayload {
    /// Makes a payment of version 2 for an offer.
    #[must_use]
    pub fn v2(
        offered: &PaymentRequired,
        offer: &Requirements,
        payload: Map<String, Value>,
    ) -> Self {
        Self {
            x402_version: 2,
            resource: offered.resource.clone(),
            accepted: Some(offer.clone()),
            v1_scheme: None,
            v1_network: None,
            payload,
            extensions: offered.extensions.clone(),
        }
    }

    /// Makes a payment of version 1 for an offer.
    #[must_use]
    pub fn v1(offer: &Requirements, payload: Map<String, Value>) -> Self {
        Self {
            x402_version: 1,
            resource: None,
            accepted: None,
            v1_scheme: Some(offer.scheme().to_owned()),
            v1_network: Some(offer.network().to_owned()),
            payload,
            extensions: None,
        }
    }

    /// Returns the scheme; empty if it names none.
    #[must_use]
    pub fn scheme(&self) -> &str {
        match &self.accepted {
            Some(offer) => offer.scheme(),
            None => self.v1_scheme.as_deref().unwrap_or_default(),
        }
    }

    /// Returns the network as written; empty if it names none.
    #[must_use]
    pub fn network(&self) -> &str {
        match &self.accepted {
            Some(offer) => offer.network(),
            None => self.v1_network.as_deref().unwrap_or_default(),
        }
    }

    /// Is it for this offer? Version 2 by [`Requirements::accepts`]; version 1 says scheme and network
    /// only.
    #[must_use]
    pub fn is_for(&self, offer: &Requirements) -> bool {
        match (self.x402_version, &self.accepted) {
            (2, Some(accepted)) => accepted.accepts(offer),
            (1, None) => self.scheme() == offer.scheme() && self.network() == offer.network(),
            _ => false,
        }
    }
}

/// What a seller asks a facilitator, to verify or to settle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FacilitatorRequest {
    /// That of the payload; some leave it out here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x402_version: Option<u8>,
    /// The buyer's.
    pub payment_payload: PaymentPayload,
    /// The seller's own offer.
    pub payment_requirements: Requirements,
}

/// What a facilitator says of a payment before it is settled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyResponse {
    /// Could it be settled now?
    pub is_valid: bool,
    /// Whose money moves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payer: Option<String>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid_reason: Option<Reason>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid_message: Option<String>,
    /// The scheme's: the channel's state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<Map<String, Value>>,
    /// By name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions: Option<Map<String, Value>>,
}

/// What became of a settlement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SettleResponse {
    /// Did the money move? If not, ask [`SettleResponse::is_pending`].
    pub success: bool,
    /// Its hash; empty if there is none.
    #[serde(default)]
    pub transaction: String,
    /// Where.
    #[serde(default)]
    pub network: String,
    /// Whose money.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payer: Option<String>,
    /// Base units that moved, where the scheme leaves that open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_reason: Option<Reason>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    /// The scheme's: what was charged, the channel's state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<Map<String, Value>>,
    /// By name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extensions: Option<Map<String, Value>>,
}

impl SettleResponse {
    /// Is the outcome not known yet? Then the same request may be made again; never a new payment.
    #[must_use]
    pub fn is_pending(&self) -> bool {
        !self.success && self.error_reason.as_ref().is_some_and(Reason::is_pending)
    }
}

/// What a facilitator can do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Supported {
    /// Scheme by scheme.
    pub kinds: Vec<Kind>,
    /// Names of extensions.
    #[serde(default)]
    pub extensions: Vec<String>,
    /// The accounts that send, by family of networks: `eip155:*`.
    #[serde(default)]
    pub signers: BTreeMap<String, Vec<String>>,
}

/// One scheme on one network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kind {
    /// 1 or 2.
    pub x402_version: u8,
    /// `exact`, `batch-settlement`.
    pub scheme: String,
    /// As that version writes it.
    pub network: String,
    /// What an offer must copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<Map<String, Value>>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn null_is_absent_and_unknown_keys_stay() {
        let text = r#"{"x402Version":2,"error":null,"extensions":null,
            "resource":{"url":"https://a.example/x","mimeType":null,"tags":["a"],"serviceName":"A"},
            "accepts":[{"scheme":"exact","extra":null},{"scheme":"new","network":7}]}"#;
        let offered: PaymentRequired = serde_json::from_str(text).unwrap();
        assert_eq!((offered.error.as_ref(), offered.extensions.as_ref()), (None, None));
        assert_eq!(offered.accepts[0].extra("name"), None);
        assert!(offered.accepts[1].terms().is_err());
        assert_eq!(
            serde_json::to_value(&offered).unwrap(),
            json!({
                "x402Version": 2,
                "resource": {
                    "url": "https://a.example/x", "tags": ["a"], "serviceName": "A",
                },
                "accepts": [{ "scheme": "exact", "extra": null }, { "scheme": "new", "network": 7 }],
            })
        );
        let settled: SettleResponse = serde_json::from_value(json!({
            "success": false, "transaction": "0x01", "network": "eip155:1", "payer": null,
            "errorReason": "settlement_pending", "extra": null,
        }))
        .unwrap();
        assert!(settled.is_pending() && settled.extra.is_none());
    }

    #[test]
    fn a_payment_is_for_the_offer_it_took() {
        let offer: Requirements = serde_json::from_value(
            json!({ "scheme": "exact", "network": "base-sepolia", "amount": "1" }),
        )
        .unwrap();
        let offered = PaymentRequired {
            x402_version: 2,
            error: None,
            resource: None,
            accepts: vec![offer.clone()],
            extensions: None,
        };
        let dearer: Requirements = serde_json::from_value(
            json!({ "scheme": "exact", "network": "base-sepolia", "amount": "2" }),
        )
        .unwrap();
        let v2 = PaymentPayload::v2(&offered, &offer, Map::new());
        let v2: PaymentPayload = super::super::decode(&super::super::encode(&v2).unwrap()).unwrap();
        assert!(v2.is_for(&offer) && !v2.is_for(&dearer));
        let v1 = PaymentPayload::v1(&offer, Map::new());
        assert_eq!(
            serde_json::to_value(&v1).unwrap(),
            json!({ "x402Version": 1, "scheme": "exact", "network": "base-sepolia", "payload": {} })
        );
        assert!(v1.is_for(&offer) && v1.is_for(&dearer));
        let mixed = PaymentPayload { x402_version: 1, ..v2 };
        assert!(!mixed.is_for(&offer));
    }
}
