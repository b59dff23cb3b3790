//! The paywall as a layer of a server of one's own: its handlers run once for each payment and are told who
//! pays; the ends of sales that are rare; and vouchers that are claimed when they have waited long enough.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy::primitives::Address;
use axum::{
    Extension, Json, Router,
    extract::{Path, State},
    response::{IntoResponse as _, Response},
    routing,
};
use bursar::{
    clock::Clock,
    seller::{PriceList, Protocol, Sale},
    x402::{self, SettleResponse},
};
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    channels::{PRICE, Payer},
    desk::{Desk, payer},
    seller::Shop,
};
use crate::support::{Chain, Plan, World, wait_for};

/// Seconds that something may be owed before it is claimed, however little it is.
const CLAIM_AFTER_S: u64 = 7_200;
/// Length of an answer that is too long to be kept.
const LARGE: usize = 5_000;

/// What the handlers share.
#[derive(Clone)]
struct Kitchen {
    made: Arc<AtomicU64>,
    sales: Arc<Mutex<Vec<Sale>>>,
    chain: Arc<Chain>,
}

async fn cook(
    State(kitchen): State<Kitchen>,
    Path(dish): Path<String>,
    Extension(sale): Extension<Sale>,
) -> Response {
    let number = kitchen.made.fetch_add(1, Ordering::SeqCst) + 1;
    kitchen.sales.lock().unwrap().push(sale.clone());
    match dish.as_str() {
        "burnt" => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        "never" => std::future::pending::<()>().await,
        "large" => return "x".repeat(LARGE).into_response(),
        // While it is made, the payer's money goes elsewhere.
        "robbed" => kitchen.chain.give(sale.payer, 0).await,
        _ => {}
    }
    Json(json!({ "number": number, "dish": dish, "payer": sale.payer, "sale": sale.id }))
        .into_response()
}

impl Kitchen {
    fn made(&self) -> u64 {
        self.made.load(Ordering::SeqCst)
    }

    fn last(&self) -> Sale {
        self.sales.lock().unwrap().last().unwrap().clone()
    }
}

/// An answer's status, what its receipt says, whether it asks for payment, and its body.
async fn paid(
    shop: &Shop,
    path: &str,
    payment: &str,
) -> (u16, Option<SettleResponse>, bool, Value) {
    let answer = shop.get(path, &[(x402::PAYMENT_SIGNATURE, payment.to_owned())]).await;
    let headers = answer.headers().clone();
    let receipt = headers.get(x402::PAYMENT_RESPONSE);
    let receipt = receipt.map(|text| x402::decode(text.to_str().unwrap()).unwrap());
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or_else(|_| json!(text.len()));
    (status, receipt, headers.contains_key(x402::PAYMENT_REQUIRED), body)
}

/// So many sales of each state, and the revenue that they come to.
async fn sold(world: &World, expected: &Value) {
    wait_for(&format!("sales like {expected}"), async || {
        let (code, text) = world.bursar(&["sales", "--json"]);
        let told: Value = serde_json::from_str(&text).unwrap();
        let route = told["routes"].get(0)?;
        let is_so = expected.as_object().unwrap().iter().all(|(key, value)| route[key] == *value);
        (code == 0 && is_so).then_some(())
    })
    .await;
}

#[tokio::test]
async fn handlers_of_ones_own_are_sold_and_vouchers_are_claimed_by_age() {
    let world = Plan::new()
        .config(|config| {
            config.channels.watch_s = 1;
            config.channels.claim_after_s = CLAIM_AFTER_S;
            config.facilitator.wait_s = 10;
        })
        .without_daemon()
        .await;
    let (clock, hand) = Clock::held(Clock::system().now_ms());
    let service = world.serve_here(&clock).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let list = format!(
        "public_origin = \"{url}\"\n[limits]\nhandler_s = 5\nresponse_bytes = 1024\n\
         [[route]]\npath = \"/{{dish}}\"\nprice = \"0.01\"\ndescription = \"a dish\"\n"
    );
    let list: PriceList = toml::from_str(&list).unwrap();
    let card = &world.card;
    let kitchen = Kitchen {
        made: Arc::default(),
        sales: Arc::default(),
        chain: Arc::new(Chain::new(&card.rpc, card.usdc, card.wallet, card.deployer)),
    };
    let router = Router::new()
        .route("/{dish}", routing::get(cook))
        .with_state(kitchen.clone())
        .layer(service.engine().paywall(list).await.unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let shop = Shop::at(url, Arc::clone(&kitchen.made));
    let (wallet, start) = (card.wallet, world.chain.usdc_of(card.wallet).await);
    let balance = async |account: Address| world.chain.usdc_of(account).await;

    // Without payment no handler runs; with one it does once, and knows who pays.
    assert_eq!((shop.get("/paid", &[]).await.status().as_u16(), kitchen.made()), (402, 0));
    let key = payer(&world).await;
    let payment = shop.payment("/paid", &key, |_| ()).await;
    let (status, receipt, _, first) = paid(&shop, "/paid", &payment).await;
    assert_eq!((status, &first["number"]), (200, &json!(1)), "{first}");
    assert!(receipt.unwrap().success);
    let sale = kitchen.last();
    assert_eq!((sale.payer, sale.amount.units(), sale.asset), (key.address(), PRICE, card.usdc));
    assert_eq!((sale.protocol, sale.chain_id), (Protocol::X402V2, card.chain_id));
    assert!(!sale.payer_is_contract && first["sale"] == json!(sale.id));
    let (status, _, _, again) = paid(&shop, "/paid", &payment).await;
    assert_eq!((status, &again, kitchen.made()), (200, &first, 1));
    assert_eq!((balance(key.address()).await, balance(wallet).await), (990_000, start + PRICE));

    // One that fails, or never ends, is not charged, and can be asked again with the same payment.
    for (path, expected) in [("/burnt", 500), ("/never", 504)] {
        let payment = shop.payment(path, &key, |_| ()).await;
        let (status, receipt, _, body) = paid(&shop, path, &payment).await;
        assert_eq!((status, receipt), (expected, None), "{path}: {body}");
        assert_eq!(balance(key.address()).await, 990_000, "{path}");
    }
    // An answer that is too long to be kept is handed on whole, once.
    let payment = shop.payment("/large", &key, |_| ()).await;
    let (status, receipt, _, body) = paid(&shop, "/large", &payment).await;
    assert_eq!((status, &body), (200, &json!(LARGE)));
    let settled = receipt.unwrap();
    let (status, receipt, _, body) = paid(&shop, "/large", &payment).await;
    assert_eq!((status, &body["funds_moved"]), (410, &json!("yes")), "{body}");
    assert_eq!(receipt.unwrap().transaction, settled.transaction);
    assert_eq!((balance(key.address()).await, kitchen.made()), (980_000, 4));

    // The money is gone when the answer is there: the answer is withheld, and stays so.
    let robbed = payer(&world).await;
    let payment = shop.payment("/robbed", &robbed, |_| ()).await;
    for _ in 0..2 {
        let (status, receipt, asks, body) = paid(&shop, "/robbed", &payment).await;
        assert_eq!((status, asks, &body["dish"]), (402, false, &Value::Null), "{body}");
        assert_eq!(body["code"], "payment_not_settled", "{body}");
        assert!(!receipt.unwrap().success);
        assert_eq!(kitchen.made(), 5);
        // Money that comes later does not settle what was told as failed.
        world.chain.give(robbed.address(), 1_000_000).await;
        world.chain.mine().await;
    }
    assert_eq!(balance(robbed.address()).await, 1_000_000);

    // Through a channel: the handler learns the payer, and what it fails at is not charged.
    let buyer = Payer::funded(&world, &shop).await;
    let sale = kitchen.last();
    assert_eq!((sale.payer, sale.amount.units()), (buyer.address(), PRICE));
    let id = sale.id.clone();
    let failed = buyer.pay(&shop, "/burnt", buyer.voucher(2 * PRICE)).await;
    assert_eq!((failed.status, kitchen.last().id != id), (500, true));
    for status in [200, 410] {
        let large = buyer.pay(&shop, "/large", buyer.voucher(2 * PRICE)).await;
        assert_eq!((large.status, kitchen.made()), (status, 8));
    }

    // No block comes: the same payment again, when one has come, gets the answer that waits.
    world.chain.rpc("anvil_setIntervalMining", json!([0])).await;
    let payment = shop.payment("/paid", &key, |_| ()).await;
    let (status, receipt, asks, body) = paid(&shop, "/paid", &payment).await;
    assert_eq!((status, asks, &body["code"]), (503, false, &json!("settlement_pending")), "{body}");
    assert_eq!((&body["funds_moved"], kitchen.made()), (&json!("maybe"), 9));
    let told = receipt.unwrap();
    assert!(!told.success && told.transaction.starts_with("0x"), "{told:?}");
    assert_eq!(balance(key.address()).await, 980_000);
    world.chain.rpc("evm_setIntervalMining", json!([1])).await;
    let (receipt, body) = wait_for("the answer that waits", async || {
        let (status, receipt, _, body) = paid(&shop, "/paid", &payment).await;
        (status == 200).then_some((receipt.unwrap(), body))
    })
    .await;
    assert_eq!((&body["number"], &receipt.transaction), (&json!(9), &told.transaction));
    assert_eq!((balance(key.address()).await, kitchen.made()), (970_000, 9));
    sold(&world, &json!({ "route": "/{dish}", "sold": 3, "calls": 2, "posted": "0.03" })).await;

    // Far from due by value: nothing is claimed until it has waited long enough, and then it is.
    let pool = world.tables().await;
    let before = Desk::of(&world).sent().await;
    let owed_since = clock.now_ms();
    for seconds in [CLAIM_AFTER_S / 2, CLAIM_AFTER_S / 2 - 1] {
        hand.advance(Duration::from_secs(seconds));
        wait_for("a look at the channel", async || {
            let query = sqlx::query_scalar::<_, i64>("SELECT read_ms FROM meter");
            let at = query.fetch_one(&pool).await.unwrap();
            (at >= clock.now_ms()).then_some(())
        })
        .await;
        assert_eq!(Desk::of(&world).sent().await, before, "claimed early");
    }
    hand.advance(Duration::from_secs(1));
    wait_for("the claim's payout", async || {
        (balance(wallet).await == start + 5 * PRICE).then_some(())
    })
    .await;
    assert_eq!(Desk::of(&world).sent().await, before + 1);
    let claimed = sqlx::query_scalar::<_, i64>("SELECT created_ms FROM tx WHERE kind = 'claim'");
    let claimed = claimed.fetch_all(&pool).await.unwrap();
    assert_eq!(claimed, [owed_since + i64::try_from(CLAIM_AFTER_S * 1_000).unwrap()]);
    pool.close().await;
    sold(&world, &json!({ "sold": 3, "calls": 2, "revenue": "0.05", "posted": "0.05" })).await;
    server.abort();
    service.stop().await;
    world.judge().await;
}
