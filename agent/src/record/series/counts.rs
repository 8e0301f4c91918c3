//! The counts of one owner, and what each kill adds to them.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{EXPECTED_SCOPES, FromZero};
use crate::kill::{Incident, Kill, KillId, Memory, Scope};

/// The counts of one owner.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// When the first of them was counted, or the owner was known: its series are at 0 since then. Absent if an agent
    /// before version 2 of the state counted it.
    #[serde(default)]
    pub since: Option<SystemTime>,
    /// Processes killed.
    pub kills: u64,
    /// Of these, the ones that their container survived, as far as it can be told.
    #[serde(default)]
    pub survived: u64,
    /// Decisions of the OOM killer by whose limit was hit. One with several victims counts for the owner of the first.
    pub incidents: BTreeMap<Scope, u64>,
    /// What the largest victim of the last incident used.
    pub memory: Memory,
    /// The limit that was hit at the last incident, bytes. Absent if none was, or unknown.
    pub limit: Option<u64>,
    /// When the last one was killed. Absent if nobody saw any of them: they are
    /// [reconstructed](super::Table::record_reconstructed).
    pub last_kill: Option<SystemTime>,
    /// When the last one was killed or found, or the owner was there.
    pub(super) last_told: SystemTime,
    last_incident: Option<(SystemTime, KillId)>,
}

impl Counts {
    /// Without kills so far, born at `time`.
    pub(super) fn new(time: SystemTime) -> Self {
        Self {
            since: Some(time),
            kills: 0,
            survived: 0,
            incidents: BTreeMap::new(),
            memory: Memory::default(),
            limit: None,
            last_kill: None,
            last_told: time,
            last_incident: None,
        }
    }

    pub(super) fn add(&mut self, kill: &Kill, incident: &Incident, survived: bool) {
        self.kills = self.kills.saturating_add(1);
        self.survived = self.survived.saturating_add(u64::from(survived));
        if kill.id == incident.id {
            let decisions = self.incidents.entry(incident.scope).or_default();
            *decisions = decisions.saturating_add(1);
        }
        // Kills that waited for their owner may come late: what they say of the past must not overwrite what came
        // after.
        self.last_kill = self.last_kill.max(Some(kill.time));
        self.last_told = self.last_told.max(kill.time);
        match self.last_incident {
            Some((_, id)) if id == incident.id => {
                if kill.victim.memory.resident() > self.memory.resident() {
                    self.memory = kill.victim.memory;
                }
            }
            Some((time, _)) if incident.time < time => {}
            _ => {
                self.memory = kill.victim.memory;
                self.limit = incident.limit.as_ref().and_then(|hit| hit.limit);
                self.last_incident = Some((incident.time, incident.id));
            }
        }
    }

    /// The owner is there, and has this at 0 if it has no more.
    pub(super) fn expected(&mut self, now: SystemTime, from_zero: FromZero) {
        self.last_told = self.last_told.max(now);
        if from_zero == FromZero::Incidents {
            for scope in EXPECTED_SCOPES {
                self.incidents.entry(scope).or_default();
            }
        }
    }

    pub(super) fn add_reconstructed(&mut self, kills: u64, found: SystemTime) {
        self.kills = self.kills.saturating_add(kills);
        self.last_told = self.last_told.max(found);
    }

    /// Adds the counts of another owner, as the overflow does.
    pub(super) fn merge(&mut self, other: &Self) {
        self.since = self.since.zip(other.since).map(|(own, other)| own.min(other));
        self.kills = self.kills.saturating_add(other.kills);
        self.survived = self.survived.saturating_add(other.survived);
        for (scope, more) in &other.incidents {
            let decisions = self.incidents.entry(*scope).or_default();
            *decisions = decisions.saturating_add(*more);
        }
        if self.last_incident.map(|(time, _)| time) < other.last_incident.map(|(time, _)| time) {
            (self.memory, self.limit, self.last_incident) = (other.memory, other.limit, other.last_incident);
        }
        self.last_kill = self.last_kill.max(other.last_kill);
        self.last_told = self.last_told.max(other.last_told);
    }
}
