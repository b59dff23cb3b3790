//! HTTP 402, with official clients and servers.

mod facilitator;
mod official;
