//! Official clients and servers with each other on our chain and our USDC: what the other tests of
//! this room lean on.

use alloy::signers::local::PrivateKeySigner;
use serde_json::json;

use crate::support::{Official, Plan};

#[tokio::test]
async fn official_packages_buy_from_each_other_on_a_chain_they_do_not_know() {
    let world = Plan::new().without_daemon().await;
    let payee = PrivateKeySigner::random().address();
    let (x402, mppx) =
        tokio::join!(Official::buyer(&world, "x402"), Official::buyer(&world, "mppx"));
    let seller = async |kind| Official::seller(&world, kind, payee, 10_000, json!({})).await;
    let sellers = tokio::join!(seller("express"), seller("hono"), seller("mppx"));
    let mut due = 0;
    for (buyer, seller) in [(&x402, &sellers.0), (&x402, &sellers.1), (&mppx, &sellers.2)] {
        let answer = buyer.ask(json!({ "url": seller.url(), "method": "POST", "body": "x" })).await;
        assert_eq!(answer["status"], 200, "{answer}");
        due += 10_000;
        assert_eq!(world.chain.usdc_of(payee).await, due);
        let seen = seller.ask(json!({})).await;
        assert!(world.chain.usdc_of(buyer.address()).await < 100_000_000);
        assert_eq!((&seen["handled"], &seen["settled"]), (&json!(1), &json!(1)), "{seen}");
    }
}
