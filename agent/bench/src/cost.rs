//! What it costs: the probe for each kill, each ordinary signal and each process of the machine; the agent for each
//! kill and while nothing happens; its start.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::process::Usage;
use crate::programs::{Counting, Ran, between, ran};
use crate::report::{Cell, Report, Table, Unit};
use oom_watcher_testkit::agent::Agent;
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::kills::make;
use oom_watcher_testkit::wait::{eventually, eventually_within};

const KILLS: u32 = 1000;
/// Kills of which each is saved for itself, and the time between them: longer than the agent waits between two saves.
const ALONE: u32 = 50;
const SAVES: Duration = Duration::from_millis(150);
/// As many as the table has room for.
const OWNERS: u32 = 2000;
/// Few enough for the ring buffer and for that of the notes.
const UNREAD: u32 = 80;
const SIGNALS: u32 = 200_000;
const PROCESSES: u32 = 1000;
/// How long an idle agent is watched that sends nothing.
const IDLE: Duration = Duration::from_secs(15);
/// The default of `OTEL_METRIC_EXPORT_INTERVAL`: who sends is watched from its start to its first export, which is as
/// long.
const EXPORT_INTERVAL: Duration = Duration::from_secs(60);
/// Between two scrapes.
const SCRAPES: Duration = Duration::from_secs(5);
/// How often the agent is started.
const STARTS: u32 = 10;
/// Rounds of each ratio: without the probe, with it, by turns.
const ROUNDS: u32 = 5;

pub(crate) fn measure(report: &mut Report, repeat: u32) {
    start(report);
    programs(report, repeat);
    ratios(report);
    agent(report, repeat);
}

/// An agent alone: nobody else's probe is loaded.
fn alone() -> (Agent, Collector) {
    eventually("end of the probes of earlier agents", || ran().is_empty().then_some(()));
    let collector = Collector::start();
    (Agent::start(&collector.environment(), &[]), collector)
}

fn start(report: &mut Report) {
    let mut table = Table::new("Start", "cost", &[("", Unit::Seconds)]);
    let starts = (0..STARTS).map(|_| {
        let begin = Instant::now();
        let _agent = Agent::start(&[], &[]);
        begin.elapsed().as_secs_f64()
    });
    let cell = Cell::of(starts).unwrap();
    report.goal(
        "start: process start → attached, largest of ten",
        "< 200 ms",
        Unit::Seconds,
        cell.maximum(),
        cell.maximum() < 0.2,
    );
    table.row("process start → attached and listening, as its log says", vec![Some(cell)]);
    report.add(table);
}

fn programs(report: &mut Report, repeat: u32) {
    let mut table = Table::new(
        "The probe, by the kernel's own clock (BPF_STATS_RUN_TIME)",
        "cost",
        &[("runs", Unit::Ratio), ("time for each", Unit::Seconds), ("instructions verified at load", Unit::Count)],
    );
    let _counting = Counting::start();
    let (agent, collector) = alone();
    let mut seen = 0;
    let runs_of = |work: &mut dyn FnMut()| -> Vec<Vec<Ran>> {
        let once = |_| {
            let before = ran();
            work();
            between(&before, &ran())
        };
        (0..repeat).map(once).collect()
    };
    let mut kill = || {
        drop(make(&format!("burst {KILLS} --limit-kib 1024")));
        seen += KILLS as usize;
        collector.await_records(seen, |_| true);
    };
    let kills = runs_of(&mut kill);
    // It reads nothing, so nothing wakes it.
    let stopped = agent.stopped();
    let unread = runs_of(&mut || drop(make(&format!("burst {UNREAD} --limit-kib 1024"))));
    drop(stopped);
    let signals = runs_of(&mut || send_signals(SIGNALS));
    let executions = runs_of(&mut || execute(PROCESSES));
    let mut of_a_kill = vec![0.0; repeat as usize];
    for (what, runs, number) in [
        ("kill", &kills, KILLS),
        ("kill while the agent is stopped", &unread, UNREAD),
        ("ordinary signal", &signals, SIGNALS),
        ("fork, exec and exit", &executions, PROCESSES),
    ] {
        for (index, program) in runs[0].iter().enumerate() {
            let of = |value: &dyn Fn(&Ran) -> f64| Cell::of(runs.iter().map(|run| value(&run[index])));
            let each = of(&|ran| if ran.times == 0 { 0.0 } else { ran.nanoseconds as f64 / ran.times as f64 / 1e9 });
            if what == "kill" {
                runs.iter()
                    .zip(&mut of_a_kill)
                    .for_each(|(run, sum)| *sum += run[index].nanoseconds as f64 / f64::from(number) / 1e9);
            }
            if what == "ordinary signal" && program.name == "on_signal" {
                let median = each.as_ref().unwrap().median();
                report.goal("the probe, for each ordinary signal", "< 60 ns", Unit::Seconds, median, median < 60e-9);
            }
            let times = of(&|ran| ran.times as f64 / f64::from(number));
            table.row(
                &format!("`{}`, for each {what}", program.name),
                vec![times, each, Cell::one(program.verified as f64)],
            );
        }
    }
    // Everything that ran meanwhile: the maker's own signals and processes too.
    let all = Cell::of(of_a_kill).unwrap();
    report.goal(
        "the probe, for each kill, all programs together",
        "< 5 µs",
        Unit::Seconds,
        all.median(),
        all.median() < 5e-6,
    );
    table.row("all, for each kill", vec![None, Some(all), None]);
    report.add(table);
}

/// The same work without the probe and with it, by turns. Nothing counts meanwhile.
fn ratios(report: &mut Report) {
    let mut table = Table::new(
        "The machine's ordinary work, without and with the probe",
        "cost",
        &[
            ("without", Unit::Seconds),
            ("with", Unit::Seconds),
            ("ratio of the least", Unit::Ratio),
            ("ratio of the medians", Unit::Ratio),
        ],
    );
    let timed = |work: &dyn Fn(u32), number: u32| {
        let begin = Instant::now();
        work(number);
        begin.elapsed().as_secs_f64() / f64::from(number)
    };
    for (name, work, number) in [
        ("a signal (kill(2), ignored)", &send_signals as &dyn Fn(u32), SIGNALS),
        ("a process (fork, exec, exit, wait)", &execute, PROCESSES),
    ] {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            eventually("end of the probes of earlier agents", || ran().is_empty().then_some(()));
            without.push(timed(work, number));
            let _agent = alone();
            with.push(timed(work, number));
        }
        let [without, with] = [without, with].map(|samples| Cell::of(samples).unwrap());
        let ratios = [with.minimum() / without.minimum(), with.median() / without.median()].map(Cell::one);
        let [least, medians] = ratios;
        table.row(name, vec![Some(without), Some(with), least, medians]);
    }
    report.add(table);
}

fn agent(report: &mut Report, repeat: u32) {
    let mut table = Table::new(
        "The agent",
        "cost",
        &[
            ("CPU", Unit::Seconds),
            ("of one core", Unit::Part),
            ("wake-ups per second", Unit::Ratio),
            ("threads", Unit::Count),
        ],
    );
    let (agent, collector) = alone();
    table.row("for each kill, with OTLP", vec![of_a_kill(&agent, &collector, repeat), None, None, None]);
    drop((agent, collector));
    let (collector, folder) = (Collector::start(), tempfile::tempdir().unwrap());
    let agent = Agent::start(&collector.environment(), &["--state-dir", folder.path().to_str().unwrap()]);
    make(&format!("--seed {OWNERS} burst {OWNERS} --limit-kib 1024"));
    collector.await_records(OWNERS as usize, |_| true);
    let kills = of_a_kill_alone(&agent, &collector, repeat);
    let name = format!("for each kill with a state of {OWNERS} containers, saved for it alone");
    table.row(&name, vec![kills, None, None, None]);
    drop((agent, collector));
    for (name, exports, scrapes) in [
        ("idle", false, false),
        ("idle, an OTLP export every 60 s", true, false),
        ("idle, a scrape every 5 s", false, true),
    ] {
        let collector = Collector::start();
        let environment = collector.environment();
        let agent = Agent::start(if exports { &environment } else { &[] }, &[]);
        let (before, begin) = (Usage::of(agent.pid()), Instant::now());
        if exports {
            eventually_within(2 * EXPORT_INTERVAL, "export", || {
                collector.look(|received| !received.metrics.is_empty()).then_some(())
            });
        }
        while !exports && begin.elapsed() < IDLE {
            // What is measured is a rate: of a stretch of time, in which somebody may scrape.
            thread::sleep(SCRAPES);
            if scrapes {
                agent.metrics();
            }
        }
        let (after, time) = (Usage::of(agent.pid()), begin.elapsed());
        let cpu = (after.cpu - before.cpu).as_secs_f64();
        let (part, wake_ups) =
            (cpu / time.as_secs_f64(), (after.wake_ups - before.wake_ups) as f64 / time.as_secs_f64());
        table.row(
            &format!("{name}; {:.0} s", time.as_secs_f64()),
            vec![Cell::one(cpu), Cell::one(part), Cell::one(wake_ups), Cell::one(after.threads as f64)],
        );
        if exports {
            report.goal("agent, idle, with OTLP: CPU", "< 0.1 % of one core", Unit::Part, part, part < 1e-3);
            report.goal("agent, idle: threads", "≤ 6", Unit::Count, after.threads as f64, after.threads <= 6);
        }
    }
    report.add(table);
}

/// The agent's CPU for each of [`KILLS`] kills, one after the other, each with its record.
fn of_a_kill(agent: &Agent, collector: &Collector, repeat: u32) -> Option<Cell> {
    let before = collector.records(|_| true).len();
    let run = |run: u32| {
        let begin = Usage::of(agent.pid());
        make(&format!("burst {KILLS} --limit-kib 1024"));
        collector.await_records(before + (run * KILLS) as usize, |_| true);
        (Usage::of(agent.pid()).cpu - begin.cpu).as_secs_f64() / f64::from(KILLS)
    };
    Cell::of((1..=repeat).map(run).collect::<Vec<_>>())
}

/// The same for kills so far apart that each is saved for itself.
fn of_a_kill_alone(agent: &Agent, collector: &Collector, repeat: u32) -> Option<Cell> {
    let before = collector.records(|_| true).len();
    let run = |run: u32| {
        let begin = Usage::of(agent.pid());
        for number in 1..=ALONE {
            make("one --limit-kib 1024");
            collector.await_records(before + (run * ALONE + number) as usize, |_| true);
            // What is measured is a kill that no other shares its save with.
            thread::sleep(SAVES);
        }
        (Usage::of(agent.pid()).cpu - begin.cpu).as_secs_f64() / f64::from(ALONE)
    };
    Cell::of((0..repeat).map(run).collect::<Vec<_>>())
}

/// To this process, which ignores it.
fn send_signals(number: u32) {
    for _ in 0..number {
        // SAFETY: no memory is involved; what a process does at SIGURG, unless it says otherwise, is nothing.
        assert_eq!(unsafe { libc::kill(libc::getpid(), libc::SIGURG) }, 0);
    }
}

fn execute(number: u32) {
    for _ in 0..number {
        assert!(Command::new("/bin/true").status().unwrap().success());
    }
}
