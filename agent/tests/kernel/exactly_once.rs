//! Every shape of kill is told exactly once. The table "What one kill is" of docs/telemetry.md says what is told of
//! each, and names these tests.

use std::collections::{BTreeMap, BTreeSet};

use oom_watcher::cgroups::hierarchy::{Hierarchy, Version};

use crate::watch::{KILLS, Watch};
use oom_watcher_testkit::agent::NODE;
use oom_watcher_testkit::exposition::Sample;
use oom_watcher_testkit::kills::report::Role;
use oom_watcher_testkit::machine::{guest, kernel, reads_strings, tells_current_task};
use oom_watcher_testkit::needs::{needs, real_kills};

#[test]
fn one_process_is_one_kill() {
    let _alone = needs!(real_kills());
    let mut watch = Watch::start();
    let made = watch.make("one");
    let records = watch.told(&made);
    assert_eq!(records[0].number("process.pid"), Some(made.only(Role::Victim).pid.into()));
}

#[test]
fn each_of_the_kills_in_a_burst_is_counted_and_recorded_for_its_container() {
    let _alone = needs!(real_kills());
    let mut watch = Watch::start();
    // An emulated machine is slow, so fewer are as much of a burst to it.
    let (kills, limit) = if guest() { (40, 1024) } else { (500, 4096) };
    let made = watch.make(&format!("burst {kills} --limit-kib {limit}"));
    assert_eq!((made.done.killed, made.done.kernel_kills), (kills, kills));

    let records = watch.told(&made);
    let told: BTreeSet<_> = records
        .iter()
        .map(|record| {
            ["process.linux.cgroup", "k8s.pod.uid", "container.id"].map(|key| record.text(key).unwrap_or("absent"))
        })
        .collect();
    let containers = || made.cgroups.iter().map(|cgroup| (cgroup, cgroup.container.as_ref().unwrap()));
    let expected: BTreeSet<_> = containers()
        .map(|(cgroup, container)| [cgroup.path.as_str(), &container.pod_uid, &container.container_id])
        .collect();
    assert_eq!(told, expected);

    let short_ids: BTreeSet<_> = containers().map(|(_, container)| &container.container_id[..12]).collect();
    let is_ours = |sample: &&Sample| sample.name == KILLS && short_ids.contains(sample.label("container"));
    let samples = watch.agent.metrics();
    let ours: Vec<_> = samples.iter().filter(is_ours).collect();
    assert_eq!(ours.len() as u64, kills);
    for sample in ours {
        let labels = ["node", "namespace", "pod"].map(|label| sample.label(label));
        assert_eq!((sample.value, labels), (1.0, [NODE, "", ""]), "{sample:?}");
    }
}

#[test]
fn a_process_of_32_threads_is_one_kill() {
    let _alone = needs!(real_kills());
    let mut watch = Watch::start();
    for _ in 0..if guest() { 3 } else { 10 } {
        let made = watch.make("threads 32");
        let records = watch.told(&made);
        assert_eq!(records[0].number("process.pid"), Some(made.only(Role::Victim).pid.into()));
    }
}

#[test]
fn a_process_whose_main_thread_is_gone_is_one_kill_under_its_own_pid() {
    let _alone = needs!(real_kills());
    let mut watch = Watch::start();
    let made = watch.make("leader");
    let records = watch.told(&made);
    let pid = i64::from(made.only(Role::Victim).pid);
    assert_eq!(records[0].number("process.pid"), Some(pid));
    assert!(records[0].number("oom_watcher.victim.tid").is_some_and(|tid| tid != pid), "{records:?}");
}

#[test]
fn of_two_processes_with_one_memory_one_is_killed() {
    let _alone = needs!(real_kills());
    let mut watch = Watch::start();
    let made = watch.make("sibling");
    assert_eq!((made.done.killed, made.done.collateral), (1, 1));
    watch.told(&made);
    watch.check_ignored("shared_memory", 1);
}

#[test]
fn what_dies_at_its_limit_by_another_hand_is_not_a_kill() {
    let _alone = needs!(real_kills());
    let mut watch = Watch::start();
    let made = watch.make(if guest() { "dying 25 16" } else { "dying 200 16" });
    assert_eq!(made.done.kernel_kills, 0);
    watch.told(&made);
    // "memcg, oom: do not bypass oom killer for dying tasks" (2025): since then there is something to ignore.
    assert!(kernel() < (6, 16) || watch.ignored("mark_without_kill") > 0);
}

#[test]
fn what_dies_with_the_first_process_of_its_namespace_is_collateral() {
    let _alone = needs!(real_kills());
    let mut watch = Watch::start();
    let made = watch.make("pid1 5");
    assert_eq!((made.done.killed, made.done.collateral), (1, 5));
    let records = watch.told(&made);
    let of_victim = (records[0].number("process.pid"), records[0].number("process.vpid"));
    assert_eq!(of_victim, (Some(made.only(Role::Victim).pid.into()), reads_strings().then_some(1)));
    assert_eq!(records[0].flag("oom_watcher.container.survived"), reads_strings().then_some(false));
    // Who sends the signals is dying: where that cannot be seen, they are some of the kernel's own.
    watch.check_ignored(if tells_current_task() { "collateral" } else { "signal_without_mark" }, 5);
}

#[test]
fn a_group_kill_is_one_incident_with_a_kill_for_each_process() {
    let _alone = needs!(real_kills());
    check_groups("group 5", 1, 5, 1);
}

#[test]
fn two_group_kills_at_the_same_time_are_two_incidents() {
    let _alone = needs!(real_kills());
    check_groups("groups 8", 2, 8, if guest() { 2 } else { 5 });
}

/// So many groups of so many members, so often: each group is one incident, with its own members alone.
fn check_groups(arguments: &str, groups: usize, members: usize, rounds: u32) {
    let mut watch = Watch::start();
    for _ in 0..rounds {
        let made = match watch.make_if_possible(arguments) {
            Ok(made) => made,
            // Version 1 has no memory.oom.group, so no decision has two kills.
            Err(why) => return assert_eq!(Hierarchy::find().unwrap().version, Version::V1, "{why}"),
        };
        let records = watch.told(&made);
        let mut told: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for record in &records {
            let incident = told.entry(record.text("oom_watcher.incident.id").unwrap()).or_default();
            incident.insert((record.text("process.linux.cgroup").unwrap(), record.number("process.pid").unwrap()));
            assert_eq!(record.flag("oom_watcher.incident.group_kill"), Some(true));
        }
        let mut made_in: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for process in &made.processes {
            made_in.entry(&process.cgroup).or_default().insert((process.cgroup.as_str(), i64::from(process.pid)));
        }
        let told: BTreeSet<_> = told.into_values().collect();
        assert_eq!(told, made_in.into_values().collect());
        assert!(told.len() == groups && told.iter().all(|incident| incident.len() == members), "{told:?}");
        watch.check_ignored("repeated", groups as u64);
    }
}
