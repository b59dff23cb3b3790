//! The chain's side: what moved into and out of the wallet in a span of blocks.

use std::collections::HashMap;

use alloy::{
    primitives::{Address, B256, U256},
    rpc::types::Log,
    sol_types::{SolCall as _, SolEvent as _, SolEventInterface as _},
};
use serde_json::{Value, json};

use super::ReconcileError;
use crate::{
    config::ChainConfig,
    contract::{
        IPolicyWallet::{self, IPolicyWalletEvents as Events},
        IUsdc,
        escrow::IEscrowPayer,
        hub::IChannelPayer,
        token::IEip3009,
    },
    money::Usdc,
    rpc::{At, Head, Rpc},
};

/// One transfer out of the wallet that a payment has to explain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub transaction: B256,
    pub block: u64,
    pub payee: Address,
    pub amount: Usdc,
}

/// What the wallet logged in a transaction about whose signature it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ran {
    pub agent: Address,
    /// None for `pay`, whose event does not name it.
    pub nonce: Option<U256>,
}

/// What a span of blocks moved.
#[derive(Debug, Default)]
pub(crate) struct Moves {
    /// Transfers out, in the chain's order, without what operators withdrew.
    pub out: Vec<Outgoing>,
    /// Sum of the transfers in.
    pub came_in: U256,
    /// Sum of all transfers out.
    pub went_out: U256,
    /// Of these, what operators withdrew.
    pub withdrawn: U256,
    /// By transaction: on whose signatures the wallet paid.
    pub ran: HashMap<B256, Vec<Ran>>,
    /// By transaction: the nonces of purchases that the wallet paid there. USDC logs those of the
    /// wallet's authorizations (EIP-3009), the wallet those of what it was asked to pay (ERC-7710).
    pub used: HashMap<B256, Vec<B256>>,
}

const NOT_AN_EVENT: ReconcileError =
    ReconcileError::Nonsense("a log that is not the event asked for");
const NO_PLACE: ReconcileError = ReconcileError::Nonsense("a log without transaction or block");

impl Moves {
    /// Reads a span of blocks, both ends included, of the chain that ends in `top`.
    pub(crate) async fn read(
        config: &ChainConfig,
        rpc: &Rpc,
        span: (u64, u64),
        top: &Head,
    ) -> Result<Self, ReconcileError> {
        let wallet = config.wallet.into_word();
        let transfer = IUsdc::Transfer::SIGNATURE_HASH;
        let mut moves = Self::read_outgoing(config, rpc, span, top).await?;
        let topics = json!([transfer, Value::Null, wallet]);
        for log in &rpc.logs_by(config.usdc, span, topics, top).await? {
            moves.came_in += transfer_of(log)?.value;
        }
        Ok(moves)
    }

    /// Reads only what went out.
    pub(crate) async fn read_outgoing(
        config: &ChainConfig,
        rpc: &Rpc,
        span: (u64, u64),
        top: &Head,
    ) -> Result<Self, ReconcileError> {
        // Both name the wallet first.
        let kinds = [IUsdc::Transfer::SIGNATURE_HASH, IEip3009::AuthorizationUsed::SIGNATURE_HASH];
        let topics = json!([kinds, config.wallet.into_word()]);
        let mut transfers = rpc.logs_by(config.usdc, span, topics, top).await?;
        let mut moves = Self::default();
        let mut faults = false;
        transfers.retain(|log| {
            let Ok(event) = IEip3009::AuthorizationUsed::decode_log(&log.inner) else {
                return true;
            };
            match log.transaction_hash {
                Some(hash) => moves.used.entry(hash).or_default().push(event.data.nonce),
                None => faults = true,
            }
            false
        });
        if faults {
            return Err(NO_PLACE);
        }
        if transfers.is_empty() {
            return Ok(moves);
        }
        let topics = json!([[
            IPolicyWallet::Withdrawn::SIGNATURE_HASH,
            IPolicyWallet::Paid::SIGNATURE_HASH,
            IPolicyWallet::BatchPaid::SIGNATURE_HASH,
            IPolicyWallet::Approved::SIGNATURE_HASH,
            IEscrowPayer::EscrowOpened::SIGNATURE_HASH,
            IChannelPayer::ChannelFunded::SIGNATURE_HASH,
        ]]);
        let own = rpc.logs_by(config.wallet, span, topics, top).await?;
        // What the wallet itself says left by another door than a payment's: transaction, account,
        // amount. A door that is added is explained here.
        let mut other_doors: HashMap<(B256, Address, U256), u32> = HashMap::new();
        // What went into an escrow or a channel was paid to its payee, as the wallet's own log says:
        // transaction, amount; by whom it is held in between is their affair.
        let mut opened: HashMap<(B256, U256), Vec<Address>> = HashMap::new();
        for log in &own {
            let transaction = log.transaction_hash.ok_or(NO_PLACE)?;
            if let Some((amount, payee)) = opening_of(log) {
                opened.entry((transaction, amount)).or_default().push(payee);
                continue;
            }
            let ran = match Events::decode_log(&log.inner).map_err(|_| NOT_AN_EVENT)?.data {
                Events::Withdrawn(event) => {
                    moves.withdrawn += event.amount;
                    *other_doors.entry((transaction, event.to, event.amount)).or_default() += 1;
                    continue;
                }
                // What was redeemed by ERC-7710 is told by its context, which is its purchase's nonce.
                Events::Paid(event) => {
                    moves.used.entry(transaction).or_default().push(event.context);
                    Ran { agent: event.agent, nonce: None }
                }
                Events::BatchPaid(event) => Ran { agent: event.agent, nonce: Some(event.nonce) },
                Events::Approved(event) => Ran { agent: event.agent, nonce: Some(event.nonce) },
                _ => return Err(NOT_AN_EVENT),
            };
            moves.ran.entry(transaction).or_default().push(ran);
        }
        for log in &transfers {
            let transaction = log.transaction_hash.ok_or(NO_PLACE)?;
            let block = log.block_number.ok_or(NO_PLACE)?;
            let event = transfer_of(log)?;
            // Anybody can have USDC log a transfer of nothing from anybody's account.
            if event.value.is_zero() {
                continue;
            }
            moves.went_out += event.value;
            if let Some(left) = other_doors.get_mut(&(transaction, event.to, event.value))
                && *left > 0
            {
                *left -= 1;
                continue;
            }
            let amount = u64::try_from(event.value).ok().and_then(Usdc::from_units);
            let amount = amount.ok_or(ReconcileError::Nonsense("a transfer above all USDC"))?;
            let held_for = opened.get_mut(&(transaction, event.value)).and_then(Vec::pop);
            let payee = held_for.unwrap_or(event.to);
            moves.out.push(Outgoing { transaction, block, payee, amount });
        }
        Ok(moves)
    }
}

fn transfer_of(log: &Log) -> Result<IUsdc::Transfer, ReconcileError> {
    Ok(log.log_decode::<IUsdc::Transfer>().map_err(|_| NOT_AN_EVENT)?.inner.data)
}

/// Reads the wallet's log that it opened an escrow or funded a channel: how much, for whom.
fn opening_of(log: &Log) -> Option<(U256, Address)> {
    if let Ok(event) = IEscrowPayer::EscrowOpened::decode_log(&log.inner) {
        return Some((event.data.amount, event.data.payee));
    }
    let event = IChannelPayer::ChannelFunded::decode_log(&log.inner).ok()?.data;
    Some((event.amount, event.receiver))
}

/// Counts a receipt's transfers from the wallet to an account, or into an escrow or a channel for it.
pub(crate) fn transfers_in(config: &ChainConfig, logs: &[Log]) -> HashMap<(Address, U256), u32> {
    let mut found = HashMap::new();
    for (amount, payee) in
        logs.iter().filter(|log| log.address() == config.wallet).filter_map(opening_of)
    {
        *found.entry((payee, amount)).or_default() += 1;
    }
    let own = logs.iter().filter(|log| log.address() == config.usdc);
    for event in own.filter_map(|log| transfer_of(log).ok()) {
        if event.from == config.wallet {
            *found.entry((event.to, event.value)).or_default() += 1;
        }
    }
    found
}

/// Reads an account's USDC.
pub(crate) async fn balance_of(
    config: &ChainConfig,
    rpc: &Rpc,
    account: Address,
    at: At,
) -> Result<U256, ReconcileError> {
    let call = IUsdc::balanceOfCall { account }.abi_encode().into();
    let answer = rpc.eth_call(config.usdc, None, &call, at).await?;
    IUsdc::balanceOfCall::abi_decode_returns(&answer)
        .map_err(|_| ReconcileError::Nonsense("a balance that is no number"))
}
