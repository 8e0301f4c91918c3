//! Log records and spans as bytes of their own, which wait in memory and on disk; and requests of those, which are
//! merged as bytes: nothing is decoded again.
//!
//! The requests of all signals have one shape (opentelemetry/proto/collector/*/v1/*_service.proto): a list of resources
//! (field 1), each the resource (1), a list of scopes (2) and a schema URL (3); each scope the scope (1), a list of
//! items (2) and a schema URL (3).

use opentelemetry::InstrumentationScope;
use opentelemetry_http::Bytes;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_sdk::logs::SdkLogRecord;
use opentelemetry_sdk::trace::SpanData;
use prost::{Message, decode_length_delimiter, length_delimiter_len};
use tracing::warn;

/// The list of resources in a request.
const RESOURCES: u8 = 1;
/// The list of scopes in a resource, and that of items in a scope.
const LIST: u8 = 2;
/// The wire type of fields that begin with their length.
const LENGTH_DELIMITED: u8 = 2;

/// What all items of this agent have in common, encoded once: the resource without its scopes.
#[derive(Debug)]
pub(super) struct Envelope(Vec<u8>);

impl Envelope {
    pub(super) fn new(resource: &ResourceAttributesWithSchema) -> Self {
        let attributes = resource.attributes.0.clone();
        let schema_url = resource.schema_url.clone().unwrap_or_default();
        // Those of spans and of data points have the same fields.
        let frame = ResourceLogs {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_logs: Vec::new(),
            schema_url,
        };
        Self(frame.encode_to_vec())
    }

    /// A request with one log record.
    pub(super) fn log(&self, record: &SdkLogRecord, scope: &InstrumentationScope) -> Bytes {
        self.item(scope, &LogRecord::from(record))
    }

    /// A request with one span.
    pub(super) fn span(&self, span: SpanData) -> Bytes {
        let scope = span.instrumentation_scope.clone();
        self.item(&scope, &Span::from(span))
    }

    fn item(&self, scope: &InstrumentationScope, item: &impl Message) -> Bytes {
        let schema_url = scope.schema_url().unwrap_or_default().to_owned();
        let scope =
            ScopeLogs { scope: Some((scope, None).into()), log_records: Vec::new(), schema_url }.encode_to_vec();
        let item_bytes = item.encoded_len();
        let scope_bytes = scope.len() + field_bytes(item_bytes);
        let resource_bytes = self.0.len() + field_bytes(scope_bytes);
        let mut bytes = Vec::with_capacity(field_bytes(resource_bytes));
        begin(&mut bytes, RESOURCES, resource_bytes);
        bytes.extend_from_slice(&self.0);
        begin(&mut bytes, LIST, scope_bytes);
        bytes.extend_from_slice(&scope);
        begin(&mut bytes, LIST, item_bytes);
        item.encode_raw(&mut bytes);
        bytes.into()
    }
}

/// One request of many: what has the same resource and scope as the one before goes with it. Also how many items cannot
/// be understood, and are not in it.
pub(super) fn merge(items: &[Bytes]) -> (Bytes, u64) {
    let (mut resources, mut unreadable) = (Vec::<Resources<'_>>::new(), 0);
    for item in items {
        match read(item) {
            Some(found) => found.into_iter().for_each(|found| add(&mut resources, found)),
            // Of another version, and come over the disk with its checksum.
            None => unreadable += 1,
        }
    }
    if unreadable > 0 {
        warn!(unreadable, "items of the spool are none of this signal's");
    }
    let mut bytes = Vec::with_capacity(resources.iter().map(|resource| field_bytes(resource.bytes())).sum());
    for resource in &resources {
        begin(&mut bytes, RESOURCES, resource.bytes());
        bytes.extend_from_slice(resource.frame.before);
        for scope in &resource.scopes {
            begin(&mut bytes, LIST, scope.bytes());
            bytes.extend_from_slice(scope.frame.before);
            scope.items.iter().for_each(|items| bytes.extend_from_slice(items));
            bytes.extend_from_slice(scope.frame.after);
        }
        bytes.extend_from_slice(resource.frame.after);
    }
    (bytes.into(), unreadable)
}

/// A message without its list: what is before that, and what is behind it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Frame<'a> {
    before: &'a [u8],
    after: &'a [u8],
}

/// A resource and what of it is sent.
struct Resources<'a> {
    frame: Frame<'a>,
    scopes: Vec<Scopes<'a>>,
}

/// A scope and its items: runs of them, each with its tag and its length.
struct Scopes<'a> {
    frame: Frame<'a>,
    items: Vec<&'a [u8]>,
}

impl Resources<'_> {
    fn bytes(&self) -> usize {
        self.frame.bytes() + self.scopes.iter().map(|scope| field_bytes(scope.bytes())).sum::<usize>()
    }
}

impl Scopes<'_> {
    fn bytes(&self) -> usize {
        self.frame.bytes() + self.items.iter().map(|items| items.len()).sum::<usize>()
    }
}

impl Frame<'_> {
    fn bytes(&self) -> usize {
        self.before.len() + self.after.len()
    }
}

fn add<'a>(resources: &mut Vec<Resources<'a>>, found: Resources<'a>) {
    match resources.last_mut() {
        Some(last) if last.frame == found.frame => {
            for scope in found.scopes {
                match last.scopes.last_mut() {
                    Some(last) if last.frame == scope.frame => last.items.extend(scope.items),
                    _ => last.scopes.push(scope),
                }
            }
        }
        _ => resources.push(found),
    }
}

/// What a request is made of. `None`: it is none.
fn read(request: &[u8]) -> Option<Vec<Resources<'_>>> {
    let (frame, resources) = list(request, RESOURCES)?;
    let scope = |bytes| list(bytes, LIST).map(|(frame, items)| Scopes { frame, items: vec![items] });
    let resource = |bytes| {
        let (frame, scopes) = list(bytes, LIST)?;
        Some(Resources { frame, scopes: contents(scopes).map(scope).collect::<Option<_>>()? })
    };
    if frame.bytes() > 0 { None } else { contents(resources).map(resource).collect() }
}

/// A message without the fields of that number, which follow each other, and these. `None`: it is no such message.
fn list(message: &[u8], number: u8) -> Option<(Frame<'_>, &[u8])> {
    let (mut rest, mut begin, mut end) = (message, None, message.len());
    while !rest.is_empty() {
        let at = message.len() - rest.len();
        if field(&mut rest)?.0 == number {
            if begin.is_some() && end != at {
                return None;
            }
            begin = begin.or(Some(at));
            end = message.len() - rest.len();
        }
    }
    let (before, rest) = message.split_at_checked(begin.unwrap_or(end))?;
    let (fields, after) = rest.split_at_checked(end - before.len())?;
    Some((Frame { before, after }, fields))
}

/// What is in fields that were read before.
fn contents(mut fields: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || field(&mut fields).map(|(_, content)| content))
}

/// Takes the first field: its number and what is in it. `None`: it is none that has a length, or its number is above
/// 15; there are none such in the messages here.
fn field<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (key, mut behind) = rest.split_first()?;
    if key & 0x87 != LENGTH_DELIMITED {
        return None;
    }
    let length = decode_length_delimiter(&mut behind).ok()?;
    let (content, behind) = behind.split_at_checked(length)?;
    *rest = behind;
    Some((key >> 3, content))
}

/// Begins a field of so many bytes.
fn begin(bytes: &mut Vec<u8>, number: u8, length: usize) {
    bytes.push(number << 3 | LENGTH_DELIMITED);
    let mut rest = length;
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
}

/// Bytes of a field with so many in it.
fn field_bytes(length: usize) -> usize {
    1 + length_delimiter_len(length) + length
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use opentelemetry::KeyValue;
    use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
    use opentelemetry_proto::tonic::logs::v1::ScopeLogs;
    use opentelemetry_sdk::Resource as SdkResource;

    use super::*;

    /// A request as one item is: of an agent and a scope of these names, and with one record of so many bytes.
    fn item(agent: &str, scope: &str, record: u64, bytes: usize) -> Bytes {
        let resource = SdkResource::builder_empty()
            .with_schema_url([KeyValue::new("agent", agent.to_owned())], "of the resource")
            .build();
        let scope = InstrumentationScope::builder(scope.to_owned()).with_schema_url("of the scope").build();
        let record = LogRecord { time_unix_nano: record, severity_text: "x".repeat(bytes), ..LogRecord::default() };
        Envelope::new(&ResourceAttributesWithSchema::from(&resource)).item(&scope, &record)
    }

    /// Of each resource its scopes, and of these the records' times.
    fn told(request: &[u8]) -> Vec<Vec<(String, Vec<u64>)>> {
        let request = ExportLogsServiceRequest::decode(request).unwrap();
        let scope = |scope: &ScopeLogs| {
            assert_eq!(scope.schema_url, "of the scope");
            (scope.scope.clone().unwrap().name, scope.log_records.iter().map(|record| record.time_unix_nano).collect())
        };
        let resource = |logs: &ResourceLogs| {
            assert_eq!(
                (logs.schema_url.as_str(), logs.resource.clone().unwrap().attributes.len()),
                ("of the resource", 1)
            );
            logs.scope_logs.iter().map(scope).collect()
        };
        request.resource_logs.iter().map(resource).collect()
    }

    #[test]
    fn items_of_one_agent_and_scope_go_together() {
        let items = [
            item("1", "a", 1, 0),
            item("1", "a", 2, 1 << 20),
            item("1", "b", 3, 5),
            item("2", "b", 4, 200),
            item("2", "b", 5, 20_000),
        ];
        let (request, unreadable) = merge(&items);
        let scope = |name: &str, records: &[u64]| (name.to_owned(), records.to_vec());
        assert_eq!(
            (told(&request), unreadable),
            (vec![vec![scope("a", &[1, 2]), scope("b", &[3])], vec![scope("b", &[4, 5])]], 0)
        );
        // What went together once goes together with more.
        let (again, unreadable) = merge(&[item("1", "a", 0, 0), request]);
        assert_eq!((told(&again)[0][0].clone(), unreadable), (scope("a", &[0, 1, 2]), 0));
    }

    #[test]
    fn what_is_no_request_is_counted_and_not_sent() {
        let whole = item("1", "a", 1, 3);
        let cut = (1..whole.len()).map(|length| whole.slice(..length));
        let others = [&[0xff][..], &[0x08, 1], &[0x0a, 2, 0x08, 1], &[0x12, 0], &[0x0a, 6, 0x12, 0, 0x0a, 0, 0x12, 0]]
            .map(Bytes::from_static);
        for none in cut.chain(others) {
            let (request, unreadable) = merge(&[item("1", "a", 2, 0), none.clone(), item("1", "a", 3, 0)]);
            assert_eq!((told(&request)[0][0].1.clone(), unreadable), (vec![2, 3], 1), "{none:?}");
        }
        assert_eq!(merge(&[Bytes::new()]), (Bytes::new(), 0));
    }
}
