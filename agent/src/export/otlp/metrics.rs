//! Data points: the SDK's periodic reader, on a thread of its own, and its OTLP exporter, whose one request is sent in
//! parts that any collector takes.
//!
//! Nothing is repeated: the values are cumulative, so the next export tells all that a failed one did.

use std::future::poll_fn;
use std::io::Read;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use flate2::read::GzDecoder;
use hyper::header::CONTENT_ENCODING;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{MetricExporter, RetryPolicy, WithExportConfig, WithHttpConfig};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tracing::warn;

use super::client::Client;
use super::split::{data_points, split};
use crate::export::instruments;
use crate::export::queue::{Failure, Outage};
use crate::stats::{Signal, Stats};

/// The SDK's provider. Dropping that one blocks for up to 5 s inside of a runtime, which its last export waits for;
/// dropping this one does not.
#[derive(Debug)]
pub(super) struct Provider(Option<SdkMeterProvider>);

impl Drop for Provider {
    fn drop(&mut self) {
        if let Some(provider) = self.0.take() {
            // Without a thread it blocks after all.
            let _ = std::thread::Builder::new().name("metrics-end".to_owned()).spawn(move || drop(provider));
        }
    }
}

/// A provider whose data points leave every `interval`, once `register` has added the instruments. Must be called
/// inside a Tokio runtime.
pub(super) fn provider(
    client: Client,
    interval: Duration,
    resource: Resource,
    owners: usize,
    stats: &Arc<Stats>,
    register: impl FnOnce(&SdkMeterProvider),
) -> anyhow::Result<Provider> {
    let sender = Sender { client, stats: stats.clone(), failure: Arc::default() };
    let failure = sender.failure.clone();
    let exporter = MetricExporter::builder()
        // Cumulative, whatever the environment says: a delta that is lost is lost for good.
        .with_temporality(Temporality::Cumulative)
        .with_http()
        .with_protocol(opentelemetry_otlp::Protocol::HttpBinary)
        // The sender knows where to.
        .with_endpoint("http://localhost/v1/metrics")
        .with_retry_policy(RetryPolicy::disabled())
        .with_http_client(sender)
        .build()
        .context("setting up the export of metrics")?;
    let exporter = Counting {
        exporter,
        failure,
        runtime: Handle::current(),
        outage: Outage::new(Signal::Metrics),
        stats: stats.clone(),
    };
    let provider = SdkMeterProvider::builder()
        .with_resource(resource)
        .with_view(instruments::limit(owners))
        .with_reader(PeriodicReader::builder(exporter).with_interval(interval).build())
        .build();
    register(&provider);
    Ok(Provider(Some(provider)))
}

/// Exports once more, if the collector answers before `deadline`.
pub(super) async fn shutdown(mut provider: Provider, deadline: Instant) {
    let Some(provider) = provider.0.take() else { return };
    // The SDK blocks the caller for up to 5 s. A thread and not `spawn_blocking`, which would hold up the runtime's end
    // for as long.
    let (done, ended) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("metrics-end".to_owned()).spawn(move || {
        // The exporter has counted and told what failed. Nobody waits any more if the receiver is gone.
        let _ = provider.shutdown();
        let _ = done.send(());
    });
    if let Err(error) = thread {
        warn!(%error, "no thread for the last export of metrics");
        return;
    }
    // Too late or not at all: the counts of this agent end here either way.
    let _ = tokio::time::timeout_at(deadline, ended).await;
}

/// Makes one request of everything, and tells how that went.
struct Counting {
    exporter: MetricExporter,
    /// What the sender says of the last request: the exporter has a text of its own for it.
    failure: LastFailure,
    runtime: Handle,
    outage: Outage,
    stats: Arc<Stats>,
}

type LastFailure = Arc<Mutex<Option<Failure>>>;

impl PushMetricExporter for Counting {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let mut request = pin!(self.exporter.export(metrics));
        // The reader's thread knows no runtime, and both timers and the HTTP client look for one.
        let result = poll_fn(|context| {
            let _inside = self.runtime.enter();
            request.as_mut().poll(context)
        })
        .await;
        let failure = self.failure.lock().take();
        let Err(error) = result else {
            self.outage.ended();
            return Ok(());
        };
        let failure = failure.unwrap_or_else(|| Failure { cause: error.to_string(), ..Failure::default() });
        self.stats.export(Signal::Metrics).failures.add(1);
        self.outage.failed(&failure);
        Err(OTelSdkError::InternalFailure(failure.cause))
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

/// Takes what the SDK's exporter has made for a collector that speaks HTTP, and sends it in parts as the settings say,
/// over gRPC or HTTP.
#[derive(Debug)]
struct Sender {
    client: Client,
    stats: Arc<Stats>,
    failure: LastFailure,
}

impl Sender {
    async fn send(&self, request: ExportMetricsServiceRequest) -> Result<(), Failure> {
        for part in split(request) {
            let points = data_points(&part);
            let taken = self.client.send(part.encode_to_vec().into()).await?;
            let rejected = taken.rejected.min(points);
            self.stats.export(Signal::Metrics).sent.add(points - rejected);
            if rejected > 0 {
                // Not counted as lost: the next request tells the same points again.
                warn!(
                    signal = "metrics",
                    rejected,
                    why = taken.why,
                    "the collector took a request, but not all that was in it"
                );
            }
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The exporter compresses where OTEL_EXPORTER_OTLP_COMPRESSION says so, which no setting of it can take back.
        let made = if request.headers().contains_key(CONTENT_ENCODING) {
            let mut plain = Vec::new();
            GzDecoder::new(request.body().as_ref()).read_to_end(&mut plain)?;
            ExportMetricsServiceRequest::decode(plain.as_slice())
        } else {
            ExportMetricsServiceRequest::decode(request.into_body())
        };
        match self.send(made?).await {
            Ok(()) => Ok(Response::new(Bytes::new())),
            Err(failure) => {
                let cause = failure.cause.clone();
                *self.failure.lock() = Some(failure);
                Err(cause.into())
            }
        }
    }
}
