//! Two daemons on one PostgreSQL that buy for one agent at once: one purchase a key, one float, one channel.

use bursar::{
    buyer::{FetchRequest, PayerKind, PurchaseState},
    refusal::Code,
};

use super::{
    buyer::receipt,
    hostile::{Hostile, Then, offer, offered},
    till::Till,
};
use crate::support::{Backend, Plan, RefusedWith as _, Twin, wait_for};

const BUYER: &str = "ember";
const PRICE: u64 = 1_000;

#[tokio::test]
async fn two_daemons_share_keys_float_and_channel_of_a_buyer() {
    let world = Plan::new().on(Backend::Postgres).start().await;
    let twin = Twin::start(&world, "twin").await;
    let (here, there) = (world.agent(BUYER), twin.agent(&world, BUYER));
    let (payee, float) = (world.payee("acme-data"), world.payee("ember-float"));
    let asked_for = async || here.payments(None, None, 50).await.unwrap().payments;

    // Both see an empty float at once.
    let one = Hostile::start(&world, offered(&[offer(&world, payee, PRICE)]), Then::Sell).await;
    let plain = FetchRequest::get(&one.url());
    one.set(|terms| terms.holds = true);
    let (first, second, ()) =
        tokio::join!(here.fetch(&plain, "here"), there.fetch(&plain, "there"), async {
            wait_for("both", async || (one.calls() >= 2).then_some(())).await;
            one.set(|terms| terms.holds = false);
        });
    for bought in [first.unwrap(), second.unwrap()] {
        assert_eq!((bought.answer.status, receipt(&bought).payer), (200, float), "{bought:?}");
    }
    let top_ups = asked_for().await;
    assert_eq!((top_ups.len(), top_ups[0].payee), (1, float), "{top_ups:?}");

    // One key, two sellers: the later one does not see what was signed for the earlier one.
    let other = Hostile::start(&world, offered(&[offer(&world, payee, PRICE)]), Then::Sell).await;
    other.set(|terms| terms.holds = true);
    let elsewhere = FetchRequest::get(&other.url());
    let (late, ()) = tokio::join!(there.fetch(&elsewhere, "same"), async {
        wait_for("the call", async || (other.calls() >= 1).then_some(())).await;
        let bought = here.fetch(&plain, "same").await.unwrap();
        assert_eq!(bought.answer.status, 200);
        other.set(|terms| terms.holds = false);
    });
    assert_eq!(late.code(), Code::IdempotencyKeyReused);
    assert!(other.payments().is_empty());
    // One key, one call: one purchase, whose answer both hear.
    one.set(|terms| terms.holds = true);
    let calls = one.calls();
    let (first, second, ()) =
        tokio::join!(here.fetch(&plain, "twice"), there.fetch(&plain, "twice"), async {
            wait_for("both", async || (one.calls() >= calls + 2).then_some(())).await;
            one.set(|terms| terms.holds = false);
        });
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!((first.answer.status, second.answer.status), (200, 200));
    assert_eq!(receipt(&first).id, receipt(&second).id);

    // Both see that there is no channel.
    let till = Till::start(&world, payee, PRICE).await;
    let by_channel = FetchRequest::get(&till.url());
    till.state.lock().unwrap().holds = true;
    let (_, _, ()) =
        tokio::join!(here.fetch(&by_channel, "a"), there.fetch(&by_channel, "b"), async {
            wait_for("both", async || (till.state.lock().unwrap().asked >= 2).then_some(())).await;
            till.state.lock().unwrap().holds = false;
        });
    let mut channels = Vec::new();
    for (client, key) in [(&here, "c"), (&there, "d")] {
        let bought = client.fetch(&by_channel, key).await.unwrap();
        let paid = receipt(&bought);
        assert_eq!((paid.payer_kind, paid.state), (PayerKind::Channel, PurchaseState::Paid));
        channels.push(paid.channel.as_ref().unwrap().id);
    }
    channels.dedup();
    assert_eq!(channels.len(), 1);
    let deposits = asked_for().await.into_iter().filter(|payment| payment.payee == payee).count();
    assert_eq!(deposits, 1);
    // What one of both was charged, both know.
    assert_eq!(till.count(channels[0]).charged, till.sold() * PRICE);
    let lost = here.purchases(None, 50).await.unwrap().purchases.into_iter().find(|receipt| {
        receipt.note.as_ref().is_some_and(|note| note.contains("the channel is closed"))
    });
    assert!(lost.is_none(), "{lost:?}");
    assert_eq!(world.bursar(&["reconcile"]).0, 0);
    assert_eq!(world.bursar(&["audit", "verify"]).0, 0);
}
