//! Fate: what became of something an agent signed, by its nonce in the wallet.
//!
//! A signature that left is public: until its deadline anybody can relay it. So a transaction of
//! ours that did not use the nonce proves nothing; only the chain's word on the *nonce* does. It
//! was used, and the wallet's logs say for what; or a final block is past the deadline and it was
//! not, and the signature is dead. In between it is live, and its payments wait.

use alloy::{
    primitives::{Address, B256, U256},
    rpc::types::TransactionReceipt,
    sol_types::SolCall as _,
};
use serde_json::json;
use tracing::info;

use super::outcome::{self, BatchLogs};
use crate::{
    contract::IPolicyWallet,
    engine::{EngineError, Inner},
    rpc::{Head, LOG_SPAN, RpcError},
    store::PaymentRow,
};

/// What a payment was to fund, by its id on chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Funded {
    /// By `openEscrow`.
    Escrow(B256),
    /// By `fundChannel`.
    Channel(B256),
}

impl Funded {
    /// What a payment's row says.
    pub(super) fn of(payment: &PaymentRow) -> Option<Self> {
        payment.escrow.map(Self::Escrow).or(payment.channel.map(Self::Channel))
    }

    const fn id(self) -> B256 {
        match self {
            Self::Escrow(id) | Self::Channel(id) => id,
        }
    }
}

/// Something an agent signed that has left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signed {
    pub agent: Address,
    pub nonce: U256,
    /// Unix seconds, inclusive.
    pub deadline_s: u64,
    /// The context that was signed.
    pub context: B256,
    /// A block from before it left.
    pub since: u64,
    /// By `payApproved`, `openEscrow` or `fundChannel`, not `payBatch`.
    pub approved: bool,
    /// What it was to fund.
    pub funded: Option<Funded>,
}

/// Where a payment was really paid: our transaction, or another that carried the same signature.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub hash: B256,
    pub block: u64,
    pub time_s: u64,
}

/// What became of it.
#[derive(Clone, Debug)]
pub(super) enum Fate {
    /// It ran, there.
    Ran(BatchLogs, Place),
    /// An operator voided its nonce: nothing was paid.
    Voided,
    /// Its deadline has passed at a final block, unused: nothing was paid.
    Dead,
    /// It can still run.
    Live,
}

/// Finds out what became of `signed`, whose transaction is final at `here`, with `receipt` if it
/// was ours. `last` is the newest final block.
///
/// # Errors
/// The node has no usable answer, or contradicts itself: nothing is known, ask again.
pub(super) async fn of(
    inner: &Inner,
    signed: &Signed,
    receipt: Option<&TransactionReceipt>,
    here: Place,
    last: &Head,
) -> Result<Fate, EngineError> {
    if let Some(receipt) = receipt
        && let Some(logs) = ran(inner, signed, receipt)?
    {
        return Ok(Fate::Ran(logs, here));
    }
    let call = IPolicyWallet::nonceUsedCall { agent: signed.agent, nonce: signed.nonce };
    let answer = inner
        .rpc
        .eth_call(inner.config.chain.wallet, None, &call.abi_encode().into(), last.into())
        .await?;
    if IPolicyWallet::nonceUsedCall::abi_decode_returns_validate(&answer)? {
        return elsewhere(inner, signed, last).await;
    }
    Ok(if last.time_s() > signed.deadline_s { Fate::Dead } else { Fate::Live })
}

/// Reads whether `signed` ran in a transaction, and holds what ran against what was signed.
fn ran(
    inner: &Inner,
    signed: &Signed,
    receipt: &TransactionReceipt,
) -> Result<Option<BatchLogs>, EngineError> {
    let (wallet, logs) = (inner.config.chain.wallet, receipt.inner.logs());
    let found = if signed.approved {
        outcome::approved(wallet, logs, signed)
            .map(|context| BatchLogs { ran: Some((1, context)), ..BatchLogs::default() })
    } else {
        outcome::batches(wallet, logs).remove(&(signed.agent, signed.nonce))
    };
    match found {
        Some(logs) => match logs.ran {
            Some((_, context)) if context == signed.context => Ok(Some(logs)),
            Some(_) => Err(EngineError::Encode(format!(
                "nonce {} of {} paid for something else: was this store restored from a backup?",
                signed.nonce, signed.agent
            ))),
            None => Ok(None),
        },
        None => Ok(None),
    }
}

/// Follows a nonce that another transaction spent to that transaction's logs, newest blocks first.
async fn elsewhere(inner: &Inner, signed: &Signed, last: &Head) -> Result<Fate, EngineError> {
    let wallet = inner.config.chain.wallet;
    let mut to = last.height();
    loop {
        let from = to.saturating_sub(LOG_SPAN - 1).max(signed.since);
        let agent = signed.agent.into_word();
        let of = |topics: Vec<B256>, third: B256| async move {
            let topics = json!([topics, agent, third]);
            inner.rpc.logs_by(wallet, (from, to), topics, last).await
        };
        let mut logs = of(outcome::nonce_topics().to_vec(), B256::from(signed.nonce)).await?;
        if let Some(funded) = signed.funded {
            let mut more = of(vec![outcome::funded_topic(funded)], funded.id()).await?;
            // A channel is funded many times: only one log carries this context.
            more.retain(|log| outcome::approved(wallet, [log], signed) == Some(signed.context));
            logs.append(&mut more);
        }
        if let Some(log) = logs.first() {
            if outcome::is_voided(log) {
                return Ok(Fate::Voided);
            }
            let (Some(hash), Some(number)) = (log.transaction_hash, log.block_number) else {
                return Err(hidden("a log without its transaction"));
            };
            let receipt = inner.rpc.receipts(last, &[hash]).await?.into_iter().flatten().next();
            let head = inner.rpc.heads_under(last, &[number]).await?.into_iter().flatten().next();
            let (Some(receipt), Some(head)) = (receipt, head) else {
                return Err(hidden("the transaction of a log is not there"));
            };
            if receipt.block_hash != Some(head.hash) || number > last.height() {
                return Err(hidden("the transaction of a log is not on this chain"));
            }
            let Some(logs) = ran(inner, signed, &receipt)? else {
                return Err(hidden("a log is not in its transaction's receipt"));
            };
            info!(agent = %signed.agent, %hash, "a signed batch was relayed by somebody else");
            return Ok(Fate::Ran(logs, Place { hash, block: number, time_s: head.time_s() }));
        }
        if from <= signed.since {
            return Err(hidden("the nonce is used, but no log says for what"));
        }
        to = from - 1;
    }
}

fn hidden(why: &str) -> EngineError {
    RpcError::Unknown { method: "eth_getLogs", why: why.into() }.into()
}
