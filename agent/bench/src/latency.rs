//! How long after the kill, by the kernel's clock, it is known where: in user space, in `/metrics`, at an OTLP
//! receiver. All clocks are this machine's.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oom_watcher::export::otlp::Received;
use opentelemetry_proto::tonic::trace::v1::Span;

use crate::report::{Cell, Report, Table, Unit, percentile};
use oom_watcher_testkit::agent::Agent;
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::exposition::{parse_exposition, total};
use oom_watcher_testkit::kills::make;
use oom_watcher_testkit::wait::eventually;

/// Kills on an idle node: one, then the next when that has ended.
const IDLE_KILLS: usize = 200;
const STORM_KILLS: usize = 1000;
/// Between two looks at `/metrics`; what a look itself takes comes on top.
const LOOK_AGAIN: Duration = Duration::from_micros(500);

/// Steps of one kill, in seconds after the kernel killed.
struct Steps {
    /// The kernel's time.
    killed: f64,
    /// The agent began to handle it.
    in_user_space: f64,
    /// Its owner was known; what was to be written was made; it was with the exports.
    attribute: f64,
    record: f64,
    hand_over: f64,
    handled: f64,
    /// The request with its log record had been decoded.
    received: f64,
}

/// What a burst or a sequence of kills came to.
struct Measured {
    steps: Vec<Steps>,
    /// When `/metrics` had each kill, in the order of the kills; empty: nobody looked.
    visible: Vec<f64>,
    /// What one look took.
    looks: Vec<f64>,
}

pub(crate) fn measure(report: &mut Report, repeat: u32) {
    let columns = ["p50", "p90", "p99", "max"].map(|name| (name, Unit::Seconds));
    let mut table = Table::new("Latency after the kill", "latency", &columns);
    let mut steps = Table::new("What each step of a kill takes", "latency", &columns);
    for (name, kills, makes, looks) in [
        ("idle", IDLE_KILLS, Makes::OneByOne, true),
        ("storm", STORM_KILLS, Makes::Burst, false),
        ("storm, scraped all the time", STORM_KILLS, Makes::Burst, true),
    ] {
        let runs: Vec<_> = (0..repeat).map(|run| watch(kills, makes, looks, 1000 + u64::from(run))).collect();
        let row = |table: &mut Table, what: &str, of: &dyn Fn(&Measured) -> Vec<f64>| -> Vec<Option<Cell>> {
            let mut all: Vec<Vec<f64>> = runs.iter().map(of).collect();
            all.iter_mut().for_each(|values| values.sort_by(f64::total_cmp));
            let cells: Vec<_> = [0.5, 0.9, 0.99, 1.0]
                .map(|part| {
                    Cell::of(all.iter().filter(|values| !values.is_empty()).map(|values| percentile(values, part)))
                })
                .into();
            table.row(&format!("{name}: {what}"), cells.clone());
            cells
        };
        row(&mut table, "to user space", &|run| {
            run.steps.iter().map(|step| step.in_user_space - step.killed).collect()
        });
        if looks {
            let visible = row(&mut table, "to `/metrics`", &|run| run.visible.clone());
            row(&mut table, "(one look at `/metrics`)", &|run| run.looks.clone());
            if makes == Makes::OneByOne {
                let p99 = visible[2].as_ref().unwrap().median();
                report.goal("kill → visible in `/metrics`, p99, idle", "< 5 ms", Unit::Seconds, p99, p99 < 5e-3);
            }
        }
        let received = row(&mut table, "to the log record, decoded at the receiver", &|run| {
            run.steps.iter().map(|step| step.received - step.killed).collect()
        });
        if makes == Makes::OneByOne {
            let [p50, p99] = [0, 2].map(|at| received[at].as_ref().unwrap().median());
            report.goal("kill → log record at the collector, p50, idle", "< 20 ms", Unit::Seconds, p50, p50 < 20e-3);
            report.goal("kill → log record at the collector, p99, idle", "< 100 ms", Unit::Seconds, p99, p99 < 0.1);
        }
        row(&mut steps, "woken", &|run| run.steps.iter().map(|step| step.in_user_space - step.killed).collect());
        row(&mut steps, "attribute", &|run| run.steps.iter().map(|step| step.attribute).collect());
        row(&mut steps, "record", &|run| run.steps.iter().map(|step| step.record).collect());
        row(&mut steps, "hand over", &|run| run.steps.iter().map(|step| step.hand_over).collect());
        row(&mut steps, "all of the handling", &|run| {
            run.steps.iter().map(|step| step.handled - step.in_user_space).collect()
        });
        row(&mut steps, "batch, encode, send, decode", &|run| {
            run.steps.iter().map(|step| step.received - step.handled).collect()
        });
    }
    report.add(table);
    report.add(steps);
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Makes {
    OneByOne,
    Burst,
}

fn watch(kills: usize, makes: Makes, looks: bool, seed: u64) -> Measured {
    let collector = Collector::start();
    let agent = Agent::start(&collector.environment(), &[]);
    let ends = Arc::new(AtomicBool::new(false));
    let looking = looks.then(|| {
        let (ends, address) = (Arc::clone(&ends), agent.address());
        thread::spawn(move || {
            let mut seen = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                let asked = SystemTime::now();
                let page = oom_watcher_testkit::agent::get(address, "/metrics");
                seen.push((
                    seconds(asked),
                    seconds(SystemTime::now()),
                    total(&parse_exposition(&page), "oom_kills_per_node_total"),
                ));
                thread::sleep(LOOK_AGAIN);
            }
            seen
        })
    });
    match makes {
        Makes::OneByOne => (0..kills).for_each(|_| drop(make("one"))),
        Makes::Burst => drop(make(&format!("--seed {seed} burst {kills} --limit-kib 1024"))),
    }
    // Others may have been killed besides.
    collector.await_records(kills, |_| true);
    let steps = eventually("spans of all kills", || {
        let steps = collector.look(steps);
        (steps.len() >= kills).then_some(steps)
    });
    if looks {
        eventually("scrape with all kills", || {
            (total(&agent.metrics(), "oom_kills_per_node_total") as usize >= kills).then_some(())
        });
    }
    ends.store(true, Ordering::Relaxed);
    let seen = looking.map(|thread| thread.join().unwrap()).unwrap_or_default();
    let mut times: Vec<f64> = steps.iter().map(|step| step.killed).collect();
    times.sort_by(f64::total_cmp);
    let visible = times.iter().enumerate().filter_map(|(index, killed)| {
        let (_, answered, _) = seen.iter().find(|(.., value)| *value as usize > index)?;
        Some(answered - killed)
    });
    Measured {
        visible: visible.collect(),
        looks: seen.iter().map(|(asked, answered, _)| answered - asked).collect(),
        steps,
    }
}

/// The steps of each kill whose log record and whose spans of the handling are there.
fn steps(received: &Received) -> Vec<Steps> {
    let mut by_parent: BTreeMap<&[u8], Vec<&Span>> = BTreeMap::new();
    for span in received.spans() {
        by_parent.entry(&span.parent_span_id).or_default().push(span);
    }
    let child = |parent: &[u8], name: &str| by_parent.get(parent)?.iter().find(|span| span.name == name).copied();
    let took = |span: &Span| (span.end_time_unix_nano - span.start_time_unix_nano) as f64 / 1e9;
    let mut found = Vec::new();
    for (request, decoded) in received.logs.iter().zip(&received.log_times) {
        let records =
            request.resource_logs.iter().flat_map(|logs| &logs.scope_logs).flat_map(|scope| &scope.log_records);
        found.extend(records.filter_map(|record| {
            let handle = child(&record.span_id, "handle")?;
            let [attribute, made, hand_over] = [
                child(&handle.span_id, "attribute")?,
                child(&handle.span_id, "record")?,
                child(&handle.span_id, "hand_over")?,
            ];
            Some(Steps {
                killed: record.time_unix_nano as f64 / 1e9,
                in_user_space: handle.start_time_unix_nano as f64 / 1e9,
                attribute: took(attribute),
                record: took(made),
                hand_over: took(hand_over),
                handled: handle.end_time_unix_nano as f64 / 1e9,
                received: seconds(*decoded),
            })
        }));
    }
    found
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}
