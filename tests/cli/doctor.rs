//! `bursar doctor` through the real binary: what is sound is called so, and each fault by its name.

use bursar::config::Config;
use serde_json::{Value, json};

use crate::support::{Plan, World};

/// Runs it; the exit code it must end with, and its checks.
fn doctor(world: &World, code: i32) -> Vec<Value> {
    let (ended, text) = world.bursar(&["doctor"]);
    assert_eq!(ended, code, "{text}");
    // The error's line comes after the JSON.
    let (_, text) = world.bursar(&["doctor", "--json"]);
    let end = text.rfind(']').unwrap();
    serde_json::from_str(&text[..=end]).unwrap()
}

/// What was found of a check with this verdict; empty if there is none.
fn found(checks: &[Value], check: &str, verdict: &str) -> String {
    let fits = |one: &&Value| one["check"] == check && one["verdict"] == verdict;
    let texts = checks.iter().filter(fits).map(|one| one["found"].as_str().unwrap());
    texts.collect::<Vec<_>>().join("\n")
}

/// Runs it with one thing wrong, and puts that right again.
fn with(world: &World, wrong: impl FnOnce(&mut Config)) -> Vec<Value> {
    let right = std::fs::read_to_string(&world.card.config).unwrap();
    world.configure(wrong);
    let checks = doctor(world, 4);
    std::fs::write(&world.card.config, right).unwrap();
    checks
}

#[tokio::test]
async fn with_the_daemon_and_without_and_each_fault_by_its_name() {
    let mut world = Plan::new().without_daemon().await;
    let checks = doctor(&world, 0);
    assert!(found(&checks, "daemon", "warn").contains("none answers"));
    assert!(found(&checks, "wallet", "ok").contains("runs this version's PolicyWallet"));
    world.restart().await;
    let checks = doctor(&world, 0);
    assert!(found(&checks, "daemon", "ok").contains("is ready"));
    assert!(found(&checks, "store", "ok").contains("can be written"));
    assert!(checks.iter().all(|one| one["verdict"] == "ok"), "{checks:#?}");
    world.stop().await;

    let usdc = world.card.usdc;
    let checks = with(&world, |config| config.chain.wallet = usdc);
    assert!(found(&checks, "wallet", "fail").contains("runs other code"), "{checks:#?}");
    let relayer = world.card.relayers[0];
    let checks = with(&world, |config| config.chain.wallet = relayer);
    assert!(found(&checks, "wallet", "fail").contains("there is no contract"), "{checks:#?}");
    let checks = with(&world, |config| config.chain.usdc = relayer);
    assert!(found(&checks, "wallet", "fail").contains("its USDC is"), "{checks:#?}");
    let checks = with(&world, |config| config.chain.chain_id += 1);
    assert!(found(&checks, "node", "fail").contains("is on chain"), "{checks:#?}");
    let config = world.card.config.clone();
    let checks = with(&world, |wrong| wrong.passphrase_file = Some(config));
    assert!(!found(&checks, "seed", "fail").is_empty(), "{checks:#?}");

    // One of two nodes is down: somebody should look. Its URL may hold a key, and is not repeated.
    world.configure(|config| config.chain.rpc.push("http://127.0.0.1:9/secret".to_owned()));
    let checks = doctor(&world, 0);
    assert!(found(&checks, "node", "warn").starts_with("127.0.0.1:9: "), "{checks:#?}");
    assert!(!format!("{checks:?}").contains("secret"));

    world.chain.rpc("anvil_setBalance", json!([relayer, "0x0"])).await;
    let checks = doctor(&world, 4);
    assert!(found(&checks, "gas", "fail").contains(&relayer.to_string()), "{checks:#?}");

    if let Some(file) = world.config().store.strip_prefix("sqlite:") {
        std::fs::write(file, "this is no database, and was one once").unwrap();
        assert!(!found(&doctor(&world, 4), "store", "fail").is_empty());
    }
}
