//! What people use today, watching the same kills. Each keeps what it saw until it is asked.

mod bpftrace;
mod kernel_log;
mod proc_reader;

use std::fs;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

pub(crate) use bpftrace::Bpftrace;
pub(crate) use kernel_log::KernelLog;
pub(crate) use proc_reader::ProcReader;

/// After so long without anything new, nothing more is expected.
const QUIET: Duration = Duration::from_secs(2);
/// Between two looks at what was seen: more often would take the CPUs from those who are measured.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A kill, as an observer saw it.
#[derive(Clone, Debug)]
pub(crate) struct Sighting {
    pub(crate) pid: u32,
    /// The victim's memory cgroup, if the observer could tell.
    pub(crate) cgroup: Option<String>,
}

/// What an observer saw and was not asked for yet.
#[derive(Clone, Default)]
pub(crate) struct Sightings(Arc<Mutex<Vec<Sighting>>>);

impl Sightings {
    fn add(&self, sighting: Sighting) {
        self.0.lock().unwrap().push(sighting);
    }

    /// Waits until there are as many as there must be, or no more come, and takes them.
    pub(crate) fn take(&self, expected: usize) -> Vec<Sighting> {
        let (mut last, mut since) = (0, Instant::now());
        loop {
            let count = self.0.lock().unwrap().len();
            if count >= expected || since.elapsed() > QUIET {
                return std::mem::take(&mut *self.0.lock().unwrap());
            }
            if count > last {
                (last, since) = (count, Instant::now());
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
}

/// The memory cgroup that /proc has of a process now. `None`: it is gone, or gone from its cgroup.
fn cgroup_of(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let of = |controller: &str| {
        text.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|name| name == controller).then(|| path.to_owned())
        })
    };
    of("memory").or_else(|| of(""))
}
