//! `bursar status`: how the daemon fares, on one screen.

use alloy::primitives::{U256, utils::format_ether};
use clap::Args as ClapArgs;

use super::{
    CliError, block_on,
    remote::{OperatorArgs, Remote},
    table::table,
    webhooks::endpoint_rows,
};
use crate::{
    alert::watch::percent,
    review::one_line,
    view::{AgentView, LimitView, StatusView},
};

/// Characters of a bar.
const BAR: u64 = 20;

/// Show how the daemon fares: alerts, queue, chain, gas, caps, webhooks, store.
///
/// `bursar doctor` on the daemon's host looks deeper, and works without a daemon.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:\n\
    \x20 bursar status --keystore alice.json\n\
    \x20 bursar status --json --keystore alice.json | jq .alerts")]
pub struct Args {
    #[command(flatten)]
    operator: OperatorArgs,
}

/// Runs the command.
///
/// # Errors
/// The daemon is out of reach or refuses.
pub fn run(args: &Args, remote: &Remote) -> Result<(), CliError> {
    block_on(async {
        let session = args.operator.connect(remote).await?;
        remote.print(&session.client.status().await?, screen)
    })
}

fn screen(status: &StatusView) -> String {
    let mut parts = vec![head(status), alerts(status), queue(status)];
    if status.relayers.is_empty() {
        parts.push("relayers: the chain cannot be asked for their gas money".to_owned());
    } else {
        parts.push(relayers(status));
    }
    parts.push(facilitator(status));
    if !status.leases.is_empty() {
        parts.push(leases(status));
    }
    parts.push(caps(&status.agents));
    parts.push(endpoint_rows(&status.webhooks));
    parts.join("\n\n")
}

fn head(status: &StatusView) -> String {
    let wallet = &status.wallet;
    let frozen = if wallet.frozen { "  FROZEN" } else { "" };
    let reached = if status.chain_reached { "reached" } else { "OUT OF REACH" };
    format!(
        "bursar {}  {:.0}\nwallet   {} on chain {}{frozen}\nchain    {reached}, block {}, {} ago, \
         {} calls since start\nstore    {}, {}",
        status.version,
        status.at,
        wallet.wallet,
        wallet.chain_id,
        status.head,
        span(status.lag_s),
        status.rpc_calls,
        status.store,
        bytes(status.store_bytes),
    )
}

fn alerts(status: &StatusView) -> String {
    if status.alerts.is_empty() {
        return "alerts   none".to_owned();
    }
    let mut text = String::from("ALERTS");
    for alert in &status.alerts {
        let age_s = status.at.as_second().saturating_sub(alert.since.as_second());
        let age = span(u64::try_from(age_s).unwrap_or(0));
        let (kind, detail) = (alert.alert, one_line(&alert.detail));
        text.push_str(&format!("\n  {:<15} {age:>6}  {detail}", kind.as_str()));
    }
    text
}

fn queue(status: &StatusView) -> String {
    if status.queue.is_empty() {
        return "queue    empty".to_owned();
    }
    let mut rows = table(&["queue", "payments", "oldest"]);
    for row in &status.queue {
        rows.add_row([row.state.to_string(), row.count.to_string(), span(row.oldest_s)]);
    }
    format!("{rows}\n{} transactions on their way", status.in_flight)
}

fn relayers(status: &StatusView) -> String {
    let mut rows = table(&["relayer", "gas money (ether)", "full batches", ""]);
    for relayer in &status.relayers {
        let wei = relayer.wei.parse::<U256>().unwrap_or_default();
        let ether = format_ether(wei);
        let (whole, rest) = ether.split_once('.').unwrap_or((ether.as_str(), ""));
        let rest: String = rest.chars().take(6).collect();
        let batches = match relayer.batches {
            many @ 0..=1_000_000 => many.to_string(),
            _ => "over a million".to_owned(),
        };
        let refused = if relayer.refused { "REFUSED: no gas money" } else { "" };
        rows.add_row([
            relayer.address.to_string(),
            format!("{whole}.{rest}"),
            batches,
            refused.to_owned(),
        ]);
    }
    rows.to_string()
}

fn facilitator(status: &StatusView) -> String {
    let told = &status.facilitator;
    let whose = if told.public { "for anybody" } else { "for our own sales" };
    let schemes = if told.channels { "exact, batch-settlement" } else { "exact (no ChannelHub)" };
    format!(
        "facilitator  {whose}: {schemes}; {} on their way; since start {} verified, {} settled, {} \
         failed",
        told.pending, told.verified, told.settled, told.failed
    )
}

fn leases(status: &StatusView) -> String {
    let mut rows = table(&["lease", "daemon", ""]);
    for lease in status.leases.iter().filter(|lease| !lease.lease.starts_with("daemon:")) {
        let whose = if lease.daemon == status.daemon { "this one" } else { "" };
        let daemon = if lease.daemon.is_empty() { "nobody" } else { &lease.daemon };
        rows.add_row([&*lease.lease, daemon, whose]);
    }
    rows.to_string()
}

fn caps(agents: &[AgentView]) -> String {
    let mut rows = table(&["agent", "cap", "", "used", "of", "at risk"]);
    let mut whole: Option<&LimitView> = None;
    for agent in agents {
        let mut name = agent.agent.to_string();
        if agent.frozen {
            name.push_str(" FROZEN");
        }
        let mut at_risk = agent.at_risk.to_string();
        for limit in &agent.limits {
            let Some(used) = percent(limit) else { continue };
            if limit.rule.starts_with("wallet.") {
                whole = Some(limit);
                continue;
            }
            rows.add_row([
                std::mem::take(&mut name),
                limit.rule.trim_start_matches("limits.").to_owned(),
                bar(used),
                limit.used.clone(),
                limit.limit.clone(),
                std::mem::take(&mut at_risk),
            ]);
        }
    }
    if let Some((limit, used)) = whole.and_then(|limit| Some((limit, percent(limit)?))) {
        let (rule, spent, of) = ("cap".to_owned(), limit.used.clone(), limit.limit.clone());
        rows.add_row(["the wallet".to_owned(), rule, bar(used), spent, of, String::new()]);
    }
    rows.to_string()
}

/// A bar with its number: never the colour or the length alone.
fn bar(percent: u64) -> String {
    let full = (percent.min(100) * BAR).div_ceil(100);
    let cell = |at| if at < full { '█' } else { '░' };
    format!("{} {percent:>3} %", (0..BAR).map(cell).collect::<String>())
}

fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A size for reading.
pub(super) fn bytes(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} bytes"),
        10_000..=9_999_999 => format!("{} KB", bytes / 1_000),
        10_000_000..=9_999_999_999 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_shows_something_from_the_first_percent_and_is_full_at_all() {
        assert_eq!(bar(0), "░░░░░░░░░░░░░░░░░░░░   0 %");
        assert_eq!(bar(1), "█░░░░░░░░░░░░░░░░░░░   1 %");
        assert_eq!(bar(100), "████████████████████ 100 %");
        assert_eq!(bar(250), "████████████████████ 250 %");
    }
}
