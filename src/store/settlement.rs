//! Settlements: payments of others that this daemon's facilitator carries to the chain. One row for
//! each authorization, for ever: what was settled once is not settled again.

use alloy::primitives::{Address, B256, U256};
use sqlx::{Row as _, any::AnyRow};

use super::{Store, StoreError, Tx, parse, payment::unsigned};

/// How a settlement moves the money.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettlementKind {
    /// `exact` by EIP-3009.
    Exact,
    /// `exact` by ERC-7710.
    Delegated,
    /// Money into a channel, by EIP-3009.
    Deposit,
    /// Vouchers of channels are claimed.
    Claim,
    /// What was claimed is paid out.
    Payout,
    /// What is left in a channel goes back.
    Refund,
}

impl SettlementKind {
    const ALL: [Self; 6] =
        [Self::Exact, Self::Delegated, Self::Deposit, Self::Claim, Self::Payout, Self::Refund];

    /// Returns the stored name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Delegated => "delegated",
            Self::Deposit => "deposit",
            Self::Claim => "claim",
            Self::Payout => "payout",
            Self::Refund => "refund",
        }
    }
}

/// Where a settlement stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettlementState {
    /// Its transaction is signed, stored and on its way.
    Sent,
    /// The money moved, at depth.
    Settled,
    /// Its transaction is final and moved nothing. It may be tried again.
    Failed,
}

impl SettlementState {
    const ALL: [Self; 3] = [Self::Sent, Self::Settled, Self::Failed];

    /// Returns the stored name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Settled => "settled",
            Self::Failed => "failed",
        }
    }
}

/// A settlement as stored.
#[derive(Clone, Debug)]
pub struct SettlementRow {
    /// What makes it the same one: chain, asset, payer and nonce.
    pub id: String,
    /// How.
    pub kind: SettlementKind,
    /// Whose money.
    pub payer: Address,
    /// Who is paid.
    pub payee: Address,
    /// The token.
    pub asset: Address,
    /// Base units.
    pub amount: U256,
    /// The authorization's.
    pub nonce: B256,
    /// Who answers for it if it fails: the payer, or the contract it named.
    pub origin: Address,
    /// Where it stands.
    pub state: SettlementState,
    /// Its transaction; empty if it is somebody else's.
    pub tx_id: String,
    /// The hash that settled it; before that, of the first attempt.
    pub tx_hash: B256,
    /// A block from before it left.
    pub since: u64,
    /// Transactions that moved nothing.
    pub failures: u64,
    /// Why the last one did.
    pub detail: Option<String>,
    /// Somebody was told that it is settled.
    pub told: bool,
}

fn read(row: &AnyRow) -> Result<SettlementRow, StoreError> {
    let text = |index: usize| row.try_get::<String, _>(index);
    let (kind, state) = (text(1)?, text(8)?);
    Ok(SettlementRow {
        id: text(0)?,
        kind: SettlementKind::ALL
            .into_iter()
            .find(|known| known.as_str() == kind)
            .ok_or_else(|| StoreError::corrupt("settlement.kind", &kind))?,
        payer: parse("settlement.payer", &text(2)?)?,
        payee: parse("settlement.payee", &text(3)?)?,
        asset: parse("settlement.asset", &text(4)?)?,
        amount: parse("settlement.amount", &text(5)?)?,
        nonce: parse("settlement.nonce", &text(6)?)?,
        origin: parse("settlement.origin", &text(7)?)?,
        state: SettlementState::ALL
            .into_iter()
            .find(|known| known.as_str() == state)
            .ok_or_else(|| StoreError::corrupt("settlement.state", &state))?,
        tx_id: text(9)?,
        tx_hash: parse("settlement.tx_hash", &text(10)?)?,
        since: unsigned("settlement.since_block", row.try_get(11)?)?,
        failures: unsigned("settlement.failures", row.try_get(12)?)?,
        detail: row.try_get(13)?,
        told: row.try_get::<i64, _>(14)? != 0,
    })
}

impl Store {
    /// Reads a settlement.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn settlement(&self, id: &str) -> Result<Option<SettlementRow>, StoreError> {
        let row = sqlx::query(
            "SELECT id, kind, payer, payee, asset, amount, nonce, origin, state, tx_id, tx_hash,
               since_block, failures, detail, told
             FROM settlement WHERE id = $1",
        )
        .bind(id)
        .fetch_optional(&self.readers)
        .await?;
        row.as_ref().map(read).transpose()
    }

    /// Counts the transactions that moved nothing and that `origin` answers for, of settlements that
    /// were touched since a time (milliseconds).
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn settlement_failures(
        &self,
        origin: Address,
        since_ms: i64,
    ) -> Result<u64, StoreError> {
        let row = sqlx::query(
            "SELECT CAST(COALESCE(SUM(failures), 0) AS BIGINT) FROM settlement
             WHERE origin = $1 AND failures > 0 AND updated_ms >= $2",
        )
        .bind(origin.to_string())
        .bind(since_ms)
        .fetch_one(&self.readers)
        .await?;
        unsigned("settlement.failures", row.try_get(0)?)
    }
}

impl Tx {
    /// Writes a settlement that is on its way, or that somebody else has made: a new one, or one that
    /// failed before. Answers `false` if it is on its way already, or settled.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn put_settlement(
        &mut self,
        row: &SettlementRow,
        now_ms: i64,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "INSERT INTO settlement (id, kind, payer, payee, asset, amount, nonce, origin, state,
               tx_id, tx_hash, since_block, failures, told, created_ms, updated_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 0, 0, $13, $13)
             ON CONFLICT (id) DO UPDATE SET payee = excluded.payee, amount = excluded.amount,
               state = excluded.state, tx_id = excluded.tx_id, tx_hash = excluded.tx_hash,
               since_block = excluded.since_block, updated_ms = excluded.updated_ms
             WHERE settlement.state = 'failed'",
        )
        .bind(&row.id)
        .bind(row.kind.as_str())
        .bind(row.payer.to_string())
        .bind(row.payee.to_string())
        .bind(row.asset.to_string())
        .bind(row.amount.to_string())
        .bind(row.nonce.to_string())
        .bind(row.origin.to_string())
        .bind(row.state.as_str())
        .bind(&row.tx_id)
        .bind(row.tx_hash.to_string())
        .bind(row.since.cast_signed())
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(done.rows_affected() == 1)
    }

    /// Gives a settlement on its way another transaction, where the first one's nonce was lost.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn move_settlement(
        &mut self,
        id: &str,
        tx_id: &str,
        tx_hash: B256,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE settlement SET tx_id = $2, tx_hash = $3, updated_ms = $4
             WHERE id = $1 AND state = 'sent'",
        )
        .bind(id)
        .bind(tx_id)
        .bind(tx_hash.to_string())
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Ends a settlement on its way: settled by `settled`, or failed for a reason.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_settlement(
        &mut self,
        id: &str,
        settled: Result<B256, &str>,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let state =
            if settled.is_ok() { SettlementState::Settled } else { SettlementState::Failed };
        sqlx::query(
            "UPDATE settlement SET state = $2, tx_hash = COALESCE($3, tx_hash), detail = $4,
               failures = failures + $5, updated_ms = $6
             WHERE id = $1 AND state = 'sent'",
        )
        .bind(id)
        .bind(state.as_str())
        .bind(settled.ok().map(|hash| hash.to_string()))
        .bind(settled.err())
        .bind(i64::from(settled.is_err()))
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Notes that somebody was told of a settlement. Answers `false` if somebody was before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn tell_settlement(&mut self, id: &str) -> Result<bool, StoreError> {
        let done = sqlx::query("UPDATE settlement SET told = 1 WHERE id = $1 AND told = 0")
            .bind(id)
            .execute(&mut *self.inner)
            .await?;
        Ok(done.rows_affected() == 1)
    }
}
