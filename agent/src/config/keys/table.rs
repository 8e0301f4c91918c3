//! The rows, in the order of the documentation.

use super::Command::{Check, Config, Detach, Run, Selftest};
use super::Kind::{
    Address, Auto, Boolean, DaemonSet, Duration, File, Filter, Name, NodeCgroup, Number, OneOf, Path, PodKeys, Port,
    Size, Specified,
};
use super::Unset::{Else, Value};
use super::{Bounds, Command, Flag, Key, Kind, Unset};
use crate::kubernetes::pod_logs;
use crate::source::probe::pins;
use crate::state;

/// Every setting.
pub const KEYS: &[Key] = &[
    // The file itself.
    Key::new(
        File,
        Else("/etc/oom-watcher/config.yaml, if it exists"),
        "The configuration file. `none`: no file, also not the one at the default path",
    )
    .flag("--config", "FILE", &[Run, Check, Selftest, Detach, Config])
    .variable("OOM_WATCHER_CONFIG"),
    // What a file can say.
    Key::in_file(
        "node_name",
        Name,
        Else("the host's name"),
        "Name of this node: the label `node` of every series. In a pod, set it from `spec.nodeName`",
    )
    .flag("--node-name", "NAME", &[Run, Check, Selftest, Config])
    .variable("NODE_NAME"),
    Key::in_file(
        "node_cgroup",
        NodeCgroup,
        Value("auto"),
        "Whose kills count if several nodes share one kernel (kind, k3d, LXC). `auto`: those below the memory cgroup \
         that is mounted where the agent runs",
    ),
    Key::in_file(
        "listen",
        Address,
        Value("0.0.0.0:8080"),
        "Address and port of /metrics. As a flag it also takes port 0, which means any free port",
    )
    .flag("--listen", "ADDR:PORT", &[Run, Check, Config]),
    Key::new(Port, Value("8080"), "Port of /metrics, at the address of `listen`")
        .flag("--metrics-port", "PORT", &[Run, Check, Config])
        .variable("METRICS_PORT"),
    Key::in_file("log.filter", Filter, Value("info"), "Which messages the agent writes to standard error")
        .flag("--log-filter", "FILTER", &[Run, Config])
        .variable("RUST_LOG"),
    Key::in_file(
        "log.format",
        OneOf(&["human", "json"]),
        Value("human"),
        "Format of the agent's messages: lines for people, or one JSON object per line",
    )
    .flag("--log-format", "FORMAT", &[Run, Selftest, Config]),
    Key::in_file(
        "probe.ring_bytes",
        Size(between("64KiB", "64MiB")),
        Value("1MiB"),
        "Memory for events that the agent has not read yet. When it is full, kills are counted without details",
    ),
    Key::in_file(
        "probe.pin_directory",
        Path,
        Value(pins::DEFAULT),
        "Directory in a BPF file system that keeps the probe loaded while no agent runs, so that no kill is missed",
    )
    .flag("--pin-dir", "DIR", &[Run, Check, Detach, Config])
    .variable("OOM_WATCHER_PIN_DIR"),
    Key::in_file(
        "probe.arguments",
        Boolean,
        Value("false"),
        "Whether to record the beginning of the victim's command line, which may contain secrets",
    ),
    Key::in_file(
        "series.max_owners",
        Number(between("1", "100000")),
        Value("2000"),
        "Maximum number of containers and units with series of their own",
    ),
    Key::in_file(
        "series.expiry",
        Duration(between("2m", "7d")),
        Value("1h"),
        "How long series stay after the last kill. Keep it longer than two scrape intervals",
    ),
    Key::in_file(
        "series.from_zero",
        OneOf(&["none", "kills", "incidents"]),
        Value("kills"),
        "Series that a container has at 0 before its first kill: none, `oom_kills_total`, or also \
         `oom_incidents_total`. Only containers that the Kubernetes API reports have them",
    ),
    Key::in_file(
        "kubernetes.enabled",
        Auto,
        Value("auto"),
        "Whether to read the pods of this node from the Kubernetes API. `auto`: in a pod, or with a kubeconfig",
    )
    .variable("OOM_WATCHER_KUBERNETES"),
    Key::in_file(
        "kubernetes.kubeconfig",
        Path,
        Value("none"),
        "Kubeconfig of an agent outside of the cluster. `none`: the service account of the agent's pod",
    ),
    Key::in_file(
        "kubernetes.labels",
        PodKeys,
        Value(""),
        "Labels of pods to record in log records and spans. They never become labels of series",
    ),
    Key::in_file(
        "kubernetes.annotations",
        PodKeys,
        Value(""),
        "Annotations of pods to record in log records and spans",
    ),
    Key::in_file(
        "kubernetes.container_wait",
        Duration(between("0s", "30s")),
        Value("5s"),
        "How long a kill waits until the Kubernetes API reports its container",
    ),
    Key::in_file(
        "kubernetes.pod_logs",
        Path,
        Value(pod_logs::DEFAULT),
        "Directory of the logs of pods. It has the names of pods that the Kubernetes API does not report",
    ),
    Key::in_file(
        "kubernetes.daemonset",
        DaemonSet,
        Value("none"),
        "The agent's own DaemonSet. If it is deleted, the agent removes its state, pins and spool from the node",
    )
    .variable("OOM_WATCHER_DAEMONSET"),
    Key::in_file(
        "state.directory",
        Path,
        Value(state::DEFAULT),
        "Directory for the counts, so that they survive a restart. `none`: they start at 0",
    )
    .flag("--state-dir", "DIR", &[Run, Check, Config])
    .variable("OOM_WATCHER_STATE_DIR"),
    Key::in_file(
        "export.spool_directory",
        Path,
        Value("none"),
        "Directory for log records and spans that the collector has not accepted yet, so that they survive a restart",
    )
    .variable("OOM_WATCHER_SPOOL_DIR"),
    Key::in_file(
        "shutdown_grace",
        Duration(between("1s", "10m")),
        Value("10s"),
        "How long the agent retries exports when it ends. Keep it shorter than the pod's \
         `terminationGracePeriodSeconds`",
    ),
    // What the environment alone can say: OpenTelemetry specifies it, or Kubernetes sets it.
    environment("OTEL_EXPORTER_PROMETHEUS_HOST", Value("0.0.0.0"), "IP address of /metrics, or localhost"),
    environment("OTEL_EXPORTER_PROMETHEUS_PORT", Value("8080"), "Port of /metrics. METRICS_PORT wins over it"),
    environment(
        "KUBERNETES_SERVICE_HOST",
        Else("none: not in a pod"),
        "Address of the Kubernetes API, with KUBERNETES_SERVICE_PORT. The kubelet sets both in every pod",
    ),
    environment("OTEL_SDK_DISABLED", Value("false"), "true: nothing is exported over OTLP"),
    environment(
        "OTEL_SERVICE_NAME",
        Value("oom-watcher"),
        "Resource attribute service.name. It wins over OTEL_RESOURCE_ATTRIBUTES",
    ),
    environment(
        "OTEL_RESOURCE_ATTRIBUTES",
        Else("none"),
        "More attributes of the resource: name=value,name=value, percent-encoded",
    ),
    environment("OTEL_LOGS_EXPORTER", Value("otlp"), "otlp or none"),
    environment("OTEL_TRACES_EXPORTER", Value("otlp"), "otlp or none"),
    environment(
        "OTEL_METRICS_EXPORTER",
        Value("otlp"),
        "otlp, prometheus or none. The last two leave /metrics alone, which is always served",
    ),
    environment(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        Else("none: nothing is exported"),
        "URL of the collector: http://, https:// or, for gRPC, unix://",
    )
    .per_signal(),
    environment("OTEL_EXPORTER_OTLP_PROTOCOL", Value("grpc"), "grpc or http/protobuf").per_signal(),
    environment(
        "OTEL_EXPORTER_OTLP_HEADERS",
        Else("none"),
        "Headers of each request: name=value,name=value, percent-encoded",
    )
    .per_signal(),
    environment("OTEL_EXPORTER_OTLP_COMPRESSION", Value("none"), "gzip or none").per_signal(),
    environment("OTEL_EXPORTER_OTLP_TIMEOUT", Value("10000"), "Timeout of one request, in milliseconds").per_signal(),
    environment(
        "OTEL_EXPORTER_OTLP_INSECURE",
        Value("false"),
        "No effect: the scheme of the endpoint says whether TLS is used",
    )
    .per_signal(),
    environment(
        "OTEL_EXPORTER_OTLP_CERTIFICATE",
        Else("the system's"),
        "PEM file with the certificate authorities that the collector's certificate is checked against",
    )
    .per_signal(),
    environment(
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE",
        Else("none"),
        "PEM file with the agent's own certificate, for mutual TLS",
    )
    .per_signal(),
    environment("OTEL_EXPORTER_OTLP_CLIENT_KEY", Else("none"), "PEM file with the key of that certificate")
        .per_signal(),
    environment(
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
        Value("cumulative"),
        "cumulative. Nothing else is supported",
    ),
    environment("OTEL_METRIC_EXPORT_INTERVAL", Value("60000"), "Time between two exports of metrics, in milliseconds"),
    environment(
        "OTEL_BLRP_MAX_QUEUE_SIZE",
        Value("2048"),
        "Maximum number of log records, and of spans, that are queued for the collector",
    ),
    environment(
        "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE",
        Value("512"),
        "Maximum number of log records, or of spans, in one request",
    ),
];

/// The sections of the file.
pub const SECTIONS: &[(&str, &str)] = &[
    ("log", "The agent's own messages"),
    ("probe", "The eBPF programs"),
    ("series", "The counts per container and unit, on /metrics"),
    ("kubernetes", "The pods of this node. The agent's service account needs list and watch of pods"),
    ("state", "What survives a restart of the agent"),
    ("export", "Delivery to the collector. The variables OTEL_* say where and how"),
];

impl Key {
    const fn new(kind: Kind, default: Unset, meaning: &'static str) -> Self {
        Self { file: None, flag: None, variable: None, per_signal: false, kind, default, meaning }
    }

    const fn in_file(name: &'static str, kind: Kind, default: Unset, meaning: &'static str) -> Self {
        Self { file: Some(name), ..Self::new(kind, default, meaning) }
    }

    const fn flag(self, name: &'static str, value: &'static str, commands: &'static [Command]) -> Self {
        Self { flag: Some(Flag { name, value, commands }), ..self }
    }

    const fn variable(self, name: &'static str) -> Self {
        Self { variable: Some(name), ..self }
    }

    const fn per_signal(self) -> Self {
        Self { per_signal: true, ..self }
    }
}

const fn environment(variable: &'static str, default: Unset, meaning: &'static str) -> Key {
    Key::new(Specified, default, meaning).variable(variable)
}

const fn between(min: &'static str, max: &'static str) -> Bounds {
    Bounds { min, max }
}
