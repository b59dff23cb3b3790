//! The one integration binary: a folder a room, `support` for what they share.

// A test's helpers fail it by panicking, as its body does.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod api;
mod cli;
mod engine;
mod escrow;
mod notify;
mod store;
mod support;
mod x402;
