//! The wallet's own channels: what went in, by the books; what was claimed of it and what is still
//! there, by the hub.

use alloy::{
    primitives::{Address, B256, Bytes},
    sol_types::SolCall as _,
};
use serde::Serialize;
use serde_json::json;

use super::ReconcileError;
use crate::{
    config::ChainConfig,
    contract::hub::{IChannelHub, IChannelPayer},
    money::Usdc,
    rpc::{At, Rpc},
    store::Store,
};

/// One channel that the wallet funded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChannelLine {
    /// Its id.
    pub id: B256,
    /// The payee.
    pub payee: Address,
    /// What payments put in, by the books; counted as paid to the payee when it went in.
    pub funded: Usdc,
    /// What the payee has claimed of it, by the hub.
    pub claimed: Usdc,
    /// What the hub holds of it. What is neither claimed nor held came back.
    pub held: Usdc,
}

/// Reads the channels that payments have funded, as they are at a block.
pub(super) async fn read(
    config: &ChainConfig,
    rpc: &Rpc,
    store: &Store,
    at: At,
) -> Result<Vec<ChannelLine>, ReconcileError> {
    let funded = store.channel_fundings().await?;
    if funded.is_empty() {
        return Ok(Vec::new());
    }
    let call = Bytes::from(IChannelPayer::HUBCall {}.abi_encode());
    let hub = rpc.eth_call(config.wallet, None, &call, at).await?;
    let nonsense = |_| ReconcileError::Nonsense("an answer about a channel that is none");
    let hub = IChannelPayer::HUBCall::abi_decode_returns(&hub).map_err(nonsense)?;
    let calls = funded.iter().map(|one| {
        let call = IChannelHub::channelsCall { channelId: one.id };
        json!({ "to": hub, "data": Bytes::from(call.abi_encode()) })
    });
    let states = rpc.eth_calls(calls.collect(), at).await?;
    let usdc = |units: u128| {
        let units = u64::try_from(units).ok().and_then(Usdc::from_units);
        units.ok_or(ReconcileError::Nonsense("an amount above all USDC"))
    };
    funded
        .into_iter()
        .zip(states)
        .map(|(line, state)| {
            let state = IChannelHub::channelsCall::abi_decode_returns(&state).map_err(nonsense)?;
            let held = usdc(state.balance.saturating_sub(state.totalClaimed))?;
            Ok(ChannelLine { claimed: usdc(state.totalClaimed)?, held, ..line })
        })
        .collect()
}
