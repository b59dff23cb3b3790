//! The contract's policy as decisions need it, read into the book.
//!
//! What the contract allows is read at the newest head: a freeze holds before it is final. What it has
//! counted for ever (agents' budgets, payees' caps) is read at the newest final block, and payments in
//! later blocks are added as they are booked: none is counted twice or left out.

use std::collections::{HashMap, HashSet};

use alloy::{
    primitives::{Address, Bytes, U256},
    sol_types::SolCall,
};
use serde_json::json;
use tracing::info;

use super::WALLET_FROZEN;
use crate::{
    contract::{
        IPolicyWallet, IQuorum,
        coupon::{CouponGrant, IX402Payer},
    },
    engine::{EngineError, Inner},
    money::Usdc,
    payment::AgentId,
    policy::{ChainLimits, PayeeRecord},
    rpc::{At, Head},
    submit::confirm::last_final,
};

/// Operators read from the contract at most.
const OPERATORS: u64 = 256;
/// Times the daemon's own orders are read again because one came in between.
const READINGS: u32 = 8;
/// A cap of 48 bits that is off.
const U48_MAX: u64 = (1 << 48) - 1;

async fn ask<C: SolCall>(inner: &Inner, call: C, at: At) -> Result<C::Return, EngineError> {
    let wallet = inner.config.chain.wallet;
    let answer = inner.rpc.eth_call(wallet, None, &call.abi_encode().into(), at).await?;
    Ok(C::abi_decode_returns_validate(&answer)?)
}

/// Asks many views of one kind in few requests.
async fn ask_all<C: SolCall>(
    inner: &Inner,
    calls: &[C],
    at: At,
) -> Result<Vec<C::Return>, EngineError> {
    let wallet = inner.config.chain.wallet;
    let params: Vec<_> = calls
        .iter()
        .map(|call| json!({ "to": wallet, "data": Bytes::from(call.abi_encode()) }))
        .collect();
    let answers = inner.rpc.eth_calls(params, at).await?;
    answers.iter().map(|bytes| Ok(C::abi_decode_returns_validate(bytes)?)).collect()
}

fn cap(units: u64, off: u64) -> Option<Usdc> {
    if units >= off { None } else { Usdc::from_units(units) }
}

/// Reads everything the contract holds that decisions need. Whatever fails is tried again by
/// [`super::refresh`].
pub(crate) async fn reload(inner: &Inner) -> Result<(), EngineError> {
    let _turn = inner.reading.lock().await;
    read_contract(inner).await
}

/// What operators ordered frozen here: agents, and whether the whole wallet. Whichever comes first,
/// an order or the chain, freezes.
async fn ordered(inner: &Inner) -> Result<(HashSet<AgentId>, bool), EngineError> {
    let agents = inner.store.agents().await?;
    let agents = agents.into_iter().filter(|agent| agent.frozen).map(|agent| agent.id).collect();
    Ok((agents, inner.store.meta(WALLET_FROZEN).await?.as_deref() == Some("1")))
}

/// What the contract has counted for ever.
#[derive(Default)]
struct Totals {
    /// As of this final block.
    block: u64,
    /// What agents spent of their budgets.
    agents: HashMap<Address, Usdc>,
    /// What payees got of their caps, and when each was last paid, unix seconds.
    payees: HashMap<Address, (Usdc, u64)>,
}

async fn totals(
    inner: &Inner,
    head: &Head,
    agents: &[Address],
    payees: &[Address],
) -> Result<Totals, EngineError> {
    let last = last_final(inner, head).await?;
    let block = last.map_or(0, |last| last.height());
    // Before the wallet was there, nothing was counted.
    let Some(last) = last.filter(|_| block >= inner.config.chain.from_block) else {
        return Ok(Totals { block, ..Totals::default() });
    };
    let at = At::from(&last);
    let asked: Vec<_> =
        agents.iter().map(|agent| IPolicyWallet::agentLimitsCall { agent: *agent }).collect();
    let limits = ask_all(inner, &asked, at).await?;
    let asked: Vec<_> =
        agents.iter().map(|agent| IPolicyWallet::roomCall { agent: *agent }).collect();
    let rooms = ask_all(inner, &asked, at).await?;
    let asked: Vec<_> =
        payees.iter().map(|payee| IPolicyWallet::payeeLimitsCall { payee: *payee }).collect();
    let records = ask_all(inner, &asked, at).await?;
    let spent = limits.iter().zip(rooms).map(|(limits, room)| {
        // Off, both are the largest numbers of their types.
        let spent = U256::from(limits.limits.budget).saturating_sub(room.budget);
        units(spent)
    });
    let paid = records.iter().map(|record| (units(record.spent), record.lastPaid.saturating_to()));
    Ok(Totals {
        block,
        agents: agents.iter().copied().zip(spent).collect(),
        payees: payees.iter().copied().zip(paid).collect(),
    })
}

fn units(value: U256) -> Usdc {
    u64::try_from(value).ok().and_then(Usdc::from_units).unwrap_or_default()
}

async fn read_contract(inner: &Inner) -> Result<(), EngineError> {
    let head = match inner.head() {
        Some(head) => head,
        None => inner.rpc.latest().await?,
    };
    let at = At::from(&head);
    let agents: Vec<_> = inner
        .book()
        .agents
        .values()
        .map(|agent| (agent.policy.agent.clone(), agent.address))
        .collect();
    let limits: Vec<_> =
        agents.iter().map(|(_, agent)| IPolicyWallet::agentLimitsCall { agent: *agent }).collect();
    let limits = ask_all(inner, &limits, at).await?;
    let coupons: Vec<_> =
        agents.iter().map(|(_, agent)| IX402Payer::couponsCall { agent: *agent }).collect();
    let coupons = ask_all(inner, &coupons, at).await?;
    let payees: Vec<_> = inner.store.payees().await?;
    let asked: Vec<_> =
        payees.iter().map(|(payee, _)| IPolicyWallet::payeeLimitsCall { payee: *payee }).collect();
    let records = ask_all(inner, &asked, at).await?;

    let wallet_cap = ask(inner, IPolicyWallet::walletCapCall {}, at).await?;
    let frozen = ask(inner, IPolicyWallet::walletFrozenCall {}, at).await?;
    let threshold = ask(inner, IQuorum::thresholdCall {}, at).await?;
    let signers = ask(inner, IQuorum::getSignersCall { start: 0, end: OPERATORS }, at).await?;

    // Totals matter where something limits them; most agents and payees have no such limit.
    let budgeted: Vec<Address> = agents
        .iter()
        .zip(&limits)
        .filter(|(_, limits)| limits.version != U256::ZERO && limits.limits.budget != u64::MAX)
        .map(|((_, agent), _)| *agent)
        .collect();
    let limited: Vec<Address> = payees
        .iter()
        .zip(&records)
        .filter(|(_, record)| {
            record.limits.cap.to::<u64>() != U48_MAX || record.limits.cooldown != 0
        })
        .map(|((payee, _), _)| *payee)
        .collect();
    let totals = totals(inner, &head, &budgeted, &limited).await?;

    for _ in 0..READINGS {
        let seen = inner.book().freezes;
        let (ordered, all_ordered) = ordered(inner).await?;
        let mut book = inner.book();
        // An order that came in between is not in what was just read, and must not be undone.
        if book.freezes != seen {
            continue;
        }
        for (((id, address), limits), coupons) in agents.iter().zip(&limits).zip(&coupons) {
            let known = limits.version != U256::ZERO;
            let limits_of = &limits.limits;
            let spent = totals.agents.get(address).copied().unwrap_or_default();
            let budget = cap(limits_of.budget, u64::MAX).map(|limit| (limit, spent));
            let chain = known.then(|| ChainLimits {
                active: limits_of.categories != 0 && limits_of.expiry.to::<u64>() != 0,
                frozen: limits.frozen,
                expiry_s: limits_of.expiry.to(),
                ceiling: Usdc::from_units(limits_of.ceiling.to()).unwrap_or_default(),
                day: cap(limits_of.dayCap.to(), U48_MAX),
                month: cap(limits_of.monthCap.to(), U48_MAX),
                budget,
                categories: limits_of.categories,
                version: limits.version.saturating_to(),
            });
            if let Some(agent) = book.agents.get_mut(id) {
                agent.usage.frozen = limits.frozen || ordered.contains(id);
                agent.chain = chain;
                agent.granted = CouponGrant::unpack(*coupons);
                agent.coupons = agent.granted.within(agent.policy.coupons.as_ref());
            }
        }
        for ((payee, label), record) in payees.iter().zip(&records) {
            let (spent, last_paid_s) = totals.payees.get(payee).copied().unwrap_or_default();
            book.put_payee(
                *payee,
                PayeeRecord {
                    categories: record.limits.categories,
                    cap: cap(record.limits.cap.to(), U48_MAX).map(|limit| (limit, spent)),
                    cooldown_s: record.limits.cooldown,
                    last_paid_s,
                },
            );
            if let Some(label) = label {
                book.put_label(*payee, label);
            }
        }
        inner.read_policy_again(book.totals_as_of(totals.block));
        book.wallet.cap = u64::try_from(wallet_cap).ok().and_then(Usdc::from_units);
        book.wallet.frozen = frozen || all_ordered;
        book.threshold = threshold;
        book.operators = signers
            .iter()
            .filter(|signer| signer.len() == 20)
            .map(|signer| Address::from_slice(signer))
            .collect::<HashSet<_>>();
        info!(
            agents = book.agents.len(),
            payees = book.payees.len(),
            operators = book.operators.len(),
            frozen,
            "read the contract's policy"
        );
        return Ok(());
    }
    Err(EngineError::Encode("orders to freeze came faster than the policy could be read".into()))
}
