//! Whose process it was. Never fails: at worst the owner is unknown, and says why.
//!
//! Pure: what the Kubernetes API knows comes in as an argument.

pub mod container;
pub mod pods;
pub mod proc_cgroup;
pub mod report;

use crate::kill::{Kill, KubernetesOwner, MissedKills, Owner, Why};
use pods::{Found, Pods};

/// Whose process `kill` ended, by the path of its cgroup. Where that is absent, by the names above it, as far as they
/// leave no choice: see [`enclosing`].
///
/// `pods` are this node's; absent if they are not watched.
pub fn attribute(kill: &Kill, pods: Option<&Pods>) -> Owner {
    match pods {
        Some(pods) => in_its_pod(by_cgroup(kill, Some(pods)), pods),
        None => by_cgroup(kill, None),
    }
}

/// The uid of the pod that it was in, by its cgroup. Absent outside of Kubernetes.
pub fn pod_uid(kill: &Kill, pods: &Pods) -> Option<String> {
    match by_cgroup(kill, Some(pods)) {
        Owner::Kubernetes(in_pod) => Some(in_pod.pod_uid),
        Owner::Container { .. } | Owner::Unit { .. } | Owner::Unknown { .. } => None,
    }
}

/// Whether nothing more will be known of its owner. If not, its pod, or the container's id, is not known to the
/// Kubernetes API, and may be a little later.
pub fn is_whole(kill: &Kill, pods: &Pods) -> bool {
    match by_cgroup(kill, Some(pods)) {
        Owner::Kubernetes(in_pod) => {
            matches!(pods.find(&in_pod.pod_uid, in_pod.container_id.as_deref()), Found::Whole(_))
        }
        // Those without a pod in their path are found at once, or are none of Kubernetes.
        Owner::Container { .. } | Owner::Unit { .. } | Owner::Unknown { .. } => true,
    }
}

/// Its owner without what the Kubernetes API knows; that decides only which of several pods in a path it is.
fn by_cgroup(kill: &Kill, pods: Option<&Pods>) -> Owner {
    let owner = match (&kill.cgroup_path, pods) {
        (Some(path), Some(pods)) => of_this_cluster(path, kill.path_cut, pods),
        (Some(path), None) => container::owner(Some(path), kill.path_cut),
        (None, _) => enclosing(kill),
    };
    apart_from_sandbox(owner, kill.victim.oom_score_adj)
}

/// In a cluster inside of a pod a path names two pods, or more: the innermost that this node's API server knows is it.
/// If it knows none, the innermost.
fn of_this_cluster(path: &str, path_cut: bool, pods: &Pods) -> Owner {
    let innermost = container::read(Some(path), path_cut);
    let (mut outer, mut rest) = (None, path);
    loop {
        let reading = outer.as_ref().unwrap_or(&innermost);
        let (Owner::Kubernetes(in_pod), Some(segment)) = (&reading.owner, reading.pod) else { return innermost.owner };
        if !matches!(pods.find(&in_pod.pod_uid, in_pod.container_id.as_deref()), Found::Nothing) {
            return outer.unwrap_or(innermost).owner;
        }
        // Shorter each time, so that this ends, whatever the names are.
        let Some(above) = rest.rfind(segment).and_then(|at| rest.get(..at)) else { return innermost.owner };
        (outer, rest) = (Some(container::read(Some(above), path_cut)), above);
    }
}

/// What runtimes give a pod's sandbox, and nobody gives a container: the kubelet's go from -997 up
/// (pkg/kubelet/qos/policy.go). containerd has it in internal/cri/server/podsandbox, CRI-O and cri-dockerd the same
/// number.
const SANDBOX_SCORE: i32 = -998;

/// The id of a sandbox is in no status, and looks like that of a container.
fn apart_from_sandbox(owner: Owner, oom_score_adj: Option<i32>) -> Owner {
    match owner {
        Owner::Kubernetes(in_pod) if in_pod.container_id.is_some() && oom_score_adj == Some(SANDBOX_SCORE) => {
            Owner::Kubernetes(KubernetesOwner { container_id: None, why_no_container: Some(Why::Sandbox), ..in_pod })
        }
        other => other,
    }
}

/// Adds what is known of its pod.
fn in_its_pod(owner: Owner, pods: &Pods) -> Owner {
    match owner {
        Owner::Kubernetes(in_pod) => {
            let pod = match pods.find(&in_pod.pod_uid, in_pod.container_id.as_deref()) {
                Found::Whole(found) | Found::PodAlone(found) => Some(Box::new(found.describe())),
                Found::Nothing => None,
            };
            Owner::Kubernetes(KubernetesOwner { pod, ..in_pod })
        }
        // The path may lack the part that names the pod.
        Owner::Container { runtime, id } => match pods.find("", Some(&id)) {
            Found::Whole(found) => {
                let pod = found.describe();
                Owner::Kubernetes(KubernetesOwner {
                    // All that the API tells of have one.
                    pod_uid: pod.uid.clone().unwrap_or_default(),
                    qos: pod.qos,
                    runtime,
                    container_id: Some(id),
                    why_no_container: None,
                    pod: Some(Box::new(pod)),
                })
            }
            Found::PodAlone(_) | Found::Nothing => Owner::Container { runtime, id },
        },
        Owner::Unit { .. } | Owner::Unknown { .. } => owner,
    }
}

/// The owner of a process in a cgroup without a name below cgroups with names: under lockdown=confidentiality, one that
/// was made and gone at once.
///
/// What is in a container belongs to it, however deep. What is in a pod belongs to the pod; in which of its containers
/// it was is not known. All else may be a container that cannot be seen, so it is nobody's: also what is below a
/// systemd unit, which may run containers.
fn enclosing(kill: &Kill) -> Owner {
    // Where only a part of the cgroups can be seen, the outermost have no names either.
    let outermost_first = kill.cgroups.iter().rev().skip_while(|cgroup| cgroup.name.is_none());
    let names = outermost_first.map_while(|cgroup| cgroup.name.as_deref());
    let path: String = names.filter(|name| !name.is_empty()).flat_map(|name| ["/", name]).collect();
    match container::owner(Some(&path), kill.path_cut) {
        Owner::Kubernetes(pod) if pod.why_no_container == Some(Why::PodLevel) => {
            Owner::Kubernetes(KubernetesOwner { why_no_container: Some(Why::NoPath), ..pod })
        }
        in_container @ (Owner::Kubernetes(_) | Owner::Container { .. }) => in_container,
        Owner::Unit { .. } | Owner::Unknown { .. } => Owner::Unknown { why: Why::NoPath },
    }
}

/// Whose processes were killed while nobody saw it. `pods` as for [`attribute`].
///
/// If their cgroup is gone, only what was above it is known: the pod perhaps, never a container or unit that may have
/// been another.
pub fn attribute_missed(kills: &MissedKills, pods: Option<&Pods>) -> Owner {
    let mut owner = container::owner(Some(&kills.cgroup_path), false);
    match &mut owner {
        Owner::Kubernetes(in_pod) => {
            if kills.removed && in_pod.container_id.is_none() {
                in_pod.why_no_container = Some(Why::Removed);
            }
        }
        // A slice is made of units.
        Owner::Unit { name } if kills.removed && name.ends_with(".slice") => {
            owner = Owner::Unknown { why: Why::Removed }
        }
        Owner::Unknown { why } if kills.removed => *why = Why::Removed,
        Owner::Container { .. } | Owner::Unit { .. } | Owner::Unknown { .. } => {}
    }
    match pods {
        Some(pods) => in_its_pod(owner, pods),
        None => owner,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use uuid::Uuid;

    use super::*;
    use crate::kill::{Cgroup, KillId, Memory, Missed, Trigger, Victim};

    const POD: &str = "/kubepods/burstable/pod4a163a05-439d-484b-8e53-2968bc15824f/\
        cde6dfaf5007ed65aad2d6aed72af91b0f3d95813492f773286e29ae145d20f4";

    fn kill_in(path: &str) -> Kill {
        Kill {
            id: KillId::new(Uuid::nil(), 42, Duration::from_secs(1)),
            sequence: 1,
            time: SystemTime::UNIX_EPOCH,
            victim: Victim {
                pid: 42,
                tid: 42,
                namespace_pid: None,
                in_host_pid_namespace: false,
                command: "victim".into(),
                user_id: None,
                started: None,
                oom_score_adj: None,
                already_dying: false,
                memory: Memory::default(),
                arguments: None,
                end_is_told: false,
            },
            trigger: Trigger {
                pid: 7,
                tid: 7,
                command: "trigger".into(),
                cgroup_id: None,
                cgroup_path: Some("/system.slice/trigger.service".into()),
                path_cut: false,
            },
            cgroups: Vec::new(),
            cgroup_path: Some(path.into()),
            path_cut: false,
            decision: None,
            machine: None,
            cgroups_from_files: false,
        }
    }

    /// The pod of [`POD`], whose only container has that id, or none yet.
    fn pods(container_id: Option<&str>) -> Pods {
        let container_id = container_id.map(|id| format!("containerd://{id}"));
        let object = serde_json::json!({
            "metadata": {"namespace": "shop", "name": "cart-0", "uid": "4a163a05-439d-484b-8e53-2968bc15824f"},
            "spec": {"containers": [{"name": "cart"}]},
            "status": {"containerStatuses": [{"name": "cart", "containerID": container_id}]},
        });
        let known = serde_json::from_value(object)
            .ok()
            .and_then(|object| pods::Known::of(&object, &pods::Selection::default()));
        let mut pods = Pods::default();
        known.into_iter().for_each(|known| pods.apply(known));
        pods
    }

    /// Namespace, pod and container of the owner, `-` for what is not known, and whether that is all.
    fn told(kill: &Kill, pods: &Pods) -> (String, bool) {
        let (owner, is_whole) = (attribute(kill, Some(pods)), is_whole(kill, pods));
        let Owner::Kubernetes(owner) = owner else { return (format!("{owner:?}"), is_whole) };
        let names = owner.pod.as_ref().map_or("-".to_owned(), |pod| format!("{}/{}", pod.namespace, pod.name));
        (format!("{names} {}", owner.container().map_or("-", |container| &container.name)), is_whole)
    }

    #[test]
    fn a_pod_is_known_by_the_id_of_its_container_and_else_by_its_uid() {
        let (above, id) = POD.rsplit_once('/').unwrap_or_default();
        let check = |path: &str, id: Option<&str>, expected: &str, is_whole: bool| {
            assert_eq!(told(&kill_in(path), &pods(id)), (expected.to_owned(), is_whole), "{path} {id:?}");
        };
        check(POD, Some(id), "shop/cart-0 cart", true);
        // Its only container, though the id may come yet.
        check(POD, None, "shop/cart-0 cart", false);
        check(above, None, "shop/cart-0 -", true);
        check(&POD.replace("4a163a05", "00000000"), Some(id), "shop/cart-0 cart", true);
        check(&POD.replace("4a163a05", "00000000"), None, "- -", false);
        // Without the part that names the pod.
        check(&format!("/{id}"), Some(id), "shop/cart-0 cart", true);
        let other = Owner::Container { runtime: None, id: id.to_owned() };
        check(&format!("/{id}"), None, &format!("{other:?}"), true);
        // A cluster in that container: its pods are not this API server's.
        let inner = "/kubepods/burstable/pod11111111-2222-3333-4444-555555555555/";
        check(&format!("{POD}{inner}{}", id.replace('c', "0")), Some(id), "shop/cart-0 cart", true);
        check(&format!("{POD}{inner}"), Some(id), "shop/cart-0 cart", true);
        check(&format!("{inner}{}{POD}", id.replace('c', "0")), Some(id), "shop/cart-0 cart", true);
        check(&format!("{POD}{inner}{}", id.replace('c', "0")).replace("4a163a05", "00000000"), None, "- -", false);
        check(&inner.repeat(3), Some(id), "- -", false);
        let sandbox = |score: i32| {
            let mut kill = kill_in(&POD.replace("cde6", "0000"));
            kill.victim.oom_score_adj = Some(score);
            told(&kill, &pods(Some(id)))
        };
        assert_eq!(sandbox(-998), ("shop/cart-0 -".to_owned(), true), "it is no container");
        assert_eq!(sandbox(-997), ("shop/cart-0 cart".to_owned(), false));
        let unit = Owner::Unit { name: "sshd.service".into() };
        check("/system.slice/sshd.service", Some(id), &format!("{unit:?}"), true);
    }

    #[test]
    fn a_pod_that_nobody_knows_still_owns_its_kill() {
        let owner = attribute(&kill_in(POD), None);
        assert!(
            matches!(owner, Owner::Kubernetes(KubernetesOwner { pod: None, container_id: Some(_), .. })),
            "pods are not watched"
        );
    }

    /// The owner of a process in a cgroup without a name below these, the outermost first; `None`: without a name, too.
    fn owner_below(names: &[Option<&str>]) -> Owner {
        let mut kill = kill_in("");
        kill.cgroup_path = None;
        let cgroup = |name: Option<&str>| Cgroup { name: name.map(str::to_owned), ..Cgroup::default() };
        kill.cgroups = names.iter().copied().chain([None]).rev().map(cgroup).collect();
        attribute(&kill, None)
    }

    #[test]
    fn what_is_below_a_container_is_its_own_though_it_has_no_name() {
        let [pod, id] = [3, 4].map(|at| POD.split('/').nth(at));
        let expected = container::owner(Some(POD), false);
        assert_eq!(owner_below(&[Some(""), Some("kubepods"), Some("burstable"), pod, id]), expected);
        assert_eq!(owner_below(&[None, None, Some("burstable"), pod, id]), expected, "only a part is mounted");
        let docker =
            Owner::Container { runtime: Some(crate::kill::Runtime::Docker), id: id.unwrap_or_default().to_owned() };
        assert_eq!(owner_below(&[Some(""), Some("docker"), id]), docker);
        assert_eq!(owner_below(&[Some(""), Some("docker"), id, None]), docker, "two levels without a name");
    }

    #[test]
    fn what_is_below_a_pod_has_the_pod_and_no_container() {
        let owner = owner_below(&[Some(""), Some("kubepods"), Some("burstable"), POD.split('/').nth(3)]);
        let Owner::Kubernetes(owner) = owner else {
            return assert_eq!(owner, Owner::Unknown { why: Why::OtherCgroup }, "it is a pod's");
        };
        assert_eq!((owner.pod_uid.as_str(), owner.container_id), ("4a163a05-439d-484b-8e53-2968bc15824f", None));
        assert_eq!(owner.why_no_container, Some(Why::NoPath), "it was not in the pod's own cgroup");
    }

    #[test]
    fn what_may_be_a_container_that_cannot_be_seen_is_nobodys() {
        let check =
            |names: &[Option<&str>]| assert_eq!(owner_below(names), Owner::Unknown { why: Why::NoPath }, "{names:?}");
        check(&[Some(""), Some("system.slice"), Some("docker.service")]);
        check(&[Some(""), Some("kubepods")]);
        check(&[Some("")]);
        check(&[None, Some("kubepods")]);
        check(&[None]);
        check(&[]);
    }

    #[test]
    fn a_cgroup_that_is_gone_blames_nobody_but_its_pod() {
        let check = |path: &str, removed: bool, expected: &str| {
            let kills = MissedKills {
                cgroup_id: 1,
                cgroup_path: path.into(),
                removed,
                first: 1,
                number: 1,
                why: Missed::Away,
                may_repeat: false,
            };
            let found = match attribute_missed(&kills, None) {
                Owner::Kubernetes(KubernetesOwner { container_id: Some(_), why_no_container: None, .. }) => {
                    "container of a pod".to_owned()
                }
                Owner::Kubernetes(KubernetesOwner { why_no_container: Some(why), .. }) => {
                    format!("pod, {}", why.as_str())
                }
                Owner::Unit { name } => name,
                Owner::Unknown { why } => why.as_str().to_owned(),
                other => format!("{other:?}"),
            };
            assert_eq!(found, expected, "{path}, removed: {removed}");
        };
        let (pod, _) = POD.rsplit_once('/').unwrap_or_default();
        check(POD, false, "container of a pod");
        check(POD, true, "container of a pod");
        check(pod, false, "pod, pod_level");
        check(pod, true, "pod, removed");
        check("/kubepods.slice", true, "removed");
        check("/system.slice", true, "removed");
        check("/system.slice", false, "system.slice");
        check("/system.slice/nginx.service", true, "nginx.service");
        check("/kubepods", true, "removed");
        check("/", true, "removed");
    }
}
