//! What oom-maker tells about what it did, one JSON object per line: written by oom-maker, read by the tests.

use serde::{Deserialize, Serialize};

/// One line. Every run ends with [`Line::Done`], or with [`Line::Absent`] alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum Line {
    /// A process that was made, after its end (a survivor: before it).
    Process(Process),
    /// A cgroup that was made, before its removal.
    Cgroup(Cgroup),
    /// Nothing was done: the kernel has not what the mode needs.
    Absent {
        /// What it has not.
        why: String,
    },
    /// All was done.
    Done(Done),
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// What it was made for.
    pub role: Role,
    /// Its process id, in the pid namespace of oom-maker.
    pub pid: u32,
    /// The path of its memory cgroup.
    pub cgroup: String,
    /// How it ended; absent: it has not.
    pub end: Option<End>,
}

/// What a process was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// To be killed by the OOM killer.
    Victim,
    /// To survive its child.
    Parent,
    /// To start the OOM killer. It survives if the victim's memory comes back soon enough; else the kernel kills it
    /// too.
    Trigger,
    /// To be killed by a signal from user space.
    Signalled,
    /// To share its memory with another of this role: the OOM killer kills one of them, and the other one dies with it.
    Sibling,
    /// To be ended by the kernel because the first process of its pid namespace was killed.
    Collateral,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// By this signal.
    Signal(i32),
    /// By itself, with this code.
    Code(i32),
}

/// One memory cgroup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// Its path as the kernel names it.
    pub path: String,
    /// The kernel's id of it.
    pub id: u64,
    /// The kernel's own count of OOM kills in this very cgroup: `memory.events.local` (v2), `memory.oom_control` (v1).
    pub kernel_kills: u64,
    /// The same with all cgroups below it: `memory.events`. Absent on v1, which does not add up.
    pub events_kills: Option<u64>,
    /// How often the limit of this very cgroup called for the OOM killer: `oom` of `memory.events.local`. Absent on v1.
    pub limit_hits: Option<u64>,
    /// How often the processes of this very cgroup were killed all at once: `oom_group_kill` of `memory.events.local`.
    /// Absent on v1 and before 5.17.
    pub group_kills: Option<u64>,
    /// Who is to be blamed for a kill there, if it is named like a Kubernetes container.
    #[serde(flatten)]
    pub container: Option<Container>,
}

/// What the name of a Kubernetes container's cgroup says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The pod's uid, with dashes.
    pub pod_uid: String,
    /// The container's id, 64 hexadecimal digits.
    pub container_id: String,
}

/// The sum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Processes that ended by SIGKILL, though nobody in user space sent it, without `collateral`.
    pub killed: u64,
    /// Processes that ended with another one that was killed, and that the OOM killer did not choose: see
    /// [`Role::Sibling`] and [`Role::Collateral`].
    pub collateral: u64,
    /// The sum of [`Cgroup::kernel_kills`].
    pub kernel_kills: u64,
    /// What the kernel counted meanwhile on the whole machine (`oom_kill` of /proc/vmstat): others may have been
    /// killed, too.
    pub vmstat_kills: u64,
    /// From the first process's start to the last one's end.
    pub seconds: f64,
}
