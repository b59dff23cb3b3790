//! What must be true after every history, whatever happened in it.

use std::collections::{BTreeMap, HashMap};

use alloy::{primitives::Address, sol_types::SolEvent as _};
use futures_util::TryStreamExt as _;
use sqlx::{Connection as _, Row as _};

use super::history::{FUNDS, History, RELAYERS, keys, usdc, wallet};
use crate::{
    audit::Verifier,
    contract::IUsdc,
    payment::{PaymentId, State},
    reconcile::reconcile,
    rpc::Rpc,
    store::{PaymentRow, Store},
};

/// What is wrong: nothing, one hopes.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Transfers beyond the first of a payment, or of no payment.
    pub duplicates: u64,
    /// Payments that are called failed and were paid.
    pub false_failures: u64,
    /// Payments and transactions that did not come to their end.
    pub stuck: u64,
    /// All of it in words.
    pub faults: Vec<String>,
}

impl Verdict {
    fn fault(&mut self, what: String) {
        self.faults.push(what);
    }
}

/// Holds the books, the chain and what was promised against each other.
pub(super) async fn judge(history: &History, drained: bool) -> Verdict {
    let mut verdict = Verdict { faults: history.faults.clone(), ..Verdict::default() };
    let store = history.store().await.unwrap();
    let mut rows: Vec<PaymentRow> = Vec::new();
    loop {
        let page = store.payments(None, None, rows.last().map(|row| row.id), 200).await.unwrap();
        if page.is_empty() {
            break;
        }
        rows.extend(page);
    }
    if !drained {
        for open in store.open_txs().await.unwrap() {
            let (kind, nonce, block) = (open.tx.kind, open.tx.nonce, open.tx.block);
            verdict.stuck += 1;
            verdict.fault(format!("{kind:?} of {} at {nonce} in {block:?}", open.tx.sender));
        }
        verdict.fault("the daemon does not come to rest".into());
    }
    money(history, &store, &rows, &mut verdict).await;
    nonces(history, &mut verdict).await;
    tales(history, &store, &rows, &mut verdict).await;
    // Nothing here is foreign: whatever continuous reconciliation ever found is a false alarm.
    for finding in store.findings(10).await.unwrap() {
        verdict.fault(format!("reconciliation cried wolf: {finding:?}"));
    }
    if drained {
        let rpc = Rpc::over(
            Box::new(history.shared.clone()),
            history.config.chain.rpc.clone(),
            history.config.chain.chain_id,
        );
        let report = reconcile(&history.config.chain, &rpc, &store).await.unwrap();
        if !report.agrees() {
            verdict.fault(format!("books and chain differ: {report:?}"));
        }
    }
    history.release(store).await;
    verdict
}

async fn money(history: &History, store: &Store, rows: &[PaymentRow], verdict: &mut Verdict) {
    // No two payments have the same amount.
    let mut transfers: HashMap<(Address, u64), Vec<_>> = HashMap::new();
    let left;
    {
        let outside = history.shared.lock();
        for (_, mined) in outside.chain.mined() {
            for (address, log) in &mined.logs {
                if *address == usdc() {
                    let event = IUsdc::Transfer::decode_log_data(log).unwrap();
                    if event.from != wallet() {
                        continue;
                    }
                    let slot = (event.to, u64::try_from(event.value).unwrap());
                    transfers.entry(slot).or_default().push(mined.tx.hash);
                }
            }
        }
        left = super::chain::held(&outside.chain.tip().state, wallet());
    }
    let mut paid: BTreeMap<Address, u64> = BTreeMap::new();
    for row in rows {
        let found = transfers.remove(&(row.payee, row.amount.units())).unwrap_or_default();
        verdict.duplicates += (found.len() as u64).saturating_sub(1);
        if found.len() > 1 {
            verdict.fault(format!("{} was paid {} times", row.id, found.len()));
        }
        match row.state {
            State::Paid => {
                *paid.entry(row.payee).or_default() += row.amount.units();
                if found.first() != row.tx_hash.as_ref() {
                    verdict.fault(format!("{} is paid by {:?}: {found:?}", row.id, row.tx_hash));
                }
            }
            state if state.is_terminal() => {
                if !found.is_empty() {
                    verdict.false_failures += 1;
                    verdict.fault(format!("{} is {state} and was paid", row.id));
                }
            }
            state => {
                verdict.stuck += 1;
                let (id, tries, why) = (row.id, row.tries, &row.refusal);
                verdict.fault(format!("{id} is {state} after {tries} tries: {why:?}"));
            }
        }
    }
    for (slot, found) in transfers {
        verdict.duplicates += found.len() as u64;
        verdict.fault(format!("no payment explains {slot:?}"));
    }
    let total: u64 = paid.values().sum();
    if left != alloy::primitives::U256::from(FUNDS - total) {
        verdict.fault(format!("the wallet holds {left}, {total} was paid"));
    }
    for line in store.postings().await.unwrap() {
        let sum = paid.remove(&line.payee).unwrap_or(0);
        if (line.posted.units(), line.transfers.units()) != (sum, sum) {
            verdict.fault(format!("the ledger of {}: {line:?}, paid {sum}", line.payee));
        }
    }
    let account = store.wallet_balance().await.unwrap();
    let waiting: u64 =
        rows.iter().filter(|row| !row.state.is_terminal()).map(|row| row.amount.units()).sum();
    if (account.debits_posted.units(), account.debits_pending.units()) != (total, waiting) {
        verdict.fault(format!("the wallet's account: {account:?}"));
    }
}

/// Every nonce that was taken was used.
async fn nonces(history: &History, verdict: &mut Verdict) {
    sqlx::any::install_default_drivers();
    let mut store = sqlx::AnyConnection::connect(&history.config.store).await.unwrap();
    let keys = keys();
    for index in 0..RELAYERS {
        let relayer = keys.relayer(index).unwrap().address();
        let next: Option<i64> = sqlx::query("SELECT next FROM nonce WHERE sender = $1")
            .bind(relayer.to_string())
            .fetch_optional(&mut store)
            .await
            .unwrap()
            .map(|row| row.get(0));
        let used = history.shared.lock().chain.tip().state.account(relayer);
        if next.unwrap_or(0).cast_unsigned() != used {
            verdict.stuck += 1;
            verdict.fault(format!("{relayer} took {next:?} nonces and used {used}"));
        }
    }
    store.close().await.unwrap();
}

/// The audit log holds, every end is told once, every promise is known.
async fn tales(history: &History, store: &Store, rows: &[PaymentRow], verdict: &mut Verdict) {
    let mut verifier = Verifier::new([], &keys().audit_key().verifying_key()).unwrap();
    let entries: Vec<_> = store.audit().try_collect().await.unwrap();
    let read = entries.iter().try_for_each(|entry| verifier.push(entry));
    if let Err(fault) = read.and_then(|()| verifier.finish().map(drop)) {
        verdict.fault(format!("the audit log: {fault}"));
    }
    let mut told: HashMap<PaymentId, Vec<String>> = HashMap::new();
    let mut connection = sqlx::AnyConnection::connect(&history.config.store).await.unwrap();
    let lines = sqlx::query("SELECT kind, payment_id FROM outbox WHERE id LIKE 'end_%'")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    for line in lines {
        let Some(id) = line.get::<Option<String>, _>(1) else { continue };
        told.entry(id.parse().unwrap()).or_default().push(line.get(0));
    }
    for row in rows {
        let expected: &[&str] = match row.state {
            State::Paid => &["payment.finalized"],
            State::Failed => &["payment.failed"],
            State::Rejected => &["payment.rejected"],
            State::Expired => &["payment.expired"],
            _ => &[],
        };
        let told = told.remove(&row.id).unwrap_or_default();
        if told != expected {
            verdict.fault(format!("{} is {} and it is told {told:?}", row.id, row.state));
        }
        if history.ends.get(&row.id).is_some_and(|end| *end != row.state) {
            verdict.fault(format!("{} left its end", row.id));
        }
    }
    for purchase in &history.purchases {
        if let Some(id) = purchase.promised
            && !rows.iter().any(|row| row.id == id)
        {
            verdict.fault(format!("{id} was promised and is not there"));
        }
    }
}
