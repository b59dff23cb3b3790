//! The audit log's rows. Entries are linked inside the transaction of what they tell of: what
//! happened and its entry are durable together, or neither is.

use alloy::primitives::B256;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use sqlx::{Row as _, any::AnyRow};

use super::{Event, Store, StoreError, Tx, many::Many, parse, payment::unsigned};
use crate::{
    audit::{Chain, Draft, Entry, EventKind},
    payment::PaymentId,
};

fn read(row: &AnyRow) -> Result<Entry, StoreError> {
    let maybe = |index: usize| row.try_get::<Option<String>, _>(index);
    let data: String = row.try_get(7)?;
    Ok(Entry {
        seq: unsigned("audit_entry.seq", row.try_get(0)?)?,
        at_ms: row.try_get(1)?,
        kind: row.try_get(2)?,
        actor: row.try_get(3)?,
        agent: maybe(4)?.map(|text| parse("audit_entry.agent_id", &text)).transpose()?,
        payment: maybe(5)?.map(|text| parse("audit_entry.payment_id", &text)).transpose()?,
        reference: maybe(6)?,
        // What is no JSON any more was edited: the check must see it, not stop at it.
        data: serde_json::from_str(&data).unwrap_or(serde_json::Value::String(data)),
        prev: hash(&row.try_get::<String, _>(8)?),
        hash: hash(&row.try_get::<String, _>(9)?),
    })
}

fn hash(text: &str) -> B256 {
    text.parse().unwrap_or_default()
}

/// An entry, as far as its readers inside the daemon need it.
#[derive(Clone, Debug)]
pub struct AuditNote {
    /// Its number.
    pub seq: u64,
    /// When, unix milliseconds.
    pub at_ms: i64,
    /// What happened, by name.
    pub kind: String,
    /// The agent it is about.
    pub agent: Option<String>,
    /// Everything else; null if it is no JSON any more.
    pub data: serde_json::Value,
}

const INSERT: Many = Many {
    head: "INSERT INTO audit_entry (seq, at_ms, kind, actor, agent_id, payment_id, tx_id, data,
             prev, hash)",
    shared: 0,
    columns: 10,
    tail: "",
};

impl Store {
    /// Reads the end of the log.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn audit_head(&self) -> Result<Chain, StoreError> {
        let row = sqlx::query("SELECT seq, hash FROM audit_head WHERE id = 1")
            .fetch_one(&self.readers)
            .await?;
        Ok(Chain {
            seq: unsigned("audit_head.seq", row.try_get(0)?)?,
            head: hash(&row.try_get::<String, _>(1)?),
        })
    }

    /// Reads an entry's hash; `None` if there is no such entry.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) async fn audit_hash(&self, seq: u64) -> Result<Option<B256>, StoreError> {
        let row = sqlx::query("SELECT hash FROM audit_entry WHERE seq = $1")
            .bind(seq.cast_signed())
            .fetch_optional(&self.readers)
            .await?;
        row.map(|row| Ok(hash(&row.try_get::<String, _>(0)?))).transpose()
    }

    /// Reads the whole log in its order, a row at a time.
    pub fn audit(&self) -> impl Stream<Item = Result<Entry, StoreError>> + Send + '_ {
        sqlx::query(
            "SELECT seq, at_ms, kind, actor, agent_id, payment_id, tx_id, data, prev, hash
             FROM audit_entry ORDER BY seq",
        )
        .fetch(&self.readers)
        .map_err(StoreError::from)
        .map(|row| row.and_then(|row| read(&row)))
    }

    /// Reads entries of two kinds with numbers above `after` up to `to`, `limit` at most.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn audit_notes(
        &self,
        after: u64,
        to: u64,
        kinds: [EventKind; 5],
        limit: u32,
    ) -> Result<Vec<AuditNote>, StoreError> {
        let rows = sqlx::query(
            "SELECT seq, at_ms, kind, agent_id, data FROM audit_entry
             WHERE seq > $1 AND seq <= $2 AND kind IN ($3, $4, $5, $6, $7)
             ORDER BY seq LIMIT $8",
        )
        .bind(after.cast_signed())
        .bind(to.cast_signed())
        .bind(kinds[0].as_str())
        .bind(kinds[1].as_str())
        .bind(kinds[2].as_str())
        .bind(kinds[3].as_str())
        .bind(kinds[4].as_str())
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(AuditNote {
                    seq: unsigned("audit_entry.seq", row.try_get(0)?)?,
                    at_ms: row.try_get(1)?,
                    kind: row.try_get(2)?,
                    agent: row.try_get(3)?,
                    data: serde_json::from_str(&row.try_get::<String, _>(4)?).unwrap_or_default(),
                })
            })
            .collect()
    }

    /// Reads everything that was logged about a payment, its transactions included.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn audit_of(&self, payment: PaymentId) -> Result<Vec<Entry>, StoreError> {
        let id = payment.to_string();
        let rows = sqlx::query(
            "SELECT seq, at_ms, kind, actor, agent_id, payment_id, tx_id, data, prev, hash
             FROM audit_entry WHERE payment_id = $1
               OR tx_id IN (SELECT tx_id FROM audit_entry WHERE payment_id = $1 AND tx_id IS NOT NULL)
               OR tx_id IN (SELECT tx_id FROM payment WHERE id = $1)
             ORDER BY seq",
        )
        .bind(&id)
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(read).collect()
    }
}

impl Tx {
    /// Links entries to the end of the log, and tells those that [`EventKind::is_told`].
    ///
    /// [`EventKind::is_told`]: crate::audit::EventKind::is_told
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn append_audit(&mut self, drafts: &[Draft], now_ms: i64) -> Result<(), StoreError> {
        if drafts.is_empty() {
            return Ok(());
        }
        // Writing first takes the row's lock on every database: one writer links at a time.
        let row = sqlx::query("UPDATE audit_head SET seq = seq WHERE id = 1 RETURNING seq, hash")
            .fetch_one(&mut *self.inner)
            .await?;
        let mut chain = Chain {
            seq: unsigned("audit_head.seq", row.try_get(0)?)?,
            head: hash(&row.try_get::<String, _>(1)?),
        };
        let mut told = Vec::new();
        for part in INSERT.parts(drafts, self.marks) {
            let mut insert = INSERT.of(part.len(), self.marks);
            for draft in part {
                let draft = Draft { at_ms: now_ms, ..draft.clone() };
                let kind = draft.kind;
                let entry = chain
                    .append(draft)
                    .map_err(|error| StoreError::corrupt("audit_entry.data", error))?;
                if kind.is_told() {
                    told.push(Event::of(kind, &entry));
                }
                insert = insert
                    .bind(entry.seq.cast_signed())
                    .bind(entry.at_ms)
                    .bind(entry.kind)
                    .bind(entry.actor)
                    .bind(entry.agent.as_ref().map(ToString::to_string))
                    .bind(entry.payment.map(|id| id.to_string()))
                    .bind(entry.reference)
                    .bind(entry.data.to_string())
                    .bind(entry.prev.to_string())
                    .bind(entry.hash.to_string());
            }
            insert.execute(&mut *self.inner).await?;
        }
        sqlx::query("UPDATE audit_head SET seq = $1, hash = $2 WHERE id = 1")
            .bind(chain.seq.cast_signed())
            .bind(chain.head.to_string())
            .execute(&mut *self.inner)
            .await?;
        self.tell(&told, now_ms).await
    }
}
