//! Crash points: named places where a test ends the process, as a power cut or a fault would.
//!
//! They exist only with the feature `fault-injection`; without it [`at`] is nothing. The variable
//! `BURSAR_FAULT` says where: `send.answered` at the first passing, `send.answered:3` at the third,
//! `send.answered:1:panic` for a panic of that task instead of the end of the process, `…:hang` for a
//! task that goes no further and keeps its thread.
//! `BURSAR_FAULT_PAGES` names a file with the number of pages that a SQLite file may have: read
//! before each transaction, so that a test fills the disk and frees it again.

/// A place where what is durable and what is done differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Point {
    /// What was booked and what is on its way is read; nothing runs yet.
    StartLoaded,
    /// Requests are decided and durable; nobody was told.
    AcceptCommitted,
    /// A quorum is complete and durable; nobody was told.
    ApprovalCommitted,
    /// A transaction of payments is signed and durable; nobody has it.
    AssignCommitted,
    /// The same of an approved payment.
    ApprovedCommitted,
    /// The same of an operator's change.
    ChangeCommitted,
    /// The same of a payment that the facilitator settles.
    SettlementCommitted,
    /// A node has the bytes; that is not durable.
    SendAnswered,
    /// A replacement is durable; nobody has it.
    BumpCommitted,
    /// A node has the replacement; that is not durable.
    BumpAnswered,
    /// A block's number is durable; memory does not know it.
    PlaceCommitted,
    /// A final outcome is read; it is not durable.
    FinishRead,
    /// A final outcome is durable; memory does not know it.
    FinishCommitted,
    /// Policy events are read; they are not durable.
    PolicyRead,
    /// A purchase is signed and durable; the seller has not seen it.
    PurchaseSigned,
    /// The seller answered a paid request; that is not durable.
    PurchaseAnswered,
    /// The answer is durable; the agent has not seen it.
    PurchaseNoted,
    /// A purchase's fate on chain is read; it is not durable.
    PurchaseRead,
    /// A sale is open; its handler was not asked.
    SaleOpened,
    /// A sale's answer is durable; it is not settled.
    SaleServed,
    /// A sale's settlement has an answer; that is not durable with the sale.
    SaleSettled,
    /// A deposit into a channel is settled; its voucher is not durable.
    DepositSettled,
    /// A voucher is durable; its handler was not asked.
    VoucherCommitted,
    /// The handler answered; neither answer nor charge is durable.
    ChargeMade,
    /// The charge is durable with its answer; nobody was told.
    ChargeCommitted,
    /// A refund is promised, durably; nothing is signed.
    RefundKept,
    /// A claim is signed and durable; nobody has it.
    ClaimCommitted,
    /// Webhooks are claimed; nobody has them.
    WebhookClaimed,
    /// Endpoints answered; that is not durable.
    WebhookAnswered,
}

/// Dies here, if this is the place.
#[cfg(not(feature = "fault-injection"))]
pub(crate) const fn at(_: Point) {}

#[cfg(feature = "fault-injection")]
pub(crate) use armed::{at, pages};

#[cfg(feature = "fault-injection")]
mod armed {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    };

    use super::Point;

    impl Point {
        const fn name(self) -> &'static str {
            match self {
                Self::StartLoaded => "start.loaded",
                Self::AcceptCommitted => "accept.committed",
                Self::ApprovalCommitted => "approval.committed",
                Self::AssignCommitted => "assign.committed",
                Self::ApprovedCommitted => "approved.committed",
                Self::ChangeCommitted => "change.committed",
                Self::SettlementCommitted => "settlement.committed",
                Self::SendAnswered => "send.answered",
                Self::BumpCommitted => "bump.committed",
                Self::BumpAnswered => "bump.answered",
                Self::PlaceCommitted => "place.committed",
                Self::FinishRead => "finish.read",
                Self::FinishCommitted => "finish.committed",
                Self::PolicyRead => "policy.read",
                Self::PurchaseSigned => "purchase.signed",
                Self::PurchaseAnswered => "purchase.answered",
                Self::PurchaseNoted => "purchase.noted",
                Self::PurchaseRead => "purchase.read",
                Self::SaleOpened => "sale.opened",
                Self::SaleServed => "sale.served",
                Self::SaleSettled => "sale.settled",
                Self::DepositSettled => "deposit.settled",
                Self::VoucherCommitted => "voucher.committed",
                Self::ChargeMade => "charge.made",
                Self::ChargeCommitted => "charge.committed",
                Self::RefundKept => "refund.kept",
                Self::ClaimCommitted => "claim.committed",
                Self::WebhookClaimed => "webhook.claimed",
                Self::WebhookAnswered => "webhook.answered",
            }
        }
    }

    enum Then {
        End,
        Panic,
        Hang,
    }

    struct Plan {
        place: String,
        /// Passings left until it happens.
        left: AtomicU32,
        then: Then,
    }

    static PLAN: LazyLock<Option<Plan>> = LazyLock::new(|| {
        let text = std::env::var("BURSAR_FAULT").ok()?;
        let mut parts = text.split(':');
        let place = parts.next()?.to_owned();
        let left = parts.next().and_then(|count| count.parse().ok()).unwrap_or(1);
        let then = match parts.next() {
            Some("panic") => Then::Panic,
            Some("hang") => Then::Hang,
            _ => Then::End,
        };
        Some(Plan { place, left: AtomicU32::new(left), then })
    });

    /// Pages the store may have, where a test says so.
    pub(crate) fn pages() -> Option<u32> {
        static FILE: LazyLock<Option<std::ffi::OsString>> =
            LazyLock::new(|| std::env::var_os("BURSAR_FAULT_PAGES"));
        std::fs::read_to_string(FILE.as_ref()?).ok()?.trim().parse().ok()
    }

    /// Dies here, if this is the place.
    #[expect(clippy::panic, reason = "a test asked for it")]
    pub(crate) fn at(place: Point) {
        let Some(plan) = PLAN.as_ref().filter(|plan| plan.place == place.name()) else { return };
        if plan.left.fetch_sub(1, Ordering::SeqCst) != 1 {
            return;
        }
        match plan.then {
            Then::End => std::process::abort(),
            Then::Panic => panic!("a test asked for a panic at {}", place.name()),
            Then::Hang => loop {
                std::thread::park();
            },
        }
    }
}
