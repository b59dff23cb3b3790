//! One call from beginning to end, and from wherever an earlier try of it ended.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use alloy::{primitives::B256, signers::local::PrivateKeySigner, sol_types::SolCall as _};
use serde_json::{Value, json};
use tokio::sync::{Mutex as AsyncMutex, OnceCell, OwnedMutexGuard, Semaphore};

use super::{
    FetchRequest, FetchView, PayerKind, PurchaseState,
    breaker::{Breaker, Place},
    call::Asked,
    channel::{Lanes, Way},
    choose::{self, Bench, Judged, OTHER_PAYEE, Passed},
    float,
    odd::Odd,
    offer::{self, Offer},
    pay::{self, Coupon, Signed},
    show::receipt,
    tally::{self, Cost, Sending},
    told::{self, Told},
    web::{NoAnswer, Reply, Web, WebError},
};
use crate::{
    audit::{Draft, EventKind},
    config::FetchConfig,
    contract::{IUsdc, coupon},
    crash::{self, Point},
    engine::Inner,
    intake,
    money::Usdc,
    payment::{AgentId, Context, FundsMoved, PaymentId},
    policy::{Facts, FetchBy, FetchLimits, FetchUsed, Outcome},
    reconcile::restored,
    refusal::{Code, Refusal},
    store::{PurchaseRow, StoreError, Tx},
};

/// Milliseconds that the limits of `[fetch]` speak of.
pub(super) const DAY_MS: i64 = 86_400_000;
/// Seconds that must be left of an authorization for it to be sent again.
const MARGIN_S: u64 = 8;
/// Times that a voucher is sent again to a seller that is busy with its channel, and the pause before the
/// first; each is longer by it.
const BUSY_TRIES: u32 = 6;
const BUSY_PAUSE: Duration = Duration::from_millis(20);
/// Past calls that the loop breaker reads at start.
const REMEMBERED: u32 = 100_000;

/// What buying shares.
pub(crate) struct Shop {
    web: Web,
    /// Calls on their way at a time.
    slots: Semaphore,
    /// Keys whose call is on its way.
    running: Mutex<HashSet<(AgentId, String)>>,
    breaker: Mutex<Breaker>,
    /// Held while a float's top-up is asked for.
    pub(super) filling: AsyncMutex<()>,
    /// Turns at channels.
    lanes: Lanes,
    /// The separator of USDC's EIP-712 domain, read once.
    domain: OnceCell<B256>,
}

impl Shop {
    /// Makes it.
    ///
    /// # Errors
    /// [`WebError`]: the configuration names no network, or there is no TLS.
    pub(crate) fn new(config: &FetchConfig) -> Result<Self, WebError> {
        Ok(Self {
            web: Web::new(config)?,
            slots: Semaphore::new(config.concurrency),
            running: Mutex::default(),
            breaker: Mutex::default(),
            filling: AsyncMutex::default(),
            lanes: Lanes::default(),
            domain: OnceCell::new(),
        })
    }

    fn breaker(&self) -> std::sync::MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn domain(&self, inner: &Inner) -> Result<B256, Refusal> {
        let read = async {
            let call = IUsdc::DOMAIN_SEPARATORCall {}.abi_encode().into();
            let answer = inner.rpc.eth_call(inner.config.chain.usdc, None, &call, inner.newest());
            let answer = answer.await.map_err(|error| error.to_string())?;
            IUsdc::DOMAIN_SEPARATORCall::abi_decode_returns(&answer).map_err(|e| e.to_string())
        };
        self.domain.get_or_try_init(|| read).await.copied().map_err(|why| {
            Refusal::new(Code::Unavailable, format!("USDC's domain cannot be read: {why}"))
                .retry_after(2)
        })
    }
}

/// Reads at start what the loop breaker counts: calls that were paid, or may have been.
///
/// # Errors
/// [`StoreError`].
pub(crate) async fn remember(inner: &Inner) -> Result<(), StoreError> {
    let now_ms = inner.clock.now_ms();
    let mut seen = inner.store.purchases_since(now_ms.saturating_sub(DAY_MS), REMEMBERED).await?;
    seen.reverse();
    let book = inner.book();
    let mut breaker = inner.shop.breaker();
    for call in seen {
        let limits = book.agents.get(&call.agent).and_then(|known| known.policy.fetch);
        let Some(limits) = limits else { continue };
        let place = Place::new(&call.agent, &call.call.method, &call.call.url);
        breaker.paid(place, &limits.loops, u64::try_from(call.at_ms / 1_000).unwrap_or(0));
    }
    Ok(())
}

/// A key whose call is on its way, until this is dropped.
struct Turn<'a> {
    shop: &'a Shop,
    key: (AgentId, String),
}

impl<'a> Turn<'a> {
    fn take(shop: &'a Shop, agent: &AgentId, key: &str) -> Result<Self, Refusal> {
        let key = (agent.clone(), key.to_owned());
        let mut running = shop.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.insert(key.clone()) {
            return Ok(Self { shop, key });
        }
        let mut refusal = Refusal::new(Code::OutcomeUnknown, "this very call is on its way")
            .retry_after(1)
            .hint("send the same request with the same Idempotency-Key again");
        refusal.funds_moved = FundsMoved::Maybe;
        Err(refusal)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut running = self.shop.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.remove(&self.key);
    }
}

/// Makes an agent's call, and pays for it where it must and may. `key` names the purchase; only an
/// inspection needs none.
///
/// # Errors
/// Every refusal; `funds_moved` says whether money may have moved.
pub(crate) async fn fetch(
    inner: &Inner,
    agent: AgentId,
    key: Option<String>,
    request: FetchRequest,
) -> Result<FetchView, Refusal> {
    let asked = Asked::read(&request)?;
    let _slot = inner.shop.slots.try_acquire().map_err(|_| {
        Refusal::new(Code::Overloaded, "too many calls are on their way").retry_after(1)
    })?;
    let purchase = Purchase { inner, agent: &agent, asked: &asked };
    let outcome = match key {
        _ if request.inspect => purchase.inspect().await,
        None => Err(Refusal::new(Code::IdempotencyKeyMissing, "a purchase needs a name")),
        Some(key) => {
            intake::check_key(&key)?;
            let _turn = Turn::take(&inner.shop, &agent, &key)?;
            purchase.run(&key).await
        }
    };
    if let Err(refusal) = &outcome {
        purchase.note_refused(refusal);
    }
    outcome
}

/// One call of one agent.
struct Purchase<'a> {
    inner: &'a Inner,
    agent: &'a AgentId,
    asked: &'a Asked,
}

impl Purchase<'_> {
    fn place(&self) -> Place {
        Place::new(self.agent, &self.asked.call.method, &self.asked.call.url)
    }

    fn limits(&self) -> Option<FetchLimits> {
        self.inner.book().agents.get(self.agent)?.policy.fetch
    }

    /// Tells log, metrics and alerts of a refusal.
    fn note_refused(&self, refusal: &Refusal) {
        self.inner.count_denied(refusal.code);
        let kind = match refusal.code {
            Code::OutcomeUnknown => return,
            Code::OfferChanged if refusal.rule.as_deref() == Some(OTHER_PAYEE) => {
                EventKind::X402PaytoChanged
            }
            Code::OfferChanged => EventKind::X402PriceChanged,
            _ => EventKind::PaymentDenied,
        };
        let data = json!({
            "refusal": refusal, "host": self.asked.host, "path": self.asked.path,
            "method": self.asked.call.method,
        });
        self.count_odd(kind, &data);
        let draft = Draft::new(kind, format!("agent:{}", self.agent));
        self.inner.note(draft.agent(self.agent).data(data));
    }

    /// Counts what is odd about a seller. The log tells the alerts of it.
    fn count_odd(&self, kind: EventKind, data: &Value) {
        if let Some(odd) = Odd::read(kind.as_str(), data) {
            self.inner.metrics.sellers_odd.get_or_create(&odd.into()).inc();
        }
    }

    fn failed(&self) {
        if let Some(limits) = self.limits() {
            let now_s = self.inner.clock.now_s();
            self.inner.shop.breaker().failed(self.place(), &limits.loops, now_s);
        }
    }

    /// What can be said before anything is sent.
    fn before(&self) -> Result<FetchLimits, Refusal> {
        let inner = self.inner;
        let limits = inner.book().may_fetch(self.agent, &self.asked.host, inner.now_s())?;
        if !inner.may_sign() {
            return Err(Refusal::new(Code::Unavailable, "the node is on another chain"));
        }
        if let Some(state) = inner.restored()
            && let Some(until_s) = restored::buys_from(inner, &state)
        {
            return Err(restored::settling(inner, &state, until_s));
        }
        inner.shop.breaker().check(self.place(), &limits.loops, inner.clock.now_s())?;
        Ok(limits)
    }

    /// Calls without credentials.
    async fn plain(&self) -> Result<Reply, Refusal> {
        let reply = self.inner.shop.web.send(&self.asked.ready, &[]).await;
        let reply = reply.map_err(|fault| match fault {
            NoAnswer::NotSent(refusal) => refusal,
            NoAnswer::Lost(why) => {
                Refusal::new(Code::SellerFailed, format!("{}: {why}", self.asked.host))
            }
        })?;
        match reply.status {
            300..=399 if reply.status != 304 => {
                let to = reply.header("location").unwrap_or("nowhere");
                let detail = format!("{} redirects to {}", self.asked.host, offer::shown(to));
                Err(Refusal::new(Code::SellerFailed, detail)
                    .rule("redirect")
                    .hint("redirects are not followed: fetch the final URL itself"))
            }
            _ => Ok(reply),
        }
    }

    async fn used(&self) -> Result<FetchUsed, Refusal> {
        let now_ms = self.inner.clock.now_ms();
        Ok(self.inner.store.bought_by(self.agent, &self.asked.host, now_ms).await?)
    }

    async fn judge(
        &self,
        offers: Vec<Offer>,
        limits: &FetchLimits,
    ) -> Result<Vec<Judged>, Refusal> {
        let inner = self.inner;
        let (domain, used) = (inner.shop.domain(inner).await?, self.used().await?);
        let (host, coupon) = (self.asked.host.as_str(), PayerKind::Coupon);
        let last = if offers.iter().all(|offer| offer.wire.is_channel()) {
            None
        } else {
            inner.store.last_end_at(self.agent, host, coupon).await?
        };
        let now_s = inner.now_s();
        let mut judged = {
            let book = inner.book();
            let bench = Bench {
                chain: &inner.config.chain,
                domain,
                book: &book,
                agent: self.agent,
                asked: self.asked,
                used,
                now_s,
                float: limits.float.is_some(),
                channel: limits.channel.is_some() && inner.meters.is_some(),
                plain_only: last == Some(PurchaseState::Unpaid),
            };
            bench.judge(offers)
        };
        // What has to be looked up: can there be a channel?
        for one in &mut judged {
            let Ok(passed) = &one.verdict else { continue };
            if !one.offer.wire.is_channel() {
                continue;
            }
            match self.way(&one.offer, passed).possible(passed.price, limits).await {
                Ok(()) => {}
                // What cannot be known now is found out when it is an offer's turn; a node that does not
                // answer is not asked about each.
                Err(refusal) if may_pass(&refusal) => break,
                Err(refusal) => one.verdict = Err(refusal),
            }
        }
        self.compare_payees(&mut judged).await?;
        Ok(judged)
    }

    /// Holds the offers' payees against those that the agent paid at this host before. One that operators
    /// have registered is paid, and told of; any other is refused as the change that it is.
    async fn compare_payees(&self, judged: &mut [Judged]) -> Result<(), Refusal> {
        let mut seen = HashMap::new();
        for Judged { offer, verdict } in judged {
            let Ok(terms) = &offer.terms else { continue };
            if verdict.as_ref().is_err_and(|refusal| refusal.code != Code::PayeeUnknown) {
                continue;
            }
            let (payee, host) = (terms.pay_to, self.asked.host.as_str());
            let before = match seen.get(&payee) {
                Some(before) => *before,
                None => self.inner.store.payee_before(self.agent, host, payee).await?,
            };
            seen.insert(payee, before);
            let Some(before) = before else { continue };
            match verdict {
                Ok(passed) => passed.before = Some(before),
                Err(refusal) => {
                    let detail = format!(
                        "{host} wants {payee} to be paid, which is not registered; what the agent \
                         bought there before was paid to {before}"
                    );
                    *refusal = Refusal::new(Code::OfferChanged, detail)
                        .rule(OTHER_PAYEE)
                        .hint("if the seller has moved, have the operators register its new payee");
                }
            }
        }
        Ok(())
    }

    /// Shows what a call costs; pays nothing.
    async fn inspect(&self) -> Result<FetchView, Refusal> {
        let limits = self.before()?;
        let reply = self.plain().await?;
        if reply.status != 402 {
            return Ok(FetchView { answer: reply.answer(), receipt: None, offers: Vec::new() });
        }
        let judged =
            self.judge(offer::read(&reply, self.inner.clock.now_s()).offers, &limits).await?;
        let offers = choose::views(&judged, choose::by_price(&judged).first().copied());
        Ok(FetchView { answer: reply.answer(), receipt: None, offers })
    }

    /// Calls, pays, calls again; or goes on where an earlier try ended.
    async fn run(&self, key: &str) -> Result<FetchView, Refusal> {
        if let Some(row) = self.inner.store.purchase_of(self.agent, key).await? {
            return self.resume(row).await;
        }
        let limits = self.before()?;
        let reply = self.plain().await?;
        if reply.status != 402 {
            return Ok(FetchView { answer: reply.answer(), receipt: None, offers: Vec::new() });
        }
        let mut judged =
            self.judge(offer::read(&reply, self.inner.clock.now_s()).offers, &limits).await?;
        let mut refused = None;
        for place in choose::by_price(&judged) {
            let Some(one) = judged.get_mut(place) else { continue };
            // Until something is signed and stored, the next payer, and the next offer, may pay instead.
            while let Ok(passed) = &one.verdict
                && let Some(payer) = passed.payers.first().copied()
            {
                let why = match self.prepare(&one.offer, passed, payer, &limits).await {
                    Ok((channel, turn)) => {
                        let by = (passed, payer, channel);
                        match self.sign(key, &one.offer, by, &limits).await? {
                            Made::New(row) => {
                                crash::at(Point::PurchaseSigned);
                                let mut view = self.send(*row, true).await?;
                                drop(turn);
                                view.offers = choose::views(&judged, Some(place));
                                return Ok(view);
                            }
                            Made::Earlier(row) => {
                                drop(turn);
                                return self.resume(*row).await;
                            }
                            Made::Nothing => no_coupon(),
                        }
                    }
                    Err(why) => why,
                };
                if may_pass(&why) {
                    return Err(why);
                }
                one.pass_over(&why);
                refused = Some(why);
            }
        }
        self.failed();
        Err(refused.unwrap_or_else(|| choose::refusal(&judged)))
    }

    /// Makes a payer ready to sign: fills its channel or its float where it must. Nothing is signed for the
    /// seller yet. Of a channel, its id and the turn at it.
    async fn prepare(
        &self,
        offer: &Offer,
        passed: &Passed,
        payer: PayerKind,
        limits: &FetchLimits,
    ) -> Result<(Option<B256>, Option<OwnedMutexGuard<()>>), Refusal> {
        match payer {
            PayerKind::Channel => {
                let turn = self.inner.shop.lanes.turn(self.agent, passed.terms.pay_to).await?;
                let channel = self.way(offer, passed).ready(passed.price, limits).await?;
                Ok((Some(channel), Some(turn)))
            }
            PayerKind::Float => {
                let float = self.float_key()?.address();
                let (need, host) = (passed.price, self.asked.host.as_str());
                float::fill(self.inner, self.agent, (float, limits), need, host).await?;
                Ok((None, None))
            }
            PayerKind::Coupon | PayerKind::Delegation => Ok((None, None)),
        }
    }

    /// An earlier try of this purchase: its answer again, or its very payment.
    async fn resume(&self, row: PurchaseRow) -> Result<FetchView, Refusal> {
        if row.fingerprint != self.asked.fingerprint {
            let detail = format!("this key belongs to {}, which called something else", row.id);
            return Err(Refusal::new(Code::IdempotencyKeyReused, detail)
                .hint("use a new Idempotency-Key for a new purchase"));
        }
        if let Some(answer) = row.answer.clone() {
            let receipt = Some(receipt(self.inner, &row, true).await?);
            return Ok(FetchView { answer, receipt, offers: Vec::new() });
        }
        let (mut row, mut turn) = (row, None);
        if row.channel.is_some() {
            turn = Some(self.inner.shop.lanes.turn(self.agent, row.payee).await?);
            // Whose turn came before may have found out what became of it.
            row = self.inner.store.purchase(row.id).await?.unwrap_or(row);
        }
        let outcome = self.go_on(row).await;
        drop(turn);
        outcome
    }

    /// Goes on with a purchase that has no answer yet.
    async fn go_on(&self, row: PurchaseRow) -> Result<FetchView, Refusal> {
        let now_s = self.inner.now_s();
        match row.state {
            PurchaseState::Unpaid => {
                let why = row.note.as_deref().unwrap_or("the seller never used it");
                let detail = format!("{} was signed and ended unused: {why}", row.id);
                Err(Refusal::new(Code::PurchaseLapsed, detail)
                    .hint("nothing was paid; use a new Idempotency-Key to try again"))
            }
            // Paid, and the answer was lost: a seller that recognises the payment gives it again.
            PurchaseState::Paid => self.send(row, false).await,
            _ if now_s.saturating_add(MARGIN_S) < row.valid_before_s => self.send(row, false).await,
            _ => Err(unknown(&row, "its authorization has ended; the chain will say")),
        }
    }

    fn way<'a>(&'a self, offer: &'a Offer, passed: &'a Passed) -> Way<'a> {
        let (inner, agent, host) = (self.inner, self.agent, self.asked.host.as_str());
        Way { inner, agent, terms: &passed.terms, offer, host }
    }

    fn float_key(&self) -> Result<PrivateKeySigner, Refusal> {
        self.inner.keys.float(self.key_index()?).map_err(no_key)
    }

    /// What the agent signs with in the wallet.
    fn agent_key(&self) -> Result<PrivateKeySigner, Refusal> {
        self.inner.keys.agent(self.key_index()?).map_err(no_key)
    }

    fn key_index(&self) -> Result<u32, Refusal> {
        let book = self.inner.book();
        let known = book.agents.get(self.agent).ok_or_else(|| no_key("the agent is gone"))?;
        Ok(known.policy.key_index)
    }

    /// Decides for the last time, signs and stores, all in one commit.
    async fn sign(
        &self,
        key: &str,
        offer: &Offer,
        (passed, payer_kind, channel): (&Passed, PayerKind, Option<B256>),
        limits: &FetchLimits,
    ) -> Result<Made, Refusal> {
        let (inner, agent, asked) = (self.inner, self.agent, self.asked);
        let domain = inner.shop.domain(inner).await?;
        let held = match payer_kind {
            PayerKind::Float => Some(float::balance(inner, self.float_key()?.address()).await?),
            PayerKind::Coupon | PayerKind::Delegation | PayerKind::Channel => None,
        };
        let now_ms = inner.clock.now_ms();
        let mut tx = inner.store.begin().await?;
        if let Some(row) = tx.purchase_of(agent, key).await? {
            return Ok(Made::Earlier(Box::new(row)));
        }
        let money = (passed.terms.pay_to, passed.price);
        restored::may_buy(inner, &mut tx, (agent, key), money).await?;
        let used = tx.bought_by(agent, &asked.host, now_ms).await?;
        let context = Context { host: Some(asked.host.clone()), ..Context::default() };
        let mut room = Room { inner, agent, held: None };
        let policy_version = {
            let mut book = inner.book();
            let counts = payer_kind == PayerKind::Delegation;
            let by = if counts { FetchBy::Counted } else { FetchBy::Apart };
            book.judge_fetch(agent, money, &context, used, by, inner.now_s())?;
            if counts {
                let facts = Facts { payee: money.0, amount: money.1, overrides: 0 };
                book.replay(agent, &facts, Outcome::Pending);
                room.held = Some(facts);
            }
            let known = book.agents.get(agent).and_then(|known| known.chain.as_ref());
            known.map_or(0, |chain| chain.version)
        };
        inner.shop.breaker().check(self.place(), &limits.loops, inner.clock.now_s())?;
        let id = PaymentId::generate();
        let end_s = pay::end_s(inner.now_s(), passed, inner.config.fetch.valid_s);
        let Signed { payer, nonce, valid_before_s, header } = match payer_kind {
            PayerKind::Channel => {
                let channel = channel.ok_or_else(|| no_key("no channel was made ready"))?;
                let way = self.way(offer, passed);
                let voucher = way.voucher(&mut tx, channel, id, passed.price).await?;
                let nonce = pay::nonce(&inner.config.chain, agent, key, asked.fingerprint, offer);
                pay::by_channel(inner.config.chain.wallet, &voucher, offer, nonce, id)?
            }
            PayerKind::Float => {
                let float = self.float_key()?;
                let away = tx.signed_away(float.address()).await?;
                if held.is_some_and(|held| held.saturating_sub(away) < passed.price) {
                    return Err(Refusal::new(Code::Unavailable, "the agent's float is in use")
                        .rule("fetch.float")
                        .retry_after(2)
                        .hint("send the same request with the same Idempotency-Key again"));
                }
                let nonce = pay::nonce(&inner.config.chain, agent, key, asked.fingerprint, offer);
                pay::by_float(&float, domain, (offer, passed), (nonce, end_s), id)?
            }
            PayerKind::Coupon => {
                let Some(coupon) = self.coupon(&mut tx, passed.price).await? else {
                    return Ok(Made::Nothing);
                };
                let wallet = inner.config.chain.wallet;
                pay::by_coupon(wallet, &coupon, domain, (offer, passed), end_s, id)?
            }
            PayerKind::Delegation => {
                let nonce = pay::nonce(&inner.config.chain, agent, key, asked.fingerprint, offer);
                let (chain, key) = (&inner.config.chain, self.agent_key()?);
                pay::by_delegation(chain, &key, (offer, passed), (nonce, end_s), id)?
            }
        };
        let row = PurchaseRow {
            id,
            agent: agent.clone(),
            idempotency_key: key.to_owned(),
            fingerprint: asked.fingerprint,
            host: asked.host.clone(),
            path: asked.path.clone(),
            call: asked.call.clone(),
            offer: json!({
                "protocol": offer.wire.protocol(), "scheme": offer.scheme, "quote": offer.quote,
                "text": offer.wire.record(),
            }),
            payer_kind,
            payer,
            payee: passed.terms.pay_to,
            amount: passed.price,
            nonce,
            valid_before_s,
            header_name: header.0,
            header_value: header.1,
            channel,
            charged: None,
            policy_version,
            state: PurchaseState::Signed,
            sends: 0,
            note: None,
            answer: None,
            tx_hash: None,
            block: None,
            block_time_s: None,
            since_block: inner.height(),
            created_ms: now_ms,
            updated_ms: now_ms,
        };
        tx.insert_purchase(&row).await?;
        // Once: the next purchase finds this one.
        let moved = passed.before.map(|before| {
            let note = format!("what the agent bought here before was paid to {before}");
            story(EventKind::X402PaytoChanged, &row).and("note", json!(note))
        });
        if let Some(draft) = &moved {
            tx.append_audit(std::slice::from_ref(draft), now_ms).await?;
        }
        // A voucher is told once, when it is known what it cost: there are many.
        if channel.is_none() {
            tx.append_audit(&[story(EventKind::X402Signed, &row)], now_ms).await?;
        }
        let committed = tx.commit().await;
        // Where nobody knows what the store kept, the room stays taken: the next start reads it.
        if committed.as_ref().err().is_none_or(StoreError::is_unknown_outcome) {
            room.held = None;
        }
        committed?;
        if let Some(draft) = &moved {
            self.count_odd(EventKind::X402PaytoChanged, &draft.data);
        }
        inner.shop.breaker().paid(self.place(), &limits.loops, inner.clock.now_s());
        Ok(Made::New(Box::new(row)))
    }

    /// Takes the smallest coupon that is good for a price, for ever: whatever becomes of it, its index
    /// is not taken again. `None` if none is left in this period.
    async fn coupon(&self, tx: &mut Tx, price: Usdc) -> Result<Option<Coupon>, Refusal> {
        let grant = self.inner.book().agents.get(self.agent).map(|known| known.coupons);
        let grant = grant.unwrap_or_default();
        let now_s = self.inner.now_s();
        let Some(period) = grant.period(now_s) else { return Ok(None) };
        let length = u64::from(grant.period_s);
        let (from_s, to_s) = (period * length, (period + 1) * length);
        // At a period's end there is too little time left to be settled in.
        if to_s - now_s < pay::LEAST_S {
            return Ok(None);
        }
        let key = self.agent_key()?;
        for class in grant.fitting(price.units()) {
            let counter = coupon::counter(key.address(), period, class);
            let number = tx.take_nonce(&counter).await?;
            let left = u16::try_from(number).ok().filter(|n| *n < grant.classes[class].count);
            if let Some(number) = left {
                let index = coupon::index(class, number);
                return Ok(Some(Coupon { key, period, index, from_s, to_s }));
            }
        }
        Ok(None)
    }

    /// Sends the stored payment with the call, and stores what came of it. `fresh`: for the first time.
    async fn send(&self, mut row: PurchaseRow, fresh: bool) -> Result<FetchView, Refusal> {
        let inner = self.inner;
        let mut sending = if fresh { Sending::First } else { Sending::Repeated };
        let mut tries = 0;
        let reply = loop {
            let headers = pay::headers(&row, &inner.config.chain)?;
            let reply = inner.shop.web.send(&self.asked.ready, &headers).await;
            // The seller has its hands on the channel for a moment: the same voucher once more.
            if let Ok(reply) = &reply
                && row.channel.is_some()
                && tries < BUSY_TRIES
                && tally::is_busy(reply)
            {
                tries += 1;
                tokio::time::sleep(BUSY_PAUSE * tries).await;
                continue;
            }
            crash::at(Point::PurchaseAnswered);
            let mut told = match &reply {
                Ok(reply) => told::read(&row, reply, inner.clock.now_s()),
                Err(NoAnswer::NotSent(refusal)) => {
                    Told { sent: false, ..Told::note(&refusal.detail) }
                }
                Err(NoAnswer::Lost(why)) => Told::note(why),
            };
            let (noted, is_anew) =
                self.note(row, &mut told, (reply.as_ref().ok(), sending)).await?;
            row = noted;
            crash::at(Point::PurchaseNoted);
            // Once: the seller showed that an earlier call was charged.
            if is_anew {
                sending = Sending::Anew;
                continue;
            }
            if !told.delivered {
                self.failed();
            }
            break reply;
        };
        match reply {
            Ok(reply) => Ok(FetchView {
                answer: reply.answer(),
                receipt: Some(receipt(inner, &row, false).await?),
                offers: Vec::new(),
            }),
            Err(NoAnswer::NotSent(mut refusal)) => {
                refusal.funds_moved = row.state.funds_moved();
                Err(refusal)
            }
            Err(NoAnswer::Lost(why)) => Err(unknown(&row, &why)),
        }
    }

    /// Stores what the seller said, on top of what the chain may have said meanwhile. Says whether the
    /// purchase has a new voucher, to be sent.
    async fn note(
        &self,
        row: PurchaseRow,
        told: &mut Told,
        (reply, sending): (Option<&Reply>, Sending),
    ) -> Result<(PurchaseRow, bool), Refusal> {
        let inner = self.inner;
        let now_ms = inner.clock.now_ms();
        let mut tx = inner.store.begin().await?;
        let Some(mut now) = tx.purchase(row.id).await? else {
            return Err(unknown(&row, "its row is gone"));
        };
        let from = now.state;
        if told.sent {
            now.sends = now.sends.saturating_add(1);
        }
        if told.delivered {
            now.answer = reply.map(Reply::answer);
        }
        let mut drafts = Vec::new();
        let cost =
            tally::book(inner, &mut tx, &mut now, (&told.word, sending), &mut drafts).await?;
        if !from.is_terminal() {
            now.note = told.note.take();
            now.state = match (told.sent, told.settled && now.channel.is_none()) {
                (_, true) => PurchaseState::Reported,
                (true, false) if from != PurchaseState::Reported => PurchaseState::Unknown,
                _ => from,
            };
            now.tx_hash = told.transaction.filter(|_| now.channel.is_none()).or(now.tx_hash);
            match &cost {
                Cost::Charged(charged) => {
                    (now.state, now.charged) = (PurchaseState::Paid, Some(*charged));
                    if !told.delivered {
                        now.note = Some(format!("the seller charged {charged} USDC for no answer"));
                    }
                }
                Cost::Overcharged(charged, why) => {
                    (now.state, now.charged) = (PurchaseState::Paid, Some(*charged));
                    now.note = Some(format!("{why}: the channel is closed"));
                    told.kind = Some(EventKind::X402Overcharged);
                }
                Cost::Void(why) => {
                    now.state = PurchaseState::Unpaid;
                    now.note = Some(format!("an earlier call was charged, and {why}"));
                }
                Cost::Again => {
                    now.note = Some("an earlier call was charged: it has a new voucher".to_owned());
                    told.kind = None;
                }
                Cost::Unknown => {}
            }
        }
        if !tx.move_purchase(from, &now, now_ms).await? {
            return Err(unknown(&row, "its row was changed at the same time"));
        }
        if now.channel.is_some() && now.state.is_terminal() && !from.is_terminal() {
            tally::note_end(inner, &now, &mut drafts);
        }
        if cost != Cost::Again
            && now.state == PurchaseState::Unknown
            && from != PurchaseState::Unknown
        {
            drafts.push(story(EventKind::X402Unknown, &now).and("note", json!(now.note)));
        }
        if let Some(kind) = told.kind {
            let draft = story(kind, &now).and("note", json!(now.note));
            self.count_odd(kind, &draft.data);
            drafts.push(draft);
        }
        tx.append_audit(&drafts, now_ms).await?;
        tx.commit().await?;
        Ok((now, cost == Cost::Again))
    }
}

/// What came of signing.
enum Made {
    /// A purchase that nobody has sent yet.
    New(Box<PurchaseRow>),
    /// Another daemon made the purchase of this key meanwhile, perhaps of another call.
    Earlier(Box<PurchaseRow>),
    /// No coupon is left to pay with.
    Nothing,
}

/// Room under the agent's caps that a purchase takes, free again unless its commit succeeds.
struct Room<'a> {
    inner: &'a Inner,
    agent: &'a AgentId,
    held: Option<Facts>,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if let Some(facts) = self.held.take() {
            self.inner.book().void(self.agent, &facts);
        }
    }
}

fn no_coupon() -> Refusal {
    Refusal::new(Code::DayCapExceeded, "the wallet's coupons of this period are used up")
        .rule("coupons")
        .hint("wait for the next period, or have the operators grant more, or a fetch.float")
}

/// Does a way to pay that is refused like this have to be asked again before another is taken? It may have
/// begun to pay, or cannot say now: what is down for a moment is not refused. Any other refusal moved
/// nothing and stands.
fn may_pass(refusal: &Refusal) -> bool {
    refusal.funds_moved != FundsMoved::No || refusal.code.status() >= 500
}

fn no_key(why: impl std::fmt::Display) -> Refusal {
    Refusal::new(Code::Internal, format!("there is no key to sign with: {why}"))
}

/// The outcome that nobody knows yet.
pub(super) fn unknown(row: &PurchaseRow, why: &str) -> Refusal {
    let detail = format!("{}: {} USDC are signed for {}: {why}", row.id, row.amount, row.host);
    let mut refusal = Refusal::new(Code::OutcomeUnknown, detail).retry_after(2).hint(
        "send the same request with the same Idempotency-Key again: it carries the same payment",
    );
    refusal.funds_moved = row.state.funds_moved();
    refusal
}

/// Begins an audit entry about a purchase.
pub(super) fn story(kind: EventKind, row: &PurchaseRow) -> Draft {
    let draft = Draft::new(kind, format!("agent:{}", row.agent)).agent(&row.agent).payment(row.id);
    if let Some(channel) = row.channel {
        return draft.data(json!({
            "host": row.host, "path": row.path, "method": row.call.method, "payee": row.payee,
            "amount": row.amount, "charged": row.charged, "channel": channel,
            "policy_version": row.policy_version, "key": row.idempotency_key,
        }));
    }
    draft.data(json!({
        "host": row.host, "path": row.path, "method": row.call.method, "payee": row.payee,
        "amount": row.amount, "payer": row.payer, "payer_kind": row.payer_kind,
        "nonce": row.nonce, "offer": row.offer, "fingerprint": row.fingerprint,
        "policy_version": row.policy_version, "key": row.idempotency_key,
        "valid_before_s": row.valid_before_s, "tx": row.tx_hash,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_that_stands_and_moved_nothing_leads_to_another_way() {
        for code in [Code::Unavailable, Code::Overloaded, Code::TimedOut, Code::Internal] {
            assert!(may_pass(&Refusal::new(code, "not now")), "{code:?}");
        }
        for code in [Code::PriceTooHigh, Code::NoOffer, Code::DayCapExceeded, Code::PayeeUnknown] {
            let mut refusal = Refusal::new(code, "no");
            assert!(!may_pass(&refusal), "{code:?}");
            refusal.funds_moved = FundsMoved::Maybe;
            assert!(may_pass(&refusal), "{code:?}");
        }
    }
}
