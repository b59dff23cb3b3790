//! `bursar reconcile`: the chain's own record against the books.

use std::path::PathBuf;

use alloy::primitives::{U256, utils::format_units};
use clap::Args as ClapArgs;
use serde_json::json;

use super::{CliError, Kind, table::table};
use crate::{
    config::Config,
    reconcile::{Movement, PayeeLine, ReconcileError, Report, reconcile},
    rpc::Rpc,
    store::Store,
};

/// Differences that are printed of each kind.
const SHOWN: usize = 20;

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
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Compares; works beside a running daemon and without one.
///
/// # Errors
/// `Kind::Mismatch` (exit 4) where chain and books differ.
pub fn run(args: Args) -> Result<(), CliError> {
    let config = Config::read(&args.config)?;
    let report = super::block_on(async {
        let store = Store::open(&config.store)
            .await
            .map_err(|error| CliError::new(Kind::Unreachable, error))?;
        let rpc = Rpc::new(config.chain.rpc.clone(), config.chain.chain_id, config.rpc_timeout())
            .map_err(|error| CliError::new(Kind::Unreachable, error))?;
        reconcile(&config.chain, &rpc, &store).await.map_err(CliError::from)
    })?;
    let exact = !args.balances || report.payees.iter().all(PayeeLine::holds_only_this);
    if args.json {
        println!("{}", json!({ "ok": report.agrees() && exact, "report": report }));
    } else {
        print!("{}", page(&config, &report));
    }
    if !report.agrees() {
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
