//! `bursar freeze` and `bursar unfreeze`: one operator stops, the quorum starts again.

use alloy::{primitives::Address, sol_types::SolCall as _};
use clap::{ArgGroup, Args as ClapArgs};

use super::{
    CliError, block_on,
    policy_change::{file, order},
    remote::{OperatorArgs, Remote, Session},
};
use crate::contract::IPolicyChanges;

/// Whom it concerns.
#[derive(ClapArgs, Debug)]
#[command(group = ArgGroup::new("whom").required(true).args(["agent", "all"]))]
pub struct Whom {
    /// The agent's name or address.
    #[arg(value_name = "AGENT")]
    agent: Option<String>,
    /// The whole wallet.
    #[arg(long)]
    all: bool,
}

/// Stop an agent, or the whole wallet, at once. One operator is enough.
///
/// It holds in the daemon when this command returns, and on chain with the printed transaction.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:\n\
    \x20 bursar freeze scout --keystore alice.json\n\
    \x20 bursar freeze --all --key-fd 3 --yes 3<alice.key")]
pub struct FreezeArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    #[command(flatten)]
    whom: Whom,
}

/// Propose to let an agent, or the wallet, pay again. Needs the quorum; see `bursar policy sign`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Example:\n\
    \x20 bursar unfreeze scout --keystore alice.json")]
pub struct UnfreezeArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    #[command(flatten)]
    whom: Whom,
    /// File the proposal without signing it.
    #[arg(long)]
    no_sign: bool,
}

/// Runs `bursar freeze`.
///
/// # Errors
/// The key cannot be read, the daemon is out of reach or refuses, or the answer is no.
pub fn freeze(args: &FreezeArgs, remote: &Remote) -> Result<(), CliError> {
    block_on(async {
        let session = args.operator.connect(remote).await?;
        let change = frozen(&session, &args.whom, true).await?;
        order(&session, change, remote).await
    })
}

/// Runs `bursar unfreeze`.
///
/// # Errors
/// As [`freeze`].
pub fn unfreeze(args: &UnfreezeArgs, remote: &Remote) -> Result<(), CliError> {
    block_on(async {
        let session = args.operator.connect(remote).await?;
        let change = frozen(&session, &args.whom, false).await?;
        file(&session, change, None, !args.no_sign, remote).await
    })
}

async fn frozen(session: &Session, whom: &Whom, frozen: bool) -> Result<Vec<u8>, CliError> {
    let agent = match &whom.agent {
        Some(agent) => session.agent(agent).await?.address,
        // The contract's word for the whole wallet.
        None => Address::ZERO,
    };
    Ok(IPolicyChanges::setFrozenCall { agent, frozen }.abi_encode())
}
