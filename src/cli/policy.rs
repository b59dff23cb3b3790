//! `bursar policy`: what agents may do.

use clap::{Args as ClapArgs, Subcommand};

use super::{CliError, policy_check};

/// What agents may do: check policy files.
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Policy,
}

#[derive(Debug, Subcommand)]
enum Policy {
    /// Read policy files and say what is wrong, too broad, or without effect.
    Check(policy_check::Args),
}

/// Runs the command.
///
/// # Errors
/// Those of the subcommand.
pub fn run(args: &Args) -> Result<(), CliError> {
    match &args.command {
        Policy::Check(args) => policy_check::run(args),
    }
}
