//! Completeness: bursts of kills, counted by the kernel, by oom-watcher and by what people use today, all in the same
//! run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::load::Load;
use crate::observers::{Bpftrace, KernelLog, ProcReader, Sighting};
use crate::report::{Cell, Report, Table, Unit};
use oom_watcher_testkit::agent::Agent;
use oom_watcher_testkit::collector::{Collector, Record};
use oom_watcher_testkit::exposition::total;
use oom_watcher_testkit::kills::{Made, make};
use oom_watcher_testkit::machine::kernel_kills;
use oom_watcher_testkit::wait::eventually;

/// How long a slow collector takes to answer.
const SLOW: Duration = Duration::from_secs(1);
/// For so long the kernel log tells no more than ten decisions (DEFAULT_RATELIMIT_INTERVAL,
/// include/linux/ratelimit_types.h): each burst begins with a new ten.
const RATE_LIMIT: Duration = Duration::from_secs(5);
/// The limit of each cgroup: the smaller, the sooner it is reached.
const LIMIT_KIB: u32 = 1024;

/// Under what circumstances.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Circumstances {
    Idle,
    AllCpusBusy,
    SlowCollector,
}

/// Those who watch beside the agent, during all bursts.
struct Others {
    log: KernelLog,
    proc: ProcReader,
    bpftrace: Option<Bpftrace>,
}

/// What one burst came to: kills, by who tells of them.
struct Outcome {
    kernel: u64,
    counted: u64,
    attributed: u64,
    /// By how much the counts of containers differ from the kernel's.
    miscounted: u64,
    recorded: u64,
    per_second: f64,
    log: Vec<Sighting>,
    explained: Vec<Sighting>,
    proc: Vec<Sighting>,
    bpftrace: Option<Vec<Sighting>>,
    truth: BTreeMap<u32, String>,
}

pub(crate) fn measure(report: &mut Report, repeat: u32) {
    let others = Others::start();
    if others.bpftrace.is_some() {
        report.beside(Path::new("bpftrace"));
    }
    let mut ours = Table::new(
        "Completeness: oom-watcher",
        "burst",
        &[
            ("killed, by the kernel's count", Unit::Count),
            ("counted in `oom_kills_per_node_total`", Unit::Count),
            ("counted for the right container", Unit::Count),
            ("log records of the right container at the receiver", Unit::Count),
            ("kills per second", Unit::PerSecond),
        ],
    );
    let mut theirs = Table::new(
        "Completeness: others, on the same kills",
        "burst",
        &[
            ("kernel log: “Killed process”", Unit::Count),
            ("kernel log: with the right cgroup", Unit::Count),
            ("/proc at the event: with the right cgroup", Unit::Count),
            ("bpftrace: lines", Unit::Count),
            ("bpftrace: right cgroup still in /proc", Unit::Count),
        ],
    );
    let mut seed = 100;
    let mut bursts = Vec::new();
    for kills in [1, 10, 100, 1000] {
        bursts.push((format!("{kills} in as many cgroups"), kills, "", Circumstances::Idle));
    }
    for kills in [10, 100, 1000] {
        bursts.push((
            format!("{kills} in one cgroup, one after the other"),
            kills,
            " --one-cgroup --concurrency 1",
            Circumstances::Idle,
        ));
    }
    bursts.push(("1000 in as many cgroups, all CPUs busy".to_owned(), 1000, "", Circumstances::AllCpusBusy));
    bursts.push((
        "1000 in as many cgroups, collector answers after 1 s".to_owned(),
        1000,
        "",
        Circumstances::SlowCollector,
    ));
    let mut missing = 0;
    for (name, kills, flags, circumstances) in bursts {
        let outcomes: Vec<_> = (0..repeat)
            .map(|_| {
                seed += 1;
                others.run(&format!("--seed {seed} burst {kills} --limit-kib {LIMIT_KIB}{flags}"), circumstances)
            })
            .collect();
        missing += outcomes.iter().map(Outcome::wrong).sum::<u64>();
        let of = |count: &dyn Fn(&Outcome) -> Option<f64>| Cell::of(outcomes.iter().filter_map(count));
        ours.row(
            &name,
            vec![
                of(&|outcome| Some(outcome.kernel as f64)),
                of(&|outcome| Some(outcome.counted as f64)),
                of(&|outcome| Some(outcome.attributed as f64)),
                of(&|outcome| Some(outcome.recorded as f64)),
                of(&|outcome| Some(outcome.per_second)),
            ],
        );
        theirs.row(
            &name,
            vec![
                of(&|outcome| Some(outcome.seen(&outcome.log))),
                of(&|outcome| Some(outcome.right(&outcome.explained))),
                of(&|outcome| Some(outcome.right(&outcome.proc))),
                of(&|outcome| Some(outcome.seen(outcome.bpftrace.as_ref()?))),
                of(&|outcome| Some(outcome.right(outcome.bpftrace.as_ref()?))),
            ],
        );
    }
    report.add(ours);
    report.add(theirs);
    report.goal(
        "kills of all bursts that were not counted once, not for the right container, or have no record",
        "0",
        Unit::Count,
        missing as f64,
        missing == 0,
    );
}

impl Others {
    fn start() -> Self {
        let (log, proc) = (KernelLog::start(), ProcReader::start());
        let bpftrace = Bpftrace::start().inspect_err(|why| eprintln!("bench: without bpftrace: {why}")).ok();
        let this = Self { log, proc, bpftrace };
        // It says that it attaches, not that it is attached.
        eventually("kill that bpftrace sees", || {
            make("one");
            this.bpftrace.as_ref().is_none_or(|bpftrace| !bpftrace.seen.take(1).is_empty()).then_some(())
        });
        this.forget();
        this
    }

    /// What was seen so far is nobody's business.
    fn forget(&self) {
        self.log.killed.take(0);
        self.log.explained.take(0);
        self.proc.seen.take(0);
        self.bpftrace.iter().for_each(|bpftrace| drop(bpftrace.seen.take(0)));
    }

    /// One burst, under the eyes of a new agent and of all others.
    fn run(&self, arguments: &str, circumstances: Circumstances) -> Outcome {
        let collector = Collector::start();
        if circumstances == Circumstances::SlowCollector {
            collector.be_slow(SLOW);
        }
        // Ahead of the agent: what others make from here on may be in its count.
        let before = kernel_kills();
        let agent = Agent::start(&collector.environment(), &[]);
        thread::sleep(RATE_LIMIT);
        self.forget();
        let load = (circumstances == Circumstances::AllCpusBusy).then(Load::start);
        let made = make(arguments);
        let kills = made.done.killed as usize;
        let is_ours = |path: &str| made.cgroups.iter().any(|cgroup| cgroup.path == path);
        // Those that do not come are told in the table.
        let records = collector.try_records(kills, is_ours).unwrap_or_else(|fewer| fewer);
        drop(load);
        let foreign = kernel_kills() - before - made.done.kernel_kills;
        if foreign > 0 {
            eprintln!(
                "bench: others made {foreign} kills meanwhile, of which one during the agent's start may not be in its \
                 count"
            );
        }
        let truth = made.processes.iter().map(|process| (process.pid, process.cgroup.clone())).collect();
        let samples = agent.metrics();
        let of_cgroups = made.cgroups.iter().map(|cgroup| {
            let short = cgroup.container.as_ref().map_or("", |container| &container.container_id[..12]);
            let of_container =
                samples.iter().filter(|sample| sample.name == "oom_kills_total" && sample.label("container") == short);
            (cgroup.kernel_kills, of_container.map(|sample| sample.value).sum::<f64>() as u64)
        });
        let of_cgroups: Vec<_> = of_cgroups.collect();
        Outcome {
            kernel: made.done.kernel_kills,
            counted: (total(&samples, "oom_kills_per_node_total") as u64).saturating_sub(foreign),
            attributed: of_cgroups.iter().map(|(kernel, counted)| *kernel.min(counted)).sum(),
            miscounted: of_cgroups.iter().map(|(kernel, counted)| kernel.abs_diff(*counted)).sum(),
            recorded: rightly_recorded(&made, &records),
            per_second: made.done.killed as f64 / made.done.seconds,
            log: self.log.killed.take(kills),
            explained: self.log.explained.take(kills),
            proc: self.proc.seen.take(kills),
            bpftrace: self.bpftrace.as_ref().map(|bpftrace| bpftrace.seen.take(kills)),
            truth,
        }
    }
}

/// Kills with a record of the right process in the right container.
fn rightly_recorded(made: &Made, records: &[Record]) -> u64 {
    let victims = made.processes.iter().filter_map(|process| {
        let container = made.cgroup(&process.cgroup).container.as_ref()?;
        Some((process.pid, process.cgroup.as_str(), container.container_id.as_str(), container.pod_uid.as_str()))
    });
    let expected: BTreeSet<_> = victims.collect();
    let told = records.iter().filter_map(|record| {
        let pid = record.number("process.pid")?.try_into().ok()?;
        Some((pid, record.text("process.linux.cgroup")?, record.text("container.id")?, record.text("k8s.pod.uid")?))
    });
    expected.intersection(&told.collect()).count() as u64
}

impl Outcome {
    /// Kills that are missing somewhere, or counted too often or for another container.
    fn wrong(&self) -> u64 {
        let without_record = self.kernel.saturating_sub(self.recorded);
        without_record.max(self.miscounted).max(self.kernel.abs_diff(self.counted))
    }

    /// Victims of this burst that were seen.
    fn seen(&self, sightings: &[Sighting]) -> f64 {
        sightings
            .iter()
            .map(|sighting| sighting.pid)
            .filter(|pid| self.truth.contains_key(pid))
            .collect::<BTreeSet<_>>()
            .len() as f64
    }

    /// Victims whose cgroup was told, and rightly.
    fn right(&self, sightings: &[Sighting]) -> f64 {
        let right = sightings
            .iter()
            .filter(|sighting| sighting.cgroup.is_some() && self.truth.get(&sighting.pid) == sighting.cgroup.as_ref());
        right.map(|sighting| sighting.pid).collect::<BTreeSet<_>>().len() as f64
    }
}
