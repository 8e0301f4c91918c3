//! The span of a kill, ready to be sent. Its ids follow from the kill's, so that a kill read again after a restart is
//! the same span.

use std::borrow::Cow;

use opentelemetry::InstrumentationScope;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use crate::kill::{Incident, Kill, KillId, Owner};
use crate::record::attributes::attributes;
use crate::record::schema;

/// The description of a span's status: a kill is always an error.
pub const STATUS: &str = "killed by the OOM killer";

/// The identity of the span of `kill`, which is part of `incident`: one trace per incident, sampled.
pub fn context(incident: KillId, kill: KillId) -> SpanContext {
    let trace = u128::from_be_bytes(*incident.0.as_bytes());
    // An id of zeros is no id. Version and variant of a UUID see to it that there is none; a nil UUID is no reason to
    // lose the span.
    SpanContext::new(TraceId::from(trace.max(1)), span_id(kill), TraceFlags::SAMPLED, false, TraceState::NONE)
}

/// The span of a kill on `node`. It ends where it begins, until [`ended`](crate::record::ends::ended) says more.
///
/// The incident's first kill is the root of the trace, each further one a child of it.
pub fn span(kill: &Kill, owner: &Owner, incident: &Incident, node: &str) -> SpanData {
    SpanData {
        span_context: context(incident.id, kill.id),
        parent_span_id: if kill.id == incident.id { SpanId::INVALID } else { span_id(incident.id) },
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: Cow::Borrowed(schema::SPAN_NAME),
        start_time: kill.time,
        end_time: kill.time,
        attributes: attributes(kill, owner, incident, node),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::error(STATUS),
        instrumentation_scope: scope(),
    }
}

/// The instrumentation scope of everything that is sent: [`schema::SCOPE_NAME`] and the agent's version.
pub fn scope() -> InstrumentationScope {
    InstrumentationScope::builder(schema::SCOPE_NAME).with_version(env!("CARGO_PKG_VERSION")).build()
}

/// The low 8 bytes of the kill's id.
fn span_id(kill: KillId) -> SpanId {
    let (_, low) = kill.0.as_u64_pair();
    SpanId::from(low.max(1))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::record::log_record::log_record;
    use crate::record::sample;

    fn uuid(text: &str) -> KillId {
        KillId(Uuid::parse_str(text).unwrap_or_default())
    }

    #[test]
    fn ids_are_made_of_the_uuids() {
        let (incident, kill) =
            (uuid("a0b1c2d3-e4f5-5607-9809-0a1b2c3d4e5f"), uuid("00112233-4455-5677-8899-aabbccddeeff"));
        let context = context(incident, kill);
        assert_eq!(context.trace_id().to_string(), "a0b1c2d3e4f5560798090a1b2c3d4e5f");
        assert_eq!(context.span_id().to_string(), "8899aabbccddeeff");
        assert!(context.is_valid() && context.is_sampled() && !context.is_remote());
    }

    #[test]
    fn even_a_nil_uuid_gives_valid_ids() {
        assert!(context(KillId(Uuid::nil()), KillId(Uuid::nil())).is_valid());
        assert!(
            context(uuid("a0b1c2d3-e4f5-5607-9809-0a1b2c3d4e5f"), uuid("00112233-4455-5677-0000-000000000000"))
                .is_valid()
        );
    }

    #[test]
    fn the_first_kill_is_the_root_and_others_are_its_children() {
        let (owner, first, second) = (sample::container("app"), sample::kill_of(1, 0), sample::kill_of(2, 0));
        let root = span(&first, &owner, &sample::incident(&first, &owner), "node-a");
        let child = span(&second, &owner, &sample::second_of(&first), "node-a");
        assert_eq!(root.parent_span_id, SpanId::INVALID);
        assert_eq!(child.parent_span_id, root.span_context.span_id());
        assert_eq!(child.span_context.trace_id(), root.span_context.trace_id());
        assert_ne!(child.span_context.span_id(), root.span_context.span_id());
    }

    #[test]
    fn the_span_and_the_record_of_a_kill_tell_the_same() {
        let (kill, owner) = (sample::kill(), sample::container("app"));
        let incident = sample::incident(&kill, &owner);
        let (span, mut record) =
            (span(&kill, &owner, &incident, "node-a"), log_record(&kill, &owner, &incident, "node-a"));
        assert_eq!(span.span_context, record.context);
        record.attributes.retain(|attribute| attribute.key.as_str() != "log.record.uid");
        assert_eq!(span.attributes, record.attributes);
    }

    #[test]
    fn the_span_is_a_failed_internal_one_of_the_agent() {
        let (kill, owner) = (sample::kill(), sample::container("app"));
        let span = span(&kill, &owner, &sample::incident(&kill, &owner), "node-a");
        assert_eq!(
            (span.name.as_ref(), span.span_kind, span.status),
            ("oom_kill", SpanKind::Internal, Status::error("killed by the OOM killer"))
        );
        assert_eq!(
            (span.instrumentation_scope.name(), span.instrumentation_scope.version()),
            ("oom-watcher", Some(env!("CARGO_PKG_VERSION")))
        );
    }
}
