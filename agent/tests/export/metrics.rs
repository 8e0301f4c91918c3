//! The instruments, read from both outputs.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use oom_watcher::export::instruments::{Build, Keys, Observed, Recorder};
use oom_watcher::export::otlp::{Answer, Otlp, Received, Receiver};
use oom_watcher::export::prometheus::Bridge;
use oom_watcher::export::settings;
use oom_watcher::kill::{Missed, Owner, Why};
use oom_watcher::record::schema::{self, Kind};
use oom_watcher::record::series::{FromZero, Limits, Table};
use oom_watcher::stats::Stats;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, NumberDataPoint, metric};
use parking_lot::Mutex;
use tonic::Code;

use crate::setup::{ANY, LONG, OWNERS, deadline, grpc, incident, kill, owner, settings, time, until};

struct Agent {
    owners: usize,
    table: Arc<Mutex<Table>>,
    stats: Arc<Stats>,
}

impl Agent {
    fn new() -> Self {
        Self::of(OWNERS)
    }

    /// With so many owners at most.
    fn of(owners: usize) -> Self {
        let table = Table::new(Limits { owners, expiry: Duration::from_secs(60), from_zero: FromZero::Kills });
        Self { owners, table: Arc::new(Mutex::new(table)), stats: Arc::default() }
    }

    fn kill(&self, pid: u32, owner: &Owner) {
        let kill = kill(pid);
        self.table.lock().record(&kill, owner, &incident(&kill));
        self.stats.kills.add(1);
    }

    fn bridge(&self) -> Bridge {
        let bridge = Bridge::new(self.owners).unwrap();
        // A histogram has a series from its first value on.
        self.register(bridge.provider(), Keys::Prometheus).reclaimed(Duration::from_millis(3));
        bridge
    }

    fn otlp(&self, receiver: &Receiver, interval: Duration) -> Otlp {
        let settings = settings::Otlp {
            logs: None,
            traces: None,
            metric_interval: interval,
            ..settings(&grpc(receiver.address()))
        };
        Otlp::start(&settings, &self.stats, self.owners, |provider| drop(self.register(provider, Keys::Semantic)))
            .unwrap()
    }

    fn register(&self, provider: &opentelemetry_sdk::metrics::SdkMeterProvider, keys: Keys) -> Recorder {
        let build = Build { version: "1.2.3".to_owned(), probe: "0123abcd".to_owned() };
        let Self { table, owners, stats, .. } = self;
        Observed { node: "node-a", table, owners: *owners, stats, build: &build }.register(provider, keys)
    }
}

fn text(bridge: &Bridge) -> String {
    String::from_utf8(bridge.text().unwrap()).unwrap()
}

#[test]
fn the_page_has_the_names_and_labels_of_the_contract() {
    let agent = Agent::new();
    agent.kill(1, &owner("web-1"));
    agent.kill(2, &owner("web-1"));
    agent.kill(3, &Owner::Unit { name: "cron\"job\".service".to_owned() });
    agent.stats.ring_full.set(4);
    agent.stats.kernel_kills.set(Some(12));
    agent.stats.pods.set(Some(3));
    agent.stats.missed(Missed::Away).reconstructed.add(2);
    agent.stats.missed(Missed::Dropped).without_owner.add(4);
    agent.stats.missed(Missed::Unexplained).reconstructed.add(1);
    agent.stats.count_without_owner(Why::Mount);
    agent.stats.attached.store(true, Ordering::Relaxed);
    agent.stats.logs.lost_queue_full.add(5);
    let text = text(&agent.bridge());
    let pod = r#"namespace="default",node="node-a",pod="web-1""#;
    let web = format!(r#"container="app",{pod}"#);
    let unit = r#"container="cron\"job\".service",namespace="",node="node-a",pod="""#;
    for line in [
        format!("oom_kills_total{{{web}}} 2"),
        format!("oom_kills_total{{{unit}}} 1"),
        // The second one was not the container's first process.
        format!("oom_survived_kills_total{{{web}}} 1"),
        r#"oom_kills_per_node_total{node="node-a"} 10"#.to_owned(),
        format!(r#"oom_memory_usage_bytes{{container="app",memory_type="anon_rss",{pod}}} 1000"#),
        format!(r#"oom_memory_usage_bytes{{container="app",memory_type="swap",{pod}}} 0"#),
        format!("oom_last_timestamp{{{web}}} 1790000000.123"),
        format!(r#"oom_incidents_total{{{web},scope="container"}} 2"#),
        format!("oom_memory_limit_bytes{{{web}}} 9000"),
        r#"oom_reclaim_seconds_bucket{node="node-a",le="0.0025"} 0"#.to_owned(),
        r#"oom_reclaim_seconds_bucket{node="node-a",le="0.005"} 1"#.to_owned(),
        r#"oom_reclaim_seconds_sum{node="node-a"} 0.003"#.to_owned(),
        r#"oom_watcher_kills_dropped_total{node="node-a",reason="ring_full"} 4"#.to_owned(),
        r#"oom_watcher_kills_dropped_total{node="node-a",reason="malformed"} 0"#.to_owned(),
        r#"oom_watcher_missed_kills_total{node="node-a",reason="away",reconstructed="true"} 2"#.to_owned(),
        r#"oom_watcher_missed_kills_total{node="node-a",reason="away",reconstructed="false"} 0"#.to_owned(),
        r#"oom_watcher_missed_kills_total{node="node-a",reason="dropped",reconstructed="false"} 4"#.to_owned(),
        r#"oom_watcher_unexplained_kills_total{node="node-a"} 1"#.to_owned(),
        r#"oom_watcher_kernel_kills_total{node="node-a"} 12"#.to_owned(),
        r#"oom_watcher_kills_without_owner_total{node="node-a",reason="mount"} 1"#.to_owned(),
        r#"oom_watcher_kills_without_owner_total{node="node-a",reason="no_path"} 0"#.to_owned(),
        r#"oom_watcher_export_lost_total{node="node-a",reason="queue_full",signal="logs"} 5"#.to_owned(),
        r#"oom_watcher_export_failures_total{node="node-a",signal="metrics"} 0"#.to_owned(),
        r#"oom_watcher_series{node="node-a"} 2"#.to_owned(),
        r#"oom_watcher_series_limit{node="node-a"} 10"#.to_owned(),
        r#"oom_watcher_probe_attached{node="node-a"} 1"#.to_owned(),
        r#"oom_watcher_probe_pinned{node="node-a"} 0"#.to_owned(),
        r#"oom_watcher_pods{node="node-a"} 3"#.to_owned(),
        r#"oom_watcher_pods_synced{node="node-a"} 0"#.to_owned(),
        r#"oom_watcher_build_info{node="node-a",probe="0123abcd",version="1.2.3"} 1"#.to_owned(),
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}\nis not in\n{text}");
    }
    assert!(!text.contains(&format!("oom_survived_kills_total{{{unit}")), "no container: {text}");
    // The kernel did not tell the page tables.
    assert!(!text.contains("pgtables"), "{text}");
    for extra in ["otel_scope", "target_info", "overflow=\"true\""] {
        assert!(!text.contains(extra), "{extra}: {text}");
    }

    let shown: BTreeSet<_> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_whitespace().next()).collect();
    let promised: BTreeSet<_> = schema::METRICS.iter().map(|metric| metric.prometheus).collect();
    assert_eq!(shown, promised);
    for metric in schema::METRICS {
        assert!(text.contains(&format!("# HELP {} {}\n", metric.prometheus, metric.help)), "{}", metric.name);
        let labels = |line: &str| {
            line.split_once('{')
                .unwrap()
                .1
                .split(',')
                .map(|label| label.split('=').next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let series = if metric.kind == Kind::Histogram {
            format!("{}_count{{", metric.prometheus)
        } else {
            format!("{}{{", metric.prometheus)
        };
        let samples: Vec<_> = text.lines().filter(|line| line.starts_with(&series)).collect();
        assert!(!samples.is_empty(), "{}", metric.name);
        assert!(samples.iter().all(|sample| labels(sample) == metric.labels), "{samples:?}");
    }
}

#[test]
fn what_the_kernel_does_not_count_is_not_shown_as_0() {
    let agent = Agent::new();
    assert!(!text(&agent.bridge()).contains("oom_watcher_kernel_kills_total"));
    agent.stats.kernel_kills.set(Some(0));
    assert!(text(&agent.bridge()).contains("oom_watcher_kernel_kills_total{node=\"node-a\"} 0\n"));
}

#[test]
fn a_node_without_kills_shows_that_it_has_none() {
    let text = text(&Agent::new().bridge());
    assert!(text.contains("oom_kills_per_node_total{node=\"node-a\"} 0\n"), "{text}");
}

#[tokio::test]
async fn a_series_that_is_gone_is_gone_from_both_outputs_at_once() {
    let agent = Agent::new();
    let bridge = agent.bridge();
    let receiver = Receiver::start(ANY).unwrap();
    let otlp = agent.otlp(&receiver, Duration::from_millis(50));
    agent.kill(1, &owner("web-1"));
    assert!(text(&bridge).contains("web-1"));
    let has_pod =
        |received: &Received| received.metrics.last().is_some_and(|request| format!("{request:?}").contains("web-1"));
    receiver.wait_for(has_pod, LONG).await.unwrap();

    agent.table.lock().expire(time(3600));
    assert!(!text(&bridge).contains("web-1"));
    receiver.wait_for(|received| !received.metrics.is_empty() && !has_pod(received), LONG).await.unwrap();
    // What one output read does not bring it back in the other.
    assert!(!text(&bridge).contains("web-1"));
    let seen = receiver.look(|received| received.metrics.len());
    let later = receiver.wait_for(|received| received.metrics.len() >= seen + 3, LONG).await.unwrap();
    assert!(!format!("{:?}", &later.metrics[seen..]).contains("web-1"));
    otlp.shutdown(deadline()).await;
}

#[tokio::test]
async fn as_many_owners_as_the_table_holds_fit_twice_over() {
    let agent = Agent::new();
    let bridge = agent.bridge();
    // One generation of pods replaced by another between two collections, and more than there is room for.
    for generation in ["a", "b"] {
        agent.table.lock().expire(time(3600));
        (0..50).for_each(|pod| agent.kill(pod, &owner(&format!("{generation}-{pod}"))));
        let text = text(&bridge);
        let shown = |name: &str| text.lines().filter(|line| line.starts_with(&format!("{name}{{"))).count();
        assert_eq!(
            (shown("oom_kills_total"), shown("oom_memory_usage_bytes")),
            (OWNERS + 1, (OWNERS + 1) * 5),
            "{text}"
        );
        assert!(!text.contains("otel_metric_overflow"), "{text}");
    }
}

#[tokio::test]
async fn data_points_have_semantic_attributes_and_are_cumulative() {
    let agent = Agent::new();
    agent.kill(1, &owner("web-1"));
    agent.kill(2, &Owner::Unit { name: "cron.service".to_owned() });
    let receiver = Receiver::start(ANY).unwrap();
    agent.otlp(&receiver, Duration::from_secs(3600)).shutdown(deadline()).await;

    let received = receiver.look(Clone::clone);
    let sets = |name: &str| -> Vec<Vec<(String, String)>> {
        let text = |value: Option<Value>| if let Some(Value::StringValue(text)) = value { text } else { String::new() };
        let set = |point: &NumberDataPoint| {
            let attributes = point.attributes.iter().cloned();
            attributes.map(|attribute| (attribute.key, text(attribute.value.and_then(|value| value.value)))).collect()
        };
        received.data_points().filter(|(metric, _)| metric.name == name).map(|(_, point)| set(point)).collect()
    };
    let check = |name: &str, expected: &[(&str, &str)]| {
        let expected: Vec<_> = expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        assert!(sets(name).contains(&expected), "{name}: {:?}", sets(name));
    };
    let (app, pod, namespace, node) = (
        ("k8s.container.name", "app"),
        ("k8s.pod.name", "web-1"),
        ("k8s.namespace.name", "default"),
        ("k8s.node.name", "node-a"),
    );
    check("oom_kills", &[app, namespace, node, pod]);
    check("oom_memory_limit", &[app, namespace, node, pod]);
    check("oom_memory_usage", &[app, namespace, node, pod, ("oom_watcher.memory.type", "anon_rss")]);
    // Not known is not there, never empty.
    check("oom_kills", &[("k8s.container.name", "cron.service"), node]);

    let metrics: Vec<_> =
        received.metrics.iter().flat_map(|request| &request.resource_metrics[0].scope_metrics[0].metrics).collect();
    let kills = metrics.iter().find(|metric| metric.name == "oom_kills").unwrap();
    assert_eq!(kills.unit, "{kill}");
    let Some(metric::Data::Sum(sum)) = &kills.data else { panic!("{kills:?}") };
    assert_eq!((sum.aggregation_temporality(), sum.is_monotonic), (AggregationTemporality::Cumulative, true));
    assert_eq!(received.metrics[0].resource_metrics[0].resource.as_ref().unwrap().attributes[0].key, "service.name");
    assert_eq!(agent.stats.metrics.sent.get(), received.data_points().count() as u64);
}

/// The receiver takes 4 MiB at once, as gRPC servers do.
#[tokio::test]
async fn more_data_points_than_a_collector_takes_at_once_arrive_in_several_requests() {
    let agent = Agent::of(4000);
    (0..4000).for_each(|pod| agent.kill(pod, &owner(&format!("web-{pod}"))));
    let receiver = Receiver::start(ANY).unwrap();
    agent.otlp(&receiver, Duration::from_secs(3600)).shutdown(deadline()).await;
    let received = receiver.look(Clone::clone);
    let sizes: Vec<_> = received.metrics.iter().map(prost::Message::encoded_len).collect();
    assert!(sizes.iter().sum::<usize>() > 4 << 20 && sizes.iter().all(|size| *size <= 1 << 20), "{sizes:?}");
    let kills: BTreeSet<_> = received
        .data_points()
        .filter(|(metric, _)| metric.name == "oom_kills")
        .map(|(_, point)| format!("{:?}", point.attributes))
        .collect();
    assert_eq!((kills.len(), agent.stats.metrics.sent.get()), (4000, received.data_points().count() as u64));
    assert_eq!(agent.stats.metrics.failures.get(), 0);
}

#[tokio::test]
async fn failed_exports_of_data_points_are_counted_and_the_next_one_tells_all() {
    let agent = Agent::new();
    agent.kill(1, &owner("web-1"));
    let receiver = Receiver::start(ANY).unwrap();
    receiver.answer(Answer::Refuse(Code::Unavailable));
    let otlp = agent.otlp(&receiver, Duration::from_millis(50));
    until("two failures", || agent.stats.metrics.failures.get() >= 2).await;
    receiver.answer(Answer::Ok);
    let received = receiver.wait_for(|received| !received.metrics.is_empty(), LONG).await.unwrap();
    assert!(format!("{:?}", received.metrics[0]).contains("web-1"));
    otlp.shutdown(deadline()).await;
    assert!(agent.stats.metrics.sent.get() > 0);
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_collector_of_data_points_that_hangs() {
    let agent = Agent::new();
    let receiver = Receiver::start(ANY).unwrap();
    receiver.answer(Answer::Hang);
    let otlp = agent.otlp(&receiver, Duration::from_secs(3600));
    let started = tokio::time::Instant::now();
    otlp.shutdown(started + Duration::from_millis(200)).await;
    // The SDK itself would wait for 5 s.
    assert!(started.elapsed() < Duration::from_secs(4));
}
