//! Freezes, which one operator gives, and loosenings, which take a quorum and a delay.

use std::time::Duration;

use alloy::primitives::{Address, address, aliases::U48};
use bursar::{
    client::ClientError,
    contract::{IPolicyChanges, PayeeLimits},
    payment::State,
    refusal::Code,
    view::{ProposalState, ProposalView},
};

use crate::support::{Plan, RefusedWith, World, request, wait_for};

const NEWCOMER: Address = address!("0x00000000000000000000000000000000000ACe01");

async fn reaches(world: &World, proposal: &ProposalView, state: ProposalState) -> ProposalView {
    let client = world.operator(0);
    wait_for(&format!("the proposal {state:?}"), async || {
        let now = client.proposal(proposal.id).await.unwrap();
        (now.state == state).then_some(now)
    })
    .await
}

/// Lifts a freeze: no single operator can, the quorum can at once (its delay is none).
async fn thaw(world: &World, agent: Address) {
    let thaw = || IPolicyChanges::setFrozenCall { agent, frozen: false };
    let alone = world.order(thaw(), 1).await;
    assert_eq!(world.operator(1).tighten(&alone).await.code(), Code::Conflict);
    let proposal = world.propose(thaw(), None).await;
    world.sign_proposal(&proposal, 0).await.unwrap();
    assert_eq!(world.operator(2).apply_proposal(proposal.id).await.code(), Code::Conflict);
    world.sign_proposal(&proposal, 1).await.unwrap();
    world.operator(2).apply_proposal(proposal.id).await.unwrap();
    reaches(world, &proposal, ProposalState::Executed).await;
}

#[tokio::test]
async fn one_operator_freezes_an_agent_at_once() {
    let world = Plan::new().config(|config| config.submit.batch_wait_ms = 1_500).start().await;
    let queued = world.pay("atlas", "acme-data", "5", "queued").await;
    let other = world.pay("dune", "devtools-co", "5", "other").await;
    let agent = world.address("atlas");
    let freeze = IPolicyChanges::setFrozenCall { agent, frozen: true };
    let order = world.order(freeze, 0).await;
    world.operator(0).tighten(&order).await.unwrap();

    let refused = world.agent("atlas").submit(&request("acme-data", "1"), "after").await;
    assert_eq!(refused.code(), Code::AgentFrozen);
    let told = world.agent("atlas").permissions().await.unwrap();
    assert!(!told.active);
    let ended = world.until(&queued, State::Failed).await;
    assert_eq!(ended.refusal.unwrap().code, Code::AgentFrozen);
    world.until(&other, State::Paid).await;
    wait_for("the freeze on chain", async || world.chain.is_frozen(agent).await.then_some(()))
        .await;
    world.judge().await;

    thaw(&world, agent).await;
    let client = world.agent("atlas");
    wait_for("the thaw here", async || client.permissions().await.unwrap().active.then_some(()))
        .await;
    let paid = world.pay("atlas", "acme-data", "1", "thawed").await;
    world.until(&paid, State::Paid).await;
    world.judge().await;
}

#[tokio::test]
async fn a_freeze_outlives_a_restart_and_a_frozen_wallet_pays_nobody() {
    let mut world = Plan::new().config(|config| config.submit.batch_wait_ms = 1_000).start().await;
    let queued = world.pay("atlas", "acme-data", "5", "queued").await;
    let freeze = IPolicyChanges::setFrozenCall { agent: Address::ZERO, frozen: true };
    let order = world.order(freeze, 2).await;
    world.operator(2).tighten(&order).await.unwrap();
    let refused = world.agent("dune").submit(&request("devtools-co", "1"), "no").await;
    assert_eq!(refused.code(), Code::WalletFrozen);
    world.kill();
    world.restart().await;
    let refused = world.agent("dune").submit(&request("devtools-co", "1"), "still-no").await;
    assert_eq!(refused.code(), Code::WalletFrozen);
    assert!(world.wallet_view().await.frozen);

    thaw(&world, Address::ZERO).await;
    wait_for("the thaw here", async || (!world.wallet_view().await.frozen).then_some(())).await;
    // What was only queued waited, and goes out.
    world.until(&queued, State::Paid).await;
    world.judge().await;
}

#[tokio::test]
async fn a_payee_is_added_by_the_quorum_after_its_delay() {
    let world = Plan::new().start().await;
    let add = || IPolicyChanges::setPayeeCall {
        payee: NEWCOMER,
        limits: PayeeLimits { categories: 1, cap: U48::MAX, cooldown: 0 },
    };
    let atlas = world.agent("atlas");
    let unknown = async |key: &str| {
        let by_label = atlas.submit(&request("newcomer", "1"), key).await;
        assert_eq!(by_label.code(), Code::PayeeUnknown);
        let key = format!("{key}-address");
        let by_address = atlas.submit(&request(&NEWCOMER.to_string(), "1"), &key).await;
        assert_eq!(by_address.code(), Code::PayeeUnknown);
    };
    unknown("before").await;

    // One operator alone: neither as an order, nor as a proposal.
    let alone = world.order(add(), 0).await;
    assert_eq!(world.operator(0).tighten(&alone).await.code(), Code::Conflict);
    let proposal = world.propose(add(), Some("newcomer")).await;
    world.sign_proposal(&proposal, 0).await.unwrap();
    assert_eq!(world.sign_proposal(&proposal, 0).await.code(), Code::Conflict);
    assert_eq!(world.operator(0).apply_proposal(proposal.id).await.code(), Code::Conflict);
    // Nor a label that agents already rely on.
    let stolen = bursar::view::ProposeBody {
        change: proposal.change.clone(),
        label: Some("acme-data".to_owned()),
    };
    assert_eq!(world.operator(0).propose(&stolen).await.code(), Code::Conflict);

    world.sign_proposal(&proposal, 1).await.unwrap();
    world.operator(0).apply_proposal(proposal.id).await.unwrap();
    reaches(&world, &proposal, ProposalState::Waiting).await;
    unknown("during").await;
    assert_eq!(world.operator(0).apply_proposal(proposal.id).await.code(), Code::Conflict);
    world.chain.pass(u64::from(world.card.delay_s) + 1).await;
    reaches(&world, &proposal, ProposalState::Ready).await;
    world.operator(0).apply_proposal(proposal.id).await.unwrap();
    reaches(&world, &proposal, ProposalState::Executed).await;
    // The event is told as soon as it is read, the policy a moment later.
    wait_for("the payee here", async || {
        let known = atlas.permissions().await.unwrap().payees;
        known.iter().any(|payee| payee.address == NEWCOMER).then_some(())
    })
    .await;
    let payment = world.pay("atlas", "newcomer", "2", "after").await;
    assert_eq!(payment.payee, NEWCOMER);
    world.until(&payment, State::Paid).await;
    world.judge().await;
}

/// A change of policy lets the contract be read anew: what it has counted already, and what is not final
/// here, is not counted twice.
#[tokio::test]
async fn what_is_under_way_when_the_contract_is_read_counts_once() {
    let plan = Plan::new().automine().config(|config| config.chain.confirmations = 3);
    let world = plan.start().await;
    world.chain.automine(false).await;
    let freeze = IPolicyChanges::setFrozenCall { agent: world.address("dune"), frozen: true };
    let order = world.order(freeze, 0).await;
    world.operator(0).tighten(&order).await.unwrap();
    wait_for("the order in the pool", async || {
        let pool = world.chain.pool_of(&world.card.relayers).await;
        (!pool.is_empty()).then_some(())
    })
    .await;
    world.chain.mine().await;
    let first = world.pay("borealis", "coldstore", "400", "first").await;
    world.until(&first, State::Broadcast).await;
    world.chain.mine().await;
    world.until(&first, State::Included).await;

    // The freeze is final, the payment is not.
    let readings = || world.log().matches("read the contract's policy").count();
    let before = readings();
    world.chain.mine().await;
    wait_for("the contract to be read", async || (readings() > before).then_some(())).await;
    assert_eq!(world.agent("borealis").payment(first.id).await.unwrap().state, State::Included);
    let second = world.pay("borealis", "coldstore", "200", "second").await;
    let client = world.agent("borealis");
    let early = client.submit(&request("coldstore", "0.000001"), "early").await;
    assert_eq!(early.code(), Code::PayeeCapExceeded);
    for payment in [&first, &second] {
        wait_for("it to be final", async || {
            world.chain.mine().await;
            let now = client.payment(payment.id).await.unwrap();
            (now.state == State::Paid).then_some(())
        })
        .await;
    }
    let more = client.submit(&request("coldstore", "0.000001"), "more").await;
    assert_eq!(more.code(), Code::PayeeCapExceeded);
    world.judge().await;
}

/// What was booked above the block that is final to the next start: deeper confirmations are asked for, or
/// its node is behind.
#[tokio::test]
async fn what_is_booked_above_the_final_block_counts_after_a_restart() {
    let mut world = Plan::new().automine().start().await;
    let paid = world.pay("borealis", "coldstore", "400", "booked").await;
    world.until(&paid, State::Paid).await;
    world.stop().await;
    world.configure(|config| config.chain.confirmations = 12);
    world.restart().await;
    let client = world.agent("borealis");
    let more = client.submit(&request("coldstore", "200.000001"), "more").await;
    assert_eq!(more.code(), Code::PayeeCapExceeded);
    let rest = world.pay("borealis", "coldstore", "200", "rest").await;
    wait_for("it to be final", async || {
        world.chain.mine().await;
        (client.payment(rest.id).await.unwrap().state == State::Paid).then_some(())
    })
    .await;
    world.judge().await;
}

#[tokio::test]
async fn a_proposal_is_withdrawn_before_and_after_it_is_on_chain() {
    let world = Plan::new().start().await;
    let cap = |usdc: u64| IPolicyChanges::setWalletCapCall {
        cap: alloy::primitives::U256::from(usdc * 1_000_000),
    };
    let first = world.propose(cap(200_000), None).await;
    world.sign_proposal(&first, 0).await.unwrap();
    world.operator(1).cancel_proposal(first.id).await.unwrap();
    assert_eq!(world.sign_proposal(&first, 1).await.code(), Code::Conflict);

    let second = world.propose(cap(300_000), None).await;
    world.sign_proposal(&second, 0).await.unwrap();
    world.sign_proposal(&second, 1).await.unwrap();
    world.operator(0).apply_proposal(second.id).await.unwrap();
    reaches(&world, &second, ProposalState::Waiting).await;
    let refused: Result<_, ClientError> = world.operator(0).cancel_proposal(second.id).await;
    assert_eq!(refused.code(), Code::Conflict);
    let change = second.change.parse().unwrap();
    let order = world.order(IPolicyChanges::revokeCall { change }, 2).await;
    world.operator(2).tighten(&order).await.unwrap();
    reaches(&world, &second, ProposalState::Cancelled).await;
    world.chain.pass(u64::from(world.card.delay_s) + 1).await;
    assert_eq!(world.operator(0).apply_proposal(second.id).await.code(), Code::Conflict);
    world.judge().await;
}

/// Hung up on between commit and launch, an order would leave a gap in its sender's nonces.
#[tokio::test]
async fn an_operator_who_hangs_up_leaves_nothing_half_done() {
    let world = Plan::new().config(|config| config.submit.relayers = 1).start().await;
    let agent = world.address("ember");
    let client = world.operator(0);
    for ms in [2, 4, 6, 8, 10, 12, 15, 20] {
        let freeze = IPolicyChanges::setFrozenCall { agent, frozen: true };
        let order = world.order(freeze, 0).await;
        // Dropped in the middle, whatever it was doing.
        let _ = tokio::time::timeout(Duration::from_millis(ms), client.tighten(&order)).await;
    }
    let payment = world.pay("atlas", "acme-data", "1", "after").await;
    world.until(&payment, State::Paid).await;
    let order = world.order(IPolicyChanges::setFrozenCall { agent, frozen: true }, 1).await;
    world.operator(1).tighten(&order).await.unwrap();
    wait_for("the freeze on chain", async || world.chain.is_frozen(agent).await.then_some(()))
        .await;
    world.judge().await;
}
