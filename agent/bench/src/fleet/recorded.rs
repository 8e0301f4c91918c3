//! What one real agent sends and serves, and the same with the names of another node.
//!
//! The agent watches a node of as many containers as [`CONTAINERS`], [`KILLS`] of which are killed for real. The
//! Kubernetes API is a stand-in: here it only gives names.

use std::time::{SystemTime, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use prost::Message;
use prost::bytes::Bytes;
use serde_json::json;

use oom_watcher_testkit::agent::{Agent, NODE};
use oom_watcher_testkit::api_server::ApiServer;
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::exposition::{parse_exposition, total};
use oom_watcher_testkit::kills::make;
use oom_watcher_testkit::kills::report::Container;
use oom_watcher_testkit::wait::eventually;

/// Containers of a node, each the only one of its pod.
pub(crate) const CONTAINERS: usize = 30;
/// Of these are killed.
pub(crate) const KILLS: usize = 2;
/// Of each kill: its own, and those of its handling.
pub(crate) const SPANS: usize = 5;
/// What oom-maker takes its names from.
const SEED: u32 = 4711;

/// One node's traffic.
pub(crate) struct Recorded {
    page: String,
    metrics: ExportMetricsServiceRequest,
    /// One or more for each kill, as they were sent.
    logs: Vec<ExportLogsServiceRequest>,
    traces: Vec<ExportTraceServiceRequest>,
    /// When the last of these was made, in nanoseconds since 1970.
    last: u64,
    containers: Vec<Container>,
}

impl Recorded {
    /// Watches one agent, from the pods that it gets to know to the kills in their containers.
    pub(crate) fn of_one_node() -> Self {
        // The names alone; nobody watches these kills.
        let burst = |kills: usize| make(&format!("burst {kills} --seed {SEED} --limit-kib 1024 --concurrency 1"));
        let containers: Vec<_> = burst(CONTAINERS).cgroups.into_iter().filter_map(|cgroup| cgroup.container).collect();
        let (api, collector) = (ApiServer::start(), Collector::start());
        for (index, container) in containers.iter().enumerate() {
            let (image, id) = ("registry.example/app:1.2", format!("containerd://{}", container.container_id));
            let spec = json!({"name": "app", "image": image, "resources": {"limits": {"memory": "1Mi"}}});
            let status = json!({"name": "app", "image": image, "restartCount": 0, "containerID": id});
            api.apply(json!({
                "metadata": {"namespace": "shop", "name": format!("web-{NODE}-{index:02}"), "uid": container.pod_uid},
                "spec": {"containers": [spec]},
                "status": {"containerStatuses": [status]},
            }));
        }
        let settings = api.settings("5s").display().to_string();
        let environment = [&collector.environment()[..], &[("OTEL_METRIC_EXPORT_INTERVAL", "1000")]].concat();
        let agent = Agent::start(&environment, &["--config", &settings]);
        eventually("pods", || (total(&agent.metrics(), "oom_watcher_pods") as usize == CONTAINERS).then_some(()));
        burst(KILLS);
        let is_whole = |request: &ExportMetricsServiceRequest| kills(request) >= Some(KILLS as i64);
        let metrics = eventually("export with the kills", || {
            collector.look(|received| received.metrics.iter().rfind(|request| is_whole(request)).cloned())
        });
        eventually("records and spans", || {
            let all = |received: &oom_watcher::export::otlp::Received| {
                received.records().count() >= KILLS && received.spans().count() >= SPANS * KILLS
            };
            collector.look(all).then_some(())
        });
        assert_eq!(
            total(&agent.metrics(), "oom_kills_per_node_total") as usize,
            KILLS,
            "others make kills on this machine, which would be recorded, too"
        );
        let (logs, traces) = collector.look(|received| (received.logs.clone(), received.traces.clone()));
        let observed = collector.look(|received| received.records().map(|record| record.observed_time_unix_nano).max());
        Self { page: agent.get("/metrics"), metrics, logs, traces, last: observed.unwrap_or_default(), containers }
    }

    /// `/metrics` of that node.
    pub(crate) fn page(&self, node: usize) -> String {
        self.names(node).rename(&self.page)
    }

    /// An export of metrics of that node, as if it were made at that time.
    pub(crate) fn metrics(&self, node: usize, at: SystemTime) -> Bytes {
        let (names, at, mut request) = (self.names(node), nanoseconds(at), self.metrics.clone());
        for resource in &mut request.resource_metrics {
            resource.resource.iter_mut().for_each(|resource| names.rename_all(&mut resource.attributes));
            for metric in resource.scope_metrics.iter_mut().flat_map(|scope| &mut scope.metrics) {
                match metric.data.as_mut().unwrap() {
                    Data::Gauge(gauge) => gauge.data_points.iter_mut().for_each(|point| {
                        names.rename_all(&mut point.attributes);
                        point.time_unix_nano = at;
                    }),
                    Data::Sum(sum) => sum.data_points.iter_mut().for_each(|point| {
                        names.rename_all(&mut point.attributes);
                        point.time_unix_nano = at;
                    }),
                    Data::Histogram(histogram) => histogram.data_points.iter_mut().for_each(|point| {
                        names.rename_all(&mut point.attributes);
                        point.time_unix_nano = at;
                    }),
                    other => panic!("the agent has no such metrics: {other:?}"),
                }
            }
        }
        request.encode_to_vec().into()
    }

    /// The log records of that node's kills, as if the last was made at that time.
    pub(crate) fn logs(&self, node: usize, at: SystemTime) -> Vec<Bytes> {
        let (names, later, mut requests) = (self.names(node), nanoseconds(at) - self.last, self.logs.clone());
        for resource in requests.iter_mut().flat_map(|request| &mut request.resource_logs) {
            resource.resource.iter_mut().for_each(|resource| names.rename_all(&mut resource.attributes));
            for record in resource.scope_logs.iter_mut().flat_map(|scope| &mut scope.log_records) {
                names.rename_all(&mut record.attributes);
                record.body.iter_mut().for_each(|body| names.rename_value(body));
                names.rename_id(&mut record.trace_id);
                names.rename_id(&mut record.span_id);
                record.time_unix_nano += later;
                record.observed_time_unix_nano += later;
            }
        }
        requests.iter().map(|request| request.encode_to_vec().into()).collect()
    }

    /// The spans of that node's kills, later by as much.
    pub(crate) fn traces(&self, node: usize, at: SystemTime) -> Vec<Bytes> {
        let (names, later, mut requests) = (self.names(node), nanoseconds(at) - self.last, self.traces.clone());
        for resource in requests.iter_mut().flat_map(|request| &mut request.resource_spans) {
            resource.resource.iter_mut().for_each(|resource| names.rename_all(&mut resource.attributes));
            for span in resource.scope_spans.iter_mut().flat_map(|scope| &mut scope.spans) {
                names.rename_all(&mut span.attributes);
                for id in [&mut span.trace_id, &mut span.span_id, &mut span.parent_span_id]
                    .into_iter()
                    .filter(|id| !id.is_empty())
                {
                    names.rename_id(id);
                }
                span.start_time_unix_nano += later;
                span.end_time_unix_nano += later;
                for event in &mut span.events {
                    names.rename_all(&mut event.attributes);
                    event.time_unix_nano += later;
                }
            }
        }
        requests.iter().map(|request| request.encode_to_vec().into()).collect()
    }

    /// What a node sends, in numbers.
    pub(crate) fn sizes(&self) -> Sizes {
        let sum = |lengths: &mut dyn Iterator<Item = usize>| lengths.sum::<usize>() as f64 / KILLS as f64;
        Sizes {
            series: parse_exposition(&self.page).len(),
            page: self.page.len(),
            points: all(&self.metrics).map(count).sum(),
            metrics: self.metrics.encoded_len(),
            logs_of_kill: sum(&mut self.logs.iter().map(Message::encoded_len)),
            traces_of_kill: sum(&mut self.traces.iter().map(Message::encoded_len)),
        }
    }

    fn names(&self, node: usize) -> Names {
        let mut names = vec![(NODE.to_owned(), name(node))];
        for Container { pod_uid, container_id } in &self.containers {
            // The first digits are the node's; the others tell its containers apart.
            let (from, to) = (pod_uid[..13].to_owned(), format!("{node:08x}{}", &pod_uid[8..13]));
            // As cgroups of systemd have it.
            names.push((from.replace('-', "_"), to.replace('-', "_")));
            names.push((from, to));
            names.push((container_id[..12].to_owned(), format!("{node:08x}{}", &container_id[8..12])));
        }
        Names { names, node }
    }
}

/// What one node sends and serves.
pub(crate) struct Sizes {
    pub(crate) series: usize,
    /// Bytes of `/metrics`.
    pub(crate) page: usize,
    /// Data points of an export.
    pub(crate) points: usize,
    /// Bytes of an export of metrics.
    pub(crate) metrics: usize,
    pub(crate) logs_of_kill: f64,
    pub(crate) traces_of_kill: f64,
}

/// The name of the node with that number.
pub(crate) fn name(node: usize) -> String {
    format!("node-{node:05}")
}

/// What is put in the place of what.
struct Names {
    names: Vec<(String, String)>,
    node: usize,
}

impl Names {
    fn rename(&self, text: &str) -> String {
        self.names
            .iter()
            .fold(text.to_owned(), |text, (from, to)| if text.contains(from) { text.replace(from, to) } else { text })
    }

    fn rename_all(&self, attributes: &mut [KeyValue]) {
        for attribute in attributes {
            match &mut attribute.value {
                // A random one, of each start of an agent.
                Some(AnyValue { value: Some(Value::StringValue(id)) }) if attribute.key == "service.instance.id" => {
                    id.replace_range(..8, &format!("{:08x}", self.node));
                }
                Some(AnyValue { value: Some(Value::StringValue(host)) }) if attribute.key == "host.name" => {
                    *host = name(self.node)
                }
                Some(value) => self.rename_value(value),
                None => {}
            }
        }
    }

    fn rename_value(&self, value: &mut AnyValue) {
        match &mut value.value {
            Some(Value::StringValue(text)) => *text = self.rename(text),
            Some(Value::ArrayValue(list)) => list.values.iter_mut().for_each(|value| self.rename_value(value)),
            Some(Value::KvlistValue(list)) => self.rename_all(&mut list.values),
            _ => {}
        }
    }

    /// The same node's ids stay related to each other.
    fn rename_id(&self, id: &mut [u8]) {
        for (byte, node) in id.iter_mut().zip((self.node as u32).to_be_bytes()) {
            *byte ^= node;
        }
    }
}

fn all(request: &ExportMetricsServiceRequest) -> impl Iterator<Item = &Metric> {
    request.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics).flat_map(|scope| &scope.metrics)
}

/// All that is counted of containers in it.
fn kills(request: &ExportMetricsServiceRequest) -> Option<i64> {
    let Data::Sum(sum) = all(request).find(|metric| metric.name == "oom_kills")?.data.as_ref()? else { return None };
    Some(
        sum.data_points
            .iter()
            .filter_map(|point| if let Some(Number::AsInt(value)) = point.value { Some(value) } else { None })
            .sum(),
    )
}

fn count(metric: &Metric) -> usize {
    match metric.data.as_ref().unwrap() {
        Data::Gauge(gauge) => gauge.data_points.len(),
        Data::Sum(sum) => sum.data_points.len(),
        Data::Histogram(histogram) => histogram.data_points.len(),
        other => panic!("the agent has no such metrics: {other:?}"),
    }
}

fn nanoseconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}
