//! Data points: the SDK's periodic reader, on a thread of its own, around an exporter that counts.
//!
//! Nothing is repeated: the values are cumulative, so the next export tells all that a failed one did.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tracing::warn;

use super::endpoint::Outlet;
use crate::export::instruments;
use crate::export::queue::Outage;
use crate::stats::{Signal, Stats};

/// The SDK's provider. Dropping that one blocks for up to 5 s inside of a runtime, which its last export waits for; dropping this one does not.
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

/// A provider whose data points leave every `interval`, once `register` has added the instruments. Must be called inside a Tokio runtime.
pub(super) fn provider(
    outlet: Outlet,
    interval: Duration,
    resource: Resource,
    owners: usize,
    stats: &Arc<Stats>,
    register: impl FnOnce(&SdkMeterProvider),
) -> Provider {
    let exporter = Counting { outlet, runtime: Handle::current(), outage: Outage::new(Signal::Metrics), stats: stats.clone() };
    let provider = SdkMeterProvider::builder()
        .with_resource(resource)
        .with_view(instruments::limit(owners))
        .with_reader(PeriodicReader::builder(exporter).with_interval(interval).build())
        .build();
    register(&provider);
    Provider(Some(provider))
}

/// Exports once more, if the collector answers before `deadline`.
pub(super) async fn shutdown(mut provider: Provider, deadline: Instant) {
    let Some(provider) = provider.0.take() else { return };
    // The SDK blocks the caller for up to 5 s. A thread and not `spawn_blocking`, which would hold up the runtime's end for as long.
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

struct Counting {
    outlet: Outlet,
    runtime: Handle,
    outage: Outage,
    stats: Arc<Stats>,
}

impl PushMetricExporter for Counting {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let mut request = pin!(async { self.outlet.attempt(self.outlet.exporter.export(metrics)).await });
        // The reader's thread knows no runtime, and both timers and the HTTP client look for one.
        let result = poll_fn(|context| {
            let _inside = self.runtime.enter();
            request.as_mut().poll(context)
        })
        .await;
        let counted = self.stats.export(Signal::Metrics);
        match result {
            Ok(()) => {
                counted.sent.add(data_points(metrics));
                self.outage.ended();
                Ok(())
            }
            Err(failure) => {
                counted.failures.add(1);
                self.outage.failed(&failure);
                Err(OTelSdkError::InternalFailure(failure.cause))
            }
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.outlet.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.outlet.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        Temporality::Cumulative
    }
}

fn data_points(metrics: &ResourceMetrics) -> u64 {
    fn count<T>(metric: &MetricData<T>) -> usize {
        match metric {
            MetricData::Gauge(gauge) => gauge.data_points().count(),
            MetricData::Sum(sum) => sum.data_points().count(),
            MetricData::Histogram(histogram) => histogram.data_points().count(),
            MetricData::ExponentialHistogram(histogram) => histogram.data_points().count(),
        }
    }
    let metrics = metrics.scope_metrics().flat_map(|scope| scope.metrics());
    let counts = metrics.map(|metric| match metric.data() {
        AggregatedMetrics::F64(metric) => count(metric),
        AggregatedMetrics::I64(metric) => count(metric),
        AggregatedMetrics::U64(metric) => count(metric),
    });
    counts.sum::<usize>() as u64
}
