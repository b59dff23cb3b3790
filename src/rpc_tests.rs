use std::sync::Arc;

use axum::{Router, extract::State};
use tokio::net::TcpListener;

use super::*;

const CHAIN: u64 = 31_337;

/// What a test's node says to a method: HTTP status and body.
type Says = fn(&str) -> (StatusCode, String);

struct Node {
    says: Says,
    asked: AtomicUsize,
}

async fn answer(State(node): State<Arc<Node>>, body: String) -> (StatusCode, String) {
    node.asked.fetch_add(1, Ordering::SeqCst);
    let request: Value = serde_json::from_str(&body).unwrap();
    let Some(calls) = request.as_array() else {
        return (node.says)(request["method"].as_str().unwrap());
    };
    let answers = calls.iter().map(|call| {
        let (_, text) = (node.says)(call["method"].as_str().unwrap());
        let mut answer: Value = serde_json::from_str(&text).unwrap();
        answer["id"] = call["id"].clone();
        answer
    });
    (StatusCode::OK, Value::from_iter(answers).to_string())
}

async fn start(says: Says) -> (String, Arc<Node>) {
    let node = Arc::new(Node { says, asked: AtomicUsize::new(0) });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer).with_state(Arc::clone(&node));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, node)
}

fn result(value: &str) -> (StatusCode, String) {
    (StatusCode::OK, format!("{{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":\"{value}\"}}"))
}

fn good(method: &str) -> (StatusCode, String) {
    result(if method == "eth_chainId" { "0x7a69" } else { "0x2a" })
}

fn elsewhere(_: &str) -> (StatusCode, String) {
    result("0x1")
}

/// On the right chain, but behind a gateway that is out of order.
fn broken(method: &str) -> (StatusCode, String) {
    match method {
        "eth_chainId" => good(method),
        _ => (StatusCode::BAD_GATEWAY, "<html>502</html>".to_owned()),
    }
}

/// As `broken`, with an answer that can be read.
fn limited(method: &str) -> (StatusCode, String) {
    match method {
        "eth_chainId" => good(method),
        _ => {
            let error = json!({ "id": 0, "error": { "code": 429, "message": "slow down" } });
            (StatusCode::TOO_MANY_REQUESTS, error.to_string())
        }
    }
}

/// Says 200, and nothing that means anything.
fn babbling(method: &str) -> (StatusCode, String) {
    if method == "eth_chainId" { good(method) } else { result("no number") }
}

async fn ask(rpc: &Rpc) -> Result<u64, RpcError> {
    rpc.transaction_count(Address::ZERO, At::Latest).await
}

#[tokio::test]
async fn an_endpoint_out_of_order_is_left() {
    for says in [broken as Says, limited, babbling] {
        let ((bad, _), (fine, node)) = (start(says).await, start(good).await);
        let rpc = Rpc::new(vec![bad, fine], CHAIN, Duration::from_secs(15)).unwrap();
        assert!(ask(&rpc).await.is_err());
        assert_eq!(ask(&rpc).await.unwrap(), 42);
        assert_eq!(ask(&rpc).await.unwrap(), 42);
        // Which chain it is on is asked once.
        assert_eq!(node.asked.load(Ordering::SeqCst), 3);
    }
}

#[tokio::test]
async fn an_endpoint_on_another_chain_is_skipped() {
    let ((wrong, stranger), (fine, _)) = (start(elsewhere).await, start(good).await);
    let rpc = Rpc::new(vec![wrong.clone(), fine], CHAIN, Duration::from_secs(15)).unwrap();
    assert_eq!(ask(&rpc).await.unwrap(), 42);
    assert_eq!(ask(&rpc).await.unwrap(), 42);
    assert_eq!(stranger.asked.load(Ordering::SeqCst), 1);
    let rpc = Rpc::new(vec![wrong.clone(), wrong], CHAIN, Duration::from_secs(15)).unwrap();
    let refused = ask(&rpc).await;
    assert!(matches!(refused, Err(RpcError::WrongChain { found: 1, expected: CHAIN })));
}

/// A block 9 whose hash is all `digit`, and a log of that chain's own, listed twice.
fn branch(method: &str, digit: &str) -> (StatusCode, String) {
    let hash = format!("0x{}", digit.repeat(64));
    let result = match method {
        "eth_chainId" => return good(method),
        "eth_getBlockByNumber" => {
            json!({ "number": "0x9", "hash": hash, "parentHash": B256::ZERO, "timestamp": "0x1" })
        }
        _ => {
            let log = json!({
                "address": Address::ZERO, "topics": [hash], "data": "0x", "blockNumber": "0x9",
                "blockHash": hash, "transactionHash": hash, "transactionIndex": "0x0",
                "logIndex": "0x0", "removed": false,
            });
            json!([log, log])
        }
    };
    (StatusCode::OK, json!({ "id": 0, "result": result }).to_string())
}

#[tokio::test]
async fn a_node_on_a_branch_that_the_others_left_is_not_asked_for_logs_and_depth() {
    let ((left, _), (right, _)) =
        (start(|method| branch(method, "a")).await, start(|method| branch(method, "b")).await);
    let rpc = Rpc::new(vec![left.clone(), right], CHAIN, Duration::from_secs(15)).unwrap();
    let hash = B256::repeat_byte(0xbb);
    let (number, parent_hash) = (U64::from(9), B256::ZERO);
    let (timestamp, base_fee_per_gas) = (U64::from(1), U256::ZERO);
    let top = Head { number, hash, parent_hash, timestamp, base_fee_per_gas };
    let logs = rpc.logs(Address::ZERO, (1, 9), &[], &top).await.unwrap();
    assert_eq!(logs[0].topics(), [hash]);
    assert_eq!(logs.len(), 1, "what is listed twice happened once");

    let rpc = Rpc::new(vec![left], CHAIN, Duration::from_secs(15)).unwrap();
    assert!(rpc.logs(Address::ZERO, (1, 9), &[], &top).await.is_err());
    let heads = rpc.heads_under(&top, &[9]).await;
    assert!(matches!(heads, Err(RpcError::Unknown { .. })), "{heads:?}");
}
