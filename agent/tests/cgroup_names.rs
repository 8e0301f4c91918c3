//! Ring "kernel": real kills of which the probe tells ids alone, as under lockdown=confidentiality, and the names that
//! the table of cgroups gives them.
//!
//! The agent runs in this process: that its probe reads no names is no setting of the program.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::thread::{self, JoinHandle};

use oom_watcher::cgroups::hierarchy::Hierarchy;
use oom_watcher::cgroups::names::CgroupNames;
use oom_watcher::config::{self, Flags};
use oom_watcher::privileges::thread::Privileged;
use oom_watcher::run::{self, Agent};
use oom_watcher::selftest::scratch::Scratch;
use oom_watcher_testkit::collector::{Collector, Record};
use oom_watcher_testkit::kills::report::Role;
use oom_watcher_testkit::kills::{Made, make_and_hold};
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::wait::patience;
use tokio::sync::oneshot;

/// An agent whose probe reads no names, in a thread of its own.
struct Nameless {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

fn configuration(environment: &[(&str, &str)]) -> config::Config {
    let mut all: BTreeMap<&str, &str> = environment.iter().copied().collect();
    all.insert("NODE_NAME", "test-node");
    let flags = Flags::from([("--config", "none")]);
    let mut config = config::load(&flags, &|name| all.get(name).map(|value| (*value).to_owned())).unwrap().config;
    config.listen = "127.0.0.1:0".parse().unwrap();
    (config.probe.read_names, config.probe.pins, config.state_directory) = (false, None, None);
    config
}

impl Nameless {
    fn start(collector: &Collector) -> Self {
        let config = configuration(&collector.environment());
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = thread::spawn(move || {
            block_on(async {
                let listener = run::bind(&config).unwrap();
                let agent = Agent::build(config, listener).unwrap();
                let privileged = Privileged::beside().unwrap();
                agent
                    .watch(
                        privileged,
                        |features| ready.send(features.names).unwrap(),
                        stopped,
                        std::future::pending::<()>(),
                    )
                    .await
                    .unwrap();
            });
        });
        assert!(is_ready.recv_timeout(patience()).unwrap(), "the table has the names");
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Nameless {
    fn drop(&mut self) {
        // It ends only when it is told to; if it has failed, that is told by the thread.
        let _ = self.stop.take().map(|stop| stop.send(()));
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking(), "the agent failed");
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn within(made: &Made) -> impl Fn(&str) -> bool + use<> {
    let root = format!("/{}/", made.cgroups.first().unwrap().path.split('/').nth(1).unwrap());
    move |path| path.starts_with(&root)
}

/// Whether the kernel lets a program have its current task without following pointers: from 5.11 on
/// (`bpf_get_current_task_btf`).
fn tells_trigger() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse::<u32>().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (5, 11)
}

fn only(records: Vec<Record>) -> Record {
    let [record] = <[Record; 1]>::try_from(records).unwrap_or_else(|records| panic!("{records:?}"));
    record
}

#[test]
fn each_of_200_kills_of_which_only_ids_are_told_has_its_container() {
    let _alone = needs!(real_kills());
    let collector = Collector::start();
    let _agent = Nameless::start(&collector);
    // Their cgroups stay until the table has told their names, here and below.
    let held = make_and_hold("burst 200");
    let made = &held.made;
    let records = collector.await_records(200, within(made));
    let told: BTreeSet<_> = records
        .iter()
        .map(|record| {
            ["process.linux.cgroup", "k8s.pod.uid", "container.id"].map(|key| record.text(key).unwrap_or("absent"))
        })
        .collect();
    let containers = made.cgroups.iter().map(|cgroup| (cgroup, cgroup.container.as_ref().unwrap()));
    let expected: BTreeSet<_> = containers
        .map(|(cgroup, container)| [cgroup.path.as_str(), &container.pod_uid, &container.container_id])
        .collect();
    assert_eq!(told, expected);
    let ids: BTreeSet<_> = records.iter().map(|record| record.number("oom_watcher.cgroup.id").unwrap()).collect();
    assert_eq!(ids, made.cgroups.iter().map(|cgroup| cgroup.id.try_into().unwrap()).collect());
}

#[test]
fn a_record_has_the_limit_and_not_what_was_used_of_it() {
    let _alone = needs!(real_kills());
    let collector = Collector::start();
    let _agent = Nameless::start(&collector);
    let held = make_and_hold("one");
    let record = only(collector.await_records(1, within(&held.made)));
    assert_eq!(
        (record.number("oom_watcher.cgroup.limit"), record.flag("oom_watcher.cgroup.from_files")),
        (Some(4 << 20), Some(true))
    );
    for absent in ["oom_watcher.cgroup.usage", "oom_watcher.cgroup.swap_usage"] {
        assert_eq!(record.number(absent), None, "{absent}");
    }
    // The kernel's own word needs no names; elsewhere there are limits, and how full they were is not known.
    let scope = record
        .text("oom_watcher.scope.method")
        .map(|method| (method, record.text("oom_watcher.scope.type"), record.number("oom_watcher.limit.size")));
    assert!(matches!(scope, None | Some(("oom_control", Some("cgroup"), Some(4_194_304)))), "{scope:?}");
    assert_eq!(
        record.text("oom_watcher.trigger.cgroup"),
        record.text("process.linux.cgroup").filter(|_| tells_trigger())
    );
    assert!(record.text("process.command").is_some() && record.number("oom_watcher.memory.total_vm").is_some());
}

#[test]
fn the_trigger_is_named_by_its_own_id() {
    let _alone = needs!(real_kills());
    let collector = Collector::start();
    let _agent = Nameless::start(&collector);
    let held = make_and_hold("foreign");
    let made = &held.made;
    let (victim, trigger) = (made.only(Role::Victim), made.only(Role::Trigger));
    let record = only(collector.await_records(1, |path| path == victim.cgroup));
    assert_eq!(record.text("oom_watcher.trigger.cgroup"), tells_trigger().then_some(trigger.cgroup.as_str()));
}

#[test]
fn a_path_of_more_levels_than_the_probe_keeps_is_whole() {
    let _alone = needs!(real_kills());
    let collector = Collector::start();
    let _agent = Nameless::start(&collector);
    let held = make_and_hold("deep 30");
    let made = &held.made;
    let record = only(collector.await_records(1, within(made)));
    assert_eq!(record.text("process.linux.cgroup"), Some(made.only(Role::Victim).cgroup.as_str()));
    assert_eq!(record.flag("oom_watcher.cgroup.path_cut"), Some(false));
}

#[test]
fn a_cgroup_that_was_there_before_the_agent_is_known() {
    let _alone = needs!(real_kills());
    let scratch = Scratch::create(&format!("oom-watcher-test-before-{}/inner", std::process::id()), 16 << 20).unwrap();
    block_on(async {
        let table = CgroupNames::start().unwrap();
        assert!(table.is_whole());
        assert_eq!(table.path(scratch.id().unwrap()), Some(scratch.path()));
        assert_eq!(table.path(1).as_deref(), Some("/"));
    });
}

#[test]
fn cgroups_of_the_kernel_are_followed_through_making_renaming_and_removal() {
    let _alone = needs!(real_kills());
    block_on(follow());
}

async fn follow() {
    let table = CgroupNames::start().unwrap();
    let hierarchy = Hierarchy::widest().unwrap();
    let changed = async |id: u64, expected: Option<String>| {
        let looking = async {
            while table.path(id) != expected {
                tokio::task::yield_now().await;
            }
        };
        let found = tokio::time::timeout(patience(), looking).await;
        assert!(found.is_ok(), "{:?} instead of {expected:?}", table.path(id));
    };
    let name = format!("oom-watcher-test-followed-{}", std::process::id());
    let outer = Scratch::create(&name, 16 << 20).unwrap();
    let inner = outer.nested("a/b", None).unwrap();
    let (id, path) = (inner.id().unwrap(), inner.path());
    changed(id, Some(path.clone())).await;
    let rename = |from: &str, to: &str| {
        std::fs::rename(hierarchy.mount.join(&name).join(from), hierarchy.mount.join(&name).join(to))
    };
    // Only version 1 lets cgroups be renamed.
    if rename("a", "z").is_ok() {
        changed(id, Some(format!("/{name}/z/b"))).await;
        rename("z", "a").unwrap();
        changed(id, Some(path.clone())).await;
    }
    drop((inner, outer));
    // Notices come in order: with this one, those of the removals have come.
    let last = Scratch::create(&format!("{name}-last"), 16 << 20).unwrap();
    changed(last.id().unwrap(), Some(last.path())).await;
    assert_eq!(table.path(id), Some(path), "it is remembered");
}
