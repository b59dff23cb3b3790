//! The last act: one agent hires another. A job of three milestones with an arbiter: one is paid on
//! the arbiter's word, one by a preimage, one is disputed and split. A second job is never delivered
//! and comes back by itself.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use alloy::{hex, primitives::B256, signers::local::PrivateKeySigner};
use anyhow::{Context as _, bail};
use bursar::{
    client::{self, AgentClient, OperatorClient},
    contract::Names,
    devnet::Manifest,
    escrow::{
        ActionRequest, Content, EscrowRequest, EscrowState, EscrowView, JobRequest, Milestone,
        Release, ReleaseRule, Signed, content_hash,
    },
    keys::{PassphraseArgs, operator, read_agent_key},
    money::Usdc,
    payment::Context,
    review::{self, Review},
    view::WalletView,
};

use crate::conduct::check;

/// Who hires, who works (an agent, and its label in the registry), and which operator is the arbiter.
const HIRER: &str = "atlas";
const WORKER: &str = "borealis";
const LABEL: &str = "borealis-works";
const ARBITER: usize = 2;
/// Longest wait for one step.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(250);
/// The second job's deadline, seconds.
const TOO_SOON_S: u64 = 6;
/// A signature of the arbiter's is good for this many seconds.
const SIGNED_S: i64 = 600;

struct Stage<'a> {
    devnet: &'a Manifest,
    hirer: AgentClient,
    worker: AgentClient,
    desk: OperatorClient,
    wallet: WalletView,
}

/// Plays it.
pub async fn play(bursar: &Path, devnet: &Manifest) -> anyhow::Result<()> {
    println!("\n{HIRER} hires {WORKER}; {} is the arbiter\n", devnet.operators[ARBITER].name);
    let stage = Stage::set(devnet).await?;
    let secret = B256::from(rand::random::<[u8; 32]>());
    let arbiter = Some(devnet.operators[ARBITER].address);
    let milestone = |title: &str, amount: &str, by: Vec<Release>, hashlock| Milestone {
        title: Some(title.to_owned()),
        amount: amount.to_owned(),
        arbiter,
        release: ReleaseRule { any_of: by, hashlock, ..ReleaseRule::default() },
        submit_within_s: 3_600,
        review_period_s: 3_600,
        arbitration_period_s: 3_600,
        silence_bps: 10_000,
        payouts: Vec::new(),
    };
    let job = stage
        .open(
            "clean the data, train the model, write it up",
            vec![
                milestone("the data", "30", vec![Release::Arbiter], None),
                milestone(
                    "the model",
                    "20",
                    vec![Release::Preimage],
                    Some(content_hash(secret.as_slice())),
                ),
                milestone("the report", "50", vec![Release::Payer, Release::Arbiter], None),
            ],
        )
        .await?;
    let [data, model, report] = job.as_slice() else { bail!("not three escrows") };
    let late = stage
        .open(
            "label a million pictures by the next minute",
            vec![Milestone {
                submit_within_s: TOO_SOON_S,
                ..milestone("the labels", "15", vec![Release::Payer], None)
            }],
        )
        .await?;
    let late = late.first().context("no escrow")?;

    for (escrow, what) in [(data, "rows.parquet"), (report, "report.pdf, page 1 of 3")] {
        stage.deliver(escrow, what).await?;
    }
    let total = data.amount;
    let ask = stage.sign(|deadline| {
        review::arbiter_release(data, total.units(), deadline, &stage.wallet, &Names::default())
    })?;
    let release = |total: Option<Usdc>, arbiter, preimage| ActionRequest::Release {
        total: total.map(|total| total.to_string()),
        as_payer: false,
        arbiter,
        preimage,
        condition_data: None,
    };
    stage.desk.act_on_escrow(data.id, &release(Some(total), Some(ask), None)).await?;
    stage.ends(data, "paid on the arbiter's signature", "30", "0").await?;

    stage.worker.act_on_escrow(model.id, &release(None, None, Some(secret))).await?;
    stage.ends(model, "paid by the preimage", "20", "0").await?;

    let evidence = Content::Text("two pages of three are missing".to_owned());
    let dispute = ActionRequest::Dispute { evidence, url: None, signed: None };
    stage.hirer.act_on_escrow(report.id, &dispute).await?;
    stage.reaches(report.id, EscrowState::Disputed).await?;
    let captured = "35".parse::<Usdc>()?;
    let reason = "what is there is good";
    let hash = content_hash(reason.as_bytes());
    let signed = stage.sign(|deadline| {
        let names = Names::default();
        review::award(report, captured.units(), hash, deadline, &stage.wallet, &names)
    })?;
    let award = ActionRequest::Award {
        captured: captured.to_string(),
        reason: Content::Text(reason.to_owned()),
        signed,
    };
    stage.desk.act_on_escrow(report.id, &award).await?;
    stage.ends(report, "disputed, and split by the arbiter", "35", "15").await?;
    stage.ends(late, "never delivered; the daemon took it back", "0", "15").await?;

    let agent = &devnet.agents[&HIRER.parse()?];
    let key = agent.request_key.to_str().context("the key's name is not text")?;
    let id = report.id.to_string();
    check(bursar, &["escrow", "show", &id, "--agent-key", key, "--url", &devnet.api])
}

impl<'a> Stage<'a> {
    async fn set(devnet: &'a Manifest) -> anyhow::Result<Self> {
        let agent = |name: &str| -> anyhow::Result<AgentClient> {
            let entry = devnet.agents.get(&name.parse()?).context("an agent is missing")?;
            Ok(AgentClient::new(&devnet.api, read_agent_key(&entry.request_key)?)?)
        };
        let entry = devnet.operators.get(ARBITER).context("no third operator")?;
        let file = Some(entry.passphrase_file.clone());
        let args = PassphraseArgs { passphrase_fd: None, passphrase_file: file };
        let key: PrivateKeySigner = operator::open_keystore(&entry.keystore, &args.read("")?)?;
        Ok(Self {
            devnet,
            hirer: agent(HIRER)?,
            worker: agent(WORKER)?,
            desk: OperatorClient::new(&devnet.api, key, devnet.chain_id, devnet.wallet)?,
            wallet: client::wallet(&devnet.api).await?,
        })
    }

    /// Opens a job and waits until all of its money is held.
    async fn open(
        &self,
        work: &str,
        milestones: Vec<Milestone>,
    ) -> anyhow::Result<Vec<EscrowView>> {
        let request = EscrowRequest {
            payee: LABEL.to_owned(),
            currency: "USDC".to_owned(),
            reason: work.to_owned(),
            context: Context::default(),
            job: JobRequest { content: Content::Text(work.to_owned()), url: None },
            milestones,
        };
        let key = content_hash(work.as_bytes()).to_string();
        let opened = self.hirer.open_escrow(&request, &key).await?;
        println!("  {} {work}: milestones {}", opened.job_id, opened.escrows.len());
        let mut held = Vec::new();
        for escrow in &opened.escrows {
            held.push(self.reaches(escrow.id, EscrowState::Funded).await?);
        }
        Ok(held)
    }

    async fn deliver(&self, escrow: &EscrowView, what: &str) -> anyhow::Result<()> {
        let deliverable = Content::Text(what.to_owned());
        let request = ActionRequest::Submit { deliverable, url: None, signed: None };
        self.worker.act_on_escrow(escrow.id, &request).await?;
        self.reaches(escrow.id, EscrowState::Submitted).await?;
        Ok(())
    }

    /// The arbiter reads, and signs with a key that the daemon never sees.
    fn sign(
        &self,
        write: impl FnOnce(u64) -> Result<Review, review::ReviewError>,
    ) -> anyhow::Result<Signed> {
        let deadline = u64::try_from(jiff::Timestamp::now().as_second() + SIGNED_S)?;
        let review = write(deadline)?;
        let body = review.sign(self.desk.key())?;
        println!("  {} signs: {}", self.devnet.operators[ARBITER].name, review.title);
        Ok(Signed { signature: hex::decode(body.signature)?.into(), deadline })
    }

    async fn reaches(&self, id: B256, state: EscrowState) -> anyhow::Result<EscrowView> {
        self.until(id, |escrow| escrow.state == state, state.as_str()).await
    }

    /// Waits for the end, and compares it with what it must be, to the base unit.
    async fn ends(
        &self,
        escrow: &EscrowView,
        how: &str,
        released: &str,
        back: &str,
    ) -> anyhow::Result<()> {
        let end = self.until(escrow.id, |escrow| escrow.state.is_terminal(), "ended").await?;
        let title = end.title.as_deref().unwrap_or_default();
        println!(
            "  {:<11} {:>3} USDC  {:<9}  {:>3} released, {:>3} back  {how}",
            title,
            end.amount.to_string(),
            end.state,
            end.captured.to_string(),
            end.refunded.to_string(),
        );
        if (end.captured, end.refunded) != (released.parse()?, back.parse()?) {
            bail!("{title}: {released} released and {back} back were expected");
        }
        Ok(())
    }

    async fn until(
        &self,
        id: B256,
        holds: impl Fn(&EscrowView) -> bool,
        what: &str,
    ) -> anyhow::Result<EscrowView> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let escrow = self.hirer.escrow(id).await?;
            if holds(&escrow) {
                return Ok(escrow);
            }
            if Instant::now() > deadline {
                bail!("escrow {id} is {} and not {what}", escrow.state);
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
