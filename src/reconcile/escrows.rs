//! Escrows: what the contract says of each, what the books say, and what the contract holds.

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol_types::SolCall as _,
};
use serde::Serialize;
use serde_json::json;

use super::{ReconcileError, chain::balance_of};
use crate::{
    config::ChainConfig,
    contract::escrow::IWorkEscrow,
    escrow::{self, follow::FOLLOWED},
    ledger::Account,
    money::Usdc,
    rpc::{At, Rpc},
    store::{EscrowRow, Store},
};

/// Times the books are read until nothing moves meanwhile.
const TRIES: u32 = 20;

/// One escrow in which contract, row and ledger do not agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EscrowLine {
    /// Its id.
    pub id: B256,
    /// Paid out, paid back and given back, by the contract; base units.
    pub on_chain: [u64; 3],
    /// The same by the books.
    pub in_books: [u64; 3],
    /// What still waits, by the contract's figures.
    pub held: Usdc,
    /// What still waits, by the ledger's account.
    pub ledger: Usdc,
}

/// All escrows of the wallet.
#[derive(Clone, Debug, Serialize)]
pub struct Escrows {
    /// WorkEscrow.
    pub contract: Address,
    /// Compared as of this block.
    pub block: u64,
    /// How many were funded.
    pub count: u64,
    /// The contract's USDC, other payers' escrows and donations included.
    pub balance: U256,
    /// What waits in this wallet's escrows, by the ledger.
    pub held: Usdc,
    /// What the contract could not pay out and keeps for its owners, by the ledger.
    pub owed: Usdc,
    /// Escrows in which contract and books differ.
    pub differ: Vec<EscrowLine>,
}

impl Escrows {
    /// Does everything agree, and does the contract hold what waits?
    #[must_use]
    pub fn agree(&self) -> bool {
        let due = U256::from(self.held.units()) + U256::from(self.owed.units());
        self.differ.is_empty() && self.balance >= due
    }
}

/// Compares at the block up to which the books follow the contract.
pub(super) async fn compare(
    config: &ChainConfig,
    rpc: &Rpc,
    store: &Store,
) -> Result<Option<Escrows>, ReconcileError> {
    let Some(contract) = escrow::of_wallet(rpc, config.wallet).await? else { return Ok(None) };
    for _ in 0..TRIES {
        let before = store.meta(FOLLOWED).await?;
        let rows = store.escrows_funded().await?;
        let mut ledgers = Vec::with_capacity(rows.len());
        for row in &rows {
            ledgers.push(store.posted(&Account::Escrow(row.id)).await?);
        }
        let owed = store.owed().await?;
        if store.meta(FOLLOWED).await? != before {
            continue;
        }
        let Some(block) = before.and_then(|text| text.parse().ok()) else { return Ok(None) };
        let at = At::Number(block);
        let calls = rows.iter().map(|row| {
            let call = IWorkEscrow::getStateCall { escrowId: row.id };
            json!({ "to": contract, "data": Bytes::from(call.abi_encode()) })
        });
        let states = rpc.eth_calls(calls.collect(), at).await?;
        let (mut differ, mut held) = (Vec::new(), Usdc::ZERO);
        for ((row, (debits, credits)), state) in rows.iter().zip(ledgers).zip(states) {
            let ledger = credits.saturating_sub(debits);
            held = held.saturating_add(ledger);
            differ.extend(line(row, ledger, &state)?);
        }
        return Ok(Some(Escrows {
            contract,
            block,
            count: rows.len() as u64,
            balance: balance_of(config, rpc, contract, at).await?,
            held,
            owed,
            differ,
        }));
    }
    Err(ReconcileError::Busy)
}

/// Holds one escrow's state on chain against its row and its ledger account.
fn line(
    row: &EscrowRow,
    ledger: Usdc,
    state: &Bytes,
) -> Result<Option<EscrowLine>, ReconcileError> {
    let state = IWorkEscrow::getStateCall::abi_decode_returns(state)
        .map_err(|_| ReconcileError::Nonsense("a state of an escrow that is none"))?;
    let on_chain = [state.captured, state.refunded, state.returned];
    let in_books = [row.captured.units(), row.refunded.units(), row.returned.units()];
    let left = row.amount().units().saturating_sub(state.captured).saturating_sub(state.refunded);
    let held = Usdc::from_units(left).unwrap_or_default();
    let agrees = on_chain == in_books && held == ledger;
    Ok((!agrees).then_some(EscrowLine { id: row.id, on_chain, in_books, held, ledger }))
}
