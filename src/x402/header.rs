//! JSON in headers: standard base64, bounded.

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use serde::{Serialize, de::DeserializeOwned};

/// Characters of a header that are looked at. Servers take 8 to 16 KiB of headers by default.
pub const HEADER_LIMIT: usize = 32 * 1024;

/// Standard alphabet, padding optional: what the official decoders take.
const READER: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a header cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// Longer than [`HEADER_LIMIT`].
    #[error("the header has {0} characters; {HEADER_LIMIT} are read")]
    TooLong(usize),
    /// Not standard base64 (base64url and line breaks are not either).
    #[error("the header is not standard base64")]
    NotBase64,
    /// Not the JSON that belongs there.
    #[error("the header's JSON cannot be used: {0}")]
    Json(#[from] serde_json::Error),
}

/// Writes an object as a header's value.
///
/// # Errors
/// [`HeaderError::Json`] if it has no JSON; [`HeaderError::TooLong`].
pub fn encode<T: Serialize>(object: &T) -> Result<String, HeaderError> {
    let text = STANDARD.encode(serde_json::to_vec(object)?);
    if text.len() > HEADER_LIMIT { Err(HeaderError::TooLong(text.len())) } else { Ok(text) }
}

/// Reads an object from a header's value.
///
/// # Errors
/// [`HeaderError`].
pub fn decode<T: DeserializeOwned>(text: &str) -> Result<T, HeaderError> {
    if text.len() > HEADER_LIMIT {
        return Err(HeaderError::TooLong(text.len()));
    }
    let bytes = READER.decode(text).map_err(|_| HeaderError::NotBase64)?;
    Ok(serde_json::from_slice(&bytes)?)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn reads_standard_base64_and_nothing_else() {
        let text = encode(&json!({ "a": "ÿÿ>?" })).unwrap();
        assert_eq!(decode::<Value>(&text).unwrap(), json!({ "a": "ÿÿ>?" }));
        assert!(decode::<Value>(text.trim_end_matches('=')).is_ok());
        for wrong in ["e30\n", "e30 =", "e30==x", "_-8", "{}", "é"] {
            assert!(matches!(decode::<Value>(wrong), Err(HeaderError::NotBase64)), "{wrong}");
        }
        assert!(matches!(decode::<Value>("e3s="), Err(HeaderError::Json(_))));
        let long = "A".repeat(HEADER_LIMIT + 1);
        assert!(matches!(decode::<Value>(&long), Err(HeaderError::TooLong(_))));
        assert!(matches!(encode(&long), Err(HeaderError::TooLong(_))));
    }
}
