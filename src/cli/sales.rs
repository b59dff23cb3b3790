//! `bursar sales`: what the paywall sold, by route and one by one.

use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::json;

use super::{CliError, Kind, table::table};
use crate::{
    clock,
    config::Config,
    store::{RouteSales, SaleRow, Store, StoreError},
};

/// List what was sold: what each route earned, by the sales and by the ledger, and the newest sales.
///
/// It reads the store, beside a running daemon or without one. A sale is `final` once the money is there
/// at depth; `void`, `closed` and `failed` ones brought nothing and cost nothing.
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "Examples:\n  bursar sales\n  bursar sales --route '/weather/{city}' --json"
)]
pub struct Args {
    /// The daemon's configuration file: it names the store.
    #[arg(long, env = "BURSAR_CONFIG", default_value = "bursar.toml")]
    config: PathBuf,
    /// Only sales of this route, as the price list writes it.
    #[arg(long)]
    route: Option<String>,
    /// How many sales to list: 0 to 10,000.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    limit: u32,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Lists.
///
/// # Errors
/// `Kind::Mismatch` (exit 4) where sales and ledger differ.
pub fn run(args: &Args) -> Result<(), CliError> {
    let config = Config::read(&args.config)?;
    let failed = |error: StoreError| CliError::new(Kind::Unreachable, error);
    let (mut routes, sales) = super::block_on(async {
        let store = Store::open(&config.store).await.map_err(failed)?;
        let routes = store.route_sales(config.chain.wallet).await.map_err(failed)?;
        Ok((routes, store.sales(args.route.as_deref(), args.limit).await.map_err(failed)?))
    })?;
    if let Some(route) = &args.route {
        routes.retain(|line| line.route == *route);
    }
    if args.json {
        println!("{}", json!({ "routes": routes, "sales": sales }));
    } else if routes.is_empty() {
        println!("nothing was sold yet: `bursar serve --paywall` sells");
    } else {
        println!("{}\n\n{}", self::routes(&routes), list(&sales));
    }
    if routes.iter().all(RouteSales::agrees) {
        return Ok(());
    }
    Err(CliError::new(Kind::Mismatch, "sales and ledger differ")
        .hint("`bursar reconcile` says more"))
}

/// What routes earned.
pub(super) fn routes(routes: &[RouteSales]) -> String {
    let names =
        ["route", "pays", "sold", "calls", "revenue", "in the ledger", "on its way", "unpaid"];
    let mut lines = table(&names);
    for line in routes {
        lines.add_row([
            line.route.clone(),
            line.pay_to.to_string(),
            line.sold.to_string(),
            line.calls.to_string(),
            line.revenue.to_string(),
            line.posted.to_string(),
            line.pending_revenue.to_string(),
            line.unpaid.to_string(),
        ]);
    }
    lines.to_string()
}

fn list(sales: &[SaleRow]) -> String {
    let mut lines = table(&["when (UTC)", "route", "by", "payer", "USDC", "state", "transaction"]);
    for sale in sales {
        lines.add_row([
            clock::at_ms(sale.created_ms).to_string(),
            format!("{} {}", sale.method, sale.route),
            sale.protocol.as_str().to_owned(),
            sale.payer.to_string(),
            sale.amount.to_string(),
            sale.state.as_str().to_owned(),
            sale.tx_hash.map(|hash| hash.to_string()).unwrap_or_default(),
        ]);
    }
    lines.to_string()
}
