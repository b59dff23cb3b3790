//! Sales that nobody waits for: settled or closed after a kill, a fault, a slow chain.

use std::{sync::Arc, time::Duration};

use alloy::primitives::B256;
use tracing::{info, warn};

use super::SaleState;
use crate::{
    crash::{self, Point},
    engine::{EngineError, Inner, Stop},
    facilitator::Facilitator,
    refusal::{Code, Refusal},
    store::SaleRow,
    x402::{Reason, SettleResponse},
};

/// Pause between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Sales in one look.
const STEP: u32 = 32;
/// Milliseconds after which a served sale that is not settled is looked at (again).
const AGAIN_MS: i64 = 30_000;
/// Wait for a sale that somebody works on.
const SHORTLY: Duration = Duration::from_millis(1);

/// What became of a settlement.
pub(super) enum Settling {
    Settled(B256),
    /// Not known, or not yet: it is tried again.
    Pending(SettleResponse),
    /// Not, for good.
    Failed(SettleResponse, Refusal),
}

/// When a sale that is served now is looked after.
pub(super) const fn due(now_ms: i64) -> i64 {
    now_ms.saturating_add(AGAIN_MS)
}

/// Settles a served sale, and notes what came of it.
pub(super) async fn settle(
    inner: &Inner,
    facilitator: &Facilitator,
    sale: &SaleRow,
) -> Result<Settling, EngineError> {
    let settled = facilitator.settle(&sale.request).await;
    crash::at(Point::SaleSettled);
    let now_ms = inner.clock.now_ms();
    if settled.success {
        let hash: B256 = settled.transaction.parse().map_err(|_| {
            EngineError::Encode(format!("{} was settled by `{}`", sale.id, settled.transaction))
        })?;
        let mut store = inner.store.begin().await?;
        store.settle_sale(&sale.payment, hash, (due(now_ms), now_ms)).await?;
        store.commit().await?;
        return Ok(Settling::Settled(hash));
    }
    let reason = settled.error_reason.clone().unwrap_or(Reason::UnexpectedSettleError);
    if reason.is_pending() || reason == Reason::UnexpectedSettleError {
        return Ok(Settling::Pending(settled));
    }
    let why = settled.error_message.clone().unwrap_or_else(|| reason.to_string());
    let refusal = Refusal { detail: format!("{reason}: {why}"), ..unsettled() };
    let mut store = inner.store.begin().await?;
    let arrow = (SaleState::Served, SaleState::Failed);
    store.end_sale(&sale.payment, arrow, Some(&refusal), now_ms).await?;
    store.commit().await?;
    Ok(Settling::Failed(settled, refusal))
}

/// The refusal of a sale that was not settled.
pub(super) fn unsettled() -> Refusal {
    Refusal::new(Code::PaymentNotSettled, "the payment could not be settled")
        .hint("nothing was charged; look at the payer's balance, then pay for a new request")
}

/// What is told of a settlement that failed before.
pub(super) fn told(sale: &SaleRow, refusal: &Refusal) -> SettleResponse {
    let (reason, why) = refusal.detail.split_once(": ").unwrap_or(("unexpected_settle_error", ""));
    let Ok(reason) = reason.parse();
    SettleResponse {
        success: false,
        network: sale.request.payment_requirements.network().to_owned(),
        payer: Some(sale.payer.to_string()),
        error_reason: Some(reason),
        error_message: Some(why.to_owned()),
        ..SettleResponse::default()
    }
}

/// Runs until told to stop.
pub(crate) async fn run(inner: Arc<Inner>, stop: Stop) {
    // What a former run left, or daemons that are gone: at once, where no other daemon works on it.
    let mut looked = false;
    loop {
        if inner.is_keeper() {
            let alone = inner.is_alone();
            match look(&inner, alone && !looked).await {
                Ok(more) => looked = alone && (looked || !more),
                Err(error) => warn!(%error, "sales could not be looked after"),
            }
        }
        tokio::select! {
            () = stop.asked() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// Looks after what is due; answers whether there may be more.
async fn look(inner: &Arc<Inner>, everything: bool) -> Result<bool, EngineError> {
    let now_ms = inner.clock.now_ms();
    let until_ms = if everything { i64::MAX } else { now_ms };
    let due = inner.store.sales_due(until_ms, STEP).await?;
    let more = due.len() == STEP as usize;
    let mut works = tokio::task::JoinSet::new();
    for sale in due {
        let inner = Arc::clone(inner);
        works.spawn(async move {
            let id = sale.id.clone();
            if let Err(error) = tend(&inner, sale).await {
                warn!(%error, id, "a sale could not be looked after");
            }
        });
    }
    while works.join_next().await.is_some() {}
    Ok(more)
}

/// Looks after one sale.
async fn tend(inner: &Arc<Inner>, sale: SaleRow) -> Result<(), EngineError> {
    // Who works on it here will finish it.
    let Some(_turn) = inner.sales.turn(&sale.payment, SHORTLY).await else { return Ok(()) };
    let Some(sale) = inner.store.sale_of(&sale.payment).await? else { return Ok(()) };
    let now_ms = inner.clock.now_ms();
    let mut store = inner.store.begin().await?;
    // First, so that a fault does not make it the next one again and again.
    store.delay_sale(&sale.payment, due(now_ms)).await?;
    if sale.state == SaleState::Open {
        info!(id = sale.id, "a sale was cut off: closed, not charged");
        let arrow = (SaleState::Open, SaleState::Closed);
        store.end_sale(&sale.payment, arrow, None, now_ms).await?;
    }
    store.commit().await?;
    match sale.state {
        SaleState::Served => {
            let facilitator = Facilitator::new(Arc::clone(inner));
            settle(inner, &facilitator, &sale).await?;
        }
        SaleState::Settled => book(inner, &sale).await?,
        _ => {}
    }
    Ok(())
}

/// Books a sale that somebody else's transaction settled, once that is final. What our own facilitator
/// settled is booked with its settlement.
async fn book(inner: &Inner, sale: &SaleRow) -> Result<(), EngineError> {
    let (Some(hash), None) = (sale.tx_hash, inner.store.settlement(&sale.payment).await?) else {
        return Ok(());
    };
    let Some(head) = inner.head() else { return Ok(()) };
    let last = (head.height() + 1).saturating_sub(inner.config.chain.confirmations);
    let receipts = inner.rpc.receipts(&head, &[hash]).await?;
    let receipt = receipts.into_iter().flatten().next();
    let is_final = |block: Option<u64>| block.is_some_and(|block| block <= last);
    if receipt.is_some_and(|receipt| receipt.status() && is_final(receipt.block_number)) {
        finish(inner, &sale.payment, Ok(hash)).await?;
    }
    Ok(())
}

async fn finish(
    inner: &Inner,
    payment: &str,
    settled: Result<B256, &'static str>,
) -> Result<(), EngineError> {
    let mut store = inner.store.begin().await?;
    let mut drafts = Vec::new();
    let now_ms = inner.clock.now_ms();
    super::ended(inner, &mut store, (payment, settled), now_ms, &mut drafts).await?;
    store.append_audit(&drafts, now_ms).await?;
    store.commit().await?;
    Ok(())
}
