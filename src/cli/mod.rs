//! The command line: one file a command, each with its `Args` and a `run`.
//!
//! Exit codes: 0 done; 1 refused or failed; 2 wrong usage; 3 unreachable (daemon, chain, file);
//! 4 checked and found wrong (audit, reconciliation); 5 the daemon ended by a fault of its own.

mod agent;
mod approve;
mod audit;
mod channels;
mod devnet;
mod doctor;
mod escrow;
mod fetch;
mod found;
mod freeze;
mod init;
mod pay;
mod payee;
mod policy;
mod policy_change;
mod policy_check;
mod policy_x402;
mod reconcile;
mod remote;
mod sales;
mod serve;
mod status;
mod store;
pub mod table;
mod webhooks;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

use crate::{keys::KeyError, review::one_line};

/// A self-hosted USDC wallet for AI agents: limits on chain, keys in a daemon, operators in charge.
#[derive(Debug, Parser)]
#[command(name = "bursar", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    remote: remote::Remote,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make or import the seed that every key of the daemon comes from.
    Init(init::Args),
    /// Start a devnet: a chain with USDC, a wallet, agents, operators and payees on it.
    Devnet(devnet::Args),
    /// Run the daemon: take agents' requests, decide, sign, submit, keep the books.
    Serve(serve::Args),
    /// Check the audit log, or tell one payment's story.
    Audit(audit::Args),
    Pay(pay::PayArgs),
    Payments(pay::ListArgs),
    Permissions(pay::PermissionsArgs),
    Fetch(fetch::FetchArgs),
    Purchases(fetch::PurchasesArgs),
    Agent(agent::Args),
    Approvals(approve::ListArgs),
    Approve(approve::ApproveArgs),
    Reject(approve::RejectArgs),
    Escrow(escrow::Args),
    Freeze(freeze::FreezeArgs),
    Unfreeze(freeze::UnfreezeArgs),
    Payee(payee::Args),
    Policy(policy::Args),
    Status(status::Args),
    Doctor(doctor::Args),
    Webhooks(webhooks::Args),
    /// Compare the chain's own record with the books: every payee, every transfer, to the base unit.
    Reconcile(reconcile::Args),
    Sales(sales::Args),
    Channels(channels::Args),
    Store(store::Args),
    /// Print the version.
    Version,
}

/// What went wrong, in words for the person at the terminal, and what to do next.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    kind: Kind,
    message: String,
    hint: Option<String>,
}

/// The kind of an error decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Refused by a rule, or failed: exit 1.
    Refused,
    /// Wrong arguments or wrong file contents: exit 2.
    Usage,
    /// Daemon, chain or file out of reach: exit 3.
    Unreachable,
    /// A check ran and found a fault: exit 4.
    Mismatch,
    /// The daemon ended by a fault of its own, to be started again: exit 5.
    Fault,
}

impl CliError {
    /// Makes an error without a hint.
    pub fn new(kind: Kind, message: impl std::fmt::Display) -> Self {
        Self { kind, message: message.to_string(), hint: None }
    }

    /// Adds the next step, printed on a line of its own.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            Kind::Refused => 1,
            Kind::Usage => 2,
            Kind::Unreachable => 3,
            Kind::Mismatch => 4,
            Kind::Fault => 5,
        })
    }
}

impl From<KeyError> for CliError {
    fn from(error: KeyError) -> Self {
        let kind = match error {
            KeyError::Missing { .. }
            | KeyError::NoSeedFile { .. }
            | KeyError::Io { .. }
            | KeyError::Fd { .. }
            | KeyError::NoTerminal { .. } => Kind::Unreachable,
            KeyError::NotAFile { .. }
            | KeyError::NotASeedFile { .. }
            | KeyError::BadKeystore { .. }
            | KeyError::BadRawKey { .. }
            | KeyError::BadWebhookSecret { .. }
            | KeyError::NoOperatorKey
            | KeyError::WordCount(_)
            | KeyError::UnknownWord(_)
            | KeyError::PhraseChecksum
            | KeyError::IndexRange(_)
            | KeyError::EmptyPassphrase
            | KeyError::ShortPassphrase(_)
            | KeyError::NotOneLine { .. }
            | KeyError::TooLong { .. }
            | KeyError::SharedFd(_) => Kind::Usage,
            _ => Kind::Refused,
        };
        Self::new(kind, error)
    }
}

/// Time that what still runs has after a command is done.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(2);

/// Runs a command that waits for disk or network.
fn block_on<T>(task: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::new(Kind::Refused, format!("no runtime: {error}")))?;
    let done = runtime.block_on(task);
    // A thread that hangs keeps nobody.
    runtime.shutdown_timeout(LAST_WORDS);
    done
}

/// Parses the arguments, runs the command, prints its error.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(usage) => usage.exit(),
    };
    let remote = &cli.remote;
    let outcome: Result<(), CliError> = match cli.command {
        Command::Init(args) => init::run(&args),
        Command::Devnet(args) => devnet::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Audit(args) => audit::run(args),
        Command::Pay(args) => pay::pay(&args, remote),
        Command::Payments(args) => pay::list(&args, remote),
        Command::Permissions(args) => pay::permissions(&args, remote),
        Command::Fetch(args) => fetch::fetch(&args, remote),
        Command::Purchases(args) => fetch::purchases(&args, remote),
        Command::Agent(args) => agent::run(&args, remote),
        Command::Approvals(args) => approve::list(&args, remote),
        Command::Approve(args) => approve::approve(&args, remote),
        Command::Reject(args) => approve::reject(&args, remote),
        Command::Escrow(args) => escrow::run(&args, remote),
        Command::Freeze(args) => freeze::freeze(&args, remote),
        Command::Unfreeze(args) => freeze::unfreeze(&args, remote),
        Command::Payee(args) => payee::run(&args, remote),
        Command::Policy(args) => policy::run(&args, remote),
        Command::Doctor(args) => doctor::run(&args, remote),
        Command::Status(args) => status::run(&args, remote),
        Command::Webhooks(args) => webhooks::run(&args, remote),
        Command::Reconcile(args) => reconcile::run(args),
        Command::Sales(args) => sales::run(&args),
        Command::Channels(args) => channels::run(&args, remote),
        Command::Store(args) => store::run(args),
        Command::Version => {
            println!("bursar {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Errors of several lines are ours; what they quote is not.
            let lines = |text: &str| text.lines().map(one_line).collect::<Vec<_>>().join("\n");
            eprintln!("error: {}", lines(&error.to_string()));
            if let Some(hint) = &error.hint {
                eprintln!("hint: {}", lines(hint));
            }
            error.exit_code()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use clap::CommandFactory as _;

    use super::*;

    /// The reference in the repository. Written anew by `BURSAR_WRITE=1 cargo test reference`.
    const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/cli.md");

    /// Writes a command's help and those of its subcommands, the same in every environment.
    fn reference(command: &mut clap::Command, path: &str, text: &mut String) {
        // Global options and -h stand once, at the top.
        let below = path != "bursar";
        let everywhere = |arg: &clap::Arg| {
            arg.is_global_set() || ["help", "version"].contains(&arg.get_id().as_str())
        };
        *command = std::mem::take(command).term_width(100).mut_args(|arg| {
            let hidden = arg.is_hide_set() || below && everywhere(&arg);
            arg.hide_env_values(true).hide(hidden)
        });
        let help = command.render_long_help().to_string();
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        let _ = write!(text, "\n## {path}\n\n```text\n{}\n```\n", lines.join("\n").trim_end());
        for inner in command.get_subcommands_mut() {
            let path = format!("{path} {}", inner.get_name());
            if inner.get_name() != "help" {
                reference(inner, &path, text);
            }
        }
    }

    /// clap keeps one value for all arguments of one name, where one of them is an option of every command:
    /// what a command calls would be taken for the daemon's address.
    #[test]
    fn no_command_has_an_argument_named_like_an_option_of_every_command() {
        fn check(command: &clap::Command, path: &str) {
            for arg in command.get_arguments().filter(|arg| !arg.is_global_set()) {
                // A flag of the same name and spelling is the same flag.
                let is_shared = ["url", "origin"].contains(&arg.get_id().as_str())
                    || ["url", "origin"].iter().any(|name| arg.get_long() == Some(name));
                assert!(!is_shared, "{path}: `{}` needs another name", arg.get_id());
            }
            for inner in command.get_subcommands() {
                check(inner, &format!("{path} {}", inner.get_name()));
            }
        }
        let mut command = Cli::command();
        command.build();
        check(&command, "bursar");
    }

    #[test]
    fn the_reference_is_the_committed_one() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        let mut text = String::from(
            "# The command line\n\nEvery `--help`, collected by a test. Exit codes: 0 done; 1 refused \
             or failed; 2 wrong\nusage; 3 out of reach; 4 checked and found wrong; 5 the daemon ended by a \
             fault of its own.\n",
        );
        reference(&mut command, "bursar", &mut text);
        if std::env::var_os("BURSAR_WRITE").is_some() {
            std::fs::write(COMMITTED, &text).unwrap();
        }
        let committed = std::fs::read_to_string(COMMITTED).unwrap();
        assert!(committed == text, "docs/cli.md is stale: BURSAR_WRITE=1 cargo test reference");
    }
}
