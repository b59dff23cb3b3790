//! The daemon dies at each place where what is durable and what is done differ (`src/crash.rs`),
//! is started again on what is there, and has to bring everything to its one end.

use alloy::primitives::B256;
use bursar::{contract::IPolicyChanges, payment::State, store::Store, view::PaymentView};
use tokio::task::JoinHandle;

use super::crashes::insist;
use crate::support::{Plan, World, request, wait_for};

/// Asks for a payment until there is an answer, whichever daemon gives it.
fn asking(world: &World, amount: &str, key: &str) -> JoinHandle<PaymentView> {
    let client = world.agent("atlas");
    let (body, key) = (request("acme-data", amount), key.to_owned());
    tokio::spawn(async move { insist(&client, &body, &key).await })
}

/// The attempts of the unfinished transactions, as a daemon that died left them.
async fn attempts(world: &World) -> Vec<B256> {
    let store = Store::open(&world.database()).await.unwrap();
    let open = store.open_txs().await.unwrap();
    store.close().await;
    open.into_iter().flat_map(|tx| tx.attempts).map(|attempt| attempt.hash).collect()
}

/// The hashes of ours in the pool.
async fn pool(world: &World) -> Vec<B256> {
    let pool = world.chain.pool_of(&world.card.relayers).await;
    pool.into_iter().map(|(hash, _)| hash).collect()
}

/// A payment is asked for of a daemon that dies at `place`.
async fn dies(world: &mut World, place: &str, amount: &str) -> JoinHandle<PaymentView> {
    world.restart_with(place).await;
    let asked = asking(world, amount, &format!("{place}-{amount}"));
    assert_eq!(world.died().await, None, "by a signal");
    asked
}

#[tokio::test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
async fn case_01_dead_between_promise_and_assignment() {
    let mut world = Plan::new().without_daemon().await;
    let asked = dies(&mut world, "accept.committed", "5").await;
    assert!(attempts(&world).await.is_empty(), "nothing is signed yet");
    // Dead again before anything runs.
    world.restart_with("start.loaded").await;
    world.died().await;
    world.restart().await;
    world.until(&asked.await.unwrap(), State::Paid).await;
    world.judge().await;
}

#[tokio::test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
async fn case_02_dead_between_signature_and_broadcast() {
    let mut world = Plan::new().without_daemon().await;
    let asked = dies(&mut world, "assign.committed", "5").await;
    let [stored] = attempts(&world).await[..] else { panic!("one attempt") };
    assert!(pool(&world).await.is_empty(), "nobody has it");
    assert_eq!(world.chain.nonce(world.card.relayers[0]).await, 0);
    world.restart().await;
    let paid = world.until(&asked.await.unwrap(), State::Paid).await;
    assert_eq!(paid.transaction, Some(stored), "the same bytes went out");
    world.judge().await;
}

#[tokio::test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
async fn case_03_dead_between_broadcast_and_record() {
    let mut world = Plan::new().automine().without_daemon().await;
    // In the pool when the next daemon says it again.
    world.chain.automine(false).await;
    let asked = dies(&mut world, "send.answered", "5").await;
    let [stored] = attempts(&world).await[..] else { panic!("one attempt") };
    assert_eq!(pool(&world).await, [stored]);
    world.restart().await;
    wait_for("the same bytes, known already", async || {
        (world.metric("bursar_sends_total{answer=\"already_known\"}").await > 0).then_some(())
    })
    .await;
    world.chain.mine().await;
    let paid = world.until(&asked.await.unwrap(), State::Paid).await;
    assert_eq!(paid.transaction, Some(stored));
    world.judge().await;
    world.stop().await;

    // In a block when the next daemon comes.
    world.chain.automine(true).await;
    let asked = dies(&mut world, "send.answered", "6").await;
    let [stored] = attempts(&world).await[..] else { panic!("one attempt") };
    world.restart().await;
    let paid = world.until(&asked.await.unwrap(), State::Paid).await;
    assert_eq!(paid.transaction, Some(stored));
    world.judge().await;
}

#[tokio::test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
async fn case_04_dead_inside_a_fee_bump() {
    let plan = Plan::new().automine().config(|config| config.submit.replace_after_s = 1);
    let mut world = plan.without_daemon().await;
    for (place, sent, amount) in [("bump.committed", false, "5"), ("bump.answered", true, "6")] {
        world.chain.automine(false).await;
        world.restart_with(place).await;
        let payment = world.pay("atlas", "acme-data", amount, place).await;
        let first = world.until(&payment, State::Broadcast).await.transaction.unwrap();
        assert_eq!(world.died().await, None);
        let [original, replacement] = attempts(&world).await[..] else { panic!("two attempts") };
        assert_eq!(original, first);
        assert_eq!(pool(&world).await, [if sent { replacement } else { original }]);
        world.restart().await;
        wait_for("the newest bytes in the pool", async || {
            let newest = attempts(&world).await.pop().unwrap();
            (pool(&world).await == [newest]).then_some(())
        })
        .await;
        world.chain.automine(true).await;
        world.chain.mine().await;
        world.until(&payment, State::Paid).await;
        world.judge().await;
        world.stop().await;
    }
    // The replacement is stored and the original is mined while nobody looks.
    world.chain.automine(false).await;
    world.restart_with("bump.committed").await;
    let payment = world.pay("atlas", "acme-data", "7", "original").await;
    let first = world.until(&payment, State::Broadcast).await.transaction;
    world.died().await;
    world.chain.mine().await;
    world.restart().await;
    assert_eq!(world.until(&payment, State::Paid).await.transaction, first);
    world.judge().await;
}

#[tokio::test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
async fn case_05_dead_around_the_booking() {
    let plan = Plan::new().config(|config| config.chain.confirmations = 2);
    let mut world = plan.without_daemon().await;
    let places = ["place.committed", "finish.read", "finish.committed"];
    for (n, place) in places.into_iter().enumerate() {
        let asked = dies(&mut world, place, &format!("{}", n + 5)).await;
        let booked = world.payments().await.iter().any(|row| row.state == State::Paid && n == 2);
        assert_eq!(booked, place == "finish.committed", "{place}");
        world.restart().await;
        world.until(&asked.await.unwrap(), State::Paid).await;
        world.judge().await;
        world.stop().await;
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
async fn dead_around_a_quorum_and_what_it_approved() {
    let mut world = Plan::new().without_daemon().await;
    for (n, place) in ["approval.committed", "approved.committed"].into_iter().enumerate() {
        world.restart_with(place).await;
        let asked = world.pay("atlas", "acme-data", &format!("{}", n + 900), place).await;
        world.approve(asked.id, 0).await;
        let olivia = world.operator(1);
        let body = world.sign_approval(asked.id, olivia.key()).await;
        // It dies before it answers, or just after: both are nothing to rely on.
        let _ = olivia.approve(asked.id, &body).await;
        assert_eq!(world.died().await, None);
        world.restart().await;
        world.until(&asked, State::Paid).await;
        world.judge().await;
        world.stop().await;
    }
}

#[tokio::test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
async fn dead_around_an_operator_s_order() {
    let mut world = Plan::new().without_daemon().await;
    for (place, name) in [("change.committed", "ember"), ("policy.read", "dune")] {
        let agent = world.address(name);
        world.restart_with(place).await;
        let order = world.order(IPolicyChanges::setFrozenCall { agent, frozen: true }, 0).await;
        let _ = world.operator(0).tighten(&order).await;
        assert_eq!(world.died().await, None);
        world.restart().await;
        wait_for("the freeze on chain", async || world.chain.is_frozen(agent).await.then_some(()))
            .await;
        wait_for("the freeze here", async || {
            (!world.agent(name).permissions().await.unwrap().active).then_some(())
        })
        .await;
        world.judge().await;
        world.stop().await;
    }
}

/// A supervisor that ends the process rather than limping: whichever task panics.
#[tokio::test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
async fn a_task_that_panics_ends_the_daemon() {
    let mut world = Plan::new().without_daemon().await;
    let places = ["accept.committed", "assign.committed", "send.answered", "finish.read"];
    for (n, place) in places.into_iter().enumerate() {
        world.restart_with(&format!("{place}:1:panic")).await;
        let asked = asking(&world, &format!("{}", n + 5), place);
        assert_eq!(world.died().await, Some(5), "{place}");
        world.restart().await;
        world.until(&asked.await.unwrap(), State::Paid).await;
        world.judge().await;
        world.stop().await;
    }
}

/// The same of a task that hangs, with its thread.
#[tokio::test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
async fn a_task_that_hangs_ends_the_daemon() {
    let mut world = Plan::new().without_daemon().await;
    let ordinary = world.config().hung_after_s;
    let places = ["accept.committed", "send.answered", "finish.read"];
    for (n, place) in places.into_iter().enumerate() {
        world.configure(|config| config.hung_after_s = 3);
        world.restart_with(&format!("{place}:1:hang")).await;
        let asked = asking(&world, &format!("{}", n + 5), place);
        assert_eq!(world.died().await, Some(5), "{place}");
        // A slow machine is no fault.
        world.configure(|config| config.hung_after_s = ordinary);
        world.restart().await;
        world.until(&asked.await.unwrap(), State::Paid).await;
        world.judge().await;
        world.stop().await;
    }
}

/// What the chain did while no daemon ran is booked before the contract's totals are read: a cap over a
/// payee's life counts it once, at once and from then on.
#[tokio::test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
async fn what_ran_while_nobody_looked_counts_once() {
    let mut world = Plan::new().without_daemon().await;
    world.restart_with("finish.read").await;
    let client = world.agent("borealis");
    let asked =
        tokio::spawn(
            async move { insist(&client, &request("coldstore", "400"), "the-first").await },
        );
    assert_eq!(world.died().await, None);
    world.restart().await;
    let first = asked.await.unwrap();
    let second = world.pay("borealis", "coldstore", "200", "what-is-left").await;
    world.until(&first, State::Paid).await;
    world.until(&second, State::Paid).await;
    let client = world.agent("borealis");
    let refused = client.submit(&request("coldstore", "0.000001"), "more").await.unwrap_err();
    assert!(refused.to_string().contains("600"), "{refused}");
    world.judge().await;
}
