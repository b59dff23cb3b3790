//! Commands through the real binary.

mod devnet;
mod doctor;
mod escrow;
/// Needs Linux for setsid(1) and `/dev/fd` semantics.
#[cfg(target_os = "linux")]
mod init;
mod reconcile;
