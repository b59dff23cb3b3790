use alloy::sol_types::SolCall as _;

use super::*;
use crate::{
    contract::IPolicyChanges,
    outcome::SendClass,
    store::{AttemptRow, OpenTx, Store, TxRow, testing::on_both},
    submit::Flights,
};

const ATLAS: Address = Address::repeat_byte(0xa7);

fn order(nonce: u64, agent: Address, frozen: bool) -> (TxRow, AttemptRow) {
    let change = IPolicyChanges::setFrozenCall { agent, frozen }.abi_encode().into();
    let manifest = Manifest::Tighten { change, signer: Address::ZERO };
    let tx = TxRow {
        id: format!("tx-{nonce}"),
        kind: TxKind::Tighten,
        target: Default::default(),
        sender: Address::repeat_byte(1),
        nonce,
        calldata: Bytes::new(),
        gas: 1,
        manifest: serde_json::to_string(&manifest).unwrap(),
        block: None,
        created_ms: 1,
    };
    let attempt = AttemptRow {
        hash: B256::with_last_byte(u8::try_from(nonce).unwrap()),
        tx_id: tx.id.clone(),
        raw: Bytes::new(),
        max_fee: 1,
        tip: 1,
        created_ms: 1,
    };
    (tx, attempt)
}

#[tokio::test]
async fn a_thaw_does_not_undo_an_order_that_comes_after_it() {
    on_both(thaw_and_orders).await;
}

async fn thaw_and_orders(store: Store) {
    let mut tx = store.begin().await.unwrap();
    let nowhere = HashMap::new();
    let thaw = (10, 3);
    assert!(!ordered_after(&mut tx, &nowhere, ATLAS, thaw).await.unwrap());

    let (row, attempt) = order(0, ATLAS, true);
    tx.insert_tx(&row, &attempt).await.unwrap();
    // Not in the chain yet, or behind the thaw: it stands.
    assert!(ordered_after(&mut tx, &nowhere, ATLAS, thaw).await.unwrap());
    for (place, stands) in [((9, 8), false), ((10, 2), false), ((10, 4), true), ((11, 0), true)] {
        let landed = HashMap::from([(row.id.clone(), place)]);
        let kept = ordered_after(&mut tx, &landed, ATLAS, thaw).await.unwrap();
        assert_eq!(kept, stands, "{place:?}");
    }
    // Others' freezes are not touched by it, and another kind of order freezes nobody.
    assert!(!ordered_after(&mut tx, &nowhere, Address::ZERO, thaw).await.unwrap());
    tx.finish_tx(&row.id, 12, 1).await.unwrap();
    let (lifts, attempt) = order(1, ATLAS, false);
    tx.insert_tx(&lifts, &attempt).await.unwrap();
    assert!(!ordered_after(&mut tx, &nowhere, ATLAS, thaw).await.unwrap());
}

#[test]
fn a_sender_without_gas_money_is_known() {
    let flights = Flights::default();
    let sender = Address::repeat_byte(1);
    for nonce in 0..2 {
        let (tx, attempt) = order(nonce, ATLAS, true);
        flights.add(OpenTx { tx, attempts: vec![attempt] });
    }
    assert!(!flights.is_broke(sender));
    let (first, _) = order(0, ATLAS, true);
    flights.update(&first, |flight| flight.answer = Some(Err(SendClass::InsufficientFunds)));
    assert!(flights.is_broke(sender));
    assert!(!flights.is_broke(Address::repeat_byte(2)));
    flights.update(&first, |flight| flight.answer = Some(Ok(())));
    assert!(!flights.is_broke(sender));
}
