//! A channel's marks keep their order whatever is presented, served, failed, repeated or killed.

use alloy::{
    primitives::{Address, B256},
    signers::{SignerSync as _, local::PrivateKeySigner},
};
use proptest::prelude::*;

use super::meter::{Admitted, Delivered, Meter, MeterRow, OnChain, Presented, Reject};
use crate::{
    contract::hub::Hub,
    money::Usdc,
    store::{Earning, Store},
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

fn delivered(request: B256, charged: u64) -> Delivered {
    Delivered {
        request,
        charged: usdc(charged),
        status: 200,
        headers: Vec::new(),
        body: Some(String::new()),
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
        let mut meter = Meter::new(row(BALANCE));
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
                    let next = meter.charge(delivered(request(number), asked.min(price)), 1);
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
                        meter = Meter::new(*next);
                    }
                }
                Step::Restarted => meter = Meter::new(meter.row().clone()),
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
    let mut meter = Meter::new(row(1_000));
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
    assert_eq!(meter.admit(&hub(), voucher), Err(Reject::Withdrawing));
}

#[tokio::test]
async fn the_latest_of_a_channel_s_rows_stands() {
    crate::store::testing::on_both(async |store| latest_stands(store).await).await;
}

async fn latest_stands(store: Store) {
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
                scheme: "batch-settlement".into(),
                amount: usdc(1),
            });
        }
    }
    for half in [&rows[..130], &rows[70..]] {
        let mut tx = store.begin().await.unwrap();
        tx.put_meters(&half.iter().collect::<Vec<_>>()).await.unwrap();
        tx.commit().await.unwrap();
    }
    let mut tx = store.begin().await.unwrap();
    tx.add_earnings(&earned.iter().collect::<Vec<_>>()).await.unwrap();
    tx.commit().await.unwrap();
    let rows = store.meters(None, 100).await.unwrap();
    assert_eq!(rows.len(), 40);
    assert!(rows.iter().all(|row| row.charged == usdc(5) && row.version == 5));
    let earned = store.earnings(0).await.unwrap();
    let sums: Vec<_> = earned.iter().map(|row| (row.calls, row.earned.amount.units())).collect();
    assert_eq!(sums, [(100, 100), (100, 100)]);
}
