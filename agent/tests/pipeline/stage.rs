//! The agent in this process, without a probe: kills are handed to it, a collector on loopback takes what it exports,
//! `/metrics` is asked over HTTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use oom_watcher::cgroups::node::{Node, Reason};
use oom_watcher::config::{self, Flags};
use oom_watcher::export::otlp::{Received, Receiver};
use oom_watcher::kill::Kill;
use oom_watcher::run::{self, Agent, Origin, Pipeline};
use oom_watcher::source::probe::{Counters, Event, Place};
use oom_watcher::source::ring::Position;
use oom_watcher::stats::Stats;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use uuid::Uuid;

/// What a test waits for comes within this, or never.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at what has no event.
const PAUSE: Duration = Duration::from_millis(5);

/// The ring buffer that kills come from.
const RING: u32 = 1;

/// A probe that this agent has attached, and that has counted nothing.
fn origin() -> Origin {
    Origin {
        boot_id: Uuid::nil(),
        ring: RING,
        counted: Counters::default(),
        is_new: true,
        detached: Vec::new(),
        node: Node::All(Reason::Configured),
        names: None,
    }
}

/// A running agent on the node `node-a`.
pub(crate) struct Stage {
    pub(crate) pipeline: Pipeline,
    pub(crate) tracer_provider: Option<SdkTracerProvider>,
    address: SocketAddr,
    stats: Arc<Stats>,
}

impl Stage {
    /// An agent that exports to `collector`, with these variables.
    pub(crate) fn start(collector: Option<SocketAddr>, variables: &[(&str, &str)]) -> Self {
        let mut set: BTreeMap<String, String> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        // The state of an agent that runs on this machine is none of a test's.
        set.insert("OOM_WATCHER_STATE_DIR".to_owned(), "none".to_owned());
        set.extend(collector.map(|address| ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), format!("http://{address}"))));
        let flags = Flags::from([("--node-name", "node-a"), ("--listen", "127.0.0.1:0"), ("--config", "none")]);
        let config = config::load(&flags, &|name| set.get(name).cloned()).unwrap().config;
        let listener = run::bind(&config).unwrap();
        let agent = Agent::build(config, listener).unwrap();
        let (address, tracer_provider, stats) = (agent.address(), agent.tracer_provider(), agent.stats());
        let (pipeline, server) = agent.into_parts(origin());
        // It ends with the test's runtime.
        tokio::spawn(server);
        Self { pipeline, tracer_provider, address, stats }
    }

    /// Hands over the events of kills, as the probe would.
    pub(crate) fn kill(&mut self, kills: impl IntoIterator<Item = Kill>) {
        for kill in kills {
            let place = Place { ring: RING, end: Position(kill.sequence * 1024) };
            self.pipeline.admit(Event::Kill(Ok(Box::new(kill)), place));
        }
    }

    /// Ends it as SIGTERM does. Gives what was lost then: log records and spans.
    pub(crate) async fn end(self, grace: Duration) -> (u64, u64) {
        let stats = Arc::clone(&self.stats);
        self.pipeline.drain(Instant::now() + grace).await;
        (stats.logs.lost_shutdown.get(), stats.traces.lost_shutdown.get())
    }

    /// The text of `/metrics`.
    pub(crate) async fn metrics(&self) -> String {
        let mut connection = TcpStream::connect(self.address).await.unwrap();
        connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.0 200 OK"), "{answer}");
        body.to_owned()
    }

    /// Its lines that begin with one of these names, comments among them.
    pub(crate) async fn series(&self, names: &[&str]) -> Vec<String> {
        let text = self.metrics().await;
        let name = |line: &str| {
            line.trim_start_matches("# HELP ")
                .trim_start_matches("# TYPE ")
                .split(['{', ' '])
                .next()
                .unwrap_or_default()
                .to_owned()
        };
        text.lines().filter(|line| names.contains(&name(line).as_str())).map(str::to_owned).collect()
    }

    /// Waits until `/metrics` has a line that fits.
    pub(crate) async fn wait_for_series(&self, what: &str, fits: impl Fn(&str) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !self.metrics().await.lines().any(&fits) {
                tokio::time::sleep(PAUSE).await;
            }
        });
        assert!(waited.await.is_ok(), "{what} never came:\n{}", self.metrics().await);
    }
}

/// A collector on loopback.
pub(crate) fn collector() -> Receiver {
    Receiver::start("127.0.0.1:0".parse().unwrap()).unwrap()
}

/// Waits until the collector has that many log records and spans.
pub(crate) async fn received(collector: &Receiver, records: usize, spans: usize) -> Received {
    collector
        .wait_for(|received| received.records().count() >= records && received.spans().count() >= spans, PATIENCE)
        .await
        .unwrap()
}

/// Attributes as `key=value`, sorted; texts in quotation marks.
pub(crate) fn shown(attributes: &[KeyValue]) -> Vec<String> {
    let mut shown: Vec<String> =
        attributes.iter().map(|attribute| format!("{}={}", attribute.key, value(attribute.value.as_ref()))).collect();
    shown.sort();
    shown
}

/// The value of an attribute or a body.
pub(crate) fn value(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(any_value::Value::StringValue(text)) => format!("{text:?}"),
        Some(any_value::Value::BoolValue(flag)) => flag.to_string(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => panic!("no kind of value that the agent sends: {other:?}"),
    }
}
