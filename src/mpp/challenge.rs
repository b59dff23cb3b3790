//! What a seller asks for, and how it knows its own question again.

use alloy::primitives::{B256, keccak256};
use base64::Engine as _;
use hmac::{Hmac, Mac as _};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{
    BASE64URL, CHALLENGE_LIMIT, HEADER_LIMIT, MppError, from_base64url, params, to_base64url,
};

/// Least bytes of a seller's secret.
const SECRET_LEAST: usize = 32;

/// One challenge. A credential repeats it as it came: `request`, `digest` and `opaque` are texts that
/// nobody but the seller reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// The seller's seal over everything that counts: see [`ChallengeSecret`].
    pub id: String,
    /// The seller, by name.
    pub realm: String,
    /// How to pay: `evm`.
    pub method: String,
    /// What for: `charge`.
    pub intent: String,
    /// The terms: base64url of canonical JSON.
    pub request: String,
    /// Until when it can be paid, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    /// Of the body that is paid for: `sha-256=:…:` (RFC 9530); some leave the colons out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The seller's own notes: base64url of canonical JSON, texts by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opaque: Option<String>,
    /// Which header takes the credential, if not `Authorization`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
}

impl Challenge {
    /// Makes a challenge that is not sealed yet.
    ///
    /// # Errors
    /// [`MppError`]: none in practice.
    pub fn new<T: Serialize>(
        realm: &str,
        method: &str,
        intent: &str,
        request: &T,
    ) -> Result<Self, MppError> {
        Ok(Self {
            id: String::new(),
            realm: realm.to_owned(),
            method: method.to_owned(),
            intent: intent.to_owned(),
            request: to_base64url(request)?,
            expires: None,
            digest: None,
            description: None,
            opaque: None,
            header: None,
        })
    }

    /// Adds the seller's notes.
    ///
    /// # Errors
    /// [`MppError`]: none in practice.
    pub fn with_notes<T: Serialize>(mut self, notes: &T) -> Result<Self, MppError> {
        self.opaque = Some(to_base64url(notes)?);
        Ok(self)
    }

    /// Reads the seller's notes.
    ///
    /// # Errors
    /// [`MppError`] if there are none, or others.
    pub fn notes<T: DeserializeOwned>(&self) -> Result<T, MppError> {
        from_base64url(self.opaque.as_deref().ok_or(MppError::Missing("opaque"))?)
    }

    /// Reads the terms.
    ///
    /// # Errors
    /// [`MppError`] if they are not what is expected.
    pub fn terms<T: DeserializeOwned>(&self) -> Result<T, MppError> {
        from_base64url(&self.request)
    }

    /// Reads every challenge of an answer, from each of its `WWW-Authenticate` headers. Those of other
    /// schemes, and those that cannot be read, are passed over; at most [`CHALLENGE_LIMIT`] are looked at.
    pub fn read_all<'a>(headers: impl IntoIterator<Item = &'a str>) -> Vec<Self> {
        let params = headers.into_iter().filter_map(|header| params::read(header).ok()).flatten();
        params.take(CHALLENGE_LIMIT).filter_map(|params| Self::from_params(params).ok()).collect()
    }

    fn from_params(params: Vec<(String, String)>) -> Result<Self, MppError> {
        let mut fields: std::collections::HashMap<String, String> = params.into_iter().collect();
        let mut take = |name: &'static str| fields.remove(name).filter(|value| !value.is_empty());
        let mut need = |name| take(name).ok_or(MppError::Missing(name));
        Ok(Self {
            id: need("id")?,
            realm: need("realm")?,
            method: need("method")?,
            intent: need("intent")?,
            request: need("request")?,
            expires: take("expires"),
            digest: take("digest"),
            description: take("description"),
            opaque: take("opaque"),
            header: take("header"),
        })
    }

    /// Writes it as a value of `WWW-Authenticate`, in ASCII.
    ///
    /// # Errors
    /// [`MppError::TooLong`].
    pub fn to_header(&self) -> Result<String, MppError> {
        let mut out = "Payment ".to_owned();
        let fields = [
            ("id", Some(&self.id)),
            ("realm", Some(&self.realm)),
            ("method", Some(&self.method)),
            ("intent", Some(&self.intent)),
            ("request", Some(&self.request)),
            ("expires", self.expires.as_ref()),
            ("digest", self.digest.as_ref()),
            ("description", self.description.as_ref()),
            ("opaque", self.opaque.as_ref()),
            ("header", self.header.as_ref()),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                params::write(&mut out, name, value);
            }
        }
        if out.len() > HEADER_LIMIT { Err(MppError::TooLong(out.len())) } else { Ok(out) }
    }

    /// Returns the nonce that an EIP-3009 authorization for it must have: it binds the money to this
    /// challenge (draft evm/charge: `keccak256(id ‖ realm)`).
    #[must_use]
    pub fn nonce(&self) -> B256 {
        keccak256([self.id.as_bytes(), self.realm.as_bytes()].concat())
    }
}

/// What a seller seals its challenges with: a challenge with the right seal was asked by itself, and
/// nothing of it was changed. So unpaid requests leave nothing behind. Wiped on drop.
pub struct ChallengeSecret(Zeroizing<Vec<u8>>);

impl ChallengeSecret {
    /// Takes a secret of at least 32 bytes; `None` if it is shorter.
    #[must_use]
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Option<Self> {
        (bytes.len() >= SECRET_LEAST).then_some(Self(bytes))
    }

    fn mac(&self, challenge: &Challenge) -> Option<Hmac<Sha256>> {
        let optional = |value: &Option<String>| value.clone().unwrap_or_default();
        let text = [
            challenge.realm.clone(),
            challenge.method.clone(),
            challenge.intent.clone(),
            challenge.request.clone(),
            optional(&challenge.expires),
            optional(&challenge.digest),
            optional(&challenge.opaque),
        ]
        .join("|");
        // HMAC takes keys of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).ok()?;
        mac.update(text.as_bytes());
        Some(mac)
    }

    /// Seals a challenge: its `id` is base64url of HMAC-SHA256 over
    /// `realm|method|intent|request|expires|digest|opaque`.
    #[must_use]
    pub fn seal(&self, mut challenge: Challenge) -> Challenge {
        if let Some(mac) = self.mac(&challenge) {
            challenge.id = BASE64URL.encode(mac.finalize().into_bytes());
        }
        challenge
    }

    /// Is it one of ours, unchanged? Compared in constant time.
    #[must_use]
    pub fn is_ours(&self, challenge: &Challenge) -> bool {
        let Ok(id) = BASE64URL.decode(&challenge.id) else { return false };
        // A text with a separator in it could stand for two different challenges.
        let is_plain = |text: &str| !text.contains('|');
        let texts = [&challenge.realm, &challenge.method, &challenge.intent, &challenge.request];
        texts.into_iter().all(|text| is_plain(text))
            && self.mac(challenge).is_some_and(|mac| mac.verify_slice(&id).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::{address, b256};

    use super::{super::ChargeRequest, *};

    fn secret() -> ChallengeSecret {
        let bytes = b"0123456789abcdef0123456789abcdef".to_vec();
        ChallengeSecret::new(Zeroizing::new(bytes)).unwrap()
    }

    fn challenge() -> Challenge {
        let request = ChargeRequest::new(
            10_000,
            address!("0x036CbD53842c5426634e7929541eC2318f3dCF7e"),
            address!("0x70997970C51812dc3A010C7d01b50e0d17dc79C8"),
            84_532,
        );
        let mut challenge = Challenge::new("api.example.com", "evm", "charge", &request).unwrap();
        challenge.expires = Some("2030-03-17T17:46:40Z".into());
        secret().seal(challenge)
    }

    #[test]
    fn id_and_nonce_are_those_of_the_official_package() {
        let challenge = challenge();
        assert_eq!(challenge.id, "kljXMsryZl6EemGkv66AO8BwnnDsNoQyK6jQYuMwop0");
        assert_eq!(
            challenge.nonce(),
            b256!("0x2c8f76b0e0c1c208656d7d85cc99a29fb363eb6af635bb7c0442e94f5b6e89ac")
        );
        let abc = Challenge { id: "abc".into(), ..challenge };
        assert_eq!(
            abc.nonce(),
            b256!("0xe1adfd8f031bdf83646eee741bda35015ff27366153d3ec246a28e6d3960b516")
        );
    }

    #[test]
    fn a_challenge_comes_back_from_its_header() {
        let mut challenge = challenge();
        challenge.description = Some("a \"café\"".into());
        let header = challenge.to_header().unwrap();
        let other = format!("Basic realm=\"x\", {header}");
        assert_eq!(
            Challenge::read_all([other.as_str(), "Payment id=\"1\"", &header]),
            [challenge.clone(), challenge.clone()]
        );
        assert!(secret().is_ours(&challenge));
    }

    #[test]
    fn a_changed_challenge_is_not_ours() {
        let sealed = challenge().with_notes(&"x").unwrap();
        assert!(!secret().is_ours(&sealed), "notes were added after the seal");
        type Change = fn(&mut Challenge);
        let changes: [Change; 8] = [
            |c| c.realm.push('x'),
            |c| c.method = "tempo".into(),
            |c| c.intent = "session".into(),
            |c| c.request.push('A'),
            |c| c.expires = Some("2031-03-17T17:46:40Z".into()),
            |c| c.digest = Some("sha-256=:AA==:".into()),
            |c| c.opaque = Some("e30".into()),
            |c| c.id = "!".into(),
        ];
        for change in changes {
            let mut challenge = challenge();
            change(&mut challenge);
            assert!(!secret().is_ours(&challenge), "{challenge:?}");
        }
        // Moving the border between two fields is a change, too.
        let mut moved = challenge();
        moved.realm = format!("{}|evm", moved.realm);
        moved.method = "charge".into();
        assert!(!secret().is_ours(&moved));
        assert!(ChallengeSecret::new(Zeroizing::new(vec![1; 31])).is_none());
    }
}
