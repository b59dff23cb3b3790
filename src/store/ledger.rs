//! The ledger's rows: one transfer a payment, pending then posted or voided, and the balances.

use alloy::primitives::Address;
use sqlx::Row as _;

use super::{Store, StoreError, Tx, parse};
use crate::{
    ledger::{Account, Balance, Change, Transfer},
    money::Usdc,
    payment::PaymentId,
};

/// A payee's account, by the balances and by adding up the transfers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posting {
    /// The payee.
    pub payee: Address,
    /// Reserved for it, not final.
    pub pending: Usdc,
    /// Paid to it, by the balance.
    pub posted: Usdc,
    /// Paid to it, by the sum of its transfers: another figure is a fault.
    pub transfers: Usdc,
    /// How many those are.
    pub count: u64,
}

impl Store {
    /// Reads what the ledger says each payee has.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn postings(&self) -> Result<Vec<Posting>, StoreError> {
        let rows = sqlx::query(
            "SELECT b.account, b.credits_pending, b.credits_posted,
                    CAST(COALESCE(SUM(t.amount), 0) AS BIGINT), CAST(COUNT(t.amount) AS BIGINT)
             FROM ledger_balance b
             LEFT JOIN ledger_transfer t ON t.credit = b.account AND t.state = 'posted'
             WHERE b.account LIKE 'payee:%'
             GROUP BY b.account, b.credits_pending, b.credits_posted ORDER BY b.account",
        )
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                let account: String = row.try_get(0)?;
                let Account::Payee(payee) = parse("ledger_balance.account", &account)? else {
                    return Err(StoreError::corrupt("ledger_balance.account", account));
                };
                let count: i64 = row.try_get(4)?;
                Ok(Posting {
                    payee,
                    pending: amount(row.try_get(1)?)?,
                    posted: amount(row.try_get(2)?)?,
                    transfers: amount(row.try_get(3)?)?,
                    count: count.unsigned_abs(),
                })
            })
            .collect()
    }

    /// Reads the wallet's account: what left it by the ledger.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn wallet_balance(&self) -> Result<Balance, StoreError> {
        let row = sqlx::query(
            "SELECT debits_pending, debits_posted, credits_pending, credits_posted
             FROM ledger_balance WHERE account = $1",
        )
        .bind(Account::Wallet.to_string())
        .fetch_optional(&self.readers)
        .await?;
        let Some(row) = row else { return Ok(Balance::default()) };
        Ok(Balance {
            debits_pending: amount(row.try_get(0)?)?,
            debits_posted: amount(row.try_get(1)?)?,
            credits_pending: amount(row.try_get(2)?)?,
            credits_posted: amount(row.try_get(3)?)?,
        })
    }
}

fn amount(units: i64) -> Result<Usdc, StoreError> {
    Usdc::try_from(units).map_err(|_| StoreError::corrupt("ledger_balance", units))
}

impl Tx {
    /// Reserves: a pending transfer from the wallet to the payee.
    ///
    /// # Errors
    /// [`StoreError`]; a payment is reserved once.
    pub async fn reserve(
        &mut self,
        payment: PaymentId,
        payee: Address,
        units: Usdc,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let (transfer, changes) = Transfer::reserve(Account::Wallet, Account::Payee(payee), units)
            .map_err(|error| StoreError::corrupt("ledger_transfer", error))?;
        sqlx::query(
            "INSERT INTO ledger_transfer (payment_id, debit, credit, amount, state, at_ms)
             VALUES ($1, $2, $3, $4, 'pending', $5)",
        )
        .bind(payment.to_string())
        .bind(transfer.debit.to_string())
        .bind(transfer.credit.to_string())
        .bind(units.as_i64())
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        self.shift(&changes);
        Ok(())
    }

    /// Posts a reservation: the money is at the payee.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if there is no pending transfer of that payment.
    pub async fn post(
        &mut self,
        payment: PaymentId,
        payee: Address,
        units: Usdc,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let mut transfer = pending(payee, units)?;
        let changes =
            transfer.post().map_err(|error| StoreError::corrupt("ledger_transfer", error))?;
        self.end_transfer(payment, "posted", now_ms).await?;
        self.shift(&changes);
        Ok(())
    }

    /// Voids a reservation: no money moves.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if there is no pending transfer of that payment.
    pub async fn void(
        &mut self,
        payment: PaymentId,
        payee: Address,
        units: Usdc,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let mut transfer = pending(payee, units)?;
        let changes =
            transfer.void().map_err(|error| StoreError::corrupt("ledger_transfer", error))?;
        self.end_transfer(payment, "voided", now_ms).await?;
        self.shift(&changes);
        Ok(())
    }

    async fn end_transfer(
        &mut self,
        payment: PaymentId,
        state: &str,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let done = sqlx::query(
            "UPDATE ledger_transfer SET state = $2, at_ms = $3
             WHERE payment_id = $1 AND state = 'pending'",
        )
        .bind(payment.to_string())
        .bind(state)
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        if done.rows_affected() == 1 {
            Ok(())
        } else {
            Err(StoreError::corrupt("ledger_transfer.state", format!("{payment} is not pending")))
        }
    }

    fn shift(&mut self, changes: &[Change; 2]) {
        for change in changes {
            let sums = self.balances.entry(change.account.to_string()).or_default();
            let parts = [
                change.debits_pending,
                change.debits_posted,
                change.credits_pending,
                change.credits_posted,
            ];
            for (sum, part) in sums.iter_mut().zip(parts) {
                *sum += part;
            }
        }
    }

    pub(super) async fn write_balances(&mut self) -> Result<(), StoreError> {
        for (account, [debits_pending, debits_posted, credits_pending, credits_posted]) in
            std::mem::take(&mut self.balances)
        {
            sqlx::query(
                "INSERT INTO ledger_balance (account, debits_pending, debits_posted,
                   credits_pending, credits_posted) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (account) DO UPDATE SET
                   debits_pending = ledger_balance.debits_pending + excluded.debits_pending,
                   debits_posted = ledger_balance.debits_posted + excluded.debits_posted,
                   credits_pending = ledger_balance.credits_pending + excluded.credits_pending,
                   credits_posted = ledger_balance.credits_posted + excluded.credits_posted",
            )
            .bind(account)
            .bind(debits_pending)
            .bind(debits_posted)
            .bind(credits_pending)
            .bind(credits_posted)
            .execute(&mut *self.inner)
            .await?;
        }
        Ok(())
    }
}

/// Rebuilds the reservation that is about to end.
fn pending(payee: Address, units: Usdc) -> Result<Transfer, StoreError> {
    Transfer::reserve(Account::Wallet, Account::Payee(payee), units)
        .map(|(transfer, _)| transfer)
        .map_err(|error| StoreError::corrupt("ledger_transfer", error))
}
