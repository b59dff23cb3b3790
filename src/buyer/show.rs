//! Purchases, shown.

use std::collections::HashMap;

use alloy::primitives::{Address, B256};

use super::{ChannelPart, CouponRoom, FetchRoom, HostRoom, PurchasePage, Receipt};
use crate::{
    clock,
    contract::coupon::{self, CouponGrant},
    engine::Inner,
    money::Usdc,
    payment::{AgentId, PaymentId},
    refusal::{Code, Refusal},
    store::{PurchaseRow, StoreError},
    view::LimitView,
};

/// Hosts that an agent is told of by name.
const HOSTS: u32 = 20;

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

/// Tells what an agent may buy, and what is left of it; `None`: its policy has no `[fetch]`.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn room(inner: &Inner, agent: &AgentId) -> Result<Option<FetchRoom>, StoreError> {
    let (now_s, now_ms) = (inner.now_s(), inner.clock.now_ms());
    let (limits, hosts, grant, address) = {
        let book = inner.book();
        let Some(known) = book.agents.get(agent) else { return Ok(None) };
        let Some(limits) = known.policy.fetch else { return Ok(None) };
        let hosts = known.policy.hosts.iter().map(ToString::to_string).collect();
        (limits, hosts, known.coupons, known.address)
    };
    // What is asked of no host in particular.
    let used = inner.store.bought_by(agent, "", now_ms).await?;
    let together = |rule: &str, limit: Usdc, used: Usdc| LimitView {
        rule: rule.to_owned(),
        limit: limit.to_string(),
        used: used.to_string(),
        remaining: limit.saturating_sub(used).to_string(),
        returns_in: None,
        on_chain: false,
    };
    let mut whole = vec![together("fetch.day", limits.day, used.all)];
    whole.extend(limits.minute.map(|limit| together("fetch.minute", limit, used.minute)));
    let by_host = inner.store.bought_from_each(agent, now_ms, HOSTS).await?;
    let by_host = by_host.into_iter().map(|(host, used)| {
        let remaining = limits.host_day.saturating_sub(used);
        HostRoom { host, used, remaining }
    });
    Ok(Some(FetchRoom {
        hosts,
        per_call: limits.per_call,
        host_day: limits.host_day,
        by_host: by_host.collect(),
        limits: whole,
        loops: limits.loops,
        float: limits.float,
        channel: limits.channel,
        coupons: coupons_left(inner, (address, &grant), now_s).await?,
    }))
}

/// Counts the coupons that an agent has left in the period of `now_s`.
async fn coupons_left(
    inner: &Inner,
    (address, grant): (Address, &CouponGrant),
    now_s: u64,
) -> Result<Vec<CouponRoom>, StoreError> {
    let Some(period) = grant.period(now_s) else { return Ok(Vec::new()) };
    let next_s = period.saturating_add(1).saturating_mul(grant.period_s.into());
    let mut left = Vec::new();
    for (at, class) in grant.classes.iter().enumerate().filter(|(_, class)| class.count > 0) {
        let taken = inner.store.next_nonce(&coupon::counter(address, period, at)).await?;
        left.push(CouponRoom {
            most: Usdc::from_units(class.most).unwrap_or_default(),
            count: class.count,
            remaining: class.count.saturating_sub(u16::try_from(taken).unwrap_or(u16::MAX)),
            returns_in: next_s.saturating_sub(now_s),
        });
    }
    Ok(left)
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
