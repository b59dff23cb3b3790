//! Escrows through the real daemon, which is killed and started again between every two steps.

mod endings;
mod refusals;
mod stage;
