//! An event of the probe becomes a [`Kill`]: bytes in, words of the vocabulary out, kernel time as wall time. Pure.

use std::fmt;
use std::mem::{MaybeUninit, offset_of};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use oom_watcher_shared::{ABSENT, LEVELS, Level, NAME_ABSENT, Name, OomEvent, TRIGGER_LEVELS, TriggerLevel, present};
use uuid::Uuid;

use crate::kill::{Cgroup, Constraint, Decision, Kill, KillId, LimitHit, Memory, Trigger, Victim};

/// What turns the kernel's numbers into ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// `/proc/sys/kernel/random/boot_id`
    pub boot_id: Uuid,
    /// Wall time at `CLOCK_BOOTTIME` 0, as of now: it moves when the wall clock is set.
    pub booted: Duration,
    /// Bytes of a page.
    pub page: u64,
}

impl Scale {
    /// A moment of `CLOCK_BOOTTIME` in wall time.
    pub(super) fn wall(&self, since_boot_ns: u64) -> SystemTime {
        UNIX_EPOCH + self.booted + Duration::from_nanos(since_boot_ns)
    }

    fn bytes(&self, pages: u64) -> Option<u64> {
        (pages != ABSENT).then(|| pages.saturating_mul(self.page))
    }

    /// `PAGE_COUNTER_MAX`, include/linux/page_counter.h: no limit.
    fn is_limit(&self, pages: u64) -> bool {
        pages < i64::MAX as u64 / self.page
    }
}

/// An event that is not of the form that the probe writes. Its place in the sequence is lost with it.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Bytes that came.
    pub length: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an event of {} bytes is not of the probe that this agent was built with", self.length)
    }
}

impl std::error::Error for Malformed {}

/// Reads one event.
pub fn kill(bytes: &[u8], scale: &Scale) -> Result<Kill, Malformed> {
    let event = event(bytes).ok_or(Malformed { length: bytes.len() })?;
    let has = |flag: u64| event.present & flag != 0;
    let levels = event.cgroups.get(..event.levels as usize).ok_or(Malformed { length: bytes.len() })?;
    let path = path(levels.iter().map(|level| &level.name));
    let (trigger_id, trigger_path) = if has(present::SAME_CGROUP) {
        (levels.first().map(|level| level.id), path.clone())
    } else {
        let levels: &[TriggerLevel] = event.trigger_cgroups.get(..event.trigger_levels as usize).unwrap_or_default();
        (levels.first().map(|level| level.id), path_of_trigger(levels))
    };
    Ok(Kill {
        id: KillId::new(scale.boot_id, event.tgid, Duration::from_nanos(event.start_boot_ns)),
        sequence: event.seq,
        time: scale.wall(event.time_boot_ns),
        victim: Victim {
            pid: event.tgid,
            tid: event.pid,
            namespace_pid: has(present::NS_TGID).then_some(event.ns_tgid),
            in_host_pid_namespace: event.pid_ns_level == 0,
            command: command(&event.comm),
            user_id: has(present::UID).then_some(event.uid),
            started: has(present::START).then(|| scale.wall(event.start_boot_ns)),
            oom_score_adj: has(present::OOM_SCORE_ADJ).then_some(event.oom_score_adj),
            already_dying: has(present::ALREADY_DYING),
            memory: Memory {
                total_vm: scale.bytes(event.total_vm),
                anon_rss: scale.bytes(event.anon_rss),
                file_rss: scale.bytes(event.file_rss),
                shmem_rss: scale.bytes(event.shmem_rss),
                swap: scale.bytes(event.swap),
                pgtables: (event.pgtables_bytes != ABSENT).then_some(event.pgtables_bytes),
                is_exact: has(present::RSS_EXACT),
            },
            arguments: has(present::ARGUMENTS).then(|| arguments(&event)),
            end_is_told: has(present::END_IS_TOLD),
        },
        trigger: Trigger {
            pid: event.trigger_tgid,
            tid: event.trigger_pid,
            command: command(&event.trigger_comm),
            cgroup_id: trigger_id.filter(|&id| id != ABSENT),
            cgroup_path: trigger_path,
            path_cut: has(if has(present::SAME_CGROUP) { present::PATH_CUT } else { present::TRIGGER_PATH_CUT }),
        },
        cgroups: levels.iter().map(|level| cgroup(level, scale, has(present::OOM_LOCK))).collect(),
        cgroup_path: path,
        path_cut: has(present::PATH_CUT),
        decision: has(present::DECISION).then(|| decision(&event, scale)),
        machine: None,
        cgroups_from_files: false,
    })
}

fn decision(event: &OomEvent, scale: &Scale) -> Decision {
    let charged = (event.limit_usage != ABSENT || event.limit_max != ABSENT).then(|| LimitHit {
        cgroup_id: (event.limit_id != ABSENT).then_some(event.limit_id),
        cgroup_path: None,
        usage: scale.bytes(event.limit_usage),
        limit: scale.bytes(event.limit_max).filter(|_| scale.is_limit(event.limit_max)),
    });
    Decision {
        number: event.decision,
        limit: charged,
        constraint: match event.constraint {
            0 => Some(Constraint::None),
            1 => Some(Constraint::Cpuset),
            2 => Some(Constraint::MemoryPolicy),
            3 => Some(Constraint::MemoryCgroup),
            _ => None,
        },
        order: u32::try_from(event.order).ok(),
        by_hand: event.order < 0,
        gfp_mask: event.gfp_mask,
    }
}

/// The parts of a command line, which a NUL ends each.
fn arguments(event: &OomEvent) -> Vec<String> {
    let bytes = event.arguments.get(..event.arguments_len as usize).unwrap_or(&event.arguments);
    let whole = bytes.strip_suffix(&[0]).unwrap_or(bytes);
    whole.split(|&byte| byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

fn cgroup(level: &Level, scale: &Scale, has_lock: bool) -> Cgroup {
    let limit = |pages: u64| scale.bytes(pages).filter(|_| scale.is_limit(pages));
    Cgroup {
        id: (level.id != ABSENT).then_some(level.id),
        name: name(&level.name),
        usage: scale.bytes(level.usage),
        limit: limit(level.max),
        limit_known: level.max != ABSENT,
        swap_usage: scale.bytes(level.swap_usage),
        swap_limit: limit(level.swap_max),
        oom_group: (level.oom_group != ABSENT).then_some(level.oom_group != 0),
        oom_lock: (has_lock && level.oom_lock != ABSENT).then_some(level.oom_lock != 0),
    }
}

/// The used part of an event, the rest zero. It may be of an older probe, whose parts end earlier, or of a newer one,
/// whose parts go on.
fn event(bytes: &[u8]) -> Option<Box<OomEvent>> {
    let size = |at: usize| bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes).map(usize::from);
    let (header, level) = (size(0)?, size(2)?);
    let (trigger_level, slots) = (size(4)?, size(6)?);
    // What the first version had.
    if header < offset_of!(OomEvent, decision)
        || level < offset_of!(Level, oom_lock)
        || trigger_level < size_of::<TriggerLevel>()
    {
        return None;
    }
    let mut event = Box::new(MaybeUninit::<OomEvent>::zeroed());
    // SAFETY: OomEvent is made of integers alone, for which every bit pattern is a value.
    let mut event = unsafe {
        copy(bytes.get(..header)?, event.as_mut_ptr().cast(), OomEvent::HEADER);
        event.assume_init()
    };
    let has = |flag: u64| event.present & flag != 0;
    let (levels, same) = (event.levels as usize, has(present::SAME_CGROUP));
    let announced =
        if same { header + levels * level } else { header + slots * level + TRIGGER_LEVELS * trigger_level };
    // The ring buffer rounds nothing: what was announced is what came.
    if announced != bytes.len() || levels > slots.min(LEVELS) || event.trigger_levels as usize > TRIGGER_LEVELS {
        return None;
    }
    for (index, target) in event.cgroups.iter_mut().enumerate().take(levels) {
        let start = header + index * level;
        // SAFETY: a Level is made of integers alone.
        unsafe { copy(bytes.get(start..start + level)?, (&raw mut *target).cast(), size_of::<Level>()) };
    }
    let trigger_levels = if same { 0 } else { event.trigger_levels as usize };
    for (index, target) in event.trigger_cgroups.iter_mut().enumerate().take(trigger_levels) {
        let start = header + slots * level + index * trigger_level;
        // SAFETY: a TriggerLevel is made of integers alone.
        unsafe { copy(bytes.get(start..start + trigger_level)?, (&raw mut *target).cast(), size_of::<TriggerLevel>()) };
    }
    Some(event)
}

/// Copies as much as both have.
///
/// # Safety
/// `target` has room for `room` bytes, and any bytes may be there.
unsafe fn copy(from: &[u8], target: *mut u8, room: usize) {
    // SAFETY: the caller's promise; the two do not overlap, since nobody else knows the target.
    unsafe { target.copy_from_nonoverlapping(from.as_ptr(), from.len().min(room)) };
}

/// `/outer/inner` from names that begin with the innermost and end with the root's empty one. Absent if a name is.
fn path<'a>(names: impl DoubleEndedIterator<Item = &'a Name>) -> Option<String> {
    let mut path = String::new();
    for part in names.rev().map(name) {
        let part = part?;
        if !part.is_empty() {
            path.push('/');
            path.push_str(&part);
        }
    }
    Some(if path.is_empty() { "/".to_owned() } else { path })
}

/// The same for the trigger, of which nothing at all may be known.
fn path_of_trigger(levels: &[TriggerLevel]) -> Option<String> {
    if levels.is_empty() { None } else { path(levels.iter().map(|level| &level.name)) }
}

fn name(name: &Name) -> Option<String> {
    if name.len == NAME_ABSENT {
        return None;
    }
    name.bytes.get(..name.len as usize).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

fn command(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or(bytes)).into_owned()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]
    use oom_watcher_shared::{ARGUMENTS, NAME};

    use super::*;

    const SCALE: Scale = Scale { boot_id: Uuid::from_u128(7), booted: Duration::from_secs(1_000_000), page: 4096 };

    fn named(text: &str) -> Name {
        let mut name = Name { len: text.len() as u64, bytes: [0; NAME] };
        name.bytes[..text.len()].copy_from_slice(text.as_bytes());
        name
    }

    fn comm(text: &str) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        bytes
    }

    fn arguments_of(text: &[u8]) -> [u8; ARGUMENTS] {
        let mut bytes = [0; ARGUMENTS];
        bytes[..text.len()].copy_from_slice(text);
        bytes
    }

    /// A victim in /kubepods/pod/container, whose limit is 2 pages.
    fn sample() -> OomEvent {
        let level = |id, max, name| Level {
            id,
            usage: 2,
            max,
            swap_usage: 2,
            swap_max: ABSENT,
            oom_group: 1,
            name: named(name),
            oom_lock: 1,
        };
        let unlimited = i64::MAX as u64 / 4096;
        let mut cgroups = [level(0, 0, ""); LEVELS];
        cgroups[0] = level(30, 2, "container");
        cgroups[1] = level(20, unlimited, "pod");
        cgroups[2] = level(10, unlimited, "kubepods");
        cgroups[3] = level(1, unlimited, "");
        OomEvent {
            header_bytes: OomEvent::HEADER as u16,
            level_bytes: size_of::<Level>() as u16,
            trigger_level_bytes: size_of::<TriggerLevel>() as u16,
            level_slots: LEVELS as u16,
            seq: 3,
            time_boot_ns: 2_500_000_000,
            start_boot_ns: 1_000_000_000,
            present: present::START | present::OOM_SCORE_ADJ | present::NS_TGID | present::UID | present::SAME_CGROUP,
            total_vm: 10,
            file_rss: 1,
            anon_rss: 2,
            swap: 0,
            shmem_rss: 3,
            pgtables_bytes: 8192,
            tgid: 100,
            pid: 101,
            ns_tgid: 1,
            pid_ns_level: 1,
            uid: 65532,
            oom_score_adj: -5,
            trigger_tgid: 200,
            trigger_pid: 201,
            levels: 4,
            trigger_levels: 0,
            comm: comm("victim"),
            trigger_comm: comm("a-name-of-15-by"),
            decision: 5,
            limit_id: 30,
            limit_usage: 3,
            limit_max: 2,
            gfp_mask: 0xcc0,
            order: 0,
            constraint: 3,
            arguments_len: 8,
            arguments: arguments_of(b"sh\0-c\0a\0"),
            cgroups,
            trigger_cgroups: [TriggerLevel { id: 0, name: named("") }; TRIGGER_LEVELS],
        }
    }

    fn bytes(event: &OomEvent) -> Vec<u8> {
        let used = if event.present & present::SAME_CGROUP != 0 {
            OomEvent::HEADER + event.levels as usize * size_of::<Level>()
        } else {
            size_of::<OomEvent>()
        };
        // SAFETY: the event is alive and has no padding.
        unsafe { std::slice::from_raw_parts((&raw const *event).cast::<u8>(), used) }.to_vec()
    }

    #[test]
    fn an_event_becomes_a_kill() {
        let kill = kill(&bytes(&sample()), &SCALE).unwrap();
        assert_eq!(kill.sequence, 3);
        assert_eq!(kill.time, UNIX_EPOCH + Duration::from_millis(1_000_002_500));
        assert_eq!(kill.victim.started, Some(UNIX_EPOCH + Duration::from_secs(1_000_001)));
        assert_eq!((kill.victim.pid, kill.victim.tid, kill.victim.namespace_pid), (100, 101, Some(1)));
        assert_eq!((kill.victim.command.as_str(), kill.trigger.command.as_str()), ("victim", "a-name-of-15-by"));
        assert_eq!(kill.victim.memory.resident(), Some(6 * 4096));
        assert_eq!(kill.victim.memory.pgtables, Some(8192));
        assert_eq!(kill.cgroup_path.as_deref(), Some("/kubepods/pod/container"));
        assert_eq!((kill.trigger.cgroup_path, kill.trigger.cgroup_id), (kill.cgroup_path, Some(30)));
        assert_eq!(kill.cgroups.len(), 4);
        assert_eq!((kill.cgroups[0].limit, kill.cgroups[0].usage), (Some(8192), Some(8192)));
        assert!(kill.cgroups[1].limit.is_none() && kill.cgroups[1].limit_known, "no limit is not an unknown limit");
    }

    #[test]
    fn what_the_kernel_did_not_tell_is_absent() {
        let mut event = sample();
        event.present = present::PATH_CUT | present::ALREADY_DYING;
        (event.total_vm, event.file_rss, event.anon_rss, event.swap) = (ABSENT, ABSENT, ABSENT, ABSENT);
        (event.shmem_rss, event.pgtables_bytes) = (ABSENT, ABSENT);
        event.cgroups[0] = Level {
            id: ABSENT,
            usage: ABSENT,
            max: ABSENT,
            swap_usage: ABSENT,
            swap_max: ABSENT,
            oom_group: ABSENT,
            name: Name { len: NAME_ABSENT, bytes: [0; NAME] },
            oom_lock: ABSENT,
        };
        let kill = kill(&bytes(&event), &SCALE).unwrap();
        assert_eq!(kill.victim.memory, Memory::default());
        assert_eq!(
            (kill.victim.namespace_pid, kill.victim.started, kill.victim.oom_score_adj, kill.victim.user_id),
            (None, None, None, None)
        );
        assert!(kill.victim.already_dying && kill.path_cut);
        assert_eq!((kill.cgroup_path, kill.trigger.cgroup_path, kill.trigger.cgroup_id), (None, None, None));
        let own = &kill.cgroups[0];
        assert_eq!((own.id, own.usage, own.limit, own.limit_known, own.oom_group), (None, None, None, false, None));
    }

    #[test]
    fn a_decision_and_a_command_line_are_told_only_where_they_were_read() {
        let flags =
            [present::DECISION, present::ARGUMENTS, present::RSS_EXACT, present::END_IS_TOLD, present::OOM_LOCK];
        let told = |event: &OomEvent| {
            let kill = kill(&bytes(event), &SCALE).unwrap();
            let victim = kill.victim;
            (kill.decision, victim.arguments, victim.memory.is_exact, victim.end_is_told, kill.cgroups[0].oom_lock)
        };
        assert_eq!(told(&sample()), (None, None, false, false, None));
        let mut event = sample();
        event.present |= flags.iter().sum::<u64>();
        let limit = LimitHit { cgroup_id: Some(30), cgroup_path: None, usage: Some(3 * 4096), limit: Some(2 * 4096) };
        let decision = Decision {
            number: 5,
            limit: Some(limit),
            constraint: Some(Constraint::MemoryCgroup),
            order: Some(0),
            by_hand: false,
            gfp_mask: 0xcc0,
        };
        let arguments = ["sh", "-c", "a"].map(str::to_owned).to_vec();
        assert_eq!(told(&event), (Some(decision.clone()), Some(arguments), true, true, Some(true)));
        (event.limit_id, event.limit_usage, event.limit_max, event.order, event.constraint) =
            (ABSENT, ABSENT, ABSENT, -1, 0);
        let by_hand =
            Decision { limit: None, constraint: Some(Constraint::None), order: None, by_hand: true, ..decision };
        assert_eq!(told(&event).0, Some(by_hand));
    }

    #[test]
    fn events_of_older_and_of_newer_probes_are_understood() {
        let (event, whole) = (sample(), bytes(&sample()));
        let parts = |header: usize, level: usize| {
            let mut bytes = Vec::new();
            // As much as is there, then what a newer probe has behind it.
            let mut part =
                |from: &[u8], length: usize| bytes.extend((0..length).map(|at| from.get(at).copied().unwrap_or(0xee)));
            part(&whole[..OomEvent::HEADER], header);
            for index in 0..event.levels as usize {
                let start = OomEvent::HEADER + index * size_of::<Level>();
                part(&whole[start..start + size_of::<Level>()], level);
            }
            bytes[..4].copy_from_slice(&[(header as u16).to_ne_bytes(), (level as u16).to_ne_bytes()].concat());
            bytes
        };
        let expected = kill(&whole, &SCALE).unwrap();
        for (header, level) in [(160, 312), (OomEvent::HEADER + 64, size_of::<Level>() + 8)] {
            assert_eq!(kill(&parts(header, level), &SCALE).as_ref(), Ok(&expected), "{header} {level}");
        }
        assert!(kill(&parts(152, 312), &SCALE).is_err(), "less than the first version had");
    }

    #[test]
    fn a_trigger_in_another_cgroup_has_its_own_path() {
        let mut event = sample();
        event.present &= !present::SAME_CGROUP;
        event.trigger_cgroups[0] = TriggerLevel { id: 7, name: named("other") };
        event.trigger_cgroups[1] = TriggerLevel { id: 1, name: named("") };
        event.trigger_levels = 2;
        let kill = kill(&bytes(&event), &SCALE).unwrap();
        assert_eq!((kill.trigger.cgroup_path.as_deref(), kill.trigger.cgroup_id), (Some("/other"), Some(7)));
        assert_eq!(kill.cgroup_path.as_deref(), Some("/kubepods/pod/container"));
    }

    #[test]
    fn names_of_255_bytes_and_the_deepest_path_are_whole() {
        let mut event = sample();
        let long = "n".repeat(NAME - 1);
        event.cgroups = [Level { name: named(&long), ..event.cgroups[0] }; LEVELS];
        event.cgroups[LEVELS - 1].name = named("");
        event.levels = LEVELS as u32;
        let path = kill(&bytes(&event), &SCALE).unwrap().cgroup_path.unwrap();
        assert_eq!(path, format!("/{long}").repeat(LEVELS - 1));
    }

    #[test]
    fn the_root_cgroup_is_a_slash_and_bytes_that_are_no_text_are_replaced() {
        let mut event = sample();
        event.cgroups[0] = event.cgroups[3];
        event.levels = 1;
        event.comm = [0xff; 16];
        let kill = kill(&bytes(&event), &SCALE).unwrap();
        assert_eq!(kill.cgroup_path.as_deref(), Some("/"));
        assert_eq!(kill.victim.command, "\u{fffd}".repeat(16));
    }

    #[test]
    fn an_id_is_of_the_boot_the_process_and_its_start_alone() {
        let id = |change: fn(&mut OomEvent, &mut Scale)| {
            let (mut event, mut scale) = (sample(), SCALE);
            change(&mut event, &mut scale);
            kill(&bytes(&event), &scale).unwrap().id
        };
        let same = id(|_, _| {});
        assert_eq!(
            id(|event, scale| (event.seq, event.time_boot_ns, event.pid, scale.booted) = (9, 9, 9, Duration::ZERO)),
            same
        );
        assert_ne!(id(|event, _| event.tgid = 9), same);
        assert_ne!(id(|event, _| event.start_boot_ns = 9), same);
        assert_ne!(id(|_, scale| scale.boot_id = Uuid::from_u128(8)), same);
    }

    #[test]
    fn bytes_of_another_length_are_refused_and_never_panic() {
        let whole = bytes(&sample());
        for length in (0..whole.len()).chain([whole.len() + 1, size_of::<OomEvent>() + 1]) {
            let mut wrong = whole.clone();
            wrong.resize(length, 0);
            assert_eq!(kill(&wrong, &SCALE), Err(Malformed { length }));
        }
        for at in 0..OomEvent::HEADER {
            let mut damaged = whole.clone();
            damaged[at] ^= 0xff;
            let _ = kill(&damaged, &SCALE);
        }
    }
}
