//! The chain's own record against the books: transfers, payments, ledger, invoices.
//!
//! The chain's side is read straight from a node: USDC's `Transfer` logs from and to the wallet and
//! what the wallet logs beside them, never what the daemon believes of its own transactions. The
//! books' side is the payments that are called paid, their ledger rows and their audit entries.
//!
//! [`reconcile`] compares everything at once, for a person who asks. The watcher compares what is
//! new at each head, and a difference becomes a [`Finding`](crate::store::Finding): stored, told in
//! the audit log, and cleared when it is gone.

mod attribute;
mod chain;
mod channels;
mod escrows;
mod explain;
mod found;
mod report;
pub(crate) mod restored;
pub(crate) mod watch;

pub use self::{
    channels::ChannelLine,
    escrows::{EscrowLine, Escrows},
    report::{Movement, PayeeLine, Report, reconcile},
    restored::{Restored, Undecided, Word},
    watch::Mark,
};

use crate::{engine::EngineError, rpc::RpcError, store::StoreError};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// The node.
    #[error("the chain cannot be read: {0}")]
    Chain(#[from] RpcError),
    /// The store.
    #[error("the books cannot be read: {0}")]
    Books(#[from] StoreError),
    /// Payments settle faster than the books can be read.
    #[error("the books change while they are read: try again when fewer payments settle")]
    Busy,
    /// A log or an answer that USDC or the wallet does not give.
    #[error("the node's answer makes no sense: {0}")]
    Nonsense(&'static str),
    /// The chain was replaced between two questions about it.
    #[error("the chain changed while it was read: trying again")]
    Moved,
    /// What was found cannot be written: another daemon compares now.
    #[error("what was found is not written: {0}")]
    Unwritten(#[source] Box<EngineError>),
}

impl From<EngineError> for ReconcileError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Store(error) => Self::Books(error),
            EngineError::Rpc(error) => Self::Chain(error),
            other => Self::Unwritten(Box::new(other)),
        }
    }
}
