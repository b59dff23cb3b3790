//! Purchases, shown.

use std::collections::HashMap;

use alloy::primitives::B256;

use super::{ChannelPart, PurchasePage, Receipt};
use crate::{
    clock,
    engine::Inner,
    money::Usdc,
    payment::{AgentId, PaymentId},
    refusal::{Code, Refusal},
    store::{PurchaseRow, StoreError},
};

/// Tells how far a purchase has come, with what is left in its channel.
///
/// # Errors
/// [`StoreError`].
pub(super) async fn receipt(
    inner: &Inner,
    row: &PurchaseRow,
    repeated: bool,
) -> Result<Receipt, StoreError> {
    let purse = match row.channel {
        Some(id) => inner.store.purse(id).await?,
        None => None,
    };
    let left = purse.map_or(Usdc::ZERO, |purse| purse.left());
    Ok(told(row, repeated, left))
}

fn told(row: &PurchaseRow, repeated: bool, left: Usdc) -> Receipt {
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
        valid_before: row.channel.is_none().then(|| clock::at_s(row.valid_before_s)),
        channel: row.channel.map(|id| ChannelPart { id, charged: row.charged, left }),
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
    let row = row.ok_or_else(|| {
        Refusal::new(Code::NotFound, format!("there is no purchase {id}, or it is not yours"))
    })?;
    Ok(receipt(inner, &row, true).await?)
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
    let mut left: HashMap<B256, Usdc> = HashMap::new();
    let mut purchases = Vec::with_capacity(rows.len());
    for row in &rows {
        if let Some(id) = row.channel.filter(|id| !left.contains_key(id)) {
            let purse = inner.store.purse(id).await?;
            left.insert(id, purse.map_or(Usdc::ZERO, |purse| purse.left()));
        }
        let left = row.channel.and_then(|id| left.get(&id).copied()).unwrap_or_default();
        purchases.push(told(row, true, left));
    }
    Ok(PurchasePage { purchases, next_cursor })
}
