//! oom-maker does what it tells: the kernel's own counters say the same, and nothing of it is left.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

use std::collections::BTreeSet;
use std::fs;

use oom_watcher::cgroups::counters::{cgroup_kills, node_kills};
use oom_watcher::cgroups::hierarchy::{Hierarchy, Version};
use oom_watcher::reconcile::{Account, Observed, ProbeCounts};
use oom_watcher::selftest::scratch::Scratch;
use oom_watcher_testkit::kills::report::{End, Role};
use oom_watcher_testkit::kills::{Made, make, make_and_hold, make_if_possible};
use oom_watcher_testkit::machine::{Protected, guest, kernel};
use oom_watcher_testkit::needs::{needs, real_kills};

const KILLED: Option<End> = Some(End::Signal(libc::SIGKILL));

/// How often a run is repeated during which others made the kernel kill, too.
const ATTEMPTS: u32 = 20;

/// What is claimed of a run.
#[derive(Clone, Copy)]
struct Claim {
    /// Processes that the OOM killer killed.
    killed: u64,
    /// Processes that died with those.
    collateral: u64,
    /// What the kernel counted, on the whole machine and in the cgroups.
    counted: u64,
}

/// So many killed, each counted once.
fn kills(killed: u64) -> Claim {
    Claim { killed, collateral: 0, counted: killed }
}

/// Runs oom-maker and checks the claim, except for what the whole machine counted if somebody else's kills are in that.
fn check(arguments: &str, claim: Claim) -> Made {
    let made = make(arguments);
    check_cgroups(&made, claim);
    if made.done.vmstat_kills == claim.counted {
        return made;
    }
    assert!(!guest() && made.done.vmstat_kills > claim.counted, "{made:?}");
    for _ in 0..ATTEMPTS {
        let again = make(arguments);
        check_cgroups(&again, claim);
        if again.done.vmstat_kills == claim.counted {
            return made;
        }
    }
    panic!("others made the OOM killer kill during each of {ATTEMPTS} runs of oom-maker {arguments}");
}

/// The claim holds in each cgroup, and the cgroups are gone.
fn check_cgroups(made: &Made, claim: Claim) {
    assert_eq!(
        (made.done.killed, made.done.collateral, made.done.kernel_kills),
        (claim.killed, claim.collateral, claim.counted),
        "{made:?}"
    );
    for cgroup in &made.cgroups {
        let killed = made
            .processes
            .iter()
            .filter(|process| process.cgroup == cgroup.path && died_of_it(process.role) && process.end == KILLED);
        // Of siblings one is killed; of a group the first is counted twice.
        let (killed, is_group) =
            (killed.count() as u64 - u64::from(made.has(Role::Sibling)), claim.counted > claim.killed);
        assert_eq!(cgroup.kernel_kills, killed + u64::from(is_group), "{cgroup:?}");
        let below =
            |path: &str| path.strip_prefix(&cgroup.path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let with_below: u64 =
            made.cgroups.iter().filter(|cgroup| below(&cgroup.path)).map(|cgroup| cgroup.kernel_kills).sum();
        assert!(cgroup.events_kills.is_none_or(|kills| kills == with_below), "{cgroup:?} {made:?}");
    }
    let Some(root) = made.cgroups.first().and_then(|cgroup| cgroup.path.split('/').nth(1)) else {
        panic!("no cgroup in {made:?}")
    };
    assert!(!Hierarchy::find().unwrap().mount.join(root).exists(), "{root} is left");
}

fn died_of_it(role: Role) -> bool {
    !matches!(role, Role::Signalled | Role::Collateral)
}

#[test]
fn one_process_is_killed() {
    let _alone = needs!(real_kills());
    check("one", kills(1));
}

#[test]
fn a_process_of_many_threads_is_killed_once() {
    let _alone = needs!(real_kills());
    check("threads 32", kills(1));
}

#[test]
fn a_parent_survives_its_child() {
    let _alone = needs!(real_kills());
    let held = make_and_hold("tree");
    let (parent, victim) = (held.made.only(Role::Parent).clone(), held.made.only(Role::Victim));
    assert_eq!((parent.end, victim.end, &parent.cgroup), (None, KILLED, &victim.cgroup));
    let namespace_pid = fs::read_to_string(format!("/proc/{}/status", parent.pid)).unwrap();
    let namespace_pid = namespace_pid.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
    assert_eq!(namespace_pid.split_whitespace().last(), Some("1"));
    let made = held.made.clone();
    drop(held);
    check_cgroups(&made, kills(1));
}

#[test]
fn a_burst_kills_one_process_in_each_cgroup() {
    let _alone = needs!(real_kills());
    let made = check("burst 40 --concurrency 8", kills(40));
    let containers: Vec<_> =
        made.cgroups.iter().filter_map(|cgroup| Some((&cgroup.path, cgroup.container.as_ref()?))).collect();
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
    let _alone = needs!(real_kills());
    let below = |arguments: &str| {
        make(arguments).cgroups.into_iter().map(|cgroup| cgroup.path.splitn(3, '/').nth(2).unwrap().to_owned())
    };
    let first: Vec<_> = below("burst 10").collect();
    assert_eq!(first, below("burst 10 --seed 1").collect::<Vec<_>>());
    assert!(below("burst 10 --seed 2").all(|path| !first.contains(&path)));
    assert_eq!(below("burst 2 --names plain").collect::<Vec<_>>(), ["burst-0", "burst-1"]);
}

#[test]
fn processes_that_die_at_their_limit_are_no_kills() {
    let _alone = needs!(real_kills());
    let made = check("dying 20 16", kills(0));
    assert_eq!(made.processes.len(), 20);
    assert!(made.processes.iter().all(|process| (process.role, process.end) == (Role::Signalled, KILLED)), "{made:?}");
}

#[test]
fn the_victim_of_a_foreign_trigger_is_killed() {
    let _alone = needs!(real_kills());
    let made = make("foreign");
    let (victim, trigger) = (made.only(Role::Victim), made.only(Role::Trigger));
    assert_eq!((victim.end, made.cgroup(&victim.cgroup).kernel_kills), (KILLED, 1));
    // While the victim gives its memory back, the kernel may take the trigger for the only one left.
    let both = trigger.end == KILLED;
    assert!(both || trigger.end == Some(End::Code(0)), "{trigger:?}");
    check_cgroups(&made, kills(if both { 2 } else { 1 }));
}

#[test]
fn a_process_without_main_thread_is_killed_once() {
    let _alone = needs!(real_kills());
    check("leader", kills(1));
}

#[test]
fn of_two_processes_with_one_memory_one_is_counted_and_both_die() {
    let _alone = needs!(real_kills());
    let made = check("sibling", Claim { killed: 1, collateral: 1, counted: 1 });
    assert!(made.processes.iter().all(|process| (process.role, process.end) == (Role::Sibling, KILLED)), "{made:?}");
}

#[test]
fn what_dies_with_the_first_process_of_its_namespace_is_not_counted() {
    let _alone = needs!(real_kills());
    let made = check("pid1 5", Claim { killed: 1, collateral: 5, counted: 1 });
    assert_eq!(made.only(Role::Victim).end, KILLED);
    assert_eq!(
        made.processes.iter().filter(|process| (process.role, process.end) == (Role::Collateral, KILLED)).count(),
        5
    );
}

#[test]
fn a_kill_counts_where_the_victim_was_and_above_not_where_the_limit_was_hit() {
    let _alone = needs!(real_kills());
    let made = check("nested", kills(2));
    let counts = |path: &str| {
        made.cgroups
            .iter()
            .filter(|cgroup| cgroup.path.ends_with(path))
            .map(|cgroup| cgroup.kernel_kills)
            .collect::<Vec<_>>()
    };
    assert_eq!((counts("/a"), counts("/a/b"), counts("/a/b/c")), (vec![0, 0], vec![0, 0], vec![1, 1]));
    for cgroup in &made.cgroups {
        // Version 1 neither adds up nor says so.
        let version_2 = Hierarchy::find().unwrap().version == Version::V2;
        assert_eq!((cgroup.events_kills, cgroup.limit_hits.is_some()), (version_2.then_some(1), version_2));
        assert!(cgroup.limit_hits.is_none_or(|hits| (hits > 0) == cgroup.path.ends_with("/a")), "{cgroup:?}");
    }
}

#[test]
fn a_machine_that_runs_out_counts_the_kill_for_a_cgroup_whose_limit_was_not_hit() {
    let _alone = needs!(real_kills());
    if !guest() {
        // Here it must not.
        let refusal = std::panic::catch_unwind(|| make("global")).unwrap_err();
        let message = refusal.downcast_ref::<String>().unwrap();
        return assert!(message.contains("refused"), "{message}");
    }
    for (arguments, beside) in [("global", false), ("global --beside", true)] {
        let protected = Protected::new([]);
        let made = check(arguments, kills(1));
        drop(protected);
        let (victim, trigger) = (made.only(Role::Victim), made.only(Role::Trigger));
        assert_eq!((victim.end, trigger.end), (KILLED, Some(End::Code(0))), "{made:?}");
        assert_eq!((made.cgroup(&victim.cgroup).kernel_kills, victim.cgroup == trigger.cgroup), (1, beside));
        assert!(made.cgroups.iter().all(|cgroup| cgroup.limit_hits.is_none_or(|hits| hits == 0)), "{made:?}");
    }
}

#[test]
fn of_a_group_the_first_victim_is_counted_twice() {
    let _alone = needs!(real_kills());
    check_groups("group 5", 1, 5);
}

#[test]
fn two_groups_at_the_same_time_are_counted_each_for_itself() {
    let _alone = needs!(real_kills());
    check_groups("groups 4", 2, 4);
}

fn check_groups(arguments: &str, groups: u64, members: u64) {
    // Version 1 has no memory.oom.group: there is no group to kill.
    if let Err(why) = make_if_possible(arguments) {
        return assert_eq!(Hierarchy::find().unwrap().version, Version::V1, "{why}");
    }
    // The process that the kernel chose is killed by itself, and again as a member.
    let made = check(arguments, Claim { killed: groups * members, collateral: 0, counted: groups * (members + 1) });
    for cgroup in &made.cgroups {
        // "memcg: expose the number of group kills": 5.17.
        assert_eq!(
            (cgroup.kernel_kills, cgroup.group_kills),
            (members + 1, (kernel() >= (5, 17)).then_some(1)),
            "{cgroup:?}"
        );
    }
}

/// There is no probe, and all kills of this machine are missed; others may kill meanwhile.
#[test]
fn a_kill_that_nobody_saw_is_found_in_the_kernels_counters_with_its_cgroup() {
    let _alone = needs!(real_kills());
    let look = || Observed {
        node: node_kills(),
        probe: ProbeCounts::default(),
        cgroups: Some(cgroup_kills(&Hierarchy::find().unwrap())),
    };
    let mut account = Account::first(&look());
    account.resume(ProbeCounts::default(), false);
    let held = make_and_hold("tree");
    let cgroup = held.made.only(Role::Victim).cgroup.clone();
    let found: Vec<_> =
        (0..30).flat_map(|_| account.check(look()).missed).filter(|kills| kills.cgroup_path == cgroup).collect();
    assert!(
        matches!(&found[..], [kills] if (kills.first, kills.number, kills.removed) == (1, 1, false)),
        "{cgroup}: {found:?}"
    );
}

#[test]
fn a_deep_victim_has_a_path_longer_than_the_kernel_takes() {
    let _alone = needs!(real_kills());
    let made = check("deep 18", kills(1));
    let path = &made.only(Role::Victim).cgroup;
    assert_eq!(path.split('/').skip(2).map(str::len).collect::<Vec<_>>(), [vec![255; 17], vec![6]].concat());
    assert!(path.len() > libc::PATH_MAX as usize);
    let made = check("deep 30 --names kubernetes", kills(1));
    assert_eq!(made.only(Role::Victim).cgroup.split('/').count(), 32);
}

#[test]
fn a_cgroup_that_exists_is_not_taken() {
    let _alone = needs!(real_kills());
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
    let _alone = needs!(real_kills());
    let scratch = Scratch::create(&format!("/oom-watcher-test-{}-swap", std::process::id()), 1 << 20).unwrap();
    let (limit, swap) = match scratch.version() {
        Version::V1 => ("memory.limit_in_bytes", ("memory.swappiness", "0")),
        Version::V2 => ("memory.max", ("memory.swap.max", "0")),
    };
    assert_eq!(scratch.read(limit).unwrap().trim(), "1048576");
    // Not every kernel has swap.
    assert!(scratch.read(swap.0).map_or(true, |value| value.trim() == swap.1));
}
