//! Webhooks and alerts: the real daemon, and a receiver that is told.

mod alerts;
mod receiver;
mod webhooks;

use receiver::Receiver;
