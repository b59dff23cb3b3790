//! Doctor: looks at everything a daemon stands on, with the daemon or without it, and says what to
//! do. It changes nothing.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::Duration,
};

use alloy::sol_types::SolCall as _;
use serde::Serialize;
use serde_json::json;

use crate::{
    alert::watch,
    clock::Clock,
    config::Config,
    contract::{self, IDeployed, IQuorum, hub::HUB},
    keys::{KeyError, Keys},
    lease,
    notify::Endpoint,
    policy::{Categories, Policy},
    rpc::{At, Head, Rpc},
    store::Store,
    view::LeaseView,
};

/// Free bytes below which a disk is too full …
const FULL: u64 = 100_000_000;
/// … and soon will be.
const NEARLY_FULL: u64 = 1_000_000_000;
/// Seconds this host's clock may be off before signatures are refused now and then …
const SKEW_WARN_S: u64 = 2;
/// … and before they mostly are.
const SKEW_FAIL_S: u64 = 30;
/// Blocks one node may be behind another.
const BEHIND: u64 = 3;
/// Longest wait for the daemon itself.
const LOCAL: Duration = Duration::from_secs(3);

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and somebody should look.
    Warn,
    /// It does not work.
    Fail,
}

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What was looked at.
    pub check: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What was seen.
    pub found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub todo: Option<String>,
}

/// The checks so far.
#[derive(Debug, Default)]
struct Chart(Vec<Check>);

impl Chart {
    fn ok(&mut self, check: &'static str, found: impl Into<String>) {
        self.0.push(Check { check, verdict: Verdict::Ok, found: found.into(), todo: None });
    }

    fn add(&mut self, check: &'static str, verdict: Verdict, found: impl Into<String>, todo: &str) {
        let todo = Some(todo.to_owned());
        self.0.push(Check { check, verdict, found: found.into(), todo });
    }

    fn warn(&mut self, check: &'static str, found: impl Into<String>, todo: &str) {
        self.add(check, Verdict::Warn, found, todo);
    }

    fn fail(&mut self, check: &'static str, found: impl Into<String>, todo: &str) {
        self.add(check, Verdict::Fail, found, todo);
    }
}

/// Examines everything. `keys` is what came of unlocking the seed; `None` if nobody could be asked
/// for its passphrase.
pub async fn examine(config: &Config, keys: Option<Result<Keys, KeyError>>) -> Vec<Check> {
    let mut chart = Chart::default();
    store(config, &mut chart).await;
    space(config, &mut chart);
    let keys = seed(config, keys, &mut chart);
    policies(config, keys.as_ref(), &mut chart);
    if let Some((rpc, head)) = nodes(config, &mut chart).await {
        contracts(config, &rpc, &mut chart).await;
        gas(config, &rpc, &head, keys.as_ref(), &mut chart).await;
        facilitator(config, &rpc, &mut chart).await;
    }
    webhooks(config, &mut chart).await;
    daemon(config, &mut chart).await;
    chart.0
}

/// The file of a SQLite store.
fn store_file(config: &Config) -> Option<PathBuf> {
    let file = config.store.strip_prefix("sqlite:")?;
    let file = file.split('?').next().unwrap_or(file);
    (!file.is_empty() && !file.starts_with(':')).then(|| PathBuf::from(file))
}

async fn store(config: &Config, chart: &mut Chart) {
    const CHECK: &str = "store";
    if let Some(file) = store_file(config)
        && !file.exists()
    {
        let found = format!("{} is not there", file.display());
        return chart.warn(CHECK, found, "`bursar serve` makes it at its first start");
    }
    let store = match Store::open(&config.store).await {
        Ok(store) => store,
        Err(error) => {
            let todo = "check `store` in the configuration, and that the database runs";
            return chart.fail(CHECK, error.to_string(), todo);
        }
    };
    let kind = if store.is_sqlite() { "SQLite" } else { "PostgreSQL" };
    match store.size().await {
        Ok(bytes) => chart.ok(CHECK, format!("{kind}, {} KB, schema fits", bytes.div_ceil(1_000))),
        Err(error) => chart.fail(CHECK, error.to_string(), "look at the database's own log"),
    }
    match store.damage().await {
        Ok(None) => {}
        Ok(Some(found)) => {
            chart.fail(CHECK, format!("damaged: {found}"), "stop the daemon, restore a backup");
        }
        Err(error) => chart.fail(CHECK, error.to_string(), "stop the daemon, restore a backup"),
    }
    match store.try_write().await {
        Ok(()) => chart.ok(CHECK, "can be written"),
        Err(error) => {
            let todo = "check the disk, and who owns the file; nothing is accepted meanwhile";
            chart.fail(CHECK, format!("cannot be written: {error}"), todo);
        }
    }
    if let Ok(leases) = lease::shown(&store).await
        && !leases.is_empty()
    {
        chart.ok("leases", who_does_what(&leases));
    }
    store.close().await;
}

/// Says which daemon has which lease.
fn who_does_what(leases: &[LeaseView]) -> String {
    let mut daemons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for LeaseView { lease, daemon, .. } in leases {
        let works = daemons.entry(daemon).or_default();
        if !lease.starts_with(lease::DAEMON) {
            works.push(lease);
        }
    }
    let texts = daemons.iter().map(|(daemon, works)| {
        let daemon = if daemon.is_empty() { "nobody" } else { daemon };
        let works = if works.is_empty() { "none".to_owned() } else { works.join(", ") };
        format!("{daemon} has {works}")
    });
    texts.collect::<Vec<_>>().join("; ")
}

fn space(config: &Config, chart: &mut Chart) {
    const CHECK: &str = "disk";
    let file = store_file(config).unwrap_or_else(|| config.audit_anchors.clone());
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match rustix::fs::statvfs(folder) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            let text = format!("{} MB free in {}", free / 1_000_000, folder.display());
            let todo = "make room: a full disk stops every payment (`bursar store prune` helps)";
            match free {
                0..FULL => chart.fail(CHECK, text, todo),
                FULL..NEARLY_FULL => chart.warn(CHECK, text, todo),
                _ => chart.ok(CHECK, text),
            }
        }
        Err(error) => {
            let found = format!("{}: {error}", folder.display());
            chart.fail(CHECK, found, "make the folder, or correct the configuration");
        }
    }
}

fn seed(config: &Config, keys: Option<Result<Keys, KeyError>>, chart: &mut Chart) -> Option<Keys> {
    const CHECK: &str = "seed";
    match keys {
        Some(Ok(keys)) => {
            chart.ok(CHECK, format!("{} opens", config.seed.display()));
            Some(keys)
        }
        Some(Err(error)) => {
            let todo =
                "correct `seed` or `passphrase_file`; `bursar init` makes or restores a seed";
            chart.fail(CHECK, error.to_string(), todo);
            None
        }
        None if config.seed.is_file() => {
            let todo = "name --passphrase-file, and the keys are examined too";
            chart.warn(CHECK, format!("{} was not opened", config.seed.display()), todo);
            None
        }
        None => {
            let found = format!("{} is not there", config.seed.display());
            chart.fail(CHECK, found, "`bursar init` makes one, or restores it from its words");
            None
        }
    }
}

fn policies(config: &Config, keys: Option<&Keys>, chart: &mut Chart) {
    const CHECK: &str = "policies";
    let todo = "`bursar policy check FILE` says more";
    let categories = match Categories::new(config.categories.clone()) {
        Ok(categories) => categories,
        Err(error) => return chart.fail(CHECK, error.to_string(), "correct `categories`"),
    };
    let files = match fs::read_dir(&config.policies) {
        Ok(files) => files.filter_map(|entry| Some(entry.ok()?.path())),
        Err(error) => {
            let found = format!("{}: {error}", config.policies.display());
            return chart.fail(CHECK, found, "correct `policies` in the configuration");
        }
    };
    let mut agents = 0;
    for file in files.filter(|file| file.extension().is_some_and(|end| end == "toml")) {
        let shown = file.display();
        let read = fs::read_to_string(&file).map_err(|error| error.to_string()).and_then(|text| {
            let policy = Policy::parse(&text, &categories).map_err(|error| error.to_string())?;
            let derived = keys.map(|keys| keys.agent_address(policy.key_index)).transpose();
            derived.map(|_| policy).map_err(|error| error.to_string())
        });
        match read {
            Ok(policy) if policy.expires_s <= Clock::system().now_s() => {
                let found = format!("agent {}'s authority has ended", policy.agent);
                chart.warn(CHECK, found, "renew `expires` there and on chain, or remove the file");
                agents += 1;
            }
            Ok(_) => agents += 1,
            Err(error) => chart.fail(CHECK, format!("{shown}: {error}"), todo),
        }
    }
    match agents {
        0 => chart.warn(CHECK, "no policy file can be used: nobody can pay", todo),
        agents => chart.ok(CHECK, format!("{agents} agents")),
    }
}

/// A node as it is shown: its URL may hold a key.
fn shown(url: &str) -> String {
    let parsed: Option<reqwest::Url> = url.parse().ok();
    let host = parsed.and_then(|url| {
        let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
        Some(format!("{}{port}", url.host_str()?))
    });
    host.unwrap_or_else(|| "(no URL)".to_owned())
}

/// Asks each node by itself. Returns the way to the first that can be used, and the newest head.
async fn nodes(config: &Config, chart: &mut Chart) -> Option<(Rpc, Head)> {
    const CHECK: &str = "node";
    let chain = &config.chain;
    let mut found: Vec<(String, Rpc, Head)> = Vec::new();
    for url in &chain.rpc {
        let name = shown(url);
        let seen = match Rpc::new(vec![url.clone()], chain.chain_id, config.rpc_timeout()) {
            Ok(rpc) => rpc.latest().await.map(|head| (rpc, head)),
            Err(error) => Err(error),
        };
        match seen {
            Ok((rpc, head)) => {
                skew(url, &name, chart).await;
                let client = rpc.call::<String>("web3_clientVersion", json!([])).await;
                let client = client.unwrap_or_else(|_| "a client that gives no name".to_owned());
                chart.ok(CHECK, format!("{name}: {client}, chain {}", chain.chain_id));
                found.push((name, rpc, head));
            }
            Err(error) => {
                let others = chain.rpc.len() > 1;
                let verdict = if others { Verdict::Warn } else { Verdict::Fail };
                let todo = "check chain.rpc and chain.chain_id, and that the node is up";
                chart.add(CHECK, verdict, format!("{name}: {error}"), todo);
            }
        }
    }
    let newest = found.iter().map(|(_, _, head)| head.height()).max();
    let Some(newest) = newest else {
        let todo = "without a node nothing can be paid: payments are accepted and wait";
        chart.fail(CHECK, "no node can be used", todo);
        return None;
    };
    for (name, _, head) in &found {
        if head.height() + BEHIND < newest {
            let behind = newest - head.height();
            let todo = "take it out of chain.rpc until it has caught up";
            chart.warn(CHECK, format!("{name} is {behind} blocks behind"), todo);
        }
    }
    let at = found.iter().position(|(_, _, head)| head.height() == newest)?;
    let (_, rpc, head) = found.swap_remove(at);
    age(config, &head, chart);
    Some((rpc, head))
}

/// How old the newest block is, by this host's clock.
fn age(config: &Config, head: &Head, chart: &mut Chart) {
    const CHECK: &str = "head";
    let (now_s, head_s) = (Clock::system().now_s(), head.time_s());
    let text = format!("block {}", head.height());
    let ahead_s = head_s.saturating_sub(now_s);
    let lag_s = now_s.saturating_sub(head_s);
    if ahead_s > config.chain.clock_drift_s {
        let found = format!("{text} is {ahead_s} s ahead of this host's clock");
        chart.fail(CHECK, found, "set this host's clock (NTP); its signatures expire at once");
    } else if lag_s >= config.alerts.rpc_lag_s {
        let todo = "is the chain standing still, or the node behind? (a devnet that mines on demand \
                    is like that)";
        chart.warn(CHECK, format!("{text} is {lag_s} s old"), todo);
    } else {
        chart.ok(CHECK, format!("{text}, {lag_s} s old"));
    }
}

/// Compares this host's clock with the node's, where it tells the time of its answer.
async fn skew(url: &str, name: &str, chart: &mut Chart) {
    const CHECK: &str = "clock";
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": [] });
    let asked = reqwest::Client::new().post(url).timeout(LOCAL).json(&call).send().await;
    let Ok(answer) = asked else { return };
    let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
    let Some(theirs) = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok()) else { return };
    let off_s = Clock::system().now_ms().div_euclid(1_000) - theirs.timestamp().as_second();
    let text = format!("{off_s} s from {name}'s");
    let todo = "set this host's clock (NTP): deadlines and signed requests go by it";
    match off_s.unsigned_abs() {
        0..=SKEW_WARN_S => chart.ok(CHECK, text),
        off if off < SKEW_FAIL_S => chart.warn(CHECK, text, todo),
        _ => chart.fail(CHECK, text, todo),
    }
}

async fn contracts(config: &Config, rpc: &Rpc, chart: &mut Chart) {
    const CHECK: &str = "wallet";
    let (wallet, usdc) = (config.chain.wallet, config.chain.usdc);
    match rpc.code(wallet).await {
        Ok(code) if code.is_empty() => {
            let found = format!("there is no contract at {wallet}");
            let todo = "correct chain.wallet, or deploy it; was the devnet started anew?";
            return chart.fail(CHECK, found, todo);
        }
        Ok(code) if contract::is_policy_wallet(&code) => {
            chart.ok(CHECK, format!("{wallet} runs this version's PolicyWallet"));
        }
        Ok(_) => {
            let found = format!("{wallet} runs other code than this version's PolicyWallet");
            let todo = "use the bursar it was deployed with, or check chain.wallet: do not pay from \
                        a contract you do not know";
            chart.fail(CHECK, found, todo);
        }
        Err(error) => return chart.fail(CHECK, error.to_string(), "check chain.rpc"),
    }
    let todo = "correct chain.usdc";
    let call = IDeployed::USDCCall {}.abi_encode().into();
    match rpc.eth_call(wallet, None, &call, At::Latest).await {
        Ok(answer) => match IDeployed::USDCCall::abi_decode_returns_validate(&answer) {
            Ok(token) if token == usdc => chart.ok(CHECK, format!("its USDC is {usdc}")),
            Ok(token) => {
                chart.fail(CHECK, format!("its USDC is {token}, not chain.usdc {usdc}"), todo);
            }
            Err(error) => chart.fail(CHECK, error.to_string(), todo),
        },
        Err(error) => chart.fail(CHECK, error.to_string(), todo),
    }
    let ask = async |call: Vec<u8>| rpc.eth_call(wallet, None, &call.into(), At::Latest).await.ok();
    let threshold = ask(IQuorum::thresholdCall {}.abi_encode()).await;
    let count = ask(IQuorum::getSignerCountCall {}.abi_encode()).await;
    let threshold = threshold.and_then(|a| IQuorum::thresholdCall::abi_decode_returns(&a).ok());
    let count = count.and_then(|a| IQuorum::getSignerCountCall::abi_decode_returns(&a).ok());
    if let (Some(threshold), Some(count)) = (threshold, count) {
        let text = format!("{threshold} of {count} operators are a quorum");
        if threshold == 1 || count == alloy::primitives::U256::from(threshold) {
            let todo = "one stolen key, or one lost key, decides: have more operators than a quorum \
                        needs, and two in a quorum";
            chart.warn(CHECK, text, todo);
        } else {
            chart.ok(CHECK, text);
        }
    }
}

async fn gas(config: &Config, rpc: &Rpc, head: &Head, keys: Option<&Keys>, chart: &mut Chart) {
    const CHECK: &str = "gas";
    let Some(keys) = keys else { return };
    let relayers = (0..config.submit.relayers).map(|j| keys.relayer(j).map(|key| key.address()));
    let Ok(relayers) = relayers.collect::<Result<Vec<_>, KeyError>>() else { return };
    let balances = match rpc.balances(&relayers).await {
        Ok(balances) => balances,
        Err(error) => return chart.fail(CHECK, error.to_string(), "check chain.rpc"),
    };
    let limit = config.alerts.gas_batches;
    let mut least = u64::MAX;
    for (relayer, balance) in relayers.iter().zip(balances) {
        let wei = u128::try_from(balance).unwrap_or(u128::MAX);
        let batches = watch::batches_paid(wei, head.base_fee(), &config.submit);
        least = least.min(batches);
        let text = format!("relayer {relayer} can pay {batches} full batches");
        let todo = "send it ether: it pays for gas and nothing else";
        match batches {
            0 => chart.fail(CHECK, text, todo),
            few if few < limit => chart.warn(CHECK, text, todo),
            _ => {}
        }
    }
    if least >= limit {
        let count = relayers.len();
        let least = if least > 1_000_000 { "over a million".to_owned() } else { least.to_string() };
        chart.ok(CHECK, format!("{count} relayers, each good for {least} full batches or more"));
    }
}

/// The gas that it spends is the relayers', whom the check `gas` looks at.
async fn facilitator(config: &Config, rpc: &Rpc, chart: &mut Chart) {
    const CHECK: &str = "facilitator";
    let settings = &config.facilitator;
    let schemes = match rpc.code(HUB).await {
        Ok(code) if code.is_empty() => format!(
            "settles exact; batch-settlement is refused and not offered: no ChannelHub at {HUB}"
        ),
        Ok(_) => "settles exact and batch-settlement".to_owned(),
        Err(error) => return chart.fail(CHECK, error.to_string(), "check chain.rpc"),
    };
    if !settings.enabled {
        chart.ok(CHECK, format!("{schemes}, for our own sales only"));
    } else if settings.payees.is_empty() && !config.listen.ip().is_loopback() {
        let found = format!("{schemes}, for whoever reaches it, from the relayers' gas money");
        let todo = "name who may be paid in facilitator.payees, or keep strangers away";
        chart.warn(CHECK, found, todo);
    } else {
        let whom = match settings.payees.len() {
            0 => "anybody on this host".to_owned(),
            payees => format!("{payees} payees"),
        };
        chart.ok(CHECK, format!("{schemes}, for {whom}"));
    }
}

async fn webhooks(config: &Config, chart: &mut Chart) {
    const CHECK: &str = "webhooks";
    let timeout = Duration::from_secs(config.webhooks.timeout_s);
    for named in &config.webhooks.endpoints {
        let endpoint = match Endpoint::new(named, timeout) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                let todo = "correct [[webhooks.endpoints]]; the daemon does not start so";
                chart.fail(CHECK, error.to_string(), todo);
                continue;
            }
        };
        match endpoint.resolve().await {
            Ok(()) => chart.ok(CHECK, format!("{} can be addressed and signed for", named.name)),
            Err(error) => {
                let todo = "correct its url or `networks`; `bursar webhooks test` tries it out";
                chart.warn(CHECK, format!("{}: {error}", named.name), todo);
            }
        }
    }
    if config.webhooks.endpoints.is_empty() {
        chart.ok(CHECK, "none: nobody is told of payments and alerts");
    }
}

async fn daemon(config: &Config, chart: &mut Chart) {
    const CHECK: &str = "daemon";
    let mut listen = config.listen;
    match listen.ip() {
        IpAddr::V4(any) if any.is_unspecified() => listen.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(any) if any.is_unspecified() => listen.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let http = reqwest::Client::builder().no_proxy().timeout(LOCAL).build();
    let Ok(http) = http else { return };
    match http.get(format!("http://{listen}/readyz")).send().await {
        Ok(answer) if answer.status().is_success() => {
            chart.ok(CHECK, format!("runs at {listen} and is ready"));
        }
        Ok(answer) => {
            let problem: serde_json::Value = answer.json().await.unwrap_or_default();
            let why = problem.get("detail").and_then(|why| why.as_str()).unwrap_or("it says no");
            let todo = "look at its log and at what failed above";
            chart.fail(CHECK, format!("runs at {listen} and is not ready: {why}"), todo);
        }
        Err(_) => {
            let todo = "`bursar serve` starts it, once nothing above fails";
            chart.warn(CHECK, format!("none answers at {listen}"), todo);
        }
    }
}
