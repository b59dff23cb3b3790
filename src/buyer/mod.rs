//! Buying: an agent's call to a server that may answer 402, paid within the agent's policy.
//!
//! ```text
//!  call ─▶ answer ─┬─▶ not 402: handed on, nothing kept
//!                  └─▶ 402 ─▶ offers, each judged ─▶ sign + store ─▶ send ─▶ answer ─▶ hand on
//!                                                        │                    └ stored first
//!                                                        └──▶ the chain says what became of it
//! ```
//!
//! One purchase, one authorization, or one place in a channel (`channel.rs`). The agent's idempotency key names the purchase; its row, with
//! the signed payment, is durable before the seller sees anything, and every retry sends those very
//! bytes. The token takes their nonce once. What a seller says about a settlement is shown and not
//! believed: a purchase is `paid` when the token's own log at depth says so, and `unpaid` when a
//! final block is past the authorization's end and the nonce is unused. In between its amount stays
//! reserved, and nothing else is signed under its key. So a lost answer, a slow settlement or a
//! crash between any two steps ends in one charge at most.

mod breaker;
mod call;
mod channel;
mod choose;
mod float;
mod odd;
mod offer;
mod pay;
pub(crate) mod purses;
mod shop;
mod show;
mod tally;
mod told;
mod view;
pub(crate) mod watch;
mod web;

pub(crate) use self::{
    call::Call,
    odd::Odd,
    shop::{Shop, fetch, remember},
    show::{list, room, show},
};
pub use self::{
    view::{
        Answer, ChannelPart, CouponRoom, FetchRequest, FetchRoom, FetchView, HostRoom, OfferView,
        PurchasePage, Receipt,
    },
    web::WebError,
};

use serde::{Deserialize, Serialize};

use crate::payment::FundsMoved;

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
            utoipa::ToSchema,
        )]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$vdoc])* $variant,)* }

        impl $name {
            /// Returns the name used in JSON and in the store.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),* }
            }

            /// Reads a stored name.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Self> {
                [$(Self::$variant),*].into_iter().find(|known| known.as_str() == name)
            }
        }
    };
}

named! {
    /// By what a purchase is paid. This is the seam for further payers: what a kind signs stands in
    /// `pay.rs`, when it is taken in `choose.rs`, which accounts it moves in the store.
    PayerKind {
        /// The wallet itself, by a single-use coupon that its contract accepts (ERC-1271).
        Coupon = "coupon",
        /// The agent's own plain account with a small, capped balance.
        Float = "float",
        /// The wallet itself, when the seller's side has it redeem what the agent signed (ERC-7710): a
        /// payment like any other to the contract, which counts it against every cap.
        #[serde(rename = "erc7710")]
        Delegation = "erc7710",
        /// A channel of the wallet to the seller: the agent's signature over the total so far.
        Channel = "channel",
    }
}

named! {
    /// Where a purchase stands.
    PurchaseState {
        /// Its payment is signed and stored; the seller may have it.
        Signed = "signed",
        /// The seller has it, and nobody who can be believed says what became of it.
        Unknown = "unknown",
        /// The seller says that it is settled; the chain does not yet, at depth.
        Reported = "reported",
        /// Final: the token moved the money, or the channel's total counts it.
        Paid = "paid",
        /// Final: the authorization ended unused, or the channel's total passes it over. It never moves
        /// money.
        Unpaid = "unpaid",
    }
}

impl PurchaseState {
    /// Did money move?
    #[must_use]
    pub const fn funds_moved(self) -> FundsMoved {
        match self {
            Self::Signed | Self::Unknown | Self::Reported => FundsMoved::Maybe,
            Self::Paid => FundsMoved::Yes,
            Self::Unpaid => FundsMoved::No,
        }
    }

    /// Has it come to its end?
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Paid | Self::Unpaid)
    }
}
