//! What the Kubernetes API knows of a victim's pod: its names, from the first kill on; and a kill that is earlier than
//! what the API knows. Real kills, on this kernel; the API server is a stand-in.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod hostile;

use serde_json::{Value, json};

use oom_watcher_testkit::agent::Agent;
use oom_watcher_testkit::api_server::ApiServer;
use oom_watcher_testkit::collector::{Collector, Record};
use oom_watcher_testkit::exposition::total;
use oom_watcher_testkit::kills::report::Container;
use oom_watcher_testkit::kills::{Held, Made, make, make_and_hold};
use oom_watcher_testkit::machine::bpf_file_system;
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::wait::eventually;

const KILLS: &str = "oom_kills_total";
const KILLS_PER_NODE: &str = "oom_kills_per_node_total";
const SYNCED: &str = "oom_watcher_pods_synced";
const WAITING: &str = "oom_watcher_waiting_kills";

fn within(made: &Made) -> impl Fn(&str) -> bool + use<> {
    let root = format!("/{}/", made.cgroups.first().unwrap().path.split('/').nth(1).unwrap());
    move |path| path.starts_with(&root)
}

/// The container that oom-maker makes with this seed.
fn container(seed: u32) -> Container {
    make(&format!("burst 1 --seed {seed}")).cgroups[0].container.clone().unwrap()
}

fn kill(seed: u32) -> Held {
    make_and_hold(&format!("burst 1 --seed {seed}"))
}

/// A pod with two containers, of which the first has that id, or none yet.
fn pod(container: &Container, name: &str, has_id: bool) -> Value {
    let (image, id) = ("registry.example/app:1.2", has_id.then(|| format!("containerd://{}", container.container_id)));
    let app = json!({"name": "app", "image": image, "resources": {"limits": {"memory": "4Mi"}}});
    let status = json!({"name": "app", "image": image, "restartCount": 2, "containerID": id});
    json!({
        "metadata": {
            "namespace": "shop", "name": name, "uid": container.pod_uid,
            "labels": {"team": "cart", "pod-template-hash": "5d4f8"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-5d4f8", "controller": true}],
        },
        "spec": {"containers": [app, {"name": "log"}]},
        "status": {"containerStatuses": [status]},
    })
}

fn start(api: &ApiServer, collector: &Collector, container_wait: &str, flags: &[&str]) -> Agent {
    let settings = api.settings(container_wait).display().to_string();
    let agent = Agent::start(&collector.environment(), &[&["--config", settings.as_str()], flags].concat());
    eventually("first answer of the API", || (!api.asked().is_empty()).then_some(()));
    agent
}

fn synced(agent: &Agent, is: f64) {
    eventually("all pods", || (total(&agent.metrics(), SYNCED) == is).then_some(()));
}

#[test]
fn a_kill_has_the_names_of_its_pod_and_its_series_was_at_0_before() {
    let _alone = needs!(real_kills());
    let (api, collector, container) = (ApiServer::start(), Collector::start(), container(71));
    api.apply(pod(&container, "web-5d4f8-abcde", true));
    let agent = start(&api, &collector, "5s", &[]);
    synced(&agent, 1.0);
    assert_eq!((agent.kills("web-5d4f8-abcde", "app"), agent.kills("web-5d4f8-abcde", "log")), (Some(0.0), Some(0.0)));
    let held = kill(71);
    let records = collector.await_records(1, within(&held.made));
    let told = [
        "k8s.namespace.name",
        "k8s.pod.name",
        "k8s.container.name",
        "k8s.deployment.name",
        "container.image.name",
        "k8s.pod.label.team",
    ];
    let expected = ["shop", "web-5d4f8-abcde", "app", "web", "registry.example/app", "cart"];
    assert_eq!(told.map(|key| records[0].text(key)), expected.map(Some), "{records:?}");
    assert_eq!(
        ["k8s.container.restart_count", "oom_watcher.container.memory_limit"].map(|key| records[0].number(key)),
        [Some(2), Some(4 << 20)]
    );
    assert_eq!((agent.kills("web-5d4f8-abcde", "app"), agent.kills("web-5d4f8-abcde", "log")), (Some(1.0), Some(0.0)));
    // Nobody asked for more than this node's pods.
    let selector = "fieldSelector=spec.nodeName%3D";
    assert!(
        api.asked().iter().all(|asked| asked.starts_with("/api/v1/pods?") && asked.contains(selector)),
        "{:?}",
        api.asked()
    );
}

#[test]
fn a_kill_waits_for_the_id_of_its_container_and_delays_no_other_pod() {
    const OTHERS: usize = 100;
    let _alone = needs!(real_kills());
    let (api, collector) = (ApiServer::start(), Collector::start());
    let (late, known) = (container(72), container(73));
    api.apply(pod(&late, "late", false));
    api.apply(pod(&known, "known", true));
    let agent = start(&api, &collector, "30s", &[]);
    synced(&agent, 1.0);
    let before = total(&agent.metrics(), KILLS_PER_NODE);
    let first = kill(72);
    // At once for the node, and for nobody else yet.
    eventually("a kill that waits", || (total(&agent.metrics(), WAITING) >= 1.0).then_some(()));
    assert!(total(&agent.metrics(), KILLS_PER_NODE) > before);
    assert_eq!(agent.kills("late", "app"), Some(0.0));
    let others = make_and_hold(&format!("burst {OTHERS} --one-cgroup --seed 73"));
    let records = collector.await_records(OTHERS, within(&others.made));
    assert!(records.iter().all(|record| record.text("k8s.pod.name") == Some("known")));
    assert_eq!((agent.kills("late", "app"), agent.kills("known", "app")), (Some(0.0), Some(OTHERS as f64)));
    assert!(collector.records(within(&first.made)).is_empty());
    api.apply(pod(&late, "late", true));
    let first = collector.await_records(1, within(&first.made));
    assert_eq!(first[0].text("k8s.container.name"), Some("app"));
    let sequence = |record: &Record| record.number("oom_watcher.kill.sequence");
    assert!(records.iter().all(|record| sequence(&first[0]) < sequence(record)), "it came before all of them");
    let samples = agent.metrics();
    assert_eq!((agent.kills("late", "app"), total(&samples, WAITING)), (Some(1.0), 0.0));
    assert_eq!(total(&samples, KILLS_PER_NODE), total(&samples, KILLS), "each counts once for the node");
}

#[test]
fn a_container_that_never_gets_its_id_is_not_guessed() {
    let _alone = needs!(real_kills());
    let (api, collector, container) = (ApiServer::start(), Collector::start(), container(74));
    api.apply(pod(&container, "web", false));
    let agent = start(&api, &collector, "500ms", &[]);
    synced(&agent, 1.0);
    let held = kill(74);
    let records = collector.await_records(1, within(&held.made));
    assert_eq!((records[0].text("k8s.pod.name"), records[0].text("k8s.container.name")), (Some("web"), None));
    assert_eq!(agent.kills("web", &container.container_id[..12]), Some(1.0));
    // What comes later moves nothing.
    api.apply(pod(&container, "web", true));
    let held = kill(74);
    collector.await_records(1, within(&held.made));
    assert_eq!((agent.kills("web", &container.container_id[..12]), agent.kills("web", "app")), (Some(1.0), Some(1.0)));
}

#[test]
fn the_only_container_of_a_pod_is_named_though_its_id_never_comes() {
    let _alone = needs!(real_kills());
    let (api, collector, container) = (ApiServer::start(), Collector::start(), container(79));
    let mut only = pod(&container, "web", false);
    only["spec"]["containers"].as_array_mut().unwrap().truncate(1);
    api.apply(only);
    let agent = start(&api, &collector, "500ms", &[]);
    synced(&agent, 1.0);
    let held = kill(79);
    let records = collector.await_records(1, within(&held.made));
    let told = ["k8s.pod.name", "k8s.container.name", "container.id"].map(|key| records[0].text(key));
    assert_eq!(told, [Some("web"), Some("app"), Some(container.container_id.as_str())]);
    // Which of its containers, one after the other, is not known.
    assert_eq!((records[0].number("k8s.container.restart_count"), agent.kills("web", "app")), (None, Some(1.0)));
}

#[test]
fn a_node_without_pods_is_probably_another_one_and_that_is_said() {
    let _alone = needs!(real_kills());
    let (api, collector) = (ApiServer::start(), Collector::start());
    let agent = start(&api, &collector, "5s", &[]);
    eventually("a word about it", || agent.log().contains("knows no pod of this node").then_some(()));
    eventually("readiness", || {
        agent.get("/readyz").starts_with("ready, degraded: the Kubernetes API knows no pod of this node").then_some(())
    });
    synced(&agent, 0.0);
    api.apply(pod(&container(83), "web", false));
    synced(&agent, 1.0);
    eventually("readiness", || (agent.get("/readyz") == "ready\n").then_some(()));
}

#[test]
fn check_asks_the_api_and_says_what_is_wrong() {
    let _alone = needs!(real_kills());
    let api = ApiServer::start();
    let settings = api.settings("5s");
    let finding = || {
        let mut check = std::process::Command::new(oom_watcher_testkit::agent::program());
        check.env_clear().env("NODE_NAME", oom_watcher_testkit::agent::NODE).args([
            "check",
            "--listen",
            "127.0.0.1:0",
            "--pin-dir",
            "none",
            "--state-dir",
            "none",
        ]);
        let output = String::from_utf8(check.arg("--config").arg(&settings).output().unwrap().stdout).unwrap();
        let line = output.lines().find(|line| line.starts_with("kubernetes ")).unwrap_or_else(|| panic!("{output}"));
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(finding(), "kubernetes degraded the API answers, but knows no pod of this node");
    api.apply(pod(&container(78), "web", false));
    assert_eq!(finding(), "kubernetes pass the API answers; pods on this node: 1");
    api.refuse(Some(403));
    let says = finding();
    assert!(
        says.starts_with(
            "kubernetes degraded kills in pods have uids and ids, no names: it forbids listing or watching pods (403)"
        ),
        "{says}"
    );
    assert!(says.ends_with(": refused"), "the server's own word, and no more: {says}");
}

#[test]
fn a_sigterm_does_not_wait_for_containers() {
    let _alone = needs!(real_kills());
    let (api, collector, container) = (ApiServer::start(), Collector::start(), container(77));
    api.apply(pod(&container, "web", false));
    let mut agent = start(&api, &collector, "30s", &[]);
    synced(&agent, 1.0);
    let held = kill(77);
    assert_eq!(agent.stop(), Some(0), "{}", agent.log());
    let records = collector.records(within(&held.made));
    assert_eq!(records.iter().map(|record| record.text("k8s.pod.name")).collect::<Vec<_>>(), [Some("web")]);
}

#[test]
fn a_kill_that_waited_when_the_agent_died_is_counted_once() {
    let _alone = needs!(real_kills());
    // The kernel's counter tells of it: its cgroup is still there.
    dies_with_a_kill_that_waits(81, "none", true);
    // The ring buffer has it still.
    let pins = needs!(bpf_file_system()).join(format!("oom-watcher-test-waits-{}", std::process::id()));
    dies_with_a_kill_that_waits(82, pins.to_str().unwrap(), false);
    oom_watcher::source::probe::pins::remove_all(&pins).unwrap();
}

/// One kill waits, another one goes past it, and then the agent is killed.
fn dies_with_a_kill_that_waits(seed: u32, pins: &str, reconstructed: bool) {
    let (api, collector, container, known) =
        (ApiServer::start(), Collector::start(), container(seed), container(seed + 100));
    api.apply(pod(&container, "web", false));
    api.apply(pod(&known, "known", true));
    let state = tempfile::tempdir().unwrap();
    let state_dir = state.path().join("state").display().to_string();
    let start = || start(&api, &collector, "30s", &["--state-dir", &state_dir, "--pin-dir", pins]);
    let mut agent = start();
    synced(&agent, 1.0);
    let held = kill(seed);
    eventually("a kill that waits", || (total(&agent.metrics(), WAITING) >= 1.0).then_some(()));
    let passing = kill(seed + 100);
    collector.await_records(1, within(&passing.made));
    eventually("a state with both", || {
        let changes = std::fs::read_to_string(state.path().join("state/state.changes")).ok()?;
        changes.lines().last()?.contains(r#""waiting":"#).then_some(())
    });
    let counted = total(&agent.metrics(), KILLS_PER_NODE);
    agent.signal(libc::SIGKILL);
    eventually("its end", || agent.ended());
    assert!(collector.records(within(&held.made)).is_empty());
    // By now its container is known.
    api.apply(pod(&container, "web", true));
    let agent = start();
    let records = collector.await_records(1, within(&held.made));
    let is_reconstructed = records[0].flag("oom_watcher.kill.reconstructed") == Some(true);
    assert_eq!(
        (records.len(), records[0].text("k8s.container.name"), is_reconstructed),
        (1, Some("app"), reconstructed)
    );
    assert_eq!((agent.kills("web", "app"), agent.kills("known", "app")), (Some(1.0), Some(1.0)), "pins: {pins}");
    assert_eq!(total(&agent.metrics(), KILLS_PER_NODE), counted, "pins: {pins}");
}

#[test]
fn a_pod_that_is_gone_still_owns_its_kill() {
    let _alone = needs!(real_kills());
    let (api, collector, container) = (ApiServer::start(), Collector::start(), container(75));
    api.apply(pod(&container, "web", true));
    let agent = start(&api, &collector, "5s", &[]);
    synced(&agent, 1.0);
    api.delete(&container.pod_uid);
    eventually("end of the pod", || (total(&agent.metrics(), "oom_watcher_pods") == 0.0).then_some(()));
    let held = kill(75);
    let records = collector.await_records(1, within(&held.made));
    assert_eq!((records[0].text("k8s.pod.name"), records[0].text("k8s.container.name")), (Some("web"), Some("app")));
}

#[test]
fn without_permission_kills_go_on_and_with_it_they_have_names_again() {
    let _alone = needs!(real_kills());
    let (api, collector, container) = (ApiServer::start(), Collector::start(), container(76));
    api.apply(pod(&container, "web", true));
    api.refuse(Some(403));
    let agent = start(&api, &collector, "30s", &[]);
    eventually("a word about it", || agent.log().contains("it forbids listing or watching pods (403)").then_some(()));
    synced(&agent, 0.0);
    assert!(
        agent.get("/readyz").starts_with("ready, degraded: the pods of this node are not known"),
        "{}",
        agent.get("/readyz")
    );
    let held = kill(76);
    // It does not wait for what will not be known.
    let records = collector.await_records(1, within(&held.made));
    assert_eq!(
        (records[0].text("k8s.pod.uid"), records[0].text("k8s.pod.name")),
        (Some(container.pod_uid.as_str()), None)
    );
    // But the kubelet's directories tell.
    api.make_log(&format!("shop_web_{}", container.pod_uid), "app");
    let held = kill(76);
    let records = collector.await_records(1, within(&held.made));
    let named =
        ["k8s.pod.uid", "k8s.namespace.name", "k8s.pod.name", "k8s.container.name", "oom_watcher.container.role"]
            .map(|key| records[0].text(key));
    assert_eq!(named, [Some(container.pod_uid.as_str()), Some("shop"), Some("web"), Some("app"), None]);
    assert_eq!(agent.kills("web", "app"), Some(1.0));
    api.refuse(None);
    synced(&agent, 1.0);
    eventually("readiness", || (agent.get("/readyz") == "ready\n").then_some(()));
    let held = kill(76);
    let records = collector.await_records(1, within(&held.made));
    assert_eq!(records[0].text("k8s.pod.name"), Some("web"));
    assert_eq!(
        (agent.log().matches("cannot be asked for pods").count(), agent.log().matches("kube_").count()),
        (1, 0),
        "{}",
        agent.log()
    );
}
