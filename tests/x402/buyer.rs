//! Our buyer: against official sellers, and against one that does what they do not.

use std::time::Duration;

use bursar::{
    alert::AlertKind,
    buyer::{FetchRequest, FetchView, PayerKind, PurchaseState, Receipt},
    client::ClientError,
    payment::FundsMoved,
    refusal::{Code, Refusal},
};
use serde_json::json;

use super::hostile::{Hostile, Then, offer, offered};
use crate::support::{Official, Plan, RefusedWith as _, World, wait_for};

/// The price of a call, in base units.
const PRICE: u64 = 10_000;
/// Buys, and has nothing but its float to pay with.
pub(super) const BUYER: &str = "ember";
/// It may hold so much, and has it filled at once.
const FLOAT: u64 = 2_000_000;

pub(super) fn receipt(view: &FetchView) -> &Receipt {
    view.receipt.as_ref().unwrap_or_else(|| panic!("no receipt: {view:?}"))
}

pub(super) fn refusal(outcome: Result<FetchView, ClientError>) -> Refusal {
    match outcome {
        Err(ClientError::Refused(problem)) => problem.refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// By the seller's word, or already by the chain's.
fn is_settled(receipt: &Receipt) -> bool {
    matches!(receipt.state, PurchaseState::Reported | PurchaseState::Paid)
}

/// Waits until a purchase has come to this end.
pub(super) async fn until(world: &World, receipt: &Receipt, state: PurchaseState) -> Receipt {
    let client = world.agent(BUYER);
    wait_for(&format!("{} {}", receipt.id, state.as_str()), async || {
        let now = client.purchase(receipt.id).await.unwrap();
        assert!(now.state == state || !now.state.is_terminal(), "{now:?}");
        (now.state == state).then_some(now)
    })
    .await
}

/// The only purchase there is.
async fn only(world: &World) -> Receipt {
    let mut page = world.agent(BUYER).purchases(None, 10).await.unwrap().purchases;
    assert_eq!(page.len(), 1, "{page:?}");
    page.remove(0)
}

/// Waits until a person was told that sellers of this host did something odd, at least so often then.
async fn alerted(world: &World, what: &str, times: u64) {
    let told = wait_for("the alert", async || {
        let status = world.operator(0).status().await.unwrap();
        status.alerts.into_iter().find(|alert| alert.alert == AlertKind::Seller)
    })
    .await;
    assert_eq!(told.subject, "127.0.0.1");
    assert!(told.measured["times"][what].as_u64().is_some_and(|n| n >= times), "{told:?}");
}

/// Buys from each official seller, with its own facilitator in its own process, and again.
pub(super) async fn buys_from_each(world: &World) {
    let payee = world.payee("acme-data");
    let agent = world.agent(BUYER);
    let mut due = world.chain.usdc_of(payee).await;
    for kind in ["express", "hono", "mppx"] {
        let seller = Official::seller(world, kind, payee, PRICE, json!({})).await;
        let shown = agent.inspect(&FetchRequest::get(seller.url())).await.unwrap();
        assert_eq!(shown.answer.status, 402);
        // mppx offers x402 too; here it is to be paid in its own way.
        let protocol = if kind == "mppx" { "mpp" } else { "x402" };
        let offer = shown.offers.iter().find(|offer| offer.protocol == protocol).unwrap();
        assert!(offer.refusal.is_none() && offer.price == "0.01", "{shown:?}");
        assert_eq!(shown.offers.iter().filter(|offer| offer.chosen).count(), 1);
        assert_eq!(world.chain.usdc_of(payee).await, due);

        let mut request = FetchRequest::get(seller.url());
        (request.method, request.body) = (Some("POST".into()), Some("what?".into()));
        request.headers.insert("content-type".into(), "text/plain".into());
        request.quote = Some(offer.quote);
        let bought = agent.fetch(&request, kind).await.unwrap();
        assert_eq!(bought.answer.status, 200, "{bought:?}");
        assert!(bought.answer.body.as_ref().unwrap().contains("what?"));
        assert!(is_settled(receipt(&bought)), "{bought:?}");
        assert!(receipt(&bought).scheme.starts_with(protocol), "{bought:?}");
        due += PRICE;
        assert_eq!(world.chain.usdc_of(payee).await, due);

        let again = agent.fetch(&request, kind).await.unwrap();
        assert_eq!((&again.answer, receipt(&again).repeated), (&bought.answer, true));
        let other = FetchRequest::get(&format!("{}?other", seller.url()));
        assert_eq!(agent.fetch(&other, kind).await.code(), Code::IdempotencyKeyReused);
        let seen = seller.ask(json!({})).await;
        assert_eq!((&seen["handled"], &seen["settled"]), (&json!(1), &json!(1)), "{seen}");
        // By whatever protocol, the seller is told who pays.
        let told = seen["payer"].as_str().unwrap();
        assert!(told.starts_with(&format!("account=\"{}\"", receipt(&bought).payer)), "{told}");
        assert!(told.contains("agent=\"ember\"") && told.contains("wallet-type=\"eoa\""), "{told}");
        let end = until(world, receipt(&bought), PurchaseState::Paid).await;
        assert_eq!(end.funds_moved, FundsMoved::Yes);
        assert_eq!(end.transaction, receipt(&bought).transaction);
        assert_eq!(world.chain.usdc_of(payee).await, due);
    }
}

#[tokio::test]
async fn official_sellers_are_paid_once_for_each_purchase() {
    let mut world = Plan::new().start().await;
    buys_from_each(&world).await;
    let payee = world.payee("acme-data");
    let agent = world.agent(BUYER);
    let mut due = world.chain.usdc_of(payee).await;
    // What the seller says of a settlement is not believed, and a failing one is paid once at most.
    for (case, set) in [
        ("pending", json!({ "settle": "pending" })),
        ("lost", json!({ "settle": "lose" })),
        ("denied", json!({ "settle": "refuse-after" })),
    ] {
        let seller = Official::seller(&world, "express", payee, PRICE, json!({})).await;
        seller.ask(json!({ "set": set })).await;
        // The client repeats by itself what may pass; each time with the same payment.
        let first = agent.fetch(&FetchRequest::get(seller.url()), case).await;
        if let Ok(view) = &first {
            assert_eq!(view.answer.status, 402, "{case}: {view:?}");
        }
        let page = agent.purchases(None, 1).await.unwrap().purchases;
        due += PRICE;
        let end = until(&world, &page[0], PurchaseState::Paid).await;
        assert_eq!(end.idempotency_key, case);
        seller.ask(json!({ "set": {} })).await;
        let again = agent.fetch(&FetchRequest::get(seller.url()), case).await.unwrap();
        assert_eq!(receipt(&again).state, PurchaseState::Paid);
        assert_eq!(world.chain.usdc_of(payee).await, due, "{case}");
    }
    assert_eq!(world.bursar(&["reconcile"]).0, 0);
    world.stop().await;
}

/// Waits out the end of an hour: coupons are good within one, and too little of it is none.
pub async fn within_an_hour() {
    let left = 3_600 - jiff::Timestamp::now().as_second().rem_euclid(3_600);
    if left < 90 {
        tokio::time::sleep(Duration::from_secs(left.unsigned_abs() + 1)).await;
    }
}

#[tokio::test]
async fn the_wallet_itself_pays_by_coupons() {
    within_an_hour().await;
    let mut world = Plan::new().start().await;
    let (payee, wallet) = (world.payee("acme-data"), world.card.wallet);
    let (mut due, mut left) = (world.chain.usdc_of(payee).await, world.chain.usdc_of(wallet).await);
    for (kind, price) in [("express", PRICE), ("hono", 3 * PRICE)] {
        let seller = Official::seller(&world, kind, payee, price, json!({})).await;
        let atlas = world.agent("atlas");
        let shown = atlas.inspect(&FetchRequest::get(seller.url())).await.unwrap();
        assert_eq!(shown.offers[0].payer, Some(PayerKind::Coupon), "{shown:?}");
        let bought = atlas.fetch(&FetchRequest::get(seller.url()), kind).await.unwrap();
        let paid = receipt(&bought);
        assert_eq!((bought.answer.status, paid.payer_kind), (200, PayerKind::Coupon), "{bought:?}");
        assert_eq!(paid.payer, wallet);
        let again = atlas.fetch(&FetchRequest::get(seller.url()), kind).await.unwrap();
        assert!(receipt(&again).repeated);
        (due, left) = (due + price, left - price);
        assert_eq!(world.chain.usdc_of(payee).await, due);
        assert_eq!(world.chain.usdc_of(wallet).await, left, "no extra payment, no float");
        wait_for("the chain's word", async || {
            let now = atlas.purchase(paid.id).await.unwrap();
            (now.state == PurchaseState::Paid).then_some(())
        })
        .await;
    }
    let may = world.agent("atlas").permissions().await.unwrap().fetch.unwrap();
    let taken: u16 = may.coupons.iter().map(|size| size.count - size.remaining).sum();
    assert_eq!(taken, 2, "{may:?}");
    assert!(may.coupons.iter().all(|size| (1..=3_600).contains(&size.returns_in)), "{may:?}");
    // A crash between signing and sending: the same coupon, and one charge.
    let good = offer(&world, payee, PRICE);
    let seller = Hostile::start(&world, offered(std::slice::from_ref(&good)), Then::Sell).await;
    world.stop().await;
    world.restart_with("purchase.answered").await;
    assert!(world.agent("atlas").fetch(&FetchRequest::get(&seller.url()), "crash").await.is_err());
    world.died().await;
    world.restart().await;
    let atlas = world.agent("atlas");
    let again = atlas.fetch(&FetchRequest::get(&seller.url()), "crash").await.unwrap();
    assert_eq!(again.answer.status, 200);
    let payments = seller.payments();
    assert!(payments.len() > 1 && payments.iter().all(|payment| *payment == payments[0]));
    let told = seller.terms.lock().unwrap().seen.last().unwrap().3.clone().unwrap();
    assert!(told.starts_with(&format!("account=\"{wallet}\"")), "{told}");
    assert!(
        told.contains("agent=\"atlas\"") && told.contains("wallet-type=\"contract\""),
        "{told}"
    );
    assert_eq!(world.chain.usdc_of(wallet).await, left - PRICE);
    assert_eq!(world.bursar(&["reconcile"]).0, 0);
    // A host that lets a coupon lapse cannot check one, perhaps: it is paid from the float then.
    seller.set(|terms| terms.then = Then::AskAgain);
    let kept = atlas.fetch(&FetchRequest::get(&seller.url()), "kept").await.unwrap();
    let kept = receipt(&kept).clone();
    assert_eq!((kept.payer_kind, kept.state), (PayerKind::Coupon, PurchaseState::Unknown));
    assert!(world.metric("bursar_sellers_odd_total{what=\"asks_again\"}").await >= 1);
    world.chain.pass(60).await;
    wait_for("its end", async || {
        let now = atlas.purchase(kept.id).await.unwrap();
        (now.state == PurchaseState::Unpaid).then_some(())
    })
    .await;
    seller.set(|terms| terms.then = Then::Sell);
    let float = atlas.fetch(&FetchRequest::get(&seller.url()), "float").await.unwrap();
    assert_eq!(receipt(&float).payer_kind, PayerKind::Float, "{float:?}");
    assert_eq!(world.chain.usdc_of(payee).await, due + 2 * PRICE);
    assert_eq!(world.bursar(&["reconcile"]).0, 0);
}

#[tokio::test]
async fn what_is_wrong_with_an_offer_is_said_and_nothing_is_paid() {
    let world = Plan::new().start().await;
    let (payee, stranger) = (world.payee("acme-data"), world.address("dune"));
    let agent = world.agent(BUYER);
    let good = || offer(&world, payee, PRICE);
    let with = |key: &str, value: serde_json::Value| {
        let mut offer = good();
        offer[key] = value;
        offer
    };
    let other = json!("0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC");
    let cases = [
        (with("network", json!("eip155:1")), Code::NoOffer, "offer.network"),
        (with("asset", other), Code::NoOffer, "offer.asset"),
        (with("extra", json!({ "name": "USDT", "version": "2" })), Code::NoOffer, "offer.asset"),
        (with("extra", json!({})), Code::NoOffer, "offer.asset"),
        (with("scheme", json!("upto")), Code::NoOffer, "offer.scheme"),
        (with("amount", json!("10.5")), Code::NoOffer, "offer"),
        (offer(&world, stranger, PRICE), Code::PayeeUnknown, "payee.registered"),
        (offer(&world, world.payee("gpu-harbor"), 1), Code::CategoryNotAllowed, "categories"),
        (offer(&world, payee, 100_001), Code::PriceTooHigh, "fetch.per_call"),
    ];
    for (n, (bad, code, rule)) in cases.into_iter().enumerate() {
        let seller = Hostile::start(&world, offered(std::slice::from_ref(&bad)), Then::Sell).await;
        let refused =
            refusal(agent.fetch(&FetchRequest::get(&seller.url()), &format!("bad-{n}")).await);
        assert_eq!((refused.code, refused.rule.as_deref()), (code, Some(rule)), "{refused:?}");
        assert_eq!(refused.funds_moved, FundsMoved::No);
        assert!(seller.payments().is_empty());
        // Beside a good one it is passed over, however cheap, and the reason is told.
        let both = offered(&[bad, offer(&world, payee, 20_000), good()]);
        seller.set(|terms| terms.offered = both);
        let shown = agent.inspect(&FetchRequest::get(&seller.url())).await.unwrap();
        assert!(shown.offers[2].chosen && shown.offers[0].refusal.is_some(), "{shown:?}");
    }

    let seller = Hostile::start(&world, offered(&[good()]), Then::Sell).await;
    let mut cheap = FetchRequest::get(&seller.url());
    cheap.max_price = Some("0.009".into());
    let refused = refusal(agent.fetch(&cheap, "cheap").await);
    assert_eq!((refused.code, refused.rule.as_deref()), (Code::PriceTooHigh, Some("max_price")));
    // For another host than the one that was called.
    let mut elsewhere = offered(&[good()]);
    elsewhere["resource"]["url"] = json!("https://bank.example/paid");
    seller.set(|terms| terms.offered = elsewhere);
    let refused = refusal(agent.fetch(&FetchRequest::get(&seller.url()), "spoofed").await);
    assert_eq!(refused.rule.as_deref(), Some("offer.resource"));
    // Another price, another payee than was quoted.
    seller.set(|terms| terms.offered = offered(&[good()]));
    let quote = agent.inspect(&FetchRequest::get(&seller.url())).await.unwrap().offers[0].quote;
    let pinned = FetchRequest { quote: Some(quote), ..FetchRequest::get(&seller.url()) };
    for (changed, rule) in [
        (offer(&world, payee, 9_999), "quote"),
        (offer(&world, world.payee("tidewater-data"), PRICE), "offer.payee"),
        (offer(&world, stranger, PRICE), "offer.payee"),
    ] {
        seller.set(|terms| terms.offered = offered(&[changed]));
        let refused = refusal(agent.fetch(&pinned, "pinned").await);
        assert_eq!((refused.code, refused.rule.as_deref()), (Code::OfferChanged, Some(rule)));
    }
    // Inside, and without the table that allows to buy.
    for url in ["http://169.254.169.254/latest", "http://10.0.0.1/", "http://[fd00::1]/"] {
        assert_eq!(
            agent.fetch(&FetchRequest::get(url), url).await.code(),
            Code::HostNotAllowed,
            "{url}"
        );
    }
    let dune = world.agent("dune");
    assert_eq!(
        dune.fetch(&FetchRequest::get(&seller.url()), "dune").await.code(),
        Code::HostNotAllowed
    );
    assert!(seller.payments().is_empty());
    assert!(agent.purchases(None, 10).await.unwrap().purchases.is_empty());
    assert!(world.metric("bursar_payments_denied_total{code=\"offer_changed\"}").await >= 3);
    assert!(world.metric("bursar_sellers_odd_total{what=\"offer_changed\"}").await >= 1);
    assert!(world.metric("bursar_sellers_odd_total{what=\"payto_changed\"}").await >= 2);
    assert!(world.metric("bursar_sellers_odd_total{what=\"other_host\"}").await >= 1);
    assert!(world.metric("bursar_sellers_odd_total{what=\"other_network\"}").await >= 1);
    // A person is told, by name of the host.
    let told = wait_for("the alert", async || {
        let status = world.operator(0).status().await.unwrap();
        status.alerts.into_iter().find(|alert| alert.alert == AlertKind::Seller)
    })
    .await;
    assert_eq!(
        (told.subject.as_str(), &told.measured["times"]["other_asset"]),
        ("127.0.0.1", &json!(3))
    );
}

#[tokio::test]
async fn whatever_a_seller_does_with_a_payment_it_gets_one() {
    let world = Plan::new()
        .config(|config| config.fetch.timeout_s = 2)
        .policy(
            BUYER,
            "channel = \"0.25\"",
            "channel = \"0.25\"\n[fetch.loops]\nsame_call = 100\nfailures = 100\nwithin = \"60s\"",
        )
        .start()
        .await;
    let payee = world.payee("acme-data");
    let agent = world.agent(BUYER);
    let mut due = world.chain.usdc_of(payee).await;
    let good = offer(&world, payee, PRICE);
    let other = offer(&world, world.payee("tidewater-data"), PRICE);
    let mut kept = Vec::new();
    for (n, then, settles) in [
        (0, Then::SettleAndCut, true),
        (1, Then::SettleAndHang, true),
        (2, Then::AskAgain, false),
        (3, Then::Keep(500), false),
        (4, Then::Redirect, false),
        (5, Then::Lie, false),
    ] {
        let seller = Hostile::start(&world, offered(std::slice::from_ref(&good)), then).await;
        seller.set(|terms| {
            terms.afterwards = (n == 2).then(|| offered(std::slice::from_ref(&other)))
        });
        let key = format!("case-{n}");
        let first = agent.fetch(&FetchRequest::get(&seller.url()), &key).await;
        match (&first, then) {
            (Err(error), _) => assert!(
                matches!(error, ClientError::Refused(problem)
                if problem.refusal.code == Code::OutcomeUnknown
                    && problem.refusal.funds_moved != FundsMoved::No),
                "{error}"
            ),
            (Ok(view), Then::Lie) => assert_eq!(receipt(view).state, PurchaseState::Reported),
            (Ok(view), _) => assert_eq!(receipt(view).funds_moved, FundsMoved::Maybe, "{view:?}"),
        }
        let bought = agent.purchases(None, 1).await.unwrap().purchases.remove(0);
        assert_eq!(bought.idempotency_key, key);
        if settles {
            due += PRICE;
            until(&world, &bought, PurchaseState::Paid).await;
        }
        // However often it is asked again: the same authorization, or none.
        if then != Then::SettleAndHang {
            let _ = agent.fetch(&FetchRequest::get(&seller.url()), &key).await;
        }
        let payments = seller.payments();
        assert!(!payments.is_empty());
        assert!(payments.iter().all(|payment| *payment == payments[0]), "{then:?}");
        assert_eq!(world.chain.usdc_of(payee).await, due, "{then:?}");
        if !settles {
            kept.push((seller, bought));
        }
    }
    // It asked for another payee once it was paid: nobody pays that, and a person is told.
    assert!(world.metric("bursar_sellers_odd_total{what=\"payto_changed\"}").await >= 1);
    alerted(&world, "payto_changed", 1).await;
    // What was never used ends, frees its amount, and is told as what it is: nothing was paid.
    world.chain.pass(60).await;
    for (seller, bought) in &kept {
        let end = until(&world, bought, PurchaseState::Unpaid).await;
        assert_eq!((end.funds_moved, end.transaction), (FundsMoved::No, None));
        let key = &bought.idempotency_key;
        match agent.fetch(&FetchRequest::get(&seller.url()), key).await {
            // It was delivered, though not paid for.
            Ok(view) => assert!(receipt(&view).repeated),
            Err(error) => assert!(matches!(error, ClientError::Refused(problem)
                if problem.refusal.code == Code::PurchaseLapsed)),
        }
    }
    assert_eq!(world.chain.usdc_of(payee).await, due);
    assert_eq!(world.bursar(&["reconcile"]).0, 0);
}

#[tokio::test]
async fn a_crash_at_any_point_of_a_purchase_pays_once() {
    let mut world = Plan::new().without_daemon().await;
    let payee = world.payee("acme-data");
    let seller = Hostile::start(&world, offered(&[offer(&world, payee, PRICE)]), Then::Sell).await;
    let mut due = world.chain.usdc_of(payee).await;
    for point in ["purchase.signed", "purchase.answered", "purchase.noted", "purchase.read"] {
        if world.runs() {
            world.kill();
        }
        world.restart_with(point).await;
        let before = seller.payments().len();
        let first = world.agent(BUYER).fetch(&FetchRequest::get(&seller.url()), point).await;
        assert!(first.is_err() || point == "purchase.read", "{point}: {first:?}");
        world.died().await;
        world.restart().await;
        let agent = world.agent(BUYER);
        let again = agent.fetch(&FetchRequest::get(&seller.url()), point).await;
        let bought = agent.purchases(None, 1).await.unwrap().purchases.remove(0);
        assert_eq!(bought.idempotency_key, point);
        due += PRICE;
        until(&world, &bought, PurchaseState::Paid).await;
        assert_eq!(world.chain.usdc_of(payee).await, due, "{point}: {again:?}");
        let payments = &seller.payments()[before..];
        assert!(!payments.is_empty() && payments.iter().all(|p| *p == payments[0]), "{point}");
    }
    assert_eq!(world.bursar(&["reconcile"]).0, 0);
}

#[tokio::test]
async fn limits_and_the_loop_breaker_stop_a_runaway_agent() {
    let mut world = Plan::new()
        .policy(BUYER, "host_day = \"5\"", "host_day = \"0.06\"")
        .policy(BUYER, "\nday = \"20\"", "\nday = \"0.07\"")
        .policy(BUYER, "\n[limits]", "hosts = [\"127.0.0.1\", \"localhost\"]\n\n[limits]")
        .policy(
            BUYER,
            "channel = \"0.25\"",
            "channel = \"0.25\"\n[fetch.loops]\nsame_call = 4\nfailures = 3\nwithin = \"600s\"",
        )
        .start()
        .await;
    let payee = world.payee("acme-data");
    let agent = world.agent(BUYER);
    let start = world.chain.usdc_of(payee).await;
    let seller = Hostile::start(&world, offered(&[offer(&world, payee, PRICE)]), Then::Sell).await;
    let mut codes = Vec::new();
    for n in 0..8 {
        let outcome = agent.fetch(&FetchRequest::get(&seller.url()), &format!("loop-{n}")).await;
        codes.push(outcome.is_ok().then_some(()).ok_or_else(|| outcome.code()));
    }
    assert!(codes[..4].iter().all(Result::is_ok), "{codes:?}");
    assert!(codes[4..].iter().all(|code| *code == Err(Code::LoopDetected)), "{codes:?}");
    let unpaid = seller.calls() - seller.payments().len();
    assert_eq!((unpaid, seller.payments().len()), (4, 4), "a loop does not even reach the seller");
    // Told as an alert, and remembered across a restart.
    world.stop().await;
    world.restart().await;
    let agent = world.agent(BUYER);
    let again = agent.fetch(&FetchRequest::get(&seller.url()), "loop-9").await;
    assert_eq!(again.code(), Code::LoopDetected);
    wait_for("the alert", async || {
        let status = world.operator(0).status().await.unwrap();
        status.alerts.iter().any(|alert| alert.alert.as_str() == "loop").then_some(())
    })
    .await;
    // Another path is another call; the host's day holds for both together.
    let paths = format!("http://{}/other", seller.addr);
    for n in 0..2 {
        agent
            .fetch(&FetchRequest::get(&format!("{paths}-{n}")), &format!("other-{n}"))
            .await
            .unwrap();
    }
    let refused = refusal(agent.fetch(&FetchRequest::get(&format!("{paths}-2")), "other-2").await);
    assert_eq!(
        (refused.code, refused.rule.as_deref()),
        (Code::DayCapExceeded, Some("fetch.host_day"))
    );
    assert_eq!(refused.remaining.as_deref(), Some("0"));
    assert_eq!(world.chain.usdc_of(payee).await, start + 6 * PRICE);
    // Another host has a day of its own, within the one of all hosts together.
    let mut elsewhere = offered(&[offer(&world, payee, PRICE)]);
    elsewhere["resource"]["url"] = json!("http://localhost/paid");
    seller.set(|terms| terms.offered = elsewhere);
    let named = |host: &str, n: u8| format!("http://{host}:{}/{n}", seller.addr.port());
    agent.fetch(&FetchRequest::get(&named("localhost", 0)), "named-0").await.unwrap();
    let refused = refusal(agent.fetch(&FetchRequest::get(&named("localhost", 1)), "named-1").await);
    assert_eq!((refused.code, refused.rule.as_deref()), (Code::DayCapExceeded, Some("fetch.day")));
    assert_eq!(refused.used.as_deref(), Some("0.07"));
    // One that the policy does not list is not even called.
    let before = seller.calls();
    let refused =
        refusal(agent.fetch(&FetchRequest::get(&named("127.0.0.2", 0)), "unlisted").await);
    assert_eq!((refused.code, refused.rule.as_deref()), (Code::HostNotAllowed, Some("hosts")));
    assert_eq!(seller.calls(), before);
    assert_eq!(world.chain.usdc_of(payee).await, start + 7 * PRICE);
    // Endless 402s that cannot be paid stop too.
    let dear = offered(&[offer(&world, payee, 1_000_000)]);
    let dear = Hostile::start(&world, dear, Then::Sell).await;
    for n in 0..5 {
        let url = format!("{}/dear", dear.url());
        let code = agent.fetch(&FetchRequest::get(&url), &format!("dear-{n}")).await.code();
        assert_eq!(code, if n < 3 { Code::PriceTooHigh } else { Code::LoopDetected });
    }
    assert_eq!(dear.calls(), 3);
    // Counted by this daemon: its own three; told once, when it was the third of the first one's.
    assert!(world.metric("bursar_sellers_odd_total{what=\"asks_again\"}").await >= 3);
    alerted(&world, "asks_again", 3).await;
}

#[tokio::test]
async fn a_float_is_filled_by_the_wallet_and_bounded_by_the_policy() {
    let world = Plan::new().start().await;
    let (payee, float) = (world.payee("acme-data"), world.payee("ember-float"));
    let agent = world.agent(BUYER);
    let seller = Hostile::start(&world, offered(&[offer(&world, payee, PRICE)]), Then::Sell).await;
    assert_eq!(world.chain.usdc_of(float).await, 0);
    let mut request = FetchRequest::get(&seller.url());
    (request.method, request.body) = (Some("PUT".into()), Some("mine".into()));
    request.headers.insert("x-topic".into(), "weather".into());
    let bought = agent.fetch(&request, "first").await.unwrap();
    assert_eq!(bought.answer.body.as_deref(), Some("sold PUT mine"));
    let paid = receipt(&bought);
    assert_eq!((paid.payer, paid.pay_to, paid.amount_units), (float, payee, PRICE));
    assert_eq!(world.chain.usdc_of(float).await, FLOAT - PRICE);
    until(&world, paid, PurchaseState::Paid).await;
    // The seller is told who pays, and can check it against the payment.
    let metadata = seller.terms.lock().unwrap().seen[1].3.clone().unwrap();
    for part in [float.to_string(), "agent=\"ember\"".into(), world.card.chain_id.to_string()] {
        assert!(metadata.contains(&part), "{metadata}");
    }
    // Both are in the books: what filled it, and what left it.
    let page = agent.payments(None, None, 10).await.unwrap().payments;
    assert_eq!((page.len(), page[0].payee, page[0].amount_units), (1, float, FLOAT));
    assert_eq!(only(&world).await.id, paid.id);
    let (code, story) = world.bursar(&["audit", "verify"]);
    assert_eq!(code, 0, "{story}");
    assert_eq!(world.bursar(&["reconcile"]).0, 0);
    // Version 1 asks in the body.
    let mut v1 = offer(&world, payee, PRICE);
    v1["maxAmountRequired"] = v1["amount"].take();
    let v1 = json!({ "x402Version": 1, "accepts": [v1] });
    seller.set(|terms| terms.offered = v1);
    let old = agent.fetch(&FetchRequest::get(&seller.url()), "v1").await.unwrap();
    assert_eq!((old.answer.status, receipt(&old).scheme.as_str()), (200, "x402-v1 exact"));
    let told = seller.terms.lock().unwrap().seen.last().unwrap().3.clone();
    assert_eq!(told, Some(metadata), "version 1 has no other room for it");
    assert!(is_settled(receipt(&old)));

    // Another payee than was paid here before: refused, as what it is, where nobody has registered it.
    let odd = async || world.metric("bursar_sellers_odd_total{what=\"payto_changed\"}").await;
    assert_eq!(odd().await, 0);
    let stranger = world.address("dune");
    seller.set(|terms| terms.offered = offered(&[offer(&world, stranger, PRICE)]));
    let shown = agent.inspect(&FetchRequest::get(&seller.url())).await.unwrap();
    let refused = refusal(agent.fetch(&FetchRequest::get(&seller.url()), "stranger").await);
    assert_eq!(shown.offers[0].refusal.as_ref(), Some(&refused));
    assert_eq!(
        (refused.code, refused.rule.as_deref(), refused.funds_moved),
        (Code::OfferChanged, Some("offer.payee"), FundsMoved::No)
    );
    assert!(refused.detail.contains(&payee.to_string()), "{refused:?}");
    assert_eq!(odd().await, 1);
    alerted(&world, "payto_changed", 1).await;
    // One that operators have registered is paid, and told of at the first purchase only.
    let tidewater = world.payee("tidewater-data");
    let had = world.chain.usdc_of(tidewater).await;
    seller.set(|terms| terms.offered = offered(&[offer(&world, tidewater, PRICE)]));
    for key in ["moved", "moved-again"] {
        let bought = agent.fetch(&FetchRequest::get(&seller.url()), key).await.unwrap();
        assert_eq!((bought.answer.status, receipt(&bought).pay_to), (200, tidewater));
        assert_eq!(odd().await, 2, "{key}");
    }
    assert_eq!(world.chain.usdc_of(tidewater).await, had + 2 * PRICE);
}
