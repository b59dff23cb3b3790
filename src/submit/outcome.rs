//! What a final receipt says of each payment: the wallet's own logs, read item by item.

use std::collections::HashMap;

use alloy::{
    primitives::{Address, B256, U256},
    rpc::types::Log,
    sol_types::{SolError, SolEvent as _, SolEventInterface as _},
};

use super::fate::{Funded, Signed};
use crate::{
    contract::{
        IPolicyWallet::{self, IPolicyWalletErrors as Errors, IPolicyWalletEvents as Events},
        escrow::{IEscrowPayer, IWorkEscrow},
        hub::IChannelPayer,
    },
    money::Usdc,
    refusal::{Code, Refusal},
};

/// How one payment came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The money is at the payee.
    Paid,
    /// It is not. It may be tried again.
    Again(Refusal),
    /// It is not, because it came too late for its signature: tried again, as often as that happens.
    Late(Refusal),
    /// It is not, and it is not tried again: only a change of policy could help.
    Never(Refusal),
    /// It is not, and its signature can never run, whatever changes.
    Dead(Refusal),
}

impl Outcome {
    /// The same, but not to be tried again.
    pub(super) fn for_good(self) -> Self {
        match self {
            Self::Again(why) | Self::Late(why) => Self::Never(why),
            other => other,
        }
    }

    /// The same, but to be tried again while the signature can run.
    pub(super) fn while_live(self) -> Self {
        match self {
            Self::Never(why) => Self::Again(why),
            other => other,
        }
    }
}

/// Why the contract did not pay: the error's selector, and the amount it left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    pub selector: [u8; 4],
    pub left: U256,
}

/// One batch's part of a receipt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct BatchLogs {
    /// How many were paid and the context that was signed, if the batch ran.
    pub ran: Option<(u64, B256)>,
    /// Items that were not paid, by index.
    pub skipped: HashMap<u64, Reason>,
    /// Why the whole batch was not run.
    pub refused: Option<[u8; 4]>,
}

/// Reads the wallet's logs of a transaction, by agent and nonce.
pub(super) fn batches<'a>(
    wallet: Address,
    logs: impl IntoIterator<Item = &'a Log>,
) -> HashMap<(Address, U256), BatchLogs> {
    let mut found: HashMap<(Address, U256), BatchLogs> = HashMap::new();
    for log in logs.into_iter().filter(|log| log.address() == wallet) {
        match Events::decode_log(&log.inner).map(|log| log.data) {
            Ok(Events::BatchPaid(event)) => {
                found.entry((event.agent, event.nonce)).or_default().ran =
                    Some((event.count.saturating_to(), event.context));
            }
            Ok(Events::ItemSkipped(event)) => {
                let reason = Reason { selector: event.reason.0, left: event.left };
                found
                    .entry((event.agent, event.nonce))
                    .or_default()
                    .skipped
                    .insert(event.index.saturating_to(), reason);
            }
            Ok(Events::BatchSkipped(event)) => {
                found.entry((event.agent, event.nonce)).or_default().refused = Some(event.reason.0);
            }
            _ => {}
        }
    }
    found
}

/// Reads the log of `payApproved`, or of what it was to fund: the context that was paid under this agent
/// and nonce.
pub(super) fn approved<'a>(
    wallet: Address,
    logs: impl IntoIterator<Item = &'a Log>,
    signed: &Signed,
) -> Option<B256> {
    let (agent, nonce) = (signed.agent, signed.nonce);
    logs.into_iter().filter(|log| log.address() == wallet).find_map(|log| {
        match signed.funded {
            Some(Funded::Escrow(escrow)) => {
                let event = IEscrowPayer::EscrowOpened::decode_log(&log.inner).ok()?;
                return (event.agent == agent && event.escrowId == escrow).then_some(event.context);
            }
            Some(Funded::Channel(channel)) => {
                let event = IChannelPayer::ChannelFunded::decode_log(&log.inner).ok()?;
                // Its event has no nonce; of several deposits the context tells them apart.
                let own = event.agent == agent
                    && event.channelId == channel
                    && event.context == signed.context;
                return own.then_some(event.context);
            }
            None => {}
        }
        match Events::decode_log(&log.inner).map(|log| log.data) {
            Ok(Events::Approved(event)) if event.agent == agent && event.nonce == nonce => {
                Some(event.context)
            }
            _ => None,
        }
    })
}

impl BatchLogs {
    /// How item `index` of a batch that ran came out, with what was asked.
    pub(super) fn item(&self, index: u64, asked: Usdc) -> Outcome {
        match self.skipped.get(&index) {
            None => Outcome::Paid,
            Some(reason) => judge(*reason, asked),
        }
    }
}

fn amount(units: U256) -> String {
    u64::try_from(units)
        .ok()
        .and_then(Usdc::from_units)
        .map_or_else(|| units.to_string(), |a| a.to_string())
}

/// Turns the contract's error into an outcome: waiting may help, or nothing will.
pub(super) fn judge(reason: Reason, asked: Usdc) -> Outcome {
    let Reason { selector, left } = reason;
    let refusal = |code, rule: &str, words: &str| {
        let mut refusal =
            Refusal::new(code, format!("the contract refused it: {words}")).rule(rule);
        refusal.remaining = Some(amount(left));
        refusal
    };
    let is = |known: [u8; 4]| selector == known;
    if is(IPolicyWallet::PolicyVersionChanged::SELECTOR) {
        // Versions only rise.
        return Outcome::Dead(refusal(
            Code::Conflict,
            "policy_version",
            "the policy changed after the operators approved it",
        ));
    }
    let dead: &[([u8; 4], &str, &str)] = &[
        (IWorkEscrow::TooLate::SELECTOR, "escrow.terms", "its deadline for delivery has passed"),
        (IWorkEscrow::InvalidTerms::SELECTOR, "escrow.terms", "the terms do not hold any more"),
        (IWorkEscrow::ZeroAmount::SELECTOR, "escrow.terms", "there is no amount"),
        (IWorkEscrow::AlreadyAuthorized::SELECTOR, "escrow.terms", "it was opened before"),
        (
            IEscrowPayer::NotEscrowOwner::SELECTOR,
            "escrow.terms",
            "another wallet or agent is meant",
        ),
    ];
    for (known, rule, words) in dead {
        if is(*known) {
            return Outcome::Dead(refusal(Code::Conflict, rule, words));
        }
    }
    if is(IPolicyWallet::DeadlinePassed::SELECTOR) {
        return Outcome::Late(refusal(
            Code::Unavailable,
            "deadline",
            "it came too late for its signature",
        ));
    }
    let again: &[([u8; 4], Code, &str, &str)] = &[
        (
            IWorkEscrow::TokenCollectionFailed::SELECTOR,
            Code::Unavailable,
            "usdc",
            "USDC refused the transfer (paused, a blocked address, or too little money)",
        ),
        (
            IPolicyWallet::DayCapExceeded::SELECTOR,
            Code::DayCapExceeded,
            "limits.day",
            "the agent's 24-hour cap is used up",
        ),
        (
            IPolicyWallet::MonthCapExceeded::SELECTOR,
            Code::MonthCapExceeded,
            "limits.month",
            "the agent's 30-day cap is used up",
        ),
        (
            IPolicyWallet::WalletCapExceeded::SELECTOR,
            Code::WalletCapExceeded,
            "wallet.cap",
            "the wallet's 24-hour cap is used up",
        ),
        (
            IPolicyWallet::PayeeCoolingDown::SELECTOR,
            Code::PayeeCoolingDown,
            "payee.cooldown",
            "the payee was paid too recently",
        ),
        (
            IPolicyWallet::WalletFrozen::SELECTOR,
            Code::WalletFrozen,
            "wallet.frozen",
            "the wallet is frozen",
        ),
        (
            IPolicyWallet::BatchLength::SELECTOR,
            Code::Unavailable,
            "batch",
            "its batch had too many payments",
        ),
        (
            IPolicyWallet::TransferFailed::SELECTOR,
            Code::Unavailable,
            "usdc",
            "USDC refused the transfer (paused, a blocked address, or too little money)",
        ),
    ];
    for (known, code, rule, words) in again {
        if is(*known) {
            return Outcome::Again(refusal(*code, rule, words));
        }
    }
    let never: &[([u8; 4], Code, &str, &str)] = &[
        (
            IPolicyWallet::CeilingExceeded::SELECTOR,
            Code::CeilingExceeded,
            "limits.ceiling",
            "above the agent's ceiling",
        ),
        (
            IPolicyWallet::PayeeNotAllowed::SELECTOR,
            Code::PayeeUnknown,
            "payees",
            "the payee is not registered for this agent",
        ),
        (
            IPolicyWallet::BudgetExceeded::SELECTOR,
            Code::BudgetExceeded,
            "limits.lifetime",
            "the agent's budget is used up",
        ),
        (
            IPolicyWallet::PayeeCapExceeded::SELECTOR,
            Code::PayeeCapExceeded,
            "payee.cap",
            "the payee's cap is used up",
        ),
        (
            IPolicyWallet::AgentInactive::SELECTOR,
            Code::AgentInactive,
            "agent",
            "the contract does not know the agent",
        ),
        (IPolicyWallet::AgentFrozen::SELECTOR, Code::AgentFrozen, "frozen", "the agent is frozen"),
        (
            IPolicyWallet::AgentExpired::SELECTOR,
            Code::AgentInactive,
            "expires",
            "the agent's authority has expired",
        ),
        (
            IPolicyWallet::InvalidQuorum::SELECTOR,
            Code::Conflict,
            "quorum",
            "the operators' quorum does not hold any more",
        ),
    ];
    for (known, code, rule, words) in never {
        if is(*known) {
            return Outcome::Never(refusal(*code, rule, words));
        }
    }
    let name = Errors::name_by_selector(selector).unwrap_or("an unknown error");
    Outcome::Never(
        Refusal::new(Code::Internal, format!("the contract refused {asked} USDC: {name}"))
            .hint("an operator should look at `bursar audit show` of this payment"),
    )
}

/// Reads the error a reverted call would return, from `eth_call`'s data.
pub(super) fn revert_reason(data: Option<&str>) -> Option<Reason> {
    let bytes: alloy::primitives::Bytes = data?.parse().ok()?;
    let selector: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    let left = bytes.get(36..68).map_or(U256::ZERO, U256::from_be_slice);
    Some(Reason { selector, left })
}

/// First topics of the events that name an agent and a nonce: it ran, or was voided.
pub(super) fn nonce_topics() -> [B256; 3] {
    [
        IPolicyWallet::BatchPaid::SIGNATURE_HASH,
        IPolicyWallet::Approved::SIGNATURE_HASH,
        IPolicyWallet::NonceCancelled::SIGNATURE_HASH,
    ]
}

/// First topic of the event that names an agent and what it funded.
pub(super) const fn funded_topic(funded: Funded) -> B256 {
    match funded {
        Funded::Escrow(_) => IEscrowPayer::EscrowOpened::SIGNATURE_HASH,
        Funded::Channel(_) => IChannelPayer::ChannelFunded::SIGNATURE_HASH,
    }
}

/// Does the log say that the nonce was voided?
pub(super) fn is_voided(log: &Log) -> bool {
    log.topic0() == Some(&IPolicyWallet::NonceCancelled::SIGNATURE_HASH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_too_late_is_no_failed_try() {
        let judged = |selector| judge(Reason { selector, left: U256::ZERO }, Usdc::ZERO);
        let late = judged(IPolicyWallet::DeadlinePassed::SELECTOR);
        assert!(matches!(late, Outcome::Late(_)));
        assert!(matches!(late.clone().while_live(), Outcome::Late(_)));
        assert!(matches!(late.for_good(), Outcome::Never(_)));
        assert!(matches!(judged(IPolicyWallet::TransferFailed::SELECTOR), Outcome::Again(_)));
        assert!(matches!(judged(IPolicyWallet::PolicyVersionChanged::SELECTOR), Outcome::Dead(_)));
    }
}
