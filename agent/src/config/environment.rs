//! The environment: which variables are read, which of OpenTelemetry's are not, and the one place that asks the process
//! for them.

use super::resolver::Resolver;
use crate::stats::Signal;

/// A variable that the agent reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name, for all signals.
    pub name: &'static str,
    /// Whether a signal can have its own: `OTEL_EXPORTER_OTLP_LOGS_ENDPOINT` and so on.
    pub per_signal: bool,
    /// What applies when it is not set or empty.
    pub default: &'static str,
    /// What it says.
    pub meaning: &'static str,
}

impl Variable {
    /// The names that are read: its own, then those of the signals.
    pub fn names(&self) -> impl Iterator<Item = String> {
        let per_signal = self.name.strip_prefix("OTEL_EXPORTER_OTLP_").filter(|_| self.per_signal);
        let signals = per_signal.into_iter().flat_map(|rest| {
            Signal::ALL.map(|signal| format!("OTEL_EXPORTER_OTLP_{}_{rest}", signal.as_str().to_uppercase()))
        });
        std::iter::once(self.name.to_owned()).chain(signals)
    }
}

/// All variables that the agent reads.
pub const VARIABLES: &[Variable] = &[
    general("NODE_NAME", "the host's name", "the name of this node, the label `node` of every series"),
    general("METRICS_PORT", "8080", "the port of /metrics"),
    general(
        "OOM_WATCHER_STATE_DIR",
        "/run/oom-watcher",
        "where the state is kept that outlives the agent; none: nowhere",
    ),
    general(
        "OOM_WATCHER_SPOOL_DIR",
        "none",
        "where what waits for the collector is kept too, so that it outlives the agent",
    ),
    general(
        "KUBERNETES_SERVICE_HOST",
        "none: not in a pod",
        "where the Kubernetes API is, with KUBERNETES_SERVICE_PORT; each kubelet sets both for its pods",
    ),
    general(
        "OOM_WATCHER_KUBERNETES",
        "auto",
        "whether the Kubernetes API is asked for this node's pods: auto (in a pod, or with a kubeconfig), true or \
         false",
    ),
    general(
        "OOM_WATCHER_DAEMONSET",
        "none",
        "NAMESPACE/NAME of the agent's own DaemonSet: if that is gone when the agent ends, state, pins and spool are \
         removed from the node",
    ),
    general("RUST_LOG", "info", "which of the agent's own messages are written"),
    general("OOM_WATCHER_PIN_DIR", "/sys/fs/bpf/oom-watcher", "where in bpffs the probe outlives the agent, or none"),
    general("OTEL_SDK_DISABLED", "false", "true: nothing is exported over OTLP"),
    general("OTEL_SERVICE_NAME", "oom-watcher", "the attribute service.name; wins over OTEL_RESOURCE_ATTRIBUTES"),
    general(
        "OTEL_RESOURCE_ATTRIBUTES",
        "none",
        "more attributes of the resource: name=value,name=value, percent-encoded",
    ),
    general("OTEL_LOGS_EXPORTER", "otlp", "otlp or none"),
    general("OTEL_TRACES_EXPORTER", "otlp", "otlp or none"),
    general("OTEL_METRICS_EXPORTER", "otlp", "otlp, prometheus (/metrics alone) or none; /metrics is always served"),
    otlp(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "none: nothing is exported",
        "the collector: http://, https:// or, for gRPC, unix://",
    ),
    otlp("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "grpc or http/protobuf"),
    otlp("OTEL_EXPORTER_OTLP_HEADERS", "none", "sent with each request: name=value,name=value, percent-encoded"),
    otlp("OTEL_EXPORTER_OTLP_COMPRESSION", "none", "gzip or none"),
    otlp("OTEL_EXPORTER_OTLP_TIMEOUT", "10000", "milliseconds for one request"),
    otlp("OTEL_EXPORTER_OTLP_INSECURE", "false", "no effect: the endpoint's scheme says whether there is TLS"),
    otlp("OTEL_EXPORTER_OTLP_CERTIFICATE", "the system's", "PEM file: whom to trust"),
    otlp("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "none", "PEM file: our own certificate, for mutual TLS"),
    otlp("OTEL_EXPORTER_OTLP_CLIENT_KEY", "none", "PEM file: its key"),
    general("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "cumulative", "cumulative; nothing else is supported"),
    general("OTEL_METRIC_EXPORT_INTERVAL", "60000", "milliseconds between two exports of data points"),
    general("OTEL_BLRP_MAX_QUEUE_SIZE", "2048", "log records, and spans, that may wait for the collector"),
    general("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "512", "log records, or spans, in one request"),
    general("OTEL_EXPORTER_PROMETHEUS_HOST", "0.0.0.0", "the address of /metrics"),
    general("OTEL_EXPORTER_PROMETHEUS_PORT", "8080", "the port of /metrics; METRICS_PORT wins"),
];

const fn general(name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable { name, per_signal: false, default, meaning }
}

const fn otlp(name: &'static str, default: &'static str, meaning: &'static str) -> Variable {
    Variable { name, per_signal: true, default, meaning }
}

/// Variables of the OpenTelemetry specification that have no effect here, and what has.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("OTEL_ATTRIBUTE_COUNT_LIMIT", ""),
    ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", ""),
    ("OTEL_BLRP_EXPORT_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"),
    ("OTEL_BLRP_SCHEDULE_DELAY", ""),
    ("OTEL_BSP_EXPORT_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"),
    ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_BLRP_MAX_EXPORT_BATCH_SIZE"),
    ("OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BLRP_MAX_QUEUE_SIZE"),
    ("OTEL_BSP_SCHEDULE_DELAY", ""),
    ("OTEL_CONFIG_FILE", "--config"),
    ("OTEL_ENTITIES", "OTEL_RESOURCE_ATTRIBUTES"),
    ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", ""),
    ("OTEL_EXPERIMENTAL_CONFIG_FILE", "--config"),
    ("OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION", ""),
    ("OTEL_EXPORTER_OTLP_METRIC_INSECURE", "the scheme of OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"),
    ("OTEL_EXPORTER_OTLP_SPAN_INSECURE", "the scheme of OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
    ("OTEL_EXPORTER_ZIPKIN_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
    ("OTEL_EXPORTER_ZIPKIN_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"),
    ("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", ""),
    ("OTEL_LOGRECORD_ATTRIBUTE_COUNT_LIMIT", ""),
    ("OTEL_LOGRECORD_ATTRIBUTE_VALUE_LENGTH_LIMIT", ""),
    ("OTEL_LOG_LEVEL", "RUST_LOG"),
    ("OTEL_METRICS_EXEMPLAR_FILTER", ""),
    ("OTEL_METRIC_EXPORT_TIMEOUT", "OTEL_EXPORTER_OTLP_METRICS_TIMEOUT"),
    ("OTEL_PROPAGATORS", ""),
    ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", ""),
    ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", ""),
    ("OTEL_SPAN_EVENT_COUNT_LIMIT", ""),
    ("OTEL_SPAN_LINK_COUNT_LIMIT", ""),
    ("OTEL_TRACES_SAMPLER", ""),
    ("OTEL_TRACES_SAMPLER_ARG", ""),
];

/// Asks the environment of this process. Bytes that are not UTF-8 are replaced, and what is replaced is refused by
/// `load`.
pub fn from_process(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

/// Who sets a variable of the specification believes that it works.
pub(super) fn warn_unsupported(r: &mut Resolver<'_>) {
    for (name, instead) in UNSUPPORTED {
        if r.variable(name).is_some() {
            let instead = if instead.is_empty() { String::new() } else { format!("; {instead} has one") };
            r.warn(*name, format!("not supported, it has no effect{instead}"));
        }
    }
}

/// The names of the variables that are only warned about.
#[cfg(test)]
pub(super) fn unsupported() -> impl Iterator<Item = &'static str> {
    UNSUPPORTED.iter().map(|(name, _)| *name)
}
