use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::routing::{get, post};
use serde_json::Value;

use super::{problem::Refused, *};
use crate::{
    payment::FundsMoved,
    refusal::{Code, Refusal},
};

/// The document in the repository. Written anew by `BURSAR_WRITE=1 cargo test openapi`.
const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.json");

fn document() -> Value {
    serde_json::to_value(openapi()).unwrap()
}

/// Every operation: method, path, security scheme or "".
fn operations() -> Vec<(String, String, String)> {
    let document = document();
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let schemes = operation["security"].as_array();
            let scheme = schemes.and_then(|list| list[0].as_object()?.keys().next().cloned());
            all.push((method.to_uppercase(), path.clone(), scheme.unwrap_or_default()));
        }
    }
    all
}

#[test]
fn openapi_is_the_committed_document() {
    let text = format!("{:#}\n", document());
    if std::env::var_os("BURSAR_WRITE").is_some() {
        std::fs::write(COMMITTED, &text).unwrap();
    }
    let committed = std::fs::read_to_string(COMMITTED).unwrap();
    assert!(committed == text, "docs/openapi.json is stale: BURSAR_WRITE=1 cargo test openapi");
}

#[test]
fn an_agent_can_only_ask() {
    let of = |scheme: &str| -> BTreeSet<String> {
        let mine = operations().into_iter().filter(|(.., s)| s == scheme);
        mine.map(|(method, path, _)| format!("{method} {path}")).collect()
    };
    let agent = [
        "GET /v1/escrows",
        "GET /v1/escrows/{id}",
        "GET /v1/payments",
        "GET /v1/payments/{id}",
        "GET /v1/permissions",
        "GET /v1/purchases",
        "GET /v1/purchases/{id}",
        "POST /v1/escrows",
        "POST /v1/escrows/{id}/actions",
        "POST /v1/fetch",
        "POST /v1/payments",
        "POST /v1/payments/simulate",
    ];
    assert_eq!(of("agent"), agent.map(String::from).into());
    let public = [
        "GET /facilitator/supported",
        "GET /healthz",
        "GET /metrics",
        "GET /openapi.json",
        "GET /readyz",
        "GET /v1/wallet",
        "POST /facilitator/settle",
        "POST /facilitator/verify",
    ];
    assert_eq!(of(""), public.map(String::from).into());
    for (method, path, scheme) in operations() {
        assert_eq!(path.starts_with("/v1/operator/"), scheme == "operator", "{method} {path}");
    }
}

#[test]
fn the_catalogue_of_problems_is_stable() {
    let lines: Vec<String> = Code::ALL
        .iter()
        .map(|code| {
            let retry = if code.is_retryable() { "retryable" } else { "final" };
            format!("{} {:<24} {retry:<9} {}", code.status(), code.as_str(), code.title())
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn a_problem_carries_everything() {
    let refusal = Refusal::new(Code::DayCapExceeded, "12 USDC asked, 5 left today")
        .rule("limits.day")
        .room("50", "45", "5")
        .retry_after(600)
        .hint("ask for at most 5");
    let problem = Problem::new(refusal, "/v1/payments", "req_1");
    let json = serde_json::to_string_pretty(&problem).unwrap();
    insta::assert_snapshot!(json);
    assert_eq!(serde_json::from_str::<Problem>(&json).unwrap(), problem);
}

/// Serves some handlers inside the frame, over a real socket.
async fn framed(router: Router) -> String {
    let mut config = ApiConfig::new("http://unused/");
    assert_eq!(config.public_origin, "http://unused");
    config.timeout = Duration::from_millis(200);
    let router = router
        .fallback(frame::no_such_route)
        .method_not_allowed_fallback(frame::wrong_method)
        .layer(middleware::from_fn_with_state(Arc::new(config), frame::frame));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    origin
}

async fn refused() -> Refused {
    Refusal::new(Code::LoopDetected, "again").retry_after(30).into()
}

async fn broken() {
    panic!("a handler's fault");
}

async fn slow() {
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test]
async fn every_error_is_a_problem_with_the_request_s_id() {
    let router = Router::new()
        .route("/refused", get(refused))
        .route("/slow", get(slow).post(slow))
        .route("/panic", get(broken).post(broken))
        .route("/bare", post(|| async { http::StatusCode::IM_A_TEAPOT }));
    let origin = framed(router).await;
    let http = reqwest::Client::new();
    for (method, path, status, code) in [
        ("GET", "/refused", 429, Code::LoopDetected),
        ("GET", "/nowhere", 404, Code::NotFound),
        ("DELETE", "/refused", 405, Code::MethodNotAllowed),
        ("GET", "/slow", 503, Code::TimedOut),
        ("POST", "/slow", 503, Code::TimedOut),
        ("GET", "/panic", 500, Code::Internal),
        ("POST", "/panic", 500, Code::Internal),
        ("POST", "/bare", 400, Code::InvalidRequest),
    ] {
        let request = http.request(method.parse().unwrap(), format!("{origin}{path}"));
        let answer = request.header("x-request-id", "trace-7").send().await.unwrap();
        assert_eq!(answer.status(), status, "{method} {path}");
        assert_eq!(answer.headers()["content-type"], "application/problem+json");
        assert_eq!(answer.headers()["x-request-id"], "trace-7");
        assert_eq!(answer.headers()["cache-control"], "no-store");
        match code {
            Code::MethodNotAllowed => assert_eq!(answer.headers()["allow"], "GET,HEAD"),
            Code::LoopDetected => assert_eq!(answer.headers()["retry-after"], "30"),
            _ => {}
        }
        let problem: Problem = answer.json().await.unwrap();
        assert_eq!((problem.status, problem.refusal.code), (status, code));
        assert_eq!((problem.instance.as_str(), problem.correlation_id.as_str()), (path, "trace-7"));
        let broke_off = matches!(code, Code::TimedOut | Code::Internal);
        let maybe = broke_off && method == "POST";
        let moved = if maybe { FundsMoved::Maybe } else { FundsMoved::No };
        assert_eq!(problem.refusal.funds_moved, moved);
    }
}

#[tokio::test]
async fn a_request_id_is_made_where_none_can_be_kept() {
    let origin = framed(Router::new().route("/ok", get(|| async { "ok" }))).await;
    let http = reqwest::Client::new();
    let long = "x".repeat(65);
    let mut seen = BTreeSet::new();
    for sent in [None, Some(""), Some("a b"), Some("a\"b"), Some(long.as_str())] {
        let mut request = http.get(format!("{origin}/ok"));
        if let Some(id) = sent {
            request = request.header("x-request-id", id);
        }
        let answer = request.send().await.unwrap();
        let id = answer.headers()["x-request-id"].to_str().unwrap().to_owned();
        assert!(id.starts_with("req_") && id.len() == 36, "{sent:?} -> {id}");
        assert!(seen.insert(id));
    }
}
