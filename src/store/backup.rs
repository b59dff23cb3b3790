//! Backup and restore: the same file from both kinds of store, and into either.
//!
//! A text file, one JSON value a line. First an object: format, schema, time. Then for each table
//! an object with its name and columns, followed by its rows, an array each. Last an object with
//! the number of rows and the SHA-256 of every byte before it. All of it is one moment of the store,
//! whatever is written meanwhile.

use std::{
    io::{BufRead, Write},
    sync::LazyLock,
};

use alloy::hex;
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::{Any, AssertSqlSafe, Executor as _, Row as _, any::AnyArguments, query::Query};

use super::{SCHEMA, SCHEMA_VERSION, Store, StoreError, Tx};

/// Version of the file's format.
const FORMAT: u32 = 1;
/// Longest line that is read.
const LINE_LIMIT: u64 = 64 * 1024 * 1024;
/// Parameters of one statement at most.
const MOST_PARAMETERS: usize = 320;

/// Why a backup was not made or not restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file.
    #[error("the backup file: {0}")]
    File(#[from] std::io::Error),
    /// Not what [`Store::backup`] writes.
    #[error("line {line} of the backup is not what belongs there: {why}")]
    Format {
        /// Which line, from 1.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// Cut, or changed.
    #[error("the backup is not whole: its checksum does not match, or its end is missing")]
    Checksum,
    /// Made by another version.
    #[error(
        "the backup has format {format} and schema {schema}, this bursar reads format {FORMAT} and schema {SCHEMA_VERSION}"
    )]
    Version {
        /// Format of the file.
        format: u32,
        /// Schema of its tables.
        schema: String,
    },
    /// There is something in the store already.
    #[error("the store is not empty: there is something in {table}")]
    NotEmpty {
        /// In which table.
        table: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Head {
    bursar_backup: u32,
    schema: String,
    made_ms: i64,
}

#[derive(Serialize, Deserialize)]
struct TableHead {
    table: String,
    columns: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct End {
    rows: u64,
    sha256: String,
}

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Contents {
    /// When it was made, unix milliseconds.
    pub made_ms: i64,
    /// Rows of all tables.
    pub rows: u64,
}

#[derive(Debug, PartialEq, Eq)]
struct Table {
    name: &'static str,
    columns: Vec<Column>,
}

#[derive(Debug, PartialEq, Eq)]
struct Column {
    name: &'static str,
    is_number: bool,
}

/// What running daemons agree upon among themselves: no part of the books. A restored store begins
/// anew with turns and leases, and a daemon that knew it before finds that out at its next turn.
const RUNNING: [&str; 3] = ["writer", "word", "lease"];

/// The tables that are kept, as the schema has them.
static TABLES: LazyLock<Vec<Table>> = LazyLock::new(|| {
    let mut tables = Vec::new();
    for statement in SCHEMA.split(";\n") {
        let Some((_, rest)) = statement.split_once("CREATE TABLE ") else { continue };
        let Some((name, body)) = rest.split_once(" (") else { continue };
        if RUNNING.contains(&name) {
            continue;
        }
        let columns = body
            .split([',', '\n'])
            .filter_map(|line| {
                let mut words = line.trim().split(' ').filter(|word| !word.is_empty());
                let (name, kind) = (words.next()?, words.next()?);
                let kind = kind.trim_end_matches(')');
                (kind == "BIGINT" || kind == "TEXT")
                    .then_some(Column { name, is_number: kind == "BIGINT" })
            })
            .collect();
        tables.push(Table { name, columns });
    }
    tables
});

/// Returns the tables' names.
pub(super) fn tables() -> impl Iterator<Item = &'static str> {
    TABLES.iter().map(|table| table.name)
}

impl Table {
    fn names(&self) -> Vec<&'static str> {
        self.columns.iter().map(|column| column.name).collect()
    }
}

/// Counts and hashes what goes through.
struct Hashing<W> {
    to: W,
    hash: Sha256,
}

impl<W: Write> Hashing<W> {
    fn line(&mut self, value: &impl Serialize) -> Result<(), BackupError> {
        let mut line = serde_json::to_vec(value).map_err(std::io::Error::from)?;
        line.push(b'\n');
        self.hash.update(&line);
        self.to.write_all(&line)?;
        Ok(())
    }
}

impl Store {
    /// Writes every table as of one moment, beside whatever writes meanwhile. `told` is called with
    /// the rows so far.
    ///
    /// # Errors
    /// [`BackupError::Store`], [`BackupError::File`].
    pub async fn backup(
        &self,
        to: impl Write,
        now_ms: i64,
        mut told: impl FnMut(&str, u64),
    ) -> Result<Contents, BackupError> {
        let mut out = Hashing { to, hash: Sha256::new() };
        let schema = SCHEMA_VERSION.to_owned();
        out.line(&Head { bursar_backup: FORMAT, schema, made_ms: now_ms })?;
        let mut tx = self.moment().await?;
        let mut count = 0_u64;
        for table in &*TABLES {
            let columns: Vec<String> = table.names().iter().map(ToString::to_string).collect();
            let text = format!("SELECT {} FROM {}", columns.join(", "), table.name);
            out.line(&TableHead { table: table.name.to_owned(), columns })?;
            // Names out of our own schema, nothing else.
            let query = sqlx::query(AssertSqlSafe(text));
            let mut rows = query.fetch(&mut *tx);
            while let Some(row) = rows.try_next().await.map_err(StoreError::from)? {
                let values = table
                    .columns
                    .iter()
                    .enumerate()
                    .map(|(index, column)| {
                        Ok(if column.is_number {
                            row.try_get::<Option<i64>, _>(index)?.map_or(Value::Null, Value::from)
                        } else {
                            row.try_get::<Option<String>, _>(index)?
                                .map_or(Value::Null, Value::from)
                        })
                    })
                    .collect::<Result<Vec<_>, sqlx::Error>>()
                    .map_err(StoreError::from)?;
                out.line(&values)?;
                count += 1;
                if count.is_multiple_of(1_000) {
                    told(table.name, count);
                }
            }
        }
        tx.rollback().await.map_err(StoreError::from)?;
        let sha256 = hex::encode(out.hash.finalize());
        let mut line =
            serde_json::to_vec(&End { rows: count, sha256 }).map_err(std::io::Error::from)?;
        line.push(b'\n');
        out.to.write_all(&line)?;
        out.to.flush()?;
        Ok(Contents { made_ms: now_ms, rows: count })
    }

    /// Fails if anything was ever written to this store.
    ///
    /// # Errors
    /// [`BackupError::NotEmpty`].
    pub async fn must_be_empty(&self) -> Result<(), BackupError> {
        for table in &*TABLES {
            let rest = match table.name {
                "meta" => " WHERE key <> 'schema'",
                "audit_head" => " WHERE seq > 0",
                _ => "",
            };
            let text = format!("SELECT 1 FROM {}{rest} LIMIT 1", table.name);
            let row = self.readers.fetch_optional(AssertSqlSafe(text)).await;
            if row.map_err(StoreError::from)?.is_some() {
                return Err(BackupError::NotEmpty { table: table.name.to_owned() });
            }
        }
        Ok(())
    }
}

/// Reads a line of a bounded length; `false` at the end.
fn read_line(
    from: &mut impl BufRead,
    line: &mut Vec<u8>,
    number: u64,
) -> Result<bool, BackupError> {
    use std::io::Read as _;
    line.clear();
    from.take(LINE_LIMIT).read_until(b'\n', line)?;
    if !line.is_empty() && line.last() != Some(&b'\n') {
        // Cut in the middle of a line, or one that is endless.
        return Err(if line.len() as u64 == LINE_LIMIT {
            BackupError::Format { line: number, why: "it is too long".to_owned() }
        } else {
            BackupError::Checksum
        });
    }
    Ok(!line.is_empty())
}

/// Checks that a backup is whole, and says what it holds. `told` is called with the bytes so far.
///
/// # Errors
/// [`BackupError::Checksum`], [`BackupError::Format`], [`BackupError::Version`],
/// [`BackupError::File`].
pub fn check_backup(
    mut from: impl BufRead,
    mut told: impl FnMut(u64),
) -> Result<Contents, BackupError> {
    let (mut line, mut number, mut bytes) = (Vec::new(), 1_u64, 0_u64);
    if !read_line(&mut from, &mut line, number)? {
        return Err(BackupError::Checksum);
    }
    let head: Head = serde_json::from_slice(&line)
        .map_err(|error| BackupError::Format { line: 1, why: error.to_string() })?;
    if head.bursar_backup != FORMAT || head.schema != SCHEMA_VERSION {
        return Err(BackupError::Version { format: head.bursar_backup, schema: head.schema });
    }
    let mut hash = Sha256::new();
    let mut rows = 0;
    loop {
        // Only the end is an object that has a checksum: rows are arrays.
        if line.starts_with(b"{\"rows\"") {
            let end: End = serde_json::from_slice(&line)
                .map_err(|error| BackupError::Format { line: number, why: error.to_string() })?;
            let is_last = !read_line(&mut from, &mut line, number + 1)?;
            if !is_last || end.rows != rows || end.sha256 != hex::encode(hash.finalize()) {
                return Err(BackupError::Checksum);
            }
            return Ok(Contents { made_ms: head.made_ms, rows });
        }
        hash.update(&line);
        rows += u64::from(line.starts_with(b"["));
        bytes += line.len() as u64;
        number += 1;
        if number.is_multiple_of(10_000) {
            told(bytes);
        }
        if !read_line(&mut from, &mut line, number)? {
            return Err(BackupError::Checksum);
        }
    }
}

impl Tx {
    /// Writes a backup that [`check_backup`] found whole into this empty store. Nothing is there
    /// before the commit. `told` is called with the rows so far.
    ///
    /// # Errors
    /// [`BackupError`].
    pub async fn restore(
        &mut self,
        mut from: impl BufRead,
        mut told: impl FnMut(&str, u64),
    ) -> Result<(), BackupError> {
        for table in ["meta", "audit_head"] {
            let text = format!("DELETE FROM {table}");
            self.inner.execute(AssertSqlSafe(text)).await.map_err(StoreError::from)?;
        }
        let mut loading: Option<Loading> = None;
        let (mut line, mut number, mut rows) = (Vec::new(), 0_u64, 0_u64);
        loop {
            number += 1;
            let format = |why: String| BackupError::Format { line: number, why };
            if !read_line(&mut from, &mut line, number)? {
                return Err(BackupError::Checksum);
            }
            if line.starts_with(b"[") {
                let values: Vec<Value> =
                    serde_json::from_slice(&line).map_err(|error| format(error.to_string()))?;
                let loading =
                    loading.as_mut().ok_or_else(|| format("a row before a table".to_owned()))?;
                loading.add(values).map_err(format)?;
                if loading.is_full() {
                    loading.write(self).await?;
                }
                rows += 1;
                if rows.is_multiple_of(1_000) {
                    told(loading.table.name, rows);
                }
                continue;
            }
            if let Some(mut done) = loading.take() {
                done.write(self).await?;
            }
            if line.starts_with(b"{\"rows\"") {
                return Ok(());
            }
            if number > 1 {
                let head: TableHead =
                    serde_json::from_slice(&line).map_err(|error| format(error.to_string()))?;
                let table = TABLES.iter().find(|table| table.name == head.table);
                let table = table.ok_or_else(|| format(format!("no table {}", head.table)))?;
                if head.columns != table.names() {
                    return Err(format(format!("other columns in {}", head.table)));
                }
                loading = Some(Loading { table, values: Vec::new() });
            }
        }
    }
}

/// Rows of one table on their way into it.
struct Loading {
    table: &'static Table,
    values: Vec<Value>,
}

impl Loading {
    fn add(&mut self, values: Vec<Value>) -> Result<(), String> {
        let fits = values.len() == self.table.columns.len()
            && values.iter().zip(&self.table.columns).all(|(value, column)| match value {
                Value::Null => true,
                Value::Number(number) => column.is_number && number.is_i64(),
                Value::String(_) => !column.is_number,
                _ => false,
            });
        if !fits {
            return Err(format!("not a row of {}", self.table.name));
        }
        self.values.extend(values);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.values.len() + self.table.columns.len() > MOST_PARAMETERS
    }

    async fn write(&mut self, tx: &mut Tx) -> Result<(), BackupError> {
        let width = self.table.columns.len();
        if self.values.is_empty() {
            return Ok(());
        }
        let mut text =
            format!("INSERT INTO {} ({}) VALUES ", self.table.name, self.table.names().join(", "));
        for row in 0..self.values.len() / width {
            let holes: Vec<String> =
                (1..=width).map(|column| format!("${}", row * width + column)).collect();
            text += if row == 0 { "(" } else { ", (" };
            text += &holes.join(", ");
            text += ")";
        }
        let mut query: Query<'_, Any, AnyArguments> = sqlx::query(AssertSqlSafe(text));
        for (value, column) in self.values.drain(..).zip(self.table.columns.iter().cycle()) {
            query = if column.is_number {
                query.bind(value.as_i64())
            } else {
                query.bind(match value {
                    Value::String(text) => Some(text),
                    _ => None,
                })
            };
        }
        query.execute(&mut *tx.inner).await.map_err(StoreError::from)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Finding, FindingKind, testing::on_both};

    #[tokio::test]
    async fn the_schema_is_read_as_the_database_reads_it() {
        assert!(TABLES.len() >= 15, "{TABLES:?}");
        on_both(async |store| {
            for table in &*TABLES {
                // Every column is there with its type, and there is no other.
                let holes: Vec<&str> =
                    table.columns.iter().map(|c| if c.is_number { "0" } else { "''" }).collect();
                let text = format!(
                    "INSERT INTO {} ({}) VALUES ({})",
                    table.name,
                    table.names().join(", "),
                    holes.join(", ")
                );
                let mut tx = store.begin().await.unwrap();
                tx.inner.execute(AssertSqlSafe(text)).await.unwrap();
                let text = format!("SELECT * FROM {} LIMIT 1", table.name);
                let row = tx.inner.fetch_one(AssertSqlSafe(text)).await.unwrap();
                assert_eq!(row.len(), table.columns.len(), "{}", table.name);
            }
        })
        .await;
    }

    #[tokio::test]
    async fn a_backup_that_was_touched_is_refused_and_restores_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let open = async |name: &str| {
            let url = format!("sqlite:{}", dir.path().join(name).display());
            Store::open(&url).await.unwrap()
        };
        let store = open("source.db").await;
        let mut tx = store.begin().await.unwrap();
        tx.set_meta("colour", "blue \u{1f535} \"quoted\"\n").await.unwrap();
        let finding = Finding {
            id: "reorg:1".to_owned(),
            kind: FindingKind::Reorg,
            block: 7,
            transaction: None,
            payment: None,
            what: "nothing".to_owned(),
            found_ms: 1,
            cleared_ms: None,
        };
        // An alert, an audit entry and an event with it.
        tx.put_finding(&finding).await.unwrap();
        tx.commit().await.unwrap();
        let mut file = Vec::new();
        let contents = store.backup(&mut file, 7, |_, _| ()).await.unwrap();
        assert_eq!(check_backup(&*file, |_| ()).unwrap(), contents);
        assert_eq!((contents.made_ms, contents.rows), (7, 7));
        store.close().await;

        for cut in 0..file.len() {
            assert!(check_backup(&file[..cut], |_| ()).is_err(), "cut at {cut}");
        }
        for at in (0..file.len()).step_by(7) {
            let mut other = file.clone();
            other[at] ^= 1;
            assert!(check_backup(&*other, |_| ()).is_err(), "changed at {at}");
        }
        let twice = [file.clone(), file.clone()].concat();
        assert!(matches!(check_backup(&*twice, |_| ()), Err(BackupError::Checksum)));

        // Into both kinds of store, and out of them the same file again.
        on_both(async |store| {
            store.must_be_empty().await.unwrap();
            let mut tx = store.begin().await.unwrap();
            tx.restore(&*file, |_, _| ()).await.unwrap();
            drop(tx);
            store.must_be_empty().await.unwrap();
            let mut tx = store.begin().await.unwrap();
            tx.restore(&*file, |_, _| ()).await.unwrap();
            tx.commit().await.unwrap();
            let full = store.must_be_empty().await;
            assert!(matches!(full, Err(BackupError::NotEmpty { .. })));
            let found = store.findings_open(9).await.unwrap();
            assert_eq!(found.first(), Some(&finding));
            let mut again = Vec::new();
            store.backup(&mut again, 7, |_, _| ()).await.unwrap();
            assert_eq!(String::from_utf8(again).unwrap(), String::from_utf8(file.clone()).unwrap());
        })
        .await;
    }
}
