//! Which kills belong to one decision of the OOM killer, and whose limit it was about.
//!
//! Where its decisions can be read, the kernel tells both. Elsewhere both are inferred from the cgroups above the
//! victim and from the thread that triggered the kill.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use crate::kill::{Incident, Kill, KillId, LimitHit, Method, Owner, Scope};
use crate::record::levels::{self, Hit};

/// How long after its first kill an incident may still get others. The kernel kills a group in one go, within
/// milliseconds.
pub const JOIN_WITHIN: Duration = Duration::from_secs(1);

/// Decisions that are remembered. The kernel makes one at a time (`oom_lock`), so one would do; the oldest makes room.
pub const REMEMBERED: usize = 16;

/// Whose limit was hit, that limit, and how it was found: the kernel's own word where `oom_kill_process` is hooked;
/// else the mark that it has put on the cgroup (`oom_lock`); else the room below the limits, if the machine had memory
/// left.
///
/// [`Scope::Node`]: the machine ran out. A limit without a scope ([`Scope::Unknown`]): the cgroup's name cannot be
/// read. Neither: it cannot be told.
pub fn limit_hit(kill: &Kill, owner: &Owner) -> (Scope, Option<LimitHit>, Option<Method>) {
    let (hit, method) = levels::hit(kill);
    match hit {
        Hit::Limit(level, limit) => {
            (level.map_or(Scope::Unknown, |level| scope_of(kill, owner, level)), Some(limit), method)
        }
        Hit::Nobody => (Scope::Node, None, method),
        Hit::Unknown => (Scope::Unknown, None, method),
    }
}

/// What kills of one decision have in common: its number, or where the kernel does not number its decisions the process
/// and thread that triggered it. Kills that have it in common need not be of one decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Decided {
    /// The kernel's own number.
    Number(u64),
    /// The trigger.
    By(u32, u32),
}

/// See [`Decided`]. Known before the owner is.
pub fn decided(kill: &Kill) -> Decided {
    match &kill.decision {
        Some(decision) => Decided::Number(decision.number),
        None => Decided::By(kill.trigger.pid, kill.trigger.tid),
    }
}

/// The decisions of the last moments, to find the one that a kill is part of.
#[derive(Debug, Default)]
pub struct Incidents {
    groups: VecDeque<Group>,
}

impl Incidents {
    /// The id of the incident that `kill` is part of. It is known before the owner is.
    pub fn id(&self, kill: &Kill) -> KillId {
        self.groups.iter().find(|group| group.contains(kill)).map_or(kill.id, |group| group.incident.id)
    }

    /// The incident that `kill` is part of, with it counted.
    ///
    /// A kill joins an earlier one of the same decision. Where the kernel does not number its decisions: if the same
    /// thread triggered both, within [`JOIN_WITHIN`], and both victims are below the same cgroup whose
    /// `memory.oom.group` makes the kernel kill all its processes. Any other kill is a decision of its own. Scope and
    /// limit are those of the first kill: by the next one its memory may be free already.
    pub fn assign(&mut self, kill: &Kill, owner: &Owner) -> Incident {
        if let Some(group) = self.groups.iter_mut().find(|group| group.contains(kill)) {
            group.incident.kills = group.incident.kills.saturating_add(1);
            return group.incident.clone();
        }
        let (scope, limit, method) = limit_hit(kill, owner);
        let incident = Incident { id: kill.id, time: kill.time, kills: 1, scope, method, limit };
        let key = match &kill.decision {
            Some(decision) => Some(Key::Decision(decision.number)),
            None => levels::group(kill)
                .and_then(|level| CgroupKey::of(kill, level))
                .map(|cgroup| Key::Cgroup(cgroup, trigger(kill))),
        };
        if let Some(key) = key {
            if self.groups.len() >= REMEMBERED {
                self.groups.pop_front();
            }
            self.groups.push_back(Group { key, incident: incident.clone() });
        }
        incident
    }
}

/// A decision that may not be complete yet.
#[derive(Debug)]
struct Group {
    key: Key,
    incident: Incident,
}

/// What the kills of a decision have in common.
#[derive(Debug)]
enum Key {
    /// The kernel's own number.
    Decision(u64),
    /// A cgroup that dies as a whole, and the thread that triggered it.
    Cgroup(CgroupKey, (u32, u32)),
}

impl Group {
    fn contains(&self, kill: &Kill) -> bool {
        if apart(self.incident.time, kill.time) > JOIN_WITHIN {
            return false;
        }
        match (&self.key, &kill.decision) {
            (Key::Decision(number), Some(decision)) => *number == decision.number,
            (Key::Cgroup(cgroup, by), None) => *by == trigger(kill) && has_cgroup(kill, cgroup),
            _ => false,
        }
    }
}

// Any level with the setting will do: the first victim's death may have made room, so that another limit looks hit now.
fn has_cgroup(kill: &Kill, wanted: &CgroupKey) -> bool {
    let set = kill.cgroups.iter().enumerate().filter(|(_, cgroup)| cgroup.oom_group == Some(true));
    set.filter_map(|(level, _)| CgroupKey::of(kill, level)).any(|cgroup| cgroup == *wanted)
}

/// What a cgroup is recognised by: its inode, or its path where that is absent.
#[derive(Debug, PartialEq, Eq)]
enum CgroupKey {
    Id(u64),
    Path(String),
}

impl CgroupKey {
    fn of(kill: &Kill, level: usize) -> Option<Self> {
        let id = kill.cgroups.get(level)?.id;
        id.map(Self::Id).or_else(|| levels::path(kill, level).map(Self::Path))
    }
}

fn trigger(kill: &Kill) -> (u32, u32) {
    (kill.trigger.pid, kill.trigger.tid)
}

// Wall time may be set back between two kills.
fn apart(a: SystemTime, b: SystemTime) -> Duration {
    a.duration_since(b).unwrap_or_else(|error| error.duration())
}

fn scope_of(kill: &Kill, owner: &Owner, level: usize) -> Scope {
    if levels::container(kill, owner).is_some_and(|container| level <= container) {
        return Scope::Container;
    }
    let name = |level: usize| kill.cgroups.get(level).and_then(|cgroup| cgroup.name.as_deref());
    match name(level) {
        None => Scope::Unknown,
        Some(own) if is_pod(own, owner) => Scope::Pod,
        Some(own) if is_kubepods(own) => Scope::Kubepods,
        Some("burstable" | "besteffort") if name(level.saturating_add(1)).is_some_and(is_kubepods) => Scope::Kubepods,
        Some(_) => Scope::Cgroup,
    }
}

// kubelet: `pod<uid>` with its cgroupfs driver, `kubepods[-<qos>]-pod<uid, - as _>.slice` with systemd's.
fn is_pod(name: &str, owner: &Owner) -> bool {
    let by_uid = match owner {
        Owner::Kubernetes(owner) => {
            name.contains(&format!("pod{}", owner.pod_uid))
                || name.contains(&format!("pod{}", owner.pod_uid.replace('-', "_")))
        }
        _ => false,
    };
    by_uid || (is_kubepods(name) && name.contains("-pod"))
}

fn is_kubepods(name: &str) -> bool {
    name.starts_with("kubepods") || name.starts_with("kubelet-kubepods")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kill::Why;
    use crate::record::levels::SLACK;
    use crate::record::sample::{self, CONTAINER_ID, MIB, POD_UID, level};

    const UNKNOWN: Owner = Owner::Unknown { why: Why::MalformedId };

    /// A chain of names, innermost first; the level `full` has used up its limit, the others have room.
    fn chain(names: &[&str], full: usize) -> Kill {
        let mut kill = sample::kill();
        kill.cgroups = names.iter().map(|name| level(name, 100 * MIB, Some(900 * MIB))).collect();
        kill.cgroups[full].usage = Some(900 * MIB);
        kill.cgroup_path = Some(names.iter().rev().skip(1).fold(String::new(), |path, name| format!("{path}/{name}")));
        kill.trigger.cgroup_path = kill.cgroup_path.clone();
        kill
    }

    #[test]
    fn the_scope_is_the_level_that_is_full() {
        let uid_ = POD_UID.replace('-', "_");
        let pod_slice = format!("kubepods-burstable-pod{uid_}.slice");
        let kind_pod = format!("kubelet-kubepods-besteffort-pod{uid_}.slice");
        let scope = format!("cri-containerd-{CONTAINER_ID}.scope");
        let crio = format!("crio-{CONTAINER_ID}.scope");
        let pod_dir = format!("pod{POD_UID}");
        let colon = format!("{pod_slice}:cri-containerd:{CONTAINER_ID}");
        let systemd = [scope.as_str(), &pod_slice, "kubepods-burstable.slice", "kubepods.slice", ""];
        let crio = ["container", crio.as_str(), &pod_slice, "kubepods-burstable.slice", "kubepods.slice", ""];
        let cgroupfs = [CONTAINER_ID, &pod_dir, "burstable", "kubepods", ""];
        let kind = [
            scope.as_str(),
            &kind_pod,
            "kubelet-kubepods-besteffort.slice",
            "kubelet-kubepods.slice",
            "kubelet.slice",
            "",
        ];
        let rows: &[(&[&str], &[Scope])] = &[
            (&systemd, &[Scope::Container, Scope::Pod, Scope::Kubepods, Scope::Kubepods]),
            (&crio, &[Scope::Container, Scope::Container, Scope::Pod, Scope::Kubepods, Scope::Kubepods]),
            (&cgroupfs, &[Scope::Container, Scope::Pod, Scope::Kubepods, Scope::Kubepods]),
            (&kind, &[Scope::Container, Scope::Pod, Scope::Kubepods, Scope::Kubepods, Scope::Cgroup]),
            (
                &[&colon, "containerd.service", "podruntime.slice", ""],
                &[Scope::Container, Scope::Cgroup, Scope::Cgroup],
            ),
            (&["burstable", "nginx.service", "system.slice", ""], &[Scope::Cgroup, Scope::Cgroup, Scope::Cgroup]),
        ];
        for (names, scopes) in rows {
            for (full, scope) in scopes.iter().enumerate() {
                let kill = chain(names, full);
                assert_eq!(limit_hit(&kill, &sample::container("app")).0, *scope, "{} in {names:?}", names[full]);
            }
        }
        assert_eq!(limit_hit(&chain(&systemd, 1), &UNKNOWN).0, Scope::Pod, "a pod's slice says so by itself");
    }

    #[test]
    fn the_limit_is_the_one_of_the_level_that_is_full() {
        let names = [CONTAINER_ID, "pod8d6e2c1a-3f4b-4c5d-9e6f-7a8b9c0d1e2f", "kubepods", ""];
        let kill = chain(&names, 1);
        let path = Some(format!("/kubepods/pod{POD_UID}"));
        let hit = LimitHit {
            cgroup_id: kill.cgroups[1].id,
            cgroup_path: path,
            usage: Some(900 * MIB),
            limit: Some(900 * MIB),
        };
        assert_eq!(limit_hit(&kill, &sample::container("app")), (Scope::Pod, Some(hit), Some(Method::Headroom)));
    }

    #[test]
    fn of_equally_full_levels_the_innermost_is_hit() {
        let mut kill = chain(&[CONTAINER_ID, "kubepods", ""], 1);
        kill.cgroups[0].usage = kill.cgroups[0].limit;
        assert_eq!(limit_hit(&kill, &sample::container("app")).0, Scope::Container);
        kill.cgroups[0].usage = kill.cgroups[0].usage.map(|usage| usage - 1);
        assert_eq!(limit_hit(&kill, &sample::container("app")).0, Scope::Kubepods);
    }

    #[test]
    fn a_level_with_room_for_more_than_a_huge_page_is_not_hit() {
        let mut kill = chain(&["a.service", ""], 0);
        kill.cgroups[0].usage = Some(900 * MIB - SLACK);
        assert_eq!(limit_hit(&kill, &UNKNOWN).0, Scope::Cgroup);
        kill.cgroups[0].usage = Some(900 * MIB - SLACK - 1);
        assert_eq!(limit_hit(&kill, &UNKNOWN), (Scope::Unknown, None, None), "freed since, or the machine ran out");
    }

    #[test]
    fn a_limit_that_is_not_above_the_trigger_was_not_hit() {
        let check = |trigger: &str, cut: bool, expected: Scope| {
            let mut kill = chain(&["a.service", "a.slice", ""], 0);
            kill.cgroups[1].limit = None;
            (kill.trigger.cgroup_path, kill.trigger.path_cut) = (Some(trigger.to_owned()), cut);
            kill.cgroups[2].limit = None;
            assert_eq!(limit_hit(&kill, &UNKNOWN).0, expected, "{trigger}");
        };
        check("/a.slice/a.service", false, Scope::Cgroup);
        check("/a.slice/a.service/below", false, Scope::Cgroup);
        check("/a.slice/a.service2", false, Scope::Node);
        check("/b.slice", false, Scope::Node);
        check("/", false, Scope::Node);
        check("/b.slice", true, Scope::Cgroup);
    }

    #[test]
    fn a_limit_above_what_was_read_is_unknown() {
        let mut kill = chain(&["a", "b"], 0);
        for cgroup in &mut kill.cgroups {
            (cgroup.limit, kill.path_cut) = (None, true);
        }
        assert_eq!(limit_hit(&kill, &UNKNOWN), (Scope::Unknown, None, None));
    }

    #[test]
    fn what_cannot_be_read_is_unknown() {
        let mut kill = sample::without_names();
        let found = limit_hit(&kill, &Owner::Unknown { why: Why::NoPath });
        let hit = LimitHit {
            cgroup_id: kill.cgroups[0].id,
            cgroup_path: None,
            usage: Some(256 * MIB - 4096),
            limit: Some(256 * MIB),
        };
        assert_eq!(found, (Scope::Unknown, Some(hit), Some(Method::Headroom)), "the limit itself was read");
        for cgroup in &mut kill.cgroups {
            cgroup.usage = None;
        }
        assert_eq!(
            limit_hit(&kill, &UNKNOWN),
            (Scope::Unknown, None, None),
            "a limit whose use is not known is no sign that the machine ran out"
        );
        for cgroup in &mut kill.cgroups {
            (cgroup.limit, cgroup.limit_known) = (None, false);
        }
        assert_eq!(limit_hit(&kill, &UNKNOWN), (Scope::Unknown, None, None));
        for cgroup in &mut kill.cgroups {
            cgroup.limit_known = true;
        }
        assert_eq!(
            limit_hit(&kill, &UNKNOWN),
            (Scope::Node, None, Some(Method::Headroom)),
            "no limit, so none was hit"
        );
        kill.cgroups.clear();
        assert_eq!(limit_hit(&kill, &UNKNOWN), (Scope::Unknown, None, None));
    }

    fn member(pid: u32, milliseconds: u64) -> Kill {
        let mut kill = sample::kill_of(pid, 0);
        kill.time += Duration::from_millis(milliseconds);
        kill.cgroups[0].oom_group = Some(true);
        kill
    }

    #[test]
    fn the_kills_of_a_group_are_one_incident() {
        let (mut incidents, owner) = (Incidents::default(), sample::container("app"));
        let first = incidents.assign(&member(1, 0), &owner);
        let mut second = member(2, 1000);
        second.cgroups[0].usage = Some(0);
        assert_eq!(incidents.id(&second), first.id, "known before the owner is");
        let second = incidents.assign(&second, &owner);
        assert_eq!(first.kills, 1);
        assert_eq!(second, Incident { kills: 2, ..first }, "id, time, scope and limit are the first kill's");
    }

    #[test]
    fn the_kernels_number_tells_decisions_apart_though_their_kills_interleave() {
        let (mut incidents, owner) = (Incidents::default(), sample::container("app"));
        let mut kill = |pid: u32, number: u64| {
            let mut kill = member(pid, 0);
            kill.decision = Some(sample::decision(number, None));
            let incident = incidents.assign(&kill, &owner);
            (incident.id, incident.kills)
        };
        let told = [(1, 7), (2, 8), (3, 7), (4, 8), (5, 9)].map(|(pid, number)| kill(pid, number));
        let [one, two, five] = [1, 2, 5].map(sample::id);
        assert_eq!(told, [(one, 1), (two, 1), (one, 2), (two, 2), (five, 1)]);
    }

    #[test]
    fn other_kills_are_decisions_of_their_own() {
        let check = |what: &str, other: Kill| {
            let (mut incidents, owner) = (Incidents::default(), sample::container("app"));
            incidents.assign(&member(1, 0), &owner);
            let before = incidents.id(&other);
            let incident = incidents.assign(&other, &owner);
            assert_eq!((before, incident.id, incident.kills), (other.id, other.id, 1), "{what}");
        };
        check("later than a second", member(2, 1001));
        let mut other = member(2, 1);
        other.trigger.tid += 1;
        check("another thread", other);
        let mut other = member(2, 1);
        other.cgroups[0].id = Some(1);
        check("another cgroup", other);
        check("no group", sample::kill_of(2, 0));
    }

    #[test]
    fn without_a_group_each_kill_is_an_incident() {
        let (mut incidents, owner) = (Incidents::default(), sample::container("app"));
        let ids: Vec<_> = (1..4)
            .map(|pid| incidents.assign(&sample::kill_of(pid, 0), &owner))
            .map(|incident| (incident.id, incident.kills))
            .collect();
        assert_eq!(ids, [(sample::id(1), 1), (sample::id(2), 1), (sample::id(3), 1)]);
    }

    #[test]
    fn a_group_is_recognised_by_its_path_if_it_has_no_inode() {
        let (mut incidents, owner) = (Incidents::default(), sample::container("app"));
        let mut kills = [member(1, 0), member(2, 0)];
        for kill in &mut kills {
            kill.cgroups[0].id = None;
        }
        assert_eq!(kills.map(|kill| incidents.assign(&kill, &owner).kills), [1, 2]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut incidents = Incidents::default();
        for pid in 0..100 {
            let mut kill = member(pid, 0);
            kill.trigger.pid = pid;
            incidents.assign(&kill, &UNKNOWN);
        }
        assert_eq!(incidents.groups.len(), REMEMBERED);
        let check = |incidents: &mut Incidents, trigger: u32, kills: u32| {
            let mut late = member(200, 0);
            late.trigger.pid = trigger;
            assert_eq!(incidents.assign(&late, &UNKNOWN).kills, kills, "triggered by {trigger}");
        };
        let oldest = 100 - REMEMBERED as u32;
        check(&mut incidents, 99, 2);
        check(&mut incidents, oldest, 2);
        check(&mut incidents, oldest - 1, 1);
    }
}
