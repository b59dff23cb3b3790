//! bursar: a self-hosted USDC wallet for AI agents.
//!
//! An agent asks; a daemon that holds the keys decides and signs; a contract that holds the money
//! enforces. The rooms and who may touch what: `docs/architecture.md`.

pub mod api;
pub mod audit;
pub mod auth;
pub mod cli;
pub mod client;
pub mod contract;
pub mod devnet;
pub mod engine;
pub mod fees;
pub mod keys;
pub mod ledger;
pub mod money;
pub mod outcome;
pub mod payment;
pub mod policy;
pub mod refusal;
pub mod review;
pub mod view;
pub mod window;
