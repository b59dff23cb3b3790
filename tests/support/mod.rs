//! What the integration tests share: a world of real processes, and the oracle that judges it.

pub mod chain;
mod daemon;
mod line;
mod official;
mod oracle;
mod postgres;
mod proxy;
mod tally;
mod twin;
mod world;

pub use chain::Chain;
pub use chain::Transfer;
pub use daemon::{Daemon, Environment};
pub use line::{Cut, Line};
pub use official::Official;
pub use postgres::Postgres;
pub use proxy::{Fault, Proxy};
pub use twin::Twin;
pub use world::{Backend, Plan, RefusedWith, World, request};

use std::time::{Duration, Instant};

/// Longest wait for anything that should happen.
pub const LIMIT: Duration = Duration::from_secs(40);

/// Looks again and again until there is an answer; fails the test after [`LIMIT`].
pub async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Takes a random test's seed from the environment, or draws one; prints it either way.
pub fn seed(variable: &str) -> u64 {
    let seed = std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(rand::random::<u64>);
    eprintln!("{variable}={seed}");
    seed
}
