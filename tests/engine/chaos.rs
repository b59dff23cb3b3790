//! Everything at once, at random: short histories on a real anvil with the real daemon. It dies, the
//! chain reorganises, the pool forgets, USDC pauses, strangers relay, the wire is cut, fees jump, time
//! leaps. `src/sim/` plays thousands of them on a model; here reality is asked whether it agrees.
//!
//! `BURSAR_TEST_SEED` names the drawn ones, `BURSAR_TEST_FOR_S` goes on for so many seconds
//! (`script/soak`).

use std::{
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;

use super::crashes::{Promised, load, promises_are_kept};
use crate::support::{Backend, Plan, Proxy, World, chain::owner, seed, wait_for};

/// Histories that one devnet lives through, one after the other.
const HISTORIES: u32 = 12;
/// Purchases of each lane in one of them, at most.
const PURCHASES: u32 = 14;

/// One thing that goes wrong.
async fn mishap(world: &mut World, proxy: &Proxy, rng: &mut StdRng) {
    match rng.gen_range(0..18) {
        0..=2 => {
            world.kill();
            world.restart().await;
        }
        3 => {
            world.stop().await;
            world.restart().await;
        }
        // Shallower than the depth at which a payment is final.
        4..=6 => {
            let depth = rng.gen_range(1..=2);
            world.chain.rpc("anvil_reorg", json!([depth, []])).await;
        }
        7 | 8 => {
            for (hash, _) in world.chain.pool_of(&world.card.relayers).await {
                world.chain.drop_tx(hash).await;
            }
        }
        9 | 10 => {
            for (_, input) in world.chain.pool_of(&world.card.relayers).await {
                let (stranger, wallet) = (world.card.operators[2].address, world.card.wallet);
                world.chain.queue_from(stranger, wallet, input, 50).await;
            }
        }
        11 => {
            world.chain.owner_says(owner::pauseCall {}).await;
            tokio::time::sleep(Duration::from_millis(250)).await;
            world.chain.owner_says(owner::unpauseCall {}).await;
        }
        12 | 13 => {
            proxy.cut();
            tokio::time::sleep(Duration::from_millis(rng.gen_range(10..500))).await;
            proxy.mend();
        }
        14 => {
            // Below what strangers and USDC's owner offer.
            let gwei = rng.gen_range(2..45_u64);
            let wei = format!("{:#x}", gwei * 1_000_000_000);
            world.chain.rpc("anvil_setNextBlockBaseFeePerGas", json!([wei])).await;
        }
        // Past what a signature is good for.
        15 => world.chain.pass(rng.gen_range(1..900)).await,
        _ => {
            world.chain.rpc("evm_setIntervalMining", json!([0])).await;
            tokio::time::sleep(Duration::from_millis(600)).await;
            world.chain.rpc("evm_setIntervalMining", json!([1])).await;
        }
    }
}

/// USDC runs and blocks come, whatever was broken.
async fn mend(world: &World, proxy: &Proxy) {
    proxy.mend();
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
}

/// A devnet, and the histories it lives through.
async fn histories(seed: u64, until: Option<Instant>) -> u32 {
    let mut world =
        Plan::new().config(|config| config.chain.confirmations = 3).without_daemon().await;
    // The one wire can be cut, the other not.
    let proxy = Proxy::start(&world.card.rpc).await;
    let urls = vec![proxy.url(), world.card.rpc.clone()];
    world.configure(|config| config.chain.rpc = urls);
    world.restart().await;
    let mut promised = Promised::new();
    for n in 0..HISTORIES {
        if until.is_some_and(|end| Instant::now() >= end) {
            return n;
        }
        eprintln!("seed {seed}, history {n}");
        let mut rng = StdRng::seed_from_u64(seed.wrapping_add(u64::from(n) << 32));
        let stop = Arc::new(AtomicBool::new(false));
        let lanes = load(&world, &stop, n * PURCHASES..(n + 1) * PURCHASES);
        for _ in 0..rng.gen_range(1..6) {
            tokio::time::sleep(Duration::from_millis(rng.gen_range(10..250))).await;
            mishap(&mut world, &proxy, &mut rng).await;
        }
        stop.store(true, Ordering::Relaxed);
        mend(&world, &proxy).await;
        promised.extend(lanes.join_all().await.concat());
        promises_are_kept(&world, &promised).await;
        world.tally.add(|counts| counts.histories += 1);
    }
    HISTORIES
}

#[tokio::test]
async fn fixed_histories_on_anvil_agree_with_the_model() {
    histories(1, None).await;
}

#[tokio::test]
async fn more_fixed_histories_on_anvil_agree_with_the_model() {
    histories(2, None).await;
}

/// For as long as is asked, or one devnet's worth.
#[tokio::test]
async fn drawn_histories_on_anvil_agree_with_the_model() {
    let drawn = seed("BURSAR_TEST_SEED");
    let lasts = std::env::var("BURSAR_TEST_FOR_S").ok().and_then(|text| text.parse().ok());
    let Some(lasts) = lasts.map(Duration::from_secs) else {
        histories(drawn, None).await;
        return;
    };
    let (started, on) = (Instant::now(), Backend::of_this_run());
    let mut played = 0;
    for n in 0.. {
        if started.elapsed() >= lasts {
            break;
        }
        played += histories(drawn.wrapping_add(n), Some(started + lasts)).await;
        eprintln!("{:6.0?} on {on:?} and anvil: {played} histories", started.elapsed());
    }
}
