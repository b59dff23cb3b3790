//! A channel as its payer keeps it: the wallet's money, an agent's signature.
//!
//! ```text
//!  0 ── claimed ── charged ── ceiling (signed) ── balance (deposited, final)
//! ```
//!
//! One call at a time goes out, with a voucher over what was charged plus its price. Where its answer is
//! lost, the next one's voucher leaves its price out: a seller takes that voucher only if it did not charge
//! the lost one, and never takes the lost one's afterwards, since a voucher has to be over exactly what was
//! charged plus a price. If it did charge it, it shows our own signature over more. A seller that charges
//! more than it said gets nothing more, and the money is asked back.

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
    /// Index of the agent's key, which signs its vouchers and its end.
    pub key_index: u32,
    /// The host that it was opened for.
    pub host: String,
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
    /// The purchase whose voucher left last, while it is not known what that cost.
    pub held: Option<String>,
    /// On chain, at a final block.
    pub chain: OnChain,
    /// What came back of it.
    pub returned: Usdc,
    /// When it was opened or last paid, milliseconds.
    pub used_ms: i64,
    /// Counts changes.
    pub version: u64,
    /// When it was opened, milliseconds.
    pub created_ms: i64,
}

/// Why a channel does not pay now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPaid {
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
    pub fn new(
        id: B256,
        (agent, key_index): (&AgentId, u32),
        host: String,
        config: ChannelConfig,
        now_ms: i64,
    ) -> Self {
        Self {
            id,
            agent: agent.clone(),
            key_index,
            host,
            config,
            state: PurseState::Open,
            charged: Usdc::ZERO,
            ceiling: Usdc::ZERO,
            signature: Vec::new(),
            held: None,
            chain: OnChain { read_ms: now_ms, ..OnChain::default() },
            returned: Usdc::ZERO,
            used_ms: now_ms,
            version: 0,
            created_ms: now_ms,
        }
    }

    /// What it can still pay for.
    #[must_use]
    pub const fn left(&self) -> Usdc {
        self.chain.balance.saturating_sub(self.charged)
    }

    /// From when on, in unix seconds, what was asked back can be had.
    #[must_use]
    pub fn home_s(&self) -> Option<u64> {
        let since_s = self.chain.withdraw_since_s?;
        Some(since_s.saturating_add(self.config.withdraw_delay.into()))
    }

    /// Returns the total that a voucher for a purchase at `price` has to say.
    ///
    /// # Errors
    /// [`NotPaid`].
    pub fn next(&self, price: Usdc) -> Result<Usdc, NotPaid> {
        if self.state != PurseState::Open || self.chain.withdraw_since_s.is_some() {
            return Err(NotPaid::Closing);
        }
        let total = self.charged.saturating_add(price);
        if total > self.chain.balance {
            return Err(NotPaid::Short(total.saturating_sub(self.chain.balance)));
        }
        Ok(total)
    }

    /// Notes that a voucher for `total` leaves with `purchase`. To be durable before it does.
    pub fn hold(&mut self, purchase: &str, total: Usdc, signature: &[u8], now_ms: i64) {
        self.version += 1;
        self.held = Some(purchase.to_owned());
        self.used_ms = now_ms;
        if total >= self.ceiling {
            self.ceiling = total;
            self.signature = signature.to_vec();
        }
    }

    /// Takes the receipt of the purchase whose voucher left last: what it cost of its price, and the
    /// seller's total where it says one.
    ///
    /// # Errors
    /// [`Overcharge`]: sign nothing more, and ask for the rest back. What can be lost is what is signed.
    pub fn charge(
        &mut self,
        price: Usdc,
        charged: Usdc,
        total: Option<Usdc>,
    ) -> Result<(), Overcharge> {
        self.held = None;
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

    /// Takes what the seller says was charged in all, where our own signature over `signed` covers it.
    /// Answers with what it charged beyond our count; `None` if that is nothing, or no such thing can be.
    pub fn adopt(&mut self, total: Usdc, (signed, signature): (Usdc, &[u8])) -> Option<Usdc> {
        if total <= self.charged || total > signed {
            return None;
        }
        self.version += 1;
        let more = total.saturating_sub(self.charged);
        self.charged = total;
        self.held = None;
        // Signed by us and forgotten: the store is older than the channel.
        if signed > self.ceiling {
            self.ceiling = signed;
            self.signature = signature.to_vec();
        }
        Some(more)
    }

    /// Notes what the hub says. Answers with what was claimed beyond our count: it was charged, whoever
    /// forgot it.
    pub fn seen(&mut self, chain: OnChain) -> Usdc {
        self.version += 1;
        let back = self.chain.balance.saturating_sub(chain.balance);
        self.returned = self.returned.saturating_add(back);
        self.chain = chain;
        let more = chain.claimed.saturating_sub(self.charged);
        self.charged = self.charged.max(chain.claimed);
        self.ceiling = self.ceiling.max(self.charged);
        more
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
        let buyer = "buyer".parse().unwrap();
        let mut purse =
            PurseRow::new(B256::repeat_byte(9), (&buyer, 0), "a.example".into(), config, 0);
        purse.seen(OnChain { balance: usdc(balance), ..OnChain::default() });
        purse
    }

    #[test]
    fn a_voucher_is_over_what_was_charged_and_the_price() {
        let mut purse = purse(100);
        let total = purse.next(usdc(30)).unwrap();
        purse.hold("a", total, &[1], 0);
        purse.charge(usdc(30), usdc(20), Some(usdc(20))).unwrap();
        assert_eq!(purse.next(usdc(30)), Ok(usdc(50)));
        assert_eq!(purse.next(usdc(81)), Err(NotPaid::Short(usdc(1))));
        assert_eq!(purse.left(), usdc(80));
        // What is lost is left out of the next, and the highest signature stays in mind.
        purse.hold("b", usdc(50), &[2], 0);
        assert_eq!(purse.next(usdc(10)), Ok(usdc(30)));
        purse.hold("c", usdc(30), &[3], 0);
        assert_eq!((purse.ceiling, purse.signature.as_slice()), (usdc(50), [2].as_slice()));
    }

    #[test]
    fn a_seller_that_takes_more_is_found_out() {
        let start = || {
            let mut purse = purse(100);
            purse.hold("a", usdc(10), &[1], 0);
            purse
        };
        let more = start().charge(usdc(10), usdc(11), None);
        assert_eq!(more, Err(Overcharge::Price { charged: usdc(11), price: usdc(10) }));
        let other = start().charge(usdc(10), usdc(10), Some(usdc(12)));
        assert_eq!(other, Err(Overcharge::Total { theirs: usdc(12), ours: usdc(10) }));
        let mut greedy = start();
        let _ = greedy.charge(usdc(10), usdc(99), None);
        // No more than what was signed can be lost, and that is what counts.
        assert_eq!((greedy.charged, greedy.ceiling), (usdc(10), usdc(10)));
    }

    #[test]
    fn a_lie_about_the_total_is_not_adopted() {
        let mut purse = purse(100);
        purse.hold("a", usdc(10), &[1], 0);
        assert_eq!(purse.adopt(usdc(11), (usdc(10), &[1])), None, "more than was signed");
        assert_eq!(purse.adopt(usdc(0), (usdc(10), &[1])), None, "nothing new");
        assert_eq!(purse.adopt(usdc(10), (usdc(10), &[1])), Some(usdc(10)));
        assert_eq!(purse.adopt(usdc(9), (usdc(10), &[1])), None, "less than is known");
        purse.hold("b", usdc(15), &[2], 0);
        assert_eq!(purse.seen(OnChain { claimed: usdc(15), ..purse.chain }), usdc(5));
        assert_eq!(purse.adopt(usdc(12), (usdc(15), &[2])), None, "less than was claimed");
        assert_eq!(purse.charged, usdc(15));
        // An older store: our own signature says what was signed.
        assert_eq!(purse.adopt(usdc(40), (usdc(50), &[3])), Some(usdc(25)));
        assert_eq!((purse.charged, purse.ceiling), (usdc(40), usdc(50)));
    }

    #[test]
    fn what_comes_back_is_counted() {
        let mut purse = purse(100);
        purse.hold("a", usdc(10), &[1], 0);
        purse.charge(usdc(10), usdc(10), None).unwrap();
        let claimed = OnChain { claimed: usdc(10), ..purse.chain };
        assert_eq!(purse.seen(claimed), Usdc::ZERO);
        purse.seen(OnChain { balance: usdc(10), ..claimed });
        assert_eq!((purse.returned, purse.left()), (usdc(90), Usdc::ZERO));
    }
}
