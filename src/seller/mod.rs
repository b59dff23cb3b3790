//! Selling over HTTP: a layer that charges for routes, and the reverse proxy made of it.
//!
//! A request without payment gets a 402 that says what it costs, in every protocol at once: x402
//! version 2 in a header, version 1 in the body, MPP in `WWW-Authenticate`. A request with a payment
//! goes
//!
//! ```text
//! verify ─▶ [open] ─▶ handler ─▶ [served, with its answer] ─▶ settle ─▶ [settled] ─▶ at depth [final]
//!    402               ≥ 400: [void]                           no: [failed], the answer is withheld
//! ```
//!
//! with a commit at each word in brackets. One payment is one sale, whoever repeats it, also at once:
//! its handler succeeds once, it is settled once, and who shows it again gets the answer that is kept.
//! After a kill, open sales are closed (nothing was settled) and served ones are settled. After anything
//! may have been sent to the chain, no answer asks for a payment again.

mod answer;
mod ask;
mod bodies;
mod call;
mod keep;
mod listen;
mod offer;
mod presented;
mod prices;
mod proxy;
mod sell;
mod shelf;

use std::{
    collections::HashMap,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use alloy::{
    primitives::{Address, B256},
    sol_types::SolCall as _,
};
use axum::{body::Body, extract::Request, response::Response};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::json;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, Semaphore};
use tower::{Layer, Service};

pub use self::{
    answer::Stored,
    prices::{Limits, PriceError, PriceList, Route, Unlisted, Way},
    proxy::{Proxy, ProxyError},
};
use self::{bodies::Bodies, shelf::Shelf};
pub(crate) use self::{keep::run, listen::serve};
use crate::{
    audit::{Draft, EventKind},
    contract::token::IEip3009,
    engine::{EngineError, Inner},
    facilitator::Facilitator,
    money::Usdc,
    mpp::ChallengeSecret,
    refusal::Refusal,
    rpc::At,
    store::{StoreError, Tx},
};

/// How a sale was paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// x402, version 2.
    X402V2,
    /// x402, version 1.
    X402V1,
    /// MPP, `evm/charge`.
    Mpp,
}

impl Protocol {
    const ALL: [Self; 3] = [Self::X402V2, Self::X402V1, Self::Mpp];

    /// Returns the stored name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X402V2 => "x402-v2",
            Self::X402V1 => "x402-v1",
            Self::Mpp => "mpp",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == name)
    }
}

impl Serialize for Protocol {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

/// Where a sale stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SaleState {
    /// Verified; its handler runs.
    Open,
    /// The answer is kept; it is being settled.
    Served,
    /// The money moved, in a block that is not final.
    Settled,
    /// The money moved, for good.
    Final,
    /// The handler failed: nothing was settled; the same payment may be tried again.
    Void,
    /// Cut off before the answer: nothing was settled, and nothing will be.
    Closed,
    /// Not settled, for good; the answer was withheld.
    Failed,
}

impl SaleState {
    const ALL: [Self; 7] = [
        Self::Open,
        Self::Served,
        Self::Settled,
        Self::Final,
        Self::Void,
        Self::Closed,
        Self::Failed,
    ];

    /// Returns the stored name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Served => "served",
            Self::Settled => "settled",
            Self::Final => "final",
            Self::Void => "void",
            Self::Closed => "closed",
            Self::Failed => "failed",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str() == name)
    }
}

impl Serialize for SaleState {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

/// What a handler finds in its request's extensions: who paid, how much. A proxy passes it on as headers
/// `Bursar-Sale` and `Bursar-Payer`.
#[derive(Clone, Debug)]
pub struct Sale {
    /// The sale's id.
    pub id: String,
    /// How it is paid.
    pub protocol: Protocol,
    /// Whose money. Verified.
    pub payer: Address,
    /// Does code stand at the payer's address?
    pub payer_is_contract: bool,
    /// The chain.
    pub chain_id: u64,
    /// The token.
    pub asset: Address,
    /// How much it costs.
    pub amount: Usdc,
}

impl Sale {
    /// Writes who pays as a structured field: `account="0x…", chain-id=…, asset="0x…", wallet-type="eoa"`.
    #[must_use]
    pub fn payer_field(&self) -> String {
        let kind = if self.payer_is_contract { "contract" } else { "eoa" };
        format!(
            "account=\"{}\", chain-id={}, asset=\"{}\", wallet-type=\"{kind}\"",
            self.payer, self.chain_id, self.asset
        )
    }
}

/// Sales that somebody works on in this process, so that one payment is worked on once.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    turns: Mutex<HashMap<String, Arc<AsyncMutex<()>>>>,
}

/// The right to work on one payment. Dropping it lets the next one in.
pub(crate) struct Turn<'a> {
    desk: &'a Desk,
    payment: String,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Desk {
    fn lock_of(&self, payment: &str) -> Arc<AsyncMutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(turns.entry(payment.to_owned()).or_default())
    }

    /// Waits for the turn on a payment; `None` if it is not free in time.
    pub(crate) async fn turn(&self, payment: &str, wait: Duration) -> Option<Turn<'_>> {
        let lock = self.lock_of(payment);
        let mut turn = Turn { desk: self, payment: payment.to_owned(), guard: None };
        turn.guard = Some(tokio::time::timeout(wait, lock.lock_owned()).await.ok()?);
        Some(turn)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.guard = None;
        let mut turns = self.desk.turns.lock().unwrap_or_else(PoisonError::into_inner);
        // Who waits holds the lock's other end.
        if turns.get(&self.payment).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            turns.remove(&self.payment);
        }
    }
}

/// Charges for routes: a [`tower::Layer`] for axum and any other service of HTTP. Cheap to clone.
#[derive(Clone)]
pub struct Paywall(Arc<Shop>);

/// What all requests share.
struct Shop {
    inner: Arc<Inner>,
    facilitator: Facilitator,
    shelf: Shelf,
    secret: ChallengeSecret,
    /// The token's name and version, for the offers.
    token: (String, String),
    /// The host of the list's origin.
    realm: String,
    room: Arc<Semaphore>,
    /// Bodies of requests that show a payment.
    bodies: Bodies,
}

impl Paywall {
    /// Makes one of a price list.
    ///
    /// # Errors
    /// [`PaywallError`].
    pub(crate) async fn new(inner: Arc<Inner>, list: PriceList) -> Result<Self, PaywallError> {
        list.check()?;
        let usdc = inner.config.chain.usdc;
        let ask =
            async |call: Vec<u8>| inner.rpc.eth_call(usdc, None, &call.into(), At::Latest).await;
        let name = ask(IEip3009::nameCall {}.abi_encode()).await.map_err(EngineError::from)?;
        let version =
            ask(IEip3009::versionCall {}.abi_encode()).await.map_err(EngineError::from)?;
        let read = |error| PaywallError::Engine(EngineError::Contract(error));
        let token = (
            IEip3009::nameCall::abi_decode_returns(&name).map_err(read)?,
            IEip3009::versionCall::abi_decode_returns(&version).map_err(read)?,
        );
        let realm = list.public_origin.split("//").nth(1).unwrap_or_default().to_owned();
        let secret = ChallengeSecret::new(inner.keys.challenge_secret())
            .ok_or_else(|| EngineError::Encode("a secret that is too short".into()))?;
        let shop = Shop {
            facilitator: Facilitator::new(Arc::clone(&inner)),
            secret,
            token,
            realm,
            room: Arc::new(Semaphore::new(list.limits.concurrency)),
            bodies: Bodies::new(&list.limits),
            shelf: Shelf::new(list),
            inner,
        };
        for route in &shop.list().routes {
            shop.pay_to(route)?;
        }
        Ok(Self(Arc::new(shop)))
    }

    /// Returns the price list.
    #[must_use]
    pub fn list(&self) -> &PriceList {
        self.0.list()
    }
}

impl Shop {
    const fn list(&self) -> &PriceList {
        self.shelf.list()
    }

    /// Returns who is paid for a route: the wallet, or a payee that the contract knows now.
    fn pay_to(&self, route: &Route) -> Result<Address, PriceError> {
        let name = route.pay_to.as_ref().unwrap_or(&self.list().pay_to);
        if name == "wallet" {
            return Ok(self.inner.config.chain.wallet);
        }
        let book = self.inner.book();
        let known = book
            .resolve(name)
            .filter(|payee| *payee == self.inner.config.chain.wallet || book.is_registered(*payee));
        known.ok_or_else(|| PriceError::Payee(name.clone()))
    }
}

/// Why there is no paywall.
#[derive(Debug, thiserror::Error)]
pub enum PaywallError {
    /// The price list.
    #[error(transparent)]
    Prices(#[from] PriceError),
    /// The chain, or a key.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl<S> Layer<S> for Paywall {
    type Service = Gate<S>;

    fn layer(&self, handler: S) -> Gate<S> {
        Gate { shop: Arc::clone(&self.0), handler }
    }
}

/// A service behind a [`Paywall`].
#[derive(Clone)]
pub struct Gate<S> {
    shop: Arc<Shop>,
    handler: S,
}

impl<S> Service<Request> for Gate<S>
where
    S: Service<Request, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The handler is asked whether it is ready when it is its turn.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let (shop, handler) = (Arc::clone(&self.shop), self.handler.clone());
        Box::pin(async move { Ok(sell::sell(shop, request, handler).await) })
    }
}

/// Notes how a settlement ended, if it was a sale's, in the commit that ends it: state, ledger, audit log.
pub(crate) async fn ended(
    inner: &Inner,
    store: &mut Tx,
    (payment, settled): (&str, Result<B256, &'static str>),
    now_ms: i64,
    drafts: &mut Vec<Draft>,
) -> Result<(), StoreError> {
    match settled {
        Ok(hash) => {
            let wallet = inner.config.chain.wallet;
            if let Some(sale) = store.book_sale(payment, hash, wallet, now_ms).await? {
                drafts.push(Draft::new(EventKind::SaleFinalized, "chain").data(json!({
                    "sale": sale.id, "route": sale.route, "payer": sale.payer,
                    "pay_to": sale.pay_to, "amount": sale.amount, "hash": hash,
                })));
            }
        }
        Err(why) => {
            let refusal = Refusal {
                detail: format!("invalid_transaction_state: {why}"),
                ..keep::unsettled()
            };
            for from in [SaleState::Served, SaleState::Settled] {
                store.end_sale(payment, (from, SaleState::Failed), Some(&refusal), now_ms).await?;
            }
        }
    }
    Ok(())
}

/// What a challenge of MPP was for.
#[derive(Serialize, Deserialize)]
struct Notes {
    method: String,
    target: String,
    /// Every challenge is another: two payments of equal terms in one second are two.
    once: String,
}
