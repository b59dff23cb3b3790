//! `bursar channels`: who pays us by vouchers, what that owes, and what the wallet pays through.

use alloy::primitives::B256;
use clap::{Args as ClapArgs, Subcommand};

use super::{
    CliError, block_on,
    remote::{OperatorArgs, Remote},
    table::table,
};
use crate::view::{ChannelsView, ClaimsView, MeterView, PurseView};

/// Channels: who pays us by vouchers, what is owed and not claimed yet, and the wallet's own channels.
///
/// A buyer deposits once and signs a new total with each call. What was charged is owed to us until it
/// is claimed, which the daemon does by itself: when a receiver is owed channels.claim_at, when something
/// has waited for channels.claim_after_s, and at once when a buyer begins to withdraw. `claim` does it
/// now.
#[derive(ClapArgs, Debug)]
#[command(subcommand_negates_reqs = true)]
#[command(after_help = "Examples:\n\
    \x20 bursar channels --keystore alice.json\n\
    \x20 bursar channels claim --keystore alice.json\n\
    \x20 bursar channels close 0x7f…c2 --keystore alice.json\n\
    \x20 bursar channels --json --keystore alice.json | jq .owed")]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    operator: OperatorArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    Claim(Claim),
    Close(Close),
}

/// Claim now what is owed: one transaction for each 100 channels of a receiver, paid out with it.
#[derive(ClapArgs, Debug)]
struct Claim {
    #[command(flatten)]
    operator: OperatorArgs,
}

/// Close one of the wallet's own channels: nothing more is bought with it, and what is left comes home
/// after its delay, in which its seller can still claim what was charged.
#[derive(ClapArgs, Debug)]
struct Close {
    /// Its id, as `bursar channels` shows it.
    id: B256,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// Runs the command.
///
/// # Errors
/// The daemon is out of reach or refuses.
pub fn run(args: &Args, remote: &Remote) -> Result<(), CliError> {
    block_on(async {
        match &args.command {
            None => {
                let session = args.operator.connect(remote).await?;
                remote.print(&session.client.channels().await?, screen)
            }
            Some(Command::Claim(claim)) => {
                let session = claim.operator.connect(remote).await?;
                remote.print(&session.client.claim_channels().await?, sent)
            }
            Some(Command::Close(close)) => {
                let session = close.operator.connect(remote).await?;
                remote.print(&session.client.close_channel(close.id).await?, closing)
            }
        }
    })
}

fn closing(purse: &PurseView) -> String {
    let text = format!("{} is {}: {} USDC are left in it", purse.channel, purse.state, purse.left);
    if purse.left.is_zero() {
        return text;
    }
    format!("{text}\n`bursar channels` shows when they come home")
}

fn sent(claims: &ClaimsView) -> String {
    if claims.transactions.is_empty() {
        return "nothing is owed that is not on its way already".to_owned();
    }
    let hashes: Vec<String> = claims.transactions.iter().map(|hash| format!("  {hash}")).collect();
    format!("sent; the money is there when they are final:\n{}", hashes.join("\n"))
}

fn screen(channels: &ChannelsView) -> String {
    let mut parts = Vec::new();
    if channels.paid_by.is_empty() {
        parts.push(
            "nobody pays us through a channel yet: `bursar serve --paywall` sells, and buyers open them"
                .to_owned(),
        );
    } else {
        parts.push(meters(&channels.paid_by));
        let who = if channels.keeper { "" } else { " (another daemon claims it)" };
        parts.push(format!("owed: {} USDC{who}", channels.owed));
    }
    if !channels.paying.is_empty() {
        parts.push(purses(&channels.paying));
    }
    parts.join("\n\n")
}

fn meters(rows: &[MeterView]) -> String {
    let mut lines =
        table(&["channel", "payer", "in it", "charged", "claimed", "owed", "how it stands"]);
    for row in rows {
        let stands = match (row.leaves_at, row.lost.is_zero(), row.refund.is_zero()) {
            (_, false, _) => format!("the payer left with {} USDC of ours", row.lost),
            (Some(at), ..) => format!("its payer leaves at {at:.0}"),
            (None, true, false) => format!("{} USDC go back to the payer", row.refund),
            (None, true, true) => match row.owed_since {
                Some(since) => format!("owes since {since:.0}"),
                None => "owes nothing".to_owned(),
            },
        };
        lines.add_row([
            row.channel.to_string(),
            row.payer.to_string(),
            row.balance.to_string(),
            row.charged.to_string(),
            row.claimed.to_string(),
            row.owed.to_string(),
            stands,
        ]);
    }
    lines.to_string()
}

fn purses(rows: &[PurseView]) -> String {
    let mut lines =
        table(&["own channel", "agent", "pays", "at", "in it", "charged", "left", "how it stands"]);
    for row in rows {
        let stands = match row.comes_home_at {
            Some(at) => format!("{}: the rest comes home at {at:.0}", row.state),
            None if row.returned.is_zero() => row.state.clone(),
            None => format!("{}: {} USDC came home", row.state, row.returned),
        };
        lines.add_row([
            row.channel.to_string(),
            row.agent.to_string(),
            row.receiver_label.clone().unwrap_or_else(|| row.receiver.to_string()),
            row.host.clone(),
            row.balance.to_string(),
            row.charged.to_string(),
            row.left.to_string(),
            stands,
        ]);
    }
    lines.to_string()
}
