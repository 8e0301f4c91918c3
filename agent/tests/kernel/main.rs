//! Ring "kernel": the release binary on this machine's kernel, with real kills and a collector in this process.
//!
//! Others may kill on the machine meanwhile: what is asserted is about the cgroups made here, or compared with the
//! kernel's own count.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod agent;
mod details;
mod exactly_once;
mod limit;
mod owner;
mod restarts;
mod watch;

use oom_watcher_testkit::machine::{guest, reads_strings};
use oom_watcher_testkit::needs::Lack;

/// For what does not depend on lockdown: how the agent starts and ends, what pins and counters keep. A guest runs the
/// tests once more with lockdown on, and this ends them there.
fn once_in_a_guest() -> Result<(), Lack> {
    if guest() && !reads_strings() {
        return Err(Lack::Inapplicable("the same with lockdown off".to_owned()));
    }
    Ok(())
}
