//! Payments: accepted, confirmed, at what cost; near and far from the node, on both stores, with a past.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use bursar::{config::Config, devnet::Manifest};
use jiff::Timestamp;
use serde_json::json;

use crate::{
    SEED,
    backing::Backing,
    ceiling::{Asset, Ceiling},
    clients::{self, Accepted, Agents},
    daemon::{Daemon, Used, World},
    distance::{Asked, Distance, Journeys},
    fixture,
    postgres::Postgres,
    say,
    table::{Figures, Series, quantile, rounded},
};

/// Connections, each with one request open.
const CLIENTS: u32 = 64;
/// Requests a second where latency is measured at a fixed rate.
const PACE: f64 = 1_000.0;
/// Requests a second where the way of a payment is timed with a node at a distance.
const FAR_PACE: f64 = 200.0;
/// Round trips to the node, in milliseconds, with their names in the report.
const ROUND_TRIPS: [(u64, &str); 3] = [(0, "0 ms"), (20, "20 ms"), (50, "50 ms")];
/// Longest wait for the last payment of a run.
const SETTLE: Duration = Duration::from_secs(120);
const MEGABYTE: f64 = 1e6;

/// How much is done.
pub struct Size {
    /// Vouchers of a round, verified and stored.
    pub vouchers: usize,
    /// Calls through the paywall, each paid and free: one after the other, and many at once.
    pub calls: usize,
    /// Payments of a run as fast as they go.
    pub burst: u64,
    /// Payments of the run at a fixed rate.
    pub paced: u64,
    /// Payments at each distance, as fast as they go.
    pub far: u64,
    /// Payments at each distance, at a fixed rate.
    pub far_paced: u64,
    /// Repetitions, with and without history in turn.
    pub repeats: u32,
    /// Plain transfers of each kind.
    pub transfers: u64,
    /// Policy files.
    pub agents: u32,
    /// Past payments.
    pub history: u64,
}

impl Size {
    pub const FULL: Self = Self {
        vouchers: 100_000,
        calls: 20_000,
        burst: 10_000,
        paced: 15_000,
        far: 5_000,
        far_paced: 2_000,
        repeats: 3,
        transfers: 6_000,
        agents: 10_000,
        history: 1_000_000,
    };
    pub const QUICK: Self = Self {
        vouchers: 40_000,
        calls: 3_000,
        burst: 3_000,
        paced: 4_000,
        far: 1_500,
        far_paced: 500,
        repeats: 1,
        transfers: 1_800,
        agents: 500,
        history: 50_000,
    };
}

/// One load run's figures.
struct Run {
    accepted: Accepted,
    /// From the first request to the last final payment.
    settled_s: f64,
    count: u64,
    used: Used,
}

/// A run on a new daemon and what its store kept of it.
struct Kept {
    run: Run,
    start_s: f64,
    /// Bytes of the database a payment.
    stored: f64,
}

/// What was measured with a node at a distance.
struct Far {
    burst: Run,
    asked: Asked,
    steady: Run,
    steady_asked: Asked,
    journeys: Journeys,
}

/// The worlds that are compared, on one chain.
pub struct Payments {
    agents: Agents,
    ceiling: Ceiling,
    api: std::net::SocketAddr,
    /// The devnet's agents, no past.
    small: World,
    /// The same, its node behind `distance`.
    far: World,
    distance: Distance,
    /// The same as `small` on PostgreSQL.
    served: World,
    /// All agents and the past.
    large: World,
    /// The same on PostgreSQL.
    large_served: World,
    history_s: f64,
    copy_s: f64,
    /// They end with the bench.
    _servers: [Postgres; 2],
}

impl Payments {
    pub async fn prepare(manifest: &Manifest, work: &Path, size: &Size) -> Result<Self> {
        let base = Config::read(&manifest.config)?;
        let world = |name: &str, policies: &str, backing: Backing| {
            let mut config = base.clone();
            config.store = backing.url();
            config.policies = work.join(policies);
            config.audit_anchors = work.join(format!("{name}.anchors"));
            World { config, path: work.join(format!("{name}.toml")), backing }
        };
        let file = |name: &str| Backing::File(work.join(name));
        let servers = [Postgres::start(), Postgres::start()];
        let small = world("small", "small-policies", file("small.db"));
        let mut far = world("far", "small-policies", file("far.db"));
        let served = world("served", "small-policies", Backing::server(&servers[0]));
        let large = world("large", "large-policies", file("large.db"));
        let large_served = world("large-served", "large-policies", Backing::server(&servers[1]));
        let distance = Distance::start(&manifest.rpc).await?;
        far.config.chain.rpc = vec![distance.url()];
        fixture::policies(manifest, &small.config.policies, 0)?;
        let names = fixture::policies(manifest, &large.config.policies, size.agents)?;
        say(&format!("a store with {} past payments of {} agents", size.history, names.len()));
        let history_s =
            fixture::history(&work.join("large.db"), &names, manifest, size.history).await?;
        say("the same on PostgreSQL");
        let copy_s = fixture::copy(&large.config.store, &large_served.config.store, work).await?;
        Ok(Self {
            agents: Agents::new(manifest, SEED),
            ceiling: Ceiling::prepare(manifest).await?,
            api: base.listen,
            small,
            far,
            distance,
            served,
            large,
            large_served,
            history_s,
            copy_s,
            _servers: servers,
        })
    }

    pub async fn run(&mut self, size: &Size, figures: &mut Figures) -> Result<()> {
        let (mut ether, mut usdc) = (Vec::new(), Vec::new());
        let (mut small, mut served, mut large) = (Vec::new(), Vec::new(), Vec::new());
        let (mut memory, mut starts, mut served_starts) = (Vec::new(), Vec::new(), Vec::new());
        let mut far: [Vec<Far>; ROUND_TRIPS.len()] = Default::default();
        let mut paced = None;
        for turn in 1..=size.repeats {
            say(&format!("round {turn} of {}: plain transfers", size.repeats));
            ether.push(self.ceiling.measure(Asset::Ether, size.transfers).await?);
            usdc.push(self.ceiling.measure(Asset::Usdc, size.transfers).await?);

            say(&format!("round {turn}: payments, no past"));
            let in_turn = (turn == 1).then_some(&mut paced);
            small.push(self.kept(|this| &this.small, size, in_turn).await?);
            say(&format!("round {turn}: the same on PostgreSQL"));
            served.push(self.kept(|this| &this.served, size, None).await?);

            say(&format!("round {turn}: payments with a node at a distance"));
            self.far_runs(size, turn, &mut far).await?;

            say(&format!("round {turn}: payments, {} agents and the past", size.agents));
            fixture::caught_up(&self.large.config).await?;
            let daemon = Daemon::start(&self.large).await?;
            starts.push(daemon.start_s);
            let (after_start, _) = daemon.memory()?;
            self.load(&daemon, 300, None).await?;
            large.push(self.load(&daemon, size.burst, None).await?);
            let (after_load, peak) = daemon.memory()?;
            memory.push([after_start as f64, after_load as f64, peak as f64].map(|b| b / MEGABYTE));
            daemon.stop()?;

            say(&format!("round {turn}: start on PostgreSQL, the same agents and past"));
            fixture::caught_up(&self.large_served.config).await?;
            let daemon = Daemon::start(&self.large_served).await?;
            served_starts.push(daemon.start_s);
            daemon.stop()?;
        }
        let paced = paced.context("no round was run")?;
        let near: Vec<&Run> = small.iter().map(|kept| &kept.run).collect();
        let large: Vec<&Run> = large.iter().collect();
        Self::report(figures, size, &paced, &near, &large, [&ether, &usdc], &memory, &starts);
        report_far(figures, &far);
        let stores = [(small.as_slice(), starts), (served.as_slice(), served_starts)];
        report_stores(figures, size, stores);
        figures.json.insert("history_made_s".into(), json!(rounded(self.history_s)));
        figures.json.insert("history_copied_s".into(), json!(rounded(self.copy_s)));
        Ok(())
    }

    /// A run as fast as payments go on a new daemon, after one at a fixed rate if that is asked for.
    async fn kept(
        &mut self,
        world: impl Fn(&Self) -> &World,
        size: &Size,
        paced: Option<&mut Option<Run>>,
    ) -> Result<Kept> {
        fixture::caught_up(&world(self).config).await?;
        let (made, stored) = (self.agents.made(), world(self).backing.stored().await?);
        let daemon = Daemon::start(world(self)).await?;
        let start_s = daemon.start_s;
        self.load(&daemon, 300, None).await?;
        if let Some(paced) = paced {
            *paced = Some(self.load(&daemon, size.paced, Some(PACE)).await?);
        }
        let run = self.load(&daemon, size.burst, None).await?;
        // Ended, the daemon has brought its log into the database.
        daemon.stop()?;
        let stored = world(self).backing.stored().await?.saturating_sub(stored);
        let stored = stored as f64 / (self.agents.made() - made) as f64;
        Ok(Kept { run, start_s, stored })
    }

    /// The same daemon with its node at every distance in turn, beginning with another in each
    /// round.
    async fn far_runs(&mut self, size: &Size, turn: u32, far: &mut [Vec<Far>]) -> Result<()> {
        self.distance.set(Duration::ZERO);
        fixture::caught_up(&self.far.config).await?;
        let daemon = Daemon::start(&self.far).await?;
        // Not measured: the first of three would else be the one on a cold daemon.
        self.load(&daemon, size.far, None).await?;
        let turn = usize::try_from(turn)?;
        for place in (0..ROUND_TRIPS.len()).map(|i| (i + turn - 1) % ROUND_TRIPS.len()) {
            self.distance.set(Duration::from_millis(ROUND_TRIPS[place].0));
            let before = self.distance.asked();
            let burst = self.load(&daemon, size.far, None).await?;
            let between = self.distance.asked();
            let since_ms = Timestamp::now().as_millisecond();
            let steady = self.load(&daemon, size.far_paced, Some(FAR_PACE)).await?;
            far[place].push(Far {
                burst,
                asked: between.since(before),
                steady,
                steady_asked: self.distance.asked().since(between),
                journeys: self.distance.journeys(&self.far.backing, since_ms).await?,
            });
        }
        daemon.stop()
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
        figures: &mut Figures,
        size: &Size,
        paced: &Run,
        small: &[&Run],
        large: &[&Run],
        [ether, usdc]: [&[f64]; 2],
        memory: &[[f64; 3]],
        starts: &[f64],
    ) {
        let over = |runs: &[&Run], figure: &dyn Fn(&Run) -> f64| {
            Series::new(runs.iter().map(|run| figure(run)).collect())
        };
        let per_payment = |runs: &[&Run], figure: &dyn Fn(&Used) -> f64| {
            over(runs, &|run| figure(&run.used) / run.count as f64)
        };
        let at_pace = &[paced];
        let p50 = |run: &Run| run.accepted.quantile_ms(500);
        let p99 = |run: &Run| run.accepted.quantile_ms(990);
        let accepts = |run: &Run| run.accepted.per_second();
        let confirmed = |run: &Run| run.count as f64 / run.settled_s;
        let confirmed_small = over(small, &confirmed);
        let (ether, usdc) = (Series::new(ether.to_vec()), Series::new(usdc.to_vec()));
        let column = |index: usize| Series::new(memory.iter().map(|row| row[index]).collect());
        let cpu = |used: &Used| used.cpu_s * 1e6;
        let (cpu_small, cpu_large) = (per_payment(small, &cpu), per_payment(large, &cpu));

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
    }
}

/// One row of figures side by side.
type Row = (&'static str, &'static str, Vec<Series>);

fn report_far(figures: &mut Figures, far: &[Vec<Far>]) {
    let row = |name, unit, figure: &dyn Fn(&Far) -> f64| -> Row {
        let series = |runs: &Vec<Far>| Series::new(runs.iter().map(figure).collect());
        (name, unit, far.iter().map(series).collect())
    };
    let a_payment = |figure: f64, run: &Run| figure / run.count as f64;
    figures.beside(
        "A node at a distance: round trip added by a proxy, same daemon, SQLite",
        &ROUND_TRIPS.map(|(_, name)| name),
        vec![
            row("flat out: accepted", "1/s", &|far| far.burst.accepted.per_second()),
            row("flat out: accept p50", "ms", &|far| far.burst.accepted.quantile_ms(500)),
            row("flat out: accept p99", "ms", &|far| far.burst.accepted.quantile_ms(990)),
            row("flat out: confirmed", "1/s", &|far| far.burst.count as f64 / far.burst.settled_s),
            row("at 200/s: accept p50", "ms", &|far| far.steady.accepted.quantile_ms(500)),
            row("at 200/s: accept p99", "ms", &|far| far.steady.accepted.quantile_ms(990)),
            row("at 200/s: accepted to sent, p50", "ms", &|f| quantile(&f.journeys.to_sent, 500)),
            row("at 200/s: accepted to sent, p99", "ms", &|f| quantile(&f.journeys.to_sent, 990)),
            row("at 200/s: accepted to final, p50", "ms", &|f| quantile(&f.journeys.to_final, 500)),
            row("at 200/s: accepted to final, p99", "ms", &|f| quantile(&f.journeys.to_final, 990)),
            row("flat out: RPC calls a payment", "", &|far| {
                a_payment(far.asked.calls as f64, &far.burst)
            }),
            row("flat out: HTTP requests to the node a payment", "", &|far| {
                a_payment(far.asked.requests as f64, &far.burst)
            }),
            row("at 200/s: RPC calls a payment", "", &|far| {
                a_payment(far.steady_asked.calls as f64, &far.steady)
            }),
            row("flat out: processor time a payment", "µs", &|far| {
                a_payment(far.burst.used.cpu_s * 1e6, &far.burst)
            }),
            row("at 200/s: processor time a payment", "µs", &|far| {
                a_payment(far.steady.used.cpu_s * 1e6, &far.steady)
            }),
            row("flat out: bytes written a payment", "", &|far| {
                a_payment(far.burst.used.written as f64, &far.burst)
            }),
        ],
    );
}

/// For each store its runs without a past, and its starts with one.
fn report_stores(figures: &mut Figures, size: &Size, stores: [(&[Kept], Vec<f64>); 2]) {
    let row = |name, unit, figure: &dyn Fn(&Kept) -> f64| -> Row {
        let series = |(runs, _): &(&[Kept], _)| Series::new(runs.iter().map(figure).collect());
        (name, unit, stores.iter().map(series).collect())
    };
    let a_payment = |run: &Run, figure: f64| figure / run.count as f64;
    let rows = vec![
        row("accepted", "1/s", &|kept| kept.run.accepted.per_second()),
        row("accept p50", "ms", &|kept| kept.run.accepted.quantile_ms(500)),
        row("accept p99", "ms", &|kept| kept.run.accepted.quantile_ms(990)),
        row("confirmed", "1/s", &|kept| kept.run.count as f64 / kept.run.settled_s),
        row("RPC calls a payment", "", &|k| a_payment(&k.run, k.run.used.rpc_calls as f64)),
        row("processor time a payment: daemon", "µs", &|kept| {
            a_payment(&kept.run, kept.run.used.cpu_s * 1e6)
        }),
        row("processor time a payment: with the store's server", "µs", &|kept| {
            a_payment(&kept.run, (kept.run.used.cpu_s + kept.run.used.store_cpu_s) * 1e6)
        }),
        row("bytes written to disk a payment", "", &|kept| {
            a_payment(&kept.run, kept.run.used.written as f64)
        }),
        row("bytes kept in the store a payment", "", &|kept| kept.stored),
        row("start to ready, no past", "s", &|kept| kept.start_s),
        (
            "start to ready, with the past",
            "s",
            stores.iter().map(|(_, starts)| Series::new(starts.clone())).collect(),
        ),
    ];
    let title = format!(
        "SQLite and PostgreSQL, as fast as payments go; the past: {} agents, {} payments",
        size.agents, size.history
    );
    figures.beside(&title, &["SQLite", "PostgreSQL"], rows);
}
