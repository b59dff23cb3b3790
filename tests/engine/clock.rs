//! Long spans in short tests: a daemon in this process lives by a clock that the test holds.

use std::time::Duration;

use bursar::{client::ClientError, clock::Clock, payment::State, refusal::Code, view::Permissions};

use crate::support::{Plan, request, wait_for};

const DAY: Duration = Duration::from_secs(86_400);

fn used(permissions: &Permissions) -> &str {
    &permissions.limits.iter().find(|limit| limit.rule == "limits.day").unwrap().used
}

#[tokio::test]
async fn what_waits_a_day_for_operators_expires_and_frees_its_room() {
    let world = Plan::new().without_daemon().await;
    let (clock, hand) = Clock::held(Clock::system().now_ms());
    let service = world.serve_here(&clock).await;
    let atlas = world.agent("atlas").clock(clock.clone());

    let large = atlas.submit(&request("acme-data", "900"), "large").await.unwrap();
    assert_eq!(large.state, State::AwaitingApproval);
    let small = atlas.submit(&request("acme-data", "2"), "small").await.unwrap();
    wait_for("the small one", async || {
        (atlas.payment(small.id).await.unwrap().state == State::Paid).then_some(())
    })
    .await;

    assert_eq!(used(&atlas.permissions().await.unwrap()), "902");

    hand.advance(DAY - Duration::from_secs(1));
    assert_eq!(atlas.payment(large.id).await.unwrap().state, State::AwaitingApproval);
    hand.advance(Duration::from_secs(2));
    let ended = wait_for("its end", async || {
        let now = atlas.payment(large.id).await.unwrap();
        now.state.is_terminal().then_some(now)
    })
    .await;
    assert_eq!(ended.state, State::Expired);

    // A request signed by a clock of yesterday is stale.
    let late = world.agent("atlas").submit(&request("acme-data", "2"), "late").await.unwrap_err();
    assert!(matches!(late, ClientError::Refused(problem)
        if problem.refusal.code == Code::InvalidSignature));

    // Yesterday's payment leaves the day's window.
    hand.advance(DAY);
    assert_eq!(used(&atlas.permissions().await.unwrap()), "0");
    service.stop().await;
    world.judge().await;
}
