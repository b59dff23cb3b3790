//! Watching: what the terms say happens by itself, happens; and operators hear in time of what is
//! about to. Judged by the chain's clock.

use std::time::Duration;

use serde_json::json;
use tracing::warn;

use super::{
    ActionKind, ActionRequest, ActionState, EscrowState,
    act::{self, Caller, story},
    release,
};
use crate::{
    audit::EventKind,
    engine::{EngineError, Inner},
    refusal::Code,
    store::EscrowRow,
};

/// Milliseconds before a watcher tries again what failed.
const AGAIN_MS: i64 = 30_000;
/// Escrows acted for in one look.
const AT_ONCE: usize = 32;

impl EscrowRow {
    /// What ends next by itself, and the last second in which a party can still act.
    pub(crate) fn next(&self) -> Option<(ActionKind, u64)> {
        let since = self.since_s.unwrap_or_default();
        match self.state {
            EscrowState::Funded => Some((ActionKind::Reclaim, self.terms.submitBy.to())),
            EscrowState::Submitted => {
                Some((ActionKind::Finalize, since + u64::from(self.terms.reviewPeriod)))
            }
            EscrowState::Disputed => {
                Some((ActionKind::Finalize, since + u64::from(self.terms.arbitrationPeriod)))
            }
            _ => None,
        }
    }

    /// When operators are to be warned: so long before the end of a review or an arbitration.
    fn warn_from(&self, before_s: u64) -> Option<(u64, u64)> {
        let since = self.since_s?;
        let (_, end) = self.next()?;
        matches!(self.state, EscrowState::Submitted | EscrowState::Disputed)
            .then(|| (since, end - before_s.min((end - since) / 2)))
    }
}

/// One look at every escrow that holds money.
pub(crate) async fn look(inner: &Inner) -> Result<(), EngineError> {
    // One daemon acts for all.
    if inner.escrow.is_none() || !inner.is_keeper() {
        return Ok(());
    }
    if let Err(refusal) = release::attend(inner).await {
        warn!(detail = refusal.detail, "releases that wait could not be looked at");
    }
    let Some(time_s) = inner.chain_time_s() else { return Ok(()) };
    let mut acted = 0;
    for escrow in inner.store.escrows_live().await? {
        if acted >= AT_ONCE {
            break;
        }
        if let Some((since, from)) = escrow.warn_from(inner.config.escrow.warn_before_s)
            && time_s >= from
            && escrow.warned_s != Some(since)
        {
            warn_operators(inner, &escrow, since).await?;
        }
        if let Some((kind, end)) = escrow.next()
            && time_s > end
            && due(inner, &escrow, kind).await?
        {
            acted += 1;
            let request = match kind {
                ActionKind::Reclaim => ActionRequest::Reclaim,
                _ => ActionRequest::Finalize,
            };
            match act::act(inner, Caller::Daemon, escrow.id, request).await {
                Ok(_) => {}
                // Another acted first, or the node lags: the logs will tell.
                Err(refusal) if matches!(refusal.code, Code::Conflict | Code::Unavailable) => {}
                Err(refusal) => {
                    warn!(escrow = %escrow.id, detail = refusal.detail, "a deadline could not be kept");
                }
            }
        }
    }
    Ok(())
}

/// Is nothing of the kind under way, and did none fail a moment ago?
async fn due(inner: &Inner, escrow: &EscrowRow, kind: ActionKind) -> Result<bool, EngineError> {
    let now_ms = inner.clock.now_ms();
    let actions = inner.store.escrow_actions(escrow.id).await?;
    Ok(!actions.iter().any(|action| {
        action.kind == kind
            && (action.state != ActionState::Failed || action.updated_ms + AGAIN_MS > now_ms)
    }))
}

async fn warn_operators(
    inner: &Inner,
    escrow: &EscrowRow,
    since_s: u64,
) -> Result<(), EngineError> {
    let Some((_, end)) = escrow.next() else { return Ok(()) };
    let now_ms = inner.clock.now_ms();
    let mut store = inner.begin_as_keeper().await?;
    if !store.warned(escrow.id, since_s).await? {
        return Ok(());
    }
    let draft = story(EventKind::EscrowExpiring, "daemon", escrow).data(json!({
        "ends_at_s": end, "held": escrow.held(), "silence_bps": escrow.terms.silenceBps,
    }));
    store.append_audit(&[draft], now_ms).await?;
    store.commit().await?;
    warn!(
        escrow = %escrow.id,
        left = ?Duration::from_secs(end.saturating_sub(inner.chain_time_s().unwrap_or(end))),
        "a review or an arbitration ends soon"
    );
    Ok(())
}
