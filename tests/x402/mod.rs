//! HTTP 402, with official clients and servers.

pub mod buyer;
mod buyer_channels;
mod buyer_twins;
mod buyer_ways;
pub mod channels;
mod desk;
mod facilitator;
mod facilitator_channels;
mod facilitator_wallet;
mod hostile;
mod kills;
mod layer;
mod official;
mod redeemed;
mod reorgs;
mod restored;
pub mod seller;
pub mod till;
