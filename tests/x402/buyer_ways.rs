//! What our buyer pays with where the first way refuses, and when nothing may pay at all.

use alloy::primitives::Address;
use bursar::{
    buyer::{FetchRequest, FetchView, OfferView, PayerKind, PurchaseState},
    contract::{IPolicyChanges, hub::HUB},
    payment::FundsMoved,
    refusal::Code,
};
use serde_json::{Value, json};

use super::{
    buyer::{BUYER, receipt, refusal, until, within_an_hour},
    hostile::{Hostile, Then, offer, offered},
    redeemed::delegated,
    seller::Shop,
    till::Till,
};
use crate::support::{Plan, World};

/// The price of a call, in base units.
const PRICE: u64 = 10_000;

/// An offer by channels whose claims `authorizer` signs.
fn by_channel(world: &World, payee: Address, authorizer: Address, more: &Value) -> Value {
    let mut offer = offer(world, payee, PRICE);
    offer["scheme"] = json!("batch-settlement");
    offer["extra"]["receiverAuthorizer"] = json!(authorizer.to_string());
    offer["extra"]["withdrawDelay"] = json!(900);
    offer["extra"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    offer
}

/// The offer of a scheme.
fn of<'a>(view: &'a FetchView, scheme: &str) -> &'a OfferView {
    view.offers.iter().find(|offer| offer.scheme == scheme).unwrap()
}

fn why(offer: &OfferView) -> (Code, &str) {
    let refusal = offer.refusal.as_ref().unwrap_or_else(|| panic!("not refused: {offer:?}"));
    (refusal.code, refusal.rule.as_deref().unwrap())
}

#[tokio::test]
async fn where_one_way_refuses_the_next_one_pays() {
    let mut world = Plan::new()
        .policy(BUYER, "ceiling = \"20\"", "ceiling = \"0.20\"")
        .policy(BUYER, "float = \"2\"", "float = \"0.06\"")
        .without_daemon()
        .await;
    let shop = Shop::open(&mut world).await;
    let list = world.card.config.with_file_name("prices.toml");
    let routes = std::fs::read_to_string(&list).unwrap();
    let routes = routes.replace("price = \"0.01\"", "price = \"0.05\"");
    std::fs::write(&list, format!("pay_to = \"acme-data\"\n{routes}")).unwrap();
    world.restart().await;
    let (agent, payee) = (world.agent(BUYER), world.payee("acme-data"));
    let mut due = world.chain.usdc_of(payee).await;

    // Our own paywall wants ten calls as a deposit, 0.50; the policy lets one give 0.25.
    assert_eq!(shop.get("/paid", &[]).await.status().as_u16(), 402);
    let request = FetchRequest::get(&format!("{}/paid", shop.url));
    let shown = agent.inspect(&request).await.unwrap();
    assert_eq!(why(of(&shown, "batch-settlement")), (Code::PriceTooHigh, "fetch.channel"));
    assert!(of(&shown, "exact").chosen, "{shown:?}");
    let bought = agent.fetch(&request, "own").await.unwrap();
    let paid = receipt(&bought);
    assert_eq!((bought.answer.status, paid.payer_kind), (200, PayerKind::Float), "{bought:?}");
    assert_eq!(paid.scheme, "x402 exact");
    assert_eq!(why(of(&bought, "batch-settlement")), (Code::PriceTooHigh, "fetch.channel"));
    due += 5 * PRICE;

    // What is known before: of the deposit, and of who would claim.
    let claimer = world.daemon_keys().relayer(0).unwrap().address();
    let cases = [
        (world.address("dune"), json!({}), Code::NoOffer, "fetch.channel"),
        (claimer, json!({ "minDeposit": "250001" }), Code::PriceTooHigh, "fetch.channel"),
        (claimer, json!({}), Code::CeilingExceeded, "limits.ceiling"),
    ];
    let exact = offer(&world, payee, PRICE);
    for (n, (authorizer, more, code, rule)) in cases.into_iter().enumerate() {
        let bad = by_channel(&world, payee, authorizer, &more);
        let both = offered(&[bad.clone(), exact.clone()]);
        let seller = Hostile::start(&world, both, Then::Sell).await;
        let request = FetchRequest::get(&seller.url());
        let shown = agent.inspect(&request).await.unwrap();
        assert_eq!(why(&shown.offers[0]), (code, rule));
        assert!(shown.offers[1].chosen, "{shown:?}");
        let bought = agent.fetch(&request, &format!("both-{n}")).await.unwrap();
        assert_eq!((bought.answer.status, receipt(&bought).payer_kind), (200, PayerKind::Float));
        assert_eq!(why(&bought.offers[0]), (code, rule));
        due += PRICE;
        seller.set(|terms| terms.offered = offered(&[bad]));
        let refused = refusal(agent.fetch(&request, &format!("alone-{n}")).await);
        assert_eq!((refused.code, refused.rule.as_deref()), (code, Some(rule)), "{refused:?}");
        assert_eq!((refused.funds_moved, seller.payments().len()), (FundsMoved::No, 1));
    }

    // What is found out on the way: the float may not hold so much, and the wallet itself pays.
    let dear = offer(&world, payee, 8 * PRICE);
    let dearer = delegated(offer(&world, payee, 9 * PRICE));
    let both = offered(&[dear.clone(), dearer]);
    let seller = Hostile::start(&world, both, Then::Sell).await;
    let request = FetchRequest::get(&seller.url());
    let bought = agent.fetch(&request, "dear").await.unwrap();
    assert_eq!((bought.answer.status, receipt(&bought).payer_kind), (200, PayerKind::Delegation));
    assert_eq!(why(&bought.offers[0]), (Code::PriceTooHigh, "fetch.float"));
    assert!(!bought.offers[0].chosen && bought.offers[1].chosen, "{bought:?}");
    due += 9 * PRICE;
    assert!(receipt(&agent.fetch(&request, "dear").await.unwrap()).repeated);
    seller.set(|terms| terms.offered = offered(&[dear]));
    let refused = refusal(agent.fetch(&request, "dear-alone").await);
    assert_eq!((refused.code, refused.rule.as_deref()), (Code::PriceTooHigh, Some("fetch.float")));
    assert_eq!((refused.funds_moved, seller.payments().len()), (FundsMoved::No, 1));

    // One payment for each purchase, none into a channel.
    until(&world, receipt(&bought), PurchaseState::Paid).await;
    assert_eq!(world.chain.usdc_of(payee).await, due);
    assert_eq!(world.chain.usdc_of(HUB).await, 0);
    assert_eq!(agent.purchases(None, 50).await.unwrap().purchases.len(), 5);
    let float = world.payee("ember-float");
    let payments = agent.payments(None, None, 50).await.unwrap().payments;
    assert!(payments.iter().all(|payment| payment.payee == float), "{payments:?}");
    assert_eq!(world.bursar(&["reconcile"]).0, 0);
}

#[tokio::test]
async fn coupons_run_out_and_who_is_frozen_buys_nothing() {
    within_an_hour().await;
    let world = Plan::new()
        .policy(
            "atlas",
            "classes = [\"200x0.01\", \"80x0.10\", \"10x1\", \"1x5\"]",
            "classes = [\"5x0.01\", \"1x0.10\"]",
        )
        .policy("borealis", "classes = [\"20x0.10\"]", "classes = [\"1x0.10\"]")
        .start()
        .await;
    let data = offer(&world, world.payee("acme-data"), 5 * PRICE);
    let data = Hostile::start(&world, offered(&[data]), Then::Sell).await;
    let compute = offer(&world, world.payee("gpu-harbor"), PRICE);
    let compute = Hostile::start(&world, offered(&[compute]), Then::Sell).await;
    let till = Till::start(&world, world.payee("tidewater-data"), PRICE).await;
    let fetch = async |agent: &str, url: &str, key: &str| {
        world.agent(agent).fetch(&FetchRequest::get(url), key).await
    };

    // Whoever has a float pays from it when no coupon is left that is large enough; others wait.
    for (key, payer) in [("first", PayerKind::Coupon), ("second", PayerKind::Float)] {
        let bought = fetch("atlas", &data.url(), key).await.unwrap();
        assert_eq!((bought.answer.status, receipt(&bought).payer_kind), (200, payer), "{bought:?}");
        assert_eq!((bought.offers[0].payer, bought.offers[0].chosen), (Some(payer), true));
    }
    let bought = fetch("borealis", &compute.url(), "first").await.unwrap();
    assert_eq!(receipt(&bought).payer_kind, PayerKind::Coupon);
    let refused = refusal(fetch("borealis", &compute.url(), "second").await);
    assert_eq!(
        (refused.code, refused.rule.as_deref(), refused.funds_moved),
        (Code::DayCapExceeded, Some("coupons"), FundsMoved::No)
    );
    assert_eq!(compute.payments().len(), 1);
    let voucher = fetch(BUYER, &till.url(), "voucher").await.unwrap();
    assert_eq!(receipt(&voucher).payer_kind, PayerKind::Channel, "{voucher:?}");

    // Each has something to pay with, until it is frozen.
    let cheap = offer(&world, world.payee("acme-data"), PRICE);
    data.set(|terms| terms.offered = offered(&[cheap]));
    let ways = [
        ("atlas", data.url(), PayerKind::Coupon),
        (BUYER, data.url(), PayerKind::Float),
        (BUYER, till.url(), PayerKind::Channel),
    ];
    for (agent, url, payer) in &ways {
        let shown = world.agent(agent).inspect(&FetchRequest::get(url)).await.unwrap();
        assert_eq!(shown.offers[0].payer, Some(*payer), "{shown:?}");
    }
    let freeze = async |agent: Address| {
        let order = world.order(IPolicyChanges::setFrozenCall { agent, frozen: true }, 0).await;
        world.operator(0).tighten(&order).await.unwrap();
    };
    let asked = || (data.calls(), compute.calls(), till.state.lock().unwrap().asked);
    let before = (asked(), till.seen().len());
    freeze(world.address("atlas")).await;
    freeze(world.address(BUYER)).await;
    for (agent, url, payer) in &ways {
        let refused = refusal(fetch(agent, url, payer.as_str()).await);
        assert_eq!((refused.code, refused.funds_moved), (Code::AgentFrozen, FundsMoved::No));
    }
    freeze(Address::ZERO).await;
    let refused = refusal(fetch("borealis", &compute.url(), "third").await);
    assert_eq!((refused.code, refused.funds_moved), (Code::WalletFrozen, FundsMoved::No));
    // Nobody was even called.
    assert_eq!((asked(), till.seen().len()), before);
}
