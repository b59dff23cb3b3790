//! What is above an agent's authority: operators decide, and nobody else.

use bursar::{contract::IPolicyWallet, payment::State, refusal::Code};

use crate::support::{Plan, RefusedWith};

#[tokio::test]
async fn a_large_payment_takes_two_operators() {
    let world = Plan::new().start().await;
    let asked = world.pay("atlas", "acme-data", "900", "large").await;
    assert_eq!(asked.state, State::AwaitingApproval);
    assert_eq!(asked.refusal.as_ref().unwrap().code, Code::CeilingExceeded);
    world.idle().await;
    assert_eq!(world.chain.usdc_of(asked.payee).await, 0);

    // The daemon's keys, a stranger, and an operator who signs twice make no quorum.
    let keys = world.daemon_keys();
    for key in [keys.agent(0).unwrap(), keys.relayer(0).unwrap(), keys.relayer(1).unwrap()] {
        let body = world.sign_approval(asked.id, &key).await;
        assert_eq!(world.as_operator(key).approve(asked.id, &body).await.code(), Code::NotOperator);
        // Neither in an operator's envelope.
        assert_eq!(world.operator(0).approve(asked.id, &body).await.code(), Code::NotOperator);
    }
    let olivia = world.operator(0);
    let body = world.sign_approval(asked.id, olivia.key()).await;
    olivia.approve(asked.id, &body).await.unwrap();
    assert_eq!(olivia.approve(asked.id, &body).await.code(), Code::Conflict);
    let mut borrowed = body.clone();
    borrowed.signer = world.card.operators[1].address;
    assert_eq!(world.operator(1).approve(asked.id, &borrowed).await.code(), Code::InvalidSignature);
    let waiting = olivia.approval(asked.id).await.unwrap();
    assert_eq!((waiting.signed_by.len(), waiting.threshold), (1, 2));

    world.approve(asked.id, 2).await;
    world.until(&asked, State::Paid).await;
    let events = world.chain.events::<IPolicyWallet::Approved>().await;
    assert_eq!(events.len(), 1);
    assert_eq!(events[0].1.context, asked.context_hash);
    world.judge().await;
}

#[tokio::test]
async fn a_rejection_has_a_reason_and_frees_what_was_reserved() {
    let world = Plan::new().start().await;
    let asked = world.pay("atlas", "acme-data", "900", "no").await;
    world.approve(asked.id, 0).await;
    let reason = "we have that data set";
    let ended = world.operator(1).reject(asked.id, reason).await.unwrap();
    assert_eq!(ended.state, State::Rejected);
    let seen = world.agent("atlas").payment(asked.id).await.unwrap();
    assert!(seen.refusal.unwrap().detail.contains(reason));
    let body = world.sign_approval(asked.id, &world.operator_key(2)).await;
    assert_eq!(world.operator(2).approve(asked.id, &body).await.code(), Code::Conflict);
    world.judge().await;
}

#[tokio::test]
async fn an_approval_nobody_gives_expires() {
    let world = Plan::new().config(|config| config.payments.approval_ttl_s = 2).start().await;
    let asked = world.pay("atlas", "acme-data", "900", "late").await;
    world.approve(asked.id, 0).await;
    let ended = world.until(&asked, State::Expired).await;
    assert!(!ended.context_hash.is_zero());
    let body = world.sign_approval(asked.id, &world.operator_key(1)).await;
    assert_eq!(world.operator(1).approve(asked.id, &body).await.code(), Code::Conflict);
    world.judge().await;
}
