//! A seller that is paid through channels, whose every answer the test chooses.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use alloy::{
    primitives::{Address, B256, U256},
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol_types::SolCall as _,
};
use axum::{
    Router,
    extract::State,
    response::{IntoResponse as _, Response},
};
use bursar::{
    contract::hub::{
        ChannelConfig, Entry, HUB, Hub, IChannelHub, Voucher as HubVoucher, VoucherClaim,
    },
    x402::{
        self, PaymentPayload, Requirements, SettleResponse, Terms,
        batch::{ERROR_PREFIX, Payload, Vouched},
    },
};
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};

use crate::support::World;

/// What it does with a voucher that is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// Charges the price, delivers.
    Sell,
    /// Charges so much, delivers.
    Charge(u64),
    /// Charges the price, delivers, and says that this much more was charged in all.
    SayMore(u64),
    /// Charges, and the answer is lost.
    ChargeAndCut,
    /// Charges, and answers 500 without a receipt.
    ChargeAndFail,
    /// Charges nothing, and answers 500.
    Fail,
    /// Charges nothing, and asks again without a reason.
    Deny,
    /// Says that more was charged, under a signature that is not the payer's.
    Forge,
    /// Serves nothing, and shows its best voucher as what was charged in all.
    TakeAll,
}

/// Where a channel stands with it.
#[derive(Clone, Debug, Default)]
pub struct Count {
    pub charged: u64,
    /// The highest voucher, whatever it was charged.
    pub best: Option<Vouched>,
}

/// What it knows, and what it does next.
pub struct Book {
    pub then: Then,
    pub price: u64,
    pub channels: HashMap<B256, Count>,
    /// Vouchers as they came.
    pub seen: Vec<Vouched>,
    /// Who was said to pay, by the last of them.
    pub payer: Option<String>,
    pub sold: u64,
    /// So many vouchers are told that the channel is busy.
    pub busy: u32,
    /// So many asked without a voucher; they wait as long as it holds them.
    pub asked: usize,
    pub holds: bool,
}

pub struct Till {
    pub addr: SocketAddr,
    pub state: Arc<Mutex<Book>>,
    key: PrivateKeySigner,
    hub: Hub,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Shop {
    state: Arc<Mutex<Book>>,
    offer: Arc<Offer>,
}

struct Offer {
    chain_id: u64,
    usdc: Address,
    payee: Address,
    authorizer: Address,
    stranger: PrivateKeySigner,
    hub: Hub,
}

impl Till {
    /// It claims with one of the relayers' keys, which a devnet's wallet allows.
    pub async fn start(world: &World, payee: Address, price: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let key = world.daemon_keys().relayer(0).unwrap();
        let hub = Hub::new(world.card.chain_id, HUB);
        let state = Book {
            then: Then::Sell,
            price,
            channels: HashMap::new(),
            seen: Vec::new(),
            payer: None,
            sold: 0,
            busy: 0,
            asked: 0,
            holds: false,
        };
        let state = Arc::new(Mutex::new(state));
        let offer = Offer {
            chain_id: world.card.chain_id,
            usdc: world.card.usdc,
            payee,
            authorizer: key.address(),
            stranger: PrivateKeySigner::random(),
            hub,
        };
        let shop = Shop { state: Arc::clone(&state), offer: Arc::new(offer) };
        let router = Router::new().fallback(serve).with_state(shop);
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { addr, state, key, hub, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}/paid", self.addr)
    }

    pub fn does(&self, then: Then) {
        self.state.lock().unwrap().then = then;
    }

    pub fn asks(&self, price: u64) {
        self.state.lock().unwrap().price = price;
    }

    pub fn count(&self, channel: B256) -> Count {
        self.state.lock().unwrap().channels.get(&channel).cloned().unwrap_or_default()
    }

    pub fn seen(&self) -> Vec<Vouched> {
        self.state.lock().unwrap().seen.clone()
    }

    pub fn sold(&self) -> u64 {
        self.state.lock().unwrap().sold
    }

    /// Claims everything that the best voucher of a channel allows, and has it paid out.
    pub async fn claim_all(&self, world: &World, channel: B256) -> u64 {
        let best = self.count(channel).best.unwrap();
        let max = best.voucher.max_claimable_amount;
        let config: ChannelConfig = best.channel_config.into();
        let entry = Entry { channel_id: channel, max, total: max };
        let digest = self.hub.claim_batch_digest(&[entry]);
        let (receiver, token) = (config.receiver, config.token);
        let claim = IChannelHub::claimWithSignatureCall {
            voucherClaims: vec![VoucherClaim {
                voucher: HubVoucher { channel: config, maxClaimableAmount: max },
                signature: best.voucher.signature.clone(),
                totalClaimed: max,
            }],
            authorizerSignature: self.key.sign_hash_sync(&digest).unwrap().as_bytes().into(),
        };
        let from = world.card.deployer;
        world.chain.send_from(from, HUB, claim.abi_encode().into()).await;
        let settle = IChannelHub::settleCall { receiver, token };
        world.chain.send_from(from, HUB, settle.abi_encode().into()).await;
        u64::try_from(max).unwrap()
    }
}

impl Drop for Till {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Offer {
    fn requirements(&self, price: u64, more: Value) -> Requirements {
        let terms = Terms {
            chain_id: self.chain_id,
            amount: U256::from(price),
            asset: self.usdc,
            pay_to: self.payee,
            max_timeout_s: 60,
        };
        let mut extra = json!({
            "receiverAuthorizer": self.authorizer.to_string(), "withdrawDelay": 900,
            "name": "USDC", "version": "2",
        });
        extra.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Requirements::new("batch-settlement", &terms, extra.as_object().unwrap().clone()).unwrap()
    }

    fn asks(&self, price: u64, more: Value) -> Response {
        self.asks_for(price, more, "Payment required")
    }

    fn asks_for(&self, price: u64, more: Value, error: &str) -> Response {
        let offered = json!({
            "x402Version": 2, "error": error,
            "accepts": [self.requirements(price, more)],
            "resource": { "url": "http://127.0.0.1/paid" },
        });
        let header = [(x402::PAYMENT_REQUIRED, x402::encode(&offered).unwrap())];
        (StatusCode::PAYMENT_REQUIRED, header, "{}").into_response()
    }

    fn correction(&self, channel: B256, total: u64, (signed, signature): (u128, Value)) -> Value {
        json!({
            "channelState": {
                "channelId": channel, "balance": "0", "totalClaimed": "0",
                "withdrawRequestedAt": 0, "refundNonce": "0",
                "chargedCumulativeAmount": total.to_string(),
            },
            "voucherState": { "signedMaxClaimable": signed.to_string(), "signature": signature },
        })
    }
}

async fn serve(State(shop): State<Shop>, headers: HeaderMap) -> Response {
    let payment: Option<PaymentPayload> = headers
        .get(x402::PAYMENT_SIGNATURE)
        .map(|value| x402::decode(value.to_str().unwrap()).unwrap());
    if payment.is_none() {
        shop.state.lock().unwrap().asked += 1;
        while shop.state.lock().unwrap().holds {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    let mut state = shop.state.lock().unwrap();
    let (then, price) = (state.then, state.price);
    let Some(payment) = payment else { return shop.offer.asks(price, json!({})) };
    let Payload::Voucher(vouched) = Payload::read(&payment.payload).unwrap() else {
        panic!("only vouchers are sent")
    };
    state.seen.push(vouched.clone());
    state.payer = headers.get("payer-metadata").map(|value| value.to_str().unwrap().to_owned());
    let (id, max) = (vouched.voucher.channel_id, vouched.voucher.max_claimable_amount);
    assert_eq!(shop.offer.hub.channel_id(&vouched.channel_config.into()), id);
    let digest = shop.offer.hub.voucher_digest(id, max);
    let signature = alloy::primitives::Signature::from_raw(&vouched.voucher.signature).unwrap();
    let signer = signature.recover_address_from_prehash(&digest).unwrap();
    assert_eq!(signer, vouched.channel_config.payer_authorizer);

    if state.busy > 0 {
        state.busy -= 1;
        let error = format!("{ERROR_PREFIX}channel_busy");
        return shop.offer.asks_for(price, json!({}), &error);
    }
    if then == Then::Forge {
        let (total, signed) = (price + 5, u128::from(price) + 5);
        let digest = shop.offer.hub.voucher_digest(id, signed);
        let forged = shop.offer.stranger.sign_hash_sync(&digest).unwrap().as_bytes();
        let forged = json!(alloy::primitives::Bytes::from(forged));
        return shop.offer.asks(price, shop.offer.correction(id, total, (signed, forged)));
    }
    let count = state.channels.entry(id).or_default();
    if then == Then::TakeAll {
        let best = count.best.take().filter(|best| best.voucher.max_claimable_amount >= max);
        let best = count.best.insert(best.unwrap_or(vouched));
        let signed = best.voucher.max_claimable_amount;
        let proof = (signed, json!(best.voucher.signature));
        count.charged = u64::try_from(signed).unwrap();
        return shop.offer.asks(price, shop.offer.correction(id, count.charged, proof));
    }
    if max != u128::from(count.charged + price) {
        let best = count.best.as_ref().map(|best| {
            let signed = best.voucher.max_claimable_amount;
            (signed, json!(best.voucher.signature))
        });
        let more = best.map_or(json!({}), |proof| shop.offer.correction(id, count.charged, proof));
        return shop.offer.asks(price, more);
    }
    let is_best = count.best.as_ref().is_none_or(|best| best.voucher.max_claimable_amount < max);
    if is_best {
        count.best = Some(vouched);
    }
    let (charged, say) = match then {
        Then::Fail => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        Then::Deny => return shop.offer.asks(price, json!({})),
        Then::Charge(charged) => (charged, 0),
        Then::SayMore(say) => (price, say),
        Then::Sell | Then::ChargeAndCut | Then::ChargeAndFail | Then::Forge | Then::TakeAll => {
            (price, 0)
        }
    };
    count.charged += charged;
    let total = count.charged + say;
    state.sold += 1;
    let sold = state.sold;
    if then == Then::ChargeAndFail {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    if then == Then::ChargeAndCut {
        let broken = futures_util::stream::once(async {
            Err::<axum::body::Bytes, _>(std::io::Error::other("cut"))
        });
        return axum::body::Body::from_stream(broken).into_response();
    }
    let extra = json!({
        "chargedAmount": charged.to_string(),
        "channelState": { "chargedCumulativeAmount": total.to_string() },
    });
    let receipt = SettleResponse {
        success: true,
        network: payment.network().to_owned(),
        amount: Some(String::new()),
        extra: Some(extra.as_object().unwrap().clone()),
        ..SettleResponse::default()
    };
    let header = [(x402::PAYMENT_RESPONSE, x402::encode(&receipt).unwrap())];
    (StatusCode::OK, header, format!("sold {sold}")).into_response()
}
