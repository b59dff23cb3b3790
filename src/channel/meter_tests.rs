//! A channel's marks keep their order whatever is presented, served, failed, repeated or killed.

use std::collections::BTreeSet;

use alloy::{
    primitives::{Address, B256},
    signers::{SignerSync as _, local::PrivateKeySigner},
};
use proptest::prelude::*;
use serde_json::json;

use super::meter::{Admitted, Delivered, Meter, MeterRow, OnChain, Presented, Reject, Unstored};
use crate::{
    contract::hub::Hub,
    money::Usdc,
    store::{Earning, EarningRow, RouteSales, Store},
    x402::batch::ChannelConfig,
};

fn usdc(units: u64) -> Usdc {
    Usdc::from_units(units).unwrap()
}

fn signer() -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&B256::repeat_byte(5)).unwrap()
}

fn row(balance: u64) -> MeterRow {
    let config = ChannelConfig {
        payer: Address::repeat_byte(1),
        payer_authorizer: signer().address(),
        receiver: Address::repeat_byte(3),
        receiver_authorizer: Address::repeat_byte(4),
        token: Address::repeat_byte(5),
        withdraw_delay: 900,
        salt: B256::ZERO,
    };
    let chain = OnChain { balance: usdc(balance), ..OnChain::default() };
    MeterRow::new(B256::repeat_byte(9), config, chain)
}

fn hub() -> Hub {
    Hub::new(1, Address::repeat_byte(7))
}

fn sign(id: B256, ceiling: u64) -> Vec<u8> {
    signer().sign_hash_sync(&hub().voucher_digest(id, ceiling.into())).unwrap().as_bytes().to_vec()
}

fn request(number: u64) -> B256 {
    B256::from(alloy::primitives::U256::from(number))
}

/// Presents a voucher for a call of 100.
fn buy(meter: &mut Meter, total: u64, number: u64) -> Result<Admitted, Reject> {
    let signature = sign(meter.row().id, total);
    let voucher = Presented {
        ceiling: usdc(total),
        signature: &signature,
        price: usdc(100),
        request: request(number),
    };
    meter.admit(&hub(), voucher)
}

fn delivered(request: B256, ceiling: u64, charged: u64) -> Delivered {
    let answer = json!({ "status": 200, "headers": [], "body": "" });
    Delivered {
        request,
        ceiling: usdc(ceiling),
        charged: usdc(charged),
        answer: serde_json::from_value(answer).unwrap(),
    }
}

/// What happens next to one channel.
#[derive(Clone, Debug)]
enum Step {
    /// A proper voucher; the handler charges this share of the price, in percent.
    Paid { price: u64, percent: u64 },
    /// A proper voucher; the handler fails.
    Failed { price: u64 },
    /// The last request again, byte for byte.
    Again,
    /// A voucher for another total than is due.
    Wrong { price: u64, off: i64 },
    /// A voucher signed for another channel.
    Foreign { price: u64 },
    /// The daemon is killed between the two commits of a request.
    Killed { price: u64 },
    /// The daemon is killed after the second one.
    Restarted,
    /// Everything charged so far is claimed.
    Claimed,
}

fn step() -> impl Strategy<Value = Step> {
    let price = 1_u64..2_000;
    prop_oneof![
        4 => (price.clone(), 0_u64..=120).prop_map(|(price, percent)| Step::Paid { price, percent }),
        1 => price.clone().prop_map(|price| Step::Failed { price }),
        2 => Just(Step::Again),
        2 => (price.clone(), -500_i64..500).prop_map(|(price, off)| Step::Wrong { price, off }),
        1 => price.clone().prop_map(|price| Step::Foreign { price }),
        1 => price.prop_map(|price| Step::Killed { price }),
        1 => Just(Step::Restarted),
        1 => Just(Step::Claimed),
    ]
}

proptest! {
    #[test]
    fn marks_keep_their_order(steps in prop::collection::vec(step(), 1..60)) {
        const BALANCE: u64 = 30_000;
        let mut meter = Meter::new(row(BALANCE), false);
        let id = meter.row().id;
        // What the payer knows and can be held to.
        let (mut served, mut signed) = (0_u64, 0_u64);
        let mut last: Option<(u64, B256, u64)> = None;
        for (number, step) in (1..).zip(steps) {
            let charged = meter.row().charged.units();
            let present = |meter: &mut Meter, total: u64, price: u64, request: B256| {
                let signature = sign(id, total);
                meter.admit(&hub(), Presented {
                    ceiling: usdc(total), signature: &signature, price: usdc(price), request,
                })
            };
            match step {
                Step::Paid { price, percent } => {
                    let outcome = present(&mut meter, charged + price, price, request(number));
                    if charged + price > BALANCE {
                        let short = matches!(outcome, Err(Reject::AboveBalance { .. }));
                        prop_assert!(short);
                        continue;
                    }
                    let Ok(Admitted::Serve(next)) = outcome else { panic!("{outcome:?}") };
                    meter.set(*next);
                    signed = signed.max(charged + price);
                    // A handler that says more than the price gets the price.
                    let asked = price * percent / 100;
                    let actual = meter.row().charged.units();
                    let next = meter.charge(delivered(request(number), charged + price, asked.min(price)), 1);
                    served += next.charged.units() - actual;
                    last = Some((charged + price, request(number), asked.min(price)));
                    meter.set(next);
                }
                Step::Failed { price } => {
                    if let Ok(Admitted::Serve(next)) =
                        present(&mut meter, charged + price, price, request(number))
                    {
                        signed = signed.max(charged + price);
                        // A higher voucher that was never charged makes the last answer stale.
                        if next.last.is_none() { last = None; }
                        meter.set(*next);
                    }
                }
                Step::Again => {
                    let Some((total, request, paid)) = last else { continue };
                    match present(&mut meter, total, 1, request) {
                        Ok(Admitted::Again(answer)) => {
                            prop_assert_eq!(answer.charged.units(), paid);
                        }
                        // Less than the price was charged, or more was signed since: nothing is free.
                        Err(Reject::Mismatch { .. }) => {}
                        Ok(Admitted::Serve(_)) => prop_assert_eq!(total, charged + 1),
                        other => prop_assert!(false, "{:?}", other),
                    }
                }
                Step::Wrong { price, off } => {
                    let due = charged + price;
                    let total = due.saturating_add_signed(off).max(1);
                    if total == due { continue; }
                    let refused = present(&mut meter, total, price, request(number)).is_err();
                    prop_assert!(refused);
                }
                Step::Foreign { price } => {
                    let signature = sign(B256::repeat_byte(8), charged + price);
                    let outcome = meter.admit(&hub(), Presented {
                        ceiling: usdc(charged + price), signature: &signature,
                        price: usdc(price), request: request(number),
                    });
                    prop_assert!(matches!(outcome, Err(Reject::Signature(_))));
                }
                Step::Killed { price } => {
                    if let Ok(Admitted::Serve(next)) =
                        present(&mut meter, charged + price, price, request(number))
                    {
                        signed = signed.max(charged + price);
                        if next.last.is_none() { last = None; }
                        meter = Meter::new(*next, false);
                    }
                }
                Step::Restarted => meter = Meter::new(meter.row().clone(), false),
                Step::Claimed => {
                    let chain = OnChain { claimed: meter.row().charged, ..meter.row().chain };
                    meter.set(meter.seen(chain));
                    prop_assert!(meter.row().owed().is_zero());
                }
            }
            let row = meter.row();
            prop_assert!(row.chain.claimed <= row.charged);
            prop_assert!(row.charged <= row.ceiling);
            prop_assert!(row.ceiling <= row.chain.balance);
            prop_assert_eq!(row.charged.units(), served);
            prop_assert!(row.ceiling.units() <= signed);
            prop_assert_eq!(row.owed_since_ms.is_some(), !row.owed().is_zero());
        }
    }
}

#[test]
fn a_payer_that_leaves_buys_nothing_more() {
    let mut meter = Meter::new(row(1_000), false);
    let id = meter.row().id;
    let chain = OnChain { withdraw_since_s: Some(5), ..meter.row().chain };
    meter.set(meter.seen(chain));
    let signature = sign(id, 10);
    let voucher = Presented {
        ceiling: usdc(10),
        signature: &signature,
        price: usdc(10),
        request: request(1),
    };
    assert!(matches!(meter.admit(&hub(), voucher), Err(Reject::Withdrawing)));
}

#[test]
fn what_is_promised_back_buys_nothing_until_the_chain_has_it() {
    let mut meter = Meter::new(row(1_000), false);
    let id = meter.row().id;
    let Ok(Admitted::Serve(next)) = buy(&mut meter, 100, 1) else { panic!() };
    meter.set(*next);
    meter.set(meter.charge(delivered(request(1), 100, 100), 1));

    let wish = |meter: &mut Meter, total: u64, amount: Option<u64>| {
        let wish = (request(amount.unwrap_or(0)), amount.map(usdc));
        meter.give_back(&hub(), (usdc(total), &sign(id, total)), wish)
    };
    assert!(matches!(wish(&mut meter, 99, None), Err(Reject::Mismatch { .. })));
    assert!(matches!(wish(&mut meter, 100, Some(901)), Err(Reject::RefundAmount { .. })));
    assert!(matches!(wish(&mut meter, 100, Some(0)), Err(Reject::RefundAmount { .. })));
    let promised = wish(&mut meter, 100, Some(600)).unwrap();
    meter.set(promised);
    let promised = meter.row().refund.unwrap();
    assert_eq!((promised.nonce, promised.amount), (0, usdc(600)));
    // The same wish, and another one: what is on its way is not promised twice.
    assert_eq!(wish(&mut meter, 100, Some(600)).unwrap().refund, Some(promised));
    assert!(matches!(wish(&mut meter, 100, Some(300)), Err(Reject::Refunding)));
    assert!(matches!(buy(&mut meter, 200, 2), Err(Reject::Refunding)));
    // A block from before the refund changes nothing; one with it frees the rest.
    let before = OnChain { balance: usdc(1_000), ..OnChain::default() };
    meter.set(meter.seen(before));
    assert_eq!((meter.row().chain.balance, meter.row().refund), (usdc(400), Some(promised)));
    let after = OnChain { balance: usdc(400), refund_nonce: 1, ..OnChain::default() };
    meter.set(meter.seen(after));
    assert!(matches!(buy(&mut meter, 200, 2), Ok(Admitted::Serve(_))));
    // Asked once more, it is the one that was made.
    let made = wish(&mut meter, 100, Some(600)).unwrap().refund.unwrap();
    assert_eq!((made.nonce, made.is_final), (0, true));
    // Gone without us: what was charged and is not there any more is lost, and not claimed for ever.
    let gone = OnChain { refund_nonce: 1, ..OnChain::default() };
    meter.set(meter.seen(gone));
    assert_eq!((meter.row().owed(), meter.row().lost()), (Usdc::ZERO, usdc(100)));
    assert_eq!(meter.row().owed_since_ms, None);
}

/// Nodes lag behind each other, and what was read first may be noted last.
#[test]
fn what_the_chain_said_before_is_passed_over() {
    let mut meter = Meter::new(row(1_000), false);
    let at = |block, balance, claimed, refund_nonce| OnChain {
        balance: usdc(balance),
        claimed: usdc(claimed),
        refund_nonce,
        block,
        ..OnChain::default()
    };
    let newest = at(7, 400, 100, 1);
    meter.set(meter.seen(newest));
    for older in [at(6, 1_000, 100, 1), at(8, 1_000, 100, 0), at(8, 1_000, 0, 1)] {
        meter.set(meter.seen(older));
        assert_eq!(meter.row().chain, newest);
    }
    let newer = at(8, 900, 100, 1);
    meter.set(meter.seen(newer));
    assert_eq!(meter.row().chain, newer);
}

/// A voucher whose call failed is not held any longer: a claim would show it to everybody.
#[test]
fn a_voucher_that_bought_nothing_is_put_back() {
    let mut meter = Meter::new(row(1_000), false);
    for number in 1..=2 {
        let former = (meter.row().ceiling, meter.row().signature.clone());
        let Ok(Admitted::Serve(next)) = buy(&mut meter, 100 * number, number) else { panic!() };
        meter.set(*next);
        meter.set(meter.give_up(former.clone()));
        assert_eq!((meter.row().ceiling, meter.row().signature.clone()), former);
        let Ok(Admitted::Serve(next)) = buy(&mut meter, 100 * number, number) else { panic!() };
        meter.set(*next);
        meter.set(meter.charge(delivered(request(number), 100 * number, 100), 1));
        assert_eq!(meter.row().charged, usdc(100 * number));
    }
}

#[tokio::test]
async fn what_a_call_changes_is_stored_and_nothing_else_is_lost() {
    crate::store::testing::on_both(async |store| calls_are_stored(store).await).await;
}

async fn calls_are_stored(store: Store) {
    let put = async |row: &MeterRow| {
        let mut tx = store.begin().await.unwrap();
        let is_put = tx.put_meters(&[row]).await.unwrap();
        if is_put {
            tx.commit().await.unwrap();
        }
        is_put
    };
    let is_kept = async |row: &MeterRow| {
        let kept = store.meter(row.id).await.unwrap().unwrap();
        assert_eq!(format!("{kept:?}"), format!("{row:?}"));
    };
    let keep = async |meter: &mut Meter, mut next: MeterRow, change: Unstored| {
        assert_eq!(next.unstored, change);
        assert!(put(&next).await);
        next.unstored = Unstored::Nothing;
        is_kept(&next).await;
        meter.set(next);
    };
    let mut meter = Meter::new(row(1_000), false);
    let id = meter.row().id;
    for number in 1..=4 {
        let total = 100 * number;
        let voucher = Presented {
            ceiling: usdc(total),
            signature: &sign(id, total),
            price: usdc(100),
            request: request(number),
        };
        let Ok(Admitted::Serve(next)) = meter.admit(&hub(), voucher) else { panic!() };
        let new = number == 1;
        keep(&mut meter, *next, if new { Unstored::Everything } else { Unstored::Voucher }).await;
        let claimed = number == 3;
        if claimed {
            // Read from the chain and not kept: it goes with whatever is kept next.
            let claimed = usdc(meter.row().charged.units());
            meter.set(meter.seen(OnChain { claimed, read_ms: 7, ..meter.row().chain }));
        }
        let next = meter.charge(delivered(request(number), total, 100), 1);
        let whole = new || claimed;
        keep(&mut meter, next, if whole { Unstored::Everything } else { Unstored::Charge }).await;
    }
    // What is not the store's next is not kept, and told; one that the store lacks is to be written whole.
    let version = meter.row().version;
    for unstored in [Unstored::Voucher, Unstored::Charge, Unstored::Everything] {
        for version in [1, version - 1, version] {
            let old = MeterRow { version, charged: usdc(9), unstored, ..meter.row().clone() };
            assert!(!put(&old).await, "{unstored:?} {version}");
            assert_eq!(store.overtaken(&[&old]).await.unwrap(), BTreeSet::from([old.id]));
            is_kept(meter.row()).await;
        }
        let id = request(unstored as u64);
        let new = MeterRow { id, unstored, ..meter.row().clone() };
        assert!(store.overtaken(&[&new]).await.unwrap().is_empty());
        assert_eq!(put(&new).await, unstored == Unstored::Everything);
    }
}

#[tokio::test]
async fn a_channel_s_next_row_stands_and_earnings_add_up() {
    crate::store::testing::on_both(async |store| next_stands(store).await).await;
}

async fn next_stands(store: Store) {
    let mut rows = Vec::new();
    let mut earned = Vec::new();
    for channel in 0..40_u64 {
        for version in [3, 5, 1, 4, 2_u64] {
            let mut row = row(1_000);
            row.id = request(channel);
            row.version = version;
            row.charged = usdc(version);
            rows.push(row);
            earned.push(Earning {
                day: 1,
                route: format!("route-{}", channel % 2),
                receiver: Address::repeat_byte(3),
                amount: usdc(1),
            });
        }
    }
    // Two rows of one channel are not kept together; one by one the later ones stand.
    let all: Vec<&MeterRow> = rows.iter().collect();
    let mut tx = store.begin().await.unwrap();
    assert!(!tx.put_meters(&all).await.unwrap());
    drop(tx);
    assert_eq!(store.overtaken(&all).await.unwrap().len(), 40);
    for version in [3, 5, 1, 4, 2_u64] {
        let part: Vec<&MeterRow> = rows.iter().filter(|row| row.version == version).collect();
        let mut tx = store.begin().await.unwrap();
        let is_put = tx.put_meters(&part).await.unwrap();
        assert_eq!(is_put, version == 3 || version == 5);
        assert_eq!(store.overtaken(&part).await.unwrap().len(), if is_put { 0 } else { 40 });
        if is_put {
            tx.commit().await.unwrap();
        }
    }
    let mut tx = store.begin().await.unwrap();
    tx.add_earnings(&earned.iter().collect::<Vec<_>>()).await.unwrap();
    tx.commit().await.unwrap();
    let rows = store.meters(None, 100).await.unwrap();
    assert_eq!(rows.len(), 40);
    assert!(rows.iter().all(|row| row.charged == usdc(5) && row.version == 5));
    let sums = async || {
        let earned = store.earnings().await.unwrap();
        let units = |row: &EarningRow| (row.calls, row.amount.units(), row.booked.units());
        earned.iter().map(units).collect::<Vec<_>>()
    };
    assert_eq!(sums().await, [(100, 100, 0), (100, 100, 0)]);

    // Claims are booked to what was charged first; what no record explains has a line of its own.
    let (receiver, wallet) = (Address::repeat_byte(3), Address::repeat_byte(8));
    for (claim, units, booked) in [
        ("claim:a", 130, vec![(100, 100, 100), (100, 100, 30)]),
        ("claim:b", 75, vec![(0, 5, 5), (100, 100, 100), (100, 100, 100)]),
    ] {
        let mut tx = store.begin().await.unwrap();
        tx.book_claimed(claim, (receiver, wallet), usdc(units), 86_400_000).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(sums().await, booked);
    }
    let routes = store.route_sales(wallet).await.unwrap();
    assert!(routes.iter().all(RouteSales::agrees), "{routes:?}");
    assert_eq!(routes.iter().map(|line| line.posted.units()).sum::<u64>(), 205);
    let mut again = store.begin().await.unwrap();
    let twice = again.book_claimed("claim:a", (receiver, wallet), usdc(1), 86_400_000).await;
    assert!(twice.is_err(), "a claim is booked once");
}
