//! What is lost first: kills while the agent does not read, and records while nobody takes them.

use crate::report::{Cell, Report, Table, Unit};
use oom_watcher_testkit::agent::Agent;
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::exposition::total;
use oom_watcher_testkit::kills::make;
use oom_watcher_testkit::wait::eventually;

/// More than the ring buffer of 1 MiB holds, and more than the queue of records does.
const KILLS: u32 = 3000;

pub(crate) fn measure(report: &mut Report) {
    let mut table = Table::new(
        "What is lost first",
        "loss",
        &[
            ("killed, by the kernel's count", Unit::Count),
            ("counted for the node", Unit::Count),
            ("log records", Unit::Count),
            ("told as dropped: ring full", Unit::Count),
            ("log records and spans told as lost: queue full", Unit::Count),
        ],
    );
    for (name, stops, hangs) in [
        ("the agent is stopped (SIGSTOP) during the burst", true, false),
        ("the collector hangs during the burst", false, true),
    ] {
        let collector = Collector::start();
        if hangs {
            collector.hang();
        }
        let mut agent = Agent::start(&collector.environment(), &[]);
        let stopped = stops.then(|| agent.stopped());
        let made = make(&format!("burst {KILLS} --limit-kib 1024"));
        drop(stopped);
        let kills = made.done.kernel_kills;
        let page = eventually("count of all kills", || {
            Some(agent.metrics()).filter(|page| total(page, "oom_kills_per_node_total") as u64 >= kills)
        });
        if hangs {
            collector.answer();
        }
        let sum = |name: &str, reason: &str| -> f64 {
            page.iter()
                .filter(|sample| sample.name == name && sample.label("reason") == reason)
                .map(|sample| sample.value)
                .sum()
        };
        let (dropped, lost) =
            (sum("oom_watcher_kills_dropped_total", "ring_full"), sum("oom_watcher_export_lost_total", "queue_full"));
        agent.stop();
        let records = collector.records(|path| made.cgroups.iter().any(|cgroup| cgroup.path == path)).len();
        table.row(
            name,
            vec![
                Cell::one(kills as f64),
                Cell::one(total(&page, "oom_kills_per_node_total")),
                Cell::one(records as f64),
                Cell::one(dropped),
                Cell::one(lost),
            ],
        );
    }
    report.add(table);
}
