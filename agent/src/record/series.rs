//! The bounded table of counts, one row per owner, from which the metrics are made.
//!
//! A kill is counted exactly once and never moves. At the bound, new owners share one row: the overflow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::attributes::container_survived;
use crate::kill::{Incident, Kill, Owner, Scope};
pub use counts::Counts;
pub use saved::{Rows, Snapshot};

mod counts;
mod saved;

/// Characters of a container's id that stand for its name.
const SHORT_ID: usize = 12;

/// The container of the overflow series. No Kubernetes container is called so: their names have no underscore.
pub const OVERFLOW: &str = "_overflow_";

/// How long an owner keeps its series that had no kill and is not there any more: a kill of its last moments may still
/// be read, and no longer, so that containers that come and go do not fill the table.
const GONE: Duration = Duration::from_secs(600);

/// Bounds of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Owners that have series of their own.
    pub owners: usize,
    /// How long an owner without kills keeps its series.
    pub expiry: Duration,
    /// What a container has before its first kill.
    pub from_zero: FromZero,
}

/// Which series a container that is known has at 0 before its first kill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FromZero {
    /// None.
    Nothing,
    /// The count of its kills.
    #[default]
    Kills,
    /// That, and its incidents with each scope of [`EXPECTED_SCOPES`].
    Incidents,
}

/// Whose limit may be hit when a container of a pod is killed, as nodes are set up.
pub const EXPECTED_SCOPES: [Scope; 4] = [Scope::Container, Scope::Pod, Scope::Kubepods, Scope::Node];

/// What tells the series of one owner from those of another. Here, and only here, what is not known is empty:
/// Prometheus has no absent labels.
///
/// Shared texts: each scrape and each export makes several attribute sets of them for each instrument.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Labels {
    /// The pod's namespace; empty outside of Kubernetes, or if the pod's names are not known.
    pub namespace: Arc<str>,
    /// The pod's name; empty as the namespace is.
    pub pod: Arc<str>,
    /// The container's name or the first 12 characters of its id, the unit's name, or empty.
    pub container: Arc<str>,
}

impl Labels {
    /// The labels of an owner.
    pub fn of(owner: &Owner) -> Self {
        match owner {
            Owner::Kubernetes(owner) => {
                let id = owner.container_id.as_deref().map(short_id);
                let Some(pod) = &owner.pod else {
                    return Self::container(id.unwrap_or_default());
                };
                let container =
                    owner.container().map(|container| container.name.as_str()).or(id).unwrap_or_default().into();
                Self { namespace: pod.namespace.as_str().into(), pod: pod.name.as_str().into(), container }
            }
            Owner::Container { id, .. } => Self::container(short_id(id)),
            Owner::Unit { name } => Self::container(name),
            Owner::Unknown { .. } => Self::default(),
        }
    }

    /// The labels of the series that count the kills of all owners without room: empty but for the container,
    /// [`OVERFLOW`].
    pub fn overflow() -> Self {
        Self::container(OVERFLOW)
    }

    fn container(name: &str) -> Self {
        Self { container: name.into(), ..Self::default() }
    }
}

/// The first 12 characters of a container's id.
pub(super) fn short_id(id: &str) -> &str {
    id.get(..SHORT_ID).unwrap_or(id)
}

/// The counts of all owners.
#[derive(Debug)]
pub struct Table {
    limits: Limits,
    owners: BTreeMap<Labels, Counts>,
    overflow: Option<Counts>,
    /// Owners whose kills differ from what was saved last, gone ones among them. The overflow is always saved.
    unsaved: BTreeSet<Labels>,
}

impl Table {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        Self { limits, owners: BTreeMap::new(), overflow: None, unsaved: BTreeSet::new() }
    }

    /// Counts a kill for its owner, or on the overflow if the owner has no series yet and there is no room even without
    /// the expired ones.
    ///
    /// An owner that got no room is tried again at its next kill. What was counted on the overflow stays there.
    pub fn record(&mut self, kill: &Kill, owner: &Owner, incident: &Incident) {
        let survived = container_survived(kill, owner) == Some(true);
        self.counts(Labels::of(owner), kill.time).add(kill, incident, survived);
    }

    /// Counts kills that nobody saw and that were `found` in the kernel's counters. Nothing else is known of them:
    /// memory, limit, incidents and the time of the last kill stay as they are.
    pub fn record_reconstructed(&mut self, kills: u64, owner: &Owner, found: SystemTime) {
        self.counts(Labels::of(owner), found).add_reconstructed(kills, found);
    }

    fn counts(&mut self, labels: Labels, now: SystemTime) -> &mut Counts {
        if !self.owners.contains_key(&labels) && self.owners.len() >= self.limits.owners {
            self.expire(now);
            if self.owners.len() >= self.limits.owners {
                // Any row at 0: a kill comes first.
                self.give_room(1, None);
            }
        }
        if self.owners.len() < self.limits.owners || self.owners.contains_key(&labels) {
            self.unsaved.insert(labels.clone());
            self.owners.entry(labels).or_insert_with(|| Counts::new(now))
        } else {
            self.overflow.get_or_insert_with(|| Counts::new(now))
        }
    }

    /// Gives each of these containers (namespace, pod, name) its series, from 0 as configured, so that its first kill
    /// is an increase; and those that it has stay for as long as it is expected time and again. Where there is no room,
    /// series at 0 of containers that are gone give way, those with kills do not.
    pub fn ensure<'a>(&mut self, containers: impl Iterator<Item = (&'a str, &'a str, &'a str)>, now: SystemTime) {
        let from_zero = self.limits.from_zero;
        let mut new = Vec::new();
        for (namespace, pod, container) in containers {
            let labels = Labels { namespace: namespace.into(), pod: pod.into(), container: container.into() };
            match self.owners.get_mut(&labels) {
                Some(counts) => counts.expected(now, from_zero),
                None if from_zero == FromZero::Nothing => {}
                None => new.push(labels),
            }
        }
        let room = self.limits.owners.saturating_sub(self.owners.len());
        if new.len() > room {
            self.give_room(new.len() - room, Some(now));
        }
        for labels in new {
            if self.owners.len() >= self.limits.owners {
                return;
            }
            self.owners.entry(labels).or_insert_with(|| Counts::new(now)).expected(now, from_zero);
        }
    }

    /// Removes up to so many rows that say 0, those first that have not been expected for longest; none that are
    /// expected `now`.
    fn give_room(&mut self, rows: usize, now: Option<SystemTime>) {
        let idle =
            self.owners.iter().filter(|(_, counts)| counts.kills == 0 && now.is_none_or(|now| counts.last_told < now));
        let mut idle: Vec<_> = idle.map(|(labels, counts)| (counts.last_told, labels.clone())).collect();
        idle.sort();
        idle.iter().take(rows).for_each(|(_, labels)| {
            self.owners.remove(labels);
        });
    }

    /// Removes the owners that had no kill for longer than the expiry, and those that are gone and never had one. The
    /// overflow stays.
    pub fn expire(&mut self, now: SystemTime) {
        let expiry = self.limits.expiry;
        let keeps = |counts: &Counts| if counts.kills == 0 { GONE.min(expiry) } else { expiry };
        // A kill in the future, after the clock was set back, is no reason to remove anything.
        let unsaved = &mut self.unsaved;
        self.owners.retain(|labels, counts| {
            let stays = now.duration_since(counts.last_told).map_or(true, |age| age <= keeps(counts));
            if !stays && counts.kills > 0 {
                unsaved.insert(labels.clone());
            }
            stays
        });
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
mod tests;
