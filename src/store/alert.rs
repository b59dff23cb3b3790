//! Alerts that are up: a row each. Raising and clearing are told once, in the commit that does it,
//! whoever asks how often, from however many daemons.

use sqlx::Row as _;

use super::{Store, StoreError, Tx, parse};
use crate::{
    alert::{Alert, AlertKind},
    audit::{Draft, EventKind},
};

impl Store {
    /// Reads the alerts that are up, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn alerts(&self) -> Result<Vec<Alert>, StoreError> {
        let rows = sqlx::query(
            "SELECT kind, subject, detail, data, since_ms FROM alert
             ORDER BY since_ms, kind, subject",
        )
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Alert {
                    kind: parse("alert.kind", &row.try_get::<String, _>(0)?)?,
                    subject: row.try_get(1)?,
                    detail: row.try_get(2)?,
                    data: parse("alert.data", &row.try_get::<String, _>(3)?)?,
                    since_ms: row.try_get(4)?,
                })
            })
            .collect()
    }
}

impl Tx {
    /// Raises an alert: its row, its audit entry and its event. Answers `false`, and tells nobody,
    /// if it was up already.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn raise_alert(&mut self, alert: &Alert) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "INSERT INTO alert (kind, subject, detail, data, since_ms) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (kind, subject) DO NOTHING",
        )
        .bind(alert.kind.as_str())
        .bind(&alert.subject)
        .bind(&alert.detail)
        .bind(alert.data.to_string())
        .bind(alert.since_ms)
        .execute(&mut *self.inner)
        .await?;
        let fresh = done.rows_affected() == 1;
        if fresh {
            let draft = Draft::new(EventKind::AlertRaised, "daemon").data(alert.told());
            self.append_audit(&[draft], alert.since_ms).await?;
        }
        Ok(fresh)
    }

    /// Clears an alert, with its audit entry and its event. Answers `false`, and tells nobody, if it
    /// was not up.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn clear_alert(
        &mut self,
        kind: AlertKind,
        subject: &str,
        now_ms: i64,
    ) -> Result<bool, StoreError> {
        let row = sqlx::query(
            "DELETE FROM alert WHERE kind = $1 AND subject = $2
             RETURNING detail, data, since_ms",
        )
        .bind(kind.as_str())
        .bind(subject)
        .fetch_optional(&mut *self.inner)
        .await?;
        let Some(row) = row else { return Ok(false) };
        let alert = Alert {
            kind,
            subject: subject.to_owned(),
            detail: row.try_get(0)?,
            data: parse("alert.data", &row.try_get::<String, _>(1)?)?,
            since_ms: row.try_get(2)?,
        };
        let draft = Draft::new(EventKind::AlertCleared, "daemon").data(alert.told());
        self.append_audit(&[draft], now_ms).await?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    async fn told(store: &Store) -> Vec<(String, String)> {
        let rows = sqlx::query("SELECT id, kind FROM outbox ORDER BY id").fetch_all(&store.readers);
        rows.await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    #[tokio::test]
    async fn an_alert_is_told_once_up_and_once_down_whoever_asks() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("alerts.db").display());
        let alert = |detail: &str| Alert {
            kind: AlertKind::GasLow,
            subject: "0x1".to_owned(),
            detail: detail.to_owned(),
            data: json!({ "batches": 3 }),
            since_ms: 1_000,
        };
        let store = Store::open(&url).await.unwrap();
        let mut tx = store.begin().await.unwrap();
        assert!(tx.raise_alert(&alert("first")).await.unwrap());
        assert!(!tx.raise_alert(&alert("again")).await.unwrap());
        tx.commit().await.unwrap();
        store.close().await;

        // A restart later, and from another daemon.
        let store = Store::open(&url).await.unwrap();
        assert_eq!(store.alerts().await.unwrap(), [alert("first")]);
        let mut tx = store.begin().await.unwrap();
        assert!(!tx.raise_alert(&alert("restarted")).await.unwrap());
        assert!(!tx.clear_alert(AlertKind::GasLow, "0x2", 2_000).await.unwrap());
        assert!(tx.clear_alert(AlertKind::GasLow, "0x1", 2_000).await.unwrap());
        assert!(!tx.clear_alert(AlertKind::GasLow, "0x1", 2_000).await.unwrap());
        tx.commit().await.unwrap();
        assert!(store.alerts().await.unwrap().is_empty());
        let kinds = [("audit_1", "alert.raised"), ("audit_2", "alert.cleared")];
        let kinds = kinds.map(|(id, kind)| (id.to_owned(), kind.to_owned()));
        assert_eq!(told(&store).await, kinds);

        // What is not committed is told to nobody.
        let mut tx = store.begin().await.unwrap();
        assert!(tx.raise_alert(&alert("never")).await.unwrap());
        drop(tx);
        assert_eq!(told(&store).await, kinds);
        store.close().await;
    }
}
