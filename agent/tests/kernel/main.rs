//! Ring "kernel": the release binary on this machine's kernel, with real kills and a collector in this process.
//!
//! Others may kill on the machine meanwhile: what is asserted is about the cgroups made here, or compared with the
//! kernel's own count.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

/// Ends the test as skipped where no real kills can be made, and keeps the others waiting meanwhile.
macro_rules! needs_kernel {
    () => {
        let _one = oom_watcher_testkit::needs::one_at_a_time();
        if let Err(why) = oom_watcher_testkit::needs::cgroups() {
            oom_watcher_testkit::needs::skip!("{why}");
        }
    };
}

/// Ends the test where a guest is asked again with lockdown on, for what does not depend on it: how the agent starts
/// and ends, what pins and counters keep.
macro_rules! once_in_a_guest {
    () => {
        if oom_watcher_testkit::machine::guest() && !oom_watcher_testkit::machine::reads_strings() {
            return oom_watcher_testkit::needs::tell_skip("the same with lockdown off");
        }
    };
}

mod agent;
mod details;
mod exactly_once;
mod limit;
mod owner;
mod restarts;
mod watch;
