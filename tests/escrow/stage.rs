//! A wallet, an agent that pays, an agent that works, an arbiter with a key of its own; and what
//! every case ends with: chain, books and ledger agree to the base unit.

use alloy::{
    primitives::{Address, B256, U256},
    signers::{SignerSync as _, local::PrivateKeySigner},
    sol_types::SolStruct,
};
use bursar::{
    client::ClientError,
    contract::{
        self, IPolicyChanges, PayeeLimits,
        escrow::{self, Award, Release as SignRelease},
    },
    escrow::{
        ActionKind, ActionRequest, ActionState, Content, EscrowRequest, EscrowState, EscrowView,
        JobRequest, Milestone, Release, ReleaseRule, Signed,
    },
    payment::Context,
};

use crate::support::{Plan, World, wait_for};

/// Who pays.
pub const PAYER: &str = "dune";
/// Who works: another agent of the same daemon.
pub const WORKER: &str = "ember";
/// One USDC.
pub const USDC: u64 = 1_000_000;

pub struct Stage {
    pub world: World,
    pub arbiter: PrivateKeySigner,
    /// Balances before the first escrow: wallet, worker.
    before: (u64, u64),
}

pub fn text(text: &str) -> Content {
    Content::Text(text.to_owned())
}

/// A milestone that the payer, or the arbiter, releases.
pub fn milestone(amount: &str, arbiter: Address) -> Milestone {
    Milestone {
        title: Some("the only one".into()),
        amount: amount.into(),
        arbiter: Some(arbiter),
        release: ReleaseRule {
            any_of: vec![Release::Payer, Release::Arbiter],
            ..ReleaseRule::default()
        },
        submit_within_s: 7_200,
        review_period_s: 3_600,
        arbitration_period_s: 3_600,
        silence_bps: 10_000,
        payouts: Vec::new(),
    }
}

impl Stage {
    /// A world in which the payer may pay the worker.
    pub async fn new() -> Self {
        let world = Plan::new().start().await;
        let stage = Self { world, arbiter: PrivateKeySigner::random(), before: (0, 0) };
        stage.register(stage.worker(), "the-worker", 1 << 4).await;
        let before = (stage.usdc_of_wallet().await, stage.usdc_of(stage.worker()).await);
        Self { before, ..stage }
    }

    pub fn worker(&self) -> Address {
        self.world.address(WORKER)
    }

    pub async fn usdc_of(&self, account: Address) -> u64 {
        self.world.chain.usdc_of(account).await
    }

    pub async fn usdc_of_wallet(&self) -> u64 {
        self.usdc_of(self.world.card.wallet).await
    }

    /// The quorum registers a payee, and its delay passes.
    pub async fn register(&self, payee: Address, label: &str, categories: u16) {
        let world = &self.world;
        let cap = contract::narrow((1 << 48) - 1).unwrap();
        let change = IPolicyChanges::setPayeeCall {
            payee,
            limits: PayeeLimits { categories, cap, cooldown: 0 },
        };
        let proposal = world.propose(change, Some(label)).await;
        for index in [0, 1] {
            world.sign_proposal(&proposal, index).await.unwrap();
        }
        let operator = world.operator(0);
        operator.apply_proposal(proposal.id).await.unwrap();
        for what in ["waiting", "ready"] {
            wait_for(&format!("{label} {what}"), async || {
                let now = operator.proposal(proposal.id).await.unwrap();
                let state = serde_json::to_value(now.state).unwrap();
                (state == what).then_some(())
            })
            .await;
            if what == "waiting" {
                world.chain.pass(61).await;
            }
        }
        operator.apply_proposal(proposal.id).await.unwrap();
        wait_for(&format!("{label} to be registered"), async || {
            let known = operator.payees().await.unwrap();
            known.iter().any(|one| one.address == payee).then_some(())
        })
        .await;
    }

    pub fn job(&self, milestones: Vec<Milestone>) -> EscrowRequest {
        EscrowRequest {
            payee: "the-worker".into(),
            currency: "USDC".into(),
            reason: "a report on tidal power".into(),
            context: Context { order: Some("order-7".into()), ..Context::default() },
            job: JobRequest { content: text("Write a report of twenty pages."), url: None },
            milestones,
        }
    }

    /// SIGKILL, and a new start.
    pub async fn bounce(&mut self) {
        self.world.kill();
        self.world.restart().await;
    }

    /// Opens one escrow, kills the daemon before it can have been funded for good, and waits until
    /// it is.
    pub async fn open(&mut self, milestone: Milestone) -> EscrowView {
        let job = self.job(vec![milestone]);
        let opened = self.world.agent(PAYER).open_escrow(&job, "job-1").await.unwrap();
        self.bounce().await;
        let again = self.world.agent(PAYER).open_escrow(&job, "job-1").await.unwrap();
        assert_eq!(again.escrows[0].id, opened.escrows[0].id, "one key, one job");
        self.until(opened.escrows[0].id, EscrowState::Funded).await
    }

    pub async fn show(&self, id: B256) -> EscrowView {
        self.world.agent(PAYER).escrow(id).await.unwrap()
    }

    pub async fn until(&self, id: B256, state: EscrowState) -> EscrowView {
        wait_for(&format!("{id} {state}"), async || {
            let now = self.show(id).await;
            assert!(
                now.state == state || !now.state.is_terminal(),
                "{id} is {}, not {state}: {:?}",
                now.state,
                now.actions
            );
            (now.state == state).then_some(now)
        })
        .await
    }

    /// Asks for something, kills the daemon at once, asks again, and waits until it is final.
    pub async fn act(&mut self, who: &str, id: B256, request: &ActionRequest) -> EscrowView {
        let asked = self.world.agent(who).act_on_escrow(id, request).await.unwrap();
        let kind = asked.actions.last().unwrap().kind;
        self.bounce().await;
        let again = self.world.agent(who).act_on_escrow(id, request).await.unwrap();
        assert_eq!(again.actions.len(), asked.actions.len(), "asked twice, done once");
        self.done(id, kind).await
    }

    /// Waits until the last action of a kind is final and happened.
    pub async fn done(&self, id: B256, kind: ActionKind) -> EscrowView {
        wait_for(&format!("{kind} of {id}"), async || {
            let now = self.show(id).await;
            let action = now.actions.iter().rfind(|action| action.kind == kind)?;
            assert!(action.state != ActionState::Failed, "{action:?}");
            (action.state == ActionState::Done).then_some(now)
        })
        .await
    }

    pub async fn deliver(&mut self, id: B256) -> EscrowView {
        let request = ActionRequest::Submit {
            deliverable: text("twenty pages"),
            url: Some("https://example.com/report".into()),
            signed: None,
        };
        self.act(WORKER, id, &request).await;
        self.until(id, EscrowState::Submitted).await
    }

    /// The arbiter's signature over a message, good for an hour.
    pub fn arbiter_signs<T: SolStruct>(&self, message: impl Fn(U256) -> T) -> Signed {
        sign(&self.world, &self.arbiter, message)
    }

    pub fn arbiter_releases(&self, id: B256, total: u64) -> Signed {
        self.arbiter_signs(|deadline| SignRelease { escrowId: id, cumulative: total, deadline })
    }

    pub fn award(&self, view: &EscrowView, captured: &str, why: &str) -> ActionRequest {
        let total: bursar::money::Usdc = captured.parse().unwrap();
        let signed = self.arbiter_signs(|deadline| Award {
            escrowId: view.id,
            captured: total.units(),
            refunded: view.amount_units - total.units(),
            reason: bursar::escrow::content_hash(why.as_bytes()),
            deadline,
        });
        ActionRequest::Award { captured: captured.into(), reason: text(why), signed }
    }

    /// Wallet and worker have exactly so much less and more than before; the contract holds so much;
    /// chain and books agree.
    pub async fn settled(&self, out_of_wallet: u64, to_worker: u64, in_contract: u64) {
        let gone = self.before.0 - self.usdc_of_wallet().await;
        let earned = self.usdc_of(self.worker()).await - self.before.1;
        let held = self.usdc_of(self.world.card.escrow).await;
        assert_eq!(
            (gone, earned, held),
            (out_of_wallet, to_worker, in_contract),
            "out of the wallet, at the worker, in the contract"
        );
        let (code, said) = self.world.bursar(&["reconcile"]);
        assert_eq!(code, 0, "{said}");
        let (code, said) = self.world.bursar(&["audit", "verify"]);
        assert_eq!(code, 0, "{said}");
    }

    /// What the audit log says of an escrow, in order.
    pub async fn story(&self, view: &EscrowView) -> Vec<String> {
        let pool = self.world.tables().await;
        let rows = sqlx::query("SELECT kind FROM audit_entry WHERE payment_id = $1 ORDER BY seq")
            .bind(view.payment.id.to_string())
            .fetch_all(&pool)
            .await
            .unwrap();
        pool.close().await;
        let kinds = rows.iter().map(|row| sqlx::Row::get::<String, _>(row, 0));
        kinds.filter(|kind| kind.starts_with("escrow.")).collect()
    }

    pub fn timeline(view: &EscrowView) -> Vec<&str> {
        view.timeline.iter().map(|entry| entry.what.as_str()).collect()
    }
}

/// Signs a message of WorkEscrow's, good for an hour.
pub fn sign<T: SolStruct>(
    world: &World,
    key: &PrivateKeySigner,
    message: impl Fn(U256) -> T,
) -> Signed {
    let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap();
    let deadline = now + 3_600;
    let domain = escrow::domain(world.card.chain_id, world.card.escrow);
    let digest = contract::digest(&message(U256::from(deadline)), &domain);
    let signature = key.sign_hash_sync(&digest).unwrap();
    Signed { signature: signature.as_bytes().into(), deadline }
}

/// The rule and the words of a refusal.
pub fn refused<T: std::fmt::Debug>(answer: Result<T, ClientError>) -> (String, String) {
    match answer.unwrap_err() {
        ClientError::Refused(problem) => {
            (problem.refusal.rule.unwrap_or_default(), problem.refusal.detail)
        }
        other => panic!("not refused, but: {other}"),
    }
}
