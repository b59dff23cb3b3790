//! The chain's own record against the ledger: every payee, every transfer, to the base unit.
//!
//! The chain's side is read straight from a node: USDC's `Transfer` logs from and to the wallet,
//! the wallet's `Withdrawn` logs, and balances at one final block. The books' side is the ledger's
//! postings and the payments that are called paid. Nothing is taken from the daemon's own view of
//! the chain.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use alloy::{
    primitives::{Address, B256, U256},
    rpc::types::Log,
    sol_types::{SolCall, SolEvent},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    config::ChainConfig,
    contract::{IPolicyWallet, IUsdc},
    money::Usdc,
    rpc::{At, Rpc, RpcError},
    store::{PaymentRow, Posting, SettledPayment, Store, StoreError},
};

/// Blocks in one question for logs: nodes refuse wide ones.
const BLOCKS: u64 = 2_000;
/// Payments read at once.
const PAGE: u32 = 1_000;
/// Times the books are read until nothing settles meanwhile.
const TRIES: u32 = 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The node.
    #[error("the chain cannot be read: {0}")]
    Chain(#[from] RpcError),
    /// The store.
    #[error("the books cannot be read: {0}")]
    Books(#[from] StoreError),
    /// Payments settle faster than the books can be read.
    #[error("the books change while they are read: try again when fewer payments settle")]
    Busy,
    /// A log or an answer that USDC or the wallet does not give.
    #[error("the node's answer makes no sense: {0}")]
    Nonsense(&'static str),
}

/// One payee, by the chain and by the books.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PayeeLine {
    /// The payee.
    pub payee: Address,
    /// Sum of the chain's transfers from the wallet up to the block, without withdrawals.
    pub received: Usdc,
    /// Sum of the payments called paid up to the block.
    pub paid: Usdc,
    /// On chain up to the block, and not final in the books yet.
    pub in_flight: Usdc,
    /// Sum of the payments called paid after the block: none, where nothing settles meanwhile.
    pub later: Usdc,
    /// What the ledger's account says.
    pub posted: Usdc,
    /// The sum of the ledger's transfers to it.
    pub transfers: Usdc,
    /// Its whole USDC balance, wherever that came from.
    pub balance: U256,
}

impl PayeeLine {
    /// Do chain and books agree?
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.posted == self.transfers
            && self.paid.checked_add(self.later) == Some(self.posted)
            && self.paid.checked_add(self.in_flight) == Some(self.received)
    }

    /// Does the payee hold exactly what it got? True of one that is new and never pays.
    #[must_use]
    pub fn holds_only_this(&self) -> bool {
        self.balance == U256::from(self.received.units())
    }
}

/// A transfer that one side has and the other has not.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Movement {
    /// The transaction.
    pub transaction: B256,
    /// Who was paid.
    pub payee: Address,
    /// How much.
    pub amount: Usdc,
}

/// What the comparison found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Compared as of this block.
    pub block: u64,
    /// By payee.
    pub payees: Vec<PayeeLine>,
    /// The wallet's balance by its token.
    pub balance: U256,
    /// What came in.
    pub deposited: U256,
    /// What operators took out.
    pub withdrawn: U256,
    /// What was paid.
    pub paid: U256,
    /// The ledger's own figure for what was paid.
    pub ledger_paid: Usdc,
    /// Payments that are called paid.
    pub payments: u64,
    /// Transfers on chain that no payment explains.
    pub unexplained: Vec<Movement>,
    /// Payments called paid without a transfer on chain.
    pub missing: Vec<Movement>,
}

impl Report {
    /// Is the wallet's balance what went in less what went out? What it held before its first block,
    /// as a wallet at a known address can, counts as gone in.
    #[must_use]
    pub fn wallet_agrees(&self) -> bool {
        self.deposited.checked_sub(self.withdrawn).and_then(|left| left.checked_sub(self.paid))
            == Some(self.balance)
    }

    /// Does everything agree?
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.wallet_agrees()
            && self.payees.iter().all(PayeeLine::agrees)
            && self.unexplained.is_empty()
            && self.missing.is_empty()
    }
}

/// Compares chain and books at the newest final block.
///
/// # Errors
/// [`ReconcileError`]; a difference is no error but part of the [`Report`].
pub async fn reconcile(
    config: &ChainConfig,
    rpc: &Rpc,
    store: &Store,
) -> Result<Report, ReconcileError> {
    // The block first: whatever it holds, the books know by the time they are read.
    let block = rpc.latest().await?.height().saturating_sub(config.confirmations - 1);

    let mut chain = Chain::default();
    let mut from = config.from_block;
    while from <= block {
        let to = block.min(from + BLOCKS - 1);
        chain.read(config, rpc, from, to).await?;
        from = to + 1;
    }
    let books = Books::read(store).await?;

    // Whatever the books and the chain share cancels out; what is left has one side only.
    let mut balance: HashMap<Movement, i64> = HashMap::new();
    for movement in &chain.paid {
        *balance.entry(movement.clone()).or_default() += 1;
    }
    for payment in books.settled.iter().filter(|payment| payment.block <= block) {
        *balance.entry(payment.movement()).or_default() -= 1;
    }
    let mut in_flight = BTreeMap::<Address, Usdc>::new();
    for payment in &books.open {
        let Some(transaction) = payment.tx_hash else { continue };
        let movement = Movement { transaction, payee: payment.payee, amount: payment.amount };
        if let Some(left) = balance.get_mut(&movement).filter(|left| **left > 0) {
            *left -= 1;
            add(&mut in_flight, payment.payee, payment.amount);
        }
    }
    let mut unexplained = Vec::new();
    let mut missing = Vec::new();
    for (movement, left) in balance {
        let side = if left > 0 { &mut unexplained } else { &mut missing };
        for _ in 0..left.unsigned_abs() {
            side.push(movement.clone());
        }
    }
    unexplained.sort();
    missing.sort();

    let payees = lines(config, rpc, block, &books, &chain.paid, &in_flight).await?;
    let sum = |movements: &[Movement]| {
        movements.iter().fold(U256::ZERO, |sum, m| sum + U256::from(m.amount.units()))
    };
    Ok(Report {
        block,
        payees,
        balance: balance_of(config, rpc, config.wallet, block).await?,
        deposited: chain.deposited,
        withdrawn: chain.withdrawn,
        paid: sum(&chain.paid),
        ledger_paid: books
            .postings
            .iter()
            .fold(Usdc::ZERO, |sum, posting| sum.saturating_add(posting.posted)),
        payments: books.settled.len() as u64,
        unexplained,
        missing,
    })
}

impl SettledPayment {
    fn movement(&self) -> Movement {
        Movement { transaction: self.transaction, payee: self.payee, amount: self.amount }
    }
}

/// What the books say, all of one moment.
struct Books {
    postings: Vec<Posting>,
    settled: Vec<SettledPayment>,
    open: Vec<PaymentRow>,
}

impl Books {
    async fn read(store: &Store) -> Result<Self, ReconcileError> {
        let mut postings = store.postings().await?;
        for _ in 0..TRIES {
            let open = store.payments_open().await?;
            let mut settled: Vec<SettledPayment> = Vec::new();
            loop {
                let page = store.settled_after(settled.last().map(|p| p.id), PAGE).await?;
                let full = page.len() == PAGE as usize;
                settled.extend(page);
                if !full {
                    break;
                }
            }
            let after = store.postings().await?;
            if after == postings {
                return Ok(Self { postings, settled, open });
            }
            postings = after;
        }
        Err(ReconcileError::Busy)
    }
}

async fn lines(
    config: &ChainConfig,
    rpc: &Rpc,
    block: u64,
    books: &Books,
    paid: &[Movement],
    in_flight: &BTreeMap<Address, Usdc>,
) -> Result<Vec<PayeeLine>, ReconcileError> {
    let mut received = BTreeMap::<Address, Usdc>::new();
    for movement in paid {
        add(&mut received, movement.payee, movement.amount);
    }
    let (mut before, mut later) = (BTreeMap::new(), BTreeMap::new());
    for payment in &books.settled {
        let sums = if payment.block <= block { &mut before } else { &mut later };
        add(sums, payment.payee, payment.amount);
    }
    let postings: BTreeMap<Address, &Posting> =
        books.postings.iter().map(|posting| (posting.payee, posting)).collect();
    let everyone: BTreeSet<Address> = [&received, &before, &later]
        .into_iter()
        .flat_map(BTreeMap::keys)
        .chain(postings.keys())
        .copied()
        .collect();
    let mut lines = Vec::with_capacity(everyone.len());
    for payee in everyone {
        let of = |sums: &BTreeMap<Address, Usdc>| sums.get(&payee).copied().unwrap_or_default();
        let posting = postings.get(&payee);
        lines.push(PayeeLine {
            payee,
            received: of(&received),
            paid: of(&before),
            in_flight: of(in_flight),
            later: of(&later),
            posted: posting.map_or(Usdc::ZERO, |posting| posting.posted),
            transfers: posting.map_or(Usdc::ZERO, |posting| posting.transfers),
            balance: balance_of(config, rpc, payee, block).await?,
        });
    }
    Ok(lines)
}

/// What the chain says of the wallet.
#[derive(Default)]
struct Chain {
    paid: Vec<Movement>,
    deposited: U256,
    withdrawn: U256,
}

impl Chain {
    /// Reads a span of blocks, both ends included.
    async fn read(
        &mut self,
        config: &ChainConfig,
        rpc: &Rpc,
        from: u64,
        to: u64,
    ) -> Result<(), ReconcileError> {
        let wallet = config.wallet.into_word();
        let transfer = IUsdc::Transfer::SIGNATURE_HASH;
        let incoming =
            logs(rpc, config.usdc, from, to, json!([transfer, Value::Null, wallet])).await?;
        for log in incoming {
            let event = log.log_decode::<IUsdc::Transfer>().map_err(|_| NOT_A_TRANSFER)?.inner;
            self.deposited += event.value;
        }
        let withdrawn = IPolicyWallet::Withdrawn::SIGNATURE_HASH;
        let mut taken: HashMap<(B256, Address, U256), u32> = HashMap::new();
        for log in logs(rpc, config.wallet, from, to, json!([withdrawn])).await? {
            let transaction = hash_of(&log)?;
            let event =
                log.log_decode::<IPolicyWallet::Withdrawn>().map_err(|_| NOT_A_TRANSFER)?.inner;
            self.withdrawn += event.amount;
            *taken.entry((transaction, event.to, event.amount)).or_default() += 1;
        }
        for log in logs(rpc, config.usdc, from, to, json!([transfer, wallet])).await? {
            let transaction = hash_of(&log)?;
            let event = log.log_decode::<IUsdc::Transfer>().map_err(|_| NOT_A_TRANSFER)?.inner;
            if let Some(left) = taken.get_mut(&(transaction, event.to, event.value))
                && *left > 0
            {
                *left -= 1;
                continue;
            }
            let amount = u64::try_from(event.value).ok().and_then(Usdc::from_units);
            let amount = amount.ok_or(ReconcileError::Nonsense("a transfer above all USDC"))?;
            self.paid.push(Movement { transaction, payee: event.to, amount });
        }
        Ok(())
    }
}

const NOT_A_TRANSFER: ReconcileError =
    ReconcileError::Nonsense("a log that is not the event asked for");

fn hash_of(log: &Log) -> Result<B256, ReconcileError> {
    log.transaction_hash.ok_or(ReconcileError::Nonsense("a log without a transaction"))
}

async fn logs(
    rpc: &Rpc,
    address: Address,
    from: u64,
    to: u64,
    topics: Value,
) -> Result<Vec<Log>, RpcError> {
    let (from, to) = (format!("{from:#x}"), format!("{to:#x}"));
    let filter =
        json!([{ "address": address, "fromBlock": from, "toBlock": to, "topics": topics }]);
    rpc.call("eth_getLogs", filter).await
}

async fn balance_of(
    config: &ChainConfig,
    rpc: &Rpc,
    account: Address,
    block: u64,
) -> Result<U256, ReconcileError> {
    let call = IUsdc::balanceOfCall { account }.abi_encode().into();
    let answer = rpc.eth_call(config.usdc, None, &call, At::Number(block)).await?;
    IUsdc::balanceOfCall::abi_decode_returns(&answer)
        .map_err(|_| ReconcileError::Nonsense("a balance that is no number"))
}

fn add(sums: &mut BTreeMap<Address, Usdc>, payee: Address, amount: Usdc) {
    let sum = sums.entry(payee).or_default();
    *sum = sum.saturating_add(amount);
}
