//! OTLP: log records and spans through queues of their own, data points by the SDK's periodic reader.
//!
//! The only place that knows gRPC. What it cannot deliver it keeps, then counts as lost; it never holds up a kill.

mod client;
mod encode;
mod endpoint;
mod grpc;
mod metrics;
mod reach;
mod receiver;
mod split;
mod tls;

use std::fs;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use opentelemetry::logs::{AnyValue, LogRecord as _, Logger, LoggerProvider, Severity};
use opentelemetry::{Array, Context, InstrumentationScope, Value};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogProcessor, SdkLogRecord, SdkLogger, SdkLoggerProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanProcessor};
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::warn;

use self::client::Client;
use self::encode::Envelope;
use self::endpoint::Transport;
pub use self::grpc::send as send_grpc;
pub use self::reach::reach;
pub use self::receiver::{Answer, Received, Receiver};
use super::queue::{Queue, Working};
use super::settings::{self, Endpoint};
use super::spool::{self, Left, Spool};
use crate::record::log_record::LogRecord;
use crate::record::{schema, span};
use crate::stats::{Signal, Stats};

/// What leaves the node over OTLP. A signal without an endpoint goes nowhere.
#[derive(Debug)]
pub struct Otlp {
    logs: Option<Logs>,
    spans: Option<Spans>,
    metrics: Option<metrics::Provider>,
    envelope: Arc<Envelope>,
}

#[derive(Debug)]
struct Logs {
    logger: SdkLogger,
    working: Working,
}

#[derive(Debug)]
struct Spans {
    provider: SdkTracerProvider,
    working: Working,
}

impl Otlp {
    /// Starts one queue for log records, one for spans, and the thread that exports data points. Connects to nobody
    /// yet: a collector may come later.
    ///
    /// `owners` is the bound of the table of counts, from which follows how many data points there may be; `register`
    /// adds the instruments to the provider of data points, if they go anywhere. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// A malformed address or header, unusable certificates, a spool that another agent uses.
    pub fn start(
        settings: &settings::Otlp,
        stats: &Arc<Stats>,
        owners: usize,
        register: impl FnOnce(&SdkMeterProvider),
    ) -> anyhow::Result<Self> {
        let resource = Resource::builder_empty().with_attributes(settings.resource.clone()).build();
        let envelope = Arc::new(Envelope::new(&ResourceAttributesWithSchema::from(&resource)));
        let mut transports = Transports::default();
        let logs = match &settings.logs {
            Some(endpoint) => Some(
                Self::logs(endpoint, settings, stats, &envelope, &mut transports)
                    .context("setting up the export of logs")?,
            ),
            None => None,
        };
        let spans = match &settings.traces {
            Some(endpoint) => Some(
                Self::spans(endpoint, settings, stats, &envelope, &mut transports)
                    .context("setting up the export of traces")?,
            ),
            None => None,
        };
        let metrics = match &settings.metrics {
            Some(endpoint) => {
                let client =
                    transports.of(endpoint).and_then(|transport| Client::new(Signal::Metrics, endpoint, &transport));
                let client = client.context("setting up the export of metrics")?;
                Some(metrics::provider(client, settings.metric_interval, resource, owners, stats, register)?)
            }
            None => None,
        };
        Ok(Self { logs, spans, metrics, envelope })
    }

    /// Queues the log record of a kill. Never waits. Gives its number, by which [`acknowledged`](Self::acknowledged)
    /// tells that it is safe; `None` if it goes nowhere or was lost at once.
    pub fn log(&self, record: LogRecord) -> Option<u64> {
        let logs = self.logs.as_ref()?;
        let before = logs.working.queue().accepted();
        let mut log = logs.logger.create_log_record();
        log.set_event_name(schema::EVENT_NAME);
        log.set_timestamp(record.time);
        log.set_observed_timestamp(SystemTime::now());
        log.set_severity_number(Severity::Error);
        log.set_severity_text("ERROR");
        log.set_body(AnyValue::from(record.body));
        log.add_attributes(record.attributes.into_iter().map(|attribute| (attribute.key, any_value(attribute.value))));
        if record.context.is_valid() {
            log.set_trace_context(
                record.context.trace_id(),
                record.context.span_id(),
                Some(record.context.trace_flags()),
            );
        }
        logs.logger.emit(log);
        let number = logs.working.queue().accepted();
        (number > before).then_some(number)
    }

    /// The number of the last log record that needs no more care: the collector has it, or its loss is counted. 0 if
    /// none has.
    pub fn acknowledged(&self) -> u64 {
        self.logs.as_ref().map_or(0, |logs| logs.working.queue().acknowledged())
    }

    /// Tells that [`acknowledged`](Self::acknowledged) has grown.
    pub fn acknowledging(&self) -> Arc<Notify> {
        self.logs.as_ref().map_or_else(Arc::default, |logs| logs.working.queue().acknowledging())
    }

    /// Queues a finished span. Never waits.
    pub fn span(&self, span: SpanData) {
        if let Some(spans) = &self.spans {
            spans.working.queue().push(self.envelope.span(span));
        }
    }

    /// Makes the spans of the agent's own work, for `tracing-opentelemetry`; they go the same way as those of
    /// [`span`](Self::span).
    ///
    /// Every span is exported: a log record must not point to one that nobody has. The layer that uses it has to let
    /// through the agent's own spans only: those of the gRPC client would each make the next export.
    pub fn tracer_provider(&self) -> Option<SdkTracerProvider> {
        self.spans.as_ref().map(|spans| spans.provider.clone())
    }

    /// Sends what waits and the last data points, all signals at once and no longer than `deadline`; what is left is
    /// lost, and counted. Gives the number of the last log record that the collector has.
    pub async fn shutdown(self, deadline: Instant) -> u64 {
        let Self { logs, spans, metrics, .. } = self;
        let logs = async {
            match logs {
                Some(Logs { working, .. }) => working.shutdown(deadline).await,
                None => 0,
            }
        };
        let spans = async {
            if let Some(Spans { working, .. }) = spans {
                working.shutdown(deadline).await;
            }
        };
        let metrics = async {
            if let Some(provider) = metrics {
                metrics::shutdown(provider, deadline).await;
            }
        };
        tokio::join!(logs, spans, metrics).0
    }

    fn logs(
        endpoint: &Endpoint,
        settings: &settings::Otlp,
        stats: &Arc<Stats>,
        envelope: &Arc<Envelope>,
        transports: &mut Transports,
    ) -> anyhow::Result<Logs> {
        let working = working(Signal::Logs, endpoint, settings, stats, transports)?;
        let to_queue = ToQueue { queue: working.queue().clone(), envelope: envelope.clone() };
        let provider = SdkLoggerProvider::builder()
            .with_resource(Resource::builder_empty().build())
            .with_log_processor(to_queue)
            .build();
        Ok(Logs { logger: provider.logger_with_scope(span::scope()), working })
    }

    fn spans(
        endpoint: &Endpoint,
        settings: &settings::Otlp,
        stats: &Arc<Stats>,
        envelope: &Arc<Envelope>,
        transports: &mut Transports,
    ) -> anyhow::Result<Spans> {
        let working = working(Signal::Traces, endpoint, settings, stats, transports)?;
        let to_queue = ToQueue { queue: working.queue().clone(), envelope: envelope.clone() };
        // In code, or OTEL_TRACES_SAMPLER could leave log records that point to spans nobody has.
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(Resource::builder_empty().build())
            .with_span_processor(to_queue)
            .build();
        Ok(Spans { provider, working })
    }
}

/// The queue of a signal at work.
fn working(
    signal: Signal,
    endpoint: &Endpoint,
    settings: &settings::Otlp,
    stats: &Arc<Stats>,
    transports: &mut Transports,
) -> anyhow::Result<Working> {
    let client = Client::new(signal, endpoint, &transports.of(endpoint)?)?;
    Ok(Working::start(signal, settings.queue, stats, spool_of(settings, signal)?, move |items| {
        let client = client.clone();
        async move {
            let (request, unreadable) = encode::merge(&items);
            Ok(client.send(request).await?.without(unreadable))
        }
    }))
}

/// The spool of a signal, if there is to be one and its folder can be had: without it what waits is in memory alone, as
/// the agent then says.
///
/// # Errors
/// Another agent has it: each would send what the other one does.
fn spool_of(settings: &settings::Otlp, signal: Signal) -> anyhow::Result<Option<(Spool, Left)>> {
    let Some(folder) = settings.spool.as_ref().map(|folder| folder.join(signal.as_str())) else { return Ok(None) };
    match Spool::open(&folder) {
        Ok(spool) => Ok(Some(spool)),
        Err(error) if error.kind() == ErrorKind::ResourceBusy => Err(error).with_context(|| {
            format!(
                "using the spool in {}: end that agent, or set OOM_WATCHER_SPOOL_DIR to another directory",
                folder.display()
            )
        }),
        Err(error) => {
            // By a task: nobody hears it yet.
            tokio::spawn(async move {
                warn!(%error, folder = %folder.display(), "no spool there: what waits for the collector is lost if the \
                    agent ends");
            });
            Ok(None)
        }
    }
}

/// Removes what is kept in the spool: no agent follows.
///
/// # Errors
/// Something of it cannot be removed.
pub fn remove_spool(settings: &settings::Otlp) -> io::Result<()> {
    let Some(folder) = &settings.spool else { return Ok(()) };
    for signal in [Signal::Logs, Signal::Traces] {
        spool::remove(&folder.join(signal.as_str()))?;
    }
    let _ = fs::remove_dir(folder);
    Ok(())
}

/// One connection for all signals that go to the same place in the same way.
#[derive(Default)]
struct Transports(Vec<(Endpoint, Transport)>);

impl Transports {
    fn of(&mut self, endpoint: &Endpoint) -> anyhow::Result<Transport> {
        let same = |known: &Endpoint| {
            let same_place = known.url == endpoint.url && known.protocol == endpoint.protocol;
            same_place && known.tls == endpoint.tls && known.timeout == endpoint.timeout
        };
        if let Some((_, transport)) = self.0.iter().find(|(known, _)| same(known)) {
            return Ok(transport.clone());
        }
        let transport = Transport::new(endpoint)?;
        self.0.push((endpoint.clone(), transport.clone()));
        Ok(transport)
    }
}

/// Hands what the SDK made to a queue. Flushing and shutting down are the queue's own business.
#[derive(Debug)]
struct ToQueue {
    queue: Arc<Queue>,
    envelope: Arc<Envelope>,
}

impl LogProcessor for ToQueue {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        self.queue.push(self.envelope.log(record, scope));
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl SpanProcessor for ToQueue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.queue.push(self.envelope.span(span));
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The value of an attribute as a log record has it; the API has no such conversion.
fn any_value(value: Value) -> AnyValue {
    fn list<T: Into<AnyValue>>(values: Vec<T>) -> AnyValue {
        AnyValue::ListAny(Box::new(values.into_iter().map(Into::into).collect()))
    }
    match value {
        Value::Bool(value) => value.into(),
        Value::I64(value) => value.into(),
        Value::F64(value) => value.into(),
        Value::String(value) => value.into(),
        Value::Array(Array::Bool(values)) => list(values),
        Value::Array(Array::I64(values)) => list(values),
        Value::Array(Array::F64(values)) => list(values),
        Value::Array(Array::String(values)) => list(values),
        // Kinds that a later API may add: as text, rather than not at all.
        other => other.to_string().into(),
    }
}
