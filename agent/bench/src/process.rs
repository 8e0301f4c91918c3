//! What the kernel says of a process: CPU, memory, threads, wake-ups. Sums over all its threads.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// What a process took so far, and has now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// Time on a CPU.
    pub(crate) cpu: Duration,
    /// How often a thread went to sleep by itself: so often it was woken. Without threads that have ended.
    pub(crate) wake_ups: u64,
    pub(crate) threads: u64,
    /// `VmRSS`, in bytes.
    pub(crate) resident: u64,
    /// That of it which is no file's: `RssAnon`, in bytes.
    pub(crate) anonymous: u64,
    /// The most it ever was: `VmHWM`, in bytes.
    pub(crate) peak: u64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> Self {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let bytes = |key| number(&status, key) << 10;
        let mut usage = Self {
            resident: bytes("VmRSS:"),
            anonymous: bytes("RssAnon:"),
            peak: bytes("VmHWM:"),
            threads: number(&status, "Threads:"),
            cpu: cpu(pid),
            wake_ups: 0,
        };
        for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let task = task.unwrap().path();
            // A thread may have ended since.
            let Ok(status) = fs::read_to_string(task.join("status")) else { continue };
            usage.wake_ups += number(&status, "voluntary_ctxt_switches:");
        }
        usage
    }
}

/// Of all its threads, also of those that have ended.
fn cpu(pid: u32) -> Duration {
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: both outlive the calls.
    let results = unsafe {
        (libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock), libc::clock_gettime(clock, &raw mut time))
    };
    assert_eq!(results, (0, 0), "the CPU time of process {pid} cannot be had");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What that program says of its version in one line, or else its folder: not all know theirs.
pub(crate) fn version(program: &Path) -> String {
    let folder =
        program.parent().and_then(Path::file_name).map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    // Programs that were compiled here are in a folder of name and version, and often say nothing.
    let of_folder = folder
        .rsplit_once('-')
        .filter(|(_, version)| version.contains('.') && version.starts_with(|first: char| first.is_ascii_digit()));
    if let Some((name, version)) = of_folder {
        return format!("{name} {version}");
    }
    let output = Command::new(program)
        .arg("--version")
        .output()
        .unwrap_or_else(|error| panic!("starting {}: {error}", program.display()));
    let text = String::from_utf8_lossy(&output.stdout);
    // Prometheus has where it was built behind it.
    let line = text.lines().next().and_then(|line| line.split(" (branch").next());
    line.map_or(folder, |line| line.replace(", version", ""))
}

fn number(status: &str, key: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or("0");
    value.split_whitespace().next().unwrap().parse().unwrap()
}
