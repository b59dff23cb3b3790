//! Submission: sign once, store, then say it.
//!
//! Three tasks, each an arrow of the picture. [`assign`] turns queued payments into signed, stored
//! transactions; [`broadcast`] sends stored bytes and nothing else; [`confirm`] reads heads and
//! receipts and ends transactions at depth. All durable work is found by scanning the store at
//! start ([`adopt`]) and kept in [`Flights`] from then on, so a crash loses nothing.

pub(crate) mod assign;
pub(crate) mod broadcast;
pub(crate) mod confirm;
mod fate;
mod outcome;

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use alloy::{
    consensus::{SignableTransaction as _, TxEip1559, TxEnvelope},
    eips::eip2718::Encodable2718 as _,
    primitives::{Address, B256, Bytes, TxKind as To, U256},
    signers::{SignerSync as _, local::PrivateKeySigner},
};
use serde::{Deserialize, Serialize};

use crate::{
    engine::{EngineError, Inner},
    fees::Fees,
    outcome::SendClass,
    payment::{AgentId, PaymentId},
    refusal::{Code, Refusal},
    rpc::At,
    store::{AttemptRow, OpenTx, TxKind, TxRow},
    view::WaitKind,
};

/// What a transaction carries, so that its receipt can be read years later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Manifest {
    /// `payBatch`: the batches in order; payments know their place.
    Batches(Vec<BatchRef>),
    /// `payApproved`, or `openEscrow` of a payment that funds an escrow.
    Approved { payment: PaymentId, agent: Address, nonce: U256, deadline_s: u64 },
    /// `submit` or `execute` of a proposal.
    Proposal { id: B256 },
    /// `tightenWithSignature`.
    Tighten { change: Bytes, signer: Address },
    /// A step of an escrow, by its action's id.
    Escrow { action: String },
    /// A payment of others, by its settlement's id.
    Settlement { id: String },
    /// Nothing: it uses up a nonce.
    Cancel,
    /// Vouchers of these channels, claimed and paid out.
    Claim { channels: Vec<B256> },
    /// `closeChannel` or `finishChannel`.
    Closing { channel: B256 },
}

/// One agent's batch in a `payBatch` call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BatchRef {
    pub id: AgentId,
    pub agent: Address,
    pub nonce: U256,
    pub items: u32,
    /// Unix seconds after which nobody can run it.
    pub deadline_s: u64,
    /// Hash over the contexts of its items.
    pub context: B256,
    /// A final block from before it left.
    pub since: u64,
}

/// A transaction on its way: the stored rows and what is only known in memory.
#[derive(Clone, Debug)]
pub(crate) struct Flight {
    pub open: OpenTx,
    /// By [`crate::clock::Clock::steady`].
    pub last_sent: Option<Duration>,
    /// The block it was last seen in.
    pub place: Option<B256>,
    /// What it waits for, and since when in milliseconds: as of the newest head.
    pub held: Option<(WaitKind, i64)>,
    pub sends: u32,
    /// Final, but something it carried can still run: it waits, and takes up no sender.
    pub waiting: bool,
    /// The node's last answer; `Ok` if it took the bytes.
    pub answer: Option<Result<(), SendClass>>,
}

impl Flight {
    pub(crate) const fn new(open: OpenTx) -> Self {
        Self {
            open,
            last_sent: None,
            place: None,
            held: None,
            sends: 0,
            waiting: false,
            answer: None,
        }
    }
}

/// The transactions on their way, by sender and nonce.
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<BTreeMap<(Address, u64), Flight>>);

impl Flights {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(Address, u64), Flight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, open: OpenTx) {
        self.lock().insert((open.tx.sender, open.tx.nonce), Flight::new(open));
    }

    /// Lets go of those of senders for whom `keep` says no.
    pub(crate) fn retain(&self, keep: impl Fn(Address) -> bool) {
        self.lock().retain(|(sender, _), _| keep(*sender));
    }

    pub(crate) fn remove(&self, tx: &TxRow) {
        self.lock().remove(&(tx.sender, tx.nonce));
    }

    pub(crate) fn all(&self) -> Vec<Flight> {
        self.lock().values().cloned().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Changes one flight, if it is still there.
    pub(crate) fn update(&self, tx: &TxRow, change: impl FnOnce(&mut Flight)) {
        if let Some(flight) = self.lock().get_mut(&(tx.sender, tx.nonce)) {
            change(flight);
        }
    }

    /// Did a node refuse one of the sender's transactions for want of gas money? What comes after it
    /// waits behind it.
    pub(crate) fn is_broke(&self, sender: Address) -> bool {
        let flights = self.lock();
        let mut own = flights.range((sender, 0)..=(sender, u64::MAX));
        own.any(|(_, flight)| flight.answer == Some(Err(SendClass::InsufficientFunds)))
    }

    /// Is there a transaction of the sender's before `nonce` that is in no block?
    pub(crate) fn is_behind(&self, sender: Address, nonce: u64) -> bool {
        let flights = self.lock();
        let mut before = flights.range((sender, 0)..(sender, nonce));
        before.any(|(_, flight)| flight.open.tx.block.is_none())
    }

    /// Makes those of the sender's transactions due that come before `nonce` and are in no block.
    pub(crate) fn resend_below(&self, sender: Address, nonce: u64) -> bool {
        let mut flights = self.lock();
        let mut found = false;
        for (_, flight) in flights.range_mut((sender, 0)..(sender, nonce)) {
            if flight.open.tx.block.is_none() && !flight.waiting {
                flight.last_sent = None;
                found = true;
            }
        }
        found
    }

    /// Counts the transactions of a kind.
    pub(crate) fn count(&self, kind: TxKind) -> usize {
        self.lock().values().filter(|flight| flight.open.tx.kind == kind).count()
    }

    /// Notes what each transaction waits for now, as `waits_for` says.
    pub(crate) fn note_waits(&self, now_ms: i64, waits_for: impl Fn(&Flight) -> Option<WaitKind>) {
        for flight in self.lock().values_mut() {
            let kind = waits_for(flight);
            if flight.held.map(|(kind, _)| kind) != kind {
                flight.held = kind.map(|kind| (kind, now_ms));
            }
        }
    }

    /// Counts the transactions that wait for lower fees.
    pub(crate) fn too_dear(&self) -> usize {
        let dear = |flight: &&Flight| matches!(flight.held, Some((WaitKind::LowerFees, _)));
        self.lock().values().filter(dear).count()
    }

    /// Says what a transaction waits for, and its sender; without an id, what any waits for longest.
    pub(crate) fn wait_of(&self, id: Option<&str>) -> Option<(WaitKind, i64, Address)> {
        let flights = self.lock();
        flights
            .values()
            .filter(|flight| id.is_none_or(|id| flight.open.tx.id == id))
            .filter_map(|flight| flight.held.map(|(kind, at)| (kind, at, flight.open.tx.sender)))
            .min_by_key(|(_, at, _)| *at)
    }

    /// Picks the sender with the most room, if any has room.
    pub(crate) fn freest(&self, senders: &[Address], in_flight: u32) -> Option<Address> {
        let flights = self.lock();
        senders
            .iter()
            .map(|sender| {
                let busy = flights
                    .range((*sender, 0)..=(*sender, u64::MAX))
                    .filter(|(_, flight)| !flight.waiting)
                    .count();
                (busy, *sender)
            })
            .filter(|(busy, _)| *busy < in_flight as usize)
            .min_by_key(|(busy, _)| *busy)
            .map(|(_, sender)| sender)
    }
}

/// Transactions a relayer may be ahead of the store (a backup was restored) and still be believed.
const PLAUSIBLE_RISE: u64 = 10_000;

/// Takes up what whoever had a relayer before left: every unfinished transaction, and nonces that
/// the chain has moved past (a restored store, a key used elsewhere).
pub(crate) async fn adopt(inner: &Inner, sender: Address) -> Result<(), EngineError> {
    // What is known of an earlier time may be over. First forget, then read: what an order launches
    // meanwhile is in one of the two.
    inner.flights.retain(|other| other != sender);
    for open in inner.store.open_txs_of(sender).await? {
        inner.flights.add(open);
    }
    let on_chain = inner.rpc.transaction_count(sender, At::Latest).await?;
    let mut tx = inner.begin_as(sender).await?;
    let ours = tx.raise_nonce(&sender.to_string(), on_chain).await?;
    if ours > 0 && on_chain > ours.saturating_add(PLAUSIBLE_RISE) {
        // A lie would leave a gap that nothing closes: better not to start.
        return Err(EngineError::Encode(format!(
            "the node says {sender} has sent {on_chain} transactions, the store knows {ours}: \
             ask another node; if it is right, use a fresh seed or restore the store"
        )));
    }
    tx.commit().await?;
    Ok(())
}

/// Signs a transaction's bytes. Deterministic (RFC 6979): the same fields give the same bytes.
pub(crate) fn sign(
    inner: &Inner,
    signer: &PrivateKeySigner,
    tx: &TxRow,
    fees: Fees,
) -> Result<AttemptRow, EngineError> {
    let unsigned = TxEip1559 {
        chain_id: inner.config.chain.chain_id,
        nonce: tx.nonce,
        gas_limit: tx.gas,
        max_fee_per_gas: fees.max_fee,
        max_priority_fee_per_gas: fees.tip,
        to: To::Call(tx.target),
        value: U256::ZERO,
        access_list: Default::default(),
        input: tx.calldata.clone(),
    };
    let signature = signer.sign_hash_sync(&unsigned.signature_hash())?;
    let envelope = TxEnvelope::from(unsigned.into_signed(signature));
    Ok(AttemptRow {
        hash: *envelope.tx_hash(),
        tx_id: tx.id.clone(),
        raw: envelope.encoded_2718().into(),
        max_fee: fees.max_fee,
        tip: fees.tip,
        created_ms: inner.clock.now_ms(),
    })
}

/// A call, before it has a sender.
pub(crate) struct Outgoing {
    pub kind: TxKind,
    pub target: Address,
    pub calldata: Bytes,
    pub gas: u64,
    pub manifest: Manifest,
}

/// Gives a call its sender, nonce, fees and signature, inside the caller's store transaction.
/// The caller commits, and only then calls [`Inner::launch`].
pub(crate) async fn prepare(
    inner: &Inner,
    store: &mut crate::store::Tx,
    sender: Address,
    call: Outgoing,
) -> Result<OpenTx, EngineError> {
    let nonce = store.take_nonce(&sender.to_string()).await?;
    prepare_at(inner, store, (sender, nonce), call).await
}

/// The same at a nonce that is the sender's, and no stored transaction's.
async fn prepare_at(
    inner: &Inner,
    store: &mut crate::store::Tx,
    (sender, nonce): (Address, u64),
    call: Outgoing,
) -> Result<OpenTx, EngineError> {
    let signer = inner.relayer(sender)?;
    let tx = TxRow {
        id: uuid::Uuid::now_v7().simple().to_string(),
        kind: call.kind,
        sender,
        nonce,
        target: call.target,
        calldata: call.calldata,
        gas: call.gas,
        manifest: serde_json::to_string(&call.manifest)
            .map_err(|error| EngineError::Encode(error.to_string()))?,
        block: None,
        created_ms: inner.clock.now_ms(),
    };
    let attempt = sign(inner, &signer, &tx, inner.first_fees())?;
    store.insert_tx(&tx, &attempt).await?;
    Ok(OpenTx { tx, attempts: vec![attempt] })
}

/// The same for what is never held up by payments in flight: an operator's change, an escrow's step.
/// It takes the least busy sender, and one without gas money only if there is no other.
pub(crate) async fn relay(
    inner: &Inner,
    store: &mut crate::store::Tx,
    call: Outgoing,
) -> Result<OpenTx, Refusal> {
    // What tightens is signed all the same: it is good on the right chain only, and must not wait.
    if call.kind != TxKind::Tighten && !inner.may_sign() {
        return Err(Refusal::new(
            Code::Unavailable,
            "the node is on another chain: nothing is signed",
        )
        .hint("correct chain.rpc, or ask whoever runs the node"));
    }
    let sender = inner
        .relayer_for_order(store)
        .await
        .map_err(|error| Refusal::from(&error))?
        .ok_or_else(|| Refusal::new(Code::Unavailable, "there is no relayer"))?;
    prepare(inner, store, sender, call).await.map_err(|error| Refusal::from(&error))
}

impl Inner {
    /// Hands a stored transaction to the broadcaster.
    pub(crate) fn launch(&self, open: OpenTx) {
        self.flights.add(open);
        self.signed.notify_one();
    }
}
