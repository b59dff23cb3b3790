//! `bursar serve`: the daemon.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};
use url::Url;

use super::{CliError, Kind};
use crate::{
    clock::Clock,
    config::{Config, ConfigError},
    keys::{Keys, PassphraseArgs},
    rpc::RpcError,
    seller::{PriceError, PriceList},
    service::{Ended, Service, StartError},
    store::StoreError,
};

/// Run the daemon: take agents' requests, decide, sign, submit, keep the books.
///
/// It reads one configuration file (`bursar devnet` writes one to start from), unlocks the seed,
/// checks chain and contract, takes up what a former run left, and listens. SIGTERM or Ctrl-C
/// ends it; nothing in flight is lost, not even by SIGKILL. Exit code 5: a task failed or hung
/// (`hung_after_s`), and the daemon ended rather than limp; let your supervisor start it again.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n  \
    bursar serve --config .devnet/bursar.toml\n  \
    bursar serve --paywall prices.toml --upstream http://127.0.0.1:9000\n  \
    bursar serve --config /etc/bursar.toml --passphrase-fd 3 3< <(pass show bursar)")]
pub struct Args {
    /// The configuration file.
    #[arg(long, env = "BURSAR_CONFIG", default_value = "bursar.toml")]
    config: PathBuf,
    /// Write the log as JSON lines.
    #[arg(long)]
    log_json: bool,
    /// Sell, too: a price list. What no route of it names is refused.
    #[arg(long, value_name = "FILE", env = "BURSAR_PAYWALL", requires = "upstream")]
    paywall: Option<PathBuf>,
    /// What is sold: requests that were paid for are passed on to this URL.
    #[arg(long, value_name = "URL", env = "BURSAR_UPSTREAM", requires = "paywall")]
    upstream: Option<Url>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

/// Runs the command.
///
/// # Errors
/// Configuration, seed, store or chain, each with what to do.
pub fn run(args: Args) -> Result<(), CliError> {
    start_log(args.log_json);
    let config = Config::read(&args.config)?;
    let keys = unlock(&config, args.passphrase)?;
    let shop = match (&args.paywall, args.upstream) {
        (Some(file), Some(upstream)) => Some((PriceList::read(file)?, upstream)),
        _ => None,
    };
    super::block_on(serve(config, keys, shop))
}

/// Unlocks the seed: by the arguments, else by the configuration's file, else by asking.
pub(super) fn unlock(config: &Config, mut from: PassphraseArgs) -> Result<Keys, CliError> {
    if let Some(file) = &config.passphrase_file
        && from.passphrase_fd.is_none()
        && from.passphrase_file.is_none()
    {
        from.passphrase_file = Some(file.clone());
    }
    let passphrase = from.read("Passphrase of the seed: ")?;
    Ok(Keys::unlock(&config.seed, &passphrase)?)
}

async fn serve(config: Config, keys: Keys, shop: Option<(PriceList, Url)>) -> Result<(), CliError> {
    // Before anything listens: whoever sees the daemon up can already tell it to end in order.
    let signals = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = signals else {
        return Err(CliError::new(Kind::Refused, "cannot listen for signals"));
    };
    // Told to end before it is up, it just ends: a start that breaks off is as safe as a kill.
    let mut service = tokio::select! {
        service = Service::start(config, keys, Clock::system()) => service?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    println!("listening on http://{}", service.addr());
    if let Some((list, upstream)) = shop {
        println!("selling on http://{}", service.sell(list, &upstream).await?);
    }
    let ended = tokio::select! {
        ended = service.ended() => Some(ended),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    match ended {
        None => info!("stopping"),
        Some(Ended::Task(task)) => error!(task, "a task ended: stopping rather than limping"),
        Some(Ended::Hung(task)) => {
            error!(task, "a task hangs: ending at once, which loses nothing");
            let hint = "send its log to whoever maintains bursar; start the daemon again, nothing is \
                        lost";
            return Err(CliError::new(Kind::Fault, format!("the {task} task hangs")).hint(hint));
        }
    }
    // Told twice, it ends at once: the next start takes up what was on its way.
    tokio::select! {
        () = service.stop() => {}
        _ = terminate.recv() => return Err(hurried()),
        _ = interrupt.recv() => return Err(hurried()),
    }
    match ended {
        Some(Ended::Task(name)) => {
            Err(CliError::new(Kind::Fault, format!("the {name} task ended"))
                .hint("look at the log; start the daemon again, nothing is lost"))
        }
        Some(Ended::Hung(_)) | None => Ok(()),
    }
}

fn hurried() -> CliError {
    CliError::new(Kind::Refused, "told twice to end: ended at once")
        .hint("nothing is lost; some callers had no answer and will ask again")
}

fn start_log(json: bool) {
    use tracing_subscriber::{EnvFilter, fmt};
    let filter = EnvFilter::try_from_env("BURSAR_LOG")
        .unwrap_or_else(|_| EnvFilter::new("bursar=info,warn"));
    let colour = std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colour);
    // A log that is set already (by a test) stays.
    let _ = if json { log.json().try_init() } else { log.try_init() };
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        let kind =
            if matches!(error, ConfigError::Read { .. }) { Kind::Unreachable } else { Kind::Usage };
        let hint = match &error {
            ConfigError::Read { .. } => "`bursar devnet` writes one; or name it with --config",
            _ => "correct the file and start again",
        };
        Self::new(kind, error).hint(hint)
    }
}

impl From<PriceError> for CliError {
    fn from(error: PriceError) -> Self {
        let kind =
            if matches!(error, PriceError::Read { .. }) { Kind::Unreachable } else { Kind::Usage };
        Self::new(kind, error).hint("docs/cli.md shows a price list; correct the file")
    }
}

impl From<StartError> for CliError {
    fn from(error: StartError) -> Self {
        let (kind, hint) = match &error {
            StartError::Chain(RpcError::WrongChain { .. }) => {
                (Kind::Usage, "correct chain.rpc or chain.chain_id; nothing was signed")
            }
            StartError::Chain(_) => (Kind::Unreachable, "is the node up? check chain.rpc"),
            StartError::NoContract { .. } => {
                (Kind::Usage, "deploy it, or correct the address; was the devnet started anew?")
            }
            StartError::Listen { .. } => {
                (Kind::Unreachable, "another daemon may run there; change `listen`")
            }
            StartError::Webhook(_) => {
                (Kind::Usage, "correct [[webhooks.endpoints]]; `bursar doctor` checks them all")
            }
            StartError::Fetch(_) => (Kind::Usage, "correct [fetch] in the configuration"),
            StartError::Paywall(_) | StartError::Proxy(_) => (
                Kind::Usage,
                "correct the price list or --upstream; `bursar payee list` has payees",
            ),
            StartError::Policy { .. } => (Kind::Usage, "`bursar policy check FILE` says more"),
            StartError::Store { source: StoreError::Locked(_), .. } => {
                (Kind::Refused, "stop the other one first: two would each pay by their own books")
            }
            StartError::Store { source: StoreError::Damaged(_), .. } => (
                Kind::Mismatch,
                "nothing was signed; `bursar store restore` puts a backup into a new store",
            ),
            StartError::Store { .. } => (Kind::Unreachable, "check `store` in the configuration"),
            StartError::Agents(_) | StartError::Categories(_) | StartError::Read { .. } => {
                (Kind::Usage, "correct the file and start again")
            }
            StartError::Write(_)
            | StartError::Keys(_)
            | StartError::Guard(_)
            | StartError::Engine(_) => {
                (Kind::Refused, "nothing was lost; start again once it is mended")
            }
        };
        Self::new(kind, error).hint(hint)
    }
}
