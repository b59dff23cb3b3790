//! The float: an agent's own plain account, filled up by ordinary payments of the wallet.
//!
//! What goes into it passes every rule that payments pass, on chain too; its address is a payee like
//! any other, registered by the operators. What it holds is bounded by the policy, so that is what a
//! stolen key of it is worth.

use std::time::Duration;

use alloy::{primitives::Address, sol_types::SolCall as _};
use tokio::time::Instant;

use crate::{
    contract::IUsdc,
    engine::Inner,
    intake,
    money::Usdc,
    payment::{AgentId, Context, PaymentRequest},
    policy::FetchLimits,
    refusal::{Code, Refusal},
};

/// Longest wait of a call for its float to be filled.
const WAIT: Duration = Duration::from_secs(8);
/// Pause between two looks at the float.
const LOOK: Duration = Duration::from_millis(100);

/// Reads what an account holds at the newest block.
pub(super) async fn balance(inner: &Inner, account: Address) -> Result<Usdc, Refusal> {
    let unreadable = |what: &dyn std::fmt::Display| {
        Refusal::new(Code::Unavailable, format!("the float's balance cannot be read: {what}"))
            .retry_after(2)
    };
    let call = IUsdc::balanceOfCall { account }.abi_encode().into();
    let answer = inner
        .rpc
        .eth_call(inner.config.chain.usdc, None, &call, inner.newest())
        .await
        .map_err(|error| unreadable(&error))?;
    let held = IUsdc::balanceOfCall::abi_decode_returns(&answer).map_err(|e| unreadable(&e))?;
    Ok(u64::try_from(held).ok().and_then(Usdc::from_units).unwrap_or(Usdc::ZERO))
}

/// Makes sure that the float holds `need` beyond what is signed away, filling it up if it has to.
///
/// # Errors
/// A rule refuses the top-up, the float may not hold so much, or it is not filled yet: ask again.
pub(super) async fn fill(
    inner: &Inner,
    agent: &AgentId,
    (float, limits): (Address, &FetchLimits),
    need: Usdc,
    host: &str,
) -> Result<(), Refusal> {
    let until = Instant::now() + WAIT;
    loop {
        let held = balance(inner, float).await?;
        let away = inner.store.signed_away(float).await?;
        if held.saturating_sub(away) >= need {
            return Ok(());
        }
        top_up(inner, agent, (float, limits), away.saturating_add(need), host).await?;
        if Instant::now() >= until {
            return Err(Refusal::new(Code::Unavailable, "the agent's float is being filled")
                .rule("fetch.float")
                .retry_after(2)
                .hint("send the same request with the same Idempotency-Key again"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Asks for a payment to the float, unless one is on its way or was.
async fn top_up(
    inner: &Inner,
    agent: &AgentId,
    (float, limits): (Address, &FetchLimits),
    needed: Usdc,
    host: &str,
) -> Result<(), Refusal> {
    // One at a time: of two that saw an empty float, the second sees the first one's payment. What
    // another daemon asked for meanwhile is seen when this is accepted.
    let _one = inner.shop.filling.lock().await;
    if inner.book().wallet.is_underway(float) {
        return Ok(());
    }
    // What is not on its way any more has arrived.
    let held = balance(inner, float).await?;
    if held >= needed {
        return Ok(());
    }
    let cap = limits.float.unwrap_or(Usdc::ZERO);
    let ceiling = {
        let book = inner.book();
        let known = book.agents.get(agent);
        known.map_or(Usdc::ZERO, |known| {
            let file = known.policy.limits.ceiling;
            known.chain.as_ref().map_or(file, |chain| chain.ceiling.min(file))
        })
    };
    let amount = cap.saturating_sub(held).min(ceiling);
    let short = needed.saturating_sub(held);
    if amount < short {
        let detail = format!(
            "{needed} USDC are needed in the agent's float {float}, and it may hold {cap} USDC"
        );
        return Err(Refusal::new(Code::PriceTooHigh, detail)
            .rule("fetch.float")
            .room(cap, held, cap.saturating_sub(held))
            .hint(
                "wait until earlier calls are settled, or have the operators raise fetch.float",
            ));
    }
    let request = PaymentRequest {
        payee: float.to_string(),
        amount: amount.to_string(),
        currency: "USDC".to_owned(),
        reason: "the agent's float is filled up, to pay sellers that accept only plain accounts"
            .to_owned(),
        context: Context { host: Some(host.to_owned()), ..Context::default() },
    };
    let request = intake::read(inner, &request)?;
    intake::ask_for(inner, agent, "float", request).await.map_err(|refusal| {
        let detail = format!("the agent's float cannot be filled: {}", refusal.detail);
        let mut told = refusal;
        if told.code == Code::PayeeUnknown {
            told = told.hint(format!("have the operators register {float} as a payee"));
        }
        told.detail = detail;
        told
    })
}
