//! `make bench`: the real daemon on a real chain under load.
//!
//! - `vouchers`: vouchers verified and stored, beside the bare verification;
//! - `paywall`: calls through a paywall, paid by vouchers beside free ones;
//! - `payments`: signed payments over HTTP, accepted and confirmed, at what cost, beside what the same
//!   chain takes of plain transfers; with a node at a distance; on PostgreSQL beside SQLite;
//! - `gas`: what channels cost on chain, as `make gas` has measured it.
//!
//! Devnet and `bursar serve` are processes. `cargo bench --bench load -- vouchers` measures one part.
//! `BENCH_QUICK=1` takes less than three minutes, with a smaller past. Everything is seeded; the
//! machine is not, so every figure comes with its conditions and, where it is cheap, its spread.
//! The figures also go to `target/bench.json`.
#![expect(clippy::float_arithmetic, reason = "rates and times; no money is counted here")]
#![expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]

mod backing;
mod ceiling;
mod clients;
mod daemon;
mod distance;
mod fixture;
mod gas;
mod payments;
mod paywall;
mod table;
mod vouchers;

// Shared with the tests, whose helpers fail by panicking.
#[path = "../../tests/support/postgres.rs"]
#[expect(clippy::unwrap_used, clippy::expect_used, reason = "a bench without its server ends")]
mod postgres;
#[path = "../../tests/support/proxy/wire.rs"]
#[expect(clippy::unwrap_used, dead_code, reason = "half of a proxy is needed")]
mod wire;

use std::{collections::BTreeMap, fs, io::Write as _, path::Path, time::Instant};

use anyhow::{Result, ensure};
use bursar::devnet::{Devnet, Options, free_port};
use serde_json::json;

use payments::{Payments, Size};
use table::{Figures, Series, rounded, section};

/// Seed of requests and keys.
const SEED: u64 = 8_402;
/// What can be measured.
const PARTS: [&str; 4] = ["vouchers", "paywall", "payments", "gas"];

fn main() -> Result<()> {
    // One thread: the daemon and the chain need the cores.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(bench())
}

async fn bench() -> Result<()> {
    // Cargo adds `--bench`.
    let named: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let stranger = named.iter().find(|name| !PARTS.contains(&name.as_str()));
    ensure!(stranger.is_none(), "name some of {PARTS:?}, or nothing for all");
    let measures = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    let quick = std::env::var_os("BENCH_QUICK").is_some_and(|value| value != "0");
    let size = if quick { Size::QUICK } else { Size::FULL };
    let started = Instant::now();
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    fs::create_dir_all(&target)?;
    // On the disk of the source tree: a temporary folder may be memory, where fsync costs nothing.
    let work = tempfile::Builder::new().prefix("bench-").tempdir_in(&target)?;
    let conditions = conditions(work.path(), &size, quick)?;
    println!("{}", section("Conditions", &["", ""], &pairs(&conditions)));

    let mut figures = Figures::default();
    if measures("vouchers") {
        say("vouchers, bare and stored");
        vouchers::measure(&mut figures, work.path(), size.vouchers).await?;
    }
    if measures("gas") {
        gas::report(&mut figures)?;
    }
    if measures("paywall") || measures("payments") {
        let port = free_port()?;
        let options = Options {
            port: 0,
            dir: work.path().join("devnet"),
            daemon_port: port,
            ..Options::default()
        };
        let devnet = Devnet::start(options).await?;
        let manifest = devnet.manifest();
        if measures("paywall") {
            paywall::measure(&mut figures, manifest, work.path(), &size).await?;
        }
        if measures("payments") {
            let mut payments = Payments::prepare(manifest, work.path(), &size).await?;
            payments.run(&size, &mut figures).await?;
        }
    }

    let report = json!({
        "conditions": conditions,
        "figures": figures.json,
        "seconds": rounded(started.elapsed().as_secs_f64()),
    });
    let path = target.join("bench.json");
    fs::write(&path, serde_json::to_string_pretty(&report)?)?;
    println!(
        "{:.0} s. Figures with conditions: {}",
        started.elapsed().as_secs_f64(),
        path.display()
    );
    Ok(())
}

/// What the figures depend on.
fn conditions(work: &Path, size: &Size, quick: bool) -> Result<BTreeMap<&'static str, String>> {
    let line = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let found = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        found.split_once(':').map_or(found, |(_, value)| value).trim().to_owned()
    };
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut past = format!("{} payments of {} agents", size.history, size.agents);
    if quick {
        past += &format!(" (full mode: {} of {})", Size::FULL.history, Size::FULL.agents);
    }
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    Ok(BTreeMap::from([
        ("build", if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned()),
        ("mode", if quick { "quick" } else { "full" }.to_owned()),
        ("past", past),
        ("cores", format!("{cores}, shared by daemon, chain and clients")),
        ("processor", line("/proc/cpuinfo", "model name")),
        ("memory", line("/proc/meminfo", "MemTotal")),
        ("load before", load.split(' ').take(3).collect::<Vec<_>>().join(" ")),
        ("fsync of 4 KiB, median", format!("{:.2} ms", fsync_ms(work)?)),
        // Its user may not reach the source tree: its files are temporary ones.
        (
            "fsync where PostgreSQL writes",
            format!("{:.2} ms", fsync_ms(tempfile::tempdir()?.path())?),
        ),
        ("store", "SQLite, WAL, synchronous=FULL; PostgreSQL, synchronous_commit=on".to_owned()),
        ("chain", "anvil, 200 ms blocks, 1 confirmation, batches of 100, 3 relayers".to_owned()),
        ("seed", SEED.to_string()),
    ]))
}

/// The disk's share in a durable answer.
fn fsync_ms(work: &Path) -> Result<f64> {
    let path = work.join("fsync");
    let mut file = fs::File::create(&path)?;
    let mut times = Vec::new();
    for _ in 0..100 {
        let started = Instant::now();
        file.write_all(&[7; 4096])?;
        file.sync_data()?;
        times.push(started.elapsed().as_secs_f64() * 1_000.0);
    }
    fs::remove_file(&path)?;
    Ok(Series::new(times).median())
}

fn pairs(conditions: &BTreeMap<&'static str, String>) -> Vec<Vec<String>> {
    conditions.iter().map(|(name, value)| vec![(*name).to_owned(), value.clone()]).collect()
}

fn say(what: &str) {
    eprintln!("… {what}");
}
