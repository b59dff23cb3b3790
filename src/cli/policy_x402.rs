//! `bursar policy coupons|claimer`: what operators grant for HTTP 402 beside an agent's limits.

use alloy::{
    primitives::{Address, U256},
    sol_types::SolCall as _,
};
use clap::Args as ClapArgs;

use super::{
    CliError, Kind,
    payee::Span,
    policy_change::{file, order},
    remote::{OperatorArgs, Remote, Session},
};
use crate::{
    contract::{
        IPolicyChanges,
        coupon::{CLASSES, CouponGrant},
    },
    policy::{CouponClass, Coupons},
};

/// Propose how much an agent may spend by x402 coupons, or take them away at once.
///
/// Coupons pay sellers of x402 `exact` without a transaction of the wallet's: the token asks the
/// wallet, which cannot count there. So an agent has a fixed number of coupons in each period, each
/// good for one payment up to its class's amount, beside all its other limits: no cap, window or
/// budget sees them. In any interval of one period's length they take out at most twice the sum.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:\n\
    \x20 bursar policy coupons scout --every 1h --class 200x0.01 --class 5x1 --keystore alice.json\n\
    \x20 bursar policy coupons scout --none --keystore alice.json   (at once, by one operator)")]
pub struct CouponsArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    /// The agent.
    agent: String,
    /// Length of a period: 10m, 1h, 1d.
    #[arg(long, value_name = "TIME", required_unless_present = "none")]
    every: Option<Span>,
    /// So many coupons in each period, each for at most so much, like 200x0.01; up to four.
    #[arg(long, value_name = "COUNTxUSDC", required_unless_present = "none")]
    class: Vec<CouponClass>,
    /// No coupons any more.
    #[arg(long, conflicts_with_all = ["every", "class", "no_sign"])]
    none: bool,
    /// File the proposal without signing it.
    #[arg(long)]
    no_sign: bool,
}

/// Propose who may claim for the receivers of the wallet's channels, or take that away at once.
///
/// A receiver that claims for itself needs no leave where a channel returns its money within a day.
/// Name a facilitator that claims for sellers, or a receiver with a longer delay. Whoever claims can
/// send a channel's money to its receiver and back to the wallet, and nowhere else.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:\n\
    \x20 bursar policy claimer 0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC --longest 2d \\\n\
    \x20     --keystore alice.json\n\
    \x20 bursar policy claimer 0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC --none --keystore alice.json")]
pub struct ClaimerArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    /// The `receiverAuthorizer` of channels.
    address: Address,
    /// The longest a channel may keep money that the wallet wants back: 1h, 2d; at most 30d.
    #[arg(long, value_name = "TIME", required_unless_present = "none")]
    longest: Option<Span>,
    /// It may not claim any more. Channels that are open stay as they are.
    #[arg(long, conflicts_with_all = ["longest", "no_sign"])]
    none: bool,
    /// File the proposal without signing it.
    #[arg(long)]
    no_sign: bool,
}

/// Runs `bursar policy coupons`.
///
/// # Errors
/// The key cannot be read, the grant cannot be written, the daemon is out of reach or refuses, or the
/// answer is no.
pub async fn coupons(args: &CouponsArgs, remote: &Remote) -> Result<(), CliError> {
    let usage = |text: String| CliError::new(Kind::Usage, text);
    if args.class.len() > CLASSES {
        return Err(usage(format!("there are {CLASSES} classes of coupons at most")));
    }
    let period_s = args.every.map_or(0, |span| span.0);
    let grant = CouponGrant::from(&Coupons { every_s: period_s, classes: args.class.clone() });
    let word = grant.pack().map_err(|error| usage(error.to_string()))?;
    if !args.none && grant.period_s == 0 {
        return Err(usage("a period of no time has no coupons".into()).hint("see --none"));
    }
    let session = args.operator.connect(remote).await?;
    let agent = session.agent(&args.agent).await?.address;
    let coupons = if args.none { U256::ZERO } else { word };
    let change = IPolicyChanges::setCouponsCall { agent, coupons }.abi_encode();
    carry(&session, change, args.none, !args.no_sign, remote).await
}

/// Runs `bursar policy claimer`.
///
/// # Errors
/// The key cannot be read, the daemon is out of reach or refuses, or the answer is no.
pub async fn claimer(args: &ClaimerArgs, remote: &Remote) -> Result<(), CliError> {
    let longest = args.longest.map_or(0, |span| span.0);
    if !args.none && longest == 0 {
        let error = CliError::new(Kind::Usage, "no time at all lets it claim nothing");
        return Err(error.hint("see --none"));
    }
    let session = args.operator.connect(remote).await?;
    let change = IPolicyChanges::setChannelAuthorizerCall {
        authorizer: args.address,
        longestDelay: U256::from(longest),
    };
    carry(&session, change.abi_encode(), args.none, !args.no_sign, remote).await
}

/// Taking away is one operator's order, giving is a proposal.
async fn carry(
    session: &Session,
    change: Vec<u8>,
    takes: bool,
    sign: bool,
    remote: &Remote,
) -> Result<(), CliError> {
    if takes {
        order(session, change, remote).await
    } else {
        file(session, change, None, sign, remote).await
    }
}
