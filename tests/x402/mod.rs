//! HTTP 402, with official clients and servers.

mod official;
