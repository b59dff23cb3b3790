//! `bursar devnet`: a chain, a wallet and everyone around it, until Ctrl-C.

use std::{path::PathBuf, str::FromStr, time::Duration};

use clap::Args as ClapArgs;
use tokio::signal::unix::{SignalKind, signal};

use super::{CliError, Kind, table::table};
use crate::{
    devnet::{BlockTime, Devnet, DevnetError, Manifest, Options, ProfileName},
    money::Usdc,
};

/// Where the daemon's clients look for it.
const DEFAULT_API: &str = "http://127.0.0.1:8402";
/// Looks this often whether the chain still runs.
const WATCH: Duration = Duration::from_millis(500);

/// What `bursar devnet` takes.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Which chain to play.
    #[arg(long, value_enum, default_value_t)]
    profile: ProfileName,
    /// JSON-RPC port on 127.0.0.1; 0 takes a free one.
    #[arg(long, default_value_t = 8545)]
    port: u16,
    /// Port of the daemon, for its configuration file.
    #[arg(long, default_value_t = 8402)]
    daemon_port: u16,
    /// Where keys, policies and the configuration go.
    #[arg(long, default_value = ".devnet", value_name = "PATH")]
    dir: PathBuf,
    /// Milliseconds between blocks (10 to 60000), or `automine`: one block for each transaction.
    #[arg(long, value_name = "MS|automine")]
    block_time: Option<BlockTime>,
    /// Remove the files of an earlier devnet in that directory first.
    #[arg(long)]
    fresh: bool,
}

impl FromStr for BlockTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "automine" {
            return Ok(Self::Automine);
        }
        match text.parse() {
            Ok(ms @ 10..=60_000) => Ok(Self::Every(ms)),
            _ => Err("write milliseconds from 10 to 60000, or automine".to_owned()),
        }
    }
}

/// Starts it, shows it, waits for the end.
///
/// # Errors
/// It cannot start, or its chain ends by itself.
pub fn run(args: Args) -> Result<(), CliError> {
    let options = Options {
        profile: args.profile,
        port: args.port,
        dir: args.dir,
        block_time: args.block_time,
        fresh: args.fresh,
        daemon_port: args.daemon_port,
    };
    let runtime = tokio::runtime::Runtime::new().map_err(|e| CliError::new(Kind::Refused, e))?;
    runtime.block_on(serve(options))
}

async fn serve(options: Options) -> Result<(), CliError> {
    let signals = |kind| signal(kind).map_err(|e| CliError::new(Kind::Refused, e));
    let mut interrupt = signals(SignalKind::interrupt())?;
    let mut terminate = signals(SignalKind::terminate())?;
    let mut hangup = signals(SignalKind::hangup())?;
    let stopped = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    };
    tokio::pin!(stopped);
    // A signal during the start drops it, and with it whatever it started.
    let mut devnet = tokio::select! {
        () = &mut stopped => return Ok(()),
        started = Devnet::start(options) => started?,
    };
    print!("{}", page(devnet.manifest()));
    let mut tick = tokio::time::interval(WATCH);
    loop {
        tokio::select! {
            () = &mut stopped => break,
            _ = tick.tick() => {
                if devnet.has_ended() {
                    let log = devnet.manifest().dir.join("anvil.log");
                    return Err(CliError::new(Kind::Unreachable, "anvil has ended by itself")
                        .hint(format!("its output is in {}", log.display())));
                }
            }
        }
    }
    let dir = devnet.manifest().dir.clone();
    drop(devnet);
    println!(
        "Stopped. The files stay in {}; --fresh removes them at the next start.",
        dir.display()
    );
    Ok(())
}

impl From<DevnetError> for CliError {
    fn from(error: DevnetError) -> Self {
        let kind = match &error {
            DevnetError::PortInUse { .. }
            | DevnetError::Port { .. }
            | DevnetError::AnvilMissing
            | DevnetError::AnvilVersion { .. }
            | DevnetError::AnvilFailed { .. }
            | DevnetError::Io { .. } => Kind::Unreachable,
            DevnetError::NotOurs { .. } => Kind::Usage,
            DevnetError::Stale { .. }
            | DevnetError::Running { .. }
            | DevnetError::Description { .. }
            | DevnetError::Chain { .. }
            | DevnetError::Key(_) => Kind::Refused,
        };
        let shown = Self::new(kind, &error);
        match error.hint() {
            Some(hint) => shown.hint(hint),
            None => shown,
        }
    }
}

/// The page a person reads after the start.
fn page(devnet: &Manifest) -> String {
    let limit = |amount: Option<Usdc>| amount.map_or_else(|| "–".to_owned(), |a| a.to_string());
    let mut agents = table(&["agent", "address", "ceiling", "24 h", "30 d", "life", "pays"]);
    for (name, agent) in &devnet.agents {
        agents.add_row([
            name.to_string(),
            agent.address.to_string(),
            agent.ceiling.to_string(),
            agent.day.to_string(),
            limit(agent.month),
            limit(agent.lifetime),
            agent.categories.join(", "),
        ]);
    }
    let mut operators = table(&["operator", "address", "keystore"]);
    for operator in &devnet.operators {
        let file = operator.keystore.display().to_string();
        operators.add_row([operator.name.to_string(), operator.address.to_string(), file]);
    }
    let mut payees = table(&["payee", "address", "categories", "limits"]);
    for (label, payee) in &devnet.payees {
        let cap = payee.cap.map(|cap| format!("{cap} in all"));
        let pause =
            (payee.cooldown_s > 0).then(|| format!("once in {} h", payee.cooldown_s / 3600));
        let limits: Vec<String> = cap.into_iter().chain(pause).collect();
        payees.add_row([
            label.clone(),
            payee.address.to_string(),
            payee.categories.join(", "),
            limits.join(", "),
        ]);
    }
    let mut rest = table(&["what", "where", "balance or limit"]);
    let wallet = format!("{} USDC, {} in any 24 h", devnet.wallet_usdc, devnet.wallet_cap);
    let quorum = format!("{} of {} operators", devnet.threshold, devnet.operators.len());
    rest.add_row(["PolicyWallet", &devnet.wallet.to_string(), &wallet]);
    rest.add_row(["its quorum", &quorum, &format!("a loosening waits {} s", devnet.delay_s)]);
    rest.add_row(["WorkEscrow", &devnet.escrow.to_string(), "holds what waits for work"]);
    rest.add_row(["USDC", &devnet.usdc.to_string(), "minted by anvil's account 0"]);
    for (j, relayer) in devnet.relayers.iter().enumerate() {
        let ether = format!("{} ETH", devnet.relayer_eth);
        rest.add_row([&format!("relayer {j}"), &relayer.to_string(), &ether]);
    }
    rest.add_row(["JSON-RPC", &devnet.rpc, &format!("chain id {}", devnet.chain_id)]);
    rest.add_row(["daemon's API", &devnet.api, "once it runs"]);
    format!(
        "{agents}\n\n{operators}\n\n{payees}\n\n{rest}\n\n\
         Profile {}. All files, keys and passphrases: {}\n\
         Every key here is public. Never send real money to these addresses.\n\n\
         Next, in another terminal:\n{}\nCtrl-C ends the chain.\n",
        devnet.profile,
        devnet.dir.display(),
        next_steps(devnet),
    )
}

/// Commands that work as they stand.
fn next_steps(devnet: &Manifest) -> String {
    let mut lines = vec![format!("bursar serve --config {}", devnet.config.display())];
    if devnet.api != DEFAULT_API {
        lines.push(format!("export BURSAR_URL={}", devnet.api));
    }
    let payee = devnet.payees.keys().next();
    if let (Some(agent), Some(payee)) = (devnet.agents.values().next(), payee) {
        let key = agent.request_key.display();
        lines.push(format!("export BURSAR_AGENT_KEY={key}"));
        lines.push(format!("bursar pay {payee} 1.25 --reason \"weather data\" --wait"));
        lines
            .push(format!("bursar pay {payee} 400 --reason \"a year of it\"   # operators decide"));
    }
    if let Some(operator) = devnet.operators.first() {
        let (keystore, file) = (operator.keystore.display(), operator.passphrase_file.display());
        lines.push(format!("bursar approvals --keystore {keystore} --passphrase-file {file}"));
    }
    lines.iter().map(|line| format!("  {line}\n")).collect()
}
