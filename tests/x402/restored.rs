//! A store that has forgotten purchases: nothing spent is signed again, nothing paid is paid again.

use std::collections::HashSet;

use bursar::{
    buyer::{FetchRequest, PayerKind, PurchaseState},
    payment::State,
    refusal::Code,
    x402::exact::Payload,
};

use super::{
    buyer::{receipt, within_an_hour},
    hostile::{Hostile, Then, offer, offered},
    redeemed::delegated,
};
use crate::{
    engine::restored::{copy, found, named, put_back, say},
    support::{Plan, RefusedWith as _, World, wait_for},
};

const AGENT: &str = "atlas";

/// Buys for so many base units, and waits for the chain's word.
async fn buy(world: &World, shop: &Hostile, key: &str, units: u64, by: PayerKind) {
    ask(world, shop, units, by);
    let agent = world.agent(AGENT);
    let bought = agent.fetch(&FetchRequest::get(&shop.url()), key).await.unwrap();
    let bought = receipt(&bought);
    assert_eq!((bought.payer_kind, bought.amount_units), (by, units));
    wait_for("the chain's word", async || {
        let now = agent.purchase(bought.id).await.unwrap();
        (now.state == PurchaseState::Paid).then_some(())
    })
    .await;
}

fn ask(world: &World, shop: &Hostile, units: u64, by: PayerKind) {
    let plain = offer(world, world.payee("acme-data"), units);
    let offer = if by == PayerKind::Delegation { delegated(plain) } else { plain };
    shop.set(|terms| terms.offered = offered(&[offer]));
}

#[tokio::test]
async fn a_restored_store_signs_no_spent_coupon_and_buys_nothing_again() {
    within_an_hour().await;
    let mut world = Plan::new().config(|config| config.fetch.valid_s = 20).start().await;
    let payee = world.payee("acme-data");
    let start = world.chain.usdc_of(payee).await;
    let shop = Hostile::start(&world, offered(&[]), Then::Sell).await;
    buy(&world, &shop, "known", 10_000, PayerKind::Coupon).await;
    world.kill();
    let old = copy(&world);

    // What the copy has never heard of.
    world.restart().await;
    buy(&world, &shop, "forgotten", 9_000, PayerKind::Coupon).await;
    buy(&world, &shop, "lost", 8_000, PayerKind::Coupon).await;
    buy(&world, &shop, "redeemed", 7_000, PayerKind::Delegation).await;
    let plain = world.pay("ember", "acme-data", "1", "plain").await;
    world.until(&plain, State::Paid).await;
    world.kill();
    put_back(&world, old).await;
    world.restart().await;

    let agent = world.agent(AGENT);
    ask(&world, &shop, 6_000, PayerKind::Coupon);
    let before = shop.calls();
    assert_eq!(
        agent.fetch(&FetchRequest::get(&shop.url()), "fresh").await.code(),
        Code::Unavailable
    );
    assert_eq!(shop.calls(), before, "not while what was signed can still run");
    world.chain.pass(world.config().submit.signature_ttl_s + 60).await;
    let list = wait_for("what the chain has", async || {
        let list = found(&world);
        (list["found"].as_array().unwrap().len() == 4).then_some(list)
    })
    .await;

    // A coupon that was never spent.
    buy(&world, &shop, "fresh", 6_000, PayerKind::Coupon).await;
    // What may be its repeat is not paid; what an operator says is paid, is.
    for (key, units) in [("forgotten", 9_000), ("redeemed", 7_000)] {
        let by = if units == 7_000 { PayerKind::Delegation } else { PayerKind::Coupon };
        ask(&world, &shop, units, by);
        assert_eq!(agent.fetch(&FetchRequest::get(&shop.url()), key).await.code(), Code::MaybePaid);
    }
    say(&world, &["match", &named(&list, "0.009"), "--key", "forgotten"]);
    ask(&world, &shop, 9_000, PayerKind::Coupon);
    assert_eq!(agent.fetch(&FetchRequest::get(&shop.url()), "forgotten").await.code(), Code::Gone);
    say(&world, &["acknowledge", &named(&list, "0.008")]);
    buy(&world, &shop, "once-more", 8_000, PayerKind::Coupon).await;

    let payments = shop.payments();
    let signed = payments.iter().filter_map(|payment| Payload::read(&payment.payload).ok());
    let nonces: Vec<_> = signed.map(|payload| payload.authorization.nonce).collect();
    assert_eq!(nonces.len(), 5);
    assert_eq!(nonces.iter().collect::<HashSet<_>>().len(), 5, "each coupon was signed once");
    let spent = 10_000 + 9_000 + 8_000 + 7_000 + 6_000 + 8_000;
    assert_eq!(world.chain.usdc_of(payee).await, start + 1_000_000 + spent);
    // The contract counts the redemption, and no coupon.
    let may = agent.permissions().await.unwrap();
    let day = may.limits.iter().find(|limit| limit.rule == "limits.day").unwrap();
    assert_eq!(day.used, "0.007");
    let (code, said) = world.bursar(&["reconcile"]);
    assert_eq!(code, 0, "{said}");
}
