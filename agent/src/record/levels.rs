//! What the chain of cgroups above a victim tells: whose limit was hit, which level is the container's, which one dies
//! as a whole.
//!
//! A level is an index into [`Kill::cgroups`]: 0 is the victim's own cgroup, the next its parent.

use crate::kill::{Cgroup, Kill, LimitHit, Method, Owner};

/// A limit whose headroom is at most this counts as hit: one huge page, the largest charge that can fail while there is
/// still room for a smaller one.
pub(super) const SLACK: u64 = 2 << 20;

/// A machine that had a 16th of its memory left did not run out: the kernel's own reserves are far smaller.
const PLENTY: u64 = 16;

/// Which limit was hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hit {
    /// This one. Its level is absent if it is above those that were read.
    Limit(Option<usize>, LimitHit),
    /// None: the machine ran out.
    Nobody,
    /// Cannot be told.
    Unknown,
}

/// Finds whose limit was hit and says how, by the best that this kernel offers. Without an answer there is no method.
pub(super) fn hit(kill: &Kill) -> (Hit, Option<Method>) {
    let (hit, method) = if kill.decision.is_some() {
        (by_decision(kill), Method::OomControl)
    } else if !kill.cgroups.is_empty() && !kill.path_cut && kill.cgroups.iter().all(|cgroup| cgroup.oom_lock.is_some())
    {
        (by_lock(kill), Method::OomLock)
    } else {
        (by_headroom(kill), Method::Headroom)
    };
    let method = (hit != Hit::Unknown).then_some(method);
    (hit, method)
}

/// The kernel says it.
fn by_decision(kill: &Kill) -> Hit {
    let Some(hit) = kill.decision.as_ref().and_then(|decision| decision.limit.as_ref()) else { return Hit::Nobody };
    let level = hit.cgroup_id.and_then(|id| kill.cgroups.iter().position(|cgroup| cgroup.id == Some(id)));
    Hit::Limit(level, LimitHit { cgroup_path: level.and_then(|level| path(kill, level)), ..hit.clone() })
}

/// The kernel has marked the cgroup and all below it, so the outermost one that is marked had its limit hit.
///
/// It does not mark where it kills because a limit was lowered: then a limit is full that nobody marked. Nor can two
/// decisions that wait for each other be told apart: if the machine runs out while a cgroup above the victim waits for
/// a kill of its own, that cgroup is named.
fn by_lock(kill: &Kill) -> Hit {
    let marked = kill.cgroups.iter().rposition(|cgroup| cgroup.oom_lock == Some(true));
    match marked {
        Some(level) if level >= first_shared(kill) => limit_of(kill, level),
        Some(_) => Hit::Unknown,
        None if least_room(kill).is_some_and(|(_, room)| room <= SLACK) => Hit::Unknown,
        None if all_known(kill) => Hit::Nobody,
        None => Hit::Unknown,
    }
}

/// Among the levels that the victim shares with the trigger the one with the least room below its limit; equal ones:
/// the one nearer to the victim. It was hit if there is no more room than [`SLACK`], and if the machine had memory
/// left: else that may have run out, with a cgroup near its limit by chance.
///
/// The kernel charges the trigger, so only a limit above the trigger can have been hit. If none of the shared levels
/// has a limit, nobody's was. If one has and there is room, others may have freed memory since the decision, or the
/// machine ran out: that cannot be told apart here. Nor if it is not known how much there is
/// (lockdown=confidentiality).
fn by_headroom(kill: &Kill) -> Hit {
    match least_room(kill) {
        Some((level, room)) if room <= SLACK && machine_had_memory(kill) => limit_of(kill, level),
        None if all_known(kill) => Hit::Nobody,
        _ => Hit::Unknown,
    }
}

fn machine_had_memory(kill: &Kill) -> bool {
    let given_back = kill.victim.memory.resident();
    kill.machine
        .zip(given_back)
        .is_some_and(|(machine, given_back)| machine.available.saturating_sub(given_back) > machine.total / PLENTY)
}

fn limit_of(kill: &Kill, level: usize) -> Hit {
    let Some(cgroup) = kill.cgroups.get(level).filter(|cgroup| cgroup.limit.is_some()) else { return Hit::Unknown };
    Hit::Limit(
        Some(level),
        LimitHit { cgroup_id: cgroup.id, cgroup_path: path(kill, level), usage: cgroup.usage, limit: cgroup.limit },
    )
}

/// Of the levels with a limit that victim and trigger share. Absent if none has one.
fn least_room(kill: &Kill) -> Option<(usize, u64)> {
    let limited = kill.cgroups.iter().enumerate().skip(first_shared(kill));
    let rooms = limited.filter_map(|(level, cgroup)| Some((level, cgroup.limit?.saturating_sub(cgroup.usage?))));
    // Of equal ones `min_by_key` gives the first: the innermost.
    rooms.min_by_key(|(_, room)| *room)
}

fn all_known(kill: &Kill) -> bool {
    !kill.cgroups.is_empty()
        && !kill.path_cut
        && kill
            .cgroups
            .iter()
            .skip(first_shared(kill))
            .all(|cgroup| cgroup.limit_known && (cgroup.limit.is_none() || cgroup.usage.is_some()))
}

/// The innermost level that the trigger is below, too. 0, which leaves out none, where the paths cannot be compared.
fn first_shared(kill: &Kill) -> usize {
    let Some(trigger) = kill.trigger.cgroup_path.as_deref().filter(|_| !kill.path_cut && !kill.trigger.path_cut) else {
        return 0;
    };
    let is_above = |level: usize| {
        path(kill, level).is_none_or(|path| {
            path == "/"
                || trigger.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        })
    };
    (0..kill.cgroups.len()).find(|&level| is_above(level)).unwrap_or(0)
}

/// The level of the owner's container: the one whose name carries its id.
pub(super) fn container(kill: &Kill, owner: &Owner) -> Option<usize> {
    let id = container_id(owner)?;
    kill.cgroups.iter().position(|cgroup| cgroup.name.as_ref().is_some_and(|name| name.contains(id)))
}

/// The full id of the owner's container, if it is one.
pub(super) fn container_id(owner: &Owner) -> Option<&str> {
    match owner {
        Owner::Kubernetes(owner) => owner.container_id.as_deref(),
        Owner::Container { id, .. } => Some(id.as_str()),
        Owner::Unit { .. } | Owner::Unknown { .. } => None,
    }
    .filter(|id| !id.is_empty())
}

/// The level whose processes the kernel kills all at once: the outermost with `memory.oom.group` up to the one whose
/// limit was hit.
///
/// As the kernel's `mem_cgroup_get_oom_group`: settings above the limit do not count.
pub(super) fn group(kill: &Kill) -> Option<usize> {
    in_reach(kill).iter().rposition(|cgroup| cgroup.oom_group == Some(true))
}

/// Whether the group that dies as a whole has all processes of the owner's container in it.
pub(super) fn whole_container(kill: &Kill, owner: &Owner) -> bool {
    group(kill).zip(container(kill, owner)).is_some_and(|(group, container)| group >= container)
}

/// Whether this kill is part of a group kill. Absent if no setting in reach could be read.
pub(super) fn is_group_kill(kill: &Kill) -> Option<bool> {
    in_reach(kill).iter().filter_map(|cgroup| cgroup.oom_group).reduce(|any, this| any || this)
}

/// The path of a level. Absent where names cannot be read.
pub(super) fn path(kill: &Kill, level: usize) -> Option<String> {
    let mut path = kill.cgroup_path.as_deref()?;
    for _ in 0..level.min(kill.cgroups.len()) {
        path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    Some(if path.is_empty() { "/" } else { path }.to_owned())
}

/// The levels whose `memory.oom.group` counts.
fn in_reach(kill: &Kill) -> &[Cgroup] {
    let end = match hit(kill).0 {
        Hit::Limit(Some(level), _) => level.saturating_add(1),
        Hit::Limit(None, _) | Hit::Nobody | Hit::Unknown => kill.cgroups.len(),
    };
    kill.cgroups.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kill::Machine;
    use crate::record::sample;

    #[test]
    fn only_settings_up_to_the_limit_make_a_group() {
        let mut kill = sample::kill();
        assert_eq!((group(&kill), is_group_kill(&kill)), (None, Some(false)));
        kill.cgroups[1].oom_group = Some(true);
        assert_eq!(group(&kill), None, "the pod's setting is above the container's limit");
        kill.cgroups[0].oom_group = Some(true);
        assert_eq!((group(&kill), is_group_kill(&kill)), (Some(0), Some(true)));
        sample::node_out_of_memory(&mut kill);
        assert_eq!(group(&kill), Some(1), "the outermost one, if the machine ran out");
    }

    fn level_of(kill: &Kill) -> (Option<usize>, Option<Method>) {
        match hit(kill) {
            (Hit::Limit(level, _), method) => (level, method),
            (_, method) => (None, method),
        }
    }

    #[test]
    fn what_the_kernel_says_wins_over_what_looks_full() {
        let mut kill = sample::kill();
        assert_eq!(level_of(&kill), (Some(0), Some(Method::Headroom)));
        let limit = LimitHit { cgroup_id: kill.cgroups[1].id, cgroup_path: None, usage: Some(7), limit: Some(5) };
        kill.decision = Some(sample::decision(1, Some(limit.clone())));
        let path = path(&kill, 1);
        assert_eq!(
            hit(&kill),
            (Hit::Limit(Some(1), LimitHit { cgroup_path: path, ..limit.clone() }), Some(Method::OomControl))
        );
        kill.decision = Some(sample::decision(1, Some(LimitHit { cgroup_id: Some(9999), ..limit })));
        assert_eq!(level_of(&kill), (None, Some(Method::OomControl)));
        kill.decision = Some(sample::decision(1, None));
        assert_eq!(hit(&kill), (Hit::Nobody, Some(Method::OomControl)), "full by chance");
    }

    #[test]
    fn the_outermost_marked_cgroup_was_hit() {
        let marked = |levels: &[usize]| {
            let mut kill = sample::kill();
            for (level, cgroup) in kill.cgroups.iter_mut().enumerate() {
                cgroup.oom_lock = Some(levels.contains(&level));
            }
            kill
        };
        assert_eq!(level_of(&marked(&[0])), (Some(0), Some(Method::OomLock)));
        assert_eq!(level_of(&marked(&[0, 1])), (Some(1), Some(Method::OomLock)));
        assert_eq!(hit(&marked(&[0, 1, 2])), (Hit::Unknown, None), "it has no limit");
        assert_eq!(
            hit(&marked(&[])),
            (Hit::Unknown, None),
            "full and not marked: the limit was lowered, or the machine ran out"
        );
        let mut out_of_memory = marked(&[]);
        sample::node_out_of_memory(&mut out_of_memory);
        assert_eq!(hit(&out_of_memory), (Hit::Nobody, Some(Method::OomLock)));
        let mut elsewhere = marked(&[0]);
        elsewhere.trigger.cgroup_path = Some("/system.slice/cron.service".to_owned());
        assert_eq!(hit(&elsewhere), (Hit::Unknown, None), "marked for another decision");
    }

    #[test]
    fn a_full_cgroup_is_blamed_only_if_the_machine_had_memory_left() {
        let mut kill = sample::kill();
        kill.machine =
            Some(Machine { total: 16 << 30, available: (1 << 30) + kill.victim.memory.resident().unwrap_or_default() });
        assert_eq!(hit(&kill), (Hit::Unknown, None));
        kill.machine = Some(Machine {
            total: 16 << 30,
            available: (1 << 30) + 1 + kill.victim.memory.resident().unwrap_or_default(),
        });
        assert_eq!(level_of(&kill), (Some(0), Some(Method::Headroom)));
        kill.victim.memory.anon_rss = None;
        assert_eq!(hit(&kill), (Hit::Unknown, None));
        kill.machine = None;
        assert_eq!(hit(&kill), (Hit::Unknown, None));
    }

    #[test]
    fn settings_that_cannot_be_read_say_nothing() {
        let mut kill = sample::kill();
        for cgroup in &mut kill.cgroups {
            cgroup.oom_group = None;
        }
        assert_eq!((group(&kill), is_group_kill(&kill)), (None, None));
    }

    #[test]
    fn the_path_of_a_level_is_a_beginning_of_the_path() {
        let kill = sample::kill();
        assert_eq!(path(&kill, 0), kill.cgroup_path);
        assert_eq!(path(&kill, 2).as_deref(), Some("/kubepods.slice/kubepods-burstable.slice"));
        assert_eq!(path(&kill, 4).as_deref(), Some("/"));
        assert_eq!(path(&kill, 99).as_deref(), Some("/"));
        assert_eq!(path(&sample::without_names(), 0), None);
    }
}
