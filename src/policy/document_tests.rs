use alloy::primitives::keccak256;

use super::{super::testing::*, *};

fn fault(text: &str) -> PolicyError {
    Policy::parse(text, &categories()).unwrap_err()
}

#[test]
fn reads_a_full_policy() {
    let policy = with(
        r#"
over_cap = "ask"
unregistered_payee = "ask"
above_ceiling = "deny"
hosts = ["api.example.com", "*.data.example"]
"#,
        r#"
[counts]
per_minute = 5
per_day = 200
[counts.payee]
per_hour = 20
[loops]
same_payment = 10
within = "60s"
[invoices]
duplicates = "allow"
"#,
    );
    assert_eq!(policy.agent.as_str(), "research");
    assert_eq!(policy.sponsor, "ana@example.com");
    assert_eq!(policy.categories, [("data".to_owned(), 1), ("compute".to_owned(), 2)]);
    assert_eq!(policy.expires_s, 1_798_761_600);
    assert_eq!(
        (policy.over_cap, policy.unregistered_payee, policy.above_ceiling),
        (OnLimit::Ask, OnLimit::Ask, OnLimit::Deny)
    );
    assert_eq!(policy.hosts.len(), 2);
    let counts = Counts { per_minute: Some(5), per_hour: None, per_day: Some(200) };
    assert_eq!(policy.counts, counts);
    assert_eq!(policy.payee_counts, Counts { per_hour: Some(20), ..Counts::default() });
    assert_eq!(policy.loops, Some(Loops { same_payment: 10, within_s: 60 }));
    assert!(policy.duplicate_invoices);
}

#[test]
fn what_is_left_out_is_the_careful_choice() {
    let policy = policy("");
    assert_eq!(
        (policy.over_cap, policy.unregistered_payee, policy.above_ceiling),
        (OnLimit::Deny, OnLimit::Deny, OnLimit::Ask)
    );
    assert!(policy.hosts.is_empty() && policy.counts.is_off() && policy.payee_counts.is_off());
    assert!(policy.loops.is_none() && !policy.duplicate_invoices);
}

#[test]
fn gives_the_contract_its_own_units() {
    assert_eq!(
        policy("").limits(),
        AgentLimits {
            ceiling: 250_000_000,
            day_cap: 1_000_000_000,
            month_cap: 10_000_000_000,
            budget: 50_000_000_000,
            expiry: 1_798_761_600,
            categories: 0b11,
        }
    );
    let text = format!("{HEAD}[limits]\nceiling = '0'\nday = '281474976.710654'");
    let open = Policy::parse(&text, &categories()).unwrap().limits();
    assert_eq!((open.ceiling, open.day_cap), (0, (1 << 48) - 2));
    assert_eq!((open.month_cap, open.budget), ((1 << 48) - 1, u64::MAX));
}

#[test]
fn the_hash_is_that_of_the_text() {
    let text = format!("{HEAD}{LIMITS}");
    let policy = Policy::parse(&text, &categories()).unwrap();
    assert_eq!(policy.hash(), keccak256(&text));
    let spaced = Policy::parse(&format!("{text}\n"), &categories()).unwrap();
    assert_ne!(policy.hash(), spaced.hash());
}

#[test]
fn errors_name_line_key_and_what_to_write() {
    let base = format!("{HEAD}{LIMITS}");
    let cases: [(&str, &str, &str); 21] = [
        ("agent = \"research\"", "agent = \"Research\"", "use 1 to 40 of a-z"),
        ("key_index = 0", "key_index = -1", "a key's index from 0 to"),
        ("key_index = 0", "key_index = \"0\"", "a key's index from 0 to"),
        ("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo", "AAAA", "43 characters"),
        (
            "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
            "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", // the identity: a weak key
            "not an Ed25519 public key",
        ),
        ("\"ana@example.com\"", "\"\"", "1 to 256 bytes"),
        ("\"compute\"", "\"computer\"", "write one of: data, compute, travel"),
        ("\"compute\"", "\"data\"", "listed twice"),
        ("[\"data\", \"compute\"]", "[]", "at least one"),
        ("\"2027-01-01T00:00:00Z\"", "\"next year\"", "like \"2027-01-01T00:00:00Z\""),
        ("\"2027-01-01T00:00:00Z\"", "2027-01-01T00:00:00Z", "a time in quotes"),
        ("\"250\"", "250", "USDC in quotes"),
        ("\"250\"", "250.5", "USDC in quotes"),
        ("\"250\"", "\"-1\"", "write digits"),
        ("\"250\"", "\"0.0000001\"", "six decimals"),
        ("\"1000\"", "\"281474976.710655\"", "281474976 or less"),
        ("day = \"1000\"", "days = \"1000\"", "unknown field `days`"),
        ("day = \"1000\"", "", "missing field `day`"),
        ("[limits]", "[counts]\nper_minute = 0\n[limits]", "leave the key out"),
        ("[limits]", "[loops]\nsame_payment = 3\nwithin = \"2 days\"\n[limits]", "24 hours"),
        ("[limits]", "over_cap = \"warn\"\n[limits]", "expected `deny` or `ask`"),
    ];
    for (old, new, says) in cases {
        assert!(base.contains(old), "{old}");
        let error = fault(&base.replacen(old, new, 1));
        let text = error.to_string();
        assert!(text.contains(says), "{new}: {text}");
        assert!(error.line.is_some() && error.key.is_some(), "{new}: {text}");
    }
}

#[test]
fn an_error_points_at_its_line() {
    let text = format!("{HEAD}{LIMITS}").replace("\"10000\"", "10000");
    let error = fault(&text);
    let line = text.lines().position(|line| line.starts_with("month")).unwrap() + 1;
    assert_eq!((error.line, error.key.as_deref()), (Some(line), Some("limits.month")));
    assert_eq!(line_of(&text, "limits", "month"), Some(line));
    assert_eq!(line_of(&text, "", "month"), None);
}

#[test]
fn refuses_files_without_end() {
    let text = format!("{HEAD}{LIMITS}#{}", "x".repeat(MAX_BYTES));
    assert!(fault(&text).to_string().contains("at most"));
    let hosts = vec!["\"a.example\""; MAX_HOSTS + 1].join(",");
    let text = format!("{HEAD}hosts = [{hosts}]{LIMITS}");
    assert!(fault(&text).to_string().contains("at most 256 hosts"));
}

#[test]
fn categories_are_bits_in_order() {
    let known = categories();
    assert_eq!((known.bit("data"), known.bit("travel"), known.bit("x")), (Some(1), Some(4), None));
    assert_eq!(known.names_of(0b1_0101), ["data", "travel", "bit-4"]);
    let many = (0..17).map(|n| format!("c{n}")).collect();
    assert_eq!(Categories::new(many), Err(CategoriesError::TooMany(17)));
    let twice = vec!["a".to_owned(), "a".to_owned()];
    assert_eq!(Categories::new(twice), Err(CategoriesError::Twice("a".into())));
    assert!(matches!(Categories::new(vec!["A b".into()]), Err(CategoriesError::NotAName(_))));
}
