//! Alerts: told once up and once down, over a restart too.

use std::time::Duration;

use bursar::{clock::Clock, refusal::Code};

use super::Receiver;
use crate::support::{Plan, RefusedWith as _, request, wait_for};

/// `kind subject` of every alert event, in the order of the events.
fn told(receiver: &Receiver) -> Vec<String> {
    let mut got = receiver.got();
    got.retain(|one| one.kind.starts_with("alert."));
    got.sort_by_key(|one| one.id["audit_".len()..].parse::<u64>().unwrap());
    got.dedup_by_key(|one| one.id.clone());
    let line = |one: &super::receiver::Got| {
        let (alert, subject) = (one.data["alert"].as_str(), one.data["subject"].as_str());
        format!("{} {} {}", one.kind, alert.unwrap(), subject.unwrap())
    };
    got.iter().map(line).collect()
}

#[tokio::test]
async fn a_loop_a_cap_and_denials_are_told_once() {
    let receiver = Receiver::start().await;
    let plan = Plan::new().policy("atlas", "same_payment = 12", "same_payment = 2");
    let world = plan.without_daemon().await;
    world.configure(|config| {
        receiver.named(config, &world.card.dir, &["alert.*"]);
        config.alerts.cap_percent = 12;
        config.alerts.denials = 3;
        config.alerts.rpc_lag_s = 4_000;
    });
    let (clock, hand) = Clock::held(jiff::Timestamp::now().as_millisecond());
    let service = world.serve_here(&clock).await;
    let atlas = world.agent("atlas").clock(clock.clone());
    // 400 of 3,000 are more than 12 %.
    for (key, amount) in [("a", "200"), ("b", "200")] {
        atlas.submit(&request("acme-data", amount), key).await.unwrap();
    }
    for key in ["c", "d", "e"] {
        let refused = atlas.submit(&request("acme-data", "200"), key).await;
        assert_eq!(refused.code(), Code::LoopDetected);
    }
    let all = async |count: usize| {
        let told = async || Some(told(&receiver)).filter(|told| told.len() == count);
        let mut told = wait_for("the alerts", told).await;
        told.sort();
        told
    };
    let raised = [
        "alert.raised cap_near atlas limits.day",
        "alert.raised denials atlas",
        "alert.raised loop atlas",
    ];
    assert_eq!(all(3).await, raised);
    service.stop().await;

    // What is still wrong after a restart is not told again; what is over is.
    hand.advance(Duration::from_secs(600));
    let service = world.serve_here(&clock).await;
    let cleared = ["alert.cleared denials atlas", "alert.cleared loop atlas"];
    assert_eq!(all(5).await, [&cleared[..], &raised[..]].concat());

    // A clock that runs away from the chain's is a chain that stands still.
    hand.advance(Duration::from_secs(4_000));
    assert_eq!(all(6).await[5], "alert.raised rpc_lag ");
    service.stop().await;
}
