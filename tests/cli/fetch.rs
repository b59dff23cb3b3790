//! `bursar fetch` and `bursar purchases`, through the real binary: an agent's calls as a person types them.

use std::fs;

use bursar::buyer::{FetchView, PayerKind, PurchasePage, PurchaseState, Receipt};
use serde_json::Value;

use super::{agent, bursar_at, ends, json, operator, run, said};
use crate::{
    support::{Plan, wait_for},
    x402::{buyer::within_an_hour, seller::Shop},
};

/// Buys, and has nothing but its float to pay with.
const BUYER: &str = "ember";

/// What the shop asks for a call, in base units.
const PRICE: u64 = 10_000;

// The shop answers in this process while a command is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_is_bought_once_and_its_receipt_stands_apart_from_it() {
    within_an_hour().await;
    let mut world = Plan::new().without_daemon().await;
    let shop = Shop::open(&mut world).await;
    world.restart().await;
    shop.get("/paid", &[]).await;
    let (key, float) = (agent(&world, BUYER), world.payee("ember-float"));
    // No agent buys from its own wallet: the route pays a registered payee.
    let url = format!("{}/theirs/paid", shop.url);
    let start = world.chain.usdc_of(world.payee("acme-data")).await;
    let paid = async || world.chain.usdc_of(world.payee("acme-data")).await - start;

    // What it would cost: a table, and nothing paid, nothing made.
    let text = ends(&world, &format!("fetch {url} --inspect {key}"), 0);
    let chosen: Vec<&str> = text.lines().filter(|line| line.trim().starts_with('*')).collect();
    assert!(chosen.len() == 2 && chosen[1].contains("* would be paid"), "{text}");
    assert!(chosen[0].contains("0.01") && chosen[0].contains("acceptable, by"), "{text}");
    let shown: FetchView =
        serde_json::from_value(json(&world, &format!("fetch {url} --inspect {key}"))).unwrap();
    assert!(shown.answer.status == 402 && shown.receipt.is_none(), "{shown:?}");
    let offer = shown.offers.iter().find(|offer| offer.chosen).unwrap();
    assert!(chosen[0].contains(&offer.quote.to_string()), "{text}");

    // Too dear for this call: nothing is paid, and the reason is told.
    let dear = run(&world, &format!("fetch {url} --max-price 0.009 {key}"));
    let why = said(&dear);
    assert_eq!(dear.status.code(), Some(1), "{why}");
    assert!(dear.stdout.is_empty() && why.contains("0.009") && why.contains("0.01"), "{why}");
    for wrong in ["--max-price cheap", "--header nothing", "--inspect --key x"] {
        let said = ends(&world, &format!("fetch {url} {wrong} {key}"), 2);
        assert!(said.contains("error:"), "{wrong}: {said}");
    }
    assert_eq!((shop.made(), paid().await), (0, 0));

    // What was bought goes to standard output and nothing else does; the receipt beside it.
    let file = world.card.dir.join("question.txt");
    fs::write(&file, "what is the weather?").unwrap();
    let line = format!(
        "fetch {url} --body @{} --header 'content-type: text/plain' --quote {} --key job-1 {key}",
        file.display(),
        offer.quote
    );
    let bought = run(&world, &line);
    let receipt = String::from_utf8(bought.stderr.clone()).unwrap();
    assert!(bought.status.success(), "{}", said(&bought));
    let body: Value = serde_json::from_slice(&bought.stdout).unwrap();
    assert_eq!((&body["number"], shop.made(), paid().await), (&1.into(), 1, PRICE), "{receipt}");
    assert_eq!((&body["method"], &body["length"]), (&"POST".into(), &20.into()));
    for words in [&format!("POST {url}"), "0.01 USDC", "float", "job-1", &float.to_string()] {
        assert!(receipt.contains(words), "no `{words}` in {receipt}");
    }
    assert!(!receipt.contains("repeated"), "{receipt}");

    // The same key again: the same answer, said to be one, and not charged.
    let again = run(&world, &line);
    assert_eq!((&again.stdout, again.status.code()), (&bought.stdout, Some(0)));
    assert!(said(&again).contains("nothing was paid now"), "{}", said(&again));
    assert_eq!((shop.made(), paid().await), (1, PRICE));
    // Another call under that key is refused.
    let other = ends(&world, &format!("fetch {url}?other --key job-1 {key}"), 1);
    assert!(other.contains("job-1") || other.contains("key"), "{other}");

    // As JSON, with a body from standard input, under a key that it makes up and tells.
    let line = format!("fetch {url} --method PUT --body @- --json {key}");
    let put = bursar_at(&world, &world.card.api, &line, "mine");
    assert_eq!(put.status.code(), Some(1), "PUT is not sold");
    let line = format!("fetch {url} --body @- --json {key}");
    let bought = bursar_at(&world, &world.card.api, &line, "mine");
    let view: FetchView = serde_json::from_slice(&bought.stdout).unwrap();
    let paid_for: Receipt = view.receipt.unwrap();
    assert_eq!((view.answer.status, paid_for.amount_units), (200, PRICE));
    assert_eq!((paid_for.payer_kind, paid_for.payer), (PayerKind::Float, float));
    let told = String::from_utf8(bought.stderr).unwrap();
    assert!(told.contains(&format!("add --key {}", paid_for.idempotency_key)), "{told}");
    assert_eq!((shop.made(), paid().await), (2, 2 * PRICE));

    // What fails at the seller's is an exit code of its own, with what to do next, and is not charged.
    let failed = run(&world, &format!("fetch {}/theirs/fail --key bad {key}", shop.url));
    let why = said(&failed);
    assert_eq!(failed.status.code(), Some(1), "{why}");
    assert!(why.contains("answered 500") && why.contains("ask again with --key bad"), "{why}");
    assert_eq!(paid().await, 2 * PRICE);

    // The list, and one of it: paid by the chain's word.
    let page: PurchasePage =
        serde_json::from_value(json(&world, &format!("purchases {key}"))).unwrap();
    let keys: Vec<_> = page.purchases.iter().map(|one| one.idempotency_key.as_str()).collect();
    assert_eq!(keys, ["bad", paid_for.idempotency_key.as_str(), "job-1"]);
    let text = ends(&world, &format!("purchases --limit 2 {key}"), 0);
    assert!(text.contains(&paid_for.id.to_string()) && text.contains("more: --cursor"), "{text}");
    wait_for("the chain's word", async || {
        let one = json(&world, &format!("purchases {} {key}", paid_for.id));
        let one: Receipt = serde_json::from_value(one).unwrap();
        (one.state == PurchaseState::Paid && one.block.is_some()).then_some(())
    })
    .await;
    let text = ends(&world, &format!("purchases {} {key}", paid_for.id), 0);
    assert!(text.contains("state        paid") && text.contains("transaction"), "{text}");
    // Another agent's are not shown.
    let other = agent(&world, "dune");
    ends(&world, &format!("purchases {} {other}", paid_for.id), 1);

    // The wallet itself pays by a coupon, and the seller is told that a contract does.
    let view: FetchView =
        serde_json::from_value(json(&world, &format!("fetch {url} {}", agent(&world, "atlas"))))
            .unwrap();
    let receipt = view.receipt.unwrap();
    let wallet = world.card.wallet;
    assert_eq!((receipt.payer_kind, receipt.payer), (PayerKind::Coupon, wallet));
    let body: Value = serde_json::from_str(&view.answer.body.unwrap()).unwrap();
    let payer = body["payer"].as_str().unwrap();
    assert!(payer.starts_with(&format!("account=\"{wallet}\"")), "{payer}");
    assert!(payer.ends_with("wallet-type=\"contract\""), "{payer}");
    assert_eq!(paid().await, 3 * PRICE);

    // Revenue is where the price list says, by route, in the ledger, and reconciled.
    let sold = wait_for("the sales in the ledger", async || {
        let (code, text) = world.bursar(&["sales", "--json"]);
        let told: Value = serde_json::from_str(&text).unwrap();
        let route = told["routes"][0].clone();
        (code == 0 && route["posted"] == "0.03").then_some(route)
    })
    .await;
    assert_eq!(sold["route"], "/theirs/{what}");
    assert_eq!((&sold["sold"], &sold["revenue"]), (&3.into(), &"0.03".into()), "{sold}");
    assert_eq!(sold["pay_to"], serde_json::to_value(world.payee("acme-data")).unwrap());
    assert_eq!(world.bursar(&["reconcile"]).0, 0);

    // Who claims for sellers: taken away by one operator at once, given by a proposal.
    let (claimer, omar) = (world.card.relayers[0], operator(&world, 0));
    let gone = ends(&world, &format!("policy claimer {claimer} --none --yes {omar}"), 0);
    assert!(gone.contains("claim from channels no more"), "{gone}");
    let back = ends(&world, &format!("policy claimer {claimer} --longest 2d --yes {omar}"), 0);
    assert!(
        back.contains("claim for the receivers of channels") && back.contains("1 of"),
        "{back}"
    );
    ends(&world, &format!("policy claimer {claimer} --longest 0s --yes {omar}"), 2);

    // Nobody is paid whom the contract does not know: such a list is not sold from.
    world.stop().await;
    let file = world.card.config.with_file_name("prices.toml");
    let list = fs::read_to_string(&file).unwrap();
    let stranger = world.address("dune").to_string();
    fs::write(&file, list.replace("acme-data", &stranger)).unwrap();
    world.try_restart().await;
    let (code, text) = (world.died().await, world.log());
    assert!(code == Some(2) && text.contains("not registered as a payee"), "{code:?} {text}");
    assert!(text.contains(&stranger), "{text}");
}
