//! USDC says no: paused, a blocked payee, too little money. Nothing is booked that did not move.

use alloy::{hex, primitives::Address};
use bursar::{payment::State, view::PaymentView};
use serde_json::json;

use crate::support::{Plan, World, chain::owner, wait_for};

/// Waits until a payment came back from the chain unpaid.
async fn skipped(world: &World, payment: &PaymentView) -> PaymentView {
    let client = world.agent(payment.agent.as_str());
    wait_for("a skipped payment", async || {
        let now = client.payment(payment.id).await.unwrap();
        assert_ne!(now.state, State::Paid);
        now.refusal.is_some().then_some(now)
    })
    .await
}

#[tokio::test]
async fn case_21_while_usdc_is_paused_payments_wait() {
    let world = Plan::new().start().await;
    world.chain.own(owner::pauseCall {}).await;
    let payment = world.pay("atlas", "acme-data", "5", "paused").await;
    let waits = skipped(&world, &payment).await;
    assert!(waits.refusal.unwrap().detail.contains("USDC"));
    let told = world.agent("atlas").permissions().await.unwrap();
    let day = told.limits.iter().find(|limit| limit.rule == "limits.day").unwrap();
    assert_eq!(day.used, "5", "it stays reserved");
    world.chain.own(owner::unpauseCall {}).await;
    world.until(&payment, State::Paid).await;
    world.judge().await;
}

#[tokio::test]
async fn case_21_a_blocked_payee_fails_alone_and_frees_its_reservation() {
    let world = Plan::new()
        .config(|config| {
            config.payments.queue_ttl_s = 3;
            config.submit.batch_wait_ms = 300;
        })
        .start()
        .await;
    let account = world.payee("acme-data");
    world.chain.own(owner::blacklistCall { account }).await;
    let blocked = world.pay("atlas", "acme-data", "5", "blocked").await;
    let beside = world.pay("atlas", "llm-hub", "6", "beside").await;
    world.until(&beside, State::Paid).await;
    let ended = world.until(&blocked, State::Failed).await;
    assert!(ended.refusal.unwrap().detail.contains("USDC"));
    let told = world.agent("atlas").permissions().await.unwrap();
    let day = told.limits.iter().find(|limit| limit.rule == "limits.day").unwrap();
    assert_eq!(day.used, "6");
    // The end stands, though the payee could be paid again.
    world.chain.own(owner::unBlacklistCall { account }).await;
    world.judge().await;
}

/// Code that answers `transfer` with false, and leaves everything else to the code at `other`.
fn says_false(other: Address) -> String {
    format!(
        "0x365f5f375f3560e01c63a9059cbb14603b575f5f365f73{}5af43d5f5f3e6037573d5ffd5b3d5ff35b5f5f5260205ff3",
        hex::encode(other)
    )
}

#[tokio::test]
async fn case_21_a_transfer_that_returns_false_is_not_paid() {
    let world = Plan::new().start().await;
    let (usdc, other) = (world.card.usdc, Address::repeat_byte(0x77));
    let code = world.chain.rpc("eth_getCode", json!([usdc, "latest"])).await;
    world.chain.rpc("anvil_setCode", json!([other, code])).await;
    world.chain.rpc("anvil_setCode", json!([usdc, says_false(other)])).await;
    let payment = world.pay("atlas", "acme-data", "5", "false").await;
    let waits = skipped(&world, &payment).await;
    assert!(waits.refusal.unwrap().detail.contains("USDC"));
    assert_eq!(world.chain.usdc_of(payment.payee).await, 0);
    world.chain.rpc("anvil_setCode", json!([usdc, code])).await;
    world.until(&payment, State::Paid).await;
    world.judge().await;
}

#[tokio::test]
async fn a_wallet_short_of_money_pays_what_it_can() {
    let world = Plan::new().start().await;
    world.deal(10_000_000).await;
    let one = world.pay("atlas", "acme-data", "8", "short-1").await;
    world.until(&one, State::Paid).await;
    let two = world.pay("atlas", "acme-data", "9", "short-2").await;
    skipped(&world, &two).await;
    world.deal(100_000_000).await;
    world.until(&two, State::Paid).await;
    world.judge().await;
}
