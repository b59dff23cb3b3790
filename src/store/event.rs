//! The outbox: what others are told of, written in the commit of what it tells of.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{PaymentRow, StoreError, Tx, many::Many};
use crate::{
    audit::{Entry, EventKind},
    payment::PaymentId,
};

const INSERT: Many = Many {
    head: "INSERT INTO outbox (id, kind, payment_id, body, created_ms)",
    shared: 0,
    columns: 5,
    tail: " ON CONFLICT (id) DO NOTHING",
};

/// Something to be told to those who subscribed.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Its id, the same for ever: what receivers drop repeats by. One for each thing that can
    /// happen once: `end_` and the payment's id, `audit_` and the entry's number. No full stop.
    pub id: String,
    /// What happened.
    pub kind: EventKind,
    /// The payment it is about.
    pub payment: Option<PaymentId>,
    /// The event's `data`, an object.
    pub data: Value,
}

impl Event {
    /// The event of an audit entry: its data, with who made it happen and whom it is about.
    pub(super) fn of(kind: EventKind, entry: &Entry) -> Self {
        let mut data = match &entry.data {
            Value::Object(fields) => fields.clone(),
            other => serde_json::Map::from_iter([("value".to_owned(), other.clone())]),
        };
        data.insert("actor".to_owned(), json!(entry.actor));
        for (name, value) in [("agent", json!(entry.agent)), ("payment", json!(entry.payment))] {
            if !value.is_null() {
                data.insert(name.to_owned(), value);
            }
        }
        Self {
            id: format!("audit_{}", entry.seq),
            kind,
            payment: entry.payment,
            data: Value::Object(data),
        }
    }
}

impl Tx {
    /// Puts events into the outbox, and lets them go to every endpoint that wants their kind. An
    /// id that is there already stays as it is: whoever reads the chain twice tells once.
    ///
    /// Audit entries of a kind that [`EventKind::is_told`] come here by themselves.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn tell(&mut self, events: &[Event], now_ms: i64) -> Result<(), StoreError> {
        self.keep(events, now_ms).await?;
        let subscribers = Arc::clone(&self.subscribers);
        let mut deliveries = Vec::new();
        for subscriber in subscribers.iter() {
            let wanted = events.iter().filter(|event| subscriber.wants(event.kind.as_str()));
            deliveries.extend(wanted.map(|event| (subscriber.name.as_str(), event.id.as_str())));
        }
        self.deliver(&deliveries, now_ms).await
    }

    async fn keep(&mut self, events: &[Event], now_ms: i64) -> Result<(), StoreError> {
        for part in INSERT.parts(events, self.marks) {
            let mut insert = INSERT.of(part.len(), self.marks);
            for event in part {
                insert = insert
                    .bind(&event.id)
                    .bind(event.kind.as_str())
                    .bind(event.payment.map(|id| id.to_string()))
                    .bind(event.data.to_string())
                    .bind(now_ms);
            }
            insert.execute(&mut *self.inner).await?;
        }
        Ok(())
    }

    /// Tells the end of payments. One payment has one end, hence one event.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn tell_end(
        &mut self,
        kind: EventKind,
        payments: &[PaymentRow],
        now_ms: i64,
    ) -> Result<(), StoreError> {
        let events: Vec<Event> = payments
            .iter()
            .map(|payment| Event {
                id: format!("end_{}", payment.id),
                kind,
                payment: Some(payment.id),
                data: json!({
                    "payment": payment.id, "agent": payment.agent, "state": payment.state,
                    "payee": payment.payee, "amount": payment.amount, "tx": payment.tx_hash,
                    "block": payment.block, "context": payment.context, "refusal": payment.refusal,
                }),
            })
            .collect();
        self.tell(&events, now_ms).await
    }

    /// Tells one endpoint, whatever it subscribed to.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn tell_one(
        &mut self,
        endpoint: &str,
        event: &Event,
        now_ms: i64,
    ) -> Result<(), StoreError> {
        self.keep(std::slice::from_ref(event), now_ms).await?;
        self.deliver(&[(endpoint, &event.id)], now_ms).await
    }
}
