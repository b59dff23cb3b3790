//! Two and more daemons on one PostgreSQL: caps, keys and orders are one; work is taken over.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bursar::{
    client::{AgentClient, ClientError},
    contract::IPolicyChanges,
    payment::{PaymentId, State},
    refusal::Code,
    store::Store,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use sqlx::Row as _;
use tokio::{task::JoinSet, time::timeout};

use crate::{
    engine::crashes::{LANES, body, promises_are_kept},
    support::{Backend, Fault, Plan, RefusedWith, Twin, World, request, seed, wait_for},
};

/// Seconds of a lease in these tests.
const LEASE_S: u64 = 2;

fn plan() -> Plan {
    Plan::new().on(Backend::Postgres).config(|config| config.submit.lease_s = LEASE_S)
}

/// Asks one daemon after the other until there is an answer, always under the same key.
async fn insist(clients: &[AgentClient], lane: usize, n: u32) -> PaymentId {
    let key = format!("load-{lane}-{n}");
    for client in clients.iter().cycle().skip(n as usize) {
        match timeout(Duration::from_secs(3), client.submit(&body(lane, n), &key)).await {
            Ok(Ok(payment)) => return payment.id,
            Ok(Err(ClientError::Refused(problem))) => {
                assert!(problem.refusal.code.status() >= 500, "{key}: {problem:?}");
            }
            Ok(Err(_)) | Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    unreachable!("there is a daemon to ask")
}

fn load(
    world: &World,
    twins: &[&Twin],
    stop: &Arc<AtomicBool>,
) -> JoinSet<Vec<(usize, u32, PaymentId)>> {
    let mut lanes = JoinSet::new();
    for (lane, (agent, _)) in LANES.into_iter().enumerate() {
        let mut clients = vec![world.agent(agent)];
        clients.extend(twins.iter().map(|twin| twin.agent(world, agent)));
        let stop = Arc::clone(stop);
        lanes.spawn(async move {
            let mut promised = Vec::new();
            for n in 0..180 {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                promised.push((lane, n, insist(&clients, lane, n).await));
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
            promised
        });
    }
    lanes
}

/// How many relayers each daemon has: its lease's holder, and how many it holds.
async fn shares(world: &World) -> Vec<usize> {
    let store = Store::open(&world.database()).await.unwrap();
    let mut count = std::collections::BTreeMap::new();
    for row in store.leases().await.unwrap() {
        if row.name.starts_with("relayer:") && !row.holder.is_empty() {
            *count.entry(row.holder).or_insert(0) += 1;
        }
    }
    store.close().await;
    let mut shares: Vec<usize> = count.into_values().collect();
    shares.sort_unstable();
    shares
}

async fn until_shared(world: &World, expected: &[usize]) {
    wait_for(&format!("shares {expected:?}"), async || {
        (shares(world).await == expected).then_some(())
    })
    .await;
}

#[tokio::test]
async fn fifty_at_once_over_two_daemons_with_room_for_one() {
    let world = plan().policy("borealis", "day = \"8000\"", "day = \"900\"").start().await;
    let twin = Twin::start(&world, "twin").await;
    let mut answers = JoinSet::new();
    for n in 0..50 {
        let client =
            if n % 2 == 0 { world.agent("borealis") } else { twin.agent(&world, "borealis") };
        answers.spawn(async move {
            client.submit(&request("gpu-harbor", "500"), &format!("race-{n}")).await
        });
    }
    let (accepted, refused): (Vec<_>, Vec<_>) =
        answers.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!(accepted.len(), 1);
    for answer in refused {
        assert_eq!(answer.code(), Code::DayCapExceeded);
    }
    world.judge().await;
    // What is left is the same everywhere, and stays so once it is paid.
    for client in [world.agent("borealis"), twin.agent(&world, "borealis")] {
        let more = client.submit(&request("gpu-harbor", "401"), "more").await;
        assert_eq!(more.code(), Code::DayCapExceeded);
    }
    let rest = twin.agent(&world, "borealis").submit(&request("gpu-harbor", "400"), "rest").await;
    world.until(&rest.unwrap(), State::Paid).await;
    world.judge().await;
}

#[tokio::test]
async fn one_key_is_one_payment_whichever_daemon_is_asked() {
    let world = plan().start().await;
    let twin = Twin::start(&world, "twin").await;
    let mut answers = JoinSet::new();
    for n in 0..60 {
        let client = if n % 2 == 0 { world.agent("atlas") } else { twin.agent(&world, "atlas") };
        answers.spawn(async move { client.submit(&request("acme-data", "3"), "same").await });
    }
    let mut ids: Vec<_> =
        answers.join_all().await.into_iter().map(|answer| answer.unwrap().id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 1);
    let other = twin.agent(&world, "atlas").submit(&request("acme-data", "4"), "same").await;
    assert_eq!(other.code(), Code::IdempotencyKeyReused);
    world.judge().await;
    assert_eq!(world.payments().await.len(), 1);
}

#[tokio::test]
async fn an_order_to_one_daemon_holds_at_the_other_at_once() {
    // One relayer, and the first daemon has it: the order goes out from the other all the same.
    let world = plan()
        .config(|config| {
            config.submit.lease_s = 60;
            config.submit.relayers = 1;
        })
        .start()
        .await;
    let twin = Twin::start(&world, "twin").await;
    let agent = world.address("ember");
    let freeze = IPolicyChanges::setFrozenCall { agent, frozen: true };
    let order = world.order(freeze, 0).await;
    twin.operator(&world, 0).tighten(&order).await.unwrap();
    for client in [world.agent("ember"), twin.agent(&world, "ember")] {
        let refused = client.submit(&request("acme-data", "1"), "frozen").await;
        assert_eq!(refused.code(), Code::AgentFrozen);
    }
    wait_for("the freeze on chain", async || world.chain.is_frozen(agent).await.then_some(()))
        .await;
    // Whoever was deprived of the relayer sees it when it wants to use it, and says so.
    let paid = world.pay("atlas", "acme-data", "2", "after").await;
    world.until(&paid, State::Paid).await;
    world.judge().await;
    wait_for("word of the lost lease", async || {
        world.log().contains("another daemon has the lease").then_some(())
    })
    .await;
}

#[tokio::test]
async fn work_is_shared_out_and_taken_over_when_a_daemon_ends() {
    let mut world = plan().config(|config| config.submit.lease_s = 60).start().await;
    until_shared(&world, &[3]).await;
    world.configure(|config| config.submit.lease_s = LEASE_S);
    world.stop().await;
    world.restart().await;
    let mut twin = Twin::start(&world, "twin").await;
    until_shared(&world, &[1, 2]).await;
    let third = Twin::start(&world, "third").await;
    until_shared(&world, &[1, 1, 1]).await;
    drop(third);
    until_shared(&world, &[1, 2]).await;
    twin.stop().await;
    until_shared(&world, &[3]).await;
    let paid = world.pay("atlas", "acme-data", "2", "alone").await;
    world.until(&paid, State::Paid).await;
    world.judge().await;
}

#[tokio::test]
async fn one_that_cannot_reach_the_chain_leaves_its_work_to_the_others() {
    let (world, proxy) = plan().behind_a_proxy().await;
    let node = world.card.rpc.clone();
    world.configure(|config| config.chain.rpc = vec![node]);
    let _twin = Twin::start(&world, "twin").await;
    until_shared(&world, &[1, 2]).await;
    proxy.cut();
    let mut held = Vec::new();
    for n in 0..6 {
        held.push(world.pay("atlas", "acme-data", "2", &format!("held-{n}")).await);
    }
    until_shared(&world, &[3]).await;
    for payment in &held {
        world.until(payment, State::Paid).await;
    }
    proxy.mend();
    until_shared(&world, &[1, 2]).await;
    world.judge().await;
}

/// Seconds that a daemon sleeps: three leases, or what `BURSAR_TEST_PAUSE_S` says.
fn pause() -> Duration {
    let pause_s = std::env::var("BURSAR_TEST_PAUSE_S").ok().and_then(|n| n.parse().ok());
    Duration::from_secs(pause_s.unwrap_or(3 * LEASE_S))
}

/// Waits until so many daemons are there, by the leases they show.
async fn present(world: &World, daemons: i64) {
    let pool = world.tables().await;
    wait_for(&format!("{daemons} daemons"), async || {
        let query = "SELECT COUNT(*) FROM lease WHERE name LIKE 'daemon:%'";
        let there: i64 = sqlx::query_scalar(query).fetch_one(&pool).await.unwrap();
        (there == daemons).then_some(())
    })
    .await;
}

/// What a daemon writes that signs, sends or books: attempts, their answers, transactions, entries of
/// the audit log, events.
async fn written(world: &World) -> Vec<i64> {
    let pool = world.tables().await;
    let row = sqlx::query(
        "SELECT (SELECT COUNT(*) FROM attempt), (SELECT COUNT(answer) FROM attempt),
                (SELECT COUNT(*) FROM tx), (SELECT CAST(SUM(next) AS BIGINT) FROM nonce),
                (SELECT seq FROM audit_head), (SELECT COUNT(*) FROM outbox)",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    pool.close().await;
    (0..row.len()).map(|column| row.get(column)).collect()
}

/// SIGSTOP between two transactions: within one, the server would end it after a while, and the daemon
/// itself on waking, if the outcome is not known.
async fn pause_between_commits(world: &World) {
    let pool = world.tables().await;
    loop {
        world.pause(true);
        tokio::time::sleep(Duration::from_millis(300)).await;
        let open = sqlx::query(
            "SELECT COUNT(*) FROM pg_stat_activity WHERE state = 'idle in transaction'
             AND state_change < clock_timestamp() - INTERVAL '200 milliseconds'",
        );
        if open.fetch_one(&pool).await.unwrap().get::<i64, _>(0) == 0 {
            break;
        }
        world.pause(false);
    }
    pool.close().await;
}

#[tokio::test]
async fn case_24_a_sleeper_whose_lease_is_gone_sends_and_writes_nothing() {
    // Its own way to the node loses what it sends: it sleeps with work in its hands.
    let own = Plan::new().on(Backend::Postgres).config(|config| {
        config.submit.lease_s = LEASE_S;
        config.submit.relayers = 1;
        config.submit.resend_after_s = 30;
    });
    let (world, proxy) = own.behind_a_proxy().await;
    proxy.always("eth_sendRawTransaction", Fault::Lost);
    let node = world.card.rpc.clone();
    world.configure(|config| config.chain.rpc = vec![node]);
    let mut twin = Twin::start(&world, "twin").await;
    let mut held = Vec::new();
    for n in 0..3 {
        held.push(world.pay("atlas", "acme-data", "2", &format!("held-{n}")).await);
    }
    wait_for("bytes on their way", async || {
        (proxy.asked("eth_sendRawTransaction") > 0).then_some(())
    })
    .await;
    pause_between_commits(&world).await;

    // The other signs nothing under that key until the lease is over, and then sends those bytes.
    for payment in held {
        let client = twin.agent(&world, "atlas");
        wait_for(&format!("{} paid by the other", payment.id), async || {
            let state = client.payment(payment.id).await.unwrap().state;
            (state == State::Paid).then_some(())
        })
        .await;
    }
    let more = twin.agent(&world, "atlas").submit(&request("acme-data", "3"), "more").await;
    assert_eq!(more.unwrap().state, State::Queued);
    world.idle().await;
    tokio::time::sleep(pause()).await;
    let (before, sent) = (written(&world).await, proxy.asked("eth_sendRawTransaction"));
    proxy.calm();

    // Awake again: it believes that it has three transactions to send, one key and the keeper's work.
    world.pause(false);
    wait_for("word of the lost lease", async || {
        world.log().contains("another daemon has the lease").then_some(())
    })
    .await;
    // It lives, and looks at the chain as before: nothing that it does is seen but that.
    let calls = proxy.asked("eth_getBlockByNumber");
    wait_for("some looks at the chain", async || {
        (proxy.asked("eth_getBlockByNumber") > calls + 10).then_some(())
    })
    .await;
    assert_eq!(proxy.asked("eth_sendRawTransaction"), sent, "sent by the sleeper");
    assert_eq!(written(&world).await, before, "written by the sleeper");
    // It takes orders, and the other carries them out; when that ends, so does this one again.
    let next = world.pay("atlas", "acme-data", "2", "next").await;
    world.until(&next, State::Paid).await;
    assert_eq!(proxy.asked("eth_sendRawTransaction"), sent, "sent by the sleeper");
    twin.kill(&world);
    let last = world.pay("atlas", "acme-data", "2", "last").await;
    world.until(&last, State::Paid).await;
    assert!(proxy.asked("eth_sendRawTransaction") > sent, "sent by the survivor");
    world.judge().await;
}

#[tokio::test]
async fn case_24_daemons_that_die_and_sleep_under_load_lose_and_double_nothing() {
    let mut rng = StdRng::seed_from_u64(seed("BURSAR_TEST_SEED"));
    let mut world = plan().start().await;
    let mut twin = Twin::start(&world, "twin").await;
    let third = Twin::start(&world, "third").await;
    let stop = Arc::new(AtomicBool::new(false));
    let lanes = load(&world, &[&twin, &third], &stop);
    let mut moment =
        async || tokio::time::sleep(Duration::from_millis(rng.gen_range(1..500))).await;

    moment().await;
    world.kill();
    moment().await;
    world.restart().await;
    moment().await;
    // Asleep in the middle of whatever it did, longer than its lease; then awake again.
    for sleeper in 0..2 {
        let wake = |asleep| {
            if sleeper == 0 { twin.pause(&world, asleep) } else { world.pause(asleep) }
        };
        present(&world, 3).await;
        wake(true);
        tokio::time::sleep(pause()).await;
        // Not before the others have missed it: asleep within a commit it can keep them waiting.
        present(&world, 2).await;
        wake(false);
        moment().await;
        // One that slept within a commit does not know its outcome, and has ended.
        let words = ["another daemon has the lease", "the store cannot be relied on"];
        wait_for("word of the lost leases", async || {
            let log = if sleeper == 0 { twin.log() } else { world.log() };
            words.iter().any(|word| log.contains(word)).then_some(())
        })
        .await;
        twin.revive().await;
        world.revive().await;
    }
    // Both at once: the third has everything.
    twin.kill(&world);
    world.kill();
    moment().await;
    twin.restart().await;
    world.restart().await;
    moment().await;
    stop.store(true, Ordering::Relaxed);
    promises_are_kept(&world, &lanes.join_all().await.concat()).await;
    // The second daemon's memory is as good as the first's. (Counts of payments go by each daemon's
    // own clock.)
    for (agent, _) in LANES {
        let (one, two) = (world.agent(agent), twin.agent(&world, agent));
        wait_for("the same limits", async || {
            let (one, two) = (one.permissions().await.unwrap(), two.permissions().await.unwrap());
            let used = |limits: &[bursar::view::LimitView]| {
                limits
                    .iter()
                    .filter(|limit| limit.rule.starts_with("limits."))
                    .map(|limit| (limit.rule.clone(), limit.used.clone()))
                    .collect::<Vec<_>>()
            };
            (used(&one.limits) == used(&two.limits)).then_some(())
        })
        .await;
    }
}
