//! The policy file of one agent: TOML in, checked values out.

use std::{fmt, ops::RangeInclusive};

use alloy::primitives::{B256, keccak256};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use ed25519_dalek::VerifyingKey;
use jiff::{SignedDuration, Timestamp};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error as _, Unexpected, Visitor},
};
use toml::Spanned;

use super::{coupons::Coupons, hosts::HostPattern};
use crate::{money::Usdc, payment::AgentId};

/// Bytes a policy file may have.
const MAX_BYTES: usize = 65_536;
/// Hosts a policy may list.
const MAX_HOSTS: usize = 256;
/// The contract keeps ceiling, day and month cap in 48 bits, all ones meaning "off".
const OFF_48: u64 = (1 << 48) - 1;

/// What happens where a limit or a rule says no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLimit {
    /// The payment is refused.
    Deny,
    /// The operators' quorum decides.
    Ask,
}

/// The names of the wallet's payee categories: the name at place `n` is bit `n` in the contract.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Categories(Vec<String>);

/// A list of category names that cannot stand.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CategoriesError {
    /// The contract has 16 bits.
    #[error("{0} categories: the contract has room for 16")]
    TooMany(usize),
    /// A name is malformed.
    #[error("`{0}` is not a category's name: use 1 to 40 of a-z, 0-9 and -")]
    NotAName(String),
    /// A name stands twice.
    #[error("category `{0}` is listed twice: one name, one bit")]
    Twice(String),
}

impl Categories {
    /// Takes the names in the order of their bits, 16 at most.
    ///
    /// # Errors
    /// Too many, malformed or repeated names.
    pub fn new(names: Vec<String>) -> Result<Self, CategoriesError> {
        if names.len() > 16 {
            return Err(CategoriesError::TooMany(names.len()));
        }
        for (place, name) in names.iter().enumerate() {
            let good = (1..=40).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            if !good {
                return Err(CategoriesError::NotAName(name.chars().take(60).collect()));
            }
            if names[..place].contains(name) {
                return Err(CategoriesError::Twice(name.clone()));
            }
        }
        Ok(Self(names))
    }

    /// Takes the names that a policy file itself lists, for reading it without knowing the wallet.
    /// Names that cannot stand are left out; [`Policy::parse`] then says so.
    #[must_use]
    pub fn named_in(text: &str) -> Self {
        let mut names = Self::default();
        let file = text.parse::<toml::Table>().unwrap_or_default();
        let listed = file.get("categories").and_then(|list| list.as_array());
        for name in listed.into_iter().flatten().filter_map(|name| name.as_str()) {
            let mut more = names.0.clone();
            more.push(name.to_owned());
            names = Self::new(more).unwrap_or(names);
        }
        names
    }

    /// Returns the bit of a name.
    #[must_use]
    pub fn bit(&self, name: &str) -> Option<u16> {
        self.0.iter().position(|known| known == name).map(|place| 1 << place)
    }

    /// Returns the names whose bits are set in `mask`, in bit order. A bit without a name is shown
    /// as `bit-<n>`.
    #[must_use]
    pub fn names_of(&self, mask: u16) -> Vec<String> {
        (0..16)
            .filter(|bit| mask & (1 << bit) != 0)
            .map(|bit| self.0.get(bit).cloned().unwrap_or_else(|| format!("bit-{bit}")))
            .collect()
    }

    /// Returns all names in bit order.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.0
    }
}

/// Money limits, held by the contract too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest payment without operators; 0: every payment needs them.
    pub ceiling: Usdc,
    /// Over any 24 hours.
    pub day: Usdc,
    /// Over any 30 days.
    pub month: Option<Usdc>,
    /// Over the agent's whole life.
    pub lifetime: Option<Usdc>,
}

/// Limits on the number of payments, each over any interval of that length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Over any minute.
    pub per_minute: Option<u32>,
    /// Over any hour.
    pub per_hour: Option<u32>,
    /// Over any 24 hours.
    pub per_day: Option<u32>,
}

impl Counts {
    /// Is no count limited?
    #[must_use]
    pub const fn is_off(&self) -> bool {
        self.per_minute.is_none() && self.per_hour.is_none() && self.per_day.is_none()
    }
}

/// The loop breaker: the same payee and the same amount, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loops {
    /// So many are let through in any interval of `within_s`.
    pub same_payment: u32,
    /// Seconds, 1 to 86,400.
    pub within_s: u64,
}

/// What an agent may buy from sellers that answer 402. The contract judges what leaves the wallet;
/// these hold what a chain cannot see: the call, the host, the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchLimits {
    /// Largest price of one call.
    pub per_call: Usdc,
    /// What one host may be paid over any 24 hours.
    pub host_day: Usdc,
    /// What all hosts together may be paid over any 24 hours.
    pub day: Usdc,
    /// What all hosts together may be paid in any minute; `None`: no such limit.
    pub minute: Option<Usdc>,
    /// Most that the agent's float may hold; `None`: it has none.
    pub float: Option<Usdc>,
    /// Most that one deposit into a channel to a seller gives; `None`: it pays through no channel.
    pub channel: Option<Usdc>,
    /// The loop breaker of calls.
    pub loops: FetchLoops,
}

/// The loop breaker of calls: the same method and URL, its query left out, again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FetchLoops {
    /// So many paid calls are let through in any interval of `within_s`.
    pub same_call: u32,
    /// So many calls may fail there: refused prices, payments that bought nothing.
    pub failures: u32,
    /// Seconds, 1 to 86,400.
    pub within_s: u64,
}

impl Default for FetchLoops {
    fn default() -> Self {
        Self { same_call: 100, failures: 10, within_s: 60 }
    }
}

/// The contract's `AgentLimits`, in its own units and widths; all ones = off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AgentLimits {
    /// u48, base units.
    pub ceiling: u64,
    /// u48, base units.
    pub day_cap: u64,
    /// u48, base units; `2^48 - 1` = off.
    pub month_cap: u64,
    /// u64, base units; `2^64 - 1` = off.
    pub budget: u64,
    /// u40, unix seconds, exclusive.
    pub expiry: u64,
    /// Bit n = category n.
    pub categories: u16,
}

/// One agent's policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whose.
    pub agent: AgentId,
    /// BIP-32 index of the agent's signing key: `m/44'/60'/0'/0/<key_index>`.
    pub key_index: u32,
    /// The Ed25519 key its requests are signed with.
    pub public_key: [u8; 32],
    /// The person it works for.
    pub sponsor: String,
    /// Categories it may pay: name and bit.
    pub categories: Vec<(String, u16)>,
    /// When its authority ends, exclusive; unix seconds, below 2^40.
    pub expires_s: u64,
    /// Where a cap is reached.
    pub over_cap: OnLimit,
    /// Where the payee is not registered, or not for this agent's categories.
    pub unregistered_payee: OnLimit,
    /// Where the amount is above the ceiling.
    pub above_ceiling: OnLimit,
    /// Hosts whose prices it may pay; empty: any.
    pub hosts: Vec<HostPattern>,
    /// Money.
    pub limits: Limits,
    /// Payments, all payees together.
    pub counts: Counts,
    /// Payments to each payee.
    pub payee_counts: Counts,
    /// The loop breaker.
    pub loops: Option<Loops>,
    /// What it may buy over HTTP 402; `None`: nothing.
    pub fetch: Option<FetchLimits>,
    /// What it may spend by x402 coupons; `None`: as much as the contract grants.
    pub coupons: Option<Coupons>,
    /// May one invoice of one payee be paid again?
    pub duplicate_invoices: bool,
    hash: B256,
}

/// Why a policy file cannot be used: where, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyError {
    /// The line, from 1.
    pub line: Option<usize>,
    /// The key with its table, for example `limits.day`.
    pub key: Option<String>,
    /// What is wrong and what to write.
    pub message: String,
}

impl std::error::Error for PolicyError {}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "`{key}`: ")?;
        }
        f.write_str(&self.message)
    }
}

impl Policy {
    /// Reads a policy file. `categories` are the wallet's: every name in the file must be one.
    ///
    /// # Errors
    /// The first thing that is wrong, with line, key and what to write.
    pub fn parse(text: &str, categories: &Categories) -> Result<Self, PolicyError> {
        if text.len() > MAX_BYTES {
            let message = format!("{} bytes: a policy file has at most {MAX_BYTES}", text.len());
            return Err(PolicyError { line: None, key: None, message });
        }
        let raw: Document = toml::from_str(text).map_err(|error| {
            let start = error.span().map(|span| span.start);
            at(text, start, error.message().to_owned())
        })?;
        let mut own = Vec::with_capacity(raw.categories.get_ref().len());
        for name in raw.categories.get_ref() {
            let wrong = |message| at(text, Some(name.span().start), message);
            let Some(bit) = categories.bit(name.get_ref()) else {
                let known = categories.names().join(", ");
                let name = name.get_ref();
                return Err(wrong(format!(
                    "`{name}` is not a category here; write one of: {known}"
                )));
            };
            if own.iter().any(|(_, known)| *known == bit) {
                return Err(wrong(format!("`{}` is listed twice; write it once", name.get_ref())));
            }
            own.push((name.get_ref().clone(), bit));
        }
        if own.is_empty() {
            let message = "an agent without categories can pay nobody; write at least one".into();
            return Err(at(text, Some(raw.categories.span().start), message));
        }
        if raw.hosts.get_ref().len() > MAX_HOSTS {
            let message = format!("a policy lists at most {MAX_HOSTS} hosts; use patterns");
            return Err(at(text, Some(raw.hosts.span().start), message));
        }
        Ok(Self {
            agent: raw.agent,
            key_index: raw.key_index.0,
            public_key: raw.public_key.0,
            sponsor: raw.sponsor.0,
            categories: own,
            expires_s: raw.expires.0,
            over_cap: raw.over_cap,
            unregistered_payee: raw.unregistered_payee,
            above_ceiling: raw.above_ceiling,
            hosts: raw.hosts.into_inner(),
            limits: Limits {
                ceiling: raw.limits.ceiling.0,
                day: raw.limits.day.0,
                month: raw.limits.month.map(|cap| cap.0),
                lifetime: raw.limits.lifetime.map(|cap| cap.0),
            },
            counts: Counts {
                per_minute: raw.counts.per_minute.map(|n| n.0),
                per_hour: raw.counts.per_hour.map(|n| n.0),
                per_day: raw.counts.per_day.map(|n| n.0),
            },
            payee_counts: Counts {
                per_minute: raw.counts.payee.per_minute.map(|n| n.0),
                per_hour: raw.counts.payee.per_hour.map(|n| n.0),
                per_day: raw.counts.payee.per_day.map(|n| n.0),
            },
            loops: raw.loops.map(|loops| Loops {
                same_payment: loops.same_payment.0,
                within_s: loops.within.0,
            }),
            fetch: raw.fetch.map(|fetch| FetchLimits {
                per_call: fetch.per_call.0,
                host_day: fetch.host_day.0,
                day: fetch.day.0,
                minute: fetch.minute.map(|most| most.0),
                float: fetch.float.map(|cap| cap.0),
                channel: fetch.channel.map(|most| most.0).filter(|most| !most.is_zero()),
                loops: fetch.loops.map_or_else(FetchLoops::default, |loops| FetchLoops {
                    same_call: loops.same_call.0,
                    failures: loops.failures.0,
                    within_s: loops.within.0,
                }),
            }),
            coupons: raw.coupons,
            duplicate_invoices: raw.invoices.duplicates == Duplicates::Allow,
            hash: keccak256(text),
        })
    }

    /// Returns keccak-256 of the file's text: what operators publish on chain.
    #[must_use]
    pub const fn hash(&self) -> B256 {
        self.hash
    }

    /// Returns the bits of its categories.
    #[must_use]
    pub fn category_mask(&self) -> u16 {
        self.categories.iter().fold(0, |mask, (_, bit)| mask | bit)
    }

    /// Returns what the contract is to hold.
    #[must_use]
    pub fn limits(&self) -> AgentLimits {
        AgentLimits {
            ceiling: self.limits.ceiling.units(),
            day_cap: self.limits.day.units(),
            month_cap: self.limits.month.map_or(OFF_48, Usdc::units),
            budget: self.limits.lifetime.map_or(u64::MAX, Usdc::units),
            expiry: self.expires_s,
            categories: self.category_mask(),
        }
    }
}

/// Returns the line (from 1) on which `key` of `table` ("" = the top) is written as `key = …`.
pub(super) fn line_of(text: &str, table: &str, key: &str) -> Option<usize> {
    keys(text).find(|(_, of, name)| *of == table && *name == key).map(|(line, ..)| line)
}

/// Walks `key = …` lines as (line from 1, table, key).
fn keys(text: &str) -> impl Iterator<Item = (usize, &str, &str)> {
    let mut table = "";
    text.lines().enumerate().filter_map(move |(index, line)| {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            table = name.trim();
        }
        let (key, _) = line.split_once('=')?;
        let key = key.trim();
        let bare = !key.is_empty()
            && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        bare.then_some((index + 1, table, key))
    })
}

/// Makes an error that points at byte `start` of the file.
fn at(text: &str, start: Option<usize>, message: String) -> PolicyError {
    let line = start.and_then(|at| text.get(..at)).map(|before| before.matches('\n').count() + 1);
    // A value can run over lines: its key is the last one at or above it.
    let key = line.and_then(|line| keys(text).take_while(|(at, ..)| *at <= line).last()).map(
        |(_, table, key)| if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") },
    );
    PolicyError { line, key, message }
}

// The file as written. Each type below checks its own value, so that the parser can say where.

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    agent: AgentId,
    key_index: KeyIndex,
    public_key: PublicKey,
    sponsor: Sponsor,
    categories: Spanned<Vec<Spanned<String>>>,
    expires: Expiry,
    #[serde(default = "deny")]
    over_cap: OnLimit,
    #[serde(default = "deny")]
    unregistered_payee: OnLimit,
    #[serde(default = "ask")]
    above_ceiling: OnLimit,
    #[serde(default = "no_hosts")]
    hosts: Spanned<Vec<HostPattern>>,
    limits: LimitsTable,
    #[serde(default)]
    counts: CountsTable,
    loops: Option<LoopsTable>,
    fetch: Option<FetchTable>,
    coupons: Option<Coupons>,
    #[serde(default)]
    invoices: InvoicesTable,
}

const fn deny() -> OnLimit {
    OnLimit::Deny
}

const fn ask() -> OnLimit {
    OnLimit::Ask
}

fn no_hosts() -> Spanned<Vec<HostPattern>> {
    Spanned::new(0..0, Vec::new())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsTable {
    ceiling: Cap,
    day: Cap,
    month: Option<Cap>,
    lifetime: Option<Amount>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct CountsTable {
    per_minute: Option<Count>,
    per_hour: Option<Count>,
    per_day: Option<Count>,
    payee: PayeeCountsTable,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PayeeCountsTable {
    per_minute: Option<Count>,
    per_hour: Option<Count>,
    per_day: Option<Count>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LoopsTable {
    same_payment: Count,
    within: Within,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FetchTable {
    per_call: Amount,
    host_day: Amount,
    day: Amount,
    minute: Option<Amount>,
    float: Option<Amount>,
    channel: Option<Amount>,
    loops: Option<FetchLoopsTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FetchLoopsTable {
    same_call: Count,
    failures: Count,
    within: Within,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct InvoicesTable {
    duplicates: Duplicates,
}

#[derive(Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Duplicates {
    #[default]
    Deny,
    Allow,
}

/// Reads a quoted text and says what belongs there when it is something else.
struct Quoted(&'static str);

impl Visitor<'_> for Quoted {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }
}

/// Reads a whole number within a range and says what belongs there when it is something else.
struct Whole(RangeInclusive<u32>, &'static str);

impl Visitor<'_> for Whole {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.1)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<u32, E> {
        let fits = u32::try_from(number).ok().filter(|number| self.0.contains(number));
        fits.ok_or_else(|| E::invalid_value(Unexpected::Signed(number), &self))
    }
}

struct Amount(Usdc);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text =
            deserializer.deserialize_str(Quoted("USDC in quotes, like \"250\" or \"0.5\""))?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

/// An amount that the contract keeps in 48 bits.
struct Cap(Usdc);

impl<'de> Deserialize<'de> for Cap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Amount(amount) = Amount::deserialize(deserializer)?;
        if amount.units() < OFF_48 {
            return Ok(Self(amount));
        }
        Err(D::Error::custom(format!(
            "{amount} USDC is more than the contract can hold here; write 281474976 or less"
        )))
    }
}

struct Count(u32);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const FORM: &str = "a number from 1 to 1000000; leave the key out for no limit";
        deserializer.deserialize_i64(Whole(1..=1_000_000, FORM)).map(Self)
    }
}

struct KeyIndex(u32);

impl<'de> Deserialize<'de> for KeyIndex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const FORM: &str = "a key's index from 0 to 2147483647";
        deserializer.deserialize_i64(Whole(0..=0x7fff_ffff, FORM)).map(Self)
    }
}

struct PublicKey([u8; 32]);

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_str(Quoted("an Ed25519 key in quotes"))?;
        let key = BASE64_URL_SAFE_NO_PAD.decode(&text).ok().and_then(|bytes| {
            let key = VerifyingKey::from_bytes(&bytes.try_into().ok()?).ok()?;
            (!key.is_weak()).then(|| key.to_bytes())
        });
        key.map(Self).ok_or_else(|| {
            D::Error::custom(
                "not an Ed25519 public key; write its 32 bytes in base64url, 43 characters without =",
            )
        })
    }
}

struct Sponsor(String);

impl<'de> Deserialize<'de> for Sponsor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = deserializer.deserialize_str(Quoted("a person's name or address in quotes"))?;
        if (1..=256).contains(&text.len()) && !text.chars().any(char::is_control) {
            return Ok(Self(text));
        }
        Err(D::Error::custom("write the person the agent works for, in 1 to 256 bytes"))
    }
}

struct Expiry(u64);

impl<'de> Deserialize<'de> for Expiry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const FORM: &str = "a time in quotes, like \"2027-01-01T00:00:00Z\"";
        let text = deserializer.deserialize_str(Quoted(FORM))?;
        let time = text.parse::<Timestamp>().ok();
        let seconds = time.and_then(|time| u64::try_from(time.as_second()).ok());
        // The contract keeps 40 bits; no RFC 3339 year reaches them, the check costs nothing.
        seconds.filter(|s| (1..1 << 40).contains(s)).map(Self).ok_or_else(|| {
            D::Error::custom(format!("`{text}` is not a time after 1970; write {FORM}"))
        })
    }
}

struct Within(u64);

impl<'de> Deserialize<'de> for Within {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const FORM: &str = "a time from 1 second to 24 hours in quotes, like \"60s\" or \"10m\"";
        let text = deserializer.deserialize_str(Quoted(FORM))?;
        let span = text.parse::<SignedDuration>().ok().filter(|span| span.subsec_nanos() == 0);
        let seconds = span.and_then(|span| u64::try_from(span.as_secs()).ok());
        seconds
            .filter(|s| (1..=86_400).contains(s))
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("`{text}` is not a length; write {FORM}")))
    }
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
