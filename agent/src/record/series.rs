//! The bounded table of counts, one row per owner, from which the metrics are made.
//!
//! A kill is counted exactly once and never moves. At the bound, new owners share one row: the overflow.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::kill::{Incident, Kill, KillId, Memory, Owner, Scope};

/// Characters of a container's id that stand for its name.
const SHORT_ID: usize = 12;

/// The container of the overflow series. No Kubernetes container is called so: their names have no underscore.
pub const OVERFLOW: &str = "_overflow_";

/// Bounds of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Owners that have series of their own.
    pub owners: usize,
    /// How long an owner without kills keeps its series.
    pub expiry: Duration,
}

/// What tells the series of one owner from those of another. Here, and only here, what is not known is empty: Prometheus has no absent labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels {
    /// The pod's namespace; empty outside of Kubernetes, or if the pod's names are not known.
    pub namespace: String,
    /// The pod's name; empty as the namespace is.
    pub pod: String,
    /// The container's name or the first 12 characters of its id, the unit's name, or empty.
    pub container: String,
}

impl Labels {
    /// The labels of an owner.
    pub fn of(owner: &Owner) -> Self {
        match owner {
            Owner::Kubernetes(owner) => {
                let id = owner.container_id.as_deref().map(short_id);
                let Some(names) = &owner.names else {
                    return Self::container(id.unwrap_or_default());
                };
                let container = names.container.as_deref().or(id).unwrap_or_default().to_owned();
                Self { namespace: names.namespace.clone(), pod: names.pod.clone(), container }
            }
            Owner::Container { id, .. } => Self::container(short_id(id)),
            Owner::Unit { name } => Self::container(name),
            Owner::Unknown { .. } => Self::default(),
        }
    }

    /// The labels of the series that count the kills of all owners without room: empty but for the container, [`OVERFLOW`].
    pub fn overflow() -> Self {
        Self::container(OVERFLOW)
    }

    fn container(name: &str) -> Self {
        Self { container: name.to_owned(), ..Self::default() }
    }
}

/// The first 12 characters of a container's id.
pub(super) fn short_id(id: &str) -> &str {
    id.get(..SHORT_ID).unwrap_or(id)
}

/// The counts of one owner.
#[derive(Clone, Debug, PartialEq)]
pub struct Counts {
    /// Processes killed.
    pub kills: u64,
    /// Decisions of the OOM killer by whose limit was hit. One with several victims counts for the owner of the first.
    pub incidents: BTreeMap<Scope, u64>,
    /// What the largest victim of the last incident used.
    pub memory: Memory,
    /// The limit that was hit at the last incident, bytes. Absent if none was, or unknown.
    pub limit: Option<u64>,
    /// When the last one was killed.
    pub last_kill: SystemTime,
    last_incident: (SystemTime, KillId),
}

impl Counts {
    fn new(kill: &Kill, incident: &Incident) -> Self {
        let mut counts = Self {
            kills: 0,
            incidents: BTreeMap::new(),
            memory: kill.victim.memory,
            limit: incident.limit.as_ref().and_then(|hit| hit.limit),
            last_kill: kill.time,
            last_incident: (incident.time, incident.id),
        };
        counts.add(kill, incident);
        counts
    }

    fn add(&mut self, kill: &Kill, incident: &Incident) {
        self.kills = self.kills.saturating_add(1);
        if kill.id == incident.id {
            let decisions = self.incidents.entry(incident.scope).or_default();
            *decisions = decisions.saturating_add(1);
        }
        // Kills that waited for their owner may come late: what they say of the past must not overwrite what came after.
        self.last_kill = self.last_kill.max(kill.time);
        let (time, id) = self.last_incident;
        if id == incident.id {
            if kill.victim.memory.resident() > self.memory.resident() {
                self.memory = kill.victim.memory;
            }
        } else if incident.time >= time {
            self.memory = kill.victim.memory;
            self.limit = incident.limit.as_ref().and_then(|hit| hit.limit);
            self.last_incident = (incident.time, incident.id);
        }
    }
}

/// The counts of all owners.
#[derive(Debug)]
pub struct Table {
    limits: Limits,
    owners: BTreeMap<Labels, Counts>,
    overflow: Option<Counts>,
}

impl Table {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        Self { limits, owners: BTreeMap::new(), overflow: None }
    }

    /// Counts a kill for its owner, or on the overflow if the owner has no series yet and there is no room even without the expired ones.
    ///
    /// An owner that got no room is tried again at its next kill. What was counted on the overflow stays there.
    pub fn record(&mut self, kill: &Kill, owner: &Owner, incident: &Incident) {
        let labels = Labels::of(owner);
        if let Some(counts) = self.owners.get_mut(&labels) {
            return counts.add(kill, incident);
        }
        if self.owners.len() >= self.limits.owners {
            self.expire(kill.time);
        }
        if self.owners.len() < self.limits.owners {
            self.owners.insert(labels, Counts::new(kill, incident));
        } else if let Some(counts) = &mut self.overflow {
            counts.add(kill, incident);
        } else {
            self.overflow = Some(Counts::new(kill, incident));
        }
    }

    /// Removes the owners that had no kill for longer than the expiry. The overflow stays.
    pub fn expire(&mut self, now: SystemTime) {
        let expiry = self.limits.expiry;
        // A kill in the future, after the clock was set back, is no reason to remove anything.
        self.owners.retain(|_, counts| now.duration_since(counts.last_kill).map_or(true, |age| age <= expiry));
    }

    /// Every owner's counts in the order of their labels, then the overflow's if there is any.
    pub fn rows(&self) -> impl Iterator<Item = (Labels, &Counts)> {
        let overflow = self.overflow.iter().map(|counts| (Labels::overflow(), counts));
        self.owners.iter().map(|(labels, counts)| (labels.clone(), counts)).chain(overflow)
    }

    /// Owners that have series of their own.
    pub fn len(&self) -> usize {
        self.owners.len()
    }

    /// Whether no owner has.
    pub fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }

    /// Kills that were counted on the overflow.
    pub fn overflow_kills(&self) -> u64 {
        self.overflow.as_ref().map_or(0, |counts| counts.kills)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use super::*;
    use crate::kill::{KubernetesOwner, LimitHit, PodNames, Why};
    use crate::record::sample::{self, CONTAINER_ID, MIB};

    const HOUR: Duration = Duration::from_secs(3600);

    fn table(owners: usize) -> Table {
        Table::new(Limits { owners, expiry: HOUR })
    }

    fn record(table: &mut Table, kill: &Kill, owner: &Owner) {
        table.record(kill, owner, &sample::incident(kill, owner));
    }

    fn counts(table: &Table, owner: &Owner) -> Option<Counts> {
        table.rows().find(|(labels, _)| *labels == Labels::of(owner)).map(|(_, counts)| counts.clone())
    }

    fn kills(table: &Table) -> Vec<(String, u64)> {
        table.rows().map(|(labels, counts)| (labels.container, counts.kills)).collect()
    }

    #[test]
    fn labels_are_those_of_the_contract() {
        let check = |owner: Owner, namespace: &str, pod: &str, container: &str| {
            let labels = Labels { namespace: namespace.to_owned(), pod: pod.to_owned(), container: container.to_owned() };
            assert_eq!(Labels::of(&owner), labels, "{owner:?}");
        };
        let names = |container: Option<&str>| {
            Some(PodNames { namespace: "shop".to_owned(), pod: "web-1".to_owned(), container: container.map(str::to_owned) })
        };
        check(sample::container("app"), "shop", "web-1", "app");
        check(Owner::Kubernetes(KubernetesOwner { names: names(None), ..sample::kubernetes() }), "shop", "web-1", "5c1b9a3b1f0d");
        let pod_level = KubernetesOwner { names: names(None), container_id: None, ..sample::kubernetes() };
        check(Owner::Kubernetes(pod_level), "shop", "web-1", "");
        check(Owner::Kubernetes(sample::kubernetes()), "", "", "5c1b9a3b1f0d");
        check(Owner::Container { runtime: None, id: CONTAINER_ID.to_owned() }, "", "", "5c1b9a3b1f0d");
        check(Owner::Container { runtime: None, id: "short".to_owned() }, "", "", "short");
        check(Owner::Unit { name: "nginx.service".to_owned() }, "", "", "nginx.service");
        check(Owner::Unknown { why: Why::NoPath }, "", "", "");
    }

    #[test]
    fn kills_and_incidents_are_counted_per_owner() {
        let (mut table, app, db) = (table(9), sample::container("app"), sample::container("db"));
        record(&mut table, &sample::kill_of(1, 0), &app);
        let mut node = sample::kill_of(2, 5);
        sample::node_out_of_memory(&mut node);
        record(&mut table, &node, &app);
        record(&mut table, &sample::kill_of(3, 9), &db);
        assert_eq!(kills(&table), [("app".to_owned(), 2), ("db".to_owned(), 1)]);
        let app = counts(&table, &app).unwrap();
        assert_eq!(app.incidents, BTreeMap::from([(Scope::Container, 1), (Scope::Node, 1)]));
        assert_eq!((app.last_kill, app.limit), (sample::time(5), None), "the last incident hit no limit");
    }

    #[test]
    fn a_group_kill_is_n_kills_and_one_incident() {
        let (mut table, app, db) = (table(9), sample::container("app"), sample::container("db"));
        let first = sample::kill_of(1, 0);
        record(&mut table, &first, &app);
        for pid in 2..5 {
            table.record(&sample::kill_of(pid, 0), &app, &sample::second_of(&first));
        }
        table.record(&sample::kill_of(9, 0), &db, &sample::second_of(&first));
        assert_eq!(counts(&table, &app).map(|counts| (counts.kills, counts.incidents)), Some((4, BTreeMap::from([(Scope::Container, 1)]))));
        assert_eq!(counts(&table, &db).map(|counts| (counts.kills, counts.incidents)), Some((1, BTreeMap::new())), "counted once in all");
    }

    #[test]
    fn the_memory_is_that_of_the_largest_victim_of_the_last_incident() {
        let (mut table, owner) = (table(9), sample::container("app"));
        let with = |pid, seconds, anon| {
            let mut kill = sample::kill_of(pid, seconds);
            kill.victim.memory = anon;
            kill
        };
        let first = with(1, 0, sample::memory(100));
        record(&mut table, &first, &owner);
        let check = |table: &Table, expected: Memory, why: &str| assert_eq!(counts(table, &owner).unwrap().memory, expected, "{why}");
        table.record(&with(2, 0, sample::memory(200)), &owner, &sample::second_of(&first));
        check(&table, sample::memory(200), "the peak, though it was not the first");
        table.record(&with(3, 0, sample::memory(50)), &owner, &sample::second_of(&first));
        check(&table, sample::memory(200), "a smaller victim of the same incident");
        table.record(&with(4, 0, Memory::default()), &owner, &sample::second_of(&first));
        check(&table, sample::memory(200), "one of unknown size");
        record(&mut table, &with(5, 1, sample::memory(10)), &owner);
        check(&table, sample::memory(10), "another incident");
        table.record(&with(6, 0, sample::memory(300)), &owner, &sample::second_of(&first));
        check(&table, sample::memory(10), "a late one of an earlier incident");
        assert_eq!(counts(&table, &owner).map(|counts| (counts.kills, counts.last_kill)), Some((6, sample::time(1))));
    }

    #[test]
    fn the_limit_is_that_of_the_last_incident() {
        let (mut table, owner) = (table(9), sample::container("app"));
        record(&mut table, &sample::kill_of(1, 0), &owner);
        assert_eq!(counts(&table, &owner).unwrap().limit, Some(256 * MIB));
        let kill = sample::kill_of(2, 1);
        let hit = LimitHit { cgroup_id: None, cgroup_path: None, usage: Some(5), limit: Some(6) };
        table.record(&kill, &owner, &Incident { limit: Some(hit), ..sample::incident(&kill, &owner) });
        assert_eq!(counts(&table, &owner).unwrap().limit, Some(6));
    }

    #[test]
    fn at_the_bound_new_owners_share_the_overflow_and_none_is_evicted() {
        let mut table = table(2);
        for (pid, owner) in ["a", "b", "c", "d", "a", "c"].iter().enumerate() {
            record(&mut table, &sample::kill_of(pid as u32, pid as u64), &sample::container(owner));
        }
        assert_eq!(kills(&table), [("a".to_owned(), 2), ("b".to_owned(), 1), (OVERFLOW.to_owned(), 3)]);
        assert_eq!((table.len(), table.overflow_kills()), (2, 3));
    }

    #[test]
    fn an_expired_owner_makes_room_and_the_overflow_keeps_its_kills() {
        let (mut table, a, b) = (table(1), sample::container("a"), sample::container("b"));
        record(&mut table, &sample::kill_of(1, 0), &a);
        record(&mut table, &sample::kill_of(2, 3600), &b);
        assert_eq!(kills(&table), [("a".to_owned(), 1), (OVERFLOW.to_owned(), 1)], "an hour is not longer than an hour");
        record(&mut table, &sample::kill_of(3, 3601), &b);
        assert_eq!(kills(&table), [("b".to_owned(), 1), (OVERFLOW.to_owned(), 1)]);
    }

    #[test]
    fn only_owners_without_recent_kills_expire() {
        let (mut table, a, b) = (table(9), sample::container("a"), sample::container("b"));
        record(&mut table, &sample::kill_of(1, 0), &a);
        record(&mut table, &sample::kill_of(2, 0), &b);
        record(&mut table, &sample::kill_of(3, 60), &b);
        table.expire(sample::time(3601));
        assert_eq!(kills(&table), [("b".to_owned(), 2)]);
        table.expire(sample::time(0));
        assert_eq!(kills(&table), [("b".to_owned(), 2)], "the clock was set back");
        table.expire(sample::time(9999));
        assert!(table.is_empty());
    }

    #[test]
    fn no_kill_is_lost_without_any_room() {
        let mut table = table(0);
        for pid in 0..5 {
            record(&mut table, &sample::kill_of(pid, 0), &sample::container("a"));
        }
        assert_eq!(kills(&table), [(OVERFLOW.to_owned(), 5)]);
        table.expire(sample::time(99_999));
        assert_eq!(table.overflow_kills(), 5, "the overflow never expires");
    }
}
