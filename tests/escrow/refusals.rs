//! What is refused, with reasons; what needs operators; what is asked twice.

use alloy::primitives::Address;
use bursar::{
    escrow::{ActionRequest, ActionState, EscrowState},
    payment::State,
    refusal::Code,
    view::SignatureBody,
};

use super::stage::{PAYER, Stage, USDC, WORKER, milestone, refused, text};
use crate::support::{RefusedWith, wait_for};

fn release(total: Option<&str>) -> ActionRequest {
    ActionRequest::Release {
        total: total.map(str::to_owned),
        as_payer: false,
        arbiter: None,
        preimage: None,
        condition_data: None,
    }
}

#[tokio::test]
async fn refusals_say_why_and_nothing_moves() {
    let mut stage = Stage::new().await;
    let arbiter = stage.arbiter.address();
    let payer = stage.world.agent(PAYER);

    // The payer's silence must not be free: the contract says so before anything is accepted.
    let mut free = milestone("5", arbiter);
    free.arbiter = None;
    free.arbitration_period_s = 0;
    free.release.any_of = vec![bursar::escrow::Release::Payer];
    free.silence_bps = 0;
    let (rule, _) = refused(payer.open_escrow(&stage.job(vec![free]), "free").await);
    assert_eq!(rule, "body.milestones[0].silence_bps");
    // A job is accepted whole or not at all.
    let half = vec![milestone("5", arbiter), milestone("0", arbiter)];
    assert!(payer.open_escrow(&stage.job(half), "half").await.is_err());
    let mut unknown = stage.job(vec![milestone("5", arbiter)]);
    unknown.payee = "nobody".into();
    assert_eq!(payer.open_escrow(&unknown, "nobody").await.code(), Code::PayeeUnknown);
    let atlas = stage.world.agent("atlas");
    let job = stage.job(vec![milestone("5", arbiter)]);
    assert_eq!(atlas.open_escrow(&job, "k").await.code(), Code::CategoryNotAllowed);
    stage.settled(0, 0, 0).await;

    let opened = stage.open(milestone("5", arbiter)).await;
    let id = opened.id;
    let mut other = stage.job(vec![milestone("6", arbiter)]);
    other.reason = "another".into();
    let payer = stage.world.agent(PAYER);
    assert_eq!(payer.open_escrow(&other, "job-1").await.code(), Code::IdempotencyKeyReused);
    let worker = stage.world.agent(WORKER);
    let (rule, _) = refused(worker.act_on_escrow(id, &ActionRequest::Reclaim).await);
    assert_eq!(rule, "escrow.not_yet");
    let (rule, _) = refused(worker.act_on_escrow(id, &ActionRequest::Finalize).await);
    assert_eq!(rule, "escrow.status");
    let (rule, _) = refused(worker.act_on_escrow(id, &release(None)).await);
    assert_eq!(rule, "escrow.release");
    // The arbiter signed for less than what is asked.
    let cheat = ActionRequest::Release {
        total: Some("5".into()),
        as_payer: false,
        arbiter: Some(stage.arbiter_releases(id, USDC)),
        preimage: None,
        condition_data: None,
    };
    let (rule, detail) = refused(worker.act_on_escrow(id, &cheat).await);
    assert_eq!(rule, "escrow.signature", "{detail}");
    assert!(detail.contains("arbiter"), "{detail}");
    let (rule, _) = refused(payer.act_on_escrow(id, &release(Some("6"))).await);
    assert_eq!(rule, "escrow.total");
    let evidence = ActionRequest::Dispute { evidence: text("x"), url: None, signed: None };
    let (rule, _) = refused(payer.act_on_escrow(id, &evidence).await);
    assert_eq!(rule, "escrow.status");
    let stranger = ActionRequest::Submit { deliverable: text("x"), url: None, signed: None };
    assert_eq!(atlas.act_on_escrow(id, &stranger).await.code(), Code::NotFound);
    assert!(payer.act_on_escrow(id, &stranger).await.is_err());
    stage.settled(5 * USDC, 0, 5 * USDC).await;
    assert!(stage.story(&opened).await.contains(&"escrow.refused".to_owned()));
}

#[tokio::test]
async fn a_large_escrow_is_opened_and_released_by_the_quorum() {
    let mut stage = Stage::new().await;
    let job = stage.job(vec![milestone("1200", stage.arbiter.address())]);
    let opened = stage.world.agent(PAYER).open_escrow(&job, "large").await.unwrap();
    let [escrow] = opened.escrows.as_slice() else { panic!("one milestone, one escrow") };
    let (id, payment) = (escrow.id, escrow.payment.clone());
    assert_eq!(payment.state, State::AwaitingApproval);
    stage.bounce().await;
    for index in [0, 1] {
        let operator = stage.world.operator(index);
        let view = operator.approval(payment.id).await.unwrap();
        assert_eq!(view.typed_data["primaryType"], "EscrowOpening");
        let body = by_digest(operator.key(), view.digest);
        operator.approve(payment.id, &body).await.unwrap();
        stage.bounce().await;
    }
    stage.until(id, EscrowState::Funded).await;
    stage.settled(1_200 * USDC, 0, 1_200 * USDC).await;

    // What the agent may release alone is bounded over the escrow's whole life.
    let asked = stage.world.agent(PAYER).act_on_escrow(id, &release(None)).await.unwrap();
    let waiting = asked.actions.last().unwrap().clone();
    assert_eq!(waiting.state, ActionState::AwaitingApproval);
    for index in [0, 1] {
        stage.bounce().await;
        let operator = stage.world.operator(index);
        let listed = operator.escrow_approvals().await.unwrap();
        let view = listed.iter().find(|view| view.action.id == waiting.id).unwrap();
        assert_eq!(view.typed_data["primaryType"], "EscrowRelease");
        let body = by_digest(operator.key(), view.digest);
        operator.approve_escrow(&waiting.id, &body).await.unwrap();
    }
    stage.bounce().await;
    stage.until(id, EscrowState::Completed).await;
    stage.settled(1_200 * USDC, 1_200 * USDC, 0).await;
    stage.world.judge().await;
}

fn by_digest(
    key: &alloy::signers::local::PrivateKeySigner,
    digest: alloy::primitives::B256,
) -> SignatureBody {
    use alloy::signers::SignerSync as _;
    let signature = key.sign_hash_sync(&digest).unwrap();
    SignatureBody {
        signer: key.address(),
        signature: alloy::primitives::Bytes::from(signature.as_bytes()).to_string(),
    }
}

#[tokio::test]
async fn a_job_of_three_milestones_is_one_request() {
    let mut stage = Stage::new().await;
    let arbiter = stage.arbiter.address();
    let mut shared = milestone("3", arbiter);
    let partner = Address::repeat_byte(0x77);
    stage.register(partner, "the-partner", 1 << 4).await;
    shared.payouts = vec![bursar::escrow::PayoutShare { payee: "the-partner".into(), bps: 3_333 }];
    let mut job = stage.job(vec![milestone("1", arbiter), milestone("2", arbiter), shared]);
    job.context.invoice = Some("INV-9".into());
    let opened = stage.world.agent(PAYER).open_escrow(&job, "three").await.unwrap();
    stage.bounce().await;
    let again = stage.world.agent(PAYER).open_escrow(&job, "three").await.unwrap();
    assert_eq!(again.job_id, opened.job_id);
    let ids: Vec<_> = opened.escrows.iter().map(|escrow| escrow.id).collect();
    for id in &ids {
        stage.until(*id, EscrowState::Funded).await;
    }
    stage.settled(6 * USDC, 0, 6 * USDC).await;
    stage.act(PAYER, ids[2], &release(None)).await;
    stage.until(ids[2], EscrowState::Completed).await;
    wait_for("the partner's share", async || {
        (stage.usdc_of(partner).await == 999_900).then_some(())
    })
    .await;
    stage.settled(6 * USDC, 2_000_100, 3 * USDC).await;
    let page = stage.world.agent(WORKER).escrows(None, 2).await.unwrap();
    assert_eq!(page.escrows.len(), 2);
    let rest = stage.world.agent(WORKER).escrows(page.next_cursor.as_deref(), 2).await.unwrap();
    assert_eq!(rest.escrows.len(), 1);
}
