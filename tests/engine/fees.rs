//! Fees that rise while a transaction waits, and a relayer without gas money.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use bursar::{
    payment::State,
    view::{PaymentView, WaitKind, WaitView},
};
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

    // Above the ceiling it waits and says so, and nothing is given up.
    let payment = world.pay("atlas", "acme-data", "6", "too-dear").await;
    world.until(&payment, State::Broadcast).await;
    base_fee(&world, 900).await;
    let (now, wait) = until_it_waits(&world, &payment).await;
    assert_eq!(wait.what, WaitKind::LowerFees);
    assert!(wait.since >= now.created_at, "{wait:?}");
    assert!(wait.detail.contains("900 gwei") && wait.detail.contains("400"), "{wait:?}");
    assert!(world.metric("bursar_waiting_for_fee").await > 0);
    let key = world.card.agents[&now.agent].request_key.to_str().unwrap().to_owned();
    let agent = ["--url", &world.card.api, "--agent-key", &key].map(str::to_owned);
    let mut pay = Command::new(env!("CARGO_BIN_EXE_bursar"));
    let words = ["pay", "acme-data", "6", "--reason", "an integration test", "--key", "too-dear"];
    pay.args(words).arg("--wait").args(&agent).stdout(Stdio::null()).stderr(Stdio::piped());
    let (mut pays, told) = tokio::task::spawn_blocking(move || {
        let mut pays = pay.spawn().unwrap();
        let told = BufReader::new(pays.stderr.take().unwrap()).lines().next().unwrap().unwrap();
        (pays, told)
    })
    .await
    .unwrap();
    assert!(told.starts_with("waits for lower fees since"), "{told}");
    let (code, said) = world.bursar(&[&["payments"][..], &agent.each_ref().map(|s| &**s)].concat());
    assert!(code == 0 && said.contains("broadcast, waits for lower fees"), "{said}");
    assert_eq!(world.chain.usdc_of(payment.payee).await, 5_000_000);
    base_fee(&world, 1).await;
    world.chain.rpc("evm_setIntervalMining", json!([1])).await;
    assert_eq!(world.until(&payment, State::Paid).await.waiting, None);
    let ended = tokio::task::spawn_blocking(move || pays.wait().unwrap()).await.unwrap();
    assert!(ended.success());
    world.judge().await;
}

async fn until_it_waits(world: &World, payment: &PaymentView) -> (PaymentView, WaitView) {
    let client = world.agent(payment.agent.as_str());
    wait_for("what it waits for", async || {
        let now = client.payment(payment.id).await.unwrap();
        now.waiting.clone().map(|wait| (now, wait))
    })
    .await
}

#[tokio::test]
async fn case_20_a_relayer_without_gas_money_waits_for_a_top_up() {
    let world = Plan::new().config(|config| config.submit.relayers = 1).start().await;
    let relayer = world.card.relayers[0];
    world.chain.rpc("anvil_setBalance", json!([relayer, "0x0"])).await;
    let payment = world.pay("atlas", "acme-data", "5", "gas").await;
    let (now, wait) = until_it_waits(&world, &payment).await;
    assert!(!now.state.is_terminal(), "{}", now.state);
    assert_eq!(wait.what, WaitKind::GasMoney);
    assert!(wait.detail.contains(&relayer.to_string()), "{wait:?}");
    world.chain.rpc("anvil_setBalance", json!([relayer, "0x56bc75e2d63100000"])).await;
    world.until(&payment, State::Paid).await;
    world.judge().await;
}
