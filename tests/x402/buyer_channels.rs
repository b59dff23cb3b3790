//! Our buyer, by channels: against the official server, and against one that does what it does not.

use std::time::Duration;

use alloy::primitives::{Address, B256};
use bursar::{
    buyer::{ChannelPart, FetchRequest, FetchView, HostRoom, PayerKind, PurchaseState, Receipt},
    client::AgentClient,
    clock::Clock,
    contract::{IPolicyChanges, hub::HUB},
    money::Usdc,
    payment::FundsMoved,
    policy::FetchLoops,
    refusal::Code,
    view::PurseView,
};
use serde_json::{Value, json};

use super::{
    desk::Desk,
    seller::Shop,
    till::{Then, Till},
};
use crate::support::{Official, Plan, RefusedWith as _, World, wait_for};

/// The price of a call, in base units.
pub const PRICE: u64 = 1_000;
/// Buys; its policy lets a deposit give so much.
pub const BUYER: &str = "ember";
pub const DEPOSIT: u64 = 500_000;

pub fn plan() -> Plan {
    Plan::new().policy(
        BUYER,
        "channel = \"0.25\"",
        "channel = \"0.50\"\n[fetch.loops]\nsame_call = 1000\nfailures = 100\nwithin = \"60s\"",
    )
}

fn receipt(view: &FetchView) -> &Receipt {
    view.receipt.as_ref().expect("a receipt")
}

fn part(receipt: &Receipt) -> &ChannelPart {
    receipt.channel.as_ref().expect("a channel")
}

/// A call that is delivered and paid: what of it is left in which channel.
async fn buys(world: &World, url: &str, key: &str, price: u64) -> ChannelPart {
    buys_by(&world.agent(BUYER), world.card.wallet, url, key, price).await
}

/// The same by an agent whose clock the test holds.
async fn buys_by(
    agent: &AgentClient,
    wallet: Address,
    url: &str,
    key: &str,
    price: u64,
) -> ChannelPart {
    let bought = agent.fetch(&FetchRequest::get(url), key).await.unwrap();
    let paid = receipt(&bought);
    assert_eq!((bought.answer.status, paid.state), (200, PurchaseState::Paid), "{bought:?}");
    assert_eq!((paid.payer_kind, paid.payer), (PayerKind::Channel, wallet));
    assert_eq!(part(paid).charged.map(|charged| charged.units()), Some(price), "{bought:?}");
    part(paid).clone()
}

/// The purchase of a key.
async fn bought(world: &World, key: &str) -> Receipt {
    let page = world.agent(BUYER).purchases(None, 50).await.unwrap().purchases;
    page.into_iter().find(|receipt| receipt.idempotency_key == key).unwrap()
}

/// Deposits that were asked for.
async fn deposits(world: &World) -> usize {
    world.agent(BUYER).payments(None, None, 50).await.unwrap().payments.len()
}

async fn until_asked_back(world: &World, channel: B256) {
    let pool = world.tables().await;
    wait_for("a closing channel", async || {
        let query = sqlx::query_scalar::<_, Option<i64>>(
            "SELECT withdraw_since_s FROM purse WHERE id = $1",
        );
        query.bind(channel.to_string()).fetch_one(&pool).await.unwrap()
    })
    .await;
}

async fn until_closed(world: &World, channel: B256) {
    let pool = world.tables().await;
    wait_for("a closed channel", async || {
        let query = sqlx::query_scalar::<_, String>("SELECT state FROM purse WHERE id = $1");
        let state = query.bind(channel.to_string()).fetch_one(&pool).await.unwrap();
        (state == "closed").then_some(())
    })
    .await;
}

async fn buys_from_the_official_server(world: World) {
    let (payee, wallet) = (world.payee("acme-data"), world.card.wallet);
    let key = world.daemon_keys().relayer(0).unwrap();
    let mut selling = Official::config(&world, "seller", &key);
    selling["facilitator"] = json!(Desk::of(&world).url());
    selling["payTo"] = json!(payee.to_string());
    selling["price"] = json!(PRICE.to_string());
    let seller = Official::start("channels.mjs", selling).await;
    let (before, held) = (world.chain.usdc_of(payee).await, world.chain.usdc_of(wallet).await);
    let agent = world.agent(BUYER);
    let shown = agent.inspect(&FetchRequest::get(seller.url())).await.unwrap();
    assert_eq!(shown.offers[0].payer, Some(PayerKind::Channel), "{shown:?}");
    assert_eq!(deposits(&world).await, 0, "an inspection opens nothing");
    let mut channels = Vec::new();
    for n in 1..=4 {
        let part = buys(&world, seller.url(), &format!("call-{n}"), PRICE).await;
        assert_eq!(part.left.units(), DEPOSIT - n * PRICE);
        channels.push(part.id);
        let again =
            agent.fetch(&FetchRequest::get(seller.url()), &format!("call-{n}")).await.unwrap();
        assert!(receipt(&again).repeated);
        assert_eq!(again.answer.body, Some(json!({ "sold": n }).to_string()));
    }
    channels.dedup();
    assert_eq!(channels.len(), 1);
    assert_eq!(seller.ask(json!({})).await["handled"], 4);
    assert_eq!(deposits(&world).await, 1);
    assert_eq!(world.chain.usdc_of(HUB).await, DEPOSIT);
    assert_eq!(world.chain.usdc_of(wallet).await, held - DEPOSIT);
    // All calls in one claim: what the chain says is what we counted.
    let claimed = seller.ask(json!({ "claim": true })).await;
    assert_eq!(claimed["claims"][0]["vouchers"], 1, "{claimed}");
    assert_eq!(world.chain.usdc_of(payee).await, before + 4 * PRICE);
    let part = buys(&world, seller.url(), "call-5", PRICE).await;
    assert_eq!(part.left.units(), DEPOSIT - 5 * PRICE);
    world.judge().await;
    assert_eq!(world.bursar(&["reconcile"]).0, 0);
}

#[tokio::test]
async fn the_official_server_is_paid_through_a_channel() {
    buys_from_the_official_server(plan().start().await).await;
}

#[tokio::test]
async fn the_official_server_is_paid_through_a_channel_on_the_twin() {
    buys_from_the_official_server(plan().twin().start().await).await;
}

/// C10, the buyer's side: what is signed is kept before it leaves.
#[tokio::test]
async fn a_crash_at_any_point_of_a_voucher_pays_once() {
    let mut world = plan().without_daemon().await;
    let (acme, other) = (world.payee("acme-data"), world.payee("tidewater-data"));
    let tills = [Till::start(&world, acme, PRICE).await, Till::start(&world, other, PRICE).await];
    let mut sold = [0, 0];
    for (n, point) in [
        (0, "accept.committed"),
        (1, "approved.committed"),
        (0, "purchase.signed"),
        (0, "purchase.answered"),
        (1, "purchase.noted"),
    ] {
        if world.runs() {
            world.kill();
        }
        world.restart_with(point).await;
        let (till, before) = (&tills[n], tills[n].seen().len());
        let first = world.agent(BUYER).fetch(&FetchRequest::get(&till.url()), point).await;
        assert!(first.is_err(), "{point}: {first:?}");
        world.died().await;
        world.restart().await;
        let again = world.agent(BUYER).fetch(&FetchRequest::get(&till.url()), point).await;
        sold[n] += 1;
        let channel = till.seen()[0].voucher.channel_id;
        let vouchers = &till.seen()[before..];
        assert!(vouchers.iter().all(|voucher| *voucher == vouchers[0]), "{point}");
        assert_eq!(
            (till.sold(), till.count(channel).charged),
            (sold[n], sold[n] * PRICE),
            "{point}"
        );
        let end = bought(&world, point).await;
        assert_eq!(part(&end).id, channel, "{point}: {again:?}");
        assert_eq!(end.state, PurchaseState::Paid, "{point}: {again:?} {end:?}");
    }
    assert_eq!(deposits(&world).await, 2, "one for each seller");
    assert_eq!(world.chain.usdc_of(HUB).await, 2 * DEPOSIT);
    world.judge().await;
    assert_eq!(world.bursar(&["reconcile"]).0, 0);
}

/// C9: a total is believed as far as our own signature goes, and a forged one (`Then::Forge`) not at all.
/// C12: what a seller can claim beyond what it charged is bounded by the highest voucher, and found out.
#[tokio::test]
async fn whatever_a_seller_says_it_gets_what_was_signed_for_delivered_calls() {
    let world = plan().config(|config| config.channels.watch_s = 1).start().await;
    let (payee, wallet) = (world.payee("acme-data"), world.card.wallet);
    let agent = world.agent(BUYER);
    let till = Till::start(&world, payee, PRICE).await;
    let url = till.url();
    let left = |part: &ChannelPart| DEPOSIT - part.left.units();
    // Busy for a moment: the same voucher again.
    till.state.lock().unwrap().busy = 3;
    let first = buys(&world, &url, "first", PRICE).await;
    let (channel, sent) = (first.id, till.seen());
    assert!(sent.len() == 4 && sent.iter().all(|voucher| *voucher == sent[0]));
    // Less than the price is the seller's right.
    till.does(Then::Charge(PRICE / 2));
    let half = buys(&world, &url, "half", PRICE / 2).await;
    assert_eq!((half.id, left(&half)), (channel, PRICE * 3 / 2));

    // A call that fails and is not charged: unknown, until the next one leaves it out.
    for (key, then) in [("failed", Then::Fail), ("denied", Then::Deny), ("forged", Then::Forge)] {
        till.does(then);
        let view = agent.fetch(&FetchRequest::get(&url), key).await.unwrap();
        let open = receipt(&view);
        assert_eq!((open.state, open.funds_moved), (PurchaseState::Unknown, FundsMoved::Maybe));
        assert_eq!(left(part(open)), PRICE * 3 / 2, "{key}: nothing is believed");
    }
    till.does(Then::Sell);
    let next = buys(&world, &url, "next", PRICE).await;
    assert_eq!((next.id, left(&next)), (channel, PRICE * 5 / 2));
    for key in ["failed", "denied", "forged"] {
        assert_eq!(bought(&world, key).await.state, PurchaseState::Unpaid, "{key}");
        assert_eq!(agent.fetch(&FetchRequest::get(&url), key).await.code(), Code::PurchaseLapsed);
    }

    // Charged, and the answer is lost: the same voucher again, or the next call finds it out.
    till.does(Then::ChargeAndFail);
    let open = agent.fetch(&FetchRequest::get(&url), "lost").await.unwrap();
    assert_eq!(receipt(&open).state, PurchaseState::Unknown);
    till.does(Then::Sell);
    let found = buys(&world, &url, "found", PRICE).await;
    assert_eq!(left(&found), PRICE * 9 / 2);
    let lost = bought(&world, "lost").await;
    assert_eq!((lost.state, lost.funds_moved), (PurchaseState::Paid, FundsMoved::Yes), "{lost:?}");
    till.does(Then::ChargeAndCut);
    // The client asks again by itself; this seller gives no answer twice, and proves the charge.
    let again = agent.fetch(&FetchRequest::get(&url), "lost-2").await.unwrap();
    till.does(Then::Sell);
    assert_eq!((again.answer.status, receipt(&again).state), (402, PurchaseState::Paid));
    assert_eq!(left(part(receipt(&again))), PRICE * 11 / 2);
    assert_eq!(till.count(channel).charged, PRICE * 11 / 2);

    // Dearer vouchers that bought nothing stay signed: a seller can claim them, and is found out.
    till.asks(3 * PRICE);
    till.does(Then::Fail);
    let open = agent.fetch(&FetchRequest::get(&url), "dear").await.unwrap();
    assert_eq!(receipt(&open).state, PurchaseState::Unknown);
    till.asks(PRICE);
    till.does(Then::Sell);
    let cheap = buys(&world, &url, "cheap", PRICE).await;
    assert_eq!(left(&cheap), PRICE * 13 / 2);
    let held = world.chain.usdc_of(wallet).await;
    let claimed = till.claim_all(&world, channel).await;
    assert_eq!(claimed, PRICE * 17 / 2);
    // It gets no voucher any more, and the rest comes home: the delay over, and not before.
    until_asked_back(&world, channel).await;
    assert_eq!(world.chain.usdc_of(wallet).await, held);
    world.chain.pass(901).await;
    until_closed(&world, channel).await;
    assert_eq!(world.chain.usdc_of(wallet).await, held + DEPOSIT - claimed);

    // Overcharged, or counted otherwise: nothing more is signed in that channel.
    let mut old = vec![channel];
    for (key, then) in [("more", Then::Charge(PRICE + 1)), ("other", Then::SayMore(1))] {
        till.does(then);
        let view = agent.fetch(&FetchRequest::get(&url), key).await.unwrap();
        let paid = receipt(&view);
        assert_eq!((view.answer.status, paid.state), (200, PurchaseState::Paid), "{view:?}");
        assert!(paid.note.as_ref().unwrap().contains("closed"), "{paid:?}");
        assert_eq!(part(paid).charged.unwrap().units(), PRICE);
        assert!(!old.contains(&part(paid).id));
        old.push(part(paid).id);
    }
    till.does(Then::Sell);
    let fresh = buys(&world, &url, "fresh", PRICE).await;
    assert!(!old.contains(&fresh.id));
    for channel in &old[1..] {
        until_asked_back(&world, *channel).await;
    }
    world.judge().await;
    assert_eq!(world.bursar(&["reconcile"]).0, 0);
}

/// What a channel's row says: its state, the total that was charged, the highest that was signed.
async fn purse(world: &World, channel: B256) -> (String, i64, i64) {
    let query = "SELECT state, charged, ceiling FROM purse WHERE id = $1";
    let query = sqlx::query_as(query).bind(channel.to_string());
    query.fetch_one(&world.tables().await).await.unwrap()
}

#[tokio::test]
async fn what_a_seller_takes_for_nothing_counts_and_ends_its_channel() {
    const DEAR: u64 = 20 * PRICE;
    let world = plan()
        .policy(BUYER, "host_day = \"5\"", "host_day = \"0.05\"")
        .config(|config| config.channels.watch_s = 1)
        .start()
        .await;
    let till = Till::start(&world, world.payee("acme-data"), PRICE).await;
    let (agent, url, pool) = (world.agent(BUYER), till.url(), world.tables().await);
    let accused = async || {
        let query =
            "SELECT CAST(COUNT(*) AS BIGINT) FROM audit_entry WHERE kind = 'x402.overcharged'";
        sqlx::query_scalar::<_, i64>(query).fetch_one(&pool).await.unwrap()
    };
    let fetch = async |key: &str| agent.fetch(&FetchRequest::get(&url), key).await;
    // A call that gets nothing but a proof that more was charged than we know of: where that leaves the
    // channel.
    let robbed = async |key: &str, charged: u64, total: u64| {
        till.does(Then::TakeAll);
        let (before, told) = (till.seen().len(), accused().await);
        let view = fetch(key).await.unwrap();
        let lost = receipt(&view);
        assert_eq!((view.answer.status, lost.state), (402, PurchaseState::Paid), "{view:?}");
        assert!(lost.note.as_ref().unwrap().contains("closed"), "{lost:?}");
        assert_eq!(part(lost).charged.unwrap().units(), charged, "{lost:?}");
        assert_eq!(till.seen().len(), before + 1, "{key}: no second voucher is sent");
        let (state, counted, signed) = purse(&world, part(lost).id).await;
        assert_ne!(state, "open", "{key}");
        assert_eq!((counted, signed), (total.cast_signed(), total.cast_signed()), "{key}");
        assert_eq!(accused().await, told + 1, "{key}");
        till.does(Then::Sell);
        part(lost).id
    };
    // A dear voucher that bought nothing, passed over by a cheap one: it stays signed.
    let passed_over = async |key: &str, dear: u64| {
        till.asks(dear);
        till.does(Then::Fail);
        let open = fetch(&format!("{key}-dear")).await.unwrap();
        assert_eq!(receipt(&open).state, PurchaseState::Unknown);
        till.asks(PRICE);
        till.does(Then::Sell);
        let cheap = buys(&world, &url, &format!("{key}-cheap"), PRICE).await;
        assert_eq!(bought(&world, &format!("{key}-dear")).await.state, PurchaseState::Unpaid);
        cheap.id
    };

    // The voucher that just came.
    let first = buys(&world, &url, "first", PRICE).await;
    assert_eq!(robbed("robbed", PRICE, 2 * PRICE).await, first.id);
    // An older one, again and again: what it is worth is what counts.
    for round in ["one", "two"] {
        let channel = passed_over(round, DEAR).await;
        assert_ne!(channel, first.id);
        assert_eq!(robbed(round, DEAR - PRICE, DEAR).await, channel);
    }
    let used = 2 * PRICE + 2 * DEAR;
    // The chain's word counts as the seller's does.
    let channel = passed_over("claimed", 6 * PRICE).await;
    let told = accused().await;
    assert_eq!(till.claim_all(&world, channel).await, 6 * PRICE);
    wait_for("the claim", async || (accused().await == told + 1).then_some(())).await;
    assert_ne!(purse(&world, channel).await.0, "open");
    // 2 of the 50 are left.
    assert_eq!(used + 6 * PRICE, 48 * PRICE);
    till.asks(3 * PRICE);
    let refused = fetch("too-much").await;
    assert_eq!(refused.code(), Code::DayCapExceeded);
    till.asks(2 * PRICE);
    buys(&world, &url, "last", 2 * PRICE).await;
    assert_eq!(world.bursar(&["reconcile"]).0, 0);
    assert_eq!(world.bursar(&["audit", "verify"]).0, 0);
}

#[tokio::test]
async fn calls_take_turns_and_limits_hold_for_vouchers() {
    let mut world = Plan::new()
        .policy(BUYER, "host_day = \"5\"", "host_day = \"0.012\"")
        .policy(
            BUYER,
            "channel = \"0.25\"",
            "channel = \"0.50\"\n[fetch.loops]\nsame_call = 10\nfailures = 3\nwithin = \"600s\"",
        )
        .start()
        .await;
    let till = Till::start(&world, world.payee("acme-data"), PRICE).await;
    let url = till.url();
    // At once, by one agent, to one seller: one after the other, in one channel.
    let (one, two, three) = tokio::join!(
        buys(&world, &url, "a", PRICE),
        buys(&world, &url, "b", PRICE),
        buys(&world, &url, "c", PRICE),
    );
    assert!(one.id == two.id && two.id == three.id);
    assert_eq!(till.count(one.id).charged, 3 * PRICE);
    assert_eq!(deposits(&world).await, 1);
    let agent = world.agent(BUYER);
    let mut codes = Vec::new();
    for n in 0..9 {
        let outcome = agent.fetch(&FetchRequest::get(&url), &format!("loop-{n}")).await;
        codes.push(outcome.is_ok().then_some(()).ok_or_else(|| outcome.code()));
    }
    assert!(codes[..7].iter().all(Result::is_ok), "{codes:?}");
    assert!(codes[7..].iter().all(|code| *code == Err(Code::LoopDetected)), "{codes:?}");
    // Another path is another call; the host's day holds for both.
    let path = |n: u32| format!("http://{}/other-{n}", till.addr);
    for n in 0..2 {
        buys(&world, &path(n), &format!("other-{n}"), PRICE).await;
    }
    let refused = agent.fetch(&FetchRequest::get(&path(2)), "other-2").await;
    assert_eq!(refused.code(), Code::DayCapExceeded);
    // What a minute may cost is held against the last one, whoever was paid.
    world.stop().await;
    let file = &world.card.agents[&BUYER.parse().unwrap()].policy;
    let policy = std::fs::read_to_string(file).unwrap();
    let policy = policy.replace("host_day = \"0.012\"", "host_day = \"5\"\nminute = \"0.012\"");
    std::fs::write(file, policy.replace("per_call = \"0.10\"", "per_call = \"0.01\"")).unwrap();
    world.restart().await;
    let refused = world.agent(BUYER).fetch(&FetchRequest::get(&path(2)), "other-2").await;
    assert_eq!(refused.code(), Code::TooManyPayments);
    assert_eq!(till.count(one.id).charged, 12 * PRICE);
    assert_eq!(till.sold(), 12);
}

#[tokio::test]
async fn our_own_paywall_sells_to_our_agents_through_a_channel() {
    const OURS: u64 = 10_000;
    let mut world = plan()
        .config(|config| {
            config.channels.withdraw_delay_s = 900;
            config.channels.watch_s = 1;
        })
        .without_daemon()
        .await;
    let (payee, wallet) = (world.payee("acme-data"), world.card.wallet);
    let shop = Shop::open(&mut world).await;
    let list = world.card.config.with_file_name("prices.toml");
    let routes = std::fs::read_to_string(&list).unwrap();
    std::fs::write(&list, format!("pay_to = \"acme-data\"\n{routes}")).unwrap();
    world.restart().await;
    let (start, held) = (world.chain.usdc_of(payee).await, world.chain.usdc_of(wallet).await);
    let url = format!("{}/paid", shop.url);
    let mut channel = B256::ZERO;
    for n in 1..=3 {
        // Among several ways at one price, the signature is taken.
        let part = buys(&world, &url, &format!("call-{n}"), OURS).await;
        assert_eq!(part.left.units(), DEPOSIT - n * OURS);
        channel = part.id;
    }
    // Our own paywall gives a lost answer again.
    for (n, point) in [(4, "purchase.signed"), (5, "purchase.answered")] {
        world.kill();
        world.restart_with(point).await;
        assert!(world.agent(BUYER).fetch(&FetchRequest::get(&url), point).await.is_err());
        world.died().await;
        world.restart().await;
        let part = buys(&world, &url, point, OURS).await;
        assert_eq!((part.id, part.left.units()), (channel, DEPOSIT - n * OURS), "{point}");
        assert_eq!(shop.made(), n, "{point}");
    }
    assert_eq!(deposits(&world).await, 1);
    world.operator(0).claim_channels().await.unwrap();
    wait_for("the payout", async || {
        (world.chain.usdc_of(payee).await == start + 5 * OURS).then_some(())
    })
    .await;
    // An operator closes it; the rest comes home.
    let closing = world.operator(0).close_channel(channel).await.unwrap();
    assert_eq!(closing.state, "closing");
    let home = async || {
        let all = world.operator(0).channels().await.unwrap().paying;
        all.into_iter().find(|purse| purse.channel == channel).unwrap()
    };
    wait_for("the way home", async || home().await.comes_home_at).await;
    assert_eq!(world.chain.usdc_of(wallet).await, held - DEPOSIT);
    world.chain.pass(901).await;
    until_closed(&world, channel).await;
    assert_eq!(world.chain.usdc_of(wallet).await, held - 5 * OURS);
    // The next call opens another one; it comes home when the policy wants no channels any more.
    let second = buys(&world, &url, "call-6", OURS).await.id;
    assert_ne!(second, channel);
    world.stop().await;
    let file = &world.card.agents[&BUYER.parse().unwrap()].policy;
    let policy = std::fs::read_to_string(file).unwrap();
    std::fs::write(file, policy.replace("channel = \"0.50\"\n", "")).unwrap();
    world.restart().await;
    wait_for("the way home", async || {
        let all = world.operator(0).channels().await.unwrap().paying;
        all.into_iter().find(|purse| purse.channel == second).unwrap().comes_home_at
    })
    .await;
    world.chain.pass(901).await;
    until_closed(&world, second).await;
    // What was charged was claimed before the payer was out.
    wait_for("the last payout", async || {
        (world.chain.usdc_of(payee).await == start + 6 * OURS).then_some(())
    })
    .await;
    assert_eq!(world.chain.usdc_of(wallet).await, held - 6 * OURS);
    world.judge().await;
    assert_eq!(world.bursar(&["reconcile"]).0, 0);
}

#[tokio::test]
async fn a_channel_that_lies_idle_is_closed_and_its_rest_comes_home() {
    const IDLE_S: u64 = 86_400;
    let world = plan()
        .config(|config| {
            config.channels.watch_s = 1;
            config.channels.close_after_s = IDLE_S;
        })
        .without_daemon()
        .await;
    let (acme, wallet) = (world.payee("acme-data"), world.card.wallet);
    let quiet = Till::start(&world, acme, PRICE).await;
    let busy = Till::start(&world, world.payee("tidewater-data"), PRICE).await;
    let (start, held) = (world.chain.usdc_of(acme).await, world.chain.usdc_of(wallet).await);
    let (clock, hand) = Clock::held(Clock::system().now_ms());
    let service = world.serve_here(&clock).await;
    let (agent, operator) =
        (world.agent(BUYER).clock(clock.clone()), world.operator(0).clock(clock.clone()));
    let pass = async |seconds: u64| {
        hand.advance(Duration::from_secs(seconds));
        world.chain.pass(seconds).await;
    };
    let buys =
        async |till: &Till, key: &str| buys_by(&agent, wallet, &till.url(), key, PRICE).await.id;
    let shown = async |channel: B256| -> PurseView {
        let all = operator.channels().await.unwrap().paying;
        all.into_iter().find(|purse| purse.channel == channel).unwrap()
    };
    // What is closing is looked at once a second, by the clock in hand.
    let until = async |channel: B256, what: &str, is_so: fn(&PurseView) -> bool| {
        wait_for(what, async || {
            hand.advance(Duration::from_secs(1));
            Some(shown(channel).await).filter(is_so)
        })
        .await
    };
    let pool = world.tables().await;
    let looked_at = async |channel: B256| {
        wait_for("a look at a channel", async || {
            let query = sqlx::query_scalar::<_, i64>("SELECT read_ms FROM purse WHERE id = $1");
            let at = query.bind(channel.to_string()).fetch_one(&pool).await.unwrap();
            (at >= clock.now_ms()).then_some(())
        })
        .await;
    };

    let idle = buys(&quiet, "quiet-1").await;
    assert_eq!(buys(&quiet, "quiet-2").await, idle);
    pass(IDLE_S / 2).await;
    assert_eq!(buys(&quiet, "quiet-3").await, idle);
    let used = buys(&busy, "busy-1").await;
    // Longer than that since it was opened, and not since it was used.
    pass(IDLE_S / 2 + 60).await;
    looked_at(idle).await;
    assert_eq!(shown(idle).await.state, "open");
    assert_eq!(buys(&busy, "busy-2").await, used);
    pass(IDLE_S / 2).await;
    until(idle, "the way home", |purse| purse.comes_home_at.is_some()).await;
    looked_at(used).await;
    assert_eq!(shown(used).await.state, "open");
    let why = sqlx::query_as::<_, (String, String)>(
        "SELECT actor, data FROM audit_entry WHERE kind = 'purse.closing'",
    );
    let (actor, data) = why.fetch_one(&pool).await.unwrap();
    assert!(actor == "daemon" && data.contains("was not used for long"), "{actor}: {data}");

    // In the delay its seller gets what it charged, and the wallet nothing yet.
    assert_eq!(quiet.claim_all(&world, idle).await, 3 * PRICE);
    assert_eq!(world.chain.usdc_of(acme).await, start + 3 * PRICE);
    assert_eq!(world.chain.usdc_of(wallet).await, held - 2 * DEPOSIT);
    // The delay ends while no daemon is there; the next one fetches the rest, to the last unit.
    service.stop().await;
    pass(901).await;
    let service = world.serve_here(&clock).await;
    let end = until(idle, "a closed channel", |purse| purse.state == "closed").await;
    assert_eq!(world.chain.usdc_of(wallet).await, held - DEPOSIT - 3 * PRICE);
    assert_eq!((end.returned.units(), end.left.units()), (DEPOSIT - 3 * PRICE, 0), "{end:?}");

    // The next call opens another one; the other seller's is still the same.
    let fresh = buys(&quiet, "quiet-4").await;
    assert!(fresh != idle && fresh != used);
    assert_eq!(buys(&busy, "busy-3").await, used);
    assert_eq!(world.chain.usdc_of(HUB).await, 2 * DEPOSIT);
    assert_eq!(agent.payments(None, None, 50).await.unwrap().payments.len(), 3);
    service.stop().await;
    pool.close().await;
    world.judge().await;
    assert_eq!(world.bursar(&["reconcile"]).0, 0);
}

/// A freeze takes back what the agent was granted, in one action of one operator: also what lies in its
/// channels. Nothing is signed from then on, and what sellers do not claim comes home.
#[tokio::test]
async fn what_is_in_a_frozen_agent_s_channels_comes_home() {
    let world = plan().config(|config| config.channels.watch_s = 1).start().await;
    let (wallet, held) = (world.card.wallet, world.chain.usdc_of(world.card.wallet).await);
    let sellers = [world.payee("acme-data"), world.payee("tidewater-data")];
    let tills = [
        Till::start(&world, sellers[0], PRICE).await,
        Till::start(&world, sellers[1], PRICE).await,
    ];
    let mut channels = Vec::new();
    for (till, key) in tills.iter().zip(["one", "two"]) {
        channels.push(buys(&world, &till.url(), key, PRICE).await.id);
    }
    assert_eq!(world.chain.usdc_of(wallet).await, held - 2 * DEPOSIT);
    // The audit log says of each deposit, from the first entry on, which channel it is for.
    let pool = world.tables().await;
    let told = |kind: &'static str| {
        let query = sqlx::query_scalar::<_, String>(
            "SELECT data FROM audit_entry WHERE kind = $1 ORDER BY seq",
        );
        let pool = &pool;
        async move {
            let rows = query.bind(kind).fetch_all(pool).await.unwrap();
            rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect::<Vec<Value>>()
        }
    };
    let queued = told("payment.queued").await;
    let named: Vec<_> = queued.iter().map(|entry| &entry["channel"]).collect();
    assert_eq!(named, [&json!(channels[0]), &json!(channels[1])]);

    // The agent can read what it may buy, what it bought, and what is left.
    let may = world.agent(BUYER).permissions().await.unwrap().fetch.unwrap();
    let usdc = |text: &str| text.parse::<Usdc>().unwrap();
    let sizes = (may.per_call, may.host_day, may.channel);
    assert_eq!(sizes, (usdc("0.1"), usdc("5"), Some(usdc("0.5"))));
    assert_eq!(may.loops, FetchLoops { same_call: 1_000, failures: 100, within_s: 60 });
    let host =
        HostRoom { host: "127.0.0.1".to_owned(), used: usdc("0.002"), remaining: usdc("4.998") };
    assert_eq!((may.hosts.as_slice(), may.by_host.as_slice()), (&[][..], &[host][..]));
    let day = may.limits.iter().find(|limit| limit.rule == "fetch.day").unwrap();
    assert_eq!(day.used, "0.002");
    assert_eq!(usdc(&day.remaining), usdc(&day.limit).saturating_sub(usdc("0.002")));

    let freeze = IPolicyChanges::setFrozenCall { agent: world.address(BUYER), frozen: true };
    let order = world.order(freeze, 0).await;
    world.operator(0).tighten(&order).await.unwrap();
    let refused = world.agent(BUYER).fetch(&FetchRequest::get(&tills[0].url()), "frozen").await;
    assert_eq!(refused.code(), Code::AgentFrozen);
    for channel in &channels {
        until_asked_back(&world, *channel).await;
    }
    let closing = told("purse.closing").await;
    assert_eq!(closing.len(), 2);
    assert!(closing.iter().all(|entry| entry["why"] == "its agent is frozen"), "{closing:?}");
    // In the delay a seller still gets what it is owed; the rest comes home, also while the agent is frozen.
    assert_eq!(tills[0].claim_all(&world, channels[0]).await, PRICE);
    world.chain.pass(901).await;
    for channel in &channels {
        until_closed(&world, *channel).await;
    }
    assert!(world.chain.is_frozen(world.address(BUYER)).await);
    assert_eq!(world.chain.usdc_of(wallet).await, held - PRICE);
    assert_eq!(world.chain.usdc_of(HUB).await, 0);
    pool.close().await;
    world.judge().await;
    assert_eq!(world.bursar(&["reconcile"]).0, 0);
}
