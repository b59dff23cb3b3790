//! Claiming: what channels owe us becomes money, many channels in one transaction.
//!
//! A group (one receiver, one authorizer, one token) is claimed when it owes enough to be worth the
//! gas, when something in it was owed for long, or when a payer asked to withdraw: from then on the
//! delay runs, and only what is claimed is safe. Rows are packed; ChannelHub passes over a bad one, so
//! that no channel can hold up the others. x402's own contract knows plain rows only, which revert
//! together: there, what does not go through is tried by halves. Nothing is sent that a node says would
//! move nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use alloy::{
    primitives::{Address, B256, Bytes, Signature},
    signers::SignerSync as _,
    sol_types::{SolCall as _, SolValue as _},
};
use serde_json::{Value, json};
use tracing::warn;

use super::{
    meter::MeterRow,
    on_chain,
    payee::{Meters, NotTaken},
    voucher,
};
use crate::{
    audit::{Draft, EventKind},
    contract::hub::{self, Entry, IChannelHub, ROW_BYTES, pack_row},
    crash::{self, Point},
    engine::{EngineError, Inner},
    money::Usdc,
    refusal::Refusal,
    rpc::RpcError,
    store::{OpenTx, TxKind},
    submit::{Manifest, Outgoing, relay},
    x402::batch::CLAIM_LIMIT,
};

/// Owing channels in one look.
const LOOKED: u32 = 2_000;
/// Channels looked at on chain in one look.
const WATCHED: usize = 100;
/// Milliseconds between two claims of one group, and two looks for what is claimed and not paid out.
const PAUSE_MS: i64 = 60_000;
/// Gas of a claim beside its rows, the payout in it.
const GAS_CLAIM: u64 = 160_000;
/// Gas of a packed row: twice of what it takes.
const GAS_PACKED: u64 = 32_000;
/// Gas of a plain row.
const GAS_PLAIN: u64 = 60_000;

/// Who is paid, who may claim, in which token: what the rows of one claim share.
type Group = (Address, Address, Address);

/// When groups were claimed last, and payouts looked for, milliseconds.
#[derive(Debug, Default)]
pub(super) struct Tried(Mutex<BTreeMap<Option<Group>, i64>>);

impl Tried {
    /// Is it time again? Notes that it was done now.
    fn again(&self, group: Option<Group>, now_ms: i64) -> bool {
        let mut tried = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = tried.get(&group);
        let is_time = last.is_none_or(|last| now_ms.saturating_sub(*last) >= PAUSE_MS);
        if is_time {
            tried.retain(|_, at| now_ms.saturating_sub(*at) < PAUSE_MS);
            tried.insert(group, now_ms);
        }
        is_time
    }
}

/// Channels whose claim was on its way when they were looked at last.
#[derive(Debug, Default)]
pub(super) struct Claiming(Mutex<BTreeSet<B256>>);

impl Claiming {
    /// Notes whose claim is on its way now, and returns those whose is no longer.
    fn landed(&self, under_way: &BTreeSet<B256>) -> BTreeSet<B256> {
        let mut before = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let landed = before.difference(under_way).copied().collect();
        before.clone_from(under_way);
        landed
    }

    fn add(&self, ids: impl IntoIterator<Item = B256>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
    }
}

/// Looks at what is owed; claims what is due, and everything where `now` says so.
///
/// # Errors
/// [`EngineError`]; what was sent before it is on its way.
pub(crate) async fn look(inner: &Inner, now: bool) -> Result<Vec<OpenTx>, EngineError> {
    let Some(meters) = inner.meters.as_ref().filter(|_| inner.is_keeper()) else {
        return Ok(Vec::new());
    };
    let now_ms = inner.clock.now_ms();
    let mut owing = inner.store.meters_owing(LOOKED).await?;
    let under_way = under_way(inner)?;
    watch(inner, meters, &mut owing, &meters.claiming.landed(&under_way)).await?;
    let mut groups: BTreeMap<Group, Vec<MeterRow>> = BTreeMap::new();
    for row in owing {
        if !row.owed().is_zero() && !under_way.contains(&row.id) {
            let config = &row.config;
            let group = (config.receiver, config.receiver_authorizer, config.token);
            groups.entry(group).or_default().push(row);
        }
    }
    let mut sent = Vec::new();
    for (group, mut rows) in groups {
        if !(now || is_due(inner, &rows) && meters.tried.again(Some(group), now_ms)) {
            continue;
        }
        for rows in rows.chunks_mut(CLAIM_LIMIT) {
            // What was claimed since it was read would be claimed again, for nothing.
            read_again(inner, meters, rows.iter_mut().collect()).await?;
            let owing: Vec<&MeterRow> = rows.iter().filter(|row| !row.owed().is_zero()).collect();
            let claims = claim(inner, meters, group, &owing).await?;
            if !claims.is_empty() {
                meters.claiming.add(owing.iter().map(|row| row.id));
            }
            sent.extend(claims);
        }
    }
    if under_way.is_empty() && sent.is_empty() && meters.tried.again(None, now_ms) {
        pay_out(inner, meters).await?;
    }
    Ok(sent)
}

/// Reads those again that were not read for a while, or whose claim has landed since.
async fn watch(
    inner: &Inner,
    meters: &Meters,
    owing: &mut [MeterRow],
    landed: &BTreeSet<B256>,
) -> Result<(), EngineError> {
    let watch_ms = inner.config.channels.watch_s.cast_signed().saturating_mul(1_000);
    let before_ms = inner.clock.now_ms().saturating_sub(watch_ms);
    let mut stale: Vec<&mut MeterRow> = owing
        .iter_mut()
        .filter(|row| row.chain.read_ms <= before_ms || landed.contains(&row.id))
        .collect();
    stale.sort_by_key(|row| row.chain.read_ms);
    stale.truncate(WATCHED);
    read_again(inner, meters, stale).await
}

async fn read_again(
    inner: &Inner,
    meters: &Meters,
    rows: Vec<&mut MeterRow>,
) -> Result<(), EngineError> {
    let ids: Vec<B256> = rows.iter().map(|row| row.id).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let found = on_chain::read(inner, meters.hub().address(), &ids).await?;
    let mut drafts = Vec::new();
    for (row, chain) in rows.into_iter().zip(found) {
        let had_lost = row.lost();
        match meters.note(inner, row, chain).await {
            Ok(Some(noted)) => *row = noted,
            // A request holds it: its voucher is in the store, and it is told at its next look.
            Ok(None) | Err(NotTaken::Busy | NotTaken::Unfunded | NotTaken::Rejected(..)) => {
                row.chain = chain;
            }
            Err(NotTaken::Unavailable(Refusal { detail, .. })) => {
                row.chain = chain;
                warn!(detail, "a channel's state could not be kept");
            }
        }
        let lost = row.lost().saturating_sub(had_lost);
        if !lost.is_zero() {
            warn!(channel = %row.id, %lost, "a payer has withdrawn what was charged and not claimed");
            inner.metrics.voucher_units_lost.inc_by(lost.units());
            drafts.push(Draft::new(EventKind::ChannelChargeLost, "chain").data(json!({
                "channel": row.id, "payer": row.config.payer, "receiver": row.config.receiver,
                "amount": lost,
            })));
        }
    }
    if !drafts.is_empty() {
        let mut store = inner.begin_as_keeper().await?;
        store.append_audit(&drafts, inner.clock.now_ms()).await?;
        store.commit().await?;
    }
    Ok(())
}

fn is_due(inner: &Inner, rows: &[MeterRow]) -> bool {
    let config = &inner.config.channels;
    let age_ms = i64::try_from(config.claim_after_s.saturating_mul(1_000)).unwrap_or(i64::MAX);
    let now_ms = inner.clock.now_ms();
    let owed = rows.iter().fold(Usdc::ZERO, |sum, row| sum.saturating_add(row.owed()));
    owed >= config.claim_at
        || rows.iter().any(|row| {
            row.chain.withdraw_since_s.is_some()
                || row.owed_since_ms.is_some_and(|since| now_ms.saturating_sub(since) >= age_ms)
        })
}

/// Channels whose claim is on its way.
fn under_way(inner: &Inner) -> Result<BTreeSet<B256>, EngineError> {
    let mut found = BTreeSet::new();
    for flight in inner.flights.all() {
        if flight.open.tx.kind == TxKind::Claim
            && let Ok(Manifest::Claim { channels }) = serde_json::from_str(&flight.open.tx.manifest)
        {
            found.extend(channels);
        }
    }
    Ok(found)
}

/// Claims one group's rows on the authorizer's signature, and has them paid out: in one transaction if
/// they go through together, else by halves.
async fn claim(
    inner: &Inner,
    meters: &Meters,
    (receiver, authorizer, token): Group,
    rows: &[&MeterRow],
) -> Result<Vec<OpenTx>, EngineError> {
    let Ok(signer) = inner.relayer(authorizer) else {
        warn!(%authorizer, "channels of an authorizer that is no key of ours cannot be claimed");
        return Ok(Vec::new());
    };
    let mut sent = Vec::new();
    let mut parts = vec![signed(meters, rows)];
    while let Some(rows) = parts.pop() {
        if rows.is_empty() {
            continue;
        }
        let entries: Vec<Entry> = rows.iter().map(|row| row.entry).collect();
        let signature = signer.sign_hash_sync(&meters.hub().claim_batch_digest(&entries))?;
        let signature = Bytes::from(signature.as_bytes());
        let settle = Bytes::from(IChannelHub::settleCall { receiver, token }.abi_encode());
        let ways = [
            (packed(&rows, (receiver, authorizer, token), &signature), GAS_PACKED),
            (plain(&rows, &signature), GAS_PLAIN),
        ];
        let mut found = None;
        for (claims, gas_row) in ways {
            // A receiver whom the token refuses still gets its claims secured.
            for calls in [vec![claims.clone(), settle.clone()], vec![claims]] {
                if found.is_none()
                    && let Some(calldata) = tried(inner, meters, calls, &rows).await?
                {
                    found = Some((calldata, gas_row));
                }
            }
        }
        if let Some((calldata, gas_row)) = found {
            let gas = GAS_CLAIM + gas_row * rows.len() as u64;
            sent.extend(send(inner, meters, (receiver, calldata, gas), &rows).await?);
        } else if rows.len() > 1 {
            let mut first = rows;
            let second = first.split_off(first.len() / 2);
            parts.extend([first, second]);
        } else {
            let channel = rows.first().map(|row| row.entry.channel_id).unwrap_or_default();
            warn!(%channel, "a claim would not go through now; it is tried again");
        }
    }
    Ok(sent)
}

/// Asks a node whether calls of the hub would go through together, and claim anything.
async fn tried(
    inner: &Inner,
    meters: &Meters,
    calls: Vec<Bytes>,
    rows: &[Row<'_>],
) -> Result<Option<Bytes>, EngineError> {
    let calldata = Bytes::from(IChannelHub::multicallCall { data: calls }.abi_encode());
    match inner.rpc.eth_call(meters.hub().address(), None, &calldata, inner.newest()).await {
        Ok(answer) => {
            let answers = IChannelHub::multicallCall::abi_decode_returns(&answer)?;
            // A packed claim says how much it claims; what somebody else has claimed meanwhile is none.
            let claims_nothing = answers.first().is_some_and(|first| {
                alloy::primitives::U256::abi_decode(first).is_ok_and(|claimed| claimed.is_zero())
            });
            Ok((!claims_nothing && !rows.is_empty()).then_some(calldata))
        }
        Err(RpcError::Refused { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn send(
    inner: &Inner,
    meters: &Meters,
    (receiver, calldata, gas): (Address, Bytes, u64),
    rows: &[Row<'_>],
) -> Result<Option<OpenTx>, EngineError> {
    let owed = rows.iter().fold(Usdc::ZERO, |sum, row| sum.saturating_add(row.meter.owed()));
    let call = Outgoing {
        kind: TxKind::Claim,
        target: meters.hub().address(),
        calldata,
        gas,
        manifest: Manifest::Claim {
            channels: rows.iter().map(|row| row.entry.channel_id).collect(),
        },
    };
    let story = json!({ "receiver": receiver, "channels": rows.len(), "amount": owed });
    relayed(inner, call, story).await
}

async fn relayed(
    inner: &Inner,
    call: Outgoing,
    story: Value,
) -> Result<Option<OpenTx>, EngineError> {
    let mut store = inner.begin_as_keeper().await?;
    let open = match relay(inner, &mut store, call).await {
        Ok(open) => open,
        Err(Refusal { detail, .. }) => {
            warn!(detail, "channels cannot be claimed now; trying again");
            return Ok(None);
        }
    };
    let draft = Draft::new(EventKind::ChannelsClaimed, "daemon").tx(&open.tx.id).data(story);
    store.append_audit(&[draft], inner.clock.now_ms()).await?;
    store.commit().await?;
    crash::at(Point::ClaimCommitted);
    inner.launch(open.clone());
    Ok(Some(open))
}

/// Has paid out what was claimed and was not: by a refund, or while the token refused the receiver.
async fn pay_out(inner: &Inner, meters: &Meters) -> Result<(), EngineError> {
    let hub = meters.hub().address();
    let token = inner.config.chain.usdc;
    let receivers = inner.store.receivers().await?;
    for receivers in receivers.chunks(CLAIM_LIMIT) {
        let asks = receivers.iter().map(|receiver| {
            let ask = IChannelHub::receiversCall { receiver: *receiver, token }.abi_encode();
            json!({ "to": hub, "data": Bytes::from(ask) })
        });
        let answers = inner.rpc.eth_calls(asks.collect(), inner.newest()).await?;
        for (receiver, answer) in receivers.iter().zip(answers) {
            let totals = IChannelHub::receiversCall::abi_decode_returns(&answer)?;
            let owed = totals.totalClaimed.saturating_sub(totals.totalSettled);
            if owed == 0 {
                continue;
            }
            let settle = IChannelHub::settleCall { receiver: *receiver, token };
            let calldata = Bytes::from(settle.abi_encode());
            match inner.rpc.eth_call(hub, None, &calldata, inner.newest()).await {
                Ok(_) => {}
                Err(RpcError::Refused { message, .. }) => {
                    warn!(%receiver, message, "what was claimed cannot be paid out now");
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            let manifest = Manifest::Claim { channels: Vec::new() };
            let (kind, target, gas) = (TxKind::Claim, hub, GAS_CLAIM);
            let call = Outgoing { kind, target, calldata, gas, manifest };
            let story =
                json!({ "receiver": receiver, "channels": 0, "paid_out_units": owed.to_string() });
            relayed(inner, call, story).await?;
        }
    }
    Ok(())
}

/// A row of a claim.
struct Row<'a> {
    meter: &'a MeterRow,
    entry: Entry,
    signature: [u8; voucher::SIGNATURE],
}

/// Rows as they are signed; a voucher that no contract could read is left out, and told.
fn signed<'a>(meters: &Meters, rows: &[&'a MeterRow]) -> Vec<Row<'a>> {
    let mut found = Vec::with_capacity(rows.len());
    for meter in rows {
        let entry = Entry {
            channel_id: meter.id,
            max: meter.ceiling.units().into(),
            total: meter.claimable().units().into(),
        };
        match whole(meters, meter) {
            Some(signature) => found.push(Row { meter, entry, signature }),
            None => warn!(channel = %meter.id, "a stored voucher's signature is not its payer's"),
        }
    }
    found
}

/// The voucher that is held, as a contract reads it.
pub(crate) fn whole(meters: &Meters, row: &MeterRow) -> Option<[u8; voucher::SIGNATURE]> {
    let digest = meters.hub().voucher_digest(row.id, row.ceiling.units().into());
    voucher::whole(digest, &row.signature, row.config.payer_authorizer).ok()
}

/// ChannelHub's claim of packed rows.
fn packed(rows: &[Row<'_>], (receiver, authorizer, token): Group, signature: &Bytes) -> Bytes {
    let mut bytes = Vec::with_capacity(rows.len() * ROW_BYTES);
    for Row { meter, entry, signature } in rows {
        let config = meter.config.into();
        let row = Signature::from_raw_array(signature)
            .ok()
            .and_then(|signature| pack_row(&config, entry.max, entry.total, &signature).ok());
        bytes.extend(row.into_iter().flatten());
    }
    IChannelHub::claimPackedWithSignatureCall {
        receiver,
        receiverAuthorizer: authorizer,
        token,
        rows: bytes.into(),
        authorizerSignature: signature.clone(),
    }
    .abi_encode()
    .into()
}

/// x402's claim of the same rows.
fn plain(rows: &[Row<'_>], signature: &Bytes) -> Bytes {
    let claims = rows.iter().map(|row| hub::VoucherClaim {
        voucher: hub::Voucher {
            channel: row.meter.config.into(),
            maxClaimableAmount: row.entry.max,
        },
        signature: row.signature.into(),
        totalClaimed: row.entry.total,
    });
    IChannelHub::claimWithSignatureCall {
        voucherClaims: claims.collect(),
        authorizerSignature: signature.clone(),
    }
    .abi_encode()
    .into()
}
