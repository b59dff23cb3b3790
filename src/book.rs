//! What the daemon knows by heart: agents with their policies and usage, payees, the wallet,
//! the operators. Rebuilt at start from store, policy files and chain; the store and the contract
//! stay the judges.

use std::collections::{HashMap, HashSet, VecDeque};

use alloy::primitives::Address;
use serde::{Deserialize, Serialize};

use crate::{
    contract::coupon::CouponGrant,
    money::Usdc,
    payment::{AgentId, Context, Payee},
    policy::{
        Categories, ChainLimits, Facts, FetchBy, FetchLimits, FetchUsed, Judgement, Outcome,
        PayeeRecord, Policy, Question, Usage, WalletUsage, evaluate, evaluate_fetch, may_fetch,
        overrides,
    },
    refusal::{Code, Refusal},
    store::Word,
};

/// One agent.
#[derive(Debug)]
pub struct Agent {
    /// Its policy file.
    pub policy: Policy,
    /// Its signing address.
    pub address: Address,
    /// Fingerprint of its request key.
    pub key_id: String,
    /// What the contract holds; `None` if it does not know the agent.
    pub chain: Option<ChainLimits>,
    /// What the contract lets it spend by x402 coupons, beside those limits.
    pub granted: CouponGrant,
    /// The same within what its policy file says: what it is let to spend.
    pub coupons: CouponGrant,
    /// What is used.
    pub usage: Usage,
}

/// One payee.
#[derive(Clone, Debug)]
pub struct KnownPayee {
    /// What the contract holds.
    pub record: PayeeRecord,
    /// Its label.
    pub label: Option<String>,
}

/// The block that a payment became final in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaidIn {
    /// Its number.
    pub block: u64,
    /// Its time, unix seconds.
    pub time_s: u64,
}

/// Newest payments kept beside the contract's totals.
pub const NEWEST: usize = 4_096;

fn no_agent(agent: &AgentId) -> Refusal {
    Refusal::new(Code::AgentInactive, format!("there is no agent `{agent}` any more"))
}

/// Everything.
#[derive(Debug)]
pub struct Book {
    /// Agents by name. Boxed: a map keeps room for twice as many, and an agent is large.
    pub agents: HashMap<AgentId, Box<Agent>>,
    /// Payees by address. Removed ones stay, without categories.
    pub payees: HashMap<Address, KnownPayee>,
    /// Wallet-wide cap, freeze and use.
    pub wallet: WalletUsage,
    /// The operators that are addresses.
    pub operators: HashSet<Address>,
    /// Signatures that make a quorum.
    pub threshold: u64,
    /// Counts the operators' orders to freeze that took hold here.
    pub freezes: u64,
    /// Names of the categories.
    pub categories: Categories,
    /// Addresses that can never be paid: zero, wallet, token, escrow and hub.
    pub reserved: Vec<Address>,
    /// The final block as of which the contract's totals were read.
    totals_at: u64,
    /// The newest payments that the contract counts, oldest first: those behind `totals_at` are not in
    /// its totals as they were read.
    newest: VecDeque<(AgentId, Facts, PaidIn)>,
    /// The newest block of a payment that is not among them any more.
    forgotten: u64,
    labels: HashMap<String, Address>,
    keys: HashMap<String, AgentId>,
    addresses: HashMap<Address, AgentId>,
}

impl Book {
    /// Makes an empty book.
    #[must_use]
    pub fn new(categories: Categories, reserved: Vec<Address>) -> Self {
        Self {
            agents: HashMap::new(),
            payees: HashMap::new(),
            wallet: WalletUsage::default(),
            operators: HashSet::new(),
            threshold: 0,
            freezes: 0,
            categories,
            reserved,
            totals_at: 0,
            newest: VecDeque::new(),
            forgotten: 0,
            labels: HashMap::new(),
            keys: HashMap::new(),
            addresses: HashMap::new(),
        }
    }

    /// Adds an agent.
    pub fn add_agent(&mut self, agent: Agent) {
        let id = agent.policy.agent.clone();
        self.keys.insert(agent.key_id.clone(), id.clone());
        self.addresses.insert(agent.address, id.clone());
        self.agents.insert(id, Box::new(agent));
    }

    /// Finds the agent of a request key.
    #[must_use]
    pub fn agent_by_key(&self, key_id: &str) -> Option<&Agent> {
        self.agents.get(self.keys.get(key_id)?).map(AsRef::as_ref)
    }

    /// Finds the agent of a signing address.
    #[must_use]
    pub fn agent_by_address(&self, address: Address) -> Option<&AgentId> {
        self.addresses.get(&address)
    }

    /// Finds a payee by label, or reads an address.
    #[must_use]
    pub fn resolve(&self, payee: &str) -> Option<Address> {
        if let Some(address) = self.labels.get(payee) {
            return Some(*address);
        }
        if payee.len() != 42 {
            return None;
        }
        // Mixed case claims a checksum, and must then be right.
        let hex = payee.strip_prefix("0x")?;
        let mixed = hex.bytes().any(|b| b.is_ascii_lowercase())
            && hex.bytes().any(|b| b.is_ascii_uppercase());
        if mixed { Address::parse_checksummed(payee, None).ok() } else { payee.parse().ok() }
    }

    /// Returns a payee's label.
    #[must_use]
    pub fn label(&self, payee: Address) -> Option<String> {
        self.payees.get(&payee)?.label.clone()
    }

    /// Writes what the contract holds about a payee.
    pub fn put_payee(&mut self, address: Address, record: PayeeRecord) {
        match self.payees.get_mut(&address) {
            Some(known) => known.record = record,
            None => {
                let label = self
                    .labels
                    .iter()
                    .find(|(_, labelled)| **labelled == address)
                    .map(|(label, _)| label.clone());
                self.payees.insert(address, KnownPayee { record, label });
            }
        }
    }

    /// Names a payee. The newest name of an address wins.
    pub fn put_label(&mut self, address: Address, label: &str) {
        self.labels.retain(|_, labelled| *labelled != address);
        self.labels.insert(label.to_owned(), address);
        if let Some(known) = self.payees.get_mut(&address) {
            known.label = Some(label.to_owned());
        }
    }

    /// Is the label given to another address?
    #[must_use]
    pub fn label_taken(&self, label: &str, by_other_than: Address) -> bool {
        self.labels.get(label).is_some_and(|address| *address != by_other_than)
    }

    /// Is it registered as a payee now?
    #[must_use]
    pub fn is_registered(&self, payee: Address) -> bool {
        self.payees.get(&payee).is_some_and(|known| known.record.categories != 0)
    }

    /// Lists registered payees by label.
    #[must_use]
    pub fn payee_list(&self, mask: u16) -> Vec<Payee> {
        let mut list: Vec<Payee> = self
            .payees
            .iter()
            .filter(|(_, known)| known.record.categories & mask != 0)
            .map(|(address, known)| Payee {
                address: *address,
                label: known.label.clone(),
                categories: self.categories.names_of(known.record.categories),
            })
            .collect();
        list.sort_by(|a, b| (&a.label, a.address).cmp(&(&b.label, b.address)));
        list
    }

    /// Judges a payment at `now_s`. `None` if there is no such agent.
    #[must_use]
    pub fn judge(
        &self,
        agent: &AgentId,
        facts: &Facts,
        context: &Context,
        invoice_taken: bool,
        now_s: u64,
    ) -> Option<Judgement> {
        let known = self.agents.get(agent)?;
        let payee = self.payees.get(&facts.payee);
        let mut reserved = self.reserved.clone();
        reserved.push(known.address);
        let question = Question {
            agent,
            payee: facts.payee,
            payee_label: payee.and_then(|known| known.label.as_deref()),
            amount: facts.amount,
            context,
            invoice_taken,
            reserved: &reserved,
        };
        Some(evaluate(
            &known.policy,
            known.chain.as_ref(),
            payee.map(|known| &known.record),
            &known.usage,
            &self.wallet,
            &question,
            now_s,
        ))
    }

    /// May the agent fetch from a host at all at `now_s`? Returns its limits.
    ///
    /// # Errors
    /// Its standing, or its policy's list of hosts; it has no `[fetch]`.
    pub fn may_fetch(
        &self,
        agent: &AgentId,
        host: &str,
        now_s: u64,
    ) -> Result<FetchLimits, Refusal> {
        let known = self.agents.get(agent).ok_or_else(|| no_agent(agent))?;
        let context = Context { host: Some(host.to_owned()), ..Context::default() };
        may_fetch(&known.policy, known.chain.as_ref(), &known.usage, &self.wallet, &context, now_s)
    }

    /// Judges the price of one call at `now_s`: payee, price, host in the context, what was bought, and
    /// by what it would be paid.
    ///
    /// # Errors
    /// The rule that refuses it.
    pub fn judge_fetch(
        &self,
        agent: &AgentId,
        (payee, price): (Address, Usdc),
        context: &Context,
        used: FetchUsed,
        by: FetchBy,
        now_s: u64,
    ) -> Result<(), Refusal> {
        let known = self.agents.get(agent).ok_or_else(|| no_agent(agent))?;
        let record = self.payees.get(&payee);
        let mut reserved = self.reserved.clone();
        reserved.push(known.address);
        let question = Question {
            agent,
            payee,
            payee_label: record.and_then(|known| known.label.as_deref()),
            amount: price,
            context,
            invoice_taken: false,
            reserved: &reserved,
        };
        evaluate_fetch(
            &known.policy,
            known.chain.as_ref(),
            record.map(|known| &known.record),
            (&known.usage, used, by),
            &self.wallet,
            &question,
            now_s,
        )
    }

    /// Reserves an accepted payment.
    pub fn reserve(&mut self, agent: &AgentId, facts: &Facts, now_s: u64) {
        if let Some(known) = self.agents.get_mut(agent) {
            known.usage.note_accepted(&known.policy, facts, now_s);
            known.usage.reserve(facts);
        }
        self.wallet.reserve(facts);
    }

    /// Takes back [`Book::reserve`]: the store did not keep it.
    pub fn unreserve(&mut self, agent: &AgentId, facts: &Facts, now_s: u64) {
        if let Some(known) = self.agents.get_mut(agent) {
            known.usage.forget_accepted(facts, now_s);
        }
        self.void(agent, facts);
    }

    /// Counts a past payment, or several of one hour added up: at start.
    pub fn replay(&mut self, agent: &AgentId, facts: &Facts, outcome: Outcome) {
        if let Some(known) = self.agents.get_mut(agent) {
            known.usage.replay(facts, outcome);
        }
        self.wallet.replay(facts, outcome);
    }

    /// Takes up what an agent was ever paid for: at start.
    pub fn carry_lifetime(&mut self, agent: &AgentId, paid: Usdc) {
        if let Some(known) = self.agents.get_mut(agent) {
            known.usage.carry_lifetime(paid);
        }
    }

    /// Counts requests that were accepted before: at start.
    pub fn recount(&mut self, agent: &AgentId, facts: &Facts, at_s: u64, count: u64) {
        if let Some(known) = self.agents.get_mut(agent) {
            for _ in 0..count {
                known.usage.note_accepted(&known.policy, facts, at_s);
            }
        }
    }

    /// Takes up what another daemon did.
    pub fn hear(&mut self, word: &Word) {
        match word {
            Word::Reserved { agent, facts, at_s } => self.reserve(agent, facts, *at_s),
            Word::Held { agent, facts } => self.replay(agent, facts, Outcome::Pending),
            Word::Settled { agent, facts, paid_in } => self.settle(agent, facts, *paid_in),
            Word::Voided { agent, facts } => self.void(agent, facts),
            Word::Frozen(agent) => {
                self.freezes += 1;
                if let Some(known) = self.agents.get_mut(agent) {
                    known.usage.frozen = true;
                }
            }
            Word::WalletFrozen => {
                self.freezes += 1;
                self.wallet.frozen = true;
            }
            Word::Policy { .. } => {}
        }
    }

    /// Frees a reservation.
    pub fn void(&mut self, agent: &AgentId, facts: &Facts) {
        if let Some(known) = self.agents.get_mut(agent) {
            known.usage.void(facts);
        }
        self.wallet.void(facts);
    }

    /// Turns a reservation into spending in its block.
    pub fn settle(&mut self, agent: &AgentId, facts: &Facts, paid_in: PaidIn) {
        if let Some(known) = self.agents.get_mut(agent) {
            known.usage.settle(facts, paid_in.time_s);
        }
        self.wallet.settle(facts, paid_in.time_s);
        self.remember(agent.clone(), *facts, paid_in);
        // The contract had counted it when its totals were read.
        if paid_in.block > self.totals_at {
            self.carry_on(agent, facts, paid_in);
        }
    }

    /// Keeps a payment that was booked, for when the contract's totals are read as of a block before it:
    /// at start, with the newest ones in the order of their blocks.
    pub fn remember(&mut self, agent: AgentId, facts: Facts, paid_in: PaidIn) {
        if self.newest.len() == NEWEST
            && let Some((_, _, forgotten)) = self.newest.pop_front()
        {
            self.forgotten = self.forgotten.max(forgotten.block);
        }
        self.newest.push_back((agent, facts, paid_in));
    }

    /// Returns the final block as of which the contract's totals are known.
    #[must_use]
    pub const fn totals_at(&self) -> u64 {
        self.totals_at
    }

    /// The contract's totals were just written as they stand in the final block `block`: what was paid
    /// after it is added, as far back as it is remembered. Returns the block as of which, or of a later
    /// one, they have to be read to be whole.
    #[must_use]
    pub fn totals_as_of(&mut self, block: u64) -> u64 {
        self.totals_at = block;
        let newest = std::mem::take(&mut self.newest);
        for (agent, facts, paid_in) in newest.iter().filter(|(_, _, paid)| paid.block > block) {
            self.carry_on(agent, facts, *paid_in);
        }
        self.newest = newest;
        self.forgotten
    }

    /// Adds a payment to what the contract counts for ever, as the contract does.
    fn carry_on(&mut self, agent: &AgentId, facts: &Facts, paid_in: PaidIn) {
        if facts.overrides & overrides::AGENT_CAPS == 0
            && let Some(known) = self.agents.get_mut(agent)
            && let Some((_, spent)) = known.chain.as_mut().and_then(|chain| chain.budget.as_mut())
        {
            *spent = spent.saturating_add(facts.amount);
        }
        if facts.overrides & overrides::PAYEE == 0
            && let Some(known) = self.payees.get_mut(&facts.payee)
        {
            if let Some((_, spent)) = &mut known.record.cap {
                *spent = spent.saturating_add(facts.amount);
            }
            known.record.last_paid_s = known.record.last_paid_s.max(paid_in.time_s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Another daemon may book a block before this one has read the contract as of the block below it.
    #[test]
    fn a_payment_counts_once_whenever_the_contract_is_read() {
        const PAYEE: Address = Address::repeat_byte(1);
        let usdc = |amount: &str| amount.parse::<Usdc>().unwrap();
        let record = |spent| PayeeRecord {
            categories: 1,
            cap: Some((usdc("100"), usdc(spent))),
            cooldown_s: 60,
            last_paid_s: 0,
        };
        let agent = "atlas".parse().unwrap();
        let facts = |amount| Facts { payee: PAYEE, amount: usdc(amount), overrides: 0 };
        let mut book = Book::new(Categories::default(), Vec::new());
        book.put_payee(PAYEE, record("0"));
        let spent = |book: &Book| {
            let record = book.payees[&PAYEE].record;
            (record.cap.unwrap().1, record.last_paid_s)
        };
        assert_eq!(book.totals_as_of(10), 0);
        book.settle(&agent, &facts("7"), PaidIn { block: 10, time_s: 100 });
        assert_eq!(spent(&book), (usdc("0"), 0), "read with it");
        book.settle(&agent, &facts("5"), PaidIn { block: 12, time_s: 120 });
        book.settle(&agent, &facts("3"), PaidIn { block: 11, time_s: 110 });
        assert_eq!(spent(&book), (usdc("8"), 120));

        // Read again: as of a block that has one of them, then as of one that has all.
        book.put_payee(PAYEE, record("10"));
        assert_eq!(book.totals_as_of(11), 0);
        assert_eq!(spent(&book), (usdc("15"), 120));
        book.put_payee(PAYEE, record("15"));
        assert_eq!(book.totals_as_of(12), 0);
        assert_eq!(spent(&book), (usdc("15"), 0));
        let over = Facts { overrides: overrides::PAYEE, ..facts("1") };
        book.settle(&agent, &over, PaidIn { block: 13, time_s: 130 });
        assert_eq!(spent(&book), (usdc("15"), 0), "the contract does not count it");

        // Older ones than are remembered: a reading as of an older block is not whole.
        for n in 0..NEWEST as u64 {
            book.settle(&agent, &facts("0"), PaidIn { block: 20 + n, time_s: 200 + n });
        }
        assert_eq!(book.totals_as_of(12), 13);
    }
}
