//! Whose process it was. Never fails: at worst the owner is unknown, and says why.
//!
//! Pure: what the Kubernetes API knows comes in as an argument.

pub mod container;
pub mod proc_cgroup;
pub mod report;

use crate::kill::{Kill, KubernetesOwner, Owner, PodNames};

/// Whose process `kill` ended, by the cgroup that the kernel named at the kill.
///
/// `names` is asked once, for the owner in a pod, and for nobody else. Where it answers `None` the owner stays without names.
pub fn attribute(kill: &Kill, names: impl FnOnce(&KubernetesOwner) -> Option<PodNames>) -> Owner {
    let mut owner = container::owner(kill.cgroup_path.as_deref(), kill.path_cut);
    if let Owner::Kubernetes(in_pod) = &mut owner {
        in_pod.names = names(in_pod);
    }
    owner
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use uuid::Uuid;

    use super::*;
    use crate::kill::{KillId, Memory, Trigger, Victim};

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

    #[test]
    fn names_are_not_asked_outside_of_pods() {
        let mut asked = false;
        let owner = attribute(&kill_in("/system.slice/sshd.service"), |_| {
            asked = true;
            None
        });
        assert_eq!((owner, asked), (Owner::Unit { name: "sshd.service".into() }, false));
    }
}
