//! `bursar channels`, through the real binary: what is owed is shown and claimed, an own channel closed.

use alloy::{primitives::B256, providers::Provider as _};
use bursar::{
    buyer::FetchRequest,
    view::{ChannelsView, ClaimsView, PurseView},
};

use super::{ends, json, operator};
use crate::{
    support::{Plan, World, wait_for},
    x402::{
        channels::{DEPOSIT, PRICE, Payer},
        seller::Shop,
        till::Till,
    },
};

/// Buys; its policy lets a deposit give so much.
const BUYER: &str = "ember";
const FUNDED: u64 = 250_000;

fn shown(world: &World, operator: &str) -> ChannelsView {
    serde_json::from_value(json(world, &format!("channels {operator}"))).unwrap()
}

/// The cells of the one line that begins with this channel.
fn line(text: &str, channel: B256) -> Vec<String> {
    let id = channel.to_string();
    let mut lines = text.lines().filter(|line| line.trim_start().starts_with(&id));
    let found = lines.next().unwrap_or_else(|| panic!("no line of {id} in:\n{text}"));
    assert!(lines.next().is_none(), "{text}");
    found.split("  ").map(|cell| cell.trim().to_owned()).filter(|cell| !cell.is_empty()).collect()
}

#[tokio::test]
async fn channels_are_shown_claimed_and_closed() {
    let mut world = Plan::new().config(|config| config.channels.watch_s = 1).without_daemon().await;
    let shop = Shop::open(&mut world).await;
    world.restart().await;
    let (omar, wallet, acme) = (operator(&world, 1), world.card.wallet, world.payee("acme-data"));
    let (list, claim) = (format!("channels {omar}"), format!("channels claim {omar}"));
    // Before anything there is something to say all the same.
    let text = ends(&world, &list, 0);
    assert!(text.contains("nobody pays us through a channel yet"), "{text}");
    assert!(ends(&world, &claim, 0).contains("nothing is owed"), "it claimed nothing");

    // Somebody pays us, and an agent of ours pays somebody.
    let payer = Payer::funded(&world, &shop).await;
    let till = Till::start(&world, acme, PRICE).await;
    let bought = world.agent(BUYER).fetch(&FetchRequest::get(&till.url()), "call").await.unwrap();
    let own = bought.receipt.unwrap().channel.unwrap().id;
    let told = till.state.lock().unwrap().payer.clone().unwrap();
    assert!(told.starts_with(&format!("account=\"{wallet}\"")), "{told}");
    assert!(told.contains("wallet-type=\"contract\", agent=\"ember\""), "{told}");
    let view = shown(&world, &omar);
    assert!(view.keeper);
    assert_eq!((view.paid_by.len(), view.paying.len(), view.owed.units()), (1, 1, PRICE));
    let (meter, purse) = (&view.paid_by[0], &view.paying[0]);
    assert_eq!((meter.channel, meter.payer), (payer.id(), payer.address()));
    assert_eq!((meter.balance.units(), meter.owed.units()), (DEPOSIT, PRICE));
    assert_eq!((purse.channel, purse.agent.as_str(), purse.receiver), (own, BUYER, acme));
    assert_eq!((purse.receiver_label.as_deref(), &*purse.host), (Some("acme-data"), "127.0.0.1"));
    assert_eq!((purse.state.as_str(), purse.left.units()), ("open", FUNDED - PRICE));
    let text = ends(&world, &list, 0);
    let them = payer.address().to_string();
    let stands = format!("owes since {:.0}", meter.owed_since.unwrap());
    let cells = [payer.id().to_string().as_str(), &them, "0.1", "0.01", "0", "0.01", &stands]
        .map(str::to_owned);
    assert_eq!(line(&text, payer.id()), cells, "{text}");
    assert!(text.contains("owed: 0.01 USDC"), "{text}");
    let ours = own.to_string();
    let cells = [&ours, BUYER, "acme-data", "127.0.0.1", "0.25", "0.01", "0.24", "open"];
    assert_eq!(line(&text, own), cells, "{text}");

    // The claim names its transaction; when that is there, nothing is owed.
    let before = world.chain.usdc_of(wallet).await;
    let text = ends(&world, &claim, 0);
    assert!(text.starts_with("sent;"), "{text}");
    let hash: B256 = text.lines().last().unwrap().trim().parse().unwrap();
    let receipt = wait_for("the claim's receipt", async || {
        world.chain.node.get_transaction_receipt(hash).await.unwrap()
    })
    .await;
    assert!(receipt.status(), "{receipt:?}");
    let view = wait_for("nothing owed", async || {
        let view = shown(&world, &omar);
        view.owed.is_zero().then_some(view)
    })
    .await;
    assert_eq!((view.paid_by[0].claimed.units(), view.paid_by[0].charged.units()), (PRICE, PRICE));
    assert_eq!(world.chain.usdc_of(wallet).await, before + PRICE);
    let text = ends(&world, &list, 0);
    assert!(line(&text, payer.id()).contains(&"owes nothing".to_owned()), "{text}");
    assert!(ends(&world, &claim, 0).contains("nothing is owed"), "it claimed again");
    let claims: ClaimsView = serde_json::from_value(json(&world, &claim)).unwrap();
    assert!(claims.transactions.is_empty());

    // Only what is ours is closed, and what is wrong says what is right.
    for (id, code, words) in [
        (B256::repeat_byte(0xab).to_string(), 1, ["pays through no channel", "bursar channels"]),
        (payer.id().to_string(), 1, ["pays through no channel", "bursar channels"]),
        ("0x7f".to_owned(), 2, ["0x7f", "--help"]),
    ] {
        let text = ends(&world, &format!("channels close {id} {omar}"), code);
        assert!(words.iter().all(|word| text.contains(word)), "{text}");
    }
    assert_eq!(shown(&world, &omar).paying[0].state, "open");
    let close = format!("channels close {own} {omar}");
    let text = ends(&world, &close, 0);
    assert!(text.contains(&format!("{own} is closing: 0.24 USDC are left in it")), "{text}");
    // Once more is no mistake.
    let again: PurseView = serde_json::from_value(json(&world, &close)).unwrap();
    assert_eq!((again.channel, again.state.as_str()), (own, "closing"));
    wait_for("the way home", async || shown(&world, &omar).paying[0].comes_home_at).await;
    let text = ends(&world, &list, 0);
    assert!(line(&text, own)[7].starts_with("closing: the rest comes home at 20"), "{text}");

    // Its seller claims what it charged before the rest is home.
    assert_eq!(till.claim_all(&world, own).await, PRICE);
    world.chain.pass(901).await;
    wait_for("the rest", async || (shown(&world, &omar).paying[0].state == "closed").then_some(()))
        .await;
    let text = ends(&world, &list, 0);
    assert_eq!(line(&text, own)[7], "closed: 0.24 USDC came home", "{text}");
    assert!(ends(&world, &close, 0).contains("is closed: 0 USDC are left"), "it stays closed");
    assert_eq!(world.chain.usdc_of(wallet).await, before + PRICE + FUNDED - PRICE);
    world.judge().await;
}
