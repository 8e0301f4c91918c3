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

/// One request of many: what has the same resource and scope as the one before goes with it. Also how many items cannot be understood, and are not in it.
pub(super) fn logs(items: &[Bytes]) -> (ExportLogsServiceRequest, u64) {
    let mut all = ExportLogsServiceRequest::default();
    let (requests, unreadable) = decode::<ExportLogsServiceRequest>(items);
    for next in requests.into_iter().flat_map(|request| request.resource_logs) {
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
    (all, unreadable)
}

/// The same of spans.
pub(super) fn spans(items: &[Bytes]) -> (ExportTraceServiceRequest, u64) {
    let mut all = ExportTraceServiceRequest::default();
    let (requests, unreadable) = decode::<ExportTraceServiceRequest>(items);
    for next in requests.into_iter().flat_map(|request| request.resource_spans) {
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
    (all, unreadable)
}

/// What was encoded here, or by another version and has come over the disk with its checksum; and how many of them are none.
fn decode<T: prost::Message + Default>(items: &[Bytes]) -> (Vec<T>, u64) {
    let read = |bytes: &Bytes| T::decode(bytes.as_ref()).inspect_err(|error| warn!(%error, "an item of the spool is none of this signal's")).ok();
    let requests: Vec<_> = items.iter().filter_map(read).collect();
    let unreadable = (items.len() - requests.len()) as u64;
    (requests, unreadable)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
    use opentelemetry_proto::tonic::resource::v1::Resource;

    use super::*;

    /// A request as one item is: of an agent, which differs in this, and with one record.
    fn item(agent: u32, record: u64) -> Bytes {
        let resource = Some(Resource { dropped_attributes_count: agent, ..Resource::default() });
        let scope_logs = vec![ScopeLogs { log_records: vec![LogRecord { time_unix_nano: record, ..LogRecord::default() }], ..ScopeLogs::default() }];
        ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { resource, scope_logs, ..ResourceLogs::default() }] }.encode_to_vec().into()
    }

    #[test]
    fn items_of_one_agent_go_together_and_what_is_none_is_counted() {
        let items = [item(1, 1), item(1, 2), Bytes::from_static(&[0xff]), item(2, 3), item(2, 4)];
        let (request, unreadable) = logs(&items);
        let times = |logs: &ResourceLogs| {
            logs.scope_logs.iter().map(|scope| scope.log_records.iter().map(|record| record.time_unix_nano).collect()).collect()
        };
        let found: Vec<Vec<Vec<u64>>> = request.resource_logs.iter().map(times).collect();
        assert_eq!((found, unreadable), (vec![vec![vec![1, 2]], vec![vec![3, 4]]], 1));
    }
}
