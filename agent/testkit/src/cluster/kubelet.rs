//! What a scheduler and a kubelet do for a pod, as far as the API server sees it: bind it, and report its containers.
//! The containers themselves are made by oom-maker, in cgroups of the names that a kubelet gives them.

use serde_json::{Value, json};

use super::Cluster;
use crate::agent::NODE;
use crate::kills::{Held, make_and_hold};
use crate::wait::eventually;

/// Where the API server has the pods.
pub const PODS: &str = "/api/v1/namespaces/shop/pods";

/// A container's id. Each number is another one.
pub fn id(number: u64) -> String {
    format!("{number:064x}")
}

/// A pod of the namespace `shop`.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// What the kubelet calls it in cgroups: another one than `uid` for static pods.
    pub cgroup: String,
}

impl Pod {
    fn of(object: &Value) -> Self {
        let text = |key: &str| object["metadata"][key].as_str().unwrap().to_owned();
        Self { name: text("name"), uid: text("uid"), cgroup: text("uid") }
    }

    /// Where the API server has it.
    pub fn path(&self) -> String {
        format!("{PODS}/{}", self.name)
    }

    /// Makes a kill in the cgroup of that container.
    pub fn kill(&self, id: &str) -> Held {
        make_and_hold(&format!("at kubepods/burstable/pod{}/{id}", self.cgroup))
    }
}

/// A container's specification.
pub fn container(name: &str) -> Value {
    let (image, memory) = (format!("registry.example/{name}:1.2"), json!({"memory": "4Mi"}));
    json!({"name": name, "image": image, "resources": {"limits": memory, "requests": memory}})
}

/// What a workload makes its pods of.
pub fn template(app: &str, containers: &[&str]) -> Value {
    let containers: Vec<_> = containers.iter().map(|name| container(name)).collect();
    json!({"metadata": {"labels": {"app": app, "team": "cart"}}, "spec": {"containers": containers}})
}

/// A pod of two containers, bound to that node.
pub fn pair(name: &str, node: &str) -> Value {
    let mut spec = template(name, &["app", "log"])["spec"].clone();
    spec["nodeName"] = node.into();
    json!({"metadata": {"name": name, "labels": {"app": "churn", "team": "cart"}}, "spec": spec})
}

/// What a kubelet reports of the `number`-th such pod.
pub fn running_pair(number: u64, restarts: u32) -> Value {
    let statuses = [running("app", &id(2 * number), restarts), running("log", &id(2 * number + 1), restarts)];
    json!({"status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "containerStatuses": statuses}})
}

impl Cluster {
    /// Makes a pod that is bound to the node from the start, of this specification.
    pub fn make_pod(&self, name: &str, mut spec: Value) -> Pod {
        spec["nodeName"] = NODE.into();
        Pod::of(&self.admin.post(PODS, &json!({"metadata": {"name": name}, "spec": spec})))
    }

    /// Makes a bare pod with these containers.
    pub fn make_bare(&self, name: &str, containers: &[&str]) -> Pod {
        self.make_pod(name, template(name, containers)["spec"].clone())
    }

    /// Shows the API server a static pod, as the kubelet does that has read it from a file.
    pub fn make_mirror(&self, name: &str, hash: &str) -> Pod {
        let node = self.kubelet.get(&format!("/api/v1/nodes/{NODE}"))["metadata"]["uid"].clone();
        let annotations = json!({
            "kubernetes.io/config.hash": hash,
            "kubernetes.io/config.mirror": hash,
            "kubernetes.io/config.source": "file",
        });
        let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": node, "controller": true}]);
        let metadata = json!({"name": name, "annotations": annotations, "ownerReferences": owner});
        let spec = json!({"nodeName": NODE, "containers": [container("app")]});
        let mut pod = Pod::of(&self.kubelet.post(PODS, &json!({"metadata": metadata, "spec": spec})));
        pod.cgroup = hash.to_owned();
        pod
    }

    /// Waits for the pod that a controller makes with this label `app`, and binds it to the node.
    pub fn bind(&self, app: &str) -> Pod {
        let pods = format!("{PODS}?labelSelector=app%3D{app}");
        let made = || Some(self.admin.get(&pods)["items"].as_array()?.first()?.clone());
        let pod = Pod::of(&eventually(&format!("pod of {app}"), made));
        let target = json!({"apiVersion": "v1", "kind": "Node", "name": NODE});
        self.admin.post(&format!("{}/binding", pod.path()), &json!({"metadata": {"name": pod.name}, "target": target}));
        pod
    }

    /// Reports statuses of containers, by the list of the pod's status that they are in.
    pub fn report(&self, pod: &Pod, list: &str, statuses: &[Value]) {
        let mut status = json!({"phase": "Running", "startTime": "2026-01-01T00:00:00Z"});
        status[list] = statuses.into();
        self.kubelet.merge(&format!("{}/status", pod.path()), &json!({"status": status}));
    }
}

/// The status of a container that runs.
pub fn running(name: &str, id: &str, restarts: u32) -> Value {
    let image = format!("registry.example/{name}:1.2");
    json!({
        "name": name, "image": image, "imageID": format!("{image}@sha256:abc"),
        "containerID": format!("containerd://{id}"), "ready": true, "started": true, "restartCount": restarts,
        "state": {"running": {"startedAt": "2026-01-01T00:00:01Z"}}, "lastState": {},
    })
}

/// The same after a restart.
pub fn restarted(name: &str, id: &str, restarts: u32, before: &str) -> Value {
    let mut status = running(name, id, restarts);
    let times = json!({"startedAt": "2026-01-01T00:00:01Z", "finishedAt": "2026-01-01T00:00:02Z"});
    status["lastState"]["terminated"] = times;
    status["lastState"]["terminated"]["exitCode"] = 137.into();
    status["lastState"]["terminated"]["containerID"] = format!("containerd://{before}").into();
    status
}
