//! Payments: one row each, one state, one way to change it.

use std::collections::HashSet;

use alloy::primitives::{Address, B256};
use futures_util::{Stream, StreamExt as _};
use sqlx::{Row as _, any::AnyRow};

use super::{Store, StoreError, Tx, many::Many, parse};
use crate::{
    book::PaidIn,
    money::Usdc,
    payment::{AgentId, Context, Event, PaymentId, State, transition},
    policy::Facts,
    refusal::Refusal,
};

/// A payment as stored.
#[derive(Clone, Debug)]
pub struct PaymentRow {
    /// Its id.
    pub id: PaymentId,
    /// Who asked.
    pub agent: AgentId,
    /// Under which key.
    pub idempotency_key: String,
    /// Hash of the request, to tell a retry from a reused key.
    pub fingerprint: B256,
    /// Where the money goes.
    pub payee: Address,
    /// The label at the time of the request.
    pub payee_label: Option<String>,
    /// How much.
    pub amount: Usdc,
    /// Why.
    pub reason: String,
    /// For whom and for what.
    pub context: Context,
    /// Its hash in the chain's event.
    pub context_hash: B256,
    /// Where it stands.
    pub state: State,
    /// What the quorum sets aside, as bits of the contract.
    pub overrides: u8,
    /// The agent's policy version on chain when it was decided.
    pub policy_version: u64,
    /// Why it was denied, skipped, failed or waits.
    pub refusal: Option<Refusal>,
    /// The escrow it funds; else it goes to the payee at once.
    pub escrow: Option<B256>,
    /// The channel it funds; by its receiver it is the payee's all the same.
    pub channel: Option<B256>,
    /// The transaction that carries it.
    pub tx_id: Option<String>,
    /// Its place in that transaction, see [`ItemRef`].
    pub item: Option<ItemRef>,
    /// Transactions that did not pay it.
    pub tries: u32,
    /// Not to be assigned before, in milliseconds.
    pub not_before_ms: i64,
    /// Given up after, in milliseconds.
    pub expires_ms: i64,
    /// Hash of the transaction that holds it.
    pub tx_hash: Option<B256>,
    /// Block of that transaction.
    pub block: Option<u64>,
    /// Time of that block, seconds.
    pub block_time_s: Option<u64>,
    /// Accepted, milliseconds.
    pub created_ms: i64,
    /// Last changed, milliseconds.
    pub updated_ms: i64,
}

/// Where in a `payBatch` call an item stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ItemRef {
    /// Which batch of the call.
    pub batch: u32,
    /// Which item of the batch.
    pub item: u32,
}

impl PaymentRow {
    /// Returns what it counts as in the windows.
    #[must_use]
    pub const fn facts(&self) -> Facts {
        Facts { payee: self.payee, amount: self.amount, overrides: self.overrides }
    }

    /// Returns the block it was paid in; zeros where it was not.
    #[must_use]
    pub fn paid_in(&self) -> PaidIn {
        PaidIn {
            block: self.block.unwrap_or_default(),
            time_s: self.block_time_s.unwrap_or_default(),
        }
    }
}

impl ItemRef {
    fn to_column(self) -> i64 {
        i64::from(self.batch) << 32 | i64::from(self.item)
    }

    pub(super) fn from_column(column: i64) -> Option<Self> {
        let batch = u32::try_from(column >> 32).ok()?;
        let item = u32::try_from(column & 0xffff_ffff).ok()?;
        Some(Self { batch, item })
    }
}

/// Both parts of it are read in an index's order, and no further than asked.
const NEWEST_SETTLED: &str = "
    SELECT agent_id, payee, amount, overrides, block, block_time_s FROM (
      SELECT * FROM (
        SELECT agent_id, payee, amount, overrides, block, block_time_s FROM payment
          WHERE state = 'paid' ORDER BY block_time_s DESC LIMIT $1
      ) AS paid
      UNION ALL
      SELECT * FROM (
        SELECT agent_id, payee, amount, CAST(0 AS BIGINT), block, block_time_s FROM purchase
          WHERE state = 'paid' AND payer_kind = 'erc7710' ORDER BY block_time_s DESC LIMIT $1
      ) AS bought
    ) AS newest
    WHERE block IS NOT NULL AND block_time_s IS NOT NULL
    ORDER BY block DESC, block_time_s DESC LIMIT $1";

/// The longest step that the agent's day, the wallet's day and the agent's month consist of whole
/// (6 hours, 8 hours, 7.5 days), in seconds.
const STEP_S: i64 = 7_200;
/// The step of the month alone, in seconds.
const MONTH_STEP_S: i64 = 648_000;

/// What an agent paid within a step of time, as the rolling windows need it at start.
#[derive(Clone, Debug)]
pub struct SettledRow {
    /// Who paid.
    pub agent: AgentId,
    /// How much.
    pub amount: Usdc,
    /// What the quorum set aside.
    pub overrides: u8,
    /// Start of the step, unix seconds.
    pub block_time_s: u64,
}

/// Equal payments that were accepted within a step of time.
#[derive(Clone, Debug)]
pub struct AcceptedRow {
    /// Who asked.
    pub agent: AgentId,
    /// Where the money goes.
    pub payee: Address,
    /// How much, each.
    pub amount: Usdc,
    /// Start of the step, unix seconds.
    pub at_s: u64,
    /// How many.
    pub count: u64,
}

macro_rules! select {
    ($rest:literal) => {
        select!(from "payment ", $rest)
    };
    (from $from:literal, $rest:literal) => {
        concat!(
            "SELECT id, agent_id, idempotency_key, fingerprint, payee, payee_label, amount, reason, ",
            "context, context_hash, state, overrides, policy_version, refusal, tx_id, item_index, ",
            "tries, not_before_ms, expires_ms, tx_hash, block, block_time_s, created_ms, updated_ms, ",
            "escrow_id, channel_id ",
            "FROM ",
            $from,
            $rest
        )
    };
}

// `VALUES` in a query names its columns column1, column2, … in every database. Lists are joined, not
// searched with IN: SQLite reads the whole table for `(a, b) IN (VALUES …)`.
const ADVANCE: Many = Many {
    head: "UPDATE payment SET state = $2, updated_ms = $3, refusal = v.column2, tx_id = v.column3,
             item_index = v.column4, tries = v.column5, not_before_ms = v.column6,
             tx_hash = v.column7, block = v.column8, block_time_s = v.column9,
             expires_ms = v.column10
           FROM (",
    shared: 3,
    columns: 10,
    tail: ") AS v WHERE payment.id = v.column1 AND payment.state = $1",
};

const BY_KEY: Many = Many {
    head: select!(from "(", ""),
    shared: 0,
    columns: 2,
    tail: ") AS v CROSS JOIN payment
            WHERE agent_id = v.column1 AND idempotency_key = v.column2",
};

const TAKEN: Many = Many {
    head: "SELECT payee, invoice FROM (",
    shared: 0,
    columns: 2,
    tail: ") AS v CROSS JOIN payment WHERE payee = v.column1 AND invoice = v.column2
             AND state NOT IN ('denied', 'failed', 'rejected', 'expired')",
};

/// Found on the chain, and no operator has said yet what it was: see `store/found.rs`.
pub(super) const FOUND: &str = select!(
    "WHERE fingerprint = '0x0000000000000000000000000000000000000000000000000000000000000000'
       AND idempotency_key LIKE '(found) %' ORDER BY id LIMIT $1"
);
pub(super) const FOUND_LIKE: &str = "SELECT id FROM payment
     WHERE fingerprint = '0x0000000000000000000000000000000000000000000000000000000000000000'
       AND agent_id = $1 AND payee = $2 AND amount = $3 AND idempotency_key LIKE '(found) %'
     LIMIT 1";

const INSERT: Many = Many {
    head: "INSERT INTO payment (id, agent_id, idempotency_key, fingerprint, payee, payee_label,
             amount, reason, context, context_hash, invoice, state, overrides, policy_version,
             refusal, not_before_ms, expires_ms, created_ms, updated_ms, escrow_id, channel_id)",
    shared: 0,
    columns: 21,
    tail: "",
};

pub(super) fn unsigned(column: &'static str, value: i64) -> Result<u64, StoreError> {
    u64::try_from(value).map_err(|_| StoreError::corrupt(column, value))
}

pub(super) fn narrow<T: TryFrom<i64>>(column: &'static str, value: i64) -> Result<T, StoreError> {
    T::try_from(value).map_err(|_| StoreError::corrupt(column, value))
}

pub(super) fn json<T: serde::de::DeserializeOwned>(
    column: &'static str,
    text: &str,
) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::corrupt(column, text))
}

pub(super) fn to_json<T: serde::Serialize>(
    column: &'static str,
    value: &T,
) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::corrupt(column, error))
}

fn read(row: &AnyRow) -> Result<PaymentRow, StoreError> {
    let text = |index: usize| row.try_get::<String, _>(index);
    let maybe = |index: usize| row.try_get::<Option<String>, _>(index);
    let int = |index: usize| row.try_get::<i64, _>(index);
    let maybe_int = |index: usize| row.try_get::<Option<i64>, _>(index);
    let state = text(10)?;
    Ok(PaymentRow {
        id: parse("payment.id", &text(0)?)?,
        agent: parse("payment.agent_id", &text(1)?)?,
        idempotency_key: text(2)?,
        fingerprint: parse("payment.fingerprint", &text(3)?)?,
        payee: parse("payment.payee", &text(4)?)?,
        payee_label: maybe(5)?,
        amount: narrow_amount(int(6)?)?,
        reason: text(7)?,
        context: json("payment.context", &text(8)?)?,
        context_hash: parse("payment.context_hash", &text(9)?)?,
        state: State::from_name(&state)
            .ok_or_else(|| StoreError::corrupt("payment.state", &state))?,
        overrides: narrow("payment.overrides", int(11)?)?,
        policy_version: unsigned("payment.policy_version", int(12)?)?,
        refusal: maybe(13)?.map(|text| json("payment.refusal", &text)).transpose()?,
        tx_id: maybe(14)?,
        item: maybe_int(15)?.and_then(ItemRef::from_column),
        tries: narrow("payment.tries", int(16)?)?,
        not_before_ms: int(17)?,
        expires_ms: int(18)?,
        tx_hash: maybe(19)?.map(|text| parse("payment.tx_hash", &text)).transpose()?,
        block: maybe_int(20)?.map(|n| unsigned("payment.block", n)).transpose()?,
        block_time_s: maybe_int(21)?.map(|n| unsigned("payment.block_time_s", n)).transpose()?,
        created_ms: int(22)?,
        updated_ms: int(23)?,
        escrow: maybe(24)?.map(|text| parse("payment.escrow_id", &text)).transpose()?,
        channel: maybe(25)?.map(|text| parse("payment.channel_id", &text)).transpose()?,
    })
}

fn refusal_column(payment: &PaymentRow) -> Result<Option<String>, StoreError> {
    payment.refusal.as_ref().map(|refusal| to_json("payment.refusal", refusal)).transpose()
}

pub(super) fn narrow_amount(units: i64) -> Result<Usdc, StoreError> {
    Usdc::try_from(units).map_err(|_| StoreError::corrupt("payment.amount", units))
}

pub(super) fn all(rows: &[AnyRow]) -> Result<Vec<PaymentRow>, StoreError> {
    rows.iter().map(read).collect()
}

impl Store {
    /// Reads one payment.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn payment(&self, id: PaymentId) -> Result<Option<PaymentRow>, StoreError> {
        let row = sqlx::query(select!("WHERE id = $1"))
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// Reads a page, newest first, starting below `before`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn payments(
        &self,
        agent: Option<&AgentId>,
        state: Option<State>,
        before: Option<PaymentId>,
        limit: u32,
    ) -> Result<Vec<PaymentRow>, StoreError> {
        // Ids sort by time, in every database's order of texts: equally long, digits before letters.
        let before = before.unwrap_or(PaymentId::LAST).to_string();
        let state = state.map_or("", State::as_str);
        let query = match agent {
            Some(agent) => sqlx::query(select!(
                "WHERE agent_id = $1 AND ($2 = '' OR state = $2) AND id < $3
                 ORDER BY id DESC LIMIT $4"
            ))
            .bind(agent.as_str()),
            None => sqlx::query(select!(
                "WHERE $1 = '' AND ($2 = '' OR state = $2) AND id < $3 ORDER BY id DESC LIMIT $4"
            ))
            .bind(""),
        };
        let rows =
            query.bind(state).bind(before).bind(i64::from(limit)).fetch_all(&self.readers).await?;
        all(&rows)
    }

    /// Reads what waits for operators, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn payments_waiting(&self, limit: u32) -> Result<Vec<PaymentRow>, StoreError> {
        let rows =
            sqlx::query(select!("WHERE state = 'awaiting_approval' ORDER BY created_ms LIMIT $1"))
                .bind(i64::from(limit))
                .fetch_all(&self.readers)
                .await?;
        all(&rows)
    }

    /// Is a payment ready for a transaction at `now_ms`?
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn is_queued(&self, now_ms: i64) -> Result<bool, StoreError> {
        let query = sqlx::query(QUEUED).bind(now_ms).bind(1_i64);
        Ok(query.fetch_optional(&self.readers).await?.is_some())
    }

    /// Reads the payments of one transaction.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn payments_of_tx(&self, tx_id: &str) -> Result<Vec<PaymentRow>, StoreError> {
        let rows = sqlx::query(OF_TX).bind(tx_id).fetch_all(&self.readers).await?;
        all(&rows)
    }

    /// Reads every payment that has not come to its end: what is reserved.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn payments_open(&self) -> Result<Vec<PaymentRow>, StoreError> {
        let rows = sqlx::query(select!(
            "WHERE state IN ('awaiting_approval', 'queued', 'signed', 'broadcast', 'included')"
        ))
        .fetch_all(&self.readers)
        .await?;
        all(&rows)
    }

    /// Adds up what was paid in blocks since `since_s`, purchases that the contract counts among it: by steps of [`MONTH_STEP_S`] before
    /// `recent_s`, of [`STEP_S`] from then on. A row at a time: there are few steps, but they may
    /// be many agents'.
    pub fn settled_since(
        &self,
        since_s: u64,
        recent_s: u64,
    ) -> impl Stream<Item = Result<SettledRow, StoreError>> + Send + '_ {
        let read = |row: AnyRow| {
            Ok(SettledRow {
                agent: parse("payment.agent_id", &row.try_get::<String, _>(0)?)?,
                overrides: narrow("payment.overrides", row.try_get(1)?)?,
                block_time_s: unsigned("payment.block_time_s", row.try_get(2)?)?,
                amount: narrow_amount(row.try_get(3)?)?,
            })
        };
        sqlx::query(
            "SELECT agent_id, overrides,
               CASE WHEN block_time_s >= $2 THEN block_time_s / $3 * $3
                 ELSE block_time_s / $4 * $4 END AS step,
               CAST(SUM(amount) AS BIGINT)
             FROM (
               SELECT agent_id, overrides, block_time_s, amount FROM payment
                 WHERE state = 'paid' AND block_time_s >= $1
               UNION ALL
               SELECT agent_id, CAST(0 AS BIGINT), block_time_s, amount FROM purchase
                 WHERE state = 'paid' AND payer_kind = 'erc7710' AND block_time_s >= $1
             ) AS counted
             GROUP BY agent_id, overrides, step",
        )
        .bind(i64::try_from(since_s).unwrap_or(i64::MAX))
        .bind(i64::try_from(recent_s).unwrap_or(i64::MAX))
        .bind(STEP_S)
        .bind(MONTH_STEP_S)
        .fetch(&self.readers)
        .map(move |row| read(row?))
    }

    /// Reads the newest `count` payments that are booked, purchases that the contract counts among them, in
    /// the order of their blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn newest_settled(
        &self,
        count: usize,
    ) -> Result<Vec<(AgentId, Facts, PaidIn)>, StoreError> {
        let rows = sqlx::query(NEWEST_SETTLED)
            .bind(i64::try_from(count).unwrap_or(i64::MAX))
            .fetch_all(&self.readers)
            .await?;
        let read = |row: &AnyRow| {
            let agent = parse("payment.agent_id", &row.try_get::<String, _>(0)?)?;
            let facts = Facts {
                payee: parse("payment.payee", &row.try_get::<String, _>(1)?)?,
                amount: narrow_amount(row.try_get(2)?)?,
                overrides: narrow("payment.overrides", row.try_get(3)?)?,
            };
            let paid_in = PaidIn {
                block: unsigned("payment.block", row.try_get(4)?)?,
                time_s: unsigned("payment.block_time_s", row.try_get(5)?)?,
            };
            Ok((agent, facts, paid_in))
        };
        rows.iter().rev().map(read).collect()
    }

    /// Adds up what each agent was ever paid for against its own caps (override bit 4 not set).
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn paid_ever(&self) -> Result<Vec<(AgentId, Usdc)>, StoreError> {
        let rows = sqlx::query(
            "SELECT agent_id, CAST(SUM(amount) AS BIGINT) FROM (
               SELECT agent_id, amount FROM payment WHERE state = 'paid' AND (overrides & 4) = 0
               UNION ALL
               SELECT agent_id, amount FROM purchase
                 WHERE state = 'paid' AND payer_kind = 'erc7710'
             ) AS counted
             GROUP BY agent_id",
        )
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                let agent = parse("payment.agent_id", &row.try_get::<String, _>(0)?)?;
                Ok((agent, narrow_amount(row.try_get(1)?)?))
            })
            .collect()
    }

    /// Counts what each agent had accepted since `since_ms`, by payee, amount and time step of
    /// `step_ms`, a row at a time: for the count limits at start.
    pub fn accepted_since(
        &self,
        since_ms: i64,
        step_ms: i64,
    ) -> impl Stream<Item = Result<AcceptedRow, StoreError>> + Send + '_ {
        let read = move |row: AnyRow| {
            let step: i64 = row.try_get(3)?;
            Ok(AcceptedRow {
                agent: parse("payment.agent_id", &row.try_get::<String, _>(0)?)?,
                payee: parse("payment.payee", &row.try_get::<String, _>(1)?)?,
                amount: narrow_amount(row.try_get(2)?)?,
                at_s: unsigned("payment.created_ms", step * step_ms / 1_000)?,
                count: unsigned("payment.count", row.try_get(4)?)?,
            })
        };
        sqlx::query(
            "SELECT agent_id, payee, amount, created_ms / $2 AS step, CAST(COUNT(*) AS BIGINT)
             FROM payment WHERE created_ms >= $1 AND state <> 'denied'
             GROUP BY agent_id, payee, amount, step",
        )
        .bind(since_ms)
        .bind(step_ms)
        .fetch(&self.readers)
        .map(move |row| read(row?))
    }

    /// Is this invoice of this payee paid, or being paid?
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn invoice_taken(&self, payee: Address, invoice: &str) -> Result<bool, StoreError> {
        let row = sqlx::query(INVOICE_TAKEN)
            .bind(payee.to_string())
            .bind(invoice)
            .fetch_optional(&self.readers)
            .await?;
        Ok(row.is_some())
    }

    /// Counts the payments on their way, with the time of the oldest.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn backlog(&self) -> Result<(u64, Option<i64>), StoreError> {
        let row = sqlx::query(BACKLOG).fetch_one(&self.readers).await?;
        Ok((unsigned("payment.count", row.try_get(0)?)?, row.try_get(1)?))
    }
}

// The first condition is that of the index of open payments, word for word: SQLite would not see
// that a shorter list is part of it.
const BACKLOG: &str = "SELECT CAST(COUNT(*) AS BIGINT), MIN(created_ms) FROM payment
     WHERE state IN ('awaiting_approval', 'queued', 'signed', 'broadcast', 'included')
       AND state <> 'awaiting_approval'";

const QUEUED: &str =
    select!("WHERE state = 'queued' AND not_before_ms <= $1 ORDER BY not_before_ms LIMIT $2");

const OF_TX: &str = select!("WHERE tx_id = $1 ORDER BY item_index");

const INVOICE_TAKEN: &str = "SELECT 1 FROM payment WHERE payee = $1 AND invoice = $2
     AND state NOT IN ('denied', 'failed', 'rejected', 'expired') LIMIT 1";

impl Tx {
    /// Finds the payments of idempotency keys, in any order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn payments_by_keys(
        &mut self,
        keys: &[(&AgentId, &str)],
    ) -> Result<Vec<PaymentRow>, StoreError> {
        let mut found = Vec::new();
        for part in BY_KEY.parts(keys, self.marks) {
            let mut query = BY_KEY.of(part.len(), self.marks);
            for (agent, key) in part {
                query = query.bind(agent.as_str()).bind(*key);
            }
            found.append(&mut all(&query.fetch_all(&mut *self.inner).await?)?);
        }
        Ok(found)
    }

    /// Reads one payment inside the transaction.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn payment(&mut self, id: PaymentId) -> Result<Option<PaymentRow>, StoreError> {
        let row = sqlx::query(select!("WHERE id = $1"))
            .bind(id.to_string())
            .fetch_optional(&mut *self.inner)
            .await?;
        row.as_ref().map(read).transpose()
    }

    /// Reads what is ready for a transaction at `now_ms`, oldest first, as of this transaction.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn payments_queued(
        &mut self,
        now_ms: i64,
        limit: u32,
    ) -> Result<Vec<PaymentRow>, StoreError> {
        let query = sqlx::query(QUEUED).bind(now_ms).bind(i64::from(limit));
        let rows = query.fetch_all(&mut *self.inner).await?;
        all(&rows)
    }

    /// Finds those of the invoices that are paid, or being paid.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn invoices_taken(
        &mut self,
        invoices: &[(Address, &str)],
    ) -> Result<HashSet<(Address, String)>, StoreError> {
        let mut taken = HashSet::new();
        for part in TAKEN.parts(invoices, self.marks) {
            let mut query = TAKEN.of(part.len(), self.marks);
            for (payee, invoice) in part {
                query = query.bind(payee.to_string()).bind(*invoice);
            }
            for row in query.fetch_all(&mut *self.inner).await? {
                let payee = parse("payment.payee", &row.try_get::<String, _>(0)?)?;
                taken.insert((payee, row.try_get(1)?));
            }
        }
        Ok(taken)
    }

    /// Writes new payments.
    ///
    /// # Errors
    /// [`StoreError`]; [`StoreError::is_duplicate`] if a key is taken.
    pub async fn insert_payments(&mut self, payments: &[PaymentRow]) -> Result<(), StoreError> {
        for part in INSERT.parts(payments, self.marks) {
            let mut insert = INSERT.of(part.len(), self.marks);
            for payment in part {
                insert = insert
                    .bind(payment.id.to_string())
                    .bind(payment.agent.as_str())
                    .bind(&payment.idempotency_key)
                    .bind(payment.fingerprint.to_string())
                    .bind(payment.payee.to_string())
                    .bind(&payment.payee_label)
                    .bind(payment.amount.as_i64())
                    .bind(&payment.reason)
                    .bind(to_json("payment.context", &payment.context)?)
                    .bind(payment.context_hash.to_string())
                    .bind(&payment.context.invoice)
                    .bind(payment.state.as_str())
                    .bind(i64::from(payment.overrides))
                    .bind(payment.policy_version.cast_signed())
                    .bind(refusal_column(payment)?)
                    .bind(payment.not_before_ms)
                    .bind(payment.expires_ms)
                    .bind(payment.created_ms)
                    .bind(payment.updated_ms)
                    .bind(payment.escrow.map(|id| id.to_string()))
                    .bind(payment.channel.map(|id| id.to_string()));
            }
            insert.execute(&mut *self.inner).await?;
        }
        Ok(())
    }

    /// Moves a payment along [`transition`] and writes everything a step may change.
    ///
    /// The row must still be in the state that `payment` shows: whoever moved it in between wins,
    /// and this call answers `false`.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] for a step the state machine does not have.
    pub async fn advance(
        &mut self,
        payment: &mut PaymentRow,
        event: Event,
        now_ms: i64,
    ) -> Result<bool, StoreError> {
        Ok(self.advance_all(std::slice::from_mut(payment), event, now_ms).await? == 1)
    }

    /// Moves payments that are in one state, as [`Tx::advance`]; answers how many were moved.
    ///
    /// # Errors
    /// As [`Tx::advance`]; [`StoreError::Corrupt`] too if they are not all in one state.
    pub async fn advance_all(
        &mut self,
        payments: &mut [PaymentRow],
        event: Event,
        now_ms: i64,
    ) -> Result<u64, StoreError> {
        let Some(from) = payments.first().map(|payment| payment.state) else { return Ok(0) };
        if let Some(other) = payments.iter().find(|payment| payment.state != from) {
            let why = format!("{} is {}, another is {from}", other.id, other.state);
            return Err(StoreError::corrupt("payment.state", why));
        }
        let to = transition(from, event)
            .map_err(|illegal| StoreError::corrupt("payment.state", illegal))?;
        let mut moved = 0;
        for part in ADVANCE.parts(payments, self.marks) {
            let mut update = ADVANCE.of(part.len(), self.marks);
            update = update.bind(from.as_str()).bind(to.as_str()).bind(now_ms);
            for payment in part {
                update = update
                    .bind(payment.id.to_string())
                    .bind(refusal_column(payment)?)
                    .bind(&payment.tx_id)
                    .bind(payment.item.map(ItemRef::to_column))
                    .bind(i64::from(payment.tries))
                    .bind(payment.not_before_ms)
                    .bind(payment.tx_hash.map(|hash| hash.to_string()))
                    .bind(payment.block.map(u64::cast_signed))
                    .bind(payment.block_time_s.map(u64::cast_signed))
                    .bind(payment.expires_ms);
            }
            moved += update.execute(&mut *self.inner).await?.rows_affected();
        }
        for payment in payments {
            payment.state = to;
            payment.updated_ms = now_ms;
        }
        Ok(moved)
    }

    /// Puts a queued payment off.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn step_back(&mut self, id: PaymentId, not_before_ms: i64) -> Result<(), StoreError> {
        sqlx::query("UPDATE payment SET not_before_ms = $2 WHERE id = $1 AND state = 'queued'")
            .bind(id.to_string())
            .bind(not_before_ms)
            .execute(&mut *self.inner)
            .await?;
        Ok(())
    }

    /// Marks all payments of a transaction as sent: one statement for the whole batch.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn mark_sent(
        &mut self,
        tx_id: &str,
        hash: B256,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE payment SET state = 'broadcast', tx_hash = $2, updated_ms = $3
             WHERE tx_id = $1 AND state IN ('signed', 'broadcast')",
        )
        .bind(tx_id)
        .bind(hash.to_string())
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Marks all payments of a transaction as included in a block that is not final.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn mark_included(
        &mut self,
        tx_id: &str,
        hash: B256,
        block: u64,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE payment SET state = 'included', tx_hash = $2, block = $3, updated_ms = $4
             WHERE tx_id = $1 AND state IN ('signed', 'broadcast', 'included')",
        )
        .bind(tx_id)
        .bind(hash.to_string())
        .bind(block.cast_signed())
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Takes the payments of a transaction back out of a block that fell out of the chain.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn mark_reorganised(&mut self, tx_id: &str, now_ms: i64) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE payment SET state = 'broadcast', block = NULL, updated_ms = $2
             WHERE tx_id = $1 AND state = 'included'",
        )
        .bind(tx_id)
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::all_search;

    /// What a payment costs must not grow with the payments before it.
    #[tokio::test]
    async fn no_statement_on_a_payments_way_reads_the_past() {
        let texts = |store: &Store| {
            let lists = [&ADVANCE, &BY_KEY, &TAKEN].map(|many| many.text(2, store.marks()));
            let others = [BACKLOG, QUEUED, OF_TX, INVOICE_TAKEN].map(str::to_owned);
            lists.into_iter().chain(others).collect()
        };
        all_search("payment", texts).await;
    }
}
