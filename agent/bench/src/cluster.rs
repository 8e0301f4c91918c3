//! Memory and CPU of the agent beside a real API server: as many pods as nodes have, and thousands that come and go.

use crate::process::Usage;
use crate::report::{Cell, Report, Table, Unit};
use oom_watcher_testkit::agent::{Agent, NODE};
use oom_watcher_testkit::cluster::Cluster;
use oom_watcher_testkit::cluster::client::{delete, merge, post};
use oom_watcher_testkit::cluster::kubelet::{PODS, pair, running_pair};
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::exposition::total;
use oom_watcher_testkit::programs::Programs;
use oom_watcher_testkit::wait::eventually;

/// Pods of a node: the kubelet's default bound, and what managed clusters allow.
const PODS_OF_NODE: [usize; 2] = [110, 250];
/// Those that come and go, so many at a time.
const COME_AND_GO: usize = 10_000;
const AT_A_TIME: usize = 250;

pub(crate) fn measure(report: &mut Report) {
    let programs = Programs::find().unwrap_or_else(|why| panic!("{why}"));
    report.beside(programs.path("kube-apiserver"));
    let (cluster, collector) = (Cluster::start(programs, false), Collector::start());
    let agent = Agent::start(&collector.environment(), &["--config", &cluster.settings("5s")]);
    let await_pods = |pods: usize| {
        eventually(&format!("{pods} pods"), || {
            (total(&agent.metrics(), "oom_watcher_pods") as usize == pods).then_some(())
        })
    };
    await_pods(0);
    let mut table = Table::new(
        "Memory in a cluster, with OTLP; pods of two containers, each with its series at 0",
        "cluster",
        &[
            ("resident (VmRSS)", Unit::Bytes),
            ("of that, no file's", Unit::Bytes),
            ("CPU of the agent for it", Unit::Seconds),
            ("for each pod", Unit::Seconds),
        ],
    );
    let mut before = Usage::of(agent.pid());
    let mut row = |name: &str, pods: usize| {
        agent.metrics();
        let usage = Usage::of(agent.pid());
        let cpu = (usage.cpu - before.cpu).as_secs_f64();
        before = usage;
        let each = (pods > 0).then(|| Cell::one(cpu / pods as f64)).flatten();
        table
            .row(name, vec![Cell::one(usage.resident as f64), Cell::one(usage.anonymous as f64), Cell::one(cpu), each]);
        usage.resident as f64
    };
    row("no pods", 0);
    let mut there = 0;
    for pods in PODS_OF_NODE {
        let names: Vec<_> = (there..pods).map(|number| (number, format!("stays-{number}"))).collect();
        cluster.admin.all(names.iter().map(|(_, name)| post(PODS, &pair(name, NODE))));
        cluster.kubelet.all(
            names
                .iter()
                .map(|(number, name)| merge(&format!("{PODS}/{name}/status"), &running_pair(*number as u64, 0))),
        );
        await_pods(pods);
        let resident = row(&format!("{pods} pods, running"), pods - there);
        if pods == 110 {
            report.goal("agent with 110 pods: resident memory", "< 16 MB", Unit::Bytes, resident, resident < 16e6);
        }
        there = pods;
    }
    for batch in 0..COME_AND_GO / AT_A_TIME {
        let names: Vec<_> = (0..AT_A_TIME).map(|number| format!("goes-{batch}-{number}")).collect();
        cluster.admin.all(names.iter().map(|name| post(PODS, &pair(name, NODE))));
        cluster.admin.all(names.iter().map(|name| delete(&format!("{PODS}/{name}"))));
    }
    await_pods(there);
    row(&format!("{COME_AND_GO} more have come and gone (1,024 are remembered)"), COME_AND_GO);
    report.add(table);
}
