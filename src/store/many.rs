//! Statements over many rows. A group of payments costs a few statements, not a few for each.

use sqlx::{Any, AssertSqlSafe, any::AnyArguments, query::Query};

/// Parameters of one statement with numbered ones at most: SQLite's driver looks each up among all
/// names before it, so that its work grows with their square.
const MOST_NUMBERED: usize = 320;
/// Parameters of another at most; PostgreSQL takes 65,535 and SQLite 32,766.
const MOST_PARAMETERS: usize = 2_048;
/// Rows of one statement at most.
const MOST_ROWS: usize = 256;

/// How a statement says where its parameters are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marks {
    /// `$1`, `$2`, …: both databases.
    Numbered,
    /// `?`, in their order: SQLite, which has no name to look up then.
    Bare,
}

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
    /// Cuts a list into the rows of one statement each: 8, 16, 32, …, 256, and what is left. With so
    /// few lengths, each statement is prepared once for each of them and found again from then on.
    pub(super) fn parts<'a, T>(
        &self,
        mut rows: &'a [T],
        marks: Marks,
    ) -> impl Iterator<Item = &'a [T]> {
        let parameters = match self.marks(marks) {
            Marks::Numbered => MOST_NUMBERED,
            Marks::Bare => MOST_PARAMETERS,
        };
        let most = (parameters / self.columns.max(1)).clamp(8, MOST_ROWS);
        std::iter::from_fn(move || {
            let power = 1 << rows.len().min(most).checked_ilog2()?;
            let length = if power < 8 { rows.len() } else { power };
            let (part, rest) = rows.split_at(length);
            rows = rest;
            Some(part)
        })
    }

    /// Makes the statement for `rows` rows; the caller binds the shared parameters, then each row's.
    pub(super) fn of(&self, rows: usize, marks: Marks) -> Query<'static, Any, AnyArguments> {
        // Both texts are constants of this crate, and the list has nothing but placeholders.
        sqlx::query(AssertSqlSafe(self.text(rows, marks)))
    }

    /// Parameters that are referred to elsewhere need their numbers.
    const fn marks(&self, marks: Marks) -> Marks {
        if self.shared == 0 { marks } else { Marks::Numbered }
    }

    pub(super) fn text(&self, rows: usize, marks: Marks) -> String {
        let mut text = format!("{} VALUES ", self.head);
        let marks = self.marks(marks);
        for row in 0..rows {
            text.push_str(if row == 0 { "(" } else { ", (" });
            for column in 1..=self.columns {
                text.push_str(if column == 1 { "" } else { ", " });
                match marks {
                    Marks::Bare => text.push('?'),
                    Marks::Numbered => {
                        text.push_str(&format!("${}", self.shared + row * self.columns + column));
                    }
                }
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
        let rows: Vec<u32> = (0..459).collect();
        let lengths = |shared, columns, marks| -> Vec<usize> {
            let many = Many { head: "", shared, columns, tail: "" };
            let whole: Vec<u32> = many.parts(&rows, marks).flatten().copied().collect();
            assert_eq!(whole, rows);
            many.parts(&rows, marks).map(<[u32]>::len).collect()
        };
        assert_eq!(lengths(0, 1, Marks::Bare), [256, 128, 64, 8, 3]);
        assert_eq!(lengths(0, 15, Marks::Bare), [128, 128, 128, 64, 8, 3]);
        assert_eq!(lengths(0, 1, Marks::Numbered), [256, 128, 64, 8, 3]);
        assert_eq!(lengths(0, 10, Marks::Numbered), [vec![32; 14], vec![8, 3]].concat());
        assert_eq!(lengths(3, 10, Marks::Bare), lengths(0, 10, Marks::Numbered));
        let many = Many { head: "", shared: 0, columns: 1, tail: "" };
        assert_eq!(many.parts::<u32>(&[], Marks::Bare).count(), 0);
        assert_eq!(many.parts(&rows[..7], Marks::Bare).count(), 1);
    }

    #[test]
    fn shared_parameters_come_first_and_have_numbers() {
        let many = |shared| Many {
            head: "INSERT INTO t (a, b)",
            shared,
            columns: 2,
            tail: " RETURNING 1",
        };
        let numbered = "INSERT INTO t (a, b) VALUES ($2, $3), ($4, $5) RETURNING 1";
        assert_eq!(many(1).text(2, Marks::Numbered), numbered);
        assert_eq!(many(1).text(2, Marks::Bare), numbered);
        let bare = "INSERT INTO t (a, b) VALUES (?, ?), (?, ?) RETURNING 1";
        assert_eq!(many(0).text(2, Marks::Bare), bare);
    }
}
