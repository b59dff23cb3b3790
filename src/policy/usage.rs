//! What has been used of the limits: by one agent, and of the whole wallet.
//!
//! A payment is *reserved* when it is accepted, and then *settled* at depth or *voided*. Reserved
//! amounts count as if they were paid now, at every moment, so that the daemon never lets through
//! what the contract would refuse. Settled amounts count in the step of their block's time, as on
//! chain. What an approval sets aside is neither checked nor counted, as on chain.

use std::{collections::HashMap, hash::Hash};

use alloy::primitives::Address;
use serde::{Deserialize, Serialize};

use super::{
    document::{Counts, Policy},
    overrides,
};
use crate::{
    money::Usdc,
    window::{AgentWindow, CountWindow, WalletWindow},
};

/// Entries that a map of windows holds at most, for each agent.
const MAX_TRACKED: usize = 4_096;

/// What of a payment counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Where the money goes.
    pub payee: Address,
    /// How much.
    pub amount: Usdc,
    /// What its approval sets aside: bits of [`overrides`]; 0 for a payment without approval.
    pub overrides: u8,
}

impl Facts {
    const fn counts_against(&self, bit: u8) -> bool {
        self.overrides & bit == 0
    }
}

/// Where an accepted payment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Reserved.
    Pending,
    /// Final: paid in a block of this time.
    Paid {
        /// Unix seconds.
        block_time_s: u64,
    },
}

/// Three windows that count payments.
#[derive(Clone, Copy, Debug)]
pub(super) struct CountWindows {
    pub minute: CountWindow,
    pub hour: CountWindow,
    pub day: CountWindow,
}

impl Default for CountWindows {
    fn default() -> Self {
        Self {
            minute: CountWindow::counting(60),
            hour: CountWindow::counting(3_600),
            day: CountWindow::counting(86_400),
        }
    }
}

impl CountWindows {
    fn add(&mut self, now_s: u64) {
        self.minute.add(now_s, 1);
        self.hour.add(now_s, 1);
        self.day.add(now_s, 1);
    }

    fn take_back(&mut self, now_s: u64) {
        self.minute.take_back(now_s, 1);
        self.hour.take_back(now_s, 1);
        self.day.take_back(now_s, 1);
    }

    /// Pairs each limit that is set with its window: (name, limit, window).
    pub(super) fn against<'a>(
        &'a self,
        counts: &Counts,
    ) -> impl Iterator<Item = (&'static str, u64, &'a CountWindow)> {
        [
            ("per_minute", counts.per_minute, &self.minute),
            ("per_hour", counts.per_hour, &self.hour),
            ("per_day", counts.per_day, &self.day),
        ]
        .into_iter()
        .filter_map(|(name, limit, window)| Some((name, u64::from(limit?), window)))
    }
}

/// What one agent has used.
#[derive(Clone, Debug)]
pub struct Usage {
    /// Frozen by an operator, in the daemon (the chain's own freeze is in
    /// [`super::ChainLimits`]).
    pub frozen: bool,
    /// Reserved and not yet final.
    pub(super) pending: Usdc,
    /// Final, by block time.
    pub(super) day: AgentWindow,
    /// Final, by block time.
    pub(super) month: AgentWindow,
    /// Final, ever.
    pub(super) lifetime: Usdc,
    /// Accepted payments, by the daemon's clock.
    pub(super) counts: CountWindows,
    /// The same by payee, kept only where the policy limits it.
    pub(super) payees: HashMap<Address, CountWindows>,
    /// The same by payee and base units, kept only where the policy has a loop breaker.
    pub(super) loops: HashMap<(Address, u64), CountWindow>,
}

impl Default for Usage {
    fn default() -> Self {
        Self {
            frozen: false,
            pending: Usdc::ZERO,
            day: AgentWindow::day(),
            month: AgentWindow::month(),
            lifetime: Usdc::ZERO,
            counts: CountWindows::default(),
            payees: HashMap::new(),
            loops: HashMap::new(),
        }
    }
}

impl Usage {
    /// Counts a payment that was accepted at `now_s`, for count limits and the loop breaker. It
    /// counts whatever becomes of it.
    pub fn note_accepted(&mut self, policy: &Policy, facts: &Facts, now_s: u64) {
        self.counts.add(now_s);
        if !policy.payee_counts.is_off() {
            make_room(&mut self.payees, &facts.payee, |seen| seen.day.used(now_s));
            self.payees.entry(facts.payee).or_default().add(now_s);
        }
        if let Some(loops) = policy.loops {
            let key = (facts.payee, facts.amount.units());
            make_room(&mut self.loops, &key, |seen| seen.used(now_s));
            let empty = || CountWindow::counting(loops.within_s);
            self.loops.entry(key).or_insert_with(empty).add(now_s, 1);
        }
    }

    /// Takes back [`Usage::note_accepted`] of a payment that was not accepted after all.
    pub fn forget_accepted(&mut self, facts: &Facts, now_s: u64) {
        self.counts.take_back(now_s);
        if let Some(seen) = self.payees.get_mut(&facts.payee) {
            seen.take_back(now_s);
        }
        if let Some(seen) = self.loops.get_mut(&(facts.payee, facts.amount.units())) {
            seen.take_back(now_s, 1);
        }
    }

    /// Reserves an accepted payment's amount.
    pub fn reserve(&mut self, facts: &Facts) {
        if facts.counts_against(overrides::AGENT_CAPS) {
            self.pending = self.pending.saturating_add(facts.amount);
        }
    }

    /// Turns a reservation into final spending in a block of time `block_time_s`.
    pub fn settle(&mut self, facts: &Facts, block_time_s: u64) {
        self.void(facts);
        self.book(facts, block_time_s);
    }

    /// Gives a reservation back.
    pub fn void(&mut self, facts: &Facts) {
        if facts.counts_against(overrides::AGENT_CAPS) {
            self.pending = self.pending.saturating_sub(facts.amount);
        }
    }

    /// Takes up a payment of the past, in any order, at start: everything reserved, and everything
    /// paid that a window can still hold (several of one step may come as their sum). What was
    /// accepted is counted apart, by [`Usage::note_accepted`].
    pub fn replay(&mut self, facts: &Facts, outcome: Outcome) {
        match outcome {
            Outcome::Pending => self.reserve(facts),
            Outcome::Paid { block_time_s } => self.book(facts, block_time_s),
        }
    }

    /// Takes up at start what was ever paid against the agent's caps, which reaches further back
    /// than what is replayed.
    pub fn carry_lifetime(&mut self, paid: Usdc) {
        self.lifetime = self.lifetime.max(paid);
    }

    /// Returns what is reserved and not yet final.
    #[must_use]
    pub const fn pending(&self) -> Usdc {
        self.pending
    }

    fn book(&mut self, facts: &Facts, block_time_s: u64) {
        if facts.counts_against(overrides::AGENT_CAPS) {
            self.day.add(block_time_s, facts.amount.units());
            self.month.add(block_time_s, facts.amount.units());
            self.lifetime = self.lifetime.saturating_add(facts.amount);
        }
    }
}

/// Makes room for one more entry: forgets those that count nothing any more, and if all still
/// count, the quarter that counts least. A loop or a favourite payee, counting most, stays.
fn make_room<K: Copy + Eq + Hash, V>(map: &mut HashMap<K, V>, key: &K, used: impl Fn(&V) -> u64) {
    if map.len() < MAX_TRACKED || map.contains_key(key) {
        return;
    }
    map.retain(|_, seen| used(seen) > 0);
    if map.len() < MAX_TRACKED {
        return;
    }
    let mut by_use: Vec<(u64, K)> = map.iter().map(|(key, seen)| (used(seen), *key)).collect();
    by_use.sort_unstable_by_key(|(used, _)| *used);
    for (_, key) in &by_use[..MAX_TRACKED / 4] {
        map.remove(key);
    }
}

/// What the whole wallet has used, and what is on its way to each payee.
#[derive(Clone, Debug)]
pub struct WalletUsage {
    /// Frozen on chain, or in the daemon by an operator's order.
    pub frozen: bool,
    /// The contract's cap over any 24 hours.
    pub cap: Option<Usdc>,
    /// Reserved and not yet final.
    pub(super) pending: Usdc,
    /// Final, by block time.
    pub(super) window: WalletWindow,
    /// Payees with payments under way. Bounded by the number of those payments.
    pub(super) payees: HashMap<Address, Underway>,
}

/// Payments of all agents to one payee that are reserved and not yet final.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Underway {
    pub amount: Usdc,
    pub count: u32,
}

impl Default for WalletUsage {
    fn default() -> Self {
        Self {
            frozen: false,
            cap: None,
            pending: Usdc::ZERO,
            window: WalletWindow::wallet_day(),
            payees: HashMap::new(),
        }
    }
}

impl WalletUsage {
    /// Is a payment to this payee on its way?
    #[must_use]
    pub fn is_underway(&self, payee: Address) -> bool {
        self.underway_to(payee).count > 0
    }

    /// Reserves an accepted payment's amount.
    pub fn reserve(&mut self, facts: &Facts) {
        if facts.counts_against(overrides::WALLET_CAP) {
            self.pending = self.pending.saturating_add(facts.amount);
        }
        if facts.counts_against(overrides::PAYEE) {
            let underway = self.payees.entry(facts.payee).or_default();
            underway.amount = underway.amount.saturating_add(facts.amount);
            underway.count = underway.count.saturating_add(1);
        }
    }

    /// Turns a reservation into final spending in a block of time `block_time_s`.
    pub fn settle(&mut self, facts: &Facts, block_time_s: u64) {
        self.void(facts);
        self.book(facts, block_time_s);
    }

    /// Gives a reservation back.
    pub fn void(&mut self, facts: &Facts) {
        if facts.counts_against(overrides::WALLET_CAP) {
            self.pending = self.pending.saturating_sub(facts.amount);
        }
        if facts.counts_against(overrides::PAYEE)
            && let Some(underway) = self.payees.get_mut(&facts.payee)
        {
            underway.amount = underway.amount.saturating_sub(facts.amount);
            underway.count = underway.count.saturating_sub(1);
            if underway.count == 0 {
                self.payees.remove(&facts.payee);
            }
        }
    }

    /// Takes up a payment of the past, as [`Usage::replay`].
    pub fn replay(&mut self, facts: &Facts, outcome: Outcome) {
        match outcome {
            Outcome::Pending => self.reserve(facts),
            Outcome::Paid { block_time_s } => self.book(facts, block_time_s),
        }
    }

    /// Returns what is reserved and not yet final.
    #[must_use]
    pub const fn pending(&self) -> Usdc {
        self.pending
    }

    pub(super) fn underway_to(&self, payee: Address) -> Underway {
        self.payees.get(&payee).copied().unwrap_or_default()
    }

    fn book(&mut self, facts: &Facts, block_time_s: u64) {
        if facts.counts_against(overrides::WALLET_CAP) {
            self.window.add(block_time_s, facts.amount.units());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{payee, policy, usdc};

    fn facts(to: u8, amount: &str, overrides: u8) -> Facts {
        Facts { payee: payee(to), amount: usdc(amount), overrides }
    }

    #[test]
    fn a_reservation_is_given_back_or_spent() {
        let (mut usage, mut wallet) = (Usage::default(), WalletUsage::default());
        for (to, amount) in [(1, "10"), (1, "5")] {
            usage.reserve(&facts(to, amount, 0));
            wallet.reserve(&facts(to, amount, 0));
        }
        assert_eq!((usage.pending(), wallet.pending()), (usdc("15"), usdc("15")));
        assert_eq!(wallet.underway_to(payee(1)), Underway { amount: usdc("15"), count: 2 });
        usage.void(&facts(1, "10", 0));
        wallet.void(&facts(1, "10", 0));
        usage.settle(&facts(1, "5", 0), 1_000_000);
        wallet.settle(&facts(1, "5", 0), 1_000_000);
        assert_eq!((usage.pending(), wallet.pending()), (Usdc::ZERO, Usdc::ZERO));
        assert_eq!(usage.lifetime, usdc("5"));
        assert_eq!(usage.day.used(1_000_000), 5_000_000);
        assert_eq!(wallet.window.used(1_000_000), 5_000_000);
        assert!(wallet.payees.is_empty());
    }

    #[test]
    fn a_lifetime_reaches_further_back_than_the_windows() {
        let mut usage = Usage::default();
        usage.replay(&facts(1, "5", 0), Outcome::Paid { block_time_s: 1_000 });
        usage.carry_lifetime(usdc("900"));
        assert_eq!((usage.lifetime, usage.month.used(1_000)), (usdc("900"), 5_000_000));
        usage.settle(&facts(1, "1", 0), 2_000);
        usage.carry_lifetime(Usdc::ZERO);
        assert_eq!(usage.lifetime, usdc("901"));
    }

    #[test]
    fn what_an_approval_sets_aside_is_not_counted() {
        let (mut usage, mut wallet) = (Usage::default(), WalletUsage::default());
        let over_agent = facts(1, "7", overrides::AGENT_CAPS | overrides::PAYEE);
        usage.reserve(&over_agent);
        wallet.reserve(&over_agent);
        assert_eq!((usage.pending(), wallet.pending()), (Usdc::ZERO, usdc("7")));
        assert_eq!(wallet.underway_to(payee(1)).count, 0);
        usage.settle(&over_agent, 0);
        wallet.settle(&over_agent, 0);
        assert_eq!((usage.day.used(0), usage.lifetime), (0, Usdc::ZERO));
        assert_eq!(wallet.window.used(0), 7_000_000);
    }

    #[test]
    fn history_in_any_order_gives_the_same_usage() {
        let policy = policy("[counts.payee]\nper_day = 9\n[loops]\nsame_payment=5\nwithin='1h'");
        let rows = [
            ("1", 5_000_000, Some(Outcome::Paid { block_time_s: 5_000_010 })),
            ("2", 5_000_100, Some(Outcome::Pending)),
            ("1", 5_000_200, None),
            ("4", 5_040_000, Some(Outcome::Paid { block_time_s: 5_040_010 })),
        ];
        let build = |rows: &mut dyn Iterator<Item = &(&str, u64, Option<Outcome>)>| {
            let mut usage = Usage::default();
            rows.for_each(|(amount, accepted_s, outcome)| {
                let facts = facts(1, amount, 0);
                usage.note_accepted(&policy, &facts, *accepted_s);
                if let Some(outcome) = outcome {
                    usage.replay(&facts, *outcome);
                }
            });
            usage
        };
        for usage in [build(&mut rows.iter()), build(&mut rows.iter().rev())] {
            assert_eq!(usage.pending(), usdc("2"));
            assert_eq!(usage.lifetime, usdc("5"));
            assert_eq!(usage.day.used(5_040_010), 5_000_000);
            assert_eq!(usage.counts.day.used(5_040_010), 4);
            assert_eq!(usage.payees[&payee(1)].day.used(5_040_010), 4);
            assert_eq!(usage.loops[&(payee(1), 1_000_000)].used(5_000_300), 2);
        }
    }

    #[test]
    fn maps_stay_bounded_and_keep_what_counts_most() {
        let policy = policy("[loops]\nsame_payment = 5\nwithin = '60s'");
        let mut usage = Usage::default();
        let note = |usage: &mut Usage, units, now| {
            let facts =
                Facts { payee: payee(1), amount: Usdc::from_units(units).unwrap(), overrides: 0 };
            usage.note_accepted(&policy, &facts, now);
        };
        (0..3).for_each(|_| note(&mut usage, 1, 1_000));
        (2..20_000).for_each(|units| note(&mut usage, units, 1_000));
        assert!(usage.loops.len() <= MAX_TRACKED);
        assert_eq!(usage.loops[&(payee(1), 1)].used(1_000), 3);
        note(&mut usage, 30_000, 5_000); // everything else is stale by now
        (30_001..40_000).for_each(|units| note(&mut usage, units, 5_000));
        assert!(usage.loops.len() <= MAX_TRACKED);
        assert!(!usage.loops.contains_key(&(payee(1), 1)));
    }
}
