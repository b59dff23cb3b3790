//! The store: SQLite by default, PostgreSQL by URL, one SQL text for both. The only SQL.
//!
//! Every change goes through [`Store::begin`]: one writer at a time, in this process and among the
//! daemons on one PostgreSQL ([`share`]), one transaction, one fsync. Readers use their own
//! connections and never wait for a writer.

mod alert;
mod approval;
mod audit;
mod backup;
#[cfg(test)]
mod bulk_tests;
mod channel;
mod delivery;
mod escrow;
mod event;
mod finding;
mod found;
mod lease;
mod ledger;
mod many;
mod payment;
mod prune;
mod purchase;
mod registry;
mod sale;
mod settled;
mod settlement;
mod share;
mod status;
#[cfg(test)]
pub(crate) mod testing;
mod tx;

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use sqlx::{
    Any, AnyConnection, AnyPool, Connection as _, Executor as _, Row as _, Transaction,
    any::AnyPoolOptions,
};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use uuid::Uuid;

use self::{many::Marks, share::Share};

pub use self::{
    approval::{ApprovalRow, ProposalRow, SignatureRow},
    audit::AuditNote,
    backup::{BackupError, Contents, check_backup},
    channel::{Earning, EarningRow, PurseRow},
    delivery::{DeliveryFilter, Due, EndpointRow, Fate, Replay, Subscriber},
    escrow::{ActionRow, EscrowRow, StepRow},
    event::Event,
    finding::{Finding, FindingKind},
    lease::LeaseRow,
    ledger::Posting,
    payment::{AcceptedRow, ItemRef, PaymentRow, SettledRow},
    prune::Pruned,
    purchase::{PurchaseRow, Seen},
    registry::AgentRow,
    sale::{RouteSales, SaleRow},
    settled::SettledPayment,
    settlement::{SettlementKind, SettlementRow, SettlementState},
    share::Word,
    status::QueueRow,
    tx::{AttemptRow, OpenTx, TxKind, TxRow},
};

pub(crate) use self::{
    finding::{Claim, Finalized, InvoicePaid},
    found::found_key,
    purchase::Bought,
};

const SCHEMA: &str = include_str!("schema.sql");
const SCHEMA_VERSION: &str = "8";
/// The setting that is there while a daemon has the store, or died with it.
const SERVED: &str = "served";

/// Why the store did not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database answered with an error, or not at all.
    #[error("the store failed: {0}")]
    Database(#[source] sqlx::Error),
    /// What is on the disk is not what the database wrote: nothing in it can be believed.
    #[error("the store is damaged: {0}; keep it as it is and restore a backup into a new one")]
    Damaged(String),
    /// It was being made durable when the connection broke or the disk failed: it may have happened
    /// or not.
    #[error("it is not known whether the store kept it: {0}")]
    Unknown(#[source] sqlx::Error),
    /// Something before this made what the daemon remembers unreliable: it writes nothing more.
    #[error("the store is not written to any more: the next start reads what was kept")]
    InDoubt,
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
    /// Others wrote what this daemon did not hear of: it slept too long, or the store was put back to
    /// an earlier state under it.
    #[error(
        "this daemon knows the store's turn {heard}, the store is at {turn}, and what lies between \
         is not there any more: start it again"
    )]
    Missed {
        /// The last turn it knows.
        heard: u64,
        /// The turn it got.
        turn: u64,
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

    /// May it have happened all the same, now or when it was tried before? Then nothing in memory can be
    /// trusted about it.
    #[must_use]
    pub const fn is_unknown_outcome(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::InDoubt)
    }

    /// Would the same, tried again now, have a good chance? Nothing happened, and the reason passes:
    /// a lock that another holds, two writers in each other's way, a connection that broke.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Database(sqlx::Error::Database(error)) => {
                let code = error.code().unwrap_or_default();
                // PostgreSQL: serialisation, deadlock, lock not available, idle too long, server
                // shutting down or starting. SQLite: busy, locked.
                let postgres = ["40001", "40P01", "55P03", "25P03", "57P01", "57P02", "57P03"];
                postgres.contains(&&*code) || is_sqlite(&code, &[5, 6])
            }
            Self::Database(
                sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::PoolTimedOut,
            ) => true,
            _ => false,
        }
    }

    /// Must the daemon end, because memory or file cannot be trusted any more?
    #[must_use]
    pub const fn is_the_end(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::InDoubt | Self::Damaged(_))
    }

    /// Is it a constraint that another writer satisfied first?
    #[must_use]
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Self::Database(sqlx::Error::Database(e)) if e.is_unique_violation())
    }
}

/// Is it one of SQLite's primary result codes? The low byte of an extended code is the primary one.
fn is_sqlite(code: &str, primary: &[u32]) -> bool {
    code.len() < 5 && code.parse::<u32>().is_ok_and(|code| primary.contains(&(code & 0xff)))
}

/// After this answer to COMMIT, did nothing happen for certain?
fn is_rolled_back(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    let code = error.code().unwrap_or_default();
    // PostgreSQL names what it found wrong before it wrote the commit: a constraint (23), the
    // transaction's own state (25), a rollback (40; but 40003 does not know), no room (53). A shutdown (57P) can come between
    // the commit and its answer. SQLite: busy, full, a constraint. A failed sync may have left the commit in the log.
    let postgres = ["23", "25", "40", "53"].iter().any(|class| code.starts_with(class));
    (code.len() == 5 && postgres && code != "40003") || is_sqlite(&code, &[5, 13, 19])
}

/// Is what is on the disk not what the database wrote?
fn is_damaged(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    let code = error.code().unwrap_or_default();
    // PostgreSQL: data or index corrupted. SQLite: corrupt, no database.
    ["XX001", "XX002"].contains(&&*code) || is_sqlite(&code, &[11, 26])
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if is_damaged(&error) { Self::Damaged(error.to_string()) } else { Self::Database(error) }
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
    share: Arc<Share>,
    /// Set once a commit's outcome is not known.
    doubt: watch::Sender<bool>,
    /// Who is told of events.
    subscribers: Arc<[Subscriber]>,
    /// Sent to after a commit that has something to tell.
    news: watch::Sender<()>,
}

/// Keeps others from being the same daemon while it lives, however the process ends.
#[derive(Debug)]
pub struct StoreLock {
    _file: Option<File>,
    me: String,
}

impl StoreLock {
    /// Returns the daemon's name among those on one store: the same after a restart.
    #[must_use]
    pub fn me(&self) -> &str {
        &self.me
    }
}

/// A transaction. Dropped without [`Tx::commit`], it is rolled back.
pub struct Tx {
    inner: Transaction<'static, Any>,
    /// Changes of balances, added up and written once by [`Tx::commit`].
    balances: BTreeMap<String, [i64; 4]>,
    subscribers: Arc<[Subscriber]>,
    /// Is there something to deliver that was not there before?
    told: bool,
    news: watch::Sender<()>,
    marks: Marks,
    share: Arc<Share>,
    /// This transaction's turn; 0 where there are none.
    turn: u64,
    /// What other daemons will hear of it.
    words: Vec<Word>,
    doubt: watch::Sender<bool>,
    _gate: OwnedMutexGuard<()>,
    _patience: Option<OwnedMutexGuard<()>>,
}

impl Store {
    /// Keeps a second daemon from a SQLite file, and on PostgreSQL from being this one: the lock is
    /// then beside its `anchors`, which it has for itself anyway. Only daemons take it; readers need
    /// not. A store in memory has none.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another daemon has it; [`StoreError::Lock`].
    pub fn lock(url: &str, anchors: &Path) -> Result<StoreLock, StoreError> {
        let path = match url.strip_prefix("sqlite:") {
            Some(file) => {
                let file = file.strip_prefix("//").unwrap_or(file);
                let file = file.split('?').next().unwrap_or(file);
                if file.is_empty() || file.starts_with(':') {
                    return Ok(StoreLock { _file: None, me: fresh_name() });
                }
                PathBuf::from(format!("{file}.lock"))
            }
            None => PathBuf::from(format!("{}.lock", anchors.display())),
        };
        name_in(&path).map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::Locked(path),
            TryLockError::Error(source) => StoreError::Lock { path, source },
        })
    }

    /// Looks through a SQLite file that a daemon left without saying so: what a crash tore is
    /// mended by the database itself, and what it cannot mend is found here and not on the way.
    /// Says that a daemon has it from now on. PostgreSQL looks after itself.
    ///
    /// # Errors
    /// [`StoreError::Damaged`]; [`StoreError::Database`] where it cannot be written.
    pub async fn take_over(&self) -> Result<(), StoreError> {
        if !self.sqlite {
            return Ok(());
        }
        if self.meta(SERVED).await?.is_some() {
            let said = sqlx::query("PRAGMA quick_check(1)").fetch_one(&self.readers).await?;
            let said: String = said.try_get(0)?;
            if said != "ok" {
                return Err(StoreError::Damaged(said));
            }
        }
        let mut tx = self.begin().await?;
        tx.set_meta(SERVED, "1").await?;
        tx.commit().await
    }

    /// Says that the daemon has left in order; not where [`Store::in_doubt`] was answered.
    ///
    /// # Errors
    /// [`StoreError`]: the next start looks the file through.
    pub async fn leave(&self) -> Result<(), StoreError> {
        if !self.sqlite || *self.doubt.borrow() {
            return Ok(());
        }
        let mut tx = self.begin().await?;
        tx.delete_meta(SERVED).await?;
        tx.commit().await
    }

    /// Begins to read: all that is read in it stands as it stood at one moment.
    async fn moment(&self) -> Result<Transaction<'static, Any>, StoreError> {
        let begin =
            if self.sqlite { "BEGIN" } else { "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" };
        Ok(self.readers.begin_with(begin).await?)
    }

    const fn marks(&self) -> Marks {
        if self.sqlite { Marks::Bare } else { Marks::Numbered }
    }

    /// Lets [`Store::in_doubt`] answer: the store was found damaged.
    pub(crate) fn distrust(&self) {
        self.doubt.send_replace(true);
    }

    /// Waits until a commit's outcome is not known, the store is not the one this daemon knew, or it
    /// was found damaged.
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
        Self::open_as(url, &fresh_name()).await
    }

    /// The same for a daemon, under its name in [`StoreLock`].
    ///
    /// # Errors
    /// As [`Store::open`].
    pub async fn open_as(url: &str, me: &str) -> Result<Self, StoreError> {
        sqlx::any::install_default_drivers();
        let sqlite = url.starts_with("sqlite:");
        let url =
            if sqlite && !url.contains('?') { format!("{url}?mode=rwc") } else { url.to_owned() };
        if sqlite {
            // A pool would try a file that cannot be opened again and again, and then not say why.
            let mut first = AnyConnection::connect(&url).await?;
            first.execute("PRAGMA journal_mode = WAL").await?;
            first.close().await?;
        }
        let pool = |connections: u32| {
            AnyPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(Duration::from_secs(10))
                // A server may have gone meanwhile; a file has not, and asking costs each commit a way
                // to the connection's thread and back.
                .test_before_acquire(!sqlite)
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
                        } else {
                            // A daemon that stops within its turn must not stop the others.
                            connection
                                .execute("SET idle_in_transaction_session_timeout = '5s'")
                                .await?;
                            connection.execute("SET lock_timeout = '20s'").await?;
                            connection.execute("SET synchronous_commit = on").await?;
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
            share: Share::new(me.to_owned()),
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
        if self.is_prepared().await? {
            return Ok(());
        }
        let made = self.make().await;
        // Two daemons may start on an empty database at once: one makes the tables.
        if made.is_err() && self.is_prepared().await? { Ok(()) } else { made }
    }

    async fn is_prepared(&self) -> Result<bool, StoreError> {
        let known = sqlx::query("SELECT value FROM meta WHERE key = 'schema'")
            .fetch_optional(&self.readers)
            .await;
        match known {
            Ok(Some(row)) => {
                let found: String = row.try_get(0)?;
                if found == SCHEMA_VERSION { Ok(true) } else { Err(StoreError::Version { found }) }
            }
            Err(error) if is_damaged(&error) => Err(error.into()),
            Ok(None) | Err(sqlx::Error::Database(_)) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    async fn make(&self) -> Result<(), StoreError> {
        let gate = Arc::clone(&self.gate).lock_owned().await;
        let mut tx = self.open_tx(gate, None).await?;
        // Split at the ends of statements; every one of them ends a line.
        for statement in SCHEMA.split_inclusive(";\n") {
            tx.inner.execute(statement).await?;
        }
        let zero = format!("{:#x}", alloy::primitives::B256::ZERO);
        sqlx::query("INSERT INTO audit_head (id, seq, hash) VALUES (1, 0, $1)")
            .bind(zero)
            .execute(&mut *tx.inner)
            .await?;
        tx.inner.execute("INSERT INTO writer (id, turn, kept_from) VALUES (1, 0, 0)").await?;
        tx.set_meta("schema", SCHEMA_VERSION).await?;
        tx.commit().await
    }

    /// Starts a transaction; waits for the writers before it.
    ///
    /// # Errors
    /// [`StoreError::InDoubt`] from the moment on in which [`Store::in_doubt`] answers;
    /// [`StoreError::Database`].
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        let patience = Arc::clone(&self.patient).lock_owned().await;
        self.enter(Some(patience)).await
    }

    /// Starts a transaction that somebody waits for: after the running one, and before everybody
    /// who comes by [`Store::begin`]. For one task at a time.
    ///
    /// # Errors
    /// As [`Store::begin`].
    pub async fn begin_next(&self) -> Result<Tx, StoreError> {
        self.enter(None).await
    }

    async fn enter(&self, patience: Option<OwnedMutexGuard<()>>) -> Result<Tx, StoreError> {
        let gate = Arc::clone(&self.gate).lock_owned().await;
        // Until the daemon has ended, its tasks try again what a lost commit may have done.
        if *self.doubt.borrow() {
            return Err(StoreError::InDoubt);
        }
        let mut tx = self.open_tx(gate, patience).await?;
        crate::pulse::beat();
        if !self.sqlite {
            let turn = self.share.turn(&mut tx.inner).await;
            if matches!(turn, Err(StoreError::Missed { .. })) {
                self.doubt.send_replace(true);
            }
            tx.turn = turn?;
        }
        Ok(tx)
    }

    async fn open_tx(
        &self,
        gate: OwnedMutexGuard<()>,
        patience: Option<OwnedMutexGuard<()>>,
    ) -> Result<Tx, StoreError> {
        let begin = if self.sqlite {
            // A deferred BEGIN that later writes gets SQLITE_BUSY at once.
            "BEGIN IMMEDIATE"
        } else {
            // Each statement sees what was committed before it: what comes after the turn sees all.
            "BEGIN ISOLATION LEVEL READ COMMITTED"
        };
        #[cfg_attr(not(feature = "fault-injection"), expect(unused_mut, reason = "for a test"))]
        let mut inner = self.writer.begin_with(begin).await?;
        #[cfg(feature = "fault-injection")]
        if let Some(pages) = crate::crash::pages().filter(|_| self.sqlite) {
            let limit = sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
            inner.execute(limit).await?;
        }
        Ok(Tx {
            inner,
            balances: BTreeMap::new(),
            subscribers: Arc::clone(&self.subscribers),
            told: false,
            news: self.news.clone(),
            marks: self.marks(),
            share: Arc::clone(&self.share),
            turn: 0,
            words: Vec::new(),
            doubt: self.doubt.clone(),
            _gate: gate,
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
        let _gate = self.gate.lock().await;
        self.writer.close().await;
        self.readers.close().await;
    }
}

impl Tx {
    /// Makes it durable.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] if the connection broke at the last step, or the disk or the server
    /// failed in it: what was written may be found by the next start. Of every other error, nothing
    /// happened.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        self.write_balances().await?;
        self.write_words().await?;
        #[cfg(test)]
        let before = crate::sim::before_commit().await;
        #[cfg(not(test))]
        let before = Ok(());
        let committed = match before {
            Ok(()) => self.inner.commit().await,
            Err(error) => Err(error),
        };
        #[cfg(test)]
        let committed = match committed {
            Ok(()) => crate::sim::after_commit().await,
            Err(error) => Err(error),
        };
        crate::pulse::beat();
        match committed {
            Ok(()) => {
                self.share.done(self.turn);
                if self.told {
                    self.news.send_replace(());
                }
                Ok(())
            }
            Err(error) if is_rolled_back(&error) => Err(StoreError::Database(error)),
            Err(error) => {
                self.doubt.send_replace(true);
                Err(StoreError::Unknown(error))
            }
        }
    }

    /// Reads a setting, as of this transaction.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn meta(&mut self, key: &str) -> Result<Option<String>, StoreError> {
        let row = sqlx::query("SELECT value FROM meta WHERE key = $1")
            .bind(key)
            .fetch_optional(&mut *self.inner)
            .await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }

    /// Removes a setting.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub(crate) async fn delete_meta(&mut self, key: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM meta WHERE key = $1").bind(key).execute(&mut *self.inner).await?;
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

fn fresh_name() -> String {
    Uuid::now_v7().simple().to_string()
}

/// Locks a file and reads the name in it, or writes one.
fn name_in(path: &Path) -> Result<StoreLock, TryLockError> {
    let open = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
    let mut file = open.map_err(TryLockError::Error)?;
    file.try_lock()?;
    let mut me = String::new();
    file.read_to_string(&mut me).map_err(TryLockError::Error)?;
    if Uuid::try_parse(&me).is_err() {
        me = fresh_name();
        file.set_len(0).map_err(TryLockError::Error)?;
        file.rewind().map_err(TryLockError::Error)?;
        file.write_all(me.as_bytes()).map_err(TryLockError::Error)?;
    }
    Ok(StoreLock { _file: Some(file), me })
}

#[cfg(test)]
mod tests {
    use super::{StoreError, testing::on_both};

    #[tokio::test]
    async fn nothing_is_written_after_a_doubt() {
        on_both(async |store| {
            let open = store.begin().await.unwrap();
            let waits = |store: super::Store| async move { store.begin().await.map(drop) };
            let waiting = tokio::spawn(waits(store.clone()));
            store.distrust();
            store.in_doubt().await;
            open.commit().await.unwrap();
            for refused in [waiting.await.unwrap(), store.begin_next().await.map(drop)] {
                assert!(matches!(refused, Err(StoreError::InDoubt)), "{refused:?}");
            }
            assert_eq!(store.meta("schema").await.unwrap().as_deref(), Some(super::SCHEMA_VERSION));
        })
        .await;
    }
}
