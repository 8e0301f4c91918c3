//! What the tests and the bench share: the agent as a child process, real OOM kills, a collector, real servers and
//! stand-ins for them, and what a test needs of the machine.
//!
//! Nothing here is part of the product. What cannot be done fails the test that asked for it, by a panic.

#![allow(clippy::unwrap_used, clippy::panic, reason = "what cannot be done fails the test that asked for it")]

pub mod agent;
pub mod api_server;
pub mod cluster;
pub mod collector;
pub mod exposition;
pub mod kills;
pub mod logql;
pub mod machine;
pub mod needs;
pub mod otelcol;
pub mod pages;
pub mod pki;
pub mod programs;
pub mod restricted;
pub mod spooled;
pub mod stack;
pub mod wait;
pub mod written;

use std::path::PathBuf;

/// The root of the repository, as it was where this was compiled.
pub fn root() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../..").into()
}
