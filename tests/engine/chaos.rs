//! Everything at once, at random: the daemon dies, the chain reorganises, the pool forgets, USDC
//! pauses, strangers relay. The seed is printed; `BURSAR_TEST_SEED` repeats it.

use std::{
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;

use super::crashes::{load, promises_are_kept};
use crate::support::{Plan, World, chain::owner, seed, wait_for};

/// One thing that goes wrong.
async fn mishap(world: &mut World, rng: &mut StdRng) {
    match rng.gen_range(0..12) {
        0 | 1 => {
            world.kill();
            world.restart().await;
        }
        2 => {
            world.stop().await;
            world.restart().await;
        }
        // Shallower than the depth at which a payment is final.
        3..=5 => {
            let depth = rng.gen_range(1..=2);
            world.chain.rpc("anvil_reorg", json!([depth, []])).await;
        }
        6 | 7 => {
            for (hash, _) in world.chain.pool_of(&world.card.relayers).await {
                world.chain.drop_tx(hash).await;
            }
        }
        8 | 9 => {
            for (_, input) in world.chain.pool_of(&world.card.relayers).await {
                let (stranger, wallet) = (world.card.operators[2].address, world.card.wallet);
                world.chain.queue_from(stranger, wallet, input, 50).await;
            }
        }
        10 => {
            world.chain.owner_says(owner::pauseCall {}).await;
            tokio::time::sleep(Duration::from_millis(250)).await;
            world.chain.owner_says(owner::unpauseCall {}).await;
        }
        _ => {
            world.chain.rpc("evm_setIntervalMining", json!([0])).await;
            tokio::time::sleep(Duration::from_millis(600)).await;
            world.chain.rpc("evm_setIntervalMining", json!([1])).await;
        }
    }
}

#[tokio::test]
async fn whatever_happens_the_books_agree_with_the_chain() {
    let steps =
        std::env::var("BURSAR_TEST_MISHAPS").ok().and_then(|n| n.parse().ok()).unwrap_or(30);
    let mut rng = StdRng::seed_from_u64(seed("BURSAR_TEST_SEED"));
    let plan = Plan::new().config(|config| config.chain.confirmations = 3);
    let mut world = plan.start().await;
    let stop = Arc::new(AtomicBool::new(false));
    let lanes = load(&world, &stop);
    for _ in 0..steps {
        tokio::time::sleep(Duration::from_millis(rng.gen_range(20..300))).await;
        mishap(&mut world, &mut rng).await;
    }
    stop.store(true, Ordering::Relaxed);
    world.chain.rpc("evm_setIntervalMining", json!([1])).await;
    // A reorganisation may have taken the last unpause out, or left a gap in its sender's nonces.
    wait_for("USDC to run again", async || {
        if !world.chain.usdc_is_paused().await {
            return Some(());
        }
        world.chain.owner_says(owner::unpauseCall {}).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        None
    })
    .await;
    promises_are_kept(&world, lanes).await;
}
