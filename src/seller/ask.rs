//! What is asked for: the request that a payment pays for.

use alloy::primitives::{Address, B256, keccak256};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};

use super::{PriceError, Route, Shop};

/// A request for something that costs.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub route: Route,
    pub pay_to: Address,
    pub method: String,
    /// Path and query, as they came.
    pub target: String,
    /// SHA-256 of the body, if there is one.
    digest: Option<[u8; 32]>,
}

/// A body's SHA-256, if there is a body.
pub(super) fn digest(body: &[u8]) -> Option<[u8; 32]> {
    (!body.is_empty()).then(|| Sha256::digest(body).into())
}

impl Ask {
    /// `digest` is its body's SHA-256, if there is a body that matters.
    pub(super) fn new(
        shop: &Shop,
        route: &Route,
        (method, target): (&str, &str),
        digest: Option<[u8; 32]>,
    ) -> Result<Self, PriceError> {
        Ok(Self {
            pay_to: shop.pay_to(route)?,
            route: route.clone(),
            method: method.to_owned(),
            target: target.to_owned(),
            digest,
        })
    }

    /// The resource's address, as buyers see it.
    pub(super) fn url(&self, shop: &Shop) -> String {
        format!("{}{}", shop.list().public_origin, self.target)
    }

    /// The body's digest (RFC 9530), if there is a body.
    pub(super) fn digest_field(&self) -> Option<String> {
        self.digest.map(|digest| format!("sha-256=:{}:", BASE64_STANDARD.encode(digest)))
    }

    /// Tells one request from another: method, target, body.
    pub(super) fn fingerprint(&self) -> B256 {
        let mut bytes = Vec::with_capacity(self.target.len() + 64);
        for part in [self.method.as_bytes(), self.target.as_bytes()] {
            bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
            bytes.extend_from_slice(part);
        }
        if let Some(digest) = &self.digest {
            bytes.extend_from_slice(digest);
        }
        keccak256(bytes)
    }
}
