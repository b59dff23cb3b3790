use alloy::{hex, primitives::address, sol_types::SolCall as _};

use super::*;
use crate::{
    contract::IPolicyChanges,
    payment::{Context, FundsMoved, PaymentId, State},
    view::{PaymentView, ProposalState},
};

const AGENT: Address = address!("0x70997970C51812dc3A010C7d01b50e0d17dc79C8");
const ACME: Address = address!("0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC");

fn wallet() -> WalletView {
    WalletView {
        chain_id: 31_337,
        wallet: address!("0x5FbDB2315678afecb367f032d93F642f64180aa3"),
        usdc: Address::repeat_byte(5),
        escrow: None,
        frozen: false,
        categories: vec!["data".to_owned()],
        operators: vec![],
        threshold: 2,
    }
}

fn names() -> Names {
    Names { accounts: [(ACME, "acme".to_owned())].into(), categories: wallet().categories }
}

fn message(payment: &PaymentView) -> ApprovedPayment {
    ApprovedPayment {
        agent: AGENT,
        to: payment.payee,
        amount: U256::from(payment.amount_units),
        nonce: U256::from(4),
        deadline: U256::from(1_900_000_000_u64),
        context: payment.context_hash,
        overrides: U256::from(5),
        policyVersion: U256::from(2),
    }
}

fn resign(view: &mut ApprovalView, message: &ApprovedPayment) {
    let domain = contract::domain(31_337, wallet().wallet);
    view.typed_data = contract::typed_data(message, &domain).unwrap();
    view.digest = contract::digest(message, &domain);
}

fn waiting() -> ApprovalView {
    let (id, agent) = (PaymentId::generate(), "scout".parse().unwrap());
    let context = Context { invoice: Some("INV-7".to_owned()), ..Context::default() };
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    let payment = PaymentView {
        id,
        context_hash: context.hash(id, &agent, "two\nlines"),
        agent,
        state: State::AwaitingApproval,
        funds_moved: FundsMoved::No,
        payee: ACME,
        payee_label: Some("acme".to_owned()),
        amount: "12000".parse().unwrap(),
        amount_units: 12_000_000_000,
        reason: "two\nlines".to_owned(),
        context,
        idempotency_key: "k".to_owned(),
        policy_version: 2,
        refusal: None,
        waiting: None,
        escrow: None,
        transaction: None,
        block: None,
        created_at: now,
        updated_at: now,
    };
    let mut view = ApprovalView {
        overrides: vec!["ceiling".to_owned(), "agent_caps".to_owned()],
        typed_data: serde_json::Value::Null,
        digest: B256::ZERO,
        threshold: 2,
        signed_by: vec![],
        expires_at: now,
        payment,
    };
    let message = message(&view.payment);
    resign(&mut view, &message);
    view
}

#[test]
fn an_approval_is_told_and_its_digests_add_up() {
    let view = waiting();
    let review = approval(&view, AGENT, &wallet(), &names()).unwrap();
    assert_eq!(review.title, format!("Pay 12000 USDC to acme ({ACME})"));
    assert_eq!(review.digest, view.digest);
    let bytes = [b"\x19\x01".as_slice(), &review.domain_hash[..], &review.message_hash[..]];
    assert_eq!(keccak256(bytes.concat()), review.digest);
    let line = |name| review.lines.iter().find(|(known, _)| *known == name).unwrap().1.clone();
    assert_eq!(line("reason"), "two\u{fffd}lines");
    assert_eq!(line("invoice"), "INV-7");
    assert_eq!(line("sets aside"), "ceiling, agent_caps");
    assert_eq!(line("valid until"), "2030-03-17T17:46:40Z");

    let key = PrivateKeySigner::random();
    let body = review.sign(&key).unwrap();
    let raw = hex::decode(&body.signature).unwrap();
    let signature = alloy::primitives::Signature::from_raw(&raw).unwrap();
    assert_eq!(signature.recover_address_from_prehash(&review.digest).unwrap(), body.signer);
}

/// The daemon shows one thing and asks for a signature over another: each field by itself.
#[test]
fn a_lying_daemon_gets_no_signature() {
    let differs = |change: fn(&mut ApprovedPayment), field: &str| {
        let mut view = waiting();
        let mut message = message(&view.payment);
        change(&mut message);
        resign(&mut view, &message);
        match approval(&view, AGENT, &wallet(), &names()) {
            Err(ReviewError::Differs { field: found, .. }) => assert_eq!(found, field),
            other => panic!("{field}: {other:?}"),
        }
    };
    differs(|m| m.agent = ACME, "agent");
    differs(|m| m.to = AGENT, "payee");
    differs(|m| m.amount += U256::from(1), "amount in base units");
    differs(|m| m.context = B256::ZERO, "context");
    differs(|m| m.overrides = U256::from(15), "overrides");
    differs(|m| m.overrides = U256::from(5 + 16), "overrides");
    differs(|m| m.overrides = U256::from(5) + (U256::from(1) << 200), "overrides");

    let mut other_words = waiting();
    other_words.payment.reason = "harmless".to_owned();
    assert!(matches!(
        approval(&other_words, AGENT, &wallet(), &names()),
        Err(ReviewError::Differs { field: "context", .. })
    ));
    let mut other_amount = waiting();
    other_amount.payment.amount = "1".parse().unwrap();
    assert!(approval(&other_amount, AGENT, &wallet(), &names()).is_err());
    let mut other_digest = waiting();
    other_digest.digest = B256::repeat_byte(1);
    assert!(matches!(
        approval(&other_digest, AGENT, &wallet(), &names()),
        Err(ReviewError::TypedData(TypedDataError::WrongDigest { .. }))
    ));
    let elsewhere = WalletView { chain_id: 1, ..wallet() };
    assert!(matches!(
        approval(&waiting(), AGENT, &elsewhere, &names()),
        Err(ReviewError::TypedData(TypedDataError::WrongDomain))
    ));
}

fn proposed(change: Vec<u8>, shown: &[u8]) -> ProposalView {
    let domain = contract::domain(31_337, wallet().wallet);
    let message = Change {
        change: change.into(),
        nonce: U256::from(1),
        deadline: U256::from(1_900_000_000_u64),
    };
    ProposalView {
        id: keccak256(shown),
        summary: "anything".to_owned(),
        change: hex::encode_prefixed(shown),
        label: None,
        typed_data: contract::typed_data(&message, &domain).unwrap(),
        digest: contract::digest(&message, &domain),
        state: ProposalState::Collecting,
        threshold: 2,
        signed_by: vec![],
        ready_at: None,
        proposed_by: ACME,
    }
}

#[test]
fn a_proposal_is_told_from_its_bytes_not_its_summary() {
    let freeze = |frozen| IPolicyChanges::setFrozenCall { agent: AGENT, frozen }.abi_encode();
    let review = proposal(&proposed(freeze(false), &freeze(false)), &wallet(), &names()).unwrap();
    assert_eq!(review.title, format!("Unfreeze agent {AGENT}"));
    assert!(matches!(
        proposal(&proposed(freeze(false), &freeze(true)), &wallet(), &names()),
        Err(ReviewError::Differs { field: "change", .. })
    ));
    let mut hidden = freeze(true);
    hidden.push(0);
    assert!(matches!(
        proposal(&proposed(hidden.clone(), &hidden), &wallet(), &names()),
        Err(ReviewError::Change(_))
    ));
}

#[test]
fn a_name_cannot_paint_over_what_is_signed() {
    let freeze = IPolicyChanges::setFrozenCall { agent: AGENT, frozen: true }.abi_encode();
    let evil = "x\u{1b}[2K\r\nFreeze nobody \u{202e}".to_owned();
    let names = Names { accounts: [(AGENT, evil)].into(), categories: vec![] };
    let order = tighten(freeze.into(), 1_900_000_000, &wallet(), &names).unwrap();
    let title = order.review.title;
    assert!(title.ends_with(&format!("({AGENT})")), "{title:?}");
    assert!(!title.contains(['\u{1b}', '\r', '\n', '\u{202e}']), "{title:?}");
}

#[test]
fn an_order_is_signed_over_tighten() {
    let change = IPolicyChanges::setFrozenCall { agent: Address::ZERO, frozen: true };
    let order = tighten(change.abi_encode().into(), 1_900_000_000, &wallet(), &names()).unwrap();
    assert_eq!(order.review.title, "Freeze the whole wallet");
    let key = PrivateKeySigner::random();
    let signed = order.sign(&key).unwrap();
    let message = Tighten {
        change: hex::decode(&signed.change).unwrap().into(),
        nonce: signed.nonce.parse().unwrap(),
        deadline: U256::from(signed.deadline),
    };
    let digest = contract::digest(&message, &contract::domain(31_337, wallet().wallet));
    let raw = hex::decode(&signed.signature).unwrap();
    let signature = alloy::primitives::Signature::from_raw(&raw).unwrap();
    assert_eq!(signature.recover_address_from_prehash(&digest).unwrap(), key.address());
}
