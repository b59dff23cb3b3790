//! Changes of policy on their way: one operator's order now, or a proposal for the quorum.
//! `bursar policy propose|sign|apply|cancel|list`, and what freeze and payee share with them.

use std::path::PathBuf;

use alloy::{
    hex,
    primitives::{Address, B256},
    sol_types::SolCall as _,
};
use clap::Args as ClapArgs;
use jiff::Timestamp;

use super::{
    CliError, Kind,
    remote::{OperatorArgs, Remote, Session},
    table::table,
};
use crate::{
    api::TightenReceipt,
    contract::{AgentLimits, IPolicyChanges, coupon::CouponGrant},
    policy::Policy,
    review,
    view::{ProposalState, ProposalView, ProposeBody},
};

/// Seconds that a tightening order may be carried to the chain.
const ORDER_S: u64 = 3_600;

/// Propose an agent's limits as its policy file says, and its coupons where the file has any and they
/// differ. Needs the quorum and waits out the delay.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:\n\
    \x20 bursar policy propose policies/scout.toml --keystore alice.json\n\
    \x20 bursar policy propose policies/scout.toml --now --keystore alice.json   (only lowers)")]
pub struct ProposeArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    /// The agent's policy file.
    #[arg(value_name = "FILE.toml")]
    file: PathBuf,
    /// The agent's address on chain; asked from the daemon where absent.
    #[arg(long, value_name = "ADDRESS")]
    address: Option<Address>,
    /// The file only lowers what holds: order it at once, one operator is enough.
    #[arg(long, conflicts_with = "no_sign")]
    now: bool,
    /// File the proposal without signing it.
    #[arg(long)]
    no_sign: bool,
}

/// Sign a proposal, after reading what is signed.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Example:\n\
    \x20 bursar policy sign 0x6a…(64 digits) --keystore bob.json")]
pub struct SignArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    /// The proposal: 0x and 64 hexadecimal digits.
    id: B256,
}

/// Send a complete proposal to the chain, or run one whose delay is over.
#[derive(ClapArgs, Debug)]
pub struct ApplyArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    /// The proposal: 0x and 64 hexadecimal digits.
    id: B256,
}

/// Cancel a proposal: drop one that collects signatures, revoke one that waits on chain.
#[derive(ClapArgs, Debug)]
pub struct CancelArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    /// The proposal: 0x and 64 hexadecimal digits.
    id: B256,
}

/// List proposals, newest first, or show one.
#[derive(ClapArgs, Debug)]
pub struct ListArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    /// Show this one.
    id: Option<B256>,
}

/// Gives one operator's order that only tightens: shows, asks, signs, sends.
///
/// # Errors
/// The answer is no, or the daemon refuses.
pub async fn order(session: &Session, change: Vec<u8>, remote: &Remote) -> Result<(), CliError> {
    let names = session.names().await?;
    let now = u64::try_from(Timestamp::now().as_second()).unwrap_or_default();
    let order = review::tighten(change.into(), now + ORDER_S, &session.wallet, &names)?;
    session.confirm(&order.review)?;
    let signed = order.sign(session.client.key())?;
    let receipt = TightenReceipt { transaction: session.client.tighten(&signed).await? };
    remote.print(&receipt, |receipt| {
        format!("{}: holds now; transaction {}", order.review.title, receipt.transaction)
    })
}

/// Files a proposal, then shows, asks and signs it unless told not to.
///
/// # Errors
/// The answer is no (the proposal stays), or the daemon refuses.
pub async fn file(
    session: &Session,
    change: Vec<u8>,
    label: Option<String>,
    sign: bool,
    remote: &Remote,
) -> Result<(), CliError> {
    let body = ProposeBody { change: hex::encode_prefixed(&change), label };
    let view = session.client.propose(&body).await?;
    // A daemon that files another change than the one asked for is caught here.
    if view.change.to_lowercase() != body.change {
        return Err(CliError::new(Kind::Mismatch, "the daemon filed another change")
            .hint("nothing was signed; find out who runs this daemon"));
    }
    if !sign {
        return remote.print(&view, told);
    }
    sign_view(session, &view, remote).await
}

/// Runs `bursar policy propose`.
///
/// # Errors
/// The file cannot be read; as [`file`] and [`order`].
pub async fn propose(args: &ProposeArgs, remote: &Remote) -> Result<(), CliError> {
    let text = std::fs::read_to_string(&args.file).map_err(|error| {
        let text = format!("cannot read {}: {error}", args.file.display());
        CliError::new(Kind::Unreachable, text)
    })?;
    let session = args.operator.connect(remote).await?;
    let policy = Policy::parse(&text, &session.categories()?).map_err(|error| {
        CliError::new(Kind::Usage, format!("{}: {error}", args.file.display()))
            .hint("`bursar policy check` says more")
    })?;
    let agent = match args.address {
        Some(address) => address,
        None => session.agent(policy.agent.as_str()).await?.address,
    };
    let limits = AgentLimits::try_from(policy.limits())
        .map_err(|error| CliError::new(Kind::Usage, error))?;
    let change = IPolicyChanges::setAgentCall { agent, limits }.abi_encode();
    if args.now {
        // Fewer coupons hold by the file itself; the contract lets one operator take away all or none.
        return order(&session, change, remote).await;
    }
    if let Some(change) = coupons(&session, &policy, agent).await? {
        file(&session, change, None, !args.no_sign, remote).await?;
    }
    file(&session, change, None, !args.no_sign, remote).await
}

/// The change that gives an agent the coupons of its file, where the contract has others.
async fn coupons(
    session: &Session,
    policy: &Policy,
    agent: Address,
) -> Result<Option<Vec<u8>>, CliError> {
    let Some(file) = &policy.coupons else { return Ok(None) };
    let agents = session.client.agents().await?;
    let known = agents.into_iter().find(|known| known.address == agent).map(|known| known.coupons);
    let granted = known.unwrap_or_default();
    if (granted.every_s, &granted.classes) == (file.every_s, &file.classes) {
        return Ok(None);
    }
    let word = CouponGrant::from(file).pack();
    let coupons = word.map_err(|error| CliError::new(Kind::Usage, error))?;
    Ok(Some(IPolicyChanges::setCouponsCall { agent, coupons }.abi_encode()))
}

/// Runs `bursar policy sign`.
///
/// # Errors
/// The daemon's typed data does not hold, the answer is no, or the daemon refuses.
pub async fn sign(args: &SignArgs, remote: &Remote) -> Result<(), CliError> {
    let session = args.operator.connect(remote).await?;
    let view = session.client.proposal(args.id).await?;
    sign_view(&session, &view, remote).await
}

async fn sign_view(
    session: &Session,
    view: &ProposalView,
    remote: &Remote,
) -> Result<(), CliError> {
    let review = review::proposal(view, &session.wallet, &session.names().await?)?;
    session.confirm(&review)?;
    let signature = review.sign(session.client.key())?;
    let view = session.client.sign_proposal(view.id, &signature).await?;
    remote.print(&view, told)
}

/// Runs `bursar policy apply`.
///
/// # Errors
/// The daemon refuses.
pub async fn apply(args: &ApplyArgs, remote: &Remote) -> Result<(), CliError> {
    let session = args.operator.connect(remote).await?;
    let view = session.client.apply_proposal(args.id).await?;
    remote.print(&view, told)
}

/// Runs `bursar policy cancel`.
///
/// # Errors
/// The proposal has run or is cancelled; the answer is no; the daemon refuses.
pub async fn cancel(args: &CancelArgs, remote: &Remote) -> Result<(), CliError> {
    let session = args.operator.connect(remote).await?;
    let view = session.client.proposal(args.id).await?;
    match view.state {
        ProposalState::Submitted | ProposalState::Waiting | ProposalState::Ready => {
            let change = hex::decode(&view.change)
                .map_err(|error| CliError::new(Kind::Mismatch, error))?
                .into();
            order(&session, IPolicyChanges::revokeCall { change }.abi_encode(), remote).await
        }
        // The daemon says why a finished one cannot be cancelled.
        ProposalState::Collecting | ProposalState::Executed | ProposalState::Cancelled => {
            remote.print(&session.client.cancel_proposal(args.id).await?, told)
        }
    }
}

/// Runs `bursar policy list`.
///
/// # Errors
/// The daemon is out of reach or refuses.
pub async fn list(args: &ListArgs, remote: &Remote) -> Result<(), CliError> {
    let session = args.operator.connect(remote).await?;
    match args.id {
        Some(id) => remote.print(&session.client.proposal(id).await?, told),
        None => remote.print(&session.client.proposals().await?, |views| many(views)),
    }
}

const fn state(state: ProposalState) -> &'static str {
    match state {
        ProposalState::Collecting => "collecting",
        ProposalState::Submitted => "submitted",
        ProposalState::Waiting => "waiting",
        ProposalState::Ready => "ready",
        ProposalState::Executed => "executed",
        ProposalState::Cancelled => "cancelled",
    }
}

fn told(view: &ProposalView) -> String {
    let complete = view.signed_by.len() as u64 >= view.threshold;
    let next = match view.state {
        ProposalState::Collecting if !complete => format!("bursar policy sign {}", view.id),
        ProposalState::Collecting | ProposalState::Ready => {
            format!("bursar policy apply {}", view.id)
        }
        ProposalState::Waiting => {
            let until = view.ready_at.map_or_else(String::new, |time| time.to_string());
            format!("wait until {until}, then bursar policy apply {}", view.id)
        }
        ProposalState::Submitted => "wait for the chain; bursar policy list tells".to_owned(),
        ProposalState::Executed | ProposalState::Cancelled => "nothing".to_owned(),
    };
    format!(
        "{}\nproposal  {}\nstate     {}, {} of {} signatures\ndigest    {}\nnext      {next}",
        review::one_line(&view.summary),
        view.id,
        state(view.state),
        view.signed_by.len(),
        view.threshold,
        view.digest,
    )
}

fn many(views: &[ProposalView]) -> String {
    let mut rows = table(&["proposal", "state", "signed", "ready", "change"]);
    for view in views {
        rows.add_row([
            view.id.to_string(),
            state(view.state).to_owned(),
            format!("{}/{}", view.signed_by.len(), view.threshold),
            view.ready_at.map_or_else(|| "-".to_owned(), |time| time.to_string()),
            view.summary.clone(),
        ]);
    }
    rows.to_string()
}
