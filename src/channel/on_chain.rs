//! What the hub says of channels, at a final block.

use alloy::{
    primitives::{Address, B256},
    sol_types::SolCall as _,
};
use serde_json::{Value, json};

use super::meter::OnChain;
use crate::{
    contract::hub::IChannelHub,
    engine::{EngineError, Inner},
    money::Usdc,
    rpc::{At, RpcError},
    submit::confirm::last_final,
};

/// Channels in one question.
const AT_ONCE: usize = 50;

/// Reads channels at the newest final block, in the order of their ids.
///
/// # Errors
/// [`EngineError`] if no node answers for that block.
pub(crate) async fn read(
    inner: &Inner,
    hub: Address,
    ids: &[B256],
) -> Result<Vec<OnChain>, EngineError> {
    let head = inner.rpc.latest().await?;
    let last = last_final(inner, &head).await?.ok_or_else(|| nonsense("no final block yet"))?;
    let at = At::from(&last);
    let read_ms = inner.clock.now_ms();
    let mut found = Vec::with_capacity(ids.len());
    for part in ids.chunks(AT_ONCE) {
        let calls: Vec<Value> = part
            .iter()
            .flat_map(|id| {
                [
                    IChannelHub::channelsCall { channelId: *id }.abi_encode(),
                    IChannelHub::pendingWithdrawalsCall { channelId: *id }.abi_encode(),
                    IChannelHub::refundNonceCall { channelId: *id }.abi_encode(),
                ]
            })
            .map(|data| json!({ "to": hub, "data": alloy::primitives::Bytes::from(data) }))
            .collect();
        let answers = inner.rpc.eth_calls(calls, at).await?;
        for answer in answers.chunks_exact(3) {
            let channel = IChannelHub::channelsCall::abi_decode_returns(&answer[0])?;
            let leaving = IChannelHub::pendingWithdrawalsCall::abi_decode_returns(&answer[1])?;
            let nonce = IChannelHub::refundNonceCall::abi_decode_returns(&answer[2])?;
            let since = leaving.initiatedAt.to::<u64>();
            found.push(OnChain {
                balance: usdc(channel.balance)?,
                claimed: usdc(channel.totalClaimed)?,
                withdraw_since_s: (since != 0).then_some(since),
                refund_nonce: u64::try_from(nonce).map_err(|_| nonsense("a refund nonce"))?,
                read_ms,
                block: last.height(),
            });
        }
    }
    Ok(found)
}

fn usdc(units: u128) -> Result<Usdc, EngineError> {
    let units = u64::try_from(units).ok().and_then(Usdc::from_units);
    units.ok_or_else(|| nonsense("an amount above all USDC"))
}

fn nonsense(why: &str) -> EngineError {
    RpcError::Unknown { method: "eth_call", why: why.into() }.into()
}
