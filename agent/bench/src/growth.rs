//! `/metrics` and OTLP as the number of containers that were killed grows: each has ten series.

use std::time::{Duration, Instant};

use oom_watcher::export::otlp::Received;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::number_data_point;
use prost::Message;

use crate::process::Usage;
use crate::report::{Cell, Report, Table, Unit};
use oom_watcher_testkit::agent::Agent;
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::exposition::{parse_exposition, total};
use oom_watcher_testkit::kills::make;
use oom_watcher_testkit::wait::eventually;

/// Containers with kills, each of which has ten series.
const CONTAINERS: [u32; 4] = [10, 100, 1000, 10_000];
/// The default bound of the table, which is raised for more.
const DEFAULT_OWNERS: u32 = 2000;
/// More than oom-maker makes at once.
const AT_ONCE: u32 = 2000;
const SCRAPES: u32 = 5;
/// Between two exports of metrics.
const EXPORT_INTERVAL: Duration = Duration::from_secs(2);

pub(crate) fn measure(report: &mut Report, repeat: u32) {
    let mut scraped = Table::new(
        "Growth: `/metrics`, without OTLP",
        "growth",
        &[
            ("series", Unit::Count),
            ("time", Unit::Seconds),
            ("for each series", Unit::Seconds),
            ("size", Unit::Bytes),
            ("resident", Unit::Bytes),
            ("peak", Unit::Bytes),
        ],
    );
    let mut exported = Table::new(
        "Growth: metrics over OTLP, without scrapes",
        "growth",
        &[
            ("data points", Unit::Count),
            ("CPU of an export", Unit::Seconds),
            ("for each data point", Unit::Seconds),
            ("bytes, uncompressed", Unit::Bytes),
            ("requests", Unit::Count),
            ("resident", Unit::Bytes),
            ("peak", Unit::Bytes),
        ],
    );
    for containers in CONTAINERS {
        let name = format!("{containers} containers with kills");
        let (collector, folder) = (Collector::start(), tempfile::tempdir().unwrap());
        let file = folder.path().join("settings.yaml");
        std::fs::write(&file, format!("series: {{max_owners: {}}}\n", containers.max(DEFAULT_OWNERS))).unwrap();
        let flags = ["--config", file.to_str().unwrap()];
        scraped.row(&name, scrape(&Agent::start(&[], &flags), containers, repeat, report));
        let interval = EXPORT_INTERVAL.as_millis().to_string();
        let environment = [&collector.environment()[..], &[("OTEL_METRIC_EXPORT_INTERVAL", &interval)]].concat();
        exported.row(&name, export(&Agent::start(&environment, &flags), &collector, containers, repeat));
    }
    report.add(scraped);
    report.add(exported);
}

fn kill(containers: u32) {
    let mut made = 0;
    while made < containers {
        let kills = AT_ONCE.min(containers - made);
        make(&format!("--seed {made} burst {kills} --limit-kib 1024"));
        made += kills;
    }
}

fn scrape(agent: &Agent, containers: u32, repeat: u32, report: &mut Report) -> Vec<Option<Cell>> {
    kill(containers);
    eventually("count of all kills", || {
        (total(&agent.metrics(), "oom_kills_per_node_total") as u32 >= containers).then_some(())
    });
    let (mut times, mut size, mut series) = (Vec::new(), 0, 0);
    for _ in 0..SCRAPES * repeat {
        let begin = Instant::now();
        let page = agent.get("/metrics");
        times.push(begin.elapsed().as_secs_f64());
        (size, series) = (page.len(), parse_exposition(&page).len());
    }
    let each: Vec<f64> = times.iter().map(|time| time / series as f64).collect();
    let (times, usage) = (Cell::of(times), Usage::of(agent.pid()));
    if containers == 1000 {
        let median = times.as_ref().unwrap().median();
        report.goal("`/metrics` with 10,000 series", "< 50 ms", Unit::Seconds, median, median < 0.05);
    }
    let [series, size, resident, peak] =
        [series as f64, size as f64, usage.resident as f64, usage.peak as f64].map(Cell::one);
    vec![series, times, Cell::of(each), size, resident, peak]
}

fn export(agent: &Agent, collector: &Collector, containers: u32, repeat: u32) -> Vec<Option<Cell>> {
    kill(containers);
    // Each export has one data point of this name, in one of its requests.
    let is_marked = |request: &&ExportMetricsServiceRequest| {
        let scopes = request.resource_metrics.iter().flat_map(|resource| &resource.scope_metrics);
        scopes.flat_map(|scope| &scope.metrics).any(|metric| metric.name == "oom_kills_per_node")
    };
    let exports = |received: &Received| received.metrics.iter().filter(is_marked).count();
    let all = |received: &Received| {
        let newest = received.data_points().filter(|(metric, _)| metric.name == "oom_kills_per_node").last();
        let kills = newest.and_then(|(_, point)| match point.value? {
            number_data_point::Value::AsInt(kills) => Some(kills),
            number_data_point::Value::AsDouble(_) => None,
        });
        kills >= Some(containers.into())
    };
    eventually("export with all kills", || collector.look(all).then_some(()));
    let next = |after: usize| {
        eventually("export of metrics", || {
            collector.look(|received| Some(exports(received)).filter(|number| *number > after))
        })
    };
    let first = next(collector.look(exports));
    let (mut cpu, mut number) = (Vec::new(), first);
    for _ in 0..repeat {
        let (before, begin) = (Usage::of(agent.pid()).cpu, number);
        number = next(number);
        // Of all that came since the last look.
        cpu.push((Usage::of(agent.pid()).cpu - before).as_secs_f64() / (number - begin) as f64);
    }
    // As many whole exports as there are marks.
    let [points, bytes, requests] = collector.look(|received| {
        let mut marks =
            received.metrics.iter().enumerate().filter(|(_, request)| is_marked(request)).map(|(index, _)| index);
        let (begin, end) = (marks.nth(first - 1).unwrap(), marks.nth(number - first - 1).unwrap());
        let requests = &received.metrics[begin + 1..=end];
        let points: usize = requests.iter().map(data_points).sum();
        let bytes: usize = requests.iter().map(Message::encoded_len).sum();
        [points, bytes, requests.len()].map(|sum| sum as f64 / (number - first) as f64)
    });
    let each: Vec<f64> = cpu.iter().map(|cpu| cpu / points).collect();
    let usage = Usage::of(agent.pid());
    let [resident, peak] = [usage.resident as f64, usage.peak as f64].map(Cell::one);
    vec![Cell::one(points), Cell::of(cpu), Cell::of(each), Cell::one(bytes), Cell::one(requests), resident, peak]
}

fn data_points(request: &ExportMetricsServiceRequest) -> usize {
    let received = Received { metrics: vec![request.clone()], ..Received::default() };
    received.data_points().count()
}
