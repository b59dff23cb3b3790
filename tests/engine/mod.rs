//! The engine against a real chain: every case ends with the oracle.

mod approvals;
mod idempotency;
mod payments;
