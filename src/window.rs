//! Strict rolling windows: the arithmetic of the contract's rings.
//!
//! Time is cut into steps of equal length, counted from 1970. A window keeps the sums of its last
//! `LANES` steps. With `T = (LANES - 1)` steps the bound is: **if every addition was preceded by a
//! check `used + amount <= limit`, no interval of length `T`, wherever it starts, sees more than
//! the limit.** Take the last payment of the interval: the interval lies inside the `LANES` steps
//! whose sum was checked then. The price is that capacity returns late, between `T` and `T` plus
//! one step after it was used; nothing is ever undercounted.
//!
//! The contract keeps the step's index modulo 2^16 (`PolicyWallet`, "Ring"), which can make it hold
//! old lanes longer after an idle span of 65,536 steps; here the index is absolute.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Sums over the last `LANES` steps. Amounts are base units, or 1 a time where it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window<const LANES: usize> {
    /// Length of a step in seconds, at least 1.
    step_s: u64,
    /// The newest step that was added to: unix seconds divided by `step_s`.
    index: u64,
    /// Sum of the step `index - n` in lane `n`.
    lanes: [u64; LANES],
}

/// A window over money of one agent: strict over 4 steps.
pub type AgentWindow = Window<5>;
/// The window over the whole wallet: strict over 3 steps.
pub type WalletWindow = Window<4>;
/// A window that counts payments: strict over 12 steps.
pub type CountWindow = Window<13>;

impl AgentWindow {
    /// The agent's rolling 24 hours, as in the contract: steps of 6 hours.
    #[must_use]
    pub const fn day() -> Self {
        Self::with_step(21_600)
    }

    /// The agent's rolling 30 days, as in the contract: steps of 7.5 days.
    #[must_use]
    pub const fn month() -> Self {
        Self::with_step(648_000)
    }
}

impl WalletWindow {
    /// The wallet's rolling 24 hours, as in the contract: steps of 8 hours.
    #[must_use]
    pub const fn wallet_day() -> Self {
        Self::with_step(28_800)
    }
}

impl CountWindow {
    /// Counts over any `seconds`, 1 or more. The step is a twelfth, rounded up, so the window is
    /// never shorter than asked.
    #[must_use]
    pub const fn counting(seconds: u64) -> Self {
        Self::with_step(seconds.div_ceil(12))
    }
}

impl<const LANES: usize> Window<LANES> {
    /// Makes an empty window with steps of `step_s` seconds (0 is read as 1).
    #[must_use]
    pub const fn with_step(step_s: u64) -> Self {
        Self { step_s: if step_s == 0 { 1 } else { step_s }, index: 0, lanes: [0; LANES] }
    }

    /// Returns the length `T` in seconds of the intervals that the bound speaks of.
    #[must_use]
    pub const fn length_s(&self) -> u64 {
        self.step_s * (LANES as u64 - 1)
    }

    /// Returns what counts at `now_s` (unix seconds). A clock that went back frees nothing.
    #[must_use]
    pub fn used(&self, now_s: u64) -> u64 {
        self.used_after(now_s / self.step_s)
    }

    /// Adds what happened at `now_s` (unix seconds).
    ///
    /// Additions may come out of order, as finality does: an older one lands in its own step, or
    /// nowhere if that step has left the window. Sums stop at `u64::MAX`.
    pub fn add(&mut self, now_s: u64, amount: u64) {
        let step = now_s / self.step_s;
        if step > self.index {
            let shift = usize::try_from(step - self.index).unwrap_or(LANES).min(LANES);
            self.lanes.copy_within(..LANES - shift, shift);
            self.lanes[..shift].fill(0);
            self.index = step;
        }
        let age = usize::try_from(self.index - step).unwrap_or(LANES);
        if let Some(lane) = self.lanes.get_mut(age) {
            *lane = lane.saturating_add(amount);
        }
    }

    /// Takes back what was added for `now_s` and did not happen; it may have left the window.
    pub fn take_back(&mut self, now_s: u64, amount: u64) {
        let age = self.index.checked_sub(now_s / self.step_s);
        let lane = age.and_then(|age| self.lanes.get_mut(usize::try_from(age).ok()?));
        if let Some(lane) = lane {
            *lane = lane.saturating_sub(amount);
        }
    }

    /// Returns the seconds to wait from `now_s` until `amount` fits under `limit` if nothing is
    /// added meanwhile: 0 where it fits now, `None` where it never will (`amount > limit`).
    #[must_use]
    pub fn retry_after(&self, now_s: u64, limit: u64, amount: u64) -> Option<u64> {
        let room = limit.checked_sub(amount)?;
        let step = (now_s / self.step_s).max(self.index);
        if self.used_after(now_s / self.step_s) <= room {
            return Some(0);
        }
        // After LANES steps the window is empty, and an empty window has room.
        (1..=LANES as u64)
            .map(|wait| step + wait)
            .find(|later| self.used_after(*later) <= room)
            .map(|later| (later * self.step_s).saturating_sub(now_s))
    }

    /// Returns the seconds until something comes back; `None` if nothing is used.
    #[must_use]
    pub fn returns_in(&self, now_s: u64) -> Option<u64> {
        let used = self.used(now_s);
        let limit = used.checked_sub(1)?;
        self.retry_after(now_s, limit, 0)
    }

    fn used_after(&self, step: u64) -> u64 {
        let gone = usize::try_from(step.saturating_sub(self.index)).unwrap_or(LANES).min(LANES);
        self.lanes[..LANES - gone].iter().fold(0, |sum: u64, lane| sum.saturating_add(*lane))
    }
}

// Compact: `[step seconds, index, [lanes, newest first, without the empty tail]]`.
impl<const LANES: usize> Serialize for Window<LANES> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let filled = LANES - self.lanes.iter().rev().take_while(|lane| **lane == 0).count();
        (self.step_s, self.index, &self.lanes[..filled]).serialize(serializer)
    }
}

impl<'de, const LANES: usize> Deserialize<'de> for Window<LANES> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (step_s, index, filled) = <(u64, u64, Vec<u64>)>::deserialize(deserializer)?;
        if step_s == 0 || filled.len() > LANES {
            return Err(D::Error::custom(format!("a window of {LANES} lanes and a step above 0")));
        }
        let mut lanes = [0; LANES];
        lanes[..filled.len()].copy_from_slice(&filled);
        Ok(Self { step_s, index, lanes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600;

    #[test]
    fn capacity_returns_between_24_and_30_hours() {
        let mut day = Window::day();
        assert_eq!(day.length_s(), 24 * HOUR);
        day.add(6 * HOUR, 100); // at the very start of step 1
        assert_eq!(day.used(6 * HOUR), 100);
        assert_eq!(day.used(36 * HOUR - 1), 100);
        assert_eq!(day.used(36 * HOUR), 0);
        let mut day = Window::day();
        day.add(12 * HOUR - 1, 100); // at the very end of step 1
        assert_eq!(day.used(36 * HOUR - 1), 100);
        assert_eq!(day.used(36 * HOUR), 0);
    }

    #[test]
    fn says_when_to_come_back() {
        let mut day = Window::day();
        day.add(0, 60);
        day.add(7 * HOUR, 30);
        assert_eq!(day.retry_after(8 * HOUR, 100, 10), Some(0));
        assert_eq!(day.retry_after(8 * HOUR, 100, 11), Some(22 * HOUR)); // step 0 leaves at 30 h
        assert_eq!(day.retry_after(8 * HOUR, 100, 71), Some(28 * HOUR)); // step 1 leaves at 36 h
        assert_eq!(day.retry_after(8 * HOUR, 100, 101), None);
        assert_eq!(day.returns_in(8 * HOUR), Some(22 * HOUR));
        assert_eq!(Window::day().returns_in(8 * HOUR), None);
    }

    #[test]
    fn late_and_stale_additions_land_in_their_own_step() {
        let mut window = Window::<4>::with_step(10);
        window.add(35, 1);
        window.add(12, 2); // two steps late
        window.add(0, 4); // three steps late: the last lane
        assert_eq!(window.used(35), 7);
        assert_eq!(window.used(40), 3);
        window.add(200, 8);
        window.add(12, 16); // gone
        assert_eq!(window.used(200), 8);
        assert_eq!(window.used(5), 8, "a clock that went back frees nothing");
        window.take_back(12, 16); // gone, and nothing else goes with it
        window.take_back(210, 16); // never was
        assert_eq!(window.used(200), 8);
        window.take_back(200, 3);
        assert_eq!(window.used(200), 5);
    }

    #[test]
    fn the_written_form_is_short_and_checked() {
        let mut window = Window::wallet_day();
        window.add(28_800 * 7, 5);
        let text = serde_json::to_string(&window).unwrap();
        assert_eq!(text, "[28800,7,[5]]");
        assert_eq!(serde_json::from_str::<WalletWindow>(&text).unwrap(), window);
        assert!(serde_json::from_str::<WalletWindow>("[28800,7,[1,2,3,4,5]]").is_err());
        assert!(serde_json::from_str::<WalletWindow>("[0,7,[1]]").is_err());
    }

    #[test]
    fn sums_stop_instead_of_wrapping() {
        let mut window = Window::<4>::with_step(1);
        window.add(5, u64::MAX);
        window.add(6, u64::MAX);
        assert_eq!(window.used(6), u64::MAX);
        assert_eq!(window.used(u64::MAX), 0);
    }

    /// Pays greedily under the window and returns what was accepted, as (time, amount).
    fn pay<const LANES: usize>(
        mut window: Window<LANES>,
        limit: u64,
        wishes: &[(u64, u64)],
    ) -> (Window<LANES>, Vec<(u64, u64)>) {
        let mut now = 1_000_000;
        let mut accepted = Vec::new();
        for (gap, amount) in wishes {
            now += gap;
            if window.used(now) + amount <= limit {
                window.add(now, *amount);
                accepted.push((now, *amount));
            }
        }
        (window, accepted)
    }

    fn check<const LANES: usize>(
        step: u64,
        limit: u64,
        wishes: &[(u64, u64)],
    ) -> Result<(), TestCaseError> {
        let (window, accepted) = pay(Window::<LANES>::with_step(step), limit, wishes);
        let length = window.length_s();
        for (end, _) in &accepted {
            // Every interval (end - T, end], and so every interval of length T.
            let inside = accepted.iter().filter(|(at, _)| *at <= *end && at + length > *end);
            prop_assert!(inside.map(|(_, amount)| amount).sum::<u64>() <= limit);
        }
        if let Some((last, _)) = accepted.last() {
            // Nothing younger than T is forgotten, nothing older than T plus a step is held.
            let young = accepted.iter().filter(|(at, _)| at + length > *last);
            let held = accepted.iter().filter(|(at, _)| at + length + step > *last);
            let used = window.used(*last);
            prop_assert!(young.map(|(_, amount)| amount).sum::<u64>() <= used);
            prop_assert!(used <= held.map(|(_, amount)| amount).sum::<u64>());
            // The wait is exact: it fits then, and not a second before.
            for amount in [0, 1, limit / 2, limit] {
                let wait = window.retry_after(*last, limit, amount).unwrap();
                prop_assert!(window.used(last + wait) + amount <= limit);
                prop_assert!(wait == 0 || window.used(last + wait - 1) + amount > limit);
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn no_interval_sees_more_than_the_limit(
            step in 1_u64..50,
            limit in 1_u64..200,
            wishes in prop::collection::vec((0_u64..120, 1_u64..100), 1..80),
        ) {
            check::<4>(step, limit, &wishes)?;
            check::<5>(step, limit, &wishes)?;
            check::<13>(step, limit, &wishes)?;
        }

        #[test]
        fn order_of_additions_does_not_matter(
            mut facts in prop::collection::vec((0_u64..300, 1_u64..100), 1..40),
        ) {
            let fold = |facts: &[(u64, u64)]| {
                let mut window = Window::<5>::with_step(20);
                window.add(300, 0);
                facts.iter().for_each(|(at, amount)| window.add(*at, *amount));
                window
            };
            let forward = fold(&facts);
            facts.reverse();
            prop_assert_eq!(forward, fold(&facts));
        }
    }
}
