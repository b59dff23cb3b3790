//! Channels: one deposit, one signature for each microfee, one transaction for many of them.
//!
//! A payer deposits into ChannelHub and signs vouchers, each for the total so far; the payee keeps the
//! highest one and claims it when that is worth the gas, or when the payer begins to leave. Formats
//! are x402's `batch-settlement`, source: its scheme document for EVM chains.
//!
//! [`payee`] meters what others owe us: pure state in [`meter`], made durable by [`journal`], claimed by
//! [`claim`]. [`voucher`] is the signature.

pub(crate) mod claim;
pub mod journal;
pub mod meter;
#[cfg(test)]
mod meter_tests;
pub(crate) mod on_chain;
pub mod payee;
pub mod purse;
pub(crate) mod scheme;
pub(crate) mod show;
pub mod voucher;
