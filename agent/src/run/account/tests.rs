//! One agent after another, with the kernel's counters and the state between them.

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
        let cgroup =
            CgroupCounts { id: 7, parent: None, path: "/system.slice/nginx.service".to_owned(), own, subtree: None };
        let counts = if nginx > 0 { vec![cgroup] } else { Vec::new() };
        self.kernel =
            Observed { node: Some(node), probe: self.kernel.probe, cgroups: Some(Cgroups { counts, left_out: 0 }) };
    }

    fn start(&self) -> Agent {
        self.probes.set(self.probes.get() + 1);
        self.start_with(new(self.probes.get(), 0), &[])
    }

    fn start_with(&self, probe: Attached, detached: &[(u32, ProbeCounts)]) -> Agent {
        let store = Store::new(Some(self.directory.path().to_owned()));
        let mut ledger = Ledger::load("node-a", self.boot, store, None);
        let table =
            Mutex::new(Table::new(Limits { owners: 9, expiry: Duration::from_secs(600), from_zero: FromZero::Kills }));
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
            self.ledger.check(node.kernel.clone(), &self.stats, &self.table, time(second), attribute, |record| {
                told.push(record)
            });
        }
        told
    }

    fn kills(&self) -> (u64, Vec<(String, u64)>) {
        (
            self.stats.node_kills(),
            lock(&self.table).rows().map(|(labels, counts)| (labels.container.to_string(), counts.kills)).collect(),
        )
    }
}

fn confirmed(kills: u64) -> ProbeCounts {
    ProbeCounts { confirmed: kills, ..ProbeCounts::default() }
}

fn new(ring: u32, kills: u64) -> Attached {
    Attached { ring, counted: confirmed(kills), is_new: true }
}

fn kill_of_nginx(sequence: u64) -> Kill {
    Kill { sequence, ..crate::reconcile::kill_in(&[7]) }
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
    assert_eq!(
        (third.stats.missed(Missed::Away).reconstructed.get(), third.stats.missed(Missed::Away).without_owner.get()),
        (2, 1)
    );
}

#[test]
fn kills_that_wait_in_the_ring_of_another_probe_than_the_states_count_once() {
    for is_detached in [false, true] {
        let mut node = Node::new();
        node.killed(1, 1);
        // The agent of probe 8 is followed by one of probe 9, which sees a kill and ends; then comes another one, and 8
        // is still there.
        node.start_with(new(8, 0), &[]);
        let mut other = node.start_with(new(9, 0), &[]);
        node.killed(2, 2);
        other.ledger.seen(&kill_of_nginx(1), 9, Whose::Own);
        assert!(other.ledger.save(confirmed(1), &other.stats, &other.table, time(0)));
        node.killed(3, 3);
        let taken_over = Attached { ring: 8, counted: confirmed(3), is_new: false };
        let mut third = if is_detached {
            node.start_with(new(10, 0), &[(8, confirmed(3))])
        } else {
            node.start_with(taken_over, &[])
        };
        // Both wait in the ring of 8, the one that 9 has counted and the one that is found in the kernel's counters.
        assert!(third.ledger.has_counted(8, 3) && !third.ledger.has_counted(8, 4));
        if !is_detached {
            node.kernel.probe = confirmed(3);
        }
        assert_eq!((third.checks(&node).len(), third.kills()), (1, (1, nginx(1))));
    }
}

#[test]
fn a_kill_just_after_a_probe_was_attached_is_not_missed() {
    let mut node = Node::new();
    node.killed(0, 0);
    let mut first = node.start();
    assert!(first.ledger.save(confirmed(0), &first.stats, &first.table, time(0)));
    // One while nobody watched, and one before the new probe's counters were read for the first time.
    node.killed(2, 2);
    node.kernel.probe = confirmed(1);
    let mut second = node.start_with(new(9, 1), &[]);
    assert!(!second.ledger.has_counted(9, 1));
    second.ledger.seen(&kill_of_nginx(1), 9, Whose::Own);
    assert_eq!((second.checks(&node).len(), second.kills()), (1, (1, nginx(1))));
}

#[test]
fn what_two_probes_saw_counts_once_and_what_the_new_one_saw_alone_is_not_missed() {
    let mut node = Node::new();
    node.killed(0, 0);
    let mut first = node.start_with(new(8, 0), &[]);
    assert!(first.ledger.save(confirmed(0), &first.stats, &first.table, time(0)));
    // The first one both saw; the second one came when 8 was detached, and before the counters of 9 were read; the
    // third one nobody saw.
    node.killed(3, 3);
    node.kernel.probe = confirmed(2);
    let mut second = node.start_with(new(9, 2), &[(8, confirmed(1))]);
    for (sequence, ring, whose) in [(1, 8, Whose::Own), (1, 9, Whose::Known), (2, 9, Whose::Own)] {
        assert!(!second.ledger.has_counted(ring, sequence));
        second.ledger.seen(&kill_of_nginx(sequence), ring, whose);
    }
    assert_eq!((second.checks(&node).len(), second.kills()), (1, (1, nginx(1))));
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
    first.ledger.seen(&kill_of_nginx(1), 9, Whose::Own);
    assert!(first.ledger.save(confirmed(1), &first.stats, &first.table, time(0)));
    node.killed(1, 1);
    let mut second = node.start();
    assert!(first.ledger.has_counted(9, 1) && !first.ledger.has_counted(9, 2) && !first.ledger.has_counted(1, 1));
    assert!(second.checks(&node).is_empty());
}
