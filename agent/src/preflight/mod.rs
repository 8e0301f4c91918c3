//! What this node allows: `oom-watcher check`. Looks first ([`look`]), then judges ([`judge`], pure): each finding says
//! what to do about it.
//!
//! The last word has the probe itself: it is loaded, attached and detached again. The findings before it explain why it
//! fails.

mod lasting;
mod names;
mod permissions;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::cgroups::node::{Node, Reason};
use crate::config::Config;
use crate::export::{otlp, prometheus};
use crate::host;
use crate::kubernetes;
use crate::kubernetes::pod_logs::PodLogs;
use crate::privileges;
use crate::privileges::denial::Standing;
use crate::source::btf::Btf;
use crate::source::layout;
use crate::source::probe::{self, Loaded, Probe};
use crate::stats::Signal;
pub use lasting::Lasting;
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
    /// What the kernel goes by when it allows the probe or denies it; absent if it cannot be read.
    pub standing: Option<Standing>,
    /// The size of the ring buffer, bytes.
    pub ring_bytes: u32,
    /// The kernel's type information: the tracepoints it lacks, or why it cannot be used.
    pub types: Result<Vec<&'static str>, String>,
    /// Where the memory controller is.
    pub memory: Option<MemoryController>,
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
    /// The programs that were loaded for it. Empty if it failed.
    pub programs: Vec<Loaded>,
    /// What outlives the agent.
    pub lasting: Lasting,
    /// Which kills count for this node, or why the configuration cannot be followed.
    pub node: Result<Node, String>,
    /// Where the kubelet has the logs of its pods, if that can be read.
    pub pod_logs: Option<PathBuf>,
    /// How many pods the Kubernetes API knows of this node, or why that cannot be asked. Absent: it is not to be asked.
    pub pods: Option<Result<usize, String>>,
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

/// Looks at everything, with the capabilities of the calling thread, which it makes effective. Must be called inside a
/// Tokio runtime.
pub async fn look(config: &Config) -> Seen {
    privileges::raise();
    let read = |path: &str| std::fs::read_to_string(path);
    let mut endpoints = Vec::new();
    for (signal, endpoint) in [
        (Signal::Logs, &config.otlp.logs),
        (Signal::Traces, &config.otlp.traces),
        (Signal::Metrics, &config.otlp.metrics),
    ] {
        if let Some(endpoint) = endpoint {
            endpoints.push((signal, endpoint.url.clone(), otlp::reach(signal, endpoint).await));
        }
    }
    // Not pinned: it must not be in the way of an agent.
    let probe = Probe::attach(&probe::Config { pins: None, ..config.probe.clone() });
    Seen {
        object: probe::BUILD != "none",
        kernel: host::kernel::release().unwrap_or_default(),
        standing: Standing::of_this_thread().ok(),
        ring_bytes: config.probe.ring_bytes,
        types: types(Path::new(probe::BTF)),
        memory: read("/proc/self/mountinfo").ok().and_then(|mounts| memory_controller(&mounts)),
        lockdown: read("/sys/kernel/security/lockdown").ok(),
        listen: config.listen,
        port: match prometheus::bind(config.listen) {
            Ok(_) => Port::Free,
            Err(_) if prometheus::is_served(config.listen).await => Port::Ours,
            Err(error) => Port::Taken(error),
        },
        endpoints,
        lasting: Lasting::look(config),
        node: Node::find(&config.node_cgroup).map_err(|error| format!("{error:#}")),
        pod_logs: config.pod_logs.clone().filter(|pods| PodLogs::new(pods.clone()).are_there()),
        pods: match &config.kubernetes {
            Some(settings) => Some(kubernetes::watch::ask(settings).await.map_err(|error| format!("{error:#}"))),
            None => None,
        },
        programs: probe.as_ref().map(|probe| probe.programs().to_vec()).unwrap_or_default(),
        attached: probe.map(|probe| Names::look(&probe)).map_err(|error| error.to_string()),
    }
}

/// Judges what was seen. Pure.
pub fn judge(seen: &Seen) -> Vec<Finding> {
    let mut findings = vec![
        object(seen),
        kernel(seen),
        permissions::capabilities(seen),
        types_and_tracepoints(seen),
        memory(seen),
        lockdown(seen),
        permissions::locked_memory(seen),
        port(seen),
    ];
    findings.extend(seen.endpoints.iter().map(|(signal, url, answer)| endpoint(*signal, url, answer)));
    if seen.endpoints.is_empty() {
        findings.push(
            finding(
                "otlp",
                Verdict::Pass,
                "no endpoint is configured: nothing is exported over OTLP, /metrics is served",
            )
            .or_else("set OTEL_EXPORTER_OTLP_ENDPOINT to export log records, spans and metrics"),
        );
    }
    findings.push(attached(seen));
    findings.extend(seen.lasting.judge());
    findings.push(node(seen));
    findings.push(pods(seen));
    if !seen.programs.is_empty() {
        findings.push(finding(
            "programs",
            Verdict::Pass,
            seen.programs.iter().map(program).collect::<Vec<_>>().join("; "),
        ));
    }
    findings
}

/// What the verifier walked through, and how long that took; or what is not known without the program.
fn program(loaded: &Loaded) -> String {
    let Loaded { name, verified_instructions, time, refused } = loaded;
    let instructions = verified_instructions.map(|count| format!("{count} instructions, ")).unwrap_or_default();
    match refused {
        None => format!("{name} {instructions}{:.1} ms", time.as_secs_f64() * 1e3),
        Some(why) => format!("{name} not attached, the agent goes on without: {why}"),
    }
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
        finding("probe", Verdict::Fail, "not in this binary")
            .or_else("build it with `make build`, which builds the probe first")
    }
}

fn kernel(seen: &Seen) -> Finding {
    match host::kernel::parse(&seen.kernel) {
        None => finding("kernel", Verdict::Degraded, "its version cannot be read").or_else("mount /proc"),
        Some(version) if version < (5, 10) => finding("kernel", Verdict::Degraded, seen.kernel.clone())
            .or_else("5.10 is the oldest kernel that was tested"),
        Some(_) => finding("kernel", Verdict::Pass, seen.kernel.clone()),
    }
}

fn types_and_tracepoints(seen: &Seen) -> Finding {
    match &seen.types {
        Ok(absent) if absent.is_empty() => {
            finding("types", Verdict::Pass, format!("{} has all the probe needs", probe::BTF))
        }
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

fn port(seen: &Seen) -> Finding {
    match &seen.port {
        Port::Free => finding("port", Verdict::Pass, format!("{} is free", seen.listen)),
        Port::Ours => {
            finding("port", Verdict::Pass, format!("{} is served by an oom-watcher that runs already", seen.listen))
        }
        Port::Taken(error) => finding("port", Verdict::Fail, format!("{}: {error}", seen.listen))
            .or_else("stop what listens there, or set METRICS_PORT"),
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

fn node(seen: &Seen) -> Finding {
    match &seen.node {
        Ok(node @ Node::All(Reason::OwnAlone)) => finding("node", Verdict::Degraded, node.to_string())
            .or_else("mount the node's /sys/fs/cgroup, read-only, or set node_cgroup in the configuration file"),
        Ok(node) => finding("node", Verdict::Pass, node.to_string()),
        Err(why) => finding("node", Verdict::Fail, why.clone()).or_else("mend node_cgroup in the configuration file"),
    }
}

fn pods(seen: &Seen) -> Finding {
    let names = match &seen.pod_logs {
        Some(directory) => format!("kills in pods have the names in {}, if they are there", directory.display()),
        None => "kills in pods have uids and ids, no names".to_owned(),
    };
    match &seen.pods {
        None => finding("kubernetes", Verdict::Pass, format!("not asked: {names}")),
        Some(Ok(0)) => finding("kubernetes", Verdict::Degraded, "the API answers, but knows no pod of this node")
            .or_else("set NODE_NAME to the node's name in the cluster (fieldRef: spec.nodeName)"),
        Some(Ok(pods)) => finding("kubernetes", Verdict::Pass, format!("the API answers; pods on this node: {pods}")),
        Some(Err(why)) => finding("kubernetes", Verdict::Degraded, format!("{names}: {why}"))
            .or_else("mend that, or set OOM_WATCHER_KUBERNETES=false, and the API is not asked"),
    }
}

fn types(path: &Path) -> Result<Vec<&'static str>, String> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let btf = Btf::parse(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    let switches = layout::Switches { helpers: true, arguments: false, cpus: 1 };
    layout::resolve(&btf, switches).map_err(|missing| missing.to_string())?;
    Ok(probe::TRACEPOINTS.into_iter().filter(|tracepoint| !btf.has_tracepoint(tracepoint)).collect())
}

fn memory_controller(mountinfo: &str) -> Option<MemoryController> {
    // After " - ": file system type, source, options of the superblock. proc_pid_mountinfo(5).
    let mounts = || {
        mountinfo
            .lines()
            .filter_map(|line| line.split_once(" - "))
            .map(|(_, tail)| tail.split_whitespace().collect::<Vec<_>>())
    };
    let v1 = mounts().any(
        |mount| matches!(mount[..], ["cgroup", _, options] if options.split(',').any(|option| option == "memory")),
    );
    if v1 {
        return Some(MemoryController::V1);
    }
    mounts().any(|mount| mount.first() == Some(&"cgroup2")).then_some(MemoryController::V2)
}

#[cfg(test)]
mod tests;
