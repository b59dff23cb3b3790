//! Case 23: the PostgreSQL server goes away, contradicts, or falls silent inside a commit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bursar::{client::ClientError, payment::State, store::Store};
use sqlx::{Connection as _, Executor as _, PgConnection, Row as _};

use crate::{
    engine::crashes::{LANE_LIMIT, insist, load, promises_are_kept},
    support::{Backend, Cut, Line, Plan, World, request, wait_for},
};

async fn connect(world: &World) -> PgConnection {
    PgConnection::connect(world.postgres.as_ref().unwrap().url()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_23_a_server_that_is_restarted_under_load() {
    let mut world = Plan::new().on(Backend::Postgres).start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut lanes = load(&world, &stop, 0..LANE_LIMIT);
    for order in ["stop", "crash", "kill", "crash", "stop", "kill"] {
        tokio::time::sleep(Duration::from_millis(400)).await;
        world.postgres.as_mut().unwrap().order(order);
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.postgres.as_mut().unwrap().order("start");
        // Where it was cut off inside a commit, the daemon has ended: the next one reads what is.
        world.revive().await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut promised = Vec::new();
    while !lanes.is_empty() {
        world.revive().await;
        match lanes.try_join_next() {
            Some(lane) => promised.extend(lane.unwrap()),
            None => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    promises_are_kept(&world, &promised).await;
}

/// What the chain has of ours, and what the store has signed.
async fn sent_and_signed(world: &World) -> (u64, usize) {
    let mut sent = 0;
    for relayer in &world.card.relayers {
        sent += world.chain.nonce(*relayer).await;
    }
    let store = Store::open(&world.database()).await.unwrap();
    let signed = store.open_txs().await.unwrap().len();
    store.close().await;
    (sent, signed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn case_23_a_connection_that_is_lost_inside_a_commit() {
    let mut world = Plan::new().on(Backend::Postgres).without_daemon().await;
    let line = Line::to(world.postgres.as_ref().unwrap().url()).await;
    world.configure(|config| config.store = line.url().to_owned());
    world.restart().await;
    let client = world.agent("atlas");
    for (cut, kept, amount) in [(Cut::After, 1, "1"), (Cut::Before, 0, "2")] {
        let body = request("acme-data", amount);
        let key = |what: &str| format!("{what}-{kept}");
        let before = world.payments().await.len();

        // The promise: nobody says that it failed, and asking again finds what became of it.
        line.cut("INSERT INTO payment ", cut);
        match client.submit(&body, &key("promise")).await {
            Err(ClientError::Refused(problem)) => {
                assert_eq!(problem.status, 503, "{problem:?}");
                assert_eq!(problem.refusal.funds_moved, bursar::payment::FundsMoved::Maybe);
            }
            // It ended before it could answer.
            Err(_) => {}
            Ok(payment) => panic!("{payment:?} was promised in a commit that nobody answered"),
        }
        assert_eq!(world.died().await, Some(5));
        let rows = world.payments().await;
        assert_eq!(rows.len(), before + kept, "{cut:?}");
        world.restart().await;
        let again = insist(&client, &body, &key("promise")).await;
        assert_eq!(again.id == rows[0].id, kept == 1, "{cut:?}");
        world.until(&again, State::Paid).await;

        // The signature: sent by the next daemon, and only if it was kept.
        let (sent, signed) = sent_and_signed(&world).await;
        assert_eq!(signed, 0);
        line.cut("INSERT INTO attempt", cut);
        let payment = insist(&client, &body, &key("signature")).await;
        assert_eq!(world.died().await, Some(5));
        assert_eq!(sent_and_signed(&world).await, (sent, kept), "{cut:?}");
        world.restart().await;
        world.until(&payment, State::Paid).await;

        // The booking: paid once, called so once.
        line.cut("UPDATE ledger_transfer", cut);
        let payment = insist(&client, &body, &key("booking")).await;
        assert_eq!(world.died().await, Some(5));
        let row = world.payments().await.remove(0);
        assert_eq!((row.id, row.state == State::Paid), (payment.id, kept == 1), "{cut:?}");
        world.restart().await;
        world.until(&payment, State::Paid).await;
        assert!(line.was_cut());
        world.judge().await;
    }
}

/// The server refuses the first three payments of a transaction as PostgreSQL refuses those that
/// contradict each other; a rollback does not turn the counter back.
const CONTRADICT: &str = "
    CREATE SEQUENCE contradicted;
    CREATE FUNCTION contradict() RETURNS trigger AS $$
    BEGIN
      IF nextval('contradicted') <= 3 THEN
        RAISE EXCEPTION 'could not serialize access' USING ERRCODE = '40001';
      END IF;
      RETURN NEW;
    END $$ LANGUAGE plpgsql;
    CREATE TRIGGER contradict BEFORE INSERT ON payment
      FOR EACH ROW EXECUTE FUNCTION contradict();";

#[tokio::test]
async fn case_23_transactions_that_contradict() {
    let world = Plan::new().on(Backend::Postgres).start().await;
    let first = world.pay("atlas", "acme-data", "1", "before").await;
    world.until(&first, State::Paid).await;
    let client = world.agent("atlas");
    let mut other = connect(&world).await;

    other.execute(CONTRADICT).await.unwrap();
    let payment = insist(&client, &request("acme-data", "2"), "conflict").await;
    world.until(&payment, State::Paid).await;
    let count = "SELECT last_value FROM contradicted";
    let tries: i64 = other.fetch_one(count).await.unwrap().get(0);
    assert_eq!(tries, 4, "three were refused, one was taken");

    // Two wait for each other, and the daemon is the one that has waited longer.
    other.execute("BEGIN").await.unwrap();
    let wallet = "SELECT 1 FROM ledger_balance WHERE account = 'wallet' FOR UPDATE";
    other.execute(wallet).await.unwrap();
    let (asked, body) = (client.clone(), request("acme-data", "3"));
    let answer = tokio::spawn(async move { asked.submit(&body, "deadlock").await });
    until_waiting(&world).await;
    other.execute("UPDATE audit_head SET id = id").await.unwrap();
    other.execute("ROLLBACK").await.unwrap();
    let answer = answer.await.unwrap();
    let payment = insist(&client, &request("acme-data", "3"), "deadlock").await;
    assert!(answer.is_err() || answer.unwrap().id == payment.id);
    wait_for("the server to have counted it", async || {
        let count = "SELECT deadlocks FROM pg_stat_database WHERE datname = 'postgres'";
        let count: i64 = other.fetch_one(count).await.unwrap().get(0);
        (count > 0).then_some(())
    })
    .await;
    world.until(&payment, State::Paid).await;
    world.judge().await;
}

/// Waits until a connection of the daemon waits for a lock.
async fn until_waiting(world: &World) {
    let mut looker = connect(world).await;
    wait_for("the daemon to wait for a lock", async || {
        let waiting = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        let count: i64 = looker.fetch_one(waiting).await.unwrap().get(0);
        (count > 0).then_some(())
    })
    .await;
    looker.close().await.unwrap();
}
