//! `bursar reconcile`: the chain's own record against the books, and what the daemon found of it by
//! itself.

use std::path::PathBuf;

use alloy::primitives::{U256, utils::format_units};
use clap::Args as ClapArgs;
use serde::Serialize;
use serde_json::json;

use super::{CliError, Kind, table::table};
use crate::{
    audit::{Draft, EventKind},
    clock::{self, Clock},
    config::Config,
    reconcile::{Escrows, Mark, Movement, PayeeLine, ReconcileError, Report, reconcile},
    rpc::Rpc,
    store::{Finding, Store, StoreError},
};

/// Differences that are printed of each kind.
const SHOWN: usize = 20;
/// Findings that are read.
const LISTED: u32 = 1_000;

/// What `bursar reconcile` takes.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The daemon's configuration file: it names chain and store.
    #[arg(long, env = "BURSAR_CONFIG", default_value = "bursar.toml")]
    config: PathBuf,
    /// Ask for more: each payee's whole balance is what it got. True where payees are new and never
    /// pay, as on a devnet.
    #[arg(long)]
    balances: bool,
    /// Print only what the daemon found by itself, which compares at every block: up to where, and
    /// what stands. Nothing is compared anew.
    #[arg(long, conflicts_with = "balances")]
    watched: bool,
    /// Close a finding that a person has explained; its name stands in the list. Takes --reason.
    #[arg(long, value_name = "FINDING", requires = "reason")]
    close: Option<String>,
    /// Why it is closed: goes into the audit log.
    #[arg(long, requires = "close")]
    reason: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What the daemon found by itself.
#[derive(Debug, Serialize)]
struct Watched {
    /// How far it is; none before its first look.
    mark: Option<Mark>,
    standing: Vec<Finding>,
}

/// Compares; works beside a running daemon and without one.
///
/// # Errors
/// `Kind::Mismatch` (exit 4) where chain and books differ.
pub fn run(args: Args) -> Result<(), CliError> {
    let config = Config::read(&args.config)?;
    if let (Some(finding), Some(reason)) = (&args.close, &args.reason) {
        return super::block_on(close(&config, finding, reason));
    }
    let (watched, report) = super::block_on(async {
        let store = open(&config).await?;
        let report = if args.watched {
            None
        } else {
            let rpc =
                Rpc::new(config.chain.rpc.clone(), config.chain.chain_id, config.rpc_timeout())
                    .map_err(|error| CliError::new(Kind::Unreachable, error))?;
            Some(reconcile(&config.chain, &rpc, &store).await?)
        };
        // Last, so that it is not older than the comparison.
        let mark = Mark::read(&store).await.map_err(ReconcileError::from)?;
        let standing = store.findings_open(LISTED).await.map_err(ReconcileError::from)?;
        Ok((Watched { mark, standing }, report))
    })?;
    let agrees = report.as_ref().is_none_or(Report::agrees) && watched.standing.is_empty();
    let exact = !args.balances
        || report.iter().flat_map(|report| &report.payees).all(PayeeLine::holds_only_this);
    if args.json {
        let ok = agrees && exact;
        println!("{}", json!({ "ok": ok, "watched": watched, "report": report }));
    } else {
        if let Some(report) = &report {
            print!("{}", page(&config, report));
        }
        print!("{}", story(&watched));
    }
    if !agrees {
        return Err(CliError::new(Kind::Mismatch, "chain and books differ")
            .hint("`bursar audit show PAYMENT` tells a payment's story; freeze first, ask then"));
    }
    if !exact {
        return Err(CliError::new(
            Kind::Mismatch,
            "a payee's whole balance is not what it got from the wallet",
        ));
    }
    Ok(())
}

async fn open(config: &Config) -> Result<Store, CliError> {
    Store::open(&config.store).await.map_err(|error| CliError::new(Kind::Unreachable, error))
}

async fn close(config: &Config, id: &str, reason: &str) -> Result<(), CliError> {
    let failed = |error: StoreError| CliError::new(Kind::Unreachable, error);
    let store = open(config).await?;
    let now_ms = Clock::system().now_ms();
    let mut tx = store.begin().await.map_err(failed)?;
    if !tx.clear_finding(id, now_ms).await.map_err(failed)? {
        return Err(CliError::new(Kind::Refused, format!("no finding `{id}` stands"))
            .hint("`bursar reconcile --watched` lists them"));
    }
    let draft = Draft::new(EventKind::ReconcileMatched, "host")
        .data(json!({ "finding": id, "reason": reason }));
    tx.append_audit(&[draft], now_ms).await.map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    println!("closed {id}");
    Ok(())
}

fn story(watched: &Watched) -> String {
    let Watched { mark, standing } = watched;
    let mut text = match mark {
        Some(mark) => format!(
            "watched by the daemon up to block {} and audit entry {}, {}\n",
            mark.next.saturating_sub(1),
            mark.seq,
            clock::at_ms(mark.at_ms)
        ),
        None => "not watched yet: the daemon has not run on this store\n".to_owned(),
    };
    if standing.is_empty() {
        return text + "no difference stands\n";
    }
    let mut findings = table(&["finding", "since (UTC)", "what"]);
    for finding in standing.iter().take(SHOWN) {
        let since = clock::at_ms(finding.found_ms).to_string();
        findings.add_row([finding.id.clone(), since, finding.what.clone()]);
    }
    text += &format!("{findings}\n");
    if standing.len() > SHOWN {
        text += &format!("and {} more: --json lists them\n", standing.len() - SHOWN);
    }
    text
}

impl From<ReconcileError> for CliError {
    fn from(error: ReconcileError) -> Self {
        Self::new(Kind::Unreachable, error)
    }
}

fn page(config: &Config, report: &Report) -> String {
    let label = |line: &PayeeLine| {
        let known = config.payees.iter().find(|known| known.address == line.payee);
        known.map_or_else(|| line.payee.to_string(), |known| known.label.clone())
    };
    let mut payees =
        table(&["payee", "got on chain", "posted in the ledger", "in flight", "balance", "agree"]);
    let mut lines: Vec<(String, &PayeeLine)> =
        report.payees.iter().map(|line| (label(line), line)).collect();
    lines.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (label, line) in lines {
        payees.add_row([
            label,
            line.received.to_string(),
            line.posted.to_string(),
            line.in_flight.to_string(),
            usdc(line.balance),
            if line.agrees() { "yes" } else { "NO" }.to_owned(),
        ]);
    }
    let mut wallet = table(&["wallet", "USDC"]);
    wallet.add_row(["came in".to_owned(), usdc(report.deposited)]);
    wallet.add_row(["paid, by the chain".to_owned(), usdc(report.paid)]);
    wallet.add_row(["paid, by the ledger".to_owned(), report.ledger_paid.to_string()]);
    wallet.add_row(["taken out by operators".to_owned(), usdc(report.withdrawn)]);
    wallet.add_row(["balance, by the chain".to_owned(), usdc(report.balance)]);
    let mut text = format!("{payees}\n\n{wallet}\n\n");
    if let Some(escrows) = &report.escrows {
        text += &escrow_page(escrows);
    }
    if !report.channels.is_empty() {
        let mut rows = table(&["channel", "to", "put in", "claimed", "still there", "came back"]);
        for line in report.channels.iter().take(SHOWN) {
            let known = config.payees.iter().find(|known| known.address == line.payee);
            let back = line.funded.saturating_sub(line.claimed).saturating_sub(line.held);
            rows.add_row([
                line.id.to_string(),
                known.map_or_else(|| line.payee.to_string(), |known| known.label.clone()),
                line.funded.to_string(),
                line.claimed.to_string(),
                line.held.to_string(),
                back.to_string(),
            ]);
        }
        text += &format!("{rows}\n\n");
        if report.channels.len() > SHOWN {
            text += &format!("and {} more: --json lists them\n\n", report.channels.len() - SHOWN);
        }
    }
    if !report.sales.is_empty() {
        text += &format!("{}\n\n", super::sales::routes(&report.sales));
    }
    text += &differences("on chain, and in no payment", &report.unexplained);
    text += &differences("called paid, and not on chain", &report.missing);
    if !report.wallet_agrees() {
        text += "The wallet's balance is not what came in less what went out.\n";
    }
    if report.agrees() {
        text += &format!(
            "chain and books agree to the base unit at block {}: {} payments, {} payees\n",
            report.block,
            report.payments,
            report.payees.len()
        );
    }
    text
}

/// What waits in escrows, and where contract and books differ.
fn escrow_page(escrows: &Escrows) -> String {
    let mut rows = table(&["escrows", "USDC"]);
    rows.add_row(["funded so far".to_owned(), format!("{} escrows", escrows.count)]);
    rows.add_row(["waiting, by the ledger".to_owned(), escrows.held.to_string()]);
    rows.add_row(["owed to accounts USDC refused".to_owned(), escrows.owed.to_string()]);
    rows.add_row(["in the contract, all payers'".to_owned(), usdc(escrows.balance)]);
    rows.add_row(["agree".to_owned(), if escrows.agree() { "yes" } else { "NO" }.to_owned()]);
    let mut text = format!("{rows}\n\n");
    for line in escrows.differ.iter().take(SHOWN) {
        text += &format!(
            "  escrow {}: waiting {} by the contract, {} by the ledger; paid out, back, returned \
             {:?} by the contract, {:?} by the books (base units)\n",
            line.id, line.held, line.ledger, line.on_chain, line.in_books
        );
    }
    if escrows.differ.len() > SHOWN {
        text += &format!("and {} more: --json lists them\n", escrows.differ.len() - SHOWN);
    }
    text
}

fn differences(what: &str, movements: &[Movement]) -> String {
    if movements.is_empty() {
        return String::new();
    }
    let mut text = format!("{} {what}:\n", movements.len());
    for movement in movements.iter().take(SHOWN) {
        let Movement { transaction, payee, amount } = movement;
        text += &format!("  {amount} USDC to {payee} in {transaction}\n");
    }
    text
}

fn usdc(units: U256) -> String {
    let text = format_units(units, 6).unwrap_or_else(|_| units.to_string());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
