//! An agent that ends leaves its state for the next one, unless its DaemonSet is gone for certain.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::start_with;
use oom_watcher_testkit::agent::Agent;
use oom_watcher_testkit::cluster::Cluster;
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::programs::Programs;
use oom_watcher_testkit::wait::eventually;

const PATH: &str = "/apis/apps/v1/namespaces/kube-system/daemonsets/oom-watcher";

/// The agent of a DaemonSet. It saves its state when it ends, if not before.
fn agent(cluster: &Cluster, collector: &Collector, state: &Path) -> Agent {
    let asked = cluster.asked().len();
    let [state, spool] = [state.to_owned(), spool(state)].map(|folder| folder.display().to_string());
    let variables = [("OOM_WATCHER_DAEMONSET", "kube-system/oom-watcher"), ("OOM_WATCHER_SPOOL_DIR", spool.as_str())];
    let agent = start_with(cluster, collector, &variables, &["--state-dir", &state]);
    let is_answered = |(_, path, code): &(String, String, u64)| path == PATH && *code > 0;
    eventually("answer about the DaemonSet", || cluster.asked().iter().skip(asked).any(is_answered).then_some(()));
    agent
}

/// The spool of an agent with that state.
fn spool(state: &Path) -> PathBuf {
    state.with_file_name("spool")
}

/// Waits until the API server allows the agent to ask, or does not: it learns of changed permissions a moment later.
fn await_allowed(cluster: &Cluster, expected: bool) {
    let what = json!({
        "namespace": "kube-system", "group": "apps", "resource": "daemonsets", "name": "oom-watcher", "verb": "get",
    });
    let review = json!({"spec": {"user": "system:serviceaccount:kube-system:oom-watcher", "resourceAttributes": what}});
    let is_allowed = || {
        cluster.admin.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review)["status"]["allowed"]
            == json!(true)
    };
    eventually("change of permissions", || (is_allowed() == expected).then_some(()));
}

fn make_daemonset(cluster: &Cluster) {
    let labels = json!({"app": "oom-watcher"});
    let containers = json!([{"name": "oom-watcher", "image": "oom-watcher"}]);
    let template = json!({"metadata": {"labels": labels}, "spec": {"containers": containers}});
    let spec = json!({"selector": {"matchLabels": labels}, "template": template});
    cluster.admin.post(PATH.rsplit_once('/').unwrap().0, &json!({"metadata": {"name": "oom-watcher"}, "spec": spec}));
}

#[test]
fn what_the_next_agent_needs_goes_only_if_none_comes() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find());
    let (mut cluster, collector) = (Cluster::start(programs, false), Collector::start());
    let state: PathBuf = cluster.folder().join("state");
    let check = |cluster: &Cluster, mut agent: Agent, stays: bool, what: &str| {
        assert_eq!(agent.stop(), Some(0), "{}", agent.log());
        assert_eq!(
            (state.join("state.json").exists(), spool(&state).exists()),
            (stays, stays),
            "{what}: {}",
            agent.log()
        );
        assert_eq!(agent.log().contains("state, pins and spool are removed"), !stays, "{what}");
        assert!(cluster.asked().iter().any(|(verb, path, _)| verb == "get" && path == PATH));
    };

    check(&cluster, agent(&cluster, &collector, &state), true, "it never was there: it is called otherwise");
    make_daemonset(&cluster);
    check(&cluster, agent(&cluster, &collector, &state), true, "it is there");
    let unreachable = agent(&cluster, &collector, &state);
    cluster.stop_api();
    check(&cluster, unreachable, true, "the API does not answer");
    cluster.start_api();

    // As `kubectl delete -f` may do it: the permission goes first.
    let forbidden = agent(&cluster, &collector, &state);
    let binding = "/apis/rbac.authorization.k8s.io/v1/namespaces/kube-system/rolebindings/oom-watcher";
    cluster.admin.delete(binding);
    await_allowed(&cluster, false);
    check(&cluster, forbidden, false, "the permission is gone that was there");
    let never_allowed = agent(&cluster, &collector, &state);
    check(&cluster, never_allowed, true, "the permission was never there");
    cluster.permit();
    await_allowed(&cluster, true);

    let removed = agent(&cluster, &collector, &state);
    cluster.admin.delete(PATH);
    eventually("end of the DaemonSet", || cluster.admin.find(PATH).is_none().then_some(()));
    check(&cluster, removed, false, "it is gone");
}
