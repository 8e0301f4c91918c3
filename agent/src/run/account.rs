//! The account in the data path: reads the kernel's counters, tells of the kills that nobody saw, and saves what outlives the agent.
//!
//! In this order: [`Ledger::load`] and [`Ledger::attached`] once the probe is, and its counters are copied to the statistics; [`Ledger::seen`] for
//! each kill; [`Ledger::save`] whenever the ring buffer was emptied; and every [`CHECK_INTERVAL`], or [`OPEN_INTERVAL`] while something is open,
//! [`Ledger::look`], then the ring buffer is emptied, then [`Ledger::check`].

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tracing::warn;
use uuid::Uuid;

use crate::kill::{Kill, KubernetesOwner, Missed, MissedKills, Owner};
use crate::reconcile::{Account, Findings, Observed, ProbeCounts};
use crate::record::log_record::LogRecord;
use crate::record::reconstructed::{Window, log_record};
use crate::record::series::Table;
use crate::source::counters;
use crate::source::hierarchy::Hierarchy;
use crate::source::state::{Loaded, State, Store};
use crate::stats::Stats;

/// How often the kernel's counters are compared with what was seen.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// The same while something is missing and not told yet: cgroups come and go.
pub(super) const OPEN_INTERVAL: Duration = Duration::from_secs(1);

/// Records of missed kills from one check; further ones are counted.
pub(super) const MAX_RECORDS: u64 = 1000;

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
    handled: BTreeMap<u32, u64>,
    /// The last moment at which nothing was missing.
    settled: Option<SystemTime>,
}

impl Ledger {
    /// Loads what the last agent on this node saved. `boot` is the id of this boot; without `hierarchy` missed kills have no owners.
    pub(super) fn load(node: &str, boot: Uuid, store: Store, hierarchy: Option<Hierarchy>) -> Self {
        let loaded = store.load(boot, node);
        let handled = loaded.as_ref().filter(|loaded| loaded.this_boot).map(|loaded| loaded.state.handled.clone()).unwrap_or_default();
        Self { node: node.to_owned(), boot, store, hierarchy, loaded, account: None, probe: 0, handled, settled: None }
    }

    /// Whether the kill, an event of this ring buffer, is among the counts already: an agent has handled it, and died before its record was safe.
    pub(super) fn has_counted(&self, ring: u32, sequence: u64) -> bool {
        self.handled.get(&ring).is_some_and(|last| sequence <= *last)
    }

    /// Kills that were dropped when the state was saved.
    pub(super) fn dropped(&self) -> u64 {
        self.account.as_ref().map_or(0, Account::dropped)
    }

    /// Begins to count, from where the last agent ended. `probe` is the one that is attached, by its ring buffer, with what it has counted, 0 for a new one;
    /// `detached` those that were detached for it. `stats` has to have the probe's counters already, and nothing else.
    pub(super) fn attached(
        &mut self,
        probe: (u32, ProbeCounts),
        detached: &[(u32, ProbeCounts)],
        stats: &Stats,
        table: &Mutex<Table>,
        now: SystemTime,
    ) {
        let (ring, probe) = probe;
        self.probe = ring;
        // Of the others there is nothing more to read.
        self.handled.retain(|known, _| *known == ring || detached.iter().any(|(detached, _)| detached == known));
        let Some(Loaded { state, this_boot }) = self.loaded.take() else {
            let observed = Observed { probe, ..self.read(true) };
            stats.kernel_kills.set(observed.node);
            (self.account, self.settled) = (Some(Account::first(&observed)), Some(now));
            return;
        };
        stats.restore(&state.counted);
        lock(table).restore(state.series, now);
        let mut account = state.account;
        if this_boot {
            match detached.iter().find(|(detached, _)| *detached == state.probe) {
                Some((_, counted)) => account.hand_over(*counted, probe),
                None if state.probe == ring => account.resume(probe, true),
                None => {
                    // Another agent had the node last, with a probe of its own. Which of the kills that wait here it has counted nobody knows: all since its
                    // state are found in the kernel's counters, and their records tell more of them.
                    self.handled.extend([(ring, probe)].iter().chain(detached).map(|(ring, counted)| (*ring, counted.confirmed)));
                    account.resume(probe, false);
                }
            }
            self.settled = Some(state.saved);
        } else {
            account.after_boot(probe);
        }
        self.account = Some(account);
    }

    /// Notes a kill, the event of that ring buffer; `is_new`: no other ring buffer had it too.
    pub(super) fn seen(&mut self, kill: &Kill, ring: u32, is_new: bool) {
        if let Some(account) = self.account.as_mut().filter(|_| is_new) {
            account.seen(kill);
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

    /// Reads the kernel's counters, then the probe's. The events that are in the ring buffer then are to be handled before [`check`](Self::check).
    pub(super) fn look(&self, probe: impl FnOnce() -> ProbeCounts) -> Observed {
        let observed = self.read(self.account.as_ref().is_some_and(Account::wants_cgroups));
        Observed { probe: probe(), ..observed }
    }

    fn read(&self, cgroups: bool) -> Observed {
        let node = counters::node_kills();
        let cgroups = self.hierarchy.as_ref().filter(|_| cgroups).map(counters::cgroup_kills);
        Observed { node, cgroups, probe: ProbeCounts::default() }
    }

    /// Compares, counts what is missing, saves, and gives `tell` the record of each missed kill of which the cgroup is known.
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

    /// Saves everything. `probe`: what it has counted, of which all events that it did not drop were [`seen`](Self::seen).
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
            Owner::Unknown { why } | Owner::Kubernetes(KubernetesOwner { why_no_container: Some(why), .. }) => stats.add_without_owner(*why, *number),
            Owner::Kubernetes(_) | Owner::Container { .. } | Owner::Unit { .. } => {}
        }
    }
}

/// Takes the table even if another thread panicked with it: counts are whole at every moment.
fn lock(table: &Mutex<Table>) -> std::sync::MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::reconcile::{CgroupCounts, Cgroups, Counted};
    use crate::record::series::{FromZero, Limits};

    const BOOT: Uuid = Uuid::from_u128(5);

    fn time(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000 + seconds)
    }

    /// One agent after another on a node, with its kernel and its state.
    struct Node {
        directory: tempfile::TempDir,
        boot: Uuid,
        kernel: Observed,
        /// Each agent attaches a probe of its own.
        probes: Cell<u32>,
    }

    struct Agent {
        ledger: Ledger,
        stats: Stats,
        table: Mutex<Table>,
    }

    impl Node {
        #[expect(clippy::unwrap_used, reason = "a failed test panics")]
        fn new() -> Self {
            Self { directory: tempfile::tempdir().unwrap(), boot: BOOT, kernel: Observed::default(), probes: Cell::new(0) }
        }

        /// The kernel has killed so many in the service nginx, and so many in all.
        fn killed(&mut self, nginx: u64, node: u64) {
            let own = Counted { kills: nginx, group_kills: Some(0) };
            let cgroup = CgroupCounts { id: 7, parent: None, path: "/system.slice/nginx.service".to_owned(), own, subtree: None };
            let counts = if nginx > 0 { vec![cgroup] } else { Vec::new() };
            self.kernel = Observed { node: Some(node), probe: self.kernel.probe, cgroups: Some(Cgroups { counts, left_out: 0 }) };
        }

        fn start(&self) -> Agent {
            self.probes.set(self.probes.get() + 1);
            self.start_with((self.probes.get(), ProbeCounts::default()), &[])
        }

        fn start_with(&self, probe: (u32, ProbeCounts), detached: &[(u32, ProbeCounts)]) -> Agent {
            let store = Store::new(Some(self.directory.path().to_owned()));
            let mut ledger = Ledger::load("node-a", self.boot, store, None);
            let table = Mutex::new(Table::new(Limits { owners: 9, expiry: Duration::from_secs(600), from_zero: FromZero::Kills }));
            let stats = Stats::default();
            ledger.attached(probe, detached, &stats, &table, time(0));
            if !self.directory.path().join("state.json").exists() {
                // The first look was at the kernel that runs this test.
                ledger.account = Some(Account::first(&self.kernel));
            }
            Agent { ledger, stats, table }
        }
    }

    impl Agent {
        /// Checks until everything is told.
        fn checks(&mut self, node: &Node) -> Vec<LogRecord> {
            let mut told = Vec::new();
            for second in 0..4 {
                let attribute = |kills: &MissedKills| crate::attribution::attribute_missed(kills, None);
                self.ledger.check(node.kernel.clone(), &self.stats, &self.table, time(second), attribute, |record| told.push(record));
            }
            told
        }

        fn kills(&self) -> (u64, Vec<(String, u64)>) {
            (self.stats.node_kills(), lock(&self.table).rows().map(|(labels, counts)| (labels.container, counts.kills)).collect())
        }
    }

    fn nginx(kills: u64) -> Vec<(String, u64)> {
        vec![("nginx.service".to_owned(), kills)]
    }

    #[test]
    fn kills_while_the_agent_was_away_are_told_once_and_count() {
        let mut node = Node::new();
        node.killed(2, 2);
        let mut first = node.start();
        assert!(first.checks(&node).is_empty());
        assert!(first.ledger.save(ProbeCounts::default(), &first.stats, &first.table, time(0)));

        node.killed(4, 5);
        let mut second = node.start();
        assert_eq!(second.ledger.pause(), OPEN_INTERVAL);
        let told = second.checks(&node);
        assert_eq!((told.len(), second.kills()), (2, (3, nginx(2))));
        assert!(told[0].body.starts_with("The OOM killer killed a process of nginx.service between "), "{}", told[0].body);
        assert_eq!(second.ledger.pause(), CHECK_INTERVAL);
        // The check has saved what it told.
        let mut third = node.start();
        assert_eq!((third.checks(&node).len(), third.kills()), (0, (3, nginx(2))));
        assert_eq!((third.stats.missed(Missed::Away).reconstructed.get(), third.stats.missed(Missed::Away).without_owner.get()), (2, 1));
    }

    #[test]
    fn kills_that_wait_in_the_ring_of_another_probe_than_the_states_count_once() {
        let probe = |confirmed| ProbeCounts { confirmed, ..ProbeCounts::default() };
        for is_detached in [false, true] {
            let mut node = Node::new();
            node.killed(1, 1);
            // The agent of probe 8 is followed by one of probe 9, which sees a kill and ends; then comes another one, and 8 is still there.
            node.start_with((8, probe(1)), &[]);
            let mut other = node.start_with((9, probe(0)), &[]);
            node.killed(2, 2);
            let mut kill = crate::reconcile::kill_in(&[7]);
            kill.sequence = 1;
            other.ledger.seen(&kill, 9, true);
            assert!(other.ledger.save(probe(1), &other.stats, &other.table, time(0)));
            node.killed(3, 3);
            let mut third = if is_detached { node.start_with((10, probe(0)), &[(8, probe(3))]) } else { node.start_with((8, probe(3)), &[]) };
            // Both wait in the ring of 8, the one that 9 has counted and the one that is found in the kernel's counters.
            assert!(third.ledger.has_counted(8, 3) && !third.ledger.has_counted(8, 4));
            if !is_detached {
                node.kernel.probe = probe(3);
            }
            assert_eq!((third.checks(&node).len(), third.kills()), (1, (1, nginx(1))));
        }
    }

    #[test]
    fn a_state_of_an_earlier_boot_makes_everything_since_then_missed() {
        let mut node = Node::new();
        node.killed(9, 9);
        let mut first = node.start();
        first.checks(&node);
        assert!(first.ledger.save(ProbeCounts::default(), &first.stats, &first.table, time(0)));
        node.boot = Uuid::from_u128(6);
        node.killed(1, 2);
        let mut second = node.start();
        let told = second.checks(&node);
        assert_eq!((told.len(), second.kills()), (1, (2, nginx(1))));
        assert!(told[0].body.contains(" before 2026-"), "{}", told[0].body);
    }

    #[test]
    fn records_are_bounded_and_counts_are_not() {
        let mut node = Node::new();
        node.killed(0, 0);
        let mut agent = node.start();
        node.killed(5000, 5000);
        let told = agent.checks(&node);
        assert_eq!((told.len() as u64, agent.kills()), (MAX_RECORDS, (5000, nginx(5000))));
        assert_eq!(agent.stats.missed(Missed::Unexplained).reconstructed.get(), 5000);
    }

    #[test]
    fn a_kill_that_was_seen_and_saved_is_not_missed_after_a_restart() {
        let mut node = Node::new();
        node.killed(0, 0);
        let mut first = node.start();
        let mut kill = crate::reconcile::kill_in(&[7]);
        kill.sequence = 1;
        first.ledger.seen(&kill, 9, true);
        let probe = ProbeCounts { confirmed: 1, ..ProbeCounts::default() };
        assert!(first.ledger.save(probe, &first.stats, &first.table, time(0)));
        node.killed(1, 1);
        let mut second = node.start();
        assert!(first.ledger.has_counted(9, 1) && !first.ledger.has_counted(9, 2) && !first.ledger.has_counted(1, 1));
        assert!(second.checks(&node).is_empty());
    }
}
