use alloy::primitives::{Address, B256};

use super::*;
use crate::{channel::meter::OnChain, x402::batch::ChannelConfig};

fn note(seq: u64, at_s: i64, agent: Option<&str>, code: &str) -> AuditNote {
    AuditNote {
        seq,
        at_ms: at_s * 1_000,
        kind: EventKind::PaymentDenied.as_str().to_owned(),
        agent: agent.map(str::to_owned),
        data: json!({ "refusal": { "code": code } }),
    }
}

fn level(found: &[Finding], kind: AlertKind, subject: &str) -> Level {
    found.iter().find(|one| one.kind == kind && one.subject == subject).unwrap().level
}

#[test]
fn what_wavers_is_told_once() {
    let thresholds = AlertsConfig::default();
    let level = |age| backlog(&thresholds, age).level;
    assert_eq!([level(299), level(300), level(299)], [Level::Between, Level::Bad, Level::Between]);
    assert_eq!([level(150), level(149)], [Level::Between, Level::Good]);
    let gas = |batches, refused| {
        let address = alloy::primitives::Address::ZERO;
        let relayer = RelayerView { address, wei: String::new(), batches, refused };
        super::gas(&thresholds, &relayer).level
    };
    assert_eq!([gas(9, false), gas(10, false)], [Level::Bad, Level::Between]);
    assert_eq!([gas(20, false), gas(u64::MAX, true)], [Level::Good, Level::Bad]);
}

#[test]
fn a_count_is_no_money_and_a_cap_of_nothing_is_used_up() {
    let limit = |rule: &str, used: &str, limit: &str| LimitView {
        rule: rule.to_owned(),
        limit: limit.to_owned(),
        used: used.to_owned(),
        remaining: String::new(),
        returns_in: None,
        on_chain: true,
    };
    assert_eq!(percent(&limit("limits.day", "899.999999", "1000")), Some(89));
    assert_eq!(percent(&limit("limits.day", "0", "0")), Some(100));
    assert_eq!(percent(&limit("counts.per_minute", "3", "3")), None);
}

#[test]
fn refusals_are_counted_within_their_span_and_by_agent() {
    let thresholds = AlertsConfig { denials: 4, denials_within_s: 60, ..AlertsConfig::default() };
    let mut refusals = Refusals::default();
    for who in ["scout", "other", STRANGERS] {
        refusals.of.entry(who.to_owned()).or_default();
    }
    for seq in 0..4 {
        refusals.count(&note(seq, 1_000 + i64::try_from(seq).unwrap(), Some("scout"), "day_cap"));
    }
    // Somebody without a policy file is a stranger to this list.
    refusals.count(&note(4, 1_004, Some("nobody"), "day_cap"));
    let found = refusals.findings(&thresholds, 1_010_000);
    assert_eq!(level(&found, AlertKind::Denials, "scout"), Level::Bad);
    assert_eq!(level(&found, AlertKind::Denials, "other"), Level::Good);
    assert_eq!(level(&found, AlertKind::Loop, "scout"), Level::Good);
    // Two of four are left a minute after the second one, none after the last.
    let found = refusals.findings(&thresholds, 1_061_500);
    assert_eq!(level(&found, AlertKind::Denials, "scout"), Level::Between);
    let found = refusals.findings(&thresholds, 1_063_000);
    assert_eq!(level(&found, AlertKind::Denials, "scout"), Level::Good);
    assert!(refusals.of["scout"].denied.is_empty());
}

#[test]
fn the_loop_breaker_is_heard_and_forgotten() {
    let thresholds = AlertsConfig { denials_within_s: 60, ..AlertsConfig::default() };
    let mut refusals = Refusals::default();
    refusals.of.entry("scout".to_owned()).or_default();
    refusals.count(&note(1, 1_000, Some("scout"), Code::LoopDetected.as_str()));
    let found = refusals.findings(&thresholds, 1_059_000);
    assert_eq!(level(&found, AlertKind::Loop, "scout"), Level::Bad);
    let found = refusals.findings(&thresholds, 1_060_000);
    assert_eq!(level(&found, AlertKind::Loop, "scout"), Level::Good);
}

#[test]
fn a_payer_that_leaves_is_told_of_while_it_owes() {
    let config = ChannelConfig {
        payer: Address::ZERO,
        payer_authorizer: Address::ZERO,
        receiver: Address::ZERO,
        receiver_authorizer: Address::ZERO,
        token: Address::ZERO,
        withdraw_delay: 900,
        salt: B256::ZERO,
    };
    let chain = OnChain { balance: "1".parse().unwrap(), ..OnChain::default() };
    let mut row = MeterRow::new(B256::ZERO, config, chain);
    let level = |row: &MeterRow, now_s| super::leaving(row, now_s).map(|found| found.level);
    row.charged = "0.5".parse().unwrap();
    row.ceiling = row.charged;
    assert_eq!(level(&row, 1_450), None, "it stays");
    row.chain.withdraw_since_s = Some(1_000);
    assert_eq!(level(&row, 1_449), Some(Level::Between));
    assert_eq!([level(&row, 1_450), level(&row, 9_000)], [Some(Level::Bad); 2]);
    row.chain.claimed = row.charged;
    assert_eq!(level(&row, 1_450), None, "claimed");
}
