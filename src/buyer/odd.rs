//! What a seller does that an honest one hardly does: told by the audit log, counted, and alerted.

use serde_json::Value;

use crate::{audit::EventKind, refusal::Code};

/// Something odd about an offer, or about what came after a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Odd {
    /// Another payee than before.
    PayTo,
    /// Another offer than the one that was quoted, or that was paid.
    Price,
    /// What is for sale is another host's.
    Host,
    /// Another chain than the wallet's.
    Network,
    /// Another token than the wallet's.
    Asset,
    /// Payment is asked for without an end.
    Again,
}

impl Odd {
    /// Reads an entry of the audit log: its kind and its data.
    pub(crate) fn read(kind: &str, data: &Value) -> Option<Self> {
        let is = |known: EventKind| kind == known.as_str();
        if is(EventKind::X402PaytoChanged) {
            return Some(Self::PayTo);
        }
        if is(EventKind::X402PriceChanged) {
            return Some(Self::Price);
        }
        if is(EventKind::X402RetryLoop) {
            return Some(Self::Again);
        }
        // Of refusals only those of calls: they name the host.
        data.get("host")?;
        let text = |pointer| data.pointer(pointer).and_then(Value::as_str);
        if text("/refusal/code") == Some(Code::LoopDetected.as_str()) {
            return Some(Self::Again);
        }
        match text("/refusal/rule")? {
            "offer.resource" => Some(Self::Host),
            "offer.network" => Some(Self::Network),
            "offer.asset" => Some(Self::Asset),
            _ => None,
        }
    }

    /// Is one time enough to tell a person? The others may be a seller for other people's wallets.
    pub(crate) const fn is_grave(self) -> bool {
        matches!(self, Self::PayTo | Self::Price | Self::Host)
    }

    /// Returns the name in metrics and alerts.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::PayTo => "payto_changed",
            Self::Price => "offer_changed",
            Self::Host => "other_host",
            Self::Network => "other_network",
            Self::Asset => "other_asset",
            Self::Again => "asks_again",
        }
    }

    /// Returns what it did, after "the seller at HOST".
    pub(crate) const fn words(self) -> &'static str {
        match self {
            Self::PayTo => "asked for another payee to be paid than before",
            Self::Price => "asked for something else than it had offered",
            Self::Host => "sells in another host's name",
            Self::Network => "wants to be paid on another chain",
            Self::Asset => "wants to be paid in another token",
            Self::Again => "asks for payment again and again",
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_calls_are_about_sellers() {
        let read = |kind: EventKind, data| Odd::read(kind.as_str(), &data);
        let denied = EventKind::PaymentDenied;
        let of =
            |rule: &str| json!({ "host": "a.b", "refusal": { "code": "no_offer", "rule": rule } });
        assert_eq!(read(denied, of("offer.resource")), Some(Odd::Host));
        assert_eq!(read(denied, of("offer.asset")), Some(Odd::Asset));
        assert_eq!(read(denied, of("fetch.day")), None);
        let looped =
            json!({ "refusal": { "code": "loop_detected", "rule": "loops.same_payment" } });
        assert_eq!(read(denied, looped.clone()), None);
        let mut call = looped;
        call["host"] = json!("a.b");
        assert_eq!(read(denied, call), Some(Odd::Again));
        assert_eq!(read(EventKind::X402PaytoChanged, json!({})), Some(Odd::PayTo));
        assert!(Odd::PayTo.is_grave() && !Odd::Network.is_grave());
    }
}
