//! An agent, its collector, and runs of oom-maker under their eyes. What is true of every shape of kill is checked
//! here, each time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use oom_watcher_testkit::agent::Agent;
use oom_watcher_testkit::collector::{Collector, Record};
use oom_watcher_testkit::exposition::{Sample, total};
use oom_watcher_testkit::kills::report::Role;
use oom_watcher_testkit::kills::{Held, Made, hold_if_possible, make_and_hold};
use oom_watcher_testkit::machine::{guest, reads_strings};

pub(crate) const KILLS: &str = "oom_kills_total";
pub(crate) const KILLS_PER_NODE: &str = "oom_kills_per_node_total";
const INCIDENTS: &str = "oom_incidents_total";
const DROPPED: &str = "oom_watcher_kills_dropped_total";
const IGNORED: &str = "oom_watcher_events_ignored_total";

/// What tests in a guest share, where an agent takes seconds to start: started by the first, taken away by one that
/// fails and when the tests end.
static SHARED: Mutex<Option<(Arc<Agent>, Arc<Collector>)>> = Mutex::new(None);

/// A running agent that sends to a collector.
pub(crate) struct Watch {
    /// The agent.
    pub(crate) agent: Arc<Agent>,
    /// The collector.
    pub(crate) collector: Arc<Collector>,
    /// What `/metrics` said before the last run.
    before: Vec<Sample>,
    /// The cgroups of the last run, where the agent finds their names by their directories (lockdown=confidentiality):
    /// in a guest it may be too slow for those that are gone at once.
    held: Option<Held>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if thread::panicking() {
            // The last one that has the agent prints its log.
            SHARED.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
    }
}

impl Watch {
    /// Starts both; in a guest, goes on with those of the test before.
    pub(crate) fn start() -> Self {
        let started = || {
            let (agent, collector) = start_alone();
            (Arc::new(agent), Arc::new(collector))
        };
        let (agent, collector) = if guest() {
            let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            let (agent, collector) = shared.get_or_insert_with(|| {
                // SAFETY: it is called when the process ends, and touches nothing that has ended before it.
                assert_eq!(unsafe { libc::atexit(end_shared) }, 0);
                started()
            });
            (Arc::clone(agent), Arc::clone(collector))
        } else {
            started()
        };
        let before = agent.metrics();
        Self { agent, collector, before, held: None }
    }

    /// Runs oom-maker in a unit of its own: what is not in a container has that unit's series.
    pub(crate) fn make(&mut self, arguments: &str) -> Made {
        self.make_if_possible(arguments).unwrap_or_else(|why| panic!("oom-maker {arguments}: {why}"))
    }

    /// The same where the kernel may not have what it needs: then says what.
    pub(crate) fn make_if_possible(&mut self, arguments: &str) -> Result<Made, String> {
        self.before = self.agent.metrics();
        self.run(arguments)
    }

    /// Runs it while the agent is stopped: where the machine runs out of memory it is not the one that asks for the
    /// last page.
    pub(crate) fn make_while_stopped(&mut self, arguments: &str) -> Made {
        self.before = self.agent.metrics();
        let agent = Arc::clone(&self.agent);
        let stopped = agent.stopped();
        let made = self.run(arguments).unwrap_or_else(|why| panic!("oom-maker {arguments}: {why}"));
        drop(stopped);
        made
    }

    fn run(&mut self, arguments: &str) -> Result<Made, String> {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let unit = format!("oom-watcher-test-{}-{run}.service", std::process::id());
        // Containers have ids of their own in each run.
        let held = hold_if_possible(&format!("--root /{unit} --seed {} {arguments}", run + 2))?;
        let made = held.made.clone();
        self.held = (!reads_strings()).then_some(held);
        Ok(made)
    }

    /// The records of the last run, once they are all there.
    ///
    /// Whatever was killed how: each kill has one record of its own, each incident as many as it says, `/metrics` has
    /// the same numbers, and the kernel counted as many, but for the first of a group, which it counts twice.
    pub(crate) fn told(&self, made: &Made) -> Vec<Record> {
        let records = all_records(&self.collector, made);
        assert_eq!(records.len() as u64, made.done.killed, "{records:?}");
        check_kills(made, &records);
        let incidents = check_incidents(&records);
        let samples = self.agent.metrics();
        let owners = owners(made);
        let of_owners = |name: &str| {
            let is_ours = |sample: &&Sample| sample.name == name && owners.contains(sample.label("container"));
            samples.iter().filter(is_ours).map(|sample| sample.value).sum::<f64>()
        };
        assert_eq!(
            (of_owners(KILLS), of_owners(INCIDENTS)),
            (records.len() as f64, incidents as f64),
            "series of {owners:?}"
        );
        assert_eq!(total(&samples, DROPPED), 0.0);
        assert_eq!(total(&samples, KILLS_PER_NODE), total(&samples, KILLS), "others' kills are in both");
        // Others have no groups here: either there are no others, or no groups.
        assert_eq!(records.len() as u64 + self.ignored("repeated"), made.done.kernel_kills);
        let all = made.done.vmstat_kills;
        assert!(all == made.done.kernel_kills || !guest() && all > made.done.kernel_kills, "{made:?}");
        records
    }

    /// Events ignored for that reason since before the last run. Others' are among them.
    pub(crate) fn ignored(&self, reason: &str) -> u64 {
        self.since(|sample| sample.name == IGNORED && sample.label("reason") == reason)
    }

    /// What these series grew by since before the last run.
    pub(crate) fn since(&self, is_wanted: impl Fn(&Sample) -> bool) -> u64 {
        let count = |samples: &[Sample]| -> f64 {
            samples.iter().filter(|sample| is_wanted(sample)).map(|sample| sample.value).sum()
        };
        (count(&self.agent.metrics()) - count(&self.before)) as u64
    }

    /// That many events were ignored for that reason: more only if there are others.
    pub(crate) fn check_ignored(&self, reason: &str, expected: u64) {
        let ignored = self.ignored(reason);
        assert!(ignored == expected || !guest() && ignored > expected, "{ignored} {reason}, not {expected}");
    }
}

/// How long agents may deliver at their end, as their configuration says it: ten seconds, which is the default, but a
/// guest on a busy machine may stand still for as long.
pub(crate) fn grace() -> &'static str {
    if guest() { "shutdown_grace: 2m\n" } else { "shutdown_grace: 10s\n" }
}

/// An agent and its collector that no other test has.
pub(crate) fn start_alone() -> (Agent, Collector) {
    let collector = Collector::start();
    (Agent::start(&collector.environment(), &[]), collector)
}

extern "C" fn end_shared() {
    if let Ok(mut shared) = SHARED.lock() {
        shared.take();
    }
}

/// Whether a path is below the root of that run of oom-maker.
pub(crate) fn within(made: &Made) -> impl Fn(&str) -> bool + use<> {
    let root = format!("/{}/", root(made));
    move |path| path.starts_with(&root)
}

/// The records of that run, once there are as many as kills. A last kill of one's own comes after them: what is there
/// then is all there is.
fn all_records(collector: &Collector, made: &Made) -> Vec<Record> {
    let last = make_and_hold("one");
    collector.await_records(1, within(&last.made));
    collector.await_records(usize::try_from(made.done.killed).unwrap(), within(made))
}

/// Each record has its own id and names its own process, in the cgroup where that was.
fn check_kills(made: &Made, records: &[Record]) {
    let ids: BTreeSet<_> = records.iter().map(|record| record.text("log.record.uid").unwrap()).collect();
    let pids: BTreeSet<_> = records.iter().map(|record| record.number("process.pid").unwrap()).collect();
    assert_eq!((ids.len(), pids.len()), (records.len(), records.len()), "{records:?}");
    for record in records {
        let pid = record.number("process.pid").unwrap();
        let process =
            made.processes.iter().find(|process| i64::from(process.pid) == pid && process.role != Role::Collateral);
        assert_eq!(
            record.text("process.linux.cgroup"),
            process.map(|process| process.cgroup.as_str()),
            "{pid}: {made:?}"
        );
    }
}

/// Each incident bears the id of its first kill, and its kills are numbered. Returns how many incidents there are.
fn check_incidents(records: &[Record]) -> usize {
    let mut incidents: BTreeMap<&str, BTreeMap<i64, &str>> = BTreeMap::new();
    for record in records {
        let kills = incidents.entry(record.text("oom_watcher.incident.id").unwrap()).or_default();
        kills.insert(record.number("oom_watcher.incident.kill").unwrap(), record.text("log.record.uid").unwrap());
    }
    for (id, kills) in &incidents {
        assert_eq!(kills.get(&1), Some(id));
        assert!(kills.keys().copied().eq((1..).take(kills.len())), "{id}: {kills:?}");
    }
    assert_eq!(incidents.values().map(BTreeMap::len).sum::<usize>(), records.len());
    incidents.len()
}

/// The `container` labels of that run's cgroups.
fn owners(made: &Made) -> BTreeSet<&str> {
    made.cgroups
        .iter()
        .map(|cgroup| cgroup.container.as_ref().map_or(root(made), |container| &container.container_id[..12]))
        .collect()
}

/// The name of the cgroup that all others of that run are below.
fn root(made: &Made) -> &str {
    made.cgroups.first().unwrap().path.split('/').nth(1).unwrap()
}
