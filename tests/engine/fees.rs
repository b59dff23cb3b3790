//! Fees that rise while a transaction waits, and a relayer without gas money.

use bursar::payment::State;
use serde_json::json;

use crate::support::{Plan, World, wait_for};

const GWEI: u64 = 1_000_000_000;

pub async fn base_fee(world: &World, gwei: u64) {
    let fee = format!("{:#x}", gwei * GWEI);
    world.chain.rpc("anvil_setNextBlockBaseFeePerGas", json!([fee])).await;
    world.chain.mine().await;
}

#[tokio::test]
async fn case_13_a_risen_base_fee_is_followed_up_to_the_ceiling() {
    let plan = Plan::new().automine().config(|config| {
        config.submit.replace_after_s = 1;
        config.submit.fee_ceiling_gwei = 400;
    });
    let world = plan.start().await;
    world.chain.automine(false).await;
    let payment = world.pay("atlas", "acme-data", "5", "dear").await;
    let sent = world.until(&payment, State::Broadcast).await;
    base_fee(&world, 100).await;
    assert_eq!(world.chain.usdc_of(payment.payee).await, 0, "it cannot be in that block");
    wait_for("a replacement in the pool", async || {
        let pool = world.chain.pool_of(&world.card.relayers).await;
        pool.iter().any(|(hash, _)| Some(*hash) != sent.transaction).then_some(())
    })
    .await;
    world.chain.mine().await;
    let paid = world.until(&payment, State::Paid).await;
    assert_ne!(paid.transaction, sent.transaction);
    let (_, story) = world.bursar(&["audit", "show", &payment.id.to_string()]);
    assert!(story.contains("payment.replaced"), "{story}");
    world.judge().await;

    // Above the ceiling it waits, and nothing is given up.
    let payment = world.pay("atlas", "acme-data", "6", "too-dear").await;
    world.until(&payment, State::Broadcast).await;
    base_fee(&world, 900).await;
    wait_for("the wait for lower fees", async || {
        (world.metric("bursar_waiting_for_fee").await > 0).then_some(())
    })
    .await;
    assert_eq!(world.chain.usdc_of(payment.payee).await, 5_000_000);
    base_fee(&world, 1).await;
    world.chain.rpc("evm_setIntervalMining", json!([1])).await;
    world.until(&payment, State::Paid).await;
    world.judge().await;
}

#[tokio::test]
async fn case_20_a_relayer_without_gas_money_waits_for_a_top_up() {
    let world = Plan::new().config(|config| config.submit.relayers = 1).start().await;
    let relayer = world.card.relayers[0];
    world.chain.rpc("anvil_setBalance", json!([relayer, "0x0"])).await;
    let payment = world.pay("atlas", "acme-data", "5", "gas").await;
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    let now = world.agent("atlas").payment(payment.id).await.unwrap();
    assert!(!now.state.is_terminal(), "{}", now.state);
    world.chain.rpc("anvil_setBalance", json!([relayer, "0x56bc75e2d63100000"])).await;
    world.until(&payment, State::Paid).await;
    world.judge().await;
}
