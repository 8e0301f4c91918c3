//! What crosses the kernel boundary, one struct each way: [`OomEvent`] from the probe to the agent, [`KernelLayout`]
//! from the agent to the probe.
//!
//! All types are `repr(C)` without implicit padding, so that every byte the kernel hands out was written by the probe.
//! The agent embeds the probe that was built from these very lines (agent/build.rs refuses an older one), so no version
//! travels with the events.
#![no_std]

mod event;
mod layout;

pub use event::*;
pub use layout::*;
