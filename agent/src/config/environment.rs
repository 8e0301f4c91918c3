//! The environment: the one place that asks the process for variables, and those of OpenTelemetry that have no effect.

use super::resolver::Resolver;

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
    ("OTEL_CONFIG_FILE", "OOM_WATCHER_CONFIG"),
    ("OTEL_ENTITIES", "OTEL_RESOURCE_ATTRIBUTES"),
    ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", ""),
    ("OTEL_EXPERIMENTAL_CONFIG_FILE", "OOM_WATCHER_CONFIG"),
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

/// Whoever sets a variable of the specification expects it to work.
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
