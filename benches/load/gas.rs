//! Gas of channels, from `snapshots/gas.json`: receipts of real transactions, which `make gas` measures
//! anew and holds against that file in every `make test`.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};

use crate::table::{Figures, Series};

/// Rows of the report, their names in the file, what is aimed at.
const ROWS: [(&str, &str, &str); 9] = [
    ("claiming 1, packed", "channel claim of 1, packed, per channel", ""),
    ("claiming 10, packed", "channel claim of 10, packed, per channel", ""),
    ("claiming 100, packed", "channel claim of 100, packed, per channel", "<= 15,000"),
    ("claiming 100, x402's rows", "channel claim of 100, x402's rows, per channel", ""),
    ("claiming and paying out 1", "channel claimAndSettle of 1, per channel", ""),
    ("claiming and paying out 10", "channel claimAndSettle of 10, per channel", ""),
    ("claiming and paying out 100", "channel claimAndSettle of 100, per channel", ""),
    ("payout alone, for all channels", "channel settle", ""),
    ("funding by the wallet, a new channel", "fundChannel, a new channel, day + wallet", ""),
];

/// Prints what a channel costs.
pub fn report(figures: &mut Figures) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("snapshots/gas.json");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let measured: BTreeMap<String, f64> = serde_json::from_str(&text)?;
    let row = |(name, key, aim)| {
        let gas = *measured.get(key).with_context(|| format!("no `{key}` in gas.json"))?;
        Ok((name, "gas", Series::new(vec![gas]), aim))
    };
    let rows = ROWS.into_iter().map(row).collect::<Result<_>>()?;
    figures.table("Gas of a channel, from receipts (snapshots/gas.json)", rows);
    Ok(())
}
