//! One request, from the offer to the answer.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    response::Response,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::request::Parts;
use tokio::sync::OwnedSemaphorePermit;
use tower::{Service, ServiceExt as _};
use tracing::warn;

use super::{
    Sale, SaleState, Shop, Way,
    answer::{self, Stored},
    ask::{self, Ask},
    call::Call,
    keep::{self, Settling},
    presented::{self, Presented, Shown, Unfit},
    shelf::{self, Place},
};
use crate::{
    crash::{self, Point},
    engine::EngineError,
    mpp::{Problem, ProblemType},
    payment::FundsMoved,
    refusal::{Code, Refusal},
    store::SaleRow,
    x402::Reason,
};

/// Headers that say who paid; nobody else may.
pub(super) const SALE: &str = "bursar-sale";
pub(super) const PAYER: &str = "bursar-payer";

/// Longest path and query that is sold.
const TARGET: usize = 2_048;
/// Seconds beside the handler's that somebody may work on a sale before others look after it.
const SPARE_S: u64 = 30;

/// Answers a request.
pub(super) async fn sell<S>(shop: Arc<Shop>, mut request: Request, handler: S) -> Response
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    answer::strip_like(request.headers_mut(), &[SALE, PAYER]);
    let uri = request.uri().clone();
    let target = uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let Some(path) = shelf::plain(uri.path()) else {
        let why =
            "the path can be read in more than one way: write it without `//`, `.`, `..`, `%2F`";
        return answer::refuse(Refusal::new(Code::InvalidRequest, why), uri.path());
    };
    let method = request.method().as_str().to_owned();
    let route = match shop.shelf.find(&method, &path) {
        Place::Sold(route) => route,
        Place::Free => return free(handler, request).await,
        Place::Head => return answer::head_only(free(handler, request).await),
        Place::Otherwise(methods) => return answer::otherwise(&methods, &method, uri.path()),
        Place::Nothing => {
            let refusal =
                Refusal::new(Code::NotFound, "nothing is sold under this method and path");
            return answer::refuse(refusal, uri.path());
        }
    };
    if target.len() > TARGET {
        let why = format!("path and query have {} characters; {TARGET} are sold", target.len());
        return answer::refuse(Refusal::new(Code::InvalidRequest, why), uri.path());
    }
    let (parts, body) = request.into_parts();
    // Without a payment, nothing is kept of the body, and only MPP asks for its digest.
    let read = async {
        if presented::shows(&parts.headers) {
            let place = shop.bodies.place(&body)?;
            let body = shop.bodies.read(body).await?;
            Ok((ask::digest(&body), body, place))
        } else if route.offers.contains(&Way::Mpp) {
            Ok((shop.bodies.digest(body).await?, Bytes::new(), None))
        } else {
            Ok((None, Bytes::new(), None))
        }
    };
    let (digest, body, place) = match read.await {
        Ok(read) => read,
        Err(refusal) => return answer::refuse(refusal, uri.path()),
    };
    let ask = match Ask::new(&shop, route, (&method, &target), digest) {
        Ok(ask) => ask,
        Err(error) => {
            warn!(%error, "a route cannot be sold");
            let why = "its payee is not registered any more: the route is not sold";
            return answer::refuse(Refusal::new(Code::Unavailable, why), uri.path());
        }
    };
    let shown = match presented::read(&shop, &ask, &parts.headers) {
        Ok(Some(shown)) => shown,
        Ok(None) => return shop.required(&ask, "Payment required", None),
        Err(unfit) => return decline(&shop, &ask, unfit),
    };
    let Ok(permit) = Arc::clone(&shop.room).try_acquire_owned() else {
        let refusal = Refusal::new(Code::Overloaded, "too many paid requests at once");
        return answer::fault(refusal.retry_after(1), &ask.target);
    };
    drop(place);
    let target = ask.target.clone();
    // A buyer that hangs up must not leave a sale half way.
    let sold = match shown {
        Shown::Once(presented) => {
            let order = Order { shop, ask, presented: *presented, _permit: permit };
            tokio::spawn(async move { order.fulfil(parts, body, handler).await })
        }
        Shown::Channel(shown) => {
            let call = Call::new(shop, ask, *shown, permit);
            tokio::spawn(async move { Ok(call.answer(parts, body, handler).await) })
        }
    };
    match sold.await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            warn!(%error, "a sale could not go on");
            let mut refusal = Refusal::from(&error);
            refusal.funds_moved = FundsMoved::Maybe;
            answer::fault(refusal, &target)
        }
        Err(error) => {
            warn!(%error, "a sale ended in a fault");
            let mut refusal = Refusal::new(Code::Internal, "a fault of the seller");
            refusal.funds_moved = FundsMoved::Maybe;
            answer::fault(refusal, &target)
        }
    }
}

/// Serves what costs nothing.
async fn free<S>(handler: S, mut request: Request) -> Response
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    presented::strip(request.headers_mut());
    run(handler, request).await
}

async fn run<S>(handler: S, request: Request) -> Response
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    let Ok(response) = handler.oneshot(request).await;
    response
}

/// Answers a payment that is not looked at.
fn decline(shop: &Shop, ask: &Ask, unfit: Unfit) -> Response {
    match unfit {
        Unfit::Malformed(why) => {
            answer::refuse(Refusal::new(Code::InvalidPayment, why), &ask.target)
        }
        Unfit::NoOffer(why) => shop.required(ask, why, None),
        Unfit::Mpp(problem) if problem.status == 402 => {
            shop.required(ask, "Payment required", Some(problem))
        }
        Unfit::Mpp(problem) => {
            let why = problem.detail.unwrap_or(problem.title);
            answer::refuse(Refusal::new(Code::InvalidPayment, why), &ask.target)
        }
    }
}

/// A handler's answer.
pub(super) enum Made {
    /// Whole, within the bound.
    Whole(Response<Bytes>),
    /// Longer: what came so far, and the rest.
    Long(Response<()>, Bytes, Body),
    /// None in time, or it broke off.
    None(Refusal),
}

/// A request with a payment.
struct Order {
    shop: Arc<Shop>,
    ask: Ask,
    presented: Presented,
    _permit: OwnedSemaphorePermit,
}

impl Order {
    fn now_ms(&self) -> i64 {
        self.shop.inner.clock.now_ms()
    }

    fn refuse(&self, code: Code, why: &str) -> Response {
        answer::refuse(Refusal::new(code, why), &self.ask.target)
    }

    fn busy(&self) -> Response {
        let mut refusal =
            Refusal::new(Code::Unavailable, "somebody works on this payment").retry_after(1);
        refusal.funds_moved = FundsMoved::Maybe;
        answer::fault(refusal, &self.ask.target)
    }

    async fn fulfil<S>(self, parts: Parts, body: Bytes, handler: S) -> Result<Response, EngineError>
    where
        S: Service<Request, Response = Response, Error = Infallible>,
    {
        let inner = Arc::clone(&self.shop.inner);
        let limits = self.shop.list().limits;
        let wait = Duration::from_secs(limits.handler_s + SPARE_S);
        let Some(_turn) = inner.sales.turn(&self.presented.payment, wait).await else {
            return Ok(self.busy());
        };
        if let Some(sale) = inner.store.sale_of(&self.presented.payment).await?
            && sale.state != SaleState::Void
        {
            return self.again(sale).await;
        }
        let named = match &self.presented.identifier {
            Some(name) => inner.store.sale_named(name).await?,
            None => None,
        };
        if self.presented.is_late(self.now_ms()) {
            let problem = Problem::new(ProblemType::PaymentExpired, "the challenge has ended");
            return Ok(self.shop.required(&self.ask, "Payment required", Some(problem)));
        }
        let request = &self.presented.request;
        let (verdict, code) = tokio::join!(
            self.shop.facilitator.verify(request),
            inner.rpc.code(self.presented.payer)
        );
        if !verdict.is_valid {
            return Ok(self.unverified(verdict.invalid_reason, verdict.invalid_message));
        }
        if let Some(sale) = named {
            // Another signature for a purchase that was made: answered, not settled.
            return self.named(sale).await;
        }
        let sale = self.row();
        let mut store = inner.store.begin().await?;
        if !store.open_sale(&sale).await? {
            return Ok(self.busy());
        }
        store.commit().await?;
        crash::at(Point::SaleOpened);

        let mut request = Request::from_parts(parts, Body::from(body));
        self.hand_over(&mut request, &sale, !code?.is_empty());
        let made = make(request, handler, limits.handler_s, limits.response_bytes).await;
        let (head, begun, rest) = match made {
            Made::None(refusal) => {
                self.end(&sale, SaleState::Void).await?;
                return Ok(answer::refuse(refusal, &self.ask.target));
            }
            Made::Whole(response) => {
                let (mut head, body) = response.into_parts();
                answer::clean(&mut head.headers);
                if head.status.as_u16() >= 400 {
                    self.end(&sale, SaleState::Void).await?;
                    return Ok(Response::from_parts(head, Body::from(body)));
                }
                (head, body, None)
            }
            Made::Long(response, begun, rest) => {
                let (mut head, ()) = response.into_parts();
                answer::clean(&mut head.headers);
                if head.status.as_u16() >= 400 {
                    self.end(&sale, SaleState::Void).await?;
                    return Ok(Response::from_parts(head, joined(begun, rest)));
                }
                (head, begun, Some(rest))
            }
        };
        let kept = Stored::new(&head, rest.is_none().then_some(&begun));
        let now_ms = self.now_ms();
        let mut store = inner.store.begin().await?;
        if !store.serve_sale(&sale.payment, &kept, (keep::due(now_ms), now_ms)).await? {
            return Ok(self.closed());
        }
        store.commit().await?;
        crash::at(Point::SaleServed);

        let body = match rest {
            None => Body::from(begun),
            Some(rest) => joined(begun, rest),
        };
        self.settle(sale, Some(Response::from_parts(head, body))).await
    }

    /// Settles what was served, and answers with `response`, or with what is kept.
    async fn settle(
        &self,
        sale: SaleRow,
        response: Option<Response>,
    ) -> Result<Response, EngineError> {
        let target = &self.ask.target;
        match keep::settle(&self.shop.inner, &self.shop.facilitator, &sale).await? {
            Settling::Settled(hash) => {
                let sale = SaleRow { tx_hash: Some(hash), ..sale };
                Ok(self.delivered(&sale, response))
            }
            Settling::Pending(settled) => {
                Ok(answer::pending(self.presented.protocol, &settled, target))
            }
            Settling::Failed(settled, refusal) => {
                Ok(answer::failed(&self.presented, &settled, &refusal, target))
            }
        }
    }

    /// The answer of a sale whose money moved.
    fn delivered(&self, sale: &SaleRow, response: Option<Response>) -> Response {
        let kept = || sale.response.as_ref().and_then(Stored::response);
        let Some(mut response) = response.or_else(kept) else {
            let mut refusal = Refusal::new(
                Code::Gone,
                "it was paid and answered; the answer was too long to be kept, or is too old",
            );
            refusal.funds_moved = FundsMoved::Yes;
            let mut response = answer::refuse(refusal, &self.ask.target);
            if let Some(hash) = sale.tx_hash {
                let headers = response.headers_mut();
                answer::receipt(&self.shop, &self.presented, (sale, hash), headers);
            }
            return response;
        };
        if let Some(hash) = sale.tx_hash {
            let headers = response.headers_mut();
            answer::receipt(&self.shop, &self.presented, (sale, hash), headers);
        }
        response
    }

    /// The same payment again.
    async fn again(&self, sale: SaleRow) -> Result<Response, EngineError> {
        if !self.presented.is(&sale.request.payment_payload.payload) {
            let why = "this nonce was used for another payment";
            return Ok(self.refuse(Code::Conflict, why));
        }
        // What a chain shows of a payment, others can show again.
        let is_theirs = match sale.proof {
            Some(_) => sale.proof == self.presented.proof,
            None => self.shop.inner.now_s() < sale.valid_before_s,
        };
        if !is_theirs {
            let why = "this payment was used; its answer is for who made it";
            return Ok(self.refuse(Code::Conflict, why));
        }
        self.resume(sale).await
    }

    /// Another payment, verified, for a purchase of the same name by the same payer.
    async fn named(&self, sale: SaleRow) -> Result<Response, EngineError> {
        let wait = Duration::from_secs(self.shop.list().limits.handler_s + SPARE_S);
        let inner = &self.shop.inner;
        let Some(_turn) = inner.sales.turn(&sale.payment, wait).await else {
            return Ok(self.busy());
        };
        match inner.store.sale_of(&sale.payment).await? {
            Some(sale) => self.resume(sale).await,
            None => Ok(self.busy()),
        }
    }

    /// Takes up a sale where it stands.
    async fn resume(&self, sale: SaleRow) -> Result<Response, EngineError> {
        if sale.fingerprint != self.ask.fingerprint() {
            let why = "this payment, or its payment-identifier, is for another request";
            return Ok(self.refuse(Code::IdempotencyKeyReused, why));
        }
        match sale.state {
            SaleState::Open | SaleState::Void => Ok(self.busy()),
            SaleState::Served => self.settle(sale, None).await,
            SaleState::Settled | SaleState::Final => Ok(self.delivered(&sale, None)),
            SaleState::Closed => Ok(self.closed()),
            SaleState::Failed => {
                let refusal = sale.refusal.clone().unwrap_or_else(keep::unsettled);
                let settled = keep::told(&sale, &refusal);
                let target = &self.ask.target;
                Ok(answer::failed(&self.presented, &settled, &refusal, target))
            }
        }
    }

    fn closed(&self) -> Response {
        let refusal = Refusal::new(
            Code::Conflict,
            "the sale was cut off before there was an answer; it was not charged, and will not be",
        );
        let refusal = refusal.hint("pay for a new request once this payment has expired");
        answer::refuse(refusal, &self.ask.target)
    }

    fn unverified(&self, reason: Option<Reason>, message: Option<String>) -> Response {
        let reason = reason.unwrap_or(Reason::UnexpectedVerifyError);
        let why = message.unwrap_or_else(|| reason.to_string());
        match reason {
            Reason::UnexpectedVerifyError => {
                let refusal = Refusal::new(Code::Unavailable, why).retry_after(2);
                answer::fault(refusal, &self.ask.target)
            }
            // It was settled once, for this or for something else: no reason to pay again.
            Reason::NonceUsed => {
                let mut refusal = Refusal::new(Code::Conflict, why);
                refusal.funds_moved = FundsMoved::Maybe;
                answer::refuse(refusal, &self.ask.target)
            }
            reason => {
                let kind = match reason {
                    Reason::ValidBefore => ProblemType::PaymentExpired,
                    _ => ProblemType::VerificationFailed,
                };
                let problem = Problem::new(kind, why);
                self.shop.required(&self.ask, reason.as_str(), Some(problem))
            }
        }
    }

    fn row(&self) -> SaleRow {
        let (ask, presented, now_ms) = (&self.ask, &self.presented, self.now_ms());
        let busy_s = self.shop.list().limits.handler_s + SPARE_S;
        SaleRow {
            id: format!("sal_{}", uuid::Uuid::now_v7().simple()),
            payment: presented.payment.clone(),
            identifier: presented.identifier.clone(),
            proof: presented.proof,
            fingerprint: ask.fingerprint(),
            route: ask.route.path.clone(),
            method: ask.method.clone(),
            target: ask.target.clone(),
            protocol: presented.protocol,
            payer: presented.payer,
            pay_to: ask.pay_to,
            amount: ask.route.price,
            request: presented.request.clone(),
            state: SaleState::Open,
            response: None,
            refusal: None,
            tx_hash: None,
            valid_before_s: presented.valid_before_s,
            due_ms: now_ms.saturating_add(i64::try_from(busy_s * 1_000).unwrap_or(i64::MAX)),
            created_ms: now_ms,
            updated_ms: now_ms,
        }
    }

    async fn end(&self, sale: &SaleRow, state: SaleState) -> Result<(), EngineError> {
        let mut store = self.shop.inner.store.begin().await?;
        let now_ms = self.now_ms();
        store.end_sale(&sale.payment, (SaleState::Open, state), None, now_ms).await?;
        store.commit().await?;
        Ok(())
    }

    /// Tells the handler who paid, and takes the payment off the request.
    fn hand_over(&self, request: &mut Request, row: &SaleRow, payer_is_contract: bool) {
        presented::strip(request.headers_mut());
        let chain = &self.shop.inner.config.chain;
        let sale = Sale {
            id: row.id.clone(),
            protocol: row.protocol,
            payer: row.payer,
            payer_is_contract,
            chain_id: chain.chain_id,
            asset: chain.usdc,
            amount: row.amount,
        };
        request.extensions_mut().insert(sale);
    }
}

/// Runs the handler and reads its answer up to a bound.
pub(super) async fn make<S>(request: Request, handler: S, limit_s: u64, most: usize) -> Made
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    let whole = async {
        let (head, body) = run(handler, request).await.into_parts();
        let mut stream = body.into_data_stream();
        let mut begun = Vec::new();
        while let Some(piece) = stream.next().await {
            let Ok(piece) = piece else {
                return Made::None(Refusal::new(Code::BadGateway, "the answer broke off"));
            };
            begun.extend_from_slice(&piece);
            if begun.len() > most {
                let rest = Body::from_stream(stream);
                return Made::Long(Response::from_parts(head, ()), begun.into(), rest);
            }
        }
        Made::Whole(Response::from_parts(head, begun.into()))
    };
    match tokio::time::timeout(Duration::from_secs(limit_s), whole).await {
        Ok(made) => made,
        Err(_) => {
            let why = format!("there was no answer within {limit_s} seconds; nothing was charged");
            Made::None(Refusal::new(Code::GatewayTimeout, why))
        }
    }
}

pub(super) fn joined(begun: Bytes, rest: Body) -> Body {
    let first = stream::once(async move { Ok::<_, axum::Error>(begun) });
    Body::from_stream(first.chain(rest.into_data_stream().into_stream()))
}
