//! OTLP: log records and spans through queues of their own, data points by the SDK's periodic reader.
//!
//! The only place that knows gRPC. What it cannot deliver it keeps, then counts as lost; it never holds up a kill.

mod endpoint;
mod metrics;
mod receiver;
mod tls;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use opentelemetry::logs::{AnyValue, LogRecord as _, Logger, LoggerProvider, Severity};
use opentelemetry::{Array, Context, InstrumentationScope, Value};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::logs::{LogBatch, LogExporter as _, LogProcessor, SdkLogRecord, SdkLogger, SdkLoggerProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanExporter as _, SpanProcessor};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use self::endpoint::reach;
use self::endpoint::{Outlet, Transport};
pub use self::receiver::{Answer, Received, Receiver};
use super::queue::Queue;
use super::settings::{self, Endpoint};
use crate::record::log_record::LogRecord;
use crate::record::{schema, span};
use crate::stats::{Signal, Stats};

/// What leaves the node over OTLP. A signal without an endpoint goes nowhere.
#[derive(Debug)]
pub struct Otlp {
    logs: Option<Logs>,
    spans: Option<Spans>,
    metrics: Option<metrics::Provider>,
}

#[derive(Debug)]
struct Logs {
    logger: SdkLogger,
    queue: Arc<Queue<Emitted>>,
    worker: JoinHandle<()>,
}

/// A record and its scope, shared: a repeated request does not copy it.
type Emitted = Arc<(SdkLogRecord, InstrumentationScope)>;

#[derive(Debug)]
struct Spans {
    provider: SdkTracerProvider,
    queue: Arc<Queue<SpanData>>,
    worker: JoinHandle<()>,
}

impl Otlp {
    /// Starts one queue for log records, one for spans, and the thread that exports data points. Connects to nobody yet: a collector may come later.
    ///
    /// `owners` is the bound of the table of counts, from which follows how many data points there may be; `register` adds the instruments to the
    /// provider of data points, if they go anywhere. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// A malformed address or header, unusable certificates.
    pub fn start(settings: &settings::Otlp, stats: &Arc<Stats>, owners: usize, register: impl FnOnce(&SdkMeterProvider)) -> anyhow::Result<Self> {
        let resource = Resource::builder_empty().with_attributes(settings.resource.clone()).build();
        let mut transports = Transports::default();
        let logs = match &settings.logs {
            Some(endpoint) => Some(Self::logs(endpoint, settings, stats, &resource, &mut transports).context("setting up the export of logs")?),
            None => None,
        };
        let spans = match &settings.traces {
            Some(endpoint) => Some(Self::spans(endpoint, settings, stats, &resource, &mut transports).context("setting up the export of traces")?),
            None => None,
        };
        let metrics = match &settings.metrics {
            Some(endpoint) => {
                let outlet = transports.of(endpoint).and_then(|transport| Outlet::metrics(endpoint, &transport));
                let outlet = outlet.context("setting up the export of metrics")?;
                Some(metrics::provider(outlet, settings.metric_interval, resource, owners, stats, register))
            }
            None => None,
        };
        Ok(Self { logs, spans, metrics })
    }

    /// Queues the log record of a kill. Never waits. Gives its number, by which [`settled`](Self::settled) tells that it is safe; `None` if it goes nowhere
    /// or was lost at once.
    pub fn log(&self, record: LogRecord) -> Option<u64> {
        let logs = self.logs.as_ref()?;
        let before = logs.queue.accepted();
        let mut log = logs.logger.create_log_record();
        log.set_event_name(schema::EVENT_NAME);
        log.set_timestamp(record.time);
        log.set_observed_timestamp(SystemTime::now());
        log.set_severity_number(Severity::Error);
        log.set_severity_text("ERROR");
        log.set_body(AnyValue::from(record.body));
        log.add_attributes(record.attributes.into_iter().map(|attribute| (attribute.key, any_value(attribute.value))));
        if record.context.is_valid() {
            log.set_trace_context(record.context.trace_id(), record.context.span_id(), Some(record.context.trace_flags()));
        }
        logs.logger.emit(log);
        let number = logs.queue.accepted();
        (number > before).then_some(number)
    }

    /// The number of the last log record that needs no more care: the collector has it, or its loss is counted. 0 if none has.
    pub fn settled(&self) -> u64 {
        self.logs.as_ref().map_or(0, |logs| logs.queue.settled())
    }

    /// Tells that [`settled`](Self::settled) has grown.
    pub fn settling(&self) -> Arc<Notify> {
        self.logs.as_ref().map_or_else(Arc::default, |logs| logs.queue.settling())
    }

    /// Queues a finished span. Never waits.
    pub fn span(&self, span: SpanData) {
        if let Some(spans) = &self.spans {
            spans.queue.push(span);
        }
    }

    /// Makes the spans of the agent's own work, for `tracing-opentelemetry`; they go the same way as those of [`span`](Self::span).
    ///
    /// Every span is exported: a log record must not point to one that nobody has. The layer that uses it has to let through the agent's own spans
    /// only: those of the gRPC client would each make the next export.
    pub fn tracer_provider(&self) -> Option<SdkTracerProvider> {
        self.spans.as_ref().map(|spans| spans.provider.clone())
    }

    /// Sends what waits and the last data points, all signals at once and no longer than `deadline`; what is left is lost, and counted. Gives the number of
    /// the last log record that the collector has.
    pub async fn shutdown(self, deadline: Instant) -> u64 {
        let Self { logs, spans, metrics } = self;
        let logs = async {
            match logs {
                Some(Logs { queue, worker, .. }) => queue.shutdown(worker, deadline).await,
                None => 0,
            }
        };
        let spans = async {
            if let Some(Spans { queue, worker, .. }) = spans {
                queue.shutdown(worker, deadline).await;
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
        resource: &Resource,
        transports: &mut Transports,
    ) -> anyhow::Result<Logs> {
        let mut outlet = Outlet::logs(endpoint, &transports.of(endpoint)?)?;
        outlet.exporter.set_resource(resource);
        let outlet = Arc::new(outlet);
        let (queue, worker) = Queue::start(Signal::Logs, settings.queue, stats, move |items: Vec<Emitted>| {
            let outlet = outlet.clone();
            async move {
                let records: Vec<_> = items.iter().map(|item| (&item.0, &item.1)).collect();
                outlet.attempt(outlet.exporter.export(LogBatch::new(&records))).await
            }
        });
        let provider = SdkLoggerProvider::builder().with_resource(resource.clone()).with_log_processor(ToQueue(queue.clone())).build();
        Ok(Logs { logger: provider.logger_with_scope(span::scope()), queue, worker })
    }

    fn spans(
        endpoint: &Endpoint,
        settings: &settings::Otlp,
        stats: &Arc<Stats>,
        resource: &Resource,
        transports: &mut Transports,
    ) -> anyhow::Result<Spans> {
        let mut outlet = Outlet::spans(endpoint, &transports.of(endpoint)?)?;
        outlet.exporter.set_resource(resource);
        let outlet = Arc::new(outlet);
        let (queue, worker) = Queue::start(Signal::Traces, settings.queue, stats, move |items: Vec<SpanData>| {
            let outlet = outlet.clone();
            async move { outlet.attempt(outlet.exporter.export(items)).await }
        });
        // In code, or OTEL_TRACES_SAMPLER could leave log records that point to spans nobody has.
        let provider = SdkTracerProvider::builder()
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource.clone())
            .with_span_processor(ToQueue(queue.clone()))
            .build();
        Ok(Spans { provider, queue, worker })
    }
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
struct ToQueue<T>(Arc<Queue<T>>);

impl LogProcessor for ToQueue<Emitted> {
    fn emit(&self, record: &mut SdkLogRecord, scope: &InstrumentationScope) {
        self.0.push(Arc::new((record.clone(), scope.clone())));
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl SpanProcessor for ToQueue<SpanData> {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.push(span);
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
