//! C20: deposits and claims in blocks that fall out. Nothing is served on a deposit that is not there, and
//! nothing is booked that is not final, or twice.

use alloy::primitives::B256;
use bursar::contract::hub::HUB;
use serde_json::{Value, json};

use super::{
    channels::{DEPOSIT, PRICE, Payer},
    desk::seen,
    seller::Shop,
};
use crate::support::{Plan, World, wait_for};

/// The block at which a transaction is final, its own counted.
const DEPTH: u64 = 3;

/// Waits for the one transaction of the relayers that is in the pool.
async fn in_pool(world: &World) -> B256 {
    wait_for("a transaction in the pool", async || {
        let pool = world.chain.pool_of(&world.card.relayers).await;
        assert!(pool.len() <= 1, "{pool:?}");
        pool.first().map(|(hash, _)| *hash)
    })
    .await
}

/// Mines a block, and waits until the daemon has seen it and could have acted on it.
async fn mine(world: &World) {
    world.chain.mine().await;
    seen(world).await;
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
}

/// What of the sales is booked as received.
fn posted(world: &World) -> String {
    let (code, text) = world.bursar(&["sales", "--json"]);
    assert_eq!(code, 0, "{text}");
    let told: Value = serde_json::from_str(&text).unwrap();
    told["routes"][0]["posted"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_deposit_or_a_claim_that_falls_out_serves_nothing_and_is_booked_once() {
    let mut world = Plan::new()
        .automine()
        .config(|config| {
            config.chain.confirmations = DEPTH;
            // How long a request waits for its deposit before it is told to come again.
            config.facilitator.wait_s = 2;
        })
        .without_daemon()
        .await;
    let shop = Shop::open(&mut world).await;
    world.restart().await;
    let payer = Payer::new(&world, &shop).await;
    let poor = Payer::new(&world, &shop).await;
    // What they have is final.
    for _ in 0..DEPTH {
        world.chain.mine().await;
    }
    seen(&world).await;
    world.chain.automine(false).await;
    let start = world.chain.usdc_of(world.card.wallet).await;

    // The deposit is in a block, and in none, and in a block: served once it is final.
    let deposit = payer.deposit(DEPOSIT, PRICE, 1);
    let falls_out = async {
        let sent = in_pool(&world).await;
        for _ in 1..DEPTH {
            mine(&world).await;
            assert_eq!(world.chain.usdc_of(HUB).await, DEPOSIT);
            // Nor does a voucher buy anything meanwhile.
            let early = payer.pay(&shop, "/paid?early", payer.voucher(PRICE)).await;
            assert_eq!((early.status, early.error()), (402, "channel_not_found"));
            assert_eq!(shop.made(), 0);
        }
        world.chain.rpc("anvil_reorg", json!([DEPTH - 1, []])).await;
        assert_eq!(world.chain.usdc_of(HUB).await, 0);
        assert_eq!(in_pool(&world).await, sent, "the same bytes again");
        for _ in 1..DEPTH {
            mine(&world).await;
            assert_eq!(world.chain.usdc_of(HUB).await, DEPOSIT);
            assert_eq!(shop.made(), 0);
        }
        world.chain.mine().await;
    };
    let (bought, ()) = tokio::join!(payer.insist(&shop, "/paid", &deposit), falls_out);
    assert_eq!((bought.status, bought.total(), shop.made()), (200, PRICE, 1), "{bought:?}");
    assert_eq!(world.chain.usdc_of(payer.address()).await, 1_000_000 - DEPOSIT);

    // One whose money is gone when its deposit comes back to the chain gets nothing for it.
    let deposit = poor.deposit(DEPOSIT, PRICE, 1);
    let falls_out = async {
        in_pool(&world).await;
        mine(&world).await;
        assert_eq!(world.chain.usdc_of(HUB).await, 2 * DEPOSIT);
        world.chain.rpc("anvil_reorg", json!([1, []])).await;
        world.chain.give(poor.address(), 0).await;
        in_pool(&world).await;
        for _ in 0..DEPTH {
            mine(&world).await;
            assert_eq!(world.chain.usdc_of(HUB).await, DEPOSIT);
            assert_eq!(shop.made(), 1);
        }
    };
    let (refused, ()) = tokio::join!(poor.insist(&shop, "/paid", &deposit), falls_out);
    assert_eq!((refused.status, shop.made()), (402, 1), "{refused:?}");
    let voucher = poor.pay(&shop, "/paid", poor.voucher(PRICE)).await;
    assert_eq!((voucher.status, voucher.error()), (402, "channel_not_found"));

    // A claim whose block falls out is booked when it is final, once, and sent once.
    let second = payer.pay(&shop, "/paid", payer.voucher(2 * PRICE)).await;
    assert_eq!((second.status, second.total()), (200, 2 * PRICE));
    let claimed = world.operator(0).claim_channels().await.unwrap();
    assert_eq!(claimed.transactions, [in_pool(&world).await]);
    for round in ["falls out", "stays"] {
        for _ in 1..DEPTH {
            mine(&world).await;
            assert_eq!(world.chain.usdc_of(world.card.wallet).await, start + 2 * PRICE);
            assert_eq!(posted(&world), "0", "{round}");
        }
        if round == "falls out" {
            world.chain.rpc("anvil_reorg", json!([DEPTH - 1, []])).await;
            assert_eq!(world.chain.usdc_of(world.card.wallet).await, start);
            assert_eq!(claimed.transactions, [in_pool(&world).await]);
        }
    }
    world.chain.mine().await;
    wait_for("the claim in the ledger", async || (posted(&world) == "0.02").then_some(())).await;
    world.chain.rpc("evm_setIntervalMining", json!([1])).await;
    world.judge().await;
    assert_eq!(posted(&world), "0.02");
    assert_eq!(world.chain.usdc_of(world.card.wallet).await, start + 2 * PRICE);
    assert_eq!(world.chain.usdc_of(HUB).await, DEPOSIT - 2 * PRICE);
    let third = payer.pay(&shop, "/paid", payer.voucher(3 * PRICE)).await;
    assert_eq!((third.status, third.total()), (200, 3 * PRICE));
}
