//! What crosses the kernel boundary: [`OomEvent`], [`Note`] and the counters ([`Counter`]) from the probe to the agent,
//! [`KernelLayout`] from the agent to the probe.
//!
//! All types are `repr(C)` without implicit padding, so that every byte the kernel hands out was written by the probe.
//! The agent embeds the probe that was built from these very lines (agent/build.rs refuses an older one). A pinned
//! probe of another build may have left events, too: fields are only ever added, and an event says how long its parts
//! are.
#![no_std]

mod event;
mod layout;

pub use event::*;
pub use layout::*;
