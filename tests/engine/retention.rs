//! What is kept, what is forgotten, and a store that comes back from its backup.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bursar::{clock::Clock, config::Config, payment::State, refusal::Code, store::Store};
use sqlx::Row as _;

use super::crashes::{LANE_LIMIT, load, promises_are_kept};
use crate::support::{Plan, RefusedWith, World, request, wait_for};

/// A configuration beside the world's, with an empty store and anchors of its own.
fn aside(world: &World, name: &str) -> (PathBuf, Config) {
    let text = fs::read_to_string(&world.card.config).unwrap();
    let mut config: Config = toml::from_str(&text).unwrap();
    config.store = format!("sqlite:{name}.db");
    config.audit_anchors = format!("{name}.anchors").into();
    let path = world.card.config.with_file_name(format!("{name}.toml"));
    fs::write(&path, toml::to_string(&config).unwrap()).unwrap();
    (path.clone(), Config::read(&path).unwrap())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The books of one moment: payments, ledger and balances agree among themselves.
async fn books_agree(config: &Config) {
    let store = Store::open(&config.store).await.unwrap();
    let mut paid: BTreeMap<_, u64> = BTreeMap::new();
    let mut last = None;
    loop {
        let page = store.settled_after(last, 1_000).await.unwrap();
        let Some(end) = page.last() else { break };
        last = Some(end.id);
        for payment in page {
            *paid.entry(payment.payee).or_default() += payment.amount.units();
        }
    }
    for line in store.postings().await.unwrap() {
        let sum = paid.remove(&line.payee).unwrap_or_default();
        assert_eq!((line.posted.units(), line.transfers.units()), (sum, sum), "{}", line.payee);
    }
    assert!(paid.is_empty(), "{paid:?}");
    let open: u64 =
        store.payments_open().await.unwrap().iter().map(|payment| payment.amount.units()).sum();
    assert_eq!(store.wallet_balance().await.unwrap().debits_pending.units(), open);
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_is_one_moment_and_a_restored_store_goes_on() {
    let mut world = Plan::new().start().await;
    let folder = world.card.config.parent().unwrap().to_path_buf();
    let stop = Arc::new(AtomicBool::new(false));
    let lanes = load(&world, &stop, 0..LANE_LIMIT);
    tokio::time::sleep(Duration::from_millis(700)).await;

    // While everything runs.
    let file = folder.join("hot.backup");
    let (code, said) = world.bursar(&["store", "backup", text(&file)]);
    assert_eq!(code, 0, "{said}");
    let (path, config) = aside(&world, "aside");
    let restore = ["store", "restore", text(&file), "--config", text(&path)];
    let (code, said) = world.bursar(&restore);
    assert_eq!(code, 0, "{said}");
    let (code, said) = world.bursar(&["audit", "verify", "--config", text(&path)]);
    assert_eq!(code, 0, "{said}");
    books_agree(&config).await;
    assert_eq!(world.bursar(&["store", "info", "--json", "--config", text(&path)]).0, 0);
    // Neither over a file that is there, nor into a store that is not empty.
    assert_eq!(world.bursar(&["store", "backup", text(&file)]).0, 1);
    let (code, said) = world.bursar(&restore);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("not empty"), "{said}");

    // The host dies, and its disk with it: the daemon goes on where the backup was made.
    world.kill();
    let file = folder.join("cold.backup");
    let (code, said) = world.bursar(&["store", "backup", text(&file)]);
    assert_eq!(code, 0, "{said}");
    world.configure(|config| config.store = "sqlite:elsewhere.db".to_owned());
    let whole = fs::read(&file).unwrap();
    fs::write(folder.join("cut.backup"), &whole[..whole.len() - 200]).unwrap();
    let (code, said) = world.bursar(&["store", "restore", text(&folder.join("cut.backup"))]);
    assert_eq!(code, 4, "{said}");
    let (code, said) = world.bursar(&["store", "restore", "--cold", text(&file)]);
    assert_eq!(code, 0, "{said}");
    world.restart().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    promises_are_kept(&world, &lanes.join_all().await.concat()).await;
    let (code, said) = world.bursar(&["reconcile"]);
    assert_eq!(code, 0, "{said}");
}

/// What is there to be forgotten, and what is not.
#[derive(Debug, PartialEq, Eq)]
struct Rows {
    /// Transactions whose bytes are kept, and those whose bytes are forgotten.
    whole: i64,
    forgotten: i64,
    /// Attempts of the forgotten ones.
    left_over: i64,
    denied: i64,
    nonces: i64,
    payments: i64,
}

async fn rows(world: &World) -> Rows {
    let tables = world.tables().await;
    let count = async |what: &'static str| -> i64 {
        let text = format!("SELECT CAST(COUNT(*) AS BIGINT) FROM {what}");
        sqlx::query(sqlx::AssertSqlSafe(text)).fetch_one(&tables).await.unwrap().get(0)
    };
    let rows = Rows {
        whole: count("tx WHERE manifest <> ''").await,
        forgotten: count("tx WHERE manifest = ''").await,
        left_over: count("attempt JOIN tx ON tx.id = tx_id WHERE manifest = ''").await,
        denied: count("payment WHERE state = 'denied'").await,
        nonces: count("spent_nonce").await,
        payments: count("payment WHERE state = 'paid'").await,
    };
    tables.close().await;
    rows
}

#[tokio::test]
async fn case_31_days_of_load_in_compressed_time_leave_a_bounded_working_set() {
    const DAYS: u32 = 4;
    const STEPS: u32 = 4;
    const SIX_HOURS: Duration = Duration::from_secs(6 * 3_600);
    let plan = Plan::new().config(|config| {
        config.retention.transactions_days = 1;
        config.retention.denied_days = 1;
    });
    let world = plan.without_daemon().await;
    let (clock, hand) = Clock::held(Clock::system().now_ms());
    let service = world.serve_here(&clock).await;
    let clients =
        ["atlas", "borealis", "dune", "ember"].map(|name| world.agent(name).clock(clock.clone()));
    let payees = ["acme-data", "gpu-harbor", "devtools-co", "acme-data"];
    let mut first = None;
    for day in 0..DAYS {
        for step in 0..STEPS {
            let mut asked = Vec::new();
            for n in 0..5 {
                for (client, payee) in clients.iter().zip(payees) {
                    let body = request(payee, &format!("0.{:03}", 1 + n + 10 * step));
                    let key = format!("day-{day}-{step}-{n}");
                    asked.push((client, client.submit(&body, &key).await.unwrap()));
                }
            }
            first.get_or_insert(asked[0].1.id);
            let (large, key) = (request("acme-data", "999"), format!("no-{day}-{step}"));
            let refused = clients[3].submit(&large, &key).await;
            assert_eq!(refused.code(), Code::CeilingExceeded);
            for (client, payment) in asked {
                wait_for("a payment's end", async || {
                    let now = client.payment(payment.id).await.unwrap();
                    (now.state == State::Paid).then_some(())
                })
                .await;
            }
            hand.advance(SIX_HOURS);
            world.chain.pass(SIX_HOURS.as_secs()).await;
        }
        // Old enough is what was made more than a day ago: all but this day's and the last of the
        // day's before.
        let now = wait_for("retention", async || {
            let now = rows(&world).await;
            let kept = i64::from(STEPS) + 1;
            // How many payments a transaction carries, and how often it is signed, is the machine's
            // affair: a step has one to twenty.
            let forgotten = i64::from(STEPS * (day + 1)) - kept;
            let small = now.denied <= kept && now.nonces <= 42 && now.whole <= 20 * kept;
            (small && now.forgotten >= forgotten).then_some(now)
        })
        .await;
        // It does not grow with the days, though what it remembers does.
        assert_eq!(now.payments, i64::from(20 * STEPS * (day + 1)));
        assert_eq!(now.left_over, 0, "{now:?}");
    }

    // A key of the first day finds its payment; with another body it is refused; that of a denied
    // request is judged anew.
    let again = clients[0].submit(&request("acme-data", "0.001"), "day-0-0-0").await.unwrap();
    assert_eq!((Some(again.id), again.state), (first, State::Paid));
    let other = clients[0].submit(&request("acme-data", "0.002"), "day-0-0-0").await;
    assert_eq!(other.code(), Code::IdempotencyKeyReused);
    let anew = clients[3].submit(&request("acme-data", "0.9"), "no-0-0").await.unwrap();
    wait_for("the last payment", async || {
        (clients[3].payment(anew.id).await.unwrap().state == State::Paid).then_some(())
    })
    .await;
    service.stop().await;
    let (code, said) = world.bursar(&["store", "prune", "--older-than", "1"]);
    assert_eq!(code, 0, "{said}");
    world.judge().await;
}
