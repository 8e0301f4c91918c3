//! Pods that come and go: what the agent remembers of them is bounded, it gives the memory back, and it is told of its
//! own node's alone.

use crate::{await_pods, record, start};
use oom_watcher_testkit::agent::NODE;
use oom_watcher_testkit::cluster::Cluster;
use oom_watcher_testkit::cluster::client::{delete, merge, post};
use oom_watcher_testkit::cluster::kubelet::{PODS as PATH, id, pair, running, running_pair};
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::exposition::total;
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::programs::Programs;
use oom_watcher_testkit::wait::eventually;

/// Those that stay.
const STAY: usize = 500;
/// Reports of each of them.
const REPORTS: usize = 10;
/// Those that come and go, so many at a time.
const COME_AND_GO: usize = 10_000;
const AT_A_TIME: usize = 250;
/// Those of them that the agent remembers.
const REMEMBERED: u64 = 1024;
/// What the series of a pod with two containers take, and the page of `/metrics` with them.
const SERIES: u64 = 2 << 10;

#[test]
fn thousands_of_pods_come_and_go_and_the_agent_stays_as_it_was() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find());
    let (cluster, collector) = (Cluster::start(programs, false), Collector::start());
    let agent = start(&cluster, &collector, "5s");
    cluster.admin.all((0..AT_A_TIME).map(|number| post(PATH, &pair(&format!("elsewhere-{number}"), "other-node"))));
    let path = |name: &str| format!("{PATH}/{name}");
    let names: Vec<_> = (0..STAY).map(|number| format!("stays-{number}")).collect();
    let empty = agent.resident();
    cluster.admin.all(names.iter().map(|name| post(PATH, &pair(name, NODE))));
    for report in 0..REPORTS {
        let reports = names.iter().enumerate().map(|(number, name)| {
            merge(&format!("{}/status", path(name)), &running_pair(number as u64, report as u32))
        });
        cluster.kubelet.all(reports);
    }
    await_pods(&agent, STAY as f64);
    // What is remembered of pods that are gone is bounded, by number and by time.
    let (mib, each) = (1 << 20, 3 << 10);
    let full = agent.await_resident(empty + STAY as u64 * (each + SERIES) + mib);
    // Twice, so that what only grows would be seen.
    let (mut after, mut before) = (Vec::new(), full + REMEMBERED * each);
    for half in 0..2 {
        for batch in 0..COME_AND_GO / AT_A_TIME / 2 {
            let names: Vec<_> = (0..AT_A_TIME).map(|number| format!("goes-{half}-{batch}-{number}")).collect();
            cluster.admin.all(names.iter().map(|name| post(PATH, &pair(name, NODE))));
            cluster.admin.all(names.iter().map(|name| delete(&path(name))));
        }
        await_pods(&agent, STAY as f64);
        before = agent.await_resident(before + mib);
        after.push(before);
    }
    // A pod that comes now has its series from 0, though the table is full of those that are gone; and its kill has its
    // names.
    let last = cluster.make_bare("last", &["app", "log"]);
    cluster.report(&last, "containerStatuses", &[running("app", &id(1_000_000), 0)]);
    eventually("series", || agent.kills("last", "app").filter(|kills| *kills == 0.0));
    assert_eq!(record(&collector, &last.kill(&id(1_000_000))).text("k8s.container.name"), Some("app"));
    assert_eq!(agent.kills("last", "app"), Some(1.0));
    let series = total(&agent.metrics(), "oom_watcher_series");
    assert!(series <= total(&agent.metrics(), "oom_watcher_series_limit"), "{series}");

    // Others' pods were nobody's business here.
    let asked = cluster.asked();
    let of_node = format!("fieldSelector=spec.nodeName%3D{NODE}&");
    assert!(
        asked.iter().all(|(_, path, _)| path.starts_with("/api/v1/pods?") && format!("{path}&").contains(&of_node)),
        "{asked:?}"
    );
    let lists: Vec<_> = asked.iter().filter(|(verb, ..)| verb == "list").collect();
    assert!(
        lists.len() == 1 && lists[0].1.contains("&resourceVersion=0"),
        "from the API server's cache, and once: {asked:?}"
    );
    println!(
        "resident bytes: {empty} without pods, {full} with {STAY}, {after:?} after each {} that came and went",
        COME_AND_GO / 2
    );
    println!("CPU of the agent meanwhile: {:?}", agent.cpu_time());
}
