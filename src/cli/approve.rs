//! `bursar approvals`, `bursar approve`, `bursar reject`: what operators decide one by one.

use clap::Args as ClapArgs;

use super::{
    CliError, block_on,
    remote::{OperatorArgs, Remote, Session},
    table::table,
};
use crate::{
    payment::PaymentId,
    review::{self, Review},
    view::ApprovalView,
};

/// List the payments that wait for operators, or show one with its digests.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:\n\
    \x20 bursar approvals --keystore alice.json\n\
    \x20 bursar approvals --keystore alice.json pay_0199f0c0a1b27c3d8e4f5a6b7c8d9e0f")]
pub struct ListArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    /// Show this one.
    id: Option<PaymentId>,
}

/// Sign a waiting payment, after reading what is signed.
///
/// The typed data is decoded and hashed again here; if it is not exactly what is shown, nothing is
/// signed. The last signature needed sends the payment on its way.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:\n\
    \x20 bursar approve pay_0199f0c0a1b27c3d8e4f5a6b7c8d9e0f --keystore alice.json\n\
    \x20 bursar approve pay_0199f0c0a1b27c3d8e4f5a6b7c8d9e0f --key-fd 3 --yes 3<alice.key")]
pub struct ApproveArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    /// The payment.
    id: PaymentId,
}

/// Refuse a waiting payment for good. One operator is enough.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Example:\n\
    \x20 bursar reject pay_0199f0c0a1b27c3d8e4f5a6b7c8d9e0f --reason \"no contract\" --keystore alice.json")]
pub struct RejectArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    /// The payment.
    id: PaymentId,
    /// Why; the agent sees it. 1 to 500 bytes.
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// Runs `bursar approvals`.
///
/// # Errors
/// The key cannot be read, the daemon is out of reach or refuses, or what it shows does not hold.
pub fn list(args: &ListArgs, remote: &Remote) -> Result<(), CliError> {
    block_on(async {
        let session = args.operator.connect(remote).await?;
        let Some(id) = args.id else {
            return remote.print(&session.client.approvals().await?, |list| many(list));
        };
        let view = session.client.approval(id).await?;
        let review = reviewed(&session, &view).await?;
        remote.print(&view, |view| one(view, &review))
    })
}

/// Runs `bursar approve`.
///
/// # Errors
/// As [`list`]; or the answer to "sign this?" is no.
pub fn approve(args: &ApproveArgs, remote: &Remote) -> Result<(), CliError> {
    block_on(async {
        let session = args.operator.connect(remote).await?;
        let view = session.client.approval(args.id).await?;
        let review = reviewed(&session, &view).await?;
        session.confirm(&review)?;
        let signature = review.sign(session.client.key())?;
        let view = session.client.approve(args.id, &signature).await?;
        remote.print(&view, |view| {
            let state = quorum(view);
            format!("signed {}: {state}; the payment is {}", view.payment.id, view.payment.state)
        })
    })
}

/// Runs `bursar reject`.
///
/// # Errors
/// The key cannot be read, the daemon is out of reach or refuses.
pub fn reject(args: &RejectArgs, remote: &Remote) -> Result<(), CliError> {
    block_on(async {
        let session = args.operator.connect(remote).await?;
        let payment = session.client.reject(args.id, &args.reason).await?;
        remote.print(&payment, |payment| {
            format!(
                "{}: {} USDC of {} is {}",
                payment.id, payment.amount, payment.agent, payment.state
            )
        })
    })
}

async fn reviewed(session: &Session, view: &ApprovalView) -> Result<Review, CliError> {
    let agent = session.agent(view.payment.agent.as_str()).await?;
    let names = session.names().await?;
    Ok(review::approval(view, agent.address, &session.wallet, &names)?)
}

fn quorum(view: &ApprovalView) -> String {
    format!("{} of {} signatures", view.signed_by.len(), view.threshold)
}

fn many(views: &[ApprovalView]) -> String {
    let mut rows =
        table(&["payment", "agent", "amount", "payee", "sets aside", "signed", "until", "reason"]);
    for view in views {
        let payment = &view.payment;
        rows.add_row([
            payment.id.to_string(),
            payment.agent.to_string(),
            payment.amount.to_string(),
            payment.payee_label.clone().unwrap_or_else(|| payment.payee.to_string()),
            view.overrides.join(", "),
            format!("{}/{}", view.signed_by.len(), view.threshold),
            view.expires_at.to_string(),
            payment.reason.clone(),
        ]);
    }
    rows.to_string()
}

fn one(view: &ApprovalView, review: &Review) -> String {
    let mut text = format!("{}\n\n", review.title);
    for (name, value) in &review.lines {
        text.push_str(&format!("  {name:<15}{value}\n"));
    }
    let signed: Vec<String> = view.signed_by.iter().map(ToString::to_string).collect();
    text.push_str(&format!(
        "  {:<15}{}\n  {:<15}{}\n  {:<15}{}\n  {:<15}{} {}",
        "domain hash",
        review.domain_hash,
        "message hash",
        review.message_hash,
        "digest",
        review.digest,
        "signed",
        quorum(view),
        signed.join(", "),
    ));
    text
}
