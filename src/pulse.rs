//! Pulses: a task that hangs is noticed, not only one that panics.
//!
//! Each task of the daemon has a pulse. It rests while it waits for something to do; else it beats,
//! with each turn, each answer of a node and each commit. A guard on a thread of its own, which no
//! task can hold up, looks at all of them. A task that works and does not beat for `hung_after_s`
//! hangs: the daemon has to end then, since nobody else does what that task should.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use tokio::sync::oneshot;

use crate::clock::Clock;

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// What one look can add to the time a task has been still: that the clock was moved, or the whole
/// process slept, says nothing against a task.
const STEP: Duration = Duration::from_secs(10);

tokio::task_local! {
    static OWN: Arc<Pulse>;
}

/// One task's pulse.
#[derive(Debug)]
pub(crate) struct Pulse {
    name: &'static str,
    beats: AtomicU64,
    works: AtomicBool,
}

/// The running task waits for something to do.
pub(crate) fn rest() {
    let _ = OWN.try_with(|own| own.works.store(false, Ordering::Relaxed));
}

/// The running task has something to do.
pub(crate) fn work() {
    beat();
    let _ = OWN.try_with(|own| own.works.store(true, Ordering::Relaxed));
}

/// The running task gets on with what it does.
pub(crate) fn beat() {
    let _ = OWN.try_with(|own| own.beats.fetch_add(1, Ordering::Relaxed));
}

/// Lets a part of the running task, which has a thread of its own, beat for the whole.
pub(crate) fn shared<T>(part: impl Future<Output = T>) -> impl Future<Output = T> {
    let own = OWN.try_with(Arc::clone).ok();
    async move {
        match own {
            Some(own) => OWN.scope(own, part).await,
            None => part.await,
        }
    }
}

impl Pulse {
    /// Makes a pulse at rest.
    pub(crate) fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self { name, beats: AtomicU64::new(0), works: AtomicBool::new(false) })
    }

    /// Runs a task that has this pulse.
    pub(crate) async fn of<T>(self: Arc<Self>, task: impl Future<Output = T>) -> T {
        OWN.scope(self, task).await
    }
}

/// A pulse as it was seen last.
#[derive(Debug)]
struct Seen {
    pulse: Arc<Pulse>,
    beats: u64,
    still: Duration,
}

/// Who looks at the pulses.
#[derive(Debug)]
pub(crate) struct Guard {
    clock: Clock,
    limit: Duration,
    last: Duration,
    seen: Vec<Seen>,
}

impl Guard {
    /// Makes a guard over tasks that may be still for so long.
    pub(crate) fn new(clock: Clock, limit: Duration, pulses: Vec<Arc<Pulse>>) -> Self {
        let seen = pulses.into_iter().map(|pulse| Seen { pulse, beats: 0, still: Duration::ZERO });
        Self { last: clock.steady(), clock, limit, seen: seen.collect() }
    }

    /// Looks once; returns the name of a task that hangs.
    fn look(&mut self) -> Option<&'static str> {
        let now = self.clock.steady();
        let step = now.saturating_sub(self.last).min(STEP);
        self.last = now;
        for Seen { pulse, beats, still } in &mut self.seen {
            let now = pulse.beats.load(Ordering::Relaxed);
            if !pulse.works.load(Ordering::Relaxed) || now != *beats {
                (*beats, *still) = (now, Duration::ZERO);
                continue;
            }
            *still += step;
            if *still >= self.limit {
                return Some(pulse.name);
            }
        }
        None
    }

    /// Looks until a task hangs, whose name it sends, or until the other end of `stop` is gone.
    pub(crate) fn run(mut self, stop: &Receiver<()>, hung: oneshot::Sender<&'static str>) {
        while stop.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            if let Some(name) = self.look() {
                // Nobody waits for it where the daemon is ending anyway.
                let _ = hung.send(name);
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_who_works_and_does_not_get_on_hangs() {
        let (clock, hand) = Clock::held(1_000);
        let (pulse, idle) = (Pulse::new("confirm"), Pulse::new("notify"));
        let pulses = vec![Arc::clone(&pulse), Arc::clone(&idle)];
        let mut guard = Guard::new(clock, Duration::from_secs(60), pulses);
        let mut looks = |count: u32, step_s: u64| {
            let look = |_| {
                hand.advance(Duration::from_secs(step_s));
                guard.look()
            };
            (0..count).find_map(look)
        };
        Arc::clone(&idle)
            .of(async {
                work();
                rest()
            })
            .await;
        // At rest, it may be still for days.
        assert_eq!(looks(10, 86_400), None);
        pulse
            .of(async move {
                work();
                // Moved by days, a clock says no more than one look's worth.
                assert_eq!(looks(5, 86_400), None);
                shared(async { beat() }).await;
                assert_eq!(looks(59, 1), None);
                beat();
                assert_eq!(looks(60, 1), None, "the first look sees the beat");
                assert_eq!(looks(1, 1), Some("confirm"));
                rest();
                assert_eq!(looks(100, 10), None);
            })
            .await;
    }

    #[test]
    fn the_guard_s_thread_tells_and_ends() {
        let (clock, hand) = Clock::held(1_000);
        let pulse = Pulse::new("assign");
        pulse.works.store(true, Ordering::Relaxed);
        let guard = Guard::new(clock, Duration::from_secs(20), vec![pulse]);
        let (keep, stop) = std::sync::mpsc::channel();
        let (tell, mut told) = oneshot::channel();
        let thread = std::thread::spawn(move || guard.run(&stop, tell));
        let name = loop {
            hand.advance(Duration::from_secs(5));
            match told.try_recv() {
                Ok(name) => break name,
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        assert_eq!(name, "assign");
        drop(keep);
        thread.join().unwrap();
    }
}
