//! What outlives the agent: kills while no agent runs, or one that hangs, are told by the next one, once; or found in
//! the kernel's counters.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use oom_watcher::record::ends::WAIT;
use oom_watcher::source::probe::{self, pins};

use crate::once_in_a_guest;
use crate::watch::grace;
use oom_watcher_testkit::agent::{Agent, Unready, settings};
use oom_watcher_testkit::collector::{Collector, Record};
use oom_watcher_testkit::exposition::total;
use oom_watcher_testkit::kills::{Made, make_and_hold};
use oom_watcher_testkit::machine::{bpf_file_system, guest, kernel};
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::wait::eventually;

const KILLS: &str = "oom_kills_total";
const DROPPED: &str = "oom_watcher_kills_dropped_total";
const MISSED: &str = "oom_watcher_missed_kills_total";
const UNEXPLAINED: &str = "oom_watcher_unexplained_kills_total";

/// As much of a burst to a slow guest, and more than the smallest ring buffer holds: kills, and how much memory each of
/// them is to fill first, KiB.
const IN_A_GUEST: (usize, u64) = (60, 1024);

/// Where agents of one test leave what outlives them. Dropping it removes all of it.
struct Place {
    pins: PathBuf,
    state: tempfile::TempDir,
    settings: tempfile::NamedTempFile,
}

impl Place {
    fn new(test: &str) -> Result<Self, String> {
        let pins = bpf_file_system()?.join(format!("oom-watcher-test-{}-{test}", std::process::id()));
        let state = tempfile::tempdir().unwrap();
        // The agent may be somebody else: it makes the folders that it locks in these.
        fs::set_permissions(state.path(), fs::Permissions::from_mode(0o777)).unwrap();
        Ok(Self { pins, state, settings: settings(grace()) })
    }

    fn flags(&self) -> Vec<String> {
        let places = [
            ("--pin-dir", self.pins.clone()),
            ("--state-dir", self.state.path().join("state")),
            ("--config", self.settings.path().into()),
        ];
        places.into_iter().flat_map(|(flag, place)| [flag.to_owned(), place.display().to_string()]).collect()
    }

    /// The same without the pins.
    fn state_alone(&self) -> Vec<String> {
        let mut flags = self.flags();
        flags[1] = "none".to_owned();
        flags
    }

    fn sets(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(&self.pins).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let removed = pins::remove_all(&self.pins);
        assert!(removed.is_ok() || thread::panicking(), "{removed:?}");
    }
}

fn start(collector: &Collector, flags: &[String]) -> Agent {
    Agent::start(&collector.environment(), &flags.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Ends it as a crash does.
fn crash(mut agent: Agent) {
    agent.signal(libc::SIGKILL);
    eventually("end of the agent", || agent.ended());
}

fn within(made: &Made) -> impl Fn(&str) -> bool + use<> {
    let root = format!("/{}/", made.cgroups.first().unwrap().path.split('/').nth(1).unwrap());
    move |path| path.starts_with(&root)
}

fn uids(records: &[Record]) -> BTreeSet<&str> {
    records.iter().map(|record| record.text("log.record.uid").unwrap()).collect()
}

fn is_reconstructed(record: &Record) -> bool {
    record.flag("oom_watcher.kill.reconstructed") == Some(true)
}

/// What the series of these containers add up to.
fn counted(agent: &Agent, made: &Made) -> f64 {
    let ids: BTreeSet<&str> = made
        .cgroups
        .iter()
        .filter_map(|cgroup| cgroup.container.as_ref())
        .map(|container| &container.container_id[..12])
        .collect();
    agent
        .metrics()
        .iter()
        .filter(|sample| sample.name == KILLS && ids.contains(sample.label("container")))
        .map(|sample| sample.value)
        .sum()
}

#[test]
fn an_agent_that_dies_amid_300_kills_loses_none_and_counts_none_twice() {
    needs!(once_in_a_guest());
    let _alone = needs!(real_kills());
    let place = needs!(Place::new("amid"));
    let collector = Collector::start();
    let first = start(&collector, &place.flags());
    let (kills, limit) = if guest() { IN_A_GUEST } else { (300, 4096) };
    let making = thread::spawn(move || make_and_hold(&format!("burst {kills} --limit-kib {limit}")));
    // Somewhere in the middle.
    eventually("a third of the records", || (collector.records(|_| true).len() >= kills / 3).then_some(()));
    crash(first);
    let held = making.join().unwrap();
    let made = &held.made;
    assert_eq!(made.done.killed, kills as u64);

    let second = start(&collector, &place.flags());
    let count = || uids(&collector.records(within(made))).len();
    eventually("all records", || (count() == kills).then_some(()));
    assert!(!collector.records(within(made)).iter().any(is_reconstructed));
    // As many as the records: those that the first one had counted are not counted again.
    assert_eq!(counted(&second, made), kills as f64);
    assert_eq!((total(&second.metrics(), MISSED), total(&second.metrics(), UNEXPLAINED)), (0.0, 0.0));
}

#[test]
fn kills_while_no_agent_runs_are_told_by_the_next_one_and_by_no_other() {
    let _alone = needs!(real_kills());
    let place = needs!(Place::new("away"));
    let collector = Collector::start();
    let mut first = start(&collector, &place.flags());
    assert_eq!(first.stop(), Some(0), "{}", first.log());
    let held = make_and_hold("burst 20");
    let made = &held.made;
    if !guest() {
        // Longer than the span of a kill waits for its end.
        thread::sleep(WAIT + Duration::from_secs(1));
    }
    let mut second = start(&collector, &place.flags());
    let records = collector.await_records(20, within(made));
    // That was told in time, and is read late.
    let end = if kernel() >= (6, 1) { "memory_freed" } else { "read" };
    records.iter().for_each(|record| assert_eq!(collector.await_span_end(record), end, "{record:?}"));
    assert_eq!((counted(&second, made), second.stop()), (20.0, Some(0)), "{}", second.log());
    // Everything was given back: nothing is told again, and the counts go on.
    let third = start(&collector, &place.flags());
    let last = make_and_hold("one");
    collector.await_records(1, within(&last.made));
    assert_eq!((collector.records(within(made)).len(), counted(&third, made)), (20, 20.0));
}

#[test]
fn without_pins_what_was_missed_is_found_in_the_counters_of_the_cgroups() {
    needs!(once_in_a_guest());
    let _alone = needs!(real_kills());
    let place = needs!(Place::new("missed"));
    let collector = Collector::start();
    let mut first = start(&collector, &place.state_alone());
    assert_eq!(first.stop(), Some(0), "{}", first.log());
    let held = make_and_hold("burst 30");
    let second = start(&collector, &place.state_alone());
    let records = collector.await_records(30, within(&held.made));
    assert_eq!((records.len(), uids(&records).len()), (30, 30));
    for record in &records {
        assert!(
            is_reconstructed(record) && record.text("oom_watcher.kill.missed_reason") == Some("away"),
            "{record:?}"
        );
        assert_eq!((record.number("process.pid"), record.text("oom_watcher.scope.type")), (None, None));
    }
    let told: BTreeSet<_> = records.iter().map(|record| record.text("container.id").unwrap()).collect();
    assert_eq!(
        told,
        held.made.cgroups.iter().map(|cgroup| cgroup.container.as_ref().unwrap().container_id.as_str()).collect()
    );
    assert_eq!(counted(&second, &held.made), 30.0);
    let away = second
        .metrics()
        .iter()
        .filter(|sample| sample.name == MISSED && sample.label("reconstructed") == "true")
        .map(|sample| sample.value)
        .sum();
    assert!(30.0 <= away, "others may have killed too: {away}");
    assert_eq!(total(&second.metrics(), UNEXPLAINED), 0.0);
}

#[test]
fn an_agent_without_pins_in_between_makes_no_kill_count_twice() {
    needs!(once_in_a_guest());
    let _alone = needs!(real_kills());
    let place = needs!(Place::new("between"));
    let collector = Collector::start();
    let mut first = start(&collector, &place.flags());
    assert_eq!(first.stop(), Some(0), "{}", first.log());
    let mut between = start(&collector, &place.state_alone());
    let held = make_and_hold("burst 5");
    collector.await_records(5, within(&held.made));
    assert_eq!(between.stop(), Some(0), "{}", between.log());
    let held_away = make_and_hold("burst 5 --seed 2");
    // The first one's probe has recorded all ten.
    let last = start(&collector, &place.flags());
    let count = |made: &Made| collector.records(within(made)).len();
    eventually("records", || (count(&held.made) == 10 && count(&held_away.made) == 10).then_some(()));
    assert_eq!(uids(&collector.records(within(&held.made))).len(), 5, "told again with the same ids");
    assert_eq!((counted(&last, &held.made), counted(&last, &held_away.made)), (5.0, 5.0));
    assert_eq!(total(&last.metrics(), UNEXPLAINED), 0.0);
}

#[test]
fn an_agent_of_another_build_takes_over_what_the_one_before_has_left() {
    needs!(once_in_a_guest());
    let _alone = needs!(real_kills());
    let place = needs!(Place::new("upgrade"));
    let collector = Collector::start();
    crash(start(&collector, &place.flags()));
    let before = place.sets();
    let held_made = make_and_hold("burst 20");
    let made = &held_made.made;

    let other = another_build(&place);
    let newer = Agent::start_program(
        &other,
        &collector.environment(),
        &place.flags().iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let held = make_and_hold("burst 10 --seed 2");
    let more = &held.made;
    collector.await_records(20, within(made));
    collector.await_records(10, within(more));
    assert_eq!((collector.records(within(made)).len(), collector.records(within(more)).len()), (20, 10));
    assert_eq!((counted(&newer, made), counted(&newer, more)), (20.0, 10.0));
    eventually("removal of the other set", || (place.sets() != before && place.sets().len() == 1).then_some(()));
    // And back, though the newer one is killed in the same way.
    crash(newer);
    let held_last = make_and_hold("burst 5 --seed 3");
    let last = &held_last.made;
    let older = start(&collector, &place.flags());
    collector.await_records(5, within(last));
    assert_eq!((collector.records(within(last)).len(), counted(&older, last), counted(&older, made)), (5, 5.0, 20.0));
    assert_eq!((total(&older.metrics(), MISSED), total(&older.metrics(), UNEXPLAINED)), (0.0, 0.0));
}

/// A copy of the agent that takes itself for another build: its fingerprint, 16 hexadecimal digits, is changed wherever
/// it stands.
fn another_build(place: &Place) -> PathBuf {
    let mut program = fs::read(oom_watcher_testkit::agent::program()).unwrap();
    let (build, other) = (probe::BUILD.as_bytes(), format!("{:0>16}", "b").into_bytes());
    let places: Vec<usize> =
        program.windows(build.len()).enumerate().filter(|(_, window)| *window == build).map(|(at, _)| at).collect();
    assert!(!places.is_empty(), "the agent and this test have different probes: build both");
    for at in places {
        program[at..at + other.len()].copy_from_slice(&other);
    }
    let path = place.state.path().join("another-build");
    fs::write(&path, program).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn what_a_crash_left_incomplete_blocks_no_start() {
    needs!(once_in_a_guest());
    let _alone = needs!(real_kills());
    let place = needs!(Place::new("stale"));
    let collector = Collector::start();
    let others = place.pins.join("others");
    for link in ["link_on_signal", "link_on_mark"].into_iter().take(if guest() { 1 } else { 2 }) {
        crash(start(&collector, &place.flags()));
        let [set] = &place.sets()[..] else { panic!("{:?}", place.sets()) };
        // As if it had died while it pinned, and another one while it removed; and what is not the agent's.
        fs::remove_file(place.pins.join(set).join(link)).unwrap();
        fs::create_dir(place.pins.join("0123456789abcdef-65536-plain-nde")).unwrap();
        fs::create_dir(&others).unwrap();
        let agent = start(&collector, &place.flags());
        let held = make_and_hold("one");
        assert_eq!(collector.await_records(1, within(&held.made)).len(), 1);
        assert_eq!(place.sets(), [set.as_str(), "others"]);
        crash(agent);
        assert_eq!(pins::remove_all(&place.pins).unwrap(), [place.pins.join(set)], "what others keep there stays");
        fs::remove_dir(&others).unwrap();
    }
}

#[test]
fn an_agent_whose_pins_are_removed_goes_on_seeing_kills() {
    needs!(once_in_a_guest());
    let _alone = needs!(real_kills());
    let place = needs!(Place::new("unlinked"));
    let collector = Collector::start();
    for is_taken_over in [false, true] {
        if is_taken_over {
            crash(start(&collector, &place.flags()));
        }
        let _agent = start(&collector, &place.flags());
        let [set] = &place.sets()[..] else { panic!("{:?}", place.sets()) };
        for pin in fs::read_dir(place.pins.join(set)).unwrap() {
            fs::remove_file(pin.unwrap().path()).unwrap();
        }
        fs::remove_dir(place.pins.join(set)).unwrap();
        let held = make_and_hold("one");
        assert_eq!(collector.await_records(1, within(&held.made)).len(), 1);
    }
}

#[test]
fn a_second_agent_is_refused_with_the_process_id_of_the_first() {
    needs!(once_in_a_guest());
    let _alone = needs!(real_kills());
    let place = needs!(Place::new("second"));
    let collector = Collector::start();
    let first = start(&collector, &place.flags());
    for flags in [place.flags(), place.state_alone()] {
        let Unready { code, log } =
            Agent::start_unready(&collector.environment(), &flags.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(
            log.contains(&format!("another oom-watcher runs on this node, process {}: stop it", first.pid())),
            "{log}"
        );
        assert_eq!(code, Some(3), "{log}");
    }
}

#[test]
fn detach_removes_everything_unless_an_agent_runs() {
    needs!(once_in_a_guest());
    let _alone = needs!(real_kills());
    let place = needs!(Place::new("detach"));
    let collector = Collector::start();
    let detach = || {
        let mut command = std::process::Command::new(oom_watcher_testkit::agent::program());
        let output =
            command.env("NODE_NAME", "test-node").args(["detach", "--pin-dir"]).arg(&place.pins).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let agent = start(&collector, &place.flags());
    let (code, said) = detach();
    assert!(code == Some(1) && said.contains(&format!("process {}: stop it", agent.pid())), "{said}");
    crash(agent);
    let (code, said) = detach();
    assert!(code == Some(0) && said.contains(&format!("removed {}\n", place.pins.display())), "{said}");
    assert!(!place.pins.exists());
    assert_eq!(detach(), (Some(0), format!("nothing is pinned in {}\n", place.pins.display())));
}

#[test]
fn a_reader_that_stops_loses_nothing_in_silence() {
    needs!(once_in_a_guest());
    let _alone = needs!(real_kills());
    let place = needs!(Place::new("stopped"));
    let collector = Collector::start();
    fs::write(&place.settings, "probe:\n  ring_bytes: 64KiB\n").unwrap();
    let agent = start(&collector, &place.flags());
    let dropped_before = total(&agent.metrics(), DROPPED);
    let stopped = agent.stopped();
    let (kills, limit) = if guest() { IN_A_GUEST } else { (1000, 4096) };
    let held = make_and_hold(&format!("burst {kills} --limit-kib {limit}"));
    drop(stopped);
    // Those that found no room are found again in the counters of their cgroups.
    let records = eventually("a record of each kill", || {
        Some(collector.records(within(&held.made))).filter(|records| uids(records).len() == kills)
    });
    let seen: Vec<i64> = records.iter().filter_map(|record| record.number("oom_watcher.kill.sequence")).collect();
    let dropped = total(&agent.metrics(), DROPPED) - dropped_before;
    let reconstructed = records.iter().filter(|record| is_reconstructed(record)).count();
    assert_eq!(
        (seen.len() as f64 + dropped, seen.len() + reconstructed),
        (kills as f64, kills),
        "seen and dropped are what the kernel counted"
    );
    assert!(dropped > 0.0 && !seen.is_empty());
    // The oldest were kept.
    let first = seen[0];
    assert_eq!(seen, (first..first + seen.len() as i64).collect::<Vec<_>>());
    assert_eq!((counted(&agent, &held.made), total(&agent.metrics(), UNEXPLAINED)), (kills as f64, 0.0));
}
