//! Deliveries: one row an event and endpoint, made in the commit of the event. A daemon claims those
//! that are due by moving their due time to the claim's end; who crashes lets them come due again.

use serde_json::value::RawValue;
use sqlx::{Row as _, any::AnyRow};

use super::{Store, StoreError, Tx, many::Many, parse, payment::unsigned};
use crate::view::{DeliveryState, DeliveryView};

/// Rows that one call of [`Tx::forget_events`] deletes at most, of each table.
const FORGOTTEN: i64 = 500;

/// Who is told of what.
#[derive(Clone, Debug)]
pub struct Subscriber {
    /// The endpoint's name.
    pub name: String,
    /// Kinds: `payment.failed`, all of a room `payment.*`, or everything `*`.
    pub kinds: Vec<String>,
}

impl Subscriber {
    /// Does it want events of this kind?
    #[must_use]
    pub fn wants(&self, kind: &str) -> bool {
        self.kinds.iter().any(|wanted| match wanted.strip_suffix('*') {
            Some(start) => kind.starts_with(start),
            None => kind == wanted,
        })
    }
}

/// A delivery that this daemon has claimed.
#[derive(Debug)]
pub struct Due {
    /// The event's id.
    pub event: String,
    /// Its kind.
    pub kind: String,
    /// Its data, as stored.
    pub data: Box<RawValue>,
    /// When it happened, milliseconds.
    pub created_ms: i64,
    /// Tries so far.
    pub tries: u32,
    /// When the claim ends, milliseconds: its proof.
    until_ms: i64,
}

/// What became of a claimed delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The endpoint took it.
    Delivered,
    /// It did not: the next try, milliseconds.
    Again(i64),
    /// It did not, and this was the last try.
    Dead,
    /// It was not tried.
    Released,
}

/// An endpoint's record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointRow {
    /// Why nothing is sent to it, if so.
    pub disabled: Option<String>,
    /// Failed tries since the last that it took.
    pub failures: u64,
    /// What it answered to the last of them.
    pub answer: Option<String>,
    /// When it last took one, milliseconds.
    pub delivered_ms: Option<i64>,
    /// When it last failed, milliseconds.
    pub failed_ms: Option<i64>,
    /// Deliveries that wait.
    pub pending: u64,
    /// Deliveries that were given up.
    pub dead: u64,
}

/// Which deliveries a listing shows.
#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter<'a> {
    /// Only this endpoint's.
    pub endpoint: Option<&'a str>,
    /// Only those in this state.
    pub state: Option<DeliveryState>,
    /// Only this event's.
    pub event: Option<&'a str>,
}

const DELIVER: Many = Many {
    head: "INSERT INTO delivery (endpoint, event_id, state, due_ms, created_ms, updated_ms)",
    shared: 0,
    columns: 6,
    tail: " ON CONFLICT (endpoint, event_id) DO NOTHING",
};

const EVENTS: Many = Many {
    head: "SELECT id, kind, body, created_ms FROM (",
    shared: 0,
    columns: 1,
    tail: ") AS v CROSS JOIN outbox WHERE id = v.column1",
};

fn read(row: &AnyRow) -> Result<DeliveryView, StoreError> {
    Ok(DeliveryView {
        endpoint: row.try_get(0)?,
        event: row.try_get(1)?,
        kind: row.try_get(2)?,
        state: parse("delivery.state", &row.try_get::<String, _>(3)?)?,
        tries: unsigned("delivery.tries", row.try_get(4)?)?,
        due_at: crate::clock::at_ms(row.try_get(5)?),
        answer: row.try_get(6)?,
        created_at: crate::clock::at_ms(row.try_get(7)?),
        updated_at: crate::clock::at_ms(row.try_get(8)?),
    })
}

impl Store {
    /// Is anything due for an endpoint? Asked before a claim, which has to write.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn has_due(&self, endpoint: &str, now_ms: i64) -> Result<bool, StoreError> {
        let row = sqlx::query(
            "SELECT 1 FROM delivery WHERE endpoint = $1 AND state = 'pending' AND due_ms <= $2
               AND NOT EXISTS (SELECT 1 FROM endpoint WHERE name = $1 AND disabled IS NOT NULL)
             LIMIT 1",
        )
        .bind(endpoint)
        .bind(now_ms)
        .fetch_optional(&self.readers)
        .await?;
        Ok(row.is_some())
    }

    /// Lists deliveries, newest event first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn deliveries(
        &self,
        filter: &DeliveryFilter<'_>,
        limit: u32,
    ) -> Result<Vec<DeliveryView>, StoreError> {
        let rows = sqlx::query(
            "SELECT d.endpoint, d.event_id, o.kind, d.state, d.tries, d.due_ms, d.answer,
               d.created_ms, d.updated_ms
             FROM delivery d JOIN outbox o ON o.id = d.event_id
             WHERE ($1 = '' OR d.endpoint = $1) AND ($2 = '' OR d.state = $2)
               AND ($3 = '' OR d.event_id = $3)
             ORDER BY d.created_ms DESC, d.event_id DESC LIMIT $4",
        )
        .bind(filter.endpoint.unwrap_or_default())
        .bind(filter.state.map_or("", DeliveryState::as_str))
        .bind(filter.event.unwrap_or_default())
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(read).collect()
    }

    /// Reads how an endpoint fares.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn endpoint(&self, name: &str) -> Result<EndpointRow, StoreError> {
        let row = sqlx::query(
            "SELECT disabled, failures, answer, delivered_ms, failed_ms FROM endpoint
             WHERE name = $1",
        )
        .bind(name)
        .fetch_optional(&self.readers)
        .await?;
        let mut found = match row {
            None => EndpointRow::default(),
            Some(row) => EndpointRow {
                disabled: row.try_get(0)?,
                failures: unsigned("endpoint.failures", row.try_get(1)?)?,
                answer: row.try_get(2)?,
                delivered_ms: row.try_get(3)?,
                failed_ms: row.try_get(4)?,
                ..EndpointRow::default()
            },
        };
        let counts = sqlx::query(
            "SELECT (SELECT CAST(COUNT(*) AS BIGINT) FROM delivery
                     WHERE endpoint = $1 AND state = 'pending'),
                    (SELECT CAST(COUNT(*) AS BIGINT) FROM delivery
                     WHERE endpoint = $1 AND state = 'dead')",
        )
        .bind(name)
        .fetch_one(&self.readers)
        .await?;
        found.pending = unsigned("delivery.count", counts.try_get(0)?)?;
        found.dead = unsigned("delivery.count", counts.try_get(1)?)?;
        Ok(found)
    }
}

impl Tx {
    /// Lets events go to an endpoint from `now_ms` on; those that do already stay as they are.
    pub(super) async fn deliver(
        &mut self,
        deliveries: &[(&str, &str)],
        now_ms: i64,
    ) -> Result<(), StoreError> {
        for part in DELIVER.parts(deliveries, self.marks) {
            let mut insert = DELIVER.of(part.len(), self.marks);
            for (endpoint, event) in part {
                insert = insert
                    .bind(*endpoint)
                    .bind(*event)
                    .bind(DeliveryState::Pending.as_str())
                    .bind(now_ms)
                    .bind(now_ms)
                    .bind(now_ms);
            }
            insert.execute(&mut *self.inner).await?;
            self.told = true;
        }
        Ok(())
    }

    /// Claims up to `limit` deliveries that are due, until `until_ms`: until then no other daemon
    /// takes them, and after it anyone may. Nothing of an endpoint that is disabled.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn claim_deliveries(
        &mut self,
        endpoint: &str,
        now_ms: i64,
        until_ms: i64,
        limit: u32,
    ) -> Result<Vec<Due>, StoreError> {
        // The due time is asked for again outside: on PostgreSQL another daemon may have claimed a
        // row while this statement waited for it.
        let rows = sqlx::query(
            "UPDATE delivery SET due_ms = $3
             WHERE endpoint = $1 AND state = 'pending' AND due_ms <= $2 AND event_id IN (
               SELECT event_id FROM delivery
               WHERE endpoint = $1 AND state = 'pending' AND due_ms <= $2
                 AND NOT EXISTS (SELECT 1 FROM endpoint WHERE name = $1 AND disabled IS NOT NULL)
               ORDER BY due_ms, created_ms LIMIT $4)
             RETURNING event_id, tries",
        )
        .bind(endpoint)
        .bind(now_ms)
        .bind(until_ms)
        .bind(i64::from(limit))
        .fetch_all(&mut *self.inner)
        .await?;
        let mut claimed = Vec::with_capacity(rows.len());
        for row in &rows {
            claimed.push((row.try_get::<String, _>(0)?, row.try_get::<i64, _>(1)?));
        }
        let mut due = Vec::with_capacity(claimed.len());
        for part in EVENTS.parts(&claimed, self.marks) {
            let mut query = EVENTS.of(part.len(), self.marks);
            for (id, _) in part {
                query = query.bind(id);
            }
            for row in query.fetch_all(&mut *self.inner).await? {
                let event: String = row.try_get(0)?;
                let body: String = row.try_get(2)?;
                let tries = part.iter().find(|(id, _)| *id == event).map_or(0, |(_, tries)| *tries);
                due.push(Due {
                    kind: row.try_get(1)?,
                    data: RawValue::from_string(body)
                        .map_err(|error| StoreError::corrupt("outbox.body", error))?,
                    created_ms: row.try_get(3)?,
                    tries: u32::try_from(tries).unwrap_or(u32::MAX),
                    until_ms,
                    event,
                });
            }
        }
        Ok(due)
    }

    /// Notes what became of a claimed delivery. Does nothing if the claim has ended and another
    /// daemon has taken it since.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_delivery(
        &mut self,
        endpoint: &str,
        due: &Due,
        fate: &Fate,
        answer: &str,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let (state, next_ms) = match fate {
            Fate::Delivered => (DeliveryState::Delivered, now_ms),
            Fate::Again(at_ms) => (DeliveryState::Pending, *at_ms),
            Fate::Dead => (DeliveryState::Dead, now_ms),
            Fate::Released => (DeliveryState::Pending, now_ms),
        };
        sqlx::query(
            "UPDATE delivery SET state = $4, due_ms = $5, tries = tries + $6, answer = $7,
               updated_ms = $8
             WHERE endpoint = $1 AND event_id = $2 AND state = 'pending' AND due_ms = $3",
        )
        .bind(endpoint)
        .bind(&due.event)
        .bind(due.until_ms)
        .bind(state.as_str())
        .bind(next_ms)
        .bind(i64::from(*fate != Fate::Released))
        .bind(answer)
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Notes that an endpoint took a delivery.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn endpoint_took(&mut self, name: &str, now_ms: i64) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO endpoint (name, failures, delivered_ms) VALUES ($1, 0, $2)
             ON CONFLICT (name) DO UPDATE SET failures = 0, answer = NULL,
               delivered_ms = excluded.delivered_ms",
        )
        .bind(name)
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Notes that an endpoint did not take one; with `disable`, nothing more is sent to it until an
    /// operator says so.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn endpoint_failed(
        &mut self,
        name: &str,
        answer: &str,
        disable: bool,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO endpoint (name, failures, answer, failed_ms, disabled)
             VALUES ($1, 1, $2, $3, $4)
             ON CONFLICT (name) DO UPDATE SET failures = endpoint.failures + 1,
               answer = excluded.answer, failed_ms = excluded.failed_ms,
               disabled = COALESCE(endpoint.disabled, excluded.disabled)",
        )
        .bind(name)
        .bind(answer)
        .bind(now_ms)
        .bind(disable.then_some(answer))
        .execute(&mut *self.inner)
        .await?;
        Ok(())
    }

    /// Lets an endpoint be sent to again, at once.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn enable_endpoint(&mut self, name: &str, now_ms: i64) -> Result<(), StoreError> {
        sqlx::query("UPDATE endpoint SET disabled = NULL, failures = 0 WHERE name = $1")
            .bind(name)
            .execute(&mut *self.inner)
            .await?;
        sqlx::query(
            "UPDATE delivery SET due_ms = $2 WHERE endpoint = $1 AND state = 'pending'
               AND due_ms > $2",
        )
        .bind(name)
        .bind(now_ms)
        .execute(&mut *self.inner)
        .await?;
        self.told = true;
        Ok(())
    }

    /// Sends events to an endpoint once more, with fresh tries, whether they went there before or
    /// not: one by its id, or those since a time that it wants, `limit` at most, oldest first. Of the
    /// latter, those that were delivered stay as they are, unless `delivered`. Returns how many are
    /// sent.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn replay(
        &mut self,
        to: &Subscriber,
        which: &Replay<'_>,
        delivered: bool,
        now_ms: i64,
        limit: u32,
    ) -> Result<u64, StoreError> {
        let ids = match which {
            Replay::Event(id) => vec![(*id).to_owned()],
            Replay::Since(at_ms) => {
                let rows = sqlx::query(
                    "SELECT o.id, o.kind FROM outbox o
                     LEFT JOIN delivery d ON d.endpoint = $1 AND d.event_id = o.id
                     WHERE o.created_ms >= $2
                       AND ($3 = 1 OR d.state IS NULL OR d.state <> 'delivered')
                       AND (d.state IS NULL OR d.state <> 'pending' OR d.tries > 0)
                     ORDER BY o.created_ms, o.id LIMIT $4",
                )
                .bind(&to.name)
                .bind(*at_ms)
                .bind(i64::from(delivered))
                .bind(i64::from(limit))
                .fetch_all(&mut *self.inner)
                .await?;
                let mut ids = Vec::with_capacity(rows.len());
                for row in &rows {
                    if to.wants(&row.try_get::<String, _>(1)?) {
                        ids.push(row.try_get(0)?);
                    }
                }
                ids
            }
        };
        let mut queued = 0;
        for id in ids {
            let done = sqlx::query(
                "INSERT INTO delivery (endpoint, event_id, state, due_ms, created_ms, updated_ms)
                 SELECT $1, id, 'pending', $3, created_ms, $3 FROM outbox WHERE id = $2
                 ON CONFLICT (endpoint, event_id) DO UPDATE SET state = 'pending', tries = 0,
                   due_ms = excluded.due_ms, updated_ms = excluded.updated_ms",
            )
            .bind(&to.name)
            .bind(id)
            .bind(now_ms)
            .execute(&mut *self.inner)
            .await?;
            queued += done.rows_affected();
        }
        self.told = true;
        Ok(queued)
    }

    /// Forgets events from before `before_ms` with their deliveries, some hundred in each call.
    /// Answers how many rows those were; none: nothing is left to forget.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_events(&mut self, before_ms: i64) -> Result<u64, StoreError> {
        let mut rows = 0;
        for statement in [
            "DELETE FROM delivery WHERE created_ms < $1 AND (endpoint, event_id) IN (
               SELECT endpoint, event_id FROM delivery WHERE created_ms < $1 LIMIT $2)",
            // Events go after the last of their deliveries.
            "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE created_ms < $1
               AND NOT EXISTS (SELECT 1 FROM delivery WHERE created_ms < $1) LIMIT $2)",
        ] {
            let done = sqlx::query(statement)
                .bind(before_ms)
                .bind(FORGOTTEN)
                .execute(&mut *self.inner)
                .await?;
            rows += done.rows_affected();
        }
        Ok(rows)
    }
}

/// What is sent once more.
#[derive(Clone, Copy, Debug)]
pub enum Replay<'a> {
    /// One event, by its id.
    Event(&'a str),
    /// Every wanted event that happened since, milliseconds.
    Since(i64),
}
