//! The ledger's rows: one transfer a payment, pending then posted or voided, and the balances.

use alloy::primitives::Address;
use sqlx::Row as _;

use super::{PaymentRow, Store, StoreError, Tx, Word, many::Many, parse};
use crate::{
    ledger::{Account, Balance, Change, LedgerError, Transfer},
    money::Usdc,
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
    /// Of `posted`, what escrows paid it.
    pub released: Usdc,
    /// What went into escrows for it: on their accounts, not on its own.
    pub funded: Usdc,
}

impl Posting {
    /// The account of a payee that got nothing.
    #[must_use]
    pub const fn none(payee: Address) -> Self {
        let zero = Usdc::ZERO;
        Self {
            payee,
            pending: zero,
            posted: zero,
            transfers: zero,
            count: 0,
            released: zero,
            funded: zero,
        }
    }
}

const RESERVE: Many = Many {
    head: "INSERT INTO ledger_transfer (at_ms, payment_id, debit, credit, amount, state)",
    shared: 0,
    columns: 6,
    tail: "",
};

const END: Many = Many {
    head: "UPDATE ledger_transfer SET state = $1, at_ms = $2
           WHERE state = 'pending' AND payment_id IN (",
    shared: 2,
    columns: 1,
    tail: ")",
};

// A sum of 2^62 and more does not grow: SQLite would turn one past 64 bits into a float.
const BALANCES: Many = Many {
    head: "INSERT INTO ledger_balance (account, debits_pending, debits_posted, credits_pending,
             credits_posted)",
    shared: 0,
    columns: 5,
    tail: " ON CONFLICT (account) DO UPDATE SET
              debits_pending = ledger_balance.debits_pending + excluded.debits_pending,
              debits_posted = ledger_balance.debits_posted + excluded.debits_posted,
              credits_pending = ledger_balance.credits_pending + excluded.credits_pending,
              credits_posted = ledger_balance.credits_posted + excluded.credits_posted
            WHERE (ledger_balance.debits_pending < 4611686018427387904
                   OR excluded.debits_pending <= 0)
              AND (ledger_balance.debits_posted < 4611686018427387904
                   OR excluded.debits_posted <= 0)
              AND (ledger_balance.credits_pending < 4611686018427387904
                   OR excluded.credits_pending <= 0)
              AND (ledger_balance.credits_posted < 4611686018427387904
                   OR excluded.credits_posted <= 0)",
};

impl Store {
    /// Reads what the ledger says each payee has.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn postings(&self) -> Result<Vec<Posting>, StoreError> {
        let rows = sqlx::query(
            "SELECT b.account, b.credits_pending, b.credits_posted,
                    CAST(COALESCE(SUM(t.amount), 0) AS BIGINT), CAST(COUNT(t.amount) AS BIGINT),
                    CAST(COALESCE(SUM(CASE WHEN t.debit <> 'wallet' THEN t.amount ELSE 0 END), 0)
                      AS BIGINT)
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
                    released: amount(row.try_get(5)?)?,
                    funded: Usdc::ZERO,
                })
            })
            .collect()
    }

    /// Reads what went into the escrows of each payee, by the escrows' own accounts.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn escrow_fundings(&self) -> Result<Vec<Posting>, StoreError> {
        let rows = sqlx::query(
            "SELECT e.payee, b.credits_posted, b.debits_posted,
               CAST(COALESCE(SUM(t.amount), 0) AS BIGINT)
             FROM escrow e
             JOIN ledger_balance b ON b.account = 'escrow:' || e.id
             LEFT JOIN ledger_transfer t ON t.payment_id = e.payment_id AND t.state = 'posted'
             GROUP BY e.id, e.payee, b.credits_posted, b.debits_posted",
        )
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                let payee = parse("escrow.payee", &row.try_get::<String, _>(0)?)?;
                Ok(Posting {
                    posted: amount(row.try_get(1)?)?,
                    released: amount(row.try_get(2)?)?,
                    transfers: amount(row.try_get(3)?)?,
                    ..Posting::none(payee)
                })
            })
            .collect()
    }

    /// Reads an account's posted debits and credits.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn posted(&self, account: &Account) -> Result<(Usdc, Usdc), StoreError> {
        let row = sqlx::query(
            "SELECT debits_posted, credits_posted FROM ledger_balance WHERE account = $1",
        )
        .bind(account.to_string())
        .fetch_optional(&self.readers)
        .await?;
        let Some(row) = row else { return Ok((Usdc::ZERO, Usdc::ZERO)) };
        Ok((amount(row.try_get(0)?)?, amount(row.try_get(1)?)?))
    }

    /// Adds up what WorkEscrow keeps for accounts that USDC would not pay.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn owed(&self) -> Result<Usdc, StoreError> {
        let row = sqlx::query(
            "SELECT CAST(COALESCE(SUM(credits_posted - debits_posted), 0) AS BIGINT)
             FROM ledger_balance WHERE account LIKE 'owed:%'",
        )
        .fetch_one(&self.readers)
        .await?;
        amount(row.try_get(0)?)
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
    /// Reserves: a pending transfer from the wallet to each payment's payee.
    ///
    /// # Errors
    /// [`StoreError`]; a payment is reserved once.
    pub async fn reserve(
        &mut self,
        payments: &[PaymentRow],
        now_ms: i64,
    ) -> Result<(), StoreError> {
        for part in RESERVE.parts(payments, self.marks) {
            let mut insert = RESERVE.of(part.len(), self.marks);
            for payment in part {
                let (transfer, changes) = transfer(payment)?;
                insert = insert
                    .bind(now_ms)
                    .bind(payment.id.to_string())
                    .bind(transfer.debit.to_string())
                    .bind(transfer.credit.to_string())
                    .bind(transfer.amount.as_i64())
                    .bind("pending");
                self.shift(&changes)?;
                self.say(Word::Reserved {
                    agent: payment.agent.clone(),
                    facts: payment.facts(),
                    at_s: u64::try_from(payment.created_ms / 1_000).unwrap_or(0),
                });
            }
            insert.execute(&mut *self.inner).await?;
        }
        Ok(())
    }

    /// Posts reservations: the money is at the payees.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if one of the payments has no pending transfer.
    pub async fn post(&mut self, payments: &[PaymentRow], now_ms: i64) -> Result<(), StoreError> {
        self.end_transfers(payments, "posted", Transfer::post, now_ms).await?;
        for payment in payments {
            self.say(Word::Settled {
                agent: payment.agent.clone(),
                facts: payment.facts(),
                paid_in: payment.paid_in(),
            });
        }
        Ok(())
    }

    /// Voids reservations: no money moves.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if one of the payments has no pending transfer.
    pub async fn void(&mut self, payments: &[PaymentRow], now_ms: i64) -> Result<(), StoreError> {
        self.end_transfers(payments, "voided", Transfer::void, now_ms).await?;
        for payment in payments {
            self.say(Word::Voided { agent: payment.agent.clone(), facts: payment.facts() });
        }
        Ok(())
    }

    /// Books money that the chain has moved already, under the log that says so.
    ///
    /// # Errors
    /// [`StoreError`]; a log is booked once.
    pub async fn book_moved(
        &mut self,
        id: &str,
        (debit, credit): (Account, Account),
        amount: Usdc,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let fault = |error| StoreError::corrupt("ledger_transfer", error);
        let (mut transfer, reserved) = Transfer::reserve(debit, credit, amount).map_err(fault)?;
        self.shift(&reserved)?;
        self.shift(&transfer.post().map_err(fault)?)?;
        sqlx::query(
            "INSERT INTO ledger_transfer (payment_id, debit, credit, amount, state, at_ms)
             VALUES ($1, $2, $3, $4, 'posted', $5)",
        )
        .bind(id)
        .bind(transfer.debit.to_string())
        .bind(transfer.credit.to_string())
        .bind(amount.as_i64())
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Reserves one transfer under an id.
    pub(super) async fn reserve_one(
        &mut self,
        id: &str,
        transfer: &Transfer,
        changes: &[Change; 2],
        now_ms: i64,
    ) -> Result<(), StoreError> {
        self.shift(changes)?;
        let insert = RESERVE.of(1, self.marks).bind(now_ms).bind(id.to_owned());
        insert
            .bind(transfer.debit.to_string())
            .bind(transfer.credit.to_string())
            .bind(transfer.amount.as_i64())
            .bind("pending")
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// Ends one transfer: `posted` or `voided`.
    pub(super) async fn end_one(
        &mut self,
        id: &str,
        changes: &[Change; 2],
        stage: &str,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        self.shift(changes)?;
        let update = END.of(1, self.marks).bind(stage.to_owned()).bind(now_ms).bind(id.to_owned());
        let done = update.execute(&mut *self.inner).await?;
        if done.rows_affected() == 1 {
            return Ok(());
        }
        Err(StoreError::corrupt("ledger_transfer.state", format!("{id} is not pending")))
    }

    async fn end_transfers(
        &mut self,
        payments: &[PaymentRow],
        state: &str,
        end: impl Fn(&mut Transfer) -> Result<[Change; 2], LedgerError>,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        for part in END.parts(payments, self.marks) {
            let mut update = END.of(part.len(), self.marks).bind(state).bind(now_ms);
            for payment in part {
                update = update.bind(payment.id.to_string());
                let (mut transfer, _) = transfer(payment)?;
                let changes = end(&mut transfer)
                    .map_err(|error| StoreError::corrupt("ledger_transfer", error))?;
                self.shift(&changes)?;
            }
            let done = update.execute(&mut *self.inner).await?;
            if done.rows_affected() != part.len() as u64 {
                let ids: Vec<String> = part.iter().map(|payment| payment.id.to_string()).collect();
                let why = format!("of {} not all are pending", ids.join(", "));
                return Err(StoreError::corrupt("ledger_transfer.state", why));
            }
        }
        Ok(())
    }

    fn shift(&mut self, changes: &[Change; 2]) -> Result<(), StoreError> {
        for change in changes {
            let sums = self.balances.entry(change.account.to_string()).or_default();
            let parts = [
                change.debits_pending,
                change.debits_posted,
                change.credits_pending,
                change.credits_posted,
            ];
            for (sum, part) in sums.iter_mut().zip(parts) {
                *sum = sum
                    .checked_add(part)
                    .ok_or_else(|| StoreError::corrupt("ledger_balance", "a sum past 64 bits"))?;
            }
        }
        Ok(())
    }

    pub(super) async fn write_balances(&mut self) -> Result<(), StoreError> {
        let balances: Vec<_> = std::mem::take(&mut self.balances).into_iter().collect();
        for part in BALANCES.parts(&balances, self.marks) {
            let mut write = BALANCES.of(part.len(), self.marks);
            for (account, sums) in part {
                write = write.bind(account.clone());
                for sum in sums {
                    write = write.bind(*sum);
                }
            }
            let done = write.execute(&mut *self.inner).await?;
            if done.rows_affected() != part.len() as u64 {
                return Err(StoreError::corrupt("ledger_balance", "a sum past 2^62"));
            }
        }
        Ok(())
    }
}

/// The transfer of a payment as it is when it is reserved, and what that changes.
fn transfer(payment: &PaymentRow) -> Result<(Transfer, [Change; 2]), StoreError> {
    let credit = payment.escrow.map_or(Account::Payee(payment.payee), Account::Escrow);
    Transfer::reserve(Account::Wallet, credit, payment.amount)
        .map_err(|error| StoreError::corrupt("ledger_transfer", error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::on_both;

    #[tokio::test]
    async fn a_sum_is_refused_before_it_overflows() {
        on_both(overflow).await;
    }

    async fn overflow(store: Store) {
        let huge = Usdc::from_units(1 << 62).unwrap();
        let payee = Account::Payee(Address::repeat_byte(7));
        let reserve = || Transfer::reserve(Account::Wallet, payee.clone(), huge).unwrap();
        let (mut first, changes) = reserve();

        let mut tx = store.begin().await.unwrap();
        tx.shift(&changes).unwrap();
        assert!(matches!(tx.shift(&changes), Err(StoreError::Corrupt { .. })));
        drop(tx);

        let mut tx = store.begin().await.unwrap();
        tx.shift(&changes).unwrap();
        tx.commit().await.unwrap();
        let mut tx = store.begin().await.unwrap();
        tx.shift(&reserve().1).unwrap();
        assert!(matches!(tx.commit().await, Err(StoreError::Corrupt { .. })));
        assert_eq!(store.wallet_balance().await.unwrap().debits_pending, huge);
        // It can still go down.
        let mut tx = store.begin().await.unwrap();
        tx.shift(&first.void().unwrap()).unwrap();
        tx.commit().await.unwrap();
        assert_eq!(store.wallet_balance().await.unwrap().debits_pending, Usdc::ZERO);
    }
}
