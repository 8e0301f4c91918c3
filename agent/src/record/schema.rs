//! Every public name in one place: metrics, attributes, the values of labels, the event and the span.
//!
//! Names are OpenTelemetry's; the Prometheus name of a metric follows from its name, unit and kind. What has no
//! convention is under `oom_watcher.`.

use crate::kill::Memory;

pub use attributes::*;

mod attributes;

/// Name and version of this are the instrumentation scope of everything that is sent.
pub const SCOPE_NAME: &str = "oom-watcher";

/// The event name of the log record of a kill.
pub const EVENT_NAME: &str = "oom_watcher.oom_kill";

/// The name of the span of a kill.
pub const SPAN_NAME: &str = "oom_kill";

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values by size.
    Histogram,
}

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// The instrument's name. Without `_total` and unit: the Prometheus bridge and every OTLP receiver of Prometheus
    /// add them.
    pub name: &'static str,
    /// The name on `/metrics`.
    pub prometheus: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The unit in UCUM; in braces it is an annotation, which is no part of the Prometheus name.
    pub unit: Option<&'static str>,
    /// The help text.
    pub help: &'static str,
    /// Names of its labels, sorted. Their names over OTLP are in [`LABELS`].
    pub labels: &'static [&'static str],
}

/// A label and the attribute that stands for it over OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The name on `/metrics`.
    pub prometheus: &'static str,
    /// The attribute's key over OTLP.
    pub otlp: &'static str,
    /// What it says.
    pub help: &'static str,
}

const NODE: &[&str] = &["node"];
const OWNER: &[&str] = &["container", "namespace", "node", "pod"];
const REASON: &[&str] = &["node", "reason"];
const SIGNAL: &[&str] = &["node", "signal"];

/// Declares the metrics and the list of them; the help text is the documentation too.
macro_rules! metrics {
    ($($id:ident = $kind:ident $name:literal, $prometheus:literal, $unit:expr, $labels:expr, $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $id: Metric = Metric {
                name: $name,
                prometheus: $prometheus,
                kind: Kind::$kind,
                unit: $unit,
                help: $help,
                labels: $labels,
            };
        )+

        /// All metrics.
        pub const METRICS: &[Metric] = &[$($id),+];
    };
}

metrics! {
    KILLS = Counter "oom_kills", "oom_kills_total", Some("{kill}"), OWNER,
        "Processes that the kernel's OOM killer killed";
    SURVIVED_KILLS = Counter "oom_survived_kills", "oom_survived_kills_total", Some("{kill}"), OWNER,
        "Kills that their container survived, so that Kubernetes shows nothing of them; absent before the first";
    KILLS_PER_NODE = Counter "oom_kills_per_node", "oom_kills_per_node_total", Some("{kill}"), NODE,
        "Processes that the kernel's OOM killer killed on the node, whoever owned them";
    MEMORY_USAGE = Gauge "oom_memory_usage", "oom_memory_usage_bytes", Some("By"),
        &["container", "memory_type", "namespace", "node", "pod"],
        "Memory of the largest victim of the last incident; a figure that the kernel did not tell is absent";
    LAST_TIMESTAMP = Gauge "oom_last_timestamp", "oom_last_timestamp", None, OWNER,
        "When the last process was killed, in seconds since 1970";
    INCIDENTS = Counter "oom_incidents", "oom_incidents_total", Some("{incident}"),
        &["container", "namespace", "node", "pod", "scope"],
        "Decisions of the OOM killer, each counted once, for the owner of its first victim; scope is whose limit was \
         hit";
    MEMORY_LIMIT = Gauge "oom_memory_limit", "oom_memory_limit_bytes", Some("By"), OWNER,
        "The limit that was hit at the last incident; absent if it was none, or unknown";
    RECLAIM = Histogram "oom_reclaim", "oom_reclaim_seconds", Some("s"), NODE,
        "From the kill until the victim's memory was free; where the kernel tells (6.1)";
    KILLS_DROPPED = Counter "oom_watcher.kills_dropped", "oom_watcher_kills_dropped_total", Some("{kill}"), REASON,
        "Kills of which the agent knows no more than that they happened";
    EVENTS_IGNORED = Counter "oom_watcher.events_ignored", "oom_watcher_events_ignored_total", Some("{event}"), REASON,
        "What looked like a kill and was none";
    MISSED_KILLS = Counter "oom_watcher.missed_kills", "oom_watcher_missed_kills_total", Some("{kill}"),
        &["node", "reason", "reconstructed"],
        "Kills that nobody saw, found in the kernel's counters; those that are reconstructed count for their owners";
    UNEXPLAINED_KILLS = Counter "oom_watcher.unexplained_kills", "oom_watcher_unexplained_kills_total", Some("{kill}"),
        NODE,
        "Kills that the kernel counted while the probe was attached, and the probe did not see";
    KERNEL_KILLS = Counter "oom_watcher.kernel_kills", "oom_watcher_kernel_kills_total", Some("{kill}"), NODE,
        "The kernel's own count since the node was booted: oom_kill of /proc/vmstat, the first victim of a group kill \
         usually twice; absent if it does not tell";
    KILLS_WITHOUT_OWNER = Counter "oom_watcher.kills_without_owner",
        "oom_watcher_kills_without_owner_total", Some("{kill}"),
        REASON,
        "Kills whose owner, or whose container in a known pod, could not be named";
    EXPORT_ITEMS = Counter "oom_watcher.export_items", "oom_watcher_export_items_total", Some("{item}"), SIGNAL,
        "Log records, spans and data points that the collector took";
    EXPORT_FAILURES = Counter "oom_watcher.export_failures", "oom_watcher_export_failures_total", Some("{request}"),
        SIGNAL,
        "Requests to the collector that failed; they are tried again";
    EXPORT_LOST = Counter "oom_watcher.export_lost", "oom_watcher_export_lost_total", Some("{item}"),
        &["node", "reason", "signal"],
        "Log records and spans that never reached the collector";
    EXPORT_QUEUE_ITEMS = Gauge "oom_watcher.export_queue_items", "oom_watcher_export_queue_items", Some("{item}"),
        SIGNAL,
        "Log records and spans that wait for the collector";
    EXPORT_QUEUE_BYTES = Gauge "oom_watcher.export_queue", "oom_watcher_export_queue_bytes", Some("By"), SIGNAL,
        "Memory of what waits for the collector, as it will be sent";
    EXPORT_SPOOL_BYTES = Gauge "oom_watcher.export_spool", "oom_watcher_export_spool_bytes", Some("By"), SIGNAL,
        "Size of the files in which what waits for the collector is kept; 0 without a spool";
    EXPORT_SPOOL_FAILURES = Counter "oom_watcher.export_spool_failures",
        "oom_watcher_export_spool_failures_total", Some("{attempt}"),
        SIGNAL,
        "Attempts to write these files that failed, which are tried again, and files that could not be used at the \
         start";
    SERIES = Gauge "oom_watcher.series", "oom_watcher_series", Some("{series}"), NODE,
        "Owners that have series of their own";
    SERIES_OVERFLOW_KILLS = Counter "oom_watcher.series_overflow_kills",
        "oom_watcher_series_overflow_kills_total", Some("{kill}"),
        NODE,
        "Kills counted on the overflow series because no owner could get series of its own";
    SERIES_LIMIT = Gauge "oom_watcher.series_limit", "oom_watcher_series_limit", Some("{series}"), NODE,
        "Owners that may have series of their own";
    PROBE_ATTACHED = Gauge "oom_watcher.probe_attached", "oom_watcher_probe_attached", None, NODE,
        "1 while the probe is attached to the kernel, else 0";
    PROBE_PINNED = Gauge "oom_watcher.probe_pinned", "oom_watcher_probe_pinned", None, NODE,
        "1 if the attached probe outlives the agent, so that kills while no agent runs are kept, else 0";
    PODS = Gauge "oom_watcher.pods", "oom_watcher_pods", Some("{pod}"), NODE,
        "Pods of the node that are known from the Kubernetes API; absent if it is not asked";
    PODS_SYNCED = Gauge "oom_watcher.pods_synced", "oom_watcher_pods_synced", None, NODE,
        "1 while all pods of the node are known and their changes are told, 0 while the Kubernetes API cannot be asked \
         or knows no pod of the node; absent if it is not to be asked";
    PODS_LEFT_OUT = Counter "oom_watcher.pods_left_out", "oom_watcher_pods_left_out_total", Some("{pod}"), NODE,
        "Pods that were told while as many as can be kept were known: kills in them have what the cgroup tells; absent \
         if the Kubernetes API is not to be asked";
    WAITING_KILLS = Gauge "oom_watcher.waiting_kills", "oom_watcher_waiting_kills", Some("{kill}"), NODE,
        "Kills that wait for their container to be known, and what was killed after them; those of this node are \
         counted for it already";
    BUILD_INFO = Gauge "oom_watcher.build_info", "oom_watcher_build_info", None, &["node", "probe", "version"],
        "Always 1; the labels say which agent and which probe run";
    CONNECTIONS_REFUSED = Counter "oom_watcher.connections_refused",
        "oom_watcher_connections_refused_total", Some("{connection}"),
        NODE,
        "Connections to the metrics port that were refused because too many were open";
    LOG_LINES_LOST = Counter "oom_watcher.log_lines_lost", "oom_watcher_log_lines_lost_total", Some("{line}"), NODE,
        "Lines of the agent's own log that were left out because nobody read its standard error";
}

/// All labels.
pub const LABELS: &[Label] = &[
    Label {
        prometheus: "container",
        otlp: K8S_CONTAINER_NAME.key,
        help: "The container's name or short id, the unit's name, or empty",
    },
    Label { prometheus: "memory_type", otlp: "oom_watcher.memory.type", help: "Which memory: see `memory_types`" },
    Label { prometheus: "namespace", otlp: K8S_NAMESPACE_NAME.key, help: "The pod's namespace, or empty" },
    Label { prometheus: "node", otlp: K8S_NODE_NAME.key, help: "The node" },
    Label { prometheus: "pod", otlp: K8S_POD_NAME.key, help: "The pod's name, or empty" },
    Label { prometheus: "probe", otlp: "oom_watcher.probe", help: "The build of the probe" },
    Label { prometheus: "reason", otlp: "oom_watcher.reason", help: "Why" },
    Label {
        prometheus: "reconstructed",
        otlp: "oom_watcher.reconstructed",
        help: "true if the kernel's counters tell whose kill it was, else false",
    },
    Label {
        prometheus: "scope",
        otlp: SCOPE_TYPE.key,
        help: "Whose limit was hit: container, pod, kubepods, cgroup, node or unknown",
    },
    Label { prometheus: "signal", otlp: "oom_watcher.signal", help: "logs, traces or metrics" },
    Label { prometheus: "version", otlp: "oom_watcher.version", help: "The agent's version" },
];

/// Values of `reason`. Those of [`KILLS_WITHOUT_OWNER`] are [`Why::as_str`](crate::kill::Why::as_str), those of
/// [`MISSED_KILLS`] `away` and `dropped`.
pub mod reason {
    /// [`KILLS_DROPPED`](super::KILLS_DROPPED): the event found no room in the ring buffer.
    pub const RING_FULL: &str = "ring_full";
    /// [`KILLS_DROPPED`](super::KILLS_DROPPED): the event was not of the expected form.
    pub const MALFORMED: &str = "malformed";
    /// [`EVENTS_IGNORED`](super::EVENTS_IGNORED): a dying task got memory reserves and was not killed.
    pub const MARK_WITHOUT_KILL: &str = "mark_without_kill";
    /// [`EVENTS_IGNORED`](super::EVENTS_IGNORED): a SIGKILL of the kernel's own that was no OOM kill, and is none of
    /// the three below.
    pub const SIGNAL_WITHOUT_MARK: &str = "signal_without_mark";
    /// [`EVENTS_IGNORED`](super::EVENTS_IGNORED): the first victim of a group kill, met again; the kernel's own
    /// counters count it twice.
    pub const REPEATED: &str = "repeated";
    /// [`EVENTS_IGNORED`](super::EVENTS_IGNORED): a process that shared its memory with a victim and dies with it.
    pub const SHARED_MEMORY: &str = "shared_memory";
    /// [`EVENTS_IGNORED`](super::EVENTS_IGNORED): a process that a dying first process of its pid namespace took along.
    pub const COLLATERAL: &str = "collateral";
    /// [`EVENTS_IGNORED`](super::EVENTS_IGNORED): the same kill delivered again.
    pub const DUPLICATE: &str = "duplicate";
    /// [`EVENTS_IGNORED`](super::EVENTS_IGNORED): a kill on another node of the same kernel; also one that nobody saw
    /// and no cgroup of this node tells of.
    pub const OTHER_NODE: &str = "other_node";
    /// [`EXPORT_LOST`](super::EXPORT_LOST): the queue was full.
    pub const QUEUE_FULL: &str = "queue_full";
    /// [`EXPORT_LOST`](super::EXPORT_LOST): the collector refused it for good.
    pub const REJECTED: &str = "rejected";
    /// [`EXPORT_LOST`](super::EXPORT_LOST): still waiting when the agent ended.
    pub const SHUTDOWN: &str = "shutdown";
}

/// Upper bounds of [`RECLAIM`]'s buckets in seconds. A process of 2 MiB takes 1 ms, one of 1 GiB 100 ms; the kernel's
/// reaper starts after 2 s.
pub const RECLAIM_BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// The values of `memory_type`, each with its figure in bytes.
pub fn memory_types(memory: &Memory) -> [(&'static str, Option<u64>); 6] {
    [
        ("anon_rss", memory.anon_rss),
        ("file_rss", memory.file_rss),
        ("pgtables", memory.pgtables),
        ("shmem_rss", memory.shmem_rss),
        ("swap", memory.swap),
        ("total_vm", memory.total_vm),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_prometheus_name_follows_from_name_unit_and_kind() {
        for metric in METRICS {
            let unit = match metric.unit {
                None => "",
                Some("By") => "_bytes",
                Some("s") => "_seconds",
                // The bridge makes nothing of an annotation; any other unit would become part of the name.
                Some(unit) => {
                    assert!(unit.starts_with('{') && unit.ends_with('}'), "{}: {unit}", metric.name);
                    ""
                }
            };
            let total = if metric.kind == Kind::Counter { "_total" } else { "" };
            assert_eq!(metric.prometheus, format!("{}{unit}{total}", metric.name.replace('.', "_")));
        }
    }

    #[test]
    fn names_are_unique_and_labels_are_sorted_and_explained() {
        let unique: BTreeSet<_> = METRICS.iter().map(|metric| metric.prometheus).collect();
        assert_eq!(unique.len(), METRICS.len());
        assert!(LABELS.is_sorted_by(|a, b| a.prometheus < b.prometheus));
        for metric in METRICS {
            assert!(metric.labels.is_sorted_by(|a, b| a < b), "{}", metric.name);
            assert!(metric.labels.contains(&"node"), "{}", metric.name);
            for label in metric.labels {
                assert!(LABELS.iter().any(|known| known.prometheus == *label), "{label} of {}", metric.name);
            }
        }
    }

    #[test]
    fn each_label_is_used_and_has_an_attribute_of_its_own() {
        let used: BTreeSet<_> = METRICS.iter().flat_map(|metric| metric.labels.iter().copied()).collect();
        assert_eq!(used, LABELS.iter().map(|label| label.prometheus).collect());
        assert_eq!(LABELS.iter().map(|label| label.otlp).collect::<BTreeSet<_>>().len(), LABELS.len());
    }

    #[test]
    fn memory_types_are_those_of_the_contract() {
        let names: BTreeSet<_> = memory_types(&Memory::default()).map(|(name, _)| name).into();
        assert_eq!(names, BTreeSet::from(["total_vm", "anon_rss", "file_rss", "shmem_rss", "swap", "pgtables"]));
        let memory = Memory { swap: Some(1), ..Memory::default() };
        assert_eq!(memory_types(&memory).into_iter().find(|(_, bytes)| bytes.is_some()), Some(("swap", Some(1))));
    }
}
