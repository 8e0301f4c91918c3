//! The account: what was seen against what the kernel counted, so that no kill is missed in silence. Pure: files and
//! clock are the caller's.
//!
//! Facts that it rests on (`__oom_kill_process` in mm/oom_kill.c, tried on 5.10 to 7.3): the kernel counts a kill, for
//! the node in `/proc/vmstat` and for the victim's cgroup, *before* it sends the signal, so what was seen is never
//! ahead of a counter that is read later. A group kill (`memory.oom.group`) usually hits its first victim twice and
//! counts it twice; the probe knows such repeats of kills that it saw.
//!
//! Two looks are compared: what the kernel had counted at the last check and the probe does not know at this one is
//! missing. Whose it was is read from the counters of the cgroups, and only as many are told as are missing for the
//! node: a cgroup's counter alone may be ahead for reasons of its own.
//!
//! The caller reads, in this order: the kernel's counters, then the probe's; then it takes from the ring buffer what is
//! there; then it asks [`Account::check`]. It saves the account ([`Account::keep`]) before it reports the findings:
//! what was reported is never reported again, unless the saved state is lost.

mod keep;
mod places;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::kill_in;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::kill::{Kill, Missed, MissedKills};
use keep::Unsaved;
pub use keep::{Change, Kept};
use places::{Known, Place, places};

/// Cgroups whose kills are remembered. A further one's are forgotten, and what is missing then has no owner until all
/// cgroups have been looked at again.
pub const KNOWN_CGROUPS: usize = 16_384;

/// Cgroups with kills beyond twice those of the last comparison, after which it is time to forget the ones that are
/// gone: each takes room in the state.
const FURTHER_CGROUPS: usize = 512;

/// Checks that wait for a pause in the kills before cgroups are compared although kills go on, which may blame a
/// missing one on nobody.
const PATIENCE: u32 = 10;

/// Kills that a counter tells of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// `oom_kill`: processes killed, the first victim of a group kill usually twice.
    pub kills: u64,
    /// `oom_group_kill`: group kills decided. Absent before 5.17; 0 with v1, which has none.
    pub group_kills: Option<u64>,
}

/// What the kernel counted in one memory cgroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupCounts {
    /// The inode number of its directory.
    pub id: u64,
    /// The id of the one above it. Absent for the topmost that can be seen.
    pub parent: Option<u64>,
    /// Its path from the root of the memory hierarchy.
    pub path: String,
    /// Victims in the cgroup itself.
    pub own: Counted,
    /// Victims in it and anywhere below it, also in cgroups that are gone. Absent with v1 and where
    /// `memory_localevents` is set.
    pub subtree: Option<Counted>,
}

/// A look at all memory cgroups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// Those with kills, each behind the one above it.
    pub counts: Vec<CgroupCounts>,
    /// Directories that were not looked at, because there were too many or they could not be read. Others may be below
    /// them.
    pub left_out: usize,
}

/// What the probe counted since it was attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeCounts {
    /// Kills it saw, also those that found no room in the ring buffer.
    pub confirmed: u64,
    /// Signals to a process that it had confirmed before, from the same decision: the kernel counted that kill once
    /// more.
    pub repeated: u64,
    /// Confirmed kills that never became a [`Kill`]: there was no room for the event, or it was not understood.
    pub dropped: u64,
}

/// One look at all counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// `oom_kill` of `/proc/vmstat`. Absent where the kernel has no such line.
    pub node: Option<u64>,
    /// The probe's.
    pub probe: ProbeCounts,
    /// The cgroups'. Absent if nobody looked ([`Account::wants_cgroups`] says when to), or none can be seen.
    pub cgroups: Option<Cgroups>,
}

/// How many, by why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbers {
    /// [`Missed::Away`]
    pub away: u64,
    /// [`Missed::Dropped`]
    pub dropped: u64,
    /// [`Missed::Unexplained`]
    pub unexplained: u64,
}

impl Numbers {
    /// One of them.
    pub fn of(&self, why: Missed) -> u64 {
        match why {
            Missed::Away => self.away,
            Missed::Dropped => self.dropped,
            Missed::Unexplained => self.unexplained,
        }
    }

    /// Their sum.
    pub fn total(&self) -> u64 {
        self.away.saturating_add(self.dropped).saturating_add(self.unexplained)
    }

    fn take(&mut self, why: Missed, wanted: u64) -> u64 {
        let left = match why {
            Missed::Away => &mut self.away,
            Missed::Dropped => &mut self.dropped,
            Missed::Unexplained => &mut self.unexplained,
        };
        let taken = wanted.min(*left);
        *left -= taken;
        taken
    }
}

/// What a check found missing. Each missed kill is in one of the two, once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Those of which the cgroup is known.
    pub missed: Vec<MissedKills>,
    /// Those of which nothing is known. Too many by one for each group kill in a cgroup that is gone, if nothing tells
    /// of it any more.
    pub without_owner: Numbers,
}

impl Findings {
    /// Whether nothing is missing.
    pub fn is_empty(&self) -> bool {
        self.missed.is_empty() && self.without_owner.total() == 0
    }

    /// Kills of which the cgroup is known.
    pub fn with_owner(&self, why: Missed) -> u64 {
        self.missed.iter().filter(|kills| kills.why == why).map(|kills| kills.number).sum()
    }
}

/// What of the kernel's counts is explained. It outlives the agent: see [`resume`](Self::resume).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Account {
    /// The kernel's count for the node as far as it is explained, by what was seen or by what was told missing.
    node: Option<u64>,
    /// The probe's counters that went into it.
    probe: ProbeCounts,
    /// There is a time without probe that was not compared yet.
    away: bool,
    /// Missing, and not told yet.
    open: Numbers,
    /// Repeats that the probe told of since the cgroups were compared.
    repeats: u64,
    /// By the id of the cgroup.
    cgroups: BTreeMap<u64, Known>,
    /// With how many of them it is looked which ones are gone.
    look_at: usize,
    /// Whether a cgroup that is not known had no kills when the cgroups were compared.
    complete: bool,
    /// Whether the cgroups are to be looked at so that they are.
    look: bool,
    #[serde(skip)]
    last: Option<Last>,
    #[serde(skip)]
    waited: u32,
    /// What is to be saved again.
    #[serde(skip)]
    unsaved: Unsaved,
}

/// What the check before saw.
#[derive(Clone, Debug, PartialEq)]
struct Last {
    observed: Observed,
    /// Of the kernel's count for the node.
    explained: Option<u64>,
    /// Whether the caller was asked for the cgroups.
    wanted_cgroups: bool,
}

impl Account {
    /// The first account on this node: what was killed before is not ours to tell.
    ///
    /// `observed.probe` is what the probe counted when it was attached; the kernel's counters are read after that.
    pub fn first(observed: &Observed) -> Self {
        let mut account = Self {
            node: observed.node,
            probe: observed.probe,
            away: false,
            open: Numbers::default(),
            repeats: 0,
            cgroups: BTreeMap::new(),
            look_at: FURTHER_CGROUPS,
            complete: false,
            look: true,
            last: None,
            waited: 0,
            unsaved: Unsaved::All,
        };
        if let Some(cgroups) = &observed.cgroups {
            account.accept(cgroups, false);
        }
        account
    }

    /// Goes on with a saved account of this boot.
    ///
    /// `watched`: the probe whose counters the account has went on counting meanwhile. Otherwise `probe` is what a
    /// newly attached one counted when it was attached, and what the kernel counted until then is missed. Kills that
    /// were seen after the account was saved, by a probe that is gone, are among them: save after each.
    pub fn resume(&mut self, probe: ProbeCounts, watched: bool) {
        (self.last, self.waited) = (None, 0);
        if !watched {
            (self.probe, self.away) = (probe, true);
        }
    }

    /// Goes on with a saved account of this boot whose probe was detached for another one: nothing was missed between
    /// the two. `old` is what it had counted in the end, `new` what the other one had counted before; a kill while both
    /// were attached is in both, see [`seen_by_both`](Self::seen_by_both).
    pub fn hand_over(&mut self, old: ProbeCounts, new: ProbeCounts) {
        self.resume(old, true);
        self.counted(old);
        self.probe = new;
    }

    /// The confirmed kills that were dropped, as far as the account goes.
    pub fn dropped(&self) -> u64 {
        self.probe.dropped
    }

    /// What the probe had counted, as far as the account goes.
    pub fn probe(&self) -> ProbeCounts {
        self.probe
    }

    /// Goes on with an account of an earlier boot, whose state says that this node was watched before: everything since
    /// this boot was missed, until `probe`, newly attached. What happened between the last save and the end of that
    /// boot nobody knows.
    ///
    /// The kernel's counters began at 0 with the boot, each cgroup's too.
    pub fn after_boot(&mut self, probe: ProbeCounts) {
        *self = Self {
            node: Some(0),
            probe,
            away: true,
            open: self.open,
            repeats: 0,
            cgroups: BTreeMap::new(),
            look_at: FURTHER_CGROUPS,
            complete: true,
            look: false,
            last: None,
            waited: 0,
            unsaved: Unsaved::All,
        };
    }

    /// Whether the next look should include the cgroups: something is missing, or they are not known well enough.
    /// Rarely, because it takes long.
    pub fn wants_cgroups(&self) -> bool {
        self.look || !self.is_balanced()
    }

    /// Whether nothing waits for the next check. Otherwise that should be soon: cgroups come and go.
    pub fn is_balanced(&self) -> bool {
        !self.away && self.open.total() == 0
    }

    /// Notes a kill that was seen.
    pub fn seen(&mut self, kill: &Kill) {
        let mut levels = kill.cgroups.iter().map(|cgroup| cgroup.id);
        if let Some(own) = levels.next() {
            self.note(own, |known| known.own.seen = known.own.seen.saturating_add(1));
        }
        for level in kill.cgroups.iter().map(|cgroup| cgroup.id) {
            self.note(level, |known| known.subtree.seen = known.subtree.seen.saturating_add(1));
        }
    }

    /// Notes that so many kills which were seen will not be seen again, though they were not handled before the account
    /// was saved: their probe is gone with its events. They are missing from now on.
    pub fn lost(&mut self, kills: u64) {
        self.node = self.node.map(|node| node.saturating_sub(kills));
    }

    /// Notes that a kill which another probe has counted is among those that this one counts: it explains no more of
    /// the kernel's count.
    pub fn seen_by_both(&mut self) {
        self.node = self.node.map(|node| node.saturating_sub(1));
    }

    fn note(&mut self, cgroup: Option<u64>, count: impl FnOnce(&mut Known)) {
        let Some(id) = cgroup else { return };
        self.look |= self.cgroups.len() > self.look_at;
        if self.cgroups.len() < KNOWN_CGROUPS || self.cgroups.contains_key(&id) {
            count(self.cgroups.entry(id).or_default());
            self.unsaved.add(id);
        } else {
            (self.complete, self.look) = (false, true);
        }
    }

    /// Compares. A kill that was missed is told a few checks later: when it is certain, the cgroups were looked at, and
    /// no kill came since.
    pub fn check(&mut self, observed: Observed) -> Findings {
        let wanted_cgroups = self.wants_cgroups();
        self.counted(observed.probe);
        let mut findings = Findings::default();
        if let Some(last) = self.last.take() {
            let quiet = last.observed.node == observed.node && last.observed.probe == observed.probe;
            let waits = !quiet && self.waited < PATIENCE;
            self.compare(&last, observed.node, quiet, waits);
            if !waits {
                findings = self.conclude(last, quiet);
            } else if wanted_cgroups {
                self.waited = self.waited.saturating_add(1);
            }
        }
        if self.node.is_none() {
            self.node = observed.node;
        }
        self.last = Some(Last { explained: self.node, observed, wanted_cgroups });
        findings
    }

    /// Notes what the probe has counted so far: it explains as much of the kernel's count. Before each save, with the
    /// kills of which it was [`seen`](Self::seen).
    pub fn counted(&mut self, probe: ProbeCounts) {
        let repeated = probe.repeated.saturating_sub(self.probe.repeated);
        let explained = probe.confirmed.saturating_sub(self.probe.confirmed).saturating_add(repeated);
        self.node = self.node.map(|node| node.saturating_add(explained));
        self.open.dropped = self.open.dropped.saturating_add(probe.dropped.saturating_sub(self.probe.dropped));
        self.repeats = self.repeats.saturating_add(repeated);
        self.probe = probe;
    }

    fn compare(&mut self, last: &Last, now: Option<u64>, quiet: bool, waits: bool) {
        let (Some(explained), Some(before), Some(then), Some(now)) =
            (self.node, last.explained, last.observed.node, now)
        else {
            return;
        };
        // Kills that were seen since then hide missed ones: a later check finds those. Sure are only these.
        let mut missing = then.saturating_sub(explained);
        if self.away {
            if waits {
                return;
            }
            if !quiet {
                // There is no pause, so the later ones would be taken for unexplained. Off by what was on its way at
                // both checks.
                missing = missing.max(then.saturating_sub(before).min(now.saturating_sub(explained)));
            }
        }
        // More was seen than was counted at any later moment: a mistake of ours, which must not hide a kill that is
        // missed hereafter.
        let too_much = before.saturating_sub(now);
        self.node = Some(explained.saturating_add(missing).saturating_sub(too_much));
        let open = if self.away { &mut self.open.away } else { &mut self.open.unexplained };
        *open = open.saturating_add(missing);
        self.away = false;
    }

    /// Tells what is open, if the look at the cgroups before can be used for it. Not while kills go on (`quiet`), if
    /// that can be helped: the owners of what is missing could not be told from those of what is on its way.
    fn conclude(&mut self, last: Last, quiet: bool) -> Findings {
        match last.observed.cgroups {
            Some(cgroups) => {
                let findings = self.find_missed(&cgroups);
                self.accept(&cgroups, quiet);
                findings
            }
            // Nobody was asked for the cgroups.
            None if !last.wanted_cgroups => Findings::default(),
            None => {
                (self.away, self.look, self.waited) = (false, false, 0);
                Findings { missed: Vec::new(), without_owner: std::mem::take(&mut self.open) }
            }
        }
    }

    fn find_missed(&mut self, cgroups: &Cgroups) -> Findings {
        let places: Vec<Place<'_>> = if self.complete { places(&cgroups.counts, &self.cgroups) } else { Vec::new() };
        let sum = |count: fn(&Place<'_>) -> u64| places.iter().map(count).fold(0, u64::saturating_add);
        let in_cgroups = sum(|place| place.missing());
        if self.away {
            // The node's counter cannot be read: there are those of the cgroups alone.
            let more = in_cgroups.saturating_sub(self.open.total());
            self.open.away = self.open.away.saturating_add(more);
            self.node = self.node.map(|node| node.saturating_add(more).saturating_add(sum(|place| place.repeats)));
            self.away = false;
        } else {
            let unseen_repeats = sum(|place| place.repeats).saturating_sub(self.repeats);
            self.open.away = self.open.away.saturating_sub(unseen_repeats);
        }
        // With more in the cgroups than is missing, only those are reported that are missing whichever the others are.
        let surplus = in_cgroups.saturating_sub(self.open.total());
        let mut missed = Vec::new();
        for place in &places {
            let (mut left, mut first) = (place.missing().saturating_sub(surplus), place.first);
            for why in Missed::ALL {
                let number = self.open.take(why, left);
                if number > 0 {
                    missed.push(place.missed(first, number, why));
                }
                (left, first) = (left - number, first.saturating_add(number));
            }
        }
        Findings { missed, without_owner: std::mem::take(&mut self.open) }
    }

    /// What the cgroups' counters say is explained from now on.
    fn accept(&mut self, cgroups: &Cgroups, quiet: bool) {
        self.unsaved = Unsaved::All;
        let all = cgroups.left_out == 0;
        if quiet && all {
            // The others are gone, or never had a kill.
            let alive: BTreeSet<u64> = cgroups.counts.iter().map(|cgroup| cgroup.id).collect();
            self.cgroups.retain(|id, _| alive.contains(id));
        }
        let mut room = true;
        for cgroup in &cgroups.counts {
            if self.cgroups.len() < KNOWN_CGROUPS || self.cgroups.contains_key(&cgroup.id) {
                self.cgroups.entry(cgroup.id).or_default().accept(cgroup);
            } else {
                room = false;
            }
        }
        (self.complete, self.look, self.repeats, self.waited) = (all && room, false, 0, 0);
        self.look_at = self.cgroups.len().saturating_mul(2).saturating_add(FURTHER_CGROUPS);
    }
}
