//! What reconciliation found, and what it reads of the books to find it.

use alloy::primitives::{Address, B256};
use serde::Serialize;
use serde_json::json;
use sqlx::{Row as _, any::AnyRow};

use super::{
    ItemRef, Store, StoreError, Tx,
    many::Many,
    parse,
    payment::{narrow_amount, unsigned},
};
use crate::{
    alert::{Alert, AlertKind},
    money::Usdc,
    payment::{PaymentId, State},
};

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// In what chain and books can differ.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        #[serde(rename_all = "snake_case")]
        pub enum FindingKind { $($(#[$doc])* $name,)* }

        impl FindingKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Returns the stored name.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

kinds! {
    /// USDC left the wallet and no payment explains it.
    Unexplained = "unexplained";
    /// A payment is called paid and no transfer on chain shows it.
    Missing = "missing";
    /// A payment's transfer is long final and the payment is not called paid.
    Unbooked = "unbooked";
    /// A payment, its ledger row and its audit entry do not say the same.
    Ledger = "ledger";
    /// An invoice was paid more than once.
    Invoice = "invoice";
    /// The wallet's balance changed by another amount than its transfers say.
    Balance = "balance";
    /// A block that was final is not on the chain any more.
    Reorg = "reorg";
}

/// One difference between chain and books.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The same difference has the same id, whenever it is found.
    pub id: String,
    /// In what they differ.
    pub kind: FindingKind,
    /// The block it was found in.
    pub block: u64,
    /// The transaction it is about.
    pub transaction: Option<B256>,
    /// The payment it is about.
    pub payment: Option<PaymentId>,
    /// In words.
    pub what: String,
    /// When it was found, milliseconds.
    pub found_ms: i64,
    /// When it was gone again, milliseconds.
    pub cleared_ms: Option<i64>,
}

/// What the books say of a payment that a transfer on chain may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub id: PaymentId,
    pub payee: Address,
    pub amount: Usdc,
    pub state: State,
    /// The transaction it is said to be paid by.
    pub transaction: Option<B256>,
    pub block: Option<u64>,
    pub item: Option<ItemRef>,
    pub invoice: Option<String>,
    /// The escrow it funds.
    pub escrow: Option<B256>,
    /// Its ledger row: state, credited account, amount.
    pub ledger: Option<(String, String, i64)>,
}

/// An audit entry that calls a payment paid.
#[derive(Clone, Debug)]
pub(crate) struct Finalized {
    pub seq: u64,
    pub payment: PaymentId,
    pub data: serde_json::Value,
}

/// An invoice and what was paid on it.
#[derive(Clone, Debug)]
pub(crate) struct InvoicePaid {
    pub payee: Address,
    pub invoice: String,
    pub times: u64,
    pub sum: Usdc,
}

const CLAIM: &str = "SELECT v.column1, p.id, p.payee, p.amount, p.state, p.tx_hash, p.block,
     p.item_index, p.invoice, t.state, t.credit, t.amount, p.escrow_id
   FROM (";

/// Transactions whose signed bytes are in the store.
const ATTEMPTS: Many = Many {
    head: "SELECT a.hash, a.tx_id FROM (",
    shared: 0,
    columns: 1,
    tail: ") AS v CROSS JOIN attempt a WHERE a.hash = v.column1",
};

/// Payments that are called paid by a transaction, whoever sent it; without those that it carried, if it
/// is in the store, which are found by its id.
const BY_HASH: Many = Many {
    head: CLAIM,
    shared: 0,
    columns: 1,
    tail: ") AS v CROSS JOIN payment p LEFT JOIN ledger_transfer t ON t.payment_id = p.id
           WHERE p.tx_hash = v.column1 AND p.state = 'paid' AND NOT EXISTS
             (SELECT 1 FROM attempt a WHERE a.hash = v.column1 AND a.tx_id = p.tx_id)",
};

const BY_TX: Many = Many {
    head: CLAIM,
    shared: 0,
    columns: 1,
    tail: ") AS v CROSS JOIN payment p LEFT JOIN ledger_transfer t ON t.payment_id = p.id
           WHERE p.tx_id = v.column1",
};

const BY_ID: Many = Many {
    head: CLAIM,
    shared: 0,
    columns: 1,
    tail: ") AS v CROSS JOIN payment p LEFT JOIN ledger_transfer t ON t.payment_id = p.id
           WHERE p.id = v.column1",
};

const INVOICES: Many = Many {
    head: "SELECT p.payee, p.invoice, CAST(COUNT(*) AS BIGINT), CAST(SUM(p.amount) AS BIGINT) FROM (",
    shared: 0,
    columns: 2,
    tail: ") AS v CROSS JOIN payment p
            WHERE p.payee = v.column1 AND p.invoice = v.column2 AND p.state = 'paid'
            GROUP BY p.payee, p.invoice HAVING COUNT(*) > 1",
};

macro_rules! findings {
    ($rest:literal) => {
        concat!(
            "SELECT id, kind, block, tx_hash, payment_id, what, found_ms, cleared_ms FROM finding ",
            $rest
        )
    };
}

fn read_claim(row: &AnyRow) -> Result<(String, Claim), StoreError> {
    let state: String = row.try_get(4)?;
    let ledger = match row.try_get::<Option<String>, _>(9)? {
        Some(state) => Some((state, row.try_get(10)?, row.try_get(11)?)),
        None => None,
    };
    let claim = Claim {
        id: parse("payment.id", &row.try_get::<String, _>(1)?)?,
        payee: parse("payment.payee", &row.try_get::<String, _>(2)?)?,
        amount: narrow_amount(row.try_get(3)?)?,
        state: State::from_name(&state)
            .ok_or_else(|| StoreError::corrupt("payment.state", &state))?,
        transaction: row
            .try_get::<Option<String>, _>(5)?
            .map(|text| parse("payment.tx_hash", &text))
            .transpose()?,
        block: row
            .try_get::<Option<i64>, _>(6)?
            .map(|n| unsigned("payment.block", n))
            .transpose()?,
        item: row.try_get::<Option<i64>, _>(7)?.and_then(ItemRef::from_column),
        invoice: row.try_get(8)?,
        escrow: row
            .try_get::<Option<String>, _>(12)?
            .map(|text| parse("payment.escrow_id", &text))
            .transpose()?,
        ledger,
    };
    Ok((row.try_get(0)?, claim))
}

fn read_finding(row: &AnyRow) -> Result<Finding, StoreError> {
    let kind: String = row.try_get(1)?;
    let maybe = |index: usize| row.try_get::<Option<String>, _>(index);
    Ok(Finding {
        id: row.try_get(0)?,
        kind: FindingKind::ALL
            .iter()
            .copied()
            .find(|known| known.as_str() == kind)
            .ok_or_else(|| StoreError::corrupt("finding.kind", &kind))?,
        block: unsigned("finding.block", row.try_get(2)?)?,
        transaction: maybe(3)?.map(|text| parse("finding.tx_hash", &text)).transpose()?,
        payment: maybe(4)?.map(|text| parse("finding.payment_id", &text)).transpose()?,
        what: row.try_get(5)?,
        found_ms: row.try_get(6)?,
        cleared_ms: row.try_get(7)?,
    })
}

impl Store {
    async fn claims(
        &self,
        many: &Many,
        keys: &[String],
    ) -> Result<Vec<(String, Claim)>, StoreError> {
        let mut found = Vec::new();
        for part in many.parts(keys, self.marks()) {
            let mut query = many.of(part.len(), self.marks());
            for key in part {
                query = query.bind(key);
            }
            for row in &query.fetch_all(&self.readers).await? {
                found.push(read_claim(row)?);
            }
        }
        Ok(found)
    }

    /// Finds the stored transactions that transactions on chain are: hash and id.
    pub(crate) async fn attempts_of(
        &self,
        hashes: &[B256],
    ) -> Result<Vec<(B256, String)>, StoreError> {
        let keys: Vec<String> = hashes.iter().map(ToString::to_string).collect();
        let mut found = Vec::new();
        for part in ATTEMPTS.parts(&keys, self.marks()) {
            let mut query = ATTEMPTS.of(part.len(), self.marks());
            for key in part {
                query = query.bind(key);
            }
            for row in &query.fetch_all(&self.readers).await? {
                found
                    .push((parse("attempt.hash", &row.try_get::<String, _>(0)?)?, row.try_get(1)?));
            }
        }
        Ok(found)
    }

    /// Finds the payments that are called paid by transactions on chain which did not carry them, as
    /// far as the store knows: beside [`Store::attempts_of`] and [`Store::claims_of_txs`].
    pub(crate) async fn claims_elsewhere(
        &self,
        hashes: &[B256],
    ) -> Result<Vec<(B256, Claim)>, StoreError> {
        let keys: Vec<String> = hashes.iter().map(ToString::to_string).collect();
        let found = self.claims(&BY_HASH, &keys).await?;
        found
            .into_iter()
            .map(|(hash, claim)| Ok((parse("payment.tx_hash", &hash)?, claim)))
            .collect()
    }

    /// Finds the payments of stored transactions, by the transactions' ids.
    pub(crate) async fn claims_of_txs(
        &self,
        ids: &[String],
    ) -> Result<Vec<(String, Claim)>, StoreError> {
        self.claims(&BY_TX, ids).await
    }

    /// Finds payments by id.
    pub(crate) async fn claims_by_id(&self, ids: &[PaymentId]) -> Result<Vec<Claim>, StoreError> {
        let keys: Vec<String> = ids.iter().map(ToString::to_string).collect();
        Ok(self.claims(&BY_ID, &keys).await?.into_iter().map(|(_, claim)| claim).collect())
    }

    /// Reads what the unfinished transactions that pay carry: id and manifest.
    pub(crate) async fn unfinished_manifests(&self) -> Result<Vec<(String, String)>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, manifest FROM tx WHERE state <> 'final' AND kind IN ('batch', 'approved')",
        )
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// Reads the entries that call a payment paid, among `span` audit entries after `after`; and the
    /// last entry that was looked at.
    pub(crate) async fn finalized_after(
        &self,
        after: u64,
        span: u64,
    ) -> Result<(Vec<Finalized>, u64), StoreError> {
        let head = self.audit_head().await?.seq;
        let to = head.min(after.saturating_add(span));
        let rows = sqlx::query(
            "SELECT seq, payment_id, data FROM audit_entry
             WHERE seq > $1 AND seq <= $2 AND kind = 'payment.finalized'
               AND payment_id IS NOT NULL ORDER BY seq",
        )
        .bind(after.cast_signed())
        .bind(to.cast_signed())
        .fetch_all(&self.readers)
        .await?;
        let list = rows
            .iter()
            .map(|row| {
                let data: String = row.try_get(2)?;
                Ok(Finalized {
                    seq: unsigned("audit_entry.seq", row.try_get(0)?)?,
                    payment: parse("audit_entry.payment_id", &row.try_get::<String, _>(1)?)?,
                    data: serde_json::from_str(&data).unwrap_or_default(),
                })
            })
            .collect::<Result<Vec<_>, StoreError>>()?;
        Ok((list, to.max(after)))
    }

    /// Finds the last audit entry before a time, in milliseconds; 0 if there is none.
    pub(crate) async fn audit_before(&self, at_ms: i64) -> Result<u64, StoreError> {
        // Entries are in the order of time: a search by halves needs no index.
        let (mut low, mut high) = (0, self.audit_head().await?.seq);
        while low < high {
            let middle = low + (high - low).div_ceil(2);
            let row = sqlx::query("SELECT at_ms FROM audit_entry WHERE seq = $1")
                .bind(middle.cast_signed())
                .fetch_optional(&self.readers)
                .await?;
            let at: i64 = row.map_or(Ok(0), |row| row.try_get(0))?;
            if at < at_ms {
                low = middle;
            } else {
                high = middle - 1;
            }
        }
        Ok(low)
    }

    /// Of these invoices, finds those that were paid more than once.
    pub(crate) async fn invoices_paid_twice(
        &self,
        invoices: &[(Address, String)],
    ) -> Result<Vec<InvoicePaid>, StoreError> {
        let mut found = Vec::new();
        for part in INVOICES.parts(invoices, self.marks()) {
            let mut query = INVOICES.of(part.len(), self.marks());
            for (payee, invoice) in part {
                query = query.bind(payee.to_string()).bind(invoice);
            }
            for row in query.fetch_all(&self.readers).await? {
                found.push(InvoicePaid {
                    payee: parse("payment.payee", &row.try_get::<String, _>(0)?)?,
                    invoice: row.try_get(1)?,
                    times: unsigned("payment.count", row.try_get(2)?)?,
                    sum: narrow_amount(row.try_get(3)?)?,
                });
            }
        }
        Ok(found)
    }

    /// Reads the differences that stand, oldest first, `limit` at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn findings_open(&self, limit: u32) -> Result<Vec<Finding>, StoreError> {
        let rows =
            sqlx::query(findings!("WHERE cleared_ms IS NULL ORDER BY found_ms, id LIMIT $1"))
                .bind(i64::from(limit))
                .fetch_all(&self.readers)
                .await?;
        rows.iter().map(read_finding).collect()
    }

    /// Counts the differences that stand.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn findings_count(&self) -> Result<u64, StoreError> {
        let row =
            sqlx::query("SELECT CAST(COUNT(*) AS BIGINT) FROM finding WHERE cleared_ms IS NULL")
                .fetch_one(&self.readers)
                .await?;
        unsigned("finding.count", row.try_get(0)?)
    }

    /// Reads every difference there ever was, newest first, `limit` at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn findings(&self, limit: u32) -> Result<Vec<Finding>, StoreError> {
        let rows = sqlx::query(findings!("ORDER BY found_ms DESC, id LIMIT $1"))
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(read_finding).collect()
    }
}

impl Tx {
    /// Writes a difference that stands, and raises its alert. Answers `false` if it is known and
    /// stands already.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn put_finding(&mut self, finding: &Finding) -> Result<bool, StoreError> {
        let known = sqlx::query("SELECT cleared_ms FROM finding WHERE id = $1")
            .bind(&finding.id)
            .fetch_optional(&mut *self.inner)
            .await?;
        let stands = match known {
            Some(row) => row.try_get::<Option<i64>, _>(0)?.is_none(),
            None => false,
        };
        sqlx::query(
            "INSERT INTO finding (id, kind, block, tx_hash, payment_id, what, found_ms)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (id) DO UPDATE SET block = excluded.block, what = excluded.what,
               found_ms = CASE WHEN finding.cleared_ms IS NULL
                 THEN finding.found_ms ELSE excluded.found_ms END,
               cleared_ms = NULL",
        )
        .bind(&finding.id)
        .bind(finding.kind.as_str())
        .bind(finding.block.cast_signed())
        .bind(finding.transaction.map(|hash| hash.to_string()))
        .bind(finding.payment.map(|id| id.to_string()))
        .bind(&finding.what)
        .bind(finding.found_ms)
        .execute(&mut *self.inner)
        .await?;
        let alert = Alert {
            kind: AlertKind::Reconciliation,
            subject: finding.id.clone(),
            detail: format!("{}: freeze first, `bursar reconcile` tells more", finding.what),
            data: json!({ "kind": finding.kind, "block": finding.block }),
            since_ms: finding.found_ms,
        };
        self.raise_alert(&alert).await?;
        Ok(!stands)
    }

    /// Notes that a difference is gone, and clears its alert. Answers `false` if it did not stand.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn clear_finding(
        &mut self,
        id: &str,
        now_ms: i64,
    ) -> Result<bool, StoreError> {
        let done =
            sqlx::query("UPDATE finding SET cleared_ms = $2 WHERE id = $1 AND cleared_ms IS NULL")
                .bind(id)
                .bind(now_ms)
                .execute(&mut *self.inner)
                .await?;
        self.clear_alert(AlertKind::Reconciliation, id, now_ms).await?;
        Ok(done.rows_affected() == 1)
    }

    /// Writes a setting where it still is what was read; `None`: where there is none. Answers
    /// `false` if somebody else wrote it meanwhile.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn replace_meta(
        &mut self,
        key: &str,
        before: Option<&str>,
        after: &str,
    ) -> Result<bool, StoreError> {
        let query = match before {
            Some(before) => sqlx::query("UPDATE meta SET value = $2 WHERE key = $1 AND value = $3")
                .bind(key)
                .bind(after)
                .bind(before),
            None => sqlx::query(
                "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING",
            )
            .bind(key)
            .bind(after),
        };
        Ok(query.execute(&mut *self.inner).await?.rows_affected() == 1)
    }
}
