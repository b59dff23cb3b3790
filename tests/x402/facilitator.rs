//! The facilitator over HTTP: what it refuses, and that what it settles is settled once.

use alloy::{
    hex,
    primitives::{Address, B256, Bytes, U256},
    signers::local::PrivateKeySigner,
};
use bursar::{
    contract::token::token_domain,
    store::Store,
    x402::{
        Reason, Requirements, SettleResponse, Supported,
        exact::{Authorization, Delegated},
    },
};
use serde_json::{Value, json};

use super::desk::{Desk, all_are, fund, now_s, offer, payer, request, request_v1, seen, signed};
use crate::support::{Fault, Official, Plan, World, wait_for};

#[tokio::test]
async fn a_payment_is_settled_once_in_both_versions() {
    let world = Plan::new().twin().start().await;
    let desk = Desk::of(&world);
    let supported: Supported =
        reqwest::get(format!("{}/supported", desk.url())).await.unwrap().json().await.unwrap();
    let kinds: Vec<_> = supported
        .kinds
        .iter()
        .map(|kind| (kind.x402_version, kind.scheme.as_str(), kind.network.as_str()))
        .collect();
    assert_eq!(
        kinds,
        [
            (2, "exact", "eip155:84532"),
            (2, "batch-settlement", "eip155:84532"),
            (1, "exact", "base-sepolia")
        ]
    );
    let senders: Vec<Address> =
        supported.signers["eip155:*"].iter().map(|text| text.parse().unwrap()).collect();
    assert_eq!(senders, world.card.relayers);

    let (key, payee) = (payer(&world).await, PrivateKeySigner::random().address());
    let offer = offer(&world, payee, 10_000);
    let mut due = 0;
    for version in [2, 1] {
        let payload = signed(&key, key.address(), &offer, |_| ());
        let request =
            if version == 2 { request(&offer, &payload) } else { request_v1(&offer, &payload) };
        let verified = desk.verify(&request).await;
        assert!(verified.is_valid, "{verified:?}");
        assert_eq!(verified.payer, Some(key.address().to_string()));
        let sent = desk.sent().await;
        let settled = desk.settle(&request).await;
        assert!(settled.success, "{settled:?}");
        assert_eq!(settled.network, request.payment_requirements.network());
        due += 10_000;
        assert_eq!(world.chain.usdc_of(payee).await, due);
        desk.told_before(&request, &settled).await;
        assert_eq!((world.chain.usdc_of(payee).await, desk.sent().await), (due, sent + 1));
    }
    assert_eq!(world.chain.usdc_of(key.address()).await, 1_000_000 - due);

    // Many at once, some of them the same.
    let offer = super::desk::offer(&world, payee, 1_000);
    let payments: Vec<_> =
        (0..4).map(|_| request(&offer, &signed(&key, key.address(), &offer, |_| ()))).collect();
    let before = desk.sent().await;
    let all = payments.iter().chain(&payments).map(|payment| desk.settle(payment));
    let answers = futures_util::future::join_all(all).await;
    for (first, second) in answers.iter().zip(&answers[4..]) {
        assert_eq!(first.transaction, second.transaction);
        assert!(first.success != second.success, "one of two is told: {first:?} {second:?}");
    }
    assert_eq!(world.chain.usdc_of(payee).await, due + 4_000);
    assert_eq!(desk.sent().await, before + 4);
    all_are(&world, "settled").await;
    world.judge().await;
}

#[tokio::test]
async fn what_is_not_as_it_should_be_is_refused_and_costs_nothing() {
    let world = Plan::new().start().await;
    let desk = Desk::of(&world);
    let (key, payee) = (payer(&world).await, PrivateKeySigner::random().address());
    let offer = offer(&world, payee, 10_000);
    let good = |edit: &dyn Fn(&mut Authorization)| {
        let payload = signed(&key, key.address(), &offer, |signed| edit(signed));
        serde_json::to_value(request(&offer, &payload)).unwrap()
    };
    let plain = good(&|_| ());
    let with = |pointer: &str, value: Value| {
        let mut request = plain.clone();
        *request.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        request
    };
    // Of both the offer and what was accepted.
    let offered = |key: &str, value: Value| {
        let mut request = plain.clone();
        request["paymentRequirements"][key] = value.clone();
        request["paymentPayload"]["accepted"][key] = value;
        request
    };
    let other = PrivateKeySigner::random().address();
    let poor = PrivateKeySigner::random();
    let poor = request(&offer, &signed(&poor, poor.address(), &offer, |_| ()));
    let stranger =
        request(&offer, &signed(&PrivateKeySigner::random(), key.address(), &offer, |_| ()));
    let undeployed = format!("0x{}{}", "00".repeat(65), "6492".repeat(16));
    let huge = U256::MAX;
    for (request, reason, what) in [
        (good(&|signed| signed.to = other), Reason::RecipientMismatch, "another payee"),
        (good(&|signed| signed.value = U256::from(9_999)), Reason::ValueMismatch, "less"),
        (good(&|signed| signed.value = U256::from(10_001)), Reason::ValueMismatch, "more"),
        (
            good(&|signed| signed.valid_before = U256::from(now_s() + 3)),
            Reason::ValidBefore,
            "nearly expired",
        ),
        (good(&|signed| signed.valid_before = U256::ZERO), Reason::ValidBefore, "expired"),
        (good(&|signed| signed.valid_after = huge), Reason::ValidAfter, "not yet valid"),
        (serde_json::to_value(&stranger).unwrap(), Reason::InvalidSignature, "a stranger's"),
        (
            with("/paymentPayload/payload/authorization/nonce", json!(B256::new(rand::random()))),
            Reason::InvalidSignature,
            "another nonce than signed",
        ),
        (
            with("/paymentPayload/payload/signature", json!("0x")),
            Reason::InvalidSignature,
            "no signature",
        ),
        (
            with("/paymentPayload/payload/signature", json!(undeployed)),
            Reason::UndeployedWallet,
            "a wallet that is not there",
        ),
        (serde_json::to_value(&poor).unwrap(), Reason::InsufficientFunds, "no money"),
        (offered("network", json!("eip155:1")), Reason::InvalidNetwork, "another chain"),
        (
            with("/paymentPayload/accepted/network", json!("eip155:1")),
            Reason::InvalidNetwork,
            "accepted on another chain",
        ),
        (offered("network", json!("solana:x")), Reason::InvalidNetwork, "no chain of ours"),
        (offered("scheme", json!("upto")), Reason::UnsupportedScheme, "another scheme"),
        (
            with("/paymentPayload/accepted/scheme", json!("upto")),
            Reason::InvalidScheme,
            "accepted by another scheme",
        ),
        (offered("asset", json!(other.to_string())), Reason::InvalidRequirements, "another token"),
        (offered("amount", json!("1e4")), Reason::InvalidRequirements, "no amount"),
        (
            offered("extra", json!({ "name": "USD Coin", "version": "2" })),
            Reason::InvalidRequirements,
            "the name of another token",
        ),
        (offered("extra", json!({})), Reason::InvalidRequirements, "no name of the token"),
        (
            offered("extra", json!({ "assetTransferMethod": "permit2" })),
            Reason::UnsupportedScheme,
            "permit2",
        ),
        (with("/paymentPayload/x402Version", json!(3)), Reason::InvalidVersion, "version 3"),
        (with("/x402Version", json!(1)), Reason::InvalidVersion, "two versions"),
        (
            with("/paymentPayload/payload/authorization/value", json!(10_000)),
            Reason::InvalidPayload,
            "a number for an amount",
        ),
        (with("/paymentPayload/payload", json!({})), Reason::InvalidPayload, "no payload"),
        (json!({ "paymentPayload": 1 }), Reason::InvalidPayload, "no request"),
        (json!([]), Reason::InvalidPayload, "a list"),
    ] {
        desk.refuses(&request, &reason, what).await;
    }
    for body in ["", "{", "paymentPayload"] {
        for verb in ["verify", "settle"] {
            let url = format!("{}/{verb}", desk.url());
            let answer = desk.http.post(url).body(body).send().await.unwrap();
            assert_eq!(answer.status(), 400, "{body}");
        }
    }
    let long = desk.http.post(format!("{}/verify", desk.url())).body(" ".repeat(100_000));
    assert_eq!(long.send().await.unwrap().status(), 413);

    // Cancelled by its payer, or submitted by somebody else: the token's word counts.
    let payload = signed(&key, key.address(), &offer, |_| ());
    let call = payload.authorization.message().call(&payload.signature);
    let theirs = world.chain.send_from(world.card.deployer, world.card.usdc, call).await;
    let taken = request(&offer, &payload);
    seen(&world).await;
    assert_eq!(desk.verify(&taken).await.invalid_reason, Some(Reason::NonceUsed));
    let before = desk.sent().await;
    let settled = desk.settle(&taken).await;
    assert!(settled.success, "{settled:?}");
    assert_eq!(settled.transaction, theirs.to_string());
    desk.told_before(&taken, &settled).await;
    // The same nonce for another payee was not paid by that.
    let nonce = payload.authorization.nonce;
    let elsewhere = super::desk::offer(&world, other, 10_000);
    let payload = signed(&key, key.address(), &elsewhere, |signed| signed.nonce = nonce);
    let twice = serde_json::to_value(request(&elsewhere, &payload)).unwrap();
    desk.refuses(&twice, &Reason::NonceUsed, "a nonce that paid somebody else").await;
    assert_eq!((world.chain.usdc_of(other).await, desk.sent().await), (0, before));

    // Only for those it is there for.
    let payees = vec![other];
    let mut world = world;
    world.stop().await;
    world.configure(|config| config.facilitator.payees = payees);
    world.restart().await;
    let desk = Desk::of(&world);
    let fresh = request(&offer, &signed(&key, key.address(), &offer, |_| ()));
    desk.refuses(
        &serde_json::to_value(&fresh).unwrap(),
        &Reason::InvalidRequirements,
        "not one of the payees",
    )
    .await;
    world.stop().await;
    world.configure(|config| config.facilitator.enabled = false);
    world.restart().await;
    let answer = reqwest::get(format!("{}/supported", Desk::of(&world).url())).await.unwrap();
    assert_eq!(answer.status(), 404);
    world.judge().await;
}

/// A wallet that takes the one digest in its slot 0, by any signature.
const BOOKED: &str = "0x7f1626ba7e000000000000000000000000000000000000000000000000000000006004355f5414025f5260205ff3";
/// One that never comes to an end.
const ENDLESS: &str = "0x5b5f56";

#[tokio::test]
async fn a_contract_pays_by_its_own_word_and_wastes_little_gas() {
    let world = Plan::new().config(|config| config.facilitator.wait_s = 25).start().await;
    let desk = Desk::of(&world);
    let (wallet, payee) = (Address::new(rand::random()), PrivateKeySigner::random().address());
    world.chain.rpc("anvil_setCode", json!([wallet, BOOKED])).await;
    fund(&world, wallet).await;
    let slot = async |value: B256| {
        world.chain.rpc("anvil_setStorageAt", json!([wallet, B256::ZERO, value])).await;
        world.chain.mine().await;
        seen(&world).await;
    };
    let offer = offer(&world, payee, 10_000);
    let domain = token_domain("USDC", "2", world.card.chain_id, world.card.usdc);
    let book = |signature: Bytes| {
        let mut payload = signed(&PrivateKeySigner::random(), wallet, &offer, |_| ());
        payload.signature = signature;
        (payload.authorization.digest(&domain), request(&offer, &payload))
    };
    // Signatures of 32, 65 and 224 bytes go through either overload.
    for (n, length) in [32, 65, 224].into_iter().enumerate() {
        let (digest, request) = book(vec![7; length].into());
        let unbooked = serde_json::to_value(&request).unwrap();
        desk.refuses(&unbooked, &Reason::InvalidSignature, "not booked").await;
        slot(digest).await;
        assert!(desk.verify(&request).await.is_valid);
        let settled = desk.settle(&request).await;
        assert!(settled.success, "{settled:?}");
        assert_eq!(world.chain.usdc_of(payee).await, 10_000 * (n as u64 + 1));
    }

    // No account's signature stands in for a contract's, and none is waited for without end.
    let key = PrivateKeySigner::random();
    world.chain.rpc("anvil_setCode", json!([key.address(), ENDLESS])).await;
    fund(&world, key.address()).await;
    let endless = request(&offer, &signed(&key, key.address(), &offer, |_| ()));
    let endless = serde_json::to_value(&endless).unwrap();
    desk.refuses(&endless, &Reason::InvalidSignature, "a wallet without end").await;

    // One that changes its mind between the look and the block costs gas three times an hour.
    for n in 1..=3 {
        let (digest, request) = book(vec![n; 32].into());
        slot(digest).await;
        world.chain.rpc("anvil_setIntervalMining", json!([0])).await;
        world.chain.automine(false).await;
        let sent = desk.sent().await;
        let settling = desk.settle(&request);
        let fickle = async {
            wait_for("the transaction in the pool", async || {
                let pool = world.chain.pool_of(&world.card.relayers).await;
                (!pool.is_empty()).then_some(())
            })
            .await;
            // It mines.
            slot(B256::ZERO).await;
        };
        let (settled, ()) = tokio::join!(settling, fickle);
        assert!(!settled.success && !settled.is_pending(), "{settled:?}");
        assert_eq!(settled.error_reason, Some(Reason::InvalidTransactionState));
        assert_eq!(desk.sent().await, sent + 1);
    }
    let (digest, fourth) = book(vec![9; 32].into());
    slot(digest).await;
    let sent = desk.sent().await;
    let refused = desk.settle(&fourth).await;
    assert_eq!(refused.error_reason, Some(Reason::InvalidTransactionState), "{refused:?}");
    assert_eq!(desk.sent().await, sent);
    assert_eq!(world.chain.usdc_of(payee).await, 30_000);
    world.judge().await;
}

/// A manager that pays whatever it is asked to, out of its own USDC, as often as it is asked.
fn generous(usdc: Address) -> String {
    format!("0x6044604c36035f375f5f60445f5f73{}5af115602a57005b5f5ffd", hex::encode(usdc))
}

#[tokio::test]
async fn a_delegation_is_redeemed_once() {
    let world = Plan::new().start().await;
    let desk = Desk::of(&world);
    let (manager, payee) = (Address::new(rand::random()), PrivateKeySigner::random().address());
    world.chain.rpc("anvil_setCode", json!([manager, generous(world.card.usdc)])).await;
    fund(&world, manager).await;
    let terms = offer(&world, payee, 10_000).terms().unwrap();
    let extra = json!({ "assetTransferMethod": "erc7710" }).as_object().unwrap().clone();
    let offer = Requirements::new("exact", &terms, extra).unwrap();
    let given = |delegation_manager, context: u8| Delegated {
        delegation_manager,
        permission_context: vec![context; 104].into(),
        delegator: delegation_manager,
    };
    for n in 1..=2_u8 {
        let payment = request(&offer, &given(manager, n));
        assert!(desk.verify(&payment).await.is_valid);
        let settled = desk.settle(&payment).await;
        assert!(settled.success, "{settled:?}");
        desk.told_before(&payment, &settled).await;
        assert_eq!(world.chain.usdc_of(payee).await, 10_000 * u64::from(n));
    }
    // Nobody there; the token itself; no money; and one that takes the gas and pays nothing.
    let idle = Address::new(rand::random());
    for (manager, reason) in [
        (idle, Reason::InvalidPayload),
        (world.card.usdc, Reason::InvalidPayload),
        (world.card.wallet, Reason::InvalidTransactionState),
        (world.card.escrow, Reason::InsufficientFunds),
    ] {
        let refused = serde_json::to_value(request(&offer, &given(manager, 0))).unwrap();
        desk.refuses(&refused, &reason, "no manager").await;
    }
    world.chain.rpc("anvil_setCode", json!([idle, "0x00"])).await;
    fund(&world, idle).await;
    let sent = desk.sent().await;
    for n in 0..4 {
        let answer = desk.settle(&request(&offer, &given(idle, n))).await;
        assert_eq!(answer.error_reason, Some(Reason::InvalidTransactionState), "{answer:?}");
    }
    assert_eq!(desk.sent().await, sent + 3, "three times an hour");
    assert_eq!(world.chain.usdc_of(payee).await, 20_000);
    world.judge().await;
}

#[tokio::test]
async fn what_is_not_known_yet_is_pending_and_never_sent_twice() {
    let plan = Plan::new().automine().config(|config| {
        config.facilitator.wait_s = 1;
        // The hash stays what it was.
        config.submit.replace_after_s = 600;
    });
    let (mut world, proxy) = plan.behind_a_proxy().await;
    let (key, payee) = (payer(&world).await, PrivateKeySigner::random().address());
    let offer = offer(&world, payee, 10_000);
    let payment = || request(&offer, &signed(&key, key.address(), &offer, |_| ()));

    // Sent, and in no block.
    world.chain.automine(false).await;
    let slow = payment();
    let pending = Desk::of(&world).settle(&slow).await;
    assert!(pending.is_pending(), "{pending:?}");
    assert_eq!(Desk::of(&world).settle(&slow).await, pending, "the same transaction");
    assert!(Desk::of(&world).verify(&slow).await.is_valid, "a buyer may bring it again");
    // Killed meanwhile: the next one knows.
    world.kill();
    world.restart().await;
    assert_eq!(Desk::of(&world).settle(&slow).await, pending);
    world.chain.mine().await;
    let settled = wait_for("the settlement", async || {
        let answer = Desk::of(&world).settle(&slow).await;
        assert!(answer.success || answer.is_pending(), "{answer:?}");
        answer.success.then_some(answer)
    })
    .await;
    assert_eq!(settled.transaction, pending.transaction);
    assert_eq!(world.chain.usdc_of(payee).await, 10_000);

    // The node takes it and does not say so.
    world.chain.automine(true).await;
    proxy.on("eth_sendRawTransaction", 2, Fault::Unanswered);
    let lost = payment();
    let settled = wait_for("the settlement", async || {
        let answer = Desk::of(&world).settle(&lost).await;
        assert!(answer.success || answer.is_pending(), "{answer:?}");
        answer.success.then_some(answer)
    })
    .await;
    assert_eq!(world.chain.usdc_of(payee).await, 20_000);
    Desk::of(&world).told_before(&lost, &settled).await;

    // The node is away: nobody is told anything but that.
    let unheard = payment();
    proxy.cut();
    let answer = Desk::of(&world).settle(&unheard).await;
    assert_eq!(answer.error_reason, Some(Reason::UnexpectedSettleError), "{answer:?}");
    let answer = Desk::of(&world).verify(&unheard).await;
    assert_eq!(answer.invalid_reason, Some(Reason::UnexpectedVerifyError));
    proxy.mend();
    assert_eq!(world.chain.usdc_of(payee).await, 20_000);
    all_are(&world, "settled").await;
    world.judge().await;
}

#[tokio::test]
async fn what_falls_out_of_the_chain_after_it_was_told_is_sent_again() {
    let plan = Plan::new().automine().config(|config| {
        config.chain.confirmations = 4;
        // The hash stays what it was.
        config.submit.replace_after_s = 600;
    });
    let world = plan.start().await;
    let desk = Desk::of(&world);
    let (key, payee) = (payer(&world).await, PrivateKeySigner::random().address());
    let offer = offer(&world, payee, 10_000);
    let payment = request(&offer, &signed(&key, key.address(), &offer, |_| ()));
    let settled = desk.settle(&payment).await;
    assert!(settled.success, "{settled:?}");
    world.chain.automine(false).await;
    world.chain.rpc("anvil_reorg", json!([1, []])).await;
    assert_eq!(world.chain.usdc_of(payee).await, 0);
    world.chain.rpc("evm_setIntervalMining", json!([1])).await;
    wait_for("the payment", async || (world.chain.usdc_of(payee).await == 10_000).then_some(()))
        .await;
    all_are(&world, "settled").await;
    desk.told_before(&payment, &settled).await;
    assert_eq!(world.chain.usdc_of(payee).await, 10_000);
    world.judge().await;
}

#[tokio::test]
#[cfg_attr(not(feature = "fault-injection"), ignore = "needs --features fault-injection")]
async fn dead_around_a_settlement_it_is_settled_once() {
    // Told in its first block, final in the second.
    let plan = Plan::new().config(|config| config.chain.confirmations = 2);
    let mut world = plan.without_daemon().await;
    let payee = PrivateKeySigner::random().address();
    let key = payer(&world).await;
    let offer = offer(&world, payee, 10_000);
    let places = ["settlement.committed", "send.answered", "place.committed", "finish.committed"];
    for (n, place) in (1..).zip(places) {
        let payment = request(&offer, &signed(&key, key.address(), &offer, |_| ()));
        world.restart_with(place).await;
        // It dies before it answers, or just after.
        let first = Desk::of(&world).try_ask::<SettleResponse>("settle", &payment).await;
        assert_eq!(world.died().await, None, "by a signal");
        let store = Store::open(&world.database()).await.unwrap();
        let nonce: B256 = serde_json::from_value(
            payment.payment_payload.payload["authorization"]["nonce"].clone(),
        )
        .unwrap();
        let terms = offer.terms().unwrap();
        let id = format!("eip3009:{}:{}:{}:{nonce}", terms.chain_id, terms.asset, key.address());
        let stored = store.settlement(&id).await.unwrap().unwrap().tx_hash;
        store.close().await;
        world.restart().await;
        let settled = Desk::of(&world).settle(&payment).await;
        // Whoever was told before it died may not have heard.
        let was_told = settled.error_reason == Some(Reason::DuplicateSettlement);
        assert!(settled.success || was_told, "{place}: {settled:?}");
        assert!(!(settled.success && first.is_ok_and(|first| first.success)), "{place}: twice");
        assert_eq!(settled.transaction, stored.to_string(), "{place}: the stored bytes");
        assert_eq!(world.chain.usdc_of(payee).await, 10_000 * n, "{place}");
        // Final, so that the next daemon dies of its own settlement and not of this one.
        all_are(&world, "settled").await;
        world.stop().await;
    }
    world.restart().await;
    all_are(&world, "settled").await;
    world.judge().await;
}

#[tokio::test]
async fn official_sellers_settle_here() {
    let world = Plan::new().start().await;
    settles_for_each(&world).await;
    world.judge().await;
}

/// Official sellers settle through our facilitator, once for each payment of an official buyer.
pub(super) async fn settles_for_each(world: &World) {
    let (payee, before) = (PrivateKeySigner::random().address(), Desk::of(world).sent().await);
    let facilitator = json!({ "facilitator": Desk::of(world).url() });
    let (buyer, express, hono) = tokio::join!(
        Official::buyer(world, "x402"),
        Official::seller(world, "express", payee, 10_000, facilitator.clone()),
        Official::seller(world, "hono", payee, 20_000, facilitator.clone()),
    );
    let mut due = 0;
    for (seller, price) in [(&express, 10_000), (&hono, 20_000)] {
        let had = world.chain.usdc_of(buyer.address()).await;
        let answer = buyer.ask(json!({ "url": seller.url() })).await;
        assert_eq!(answer["status"], 200, "{answer}");
        assert!(answer["headers"]["payment-response"].is_string(), "{answer}");
        due += price;
        assert_eq!(world.chain.usdc_of(payee).await, due);
        assert_eq!(world.chain.usdc_of(buyer.address()).await, had - price);
        // The very same payment again is not served, and not charged.
        let again = buyer.ask(json!({ "again": true })).await;
        assert_eq!(again["status"], 402, "{again}");
        let seen = seller.ask(json!({})).await;
        assert_eq!((&seen["handled"], &seen["settled"]), (&json!(1), &json!(1)), "{seen}");
    }
    assert_eq!(world.chain.usdc_of(payee).await, due);
    assert_eq!(Desk::of(world).sent().await, before + 2);
    assert!(world.metric("bursar_facilitator_verified_total").await >= 2);
    wait_for("settlements that are final", async || {
        (world.metric("bursar_facilitator_settled_total").await >= 2).then_some(())
    })
    .await;
    let told = world.operator(0).status().await.unwrap().facilitator;
    assert!(told.public && told.channels && told.verified >= 2 && told.settled >= 2, "{told:?}");
}
