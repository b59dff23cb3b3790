//! The PolicyWallet as the payer at our facilitator: coupons and redemptions of a real agent.

use alloy::{
    primitives::{Address, B256, U256},
    signers::{SignerSync as _, local::PrivateKeySigner},
};
use bursar::{
    contract::{
        self,
        coupon::{self, Redemption},
        token::token_domain,
    },
    x402::{
        FacilitatorRequest, Reason, Requirements,
        exact::{Authorization, Delegated, Payload},
    },
};
use serde_json::json;

use super::desk::{Desk, now_s, offer, request, request_v1};
use crate::support::{Plan, World};

/// Seconds of a coupon's period on the devnet.
const PERIOD_S: u64 = 3_600;

/// A payment of the wallet's by a coupon of the agent's.
fn by_coupon(
    world: &World,
    agent: &PrivateKeySigner,
    offer: &Requirements,
    number: u16,
) -> Payload {
    let terms = offer.terms().unwrap();
    let (period, index) = (now_s() / PERIOD_S, coupon::index(0, number));
    let authorization = Authorization {
        from: world.card.wallet,
        to: terms.pay_to,
        value: terms.amount,
        valid_after: U256::from(period * PERIOD_S),
        valid_before: U256::from((period + 1) * PERIOD_S),
        nonce: coupon::nonce(agent.address(), period, index),
    };
    let domain = token_domain("USDC", "2", terms.chain_id, terms.asset);
    let signature = agent.sign_hash_sync(&authorization.digest(&domain)).unwrap();
    let signature = coupon::blob(&authorization.message(), index, &signature);
    Payload { signature, authorization }
}

/// A payment of the wallet's that `redeemer` may redeem (zero: anybody).
fn by_redemption(
    world: &World,
    agent: &PrivateKeySigner,
    offer: &Requirements,
    nonce: u64,
    redeemer: Address,
) -> FacilitatorRequest {
    let terms = offer.terms().unwrap();
    let redemption = Redemption {
        agent: agent.address(),
        redeemer,
        nonce: U256::from(nonce),
        deadline: U256::from(now_s() + 300),
        context: B256::repeat_byte(7),
        to: terms.pay_to,
        amount: terms.amount,
    };
    let domain = contract::domain(world.card.chain_id, world.card.wallet);
    let signature = agent.sign_hash_sync(&contract::digest(&redemption, &domain)).unwrap();
    let given = Delegated {
        delegation_manager: world.card.wallet,
        permission_context: redemption.context(&signature),
        delegator: world.card.wallet,
    };
    let extra = json!({ "assetTransferMethod": "erc7710" }).as_object().unwrap().clone();
    request(&Requirements::new("exact", &terms, extra).unwrap(), &given)
}

#[tokio::test]
async fn the_wallet_s_coupons_and_redemptions_are_settled() {
    // No coupon is near the end of its period.
    let left_s = PERIOD_S - now_s() % PERIOD_S;
    if left_s < 90 {
        tokio::time::sleep(std::time::Duration::from_secs(left_s)).await;
    }
    // Version 1 has a name for this chain.
    let world = Plan::new().twin().start().await;
    let desk = Desk::of(&world);
    let agent = world.daemon_keys().agent(0).unwrap();
    assert_eq!(agent.address(), world.address("atlas"));
    let payee = world.payee("acme-data");
    let offer = |units| offer(&world, payee, units);
    let mut due = 0;
    let coupon = |units, number| by_coupon(&world, &agent, &offer(units), number);
    for payment in [
        request(&offer(10_000), &coupon(10_000, 0)),
        request(&offer(10_000), &coupon(10_000, 1)),
        request_v1(&offer(10_000), &coupon(10_000, 2)),
    ] {
        let verified = desk.verify(&payment).await;
        assert!(verified.is_valid, "{verified:?}");
        let settled = desk.settle(&payment).await;
        assert!(settled.success, "{settled:?}");
        due += 10_000;
        assert_eq!(world.chain.usdc_of(payee).await, due);
        desk.told_before(&payment, &settled).await;
    }
    // The wallet's own rules are what refuses here: class, payee, and whose word it is.
    let stranger = PrivateKeySigner::random();
    let nobody = super::desk::offer(&world, stranger.address(), 10_000);
    let theirs = by_coupon(&world, &stranger, &offer(10_000), 7);
    for (payment, what) in [
        (request(&offer(10_001), &coupon(10_001, 5)), "above the class"),
        (request_v1(&offer(10_001), &coupon(10_001, 5)), "above the class, by version 1"),
        (request(&nobody, &by_coupon(&world, &agent, &nobody, 6)), "no payee of the registry"),
        (request(&offer(10_000), &theirs), "nobody's coupon"),
        (request_v1(&offer(10_000), &theirs), "nobody's coupon, by version 1"),
    ] {
        let payment = serde_json::to_value(payment).unwrap();
        desk.refuses(&payment, &Reason::InvalidSignature, what).await;
    }

    // For anybody, and for one of the relayers, whichever: that one sends it.
    let redeemers = [Address::ZERO, world.card.relayers[2], world.card.relayers[1]];
    for (nonce, redeemer) in (1_000_000..).zip(redeemers) {
        let payment = by_redemption(&world, &agent, &offer(2_000_000), nonce, redeemer);
        assert!(desk.verify(&payment).await.is_valid);
        let settled = desk.settle(&payment).await;
        assert!(settled.success, "{settled:?}");
        due += 2_000_000;
        assert_eq!(world.chain.usdc_of(payee).await, due);
        desk.told_before(&payment, &settled).await;
    }
    for (payment, what) in [
        (
            by_redemption(&world, &agent, &offer(1_000_000), 2_000_000, stranger.address()),
            "for another redeemer",
        ),
        (
            by_redemption(&world, &agent, &offer(251_000_000), 2_000_001, Address::ZERO),
            "above the agent's ceiling",
        ),
        (by_redemption(&world, &agent, &nobody, 2_000_002, Address::ZERO), "no payee"),
        (
            by_redemption(&world, &agent, &offer(1_000_000), 1_000_000, Address::ZERO),
            "a nonce that was used",
        ),
    ] {
        let payment = serde_json::to_value(payment).unwrap();
        desk.refuses(&payment, &Reason::InvalidTransactionState, what).await;
    }
    assert_eq!((world.chain.usdc_of(payee).await, desk.sent().await), (due, 6));
}
