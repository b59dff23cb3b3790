//! Tables for the terminal.

use std::fmt;

use comfy_table::{LineStyle, TableStyle};

use crate::review::one_line;

/// A table whose cells can neither forge a row nor move the cursor: much of what stands in them was
/// written by agents, or by a daemon somewhere else.
pub struct Table(comfy_table::Table);

/// Starts a table: a line below the header, none elsewhere.
#[must_use]
pub fn table(header: &[&str]) -> Table {
    let mut table = comfy_table::Table::new();
    table
        .load_style(TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─')))
        .set_header(header.to_vec());
    Table(table)
}

impl Table {
    /// Adds a row of cells of one line each.
    pub fn add_row(&mut self, cells: impl IntoIterator<Item: ToString>) {
        self.0.add_row(cells.into_iter().map(|cell| one_line(&cell.to_string())));
    }

    /// Adds a row whose last cell has several lines.
    pub fn add_tall_row(
        &mut self,
        cells: impl IntoIterator<Item: ToString>,
        last: impl IntoIterator<Item: ToString>,
    ) {
        let lines: Vec<String> = last.into_iter().map(|line| one_line(&line.to_string())).collect();
        let cells = cells.into_iter().map(|cell| one_line(&cell.to_string()));
        self.0.add_row(cells.chain([lines.join("\n")]));
    }

    /// Returns the number of rows below the header.
    #[must_use]
    pub fn row_count(&self) -> usize {
        self.0.row_count()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_cannot_forge_a_row_or_paint() {
        let mut rows = table(&["payee", "state"]);
        rows.add_row(["acme\n pay_1  paid\u{1b}[2K\u{202e}", "queued"]);
        rows.add_tall_row(["x"], ["one\ntwo\u{7}", "three"]);
        let text = rows.to_string();
        // Header, its line, one row, and one of two lines.
        assert_eq!(text.lines().count(), 5, "{text}");
        assert!(!text.contains(['\u{1b}', '\u{202e}', '\u{7}']), "{text:?}");
    }
}
