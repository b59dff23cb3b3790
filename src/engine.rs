//! The engine's handle: what surfaces may ask, one method a verb, refusals that explain
//! themselves. And what its tasks share.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy::{
    primitives::{Address, B256, Signature, U256},
    signers::local::PrivateKeySigner,
    sol_types::Eip712Domain,
};
use serde_json::json;
use tokio::sync::{Mutex as AsyncMutex, Notify, mpsc, oneshot, watch};
use tracing::error;

use crate::{
    alert, approval,
    audit::{Draft, EventKind},
    book::{Agent, Book},
    buyer::{self, FetchRequest, FetchView, PurchasePage, Receipt},
    channel::{self, payee::Meters},
    clock::{self, Clock},
    config::Config,
    contract::coupon::CouponGrant,
    escrow::{
        self, ActionRequest, EscrowPage, EscrowRequest, EscrowView, Opened, StepApprovalView,
        act::Caller,
    },
    facilitator::{self, Facilitator},
    fees::{self, Fees},
    governance, intake,
    keys::{KeyError, Keys},
    lease::{self, Leases},
    metrics::Metrics,
    notify,
    payment::{AgentId, FundsMoved, Payee, PaymentId, PaymentRequest, State},
    policy::{self, Coupons},
    reconcile::Restored,
    refusal::{Code, Refusal},
    rpc::{At, Head, Rpc, RpcError},
    seller::{self, Paywall, PaywallError, PriceList},
    store::{PaymentRow, Store, StoreError, Tx, TxKind, Word},
    submit::{Flight, Flights, broadcast},
    view::{
        AgentView, AlertView, ApprovalView, ChannelsView, ClaimsView, DeliveryState, DeliveryView,
        PaymentPage, PaymentView, Permissions, ProposalView, ProposeBody, PurseView, QueueView,
        ReplayBody, SignatureBody, Simulation, StatusView, TightenOrder, WaitKind, WaitView,
        WalletView, WebhookView,
    },
};

/// Wei per gas offered to the block's builder at first: 0.01 gwei, what rollups take; replacements
/// raise it where a chain wants more.
pub(crate) const TIP: u128 = 10_000_000;

/// Characters of each text in a note about a stranger.
const NOTE_CHARS: usize = 200;
/// Notes about strangers in one second.
const STRANGERS_A_SECOND: u32 = 20;
/// Seconds after which a store that was not written to counts as out of order.
const WRITTEN_WITHIN_S: u64 = 45;

/// Why the engine could not do a step; its tasks try again.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The chain could not be asked.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// A key could not be derived.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A key did not sign.
    #[error("a key did not sign: {0}")]
    Sign(#[from] alloy::signers::Error),
    /// The contract answered something unexpected.
    #[error("the contract answered something unexpected: {0}")]
    Contract(#[from] alloy::sol_types::Error),
    /// Store, chain and engine disagree about a transaction: a fault, held until a person looks.
    #[error("store and chain disagree: {0}")]
    Encode(String),
    /// Another daemon has the lease: what was to be done is its work now.
    #[error("another daemon has the lease {0}: this one leaves it alone")]
    NotOurs(String),
}

impl From<&StoreError> for Refusal {
    fn from(error: &StoreError) -> Self {
        if error.is_unknown_outcome() {
            let mut refusal =
                Self::new(Code::Unavailable, "it is not known whether the store kept it")
                    .retry_after(5)
                    .hint("send the same request with the same Idempotency-Key again");
            refusal.funds_moved = FundsMoved::Maybe;
            return refusal;
        }
        Self::new(Code::Unavailable, "the store cannot be written; nothing was started")
            .retry_after(5)
            .hint("send the same request with the same Idempotency-Key again")
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::from(&error)
    }
}

impl From<&EngineError> for Refusal {
    fn from(error: &EngineError) -> Self {
        match error {
            EngineError::Store(error) => Self::from(error),
            EngineError::Rpc(_) => Self::new(Code::Unavailable, "the chain cannot be reached")
                .retry_after(5)
                .hint("try again shortly"),
            EngineError::NotOurs(_) => {
                Self::new(Code::Unavailable, "another daemon has just taken over this work")
                    .retry_after(1)
                    .hint("try again at once; nothing was started")
            }
            _ => Self::new(Code::Internal, "a fault of the daemon; its log has the details"),
        }
    }
}

/// Tells tasks to stop.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Listens to a sender of [`Stop::pair`].
    pub(crate) const fn of(receiver: watch::Receiver<bool>) -> Self {
        Self(receiver)
    }

    /// Makes the two ends: set the sender to `true` to stop everyone.
    #[must_use]
    pub fn pair() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(false);
        (sender, Self(receiver))
    }

    /// Waits until told to stop.
    pub async fn asked(&self) {
        let mut receiver = self.0.clone();
        // An owner that is gone will not tell any more.
        let _ = receiver.wait_for(|stop| *stop).await;
    }

    /// Was it told to stop?
    #[must_use]
    pub fn is_asked(&self) -> bool {
        *self.0.borrow()
    }
}

/// What the engine's tasks share.
pub(crate) struct Inner {
    pub config: Config,
    pub clock: Clock,
    pub store: Store,
    pub rpc: Rpc,
    pub keys: Arc<Keys>,
    pub domain: Eip712Domain,
    /// What buying over HTTP shares.
    pub shop: buyer::Shop,
    /// WorkEscrow, where this wallet has one.
    pub escrow: Option<escrow::Place>,
    pub facilitator: facilitator::Desk,
    /// What the paywall works on.
    pub sales: seller::Desk,
    /// Those who pay us by vouchers, where this chain has ChannelHub.
    pub meters: Option<Meters>,
    pub metrics: Metrics,
    pub flights: Flights,
    pub leases: Leases,
    pub intake: mpsc::Sender<intake::Job>,
    /// Something is queued, or a sender has room again.
    pub queued: Notify,
    /// Something is signed and stored.
    pub signed: Notify,
    pub book: Mutex<Book>,
    /// The final block as of which, or of a later one, the contract's policy must be in the book.
    pub policy_due: AtomicU64,
    /// Held while it is read: of two readings the later one must stand.
    pub reading: AsyncMutex<()>,
    pub head: Mutex<Option<Head>>,
    /// The newest head whose transactions are booked.
    pub booked: Mutex<Option<Head>>,
    pub chain_reached: AtomicBool,
    /// The node says it is on another chain: nothing is signed.
    pub wrong_chain: AtomicBool,
    /// Since when nodes answer with heads below the newest.
    pub behind_since: Mutex<Option<Duration>>,
    /// Unix seconds at which the chain was last reached.
    pub reached_s: AtomicU64,
    /// Unix seconds at which the store was last written to without fault.
    pub written_s: AtomicU64,
    /// Who is told of events.
    pub webhooks: Vec<Arc<notify::Endpoint>>,
    /// Notes about strangers in this second: unix seconds, and how many.
    pub strangers: Mutex<(u64, u32)>,
    pub relayers: Vec<PrivateKeySigner>,
    /// What is to be settled of a store that was restored from a backup.
    pub restored: Mutex<Option<Restored>>,
    /// High half of the wallet's nonces: drawn once for each store, and anew where it is older than
    /// what was done with its keys, so that it does not walk through spent nonces.
    pub nonce_epoch: u128,
}

impl Inner {
    /// What is known by heart, with everything that other daemons did before the last turn.
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        for word in self.store.words() {
            if let Word::Policy { block } = word {
                self.read_policy_again(block);
            }
            book.hear(&word);
        }
        book
    }

    /// The contract's policy is to be read again, as of `block` or a later one.
    pub(crate) fn read_policy_again(&self, block: u64) {
        self.policy_due.fetch_max(block, Ordering::AcqRel);
    }

    /// The later of wall clock and head, so that a decision is never before a block it knows of. A
    /// head further ahead than `chain.clock_drift_s` is not believed.
    pub(crate) fn now_s(&self) -> u64 {
        let head = self.head().map_or(0, |head| head.time_s());
        let now = self.clock.now_s();
        now.max(head.min(now.saturating_add(self.config.chain.clock_drift_s)))
    }

    /// May something be signed now? Not while the node is on another chain.
    pub(crate) fn may_sign(&self) -> bool {
        !self.wrong_chain.load(Ordering::Relaxed)
    }

    /// May the audit log take one more note about a stranger now?
    fn strangers_may_note(&self) -> bool {
        let now_s = self.clock.now_s();
        let mut seen = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.0 != now_s {
            *seen = (now_s, 0);
        }
        seen.1 = seen.1.saturating_add(1);
        seen.1 <= STRANGERS_A_SECOND
    }

    /// The newest head that was seen.
    pub(crate) fn head(&self) -> Option<Head> {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest head up to which this daemon has booked its transactions.
    pub(crate) fn booked(&self) -> Option<Head> {
        *self.booked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_booked(&self, head: Head) {
        *self.booked.lock().unwrap_or_else(PoisonError::into_inner) = Some(head);
    }

    pub(crate) fn set_head(&self, head: Head) {
        *self.head.lock().unwrap_or_else(PoisonError::into_inner) = Some(head);
        self.metrics.head.set(head.height().cast_signed());
        self.metrics.rpc_calls.set(self.rpc.calls().cast_signed());
        let waits_for = |flight: &Flight| broadcast::waits_for(self, flight);
        self.flights.note_waits(self.clock.now_ms(), waits_for);
        let too_dear = self.flights.too_dear();
        self.metrics.waiting_for_fee.set(i64::try_from(too_dear).unwrap_or(i64::MAX));
        self.metrics.in_flight.set(i64::try_from(self.flights.len()).unwrap_or(i64::MAX));
        let settling = self.flights.count(TxKind::Settlement);
        self.metrics.settling.set(i64::try_from(settling).unwrap_or(i64::MAX));
    }

    pub(crate) fn set_chain_reached(&self, reached: bool) {
        self.chain_reached.store(reached, Ordering::Relaxed);
        if reached {
            self.reached_s.store(self.clock.now_s(), Ordering::Relaxed);
        }
        self.metrics.chain_reached.set(i64::from(reached));
    }

    /// The newest head, for questions that a node which is behind must not answer.
    pub(crate) fn newest(&self) -> At {
        self.head().map_or(At::Latest, |head| At::from(&head))
    }

    /// The newest head's time, unix seconds: what deadlines on chain are judged by.
    pub(crate) fn chain_time_s(&self) -> Option<u64> {
        self.head().map(|head| head.time_s())
    }

    /// The newest head's number; 0 before the first look.
    pub(crate) fn height(&self) -> u64 {
        self.head().map_or(0, |head| head.height())
    }

    /// The newest head's time, unix seconds; 0 before the first look.
    pub(crate) fn head_time_s(&self) -> u64 {
        self.head().map_or(0, |head| head.time_s())
    }

    pub(crate) fn base_fee(&self) -> u128 {
        self.head().map_or(0, |head| head.base_fee())
    }

    pub(crate) fn fee_ceiling(&self) -> u128 {
        u128::from(self.config.submit.fee_ceiling_gwei) * 1_000_000_000
    }

    pub(crate) fn tip_ceiling(&self) -> u128 {
        u128::from(self.config.submit.tip_ceiling_gwei) * 1_000_000_000
    }

    pub(crate) fn first_fees(&self) -> Fees {
        fees::first(self.base_fee(), TIP, self.fee_ceiling())
    }

    pub(crate) fn relayer_addresses(&self) -> Vec<Address> {
        self.relayers.iter().map(PrivateKeySigner::address).collect()
    }

    /// Picks the least busy of some relayers with less than `in_flight` transactions on their way;
    /// one without gas money only if there is no other.
    pub(crate) fn sender_among(&self, relayers: &[Address], in_flight: u32) -> Option<Address> {
        let funded: Vec<_> =
            relayers.iter().copied().filter(|sender| !self.flights.is_broke(*sender)).collect();
        self.flights.freest(if funded.is_empty() { relayers } else { &funded }, in_flight)
    }

    pub(crate) fn relayer(&self, sender: Address) -> Result<PrivateKeySigner, EngineError> {
        self.relayers.iter().find(|signer| signer.address() == sender).cloned().ok_or_else(|| {
            EngineError::Encode(format!(
                "{sender} is no relayer of this seed: raise submit.relayers, or restore its seed"
            ))
        })
    }

    /// Is it one of the daemon's own keys?
    pub(crate) fn is_own_key(&self, address: Address) -> bool {
        self.book().agent_by_address(address).is_some()
            || self.relayers.iter().any(|signer| signer.address() == address)
    }

    /// Takes the next of a signer's unordered nonces in the wallet.
    pub(crate) async fn wallet_nonce(
        &self,
        tx: &mut Tx,
        signer: Address,
    ) -> Result<U256, StoreError> {
        let low = tx.take_nonce(&format!("wallet:{signer}")).await?;
        Ok((U256::from(self.nonce_epoch) << 64) | U256::from(low))
    }

    /// Writes a signature in the contract's form (EIP-2098).
    pub(crate) fn compact(&self, signature: &Signature) -> (B256, B256) {
        let bytes = signature.as_erc2098();
        (B256::from_slice(&bytes[..32]), B256::from_slice(&bytes[32..]))
    }

    pub(crate) fn count_denied(&self, code: Code) {
        self.metrics.denied.get_or_create(&code.into()).inc();
    }

    pub(crate) fn view(&self, row: &PaymentRow) -> PaymentView {
        PaymentView {
            id: row.id,
            agent: row.agent.clone(),
            state: row.state,
            funds_moved: row.state.funds_moved(),
            payee: row.payee,
            payee_label: row.payee_label.clone(),
            amount: row.amount,
            amount_units: row.amount.units(),
            reason: row.reason.clone(),
            context: row.context.clone(),
            context_hash: row.context_hash,
            idempotency_key: row.idempotency_key.clone(),
            policy_version: row.policy_version,
            refusal: row.refusal.clone(),
            waiting: self.waiting(row),
            escrow: row.escrow,
            transaction: row.tx_hash,
            block: row.block,
            created_at: clock::at_ms(row.created_ms),
            updated_at: clock::at_ms(row.updated_ms),
        }
    }
}

impl Inner {
    /// Has any relayer of this daemon room for one more transaction?
    fn has_room(&self) -> bool {
        self.sender_among(&self.own_relayers(), self.config.submit.in_flight).is_some()
    }

    /// What keeps a payment from getting into a block: its transaction's wait, or that of those which
    /// hold every relayer's room.
    fn waiting(&self, row: &PaymentRow) -> Option<WaitView> {
        let (what, at_ms, sender) = match (row.state, &row.tx_id) {
            (State::Signed | State::Broadcast, Some(id)) => self.flights.wait_of(Some(id))?,
            (State::Queued, _) if !self.has_room() => self.flights.wait_of(None)?,
            _ => return None,
        };
        let (base_fee, submit) = (fees::in_gwei(self.base_fee()), &self.config.submit);
        let (detail, hint) = match what {
            WaitKind::LowerFees => (
                format!(
                    "the chain asks for {base_fee} gwei a gas and a tip; the ceilings are {} and {}",
                    submit.fee_ceiling_gwei, submit.tip_ceiling_gwei
                ),
                "nothing is lost: it goes out once fees fall. Whoever runs the daemon can raise \
                 submit.fee_ceiling_gwei or submit.tip_ceiling_gwei and start it again",
            ),
            WaitKind::GasMoney => (
                format!("relayer {sender} has too little ether for its gas"),
                "nothing is lost: it goes out once the relayer has ether. Operators see what each \
                 relayer holds with `bursar status`",
            ),
        };
        let since = clock::at_ms(at_ms.max(row.created_ms));
        Some(WaitView { what, since, detail, hint: hint.to_owned() })
    }
}

/// A signed request's single-use nonce, proven by its signature.
#[derive(Clone, Debug)]
pub struct NonceClaim {
    /// The signer: an agent's key id (RFC 7638 thumbprint) or an operator's address.
    pub key_id: String,
    /// The nonce as sent.
    pub nonce: String,
    /// Unix seconds after which the signature is stale and the nonce may be forgotten.
    pub expires_s: u64,
}

/// An accepted payment, and whether this call made it.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// As it stands.
    pub payment: PaymentView,
    /// False where the idempotency key found an earlier one.
    pub fresh: bool,
}

/// The engine's handle: cheap to clone, shared by every surface.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

fn no_payment(id: PaymentId) -> Refusal {
    Refusal::new(Code::NotFound, format!("there is no payment {id}, or it is not yours"))
}

impl Engine {
    pub(crate) const fn new(inner: Arc<Inner>) -> Self {
        Self { inner }
    }

    /// Makes a paywall of a price list: a layer that charges for routes, here or in another server of
    /// this process.
    ///
    /// # Errors
    /// The price list names something that is not there; the token cannot be asked for its name.
    pub async fn paywall(&self, list: PriceList) -> Result<Paywall, PaywallError> {
        Paywall::new(Arc::clone(&self.inner), list).await
    }

    /// Returns the facilitator: verifies and settles payments of others on this daemon's chain.
    #[must_use]
    pub fn facilitator(&self) -> Facilitator {
        Facilitator::new(Arc::clone(&self.inner))
    }

    /// Finds the agent a request key belongs to: its name and its 32-byte Ed25519 public key.
    #[must_use]
    pub fn agent_by_key_id(&self, key_id: &str) -> Option<(AgentId, [u8; 32])> {
        let book = self.inner.book();
        let agent = book.agent_by_key(key_id)?;
        Some((agent.policy.agent.clone(), agent.policy.public_key))
    }

    /// Is the address an operator in the contract?
    #[must_use]
    pub fn is_operator(&self, address: Address) -> bool {
        self.inner.book().operators.contains(&address) && !self.inner.is_own_key(address)
    }

    /// Tells what is public about the wallet: chain, addresses, categories, operators.
    ///
    /// # Errors
    /// None today.
    pub async fn wallet(&self) -> Result<WalletView, Refusal> {
        let book = self.inner.book();
        let mut operators: Vec<Address> = book.operators.iter().copied().collect();
        operators.sort_unstable();
        Ok(WalletView {
            chain_id: self.inner.config.chain.chain_id,
            wallet: self.inner.config.chain.wallet,
            usdc: self.inner.config.chain.usdc,
            escrow: self.inner.escrow.as_ref().map(|place| place.address),
            frozen: book.wallet.frozen,
            categories: book.categories.names().to_vec(),
            operators,
            threshold: book.threshold,
        })
    }

    /// Returns chain id and wallet address: the domain of operators' signed requests.
    #[must_use]
    pub fn domain(&self) -> (u64, Address) {
        (self.inner.config.chain.chain_id, self.inner.config.chain.wallet)
    }

    /// Gives up everything that other daemons may take over, before an orderly end.
    pub(crate) async fn give_back(&self) -> Result<(), StoreError> {
        lease::give_back(&self.inner).await
    }

    /// Returns the clock the daemon lives by.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.inner.clock
    }

    /// Spends a nonce durably.
    ///
    /// # Errors
    /// `invalid_signature` if it was spent before; `overloaded`, `unavailable`.
    pub async fn claim(&self, claim: NonceClaim) -> Result<(), Refusal> {
        self.ask(|reply| intake::Job::Claim(claim, None, reply)).await
    }

    async fn ask<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> intake::Job,
    ) -> Result<T, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.inner.intake.try_send(job(reply)).map_err(|_| {
            Refusal::new(Code::Overloaded, "too many requests wait for the store")
                .retry_after(1)
                .hint("send the same request with the same Idempotency-Key again")
        })?;
        answer.await.unwrap_or_else(|_| {
            Err(Refusal::new(Code::Unavailable, "the daemon is stopping")
                .retry_after(5)
                .hint("send the same request with the same Idempotency-Key again"))
        })
    }

    /// Runs a change to its end, even when the caller goes away (a closed connection,
    /// a time-out): what is committed, what is sent and what the book says belong together.
    async fn whole<T, F>(&self, change: impl FnOnce(Arc<Inner>) -> F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Refusal>> + Send + 'static,
    {
        let task = tokio::spawn(change(Arc::clone(&self.inner)));
        task.await.unwrap_or_else(|fault| {
            error!(%fault, "a change broke off");
            let mut refusal =
                Refusal::new(Code::Internal, "a fault of the daemon; its log has the details")
                    .hint("look at what became of it before you try again");
            refusal.funds_moved = FundsMoved::Maybe;
            Err(refusal)
        })
    }

    /// Puts a request that failed authentication into the audit log: shortened, and only so many
    /// each second, since anyone can send one.
    pub async fn note_unauthenticated(&self, key_id: Option<&str>, target: &str, why: &str) {
        if !self.inner.strangers_may_note() {
            self.inner.metrics.notes_dropped.inc();
            return;
        }
        let short = |text: &str| text.chars().take(NOTE_CHARS).collect::<String>();
        self.inner.note(
            Draft::new(EventKind::AgentUnauthenticated, short(key_id.unwrap_or("unknown")))
                .data(json!({ "target": short(target), "why": short(why) })),
        );
    }

    /// Accepts a payment, or says why not. Spends `claim` in the same commit.
    ///
    /// # Errors
    /// Every refusal of the catalogue.
    pub async fn submit(
        &self,
        agent: AgentId,
        claim: NonceClaim,
        idempotency_key: String,
        request: PaymentRequest,
    ) -> Result<Accepted, Refusal> {
        let read =
            intake::check_key(&idempotency_key).and_then(|()| intake::read(&self.inner, &request));
        let request = match read {
            Ok(request) => request,
            Err(refusal) => return Err(self.refuse(&agent, claim, &request.payee, refusal).await),
        };
        self.ask(|reply| {
            intake::Job::Submit(Box::new(intake::Submit {
                agent,
                claim,
                key: idempotency_key,
                requests: vec![request],
                reply,
            }))
        })
        .await
    }

    /// Accepts a job: an escrow for each of its milestones, all or none. Spends `claim` in the same
    /// commit.
    ///
    /// # Errors
    /// Every refusal of the catalogue.
    pub async fn open_escrow(
        &self,
        agent: AgentId,
        claim: NonceClaim,
        idempotency_key: String,
        request: EscrowRequest,
    ) -> Result<(Opened, bool), Refusal> {
        let inner = &self.inner;
        let read = intake::check_key(&idempotency_key)
            .and_then(|()| escrow::open::read(inner, &agent, &request));
        let checked = match read {
            Ok(requests) => escrow::open::check(inner, &agent, &requests).await.map(|()| requests),
            Err(refusal) => Err(refusal),
        };
        let requests = match checked {
            Ok(requests) => requests,
            Err(refusal) => return Err(self.refuse(&agent, claim, &request.payee, refusal).await),
        };
        let accepted = self
            .ask(|reply| {
                intake::Job::Submit(Box::new(intake::Submit {
                    agent,
                    claim,
                    key: idempotency_key,
                    requests,
                    reply,
                }))
            })
            .await?;
        let id = accepted.payment.escrow.ok_or_else(|| {
            Refusal::new(Code::IdempotencyKeyReused, "this key belongs to a plain payment")
        })?;
        let escrow = inner.store.escrow(id).await?.ok_or_else(|| escrow::unknown(id))?;
        Ok((escrow::show::job(inner, &escrow.job_id).await?, accepted.fresh))
    }

    /// Does what an agent that is a party asks of an escrow, or finds that it was asked before.
    ///
    /// # Errors
    /// `not_found`, `conflict` with the contract's reason, `invalid_payment`, `unavailable`.
    pub async fn escrow_act(
        &self,
        agent: AgentId,
        id: B256,
        request: ActionRequest,
    ) -> Result<EscrowView, Refusal> {
        let caller = Caller::Agent(agent);
        self.whole(|inner| async move { escrow::act::act(&inner, caller, id, request).await }).await
    }

    /// Does what an operator hands in for an escrow's parties.
    ///
    /// # Errors
    /// As [`Engine::escrow_act`].
    pub async fn escrow_hand_in(
        &self,
        operator: Address,
        id: B256,
        request: ActionRequest,
    ) -> Result<EscrowView, Refusal> {
        let caller = Caller::Operator(operator);
        self.whole(|inner| async move { escrow::act::act(&inner, caller, id, request).await }).await
    }

    /// Shows an escrow to an agent that is a party (`None`: to operators).
    ///
    /// # Errors
    /// `not_found`.
    pub async fn escrow(&self, agent: Option<&AgentId>, id: B256) -> Result<EscrowView, Refusal> {
        let caller = agent.map_or(Caller::Daemon, |agent| Caller::Agent(agent.clone()));
        escrow::show::show(&self.inner, caller, id).await
    }

    /// Lists what an agent opened or is paid by (`None`: all), newest first; `limit` 1 to 200.
    ///
    /// # Errors
    /// `invalid_request` for a cursor that is none.
    pub async fn escrows(
        &self,
        agent: Option<&AgentId>,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<EscrowPage, Refusal> {
        escrow::show::list(&self.inner, agent, cursor, limit.clamp(1, 200)).await
    }

    /// Lists the releases that wait for operators, oldest first.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn escrow_approvals(&self) -> Result<Vec<StepApprovalView>, Refusal> {
        escrow::release::waiting(&self.inner).await
    }

    /// Shows one of them.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn escrow_approval(&self, id: &str) -> Result<StepApprovalView, Refusal> {
        escrow::release::approval(&self.inner, id).await
    }

    /// Adds an operator's signature to a release; the last one needed sends it.
    ///
    /// # Errors
    /// `invalid_signature`, `not_operator`, `conflict`, `not_found`.
    pub async fn approve_escrow(
        &self,
        id: String,
        body: SignatureBody,
    ) -> Result<StepApprovalView, Refusal> {
        self.whole(|inner| async move { escrow::release::approve(&inner, &id, body).await }).await
    }

    /// Makes an agent's call, and pays for it where it must and may. Goes on to its end when the
    /// caller goes away: what is signed is sent, and what comes of it is stored.
    ///
    /// # Errors
    /// Every refusal of the catalogue; `funds_moved` says whether money may have moved.
    pub async fn fetch(
        &self,
        agent: AgentId,
        idempotency_key: Option<String>,
        request: FetchRequest,
    ) -> Result<FetchView, Refusal> {
        self.whole(
            |inner| async move { buyer::fetch(&inner, agent, idempotency_key, request).await },
        )
        .await
    }

    /// Shows one of an agent's purchases.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn purchase(&self, agent: &AgentId, id: PaymentId) -> Result<Receipt, Refusal> {
        buyer::show(&self.inner, agent, id).await
    }

    /// Lists an agent's purchases, newest first; `limit` 1 to 200.
    ///
    /// # Errors
    /// `invalid_request` for a cursor that is none.
    pub async fn purchases(
        &self,
        agent: &AgentId,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<PurchasePage, Refusal> {
        buyer::list(&self.inner, agent, cursor, limit).await
    }

    /// Refuses an authenticated agent's request for a payment that cannot be read: spends its nonce
    /// and tells the audit log. Returns what to answer.
    pub async fn refuse(
        &self,
        agent: &AgentId,
        claim: NonceClaim,
        payee: &str,
        refusal: Refusal,
    ) -> Refusal {
        let payee: String = payee.chars().take(60).collect();
        let draft = Draft::new(EventKind::PaymentDenied, format!("agent:{agent}"))
            .agent(agent)
            .data(json!({ "refusal": refusal, "payee": payee }));
        self.inner.count_denied(refusal.code);
        match self.ask(|reply| intake::Job::Claim(claim, Some(draft), reply)).await {
            Ok(()) => refusal,
            Err(other) => other,
        }
    }

    /// Decides without paying.
    ///
    /// # Errors
    /// 400 and 422 for a request that cannot be read.
    pub async fn simulate(
        &self,
        agent: &AgentId,
        request: PaymentRequest,
    ) -> Result<Simulation, Refusal> {
        intake::simulate(&self.inner, agent, request).await
    }

    /// Reads one payment; `agent` None for operators.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn payment(
        &self,
        agent: Option<&AgentId>,
        id: PaymentId,
    ) -> Result<PaymentView, Refusal> {
        let row = self.inner.store.payment(id).await?;
        row.filter(|row| agent.is_none_or(|agent| *agent == row.agent))
            .map(|row| self.inner.view(&row))
            .ok_or_else(|| no_payment(id))
    }

    /// Lists payments, newest first; `limit` 1 to 200. `agent` None: of all agents; `state` None:
    /// in every state.
    ///
    /// # Errors
    /// `invalid_payment` for a cursor that is none.
    pub async fn payments(
        &self,
        agent: Option<&AgentId>,
        state: Option<State>,
        cursor: Option<&str>,
        limit: u32,
    ) -> Result<PaymentPage, Refusal> {
        let before = cursor.map(str::parse::<PaymentId>).transpose().map_err(|_| {
            Refusal::new(Code::InvalidPayment, "cursor is not one of ours")
                .hint("pass `next_cursor` of the page before, unchanged")
        })?;
        let limit = limit.clamp(1, 200);
        let rows = self.inner.store.payments(agent, state, before, limit).await?;
        let next_cursor = (rows.len() == limit as usize)
            .then(|| rows.last().map(|row| row.id.to_string()))
            .flatten();
        Ok(PaymentPage {
            payments: rows.iter().map(|row| self.inner.view(row)).collect(),
            next_cursor,
        })
    }

    /// Says what the agent may do.
    ///
    /// # Errors
    /// `agent_inactive` if there is no such agent any more.
    pub async fn permissions(&self, agent: &AgentId) -> Result<Permissions, Refusal> {
        let fetch = buyer::room(&self.inner, agent).await?;
        let now_s = self.inner.now_s();
        let book = self.inner.book();
        let known = book.agents.get(agent).ok_or_else(|| {
            Refusal::new(Code::AgentInactive, format!("there is no agent `{agent}` any more"))
        })?;
        let chain = known.chain.as_ref();
        let policy = &known.policy;
        let mask = policy.category_mask() & chain.map_or(0, |chain| chain.categories);
        let expiry_s = policy.expires_s.min(chain.map_or(u64::MAX, |chain| chain.expiry_s));
        let inactive_because = inactive(known, book.wallet.frozen, now_s);
        Ok(Permissions {
            agent: agent.clone(),
            address: known.address,
            active: inactive_because.is_none(),
            inactive_because,
            ceiling: chain
                .map_or(policy.limits.ceiling, |chain| chain.ceiling.min(policy.limits.ceiling)),
            expires_at: clock::at_s(expiry_s),
            policy_version: chain.map_or(0, |chain| chain.version),
            categories: book.categories.names_of(mask),
            limits: policy::limit_views(policy, chain, &known.usage, &book.wallet, now_s),
            fetch,
            payees: book.payee_list(mask),
        })
    }

    /// Lists what waits for operators, oldest first.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn approvals(&self) -> Result<Vec<ApprovalView>, Refusal> {
        approval::list(&self.inner).await
    }

    /// Shows one of them.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn approval(&self, id: PaymentId) -> Result<ApprovalView, Refusal> {
        approval::show(&self.inner, id).await
    }

    /// Adds an operator's signature.
    ///
    /// # Errors
    /// `invalid_signature`, `not_operator`, `conflict`, `not_found`.
    pub async fn approve(
        &self,
        id: PaymentId,
        body: SignatureBody,
    ) -> Result<ApprovalView, Refusal> {
        self.whole(|inner| async move { approval::approve(&inner, id, body).await }).await
    }

    /// Refuses a waiting payment.
    ///
    /// # Errors
    /// `invalid_payment`, `conflict`, `not_found`.
    pub async fn reject(
        &self,
        id: PaymentId,
        operator: Address,
        reason: String,
    ) -> Result<PaymentView, Refusal> {
        self.whole(|inner| async move { approval::reject(&inner, id, operator, reason).await })
            .await
    }

    /// Lists the agents.
    ///
    /// # Errors
    /// None today.
    pub async fn agents(&self) -> Result<Vec<AgentView>, Refusal> {
        let now_s = self.inner.now_s();
        let book = self.inner.book();
        let mut list: Vec<AgentView> = book
            .agents
            .values()
            .map(|known| {
                let (chain, usage) = (known.chain.as_ref(), &known.usage);
                let coupons = known.coupons.most_within(now_s, policy::WORST_CASE_S);
                AgentView {
                    agent: known.policy.agent.clone(),
                    address: known.address,
                    sponsor: known.policy.sponsor.clone(),
                    key_id: known.key_id.clone(),
                    frozen: usage.frozen,
                    on_chain: chain.is_some(),
                    policy_version: chain.map_or(0, |chain| chain.version),
                    limits: policy::limit_views(&known.policy, chain, usage, &book.wallet, now_s),
                    coupons: Coupons::from(known.granted).into(),
                    coupons_in_file: known
                        .policy
                        .coupons
                        .clone()
                        .filter(|file| CouponGrant::from(file) != known.granted)
                        .map(Into::into),
                    at_risk: policy::worst_case(
                        &known.policy,
                        chain,
                        usage,
                        &book.wallet,
                        coupons,
                        now_s,
                    ),
                }
            })
            .collect();
        list.sort_by(|a, b| a.agent.cmp(&b.agent));
        Ok(list)
    }

    /// Lists the payees.
    ///
    /// # Errors
    /// None today.
    pub async fn payees(&self) -> Result<Vec<Payee>, Refusal> {
        Ok(self.inner.book().payee_list(u16::MAX))
    }

    /// Takes an operator's tightening order: holds in the daemon at once, goes to the chain next.
    /// Returns the transaction's hash.
    ///
    /// # Errors
    /// `invalid_signature`, `not_operator`, `unprocessable`, `conflict`.
    pub async fn tighten(&self, order: TightenOrder) -> Result<B256, Refusal> {
        self.whole(|inner| async move { governance::tighten(&inner, order).await }).await
    }

    /// Lists proposals, newest first.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn proposals(&self) -> Result<Vec<ProposalView>, Refusal> {
        governance::list(&self.inner).await
    }

    /// Shows one proposal.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn proposal(&self, id: B256) -> Result<ProposalView, Refusal> {
        governance::show(&self.inner, id).await
    }

    /// Files a proposal.
    ///
    /// # Errors
    /// `unprocessable`, `conflict`.
    pub async fn propose(
        &self,
        operator: Address,
        body: ProposeBody,
    ) -> Result<ProposalView, Refusal> {
        self.whole(|inner| async move { governance::propose(&inner, operator, body).await }).await
    }

    /// Adds an operator's signature to a proposal.
    ///
    /// # Errors
    /// `invalid_signature`, `not_operator`, `conflict`, `not_found`.
    pub async fn sign_proposal(
        &self,
        id: B256,
        body: SignatureBody,
    ) -> Result<ProposalView, Refusal> {
        self.whole(|inner| async move { governance::sign(&inner, id, body).await }).await
    }

    /// Sends a complete proposal to the chain, or runs one whose delay is over.
    ///
    /// # Errors
    /// `conflict`, `not_found`.
    pub async fn apply_proposal(&self, id: B256) -> Result<ProposalView, Refusal> {
        self.whole(|inner| async move { governance::apply(&inner, id).await }).await
    }

    /// Drops a proposal that is still collecting signatures (one on chain takes a `revoke` order).
    ///
    /// # Errors
    /// `conflict`, `not_found`.
    pub async fn cancel_proposal(
        &self,
        id: B256,
        operator: Address,
    ) -> Result<ProposalView, Refusal> {
        self.whole(|inner| async move { governance::cancel(&inner, id, operator).await }).await
    }

    /// Tells how the daemon fares: queue, chain, gas, caps, alerts, webhooks, store.
    ///
    /// # Errors
    /// `unavailable` if the store cannot be read.
    pub async fn status(&self) -> Result<StatusView, Refusal> {
        let inner = &self.inner;
        let now_ms = inner.clock.now_ms();
        let queue = inner.store.queue().await?;
        let alerts = inner.store.alerts().await?;
        Ok(StatusView {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            at: clock::at_ms(now_ms),
            wallet: self.wallet().await?,
            head: inner.height(),
            lag_s: alert::watch::lag_s(inner),
            chain_reached: inner.chain_reached.load(Ordering::Relaxed),
            rpc_calls: inner.rpc.calls(),
            queue: queue
                .into_iter()
                .map(|row| QueueView {
                    state: row.state,
                    count: row.count,
                    oldest_s: alert::watch::seconds_since(row.oldest_ms, now_ms),
                })
                .collect(),
            in_flight: inner.flights.len() as u64,
            relayers: alert::watch::relayers(inner).await.unwrap_or_default(),
            facilitator: self.facilitator().view(),
            agents: self.agents().await?,
            alerts: alerts.into_iter().map(AlertView::from).collect(),
            webhooks: self.webhooks().await?,
            store: if inner.store.is_sqlite() { "sqlite" } else { "postgres" }.to_owned(),
            store_bytes: inner.store.size().await?,
            daemon: inner.store.me().to_owned(),
            leases: lease::shown(&inner.store).await?,
        })
    }

    /// Lists channels: those that we are paid through, and the wallet's own.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn channels(&self) -> Result<ChannelsView, Refusal> {
        Ok(channel::show::all(&self.inner).await?)
    }

    /// Closes one of the wallet's own channels on an operator's word.
    ///
    /// # Errors
    /// `not_found`; `conflict` while a deposit is on its way into it.
    pub async fn close_channel(&self, id: B256, operator: Address) -> Result<PurseView, Refusal> {
        let closed = self
            .whole(|inner| async move { buyer::purses::close(&inner, id, operator).await })
            .await?;
        Ok(channel::show::purse(&self.inner, &closed))
    }

    /// Claims now what channels owe.
    ///
    /// # Errors
    /// `unavailable`, where another daemon keeps the channels, too.
    pub async fn claim_channels(&self) -> Result<ClaimsView, Refusal> {
        self.whole(|inner| async move { channel::show::claim_now(&inner).await }).await
    }

    /// Lists the webhook endpoints and how they fare.
    ///
    /// # Errors
    /// `unavailable`.
    pub async fn webhooks(&self) -> Result<Vec<WebhookView>, Refusal> {
        Ok(notify::list(&self.inner).await?)
    }

    /// Lists deliveries, newest event first; `limit` 1 to 200.
    ///
    /// # Errors
    /// `not_found` for an endpoint that is none.
    pub async fn deliveries(
        &self,
        endpoint: Option<&str>,
        state: Option<DeliveryState>,
        event: Option<&str>,
        limit: u32,
    ) -> Result<Vec<DeliveryView>, Refusal> {
        notify::deliveries(&self.inner, endpoint, state, event, limit).await
    }

    /// Lets an endpoint that was disabled be sent to again, at once.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn enable_webhook(&self, name: String) -> Result<WebhookView, Refusal> {
        self.whole(|inner| async move { notify::enable(&inner, &name).await }).await
    }

    /// Sends an event of its own to an endpoint, to try it out.
    ///
    /// # Errors
    /// `not_found`.
    pub async fn test_webhook(&self, name: String) -> Result<DeliveryView, Refusal> {
        self.whole(|inner| async move { notify::test(&inner, &name).await }).await
    }

    /// Sends events to an endpoint once more; returns how many, 10,000 at most.
    ///
    /// # Errors
    /// `not_found`, `invalid_request`.
    pub async fn replay_webhooks(&self, name: String, body: ReplayBody) -> Result<u64, Refusal> {
        self.whole(|inner| async move { notify::replay(&inner, &name, &body).await }).await
    }

    /// Is the daemon ready: store written to and chain reached, each on the last look? Asks
    /// neither, since anyone may call it.
    ///
    /// # Errors
    /// `unavailable`, with what is missing.
    pub async fn ready(&self) -> Result<(), Refusal> {
        let written_s = self.inner.written_s.load(Ordering::Relaxed);
        if self.inner.clock.now_s().saturating_sub(written_s) > WRITTEN_WITHIN_S {
            return Err(Refusal::new(Code::Unavailable, "the store cannot be written")
                .hint("look at the daemon's log, and at the disk"));
        }
        if self.inner.chain_reached.load(Ordering::Relaxed) {
            return Ok(());
        }
        Err(Refusal::new(Code::Unavailable, "the chain cannot be reached")
            .hint("payments are accepted and wait; check chain.rpc"))
    }

    /// Renders the metrics in OpenMetrics text.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.inner.metrics.render()
    }
}

/// Says why an agent could not pay anything now.
fn inactive(agent: &Agent, wallet_frozen: bool, now_s: u64) -> Option<Refusal> {
    let refuse = |code, detail: &str| Some(Refusal::new(code, detail));
    let Some(chain) = &agent.chain else {
        return refuse(Code::AgentInactive, "the contract does not know the agent yet");
    };
    if wallet_frozen {
        refuse(Code::WalletFrozen, "the whole wallet is frozen")
    } else if agent.usage.frozen || chain.frozen {
        refuse(Code::AgentFrozen, "the agent is frozen")
    } else if !chain.active || now_s >= chain.expiry_s.min(agent.policy.expires_s) {
        refuse(Code::AgentInactive, "the agent's authority has ended")
    } else {
        None
    }
}
