//! A channel as its payer keeps it: the wallet's money, an agent's signature.
//!
//! ```text
//!  0 ── claimed ── charged ── ceiling (signed) ── balance (deposited, final)
//! ```
//!
//! One voucher at a time is out, for one purchase; the next is signed when it is known what the last one
//! cost. A seller that charges more than it said gets nothing more, and the money is asked back. What a
//! seller says of a channel is believed only as far as our own signature goes.

use alloy::primitives::B256;

use super::meter::OnChain;
use crate::{money::Usdc, payment::AgentId, x402::batch::ChannelConfig};

/// Whether a channel may still buy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PurseState {
    /// It may.
    Open,
    /// What is left was asked back; after the delay it comes.
    Closing,
    /// It came.
    Closed,
}

impl PurseState {
    /// Returns the stored name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Closing => "closing",
            Self::Closed => "closed",
        }
    }

    /// Reads a stored name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Open, Self::Closing, Self::Closed].into_iter().find(|state| state.as_str() == name)
    }
}

/// What is stored of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PurseRow {
    /// EIP-712 hash of `config`.
    pub id: B256,
    /// The agent that buys with it.
    pub agent: AgentId,
    /// Its seven fields.
    pub config: ChannelConfig,
    /// May it buy?
    pub state: PurseState,
    /// What was charged in all, by our own count.
    pub charged: Usdc,
    /// The highest total signed.
    pub ceiling: Usdc,
    /// The signature over `ceiling`; empty before the first.
    pub signature: Vec<u8>,
    /// The purchase whose voucher is out, and its price.
    pub held: Option<(String, Usdc)>,
    /// On chain, at a final block.
    pub chain: OnChain,
    /// Unix seconds from which what was asked back can be had.
    pub finalize_s: Option<u64>,
    /// Counts changes.
    pub version: u64,
    /// When it was opened, milliseconds.
    pub created_ms: i64,
}

/// Why a channel does not pay this purchase now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPaid {
    /// Another purchase's voucher is out.
    #[error("the voucher of purchase {0} is out, and what it cost is not known")]
    Held(String),
    /// Not enough in it.
    #[error("the channel lacks {0} USDC")]
    Short(Usdc),
    /// It is being closed.
    #[error("the channel is being closed")]
    Closing,
}

/// What a seller's receipt does to a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overcharge {
    /// More than the price.
    #[error("the seller charged {charged} USDC for a price of {price}")]
    Price {
        /// What it says.
        charged: Usdc,
        /// What it offered.
        price: Usdc,
    },
    /// Its total is not ours.
    #[error("the seller counts {theirs} USDC in all, we count {ours}")]
    Total {
        /// By the seller.
        theirs: Usdc,
        /// By us.
        ours: Usdc,
    },
}

impl PurseRow {
    /// A channel that is yet to be funded.
    #[must_use]
    pub fn new(id: B256, agent: &AgentId, config: ChannelConfig, now_ms: i64) -> Self {
        Self {
            id,
            agent: agent.clone(),
            config,
            state: PurseState::Open,
            charged: Usdc::ZERO,
            ceiling: Usdc::ZERO,
            signature: Vec::new(),
            held: None,
            chain: OnChain { read_ms: now_ms, ..OnChain::default() },
            finalize_s: None,
            version: 0,
            created_ms: now_ms,
        }
    }

    /// What it can still pay for.
    #[must_use]
    pub const fn left(&self) -> Usdc {
        self.chain.balance.saturating_sub(self.charged)
    }

    /// Returns the total that a voucher for `purchase` has to say; asked again, the same.
    ///
    /// # Errors
    /// [`NotPaid`].
    pub fn next(&self, purchase: &str, price: Usdc) -> Result<Usdc, NotPaid> {
        if self.state != PurseState::Open {
            return Err(NotPaid::Closing);
        }
        if let Some((other, _)) = &self.held
            && other != purchase
        {
            return Err(NotPaid::Held(other.clone()));
        }
        let total = self.charged.saturating_add(price);
        if total > self.chain.balance {
            return Err(NotPaid::Short(total.saturating_sub(self.chain.balance)));
        }
        Ok(total)
    }

    /// Notes that a voucher for `total` leaves with `purchase`. To be durable before it does.
    pub fn hold(&mut self, purchase: &str, price: Usdc, total: Usdc, signature: &[u8]) {
        self.version += 1;
        self.held = Some((purchase.to_owned(), price));
        if total >= self.ceiling {
            self.ceiling = total;
            self.signature = signature.to_vec();
        }
    }

    /// Takes a receipt: what the purchase cost, and the seller's total where it says one.
    ///
    /// # Errors
    /// [`Overcharge`]: sign nothing more, and ask for the rest back. What can be lost is what is signed.
    pub fn charge(&mut self, charged: Usdc, total: Option<Usdc>) -> Result<(), Overcharge> {
        let Some((_, price)) = self.held.take() else { return Ok(()) };
        self.version += 1;
        let ours = self.charged.saturating_add(charged.min(price));
        self.charged = ours;
        if charged > price {
            return Err(Overcharge::Price { charged, price });
        }
        match total {
            Some(theirs) if theirs != ours => Err(Overcharge::Total { theirs, ours }),
            _ => Ok(()),
        }
    }

    /// Notes that the purchase was not charged, by the seller's own word with our signature under it.
    pub fn free(&mut self) {
        if self.held.take().is_some() {
            self.version += 1;
        }
    }

    /// Takes what the seller says was charged in all, where our own signature covers it: between what
    /// we know for certain and what we signed. Answers with whether it was taken.
    pub fn adopt(&mut self, total: Usdc) -> bool {
        let least = self.charged.max(self.chain.claimed);
        if total < least || total > self.ceiling {
            return false;
        }
        self.version += 1;
        self.charged = total;
        self.held = None;
        true
    }

    /// Notes what the hub says.
    pub fn seen(&mut self, chain: OnChain) {
        self.version += 1;
        self.chain = chain;
        // Claimed with our signature: it counts, whoever forgot it.
        self.charged = self.charged.max(chain.claimed).min(self.ceiling.max(chain.claimed));
        self.ceiling = self.ceiling.max(self.charged);
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Address;

    use super::*;

    fn usdc(units: u64) -> Usdc {
        Usdc::from_units(units).unwrap()
    }

    fn purse(balance: u64) -> PurseRow {
        let config = ChannelConfig {
            payer: Address::repeat_byte(1),
            payer_authorizer: Address::repeat_byte(2),
            receiver: Address::repeat_byte(3),
            receiver_authorizer: Address::repeat_byte(4),
            token: Address::repeat_byte(5),
            withdraw_delay: 900,
            salt: B256::ZERO,
        };
        let mut purse = PurseRow::new(B256::repeat_byte(9), &"buyer".parse().unwrap(), config, 0);
        purse.seen(OnChain { balance: usdc(balance), ..OnChain::default() });
        purse
    }

    #[test]
    fn one_voucher_is_out_at_a_time_and_a_repeat_is_the_same() {
        let mut purse = purse(100);
        let total = purse.next("a", usdc(30)).unwrap();
        purse.hold("a", usdc(30), total, &[1]);
        assert_eq!(purse.next("a", usdc(30)), Ok(total));
        assert_eq!(purse.next("b", usdc(30)), Err(NotPaid::Held("a".into())));
        purse.charge(usdc(20), Some(usdc(20))).unwrap();
        assert_eq!(purse.next("b", usdc(30)), Ok(usdc(50)));
        assert_eq!(purse.next("b", usdc(81)), Err(NotPaid::Short(usdc(1))));
        assert_eq!(purse.left(), usdc(80));
    }

    #[test]
    fn a_seller_that_takes_more_is_found_out() {
        let start = || {
            let mut purse = purse(100);
            purse.hold("a", usdc(10), usdc(10), &[1]);
            purse
        };
        let more = start().charge(usdc(11), None);
        assert_eq!(more, Err(Overcharge::Price { charged: usdc(11), price: usdc(10) }));
        let other = start().charge(usdc(10), Some(usdc(12)));
        assert_eq!(other, Err(Overcharge::Total { theirs: usdc(12), ours: usdc(10) }));
        let mut greedy = start();
        let _ = greedy.charge(usdc(99), None);
        // No more than what was signed can be lost, and that is what counts.
        assert_eq!((greedy.charged, greedy.ceiling), (usdc(10), usdc(10)));
    }

    #[test]
    fn a_lie_about_the_total_is_not_adopted() {
        let mut purse = purse(100);
        purse.hold("a", usdc(10), usdc(10), &[1]);
        assert!(!purse.adopt(usdc(11)), "more than was signed");
        assert!(purse.adopt(usdc(10)));
        assert!(!purse.adopt(usdc(9)), "less than is known");
        purse.hold("b", usdc(5), usdc(15), &[2]);
        purse.seen(OnChain { claimed: usdc(15), ..purse.chain });
        assert!(!purse.adopt(usdc(12)), "less than was claimed");
        assert_eq!(purse.charged, usdc(15));
    }
}
