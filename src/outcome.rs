//! What a node's refusal of a transaction means.
//!
//! Clients agree neither on codes nor on words. The text decides: lower-cased, and matched at its
//! start or after `": "`, because a bare search goes wrong (`authority nonce too low` is about an
//! EIP-7702 authorisation, `block already known` about a block). The earliest match wins. What is
//! not recognised is [`SendClass::Unknown`] and never ends a payment. Wordings change: a new one is
//! a new row here and a new case in `tests/fixtures/send/`, never an edit of an old one.

use serde::{Deserialize, Serialize};

/// The classes of answers to `eth_sendRawTransaction` that are not a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SendClass {
    /// These bytes are in the pool: as good as accepted.
    AlreadyKnown,
    /// At that node's head the nonce is spent; by whom, the stored hashes must tell.
    NonceTooLow,
    /// A gap, at a node that does not queue gaps: send the lower nonces first.
    NonceTooHigh,
    /// *Another* transaction holds the nonce and the bump was too small.
    ReplacementUnderpriced,
    /// Below the node's floor or the base fee: raise within the ceiling, or wait.
    Underpriced,
    /// Gas money is short, possibly counting the sender's other pooled transactions.
    InsufficientFunds,
    /// This node can never take these bytes. Ends an attempt only if no endpoint ever had them.
    Rejected,
    /// Full pool, syncing, rate limit: send the same bytes later.
    Unavailable,
    /// Not recognised: send the same bytes later, count it, never conclude from it.
    Unknown,
}

impl SendClass {
    /// Returns the name used in metrics and fixtures.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AlreadyKnown => "already_known",
            Self::NonceTooLow => "nonce_too_low",
            Self::NonceTooHigh => "nonce_too_high",
            Self::ReplacementUnderpriced => "replacement_underpriced",
            Self::Underpriced => "underpriced",
            Self::InsufficientFunds => "insufficient_funds",
            Self::Rejected => "rejected",
            Self::Unavailable => "unavailable",
            Self::Unknown => "unknown",
        }
    }

    /// Would higher fees help?
    #[must_use]
    pub const fn wants_higher_fees(self) -> bool {
        matches!(self, Self::ReplacementUnderpriced | Self::Underpriced)
    }
}

/// How much of the text a phrase must account for.
#[derive(Clone, Copy)]
enum Match {
    /// It stands first, and its last word is whole.
    Start,
    /// It is the whole text.
    Whole,
}

use Match::{Start, Whole};
use SendClass as C;

/// Lower-case phrases. Columns of clients are in the fixtures.
const PHRASES: &[(Match, &str, SendClass)] = &[
    (Start, "already known", C::AlreadyKnown),
    (Start, "known transaction", C::AlreadyKnown),
    (Start, "existing txn with same hash", C::AlreadyKnown),
    (Start, "transaction already imported", C::AlreadyKnown),
    (Start, "alreadyknown", C::AlreadyKnown),
    // Signed for this nonce by the same key: the success path, confirmed by hash.
    (Start, "ownnoncealreadyused", C::AlreadyKnown),
    (Start, "nonce too low", C::NonceTooLow),
    (Start, "oldnonce", C::NonceTooLow),
    // Old Nitro says it in both directions; asking for the stored hashes is right in both.
    (Start, "invalid transaction nonce", C::NonceTooLow),
    (Start, "nonce too high", C::NonceTooHigh),
    (Start, "nonce too far in future", C::NonceTooHigh),
    (Start, "noncegap", C::NonceTooHigh),
    (Start, "transaction nonce is too distant from current sender nonce", C::NonceTooHigh),
    (Start, "an invalid transaction with a lower nonce exists", C::NonceTooHigh),
    (Start, "replacement transaction underpriced", C::ReplacementUnderpriced),
    (Start, "future transaction tries to replace pending", C::ReplacementUnderpriced),
    (Start, "could not replace existing tx", C::ReplacementUnderpriced),
    (Start, "replacementnotallowed", C::ReplacementUnderpriced),
    (Start, "transaction underpriced", C::Underpriced),
    (Start, "transaction gas price below minimum", C::Underpriced),
    (Start, "transaction priority fee below minimum required priority fee", C::Underpriced),
    (Start, "underpriced", C::Underpriced),
    (Start, "fee too low", C::Underpriced),
    (Start, "feetoolow", C::Underpriced),
    (Start, "feetoolowtocompete", C::Underpriced),
    (Start, "gas price below configured minimum gas price", C::Underpriced),
    (Start, "gas price below current base fee", C::Underpriced),
    (Start, "max fee per gas less than block base fee", C::Underpriced),
    (Start, "gas price too low", C::Underpriced),
    (Start, "insufficient funds", C::InsufficientFunds),
    (Start, "insufficientfunds", C::InsufficientFunds),
    (Start, "upfront cost exceeds account balance", C::InsufficientFunds),
    (Start, "not enough funds for gas", C::InsufficientFunds),
    (Start, "exceeds block gas limit", C::Rejected),
    (Start, "transaction gas limit exceeds block gas limit", C::Rejected),
    (Start, "gas limit is too high", C::Rejected),
    (Start, "gas limit reached", C::Rejected),
    (Start, "gaslimitexceeded", C::Rejected),
    (Start, "intrinsic gas too low", C::Rejected),
    (Start, "intrinsic gas too high", C::Rejected),
    (Start, "intrinsic gas exceeds gas limit", C::Rejected),
    (Start, "intrinsicgas", C::Rejected),
    (Start, "invalid sender", C::Rejected),
    (Start, "invalid signature", C::Rejected),
    (Start, "invalid chain id", C::Rejected),
    (Start, "wrong chainid", C::Rejected),
    (Start, "invalid message format", C::Rejected),
    (Whole, "invalid", C::Rejected),
    (Start, "failed to recover sender", C::Rejected),
    (Start, "failedtoresolvesender", C::Rejected),
    (Start, "senderiscontract", C::Rejected),
    (Start, "int256overflow", C::Rejected),
    (Start, "forbidden sender address", C::Rejected),
    (Start, "oversized data", C::Rejected),
    (Start, "rlptoolong", C::Rejected),
    (Start, "transaction too large", C::Rejected),
    (Start, "transaction invalid", C::Rejected),
    (Start, "transaction type not supported", C::Rejected),
    (Start, "max priority fee per gas higher than max fee per gas", C::Rejected),
    (Start, "tx fee (", C::Rejected),
    (Start, "transaction fee cap exceeded", C::Rejected),
    (Start, "execution reverted", C::Rejected),
    (Start, "txpool is full", C::Unavailable),
    (Start, "account limit exceeded", C::Unavailable),
    (Start, "in-flight transaction limit reached for delegated accounts", C::Unavailable),
    (Start, "pending sub-pool is full", C::Unavailable),
    (Start, "basefee sub-pool is full", C::Unavailable),
    (Start, "queued sub-pool is full", C::Unavailable),
    (Start, "spammer", C::Unavailable),
    (Start, "node is syncing", C::Unavailable),
    (Start, "initial sync is still in progress", C::Unavailable),
    (Start, "transaction pool not enabled", C::Unavailable),
    (Start, "queue full", C::Unavailable),
    (Start, "sequencer pending tx pool full", C::Unavailable),
];

/// Characters of an answer that are looked at.
const MAX_TEXT: usize = 1_024;

/// Says what a node's error means. `code` is the JSON-RPC code; it counts only where the text says
/// nothing, and only for rate limits (-32005 of EIP-1474, and HTTP's 429 that gateways pass on).
#[must_use]
pub fn classify(code: Option<i64>, message: &str) -> SendClass {
    let text: String = message.trim().chars().take(MAX_TEXT).collect();
    let text = text.to_lowercase();
    let anchors =
        std::iter::once(0).chain(text.match_indices(": ").map(|(at, found)| at + found.len()));
    for start in anchors {
        let rest = text[start..].trim_start();
        if let Some((.., class)) = PHRASES.iter().find(|(how, phrase, _)| fits(*how, phrase, rest))
        {
            return *class;
        }
    }
    match code {
        Some(-32005 | 429) => SendClass::Unavailable,
        _ => SendClass::Unknown,
    }
}

fn fits(how: Match, phrase: &str, text: &str) -> bool {
    let Some(rest) = text.strip_prefix(phrase) else { return false };
    match how {
        Whole => rest.is_empty(),
        // "intrinsicgas" is not the start of another word, "tx fee (" needs no end of a word.
        Start => {
            !(phrase.ends_with(char::is_alphanumeric) && rest.starts_with(char::is_alphanumeric))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;

    use super::*;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        code: Option<i64>,
        message: String,
        class: SendClass,
    }

    fn cases(client: &str) -> Vec<Case> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("tests/fixtures/send/{client}.json"));
        serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
    }

    #[test]
    fn every_clients_wording_has_its_class() {
        let clients =
            ["geth", "op-geth", "reth", "erigon", "nethermind", "besu", "arbitrum", "anvil"];
        for client in clients {
            let cases = cases(client);
            assert!(cases.len() >= 5, "{client}");
            for case in cases {
                let got = classify(case.code, &case.message);
                assert_eq!(got, case.class, "{client}: {}", case.message);
            }
        }
    }

    #[test]
    fn every_phrase_is_in_a_fixture() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/send");
        let all: String = fs::read_dir(folder)
            .unwrap()
            .map(|file| fs::read_to_string(file.unwrap().path()).unwrap().to_lowercase())
            .collect();
        for (_, phrase, class) in PHRASES {
            assert_eq!(*phrase, phrase.to_lowercase());
            assert!(all.contains(phrase), "no fixture for `{phrase}` ({})", class.as_str());
        }
    }

    #[test]
    fn lookalikes_are_not_taken_for_the_real_thing() {
        for text in [
            "authority nonce too low",
            "block already known",
            "header already known: 0x12",
            "invalid block number",
            "intrinsicgaslimit",
            "the replacement transaction underpriced the other one",
            "",
            ": ",
            "<html>502 Bad Gateway</html>",
        ] {
            assert_eq!(classify(Some(-32000), text), SendClass::Unknown, "{text}");
        }
    }

    #[test]
    fn the_earliest_match_decides_and_codes_only_help() {
        let reverted = "execution reverted: nonce too low";
        assert_eq!(classify(Some(3), reverted), SendClass::Rejected);
        let wrapped = "err: nonce too low: address 0xab, tx: 3 state: 5";
        assert_eq!(classify(None, wrapped), SendClass::NonceTooLow);
        assert_eq!(classify(Some(-32005), "slow down"), SendClass::Unavailable);
        assert_eq!(classify(Some(429), "slow down"), SendClass::Unavailable);
        let besu = "Transaction gas limit exceeds block gas limit";
        assert_eq!(classify(Some(-32005), besu), SendClass::Rejected);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_stumble(text in any::<String>(), code in any::<Option<i64>>()) {
            let class = classify(code, &text);
            prop_assert_eq!(classify(code, &format!("rpc error: {text}")), class);
        }
    }
}
