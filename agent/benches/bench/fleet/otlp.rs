//! OTLP of a fleet: one connection of each node at one real gateway with the limits of its Deployment, and Prometheus, Loki and Jaeger behind it.
//!
//! In a cluster the Collector of each node has that connection. It hands on what its agent sends, so here the agents' requests go to the gateway as they are.

use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use opentelemetry_proto::tonic::collector::logs::v1::logs_service_client::LogsServiceClient;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use super::recorded::{KILLS, Recorded};
use crate::back_ends::Stack;
use crate::process::Usage;
use crate::report::{Cell, Report, Table, Unit};
use crate::support::exposition::total;
use crate::support::programs::Programs;
use crate::support::try_within;

/// The default of `OTEL_METRIC_EXPORT_INTERVAL`, and so the time over which the exports of a fleet are spread.
const EXPORT_INTERVAL: Duration = Duration::from_secs(60);
/// Agents that were started together export together, within this time.
const TOGETHER: Duration = Duration::from_secs(1);
/// In so much time the pods of a bad roll-out are killed.
const ROLL_OUT: Duration = Duration::from_secs(60);
/// Before what was refused is sent again: the defaults of a Collector's `retry_on_failure`, each half as long or up to one and a half times.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const PAUSE_GROWTH: f64 = 1.5;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What has not come through by then is told as missing.
const PATIENCE: Duration = Duration::from_secs(120);

/// `gateway`: MiB that the gateway may have. Its configuration has percentages of a cgroup's limit, which there is none of here.
pub(crate) fn measure(report: &mut Report, programs: &Programs, recorded: &Arc<Recorded>, nodes: usize, gateway: u32) {
    // As in otel-collector/gateway.yaml and gateway-deployment.yaml: 80 % and 15 %, and five eighths.
    let mut stack = Stack::start_every(programs, "groups: []", "15s", &[("GOMEMLIMIT", &format!("{}MiB", gateway * 5 / 8))]);
    let (limit, spike) = (gateway * 80 / 100, gateway * 15 / 100);
    stack.gateway.kill();
    stack.gateway.start_with(&format!("processors: {{memory_limiter: {{check_interval: 1s, limit_mib: {limit}, spike_limit_mib: {spike}}}}}"));
    let command = format!("make fleet ONLY=otlp NODES={nodes} GATEWAY_MIB={gateway}");
    let mut answers = Table::by(
        &format!("{nodes} nodes, OTLP to one gateway of {gateway} MiB"),
        &command,
        &[
            ("requests", Unit::Count),
            ("refused, sent again", Unit::Count),
            ("not taken at all", Unit::Count),
            ("answered: p50", Unit::Seconds),
            ("p99", Unit::Seconds),
            ("the last one", Unit::Seconds),
            ("all in the back end after", Unit::Seconds),
            ("missing there", Unit::Count),
        ],
    );
    let mut servers = Table::by(
        &format!("{nodes} nodes, OTLP to one gateway of {gateway} MiB: what the servers take for it"),
        &command,
        &[
            ("CPU of the gateway", Unit::Seconds),
            ("its resident memory", Unit::Bytes),
            ("its peak so far", Unit::Bytes),
            ("CPU of Prometheus", Unit::Seconds),
            ("its resident memory", Unit::Bytes),
            ("CPU of Loki", Unit::Seconds),
            ("its resident memory", Unit::Bytes),
        ],
    );
    let begin = Instant::now();
    let fleet = Fleet::connect(&format!("http://{}", stack.gateway.address()), nodes);
    eprintln!("fleet: {nodes} connections in {:?}", begin.elapsed());
    // The nodes with a sample that is newer than what is sent now.
    let series = |stack: &Stack, since: f64| {
        let found = stack.prometheus(&format!("count(timestamp(oom_kills_per_node_total) >= {since})"));
        found.first().and_then(|found| found["value"][1].as_str()?.parse().ok())
    };
    let records =
        |stack: &Stack, _: f64| stack.loki_number(r#"sum(count_over_time({service_name="oom-watcher"}[1h]))"#).map(|records| records as usize);
    let mut row = |name: &str, all: usize, send: &dyn Fn() -> Vec<Answered>, there: &dyn Fn(&Stack, f64) -> Option<usize>| {
        eprintln!("fleet: {name} …");
        // Prometheus has whole milliseconds.
        let (before, begin, since) = (Servers::of(&stack), Instant::now(), UNIX_EPOCH.elapsed().unwrap().as_millis() as f64 / 1e3);
        let answered = send();
        let there = try_within(PATIENCE, || match there(&stack, since).unwrap_or(0) {
            all_there if all_there >= all => Ok(begin.elapsed()),
            there => Err(there),
        });
        let after = Servers::of(&stack);
        let times = Cell::of(answered.iter().map(|answered| answered.took.as_secs_f64())).unwrap();
        answers.row(
            name,
            vec![
                Cell::one(answered.len() as f64),
                Cell::one(answered.iter().map(|answered| answered.refused).sum::<u64>() as f64),
                Cell::one(answered.iter().filter(|answered| !answered.taken).count() as f64),
                Cell::one(times.percentile(0.5)),
                Cell::one(times.percentile(0.99)),
                Cell::one(times.maximum()),
                there.ok().and_then(|took| Cell::one(took.as_secs_f64())),
                Cell::one(there.err().map_or(0, |there| all - there) as f64),
            ],
        );
        let cpu = |of: fn(&Servers) -> &Usage| Cell::one((of(&after).cpu - of(&before).cpu).as_secs_f64());
        let resident = |of: fn(&Servers) -> &Usage| Cell::one(of(&after).resident as f64);
        servers.row(
            name,
            vec![
                cpu(|servers| &servers.gateway),
                resident(|servers| &servers.gateway),
                Cell::one(after.gateway.peak as f64),
                cpu(|servers| &servers.prometheus),
                resident(|servers| &servers.prometheus),
                cpu(|servers| &servers.loki),
                resident(|servers| &servers.loki),
            ],
        );
    };
    row("metrics of all within a second, as after a restart of all", nodes, &|| fleet.metrics(recorded, TOGETHER), &series);
    row("metrics, spread over a minute", nodes, &|| fleet.metrics(recorded, EXPORT_INTERVAL), &series);
    row("the same, a minute later", nodes, &|| fleet.metrics(recorded, EXPORT_INTERVAL), &series);
    let kills = nodes * KILLS;
    row(&format!("{kills} kills in a minute: records and spans"), kills, &|| fleet.kills(recorded, ROLL_OUT), &records);
    report.add(answers);
    report.add(servers);
    let mut table = Table::by(
        &format!("{nodes} nodes: what is in the back ends then"),
        &command,
        &[("series in Prometheus", Unit::Count), ("streams in Loki", Unit::Count), ("log records that Loki refused", Unit::Count)],
    );
    let loki = stack.loki_own();
    let counts = [
        total(&stack.prometheus_own(), "prometheus_tsdb_head_series"),
        total(&loki, "loki_ingester_memory_streams"),
        total(&loki, "loki_discarded_samples_total"),
    ];
    table.row("all", counts.map(Cell::one).into());
    report.add(table);
}

/// What was answered to one request, at last.
struct Answered {
    took: Duration,
    refused: u64,
    taken: bool,
}

/// The connections.
struct Fleet {
    runtime: Runtime,
    nodes: Vec<Channel>,
}

impl Fleet {
    fn connect(endpoint: &str, nodes: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let endpoint = Endpoint::from_shared(endpoint.to_owned()).unwrap();
        let nodes = runtime.block_on(async {
            let mut connecting = JoinSet::new();
            for _ in 0..nodes {
                let endpoint = endpoint.clone();
                connecting.spawn(async move { endpoint.connect().await.unwrap() });
            }
            connecting.join_all().await
        });
        Self { runtime, nodes }
    }

    /// An export of each node's metrics, one after the other over so much time.
    fn metrics(&self, recorded: &Arc<Recorded>, over: Duration) -> Vec<Answered> {
        self.each(over, recorded, |node, channel, recorded| async move {
            one_after_the_other(vec![recorded.metrics(node)], |request| {
                let mut client = MetricsServiceClient::new(channel.clone());
                async move { client.export(request).await.map(drop) }
            })
            .await
        })
    }

    /// What each node sends of its kills, one node after the other over so much time.
    fn kills(&self, recorded: &Arc<Recorded>, over: Duration) -> Vec<Answered> {
        self.each(over, recorded, |node, channel, recorded| async move {
            let logs = one_after_the_other(recorded.logs(node), |request| {
                let mut client = LogsServiceClient::new(channel.clone());
                async move { client.export(request).await.map(drop) }
            });
            let traces = one_after_the_other(recorded.traces(node), |request| {
                let mut client = TraceServiceClient::new(channel.clone());
                async move { client.export(request).await.map(drop) }
            });
            let (mut answered, of_traces) = tokio::join!(logs, traces);
            answered.extend(of_traces);
            answered
        })
    }

    fn each<F, T>(&self, over: Duration, recorded: &Arc<Recorded>, send: F) -> Vec<Answered>
    where
        F: Fn(usize, Channel, Arc<Recorded>) -> T + Copy + Send + 'static,
        T: Future<Output = Vec<Answered>> + Send,
    {
        let pause = over / self.nodes.len() as u32;
        self.runtime.block_on(async {
            let (begin, mut sending) = (tokio::time::Instant::now(), JoinSet::new());
            for (node, channel) in self.nodes.iter().cloned().enumerate() {
                let recorded = Arc::clone(recorded);
                sending.spawn(async move {
                    tokio::time::sleep_until(begin + pause * node as u32).await;
                    send(node, channel, recorded).await
                });
            }
            sending.join_all().await.into_iter().flatten().collect()
        })
    }
}

/// Sends each once the one before is taken; not those behind one that is not.
async fn one_after_the_other<R: Clone, T: Future<Output = Result<(), Status>>>(requests: Vec<R>, ask: impl Fn(R) -> T) -> Vec<Answered> {
    let mut answered: Vec<Answered> = Vec::new();
    for request in requests {
        answered.push(tell(|| ask(request.clone())).await);
        if answered.last().is_some_and(|answered| !answered.taken) {
            break;
        }
    }
    answered
}

/// Asks until it is taken, as the Collector of a node does; that has no end of its attempts.
async fn tell<T: Future<Output = Result<(), Status>>>(ask: impl Fn() -> T) -> Answered {
    let (begin, mut refused, mut pause) = (Instant::now(), 0, FIRST_PAUSE);
    loop {
        match ask().await {
            Ok(()) => return Answered { took: begin.elapsed(), refused, taken: true },
            // What OTLP says may be tried again.
            Err(status) if matches!(status.code(), Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Cancelled) => {
                refused += 1;
                if begin.elapsed() > PATIENCE {
                    return Answered { took: begin.elapsed(), refused, taken: false };
                }
                // Random enough, and no dependency: what is behind the microsecond.
                let part = 0.5 + f64::from(begin.elapsed().subsec_nanos() % 1000) / 1000.0;
                tokio::time::sleep(pause.mul_f64(part)).await;
                pause = pause.mul_f64(PAUSE_GROWTH).min(LONGEST_PAUSE);
            }
            Err(status) => panic!("the gateway refuses for good: {status}"),
        }
    }
}

/// What the servers took so far.
struct Servers {
    gateway: Usage,
    prometheus: Usage,
    loki: Usage,
}

impl Servers {
    fn of(stack: &Stack) -> Self {
        let [prometheus, loki] = ["prometheus", "loki"].map(|program| Usage::of(stack.pid(program)));
        Self { gateway: Usage::of(stack.gateway.pid()), prometheus, loki }
    }
}
