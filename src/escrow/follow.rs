//! Following: WorkEscrow's final logs, read once each, are where an escrow stands. State, ledger,
//! audit, outbox and the mark of what was read change in one commit.

use std::collections::{BTreeMap, HashMap};

use alloy::{
    primitives::{Address, B256, U256},
    rpc::types::Log,
    sol_types::{SolEvent as _, SolEventInterface as _},
};
use serde_json::json;
use tracing::info;

use super::{EscrowState, StepKind, act::story};
use crate::{
    audit::{Draft, EventKind},
    contract::escrow::{self, IWorkEscrow, IWorkEscrow::IWorkEscrowEvents as Events},
    engine::{EngineError, Inner},
    ledger::Account,
    money::Usdc,
    rpc::{Head, LOG_SPAN, RpcError},
    store::{EscrowRow, StepRow, Tx},
};

/// Blocks without a log after which the mark moves all the same: an fsync a block is dear.
const QUIET: u64 = 64;

pub(crate) const FOLLOWED: &str = "escrow_block";

fn topics() -> Vec<B256> {
    vec![
        IWorkEscrow::JobFunded::SIGNATURE_HASH,
        IWorkEscrow::JobSubmitted::SIGNATURE_HASH,
        IWorkEscrow::PaymentReleased::SIGNATURE_HASH,
        IWorkEscrow::JobCompleted::SIGNATURE_HASH,
        IWorkEscrow::JobRejected::SIGNATURE_HASH,
        IWorkEscrow::JobExpired::SIGNATURE_HASH,
        IWorkEscrow::Refunded::SIGNATURE_HASH,
        IWorkEscrow::JobDisputed::SIGNATURE_HASH,
        IWorkEscrow::AwardIssued::SIGNATURE_HASH,
        IWorkEscrow::PaymentReturned::SIGNATURE_HASH,
        IWorkEscrow::PayoutDeferred::SIGNATURE_HASH,
        IWorkEscrow::CreditWithdrawn::SIGNATURE_HASH,
    ]
}

/// Reads the logs up to `last`, a final block, that were not read yet.
pub(crate) async fn follow(inner: &Inner, last: &Head) -> Result<(), EngineError> {
    let Some(place) = &inner.escrow else { return Ok(()) };
    let head = last.height();
    loop {
        let read = inner.store.meta(FOLLOWED).await?;
        let from = read
            .as_ref()
            .and_then(|text| text.parse::<u64>().ok())
            .map_or(inner.config.chain.from_block, |block| block + 1);
        if from > head {
            return Ok(());
        }
        let to = head.min(from + LOG_SPAN - 1);
        let logs = inner.rpc.logs(place.address, (from, to), &topics(), last).await?;
        if logs.is_empty() && to - from < QUIET {
            return Ok(());
        }
        let times = times(inner, &logs, last).await?;
        let now_ms = inner.clock.now_ms();
        let mut store = inner.store.begin().await?;
        // Another daemon read them in the meantime: each log is taken up once.
        if !store.replace_meta(FOLLOWED, read.as_deref(), &to.to_string()).await? {
            continue;
        }
        let mut reader = Reader { inner, drafts: Vec::new(), escrows: BTreeMap::new(), now_ms };
        for log in &logs {
            reader.read(&mut store, log, &times).await?;
        }
        for escrow in reader.escrows.values() {
            store.put_escrow(escrow, now_ms).await?;
        }
        store.append_audit(&reader.drafts, now_ms).await?;
        store.commit().await?;
    }
}

/// Reads the times of the blocks that the logs stand in.
async fn times(inner: &Inner, logs: &[Log], last: &Head) -> Result<HashMap<u64, u64>, EngineError> {
    let mut numbers: Vec<u64> = logs.iter().filter_map(|log| log.block_number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let heads = inner.rpc.heads_under(last, &numbers).await?;
    Ok(heads.into_iter().flatten().map(|head| (head.height(), head.time_s())).collect())
}

fn nonsense(why: &str) -> EngineError {
    RpcError::Unknown { method: "eth_getLogs", why: why.into() }.into()
}

fn usdc(units: U256) -> Result<Usdc, EngineError> {
    u64::try_from(units)
        .ok()
        .and_then(Usdc::from_units)
        .ok_or_else(|| nonsense("an amount above all USDC"))
}

/// Reads one commit's worth of logs.
struct Reader<'a> {
    inner: &'a Inner,
    drafts: Vec<Draft>,
    escrows: BTreeMap<B256, EscrowRow>,
    now_ms: i64,
}

/// What a log says of an escrow.
struct Said {
    kind: StepKind,
    party: Option<Address>,
    amount: Option<Usdc>,
    hash: Option<B256>,
}

impl Said {
    const fn new(kind: StepKind) -> Self {
        Self { kind, party: None, amount: None, hash: None }
    }

    fn by(self, party: Address) -> Self {
        Self { party: (!party.is_zero()).then_some(party), ..self }
    }

    fn of(self, amount: U256) -> Result<Self, EngineError> {
        Ok(Self { amount: Some(usdc(amount)?), ..self })
    }

    fn with(self, hash: B256) -> Self {
        Self { hash: Some(hash), ..self }
    }
}

impl Reader<'_> {
    async fn read(
        &mut self,
        store: &mut Tx,
        log: &Log,
        times: &HashMap<u64, u64>,
    ) -> Result<(), EngineError> {
        let (Some(tx_hash), Some(block), Some(index)) =
            (log.transaction_hash, log.block_number, log.log_index)
        else {
            return Err(nonsense("a log without its place"));
        };
        let at_s = *times.get(&block).ok_or_else(|| nonsense("a log without its block"))?;
        let id = format!("{tx_hash}:{index}");
        let (job, said) = match Events::decode_log(&log.inner).map(|log| log.data) {
            Ok(Events::JobFunded(event)) => {
                (event.jobId, Said::new(StepKind::Funded).by(event.client).of(event.amount)?)
            }
            Ok(Events::JobSubmitted(event)) => (
                event.jobId,
                Said::new(StepKind::Submitted).by(event.provider).with(event.deliverable),
            ),
            Ok(Events::PaymentReleased(event)) => {
                (event.jobId, Said::new(StepKind::Released).by(event.provider).of(event.amount)?)
            }
            Ok(Events::JobCompleted(event)) => {
                (event.jobId, Said::new(StepKind::Completed).by(event.evaluator).with(event.reason))
            }
            Ok(Events::JobRejected(event)) => {
                (event.jobId, Said::new(StepKind::Rejected).by(event.rejector).with(event.reason))
            }
            Ok(Events::JobExpired(event)) => (event.jobId, Said::new(StepKind::Expired)),
            Ok(Events::Refunded(event)) => {
                (event.jobId, Said::new(StepKind::Refunded).by(event.client).of(event.amount)?)
            }
            Ok(Events::JobDisputed(event)) => {
                (event.jobId, Said::new(StepKind::Disputed).by(event.party).with(event.evidence))
            }
            Ok(Events::AwardIssued(event)) => (
                event.jobId,
                Said::new(StepKind::Awarded)
                    .by(event.evaluator)
                    .of(event.captured)?
                    .with(event.reason),
            ),
            Ok(Events::PaymentReturned(event)) => {
                (event.jobId, Said::new(StepKind::Returned).by(event.from).of(event.amount)?)
            }
            Ok(Events::PayoutDeferred(event)) => {
                (event.jobId, Said::new(StepKind::Deferred).by(event.account).of(event.amount)?)
            }
            Ok(Events::CreditWithdrawn(event)) => {
                return self.withdrawn(store, &id, event.account, usdc(event.amount)?).await;
            }
            _ => return Ok(()),
        };
        let escrow = B256::from(job);
        if !self.escrows.contains_key(&escrow)
            && let Some(row) = store.escrow(escrow).await?
        {
            self.escrows.insert(escrow, row);
        }
        // WorkEscrow serves everybody; only this wallet's escrows are in the store.
        let Some(row) = self.escrows.get_mut(&escrow) else { return Ok(()) };
        let step = StepRow {
            id,
            escrow,
            kind: said.kind,
            party: said.party,
            amount: said.amount,
            hash: said.hash,
            tx_hash,
            block,
            log_index: index,
            at_s,
        };
        let before = row.captured;
        change(row, &step);
        let row = row.clone();
        self.book(store, &row, &step, before).await?;
        self.say(&row, &step);
        Ok(store.insert_step(&step).await?)
    }

    /// Moves in the ledger what the chain has moved.
    async fn book(
        &self,
        store: &mut Tx,
        row: &EscrowRow,
        step: &StepRow,
        before: Usdc,
    ) -> Result<(), EngineError> {
        let Some(amount) = step.amount else { return Ok(()) };
        let escrow = || Account::Escrow(row.id);
        let mut moves: Vec<(Account, Account, Usdc)> = Vec::new();
        match step.kind {
            StepKind::Released => {
                let cut = |total: Usdc| escrow::split(&row.payouts, total.units());
                let ((had, payee_had), (has, payee_has)) = (cut(before), cut(row.captured));
                let parts = row.payouts.iter().map(|payout| payout.to).zip(has.iter().zip(&had));
                for (to, (has, had)) in parts.chain([(row.terms.payee, (&payee_has, &payee_had))]) {
                    let part = Usdc::from_units(has.saturating_sub(*had)).unwrap_or_default();
                    moves.push((escrow(), Account::Payee(to), part));
                }
            }
            StepKind::Refunded => moves.push((escrow(), Account::Wallet, amount)),
            StepKind::Returned => {
                moves.push((Account::Payee(row.terms.payee), Account::Wallet, amount));
            }
            StepKind::Deferred => {
                let Some(account) = step.party else { return Ok(()) };
                let from = if account == row.terms.payer {
                    Account::Wallet
                } else {
                    Account::Payee(account)
                };
                moves.push((from, Account::Owed(account), amount));
            }
            _ => {}
        }
        for (part, (from, to, amount)) in moves.into_iter().enumerate() {
            if !amount.is_zero() {
                let id = format!("{}:{part}", step.id);
                store.book_moved(&id, (from, to), amount, self.now_ms).await?;
            }
        }
        Ok(())
    }

    /// An account got what waited for it; as much of it as came from this wallet's escrows.
    async fn withdrawn(
        &self,
        store: &mut Tx,
        id: &str,
        account: Address,
        amount: Usdc,
    ) -> Result<(), EngineError> {
        let ours = store.owed_to(account).await?.min(amount);
        if ours.is_zero() {
            return Ok(());
        }
        let to = if account == self.inner.config.chain.wallet {
            Account::Wallet
        } else {
            Account::Payee(account)
        };
        Ok(store.book_moved(id, (Account::Owed(account), to), ours, self.now_ms).await?)
    }

    /// Tells the audit log, and with it whoever subscribed.
    fn say(&mut self, row: &EscrowRow, step: &StepRow) {
        let kind = match step.kind {
            StepKind::Funded => EventKind::EscrowFunded,
            StepKind::Submitted => EventKind::EscrowSubmitted,
            StepKind::Released => EventKind::EscrowReleased,
            StepKind::Refunded => EventKind::EscrowRefunded,
            StepKind::Disputed => EventKind::EscrowDisputed,
            StepKind::Awarded => EventKind::EscrowAwarded,
            StepKind::Completed => EventKind::EscrowCompleted,
            StepKind::Rejected => EventKind::EscrowRejected,
            StepKind::Expired => EventKind::EscrowExpired,
            StepKind::Returned => EventKind::EscrowReturned,
            StepKind::Deferred => EventKind::EscrowDeferred,
        };
        self.drafts.push(story(kind, "chain", row).data(json!({
            "step": step.kind, "party": step.party, "amount": step.amount, "hash": step.hash,
            "tx": step.tx_hash, "block": step.block, "captured": row.captured,
            "refunded": row.refunded, "held": row.held(),
        })));
        info!(escrow = %row.id, step = step.kind.as_str(), "told by the chain");
    }
}

/// Moves an escrow as its contract did.
fn change(row: &mut EscrowRow, step: &StepRow) {
    let amount = step.amount.unwrap_or_default();
    match step.kind {
        StepKind::Funded => row.state = EscrowState::Funded,
        StepKind::Submitted => {
            row.state = EscrowState::Submitted;
            row.since_s = Some(step.at_s);
        }
        StepKind::Disputed => {
            row.state = EscrowState::Disputed;
            row.since_s = Some(step.at_s);
        }
        StepKind::Released => row.captured = row.captured.saturating_add(amount),
        StepKind::Refunded => row.refunded = row.refunded.saturating_add(amount),
        StepKind::Returned => row.returned = row.returned.saturating_add(amount),
        StepKind::Completed => row.state = EscrowState::Completed,
        StepKind::Rejected => row.state = EscrowState::Rejected,
        StepKind::Expired => row.state = EscrowState::Expired,
        StepKind::Awarded | StepKind::Deferred => {}
    }
}
