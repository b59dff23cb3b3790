//! The time: the one place that asks for it, and the seam through which tests move it.
//!
//! Whatever the daemon decides by time (deadlines, schedules, windows, retention) reads the
//! [`Clock`] it was started with. How often its tasks look is left to real timers: a test that moves
//! a held clock by days sees what is due at the next look.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;

/// Where the time comes from: the system, or a [`Hand`]. Cheap to clone; clones agree.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<AtomicI64>>);

/// Moves a held clock. Nothing else does.
#[derive(Clone, Debug)]
pub struct Hand(Arc<AtomicI64>);

impl Clock {
    /// Returns the system's clock.
    #[must_use]
    pub const fn system() -> Self {
        Self(None)
    }

    /// Makes a clock that stands still at `at_ms`, milliseconds since 1970, until its hand moves it.
    #[must_use]
    pub fn held(at_ms: i64) -> (Self, Hand) {
        let hand = Arc::new(AtomicI64::new(at_ms));
        (Self(Some(Arc::clone(&hand))), Hand(hand))
    }

    /// Returns milliseconds since 1970.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.0
            .as_ref()
            .map_or_else(|| Timestamp::now().as_millisecond(), |hand| hand.load(Ordering::SeqCst))
    }

    /// Returns seconds since 1970.
    #[must_use]
    pub fn now_s(&self) -> u64 {
        u64::try_from(self.now_ms().div_euclid(1_000)).unwrap_or(0)
    }

    /// Returns the time since some moment of this process. It never goes back, whoever sets the
    /// time of day: for pauses between two tries.
    #[must_use]
    pub fn steady(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        self.0.as_ref().map_or_else(
            || START.get_or_init(Instant::now).elapsed(),
            |hand| Duration::from_millis(hand.load(Ordering::SeqCst).try_into().unwrap_or(0)),
        )
    }
}

impl Hand {
    /// Moves the clock on.
    pub fn advance(&self, by: Duration) {
        let by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.0.fetch_add(by_ms, Ordering::SeqCst);
    }
}

/// Reads stored milliseconds.
#[must_use]
pub fn at_ms(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Reads unix seconds, stopping at the year 9999.
#[must_use]
pub fn at_s(seconds: u64) -> Timestamp {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| Timestamp::from_second(seconds).ok())
        .unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_clock_moves_by_its_hand_alone() {
        let (clock, hand) = Clock::held(1_700_000_000_999);
        let other = clock.clone();
        assert_eq!((clock.now_ms(), clock.now_s()), (1_700_000_000_999, 1_700_000_000));
        let before = clock.steady();
        hand.advance(Duration::from_secs(3 * 86_400));
        assert_eq!(other.now_s(), 1_700_000_000 + 3 * 86_400);
        assert_eq!(clock.steady() - before, Duration::from_secs(3 * 86_400));
    }

    #[test]
    fn the_system_s_clock_goes_on() {
        let clock = Clock::system();
        let (ms, steady) = (clock.now_ms(), clock.steady());
        assert!(clock.now_ms() >= ms && clock.steady() >= steady);
        assert!(ms > 1_700_000_000_000);
    }
}
