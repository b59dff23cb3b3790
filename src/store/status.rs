//! What operators and `bursar doctor` ask about the store itself.

use sqlx::Row as _;

use super::{Store, StoreError, payment::unsigned};
use crate::payment::State;

/// Payments in one state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueRow {
    /// The state.
    pub state: State,
    /// How many.
    pub count: u64,
    /// When the oldest was accepted, milliseconds.
    pub oldest_ms: i64,
}

impl Store {
    /// Is it SQLite? PostgreSQL otherwise.
    #[must_use]
    pub const fn is_sqlite(&self) -> bool {
        self.sqlite
    }

    /// Counts the payments that have not come to their end, by state.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn queue(&self) -> Result<Vec<QueueRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT state, CAST(COUNT(*) AS BIGINT), MIN(created_ms) FROM payment
             WHERE state IN ('awaiting_approval', 'queued', 'signed', 'broadcast', 'included')
             GROUP BY state",
        )
        .fetch_all(&self.readers)
        .await?;
        let mut queue = rows
            .iter()
            .map(|row| {
                Ok(QueueRow {
                    state: State::from_name(&row.try_get::<String, _>(0)?)
                        .ok_or_else(|| StoreError::corrupt("payment.state", "another version's"))?,
                    count: unsigned("payment.count", row.try_get(1)?)?,
                    oldest_ms: row.try_get(2)?,
                })
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        queue.sort_by_key(|row| State::ALL.iter().position(|state| *state == row.state));
        Ok(queue)
    }

    /// Returns the database's size in bytes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn size(&self) -> Result<u64, StoreError> {
        // Each database has words of its own for this.
        let text = if self.sqlite {
            "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
        } else {
            "SELECT CAST(pg_database_size(current_database()) AS BIGINT)"
        };
        let row = sqlx::query(text).fetch_one(&self.readers).await?;
        unsigned("size", row.try_get(0)?)
    }

    /// Looks through SQLite's file for damage; returns the first that is found. PostgreSQL answers
    /// for itself.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn damage(&self) -> Result<Option<String>, StoreError> {
        if !self.sqlite {
            return Ok(None);
        }
        let row = sqlx::query("PRAGMA quick_check(1)").fetch_one(&self.readers).await?;
        let found: String = row.try_get(0)?;
        Ok((found != "ok").then_some(found))
    }

    /// Writes something and takes it back: can it be written now?
    ///
    /// # Errors
    /// [`StoreError::Database`] if not.
    pub async fn try_write(&self) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        tx.set_meta("doctor", "1").await?;
        // Dropped, it is rolled back.
        drop(tx);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::on_both;

    #[tokio::test]
    async fn a_fresh_store_is_sound_writable_and_empty() {
        on_both(async |store| {
            assert!(store.queue().await.unwrap().is_empty());
            assert!(store.size().await.unwrap() > 4_096);
            assert_eq!(store.damage().await.unwrap(), None);
            store.try_write().await.unwrap();
            assert_eq!(store.meta("doctor").await.unwrap(), None);
        })
        .await;
    }
}
