//! An offer (`PaymentRequirements`): kept as it came, read when it is used.

use alloy::primitives::{Address, U256};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::{Map, Value, value::RawValue};

use super::text::{checksummed, decimal};
use crate::money::Usdc;

/// Version 1's names of networks: the closed list of its official packages.
const V1_NAMES: [(&str, u64); 15] = [
    ("base-sepolia", 84_532),
    ("base", 8_453),
    ("avalanche-fuji", 43_113),
    ("avalanche", 43_114),
    ("polygon-amoy", 80_002),
    ("polygon", 137),
    ("sei-testnet", 1_328),
    ("sei", 1_329),
    ("iotex", 4_689),
    ("peaq", 3_338),
    ("story", 1_514),
    ("educhain", 41_923),
    ("abstract-testnet", 11_124),
    ("abstract", 2_741),
    ("skale-base-sepolia", 324_705_682),
];

/// Writes a chain as version 2 does (CAIP-2): `eip155:84532`.
#[must_use]
pub fn caip2(chain_id: u64) -> String {
    format!("eip155:{chain_id}")
}

/// Returns version 1's name of a chain; it knows few.
#[must_use]
pub fn v1_name(chain_id: u64) -> Option<&'static str> {
    V1_NAMES.iter().find(|(_, id)| *id == chain_id).map(|(name, _)| *name)
}

/// Reads a network, as version 2 (`eip155:84532`) or version 1 (`base-sepolia`) writes it. `None` if it
/// is no EVM chain, or an unknown name.
#[must_use]
pub fn chain_of(network: &str) -> Option<u64> {
    match network.strip_prefix("eip155:") {
        Some(id) if !id.starts_with(['0', '+']) => id.parse().ok(),
        Some(_) => None,
        None => V1_NAMES.iter().find(|(name, _)| *name == network).map(|(_, id)| *id),
    }
}

/// Why an offer cannot be used here. It may be a good one for others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// Not an EVM chain.
    #[error("`{0}` is not a chain of ours: expected eip155:<number>")]
    Network(String),
    /// A field is missing, or is not what belongs there.
    #[error("the offer's `{0}` is missing or wrong")]
    Field(&'static str),
}

/// What an offer asks for, read and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The chain.
    pub chain_id: u64,
    /// Base units of the asset: the price in `exact`, the most for one request elsewhere.
    pub amount: U256,
    /// The token.
    pub asset: Address,
    /// Who is paid.
    pub pay_to: Address,
    /// Seconds in which the payment must be complete.
    pub max_timeout_s: u64,
}

impl Terms {
    /// Returns the amount of an asset that is USDC; `None` where it is more than there can be.
    #[must_use]
    pub fn usdc(&self) -> Option<Usdc> {
        u64::try_from(self.amount).ok().and_then(Usdc::from_units)
    }
}

/// One offer, of version 2 or 1, exactly as the seller wrote it: it is written out again byte for byte,
/// with every key that is not known here, because sellers compare it with what they offered.
#[derive(Clone, Debug)]
pub struct Requirements {
    raw: Box<RawValue>,
    fields: Map<String, Value>,
}

impl PartialEq for Requirements {
    fn eq(&self, other: &Self) -> bool {
        self.fields == other.fields
    }
}

impl Serialize for Requirements {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.raw.serialize(to)
    }
}

impl<'de> Deserialize<'de> for Requirements {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(from)?;
        let fields = serde_json::from_str(raw.get()).map_err(D::Error::custom)?;
        Ok(Self { raw, fields })
    }
}

impl Requirements {
    /// Makes an offer of version 2. `extra` is the scheme's.
    ///
    /// # Errors
    /// [`serde_json::Error`]: none in practice.
    pub fn new(
        scheme: &str,
        terms: &Terms,
        extra: Map<String, Value>,
    ) -> Result<Self, serde_json::Error> {
        let mut fields = Map::new();
        for (key, value) in [
            ("scheme", scheme.to_owned()),
            ("network", caip2(terms.chain_id)),
            ("amount", terms.amount.to_string()),
            ("asset", terms.asset.to_string()),
            ("payTo", terms.pay_to.to_string()),
        ] {
            fields.insert(key.to_owned(), Value::String(value));
        }
        fields.insert("maxTimeoutSeconds".into(), terms.max_timeout_s.into());
        fields.insert("extra".into(), extra.into());
        Self::from_fields(fields)
    }

    /// Makes an offer of its fields: version 1's has more of them.
    ///
    /// # Errors
    /// [`serde_json::Error`]: none in practice.
    pub fn from_fields(fields: Map<String, Value>) -> Result<Self, serde_json::Error> {
        Ok(Self { raw: serde_json::value::to_raw_value(&fields)?, fields })
    }

    /// Returns a field as it came; `None` for `null`, too.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }

    /// Returns the scheme; empty if the offer names none.
    #[must_use]
    pub fn scheme(&self) -> &str {
        self.text("scheme").unwrap_or_default()
    }

    /// Returns the network as written; empty if the offer names none.
    #[must_use]
    pub fn network(&self) -> &str {
        self.text("network").unwrap_or_default()
    }

    /// Returns a field of `extra`.
    #[must_use]
    pub fn extra(&self, key: &str) -> Option<&Value> {
        self.get("extra")?.get(key).filter(|value| !value.is_null())
    }

    /// Returns a text of `extra`.
    #[must_use]
    pub fn extra_text(&self, key: &str) -> Option<&str> {
        self.extra(key).and_then(Value::as_str)
    }

    /// Reads what the offer asks for, of either version.
    ///
    /// # Errors
    /// [`OfferError`].
    pub fn terms(&self) -> Result<Terms, OfferError> {
        self.terms_within(1)
    }

    /// The same of what a seller asks of its facilitator beside any offer, such as a claim: official
    /// sellers give that no time (0 seconds).
    ///
    /// # Errors
    /// [`OfferError`].
    pub fn terms_untimed(&self) -> Result<Terms, OfferError> {
        self.terms_within(0)
    }

    fn terms_within(&self, least_s: u64) -> Result<Terms, OfferError> {
        let address =
            |key| self.text(key).and_then(checksummed::parse).ok_or(OfferError::Field(key));
        let chain_id =
            chain_of(self.network()).ok_or_else(|| OfferError::Network(self.network().into()))?;
        // Version 1's name for it.
        let amount = self.text("amount").or_else(|| self.text("maxAmountRequired"));
        Ok(Terms {
            chain_id,
            amount: amount.and_then(decimal::parse).ok_or(OfferError::Field("amount"))?,
            asset: address("asset")?,
            pay_to: address("payTo")?,
            max_timeout_s: self
                .get("maxTimeoutSeconds")
                .and_then(Value::as_u64)
                .filter(|seconds| *seconds >= least_s)
                .ok_or(OfferError::Field("maxTimeoutSeconds"))?,
        })
    }

    /// Is this what a buyer accepted of `offer`? Every field that was offered must be there and equal,
    /// addresses by value; `extra` must have every key and value that was offered. More is allowed.
    #[must_use]
    pub fn accepts(&self, offer: &Self) -> bool {
        offer.fields.iter().all(|(key, offered)| match key.as_str() {
            "extra" => contains(self.get(key), offered),
            "asset" | "payTo" => same_account(self.get(key), offered),
            _ => same(self.get(key), offered),
        })
    }
}

fn same(ours: Option<&Value>, offered: &Value) -> bool {
    ours.unwrap_or(&Value::Null) == offered
}

fn same_account(ours: Option<&Value>, offered: &Value) -> bool {
    let read = |value: &Value| value.as_str().and_then(checksummed::parse);
    match (ours.and_then(read), read(offered)) {
        (Some(ours), Some(offered)) => ours == offered,
        _ => same(ours, offered),
    }
}

fn contains(ours: Option<&Value>, offered: &Value) -> bool {
    let Value::Object(offered) = offered else { return same(ours, offered) };
    offered
        .iter()
        .all(|(key, value)| value.is_null() || ours.and_then(|ours| ours.get(key)) == Some(value))
}

#[cfg(test)]
mod tests {
    use alloy::primitives::address;
    use serde_json::json;

    use super::*;

    const OFFER: &str = r#"{"scheme":"exact", "network":"eip155:84532","amount":"10000",
        "asset":"0x036CbD53842c5426634e7929541eC2318f3dCF7e","payTo":"0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        "maxTimeoutSeconds":300,"extra":{"version":"2","name":"USDC","z":[1.50,null]},"later":{"b":1,"a":2}}"#;

    fn offer() -> Requirements {
        serde_json::from_str(OFFER).unwrap()
    }

    fn with(change: impl Fn(&mut Value)) -> Requirements {
        let mut value: Value = serde_json::from_str(OFFER).unwrap();
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn an_offer_is_written_out_byte_for_byte() {
        assert_eq!(serde_json::to_string(&offer()).unwrap(), OFFER);
    }

    #[test]
    fn terms_are_read_of_both_versions() {
        let terms = Terms {
            chain_id: 84_532,
            amount: U256::from(10_000),
            asset: address!("0x036CbD53842c5426634e7929541eC2318f3dCF7e"),
            pay_to: address!("0x70997970C51812dc3A010C7d01b50e0d17dc79C8"),
            max_timeout_s: 300,
        };
        assert_eq!(offer().terms().unwrap(), terms);
        assert_eq!(terms.usdc().unwrap().units(), 10_000);
        let v1 = with(|offer| {
            offer["network"] = json!("base-sepolia");
            offer["maxAmountRequired"] = json!("10000");
            offer["amount"] = Value::Null;
        });
        assert_eq!(v1.terms().unwrap(), terms);
        let made = Requirements::new("exact", &terms, Map::new()).unwrap();
        assert_eq!(made.terms().unwrap(), terms);

        for (key, value) in [
            ("amount", json!("-1")),
            ("amount", json!("0x10")),
            ("amount", json!(10_000)),
            ("asset", json!("usdc")),
            ("payTo", Value::Null),
            ("maxTimeoutSeconds", json!(0)),
            ("maxTimeoutSeconds", json!("300")),
        ] {
            let terms = with(|offer| offer[key] = value.clone()).terms();
            assert_eq!(terms, Err(OfferError::Field(key)), "{value}");
        }
        let untimed = with(|offer| offer["maxTimeoutSeconds"] = json!(0));
        assert_eq!(untimed.terms_untimed().unwrap().max_timeout_s, 0);
        for network in
            ["solana:5eykt4UsFv8P8NJdTREpY1vzqKqZKvdp", "eip155:", "eip155:+1", "eip155:01"]
        {
            let terms = with(|offer| offer["network"] = json!(network)).terms();
            assert_eq!(terms, Err(OfferError::Network(network.into())));
        }
    }

    #[test]
    fn what_was_accepted_must_be_what_was_offered() {
        assert!(offer().accepts(&offer()));
        let lower =
            with(|offer| offer["payTo"] = json!("0x70997970c51812dc3a010c7d01b50e0d17dc79c8"));
        assert!(lower.accepts(&offer()) && offer().accepts(&lower));
        let more = with(|offer| offer["extra"]["mine"] = json!(1));
        assert!(more.accepts(&offer()) && !offer().accepts(&more));
        for (pointer, value) in [
            ("/amount", json!("9999")),
            ("/payTo", json!("0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC")),
            ("/maxTimeoutSeconds", json!(301)),
            ("/extra/name", json!("USD Coin")),
            ("/extra/z", json!([1])),
            ("/extra", Value::Null),
            ("/later/a", json!(3)),
        ] {
            let other = with(|offer| *offer.pointer_mut(pointer).unwrap() = value.clone());
            assert!(!other.accepts(&offer()), "{pointer}");
        }
    }
}
