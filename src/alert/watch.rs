//! Watch: what is measured against thresholds, and the alerts that come of it.
//!
//! An alert goes up at its threshold and comes down at a lower one, so that what wavers is told
//! once. What cannot be measured now changes nothing. Refusals are read from the audit log, which
//! every daemon on a store shares.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use serde_json::{Value, json};
use tracing::warn;

use crate::{
    alert::{Alert, AlertKind},
    audit::EventKind,
    buyer::Odd,
    channel::meter::MeterRow,
    config::{AlertsConfig, SubmitConfig},
    engine::{self, EngineError, Inner, Stop},
    fees,
    money::Usdc,
    notify, policy, pulse,
    refusal::Code,
    store::AuditNote,
    submit::assign,
    view::{LimitView, RelayerView, WebhookView},
};

/// Pause between two looks.
const EVERY: Duration = Duration::from_secs(2);
/// Entries of the audit log before the start that are read for refusals.
const LOOK_BACK: u64 = 20_000;
/// Refusals read in one look.
const NOTES: u32 = 5_000;
/// Failed tries in a row after which an endpoint is an alert.
const FAILURES: u64 = 5;
/// Sellers that are remembered for something odd.
const SELLERS: usize = 256;
/// Channels looked at for payers that leave, at most.
const LEAVING: u32 = 200;
/// Times after which what may be harmless is an alert.
const ODD_TIMES: u64 = 3;
/// Whom requests belong to that nobody can be held to.
const STRANGERS: &str = "strangers";

/// Where a measure stands against its two thresholds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    /// The alert goes up.
    Bad,
    /// It stays as it is.
    Between,
    /// It comes down.
    Good,
}

/// Judges a measure that is bad from `bad` on and good again below `good`.
const fn rising(measure: u64, bad: u64, good: u64) -> Level {
    if measure >= bad {
        Level::Bad
    } else if measure < good {
        Level::Good
    } else {
        Level::Between
    }
}

/// Something measured.
struct Finding {
    level: Level,
    kind: AlertKind,
    subject: String,
    detail: String,
    data: Value,
}

/// Runs until told to stop.
pub(crate) async fn run(inner: Arc<Inner>, stop: Stop) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut refusals = Refusals::default();
    loop {
        pulse::rest();
        tokio::select! {
            () = stop.asked() => return,
            _ = tick.tick() => {}
        }
        pulse::work();
        if let Err(error) = look(&inner, &mut refusals).await {
            warn!(%error, "alerts could not be looked after; trying again");
        }
    }
}

async fn look(inner: &Inner, refusals: &mut Refusals) -> Result<(), EngineError> {
    // One daemon judges for all: two that see the chain differently would contradict each other.
    if inner.is_keeper() {
        judge(inner, refusals).await?;
    }
    let up = inner.store.alerts().await?;
    for kind in AlertKind::ALL {
        let count = up.iter().filter(|alert| alert.kind == *kind).count();
        let gauge = inner.metrics.alerts.get_or_create(&(*kind).into());
        gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    Ok(())
}

async fn judge(inner: &Inner, refusals: &mut Refusals) -> Result<(), EngineError> {
    let now_ms = inner.clock.now_ms();
    let thresholds = &inner.config.alerts;
    refusals.read(inner).await?;
    let mut kinds = vec![
        AlertKind::Backlog,
        AlertKind::RpcLag,
        AlertKind::CapNear,
        AlertKind::Denials,
        AlertKind::Loop,
        AlertKind::Seller,
        AlertKind::Leaving,
        AlertKind::Webhook,
    ];
    let (_, oldest_ms) = inner.store.backlog().await?;
    let mut found = vec![
        backlog(thresholds, oldest_ms.map_or(0, |at| seconds_since(at, now_ms))),
        rpc_lag(thresholds, lag_s(inner), inner.height()),
    ];
    found.extend(caps(thresholds, inner));
    found.extend(refusals.findings(thresholds, now_ms));
    let leavers = inner.store.meters_leaving(LEAVING).await?;
    found.extend(leavers.iter().filter_map(|row| leaving(row, inner.now_s())));
    found.extend(notify::list(inner).await?.into_iter().map(webhook));
    // A node that does not answer says nothing about gas.
    if let Ok(relayers) = relayers(inner).await {
        kinds.push(AlertKind::GasLow);
        found.extend(relayers.iter().map(|relayer| gas(thresholds, relayer)));
    }
    settle(inner, &kinds, found).await
}

/// Raises and clears what changed. An alert of `kinds` whose subject was not found any more (an
/// agent without a file, a relayer out of use) comes down.
async fn settle(
    inner: &Inner,
    kinds: &[AlertKind],
    found: Vec<Finding>,
) -> Result<(), EngineError> {
    let since_ms = inner.clock.now_ms();
    let up = inner.store.alerts().await?;
    let known: BTreeSet<(AlertKind, &str)> =
        up.iter().map(|alert| (alert.kind, alert.subject.as_str())).collect();
    let mut seen = BTreeSet::new();
    for finding in found {
        let key = (finding.kind, finding.subject.clone());
        let is_up = known.contains(&(finding.kind, finding.subject.as_str()));
        match finding.level {
            Level::Bad if !is_up => {
                let Finding { kind, subject, detail, data, .. } = finding;
                inner.raise(Alert { kind, subject, detail, data, since_ms }).await?;
            }
            Level::Good if is_up => {
                inner.clear(finding.kind, &finding.subject).await?;
            }
            _ => {}
        }
        seen.insert(key);
    }
    for alert in &up {
        let key = (alert.kind, alert.subject.clone());
        if kinds.contains(&alert.kind) && !seen.contains(&key) {
            inner.clear(alert.kind, &alert.subject).await?;
        }
    }
    Ok(())
}

pub(crate) fn seconds_since(at_ms: i64, now_ms: i64) -> u64 {
    u64::try_from(now_ms.saturating_sub(at_ms) / 1_000).unwrap_or(0)
}

fn backlog(thresholds: &AlertsConfig, age_s: u64) -> Finding {
    let limit = thresholds.backlog_s;
    Finding {
        level: rising(age_s, limit, limit.div_ceil(2)),
        kind: AlertKind::Backlog,
        subject: String::new(),
        detail: format!(
            "the oldest payment has been on its way for {age_s} s: look at gas, fees and the node"
        ),
        data: json!({ "age_s": age_s, "threshold_s": limit }),
    }
}

/// Seconds since the chain last showed a new block, or since it was last reached at all.
pub(crate) fn lag_s(inner: &Inner) -> u64 {
    let now_s = inner.clock.now_s();
    let silent_s = now_s.saturating_sub(inner.reached_s.load(Ordering::Relaxed));
    now_s.saturating_sub(inner.head_time_s()).max(silent_s)
}

fn rpc_lag(thresholds: &AlertsConfig, lag_s: u64, height: u64) -> Finding {
    let limit = thresholds.rpc_lag_s;
    Finding {
        level: rising(lag_s, limit, limit.div_ceil(2)),
        kind: AlertKind::RpcLag,
        subject: String::new(),
        detail: format!(
            "the chain's newest block, {height}, is {lag_s} s old: check the nodes in chain.rpc"
        ),
        data: json!({ "lag_s": lag_s, "threshold_s": limit, "block": height }),
    }
}

/// Returns the full batches that so much gas money pays for at the fees of now.
#[must_use]
pub(crate) fn batches_paid(wei: u128, base_fee: u128, submit: &SubmitConfig) -> u64 {
    let ceiling = u128::from(submit.fee_ceiling_gwei) * 1_000_000_000;
    let max_fee = fees::first(base_fee, engine::TIP, ceiling).max_fee;
    let cost = max_fee.saturating_mul(assign::full_gas(submit.batch_items).into());
    u64::try_from(wei / cost.max(1)).unwrap_or(u64::MAX)
}

/// The relayers with what their gas money buys.
///
/// # Errors
/// [`EngineError::Rpc`].
pub(crate) async fn relayers(inner: &Inner) -> Result<Vec<RelayerView>, EngineError> {
    let addresses = inner.relayer_addresses();
    let balances = inner.rpc.balances(&addresses).await?;
    Ok(addresses
        .into_iter()
        .zip(balances)
        .map(|(address, balance)| {
            let wei = u128::try_from(balance).unwrap_or(u128::MAX);
            RelayerView {
                address,
                wei: wei.to_string(),
                batches: batches_paid(wei, inner.base_fee(), &inner.config.submit),
                refused: inner.flights.is_broke(address),
            }
        })
        .collect())
}

fn gas(thresholds: &AlertsConfig, relayer: &RelayerView) -> Finding {
    let (limit, left, address) = (thresholds.gas_batches, relayer.batches, relayer.address);
    let level = if relayer.refused || left < limit {
        Level::Bad
    } else if left >= limit.saturating_mul(2) {
        Level::Good
    } else {
        Level::Between
    };
    Finding {
        level,
        kind: AlertKind::GasLow,
        subject: address.to_string(),
        detail: format!(
            "relayer {address} can pay the gas of {left} full batches: send it gas money"
        ),
        data: json!({ "relayer": address, "wei": relayer.wei, "batches": left, "threshold": limit }),
    }
}

/// Returns how much of a money limit is used, in percent, rounded down; `None` for counts.
#[must_use]
pub(crate) fn percent(limit: &LimitView) -> Option<u64> {
    if limit.rule.starts_with("counts.") {
        return None;
    }
    let (used, whole): (Usdc, Usdc) = (limit.used.parse().ok()?, limit.limit.parse().ok()?);
    Some(used.units().saturating_mul(100).checked_div(whole.units()).unwrap_or(100))
}

/// A payer that is withdrawing while it owes. It can take everything away once its delay is over.
fn leaving(row: &MeterRow, now_s: u64) -> Option<Finding> {
    let since_s = row.chain.withdraw_since_s.filter(|_| !row.owed().is_zero())?;
    let delay_s = u64::from(row.config.withdraw_delay);
    let (gone_s, id, owed) = (now_s.saturating_sub(since_s), row.id, row.owed());
    let left_s = delay_s.saturating_sub(gone_s);
    Some(Finding {
        level: if gone_s >= delay_s.div_ceil(2) { Level::Bad } else { Level::Between },
        kind: AlertKind::Leaving,
        subject: id.to_string(),
        detail: format!(
            "the payer of channel {id} takes its money back in {left_s} s, and {owed} USDC that it \
             owes are not claimed yet: look at gas, fees and the node, then `bursar channels claim`"
        ),
        data: json!({ "channel": id, "owed": owed, "left_s": left_s, "delay_s": delay_s }),
    })
}

fn webhook(endpoint: WebhookView) -> Finding {
    let name = &endpoint.name;
    let level = match (&endpoint.disabled, endpoint.failures) {
        (None, 0) => Level::Good,
        (None, failures) if failures < FAILURES => Level::Between,
        _ => Level::Bad,
    };
    let why = endpoint.disabled.as_ref().or(endpoint.answer.as_ref()).cloned().unwrap_or_default();
    Finding {
        level,
        kind: AlertKind::Webhook,
        subject: name.clone(),
        detail: format!(
            "webhook endpoint {name} takes nothing ({why}): mend it, then `bursar webhooks enable` \
             or `replay`"
        ),
        data: json!({ "endpoint": name, "failures": endpoint.failures, "answer": why }),
    }
}

fn caps(thresholds: &AlertsConfig, inner: &Inner) -> Vec<Finding> {
    let now_s = inner.now_s();
    let book = inner.book();
    let mut found: HashMap<String, Finding> = HashMap::new();
    for agent in book.agents.values() {
        let (chain, name) = (agent.chain.as_ref(), &agent.policy.agent);
        for limit in policy::limit_views(&agent.policy, chain, &agent.usage, &book.wallet, now_s) {
            let Some(used) = percent(&limit) else { continue };
            let rule = &limit.rule;
            let shared = rule.starts_with("wallet.");
            let subject = if shared { rule.clone() } else { format!("{name} {rule}") };
            let who = if shared { "the wallet".to_owned() } else { format!("agent {name}") };
            let bad = thresholds.cap_percent;
            let finding = Finding {
                level: rising(used, bad, bad.saturating_sub(10)),
                kind: AlertKind::CapNear,
                subject: subject.clone(),
                detail: format!(
                    "{who} has used {} of {} USDC of {rule} ({used} %): what is above it will be \
                     refused",
                    limit.used, limit.limit
                ),
                data: json!({ "limit": limit, "percent": used, "threshold": bad }),
            };
            found.insert(subject, finding);
        }
    }
    found.into_values().collect()
}

/// Refusals of the last minutes, by whom they were for.
#[derive(Default)]
struct Refusals {
    /// The last entry of the audit log that was read; `None` before the first look.
    read: Option<u64>,
    of: HashMap<String, Counts>,
    /// Sellers that were odd, by host: [`SELLERS`] at most.
    sellers: BTreeMap<String, Seen>,
}

/// What a seller did that was odd.
#[derive(Default)]
struct Seen {
    /// The last time, unix seconds.
    at_s: u64,
    times: BTreeMap<Odd, u64>,
}

#[derive(Default)]
struct Counts {
    /// Unix second, and how many in it; oldest first. One entry a second at most.
    denied: VecDeque<(u64, u64)>,
    /// When the loop breaker last refused, unix seconds.
    loop_s: Option<u64>,
}

impl Refusals {
    async fn read(&mut self, inner: &Inner) -> Result<(), EngineError> {
        let head = inner.store.audit_head().await?.seq;
        let mut after = self.read.unwrap_or_else(|| head.saturating_sub(LOOK_BACK));
        let kinds = [
            EventKind::PaymentDenied,
            EventKind::AgentUnauthenticated,
            EventKind::X402PriceChanged,
            EventKind::X402PaytoChanged,
            EventKind::X402RetryLoop,
        ];
        let notes = inner.store.audit_notes(after, head, kinds, NOTES).await?;
        // Agents who have a file stay known, so that their alerts can come down.
        for id in inner.book().agents.keys() {
            self.of.entry(id.to_string()).or_default();
        }
        self.of.entry(STRANGERS.to_owned()).or_default();
        let all = notes.len() < NOTES as usize;
        for note in notes {
            after = note.seq;
            self.count(&note);
        }
        self.read = Some(if all { head } else { after });
        Ok(())
    }

    fn count(&mut self, note: &AuditNote) {
        if let Some(odd) = Odd::read(&note.kind, &note.data) {
            self.count_odd(note, odd);
        }
        // What came after a payment is no refusal.
        let refused = [EventKind::PaymentDenied, EventKind::AgentUnauthenticated];
        if refused.iter().all(|kind| kind.as_str() != note.kind) {
            return;
        }
        let who = match &note.agent {
            Some(agent) if note.kind == EventKind::PaymentDenied.as_str() => agent.as_str(),
            _ => STRANGERS,
        };
        // Nobody else is ever entered: the list is as long as that of the policy files.
        let Some(counts) = self.of.get_mut(who) else { return };
        let at_s = u64::try_from(note.at_ms / 1_000).unwrap_or(0);
        match counts.denied.back_mut() {
            Some((second, count)) if *second >= at_s => *count += 1,
            _ => counts.denied.push_back((at_s, 1)),
        }
        let code = note.data.pointer("/refusal/code").and_then(Value::as_str);
        if code == Some(Code::LoopDetected.as_str()) {
            counts.loop_s = Some(at_s);
        }
    }

    fn count_odd(&mut self, note: &AuditNote, odd: Odd) {
        let Some(host) = note.data.get("host").and_then(Value::as_str) else { return };
        let at_s = u64::try_from(note.at_ms / 1_000).unwrap_or(0);
        if self.sellers.len() >= SELLERS && !self.sellers.contains_key(host) {
            let oldest = self.sellers.iter().min_by_key(|(_, seen)| seen.at_s);
            if let Some(oldest) = oldest.map(|(host, _)| host.clone()) {
                self.sellers.remove(&oldest);
            }
        }
        let seen = self.sellers.entry(host.to_owned()).or_default();
        seen.at_s = at_s;
        *seen.times.entry(odd).or_default() += 1;
    }

    /// Whoever was odd within `span` seconds. A seller that is quiet since is forgotten, which clears its
    /// alert.
    fn odd(&mut self, span: u64, now_s: u64) -> impl Iterator<Item = Finding> + '_ {
        self.sellers.retain(|_, seen| now_s.saturating_sub(seen.at_s) < span);
        self.sellers.iter().map(move |(host, seen)| {
            let bad = seen.times.iter().any(|(odd, times)| odd.is_grave() || *times >= ODD_TIMES);
            let what: Vec<_> = seen.times.keys().map(|odd| odd.words()).collect();
            let times: BTreeMap<_, _> =
                seen.times.iter().map(|(odd, times)| (odd.as_str(), *times)).collect();
            Finding {
                level: if bad { Level::Bad } else { Level::Between },
                kind: AlertKind::Seller,
                subject: host.clone(),
                detail: format!(
                    "the seller at {host} {}: look at it before an agent buys there again, or take \
                     it off the agents' `hosts`",
                    what.join("; it ")
                ),
                data: json!({ "host": host, "times": times, "quiet_after_s": span }),
            }
        })
    }

    fn findings(&mut self, thresholds: &AlertsConfig, now_ms: i64) -> Vec<Finding> {
        let (span, limit) = (thresholds.denials_within_s, thresholds.denials);
        let now_s = u64::try_from(now_ms / 1_000).unwrap_or(0);
        let mut found = Vec::with_capacity(2 * self.of.len());
        found.extend(self.odd(span, now_s));
        for (who, counts) in &mut self.of {
            while counts.denied.front().is_some_and(|(at, _)| at + span <= now_s) {
                counts.denied.pop_front();
            }
            let sum: u64 = counts.denied.iter().map(|(_, count)| count).sum();
            let whose = if who == STRANGERS {
                "requests whose signature proves nobody".to_owned()
            } else {
                format!("requests of agent {who}")
            };
            found.push(Finding {
                level: rising(sum, limit, limit.div_ceil(2)),
                kind: AlertKind::Denials,
                subject: who.clone(),
                detail: format!(
                    "{sum} {whose} were refused within {span} s: see what it is after, or freeze it"
                ),
                data: json!({ "refused": sum, "within_s": span, "threshold": limit }),
            });
            if who == STRANGERS {
                continue;
            }
            let quiet_s = counts.loop_s.map(|at| now_s.saturating_sub(at));
            found.push(Finding {
                level: match quiet_s {
                    Some(quiet) if quiet < span => Level::Bad,
                    _ => Level::Good,
                },
                kind: AlertKind::Loop,
                subject: who.clone(),
                detail: format!(
                    "the loop breaker stopped agent {who}: it asks for the same payment again and \
                     again; look at what the earlier ones bought"
                ),
                data: json!({ "rule": "loops.same_payment", "quiet_after_s": span }),
            });
        }
        found
    }
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
