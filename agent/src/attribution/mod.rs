//! Whose process it was. Never fails: at worst the owner is unknown, and says why.
//!
//! Pure: what the Kubernetes API knows comes in as an argument.

pub mod container;
pub mod proc_cgroup;
pub mod report;

use crate::kill::{Kill, KubernetesOwner, MissedKills, Owner, PodNames, Why};

/// Whose process `kill` ended, by the path of its cgroup. Where that is absent, by the names above it, as far as they leave no choice: see [`enclosing`].
///
/// `names` is asked once, for the owner in a pod, and for nobody else. Where it answers `None` the owner stays without names.
pub fn attribute(kill: &Kill, names: impl FnOnce(&KubernetesOwner) -> Option<PodNames>) -> Owner {
    let mut owner = match &kill.cgroup_path {
        Some(path) => container::owner(Some(path), kill.path_cut),
        None => enclosing(kill),
    };
    if let Owner::Kubernetes(in_pod) = &mut owner {
        in_pod.names = names(in_pod);
    }
    owner
}

/// The owner of a process in a cgroup without a name below cgroups with names: under lockdown=confidentiality, one that was made and gone at once.
///
/// What is in a container belongs to it, however deep. What is in a pod belongs to the pod; in which of its containers it was is not known. All else may
/// be a container that cannot be seen, so it is nobody's: also what is below a systemd unit, which may run containers.
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

/// Whose processes were killed while nobody saw it. `names` as for [`attribute`].
///
/// If their cgroup is gone, only what was above it is known: the pod perhaps, never a container or unit that may have been another.
pub fn attribute_missed(kills: &MissedKills, names: impl FnOnce(&KubernetesOwner) -> Option<PodNames>) -> Owner {
    let mut owner = container::owner(Some(&kills.cgroup_path), false);
    match &mut owner {
        Owner::Kubernetes(in_pod) => {
            if kills.removed && in_pod.container_id.is_none() {
                in_pod.why_no_container = Some(Why::Removed);
            }
            in_pod.names = names(in_pod);
        }
        // A slice is made of units.
        Owner::Unit { name } if kills.removed && name.ends_with(".slice") => owner = Owner::Unknown { why: Why::Removed },
        Owner::Unknown { why } if kills.removed => *why = Why::Removed,
        Owner::Container { .. } | Owner::Unit { .. } | Owner::Unknown { .. } => {}
    }
    owner
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use uuid::Uuid;

    use super::*;
    use crate::kill::{Cgroup, KillId, Memory, Missed, Trigger, Victim};

    const POD: &str = "/kubepods/burstable/pod4a163a05-439d-484b-8e53-2968bc15824f/cde6dfaf5007ed65aad2d6aed72af91b0f3d95813492f773286e29ae145d20f4";

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

    #[test]
    fn names_are_asked_with_the_uid_and_the_id_of_the_victims_path() {
        let names = PodNames { namespace: "shop".into(), pod: "cart-0".into(), container: Some("cart".into()) };
        let owner = attribute(&kill_in(POD), |asked| {
            assert_eq!(asked.pod_uid, "4a163a05-439d-484b-8e53-2968bc15824f");
            assert!(asked.container_id.as_deref().is_some_and(|id| id.starts_with("cde6dfaf")));
            Some(names.clone())
        });
        assert!(matches!(owner, Owner::Kubernetes(KubernetesOwner { names: Some(found), .. }) if found == names));
    }

    #[test]
    fn a_pod_that_nobody_knows_still_owns_its_kill() {
        assert!(matches!(attribute(&kill_in(POD), |_| None), Owner::Kubernetes(KubernetesOwner { names: None, container_id: Some(_), .. })));
    }

    /// The owner of a process in a cgroup without a name below these, the outermost first; `None`: without a name, too.
    fn owner_below(names: &[Option<&str>]) -> Owner {
        let mut kill = kill_in("");
        kill.cgroup_path = None;
        let cgroup = |name: Option<&str>| Cgroup { name: name.map(str::to_owned), ..Cgroup::default() };
        kill.cgroups = names.iter().copied().chain([None]).rev().map(cgroup).collect();
        attribute(&kill, |_| None)
    }

    #[test]
    fn what_is_below_a_container_is_its_own_though_it_has_no_name() {
        let [pod, id] = [3, 4].map(|at| POD.split('/').nth(at));
        let expected = container::owner(Some(POD), false);
        assert_eq!(owner_below(&[Some(""), Some("kubepods"), Some("burstable"), pod, id]), expected);
        assert_eq!(owner_below(&[None, None, Some("burstable"), pod, id]), expected, "only a part is mounted");
        let docker = Owner::Container { runtime: Some(crate::kill::Runtime::Docker), id: id.unwrap_or_default().to_owned() };
        assert_eq!(owner_below(&[Some(""), Some("docker"), id]), docker);
        assert_eq!(owner_below(&[Some(""), Some("docker"), id, None]), docker, "two levels without a name");
    }

    #[test]
    fn what_is_below_a_pod_has_the_pod_and_no_container() {
        let owner = owner_below(&[Some(""), Some("kubepods"), Some("burstable"), POD.split('/').nth(3)]);
        let Owner::Kubernetes(owner) = owner else { return assert_eq!(owner, Owner::Unknown { why: Why::OtherCgroup }, "it is a pod's") };
        assert_eq!((owner.pod_uid.as_str(), owner.container_id), ("4a163a05-439d-484b-8e53-2968bc15824f", None));
        assert_eq!(owner.why_no_container, Some(Why::NoPath), "it was not in the pod's own cgroup");
    }

    #[test]
    fn what_may_be_a_container_that_cannot_be_seen_is_nobodys() {
        let check = |names: &[Option<&str>]| assert_eq!(owner_below(names), Owner::Unknown { why: Why::NoPath }, "{names:?}");
        check(&[Some(""), Some("system.slice"), Some("docker.service")]);
        check(&[Some(""), Some("kubepods")]);
        check(&[Some("")]);
        check(&[None, Some("kubepods")]);
        check(&[None]);
        check(&[]);
    }

    #[test]
    fn names_are_not_asked_outside_of_pods() {
        let mut asked = false;
        let owner = attribute(&kill_in("/system.slice/sshd.service"), |_| {
            asked = true;
            None
        });
        assert_eq!((owner, asked), (Owner::Unit { name: "sshd.service".into() }, false));
    }

    #[test]
    fn a_cgroup_that_is_gone_blames_nobody_but_its_pod() {
        let check = |path: &str, removed: bool, expected: &str| {
            let kills = MissedKills { cgroup_id: 1, cgroup_path: path.into(), removed, first: 1, number: 1, why: Missed::Away, may_repeat: false };
            let found = match attribute_missed(&kills, |_| None) {
                Owner::Kubernetes(KubernetesOwner { container_id: Some(_), why_no_container: None, .. }) => "container of a pod".to_owned(),
                Owner::Kubernetes(KubernetesOwner { why_no_container: Some(why), .. }) => format!("pod, {}", why.as_str()),
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
