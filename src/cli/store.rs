//! `bursar store`: what is in the store, its backup, its restore, what it may forget.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufReader, BufWriter},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use alloy::primitives::B256;
use clap::{Args as ClapArgs, Subcommand};
use futures_util::StreamExt as _;
use indicatif::{HumanBytes, HumanCount, ProgressBar};
use serde_json::json;

use super::{CliError, Kind, audit, found, table::table};
use crate::{
    audit::Verifier,
    clock::{self, Clock},
    config::{Config, days_before},
    payment::PaymentId,
    reconcile::restored::FROM_BACKUP,
    store::{BackupError, Pruned, Store, StoreError, check_backup},
};

/// What takes longer shows how far it is.
const SILENT: Duration = Duration::from_secs(1);

/// Look into the store, back it up, restore it, let it forget what is superfluous.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The daemon's configuration file: it names the store.
    #[arg(long, env = "BURSAR_CONFIG", default_value = "bursar.toml", global = true)]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print rows by table and the size on disk.
    Info {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Forget what is superfluous, as the daemon does by itself, a little each second.
    ///
    /// Forgotten are the signed bytes of transactions that are long final, denied requests, and
    /// events ([webhooks] keep_days).
    /// Kept for ever are payments with their idempotency keys, the ledger, the audit log, approvals
    /// and nonces: a late repeat of a key finds its payment. Ages stand in [retention] of the
    /// configuration. Works beside a running daemon.
    Prune {
        /// Forget what is older than so many days, instead of the ages in [retention].
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(1..=3_650))]
        older_than: Option<u64>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write everything in the store, as of one moment, into a file that `restore` takes.
    ///
    /// The same file comes from SQLite and PostgreSQL and goes into either. Works beside a running
    /// daemon. Not in it: the seed, policy files, configuration and audit anchors; keep those too.
    Backup {
        /// The file to make; it must not be there yet.
        file: PathBuf,
    },
    /// Put a backup into an empty store: all of it or nothing.
    ///
    /// The file's checksum is verified before, the audit log's chain after. The daemon takes up from
    /// there at its next start: it waits until nothing can run that was signed since, books what the
    /// chain has, and asks (`bursar store found`) about what the store forgot. Never start a
    /// daemon on the old store and one on the restored one: they would share keys.
    Restore {
        /// The file that `bursar store backup` made.
        file: PathBuf,
        /// No daemon has run since the backup was made: nothing is waited for at the next start.
        #[arg(long)]
        cold: bool,
    },
    /// List what the chain has and a restored store forgot.
    ///
    /// After a restore the daemon waits until nothing signed before can run (submit.signature_ttl_s),
    /// then books from the chain what no payment explains. Until you say what one of these was,
    /// requests of the same agent, payee and amount are refused (`maybe_paid`). Do you not know any of
    /// them? Freeze first.
    Found {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say that nobody will ask for found payments again: requests like them are paid from now on.
    Acknowledge {
        /// Found payments (pay_…), or transactions (0x…) whose transfers are none of the payments
        /// that wait: these become found payments.
        #[arg(required_unless_present = "all")]
        what: Vec<String>,
        /// Every found payment.
        #[arg(long, conflicts_with = "what")]
        all: bool,
    },
    /// Say which request a transfer was.
    #[command(group = clap::ArgGroup::new("which").required(true))]
    Match {
        /// With --key, the found payment; with --transaction, a payment that waits.
        payment: PaymentId,
        /// The idempotency key of the agent's request: sent again, it finds this payment.
        #[arg(long, group = "which")]
        key: Option<String>,
        /// The transaction that paid it.
        #[arg(long, group = "which")]
        transaction: Option<B256>,
    },
}

/// Runs the command.
///
/// # Errors
/// `Kind::Mismatch` (exit 4) for a backup that is not whole, or a broken audit log in it.
pub fn run(args: Args) -> Result<(), CliError> {
    let config = Config::read(&args.config)?;
    super::block_on(async {
        match args.command {
            Command::Info { json } => info(&config, json).await,
            Command::Prune { older_than, json } => prune(&config, older_than, json).await,
            Command::Backup { file } => backup(&config, &file).await,
            Command::Restore { file, cold } => restore(&config, &file, cold).await,
            Command::Found { json } => found::list(&config, json).await,
            Command::Acknowledge { what, all } => found::acknowledge(&config, &what, all).await,
            Command::Match { payment, key, transaction } => {
                found::match_with(&config, payment, key.as_deref(), transaction).await
            }
        }
    })
}

impl From<BackupError> for CliError {
    fn from(error: BackupError) -> Self {
        match &error {
            BackupError::Store(_) | BackupError::File(_) => Self::new(Kind::Unreachable, error),
            BackupError::Format { .. } | BackupError::Checksum => Self::new(Kind::Mismatch, error)
                .hint("take another copy of the backup: nothing was restored"),
            BackupError::Version { .. } => {
                Self::new(Kind::Usage, error).hint("use the version of bursar that made the backup")
            }
            BackupError::NotEmpty { .. } => Self::new(Kind::Refused, error)
                .hint("name a store in the configuration that does not exist yet"),
        }
    }
}

pub(super) fn failed(error: StoreError) -> CliError {
    CliError::new(Kind::Unreachable, error)
}

/// A line on the terminal for what takes longer than a second.
struct Progress {
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    fn new() -> Self {
        Self { since: Instant::now(), bar: None }
    }

    fn tell(&mut self, what: String) {
        if self.since.elapsed() >= SILENT {
            // On a terminal only.
            let bar = self.bar.get_or_insert_with(ProgressBar::new_spinner);
            bar.set_message(what);
            bar.tick();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

async fn info(config: &Config, json: bool) -> Result<(), CliError> {
    let store = Store::open(&config.store).await.map_err(failed)?;
    let (tables, bytes) =
        (store.rows().await.map_err(failed)?, store.size().await.map_err(failed)?);
    let head = store.audit_head().await.map_err(failed)?;
    if json {
        let rows: serde_json::Map<String, serde_json::Value> =
            tables.into_iter().map(|(name, rows)| (name.to_owned(), json!(rows))).collect();
        println!("{}", json!({ "bytes": bytes, "audit_head": head, "rows": rows }));
        return Ok(());
    }
    let mut rows = table(&["table", "rows"]);
    for (name, count) in tables {
        rows.add_row([name.to_owned(), HumanCount(count).to_string()]);
    }
    println!("{rows}\n\n{} on disk; audit log of {} entries", HumanBytes(bytes), head.seq);
    Ok(())
}

async fn prune(config: &Config, older_than: Option<u64>, json: bool) -> Result<(), CliError> {
    let store = Store::open(&config.store).await.map_err(failed)?;
    let now_ms = Clock::system().now_ms();
    let (bytes_before, denied_before) = match older_than {
        Some(days) => {
            let before = days_before(now_ms, days);
            (before, before)
        }
        None => config.retention.before(now_ms),
    };
    let mut progress = Progress::new();
    let events_before = days_before(now_ms, config.webhooks.keep_days);
    let (mut all, mut events) = (Pruned::default(), 0);
    loop {
        let mut tx = store.begin().await.map_err(failed)?;
        let step = tx.prune(bytes_before, denied_before).await.map_err(failed)?;
        let rows = tx.forget_events(events_before).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        all = all.and(step);
        events += rows;
        if !step.more && rows == 0 {
            break;
        }
        progress.tell(format!("{} transactions", HumanCount(all.transactions)));
    }
    drop(progress);
    if json {
        println!("{}", json!({ "payments": all, "events": events }));
    } else {
        println!(
            "forgot the bytes of {} final transactions ({} signatures), {} denied requests, {events} \
             rows of events and their deliveries",
            all.transactions, all.attempts, all.denied
        );
    }
    Ok(())
}

async fn backup(config: &Config, path: &Path) -> Result<(), CliError> {
    let cannot = |error: std::io::Error| {
        CliError::new(Kind::Unreachable, format!("cannot write {}: {error}", path.display()))
    };
    if path.try_exists().map_err(cannot)? {
        return Err(CliError::new(Kind::Refused, format!("{} is there already", path.display()))
            .hint("name a new file: a backup never replaces another one"));
    }
    let store = Store::open(&config.store).await.map_err(failed)?;
    // Under another name until it is whole.
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut open = OpenOptions::new();
    let file = open.write(true).create(true).truncate(true).mode(0o600).open(&part);
    let file = file.map_err(cannot)?;
    let mut progress = Progress::new();
    let written = store
        .backup(BufWriter::new(&file), Clock::system().now_ms(), |table, rows| {
            progress.tell(format!("{} rows, {table}", HumanCount(rows)));
        })
        .await;
    let contents = match written {
        Ok(contents) => contents,
        Err(error) => {
            // Half a backup is none; that it could not be removed is told by the next one.
            let _ = fs::remove_file(&part);
            return Err(error.into());
        }
    };
    file.sync_all().map_err(cannot)?;
    fs::rename(&part, path).map_err(cannot)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))
        .and_then(|folder| folder.sync_all())
        .map_err(cannot)?;
    drop(progress);
    let size = fs::metadata(path).map_err(cannot)?.len();
    println!(
        "{}: {} rows, {}, as of {}",
        path.display(),
        HumanCount(contents.rows),
        HumanBytes(size),
        clock::at_ms(contents.made_ms)
    );
    println!("keep the seed, policies, configuration and audit anchors beside it");
    Ok(())
}

async fn restore(config: &Config, path: &Path, cold: bool) -> Result<(), CliError> {
    let open = || {
        File::open(path).map(|file| BufReader::with_capacity(1 << 20, file)).map_err(|error| {
            CliError::new(Kind::Unreachable, format!("cannot read {}: {error}", path.display()))
        })
    };
    let mut progress = Progress::new();
    let contents = check_backup(open()?, |bytes| {
        progress.tell(format!("checking, {}", HumanBytes(bytes)));
    })?;
    let _lock = Store::lock(&config.store, &config.audit_anchors).map_err(failed)?;
    let store = Store::open(&config.store).await.map_err(failed)?;
    store.must_be_empty().await?;
    let mut tx = store.begin().await.map_err(failed)?;
    tx.restore(open()?, |table, rows| {
        let of = format!("{} of {}", HumanCount(rows), HumanCount(contents.rows));
        progress.tell(format!("{of} rows, {table}"));
    })
    .await?;
    if !cold {
        tx.set_meta(FROM_BACKUP, &contents.made_ms.to_string()).await.map_err(failed)?;
    }
    tx.commit().await.map_err(failed)?;
    let head = store.audit_head().await.map_err(failed)?;
    verify(&store, head.seq, &mut progress).await?;
    drop(progress);
    println!(
        "restored {} rows as of {}; audit log of {} entries intact",
        HumanCount(contents.rows),
        clock::at_ms(contents.made_ms),
        head.seq
    );
    let anchored = audit::anchors(config)?.iter().map(|anchor| anchor.seq).max();
    if let Some(anchored) = anchored.filter(|anchored| *anchored > head.seq) {
        println!(
            "{} knows of entries up to {anchored}: what came after {} is lost, and `bursar audit \
             verify` says so until you put that file aside",
            config.audit_anchors.display(),
            head.seq
        );
    }
    Ok(())
}

/// Checks the chain of the audit log, without its anchors: they may know of a longer one.
async fn verify(store: &Store, length: u64, progress: &mut Progress) -> Result<(), CliError> {
    let broken = |fault: String| {
        CliError::new(Kind::Mismatch, format!("restored, but its audit log is not intact: {fault}"))
            .hint("it was so when the backup was made: compare with an older one")
    };
    let mut verifier = Verifier::unanchored();
    let mut entries = Box::pin(store.audit());
    while let Some(entry) = entries.next().await {
        let entry = entry.map_err(failed)?;
        if entry.seq.is_multiple_of(1_000) {
            progress.tell(format!(
                "audit entry {} of {}",
                HumanCount(entry.seq),
                HumanCount(length)
            ));
        }
        verifier.push(&entry).map_err(|fault| broken(fault.to_string()))?;
    }
    let summary = verifier.finish().map_err(|fault| broken(fault.to_string()))?;
    if summary.entries == length {
        return Ok(());
    }
    Err(broken(format!("{} entries of {length}", summary.entries)))
}
