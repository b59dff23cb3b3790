//! Continuous reconciliation: what no payment explains is found at its first head, what is explained
//! is left alone, and what is gone is cleared.

use alloy::{
    primitives::{B256, Bytes, U256},
    sol,
    sol_types::SolCall as _,
};
use bursar::{
    alert::AlertKind,
    contract::{IPolicyChanges, IUsdc},
    payment::State,
    reconcile::Mark,
    store::{Finding, FindingKind, Store},
};
use serde_json::json;

use crate::support::{Plan, World, wait_for};

sol! {
    function transferFrom(address from, address to, uint256 value) external returns (bool);
}

/// USDC leaves the wallet as if somebody had found a way past its doors.
async fn steal(world: &World, units: u64) -> B256 {
    let wallet = world.card.wallet;
    world.chain.rpc("anvil_impersonateAccount", json!([wallet])).await;
    world.chain.rpc("anvil_setBalance", json!([wallet, "0xde0b6b3a7640000"])).await;
    let (to, value) = (world.payee("objectbox"), U256::from(units));
    let data = Bytes::from(IUsdc::transferCall { to, value }.abi_encode());
    world.chain.send_from(wallet, world.card.usdc, data).await
}

async fn store(world: &World) -> Store {
    Store::open(&world.database()).await.unwrap()
}

/// Waits until exactly these kinds stand, in any order.
async fn standing(store: &Store, kinds: &[FindingKind]) -> Vec<Finding> {
    let mut wanted = kinds.to_vec();
    wanted.sort_unstable();
    wait_for(&format!("{wanted:?}"), async || {
        let found = store.findings_open(50).await.unwrap();
        let mut now: Vec<FindingKind> = found.iter().map(|finding| finding.kind).collect();
        now.sort_unstable();
        (now == wanted).then_some(found)
    })
    .await
}

/// Waits until a block is checked.
async fn checked(store: &Store, block: u64) {
    wait_for(&format!("block {block} to be checked"), async || {
        let mark = Mark::read(store).await.unwrap()?;
        (mark.next > block).then_some(())
    })
    .await;
}

async fn height(world: &World) -> u64 {
    let answer = world.chain.rpc("eth_blockNumber", json!([])).await;
    u64::from_str_radix(answer.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
}

#[tokio::test]
async fn a_theft_is_found_at_its_first_head_and_a_reorganisation_clears_it() {
    let plan = Plan::new().automine().config(|config| config.chain.confirmations = 4);
    let world = plan.start().await;
    let store = store(&world).await;
    let stolen = steal(&world, 3_000_001).await;
    // No block comes after it: what is found is found at its own head.
    let found = standing(&store, &[FindingKind::Unexplained]).await;
    assert_eq!(found[0].transaction, Some(stolen));
    assert_eq!(found[0].block, height(&world).await);
    assert!(found[0].what.contains("3.000001 USDC"), "{}", found[0].what);
    let (code, said) = world.bursar(&["reconcile", "--watched"]);
    assert_eq!(code, 4, "{said}");
    assert!(said.contains(&stolen.to_string()), "{said}");

    let alerts = store.alerts().await.unwrap();
    assert_eq!(alerts.len(), 1, "{alerts:?}");
    assert_eq!((alerts[0].kind, &alerts[0].subject), (AlertKind::Reconciliation, &found[0].id));

    world.chain.rpc("anvil_reorg", json!([1, []])).await;
    standing(&store, &[]).await;
    assert_eq!(store.alerts().await.unwrap(), []);
    for _ in 0..5 {
        world.chain.mine().await;
    }
    wait_for("the end of the story", async || {
        let all = store.findings(10).await.unwrap();
        (all.len() == 1 && all[0].cleared_ms.is_some()).then_some(())
    })
    .await;
    let pool = world.tables().await;
    let told: Vec<(String,)> =
        sqlx::query_as("SELECT kind FROM audit_entry WHERE kind LIKE 'reconcile.%' ORDER BY seq")
            .fetch_all(&pool)
            .await
            .unwrap();
    let told: Vec<&str> = told.iter().map(|(kind,)| kind.as_str()).collect();
    assert_eq!(told, ["reconcile.mismatch", "reconcile.matched"]);
    assert_eq!(world.bursar(&["audit", "verify"]).0, 0);
}

#[tokio::test]
async fn a_theft_while_no_daemon_runs_is_found_by_the_next_one_and_stands() {
    let mut world = Plan::new().start().await;
    let store = store(&world).await;
    let paid = world.pay("atlas", "acme-data", "5", "before").await;
    world.until(&paid, State::Paid).await;
    world.kill();
    let stolen = steal(&world, 7).await;
    for _ in 0..20 {
        world.chain.mine().await;
    }
    world.restart().await;
    let found = standing(&store, &[FindingKind::Unexplained]).await;
    assert_eq!(found[0].transaction, Some(stolen));
    // It stands over a restart, is no second one, and what is paid beside it is no finding.
    world.kill();
    world.restart().await;
    let paid = world.pay("atlas", "acme-data", "6", "after").await;
    world.until(&paid, State::Paid).await;
    checked(&store, height(&world).await).await;
    assert_eq!(standing(&store, &[FindingKind::Unexplained]).await, found);
    let metrics = reqwest::get(format!("{}/metrics", world.card.api)).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(metrics.contains("bursar_findings 1"), "{metrics}");

    // A person looked into it.
    let (code, said) = world.bursar(&["reconcile", "--close", &found[0].id]);
    assert_eq!(code, 2, "{said}");
    let close = ["reconcile", "--close", &found[0].id, "--reason", "a rescue, ticket 12"];
    assert_eq!(world.bursar(&close).0, 0);
    assert_eq!(world.bursar(&close).0, 1);
    let (code, said) = world.bursar(&["reconcile", "--watched"]);
    assert_eq!(code, 0, "{said}");
    assert_eq!(world.bursar(&["audit", "verify"]).0, 0);
}

#[tokio::test]
async fn withdrawals_foreign_relays_and_transfers_of_nothing_are_no_findings() {
    let plan = Plan::new().automine().config(|config| config.chain.confirmations = 2);
    let world = plan.start().await;
    let store = store(&world).await;
    // Operators take money out, which the daemon carries to the chain.
    let withdraw =
        IPolicyChanges::withdrawCall { to: world.payee("objectbox"), amount: U256::from(9) };
    let proposal = world.propose(withdraw, None).await;
    world.sign_proposal(&proposal, 0).await.unwrap();
    world.sign_proposal(&proposal, 1).await.unwrap();
    world.operator(0).apply_proposal(proposal.id).await.unwrap();
    // Somebody else relays what our agents signed.
    world.chain.automine(false).await;
    let ours = [
        world.pay("atlas", "acme-data", "5", "foreign-1").await,
        world.pay("dune", "devtools-co", "7", "foreign-2").await,
    ];
    for payment in &ours {
        world.until(payment, State::Broadcast).await;
    }
    let wallet = world.card.wallet;
    for (_, signed) in world.chain.pool_of(&world.card.relayers).await {
        world.chain.queue_from(world.card.deployer, wallet, signed, 400).await;
    }
    // And anybody can have USDC say that nothing was moved from anybody.
    let stranger = world.card.operators[2].address;
    let nothing = transferFromCall { from: wallet, to: stranger, value: U256::ZERO };
    let data = Bytes::from(nothing.abi_encode());
    world.chain.queue_from(stranger, world.card.usdc, data, 300).await;
    world.chain.mine().await;
    world.chain.automine(true).await;
    world.chain.mine().await;
    for payment in &ours {
        world.until(payment, State::Paid).await;
    }
    let block = height(&world).await;
    for _ in 0..2 {
        world.chain.mine().await;
    }
    checked(&store, block).await;
    assert_eq!(store.findings(10).await.unwrap(), []);
    let (code, said) = world.bursar(&["reconcile"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("no difference stands"), "{said}");
}

#[tokio::test]
async fn books_that_were_edited_are_found_when_they_are_read_again() {
    let mut world = Plan::new().start().await;
    let store = store(&world).await;
    let mut paid = Vec::new();
    for (n, amount) in ["5", "6", "7"].into_iter().enumerate() {
        let payment = world.pay("atlas", "acme-data", amount, &format!("edit-{n}")).await;
        paid.push(world.until(&payment, State::Paid).await);
    }
    checked(&store, paid[2].block.unwrap()).await;
    world.stop().await;
    let pool = world.tables().await;
    let nobody = B256::repeat_byte(0xee);
    for (sql, id) in [
        // It is said to be paid by another transaction than the one that did.
        (format!("UPDATE payment SET tx_hash = '{nobody}' WHERE id = $1"), paid[0].id),
        // Its ledger row says another amount.
        ("UPDATE ledger_transfer SET amount = 1 WHERE payment_id = $1".to_owned(), paid[1].id),
        ("DELETE FROM meta WHERE key = 'reconciled' AND $1 <> ''".to_owned(), paid[2].id),
    ] {
        let done = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id.to_string()).execute(&pool).await;
        assert_eq!(done.unwrap().rows_affected(), 1);
    }
    pool.close().await;
    world.restart().await;
    use FindingKind::{Ledger, Missing, Unexplained};
    let found = standing(&store, &[Unexplained, Missing, Ledger, Ledger]).await;
    let of = |kind| found.iter().filter(move |finding| finding.kind == kind);
    assert_eq!(of(Unexplained).next().unwrap().transaction, paid[0].transaction);
    assert_eq!(of(Missing).next().unwrap().payment, Some(paid[0].id));
    let mut disagree: Vec<_> = of(Ledger).map(|finding| finding.payment.unwrap()).collect();
    disagree.sort_unstable();
    assert_eq!(disagree, [paid[0].id, paid[1].id]);
}

#[tokio::test]
async fn a_final_block_that_falls_out_is_told_with_what_it_paid() {
    let plan = Plan::new().automine().config(|config| config.chain.confirmations = 1);
    let world = plan.start().await;
    let store = store(&world).await;
    let payment = world.pay("atlas", "acme-data", "5", "too-early").await;
    let payment = world.until(&payment, State::Paid).await;
    checked(&store, payment.block.unwrap()).await;
    world.chain.rpc("anvil_reorg", json!([1, []])).await;
    let found = standing(&store, &[FindingKind::Reorg, FindingKind::Missing]).await;
    let missing = found.iter().find(|finding| finding.kind == FindingKind::Missing).unwrap();
    assert_eq!(missing.payment, Some(payment.id));
    // Mined again after all: only that it was final too early still stands.
    let raw: (String,) = sqlx::query_as("SELECT raw FROM attempt WHERE hash = $1")
        .bind(payment.transaction.unwrap().to_string())
        .fetch_one(&world.tables().await)
        .await
        .unwrap();
    world.chain.rpc("eth_sendRawTransaction", json!([raw.0])).await;
    world.chain.mine().await;
    standing(&store, &[FindingKind::Reorg]).await;
    assert_ne!(world.chain.usdc_of(payment.payee).await, 0);
}
