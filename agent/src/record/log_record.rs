//! The log record of a kill, ready to be sent.

use std::time::SystemTime;

use opentelemetry::KeyValue;
use opentelemetry::trace::SpanContext;

use crate::kill::{Incident, Kill, Owner};
use crate::record::attributes::{attributes, sort};
use crate::record::schema;
use crate::record::sentence::sentence;
use crate::record::span;

/// The log record of one kill. Its event name is [`schema::EVENT_NAME`], its severity ERROR.
#[derive(Clone, Debug, PartialEq)]
pub struct LogRecord {
    /// When the victim was signalled.
    pub time: SystemTime,
    /// One sentence for people.
    pub body: String,
    /// Everything known, sorted by key.
    pub attributes: Vec<KeyValue>,
    /// The span of the same kill.
    pub context: SpanContext,
}

/// The log record of a kill on `node`. The same kill gives the same record.
pub fn log_record(kill: &Kill, owner: &Owner, incident: &Incident, node: &str) -> LogRecord {
    let mut attributes = attributes(kill, owner, incident, node);
    attributes.push(KeyValue::new(schema::LOG_RECORD_UID.key, kill.id.0.to_string()));
    sort(&mut attributes);
    LogRecord {
        time: kill.time,
        body: sentence(kill, owner, incident),
        attributes,
        context: span::context(incident.id, kill.id),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::sample;

    fn record() -> LogRecord {
        let (kill, owner) = (sample::kill(), sample::container("app"));
        log_record(&kill, &owner, &sample::incident(&kill, &owner), "node-a")
    }

    #[test]
    fn the_record_has_the_time_of_the_kernel_and_a_sentence() {
        assert_eq!(record().time, sample::time(0));
        assert!(record().body.starts_with("The OOM killer killed python3 (pid 4242) of container app"));
    }

    #[test]
    fn the_record_has_the_id_of_the_kill_among_its_sorted_attributes() {
        let record = record();
        assert!(record.attributes.is_sorted_by(|a, b| a.key < b.key));
        let uid = record
            .attributes
            .iter()
            .find(|attribute| attribute.key.as_str() == "log.record.uid")
            .map(|attribute| attribute.value.to_string());
        assert_eq!(uid, Some(sample::kill().id.0.hyphenated().to_string()));
        assert!(
            record
                .attributes
                .iter()
                .all(|attribute| schema::ATTRIBUTES.iter().any(|known| known.key == attribute.key.as_str()))
        );
    }

    #[test]
    fn the_same_kill_gives_the_same_record() {
        assert_eq!(record(), record());
    }
}
