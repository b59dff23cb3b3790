//! Claiming: what channels owe us becomes money, many channels in one transaction.
//!
//! A group (one receiver, one authorizer, one token) is claimed when it owes enough to be worth the
//! gas, when something in it was owed for long, or when a payer asked to withdraw: from then on the
//! delay runs, and only what is claimed is safe. Rows are packed; the contract passes over a bad one,
//! so that no channel can hold up the others.

use std::collections::{BTreeMap, BTreeSet};

use alloy::{
    primitives::{Address, B256, Bytes, Signature},
    signers::SignerSync as _,
    sol_types::SolCall as _,
};
use serde_json::json;
use tracing::warn;

use super::{meter::MeterRow, on_chain, payee::Meters, voucher};
use crate::{
    audit::{Draft, EventKind},
    contract::hub::{Entry, IChannelHub, ROW_BYTES, pack_row},
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
/// Milliseconds after which an owing channel is looked at on chain again.
const WATCH_MS: i64 = 30_000;
/// Channels looked at on chain in one look.
const WATCHED: usize = 100;
/// Gas of a claim beside its rows, the payout in it.
const GAS_CLAIM: u64 = 160_000;
/// Gas of a row: twice of what it takes.
const GAS_ROW: u64 = 32_000;

/// Who is paid, who may claim, in which token: what the rows of one packed claim share.
type Group = (Address, Address, Address);

/// Looks at what is owed; claims what is due, and everything where `now` says so.
pub(crate) async fn look(inner: &Inner, now: bool) -> Result<Vec<OpenTx>, EngineError> {
    let Some(meters) = inner.meters.as_ref().filter(|_| inner.is_keeper()) else {
        return Ok(Vec::new());
    };
    let mut owing = inner.store.meters_owing(LOOKED).await?;
    watch(inner, meters, &mut owing, now).await?;
    let under_way = under_way(inner)?;
    let mut groups: BTreeMap<Group, Vec<MeterRow>> = BTreeMap::new();
    for row in owing {
        if !row.owed().is_zero() && !under_way.contains(&row.id) {
            let config = &row.config;
            let group = (config.receiver, config.receiver_authorizer, config.token);
            groups.entry(group).or_default().push(row);
        }
    }
    let mut sent = Vec::new();
    for (group, rows) in groups {
        if !(now || is_due(inner, &rows)) {
            continue;
        }
        for rows in rows.chunks(CLAIM_LIMIT) {
            sent.extend(claim(inner, meters, group, rows).await?);
        }
    }
    Ok(sent)
}

/// Reads those again that were not read for a while, or all that are to be claimed now.
async fn watch(
    inner: &Inner,
    meters: &Meters,
    owing: &mut Vec<MeterRow>,
    now: bool,
) -> Result<(), EngineError> {
    let before_ms = inner.clock.now_ms().saturating_sub(if now { 0 } else { WATCH_MS });
    let mut stale: Vec<usize> =
        (0..owing.len()).filter(|index| owing[*index].chain.read_ms <= before_ms).collect();
    stale.sort_by_key(|index| owing[*index].chain.read_ms);
    stale.truncate(WATCHED);
    if stale.is_empty() {
        return Ok(());
    }
    let ids: Vec<B256> = stale.iter().map(|index| owing[*index].id).collect();
    let found = on_chain::read(inner, meters.hub().address(), &ids).await?;
    for (index, chain) in stale.into_iter().zip(found) {
        match meters.note(&owing[index], chain).await {
            Ok(Some(row)) => owing[index] = row,
            // A request holds it: its voucher is in the store, and the chain is looked at next time.
            Ok(None) => {}
            Err(Refusal { detail, .. }) => warn!(detail, "a channel's state could not be kept"),
        }
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

/// Claims one group's rows in one transaction, on the authorizer's signature, and has them paid out.
async fn claim(
    inner: &Inner,
    meters: &Meters,
    (receiver, authorizer, token): Group,
    rows: &[MeterRow],
) -> Result<Option<OpenTx>, EngineError> {
    let Ok(signer) = inner.relayer(authorizer) else {
        warn!(%authorizer, "channels of an authorizer that is no key of ours cannot be claimed");
        return Ok(None);
    };
    let packed = pack(meters, rows);
    if packed.entries.is_empty() {
        return Ok(None);
    }
    let digest = meters.hub().claim_batch_digest(&packed.entries);
    let claimed = IChannelHub::claimPackedWithSignatureCall {
        receiver,
        receiverAuthorizer: authorizer,
        token,
        rows: packed.bytes.into(),
        authorizerSignature: signer.sign_hash_sync(&digest)?.as_bytes().into(),
    };
    let settled = IChannelHub::settleCall { receiver, token };
    let claimed = Bytes::from(claimed.abi_encode());
    let both =
        IChannelHub::multicallCall { data: vec![claimed.clone(), settled.abi_encode().into()] };
    // A receiver whom the token refuses still gets its claims secured.
    let mut calldata = Bytes::from(both.abi_encode());
    if let Err(RpcError::Refused { message, .. }) =
        inner.rpc.eth_call(meters.hub().address(), None, &calldata, inner.newest()).await
    {
        warn!(%receiver, message, "channels are claimed and not paid out: the payout would fail");
        calldata = claimed;
    }
    let call = Outgoing {
        kind: TxKind::Claim,
        target: meters.hub().address(),
        calldata,
        gas: GAS_CLAIM + GAS_ROW * packed.entries.len() as u64,
        manifest: Manifest::Claim {
            channels: packed.entries.iter().map(|entry| entry.channel_id).collect(),
        },
    };
    let owed = rows.iter().fold(Usdc::ZERO, |sum, row| sum.saturating_add(row.owed()));
    let mut store = inner.begin_as_keeper().await?;
    let open = match relay(inner, &mut store, call).await {
        Ok(open) => open,
        Err(Refusal { detail, .. }) => {
            warn!(detail, "channels cannot be claimed now; trying again");
            return Ok(None);
        }
    };
    let draft = Draft::new(EventKind::ChannelsClaimed, "daemon").tx(&open.tx.id).data(json!({
        "receiver": receiver, "channels": packed.entries.len(), "amount": owed,
    }));
    store.append_audit(&[draft], inner.clock.now_ms()).await?;
    store.commit().await?;
    inner.launch(open.clone());
    Ok(Some(open))
}

/// Rows as the contract takes them, and as they are signed.
struct Packed {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

/// Packs rows; a voucher that no contract could read is left out, and told.
fn pack(meters: &Meters, rows: &[MeterRow]) -> Packed {
    let mut packed =
        Packed { bytes: Vec::with_capacity(rows.len() * ROW_BYTES), entries: Vec::new() };
    for row in rows {
        let entry = Entry {
            channel_id: row.id,
            max: row.ceiling.units().into(),
            total: row.charged.units().into(),
        };
        let digest = meters.hub().voucher_digest(row.id, entry.max);
        let whole = voucher::whole(digest, &row.signature, row.config.payer_authorizer);
        let signature = whole.ok().and_then(|whole| Signature::from_raw_array(&whole).ok());
        let bytes = signature.and_then(|signature| {
            pack_row(&row.config.into(), entry.max, entry.total, &signature).ok()
        });
        match bytes {
            Some(bytes) => {
                packed.bytes.extend_from_slice(&bytes);
                packed.entries.push(entry);
            }
            None => warn!(channel = %row.id, "a stored voucher's signature is not its payer's"),
        }
    }
    packed
}
