//! OTLP of a fleet: one connection of each node at one real gateway with the limits of its Deployment, and Prometheus,
//! VictoriaLogs and Jaeger behind it.
//!
//! In a cluster the Collector of each node has that connection. It hands on what its agent sends, so here the agents'
//! requests go to the gateway as they are, the way that Collector sends them.

use std::time::{Duration, Instant, UNIX_EPOCH};

use oom_watcher::stats::Signal;

use super::recorded::{KILLS, Recorded, SPANS};
use super::sender::{Answered, Fleet, Messages, PATIENCE};
use crate::process::Usage;
use crate::report::{Cell, Report, Table, Unit};
use oom_watcher_testkit::exposition::total;
use oom_watcher_testkit::programs::Programs;
use oom_watcher_testkit::stack::Stack;

/// The default of `OTEL_METRIC_EXPORT_INTERVAL`, and so the time over which the exports of a fleet are spread.
const EXPORT_INTERVAL: Duration = Duration::from_secs(60);
/// Agents that were started together export together, within this time.
const TOGETHER: Duration = Duration::from_secs(1);
/// In so much time the pods of a bad roll-out are killed.
const ROLL_OUT: Duration = Duration::from_secs(60);
/// Between two looks at what has come through: more often would take the CPUs from those who are measured.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// `gateway`: MiB that the gateway may have. Its configuration has percentages of a cgroup's limit, which there is none
/// of here.
pub(crate) fn measure(report: &mut Report, programs: &Programs, recorded: &Recorded, nodes: usize, gateway: u32) {
    // As in otel-collector/gateway.yaml and gateway-deployment.yaml: 80 % and 15 %, and five eighths.
    let mut stack =
        Stack::start_every(programs, "groups: []", "15s", &[("GOMEMLIMIT", &format!("{}MiB", gateway * 5 / 8))]);
    let (limit, spike) = (gateway * 80 / 100, gateway * 15 / 100);
    stack.gateway.kill();
    stack.gateway.start_with(&format!(
        "processors: {{memory_limiter: {{check_interval: 1s, limit_mib: {limit}, spike_limit_mib: {spike}}}}}"
    ));
    let command = format!("make fleet ONLY=otlp NODES={nodes} GATEWAY_MIB={gateway}");
    let mut answers = Table::by(
        &format!("{nodes} nodes, OTLP to one gateway of {gateway} MiB"),
        &command,
        &[
            ("requests", Unit::Count),
            ("refused, sent again", Unit::Count),
            ("not answered in 5 s, sent again", Unit::Count),
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
            ("CPU of VictoriaLogs", Unit::Seconds),
            ("its resident memory", Unit::Bytes),
            ("CPU of Jaeger", Unit::Seconds),
            ("its resident memory", Unit::Bytes),
        ],
    );
    let begin = Instant::now();
    let fleet = Fleet::connect(&format!("http://{}", stack.gateway.address()), nodes);
    eprintln!("fleet: {nodes} connections in {:?}", begin.elapsed());
    let mut row = |name: &str, all: usize, messages: Messages, there: &dyn Fn(&Stack) -> Option<usize>| {
        eprintln!("fleet: {name} …");
        let (before, begin) = (Servers::of(&stack), Instant::now());
        let answered = fleet.send(messages);
        let there = await_all(all, begin, || there(&stack));
        let after = Servers::of(&stack);
        answers.row(name, told(&answered, &there, all));
        servers.row(name, after.since(&before));
    };
    for (name, over) in [
        ("metrics of all within a second, as after a restart of all", TOGETHER),
        ("metrics, spread over a minute", EXPORT_INTERVAL),
        ("the same, a minute later", EXPORT_INTERVAL),
    ] {
        let messages = Messages::new(nodes, over, |node, at| vec![(Signal::Metrics, vec![recorded.metrics(node, at)])]);
        // The nodes with a sample that is as new as what is sent now. Prometheus has whole milliseconds.
        let since = messages.since.duration_since(UNIX_EPOCH).unwrap().as_millis() as f64 / 1e3;
        let query = format!("count(timestamp(oom_kills_per_node_total) >= {since})");
        row(name, nodes, messages, &|stack| Some(stack.prometheus_number(&query).ok()?.unwrap_or(0.0) as usize));
    }
    let kills = nodes * KILLS;
    let messages = Messages::new(nodes, ROLL_OUT, |node, at| {
        vec![(Signal::Logs, recorded.logs(node, at)), (Signal::Traces, recorded.traces(node, at))]
    });
    row(&format!("{kills} kills in a minute: records and spans"), kills, messages, &|stack| {
        let records =
            stack.records_number(r#"{service.name="oom-watcher"} | stats count() records"#).ok()?.unwrap_or(0.0);
        Some((records as usize).min(spans(stack) / SPANS))
    });
    report.add(answers);
    report.add(servers);
    let mut table = Table::by(
        &format!("{nodes} nodes: what is in the back ends then"),
        &command,
        &[
            ("series in Prometheus", Unit::Count),
            ("streams in VictoriaLogs", Unit::Count),
            ("log records that VictoriaLogs dropped", Unit::Count),
            ("spans that Jaeger took, twice what came twice", Unit::Count),
        ],
    );
    let log_store = stack.log_store_own();
    let counts = [
        total(&stack.prometheus_own(), "prometheus_tsdb_head_series"),
        total(&log_store, "vl_streams_created_total"),
        total(&log_store, "vl_rows_dropped_total"),
        spans(&stack) as f64,
    ];
    table.row("all", counts.map(Cell::one).into());
    report.add(table);
}

/// Those that Jaeger took, as the gateway counts: twice what was sent to it twice.
fn spans(stack: &Stack) -> usize {
    total(&stack.gateway.own(), "otelcol_exporter_sent_spans") as usize
}

/// Looks until all are there: how long it took, or the most there ever were. `there`: nothing if a back end does not
/// answer.
fn await_all(all: usize, begin: Instant, there: impl Fn() -> Option<usize>) -> Result<Duration, usize> {
    let (since, mut most) = (Instant::now(), 0);
    loop {
        most = most.max(there().unwrap_or(0));
        if most >= all {
            return Ok(begin.elapsed());
        }
        if since.elapsed() > PATIENCE {
            return Err(most);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

fn told(answered: &[Answered], there: &Result<Duration, usize>, all: usize) -> Vec<Option<Cell>> {
    let times = Cell::of(answered.iter().map(|answered| answered.took.as_secs_f64())).unwrap();
    let sum = |of: fn(&Answered) -> usize| Cell::one(answered.iter().map(of).sum::<usize>() as f64);
    vec![
        Cell::one(answered.len() as f64),
        sum(|answered| answered.refused),
        sum(|answered| answered.late),
        sum(|answered| usize::from(!answered.taken)),
        Cell::one(times.percentile(0.5)),
        Cell::one(times.percentile(0.99)),
        Cell::one(times.maximum()),
        there.as_ref().ok().and_then(|took| Cell::one(took.as_secs_f64())),
        Cell::one(there.as_ref().err().map_or(0, |there| all - there) as f64),
    ]
}

/// What the servers took so far.
struct Servers {
    gateway: Usage,
    prometheus: Usage,
    log_store: Usage,
    jaeger: Usage,
}

impl Servers {
    fn of(stack: &Stack) -> Self {
        let [prometheus, log_store, jaeger] =
            ["prometheus", "victoria-logs", "jaeger"].map(|program| Usage::of(stack.pid(program)));
        Self { gateway: Usage::of(stack.gateway.pid()), prometheus, log_store, jaeger }
    }

    /// What they took since, and have now.
    fn since(&self, before: &Self) -> Vec<Option<Cell>> {
        let cpu = |of: fn(&Self) -> &Usage| Cell::one((of(self).cpu - of(before).cpu).as_secs_f64());
        let resident = |of: fn(&Self) -> &Usage| Cell::one(of(self).resident as f64);
        vec![
            cpu(|servers| &servers.gateway),
            resident(|servers| &servers.gateway),
            Cell::one(self.gateway.peak as f64),
            cpu(|servers| &servers.prometheus),
            resident(|servers| &servers.prometheus),
            cpu(|servers| &servers.log_store),
            resident(|servers| &servers.log_store),
            cpu(|servers| &servers.jaeger),
            resident(|servers| &servers.jaeger),
        ]
    }
}
