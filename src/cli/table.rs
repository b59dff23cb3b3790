//! Tables for the terminal.

use comfy_table::{LineStyle, Table, TableStyle};

/// Starts a table: a line below the header, none elsewhere.
#[must_use]
pub fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')))
        .set_header(header.to_vec());
    table
}
