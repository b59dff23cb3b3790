//! `bursar escrow`: money that waits for work. Agents open, deliver, release and dispute; arbiters
//! release and award; operators approve what is large.

mod show;

use std::{
    path::PathBuf,
    time::{Duration, SystemTime},
};

use alloy::{
    hex,
    primitives::{Address, B256, Bytes},
};
use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::{
    CliError, Kind, block_on,
    remote::{OperatorArgs, Pins, Remote, Session},
    table::table,
};
use crate::{
    client::AgentClient,
    escrow::{
        ActionRequest, ActionState, Content, EscrowPage, EscrowRequest, EscrowView, JobRequest,
        Milestone, Opened, Release, ReleaseRule, Signed, StepApprovalView,
    },
    keys::{OperatorKeyArgs, PassphraseArgs, read_agent_key},
    money::Usdc,
    payment::{Context, State},
    review::{self, Review, one_line},
};

/// How often `--wait` looks.
const LOOK: Duration = Duration::from_millis(500);
/// Largest file that is read as a text, in bytes: what the daemon keeps.
const TEXT: u64 = 16 * 1_024;

/// Pay when the work is done, and only then.
///
/// An escrow holds an agent's money on chain until a release, an award or a deadline moves it. Who
/// may release, what silence means and who decides disputes is fixed when it is opened.
#[derive(ClapArgs, Debug)]
#[command(after_help = "Examples:\n\
    \x20 bursar escrow open acme 40 --work \"translate the manual\" --reason \"manual, German\" \\\n\
    \x20     --arbiter 0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC --within 3d --review 1d\n\
    \x20 bursar escrow submit 0x91c0… --file manual-de.pdf\n\
    \x20 bursar escrow release 0x91c0…                    # the opening agent's word\n\
    \x20 bursar escrow show 0x91c0…\n\
    \x20 bursar escrow award 0x91c0… 25 --reason \"a third is missing\" --keystore arbiter.json")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Open(Box<OpenArgs>),
    List(ListArgs),
    Show(ShowArgs),
    Submit(SubmitArgs),
    Release(ReleaseArgs),
    Dispute(DisputeArgs),
    Award(AwardArgs),
    Void(PlainArgs),
    Refund(RefundArgs),
    Reclaim(PlainArgs),
    Finalize(PlainArgs),
    Approvals(ApprovalsArgs),
    Approve(ApproveArgs),
}

/// Who speaks: an agent (--agent-key), or an operator (--keystore, --key-fd).
#[derive(ClapArgs, Debug)]
struct Who {
    /// The agent's request key: a file made by `bursar agent keygen`, mode 0600.
    #[arg(long, env = "BURSAR_AGENT_KEY", value_name = "FILE")]
    agent_key: Option<PathBuf>,
    /// An operator's Web3 keystore file (version 3), instead of an agent's key.
    #[arg(long, value_name = "PATH")]
    keystore: Option<PathBuf>,
    /// Read an operator's private key (64 hexadecimal digits) from this open file descriptor.
    #[arg(long, value_name = "N", conflicts_with_all = ["keystore", "passphrase_fd", "passphrase_file"])]
    key_fd: Option<u32>,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    #[command(flatten)]
    pins: Pins,
}

/// Open a job: money waits for one milestone, or for each of several in a file.
///
/// The whole amount counts against the agent's limits at once, by payee, and never comes back into
/// them. Above the ceiling it waits for operators (`bursar approvals`).
#[derive(ClapArgs, Debug)]
struct OpenArgs {
    #[command(flatten)]
    who: Who,
    /// Who does the work: a registered payee's label, or its address.
    #[arg(required_unless_present = "from")]
    payee: Option<String>,
    /// Decimal USDC.
    #[arg(required_unless_present = "from")]
    amount: Option<String>,
    /// The whole job as JSON, as `POST /v1/escrows` takes it: several milestones, payouts.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["payee", "amount", "work", "reason"])]
    from: Option<PathBuf>,
    /// What is to be done, at most 16 KiB; hashed into the terms.
    #[arg(long, value_name = "TEXT", required_unless_present = "from")]
    work: Option<String>,
    /// Why: 1 to 500 bytes, for the operators and the audit log.
    #[arg(long, value_name = "TEXT", required_unless_present = "from")]
    reason: Option<String>,
    /// Names the job: asking again with the same key opens nothing twice. Made up where absent.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Who decides disputes. None: there are no disputes.
    #[arg(long, value_name = "ADDRESS")]
    arbiter: Option<Address>,
    /// Any of these lets the money go.
    #[arg(long, value_name = "WHO", value_delimiter = ',', default_value = "payer")]
    release: Vec<By>,
    /// SHA-256 of the 32-byte preimage, for `--release preimage`.
    #[arg(long, value_name = "HASH")]
    hashlock: Option<B256>,
    /// Deliver within this time, or the money goes back: 90s, 30m, 12h, 7d.
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = seconds)]
    within: u32,
    /// Time to object after delivery.
    #[arg(long, value_name = "TIME", default_value = "2d", value_parser = seconds)]
    review: u32,
    /// Time the arbiter has after a dispute.
    #[arg(long, value_name = "TIME", default_value = "3d", value_parser = seconds)]
    arbitration: u32,
    /// The payee's share of what is left where nobody speaks in time, in per cent.
    #[arg(long, value_name = "PERCENT", default_value_t = 100,
          value_parser = clap::value_parser!(u16).range(0..=100))]
    silence: u16,
    /// Wait until the money is held, or refused.
    #[arg(long)]
    wait: bool,
}

/// Whose word, or what, releases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum By {
    /// The agent that opened.
    Payer,
    /// The arbiter.
    Arbiter,
    /// Whoever shows the preimage of --hashlock: all of the money.
    Preimage,
}

impl From<By> for Release {
    fn from(by: By) -> Self {
        match by {
            By::Payer => Self::Payer,
            By::Arbiter => Self::Arbiter,
            By::Preimage => Self::Preimage,
        }
    }
}

/// List escrows, newest first: an agent's own, or all of them for an operator.
#[derive(ClapArgs, Debug)]
struct ListArgs {
    #[command(flatten)]
    who: Who,
    /// Escrows on the page: 1 to 200.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=200))]
    limit: u32,
    /// The page after: `next_cursor` of the one before.
    #[arg(long)]
    cursor: Option<String>,
}

/// Show one: terms, money, and its story as a timeline.
#[derive(ClapArgs, Debug)]
struct ShowArgs {
    #[command(flatten)]
    who: Who,
    /// The escrow: 0x and 64 hexadecimal digits.
    id: B256,
}

/// A verb without arguments. Anybody may reclaim what was not delivered in time and finalize what
/// nobody spoke about (the daemon does both by itself); void is the payee's.
#[derive(ClapArgs, Debug)]
struct PlainArgs {
    #[command(flatten)]
    who: Who,
    /// The escrow.
    id: B256,
    /// Wait until it is final.
    #[arg(long)]
    wait: bool,
}

/// A text, or the hash of what is kept elsewhere.
#[derive(ClapArgs, Debug)]
#[group(required = true, multiple = false, args = ["text", "file", "sha256"])]
struct ContentArgs {
    /// The text itself, at most 16 KiB.
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// A file: only its SHA-256 is sent.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Its SHA-256.
    #[arg(long, value_name = "HASH")]
    sha256: Option<B256>,
}

/// Deliver, as the payee. The review period starts.
#[derive(ClapArgs, Debug)]
struct SubmitArgs {
    #[command(flatten)]
    plain: PlainArgs,
    #[command(flatten)]
    content: ContentArgs,
    /// Where it can be read.
    #[arg(long, value_name = "URL")]
    link: Option<String>,
}

/// Let money go: as the opening agent, as the arbiter (an operator's key), or by a preimage.
///
/// Above the agent's ceiling the agent's word waits for operators (`bursar escrow approvals`).
#[derive(ClapArgs, Debug)]
struct ReleaseArgs {
    #[command(flatten)]
    plain: PlainArgs,
    /// Total of the payee's side, with what was released before. Absent: everything.
    #[arg(long, value_name = "USDC")]
    total: Option<Usdc>,
    /// 32 bytes whose SHA-256 is the hash lock. Releases everything.
    #[arg(long, value_name = "HEX")]
    preimage: Option<B256>,
    /// Say the opening agent's word beside another proof.
    #[arg(long)]
    as_payer: bool,
    #[command(flatten)]
    handed: HandedArgs,
}

/// A signature that an arbiter made elsewhere, handed in by an agent.
#[derive(ClapArgs, Debug)]
struct HandedArgs {
    /// The arbiter's signature, made elsewhere in WorkEscrow's EIP-712 domain.
    #[arg(long, value_name = "HEX", requires = "deadline")]
    signature: Option<Bytes>,
    /// The deadline in that signature, unix seconds.
    #[arg(long, value_name = "UNIX", requires = "signature")]
    deadline: Option<u64>,
}

/// Ask the arbiter, as payer or payee, within the review period.
#[derive(ClapArgs, Debug)]
struct DisputeArgs {
    #[command(flatten)]
    plain: PlainArgs,
    #[command(flatten)]
    content: ContentArgs,
    /// Where it can be read.
    #[arg(long, value_name = "URL")]
    link: Option<String>,
}

/// Split a disputed amount, as the arbiter.
#[derive(ClapArgs, Debug)]
struct AwardArgs {
    #[command(flatten)]
    plain: PlainArgs,
    /// Total of the payee's side, decimal USDC; the rest goes back.
    captured: Usdc,
    /// Why.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    handed: HandedArgs,
}

/// Give money back after it was paid out, as the payee, from the payee's own balance.
#[derive(ClapArgs, Debug)]
struct RefundArgs {
    #[command(flatten)]
    plain: PlainArgs,
    /// Total given back, with what was given back before. Absent: all that was released.
    #[arg(long, value_name = "USDC")]
    total: Option<Usdc>,
}

/// List the releases above an agent's ceiling that wait for operators.
#[derive(ClapArgs, Debug)]
struct ApprovalsArgs {
    #[command(flatten)]
    operator: OperatorArgs,
}

/// Sign a waiting release, after reading what is signed.
#[derive(ClapArgs, Debug)]
struct ApproveArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    /// The release: `act_` and 32 hexadecimal digits.
    id: String,
}

/// Runs `bursar escrow`.
///
/// # Errors
/// A key cannot be read, the daemon is out of reach, or it refuses.
pub fn run(args: &Args, remote: &Remote) -> Result<(), CliError> {
    block_on(async {
        match &args.verb {
            Verb::Open(args) => open(args, remote).await,
            Verb::List(args) => {
                let voice = args.who.connect(remote).await?;
                let page = voice.list(args.cursor.as_deref(), args.limit).await?;
                remote.print(&page, page_text)
            }
            Verb::Show(args) => {
                let escrow = args.who.connect(remote).await?.escrow(args.id).await?;
                remote.print(&escrow, show::text)
            }
            Verb::Submit(args) => {
                let voice = args.plain.who.connect(remote).await?;
                let deliverable = args.content.read()?;
                let url = args.link.clone();
                let request = ActionRequest::Submit { deliverable, url, signed: None };
                act(&voice, &args.plain, &request, remote).await
            }
            Verb::Release(args) => release(args, remote).await,
            Verb::Dispute(args) => {
                let voice = args.plain.who.connect(remote).await?;
                let evidence = args.content.read()?;
                let request =
                    ActionRequest::Dispute { evidence, url: args.link.clone(), signed: None };
                act(&voice, &args.plain, &request, remote).await
            }
            Verb::Award(args) => award(args, remote).await,
            Verb::Void(args) => {
                let voice = args.who.connect(remote).await?;
                act(&voice, args, &ActionRequest::Void { signed: None }, remote).await
            }
            Verb::Refund(args) => {
                let voice = args.plain.who.connect(remote).await?;
                let total = args.total.map(|total| total.to_string());
                let request = ActionRequest::Refund { total, signed: None };
                act(&voice, &args.plain, &request, remote).await
            }
            Verb::Reclaim(args) => {
                let voice = args.who.connect(remote).await?;
                act(&voice, args, &ActionRequest::Reclaim, remote).await
            }
            Verb::Finalize(args) => {
                let voice = args.who.connect(remote).await?;
                act(&voice, args, &ActionRequest::Finalize, remote).await
            }
            Verb::Approvals(args) => {
                let session = args.operator.connect(remote).await?;
                remote.print(&session.client.escrow_approvals().await?, |list| waiting(list))
            }
            Verb::Approve(args) => approve(args, remote).await,
        }
    })
}

/// Whoever talks to the daemon.
enum Voice {
    Agent(Box<AgentClient>),
    Operator(Box<Session>),
}

impl Who {
    async fn connect(&self, remote: &Remote) -> Result<Voice, CliError> {
        if self.keystore.is_some() || self.key_fd.is_some() {
            let key = OperatorKeyArgs {
                keystore: self.keystore.clone(),
                key_fd: self.key_fd,
                passphrase: self.passphrase.clone(),
            };
            let operator = OperatorArgs { key, pins: self.pins.clone() };
            return Ok(Voice::Operator(Box::new(operator.connect(remote).await?)));
        }
        let Some(file) = &self.agent_key else {
            return Err(CliError::new(Kind::Usage, "who speaks?").hint(
                "--agent-key FILE (or BURSAR_AGENT_KEY) for an agent, --keystore FILE for an operator",
            ));
        };
        let client = AgentClient::new(&remote.url, read_agent_key(file)?)?;
        Ok(Voice::Agent(Box::new(client.signed_origin(remote.origin()))))
    }
}

impl Voice {
    async fn escrow(&self, id: B256) -> Result<EscrowView, CliError> {
        Ok(match self {
            Self::Agent(client) => client.escrow(id).await?,
            Self::Operator(session) => session.client.escrow(id).await?,
        })
    }

    async fn list(&self, cursor: Option<&str>, limit: u32) -> Result<EscrowPage, CliError> {
        Ok(match self {
            Self::Agent(client) => client.escrows(cursor, limit).await?,
            Self::Operator(session) => session.client.escrows(cursor, limit).await?,
        })
    }

    async fn act(&self, id: B256, request: &ActionRequest) -> Result<EscrowView, CliError> {
        Ok(match self {
            Self::Agent(client) => client.act_on_escrow(id, request).await?,
            Self::Operator(session) => session.client.act_on_escrow(id, request).await?,
        })
    }
}

async fn open(args: &OpenArgs, remote: &Remote) -> Result<(), CliError> {
    let Voice::Agent(client) = args.who.connect(remote).await? else {
        return Err(CliError::new(Kind::Usage, "escrows are opened by agents")
            .hint("leave --keystore out and name --agent-key"));
    };
    let request = args.request()?;
    let key = args.key.clone().unwrap_or_else(|| {
        let key = uuid::Uuid::now_v7().to_string();
        eprintln!("key {key}; if you must ask again, add --key {key}");
        key
    });
    let mut opened = client.open_escrow(&request, &key).await?;
    if args.wait {
        for escrow in &mut opened.escrows {
            while escrow.state == crate::escrow::EscrowState::Opening
                && !escrow.payment.state.is_terminal()
            {
                tokio::time::sleep(LOOK).await;
                *escrow = client.escrow(escrow.id).await?;
            }
        }
    }
    remote.print(&opened, opened_text)?;
    let refused = |escrow: &&EscrowView| {
        matches!(
            escrow.payment.state,
            State::Denied | State::Failed | State::Rejected | State::Expired
        )
    };
    match opened.escrows.iter().find(refused) {
        Some(escrow) => {
            let why = escrow.payment.refusal.as_ref().map(|refusal| refusal.detail.as_str());
            let text = format!(
                "milestone {} is {}: {}",
                escrow.milestone,
                escrow.payment.state,
                one_line(why.unwrap_or("no reason given"))
            );
            Err(CliError::new(Kind::Refused, text))
        }
        None => Ok(()),
    }
}

impl OpenArgs {
    fn request(&self) -> Result<EscrowRequest, CliError> {
        if let Some(file) = &self.from {
            let wrong = |error: &dyn std::fmt::Display, kind| {
                CliError::new(kind, format!("{}: {error}", file.display()))
            };
            let text = std::fs::read_to_string(file).map_err(|e| wrong(&e, Kind::Unreachable))?;
            return serde_json::from_str(&text).map_err(|error| {
                wrong(&error, Kind::Usage)
                    .hint("the body of POST /v1/escrows; docs/openapi.json describes it")
            });
        }
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let milestone = Milestone {
            title: None,
            amount: text(&self.amount),
            arbiter: self.arbiter,
            release: ReleaseRule {
                any_of: self.release.iter().map(|by| (*by).into()).collect(),
                hashlock: self.hashlock,
                ..ReleaseRule::default()
            },
            submit_within_s: self.within.into(),
            review_period_s: self.review,
            arbitration_period_s: self.arbiter.map_or(0, |_| self.arbitration),
            silence_bps: self.silence * 100,
            payouts: Vec::new(),
        };
        Ok(EscrowRequest {
            payee: text(&self.payee),
            currency: "USDC".to_owned(),
            reason: text(&self.reason),
            context: Context::default(),
            job: JobRequest { content: Content::Text(text(&self.work)), url: None },
            milestones: vec![milestone],
        })
    }
}

async fn act(
    voice: &Voice,
    args: &PlainArgs,
    request: &ActionRequest,
    remote: &Remote,
) -> Result<(), CliError> {
    let mut escrow = voice.act(args.id, request).await?;
    let asked = escrow.actions.iter().map(|action| action.id.clone()).max();
    let of = |escrow: &EscrowView| {
        let found = escrow.actions.iter().find(|action| Some(&action.id) == asked.as_ref());
        found.map(|action| (action.state, action.refusal.clone()))
    };
    while args.wait && matches!(of(&escrow), Some((ActionState::Sent, _))) {
        tokio::time::sleep(LOOK).await;
        escrow = voice.escrow(args.id).await?;
    }
    remote.print(&escrow, show::text)?;
    match of(&escrow) {
        Some((ActionState::Failed, refusal)) => {
            let why = refusal.map_or_else(|| "no reason given".to_owned(), |why| why.detail);
            Err(CliError::new(Kind::Refused, format!("it failed: {}", one_line(&why))))
        }
        _ => Ok(()),
    }
}

async fn release(args: &ReleaseArgs, remote: &Remote) -> Result<(), CliError> {
    let voice = args.plain.who.connect(remote).await?;
    let mut arbiter = args.handed.signed();
    if let (Voice::Operator(session), None, None) = (&voice, &arbiter, args.preimage) {
        let escrow = voice.escrow(args.plain.id).await?;
        is_arbiter(session, &escrow)?;
        let total = args.total.unwrap_or(escrow.amount).units();
        let deadline = deadline();
        let names = session.names().await?;
        let review = review::arbiter_release(&escrow, total, deadline, &session.wallet, &names)?;
        arbiter = Some(sign(session, &review, deadline)?);
    }
    let request = ActionRequest::Release {
        total: args.total.map(|total| total.to_string()),
        as_payer: args.as_payer,
        arbiter,
        preimage: args.preimage,
        condition_data: None,
    };
    act(&voice, &args.plain, &request, remote).await
}

async fn award(args: &AwardArgs, remote: &Remote) -> Result<(), CliError> {
    let voice = args.plain.who.connect(remote).await?;
    let reason = Content::Text(args.reason.clone());
    let signed = match (&voice, args.handed.signed()) {
        (_, Some(signed)) => signed,
        (Voice::Operator(session), None) => {
            let escrow = voice.escrow(args.plain.id).await?;
            is_arbiter(session, &escrow)?;
            let deadline = deadline();
            let hash = crate::escrow::content_hash(args.reason.as_bytes());
            let (captured, names) = (args.captured.units(), session.names().await?);
            let review = review::award(&escrow, captured, hash, deadline, &session.wallet, &names)?;
            sign(session, &review, deadline)?
        }
        (Voice::Agent(_), None) => {
            return Err(CliError::new(Kind::Usage, "an award is the arbiter's").hint(
                "sign with --keystore, or hand in --signature and --deadline made elsewhere",
            ));
        }
    };
    let captured = args.captured.to_string();
    act(&voice, &args.plain, &ActionRequest::Award { captured, reason, signed }, remote).await
}

impl HandedArgs {
    fn signed(&self) -> Option<Signed> {
        let (signature, deadline) = (self.signature.clone()?, self.deadline?);
        Some(Signed { signature, deadline })
    }
}

/// An arbiter's signature is good for an hour.
fn deadline() -> u64 {
    const HOUR: u64 = 3_600;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.as_secs() + HOUR
}

fn is_arbiter(session: &Session, escrow: &EscrowView) -> Result<(), CliError> {
    let key = session.client.key().address();
    match escrow.arbiter {
        Some(arbiter) if arbiter == key => Ok(()),
        Some(arbiter) => Err(CliError::new(
            Kind::Refused,
            format!("{key} is not the escrow's arbiter; {arbiter} is"),
        )
        .hint("sign with the arbiter's key, or hand in its --signature with --agent-key")),
        None => Err(CliError::new(Kind::Refused, "this escrow has no arbiter")),
    }
}

fn sign(session: &Session, review: &Review, deadline: u64) -> Result<Signed, CliError> {
    session.confirm(review)?;
    let body = review.sign(session.client.key())?;
    let signature = hex::decode(&body.signature).map_err(|e| CliError::new(Kind::Refused, e))?;
    Ok(Signed { signature: signature.into(), deadline })
}

async fn approve(args: &ApproveArgs, remote: &Remote) -> Result<(), CliError> {
    let session = args.operator.connect(remote).await?;
    let view = session.client.escrow_approval(&args.id).await?;
    let agent = session.agent(view.escrow.agent.as_str()).await?;
    let names = session.names().await?;
    let review = review::release(&view, agent.address, &session.wallet, &names)?;
    session.confirm(&review)?;
    let signature = review.sign(session.client.key())?;
    let view = session.client.approve_escrow(&args.id, &signature).await?;
    remote.print(&view, |view| {
        format!(
            "signed {}: {} of {} signatures; the release is {}",
            view.action.id,
            view.signed_by.len(),
            view.threshold,
            view.action.state
        )
    })
}

impl ContentArgs {
    fn read(&self) -> Result<Content, CliError> {
        if let Some(hash) = self.sha256 {
            return Ok(Content::Sha256(hash));
        }
        if let Some(text) = &self.text {
            if text.len() as u64 > TEXT {
                return Err(CliError::new(Kind::Usage, "a text has at most 16 KiB")
                    .hint("write it to a file and send --file"));
            }
            return Ok(Content::Text(text.clone()));
        }
        let file = self.file.clone().unwrap_or_default();
        let content = std::fs::read(&file)
            .map_err(|e| CliError::new(Kind::Unreachable, format!("{}: {e}", file.display())))?;
        Ok(Content::Sha256(crate::escrow::content_hash(&content)))
    }
}

/// Reads 90s, 30m, 12h, 7d.
fn seconds(text: &str) -> Result<u32, String> {
    let wrong = || "a whole number with s, m, h or d behind it, like 12h".to_owned();
    let unit = match text.bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3_600,
        Some(b'd') => 86_400,
        _ => return Err(wrong()),
    };
    let count: u32 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    count.checked_mul(unit).ok_or_else(|| "that is longer than can be written".to_owned())
}

fn opened_text(opened: &Opened) -> String {
    format!("{}\n\n{}", opened.job_id, rows(&opened.escrows))
}

fn page_text(page: &EscrowPage) -> String {
    match &page.next_cursor {
        Some(cursor) => format!("{}\nmore: --cursor {}", rows(&page.escrows), one_line(cursor)),
        None => rows(&page.escrows),
    }
}

fn rows(escrows: &[EscrowView]) -> String {
    let mut rows = table(&["escrow", "of job", "state", "amount", "released", "back", "payee"]);
    for escrow in escrows {
        let place = format!("{} of {}", escrow.milestone, escrow.milestones);
        rows.add_row([
            escrow.id.to_string(),
            escrow.title.as_ref().map_or(place.clone(), |title| format!("{place}: {title}")),
            show::state(escrow),
            escrow.amount.to_string(),
            escrow.captured.to_string(),
            escrow.refunded.to_string(),
            show::payee(escrow),
        ]);
    }
    rows.to_string()
}

fn waiting(list: &[StepApprovalView]) -> String {
    let mut rows = table(&["release", "agent", "total", "of", "payee", "signed", "until"]);
    for view in list {
        let total = view.action.detail.get("total").and_then(|total| total.as_str());
        rows.add_row([
            view.action.id.clone(),
            view.escrow.agent.to_string(),
            total.unwrap_or("-").to_owned(),
            view.escrow.amount.to_string(),
            show::payee(&view.escrow),
            format!("{}/{}", view.signed_by.len(), view.threshold),
            view.expires_at.to_string(),
        ]);
    }
    rows.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_strictly() {
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("30m"), Ok(1_800));
        assert_eq!(seconds("12h"), Ok(43_200));
        assert_eq!(seconds("7d"), Ok(604_800));
        for wrong in ["", "7", "d", "-1d", "1.5h", "99999999999d", "49711d", "3 d", "1é"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
