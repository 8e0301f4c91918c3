//! The victim's cgroup is named as it is, and the trigger's apart from it.

use crate::limit::is_nowhere_told;
use crate::watch::Watch;
use oom_watcher_testkit::kills::report::Role;
use oom_watcher_testkit::machine::{reads_strings, tells_current_task};
use oom_watcher_testkit::needs::{needs, real_kills};

#[test]
fn a_kill_belongs_to_the_victims_cgroup_and_names_its_trigger_apart() {
    let _alone = needs!(real_kills());
    let mut watch = Watch::start();
    let made = watch.make("foreign");
    let records = watch.told(&made);
    let (victim, trigger) = (made.only(Role::Victim), made.only(Role::Trigger));
    let of_victim: Vec<_> =
        records.iter().filter(|record| record.text("process.linux.cgroup") == Some(victim.cgroup.as_str())).collect();
    let [record] = of_victim.as_slice() else { panic!("{records:?}") };
    assert_eq!(record.number("process.pid"), Some(victim.pid.into()));
    let told = (record.number("oom_watcher.trigger.pid"), record.text("oom_watcher.trigger.cgroup"));
    assert_eq!(told, (Some(trigger.pid.into()), tells_current_task().then_some(trigger.cgroup.as_str())));
    // The limit is of the cgroup above both.
    assert!(
        is_nowhere_told(record) || record.text("oom_watcher.limit.cgroup") == victim.cgroup.strip_suffix("/victim"),
        "{record:?}"
    );
}

#[test]
fn a_path_of_18_levels_of_255_bytes_is_whole() {
    let _alone = needs!(real_kills());
    let mut watch = Watch::start();
    let made = watch.make("deep 18");
    let records = watch.told(&made);
    let [record] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!(record.text("process.linux.cgroup"), Some(made.only(Role::Victim).cgroup.as_str()));
    assert_eq!(record.flag("oom_watcher.cgroup.path_cut"), Some(false));
}

#[test]
fn a_path_that_is_cut_is_flagged_and_its_end_names_the_container() {
    let _alone = needs!(real_kills());
    let mut watch = Watch::start();
    let made = watch.make("deep 30 --names kubernetes");
    let victim = made.only(Role::Victim);
    let container = made.cgroup(&victim.cgroup).container.as_ref().unwrap();
    // Where the agent finds names by their directories, it finds all of them.
    let is_cut = reads_strings();
    let is_its_end = |path: &str| {
        (path.len() < victim.cgroup.len()) == is_cut && victim.cgroup.ends_with(path.trim_start_matches('/'))
    };
    let records = watch.collector.await_records(1, is_its_end);
    let [record] = records.as_slice() else { panic!("{records:?}") };
    assert_eq!(record.flag("oom_watcher.cgroup.path_cut"), Some(is_cut));
    assert_eq!(record.text("k8s.pod.uid"), Some(container.pod_uid.as_str()));
    assert_eq!(record.text("container.id"), Some(container.container_id.as_str()));
}

#[test]
fn a_container_survives_when_its_first_process_does() {
    let _alone = needs!(real_kills());
    let mut watch = Watch::start();
    let made = watch.make("tree");
    let records = watch.told(&made);
    let [record] = records.as_slice() else { panic!("{records:?}") };
    let (pid, own) = (record.number("process.pid"), record.number("process.vpid"));
    assert_eq!((pid, own), (Some(made.only(Role::Victim).pid.into()), reads_strings().then_some(2)));
    assert_eq!(record.flag("oom_watcher.container.survived"), reads_strings().then_some(true));
}
