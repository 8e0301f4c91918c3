//! Kills made by hand: a process of a Kubernetes container that hit its own limit of 256 MiB, and what differs from it.

use std::time::{Duration, SystemTime};

use oom_watcher::kill::{Cgroup, Kill, KillId, Machine, Memory, Trigger, Victim};
use uuid::Uuid;

/// The container of [`kill`].
pub(crate) const CONTAINER: &str = "5c1b9a3b1f0d4e6c8a7f2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f70";
/// Its pod.
pub(crate) const POD: &str = "8d6e2c1a-3f4b-4c5d-9e6f-7a8b9c0d1e2f";
/// Its path.
pub(crate) const PATH: &str = "/kubepods/burstable/pod8d6e2c1a-3f4b-4c5d-9e6f-7a8b9c0d1e2f/\
    5c1b9a3b1f0d4e6c8a7f2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f70";

const MIB: u64 = 1 << 20;

/// `seconds` after a moment of 2026 whose number of seconds has no fraction to be rounded.
pub(crate) fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000 + seconds)
}

/// The kill of the process `pid` of [`CONTAINER`], the `pid`-th that the probe saw.
pub(crate) fn kill(pid: u32) -> Kill {
    kill_at(pid, PATH)
}

/// The same in the cgroup at `path`, which alone is near its limit.
pub(crate) fn kill_at(pid: u32, path: &str) -> Kill {
    let mut names: Vec<&str> = path.split('/').collect();
    names.reverse();
    let mut cgroups: Vec<Cgroup> = (2..).zip(names).map(|(id, name)| cgroup(id, name)).collect();
    (cgroups[0].usage, cgroups[0].limit) = (Some(256 * MIB - 4096), Some(256 * MIB));
    Kill {
        id: KillId::new(Uuid::from_u128(0x6f1d_2c3b_4a59_6877_8695_a4b3_c2d1_e0ff), pid, Duration::from_secs(60)),
        sequence: u64::from(pid),
        time: time(0),
        victim: Victim {
            pid,
            tid: pid,
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
            pid: 77,
            tid: 78,
            command: "worker-3".to_owned(),
            cgroup_id: None,
            cgroup_path: Some(path.to_owned()),
            path_cut: false,
        },
        cgroups,
        cgroup_path: Some(path.to_owned()),
        path_cut: false,
        decision: None,
        machine: Some(Machine { total: 32 << 30, available: 20 << 30 }),
        cgroups_from_files: false,
    }
}

/// A kill of the decision that made the kernel kill all processes of [`CONTAINER`].
pub(crate) fn member(pid: u32, anonymous_mib: u64) -> Kill {
    let mut kill = kill(pid);
    kill.cgroups[0].oom_group = Some(true);
    kill.victim.memory = memory(anonymous_mib);
    kill
}

/// A process of a container of its own.
pub(crate) fn stranger(pid: u32) -> Kill {
    // A series is told from another by the first 12 characters of the id.
    kill_at(pid, &format!("/kubepods/besteffort/pod{}/{pid:012x}{pid:052x}", Uuid::from_u128(u128::from(pid))))
}

fn cgroup(id: u64, name: &str) -> Cgroup {
    Cgroup {
        id: Some(id),
        name: Some(name.to_owned()),
        usage: Some(3000 * MIB),
        limit: None,
        limit_known: true,
        swap_usage: Some(0),
        swap_limit: None,
        oom_group: Some(false),
        oom_lock: None,
    }
}

fn memory(anonymous_mib: u64) -> Memory {
    Memory {
        total_vm: Some(512 * MIB),
        anon_rss: Some(anonymous_mib * MIB),
        file_rss: Some(3 * MIB),
        shmem_rss: Some(MIB),
        swap: Some(0),
        pgtables: Some(MIB / 2),
        is_exact: false,
    }
}
