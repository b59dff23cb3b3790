//! The store: SQLite by default, PostgreSQL by URL, one SQL text for both. The only SQL.
//!
//! Every change goes through [`Store::begin`]: one writer at a time in this process, one
//! transaction, one fsync. Readers use their own connections and never wait for a writer.

mod alert;
mod approval;
mod audit;
mod backup;
#[cfg(test)]
mod bulk_tests;
mod delivery;
mod escrow;
mod event;
mod finding;
mod ledger;
mod many;
mod payment;
mod prune;
mod registry;
mod settled;
mod status;
#[cfg(test)]
pub(crate) mod testing;
mod tx;

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions, TryLockError},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use sqlx::{Any, AnyPool, Executor as _, Row as _, any::AnyPoolOptions};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

pub use self::{
    approval::{ApprovalRow, ProposalRow, SignatureRow},
    audit::AuditNote,
    backup::{BackupError, Contents, check_backup},
    delivery::{DeliveryFilter, Due, EndpointRow, Fate, Replay, Subscriber},
    escrow::{ActionRow, EscrowRow, StepRow},
    event::Event,
    finding::{Finding, FindingKind},
    ledger::Posting,
    payment::{AcceptedRow, ItemRef, PaymentRow, SettledRow},
    prune::Pruned,
    registry::AgentRow,
    settled::SettledPayment,
    status::QueueRow,
    tx::{AttemptRow, OpenTx, TxKind, TxRow},
};

pub(crate) use self::finding::{Claim, Finalized, InvoicePaid};

const SCHEMA: &str = include_str!("schema.sql");
const SCHEMA_VERSION: &str = "2";

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database answered with an error, or not at all.
    #[error("the store failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The connection broke while it was being made durable: it may have happened or not.
    #[error("it is not known whether the store kept it: {0}")]
    Unknown(#[source] sqlx::Error),
    /// Another daemon has the store.
    #[error("another bursar serves this store ({} is locked)", .0.display())]
    Locked(PathBuf),
    /// The file that keeps others out cannot be made.
    #[error("cannot lock {}: {source}", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A stored value cannot be read back: the store was changed by hand or by a newer version.
    #[error("the store holds something unreadable in {column}: {value}")]
    Corrupt {
        /// Table and column.
        column: &'static str,
        /// What stands there.
        value: String,
    },
    /// The schema is of another version.
    #[error("the store has schema version {found}, this bursar needs {SCHEMA_VERSION}")]
    Version {
        /// The version found.
        found: String,
    },
}

impl StoreError {
    pub(crate) fn corrupt(column: &'static str, value: impl ToString) -> Self {
        Self::Corrupt { column, value: value.to_string() }
    }

    /// May it have happened all the same? Then nothing in memory can be trusted about it.
    #[must_use]
    pub const fn is_unknown_outcome(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }

    /// Is it a constraint that another writer satisfied first?
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Self::Database(sqlx::Error::Database(e)) if e.is_unique_violation())
    }
}

/// Reads a stored text into its type.
pub(crate) fn parse<T: FromStr>(column: &'static str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::corrupt(column, text))
}

/// The open database. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    writer: AnyPool,
    readers: AnyPool,
    /// One writer at a time.
    gate: Arc<Mutex<()>>,
    /// Only one of those who may wait stands at the gate.
    patient: Arc<Mutex<()>>,
    sqlite: bool,
    /// Set once a commit's outcome is not known.
    doubt: watch::Sender<bool>,
    /// Who is told of events.
    subscribers: Arc<[Subscriber]>,
    /// Sent to after a commit that has something to tell.
    news: watch::Sender<()>,
}

/// Keeps other daemons from a store while it lives, however the process ends.
#[derive(Debug)]
pub struct StoreLock(#[expect(dead_code, reason = "held, not read")] Option<File>);

/// A transaction. Dropped without [`Tx::commit`], it is rolled back.
pub struct Tx {
    inner: sqlx::Transaction<'static, Any>,
    /// Changes of balances, added up and written once by [`Tx::commit`].
    balances: BTreeMap<String, [i64; 4]>,
    subscribers: Arc<[Subscriber]>,
    /// Is there something to deliver that was not there before?
    told: bool,
    news: watch::Sender<()>,
    doubt: watch::Sender<bool>,
    _turn: OwnedMutexGuard<()>,
    _patience: Option<OwnedMutexGuard<()>>,
}

impl Store {
    /// Keeps a second daemon from a SQLite file: two would each decide by a memory of their own.
    /// Only daemons take it; readers need not. PostgreSQL and stores in memory have none.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another daemon has it; [`StoreError::Lock`].
    pub fn lock(url: &str) -> Result<StoreLock, StoreError> {
        let Some(file) = url.strip_prefix("sqlite:") else { return Ok(StoreLock(None)) };
        let file = file.strip_prefix("//").unwrap_or(file);
        let file = file.split('?').next().unwrap_or(file);
        if file.is_empty() || file.starts_with(':') {
            return Ok(StoreLock(None));
        }
        let path = PathBuf::from(format!("{file}.lock"));
        let open = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let outcome = open
            .map_err(TryLockError::Error)
            .and_then(|file| file.try_lock().map(|()| StoreLock(Some(file))));
        outcome.map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::Locked(path),
            TryLockError::Error(source) => StoreError::Lock { path, source },
        })
    }

    /// Waits until a commit's outcome is not known.
    pub async fn in_doubt(&self) {
        let mut doubt = self.doubt.subscribe();
        // The sender lives as long as this store.
        let _ = doubt.wait_for(|doubt| *doubt).await;
    }

    /// Opens (and on first use creates) the database at `url`: `sqlite:PATH` or `postgres://…`.
    ///
    /// # Errors
    /// [`StoreError::Database`] if it cannot be opened, [`StoreError::Version`] if it belongs to
    /// another version of bursar.
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let sqlite = url.starts_with("sqlite:");
        let url =
            if sqlite && !url.contains('?') { format!("{url}?mode=rwc") } else { url.to_owned() };
        let pool = |connections: u32| {
            AnyPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(Duration::from_secs(10))
                .after_connect(move |connection, _| {
                    Box::pin(async move {
                        if sqlite {
                            // Per connection: without them the second one has none of this.
                            connection.execute("PRAGMA journal_mode = WAL").await?;
                            connection.execute("PRAGMA synchronous = FULL").await?;
                            connection.execute("PRAGMA foreign_keys = ON").await?;
                            connection.execute("PRAGMA busy_timeout = 5000").await?;
                            // 64 MiB of log: `checkpoint` comes first, the writer seldom has to.
                            connection.execute("PRAGMA wal_autocheckpoint = 16384").await?;
                        }
                        Ok(())
                    })
                })
                .connect(&url)
        };
        let store = Self {
            writer: pool(if sqlite { 1 } else { 4 }).await?,
            readers: pool(4).await?,
            gate: Arc::new(Mutex::new(())),
            patient: Arc::new(Mutex::new(())),
            sqlite,
            doubt: watch::Sender::new(false),
            subscribers: Arc::new([]),
            news: watch::Sender::new(()),
        };
        store.prepare().await?;
        Ok(store)
    }

    /// Names those who are told of events from now on; each event goes to them in its own commit.
    #[must_use]
    pub fn telling(self, subscribers: Vec<Subscriber>) -> Self {
        Self { subscribers: subscribers.into(), ..self }
    }

    /// Hears of commits of this process that have something to deliver.
    #[must_use]
    pub fn news(&self) -> watch::Receiver<()> {
        self.news.subscribe()
    }

    async fn prepare(&self) -> Result<(), StoreError> {
        let known = sqlx::query("SELECT value FROM meta WHERE key = 'schema'")
            .fetch_optional(&self.readers)
            .await;
        match known {
            Ok(Some(row)) => {
                let found: String = row.try_get(0)?;
                if found == SCHEMA_VERSION { Ok(()) } else { Err(StoreError::Version { found }) }
            }
            Ok(None) | Err(sqlx::Error::Database(_)) => {
                let mut tx = self.begin().await?;
                // Split at the ends of statements; every one of them ends a line.
                for statement in SCHEMA.split_inclusive(";\n") {
                    tx.inner.execute(statement).await?;
                }
                let zero = format!("{:#x}", alloy::primitives::B256::ZERO);
                sqlx::query("INSERT INTO audit_head (id, seq, hash) VALUES (1, 0, $1)")
                    .bind(zero)
                    .execute(&mut *tx.inner)
                    .await?;
                tx.set_meta("schema", SCHEMA_VERSION).await?;
                tx.commit().await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Starts a transaction; waits for the writers before it.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        let patience = Arc::clone(&self.patient).lock_owned().await;
        self.enter(Some(patience)).await
    }

    /// Starts a transaction that somebody waits for: after the running one, and before everybody
    /// who comes by [`Store::begin`]. For one task at a time.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn begin_next(&self) -> Result<Tx, StoreError> {
        self.enter(None).await
    }

    async fn enter(&self, patience: Option<OwnedMutexGuard<()>>) -> Result<Tx, StoreError> {
        let turn = Arc::clone(&self.gate).lock_owned().await;
        // A deferred BEGIN that later writes gets SQLITE_BUSY at once.
        let begin = if self.sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" };
        let inner = self.writer.begin_with(begin).await?;
        Ok(Tx {
            inner,
            balances: BTreeMap::new(),
            subscribers: Arc::clone(&self.subscribers),
            told: false,
            news: self.news.clone(),
            doubt: self.doubt.clone(),
            _turn: turn,
            _patience: patience,
        })
    }

    /// Moves SQLite's write-ahead log into the database, beside the writer and without making it
    /// wait: otherwise every few hundred payments one commit has to, and everybody behind it waits.
    /// Commits are durable with or without it. PostgreSQL does this by itself.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn checkpoint(&self) -> Result<(), StoreError> {
        if self.sqlite {
            self.readers.execute("PRAGMA wal_checkpoint(PASSIVE)").await?;
        }
        Ok(())
    }

    /// Can it be written to now?
    ///
    /// # Errors
    /// [`StoreError::Database`] if not.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        tx.set_meta("probe", "1").await?;
        tx.commit().await
    }

    /// Closes every connection, after the running transaction.
    pub async fn close(&self) {
        let _turn = self.gate.lock().await;
        self.writer.close().await;
        self.readers.close().await;
    }
}

impl Tx {
    /// Makes it durable.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] if the connection broke at the last step; of every other error,
    /// nothing happened.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        self.write_balances().await?;
        let doubt = self.doubt;
        let read = |error| match error {
            sqlx::Error::Database(_) => StoreError::Database(error),
            error => {
                doubt.send_replace(true);
                StoreError::Unknown(error)
            }
        };
        #[cfg(test)]
        crate::sim::before_commit().await.map_err(&read)?;
        self.inner.commit().await.map_err(&read)?;
        #[cfg(test)]
        crate::sim::after_commit().await.map_err(&read)?;
        if self.told {
            self.news.send_replace(());
        }
        Ok(())
    }

    /// Writes a setting.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn set_meta(&mut self, key: &str, value: &str) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO meta (key, value) VALUES ($1, $2)
             ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        )
        .bind(key)
        .bind(value)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}
