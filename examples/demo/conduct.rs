//! The conductor: starts everyone, shows how it goes, kills the daemon half-way, judges the end.

use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bursar::{
    config::Config,
    devnet::{Manifest, free_port},
    store::Store,
};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::sync::mpsc;

use crate::{
    job,
    market::{self, Market},
    process::{Heard, Logged, What, actor},
    report::Tally,
    script::{Line, Note},
};

/// The daemon is killed when this share of the lines is done, in per cent.
const KILL_AT: usize = 40;
/// How long it stays dead.
const DEAD_FOR: Duration = Duration::from_millis(700);
/// The whole of it, tables included.
const LIMIT: Duration = Duration::from_secs(900);
/// Operators that sit at their terminals: as many as the quorum needs.
const OPERATORS: usize = 2;

/// What can be had otherwise.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// Kill the daemon half-way.
    pub kill: bool,
    /// Paid calls through one channel.
    pub calls: u64,
}

/// Runs the demo.
pub async fn run(
    dir: &Path,
    requests: &Path,
    bursar: &Path,
    how: How,
    lines: Vec<Line>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    tokio::time::timeout(LIMIT, play(dir, requests, bursar, how, lines))
        .await
        .unwrap_or_else(|_| bail!("not over within {} s", LIMIT.as_secs()))?;
    println!(
        "\nAll as expected, in {:.0?}. Logs, books and keys stay in {}.",
        begun.elapsed(),
        dir.display()
    );
    Ok(())
}

async fn play(
    dir: &Path,
    requests: &Path,
    bursar: &Path,
    how: How,
    lines: Vec<Line>,
) -> anyhow::Result<()> {
    let place = dir.to_str().context("the directory's name is not text")?;
    let (rpc_port, api_port) = (free_port()?.to_string(), free_port()?.to_string());
    let args =
        ["devnet", "--fresh", "--dir", place, "--port", &rpc_port, "--daemon-port", &api_port];
    // Beside the directory: what is inside goes away at the start.
    let log = dir.with_extension("devnet.log");
    std::fs::write(&log, "")?;
    let mut chain = Logged::start("the devnet", bursar, &args, &log)?;
    let card = dir.join("devnet.json");
    let stale = std::fs::read(&card).unwrap_or_default();
    chain
        .until(async || std::fs::read(&card).is_ok_and(|now| !now.is_empty() && now != stale))
        .await?;
    let devnet = Manifest::read(dir)?;
    print!("{}", std::fs::read_to_string(&log)?);

    let market = Market::open(dir).await?;
    let mut daemon = serve(bursar, &devnet, &market).await?;
    println!("The daemon is ready at {}. Agents start; operators watch.\n", devnet.api);

    let (heard, mut inbox) = mpsc::channel::<Heard>(1024);
    let mut actors = Vec::new();
    let requests = requests.to_str().context("the file's name is not text")?;
    let program = bursar.to_str().context("the program's name is not text")?;
    let common = ["--dir", place, "--requests", requests, "--bursar", program];
    for operator in devnet.operators.iter().take(OPERATORS) {
        let name = operator.name.as_str();
        let args: Vec<&str> = ["operator", name].into_iter().chain(common).collect();
        actors.push(actor(name, &args, heard.clone())?);
    }
    let mut running = BTreeMap::new();
    for name in devnet.agents.keys() {
        let args: Vec<&str> = ["agent", name.as_str()].into_iter().chain(common).collect();
        actors.push(actor(name.as_str(), &args, heard.clone())?);
        running.insert(name.to_string(), ());
    }
    let mut view = Progress::new(&devnet, &lines);
    let mut tally = Tally::new(&lines);
    let mut to_kill = how.kill.then_some(lines.len() * KILL_AT / 100);
    while !running.is_empty() {
        let Heard { who, what } = inbox.recv().await.context("every process has ended")?;
        match what {
            What::Note(note) => {
                if let Some(text) = view.note(&who, &note) {
                    view.say(&text);
                }
                tally.note(&who, note);
            }
            What::Text(text) => view.say(&format!("{who}: {text}")),
            What::End { success } => {
                if running.remove(&who).is_some() {
                    tally.ended(&who, success);
                } else if !success {
                    bail!("operator {who} gave up");
                }
            }
        }
        if to_kill.is_some_and(|at| view.done >= at) {
            to_kill = None;
            view.say("SIGKILL for the daemon, in the middle of everything …");
            daemon.kill().await?;
            let open = on_their_way(&devnet).await?;
            view.say(&format!("… it left {open} accepted payments that are not final …"));
            tokio::time::sleep(DEAD_FOR).await;
            daemon = serve(bursar, &devnet, &market).await?;
            view.say("… and is back, from its store alone.");
        }
    }
    view.finish();
    for actor in actors {
        actor.abort();
    }
    tally.show(&devnet).await?;
    job::play(bursar, &devnet).await?;
    market::play(bursar, &devnet, &market, how.calls).await?;
    daemon.stop().await?;
    let config = devnet.config.to_str().context("the directory's name is not text")?;
    check(bursar, &["reconcile", "--balances", "--config", config])?;
    check(bursar, &["audit", "verify", "--config", config])?;
    chain.stop().await?;
    tally.verdict()
}

/// Starts the daemon and waits until it is ready.
async fn serve(bursar: &Path, devnet: &Manifest, market: &Market) -> anyhow::Result<Logged> {
    let config = devnet.config.to_str().context("the directory's name is not text")?;
    let log = devnet.dir.join("daemon.log");
    let args = [&["serve", "--config", config], market.switches()?.as_slice()].concat();
    let mut daemon = Logged::start("the daemon", bursar, &args, &log)?;
    let ready = format!("{}/readyz", devnet.api);
    daemon
        .until(async || reqwest::get(&ready).await.is_ok_and(|answer| answer.status().is_success()))
        .await?;
    Ok(daemon)
}

/// Counts what a dead daemon had promised and not finished.
async fn on_their_way(devnet: &Manifest) -> anyhow::Result<usize> {
    let store = Store::open(&Config::read(&devnet.config)?.store).await?;
    let open = store.payments_open().await?.len();
    store.close().await;
    Ok(open)
}

/// Runs a check of `bursar` as a process of its own and shows what it says.
pub fn check(bursar: &Path, args: &[&str]) -> anyhow::Result<()> {
    println!("\n$ bursar {}", args.join(" "));
    let status = Command::new(bursar).args(args).status()?;
    if status.success() { Ok(()) } else { bail!("`bursar {}` failed: {status}", args.join(" ")) }
}

/// One bar an agent on a terminal, a line now and then elsewhere.
struct Progress {
    bars: BTreeMap<String, ProgressBar>,
    area: MultiProgress,
    plain: bool,
    begun: Instant,
    told: Instant,
    total: usize,
    done: usize,
    accepted: usize,
    refused: usize,
    paid: usize,
}

impl Progress {
    fn new(devnet: &Manifest, lines: &[Line]) -> Self {
        let area = MultiProgress::new();
        let style = ProgressStyle::with_template("{prefix:>10} {bar:40} {pos:>4}/{len} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let bars = devnet.agents.keys().map(|name| {
            let own = lines.iter().filter(|line| line.agent == *name).count();
            let bar = area.add(ProgressBar::new(own as u64));
            bar.set_style(style.clone());
            bar.set_prefix(name.to_string());
            (name.to_string(), bar)
        });
        let bars = bars.collect();
        let plain = area.is_hidden();
        let now = Instant::now();
        Self {
            bars,
            area,
            plain,
            begun: now,
            told: now,
            total: lines.len(),
            done: 0,
            accepted: 0,
            refused: 0,
            paid: 0,
        }
    }

    /// Counts a note; returns what is worth a line of its own.
    fn note(&mut self, who: &str, note: &Note) -> Option<String> {
        let mut text = None;
        match note {
            Note::Answered { status, .. } if *status < 300 => self.accepted += 1,
            Note::Answered { .. } => self.refused += 1,
            Note::Ended { .. } => self.paid += 1,
            Note::Operator { text: said } => text = Some(format!("{who}: {said}")),
            Note::Line { key, fault } => {
                if let Some(fault) = fault {
                    text = Some(format!("NOT AS EXPECTED: {key}: {fault}"));
                }
                self.done += 1;
                if let Some(bar) = self.bars.get(who) {
                    bar.inc(1);
                }
            }
        }
        if self.plain && self.told.elapsed() > Duration::from_secs(1) {
            self.told = Instant::now();
            println!(
                "{:>3} s  {} of {} lines; {} requests accepted, {} refused; {} payments final",
                self.begun.elapsed().as_secs(),
                self.done,
                self.total,
                self.accepted,
                self.refused,
                self.paid
            );
        }
        text
    }

    /// Prints a line above the bars.
    fn say(&self, text: &str) {
        if self.plain || self.area.println(text).is_err() {
            println!("{text}");
        }
    }

    fn finish(&self) {
        for bar in self.bars.values() {
            bar.abandon();
        }
    }
}
