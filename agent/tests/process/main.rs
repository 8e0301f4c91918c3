//! Ring "process": the real program with what users and nodes do wrong. What it says, how it ends, and that it never
//! panics.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod collectors;
mod commands;
mod preflight;
mod program;
mod refusals;
