//! What a node and a chain may do to a transaction on its way.

use std::time::Duration;

use alloy::{primitives::Bytes, sol_types::SolCall};
use bursar::{contract::IPolicyWallet, payment::State, refusal::Code};
use serde_json::json;

use crate::support::{Plan, Proxy, RefusedWith as _, request, wait_for};

/// Long enough for the daemon to look at a new head twice.
async fn a_look() {
    tokio::time::sleep(Duration::from_millis(250)).await;
}

#[tokio::test]
async fn somebody_else_relays_our_batch_first() {
    let world = Plan::new().automine().start().await;
    world.chain.automine(false).await;
    let ours = [
        world.pay("atlas", "acme-data", "5", "foreign-1").await,
        world.pay("atlas", "llm-hub", "6", "foreign-2").await,
        world.pay("dune", "devtools-co", "7", "foreign-3").await,
    ];
    for payment in &ours {
        world.until(payment, State::Broadcast).await;
    }
    // The same signed lists out of the pool, from somebody who pays more.
    let mut foreign = Vec::new();
    for (_, input) in world.chain.pool_of(&world.card.relayers).await {
        foreign
            .push(world.chain.queue_from(world.card.deployer, world.card.wallet, input, 100).await);
    }
    world.chain.mine().await;
    for payment in &ours {
        let paid = world.until(payment, State::Paid).await;
        assert!(foreign.contains(&paid.transaction.unwrap()), "{paid:?}");
    }
    world.judge().await;

    // Again, with ours in a later block than theirs.
    let late = world.pay("atlas", "acme-data", "8", "foreign-4").await;
    world.until(&late, State::Broadcast).await;
    let (hash, input) = world.chain.pool_of(&world.card.relayers).await.remove(0);
    world.chain.drop_tx(hash).await;
    // A mischievous relay carries the list twice in one call.
    let mut call = IPolicyWallet::payBatchCall::abi_decode(&input).unwrap();
    call.batches.extend(call.batches.clone());
    let input = call.abi_encode().into();
    let theirs = world.chain.queue_from(world.card.deployer, world.card.wallet, input, 100).await;
    world.chain.mine().await;
    wait_for("our bytes again", async || {
        let pool = world.chain.pool_of(&world.card.relayers).await;
        pool.iter().any(|(again, _)| *again == hash).then_some(())
    })
    .await;
    world.chain.mine().await;
    assert_eq!(world.until(&late, State::Paid).await.transaction, Some(theirs));
    world.judge().await;
}

#[tokio::test]
async fn case_14_a_reorganisation_takes_a_payment_out_and_it_is_sent_again() {
    let plan = Plan::new().automine().config(|config| config.chain.confirmations = 3);
    let world = plan.start().await;
    world.chain.automine(false).await;
    let payment = world.pay("atlas", "acme-data", "5", "reorg").await;
    world.until(&payment, State::Broadcast).await;
    world.chain.mine().await;
    world.until(&payment, State::Included).await;
    world.chain.mine().await;
    a_look().await;
    let shallow = world.agent("atlas").payment(payment.id).await.unwrap();
    assert_eq!(shallow.state, State::Included, "at depth 2 of 3");
    let (_, story) = world.bursar(&["audit", "show", &payment.id.to_string()]);
    assert!(!story.contains("reorganised"), "nothing fell out yet:\n{story}");

    world.chain.rpc("anvil_reorg", json!([2, []])).await;
    assert_eq!(world.chain.usdc_of(payment.payee).await, 0);
    wait_for("the same bytes in the pool again", async || {
        let pool = world.chain.pool_of(&world.card.relayers).await;
        pool.iter().any(|(hash, _)| Some(*hash) == shallow.transaction).then_some(())
    })
    .await;
    world.until(&payment, State::Broadcast).await;
    for depth in 1..=2 {
        world.chain.mine().await;
        a_look().await;
        let early = world.agent("atlas").payment(payment.id).await.unwrap();
        assert_eq!(early.state, State::Included, "at depth {depth} of 3");
    }
    world.chain.mine().await;
    world.until(&payment, State::Paid).await;
    let (_, story) = world.bursar(&["audit", "show", &payment.id.to_string()]);
    assert!(story.contains("payment.reorganised"), "{story}");
    world.judge().await;
}

#[tokio::test]
async fn case_14_six_blocks_fall_out() {
    let world =
        Plan::new().automine().config(|config| config.chain.confirmations = 8).start().await;
    world.chain.automine(false).await;
    let payment = world.pay("atlas", "acme-data", "5", "six").await;
    let sent = world.until(&payment, State::Broadcast).await;
    for _ in 0..6 {
        world.chain.mine().await;
        world.until(&payment, State::Included).await;
    }
    world.chain.rpc("anvil_reorg", json!([6, []])).await;
    assert_eq!(world.chain.usdc_of(payment.payee).await, 0);
    wait_for("the same bytes in the pool again", async || {
        let pool = world.chain.pool_of(&world.card.relayers).await;
        pool.iter().any(|(hash, _)| Some(*hash) == sent.transaction).then_some(())
    })
    .await;
    for _ in 0..8 {
        world.chain.mine().await;
    }
    assert_eq!(world.until(&payment, State::Paid).await.transaction, sent.transaction);
    world.judge().await;
}

#[tokio::test]
async fn case_15_a_reservation_outlives_the_block_that_fell_out() {
    let world = Plan::new()
        .automine()
        .config(|config| config.chain.confirmations = 4)
        .policy("borealis", "day = \"8000\"", "day = \"900\"")
        .start()
        .await;
    world.chain.automine(false).await;
    let first = world.pay("borealis", "gpu-harbor", "500", "first").await;
    world.until(&first, State::Broadcast).await;
    world.chain.mine().await;
    world.until(&first, State::Included).await;
    world.chain.rpc("anvil_reorg", json!([1, []])).await;
    world.until(&first, State::Broadcast).await;
    let borealis = world.agent("borealis");
    let more = borealis.submit(&request("gpu-harbor", "401"), "more").await;
    assert_eq!(more.code(), Code::DayCapExceeded);
    let rest = world.pay("borealis", "gpu-harbor", "400", "rest").await;
    world.chain.rpc("evm_setIntervalMining", json!([1])).await;
    world.until(&first, State::Paid).await;
    world.until(&rest, State::Paid).await;
    let more = borealis.submit(&request("gpu-harbor", "1"), "one-more").await;
    assert_eq!(more.code(), Code::DayCapExceeded);
    world.judge().await;
}

/// Deeper than finality: nothing promises anything then, but no sender may get stuck behind it.
#[tokio::test]
async fn a_final_block_that_falls_out_all_the_same_leaves_no_gap() {
    let world = Plan::new().automine().config(|config| config.submit.relayers = 1).start().await;
    let first = world.pay("atlas", "acme-data", "5", "final").await;
    world.until(&first, State::Paid).await;
    world.chain.automine(false).await;
    world.chain.rpc("anvil_reorg", json!([1, []])).await;
    assert_eq!(world.chain.nonce(world.card.relayers[0]).await, 0);
    let second = world.pay("atlas", "acme-data", "6", "behind").await;
    world.until(&second, State::Broadcast).await;
    world.chain.rpc("evm_setIntervalMining", json!([1])).await;
    world.until(&second, State::Paid).await;
    assert_eq!(world.chain.nonce(world.card.relayers[0]).await, 2);
    assert_eq!(world.chain.usdc_of(first.payee).await, 11_000_000);
}

#[tokio::test]
async fn case_17_dropped_from_the_pool_the_same_bytes_go_out_again() {
    let world = Plan::new().automine().start().await;
    world.chain.automine(false).await;
    let payment = world.pay("atlas", "acme-data", "5", "dropped").await;
    world.until(&payment, State::Broadcast).await;
    for _ in 0..2 {
        let (hash, _) = wait_for("the transaction in the pool", async || {
            world.chain.pool_of(&world.card.relayers).await.pop()
        })
        .await;
        world.chain.drop_tx(hash).await;
        wait_for("the same transaction again", async || {
            let mut pool = world.chain.pool_of(&world.card.relayers).await;
            assert!(pool.iter().all(|(again, _)| *again == hash), "other bytes: {pool:?}");
            pool.pop()
        })
        .await;
    }
    world.chain.mine().await;
    world.until(&payment, State::Paid).await;
    world.judge().await;
}

#[tokio::test]
async fn a_dead_node_delays_payments_and_loses_none() {
    let mut world = Plan::new().without_daemon().await;
    let wire = Proxy::start(&world.card.rpc).await;
    let url = wire.url();
    world.configure(|config| config.chain.rpc = vec![url]);
    world.restart().await;
    let before = world.pay("atlas", "acme-data", "1", "wire-0").await;
    world.until(&before, State::Paid).await;

    wire.cut();
    let mut waiting = Vec::new();
    for n in 1..=5 {
        let key = format!("wire-{n}");
        waiting.push(world.pay("atlas", "acme-data", &format!("1.{n}"), &key).await);
    }
    a_look().await;
    a_look().await;
    let ready = reqwest::get(format!("{}/readyz", world.card.api)).await.unwrap();
    assert_eq!(ready.status(), reqwest::StatusCode::SERVICE_UNAVAILABLE);
    for payment in &waiting {
        let now = world.agent("atlas").payment(payment.id).await.unwrap();
        assert!(!now.state.is_terminal() && now.state != State::Included, "{}", now.state);
    }
    wire.mend();
    for payment in &waiting {
        world.until(payment, State::Paid).await;
    }
    world.judge().await;
}

#[tokio::test]
async fn an_answer_lost_on_the_way_is_no_failure() {
    let mut world = Plan::new().without_daemon().await;
    let wire = Proxy::start(&world.card.rpc).await;
    let url = wire.url();
    world.configure(|config| config.chain.rpc = vec![url]);
    world.restart().await;
    // Cut and mended while payments are signed, sent and read: some answers never arrive.
    let mut asked = Vec::new();
    for n in 0..12 {
        asked.push(
            world.pay("atlas", "acme-data", &format!("2.{n:02}"), &format!("lost-{n}")).await,
        );
        tokio::time::sleep(Duration::from_millis(15 * n)).await;
        wire.cut();
        tokio::time::sleep(Duration::from_millis(20)).await;
        wire.mend();
    }
    for payment in &asked {
        world.until(payment, State::Paid).await;
    }
    world.judge().await;
}

#[tokio::test]
async fn a_relayer_s_nonce_that_was_spent_elsewhere_strands_nothing() {
    let world = Plan::new().automine().config(|config| config.submit.relayers = 1).start().await;
    world.chain.automine(false).await;
    let payment = world.pay("atlas", "acme-data", "5", "displaced").await;
    world.until(&payment, State::Broadcast).await;
    let (ours, _) = world.chain.pool_of(&world.card.relayers).await.remove(0);
    world.chain.drop_tx(ours).await;
    // Somebody has the relayer's key, and is faster.
    let relayer = world.card.relayers[0];
    world.chain.rpc("anvil_impersonateAccount", json!([relayer])).await;
    world.chain.queue_from(relayer, world.card.deployer, Bytes::new(), 900).await;
    world.chain.mine().await;
    wait_for("our bytes to be refused", async || {
        world.chain.mine().await;
        let now = world.agent("atlas").payment(payment.id).await.unwrap();
        now.refusal.map(|_| ())
    })
    .await;
    world.chain.automine(true).await;
    // Undecided until its signature is dead; then under a nonce of its own.
    assert_eq!(world.agent("atlas").payment(payment.id).await.unwrap().state, State::Included);
    world.chain.pass(world.config().submit.signature_ttl_s + 60).await;
    world.until(&payment, State::Paid).await;
    let next = world.pay("dune", "devtools-co", "6", "after").await;
    world.until(&next, State::Paid).await;
    world.judge().await;
}
