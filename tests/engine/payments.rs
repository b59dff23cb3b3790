//! Payments that simply pass, alone and many at a time.

use alloy::{primitives::keccak256, providers::Provider};
use bursar::{contract::IPolicyWallet, payment::State};

use crate::support::{Plan, request};

#[tokio::test]
async fn pays_once_and_tells_its_story() {
    let world = Plan::new().start().await;
    let asked = world.pay("atlas", "acme-data", "12.5", "story-1").await;
    let paid = world.until(&asked, State::Paid).await;
    assert_eq!(world.chain.usdc_of(world.payee("acme-data")).await, 12_500_000);

    // Chain and books name each other: the batch's context is the hash of its items' contexts.
    let events = world.chain.events::<IPolicyWallet::BatchPaid>().await;
    let [(log, event)] = events.as_slice() else { panic!("{} batches", events.len()) };
    assert_eq!(log.transaction_hash, paid.transaction);
    assert_eq!(event.agent, world.address("atlas"));
    assert_eq!(event.context, keccak256(asked.context_hash));
    assert_eq!(
        asked.context.hash(asked.id, &asked.agent, &asked.reason),
        asked.context_hash,
        "anybody can compute it"
    );

    let (code, story) = world.bursar(&["audit", "show", &asked.id.to_string(), "--json"]);
    assert_eq!(code, 0, "{story}");
    let entries: serde_json::Value = serde_json::from_str(&story).unwrap();
    let kinds: Vec<&str> =
        entries.as_array().unwrap().iter().map(|entry| entry["kind"].as_str().unwrap()).collect();
    assert_eq!(
        kinds,
        ["payment.queued", "payment.signed", "payment.broadcast", "payment.finalized"]
    );
    let (code, table) = world.bursar(&["audit", "show", &asked.id.to_string()]);
    assert_eq!(code, 0);
    assert!(table.contains("agent:atlas") && table.contains("12.5"), "{table}");
    world.judge().await;
}

#[tokio::test]
async fn payments_of_all_agents_share_transactions() {
    let world = Plan::new().config(|config| config.submit.batch_wait_ms = 400).start().await;
    let lanes = [
        ("atlas", "acme-data"),
        ("borealis", "gpu-harbor"),
        ("cinder", "llm-hub"),
        ("dune", "devtools-co"),
        ("ember", "tidewater-data"),
    ];
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..60_u32 {
        let (agent, payee) = lanes[n as usize % lanes.len()];
        let client = world.agent(agent);
        let mut body = request(payee, &format!("0.{:04}", 100 + n));
        if agent == "cinder" {
            body.context.host = Some("eu.llm-hub.example".to_owned());
        }
        asked.spawn(async move { client.submit(&body, &format!("many-{n}")).await.unwrap() });
    }
    let asked = asked.join_all().await;
    assert_eq!(asked.len(), 60);
    world.judge().await;
    let payments = world.payments().await;
    assert!(payments.iter().all(|row| row.state == State::Paid));

    let mut hashes: Vec<_> = payments.iter().filter_map(|row| row.tx_hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert!(hashes.len() <= 6, "60 payments took {} transactions", hashes.len());
    let mut gas = 0;
    for hash in &hashes {
        let receipt = world.chain.node.get_transaction_receipt(*hash).await.unwrap().unwrap();
        gas += receipt.gas_used;
    }
    // A first payment to each payee and the agents' first windows are in it.
    assert!(gas / 60 < 40_000, "{} gas a payment", gas / 60);
}
