//! The eBPF programs of the running agent, and what the kernel says that they cost. Other probes must not be attached
//! meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::programs::{ProgramInfo, loaded_programs};
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
    for (name, program) in loaded() {
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

/// The programs of probes that are loaded now, by name, and the processes that hold each: none that can be seen, if
/// they are pinned or their holder is in another pid namespace.
pub(crate) fn held() -> BTreeMap<String, BTreeSet<String>> {
    let names: BTreeMap<u32, String> = loaded().map(|(name, program)| (program.id(), name)).collect();
    let mut held: BTreeMap<String, BTreeSet<String>> =
        names.values().map(|name| (name.clone(), BTreeSet::new())).collect();
    if names.is_empty() {
        return held;
    }
    for (process, descriptor) in descriptors() {
        let id = descriptor.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok());
        if let Some(name) = id.and_then(|id| names.get(&id)) {
            held.entry(name.clone()).or_default().insert(process);
        }
    }
    held
}

/// What the kernel says of each descriptor of each process, and which process it is.
fn descriptors() -> impl Iterator<Item = (String, String)> {
    let entries = |folder: &str| fs::read_dir(folder).into_iter().flatten().flatten();
    let processes = entries("/proc").filter_map(|entry| entry.file_name().into_string().ok()?.parse::<u32>().ok());
    processes.flat_map(move |pid| {
        let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        let process = format!("{pid} ({})", command.trim_end());
        entries(&format!("/proc/{pid}/fdinfo"))
            .filter_map(move |entry| Some((process.clone(), fs::read_to_string(entry.path()).ok()?)))
    })
}

/// The programs of all agents, and their names.
fn loaded() -> impl Iterator<Item = (String, ProgramInfo)> {
    loaded_programs().flatten().filter_map(|program| {
        let name = program.name_as_str().filter(|name| name.starts_with("on_"))?.to_owned();
        Some((name, program))
    })
}
