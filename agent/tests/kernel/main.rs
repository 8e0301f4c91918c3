//! Ring "kernel": the release binary on this machine's kernel, with real kills and a collector in this process.
//!
//! Others may kill on the machine meanwhile: what is asserted is about the cgroups made here, or compared with the
//! kernel's own count.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

/// Ends the test as skipped where no real kills can be made, and keeps the others waiting meanwhile.
macro_rules! needs_kernel {
    () => {
        let _one = crate::support::one_at_a_time();
        if let Err(why) = crate::support::cgroups() {
            crate::support::skip!("{why}");
        }
    };
}

/// Ends the test where a guest is asked again with lockdown on, for what does not depend on it: how the agent starts
/// and ends, what pins and counters keep.
macro_rules! once_in_a_guest {
    () => {
        if crate::support::machine::guest() && !crate::support::machine::reads_strings() {
            return crate::support::tell_skip("the same with lockdown off");
        }
    };
}

mod agent;
mod details;
mod exactly_once;
mod limit;
mod owner;
mod restarts;
#[allow(dead_code, unused_imports, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;
mod watch;
