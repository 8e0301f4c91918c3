//! The books of the data path: what is counted, what is saved of it, and what the kernel counted that nobody saw.
//!
//! [`Books::open`] goes on where the last agent ended. [`see`](Books::see) and [`count`](Books::count) note a kill,
//! [`save`](Books::save) keeps both over the agent's end. At each check [`observe`](Books::observe) reads the kernel's
//! counters, then the events that are there are read, then [`check`](Books::check) compares. When each is due is theirs
//! to know.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;

use super::Origin;
use super::backlog::Backlog;
use super::counts::{copy_counters, kernel_counts, probe_counts};
use super::resumed::Resumed;
use crate::cgroups::hierarchy::Hierarchy;
use crate::config::Config;
use crate::kill::{Incident, Kill, KubernetesOwner, Missed, MissedKills, Owner, Why};
use crate::kubernetes;
use crate::reconcile::{Account, Findings, Kept, Observed, ProbeCounts};
use crate::record::log_record::LogRecord;
use crate::record::reconstructed::{Window, log_record};
use crate::record::series::Table;
use crate::source::probe::Counters;
use crate::state::{Change, Handled, State, Store};
use crate::stats::Stats;

/// How often the kernel's counters are compared with what was seen.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// The same while something is missing and not reported yet: cgroups come and go.
pub(super) const OPEN_INTERVAL: Duration = Duration::from_secs(1);

/// How soon after a kill it is saved: at once, but in a burst not more often than this, and not for more than a tenth
/// of the time.
pub(super) const SAVE_INTERVAL: Duration = Duration::from_millis(100);

/// The state is saved whole so many times before the series of an owner that is there would expire: only then is it
/// saved when the owner was expected last.
const WHOLE_SAVES: u32 = 4;

/// How often series without kills are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(30);

/// Kills that go past one of their ring buffer that waits. Beyond, that one is handled with what is known of it: the
/// state has the numbers of all of them.
const MAX_BEYOND: usize = 4096;

/// Records of missed kills from one check; further ones are counted.
pub(super) const MAX_RECORDS: u64 = 1000;

/// Whose kill an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// This node's, and no other ring buffer had it before.
    Own,
    /// That of another node on this kernel; the same holds.
    Others,
    /// One that another ring buffer had too: two probes were attached for a moment.
    Known,
}

/// What is counted, and what outlives the agent.
#[derive(Debug)]
pub(super) struct Books {
    node: String,
    boot: Uuid,
    stats: Arc<Stats>,
    table: Arc<Mutex<Table>>,
    store: Store,
    account: Account,
    /// Absent where no memory cgroups can be seen: missed kills have no owners then.
    hierarchy: Option<Hierarchy>,
    /// The ring buffer of the probe that is attached.
    ring: u32,
    /// The kills which that probe had confirmed when the account took it over.
    begun: u64,
    /// By the id of a ring buffer.
    handled: BTreeMap<u32, Handled>,
    /// The last moment at which nothing was missing. Absent if there is none in this boot.
    complete: Option<SystemTime>,
    /// Kills without room in the ring buffer that were reported.
    dropped: u64,
    /// Whether something is not saved, and when it may be.
    unsaved: bool,
    save_at: Instant,
    /// How often the state is saved whole, and when again.
    whole_interval: Duration,
    whole_at: Instant,
    check_at: Instant,
    expire_at: Instant,
}

impl Books {
    /// Goes on with what the last agent on this node saved. `stats` and `table` are still empty.
    pub(super) fn open(config: &Config, origin: &Origin, stats: &Arc<Stats>, table: &Arc<Mutex<Table>>) -> Self {
        copy_counters(&origin.counted, stats);
        let hierarchy = origin.node.hierarchy();
        let store = Store::new(config.state_directory.clone());
        let resumed = match store.load(origin.boot_id, &config.node) {
            Some(loaded) => Resumed::after(loaded, origin, stats, &mut table.lock()),
            None => Resumed::first(hierarchy.as_ref(), origin, stats),
        };
        let Resumed { account, begun, handled, complete } = resumed;
        let now = Instant::now();
        Self {
            node: config.node.clone(),
            boot: origin.boot_id,
            stats: Arc::clone(stats),
            table: Arc::clone(table),
            store,
            dropped: account.dropped(),
            account,
            hierarchy,
            ring: origin.ring,
            begun,
            handled,
            complete,
            unsaved: true,
            save_at: now,
            whole_interval: config.series.expiry / WHOLE_SAVES,
            whole_at: now,
            check_at: now,
            expire_at: now,
        }
    }

    /// Whether the kill, an event of this ring buffer, is among the counts already: an agent has handled it, and ended
    /// before its record was safe.
    pub(super) fn has_counted(&self, ring: u32, sequence: u64) -> bool {
        self.handled.get(&ring).is_some_and(|handled| handled.has(sequence))
    }

    /// Notes in the account that a kill was seen, by the event of that ring buffer.
    pub(super) fn see(&mut self, kill: &Kill, ring: u32, whose: Whose) {
        let is_counted_twice = ring == self.ring && kill.sequence > self.begun;
        match whose {
            Whose::Own => self.account.seen(kill),
            Whose::Known if is_counted_twice => self.account.seen_by_both(),
            Whose::Known | Whose::Others => {}
        }
        self.unsaved = true;
    }

    /// Counts a kill for its owner.
    pub(super) fn count(&mut self, kill: &Kill, owner: &Owner, incident: &Incident) {
        if let Some(why) = why_unknown(owner) {
            self.stats.count_without_owner(why);
        }
        self.table.lock().record(kill, owner, incident);
        self.unsaved = true;
    }

    /// Notes that a kill needs nothing more than to be saved. `oldest_waiting` is the first one of its ring buffer that
    /// was read and does.
    pub(super) fn handled(&mut self, ring: u32, sequence: u64, oldest_waiting: Option<u64>) {
        self.handled.entry(ring).or_default().add(sequence, oldest_waiting);
        self.unsaved = true;
    }

    /// A ring buffer of which so many kills went past one that waits, that another one may not.
    pub(super) fn crowded_ring(&self) -> Option<u32> {
        self.handled.iter().find(|(_, handled)| handled.beyond() > MAX_BEYOND).map(|(ring, _)| *ring)
    }

    /// Notes what the probe has counted, and how many kills wait. Kills that the probe had no room for are reported,
    /// and looked for at once, while their cgroups are there.
    pub(super) fn note(&mut self, counted: &Counters, waiting: usize) {
        copy_counters(counted, &self.stats);
        self.stats.waiting_kills.set(waiting as u64);
        let dropped = counted.ring_full.saturating_sub(self.dropped);
        if dropped > 0 {
            self.dropped = counted.ring_full;
            self.check_at = Instant::now();
            warn!(
                dropped,
                fix = "raise probe.ring_bytes",
                "ring buffer full: kills counted without details, looking up their containers in cgroup counters"
            );
        }
    }

    /// When the next of these is due: to save, to check, to expire.
    pub(super) fn deadline(&self) -> Instant {
        let save_at = self.unsaved.then_some(self.save_at);
        save_at.into_iter().fold(self.check_at.min(self.expire_at), Instant::min)
    }

    /// Whether something is to be saved.
    pub(super) fn wants_save(&self, now: Instant) -> bool {
        self.unsaved && self.save_at <= now
    }

    /// Whether the kernel's counters are to be looked at.
    pub(super) fn wants_check(&self, now: Instant) -> bool {
        self.check_at <= now
    }

    /// Whether it is time to look for series without kills. The next time is later.
    pub(super) fn wants_expiry(&mut self, now: Instant) -> bool {
        let is_due = self.expire_at <= now;
        if is_due {
            self.expire_at = now + EXPIRY_INTERVAL;
        }
        is_due
    }

    /// Gives each container of the node its series, from 0.
    pub(super) fn expect_containers(&self, pods: &kubernetes::Store) {
        let (now, known) = (SystemTime::now(), pods.pods());
        self.table.lock().ensure(known.containers(), now);
        self.stats.pods.set(Some(known.len() as u64));
        self.stats.pods_left_out.set(known.left_out());
        self.stats.pods_synced.store(pods.is_synced(), Ordering::Relaxed);
    }

    /// Removes the series of owners that had no kill for longer than the configuration allows.
    pub(super) fn expire(&self, now: SystemTime) {
        self.table.lock().expire(now);
    }

    /// Reads the kernel's counters, then the probe's. The events that are in the ring buffer then are to be read before
    /// [`check`](Self::check).
    pub(super) fn observe(&self, probe: impl FnOnce() -> Counters) -> Observed {
        let observed = kernel_counts(self.hierarchy.as_ref().filter(|_| self.account.wants_cgroups()));
        Observed { probe: probe_counts(&probe(), &self.stats), ..observed }
    }

    /// Compares, counts what is missing, saves, and then gives `report` the record of each missed kill of which the
    /// cgroup is known.
    pub(super) fn check(
        &mut self,
        observed: Observed,
        backlog: &mut Backlog,
        attribute: impl Fn(&MissedKills) -> Owner,
        mut report: impl FnMut(LogRecord),
    ) {
        let (probe, now) = (observed.probe, SystemTime::now());
        self.stats.kernel_kills.set(observed.node);
        let found = self.account.check(observed);
        let window = Window { after: self.complete, found: now };
        if self.account.is_balanced() {
            self.complete = Some(now);
        }
        self.check_at = Instant::now() + if self.account.is_balanced() { CHECK_INTERVAL } else { OPEN_INTERVAL };
        let owners: Vec<Owner> = found.missed.iter().map(attribute).collect();
        self.count_missed(&found, &owners, now);
        // Before anything is reported: an agent that reports first and then ends reports again.
        self.save(probe, backlog);
        if found.is_empty() {
            return;
        }
        let mut left = MAX_RECORDS;
        for (kills, owner) in found.missed.iter().zip(&owners) {
            for place in 0..kills.number.min(left) {
                report(log_record(kills, place, owner, window, self.boot, &self.node));
            }
            left = left.saturating_sub(kills.number);
        }
        warn!(
            away = found.with_owner(Missed::Away),
            away_without_owner = found.without_owner.away,
            dropped = found.with_owner(Missed::Dropped),
            dropped_without_owner = found.without_owner.dropped,
            unexplained = found.with_owner(Missed::Unexplained),
            unexplained_without_owner = found.without_owner.unexplained,
            "the kernel counted kills that nobody saw"
        );
    }

    fn count_missed(&self, found: &Findings, owners: &[Owner], now: SystemTime) {
        for why in Missed::ALL {
            self.stats.missed(why).reconstructed.add(found.with_owner(why));
            // What no cgroup of this node tells of may be of any node of this kernel.
            let shares_kernel = self.stats.shares_kernel.load(Ordering::Relaxed);
            let missed = &self.stats.missed(why).without_owner;
            let without_owner = if shares_kernel { &self.stats.other_nodes } else { missed };
            without_owner.add(found.without_owner.of(why));
        }
        let mut table = self.table.lock();
        for (MissedKills { number, .. }, owner) in found.missed.iter().zip(owners) {
            table.record_reconstructed(*number, owner, now);
            if let Some(why) = why_unknown(owner) {
                self.stats.add_without_owner(why, *number);
            }
        }
    }

    /// Saves what has changed, or everything. `probe` is what the probe has counted; all its events until then that it
    /// did not drop are in the backlog, or were. Kills that wait are saved as if they had not been read.
    ///
    /// If it fails that is logged, and nothing waits for it: what the state is for is lost then.
    pub(super) fn save(&mut self, probe: ProbeCounts, backlog: &mut Backlog) {
        let (begin, saved) = (Instant::now(), SystemTime::now());
        self.account.counted(probe);
        if self.store.keeps() {
            self.keep(begin, saved, backlog);
        } else {
            // Nobody asks what has changed, and it must not become more and more.
            drop(self.table.lock().changes());
        }
        backlog.saved();
        self.unsaved = false;
        self.save_at = Instant::now() + SAVE_INTERVAL.max(begin.elapsed() * 10);
    }

    /// As [`save`](Self::save), while there may be events that were not read.
    pub(super) fn save_handled(&mut self, backlog: &mut Backlog) {
        self.save(self.account.probe(), backlog);
    }

    fn keep(&mut self, begin: Instant, saved: SystemTime, backlog: &Backlog) {
        let mut handled = self.handled.clone();
        let mut waiting: BTreeMap<u32, u64> = BTreeMap::new();
        backlog.uncounted().for_each(|admitted| *waiting.entry(admitted.place.ring).or_default() += 1);
        let counted = self.stats.keep(waiting.values().sum());
        // Also of those in which none waits any more: who goes on would take them for lost with their probe.
        handled.values_mut().for_each(|handled| handled.set_waiting(0));
        for (ring, waiting) in waiting {
            handled.entry(ring).or_default().set_waiting(waiting);
        }
        let whole = self.store.wants_whole() || self.whole_at <= begin;
        if whole {
            self.whole_at = begin + self.whole_interval;
        }
        match self.account.keep(backlog.uncounted().map(|admitted| &*admitted.kill), whole) {
            Kept::Change(account) => {
                let series = self.table.lock().changes();
                self.store.append(&Change { saved, account, handled, counted, series });
            }
            Kept::Whole(account) => {
                let (node, series) = (self.node.clone(), self.table.lock().snapshot());
                let state = State { saved, node, account: *account, probe: self.ring, handled, counted, series };
                self.store.save(self.boot, &state);
            }
        }
    }

    /// What the probe has counted, as the account has it.
    pub(super) fn probe_counts(&self, counted: &Counters) -> ProbeCounts {
        probe_counts(counted, &self.stats)
    }
}

/// Why there is no owner, or none of the pod's containers.
fn why_unknown(owner: &Owner) -> Option<Why> {
    match owner {
        Owner::Unknown { why } => Some(*why),
        Owner::Kubernetes(KubernetesOwner { why_no_container, .. }) => *why_no_container,
        Owner::Container { .. } | Owner::Unit { .. } => None,
    }
}

#[cfg(test)]
mod tests;
