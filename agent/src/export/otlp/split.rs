//! One request with data points becomes several, none of which is larger than what collectors take.

use std::mem::take;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum};
use prost::Message;

/// Bytes of metrics in one request, before compression; the resource comes on top. A gRPC server takes 4 MiB unless it
/// is told otherwise (the Collector's `max_recv_msg_size_mib`), a proxy in between often less (ingress-nginx: 1 MiB of
/// body).
const MAX_METRICS: usize = 900 << 10;

/// The same data points in requests that are small enough, in their order. A request that is small enough stays as it
/// is.
pub(super) fn split(request: ExportMetricsServiceRequest) -> Vec<ExportMetricsServiceRequest> {
    if request.encoded_len() <= MAX_METRICS {
        return vec![request];
    }
    let mut parts = Vec::new();
    for mut of_resource in request.resource_metrics {
        for mut of_scope in take(&mut of_resource.scope_metrics) {
            let metrics = take(&mut of_scope.metrics);
            let mut part = |metrics| {
                let scope_metrics = vec![ScopeMetrics { metrics, ..of_scope.clone() }];
                parts.push(ExportMetricsServiceRequest {
                    resource_metrics: vec![ResourceMetrics { scope_metrics, ..of_resource.clone() }],
                });
            };
            let (mut filled, mut room) = (Vec::new(), MAX_METRICS);
            for piece in metrics.into_iter().flat_map(pieces) {
                let size = piece.encoded_len();
                if size > room && !filled.is_empty() {
                    part(take(&mut filled));
                    room = MAX_METRICS;
                }
                room = room.saturating_sub(size);
                filled.push(piece);
            }
            if !filled.is_empty() {
                part(filled);
            }
        }
    }
    parts
}

/// How many data points there are.
pub(super) fn data_points(request: &ExportMetricsServiceRequest) -> u64 {
    let scopes = request.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
    let counts = scopes.flat_map(|scope| &scope.metrics).map(|metric| match &metric.data {
        Some(Data::Gauge(gauge)) => gauge.data_points.len(),
        Some(Data::Sum(sum)) => sum.data_points.len(),
        Some(Data::Histogram(histogram)) => histogram.data_points.len(),
        Some(Data::ExponentialHistogram(histogram)) => histogram.data_points.len(),
        Some(Data::Summary(summary)) => summary.data_points.len(),
        None => 0,
    });
    counts.sum::<usize>() as u64
}

/// One metric as several that are small enough. The agent's histograms have one data point each and stay whole.
fn pieces(mut metric: Metric) -> Vec<Metric> {
    let data = metric.data.take();
    let piece = |data| Metric { data: Some(data), ..metric.clone() };
    match data {
        Some(Data::Gauge(gauge)) => {
            chunks(gauge.data_points).map(|data_points| piece(Data::Gauge(Gauge { data_points }))).collect()
        }
        Some(Data::Sum(sum)) => {
            let Sum { data_points, aggregation_temporality, is_monotonic } = sum;
            chunks(data_points)
                .map(|data_points| piece(Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic })))
                .collect()
        }
        data => vec![Metric { data, ..metric }],
    }
}

/// In their order, so many together that they are small enough.
fn chunks(points: Vec<NumberDataPoint>) -> impl Iterator<Item = Vec<NumberDataPoint>> {
    let mut points = points.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut chunk = vec![points.next()?];
        // With the tag and the length of each: at most 6 bytes.
        let mut size = chunk[0].encoded_len() + 6;
        while let Some(next) = points.next_if(|next| size + next.encoded_len() + 6 <= MAX_METRICS / 2) {
            size += next.encoded_len() + 6;
            chunk.push(next);
        }
        Some(chunk)
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "a failed test panics")]

    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
    use opentelemetry_proto::tonic::resource::v1::Resource;

    use super::*;

    /// Each point has its number, and a text of so many bytes.
    fn points(numbers: std::ops::Range<u64>, bytes: usize) -> Vec<NumberDataPoint> {
        let value = Some(AnyValue { value: Some(any_value::Value::StringValue("x".repeat(bytes))) });
        let attributes = vec![KeyValue { key: "k".to_owned(), value, ..KeyValue::default() }];
        numbers
            .map(|number| NumberDataPoint {
                time_unix_nano: number,
                attributes: attributes.clone(),
                ..NumberDataPoint::default()
            })
            .collect()
    }

    fn request(metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
        let resource = Some(Resource { dropped_attributes_count: 7, ..Resource::default() });
        let scope_metrics = vec![ScopeMetrics { metrics, schema_url: "scope".to_owned(), ..ScopeMetrics::default() }];
        ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics { resource, scope_metrics, schema_url: "resource".to_owned() }],
        }
    }

    fn metric(name: &str, data: Data) -> Metric {
        Metric { name: name.to_owned(), unit: "1".to_owned(), data: Some(data), ..Metric::default() }
    }

    /// Of each part its metrics, and of these the name and the numbers of the points.
    fn told(parts: &[ExportMetricsServiceRequest]) -> Vec<(String, Vec<u64>)> {
        let mut told: Vec<(String, Vec<u64>)> = Vec::new();
        for metric in parts.iter().flat_map(|part| &part.resource_metrics[0].scope_metrics[0].metrics) {
            let points = match &metric.data {
                Some(Data::Gauge(gauge)) => &gauge.data_points,
                Some(Data::Sum(sum)) => {
                    assert!(sum.is_monotonic && sum.aggregation_temporality == 2, "{sum:?}");
                    &sum.data_points
                }
                other => panic!("{other:?}"),
            };
            let numbers = points.iter().map(|point| point.time_unix_nano);
            match told.last_mut() {
                Some((name, known)) if *name == metric.name => known.extend(numbers),
                _ => told.push((metric.name.clone(), numbers.collect())),
            }
        }
        told
    }

    #[test]
    fn all_points_are_in_requests_that_a_collector_takes() {
        let sum = |data_points| Data::Sum(Sum { data_points, aggregation_temporality: 2, is_monotonic: true });
        let gauge = |data_points| Data::Gauge(Gauge { data_points });
        // (points, bytes of each, parts at least)
        for (number, bytes, least) in [(10, 10, 1), (5000, 500, 3), (20_000, 300, 7), (3, 2 << 20, 6)] {
            let whole = request(vec![
                metric("a", sum(points(0..number, bytes))),
                metric("b", gauge(points(0..number, bytes))),
                metric("c", gauge(points(0..1, 1))),
            ]);
            let (expected, count) = (told(std::slice::from_ref(&whole)), data_points(&whole));
            let parts = split(whole);
            assert!(parts.len() >= least && (least > 1 || parts.len() == 1), "{number} of {bytes}: {}", parts.len());
            assert_eq!(told(&parts), expected);
            assert_eq!(parts.iter().map(data_points).sum::<u64>(), count);
            for part in &parts {
                let [of_resource] = &part.resource_metrics[..] else { panic!("{part:?}") };
                assert_eq!(of_resource.resource.as_ref().map(|resource| resource.dropped_attributes_count), Some(7));
                assert_eq!(
                    (of_resource.schema_url.as_str(), of_resource.scope_metrics[0].schema_url.as_str()),
                    ("resource", "scope")
                );
                assert!(bytes > MAX_METRICS || part.encoded_len() < 1 << 20, "{}", part.encoded_len());
            }
        }
    }

    #[test]
    fn nothing_is_a_request_too() {
        assert_eq!(split(ExportMetricsServiceRequest::default()).len(), 1);
    }
}
