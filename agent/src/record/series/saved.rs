//! What of the table outlives the agent: whole, or the rows that have changed.
//!
//! Only rows with kills: the others are there again as soon as their containers are known.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Counts, Labels, Table};

/// All that a [`Table`] counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Pairs", into = "Pairs")]
pub struct Snapshot {
    owners: BTreeMap<Labels, Counts>,
    overflow: Option<Counts>,
}

/// The rows of a [`Table`] that have changed since they were saved. Values, not differences: applying it twice is the
/// same as once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rows {
    /// Without counts: the row is gone.
    pub(super) owners: Vec<(Labels, Option<Counts>)>,
    /// Absent if there is none.
    overflow: Option<Counts>,
}

/// A snapshot as it is written: the names of members are texts only.
#[derive(Serialize, Deserialize)]
struct Pairs {
    owners: Vec<(Labels, Counts)>,
    overflow: Option<Counts>,
}

impl From<Pairs> for Snapshot {
    fn from(pairs: Pairs) -> Self {
        Self { owners: pairs.owners.into_iter().collect(), overflow: pairs.overflow }
    }
}

impl From<Snapshot> for Pairs {
    fn from(snapshot: Snapshot) -> Self {
        Self { owners: snapshot.owners.into_iter().collect(), overflow: snapshot.overflow }
    }
}

impl Snapshot {
    /// Makes the changes of a table that was saved as this.
    pub fn apply(&mut self, rows: Rows) {
        for (labels, counts) in rows.owners {
            match counts {
                Some(counts) => self.owners.insert(labels, counts),
                None => self.owners.remove(&labels),
            };
        }
        self.overflow = rows.overflow;
    }
}

impl Table {
    /// All that was counted so far. It is taken to be saved.
    pub fn snapshot(&mut self) -> Snapshot {
        self.unsaved.clear();
        let killed = self.owners.iter().filter(|(_, counts)| counts.kills > 0);
        let owners = killed.map(|(labels, counts)| (labels.clone(), counts.clone())).collect();
        Snapshot { owners, overflow: self.overflow.clone() }
    }

    /// What has changed since the last time, or since the last [`snapshot`](Self::snapshot). It is taken to be saved.
    ///
    /// When an owner was last expected is no change: a snapshot has it.
    pub fn changes(&mut self) -> Rows {
        let row = |labels: Labels| {
            let counts = self.owners.get(&labels).filter(|counts| counts.kills > 0).cloned();
            (labels, counts)
        };
        let owners = std::mem::take(&mut self.unsaved).into_iter().map(row).collect();
        Rows { owners, overflow: self.overflow.clone() }
    }

    /// Goes on with what another table counted, before anything is counted here. Expired owners are left out. Of those
    /// that do not fit in, the ones that were killed last get their series, the others' counts are added to the
    /// overflow.
    pub fn restore(&mut self, snapshot: Snapshot, now: SystemTime) {
        let mut owners: Vec<_> = snapshot.owners.into_iter().collect();
        owners.sort_by_key(|(_, counts)| std::cmp::Reverse(counts.last_told));
        let rest = owners.split_off(owners.len().min(self.limits.owners));
        self.owners = owners.into_iter().collect();
        self.overflow = snapshot.overflow;
        self.expire(now);
        let owners = rest.into_iter().collect();
        let mut left_out = Self { limits: self.limits, owners, overflow: None, unsaved: BTreeSet::new() };
        left_out.expire(now);
        for counts in left_out.owners.values() {
            self.overflow.get_or_insert_with(|| Counts::new(counts.last_told)).merge(counts);
        }
    }
}
