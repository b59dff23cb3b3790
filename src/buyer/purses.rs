//! The wallet's own channels: watched on chain, and closed when nobody needs them.
//!
//! A channel is closed when an operator says so, when its seller charged otherwise than it said, when its
//! agent is frozen or at its end, when its agent or host is in no policy any more, and when it was not
//! used for long. Two transactions: the
//! wallet asks for what is left, on the agent's word; after the channel's delay, in which the seller can
//! still claim, it fetches it. Both are found due by what the chain says, so a crash between them loses
//! nothing; nothing is sent while an earlier one is on its way.

use std::collections::BTreeSet;

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    signers::SignerSync as _,
    sol_types::SolCall as _,
};
use serde_json::json;
use tracing::{info, warn};

use super::tally;
use crate::{
    audit::{Draft, EventKind},
    book::Agent,
    channel::{
        meter::OnChain,
        on_chain,
        purse::{PurseRow, PurseState},
    },
    contract::{
        self,
        hub::{ChannelClosing, IChannelPayer},
    },
    engine::{EngineError, Inner},
    refusal::{Code, Refusal},
    rpc::RpcError,
    store::TxKind,
    submit::{Manifest, Outgoing, relay},
};

/// Channels in one look; more wait for the next.
const LOOKED: u32 = 200;
/// Milliseconds after which a closing channel is looked at on chain again; an open one, as the
/// configuration says.
const CLOSING_MS: i64 = 1_000;
/// Gas of `closeChannel` and `finishChannel`: twice of what they take.
const GAS: u64 = 300_000;
/// Seconds for which a word to close is good.
const CLOSING_S: u64 = 3_600;

/// Looks at the wallet's own channels, and takes the step that is due.
pub(crate) async fn look(inner: &Inner) -> Result<(), EngineError> {
    let Some(meters) = inner.meters.as_ref().filter(|_| inner.is_keeper()) else { return Ok(()) };
    let mut after = None;
    loop {
        let rows = inner.store.purses_live(after, LOOKED).await?;
        let Some(last) = rows.last() else { return Ok(()) };
        after = Some(last.id);
        // Before the chain is read: what has ended by now is in what is read.
        let under_way = under_way(inner);
        let mut stale = Vec::new();
        for row in rows {
            let row = match reason(inner, &row).await? {
                Some(why) => shut(inner, row, why).await?,
                None => row,
            };
            let every = match row.state {
                PurseState::Closing => CLOSING_MS,
                _ => crate::intake::seconds(inner.config.channels.watch_s),
            };
            if inner.clock.now_ms().saturating_sub(row.chain.read_ms) >= every {
                stale.push(row);
            }
        }
        let ids: Vec<B256> = stale.iter().map(|row| row.id).collect();
        let found = on_chain::read(inner, meters.hub().address(), &ids).await?;
        for (row, chain) in stale.into_iter().zip(found) {
            let id = row.id;
            let Some(row) = note(inner, row, chain).await? else { continue };
            if !under_way.contains(&id) {
                step(inner, &row).await?;
            }
        }
    }
}

/// Channels of which a step is on its way.
fn under_way(inner: &Inner) -> BTreeSet<B256> {
    let closing =
        |flight: crate::submit::Flight| match serde_json::from_str(&flight.open.tx.manifest) {
            Ok(Manifest::Closing { channel }) => Some(channel),
            _ => None,
        };
    let all = inner.flights.all().into_iter();
    all.filter(|flight| flight.open.tx.kind == TxKind::Closing).filter_map(closing).collect()
}

/// Why an open channel is to be closed, if it is.
async fn reason(inner: &Inner, row: &PurseRow) -> Result<Option<&'static str>, EngineError> {
    if row.state != PurseState::Open {
        return Ok(None);
    }
    let why = {
        let book = inner.book();
        match book.agents.get(&row.agent) {
            None => Some("its agent was removed"),
            // An operator took back what the agent was granted: this goes with the rest. A freeze of the
            // whole wallet stops everything and takes nothing back.
            Some(known) if is_frozen(known) => Some("its agent is frozen"),
            Some(known) if has_ended(known, inner.now_s()) => {
                Some("its agent's authority has ended")
            }
            Some(known) if known.policy.fetch.is_none_or(|fetch| fetch.channel.is_none()) => {
                Some("its agent may not pay through channels any more")
            }
            Some(known)
                if !known.policy.hosts.is_empty()
                    && !known.policy.hosts.iter().any(|host| host.matches(&row.host)) =>
            {
                Some("its host is not in the agent's policy any more")
            }
            Some(_) if row.chain.withdraw_since_s.is_some() => Some("it is being closed on chain"),
            Some(_) => {
                let idle_ms = inner.clock.now_ms().saturating_sub(row.used_ms);
                let most_ms = crate::intake::seconds(inner.config.channels.close_after_s);
                (idle_ms >= most_ms).then_some("it was not used for long")
            }
        }
    };
    match why {
        // What is on its way into it has to arrive before it is asked back.
        Some(_) if inner.store.is_funding(row.id).await? => Ok(None),
        why => Ok(why),
    }
}

fn is_frozen(agent: &Agent) -> bool {
    agent.usage.frozen || agent.chain.as_ref().is_some_and(|chain| chain.frozen)
}

fn has_ended(agent: &Agent, now_s: u64) -> bool {
    let ended = agent.chain.as_ref().is_some_and(|chain| !chain.active || now_s >= chain.expiry_s);
    ended || now_s >= agent.policy.expires_s
}

/// Lets a channel buy nothing more.
async fn shut(inner: &Inner, mut row: PurseRow, why: &str) -> Result<PurseRow, EngineError> {
    let read = row.version;
    row.version += 1;
    row.state = PurseState::Closing;
    let now_ms = inner.clock.now_ms();
    let mut tx = inner.begin_as_keeper().await?;
    if tx.put_purse(&row, read).await? {
        let draft = story(EventKind::PurseClosing, &row).and("why", json!(why));
        tx.append_audit(&[draft], now_ms).await?;
        tx.commit().await?;
        info!(channel = %row.id, why, "a channel of the wallet is closed");
    }
    Ok(row)
}

fn story(kind: EventKind, row: &PurseRow) -> Draft {
    Draft::new(kind, "daemon").agent(&row.agent).data(json!({
        "channel": row.id, "receiver": row.config.receiver, "host": row.host,
        "charged": row.charged, "claimed": row.chain.claimed, "balance": row.chain.balance,
        "returned": row.returned,
    }))
}

/// Keeps what the chain says. `None`: the row changed meanwhile; it is looked at again.
async fn note(
    inner: &Inner,
    row: PurseRow,
    chain: OnChain,
) -> Result<Option<PurseRow>, EngineError> {
    let now_ms = inner.clock.now_ms();
    let mut tx = inner.begin_as_keeper().await?;
    let Some(mut row) = tx.purse(row.id).await? else { return Ok(None) };
    // A deposit that a call saw in a later block.
    if chain.read_ms < row.chain.read_ms {
        return Ok(None);
    }
    let (read, mut drafts) = (row.version, Vec::new());
    let more = row.seen(chain);
    if !more.is_zero()
        && !tally::charge_earlier(inner, &mut tx, &row, None, more, &mut drafts).await?
    {
        // Signed for a call that was not charged when it ended: the seller took it all the same.
        row.state = PurseState::Closing;
        tx.add_bought(&row.agent, &row.host, now_ms, more.as_i64()).await?;
        let draft = story(EventKind::X402Overcharged, &row).and("more", json!(more));
        drafts.push(draft.and("note", json!("claimed and not charged: the channel is closed")));
    }
    let is_over = row.state == PurseState::Closing
        && chain.withdraw_since_s.is_none()
        && chain.balance == chain.claimed
        && !inner.store.is_funding(row.id).await?;
    if is_over {
        row.state = PurseState::Closed;
        row.held = None;
        for open in tx.purchases_in_doubt(row.id).await? {
            tally::end(inner, &mut tx, open, None, &mut drafts).await?;
        }
        drafts.push(story(EventKind::PurseClosed, &row));
    }
    if !tx.put_purse(&row, read).await? {
        return Ok(None);
    }
    tx.append_audit(&drafts, now_ms).await?;
    tx.commit().await?;
    if is_over {
        info!(channel = %row.id, returned = %row.returned, "a channel's money is back");
    }
    Ok(Some(row))
}

/// Sends the step that is due of a channel that is being closed.
async fn step(inner: &Inner, row: &PurseRow) -> Result<(), EngineError> {
    if row.state != PurseState::Closing {
        return Ok(());
    }
    let calldata = match row.home_s() {
        Some(from_s) => {
            if inner.head_time_s() <= from_s {
                return Ok(());
            }
            let channel = row.config.into();
            Bytes::from(IChannelPayer::finishChannelCall { channel }.abi_encode())
        }
        None if row.chain.balance == row.chain.claimed => return Ok(()),
        None => {
            let deadline = U256::from(inner.now_s().saturating_add(CLOSING_S));
            let message = ChannelClosing { channelId: row.id, deadline };
            let digest = contract::digest(&message, &inner.domain);
            let signer = inner.keys.agent(row.key_index)?;
            let (r, vs) = inner.compact(&signer.sign_hash_sync(&digest)?);
            let channel = row.config.into();
            IChannelPayer::closeChannelCall { channel, deadline, r, vs }.abi_encode().into()
        }
    };
    let target = inner.config.chain.wallet;
    let tried = inner.rpc.eth_call(target, None, &calldata, inner.newest()).await;
    if let Err(RpcError::Refused { message, .. }) = &tried {
        warn!(channel = %row.id, message, "a channel's step would be refused; trying again");
        return Ok(());
    }
    tried?;
    let manifest = Manifest::Closing { channel: row.id };
    let call = Outgoing { kind: TxKind::Closing, target, calldata, gas: GAS, manifest };
    let mut store = inner.begin_as_keeper().await?;
    let open = match relay(inner, &mut store, call).await {
        Ok(open) => open,
        Err(Refusal { detail, .. }) => {
            warn!(detail, "a channel cannot be closed now; trying again");
            return Ok(());
        }
    };
    store.commit().await?;
    inner.launch(open);
    Ok(())
}

/// Closes a channel on an operator's word. What it bought stays bought; what is left comes back after its
/// delay.
///
/// # Errors
/// `not_found`; `conflict` while a deposit is on its way into it.
pub(crate) async fn close(inner: &Inner, id: B256, operator: Address) -> Result<PurseRow, Refusal> {
    let missing = || {
        Refusal::new(Code::NotFound, format!("the wallet pays through no channel {id}"))
            .hint("only its own can be closed: `bursar channels` lists them as own channels")
    };
    let mut tx = inner.store.begin().await?;
    let mut row = tx.purse(id).await?.ok_or_else(missing)?;
    if row.state != PurseState::Open {
        return Ok(row);
    }
    if inner.store.is_funding(id).await? {
        return Err(Refusal::new(Code::Conflict, "a deposit into the channel is on its way")
            .retry_after(5)
            .hint("close it again once the deposit is final"));
    }
    let read = row.version;
    row.version += 1;
    row.state = PurseState::Closing;
    if !tx.put_purse(&row, read).await? {
        return Err(Refusal::new(Code::Unavailable, "the channel was changed at the same time")
            .retry_after(1));
    }
    let mut draft = story(EventKind::PurseClosing, &row).and("why", json!("an operator closed it"));
    draft.actor = format!("operator:{operator}");
    tx.append_audit(&[draft], inner.clock.now_ms()).await?;
    tx.commit().await?;
    Ok(row)
}
