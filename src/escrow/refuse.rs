//! WorkEscrow's and the wallet's errors in words.

use alloy::{primitives::Bytes, sol_types::SolInterface as _};

use crate::{
    clock,
    contract::{
        IPolicyWallet::IPolicyWalletErrors,
        escrow::{
            IEscrowPayer::IEscrowPayerErrors, IWorkEscrow::IWorkEscrowErrors as Errors, Status, by,
        },
    },
    money::Usdc,
    refusal::{Code, Refusal},
};

/// Reads a revert's data as one of WorkEscrow's errors.
pub(super) fn error_of(data: Option<&str>) -> Option<Errors> {
    let bytes: Bytes = data?.parse().ok()?;
    Errors::abi_decode(&bytes).ok()
}

const fn status(status: Status) -> &'static str {
    match status {
        Status::None => "not funded",
        Status::Funded => "funded, with nothing delivered",
        Status::Submitted => "delivered and under review",
        Status::Completed => "completed",
        Status::Rejected => "rejected",
        Status::Expired => "expired",
        Status::Disputed => "disputed",
        _ => "in a state that this bursar does not know",
    }
}

fn role(role: u8) -> &'static str {
    match role {
        by::PAYER => "payer's",
        by::ARBITER => "arbiter's",
        _ => "payee's",
    }
}

fn releases(bits: u8) -> String {
    let names: Vec<String> = super::Release::of(bits)
        .into_iter()
        .filter_map(|release| serde_json::to_value(release).ok()?.as_str().map(str::to_owned))
        .collect();
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}

fn usdc(units: alloy::primitives::U256) -> String {
    u64::try_from(units)
        .ok()
        .and_then(Usdc::from_units)
        .map_or_else(|| units.to_string(), |amount| format!("{amount} USDC"))
}

/// Says why a call would be, or was, refused.
pub(super) fn explain(data: Option<&str>, message: String) -> Refusal {
    let Some(error) = error_of(data) else { return by_wallet(data, message) };
    let at = |seconds: alloy::primitives::U256| clock::at_s(seconds.saturating_to());
    let conflict = |rule: &str, detail: String| {
        Refusal::new(Code::Conflict, detail).rule(format!("escrow.{rule}"))
    };
    match error {
        Errors::WrongStatus(error) => conflict(
            "status",
            format!(
                "the escrow is {}; this needs it to be {}",
                status(error.have),
                status(error.want)
            ),
        )
        .hint("GET the escrow: its timeline says who moved it"),
        Errors::NotYet(error) => {
            conflict("not_yet", format!("it is not possible until after {}", at(error.from)))
                .hint("the daemon does it by itself then")
        }
        Errors::TooLate(error) => {
            conflict("too_late", format!("it was possible until {}", at(error.until)))
        }
        Errors::DeadlinePassed(error) => {
            conflict("deadline", format!("the signature was good until {}", at(error.deadline)))
                .hint("let it be signed anew")
        }
        Errors::InvalidSignature(error) => Refusal::new(
            Code::Unprocessable,
            format!("the {} signature does not hold over this", role(error.role)),
        )
        .rule("escrow.signature")
        .hint("sign the typed data of WorkEscrow with exactly these values and deadline"),
        Errors::NotReleased(error) => conflict(
            "release",
            format!(
                "shown is {}; the terms ask for one of {} and all of {}",
                releases(error.have),
                releases(error.anyOf),
                releases(error.allOf)
            ),
        )
        .hint("a preimage or a condition releases the whole amount only"),
        Errors::NotIncreasing(error) => conflict(
            "total",
            format!(
                "{} was reached before; {} adds nothing",
                usdc(error.before),
                usdc(error.asked)
            ),
        )
        .hint("totals are cumulative: name the sum over all releases"),
        Errors::ExceedsRemaining(error) => conflict(
            "total",
            format!("{} is asked for, {} is left", usdc(error.asked), usdc(error.left)),
        ),
        Errors::UnevenAward(error) => conflict(
            "award",
            format!(
                "{} and {} do not sum to {}",
                usdc(error.captured),
                usdc(error.refunded),
                usdc(error.amount)
            ),
        ),
        Errors::NoArbiter(_) => conflict("arbiter", "the terms name no arbiter".into()),
        Errors::NothingOwed(error) => {
            conflict("owed", format!("nothing waits for {}", error.account))
        }
        Errors::TransferFailed(_) => conflict("usdc", "USDC refuses the payment still".into())
            .hint("the account is blocked, or USDC is paused; try again later"),
        Errors::TokenCollectionFailed(_) => conflict(
            "usdc",
            "USDC does not move exactly this amount on this authorization".into(),
        )
        .hint("an account is blocked, USDC is paused, or the signature is over something else"),
        other => conflict("contract", format!("the contract refuses it: {other:?}")),
    }
}

fn by_wallet(data: Option<&str>, message: String) -> Refusal {
    let selector: Option<[u8; 4]> = data
        .and_then(|data| data.parse::<Bytes>().ok())
        .and_then(|bytes| bytes.get(..4)?.try_into().ok());
    let name = selector.and_then(|selector| {
        IPolicyWalletErrors::name_by_selector(selector)
            .or_else(|| IEscrowPayerErrors::name_by_selector(selector))
    });
    let detail = match name {
        Some(name) => format!("the wallet refuses it: {name}"),
        None => format!("the contract refuses it: {message}"),
    };
    Refusal::new(Code::Conflict, detail).rule("escrow.contract")
}
