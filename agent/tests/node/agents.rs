//! The agent as a DaemonSet: how it is applied, and what can be seen of it.

use std::fs;
use std::net::SocketAddr;

use oom_watcher::attribution::proc_cgroup;
use oom_watcher::cgroups::hierarchy::Hierarchy;

use crate::cluster::Cluster;
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::exposition::{Sample, parse_exposition};
use oom_watcher_testkit::programs::Server;

/// The state of the agent of a node.
pub(crate) const STATE: &str = "/run/oom-watcher";

/// A collector on the node, where the agents of `kubectl set env` below find it.
pub(crate) fn collector(cluster: &Cluster) -> Collector {
    cluster.in_network(|| Collector::start_at(SocketAddr::from(([0, 0, 0, 0], 4317))))
}

/// A way to install it: the command for that, and the one that takes it back.
pub(crate) type Way = [&'static str; 2];

pub(crate) const MANIFEST: Way = ["kubectl apply -f k8s/daemonset.yaml", "kubectl delete -f k8s/daemonset.yaml"];
pub(crate) const PRIVILEGED: Way =
    ["kubectl apply -k k8s/overlays/privileged", "kubectl delete -k k8s/overlays/privileged"];
pub(crate) const NON_ROOT: Way = ["kubectl apply -k k8s/overlays/non-root", "kubectl delete -k k8s/overlays/non-root"];
pub(crate) const PINNED: Way = ["kubectl apply -k k8s/overlays/pinned", "kubectl delete -k k8s/overlays/pinned"];
pub(crate) const CHART: Way = [
    "helm install oom-watcher k8s/chart --namespace kube-system --set pin=true",
    "helm uninstall oom-watcher --namespace kube-system",
];

/// The documented way to `/metrics`.
pub(crate) const FORWARD: &str = "kubectl port-forward -n kube-system daemonset/oom-watcher 8080:8080";

/// Installs it, sends OTLP to the node's collector as the manifest says how, and waits until the agent sees kills.
pub(crate) fn deploy(cluster: &Cluster, [install, _]: Way) {
    cluster.text(install);
    cluster.text(
        "kubectl set env -n kube-system daemonset/oom-watcher 'OTEL_EXPORTER_OTLP_ENDPOINT=http://$(HOST_IP):4317'",
    );
    await_rollout(cluster);
}

/// Waits until each node has the agent that the DaemonSet describes now.
pub(crate) fn await_rollout(cluster: &Cluster) {
    if let Err(said) = cluster.try_text("kubectl rollout status -n kube-system daemonset/oom-watcher --timeout=90s") {
        let seen = cluster.text(
            "kubectl describe -n kube-system pods; kubectl logs -n kube-system -l app=oom-watcher; \
            kubectl get events -A",
        );
        panic!("{said}\n{seen}\n{}", cluster.logs());
    }
}

/// The way to `/metrics`, for as long as it is kept.
pub(crate) struct Scraper<'a> {
    cluster: &'a Cluster,
    _forward: Option<Server>,
}

impl<'a> Scraper<'a> {
    /// Through `kubectl port-forward`.
    pub(crate) fn forward(cluster: &'a Cluster) -> Self {
        let forward = cluster.serve("port-forward", &FORWARD.split(' ').collect::<Vec<_>>());
        cluster.await_text("curl --no-progress-meter http://localhost:8080/metrics");
        Self { cluster, _forward: Some(forward) }
    }

    /// On the node's own network.
    pub(crate) fn direct(cluster: &'a Cluster) -> Self {
        cluster.await_text("curl --no-progress-meter http://localhost:8080/metrics");
        Self { cluster, _forward: None }
    }

    /// What is there now.
    pub(crate) fn metrics(&self) -> Vec<Sample> {
        parse_exposition(&self.cluster.text("curl --no-progress-meter http://localhost:8080/metrics"))
    }

    /// `oom_kills_total` of a container of a pod in the namespace `shop`. Absent: there is no such series.
    pub(crate) fn kills(&self, pod: &str, container: &str) -> Option<f64> {
        kills_of(&self.metrics(), pod, container)
    }
}

/// The same in what was there.
pub(crate) fn kills_of(metrics: &[Sample], pod: &str, container: &str) -> Option<f64> {
    let is = |sample: &&Sample| {
        let labels =
            [("namespace", "shop"), ("pod", pod), ("container", container), ("node", oom_watcher_testkit::agent::NODE)];
        sample.name == "oom_kills_total" && labels.iter().all(|(name, value)| sample.label(name) == *value)
    };
    metrics.iter().find(is).map(|sample| sample.value)
}

/// A line of `/proc/PID/status` of the agent's process, found by the folder of its pod: `CapEff`.
pub(crate) fn status(cluster: &Cluster, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", process(cluster))).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in {status}")).trim().to_owned()
}

/// The most that the agent's container has used of its limit so far, in bytes, the kernel's own memory for it included;
/// and the limit.
pub(crate) fn peak(cluster: &Cluster) -> (u64, u64) {
    let hierarchy = Hierarchy::find().unwrap();
    let text = fs::read_to_string(format!("/proc/{}/cgroup", process(cluster))).unwrap();
    let directory = hierarchy.mount.join(proc_cgroup::memory_path(&text).unwrap().trim_start_matches('/'));
    let read = |names: [&str; 2]| {
        let texts = names.map(|name| fs::read_to_string(directory.join(name)).unwrap_or_default()).concat();
        texts.trim().parse().unwrap_or_else(|_| panic!("none of {names:?} in {}", directory.display()))
    };
    (read(["memory.peak", "memory.max_usage_in_bytes"]), read(["memory.max", "memory.limit_in_bytes"]))
}

/// The agent's process.
pub(crate) fn process(cluster: &Cluster) -> u32 {
    let container = "kubectl get pods -n kube-system -l app=oom-watcher -o \
        'jsonpath={.items[0].status.containerStatuses[0].containerID}'";
    let id = cluster.text(container).trim_start_matches("containerd://").to_owned();
    let info = cluster.text(&format!("ctr --namespace k8s.io tasks list | grep {id}"));
    info.split_whitespace().nth(1).unwrap().parse().unwrap()
}
