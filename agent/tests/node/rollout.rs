//! A rolling update while processes are killed: what is pinned loses nothing, and without pins what was missed is
//! counted.

use std::collections::HashSet;

use serde_json::json;

use crate::agents::{MANIFEST, PINNED, Scraper, await_rollout, collector, deploy};
use crate::cluster::Cluster;
use crate::pods::{self, HOG, IDLE, container, pod};
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::exposition::total;
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::programs::Programs;

/// How a rolling update went.
struct Update {
    /// Kills in one container, by the kernel's count.
    kernel: u64,
    /// The same by the agent's.
    counted: f64,
    /// Those of them that nobody saw.
    missed: f64,
    /// What found no room while no agent read: it is among those.
    dropped: f64,
    /// Distinct ids of records of kills in that container.
    records: u64,
}

/// Replaces the agent's pod while a container's children are killed, one after the other.
fn update(cluster: &Cluster, collector: &Collector) -> Update {
    // The kills are ended through another container: the kernel kills what enters this one, too.
    let repeat = format!("while [ ! -e /shared/stop ]; do {HOG}; done; touch /shared/ended; {IDLE}");
    let mut containers = [container("app", &repeat, "32Mi"), container("beside", IDLE, "32Mi")];
    containers
        .iter_mut()
        .for_each(|container| container["volumeMounts"] = json!([{"name": "shared", "mountPath": "/shared"}]));
    let mut killed = pod("loop", &containers);
    killed["spec"]["volumes"] = json!([{"name": "shared", "emptyDir": {}}]);
    pods::apply(cluster, &[killed]);
    pods::await_ready(cluster, "loop");
    let before = Scraper::forward(cluster);
    cluster.eventually("a few kills", || before.kills("loop", "app").filter(|kills| *kills >= 3.0));
    drop(before);
    cluster.text("kubectl rollout restart -n kube-system daemonset/oom-watcher");
    await_rollout(cluster);
    let scraper = Scraper::forward(cluster);
    // It goes on after the update, too.
    let then = pods::counted_by_the_kernel(cluster, "loop");
    cluster.eventually("more kills", || (pods::counted_by_the_kernel(cluster, "loop") >= then + 3).then_some(()));
    cluster.text("kubectl exec -n shop loop -c beside -- touch /shared/stop");
    let ended = || cluster.text("kubectl exec -n shop loop -c beside -- ls /shared").contains("ended").then_some(());
    cluster.eventually("end of the kills", ended);
    let kernel = pods::counted_by_the_kernel(cluster, "loop");
    let expected = kernel as f64;
    cluster.eventually("all kills", || scraper.kills("loop", "app").filter(|kills| *kills >= expected));
    let ids = || -> HashSet<_> {
        let records = collector.all_records().into_iter().filter(|record| record.text("k8s.pod.name") == Some("loop"));
        records.filter_map(|record| record.text("log.record.uid").map(str::to_owned)).collect()
    };
    let records =
        cluster.eventually("record of each kill", || Some(ids().len() as u64).filter(|records| *records >= kernel));
    let samples = scraper.metrics();
    assert_eq!(total(&samples, "oom_watcher_unexplained_kills_total"), 0.0);
    let [missed, dropped] =
        ["oom_watcher_missed_kills_total", "oom_watcher_kills_dropped_total"].map(|name| total(&samples, name));
    Update { kernel, counted: scraper.kills("loop", "app").unwrap(), missed, dropped, records }
}

#[test]
fn with_pins_a_rolling_update_loses_no_kill() {
    let _alone = needs!(real_kills());
    let cluster = needs!(Programs::find().and_then(Cluster::start));
    let collector = collector(&cluster);
    deploy(&cluster, PINNED);
    let update = update(&cluster, &collector);
    eprintln!(
        "with pins: {} kills, {} counted, {} missed, {} records",
        update.kernel, update.counted, update.missed, update.records
    );
    assert_eq!((update.counted, update.missed, update.records), (update.kernel as f64, update.dropped, update.kernel));
    crate::deploy::deleting_leaves_nothing(&cluster, PINNED);
}

#[test]
fn without_pins_a_rolling_update_counts_what_it_missed() {
    let _alone = needs!(real_kills());
    let cluster = needs!(Programs::find().and_then(Cluster::start));
    let collector = collector(&cluster);
    deploy(&cluster, MANIFEST);
    let update = update(&cluster, &collector);
    eprintln!(
        "without pins: {} kills, {} counted, {} missed, {} records",
        update.kernel, update.counted, update.missed, update.records
    );
    // A record for each, those that were missed and those that were seen: no kill is both.
    assert_eq!((update.counted, update.records), (update.kernel as f64, update.kernel));
    assert!(update.missed > update.dropped, "nothing was killed meanwhile");
}
