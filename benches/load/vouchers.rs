//! What a voucher costs its payee: verified and stored, beside the bare verification of the same
//! signatures by libsecp256k1 in the same run.
//!
//! Every channel brings one voucher to a commit, as in the paywall, where a channel serves one request
//! at a time. What is timed is the room that judges and stores; the HTTP around it is `paywall.rs`.
//! Rates are of one core: by processor time, of all threads of this process.

use std::{
    hint::black_box,
    path::Path,
    time::{Duration, Instant},
};

use alloy::{
    primitives::{Address, B256, U256},
    signers::{SignerSync as _, local::PrivateKeySigner},
};
use anyhow::{Context as _, Result, bail, ensure};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bursar::{
    channel::{
        meter::{Admitted, Delivered, Meter, MeterRow, OnChain, Presented, Unstored},
        voucher::VoucherKey,
    },
    contract::hub::{HUB, Hub},
    money::Usdc,
    seller::Stored,
    store::{Earning, Store},
    x402::batch::ChannelConfig,
};
use serde_json::json;

use crate::table::{Figures, Series};

/// Channels that pay at the same time, so vouchers in a commit: the journal's own limit, and few.
const TOGETHER: [usize; 2] = [1_024, 64];
/// Rounds: the ratios come with their spread.
const ROUNDS: u32 = 5;
/// Base units of a request: $0.0001.
const PRICE: u64 = 100;
/// An answer as it is kept for a payer that did not get it.
const ANSWER: &str =
    r#"{"city":"Lisbon","now":{"celsius":"21.4","wind_kmh":"13"},"source":"bench"}"#;

/// A voucher that came in.
struct Incoming {
    channel: usize,
    total: Usdc,
    signature: [u8; 65],
    digest: B256,
    request: B256,
}

/// Time of a piece of work.
#[derive(Clone, Copy)]
struct Spent {
    wall: Duration,
    /// Of every thread of this process.
    cpu: Duration,
}

/// Rates of one round, vouchers a second: by processor time, and by the clock.
#[derive(Clone, Copy)]
struct Rate {
    cpu: f64,
    wall: f64,
}

/// What becomes of a voucher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// Judged, and stored: the commit before a request is served. Nothing is charged.
    Stored,
    /// The charge with its answer and its earning in a commit of its own, too.
    Charged,
}

/// Measures `count` vouchers in each round, and reports.
pub async fn measure(figures: &mut Figures, work: &Path, count: usize) -> Result<()> {
    for channels in TOGETHER {
        // Of full groups: fewer share the cost of a commit.
        let aim = if channels == TOGETHER[0] { ">= 0.8" } else { "" };
        let stage = Stage::set(channels, count)?;
        let mut bare = Vec::new();
        let mut rates = [Vec::new(), Vec::new()];
        for turn in 0..ROUNDS {
            bare.push(stage.bare()?);
            for (work_of, rates) in [Work::Stored, Work::Charged].into_iter().zip(&mut rates) {
                let file = work.join(format!("vouchers-{channels}-{turn}-{work_of:?}.db"));
                let store = Store::open(&format!("sqlite:{}", file.display())).await?;
                rates.push(stage.through(&store, work_of).await?);
                store.close().await;
            }
        }
        let series = |rates: &[Rate], figure: fn(&Rate) -> f64| {
            Series::new(rates.iter().map(figure).collect())
        };
        let of_bare = |rates: &[Rate]| {
            Series::new(rates.iter().zip(&bare).map(|(rate, bare)| rate.cpu / bare.cpu).collect())
        };
        let [stored, charged] = &rates;
        let by_cpu = |rate: &Rate| rate.cpu;
        let by_clock = |rate: &Rate| rate.wall;
        figures.table(
            &format!("Vouchers on one core, {channels} channels at once, SQLite"),
            vec![
                ("bare verification, cached key", "1/s", series(&bare, by_cpu), ""),
                ("verified and stored", "1/s", series(stored, by_cpu), ""),
                ("… / bare", "", of_bare(stored), aim),
                ("verified, stored, charged, stored again", "1/s", series(charged, by_cpu), ""),
                ("… and charged / bare", "", of_bare(charged), ""),
                ("by the clock: bare", "1/s", series(&bare, by_clock), ""),
                ("by the clock: verified and stored", "1/s", series(stored, by_clock), ""),
                ("by the clock: charged, too", "1/s", series(charged, by_clock), ""),
            ],
        );
    }
    Ok(())
}

/// Channels and what their payers signed.
struct Stage {
    hub: Hub,
    rows: Vec<MeterRow>,
    incoming: Vec<Incoming>,
    keys: Vec<VoucherKey>,
}

impl Stage {
    fn set(channels: usize, count: usize) -> Result<Self> {
        let hub = Hub::new(31_337, HUB);
        let count = count.div_ceil(channels) * channels;
        let (mut signers, mut rows) = (Vec::new(), Vec::new());
        for number in 1..=channels {
            let secret = B256::from(U256::from(number));
            let signer = PrivateKeySigner::from_bytes(&secret)?;
            let config = ChannelConfig {
                payer: Address::repeat_byte(1),
                payer_authorizer: signer.address(),
                receiver: Address::repeat_byte(3),
                receiver_authorizer: Address::repeat_byte(4),
                token: Address::repeat_byte(5),
                withdraw_delay: 900,
                salt: secret,
            };
            let chain = OnChain { balance: usdc(1 << 50)?, ..OnChain::default() };
            rows.push(MeterRow::new(hub.channel_id(&config.into()), config, chain));
            signers.push(signer);
        }
        let incoming = (0..count)
            .map(|number| {
                let channel = number % channels;
                let total = PRICE * (number / channels + 1) as u64;
                let digest = hub.voucher_digest(rows[channel].id, total.into());
                Ok(Incoming {
                    channel,
                    total: usdc(total)?,
                    signature: signers[channel].sign_hash_sync(&digest)?.as_bytes(),
                    digest,
                    request: B256::from(U256::from(number)),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let known = |one: &Incoming| {
            let authorizer = rows[one.channel].config.payer_authorizer;
            Ok(VoucherKey::recover(one.digest, &one.signature, authorizer)?)
        };
        let keys = incoming[..channels].iter().map(known).collect::<Result<_>>()?;
        Ok(Self { hub, rows, incoming, keys })
    }

    /// Nothing but the verification, the digests known.
    fn bare(&self) -> Result<Rate> {
        let clock = Clock::start();
        for one in &self.incoming {
            self.keys[one.channel].verify(black_box(one.digest), black_box(&one.signature))?;
        }
        Ok(clock.rate(self.incoming.len()))
    }

    /// What the payee does: judge, store, then charge, and store again.
    async fn through(&self, store: &Store, work: Work) -> Result<Rate> {
        let mut meters: Vec<Meter> =
            self.rows.iter().map(|row| Meter::new(row.clone(), false)).collect();
        let answer: Stored = serde_json::from_value(json!({
            "status": 200, "headers": [["content-type", "application/json"]],
            "body": BASE64_STANDARD.encode(ANSWER),
        }))?;
        let clock = Clock::start();
        for group in self.incoming.chunks(self.rows.len()) {
            let mut taken = Vec::with_capacity(group.len());
            for one in group {
                let voucher = Presented {
                    ceiling: one.total,
                    signature: &one.signature,
                    // Where nothing is charged, a voucher is for all there was so far.
                    price: if work == Work::Charged { usdc(PRICE)? } else { one.total },
                    request: one.request,
                };
                match meters[one.channel].admit(&self.hub, voucher)? {
                    Admitted::Serve(next) => taken.push(*next),
                    Admitted::Again(_) => bail!("a new voucher was taken for an old one"),
                }
            }
            commit(store, &mut taken, &[]).await?;
            for (one, next) in group.iter().zip(taken) {
                meters[one.channel].set(next);
            }
            if work == Work::Stored {
                continue;
            }
            let (mut charged, mut earned) = (Vec::new(), Vec::new());
            for one in group {
                let delivered = Delivered {
                    request: one.request,
                    ceiling: one.total,
                    charged: usdc(PRICE)?,
                    answer: answer.clone(),
                };
                charged.push(meters[one.channel].charge(delivered, 1));
                earned.push(Earning {
                    day: 1,
                    route: "GET /weather/{city}".into(),
                    receiver: Address::repeat_byte(3),
                    amount: usdc(PRICE)?,
                });
            }
            commit(store, &mut charged, &earned).await?;
            for (one, next) in group.iter().zip(charged) {
                meters[one.channel].set(next);
            }
        }
        let rate = clock.rate(self.incoming.len());
        let kept = store.meters(None, u32::try_from(self.rows.len())?).await?;
        let total = |figure: fn(&MeterRow) -> Usdc| -> u64 {
            kept.iter().map(|row| figure(row).units()).sum()
        };
        let all = PRICE * self.incoming.len() as u64;
        ensure!(total(|row| row.ceiling) == all, "a voucher was not stored");
        ensure!(work == Work::Stored || total(|row| row.charged) == all, "a charge was not stored");
        Ok(rate)
    }
}

/// As the journal does it.
async fn commit(store: &Store, rows: &mut [MeterRow], earned: &[Earning]) -> Result<()> {
    let mut tx = store.begin().await?;
    ensure!(tx.put_meters(&rows.iter().collect::<Vec<_>>()).await?, "a row was overtaken");
    tx.add_earnings(&earned.iter().collect::<Vec<_>>()).await?;
    tx.commit().await?;
    for row in rows {
        row.unstored = Unstored::Nothing;
    }
    Ok(())
}

fn usdc(units: u64) -> Result<Usdc> {
    Usdc::from_units(units).context("an amount above all USDC")
}

/// Both times since a moment.
struct Clock {
    wall: Instant,
    cpu: Duration,
}

impl Clock {
    fn start() -> Self {
        Self { wall: Instant::now(), cpu: cpu() }
    }

    fn rate(&self, count: usize) -> Rate {
        let spent = Spent { wall: self.wall.elapsed(), cpu: cpu().saturating_sub(self.cpu) };
        let per_second = |time: Duration| count as f64 / time.as_secs_f64();
        Rate { cpu: per_second(spent.cpu), wall: per_second(spent.wall) }
    }
}

/// Processor time of this process, all threads.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}
