//! The facilitator as sellers see it, and the payments that they bring.

use alloy::{
    primitives::{Address, B256, U256},
    providers::Provider as _,
    signers::{SignerSync as _, local::PrivateKeySigner},
};
use bursar::{
    contract::token::token_domain,
    x402::{
        FacilitatorRequest, PaymentPayload, PaymentRequired, Reason, Requirements, SettleResponse,
        Terms, VerifyResponse,
        exact::{Authorization, Payload},
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::support::{World, wait_for};

/// A facilitator of others, as sellers see it.
pub struct Desk<'a> {
    pub world: &'a World,
    pub http: reqwest::Client,
}

impl<'a> Desk<'a> {
    pub fn of(world: &'a World) -> Self {
        Self { world, http: reqwest::Client::new() }
    }

    pub fn url(&self) -> String {
        format!("{}/facilitator", self.world.card.api)
    }

    pub async fn ask<T: DeserializeOwned>(&self, verb: &str, body: &impl serde::Serialize) -> T {
        self.try_ask(verb, body).await.unwrap()
    }

    pub async fn try_ask<T: DeserializeOwned>(
        &self,
        verb: &str,
        body: &impl serde::Serialize,
    ) -> Result<T, reqwest::Error> {
        let request = self.http.post(format!("{}/{verb}", self.url())).json(body);
        request.send().await?.error_for_status()?.json().await
    }

    pub async fn verify(&self, request: &FacilitatorRequest) -> VerifyResponse {
        self.ask("verify", request).await
    }

    pub async fn settle(&self, request: &FacilitatorRequest) -> SettleResponse {
        self.ask("settle", request).await
    }

    /// Was told before: the same request hears so, with the transaction, and sends nothing.
    pub async fn told_before(&self, request: &FacilitatorRequest, settled: &SettleResponse) {
        let sent = self.sent().await;
        let again = self.settle(request).await;
        assert_eq!(again.error_reason, Some(Reason::DuplicateSettlement), "{again:?}");
        assert_eq!((again.success, &again.transaction), (false, &settled.transaction));
        let verified = self.verify(request).await;
        let used = match request.payment_payload.x402_version {
            1 => Reason::InvalidTransactionState,
            _ => Reason::NonceUsed,
        };
        assert_eq!(verified.invalid_reason, Some(used), "{verified:?}");
        assert_eq!(self.sent().await, sent);
    }

    /// Is refused by both, and nothing is sent.
    pub async fn refuses(&self, request: &Value, reason: &Reason, what: &str) {
        let before = self.sent().await;
        let verified: VerifyResponse = self.ask("verify", request).await;
        assert!(!verified.is_valid, "{what}");
        assert_eq!(verified.invalid_reason.as_ref(), Some(reason), "{what}: {verified:?}");
        let settled: SettleResponse = self.ask("settle", request).await;
        assert!(!settled.success, "{what}");
        assert_eq!(settled.error_reason.as_ref(), Some(reason), "{what}: {settled:?}");
        assert_eq!(self.sent().await, before, "{what}: something was sent");
    }

    /// Transactions of the relayers on chain.
    pub async fn sent(&self) -> u64 {
        let mut sum = 0;
        for relayer in &self.world.card.relayers {
            sum += self.world.chain.nonce(*relayer).await;
        }
        sum
    }
}

pub fn now_s() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_second()).unwrap()
}

pub fn offer(world: &World, payee: Address, units: u64) -> Requirements {
    let terms = Terms {
        chain_id: world.card.chain_id,
        amount: U256::from(units),
        asset: world.card.usdc,
        pay_to: payee,
        max_timeout_s: 60,
    };
    let extra = json!({ "name": "USDC", "version": "2", "mine": 1 });
    Requirements::new("exact", &terms, extra.as_object().unwrap().clone()).unwrap()
}

/// What pays an offer; what is signed can be edited before.
pub fn signed(
    payer: &PrivateKeySigner,
    from: Address,
    offer: &Requirements,
    edit: impl FnOnce(&mut Authorization),
) -> Payload {
    let terms = offer.terms().unwrap();
    let mut authorization = Authorization {
        from,
        to: terms.pay_to,
        value: terms.amount,
        valid_after: U256::ZERO,
        valid_before: U256::from(now_s() + 300),
        nonce: B256::new(rand::random()),
    };
    edit(&mut authorization);
    let digest = authorization.digest(&token_domain("USDC", "2", terms.chain_id, terms.asset));
    let signature = payer.sign_hash_sync(&digest).unwrap().as_bytes().into();
    Payload { signature, authorization }
}

pub fn fields(value: &impl serde::Serialize) -> Map<String, Value> {
    serde_json::to_value(value).unwrap().as_object().unwrap().clone()
}

/// The seller's request of version 2.
pub fn request(offer: &Requirements, payload: &impl serde::Serialize) -> FacilitatorRequest {
    let offered = PaymentRequired {
        x402_version: 2,
        error: None,
        resource: None,
        accepts: vec![offer.clone()],
        extensions: None,
    };
    FacilitatorRequest {
        x402_version: Some(2),
        payment_payload: PaymentPayload::v2(&offered, offer, fields(payload)),
        payment_requirements: offer.clone(),
    }
}

/// The same of version 1, on the one chain of ours that it has a name for.
pub fn request_v1(offer: &Requirements, payload: &Payload) -> FacilitatorRequest {
    let mut fields_v1 = fields(offer);
    let amount = fields_v1.remove("amount").unwrap();
    fields_v1.insert("maxAmountRequired".into(), amount);
    fields_v1.insert("network".into(), json!("base-sepolia"));
    let offer = Requirements::from_fields(fields_v1).unwrap();
    FacilitatorRequest {
        x402_version: Some(1),
        payment_payload: PaymentPayload::v1(&offer, fields(payload)),
        payment_requirements: offer,
    }
}

/// A payer with 1 USDC.
pub async fn payer(world: &World) -> PrivateKeySigner {
    let key = PrivateKeySigner::random();
    fund(world, key.address()).await;
    key
}

/// Gives an account 1 USDC, in a block that the daemon has seen if it runs.
pub async fn fund(world: &World, account: Address) {
    world.chain.give(account, 1_000_000).await;
    world.chain.mine().await;
    seen(world).await;
}

/// Waits until the daemon, if there is one to ask, has seen the newest block.
pub async fn seen(world: &World) {
    if reqwest::get(format!("{}/metrics", world.card.api)).await.is_err() {
        return;
    }
    let height = world.chain.node.get_block_number().await.unwrap();
    wait_for("the daemon's look at the newest block", async || {
        (world.metric("bursar_head").await >= height).then_some(())
    })
    .await;
}

/// Waits until the wallet's tables say so of every settlement.
pub async fn all_are(world: &World, state: &str) {
    let pool = world.tables().await;
    wait_for(&format!("settlements that are {state}"), async || {
        let left = sqlx::query("SELECT id FROM settlement WHERE state <> $1")
            .bind(state)
            .fetch_all(&pool)
            .await
            .unwrap();
        left.is_empty().then_some(())
    })
    .await;
    pool.close().await;
}
