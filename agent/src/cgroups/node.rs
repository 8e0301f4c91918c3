//! Which memory cgroups are this node's. Nodes may share one kernel (kind, k3d, LXC), and a probe sees the kills of all
//! of it: each agent counts those in the cgroups of its own node.
//!
//! A node that is a container has its own part of the hierarchy mounted at its `/sys/fs/cgroup`, and the agent has that
//! of the node. So what is mounted here says which part it is, by the inode number of its topmost directory, which is
//! the cgroup's id in the kernel; whatever namespaces the agent is in.
//!
//! It is not used where the whole hierarchy is mounted, which is the usual node, and where the mounted part is that of
//! the agent's own container, which says nothing of the node: then all kills count.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::hierarchy::{Hierarchy, ROOT_INODE, Version};
use crate::kill::Kill;

/// What the configuration says of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// As it is found.
    #[default]
    Auto,
    /// All cgroups of the kernel.
    All,
    /// The directory of a memory cgroup: that one and those below it.
    Below(PathBuf),
}

/// The memory cgroups of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// Those of the whole kernel.
    All(Reason),
    /// The one with this id, and those below it.
    Below {
        /// The inode number of its directory.
        id: u64,
        /// Where it is mounted.
        hierarchy: Hierarchy,
    },
}

/// Why all cgroups of the kernel are this node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The whole hierarchy is mounted.
    Whole,
    /// Of the hierarchy only the agent's own cgroup is mounted.
    OwnAlone,
    /// No memory cgroups are mounted.
    NotMounted,
    /// The configuration says so.
    Configured,
}

impl Node {
    /// Looks at what is mounted.
    ///
    /// # Errors
    /// The directory that the configuration names is not that of a memory cgroup.
    pub fn find(choice: &Choice) -> Result<Self> {
        match choice {
            Choice::All => Ok(Self::All(Reason::Configured)),
            Choice::Below(directory) => {
                // A link may lead to one.
                let directory =
                    &fs::canonicalize(directory).with_context(|| format!("node_cgroup: {}", directory.display()))?;
                let found = fs::metadata(directory).with_context(|| format!("node_cgroup: {}", directory.display()))?;
                ensure!(
                    found.is_dir(),
                    "node_cgroup: {} is not a directory: name the cgroup's own",
                    directory.display()
                );
                let (id, hierarchy) = (found.ino(), Hierarchy::at(directory)?);
                ensure!(
                    id != ROOT_INODE,
                    "node_cgroup: {} is the root of all cgroups: write `all`",
                    directory.display()
                );
                Ok(Self::Below { id, hierarchy })
            }
            Choice::Auto => {
                let Ok(hierarchy) = Hierarchy::widest() else { return Ok(Self::All(Reason::NotMounted)) };
                let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
                // It is gone: nothing can be said of it.
                let Ok(topmost) = fs::metadata(&hierarchy.mount) else { return Ok(Self::All(Reason::NotMounted)) };
                Ok(Self::mounted(topmost.ino(), hierarchy, &own))
            }
        }
    }

    /// By the id of the topmost cgroup that is mounted, and the text of `/proc/self/cgroup`.
    fn mounted(id: u64, hierarchy: Hierarchy, own: &str) -> Self {
        if id == ROOT_INODE {
            return Self::All(Reason::Whole);
        }
        // Both are paths from the root of the reader's cgroup namespace.
        let own = own.lines().find_map(|line| own_path(line, hierarchy.version));
        match own.is_some_and(|own| own == Path::new(&hierarchy.root)) {
            true => Self::All(Reason::OwnAlone),
            false => Self::Below { id, hierarchy },
        }
    }

    /// Whether the victim was on this node. Also where the kernel did not tell enough to know: a kill that counts twice
    /// is better than one that counts nowhere.
    pub fn has(&self, kill: &Kill) -> bool {
        let Self::Below { id, .. } = self else { return true };
        let is_known = kill.cgroups.last().is_some_and(|outermost| outermost.id == Some(ROOT_INODE));
        !is_known || kill.cgroups.iter().any(|cgroup| cgroup.id == Some(*id))
    }

    /// The cgroups whose counters tell of its kills. Absent if none can be seen.
    pub fn hierarchy(&self) -> Option<Hierarchy> {
        match self {
            Self::All(_) => Hierarchy::widest().ok(),
            Self::Below { hierarchy, .. } => Some(hierarchy.clone()),
        }
    }

    /// Whether it is the only one of its kernel, as far as is known.
    pub fn is_all(&self) -> bool {
        matches!(self, Self::All(_))
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(Reason::Whole) => {
                f.write_str("all kills of this kernel count: all its memory cgroups are mounted here")
            }
            Self::All(Reason::OwnAlone) => f.write_str(
                "all kills of this kernel count: only the agent's own memory cgroup is mounted here, so which are the \
                 node's is not known",
            ),
            Self::All(Reason::NotMounted) => {
                f.write_str("all kills of this kernel count: no memory cgroups are mounted here")
            }
            Self::All(Reason::Configured) => f.write_str("all kills of this kernel count: node_cgroup is `all`"),
            Self::Below { id, hierarchy } => {
                write!(
                    f,
                    "kills below the memory cgroup at {} count (id {id}): others of this kernel are another node's",
                    hierarchy.mount.display()
                )
            }
        }
    }
}

/// The path in one line of `/proc/self/cgroup`, if it is of the hierarchy with the memory controller: number,
/// controllers, path.
fn own_path(line: &str, version: Version) -> Option<&Path> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    let is_it = match version {
        Version::V1 => controllers.split(',').any(|controller| controller == "memory"),
        Version::V2 => controllers.is_empty(),
    };
    is_it.then_some(Path::new(path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kill::Cgroup;

    fn hierarchy(version: Version, root: &str) -> Hierarchy {
        Hierarchy {
            version,
            mount: "/sys/fs/cgroup".into(),
            root: root.to_owned(),
            writable: false,
            local_events: false,
        }
    }

    #[test]
    fn the_part_that_is_mounted_is_the_nodes_unless_it_is_the_agents_own() {
        let check = |id: u64, version: Version, root: &str, own: &str, expected: Option<Reason>| {
            let found = Node::mounted(id, hierarchy(version, root), own);
            let expected = expected.map_or_else(|| Node::Below { id, hierarchy: hierarchy(version, root) }, Node::All);
            assert_eq!(found, expected, "{root} {own}");
        };
        use Version::{V1, V2};
        // A plain node: the agent as a service, in a pod with the node's cgroups, with a namespace of its own.
        check(1, V2, "/", "0::/system.slice/oom-watcher.service\n", Some(Reason::Whole));
        check(1, V2, "/../../..", "0::/\n", Some(Reason::Whole));
        check(1, V1, "/", "4:memory:/kubepods/burstable/pod1/c\n0::/\n", Some(Reason::Whole));
        // A pod with no more than its own.
        check(90, V2, "/", "0::/\n", Some(Reason::OwnAlone));
        check(90, V1, "/kubepods/pod1/c", "5:cpu,memory:/kubepods/pod1/c\n0::/\n", Some(Reason::OwnAlone));
        // A node that is a container: its part is above the agent's own.
        check(90, V2, "/../../../..", "0::/\n", None);
        check(90, V1, "/docker/node", "5:memory:/docker/node/kubepods/pod1/c\n", None);
        check(90, V2, "/", "0::/system.slice/oom-watcher.service\n", None);
        // A part that was mounted on purpose, for an agent that is elsewhere.
        check(90, V2, "/nodes/first", "0::/\n", None);
        check(90, V2, "/nodes/first", "0::/nodes/second\n", None);
        // It cannot be told whose it is, and it is a part.
        check(90, V1, "/docker/node", "", None);
        check(90, V1, "/docker/node", "0::/docker/node\n", None);
    }

    #[test]
    fn kills_of_other_nodes_are_told_apart_by_the_ids_above_them() {
        let node = Node::Below { id: 90, hierarchy: hierarchy(Version::V2, "/") };
        let check = |ids: &[Option<u64>], expected: bool| {
            let mut kill = crate::reconcile::kill_in(&[]);
            kill.cgroups = ids.iter().map(|id| Cgroup { id: *id, ..Cgroup::default() }).collect();
            assert_eq!(node.has(&kill), expected, "{ids:?}");
            assert!(Node::All(Reason::Whole).has(&kill));
        };
        check(&[Some(7), Some(90), Some(1)], true);
        check(&[Some(90), Some(1)], true);
        check(&[Some(7), Some(91), Some(1)], false);
        check(&[Some(1)], false);
        // Not all of them are known.
        check(&[], true);
        check(&[Some(7), Some(8)], true);
        check(&[None, None], true);
    }

    #[test]
    fn a_directory_that_is_no_cgroup_is_refused() {
        let refused = |directory: &str| {
            Node::find(&Choice::Below(directory.into())).err().map(|error| format!("{error:#}")).unwrap_or_default()
        };
        assert!(
            refused("/proc/none").starts_with("node_cgroup: /proc/none: No such file"),
            "{}",
            refused("/proc/none")
        );
        assert!(
            refused("/proc").starts_with("node_cgroup: /proc is not in a memory cgroup's hierarchy"),
            "{}",
            refused("/proc")
        );
        assert!(
            refused("/proc/self/cgroup").ends_with("/cgroup is not a directory: name the cgroup's own"),
            "{}",
            refused("/proc/self/cgroup")
        );
        assert!(Node::find(&Choice::All).is_ok_and(|node| node == Node::All(Reason::Configured)));
    }
}
