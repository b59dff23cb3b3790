//! What the chain says of a payment now. Verifying and settling ask the same questions.

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol_types::{SolCall as _, SolValue as _},
};
use serde_json::json;

use super::{
    Declined,
    read::{Job, Leave, Signed},
    used,
};
use crate::{
    contract::{
        IUsdc,
        token::{IERC1271, IEip3009},
    },
    engine::{EngineError, Inner},
    rpc::{At, RpcError},
    x402::{Reason, exact},
};

/// Seconds a payment must still be good for: a block, and the way there.
const MARGIN_S: u64 = 6;
/// Gas beside what was estimated: state moves on between the two.
const GAS_SPARE: u64 = 30_000;

/// A payment that would be settled now.
pub(super) struct Checked {
    /// Who must send it.
    pub sender: Address,
    /// Gas limit.
    pub gas: u64,
}

/// Looks whether a payment would be settled by a transaction sent now.
pub(super) async fn now(inner: &Inner, job: &Job) -> Result<Checked, Declined> {
    let at = inner.newest();
    match &job.leave {
        Leave::Signed(signed) => {
            in_time(inner, signed)?;
            if signed.separator != *token_separator(inner).await? {
                let why = "the offer's extra has another name or version than the token";
                return Err(Declined::new(Reason::InvalidRequirements, why));
            }
            let (held, is_used) = token_says(inner, job, at).await?;
            if is_used {
                return Err(used("its nonce was used or cancelled before"));
            }
            is_signed(inner, job.payer, signed, at).await?;
            has(held, job)?;
        }
        Leave::Delegated => {
            if inner.rpc.code(job.target).await?.is_empty() {
                let why = format!("there is no contract at {}", job.target);
                return Err(Declined::new(Reason::InvalidPayload, why));
            }
            let (held, _) = token_says(inner, job, at).await?;
            has(held, job)?;
        }
        Leave::Hub => {}
    }
    simulated(inner, job, at).await
}

/// Is it good now, and for a while?
fn in_time(inner: &Inner, signed: &Signed) -> Result<(), Declined> {
    let now_s = inner.now_s();
    if signed.valid_before < U256::from(now_s.saturating_add(MARGIN_S)) {
        return Err(Declined::new(
            Reason::ValidBefore,
            "it has expired, or will before it is sent",
        ));
    }
    if signed.valid_after > U256::from(now_s) {
        return Err(Declined::new(Reason::ValidAfter, "it is not valid yet"));
    }
    Ok(())
}

/// Asks the token for its domain, once.
async fn token_separator(inner: &Inner) -> Result<&B256, EngineError> {
    let ask = async || {
        let call = IUsdc::DOMAIN_SEPARATORCall {}.abi_encode().into();
        let answer = inner.rpc.eth_call(inner.config.chain.usdc, None, &call, At::Latest).await?;
        Ok(IUsdc::DOMAIN_SEPARATORCall::abi_decode_returns_validate(&answer)?)
    };
    inner.facilitator.separator.get_or_try_init(ask).await
}

/// Asks the token what the payer has, and whether the nonce is used.
async fn token_says(inner: &Inner, job: &Job, at: At) -> Result<(U256, bool), EngineError> {
    let call = |data: Vec<u8>| json!({ "to": job.asset, "data": Bytes::from(data) });
    let calls = vec![
        call(IUsdc::balanceOfCall { account: job.payer }.abi_encode()),
        call(
            IEip3009::authorizationStateCall { authorizer: job.payer, nonce: job.nonce }
                .abi_encode(),
        ),
    ];
    let answers = inner.rpc.eth_calls(calls, at).await?;
    let [held, is_used] = answers.as_slice() else {
        return Err(EngineError::Encode("two questions, other answers".into()));
    };
    Ok((
        IUsdc::balanceOfCall::abi_decode_returns_validate(held)?,
        IEip3009::authorizationStateCall::abi_decode_returns_validate(is_used)?,
    ))
}

fn has(held: U256, job: &Job) -> Result<(), Declined> {
    if held < job.amount {
        let why = format!("the payer has {held} base units of {}", job.amount);
        return Err(Declined::new(Reason::InsufficientFunds, why));
    }
    Ok(())
}

/// Is it the payer's signature, as the token will see it? A contract is asked, an account's is
/// recovered; never one in place of the other.
async fn is_signed(inner: &Inner, payer: Address, signed: &Signed, at: At) -> Result<(), Declined> {
    let (digest, signature) = (signed.digest, &signed.signature);
    let is_good = if inner.rpc.code(payer).await?.is_empty() {
        exact::recover(digest, signature) == Some(payer)
    } else {
        let call = IERC1271::isValidSignatureCall { hash: digest, signature: signature.clone() };
        let data = Bytes::from(call.abi_encode());
        let gas = format!("{:#x}", inner.config.facilitator.gas_limit);
        let call = json!({ "to": payer, "data": data, "gas": gas });
        match inner.rpc.eth_calls(vec![call], at).await {
            Ok(answers) => {
                let word = answers.first().and_then(|word| B256::abi_decode(word).ok());
                word.is_some_and(|word| word[..4] == IERC1271::isValidSignatureCall::SELECTOR)
            }
            Err(RpcError::Refused { .. }) => false,
            Err(error) => return Err(error.into()),
        }
    };
    let why = "the signature is not the payer's over this payment";
    if is_good { Ok(()) } else { Err(Declined::new(Reason::InvalidSignature, why)) }
}

/// Runs the very call, from the account that will send it.
async fn simulated(inner: &Inner, job: &Job, at: At) -> Result<Checked, Declined> {
    let mut own = inner.own_relayers();
    if own.is_empty() {
        // Other daemons have them all: good enough to look with.
        own = inner.relayer_addresses();
    }
    let picked = inner.sender_among(&own, u32::MAX).into_iter();
    // A delegation may name who redeems it.
    let others = match job.leave {
        Leave::Delegated => own,
        Leave::Signed(_) | Leave::Hub => Vec::new(),
    };
    let mut refused = "there is no relayer".to_owned();
    for sender in picked.chain(others) {
        match inner.rpc.estimate_gas(sender, job.target, &job.calldata, at).await {
            Ok(gas) if gas > job.gas_limit => {
                let why = format!("it would take {gas} gas, which is out of proportion");
                return Err(Declined::new(Reason::InvalidTransactionState, why));
            }
            Ok(gas) => {
                return Ok(Checked { sender, gas: gas.saturating_add(gas / 4) + GAS_SPARE });
            }
            Err(RpcError::Refused { message, .. }) => refused = message,
            Err(error) => return Err(error.into()),
        }
    }
    let why = format!("the transfer would be refused: {refused}");
    Err(Declined::new(Reason::InvalidTransactionState, why))
}
