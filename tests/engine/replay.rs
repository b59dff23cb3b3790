//! Signed lists are public once they were sent. What the chain refused as a whole can be relayed
//! by anybody while its signature lives: it must never pay twice, nor pay what is called failed.

use std::time::Duration;

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol_types::SolCall,
};
use bursar::{
    contract::{IPolicyChanges, IPolicyWallet},
    payment::{FundsMoved, State},
    view::PaymentView,
};

use crate::support::{Plan, World, wait_for};

/// Has an operator tighten by a transaction of his own, which is mined ahead of ours.
async fn ahead(world: &World, change: impl SolCall) {
    let order = world.order(change, 0).await;
    let call = IPolicyWallet::tightenWithSignatureCall {
        change: order.change.parse().unwrap(),
        signer: order.signer.to_vec().into(),
        nonce: order.nonce.parse::<U256>().unwrap(),
        deadline: U256::from(order.deadline),
        signature: order.signature.parse().unwrap(),
    };
    let data = Bytes::from(call.abi_encode());
    world.chain.queue_from(world.card.deployer, world.card.wallet, data, 100).await;
}

/// Has the quorum lift that freeze, and waits until the daemon knows.
async fn thaw(world: &World) {
    let change = IPolicyChanges::setFrozenCall { agent: Address::ZERO, frozen: false };
    let proposal = world.propose(change, None).await;
    world.sign_proposal(&proposal, 0).await.unwrap();
    world.sign_proposal(&proposal, 1).await.unwrap();
    world.operator(0).apply_proposal(proposal.id).await.unwrap();
    wait_for("the thaw", async || (!world.wallet_view().await.frozen).then_some(())).await;
}

/// A payment whose transaction reverted on a frozen wallet, and the calldata that everybody saw.
async fn refused_whole(world: &World, key: &str) -> (PaymentView, Bytes) {
    world.chain.automine(false).await;
    let payment = world.pay("atlas", "acme-data", "5", key).await;
    world.until(&payment, State::Broadcast).await;
    let (_, signed) = world.chain.pool_of(&world.card.relayers).await.remove(0);
    let freeze = IPolicyChanges::setFrozenCall { agent: Address::ZERO, frozen: true };
    ahead(world, freeze).await;
    world.chain.mine().await;
    wait_for("the refusal", async || {
        let now = world.agent("atlas").payment(payment.id).await.unwrap();
        assert!(!now.state.is_terminal());
        now.refusal.map(|_| ())
    })
    .await;
    world.chain.automine(true).await;
    thaw(world).await;
    (payment, signed)
}

#[tokio::test]
async fn a_batch_refused_whole_is_paid_once_whoever_relays_it() {
    let plan = Plan::new().automine().config(|config| config.submit.signature_ttl_s = 600);
    let mut world = plan.start().await;
    let (payment, signed) = refused_whole(&world, "refused").await;
    // Neither sent again nor given up, over a restart too.
    world.kill();
    world.restart().await;
    for _ in 0..10 {
        world.chain.mine().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = world.agent("atlas").payment(payment.id).await.unwrap();
        assert_eq!((now.state, now.funds_moved), (State::Included, FundsMoved::Maybe));
    }
    assert_eq!(world.chain.usdc_of(payment.payee).await, 0);
    // The payee, say, relays it: good, and the same payment.
    let theirs = world.chain.send_from(world.card.deployer, world.card.wallet, signed).await;
    let paid = world.until(&payment, State::Paid).await;
    assert_eq!(paid.transaction, Some(theirs));
    world.judge().await;
}

#[tokio::test]
async fn a_batch_refused_whole_is_signed_anew_once_its_signature_is_dead() {
    let plan = Plan::new().automine().config(|config| config.submit.signature_ttl_s = 600);
    let world = plan.start().await;
    let (payment, signed) = refused_whole(&world, "refused").await;
    world.chain.pass(700).await;
    world.until(&payment, State::Paid).await;
    world.chain.send_from(world.card.deployer, world.card.wallet, signed).await;
    assert_eq!(world.chain.usdc_of(payment.payee).await, 5_000_000);
    world.judge().await;
}

#[tokio::test]
async fn an_approved_payment_that_reverted_is_not_called_failed_while_it_can_be_relayed() {
    let world = Plan::new().start().await;
    world.deal(1_000_000).await;
    let payment = world.pay("atlas", "acme-data", "900", "short").await;
    world.approve(payment.id, 0).await;
    world.approve(payment.id, 1).await;
    wait_for("the revert", async || {
        let now = world.agent("atlas").payment(payment.id).await.unwrap();
        assert!(!now.state.is_terminal(), "{} while its signatures live", now.state);
        now.refusal?.detail.contains("refused the transfer").then_some(())
    })
    .await;
    world.deal(2_000_000_000).await;
    world.until(&payment, State::Paid).await;
    world.judge().await;
}

/// The one transaction of ours in the pool.
async fn ours(world: &World) -> (B256, Bytes) {
    wait_for("our transaction in the pool", async || {
        world.chain.pool_of(&world.card.relayers).await.pop()
    })
    .await
}

#[tokio::test]
async fn spoiled_copies_beside_the_true_batch_change_nothing() {
    let world = Plan::new().automine().start().await;
    world.chain.automine(false).await;
    let payment = world.pay("atlas", "acme-data", "5", "spoiled").await;
    world.until(&payment, State::Broadcast).await;
    let (_, input) = ours(&world).await;
    let call = IPolicyWallet::payBatchCall::abi_decode(&input).unwrap();
    let truth = call.batches;
    let (mut late, mut forged) = (truth[0].clone(), truth[0].clone());
    late.deadline = U256::ZERO;
    forged.r = B256::repeat_byte(7);
    let mut batches = vec![late, forged.clone()];
    batches.extend(truth.iter().cloned());
    batches.extend(truth);
    batches.push(forged);
    let theirs = IPolicyWallet::payBatchCall { batches }.abi_encode().into();
    let hash = world.chain.queue_from(world.card.deployer, world.card.wallet, theirs, 100).await;
    world.chain.mine().await;
    assert_eq!(world.until(&payment, State::Paid).await.transaction, Some(hash));
    world.judge().await;
}

#[tokio::test]
async fn an_approved_payment_relayed_in_the_same_block_is_paid() {
    let world = Plan::new().automine().start().await;
    let asked = world.pay("atlas", "acme-data", "900", "approved-relay").await;
    world.chain.automine(false).await;
    world.approve(asked.id, 0).await;
    world.approve(asked.id, 1).await;
    world.until(&asked, State::Broadcast).await;
    let (_, input) = ours(&world).await;
    let theirs = world.chain.queue_from(world.card.deployer, world.card.wallet, input, 100).await;
    world.chain.mine().await;
    assert_eq!(world.until(&asked, State::Paid).await.transaction, Some(theirs));
    world.judge().await;
}

#[tokio::test]
async fn a_signature_that_an_operator_voids_pays_nothing() {
    let world = Plan::new().automine().start().await;
    world.chain.automine(false).await;
    let payment = world.pay("atlas", "acme-data", "5", "voided").await;
    world.until(&payment, State::Broadcast).await;
    let (_, signed) = world.chain.pool_of(&world.card.relayers).await.remove(0);
    let call = IPolicyWallet::payBatchCall::abi_decode(&signed).unwrap();
    let (agent, nonce) = (call.batches[0].agent, call.batches[0].nonce);
    ahead(&world, IPolicyChanges::cancelAgentNonceCall { agent, nonce }).await;
    world.chain.mine().await;
    let ended = world.until(&payment, State::Failed).await;
    assert!(ended.refusal.unwrap().detail.contains("voided"));
    world.judge().await;
}
