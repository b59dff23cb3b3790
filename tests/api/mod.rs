//! The HTTP surface and the commands that use it, against the real daemon on a real chain.

mod auth;
mod commands;
mod problems;
mod raw;
