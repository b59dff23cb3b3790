//! What Prometheus reads.

use std::sync::{Mutex, PoisonError};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

use crate::{
    alert::AlertKind, buyer::Odd, outcome::SendClass, refusal::Code, store::Fate, x402::Reason,
};

/// A refusal's code as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct CodeLabel {
    code: &'static str,
}

impl From<Code> for CodeLabel {
    fn from(code: Code) -> Self {
        Self { code: code.as_str() }
    }
}

/// A node's answer as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AnswerLabel {
    answer: &'static str,
}

impl From<Result<(), SendClass>> for AnswerLabel {
    fn from(answer: Result<(), SendClass>) -> Self {
        Self { answer: answer.map_or_else(SendClass::as_str, |()| "accepted") }
    }
}

/// An alert's kind as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct AlertLabel {
    kind: &'static str,
}

impl From<AlertKind> for AlertLabel {
    fn from(kind: AlertKind) -> Self {
        Self { kind: kind.as_str() }
    }
}

/// What was odd about a seller as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct OddLabel {
    what: &'static str,
}

impl From<Odd> for OddLabel {
    fn from(odd: Odd) -> Self {
        Self { what: odd.as_str() }
    }
}

/// Why a payment was refused, as x402 names it, as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    reason: String,
}

impl From<&Reason> for ReasonLabel {
    fn from(reason: &Reason) -> Self {
        Self { reason: reason.as_str().to_owned() }
    }
}

/// What became of a delivery as a label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FateLabel {
    fate: &'static str,
}

/// The counters and gauges.
#[derive(Debug)]
pub struct Metrics {
    registry: Mutex<Registry>,
    /// Payments accepted.
    pub accepted: Counter,
    /// Payments denied, by code.
    pub denied: Family<CodeLabel, Counter>,
    /// Payments final on chain.
    pub paid: Counter,
    /// Payments given up.
    pub failed: Counter,
    /// Calls over HTTP that were paid, final on chain.
    pub purchases_paid: Counter,
    /// Payments of calls that were signed and never used.
    pub purchases_lapsed: Counter,
    /// Calls and answers of sellers that were odd, by what.
    pub sellers_odd: Family<OddLabel, Counter>,
    /// Vouchers taken, each for one call.
    pub vouchers_taken: Counter,
    /// Vouchers that bought nothing, by reason.
    pub vouchers_refused: Family<ReasonLabel, Counter>,
    /// Calls charged by voucher.
    pub voucher_calls: Counter,
    /// What they were charged, base units.
    pub voucher_units: Counter,
    /// What of it was claimed, at depth, base units.
    pub voucher_units_claimed: Counter,
    /// What of it payers took away before it was claimed, base units.
    pub voucher_units_lost: Counter,
    /// Payments that the facilitator called good.
    pub verified: Counter,
    /// Settlements of the facilitator that moved the money, at depth.
    pub settled: Counter,
    /// Settlements of the facilitator that moved nothing, at depth.
    pub unsettled: Counter,
    /// Payments that the facilitator did not take, or did not settle, by reason.
    pub declined: Family<ReasonLabel, Counter>,
    /// Settlements of the facilitator on their way.
    pub settling: Gauge,
    /// Gas used by final transactions.
    pub gas_used: Counter,
    /// Sends, by the node's answer.
    pub sends: Family<AnswerLabel, Counter>,
    /// Looks at a transaction whose fees are at the ceiling.
    pub waiting_for_fee: Gauge,
    /// Notes for the audit log dropped under a flood.
    pub notes_dropped: Counter,
    /// Calls to nodes.
    pub rpc_calls: Gauge,
    /// Payments on their way.
    pub backlog: Gauge,
    /// Age of the oldest of them, milliseconds.
    pub oldest_ms: Gauge,
    /// Transactions on their way.
    pub in_flight: Gauge,
    /// Height of the newest head.
    pub head: Gauge,
    /// Newest block up to which chain and books were compared.
    pub reconciled: Gauge,
    /// Differences between chain and books that stand.
    pub findings: Gauge,
    /// 1 if the last look at the chain succeeded.
    pub chain_reached: Gauge,
    /// Alerts that are up, by kind.
    pub alerts: Family<AlertLabel, Gauge>,
    /// Alerts raised since start, by kind.
    pub alerts_raised: Family<AlertLabel, Counter>,
    /// Webhooks sent, by what became of them.
    pub webhooks: Family<FateLabel, Counter>,
    seconds_to_final: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let buckets = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0];
        let all = Self {
            registry: Mutex::new(Registry::with_prefix("bursar")),
            accepted: Counter::default(),
            denied: Family::default(),
            paid: Counter::default(),
            failed: Counter::default(),
            purchases_paid: Counter::default(),
            purchases_lapsed: Counter::default(),
            sellers_odd: Family::default(),
            vouchers_taken: Counter::default(),
            vouchers_refused: Family::default(),
            voucher_calls: Counter::default(),
            voucher_units: Counter::default(),
            voucher_units_claimed: Counter::default(),
            voucher_units_lost: Counter::default(),
            verified: Counter::default(),
            settled: Counter::default(),
            unsettled: Counter::default(),
            declined: Family::default(),
            settling: Gauge::default(),
            gas_used: Counter::default(),
            sends: Family::default(),
            waiting_for_fee: Gauge::default(),
            notes_dropped: Counter::default(),
            rpc_calls: Gauge::default(),
            backlog: Gauge::default(),
            oldest_ms: Gauge::default(),
            in_flight: Gauge::default(),
            head: Gauge::default(),
            reconciled: Gauge::default(),
            findings: Gauge::default(),
            chain_reached: Gauge::default(),
            alerts: Family::default(),
            alerts_raised: Family::default(),
            webhooks: Family::default(),
            seconds_to_final: Histogram::new(buckets),
        };
        {
            let mut registry = all.registry.lock().unwrap_or_else(PoisonError::into_inner);
            registry.register("payments_accepted", "Payments accepted", all.accepted.clone());
            registry.register("payments_denied", "Payments denied, by code", all.denied.clone());
            registry.register("payments_paid", "Payments final on chain", all.paid.clone());
            registry.register("payments_failed", "Payments given up", all.failed.clone());
            registry.register(
                "purchases_paid",
                "Calls over HTTP that were paid, final on chain",
                all.purchases_paid.clone(),
            );
            registry.register(
                "purchases_lapsed",
                "Payments of calls that were signed and never used",
                all.purchases_lapsed.clone(),
            );
            registry.register(
                "sellers_odd",
                "Calls and answers of sellers that were odd, by what",
                all.sellers_odd.clone(),
            );
            registry.register(
                "vouchers_taken",
                "Vouchers taken, each for one call",
                all.vouchers_taken.clone(),
            );
            registry.register(
                "vouchers_refused",
                "Vouchers that bought nothing, by reason",
                all.vouchers_refused.clone(),
            );
            registry.register(
                "voucher_calls",
                "Calls charged by voucher",
                all.voucher_calls.clone(),
            );
            registry.register(
                "voucher_units",
                "What calls were charged by voucher, in base units",
                all.voucher_units.clone(),
            );
            registry.register(
                "voucher_units_claimed",
                "What of it was claimed, final on chain",
                all.voucher_units_claimed.clone(),
            );
            registry.register(
                "voucher_units_lost",
                "What of it payers took away before it was claimed",
                all.voucher_units_lost.clone(),
            );
            registry.register(
                "facilitator_verified",
                "Payments of others that were called good",
                all.verified.clone(),
            );
            registry.register(
                "facilitator_settled",
                "Settlements that moved the money, final on chain",
                all.settled.clone(),
            );
            registry.register(
                "facilitator_failed",
                "Settlements that moved nothing, final on chain",
                all.unsettled.clone(),
            );
            registry.register(
                "facilitator_refused",
                "Payments that were not taken or not settled, by reason",
                all.declined.clone(),
            );
            registry.register(
                "facilitator_pending",
                "Settlements on their way",
                all.settling.clone(),
            );
            registry.register("gas_used", "Gas used by final transactions", all.gas_used.clone());
            registry.register("sends", "Sends, by the node's answer", all.sends.clone());
            registry.register(
                "waiting_for_fee",
                "Transactions whose fees are at the ceiling, and too low",
                all.waiting_for_fee.clone(),
            );
            registry.register(
                "notes_dropped",
                "Notes for the audit log dropped under a flood",
                all.notes_dropped.clone(),
            );
            registry.register("rpc_calls", "Calls to nodes since start", all.rpc_calls.clone());
            registry.register("backlog", "Payments on their way", all.backlog.clone());
            registry.register(
                "oldest_milliseconds",
                "Age of the oldest payment on its way",
                all.oldest_ms.clone(),
            );
            registry.register("in_flight", "Transactions on their way", all.in_flight.clone());
            registry.register("head", "Height of the newest head", all.head.clone());
            registry.register(
                "reconciled",
                "Newest block up to which chain and books were compared",
                all.reconciled.clone(),
            );
            registry.register(
                "findings",
                "Differences between chain and books that stand",
                all.findings.clone(),
            );
            registry.register(
                "chain_reached",
                "1 if the last look at the chain succeeded",
                all.chain_reached.clone(),
            );
            registry.register("alerts", "Alerts that are up, by kind", all.alerts.clone());
            registry.register(
                "alerts_raised",
                "Alerts raised since start, by kind",
                all.alerts_raised.clone(),
            );
            registry.register(
                "webhooks",
                "Webhooks sent, by what became of them",
                all.webhooks.clone(),
            );
            registry.register(
                "payment_seconds",
                "Seconds from accepted to final",
                all.seconds_to_final.clone(),
            );
        }
        all
    }
}

impl Metrics {
    /// Counts a delivery that was tried.
    pub fn count_webhook(&self, fate: &Fate) {
        let fate = match fate {
            Fate::Delivered => "delivered",
            Fate::Again(_) => "failed",
            Fate::Dead => "dead",
            Fate::Released => return,
        };
        self.webhooks.get_or_create(&FateLabel { fate }).inc();
    }

    /// Notes how long a payment took, in milliseconds.
    #[expect(
        clippy::float_arithmetic,
        reason = "Prometheus takes seconds as a float; no money here"
    )]
    pub fn observe_final(&self, ms: i64) {
        let ms = u32::try_from(ms.max(0)).unwrap_or(u32::MAX);
        self.seconds_to_final.observe(f64::from(ms) / 1_000.0);
    }

    /// Renders everything in the OpenMetrics text format.
    #[must_use]
    pub fn render(&self) -> String {
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut text, &registry);
        text
    }
}
