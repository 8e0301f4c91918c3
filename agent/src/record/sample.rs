//! A realistic kill for tests: a child process of a Kubernetes container that hit its own limit of 256 MiB.
//!
//! Each function gives a whole value; a test changes what it is about.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use crate::kill::{
    Cgroup, Constraint, Decision, Incident, Kill, KillId, KubernetesOwner, LimitHit, Machine, Memory, Owner, Pod,
    PodContainer, Qos, Role, Runtime, Scope, Trigger, Victim,
};
use crate::record::incident::Incidents;

pub(crate) const CONTAINER_ID: &str = "5c1b9a3b1f0d4e6c8a7f2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f70";
pub(crate) const POD_UID: &str = "8d6e2c1a-3f4b-4c5d-9e6f-7a8b9c0d1e2f";
pub(crate) const MIB: u64 = 1 << 20;

/// `seconds` after a fixed moment of 2026.
pub(crate) fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000 + seconds)
}

/// A process of the container that is not its first one.
pub(crate) fn kill() -> Kill {
    let pod = format!("kubepods-burstable-pod{}.slice", POD_UID.replace('-', "_"));
    let container = format!("cri-containerd-{CONTAINER_ID}.scope");
    let path = format!("/kubepods.slice/kubepods-burstable.slice/{pod}/{container}");
    Kill {
        id: id(4242),
        sequence: 7,
        time: time(0),
        victim: Victim {
            pid: 4242,
            tid: 4242,
            namespace_pid: Some(17),
            in_host_pid_namespace: false,
            command: "python3".to_owned(),
            user_id: Some(1000),
            started: Some(time(0) - Duration::from_millis(90_500)),
            oom_score_adj: Some(985),
            already_dying: false,
            memory: memory(200),
            arguments: None,
            end_is_told: false,
        },
        trigger: Trigger {
            pid: 4242,
            tid: 4250,
            command: "worker-3".to_owned(),
            cgroup_id: None,
            cgroup_path: Some(path.clone()),
            path_cut: false,
        },
        cgroups: vec![
            level(&container, 256 * MIB - 4096, Some(256 * MIB)),
            level(&pod, 257 * MIB, Some(1024 * MIB)),
            level("kubepods-burstable.slice", 3000 * MIB, None),
            level("kubepods.slice", 5000 * MIB, Some(14_000 * MIB)),
            level("", 6000 * MIB, None),
        ],
        cgroup_path: Some(path),
        path_cut: false,
        decision: None,
        machine: Some(Machine { total: 32 << 30, available: 20 << 30 }),
        cgroups_from_files: false,
    }
}

/// What the kernel says of its decision with this number: about this limit, or about the machine.
pub(crate) fn decision(number: u64, limit: Option<LimitHit>) -> Decision {
    let constraint = Some(if limit.is_some() { Constraint::MemoryCgroup } else { Constraint::None });
    Decision { number, limit, constraint, order: Some(0), by_hand: false, gfp_mask: 0xcc0 }
}

/// The id of the process with that pid.
pub(crate) fn id(pid: u32) -> KillId {
    KillId::new(Uuid::from_u128(0x6f1d_2c3b_4a59_6877_8695_a4b3_c2d1_e0ff), pid, Duration::from_secs(u64::from(pid)))
}

/// The same kill of another process, `seconds` later.
pub(crate) fn kill_of(pid: u32, seconds: u64) -> Kill {
    let mut kill = kill();
    (kill.id, kill.victim.pid, kill.victim.tid, kill.time) = (id(pid), pid, pid, time(seconds));
    kill
}

/// A level with a limit, or known to have none.
pub(crate) fn level(name: &str, usage: u64, limit: Option<u64>) -> Cgroup {
    Cgroup {
        id: Some(name.len() as u64 + 100),
        name: Some(name.to_owned()),
        usage: Some(usage),
        limit,
        limit_known: true,
        swap_usage: Some(0),
        swap_limit: None,
        oom_group: Some(false),
        oom_lock: None,
    }
}

/// `anon` MiB of anonymous memory and a little of the rest.
pub(crate) fn memory(anon: u64) -> Memory {
    Memory {
        total_vm: Some(512 * MIB),
        anon_rss: Some(anon * MIB),
        file_rss: Some(3 * MIB),
        shmem_rss: Some(MIB),
        swap: Some(0),
        pgtables: Some(MIB / 2),
        is_exact: false,
    }
}

/// No cgroup is near its limit.
pub(crate) fn node_out_of_memory(kill: &mut Kill) {
    for cgroup in &mut kill.cgroups {
        cgroup.usage = Some(10 * MIB);
    }
    kill.trigger.cgroup_path = Some("/system.slice/cron.service".to_owned());
}

/// What lockdown=confidentiality leaves of it.
pub(crate) fn without_names() -> Kill {
    let mut kill = kill();
    kill.cgroup_path = None;
    kill.trigger.cgroup_path = None;
    for cgroup in &mut kill.cgroups {
        cgroup.name = None;
    }
    kill
}

/// The container `name` of the pod shop/web-1.
pub(crate) fn container(name: &str) -> Owner {
    Owner::Kubernetes(KubernetesOwner { pod: Some(Box::new(pod(name))), ..kubernetes() })
}

/// The pod shop/web-1 with its container `name`.
pub(crate) fn pod(name: &str) -> Pod {
    Pod {
        namespace: "shop".to_owned(),
        name: "web-1".to_owned(),
        uid: Some(POD_UID.to_owned()),
        container: Some(PodContainer { name: name.to_owned(), role: Some(Role::Regular), ..PodContainer::default() }),
        ..Pod::default()
    }
}

/// A container whose pod is known by its uid only.
pub(crate) fn kubernetes() -> KubernetesOwner {
    KubernetesOwner {
        pod_uid: POD_UID.to_owned(),
        qos: Some(Qos::Burstable),
        runtime: Some(Runtime::Containerd),
        container_id: Some(CONTAINER_ID.to_owned()),
        why_no_container: None,
        pod: None,
    }
}

/// The incident of a kill that is alone in it.
pub(crate) fn incident(kill: &Kill, owner: &Owner) -> Incident {
    Incidents::default().assign(kill, owner)
}

/// The second kill of the incident of `first`.
pub(crate) fn second_of(first: &Kill) -> Incident {
    Incident { id: first.id, time: first.time, kills: 2, scope: Scope::Container, method: None, limit: None }
}
