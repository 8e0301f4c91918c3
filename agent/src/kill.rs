//! The vocabulary: a [`Kill`] is one process that the OOM killer killed, its [`Owner`] says whose it was, and an
//! [`Incident`] is the decision it was part of.
//!
//! What is not known is `None` or [`Owner::Unknown`], never 0 and never an empty string. Sizes are bytes.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use missed::{Missed, MissedKills};
pub use pod::{Pod, PodContainer, Role, Workload};

mod missed;
mod pod;

/// One process that the kernel's OOM killer killed.
#[derive(Clone, Debug, PartialEq)]
pub struct Kill {
    /// The same for the same kill, however often it is read or sent: made of the boot, the victim's pid and its start
    /// time.
    pub id: KillId,
    /// Counts the kills of one attached probe from 1; a gap is a kill whose event was lost.
    pub sequence: u64,
    /// When the victim was signalled, wall time.
    pub time: SystemTime,
    /// Who was killed.
    pub victim: Victim,
    /// Whose allocation started it. Not necessarily of the same container.
    pub trigger: Trigger,
    /// The victim's memory cgroup and its ancestors, its own first. Empty if the kernel told nothing.
    pub cgroups: Vec<Cgroup>,
    /// The path of the first of `cgroups`, from the root of the memory hierarchy. Absent where names cannot be read
    /// (lockdown=confidentiality) and the cgroup is not found by its id.
    pub cgroup_path: Option<String>,
    /// More levels than the probe keeps, or than are mounted here: `cgroup_path` lacks its beginning.
    pub path_cut: bool,
    /// Names and limits in `cgroups` are those of the cgroups' directories and files right after the kill, because the
    /// kernel refuses to have its own read (lockdown=confidentiality). What the cgroups used at the kill is absent
    /// then.
    pub cgroups_from_files: bool,
    /// What the kernel decided. Absent where `oom_kill_process` cannot be hooked.
    pub decision: Option<Decision>,
    /// What the machine had left when the kill was read. Absent where the kernel says itself what the decision was
    /// about.
    pub machine: Option<Machine>,
}

/// Memory of the whole machine, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// All of it that the kernel can use.
    pub total: u64,
    /// The kernel's estimate of what can be had without swapping (`MemAvailable`).
    pub available: u64,
}

/// What the kernel's `oom_control` says of one decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Counts the decisions that one attached probe saw: the kills of a decision have the same.
    pub number: u64,
    /// The cgroup whose limit was hit. Absent: nobody's, the machine ran out.
    pub limit: Option<LimitHit>,
    /// What bounded the memory that could be given. Absent if a newer kernel says what is not known here.
    pub constraint: Option<Constraint>,
    /// 2 to this power pages were asked for at once. Absent if it was `by_hand`.
    pub order: Option<u32>,
    /// A person asked for it (sysrq-f).
    pub by_hand: bool,
    /// How memory was asked for: the kernel's `gfp_t`, whose bits differ between kernels.
    pub gfp_mask: u32,
}

/// What bounds the memory that can be given to a task: the kernel's `enum oom_constraint`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Constraint {
    /// The machine.
    None,
    /// The memory nodes of a cpuset.
    Cpuset,
    /// A NUMA memory policy.
    MemoryPolicy,
    /// A memory cgroup.
    MemoryCgroup,
}

impl Constraint {
    /// The value in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Cpuset => "cpuset",
            Self::MemoryPolicy => "memory_policy",
            Self::MemoryCgroup => "memcg",
        }
    }
}

/// Identifies a kill across restarts of the agent and repeated deliveries: a name-based UUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KillId(pub Uuid);

impl KillId {
    /// The id of the process with pid `tgid` that was started `start` after boot `boot`.
    ///
    /// A pid may come again within one boot, with the same start time never.
    pub fn new(boot: Uuid, tgid: u32, start: Duration) -> Self {
        Self(Uuid::new_v5(&boot, format!("oom_kill/{tgid}/{}", start.as_nanos()).as_bytes()))
    }
}

/// The process that was killed.
#[derive(Clone, Debug, PartialEq)]
pub struct Victim {
    /// The process id, as the host sees it.
    pub pid: u32,
    /// The thread that was signalled. Differs from `pid` when the main thread was gone.
    pub tid: u32,
    /// Its pid in its own pid namespace: 1 is a container's first process.
    pub namespace_pid: Option<u32>,
    /// Whether it lived in the host's pid namespace.
    pub in_host_pid_namespace: bool,
    /// The command name of its main thread, 15 bytes at most. Bytes that are not UTF-8 are replaced.
    pub command: String,
    /// Its real user id.
    pub user_id: Option<u32>,
    /// When it was started, wall time.
    pub started: Option<SystemTime>,
    /// `/proc/PID/oom_score_adj` at the kill.
    pub oom_score_adj: Option<i32>,
    /// It was dying already when the kernel chose it.
    pub already_dying: bool,
    /// What it used.
    pub memory: Memory,
    /// The beginning of its command line. Absent unless it is asked for, and if another process triggered the kill.
    pub arguments: Option<Vec<String>>,
    /// The probe will tell when its memory is free.
    pub end_is_told: bool,
}

/// Memory of one process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// Address space.
    pub total_vm: Option<u64>,
    /// Resident anonymous memory.
    pub anon_rss: Option<u64>,
    /// Resident file pages.
    pub file_rss: Option<u64>,
    /// Resident shared memory.
    pub shmem_rss: Option<u64>,
    /// Swapped out.
    pub swap: Option<u64>,
    /// Page tables.
    pub pgtables: Option<u64>,
    /// Whether the resident sizes and swap are sums over all CPUs. If not, they are the kernel's approximate counters,
    /// as in its own log line: too small by up to 64 pages for each thread (before 6.2), or by 32 pages and more for
    /// each CPU.
    pub is_exact: bool,
}

impl Memory {
    /// Resident size: anonymous, file and shared memory. Absent if any of them is.
    pub fn resident(&self) -> Option<u64> {
        Some(self.anon_rss?.saturating_add(self.file_rss?).saturating_add(self.shmem_rss?))
    }
}

/// The task whose allocation made the kernel look for a victim.
#[derive(Clone, Debug, PartialEq)]
pub struct Trigger {
    /// Its process id.
    pub pid: u32,
    /// Its thread id.
    pub tid: u32,
    /// The command name of the thread.
    pub command: String,
    /// The inode number of the directory of its memory cgroup.
    pub cgroup_id: Option<u64>,
    /// The path of its memory cgroup. Absent as the victim's is.
    pub cgroup_path: Option<String>,
    /// As the victim's.
    pub path_cut: bool,
}

/// One memory cgroup above the victim. By default nothing is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroup {
    /// The inode number of its directory.
    pub id: Option<u64>,
    /// Its own name; empty for the root; absent where names cannot be read.
    pub name: Option<String>,
    /// Memory charged to it.
    pub usage: Option<u64>,
    /// Its limit. `None` if it has none or it could not be read: see `limit_known`.
    pub limit: Option<u64>,
    /// Whether the limit could be read.
    pub limit_known: bool,
    /// v2: swap charged to it; v1: memory and swap.
    pub swap_usage: Option<u64>,
    /// v2: swap limit; v1: limit of memory and swap.
    pub swap_limit: Option<u64>,
    /// `memory.oom.group`: the kernel kills all its processes at once.
    pub oom_group: Option<bool>,
    /// The kernel's own mark that the OOM killer works for this cgroup or for one above it. Absent on kernels without
    /// it (6.12 and later with cgroup v2 alone).
    pub oom_lock: Option<bool>,
}

/// Whose process it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A container of a Kubernetes pod, or something else of the pod if the container is absent.
    Kubernetes(KubernetesOwner),
    /// A container that no pod is known of.
    Container {
        /// What runs it, where the path tells.
        runtime: Option<Runtime>,
        /// Its full id, 64 hexadecimal digits.
        id: String,
    },
    /// A unit of the host's systemd.
    Unit {
        /// The unit's name, such as `sshd.service`.
        name: String,
    },
    /// Nobody is to be blamed.
    Unknown {
        /// Why not.
        why: Why,
    },
}

/// What is known of a process in a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesOwner {
    /// The pod's uid, with dashes; 32 hexadecimal digits for a static pod, whose `metadata.uid` is another.
    pub pod_uid: String,
    /// The quality-of-service class that the path tells.
    pub qos: Option<Qos>,
    /// What runs the container, where the path tells.
    pub runtime: Option<Runtime>,
    /// The container's full id. Absent: not in a container, `why_no_container` says what it was.
    pub container_id: Option<String>,
    /// Why there is no container.
    pub why_no_container: Option<Why>,
    /// What the Kubernetes API says of it. Absent until it is asked, or if it does not know the pod.
    pub pod: Option<Box<Pod>>,
}

impl KubernetesOwner {
    /// The container, if the Kubernetes API knows it.
    pub fn container(&self) -> Option<&PodContainer> {
        self.pod.as_ref()?.container.as_ref()
    }
}

/// What runs a container, as far as its cgroup's name tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    /// containerd, by its CRI plugin or nerdctl.
    Containerd,
    /// CRI-O.
    CriO,
    /// Docker, or cri-dockerd.
    Docker,
    /// Podman.
    Podman,
    /// Kata Containers: the process is on the host's side of a virtual machine and the id is the sandbox's.
    Kata,
    /// Amazon ECS.
    Ecs,
}

impl Runtime {
    /// The name in records and in `oom-watcher owner`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Kata => "kata",
            Self::Ecs => "ecs",
        }
    }
}

/// A pod's quality-of-service class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Qos {
    /// Limits equal requests.
    Guaranteed,
    /// Some requests or limits.
    Burstable,
    /// Neither.
    BestEffort,
}

impl Qos {
    /// As in `status.qosClass`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// Why an owner, or a container of a known pod, could not be named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Why {
    /// No cgroup path: names cannot be read under lockdown=confidentiality, and the cgroup was not found by its id.
    NoPath,
    /// The path lacks its beginning and what is left names no container.
    PathCut,
    /// The process was in the root cgroup.
    RootCgroup,
    /// The pod's own cgroup, outside of its containers.
    PodLevel,
    /// The process that watches over a container (conmon), not the container.
    ContainerMonitor,
    /// The pod's sandbox (`pause`), which holds its namespaces: no container of its status.
    Sandbox,
    /// What looks like a container has no id of 64 lower-case hexadecimal digits, or what looks like a pod has no uid.
    MalformedId,
    /// A mount unit.
    Mount,
    /// A cgroup that neither a container runtime nor systemd has named.
    OtherCgroup,
    /// A kill that nobody saw, in a cgroup that is gone: only what was above it is known.
    Removed,
}

impl Why {
    /// The value in metrics and records: lower snake case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoPath => "no_path",
            Self::PathCut => "path_cut",
            Self::RootCgroup => "root_cgroup",
            Self::PodLevel => "pod_level",
            Self::ContainerMonitor => "container_monitor",
            Self::Sandbox => "sandbox",
            Self::MalformedId => "malformed_id",
            Self::Mount => "mount",
            Self::OtherCgroup => "other_cgroup",
            Self::Removed => "removed",
        }
    }

    /// All of them, for metrics that start at 0.
    pub const ALL: [Self; 10] = [
        Self::NoPath,
        Self::PathCut,
        Self::RootCgroup,
        Self::PodLevel,
        Self::ContainerMonitor,
        Self::Sandbox,
        Self::MalformedId,
        Self::Mount,
        Self::OtherCgroup,
        Self::Removed,
    ];
}

/// One decision of the OOM killer. It has one kill, or several with `memory.oom.group`.
#[derive(Clone, Debug, PartialEq)]
pub struct Incident {
    /// The id of its first kill.
    pub id: KillId,
    /// When its first kill happened.
    pub time: SystemTime,
    /// Kills so far, from 1.
    pub kills: u32,
    /// Whose limit was hit.
    pub scope: Scope,
    /// How that was found. Absent if it was not.
    pub method: Option<Method>,
    /// The limit that was hit; absent for a node, or if unknown.
    pub limit: Option<LimitHit>,
}

/// How it was found whose limit was hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The kernel said so: `oom_control` of the decision. Exact.
    OomControl,
    /// By the kernel's mark on the cgroup, `oom_lock`.
    OomLock,
    /// By the room below the limits, while the machine had memory left.
    Headroom,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::OomControl, Self::OomLock, Self::Headroom];

    /// The value in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OomControl => "oom_control",
            Self::OomLock => "oom_lock",
            Self::Headroom => "headroom",
        }
    }
}

/// Whose limit was hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The container's own.
    Container,
    /// The pod's.
    Pod,
    /// All pods', or a QoS class': node allocatable.
    Kubepods,
    /// Any other memory cgroup's.
    Cgroup,
    /// Nobody's: the machine ran out.
    Node,
    /// Not known: limits cannot be read.
    Unknown,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::Container, Self::Pod, Self::Kubepods, Self::Cgroup, Self::Node, Self::Unknown];

    /// The value in metrics and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Pod => "pod",
            Self::Kubepods => "kubepods",
            Self::Cgroup => "cgroup",
            Self::Node => "node",
            Self::Unknown => "unknown",
        }
    }
}

/// The cgroup whose limit was hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitHit {
    /// The inode number of its directory. Absent where the kernel gives none.
    pub cgroup_id: Option<u64>,
    /// Its path, absent where names cannot be read.
    pub cgroup_path: Option<String>,
    /// What it used, bytes.
    pub usage: Option<u64>,
    /// Its limit, bytes. Absent if it was raised or taken away meanwhile.
    pub limit: Option<u64>,
}
