//! What the store does to all payments of a transaction at once, against `transition`'s arrows.

use std::collections::BTreeMap;

use alloy::primitives::{Address, B256};
use sqlx::Row as _;

use super::{PaymentRow, Store, Tx, testing::on_both};
use crate::payment::{Context, Event, PaymentId, State, transition};

const TX: &str = "tx";
const OTHER: &str = "another tx";

fn row(state: State) -> PaymentRow {
    let id = PaymentId::generate();
    PaymentRow {
        id,
        agent: "atlas".parse().unwrap(),
        idempotency_key: id.to_string(),
        fingerprint: B256::ZERO,
        payee: Address::repeat_byte(1),
        payee_label: None,
        amount: "1".parse().unwrap(),
        reason: "a row of a table".into(),
        context: Context::default(),
        context_hash: B256::ZERO,
        state,
        overrides: 0,
        policy_version: 1,
        refusal: None,
        escrow: None,
        channel: None,
        tx_id: None,
        item: None,
        tries: 0,
        not_before_ms: 0,
        expires_ms: 0,
        tx_hash: None,
        block: None,
        block_time_s: None,
        created_ms: 0,
        updated_ms: 0,
    }
}

async fn fill(tx: &mut Tx, carried_by: &str) -> Vec<PaymentRow> {
    let rows: Vec<_> = State::ALL.into_iter().map(row).collect();
    tx.insert_payments(&rows).await.unwrap();
    for row in &rows {
        sqlx::query("UPDATE payment SET tx_id = $1 WHERE id = $2")
            .bind(carried_by)
            .bind(row.id.to_string())
            .execute(&mut *tx.inner)
            .await
            .unwrap();
    }
    rows
}

/// A payment in each state: the statement moves those that have an arrow for the event, to where it
/// points, and no other; nothing that another transaction carries.
async fn follows_the_arrows(store: &Store, event: Event, move_all: impl AsyncFn(&mut Tx)) {
    let mut tx = store.begin().await.unwrap();
    let carried = fill(&mut tx, TX).await;
    let foreign = fill(&mut tx, OTHER).await;
    move_all(&mut tx).await;
    let found = sqlx::query("SELECT id, state FROM payment").fetch_all(&mut *tx.inner).await;
    let found: BTreeMap<String, String> =
        found.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    let state = |id: PaymentId| State::from_name(&found[&id.to_string()]).unwrap();
    for row in &carried {
        let expected = transition(row.state, event).unwrap_or(row.state);
        assert_eq!(state(row.id), expected, "{} and {event:?}", row.state);
    }
    for row in &foreign {
        assert_eq!(state(row.id), row.state, "another transaction's, {event:?}");
    }
    // Dropped without a commit: the next event finds an empty table.
}

#[tokio::test]
async fn what_moves_a_whole_transaction_moves_along_the_arrows() {
    on_both(async |store| {
        let hash = B256::repeat_byte(7);
        follows_the_arrows(&store, Event::Sent, async |tx| {
            tx.mark_sent(TX, hash, 5).await.unwrap();
        })
        .await;
        follows_the_arrows(&store, Event::Mined, async |tx| {
            tx.mark_included(TX, hash, 9, 5).await.unwrap();
        })
        .await;
        follows_the_arrows(&store, Event::Reorganised, async |tx| {
            tx.mark_reorganised(TX, 5).await.unwrap();
        })
        .await;
    })
    .await;
}
