//! What this node allows: `oom-watcher check`. Inspects first ([`inspect`]), then judges ([`judge`], pure): each
//! finding says what to do about it.
//!
//! The last word has the probe itself: it is loaded, attached and detached again. The findings before it explain why it
//! fails.

mod attach;
mod finding;
mod lasting;
mod permissions;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use futures_util::future::join_all;

use crate::cgroups::hierarchy::{Hierarchy, Version};
use crate::cgroups::node::{Node, Reason};
use crate::config::{self, Warning};
use crate::export::{otlp, prometheus};
use crate::host;
use crate::kubernetes;
use crate::kubernetes::pod_logs::PodLogs;
use crate::privileges;
use crate::privileges::denial::Standing;
use crate::source::probe::{self, AttachError, Loaded, Probe};
use crate::stats::Signal;
pub use attach::Names;
pub use finding::{Finding, Report, Verdict};
use finding::{SEE, finding};
pub use lasting::Lasting;

/// A signal, its endpoint, and whether that answers.
type Asked = (Signal, String, Result<(), String>);

/// What was seen on this node, unjudged.
#[derive(Debug)]
pub struct Seen {
    /// What is probably not meant in the configuration.
    pub warnings: Vec<Warning>,
    /// Whether the probe is in this binary.
    pub object: bool,
    /// `uname -r`, empty if it cannot be read.
    pub kernel: String,
    /// What the kernel goes by when it allows the probe or denies it; absent if it cannot be read.
    pub standing: Option<Standing>,
    /// The size of the ring buffer, bytes.
    pub ring_bytes: u32,
    /// Whether the kernel's type information has all that the probe needs.
    pub types: Result<(), AttachError>,
    /// Which version of cgroups limits memory. Absent: none that can be reached from here.
    pub memory: Option<Version>,
    /// The text of the lockdown file; absent if it cannot be read.
    pub lockdown: Option<String>,
    /// Where `/metrics` is to be served.
    pub listen: SocketAddr,
    /// Whether that can be had.
    pub port: Port,
    /// Each signal that is exported, and whether its endpoint answers.
    pub endpoints: Vec<Asked>,
    /// The attempt to attach: where names come from, or why it failed.
    pub attached: Result<Names, AttachError>,
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

/// Looks at everything, with the capabilities of the calling thread, which it makes effective. Must be called inside a
/// Tokio runtime.
pub async fn inspect(configured: config::Loaded) -> Seen {
    let config::Loaded { config, warnings, .. } = configured;
    privileges::raise();
    let endpoints = [
        (Signal::Logs, &config.otlp.logs),
        (Signal::Traces, &config.otlp.traces),
        (Signal::Metrics, &config.otlp.metrics),
    ];
    let asked = endpoints.into_iter().filter_map(|(signal, endpoint)| Some((signal, endpoint.as_ref()?)));
    let asked = asked.map(async |(signal, endpoint)| {
        let answer = otlp::reach(signal, endpoint).await;
        (signal, endpoint.url.clone(), answer)
    });
    // Together: one that does not answer takes its whole timeout.
    let endpoints = join_all(asked).await;
    // Not pinned: it must not be in the way of an agent.
    let probe = Probe::attach(&probe::Config { pins: None, ..config.probe.clone() });
    Seen {
        warnings,
        object: probe::BUILD != "none",
        kernel: host::kernel::release().unwrap_or_default(),
        standing: Standing::of_this_thread().ok(),
        ring_bytes: config.probe.ring_bytes,
        types: probe::check_types(),
        memory: Hierarchy::find().ok().map(|hierarchy| hierarchy.version),
        lockdown: std::fs::read_to_string("/sys/kernel/security/lockdown").ok(),
        listen: config.listen,
        port: match prometheus::bind(config.listen) {
            Ok(_) => Port::Free,
            Err(_) if prometheus::is_served(config.listen).await => Port::Ours,
            Err(error) => Port::Taken(error),
        },
        endpoints,
        lasting: Lasting::inspect(&config),
        node: Node::find(&config.node_cgroup).map_err(|error| format!("{error:#}")),
        pod_logs: config.pod_logs.clone().filter(|pods| PodLogs::new(pods.clone()).are_there()),
        pods: match &config.kubernetes {
            Some(settings) => Some(kubernetes::watch::ask(settings).await.map_err(|error| format!("{error:#}"))),
            None => None,
        },
        programs: probe.as_ref().map(|probe| probe.programs().to_vec()).unwrap_or_default(),
        attached: probe.map(|probe| Names::inspect(&probe)),
    }
}

/// Judges what was seen. Pure. A cause has its remedy once, where it is looked for first: what follows from it refers
/// to that.
pub fn judge(seen: &Seen) -> Report {
    let mut findings: Vec<Finding> = seen.warnings.iter().map(configuration).collect();
    findings.extend([
        object(seen),
        kernel(seen),
        permissions::capabilities(seen),
        types(seen),
        memory(seen),
        lockdown(seen),
        permissions::locked_memory(seen),
        port(seen),
    ]);
    findings.extend(seen.endpoints.iter().map(|asked| endpoint(asked, &seen.endpoints)));
    let node = node(seen);
    findings.push(match &seen.attached {
        Ok(names) => names.judge(findings.iter().chain([&node])),
        Err(error) => attach::judge(error, &findings),
    });
    findings.extend(seen.lasting.judge(&seen.port));
    findings.extend([node, pods(seen)]);
    if !seen.programs.is_empty() {
        findings.push(finding(
            "programs",
            Verdict::Pass,
            seen.programs.iter().map(program).collect::<Vec<_>>().join("; "),
        ));
    }
    Report::of(findings)
}

/// A warning says itself what to do. That no endpoint is set is one of them.
fn configuration(warning: &Warning) -> Finding {
    finding("configuration", Verdict::Degraded, format!("{}: {}", warning.name, warning.text))
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

fn object(seen: &Seen) -> Finding {
    if seen.object {
        finding("probe", Verdict::Pass, format!("built in, {}", probe::BUILD))
    } else {
        finding("probe", Verdict::Fail, "not in this binary").or_else(AttachError::NoObject.remedy())
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

fn types(seen: &Seen) -> Finding {
    match &seen.types {
        Ok(()) => finding("types", Verdict::Pass, format!("{} has all the probe needs", probe::BTF)),
        Err(error) => finding("types", Verdict::Fail, error.problem()).or_else(error.remedy()),
    }
}

fn memory(seen: &Seen) -> Finding {
    match seen.memory {
        Some(Version::V2) => finding("cgroups", Verdict::Pass, "version 2"),
        Some(Version::V1) => finding("cgroups", Verdict::Pass, "version 1"),
        // The probe needs no mount.
        None => finding(
            "cgroups",
            Verdict::Degraded,
            "no memory cgroups are mounted here: the kernel's counts of kills cannot be read, and selftest cannot run",
        )
        .or_else("mount the host's /sys/fs/cgroup, read-only is enough for all but selftest"),
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
        Port::Taken(error) => {
            finding("port", Verdict::Fail, format!("{}: {error}", seen.listen)).or_else(prometheus::remedy(error))
        }
    }
}

fn otlp_name(signal: Signal) -> &'static str {
    match signal {
        Signal::Logs => "otlp logs",
        Signal::Traces => "otlp traces",
        Signal::Metrics => "otlp metrics",
    }
}

/// `all`: what fails for the same reason refers to the first of them.
fn endpoint((signal, url, answer): &Asked, all: &[Asked]) -> Finding {
    let (name, found) = (otlp_name(*signal), |found| format!("{url}{found}"));
    let Err(why) = answer else { return finding(name, Verdict::Pass, found(" answers".to_owned())) };
    let finding = finding(name, Verdict::Degraded, found(format!(": {why}")));
    match all.iter().find(|(_, _, answer)| answer.as_ref().is_err_and(|first| first == why)) {
        Some((first, ..)) if first != signal => finding.or_else(format!("{SEE}{}", otlp_name(*first))),
        _ => finding.or_else("start the collector or mend OTEL_EXPORTER_OTLP_*; log records and spans wait until then"),
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

#[cfg(test)]
mod tests;
