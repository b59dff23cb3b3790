//! One key, one payment; and what is a result, and what is not.

use bursar::{auth, payment::State, refusal::Code};
use http::{HeaderMap, Method};
use reqwest::StatusCode;

use crate::support::{Plan, RefusedWith, World, request};

#[tokio::test]
async fn case_25_one_key_is_one_payment_however_parallel() {
    let world = Plan::new().start().await;
    let mut answers = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let client = world.agent("atlas");
        answers.spawn(async move { client.submit(&request("acme-data", "3"), "same").await });
    }
    let mut ids: Vec<_> =
        answers.join_all().await.into_iter().map(|answer| answer.unwrap().id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 1);

    // The same amount in other digits is the same request; another amount is not.
    let atlas = world.agent("atlas");
    assert_eq!(atlas.submit(&request("acme-data", "3.00"), "same").await.unwrap().id, ids[0]);
    let other = atlas.submit(&request("acme-data", "4"), "same").await;
    assert_eq!(other.code(), Code::IdempotencyKeyReused);
    world.judge().await;
    assert_eq!(world.payments().await.len(), 1);
    // The end is the answer from then on.
    let end = atlas.submit(&request("acme-data", "3"), "same").await.unwrap();
    assert_eq!((end.id, end.state), (ids[0], State::Paid));
}

#[tokio::test]
async fn case_25_a_denial_is_a_result_and_a_rate_limit_is_none() {
    let world = Plan::new().policy("ember", "day = \"200\"", "day = \"30\"").start().await;
    let ember = world.agent("ember");
    let dear = ember.submit(&request("acme-data", "21"), "dear").await;
    assert_eq!(dear.code(), Code::CeilingExceeded);
    let again = ember.submit(&request("acme-data", "21"), "dear").await;
    assert_eq!(again.code(), Code::CeilingExceeded);
    let kept: Vec<_> = world.payments().await;
    assert_eq!(kept.iter().map(|row| row.state).collect::<Vec<_>>(), [State::Denied]);

    ember.submit(&request("acme-data", "20"), "first").await.unwrap();
    let full = ember.submit(&request("acme-data", "15"), "second").await;
    assert_eq!(full.code(), Code::DayCapExceeded);
    // Nothing was stored under that key: a smaller purchase may use it.
    ember.submit(&request("acme-data", "10"), "second").await.unwrap();
    world.judge().await;
    assert_eq!(world.payments().await.len(), 3);
}

async fn send(world: &World, headers: HeaderMap, body: Vec<u8>) -> StatusCode {
    let url = format!("{}/v1/payments", world.card.api);
    let sent = reqwest::Client::new().post(url).headers(headers).body(body).send().await.unwrap();
    sent.status()
}

#[tokio::test]
async fn case_26_a_signed_request_counts_once_and_needs_its_key() {
    let world = Plan::new().start().await;
    let body = serde_json::to_vec(&request("acme-data", "2")).unwrap();
    let sign = |key: Option<&str>| {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json".parse().unwrap());
        if let Some(key) = key {
            headers.insert("idempotency-key", format!("\"{key}\"").parse().unwrap());
        }
        let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap();
        let url = format!("{}/v1/payments", world.card.api);
        let signed = auth::agent::sign(
            auth::Request { method: &Method::POST, target: &url, headers: &headers, body: &body },
            &world.request_key("atlas"),
            now,
            &auth::fresh_nonce(),
        );
        headers.extend(signed.unwrap());
        headers
    };
    let keyless = sign(None);
    assert_eq!(send(&world, keyless, body.clone()).await, StatusCode::BAD_REQUEST);

    let signed = sign(Some("once"));
    assert_eq!(send(&world, signed.clone(), body.clone()).await, StatusCode::ACCEPTED);
    assert_eq!(send(&world, signed, body.clone()).await, StatusCode::UNAUTHORIZED);
    let swapped = serde_json::to_vec(&request("acme-data", "200")).unwrap();
    assert_eq!(send(&world, sign(Some("swap")), swapped).await, StatusCode::UNAUTHORIZED);
    world.judge().await;
    assert_eq!(world.payments().await.len(), 1);
}

#[tokio::test]
async fn case_27_fifty_at_once_with_room_for_one() {
    let world = Plan::new().policy("borealis", "day = \"8000\"", "day = \"900\"").start().await;
    let mut answers = tokio::task::JoinSet::new();
    for n in 0..50 {
        let client = world.agent("borealis");
        answers.spawn(async move {
            client.submit(&request("gpu-harbor", "500"), &format!("race-{n}")).await
        });
    }
    let (accepted, refused): (Vec<_>, Vec<_>) =
        answers.join_all().await.into_iter().partition(Result::is_ok);
    assert_eq!(accepted.len(), 1);
    for answer in refused {
        assert_eq!(answer.code(), Code::DayCapExceeded);
    }
    world.judge().await;
    assert_eq!(world.chain.usdc_of(world.payee("gpu-harbor")).await, 500_000_000);
}
