//! Which payment is which transfer.

use std::collections::{HashMap, HashSet};

use alloy::primitives::{Address, B256, U256};

use super::chain::{Moves, Outgoing};
use crate::{
    payment::{PaymentId, State},
    store::{Claim, Store, StoreError},
    submit::Manifest,
};

/// How transfers and payments go together.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Transfers and the payments that they are.
    pub explained: Vec<(Outgoing, Claim)>,
    /// Transfers that paid for a call over HTTP, by an authorization of the wallet.
    pub bought: Vec<Outgoing>,
    /// Transfers that are no payment, each with how many like it in its transaction came before.
    pub unexplained: Vec<(Outgoing, u32)>,
    /// Payments that are called paid by one of these transactions, which did not pay them.
    pub missing: Vec<Claim>,
}

/// Where the payments of a signature are: transaction's id and, of a batch, its place in the call.
type Signed = HashMap<(Address, U256), (String, Option<u32>)>;

/// Holds transfers against payments. One payment explains one transfer, and only a payment that is
/// paid by that very transaction, or one on its way in it. A transaction that is not ours can carry
/// our signatures: the wallet's logs say whose it took.
pub(super) async fn explain(
    store: &Store,
    wallet: Address,
    moves: &Moves,
) -> Result<Verdict, StoreError> {
    let mut hashes: Vec<B256> = moves.out.iter().map(|out| out.transaction).collect();
    hashes.sort_unstable();
    hashes.dedup();
    // What is unfinished first: what is booked meanwhile is then found by its hash.
    let signed = if hashes.is_empty() { Signed::new() } else { signed(store).await? };
    let mut claims: HashMap<B256, Vec<Claim>> = HashMap::new();
    // Of our own transactions, everything that they carry.
    let own: HashMap<B256, String> = store.attempts_of(&hashes).await?.into_iter().collect();
    let mut carried: Vec<(B256, String, Option<u32>)> =
        own.iter().map(|(hash, id)| (*hash, id.clone(), None)).collect();
    for hash in &hashes {
        for ran in moves.ran.get(hash).into_iter().flatten() {
            let Some((id, batch)) = ran.nonce.and_then(|nonce| signed.get(&(ran.agent, nonce)))
            else {
                continue;
            };
            if own.get(hash) != Some(id) {
                carried.push((*hash, id.clone(), *batch));
            }
        }
    }
    let mut ids: Vec<String> = carried.iter().map(|(_, id, _)| id.clone()).collect();
    ids.sort_unstable();
    ids.dedup();
    let mut by_tx: HashMap<String, Vec<Claim>> = HashMap::new();
    for (id, claim) in store.claims_of_txs(&ids).await? {
        by_tx.entry(id).or_default().push(claim);
    }
    for (hash, id, batch) in carried {
        let of_batch = by_tx.get(&id).into_iter().flatten().filter(|claim| {
            batch.is_none_or(|batch| claim.item.is_some_and(|item| item.batch == batch))
        });
        claims.entry(hash).or_default().extend(of_batch.cloned());
    }
    for (hash, claim) in store.claims_elsewhere(&hashes).await? {
        claims.entry(hash).or_default().push(claim);
    }

    let mut used: HashSet<PaymentId> = HashSet::new();
    let mut verdict = Verdict::default();
    let mut alike: HashMap<(B256, Address, u64), u32> = HashMap::new();
    let mut bought = bought(store, wallet, moves).await?;
    for out in &moves.out {
        let key = (out.transaction, out.payee, out.amount.units());
        if let Some(left) = bought.get_mut(&key).filter(|left| **left > 0) {
            *left -= 1;
            verdict.bought.push(out.clone());
            continue;
        }
        let candidates = claims.get(&out.transaction).into_iter().flatten();
        let own = candidates.filter(|claim| {
            claim.payee == out.payee && claim.amount == out.amount && !used.contains(&claim.id)
        });
        // The one that is booked, if there is one: it has no other transfer to be.
        let best = own
            .filter(|claim| may_be(claim, out.transaction))
            .max_by_key(|claim| claim.state == State::Paid);
        if let Some(claim) = best {
            used.insert(claim.id);
            verdict.explained.push((out.clone(), claim.clone()));
        } else {
            let like = alike.entry(key).or_default();
            verdict.unexplained.push((out.clone(), *like));
            *like += 1;
        }
    }
    for (hash, list) in claims {
        for claim in list {
            let booked = claim.state == State::Paid && claim.transaction == Some(hash);
            if booked && used.insert(claim.id) {
                verdict.missing.push(claim);
            }
        }
    }
    Ok(verdict)
}

/// Counts the transfers that purchases of the wallet explain: transaction, payee, units. A purchase
/// is in the store before its authorization leaves, so one that the chain shows is always there.
async fn bought(
    store: &Store,
    wallet: Address,
    moves: &Moves,
) -> Result<HashMap<(B256, Address, u64), u32>, StoreError> {
    let nonces: Vec<B256> = moves.used.values().flatten().copied().collect();
    let mut found = HashMap::new();
    if nonces.is_empty() {
        return Ok(found);
    }
    let known = store.bought(wallet, &nonces).await?;
    for (hash, nonces) in &moves.used {
        for one in known.iter().filter(|one| nonces.contains(&one.nonce)) {
            *found.entry((*hash, one.payee, one.amount.units())).or_default() += 1;
        }
    }
    Ok(found)
}

/// Can a payment be a transfer of this transaction?
fn may_be(claim: &Claim, transaction: B256) -> bool {
    match claim.state {
        State::Paid => claim.transaction == Some(transaction),
        State::Signed | State::Broadcast | State::Included => true,
        _ => false,
    }
}

/// The signatures of unfinished transactions: anybody may relay them.
async fn signed(store: &Store) -> Result<Signed, StoreError> {
    let mut found = Signed::new();
    for (id, manifest) in store.unfinished_manifests().await? {
        match serde_json::from_str(&manifest) {
            Ok(Manifest::Batches(batches)) => {
                for (place, batch) in (0_u32..).zip(batches) {
                    found.insert((batch.agent, batch.nonce), (id.clone(), Some(place)));
                }
            }
            Ok(Manifest::Approved { agent, nonce, .. }) => {
                found.insert((agent, nonce), (id, None));
            }
            Ok(
                Manifest::Proposal { .. }
                | Manifest::Tighten { .. }
                | Manifest::Escrow { .. }
                | Manifest::Settlement { .. }
                | Manifest::Cancel
                | Manifest::Claim { .. }
                | Manifest::Closing { .. },
            ) => {}
            Err(error) => return Err(StoreError::corrupt("tx.manifest", error)),
        }
    }
    Ok(found)
}
