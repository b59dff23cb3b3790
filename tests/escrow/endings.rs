//! Every ending, to the base unit.

use alloy::primitives::B256;
use bursar::{
    escrow::{ActionKind, ActionRequest, EscrowState, Release, ReleaseRule, content_hash},
    refusal::Code,
};

use super::stage::{PAYER, Stage, USDC, WORKER, milestone, refused, text};
use crate::support::{RefusedWith as _, chain::owner, wait_for};

const RELEASE: ActionRequest = ActionRequest::Release {
    total: None,
    as_payer: false,
    arbiter: None,
    preimage: None,
    condition_data: None,
};

fn release(total: Option<&str>) -> ActionRequest {
    let ActionRequest::Release { as_payer, arbiter, preimage, condition_data, .. } = RELEASE else {
        unreachable!()
    };
    let total = total.map(str::to_owned);
    ActionRequest::Release { total, as_payer, arbiter, preimage, condition_data }
}

fn refund(total: Option<&str>) -> ActionRequest {
    ActionRequest::Refund { total: total.map(str::to_owned), signed: None }
}

#[tokio::test]
async fn completed_delivered_and_released_by_the_payer() {
    let mut stage = Stage::new().await;
    let opened = stage.open(milestone("12.345678", stage.arbiter.address())).await;
    stage.settled(12_345_678, 0, 12_345_678).await;
    stage.deliver(opened.id).await;
    stage.act(PAYER, opened.id, &RELEASE).await;
    let ended = stage.until(opened.id, EscrowState::Completed).await;
    stage.bounce().await;
    stage.settled(12_345_678, 12_345_678, 0).await;
    assert_eq!(
        Stage::timeline(&ended),
        ["requested", "funded", "submitted", "completed", "released"]
    );
    assert_eq!(ended.deliverable, Some(content_hash(b"twenty pages")));
    let story = stage.story(&ended).await;
    assert_eq!(
        story,
        [
            "escrow.funded",
            "escrow.acted",
            "escrow.submitted",
            "escrow.acted",
            "escrow.completed",
            "escrow.released"
        ]
    );
    // The worker sees it too, and nobody else does.
    assert_eq!(stage.world.agent(WORKER).escrow(opened.id).await.unwrap().id, opened.id);
    assert!(stage.world.agent("atlas").escrow(opened.id).await.is_err());
    stage.world.judge().await;
}

#[tokio::test]
async fn partial_then_voided_by_the_payee() {
    let mut stage = Stage::new().await;
    let opened = stage.open(milestone("10", stage.arbiter.address())).await;
    let signed = stage.arbiter_releases(opened.id, 3_000_001);
    let by_arbiter = ActionRequest::Release {
        total: Some("3.000001".into()),
        as_payer: false,
        arbiter: Some(signed),
        preimage: None,
        condition_data: None,
    };
    stage.act(WORKER, opened.id, &by_arbiter).await;
    stage.settled(10 * USDC, 3_000_001, 6_999_999).await;
    stage.act(WORKER, opened.id, &ActionRequest::Void { signed: None }).await;
    let ended = stage.until(opened.id, EscrowState::Rejected).await;
    stage.bounce().await;
    stage.settled(3_000_001, 3_000_001, 0).await;
    assert_eq!((ended.captured.units(), ended.refunded.units()), (3_000_001, 6_999_999));
}

#[tokio::test]
async fn silence_pays_the_share_of_the_terms_and_operators_were_warned() {
    let mut stage = Stage::new().await;
    let mut terms = milestone("10", stage.arbiter.address());
    terms.silence_bps = 6_667;
    let opened = stage.open(terms).await;
    stage.deliver(opened.id).await;
    stage.bounce().await;
    stage.world.chain.pass(2_000).await;
    let warned = wait_for("the warning", async || {
        let now = stage.show(opened.id).await;
        now.next.as_ref().is_some_and(|next| next.warned).then_some(now)
    })
    .await;
    assert_eq!(warned.state, EscrowState::Submitted);
    stage.bounce().await;
    stage.world.chain.pass(1_700).await;
    let ended = stage.until(opened.id, EscrowState::Completed).await;
    stage.bounce().await;
    stage.settled(6_667_000, 6_667_000, 0).await;
    let by = ended.timeline.iter().find(|entry| entry.what == "released").unwrap().by.clone();
    assert_eq!(by.as_deref(), Some("daemon"));
    let story = stage.story(&ended).await;
    assert_eq!(story.iter().filter(|kind| *kind == "escrow.expiring").count(), 1, "{story:?}");
}

#[tokio::test]
async fn never_delivered_it_comes_back_and_restores_no_allowance() {
    let mut stage = Stage::new().await;
    let opened = stage.open(milestone("10", stage.arbiter.address())).await;
    let before = stage.world.chain.room(stage.world.address(PAYER)).await;
    stage.bounce().await;
    stage.world.chain.pass(7_300).await;
    let ended = stage.until(opened.id, EscrowState::Expired).await;
    stage.bounce().await;
    stage.settled(0, 0, 0).await;
    assert_eq!(ended.refunded, ended.amount);
    let after = stage.world.chain.room(stage.world.address(PAYER)).await;
    assert_eq!((before.day, before.wallet), (after.day, after.wallet));
    let told = stage.world.agent(PAYER).permissions().await.unwrap();
    let day = told.limits.iter().find(|limit| limit.rule == "limits.day").unwrap();
    assert_eq!(day.used, "10");
}

#[tokio::test]
async fn disputed_and_split_by_the_arbiter() {
    let mut stage = Stage::new().await;
    let opened = stage.open(milestone("9.999999", stage.arbiter.address())).await;
    stage.deliver(opened.id).await;
    let dispute =
        ActionRequest::Dispute { evidence: text("only nine pages came"), url: None, signed: None };
    stage.act(PAYER, opened.id, &dispute).await;
    let disputed = stage.until(opened.id, EscrowState::Disputed).await;
    let award = stage.award(&disputed, "3.333333", "nine of twenty pages");
    stage.act(WORKER, opened.id, &award).await;
    let ended = stage.until(opened.id, EscrowState::Completed).await;
    stage.bounce().await;
    stage.settled(3_333_333, 3_333_333, 0).await;
    assert_eq!((ended.captured.units(), ended.refunded.units()), (3_333_333, 6_666_666));
    let story = stage.story(&ended).await;
    for kind in ["escrow.disputed", "escrow.awarded", "escrow.released", "escrow.refunded"] {
        assert!(story.iter().any(|known| known == kind), "{kind}: {story:?}");
    }
}

#[tokio::test]
async fn released_by_a_preimage_and_given_back_after_payout() {
    let mut stage = Stage::new().await;
    let preimage = B256::repeat_byte(7);
    let mut terms = milestone("5", stage.arbiter.address());
    terms.release = ReleaseRule {
        any_of: vec![Release::Preimage],
        hashlock: Some(content_hash(preimage.as_slice())),
        ..ReleaseRule::default()
    };
    let opened = stage.open(terms).await;
    let shown = ActionRequest::Release {
        total: None,
        as_payer: false,
        arbiter: None,
        preimage: Some(preimage),
        condition_data: None,
    };
    stage.act(WORKER, opened.id, &shown).await;
    let paid = stage.until(opened.id, EscrowState::Completed).await;
    stage.settled(5 * USDC, 5 * USDC, 0).await;
    // The worker gives back on its signature alone, in two steps: it needs no gas and no allowance.
    assert_eq!(paid.returned.units(), 0);
    for (total, left) in [("0.000001", 4_999_999), ("2", 3 * USDC)] {
        stage.act(WORKER, opened.id, &refund(Some(total))).await;
        stage.bounce().await;
        wait_for("what came back", async || {
            (stage.show(opened.id).await.returned.to_string() == total).then_some(())
        })
        .await;
        stage.settled(left, left, 0).await;
    }
    let worker = stage.world.agent(WORKER);
    for total in [Some("5.000001"), Some("1.5")] {
        let (rule, detail) = refused(worker.act_on_escrow(opened.id, &refund(total)).await);
        assert_eq!(rule, "escrow.total", "{detail}");
    }
    let payer = stage.world.agent(PAYER);
    assert_eq!(payer.act_on_escrow(opened.id, &refund(Some("3"))).await.code(), Code::Conflict);
    let ended = stage.show(opened.id).await;
    assert_eq!((ended.state, ended.captured.units()), (EscrowState::Completed, 5 * USDC));
    assert!(stage.story(&ended).await.contains(&"escrow.returned".to_owned()));
}

#[tokio::test]
async fn a_blocked_payee_stops_nobody_and_is_paid_later() {
    let mut stage = Stage::new().await;
    let opened = stage.open(milestone("8", stage.arbiter.address())).await;
    let worker = stage.worker();
    stage.world.chain.own(owner::blacklistCall { account: worker }).await;
    stage.act(PAYER, opened.id, &release(Some("6"))).await;
    wait_for("six released", async || {
        (stage.show(opened.id).await.captured.units() == 6 * USDC).then_some(())
    })
    .await;
    stage.settled(8 * USDC, 0, 8 * USDC).await;
    stage.act(WORKER, opened.id, &ActionRequest::Void { signed: None }).await;
    stage.until(opened.id, EscrowState::Rejected).await;
    stage.bounce().await;
    stage.settled(6 * USDC, 0, 6 * USDC).await;
    stage.world.chain.own(owner::unBlacklistCall { account: worker }).await;
    let withdraw = ActionRequest::Withdraw { account: Some(worker) };
    let agent = stage.world.agent(WORKER);
    // The daemon asks the block it knows: the one that unblocks comes a moment later.
    wait_for("the withdrawal to be taken", async || {
        agent.act_on_escrow(opened.id, &withdraw).await.ok()
    })
    .await;
    stage.bounce().await;
    stage.done(opened.id, ActionKind::Withdraw).await;
    wait_for("the worker's money", async || {
        (stage.usdc_of(worker).await == 6 * USDC).then_some(())
    })
    .await;
    stage.world.idle().await;
    stage.settled(6 * USDC, 6 * USDC, 0).await;
}
