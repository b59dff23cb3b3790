//! The engine against a real chain: every case ends with the oracle.

mod approvals;
mod audit;
mod books;
mod chaos;
mod clock;
mod crash_points;
pub mod crashes;
mod digests;
mod fees;
mod governance;
mod idempotency;
mod node;
mod payments;
mod replay;
mod restart;
pub mod restored;
mod retention;
mod usdc;
mod wire;
