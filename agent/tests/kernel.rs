//! Ring "kernel": the release binary on this machine's kernel, with real kills and a collector in this process.
//!
//! Others may kill on the machine meanwhile: what is asserted is about the cgroups made here, or compared with the kernel's own count.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

#[allow(dead_code, unused_imports, reason = "each test program uses a part of it")]
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use oom_watcher::source::hierarchy::{Hierarchy, Version};
use support::agent::{Agent, NODE};
use support::collector::{Collector, Record};
use support::exposition::{Sample, total};
use support::makers::{Made, make, make_if_possible};
use support::told::Role;
use support::{cgroups, eventually, one_at_a_time, skip};

const KILLS: &str = "oom_kills_total";
const KILLS_PER_NODE: &str = "oom_kills_per_node_total";
const INCIDENTS: &str = "oom_incidents_total";
const DROPPED: &str = "oom_watcher_kills_dropped_total";
const IGNORED: &str = "oom_watcher_events_ignored_total";

macro_rules! needs_kernel {
    () => {
        let _one = one_at_a_time();
        if let Err(why) = cgroups() {
            skip!("{why}");
        }
    };
}

/// An agent and the collector that it sends to.
fn start() -> (Agent, Collector) {
    let collector = Collector::start();
    (Agent::start(&collector.environment(), &[]), collector)
}

/// Whether a path is below the root of that run of oom-maker.
fn within(made: &Made) -> impl Fn(&str) -> bool + use<> {
    let root = format!("/{}/", made.cgroups.first().unwrap().path.split('/').nth(1).unwrap());
    move |path| path.starts_with(&root)
}

/// The records of that run, once there are as many as kills. A last kill of one's own comes after them: what is there then is all there is.
fn all_records(collector: &Collector, made: &Made) -> Vec<Record> {
    let last = make("one");
    collector.await_records(1, within(&last));
    collector.await_records(usize::try_from(made.done.killed).unwrap(), within(made))
}

/// What the kernel counted on the whole machine since it was started.
fn kernel_kills() -> u64 {
    let counters = fs::read_to_string("/proc/vmstat").unwrap();
    counters.lines().find_map(|line| line.strip_prefix("oom_kill ")).unwrap().parse().unwrap()
}

/// Major and minor version of the running kernel.
fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

#[test]
fn each_of_500_kills_in_a_burst_is_counted_and_recorded_for_its_container() {
    needs_kernel!();
    let (agent, collector) = start();
    let made = make("burst 500");
    assert_eq!((made.done.killed, made.done.kernel_kills), (500, 500));

    let records = all_records(&collector, &made);
    assert_eq!(records.len(), 500);
    assert_eq!(records.iter().filter_map(|record| record.text("log.record.uid")).collect::<BTreeSet<_>>().len(), 500);
    let told: BTreeSet<_> = records
        .iter()
        .map(|record| ["process.linux.cgroup", "k8s.pod.uid", "container.id"].map(|key| record.text(key).unwrap_or("absent")))
        .collect();
    let containers = || made.cgroups.iter().map(|cgroup| (cgroup, cgroup.container.as_ref().unwrap()));
    let expected: BTreeSet<_> = containers().map(|(cgroup, container)| [cgroup.path.as_str(), &container.pod_uid, &container.container_id]).collect();
    assert_eq!(told, expected);

    let short_ids: BTreeSet<_> = containers().map(|(_, container)| &container.container_id[..12]).collect();
    let is_ours = |sample: &&Sample| sample.name == KILLS && short_ids.contains(sample.label("container"));
    let samples = agent.metrics();
    let ours: Vec<_> = samples.iter().filter(is_ours).collect();
    assert_eq!(ours.len(), 500);
    for sample in ours {
        let labels = ["node", "namespace", "pod"].map(|label| sample.label(label));
        assert_eq!((sample.value, labels), (1.0, [NODE, "", ""]), "{sample:?}");
    }
    assert_eq!(total(&samples, DROPPED), 0.0);
    assert_eq!(total(&samples, KILLS_PER_NODE), total(&samples, KILLS), "others' kills are in both");
}

#[test]
fn a_process_of_32_threads_is_one_kill() {
    needs_kernel!();
    let (_agent, collector) = start();
    for _ in 0..10 {
        let made = make("threads 32");
        let records = all_records(&collector, &made);
        assert_eq!(records.len() as u64, made.done.kernel_kills);
        assert_eq!(records[0].number("process.pid"), Some(made.only(Role::Victim).pid.into()));
    }
}

#[test]
fn what_dies_at_its_limit_by_another_hand_is_not_a_kill() {
    needs_kernel!();
    let (agent, collector) = start();
    let made = make("dying 200 16");
    assert_eq!(made.done.kernel_kills, 0);
    let records = all_records(&collector, &made);
    assert_eq!(records.len(), 0, "{records:?}");
    let samples = agent.metrics();
    let marks: Vec<_> = samples.iter().filter(|sample| sample.name == IGNORED && sample.label("reason") == "mark_without_kill").collect();
    let [marks] = marks.as_slice() else { panic!("{samples:?}") };
    // "memcg, oom: do not bypass oom killer for dying tasks" (2025): since then there is something to ignore.
    assert!(kernel() < (6, 16) || marks.value > 0.0);
}

#[test]
fn a_kill_belongs_to_the_victims_cgroup_and_names_its_trigger_apart() {
    needs_kernel!();
    let (_agent, collector) = start();
    let made = make("foreign");
    let records = all_records(&collector, &made);
    assert_eq!(records.len() as u64, made.done.killed, "{records:?}");
    let (victim, trigger) = (made.only(Role::Victim), made.only(Role::Trigger));
    let of_victim: Vec<_> = records.iter().filter(|record| record.text("process.linux.cgroup") == Some(victim.cgroup.as_str())).collect();
    let [record] = of_victim.as_slice() else { panic!("{records:?}") };
    assert_eq!(record.number("process.pid"), Some(victim.pid.into()));
    let told = (record.number("oom_watcher.trigger.pid"), record.text("oom_watcher.trigger.cgroup"));
    assert_eq!(told, (Some(trigger.pid.into()), Some(trigger.cgroup.as_str())));
    // The limit is of the cgroup above both.
    assert_eq!(record.text("oom_watcher.limit.cgroup"), victim.cgroup.strip_suffix("/victim"));
}

#[test]
fn a_path_of_18_levels_of_255_bytes_is_whole() {
    needs_kernel!();
    let (_agent, collector) = start();
    let made = make("deep 18");
    let records = all_records(&collector, &made);
    let [record] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!(record.text("process.linux.cgroup"), Some(made.only(Role::Victim).cgroup.as_str()));
    assert_eq!(record.flag("oom_watcher.cgroup.path_cut"), Some(false));
}

#[test]
fn a_path_that_is_cut_is_flagged_and_its_end_names_the_container() {
    needs_kernel!();
    let (_agent, collector) = start();
    let made = make("deep 30 --names kubernetes");
    let victim = made.only(Role::Victim);
    let container = made.cgroup(&victim.cgroup).container.as_ref().unwrap();
    let is_its_end = |path: &str| path.len() < victim.cgroup.len() && victim.cgroup.ends_with(path.trim_start_matches('/'));
    let records = collector.await_records(1, is_its_end);
    let [record] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!(record.flag("oom_watcher.cgroup.path_cut"), Some(true));
    assert_eq!(record.text("k8s.pod.uid"), Some(container.pod_uid.as_str()));
    assert_eq!(record.text("container.id"), Some(container.container_id.as_str()));
}

#[test]
fn a_container_survives_when_its_first_process_does() {
    needs_kernel!();
    let (_agent, collector) = start();
    let made = make("tree");
    let records = all_records(&collector, &made);
    let [record] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!((record.number("process.pid"), record.number("process.vpid")), (Some(made.only(Role::Victim).pid.into()), Some(2)));
    assert_eq!(record.flag("oom_watcher.container.survived"), Some(true));
}

#[test]
fn a_process_whose_main_thread_is_gone_is_one_kill_under_its_own_pid() {
    needs_kernel!();
    let (_agent, collector) = start();
    let made = make("leader");
    let records = all_records(&collector, &made);
    let [record] = records.as_slice() else { panic!("{records:?}") };
    let pid = i64::from(made.only(Role::Victim).pid);
    assert_eq!(record.number("process.pid"), Some(pid));
    assert!(record.number("oom_watcher.victim.tid").is_some_and(|tid| tid != pid), "{record:?}");
}

#[test]
fn a_group_kill_is_one_incident_with_a_kill_for_each_process() {
    needs_kernel!();
    let (agent, collector) = start();
    let made = match make_if_possible("group 5") {
        Ok(made) => made,
        // Version 1 has no memory.oom.group, so no decision has two kills.
        Err(why) => return assert_eq!(Hierarchy::find().unwrap().version, Version::V1, "{why}"),
    };
    let records = all_records(&collector, &made);
    let told: BTreeMap<_, _> = records.iter().map(|record| (record.number("process.pid"), record.text("oom_watcher.incident.id"))).collect();
    assert_eq!(told.keys().copied().collect::<BTreeSet<_>>(), made.processes.iter().map(|process| Some(process.pid.into())).collect());
    assert_eq!((records.len(), told.values().collect::<BTreeSet<_>>().len()), (5, 1));
    let samples = agent.metrics();
    let here = |name: &str| {
        samples.iter().filter(|sample| sample.name == name && sample.label("container").ends_with("group")).map(|sample| sample.value).sum::<f64>()
    };
    assert_eq!((here(KILLS), here(INCIDENTS)), (5.0, 1.0));
}

#[test]
fn the_first_scrape_of_a_node_says_0_and_an_ordinary_sigkill_leaves_it_there() {
    needs_kernel!();
    let quiet = (0..5).any(|_| {
        let before = kernel_kills();
        let (agent, collector) = start();
        let first = agent.metrics();
        assert_eq!(first.iter().filter(|sample| sample.name == KILLS_PER_NODE).count(), 1);
        let mut sleeper = Command::new("sleep").arg("600").spawn().unwrap();
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        // What would have been told of the sleeper would have been told before this.
        let made = make("one");
        collector.await_records(1, within(&made));
        let second = eventually("count of the kill", || Some(agent.metrics()).filter(|samples| total(samples, KILLS_PER_NODE) > 0.0));
        // Nobody else may have killed: else it is tried again.
        let quiet = kernel_kills() == before + 1;
        assert!(!quiet || (total(&first, KILLS_PER_NODE), total(&second, KILLS_PER_NODE)) == (0.0, 1.0));
        quiet
    });
    assert!(quiet, "somebody else made the OOM killer kill during each of five attempts");
}

#[test]
fn a_sigterm_right_after_the_last_kill_loses_nothing() {
    needs_kernel!();
    let (mut agent, collector) = start();
    let made = make("burst 50");
    assert_eq!(agent.stop(), Some(0), "{}", agent.log());
    assert_eq!(collector.records(within(&made)).len(), 50);
}

#[test]
fn a_second_sigterm_ends_the_agent_though_its_collector_hangs() {
    needs_kernel!();
    let collector = Collector::start();
    collector.hang();
    // It would go on far longer than a test waits.
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, "shutdown_grace: 10m\n").unwrap();
    // The agent may be somebody else.
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let environment = [&collector.environment()[..], &[("OTEL_EXPORTER_OTLP_TIMEOUT", "600000")]].concat();
    let mut agent = Agent::start(&environment, &["--config", file.path().to_str().unwrap()]);
    make("one");
    collector.await_requests(1);
    // Signals of one kind that come too close together are one to the process: so more than two, until it has ended.
    let status = eventually("end of the agent", || {
        agent.signal(libc::SIGTERM);
        agent.ended()
    });
    assert_eq!(status.code(), Some(1), "not everything was sent: {}", agent.log());
}
