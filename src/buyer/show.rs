//! Purchases, shown.

use super::{PurchasePage, Receipt};
use crate::{
    clock,
    engine::Inner,
    payment::{AgentId, PaymentId},
    refusal::{Code, Refusal},
    store::PurchaseRow,
};

/// Tells how far a purchase has come.
pub(super) fn receipt(row: &PurchaseRow, repeated: bool) -> Receipt {
    let text = |key: &str| row.offer.get(key).and_then(|v| v.as_str()).unwrap_or_default();
    Receipt {
        id: row.id,
        agent: row.agent.clone(),
        idempotency_key: row.idempotency_key.clone(),
        call: format!("{} {}", row.call.method, row.call.url),
        state: row.state,
        funds_moved: row.state.funds_moved(),
        scheme: format!("{} {}", text("protocol"), text("scheme")),
        payer_kind: row.payer_kind,
        payer: row.payer,
        pay_to: row.payee,
        amount: row.amount,
        amount_units: row.amount.units(),
        nonce: row.nonce,
        valid_before: clock::at_s(row.valid_before_s),
        policy_version: row.policy_version,
        transaction: row.tx_hash,
        block: row.block,
        note: row.note.clone(),
        repeated,
        created_at: clock::at_ms(row.created_ms),
    }
}

/// Shows one of an agent's purchases.
///
/// # Errors
/// `not_found`.
pub(crate) async fn show(
    inner: &Inner,
    agent: &AgentId,
    id: PaymentId,
) -> Result<Receipt, Refusal> {
    let row = inner.store.purchase(id).await?.filter(|row| row.agent == *agent);
    row.map(|row| receipt(&row, true)).ok_or_else(|| {
        Refusal::new(Code::NotFound, format!("there is no purchase {id}, or it is not yours"))
    })
}

/// Lists an agent's purchases, newest first; `limit` 1 to 200.
///
/// # Errors
/// `invalid_request` for a cursor that is none.
pub(crate) async fn list(
    inner: &Inner,
    agent: &AgentId,
    cursor: Option<&str>,
    limit: u32,
) -> Result<PurchasePage, Refusal> {
    let before = cursor.map(str::parse::<PaymentId>).transpose().map_err(|_| {
        Refusal::new(Code::InvalidRequest, "cursor is not one of ours")
            .hint("pass `next_cursor` of the page before, unchanged")
    })?;
    let limit = limit.clamp(1, 200);
    let rows = inner.store.purchases(agent, before, limit).await?;
    let next_cursor =
        (rows.len() == limit as usize).then(|| rows.last().map(|row| row.id.to_string())).flatten();
    Ok(PurchasePage { purchases: rows.iter().map(|row| receipt(row, true)).collect(), next_cursor })
}
