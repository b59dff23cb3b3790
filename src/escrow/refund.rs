//! Refund: the payee's side gives back what it was paid. The payee signs an authorization over its
//! USDC (EIP-3009) that WorkEscrow alone can use, for this one step of this one escrow; the daemon
//! relays it and pays the gas.

use alloy::{
    primitives::{Address, B256, Bytes, U256},
    sol_types::SolCall as _,
};
use serde_json::json;

use super::{
    ActionKind, Signed,
    act::{self, Caller, Plan},
    request::amount,
};
use crate::{
    contract::{
        IUsdc,
        escrow::{self, IWorkEscrow, ReceiveWithAuthorization, State},
    },
    engine::Inner,
    money::Usdc,
    refusal::{Code, Refusal},
    store::EscrowRow,
};

/// What the chain says now.
struct Seen {
    state: State,
    /// USDC's EIP-712 domain, hashed: its name is not the same on every chain.
    separator: B256,
    /// The payee's USDC.
    balance: U256,
}

async fn look(inner: &Inner, contract: Address, escrow: &EscrowRow) -> Result<Seen, Refusal> {
    let unavailable = || {
        Refusal::new(Code::Unavailable, "the chain cannot be asked for the escrow's state")
            .retry_after(5)
            .hint("nothing was sent; ask again when the chain can be reached")
    };
    let usdc = inner.config.chain.usdc;
    let call = |to: Address, data: Vec<u8>| json!({ "to": to, "data": Bytes::from(data) });
    let calls = vec![
        call(contract, IWorkEscrow::getStateCall { escrowId: escrow.id }.abi_encode()),
        call(usdc, IUsdc::DOMAIN_SEPARATORCall {}.abi_encode()),
        call(usdc, IUsdc::balanceOfCall { account: escrow.terms.payee }.abi_encode()),
    ];
    let answers = inner.rpc.eth_calls(calls, inner.newest()).await.map_err(|_| unavailable())?;
    let [state, separator, balance] = answers.as_slice() else { return Err(unavailable()) };
    Ok(Seen {
        state: IWorkEscrow::getStateCall::abi_decode_returns(state).map_err(|_| unavailable())?,
        separator: IUsdc::DOMAIN_SEPARATORCall::abi_decode_returns(separator)
            .map_err(|_| unavailable())?,
        balance: IUsdc::balanceOfCall::abi_decode_returns(balance).map_err(|_| unavailable())?,
    })
}

impl Seen {
    /// Why what came back cannot be raised to `total`.
    fn refuses(&self, escrow: &EscrowRow, total: Usdc) -> Option<Refusal> {
        let usdc = |units: u64| Usdc::from_units(units).unwrap_or_default();
        let (captured, returned) = (usdc(self.state.captured), usdc(self.state.returned));
        let no = |rule: &str, detail: String| {
            Some(Refusal::new(Code::Conflict, detail).rule(format!("escrow.{rule}")))
        };
        if captured == Usdc::ZERO {
            let detail = "nothing was paid out yet, so nothing can be given back";
            return no("total", detail.into())
                .map(|refusal| refusal.hint("`void` gives up what still waits"));
        }
        if total > captured {
            return no(
                "total",
                format!("{captured} USDC were paid out; {total} USDC cannot come back"),
            );
        }
        if total <= returned {
            return no("total", format!("{returned} USDC came back before; {total} adds nothing"))
                .map(|refusal| refusal.hint("totals are cumulative: name the sum of all refunds"));
        }
        let amount = total.saturating_sub(returned);
        if self.balance < U256::from(amount.units()) {
            let has = u64::try_from(self.balance).map(usdc).unwrap_or_default();
            let payee = escrow.terms.payee;
            return no("balance", format!("{payee} has {has} USDC; giving back takes {amount}"))
                .map(|refusal| refusal.hint("fund the payee's account, or name a lower total"));
        }
        None
    }
}

pub(super) async fn plan(
    inner: &Inner,
    caller: &Caller,
    escrow: &EscrowRow,
    total: Option<&str>,
    signed: Option<Signed>,
) -> Result<Plan, Refusal> {
    let contract = inner.place()?.address;
    let seen = look(inner, contract, escrow).await?;
    let total = match total {
        Some(text) => amount(text, "total")?,
        None => Usdc::from_units(seen.state.captured).unwrap_or_default(),
    };
    let from = escrow.terms.payee;
    let value = U256::from(total.units().saturating_sub(seen.state.returned));
    let said = act::payee_says(inner, caller, escrow, signed, |deadline| {
        let message = ReceiveWithAuthorization {
            from,
            to: contract,
            value,
            validAfter: U256::ZERO,
            validBefore: U256::from(deadline),
            nonce: escrow::return_nonce(escrow.id, total.units()),
        };
        escrow::authorization_digest(&message, seen.separator)
    })?;
    let call = IWorkEscrow::refundWithAuthorizationCall {
        terms: escrow.terms.clone(),
        from,
        returnedTotal: total.units(),
        validAfter: U256::ZERO,
        validBefore: U256::from(said.deadline),
        signature: said.signature,
    };
    Ok(Plan {
        kind: ActionKind::Refund,
        effect: json!({ "total": total }),
        target: contract,
        calldata: call.abi_encode().into(),
        ask: None,
        refusal: seen.refuses(escrow, total),
    })
}
