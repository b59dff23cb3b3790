//! `make bench`: the real daemon on a real chain under load.
//!
//! Starts a devnet and `bursar serve` as processes, sends signed payments over HTTP, and prints
//! what was accepted and confirmed, at what cost, beside what the same chain takes of plain
//! transfers in the same run. `BENCH_QUICK=1` takes less than a minute. Everything is seeded; the
//! machine is not, so every figure comes with its conditions and, where it is cheap, its spread.
//! The figures also go to `target/bench.json`.
#![expect(clippy::float_arithmetic, reason = "rates and times; no money is counted here")]
#![expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]

mod ceiling;
mod clients;
mod daemon;
mod fixture;

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use bursar::{
    config::Config,
    devnet::{Devnet, Manifest, Options},
};
use comfy_table::{Cell, CellAlignment, LineStyle, Table, TableStyle};
use serde_json::{Value, json};

use ceiling::{Asset, Ceiling};
use clients::{Accepted, Agents};
use daemon::{Daemon, Used};

/// Connections, each with one request open.
const CLIENTS: u32 = 64;
/// Requests a second where latency is measured at a fixed rate.
const PACE: f64 = 1_000.0;
/// Seed of requests and keys.
const SEED: u64 = 8_402;
/// Longest wait for the last payment of a run.
const SETTLE: Duration = Duration::from_secs(120);
const MEGABYTE: f64 = 1e6;

/// How much is done.
struct Size {
    /// Payments of a run as fast as they go.
    burst: u64,
    /// Payments of the run at a fixed rate.
    paced: u64,
    /// Repetitions, with and without history in turn.
    repeats: u32,
    /// Plain transfers of each kind.
    transfers: u64,
    /// Policy files.
    agents: u32,
    /// Past payments.
    history: u64,
}

const FULL: Size = Size {
    burst: 10_000,
    paced: 15_000,
    repeats: 3,
    transfers: 6_000,
    agents: 10_000,
    history: 1_000_000,
};
const QUICK: Size =
    Size { burst: 3_000, paced: 4_000, repeats: 1, transfers: 1_800, agents: 500, history: 50_000 };

/// One load run's figures.
struct Run {
    accepted: Accepted,
    /// From the first request to the last final payment.
    settled_s: f64,
    count: u64,
    used: Used,
}

fn main() -> Result<()> {
    // One thread: the daemon and the chain need the cores.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(bench())
}

async fn bench() -> Result<()> {
    let quick = std::env::var_os("BENCH_QUICK").is_some_and(|value| value != "0");
    let size = if quick { QUICK } else { FULL };
    let started = Instant::now();
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    fs::create_dir_all(&target)?;
    // On the disk of the source tree: a temporary folder may be memory, where fsync costs nothing.
    let work = tempfile::Builder::new().prefix("bench-").tempdir_in(&target)?;
    let conditions = conditions(work.path(), quick)?;
    println!("{}", section("Conditions", &["", ""], &pairs(&conditions)));

    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let options = Options {
        port: 0,
        dir: work.path().join("devnet"),
        daemon_port: port,
        ..Options::default()
    };
    let devnet = Devnet::start(options).await?;
    let manifest = devnet.manifest();
    let mut bench = Bench::prepare(manifest, work.path(), &size).await?;
    let figures = bench.run(&size).await?;
    drop(devnet);

    let report = json!({
        "conditions": conditions,
        "figures": figures,
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

/// The two worlds that are compared, on one chain.
struct Bench {
    agents: Agents,
    ceiling: Ceiling,
    api: std::net::SocketAddr,
    /// The devnet's agents, no past.
    small: (Config, PathBuf),
    /// All agents and the past.
    large: (Config, PathBuf),
    history_s: f64,
}

impl Bench {
    async fn prepare(manifest: &Manifest, work: &Path, size: &Size) -> Result<Self> {
        let base = Config::read(&manifest.config)?;
        let world = |name: &str| {
            let mut config = base.clone();
            config.store = format!("sqlite:{}", work.join(format!("{name}.db")).display());
            config.policies = work.join(format!("{name}-policies"));
            config.audit_anchors = work.join(format!("{name}.anchors"));
            (config, work.join(format!("{name}.toml")))
        };
        let (small, large) = (world("small"), world("large"));
        fixture::policies(manifest, &small.0.policies, 0)?;
        let names = fixture::policies(manifest, &large.0.policies, size.agents)?;
        say(&format!("a store with {} past payments of {} agents", size.history, names.len()));
        let store = work.join("large.db");
        let history_s = fixture::history(&store, &names, manifest, size.history).await?;
        Ok(Self {
            agents: Agents::new(manifest, SEED),
            ceiling: Ceiling::prepare(manifest).await?,
            api: base.listen,
            small,
            large,
            history_s,
        })
    }

    async fn run(&mut self, size: &Size) -> Result<Value> {
        let (mut ether, mut usdc) = (Vec::new(), Vec::new());
        let (mut small, mut large) = (Vec::new(), Vec::new());
        let (mut memory, mut starts) = (Vec::new(), Vec::new());
        let mut paced = None;
        for turn in 1..=size.repeats {
            say(&format!("round {turn} of {}: plain transfers", size.repeats));
            ether.push(self.ceiling.measure(Asset::Ether, size.transfers).await?);
            usdc.push(self.ceiling.measure(Asset::Usdc, size.transfers).await?);

            say(&format!("round {turn}: payments, no past"));
            fixture::caught_up(&self.small.0).await?;
            let daemon = Daemon::start(&self.small.0, &self.small.1).await?;
            self.load(&daemon, 300, None).await?;
            if turn == 1 {
                let run = self.load(&daemon, size.paced, Some(PACE)).await?;
                paced = Some(run);
            }
            small.push(self.load(&daemon, size.burst, None).await?);
            daemon.stop()?;

            say(&format!("round {turn}: payments, {} agents and the past", size.agents));
            fixture::caught_up(&self.large.0).await?;
            let daemon = Daemon::start(&self.large.0, &self.large.1).await?;
            starts.push(daemon.start_s);
            let (after_start, _) = daemon.memory()?;
            self.load(&daemon, 300, None).await?;
            large.push(self.load(&daemon, size.burst, None).await?);
            let (after_load, peak) = daemon.memory()?;
            memory.push([after_start as f64, after_load as f64, peak as f64].map(|b| b / MEGABYTE));
            daemon.stop()?;
        }
        let paced = paced.context("no round was run")?;
        Ok(self.report(size, &paced, &small, &large, [&ether, &usdc], &memory, &starts))
    }

    /// Sends `count` payments and waits until all are final.
    async fn load(&mut self, daemon: &Daemon, count: u64, pace: Option<f64>) -> Result<Run> {
        let requests = self.agents.requests(count)?;
        let before = daemon.used().await?;
        let accepted = clients::send(requests, self.api, CLIENTS, pace).await?;
        let last = daemon.all_final(before, count, SETTLE).await?;
        let settled_s = (last - accepted.first).as_secs_f64();
        // The counter of RPC calls is set with each new head.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let used = daemon.used().await?.since(before);
        Ok(Run { accepted, settled_s, count, used })
    }

    #[expect(clippy::too_many_arguments, reason = "the series of one report")]
    fn report(
        &self,
        size: &Size,
        paced: &Run,
        small: &[Run],
        large: &[Run],
        [ether, usdc]: [&[f64]; 2],
        memory: &[[f64; 3]],
        starts: &[f64],
    ) -> Value {
        let over = |runs: &[Run], figure: &dyn Fn(&Run) -> f64| {
            Series::new(runs.iter().map(figure).collect())
        };
        let per_payment = |runs: &[Run], figure: &dyn Fn(&Used) -> f64| {
            over(runs, &|run| figure(&run.used) / run.count as f64)
        };
        let at_pace = std::slice::from_ref(paced);
        let p50 = |run: &Run| run.accepted.quantile_ms(500);
        let p99 = |run: &Run| run.accepted.quantile_ms(990);
        let accepts = |run: &Run| run.accepted.per_second();
        let confirmed = |run: &Run| run.count as f64 / run.settled_s;
        let confirmed_small = over(small, &confirmed);
        let (ether, usdc) = (Series::new(ether.to_vec()), Series::new(usdc.to_vec()));
        let column = |index: usize| Series::new(memory.iter().map(|row| row[index]).collect());
        let cpu = |used: &Used| used.cpu_s * 1e6;
        let (cpu_small, cpu_large) = (per_payment(small, &cpu), per_payment(large, &cpu));
        let mut figures = Figures::default();

        figures.table(
            &format!(
                "Durable accepts, {CLIENTS} keep-alive clients, RFC 9421 signatures, loopback"
            ),
            vec![
                ("at 1,000 requests/s: p50", "ms", over(at_pace, &p50), ""),
                ("at 1,000 requests/s: p99", "ms", over(at_pace, &p99), "< 20"),
                ("at 1,000 requests/s: accepted", "1/s", over(at_pace, &accepts), ""),
                ("as fast as they go: accepted", "1/s", over(small, &accepts), ">= 1,000"),
                ("as fast as they go: p50", "ms", over(small, &p50), ""),
                ("as fast as they go: p99", "ms", over(small, &p99), ""),
            ],
        );
        figures.table(
            "Confirmed a second, the same anvil, 200 ms blocks",
            vec![
                (
                    "payments: first request to last final",
                    "1/s",
                    confirmed_small.clone(),
                    ">= 1,000",
                ),
                ("plain USDC transfers, signed before", "1/s", usdc.clone(), ""),
                ("plain ETH transfers, signed before", "1/s", ether.clone(), ""),
                ("payments / USDC transfers", "", confirmed_small.over(&usdc), ""),
                ("payments / ETH transfers", "", confirmed_small.over(&ether), ""),
            ],
        );
        figures.table(
            "What a payment takes",
            vec![
                ("RPC calls", "", per_payment(small, &|u| u.rpc_calls as f64), "< 4"),
                ("gas", "", per_payment(small, &|u| u.gas as f64), ""),
                ("processor time of the daemon", "µs", cpu_small.clone(), ""),
                ("the same at 1,000 requests/s", "µs", per_payment(at_pace, &cpu), "<= 1,000"),
                ("bytes written to disk", "", per_payment(small, &|u| u.written as f64), ""),
                ("bytes kept in the store", "", per_payment(at_pace, &|u| u.stored as f64), ""),
            ],
        );
        figures.table(
            &format!("With {} agents and {} past payments", size.agents, size.history),
            vec![
                ("resident memory after start", "MB", column(0), "< 100"),
                ("resident memory after the load", "MB", column(1), "< 100"),
                ("highest resident memory", "MB", column(2), "< 100"),
                ("start to ready", "s", Series::new(starts.to_vec()), ""),
                ("accepted", "1/s", over(large, &accepts), ""),
                ("accept p99", "ms", over(large, &p99), ""),
                ("confirmed", "1/s", over(large, &confirmed), ""),
                ("processor time a payment", "µs", cpu_large.clone(), ""),
                ("… / without agents and past", "", cpu_large.over(&cpu_small), "about 1"),
                (
                    "confirmed / without agents and past",
                    "",
                    over(large, &confirmed).over(&confirmed_small),
                    "about 1",
                ),
            ],
        );
        figures.json.insert("history_made_s".into(), json!(rounded(self.history_s)));
        json!(figures.json)
    }
}

/// A figure over the rounds.
#[derive(Clone)]
struct Series(Vec<f64>);

impl Series {
    fn new(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }

    fn ends(&self) -> (f64, f64) {
        let end = |value: Option<&f64>| value.copied().unwrap_or_default();
        (end(self.0.first()), end(self.0.last()))
    }

    /// The medians' ratio.
    fn over(&self, baseline: &Self) -> Self {
        Self(vec![self.median() / baseline.median()])
    }
}

#[derive(Default)]
struct Figures {
    json: serde_json::Map<String, Value>,
}

impl Figures {
    /// Prints a table of medians with their spread, and keeps it for the JSON.
    fn table(&mut self, title: &str, rows: Vec<(&str, &str, Series, &str)>) {
        let mut shown = Vec::new();
        let mut kept = BTreeMap::new();
        for (name, unit, series, aim) in rows {
            let (low, high) = series.ends();
            let spread = if series.0.len() > 1 {
                format!("{} … {}", figure(low), figure(high))
            } else {
                String::new()
            };
            shown.push(vec![
                name.to_owned(),
                figure(series.median()),
                unit.to_owned(),
                spread,
                aim.to_owned(),
            ]);
            let all: Vec<f64> = series.0.iter().map(|value| rounded(*value)).collect();
            let median = rounded(series.median());
            kept.insert(
                name.to_owned(),
                json!({ "median": median, "all": all, "unit": unit, "aim": aim }),
            );
        }
        println!("{}", section(title, &["", "median", "", "spread", "aim"], &shown));
        self.json.insert(title.to_owned(), json!(kept));
    }
}

/// What the figures depend on.
fn conditions(work: &Path, quick: bool) -> Result<BTreeMap<&'static str, String>> {
    let line = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let found = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        found.split_once(':').map_or(found, |(_, value)| value).trim().to_owned()
    };
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    Ok(BTreeMap::from([
        ("build", if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned()),
        ("mode", if quick { "quick" } else { "full" }.to_owned()),
        ("cores", format!("{cores}, shared by daemon, chain and clients")),
        ("processor", line("/proc/cpuinfo", "model name")),
        ("memory", line("/proc/meminfo", "MemTotal")),
        ("load before", load.split(' ').take(3).collect::<Vec<_>>().join(" ")),
        ("fsync of 4 KiB, median", format!("{:.2} ms", fsync_ms(work)?)),
        ("store", "SQLite, WAL, synchronous=FULL".to_owned()),
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

fn section(title: &str, header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table.load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')));
    if header.iter().any(|name| !name.is_empty()) {
        table.set_header(header);
    }
    for row in rows {
        table.add_row(row.iter().enumerate().map(|(index, text)| {
            let number = index == 1 && row.len() > 2;
            Cell::new(text).set_alignment(if number {
                CellAlignment::Right
            } else {
                CellAlignment::Left
            })
        }));
    }
    format!("{title}\n{table}\n")
}

/// Three significant digits, whole above a hundred.
fn figure(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value if value >= 0.1 => format!("{value:.2}"),
        value => format!("{value:.4}"),
    }
}

fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

fn say(what: &str) {
    eprintln!("… {what}");
}
