//! Kills without names, completed from a temporary folder that stands for the hierarchy. The real one is in
//! `tests/cgroup_names.rs`.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::cgroups::hierarchy::Version;
use crate::record::sample;

const POD: &str = "kubepods/pod8d6e2c1a-3f4b-4c5d-9e6f-7a8b9c0d1e2f";
const CONTAINER: &str = "5c1b9a3b1f0d5c1b9a3b1f0d5c1b9a3b1f0d5c1b9a3b1f0d5c1b9a3b1f0d5c1b";

/// A node with one container, whose limit is 4 MiB.
fn node() -> (TempDir, Tree) {
    let folder = tempfile::tempdir().unwrap();
    let container = folder.path().join(POD).join(CONTAINER);
    fs::create_dir_all(&container).unwrap();
    fs::write(container.join("memory.max"), "4194304\n").unwrap();
    fs::write(container.join("memory.current"), "4194304\n").unwrap();
    fs::write(container.join("memory.swap.max"), "max\n").unwrap();
    fs::write(container.join("memory.oom.group"), "1\n").unwrap();
    fs::write(folder.path().join(POD).join("memory.max"), "max\n").unwrap();
    let tree = tree(&folder, true);
    (folder, tree)
}

fn tree(folder: &TempDir, is_whole: bool) -> Tree {
    let hierarchy = Hierarchy {
        version: Version::V2,
        mount: folder.path().to_owned(),
        root: "/".to_owned(),
        writable: true,
        local_events: false,
    };
    Tree::read(&hierarchy, is_whole, MAX_CGROUPS).unwrap()
}

fn id(path: &Path) -> u64 {
    path.metadata().unwrap().ino()
}

/// What the probe tells under lockdown of a kill in `path`: the ids of it and of all above it, the root's last.
fn kill_in(folder: &TempDir, path: &str) -> Kill {
    let mut kill = sample::without_names();
    let own = folder.path().join(path);
    let levels = own.ancestors().take_while(|level| level.starts_with(folder.path()));
    kill.cgroups = levels.map(|level| unknown(id(level))).collect();
    (kill.trigger.cgroup_id, kill.trigger.cgroup_path) = (kill.cgroups[0].id, None);
    kill
}

fn unknown(id: u64) -> Cgroup {
    Cgroup { id: Some(id), ..Cgroup::default() }
}

fn names(kill: &Kill) -> Vec<Option<&str>> {
    kill.cgroups.iter().map(|cgroup| cgroup.name.as_deref()).collect()
}

#[test]
fn a_kill_gets_path_names_and_limits_and_no_usage() {
    let (folder, mut tree) = node();
    let mut kill = kill_in(&folder, &format!("{POD}/{CONTAINER}"));
    complete(&mut tree, &mut kill);
    let path = format!("/{POD}/{CONTAINER}");
    assert_eq!(
        (kill.cgroup_path.as_deref(), kill.path_cut, kill.cgroups_from_files),
        (Some(path.as_str()), false, true)
    );
    assert_eq!((kill.trigger.cgroup_path.as_deref(), kill.trigger.path_cut), (Some(path.as_str()), false));
    assert_eq!(names(&kill), [Some(CONTAINER), POD.split('/').next_back(), Some("kubepods"), Some("")]);
    let own = &kill.cgroups[0];
    assert_eq!((own.limit, own.limit_known, own.swap_limit, own.oom_group), (Some(4 << 20), true, None, Some(true)));
    let known: Vec<_> = kill.cgroups.iter().map(|cgroup| (cgroup.limit.is_some(), cgroup.limit_known)).collect();
    assert_eq!(
        known,
        [(true, true), (false, true), (false, false), (false, true)],
        "kubepods has no file, the root needs none"
    );
    assert!(kill.cgroups.iter().all(|cgroup| cgroup.usage.is_none() && cgroup.swap_usage.is_none()));
}

#[test]
fn a_kill_in_a_cgroup_that_was_made_a_moment_ago_or_is_gone_has_its_path() {
    let (folder, mut tree) = node();
    let nested = folder.path().join(POD).join(CONTAINER).join("init");
    fs::create_dir(&nested).unwrap();
    let mut kill = kill_in(&folder, nested.strip_prefix(folder.path()).unwrap().to_str().unwrap());
    let mut again = kill.clone();
    complete(&mut tree, &mut kill);
    let path = format!("/{POD}/{CONTAINER}/init");
    assert_eq!(kill.cgroup_path.as_deref(), Some(path.as_str()));
    fs::remove_dir_all(folder.path().join("kubepods")).unwrap();
    complete(&mut tree, &mut again);
    assert_eq!((again.cgroup_path.as_deref(), names(&again)), (Some(path.as_str()), names(&kill)));
    assert!(!again.cgroups[1].limit_known, "the limit is gone with the cgroup");
}

#[test]
fn a_cgroup_that_was_never_met_leaves_the_names_above_it() {
    let (folder, mut tree) = node();
    let mut kill = kill_in(&folder, &format!("{POD}/{CONTAINER}"));
    kill.cgroups.insert(0, unknown(u64::MAX - 1));
    complete(&mut tree, &mut kill);
    assert_eq!((kill.cgroup_path.as_deref(), names(&kill)[..2].to_vec()), (None, vec![None, Some(CONTAINER)]));
    assert_eq!(kill.cgroups[1].limit, Some(4 << 20));
}

#[test]
fn a_cgroup_that_nobody_told_of_is_looked_for() {
    let (folder, mut tree) = node();
    tree.forget_watches();
    let path = format!("{POD}/{CONTAINER}/a/b");
    fs::create_dir_all(folder.path().join(&path)).unwrap();
    let mut kill = kill_in(&folder, &path);
    complete(&mut tree, &mut kill);
    assert_eq!(kill.cgroup_path, Some(format!("/{path}")));
}

#[test]
fn the_trigger_has_a_path_of_its_own() {
    let (folder, mut tree) = node();
    let mut kill = kill_in(&folder, &format!("{POD}/{CONTAINER}"));
    kill.trigger.cgroup_id = Some(id(&folder.path().join(POD)));
    complete(&mut tree, &mut kill);
    assert_eq!(kill.trigger.cgroup_path, Some(format!("/{POD}")));
    kill.trigger = crate::kill::Trigger { cgroup_id: None, cgroup_path: None, ..kill.trigger };
    complete(&mut tree, &mut kill);
    assert_eq!(kill.trigger.cgroup_path, None);
}

#[test]
fn what_the_probe_has_no_room_for_is_added() {
    let (folder, mut tree) = node();
    let mut kill = kill_in(&folder, &format!("{POD}/{CONTAINER}"));
    let all = kill.cgroups.len();
    kill.cgroups.truncate(2);
    (kill.path_cut, kill.trigger.path_cut) = (true, true);
    complete(&mut tree, &mut kill);
    assert_eq!((kill.cgroups.len(), kill.path_cut, kill.trigger.path_cut), (all, false, false));
    assert_eq!(kill.cgroup_path, Some(format!("/{POD}/{CONTAINER}")));
    assert_eq!(names(&kill).last(), Some(&Some("")));
}

#[test]
fn where_only_a_part_is_mounted_the_path_lacks_its_beginning() {
    let (folder, _) = node();
    let mut tree = tree(&folder, false);
    let mut kill = kill_in(&folder, &format!("{POD}/{CONTAINER}"));
    kill.cgroups.push(unknown(1));
    complete(&mut tree, &mut kill);
    assert_eq!(
        (kill.cgroup_path, kill.path_cut, kill.trigger.path_cut),
        (Some(format!("/{POD}/{CONTAINER}")), true, true)
    );
    assert_eq!(kill.cgroups.last().and_then(|root| root.name.as_deref()), None);
}

#[tokio::test]
async fn notices_are_applied_without_a_kill() {
    let (folder, tree) = node();
    let table = CgroupNames::of(tree).unwrap();
    let before = table.cgroups();
    fs::create_dir(folder.path().join("made")).unwrap();
    while table.cgroups() == before {
        tokio::task::yield_now().await;
    }
    assert_eq!(table.path(id(&folder.path().join("made"))).as_deref(), Some("/made"));
}
