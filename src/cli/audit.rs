//! `bursar audit`: check the log, tell one payment's story.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use futures_util::StreamExt as _;
use serde_json::json;

use super::{CliError, Kind, serve, table::table};
use crate::{
    audit::{Anchor, Entry, Fault, Verifier},
    clock,
    config::Config,
    keys::PassphraseArgs,
    payment::PaymentId,
    store::Store,
};

/// Check the audit log, or tell one payment's story.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The daemon's configuration file: it names store and anchors.
    #[arg(long, env = "BURSAR_CONFIG", default_value = "bursar.toml", global = true)]
    config: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check every entry: edited, deleted, reordered or cut entries are named. Exit code 4 if so.
    ///
    /// The public key that signs anchors is derived from the seed, or given with --key by those
    /// who have no seed (`bursar audit key` prints it).
    Verify {
        /// Public key of the anchors, base64url.
        #[arg(long)]
        key: Option<String>,
        #[command(flatten)]
        passphrase: PassphraseArgs,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tell one payment's story: request, decision, signatures, transaction, outcome.
    Show {
        /// The payment, `pay_…`.
        payment: PaymentId,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the public key that signs the log's anchors: give it to auditors.
    Key {
        #[command(flatten)]
        passphrase: PassphraseArgs,
    },
}

/// Runs the command.
///
/// # Errors
/// `Kind::Mismatch` (exit 4) with the first bad entry.
pub fn run(args: Args) -> Result<(), CliError> {
    let config = Config::read(&args.config)?;
    match args.command {
        Command::Verify { key, passphrase, json } => {
            let key = match key {
                Some(text) => parse_key(&text)?,
                None => serve::unlock(&config, passphrase)?.audit_key().verifying_key(),
            };
            super::block_on(verify(&config, &key, json))
        }
        Command::Show { payment, json } => super::block_on(show(&config, payment, json)),
        Command::Key { passphrase } => {
            use base64::Engine as _;
            let key = serve::unlock(&config, passphrase)?.audit_key().verifying_key();
            println!("{}", base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(key.as_bytes()));
            Ok(())
        }
    }
}

fn parse_key(text: &str) -> Result<ed25519_dalek::VerifyingKey, CliError> {
    use base64::Engine as _;
    base64::prelude::BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
        .and_then(|bytes| ed25519_dalek::VerifyingKey::from_bytes(&bytes).ok())
        .ok_or_else(|| {
            CliError::new(Kind::Usage, "--key is not an Ed25519 public key")
                .hint("`bursar audit key` prints it: 43 characters")
        })
}

async fn open(config: &Config) -> Result<Store, CliError> {
    Store::open(&config.store).await.map_err(|error| CliError::new(Kind::Unreachable, error))
}

/// Reads the anchors' file.
pub(super) fn anchors(config: &Config) -> Result<Vec<Anchor>, CliError> {
    let text = match std::fs::read_to_string(&config.audit_anchors) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(CliError::new(
                Kind::Unreachable,
                format!("cannot read {}: {error}", config.audit_anchors.display()),
            ));
        }
    };
    // A line without its end was being written when the power went: it vouches for nothing.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_str(line).map_err(|error| {
                CliError::new(
                    Kind::Mismatch,
                    format!("{} line {}: {error}", config.audit_anchors.display(), index + 1),
                )
            })
        })
        .collect()
}

async fn verify(
    config: &Config,
    key: &ed25519_dalek::VerifyingKey,
    json: bool,
) -> Result<(), CliError> {
    let anchors = anchors(config)?;
    let store = open(config).await?;
    let head = store.audit_head().await.map_err(|e| CliError::new(Kind::Unreachable, e))?;
    let broken = |fault: Fault| {
        if json {
            println!("{}", json!({ "ok": false, "fault": fault }));
        }
        CliError::new(Kind::Mismatch, format!("the audit log is not intact: {fault}"))
            .hint("keep the store as it is and compare it with a backup")
    };
    let mut verifier = Verifier::new(anchors, key).map_err(broken)?;
    let mut entries = Box::pin(store.audit());
    while let Some(entry) = entries.next().await {
        let entry = entry.map_err(|e| CliError::new(Kind::Unreachable, e))?;
        verifier.push(&entry).map_err(broken)?;
    }
    let summary = verifier.finish().map_err(broken)?;
    if summary.entries < head.seq || (summary.entries == head.seq && summary.head != head.head) {
        return Err(CliError::new(
            Kind::Mismatch,
            format!("the audit log is cut: {} entries of {}", summary.entries, head.seq),
        )
        .hint(format!("the first missing entry is {}", summary.entries + 1)));
    }
    if json {
        println!("{}", json!({ "ok": true, "summary": summary }));
    } else {
        println!(
            "audit log intact: {} entries, head {}, anchored up to entry {}",
            summary.entries, summary.head, summary.anchored
        );
    }
    Ok(())
}

async fn show(config: &Config, payment: PaymentId, json: bool) -> Result<(), CliError> {
    let store = open(config).await?;
    let entries = store.audit_of(payment).await.map_err(|e| CliError::new(Kind::Unreachable, e))?;
    if entries.is_empty() {
        return Err(CliError::new(Kind::Refused, format!("nothing was logged about {payment}"))
            .hint("`bursar payments` lists what there is"));
    }
    if json {
        println!("{}", json!(entries));
        return Ok(());
    }
    let mut table = table(&["#", "when (UTC)", "what", "by", "details"]);
    for entry in &entries {
        let what = [
            entry.seq.to_string(),
            clock::at_ms(entry.at_ms).to_string(),
            entry.kind.clone(),
            entry.actor.clone(),
        ];
        table.add_tall_row(what, details(entry));
    }
    println!("{table}");
    Ok(())
}

/// Writes an entry's data for people: lines of `name: value`, lists of payments shortened.
fn details(entry: &Entry) -> Vec<String> {
    let serde_json::Value::Object(fields) = &entry.data else {
        return vec![entry.data.to_string()];
    };
    fields
        .iter()
        .map(|(name, value)| match value {
            serde_json::Value::String(text) => format!("{name}: {text}"),
            serde_json::Value::Array(list) if name == "payments" => {
                format!("{name}: {} of them", list.len())
            }
            serde_json::Value::Array(list) if name == "rules" => {
                let passed = list.iter().filter(|rule| rule[1] == true).count();
                format!("rules: {passed} of {} passed", list.len())
            }
            other => format!("{name}: {other}"),
        })
        .collect()
}
