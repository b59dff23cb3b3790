//! Selling through channels: official clients and hostile ones before the real paywall, kills between any
//! two steps, payers that leave, daemons that take over. Nobody is served unpaid or charged twice, and
//! what was charged is claimed, never above what was signed.
//!
//! `C2`, `C11` and the like name the cases of the channels' threat list that a test shows. Elsewhere: C9,
//! C10 and C12 in `buyer_channels.rs`, C20 in `reorgs.rs`, C21 in `facilitator_channels.rs`, what the hub
//! itself refuses in `tests/contracts/`; kills at random moments are in `kills.rs`.

use std::time::Duration;

use alloy::{
    hex,
    primitives::{Address, B256, Bytes, U256},
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol_types::SolCall as _,
};
use bursar::{
    contract::{
        self,
        hub::{self, ERC3009_COLLECTOR, HUB, Hub, IChannelHub},
        token::{ReceiveWithAuthorization, token_domain},
    },
    x402::{
        self, PaymentPayload, PaymentRequired, Requirements, SettleResponse,
        batch::{
            ChannelConfig, Deposit, DepositAuthorization, DepositTerms, ERROR_PREFIX,
            Erc3009Authorization, Payload, RefundPayload, Vouched, Voucher,
        },
    },
};
use serde_json::{Value, json};
use sqlx::Row as _;
use tokio::time::timeout;

use super::{
    desk::{fields, now_s, payer},
    seller::Shop,
};
use crate::support::{Backend, Official, Plan, Twin, World, wait_for};

/// What a call costs.
pub const PRICE: u64 = 10_000;
/// What the paywall wants in a channel at least: ten calls.
pub const DEPOSIT: u64 = 100_000;

/// A payer of channels that can say anything.
#[derive(Clone)]
pub struct Payer {
    key: PrivateKeySigner,
    voucher_key: PrivateKeySigner,
    hub: Hub,
    offered: PaymentRequired,
    offer: Requirements,
    config: ChannelConfig,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
    pub receipt: Option<SettleResponse>,
    asked: Option<PaymentRequired>,
}

impl Answer {
    /// Was it refused because another request in the channel came first?
    pub fn came_late(&self) -> bool {
        self.status == 402 && ["channel_busy", "cumulative_amount_mismatch"].contains(&self.error())
    }

    /// x402's word for what was wrong, without its prefix.
    pub fn error(&self) -> &str {
        let error = self.asked.as_ref().and_then(|asked| asked.error.as_deref());
        let error = error.unwrap_or_else(|| panic!("{self:?}"));
        error.strip_prefix(ERROR_PREFIX).unwrap_or(error)
    }

    fn charged(&self) -> u64 {
        let extra = self.receipt.as_ref().unwrap().extra.as_ref().unwrap();
        extra["chargedAmount"].as_str().unwrap().parse().unwrap()
    }

    /// What the channel's state of the receipt says was charged in all.
    pub fn total(&self) -> u64 {
        let extra = self.receipt.as_ref().unwrap().extra.as_ref().unwrap();
        extra["channelState"]["chargedCumulativeAmount"].as_str().unwrap().parse().unwrap()
    }
}

fn by(key: &PrivateKeySigner, digest: B256) -> Bytes {
    key.sign_hash_sync(&digest).unwrap().as_bytes().into()
}

impl Payer {
    /// With 1 USDC, and a key of its own for vouchers.
    pub async fn new(world: &World, shop: &Shop) -> Self {
        let answer = shop.get("/paid", &[]).await;
        let offered = answer.headers()[x402::PAYMENT_REQUIRED].to_str().unwrap();
        let offered: PaymentRequired = x402::decode(offered).unwrap();
        let offer = offered.accepts.iter().find(|offer| offer.scheme() == "batch-settlement");
        let offer = offer.expect("channels are offered").clone();
        let key = payer(world).await;
        let voucher_key = PrivateKeySigner::random();
        let config = ChannelConfig {
            payer: key.address(),
            payer_authorizer: voucher_key.address(),
            receiver: world.card.wallet,
            receiver_authorizer: offer.extra_text("receiverAuthorizer").unwrap().parse().unwrap(),
            token: world.card.usdc,
            withdraw_delay: 86_400,
            salt: B256::ZERO,
        };
        let hub = Hub::new(world.card.chain_id, HUB);
        Self { key, voucher_key, hub, offered, offer, config }
    }

    /// The same with a channel that has the least that is taken, and its first call paid.
    pub async fn funded(world: &World, shop: &Shop) -> Self {
        Self::funded_with(world, shop, DEPOSIT).await
    }

    /// The same with another deposit, up to 1 USDC.
    pub async fn funded_with(world: &World, shop: &Shop, units: u64) -> Self {
        let payer = Self::new(world, shop).await;
        let answer = payer.pay(shop, "/paid", payer.deposit(units, PRICE, 1)).await;
        assert_eq!((answer.status, answer.charged(), answer.total()), (200, PRICE, PRICE));
        payer
    }

    /// Begins to withdraw all of it.
    async fn leave(&self, world: &World) {
        let from = self.key.address();
        world.chain.rpc("anvil_setBalance", json!([from, "0xde0b6b3a7640000"])).await;
        world.chain.rpc("anvil_impersonateAccount", json!([from])).await;
        let all = IChannelHub::initiateWithdrawCall {
            config: self.config.into(),
            amount: DEPOSIT.into(),
        };
        world.chain.send_from(from, HUB, all.abi_encode().into()).await;
    }

    /// Takes what is left, once its time has come.
    async fn take(&self, world: &World) {
        world.chain.pass(86_401).await;
        let finish = IChannelHub::finalizeWithdrawCall { config: self.config.into() };
        world.chain.send_from(self.key.address(), HUB, finish.abi_encode().into()).await;
    }

    pub fn address(&self) -> Address {
        self.key.address()
    }

    pub fn id(&self) -> B256 {
        self.hub.channel_id(&self.config.into())
    }

    fn signed(&self, max: u64) -> Voucher {
        let digest = self.hub.voucher_digest(self.id(), max.into());
        let signature = by(&self.voucher_key, digest);
        Voucher { channel_id: self.id(), max_claimable_amount: max.into(), signature }
    }

    pub fn voucher(&self, max: u64) -> Payload {
        Payload::Voucher(Vouched { channel_config: self.config, voucher: self.signed(max) })
    }

    pub fn deposit(&self, units: u64, max: u64, salt: u64) -> Payload {
        let (salt, before) = (U256::from(salt), now_s() + 300);
        let message = ReceiveWithAuthorization {
            from: self.key.address(),
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
            signature: by(&self.key, contract::digest(&message, &domain)),
        };
        Payload::Deposit(Deposit {
            channel_config: self.config,
            voucher: self.signed(max),
            deposit: DepositTerms {
                amount: units.into(),
                authorization: DepositAuthorization { erc3009_authorization: Some(leave) },
            },
        })
    }

    fn refund(&self, charged: u64, amount: Option<u64>) -> Payload {
        Payload::Refund(RefundPayload {
            channel_config: self.config,
            voucher: self.signed(charged),
            amount: amount.map(U256::from),
            refund_nonce: None,
            claims: Vec::new(),
            refund_authorizer_signature: None,
            claim_authorizer_signature: None,
        })
    }

    fn header(&self, payload: &Payload) -> String {
        let payment = PaymentPayload::v2(&self.offered, &self.offer, fields(payload));
        x402::encode(&payment).unwrap()
    }

    pub async fn pay(&self, shop: &Shop, path: &str, payload: Payload) -> Answer {
        send(shop, path, &self.header(&payload)).await
    }

    /// Sends what is never answered.
    async fn loses(&self, shop: &Shop, payload: &Payload) {
        let request = reqwest::Client::new().get(format!("{}/paid", shop.url));
        let lost = request.header(x402::PAYMENT_SIGNATURE, self.header(payload)).send().await;
        assert!(lost.is_err(), "{lost:?}");
    }

    /// Sends again until there is an answer that says more than "not now".
    pub async fn insist(&self, shop: &Shop, path: &str, payload: &Payload) -> Answer {
        wait_for("an answer", async || {
            let answer = self.pay(shop, path, payload.clone()).await;
            (answer.status != 503).then_some(answer)
        })
        .await
    }
}

async fn send(shop: &Shop, path: &str, payment: &str) -> Answer {
    let answer = shop.get(path, &[(x402::PAYMENT_SIGNATURE, payment.to_owned())]).await;
    fn read<T: serde::de::DeserializeOwned>(answer: &reqwest::Response, name: &str) -> Option<T> {
        let text = answer.headers().get(name)?.to_str().unwrap();
        Some(x402::decode(text).unwrap())
    }
    Answer {
        status: answer.status().as_u16(),
        receipt: read(&answer, x402::PAYMENT_RESPONSE),
        asked: read(&answer, x402::PAYMENT_REQUIRED),
        body: answer.json().await.unwrap_or_default(),
    }
}

/// Claims what is owed, and waits until the wallet has it and the books say so.
pub async fn claim(world: &World, wallet: u64) {
    world.operator(0).claim_channels().await.unwrap();
    wait_for("the claim's payout", async || {
        (world.chain.usdc_of(world.card.wallet).await == wallet).then_some(())
    })
    .await;
}

async fn buys_from_us(plan: Plan) {
    let mut world = plan.config(|config| config.channels.watch_s = 1).without_daemon().await;
    let shop = Shop::open(&mut world).await;
    world.restart().await;
    let (wallet, key) = (world.card.wallet, payer(&world).await);
    let start = world.chain.usdc_of(wallet).await;
    let config = Official::config(&world, "buyer", &key);
    let buyer = Official::start("channels.mjs", config.clone()).await;
    let order = |path: &str| json!({ "url": format!("{}{path}", shop.url) });
    let receipt = |answer: &Value| -> SettleResponse {
        x402::decode(answer["headers"][x402::PAYMENT_RESPONSE].as_str().unwrap()).unwrap()
    };

    // The first call deposits; the others cost a signature.
    for number in 1..=3 {
        let answer = buyer.ask(order("/paid")).await;
        assert_eq!(answer["status"], 200, "{answer}");
        assert_eq!(answer["headers"]["cache-control"], "private");
        let receipt = receipt(&answer);
        let extra = receipt.extra.unwrap();
        assert_eq!(extra["chargedAmount"], PRICE.to_string());
        assert_eq!(receipt.transaction.is_empty(), number > 1, "{number}");
        assert_eq!(shop.made(), number);
        let body: Value = serde_json::from_str(answer["body"].as_str().unwrap()).unwrap();
        let who = format!("account=\"{}\"", key.address());
        assert!(body["payer"].as_str().unwrap().starts_with(&who), "{body}");
        assert!(!body["headers"].as_array().unwrap().contains(&json!(x402::PAYMENT_SIGNATURE)));
        assert_eq!(world.chain.usdc_of(key.address()).await, 1_000_000 - DEPOSIT);
        assert_eq!(world.chain.usdc_of(HUB).await, DEPOSIT);
        // The very same request again: the same answer, nothing made, nothing charged.
        let sent = answer["requests"].as_array().unwrap().last().unwrap();
        let payment = sent["headers"][x402::PAYMENT_SIGNATURE.to_lowercase()].as_str().unwrap();
        let again = send(&shop, "/paid", payment).await;
        assert_eq!((again.status, &again.body), (200, &body));
        assert_eq!((again.total(), shop.made()), (number * PRICE, number));
    }
    // What fails is not charged, and the client goes on.
    let failed = buyer.ask(order("/fail")).await;
    assert_eq!(
        (&failed["status"], &failed["headers"][x402::PAYMENT_RESPONSE]),
        (&json!(500), &Value::Null)
    );
    assert_eq!(buyer.ask(order("/paid")).await["status"], 200);

    // One transaction claims, and the wallet has it; by route, in the ledger, and reconciled.
    claim(&world, start + 4 * PRICE).await;
    assert_eq!(world.chain.usdc_of(HUB).await, DEPOSIT - 4 * PRICE);
    wait_for("the claim in the ledger", async || {
        let (code, text) = world.bursar(&["sales", "--json"]);
        let told: Value = serde_json::from_str(&text).unwrap();
        let paid = &told["routes"][0];
        assert_eq!(
            (code, &paid["route"], &paid["calls"]),
            (0, &json!("/paid"), &json!(4)),
            "{text}"
        );
        (paid["revenue"] == "0.04" && paid["posted"] == "0.04").then_some(())
    })
    .await;
    let (code, text) = world.bursar(&["reconcile"]);
    assert!(code == 0 && text.contains("/paid"), "{text}");

    // A client that has forgotten everything is set right by the payer's own signature.
    assert_eq!(buyer.ask(order("/paid")).await["status"], 200);
    let fresh = Official::start("channels.mjs", config).await;
    let answer = fresh.ask(order("/paid")).await;
    assert_eq!(answer["status"], 200, "{answer}");
    let statuses: Vec<_> =
        answer["requests"].as_array().unwrap().iter().map(|r| &r["status"]).collect();
    assert_eq!(statuses, [402, 402, 200], "{answer}");

    // What is left goes back; what was charged is claimed before, and paid out.
    let refunded = fresh.ask(json!({ "url": format!("{}/paid", shop.url), "refund": true })).await;
    assert_eq!(refunded["success"], true, "{refunded}");
    assert_eq!(refunded["amount"], json!((DEPOSIT - 6 * PRICE).to_string()));
    assert_eq!(world.chain.usdc_of(key.address()).await, 1_000_000 - 6 * PRICE);
    world.judge().await;
}

#[tokio::test]
async fn the_official_client_buys_by_vouchers() {
    buys_from_us(Plan::new()).await;
}

#[tokio::test]
async fn the_official_client_buys_by_vouchers_on_the_twin() {
    buys_from_us(Plan::new().twin()).await;
}

/// C2; C1 (an old voucher, another channel's); C13 (above what is there); C16 (the channel's claimer is
/// ours); C19.
#[tokio::test]
async fn hostile_payers_get_nothing_and_others_lose_nothing() {
    let mut world = Plan::new().without_daemon().await;
    let shop = Shop::open(&mut world).await;
    world.restart().await;
    let start = world.chain.usdc_of(world.card.wallet).await;

    // Nothing is put into a channel for a voucher that would buy nothing, or by another's leave.
    let new = Payer::new(&world, &shop).await;
    let desk = super::desk::Desk::of(&world);
    let before = desk.sent().await;
    for (payload, error) in [
        (new.deposit(DEPOSIT, PRICE + 1, 1), "cumulative_amount_mismatch"),
        (new.deposit(DEPOSIT - 1, PRICE, 1), "deposit_below_min_deposit"),
        (new.deposit(2_000_000, PRICE, 1), "insufficient_balance"),
        (new.voucher(PRICE), "channel_not_found"),
        (new.refund(0, None), "refund_no_balance"),
        (new.refund(PRICE, None), "channel_not_found"),
    ] {
        let answer = new.pay(&shop, "/paid", payload).await;
        assert_eq!((answer.status, answer.error()), (402, error), "{answer:?}");
    }
    // Who signs the first voucher must be who the channel says, before anything is sent.
    let mut stranger = new.clone();
    stranger.voucher_key = PrivateKeySigner::random();
    let answer = stranger.pay(&shop, "/paid", stranger.deposit(DEPOSIT, PRICE, 1)).await;
    assert_eq!((answer.status, answer.error()), (402, "voucher_signature"), "{answer:?}");
    assert_eq!((desk.sent().await, shop.made()), (before, 0));

    let payer = Payer::funded(&world, &shop).await;
    assert_eq!((shop.made(), world.chain.usdc_of(payer.key.address()).await), (1, 900_000));
    let deposit = payer.deposit(DEPOSIT, PRICE, 1);
    // The deposit again finds the answer that it bought, and puts nothing in.
    let first = payer.header(&deposit);
    let again = send(&shop, "/paid", &first).await;
    assert_eq!((again.status, again.total(), &again.body["number"]), (200, PRICE, &json!(1)));
    assert_eq!(world.chain.usdc_of(payer.key.address()).await, 900_000);

    // A voucher buys one request; for any other it is worth nothing, and says where the channel stands.
    let second = payer.pay(&shop, "/paid", payer.voucher(2 * PRICE)).await;
    assert_eq!((second.status, second.charged(), second.total()), (200, PRICE, 2 * PRICE));
    for path in ["/paid?other", "/slow", "/fail"] {
        let answer = payer.pay(&shop, path, payer.voucher(2 * PRICE)).await;
        assert_eq!((answer.status, answer.error()), (402, "cumulative_amount_mismatch"), "{path}");
        let offers = &answer.asked.unwrap().accepts;
        let offer = offers.iter().find(|offer| offer.scheme() == "batch-settlement").unwrap();
        let state = offer.extra("channelState").unwrap();
        assert_eq!(state["chargedCumulativeAmount"], (2 * PRICE).to_string());
        let proof = offer.extra("voucherState").unwrap();
        assert_eq!(proof["signature"], json!(payer.signed(2 * PRICE).signature));
    }
    // What the chain will show of a voucher is not enough to see the answer that it bought.
    let mut seen: Value = x402::decode(&payer.header(&payer.voucher(2 * PRICE))).unwrap();
    seen["accepted"]["extra"]["ticket"] = json!("guessed");
    let guessed = send(&shop, "/paid", &x402::encode(&seen).unwrap()).await;
    assert_eq!((guessed.status, guessed.error()), (402, "cumulative_amount_mismatch"));
    assert_eq!(shop.made(), 2);

    // Too low, too high, above what is there, signed by somebody else, for another channel.
    let foreign = |payload: Payload, edit: &dyn Fn(&mut Value)| {
        let mut shown: Value = x402::decode(&payer.header(&payload)).unwrap();
        edit(&mut shown["payload"]);
        x402::encode(&shown).unwrap()
    };
    let other = json!(new.key.address().to_string());
    let set = |field: &'static str, value: Value| {
        foreign(payer.voucher(3 * PRICE), &move |payload| {
            payload["channelConfig"][field] = value.clone()
        })
    };
    let garbage = |signature: &str| {
        foreign(payer.voucher(2 * PRICE), &|payload| {
            payload["voucher"]["signature"] = json!(signature)
        })
    };
    let by_other = Payer { voucher_key: PrivateKeySigner::random(), ..payer.clone() };
    let mut rebound = payer.clone();
    rebound.config.receiver = new.key.address();
    let mut own_judge = payer.clone();
    own_judge.config.receiver_authorizer = new.key.address();
    let mut hasty = payer.clone();
    hasty.config.withdraw_delay = 900;
    let mut nobodys = payer.clone();
    nobodys.config.salt = B256::repeat_byte(7);
    for (header, error) in [
        (payer.header(&payer.voucher(PRICE)), "cumulative_amount_mismatch"),
        (payer.header(&payer.voucher(3 * PRICE - 1)), "cumulative_amount_mismatch"),
        (payer.header(&payer.voucher(3 * PRICE + 1)), "cumulative_amount_mismatch"),
        (payer.header(&payer.voucher(DEPOSIT * 10)), "cumulative_amount_mismatch"),
        (by_other.header(&by_other.voucher(3 * PRICE)), "voucher_signature"),
        // C2: nor is a signature passed over because its total is old, or nothing: not even with the very
        // request, ticket and all, that the total has bought.
        (by_other.header(&by_other.voucher(2 * PRICE)), "voucher_signature"),
        (by_other.header(&by_other.voucher(PRICE)), "voucher_signature"),
        (by_other.header(&by_other.voucher(0)), "voucher_signature"),
        (payer.header(&payer.voucher(0)), "cumulative_amount_mismatch"),
        (garbage("0x"), "voucher_signature"),
        (garbage(&format!("0x{}", "11".repeat(64))), "voucher_signature"),
        (garbage(&format!("0x{}1b", "11".repeat(64))), "voucher_signature"),
        (garbage(&format!("0x{}1b", "ff".repeat(64))), "voucher_signature"),
        (garbage(&format!("0x{}", "00".repeat(65))), "voucher_signature"),
        (set("payer", other.clone()), "channel_id_mismatch"),
        (set("payerAuthorizer", other), "channel_id_mismatch"),
        (rebound.header(&rebound.voucher(3 * PRICE)), "receiver_mismatch"),
        (own_judge.header(&own_judge.voucher(3 * PRICE)), "receiver_authorizer_mismatch"),
        (hasty.header(&hasty.voucher(3 * PRICE)), "withdraw_delay_mismatch"),
        (nobodys.header(&nobodys.voucher(3 * PRICE)), "channel_not_found"),
        (payer.header(&payer.refund(PRICE, None)), "cumulative_amount_mismatch"),
        (payer.header(&payer.refund(2 * PRICE, Some(0))), "refund_amount_invalid"),
        (payer.header(&payer.refund(2 * PRICE, Some(8 * PRICE + 1))), "refund_amount_invalid"),
        (by_other.header(&by_other.refund(2 * PRICE, None)), "voucher_signature"),
    ] {
        let answer = send(&shop, "/paid", &header).await;
        assert_eq!((answer.status, answer.error()), (402, error), "{answer:?}");
    }
    let payout = foreign(payer.voucher(3 * PRICE), &|payload| {
        *payload = json!({ "type": "settle", "receiver": payload["channelConfig"]["receiver"],
            "token": payload["channelConfig"]["token"] });
    });
    assert_eq!(send(&shop, "/paid", &payout).await.status, 400);
    // C19: what is no hex, or no number, is no voucher: nothing is verified, nobody is asked anything.
    for (field, value) in [
        ("signature", json!("0xzz")),
        ("signature", json!("0x123")),
        ("signature", json!(7)),
        ("signature", Value::Null),
        ("channelId", json!("0x12")),
        ("channelId", json!(format!("0x{}", "zz".repeat(32)))),
        ("maxClaimableAmount", json!("0x7530")),
        ("maxClaimableAmount", json!("-1")),
        ("maxClaimableAmount", json!("340282366920938463463374607431768211456")),
    ] {
        let header = foreign(payer.voucher(3 * PRICE), &|payload| {
            payload["voucher"][field] = value.clone();
        });
        assert_eq!(send(&shop, "/paid", &header).await.status, 400, "{field}: {value}");
    }
    // C19: a voucher again is answered from what is kept; C2: all that changed nothing about it.
    let again = payer.pay(&shop, "/paid", payer.voucher(2 * PRICE)).await;
    assert_eq!((again.status, again.total(), &again.body), (200, 2 * PRICE, &second.body));
    assert_eq!(shop.made(), 2);

    // Two requests at once: one channel, one of them.
    let (one, two) = tokio::join!(
        payer.pay(&shop, "/slow?1", payer.voucher(3 * PRICE)),
        payer.pay(&shop, "/slow?2", payer.voucher(3 * PRICE)),
    );
    let (served, busy) = if one.status == 200 { (one, two) } else { (two, one) };
    assert_eq!((served.status, served.total()), (200, 3 * PRICE));
    assert!(busy.came_late(), "{busy:?}");
    assert_eq!(shop.made(), 3);

    // A handler that fails costs nothing; the same voucher then buys, at most once.
    let failed = payer.pay(&shop, "/fail", payer.voucher(4 * PRICE)).await;
    assert_eq!((failed.status, failed.receipt.is_none()), (500, true));
    let bought = payer.pay(&shop, "/paid", payer.voucher(4 * PRICE)).await;
    assert_eq!((bought.status, bought.total()), (200, 4 * PRICE));

    // Down to the last call, and not one more; a top-up goes on.
    for total in 5..=10 {
        let answer = payer.pay(&shop, "/paid", payer.voucher(total * PRICE)).await;
        assert_eq!((answer.status, answer.total()), (200, total * PRICE));
    }
    let empty = payer.pay(&shop, "/paid", payer.voucher(11 * PRICE)).await;
    assert_eq!((empty.status, empty.error()), (402, "cumulative_exceeds_balance"));
    let topped = payer.pay(&shop, "/paid", payer.deposit(DEPOSIT, 11 * PRICE, 2)).await;
    assert_eq!((topped.status, topped.total()), (200, 11 * PRICE), "{topped:?}");

    // A part goes back, once, however often it is asked; then the channel goes on.
    let wish = payer.refund(11 * PRICE, Some(4 * PRICE));
    let back = payer.insist(&shop, "/paid", &wish).await;
    assert_eq!((back.status, &back.body["channelId"]), (200, &json!(payer.id())), "{back:?}");
    assert_eq!(back.receipt.unwrap().amount.as_deref(), Some("40000"));
    let left = 1_000_000 - 2 * DEPOSIT + 4 * PRICE;
    assert_eq!(world.chain.usdc_of(payer.key.address()).await, left);
    let next = wait_for("the refund's end", async || {
        let answer = payer.pay(&shop, "/paid", payer.voucher(12 * PRICE)).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(next.total(), 12 * PRICE);
    claim(&world, start + 12 * PRICE).await;
    assert_eq!(world.chain.usdc_of(HUB).await, 4 * PRICE);

    // Money that bought nothing is not carried to and fro: its payer withdraws it.
    let idle = Payer::new(&world, &shop).await;
    assert_eq!(idle.pay(&shop, "/fail", idle.deposit(DEPOSIT, PRICE, 1)).await.status, 500);
    for (charged, error) in [(0, "refund_no_balance"), (PRICE, "cumulative_amount_mismatch")] {
        let answer = idle.pay(&shop, "/paid", idle.refund(charged, None)).await;
        assert_eq!((answer.status, answer.error()), (402, error), "{answer:?}");
        let why = answer.body["detail"].as_str().unwrap();
        assert!(charged > 0 || why.contains("initiateWithdraw"), "{why}");
    }
    assert_eq!(world.chain.usdc_of(HUB).await, DEPOSIT + 4 * PRICE);
    world.judge().await;
}

/// C10: what was made is kept before its answer leaves, and what was signed before it is made.
#[tokio::test]
async fn a_kill_between_two_steps_neither_serves_unpaid_nor_charges_twice() {
    let mut world = Plan::new()
        .config(|config| {
            config.channels.watch_s = 1;
            config.channels.claim_at = "0.08".parse().unwrap();
        })
        .without_daemon()
        .await;
    let shop = Shop::open(&mut world).await;
    let (start, mut calls) = (world.chain.usdc_of(world.card.wallet).await, 0);
    // Where it dies, how often the handler ran by then, and how often in all.
    for (place, by_then, in_all) in [
        ("settlement.committed", 0, 1),
        ("deposit.settled", 0, 1),
        ("voucher.committed", 0, 1),
        // What was made and not charged is made anew; what was charged is kept.
        ("charge.made", 1, 2),
        ("charge.committed", 1, 1),
    ] {
        world.restart_with(place).await;
        let payer = Payer::new(&world, &shop).await;
        let before = shop.made();
        let deposit = payer.deposit(DEPOSIT, PRICE, 1);
        let header = payer.header(&deposit);
        payer.loses(&shop, &deposit).await;
        world.died().await;
        assert_eq!(shop.made(), before + by_then, "{place}");
        world.restart().await;
        let answer = wait_for("an answer", async || {
            let answer = send(&shop, "/paid", &header).await;
            (answer.status != 503).then_some(answer)
        })
        .await;
        assert_eq!((answer.status, answer.total()), (200, PRICE), "{place}: {answer:?}");
        assert_eq!(shop.made(), before + in_all, "{place}");
        let again = send(&shop, "/paid", &header).await;
        assert_eq!((again.status, &again.body), (200, &answer.body), "{place}");
        let had = world.chain.usdc_of(payer.key.address()).await;
        assert_eq!(had, 1_000_000 - DEPOSIT, "{place}");
        calls += 1;
        world.kill();
    }
    // A claim is sent by whoever comes next, once: what five payers owe, and a sixth's third call.
    world.restart_with("claim.committed").await;
    let payer = Payer::funded(&world, &shop).await;
    let second = payer.pay(&shop, "/paid", payer.voucher(2 * PRICE)).await;
    assert_eq!(second.status, 200);
    assert_eq!(world.chain.usdc_of(world.card.wallet).await, start, "claimed early");
    let third = payer.voucher(3 * PRICE);
    let request = reqwest::Client::new().get(format!("{}/paid", shop.url));
    // It dies when this is durable, whether or not its answer has left by then.
    drop(request.header(x402::PAYMENT_SIGNATURE, payer.header(&third)).send().await);
    world.died().await;
    world.restart().await;
    let all = start + (calls + 3) * PRICE;
    wait_for("the claim's payout", async || {
        let has = world.chain.usdc_of(world.card.wallet).await;
        assert!(has <= all);
        (has == all).then_some(())
    })
    .await;
    let third = payer.insist(&shop, "/paid", &third).await;
    assert_eq!((third.status, third.total()), (200, 3 * PRICE));
    let next = payer.pay(&shop, "/paid", payer.voucher(4 * PRICE)).await;
    assert_eq!((next.status, next.total()), (200, 4 * PRICE));
    // A refund that is promised is made once, whoever dies over it.
    for place in ["refund.kept", "settlement.committed:2"] {
        world.kill();
        world.restart_with(place).await;
        let payer = Payer::funded(&world, &shop).await;
        let wish = payer.refund(PRICE, None);
        payer.loses(&shop, &wish).await;
        world.died().await;
        world.restart().await;
        // Until it is there the channel buys nothing.
        let early = payer.pay(&shop, "/paid", payer.voucher(2 * PRICE)).await;
        assert_eq!(early.status, 402, "{place}: {early:?}");
        let back = payer.insist(&shop, "/paid", &wish).await;
        assert_eq!(back.status, 200, "{place}: {back:?}");
        let again = payer.pay(&shop, "/paid", wish).await;
        assert_eq!((again.status, &again.body), (200, &back.body), "{place}: {again:?}");
        let had = world.chain.usdc_of(payer.key.address()).await;
        assert_eq!(had, 1_000_000 - PRICE, "{place}");
    }
    world.judge().await;
}

/// C11, and "N concurrent requests charge exactly N times"; C19's flood beside them.
#[tokio::test]
async fn a_hundred_requests_at_once_are_charged_as_they_are_served() {
    let mut world = Plan::new().without_daemon().await;
    let shop = Shop::open(&mut world).await;
    world.restart().await;
    let start = world.chain.usdc_of(world.card.wallet).await;
    let payer = Payer::funded_with(&world, &shop, 100 * PRICE).await;
    let sent = super::desk::Desk::of(&world).sent().await;
    let at_once = async |totals: &dyn Fn(u64) -> u64| {
        let all = (0..100).map(|n| {
            let (payer, shop, total) = (&payer, &shop, totals(n));
            async move { payer.pay(shop, &format!("/paid?{n}"), payer.voucher(total)).await }
        });
        futures_util::future::join_all(all).await
    };
    // So many were served, each for a total of its own, none left out.
    let count = |answers: &[Answer], before: u64| {
        let (served, refused): (Vec<_>, Vec<_>) =
            answers.iter().partition(|answer| answer.status == 200);
        assert!(refused.iter().all(|answer| answer.came_late()), "{refused:?}");
        let mut totals: Vec<u64> = served.iter().map(|answer| answer.total()).collect();
        totals.sort_unstable();
        let all = before + served.len() as u64;
        assert_eq!(totals, (before + 1..=all).map(|n| n * PRICE).collect::<Vec<_>>());
        assert_eq!(shop.made(), all, "nothing is made that is not charged");
        all
    };

    // A hundred requests with the one voucher that is due: it buys one of them.
    let calls = count(&at_once(&|_| 2 * PRICE).await, 1);
    assert_eq!(calls, 2);
    // A hundred with a voucher each: those that come in their order are served.
    let calls = count(&at_once(&|n| (calls + 1 + n % 90) * PRICE).await, calls);
    // Clients that ask again until they are served, each for one call: all are, each charged once.
    let clients = (0..8).map(|client| {
        let (payer, shop) = (&payer, &shop);
        async move {
            let mut total = (calls + 1) * PRICE;
            wait_for("a client's call", async || {
                let path = format!("/paid?client={client}");
                let answer = payer.pay(shop, &path, payer.voucher(total)).await;
                if answer.status == 200 {
                    return Some(answer);
                }
                assert!(answer.came_late(), "{answer:?}");
                // The refusal says what was charged.
                let offers = &answer.asked.unwrap().accepts;
                let offer = offers.iter().find(|offer| offer.scheme() == "batch-settlement");
                if let Some(state) = offer.unwrap().extra("channelState") {
                    let charged = state["chargedCumulativeAmount"].as_str().unwrap();
                    total = charged.parse::<u64>().unwrap() + PRICE;
                }
                None
            })
            .await
        }
    });
    // Meanwhile strangers sign: in this channel with a key of their own, and in channels that are none.
    let flood = (0..200_u64).map(|n| {
        let mut stranger = Payer { voucher_key: PrivateKeySigner::random(), ..payer.clone() };
        if n % 4 == 0 {
            stranger.config.salt = B256::left_padding_from(&(n + 1).to_be_bytes());
        }
        let shop = &shop;
        async move {
            let answer = stranger.pay(shop, "/paid", stranger.voucher(n * PRICE)).await;
            match answer.status {
                // The chain is asked for so many unknown channels at a time.
                503 => assert_eq!(n % 4, 0, "{answer:?}"),
                _ if n % 4 == 0 => assert_eq!(answer.error(), "channel_not_found"),
                _ => {
                    assert!(["voucher_signature", "channel_busy"].contains(&answer.error()));
                    let offers = answer.asked.unwrap().accepts;
                    let told = offers.iter().any(|offer| offer.extra("channelState").is_some());
                    assert!(!told, "strangers learn nothing of the channel");
                }
            }
        }
    });
    let (served, _) = tokio::join!(
        futures_util::future::join_all(clients),
        futures_util::future::join_all(flood)
    );
    let calls = count(&served, calls);
    // Nothing is kept of what strangers said, and nothing was sent for it.
    let tables = world.tables().await;
    let kept = sqlx::query_scalar::<_, String>("SELECT id FROM meter").fetch_all(&tables).await;
    assert_eq!(kept.unwrap(), [payer.id().to_string()]);
    tables.close().await;
    assert_eq!(super::desk::Desk::of(&world).sent().await, sent);
    claim(&world, start + calls * PRICE).await;
    assert_eq!(world.chain.usdc_of(HUB).await, (100 - calls) * PRICE);
    world.judge().await;
}

/// C4: claimed at once when the payer begins to leave; nothing more is taken.
#[tokio::test]
async fn a_payer_that_leaves_is_claimed_in_time() {
    let mut world = Plan::new().config(|config| config.channels.watch_s = 1).without_daemon().await;
    let shop = Shop::open(&mut world).await;
    world.restart().await;
    let start = world.chain.usdc_of(world.card.wallet).await;
    let payer = Payer::funded(&world, &shop).await;
    let answer = payer.pay(&shop, "/paid", payer.voucher(2 * PRICE)).await;
    assert_eq!(answer.status, 200);
    // Far from due by value and by age; the payer begins to take everything.
    let from = payer.key.address();
    payer.leave(&world).await;
    wait_for("the claim's payout", async || {
        (world.chain.usdc_of(world.card.wallet).await == start + 2 * PRICE).then_some(())
    })
    .await;
    let refused = payer.pay(&shop, "/paid", payer.voucher(3 * PRICE)).await;
    assert_eq!((refused.status, refused.error()), (402, "insufficient_balance"));
    let shown = world.operator(0).channels().await.unwrap();
    let channel = shown.paid_by.iter().find(|row| row.channel == payer.id()).unwrap();
    assert!(channel.leaves_at.is_some() && channel.lost.is_zero(), "{channel:?}");
    for (sample, value) in [
        ("bursar_vouchers_taken_total", 2),
        ("bursar_vouchers_refused_total{reason=", 1),
        ("bursar_voucher_calls_total", 2),
        ("bursar_voucher_units_total", 2 * PRICE),
        ("bursar_voucher_units_claimed_total", 2 * PRICE),
        ("bursar_voucher_units_lost_total", 0),
    ] {
        wait_for(sample, async || (world.metric(sample).await == value).then_some(())).await;
    }
    world.judge().await;
    // Nothing of what was charged is left for it when its time has come.
    payer.take(&world).await;
    assert_eq!(world.chain.usdc_of(from).await, 1_000_000 - 2 * PRICE);
    assert_eq!(world.chain.usdc_of(HUB).await, 0);
    assert_eq!(world.chain.usdc_of(world.card.wallet).await, start + 2 * PRICE);
}

/// Puts a hub without packed claims where the hub is, as x402's own is: it hands everything else on to
/// the hub's code, in its own storage.
async fn without_packed_claims(world: &World) {
    let code = world.chain.rpc("eth_getCode", json!([HUB, "latest"])).await;
    let behind = Address::repeat_byte(0x77);
    world.chain.rpc("anvil_setCode", json!([behind, code])).await;
    let refused = hex::encode(IChannelHub::claimPackedWithSignatureCall::SELECTOR);
    let front = format!(
        "0x5f3560e01c63{refused}14603a57365f5f375f5f365f73{}5af43d5f5f3e5f3d91603857fd5bf35b5f5ffd",
        hex::encode(behind)
    );
    world.chain.rpc("anvil_setCode", json!([HUB, front])).await;
}

#[tokio::test]
async fn a_hub_without_packed_claims_is_claimed_by_plain_rows() {
    let mut world = Plan::new().without_daemon().await;
    let shop = Shop::open(&mut world).await;
    without_packed_claims(&world).await;
    world.restart().await;
    let start = world.chain.usdc_of(world.card.wallet).await;
    let (one, two) = (Payer::funded(&world, &shop).await, Payer::funded(&world, &shop).await);
    assert_eq!(one.pay(&shop, "/paid", one.voucher(2 * PRICE)).await.status, 200);
    let claimed = world.operator(0).claim_channels().await.unwrap();
    let [hash] = claimed.transactions[..] else { panic!("{claimed:?}") };
    wait_for("the claim's payout", async || {
        (world.chain.usdc_of(world.card.wallet).await == start + 3 * PRICE).then_some(())
    })
    .await;
    let tx = world.chain.rpc("eth_getTransactionByHash", json!([hash])).await;
    let input: Bytes = tx["input"].as_str().unwrap().parse().unwrap();
    let calls = IChannelHub::multicallCall::abi_decode(&input).unwrap().data;
    let plain = IChannelHub::claimWithSignatureCall::abi_decode(&calls[0]).unwrap();
    assert_eq!((calls.len(), plain.voucherClaims.len()), (2, 2));
    assert_eq!(two.pay(&shop, "/paid", two.voucher(2 * PRICE)).await.status, 200);
    world.judge().await;
}

/// A payer that closes its connection at any moment loses nothing, gets nothing for nothing, and the
/// next request finds memory and store at one.
#[tokio::test]
async fn a_payer_that_hangs_up_leaves_the_channel_as_it_was_or_charged_once() {
    let mut world = Plan::new().without_daemon().await;
    let shop = Shop::open(&mut world).await;
    world.restart().await;
    let payer = Payer::funded(&world, &shop).await;
    for call in 2..=9 {
        for pause in [0, 1, 2, 3, 5, 8] {
            let paid = payer.pay(&shop, "/paid", payer.voucher(call * PRICE));
            let _ = timeout(Duration::from_millis(pause + call / 4), paid).await;
        }
        // Nothing of it, or all of it: the same voucher is due, or has its answer.
        let bought = wait_for("its turn", async || {
            let answer = payer.pay(&shop, "/paid", payer.voucher(call * PRICE)).await;
            if answer.status == 402 {
                assert_eq!(answer.error(), "channel_busy", "{answer:?}");
            }
            (answer.status == 200).then_some(answer)
        })
        .await;
        assert_eq!(bought.total(), call * PRICE);
    }
    let claimed = world.operator(0).claim_channels().await.unwrap();
    assert_eq!(claimed.transactions.len(), 1);
    world.judge().await;
    world.kill();
    world.restart().await;
    let again = payer.insist(&shop, "/paid", &payer.voucher(9 * PRICE)).await;
    assert_eq!((again.status, again.total()), (200, 9 * PRICE));
    world.judge().await;
}

/// The daemon is down for longer than a payer needs to leave: what is gone is gone, and is told.
#[tokio::test]
async fn what_a_payer_took_away_is_told_and_counted() {
    let mut world = Plan::new().config(|config| config.channels.watch_s = 1).without_daemon().await;
    let shop = Shop::open(&mut world).await;
    world.restart().await;
    let start = world.chain.usdc_of(world.card.wallet).await;
    let payer = Payer::funded(&world, &shop).await;
    assert_eq!(payer.pay(&shop, "/paid", payer.voucher(2 * PRICE)).await.status, 200);
    world.kill();
    payer.leave(&world).await;
    payer.take(&world).await;
    assert_eq!(world.chain.usdc_of(payer.key.address()).await, 1_000_000);
    world.restart().await;
    let lost = wait_for("the loss", async || {
        let shown = world.operator(0).channels().await.unwrap();
        let channel = shown.paid_by.into_iter().find(|row| row.channel == payer.id()).unwrap();
        (!channel.lost.is_zero()).then_some(channel)
    })
    .await;
    assert_eq!((lost.lost.units(), lost.owed.units()), (2 * PRICE, 0));
    wait_for("its count", async || {
        (world.metric("bursar_voucher_units_lost_total").await == 2 * PRICE).then_some(())
    })
    .await;
    let tables = world.tables().await;
    wait_for("the audit log", async || {
        let told = sqlx::query("SELECT data FROM audit_entry WHERE kind = 'channel.charge_lost'");
        let told = told.fetch_all(&tables).await.unwrap();
        assert!(told.len() <= 1);
        let story: Value = serde_json::from_str(told.first()?.get("data")).unwrap();
        assert_eq!(story["channel"], json!(payer.id()));
        Some(())
    })
    .await;
    tables.close().await;
    // Nothing of it can be claimed, and nothing more is bought.
    assert!(world.operator(0).claim_channels().await.unwrap().transactions.is_empty());
    assert_eq!(payer.pay(&shop, "/paid", payer.voucher(3 * PRICE)).await.status, 402);
    assert_eq!(world.chain.usdc_of(world.card.wallet).await, start);
    world.judge().await;
}

/// C10: one writer for each channel, whatever daemon is asked.
#[tokio::test]
async fn one_daemon_keeps_the_channels_and_the_next_takes_over_with_the_vouchers() {
    let mut world = Plan::new()
        .on(Backend::Postgres)
        .config(|config| config.submit.lease_s = 2)
        .without_daemon()
        .await;
    let shop = Shop::open(&mut world).await;
    world.restart().await;
    let start = world.chain.usdc_of(world.card.wallet).await;
    let payer = Payer::funded(&world, &shop).await;
    let beside = shop.beside();
    let twin = Twin::start_with(&world, "beside", beside.env(&world, "beside-prices.toml")).await;
    // The other one sells by the other ways, and says who keeps the channels.
    let offered = beside.get("/paid", &[]).await;
    let offered = offered.headers()[x402::PAYMENT_REQUIRED].to_str().unwrap();
    let offered: PaymentRequired = x402::decode(offered).unwrap();
    assert!(offered.accepts.iter().all(|offer| offer.scheme() == "exact"));
    let keeper = world.operator(0).status().await.unwrap().daemon;
    let second = payer.voucher(2 * PRICE);
    let refused = payer.pay(&beside, "/paid", second.clone()).await;
    assert_eq!(refused.status, 503);
    assert!(refused.body["detail"].as_str().unwrap().contains(&keeper), "{refused:?}");
    let bought = payer.pay(&shop, "/paid", second.clone()).await;
    assert_eq!((bought.status, bought.total(), shop.made()), (200, 2 * PRICE, 2));

    // The keeper is gone: the next one has the answer, knows the total, and claims.
    world.kill();
    let again = payer.insist(&beside, "/paid", &second).await;
    assert_eq!((again.status, &again.body, shop.made()), (200, &bought.body, 2), "{again:?}");
    let third = payer.insist(&beside, "/paid", &payer.voucher(3 * PRICE)).await;
    assert_eq!((third.status, third.total(), shop.made()), (200, 3 * PRICE, 3));
    let claimed = twin.operator(&world, 0).claim_channels().await.unwrap();
    assert_eq!(claimed.transactions.len(), 1);
    wait_for("the claim's payout", async || {
        (world.chain.usdc_of(world.card.wallet).await == start + 3 * PRICE).then_some(())
    })
    .await;
    world.judge().await;
}
