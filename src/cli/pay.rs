//! `bursar pay`, `bursar payments`, `bursar permissions`: an agent's verbs.

use std::{path::PathBuf, time::Duration};

use alloy::primitives::B256;
use clap::{Args as ClapArgs, builder::TypedValueParser as _};

use super::{CliError, Kind, block_on, remote::Remote, table::table};
use crate::{
    buyer::FetchRoom,
    client::AgentClient,
    keys::read_agent_key,
    money::Usdc,
    payment::{Context, PaymentId, PaymentRequest, State},
    policy::FetchLoops,
    review::one_line,
    view::{LimitView, PaymentPage, PaymentView, Permissions, Simulation, Verdict, WaitView},
};

/// Who asks.
#[derive(ClapArgs, Debug)]
pub struct AgentArgs {
    /// The agent's request key: a file made by `bursar agent keygen`, mode 0600.
    #[arg(long, env = "BURSAR_AGENT_KEY", value_name = "FILE")]
    agent_key: PathBuf,
}

impl AgentArgs {
    pub(super) fn client(&self, remote: &Remote) -> Result<AgentClient, CliError> {
        let key = read_agent_key(&self.agent_key)?;
        Ok(AgentClient::new(&remote.url, key)?.signed_origin(remote.origin()))
    }
}

/// Ask for a payment, as an agent.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:\n\
    \x20 bursar pay acme 1.25 --reason \"weather data\" --invoice INV-7 --key order-7f3a\n\
    \x20 bursar pay 0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC 40 --reason \"GPU hours\" --wait\n\
    \x20 bursar pay acme 900 --reason \"annual plan\" --simulate")]
pub struct PayArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// A registered payee's label, or its address.
    payee: String,
    /// Decimal USDC, for example 1.25.
    amount: String,
    /// Why: 1 to 500 bytes, for the operators and the audit log.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Names the purchase: asking again with the same key never pays twice. Made up and printed
    /// where absent.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// The invoice this pays; one invoice of one payee is paid once.
    #[arg(long, value_name = "ID")]
    invoice: Option<String>,
    /// The order it belongs to.
    #[arg(long, value_name = "ID")]
    order: Option<String>,
    /// The workflow or job that asks.
    #[arg(long, value_name = "ID")]
    workflow: Option<String>,
    /// The person on whose behalf it is paid.
    #[arg(long, value_name = "WHO")]
    sponsor: Option<String>,
    /// Hash of the evidence for the work: 0x and 64 hexadecimal digits.
    #[arg(long, value_name = "HASH")]
    evidence: Option<B256>,
    /// The spending category; must be one of the payee's.
    #[arg(long, value_name = "NAME")]
    category: Option<String>,
    /// The host that quoted the price.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Only decide; pay nothing.
    #[arg(long, conflicts_with_all = ["key", "wait"])]
    simulate: bool,
    /// Wait until the payment has come to its end.
    #[arg(long)]
    wait: bool,
}

/// List an agent's payments, or show one.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:\n\
    \x20 bursar payments --state awaiting_approval\n\
    \x20 bursar payments pay_0199f0c0a1b27c3d8e4f5a6b7c8d9e0f")]
pub struct ListArgs {
    #[command(flatten)]
    agent: AgentArgs,
    /// Show this one.
    id: Option<PaymentId>,
    /// Only payments in this state.
    #[arg(long, conflicts_with = "id",
          value_parser = clap::builder::PossibleValuesParser::new(State::ALL.map(State::as_str))
              .try_map(|name| State::from_name(&name).ok_or("not a state")))]
    state: Option<State>,
    /// Payments on the page: 1 to 200.
    #[arg(long, default_value_t = 20, conflicts_with = "id",
          value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    /// The page after: `next_cursor` of the one before.
    #[arg(long, conflicts_with = "id")]
    cursor: Option<String>,
}

/// Show what an agent may do: limits, what is used, what is left, whom it may pay.
#[derive(ClapArgs, Debug)]
pub struct PermissionsArgs {
    #[command(flatten)]
    agent: AgentArgs,
}

/// How often a waiting `pay` looks.
const LOOK: Duration = Duration::from_millis(500);

/// Runs `bursar pay`.
///
/// # Errors
/// The key cannot be read, the daemon is out of reach, or it refuses.
pub fn pay(args: &PayArgs, remote: &Remote) -> Result<(), CliError> {
    let client = args.agent.client(remote)?;
    let request = PaymentRequest {
        payee: args.payee.clone(),
        amount: args.amount.clone(),
        currency: "USDC".to_owned(),
        reason: args.reason.clone(),
        context: Context {
            invoice: args.invoice.clone(),
            order: args.order.clone(),
            workflow: args.workflow.clone(),
            sponsor: args.sponsor.clone(),
            evidence: args.evidence,
            category: args.category.clone(),
            host: args.host.clone(),
        },
    };
    if args.simulate {
        let simulation = block_on(async { Ok(client.simulate(&request).await?) })?;
        return remote.print(&simulation, simulation_text);
    }
    let key = args.key.clone().unwrap_or_else(|| {
        let key = uuid::Uuid::now_v7().to_string();
        eprintln!("key {key}; if you must ask again, add --key {key}");
        key
    });
    let payment = block_on(async {
        let mut payment = client.submit(&request, &key).await?;
        let mut told = None;
        while args.wait && !payment.state.is_terminal() {
            // Whoever waits is told once what for.
            if let Some(wait) = payment.waiting.as_ref().filter(|wait| told != Some(wait.what)) {
                eprintln!("waits {}", wait_text(wait));
                told = Some(wait.what);
            }
            tokio::time::sleep(LOOK).await;
            payment = client.payment(payment.id).await?;
        }
        Ok(payment)
    })?;
    remote.print(&payment, payment_text)?;
    let failed =
        matches!(payment.state, State::Denied | State::Failed | State::Rejected | State::Expired);
    if failed {
        return Err(CliError::new(Kind::Refused, format!("the payment is {}", payment.state)));
    }
    Ok(())
}

/// Runs `bursar payments`.
///
/// # Errors
/// As [`pay`].
pub fn list(args: &ListArgs, remote: &Remote) -> Result<(), CliError> {
    let client = args.agent.client(remote)?;
    if let Some(id) = args.id {
        let payment = block_on(async { Ok(client.payment(id).await?) })?;
        return remote.print(&payment, payment_text);
    }
    let cursor = args.cursor.as_deref();
    let page = block_on(async { Ok(client.payments(args.state, cursor, args.limit).await?) })?;
    remote.print(&page, page_text)
}

/// Runs `bursar permissions`.
///
/// # Errors
/// As [`pay`].
pub fn permissions(args: &PermissionsArgs, remote: &Remote) -> Result<(), CliError> {
    let client = args.agent.client(remote)?;
    let permissions = block_on(async { Ok(client.permissions().await?) })?;
    remote.print(&permissions, permissions_text)
}

/// One payment, field by field.
fn payment_text(payment: &PaymentView) -> String {
    let payee = match &payment.payee_label {
        Some(label) => format!("{label} ({})", payment.payee),
        None => payment.payee.to_string(),
    };
    let mut lines = vec![
        ("payment", payment.id.to_string()),
        ("state", payment.state.to_string()),
        ("payee", payee),
        ("amount", format!("{} USDC", payment.amount)),
        ("reason", payment.reason.clone()),
        ("key", payment.idempotency_key.clone()),
        ("accepted", payment.created_at.to_string()),
    ];
    if let Some(refusal) = &payment.refusal {
        lines.push(("because", refusal.detail.clone()));
    }
    if let Some(wait) = &payment.waiting {
        lines.push(("waits", wait_text(wait)));
    }
    if let Some(transaction) = payment.transaction {
        lines.push(("transaction", transaction.to_string()));
    }
    if let Some(block) = payment.block {
        lines.push(("block", block.to_string()));
    }
    let lines: Vec<String> =
        lines.iter().map(|(name, value)| format!("{name:<13}{}", one_line(value))).collect();
    lines.join("\n")
}

fn wait_text(wait: &WaitView) -> String {
    let WaitView { what, since, detail, hint } = wait;
    one_line(&format!("for {} since {since}: {detail}; {hint}", what.as_str()))
}

fn page_text(page: &PaymentPage) -> String {
    let mut rows = table(&["payment", "state", "amount", "payee", "accepted"]);
    for payment in &page.payments {
        rows.add_row([
            payment.id.to_string(),
            match &payment.waiting {
                Some(wait) => format!("{}, waits for {}", payment.state, wait.what.as_str()),
                None => payment.state.to_string(),
            },
            payment.amount.to_string(),
            payment.payee_label.clone().unwrap_or_else(|| payment.payee.to_string()),
            payment.created_at.to_string(),
        ]);
    }
    match &page.next_cursor {
        Some(cursor) => format!("{rows}\nmore: --cursor {}", one_line(cursor)),
        None => rows.to_string(),
    }
}

fn simulation_text(simulation: &Simulation) -> String {
    let mut text = match simulation.decision {
        Verdict::Allow => "allow: it would be paid".to_owned(),
        Verdict::Ask => "ask: it would wait for the operators".to_owned(),
        Verdict::Deny => "deny: it would be refused".to_owned(),
    };
    for refusal in &simulation.because {
        text.push_str(&format!("\n  {} ({})", one_line(&refusal.detail), refusal.code.as_str()));
    }
    let mut rows = table(&["rule", "passed", "limit", "observed"]);
    for rule in &simulation.rules {
        let passed = if rule.passed { "yes" } else { "no" };
        rows.add_row([
            rule.rule.as_str(),
            passed,
            rule.limit.as_deref().unwrap_or("-"),
            rule.observed.as_deref().unwrap_or("-"),
        ]);
    }
    format!("{text}\n\n{rows}")
}

fn permissions_text(permissions: &Permissions) -> String {
    let active = match &permissions.inactive_because {
        None if permissions.active => "may pay".to_owned(),
        None => "may not pay".to_owned(),
        Some(why) => format!("may not pay: {}", one_line(&why.detail)),
    };
    let mut payees = table(&["payee", "address", "categories"]);
    for payee in &permissions.payees {
        payees.add_row([
            payee.label.clone().unwrap_or_else(|| "-".to_owned()),
            payee.address.to_string(),
            payee.categories.join(", "),
        ]);
    }
    let mut limits = permissions.limits.clone();
    let fetch = match &permissions.fetch {
        Some(fetch) => {
            limits.extend(fetch_limits(fetch));
            fetch_text(fetch)
        }
        None => "buys nothing over HTTP: its policy has no [fetch]".to_owned(),
    };
    format!(
        "{} ({}) {active}\nceiling {} USDC; until {}; policy version {}; categories {}\n{fetch}\n\n{}\n\n{payees}",
        permissions.agent,
        permissions.address,
        permissions.ceiling,
        permissions.expires_at,
        permissions.policy_version,
        one_line(&permissions.categories.join(", ")),
        limits_text(&limits),
    )
}

/// What has a limit and no count.
fn fetch_text(fetch: &FetchRoom) -> String {
    let hosts = match fetch.hosts.as_slice() {
        [] => "any host".to_owned(),
        hosts => one_line(&hosts.join(", ")),
    };
    let size = |most: Option<Usdc>| most.map_or("none".to_owned(), |most| format!("{most} USDC"));
    let FetchLoops { same_call, failures, within_s } = fetch.loops;
    format!(
        "buys over HTTP from {hosts}: {} USDC a call, {} USDC a host in 24 hours\n\
         the same call {same_call} times in {within_s} s, {failures} failures; float {}; deposit into a \
         channel {}",
        fetch.per_call,
        fetch.host_day,
        size(fetch.float),
        size(fetch.channel),
    )
}

fn fetch_limits(fetch: &FetchRoom) -> Vec<LimitView> {
    let mut rows = fetch.limits.clone();
    rows.extend(fetch.by_host.iter().map(|host| LimitView {
        rule: format!("fetch.host_day {}", one_line(&host.host)),
        limit: fetch.host_day.to_string(),
        used: host.used.to_string(),
        remaining: host.remaining.to_string(),
        returns_in: None,
        on_chain: false,
    }));
    rows.extend(fetch.coupons.iter().map(|size| LimitView {
        rule: format!("coupons of {}", size.most),
        limit: size.count.to_string(),
        used: (size.count - size.remaining.min(size.count)).to_string(),
        remaining: size.remaining.to_string(),
        returns_in: Some(size.returns_in),
        on_chain: true,
    }));
    rows
}

/// Limits as a table.
pub(super) fn limits_text(limits: &[LimitView]) -> String {
    let mut rows = table(&["rule", "limit", "used", "remaining", "returns in", "held by"]);
    for limit in limits {
        rows.add_row([
            limit.rule.clone(),
            limit.limit.clone(),
            limit.used.clone(),
            limit.remaining.clone(),
            limit.returns_in.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds} s")),
            if limit.on_chain { "contract" } else { "daemon" }.to_owned(),
        ]);
    }
    rows.to_string()
}
