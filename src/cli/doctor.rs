//! `bursar doctor`: everything a daemon stands on, and what to do about it.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::{CliError, Kind, remote::Remote};
use crate::{
    config::Config,
    doctor::{Check, Verdict, examine},
    keys::{Keys, PassphraseArgs},
};

/// Look at everything the daemon stands on, and say what to do: store, disk, seed, policies, nodes,
/// clock, contracts, gas money, webhooks. Run it on the daemon's host, with the daemon or without.
///
/// Ends with 0 if nothing fails, with 4 if something does. It changes nothing.
#[derive(Debug, ClapArgs)]
#[command(after_help = "Examples:\n\
    \x20 bursar doctor --config .devnet/bursar.toml\n\
    \x20 bursar doctor --config /etc/bursar.toml --json | jq '.[] | select(.verdict != \"ok\")'")]
pub struct Args {
    /// The daemon's configuration file.
    #[arg(long, env = "BURSAR_CONFIG", default_value = "bursar.toml")]
    config: PathBuf,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

/// Runs the command.
///
/// # Errors
/// `Kind::Mismatch` (exit 4) if something fails.
pub fn run(args: &Args, remote: &Remote) -> Result<(), CliError> {
    let config = Config::read(&args.config)?;
    let mut from = args.passphrase.clone();
    if from.passphrase_fd.is_none() && from.passphrase_file.is_none() {
        from.passphrase_file.clone_from(&config.passphrase_file);
    }
    // Nobody is asked: it runs from a timer too.
    let given = from.passphrase_fd.is_some() || from.passphrase_file.is_some();
    let keys =
        given.then(|| from.read("").and_then(|passphrase| Keys::unlock(&config.seed, &passphrase)));
    let checks = super::block_on(async { Ok(examine(&config, keys).await) })?;
    remote.print(&checks, |checks| page(checks))?;
    let failed = checks.iter().filter(|check| check.verdict == Verdict::Fail).count();
    match failed {
        0 => Ok(()),
        1 => Err(CliError::new(Kind::Mismatch, "one check failed")),
        failed => Err(CliError::new(Kind::Mismatch, format!("{failed} checks failed"))),
    }
}

fn page(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "WARN",
            Verdict::Fail => "FAIL",
        };
        let found = crate::review::one_line(&check.found);
        text.push_str(&format!("{verdict:<5} {:<9} {found}\n", check.check));
        if let Some(todo) = &check.todo {
            text.push_str(&format!("{:16}-> {todo}\n", ""));
        }
    }
    text
}
