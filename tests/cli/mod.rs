//! Commands through the real binary.

/// Needs Linux for setsid(1) and `/dev/fd` semantics.
#[cfg(target_os = "linux")]
mod init;
