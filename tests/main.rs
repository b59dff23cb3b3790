//! The one integration binary: a folder a room, `support` for what they share.

mod cli;
