//! HTTP 402, with official clients and servers.

mod desk;
mod facilitator;
mod facilitator_channels;
mod facilitator_wallet;
mod official;
