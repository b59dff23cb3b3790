//! A request paid out of a channel: one voucher, two commits, and nothing asked of the chain.
//!
//! ```text
//! deposit? ─▶ voucher ─▶ [voucher] ─▶ handler ─▶ [charge, with its answer] ─▶ answer
//!               402                    ≥ 400: nothing is charged
//! ```
//!
//! What is in brackets is a commit, shared with whoever comes along. The same request with the same
//! voucher finds the stored answer; a kill between the two leaves the voucher uncharged, and the same
//! request makes its answer again, under the same `Bursar-Sale`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use alloy::{
    hex,
    primitives::{B256, Bytes as Packed, U256, keccak256},
    signers::SignerSync as _,
};
use axum::{
    body::{Body, Bytes},
    extract::Request,
    response::Response,
};
use http::{HeaderMap, HeaderValue, header, request::Parts};
use serde_json::{Map, json};
use tokio::{sync::OwnedSemaphorePermit, time::Instant};
use tower::Service;

use super::{
    Protocol, Sale, Shop,
    answer::{self, Stored},
    ask::Ask,
    presented::{self, Channelled},
    sell::{self, Made},
};
use crate::{
    audit::{Draft, EventKind},
    channel::{
        claim,
        meter::{Delivered, MeterRow},
        payee::{Charge, KEPT, Meters},
        scheme::{self, Not, Shown, Step},
    },
    crash::{self, Point},
    engine::{EngineError, Inner},
    money::Usdc,
    mpp::{Problem, ProblemType},
    payment::FundsMoved,
    refusal::{Code, Refusal},
    x402::{
        FacilitatorRequest, Reason, SettleResponse,
        batch::{self, ClaimRow, ClaimVoucher, Deposit, Payload, RefundPayload, Vouched},
        caip2,
    },
};

/// A request with a payload of a channel.
pub(super) struct Call {
    shop: Arc<Shop>,
    ask: Ask,
    shown: Channelled,
    _permit: OwnedSemaphorePermit,
}

/// Why there is no answer of the handler.
enum Halt {
    /// The payload is not taken.
    Not(Not),
    /// Something else is told.
    Told(Box<Response>),
}

impl From<Not> for Halt {
    fn from(not: Not) -> Self {
        Self::Not(not)
    }
}

impl From<Refusal> for Halt {
    fn from(refusal: Refusal) -> Self {
        Self::Not(Not::Unavailable(refusal))
    }
}

impl From<EngineError> for Halt {
    fn from(error: EngineError) -> Self {
        Self::from(Refusal::from(&error))
    }
}

impl Call {
    pub(super) const fn new(
        shop: Arc<Shop>,
        ask: Ask,
        shown: Channelled,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self { shop, ask, shown, _permit: permit }
    }

    fn inner(&self) -> &Inner {
        &self.shop.inner
    }

    /// Answers the request.
    pub(super) async fn answer<S>(self, parts: Parts, body: Bytes, handler: S) -> Response
    where
        S: Service<Request, Response = Response, Error = Infallible>,
    {
        let request = Request::from_parts(parts, Body::from(body));
        let answered = match &self.shown.payload {
            Payload::Voucher(Vouched { channel_config, voucher }) => {
                self.serve((channel_config, voucher), None, request, handler).await
            }
            Payload::Deposit(deposit) => self.deposit(deposit, request, handler).await,
            Payload::Refund(refund) => self.refund(refund).await,
            Payload::Claim(_) | Payload::Settle(_) => {
                let why = "claims and payouts are the seller's";
                Ok(answer::refuse(Refusal::new(Code::InvalidPayment, why), &self.ask.target))
            }
        };
        match answered {
            Ok(response) => response,
            Err(Halt::Told(response)) => *response,
            Err(Halt::Not(Not::Refused(reason, offer))) => {
                self.shop.corrected(&self.ask, reason.as_str(), *offer)
            }
            Err(Halt::Not(Not::Unavailable(refusal))) => answer::refuse(refusal, &self.ask.target),
        }
    }

    /// Names the request: what is asked for, and what no chain shows of its payment.
    fn name(&self) -> B256 {
        let mut bytes = self.ask.fingerprint().to_vec();
        bytes.extend(self.shown.proof.unwrap_or_default());
        keccak256(bytes)
    }

    async fn serve<S>(
        &self,
        (config, voucher): (&batch::ChannelConfig, &batch::Voucher),
        deposited: Option<&SettleResponse>,
        request: Request,
        handler: S,
    ) -> Result<Response, Halt>
    where
        S: Service<Request, Response = Response, Error = Infallible>,
    {
        let shown = Shown::read(self.inner(), &self.shown.offer, config, voucher)?;
        let until = deposited.map(|_| Instant::now() + self.patience());
        match shown.take(self.name(), until).await? {
            Step::Again(delivered, row) => {
                let kept = delivered.answer.response();
                let mut response = kept.unwrap_or_else(|| gone(&self.ask.target));
                self.receipt(&row, delivered.charged, deposited, response.headers_mut());
                Ok(response)
            }
            Step::Serve(charge) => self.made(charge, deposited, request, handler).await,
        }
    }

    async fn made<S>(
        &self,
        charge: Charge,
        deposited: Option<&SettleResponse>,
        mut request: Request,
        handler: S,
    ) -> Result<Response, Halt>
    where
        S: Service<Request, Response = Response, Error = Infallible>,
    {
        let (limits, price) = (self.shop.list().limits, self.ask.route.price);
        self.hand_over(&mut request, &charge);
        let made = sell::make(request, handler, limits.handler_s, limits.response_bytes).await;
        let (mut head, begun, rest) = match made {
            Made::None(refusal) => {
                let mut response = answer::refuse(refusal, &self.ask.target);
                self.spared(charge, deposited, response.headers_mut()).await;
                return Ok(response);
            }
            Made::Whole(response) => {
                let (head, body) = response.into_parts();
                (head, body, None)
            }
            Made::Long(response, begun, rest) => (response.into_parts().0, begun, Some(rest)),
        };
        answer::clean(&mut head.headers);
        let is_kept = rest.is_none() && begun.len() <= KEPT;
        let kept = Stored::new(&head, is_kept.then_some(&begun));
        let body = match rest {
            None => Body::from(begun),
            Some(rest) => sell::joined(begun, rest),
        };
        let mut response = Response::from_parts(head, body);
        if response.status().as_u16() >= 400 {
            self.spared(charge, deposited, response.headers_mut()).await;
            return Ok(response);
        }
        crash::at(Point::ChargeMade);
        let delivered =
            Delivered { request: self.name(), ceiling: charge.due(), charged: price, answer: kept };
        let now_ms = self.inner().clock.now_ms();
        let row = charge.done(delivered, &self.ask.route.path, now_ms).await?;
        crash::at(Point::ChargeCommitted);
        self.receipt(&row, price, deposited, response.headers_mut());
        Ok(response)
    }

    /// Tells the handler who pays, and takes the payment off the request. The sale's name is the same
    /// whenever the same voucher pays.
    fn hand_over(&self, request: &mut Request, charge: &Charge) {
        presented::strip(request.headers_mut());
        let (row, chain) = (charge.row(), &self.inner().config.chain);
        let sale = Sale {
            id: format!("ch_{}_{}", hex::encode(&row.id[..16]), charge.due().units()),
            protocol: Protocol::X402V2,
            payer: row.config.payer,
            payer_is_contract: charge.payer_is_contract(),
            chain_id: chain.chain_id,
            asset: chain.usdc,
            amount: self.ask.route.price,
        };
        request.extensions_mut().insert(sale);
    }

    /// Writes the receipt: what was charged, and where the channel stands.
    fn receipt(
        &self,
        row: &MeterRow,
        charged: Usdc,
        deposited: Option<&SettleResponse>,
        headers: &mut HeaderMap,
    ) {
        answer::private(headers);
        let extra = Map::from_iter([
            ("chargedAmount".to_owned(), json!(charged.units().to_string())),
            ("channelState".to_owned(), json!(scheme::state(row))),
        ]);
        let settled = SettleResponse {
            success: true,
            transaction: deposited.map(|done| done.transaction.clone()).unwrap_or_default(),
            network: caip2(self.inner().config.chain.chain_id),
            payer: Some(row.config.payer.to_string()),
            amount: Some(deposited.and_then(|done| done.amount.clone()).unwrap_or_default()),
            extra: Some(extra),
            ..SettleResponse::default()
        };
        answer::say(Protocol::X402V2, &settled, headers);
    }

    /// A handler that failed is not charged; a deposit that was made is told all the same.
    async fn spared(
        &self,
        charge: Charge,
        deposited: Option<&SettleResponse>,
        headers: &mut HeaderMap,
    ) {
        let before = deposited.map(|_| charge.row().clone());
        let after = charge.spared().await;
        if let Err(refusal) = &after {
            tracing::warn!(detail = refusal.detail, "a voucher that bought nothing is still held");
        }
        if let Some(row) = after.ok().or(before).filter(|_| deposited.is_some()) {
            self.receipt(&row, Usdc::ZERO, deposited, headers);
        }
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.inner().config.facilitator.wait_s)
    }

    /// What our own facilitator is asked.
    fn request(&self, payload: Option<&Payload>) -> Result<FacilitatorRequest, Halt> {
        let mut payment_payload = self.shown.payment.clone();
        if let Some(payload) = payload {
            payment_payload.payload = serde_json::to_value(payload)
                .and_then(serde_json::from_value)
                .map_err(|error| EngineError::Encode(error.to_string()))?;
        }
        Ok(FacilitatorRequest {
            x402_version: Some(2),
            payment_payload,
            payment_requirements: self.shown.offer.clone(),
        })
    }

    /// Carries a deposit to the chain, waits until it is final there, and takes its voucher like any.
    async fn deposit<S>(
        &self,
        deposit: &Deposit,
        request: Request,
        handler: S,
    ) -> Result<Response, Halt>
    where
        S: Service<Request, Response = Response, Error = Infallible>,
    {
        let (config, voucher) = (&deposit.channel_config, &deposit.voucher);
        let shown = Shown::read(self.inner(), &self.shown.offer, config, voucher)?;
        if !shown.is_next().await? {
            // It was charged already, or is for another total: nothing is put in for that.
            return match self.serve((config, voucher), None, request, handler).await {
                Err(Halt::Not(Not::Refused(reason, _))) if is_short(&reason) => {
                    Err(shown.other_total().into())
                }
                other => other,
            };
        }
        let settled = self.settled(&self.request(None)?).await?;
        crash::at(Point::DepositSettled);
        match self.serve((config, voucher), Some(&settled), request, handler).await {
            // It is there, and not final yet.
            Err(Halt::Not(Not::Refused(reason, _))) if is_short(&reason) => {
                let pending = SettleResponse {
                    success: false,
                    error_reason: Some(Reason::SettlementPending),
                    error_message: Some("the deposit is not final yet".to_owned()),
                    ..settled
                };
                Ok(answer::pending(Protocol::X402V2, &pending, &self.ask.target))
            }
            other => other,
        }
    }

    /// Has our own facilitator settle something, once.
    async fn settled(&self, request: &FacilitatorRequest) -> Result<SettleResponse, Halt> {
        let settled = self.shop.facilitator.settle(request).await;
        if settled.success {
            return Ok(settled);
        }
        let reason = settled.error_reason.clone().unwrap_or(Reason::UnexpectedSettleError);
        let target = &self.ask.target;
        Err(Halt::Told(Box::new(if reason.is_pending() {
            answer::pending(Protocol::X402V2, &settled, target)
        } else if reason == Reason::UnexpectedSettleError {
            let why = settled.error_message.unwrap_or_else(|| reason.to_string());
            answer::fault(Refusal::new(Code::Unavailable, why).retry_after(2), target)
        } else {
            let mut response = self.shop.required(&self.ask, reason.as_str(), None);
            answer::say(Protocol::X402V2, &settled, response.headers_mut());
            response
        })))
    }

    /// Gives a payer what is left: claims what is owed, and refunds, in one transaction.
    async fn refund(&self, refund: &RefundPayload) -> Result<Response, Halt> {
        let config = &refund.channel_config;
        // The voucher is for what was charged, or it is refused below. Putting money in and giving all of
        // it back would cost us two transactions, and the payer nothing, over and over.
        if refund.voucher.max_claimable_amount == 0 {
            let why = "nothing was ever bought through this channel: its payer can take the rest back \
                       on the chain, by initiateWithdraw and finalizeWithdraw";
            let problem = Problem::new(ProblemType::VerificationFailed, why);
            let reason = format!("{}refund_no_balance", batch::ERROR_PREFIX);
            let refused = self.shop.required(&self.ask, &reason, Some(problem));
            return Err(Halt::Told(Box::new(refused)));
        }
        let shown = Shown::read(self.inner(), &self.shown.offer, config, &refund.voucher)?;
        let mut wish = self.name().to_vec();
        wish.extend(refund.voucher.max_claimable_amount.to_be_bytes());
        wish.extend(refund.amount.unwrap_or_default().to_be_bytes::<32>());
        let row = shown.give_back(keccak256(wish), refund.amount).await?;
        let meters = self.inner().meters.as_ref();
        let Some((meters, payload)) =
            meters.zip(meters.map(|meters| signed_refund(self.inner(), meters, refund, &row)))
        else {
            return Err(Refusal::new(Code::Unavailable, "this chain has no channels").into());
        };
        let payload = Payload::Refund(payload?);
        let settled = self.settled(&self.request(Some(&payload))?).await?;
        self.note(meters, &row, &settled).await;
        let body = json!({ "message": "Refund acknowledged", "channelId": row.id });
        let mut response = Response::new(Body::from(body.to_string()));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        answer::private(response.headers_mut());
        let mut extra = settled.extra.clone().unwrap_or_default();
        if let Some(state) = extra.get_mut("channelState") {
            state["chargedCumulativeAmount"] = json!(row.charged.units().to_string());
        }
        let told = SettleResponse { extra: Some(extra), ..settled };
        answer::say(Protocol::X402V2, &told, response.headers_mut());
        Ok(response)
    }

    /// Writes to the audit log that money is on its way back.
    async fn note(&self, meters: &Meters, row: &MeterRow, settled: &SettleResponse) {
        let draft = Draft::new(EventKind::ChannelRefunded, "seller").data(json!({
            "channel": row.id, "payer": row.config.payer, "hub": meters.hub().address(),
            "amount": row.refund.map(|refund| refund.amount), "hash": settled.transaction,
        }));
        let kept = async {
            let mut store = self.inner().store.begin().await?;
            store.append_audit(&[draft], self.inner().clock.now_ms()).await?;
            store.commit().await
        };
        if let Err(error) = kept.await {
            tracing::warn!(%error, "a refund could not be noted; its settlement is");
        }
    }
}

/// Is more in the channel needed?
fn is_short(reason: &Reason) -> bool {
    let name = reason.as_str().strip_prefix(batch::ERROR_PREFIX);
    matches!(name, Some("channel_not_found" | "cumulative_exceeds_balance"))
}

/// Adds to a payer's wish what its receiver signs: the refund, and before it the claim of what is owed.
fn signed_refund(
    inner: &Inner,
    meters: &Meters,
    refund: &RefundPayload,
    row: &MeterRow,
) -> Result<RefundPayload, EngineError> {
    let promised = row
        .refund
        .ok_or_else(|| EngineError::Encode(format!("{} has no refund to sign", row.id)))?;
    let signer = inner.relayer(row.config.receiver_authorizer)?;
    let sign = |digest: B256| -> Result<Packed, EngineError> {
        Ok(signer.sign_hash_sync(&digest)?.as_bytes().into())
    };
    let nonce = U256::from(promised.nonce);
    let amount = promised.amount.units();
    let mut claims = Vec::new();
    if row.charged > row.chain.claimed
        && let Some(signature) = claim::whole(meters, row)
    {
        claims.push(ClaimRow {
            voucher: ClaimVoucher {
                channel: row.config,
                max_claimable_amount: row.ceiling.units().into(),
            },
            signature: signature.into(),
            total_claimed: row.charged.units().into(),
        });
    }
    let entries: Vec<_> = claims.iter().map(|claim| claim.entry(meters.hub())).collect();
    let claimed = match entries.as_slice() {
        [] => None,
        entries => Some(sign(meters.hub().claim_batch_digest(entries))?),
    };
    Ok(RefundPayload {
        channel_config: row.config,
        voucher: refund.voucher.clone(),
        amount: Some(U256::from(amount)),
        refund_nonce: Some(nonce),
        claims,
        refund_authorizer_signature: Some(sign(meters.hub().refund_digest(
            row.id,
            nonce,
            amount.into(),
        ))?),
        claim_authorizer_signature: claimed,
    })
}

/// The answer was charged and is not kept.
fn gone(target: &str) -> Response {
    let mut refusal =
        Refusal::new(Code::Gone, "it was charged and answered; the answer was too long to be kept");
    refusal.funds_moved = FundsMoved::Yes;
    answer::refuse(refusal, target)
}
