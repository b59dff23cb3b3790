//! Operators' signatures on requests: EIP-712, by the key that also signs approvals, so that an
//! operator keeps one secret and a wallet can show what it signs.
//!
//! ```text
//! Bursar-Operator: address="0x…", created=1900000000, nonce="…", signature="0x…"
//! ```
//!
//! The typed data is `OperatorRequest(string method,string target,bytes32 body,uint256 created,
//! string nonce)` in the domain ("bursar operator", "1", chain id, wallet); `body` is the keccak-256
//! of the raw body. Another name than the wallet's own domain keeps a request's signature from ever
//! being a signature over money.

use alloy::{
    hex,
    primitives::{Address, B256, Signature, U256, keccak256},
    signers::{SignerSync, local::PrivateKeySigner},
    sol,
    sol_types::{Eip712Domain, SolStruct, eip712_domain},
};
use http::HeaderValue;

use super::{
    AuthError, Request, combined,
    fields::{self, Bare, Value},
    is_nonce,
};

/// The header.
pub const HEADER: &str = "bursar-operator";

/// How far `created` may lie from the verifier's clock, either way, in seconds.
pub const MAX_AGE_S: u64 = 120;

sol! {
    /// What an operator signs to make a request.
    struct OperatorRequest {
        /// Upper case.
        string method;
        /// Absolute, from the public origin.
        string target;
        /// keccak-256 of the raw body.
        bytes32 body;
        /// Unix seconds.
        uint256 created;
        /// Single use, base64url.
        string nonce;
    }
}

/// A request whose signer is proven. Neither is its nonce spent yet, nor is the signer known to be
/// an operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The signer.
    pub address: Address,
    /// The nonce; single use per address until `expires`.
    pub nonce: String,
    /// Unix seconds after which the signature is stale.
    pub expires: u64,
}

/// Returns the domain of operators' requests to the daemon that serves this wallet.
#[must_use]
pub fn domain(chain_id: u64, wallet: Address) -> Eip712Domain {
    eip712_domain! {
        name: "bursar operator",
        version: "1",
        chain_id: chain_id,
        verifying_contract: wallet,
    }
}

/// Signs a request; returns the value of the `Bursar-Operator` header. `created` is in unix seconds.
///
/// # Errors
/// [`AuthError::Mismatch`] if the key cannot sign.
pub fn sign(
    request: Request<'_>,
    key: &PrivateKeySigner,
    domain: &Eip712Domain,
    created: u64,
    nonce: &str,
) -> Result<HeaderValue, AuthError> {
    let digest = digest(&request, domain, created, nonce);
    let signature = key.sign_hash_sync(&digest).map_err(|_| AuthError::Mismatch)?;
    let text = format!(
        "address=\"{}\", created={created}, nonce=\"{nonce}\", signature=\"0x{}\"",
        key.address(),
        hex::encode(signature.as_bytes()),
    );
    HeaderValue::try_from(text)
        .map_err(|_| AuthError::Malformed { header: HEADER, why: "it is not plain ASCII" })
}

/// Proves who signed a request. `now` is in unix seconds.
///
/// # Errors
/// [`AuthError`].
pub fn verify(
    request: Request<'_>,
    domain: &Eip712Domain,
    now: u64,
) -> Result<Verified, AuthError> {
    let sent = combined(request.headers, HEADER)?.ok_or(AuthError::Missing(HEADER))?;
    let malformed = |why| AuthError::Malformed { header: HEADER, why };
    let members = fields::dictionary(&sent).map_err(malformed)?;
    let find = |name: &'static str| {
        let member = members.iter().find(|member| member.key == name);
        match member.map(|member| &member.value) {
            Some(Value::Item(bare)) => Ok(bare),
            _ => Err(AuthError::NoParameter(name)),
        }
    };
    let text = |name: &'static str| match find(name)? {
        Bare::Text(text) => Ok(text.as_str()),
        _ => Err(AuthError::BadParameter { name: name.into(), why: "put it in double quotes" }),
    };
    let bad = |name: &str, why| AuthError::BadParameter { name: name.to_owned(), why };

    let address: Address = text("address")?
        .parse()
        .map_err(|_| bad("address", "write 0x and 40 hexadecimal digits"))?;
    let created = match find("created")? {
        Bare::Integer(n) => u64::try_from(*n).map_err(|_| bad("created", "it is negative"))?,
        _ => return Err(bad("created", "write unix seconds as an integer")),
    };
    let nonce = text("nonce")?;
    if !is_nonce(nonce) {
        return Err(bad("nonce", "send 16 to 64 random bytes as base64url without padding"));
    }
    let signature = text("signature")?
        .strip_prefix("0x")
        .and_then(|hex| hex::decode(hex).ok())
        .filter(|raw| raw.len() == 65)
        .and_then(|raw| Signature::from_raw(&raw).ok())
        .ok_or_else(|| bad("signature", "write 0x and the 65 bytes r, s, v in hexadecimal"))?;
    let expires = created.saturating_add(MAX_AGE_S);
    if expires <= now {
        return Err(AuthError::Expired(now - expires, now));
    }
    if created > now.saturating_add(MAX_AGE_S) {
        return Err(AuthError::FromTheFuture(created - now, now));
    }
    // The high-s twin of a signature is refused, as the contract refuses it.
    let signer = signature.recover_address_from_prehash(&digest(&request, domain, created, nonce));
    if signature.normalize_s().is_some() || signer.ok() != Some(address) {
        return Err(AuthError::Mismatch);
    }
    Ok(Verified { address, nonce: nonce.to_owned(), expires })
}

fn digest(request: &Request<'_>, domain: &Eip712Domain, created: u64, nonce: &str) -> B256 {
    let message = OperatorRequest {
        method: request.method.as_str().to_owned(),
        target: request.target.to_owned(),
        body: keccak256(request.body),
        created: U256::from(created),
        nonce: nonce.to_owned(),
    };
    message.eip712_signing_hash(domain)
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;
    use crate::auth::fresh_nonce;

    const NOW: u64 = 1_900_000_000;
    const TARGET: &str = "https://wallet.example.com/v1/operator/tighten";

    fn request<'a>(headers: &'a HeaderMap, body: &'a [u8]) -> Request<'a> {
        Request { method: &Method::POST, target: TARGET, headers, body }
    }

    fn ours() -> Eip712Domain {
        domain(31_337, Address::repeat_byte(7))
    }

    fn signed(key: &PrivateKeySigner, body: &[u8]) -> HeaderMap {
        let empty = HeaderMap::new();
        let value = sign(request(&empty, body), key, &ours(), NOW, &fresh_nonce()).unwrap();
        HeaderMap::from_iter([(http::HeaderName::from_static(HEADER), value)])
    }

    #[test]
    fn proves_the_signer() {
        let key = PrivateKeySigner::random();
        let headers = signed(&key, b"{}");
        let verified = verify(request(&headers, b"{}"), &ours(), NOW + 100).unwrap();
        assert_eq!(verified.address, key.address());
        assert_eq!(verified.expires, NOW + 120);
    }

    #[test]
    fn refuses_another_body_target_method_wallet_time_or_address() {
        let key = PrivateKeySigner::random();
        let headers = signed(&key, b"{}");
        let good = request(&headers, b"{}");
        let get = Request { method: &Method::GET, ..good };
        let elsewhere = Request { target: "https://wallet.example.com/v1/operator/x", ..good };
        for wrong in [request(&headers, b"{ }"), get, elsewhere] {
            assert_eq!(verify(wrong, &ours(), NOW), Err(AuthError::Mismatch));
        }
        let other = domain(31_337, Address::repeat_byte(8));
        assert_eq!(verify(good, &other, NOW), Err(AuthError::Mismatch));
        assert_eq!(verify(good, &ours(), NOW + 121), Err(AuthError::Expired(1, NOW + 121)));
        let early = NOW - 121;
        assert_eq!(verify(good, &ours(), early), Err(AuthError::FromTheFuture(121, early)));
        let text = headers[HEADER].to_str().unwrap();
        let stranger = Address::repeat_byte(9).to_string();
        let lie = text.replace(&key.address().to_string(), &stranger);
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static(HEADER),
            HeaderValue::try_from(lie).unwrap(),
        )]);
        assert_eq!(verify(request(&headers, b"{}"), &ours(), NOW), Err(AuthError::Mismatch));
    }

    #[test]
    fn a_request_is_never_a_payment() {
        let wallet = Address::repeat_byte(7);
        assert_ne!(
            domain(31_337, wallet).separator(),
            crate::contract::domain(31_337, wallet).separator()
        );
    }
}
