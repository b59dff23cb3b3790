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

use alloy::primitives::B256;
use serde::{Deserialize, Serialize};

use super::voucher::{VoucherError, VoucherKey};
use crate::{contract::hub::Hub, money::Usdc, x402::batch::ChannelConfig};

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
}

/// The answer to the request that was charged last, for a payer that did not get it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// Hash of the request.
    pub request: B256,
    /// What it was charged.
    pub charged: Usdc,
    /// HTTP status.
    pub status: u16,
    /// Its headers, as far as they are the resource's.
    pub headers: Vec<(String, String)>,
    /// The body in base64; `None`: too long to be kept.
    pub body: Option<String>,
}

/// What is stored of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// On chain.
    pub chain: OnChain,
    /// Since when something is charged and not claimed, milliseconds.
    pub owed_since_ms: Option<i64>,
    /// The last answer.
    pub last: Option<Delivered>,
    /// Counts changes: of two rows the later one stands.
    pub version: u64,
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
            owed_since_ms: None,
            last: None,
            version: 0,
        }
    }

    /// Charged and not yet claimed.
    #[must_use]
    pub const fn owed(&self) -> Usdc {
        self.charged.saturating_sub(self.chain.claimed)
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
    /// Amounts past all USDC.
    #[error("the total is more USDC than there is")]
    Overflow,
}

/// What comes of a voucher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admitted {
    /// The handler may run once this row is durable.
    Serve(Box<MeterRow>),
    /// The same request was charged before: its answer, again.
    Again(Box<Delivered>),
}

/// One channel in memory: its row, and its key once it is known.
#[derive(Clone, Debug)]
pub struct Meter {
    row: MeterRow,
    key: Option<VoucherKey>,
}

impl Meter {
    /// Takes up a channel.
    #[must_use]
    pub const fn new(row: MeterRow) -> Self {
        Self { row, key: None }
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
        let row = &self.row;
        // Byte for byte what was verified when it was charged: the one case that skips a check.
        if let Some(last) = &row.last
            && last.request == voucher.request
            && voucher.ceiling == row.ceiling
            && voucher.signature == row.signature
        {
            return Ok(Admitted::Again(Box::new(last.clone())));
        }
        // The signature before everything else: what a stranger says teaches it nothing.
        let digest = hub.voucher_digest(row.id, voucher.ceiling.units().into());
        match &self.key {
            Some(key) => key.verify(digest, voucher.signature)?,
            None => {
                let authorizer = row.config.payer_authorizer;
                self.key = Some(VoucherKey::recover(digest, voucher.signature, authorizer)?);
            }
        }
        if row.chain.withdraw_since_s.is_some() {
            return Err(Reject::Withdrawing);
        }
        let expected = row.charged.checked_add(voucher.price).ok_or(Reject::Overflow)?;
        let (presented, charged) = (voucher.ceiling, row.charged);
        if presented != expected {
            return Err(Reject::Mismatch { presented, charged, expected });
        }
        if presented > row.chain.balance {
            return Err(Reject::AboveBalance { presented, balance: row.chain.balance });
        }
        let mut next = row.clone();
        next.version += 1;
        // After a failed handler a lower price may come: the higher voucher stays in hand.
        if presented >= row.ceiling {
            next.ceiling = presented;
            next.signature = voucher.signature.to_vec();
            next.last = None;
        }
        Ok(Admitted::Serve(Box::new(next)))
    }

    /// Charges what was served: at most what the voucher allows, and exactly once. The row is to be
    /// made durable before the answer leaves.
    #[must_use]
    pub fn charge(&self, delivered: Delivered, now_ms: i64) -> MeterRow {
        let mut next = self.row.clone();
        next.version += 1;
        // What a payer signed bounds it, whatever a handler says.
        let charged = next.charged.saturating_add(delivered.charged).min(next.ceiling);
        if charged > next.charged {
            next.owed_since_ms.get_or_insert(now_ms);
        }
        next.charged = charged;
        next.last = Some(delivered);
        next
    }

    /// Notes what the hub says.
    #[must_use]
    pub fn seen(&self, chain: OnChain) -> MeterRow {
        let mut next = self.row.clone();
        next.version += 1;
        // Claimed by somebody with our vouchers, or before they were lost: it was charged, then.
        next.charged = next.charged.max(chain.claimed);
        next.ceiling = next.ceiling.max(next.charged);
        if next.charged == chain.claimed {
            next.owed_since_ms = None;
        }
        next.chain = chain;
        next
    }

    /// Takes a row that is durable.
    pub fn set(&mut self, row: MeterRow) {
        if row.version > self.row.version {
            self.row = row;
        }
    }
}
