//! The eBPF programs of the running agent, and what the kernel says that they cost. Other probes must not be attached
//! meanwhile.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::programs::loaded_programs;
use aya::sys::{Stats, enable_stats};

/// How often a program ran, and for how long, while the kernel counted.
#[derive(Clone, Debug)]
pub(crate) struct Ran {
    pub(crate) name: String,
    pub(crate) times: u64,
    pub(crate) nanoseconds: u64,
    /// Instructions that the verifier walked through at load.
    pub(crate) verified: u64,
}

/// While it lives, the kernel counts runs and time of all eBPF programs.
pub(crate) struct Counting {
    _open: OwnedFd,
}

impl Counting {
    pub(crate) fn start() -> Self {
        Self { _open: enable_stats(Stats::RunTime).unwrap() }
    }
}

/// What each program of the agent has done since it was loaded, as far as the kernel counted.
pub(crate) fn ran() -> Vec<Ran> {
    let mut found: Vec<Ran> = Vec::new();
    for program in loaded_programs().flatten() {
        let Some(name) = program.name_as_str().filter(|name| name.starts_with("on_")) else { continue };
        let name = name.to_owned();
        assert!(
            found.iter().all(|other| other.name != name),
            "two programs are called {name}: another oom-watcher runs on this machine, stop it first"
        );
        // It may be unloaded by now.
        let Ok(descriptor) = program.fd() else { continue };
        let told = fs::read_to_string(format!("/proc/self/fdinfo/{}", descriptor.as_fd().as_raw_fd())).unwrap();
        let number = |key: &str| told.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok()).unwrap_or(0);
        found.push(Ran {
            name,
            times: number("run_cnt:"),
            nanoseconds: number("run_time_ns:"),
            verified: number("verified_insns:"),
        });
    }
    found
}

/// What each did between the two.
pub(crate) fn between(before: &[Ran], after: &[Ran]) -> Vec<Ran> {
    let since = |ran: &Ran| {
        let first = before.iter().find(|first| first.name == ran.name);
        let (times, nanoseconds) = first.map_or((0, 0), |first| (first.times, first.nanoseconds));
        Ran { times: ran.times - times, nanoseconds: ran.nanoseconds - nanoseconds, ..ran.clone() }
    };
    after.iter().map(since).collect()
}
