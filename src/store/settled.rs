//! What the books call paid, for the comparison with the chain.

use alloy::primitives::{Address, B256};
use sqlx::Row as _;

use super::{Store, StoreError, parse, payment::unsigned};
use crate::{money::Usdc, payment::PaymentId};

/// A payment that is called paid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettledPayment {
    /// Its id.
    pub id: PaymentId,
    /// The transaction that paid it.
    pub transaction: B256,
    /// Who was paid.
    pub payee: Address,
    /// How much.
    pub amount: Usdc,
    /// The block of that transaction.
    pub block: u64,
}

impl Store {
    /// Reads payments that are called paid, in the order of their ids, from the first one after
    /// `after`; `limit` at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn settled_after(
        &self,
        after: Option<PaymentId>,
        limit: u32,
    ) -> Result<Vec<SettledPayment>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, tx_hash, payee, amount, block FROM payment
             WHERE state = 'paid' AND id > $1 ORDER BY id LIMIT $2",
        )
        .bind(after.map_or_else(String::new, |id| id.to_string()))
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                let units: i64 = row.try_get(3)?;
                let amount = Usdc::try_from(units)
                    .map_err(|_| StoreError::corrupt("payment.amount", units))?;
                Ok(SettledPayment {
                    id: parse("payment.id", &row.try_get::<String, _>(0)?)?,
                    transaction: parse("payment.tx_hash", &row.try_get::<String, _>(1)?)?,
                    payee: parse("payment.payee", &row.try_get::<String, _>(2)?)?,
                    amount,
                    block: unsigned("payment.block", row.try_get(4)?)?,
                })
            })
            .collect()
    }
}
