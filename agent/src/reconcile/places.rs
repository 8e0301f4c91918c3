//! Where kills are missing: in a cgroup, or in cgroups below it that are gone.
//!
//! With v2 a cgroup's counter of its whole subtree keeps the kills of cgroups that are gone, so the nearest one that is
//! left tells of them: of a container that was restarted, its pod.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::CgroupCounts;
use super::Counted;
use crate::kill::{Missed, MissedKills};

/// What is explained of the counters of one cgroup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Known {
    pub(super) own: Tally,
    pub(super) subtree: Tally,
}

/// What is explained of one counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(u64, u64, u64)", into = "(u64, u64, u64)")]
pub(super) struct Tally {
    /// The kernel's count when it was compared.
    settled: u64,
    /// Kills that were seen and are not part of it.
    pub(super) seen: u64,
    /// The kernel's count of group kills when it was compared.
    groups: u64,
}

impl Known {
    pub(super) fn accept(&mut self, cgroup: &CgroupCounts) {
        self.own.accept(cgroup.own);
        self.subtree.accept(cgroup.subtree.unwrap_or_default());
    }
}

impl Known {
    /// As if so many kills in it, and in it or below it, had not been seen.
    pub(super) fn without(self, own: u64, subtree: u64) -> Self {
        Self { own: self.own.without(own), subtree: self.subtree.without(subtree) }
    }
}

impl Tally {
    fn accept(&mut self, counted: Counted) {
        // What was seen after the kernel's counter was read stays.
        self.seen = self.settled.saturating_add(self.seen).saturating_sub(counted.kills);
        self.settled = counted.kills;
        self.groups = counted.group_kills.unwrap_or_default();
    }

    /// As if so many of the kills in it had not been seen: whoever sees them again adds them.
    fn without(self, kills: u64) -> Self {
        let settled = self.settled.saturating_sub(kills.saturating_sub(self.seen));
        Self { seen: self.seen.saturating_sub(kills), settled, ..self }
    }

    fn since(&self, counted: Counted) -> Change {
        Change {
            counted: counted.kills.saturating_sub(self.settled),
            seen: self.seen,
            groups: counted.group_kills.unwrap_or_default().saturating_sub(self.groups),
        }
    }
}

impl From<(u64, u64, u64)> for Tally {
    fn from((settled, seen, groups): (u64, u64, u64)) -> Self {
        Self { settled, seen, groups }
    }
}

impl From<Tally> for (u64, u64, u64) {
    fn from(tally: Tally) -> Self {
        (tally.settled, tally.seen, tally.groups)
    }
}

/// What happened since a counter was compared.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    counted: u64,
    seen: u64,
    groups: u64,
}

impl Change {
    fn without(self, part: Self) -> Self {
        Self {
            counted: self.counted.saturating_sub(part.counted),
            seen: self.seen.saturating_sub(part.seen),
            groups: self.groups.saturating_sub(part.groups),
        }
    }
}

/// A cgroup, or all those below it that are gone, with kills since the last comparison.
#[derive(Debug)]
pub(super) struct Place<'a> {
    cgroup: &'a CgroupCounts,
    removed: bool,
    change: Change,
    /// Second counts of the first victim of a group kill.
    pub(super) repeats: u64,
    /// Which of the kernel's kills there the first one since then is, from 1.
    pub(super) first: u64,
}

impl Place<'_> {
    /// Kills that the kernel counted and nobody saw.
    pub(super) fn missing(&self) -> u64 {
        self.change.counted.saturating_sub(self.change.seen).saturating_sub(self.repeats)
    }

    /// `number` of them.
    pub(super) fn missed(&self, first: u64, number: u64, why: Missed) -> MissedKills {
        MissedKills {
            cgroup_id: self.cgroup.id,
            cgroup_path: self.cgroup.path.clone(),
            removed: self.removed,
            first,
            number,
            why,
            may_repeat: self.cgroup.own.group_kills.is_none(),
        }
    }

    /// Counts up to `repeats` of what is missing as repeats; gives how many there was no room for. The kernel counts a
    /// process twice at the most.
    fn repeat(&mut self, repeats: u64) -> u64 {
        let room = (self.change.counted / 2).saturating_sub(self.repeats).min(self.missing());
        let taken = repeats.min(room);
        self.repeats += taken;
        repeats - taken
    }
}

/// All places with kills, in the order of `cgroups`, in which each is behind the one above it.
pub(super) fn places<'a>(cgroups: &'a [CgroupCounts], known: &BTreeMap<u64, Known>) -> Vec<Place<'a>> {
    let by_id: BTreeMap<u64, usize> = cgroups.iter().enumerate().map(|(index, cgroup)| (cgroup.id, index)).collect();
    let known = |cgroup: &CgroupCounts| known.get(&cgroup.id).copied().unwrap_or_default();
    let subtree = |cgroup: &CgroupCounts| cgroup.subtree.map(|counted| known(cgroup).subtree.since(counted));

    // What is left of each subtree without the cgroup itself and those right below it: the ones that are gone.
    let mut gone: Vec<Option<Change>> =
        cgroups.iter().map(|cgroup| Some(subtree(cgroup)?.without(known(cgroup).own.since(cgroup.own)))).collect();
    for cgroup in cgroups {
        let parent = cgroup.parent.and_then(|parent| by_id.get(&parent)).and_then(|parent| gone.get_mut(*parent));
        if let (Some(Some(parent)), Some(change)) = (parent, subtree(cgroup)) {
            *parent = parent.without(change);
        }
    }

    let mut places = Vec::new();
    for (cgroup, gone) in cgroups.iter().zip(gone) {
        let own = known(cgroup).own;
        places.push(Place {
            cgroup,
            removed: false,
            change: own.since(cgroup.own),
            repeats: 0,
            first: own.settled.saturating_add(1),
        });
        let first = known(cgroup).subtree.settled.saturating_add(1);
        places.extend(gone.map(|change| Place { cgroup, removed: true, change, repeats: 0, first }));
    }
    find_repeats(&mut places, cgroups, &by_id);
    places.retain(|place| place.change.counted > 0);
    places
}

/// A group kill counts its first victim twice, in the victim's own cgroup; the group kill itself counts for the cgroup
/// that has `memory.oom.group`, which may be one above. The innermost are served first: an outer one finds room
/// elsewhere below it.
fn find_repeats(places: &mut [Place<'_>], cgroups: &[CgroupCounts], by_id: &BTreeMap<u64, usize>) {
    for index in (0..places.len()).rev() {
        let Some(place) = places.get_mut(index) else { continue };
        let (group, groups, removed) = (place.cgroup.id, place.change.groups, place.removed);
        let mut left = place.repeat(groups);
        if removed {
            continue;
        }
        for below in places.iter_mut().skip(index + 1) {
            if left == 0 {
                break;
            }
            if is_below(below.cgroup, group, cgroups, by_id) {
                left = below.repeat(left);
            }
        }
    }
}

/// Whether `cgroup` is the one with the id `above`, or somewhere below it.
fn is_below(cgroup: &CgroupCounts, above: u64, cgroups: &[CgroupCounts], by_id: &BTreeMap<u64, usize>) -> bool {
    let mut level = Some(cgroup);
    // No hierarchy is deeper than there are cgroups: whatever the ids say, this ends.
    for _ in 0..=cgroups.len() {
        match level {
            Some(cgroup) if cgroup.id == above => return true,
            Some(cgroup) => level = cgroup.parent.and_then(|parent| cgroups.get(*by_id.get(&parent)?)),
            None => return false,
        }
    }
    false
}
