//! What a restart must not forget.

use bursar::{contract::IPolicyChanges, payment::State, refusal::Code};
use sqlx::Row as _;

use crate::support::{Backend, Plan, RefusedWith, request, wait_for};

#[tokio::test]
async fn one_file_has_one_daemon() {
    let mut world = Plan::new().on(Backend::Sqlite).start().await;
    let (code, said) = world.bursar(&["serve"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("another bursar serves this store"), "{said}");
    // Whoever only reads is not kept out.
    let (code, said) = world.bursar(&["reconcile"]);
    assert_eq!(code, 0, "{said}");
    // However the first one ended, the next one gets the store.
    world.kill();
    world.restart().await;
    world.judge().await;
}

#[tokio::test]
async fn caps_and_counts_outlive_a_restart() {
    let mut world = Plan::new()
        .policy("borealis", "day = \"8000\"", "day = \"900\"")
        .policy("ember", "same_payment = 10", "same_payment = 3")
        .policy("dune", "per_hour = 400", "per_hour = 2")
        .start()
        .await;
    world.pay("borealis", "gpu-harbor", "500", "big").await;
    for n in 0..2 {
        world.pay("ember", "acme-data", "3", &format!("loop-{n}")).await;
        world.pay("dune", "devtools-co", &format!("{}", n + 1), &format!("count-{n}")).await;
    }
    // One is still reserved when the daemon dies, the others may be final.
    world.kill();
    for _ in 0..2 {
        world.restart().await;
        let borealis = world.agent("borealis").submit(&request("gpu-harbor", "401"), "more").await;
        assert_eq!(borealis.code(), Code::DayCapExceeded);
        let dune = world.agent("dune").submit(&request("devtools-co", "9"), "third").await;
        assert_eq!(dune.code(), Code::TooManyPayments);
        world.judge().await;
        world.stop().await;
    }
    world.restart().await;
    world.pay("ember", "acme-data", "3", "loop-2").await;
    let looped = world.agent("ember").submit(&request("acme-data", "3"), "loop-3").await;
    assert_eq!(looped.code(), Code::LoopDetected);
    world.pay("borealis", "gpu-harbor", "400", "rest").await;
    world.judge().await;
}

#[tokio::test]
async fn a_quiet_chain_strands_nothing() {
    let mut world = Plan::new().automine().start().await;
    world.chain.automine(false).await;
    let payment = world.pay("atlas", "acme-data", "5", "quiet").await;
    world.until(&payment, State::Broadcast).await;
    world.kill();
    // Mined while nobody looks, and no block comes after it.
    world.chain.mine().await;
    world.restart().await;
    world.until(&payment, State::Paid).await;
    world.judge().await;
}

#[tokio::test]
async fn killed_with_its_transaction_in_the_pool() {
    let mut world = Plan::new().automine().start().await;
    world.chain.automine(false).await;
    let mut asked = Vec::new();
    for n in 0..6 {
        let amount = format!("1.{n}");
        asked.push(world.pay("atlas", "acme-data", &amount, &format!("pool-{n}")).await);
    }
    world.until(&asked[0], State::Broadcast).await;
    world.kill();
    world.restart().await;
    for payment in &asked {
        world.until(payment, State::Broadcast).await;
    }
    world.chain.automine(true).await;
    world.chain.mine().await;
    for payment in &asked {
        world.until(payment, State::Paid).await;
    }
    world.judge().await;
}

#[tokio::test]
async fn signatures_and_orders_outlive_the_daemon_that_took_them() {
    let mut world = Plan::new().start().await;
    let large = world.pay("atlas", "acme-data", "900", "large").await;
    world.approve(large.id, 0).await;
    world.kill();
    world.restart().await;
    assert_eq!(world.operator(1).approval(large.id).await.unwrap().signed_by.len(), 1);
    world.approve(large.id, 1).await;
    world.kill();
    world.restart().await;
    world.until(&large, State::Paid).await;

    let agent = world.address("ember");
    let freeze = IPolicyChanges::setFrozenCall { agent, frozen: true };
    let order = world.order(freeze, 0).await;
    world.operator(0).tighten(&order).await.unwrap();
    world.kill();
    world.restart().await;
    let refused = world.agent("ember").submit(&request("acme-data", "1"), "frozen").await;
    assert_eq!(refused.code(), Code::AgentFrozen);
    wait_for("the freeze on chain", async || world.chain.is_frozen(agent).await.then_some(()))
        .await;
    world.judge().await;
}

#[tokio::test]
async fn case_19_on_another_chain_it_does_not_start() {
    let world = Plan::new().automine().without_daemon().await;
    world.configure(|config| config.chain.chain_id = 1);
    let (code, said) = world.bursar(&["serve"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("31337") && said.contains("nothing was signed"), "{said}");
    world.configure(|config| {
        config.chain.chain_id = 31_337;
        config.chain.wallet = config.payees[0].address;
    });
    let (code, said) = world.bursar(&["serve"]);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("no contract at chain.wallet"), "{said}");
}

/// A relayer's counter ahead of what it signed, as after blocks that fell out or a restored backup:
/// anvil, like geth, takes what comes after the gap and never mines it.
#[tokio::test]
async fn a_gap_of_nonces_that_nothing_was_signed_for_is_filled() {
    let mut world = Plan::new().config(|config| config.submit.relayers = 1).start().await;
    let before = world.pay("atlas", "acme-data", "5", "before").await;
    world.until(&before, State::Paid).await;
    world.stop().await;
    let tables = world.tables().await;
    let relayer = world.card.relayers[0];
    sqlx::query("UPDATE nonce SET next = next + 20 WHERE sender = $1")
        .bind(relayer.to_string())
        .execute(&tables)
        .await
        .unwrap();
    world.restart().await;
    let after = world.pay("atlas", "acme-data", "6", "after").await;
    world.until(&after, State::Paid).await;
    world.judge().await;
    assert_eq!(world.chain.nonce(relayer).await, 22);
    let filled =
        "SELECT CAST(COUNT(*) AS BIGINT) FROM audit_entry WHERE kind = 'relayer.gap_filled'";
    let filled: i64 = sqlx::query(filled).fetch_one(&tables).await.unwrap().get(0);
    assert_eq!(filled, 20);
    tables.close().await;
}
