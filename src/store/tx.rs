//! Transactions and their attempts: signed bytes are stored before they are sent.
//!
//! A transaction owns one nonce of one sender for ever; an attempt is one signature of it. The
//! nonce counter lives here and nowhere else.

use alloy::primitives::{Address, B256, Bytes};
use sqlx::{Row as _, any::AnyRow};

use super::{Store, StoreError, Tx, parse, payment::unsigned};

/// What a transaction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxKind {
    /// `payBatch`.
    Batch,
    /// `payApproved`.
    Approved,
    /// `tightenWithSignature`.
    Tighten,
    /// `submit`.
    Submit,
    /// `execute`.
    Execute,
    /// `openEscrow`.
    Opening,
    /// `fundChannel`.
    Funding,
    /// A step of an escrow, by the wallet or by WorkEscrow itself.
    Escrow,
    /// A payment of others, by the facilitator.
    Settlement,
    /// A transfer of nothing to the sender itself: it uses up a nonce.
    Cancel,
    /// `claimPackedWithSignature` and `settle`: what channels owe us.
    Claim,
    /// `closeChannel` or `finishChannel`: what is left in a channel of ours.
    Closing,
}

impl TxKind {
    const ALL: [Self; 12] = [
        Self::Batch,
        Self::Approved,
        Self::Tighten,
        Self::Submit,
        Self::Execute,
        Self::Opening,
        Self::Funding,
        Self::Escrow,
        Self::Settlement,
        Self::Cancel,
        Self::Claim,
        Self::Closing,
    ];

    /// Returns the stored name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Batch => "batch",
            Self::Approved => "approved",
            Self::Tighten => "tighten",
            Self::Submit => "submit",
            Self::Execute => "execute",
            Self::Opening => "opening",
            Self::Funding => "funding",
            Self::Escrow => "escrow",
            Self::Settlement => "settlement",
            Self::Cancel => "cancel",
            Self::Claim => "claim",
            Self::Closing => "closing",
        }
    }
}

/// A transaction as stored.
#[derive(Clone, Debug)]
pub struct TxRow {
    /// Its id (a UUID), the same over all attempts.
    pub id: String,
    /// What it does.
    pub kind: TxKind,
    /// The relayer.
    pub sender: Address,
    /// The relayer's account nonce.
    pub nonce: u64,
    /// The contract it calls.
    pub target: Address,
    /// The call.
    pub calldata: Bytes,
    /// Gas limit.
    pub gas: u64,
    /// What it carries, as JSON: batches with their agents and nonces, or a proposal's id.
    pub manifest: String,
    /// The block it was seen in, while that block is not final.
    pub block: Option<u64>,
    /// When it was made, milliseconds.
    pub created_ms: i64,
}

/// One signature of a transaction.
#[derive(Clone, Debug)]
pub struct AttemptRow {
    /// Transaction hash.
    pub hash: B256,
    /// Whose attempt.
    pub tx_id: String,
    /// The signed bytes.
    pub raw: Bytes,
    /// Fee cap per gas, wei.
    pub max_fee: u128,
    /// Tip per gas, wei.
    pub tip: u128,
    /// When it was signed, milliseconds.
    pub created_ms: i64,
}

/// An unfinished transaction with all its attempts, oldest attempt first.
#[derive(Clone, Debug)]
pub struct OpenTx {
    /// The transaction.
    pub tx: TxRow,
    /// Its attempts; never empty.
    pub attempts: Vec<AttemptRow>,
}

fn read_tx(row: &AnyRow) -> Result<TxRow, StoreError> {
    let kind: String = row.try_get(1)?;
    Ok(TxRow {
        id: row.try_get(0)?,
        kind: TxKind::ALL
            .into_iter()
            .find(|known| known.as_str() == kind)
            .ok_or_else(|| StoreError::corrupt("tx.kind", &kind))?,
        sender: parse("tx.sender", &row.try_get::<String, _>(2)?)?,
        nonce: unsigned("tx.nonce", row.try_get(3)?)?,
        target: parse("tx.target", &row.try_get::<String, _>(4)?)?,
        calldata: parse("tx.calldata", &row.try_get::<String, _>(5)?)?,
        gas: unsigned("tx.gas", row.try_get(6)?)?,
        manifest: row.try_get(7)?,
        block: row.try_get::<Option<i64>, _>(8)?.map(|n| unsigned("tx.block", n)).transpose()?,
        created_ms: row.try_get(9)?,
    })
}

fn read_attempt(row: &AnyRow) -> Result<AttemptRow, StoreError> {
    Ok(AttemptRow {
        hash: parse("attempt.hash", &row.try_get::<String, _>(0)?)?,
        tx_id: row.try_get(1)?,
        raw: parse("attempt.raw", &row.try_get::<String, _>(2)?)?,
        max_fee: parse("attempt.max_fee", &row.try_get::<String, _>(3)?)?,
        tip: parse("attempt.tip", &row.try_get::<String, _>(4)?)?,
        created_ms: row.try_get(5)?,
    })
}

impl Store {
    /// Reads every transaction that is not final, by sender and nonce.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open_txs(&self) -> Result<Vec<OpenTx>, StoreError> {
        self.open_txs_from("").await
    }

    /// The same of one sender.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open_txs_of(&self, sender: Address) -> Result<Vec<OpenTx>, StoreError> {
        self.open_txs_from(&sender.to_string()).await
    }

    async fn open_txs_from(&self, sender: &str) -> Result<Vec<OpenTx>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, kind, sender, nonce, target, calldata, gas, manifest, block, created_ms
             FROM tx WHERE state <> 'final' AND ($1 = '' OR sender = $1) ORDER BY sender, nonce",
        )
        .bind(sender)
        .fetch_all(&self.readers)
        .await?;
        let attempts = sqlx::query(
            "SELECT a.hash, a.tx_id, a.raw, a.max_fee, a.tip, a.created_ms
             FROM tx t CROSS JOIN attempt a WHERE a.tx_id = t.id AND t.state <> 'final'
               AND ($1 = '' OR t.sender = $1) ORDER BY a.created_ms",
        )
        .bind(sender)
        .fetch_all(&self.readers)
        .await?;
        let mut open = rows
            .iter()
            .map(|row| Ok(OpenTx { tx: read_tx(row)?, attempts: Vec::new() }))
            .collect::<Result<Vec<_>, StoreError>>()?;
        let mut by_id: std::collections::HashMap<String, Vec<AttemptRow>> =
            std::collections::HashMap::new();
        for row in &attempts {
            let attempt = read_attempt(row)?;
            by_id.entry(attempt.tx_id.clone()).or_default().push(attempt);
        }
        for entry in &mut open {
            entry.attempts = by_id.remove(&entry.tx.id).unwrap_or_default();
        }
        // The two reads are not one snapshot: a transaction stored in between comes next time.
        open.retain(|entry| !entry.attempts.is_empty());
        Ok(open)
    }
}

impl Store {
    /// Reads the block that a transaction stands in, if any, and the hashes of its attempts, oldest
    /// first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn whereabouts(&self, id: &str) -> Result<(Option<u64>, Vec<B256>), StoreError> {
        let rows = sqlx::query(
            "SELECT t.block, a.hash FROM tx t CROSS JOIN attempt a
             WHERE t.id = $1 AND a.tx_id = t.id ORDER BY a.created_ms",
        )
        .bind(id)
        .fetch_all(&self.readers)
        .await?;
        let mut block = None;
        let mut hashes = Vec::new();
        for row in &rows {
            block = row.try_get::<Option<i64>, _>(0)?;
            hashes.push(parse("attempt.hash", &row.try_get::<String, _>(1)?)?);
        }
        Ok((block.map(|number| unsigned("tx.block", number)).transpose()?, hashes))
    }
}

impl Store {
    /// Reads a sender's transactions from nonce `from` up to below `to`, at most 16 of them, final or
    /// not: of each the newest attempt, by nonce.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn attempts_between(
        &self,
        sender: Address,
        from: u64,
        to: u64,
    ) -> Result<Vec<AttemptRow>, StoreError> {
        let rows = sqlx::query(
            "SELECT a.hash, a.tx_id, a.raw, a.max_fee, a.tip, a.created_ms
             FROM tx t CROSS JOIN attempt a WHERE a.tx_id = t.id
               AND t.sender = $1 AND t.nonce >= $2 AND t.nonce < $3
             ORDER BY t.nonce, a.created_ms",
        )
        .bind(sender.to_string())
        .bind(from.cast_signed())
        .bind(to.min(from.saturating_add(16)).cast_signed())
        .fetch_all(&self.readers)
        .await?;
        let mut newest: Vec<AttemptRow> = Vec::new();
        for row in &rows {
            let attempt = read_attempt(row)?;
            newest.pop_if(|last| last.tx_id == attempt.tx_id);
            newest.push(attempt);
        }
        Ok(newest)
    }
}

impl Store {
    /// Reads the next nonce of a sender; 0 for one that has sent nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn next_nonce(&self, sender: &str) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT next FROM nonce WHERE sender = $1")
            .bind(sender)
            .fetch_optional(&self.readers)
            .await?;
        row.map_or(Ok(0), |row| unsigned("nonce.next", row.try_get(0)?))
    }
}

impl Tx {
    /// Finds the nonces of a sender from `from` up to below `to` that no transaction has, the lowest 16
    /// at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn unused_nonces(
        &mut self,
        sender: Address,
        from: u64,
        to: u64,
    ) -> Result<Vec<u64>, StoreError> {
        let to = to.min(from.saturating_add(16));
        let rows =
            sqlx::query("SELECT nonce FROM tx WHERE sender = $1 AND nonce >= $2 AND nonce < $3")
                .bind(sender.to_string())
                .bind(from.cast_signed())
                .bind(to.cast_signed())
                .fetch_all(&mut *self.inner)
                .await?;
        let used = rows
            .iter()
            .map(|row| unsigned("tx.nonce", row.try_get(0)?))
            .collect::<Result<std::collections::BTreeSet<u64>, StoreError>>()?;
        Ok((from..to).filter(|nonce| !used.contains(nonce)).collect())
    }

    /// Takes the next number of a counter that starts at zero: a relayer's account nonce, or a
    /// signer's unordered nonce in the wallet.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn take_nonce(&mut self, sender: &str) -> Result<u64, StoreError> {
        let row = sqlx::query(
            "INSERT INTO nonce (sender, next) VALUES ($1, 1)
             ON CONFLICT (sender) DO UPDATE SET next = nonce.next + 1 RETURNING next - 1",
        )
        .bind(sender)
        .fetch_one(&mut *self.inner)
        .await?;
        unsigned("nonce.next", row.try_get(0)?)
    }

    /// Lifts a counter to at least `floor`; never lowers it. Answers with what it was.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn raise_nonce(&mut self, sender: &str, floor: u64) -> Result<u64, StoreError> {
        let row = sqlx::query("SELECT next FROM nonce WHERE sender = $1")
            .bind(sender)
            .fetch_optional(&mut *self.inner)
            .await?;
        let before = match row {
            Some(row) => unsigned("nonce.next", row.try_get(0)?)?,
            None => 0,
        };
        sqlx::query(
            "INSERT INTO nonce (sender, next) VALUES ($1, $2)
             ON CONFLICT (sender) DO UPDATE SET next = excluded.next
             WHERE excluded.next > nonce.next",
        )
        .bind(sender)
        .bind(floor.cast_signed())
        .execute(&mut *self.inner)
        .await?;
        Ok(before)
    }

    /// Stores a transaction with its first attempt.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::is_duplicate`] if the sender's nonce is taken.
    pub async fn insert_tx(&mut self, tx: &TxRow, attempt: &AttemptRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO tx (id, kind, sender, nonce, target, calldata, gas, manifest, state,
               created_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, 'open', $9)",
        )
        .bind(&tx.id)
        .bind(tx.kind.as_str())
        .bind(tx.sender.to_string())
        .bind(tx.nonce.cast_signed())
        .bind(tx.target.to_string())
        .bind(tx.calldata.to_string())
        .bind(tx.gas.cast_signed())
        .bind(&tx.manifest)
        .bind(tx.created_ms)
        .execute(&mut *self.inner)
        .await?;
        self.insert_attempt(attempt).await
    }

    /// Stores one more signature of a transaction; the same one twice is one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn insert_attempt(&mut self, attempt: &AttemptRow) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO attempt (hash, tx_id, raw, max_fee, tip, created_ms)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (hash) DO NOTHING",
        )
        .bind(attempt.hash.to_string())
        .bind(&attempt.tx_id)
        .bind(attempt.raw.to_string())
        .bind(attempt.max_fee.to_string())
        .bind(attempt.tip.to_string())
        .bind(attempt.created_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Notes what a node answered to an attempt: for people, never for decisions.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn note_answer(&mut self, hash: B256, answer: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE attempt SET answer = $2 WHERE hash = $1")
            .bind(hash.to_string())
            .bind(answer)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// Notes the block a transaction stands in, or that it stands in none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn place_tx(&mut self, id: &str, block: Option<u64>) -> Result<(), StoreError> {
        sqlx::query("UPDATE tx SET block = $2 WHERE id = $1 AND state <> 'final'")
            .bind(id)
            .bind(block.map(u64::cast_signed))
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// Ends a transaction. Answers `false` if it had ended before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn finish_tx(
        &mut self,
        id: &str,
        block: u64,
        gas_used: u64,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE tx SET state = 'final', block = $2, gas_used = $3
             WHERE id = $1 AND state <> 'final'",
        )
        .bind(id)
        .bind(block.cast_signed())
        .bind(gas_used.cast_signed())
        .execute(&mut *self.inner)
        .await?;
        Ok(done.rows_affected() == 1)
    }
}
