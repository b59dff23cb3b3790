//! The loop breaker of calls: the same method and URL, its query left out, paid or failing again and again.
//!
//! In memory: what was paid is read from the store at start, what failed is forgotten with the
//! process. Bounded: past [`MOST`] calls those that count least are forgotten.

use std::collections::HashMap;

use alloy::primitives::{B256, keccak256};
use serde_json::json;

use crate::{
    payment::AgentId,
    policy::FetchLoops,
    refusal::{Code, Refusal},
    window::CountWindow,
};

/// Calls that are counted, of all agents.
const MOST: usize = 16_384;

/// What is counted as one: whose call, which method, which URL without its query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place(B256);

impl Place {
    pub(super) fn new(agent: &AgentId, method: &str, url: &str) -> Self {
        let place = url.split('?').next().unwrap_or(url);
        Self(keccak256(json!([agent.as_str(), method, place]).to_string()))
    }
}

#[derive(Debug)]
struct Counts {
    paid: CountWindow,
    failed: CountWindow,
}

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Breaker(HashMap<Place, Counts>);

impl Breaker {
    /// May this be called once more?
    ///
    /// # Errors
    /// `loop_detected`, with the count and when to come back.
    pub(super) fn check(
        &self,
        place: Place,
        loops: &FetchLoops,
        now_s: u64,
    ) -> Result<(), Refusal> {
        let Some(counts) = self.0.get(&place) else { return Ok(()) };
        let within = loops.within_s;
        for (rule, window, limit, what, hint) in [
            (
                "fetch.loops.same_call",
                &counts.paid,
                u64::from(loops.same_call),
                "was paid for",
                "this looks like a loop: find out what the earlier calls bought",
            ),
            (
                "fetch.loops.failures",
                &counts.failed,
                u64::from(loops.failures),
                "failed",
                "do not repeat it: read why the earlier calls failed",
            ),
        ] {
            let used = window.used(now_s);
            if used >= limit {
                let detail = format!("this call {what} {used} times within {within} s");
                let refusal = Refusal::new(Code::LoopDetected, detail).rule(rule);
                let refusal = refusal.room(limit, used, 0).hint(hint);
                let wait = window.retry_after(now_s, limit, 1);
                return Err(wait.into_iter().fold(refusal, Refusal::retry_after));
            }
        }
        Ok(())
    }

    fn counts(&mut self, place: Place, loops: &FetchLoops, now_s: u64) -> &mut Counts {
        if self.0.len() >= MOST && !self.0.contains_key(&place) {
            let used = |counts: &Counts| counts.paid.used(now_s) + counts.failed.used(now_s);
            self.0.retain(|_, counts| used(counts) > 0);
            if self.0.len() >= MOST {
                let mut by_use: Vec<(u64, Place)> =
                    self.0.iter().map(|(place, counts)| (used(counts), *place)).collect();
                by_use.sort_unstable_by_key(|(used, _)| *used);
                for (_, place) in &by_use[..MOST / 4] {
                    self.0.remove(place);
                }
            }
        }
        // A policy whose span changed counts from then on.
        let counts = self.0.entry(place).or_insert_with(|| Counts::new(loops));
        if counts.paid.length_s() != CountWindow::counting(loops.within_s).length_s() {
            *counts = Counts::new(loops);
        }
        counts
    }

    /// Counts a call that is paid.
    pub(super) fn paid(&mut self, place: Place, loops: &FetchLoops, now_s: u64) {
        self.counts(place, loops, now_s).paid.add(now_s, 1);
    }

    /// Counts a call that asked for money and delivered nothing.
    pub(super) fn failed(&mut self, place: Place, loops: &FetchLoops, now_s: u64) {
        self.counts(place, loops, now_s).failed.add(now_s, 1);
    }
}

impl Counts {
    const fn new(loops: &FetchLoops) -> Self {
        Self {
            paid: CountWindow::counting(loops.within_s),
            failed: CountWindow::counting(loops.within_s),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPS: FetchLoops = FetchLoops { same_call: 3, failures: 2, within_s: 60 };
    const NOW: u64 = 1_800_000_000;

    fn place(path: &str) -> Place {
        Place::new(&"atlas".parse().unwrap(), "GET", &format!("https://a.example{path}?q"))
    }

    #[test]
    fn so_many_are_let_through_and_then_none_until_the_span_is_over() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            breaker.check(place("/x"), &LOOPS, NOW).unwrap();
            breaker.paid(place("/x"), &LOOPS, NOW);
        }
        let refusal = breaker.check(place("/x"), &LOOPS, NOW).unwrap_err();
        assert_eq!(refusal.code, Code::LoopDetected);
        let wait = refusal.retry_after.unwrap();
        assert!(breaker.check(place("/x"), &LOOPS, NOW + wait - 1).is_err());
        assert!(breaker.check(place("/x"), &LOOPS, NOW + wait).is_ok());
        assert!(breaker.check(place("/y"), &LOOPS, NOW).is_ok());
    }

    #[test]
    fn failures_count_apart() {
        let mut breaker = Breaker::default();
        breaker.failed(place("/x"), &LOOPS, NOW);
        breaker.paid(place("/x"), &LOOPS, NOW);
        assert!(breaker.check(place("/x"), &LOOPS, NOW).is_ok());
        breaker.failed(place("/x"), &LOOPS, NOW);
        let refusal = breaker.check(place("/x"), &LOOPS, NOW).unwrap_err();
        assert_eq!(refusal.rule.as_deref(), Some("fetch.loops.failures"));
    }

    #[test]
    fn a_flood_of_places_does_not_grow_without_end_or_hide_a_loop() {
        let mut breaker = Breaker::default();
        for _ in 0..3 {
            breaker.paid(place("/loop"), &LOOPS, NOW);
        }
        for n in 0..2 * MOST {
            breaker.failed(place(&format!("/{n}")), &LOOPS, NOW);
        }
        assert!(breaker.0.len() <= MOST);
        assert!(breaker.check(place("/loop"), &LOOPS, NOW).is_err());
    }
}
