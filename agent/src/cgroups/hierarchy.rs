//! Where this process can reach the memory cgroups: which version, where mounted, which part of the hierarchy.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The interface of the memory controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A hierarchy of the memory controller's own.
    V1,
    /// The unified hierarchy.
    V2,
}

const NONE: &str = "no memory cgroups are mounted: mount them with `mount -t cgroup2 none /sys/fs/cgroup` (see \
    /proc/cgroups for whether the kernel has them)";

/// The inode number of a hierarchy's root directory: the first one that is given out (`kernfs_create_root`,
/// fs/kernfs/dir.c).
pub(super) const ROOT_INODE: u64 = 1;

/// Where this process can reach the memory cgroups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its interface.
    pub version: Version,
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Which cgroup is mounted there: `/`, unless only a part of the hierarchy is.
    pub root: String,
    /// Whether cgroups can be made here.
    pub writable: bool,
    /// v2: `memory.events` counts a cgroup's own events alone, without those below it (the mount option
    /// `memory_localevents`).
    pub local_events: bool,
}

impl Hierarchy {
    /// The hierarchy in which memory is limited, best one that can be written.
    ///
    /// # Errors
    /// There is none; the message says what to do.
    pub fn find() -> Result<Self> {
        Self::choose(&mountinfo()?, limits_memory)
    }

    /// As [`Self::find`], but best one whose root is mounted, else the part that begins furthest out: what a container
    /// has at `/sys/fs/cgroup` is often its own part, and the node's is mounted elsewhere.
    ///
    /// # Errors
    /// There is none; the message says what to do.
    pub fn widest() -> Result<Self> {
        let all = Self::mounted(&mountinfo()?, limits_memory);
        let whole = all.iter().find(|hierarchy| hierarchy.is_whole());
        whole.or_else(|| all.iter().min_by_key(|hierarchy| hierarchy.depth())).cloned().context(NONE)
    }

    /// The part of a hierarchy that begins with the cgroup of this directory.
    ///
    /// # Errors
    /// The directory is in no hierarchy with the memory controller.
    pub(super) fn at(directory: &Path) -> Result<Self> {
        let all = Self::mounted(&mountinfo()?, limits_memory);
        let around = all
            .into_iter()
            .filter(|hierarchy| directory.starts_with(&hierarchy.mount))
            .max_by_key(|hierarchy| hierarchy.mount.as_os_str().len());
        let around = around.with_context(|| {
            format!(
                "node_cgroup: {} is not in a memory cgroup's hierarchy (see /proc/self/mountinfo)",
                directory.display()
            )
        })?;
        let below = directory.strip_prefix(&around.mount).unwrap_or(Path::new("")).display().to_string();
        let root = format!("{}/{below}", around.root.trim_end_matches('/'));
        Ok(Self { mount: directory.to_owned(), root, ..around })
    }

    /// How far below the root of this process's cgroup namespace it begins; less than 0 above that.
    fn depth(&self) -> isize {
        self.root.split('/').filter(|part| !part.is_empty()).map(|part| if part == ".." { -1 } else { 1 }).sum()
    }

    /// Whether its root is mounted, and not a part of it. `root` does not tell: in a cgroup namespace it is `/` for a
    /// part, too.
    pub fn is_whole(&self) -> bool {
        self.mount.metadata().is_ok_and(|directory| directory.ino() == ROOT_INODE)
    }

    /// As [`Self::find`], where it must be possible to make cgroups.
    ///
    /// # Errors
    /// There is none, or it can only be read; the message says what to do.
    pub fn writable() -> Result<Self> {
        let hierarchy = Self::find()?;
        if !hierarchy.writable {
            bail!(
                "the memory cgroups at {} are mounted read-only: run this on the node itself, or mount the node's \
                 /sys/fs/cgroup read-write into the container",
                hierarchy.mount.display()
            );
        }
        Ok(hierarchy)
    }

    /// Picks from the lines of `mountinfo`. `limits_memory` tells whether the memory controller is in the v2 hierarchy
    /// mounted there, or still in v1.
    fn choose(mountinfo: &str, limits_memory: impl Fn(&Path) -> bool) -> Result<Self> {
        let found = Self::mounted(mountinfo, limits_memory);
        let best = found.iter().find(|hierarchy| hierarchy.writable).or_else(|| found.first());
        best.cloned().context(NONE)
    }

    /// All of those that can be reached: what is mounted later at the same place covers the earlier, as a volume does
    /// the cgroups of a container's own.
    fn mounted(mountinfo: &str, limits_memory: impl Fn(&Path) -> bool) -> Vec<Self> {
        let mut found: Vec<Self> = Vec::new();
        for hierarchy in mountinfo.lines().filter_map(Self::from_mount) {
            found.retain(|earlier| earlier.mount != hierarchy.mount);
            found.push(hierarchy);
        }
        found.retain(|hierarchy| hierarchy.version == Version::V1 || limits_memory(&hierarchy.mount));
        found
    }

    /// One line of `mountinfo`: id, parent, device, root, mount point, options, optional fields, `-`, type, source,
    /// options of the file system.
    fn from_mount(line: &str) -> Option<Self> {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut mount = mount.split(' ').skip(3);
        let (root, point, options) = (mount.next()?, mount.next()?, mount.next()?);
        let mut file_system = file_system.split(' ');
        let (kind, _, super_options) = (file_system.next()?, file_system.next()?, file_system.next()?);
        let has = |options: &str, name: &str| options.split(',').any(|option| option == name);
        let version = match kind {
            "cgroup" if has(super_options, "memory") => Version::V1,
            "cgroup2" => Version::V2,
            _ => return None,
        };
        let writable = !has(options, "ro") && !has(super_options, "ro");
        let local_events = has(super_options, "memory_localevents");
        Some(Self { version, mount: PathBuf::from(point), root: root.to_owned(), writable, local_events })
    }
}

fn mountinfo() -> Result<String> {
    fs::read_to_string("/proc/self/mountinfo").context("reading /proc/self/mountinfo")
}

/// Whether the memory controller is in the v2 hierarchy mounted there.
fn limits_memory(mount: &Path) -> bool {
    fs::read_to_string(mount.join("cgroup.controllers"))
        .is_ok_and(|controllers| controllers.split_whitespace().any(|c| c == "memory"))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::panic, reason = "a failed test panics")]

    use super::*;

    fn check(mountinfo: &str, expected: std::result::Result<(Version, &str, &str), &str>) {
        match (Hierarchy::choose(mountinfo, |mount| mount != Path::new("/sys/fs/cgroup/unified")), expected) {
            (Ok(found), Ok((version, mount, root))) => {
                assert_eq!(
                    (found.version, found.mount.as_path(), found.root.as_str()),
                    (version, Path::new(mount), root),
                    "{mountinfo}"
                );
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            (found, expected) => panic!("found {found:?}, expected {expected:?} in {mountinfo}"),
        }
    }

    const V1: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";
    const CPU: &str = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu\n";
    const HYBRID: &str = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    const V2: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 \
        rw,nsdelegate,memory_recursiveprot\n";
    const READ_ONLY: &str = "812 805 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw\n";
    const A_PART: &str = "812 805 0:32 /kubepods/pod1 /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";

    #[test]
    fn an_option_says_whether_events_below_a_cgroup_count() {
        let local = |mountinfo: &str| Hierarchy::choose(mountinfo, |_| true).map(|found| found.local_events).ok();
        assert_eq!(local(V2), Some(false));
        assert_eq!(local(&V2.replace("rw,nsdelegate", "rw,memory_localevents,nsdelegate")), Some(true));
    }

    #[test]
    fn the_part_that_begins_furthest_out_is_the_widest() {
        let depth = |root: &str| {
            let hierarchy = Hierarchy {
                version: Version::V2,
                mount: PathBuf::new(),
                root: root.to_owned(),
                writable: false,
                local_events: false,
            };
            hierarchy.depth()
        };
        assert_eq!(["/", "/..", "/../../..", "/docker/node", "/../sibling"].map(depth), [0, -1, -3, 2, 0]);
    }

    #[test]
    fn the_hierarchy_that_limits_memory_is_found() {
        check(V1, Ok((Version::V1, "/sys/fs/cgroup/memory", "/")));
        check(&format!("{HYBRID}{CPU}{V1}"), Ok((Version::V1, "/sys/fs/cgroup/memory", "/")));
        check(V2, Ok((Version::V2, "/sys/fs/cgroup", "/")));
        check(
            &format!("{READ_ONLY}{}", V2.replace("/sys", "/host/sys")),
            Ok((Version::V2, "/host/sys/fs/cgroup", "/")),
        );
        check(
            &format!("{V2}{}", READ_ONLY.replace(" / ", " /docker/node ")),
            Ok((Version::V2, "/sys/fs/cgroup", "/docker/node")),
        );
        check(A_PART, Ok((Version::V1, "/sys/fs/cgroup/memory", "/kubepods/pod1")));
        check(READ_ONLY, Ok((Version::V2, "/sys/fs/cgroup", "/")));
        check(HYBRID, Err("no memory cgroups"));
        check(CPU, Err("no memory cgroups"));
        check("", Err("no memory cgroups"));
        check("a line of nonsense - \n", Err("no memory cgroups"));
    }
}
