//! A seller whose every answer the test chooses: what no official server does, and some others do.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use alloy::{
    primitives::{Address, B256, keccak256},
    providers::Provider as _,
};
use axum::{
    Router,
    body::Bytes,
    extract::State,
    response::{IntoResponse as _, Response},
};
use bursar::{
    contract::token::TransferWithAuthorization,
    x402::{self, PaymentPayload, SettleResponse, exact},
};
use http::{HeaderMap, Method, StatusCode, Uri};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Mutex as AsyncMutex, task::JoinHandle};

use crate::support::World;

/// What it does with a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Settles it on chain, delivers, says so.
    Sell,
    /// Settles it, and cuts the connection.
    SettleAndCut,
    /// Keeps it: 402 again with the same offers.
    AskAgain,
    /// Keeps it, and answers with this status.
    Keep(u16),
    /// Settles it, and says nothing for longer than the buyer waits.
    SettleAndHang,
    /// Redirects elsewhere.
    Redirect,
    /// Says that it is settled, and keeps it.
    Lie,
}

/// Everything about it.
pub struct Terms {
    /// The 402's body of version 2, header-encoded; a test changes it as it likes.
    pub offered: Value,
    pub then: Then,
    /// Offers after a payment came.
    pub afterwards: Option<Value>,
    /// Whoever asks without a payment waits as long as this is so.
    pub holds: bool,
    /// What came: method, target, the payment if there was one, and who was said to pay.
    pub seen: Vec<(Method, String, Option<PaymentPayload>, Option<String>)>,
}

pub struct Hostile {
    pub addr: SocketAddr,
    pub terms: Arc<Mutex<Terms>>,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Shop {
    terms: Arc<Mutex<Terms>>,
    world: Arc<Settler>,
}

/// Carries authorizations to the token, and redemptions to the wallet, as a facilitator does.
struct Settler {
    rpc: String,
    usdc: Address,
    wallet: Address,
    deployer: Address,
    /// What is settled: a payment that comes again is recognised.
    done: AsyncMutex<HashMap<B256, String>>,
}

impl Settler {
    async fn settle(&self, payment: &PaymentPayload) -> String {
        let mut done = self.done.lock().await;
        let chain = crate::support::Chain::new(&self.rpc, self.usdc, self.wallet, self.deployer);
        let (target, call) = match exact::Payload::read(&payment.payload) {
            Ok(payload) => {
                let message: TransferWithAuthorization = payload.authorization.message();
                (self.usdc, message.call(&payload.signature))
            }
            Err(_) => {
                let given = exact::Delegated::read(&payment.payload).unwrap();
                let terms = payment.accepted.as_ref().unwrap().terms().unwrap();
                (given.delegation_manager, given.call(self.usdc, terms.pay_to, terms.amount))
            }
        };
        let once = keccak256(&call);
        if let Some(hash) = done.get(&once) {
            return hash.clone();
        }
        let hash = chain.queue_from(self.deployer, target, call, 2).await;
        // Not by `wait_for`: a server's task has to be one that threads can share.
        for _ in 0..1_000 {
            if let Some(receipt) = chain.node.get_transaction_receipt(hash).await.unwrap() {
                assert!(receipt.status(), "{hash} reverted");
                done.insert(once, hash.to_string());
                return hash.to_string();
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{hash} is not mined");
    }
}

/// One offer of version 2 on this world's chain.
pub fn offer(world: &World, payee: Address, units: u64) -> Value {
    json!({
        "scheme": "exact", "network": format!("eip155:{}", world.card.chain_id),
        "amount": units.to_string(), "asset": world.card.usdc.to_checksum(None),
        "payTo": payee.to_checksum(None), "maxTimeoutSeconds": 60,
        "extra": { "name": "USDC", "version": "2" },
    })
}

/// A 402 of version 2.
pub fn offered(accepts: &[Value]) -> Value {
    json!({ "x402Version": 2, "error": "Payment required", "accepts": accepts,
        "resource": { "url": "http://127.0.0.1/paid" } })
}

impl Hostile {
    pub async fn start(world: &World, offered: Value, then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let terms = Terms { offered, then, afterwards: None, holds: false, seen: Vec::new() };
        let terms = Arc::new(Mutex::new(terms));
        let settler = Settler {
            rpc: world.card.rpc.clone(),
            usdc: world.card.usdc,
            wallet: world.card.wallet,
            deployer: world.card.deployer,
            done: AsyncMutex::default(),
        };
        let shop = Shop { terms: Arc::clone(&terms), world: Arc::new(settler) };
        let router = Router::new().fallback(serve).with_state(shop);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { addr, terms, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}/paid", self.addr)
    }

    pub fn set(&self, change: impl FnOnce(&mut Terms)) {
        change(&mut self.terms.lock().unwrap());
    }

    /// The payments that came.
    pub fn payments(&self) -> Vec<PaymentPayload> {
        let terms = self.terms.lock().unwrap();
        terms.seen.iter().filter_map(|(_, _, payment, _)| payment.clone()).collect()
    }

    /// All calls, paid or not.
    pub fn calls(&self) -> usize {
        self.terms.lock().unwrap().seen.len()
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    State(shop): State<Shop>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let payment: Option<PaymentPayload> = text(x402::PAYMENT_SIGNATURE)
        .or_else(|| text(x402::X_PAYMENT))
        .map(|text| x402::decode(text).unwrap());
    let (then, offered) = {
        let mut terms = shop.terms.lock().unwrap();
        let metadata = text("payer-metadata").map(str::to_owned);
        terms.seen.push((method.clone(), uri.to_string(), payment.clone(), metadata));
        let paid = payment.is_some();
        let offered = terms.afterwards.clone().filter(|_| paid);
        (terms.then, offered.unwrap_or_else(|| terms.offered.clone()))
    };
    let asks = || {
        let header = x402::encode(&offered).unwrap();
        let body = if offered["x402Version"] == 1 { offered.to_string() } else { "{}".into() };
        match offered["x402Version"].as_u64() {
            Some(1) => (StatusCode::PAYMENT_REQUIRED, body).into_response(),
            _ => (StatusCode::PAYMENT_REQUIRED, [(x402::PAYMENT_REQUIRED, header)], body)
                .into_response(),
        }
    };
    let Some(payment) = payment else {
        while shop.terms.lock().unwrap().holds {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        return asks();
    };
    let receipt = |hash: String| {
        let settled = SettleResponse {
            success: true,
            transaction: hash,
            network: payment.network().to_owned(),
            ..SettleResponse::default()
        };
        let name = if payment.x402_version == 1 {
            x402::X_PAYMENT_RESPONSE
        } else {
            x402::PAYMENT_RESPONSE
        };
        let said = format!("sold {method} {}", String::from_utf8_lossy(&body));
        let headers = [(name, x402::encode(&settled).unwrap())];
        (StatusCode::OK, headers, said).into_response()
    };
    match then {
        Then::Sell => receipt(shop.world.settle(&payment).await),
        Then::Lie => receipt(format!("0x{}", "ab".repeat(32))),
        Then::SettleAndCut => {
            shop.world.settle(&payment).await;
            // A body that breaks off: the connection is gone before the answer is.
            let broken =
                futures_util::stream::once(async { Err::<Bytes, _>(std::io::Error::other("cut")) });
            axum::body::Body::from_stream(broken).into_response()
        }
        Then::SettleAndHang => {
            shop.world.settle(&payment).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
            StatusCode::OK.into_response()
        }
        Then::AskAgain => asks(),
        Then::Keep(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Then::Redirect => {
            (StatusCode::FOUND, [("location", "http://127.0.0.2:1/elsewhere")]).into_response()
        }
    }
}
