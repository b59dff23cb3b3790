//! Approval: operators' signatures over one payment, collected until they are a quorum.

use std::slice::from_ref;

use alloy::primitives::Address;
use serde_json::json;

use crate::{
    audit::{Draft, EventKind},
    clock,
    crash::{self, Point},
    engine::{EngineError, Inner},
    intake::Message,
    payment::{Event, PaymentId, State},
    reconcile::restored,
    refusal::{Code, Refusal},
    store::{ApprovalRow, PaymentRow},
    view::{ApprovalView, PaymentView, SignatureBody},
};

/// Waiting payments listed.
const LISTED: u32 = 500;

fn not_waiting(id: PaymentId) -> Refusal {
    Refusal::new(Code::NotFound, format!("{id} does not wait for operators"))
        .hint("`bursar approvals` lists what does")
}

pub(crate) async fn list(inner: &Inner) -> Result<Vec<ApprovalView>, Refusal> {
    let mut views = Vec::new();
    for payment in inner.store.payments_waiting(LISTED).await? {
        if let Some(approval) = inner.store.approval(payment.id).await? {
            views.push(view(inner, &payment, &approval).await?);
        }
    }
    Ok(views)
}

pub(crate) async fn show(inner: &Inner, id: PaymentId) -> Result<ApprovalView, Refusal> {
    let payment = inner.store.payment(id).await?.ok_or_else(|| not_waiting(id))?;
    let approval = inner.store.approval(id).await?.ok_or_else(|| not_waiting(id))?;
    view(inner, &payment, &approval).await
}

async fn view(
    inner: &Inner,
    payment: &PaymentRow,
    approval: &ApprovalRow,
) -> Result<ApprovalView, Refusal> {
    let signatures = inner.store.signatures(approval.digest).await?;
    let (agent, threshold) = {
        let book = inner.book();
        let agent = book.agents.get(&payment.agent).map(|agent| agent.address);
        (agent.unwrap_or(Address::ZERO), book.threshold)
    };
    let funds = inner.funds_of(payment).await.map_err(|error| Refusal::from(&error))?;
    let message =
        Message::new(payment, funds.purpose(), agent, approval.nonce, approval.deadline_s);
    Ok(ApprovalView {
        payment: inner.view(payment),
        overrides: crate::policy::override_names(payment.overrides),
        typed_data: message
            .typed_data(&inner.domain)
            .map_err(|error| Refusal::new(Code::Internal, error.to_string()))?,
        digest: approval.digest,
        threshold,
        signed_by: signatures.iter().map(|row| row.signer).collect(),
        expires_at: clock::at_ms(payment.expires_ms),
    })
}

pub(crate) async fn approve(
    inner: &Inner,
    id: PaymentId,
    body: SignatureBody,
) -> Result<ApprovalView, Refusal> {
    let approval = inner.store.approval(id).await?.ok_or_else(|| not_waiting(id))?;
    let signature = inner.check_operator(approval.digest, &body)?;
    let now_ms = inner.clock.now_ms();
    let mut store = inner.store.begin().await?;
    let mut payment = store.payment(id).await?.ok_or_else(|| not_waiting(id))?;
    if payment.state != State::AwaitingApproval {
        return Err(Refusal::new(Code::Conflict, format!("{id} is {}", payment.state)));
    }
    if payment.expires_ms <= now_ms {
        return Err(Refusal::new(Code::Conflict, format!("{id} waited too long for its quorum")));
    }
    let (fresh, signers) = store.add_signature(approval.digest, &signature, now_ms).await?;
    if !fresh {
        return Err(Refusal::new(
            Code::Conflict,
            format!("{} has approved {id} already", body.signer),
        )
        .hint("another operator must sign"));
    }
    let (count, threshold) = (inner.count_operators(&signers), inner.book().threshold);
    let mut drafts = vec![
        Draft::new(EventKind::PaymentApproved, format!("operator:{}", body.signer))
            .agent(&payment.agent)
            .payment(id)
            .data(json!({
                "digest": approval.digest, "signatures": count, "threshold": threshold,
                "overrides": crate::policy::override_names(payment.overrides),
            })),
    ];
    let complete = count >= threshold;
    if complete {
        payment.not_before_ms = now_ms;
        payment.expires_ms = now_ms + crate::intake::seconds(inner.config.payments.queue_ttl_s);
        store.advance(&mut payment, Event::Approved, now_ms).await?;
        drafts
            .push(Draft::new(EventKind::PaymentQueued, "daemon").agent(&payment.agent).payment(id));
    }
    store.append_audit(&drafts, now_ms).await?;
    store.commit().await?;
    if complete {
        crash::at(Point::ApprovalCommitted);
        inner.queued.notify_one();
    }
    show(inner, id).await
}

pub(crate) async fn reject(
    inner: &Inner,
    id: PaymentId,
    operator: Address,
    reason: String,
) -> Result<PaymentView, Refusal> {
    if reason.trim().is_empty() || reason.len() > 500 {
        return Err(Refusal::new(Code::InvalidPayment, "reason must be 1 to 500 bytes")
            .hint("say why: the agent and the audit log will see it"));
    }
    if let Some(state) = inner.restored().filter(|state| !state.is_settled) {
        return Err(restored::settling(inner, &state, state.until_s));
    }
    let mut store = inner.store.begin().await?;
    let mut payment = store.payment(id).await?.ok_or_else(|| not_waiting(id))?;
    if payment.state != State::AwaitingApproval {
        return Err(Refusal::new(Code::Conflict, format!("{id} is {}", payment.state)));
    }
    let mut why = payment
        .refusal
        .clone()
        .unwrap_or_else(|| Refusal::new(Code::CeilingExceeded, "it needs the operators"));
    why.detail = format!("an operator refused it: {reason}");
    why.hint = None;
    payment.refusal = Some(why);
    end(inner, store, payment, Event::Rejected, EventKind::PaymentRejected, |draft| {
        draft.and("reason", json!(reason)).by(format!("operator:{operator}"))
    })
    .await
    .map_err(|error| Refusal::from(&error))
}

/// Ends what has waited too long for its quorum.
pub(crate) async fn expire(inner: &Inner) -> Result<(), EngineError> {
    if inner.is_settling() {
        // It may have been paid.
        return Ok(());
    }
    let now_ms = inner.clock.now_ms();
    for payment in inner.store.payments_waiting(LISTED).await? {
        if payment.expires_ms > now_ms {
            continue;
        }
        let mut store = inner.begin_as_keeper().await?;
        let Some(payment) = store.payment(payment.id).await? else { continue };
        if payment.state == State::AwaitingApproval {
            end(
                inner,
                store,
                payment,
                Event::ApprovalExpired,
                EventKind::PaymentExpired,
                |draft| draft,
            )
            .await?;
        }
    }
    Ok(())
}

async fn end(
    inner: &Inner,
    mut store: crate::store::Tx,
    mut payment: PaymentRow,
    event: Event,
    kind: EventKind,
    fill: impl FnOnce(Draft) -> Draft,
) -> Result<PaymentView, EngineError> {
    let now_ms = inner.clock.now_ms();
    store.advance(&mut payment, event, now_ms).await?;
    store.void(from_ref(&payment), now_ms).await?;
    store.tell_end(kind, from_ref(&payment), now_ms).await?;
    let draft = Draft::new(kind, "daemon").agent(&payment.agent).payment(payment.id);
    store.append_audit(&[fill(draft)], now_ms).await?;
    store.commit().await?;
    inner.book().void(&payment.agent, &payment.facts());
    Ok(inner.view(&payment))
}
