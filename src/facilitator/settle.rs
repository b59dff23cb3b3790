//! Settling: a row with a signed transaction, then the wait for the chain; and the row's end.

use alloy::{
    primitives::{Address, B256, U256},
    rpc::types::{Log, TransactionReceipt},
    sol_types::SolEvent as _,
};
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep_until};
use tracing::{error, info};

use super::{Declined, Facilitator, batch, check, read, read::Job, used};
use crate::{
    audit::{Draft, EventKind},
    contract::{IUsdc, token::IEip3009},
    crash::{self, Point},
    engine::{EngineError, Inner},
    rpc::{Head, LOG_SPAN},
    seller,
    store::{OpenTx, SettlementKind, SettlementRow, SettlementState, Tx, TxKind, TxRow},
    submit::{Manifest, Outgoing, prepare},
    x402::{FacilitatorRequest, Reason},
};

/// Blocks that are searched for who used a nonce that is used when it first comes.
const LOOK_BACK: u64 = 10_000;
/// The span in which failures count against whoever answers for them.
const FAILURES_MS: i64 = 3_600_000;

/// A payment whose money moved.
pub(super) struct Done {
    pub transaction: B256,
    pub payer: Address,
    /// Base units, where the scheme says how many moved.
    pub amount: Option<String>,
    pub extra: Option<Map<String, Value>>,
}

/// Settles a payment, or finds that it was settled or is on its way. `again`: whoever asks may hear
/// more than once that it is settled.
pub(super) async fn settle(
    inner: &Inner,
    request: &FacilitatorRequest,
    again: bool,
) -> Result<Done, Declined> {
    let job = read::job(inner, request).await?;
    let until = Instant::now() + Facilitator::wait(inner);
    let done = async {
        let transaction = once(inner, &job, until).await?;
        let told = batch::told(inner, request, &job, transaction).await;
        // It is settled: what is not known of it is asked for again.
        let (amount, extra) = told.map_err(|declined| Declined {
            reason: Reason::SettlementPending,
            transaction: Some(transaction),
            ..declined
        })?;
        // The hub takes claims and refunds once, whoever hears of it how often.
        let again = again || matches!(job.kind, SettlementKind::Claim | SettlementKind::Refund);
        if !tell(inner, &job).await.map_err(|error| unsure(error.into()))? && !again {
            let why = "it was settled by this transaction, and somebody was told so";
            let declined = Declined::new(Reason::DuplicateSettlement, why);
            return Err(Declined { transaction: Some(transaction), ..declined });
        }
        Ok(Done { transaction, payer: job.payer, amount, extra })
    };
    let done: Result<Done, Declined> = done.await;
    done.map_err(|declined| batch::named(job.kind, declined).payer(job.payer))
}

async fn once(inner: &Inner, job: &Job, until: Instant) -> Result<B256, Declined> {
    match inner.store.settlement(&job.id).await? {
        Some(row) if row.state != SettlementState::Failed => {
            return outcome(inner, job, until).await.map_err(unsure);
        }
        _ => {}
    }
    let checked = match check::now(inner, job).await {
        Ok(checked) => checked,
        // Anybody may submit what was signed: the payee may have been paid all the same.
        Err(declined) if declined.reason == Reason::NonceUsed => {
            return taken(inner, job, until).await?.ok_or(declined);
        }
        Err(declined) => return Err(declined),
    };
    allowed(inner, job, checked.sender).await?;
    room(inner, until).await?;
    match store_and_send(inner, job, &checked).await {
        Ok(true) => {}
        Ok(false) => info!(id = job.id, "somebody else settles it"),
        Err(EngineError::Store(error)) if error.is_unknown_outcome() => {
            return Err(unsure(error.into()));
        }
        Err(error) => return Err(error.into()),
    }
    outcome(inner, job, until).await.map_err(unsure)
}

/// What goes wrong once something may have been sent says nothing of the payment.
fn unsure(declined: Declined) -> Declined {
    if declined.reason != Reason::UnexpectedVerifyError {
        return declined;
    }
    let why = "what became of it is not known: ask again with the same payment, and sign no other";
    Declined { reason: Reason::SettlementPending, why: why.into(), ..declined }
}

/// Notes that somebody is told. Answers `false` if somebody was before.
async fn tell(inner: &Inner, job: &Job) -> Result<bool, EngineError> {
    let mut store = inner.store.begin().await?;
    let is_first = store.tell_settlement(&job.id).await?;
    store.commit().await?;
    Ok(is_first)
}

/// Waits until it is final that somebody else's transaction has paid, and keeps that.
async fn taken(inner: &Inner, job: &Job, until: Instant) -> Result<Option<B256>, Declined> {
    loop {
        let Some(head) = inner.head() else { return Ok(None) };
        let since = head.height().saturating_sub(LOOK_BACK);
        let Some((hash, block)) = elsewhere(inner, &Wanted::of(job), since, &head).await? else {
            return Ok(None);
        };
        // It is not ours to send again if its block falls out of the chain.
        if (head.height() + 1).saturating_sub(block) >= inner.config.chain.confirmations {
            let row = SettlementRow {
                state: SettlementState::Settled,
                tx_hash: hash,
                ..row(job, inner.height())
            };
            let now_ms = inner.clock.now_ms();
            let mut store = inner.store.begin().await?;
            if store.put_settlement(&row, now_ms).await? {
                let draft = Draft::new(EventKind::SettlementFinalized, "chain").data(story(&row));
                store.append_audit(&[draft], now_ms).await?;
                store.commit().await?;
            }
            return Ok(Some(hash));
        }
        if !pause(inner, until).await {
            let why = "somebody else has submitted it, and that is not final yet: ask again";
            let declined = Declined::new(Reason::SettlementPending, why);
            return Err(Declined { transaction: Some(hash), ..declined });
        }
    }
}

/// Is there somebody to pay the gas, and has nobody wasted too much of it?
async fn allowed(inner: &Inner, job: &Job, sender: Address) -> Result<(), Declined> {
    let unable = |why: &str| Err(Declined::new(Reason::UnexpectedSettleError, why));
    if !inner.may_sign() {
        return unable("the node is on another chain: nothing is signed");
    }
    if inner.flights.is_broke(sender) {
        return unable("the facilitator has no gas money");
    }
    let since_ms = inner.clock.now_ms() - FAILURES_MS;
    let failed = inner.store.settlement_failures(job.origin, since_ms).await?;
    if failed >= inner.config.facilitator.failures {
        let why = format!("{failed} settlements of {} have failed within an hour", job.origin);
        return Err(Declined::new(Reason::InvalidTransactionState, why));
    }
    Ok(())
}

/// Waits until there are fewer settlements on their way than may be.
async fn room(inner: &Inner, until: Instant) -> Result<(), Declined> {
    while inner.flights.count(TxKind::Settlement) >= inner.config.facilitator.in_flight {
        if !pause(inner, until).await {
            let why = "too many settlements are on their way; nothing was sent";
            return Err(Declined::new(Reason::UnexpectedSettleError, why));
        }
    }
    Ok(())
}

/// Waits for news of any transaction, or a look's time. Answers `false` if time is up.
async fn pause(inner: &Inner, until: Instant) -> bool {
    let now = Instant::now();
    if now >= until {
        return false;
    }
    tokio::select! {
        () = inner.facilitator.landed.notified() => {}
        () = sleep_until((now + inner.config.poll()).min(until)) => {}
    }
    true
}

/// Makes the settlement a row with its signed transaction, and only then sends it. Answers `false`
/// if somebody else has.
async fn store_and_send(
    inner: &Inner,
    job: &Job,
    checked: &check::Checked,
) -> Result<bool, EngineError> {
    let now_ms = inner.clock.now_ms();
    let call = Outgoing {
        kind: TxKind::Settlement,
        target: job.target,
        calldata: job.calldata.clone(),
        gas: checked.gas,
        manifest: Manifest::Settlement { id: job.id.clone() },
    };
    let mut store = inner.begin_as(checked.sender).await?;
    let open = prepare(inner, &mut store, checked.sender, call).await?;
    let row = SettlementRow {
        tx_id: open.tx.id.clone(),
        tx_hash: first_hash(&open),
        ..row(job, inner.height())
    };
    // Dropped, the transaction takes its nonce back.
    if !store.put_settlement(&row, now_ms).await? {
        return Ok(false);
    }
    let draft = Draft::new(EventKind::SettlementSigned, "facilitator").tx(&open.tx.id);
    store.append_audit(&[draft.data(story(&row))], now_ms).await?;
    store.commit().await?;
    crash::at(Point::SettlementCommitted);
    inner.launch(open);
    Ok(true)
}

fn row(job: &Job, since: u64) -> SettlementRow {
    SettlementRow {
        id: job.id.clone(),
        kind: job.kind,
        payer: job.payer,
        payee: job.payee,
        asset: job.asset,
        amount: job.amount,
        nonce: job.nonce,
        origin: job.origin,
        state: SettlementState::Sent,
        tx_id: String::new(),
        tx_hash: B256::ZERO,
        since,
        failures: 0,
        detail: None,
        told: false,
    }
}

fn first_hash(open: &OpenTx) -> B256 {
    open.attempts.first().map(|attempt| attempt.hash).unwrap_or_default()
}

fn story(row: &SettlementRow) -> serde_json::Value {
    json!({
        "settlement": row.id, "kind": row.kind.as_str(), "payer": row.payer, "payee": row.payee,
        "amount_units": row.amount.to_string(), "hash": row.tx_hash,
    })
}

/// Waits for what is on its way, however it came there.
async fn outcome(inner: &Inner, job: &Job, until: Instant) -> Result<B256, Declined> {
    loop {
        let Some(row) = inner.store.settlement(&job.id).await? else {
            return Err(EngineError::Encode(format!("{} is not in the store", job.id)).into());
        };
        if !job.is(&row) {
            return Err(used("its nonce was used for another payment"));
        }
        let settled = match row.state {
            SettlementState::Settled => Some(row.tx_hash),
            // A node that cannot say has said nothing.
            SettlementState::Sent => included(inner, &row).await.unwrap_or(None),
            SettlementState::Failed => {
                let why = row.detail.unwrap_or_else(|| "the transaction moved nothing".into());
                let declined = Declined::new(Reason::InvalidTransactionState, why);
                return Err(Declined { transaction: Some(row.tx_hash), ..declined });
            }
        };
        if let Some(hash) = settled {
            return Ok(hash);
        }
        if !pause(inner, until).await {
            let (_, attempts) = inner.store.whereabouts(&row.tx_id).await?;
            let why = "on its way: ask again with the same payment, and sign no other";
            return Err(Declined {
                transaction: attempts.last().copied().or(Some(row.tx_hash)),
                ..Declined::new(Reason::SettlementPending, why)
            });
        }
    }
}

/// Has its transaction moved the money, deep enough to be told?
async fn included(inner: &Inner, row: &SettlementRow) -> Result<Option<B256>, EngineError> {
    let (Some(block), hashes) = inner.store.whereabouts(&row.tx_id).await? else {
        return Ok(None);
    };
    let Some(head) = inner.head() else { return Ok(None) };
    if (head.height() + 1).saturating_sub(block) < inner.config.facilitator.confirmations {
        return Ok(None);
    }
    let receipts = inner.rpc.receipts(&head, &hashes).await?;
    let Some(receipt) = receipts.into_iter().flatten().next() else { return Ok(None) };
    Ok(moved_it(inner, &Wanted::of_row(row), &receipt, &head)
        .await?
        .then_some(receipt.transaction_hash))
}

/// What must have happened.
struct Wanted {
    kind: SettlementKind,
    payer: Address,
    payee: Address,
    asset: Address,
    amount: U256,
    nonce: B256,
}

impl Wanted {
    const fn of(job: &Job) -> Self {
        let Job { payer, payee, asset, amount, nonce, .. } = *job;
        Self { kind: job.kind, payer, payee, asset, amount, nonce }
    }

    const fn of_row(row: &SettlementRow) -> Self {
        let SettlementRow { kind, payer, payee, asset, amount, nonce, .. } = *row;
        Self { kind, payer, payee, asset, amount, nonce }
    }

    /// Do a transaction's logs show it? By the token's own logs: what it says of the authorization,
    /// and of the transfer.
    fn is_in(&self, logs: &[Log]) -> bool {
        let own = || logs.iter().filter(|log| log.address() == self.asset);
        let paid = own().any(|log| {
            IUsdc::Transfer::decode_log(&log.inner).is_ok_and(|event| {
                (event.from, event.to, event.value) == (self.payer, self.payee, self.amount)
            })
        });
        let is_used = || {
            own().any(|log| {
                IEip3009::AuthorizationUsed::decode_log(&log.inner)
                    .is_ok_and(|event| (event.authorizer, event.nonce) == (self.payer, self.nonce))
            })
        };
        match self.kind {
            SettlementKind::Exact | SettlementKind::Deposit => paid && is_used(),
            SettlementKind::Delegated => paid,
            // The hub does all of it or reverts.
            SettlementKind::Claim | SettlementKind::Payout | SettlementKind::Refund => true,
        }
    }
}

/// Did a transaction of this chain do what was wanted?
async fn moved_it(
    inner: &Inner,
    wanted: &Wanted,
    receipt: &TransactionReceipt,
    head: &Head,
) -> Result<bool, EngineError> {
    let Some(number) = receipt.block_number else { return Ok(false) };
    if !receipt.status() || !wanted.is_in(receipt.inner.logs()) {
        return Ok(false);
    }
    let blocks = inner.rpc.heads_under(head, &[number]).await?;
    // A receipt of a block that is not on this chain is no receipt.
    Ok(blocks.into_iter().flatten().next().map(|block| block.hash) == receipt.block_hash)
}

/// Finds the transaction of anybody's that used the payment's nonce, and paid it; and its block.
async fn elsewhere(
    inner: &Inner,
    wanted: &Wanted,
    since: u64,
    head: &Head,
) -> Result<Option<(B256, u64)>, EngineError> {
    if !matches!(wanted.kind, SettlementKind::Exact | SettlementKind::Deposit) {
        return Ok(None);
    }
    let topic = IEip3009::AuthorizationUsed::SIGNATURE_HASH;
    let payer = wanted.payer.into_word();
    let mut to = head.height();
    loop {
        let from = to.saturating_sub(LOG_SPAN - 1).max(since);
        let topics = json!([topic, payer, wanted.nonce]);
        let logs = inner.rpc.logs_by(wanted.asset, (from, to), topics, head).await?;
        if let Some(log) = logs.first() {
            let (Some(hash), Some(block)) = (log.transaction_hash, log.block_number) else {
                return Ok(None);
            };
            let receipts = inner.rpc.receipts(head, &[hash]).await?;
            let Some(receipt) = receipts.into_iter().flatten().next() else { return Ok(None) };
            return Ok(moved_it(inner, wanted, &receipt, head).await?.then_some((hash, block)));
        }
        if from <= since {
            return Ok(None);
        }
        to = from - 1;
    }
}

/// How a settlement ended.
pub(crate) struct Ending {
    row: SettlementRow,
    settled: Result<B256, &'static str>,
}

/// Reads how the settlement of a final transaction ended; `last` is the newest final block. Asked
/// before the store's transaction begins: no writer waits for a node. Without a receipt it has not
/// ended: it is sent again.
pub(crate) async fn ended(
    inner: &Inner,
    manifest: &Manifest,
    receipt: Option<&TransactionReceipt>,
    last: &Head,
) -> Result<Option<Ending>, EngineError> {
    let (Manifest::Settlement { id }, Some(receipt)) = (manifest, receipt) else {
        return Ok(None);
    };
    let Some(row) = inner.store.settlement(id).await? else {
        return Err(EngineError::Encode(format!("{id} is not in the store")));
    };
    let wanted = Wanted::of_row(&row);
    let settled = if receipt.status() && wanted.is_in(receipt.inner.logs()) {
        Ok(receipt.transaction_hash)
    } else {
        // Anybody may have submitted what was signed.
        let found = elsewhere(inner, &wanted, row.since, last).await?;
        found.map(|(hash, _)| hash).ok_or(if receipt.status() {
            "the transaction went through and did not move the money"
        } else {
            "the transaction reverted"
        })
    };
    Ok(Some(Ending { row, settled }))
}

impl Ending {
    /// Writes it.
    pub(crate) async fn write(
        self,
        inner: &Inner,
        store: &mut Tx,
        tx: &TxRow,
        now_ms: i64,
        drafts: &mut Vec<Draft>,
    ) -> Result<(), EngineError> {
        let Self { mut row, settled } = self;
        store.end_settlement(&row.id, settled, now_ms).await?;
        seller::ended(inner, store, (&row.id, settled), now_ms, drafts).await?;
        let kind = match settled {
            Ok(hash) => {
                row.tx_hash = hash;
                inner.metrics.settled.inc();
                EventKind::SettlementFinalized
            }
            Err(why) => {
                if row.told {
                    error!(id = row.id, why, "its block fell out of the chain after it was told");
                }
                inner.metrics.unsettled.inc();
                EventKind::SettlementFailed
            }
        };
        let draft = Draft::new(kind, "chain").tx(&tx.id).data(story(&row));
        drafts.push(draft.and("why", json!(settled.err())));
        Ok(())
    }
}

/// Notes that a settlement has another transaction now.
pub(crate) async fn moved(
    store: &mut Tx,
    manifest: &Manifest,
    next: &OpenTx,
    now_ms: i64,
) -> Result<(), EngineError> {
    if let Manifest::Settlement { id } = manifest {
        store.move_settlement(id, &next.tx.id, first_hash(next), now_ms).await?;
    }
    Ok(())
}
