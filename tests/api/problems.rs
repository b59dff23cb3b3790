//! What a refusal looks like on the wire, and what the same key answers.

use std::time::Duration;

use bursar::{
    payment::{FundsMoved, State},
    refusal::Code,
    view::{PaymentPage, PaymentView},
};

use super::raw::Raw;
use crate::support::{Plan, RefusedWith as _, World, request};

async fn code(raw: Raw, world: &World) -> (u16, Code) {
    let problem = raw.refused(world).await;
    assert_eq!(problem.refusal.funds_moved, FundsMoved::No);
    (problem.status, problem.refusal.code)
}

fn submit(body: &str) -> Raw {
    Raw::post("/v1/payments", body).with("idempotency-key", "\"k\"")
}

#[tokio::test]
async fn what_cannot_be_read_is_named() {
    let world = Plan::new().start().await;
    let atlas = |raw: Raw| raw.signed(&world, "atlas");
    let text = |value: serde_json::Value| value.to_string();
    let good = serde_json::to_value(request("acme-data", "1")).unwrap();

    for (field, value, path) in [
        ("amount", serde_json::json!(1.25), "body.amount"),
        ("context", serde_json::json!({ "invoice": 7 }), "body.context.invoice"),
        ("context", serde_json::json!({ "evidence": "0x12" }), "body.context.evidence"),
        ("surprise", serde_json::json!(1), "body.surprise"),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        let problem = atlas(submit(&text(bad))).refused(&world).await;
        assert_eq!((problem.status, problem.refusal.code), (400, Code::InvalidPayment));
        assert_eq!(problem.refusal.rule.as_deref(), Some(path));
    }
    for body in ["", "{", "[]", "null", "{} {}", "\u{feff}{}"] {
        let (status, code) = code(atlas(submit(body)), &world).await;
        let missing = body.is_empty() && code == Code::UnsupportedMediaType;
        assert!(status == 400 && code == Code::InvalidPayment || missing, "{body:?}: {code:?}");
    }
    let mut euros = good.clone();
    euros["currency"] = "EUR".into();
    assert_eq!(code(atlas(submit(&text(euros))), &world).await, (422, Code::Unprocessable));
    for amount in ["0", "-1", "1.0000001", "1e3", ""] {
        let mut bad = good.clone();
        bad["amount"] = amount.into();
        let (status, code) = code(atlas(submit(&text(bad))), &world).await;
        assert!(status == 400 && code == Code::InvalidPayment, "{amount}: {status} {code:?}");
    }

    let plain = submit(&text(good.clone())).with("content-type", "text/plain");
    assert_eq!(code(atlas(plain), &world).await, (415, Code::UnsupportedMediaType));
    let large = submit(&" ".repeat(65 * 1024));
    assert_eq!(code(atlas(large), &world).await, (413, Code::BodyTooLarge));
    let keyless = Raw::post("/v1/payments", text(good.clone()));
    assert_eq!(code(atlas(keyless), &world).await, (400, Code::IdempotencyKeyMissing));
    for key in ["\"\"", "a b", "\"a\", \"b\"", "\"open"] {
        let raw = submit(&text(good.clone())).with("idempotency-key", key);
        assert_eq!(code(atlas(raw), &world).await, (400, Code::IdempotencyKeyMissing), "{key}");
    }
    for query in ["limit=0", "limit=201", "limit=x", "state=gone", "surprise=1"] {
        let raw = Raw::get(&format!("/v1/payments?{query}"));
        assert_eq!(code(atlas(raw), &world).await, (400, Code::InvalidRequest), "{query}");
    }
    let odd = Raw::get("/v1/payments/pay_x");
    assert_eq!(code(atlas(odd), &world).await, (400, Code::InvalidRequest));
    let nowhere = Raw::get("/v1/nowhere");
    assert_eq!(code(nowhere, &world).await, (404, Code::NotFound));
    let wrong = Raw::post("/v1/permissions", "{}");
    assert_eq!(code(wrong, &world).await, (405, Code::MethodNotAllowed));
    assert!(world.payments().await.is_empty());
}

#[tokio::test]
async fn a_key_answers_for_its_purchase() {
    let world = Plan::new().start().await;
    let body = serde_json::to_vec(&request("acme-data", "2")).unwrap();
    let ask = || Raw::post("/v1/payments", body.clone()).with("idempotency-key", "\"k-1\"");

    let first = ask().signed(&world, "atlas").with("x-request-id", "trace-9").send(&world).await;
    assert_eq!(
        (first.status().as_u16(), &first.headers()["x-request-id"]),
        (202, &"trace-9".parse().unwrap())
    );
    let location = first.headers()["location"].to_str().unwrap().to_owned();
    let payment: PaymentView = first.json().await.unwrap();
    assert_eq!(location, format!("/v1/payments/{}", payment.id));
    world.until(&payment, State::Paid).await;

    // The same key in quotes and bare, after the end: 200, the same payment, money moved.
    for key in ["\"k-1\"", "k-1"] {
        let again = ask().with("idempotency-key", key).signed(&world, "atlas").send(&world).await;
        assert_eq!(again.status(), 200);
        let again: PaymentView = again.json().await.unwrap();
        assert_eq!((again.id, again.funds_moved), (payment.id, FundsMoved::Yes));
    }
    let other = serde_json::to_vec(&request("acme-data", "3")).unwrap();
    let other = Raw { body: other, ..ask() }.signed(&world, "atlas");
    assert_eq!(code(other, &world).await, (409, Code::IdempotencyKeyReused));

    // Keys and payments are the agent's own.
    let ember = ask().signed(&world, "ember").send(&world).await;
    let theirs: PaymentView = ember.json().await.unwrap();
    assert_ne!(theirs.id, payment.id);
    assert_eq!(
        code(Raw::get(&location).signed(&world, "ember"), &world).await,
        (404, Code::NotFound)
    );
    let mine = Raw::get("/v1/payments?state=paid&limit=1").signed(&world, "atlas");
    let page: PaymentPage = mine.send(&world).await.json().await.unwrap();
    assert_eq!(page.payments.iter().map(|p| p.id).collect::<Vec<_>>(), [payment.id]);
}

#[tokio::test]
async fn a_limit_says_how_much_and_how_long() {
    let world = Plan::new().policy("ember", "day = \"200\"", "day = \"30\"").start().await;
    let ember = world.agent("ember");
    ember.submit(&request("acme-data", "20"), "first").await.unwrap();
    let body = serde_json::to_vec(&request("acme-data", "15")).unwrap();
    let raw = Raw::post("/v1/payments", body).with("idempotency-key", "second");
    let problem = raw.signed(&world, "ember").refused(&world).await;
    let refusal = &problem.refusal;
    assert_eq!((problem.status, refusal.code), (429, Code::DayCapExceeded));
    assert_eq!(problem.title, "Rate limit exceeded");
    assert_eq!(refusal.rule.as_deref(), Some("limits.day"));
    let room = [&refusal.limit, &refusal.used, &refusal.remaining].map(|text| text.as_deref());
    assert_eq!(room, [Some("30"), Some("20"), Some("10")]);
    assert!(refusal.retry_after.is_some_and(|s| (1..=30 * 3_600).contains(&s)));
    assert!(problem.retryable && refusal.hint.is_some());
    assert_eq!(refusal.funds_moved, FundsMoved::No);
}

#[tokio::test]
async fn the_public_routes_need_no_signature() {
    let mut world = Plan::new().start().await;
    let wallet = world.wallet_view().await;
    assert_eq!((wallet.chain_id, wallet.wallet), (world.card.chain_id, world.card.wallet));
    assert_eq!((wallet.operators.len(), wallet.threshold), (3, 2));
    let served = Raw::get("/openapi.json").send(&world).await;
    let served: serde_json::Value = served.json().await.unwrap();
    assert_eq!(served, serde_json::to_value(bursar::api::openapi()).unwrap());
    let ready: bursar::api::Ready = Raw::get("/readyz").send(&world).await.json().await.unwrap();
    assert!(ready.ready);
    let metrics = Raw::get("/metrics").send(&world).await;
    let kind = metrics.headers()["content-type"].to_str().unwrap().to_owned();
    assert!(kind.starts_with("application/openmetrics-text"));
    assert!(metrics.text().await.unwrap().ends_with("# EOF\n"));

    // A daemon that is gone is unreachable, and says so after its tries.
    let agent = world.agent("atlas");
    world.stop().await;
    let gone = tokio::time::timeout(Duration::from_secs(10), agent.permissions()).await.unwrap();
    assert!(matches!(gone, Err(bursar::client::ClientError::Unreachable { .. })));
    world.restart().await;
    assert!(
        world.agent("atlas").simulate(&request("nobody", "1")).await.is_ok()
            || world.agent("atlas").simulate(&request("nobody", "1")).await.code()
                == Code::PayeeUnknown
    );
}
