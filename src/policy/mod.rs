//! What an agent may do: its policy file, the decision about one payment, the lint.
//!
//! Pure: time comes in as unix seconds, the chain's view as values.

mod coupons;
mod document;
mod evaluate;
mod hosts;
mod lint;
mod room;
mod usage;

pub use coupons::{CouponClass, Coupons, NotAClass};
pub use document::{
    AgentLimits, Categories, CategoriesError, Counts, FetchLimits, FetchLoops, Limits, Loops,
    OnLimit, Policy, PolicyError,
};
pub use evaluate::{
    ChainLimits, Decision, FetchBy, FetchUsed, Judgement, PayeeRecord, Question, evaluate,
    evaluate_fetch, may_fetch, override_names, overrides,
};
pub use hosts::{HostPattern, NotAHost};
pub use lint::{Finding, Level, lint, lint_together};
pub use room::{WORST_CASE_S, limit_views, worst_case};
pub use usage::{Facts, Outcome, Usage, WalletUsage};

#[cfg(test)]
mod testing;
