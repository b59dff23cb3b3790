//! Showing: an escrow with its story, for its parties and the operators.

use alloy::primitives::B256;

use super::{
    ActionState, ActionView, EscrowPage, EscrowState, EscrowView, NextDeadline, Opened, PayoutView,
    Release, StepKind, TimelineEntry,
    act::{self, Caller},
};
use crate::{
    clock,
    engine::Inner,
    payment::{AgentId, PaymentId, State},
    refusal::{Code, Refusal},
    store::{ActionRow, EscrowRow, PaymentRow, StepRow},
};

pub(crate) async fn show(inner: &Inner, caller: Caller, id: B256) -> Result<EscrowView, Refusal> {
    let escrow = act::find(inner, &caller, id).await?;
    one(inner, &escrow).await
}

/// Shows a whole job.
pub(crate) async fn job(inner: &Inner, job_id: &str) -> Result<Opened, Refusal> {
    let mut escrows = Vec::new();
    for escrow in inner.store.escrows_of_job(job_id).await? {
        escrows.push(one(inner, &escrow).await?);
    }
    Ok(Opened { job_id: job_id.to_owned(), escrows })
}

/// Lists what an agent opened or is paid by, or all; newest first.
pub(crate) async fn list(
    inner: &Inner,
    agent: Option<&AgentId>,
    cursor: Option<&str>,
    limit: u32,
) -> Result<EscrowPage, Refusal> {
    let before = cursor.map(str::parse::<PaymentId>).transpose().map_err(|_| {
        Refusal::new(Code::InvalidRequest, "cursor is not one of ours")
            .hint("pass `next_cursor` of the page before, unchanged")
    })?;
    let party = agent.map(|agent| {
        let address = inner.book().agents.get(agent).map(|known| known.address);
        (agent, address.unwrap_or_default())
    });
    let rows = inner.store.escrows(party, before, limit).await?;
    let next_cursor = (rows.len() == limit as usize)
        .then(|| rows.last().map(|row| row.payment.to_string()))
        .flatten();
    let mut escrows = Vec::with_capacity(rows.len());
    for row in &rows {
        escrows.push(one(inner, row).await?);
    }
    Ok(EscrowPage { escrows, next_cursor })
}

pub(super) fn action(row: &ActionRow) -> ActionView {
    ActionView {
        id: row.id.clone(),
        kind: row.kind,
        state: row.state,
        actor: row.actor.clone(),
        detail: row.story(),
        refusal: row.refusal.clone(),
        transaction: row.tx_hash,
        created_at: clock::at_ms(row.created_ms),
    }
}

/// Shows one escrow, read anew.
pub(super) async fn one(inner: &Inner, escrow: &EscrowRow) -> Result<EscrowView, Refusal> {
    let missing = || Refusal::new(Code::Internal, "a fault of the daemon; its log has the details");
    let escrow = inner.store.escrow(escrow.id).await?.ok_or_else(missing)?;
    let payment = inner.store.payment(escrow.payment).await?.ok_or_else(missing)?;
    let actions = inner.store.escrow_actions(escrow.id).await?;
    let steps = inner.store.escrow_steps(escrow.id).await?;
    let place = inner.place()?;
    let never = escrow.state == EscrowState::Opening
        && payment.state.is_terminal()
        && payment.state != State::Paid;
    let (label, payee_agent) = {
        let book = inner.book();
        (book.label(escrow.terms.payee), book.agent_by_address(escrow.terms.payee).cloned())
    };
    let terms = &escrow.terms;
    let deliverable = steps.iter().find(|step| step.kind == StepKind::Submitted);
    Ok(EscrowView {
        id: escrow.id,
        job_id: escrow.job_id.clone(),
        milestone: escrow.milestone,
        milestones: escrow.milestones,
        title: escrow.title.clone(),
        agent: escrow.agent.clone(),
        state: if never { EscrowState::Unfunded } else { escrow.state },
        next: escrow.next().map(|(then, at)| NextDeadline {
            then,
            at: clock::at_s(at),
            warned: escrow.since_s.is_some() && escrow.warned_s == escrow.since_s,
        }),
        payee: terms.payee,
        payee_label: label,
        payee_agent,
        arbiter: (!terms.arbiter.is_zero()).then_some(terms.arbiter),
        amount: escrow.amount(),
        amount_units: terms.amount,
        captured: escrow.captured,
        refunded: escrow.refunded,
        returned: escrow.returned,
        held: if matches!(escrow.state, EscrowState::Opening) {
            crate::money::Usdc::ZERO
        } else {
            escrow.held()
        },
        any_of: Release::of(terms.anyOf),
        all_of: Release::of(terms.allOf),
        submit_by: clock::at_s(terms.submitBy.to()),
        review_period_s: terms.reviewPeriod,
        arbitration_period_s: terms.arbitrationPeriod,
        silence_bps: terms.silenceBps,
        payouts: escrow
            .payouts
            .iter()
            .map(|payout| PayoutView {
                payee: payout.to,
                payee_label: inner.book().label(payout.to),
                bps: payout.bps,
            })
            .collect(),
        job: escrow.job.clone(),
        deliverable: deliverable.and_then(|step| step.hash),
        contract: place.address,
        terms: serde_json::to_value(terms).unwrap_or_default(),
        actions: actions.iter().map(action).collect(),
        timeline: timeline(&escrow, &payment, &actions, &steps),
        payment: inner.view(&payment),
        created_at: clock::at_ms(escrow.created_ms),
        updated_at: clock::at_ms(escrow.updated_ms.max(payment.updated_ms)),
    })
}

/// Tells the story: the request, then what the chain says, each step with who asked for it here.
fn timeline(
    escrow: &EscrowRow,
    payment: &PaymentRow,
    actions: &[ActionRow],
    steps: &[StepRow],
) -> Vec<TimelineEntry> {
    let requested = TimelineEntry {
        at: clock::at_ms(payment.created_ms),
        what: "requested".into(),
        by: Some(format!("agent:{}", escrow.agent)),
        amount: Some(payment.amount),
        hash: Some(escrow.job.hash),
        transaction: None,
        block: None,
    };
    let failed =
        actions.iter().filter(|action| action.state == ActionState::Failed).map(|action| {
            TimelineEntry {
                at: clock::at_ms(action.updated_ms),
                what: format!("{}_refused", action.kind),
                by: Some(action.actor.clone()),
                amount: None,
                hash: None,
                transaction: action.tx_hash,
                block: None,
            }
        });
    let told = steps.iter().map(|step| {
        let asked = actions.iter().find(|action| action.tx_hash == Some(step.tx_hash));
        TimelineEntry {
            at: clock::at_s(step.at_s),
            what: step.kind.to_string(),
            by: asked
                .map(|action| action.actor.clone())
                .or_else(|| step.party.map(|party| party.to_string())),
            amount: step.amount,
            hash: step.hash,
            transaction: Some(step.tx_hash),
            block: Some(step.block),
        }
    });
    std::iter::once(requested).chain(told).chain(failed).collect()
}
