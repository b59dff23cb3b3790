//! bursar: a self-hosted USDC wallet for AI agents.
//!
//! An agent asks; a daemon that holds the keys decides and signs; a contract that holds the money
//! enforces. The rooms and who may touch what: `docs/architecture.md`.

pub mod alert;
pub mod api;
mod approval;
pub mod audit;
pub mod auth;
pub mod book;
pub mod buyer;
pub mod channel;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod contract;
mod crash;
pub mod devnet;
pub mod doctor;
pub mod engine;
pub mod escrow;
pub mod facilitator;
pub mod fees;
mod governance;
pub mod guard;
mod intake;
pub mod keys;
mod lease;
pub mod ledger;
pub mod metrics;
pub mod money;
pub mod mpp;
pub mod notify;
pub mod outcome;
pub mod payment;
pub mod policy;
pub(crate) mod pulse;
pub mod reconcile;
pub mod refusal;
pub mod review;
pub mod rpc;
pub mod seller;
pub mod service;
#[cfg(test)]
mod sim;
pub mod store;
mod submit;
pub mod view;
pub mod window;
pub mod x402;
