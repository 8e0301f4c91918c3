//! The API server away, its watch expired, the permission taken away: nothing is lost, and names come back.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{SYNCED, record, start};
use oom_watcher_testkit::agent::Agent;
use oom_watcher_testkit::cluster::Cluster;
use oom_watcher_testkit::cluster::kubelet::{id, running};
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::exposition::total;
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::programs::Programs;
use oom_watcher_testkit::wait::{eventually, eventually_within};

/// Attempts are 30 s apart at most, with jitter.
const BACK: Duration = Duration::from_secs(90);

/// How long the API server is away. `OOM_WATCHER_OUTAGE` says otherwise, in seconds.
fn outage() -> Duration {
    Duration::from_secs(std::env::var("OOM_WATCHER_OUTAGE").map_or(5, |seconds| seconds.parse().unwrap()))
}

fn synced(agent: &Agent, is: f64) {
    eventually_within(BACK, &format!("{SYNCED} {is}"), || (total(&agent.metrics(), SYNCED) == is).then_some(()));
}

#[test]
fn while_the_api_server_is_away_or_forbids_it_kills_are_told_and_names_come_back() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find());
    let (mut cluster, collector) = (Cluster::start(programs, false), Collector::start());
    let known = cluster.make_bare("known", &["app", "log"]);
    cluster.report(&known, "containerStatuses", &[running("app", &id(1), 0)]);
    let agent = start(&cluster, &collector, "5s");
    let (resident, per_node) = (agent.resident(), total(&agent.metrics(), "oom_kills_per_node_total"));
    let of_app = |expected: f64| {
        let record = record(&collector, &known.kill(&id(1)));
        assert_eq!((record.text("k8s.pod.name"), record.text("k8s.container.name")), (Some("known"), Some("app")));
        assert_eq!(agent.kills("known", "app"), Some(expected));
    };
    of_app(1.0);

    let begin = Instant::now();
    cluster.stop_api();
    synced(&agent, 0.0);
    of_app(2.0);
    // Of one that the agent has not been told of, what the cgroup tells; at once.
    let mut unknown = known.clone();
    unknown.cgroup = known.uid.replace(|digit: char| digit.is_ascii_digit(), "0");
    let told = record(&collector, &unknown.kill(&id(2)));
    assert_eq!(
        ["k8s.pod.uid", "container.id", "k8s.pod.name"].map(|key| told.text(key)),
        [Some(unknown.cgroup.as_str()), Some(&id(2)), None]
    );
    // For how long it is away is the matter.
    std::thread::sleep(outage().saturating_sub(begin.elapsed()));
    // What the agent's watch was at is no more.
    cluster.forget_versions();
    let lists = |cluster: &Cluster| cluster.asked().iter().filter(|(verb, ..)| verb == "list").count();
    assert_eq!(lists(&cluster), 1);
    cluster.start_api();
    let new = cluster.make_bare("new", &["app", "log"]);
    cluster.report(&new, "containerStatuses", &[running("app", &id(3), 0)]);
    synced(&agent, 1.0);
    eventually("the new pod", || agent.kills("new", "app"));
    assert!(lists(&cluster) > 1, "its version is expired: {:?}", cluster.asked());
    assert_eq!(record(&collector, &new.kill(&id(3))).text("k8s.pod.name"), Some("new"));

    let binding = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/oom-watcher";
    cluster.admin.delete(binding);
    // A watch that was allowed goes on until it ends.
    cluster.stop_api();
    cluster.start_api();
    eventually_within(BACK, "refusal", || {
        agent.log().contains("it forbids listing or watching pods (403)").then_some(())
    });
    synced(&agent, 0.0);
    assert!(agent.get("/readyz").starts_with("ready, degraded: "), "{}", agent.get("/readyz"));
    of_app(3.0);
    cluster.permit();
    synced(&agent, 1.0);
    eventually("readiness", || (agent.get("/readyz") == "ready\n").then_some(()));
    of_app(4.0);

    // Told when it changes: away and there again, away for the restart, forbidden and there again, and what an API
    // server says that has just started.
    let log = agent.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let troubles = lines.filter_map(|line| match line["message"].as_str()? {
        message if message.starts_with("the Kubernetes API cannot be asked for pods") => {
            Some(line["reason"].as_str()?.to_owned())
        }
        "the Kubernetes API answers again" => Some(String::new()),
        _ => None,
    });
    let troubles: Vec<_> = troubles.collect();
    let answers = troubles.iter().filter(|trouble| trouble.is_empty()).count();
    assert!(
        answers <= 2 && troubles.len() >= 4 && troubles.windows(2).all(|pair| pair[0] != pair[1]),
        "{troubles:?}: {log}"
    );
    assert_eq!(total(&agent.metrics(), "oom_kills_per_node_total") - per_node, 6.0);
    agent.await_resident(resident + (2 << 20));
}
