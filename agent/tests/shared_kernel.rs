//! Ring "shared kernel": several nodes on one kernel, as with kind. Each agent counts the kills of its own node, and of
//! nobody else's. Real kills, on this kernel.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use oom_watcher::cgroups::hierarchy::Hierarchy;
use oom_watcher::selftest::scratch::Scratch;

use oom_watcher_testkit::agent::{Agent, NODE, program};
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::exposition::{Sample, total};
use oom_watcher_testkit::kills::make;
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::wait::eventually;

const KILLS_PER_NODE: &str = "oom_kills_per_node_total";
const KILLS: &str = "oom_kills_total";
/// More than any test needs.
const LIMIT: u64 = 1 << 30;

/// A node: a cgroup that all of its own are in.
struct Node {
    cgroup: Scratch,
    folder: tempfile::TempDir,
}

impl Node {
    fn new(name: &str) -> Self {
        let cgroup = Scratch::create(&format!("/oom-watcher-test-{name}-{}", std::process::id()), LIMIT).unwrap();
        Self { cgroup, folder: tempfile::tempdir().unwrap() }
    }

    fn name(&self) -> String {
        self.cgroup.path().rsplit('/').next().unwrap().to_owned()
    }

    /// The directory of its cgroup.
    fn directory(&self) -> PathBuf {
        Hierarchy::find().unwrap().mount.join(self.name())
    }

    /// Makes a kill in that cgroup of the node.
    fn kill(&self, at: &str) {
        make(&format!("--root /{}/{at} one", self.name()));
    }

    /// A program that starts the agent where the node's cgroups are mounted, and no others: as in a pod of a node that
    /// is a container.
    fn program(&self) -> PathBuf {
        let (path, mount) = (self.folder.path().join("agent"), Hierarchy::find().unwrap().mount);
        let script = format!(
            "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind {} {} && exec \"$0\" \"$@\"' {} \"$@\"\n",
            self.directory().display(),
            mount.display(),
            program().canonicalize().unwrap().display()
        );
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A configuration that names its cgroup.
    fn settings(&self) -> String {
        let path = self.folder.path().join("settings.yaml");
        fs::write(&path, format!("node_cgroup: {}\n", self.directory().display())).unwrap();
        path.display().to_string()
    }
}

/// Kills that were not this node's.
fn elsewhere(samples: &[Sample]) -> f64 {
    samples
        .iter()
        .find(|sample| sample.name == "oom_watcher_events_ignored_total" && sample.label("reason") == "other_node")
        .unwrap()
        .value
}

#[test]
fn each_kill_is_counted_by_the_agent_of_its_own_node() {
    let _alone = needs!(real_kills());
    let (first, second) = (Node::new("first"), Node::new("second"));
    let (of_first, of_second) = (Collector::start(), Collector::start());
    // One finds its node by what is mounted, the other one is told.
    let agents = [
        Agent::start_program(&first.program(), &of_first.environment(), &["--node-name", "first"]),
        Agent::start(&of_second.environment(), &["--node-name", "second", "--config", &second.settings()]),
    ];
    first.kill("a");
    second.kill("a");
    make("one");
    first.kill("b");
    // What comes last is handled last.
    let seen =
        |agent: &Agent| (total(&agent.metrics(), KILLS_PER_NODE) + elsewhere(&agent.metrics()) >= 4.0).then_some(());
    agents.iter().for_each(|agent| eventually("all four kills", || seen(agent)));
    let counted = agents.each_ref().map(|agent| {
        let samples = agent.metrics();
        (total(&samples, KILLS_PER_NODE), total(&samples, KILLS), elsewhere(&samples))
    });
    assert_eq!(counted, [(2.0, 2.0, 2.0), (1.0, 1.0, 3.0)]);
    let paths = |collector: &Collector, count: usize| {
        let mut paths: Vec<_> = collector
            .await_records(count, |_| true)
            .iter()
            .map(|record| record.text("process.linux.cgroup").unwrap().to_owned())
            .collect();
        paths.sort();
        paths
    };
    let expected =
        |node: &Node, at: &[&str]| at.iter().map(|at| format!("/{}/{at}/one", node.name())).collect::<Vec<_>>();
    assert_eq!(paths(&of_first, 2), expected(&first, &["a", "b"]));
    assert_eq!(paths(&of_second, 1), expected(&second, &["a"]));
}

#[test]
fn kills_that_no_agent_saw_are_told_by_that_of_their_own_node() {
    let _alone = needs!(real_kills());
    let (node, other) = (Node::new("first"), Node::new("second"));
    let (collector, state) = (Collector::start(), tempfile::tempdir().unwrap());
    fs::set_permissions(state.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let state_dir = state.path().join("state").display().to_string();
    let start = || Agent::start(&collector.environment(), &["--config", &node.settings(), "--state-dir", &state_dir]);
    // The cgroups stay: with version 1 nothing else tells of a missed kill.
    let mut agent = start();
    let cgroup = node.cgroup.nested("held", Some(4 << 20)).unwrap();
    let elsewhere_too = other.cgroup.nested("held", Some(4 << 20)).unwrap();
    assert_eq!(agent.stop(), Some(0), "{}", agent.log());
    for held in [&cgroup, &elsewhere_too] {
        victim_in(held);
    }
    let agent = start();
    eventually("the missed kill", || (total(&agent.metrics(), KILLS_PER_NODE) >= 1.0).then_some(()));
    let records = collector.await_records(1, |_| true);
    assert_eq!(
        records.iter().map(|record| record.text("process.linux.cgroup").unwrap()).collect::<Vec<_>>(),
        [format!("/{}/held", node.name())]
    );
    let samples = agent.metrics();
    assert_eq!((total(&samples, KILLS_PER_NODE), elsewhere(&samples)), (1.0, 1.0), "the other one is another node's");
}

/// A process that exceeds the limit of that cgroup.
fn victim_in(cgroup: &Scratch) {
    let procs = Hierarchy::find().unwrap().mount.join(cgroup.path().trim_start_matches('/')).join("cgroup.procs");
    let script = format!("echo $$ > {} && exec tail /dev/zero", procs.display());
    let status = Command::new("sh").args(["-c", &script]).status().unwrap();
    assert!(!status.success() && cgroup.kills().unwrap() == 1, "{status}");
}

#[test]
fn check_says_which_kills_are_the_nodes() {
    let _alone = needs!(real_kills());
    let node = Node::new("first");
    let finding = |program: &Path, arguments: &[&str]| {
        let mut check = Command::new(program);
        check.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("NODE_NAME", NODE);
        check.args(["check", "--listen", "127.0.0.1:0", "--pin-dir", "none", "--state-dir", "none"]).args(arguments);
        let output = check.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let line = text.lines().find(|line| line.starts_with("node ")).unwrap_or_else(|| panic!("{text}"));
        (line.split_whitespace().collect::<Vec<_>>().join(" "), output.status.code())
    };
    assert_eq!(
        finding(&program(), &[]),
        ("node pass all kills of this kernel count: all its memory cgroups are mounted here".to_owned(), Some(0))
    );
    let mount = Hierarchy::find().unwrap().mount;
    let says = |directory: &Path| {
        let id =
            fs::metadata(node.directory()).map(|directory| std::os::unix::fs::MetadataExt::ino(&directory)).unwrap();
        format!(
            "node pass kills below the memory cgroup at {} count (id {id}): others of this kernel are another node's",
            directory.display()
        )
    };
    assert_eq!(finding(&node.program(), &[]).0, says(&mount));
    assert_eq!(finding(&program(), &["--config", &node.settings()]).0, says(&node.directory()));
    let wrong = node.folder.path().join("wrong.yaml");
    fs::write(&wrong, "node_cgroup: /proc\n").unwrap();
    let (says, code) = finding(&program(), &["--config", &wrong.display().to_string()]);
    assert_eq!(
        (says.as_str(), code),
        ("node FAIL node_cgroup: /proc is not in a memory cgroup's hierarchy (see /proc/self/mountinfo)", Some(3))
    );
    let unready = Agent::start_unready(&[], &["--config", &wrong.display().to_string()]);
    assert!(
        unready.code == Some(1) && unready.log.contains("node_cgroup: /proc is not in a memory cgroup's hierarchy"),
        "{}",
        unready.log
    );
}
