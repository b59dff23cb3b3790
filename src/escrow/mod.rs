//! Escrow: an agent's money waits in WorkEscrow until work is done.
//!
//! An opening is a payment: the same intake, policy, reservation, approval and ledger, whose
//! transaction calls `openEscrow` instead of paying at once. What comes later is an action: checked
//! against the contract, stored with its signed transaction, then sent; the contract takes each once.
//! Where an escrow stands is told by nothing but WorkEscrow's final logs ([`follow`]), whoever acted.
//! Deadlines are the chain's ([`watch`]).

pub(crate) mod act;
pub(crate) mod follow;
pub(crate) mod open;
mod refund;
mod refuse;
pub(crate) mod release;
mod request;
pub(crate) mod show;
mod view;
pub(crate) mod watch;

use alloy::{
    primitives::{Address, B256},
    sol_types::{Eip712Domain, SolCall as _},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use utoipa::ToSchema;

use crate::{
    contract::escrow,
    engine::Inner,
    refusal::{Code, Refusal},
    rpc::{At, Rpc, RpcError},
};

pub use self::{
    request::{
        ActionRequest, Content, EscrowRequest, JobRequest, Milestone, PayoutShare, Release,
        ReleaseRule, Signed,
    },
    view::{
        ActionView, EscrowPage, EscrowView, JobView, NextDeadline, Opened, PayoutView,
        StepApprovalView, TimelineEntry,
    },
};

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$item_doc:meta])* $item:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$item_doc])* $item,)* }

        impl $name {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$item),*];

            /// Returns the name used in JSON and in the store.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$item => $text),* }
            }

            /// Reads a stored name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.as_str() == name)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

names! {
    /// Where an escrow stands: from `funded` on, by the contract's final logs.
    EscrowState {
        /// Asked for; its payment is on its way or waits for operators.
        Opening = "opening",
        /// Ended before it began: its payment was refused or failed.
        Unfunded = "unfunded",
        /// The money waits; nothing is delivered yet.
        Funded = "funded",
        /// Delivered; the review period runs.
        Submitted = "submitted",
        /// The arbiter decides.
        Disputed = "disputed",
        /// Ended: its last step paid the payee's side.
        Completed = "completed",
        /// Ended: its last step gave what was left to the payer.
        Rejected = "rejected",
        /// Ended: nothing was delivered in time.
        Expired = "expired",
    }
}

impl EscrowState {
    /// Has it come to its end? Money that was paid out can still be given back.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Unfunded | Self::Completed | Self::Rejected | Self::Expired)
    }
}

names! {
    /// What can be asked of an escrow.
    ActionKind {
        /// The payee delivers.
        Submit = "submit",
        /// The payee's side is paid, on proof.
        Release = "release",
        /// Payer or payee asks the arbiter.
        Dispute = "dispute",
        /// The arbiter splits.
        Award = "award",
        /// The payee gives what is left back.
        Void = "void",
        /// Nothing was delivered in time: back to the payer.
        Reclaim = "reclaim",
        /// Nobody spoke in time: the terms' share to each side.
        Finalize = "finalize",
        /// What USDC once refused to pay is paid.
        Withdraw = "withdraw",
        /// The payee gives back what it was paid.
        Refund = "refund",
    }
}

names! {
    /// Where an action stands.
    ActionState {
        /// Above the agent's own authority: waits for the operators' quorum.
        AwaitingApproval = "awaiting_approval",
        /// In a signed, stored transaction.
        Sent = "sent",
        /// Final: it happened.
        Done = "done",
        /// Final: it did not.
        Failed = "failed",
    }
}

names! {
    /// What a final log tells.
    StepKind {
        /// The money waits.
        Funded = "funded",
        /// Delivered.
        Submitted = "submitted",
        /// Paid to the payee's side.
        Released = "released",
        /// Paid back to the payer.
        Refunded = "refunded",
        /// The arbiter was asked.
        Disputed = "disputed",
        /// The arbiter has split.
        Awarded = "awarded",
        /// Ended with a payment.
        Completed = "completed",
        /// Ended without one.
        Rejected = "rejected",
        /// Ended with nothing delivered.
        Expired = "expired",
        /// The payee gave money back.
        Returned = "returned",
        /// USDC refused a payment: it waits.
        Deferred = "deferred",
    }
}

/// WorkEscrow on this chain.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub address: Address,
    pub domain: Eip712Domain,
}

impl Place {
    pub(crate) fn new(chain_id: u64, address: Address) -> Self {
        Self { address, domain: escrow::domain(chain_id, address) }
    }
}

/// Asks a wallet for its WorkEscrow; `None`: it opens no escrows.
///
/// # Errors
/// [`RpcError`] if the node has no answer.
pub(crate) async fn of_wallet(rpc: &Rpc, wallet: Address) -> Result<Option<Address>, RpcError> {
    let call = escrow::IEscrowPayer::ESCROWCall {}.abi_encode().into();
    match rpc.eth_call(wallet, None, &call, At::Latest).await {
        Ok(answer) => {
            let found = answer.get(12..32).map(Address::from_slice);
            Ok(found.filter(|address| !address.is_zero()))
        }
        // A wallet from before there were escrows.
        Err(RpcError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

impl Inner {
    /// WorkEscrow, or the refusal where this wallet has none.
    pub(crate) fn place(&self) -> Result<&Place, Refusal> {
        self.escrow.as_ref().ok_or_else(|| {
            Refusal::new(Code::Unprocessable, "this wallet has no escrow contract")
                .hint("GET /v1/wallet names the contracts")
        })
    }
}

pub(crate) fn unknown(id: B256) -> Refusal {
    Refusal::new(Code::NotFound, format!("there is no escrow {id}, or you are no party to it"))
        .hint("GET /v1/escrows lists yours")
}

/// Hashes content: SHA-256, as `sha256sum` prints it.
#[must_use]
pub fn content_hash(content: &[u8]) -> B256 {
    B256::from_slice(&Sha256::digest(content))
}
