use proptest::prelude::*;

use super::{super::testing::*, *};
use crate::policy::{Facts, WalletUsage};

const SHOP: u8 = 1;

/// Everything about one decision; each test changes what it is about.
struct Case {
    policy: Policy,
    chain: Option<ChainLimits>,
    payee: Option<PayeeRecord>,
    usage: Usage,
    wallet: WalletUsage,
    context: Context,
    invoice_taken: bool,
    to: Address,
    now: u64,
}

impl Case {
    fn new(keys: &str, more: &str) -> Self {
        Self {
            policy: with(keys, more),
            chain: Some(chain()),
            payee: Some(PayeeRecord { categories: 0b01, cap: None, cooldown_s: 0, last_paid_s: 0 }),
            usage: Usage::default(),
            wallet: WalletUsage::default(),
            context: Context::default(),
            invoice_taken: false,
            to: payee(SHOP),
            now: NOW,
        }
    }

    fn judge(&self, amount: &str) -> Judgement {
        let question = Question {
            agent: &self.policy.agent,
            payee: self.to,
            payee_label: Some("shop"),
            amount: usdc(amount),
            context: &self.context,
            invoice_taken: self.invoice_taken,
            reserved: &[payee(0xee)],
        };
        let (chain, payee) = (self.chain.as_ref(), self.payee.as_ref());
        evaluate(&self.policy, chain, payee, &self.usage, &self.wallet, &question, self.now)
    }

    fn refusal(&self, amount: &str) -> Refusal {
        let judgement = self.judge(amount);
        let Decision::Deny(refusal) = judgement.decision else {
            panic!("not denied: {:?}", judgement.decision)
        };
        let rule = refusal.rule.as_deref().unwrap();
        let traced = judgement.trace.iter().find(|trace| !trace.passed).unwrap();
        assert_eq!(traced.rule, rule, "the first failing rule decides");
        assert!(refusal.hint.is_some() && !refusal.detail.is_empty());
        refusal
    }

    fn code(&self, amount: &str) -> Code {
        self.refusal(amount).code
    }

    fn asks(&self, amount: &str) -> (u8, Vec<Code>) {
        match self.judge(amount).decision {
            Decision::Ask { overrides, because } => {
                (overrides, because.iter().map(|refusal| refusal.code).collect())
            }
            other => panic!("does not ask: {other:?}"),
        }
    }

    fn allows(&self, amount: &str) -> bool {
        self.judge(amount).decision == Decision::Allow
    }

    /// Judges the price of a call; what refuses it, if something does.
    fn buys(&self, amount: &str, used: FetchUsed, by: FetchBy) -> Option<Refusal> {
        let question = Question {
            agent: &self.policy.agent,
            payee: self.to,
            payee_label: Some("shop"),
            amount: usdc(amount),
            context: &self.context,
            invoice_taken: false,
            reserved: &[],
        };
        let (chain, payee) = (self.chain.as_ref(), self.payee.as_ref());
        let usage = (&self.usage, used, by);
        let judged =
            evaluate_fetch(&self.policy, chain, payee, usage, &self.wallet, &question, self.now);
        judged.err()
    }

    fn spend(&mut self, amount: &str, at: u64) {
        let facts = Facts { payee: self.to, amount: usdc(amount), overrides: 0 };
        self.usage.settle(&facts, at);
        self.wallet.settle(&facts, at);
    }

    fn reserve(&mut self, amount: &str) {
        let facts = Facts { payee: self.to, amount: usdc(amount), overrides: 0 };
        self.usage.note_accepted(&self.policy, &facts, self.now);
        self.usage.reserve(&facts);
        self.wallet.reserve(&facts);
    }
}

#[test]
fn a_plain_payment_passes_every_rule() {
    let judgement = Case::new("", "").judge("250");
    assert_eq!(judgement.decision, Decision::Allow);
    let rules: Vec<_> = judgement.trace.iter().map(|trace| trace.rule.as_str()).collect();
    assert_eq!(
        rules,
        [
            "payment.amount",
            "payment.payee",
            "wallet.frozen",
            "agent.active",
            "agent.frozen",
            "expires",
            "payee.registered",
            "categories",
            "limits.ceiling",
            "limits.day",
            "limits.month",
            "limits.lifetime"
        ]
    );
    assert!(judgement.trace.iter().all(|trace| trace.passed));
}

#[test]
fn nothing_and_reserved_addresses_are_never_paid() {
    let mut case = Case::new("unregistered_payee = 'ask'", "");
    assert_eq!(case.code("0"), Code::InvalidPayment);
    for to in [payee(0xee), Address::ZERO] {
        case.to = to;
        assert_eq!(case.code("1"), Code::Unprocessable);
    }
}

#[test]
fn freezes_and_expiry_stop_everything() {
    let mut case = Case::new("above_ceiling = 'ask'", "");
    case.wallet.frozen = true;
    assert_eq!(case.code("300"), Code::WalletFrozen);
    case.wallet.frozen = false;
    case.usage.frozen = true;
    assert_eq!(case.code("1"), Code::AgentFrozen);
    case.usage.frozen = false;
    case.chain = Some(ChainLimits { frozen: true, ..chain() });
    assert_eq!(case.code("1"), Code::AgentFrozen);
    case.chain = Some(ChainLimits { active: false, ..chain() });
    assert_eq!(case.code("1"), Code::AgentInactive);
    case.chain = None;
    assert_eq!(case.code("1"), Code::AgentInactive);
    // The earlier of file and chain, exclusive.
    case.chain = Some(ChainLimits { expiry_s: NOW + 1, ..chain() });
    assert!(case.allows("1"));
    case.now = NOW + 1;
    assert_eq!(case.refusal("1").rule.as_deref(), Some("expires"));
    case.chain = Some(ChainLimits { expiry_s: u64::MAX, ..chain() });
    case.now = case.policy.expires_s;
    assert_eq!(case.code("1"), Code::AgentInactive);
}

#[test]
fn an_invoice_is_paid_once_unless_the_policy_says_otherwise() {
    let mut case = Case::new("", "");
    case.context.invoice = Some("INV-7".into());
    assert!(case.allows("1"));
    case.invoice_taken = true;
    assert_eq!(case.code("1"), Code::DuplicateInvoice);
    case.policy = policy("[invoices]\nduplicates = 'allow'");
    assert!(case.allows("1"));
}

#[test]
fn hosts_are_held_to_the_list() {
    let mut case = Case::new("hosts = ['api.example.com', '*.data.example']", "");
    assert!(case.refusal("1").detail.contains("names no host"));
    for (host, passes) in
        [("api.example.com", true), ("x.data.example", true), ("evil.example", false)]
    {
        case.context.host = Some(host.into());
        assert_eq!(case.allows("1"), passes, "{host}");
    }
    assert_eq!(case.code("1"), Code::HostNotAllowed);
}

#[test]
fn a_loop_is_broken_and_other_payments_go_on() {
    let mut case = Case::new("", "[loops]\nsame_payment = 2\nwithin = '60s'");
    case.reserve("0.01");
    assert!(case.allows("0.01"));
    case.reserve("0.01");
    let refusal = case.refusal("0.01");
    assert_eq!(refusal.code, Code::LoopDetected);
    assert_eq!((refusal.limit.as_deref(), refusal.used.as_deref()), (Some("2"), Some("2")));
    assert!(refusal.retry_after.is_some_and(|wait| (60..=65).contains(&wait)));
    assert!(case.allows("0.02"));
    case.to = payee(2);
    assert!(case.allows("0.01"));
    (case.to, case.now) = (payee(SHOP), NOW + refusal.retry_after.unwrap());
    assert!(case.allows("0.01"));
}

#[test]
fn counts_hold_for_the_agent_and_for_each_payee() {
    let mut case = Case::new("", "[counts]\nper_minute = 3\n[counts.payee]\nper_hour = 2");
    case.reserve("1");
    case.reserve("2");
    assert_eq!(case.refusal("3").rule.as_deref(), Some("counts.payee.per_hour"));
    assert_eq!(case.code("3"), Code::TooManyToPayee);
    case.to = payee(2);
    case.reserve("3");
    let refusal = case.refusal("4");
    assert_eq!(refusal.code, Code::TooManyPayments);
    assert_eq!(refusal.remaining.as_deref(), Some("0"));
    case.now += refusal.retry_after.unwrap();
    assert!(case.allows("4"));
    case.to = payee(SHOP);
    assert_eq!(case.code("4"), Code::TooManyToPayee);
}

#[test]
fn an_unknown_payee_is_refused_or_asked_about() {
    let mut case = Case::new("", "");
    case.payee = None;
    assert_eq!(case.code("1"), Code::PayeeUnknown);
    // A removed payee is one without categories.
    case.payee = Some(PayeeRecord { categories: 0, cap: None, cooldown_s: 60, last_paid_s: NOW });
    assert_eq!(case.code("1"), Code::PayeeUnknown);
    case.policy = with("unregistered_payee = 'ask'", "");
    assert_eq!(case.asks("1"), (overrides::PAYEE, vec![Code::PayeeUnknown]));
}

#[test]
fn categories_are_those_of_file_and_chain_and_payee() {
    let mut case = Case::new("", "");
    let record =
        |categories| Some(PayeeRecord { categories, cap: None, cooldown_s: 0, last_paid_s: 0 });
    case.payee = record(0b100); // travel: not this agent's
    assert_eq!(case.code("1"), Code::CategoryNotAllowed);
    case.payee = record(0b110);
    assert!(case.allows("1"));
    case.chain = Some(ChainLimits { categories: 0b01, ..chain() });
    assert_eq!(case.code("1"), Code::CategoryNotAllowed);
    case.policy = with("unregistered_payee = 'ask'", "");
    assert_eq!(case.asks("1"), (overrides::PAYEE, vec![Code::CategoryNotAllowed]));
    (case.payee, case.chain) = (record(0b01), Some(chain()));
    for (claim, passes) in [("data", true), ("compute", false), ("nonsense", false)] {
        case.context.category = Some(claim.into());
        assert_eq!(case.allows("1"), passes, "{claim}");
    }
    assert!(case.refusal("1").hint.unwrap().contains("one of: data"));
}

#[test]
fn a_payees_cap_and_cooldown_count_what_is_under_way() {
    let mut case = Case::new("", "");
    let cap = Some((usdc("100"), usdc("60")));
    case.payee = Some(PayeeRecord { categories: 1, cap, cooldown_s: 0, last_paid_s: 0 });
    assert!(case.allows("40"));
    case.reserve("10");
    let refusal = case.refusal("31");
    assert_eq!(refusal.code, Code::PayeeCapExceeded);
    assert_eq!((refusal.used.as_deref(), refusal.remaining.as_deref()), (Some("70"), Some("30")));
    assert_eq!(refusal.retry_after, None);
    case.payee =
        Some(PayeeRecord { categories: 1, cap: None, cooldown_s: 60, last_paid_s: NOW - 20 });
    assert_eq!(case.refusal("1").retry_after, Some(60), "one is under way");
    case.wallet = WalletUsage::default();
    assert_eq!(case.refusal("1").retry_after, Some(40));
    assert_eq!(case.code("1"), Code::PayeeCoolingDown);
    case.now = NOW + 40;
    assert!(case.allows("1"));
}

#[test]
fn above_the_ceiling_operators_decide_or_nobody() {
    let case = Case::new("", "");
    assert!(case.allows("250"));
    assert_eq!(case.asks("250.000001"), (overrides::CEILING, vec![Code::CeilingExceeded]));
    let case = Case::new("above_ceiling = 'deny'", "");
    assert_eq!(case.code("250.000001"), Code::CeilingExceeded);
    let mut case = Case::new("", "");
    case.chain = Some(ChainLimits { ceiling: usdc("10"), ..chain() });
    assert_eq!(case.asks("11").0, overrides::CEILING);
}

#[test]
fn caps_hold_with_what_is_spent_and_what_is_under_way() {
    let mut case = Case::new("", "");
    case.spend("700", NOW);
    case.reserve("200");
    assert!(case.allows("100"));
    let refusal = case.refusal("100.5");
    assert_eq!(refusal.code, Code::DayCapExceeded);
    assert_eq!(refusal.rule.as_deref(), Some("limits.day"));
    assert_eq!(
        (refusal.limit, refusal.used, refusal.remaining),
        (Some("1000".into()), Some("900".into()), Some("100".into()))
    );
    assert_eq!(refusal.retry_after, Some(5 * 21_600));
    // More than the whole cap never fits, however long one waits.
    let mut case = Case::new("", "");
    case.chain = Some(ChainLimits { ceiling: usdc("5000"), ..chain() });
    case.policy.limits.ceiling = usdc("5000");
    assert_eq!(case.refusal("1001").retry_after, None);
}

#[test]
fn month_lifetime_and_wallet_have_their_own_caps() {
    let mut case = Case::new("", "");
    case.spend("9900", NOW - 2 * 86_400);
    assert_eq!(case.code("101"), Code::MonthCapExceeded);
    let mut case = Case::new("", "");
    case.chain = Some(ChainLimits { budget: Some((usdc("50000"), usdc("49990"))), ..chain() });
    assert_eq!(case.code("11"), Code::BudgetExceeded);
    assert!(case.allows("10"));
    let mut case = Case::new("", "");
    case.wallet.cap = Some(usdc("500"));
    case.spend("450", NOW);
    let refusal = case.refusal("51");
    assert_eq!(refusal.code, Code::WalletCapExceeded);
    assert_eq!(refusal.retry_after, Some(4 * 28_800));
}

#[test]
fn a_refusal_outranks_a_question_and_all_questions_are_told() {
    let mut case = Case::new("over_cap = 'ask'\nunregistered_payee = 'ask'", "");
    case.payee = None;
    case.wallet.cap = Some(usdc("500"));
    case.spend("900", NOW);
    let all = overrides::CEILING | overrides::PAYEE | overrides::AGENT_CAPS | overrides::WALLET_CAP;
    assert_eq!(
        case.asks("300"),
        (
            all,
            vec![
                Code::PayeeUnknown,
                Code::CeilingExceeded,
                Code::DayCapExceeded,
                Code::WalletCapExceeded
            ]
        )
    );
    assert_eq!(override_names(all), ["ceiling", "payee", "agent_caps", "wallet_cap"]);
    case.usage.frozen = true;
    assert_eq!(case.code("300"), Code::AgentFrozen);
}

#[test]
fn an_approved_payment_past_the_caps_leaves_them_alone() {
    let mut case = Case::new("over_cap = 'ask'", "");
    case.spend("900", NOW);
    let (bits, _) = case.asks("200");
    let facts = Facts { payee: case.to, amount: usdc("200"), overrides: bits };
    case.usage.reserve(&facts);
    assert!(case.allows("100"), "the cap's room is as it was");
    case.usage.settle(&facts, NOW);
    assert!(case.allows("100"));
}

const FETCH: &str = "[fetch]\nper_call = '0.10'\nhost_day = '1'\nday = '2'\nminute = '0.5'\nloops = { same_call = 3, \
     failures = 2, within = '60s' }";

#[test]
fn every_limit_of_fetch_refuses_one_unit_above_it_and_says_what_is_left() {
    let case = Case::new("", FETCH);
    let used = |host: &str, all: &str, minute: &str| FetchUsed {
        host: usdc(host),
        all: usdc(all),
        minute: usdc(minute),
    };
    for (used, fits, above, code, rule, room) in [
        (used("0", "0", "0"), "0.1", "0.100001", Code::PriceTooHigh, "per_call", ["0.1", "0"]),
        (
            used("0.45", "0.45", "0.45"),
            "0.05",
            "0.050001",
            Code::TooManyPayments,
            "minute",
            ["0.5", "0.45"],
        ),
        (
            used("0.95", "0.95", "0"),
            "0.05",
            "0.050001",
            Code::DayCapExceeded,
            "host_day",
            ["1", "0.95"],
        ),
        // Nothing from this host yet: what the others were paid counts.
        (used("0", "1.95", "0"), "0.05", "0.050001", Code::DayCapExceeded, "day", ["2", "1.95"]),
        // A limit that was lowered below what is used leaves nothing.
        (used("0", "7", "0"), "0", "0.000001", Code::DayCapExceeded, "day", ["2", "7"]),
    ] {
        for by in [FetchBy::Apart, FetchBy::Counted] {
            if fits != "0" {
                assert_eq!(case.buys(fits, used, by), None, "{rule}: {fits}");
            }
            let refused = case.buys(above, used, by).unwrap();
            let named = refused.rule.as_deref();
            assert_eq!((refused.code, named), (code, Some(format!("fetch.{rule}").as_str())));
            assert_eq!(
                (refused.limit.as_deref(), refused.used.as_deref()),
                (Some(room[0]), Some(room[1]))
            );
            let left = usdc(room[0]).saturating_sub(usdc(room[1])).to_string();
            assert_eq!(refused.remaining, Some(left), "{rule}");
            let wait = (rule == "minute").then_some(60);
            assert_eq!(refused.retry_after, wait, "{rule}");
        }
    }
    // Without a limit for the minute there is none; without the table nothing is bought.
    let free = Case::new("", "[fetch]\nper_call = '0.10'\nhost_day = '1'\nday = '2'");
    assert_eq!(free.buys("0.1", used("0.5", "0.5", "0.5"), FetchBy::Apart), None);
    let none = Case::new("", "").buys("0.01", FetchUsed::default(), FetchBy::Apart).unwrap();
    assert_eq!((none.code, none.rule.as_deref()), (Code::HostNotAllowed, Some("fetch")));
}

#[test]
fn what_leaves_the_wallet_for_a_call_is_held_to_the_limits_of_payments_too() {
    let mut case = Case::new("over_cap = 'ask'", FETCH);
    case.spend("999.95", NOW);
    let free = FetchUsed::default();
    assert_eq!(case.buys("0.05", free, FetchBy::Counted), None);
    let refused = case.buys("0.06", free, FetchBy::Counted).unwrap();
    assert_eq!((refused.code, refused.rule.as_deref()), (Code::DayCapExceeded, Some("limits.day")));
    assert!(refused.hint.unwrap().contains("cannot be asked"), "nobody waits for a quorum");
    assert_eq!(case.buys("0.06", free, FetchBy::Apart), None, "it left the wallet before");
    case.usage.frozen = true;
    let refused = case.buys("0.01", free, FetchBy::Apart).unwrap();
    assert_eq!(refused.code, Code::AgentFrozen);
}

#[test]
fn a_call_goes_to_listed_hosts_only() {
    let mut case = Case::new("hosts = ['api.example.com', '*.data.example']", FETCH);
    let free = FetchUsed::default();
    for (host, passes) in [
        (Some("api.example.com"), true),
        (Some("x.data.example"), true),
        (Some("data.example"), false),
        (Some("api.example.com.evil.example"), false),
        (None, false),
    ] {
        case.context.host = host.map(str::to_owned);
        // Before any price is known, and when one is.
        let chain = case.chain.as_ref();
        let called =
            may_fetch(&case.policy, chain, &case.usage, &case.wallet, &case.context, case.now);
        for refused in [called.err(), case.buys("0.01", free, FetchBy::Apart)] {
            let told = refused.map(|refused| (refused.code, refused.rule));
            let expected = Some((Code::HostNotAllowed, Some("hosts".into())));
            assert_eq!(told, expected.filter(|_| !passes), "{host:?}");
        }
    }
}

proptest! {
    /// Greedy payments with late or failed settlement, against a list: in every 24 hours the final
    /// ones stay within the day cap, and in every 24 hours of the wallet within its cap.
    #[test]
    fn accepted_payments_hold_every_cap(
        wishes in prop::collection::vec((0_u64..20_000, 1_u64..400, 0_u64..600, 0_u8..4), 1..120),
    ) {
        let mut case = Case::new("", "");
        case.policy.limits.ceiling = usdc("400");
        case.chain = Some(ChainLimits { ceiling: usdc("400"), ..chain() });
        case.wallet.cap = Some(usdc("900"));
        let mut paid: Vec<(u64, u64)> = Vec::new();
        let mut open: Vec<(Facts, u64, bool)> = Vec::new(); // facts, block time, does it succeed
        for (gap, whole, delay, fate) in wishes {
            case.now += gap;
            let now = case.now;
            open.retain(|(facts, at, succeeds)| {
                if *at > now {
                    return true;
                }
                if *succeeds {
                    case.usage.settle(facts, *at);
                    case.wallet.settle(facts, *at);
                    paid.push((*at, facts.amount.units()));
                } else {
                    case.usage.void(facts);
                    case.wallet.void(facts);
                }
                false
            });
            if case.allows(&whole.to_string()) {
                case.reserve(&whole.to_string());
                let amount = usdc(&whole.to_string());
                let facts = Facts { payee: case.to, amount, overrides: 0 };
                open.push((facts, now + delay, fate != 0));
            }
        }
        paid.extend(open.iter().filter(|o| o.2).map(|(facts, at, _)| (*at, facts.amount.units())));
        for (end, _) in &paid {
            let inside = paid.iter().filter(|(at, _)| at <= end && at + 86_400 > *end);
            let sum: u64 = inside.map(|(_, units)| units).sum();
            prop_assert!(sum <= 900_000_000, "{} in the day before {}", sum, end);
        }
    }
}
