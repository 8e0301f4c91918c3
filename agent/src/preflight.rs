//! What this node allows: `oom-watcher check`. Looks first ([`look`]), then judges ([`judge`], pure): each finding says what to do about it.
//!
//! The last word has the probe itself: it is loaded, attached and detached again. The findings before it explain why it fails.

mod names;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use crate::config::Config;
use crate::export::{otlp, prometheus};
use crate::source::btf::Btf;
use crate::source::layout;
use crate::source::probe::{self, Probe};
use crate::stats::Signal;
pub use names::Names;

/// How bad it is. Ordered: the worst is the verdict of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Kills are seen, but something is lost.
    Degraded,
    /// Kills are not seen.
    Fail,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "pass",
            Self::Degraded => "degraded",
            Self::Fail => "FAIL",
        })
    }
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it. Absent if there is nothing to do.
    pub remedy: Option<&'static str>,
}

/// What was seen on this node, unjudged.
#[derive(Debug)]
pub struct Seen {
    /// Whether the probe is in this binary.
    pub object: bool,
    /// `uname -r`, empty if it cannot be read.
    pub kernel: String,
    /// The permitted capabilities, a bit each; absent if they cannot be read.
    pub capabilities: Option<u64>,
    /// The kernel's type information: the tracepoints it lacks, or why it cannot be used.
    pub types: Result<Vec<&'static str>, String>,
    /// Where the memory controller is.
    pub memory: Option<MemoryController>,
    /// The soft limit of locked memory, bytes; absent if unlimited.
    pub memlock: Option<u64>,
    /// The text of the lockdown file; absent if it cannot be read.
    pub lockdown: Option<String>,
    /// Where `/metrics` is to be served.
    pub listen: SocketAddr,
    /// Whether that can be had.
    pub port: Port,
    /// Each signal that is exported, and whether its endpoint answers.
    pub endpoints: Vec<(Signal, String, Result<(), String>)>,
    /// The attempt to attach: where names come from, or why it failed.
    pub attached: Result<Names, String>,
}

/// Who has the port of `/metrics`.
#[derive(Debug)]
pub enum Port {
    /// Nobody.
    Free,
    /// An oom-watcher that runs already.
    Ours,
    /// Somebody else, or the address is not to be had.
    Taken(io::Error),
}

/// Which version of cgroups has the memory controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryController {
    /// The unified hierarchy.
    V2,
    /// A hierarchy of its own.
    V1,
}

const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;
/// Below this much locked memory kernels before 5.11 do not let the maps be made (facts: the probe's maps and 1 MiB of ring).
const MEMLOCK_NEEDED: u64 = 4 << 20;

/// Looks at everything. Must be called inside a Tokio runtime.
pub async fn look(config: &Config) -> Seen {
    let read = |path: &str| std::fs::read_to_string(path);
    let mut endpoints = Vec::new();
    for (signal, endpoint) in [(Signal::Logs, &config.otlp.logs), (Signal::Traces, &config.otlp.traces), (Signal::Metrics, &config.otlp.metrics)] {
        if let Some(endpoint) = endpoint {
            endpoints.push((signal, endpoint.url.clone(), otlp::reach(signal, endpoint).await));
        }
    }
    Seen {
        object: probe::BUILD != "none",
        kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        capabilities: read("/proc/self/status").ok().and_then(|status| permitted(&status)),
        types: types(Path::new(probe::BTF)),
        memory: read("/proc/self/mountinfo").ok().and_then(|mounts| memory_controller(&mounts)),
        memlock: memlock(),
        lockdown: read("/sys/kernel/security/lockdown").ok(),
        listen: config.listen,
        port: match prometheus::bind(config.listen) {
            Ok(_) => Port::Free,
            Err(_) if prometheus::is_served(config.listen).await => Port::Ours,
            Err(error) => Port::Taken(error),
        },
        endpoints,
        // Not pinned: it must not be in the way of an agent.
        attached: Probe::attach(&probe::Config { pins: None, ..config.probe.clone() })
            .map(|probe| Names::look(&probe))
            .map_err(|error| error.to_string()),
    }
}

/// Judges what was seen. Pure.
pub fn judge(seen: &Seen) -> Vec<Finding> {
    let mut findings = vec![
        object(seen),
        kernel(seen),
        capabilities(seen),
        types_and_tracepoints(seen),
        memory(seen),
        lockdown(seen),
        locked_memory(seen),
        port(seen),
    ];
    findings.extend(seen.endpoints.iter().map(|(signal, url, answer)| endpoint(*signal, url, answer)));
    if seen.endpoints.is_empty() {
        findings.push(
            finding("otlp", Verdict::Pass, "no endpoint is configured: nothing is exported over OTLP, /metrics is served")
                .or_else("set OTEL_EXPORTER_OTLP_ENDPOINT to export log records, spans and metrics"),
        );
    }
    findings.push(attached(seen));
    findings
}

/// The worst of all.
pub fn verdict(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Pass)
}

fn finding(name: &'static str, verdict: Verdict, found: impl Into<String>) -> Finding {
    Finding { name, verdict, found: found.into(), remedy: None }
}

impl Finding {
    fn or_else(self, remedy: &'static str) -> Self {
        Self { remedy: Some(remedy), ..self }
    }
}

fn object(seen: &Seen) -> Finding {
    if seen.object {
        finding("probe", Verdict::Pass, format!("built in, {}", probe::BUILD))
    } else {
        finding("probe", Verdict::Fail, "not in this binary").or_else("build it with `make build`, which builds the probe first")
    }
}

fn kernel(seen: &Seen) -> Finding {
    match version(&seen.kernel) {
        None => finding("kernel", Verdict::Degraded, "its version cannot be read").or_else("mount /proc"),
        Some(version) if version < (5, 10) => {
            finding("kernel", Verdict::Degraded, seen.kernel.clone()).or_else("5.10 is the oldest kernel that was tested")
        }
        Some(_) => finding("kernel", Verdict::Pass, seen.kernel.clone()),
    }
}

fn capabilities(seen: &Seen) -> Finding {
    let Some(permitted) = seen.capabilities else {
        return finding("capabilities", Verdict::Degraded, "cannot be read from /proc/self/status").or_else("mount /proc");
    };
    let has = |bit: u32| permitted & 1 << bit != 0;
    let missing: Vec<&str> = [(CAP_BPF, "CAP_BPF"), (CAP_PERFMON, "CAP_PERFMON")]
        .into_iter()
        .filter(|&(bit, _)| !has(bit) && !has(CAP_SYS_ADMIN))
        .map(|(_, name)| name)
        .collect();
    if missing.is_empty() {
        let found = if has(CAP_BPF) && has(CAP_PERFMON) { "CAP_BPF, CAP_PERFMON" } else { "CAP_SYS_ADMIN, which stands for CAP_BPF and CAP_PERFMON" };
        finding("capabilities", Verdict::Pass, found)
    } else {
        finding("capabilities", Verdict::Fail, format!("{} missing", missing.join(" and ")))
            .or_else("add BPF and PERFMON to the container's capabilities, or run as root")
    }
}

fn types_and_tracepoints(seen: &Seen) -> Finding {
    match &seen.types {
        Ok(absent) if absent.is_empty() => finding("types", Verdict::Pass, format!("{} has all the probe needs", probe::BTF)),
        Ok(absent) => finding("types", Verdict::Fail, format!("the kernel has no tracepoint {}", absent.join(", ")))
            .or_else("use a kernel with CONFIG_TRACEPOINTS"),
        Err(why) => finding("types", Verdict::Fail, why.clone())
            .or_else("use a 64-bit kernel from 5.10 on with CONFIG_DEBUG_INFO_BTF and CONFIG_MEMCG, and mount /sys"),
    }
}

fn memory(seen: &Seen) -> Finding {
    match seen.memory {
        Some(MemoryController::V2) => finding("cgroups", Verdict::Pass, "version 2"),
        Some(MemoryController::V1) => finding("cgroups", Verdict::Pass, "version 1"),
        // The probe needs no mount; only `selftest` does.
        None => finding("cgroups", Verdict::Degraded, "no memory hierarchy is mounted here: selftest cannot run")
            .or_else("mount the host's /sys/fs/cgroup, if selftest is wanted"),
    }
}

fn lockdown(seen: &Seen) -> Finding {
    match seen.lockdown.as_deref().map(str::trim) {
        None => finding("lockdown", Verdict::Pass, "cannot be read here; the attempt to attach tells"),
        Some(text) if text.contains("[confidentiality]") => finding(
            "lockdown",
            Verdict::Degraded,
            "confidentiality: the probe may not read names and limits; what takes their place is said at `attach`",
        )
        .or_else("lockdown=integrity, where whose limit was hit matters more"),
        Some(text) => finding("lockdown", Verdict::Pass, text),
    }
}

fn locked_memory(seen: &Seen) -> Finding {
    match (seen.memlock, version(&seen.kernel)) {
        (Some(limit), Some(version)) if version < (5, 11) && limit < MEMLOCK_NEEDED => {
            finding("memlock", Verdict::Degraded, format!("{} KiB, which this kernel charges maps to", limit / 1024))
                .or_else("raise the limit (ulimit -l unlimited), or add CAP_SYS_RESOURCE")
        }
        (Some(limit), _) => finding("memlock", Verdict::Pass, format!("{} KiB, enough or not charged for maps by this kernel", limit / 1024)),
        (None, _) => finding("memlock", Verdict::Pass, "unlimited"),
    }
}

fn port(seen: &Seen) -> Finding {
    match &seen.port {
        Port::Free => finding("port", Verdict::Pass, format!("{} is free", seen.listen)),
        Port::Ours => finding("port", Verdict::Pass, format!("{} is served by an oom-watcher that runs already", seen.listen)),
        Port::Taken(error) => {
            finding("port", Verdict::Fail, format!("{}: {error}", seen.listen)).or_else("stop what listens there, or set METRICS_PORT")
        }
    }
}

fn endpoint(signal: Signal, url: &str, answer: &Result<(), String>) -> Finding {
    let name = match signal {
        Signal::Logs => "otlp logs",
        Signal::Traces => "otlp traces",
        Signal::Metrics => "otlp metrics",
    };
    match answer {
        Ok(()) => finding(name, Verdict::Pass, format!("{url} answers")),
        Err(why) => finding(name, Verdict::Degraded, format!("{url}: {why}"))
            .or_else("start the collector or mend OTEL_EXPORTER_OTLP_*; until then records wait in the agent"),
    }
}

fn attached(seen: &Seen) -> Finding {
    match &seen.attached {
        Ok(names) => names.judge(),
        Err(why) => finding("attach", Verdict::Fail, why.clone()),
    }
}

/// `5.10.0-32-cloud` → (5, 10)
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn permitted(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapPrm:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

fn types(path: &Path) -> Result<Vec<&'static str>, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let btf = Btf::parse(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    let switches = layout::Switches { helpers: true, arguments: false, cpus: 1 };
    layout::resolve(&btf, switches).map_err(|missing| missing.to_string())?;
    Ok(["signal_generate", "mark_victim"].into_iter().filter(|tracepoint| !btf.has_tracepoint(tracepoint)).collect())
}

fn memory_controller(mountinfo: &str) -> Option<MemoryController> {
    // After " - ": file system type, source, options of the superblock. proc_pid_mountinfo(5).
    let mounts = || mountinfo.lines().filter_map(|line| line.split_once(" - ")).map(|(_, tail)| tail.split_whitespace().collect::<Vec<_>>());
    let v1 = mounts().any(|mount| matches!(mount[..], ["cgroup", _, options] if options.split(',').any(|option| option == "memory")));
    if v1 {
        return Some(MemoryController::V1);
    }
    mounts().any(|mount| mount.first() == Some(&"cgroup2")).then_some(MemoryController::V2)
}

fn memlock() -> Option<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives the call.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    (done == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Seen {
        Seen {
            object: true,
            kernel: "6.1.0-56-cloud-amd64".into(),
            capabilities: Some(1 << CAP_BPF | 1 << CAP_PERFMON),
            types: Ok(Vec::new()),
            memory: Some(MemoryController::V2),
            memlock: Some(64 << 10),
            lockdown: Some("[none] integrity confidentiality".into()),
            listen: SocketAddr::from(([0, 0, 0, 0], 8080)),
            port: Port::Free,
            endpoints: vec![(Signal::Logs, "http://localhost:4317".into(), Ok(()))],
            attached: Ok(Names::FromKernel),
        }
    }

    /// Changes one thing, and the named finding alone must change to the verdict, with a remedy.
    #[track_caller]
    fn check(name: &str, expected: Verdict, change: impl FnOnce(&mut Seen)) {
        let mut seen = good();
        change(&mut seen);
        for finding in judge(&seen) {
            let verdict = if finding.name == name { expected } else { Verdict::Pass };
            assert_eq!(finding.verdict, verdict, "{finding:?}");
            assert!(finding.verdict == Verdict::Pass || finding.remedy.is_some() || finding.name == "attach", "no remedy: {finding:?}");
        }
    }

    #[test]
    fn a_good_node_passes() {
        assert_eq!(verdict(&judge(&good())), Verdict::Pass);
    }

    #[test]
    fn each_fault_is_found_and_has_a_remedy() {
        check("probe", Verdict::Fail, |seen| seen.object = false);
        check("kernel", Verdict::Degraded, |seen| (seen.kernel, seen.memlock) = ("4.19.0".into(), None));
        check("kernel", Verdict::Degraded, |seen| seen.kernel = String::new());
        check("capabilities", Verdict::Fail, |seen| seen.capabilities = Some(1 << CAP_BPF));
        check("capabilities", Verdict::Fail, |seen| seen.capabilities = Some(0));
        check("capabilities", Verdict::Pass, |seen| seen.capabilities = Some(1 << CAP_SYS_ADMIN));
        check("types", Verdict::Fail, |seen| seen.types = Err("no such file".into()));
        check("types", Verdict::Fail, |seen| seen.types = Ok(vec!["mark_victim"]));
        check("cgroups", Verdict::Degraded, |seen| seen.memory = None);
        check("lockdown", Verdict::Degraded, |seen| seen.lockdown = Some("none integrity [confidentiality]".into()));
        check("memlock", Verdict::Degraded, |seen| seen.kernel = "5.10.0-32".into());
        check("port", Verdict::Pass, |seen| seen.port = Port::Ours);
        check("port", Verdict::Fail, |seen| seen.port = Port::Taken(io::ErrorKind::AddrInUse.into()));
        check("otlp logs", Verdict::Degraded, |seen| seen.endpoints[0].2 = Err("connection refused".into()));
        for names in [Names::FromFiles { cgroups: 300, all: true }, Names::FromFiles { cgroups: 3, all: false }, Names::Nowhere("not mounted".into())]
        {
            check("attach", Verdict::Degraded, |seen| seen.attached = Ok(names));
        }
        check("attach", Verdict::Fail, |seen| seen.attached = Err("not permitted".into()));
    }

    #[test]
    fn what_the_kernel_writes_is_understood() {
        assert_eq!(version("5.10.0-32-cloud-amd64"), Some((5, 10)));
        assert_eq!(version("7.3+deb13"), Some((7, 3)));
        assert_eq!(version("six"), None);
        assert_eq!(permitted("Name:\tx\nCapPrm:\t000000c000000000\n"), Some(3 << 38));
        let v1 = "30 25 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n31 25 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(memory_controller(v1), Some(MemoryController::V1));
        assert_eq!(memory_controller("30 25 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n"), Some(MemoryController::V2));
        assert_eq!(memory_controller("30 25 0:26 / /proc rw - proc proc rw\n"), None);
    }
}
