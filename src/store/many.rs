//! Statements over many rows. A group of payments costs a few statements, not a few for each.

use sqlx::{Any, AssertSqlSafe, any::AnyArguments, query::Query};

/// Parameters of one statement at most: the driver's work to bind them grows with their square.
const MOST_PARAMETERS: usize = 320;
/// Rows of one statement at most.
const MOST_ROWS: usize = 64;

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
    /// Cuts a list into the rows of one statement each: 8, 16, 32 or 64, and what is left. With so
    /// few lengths, each statement is prepared once for each of them and found again from then on.
    pub(super) fn parts<'a, T>(&self, mut rows: &'a [T]) -> impl Iterator<Item = &'a [T]> {
        let most = (MOST_PARAMETERS / self.columns.max(1)).clamp(8, MOST_ROWS);
        std::iter::from_fn(move || {
            let power = 1 << rows.len().min(most).checked_ilog2()?;
            let length = if power < 8 { rows.len() } else { power };
            let (part, rest) = rows.split_at(length);
            rows = rest;
            Some(part)
        })
    }

    /// Makes the statement for `rows` rows; the caller binds the shared parameters, then each row's.
    pub(super) fn of(&self, rows: usize) -> Query<'static, Any, AnyArguments> {
        // Both texts are constants of this crate, and the list has nothing but placeholders.
        sqlx::query(AssertSqlSafe(self.text(rows)))
    }

    /// The same for a statement whose only parameters are its rows', and in which each bind counts: SQLite
    /// looks a `$7` up among all names before it, and has no name for a `?`.
    pub(super) fn unnamed(&self, rows: usize, sqlite: bool) -> Query<'static, Any, AnyArguments> {
        if !sqlite {
            return self.of(rows);
        }
        let row = format!("({})", vec!["?"; self.columns].join(", "));
        let text = format!("{} VALUES {}{}", self.head, vec![row; rows].join(", "), self.tail);
        sqlx::query(AssertSqlSafe(text))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_few_and_whole() {
        let many = |columns| Many { head: "", shared: 0, columns, tail: "" };
        let rows: Vec<u32> = (0..203).collect();
        let lengths = |columns| -> Vec<usize> {
            let many: Many = many(columns);
            assert_eq!(many.parts(&rows).flatten().copied().collect::<Vec<_>>(), rows);
            many.parts(&rows).map(<[u32]>::len).collect()
        };
        assert_eq!(lengths(1), [64, 64, 64, 8, 3]);
        assert_eq!(lengths(10), [32, 32, 32, 32, 32, 32, 8, 3]);
        assert_eq!(lengths(19), [vec![16; 12], vec![8, 3]].concat());
        assert_eq!(many(1).parts::<u32>(&[]).count(), 0);
        assert_eq!(many(1).parts(&rows[..7]).count(), 1);
    }

    #[test]
    fn shared_parameters_come_first() {
        let many =
            Many { head: "INSERT INTO t (a, b)", shared: 1, columns: 2, tail: " RETURNING $1" };
        assert_eq!(many.text(2), "INSERT INTO t (a, b) VALUES ($2, $3), ($4, $5) RETURNING $1");
    }
}
