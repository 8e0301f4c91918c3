//! The agent with a real API server: whose kills of all kinds of pods and containers are, and what an API server that
//! is away, late or busy changes. Real kills, on this kernel. Pods are bound and reported by the tests, as a scheduler
//! and a kubelet would.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod alerts;
mod churn;
mod enriched;
mod manifests;
mod outage;
mod removal;

use std::time::Duration;

use serde_json::json;

use oom_watcher_testkit::agent::Agent;
use oom_watcher_testkit::cluster::Cluster;
use oom_watcher_testkit::cluster::kubelet::{Pod, container, id, restarted, running, template};
use oom_watcher_testkit::collector::{Collector, Record};
use oom_watcher_testkit::exposition::total;
use oom_watcher_testkit::kills::Held;
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::programs::Programs;
use oom_watcher_testkit::wait::{eventually, eventually_within};

const KILLS: &str = "oom_kills_total";
const SYNCED: &str = "oom_watcher_pods_synced";
const WAITING: &str = "oom_watcher_waiting_kills";
const PODS: &str = "oom_watcher_pods";

/// Starts the agent, and waits until it knows the pods, or that there are none.
fn start(cluster: &Cluster, collector: &Collector, container_wait: &str) -> Agent {
    launch(collector, &cluster.settings(container_wait), &[], &[])
}

/// The same with these variables and flags.
fn start_with(cluster: &Cluster, collector: &Collector, variables: &[(&str, &str)], flags: &[&str]) -> Agent {
    launch(collector, &cluster.settings("5s"), variables, flags)
}

fn launch(collector: &Collector, settings: &str, variables: &[(&str, &str)], flags: &[&str]) -> Agent {
    let agent =
        Agent::start(&[&collector.environment(), variables].concat(), &[&["--config", settings], flags].concat());
    eventually("pods", || {
        (agent.log().contains("the pods of this node are known") || agent.log().contains("knows no pod of this node"))
            .then_some(())
    });
    agent
}

/// Waits until the agent knows that many pods.
fn await_pods(agent: &Agent, pods: f64) {
    eventually(&format!("{pods} pods"), || (total(&agent.metrics(), PODS) == pods).then_some(()));
}

/// The record of the kill that was made, alone.
fn record(collector: &Collector, held: &Held) -> Record {
    let cgroup = held.made.cgroups[0].path.clone();
    let records = collector.await_records(1, |path| path == cgroup);
    assert_eq!(records.len(), 1);
    records[0].clone()
}

/// A kill of that container, and what must be said of it: the names, and these attributes.
#[track_caller]
fn check(agent: &Agent, collector: &Collector, pod: &Pod, container: &str, id: &str, expected: &[(&str, &str)]) {
    let before = agent.kills(&pod.name, container);
    assert!(before.is_some(), "no series of {} {container} before its kill", pod.name);
    let held = pod.kill(id);
    let record = record(collector, &held);
    let names = [
        ("k8s.namespace.name", "shop"),
        ("k8s.pod.name", &pod.name),
        ("k8s.container.name", container),
        ("container.id", id),
    ];
    for (key, value) in names.iter().chain(expected) {
        let told = record.text(key).map(str::to_owned).or_else(|| record.number(key).map(|number| number.to_string()));
        let wanted = Some((*value).to_owned()).filter(|value| value != "-");
        assert_eq!(told, wanted, "{key} of {} {container}", pod.name);
    }
    assert_eq!(agent.kills(&pod.name, container), before.map(|before| before + 1.0), "{} {container}", pod.name);
}

#[test]
fn every_kind_of_pod_and_of_container_has_its_names_in_series_and_records() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find());
    let cluster = Cluster::start(programs, true);
    let collector = Collector::start();
    let apps = |kind: &str, name: &str, more: serde_json::Value| {
        let mut spec = json!({"selector": {"matchLabels": {"app": name}}, "template": template(name, &["app", "log"])});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        cluster
            .admin
            .post(&format!("/apis/apps/v1/namespaces/shop/{kind}"), &json!({"metadata": {"name": name}, "spec": spec}));
    };
    let mut job = template("report", &["app", "log"]);
    job["spec"]["restartPolicy"] = "Never".into();
    let spec = json!({"schedule": "* * * * *", "jobTemplate": {"spec": {"template": job}}});
    // The first one that has to wait: until the next minute begins.
    cluster
        .admin
        .post("/apis/batch/v1/namespaces/shop/cronjobs", &json!({"metadata": {"name": "report"}, "spec": spec}));
    apps("deployments", "web", json!({"replicas": 1}));
    apps("statefulsets", "db", json!({"replicas": 1, "serviceName": "db"}));
    apps("daemonsets", "logger", json!({}));
    let agent = start(&cluster, &collector, "5s");

    let regular = [
        ("oom_watcher.container.role", "regular"),
        ("k8s.pod.label.team", "cart"),
        ("container.image.name", "registry.example/app"),
    ];
    let limits = [
        ("oom_watcher.container.memory_limit", "4194304"),
        ("oom_watcher.container.memory_request", "4194304"),
        ("k8s.container.restart_count", "0"),
    ];
    let of = |kind: &'static str, key: &'static str, name: &'static str| {
        let workload = [("oom_watcher.workload.kind", kind), ("oom_watcher.workload.name", name), (key, name)];
        [workload.as_slice(), &regular, &limits].concat()
    };
    let mut number = 0;
    let mut reported = |app: &str| {
        let pod = cluster.bind(app);
        number += 2;
        cluster.report(
            &pod,
            "containerStatuses",
            &[running("app", &id(number), 0), running("log", &id(number + 1), 0)],
        );
        eventually("series", || agent.kills(&pod.name, "app"));
        (pod, number)
    };
    let (web, of_web) = reported("web");
    check(&agent, &collector, &web, "app", &id(of_web), &of("Deployment", "k8s.deployment.name", "web"));
    let (logger, of_logger) = reported("logger");
    check(&agent, &collector, &logger, "app", &id(of_logger), &of("DaemonSet", "k8s.daemonset.name", "logger"));
    let (db, of_db) = reported("db");
    check(&agent, &collector, &db, "app", &id(of_db), &of("StatefulSet", "k8s.statefulset.name", "db"));
    assert_eq!(agent.kills(&db.name, "log"), Some(0.0), "the other container was not killed");

    // Restarted: the series goes on; one that is read late is that of the container before.
    cluster.report(
        &db,
        "containerStatuses",
        &[restarted("app", &id(100), 1, &id(of_db)), running("log", &id(of_db + 1), 0)],
    );
    let again = [("k8s.container.restart_count", "1"), ("k8s.statefulset.name", "db")];
    check(&agent, &collector, &db, "app", &id(100), &again);
    check(&agent, &collector, &db, "app", &id(of_db), &[("k8s.container.restart_count", "0")]);
    assert_eq!(agent.kills(&db.name, "app"), Some(3.0));

    // A bare pod, with a container of each kind.
    let mut sidecar = container("proxy");
    sidecar["restartPolicy"] = "Always".into();
    let spec = json!({"initContainers": [container("prepare"), sidecar], "containers": [container("app")]});
    let lone = cluster.make_pod("lone", spec);
    let bare = [("oom_watcher.workload.kind", "-"), ("k8s.deployment.name", "-")];
    let role = |role: &'static str| [bare.as_slice(), &[("oom_watcher.container.role", role)]].concat();
    cluster.report(&lone, "initContainerStatuses", &[running("prepare", &id(200), 0), running("proxy", &id(201), 0)]);
    eventually("series", || agent.kills("lone", "prepare"));
    check(&agent, &collector, &lone, "prepare", &id(200), &role("init"));
    check(&agent, &collector, &lone, "proxy", &id(201), &role("sidecar"));
    cluster.report(&lone, "containerStatuses", &[running("app", &id(202), 0)]);
    check(&agent, &collector, &lone, "app", &id(202), &role("regular"));
    let debugger =
        json!({"spec": {"ephemeralContainers": [{"name": "debugger", "image": "registry.example/debugger:1.2"}]}});
    cluster.admin.merge(&format!("{}/ephemeralcontainers", lone.path()), &debugger);
    cluster.report(&lone, "ephemeralContainerStatuses", &[running("debugger", &id(203), 0)]);
    eventually("series", || agent.kills("lone", "debugger"));
    check(&agent, &collector, &lone, "debugger", &id(203), &role("ephemeral"));

    // A static pod: known by what stands for its uid in cgroups, and by its container's id.
    let (hash, uid) = ("b53dfa9e2dc9b890f7fadb2770857b03", "k8s.pod.uid");
    let mirror = cluster.make_mirror("etcd-test-node", hash);
    eventually("series", || agent.kills(&mirror.name, "app"));
    let of_static = [("oom_watcher.pod.config_hash", hash), (uid, &mirror.uid), ("oom_watcher.workload.kind", "-")];
    cluster.report(&mirror, "containerStatuses", &[running("app", &id(300), 0)]);
    check(&agent, &collector, &mirror, "app", &id(300), &of_static);

    // Deleted before its kill, and at the same time. The series stays for a while.
    let pods = total(&agent.metrics(), PODS);
    cluster.admin.delete(&lone.path());
    await_pods(&agent, pods - 1.0);
    check(&agent, &collector, &lone, "app", &id(202), &role("regular"));
    std::thread::scope(|scope| {
        let killed = scope.spawn(|| {
            check(&agent, &collector, &web, "app", &id(of_web), &of("Deployment", "k8s.deployment.name", "web"))
        });
        cluster.admin.delete(&web.path());
        killed.join().unwrap();
    });
    // And after it.
    cluster.admin.delete(&logger.path());
    await_pods(&agent, pods - 3.0);
    let left = [("lone", "app"), (&web.name, "app"), (&logger.name, "app")]
        .map(|(pod, container)| agent.kills(pod, container));
    assert_eq!(left, [Some(2.0), Some(2.0), Some(1.0)]);

    let (report, of_report) = {
        let jobs = || cluster.admin.get("/apis/batch/v1/namespaces/shop/jobs")["items"].as_array()?.first().cloned();
        // A minute, and some seconds for the controller.
        let made = eventually_within(Duration::from_secs(90), "job", jobs);
        let (pod, number) = reported("report");
        (
            pod,
            [
                ("k8s.job.name".to_owned(), made["metadata"]["name"].as_str().unwrap().to_owned()),
                (String::new(), id(number)),
            ],
        )
    };
    let [(key, job), (_, container_id)] = &of_report;
    let expected = [of("CronJob", "k8s.cronjob.name", "report").as_slice(), &[(key.as_str(), job.as_str())]].concat();
    check(&agent, &collector, &report, "app", container_id, &expected);
    assert_eq!(total(&agent.metrics(), "oom_watcher_kills_without_owner_total"), 0.0);
}

#[test]
fn a_status_that_comes_late_is_waited_for_and_one_that_never_comes_is_not_guessed() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find());
    let (cluster, collector) = (Cluster::start(programs, false), Collector::start());
    let [late, never, only] = [("late", &["app", "log"][..]), ("never", &["app", "log"]), ("only", &["app"])]
        .map(|(name, containers)| cluster.make_bare(name, containers));
    let agent = start(&cluster, &collector, "30s");
    await_pods(&agent, 3.0);
    let held = late.kill(&id(1));
    eventually("kill that waits", || (total(&agent.metrics(), WAITING) == 1.0).then_some(()));
    assert_eq!(agent.kills("late", "app"), Some(0.0));
    cluster.report(&late, "containerStatuses", &[running("app", &id(1), 0), running("log", &id(2), 0)]);
    assert_eq!(record(&collector, &held).text("k8s.container.name"), Some("app"));
    assert_eq!(agent.kills("late", "app"), Some(1.0));
    drop(agent);

    let agent = start(&cluster, &collector, "500ms");
    await_pods(&agent, 3.0);
    let (of_never, of_only) = (never.kill(&id(3)), only.kill(&id(4)));
    let (of_never, of_only) = (record(&collector, &of_never), record(&collector, &of_only));
    let named = |record: &Record| {
        ["k8s.pod.name", "k8s.container.name", "container.id"].map(|key| record.text(key).map(str::to_owned))
    };
    assert_eq!(named(&of_never), [Some("never".to_owned()), None, Some(id(3))]);
    assert_eq!(named(&of_only), [Some("only".to_owned()), Some("app".to_owned()), Some(id(4))]);
    assert_eq!(
        (agent.kills("never", &id(3)[..12]), agent.kills("never", "app"), agent.kills("only", "app")),
        (Some(1.0), Some(0.0), Some(1.0))
    );
}
