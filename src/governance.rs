//! Governance: the contract's policy mirrored, and operators' changes carried to it.
//!
//! The contract's events say when to look; [`mirror`] reads what is true. Changes are proposed,
//! signed by the operators' own keys, sent as one `submit`, and run after their delay. One
//! operator's tightening order holds in the daemon at once and goes to the chain next.

use std::{collections::HashMap, sync::atomic::Ordering};

use alloy::{
    primitives::{Address, B256, Bytes, U256, keccak256},
    rpc::types::TransactionReceipt,
    sol_types::{SolCall, SolEvent as _, SolEventInterface as _},
};
use serde_json::json;
use tracing::warn;

pub(crate) use self::mirror::reload;
use crate::{
    audit::{Draft, EventKind},
    clock,
    contract::{
        self, Change,
        IPolicyChanges::IPolicyChangesCalls as Calls,
        IPolicyWallet,
        IPolicyWallet::{IPolicyWalletErrors, IPolicyWalletEvents as Events},
        Names, Tighten,
        coupon::IX402Payer,
        hub::IChannelPayer,
    },
    crash::{self, Point},
    engine::{EngineError, Inner},
    payment::is_payee_label,
    refusal::{Code, Refusal},
    rpc::{At, Head, LOG_SPAN},
    store::{ProposalRow, SignatureRow, Store, StoreError, Tx, TxKind, Word},
    submit::{Manifest, Outgoing, relay},
    view::{ProposalState, ProposalView, ProposeBody, SignatureBody, TightenOrder},
};

/// Blocks without a policy event after which the mark moves all the same: an fsync a block is dear.
const QUIET: u64 = 64;
/// Seconds a proposal's signatures stay valid.
const PROPOSAL_TTL_S: u64 = 7 * 86_400;
/// Proposals listed.
pub(crate) const LISTED: u32 = 200;
/// Gas of a governance call beside its data.
const GAS_CHANGE: u64 = 1_000_000;

/// Final events move a proposal from any state: they come in the chain's order.
const CHAIN_SAYS: &[ProposalState] = &[];

const FOLLOWED: &str = "policy_block";
const WALLET_FROZEN: &str = "wallet_frozen";

mod mirror;

fn topics() -> Vec<B256> {
    vec![
        IPolicyWallet::AgentChanged::SIGNATURE_HASH,
        IPolicyWallet::PayeeChanged::SIGNATURE_HASH,
        IPolicyWallet::WalletCapChanged::SIGNATURE_HASH,
        IPolicyWallet::Frozen::SIGNATURE_HASH,
        IPolicyWallet::ChangeSubmitted::SIGNATURE_HASH,
        IPolicyWallet::ChangeExecuted::SIGNATURE_HASH,
        IPolicyWallet::ChangeRevoked::SIGNATURE_HASH,
        IPolicyWallet::PolicyPublished::SIGNATURE_HASH,
        IPolicyWallet::DelayChanged::SIGNATURE_HASH,
        IPolicyWallet::Withdrawn::SIGNATURE_HASH,
        IPolicyWallet::NonceCancelled::SIGNATURE_HASH,
        IX402Payer::CouponsChanged::SIGNATURE_HASH,
        IChannelPayer::ChannelAuthorizerChanged::SIGNATURE_HASH,
        keccak256("ERC7913SignerAdded(bytes)"),
        keccak256("ERC7913SignerRemoved(bytes)"),
        keccak256("ERC7913ThresholdSet(uint64)"),
    ]
}

/// Reads policy events up to `head` that were not read yet, writes them into the audit log, and
/// reads the contract again if there were any, or if it could not be read before.
pub(crate) async fn follow(inner: &Inner, last: &Head) -> Result<(), EngineError> {
    events(inner, last).await?;
    refresh(inner).await
}

/// Reads the contract again if it changed after the block as of which it was read.
pub(crate) async fn refresh(inner: &Inner) -> Result<(), EngineError> {
    let read = inner.book().totals_at();
    if inner.policy_due.load(Ordering::Acquire) > read { reload(inner).await } else { Ok(()) }
}

/// The block up to which policy events are read.
pub(crate) async fn followed(store: &Store) -> Result<Option<u64>, StoreError> {
    Ok(store.meta(FOLLOWED).await?.and_then(|text| text.parse().ok()))
}

async fn events(inner: &Inner, last: &Head) -> Result<(), EngineError> {
    let (chain, head) = (&inner.config.chain, last.height());
    loop {
        let read = inner.store.meta(FOLLOWED).await?;
        let from = read
            .as_ref()
            .and_then(|text| text.parse::<u64>().ok())
            .map_or(chain.from_block, |block| block + 1);
        if from > head {
            return Ok(());
        }
        let to = head.min(from + LOG_SPAN - 1);
        let logs = inner.rpc.logs(chain.wallet, (from, to), &topics(), last).await?;
        if logs.is_empty() && to - from < QUIET {
            return Ok(());
        }
        let landed = landed(inner, &logs, last).await?;
        let mut drafts = Vec::new();
        let mut store = inner.store.begin().await?;
        // Another daemon read them in the meantime: each event is taken up once.
        if store.meta(FOLLOWED).await? != read {
            continue;
        }
        for log in &logs {
            let block = log.block_number.unwrap_or(to);
            let draft = on_event(inner, &mut store, &landed, log, block).await?;
            let Some(draft) = draft else { continue };
            drafts.push(draft.and("block", json!(block)).and("tx", json!(log.transaction_hash)));
        }
        if !logs.is_empty() {
            // Before the mark moves: a reading that fails is repeated, even after a restart.
            inner.read_policy_again(to);
            store.say(Word::Policy { block: to });
        }
        crash::at(Point::PolicyRead);
        store.append_audit(&drafts, inner.clock.now_ms()).await?;
        store.set_meta(FOLLOWED, &to.to_string()).await?;
        store.commit().await?;
    }
}

/// A transaction's place in the chain: block, and index in it.
type Place = (u64, u64);

/// Whom a change freezes, if it is an order to freeze.
fn frozen_by(change: &[u8]) -> Option<Address> {
    match contract::decode(change) {
        Ok(Calls::setFrozen(call)) if call.frozen => Some(call.agent),
        _ => None,
    }
}

/// Where the open orders to freeze stand in the chain, by transaction id; asked only if the logs
/// lift a freeze.
async fn landed(
    inner: &Inner,
    logs: &[alloy::rpc::types::Log],
    last: &Head,
) -> Result<HashMap<String, Place>, EngineError> {
    let lifts = logs
        .iter()
        .any(|log| IPolicyWallet::Frozen::decode_log(&log.inner).is_ok_and(|event| !event.frozen));
    let mut places = HashMap::new();
    if !lifts {
        return Ok(places);
    }
    let open = inner.store.open_txs().await?;
    let orders: Vec<(String, B256)> = open
        .into_iter()
        .filter(|open| open.tx.kind == TxKind::Tighten)
        .flat_map(|open| {
            let id = open.tx.id;
            open.attempts.into_iter().map(move |attempt| (id.clone(), attempt.hash))
        })
        .collect();
    let hashes: Vec<B256> = orders.iter().map(|(_, hash)| *hash).collect();
    for ((id, _), receipt) in orders.into_iter().zip(inner.rpc.receipts(last, &hashes).await?) {
        if let Some((block, index)) =
            receipt.and_then(|receipt| Some((receipt.block_number?, receipt.transaction_index?)))
        {
            places.insert(id, (block, index));
        }
    }
    Ok(places)
}

/// Does an operator's order to freeze `agent` still stand that came after `thaw`, or is to come?
async fn ordered_after(
    store: &mut Tx,
    landed: &HashMap<String, Place>,
    agent: Address,
    thaw: Place,
) -> Result<bool, EngineError> {
    for (id, manifest) in store.open_manifests(TxKind::Tighten).await? {
        let Ok(Manifest::Tighten { change, .. }) = serde_json::from_str(&manifest) else {
            continue;
        };
        let came_before = landed.get(&id).is_some_and(|place| *place < thaw);
        if frozen_by(&change) == Some(agent) && !came_before {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn on_event(
    inner: &Inner,
    store: &mut Tx,
    landed: &HashMap<String, Place>,
    log: &alloy::rpc::types::Log,
    block: u64,
) -> Result<Option<Draft>, EngineError> {
    let chain = |kind| Draft::new(kind, "chain");
    let Ok(event) = Events::decode_log(&log.inner).map(|log| log.data) else {
        return Ok(Some(chain(EventKind::PolicyChanged).data(changed_elsewhere(&log.inner))));
    };
    Ok(Some(match event {
        Events::AgentChanged(event) => chain(EventKind::PolicyChanged)
            .data(json!({ "what": "agent_changed" }))
            .data(json!({ "agent": event.agent, "version": event.version.to_string() })),
        Events::PayeeChanged(event) => {
            store.put_payee(event.payee, None, block).await?;
            chain(EventKind::PolicyChanged).data(json!({ "what": "payee_changed" })).data(json!({
                "payee": event.payee, "categories": event.limits.categories,
            }))
        }
        Events::WalletCapChanged(event) => chain(EventKind::PolicyChanged)
            .data(json!({ "what": "wallet_cap_changed" }))
            .data(json!({ "cap": event.cap.to_string() })),
        Events::Frozen(event) => {
            let kind = if event.frozen { EventKind::AgentFrozen } else { EventKind::AgentUnfrozen };
            let id = inner.book().agent_by_address(event.agent).cloned();
            let place = (block, log.transaction_index.unwrap_or(u64::MAX));
            // A thaw does not undo an order that the chain has not carried out yet.
            let frozen = event.frozen || ordered_after(store, landed, event.agent, place).await?;
            match &id {
                Some(id) => store.set_agent_frozen(id, frozen).await?,
                None if event.agent == Address::ZERO => {
                    store.set_meta(WALLET_FROZEN, if frozen { "1" } else { "0" }).await?;
                }
                None => {}
            }
            let draft = chain(kind).data(json!({ "agent": event.agent }));
            match id {
                Some(id) => draft.agent(&id),
                None => draft,
            }
        }
        Events::ChangeSubmitted(event) => {
            let ready = event.readyAt.saturating_to::<u64>();
            store.move_proposal(event.id, CHAIN_SAYS, ProposalState::Waiting, Some(ready)).await?;
            chain(EventKind::PolicySubmitted).data(json!({
                "id": event.id, "change": event.change, "ready_at": ready,
            }))
        }
        Events::ChangeExecuted(event) => {
            store.move_proposal(event.id, CHAIN_SAYS, ProposalState::Executed, None).await?;
            chain(EventKind::PolicyPublished)
                .data(json!({ "id": event.id, "change": event.change }))
        }
        Events::ChangeRevoked(event) => {
            store.move_proposal(event.id, CHAIN_SAYS, ProposalState::Cancelled, None).await?;
            chain(EventKind::PolicyRolledBack).data(json!({ "id": event.id }))
        }
        Events::PolicyPublished(event) => {
            chain(EventKind::PolicyPublished).data(json!({ "hash": event.policyHash }))
        }
        Events::DelayChanged(event) => {
            chain(EventKind::PolicyChanged).data(json!({ "what": "delay_changed" })).data(json!({
                "selector": event.selector, "delay": event.delay.to_string(),
            }))
        }
        Events::Withdrawn(event) => chain(EventKind::PolicyChanged)
            .data(json!({ "what": "withdrawn" }))
            .data(json!({ "to": event.to, "amount": event.amount.to_string() })),
        Events::NonceCancelled(event) => chain(EventKind::PolicyChanged)
            .data(json!({ "what": "nonce_cancelled" }))
            .data(json!({ "agent": event.agent, "nonce": event.nonce.to_string() })),
        _ => return Ok(None),
    }))
}

/// What an event of the wallet's says that its main interface does not have.
fn changed_elsewhere(log: &alloy::primitives::Log) -> serde_json::Value {
    if let Ok(event) = IX402Payer::CouponsChanged::decode_log(log) {
        let word = event.coupons.to_string();
        return json!({ "what": "coupons_changed", "agent": event.agent, "coupons": word });
    }
    if let Ok(event) = IChannelPayer::ChannelAuthorizerChanged::decode_log(log) {
        return json!({
            "what": "channel_authorizer_changed", "authorizer": event.authorizer,
            "longest_delay": event.longestDelay.to_string(),
        });
    }
    // The signer set of OpenZeppelin's base contract.
    json!({ "what": "operators_changed" })
}

impl Inner {
    /// Names for what a change mentions.
    pub(crate) fn names(&self) -> Names {
        let book = self.book();
        let agents =
            book.agents.values().map(|agent| (agent.address, agent.policy.agent.to_string()));
        let payees = book
            .payees
            .iter()
            .filter_map(|(address, known)| Some((*address, known.label.clone()?)));
        Names {
            accounts: agents.chain(payees).collect(),
            categories: book.categories.names().to_vec(),
        }
    }

    fn proposal_view(
        &self,
        row: &ProposalRow,
        signatures: &[SignatureRow],
    ) -> Result<ProposalView, Refusal> {
        let message = Change {
            change: row.change.clone(),
            nonce: row.nonce,
            deadline: U256::from(row.deadline_s),
        };
        let names = self.names().with_label(&row.change, row.label.as_deref());
        let summary = contract::describe(&row.change, &names)
            .map_err(|error| Refusal::new(Code::Unprocessable, error.to_string()))?;
        let (threshold, now_s) = (self.book().threshold, self.now_s());
        let state = match (row.state, row.ready_at_s) {
            (ProposalState::Waiting, Some(ready)) if ready <= now_s => ProposalState::Ready,
            (state, _) => state,
        };
        Ok(ProposalView {
            id: row.id,
            summary,
            change: row.change.to_string(),
            label: row.label.clone(),
            typed_data: contract::typed_data(&message, &self.domain)
                .map_err(|error| Refusal::new(Code::Internal, error.to_string()))?,
            digest: row.digest,
            state,
            threshold,
            signed_by: signatures.iter().map(|row| row.signer).collect(),
            ready_at: row.ready_at_s.map(clock::at_s),
            proposed_by: row.proposed_by,
        })
    }

    /// Counts those who are operators today: a quorum is theirs alone.
    pub(crate) fn count_operators(&self, signers: &[Address]) -> u64 {
        let book = self.book();
        signers.iter().filter(|signer| book.operators.contains(*signer)).count() as u64
    }

    /// Checks an operator's signature over a digest.
    pub(crate) fn check_operator(
        &self,
        digest: B256,
        body: &SignatureBody,
    ) -> Result<SignatureRow, Refusal> {
        let bad = |detail: &str| {
            Err(Refusal::new(Code::InvalidSignature, detail.to_owned()).hint(format!(
                "sign the digest {digest} with the operator's key; 65 bytes, 0x-hexadecimal"
            )))
        };
        let Ok(bytes) = body.signature.parse::<Bytes>() else {
            return bad("the signature is not hexadecimal");
        };
        let Ok(signature) = alloy::primitives::Signature::try_from(bytes.as_ref()) else {
            return bad("the signature is not 65 bytes");
        };
        // The contract takes low s only.
        if signature.normalize_s().is_some() {
            return bad("the signature has a high s");
        }
        if signature.recover_address_from_prehash(&digest).ok() != Some(body.signer) {
            return bad("the signature is not the signer's over this digest");
        }
        if !self.book().operators.contains(&body.signer) {
            return Err(Refusal::new(
                Code::NotOperator,
                format!("{} is not an operator of this wallet", body.signer),
            )
            .hint("operators are in the contract; a quorum can add one"));
        }
        if self.is_own_key(body.signer) {
            return Err(Refusal::new(
                Code::NotOperator,
                "the daemon's own keys cannot approve anything",
            ));
        }
        Ok(SignatureRow { signer: body.signer, signature })
    }
}

fn unknown(id: B256) -> Refusal {
    Refusal::new(Code::NotFound, format!("there is no proposal {id}"))
        .hint("`bursar policy list` shows them")
}

fn conflict(detail: impl Into<String>) -> Refusal {
    Refusal::new(Code::Conflict, detail)
}

fn moved() -> Refusal {
    conflict("somebody else has moved the proposal on")
        .hint("look at it again: `bursar policy list`")
}

pub(crate) async fn list(inner: &Inner) -> Result<Vec<ProposalView>, Refusal> {
    let mut views = Vec::new();
    for row in inner.store.proposals(LISTED).await? {
        let signatures = inner.store.signatures(row.digest).await?;
        views.push(inner.proposal_view(&row, &signatures)?);
    }
    Ok(views)
}

pub(crate) async fn show(inner: &Inner, id: B256) -> Result<ProposalView, Refusal> {
    let row = inner.store.proposal(id).await?.ok_or_else(|| unknown(id))?;
    inner.proposal_view(&row, &inner.store.signatures(row.digest).await?)
}

pub(crate) async fn propose(
    inner: &Inner,
    operator: Address,
    body: ProposeBody,
) -> Result<ProposalView, Refusal> {
    let change: Bytes = body.change.parse().map_err(|_| {
        Refusal::new(Code::InvalidPayment, "change is not hexadecimal")
            .hint("send calldata of IPolicyChanges; the `bursar policy` commands build it")
    })?;
    let call = contract::decode(&change)
        .map_err(|error| Refusal::new(Code::Unprocessable, error.to_string()))?;
    if let Some(label) = &body.label {
        let Calls::setPayee(call) = &call else {
            return Err(Refusal::new(Code::Unprocessable, "only a payee has a label"));
        };
        if !is_payee_label(label) {
            return Err(Refusal::new(
                Code::Unprocessable,
                "a label is 1 to 60 letters, digits, '-', '_' or '.', not starting with 0x",
            ));
        }
        if inner.book().label_taken(label, call.payee) {
            return Err(conflict(format!("`{label}` names another payee"))
                .hint("choose another label: agents rely on what a label means"));
        }
    }
    let now_s = inner.now_s();
    let mut store = inner.store.begin().await?;
    let nonce = inner.wallet_nonce(&mut store, Address::ZERO).await?;
    let deadline_s = now_s + PROPOSAL_TTL_S;
    let message = Change { change: change.clone(), nonce, deadline: U256::from(deadline_s) };
    let row = ProposalRow {
        id: keccak256(&change),
        change,
        label: body.label,
        nonce,
        deadline_s,
        digest: contract::digest(&message, &inner.domain),
        state: ProposalState::Collecting,
        proposed_by: operator,
        ready_at_s: None,
    };
    let view = inner.proposal_view(&row, &[])?;
    if !store.insert_proposal(&row, inner.clock.now_ms()).await? {
        return Err(conflict(format!("the same change is already proposed as {}", row.id))
            .hint("sign that one, or cancel it first"));
    }
    let draft = Draft::new(EventKind::PolicyProposed, format!("operator:{operator}")).data(json!({
        "id": row.id, "change": row.change, "summary": view.summary, "digest": row.digest,
    }));
    store.append_audit(&[draft], inner.clock.now_ms()).await?;
    store.commit().await?;
    Ok(view)
}

pub(crate) async fn sign(
    inner: &Inner,
    id: B256,
    body: SignatureBody,
) -> Result<ProposalView, Refusal> {
    let row = inner.store.proposal(id).await?.ok_or_else(|| unknown(id))?;
    if row.state != ProposalState::Collecting {
        return Err(conflict("the proposal takes no more signatures"));
    }
    if row.deadline_s < inner.now_s() {
        return Err(
            conflict("the proposal is too old to be signed").hint("cancel it and propose it again")
        );
    }
    let signature = inner.check_operator(row.digest, &body)?;
    let mut store = inner.store.begin().await?;
    let collecting = ProposalState::Collecting;
    if !store.move_proposal(id, &[collecting], collecting, None).await? {
        return Err(conflict("the proposal takes no more signatures"));
    }
    let (fresh, signers) =
        store.add_signature(row.digest, &signature, inner.clock.now_ms()).await?;
    if !fresh {
        return Err(conflict(format!("{} has signed it already", body.signer)));
    }
    let draft = Draft::new(EventKind::PolicyApproved, format!("operator:{}", body.signer)).data(
        json!({ "id": id, "digest": row.digest, "signatures": inner.count_operators(&signers) }),
    );
    store.append_audit(&[draft], inner.clock.now_ms()).await?;
    store.commit().await?;
    show(inner, id).await
}

pub(crate) async fn apply(inner: &Inner, id: B256) -> Result<ProposalView, Refusal> {
    let row = inner.store.proposal(id).await?.ok_or_else(|| unknown(id))?;
    let signatures = inner.store.signatures(row.digest).await?;
    let view = inner.proposal_view(&row, &signatures)?;
    let (kind, calldata): (TxKind, Bytes) = match view.state {
        ProposalState::Collecting => {
            let operators = inner.book().operators.clone();
            let quorum: Vec<_> = signatures
                .iter()
                .filter(|row| operators.contains(&row.signer))
                .take(usize::try_from(view.threshold).unwrap_or(usize::MAX))
                .map(|row| (row.signer, row.signature))
                .collect();
            if (quorum.len() as u64) < view.threshold {
                return Err(conflict(format!(
                    "{} of {} operators have signed",
                    quorum.len(),
                    view.threshold
                ))
                .hint("collect the others with `bursar policy sign`"));
            }
            let call = IPolicyWallet::submitCall {
                change: row.change.clone(),
                nonce: row.nonce,
                deadline: U256::from(row.deadline_s),
                quorum: contract::encode_quorum(quorum),
            };
            (TxKind::Submit, call.abi_encode().into())
        }
        ProposalState::Ready => {
            let call = IPolicyWallet::executeCall { change: row.change.clone() };
            (TxKind::Execute, call.abi_encode().into())
        }
        ProposalState::Waiting => {
            let when = row.ready_at_s.unwrap_or_default();
            return Err(conflict("its delay is not over")
                .retry_after(when.saturating_sub(inner.now_s()))
                .hint("any operator can still withdraw it"));
        }
        state => {
            return Err(conflict(format!("nothing to apply: the proposal is {state:?}")));
        }
    };
    dry_run(inner, &calldata).await?;
    let mut store = inner.store.begin().await?;
    if !store.move_proposal(id, &[row.state], ProposalState::Submitted, None).await? {
        return Err(moved());
    }
    if let (Some(label), Ok(Calls::setPayee(call))) = (&row.label, contract::decode(&row.change)) {
        store.put_payee(call.payee, Some(label), 0).await?;
    }
    let manifest = Manifest::Proposal { id };
    launch(inner, store, kind, calldata, manifest, EventKind::PolicySubmitted, json!({ "id": id }))
        .await?;
    show(inner, id).await
}

pub(crate) async fn cancel(
    inner: &Inner,
    id: B256,
    operator: Address,
) -> Result<ProposalView, Refusal> {
    let row = inner.store.proposal(id).await?.ok_or_else(|| unknown(id))?;
    if row.state != ProposalState::Collecting {
        return Err(conflict("it is on chain: withdrawing it takes a signed `revoke` order")
            .hint("`bursar policy cancel` signs one with your key"));
    }
    let mut store = inner.store.begin().await?;
    if !store.move_proposal(id, &[row.state], ProposalState::Cancelled, None).await? {
        return Err(moved());
    }
    let draft = Draft::new(EventKind::PolicyRolledBack, format!("operator:{operator}"))
        .data(json!({ "id": id }));
    store.append_audit(&[draft], inner.clock.now_ms()).await?;
    store.commit().await?;
    show(inner, id).await
}

/// Takes one operator's order to tighten: it holds here at once, and goes to the chain.
pub(crate) async fn tighten(inner: &Inner, order: TightenOrder) -> Result<B256, Refusal> {
    let invalid = |detail: &str| Refusal::new(Code::InvalidPayment, detail.to_owned());
    let change: Bytes = order.change.parse().map_err(|_| invalid("change is not hexadecimal"))?;
    let nonce: U256 = order.nonce.parse().map_err(|_| invalid("nonce is not a number"))?;
    let call = contract::decode(&change)
        .map_err(|error| Refusal::new(Code::Unprocessable, error.to_string()))?;
    let message = Tighten { change: change.clone(), nonce, deadline: U256::from(order.deadline) };
    let digest = contract::digest(&message, &inner.domain);
    let body = SignatureBody { signer: order.signer, signature: order.signature.clone() };
    let signature = inner.check_operator(digest, &body)?;
    let calldata: Bytes = IPolicyWallet::tightenWithSignatureCall {
        change: change.clone(),
        signer: order.signer.to_vec().into(),
        nonce,
        deadline: U256::from(order.deadline),
        signature: signature.signature.as_bytes().into(),
    }
    .abi_encode()
    .into();
    let freezes = frozen_by(&change).is_some();
    let summary = contract::describe(&change, &inner.names())
        .map_err(|error| Refusal::new(Code::Unprocessable, error.to_string()))?;
    // A freeze holds even when the chain cannot be reached. For the rest a person hears now
    // whether the contract would take it.
    if !freezes {
        dry_run(inner, &calldata).await?;
    }
    let mut store = inner.store.begin().await?;
    let mut frozen = None;
    if let (true, Calls::setFrozen(call)) = (freezes, &call) {
        frozen = inner.book().agent_by_address(call.agent).cloned();
        match &frozen {
            Some(id) => store.set_agent_frozen(id, true).await?,
            None if call.agent == Address::ZERO => {
                store.set_meta(WALLET_FROZEN, "1").await?;
                store.say(Word::WalletFrozen);
            }
            None => return Err(invalid("that address is not one of this daemon's agents")),
        }
    }
    let manifest = Manifest::Tighten { change, signer: order.signer };
    let data = json!({ "by": order.signer, "order": summary, "digest": digest });
    let hash =
        launch(inner, store, TxKind::Tighten, calldata, manifest, EventKind::PolicyTightened, data)
            .await?;
    if freezes {
        let mut book = inner.book();
        book.freezes += 1;
        match &frozen {
            Some(id) => {
                if let Some(agent) = book.agents.get_mut(id) {
                    agent.usage.frozen = true;
                }
            }
            None => book.wallet.frozen = true,
        }
        warn!(order = summary, by = %order.signer, "frozen");
    }
    Ok(hash)
}

/// Asks the contract whether it would take a call, so that a person hears it now.
async fn dry_run(inner: &Inner, calldata: &Bytes) -> Result<(), Refusal> {
    match inner.rpc.eth_call(inner.config.chain.wallet, None, calldata, At::Latest).await {
        Ok(_) => Ok(()),
        Err(crate::rpc::RpcError::Refused { message, data, .. }) => {
            let name = data
                .as_deref()
                .and_then(|data| data.parse::<Bytes>().ok())
                .and_then(|bytes| bytes.get(..4)?.try_into().ok())
                .and_then(|selector| {
                    IPolicyWalletErrors::name_by_selector(selector).map(str::to_owned)
                })
                .unwrap_or(message);
            Err(conflict(format!("the contract would refuse it: {name}")))
        }
        Err(error) => Err(Refusal::new(Code::Unavailable, error.to_string())
            .hint("nothing was sent; try again when the chain can be reached")),
    }
}

async fn launch(
    inner: &Inner,
    mut store: Tx,
    kind: TxKind,
    calldata: Bytes,
    manifest: Manifest,
    event: EventKind,
    data: serde_json::Value,
) -> Result<B256, Refusal> {
    let gas = GAS_CHANGE + 40 * calldata.len() as u64;
    let call = Outgoing { kind, target: inner.config.chain.wallet, calldata, gas, manifest };
    let open = relay(inner, &mut store, call).await?;
    let hash = open.attempts.first().map(|attempt| attempt.hash).unwrap_or_default();
    let draft = Draft::new(event, "daemon").tx(&open.tx.id).data(data).and("hash", json!(hash));
    store.append_audit(&[draft], inner.clock.now_ms()).await?;
    store.commit().await?;
    crash::at(Point::ChangeCommitted);
    inner.launch(open);
    Ok(hash)
}

/// Ends a governance transaction. `ready`: from [`still_waits`]. Answers whether the contract must be
/// read again.
pub(crate) async fn finished(
    store: &mut Tx,
    manifest: &Manifest,
    receipt: &TransactionReceipt,
    ready: Option<u64>,
    drafts: &mut Vec<Draft>,
) -> Result<bool, EngineError> {
    match manifest {
        Manifest::Proposal { id } if !receipt.status() => {
            let state = match ready {
                // Somebody else's transaction brought it there, or ours came too early to run it.
                Some(_) => ProposalState::Waiting,
                // The signatures are spent or stale: the operators start again. One that ran, or was
                // withdrawn, is not `submitted` any more: its event was read before.
                None => ProposalState::Cancelled,
            };
            store.move_proposal(*id, &[ProposalState::Submitted], state, ready).await?;
            drafts.push(
                Draft::new(EventKind::PolicyRefused, "chain")
                    .data(json!({ "id": id, "tx": receipt.transaction_hash, "ready_at": ready })),
            );
            Ok(false)
        }
        Manifest::Tighten { change, signer } if !receipt.status() => {
            warn!(%signer, "the contract refused an operator's order");
            drafts.push(Draft::new(EventKind::PolicyRefused, "chain").data(json!({
                "change": change, "by": signer, "tx": receipt.transaction_hash,
            })));
            Ok(false)
        }
        Manifest::Proposal { .. } | Manifest::Tighten { .. } => Ok(true),
        Manifest::Batches(_)
        | Manifest::Approved { .. }
        | Manifest::Escrow { .. }
        | Manifest::Settlement { .. }
        | Manifest::Cancel
        | Manifest::Claim { .. }
        | Manifest::Closing { .. } => Ok(false),
    }
}

/// Asks the contract when the delay of a proposal ends (unix seconds) whose transaction reverted, as
/// of that block; `None` if it does not wait there. Asked before the store's transaction begins: no
/// writer waits for a node.
pub(crate) async fn still_waits(
    inner: &Inner,
    manifest: &Manifest,
    receipt: Option<&TransactionReceipt>,
) -> Result<Option<u64>, EngineError> {
    let (Manifest::Proposal { id }, Some(receipt)) = (manifest, receipt) else { return Ok(None) };
    if receipt.status() {
        return Ok(None);
    }
    let Some(row) = inner.store.proposal(*id).await? else { return Ok(None) };
    let block = receipt.block_hash.map_or(At::Latest, At::Block);
    let call = IPolicyWallet::readyAtCall { change: row.change }.abi_encode().into();
    let answer = inner.rpc.eth_call(inner.config.chain.wallet, None, &call, block).await?;
    let ready = IPolicyWallet::readyAtCall::abi_decode_returns_validate(&answer)?;
    Ok((!ready.is_zero()).then(|| ready.saturating_to()))
}

#[cfg(test)]
#[path = "governance_tests.rs"]
mod tests;
