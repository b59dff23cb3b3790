//! Opening: what an agent and the quorum sign for a payment that funds an escrow.

use alloy::{
    primitives::{Address, U256},
    sol_types::SolCall as _,
};

use super::{EscrowRequest, EscrowState, request, request::Draft};
use crate::{
    contract::{
        self,
        escrow::{self, IWorkEscrow, Terms},
    },
    engine::Inner,
    payment::{AgentId, PaymentId, PaymentRequest},
    refusal::{Code, Refusal},
    rpc::RpcError,
    store::EscrowRow,
};

/// A milestone on its way through intake.
#[derive(Clone, Debug)]
pub(crate) struct Opening {
    pub job_id: String,
    pub job: super::JobView,
    pub milestone: u32,
    pub milestones: u32,
    pub draft: Draft,
}

/// Reads a request: one payment for each milestone.
///
/// # Errors
/// 400, 403 or 422 with the field that is wrong.
pub(crate) fn read(
    inner: &Inner,
    agent: &AgentId,
    request: &EscrowRequest,
) -> Result<Vec<crate::intake::Request>, Refusal> {
    let place = inner.place()?;
    let payee = crate::intake::payee(inner, &request.payee)?;
    let job = request.job(&inner.book(), inner.config.chain.wallet, payee)?;
    let own = inner.book().agents.get(agent).map(|agent| agent.address).unwrap_or_default();
    if payee == place.address {
        return Err(Refusal::new(Code::PayeeUnknown, "the escrow contract is nobody's payee"));
    }
    let fingerprint = request.fingerprint();
    let job_id = format!("job_{}", uuid::Uuid::now_v7().simple());
    let milestones = u32::try_from(job.milestones.len()).unwrap_or(u32::MAX);
    let mut requests = Vec::with_capacity(job.milestones.len());
    for (milestone, draft) in (1..).zip(job.milestones) {
        if draft.terms.arbiter == own {
            let detail = format!("milestones[{}].arbiter: the payer's own agent", milestone - 1);
            return Err(Refusal::new(Code::InvalidPayment, detail)
                .hint("name somebody else: an arbiter decides between payer and payee"));
        }
        let mut context = request.context.clone();
        if milestone > 1 {
            // The invoice is the job's, and counts once.
            context.invoice = None;
        }
        let mut payment = crate::intake::read(
            inner,
            &PaymentRequest {
                payee: request.payee.clone(),
                amount: draft.amount.to_string(),
                currency: request.currency.clone(),
                reason: request.reason.clone(),
                context,
            },
        )?;
        payment.fingerprint = fingerprint;
        payment.escrow = Some(Box::new(Opening {
            job_id: job_id.clone(),
            job: job.view.clone(),
            milestone,
            milestones,
            draft,
        }));
        requests.push(payment);
    }
    Ok(requests)
}

/// Asks the contract whether it would take such terms. A chain that cannot be asked is no refusal:
/// the opening waits for it, and says then.
pub(crate) async fn check(
    inner: &Inner,
    agent: &AgentId,
    requests: &[crate::intake::Request],
) -> Result<(), Refusal> {
    let place = inner.place()?;
    let own = inner.book().agents.get(agent).map(|agent| agent.address).unwrap_or_default();
    for opening in requests.iter().filter_map(|request| request.escrow.as_deref()) {
        let terms = terms(&opening.draft, own, 0, inner.now_s());
        let call = IWorkEscrow::checkTermsCall { terms, payouts: opening.draft.payouts.clone() };
        let data = call.abi_encode().into();
        let answer = inner.rpc.eth_call(place.address, None, &data, inner.newest()).await;
        if let Err(RpcError::Refused { data, message, .. }) = answer {
            let at = format!("milestones[{}]", opening.milestone - 1);
            return Err(refused(&at, data.as_deref(), message));
        }
    }
    Ok(())
}

fn refused(at: &str, data: Option<&str>, message: String) -> Refusal {
    use crate::contract::escrow::IWorkEscrow::IWorkEscrowErrors as Errors;
    let field = match super::refuse::error_of(data) {
        Some(Errors::InvalidTerms(error)) => request::field_name(error.field),
        Some(Errors::ZeroAmount(_)) => "amount",
        _ => return Refusal::new(Code::Unprocessable, format!("{at}: {message}")),
    };
    Refusal::new(Code::Unprocessable, format!("{at}.{field}: the contract does not take it"))
        .rule(format!("body.{at}.{field}"))
        .hint(
            "every release in any_of and all_of needs its party; the payer's silence must not be \
             free; docs/api.md has the terms that hold",
        )
}

/// Fills in what comes with acceptance: who opened it (upper 160 bits of the salt), what makes it
/// unlike any other (its payment), and the deadline.
fn terms(draft: &Draft, agent: Address, unique: u128, now_s: u64) -> Terms {
    let salt = (U256::from_be_slice(agent.as_slice()) << 96)
        | (U256::from(unique) & U256::from((1_u128 << 96) - 1));
    Terms {
        submitBy: contract::narrow(now_s.saturating_add(draft.submit_within_s)).unwrap_or_default(),
        salt,
        ..draft.terms.clone()
    }
}

impl Opening {
    /// Makes the row of an accepted milestone.
    pub(crate) fn accept(
        &self,
        place: &super::Place,
        payment: PaymentId,
        (agent, address): (&AgentId, Address),
        now_s: u64,
        now_ms: i64,
    ) -> EscrowRow {
        let terms = terms(&self.draft, address, payment.as_u128(), now_s);
        EscrowRow {
            id: escrow::id(&terms, &place.domain),
            payment,
            job_id: self.job_id.clone(),
            milestone: self.milestone,
            milestones: self.milestones,
            agent: agent.clone(),
            title: self.draft.title.clone(),
            job: self.job.clone(),
            terms,
            payouts: self.draft.payouts.clone(),
            state: EscrowState::Opening,
            captured: crate::money::Usdc::ZERO,
            refunded: crate::money::Usdc::ZERO,
            returned: crate::money::Usdc::ZERO,
            since_s: None,
            warned_s: None,
            created_ms: now_ms,
            updated_ms: now_ms,
        }
    }
}

/// The idempotency key of a job's milestone: keys of requests have no space in them.
pub(crate) fn key_of(key: &str, milestone: u32) -> String {
    if milestone <= 1 { key.to_owned() } else { format!("{key} {milestone}") }
}
