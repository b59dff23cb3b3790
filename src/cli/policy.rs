//! `bursar policy`: what agents may do.

use clap::{Args as ClapArgs, Subcommand};

use super::{CliError, block_on, policy_change, policy_check, policy_x402, remote::Remote};

/// What agents may do: check policy files, propose, sign and apply changes.
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Policy,
}

#[derive(Debug, Subcommand)]
enum Policy {
    /// Read policy files and say what is wrong, too broad, or without effect.
    Check(policy_check::Args),
    Propose(policy_change::ProposeArgs),
    Sign(policy_change::SignArgs),
    Apply(policy_change::ApplyArgs),
    Cancel(policy_change::CancelArgs),
    List(policy_change::ListArgs),
    Coupons(policy_x402::CouponsArgs),
    Claimer(policy_x402::ClaimerArgs),
}

/// Runs the command.
///
/// # Errors
/// Those of the subcommand.
pub fn run(args: &Args, remote: &Remote) -> Result<(), CliError> {
    match &args.command {
        Policy::Check(args) => policy_check::run(args),
        Policy::Propose(args) => block_on(policy_change::propose(args, remote)),
        Policy::Sign(args) => block_on(policy_change::sign(args, remote)),
        Policy::Apply(args) => block_on(policy_change::apply(args, remote)),
        Policy::Cancel(args) => block_on(policy_change::cancel(args, remote)),
        Policy::List(args) => block_on(policy_change::list(args, remote)),
        Policy::Coupons(args) => block_on(policy_x402::coupons(args, remote)),
        Policy::Claimer(args) => block_on(policy_x402::claimer(args, remote)),
    }
}
