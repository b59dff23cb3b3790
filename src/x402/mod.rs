//! x402, the wire: objects of versions 2 and 1, headers, and the payloads of the schemes `exact` and
//! `batch-settlement` with what their signatures cover. Pure: no clock, no network, no database.
//!
//! Buyer, seller and facilitator stand on this. Source of the formats: the x402 specification (v2, v1
//! and its scheme documents); the vectors in the tests were computed with the official packages.
//!
//! Rules that hold for every object here: `null` reads as absent; keys that are not known are kept and
//! written out again; amounts are base units as decimal strings; addresses are written with their
//! checksum and compared by value.

pub mod batch;
pub mod exact;
mod header;
mod offer;
mod reason;
mod text;
mod wire;

pub use self::header::{HEADER_LIMIT, HeaderError, decode, encode};
pub use self::offer::{OfferError, Requirements, Terms, caip2, chain_of, v1_name};
pub use self::reason::Reason;
pub use self::wire::{
    FacilitatorRequest, Kind, PaymentPayload, PaymentRequired, ResourceInfo, SettleResponse,
    Supported, VerifyResponse,
};

/// Header of a seller's offers, version 2: base64 of [`PaymentRequired`].
pub const PAYMENT_REQUIRED: &str = "payment-required";
/// Header of a buyer's payment, version 2: base64 of [`PaymentPayload`].
pub const PAYMENT_SIGNATURE: &str = "payment-signature";
/// Header of a seller's receipt, version 2: base64 of [`SettleResponse`].
pub const PAYMENT_RESPONSE: &str = "payment-response";
/// Header of a buyer's payment, version 1.
pub const X_PAYMENT: &str = "x-payment";
/// Header of a seller's receipt, version 1.
pub const X_PAYMENT_RESPONSE: &str = "x-payment-response";

/// One transfer for one request.
pub const EXACT: &str = "exact";
/// A channel with one voucher for each request.
pub const BATCH_SETTLEMENT: &str = "batch-settlement";
