//! Events from the daemon to a receiver, and `bursar webhooks`.

use bursar::{payment::State, view::DeliveryState};
use http::StatusCode;
use serde_json::Value;

use super::Receiver;
use crate::support::{Plan, World, wait_for};

async fn world(receiver: &Receiver, kinds: &[&str]) -> World {
    let world = Plan::new().without_daemon().await;
    world.configure(|config| receiver.named(config, &world.card.dir, kinds));
    world
}

/// Lets every claim of a dead daemon end at once.
async fn claims_end(world: &World) {
    let tables = world.tables().await;
    sqlx::query("UPDATE delivery SET due_ms = 0").execute(&tables).await.unwrap();
    tables.close().await;
}

#[tokio::test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
async fn case_05_dead_before_and_after_the_webhook() {
    let receiver = Receiver::start().await;
    let mut world = world(&receiver, &["payment.*"]).await;
    world.restart_with("webhook.claimed").await;
    let payment = world.pay("atlas", "acme-data", "5", "told").await;
    world.died().await;
    assert!(receiver.got().is_empty(), "nobody was told");
    claims_end(&world).await;
    world.restart_with("webhook.answered").await;
    world.died().await;
    assert_eq!(receiver.got().len(), 1, "told, and not written down");
    claims_end(&world).await;
    world.restart().await;
    let delivered = async || {
        let list = world.operator(0).deliveries(&Default::default()).await.unwrap();
        list.iter().all(|one| one.state == DeliveryState::Delivered).then_some(list)
    };
    assert_eq!(wait_for("the delivery", delivered).await.len(), 1);
    let got = receiver.got();
    let id = format!("end_{}", payment.id);
    assert_eq!(got.len(), 2);
    assert!(got.iter().all(|one| one.id == id && one.kind == "payment.finalized" && one.verified));
    assert_eq!(got[0].data, got[1].data);
    assert_eq!(got[0].data["amount"], "5");
    world.judge().await;
}

fn webhooks(world: &World, args: &[&str], code: i32) -> String {
    operator(world, &[&["webhooks"], args].concat(), code)
}

/// Runs a command as an operator; the code it must end with, and what it said.
fn operator(world: &World, args: &[&str], code: i32) -> String {
    let entry = &world.card.operators[0];
    let (key, pass) = (entry.keystore.display(), entry.passphrase_file.display());
    let (key, pass) = (key.to_string(), pass.to_string());
    let mut line = args.to_vec();
    line.extend(["--url", &world.card.api, "--keystore", &key, "--passphrase-file", &pass]);
    let (ended, text) = world.bursar(&line);
    assert_eq!(ended, code, "{args:?}\n{text}");
    text
}

// The commands block their thread while the receiver answers.
#[tokio::test(flavor = "multi_thread")]
async fn operators_see_what_was_told_and_send_it_again() {
    let receiver = Receiver::start().await;
    let mut world = world(&receiver, &["payment.*", "alert.*"]).await;
    world.restart().await;
    let paid = world.pay("atlas", "acme-data", "5", "told").await;
    world.until(&paid, State::Paid).await;
    let large = world.pay("atlas", "acme-data", "500", "asks").await;
    assert_eq!(large.state, State::AwaitingApproval);
    wait_for("two events", async || (receiver.got().len() == 2).then_some(())).await;
    let mut kinds: Vec<String> = receiver.got().into_iter().map(|got| got.kind).collect();
    kinds.sort();
    assert_eq!(kinds, ["payment.awaiting_approval", "payment.finalized"]);
    let text = webhooks(&world, &["test", "billing"], 0);
    assert!(text.contains("webhook.test") && text.contains("delivered"), "{text}");
    let text = webhooks(&world, &["deliveries"], 0);
    assert!(text.contains(&format!("end_{}", paid.id)), "{text}");

    receiver.answer(StatusCode::GONE);
    let text = webhooks(&world, &["test", "billing"], 3);
    assert!(text.contains("410"), "{text}");
    assert!(webhooks(&world, &["list"], 0).contains("DISABLED"));
    wait_for("the alert", async || {
        (world.metric("bursar_alerts{kind=\"webhook\"}").await == 1).then_some(())
    })
    .await;
    let status: Value = serde_json::from_str(&operator(&world, &["status", "--json"], 0)).unwrap();
    assert_eq!(status["alerts"][0]["alert"], "webhook");
    assert_eq!(status["queue"][0]["state"], "awaiting_approval");
    assert_eq!(status["relayers"].as_array().unwrap().len(), world.card.relayers.len());
    assert_eq!(status["webhooks"][0]["disabled"], "410: it wants no more webhooks");
    let text = operator(&world, &["status"], 0);
    for part in ["ALERTS", "webhook endpoint billing takes nothing", "awaiting_approval", "at risk"]
    {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    receiver.answer(StatusCode::OK);
    assert!(!webhooks(&world, &["enable", "billing"], 0).contains("DISABLED"));
    // The test that was refused, and the news that it was.
    wait_for("what waited", async || {
        let alerts = receiver.got().into_iter().filter(|got| got.kind.starts_with("alert."));
        let kinds: Vec<String> = alerts.map(|got| got.kind).collect();
        (kinds == ["alert.raised", "alert.cleared"]).then_some(())
    })
    .await;

    let before = receiver.got().len();
    let event = format!("end_{}", paid.id);
    webhooks(&world, &["replay", "billing", "--event", &event], 0);
    wait_for("the replay", async || (receiver.got().len() == before + 1).then_some(())).await;
    assert_eq!(receiver.got()[before].id, event);
    let text = webhooks(&world, &["replay", "billing", "--since", "1h"], 0);
    assert!(text.contains("0 events"), "{text}");
    assert!(webhooks(&world, &["replay", "nobody", "--since", "1h"], 1).contains("billing"));
    webhooks(&world, &["replay", "billing", "--event", "none"], 1);
    webhooks(&world, &["replay", "billing"], 2);
    assert!(receiver.got().iter().all(|got| got.verified));
    world.judge().await;
}
