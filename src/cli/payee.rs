//! `bursar payee`: who may be paid.

use std::{str::FromStr, time::Duration};

use alloy::{
    primitives::{Address, aliases::U48},
    sol_types::SolCall as _,
};
use clap::{Args as ClapArgs, Subcommand};

use super::{
    CliError, Kind, block_on,
    policy_change::{file, order},
    remote::{OperatorArgs, Remote, Session},
    table::table,
};
use crate::{
    contract::{IPolicyChanges, PayeeLimits},
    money::Usdc,
    payment::Payee,
};

/// Payees: list, propose, remove.
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Add(Add),
    Remove(Remove),
    List(List),
}

/// Propose a payee. Needs the quorum and waits out the delay; see `bursar policy sign`.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:\n\
    \x20 bursar payee add acme 0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC --category data \\\n\
    \x20     --category compute --keystore alice.json\n\
    \x20 bursar payee add taxi 0x90F79bf6EB2c4f870365E785982E1f101E93b906 --category travel \\\n\
    \x20     --cap 500 --cooldown 10m --keystore alice.json")]
struct Add {
    #[command(flatten)]
    operator: OperatorArgs,
    /// The label agents will use.
    label: String,
    /// Where the money goes.
    address: Address,
    /// A category it belongs to; repeat for several.
    #[arg(long, required = true, value_name = "NAME")]
    category: Vec<String>,
    /// The most it may ever be paid, in USDC.
    #[arg(long, value_name = "USDC")]
    cap: Option<Usdc>,
    /// Time between two payments to it: 30s, 10m, 2h, 1d.
    #[arg(long, value_name = "TIME")]
    cooldown: Option<Span>,
    /// File the proposal without signing it.
    #[arg(long)]
    no_sign: bool,
}

/// Remove a payee at once. One operator is enough.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Example:\n\
    \x20 bursar payee remove acme --keystore alice.json")]
struct Remove {
    #[command(flatten)]
    operator: OperatorArgs,
    /// Its label or address.
    payee: String,
}

/// List the registered payees.
#[derive(ClapArgs, Debug)]
struct List {
    #[command(flatten)]
    operator: OperatorArgs,
}

/// A time span of whole seconds, up to what the contract's 32 bits hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) u32);

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "write a number and s, m, h or d, like 10m; at most 40000d";
        let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or(FORM)?;
        let unit = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3_600,
            "d" => 86_400,
            _ => return Err(FORM),
        };
        let number = number.parse::<u32>().map_err(|_| FORM)?;
        let span = Duration::from_secs(u64::from(number) * unit);
        let fits = span <= Duration::from_secs(40_000 * 86_400);
        u32::try_from(span.as_secs()).ok().filter(|_| fits).map(Self).ok_or(FORM)
    }
}

/// Runs the command.
///
/// # Errors
/// The key cannot be read, the daemon is out of reach or refuses, or the answer is no.
pub fn run(args: &Args, remote: &Remote) -> Result<(), CliError> {
    block_on(async {
        match &args.command {
            Command::Add(args) => add(args, remote).await,
            Command::Remove(args) => remove(args, remote).await,
            Command::List(args) => {
                let session = args.operator.connect(remote).await?;
                remote.print(&session.client.payees().await?, |payees| shown(payees))
            }
        }
    })
}

async fn add(args: &Add, remote: &Remote) -> Result<(), CliError> {
    let session = args.operator.connect(remote).await?;
    let known = session.categories()?;
    let mut categories = 0;
    for name in &args.category {
        categories |= known.bit(name).ok_or_else(|| {
            CliError::new(Kind::Usage, format!("the wallet has no category `{name}`"))
                .hint(format!("categories: {}", known.names().join(", ")))
        })?;
    }
    let cap = match args.cap {
        // All ones switch the cap off, and are not an amount.
        Some(cap) => {
            U48::checked_from_limbs_slice(&[cap.units()]).filter(|cap| *cap < U48::MAX).ok_or_else(
                || CliError::new(Kind::Usage, "a cap must be below 281474976.710655 USDC"),
            )?
        }
        None => U48::MAX,
    };
    let cooldown = args.cooldown.map_or(0, |span| span.0);
    let limits = PayeeLimits { categories, cap, cooldown };
    let change = IPolicyChanges::setPayeeCall { payee: args.address, limits }.abi_encode();
    file(&session, change, Some(args.label.clone()), !args.no_sign, remote).await
}

async fn remove(args: &Remove, remote: &Remote) -> Result<(), CliError> {
    let session = args.operator.connect(remote).await?;
    let payee = find(&session, &args.payee).await?;
    // The tightest record there is, whatever the present one says.
    let limits = PayeeLimits { categories: 0, cap: U48::ZERO, cooldown: u32::MAX };
    let change = IPolicyChanges::setPayeeCall { payee, limits }.abi_encode();
    order(&session, change, remote).await
}

async fn find(session: &Session, wanted: &str) -> Result<Address, CliError> {
    let address = wanted.parse::<Address>().ok();
    let payees = session.client.payees().await?;
    let fits = |p: &Payee| p.label.as_deref() == Some(wanted) || address == Some(p.address);
    payees.into_iter().find(fits).map(|payee| payee.address).ok_or_else(|| {
        CliError::new(Kind::Usage, format!("no payee `{wanted}` is registered"))
            .hint("`bursar payee list` shows them")
    })
}

fn shown(payees: &[Payee]) -> String {
    let mut rows = table(&["payee", "address", "categories"]);
    for payee in payees {
        rows.add_row([
            payee.label.clone().unwrap_or_else(|| "-".to_owned()),
            payee.address.to_string(),
            payee.categories.join(", "),
        ]);
    }
    rows.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_a_number_and_a_unit() {
        for (text, seconds) in [("30s", 30), ("10m", 600), ("2h", 7_200), ("1d", 86_400)] {
            assert_eq!(text.parse(), Ok(Span(seconds)));
        }
        for text in ["", "s", "10", "1w", "-1s", "1.5h", "40001d", "4294967295d", "é"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
