//! The daemon dies at random moments under load, and clients ask again under the same keys.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bursar::{
    client::{AgentClient, ClientError},
    payment::{PaymentId, PaymentRequest, State},
    view::PaymentView,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;

use crate::support::{Plan, World, request, seed};

pub const LANES: [(&str, &str); 4] = [
    ("atlas", "acme-data"),
    ("borealis", "gpu-harbor"),
    ("atlas", "llm-hub"),
    ("dune", "devtools-co"),
];
/// Purchases of one lane at most: below the agents' hourly counts.
pub const LANE_LIMIT: u32 = 180;

/// What was promised: lane, number, payment.
pub type Promised = Vec<(usize, u32, PaymentId)>;

/// Asks until there is an answer, as an agent with a stored key does.
pub async fn insist(client: &AgentClient, body: &PaymentRequest, key: &str) -> PaymentView {
    loop {
        match client.submit(body, key).await {
            Ok(payment) => return payment,
            Err(ClientError::Refused(problem)) => {
                assert!(problem.refusal.code.status() >= 500, "{key}: {problem:?}");
            }
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}

pub fn body(lane: usize, n: u32) -> PaymentRequest {
    request(LANES[lane].1, &format!("0.{:04}", 1 + n))
}

/// Keeps buying in every lane, under these numbers, until told to stop; returns what was promised for
/// each key.
pub fn load(world: &World, stop: &Arc<AtomicBool>, numbers: Range<u32>) -> JoinSet<Promised> {
    let mut lanes = JoinSet::new();
    for (lane, (agent, _)) in LANES.into_iter().enumerate() {
        let (client, stop, numbers) = (world.agent(agent), Arc::clone(stop), numbers.clone());
        lanes.spawn(async move {
            let mut promised = Vec::new();
            for n in numbers {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let id = insist(&client, &body(lane, n), &format!("load-{lane}-{n}")).await.id;
                promised.push((lane, n, id));
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
            promised
        });
    }
    lanes
}

/// Every promise is kept, exactly once, and the daemon still knows it.
pub async fn promises_are_kept(world: &World, promised: &Promised) {
    assert!(promised.len() >= LANES.len(), "there was no load");
    world.judge().await;
    let rows: BTreeMap<_, _> =
        world.payments().await.into_iter().map(|row| (row.id, row)).collect();
    assert_eq!(rows.len(), promised.len(), "payments, promises");
    for (lane, n, id) in promised {
        let row = rows.get(id).unwrap_or_else(|| panic!("{id} was promised and is not there"));
        assert_eq!(row.state, State::Paid, "{id}: {:?}", row.refusal);
        assert_eq!(row.idempotency_key, format!("load-{lane}-{n}"));
    }
    let (lane, n, id) = promised[promised.len() / 2];
    let client = world.agent(LANES[lane].0);
    assert_eq!(insist(&client, &body(lane, n), &format!("load-{lane}-{n}")).await.id, id);
}

#[tokio::test]
async fn case_06_killed_at_random_under_load() {
    let kills = std::env::var("BURSAR_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(15);
    let mut rng = StdRng::seed_from_u64(seed("BURSAR_TEST_SEED"));
    let mut world = Plan::new().start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let lanes = load(&world, &stop, 0..LANE_LIMIT);
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(rng.gen_range(1..350))).await;
        world.kill();
        world.restart().await;
    }
    stop.store(true, Ordering::Relaxed);
    promises_are_kept(&world, &lanes.join_all().await.concat()).await;
}

#[tokio::test]
async fn case_29_told_to_end_under_load_it_ends_in_order_and_loses_nothing() {
    let mut world = Plan::new().start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let lanes = load(&world, &stop, 0..LANE_LIMIT);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.stop().await;
        world.restart().await;
    }
    stop.store(true, Ordering::Relaxed);
    promises_are_kept(&world, &lanes.join_all().await.concat()).await;
}

#[tokio::test]
async fn case_29_told_twice_with_a_thousand_in_flight() {
    let mut world = Plan::new().automine().start().await;
    world.chain.automine(false).await;
    let mut asked = JoinSet::new();
    for n in 0..1_000_u32 {
        let (agent, payee) =
            [("atlas", "acme-data"), ("borealis", "gpu-harbor"), ("dune", "devtools-co")]
                [n as usize % 3];
        let client = world.agent(agent);
        let body = request(payee, &format!("0.{:04}", 1 + n));
        asked.spawn(async move { insist(&client, &body, &format!("thousand-{n}")).await.id });
    }
    let promised = asked.join_all().await;
    let on_their_way = world.payments().await.iter().filter(|row| !row.state.is_terminal()).count();
    assert_eq!((promised.len(), on_their_way), (1_000, 1_000));
    world.stop_twice().await;
    world.restart().await;
    world.chain.rpc("evm_setIntervalMining", serde_json::json!([1])).await;
    world.judge().await;
    let paid = world.payments().await.iter().filter(|row| row.state == State::Paid).count();
    assert_eq!(paid, 1_000);
}
