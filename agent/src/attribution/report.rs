//! What `oom-watcher owner` prints: whom a kill at a cgroup path would be blamed on, and which part of the path decided
//! it.
//!
//! The path alone is judged: no names from the Kubernetes API, and no look at whether the cgroup exists.

use std::fmt;

use serde::Serialize;

use super::container;
use crate::kill::{KubernetesOwner, Owner, Runtime, Why};

/// What the command was asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject<'a> {
    /// A cgroup path.
    Path(&'a str),
    /// A process id.
    Pid(u32),
}

/// A number is a process id; everything else is a path.
pub fn subject(text: &str) -> Subject<'_> {
    match text.trim() {
        number if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            number.parse().map_or(Subject::Path(text), Subject::Pid)
        }
        _ => Subject::Path(text),
    }
}

/// The owner of a process in one cgroup. As JSON it has every key, `null` where there is nothing to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The path that was asked about, as it was given.
    pub path: String,
    /// `kubernetes`, `container` (of no known pod), `unit` (or another cgroup of the host) or `unknown`.
    pub kind: &'static str,
    /// What runs the container.
    pub runtime: Option<&'static str>,
    /// The pod's uid; 32 digits for a static pod.
    pub pod_uid: Option<String>,
    /// The container's full id.
    pub container_id: Option<String>,
    /// The pod's quality-of-service class.
    pub qos: Option<&'static str>,
    /// The systemd unit, or the cgroup's path below the root.
    pub unit: Option<String>,
    /// Why there is no owner, or no container in the pod.
    pub why: Option<&'static str>,
    /// What in the path decided, as a sentence without a full stop.
    #[serde(skip)]
    because: String,
}

/// Whom a kill in the cgroup at `path` would be blamed on.
pub fn report(path: &str) -> Report {
    let container::Reading { owner, pod, decisive } = container::read(Some(path), false);
    let mut report = Report {
        path: path.to_owned(),
        kind: "unknown",
        runtime: None,
        pod_uid: None,
        container_id: None,
        qos: None,
        unit: None,
        why: None,
        because: because(&owner, pod, decisive),
    };
    match owner {
        Owner::Kubernetes(KubernetesOwner { pod_uid, qos, runtime, container_id, why_no_container, pod: _ }) => {
            report.kind = "kubernetes";
            report.runtime = runtime.map(Runtime::as_str);
            report.pod_uid = Some(pod_uid);
            report.container_id = container_id;
            report.qos = qos.map(|qos| qos.as_str());
            report.why = why_no_container.map(Why::as_str);
        }
        Owner::Container { runtime, id } => {
            report.kind = "container";
            report.runtime = runtime.map(Runtime::as_str);
            report.container_id = Some(id);
        }
        Owner::Unit { name } => {
            report.kind = "unit";
            report.unit = Some(name);
        }
        Owner::Unknown { why } => report.why = Some(why.as_str()),
    }
    report
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.pod_uid, &self.container_id, &self.unit) {
            (Some(pod), Some(id), _) => write!(f, "container {id} of pod {pod}")?,
            (Some(pod), None, _) => write!(f, "pod {pod}, none of its containers ({})", self.why.unwrap_or("unknown"))?,
            (None, Some(id), _) => write!(f, "container {id}, of no known pod")?,
            (None, None, Some(unit)) => write!(f, "{unit}, no container")?,
            (None, None, None) => write!(f, "nobody ({})", self.why.unwrap_or("unknown"))?,
        }
        for property in [self.qos, self.runtime].into_iter().flatten() {
            write!(f, ", {property}")?;
        }
        write!(f, "\nbecause {}", self.because)?;
        if self.pod_uid.as_ref().is_some_and(|uid| !uid.contains('-')) {
            write!(f, "\nthe pod is static: this is the kubelet's hash of it, metadata.uid is another")?;
        }
        if self.runtime == Some(Runtime::Kata.as_str()) {
            write!(f, "\nthe id is the sandbox's: Kata runs the container in a virtual machine")?;
        }
        Ok(())
    }
}

fn because(owner: &Owner, pod: Option<&str>, decisive: Option<&str>) -> String {
    let why = match owner {
        Owner::Kubernetes(in_pod) => in_pod.why_no_container,
        Owner::Unknown { why } => Some(*why),
        Owner::Container { .. } | Owner::Unit { .. } => None,
    };
    match (why, pod, decisive) {
        (None, Some(pod), Some(container)) if pod == container => format!("`{pod}` names the pod and the container"),
        (None, Some(pod), Some(container)) => {
            format!("`{pod}` names the pod, and `{container}` right below it the container")
        }
        (None, None, Some(segment)) if matches!(owner, Owner::Unit { .. }) => {
            format!("`{segment}` belongs to the host or to a node, and nothing above it names a pod")
        }
        (None, None, Some(segment)) => {
            format!("`{segment}` is the innermost with a container's id, and nothing names a pod")
        }
        (None, _, None) => "nothing in the path names a pod or a container".to_owned(),
        (Some(Why::PodLevel), Some(pod), _) => format!("`{pod}` names the pod and nothing is below it"),
        (Some(Why::ContainerMonitor), Some(pod), Some(segment)) => {
            format!("`{pod}` names the pod, and `{segment}` watches over a container")
        }
        (Some(Why::Mount), Some(pod), Some(segment)) => format!("`{pod}` names the pod, and `{segment}` is a mount"),
        (Some(_), Some(pod), Some(segment)) => {
            format!("`{pod}` names the pod, but `{segment}` has no id of 64 lower-case hexadecimal digits")
        }
        (Some(Why::RootCgroup), ..) => "the path is the root".to_owned(),
        (Some(Why::PathCut), ..) => "the beginning of the path is missing and the rest names no container".to_owned(),
        (Some(Why::OtherCgroup), ..) => "nothing in the path names a pod, a container or a unit".to_owned(),
        (Some(Why::NoPath), ..) => "there is no path".to_owned(),
        (Some(_), _, Some(segment)) => format!("`{segment}` looks like a container or a pod but has no whole id"),
        (Some(_), _, None) => "the path names no container".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use super::*;

    const POD: &str = "kubepods-burstable-poddde1244b_5bb5_4297_b544_85f3bc0d80bf.slice";
    const SCOPE: &str = "cri-containerd-40c03570b6f4c30bc8d69923d37ee698f5cfcced92c7b7df1c47f6f7887378a9.scope";
    const ID: &str = "40c03570b6f4c30bc8d69923d37ee698f5cfcced92c7b7df1c47f6f7887378a9";

    #[test]
    fn the_json_has_every_key_and_null_for_what_is_absent() {
        let path = format!("/kubepods.slice/kubepods-burstable.slice/{POD}/{SCOPE}");
        let expected = serde_json::json!({
            "path": path, "kind": "kubernetes", "runtime": "containerd",
            "pod_uid": "dde1244b-5bb5-4297-b544-85f3bc0d80bf", "container_id": ID,
            "qos": "Burstable", "unit": null, "why": null,
        });
        assert_eq!(serde_json::to_value(report(&path)).unwrap(), expected);

        let expected = serde_json::json!({
            "path": "/", "kind": "unknown", "runtime": null, "pod_uid": null,
            "container_id": null, "qos": null, "unit": null, "why": "root_cgroup",
        });
        assert_eq!(serde_json::to_value(report("/")).unwrap(), expected);
    }

    #[test]
    fn the_text_says_whom_and_which_segment_decided() {
        let uid = "dde1244b-5bb5-4297-b544-85f3bc0d80bf";
        let docker = format!("docker-{ID}.scope");
        let hash = "e039200acb850c82bb901653cc38ff6e";
        let check = |path: &str, expected: &str| assert_eq!(report(path).to_string(), expected, "{path}");
        check(
            &format!("/kubepods.slice/kubepods-burstable.slice/{POD}/{SCOPE}/nested"),
            &format!(
                "container {ID} of pod {uid}, Burstable, containerd\nbecause `{POD}` names the pod, and `{SCOPE}` \
                 right below it the container"
            ),
        );
        check(
            &format!("/system.slice/containerd.service/{POD}:cri-containerd:{ID}"),
            &format!(
                "container {ID} of pod {uid}, Burstable, containerd\nbecause `{POD}:cri-containerd:{ID}` names the pod \
                 and the container"
            ),
        );
        check(
            &format!("/{POD}/crio-conmon-{ID}.scope"),
            &format!(
                "pod {uid}, none of its containers (container_monitor), Burstable, cri-o\nbecause `{POD}` names the \
                 pod, and `crio-conmon-{ID}.scope` watches over a container"
            ),
        );
        check(
            &format!("/../../pod{hash}/kata_{ID}"),
            &format!(
                "container {ID} of pod {hash}, kata\nbecause `pod{hash}` names the pod, and `kata_{ID}` right below it \
                 the container\n\
                 the pod is static: this is the kubelet's hash of it, metadata.uid is another\n\
                 the id is the sandbox's: Kata runs the container in a virtual machine"
            ),
        );
        check(
            &format!("/system.slice/{docker}/init"),
            &format!(
                "container {ID}, of no known pod, docker\nbecause `{docker}` is the innermost with a container's id, \
                 and nothing names a pod"
            ),
        );
        check(
            &format!("/system.slice/{docker}/system.slice/kubelet.service"),
            "kubelet.service, no container\nbecause `kubelet.service` belongs to the host or to a node, and nothing \
             above it names a pod",
        );
        check(
            "/user.slice/session-3.scope",
            "session-3.scope, no container\nbecause nothing in the path names a pod or a container",
        );
        check(
            "/docker/shortid",
            "nobody (malformed_id)\nbecause `shortid` looks like a container or a pod but has no whole id",
        );
        check("/", "nobody (root_cgroup)\nbecause the path is the root");
        check("", "nobody (no_path)\nbecause there is no path");
    }

    #[test]
    fn a_number_is_a_process_and_the_rest_are_paths() {
        let check = |text, expected| assert_eq!(subject(text), expected, "{text:?}");
        check("4711", Subject::Pid(4711));
        check(" 1\n", Subject::Pid(1));
        check("/4711", Subject::Path("/4711"));
        check("99999999999", Subject::Path("99999999999"));
        check("-1", Subject::Path("-1"));
        check("", Subject::Path(""));
    }
}
