//! The pods that are killed: busybox, whose `tail /dev/zero` allocates until somebody stops it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cluster::Cluster;

/// Allocates until it is killed.
pub(crate) const HOG: &str = "tail /dev/zero";
/// What waits.
pub(crate) const IDLE: &str = "sleep 3600";

/// A container of the image `test`, with that limit of memory and no other request.
pub(crate) fn container(name: &str, command: &str, memory: &str) -> Value {
    json!({
        "name": name, "image": "localhost/test:1", "imagePullPolicy": "Never", "command": ["sh", "-c", command],
        "resources": {"limits": {"memory": memory}},
    })
}

/// A pod of such containers, which are not started again.
pub(crate) fn pod(name: &str, containers: &[Value]) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": containers},
    })
}

/// Applies pods.
pub(crate) fn apply(cluster: &Cluster, pods: &[Value]) {
    cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": pods}).to_string());
}

/// Waits until the pod runs.
pub(crate) fn await_ready(cluster: &Cluster, name: &str) {
    cluster.text(&format!("kubectl wait -n shop --for=condition=Ready pod/{name} --timeout=60s"));
}

/// A field of the pod.
pub(crate) fn field(cluster: &Cluster, name: &str, path: &str) -> String {
    cluster.text(&format!("kubectl get pod -n shop {name} -o 'jsonpath={{{path}}}'"))
}

/// The directory of a pod's memory cgroup.
pub(crate) fn cgroup(cluster: &Cluster, name: &str) -> PathBuf {
    let uid = field(cluster, name, ".metadata.uid");
    let pods = oom_watcher::cgroups::hierarchy::Hierarchy::find().unwrap().mount.join("kubepods");
    let mut places =
        ["", "burstable", "besteffort"].map(|class| pods.join(class).join(format!("pod{uid}"))).into_iter();
    places.find(|place| place.exists()).unwrap_or_else(|| panic!("no cgroup of pod {name}"))
}

/// The directory of the memory cgroup of a pod's container `app`.
pub(crate) fn container_cgroup(cluster: &Cluster, name: &str) -> PathBuf {
    let id = field(cluster, name, r#".status.containerStatuses[?(@.name=="app")].containerID"#);
    cgroup(cluster, name).join(id.trim_start_matches("containerd://"))
}

/// How many processes the kernel has killed in a pod's container `app`, as its own counter says.
pub(crate) fn counted_by_the_kernel(cluster: &Cluster, name: &str) -> u64 {
    kills_in(&container_cgroup(cluster, name))
}

/// The same by the directory of the container's cgroup.
pub(crate) fn kills_in(cgroup: &Path) -> u64 {
    let counters = ["memory.events", "memory.oom_control"]
        .map(|file| fs::read_to_string(cgroup.join(file)).unwrap_or_default())
        .concat();
    counters
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok())
        .unwrap_or_else(|| panic!("no oom_kill in {counters}"))
}
