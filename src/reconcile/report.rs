//! The whole of it at once: every payee, every transfer, to the base unit, from the wallet's first
//! block to one final block.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use alloy::primitives::{Address, B256, U256};
use serde::Serialize;

use super::{
    ReconcileError,
    chain::{Moves, balance_of},
    channels::{self, ChannelLine},
    escrows::{self, Escrows},
};
use crate::{
    config::ChainConfig,
    money::Usdc,
    rpc::{At, Head, LOG_SPAN, Rpc},
    store::{Bought, PaymentRow, Posting, RouteSales, SettledPayment, Store},
};

/// Payments read at once.
const PAGE: u32 = 1_000;
/// Times the books are read until nothing settles meanwhile.
const TRIES: u32 = 20;

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
    /// Of `received`, what went into escrows for it.
    pub funded: Usdc,
    /// What escrows paid it since, by the ledger.
    pub released: Usdc,
    /// Of `received`, what is still in channels to it or came back out of them.
    pub unclaimed: Usdc,
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
        let apart = self.funded.saturating_add(self.unclaimed);
        let direct = U256::from(self.received.saturating_sub(apart).units());
        self.balance == direct + U256::from(self.released.units())
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
    /// What waits in escrows; absent where the wallet opens none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub escrows: Option<Escrows>,
    /// The wallet's own channels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<ChannelLine>,
    /// What routes earned, by sales and ledger; the facilitator has read each of them in the chain's
    /// final logs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sales: Vec<RouteSales>,
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
            && self.escrows.as_ref().is_none_or(Escrows::agree)
            && self.sales.iter().all(RouteSales::agrees)
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
    let head = rpc.latest().await?;
    let block = head.height().saturating_sub(config.confirmations - 1);
    let last = rpc.heads_under(&head, &[block]).await?.into_iter().flatten().next();
    let last = last.ok_or(ReconcileError::Moved)?;

    let mut paid = Vec::new();
    let mut used: HashMap<B256, B256> = HashMap::new();
    let (mut deposited, mut withdrawn) = (U256::ZERO, U256::ZERO);
    let mut from = config.from_block;
    while from <= block {
        let to = block.min(from + LOG_SPAN - 1);
        let moves = Moves::read(config, rpc, (from, to), &last).await?;
        deposited += moves.came_in;
        withdrawn += moves.withdrawn;
        for (hash, nonces) in &moves.used {
            used.extend(nonces.iter().map(|nonce| (*nonce, *hash)));
        }
        paid.extend(moves.out.into_iter().map(|out| Movement {
            transaction: out.transaction,
            payee: out.payee,
            amount: out.amount,
        }));
        from = to + 1;
    }
    let books = Books::read(store, config.wallet).await?;
    // Bought, on chain, and not final in the books yet.
    let bought: Vec<Movement> = books
        .bought
        .iter()
        .filter_map(|one| {
            let transaction = *used.get(&one.nonce)?;
            Some(Movement { transaction, payee: one.payee, amount: one.amount })
        })
        .collect();

    // Whatever the books and the chain share cancels out; what is left has one side only.
    let mut balance: HashMap<Movement, i64> = HashMap::new();
    for movement in &paid {
        *balance.entry(movement.clone()).or_default() += 1;
    }
    for payment in books.settled.iter().filter(|payment| payment.block <= block) {
        *balance.entry(payment.movement()).or_default() -= 1;
    }
    let mut in_flight = BTreeMap::<Address, Usdc>::new();
    for movement in &bought {
        if let Some(left) = balance.get_mut(movement).filter(|left| **left > 0) {
            *left -= 1;
            add(&mut in_flight, movement.payee, movement.amount);
        }
    }
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

    let escrows = escrows::compare(config, rpc, store).await?;
    let channels = channels::read(config, rpc, store, At::from(&last)).await?;
    let mut payees = lines(config, rpc, &last, &books, &paid, &in_flight).await?;
    for channel in &channels {
        if let Some(line) = payees.iter_mut().find(|line| line.payee == channel.payee) {
            let unclaimed = channel.funded.saturating_sub(channel.claimed);
            line.unclaimed = line.unclaimed.saturating_add(unclaimed);
        }
    }
    let sum = |movements: &[Movement]| {
        movements.iter().fold(U256::ZERO, |sum, m| sum + U256::from(m.amount.units()))
    };
    Ok(Report {
        block,
        payees,
        balance: balance_of(config, rpc, config.wallet, At::from(&last)).await?,
        deposited,
        withdrawn,
        paid: sum(&paid),
        ledger_paid: books
            .postings
            .iter()
            .fold(Usdc::ZERO, |sum, posting| sum.saturating_add(posting.posted)),
        payments: books.settled.len() as u64,
        unexplained,
        missing,
        escrows,
        channels,
        sales: store.route_sales(config.wallet).await?,
    })
}

impl SettledPayment {
    fn movement(&self) -> Movement {
        Movement { transaction: self.transaction, payee: self.payee, amount: self.amount }
    }
}

/// What the books say, all of one moment.
struct Books {
    /// With what went into escrows for a payee in the place of what came out of them for it.
    postings: Vec<Posting>,
    settled: Vec<SettledPayment>,
    open: Vec<PaymentRow>,
    /// Purchases that the wallet signed and that are not final.
    bought: Vec<Bought>,
}

impl Books {
    async fn read(store: &Store, wallet: Address) -> Result<Self, ReconcileError> {
        let mut postings = accounts(store).await?;
        for _ in 0..TRIES {
            let open = store.payments_open().await?;
            let (purchases, bought) = store.purchases_of_payer(wallet).await?;
            let mut settled: Vec<SettledPayment> = Vec::new();
            loop {
                let page = store.settled_after(settled.last().map(|p| p.id), PAGE).await?;
                let full = page.len() == PAGE as usize;
                settled.extend(page);
                if !full {
                    break;
                }
            }
            settled.extend(purchases);
            let after = accounts(store).await?;
            if after == postings {
                return Ok(Self { postings, settled, open, bought });
            }
            postings = after;
        }
        Err(ReconcileError::Busy)
    }
}

/// Reads the payees' accounts, escrows' deposits among them.
async fn accounts(store: &Store) -> Result<Vec<Posting>, ReconcileError> {
    let mut by_payee: BTreeMap<Address, Posting> = store
        .postings()
        .await?
        .into_iter()
        .map(|mut posting| {
            posting.posted = posting.posted.saturating_sub(posting.released);
            posting.transfers = posting.transfers.saturating_sub(posting.released);
            (posting.payee, posting)
        })
        .collect();
    for funding in store.escrow_fundings().await? {
        let posting = by_payee.entry(funding.payee).or_insert(Posting::none(funding.payee));
        posting.posted = posting.posted.saturating_add(funding.posted);
        posting.transfers = posting.transfers.saturating_add(funding.transfers);
        posting.funded = posting.funded.saturating_add(funding.posted);
    }
    Ok(by_payee.into_values().collect())
}

async fn lines(
    config: &ChainConfig,
    rpc: &Rpc,
    last: &Head,
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
        let sums = if payment.block <= last.height() { &mut before } else { &mut later };
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
            funded: posting.map_or(Usdc::ZERO, |posting| posting.funded),
            released: posting.map_or(Usdc::ZERO, |posting| posting.released),
            unclaimed: Usdc::ZERO,
            balance: balance_of(config, rpc, payee, last.into()).await?,
        });
    }
    Ok(lines)
}

fn add(sums: &mut BTreeMap<Address, Usdc>, payee: Address, amount: Usdc) {
    let sum = sums.entry(payee).or_default();
    *sum = sum.saturating_add(amount);
}
