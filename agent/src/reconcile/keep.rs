//! What is saved of an account, whole or as what has changed, so that a save after a kill is cheap.
//!
//! Kills that were seen and are not handled yet are left out: the events of such kills are read again by the next
//! agent.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::places::Known;
use super::{Account, Numbers, ProbeCounts};
use crate::kill::Kill;

/// What is to be saved.
#[derive(Clone, Debug, PartialEq)]
pub enum Kept {
    /// All of it.
    Whole(Box<Account>),
    /// What has changed since the account was kept before.
    Change(Change),
}

/// What has changed in an account. Values, not differences: applying it twice is the same as once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    node: Option<u64>,
    probe: ProbeCounts,
    away: bool,
    open: Numbers,
    repeats: u64,
    complete: bool,
    look: bool,
    cgroups: BTreeMap<u64, Known>,
}

/// Which cgroups of an account differ from what was saved last.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Unsaved {
    /// All, and cgroups may be gone.
    #[default]
    All,
    /// These.
    Cgroups(BTreeSet<u64>),
}

impl Unsaved {
    pub(super) fn add(&mut self, id: u64) {
        if let Self::Cgroups(ids) = self {
            ids.insert(id);
        }
    }
}

impl Account {
    /// What is to be saved now. `waiting` are the kills that were [`seen`](Self::seen) and are not handled. `whole`:
    /// all of it, even if a change would do.
    pub fn keep<'a>(&mut self, waiting: impl Iterator<Item = &'a Kill>, whole: bool) -> Kept {
        let unseen = unseen(waiting);
        let saved = |id: u64, known: &Known| match unseen.get(&id) {
            Some((own, subtree)) => known.without(*own, *subtree),
            None => *known,
        };
        // What is saved without them differs from what is known for as long as they wait.
        let differ = unseen.keys().copied().filter(|id| self.cgroups.contains_key(id)).collect();
        match std::mem::replace(&mut self.unsaved, Unsaved::Cgroups(differ)) {
            Unsaved::Cgroups(ids) if !whole => {
                let known = ids.into_iter().filter_map(|id| Some((id, saved(id, self.cgroups.get(&id)?))));
                Kept::Change(Change {
                    node: self.node,
                    probe: self.probe,
                    away: self.away,
                    open: self.open,
                    repeats: self.repeats,
                    complete: self.complete,
                    look: self.look,
                    cgroups: known.collect(),
                })
            }
            _ => {
                let mut whole = Self { last: None, unsaved: Unsaved::All, ..self.clone() };
                for (id, (own, subtree)) in &unseen {
                    if let Some(known) = whole.cgroups.get_mut(id) {
                        *known = known.without(*own, *subtree);
                    }
                }
                Kept::Whole(Box::new(whole))
            }
        }
    }

    /// Makes the change that another account was kept with after this one.
    pub fn apply(&mut self, change: Change) {
        let Change { node, probe, away, open, repeats, complete, look, cgroups } = change;
        (self.node, self.probe, self.away, self.open) = (node, probe, away, open);
        (self.repeats, self.complete, self.look) = (repeats, complete, look);
        self.cgroups.extend(cgroups);
        self.unsaved = Unsaved::All;
    }
}

/// By the id of a cgroup: how many of these kills were in it, and in it or below it.
fn unseen<'a>(waiting: impl Iterator<Item = &'a Kill>) -> BTreeMap<u64, (u64, u64)> {
    let mut unseen: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for kill in waiting {
        for (level, id) in kill.cgroups.iter().enumerate().filter_map(|(level, cgroup)| Some((level, cgroup.id?))) {
            let (own, subtree) = unseen.entry(id).or_default();
            *own += u64::from(level == 0);
            *subtree += 1;
        }
    }
    unseen
}
