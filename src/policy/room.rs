//! What is left: every money cap with its limit, its use and when room comes back.

use super::{
    ChainLimits, Policy, Usage, WalletUsage, document::Counts, overrides, usage::CountWindows,
};
use crate::{
    money::{MAX_UNITS, Usdc},
    refusal::Code,
    view::LimitView,
    window::{AgentWindow, WalletWindow},
};

/// How a cap refills.
pub(super) enum Refill {
    Never,
    Agent(AgentWindow),
    Wallet(WalletWindow),
}

/// A cap on money, the tighter of file and chain. Payments under way are in `used` and in `refill`
/// as if they were made now.
pub(super) struct MoneyCap {
    pub rule: &'static str,
    /// The span in words, for sentences.
    pub span: &'static str,
    pub code: Code,
    /// The override bit that sets it aside.
    pub bit: u8,
    pub limit: Usdc,
    pub used: Usdc,
    pub on_chain: bool,
    pub refill: Refill,
}

impl MoneyCap {
    pub(super) const fn left(&self) -> Usdc {
        self.limit.saturating_sub(self.used)
    }

    /// Seconds until `amount` fits; `None` where it never will.
    pub(super) fn retry_after(&self, now_s: u64, amount: Usdc) -> Option<u64> {
        let (limit, amount) = (self.limit.units(), amount.units());
        match &self.refill {
            Refill::Never => None,
            Refill::Agent(window) => window.retry_after(now_s, limit, amount),
            Refill::Wallet(window) => window.retry_after(now_s, limit, amount),
        }
    }

    /// The most that can still go out under it until `until_s`, what comes back included: at that
    /// moment's last payment, everything new and what is left of the old is in one checked sum.
    fn left_until(&self, until_s: u64) -> Usdc {
        let old = match &self.refill {
            Refill::Never => self.used.units(),
            Refill::Agent(window) => window.used(until_s),
            Refill::Wallet(window) => window.used(until_s),
        };
        self.limit.saturating_sub(clamp(old))
    }

    fn view(&self, now_s: u64) -> LimitView {
        LimitView {
            rule: self.rule.into(),
            limit: self.limit.to_string(),
            used: self.used.to_string(),
            remaining: self.left().to_string(),
            returns_in: match &self.refill {
                Refill::Never => None,
                Refill::Agent(window) => window.returns_in(now_s),
                Refill::Wallet(window) => window.returns_in(now_s),
            },
            on_chain: self.on_chain,
        }
    }
}

fn clamp(units: u64) -> Usdc {
    Usdc::from_units(units.min(MAX_UNITS)).unwrap_or(Usdc::ZERO)
}

/// The tighter of two optional limits.
pub(super) fn tighter(file: Option<Usdc>, chain: Option<Usdc>) -> Option<Usdc> {
    [file, chain].into_iter().flatten().min()
}

/// Every cap on the agent's money, in the order in which they are judged: day, month, lifetime,
/// wallet.
pub(super) fn money_caps(
    policy: &Policy,
    chain: Option<&ChainLimits>,
    usage: &Usage,
    wallet: &WalletUsage,
    now_s: u64,
) -> Vec<MoneyCap> {
    let pending = usage.pending;
    let agent = |rule, span, code, file, held: Option<Usdc>, mut window: AgentWindow| {
        window.add(now_s, pending.units());
        tighter(file, held).map(|limit| MoneyCap {
            rule,
            span,
            code,
            bit: overrides::AGENT_CAPS,
            limit,
            used: clamp(window.used(now_s)),
            on_chain: held.is_some(),
            refill: Refill::Agent(window),
        })
    };
    let limits = &policy.limits;
    let day = agent(
        "limits.day",
        "any 24 hours",
        Code::DayCapExceeded,
        Some(limits.day),
        chain.and_then(|chain| chain.day),
        usage.day,
    );
    let month = agent(
        "limits.month",
        "any 30 days",
        Code::MonthCapExceeded,
        limits.month,
        chain.and_then(|chain| chain.month),
        usage.month,
    );
    // File and chain count from different days: the one with less left is the tighter.
    let budget = chain.and_then(|chain| chain.budget);
    let lifetime = [limits.lifetime.map(|limit| (limit, usage.lifetime)), budget]
        .into_iter()
        .flatten()
        .map(|(limit, spent)| (limit, spent.saturating_add(pending)))
        .min_by_key(|(limit, used)| limit.saturating_sub(*used))
        .map(|(limit, used)| MoneyCap {
            rule: "limits.lifetime",
            span: "the agent's life",
            code: Code::BudgetExceeded,
            bit: overrides::AGENT_CAPS,
            limit,
            used,
            on_chain: budget.is_some(),
            refill: Refill::Never,
        });
    let whole = wallet.cap.map(|limit| {
        let mut window = wallet.window;
        window.add(now_s, wallet.pending.units());
        MoneyCap {
            rule: "wallet.cap",
            span: "any 24 hours of the whole wallet",
            code: Code::WalletCapExceeded,
            bit: overrides::WALLET_CAP,
            limit,
            used: clamp(window.used(now_s)),
            on_chain: true,
            refill: Refill::Wallet(window),
        }
    });
    [day, month, lifetime, whole].into_iter().flatten().collect()
}

/// Returns every limit on all of the agent's payments with what is used and left, for showing:
/// money first, then counts.
#[must_use]
pub fn limit_views(
    policy: &Policy,
    chain: Option<&ChainLimits>,
    usage: &Usage,
    wallet: &WalletUsage,
    now_s: u64,
) -> Vec<LimitView> {
    let mut views: Vec<LimitView> =
        money_caps(policy, chain, usage, wallet, now_s).iter().map(|cap| cap.view(now_s)).collect();
    views.extend(count_views(&usage.counts, &policy.counts, now_s));
    views
}

fn count_views(
    windows: &CountWindows,
    counts: &Counts,
    now_s: u64,
) -> impl Iterator<Item = LimitView> {
    windows.against(counts).map(move |(name, limit, window)| {
        let used = window.used(now_s);
        LimitView {
            rule: format!("counts.{name}"),
            limit: limit.to_string(),
            used: used.to_string(),
            remaining: limit.saturating_sub(used).to_string(),
            returns_in: window.returns_in(now_s),
            on_chain: false,
        }
    })
}

/// Seconds that [`worst_case`] looks ahead.
pub const WORST_CASE_S: u64 = 86_400;

/// Returns the blast radius: the most that the agent could still pay without operators in the next
/// 24 hours if it were stolen now. It is what is left of the tightest cap, what comes back in that
/// time included, and `coupons`, which no cap sees: what its x402 coupons could take out in that
/// time. Zero if it cannot pay at all.
#[must_use]
pub fn worst_case(
    policy: &Policy,
    chain: Option<&ChainLimits>,
    usage: &Usage,
    wallet: &WalletUsage,
    coupons: Usdc,
    now_s: u64,
) -> Usdc {
    let Some(on_chain) = chain else { return Usdc::ZERO };
    let shut = wallet.frozen
        || usage.frozen
        || on_chain.frozen
        || !on_chain.active
        || now_s >= policy.expires_s.min(on_chain.expiry_s)
        || policy.limits.ceiling.min(on_chain.ceiling).is_zero()
        || policy.category_mask() & on_chain.categories == 0;
    if shut {
        return Usdc::ZERO;
    }
    let until_s = now_s.saturating_add(WORST_CASE_S);
    let caps = money_caps(policy, chain, usage, wallet, now_s);
    let capped = caps.iter().map(|cap| cap.left_until(until_s)).min().unwrap_or(Usdc::ZERO);
    capped.saturating_add(coupons)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{
        Facts,
        testing::{NOW, chain, payee, policy, usdc},
    };

    fn spent(amount: &str, at: u64) -> (Usage, WalletUsage) {
        let facts = Facts { payee: payee(1), amount: usdc(amount), overrides: 0 };
        let (mut usage, mut wallet) = (Usage::default(), WalletUsage::default());
        usage.settle(&facts, at);
        wallet.settle(&facts, at);
        (usage, wallet)
    }

    #[test]
    fn worst_case_is_the_tightest_cap_with_what_comes_back() {
        let policy = policy("");
        let (usage, mut wallet) = spent("400", NOW);
        // Day cap 1000: the 400 of this step are still held a day later.
        assert_eq!(
            worst_case(&policy, Some(&chain()), &usage, &wallet, Usdc::ZERO, NOW),
            usdc("600")
        );
        // Spent two steps ago: held now, but back within the next day.
        let (old, _) = spent("400", NOW - 2 * 21_600);
        assert_eq!(
            worst_case(&policy, Some(&chain()), &old, &wallet, Usdc::ZERO, NOW),
            usdc("1000")
        );
        wallet.cap = Some(usdc("450"));
        assert_eq!(
            worst_case(&policy, Some(&chain()), &usage, &wallet, Usdc::ZERO, NOW),
            usdc("50")
        );
        let budget = ChainLimits { budget: Some((usdc("500"), usdc("490"))), ..chain() };
        assert_eq!(
            worst_case(&policy, Some(&budget), &usage, &wallet, Usdc::ZERO, NOW),
            usdc("10")
        );
        assert_eq!(worst_case(&policy, Some(&budget), &usage, &wallet, usdc("3"), NOW), usdc("13"));
    }

    #[test]
    fn who_cannot_pay_risks_nothing() {
        let policy = policy("");
        let (usage, wallet) = spent("0", NOW);
        let none = |chain: Option<&ChainLimits>, usage: &Usage, wallet: &WalletUsage, now| {
            assert!(worst_case(&policy, chain, usage, wallet, usdc("9"), now).is_zero());
        };
        none(None, &usage, &wallet, NOW);
        none(Some(&chain()), &usage, &wallet, chain().expiry_s);
        none(Some(&ChainLimits { frozen: true, ..chain() }), &usage, &wallet, NOW);
        none(Some(&ChainLimits { ceiling: Usdc::ZERO, ..chain() }), &usage, &wallet, NOW);
        none(Some(&ChainLimits { categories: 1 << 9, ..chain() }), &usage, &wallet, NOW);
        none(Some(&chain()), &Usage { frozen: true, ..usage.clone() }, &wallet, NOW);
        none(Some(&chain()), &usage, &WalletUsage { frozen: true, ..wallet.clone() }, NOW);
    }

    #[test]
    fn views_show_the_tighter_limit_and_what_is_left() {
        let policy = policy("[counts]\nper_minute = 3");
        let (mut usage, mut wallet) = spent("400", NOW);
        usage.reserve(&Facts { payee: payee(1), amount: usdc("100"), overrides: 0 });
        wallet.cap = Some(usdc("5000"));
        let tight = ChainLimits { day: Some(usdc("900")), month: None, ..chain() };
        let views = limit_views(&policy, Some(&tight), &usage, &wallet, NOW);
        let text: Vec<String> = views
            .iter()
            .map(|v| {
                format!("{} {}/{} left {} {}", v.rule, v.used, v.limit, v.remaining, v.on_chain)
            })
            .collect();
        assert_eq!(
            text,
            [
                "limits.day 500/900 left 400 true",
                "limits.month 500/10000 left 9500 false",
                "limits.lifetime 500/50000 left 49500 true",
                "wallet.cap 400/5000 left 4600 true",
                "counts.per_minute 0/3 left 3 false",
            ]
        );
        assert!(views[0].returns_in.is_some_and(|seconds| seconds <= 108_000));
    }
}
