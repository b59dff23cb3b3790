//! What a policy file says that its writer may not mean: too broad, contradictory, without effect.

use serde::Serialize;

use super::{
    OnLimit, Policy,
    document::{Categories, Counts, line_of},
};
use crate::money::Usdc;

const DAY_S: u64 = 86_400;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The file cannot mean what it says.
    Error,
    /// It is wider than it should be, or has a part without effect.
    Warning,
    /// Worth knowing.
    Note,
}

impl Level {
    /// Returns the name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// One remark about a policy file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// The line, from 1, where the key is written.
    pub line: Option<usize>,
    /// The key with its table, for example `limits.month`.
    pub key: String,
    /// What is odd and what to do.
    pub message: String,
}

/// Reads a policy's findings, in the order of its keys. `text` is what `policy` was parsed from;
/// `wallet` are the wallet's categories, if they are known; `now_s` is unix seconds.
#[must_use]
pub fn lint(text: &str, policy: &Policy, wallet: Option<&Categories>, now_s: u64) -> Vec<Finding> {
    let mut lint = Lint { text, policy, found: Vec::new() };
    lint.authority(wallet, now_s);
    lint.hosts();
    lint.money(now_s);
    lint.counts("counts", &policy.counts);
    lint.counts("counts.payee", &policy.payee_counts);
    lint.counts_together();
    lint.loops();
    lint.fetch();
    lint.found
}

/// Reads what is wrong between files: two agents that share a name or a key. Returns the place of
/// the later file in `policies` with each finding.
#[must_use]
pub fn lint_together(policies: &[&Policy]) -> Vec<(usize, Finding)> {
    let mut found = Vec::new();
    for (place, policy) in policies.iter().enumerate() {
        for earlier in &policies[..place] {
            let other = &earlier.agent;
            let mut clash = |key: &str, what: String| {
                let finding =
                    Finding { level: Level::Error, line: None, key: key.into(), message: what };
                found.push((place, finding));
            };
            if policy.agent == earlier.agent {
                clash("agent", format!("`{other}` has another file; keep one"));
                continue;
            }
            if policy.key_index == earlier.key_index {
                clash("key_index", format!("`{other}` signs with the same key; take a free index"));
            }
            if policy.public_key == earlier.public_key {
                clash("public_key", format!("`{other}` has the same request key; make a new one"));
            }
        }
    }
    found
}

struct Lint<'a> {
    text: &'a str,
    policy: &'a Policy,
    found: Vec<Finding>,
}

impl Lint<'_> {
    /// Adds a finding about `table.key`; "" is the top of the file.
    fn add(&mut self, level: Level, table: &str, key: &str, message: impl Into<String>) {
        let line = line_of(self.text, table, key);
        let key = if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") };
        self.found.push(Finding { level, line, key, message: message.into() });
    }

    fn error(&mut self, table: &str, key: &str, message: impl Into<String>) {
        self.add(Level::Error, table, key, message);
    }

    fn warn(&mut self, table: &str, key: &str, message: impl Into<String>) {
        self.add(Level::Warning, table, key, message);
    }

    fn note(&mut self, table: &str, key: &str, message: impl Into<String>) {
        self.add(Level::Note, table, key, message);
    }

    fn authority(&mut self, wallet: Option<&Categories>, now_s: u64) {
        let policy = self.policy;
        let all = wallet.map_or(0, |known| known.names().len());
        if all > 1 && policy.categories.len() == all {
            self.warn("", "categories", "every category of the wallet; name those it needs");
        }
        match policy.expires_s.checked_sub(now_s) {
            None | Some(0) => self.error("", "expires", "in the past: the agent can pay nothing"),
            Some(left) if left > 366 * DAY_S => {
                self.warn("", "expires", "more than a year away; renew authority every year");
            }
            Some(_) => {}
        }
        if policy.unregistered_payee == OnLimit::Ask {
            let message = "operators will be asked about payees that nobody has registered";
            self.note("", "unregistered_payee", message);
        }
        if policy.duplicate_invoices {
            let message = "one invoice can be paid again and again; `deny` is the safe choice";
            self.warn("invoices", "duplicates", message);
        }
    }

    fn hosts(&mut self) {
        let hosts = &self.policy.hosts;
        if hosts.is_empty() {
            self.note("", "hosts", "prices quoted by any host are paid; list hosts to narrow it");
        }
        for (place, host) in hosts.iter().enumerate() {
            let wider = hosts.iter().enumerate().find(|(other, pattern)| {
                *other != place && pattern.covers(host) && (*other < place || !host.covers(pattern))
            });
            if let Some((_, wider)) = wider {
                self.warn("", "hosts", format!("`{host}` has no effect beside `{wider}`"));
            }
        }
    }

    fn money(&mut self, now_s: u64) {
        let policy = self.policy;
        let limits = &policy.limits;
        let (ceiling, day) = (limits.ceiling, limits.day);
        if ceiling.is_zero() {
            match policy.above_ceiling {
                OnLimit::Ask => {
                    self.note("limits", "ceiling", "0: every payment waits for the operators");
                }
                OnLimit::Deny => {
                    let message = "0 with above_ceiling = \"deny\": the agent can pay nothing";
                    self.error("limits", "ceiling", message);
                }
            }
        }
        if day.is_zero() && policy.over_cap == OnLimit::Deny {
            let message = "0 with over_cap = \"deny\": the agent can pay nothing";
            self.error("limits", "day", message);
        } else if ceiling > day {
            let message =
                format!("above limits.day ({day}): such a payment never passes by itself");
            self.error("limits", "ceiling", message);
        } else if ceiling == day && !ceiling.is_zero() {
            let message = "equal to limits.day: one payment takes the whole day, and operators are \
                           never asked before";
            self.warn("limits", "ceiling", message);
        }

        if let Some(month) = limits.month {
            if day > month {
                self.error("limits", "day", format!("above limits.month ({month})"));
            }
            if times(day, 30).is_some_and(|most| month >= most) {
                let message = format!("has no effect: 30 full days of {day} stay below it");
                self.warn("limits", "month", message);
            }
        } else {
            let message = format!(
                "no cap over 30 days: {} USDC can go in that time; set one",
                times(day, 30).map_or_else(|| "any".to_owned(), |most| most.to_string())
            );
            self.warn("limits", "month", message);
        }
        if let Some(lifetime) = limits.lifetime {
            let (key, most) = limits.month.map_or(("day", day), |month| ("month", month));
            if most > lifetime {
                self.error("limits", key, format!("above limits.lifetime ({lifetime})"));
            }
            let days = policy.expires_s.saturating_sub(now_s).div_ceil(DAY_S);
            if days > 0 && times(day, days).is_some_and(|most| lifetime > most) {
                let message = format!("has no effect: the authority ends in {days} days");
                self.note("limits", "lifetime", message);
            }
        } else {
            self.note("limits", "lifetime", "no budget: only the rolling caps bound what is spent");
        }
    }

    fn counts(&mut self, table: &str, counts: &Counts) {
        let rows = [
            ("per_minute", counts.per_minute, 1_u64),
            ("per_hour", counts.per_hour, 60),
            ("per_day", counts.per_day, 24 * 60),
        ];
        let set: Vec<_> =
            rows.iter().filter_map(|(key, n, len)| Some((*key, (*n)?, *len))).collect();
        for (place, (key, limit, length)) in set.iter().enumerate() {
            for (shorter, less, minutes) in &set[..place] {
                if limit < less {
                    let message = format!("below {shorter} ({less}), which so never applies");
                    self.error(table, key, message);
                }
                let most = u64::from(*less) * (length / minutes);
                if u64::from(*limit) >= most {
                    let message =
                        format!("has no effect: {shorter} = {less} allows {most} at most");
                    self.warn(table, key, message);
                }
            }
        }
        let units = self.policy.limits.day.units();
        if counts.per_day.is_some_and(|limit| units > 0 && u64::from(limit) > units) {
            let message = "has no effect: limits.day has fewer of USDC's smallest units";
            self.warn(table, "per_day", message);
        }
    }

    fn counts_together(&mut self) {
        let (all, each) = (self.policy.counts, self.policy.payee_counts);
        if all.is_off() {
            let message = "no limit on the number of payments; set per_minute, per_hour or per_day";
            self.warn("", "counts", message);
        }
        for (key, all, each) in [
            ("per_minute", all.per_minute, each.per_minute),
            ("per_hour", all.per_hour, each.per_hour),
            ("per_day", all.per_day, each.per_day),
        ] {
            if let (Some(all), Some(each)) = (all, each)
                && each >= all
            {
                let message = format!("has no effect: all payees together have {all}");
                self.warn("counts.payee", key, message);
            }
        }
    }

    fn fetch(&mut self) {
        let Some(fetch) = self.policy.fetch else { return };
        for (key, smaller, wider, larger) in [
            ("per_call", fetch.per_call, "host_day", fetch.host_day),
            ("host_day", fetch.host_day, "day", fetch.day),
        ] {
            if smaller > larger {
                self.error("fetch", key, format!("above fetch.{wider} ({larger})"));
            }
        }
        if let Some(minute) = fetch.minute {
            for (is_wrong, what) in [
                (minute < fetch.per_call, format!("below fetch.per_call ({})", fetch.per_call)),
                (minute > fetch.day, format!("above fetch.day ({})", fetch.day)),
            ] {
                if is_wrong {
                    self.error("fetch", "minute", what);
                }
            }
        }
        if fetch.per_call.is_zero() {
            self.error("fetch", "per_call", "0: the agent can pay for no call");
        }
        if let Some(channel) = fetch.channel {
            if channel < fetch.per_call {
                let message = format!(
                    "below fetch.per_call ({}), which one deposit then cannot pay",
                    fetch.per_call
                );
                self.error("fetch", "channel", message);
            }
            let ceiling = self.policy.limits.ceiling;
            if channel > ceiling {
                let message = format!(
                    "above limits.ceiling ({ceiling}): no deposit is made, for none is approved"
                );
                self.error("fetch", "channel", message);
            }
        }
        let Some(float) = fetch.float else { return };
        if float < fetch.per_call {
            let message =
                format!("below fetch.per_call ({}), which it then cannot pay", fetch.per_call);
            self.error("fetch", "float", message);
        }
        if float > fetch.day {
            let message = format!(
                "a stolen float is worth all it holds, and a day needs no more than {} (fetch.day)",
                fetch.day
            );
            self.warn("fetch", "float", message);
        }
    }

    fn loops(&mut self) {
        let Some(loops) = self.policy.loops else {
            let message = "no loop breaker: an agent gone wrong repeats a payment up to its caps";
            self.warn("", "loops", message);
            return;
        };
        let (all, each) = (self.policy.counts, self.policy.payee_counts);
        let binding = [
            (60, "per_minute", all.per_minute, each.per_minute),
            (3_600, "per_hour", all.per_hour, each.per_hour),
            (DAY_S, "per_day", all.per_day, each.per_day),
        ]
        .into_iter()
        .filter(|(length, ..)| loops.within_s <= *length)
        .find_map(|(_, key, all, each)| {
            let least = all.into_iter().chain(each).min()?;
            (least <= loops.same_payment).then_some((key, least))
        });
        if let Some((key, least)) = binding {
            let message = format!("has no effect: {key} stops the agent after {least} payments");
            self.warn("loops", "same_payment", message);
        }
        let most = times(self.policy.limits.ceiling, u64::from(loops.same_payment));
        if most.is_none_or(|most| most >= self.policy.limits.day)
            && !self.policy.limits.ceiling.is_zero()
        {
            let message = "so many payments at the ceiling use up limits.day first: too many";
            self.note("loops", "same_payment", message);
        }
    }
}

fn times(amount: Usdc, n: u64) -> Option<Usdc> {
    amount.units().checked_mul(n).and_then(Usdc::from_units)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{HEAD, NOW, categories, usdc};

    const QUIET: &str = r#"
hosts = ["api.example.com"]
[limits]
ceiling = "100"
day = "1000"
month = "10000"
lifetime = "50000"
[counts]
per_minute = 30
per_hour = 600
[loops]
same_payment = 5
within = "10m"
"#;

    fn findings(text: &str) -> Vec<Finding> {
        let text = format!("{HEAD}{text}");
        let policy = Policy::parse(&text, &categories()).unwrap();
        lint(&text, &policy, Some(&categories()), NOW)
    }

    /// What changes when `old` becomes `new` in a policy that has no findings.
    fn after(old: &str, new: &str) -> Vec<(Level, String)> {
        assert!(format!("{HEAD}{QUIET}").contains(old), "{old}");
        let text = format!("{HEAD}{QUIET}").replacen(old, new, 1);
        let policy = Policy::parse(&text, &categories()).unwrap();
        let found = lint(&text, &policy, Some(&categories()), NOW);
        found.into_iter().map(|finding| (finding.level, finding.key)).collect()
    }

    #[test]
    fn a_narrow_policy_has_no_findings() {
        assert_eq!(findings(QUIET), []);
    }

    #[test]
    fn finds_what_is_too_broad() {
        use Level::{Note, Warning};
        let cases: [(&str, &str, Level, &str); 10] = [
            ("month = \"10000\"\n", "", Warning, "limits.month"),
            ("lifetime = \"50000\"\n", "", Note, "limits.lifetime"),
            ("ceiling = \"100\"", "ceiling = \"1000\"", Warning, "limits.ceiling"),
            ("\"data\", \"compute\"", "\"data\", \"compute\", \"travel\"", Warning, "categories"),
            ("2027-01-01", "2028-01-01", Warning, "expires"),
            ("[\"api.example.com\"]", "[]", Note, "hosts"),
            ("per_minute = 30\nper_hour = 600", "", Warning, "counts"),
            ("[loops]\nsame_payment = 5\nwithin = \"10m\"", "", Warning, "loops"),
            ("[limits]", "unregistered_payee = \"ask\"\n[limits]", Note, "unregistered_payee"),
            (
                "[counts]",
                "[invoices]\nduplicates = \"allow\"\n[counts]",
                Warning,
                "invoices.duplicates",
            ),
        ];
        for (old, new, level, key) in cases {
            assert!(
                after(old, new).contains(&(level, key.to_owned())),
                "{new}: {:?}",
                after(old, new)
            );
        }
    }

    #[test]
    fn finds_what_contradicts() {
        for (old, new, key) in [
            ("ceiling = \"100\"", "ceiling = \"1001\"", "limits.ceiling"),
            ("day = \"1000\"", "day = \"10001\"", "limits.day"),
            ("month = \"10000\"", "month = \"50001\"", "limits.month"),
            ("month = \"10000\"\nlifetime = \"50000\"", "lifetime = \"999\"", "limits.day"),
            ("per_hour = 600", "per_hour = 29", "counts.per_hour"),
            ("2027-01-01", "2026-01-01", "expires"),
            ("hosts", "above_ceiling = \"deny\"\nhosts", ""),
        ] {
            let errors: Vec<_> =
                after(old, new).into_iter().filter(|(level, _)| *level == Level::Error).collect();
            let expected =
                if key.is_empty() { vec![] } else { vec![(Level::Error, key.to_owned())] };
            assert_eq!(errors, expected, "{new}");
        }
        let nothing = QUIET.replace("\"100\"", "\"0\"");
        assert_eq!(findings(&nothing)[0].level, Level::Note);
        let never = findings(&format!("above_ceiling = \"deny\"\n{nothing}"));
        assert_eq!((never[0].level, never[0].key.as_str()), (Level::Error, "limits.ceiling"));
        let day = findings(&nothing.replace("\"1000\"", "\"0\""));
        assert!(day.iter().any(|f| f.level == Level::Error && f.key == "limits.day"));
    }

    #[test]
    fn finds_what_never_applies() {
        for (old, new, key) in [
            ("month = \"10000\"", "month = \"30000\"", "limits.month"),
            ("per_hour = 600", "per_hour = 1800", "counts.per_hour"),
            ("per_hour = 600", "per_day = 43200", "counts.per_day"),
            ("[loops]", "[counts.payee]\nper_minute = 30\n[loops]", "counts.payee.per_minute"),
            ("same_payment = 5", "same_payment = 600", "loops.same_payment"),
            ("[\"api.example.com\"]", "[\"api.example.com\", \"*.example.com\"]", "hosts"),
            ("[\"api.example.com\"]", "[\"api.example.com\", \"api.example.com\"]", "hosts"),
        ] {
            let found = after(old, new);
            let hits = found.iter().filter(|(level, k)| *level == Level::Warning && k == key);
            assert_eq!(hits.count(), 1, "{new}: {found:?}");
        }
        assert!(
            after("\"50000\"", "\"500000\"").contains(&(Level::Note, "limits.lifetime".into()))
        );
    }

    #[test]
    fn findings_point_at_their_line() {
        let text = QUIET.replace("\"100\"", "\"1001\"");
        let found = findings(&text);
        let whole = format!("{HEAD}{text}");
        let line = whole.lines().position(|line| line.starts_with("ceiling")).unwrap() + 1;
        assert_eq!(found[0].line, Some(line));
    }

    #[test]
    fn two_files_must_not_share_names_or_keys() {
        let one = crate::policy::testing::policy("");
        let mut two = one.clone();
        two.agent = "other".parse().unwrap();
        let keys = |policies: &[&Policy]| -> Vec<(usize, String)> {
            lint_together(policies).into_iter().map(|(at, f)| (at, f.key)).collect()
        };
        assert_eq!(keys(&[&one, &one]), [(1, "agent".to_owned())]);
        assert_eq!(
            keys(&[&one, &two]),
            [(1, "key_index".to_owned()), (1, "public_key".to_owned())]
        );
        (two.key_index, two.public_key) = (1, [9; 32]);
        assert_eq!(keys(&[&one, &two]), []);
    }

    #[test]
    fn products_beyond_the_largest_amount_are_none() {
        assert_eq!(times(usdc("2"), 3), Some(usdc("6")));
        assert_eq!(times(usdc("9223372036854"), 2), None);
    }
}
