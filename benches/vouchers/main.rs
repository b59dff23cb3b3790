//! What a voucher costs its payee: vouchers verified, charged and durably stored, beside the bare
//! verification of the same signatures in the same run, on one core.
//!
//! `BURSAR_BENCH_VOUCHERS` names how many vouchers; 40,000 without it.

#![allow(clippy::expect_used, clippy::panic, clippy::float_arithmetic, clippy::cast_precision_loss)]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use alloy::{
    primitives::{Address, B256, U256},
    signers::{SignerSync as _, local::PrivateKeySigner},
};
use bursar::{
    channel::{
        meter::{Admitted, Delivered, Meter, MeterRow, OnChain, Presented},
        voucher::VoucherKey,
    },
    contract::hub::{HUB, Hub},
    money::Usdc,
    seller::Stored,
    store::{Earning, Store},
    x402::batch::ChannelConfig,
};
use comfy_table::{Cell, CellAlignment, LineStyle, Table, TableStyle};

/// Channels that pay at the same time.
const CHANNELS: usize = 64;
/// Vouchers that share a commit: what gathers while one is written, at full load.
const GROUP: usize = 1_024;
/// Base units of a request: $0.0001.
const PRICE: u64 = 100;

/// A voucher that came in.
struct Incoming {
    channel: usize,
    total: Usdc,
    signature: [u8; 65],
    digest: B256,
    request: B256,
}

fn main() {
    let count = std::env::var("BURSAR_BENCH_VOUCHERS")
        .ok()
        .and_then(|text| text.parse::<usize>().ok())
        .unwrap_or(40_000)
        .max(GROUP);
    eprintln!("signing {count} vouchers of {CHANNELS} channels");
    let hub = Hub::new(31_337, HUB);
    let (keys, rows) = channels(&hub);
    let incoming = incoming(&hub, &keys, &rows, count);
    let known: Vec<VoucherKey> = incoming[..CHANNELS]
        .iter()
        .map(|one| {
            let authorizer = rows[one.channel].config.payer_authorizer;
            VoucherKey::recover(one.digest, &one.signature, authorizer).expect("its own key")
        })
        .collect();

    eprintln!("verifying them, bare");
    let bare = measured(|| {
        for one in &incoming {
            let key = &known[one.channel];
            black_box(key.verify(black_box(one.digest), &one.signature)).expect("a good voucher");
        }
    });
    eprintln!("verifying, charging and storing them");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let url = format!("sqlite:{}", dir.path().join("vouchers.db").display());
    let store = runtime.block_on(Store::open(&url)).expect("a store");
    let mut commits = 0_u32;
    let stored = measured(|| {
        runtime.block_on(async { commits = serve(&hub, &store, &rows, &incoming).await });
    });
    let kept = runtime.block_on(store.meters(None, 1_000)).expect("rows");
    let charged: u64 = kept.iter().map(|row| row.charged.units()).sum();
    assert_eq!(charged, PRICE * count as u64, "every voucher is charged once");

    let rate = |time: Duration| count as f64 / time.as_secs_f64();
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')));
    table.set_header([
        "one core, libsecp256k1 with a cached key",
        "vouchers/s (CPU time)",
        "vouchers/s (wall)",
        "of bare (CPU)",
        "of bare (wall)",
    ]);
    for (name, spent) in [
        ("bare verification".to_owned(), bare),
        (format!("verified, charged, stored in {commits} commits"), stored),
    ] {
        let share = |of: Duration, at: Duration| format!("{:.0} %", 100.0 * rate(at) / rate(of));
        table.add_row(vec![
            Cell::new(name),
            right(format!("{:.0}", rate(spent.cpu))),
            right(format!("{:.0}", rate(spent.wall))),
            right(share(bare.cpu, spent.cpu)),
            right(share(bare.wall, spent.wall)),
        ]);
    }
    println!("{table}");
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}

/// Time of a piece of work.
#[derive(Clone, Copy)]
struct Spent {
    wall: Duration,
    /// Of every thread of this process.
    cpu: Duration,
}

fn measured(work: impl FnOnce()) -> Spent {
    let (start, before) = (Instant::now(), cpu());
    work();
    Spent { wall: start.elapsed(), cpu: cpu().saturating_sub(before) }
}

/// CPU time of this process, as the kernel counts it: nanoseconds on its CPUs.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

fn channels(hub: &Hub) -> (Vec<PrivateKeySigner>, Vec<MeterRow>) {
    (1..=CHANNELS as u64)
        .map(|number| {
            let secret = B256::from(U256::from(number));
            let signer = PrivateKeySigner::from_bytes(&secret).expect("a key");
            let config = ChannelConfig {
                payer: Address::repeat_byte(1),
                payer_authorizer: signer.address(),
                receiver: Address::repeat_byte(3),
                receiver_authorizer: Address::repeat_byte(4),
                token: Address::repeat_byte(5),
                withdraw_delay: 900,
                salt: secret,
            };
            let balance = Usdc::from_units(1 << 50).expect("an amount");
            let chain = OnChain { balance, ..OnChain::default() };
            (signer, MeterRow::new(hub.channel_id(&config.into()), config, chain))
        })
        .unzip()
}

fn incoming(
    hub: &Hub,
    keys: &[PrivateKeySigner],
    rows: &[MeterRow],
    count: usize,
) -> Vec<Incoming> {
    (0..count)
        .map(|number| {
            let channel = number % CHANNELS;
            let total = PRICE * (number / CHANNELS + 1) as u64;
            let digest = hub.voucher_digest(rows[channel].id, total.into());
            let signature = keys[channel].sign_hash_sync(&digest).expect("a signature").as_bytes();
            let total = Usdc::from_units(total).expect("an amount");
            let request = B256::from(U256::from(number));
            Incoming { channel, total, signature, digest, request }
        })
        .collect()
}

/// Judges and charges every voucher as a payee does, and commits in groups.
async fn serve(hub: &Hub, store: &Store, rows: &[MeterRow], incoming: &[Incoming]) -> u32 {
    let mut meters: Vec<Meter> = rows.iter().map(|row| Meter::new(row.clone(), false)).collect();
    let price = Usdc::from_units(PRICE).expect("an amount");
    let answer = serde_json::json!({ "status": 200, "headers": [], "body": "" });
    let answer: Stored = serde_json::from_value(answer).expect("an answer");
    let mut commits = 0;
    for group in incoming.chunks(GROUP) {
        let mut changed = Vec::with_capacity(group.len());
        let mut earned = Vec::with_capacity(group.len());
        for one in group {
            let meter = &mut meters[one.channel];
            let voucher = Presented {
                ceiling: one.total,
                signature: &one.signature,
                price,
                request: one.request,
            };
            let Ok(Admitted::Serve(next)) = meter.admit(hub, voucher) else {
                panic!("a good voucher was refused");
            };
            meter.set(*next);
            let delivered = Delivered {
                request: one.request,
                ceiling: one.total,
                charged: price,
                answer: answer.clone(),
            };
            let next = meter.charge(delivered, 1);
            meter.set(next.clone());
            changed.push(next);
            earned.push(Earning {
                day: 1,
                route: "GET /quote".into(),
                receiver: Address::repeat_byte(3),
                amount: price,
            });
        }
        let mut tx = store.begin().await.expect("a transaction");
        tx.put_meters(&changed.iter().collect::<Vec<_>>()).await.expect("rows");
        tx.add_earnings(&earned.iter().collect::<Vec<_>>()).await.expect("earnings");
        tx.commit().await.expect("a commit");
        commits += 1;
    }
    commits
}
