//! Who may ask: no signature, a wrong one, an old one, one used before, someone else's.

use alloy::signers::local::PrivateKeySigner;
use bursar::{audit::Entry, auth, refusal::Code, store::Store};
use ed25519_dalek::SigningKey;
use futures_util::TryStreamExt as _;
use http::{HeaderValue, Method};

use super::raw::{Raw, now_s};
use crate::support::{Plan, RefusedWith as _, World, request};

fn body(amount: &str) -> Vec<u8> {
    serde_json::to_vec(&request("acme-data", amount)).unwrap()
}

fn payment(amount: &str, key: &str) -> Raw {
    Raw::post("/v1/payments", body(amount)).with("idempotency-key", &format!("\"{key}\""))
}

async fn is_unauthenticated(raw: &Raw, world: &World, what: &str) -> String {
    let problem = raw.refused(world).await;
    assert_eq!(problem.refusal.code, Code::InvalidSignature, "{what}");
    assert!(problem.refusal.hint.is_some(), "{what}");
    problem.refusal.detail
}

/// Replayed, reordered, body swapped, expired. Each is a 401 and an audit entry.
#[tokio::test]
async fn case_26_a_bent_or_repeated_request_is_refused_and_recorded() {
    let mut world = Plan::new().start().await;
    let mut said = Vec::new();

    let good = payment("2", "once").signed(&world, "atlas");
    assert_eq!(good.send(&world).await.status(), 202);
    said.push(is_unauthenticated(&good, &world, "replay").await);

    let swapped = Raw { body: body("200"), ..payment("2", "swap").signed(&world, "atlas") };
    said.push(is_unauthenticated(&swapped, &world, "body swapped").await);

    let mut reordered = payment("2", "order").signed(&world, "atlas");
    let input = reordered.headers["signature-input"].to_str().unwrap();
    let input = input.replacen("\"@method\" \"@target-uri\"", "\"@target-uri\" \"@method\"", 1);
    reordered.headers.insert("signature-input", HeaderValue::try_from(input).unwrap());
    said.push(is_unauthenticated(&reordered, &world, "components reordered").await);

    let key = world.request_key("atlas");
    let old = payment("2", "old").signed_at(&world, &key, now_s() - 61);
    said.push(is_unauthenticated(&old, &world, "expired").await);
    let early = payment("2", "early").signed_at(&world, &key, now_s() + 30);
    said.push(is_unauthenticated(&early, &world, "ahead of time").await);

    let renamed = payment("2", "mine").signed(&world, "atlas").with("idempotency-key", "\"yours\"");
    said.push(is_unauthenticated(&renamed, &world, "another key").await);
    let moved =
        Raw { path: "/v1/payments/simulate".into(), ..payment("2", "m").signed(&world, "atlas") };
    said.push(is_unauthenticated(&moved, &world, "another route").await);
    let stranger = SigningKey::from_bytes(&[9; 32]);
    let unknown = payment("2", "who").signed_at(&world, &stranger, now_s());
    said.push(is_unauthenticated(&unknown, &world, "an unknown key").await);
    let borrowed = payment("2", "as").signed_at(&world, &stranger, now_s());
    let input = borrowed.headers["signature-input"].to_str().unwrap();
    let theirs = auth::agent::key_id(&stranger.verifying_key());
    let input = input.replace(&theirs, &auth::agent::key_id(&key.verifying_key()));
    let borrowed = borrowed.with("signature-input", &input);
    said.push(is_unauthenticated(&borrowed, &world, "another's key id").await);

    // The nonce is spent for good: a restart does not forget it.
    let kept = payment("2", "kept").signed(&world, "atlas");
    assert_eq!(kept.send(&world).await.status(), 202);
    world.stop().await;
    world.restart().await;
    said.push(is_unauthenticated(&kept, &world, "replay after a restart").await);

    world.judge().await;
    assert_eq!(world.payments().await.len(), 2);
    world.stop().await;
    let store = Store::open(&world.database()).await.unwrap();
    let entries: Vec<Entry> = store.audit().try_collect().await.unwrap();
    for detail in said {
        let told = entries.iter().any(|entry| {
            entry.kind == "agent.unauthenticated" && entry.data["why"] == detail.as_str()
        });
        assert!(told, "not in the audit log: {detail}");
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_recorded_and_spent() {
    let mut world = Plan::new().start().await;
    let cases = [
        (payment("0", "zero"), Code::InvalidPayment),
        (payment("281474976.710656", "huge"), Code::InvalidPayment),
        (Raw { body: b"{".to_vec(), ..payment("1", "json") }, Code::InvalidPayment),
        (Raw::post("/v1/payments", body("1")), Code::IdempotencyKeyMissing),
    ];
    let mut said = Vec::new();
    for (raw, code) in cases {
        let signed = raw.signed(&world, "atlas");
        let refusal = signed.refused(&world).await.refusal;
        assert_eq!(refusal.code, code, "{}", refusal.detail);
        said.push(refusal.detail);
        is_unauthenticated(&signed, &world, "sent again").await;
    }
    assert!(world.payments().await.is_empty());
    world.stop().await;
    let store = Store::open(&world.database()).await.unwrap();
    let entries: Vec<Entry> = store.audit().try_collect().await.unwrap();
    for detail in said {
        let told = entries.iter().any(|entry| {
            entry.kind == "payment.denied" && entry.data["refusal"]["detail"] == detail.as_str()
        });
        assert!(told, "not in the audit log: {detail}");
    }
}

#[tokio::test]
async fn a_stranger_cannot_fill_the_log() {
    let mut world = Plan::new().start().await;
    let long = format!("/v1/payments/{}", "x".repeat(8_000));
    for _ in 0..60 {
        is_unauthenticated(&Raw::get(&long), &world, "no signature").await;
    }
    world.pay("atlas", "acme-data", "1", "all-the-same").await;
    world.stop().await;
    let store = Store::open(&world.database()).await.unwrap();
    let entries: Vec<Entry> = store.audit().try_collect().await.unwrap();
    let notes = || entries.iter().filter(|entry| entry.kind == "agent.unauthenticated");
    assert!(notes().count() >= 20, "{}", notes().count());
    assert!(notes().all(|entry| entry.data.to_string().len() < 600));
    let mut seconds: Vec<i64> = notes().map(|entry| entry.at_ms / 1_000).collect();
    seconds.dedup();
    assert!(notes().count() <= 20 * (seconds.len() + 1), "{seconds:?}");
}

/// Every route of the document but the public ones, with values in its path.
fn protected() -> Vec<(Method, String, bool)> {
    let document = serde_json::to_value(bursar::api::openapi()).unwrap();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let Some(security) = operation["security"].as_array() else { continue };
            let id = if path.contains("/proposals/") {
                format!("0x{}", "11".repeat(32))
            } else {
                format!("pay_{}", "0".repeat(32))
            };
            let is_operators = security[0].get("operator").is_some();
            let method = method.to_uppercase().parse().unwrap();
            all.push((method, path.replace("{id}", &id).replace("{name}", "ops"), is_operators));
        }
    }
    all
}

#[tokio::test]
async fn each_route_takes_its_own_callers_only() {
    let world = Plan::new().start().await;
    let routes = protected();
    assert!(routes.len() >= 20, "{}", routes.len());
    for (method, path, is_operators) in routes {
        let raw = match method {
            Method::GET => Raw::get(&path),
            _ => Raw::post(&path, "{}"),
        };
        is_unauthenticated(&raw, &world, "no signature").await;
        let crossed = if is_operators {
            raw.clone().signed(&world, "atlas")
        } else {
            raw.clone().by_operator(&world, 0)
        };
        is_unauthenticated(&crossed, &world, &format!("{method} {path} by the wrong kind")).await;
    }
    // A good signature of somebody who is no operator: known, and refused for that.
    let client = world.as_operator(PrivateKeySigner::random());
    assert_eq!(client.approvals().await.code(), Code::NotOperator);
    // An operator's signed request counts once.
    let list = Raw::get("/v1/operator/approvals").by_operator(&world, 1);
    assert_eq!(list.send(&world).await.status(), 200);
    is_unauthenticated(&list, &world, "an operator's replay").await;
}
