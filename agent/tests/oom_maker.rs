//! oom-maker does what it tells: the kernel's own counters say the same, and nothing of it is left.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

#[allow(dead_code, unused_imports, reason = "each test program uses a part of it")]
mod support;

use std::collections::BTreeSet;
use std::fs;

use oom_watcher::reconcile::{Account, Observed, ProbeCounts};
use oom_watcher::selftest::scratch::Scratch;
use oom_watcher::source::counters::{cgroup_kills, node_kills};
use oom_watcher::source::hierarchy::{Hierarchy, Version};
use support::makers::{Made, make, make_and_hold, make_if_possible};
use support::told::{End, Role};
use support::{cgroups, one_at_a_time, skip};

const KILLED: Option<End> = Some(End::Signal(libc::SIGKILL));

macro_rules! needs_cgroups {
    () => {
        let _one = one_at_a_time();
        if let Err(why) = cgroups() {
            skip!("{why}");
        }
    };
}

/// `kills` processes were killed, each counted once by the kernel in its own cgroup, and the cgroups are gone.
fn check(made: &Made, kills: u64) {
    assert_eq!((made.done.killed, made.done.kernel_kills), (kills, kills), "{made:?}");
    for cgroup in &made.cgroups {
        let killed =
            made.processes.iter().filter(|process| process.cgroup == cgroup.path && process.role != Role::Signalled && process.end == KILLED);
        assert_eq!(cgroup.kernel_kills, killed.count() as u64, "{cgroup:?}");
    }
    let Some(root) = made.cgroups.first().and_then(|cgroup| cgroup.path.split('/').nth(1)) else { panic!("no cgroup in {made:?}") };
    assert!(!Hierarchy::find().unwrap().mount.join(root).exists(), "{root} is left");
}

#[test]
fn one_process_is_killed() {
    needs_cgroups!();
    check(&make("one"), 1);
}

#[test]
fn a_process_of_many_threads_is_killed_once() {
    needs_cgroups!();
    check(&make("threads 32"), 1);
}

#[test]
fn a_parent_survives_its_child() {
    needs_cgroups!();
    let held = make_and_hold("tree");
    let (parent, victim) = (held.made.only(Role::Parent).clone(), held.made.only(Role::Victim));
    assert_eq!((parent.end, victim.end, &parent.cgroup), (None, KILLED, &victim.cgroup));
    let namespace_pid = fs::read_to_string(format!("/proc/{}/status", parent.pid)).unwrap();
    let namespace_pid = namespace_pid.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    assert_eq!(namespace_pid.split_whitespace().last(), Some("1"));
    let made = held.made.clone();
    drop(held);
    check(&made, 1);
}

#[test]
fn a_burst_kills_one_process_in_each_cgroup() {
    needs_cgroups!();
    let made = make("burst 40 --concurrency 8");
    check(&made, 40);
    let containers: Vec<_> = made.cgroups.iter().filter_map(|cgroup| Some((&cgroup.path, cgroup.container.as_ref()?))).collect();
    for (path, container) in &containers {
        assert_eq!((container.pod_uid.len(), container.container_id.len()), (36, 64), "{container:?}");
        assert!(path.contains(&container.container_id), "{path}");
        assert!(path.replace('_', "-").contains(&container.pod_uid), "{path}");
    }
    assert_eq!(containers.iter().map(|(_, container)| &container.container_id).collect::<BTreeSet<_>>().len(), 40);
    assert_eq!(containers.iter().map(|(_, container)| &container.pod_uid).collect::<BTreeSet<_>>().len(), 40);
}

#[test]
fn names_are_the_same_for_the_same_seed() {
    needs_cgroups!();
    let below = |arguments: &str| make(arguments).cgroups.into_iter().map(|cgroup| cgroup.path.splitn(3, '/').nth(2).unwrap().to_owned());
    let first: Vec<_> = below("burst 10").collect();
    assert_eq!(first, below("burst 10 --seed 1").collect::<Vec<_>>());
    assert!(below("burst 10 --seed 2").all(|path| !first.contains(&path)));
    assert_eq!(below("burst 2 --names plain").collect::<Vec<_>>(), ["burst-0", "burst-1"]);
}

#[test]
fn processes_that_die_at_their_limit_are_no_kills() {
    needs_cgroups!();
    let made = make("dying 20 16");
    check(&made, 0);
    assert_eq!(made.processes.len(), 20);
    assert!(made.processes.iter().all(|process| (process.role, process.end) == (Role::Signalled, KILLED)), "{made:?}");
}

#[test]
fn the_victim_of_a_foreign_trigger_is_killed() {
    needs_cgroups!();
    let made = make("foreign");
    let (victim, trigger) = (made.only(Role::Victim), made.only(Role::Trigger));
    assert_eq!((victim.end, made.cgroup(&victim.cgroup).kernel_kills), (KILLED, 1));
    // While the victim gives its memory back, the kernel may take the trigger for the only one left.
    let both = trigger.end == KILLED;
    assert!(both || trigger.end == Some(End::Code(0)), "{trigger:?}");
    check(&made, if both { 2 } else { 1 });
}

#[test]
fn a_process_without_main_thread_is_killed_once() {
    needs_cgroups!();
    check(&make("leader"), 1);
}

#[test]
fn a_group_is_killed_as_a_whole() {
    needs_cgroups!();
    match make_if_possible("group 5") {
        Ok(made) => {
            // The kernel counts the process that it chose twice: by itself and as a member.
            assert_eq!((made.done.killed, made.done.kernel_kills), (5, 6), "{made:?}");
        }
        // Version 1 has no memory.oom.group: there is no group to kill.
        Err(why) => assert_eq!(Hierarchy::find().unwrap().version, Version::V1, "{why}"),
    }
}

/// There is no probe, and all kills of this machine are missed; others may kill meanwhile.
#[test]
fn a_kill_that_nobody_saw_is_found_in_the_kernels_counters_with_its_cgroup() {
    needs_cgroups!();
    let look = || Observed { node: node_kills(), probe: ProbeCounts::default(), cgroups: Some(cgroup_kills(&Hierarchy::find().unwrap())) };
    let mut account = Account::first(&look());
    account.resume(ProbeCounts::default(), false);
    let held = make_and_hold("tree");
    let cgroup = held.made.only(Role::Victim).cgroup.clone();
    let found: Vec<_> = (0..30).flat_map(|_| account.check(look()).missed).filter(|kills| kills.cgroup_path == cgroup).collect();
    assert!(matches!(&found[..], [kills] if (kills.first, kills.number, kills.removed) == (1, 1, false)), "{cgroup}: {found:?}");
}

#[test]
fn a_deep_victim_has_a_path_longer_than_the_kernel_takes() {
    needs_cgroups!();
    let made = make("deep 18");
    check(&made, 1);
    let path = &made.only(Role::Victim).cgroup;
    assert_eq!(path.split('/').skip(2).map(str::len).collect::<Vec<_>>(), [vec![255; 17], vec![6]].concat());
    assert!(path.len() > libc::PATH_MAX as usize);
    let made = make("deep 30 --names kubernetes");
    check(&made, 1);
    assert_eq!(made.only(Role::Victim).cgroup.split('/').count(), 32);
}

#[test]
fn a_cgroup_that_exists_is_not_taken() {
    needs_cgroups!();
    let path = format!("/oom-watcher-test-{}-twice", std::process::id());
    let first = Scratch::create(&path, 1 << 20).unwrap();
    assert!(Scratch::create(&path, 1 << 20).unwrap_err().to_string().contains("exists already"));
    assert!(first.nested("../outside", None).is_err());
    let directory = Hierarchy::find().unwrap().mount.join(&path[1..]);
    assert!(directory.exists(), "the failed attempts removed it");
    drop(first);
    assert!(!directory.exists());
}

#[test]
fn a_limit_leaves_no_swap() {
    needs_cgroups!();
    let scratch = Scratch::create(&format!("/oom-watcher-test-{}-swap", std::process::id()), 1 << 20).unwrap();
    let (limit, swap) = match scratch.version() {
        Version::V1 => ("memory.limit_in_bytes", ("memory.swappiness", "0")),
        Version::V2 => ("memory.max", ("memory.swap.max", "0")),
    };
    assert_eq!(scratch.read(limit).unwrap().trim(), "1048576");
    // Not every kernel has swap.
    assert!(scratch.read(swap.0).map_or(true, |value| value.trim() == swap.1));
}
