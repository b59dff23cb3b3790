//! Held: payments that the chain refused while their signature stays good.
//!
//! A signed batch is public once it was sent. Where the contract refused it as a whole (frozen, out
//! of gas, reverted), its nonce is unspent, and whoever relays it again before its deadline pays
//! it. So such a payment is neither signed anew nor called failed before a final block lies past
//! the deadline with the nonce unspent. An approved payment, which always goes out under the same
//! nonce, may be sent again meanwhile: however many get through, the contract pays one.

use std::collections::HashMap;

use alloy::{
    primitives::{Address, U256},
    sol_types::SolCall,
};
use serde_json::json;
use tracing::info;

use super::{
    Manifest,
    confirm::{Booked, Place, TRIES, elsewhere, manifest, missing_place},
    outcome::{self, Outcome},
};
use crate::{
    audit::{Draft, EventKind},
    clock,
    contract::IPolicyWallet,
    engine::{EngineError, Inner},
    payment::{Event, State},
    refusal::{Code, Refusal},
    rpc::Head,
    store::PaymentRow,
};

/// The signature that a payment went out under.
#[derive(Clone, Copy)]
struct Signature {
    agent: Address,
    nonce: U256,
    deadline: u64,
    index: u64,
}

/// What becomes of a held payment now.
enum Turn {
    Wait,
    Again,
    End(Box<Outcome>, Place),
}

/// Looks at what is held, as of the final block `height`.
pub(super) async fn look(inner: &Inner, height: u64) -> Result<(), EngineError> {
    let held = inner.flights.held();
    if held.is_empty() {
        return Ok(());
    }
    let Some(block) = inner.rpc.heads(&[height]).await?.into_iter().flatten().next() else {
        return Ok(());
    };
    for tx in held {
        one(inner, &tx, &block).await?;
    }
    Ok(())
}

async fn one(inner: &Inner, tx_id: &str, block: &Head) -> Result<(), EngineError> {
    let mut payments = inner.store.payments_of_tx(tx_id).await?;
    payments.retain(|payment| payment.state == State::Included);
    let Some(tx) = inner.store.tx(tx_id).await?.filter(|_| !payments.is_empty()) else {
        inner.flights.release(tx_id);
        return Ok(());
    };
    let manifest = manifest(&tx)?;

    let now_ms = clock::now_ms();
    let mut spent = HashMap::new();
    let mut turns = Vec::new();
    for payment in payments {
        let signature = signature(&manifest, &payment)?;
        let key = (signature.agent, signature.nonce);
        let is_spent = match spent.get(&key) {
            Some(known) => *known,
            None => {
                let known = is_spent(inner, signature, block).await?;
                spent.insert(key, known);
                known
            }
        };
        match turn(inner, &payment, signature, is_spent, block, now_ms).await? {
            Turn::Wait => {}
            other => turns.push((payment, other)),
        }
    }
    if turns.is_empty() {
        return Ok(());
    }

    let mut store = inner.store.begin().await?;
    let mut drafts = Vec::new();
    let mut booked = Booked::default();
    for (mut payment, turn) in turns {
        match turn {
            Turn::Wait => continue,
            Turn::Again => {
                payment.tries += 1;
                payment.not_before_ms = now_ms;
                store.advance(&mut payment, Event::Skipped, now_ms).await?;
                drafts.push(
                    Draft::new(EventKind::PaymentQueued, "daemon")
                        .agent(&payment.agent)
                        .payment(payment.id)
                        .data(json!({ "tries": payment.tries })),
                );
                booked.queue();
            }
            Turn::End(outcome, place) => {
                place.write(&mut payment);
                booked.end(&mut store, payment, *outcome, now_ms, &mut drafts).await?;
            }
        }
    }
    booked.close(&mut store, now_ms, &mut drafts).await?;
    store.commit().await?;
    booked.apply(inner, now_ms);
    info!(tx = tx_id, "held payments went on");
    Ok(())
}

fn signature(manifest: &Manifest, payment: &PaymentRow) -> Result<Signature, EngineError> {
    match manifest {
        Manifest::Approved { agent, nonce, deadline, .. } => {
            Ok(Signature { agent: *agent, nonce: *nonce, deadline: *deadline, index: 0 })
        }
        Manifest::Batches(batches) => {
            let item = payment.item.ok_or_else(|| missing_place(payment))?;
            let batch = batches.get(item.batch as usize).ok_or_else(|| missing_place(payment))?;
            Ok(Signature {
                agent: batch.agent,
                nonce: batch.nonce,
                deadline: batch.deadline,
                index: item.item.into(),
            })
        }
        Manifest::Proposal { .. } | Manifest::Tighten { .. } => Err(missing_place(payment)),
    }
}

async fn is_spent(inner: &Inner, signature: Signature, block: &Head) -> Result<bool, EngineError> {
    let call = IPolicyWallet::nonceUsedCall { agent: signature.agent, nonce: signature.nonce };
    let wallet = inner.config.chain.wallet;
    let answer =
        inner.rpc.eth_call(wallet, None, &call.abi_encode().into(), Some(block.height())).await?;
    Ok(IPolicyWallet::nonceUsedCall::abi_decode_returns_validate(&answer)?)
}

async fn turn(
    inner: &Inner,
    payment: &PaymentRow,
    signature: Signature,
    is_spent: bool,
    block: &Head,
    now_ms: i64,
) -> Result<Turn, EngineError> {
    let here = Place {
        hash: payment.tx_hash.unwrap_or_default(),
        block: block.height(),
        time_s: block.time_s(),
    };
    if is_spent {
        let Signature { agent, nonce, index, .. } = signature;
        let (outcome, place) =
            elsewhere(inner, Outcome::Elsewhere, here, payment, agent, nonce, index).await?;
        return Ok(Turn::End(Box::new(outcome), place));
    }
    let why = payment
        .refusal
        .clone()
        .unwrap_or_else(|| Refusal::new(Code::Unavailable, "the chain refused it"));
    let outcome = outcome::unspent(why);
    if block.time_s() > signature.deadline {
        return Ok(Turn::End(Box::new(outcome), here));
    }
    let pause = crate::intake::seconds(1 << (payment.tries + 1).min(6));
    let again = payment.overrides != 0
        && matches!(outcome, Outcome::Again(_))
        && payment.tries + 1 < TRIES
        && payment.expires_ms > now_ms
        && payment.updated_ms + pause <= now_ms;
    Ok(if again { Turn::Again } else { Turn::Wait })
}
