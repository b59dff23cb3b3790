//! Statements over many rows. A group of payments costs a few statements, not a few for each.

use sqlx::{Any, AssertSqlSafe, any::AnyArguments, query::Query};

/// Rows of one statement at most.
const MOST: usize = 64;

/// A statement with a list of rows in it: `head VALUES ($n, …), ($m, …) tail`. The parameters that
/// all rows share come first, $1 to $`shared`; `head` and `tail` refer to them.
pub(super) struct Many {
    /// The text before the list.
    pub head: &'static str,
    /// Parameters before the rows'.
    pub shared: usize,
    /// Parameters of a row.
    pub columns: usize,
    /// The text after the list.
    pub tail: &'static str,
}

impl Many {
    /// Makes the statement for `rows` rows; the caller binds the shared parameters, then each row's.
    pub(super) fn of(&self, rows: usize) -> Query<'static, Any, AnyArguments> {
        // Both texts are constants of this crate, and the list has nothing but placeholders.
        sqlx::query(AssertSqlSafe(self.text(rows)))
    }

    pub(super) fn text(&self, rows: usize) -> String {
        let mut text = format!("{} VALUES ", self.head);
        for row in 0..rows {
            text.push_str(if row == 0 { "(" } else { ", (" });
            for column in 1..=self.columns {
                let comma = if column == 1 { "" } else { ", " };
                text.push_str(&format!("{comma}${}", self.shared + row * self.columns + column));
            }
            text.push(')');
        }
        text.push_str(self.tail);
        text
    }
}

/// Cuts a list into parts of 64, 32, … 2, 1 rows: with so few lengths, each statement is prepared
/// once for each of them and found again from then on.
pub(super) fn parts<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let length = (1 << rows.len().checked_ilog2()?).min(MOST);
        let (part, rest) = rows.split_at(length);
        rows = rest;
        Some(part)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_few_and_whole() {
        let rows: Vec<u32> = (0..203).collect();
        let lengths: Vec<usize> = parts(&rows).map(<[u32]>::len).collect();
        assert_eq!(lengths, [64, 64, 64, 8, 2, 1]);
        assert_eq!(parts(&rows).flatten().copied().collect::<Vec<_>>(), rows);
        assert_eq!(parts::<u32>(&[]).count(), 0);
    }

    #[test]
    fn shared_parameters_come_first() {
        let many =
            Many { head: "INSERT INTO t (a, b)", shared: 1, columns: 2, tail: " RETURNING $1" };
        assert_eq!(many.text(2), "INSERT INTO t (a, b) VALUES ($2, $3), ($4, $5) RETURNING $1");
    }
}
