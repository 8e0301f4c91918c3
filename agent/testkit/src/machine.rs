//! The machine that the tests run on: its kernel, what that counted, and whether the machine may be used up.

use std::fs;
use std::path::Path;

use crate::needs::Lack;

/// Whether this is a guest that nobody needs and nobody else uses: only there may the machine run out of memory, and
/// all kills are ours.
pub fn guest() -> bool {
    std::env::var("OOM_WATCHER_GUEST").as_deref() == Ok("1")
}

/// Whether the machine may be used up.
///
/// # Errors
/// It is no guest.
pub fn own_machine() -> Result<(), Lack> {
    if guest() {
        return Ok(());
    }
    let reason = "it uses up all memory, for which it needs a guest of its own (OOM_WATCHER_GUEST=1)";
    Err(Lack::Inapplicable(reason.to_owned()))
}

/// Where probes can be pinned.
///
/// # Errors
/// Nothing is mounted there.
pub fn bpf_file_system() -> Result<&'static Path, String> {
    let root = Path::new("/sys/fs/bpf");
    if !fs::read_to_string("/proc/self/mounts").unwrap().lines().any(|mount| mount.contains(" /sys/fs/bpf bpf ")) {
        return Err("no BPF file system is mounted at /sys/fs/bpf".to_owned());
    }
    Ok(root)
}

/// Major and minor version of the running kernel.
pub fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

/// Whether the kernel lets programs read its strings: not under lockdown=confidentiality, where all that only a helper
/// can read is absent.
pub fn reads_strings() -> bool {
    !fs::read_to_string("/sys/kernel/security/lockdown").is_ok_and(|state| state.contains("[confidentiality]"))
}

/// Whether a program can have its current task: by a helper that reads, or from 5.11 on without.
pub fn tells_current_task() -> bool {
    reads_strings() || kernel() >= (5, 11)
}

/// What the kernel counted on the whole machine since it was started.
pub fn kernel_kills() -> u64 {
    let counters = fs::read_to_string("/proc/vmstat").unwrap();
    counters.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap().parse().unwrap()
}

/// While it lives, the OOM killer chooses neither this process, nor what this process starts meanwhile, nor these
/// others.
pub struct Protected {
    processes: Vec<u32>,
}

impl Protected {
    /// Protects this process and those.
    pub fn new(others: impl IntoIterator<Item = u32>) -> Self {
        let protected = Self { processes: others.into_iter().chain([std::process::id()]).collect() };
        protected.set_scores("-1000");
        protected
    }

    fn set_scores(&self, score: &str) {
        for process in &self.processes {
            fs::write(format!("/proc/{process}/oom_score_adj"), score).unwrap();
        }
    }
}

impl Drop for Protected {
    fn drop(&mut self) {
        self.set_scores("0");
    }
}
