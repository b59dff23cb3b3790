//! Payments that were found on the chain, of which this store knew nothing: it was restored from a
//! backup. Until an operator says what one of them was, nobody is paid the same again.
//!
//! The row of such a payment has no fingerprint, for its request is not known, and a key that no
//! agent can send, for it has a space.

use alloy::primitives::{Address, B256};
use sqlx::Row as _;

use super::{PaymentRow, Store, StoreError, Tx, parse, payment};
use crate::{
    money::Usdc,
    payment::{AgentId, PaymentId},
};

/// How the key of a payment begins that waits for an operator's word.
const OPEN: &str = "(found) ";
/// How it begins afterwards.
const SETTLED: &str = "(settled) ";

/// Returns the key of a payment that was found in a transaction, at this place among the block's
/// logs.
pub(crate) fn found_key(transaction: B256, log: u64) -> String {
    format!("{OPEN}{transaction}:{log}")
}

impl PaymentRow {
    /// Was it found on the chain, and is its request not known?
    #[must_use]
    pub fn is_found(&self) -> bool {
        self.fingerprint == B256::ZERO
    }

    /// Was it found, and has no operator said yet what it was?
    #[must_use]
    pub fn is_open_question(&self) -> bool {
        self.is_found() && self.idempotency_key.starts_with(OPEN)
    }
}

impl Store {
    /// Reads the payments that wait for an operator's word, oldest first, `limit` at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn found(&self, limit: u32) -> Result<Vec<PaymentRow>, StoreError> {
        let rows =
            sqlx::query(payment::FOUND).bind(i64::from(limit)).fetch_all(&self.readers).await?;
        payment::all(&rows)
    }
}

impl Tx {
    /// Finds a payment that waits for an operator's word, of this agent, payee and amount.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn found_like(
        &mut self,
        agent: &AgentId,
        payee: Address,
        amount: Usdc,
    ) -> Result<Option<PaymentId>, StoreError> {
        let row = sqlx::query(payment::FOUND_LIKE)
            .bind(agent.as_str())
            .bind(payee.to_string())
            .bind(amount.as_i64())
            .fetch_optional(&mut *self.inner)
            .await?;
        row.map(|row| parse("payment.id", &row.try_get::<String, _>(0)?)).transpose()
    }

    /// Writes an operator's word on a found payment: the key of its request, or none, where nobody
    /// will ask for it again. Answers `false` if it does not wait for one.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::is_duplicate`] if the agent's key has a payment already.
    pub async fn settle_found(
        &mut self,
        found: &PaymentRow,
        key: Option<&str>,
    ) -> Result<bool, StoreError> {
        let place = found.idempotency_key.strip_prefix(OPEN).unwrap_or_default();
        let settled = key.map_or_else(|| format!("{SETTLED}{place}"), str::to_owned);
        let done = sqlx::query(
            "UPDATE payment SET idempotency_key = $2 WHERE id = $1 AND idempotency_key = $3",
        )
        .bind(found.id.to_string())
        .bind(settled)
        .bind(&found.idempotency_key)
        .execute(&mut *self.inner)
        .await?;
        Ok(done.rows_affected() == 1)
    }
}
