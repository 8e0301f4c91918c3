//! The tree over directories of a temporary folder: notices are the same on every file system.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::super::index::MAX_DEPTH;
use super::*;

/// More than any test makes.
const ENOUGH: usize = 100_000;
/// Enough reads for all notices.
const ALL: usize = 100_000;

fn hierarchy(mount: &Path, root: &str) -> Hierarchy {
    Hierarchy {
        version: Version::V2,
        mount: mount.to_owned(),
        root: root.to_owned(),
        writable: true,
        local_events: false,
    }
}

/// A folder with these directories, and its tree.
fn sample(directories: &[&str], most: usize) -> (TempDir, Tree) {
    // In memory if possible: one test makes thousands.
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    for directory in directories {
        fs::create_dir_all(folder.path().join(directory)).unwrap();
    }
    let tree = Tree::read(&hierarchy(folder.path(), "/"), true, most).unwrap();
    (folder, tree)
}

fn id(path: &Path) -> u64 {
    path.metadata().unwrap().ino()
}

/// All directories below `folder` as the tree names them, with their ids.
fn there(folder: &Path) -> BTreeSet<(String, u64)> {
    let (mut found, mut waiting) = (BTreeSet::new(), vec![folder.to_owned()]);
    while let Some(at) = waiting.pop() {
        waiting.extend(fs::read_dir(&at).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()));
        found.insert((format!("/{}", at.strip_prefix(folder).unwrap().display()), id(&at)));
    }
    found
}

/// What is in the folder is what is in the tree.
#[track_caller]
fn agree(tree: &Tree, folder: &TempDir) {
    let there = there(folder.path());
    let known: BTreeSet<_> = there.iter().filter_map(|(_, id)| Some((tree.path(*id)?, *id))).collect();
    assert_eq!(known, there);
    assert_eq!(tree.index.len(), there.len());
}

#[test]
fn what_was_there_and_what_is_made_later_is_known() {
    let (folder, mut tree) = sample(&["a/b", "c"], ENOUGH);
    agree(&tree, &folder);
    fs::create_dir_all(folder.path().join("a/b/d/e/f")).unwrap();
    fs::create_dir(folder.path().join("g")).unwrap();
    fs::write(folder.path().join("a/b/file"), "").unwrap();
    assert!(tree.apply(ALL));
    agree(&tree, &folder);
    assert!(folder.path().join("g").metadata().is_ok_and(|g| tree.path(g.ino()).as_deref() == Some("/g")));
}

#[test]
fn a_removed_directory_is_remembered_and_not_opened() {
    let (folder, mut tree) = sample(&["a/b"], ENOUGH);
    let removed = id(&folder.path().join("a/b"));
    assert!(tree.open(removed).is_some());
    fs::remove_dir_all(folder.path().join("a")).unwrap();
    tree.apply(ALL);
    assert_eq!(
        (tree.path(removed).as_deref(), tree.index.is_live(removed), tree.open(removed).is_none()),
        (Some("/a/b"), false, true)
    );
    assert_eq!((tree.index.len(), tree.watches.len()), (1, 1), "nor watched");
}

#[test]
fn a_renamed_directory_has_its_new_path_and_so_has_what_is_below() {
    let (folder, mut tree) = sample(&["a/b/c", "k"], ENOUGH);
    let below = id(&folder.path().join("a/b/c"));
    fs::rename(folder.path().join("a/b"), folder.path().join("a/z")).unwrap();
    tree.apply(ALL);
    assert_eq!(tree.path(below).as_deref(), Some("/a/z/c"));
    fs::rename(folder.path().join("a/z"), folder.path().join("k/y")).unwrap();
    fs::create_dir(folder.path().join("k/y/new")).unwrap();
    tree.apply(ALL);
    agree(&tree, &folder);
}

#[test]
fn a_directory_in_the_place_of_another_is_another() {
    let (folder, mut tree) = sample(&["a"], ENOUGH);
    let (path, aside) = (folder.path().join("a"), folder.path().join("b"));
    let old = id(&path);
    fs::rename(&path, &aside).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(tree.open(old).is_none(), "nobody told yet, but what is opened there has another id");
    tree.apply(ALL);
    assert_eq!([old, id(&path)].map(|id| tree.path(id)), [Some("/b".to_owned()), Some("/a".to_owned())]);
}

#[test]
fn nothing_falls_between_while_directories_are_made_in_a_burst() {
    let (folder, mut tree) = sample(&["pods"], ENOUGH);
    let pods = folder.path().join("pods");
    let maker = std::thread::spawn(move || {
        for pod in 0..300 {
            fs::create_dir_all(pods.join(format!("pod{pod}/container/inner"))).unwrap();
            if pod % 3 == 0 {
                fs::remove_dir_all(pods.join(format!("pod{pod}"))).unwrap();
            }
        }
    });
    while !maker.is_finished() {
        tree.apply(1);
    }
    maker.join().unwrap();
    tree.apply(ALL);
    agree(&tree, &folder);
    assert_eq!(tree.index.len(), 2 + 200 * 3);
    assert_eq!(tree.watches.len(), tree.index.len());
}

#[test]
fn after_lost_notices_everything_is_looked_at_again() {
    let (folder, mut tree) = sample(&["a", "gone"], ENOUGH);
    let gone = id(&folder.path().join("gone"));
    let queue: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    for _ in 0..=queue / 2 {
        fs::create_dir(folder.path().join("x")).unwrap();
        fs::remove_dir(folder.path().join("x")).unwrap();
    }
    fs::create_dir_all(folder.path().join("a/untold")).unwrap();
    fs::remove_dir(folder.path().join("gone")).unwrap();
    let untold = id(&folder.path().join("a/untold"));
    assert_eq!(tree.path(untold), None);
    tree.apply(ALL);
    agree(&tree, &folder);
    assert_eq!((tree.path(untold).as_deref(), tree.index.is_live(gone)), (Some("/a/untold"), false));
    assert_eq!(tree.watches.len(), tree.index.len(), "that a watch has ended was lost, too");
}

#[test]
fn what_finds_no_room_is_looked_for_again_when_there_is_room() {
    let (folder, mut tree) = sample(&["a", "b", "c"], 4);
    fs::create_dir(folder.path().join("d")).unwrap();
    tree.apply(ALL);
    assert_eq!((tree.index.len(), tree.left_out, tree.path(id(&folder.path().join("d")))), (4, true, None));
    fs::remove_dir(folder.path().join("a")).unwrap();
    fs::remove_dir(folder.path().join("b")).unwrap();
    tree.apply(ALL);
    agree(&tree, &folder);
    assert!(!tree.left_out);
}

#[test]
fn what_is_made_unwatched_is_found_by_looking_into_what_it_is_in() {
    let (folder, mut tree) = sample(&["a"], ENOUGH);
    tree.forget_watches();
    fs::create_dir_all(folder.path().join("a/b/c")).unwrap();
    tree.apply(ALL);
    let made = id(&folder.path().join("a/b/c"));
    assert_eq!(tree.path(made), None);
    tree.look_into(id(&folder.path().join("a")));
    assert_eq!(tree.path(made).as_deref(), Some("/a/b/c"));
    fs::create_dir(folder.path().join("a/b/c/d")).unwrap();
    tree.apply(ALL);
    agree(&tree, &folder);
}

#[test]
fn a_path_longer_than_the_kernel_takes_is_known() {
    let (folder, mut tree) = sample(&[], ENOUGH);
    let name = "n".repeat(255);
    for levels in 0..30 {
        let above = directory::below(&tree.top.directory, vec![OsStr::new(&name); levels]).unwrap();
        fs::create_dir(PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&above))).join(&name))
            .unwrap();
    }
    tree.apply(ALL);
    assert_eq!(tree.index.len(), 31);
    let deepest = directory::below(&tree.top.directory, vec![OsStr::new(&name); 30]).unwrap().metadata().unwrap().ino();
    assert_eq!(tree.path(deepest), Some(format!("/{name}").repeat(30)));
    assert!(tree.open(deepest).is_some());
    drop(folder);
}

#[test]
fn what_is_too_deep_is_skipped_and_nothing_else_is() {
    let (folder, mut tree) = sample(&[], ENOUGH);
    fs::create_dir_all(folder.path().join(vec!["d"; MAX_DEPTH + 5].join("/"))).unwrap();
    fs::create_dir(folder.path().join("e")).unwrap();
    tree.apply(ALL);
    assert_eq!(tree.index.len(), MAX_DEPTH + 2);
}

#[test]
fn a_part_of_the_hierarchy_is_named_as_far_as_it_is_known() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("a")).unwrap();
    let (top, a) = (id(folder.path()), id(&folder.path().join("a")));
    let check = |root: &str, is_whole: bool, paths: [&str; 2], name: Option<&str>| {
        let tree = Tree::read(&hierarchy(folder.path(), root), is_whole, ENOUGH).unwrap();
        assert_eq!([top, a].map(|id| tree.path(id)), paths.map(|path| Some(path.to_owned())), "{root}");
        assert_eq!((tree.name(top).as_deref(), tree.name(a).as_deref()), (name, Some("a")), "{root}");
    };
    check("/", true, ["/", "/a"], Some(""));
    check("/../..", true, ["/", "/a"], Some(""));
    check("/kubepods/pod1", false, ["/kubepods/pod1", "/kubepods/pod1/a"], Some("pod1"));
    check("/", false, ["/", "/a"], None);
    check("/../x", false, ["/", "/a"], None);
}
