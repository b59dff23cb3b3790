//! MPP, the wire: HTTP's authentication scheme `Payment` (draft-httpauth-payment-00) and its method
//! `evm/charge`. Pure: no clock, no network, no database.
//!
//! A seller answers 402 with [`Challenge`]s in `WWW-Authenticate`, a buyer repeats its request with a
//! [`Credential`] in `Authorization`, and gets a [`Receipt`] in `Payment-Receipt`. Buyer and seller
//! stand on this. The vectors in the tests were computed with the official package.

mod challenge;
mod charge;
mod credential;
mod params;
mod problem;

pub use self::{
    challenge::{Challenge, ChallengeSecret},
    charge::{Authorization, ChargeRequest, EVM, MethodDetails, source, source_account},
    credential::{Credential, Receipt},
    problem::{Problem, ProblemType},
};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::audit::{NotCanonical, canonical};

/// Header of a seller's challenges.
pub const WWW_AUTHENTICATE: &str = "www-authenticate";
/// Header of a buyer's credential, unless the challenge names another.
pub const AUTHORIZATION: &str = "authorization";
/// Header of a seller's receipt.
pub const PAYMENT_RECEIPT: &str = "payment-receipt";
/// The one intent spoken here.
pub const CHARGE: &str = "charge";

/// Characters of a header that are looked at.
pub const HEADER_LIMIT: usize = 32 * 1024;
/// Challenges of one answer that are looked at.
pub const CHALLENGE_LIMIT: usize = 16;

/// The URL-safe alphabet without padding; padding is tolerated.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why something of MPP cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MppError {
    /// Longer than [`HEADER_LIMIT`].
    #[error("the header has {0} characters; {HEADER_LIMIT} are read")]
    TooLong(usize),
    /// Not the scheme `Payment`, or not written as parameters.
    #[error("not a `Payment` of HTTP authentication: {0}")]
    Syntax(&'static str),
    /// A parameter that must be there is not.
    #[error("the challenge has no `{0}`")]
    Missing(&'static str),
    /// Not base64url.
    #[error("not base64url")]
    NotBase64,
    /// Not the JSON that belongs there.
    #[error("the JSON cannot be used: {0}")]
    Json(#[from] serde_json::Error),
    /// Not JSON that has a canonical form.
    #[error(transparent)]
    NotCanonical(#[from] NotCanonical),
}

fn to_base64url<T: Serialize>(object: &T) -> Result<String, MppError> {
    Ok(BASE64URL.encode(canonical(&serde_json::to_value(object)?)?))
}

fn from_base64url<T: DeserializeOwned>(text: &str) -> Result<T, MppError> {
    if text.len() > HEADER_LIMIT {
        return Err(MppError::TooLong(text.len()));
    }
    let bytes = BASE64URL.decode(text).map_err(|_| MppError::NotBase64)?;
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn objects_come_back() {
        let value = json!({ "b": [1, { "z": null }], "a": "é" });
        let text = to_base64url(&value).unwrap();
        assert_eq!(from_base64url::<Value>(&text).unwrap(), value);
        assert!(
            from_base64url::<Value>("e30=").is_ok() && from_base64url::<Value>("e30+").is_err()
        );
    }
}
