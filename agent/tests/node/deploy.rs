//! What `kubectl apply -f k8s/daemonset.yaml` gives, and that deleting it leaves nothing.

use std::fs;

use serde_json::{Value, json};

use crate::agents::{
    self, CHART, FORWARD, MANIFEST, NON_ROOT, PINNED, PRIVILEGED, STATE, Scraper, Way, await_rollout, collector, deploy,
};
use crate::cluster::Cluster;
use crate::pods::{self, HOG, IDLE, container, pod};
use oom_watcher_testkit::collector::{Collector, Record};
use oom_watcher_testkit::exposition::total;
use oom_watcher_testkit::kills::make;
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::programs::Programs;

/// The commands that README.md and docs/install.md give, word for word, and a part of what each prints.
const DOCUMENTED: [(&str, &str); 5] = [
    ("kubectl get daemonset -n kube-system oom-watcher", "oom-watcher   1         1         1       1            1"),
    ("kubectl logs -n kube-system -l app=oom-watcher", "ready"),
    ("kubectl exec -n kube-system daemonset/oom-watcher -- ls /sys/kernel/tracing/events/oom/", "mark_victim"),
    ("kubectl exec -n kube-system daemonset/oom-watcher -- ls /sys/fs/cgroup/", "memory"),
    ("kubectl exec -n kube-system daemonset/oom-watcher -- oom-watcher check", "attach        pass"),
];

#[test]
fn the_pages_name_the_commands_that_are_tested() {
    let pages = [include_str!("../../../README.md"), include_str!("../../../docs/install.md")];
    let documented = DOCUMENTED.map(|(command, _)| command).into_iter().chain([
        MANIFEST[0],
        MANIFEST[1],
        FORWARD,
        "curl http://localhost:8080/metrics",
    ]);
    for command in documented {
        for page in pages {
            assert!(
                page.lines().any(|line| line.split("  #").next().unwrap().trim_end() == command),
                "no line {command} in a page"
            );
        }
    }
}

/// The record of the one kill in that container.
fn record(collector: &Collector, pod: &str, container: Option<&str>) -> Record {
    let is =
        |record: &Record| record.text("k8s.pod.name") == Some(pod) && record.text("k8s.container.name") == container;
    collector.await_record(is)
}

/// Kills of all kinds of pods are in series and records, by way of what was deployed.
fn every_kind_of_kill_is_told(cluster: &Cluster, collector: &Collector, scraper: &Scraper<'_>) {
    let mut guaranteed = container("app", HOG, "32Mi");
    guaranteed["resources"]["limits"]["cpu"] = "500m".into();
    let mut burstable = container("app", HOG, "32Mi");
    burstable["resources"]["requests"] = json!({"memory": "16Mi"});
    let mut best_effort = container("app", IDLE, "32Mi");
    best_effort["resources"] = json!({});
    // A pod of one container is known by its uid. Of more, which one it was is known once its id is in the pod's
    // status. Whoever gives the sign in the container has to be gone before that is.
    let on_sign = format!("until [ -e /sign ]; do sleep 0.1; done; sleep 1; exec {HOG}");
    let mut with_init = pod("init", &[container("app", IDLE, "32Mi")]);
    with_init["spec"]["initContainers"] = json!([container("prepare", &on_sign, "32Mi")]);
    let child = format!("{HOG}; {IDLE}");
    pods::apply(
        cluster,
        &[
            pod("guaranteed", &[guaranteed]),
            pod("burstable", &[burstable]),
            pod("besteffort", &[best_effort]),
            pod("two", &[container("app", &on_sign, "32Mi"), container("log", IDLE, "32Mi")]),
            with_init,
            pod("child", &[container("app", &child, "32Mi")]),
            pod("deleted", &[container("app", IDLE, "32Mi")]),
        ],
    );
    for (name, container, statuses) in
        [("two", "app", "containerStatuses"), ("init", "prepare", "initContainerStatuses")]
    {
        let path = format!(r#".status.{statuses}[?(@.name=="{container}")].containerID"#);
        cluster.eventually("id of a container", || {
            pods::field(cluster, name, &path).starts_with("containerd://").then_some(())
        });
        cluster.text(&format!("kubectl exec -n shop {name} -c {container} -- touch /sign"));
    }
    // One without a limit is killed by that of the pod, which somebody has set, or when the node is out of memory.
    pods::await_ready(cluster, "besteffort");
    let directory = pods::cgroup(cluster, "besteffort");
    let limit = ["memory.max", "memory.limit_in_bytes"]
        .map(|name| directory.join(name))
        .into_iter()
        .find(|path| path.exists())
        .unwrap();
    fs::write(limit, "33554432").unwrap();
    assert!(cluster.try_text(&format!("kubectl exec -n shop besteffort -- {HOG}")).is_err());
    pods::await_ready(cluster, "deleted");
    assert!(cluster.try_text(&format!("kubectl exec -n shop deleted -- {HOG}")).is_err());
    cluster.text("kubectl delete pod -n shop deleted --grace-period=0 --force");

    let all = [
        ("guaranteed", "app", "Guaranteed"),
        ("burstable", "app", "Burstable"),
        ("besteffort", "app", "BestEffort"),
        ("two", "app", "Burstable"),
        ("init", "prepare", "Burstable"),
        ("child", "app", "Burstable"),
        ("deleted", "app", "Burstable"),
    ];
    for (name, container, class) in all {
        cluster.eventually(&format!("kill of {name}"), || scraper.kills(name, container).filter(|kills| *kills == 1.0));
        let record = record(collector, name, Some(container));
        assert_eq!(record.text("k8s.namespace.name"), Some("shop"), "{name}");
        assert_eq!(record.text("k8s.node.name"), Some(oom_watcher_testkit::agent::NODE), "{name}");
        assert_eq!(record.text("oom_watcher.pod.qos_class"), Some(class), "{name}");
    }
    assert_eq!(
        (scraper.kills("two", "log"), scraper.kills("init", "app")),
        (Some(0.0), Some(0.0)),
        "these were not killed"
    );

    // What Kubernetes itself says: of a container's first process that it ended by SIGKILL, and "OOMKilled" if
    // containerd has heard of that in time, which it has not always under load; of a child nothing at all.
    let code = cluster.await_text(
        "kubectl get pod -n shop guaranteed -o \
            'jsonpath={.status.containerStatuses[0].state.terminated.exitCode}' | grep .",
    );
    assert_eq!(code.trim(), "137");
    let status: Value = serde_json::from_str(&pods::field(cluster, "child", ".status.containerStatuses[0]")).unwrap();
    assert!(status["state"]["running"].is_object(), "{status}");
    assert_eq!((&status["restartCount"], &status["lastState"]), (&json!(0), &json!({})));
    assert!(
        !cluster
            .text("kubectl get events -n shop --field-selector involvedObject.name=child")
            .to_lowercase()
            .contains("oom")
    );
}

/// The agent's process has no capability, and is still the one that began.
fn is_unprivileged_and_was_not_restarted(cluster: &Cluster) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(agents::status(cluster, set), "0000000000000000", "{set}");
    }
    assert_eq!(agents::status(cluster, "NoNewPrivs"), "1");
    let restarts = "kubectl get pods -n kube-system -l app=oom-watcher -o \
        'jsonpath={.items[*].status.containerStatuses[*].restartCount}'";
    assert_eq!(cluster.text(restarts), "0");
}

/// Deletes what was applied, and looks for what is left of it.
pub(crate) fn deleting_leaves_nothing(cluster: &Cluster, way: Way) {
    let uid = cluster.text("kubectl get pods -n kube-system -l app=oom-watcher -o 'jsonpath={.items[*].metadata.uid}'");
    assert!(fs::read_dir(cluster.path(STATE)).unwrap().count() > 0, "there is no state that could be left");
    let left = |path: &str| {
        fs::read_dir(cluster.path(path)).map(|entries| entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>())
    };
    let pins = || left("/sys/fs/bpf/oom-watcher").unwrap_or_default();
    assert_eq!(!pins().is_empty(), [PINNED, CHART].contains(&way), "{:?}", pins());
    cluster.text(way[1]);
    let pods = "kubectl get pods -n kube-system -l app=oom-watcher -o name";
    cluster.eventually("end of the agent", || cluster.text(pods).is_empty().then_some(()));
    assert!(left(STATE).unwrap().is_empty(), "{:?}", left(STATE));
    assert!(pins().is_empty(), "{:?}", pins());
    let cgroups = format!("find /sys/fs/cgroup -name '*{uid}*'");
    cluster.eventually("end of its cgroups", || cluster.text(&cgroups).is_empty().then_some(()));
    for kind in ["all", "serviceaccount", "role", "rolebinding", "clusterrole", "clusterrolebinding", "configmap"] {
        let found = cluster.text(&format!("kubectl get {kind} -A -o name"));
        assert!(!found.contains("oom-watcher"), "{found}");
    }
}

#[test]
fn the_manifest_as_documented_tells_of_every_kill_and_leaves_nothing() {
    let _alone = needs!(real_kills());
    let cluster = needs!(Programs::find().and_then(Cluster::start));
    let collector = collector(&cluster);
    deploy(&cluster, MANIFEST);
    for (command, expected) in DOCUMENTED {
        let printed = cluster.text(command);
        assert!(printed.contains(expected), "{command}: {printed}");
    }
    let scraper = Scraper::forward(&cluster);
    every_kind_of_kill_is_told(&cluster, &collector, &scraper);

    // One kill each second for an hour, in a minute.
    let before = total(&scraper.metrics(), "oom_kills_per_node_total");
    make("burst 3600");
    cluster.eventually("all kills", || {
        (total(&scraper.metrics(), "oom_kills_per_node_total") >= before + 3600.0).then_some(())
    });
    is_unprivileged_and_was_not_restarted(&cluster);
    let (peak, limit) = agents::peak(&cluster);
    eprintln!(
        "the agent after 3,600 kills: resident {}, at most {}, its cgroup at most {} kB",
        agents::status(&cluster, "VmRSS"),
        agents::status(&cluster, "VmHWM"),
        peak >> 10
    );
    assert!(peak < limit / 4 * 3, "{peak} of {limit} bytes: too near to the limit");
    deleting_leaves_nothing(&cluster, MANIFEST);
}

#[test]
fn the_privileged_variant_tells_the_same() {
    let _alone = needs!(real_kills());
    let cluster = needs!(Programs::find().and_then(Cluster::start));
    let collector = collector(&cluster);
    deploy(&cluster, PRIVILEGED);
    every_kind_of_kill_is_told(&cluster, &collector, &Scraper::direct(&cluster));
    deleting_leaves_nothing(&cluster, PRIVILEGED);
}

#[test]
fn the_chart_tells_the_same_and_leaves_nothing() {
    let _alone = needs!(real_kills());
    let cluster = needs!(Programs::find().and_then(Cluster::start));
    let collector = collector(&cluster);
    deploy(&cluster, CHART);
    every_kind_of_kill_is_told(&cluster, &collector, &Scraper::forward(&cluster));
    is_unprivileged_and_was_not_restarted(&cluster);
    deleting_leaves_nothing(&cluster, CHART);
}

#[test]
fn an_agent_without_root_tells_the_same() {
    let _alone = needs!(real_kills());
    let cluster = needs!(Programs::find().and_then(Cluster::start));
    let collector = collector(&cluster);
    deploy(&cluster, NON_ROOT);
    assert_eq!(agents::status(&cluster, "Uid").split_whitespace().next(), Some("65532"));
    every_kind_of_kill_is_told(&cluster, &collector, &Scraper::forward(&cluster));
    is_unprivileged_and_was_not_restarted(&cluster);
    // Another user's file: the next agent must be able to go on with it.
    cluster.text("kubectl rollout restart -n kube-system daemonset/oom-watcher");
    await_rollout(&cluster);
    let scraper = Scraper::forward(&cluster);
    assert_eq!(scraper.kills("guaranteed", "app"), Some(1.0));
    deleting_leaves_nothing(&cluster, NON_ROOT);
}
