//! Log records and spans as bytes of their own, which wait in memory and on disk; and requests of those.

use opentelemetry::InstrumentationScope;
use opentelemetry_http::Bytes;
use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::logs::tonic::group_logs_by_resource_and_scope;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::logs::{LogBatch, SdkLogRecord};
use opentelemetry_sdk::trace::SpanData;
use prost::Message as _;
use tracing::warn;

/// A request with one log record.
pub(super) fn log(record: &SdkLogRecord, scope: &InstrumentationScope, resource: &ResourceAttributesWithSchema) -> Bytes {
    let resource_logs = group_logs_by_resource_and_scope(&LogBatch::new(&[(record, scope)]), resource);
    ExportLogsServiceRequest { resource_logs }.encode_to_vec().into()
}

/// A request with one span.
pub(super) fn span(span: SpanData, resource: &ResourceAttributesWithSchema) -> Bytes {
    let resource_spans = group_spans_by_resource_and_scope(vec![span], resource);
    ExportTraceServiceRequest { resource_spans }.encode_to_vec().into()
}

/// One request of many: what has the same resource and scope as the one before goes with it.
pub(super) fn logs(items: &[Bytes]) -> ExportLogsServiceRequest {
    let mut all = ExportLogsServiceRequest::default();
    for next in items.iter().filter_map(decode::<ExportLogsServiceRequest>).flat_map(|request| request.resource_logs) {
        match all.resource_logs.last_mut() {
            Some(last) if last.resource == next.resource && last.schema_url == next.schema_url => {
                for next in next.scope_logs {
                    match last.scope_logs.last_mut() {
                        Some(last) if last.scope == next.scope && last.schema_url == next.schema_url => last.log_records.extend(next.log_records),
                        _ => last.scope_logs.push(next),
                    }
                }
            }
            _ => all.resource_logs.push(next),
        }
    }
    all
}

/// The same of spans.
pub(super) fn spans(items: &[Bytes]) -> ExportTraceServiceRequest {
    let mut all = ExportTraceServiceRequest::default();
    for next in items.iter().filter_map(decode::<ExportTraceServiceRequest>).flat_map(|request| request.resource_spans) {
        match all.resource_spans.last_mut() {
            Some(last) if last.resource == next.resource && last.schema_url == next.schema_url => {
                for next in next.scope_spans {
                    match last.scope_spans.last_mut() {
                        Some(last) if last.scope == next.scope && last.schema_url == next.schema_url => last.spans.extend(next.spans),
                        _ => last.scope_spans.push(next),
                    }
                }
            }
            _ => all.resource_spans.push(next),
        }
    }
    all
}

/// What was encoded here, or by another version and has come over the disk with its checksum.
fn decode<T: prost::Message + Default>(bytes: &Bytes) -> Option<T> {
    T::decode(bytes.as_ref()).inspect_err(|error| warn!(%error, "an item of the spool is none of this signal's")).ok()
}
