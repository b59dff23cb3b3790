//! The daemon dies at random moments while vouchers go both ways: payers buy from its paywall, each
//! through a channel of its own, and its agent buys from two sellers. `BURSAR_TEST_SEED` names the
//! moments, `BURSAR_TEST_KILLS` how many there are.

use std::{cell::Cell, collections::BTreeSet, time::Duration};

use bursar::{
    buyer::{FetchRequest, PurchaseState},
    client::{AgentClient, ClientError},
    contract::hub::HUB,
    refusal::Code,
};
use futures_util::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    buyer_channels::{self, BUYER},
    channels::{PRICE, Payer, claim},
    seller::Shop,
    till::Till,
};
use crate::support::{World, seed, wait_for};

/// Payers at once.
const PAYERS: u64 = 3;
/// What each puts in: a hundred calls.
const FUNDS: u64 = 1_000_000;

/// Buys call after call, and sends each until it has its answer; the numbers of what it got.
async fn calls(payer: &Payer, shop: &Shop, stop: &Cell<bool>) -> Vec<u64> {
    let mut got = Vec::new();
    for call in 2..=FUNDS / PRICE {
        if stop.get() {
            break;
        }
        let number = wait_for("an answer", async || {
            let answer = payer.insist(shop, "/paid", &payer.voucher(call * PRICE)).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            assert_eq!(answer.total(), call * PRICE, "charged once, and for this");
            // Its end was cut off, perhaps.
            answer.body["number"].as_u64()
        })
        .await;
        got.push(number);
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    got
}

/// Fetches call after call, each until it has an end; what they cost.
async fn fetches(agent: &AgentClient, till: &Till, lane: usize, stop: &Cell<bool>) -> u64 {
    let mut cost = 0;
    for n in 0..200 {
        if stop.get() && n > 0 {
            break;
        }
        let key = format!("kill-{lane}-{n}");
        cost += wait_for("a purchase's end", async || {
            match agent.fetch(&FetchRequest::get(&till.url()), &key).await {
                Ok(view) => {
                    let receipt = view.receipt.unwrap();
                    match receipt.state {
                        PurchaseState::Paid => Some(receipt.channel?.charged?.units()),
                        PurchaseState::Unpaid => Some(0),
                        _ => None,
                    }
                }
                Err(ClientError::Refused(problem)) => {
                    (problem.refusal.code == Code::PurchaseLapsed).then_some(0)
                }
                Err(_) => None,
            }
        })
        .await;
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
    cost
}

#[tokio::test]
async fn killed_at_random_under_vouchers_both_ways() {
    let kills = std::env::var("BURSAR_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(5);
    let mut rng = StdRng::seed_from_u64(seed("BURSAR_TEST_SEED"));
    let mut world: World = buyer_channels::plan().without_daemon().await;
    let shop = Shop::open(&mut world).await;
    world.restart().await;
    let (wallet, start) = (world.card.wallet, world.chain.usdc_of(world.card.wallet).await);
    let mut payers = Vec::new();
    for _ in 0..PAYERS {
        payers.push(Payer::funded_with(&world, &shop, FUNDS).await);
    }
    let mut tills = Vec::new();
    for seller in ["acme-data", "tidewater-data"] {
        tills.push(Till::start(&world, world.payee(seller), buyer_channels::PRICE).await);
    }
    let (agent, stop) = (world.agent(BUYER), Cell::new(false));
    let selling = join_all(payers.iter().map(|payer| calls(payer, &shop, &stop)));
    let buying = tills.iter().enumerate().map(|(lane, till)| fetches(&agent, till, lane, &stop));
    let killing = async {
        for _ in 0..kills {
            tokio::time::sleep(Duration::from_millis(rng.gen_range(1..600))).await;
            world.kill();
            world.restart().await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        stop.set(true);
    };
    let (sold, bought, ()) = tokio::join!(selling, join_all(buying), killing);

    // Each call has an answer of its own; what was made and not charged is what a kill took.
    let numbers: Vec<u64> = sold.concat();
    let charged = PAYERS + numbers.len() as u64;
    assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), numbers.len());
    assert!(charged > 2 * PAYERS, "there was no load");
    assert!((charged..=charged + kills * PAYERS).contains(&shop.made()), "{}", shop.made());
    // Each seller charged what the agent was told, in the one channel that it opened.
    for (till, cost) in tills.iter().zip(&bought) {
        let channels: BTreeSet<_> =
            till.seen().iter().map(|sent| sent.voucher.channel_id).collect();
        assert_eq!(channels.len(), 1, "one channel for each seller");
        let count = till.count(*channels.first().unwrap());
        assert_eq!((count.charged, till.sold() * buyer_channels::PRICE), (*cost, *cost));
        assert!(*cost > 0, "there was no load");
    }
    let spent = 2 * buyer_channels::DEPOSIT;
    claim(&world, start - spent + charged * PRICE).await;
    assert_eq!(world.chain.usdc_of(HUB).await, PAYERS * FUNDS - charged * PRICE + spent);
    assert_eq!(world.chain.usdc_of(wallet).await, start - spent + charged * PRICE);
    world.judge().await;
    assert_eq!(world.bursar(&["reconcile"]).0, 0);
}
