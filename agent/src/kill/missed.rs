//! Kills that nobody saw: the kernel's counters tell that they happened, and nothing else.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::KillId;

/// Why nobody saw a kill that the kernel counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// No probe was attached.
    Away,
    /// The probe saw it, but its event did not reach the agent: there was no room, or it was not understood.
    Dropped,
    /// The probe was attached and did not see it.
    Unexplained,
}

impl Missed {
    /// All of them, in the order in which kills are blamed on them.
    pub const ALL: [Self; 3] = [Self::Away, Self::Dropped, Self::Unexplained];

    /// The value in metrics and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Away => "away",
            Self::Dropped => "dropped",
            Self::Unexplained => "unexplained",
        }
    }
}

/// Kills of one cgroup that nobody saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissedKills {
    /// The inode number of the cgroup's directory.
    pub cgroup_id: u64,
    /// Its path from the root of the memory hierarchy.
    pub cgroup_path: String,
    /// They were not in this cgroup, but in some below it that are gone: it is the nearest that is left.
    pub removed: bool,
    /// Which of the kernel's kills there the first of these is, from 1. The same whenever the same kills are found
    /// again.
    pub first: u64,
    /// How many.
    pub number: u64,
    /// Why nobody saw them.
    pub why: Missed,
    /// The kernel counts the first victim of a group kill twice (`memory.oom.group`), and this kernel (v2 before 5.17)
    /// does not tell how many group kills there were: the number may be too high by one for each.
    pub may_repeat: bool,
}

impl MissedKills {
    /// The id of the kill with this place among them, from 0.
    pub fn id(&self, boot: Uuid, place: u64) -> KillId {
        let below = if self.removed { "below/" } else { "" };
        let nth = self.first.saturating_add(place);
        KillId(Uuid::new_v5(&boot, format!("missed/{below}{}/{nth}", self.cgroup_id).as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_missed_kill_has_an_id_of_its_own_that_stays() {
        let kills = MissedKills {
            cgroup_id: 7,
            cgroup_path: "/a".to_owned(),
            removed: false,
            first: 3,
            number: 2,
            why: Missed::Away,
            may_repeat: false,
        };
        let boot = Uuid::from_u128(1);
        let others = [
            kills.clone(),
            MissedKills { removed: true, ..kills.clone() },
            MissedKills { cgroup_id: 8, ..kills.clone() },
            MissedKills { first: 5, ..kills.clone() },
        ];
        let ids: BTreeSet<Uuid> = others.iter().flat_map(|kills| [kills.id(boot, 0).0, kills.id(boot, 1).0]).collect();
        assert_eq!(ids.len(), 8);
        let later = MissedKills { cgroup_path: "/b".to_owned(), first: 4, why: Missed::Dropped, ..kills.clone() };
        assert_eq!(later.id(boot, 0), kills.id(boot, 1), "the same kill of the same cgroup, found again");
        assert_ne!(kills.id(Uuid::from_u128(2), 0), kills.id(boot, 0));
    }
}
