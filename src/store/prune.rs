//! Retention: what a payment's end makes superfluous is forgotten after a while, in small steps.
//!
//! Never forgotten: payments with their idempotency keys and invoices, the ledger, the audit log,
//! nonces, approvals with their signatures. A late repeat of a key finds its payment, whenever.
//! Forgotten are the signed bytes of final transactions, whose hash the payment keeps, and requests
//! that were denied, for which nothing was reserved: the audit log tells of them for ever, and a
//! repeat of their key is judged anew.

use serde::Serialize;
use sqlx::{AssertSqlSafe, Row as _};

use super::{Store, StoreError, Tx, payment::unsigned};

/// Transactions looked at in one step.
const TRANSACTIONS: i64 = 200;
/// Payments looked at in one step.
const PAYMENTS: i64 = 1_000;

/// Last transaction and last payment that were looked at: both are in the order of time.
const TX_MARK: &str = "pruned_tx";
const PAYMENT_MARK: &str = "pruned_payment";

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Final transactions whose bytes were forgotten.
    pub transactions: u64,
    /// Signatures of them.
    pub attempts: u64,
    /// Denied requests that were forgotten.
    pub denied: u64,
    /// There may be more to forget.
    #[serde(skip)]
    pub more: bool,
}

impl Pruned {
    /// Adds up two steps.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            transactions: self.transactions + other.transactions,
            attempts: self.attempts + other.attempts,
            denied: self.denied + other.denied,
            more: other.more,
        }
    }
}

impl Store {
    /// Counts the rows of each table.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn rows(&self) -> Result<Vec<(&'static str, u64)>, StoreError> {
        let mut tables = Vec::new();
        for name in super::backup::tables() {
            // A name out of our own schema.
            let text = AssertSqlSafe(format!("SELECT CAST(COUNT(*) AS BIGINT) FROM {name}"));
            let row = sqlx::query(text).fetch_one(&self.readers).await?;
            tables.push((name, unsigned("count", row.try_get(0)?)?));
        }
        Ok(tables)
    }
}

impl Tx {
    /// Forgets what is older than the two times (milliseconds): the bytes of final transactions,
    /// and denied requests. A bounded step; [`Pruned::more`] says whether another one is due.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn prune(
        &mut self,
        bytes_before_ms: i64,
        denied_before_ms: i64,
    ) -> Result<Pruned, StoreError> {
        let bytes = self.prune_transactions(bytes_before_ms).await?;
        let denied = self.prune_denied(denied_before_ms).await?;
        Ok(Pruned { more: bytes.more || denied.more, ..bytes.and(denied) })
    }

    async fn prune_transactions(&mut self, before_ms: i64) -> Result<Pruned, StoreError> {
        let after = self.mark(TX_MARK).await?;
        if !self
            .is_old(
                "SELECT created_ms FROM tx WHERE id > $1 ORDER BY id LIMIT 1",
                &after,
                before_ms,
            )
            .await?
        {
            return Ok(Pruned::default());
        }
        let rows =
            sqlx::query("SELECT id, state, created_ms FROM tx WHERE id > $1 ORDER BY id LIMIT $2")
                .bind(&after)
                .bind(TRANSACTIONS)
                .fetch_all(&mut *self.inner)
                .await?;
        let mut last = None;
        let mut count = 0;
        for row in &rows {
            let state: String = row.try_get(1)?;
            // One that is not final holds up those behind it, for as long as it is not.
            if state != "final" || row.try_get::<i64, _>(2)? >= before_ms {
                break;
            }
            last = Some(row.try_get::<String, _>(0)?);
            count += 1;
        }
        let Some(last) = last else { return Ok(Pruned::default()) };
        let attempts = sqlx::query(
            "DELETE FROM attempt WHERE tx_id IN (SELECT id FROM tx WHERE id > $1 AND id <= $2)",
        )
        .bind(&after)
        .bind(&last)
        .execute(&mut *self.inner)
        .await?
        .rows_affected();
        sqlx::query("UPDATE tx SET calldata = '0x', manifest = '' WHERE id > $1 AND id <= $2")
            .bind(&after)
            .bind(&last)
            .execute(&mut *self.inner)
            .await?;
        self.set_meta(TX_MARK, &last).await?;
        Ok(Pruned { transactions: count, attempts, denied: 0, more: count == TRANSACTIONS as u64 })
    }

    async fn prune_denied(&mut self, before_ms: i64) -> Result<Pruned, StoreError> {
        let after = self.mark(PAYMENT_MARK).await?;
        if !self
            .is_old(
                "SELECT created_ms FROM payment WHERE id > $1 ORDER BY id LIMIT 1",
                &after,
                before_ms,
            )
            .await?
        {
            return Ok(Pruned::default());
        }
        let rows =
            sqlx::query("SELECT id, created_ms FROM payment WHERE id > $1 ORDER BY id LIMIT $2")
                .bind(&after)
                .bind(PAYMENTS)
                .fetch_all(&mut *self.inner)
                .await?;
        let mut last = None;
        let mut seen = 0;
        for row in &rows {
            if row.try_get::<i64, _>(1)? >= before_ms {
                break;
            }
            last = Some(row.try_get::<String, _>(0)?);
            seen += 1;
        }
        let Some(last) = last else { return Ok(Pruned::default()) };
        let denied =
            sqlx::query("DELETE FROM payment WHERE id > $1 AND id <= $2 AND state = 'denied'")
                .bind(&after)
                .bind(&last)
                .execute(&mut *self.inner)
                .await?
                .rows_affected();
        self.set_meta(PAYMENT_MARK, &last).await?;
        Ok(Pruned { denied, more: seen == PAYMENTS, ..Pruned::default() })
    }

    /// Is the first row after a mark old enough? Each second this is asked with the writer's turn in
    /// hand, and nearly always nothing is.
    async fn is_old(
        &mut self,
        first: &'static str,
        after: &str,
        before_ms: i64,
    ) -> Result<bool, StoreError> {
        let row = sqlx::query(first).bind(after).fetch_optional(&mut *self.inner).await?;
        Ok(row.map(|row| row.try_get::<i64, _>(0)).transpose()?.is_some_and(|at| at < before_ms))
    }

    async fn mark(&mut self, key: &str) -> Result<String, StoreError> {
        let row = sqlx::query("SELECT value FROM meta WHERE key = $1")
            .bind(key)
            .fetch_optional(&mut *self.inner)
            .await?;
        Ok(row.map(|row| row.try_get(0)).transpose()?.unwrap_or_default())
    }
}
