//! Agents' signatures: a profile of RFC 9421 HTTP message signatures.
//!
//! ```text
//! Content-Digest: sha-256=:…:
//! Signature-Input: sig=("@method" "@target-uri" "content-digest" "content-type" "idempotency-key")
//!   ;created=…;expires=…;nonce="…";keyid="…";alg="ed25519";tag="bursar-agent"
//! Signature: sig=:…:
//! ```
//!
//! Method and target stop a signature from working elsewhere, the digest and the idempotency key
//! from carrying another body or buying another thing, the nonce from working twice.

use base64::Engine as _;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use http::{HeaderMap, HeaderValue};
use sha2::{Digest as _, Sha256};

use super::{
    AuthError, BASE64, Request, combined,
    fields::{self, Bare, Member, Params, Value},
    is_nonce,
};

/// The tag that tells our signatures from others on the same request.
pub const TAG: &str = "bursar-agent";

/// Seconds between `created` and `expires` where [`sign`] chooses.
pub const LIFETIME_S: u64 = 60;

/// Longest allowed time between `created` and `expires`, in seconds.
pub const MAX_LIFETIME_S: u64 = 300;

/// How far `created` may lie ahead of the verifier's clock, in seconds.
pub const MAX_SKEW_S: u64 = 5;

const METHOD: &str = "@method";
const TARGET: &str = "@target-uri";
const DIGEST: &str = "content-digest";
const CONTENT_TYPE: &str = "content-type";
const KEY: &str = "idempotency-key";
const INPUT: &str = "signature-input";
const SIGNATURE: &str = "signature";

/// Everything the profile can cover, in the order in which [`sign`] writes it.
const COMPONENTS: [&str; 5] = [METHOD, TARGET, DIGEST, CONTENT_TYPE, KEY];

/// A request whose sender is proven. Its nonce is not spent yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T> {
    /// What the lookup returned beside the key.
    pub who: T,
    /// The signer's key id.
    pub key_id: String,
    /// The nonce; single use per key id until `expires`.
    pub nonce: String,
    /// Unix seconds after which the signature is stale.
    pub expires: u64,
}

/// Returns a key's id: the RFC 7638 SHA-256 thumbprint of its JWK, base64url.
#[must_use]
pub fn key_id(key: &VerifyingKey) -> String {
    let b64url = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    // RFC 7638 §3: required members only, sorted, no white space.
    let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, b64url.encode(key.as_bytes()));
    b64url.encode(Sha256::digest(jwk))
}

/// Signs a request whose `content-type` and `idempotency-key` headers are set; returns the headers
/// to add. `created` is in unix seconds; `nonce` comes from [`super::fresh_nonce`].
///
/// # Errors
/// [`AuthError`] where a header that is to be covered is missing (a body without `content-type`) or
/// not plain ASCII, or `nonce` is too short.
pub fn sign(
    request: Request<'_>,
    key: &SigningKey,
    created: u64,
    nonce: &str,
) -> Result<HeaderMap, AuthError> {
    if !is_nonce(nonce) {
        return Err(AuthError::BadParameter { name: "nonce".into(), why: NONCE });
    }
    let mut headers = HeaderMap::new();
    let mut covered = request.headers.clone();
    let value = |text: String, header| {
        HeaderValue::try_from(text)
            .map_err(|_| AuthError::Malformed { header, why: "it is not plain ASCII" })
    };
    if !request.body.is_empty() {
        let digest = value(digest_of(request.body), DIGEST)?;
        covered.insert(DIGEST, digest.clone());
        headers.insert(DIGEST, digest);
    }
    let request = Request { headers: &covered, ..request };
    let wanted = required(&request);
    let quoted: Vec<String> = wanted.iter().map(|name| format!("\"{name}\"")).collect();
    let input = format!(
        "({});created={created};expires={};nonce=\"{nonce}\";keyid=\"{}\";alg=\"ed25519\";tag=\"{TAG}\"",
        quoted.join(" "),
        created.saturating_add(LIFETIME_S),
        key_id(&key.verifying_key()),
    );
    let signature = key.sign(base(&request, &wanted, &input)?.as_bytes());
    headers.insert(INPUT, value(format!("sig={input}"), INPUT)?);
    let encoded = BASE64.encode(signature.to_bytes());
    headers.insert(SIGNATURE, value(format!("sig=:{encoded}:"), SIGNATURE)?);
    Ok(headers)
}

/// Proves who sent a request. `now` is in unix seconds; `lookup` finds the 32-byte public key of a
/// key id.
///
/// # Errors
/// [`AuthError`], every case of it.
pub fn verify<T>(
    request: Request<'_>,
    now: u64,
    lookup: impl FnOnce(&str) -> Option<(T, [u8; 32])>,
) -> Result<Verified<T>, AuthError> {
    let input = combined(request.headers, INPUT)?.ok_or(AuthError::Missing(INPUT))?;
    let ours = choose(&input)?;
    let params = Parameters::read(&ours.params)?;
    let components = components(&ours)?;
    for name in required(&request) {
        if !components.contains(&name) {
            return Err(AuthError::NotCovered(name));
        }
    }
    params.check_time(now)?;
    check_digest(&request)?;
    let signature = signature_of(&request, &ours.key)?;
    let base = base(&request, &components, ours.raw)?;
    let (who, key) =
        lookup(&params.key_id).ok_or_else(|| AuthError::UnknownKey(params.key_id.clone()))?;
    // Strict: no small-order keys, no second signature for the same message.
    VerifyingKey::from_bytes(&key)
        .and_then(|key| key.verify_strict(base.as_bytes(), &signature))
        .map_err(|_| AuthError::Mismatch)?;
    Ok(Verified { who, key_id: params.key_id, nonce: params.nonce, expires: params.expires })
}

fn digest_of(body: &[u8]) -> String {
    format!("sha-256=:{}:", BASE64.encode(Sha256::digest(body)))
}

/// What a signature of this request has to cover.
fn required(request: &Request<'_>) -> Vec<&'static str> {
    let needed = |name: &&str| match *name {
        METHOD | TARGET => true,
        DIGEST | CONTENT_TYPE => !request.body.is_empty(),
        name => request.headers.contains_key(name),
    };
    COMPONENTS.into_iter().filter(needed).collect()
}

/// Builds the signature base (RFC 9421 §2.5).
fn base(
    request: &Request<'_>,
    components: &[&'static str],
    input: &str,
) -> Result<String, AuthError> {
    let mut base = String::new();
    for name in components {
        let value = match *name {
            METHOD => request.method.as_str().to_owned(),
            TARGET => request.target.to_owned(),
            header => combined(request.headers, header)?.ok_or(AuthError::Missing(header))?,
        };
        base.push_str(&format!("\"{name}\": {value}\n"));
    }
    base.push_str(&format!("\"@signature-params\": {input}"));
    Ok(base)
}

/// Finds the one signature with our tag.
fn choose(input: &str) -> Result<Member<'_>, AuthError> {
    let members =
        fields::dictionary(input).map_err(|why| AuthError::Malformed { header: INPUT, why })?;
    let is_ours = |member: &Member<'_>| {
        member.params.iter().any(|(n, v)| n == "tag" && *v == Bare::Text(TAG.to_owned()))
    };
    let mut ours = members.into_iter().filter(is_ours);
    let one = ours.next().ok_or(AuthError::NoSignature)?;
    if ours.next().is_some() { Err(AuthError::SeveralSignatures) } else { Ok(one) }
}

/// Reads the covered components: each of the profile, each once, none with parameters.
fn components(ours: &Member<'_>) -> Result<Vec<&'static str>, AuthError> {
    let malformed = |why| AuthError::Malformed { header: INPUT, why };
    let Value::List(items) = &ours.value else {
        return Err(malformed("the signature's value is not a list of components"));
    };
    let mut found = Vec::new();
    for (item, params) in items {
        let Bare::Text(text) = item else { return Err(malformed("a component is not a string")) };
        let bad = |why| AuthError::BadComponent { component: text.chars().take(60).collect(), why };
        let name = COMPONENTS
            .into_iter()
            .find(|name| name == text)
            .ok_or_else(|| bad("it is not part of this profile"))?;
        if !params.is_empty() {
            return Err(bad("components take no parameters here"));
        }
        if found.contains(&name) {
            return Err(bad("it stands twice"));
        }
        found.push(name);
    }
    Ok(found)
}

const NONCE: &str = "send 16 to 64 random bytes as base64url without padding";

struct Parameters {
    created: u64,
    expires: u64,
    nonce: String,
    key_id: String,
}

impl Parameters {
    fn read(params: &Params) -> Result<Self, AuthError> {
        let bad = |name: &str, why| AuthError::BadParameter {
            name: name.chars().take(40).collect(),
            why,
        };
        const KNOWN: [&str; 6] = ["created", "expires", "nonce", "keyid", "alg", "tag"];
        if let Some((name, _)) = params.iter().find(|(name, _)| !KNOWN.contains(&name.as_str())) {
            return Err(bad(name, "it is not part of this profile"));
        }
        let find = |name: &'static str| {
            let found = params.iter().find(|(known, _)| known == name);
            found.map(|(_, value)| value).ok_or(AuthError::NoParameter(name))
        };
        let seconds = |name: &'static str| match find(name)? {
            Bare::Integer(n) => u64::try_from(*n).map_err(|_| bad(name, "it is negative")),
            _ => Err(bad(name, "write unix seconds as an integer")),
        };
        let text = |name: &'static str| match find(name)? {
            Bare::Text(text) => Ok(text.clone()),
            _ => Err(bad(name, "put it in double quotes")),
        };
        if text("alg")? != "ed25519" {
            return Err(bad("alg", "only \"ed25519\" is accepted"));
        }
        let nonce = text("nonce")?;
        if !is_nonce(&nonce) {
            return Err(bad("nonce", NONCE));
        }
        let key_id = text("keyid")?;
        if key_id.is_empty() || key_id.len() > 64 {
            return Err(bad("keyid", "send the RFC 7638 thumbprint of the key, 43 characters"));
        }
        Ok(Self { created: seconds("created")?, expires: seconds("expires")?, nonce, key_id })
    }

    fn check_time(&self, now: u64) -> Result<(), AuthError> {
        let lifetime = self.expires.checked_sub(self.created).ok_or(AuthError::BadParameter {
            name: "expires".into(),
            why: "it lies before `created`",
        })?;
        if lifetime > MAX_LIFETIME_S {
            return Err(AuthError::LivesTooLong(lifetime));
        }
        if self.expires <= now {
            return Err(AuthError::Expired(now - self.expires, now));
        }
        if self.created > now.saturating_add(MAX_SKEW_S) {
            return Err(AuthError::FromTheFuture(self.created - now, now));
        }
        Ok(())
    }
}

/// Recomputes `Content-Digest` (RFC 9530) where it is sent.
fn check_digest(request: &Request<'_>) -> Result<(), AuthError> {
    let Some(sent) = combined(request.headers, DIGEST)? else {
        return if request.body.is_empty() { Ok(()) } else { Err(AuthError::Missing(DIGEST)) };
    };
    let malformed = |why| AuthError::Malformed { header: DIGEST, why };
    let members = fields::dictionary(&sent).map_err(malformed)?;
    let sha256 = members.iter().find(|member| member.key == "sha-256");
    match sha256.map(|member| &member.value) {
        Some(Value::Item(Bare::Bytes(bytes))) => {
            let right = bytes.as_slice() == Sha256::digest(request.body).as_slice();
            if right { Ok(()) } else { Err(AuthError::DigestMismatch) }
        }
        Some(_) => Err(malformed("write sha-256=:<base64>:")),
        None => Err(malformed("it has no sha-256")),
    }
}

/// Finds the signature that stands under the label of our input.
fn signature_of(request: &Request<'_>, label: &str) -> Result<Signature, AuthError> {
    let sent = combined(request.headers, SIGNATURE)?.ok_or(AuthError::Missing(SIGNATURE))?;
    let malformed = |why| AuthError::Malformed { header: SIGNATURE, why };
    let members = fields::dictionary(&sent).map_err(malformed)?;
    let ours = members
        .iter()
        .find(|member| member.key == label)
        .ok_or_else(|| malformed("it has no entry under the label used in Signature-Input"))?;
    match &ours.value {
        Value::Item(Bare::Bytes(bytes)) => {
            Signature::from_slice(bytes).map_err(|_| malformed("an Ed25519 signature has 64 bytes"))
        }
        Value::Item(_) | Value::List(_) => Err(malformed("write <label>=:<base64>:")),
    }
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
