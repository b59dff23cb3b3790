//! Values that the tests of this room share.

use alloy::primitives::Address;

use super::{Categories, ChainLimits, Policy};
use crate::money::Usdc;

/// 2026-07-01T00:00:00Z, on a step of every money window.
pub(super) const NOW: u64 = 1_782_864_000;

pub(super) const HEAD: &str = r#"
agent = "research"
key_index = 0
public_key = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
sponsor = "ana@example.com"
categories = ["data", "compute"]
expires = "2027-01-01T00:00:00Z"
"#;

pub(super) const LIMITS: &str = r#"
[limits]
ceiling = "250"
day = "1000"
month = "10000"
lifetime = "50000"
"#;

pub(super) fn usdc(text: &str) -> Usdc {
    text.parse().unwrap()
}

pub(super) fn payee(n: u8) -> Address {
    Address::repeat_byte(n)
}

pub(super) fn categories() -> Categories {
    Categories::new(["data", "compute", "travel"].map(String::from).to_vec()).unwrap()
}

/// A policy from the usual head and limits, with `more` tables.
pub(super) fn policy(more: &str) -> Policy {
    with("", more)
}

/// The same with top-level keys.
pub(super) fn with(keys: &str, more: &str) -> Policy {
    Policy::parse(&format!("{HEAD}{keys}\n{LIMITS}{more}"), &categories()).unwrap()
}

/// What the contract holds for that policy.
pub(super) fn chain() -> ChainLimits {
    ChainLimits {
        active: true,
        frozen: false,
        expiry_s: 1_798_761_600, // 2027-01-01
        ceiling: usdc("250"),
        day: Some(usdc("1000")),
        month: Some(usdc("10000")),
        budget: Some((usdc("50000"), Usdc::ZERO)),
        categories: 0b11,
        version: 1,
    }
}
