//! Case 22: the disk under a SQLite store is full, held, read-only, or torn.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write as _,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bursar::{
    client::ClientError,
    payment::{FundsMoved, PaymentId, State},
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use sqlx::{Connection as _, Executor as _, Row as _, SqliteConnection};

use crate::{
    engine::crashes::{LANE_LIMIT, insist, load, promises_are_kept},
    support::{Backend, Plan, World, request, seed},
};

/// Steps of the full disk, a page each.
const STEPS: u32 = 7;
/// Times a write breaks off.
const BREAKS: u32 = 8;

fn file(world: &World) -> PathBuf {
    world.database().strip_prefix("sqlite:").unwrap().into()
}

/// The file beside it: `-wal` or `-shm`.
fn beside(world: &World, end: &str) -> PathBuf {
    let mut name = file(world).into_os_string();
    name.push(end);
    name.into()
}

async fn connect(world: &World) -> SqliteConnection {
    SqliteConnection::connect(&world.database()).await.unwrap()
}

async fn pages(world: &World) -> i64 {
    let mut connection = connect(world).await;
    let pages = connection.fetch_one("PRAGMA page_count").await.unwrap().get(0);
    connection.close().await.unwrap();
    pages
}

/// A refusal that says that no money moved, and that asking again helps.
fn moved_nothing(error: ClientError) {
    let ClientError::Refused(problem) = error else { panic!("not refused, but: {error}") };
    assert_eq!(problem.status, 503, "{problem:?}");
    assert_eq!(problem.refusal.funds_moved, FundsMoved::No, "{problem:?}");
    assert!(problem.retryable && problem.refusal.retry_after.is_some(), "{problem:?}");
}

#[tokio::test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
async fn case_22_a_disk_that_is_full_at_each_write() {
    let mut world = Plan::new().on(Backend::Sqlite).without_daemon().await;
    let lever = file(&world).with_extension("pages");
    world.env.push(("BURSAR_FAULT_PAGES", lever.clone().into_os_string()));
    world.restart().await;
    let first = world.pay("atlas", "acme-data", "1", "before").await;
    world.until(&first, State::Paid).await;

    let client = world.agent("atlas");
    let body = |step: u32, n: u32| request("acme-data", &format!("2.{step:02}{n}"));
    let (mut promised, mut refused) = (BTreeMap::<String, PaymentId>::new(), 0);
    for step in 0..STEPS {
        // A page more each time: it runs out at another statement, of another task.
        fs::write(&lever, (pages(&world).await + i64::from(step)).to_string()).unwrap();
        for n in 0..3 {
            let key = format!("full-{step}-{n}");
            match client.submit(&body(step, n), &key).await {
                Ok(payment) => drop(promised.insert(key, payment.id)),
                Err(error) => {
                    moved_nothing(error);
                    refused += 1;
                }
            }
        }
        // Room for signing and booking, or not.
        tokio::time::sleep(Duration::from_millis(250)).await;
        if step == STEPS / 2 {
            // A daemon that starts now goes on, or says what is wrong and ends.
            world.kill();
            world.try_restart().await;
            fs::remove_file(&lever).unwrap();
            world.revive().await;
        }
    }
    assert!(refused > 0, "it was never full");
    let known = world.payments().await;
    assert_eq!(known.len(), promised.len() + 1, "what was refused is not there");

    // Room again: everybody is served, and what was promised is what is there.
    fs::remove_file(&lever).unwrap();
    world.env.clear();
    world.kill();
    world.restart().await;
    for (step, n) in (0..STEPS).flat_map(|step| (0..3).map(move |n| (step, n))) {
        let key = format!("full-{step}-{n}");
        let payment = insist(&client, &body(step, n), &key).await;
        assert_eq!(*promised.entry(key).or_insert(payment.id), payment.id);
        world.until(&payment, State::Paid).await;
    }
    world.judge().await;
}

/// The kernel breaks a write off in its middle and ends the daemon there: pages and log are torn
/// where no crash point is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_22_writes_that_break_off_in_their_middle() {
    let mut rng = StdRng::seed_from_u64(seed("BURSAR_TEST_SEED"));
    let mut world = Plan::new().on(Backend::Sqlite).start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let lanes = load(&world, &stop, 0..LANE_LIMIT);
    for _ in 0..BREAKS {
        tokio::time::sleep(Duration::from_millis(rng.gen_range(50..300))).await;
        let size = fs::metadata(file(&world)).unwrap().len();
        let limit = format!("--fsize={}", rng.gen_range(1..size.max(2)));
        let pid = world.daemon().pid().to_string();
        let done = Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap();
        assert!(done.success());
        assert_eq!(world.died().await, None, "by a signal");
        // And behind what was written, what the disk made of it.
        let mut garbage = vec![0_u8; rng.gen_range(1..9_000)];
        rng.fill(&mut garbage[..]);
        if let Ok(mut log) = OpenOptions::new().append(true).open(beside(&world, "-wal")) {
            log.write_all(&garbage).unwrap();
        }
        world.restart().await;
    }
    stop.store(true, Ordering::Relaxed);
    promises_are_kept(&world, &lanes.join_all().await.concat()).await;
}

#[tokio::test]
async fn case_22_a_damaged_or_read_only_file_is_refused_at_start() {
    let mut world = Plan::new().on(Backend::Sqlite).start().await;
    for n in 0..4 {
        world.pay("atlas", "acme-data", &format!("{}", n + 1), &format!("torn-{n}")).await;
    }
    world.judge().await;
    world.kill();
    let mut connection = connect(&world).await;
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").await.unwrap();
    let root: i64 = connection
        .fetch_one("SELECT rootpage FROM sqlite_schema WHERE name = 'payment'")
        .await
        .unwrap()
        .get(0);
    let page: i64 = connection.fetch_one("PRAGMA page_size").await.unwrap().get(0);
    connection.close().await.unwrap();
    let whole = fs::read(file(&world)).unwrap();
    // The root of the table, by its place in the file.
    let (root, page) = (usize::try_from(root).unwrap() - 1, usize::try_from(page).unwrap());

    let mut headless = whole.clone();
    headless[..100].fill(0xff);
    let mut holed = whole.clone();
    holed[root * page..(root + 1) * page].fill(0);
    let half = whole[..whole.len() / 2].to_vec();
    for (what, bytes) in [("headless", headless), ("holed", holed), ("half", half)] {
        fs::write(file(&world), &bytes).unwrap();
        let (code, said) = world.refuses_to_start().await;
        assert_eq!(code, Some(4), "{what}: {said}");
        assert!(said.contains("damaged") && said.contains("nothing was signed"), "{what}: {said}");
        for end in ["-wal", "-shm"] {
            // Not there where it was refused before they were made.
            let _ = fs::remove_file(beside(&world, end));
        }
    }
    fs::write(file(&world), &whole).unwrap();

    let url = world.database();
    world.configure(|config| config.store = format!("{url}?mode=ro"));
    let (code, said) = world.refuses_to_start().await;
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("readonly"), "{said}");
    world.configure(|config| config.store = url);

    world.restart().await;
    let after = world.pay("atlas", "acme-data", "9", "after").await;
    world.until(&after, State::Paid).await;
    world.judge().await;
}

#[tokio::test]
async fn case_22_a_store_that_another_process_holds() {
    let world = Plan::new().on(Backend::Sqlite).start().await;
    let first = world.pay("atlas", "acme-data", "1", "before").await;
    world.until(&first, State::Paid).await;
    let mut holder = connect(&world).await;
    holder.execute("BEGIN IMMEDIATE").await.unwrap();
    let client = world.agent("atlas");
    // Longer than SQLite waits.
    moved_nothing(client.submit(&request("acme-data", "2"), "held").await.unwrap_err());
    holder.execute("ROLLBACK").await.unwrap();
    holder.close().await.unwrap();
    let payment = insist(&client, &request("acme-data", "2"), "held").await;
    world.until(&payment, State::Paid).await;
    world.judge().await;
}
