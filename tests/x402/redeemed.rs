//! Our buyer, paying by ERC-7710: the seller's side redeems what the agent signed. It is a payment of the
//! wallet like any other, so it counts against every cap from the moment it is signed.

use bursar::{
    buyer::{FetchRequest, PayerKind, PurchaseState},
    payment::FundsMoved,
    refusal::Code,
};
use serde_json::{Value, json};

use super::{
    buyer::{BUYER, receipt, refusal, until},
    desk::Desk,
    hostile::{Hostile, Then, offer, offered},
};
use crate::support::{Official, Plan, RefusedWith as _, World, request};

/// The price of a call: of the day's cap, two and a half.
const PRICE: u64 = 20_000;

pub(super) fn delegated(mut offer: Value) -> Value {
    offer["extra"] = json!({ "assetTransferMethod": "erc7710" });
    offer
}

/// What of the agent's day is used, by the daemon's count.
async fn used(world: &World) -> String {
    let may = world.agent(BUYER).permissions().await.unwrap();
    may.limits.iter().find(|limit| limit.rule == "limits.day").unwrap().used.clone()
}

#[tokio::test]
async fn what_is_redeemed_counts_from_its_signature_on_and_is_charged_once() {
    let mut world = Plan::new()
        .policy(BUYER, "ceiling = \"20\"\nday = \"200\"", "ceiling = \"0.05\"\nday = \"0.05\"")
        .start()
        .await;
    let (payee, wallet) = (world.payee("acme-data"), world.card.wallet);
    let (start, had) = (world.chain.usdc_of(payee).await, world.chain.usdc_of(wallet).await);
    let agent = world.agent(BUYER);

    // An official seller, whose facilitator is ours.
    let more = json!({
        "facilitator": Desk::of(&world).url(), "extra": { "assetTransferMethod": "erc7710" },
    });
    let seller = Official::seller(&world, "express", payee, PRICE, more).await;
    let bought = agent.fetch(&FetchRequest::get(seller.url()), "official").await.unwrap();
    let paid = receipt(&bought);
    assert_eq!((bought.answer.status, paid.payer_kind), (200, PayerKind::Delegation), "{bought:?}");
    assert_eq!((paid.payer, paid.pay_to, paid.amount_units), (wallet, payee, PRICE));
    assert_eq!(bought.offers[0].payer, Some(PayerKind::Delegation));
    assert_eq!(world.chain.usdc_of(payee).await, start + PRICE);
    let again = agent.fetch(&FetchRequest::get(seller.url()), "official").await.unwrap();
    assert_eq!((&again.answer, receipt(&again).repeated), (&bought.answer, true));
    let seen = seller.ask(json!({})).await;
    assert_eq!((&seen["handled"], &seen["settled"]), (&json!(1), &json!(1)), "{seen}");
    let end = until(&world, paid, PurchaseState::Paid).await;
    assert_eq!((end.transaction, end.funds_moved), (paid.transaction, FundsMoved::Yes));
    assert_eq!(used(&world).await, "0.02");

    // One that nobody redeems holds its room, for payments too and across a restart.
    let good = delegated(offer(&world, payee, PRICE));
    let keeper = Hostile::start(&world, offered(std::slice::from_ref(&good)), Then::AskAgain).await;
    let kept = agent.fetch(&FetchRequest::get(&keeper.url()), "kept").await.unwrap();
    let kept = receipt(&kept).clone();
    assert_eq!(kept.state, PurchaseState::Unknown);
    world.stop().await;
    world.restart().await;
    let agent = world.agent(BUYER);
    assert_eq!(used(&world).await, "0.04");
    let shop = Hostile::start(&world, offered(std::slice::from_ref(&good)), Then::Sell).await;
    let refused = refusal(agent.fetch(&FetchRequest::get(&shop.url()), "above").await);
    let rule = refused.rule.as_deref();
    assert_eq!((refused.code, rule), (Code::DayCapExceeded, Some("limits.day")), "{refused:?}");
    assert_eq!((refused.remaining.as_deref(), refused.funds_moved), (Some("0.01"), FundsMoved::No));
    let plain = agent.submit(&request("acme-data", "0.02"), "plain").await;
    assert_eq!(plain.code(), Code::DayCapExceeded);
    assert!(shop.payments().is_empty());
    world.chain.pass(60).await;
    until(&world, &kept, PurchaseState::Unpaid).await;
    assert_eq!(used(&world).await, "0.02");
    let bought = agent.fetch(&FetchRequest::get(&shop.url()), "room-again").await.unwrap();
    assert_eq!((bought.answer.status, receipt(&bought).payer_kind), (200, PayerKind::Delegation));
    until(&world, receipt(&bought), PurchaseState::Paid).await;
    assert_eq!(used(&world).await, "0.04");
    assert_eq!(world.chain.usdc_of(payee).await, start + 2 * PRICE);

    // Wherever the daemon dies, the same signature is redeemed once and counted once.
    let cheap = delegated(offer(&world, payee, 1_000));
    shop.set(|terms| terms.offered = offered(&[cheap]));
    for point in ["purchase.signed", "purchase.answered", "purchase.noted", "purchase.read"] {
        world.kill();
        world.restart_with(point).await;
        let before = shop.payments().len();
        // Of the last one the answer may be out before it dies.
        let _ = world.agent(BUYER).fetch(&FetchRequest::get(&shop.url()), point).await;
        world.died().await;
        world.restart().await;
        let agent = world.agent(BUYER);
        let again = agent.fetch(&FetchRequest::get(&shop.url()), point).await;
        let bought = agent.purchases(None, 1).await.unwrap().purchases.remove(0);
        assert_eq!(
            (bought.idempotency_key.as_str(), bought.payer_kind),
            (point, PayerKind::Delegation)
        );
        until(&world, &bought, PurchaseState::Paid).await;
        let payments = &shop.payments()[before..];
        assert!(!payments.is_empty() && payments.iter().all(|p| *p == payments[0]), "{again:?}");
    }
    let spent = 2 * PRICE + 4_000;
    assert_eq!(used(&world).await, "0.044");
    assert_eq!(world.chain.usdc_of(payee).await, start + spent);
    assert_eq!(world.chain.usdc_of(wallet).await, had - spent, "no float, no coupon");
    let (code, text) = world.bursar(&["reconcile"]);
    assert_eq!(code, 0, "{text}");
}
