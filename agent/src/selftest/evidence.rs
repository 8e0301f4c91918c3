//! What came of a kill, for a person to read: the series, the log record and the span as they left the agent.

use std::fmt::Write as _;
use std::io::{self, Write};

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::record::schema;

/// The lines of `/metrics` about one container.
pub fn series<'a>(text: &'a str, container: &str) -> impl Iterator<Item = &'a str> {
    let label = format!("container=\"{container}\"");
    text.lines().filter(move |line| line.contains(&label))
}

/// Whether a record or span with these attributes is about a process of the cgroup with this id: its name may not be
/// readable.
pub fn is_about(attributes: &[KeyValue], cgroup: u64) -> bool {
    let id = i64::try_from(cgroup).map(Value::IntValue).ok();
    attributes.iter().any(|attribute| {
        attribute.key == schema::CGROUP_ID.key
            && attribute.value.as_ref().and_then(|value| value.value.as_ref()) == id.as_ref()
    })
}

/// Prints all three.
///
/// # Errors
/// Those of `out`.
pub fn print(out: &mut impl Write, metrics: &str, container: &str, record: &LogRecord, span: &Span) -> io::Result<()> {
    writeln!(out, "\n--- /metrics")?;
    for line in
        metrics.lines().filter(|line| line.starts_with("oom_kills_per_node_total")).chain(series(metrics, container))
    {
        writeln!(out, "{line}")?;
    }
    writeln!(
        out,
        "\n--- OTLP log record {}, severity {}, trace {}",
        record.event_name,
        record.severity_text,
        hex(&record.trace_id)
    )?;
    writeln!(out, "{}", text(record.body.as_ref()))?;
    attributes(out, &record.attributes)?;
    writeln!(
        out,
        "\n--- OTLP span {}, trace {}, {:.1} ms, status: {}",
        span.name,
        hex(&span.trace_id),
        span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano) as f64 / 1e6,
        span.status.as_ref().map_or("", |status| &status.message)
    )?;
    let (shared, own): (Vec<_>, Vec<_>) =
        span.attributes.iter().cloned().partition(|attribute| record.attributes.contains(attribute));
    writeln!(out, "  {} attributes, the same as the record's", shared.len())?;
    attributes(out, &own)
}

/// Bytes in hexadecimal, as ids are written.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn attributes(out: &mut impl Write, attributes: &[KeyValue]) -> io::Result<()> {
    for attribute in attributes {
        writeln!(out, "  {} = {}", attribute.key, text(attribute.value.as_ref()))?;
    }
    Ok(())
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::IntValue(value)) => value.to_string(),
        Some(Value::DoubleValue(value)) => value.to_string(),
        Some(Value::ArrayValue(array)) => {
            format!("[{}]", array.values.iter().map(|value| text(Some(value))).collect::<Vec<_>>().join(", "))
        }
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}
