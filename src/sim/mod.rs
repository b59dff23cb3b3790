//! The engine's simulation: the real intake, approval, assign, broadcast, confirm, fate and recovery
//! on the real store with real keys, against a chain modelled in this process. Time, chance and every
//! mishap come from one seed, so that a history that fails can be played again.
//!
//! `BURSAR_TEST_SEED=7 cargo test --lib one_history -- --nocapture` plays one history and tells it.
//! `BURSAR_TEST_HISTORIES` says how many the other tests play; with `BURSAR_TEST_FOR_S` they play
//! fresh ones for so many seconds (`script/soak`).

mod chain;
mod history;
mod oracle;
#[path = "../../tests/support/tally.rs"]
mod tally;
mod wallet;
mod wire;

pub(crate) use wire::{after_commit, before_commit};

use std::{
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{Connection as _, Executor as _};

use self::{
    history::{History, Played, write_policies},
    tally::Tally,
};
use crate::store::testing::Postgres;

/// Fixed histories that every run of the tests plays on SQLite, and as many of seeds that it draws.
const HISTORIES: u64 = 300;
/// The same on PostgreSQL, where each commit waits for a disk.
const HISTORIES_POSTGRES: u64 = 30;
/// Seeds of histories that once failed, played before all others. What a seed draws depends on what
/// there is to draw from: one that was found by chance is worth keeping only while that stays.
const ONCE_FAILED: [u64; 2] = [
    // A block's hash from one node and its depth from another, on a branch that the first had left.
    5_167_480_620_565_522_223,
    // Every node behind the one that showed a payment's block: it was called missing.
    16_163_570_827_418_359_789,
];
/// Real time one history may take, on the slowest machine: beyond it something waits for ever.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two lines that say how far it is.
const REPORT: Duration = Duration::from_secs(30);

/// A directory in memory where there is one: an fsync is no part of what is simulated.
fn scratch() -> tempfile::TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// Plays one history, on a file of its own or in the emptied database at `postgres`.
fn play(seed: u64, policies: &Path, postgres: Option<&str>) -> Played {
    let dir = scratch();
    let file = format!("sqlite:{}", dir.path().join("bursar.db").display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let history = History::new(seed, dir.path(), policies, postgres.unwrap_or(&file));
    let outside = history.shared.clone();
    let played = runtime.block_on(async {
        if let Some(url) = postgres {
            sqlx::any::install_default_drivers();
            let mut database = sqlx::AnyConnection::connect(url).await.unwrap();
            database.execute("DROP SCHEMA public CASCADE").await.unwrap();
            database.execute("CREATE SCHEMA public").await.unwrap();
            database.close().await.unwrap();
        }
        tokio::time::timeout(PATIENCE, history.play()).await
    });
    played.unwrap_or_else(|_| {
        panic!("history {seed} hangs:\n{}", outside.lock().story.join("\n"));
    })
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|text| text.parse().ok())
}

/// What many histories came to.
#[derive(Default)]
struct Sums {
    tally: Tally,
    histories: AtomicU64,
    payments: AtomicU64,
    kills: AtomicU64,
    failed: Mutex<Option<(u64, Played)>>,
}

impl Sums {
    fn add(&self, seed: u64, played: Played) {
        self.histories.fetch_add(1, Ordering::Relaxed);
        self.payments.fetch_add(played.payments, Ordering::Relaxed);
        self.kills.fetch_add(played.kills, Ordering::Relaxed);
        self.tally.add(|counts| {
            counts.histories += 1;
            counts.kills += played.kills;
            counts.duplicates += played.verdict.duplicates;
            counts.false_failures += played.verdict.false_failures;
            counts.stuck += played.verdict.stuck;
        });
        if !played.verdict.faults.is_empty() {
            self.failed.lock().unwrap().get_or_insert((seed, played));
        }
    }

    fn line(&self) -> String {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        format!(
            "{} histories, {} payments, {} kills",
            read(&self.histories),
            read(&self.payments),
            read(&self.kills)
        )
    }
}

/// Plays the fixed histories and as many drawn ones, or drawn ones for as long as is asked, on every
/// core. Fails with the story of the first history that fails.
fn play_all(on: &str, wanted: u64) {
    let wanted = number("BURSAR_TEST_HISTORIES").unwrap_or(wanted);
    let lasts = number("BURSAR_TEST_FOR_S").map(Duration::from_secs);
    let drawn = number("BURSAR_TEST_SEED").unwrap_or_else(rand::random);
    eprintln!("on {on}, drawn from BURSAR_TEST_SEED={drawn}");
    let started = Instant::now();
    let taken = AtomicU64::new(0);
    let next = || {
        let n = taken.fetch_add(1, Ordering::Relaxed);
        if let Some(seed) = usize::try_from(n).ok().and_then(|n| ONCE_FAILED.get(n)) {
            return Some(*seed);
        }
        let n = n - ONCE_FAILED.len() as u64;
        match lasts {
            Some(lasts) => (started.elapsed() < lasts).then(|| drawn.wrapping_add(n)),
            None if n < wanted => Some(n),
            None => (n < 2 * wanted).then(|| drawn.wrapping_add(n)),
        }
    };
    let home = scratch();
    let policies = write_policies(home.path());
    let sums = Sums::default();
    let reported = Mutex::new(started);
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                let server = (on == "postgres").then(Postgres::start);
                while let Some(seed) = next() {
                    if sums.failed.lock().unwrap().is_some() {
                        return;
                    }
                    sums.add(seed, play(seed, &policies, server.as_ref().map(Postgres::url)));
                    let mut reported = reported.lock().unwrap();
                    if lasts.is_some() && reported.elapsed() >= REPORT {
                        *reported = Instant::now();
                        eprintln!("{:6.0?} on {on}: {}", started.elapsed(), sums.line());
                    }
                }
            });
        }
    });
    sums.tally.judged();
    sums.tally.tell(on);
    eprintln!("on {on}: {} in {:.0?}", sums.line(), started.elapsed());
    if let Some((seed, played)) = sums.failed.into_inner().unwrap() {
        panic!(
            "{}\n{:#?}\nhistory {seed} failed on {on}. Play it again: \
             BURSAR_TEST_SEED={seed} BURSAR_TEST_STORE={on} cargo test --lib one_history -- --nocapture",
            played.story.join("\n"),
            played.verdict
        );
    }
}

#[test]
fn histories_on_sqlite_pay_once_each() {
    play_all("sqlite", HISTORIES);
}

#[test]
fn histories_on_postgres_pay_once_each() {
    play_all("postgres", HISTORIES_POSTGRES);
}

#[test]
fn one_history() {
    let seed = number("BURSAR_TEST_SEED").unwrap_or_else(rand::random);
    eprintln!("BURSAR_TEST_SEED={seed}");
    let postgres = std::env::var("BURSAR_TEST_STORE").is_ok_and(|store| store == "postgres");
    let server = postgres.then(Postgres::start);
    let home = scratch();
    let policies = write_policies(home.path());
    let played = play(seed, &policies, server.as_ref().map(Postgres::url));
    eprintln!("{}", played.story.join("\n"));
    assert!(played.verdict.faults.is_empty(), "{:#?}", played.verdict);
}
