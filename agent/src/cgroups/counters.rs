//! What the kernel itself counted: OOM kills of the node in `/proc/vmstat`, and of each memory cgroup in its files.
//!
//! v2: `memory.events.local` (5.2 and later), and `memory.events` for the whole subtree; the root has neither. v1:
//! `memory.oom_control`, also of the root. A line that a kernel lacks is absent, never 0.

use std::fs::{self, File};
use std::io::{ErrorKind, Read, Result};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::cgroups::hierarchy::{Hierarchy, Version};
use crate::reconcile::{CgroupCounts, Cgroups, Counted};

/// Directories that are looked at in one walk. With v2 only those with kills somewhere below, and their children, take
/// part in it.
pub const MAX_DIRECTORIES: usize = 65_536;

/// Of one of these files; the longest, `/proc/vmstat`, has 5 KiB.
const MAX_BYTES: u64 = 64 << 10;

/// Kills of the node since it was booted. Absent where the kernel does not tell (before 4.13, or without
/// `CONFIG_VM_EVENT_COUNTERS`), or `/proc` is not mounted.
pub fn node_kills() -> Option<u64> {
    field(&read(Path::new("/proc/vmstat")).ok()?, "oom_kill")
}

/// Kills of all cgroups below (and with) the one that is mounted. It blocks: 3,000 cgroups took 102 to 112 ms with v1
/// (kernel 6.18, release build, 2 busy CPUs); with v2 those below a cgroup without kills are not looked at.
/// [`node_kills`] took 0.15 ms.
///
/// Cgroups that vanish meanwhile are as if they had been gone before.
pub fn cgroup_kills(hierarchy: &Hierarchy) -> Cgroups {
    walk(hierarchy, MAX_DIRECTORIES)
}

struct Directory {
    id: u64,
    /// Absent if the one above has no counters itself: the root.
    parent: Option<u64>,
    place: PathBuf,
    path: String,
}

fn walk(hierarchy: &Hierarchy, room: usize) -> Cgroups {
    let mut walk = Walk { waiting: Vec::new(), room: room.saturating_sub(1), found: Cgroups::default() };
    match fs::metadata(&hierarchy.mount) {
        Ok(root) => {
            let path = hierarchy.root.trim_end_matches('/').to_owned();
            walk.waiting.push(Directory { id: root.ino(), parent: None, place: hierarchy.mount.clone(), path });
        }
        Err(_) => walk.found.left_out = 1,
    }
    let mut is_root = true;
    while let Some(directory) = walk.waiting.pop() {
        if let Err(error) = walk.enter(hierarchy, &directory, is_root)
            && !has_gone(&error)
        {
            walk.found.left_out += 1;
        }
        is_root = false;
    }
    walk.found
}

struct Walk {
    waiting: Vec<Directory>,
    /// For directories that may still begin to wait.
    room: usize,
    found: Cgroups,
}

impl Walk {
    fn enter(&mut self, hierarchy: &Hierarchy, directory: &Directory, is_root: bool) -> Result<()> {
        let counts = counts(hierarchy, directory)?;
        // Whatever is below a cgroup without memory controller has none either. Only the root has one and no counters.
        if counts.is_none() && hierarchy.version == Version::V2 && !is_root {
            return Ok(());
        }
        let parent = counts.as_ref().map(|counts| counts.id);
        let subtree = counts.as_ref().and_then(|counts| counts.subtree).map(|counted| counted.kills);
        self.found
            .counts
            .extend(counts.filter(|counts| counts.own.kills > 0 || subtree.is_some_and(|kills| kills > 0)));
        // A directory has a link from each one in it, and two more: kernfs counts them, and reading all names costs
        // three times as much.
        if subtree == Some(0) || fs::metadata(&directory.place)?.nlink() == 2 {
            return Ok(());
        }
        for entry in fs::read_dir(&directory.place)? {
            let entry = entry?;
            if !entry.file_type()?.is_dir() {
                continue;
            }
            let Some(room) = self.room.checked_sub(1) else {
                self.found.left_out += 1;
                continue;
            };
            self.room = room;
            let path = format!("{}/{}", directory.path, entry.file_name().to_string_lossy());
            self.waiting.push(Directory { id: entry.ino(), parent, place: entry.path(), path });
        }
        Ok(())
    }
}

/// What a cgroup's files say. `None` if it has no such files.
fn counts(hierarchy: &Hierarchy, directory: &Directory) -> Result<Option<CgroupCounts>> {
    let read = |name: &str| match read(&directory.place.join(name)) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    };
    let (own, subtree) = match hierarchy.version {
        // It has no group kills.
        Version::V1 => (
            read("memory.oom_control")?
                .and_then(|text| counted(&text))
                .map(|own| Counted { group_kills: Some(0), ..own }),
            None,
        ),
        Version::V2 => {
            // Before the cgroup's own, which it is then never ahead of: kills in cgroups that are gone cannot be made
            // up.
            let subtree = read("memory.events")?.filter(|_| !hierarchy.local_events).and_then(|text| counted(&text));
            (read("memory.events.local")?.and_then(|text| counted(&text)), subtree)
        }
    };
    let path = if directory.path.is_empty() { "/".to_owned() } else { directory.path.clone() };
    Ok(own.map(|own| CgroupCounts { id: directory.id, parent: directory.parent, path, own, subtree }))
}

/// The kills in a text of lines with a name and a number. Absent if it has no such line.
fn counted(text: &str) -> Option<Counted> {
    Some(Counted { kills: field(text, "oom_kill")?, group_kills: field(text, "oom_group_kill") })
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn read(path: &Path) -> Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

/// The kernel says ENODEV to who has the file of a removed cgroup open.
fn has_gone(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use super::*;

    // Debian, kernel 6.18.
    const VMSTAT: &str = "pgskip_device 0\ndrop_slab 0\noom_kill 41\nswap_ra 0\noom_kill_other 7\n";
    const V1: &str = "oom_kill_disable 0\nunder_oom 0\noom_kill 12\n";
    const V2: &str = "low 0\nhigh 0\nmax 153\noom 6\noom_kill 7\noom_group_kill 1\nsock_throttled 0\n";
    // Debian, kernel 5.10.
    const V2_OLD: &str = "low 0\nhigh 0\nmax 153\noom 6\noom_kill 7\n";

    #[test]
    fn the_kernels_lines_are_read() {
        assert_eq!(field(VMSTAT, "oom_kill"), Some(41));
        let check = |text: &str, expected: Option<(u64, Option<u64>)>| {
            assert_eq!(counted(text).map(|counted| (counted.kills, counted.group_kills)), expected, "{text}");
        };
        check(V1, Some((12, None)));
        check(V2, Some((7, Some(1))));
        check(V2_OLD, Some((7, None)));
        check("oom_kill_disable 0\nunder_oom 0\n", None);
        check("oom_kill x\n", None);
        check("", None);
    }

    /// Files like those of the kernel, in directories.
    fn tree(
        version: Version,
        local_events: bool,
        cgroups: &[(&str, &[(&str, &str)])],
    ) -> (tempfile::TempDir, Hierarchy) {
        let mount = tempfile::tempdir().unwrap();
        for (path, files) in cgroups {
            let directory = mount.path().join(path);
            fs::create_dir_all(&directory).unwrap();
            for (name, text) in *files {
                fs::write(directory.join(name), text).unwrap();
            }
        }
        let hierarchy =
            Hierarchy { version, mount: mount.path().to_owned(), root: "/".to_owned(), writable: false, local_events };
        (mount, hierarchy)
    }

    fn paths(found: &Cgroups) -> Vec<(&str, u64, Option<u64>)> {
        let mut paths: Vec<_> = found
            .counts
            .iter()
            .map(|counts| (counts.path.as_str(), counts.own.kills, counts.subtree.map(|counted| counted.kills)))
            .collect();
        paths.sort_unstable();
        paths
    }

    #[test]
    fn v1_counts_each_cgroup_for_itself() {
        let none = ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n");
        let (mount, hierarchy) = tree(
            Version::V1,
            false,
            &[("", &[none]), ("a", &[none]), ("a/b", &[("memory.oom_control", V1)]), ("c", &[none])],
        );
        let found = cgroup_kills(&hierarchy);
        assert_eq!((paths(&found), found.left_out), (vec![("/a/b", 12, None)], 0));
        assert_eq!(found.counts[0].id, fs::metadata(mount.path().join("a/b")).unwrap().ino());
        assert_eq!(found.counts[0].own.group_kills, Some(0));
    }

    #[test]
    fn v2_looks_only_below_cgroups_with_kills() {
        let own = |text| ("memory.events.local", text);
        let all = |text| ("memory.events", text);
        let none = "oom_kill 0\noom_group_kill 0\n";
        let cgroups: &[(&str, &[(&str, &str)])] = &[
            ("a", &[own(none), all(V2)]),
            ("a/b", &[own(V2), all(V2)]),
            ("a/c", &[own(none), all(none)]),
            // Cannot be: it is not looked at.
            ("a/c/d", &[own(V2), all(V2)]),
            ("no-controller", &[]),
            ("no-controller/e", &[own(V2), all(V2)]),
        ];
        let (_mount, hierarchy) = tree(Version::V2, false, cgroups);
        let found = cgroup_kills(&hierarchy);
        assert_eq!((paths(&found), found.left_out), (vec![("/a", 0, Some(7)), ("/a/b", 7, Some(7))], 0));
        let a = found.counts.iter().find(|counts| counts.path == "/a").unwrap();
        let b = found.counts.iter().find(|counts| counts.path == "/a/b").unwrap();
        assert_eq!((a.parent, b.parent), (None, Some(a.id)));
        assert_eq!(b.own.group_kills, Some(1));

        let (_mount, hierarchy) = tree(Version::V2, true, cgroups);
        assert_eq!(
            paths(&cgroup_kills(&hierarchy)),
            [("/a/b", 7, None), ("/a/c/d", 7, None)],
            "events do not count upwards"
        );
    }

    #[test]
    fn a_part_of_the_hierarchy_keeps_its_place() {
        let (_mount, mut hierarchy) =
            tree(Version::V1, false, &[("", &[("memory.oom_control", V1)]), ("b", &[("memory.oom_control", V1)])]);
        hierarchy.root = "/kubepods/pod1".to_owned();
        assert_eq!(paths(&cgroup_kills(&hierarchy)), [("/kubepods/pod1", 12, None), ("/kubepods/pod1/b", 12, None)]);
        hierarchy.root = "/".to_owned();
        assert_eq!(paths(&cgroup_kills(&hierarchy)), [("/", 12, None), ("/b", 12, None)]);
    }

    #[test]
    fn what_is_left_out_is_said() {
        let (_mount, hierarchy) = tree(Version::V1, false, &[("a", &[]), ("b", &[]), ("c", &[])]);
        assert_eq!(walk(&hierarchy, 2).left_out, 2);
        assert_eq!(walk(&hierarchy, 4).left_out, 0);
        let gone = Hierarchy { mount: hierarchy.mount.join("gone"), ..hierarchy };
        assert_eq!(cgroup_kills(&gone).left_out, 1);
    }

    #[test]
    fn this_kernel_counts() {
        // One that does not, or no memory cgroups, is no failure: what is there must be understood.
        if fs::read_to_string("/proc/vmstat").is_ok_and(|text| text.contains("\noom_kill ")) {
            assert!(node_kills().is_some());
        }
        if let Ok(hierarchy) = Hierarchy::find() {
            let found = cgroup_kills(&hierarchy);
            assert!(found.counts.iter().all(|counts| counts.path.starts_with('/')), "{found:?}");
        }
    }
}
