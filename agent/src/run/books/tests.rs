//! One agent after another, with the kernel's counters and the state between them.

use std::cell::Cell;

use super::super::backlog::Admitted;
use super::*;
use crate::cgroups::node::Reason;
use crate::config::{self, Flags};
use crate::reconcile::{CgroupCounts, Cgroups, Counted};
use crate::record::sample;
use crate::record::series::Rows;
use crate::source::probe::Place;
use crate::source::ring::Position;

const BOOT: Uuid = Uuid::from_u128(5);

/// One agent after another on a node, with its kernel and its state.
struct Node {
    directory: tempfile::TempDir,
    boot: Uuid,
    kernel: Observed,
    /// Each agent attaches a probe of its own.
    probes: Cell<u32>,
}

struct Agent {
    books: Books,
    backlog: Backlog,
    stats: Arc<Stats>,
    table: Arc<Mutex<Table>>,
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
        self.start_with(new(self.probes.get(), 0))
    }

    #[expect(clippy::unwrap_used, reason = "a failed test panics")]
    fn start_with(&self, origin: Origin) -> Agent {
        let flags = Flags::from([("--node-name", "node-a"), ("--config", "none")]);
        let mut config = config::load(&flags, &|_| None).unwrap().config;
        config.state_directory = Some(self.directory.path().to_owned());
        let (stats, table) = (Arc::new(Stats::default()), Arc::new(Mutex::new(Table::new(config.series))));
        let is_first = !self.directory.path().join("state.json").exists();
        let mut books = Books::open(&config, &Origin { boot_id: self.boot, ..origin }, &stats, &table);
        if is_first {
            // The first look was at the kernel that runs this test.
            books.account = Account::first(&self.kernel);
        }
        Agent { books, backlog: Backlog::default(), stats, table }
    }
}

impl Agent {
    /// Checks until everything is reported.
    fn checks(&mut self, node: &Node) -> Vec<LogRecord> {
        let mut reported = Vec::new();
        for _ in 0..4 {
            let attribute = |kills: &MissedKills| crate::attribution::attribute_missed(kills, None);
            self.books.check(node.kernel.clone(), &mut self.backlog, attribute, |record| reported.push(record));
        }
        reported
    }

    fn save(&mut self, probe: ProbeCounts) {
        self.books.save(probe, &mut self.backlog);
        assert!(!self.books.unsaved);
    }

    /// A kill of nginx that the door lets in.
    fn sees(&mut self, ring: u32, sequence: u64) -> Admitted {
        let kill = Kill { time: SystemTime::now(), ..kill_of_nginx(sequence) };
        self.stats.kills.add(1);
        self.books.see(&kill, ring, Whose::Own);
        Admitted { kill: Box::new(kill), place: Place { ring, end: Position(sequence) }, is_counted: false }
    }

    fn handles(&mut self, admitted: &Admitted) {
        let (kill, owner) = (&admitted.kill, Owner::Unit { name: "nginx.service".to_owned() });
        self.books.count(kill, &owner, &sample::incident(kill, &owner));
        let ring = admitted.place.ring;
        self.books.handled(ring, kill.sequence, self.backlog.oldest_uncounted(ring));
    }

    /// Until the next check.
    fn pause(&self) -> Duration {
        if self.books.account.is_balanced() { CHECK_INTERVAL } else { OPEN_INTERVAL }
    }

    fn kills(&self) -> (u64, Vec<(String, u64)>) {
        (
            self.stats.node_kills(),
            self.table.lock().rows().map(|(labels, counts)| (labels.container.to_string(), counts.kills)).collect(),
        )
    }
}

fn confirmed(kills: u64) -> ProbeCounts {
    ProbeCounts { confirmed: kills, ..ProbeCounts::default() }
}

fn counters(kills: u64) -> Counters {
    Counters { kills, ..Counters::default() }
}

/// A probe that an agent has attached.
fn new(ring: u32, kills: u64) -> Origin {
    Origin {
        boot_id: BOOT,
        ring,
        counted: counters(kills),
        is_new: true,
        detached: Vec::new(),
        node: crate::cgroups::node::Node::All(Reason::Configured),
        names: None,
    }
}

/// The same probe, for the next agent.
fn pinned(ring: u32, kills: u64) -> Origin {
    Origin { is_new: false, ..new(ring, kills) }
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
    first.save(ProbeCounts::default());

    node.killed(4, 5);
    let mut second = node.start();
    assert_eq!(second.pause(), OPEN_INTERVAL);
    let reported = second.checks(&node);
    assert_eq!((reported.len(), second.kills()), (2, (3, nginx(2))));
    assert!(
        reported[0].body.starts_with("The OOM killer killed a process of nginx.service between "),
        "{}",
        reported[0].body
    );
    assert_eq!(second.pause(), CHECK_INTERVAL);
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
        node.start_with(new(8, 0));
        let mut other = node.start_with(new(9, 0));
        node.killed(2, 2);
        other.books.see(&kill_of_nginx(1), 9, Whose::Own);
        other.save(confirmed(1));
        node.killed(3, 3);
        let mut third = if is_detached {
            node.start_with(Origin { detached: vec![(8, counters(3))], ..new(10, 0) })
        } else {
            node.start_with(pinned(8, 3))
        };
        // Both wait in the ring of 8, the one that 9 has counted and the one that is found in the kernel's counters.
        assert!(third.books.has_counted(8, 3) && !third.books.has_counted(8, 4));
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
    first.save(confirmed(0));
    // One while nobody watched, and one before the new probe's counters were read for the first time.
    node.killed(2, 2);
    node.kernel.probe = confirmed(1);
    let mut second = node.start_with(new(9, 1));
    assert!(!second.books.has_counted(9, 1));
    second.books.see(&kill_of_nginx(1), 9, Whose::Own);
    assert_eq!((second.checks(&node).len(), second.kills()), (1, (1, nginx(1))));
}

#[test]
fn what_two_probes_saw_counts_once_and_what_the_new_one_saw_alone_is_not_missed() {
    let mut node = Node::new();
    node.killed(0, 0);
    let mut first = node.start_with(new(8, 0));
    first.save(confirmed(0));
    // The first one both saw; the second one came when 8 was detached, and before the counters of 9 were read; the
    // third one nobody saw.
    node.killed(3, 3);
    node.kernel.probe = confirmed(2);
    let mut second = node.start_with(Origin { detached: vec![(8, counters(1))], ..new(9, 2) });
    for (sequence, ring, whose) in [(1, 8, Whose::Own), (1, 9, Whose::Known), (2, 9, Whose::Own)] {
        assert!(!second.books.has_counted(ring, sequence));
        second.books.see(&kill_of_nginx(sequence), ring, whose);
    }
    assert_eq!((second.checks(&node).len(), second.kills()), (1, (1, nginx(1))));
}

#[test]
fn a_state_of_an_earlier_boot_makes_everything_since_then_missed() {
    let mut node = Node::new();
    node.killed(9, 9);
    let mut first = node.start();
    first.checks(&node);
    first.save(ProbeCounts::default());
    node.boot = Uuid::from_u128(6);
    node.killed(1, 2);
    let mut second = node.start();
    let reported = second.checks(&node);
    assert_eq!((reported.len(), second.kills()), (1, (2, nginx(1))));
    assert!(reported[0].body.contains(" before 2026-"), "{}", reported[0].body);
}

#[test]
fn records_are_bounded_and_counts_are_not() {
    let mut node = Node::new();
    node.killed(0, 0);
    let mut agent = node.start();
    node.killed(5000, 5000);
    let reported = agent.checks(&node);
    assert_eq!((reported.len() as u64, agent.kills()), (MAX_RECORDS, (5000, nginx(5000))));
    assert_eq!(agent.stats.missed(Missed::Unexplained).reconstructed.get(), 5000);
}

#[test]
fn a_kill_that_was_seen_and_saved_is_not_missed_after_a_restart() {
    let mut node = Node::new();
    node.killed(0, 0);
    let mut first = node.start();
    let kill = first.sees(9, 1);
    first.handles(&kill);
    first.save(confirmed(1));
    node.killed(1, 1);
    let mut second = node.start();
    assert!(first.books.has_counted(9, 1) && !first.books.has_counted(9, 2) && !first.books.has_counted(1, 1));
    assert!(second.checks(&node).is_empty());
}

#[test]
fn without_a_directory_what_changes_does_not_become_more_and_more() {
    let mut agent = Node::new().start_with(new(9, 0));
    agent.books.store = Store::new(None);
    let kill = agent.sees(9, 1);
    agent.handles(&kill);
    agent.save(confirmed(1));
    assert_eq!((agent.kills(), agent.table.lock().changes()), ((1, nginx(1)), Rows::default()));
}

/// Two kills of which the first one waits for its container and the other goes past it; then the agent dies.
fn killed_while_one_waits() -> (Node, Agent) {
    let mut node = Node::new();
    node.killed(0, 0);
    let mut agent = node.start_with(new(9, 0));
    agent.save(confirmed(0));
    let [waits, goes] = [1, 2].map(|sequence| agent.sees(9, sequence));
    agent.backlog.wait(waits, None, Instant::now());
    agent.handles(&goes);
    node.killed(2, 2);
    agent.save(confirmed(2));
    assert_eq!(agent.kills(), (2, nginx(1)), "both count for the node at once");
    (node, agent)
}

#[test]
fn a_kill_that_waits_is_saved_as_if_it_had_not_been_read() {
    let (mut node, _) = killed_while_one_waits();
    let mut next = node.start_with(pinned(9, 2));
    assert_eq!(
        (next.kills(), next.books.has_counted(9, 1), next.books.has_counted(9, 2)),
        ((1, nginx(1)), false, true)
    );
    let read_again = next.sees(9, 1);
    next.handles(&read_again);
    node.kernel.probe = confirmed(2);
    assert_eq!((next.checks(&node).len(), next.kills()), (0, (2, nginx(2))));
    assert!(next.books.has_counted(9, 1));
}

#[test]
fn a_kill_that_waits_is_missed_if_its_event_is_gone() {
    for is_saved_again in [false, true] {
        let (node, mut agent) = killed_while_one_waits();
        if is_saved_again {
            // With a change, after the whole.
            agent.save(confirmed(2));
        }
        let mut next = node.start_with(new(10, 0));
        assert_eq!(next.kills(), (1, nginx(1)));
        assert_eq!((next.checks(&node).len(), next.kills()), (1, (2, nginx(2))));
        assert_eq!(next.stats.missed(Missed::Away).reconstructed.get(), 1, "with its owner, by its cgroup's counter");
    }
}

#[test]
fn each_save_after_the_first_is_a_change_until_they_are_many() {
    let mut node = Node::new();
    node.killed(0, 0);
    let mut agent = node.start_with(new(9, 0));
    let id = |node: &Node| std::fs::read_to_string(node.directory.path().join("state.json")).unwrap_or_default();
    agent.save(confirmed(0));
    let first = id(&node);
    for sequence in 1..=100 {
        let kill = agent.sees(9, sequence);
        agent.handles(&kill);
        agent.save(confirmed(sequence));
    }
    assert_eq!(id(&node), first);
    let next = node.start_with(pinned(9, 100));
    assert_eq!(next.kills(), (100, nginx(100)));
    agent.books.whole_at = Instant::now();
    agent.save(confirmed(100));
    assert_ne!(id(&node), first);
    assert_eq!(node.start_with(pinned(9, 100)).kills(), (100, nginx(100)));
}

#[test]
fn a_kill_that_waited_once_is_not_lost_with_the_probe_later() {
    let (mut node, _) = killed_while_one_waits();
    let mut second = node.start_with(pinned(9, 2));
    let read_again = second.sees(9, 1);
    second.handles(&read_again);
    second.save(confirmed(2));
    drop(second);
    // Its probe is gone: after a boot or `oom-watcher detach`.
    node.kernel.probe = confirmed(0);
    let mut third = node.start_with(new(10, 0));
    assert_eq!((third.checks(&node).len(), third.kills()), (0, (2, nginx(2))));
}

#[test]
fn kills_that_a_probe_had_no_room_for_while_no_agent_ran_count_for_the_node() {
    for is_detached in [false, true] {
        let mut node = Node::new();
        node.killed(0, 0);
        let mut first = node.start_with(new(8, 0));
        first.stats.ring_full.set(2);
        first.save(ProbeCounts { confirmed: 2, dropped: 2, ..ProbeCounts::default() });
        assert_eq!(first.kills().0, 2);
        let counted = Counters { kills: 5, ring_full: 5, ..Counters::default() };
        let next = if is_detached {
            node.start_with(Origin { detached: vec![(8, counted)], ..new(9, 0) })
        } else {
            node.start_with(Origin { counted, ..pinned(8, 5) })
        };
        assert_eq!(next.kills().0, 5, "{is_detached}");
    }
}

#[test]
fn kills_in_the_ring_of_an_agent_that_saved_nothing_count_once() {
    let mut node = Node::new();
    node.killed(0, 0);
    node.start_with(new(8, 0)).save(confirmed(0));
    // The agent of probe 9 ended before it had saved anything; 8 is still there.
    node.killed(3, 3);
    node.kernel.probe = confirmed(3);
    let mut third = node.start_with(Origin { detached: vec![(8, counters(0))], ..pinned(9, 3) });
    for sequence in 1..=3 {
        assert!(!third.books.has_counted(9, sequence));
        let kill = third.sees(9, sequence);
        third.handles(&kill);
    }
    assert_eq!((third.checks(&node).len(), third.kills()), (0, (3, nginx(3))));
}
