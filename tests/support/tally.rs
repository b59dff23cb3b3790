//! What the cases counted, one JSON line each, in the file that `BURSAR_TEST_COUNTS` names.

use std::{
    fs::OpenOptions,
    io::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::json;

/// The counts of one world.
#[derive(Debug, Default)]
pub struct Counts {
    /// Daemons that were killed, from outside or at a crash point.
    pub kills: u64,
    /// Daemons that were stopped in the middle and went on later.
    pub pauses: u64,
    /// Random histories that were played.
    pub histories: u64,
    /// Transfers that no payment explains.
    pub duplicates: u64,
    /// Transfers of payments that did not end as paid.
    pub false_failures: u64,
    /// Payments and transactions that did not come to their end by themselves.
    pub stuck: u64,
    judged: bool,
}

/// Counts, shared by what looks at a world.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Counts>);

impl Tally {
    pub fn add(&self, add: impl FnOnce(&mut Counts)) {
        add(&mut self.lock());
    }

    /// Only what the oracle has seen is told.
    pub fn judged(&self) {
        self.lock().judged = true;
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends the line of the running test, named by its thread.
    pub fn tell(&self, store: &str) {
        let counts = self.lock();
        let Some(file) = std::env::var_os("BURSAR_TEST_COUNTS") else { return };
        if !counts.judged {
            return;
        }
        let thread = std::thread::current();
        let case = thread.name().and_then(|name| name.rsplit("::").next()).unwrap_or("unnamed");
        let line = json!({
            "case": case,
            "store": store,
            "kills": counts.kills,
            "pauses": counts.pauses,
            "histories": counts.histories,
            "duplicates": counts.duplicates,
            "false_failures": counts.false_failures,
            "stuck": counts.stuck,
        });
        let file = OpenOptions::new().create(true).append(true).open(file);
        // One write a line: tests run side by side.
        file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes())).unwrap();
    }
}
