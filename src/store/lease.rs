//! Leases: which daemon does what, with fencing numbers.
//!
//! A lease is a row. Its holder beats: it changes the row from time to time. Another daemon that has
//! seen no beat for the lease's whole length, by its own steady clock, may take it and raises the
//! fence; no clock is compared with another. Whoever acts under a lease checks its fence in the same
//! transaction: a holder that slept finds another fence there, and nothing of its own happens.

use sqlx::Row as _;

use super::{Store, StoreError, Tx, payment::unsigned};

/// A lease as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseRow {
    /// What it is for: `relayer:0x…`, `keeper`, `daemon:…`.
    pub name: String,
    /// Which daemon has it; empty if it was given back.
    pub holder: String,
    /// Rises with every change of the holder.
    pub fence: u64,
    /// Rises while the holder lives.
    pub beat: u64,
    /// How long it holds without a beat, milliseconds.
    pub length_ms: u64,
}

impl Store {
    /// Reads every lease.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leases(&self) -> Result<Vec<LeaseRow>, StoreError> {
        let rows = sqlx::query(ALL).fetch_all(&self.readers).await?;
        rows.iter().map(read).collect()
    }
}

const ALL: &str = "SELECT name, holder, fence, beat, length_ms FROM lease ORDER BY name";

fn read(row: &sqlx::any::AnyRow) -> Result<LeaseRow, StoreError> {
    Ok(LeaseRow {
        name: row.try_get(0)?,
        holder: row.try_get(1)?,
        fence: unsigned("lease.fence", row.try_get(2)?)?,
        beat: unsigned("lease.beat", row.try_get(3)?)?,
        length_ms: unsigned("lease.length_ms", row.try_get(4)?)?,
    })
}

impl Tx {
    /// Reads every lease, as of this turn.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn leases(&mut self) -> Result<Vec<LeaseRow>, StoreError> {
        let rows = sqlx::query(ALL).fetch_all(&mut *self.inner).await?;
        rows.iter().map(read).collect()
    }

    /// Takes a lease, whoever has it, and returns its new fence: whatever a former holder begins
    /// from now on fails.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn take_lease(&mut self, name: &str, length_ms: u64) -> Result<u64, StoreError> {
        let row = sqlx::query(
            "INSERT INTO lease (name, holder, fence, beat, length_ms) VALUES ($1, $2, 1, 1, $3)
             ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, fence = lease.fence + 1,
               beat = lease.beat + 1, length_ms = excluded.length_ms
             RETURNING fence",
        )
        .bind(name)
        .bind(&self.share.me)
        .bind(length_ms.cast_signed())
        .fetch_one(&mut *self.inner)
        .await?;
        unsigned("lease.fence", row.try_get(0)?)
    }

    /// Shows that the holder of a lease lives. Answers whether it is still this daemon under that
    /// fence.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn beat(&mut self, name: &str, fence: u64) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE lease SET beat = beat + 1 WHERE name = $1 AND holder = $2 AND fence = $3",
        )
        .bind(name)
        .bind(&self.share.me)
        .bind(fence.cast_signed())
        .execute(&mut *self.inner)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Gives a lease back, if this daemon has it under that fence: the next may take it at once.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn give_lease(&mut self, name: &str, fence: u64) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE lease SET holder = '', fence = fence + 1
             WHERE name = $1 AND holder = $2 AND fence = $3",
        )
        .bind(name)
        .bind(&self.share.me)
        .bind(fence.cast_signed())
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Strikes out a lease that nobody will take.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn drop_lease(&mut self, name: &str) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM lease WHERE name = $1")
            .bind(name)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// Does this daemon hold a lease under that fence, as of this turn? No other can take it before
    /// this transaction ends.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_fenced(&mut self, name: &str, fence: u64) -> Result<bool, StoreError> {
        let row = sqlx::query("SELECT 1 FROM lease WHERE name = $1 AND holder = $2 AND fence = $3")
            .bind(name)
            .bind(&self.share.me)
            .bind(fence.cast_signed())
            .fetch_optional(&mut *self.inner)
            .await?;
        Ok(row.is_some())
    }
}
