//! The decision about one payment, with its reasons.
//!
//! Rules are judged in this order; the first that refuses decides, and what operators may set aside
//! is collected over all of them:
//!
//! 1. `payment.amount`, `payment.payee`: above zero; not the wallet, the token or the agent
//! 2. `wallet.frozen`, `agent.active`, `agent.frozen`, `expires`
//! 3. `invoices.duplicates`, `hosts`
//! 4. `loops.same_payment`, `counts.*`, `counts.payee.*`
//! 5. `payee.registered`, `categories`, `context.category`
//! 6. `payee.cap`, `payee.cooldown`
//! 7. `limits.ceiling`
//! 8. `limits.day`, `limits.month`, `limits.lifetime`
//! 9. `wallet.cap`
//!
//! Limits are the tighter of file and chain. Equality passes: an amount equal to the ceiling, or
//! one that fills a cap to the last unit, is let through, as in the contract.

use alloy::primitives::Address;

use super::{
    FetchLimits, OnLimit, Policy, Usage, WalletUsage,
    room::{MoneyCap, Refill, money_caps},
};
use crate::{
    money::Usdc,
    payment::{AgentId, Context},
    refusal::{Code, Refusal},
    view::RuleTrace,
};

/// What an operators' approval can set aside: bits as in the contract's `payApproved`.
pub mod overrides {
    /// The agent's ceiling.
    pub const CEILING: u8 = 1;
    /// The payee's registration, categories, cap and cooldown.
    pub const PAYEE: u8 = 2;
    /// The agent's day cap, 30-day cap and lifetime budget.
    pub const AGENT_CAPS: u8 = 4;
    /// The wallet's cap.
    pub const WALLET_CAP: u8 = 8;
}

/// Returns the names of override bits, as views show them.
#[must_use]
pub fn override_names(bits: u8) -> Vec<String> {
    [
        (overrides::CEILING, "ceiling"),
        (overrides::PAYEE, "payee"),
        (overrides::AGENT_CAPS, "agent_caps"),
        (overrides::WALLET_CAP, "wallet_cap"),
    ]
    .into_iter()
    .filter(|(bit, _)| bits & bit != 0)
    .map(|(_, name)| name.to_owned())
    .collect()
}

/// What the contract holds about an agent, as of the last final block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainLimits {
    /// Known and not removed.
    pub active: bool,
    /// Frozen on chain.
    pub frozen: bool,
    /// Unix seconds, exclusive.
    pub expiry_s: u64,
    /// Largest payment without operators.
    pub ceiling: Usdc,
    /// Over any 24 hours; `None` = off.
    pub day: Option<Usdc>,
    /// Over any 30 days; `None` = off.
    pub month: Option<Usdc>,
    /// Lifetime budget: (limit, spent); `None` = off.
    pub budget: Option<(Usdc, Usdc)>,
    /// Payee categories it may pay, by bit.
    pub categories: u16,
    /// The agent's policy version.
    pub version: u64,
}

/// What the contract holds about a payee, as of the last final block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayeeRecord {
    /// Its categories, by bit; 0: not registered.
    pub categories: u16,
    /// Cap over its life: (limit, spent).
    pub cap: Option<(Usdc, Usdc)>,
    /// Seconds between two payments to it; 0 = none.
    pub cooldown_s: u32,
    /// When it was last paid, unix seconds; 0: never.
    pub last_paid_s: u64,
}

/// One payment to decide about.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who asks.
    pub agent: &'a AgentId,
    /// Where the money would go.
    pub payee: Address,
    /// The payee's label, for sentences.
    pub payee_label: Option<&'a str>,
    /// How much.
    pub amount: Usdc,
    /// For whom and for what.
    pub context: &'a Context,
    /// Is another payment to this payee, with this invoice, paid or under way?
    pub invoice_taken: bool,
    /// Addresses that are never payees: the wallet, the token, the agent itself.
    pub reserved: &'a [Address],
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It passes.
    Allow,
    /// Operators decide.
    Ask {
        /// What their approval must set aside: bits of [`overrides`].
        overrides: u8,
        /// Every rule that asks.
        because: Vec<Refusal>,
    },
    /// It is refused.
    Deny(Refusal),
}

impl Decision {
    /// Returns what an accepted payment sets aside; `None` if it is refused.
    #[must_use]
    pub const fn overrides(&self) -> Option<u8> {
        match self {
            Self::Allow => Some(0),
            Self::Ask { overrides, .. } => Some(*overrides),
            Self::Deny(_) => None,
        }
    }
}

/// The decision and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What was decided.
    pub decision: Decision,
    /// Every rule that was looked at, in order.
    pub trace: Vec<RuleTrace>,
}

/// Decides about one payment at `now_s` (unix seconds).
///
/// `chain` is `None` where the contract does not know the agent, `payee` where it does not know the
/// payee. Nothing is counted: see [`Usage::note_accepted`] and [`Usage::reserve`].
#[must_use]
pub fn evaluate(
    policy: &Policy,
    chain: Option<&ChainLimits>,
    payee: Option<&PayeeRecord>,
    usage: &Usage,
    wallet: &WalletUsage,
    question: &Question<'_>,
    now_s: u64,
) -> Judgement {
    let mut judge = Judge::new(policy, question, now_s);
    judge.payment();
    judge.standing(chain, usage, wallet);
    judge.context();
    judge.counts(usage);
    judge.payee(chain, payee.filter(|record| record.categories != 0), wallet);
    judge.ceiling(chain);
    for cap in money_caps(policy, chain, usage, wallet, now_s) {
        judge.cap(&cap);
    }
    judge.finish()
}

/// What an agent bought over HTTP 402 in the last 24 hours, reservations included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchUsed {
    /// From this host.
    pub host: Usdc,
    /// From all hosts.
    pub all: Usdc,
    /// From all hosts in the last minute, rounded up to whole minutes of the clock.
    pub minute: Usdc,
}

/// By what a call would be paid, as far as limits differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FetchBy {
    /// By what has a limit of its own: a coupon, or money that left the wallet before.
    Apart,
    /// By a payment that the contract counts against ceiling, windows, budget and the wallet's cap.
    Counted,
}

/// Decides about the price of one call at `now_s` (unix seconds): the agent's standing, the host in
/// the question's context, the payee, the limits of `[fetch]`, and those of payments where `by` says
/// that it is one. Nobody can be asked while a seller
/// waits, so where a rule would ask the operators, the price is refused.
///
/// # Errors
/// The first rule that refuses it.
pub fn evaluate_fetch(
    policy: &Policy,
    chain: Option<&ChainLimits>,
    payee: Option<&PayeeRecord>,
    (usage, used, by): (&Usage, FetchUsed, FetchBy),
    wallet: &WalletUsage,
    question: &Question<'_>,
    now_s: u64,
) -> Result<(), Refusal> {
    let mut judge = Judge::new(policy, question, now_s);
    judge.payment();
    judge.standing(chain, usage, wallet);
    judge.context();
    judge.payee(chain, payee.filter(|record| record.categories != 0), wallet);
    judge.fetch(used);
    if by == FetchBy::Counted {
        judge.ceiling(chain);
        for cap in money_caps(policy, chain, usage, wallet, now_s) {
            judge.cap(&cap);
        }
    }
    match judge.finish().decision {
        Decision::Allow => Ok(()),
        Decision::Deny(refusal) => Err(refusal),
        Decision::Ask { because, .. } => Err(because.into_iter().next().map_or_else(
            || Refusal::new(Code::Internal, "a rule asks and does not say why"),
            |refusal| refusal.hint("operators cannot be asked while a seller waits"),
        )),
    }
}

/// Decides whether an agent may call a host at all at `now_s`, before any price is known: its
/// standing, and the host in `context`. Returns its limits.
///
/// # Errors
/// The rule that refuses it; the policy has no `[fetch]`.
pub fn may_fetch(
    policy: &Policy,
    chain: Option<&ChainLimits>,
    usage: &Usage,
    wallet: &WalletUsage,
    context: &Context,
    now_s: u64,
) -> Result<FetchLimits, Refusal> {
    let question = Question {
        agent: &policy.agent,
        payee: Address::ZERO,
        payee_label: None,
        amount: Usdc::ZERO,
        context,
        invoice_taken: false,
        reserved: &[],
    };
    let mut judge = Judge::new(policy, &question, now_s);
    judge.standing(chain, usage, wallet);
    judge.context();
    match (judge.finish().decision, policy.fetch) {
        (Decision::Deny(refusal), _) => Err(refusal),
        (_, Some(limits)) => Ok(limits),
        (_, None) => Err(no_fetch().rule("fetch")),
    }
}

fn no_fetch() -> Refusal {
    let detail = "the agent's policy has no [fetch]: it buys nothing over HTTP";
    Refusal::new(Code::HostNotAllowed, detail)
        .hint("have the operators add a [fetch] table to its policy file")
}

struct Judge<'a> {
    policy: &'a Policy,
    question: &'a Question<'a>,
    now_s: u64,
    trace: Vec<RuleTrace>,
    denied: Option<Refusal>,
    asks: Vec<Refusal>,
    overrides: u8,
}

/// What a rule that does not pass leads to.
enum Then {
    Deny,
    /// As the policy says; the bit is what an approval would set aside.
    Follow(OnLimit, u8),
}

impl<'a> Judge<'a> {
    const fn new(policy: &'a Policy, question: &'a Question<'a>, now_s: u64) -> Self {
        Self {
            policy,
            question,
            now_s,
            trace: Vec::new(),
            denied: None,
            asks: Vec::new(),
            overrides: 0,
        }
    }

    /// Writes the rule into the trace and its refusal, if it has one, into the decision.
    fn rule(
        &mut self,
        rule: impl Into<String>,
        limit: Option<String>,
        observed: Option<String>,
        refusal: Option<(Then, Refusal)>,
    ) {
        let rule = rule.into();
        let passed = refusal.is_none();
        if let Some((then, refusal)) = refusal {
            let refusal = refusal.rule(rule.clone());
            match then {
                Then::Follow(OnLimit::Ask, bit) => {
                    self.overrides |= bit;
                    self.asks.push(refusal);
                }
                Then::Deny | Then::Follow(OnLimit::Deny, _) => {
                    self.denied.get_or_insert(refusal);
                }
            }
        }
        self.trace.push(RuleTrace { rule, passed, limit, observed });
    }

    /// A rule that is true or denies.
    fn must(
        &mut self,
        rule: &str,
        observed: Option<String>,
        passed: bool,
        refusal: impl FnOnce() -> Refusal,
    ) {
        self.rule(rule, None, observed, (!passed).then(|| (Then::Deny, refusal())));
    }

    fn to(&self) -> String {
        self.question.payee_label.map_or_else(|| self.question.payee.to_string(), str::to_owned)
    }

    fn payment(&mut self) {
        let amount = self.question.amount;
        self.must("payment.amount", Some(amount.to_string()), !amount.is_zero(), || {
            Refusal::new(Code::InvalidPayment, "the amount is zero")
                .hint("ask for 0.000001 USDC or more")
        });
        let payee = self.question.payee;
        let payable = payee != Address::ZERO && !self.question.reserved.contains(&payee);
        self.must("payment.payee", Some(payee.to_string()), payable, || {
            let detail = format!(
                "{payee} is zero, the wallet, the token or the agent itself: never a payee"
            );
            Refusal::new(Code::Unprocessable, detail).hint("name a registered payee")
        });
    }

    fn standing(&mut self, chain: Option<&ChainLimits>, usage: &Usage, wallet: &WalletUsage) {
        let (agent, sponsor) = (self.question.agent, &self.policy.sponsor);
        self.must("wallet.frozen", None, !wallet.frozen, || {
            Refusal::new(Code::WalletFrozen, "the operators have frozen the whole wallet")
                .hint("wait until the operators' quorum unfreezes it")
        });
        self.must("agent.active", None, chain.is_some_and(|chain| chain.active), || {
            let detail = format!("the contract does not know {agent} as an active agent");
            Refusal::new(Code::AgentInactive, detail)
                .hint(format!("have the operators add it to the contract; sponsor: {sponsor}"))
        });
        let frozen = usage.frozen || chain.is_some_and(|chain| chain.frozen);
        self.must("agent.frozen", None, !frozen, || {
            Refusal::new(Code::AgentFrozen, format!("an operator has frozen {agent}"))
                .hint(format!("stop, and tell the sponsor: {sponsor}"))
        });
        let file = self.policy.expires_s;
        let expiry_s = chain.map_or(file, |chain| chain.expiry_s.min(file));
        let expired = (self.now_s >= expiry_s).then(|| {
            let detail = format!("{agent}'s authority ended at {}", time(expiry_s));
            let hint = format!("have the operators renew it; sponsor: {sponsor}");
            (Then::Deny, Refusal::new(Code::AgentInactive, detail).hint(hint))
        });
        self.rule("expires", Some(time(expiry_s)), Some(time(self.now_s)), expired);
    }

    fn context(&mut self) {
        let context = self.question.context;
        if let Some(invoice) = &context.invoice {
            let free = self.policy.duplicate_invoices || !self.question.invoice_taken;
            let to = self.to();
            self.must("invoices.duplicates", Some(invoice.clone()), free, || {
                let detail = format!("invoice `{invoice}` of {to} is paid or being paid");
                Refusal::new(Code::DuplicateInvoice, detail)
                    .hint("look the earlier payment up instead of paying again")
            });
        }
        let patterns = &self.policy.hosts;
        if patterns.is_empty() {
            return;
        }
        let host = context.host.as_deref();
        let passed = host.is_some_and(|host| patterns.iter().any(|known| known.matches(host)));
        let list = patterns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let refusal = (!passed).then(|| {
            let detail = host.map_or_else(
                || "the payment names no host, and the policy lists hosts".to_owned(),
                |host| format!("host `{host}` is not on the agent's list"),
            );
            let hint = format!("pay for prices quoted by: {list}; name the host in context.host");
            (Then::Deny, Refusal::new(Code::HostNotAllowed, detail).hint(hint))
        });
        self.rule("hosts", Some(list), host.map(str::to_owned), refusal);
    }

    fn counts(&mut self, usage: &Usage) {
        let (question, to) = (self.question, self.to());
        if let Some(loops) = self.policy.loops {
            let key = (question.payee, question.amount.units());
            let window = usage.loops.get(&key);
            let limit = u64::from(loops.same_payment);
            let used = window.map_or(0, |window| window.used(self.now_s));
            let wait = window.and_then(|window| window.retry_after(self.now_s, limit, 1));
            self.count("loops.same_payment".into(), limit, used, wait, || {
                let (amount, within) = (question.amount, loops.within_s);
                let detail =
                    format!("{amount} USDC to {to} was asked for {used} times within {within} s");
                Refusal::new(Code::LoopDetected, detail)
                    .hint("this looks like a loop: find out what the earlier payments bought")
            });
        }
        for (name, limit, window) in usage.counts.against(&self.policy.counts) {
            let used = window.used(self.now_s);
            let wait = window.retry_after(self.now_s, limit, 1);
            self.count(format!("counts.{name}"), limit, used, wait, || {
                let detail = format!("{used} payments {}", spell(name));
                Refusal::new(Code::TooManyPayments, detail).hint("wait, or pay less often")
            });
        }
        let seen = usage.payees.get(&question.payee).copied().unwrap_or_default();
        for (name, limit, window) in seen.against(&self.policy.payee_counts) {
            let used = window.used(self.now_s);
            let wait = window.retry_after(self.now_s, limit, 1);
            self.count(format!("counts.payee.{name}"), limit, used, wait, || {
                let detail = format!("{used} payments to {to} {}", spell(name));
                Refusal::new(Code::TooManyToPayee, detail)
                    .hint("wait, or put several items into one payment")
            });
        }
    }

    fn count(
        &mut self,
        rule: String,
        limit: u64,
        used: u64,
        wait: Option<u64>,
        refusal: impl FnOnce() -> Refusal,
    ) {
        let refusal = (used >= limit).then(|| {
            let refusal = refusal().room(limit, used, 0);
            (Then::Deny, wait.into_iter().fold(refusal, Refusal::retry_after))
        });
        let observed = used.saturating_add(1).to_string();
        self.rule(rule, Some(limit.to_string()), Some(observed), refusal);
    }

    fn payee(
        &mut self,
        chain: Option<&ChainLimits>,
        record: Option<&PayeeRecord>,
        wallet: &WalletUsage,
    ) {
        let follow = |on| Then::Follow(on, overrides::PAYEE);
        let on_unknown = self.policy.unregistered_payee;
        let (agent, to) = (self.question.agent, self.to());
        let Some(record) = record else {
            let refusal =
                Refusal::new(Code::PayeeUnknown, format!("{to} is not a registered payee")).hint(
                    "pay a payee from your permissions, or have the operators register this one",
                );
            self.rule("payee.registered", None, Some(to), Some((follow(on_unknown), refusal)));
            return;
        };
        self.rule("payee.registered", None, Some(to.clone()), None);

        let mask = self.policy.category_mask() & chain.map_or(u16::MAX, |chain| chain.categories);
        let names = |mask: u16| {
            let own = self.policy.categories.iter().filter(|(_, bit)| mask & bit != 0);
            own.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ")
        };
        let (may, shared) = (names(mask), names(mask & record.categories));
        let refusal = (mask & record.categories == 0).then(|| {
            let detail = format!("{to} is in none of {agent}'s categories");
            let hint = format!("{agent} may pay: {may}");
            (follow(on_unknown), Refusal::new(Code::CategoryNotAllowed, detail).hint(hint))
        });
        self.rule("categories", Some(may), Some(shared.clone()), refusal);

        if let Some(claim) = &self.question.context.category {
            let own = self.policy.categories.iter().find(|(name, _)| name == claim);
            let fits = own.is_some_and(|(_, bit)| bit & mask & record.categories != 0);
            self.must("context.category", Some(claim.clone()), fits, || {
                let detail = format!("{agent} does not share category `{claim}` with {to}");
                let hint = if shared.is_empty() {
                    "leave context.category out".to_owned()
                } else {
                    format!("leave context.category out, or write one of: {shared}")
                };
                Refusal::new(Code::CategoryNotAllowed, detail).hint(hint)
            });
        }
        self.payee_limits(record, &to, wallet);
    }

    fn payee_limits(&mut self, record: &PayeeRecord, to: &str, wallet: &WalletUsage) {
        let underway = wallet.underway_to(self.question.payee);
        if let Some((limit, spent)) = record.cap {
            self.cap(&MoneyCap {
                rule: "payee.cap",
                span: "the payee's life",
                code: Code::PayeeCapExceeded,
                bit: overrides::PAYEE,
                limit,
                used: spent.saturating_add(underway.amount),
                on_chain: true,
                refill: Refill::Never,
            });
        }
        if record.cooldown_s == 0 {
            return;
        }
        let cooldown_s = u64::from(record.cooldown_s);
        // A payment under way will be paid at a time not known yet: count from now.
        let wait = if underway.count > 0 {
            cooldown_s
        } else if record.last_paid_s == 0 {
            0
        } else {
            record.last_paid_s.saturating_add(cooldown_s).saturating_sub(self.now_s)
        };
        let refusal = (wait > 0).then(|| {
            let detail = format!("{to} takes one payment every {cooldown_s} s");
            let refusal = Refusal::new(Code::PayeeCoolingDown, detail).retry_after(wait);
            (Then::Deny, refusal.hint(format!("ask again in {wait} s")))
        });
        let limit = Some(format!("{cooldown_s} s"));
        self.rule("payee.cooldown", limit, Some(format!("{wait} s to wait")), refusal);
    }

    fn ceiling(&mut self, chain: Option<&ChainLimits>) {
        let file = self.policy.limits.ceiling;
        let ceiling = chain.map_or(file, |chain| chain.ceiling.min(file));
        let amount = self.question.amount;
        let refusal = (amount > ceiling).then(|| {
            let detail = format!("{amount} USDC is above the ceiling of {ceiling} USDC");
            let refusal =
                Refusal::new(Code::CeilingExceeded, detail).room(ceiling, Usdc::ZERO, ceiling);
            let then = Then::Follow(self.policy.above_ceiling, overrides::CEILING);
            let hint = match self.policy.above_ceiling {
                OnLimit::Ask => "the operators' quorum decides".to_owned(),
                OnLimit::Deny => format!("ask for {ceiling} USDC or less"),
            };
            (then, refusal.hint(hint))
        });
        self.rule("limits.ceiling", Some(ceiling.to_string()), Some(amount.to_string()), refusal);
    }

    fn cap(&mut self, cap: &MoneyCap) {
        let (amount, left) = (self.question.amount, cap.left());
        let refusal = (amount > left).then(|| {
            let (limit, used, span) = (cap.limit, cap.used, cap.span);
            let detail = format!("{amount} USDC on top of {used} is above {limit} USDC in {span}");
            let refusal = Refusal::new(cap.code, detail).room(limit, used, left);
            let wait = cap.retry_after(self.now_s, amount);
            let hint = match (self.policy.over_cap, wait) {
                (OnLimit::Ask, _) => "the operators' quorum decides".to_owned(),
                (OnLimit::Deny, Some(wait)) if left.is_zero() => format!("ask again in {wait} s"),
                (OnLimit::Deny, Some(wait)) => {
                    format!("ask for {left} USDC or less, or ask again in {wait} s")
                }
                (OnLimit::Deny, None) if left.is_zero() => {
                    format!("waiting does not help; tell the sponsor: {}", self.policy.sponsor)
                }
                (OnLimit::Deny, None) => format!("ask for {left} USDC or less"),
            };
            let refusal = wait.into_iter().fold(refusal.hint(hint), Refusal::retry_after);
            (Then::Follow(self.policy.over_cap, cap.bit), refusal)
        });
        let observed = cap.used.saturating_add(amount).to_string();
        self.rule(cap.rule, Some(cap.limit.to_string()), Some(observed), refusal);
    }

    fn fetch(&mut self, used: FetchUsed) {
        let amount = self.question.amount;
        let Some(limits) = self.policy.fetch else {
            self.rule("fetch", None, None, Some((Then::Deny, no_fetch())));
            return;
        };
        let per_call = limits.per_call;
        let refusal = (amount > per_call).then(|| {
            let detail = format!("{amount} USDC is above {per_call} USDC for one call");
            let refusal = Refusal::new(Code::PriceTooHigh, detail);
            (Then::Deny, refusal.room(per_call, Usdc::ZERO, per_call))
        });
        let shown = Some(per_call.to_string());
        self.rule("fetch.per_call", shown, Some(amount.to_string()), refusal);
        if let Some(limit) = limits.minute {
            let left = limit.saturating_sub(used.minute);
            let refusal = (amount > left).then(|| {
                let (used, code) = (used.minute, Code::TooManyPayments);
                let detail =
                    format!("{amount} USDC on top of {used} is above {limit} USDC in any minute");
                let refusal = Refusal::new(code, detail).room(limit, used, left);
                (Then::Deny, refusal.retry_after(60).hint("ask again in a minute"))
            });
            let observed = used.minute.saturating_add(amount).to_string();
            self.rule("fetch.minute", Some(limit.to_string()), Some(observed), refusal);
        }
        for (rule, span, limit, used) in [
            ("fetch.host_day", "to one host", limits.host_day, used.host),
            ("fetch.day", "to all hosts", limits.day, used.all),
        ] {
            let left = limit.saturating_sub(used);
            let refusal = (amount > left).then(|| {
                let detail = format!(
                    "{amount} USDC on top of {used} is above {limit} USDC in any 24 hours {span}"
                );
                let refusal = Refusal::new(Code::DayCapExceeded, detail).room(limit, used, left);
                (Then::Deny, refusal.hint("wait until what was bought a day ago is forgotten"))
            });
            let observed = used.saturating_add(amount).to_string();
            self.rule(rule, Some(limit.to_string()), Some(observed), refusal);
        }
    }

    fn finish(self) -> Judgement {
        let decision = match self.denied {
            Some(refusal) => Decision::Deny(refusal),
            None if self.asks.is_empty() => Decision::Allow,
            None => Decision::Ask { overrides: self.overrides, because: self.asks },
        };
        Judgement { decision, trace: self.trace }
    }
}

fn spell(name: &str) -> &'static str {
    match name {
        "per_minute" => "within a minute",
        "per_hour" => "within an hour",
        _ => "within a day",
    }
}

/// Writes unix seconds as RFC 3339, or as they are where no calendar reaches.
fn time(unix_s: u64) -> String {
    i64::try_from(unix_s)
        .ok()
        .and_then(|s| jiff::Timestamp::from_second(s).ok())
        .map_or_else(|| unix_s.to_string(), |time| time.to_string())
}

#[cfg(test)]
#[path = "evaluate_tests.rs"]
mod tests;
