//! Channels as operators see them.

use crate::{
    channel::{claim, meter::MeterRow, purse::PurseRow},
    clock,
    engine::Inner,
    money::Usdc,
    refusal::{Code, Refusal},
    store::StoreError,
    view::{ChannelsView, ClaimsView, MeterView, PurseView},
};

/// Channels of each kind in one answer.
const SHOWN: u32 = 500;

/// Shows channels: those that owe first.
pub(crate) async fn all(inner: &Inner) -> Result<ChannelsView, StoreError> {
    let mut rows = inner.store.meters_owing(SHOWN).await?;
    for row in inner.store.meters(None, SHOWN).await? {
        if rows.len() < SHOWN as usize && row.owed_since_ms.is_none() {
            rows.push(row);
        }
    }
    Ok(ChannelsView {
        keeper: inner.is_keeper(),
        owed: rows.iter().fold(Usdc::ZERO, |sum, row| sum.saturating_add(row.owed())),
        paid_by: rows.iter().map(meter).collect(),
        paying: inner.store.purses(SHOWN).await?.iter().map(|row| purse(inner, row)).collect(),
    })
}

/// Claims everything that is owed now.
pub(crate) async fn claim_now(inner: &Inner) -> Result<ClaimsView, Refusal> {
    if !inner.is_keeper() {
        let keeper = inner.keeper().await.filter(|name| !name.is_empty());
        let keeper = keeper.unwrap_or_else(|| "no daemon at the moment".to_owned());
        let why = format!("channels are claimed by the daemon that keeps them: {keeper}");
        return Err(Refusal::new(Code::Unavailable, why)
            .retry_after(1)
            .hint("ask that daemon; `bursar status` shows who is the keeper"));
    }
    let sent = claim::look(inner, true).await.map_err(|error| Refusal::from(&error))?;
    let hashes = sent.iter().filter_map(|open| open.attempts.first()).map(|attempt| attempt.hash);
    Ok(ClaimsView { transactions: hashes.collect() })
}

fn seconds(at_s: u64) -> jiff::Timestamp {
    clock::at_ms(i64::try_from(at_s.saturating_mul(1_000)).unwrap_or(i64::MAX))
}

fn meter(row: &MeterRow) -> MeterView {
    let leaving = row.chain.withdraw_since_s;
    MeterView {
        channel: row.id,
        payer: row.config.payer,
        receiver: row.config.receiver,
        balance: row.chain.balance,
        claimed: row.chain.claimed,
        charged: row.charged,
        signed: row.ceiling,
        owed: row.owed(),
        lost: row.lost(),
        owed_since: row.owed_since_ms.map(clock::at_ms),
        leaving_since: leaving.map(seconds),
        leaves_at: leaving.map(|at| seconds(at + u64::from(row.config.withdraw_delay))),
        refund: row.refunding().map_or(Usdc::ZERO, |refund| refund.amount),
        read_at: clock::at_ms(row.chain.read_ms),
    }
}

/// Shows one of the wallet's own.
pub(crate) fn purse(inner: &Inner, row: &PurseRow) -> PurseView {
    PurseView {
        channel: row.id,
        agent: row.agent.clone(),
        receiver: row.config.receiver,
        receiver_label: inner.book().label(row.config.receiver),
        host: row.host.clone(),
        state: row.state.as_str().to_owned(),
        balance: row.chain.balance,
        charged: row.charged,
        signed: row.ceiling,
        claimed: row.chain.claimed,
        left: row.left(),
        returned: row.returned,
        comes_home_at: row.home_s().map(seconds),
        created_at: clock::at_ms(row.created_ms),
    }
}
