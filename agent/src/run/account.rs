//! The account in the data path: reads the kernel's counters, tells of the kills that nobody saw, and saves what
//! outlives the agent.
//!
//! In this order: [`Ledger::load`] and [`Ledger::attached`] once the probe is, and its counters are copied to the
//! statistics; [`Ledger::seen`] for each kill; [`Ledger::save`] whenever the ring buffer was emptied; and every
//! [`CHECK_INTERVAL`], or [`OPEN_INTERVAL`] while something is open, [`Ledger::look`], then the ring buffer is emptied,
//! then [`Ledger::check`].

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tracing::warn;
use uuid::Uuid;

use crate::cgroups::counters;
use crate::cgroups::hierarchy::Hierarchy;
use crate::kill::{Kill, KubernetesOwner, Missed, MissedKills, Owner};
use crate::reconcile::{Account, Findings, Observed, ProbeCounts};
use crate::record::log_record::LogRecord;
use crate::record::reconstructed::{Window, log_record};
use crate::record::series::Table;
use crate::state::{Loaded, State, Store};
use crate::stats::Stats;

/// How often the kernel's counters are compared with what was seen.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// The same while something is missing and not told yet: cgroups come and go.
pub(super) const OPEN_INTERVAL: Duration = Duration::from_secs(1);

/// Records of missed kills from one check; further ones are counted.
pub(super) const MAX_RECORDS: u64 = 1000;

/// The probe that kills go to now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attached {
    /// Its ring buffer.
    pub(super) ring: u32,
    /// What it has counted by now.
    pub(super) counted: ProbeCounts,
    /// This agent has attached it: no other one has handled any of that.
    pub(super) is_new: bool,
}

/// Whose kill an event tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// This node's, and no other ring buffer had it before.
    Own,
    /// That of another node on this kernel; the same holds.
    Others,
    /// One that another ring buffer had too: two probes were attached for a moment.
    Known,
}

/// What is known of the kernel's counts, and where it is kept.
#[derive(Debug)]
pub(super) struct Ledger {
    node: String,
    boot: Uuid,
    store: Store,
    hierarchy: Option<Hierarchy>,
    loaded: Option<Loaded>,
    account: Option<Account>,
    /// The ring buffer of the probe that is attached.
    probe: u32,
    /// The kills which that probe had confirmed when the account took it over.
    begun: u64,
    handled: BTreeMap<u32, u64>,
    /// The last moment at which nothing was missing.
    settled: Option<SystemTime>,
}

impl Ledger {
    /// Loads what the last agent on this node saved. `boot` is the id of this boot; without `hierarchy` missed kills
    /// have no owners.
    pub(super) fn load(node: &str, boot: Uuid, store: Store, hierarchy: Option<Hierarchy>) -> Self {
        let loaded = store.load(boot, node);
        let handled = loaded
            .as_ref()
            .filter(|loaded| loaded.this_boot)
            .map(|loaded| loaded.state.handled.clone())
            .unwrap_or_default();
        Self {
            node: node.to_owned(),
            boot,
            store,
            hierarchy,
            loaded,
            account: None,
            probe: 0,
            begun: 0,
            handled,
            settled: None,
        }
    }

    /// Whether the kill, an event of this ring buffer, is among the counts already: an agent has handled it, and died
    /// before its record was safe.
    pub(super) fn has_counted(&self, ring: u32, sequence: u64) -> bool {
        self.handled.get(&ring).is_some_and(|last| sequence <= *last)
    }

    /// Kills that were dropped when the state was saved.
    pub(super) fn dropped(&self) -> u64 {
        self.account.as_ref().map_or(0, Account::dropped)
    }

    /// Begins to count, from where the last agent ended. `probe` is the one that is attached; `detached` those that
    /// were detached for it, by their ring buffers. `stats` has to have the probe's counters already, and nothing else.
    pub(super) fn attached(
        &mut self,
        probe: Attached,
        detached: &[(u32, ProbeCounts)],
        stats: &Stats,
        table: &Mutex<Table>,
        now: SystemTime,
    ) {
        let Attached { ring, counted: probe, is_new } = probe;
        // A new one may have seen kills since it was attached: they are as good as any later one.
        let before = if is_new { ProbeCounts::default() } else { probe };
        (self.probe, self.begun) = (ring, before.confirmed);
        // Of the others there is nothing more to read.
        self.handled.retain(|known, _| *known == ring || detached.iter().any(|(detached, _)| detached == known));
        let Some(Loaded { state, this_boot }) = self.loaded.take() else {
            let observed = Observed { probe, ..self.read(true) };
            stats.kernel_kills.set(observed.node);
            (self.account, self.settled, self.begun) = (Some(Account::first(&observed)), Some(now), probe.confirmed);
            return;
        };
        stats.restore(&state.counted);
        lock(table).restore(state.series, now);
        let mut account = state.account;
        if this_boot {
            match detached.iter().find(|(detached, _)| *detached == state.probe) {
                Some((_, counted)) => account.hand_over(*counted, before),
                None if state.probe == ring => account.resume(before, true),
                None => {
                    // Another agent had the node last, with a probe of its own. Which of the kills that wait here it
                    // has counted nobody knows: all since its state are found in the kernel's counters, and their
                    // records tell more of them.
                    self.handled.extend(
                        [(ring, before)].iter().chain(detached).map(|(ring, counted)| (*ring, counted.confirmed)),
                    );
                    account.resume(before, false);
                }
            }
            self.settled = Some(state.saved);
        } else {
            account.after_boot(before);
        }
        self.account = Some(account);
    }

    /// Notes a kill, the event of that ring buffer.
    pub(super) fn seen(&mut self, kill: &Kill, ring: u32, whose: Whose) {
        let is_counted_twice = ring == self.probe && kill.sequence > self.begun;
        match (&mut self.account, whose) {
            (Some(account), Whose::Own) => account.seen(kill),
            (Some(account), Whose::Known) if is_counted_twice => account.seen_by_both(),
            _ => {}
        }
        self.handled.insert(ring, kill.sequence);
    }

    /// How long until the next check.
    pub(super) fn pause(&self) -> Duration {
        match &self.account {
            Some(account) if !account.is_settled() => OPEN_INTERVAL,
            _ => CHECK_INTERVAL,
        }
    }

    /// Reads the kernel's counters, then the probe's. The events that are in the ring buffer then are to be handled
    /// before [`check`](Self::check).
    pub(super) fn look(&self, probe: impl FnOnce() -> ProbeCounts) -> Observed {
        let observed = self.read(self.account.as_ref().is_some_and(Account::wants_cgroups));
        Observed { probe: probe(), ..observed }
    }

    fn read(&self, cgroups: bool) -> Observed {
        let node = counters::node_kills();
        let cgroups = self.hierarchy.as_ref().filter(|_| cgroups).map(counters::cgroup_kills);
        Observed { node, cgroups, probe: ProbeCounts::default() }
    }

    /// Compares, counts what is missing, saves, and gives `tell` the record of each missed kill of which the cgroup is
    /// known.
    pub(super) fn check(
        &mut self,
        observed: Observed,
        stats: &Stats,
        table: &Mutex<Table>,
        now: SystemTime,
        attribute: impl Fn(&MissedKills) -> Owner,
        mut tell: impl FnMut(LogRecord),
    ) {
        let Some(account) = &mut self.account else { return };
        let probe = observed.probe;
        stats.kernel_kills.set(observed.node);
        let found = account.check(observed);
        let window = Window { after: self.settled, found: now };
        if account.is_settled() {
            self.settled = Some(now);
        }
        if found.is_empty() {
            return;
        }
        let owners: Vec<Owner> = found.missed.iter().map(attribute).collect();
        count(&found, &owners, stats, table, now);
        // Before it is told: who tells first and then ends tells again.
        self.save(probe, stats, table, now);
        let mut left = MAX_RECORDS;
        for (kills, owner) in found.missed.iter().zip(&owners) {
            for place in 0..kills.number.min(left) {
                tell(log_record(kills, place, owner, window, self.boot, &self.node));
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

    /// Saves everything. `probe`: what it has counted, of which all events that it did not drop were
    /// [`seen`](Self::seen).
    pub(super) fn save(&mut self, probe: ProbeCounts, stats: &Stats, table: &Mutex<Table>, now: SystemTime) -> bool {
        let Some(account) = &mut self.account else { return false };
        account.counted(probe);
        let series = lock(table).snapshot();
        let (node, account, handled) = (self.node.clone(), account.clone(), self.handled.clone());
        let state = State { saved: now, node, account, probe: self.probe, handled, counted: stats.keep(), series };
        self.store.save(self.boot, &state)
    }
}

fn count(found: &Findings, owners: &[Owner], stats: &Stats, table: &Mutex<Table>, now: SystemTime) {
    for why in Missed::ALL {
        stats.missed(why).reconstructed.add(found.with_owner(why));
        // What no cgroup of this node tells of may be of any node of this kernel.
        let shares_kernel = stats.shares_kernel.load(Ordering::Relaxed);
        let without_owner = if shares_kernel { &stats.other_nodes } else { &stats.missed(why).without_owner };
        without_owner.add(found.without_owner.of(why));
    }
    let mut table = lock(table);
    for (MissedKills { number, .. }, owner) in found.missed.iter().zip(owners) {
        table.record_reconstructed(*number, owner, now);
        match owner {
            Owner::Unknown { why } | Owner::Kubernetes(KubernetesOwner { why_no_container: Some(why), .. }) => {
                stats.add_without_owner(*why, *number)
            }
            Owner::Kubernetes(_) | Owner::Container { .. } | Owner::Unit { .. } => {}
        }
    }
}

/// Takes the table even if another thread panicked with it: counts are whole at every moment.
fn lock(table: &Mutex<Table>) -> std::sync::MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
