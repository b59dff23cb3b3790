//! The facilitator and channels: money in, vouchers looked at, claims, payouts and what goes back.

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    signers::{SignerSync as _, local::PrivateKeySigner},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bursar::{
    contract::{
        self,
        hub::{self, ERC3009_COLLECTOR, HUB, Hub},
        token::{ReceiveWithAuthorization, token_domain},
    },
    x402::{
        FacilitatorRequest, Reason, Requirements, SettleResponse, Terms,
        batch::{
            ChannelConfig, ChannelState, Claim, ClaimRow, ClaimVoucher, Deposit,
            DepositAuthorization, DepositTerms, ERROR_PREFIX, Erc3009Authorization, Payload,
            RefundPayload, SettlePayload, Vouched, Voucher,
        },
    },
};
use serde_json::{Value, json};

use super::desk::{Desk, all_are, now_s, payer, request};
use crate::support::{Official, Plan, World};

/// A buyer, its channel with a seller, and the seller's keys.
struct Stage<'a> {
    desk: Desk<'a>,
    hub: Hub,
    buyer: PrivateKeySigner,
    voucher_key: PrivateKeySigner,
    seller: PrivateKeySigner,
    payee: Address,
    config: ChannelConfig,
    offer: Requirements,
}

impl<'a> Stage<'a> {
    async fn set(world: &'a World) -> Self {
        let (buyer, seller) = (payer(world).await, PrivateKeySigner::random());
        let (voucher_key, payee) =
            (PrivateKeySigner::random(), PrivateKeySigner::random().address());
        let config = ChannelConfig {
            payer: buyer.address(),
            payer_authorizer: voucher_key.address(),
            receiver: payee,
            receiver_authorizer: seller.address(),
            token: world.card.usdc,
            withdraw_delay: 900,
            salt: B256::ZERO,
        };
        let terms = Terms {
            chain_id: world.card.chain_id,
            amount: U256::from(1_000),
            asset: world.card.usdc,
            pay_to: payee,
            max_timeout_s: 60,
        };
        let extra = json!({
            "receiverAuthorizer": seller.address().to_string(), "withdrawDelay": 900,
            "name": "USDC", "version": "2", "minDeposit": "10000",
        });
        let extra = extra.as_object().unwrap().clone();
        let offer = Requirements::new("batch-settlement", &terms, extra).unwrap();
        let (desk, hub) = (Desk::of(world), Hub::new(world.card.chain_id, HUB));
        Self { desk, hub, buyer, voucher_key, seller, payee, config, offer }
    }

    fn id(&self) -> B256 {
        self.hub.channel_id(&self.config.into())
    }

    fn voucher(&self, max: u128) -> Voucher {
        let digest = self.hub.voucher_digest(self.id(), max);
        Voucher {
            channel_id: self.id(),
            max_claimable_amount: max,
            signature: by(&self.voucher_key, digest),
        }
    }

    fn deposit(&self, units: u128, max: u128, salt: u64) -> FacilitatorRequest {
        let (salt, before) = (U256::from(salt), now_s() + 300);
        let message = ReceiveWithAuthorization {
            from: self.buyer.address(),
            to: ERC3009_COLLECTOR,
            value: U256::from(units),
            validAfter: U256::ZERO,
            validBefore: U256::from(before),
            nonce: hub::deposit_nonce(self.id(), salt),
        };
        let terms = self.offer.terms().unwrap();
        let domain = token_domain("USDC", "2", terms.chain_id, terms.asset);
        let leave = Erc3009Authorization {
            valid_after: U256::ZERO,
            valid_before: U256::from(before),
            salt,
            signature: by(&self.buyer, contract::digest(&message, &domain)),
        };
        self.ask(Payload::Deposit(Deposit {
            channel_config: self.config,
            voucher: self.voucher(max),
            deposit: DepositTerms {
                amount: units,
                authorization: DepositAuthorization { erc3009_authorization: Some(leave) },
            },
        }))
    }

    fn vouched(&self, max: u128) -> FacilitatorRequest {
        let (channel_config, voucher) = (self.config, self.voucher(max));
        self.ask(Payload::Voucher(Vouched { channel_config, voucher }))
    }

    fn row(&self, max: u128, total: u128) -> ClaimRow {
        ClaimRow {
            voucher: ClaimVoucher { channel: self.config, max_claimable_amount: max },
            signature: self.voucher(max).signature,
            total_claimed: total,
        }
    }

    fn claims_signed(&self, rows: &[ClaimRow]) -> Option<Bytes> {
        let entries: Vec<_> = rows.iter().map(|row| row.entry(&self.hub)).collect();
        Some(by(&self.seller, self.hub.claim_batch_digest(&entries)))
    }

    fn ask(&self, payload: Payload) -> FacilitatorRequest {
        request(&self.offer, &payload)
    }

    async fn settled(&self, request: &FacilitatorRequest) -> SettleResponse {
        let settled = self.desk.settle(request).await;
        assert!(settled.success, "{settled:?}");
        settled
    }
}

fn by(key: &PrivateKeySigner, digest: B256) -> Bytes {
    key.sign_hash_sync(&digest).unwrap().as_bytes().into()
}

fn state(extra: &Value) -> (u128, u128) {
    let state: ChannelState = serde_json::from_value(extra.clone()).unwrap();
    (state.balance, state.total_claimed)
}

fn named(name: &str) -> Reason {
    Reason::Other(format!("{ERROR_PREFIX}{name}"))
}

/// C21; whatever is asked twice is done once.
#[tokio::test]
async fn a_channel_is_funded_claimed_paid_out_and_given_back() {
    let world = Plan::new().start().await;
    let stage = Stage::set(&world).await;
    let (desk, usdc) = (&stage.desk, &world.chain);

    let deposit = stage.deposit(50_000, 1_000, 1);
    let verified = desk.verify(&deposit).await;
    assert!(verified.is_valid, "{verified:?}");
    assert_eq!(state(&verified.extra.unwrap().into()), (0, 0));
    let funded = stage.settled(&deposit).await;
    assert_eq!(funded.amount.as_deref(), Some("50000"));
    let extra = funded.extra.clone().unwrap();
    assert_eq!(state(&extra["channelState"]), (50_000, 0));
    assert_eq!(extra["channelState"]["channelId"], json!(stage.id()));
    desk.told_before(&deposit, &funded).await;
    assert_eq!(usdc.usdc_of(HUB).await, 50_000);

    // Vouchers are looked at, and never settled one by one.
    let verified = desk.verify(&stage.vouched(2_000)).await;
    assert!(verified.is_valid, "{verified:?}");
    assert_eq!(state(&verified.extra.unwrap().into()), (50_000, 0));
    let refused = desk.settle(&stage.vouched(2_000)).await;
    assert_eq!(refused.error_reason, Some(named("unknown_settle_action")));

    // C21: a claim and its payout at once. Neither takes the other's place in the relayer's queue, and a
    // payout that is asked too early says so. The claim again is the same claim.
    let rows = vec![stage.row(3_700, 3_000)];
    let signature = stage.claims_signed(&rows);
    let claim = |claims: &[ClaimRow], claim_authorizer_signature| {
        let claims = claims.to_vec();
        stage.ask(Payload::Claim(Claim { claims, claim_authorizer_signature }))
    };
    let payout = SettlePayload { receiver: stage.payee, token: world.card.usdc };
    let payout = stage.ask(Payload::Settle(payout));
    let asked = claim(&rows, signature);
    let (claimed, early) = tokio::join!(stage.settled(&asked), desk.settle(&payout));
    let paid = if early.success {
        early
    } else {
        assert_eq!(early.error_reason, Some(named("nothing_to_settle")), "{early:?}");
        stage.settled(&payout).await
    };
    assert_eq!(stage.settled(&asked).await, claimed);
    assert_eq!(paid.amount.as_deref(), Some("3000"));
    assert_eq!(usdc.usdc_of(stage.payee).await, 3_000);
    let nothing = desk.settle(&payout).await;
    assert_eq!(nothing.error_reason, Some(named("nothing_to_settle")), "{nothing:?}");

    // What is left goes back, with a last claim before it; once.
    let rows = vec![stage.row(5_000, 4_000)];
    let refund = RefundPayload {
        channel_config: stage.config,
        voucher: stage.voucher(4_000),
        amount: Some(U256::from(46_000)),
        refund_nonce: Some(U256::ZERO),
        refund_authorizer_signature: Some(by(
            &stage.seller,
            stage.hub.refund_digest(stage.id(), U256::ZERO, 46_000),
        )),
        claim_authorizer_signature: stage.claims_signed(&rows),
        claims: rows,
    };
    let plain = RefundPayload {
        amount: None,
        refund_nonce: None,
        claims: Vec::new(),
        refund_authorizer_signature: None,
        claim_authorizer_signature: None,
        ..refund.clone()
    };
    let plain = stage.ask(Payload::Refund(plain));
    assert!(desk.verify(&plain).await.is_valid);
    // Nobody but the seller gives a buyer its money back.
    assert_eq!(desk.settle(&plain).await.error_reason, Some(named("refund_payload")));
    let mut unsigned = refund.clone();
    unsigned.refund_authorizer_signature = None;
    let unsigned = desk.settle(&stage.ask(Payload::Refund(unsigned))).await;
    assert_eq!(unsigned.error_reason, Some(named("authorizer_not_configured")));
    let mut forged = refund.clone();
    forged.refund_authorizer_signature =
        Some(by(&stage.buyer, stage.hub.refund_digest(stage.id(), U256::ZERO, 46_000)));
    let forged = desk.settle(&stage.ask(Payload::Refund(forged))).await;
    assert_eq!(forged.error_reason, Some(named("refund_simulation_failed")), "{forged:?}");
    let refund = stage.ask(Payload::Refund(refund));
    let returned = stage.settled(&refund).await;
    assert_eq!(returned.amount.as_deref(), Some("46000"));
    assert_eq!(state(&returned.extra.clone().unwrap()["channelState"]), (4_000, 4_000));
    assert_eq!(stage.settled(&refund).await, returned, "once");
    assert_eq!(usdc.usdc_of(stage.buyer.address()).await, 996_000);
    let paid = stage.settled(&payout).await;
    assert_eq!(paid.amount.as_deref(), Some("1000"));
    assert_eq!((usdc.usdc_of(stage.payee).await, usdc.usdc_of(HUB).await), (4_000, 0));
    assert_eq!(desk.sent().await, 5);
    all_are(&world, "settled").await;
    world.judge().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_channel_is_said_by_its_name() {
    let world = Plan::new().start().await;
    let stage = Stage::set(&world).await;
    let desk = &stage.desk;
    let deposit = serde_json::to_value(stage.deposit(50_000, 1_000, 1)).unwrap();
    let with = |pointer: &str, value: Value| {
        let mut request = deposit.clone();
        *request.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        request
    };
    let other = json!(PrivateKeySigner::random().address().to_string());
    let (config, offered) = ("/paymentPayload/payload/channelConfig", "/paymentRequirements/extra");
    let leave = "/paymentPayload/payload/deposit/authorization/erc3009Authorization";
    for (request, name) in [
        (with(&format!("{config}/receiver"), other.clone()), "receiver_mismatch"),
        (with(&format!("{config}/token"), other.clone()), "token_mismatch"),
        (with(&format!("{config}/payer"), other.clone()), "channel_id_mismatch"),
        (with(&format!("{config}/salt"), json!(B256::repeat_byte(1))), "channel_id_mismatch"),
        (with(&format!("{config}/withdrawDelay"), json!(901)), "withdraw_delay_mismatch"),
        (
            with(&format!("{offered}/receiverAuthorizer"), other.clone()),
            "receiver_authorizer_mismatch",
        ),
        (with(&format!("{offered}/minDeposit"), json!("50001")), "deposit_below_min_deposit"),
        (with(&format!("{offered}/name"), Value::Null), "missing_eip712_domain"),
        (
            with("/paymentPayload/payload/voucher/maxClaimableAmount", json!("1001")),
            "voucher_signature",
        ),
        (
            with("/paymentPayload/payload/voucher/channelId", json!(B256::ZERO)),
            "channel_id_mismatch",
        ),
        (with(leave, Value::Null), "erc3009_authorization_required"),
        (with(&format!("{leave}/signature"), json!("0x01")), "receive_authorization_signature"),
        (with(&format!("{leave}/validBefore"), json!("1")), "payload_authorization_valid_before"),
        (
            with(&format!("{leave}/validAfter"), json!("18000000000")),
            "payload_authorization_valid_after",
        ),
        (with("/paymentPayload/payload/type", json!("void")), "payload_type"),
        (serde_json::to_value(stage.deposit(2_000_000, 1_000, 2)).unwrap(), "insufficient_balance"),
        (
            serde_json::to_value(stage.deposit(50_000, 50_001, 3)).unwrap(),
            "cumulative_exceeds_balance",
        ),
    ] {
        desk.refuses(&request, &named(name), name).await;
    }
    let refused = |request: FacilitatorRequest, name: &'static str| async move {
        let verified = desk.verify(&request).await;
        assert_eq!(verified.invalid_reason, Some(named(name)), "{verified:?}");
    };
    refused(stage.vouched(1_000), "channel_not_found").await;
    stage.settled(&stage.deposit(50_000, 1_000, 1)).await;
    refused(stage.vouched(50_001), "cumulative_exceeds_balance").await;
    let rows = vec![stage.row(2_000, 2_000)];
    let claim = |claims: Vec<ClaimRow>, claim_authorizer_signature| {
        stage.ask(Payload::Claim(Claim { claims, claim_authorizer_signature }))
    };
    // The receiver's key alone claims, and no more than the buyer signed.
    for (claims, signature, name) in [
        (rows.clone(), None, "authorizer_not_configured"),
        (rows.clone(), Some(by(&stage.buyer, B256::ZERO)), "claim_simulation_failed"),
        (Vec::new(), stage.claims_signed(&[]), "claim_payload"),
        (
            vec![stage.row(2_000, 2_001)],
            stage.claims_signed(&rows),
            "charge_exceeds_signed_cumulative",
        ),
    ] {
        let refused = desk.settle(&claim(claims, signature)).await;
        assert_eq!(refused.error_reason, Some(named(name)), "{refused:?}");
    }
    stage.settled(&claim(rows.clone(), stage.claims_signed(&rows))).await;
    refused(stage.vouched(2_000), "cumulative_below_claimed").await;
    refused(claim(rows.clone(), stage.claims_signed(&rows)), "payload_type").await;
    assert_eq!(desk.sent().await, 2);
    world.judge().await;
}

/// The official buyer and seller, at the hub, by our facilitator or by the official one.
async fn official_channels(world: World, ours: bool) {
    let desk = Desk::of(&world);
    let (key, payee) = (payer(&world).await, PrivateKeySigner::random().address());
    let sells = PrivateKeySigner::random();
    let mut selling = Official::config(&world, "seller", &sells);
    selling["payTo"] = json!(payee.to_string());
    selling["price"] = json!("1000");
    if ours {
        selling["facilitator"] = json!(desk.url());
    } else {
        world.chain.rpc("anvil_setBalance", json!([sells.address(), "0xde0b6b3a7640000"])).await;
    }
    let (seller, buyer) = tokio::join!(
        Official::start("channels.mjs", selling),
        Official::start("channels.mjs", Official::config(&world, "buyer", &key)),
    );
    for n in 1..=5 {
        let answer = buyer.ask(json!({ "url": seller.url() })).await;
        assert_eq!(answer["status"], 200, "{answer}");
        assert_eq!(answer["body"], json!({ "sold": n }).to_string());
        let told = answer["headers"]["payment-response"].as_str().unwrap();
        let told: Value = serde_json::from_slice(&BASE64_STANDARD.decode(told).unwrap()).unwrap();
        assert_eq!(told["success"], true, "{told}");
        let channel = &told["extra"]["channelState"];
        assert_eq!(channel["chargedCumulativeAmount"], json!((n * 1_000).to_string()), "{told}");
    }
    let by_desk = |ours_sent: u64| if ours { ours_sent } else { 0 };
    assert_eq!(desk.sent().await, by_desk(1), "one deposit for five calls");
    let deposited = 1_000_000 - world.chain.usdc_of(key.address()).await;
    assert_eq!(world.chain.usdc_of(HUB).await, deposited);
    let claimed = seller.ask(json!({ "claim": true })).await;
    assert_eq!(claimed["claims"][0]["vouchers"], 1, "{claimed}");
    assert_eq!(world.chain.usdc_of(payee).await, 5_000);
    // One more call, and the rest goes back: what was charged is claimed first.
    let answer = buyer.ask(json!({ "url": seller.url() })).await;
    assert_eq!(answer["status"], 200, "{answer}");
    let refunded = buyer.ask(json!({ "url": seller.url(), "refund": true })).await;
    assert_eq!(refunded["success"], true, "{refunded}");
    assert_eq!(refunded["amount"], json!((deposited - 6_000).to_string()));
    assert_eq!(world.chain.usdc_of(key.address()).await, 994_000);
    assert_eq!(world.chain.usdc_of(HUB).await, 1_000);
    world.judge().await;
}

#[tokio::test]
async fn official_buyers_and_sellers_keep_their_channels_here() {
    official_channels(Plan::new().start().await, true).await;
}

#[tokio::test]
async fn official_buyers_and_sellers_keep_their_channels_here_on_the_twin() {
    official_channels(Plan::new().twin().start().await, true).await;
}

/// Nothing of ours is between them but the hub.
#[tokio::test]
async fn the_official_facilitator_settles_channels_at_our_hub() {
    official_channels(Plan::new().start().await, false).await;
}
