//! What the chain of cgroups above a victim tells: whose limit was hit, which level is the container's, which one dies as a whole.
//!
//! A level is an index into [`Kill::cgroups`]: 0 is the victim's own cgroup, the next its parent.

use crate::kill::{Cgroup, Kill, Owner};

/// A limit whose headroom is at most this counts as hit: one huge page, the largest charge that can fail while there is still room for a smaller one.
pub(super) const SLACK: u64 = 2 << 20;

/// Which limit was hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hit {
    /// The one of a level.
    Level {
        /// The level.
        level: usize,
        /// What was charged to it, bytes.
        usage: u64,
        /// Its limit, bytes.
        limit: u64,
    },
    /// None: the machine ran out.
    Nobody,
    /// Cannot be told.
    Unknown,
}

/// Finds, among the levels that the victim shares with the trigger, the one with the least room below its limit; equal ones: the one nearer to the
/// victim. It was hit if there is no more room than [`SLACK`].
///
/// The kernel charges the trigger, so only a limit above the trigger can have been hit. If none of the shared levels has a limit, nobody's was. If one
/// has and there is room, others may have freed memory since the decision, or the machine ran out: that cannot be told apart here. Nor if it is not known
/// how much there is (lockdown=confidentiality).
pub(super) fn hit(kill: &Kill) -> Hit {
    let first = first_shared(kill);
    let shared = || kill.cgroups.iter().enumerate().skip(first);
    let limited = shared().filter_map(|(level, cgroup)| Some((level, cgroup.usage?, cgroup.limit?)));
    // Of equal ones `min_by_key` gives the first: the innermost.
    match limited.min_by_key(|(_, usage, limit)| limit.saturating_sub(*usage)) {
        Some((level, usage, limit)) if limit.saturating_sub(usage) <= SLACK => Hit::Level { level, usage, limit },
        None if !kill.cgroups.is_empty() && !kill.path_cut && shared().all(|(_, cgroup)| cgroup.limit_known && cgroup.limit.is_none()) => Hit::Nobody,
        _ => Hit::Unknown,
    }
}

/// The innermost level that the trigger is below, too. 0, which leaves out none, where the paths cannot be compared.
fn first_shared(kill: &Kill) -> usize {
    let Some(trigger) = kill.trigger.cgroup_path.as_deref().filter(|_| !kill.path_cut && !kill.trigger.path_cut) else {
        return 0;
    };
    let is_above = |level: usize| {
        path(kill, level)
            .is_none_or(|path| path == "/" || trigger.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
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

/// The level whose processes the kernel kills all at once: the outermost with `memory.oom.group` up to the one whose limit was hit.
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
    let end = match hit(kill) {
        Hit::Level { level, .. } => level.saturating_add(1),
        Hit::Nobody | Hit::Unknown => kill.cgroups.len(),
    };
    kill.cgroups.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
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
