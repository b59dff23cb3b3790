//! A channel as its payee keeps it: what was charged, up to where the payer signed, what lies on
//! chain. Pure: who calls keeps it, and makes it durable before anybody is served.
//!
//! ```text
//!  0 ── claimed ── charged ── ceiling (signed) ── balance (deposited, final)
//! ```
//!
//! The order of these marks is the whole of it: nothing is served above what is signed, nothing is
//! signed for above what is there. By x402's batch-settlement rules the next ceiling is exactly what
//! was charged plus the price, so a payer never signs away more than one request.

use std::sync::Arc;

use alloy::primitives::B256;
use serde::{Deserialize, Serialize};

use super::voucher::{VoucherError, VoucherKey};
use crate::{contract::hub::Hub, money::Usdc, seller::Stored, x402::batch::ChannelConfig};

/// What the hub says of a channel, at a final block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnChain {
    /// Deposited in all, less what was refunded and withdrawn.
    pub balance: Usdc,
    /// Of it, claimed by the payee.
    pub claimed: Usdc,
    /// Unix seconds at which the payer asked to withdraw; `None`: it did not.
    pub withdraw_since_s: Option<u64>,
    /// The hub's counter of refunds.
    pub refund_nonce: u64,
    /// When this was read, milliseconds.
    pub read_ms: i64,
    /// The final block that it was read at; 0 for what comes from the store.
    pub block: u64,
}

impl OnChain {
    /// Is it from before `other`? Final blocks come from nodes that may lag behind each other, and what
    /// was read first may be noted last.
    const fn is_before(&self, other: &Self) -> bool {
        self.block < other.block
            || self.refund_nonce < other.refund_nonce
            || self.claimed.units() < other.claimed.units()
    }
}

/// The answer to the request that was charged last, for a payer that did not get it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Delivered {
    /// Hash of the request.
    pub request: B256,
    /// The voucher that it came with.
    pub ceiling: Usdc,
    /// What it was charged.
    pub charged: Usdc,
    /// The handler's answer.
    pub answer: Stored,
}

/// Money on its way back to the payer. From the moment its signature exists anybody may carry it to the
/// chain, so it counts as gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// Hash of the wish: the same wish again finds the same refund.
    pub wish: B256,
    /// The hub's counter that it uses up.
    pub nonce: u64,
    /// How much.
    pub amount: Usdc,
    /// Is it there? Till then the channel buys nothing.
    pub is_final: bool,
}

/// What of a row is not stored yet: what changes with every call is written alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unstored {
    /// It was read from the store, or is kept there.
    Nothing,
    /// A voucher was taken: ceiling, signature, and no last answer.
    Voucher,
    /// A charge was made: its amount and the last answer.
    Charge,
    /// More, or all of it.
    Everything,
}

impl Unstored {
    /// One change more.
    const fn and(self, change: Self) -> Self {
        match self {
            Self::Nothing => change,
            _ => Self::Everything,
        }
    }
}

/// What is stored of a channel.
#[derive(Clone, Debug)]
pub struct MeterRow {
    /// EIP-712 hash of `config`.
    pub id: B256,
    /// Its seven fields.
    pub config: ChannelConfig,
    /// What the payer was charged in all.
    pub charged: Usdc,
    /// The highest total it signed.
    pub ceiling: Usdc,
    /// Its signature over `ceiling`, as it came; empty before the first.
    pub signature: Vec<u8>,
    /// On chain; less what is on its way back.
    pub chain: OnChain,
    /// Of what was claimed, how much the ledger has.
    pub booked: Usdc,
    /// Since when something is charged and not claimed, milliseconds.
    pub owed_since_ms: Option<i64>,
    /// What went back last, or is on its way.
    pub refund: Option<Refund>,
    /// The last answer.
    pub last: Option<Arc<Delivered>>,
    /// Counts changes: of two rows the later one stands.
    pub version: u64,
    /// What of all this the store does not have.
    pub unstored: Unstored,
}

impl MeterRow {
    /// A channel nobody was charged in.
    #[must_use]
    pub const fn new(id: B256, config: ChannelConfig, chain: OnChain) -> Self {
        Self {
            id,
            config,
            // Charges whose vouchers were lost are forfeit: what was claimed is all that is known.
            charged: chain.claimed,
            ceiling: chain.claimed,
            signature: Vec::new(),
            chain,
            booked: chain.claimed,
            owed_since_ms: None,
            refund: None,
            last: None,
            version: 0,
            unstored: Unstored::Everything,
        }
    }

    /// Charged, not yet claimed, and still in the channel.
    #[must_use]
    pub fn owed(&self) -> Usdc {
        self.claimable().saturating_sub(self.chain.claimed)
    }

    /// Charged, and gone: the payer has withdrawn before it was claimed.
    #[must_use]
    pub fn lost(&self) -> Usdc {
        self.charged.saturating_sub(self.claimable().max(self.chain.claimed))
    }

    /// The total that a claim may say: what was charged, as far as it is signed and the channel holds it.
    #[must_use]
    pub fn claimable(&self) -> Usdc {
        self.charged.min(self.chain.balance).min(self.ceiling)
    }

    /// What is on its way back.
    #[must_use]
    pub fn refunding(&self) -> Option<Refund> {
        self.refund.filter(|refund| !refund.is_final)
    }

    /// What can be given back.
    #[must_use]
    pub const fn free(&self) -> Usdc {
        self.chain.balance.saturating_sub(self.charged)
    }
}

/// A voucher as it comes with a request.
#[derive(Clone, Copy, Debug)]
pub struct Presented<'a> {
    /// Charged up to here in all.
    pub ceiling: Usdc,
    /// By the channel's `payerAuthorizer`.
    pub signature: &'a [u8],
    /// The most this request may cost.
    pub price: Usdc,
    /// Hash of the request it came with.
    pub request: B256,
}

/// Why a voucher does not buy this request. None of these moved money.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// The signature.
    #[error(transparent)]
    Signature(#[from] VoucherError),
    /// Not what was charged plus the price.
    #[error("the voucher is for {presented}; charged are {charged}, with this request {expected}")]
    Mismatch {
        /// As signed.
        presented: Usdc,
        /// So far.
        charged: Usdc,
        /// What it must say.
        expected: Usdc,
    },
    /// More than there is.
    #[error("the voucher is for {presented}, and the channel holds {balance}: deposit first")]
    AboveBalance {
        /// As signed.
        presented: Usdc,
        /// In the channel at a final block.
        balance: Usdc,
    },
    /// The payer is leaving.
    #[error("the payer has asked to withdraw: this channel buys nothing more")]
    Withdrawing,
    /// A refund is on its way.
    #[error("money is on its way back to the payer: wait until that is final")]
    Refunding,
    /// Everything was charged, or given back.
    #[error("nothing is left in the channel")]
    NothingLeft,
    /// Not what can be given back.
    #[error("a refund is more than nothing and at most {free}")]
    RefundAmount {
        /// In the channel, and not charged.
        free: Usdc,
    },
    /// Amounts past all USDC.
    #[error("the total is more USDC than there is")]
    Overflow,
}

/// What comes of a voucher.
#[derive(Clone, Debug)]
pub enum Admitted {
    /// The handler may run once this row is durable.
    Serve(Box<MeterRow>),
    /// The same request was charged before: its answer, again.
    Again(Arc<Delivered>),
}

/// One channel in memory: its row, its key once it is known, and what its payer is.
#[derive(Clone, Debug)]
pub struct Meter {
    row: MeterRow,
    key: Option<VoucherKey>,
    payer_is_contract: bool,
    is_lost: bool,
}

impl Meter {
    /// Takes up a channel.
    #[must_use]
    pub const fn new(row: MeterRow, payer_is_contract: bool) -> Self {
        Self { row, key: None, payer_is_contract, is_lost: false }
    }

    /// Does code stand at the payer's address?
    #[must_use]
    pub const fn payer_is_contract(&self) -> bool {
        self.payer_is_contract
    }

    /// As it stands.
    #[must_use]
    pub const fn row(&self) -> &MeterRow {
        &self.row
    }

    /// Judges a voucher. Nothing is changed but the key that is now known; the row it answers with is
    /// to be made durable, and then to be [`Self::set`].
    ///
    /// # Errors
    /// [`Reject`].
    pub fn admit(&mut self, hub: &Hub, voucher: Presented<'_>) -> Result<Admitted, Reject> {
        self.verify(hub, voucher.ceiling, voucher.signature)?;
        let row = &self.row;
        if let Some(last) = &row.last
            && (last.request, last.ceiling) == (voucher.request, voucher.ceiling)
        {
            return Ok(Admitted::Again(Arc::clone(last)));
        }
        if row.chain.withdraw_since_s.is_some() {
            return Err(Reject::Withdrawing);
        }
        if row.refunding().is_some() {
            return Err(Reject::Refunding);
        }
        let expected = row.charged.checked_add(voucher.price).ok_or(Reject::Overflow)?;
        let (presented, charged) = (voucher.ceiling, row.charged);
        if presented != expected {
            return Err(Reject::Mismatch { presented, charged, expected });
        }
        if presented > row.chain.balance {
            return Err(Reject::AboveBalance { presented, balance: row.chain.balance });
        }
        // After a failed handler a lower price may come: the higher voucher stays in hand.
        let (ceiling, signature) = if presented >= row.ceiling {
            (presented, voucher.signature)
        } else {
            (row.ceiling, row.signature.as_slice())
        };
        Ok(Admitted::Serve(Box::new(MeterRow {
            ceiling,
            signature: signature.to_vec(),
            last: None,
            version: row.version + 1,
            unstored: row.unstored.and(Unstored::Voucher),
            ..*row
        })))
    }

    /// Is it the payer's own? Asked before everything else: what a stranger says teaches it nothing.
    fn verify(&mut self, hub: &Hub, ceiling: Usdc, signature: &[u8]) -> Result<(), VoucherError> {
        let digest = hub.voucher_digest(self.row.id, ceiling.units().into());
        match &self.key {
            Some(key) => key.verify(digest, signature),
            None => {
                let authorizer = self.row.config.payer_authorizer;
                self.key = Some(VoucherKey::recover(digest, signature, authorizer)?);
                Ok(())
            }
        }
    }

    /// Judges a wish to get money back: `amount`, or all that is free. The row it answers with is to be
    /// made durable before anything is signed. The same wish again finds the refund that is on its way.
    ///
    /// # Errors
    /// [`Reject`].
    pub fn give_back(
        &mut self,
        hub: &Hub,
        (ceiling, signature): (Usdc, &[u8]),
        (wish, amount): (B256, Option<Usdc>),
    ) -> Result<MeterRow, Reject> {
        self.verify(hub, ceiling, signature)?;
        let row = &self.row;
        if row.refund.is_some_and(|refund| refund.wish == wish) {
            // Kept anew: what the chain says meanwhile is booked with it, once.
            let (version, unstored) = (row.version + 1, Unstored::Everything);
            return Ok(MeterRow { version, unstored, ..row.clone() });
        }
        if ceiling != row.charged {
            let (presented, charged) = (ceiling, row.charged);
            return Err(Reject::Mismatch { presented, charged, expected: charged });
        }
        if row.refunding().is_some() {
            return Err(Reject::Refunding);
        }
        let free = row.free();
        let amount = amount.unwrap_or(free);
        if free.is_zero() {
            return Err(Reject::NothingLeft);
        }
        if amount.is_zero() || amount > free {
            return Err(Reject::RefundAmount { free });
        }
        let mut next = row.clone();
        next.version += 1;
        next.unstored = Unstored::Everything;
        let nonce = row.chain.refund_nonce;
        next.refund = Some(Refund { wish, nonce, amount, is_final: false });
        next.chain.balance = row.chain.balance.saturating_sub(amount);
        // It proves what was charged, where a higher one was signed for nothing.
        if next.signature.is_empty() {
            next.signature = signature.to_vec();
        }
        Ok(next)
    }

    /// Charges what was served: at most what the voucher allows, and exactly once. The row is to be
    /// made durable before the answer leaves.
    #[must_use]
    pub fn charge(&self, delivered: Delivered, now_ms: i64) -> MeterRow {
        let mut next = self.row.clone();
        next.version += 1;
        next.unstored = next.unstored.and(Unstored::Charge);
        // What a payer signed bounds it, whatever a handler says.
        let charged = next.charged.saturating_add(delivered.charged).min(next.ceiling);
        if charged > next.charged && next.owed_since_ms.is_none() {
            next.owed_since_ms = Some(now_ms);
            next.unstored = Unstored::Everything;
        }
        next.charged = charged;
        next.last = Some(Arc::new(delivered));
        next
    }

    /// Notes what the hub says; not what it said before what is known already.
    #[must_use]
    pub fn seen(&self, mut chain: OnChain) -> MeterRow {
        let mut next = self.row.clone();
        next.version += 1;
        next.unstored = Unstored::Everything;
        if chain.is_before(&next.chain) {
            return next;
        }
        if let Some(refund) = next.refund.as_mut().filter(|refund| !refund.is_final) {
            refund.is_final = chain.refund_nonce > refund.nonce;
            if !refund.is_final {
                chain.balance = chain.balance.saturating_sub(refund.amount);
            }
        }
        // Claimed by somebody with our vouchers, or before they were lost: it was charged, then.
        next.charged = next.charged.max(chain.claimed);
        next.ceiling = next.ceiling.max(next.charged);
        next.chain = chain;
        if next.owed().is_zero() {
            next.owed_since_ms = None;
        }
        next
    }

    /// Puts back the voucher before the one in hand, which bought nothing: claims publish what is held,
    /// and whoever reads that one could spend it. The row is to be made durable.
    #[must_use]
    pub fn give_up(&self, former: (Usdc, Vec<u8>)) -> MeterRow {
        let mut next = self.row.clone();
        next.version += 1;
        next.unstored = next.unstored.and(Unstored::Voucher);
        (next.ceiling, next.signature) = former;
        next
    }

    /// Notes that a change was not kept, or perhaps was: what the store has is to be read again.
    pub const fn lose(&mut self) {
        self.is_lost = true;
    }

    /// Is it to be read again?
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        self.is_lost
    }

    /// Takes a row that is durable.
    pub fn set(&mut self, row: MeterRow) {
        if row.version > self.row.version {
            self.row = row;
        }
    }
}
