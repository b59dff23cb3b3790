//! `bursar reconcile` through the real binary: it agrees where it should, and only there.

use alloy::{primitives::U256, sol_types::SolCall as _};
use bursar::{contract::IUsdc, payment::State};
use serde_json::json;

use crate::support::{Plan, World};

async fn world_with_payments() -> World {
    let world = Plan::new().start().await;
    for (n, (agent, payee)) in
        [("atlas", "acme-data"), ("borealis", "gpu-harbor"), ("ember", "acme-data")]
            .into_iter()
            .enumerate()
    {
        let paid = world.pay(agent, payee, &format!("{n}.5"), &format!("key-{n}")).await;
        world.until(&paid, State::Paid).await;
    }
    world
}

/// Changes the books behind the daemon's back.
async fn edit(world: &World, sql: &str) {
    let pool = world.tables().await;
    let done = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    assert_eq!(done.rows_affected(), 1, "{sql}");
    pool.close().await;
}

#[tokio::test]
async fn chain_and_books_agree_beside_a_running_daemon() {
    let world = world_with_payments().await;
    let (code, text) = world.bursar(&["reconcile", "--balances"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("agree to the base unit") && text.contains("3 payments"), "{text}");
    let (code, text) = world.bursar(&["reconcile", "--json"]);
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &answer["ok"]), (0, &json!(true)), "{text}");
    // A payee with another income is no fault of the books, unless that is what was asked.
    let mint = crate::support::chain::owner::mintCall {
        to: world.payee("acme-data"),
        amount: U256::from(1),
    };
    world.chain.own(mint).await;
    assert_eq!(world.bursar(&["reconcile"]).0, 0);
    assert_eq!(world.bursar(&["reconcile", "--balances"]).0, 4);
}

#[tokio::test]
async fn a_transfer_that_no_payment_explains_is_named() {
    let world = world_with_payments().await;
    let thief = world.payee("objectbox");
    world.chain.rpc("anvil_impersonateAccount", json!([world.card.wallet])).await;
    world.chain.rpc("anvil_setBalance", json!([world.card.wallet, "0xde0b6b3a7640000"])).await;
    let data = IUsdc::transferCall { to: thief, value: U256::from(3_000_001) }.abi_encode();
    let stolen = world.chain.send_from(world.card.wallet, world.card.usdc, data.into()).await;
    let (code, text) = world.bursar(&["reconcile"]);
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("1 on chain, and in no payment"), "{text}");
    assert!(text.contains(&format!("3.000001 USDC to {thief} in {stolen}")), "{text}");
}

#[tokio::test]
async fn books_that_were_edited_are_named() {
    for (sql, words) in [
        (
            "UPDATE payment SET amount = amount + 1 WHERE idempotency_key = 'key-1'",
            "1 called paid, and not on chain",
        ),
        (
            "UPDATE payment SET state = 'failed' WHERE idempotency_key = 'key-1'",
            "1 on chain, and in no payment",
        ),
        (
            "UPDATE ledger_balance SET credits_posted = credits_posted + 1
             WHERE credits_posted = 1500000",
            "NO",
        ),
        ("UPDATE ledger_transfer SET amount = amount - 1 WHERE amount = 1500000", "NO"),
    ] {
        let world = world_with_payments().await;
        edit(&world, sql).await;
        let (code, text) = world.bursar(&["reconcile"]);
        assert_eq!(code, 4, "{sql}: {text}");
        assert!(text.contains(words), "{sql}: {text}");
    }
}
