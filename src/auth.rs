//! Who sent a request, proven by its signature.
//!
//! Agents sign with Ed25519 in a profile of RFC 9421 ([`agent`]); operators sign EIP-712 typed data
//! with the key that signs their approvals ([`operator`]). Both cover method, target, body and time,
//! and carry a nonce that the caller of `verify` must spend. Nothing here reads a clock, a header it
//! was not given, or a store.

pub mod agent;
mod fields;
pub mod operator;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use http::{HeaderMap, HeaderName, Method};

use crate::refusal::{Code, Refusal};

pub use fields::idempotency_key;

/// What a signature covers, as the verifier sees it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a Method,
    /// The absolute target: the configured public origin, then path and query as received. Never
    /// built from `Host`, which the sender chooses.
    pub target: &'a str,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// The raw body.
    pub body: &'a [u8],
}

/// Why a request does not prove who sent it. Every message says what to fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// A header is missing.
    #[error("the request has no `{0}` header")]
    Missing(&'static str),
    /// A header is not a structured field, or has bytes outside ASCII, or is too long.
    #[error("the `{header}` header cannot be read: {why}")]
    Malformed {
        /// Which.
        header: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No signature carries our tag.
    #[error("no signature has tag=\"bursar-agent\"")]
    NoSignature,
    /// Several do.
    #[error("more than one signature has tag=\"bursar-agent\"; send one")]
    SeveralSignatures,
    /// A parameter is missing.
    #[error("the signature has no `{0}` parameter")]
    NoParameter(&'static str),
    /// A parameter has a wrong type or value, or is one this profile does not know.
    #[error("the signature's parameter `{name}` is wrong: {why}")]
    BadParameter {
        /// Which.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Something that must be signed is not.
    #[error("the signature must cover `{0}`")]
    NotCovered(&'static str),
    /// Something is covered twice, or with parameters, or is not part of the profile.
    #[error("the signature covers `{component}`: {why}")]
    BadComponent {
        /// Which.
        component: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The body is not the one that was signed.
    #[error("`Content-Digest` is not the SHA-256 of the body that arrived")]
    DigestMismatch,
    /// It was made for a longer time than allowed.
    #[error("the signature is valid for {0} seconds; at most 300 are allowed")]
    LivesTooLong(u64),
    /// Its time is over.
    #[error("the signature expired {0} seconds ago (server time {1}); sign again")]
    Expired(u64, u64),
    /// Its time has not come.
    #[error(
        "the signature is dated {0} seconds ahead of the server (server time {1}); set the clock"
    )]
    FromTheFuture(u64, u64),
    /// Nobody has this key.
    #[error("no agent has the request key `{0}`")]
    UnknownKey(String),
    /// The signature is not one of that key over this request.
    #[error("the signature does not match the request as it arrived")]
    Mismatch,
}

impl AuthError {
    /// Says what to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Missing(_) | Self::NoSignature | Self::Malformed { .. } => {
                "sign the request as docs/api.md shows: Content-Digest, Signature-Input, Signature"
            }
            Self::SeveralSignatures => "keep the one signature made with the agent's own key",
            Self::NoParameter(_) | Self::BadParameter { .. } => {
                "parameters: created, expires, nonce, keyid, alg=\"ed25519\", tag=\"bursar-agent\""
            }
            Self::NotCovered(_) | Self::BadComponent { .. } => {
                "cover \"@method\" \"@target-uri\", with a body \"content-digest\" \
                 \"content-type\", and \"idempotency-key\" if it is sent; nothing else, each once"
            }
            Self::DigestMismatch => {
                "hash the exact bytes that are sent; a proxy must not rewrite the body"
            }
            Self::LivesTooLong(_) => "sign with expires = created + 60",
            Self::Expired(..) => "sign again with a new nonce and the same Idempotency-Key",
            Self::FromTheFuture(..) => "synchronise the clock of the machine that signs",
            Self::UnknownKey(_) => {
                "ask an operator to register the agent's public key in its policy file"
            }
            Self::Mismatch => {
                "sign over the public origin of the daemon, the exact path and query, and the \
                 header values as sent; check the key"
            }
        }
    }
}

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Self {
        Self::new(Code::InvalidSignature, error.to_string()).hint(error.hint())
    }
}

/// Base64 as senders write it, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Bytes a nonce may have: at least 128 bits, and no more than a store wants to keep.
const NONCE_BYTES: std::ops::RangeInclusive<usize> = 16..=64;

/// Longest header this module reads, in bytes, repeats joined.
const MAX_HEADER: usize = 4_096;

/// Makes a fresh nonce: 128 random bits, base64url.
#[must_use]
pub fn fresh_nonce() -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(rand::random::<[u8; 16]>())
}

fn is_nonce(text: &str) -> bool {
    base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(text)
        .is_ok_and(|bytes| NONCE_BYTES.contains(&bytes.len()))
}

/// Returns a header's value as RFC 9421 §2.1 combines it: repeats trimmed and joined by `, `.
/// `None` if it is absent.
fn combined(headers: &HeaderMap, name: &'static str) -> Result<Option<String>, AuthError> {
    let mut all = String::new();
    let mut values = headers.get_all(HeaderName::from_static(name)).iter().peekable();
    if values.peek().is_none() {
        return Ok(None);
    }
    while let Some(value) = values.next() {
        // `to_str` accepts visible ASCII, space and tab only.
        let text = value
            .to_str()
            .map_err(|_| AuthError::Malformed { header: name, why: "it is not plain ASCII" })?;
        all.push_str(text.trim_matches([' ', '\t']));
        if values.peek().is_some() {
            all.push_str(", ");
        }
        if all.len() > MAX_HEADER {
            return Err(AuthError::Malformed { header: name, why: "it is longer than 4096 bytes" });
        }
    }
    Ok(Some(all))
}
