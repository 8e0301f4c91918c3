//! The pipeline without a kernel: kills in, OTLP as the collector decodes it and the text of `/metrics` out. Needs no
//! privilege.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod bounds;
mod kills;
mod stage;

use std::collections::BTreeMap;
use std::time::Duration;

use kills::{CONTAINER, POD, kill, kill_at, member, stranger, time};
use oom_watcher::diagnostics;
use oom_watcher::export::otlp::{Answer, Receiver};
use oom_watcher::kill::Kill;
use opentelemetry::trace::TracerProvider;
use opentelemetry_proto::tonic::trace::v1::Span;
use stage::{Stage, collector, received, shown, value};
use tracing_subscriber::layer::SubscriberExt;

/// The series of the contract that come of kills.
const OWNED: &[&str] = &[
    "oom_kills_total",
    "oom_kills_per_node_total",
    "oom_memory_usage_bytes",
    "oom_last_timestamp",
    "oom_incidents_total",
    "oom_memory_limit_bytes",
];

#[tokio::test]
async fn without_kills_the_node_has_a_zero_and_nobody_else_a_series() {
    let stage = Stage::start(None, &[]);
    let expected = [
        "# HELP oom_kills_per_node_total Processes that the kernel's OOM killer killed on the node, whoever owned them",
        "# TYPE oom_kills_per_node_total counter",
        "oom_kills_per_node_total{node=\"node-a\"} 0",
    ];
    assert_eq!(stage.series(OWNED).await, expected);
}

#[tokio::test]
async fn a_kill_of_a_kubernetes_container_has_the_series_of_the_contract() {
    let mut stage = Stage::start(None, &[]);
    stage.kill([kill(4242)]);
    let lines = stage.series(OWNED).await;
    let samples: Vec<&str> = lines.iter().map(String::as_str).filter(|line| !line.starts_with('#')).collect();
    let rest = r#"namespace="",node="node-a",pod="""#;
    let owner = format!(r#"container="5c1b9a3b1f0d",{rest}"#);
    let usage =
        |kind: &str| format!(r#"oom_memory_usage_bytes{{container="5c1b9a3b1f0d",memory_type="{kind}",{rest}}}"#);
    let expected = [
        format!(r#"oom_incidents_total{{{owner},scope="container"}} 1"#),
        r#"oom_kills_per_node_total{node="node-a"} 1"#.to_owned(),
        format!("oom_kills_total{{{owner}}} 1"),
        format!("oom_last_timestamp{{{owner}}} 1790000000"),
        format!("oom_memory_limit_bytes{{{owner}}} 268435456"),
        format!("{} 209715200", usage("anon_rss")),
        format!("{} 3145728", usage("file_rss")),
        format!("{} 524288", usage("pgtables")),
        format!("{} 1048576", usage("shmem_rss")),
        format!("{} 0", usage("swap")),
        format!("{} 536870912", usage("total_vm")),
    ];
    assert_eq!(samples, expected);
    let kinds: BTreeMap<&str, &str> =
        lines.iter().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let expected = ["gauge", "counter"]
        .map(|kind| kinds.iter().filter(|(_, found)| **found == kind).map(|(name, _)| *name).collect::<Vec<_>>());
    assert_eq!(expected[0], ["oom_last_timestamp", "oom_memory_limit_bytes", "oom_memory_usage_bytes"]);
    assert_eq!(expected[1], ["oom_incidents_total", "oom_kills_per_node_total", "oom_kills_total"]);
}

#[tokio::test]
async fn a_kill_becomes_one_log_record_with_everything_known() {
    let collector = collector();
    let mut stage = Stage::start(Some(collector.address()), &[]);
    stage.kill([kill(4242)]);
    let received = received(&collector, 1, 1).await;
    let records: Vec<_> = received.records().collect();
    let [record] = records[..] else { panic!("{records:?}") };
    assert_eq!(
        (record.event_name.as_str(), record.severity_number, record.severity_text.as_str()),
        ("oom_watcher.oom_kill", 17, "ERROR")
    );
    assert_eq!(Duration::from_nanos(record.time_unix_nano), time(0).duration_since(std::time::UNIX_EPOCH).unwrap());
    let body = "The OOM killer killed python3 (pid 4242) of container 5c1b9a3b1f0d in the pod with uid \
        8d6e2c1a-3f4b-4c5d-9e6f-7a8b9c0d1e2f because its container used 256.0 MiB of the limit of 256.0 MiB; the \
        process itself held 204.0 MiB; an allocation by worker-3 (pid 77) triggered it; its container keeps running";
    assert_eq!(value(record.body.as_ref()), format!("{body:?}"));
    let id = kill(4242).id.0;
    let path = kills::PATH;
    let expected = [
        format!("container.id={CONTAINER:?}"),
        "k8s.node.name=\"node-a\"".to_owned(),
        format!("k8s.pod.uid={POD:?}"),
        format!("log.record.uid=\"{id}\""),
        "oom_watcher.cgroup.id=2".to_owned(),
        "oom_watcher.cgroup.limit=268435456".to_owned(),
        "oom_watcher.cgroup.oom_group=false".to_owned(),
        "oom_watcher.cgroup.path_cut=false".to_owned(),
        "oom_watcher.cgroup.swap_usage=0".to_owned(),
        "oom_watcher.cgroup.usage=268431360".to_owned(),
        "oom_watcher.container.survived=true".to_owned(),
        "oom_watcher.incident.group_kill=false".to_owned(),
        format!("oom_watcher.incident.id=\"{id}\""),
        "oom_watcher.incident.kill=1".to_owned(),
        "oom_watcher.kill.sequence=4242".to_owned(),
        format!("oom_watcher.limit.cgroup={path:?}"),
        "oom_watcher.limit.cgroup_id=2".to_owned(),
        "oom_watcher.limit.size=268435456".to_owned(),
        "oom_watcher.limit.usage=268431360".to_owned(),
        "oom_watcher.memory.anon_rss=209715200".to_owned(),
        "oom_watcher.memory.exact=false".to_owned(),
        "oom_watcher.memory.file_rss=3145728".to_owned(),
        "oom_watcher.memory.pgtables=524288".to_owned(),
        "oom_watcher.memory.rss=213909504".to_owned(),
        "oom_watcher.memory.shmem_rss=1048576".to_owned(),
        "oom_watcher.memory.swap=0".to_owned(),
        "oom_watcher.memory.total_vm=536870912".to_owned(),
        "oom_watcher.owner.type=\"kubernetes\"".to_owned(),
        "oom_watcher.pod.qos_class=\"Burstable\"".to_owned(),
        "oom_watcher.scope.method=\"headroom\"".to_owned(),
        "oom_watcher.scope.type=\"container\"".to_owned(),
        format!("oom_watcher.trigger.cgroup={path:?}"),
        "oom_watcher.trigger.command=\"worker-3\"".to_owned(),
        "oom_watcher.trigger.pid=77".to_owned(),
        "oom_watcher.trigger.tid=78".to_owned(),
        "oom_watcher.victim.already_dying=false".to_owned(),
        "oom_watcher.victim.in_host_pid_namespace=false".to_owned(),
        "oom_watcher.victim.oom_score_adj=985".to_owned(),
        "oom_watcher.victim.tid=4242".to_owned(),
        "process.command=\"python3\"".to_owned(),
        "process.creation.time=\"2026-09-21T14:11:49.500Z\"".to_owned(),
        format!("process.linux.cgroup={path:?}"),
        "process.pid=4242".to_owned(),
        "process.real_user.id=1000".to_owned(),
        "process.vpid=17".to_owned(),
    ];
    assert_eq!(shown(&record.attributes), expected);

    let spans: Vec<_> = received.spans().collect();
    let [span] = spans[..] else { panic!("{spans:?}") };
    assert_eq!((&span.trace_id, &span.span_id), (&record.trace_id, &record.span_id));
    assert_eq!(
        (span.name.as_str(), span.start_time_unix_nano, span.parent_span_id.len()),
        ("oom_kill", record.time_unix_nano, 0)
    );
    assert!(span.end_time_unix_nano >= span.start_time_unix_nano, "{span:?}");
    let mut of_the_record =
        expected.into_iter().filter(|attribute| !attribute.starts_with("log.record.uid=")).collect::<Vec<_>>();
    of_the_record.push("oom_watcher.span.end=\"read\"".to_owned());
    of_the_record.sort();
    assert_eq!(shown(&span.attributes), of_the_record);
}

#[tokio::test]
async fn handling_a_kill_is_in_its_trace_and_exporting_it_is_not() {
    let collector = collector();
    let mut stage = Stage::start(Some(collector.address()), &[]);
    let tracer = stage.tracer_provider.as_ref().unwrap().tracer("oom-watcher");
    let _subscriber = tracing::subscriber::set_default(tracing_subscriber::registry().with(diagnostics::spans(tracer)));
    for pid in 1..=3 {
        stage.kill([kill(pid)]);
        // Each kill makes as much as the one before: nothing comes of what was exported in between.
        let received = received(&collector, pid as usize, 5 * pid as usize).await;
        assert_eq!((received.records().count(), received.spans().count()), (pid as usize, 5 * pid as usize));
        let record = received.records().last().unwrap();
        let spans: BTreeMap<&str, &Span> = received
            .spans()
            .filter(|span| span.trace_id == record.trace_id)
            .map(|span| (span.name.as_str(), span))
            .collect();
        assert_eq!(
            spans.keys().copied().collect::<Vec<_>>(),
            ["attribute", "hand_over", "handle", "oom_kill", "record"]
        );
        assert_eq!(spans["oom_kill"].span_id, record.span_id);
        assert_eq!(spans["handle"].parent_span_id, record.span_id);
        for child in ["attribute", "record", "hand_over"] {
            assert_eq!(spans[child].parent_span_id, spans["handle"].span_id, "{child}");
        }
        assert_eq!(shown(&spans["handle"].attributes), [format!("process.pid={pid}")]);
    }
}

#[tokio::test]
async fn a_kill_that_comes_twice_is_told_once_and_counted() {
    let collector = collector();
    let mut stage = Stage::start(Some(collector.address()), &[]);
    // The third is only there to be waited for.
    stage.kill([kill(1), kill(1), kill(2)]);
    let received = received(&collector, 2, 2).await;
    assert_eq!(uids(received.records()), [kill(1), kill(2)].map(|kill| kill.id.0.to_string()));
    assert_eq!(received.spans().count(), 2);
    let metrics = stage.metrics().await;
    for line in [
        r#"oom_kills_per_node_total{node="node-a"} 2"#,
        r#"oom_kills_total{container="5c1b9a3b1f0d",namespace="",node="node-a",pod=""} 2"#,
        r#"oom_watcher_events_ignored_total{node="node-a",reason="duplicate"} 1"#,
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn a_kill_without_owner_is_counted_with_the_reason() {
    let check = async |kill: Kill, reason: &str, container: &str| {
        let mut stage = Stage::start(None, &[]);
        stage.kill([kill]);
        let counted = stage
            .series(&["oom_watcher_kills_without_owner_total"])
            .await
            .into_iter()
            .filter(|line| line.ends_with(" 1"));
        assert_eq!(
            counted.collect::<Vec<_>>(),
            [format!("oom_watcher_kills_without_owner_total{{node=\"node-a\",reason=\"{reason}\"}} 1")]
        );
        let kills = stage.series(&["oom_kills_total"]).await.pop();
        assert_eq!(
            kills,
            Some(format!("oom_kills_total{{container=\"{container}\",namespace=\"\",node=\"node-a\",pod=\"\"}} 1")),
            "{reason}"
        );
    };
    let change = |change: fn(&mut Kill)| {
        let mut kill = kill(1);
        change(&mut kill);
        kill
    };
    check(change(|kill| (kill.cgroup_path, kill.cgroups) = (None, Vec::new())), "no_path", "").await;
    check(change(|kill| (kill.cgroup_path, kill.path_cut) = (Some("/a/b".to_owned()), true)), "path_cut", "").await;
    check(kill_at(1, "/"), "root_cgroup", "").await;
    check(kill_at(1, "/docker/short"), "malformed_id", "").await;
    // The pod is known, its container is not.
    check(kill_at(1, &format!("/kubepods/burstable/pod{POD}")), "pod_level", "").await;
    check(kill_at(1, &format!("/kubepods/burstable/pod{POD}/crio-conmon-{CONTAINER}")), "container_monitor", "").await;
    let mut sandbox = kill_at(1, &format!("/kubepods/burstable/pod{POD}/{CONTAINER}"));
    sandbox.victim.oom_score_adj = Some(-998);
    check(sandbox, "sandbox", "").await;
}

#[tokio::test]
async fn a_group_that_dies_at_once_is_one_incident_with_a_span_for_each() {
    let collector = collector();
    let mut stage = Stage::start(Some(collector.address()), &[]);
    stage.kill([member(1, 10), member(2, 200), member(3, 10)]);
    let received = received(&collector, 3, 3).await;
    let spans: Vec<&Span> = received.spans().collect();
    let [root, children @ ..] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!((root.parent_span_id.len(), children.len()), (0, 2));
    for child in children {
        assert_eq!((&child.trace_id, &child.parent_span_id), (&root.trace_id, &root.span_id));
    }
    let mut ids: Vec<_> = spans.iter().map(|span| &span.span_id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 3);
    for (number, record) in (1..).zip(received.records()) {
        let attributes = shown(&record.attributes);
        for expected in
            [format!("oom_watcher.incident.kill={number}"), format!("oom_watcher.incident.id=\"{}\"", kill(1).id.0)]
        {
            assert!(attributes.contains(&expected), "{expected}: {attributes:?}");
        }
    }
    let series = stage.series(&["oom_kills_total", "oom_incidents_total", "oom_memory_usage_bytes"]).await;
    let is_there = |start: &str, end: &str| {
        assert!(series.iter().any(|line| line.starts_with(start) && line.ends_with(end)), "{start}: {series:?}")
    };
    is_there("oom_kills_total{", " 3");
    is_there("oom_incidents_total{", ",scope=\"container\"} 1");
    // The largest victim's.
    is_there("oom_memory_usage_bytes{container=\"5c1b9a3b1f0d\",memory_type=\"anon_rss\"", " 209715200");
}

#[tokio::test]
async fn data_points_have_the_names_of_the_conventions() {
    let collector = collector();
    let mut stage = Stage::start(Some(collector.address()), &[("OTEL_METRIC_EXPORT_INTERVAL", "100")]);
    stage.kill([kill(1)]);
    let all = [
        "oom_kills",
        "oom_kills_per_node",
        "oom_memory_usage",
        "oom_last_timestamp",
        "oom_incidents",
        "oom_memory_limit",
    ];
    let enough = collector
        .wait_for(
            |received| all.iter().all(|name| received.data_points().any(|(metric, _)| metric.name == *name)),
            stage::PATIENCE,
        )
        .await;
    let received = enough.unwrap();
    let check = |name: &str, expected: &[&str]| {
        let mut points: Vec<_> = received
            .data_points()
            .filter(|(metric, _)| metric.name == name)
            .map(|(_, point)| shown(&point.attributes))
            .collect();
        points.sort();
        assert_eq!(points[0], expected, "{name}");
    };
    let (container, node) = ("k8s.container.name=\"5c1b9a3b1f0d\"", "k8s.node.name=\"node-a\"");
    check("oom_kills", &[container, node]);
    check("oom_kills_per_node", &[node]);
    check("oom_memory_usage", &[container, node, "oom_watcher.memory.type=\"anon_rss\""]);
    check("oom_last_timestamp", &[container, node]);
    check("oom_incidents", &[container, node, "oom_watcher.scope.type=\"container\""]);
    check("oom_memory_limit", &[container, node]);
    check("oom_watcher.export_items", &[node, "oom_watcher.signal=\"logs\""]);
    let attributes = &received.metrics[0].resource_metrics[0].resource.as_ref().unwrap().attributes;
    assert!(shown(attributes).contains(&"service.instance.id=\"node-a\"".to_owned()), "{attributes:?}");
}

#[tokio::test]
async fn an_owner_without_kills_for_the_expiry_leaves_both_outputs() {
    let collector = collector();
    let mut stage = Stage::start(Some(collector.address()), &[("OTEL_METRIC_EXPORT_INTERVAL", "100")]);
    stage.kill([kill(1)]);
    let hour = 3600;
    stage.pipeline.expire(time(hour));
    assert_eq!(stage.series(&["oom_kills_total"]).await.len(), 3, "an hour is the limit, not above it");
    collector
        .wait_for(|received| received.data_points().any(|(metric, _)| metric.name == "oom_kills"), stage::PATIENCE)
        .await
        .unwrap();
    stage.pipeline.expire(time(hour + 1));
    let left = stage.series(OWNED).await;
    assert_eq!(
        left.iter().filter(|line| !line.starts_with('#')).collect::<Vec<_>>(),
        ["oom_kills_per_node_total{node=\"node-a\"} 1"]
    );
    // The newest request may have been on its way before the expiry.
    let gone = collector.wait_for(
        |received| {
            let names = received
                .metrics
                .last()
                .into_iter()
                .flat_map(|request| &request.resource_metrics)
                .flat_map(|resource| &resource.scope_metrics);
            let names: Vec<_> = names.flat_map(|scope| &scope.metrics).map(|metric| metric.name.as_str()).collect();
            names.contains(&"oom_kills_per_node") && !names.contains(&"oom_kills")
        },
        stage::PATIENCE,
    );
    gone.await.unwrap();
}

#[tokio::test]
async fn a_thousand_kills_of_a_thousand_owners_all_arrive_in_order() {
    const KILLS: u32 = 1000;
    let collector = collector();
    let mut stage = Stage::start(Some(collector.address()), &[]);
    stage.kill((1..=KILLS).map(stranger));
    let received = received(&collector, KILLS as usize, KILLS as usize).await;
    let expected: Vec<String> = (1..=KILLS).map(|pid| stranger(pid).id.0.to_string()).collect();
    assert_eq!(uids(received.records()), expected);
    assert_eq!(received.spans().count(), KILLS as usize);
    let metrics = stage.metrics().await;
    let of =
        |start: &str| metrics.lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect::<Vec<_>>();
    let owners = of("oom_kills_total{");
    assert_eq!((owners.len(), owners.iter().all(|line| line.ends_with(" 1"))), (KILLS as usize, true));
    assert_eq!(of("oom_kills_per_node_total{"), ["oom_kills_per_node_total{node=\"node-a\"} 1000"]);
    assert!(of("oom_watcher_export_lost_total{").iter().all(|line| line.ends_with(" 0")), "{metrics}");
    assert_eq!(
        of("oom_watcher_series_overflow_kills_total{"),
        ["oom_watcher_series_overflow_kills_total{node=\"node-a\"} 0"]
    );
}

#[tokio::test]
async fn what_a_collector_missed_arrives_when_it_is_there() {
    // An address of this machine that no other test asks a free port of.
    let address = Receiver::start("127.8.8.8:0".parse().unwrap()).unwrap().address();
    let mut stage = Stage::start(Some(address), &[]);
    stage.kill((1..=10).map(kill));
    let failed = |signal: &'static str| {
        move |line: &str| {
            line.starts_with("oom_watcher_export_failures_total{") && line.contains(signal) && !line.ends_with(" 0")
        }
    };
    stage.wait_for_series("a failure of log records", failed("logs")).await;
    stage.wait_for_series("a failure of spans", failed("traces")).await;
    let collector = Receiver::start(address).unwrap();
    stage.kill((11..=20).map(kill));
    let received = received(&collector, 20, 20).await;
    assert_eq!(uids(received.records()), (1..=20).map(|pid| kill(pid).id.0.to_string()).collect::<Vec<_>>());
    assert_eq!(received.spans().count(), 20);
}

#[tokio::test]
async fn what_waits_at_the_end_is_delivered_or_told() {
    let collector = collector();
    let mut stage = Stage::start(Some(collector.address()), &[]);
    stage.kill((1..=10).map(kill));
    assert_eq!(stage.end(stage::PATIENCE).await, (0, 0));
    assert_eq!((collector.records().len(), collector.spans().len()), (10, 10));

    collector.answer(Answer::Hang);
    let mut stage = Stage::start(Some(collector.address()), &[]);
    stage.kill((1..=10).map(kill));
    assert_eq!(stage.end(Duration::from_millis(10)).await, (10, 10));
}

/// What identifies each of the records.
fn uids<'a>(records: impl Iterator<Item = &'a opentelemetry_proto::tonic::logs::v1::LogRecord>) -> Vec<String> {
    let uid = |record: &opentelemetry_proto::tonic::logs::v1::LogRecord| {
        shown(&record.attributes)
            .iter()
            .find_map(|attribute| Some(attribute.strip_prefix("log.record.uid=\"")?.trim_end_matches('"').to_owned()))
    };
    records.map(|record| uid(record).unwrap()).collect()
}
