//! A collector in this process, and what a test asks of the log records that it got.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use oom_watcher::export::otlp::{Answer, Received, Receiver};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::{LogRecord, ResourceLogs};

use crate::wait::patience;

/// A running collector, on a free port.
pub struct Collector {
    receiver: Receiver,
    endpoint: String,
}

impl Collector {
    /// Starts it.
    pub fn start() -> Self {
        Self::start_at(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
    }

    /// Starts it there.
    pub fn start_at(address: SocketAddr) -> Self {
        let receiver = Receiver::start(address).unwrap();
        let endpoint = format!("http://{}", receiver.address());
        Self { receiver, endpoint }
    }

    /// What an agent needs in its environment to send there.
    ///
    /// On a slow machine an answer may take longer than the default of 10 s; the request would be repeated, and its
    /// records be there twice.
    pub fn environment(&self) -> [(&str, &str); 3] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &self.endpoint),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", "60000"),
        ]
    }

    /// Where it takes OTLP over gRPC: host and port.
    pub fn address(&self) -> String {
        self.receiver.address().to_string()
    }

    /// What `look` says of everything received so far.
    pub fn look<T>(&self, look: impl FnOnce(&Received) -> T) -> T {
        self.receiver.look(look)
    }

    /// The attributes of the resource that a record came with.
    pub fn resource_of(&self, record: &Record) -> Vec<KeyValue> {
        self.look(|received| {
            let mut resources = received.logs.iter().flat_map(|request| &request.resource_logs);
            let is_its =
                |logs: &&ResourceLogs| logs.scope_logs.iter().any(|scope| scope.log_records.contains(&record.0));
            resources.find(is_its).and_then(|logs| logs.resource.clone()).unwrap_or_default().attributes
        })
    }

    /// From now on takes requests and never answers them.
    pub fn hang(&self) {
        self.receiver.answer(Answer::Hang);
    }

    /// Answers again, also what hangs.
    pub fn answer(&self) {
        self.receiver.answer(Answer::Ok);
    }

    /// From now on answers requests so long after they have come.
    pub fn be_slow(&self, delay: Duration) {
        self.receiver.answer(Answer::After(delay));
    }

    /// The records so far of kills in cgroups that `path` accepts.
    pub fn records(&self, path: impl Fn(&str) -> bool) -> Vec<Record> {
        // There is something at once.
        self.find(|received| Some(of_cgroups(received, &path).cloned().map(Record).collect())).unwrap()
    }

    /// The same, once there are `count` of them.
    pub fn await_records(&self, count: usize, path: impl Fn(&str) -> bool) -> Vec<Record> {
        self.try_records(count, path)
            .unwrap_or_else(|fewer| panic!("waiting for {count} records, {} came", fewer.len()))
    }

    /// The same; those that came if they are fewer for too long.
    pub fn try_records(&self, count: usize, path: impl Fn(&str) -> bool) -> Result<Vec<Record>, Vec<Record>> {
        // What is there is copied once, when it is enough: a guest is slow.
        let enough = |received: &Received| {
            (of_cgroups(received, &path).count() >= count)
                .then(|| of_cgroups(received, &path).cloned().map(Record).collect())
        };
        self.find(enough).map_err(|_| self.records(&path))
    }

    /// The first record that `is` accepts, once it is there.
    pub fn await_record(&self, is: impl Fn(&Record) -> bool) -> Record {
        let look = |received: &Received| received.records().cloned().map(Record).find(&is);
        self.find(look).unwrap_or_else(|error| panic!("waiting for a record: {error}"))
    }

    /// All records so far.
    pub fn all_records(&self) -> Vec<Record> {
        self.find(|received| Some(received.records().cloned().map(Record).collect())).unwrap()
    }

    /// When the span of that record ends, as it says itself, once it is there. The record's id is its kill's, and so is
    /// the span's.
    pub fn await_span_end(&self, record: &Record) -> String {
        let of_record = |received: &Received| {
            let span = received.spans().find(|span| span.span_id == record.0.span_id && span.name == "oom_kill")?;
            let end = span.attributes.iter().find(|attribute| attribute.key == "oom_watcher.span.end")?;
            match end.value.as_ref()?.value.as_ref()? {
                Value::StringValue(text) => Some(text.clone()),
                _ => None,
            }
        };
        self.find(of_record).unwrap()
    }

    /// Waits until requests of any kind reached it.
    pub fn await_requests(&self, count: usize) {
        self.find(|received| (received.headers.len() >= count).then_some(())).unwrap();
    }

    fn find<T>(&self, look: impl FnMut(&Received) -> Option<T>) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(self.receiver.find(look, patience()))
    }
}

/// The records of kills in cgroups that `path` accepts.
fn of_cgroups<'a>(received: &'a Received, path: &'a impl Fn(&str) -> bool) -> impl Iterator<Item = &'a LogRecord> {
    received.records().filter(move |record| text(record, "process.linux.cgroup").is_some_and(path))
}

/// The log record of a kill.
#[derive(Clone, Debug)]
pub struct Record(LogRecord);

impl Record {
    /// All of them.
    pub fn attributes(&self) -> &[KeyValue] {
        &self.0.attributes
    }

    /// An attribute that is a text; `None` if it is absent or something else.
    pub fn text(&self, key: &str) -> Option<&str> {
        text(&self.0, key)
    }

    /// An attribute that is a list of texts.
    pub fn texts(&self, key: &str) -> Option<Vec<&str>> {
        let Value::ArrayValue(list) = value(&self.0, key)? else { return None };
        Some(
            list.values
                .iter()
                .filter_map(
                    |value| if let Some(Value::StringValue(text)) = &value.value { Some(text.as_str()) } else { None },
                )
                .collect(),
        )
    }

    /// An attribute that is a number.
    pub fn number(&self, key: &str) -> Option<i64> {
        match value(&self.0, key)? {
            Value::IntValue(number) => Some(*number),
            _ => None,
        }
    }

    /// An attribute that is true or false.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match value(&self.0, key)? {
            Value::BoolValue(flag) => Some(*flag),
            _ => None,
        }
    }
}

fn text<'a>(record: &'a LogRecord, key: &str) -> Option<&'a str> {
    match value(record, key)? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

fn value<'a>(record: &'a LogRecord, key: &str) -> Option<&'a Value> {
    record.attributes.iter().find(|attribute| attribute.key == key)?.value.as_ref()?.value.as_ref()
}
