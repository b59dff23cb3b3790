//! Alerts: what is wrong that a person should look at. Each is up or not, told once when that
//! changes, and kept in the store, so that a restart neither repeats nor forgets it.
//!
//! Whoever sees something raises it ([`Inner::raise`], or [`Tx::raise_alert`] inside a commit of its
//! own) and clears it once it is over; doing either again changes nothing.
//!
//! [`Inner::raise`]: crate::engine::Inner::raise
//! [`Tx::raise_alert`]: crate::store::Tx::raise_alert

pub(crate) mod watch;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::{
    clock,
    engine::{EngineError, Inner},
    view::AlertView,
};

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// What can be wrong.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
            utoipa::ToSchema,
        )]
        #[serde(rename_all = "snake_case")]
        pub enum AlertKind { $($(#[$doc])* $name,)* }

        impl AlertKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Returns the stable name.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

kinds! {
    /// A payment has been on its way for too long. No subject.
    Backlog = "backlog";
    /// A relayer has little gas money left. Subject: its address.
    GasLow = "gas_low";
    /// The chain cannot be read, or its newest block is old. No subject.
    RpcLag = "rpc_lag";
    /// Little is left of a cap. Subject: the agent and the rule, or `wallet.cap`.
    CapNear = "cap_near";
    /// Many requests are refused. Subject: the agent, or `strangers`.
    Denials = "denials";
    /// An agent asked for the same payment again and again. Subject: the agent.
    Loop = "loop";
    /// A seller does what an honest one hardly does: it changes payee or offer, sells in another host's
    /// name, wants another chain or token, or asks without an end. Subject: its host.
    Seller = "seller";
    /// A payer is withdrawing from its channel, half of the delay is gone, and what it owes us is not
    /// claimed. Subject: the channel.
    Leaving = "leaving";
    /// Chain and books differ. Subject: what differs.
    Reconciliation = "reconciliation";
    /// The store is older than what was done with its keys. Subject: `until` while that is waited
    /// for, `found` while transfers wait for an operator's word.
    Restored = "restored";
    /// An endpoint takes no webhooks. Subject: its name.
    Webhook = "webhook";
}

impl fmt::Display for AlertKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// There is no such alert.
#[derive(Clone, Debug, thiserror::Error)]
#[error("`{0}` is no alert")]
pub struct NoSuchAlert(String);

impl FromStr for AlertKind {
    type Err = NoSuchAlert;

    fn from_str(text: &str) -> Result<Self, NoSuchAlert> {
        let known = Self::ALL.iter().copied().find(|kind| kind.as_str() == text);
        known.ok_or_else(|| NoSuchAlert(text.to_owned()))
    }
}

/// An alert that is up.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// What is wrong.
    pub kind: AlertKind,
    /// Whom or what it is about: with the kind, its identity. May be empty.
    pub subject: String,
    /// A sentence for a person: what was seen, and what to do.
    pub detail: String,
    /// The same for programs, an object: what was measured, and the threshold.
    pub data: Value,
    /// When it was raised, unix milliseconds.
    pub since_ms: i64,
}

impl Alert {
    /// What its event says.
    #[must_use]
    pub fn told(&self) -> Value {
        json!({
            "alert": self.kind, "subject": self.subject, "detail": self.detail,
            "measured": self.data, "since": clock::at_ms(self.since_ms),
        })
    }
}

impl From<Alert> for AlertView {
    fn from(alert: Alert) -> Self {
        Self {
            alert: alert.kind,
            subject: alert.subject,
            detail: alert.detail,
            measured: alert.data,
            since: clock::at_ms(alert.since_ms),
        }
    }
}

impl Inner {
    /// Raises an alert, in a commit of its own. Answers `false` if it was up already.
    ///
    /// # Errors
    /// [`EngineError`]: nothing was told.
    pub(crate) async fn raise(&self, alert: Alert) -> Result<bool, EngineError> {
        let mut tx = self.begin_as_keeper().await?;
        let fresh = tx.raise_alert(&alert).await?;
        tx.commit().await?;
        if fresh {
            warn!(alert = %alert.kind, subject = alert.subject, "raised: {}", alert.detail);
            self.metrics.alerts_raised.get_or_create(&alert.kind.into()).inc();
        }
        Ok(fresh)
    }

    /// Clears an alert, in a commit of its own. Answers `false` if it was not up.
    ///
    /// # Errors
    /// [`EngineError`]: nothing was told.
    pub(crate) async fn clear(&self, kind: AlertKind, subject: &str) -> Result<bool, EngineError> {
        let mut tx = self.begin_as_keeper().await?;
        let was_up = tx.clear_alert(kind, subject, self.clock.now_ms()).await?;
        tx.commit().await?;
        if was_up {
            info!(alert = %kind, subject, "cleared");
        }
        Ok(was_up)
    }
}
