//! What a step of reconciliation found, in words, and how it is written.

use alloy::primitives::{B256, U256};
use serde_json::json;
use tracing::{error, info};

use super::{
    ReconcileError,
    chain::{Moves, Outgoing},
    explain::Verdict,
    watch::MARK,
};
use crate::{
    alert::AlertKind,
    audit::{Draft, EventKind},
    engine::Inner,
    money::Usdc,
    store::{Claim, Finalized, Finding, FindingKind, InvoicePaid},
};

/// Unexplained transfers that are written one by one in a step; what is above is added up.
const MOST: usize = 20;

/// What a step found, and what is over.
#[derive(Default)]
pub(super) struct Found {
    pub findings: Vec<Finding>,
    cleared: Vec<Finding>,
}

impl Found {
    pub(super) fn is_empty(&self) -> bool {
        self.findings.is_empty() && self.cleared.is_empty()
    }

    fn add(&mut self, inner: &Inner, id: String, kind: FindingKind, block: u64, what: String) {
        self.findings.push(Finding {
            id: format!("{}:{id}", kind.as_str()),
            kind,
            block,
            transaction: None,
            payment: None,
            what,
            found_ms: inner.clock.now_ms(),
            cleared_ms: None,
        });
    }

    fn about(&mut self, transaction: Option<B256>, claim: Option<&Claim>) {
        if let Some(finding) = self.findings.last_mut() {
            finding.transaction = transaction;
            finding.payment = claim.map(|claim| claim.id);
        }
    }

    /// Notes transfers that no payment explains, up to block `to`.
    pub(super) fn unexplained(&mut self, inner: &Inner, moves: &Moves, verdict: &Verdict, to: u64) {
        let kind = FindingKind::Unexplained;
        for (Outgoing { transaction, block, payee, amount }, like) in
            verdict.unexplained.iter().take(MOST)
        {
            let signers: Vec<String> = moves
                .ran
                .get(transaction)
                .into_iter()
                .flatten()
                .map(|ran| {
                    let agent = ran.agent;
                    let known = inner.book().agent_by_address(agent).cloned();
                    known.map_or_else(|| agent.to_string(), |name| format!("`{name}`"))
                })
                .collect();
            let who = if signers.is_empty() {
                "the wallet logged no payment beside it".to_owned()
            } else {
                format!("the wallet took signatures of {} for it", signers.join(", "))
            };
            let what = format!(
                "{amount} USDC left to {payee} in {transaction} (block {block}), and no payment \
                 explains it: {who}"
            );
            let id = format!("{transaction}:{payee}:{}:{like}", amount.units());
            self.add(inner, id, kind, *block, what);
            self.about(Some(*transaction), None);
        }
        let rest = verdict.unexplained.get(MOST..).unwrap_or_default();
        if let Some((first, _)) = rest.first() {
            let sum = rest.iter().fold(Usdc::ZERO, |sum, (out, _)| sum.saturating_add(out.amount));
            let what = format!(
                "{} more transfers of {sum} USDC in all left in blocks {} to {to}, and no payment \
                 explains them",
                rest.len(),
                first.block
            );
            self.add(inner, format!("more:{}", first.block), kind, first.block, what);
        }
    }

    /// Notes a payment that is called paid and was not.
    pub(super) fn missing(&mut self, inner: &Inner, claim: &Claim, block: u64) {
        let Claim { id, payee, amount, transaction, .. } = claim;
        let by = transaction.map_or_else(|| "no transaction".to_owned(), |hash| hash.to_string());
        let what =
            format!("{id} is called paid by {by}, which did not move {amount} USDC to {payee}");
        self.add(inner, id.to_string(), FindingKind::Missing, block, what);
        self.about(*transaction, Some(claim));
    }

    /// Notes a payment whose transfer is long final and that is not called paid.
    pub(super) fn unbooked(&mut self, inner: &Inner, out: &Outgoing, claim: &Claim) {
        let Claim { id, state, .. } = claim;
        let Outgoing { transaction, block, payee, amount } = out;
        let what = format!(
            "{amount} USDC reached {payee} in {transaction} (block {block}), and {id} is still \
             {state}: the daemon's log says why it cannot be booked"
        );
        self.add(inner, id.to_string(), FindingKind::Unbooked, *block, what);
        self.about(Some(*transaction), Some(claim));
    }

    /// Notes books that disagree about a payment.
    pub(super) fn ledger(&mut self, inner: &Inner, entry: &Finalized, block: u64, what: String) {
        let block = entry.data["block"].as_u64().unwrap_or(block);
        self.add(inner, entry.payment.to_string(), FindingKind::Ledger, block, what);
        if let Some(finding) = self.findings.last_mut() {
            finding.payment = Some(entry.payment);
        }
    }

    /// Notes an invoice that was paid more than once.
    pub(super) fn invoice(&mut self, inner: &Inner, paid: &InvoicePaid, block: u64) {
        let InvoicePaid { payee, invoice, times, sum } = paid;
        let what =
            format!("invoice `{invoice}` of {payee} was paid {times} times, {sum} USDC in all");
        self.add(inner, format!("{payee}:{invoice}"), FindingKind::Invoice, block, what);
    }

    /// Notes a final block that fell out of the chain.
    pub(super) fn reorg(&mut self, inner: &Inner, block: u64, hash: B256) {
        let what = format!(
            "block {block} was {hash} when it was final by chain.confirmations = {}, and is another \
             now: raise it; what was paid there is checked again",
            inner.config.chain.confirmations
        );
        self.add(inner, hash.to_string(), FindingKind::Reorg, block, what);
    }

    /// Notes a balance that its transfers do not explain.
    pub(super) fn balance(
        &mut self,
        inner: &Inner,
        (since, block): (u64, u64),
        expected: Option<U256>,
        balance: U256,
    ) {
        let expected = expected.map_or_else(|| "less than nothing".to_owned(), |e| e.to_string());
        let what = format!(
            "the wallet holds {balance} units at block {block}; by its balance at block {since} and \
             the transfers since it should be {expected}"
        );
        self.add(inner, block.to_string(), FindingKind::Balance, block, what);
    }

    /// Notes that a difference is gone.
    pub(super) fn clear(&mut self, old: &Finding) {
        self.cleared.push(old.clone());
    }

    /// Notes that of these differences those that were not found again are gone.
    pub(super) fn clear_others<'a>(&mut self, standing: impl Iterator<Item = &'a Finding>) {
        for old in standing {
            if self.findings.iter().all(|finding| finding.id != old.id) {
                self.clear(old);
            }
        }
    }

    /// Writes everything in one commit, and the mark from what it was to what it is. Answers `false`
    /// if the mark was moved by somebody else: nothing is written then.
    pub(super) async fn write(
        &self,
        inner: &Inner,
        mark: Option<(Option<&str>, &str)>,
    ) -> Result<bool, ReconcileError> {
        let now_ms = inner.clock.now_ms();
        let mut store = inner.begin_as_keeper().await?;
        let mut drafts = Vec::new();
        let draft = |kind, finding: &Finding| {
            let draft = Draft::new(kind, "daemon").data(json!({
                "finding": finding.id, "what": finding.what, "block": finding.block,
                "tx": finding.transaction,
            }));
            match finding.payment {
                Some(payment) => draft.payment(payment),
                None => draft,
            }
        };
        for finding in &self.findings {
            if store.put_finding(finding).await? {
                drafts.push(draft(EventKind::ReconcileMismatch, finding));
                let alerts = &inner.metrics.alerts_raised;
                alerts.get_or_create(&AlertKind::Reconciliation.into()).inc();
                error!(finding = finding.id, "chain and books differ: {}", finding.what);
            }
        }
        for old in &self.cleared {
            if store.clear_finding(&old.id, now_ms).await? {
                drafts.push(draft(EventKind::ReconcileMatched, old));
                info!(finding = old.id, "no difference any more");
            }
        }
        if let Some((before, after)) = mark
            && !store.replace_meta(MARK, before, after).await?
        {
            return Ok(false);
        }
        store.append_audit(&drafts, now_ms).await?;
        store.commit().await?;
        if !self.is_empty() {
            inner.metrics.findings.set(inner.store.findings_count().await?.cast_signed());
        }
        Ok(true)
    }
}
