//! A real Prometheus that scrapes a fleet: one server here has the pages of all nodes, each of which is a target of its
//! own, and the rules of k8s/rules.yaml.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;

use super::Background;
use super::recorded::{Recorded, name};
use crate::process::Usage;
use crate::report::{Cell, Report, Table, Unit};
use oom_watcher_testkit::exposition::total;
use oom_watcher_testkit::programs::Programs;
use oom_watcher_testkit::stack::Stack;
use oom_watcher_testkit::wait::eventually_within;

/// Between two scrapes of a target, and between two evaluations of the rules.
const INTERVAL: &str = "15s";
/// For so long it is measured, once all targets have been scraped.
const MEASURED: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(180);

pub(crate) fn measure(report: &mut Report, programs: &Programs, recorded: &Arc<Recorded>, nodes: usize) {
    let background = Background::start();
    let listener = std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    background.handle.spawn(serve(listener, Arc::clone(recorded)));
    let stack = Stack::start_every(programs, "groups: []", INTERVAL, &[]);
    let empty = Usage::of(stack.pid("prometheus"));
    let target = |node: usize| {
        let labels = json!({"__metrics_path__": format!("/{node}/metrics"), "instance": name(node)});
        json!({"targets": [address.to_string()], "labels": labels})
    };
    stack.targets(&serde_json::Value::from_iter((0..nodes).map(target)).to_string());
    let number = |query: &str| stack.prometheus_number(query).ok().flatten();
    eventually_within(PATIENCE, "a scrape of each", || number("sum(up)").filter(|up| *up as usize == nodes));
    let before = Usage::of(stack.pid("prometheus"));
    // What is measured is a rate: of a stretch of time.
    std::thread::sleep(MEASURED);
    let after = Usage::of(stack.pid("prometheus"));
    let mut table = Table::by(
        &format!("{nodes} nodes, scraped every {INTERVAL} by one Prometheus, with the rules of k8s/rules.yaml"),
        &format!("make fleet ONLY=scrapes NODES={nodes}"),
        &[
            ("series", Unit::Count),
            ("samples per second", Unit::PerSecond),
            ("CPU, of one core", Unit::Part),
            ("resident memory", Unit::Bytes),
            ("for each series", Unit::Bytes),
            ("targets that are up", Unit::Count),
            ("longest scrape of a minute", Unit::Seconds),
            ("slowest group of rules, last evaluation", Unit::Seconds),
        ],
    );
    let own = stack.prometheus_own();
    let series = total(&own, "prometheus_tsdb_head_series");
    let memory = after.resident as f64;
    table.row(
        "Prometheus",
        vec![
            Cell::one(series),
            number("sum(scrape_samples_scraped)").and_then(|samples| Cell::one(samples / 15.0)),
            Cell::one((after.cpu - before.cpu).as_secs_f64() / MEASURED.as_secs_f64()),
            Cell::one(memory),
            Cell::one((memory - empty.resident as f64) / series),
            number("sum(up)").and_then(Cell::one),
            number("max(max_over_time(scrape_duration_seconds[1m]))").and_then(Cell::one),
            Cell::of(
                own.iter()
                    .filter(|sample| sample.name == "prometheus_rule_group_last_duration_seconds")
                    .map(|sample| sample.value),
            )
            .and_then(|groups| Cell::one(groups.maximum())),
        ],
    );
    report.add(table);
}

async fn serve(listener: std::net::TcpListener, recorded: Arc<Recorded>) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let recorded = Arc::clone(&recorded);
        let answer = move |request: Request<Incoming>| {
            let node = request.uri().path().split('/').nth(1).and_then(|node| node.parse().ok()).unwrap_or_default();
            let page = recorded.page(node);
            async move {
                Ok::<_, Infallible>(
                    Response::builder()
                        .header("content-type", "text/plain; version=0.0.4")
                        .body(Full::new(Bytes::from(page)))
                        .unwrap(),
                )
            }
        };
        // Who scrapes may go at any time.
        tokio::spawn(async move {
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await)
        });
    }
}
