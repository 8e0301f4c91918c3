//! An OOM kill as the probe saw it, what became of its memory, and the counters the probe keeps.
//!
//! What the kernel did not tell is marked as absent: by a missing flag in [`OomEvent::present`] or by [`ABSENT`], never
//! by 0.
//!
//! An agent reads what a probe of another version has left in its ring buffer. So each event says how large its parts
//! are; new fields go to the end of a part and have a flag, so that where they are missing (0) they are absent; nothing
//! is moved or removed.

use core::mem::{offset_of, size_of};

/// Levels of the victim's memory cgroup that are captured, the root among them. Deeper paths carry
/// [`present::PATH_CUT`].
///
/// The deepest path seen in the field has 7 separators (a kind node inside docker).
pub const LEVELS: usize = 20;

/// The same for the trigger. Deeper ones carry [`present::TRIGGER_PATH_CUT`]; what is left still names its container.
pub const TRIGGER_LEVELS: usize = 12;

/// Bytes kept of a cgroup's name with its final NUL. The kernel allows 255 (`NAME_MAX`), so nothing is cut.
pub const NAME: usize = 256;

/// Bytes of a command name with its final NUL: the kernel's `TASK_COMM_LEN`.
pub const COMM: usize = 16;

/// Bytes kept of the victim's command line: what is longer is cut.
pub const ARGUMENTS: usize = 256;

/// What stands for a number that the kernel did not tell.
pub const ABSENT: u64 = u64::MAX;

/// [`Name::len`] of a name that could not be read: reading strings is refused under lockdown=confidentiality.
pub const NAME_ABSENT: u64 = u64::MAX;

/// The bits of [`OomEvent::present`].
pub mod present {
    /// `start_boot_ns` was read.
    pub const START: u64 = 1;
    /// `oom_score_adj` was read.
    pub const OOM_SCORE_ADJ: u64 = 1 << 1;
    /// `ns_tgid` was read: the victim's pid in its own pid namespace.
    pub const NS_TGID: u64 = 1 << 2;
    /// The victim has more cgroup levels than [`super::LEVELS`]; the outermost are missing.
    pub const PATH_CUT: u64 = 1 << 3;
    /// The trigger has more cgroup levels than [`super::TRIGGER_LEVELS`]; the outermost are missing.
    pub const TRIGGER_PATH_CUT: u64 = 1 << 4;
    /// The trigger is in the same memory cgroup as the victim; the event ends after the victim's levels.
    pub const SAME_CGROUP: u64 = 1 << 5;
    /// The victim had been dying already when it was chosen: `signal_generate` reported anything but "delivered".
    pub const ALREADY_DYING: u64 = 1 << 6;
    /// `uid` was read.
    pub const UID: u64 = 1 << 7;
    /// `decision`, `limit_id` and what follows it are of the kernel's own `oom_control`.
    pub const DECISION: u64 = 1 << 8;
    /// The resident sizes are sums over all CPUs, not the kernel's approximate counters.
    pub const RSS_EXACT: u64 = 1 << 9;
    /// `arguments` were read.
    pub const ARGUMENTS: u64 = 1 << 10;
    /// A [`super::Note`] will tell when the victim's memory is free.
    pub const END_IS_TOLD: u64 = 1 << 11;
    /// `Level::oom_lock` was read.
    pub const OOM_LOCK: u64 = 1 << 12;
}

/// A cgroup's own name: the last part of its path.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Name {
    /// Bytes of `bytes` that are the name, without the final NUL; 0 for the root; [`NAME_ABSENT`].
    pub len: u64,
    /// The name and a NUL; what follows is not meaningful.
    pub bytes: [u8; NAME],
}

/// One memory cgroup on the way from the victim's own to the root. Counts are pages, as `struct page_counter` keeps
/// them; each may be [`ABSENT`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Level {
    /// `kernfs_node.id`: on 64-bit kernels the inode number of the cgroup's directory. [`ABSENT`] if there was no
    /// kernfs node.
    pub id: u64,
    /// `mem_cgroup.memory.usage`
    pub usage: u64,
    /// `mem_cgroup.memory.max`: v2 `memory.max`, v1 `memory.limit_in_bytes`. "No limit" is a number beyond any
    /// machine's memory.
    pub max: u64,
    /// v2: `memory.swap.current`; v1: memory and swap together.
    pub swap_usage: u64,
    /// v2: `memory.swap.max`; v1: `memory.memsw.limit_in_bytes`.
    pub swap_max: u64,
    /// 1 if `memory.oom.group` is set, 0 if not, or [`ABSENT`].
    pub oom_group: u64,
    /// Its name.
    pub name: Name,
    /// `mem_cgroup.oom_lock`: 1 while the OOM killer works for this cgroup or one above it, else 0, or [`ABSENT`]. See
    /// [`present::OOM_LOCK`].
    pub oom_lock: u64,
}

/// A cgroup that the trigger is in.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct TriggerLevel {
    /// As [`Level::id`].
    pub id: u64,
    /// Its name.
    pub name: Name,
}

/// One process that the OOM killer killed.
///
/// The probe submits only the used part: up to the end of the last used level if the trigger shares the victim's
/// cgroup, everything otherwise.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct OomEvent {
    /// Bytes before the first level: [`OomEvent::HEADER`] of the probe that wrote it.
    pub header_bytes: u16,
    /// Bytes of a [`Level`].
    pub level_bytes: u16,
    /// Bytes of a [`TriggerLevel`].
    pub trigger_level_bytes: u16,
    /// Levels before the first [`TriggerLevel`]: [`LEVELS`] of the probe that wrote it.
    pub level_slots: u16,
    /// Counts confirmed kills from 1, before room in the ring buffer is asked for: a gap is a lost event.
    pub seq: u64,
    /// When the victim was signalled: `CLOCK_BOOTTIME`, nanoseconds.
    pub time_boot_ns: u64,
    /// When the victim's thread group was started: `CLOCK_BOOTTIME`, nanoseconds. See [`present::START`].
    pub start_boot_ns: u64,
    /// Flags, see [`present`].
    pub present: u64,
    /// Pages of address space. [`ABSENT`] if the victim's memory was gone.
    pub total_vm: u64,
    /// Resident file pages, or [`ABSENT`]. The kernel's approximate counters; a negative reading is given as 0, as the
    /// kernel itself does.
    pub file_rss: u64,
    /// Resident anonymous pages, or [`ABSENT`].
    pub anon_rss: u64,
    /// Swap entries in pages, or [`ABSENT`].
    pub swap: u64,
    /// Resident shared-memory pages, or [`ABSENT`].
    pub shmem_rss: u64,
    /// Page tables in bytes, or [`ABSENT`].
    pub pgtables_bytes: u64,
    /// Thread group id of the victim: what user space calls the pid.
    pub tgid: u32,
    /// Thread id of the task that was signalled; differs from `tgid` when the main thread is gone.
    pub pid: u32,
    /// The victim's pid in its own pid namespace. See [`present::NS_TGID`].
    pub ns_tgid: u32,
    /// Depth of the victim's pid namespace: 0 is the host's.
    pub pid_ns_level: u32,
    /// Real user id of the victim in the initial user namespace. See [`present::UID`].
    pub uid: u32,
    /// See [`present::OOM_SCORE_ADJ`].
    pub oom_score_adj: i32,
    /// Thread group id of the task whose allocation started it.
    pub trigger_tgid: u32,
    /// Thread id of that task.
    pub trigger_pid: u32,
    /// Used elements of `cgroups`, the victim's own first.
    pub levels: u32,
    /// Used elements of `trigger_cgroups`; 0 if unknown or with [`present::SAME_CGROUP`].
    pub trigger_levels: u32,
    /// The command name of the victim's thread group leader, with a NUL.
    pub comm: [u8; COMM],
    /// The command name of the triggering thread, with a NUL.
    pub trigger_comm: [u8; COMM],
    /// Counts the decisions of the OOM killer from 1: the kills of one decision have the same. This and the six below:
    /// see [`present::DECISION`].
    pub decision: u64,
    /// As [`Level::id`]: the cgroup whose limit was hit, or [`ABSENT`]: the machine ran out.
    pub limit_id: u64,
    /// Pages charged to that cgroup.
    pub limit_usage: u64,
    /// Its limit in pages.
    pub limit_max: u64,
    /// `oom_control.gfp_mask`: how memory was asked for.
    pub gfp_mask: u32,
    /// `oom_control.order`: 2 to this power pages were asked for; -1: a person asked for the kill (sysrq-f).
    pub order: i32,
    /// `oom_control.constraint`: 0 none, 1 cpuset, 2 memory policy, 3 memory cgroup (`enum oom_constraint`,
    /// include/linux/oom.h).
    pub constraint: u32,
    /// Used bytes of `arguments`. See [`present::ARGUMENTS`].
    pub arguments_len: u32,
    /// The beginning of the victim's command line as in `/proc/PID/cmdline`.
    pub arguments: [u8; ARGUMENTS],
    /// The victim's memory cgroup and its ancestors.
    pub cgroups: [Level; LEVELS],
    /// The trigger's memory cgroup and its ancestors.
    pub trigger_cgroups: [TriggerLevel; TRIGGER_LEVELS],
}

impl OomEvent {
    /// Bytes before the first level.
    pub const HEADER: usize = offset_of!(OomEvent, cgroups);
    /// Bytes up to the trigger's levels.
    pub const WITHOUT_TRIGGER: usize = offset_of!(OomEvent, trigger_cgroups);
}

/// What wakes the agent: a kill is in the ring buffer, or the memory of a victim is free.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// [`OomEvent::seq`] of the kill.
    pub seq: u64,
    /// When its memory was free: `CLOCK_BOOTTIME`, nanoseconds. 0: the kill has just happened.
    pub freed_boot_ns: u64,
}

/// Places in the probe's counter map: [`Counter::SLOTS`] numbers for each CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Kills confirmed by `mark_victim`.
    Kills = 0,
    /// Kills whose event found no room in the ring buffer.
    RingFull = 1,
    /// Marks of a task that the same context had not just killed: a dying task that got memory reserves (from 6.16 on;
    /// see docs/architecture.md).
    MarkWithoutKill = 2,
    /// The kernel's SIGKILLs that no mark followed and that are none of the three below.
    SignalWithoutMark = 3,
    /// A victim met again by the same decision: the kernel counts it twice (`memory.oom.group`).
    Repeated = 4,
    /// A process that shares its memory with a victim (`CLONE_VM`) dies with it: the kernel does not count it.
    SharedMemory = 5,
    /// What a dying first process of a pid namespace takes along (`zap_pid_ns_processes`).
    Collateral = 6,
    /// Notes that found no room.
    NotesFull = 7,
}

impl Counter {
    /// Numbers kept for each CPU.
    pub const SLOTS: u32 = 8;
}

// No implicit padding: each size is the sum of its fields.
const _: () = assert!(size_of::<Name>() == 8 + NAME);
const _: () = assert!(size_of::<Level>() == 7 * 8 + size_of::<Name>());
const _: () = assert!(size_of::<TriggerLevel>() == 8 + size_of::<Name>());
const _: () = assert!(OomEvent::HEADER == 8 + 10 * 8 + 10 * 4 + 2 * COMM + 4 * 8 + 4 * 4 + ARGUMENTS);
const _: () = assert!(OomEvent::WITHOUT_TRIGGER == OomEvent::HEADER + LEVELS * size_of::<Level>());
const _: () = assert!(size_of::<OomEvent>() == OomEvent::WITHOUT_TRIGGER + TRIGGER_LEVELS * size_of::<TriggerLevel>());
const _: () = assert!(OomEvent::HEADER.is_multiple_of(8));
// The first version's fields are where they were: an agent may meet its events for as long as a node has not been
// started anew.
const _: () = assert!(
    offset_of!(OomEvent, seq) == 8 && offset_of!(OomEvent, comm) == 128 && offset_of!(OomEvent, arguments) == 208
);
const _: () = assert!(offset_of!(Level, name) == 48 && offset_of!(Level, oom_lock) == 312);
