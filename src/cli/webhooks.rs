//! `bursar webhooks`: who is told of events, and what came of it.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::{Args as ClapArgs, Subcommand};
use jiff::{Timestamp, ToSpan as _};
use serde::Serialize;

use super::{
    CliError, Kind, block_on,
    payee::Span,
    remote::{OperatorArgs, Remote},
    table::table,
};
use crate::{
    api::DeliveryQuery,
    keys::create_webhook_secret,
    review::one_line,
    view::{DeliveryState, DeliveryView, ReplayBody, WebhookView},
};

/// Longest wait for what comes of a test: the longest answer, and some.
const TEST_WAIT: Duration = Duration::from_secs(35);

/// Characters of an answer in a table; `--json` has all of it.
const SHOWN: usize = 48;

/// Webhooks: the endpoints, what went to them, and sending it again.
///
/// The daemon's configuration names the endpoints ([[webhooks.endpoints]]). What is sent follows the
/// Standard Webhooks specification: any of its libraries verifies it.
#[derive(ClapArgs, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Deliveries(Deliveries),
    Test(Test),
    Replay(Replay),
    Enable(Enable),
    Secret(Secret),
}

/// List the endpoints and how they fare.
#[derive(ClapArgs, Debug)]
struct List {
    #[command(flatten)]
    operator: OperatorArgs,
}

/// List deliveries, newest event first.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Example:\n\
    \x20 bursar webhooks deliveries --state dead --keystore alice.json")]
struct Deliveries {
    #[command(flatten)]
    operator: OperatorArgs,
    /// Only this endpoint's.
    #[arg(long, value_name = "NAME")]
    endpoint: Option<String>,
    /// Only those in this state.
    #[arg(long)]
    state: Option<DeliveryState>,
    /// Only this event's.
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// At most so many: 1 to 200.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
}

/// Send a `webhook.test` event to an endpoint, and tell what came of it.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Example:\n\
    \x20 bursar webhooks test billing --keystore alice.json")]
struct Test {
    #[command(flatten)]
    operator: OperatorArgs,
    /// The endpoint's name.
    endpoint: String,
}

/// Send events to an endpoint once more, under the same ids: what it missed, or one event.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:\n\
    \x20 bursar webhooks replay billing --since 3d --keystore alice.json\n\
    \x20 bursar webhooks replay billing --event end_pay_0199f0c0a1b27c3d8e4f5a6b7c8d9e0f \\\n\
    \x20     --keystore alice.json")]
#[command(group = clap::ArgGroup::new("which").required(true).args(["event", "since"]))]
struct Replay {
    #[command(flatten)]
    operator: OperatorArgs,
    /// The endpoint's name.
    endpoint: String,
    /// One event, whether it was delivered or not.
    #[arg(long, value_name = "ID")]
    event: Option<String>,
    /// Everything since that it wants and has not taken: a time like 2026-08-30T12:00:00Z, or how
    /// long ago, like 30m, 12h, 3d.
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Timestamp>,
    /// With --since: what it has taken too.
    #[arg(long, requires = "since")]
    delivered: bool,
}

/// Send to an endpoint again that was disabled because it answered 410, or at once to one that waits.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Example:\n\
    \x20 bursar webhooks enable billing --keystore alice.json")]
struct Enable {
    #[command(flatten)]
    operator: OperatorArgs,
    /// The endpoint's name.
    endpoint: String,
}

/// Make a secret for an endpoint: a new file of mode 0600. Needs no daemon.
///
/// The receiver gets the line that starts with whsec_. To change a secret, let the file hold the new
/// line below the old one; once the receiver knows it, take the old one out. The daemon reads the file
/// again for each delivery.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Example:\n\
    \x20 bursar webhooks secret billing.secret")]
struct Secret {
    /// The file to write.
    file: PathBuf,
}

fn since(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let wrong = |_| "use a time like 2026-08-30T12:00:00Z, or 30m, 12h, 3d".to_owned();
    let Span(seconds) = text.parse().map_err(wrong)?;
    Timestamp::now().checked_sub(i64::from(seconds).seconds()).map_err(|error| error.to_string())
}

#[derive(Serialize)]
struct Queued {
    queued: u64,
}

/// Runs the command.
///
/// # Errors
/// The daemon is out of reach or refuses; a test that was not taken.
pub fn run(args: &Args, remote: &Remote) -> Result<(), CliError> {
    match &args.command {
        Command::List(args) => block_on(async {
            let session = args.operator.connect(remote).await?;
            remote.print(&session.client.webhooks().await?, |endpoints| endpoint_rows(endpoints))
        }),
        Command::Deliveries(args) => block_on(async {
            let session = args.operator.connect(remote).await?;
            let query = DeliveryQuery {
                endpoint: args.endpoint.clone(),
                state: args.state,
                event: args.event.clone(),
                limit: Some(args.limit),
            };
            remote.print(&session.client.deliveries(&query).await?, |list| delivery_rows(list))
        }),
        Command::Test(args) => block_on(test(args, remote)),
        Command::Replay(args) => block_on(async {
            let session = args.operator.connect(remote).await?;
            let body = ReplayBody {
                event: args.event.clone(),
                since: args.since,
                delivered: args.delivered,
            };
            let queued = session.client.replay_webhooks(&args.endpoint, &body).await?;
            remote.print(&Queued { queued }, |_| format!("{queued} events go out again"))
        }),
        Command::Enable(args) => block_on(async {
            let session = args.operator.connect(remote).await?;
            let endpoint = session.client.enable_webhook(&args.endpoint).await?;
            remote.print(&endpoint, |endpoint| endpoint_rows(std::slice::from_ref(endpoint)))
        }),
        Command::Secret(args) => {
            create_webhook_secret(&args.file)?;
            remote.print(&args.file, |file| format!("secret  {} (mode 0600)", file.display()))
        }
    }
}

async fn test(args: &Test, remote: &Remote) -> Result<(), CliError> {
    let client = args.operator.connect(remote).await?.client;
    let mut delivery = client.test_webhook(&args.endpoint).await?;
    let deadline = Instant::now() + TEST_WAIT;
    let query = DeliveryQuery {
        endpoint: Some(args.endpoint.clone()),
        event: Some(delivery.event.clone()),
        ..DeliveryQuery::default()
    };
    while delivery.tries == 0 && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(200)).await;
        delivery = client.deliveries(&query).await?.pop().unwrap_or(delivery);
    }
    remote.print(&delivery, |delivery| delivery_rows(std::slice::from_ref(delivery)))?;
    if delivery.state == DeliveryState::Delivered {
        return Ok(());
    }
    let why = delivery.answer.unwrap_or_else(|| "it waits, or is disabled".to_owned());
    let text = format!("the endpoint did not take it: {why}");
    Err(CliError::new(Kind::Unreachable, text)
        .hint("`bursar webhooks list` shows its state; it is tried again on schedule"))
}

fn at(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "-".to_owned(), |at| format!("{at:.0}"))
}

/// A table of endpoints, and below it what those answer that fail.
pub(super) fn endpoint_rows(endpoints: &[WebhookView]) -> String {
    if endpoints.is_empty() {
        return "webhooks none: [[webhooks.endpoints]] in the configuration names who is told"
            .to_owned();
    }
    let mut rows = table(&["webhook", "url", "state", "waiting", "dead", "last taken"]);
    let mut answers = String::new();
    for endpoint in endpoints {
        let state = match (&endpoint.disabled, endpoint.failures) {
            (Some(_), _) => "DISABLED".to_owned(),
            (None, 0) => "ok".to_owned(),
            (None, failures) => format!("FAILING ({failures})"),
        };
        rows.add_row([
            endpoint.name.clone(),
            endpoint.url.clone(),
            state,
            endpoint.pending.to_string(),
            endpoint.dead.to_string(),
            at(endpoint.delivered_at),
        ]);
        if let Some(answer) = endpoint.disabled.as_ref().or(endpoint.answer.as_ref()) {
            answers.push_str(&format!("\n{}: {}", endpoint.name, one_line(answer)));
        }
    }
    format!("{rows}{answers}")
}

fn delivery_rows(deliveries: &[DeliveryView]) -> String {
    if deliveries.is_empty() {
        return "no deliveries".to_owned();
    }
    let mut rows = table(&["event", "kind", "endpoint", "state", "tries", "next try", "answer"]);
    for delivery in deliveries {
        let next = (delivery.state == DeliveryState::Pending).then_some(delivery.due_at);
        rows.add_row([
            delivery.event.clone(),
            delivery.kind.clone(),
            delivery.endpoint.clone(),
            delivery.state.as_str().to_owned(),
            delivery.tries.to_string(),
            at(next),
            delivery.answer.iter().flat_map(|answer| answer.chars()).take(SHOWN).collect(),
        ]);
    }
    rows.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_or_how_long_ago() {
        assert_eq!(since("2026-08-30T12:00:00Z").unwrap().as_second(), 1_788_091_200);
        let ago = Timestamp::now().as_second() - since("3d").unwrap().as_second();
        assert!((3 * 86_400..3 * 86_400 + 60).contains(&ago), "{ago}");
        for text in ["", "d", "3", "-3d", "3w", "é", "9999999999999999999d"] {
            assert!(since(text).is_err(), "{text}");
        }
    }
}
