//! Whose limit was hit: of a cgroup above the victim's, or nobody's, because the machine ran out. And how that was
//! found.

use crate::watch::Watch;
use oom_watcher_testkit::collector::Record;
use oom_watcher_testkit::kills::report::Role;
use oom_watcher_testkit::machine::{Protected, own_machine, reads_strings};
use oom_watcher_testkit::needs::{needs, real_kills};

const SCOPE: &str = "oom_watcher.scope.type";
const METHOD: &str = "oom_watcher.scope.method";

/// How the scope can be found. The first two are the kernel's own word.
const METHODS: [&str; 3] = ["oom_control", "oom_lock", "headroom"];

#[test]
fn a_limit_above_the_victims_cgroup_is_told_for_what_it_is() {
    let _alone = needs!(real_kills());
    let mut watch = Watch::start();
    let made = watch.make("nested");
    let records = watch.told(&made);
    assert_eq!(records.len(), 2);
    for (record, tree) in records.iter().zip(["/bare", "/limited"]) {
        if is_nowhere_told(record) {
            continue;
        }
        let (above, own) =
            (record.text("oom_watcher.limit.cgroup").unwrap(), record.text("process.linux.cgroup").unwrap());
        assert!(above.ends_with(&format!("{tree}/a")) && own == format!("{above}/b/c"), "{record:?}");
        assert_eq!(record.text(SCOPE), Some("cgroup"));
        assert!(METHODS.contains(&record.text(METHOD).unwrap()), "{record:?}");
        // The victim's own limit is larger, if it has one.
        let (hit, own) = (record.number("oom_watcher.limit.size").unwrap(), record.number("oom_watcher.cgroup.limit"));
        assert_eq!(own, (tree == "/limited").then_some(hit * 2));
    }
}

#[test]
fn a_machine_that_runs_out_is_not_put_down_to_a_cgroup_near_its_limit() {
    let _alone = needs!(real_kills());
    check_global("global");
}

#[test]
fn nor_to_one_that_the_trigger_is_in_as_well() {
    let _alone = needs!(real_kills());
    check_global("global --beside");
}

fn check_global(arguments: &str) {
    needs!(own_machine());
    let mut watch = Watch::start();
    let protected = Protected::new([watch.agent.pid()]);
    let made = watch.make_while_stopped(arguments);
    drop(protected);
    let records = watch.told(&made);
    let [record] = records.as_slice() else { panic!("{records:?}") };
    let (victim, trigger) = (made.only(Role::Victim), made.only(Role::Trigger));
    let pids = (record.number("process.pid"), record.number("oom_watcher.trigger.pid"));
    assert_eq!(pids, (Some(victim.pid.into()), Some(trigger.pid.into())));
    // It is as near as the mode says, so that a guess would have been wrong.
    let limit = record.number("oom_watcher.cgroup.limit").unwrap();
    // Under lockdown=confidentiality that is not told.
    let usage = record.number("oom_watcher.cgroup.usage");
    assert!(usage.map_or(!reads_strings(), |usage| (0..2 << 20).contains(&(limit - usage))), "{usage:?} of {limit}");
    check_node(record);
}

/// Where the kernel refuses to have its strings and limits read, and its decisions cannot be read either, nothing is
/// said of whose limit was hit.
pub(crate) fn is_nowhere_told(record: &Record) -> bool {
    let nothing = record.text(METHOD).is_none();
    assert!(
        !nothing
            || !reads_strings() && record.text(SCOPE).is_none() && record.text("oom_watcher.limit.cgroup").is_none(),
        "{record:?}"
    );
    nothing
}

/// The machine ran out: said where the kernel says it, else nothing is said rather than another thing.
fn check_node(record: &Record) {
    let known = matches!(record.text(METHOD), Some("oom_control" | "oom_lock"));
    let scope = record.text(SCOPE);
    assert!(scope == Some("node") || scope.is_none() && !known, "{record:?}");
    assert_eq!((record.text("oom_watcher.limit.cgroup"), record.number("oom_watcher.limit.size")), (None, None));
}
