//! The memory cgroups of this node by their ids, for kernels that refuse to have names and limits read
//! (lockdown=confidentiality): a kill tells the ids of its cgroups even then, and an id is the inode number of the
//! cgroup's directory.
//!
//! Read once, then kept up to date by the kernel's notices: nothing is polled. Absent: what a cgroup used at the kill
//! (its files say what it uses now), the limits of a cgroup that is gone, and a cgroup that was made and removed before
//! its notice was read.
//!
//! Measured on 2 virtual cores (AMD EPYC), both busy with other work, kernel 6.18, cgroup v1, a release build: 6,000
//! cgroups, half of them pods and containers named as containerd does, are read in 0.24 to 0.42 s and take 1.4 MiB of
//! the agent's memory; 3,000 half of that. The kernel keeps about 1 KiB more for each that is watched (inotify(7)).

mod directory;
mod index;
mod inotify;
mod limits;
mod tree;

use std::fmt;
use std::fs::File;
use std::sync::Arc;

use anyhow::{Context, Result};
use parking_lot::Mutex;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

use crate::cgroups::hierarchy::Hierarchy;
use crate::kill::{Cgroup, Kill};
use index::MAX_DEPTH;
use tree::Tree;

/// Cgroups that are kept: 3.7 MiB. A node with 250 pods has about 3,000. More are not known until an eighth of these is
/// gone.
const MAX_CGROUPS: usize = 16_384;

/// Reads of notices before a kill is looked up: more than the kernel's queue holds.
const READS_AT_MOST: usize = 1024;

/// The cgroups of this node. What happens to them is read by a task of the Tokio runtime, until this is dropped.
pub struct CgroupNames {
    tree: Arc<Mutex<Tree>>,
    task: AbortHandle,
}

impl CgroupNames {
    /// Reads all cgroups and keeps them up to date. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// No memory cgroups are mounted here, or the kernel gives no notices; the message says what to do.
    pub fn start() -> Result<Self> {
        let hierarchy = Hierarchy::widest()?;
        let tree = Tree::read(&hierarchy, hierarchy.is_whole(), MAX_CGROUPS)
            .with_context(|| format!("reading the memory cgroups at {}", hierarchy.mount.display()))?;
        Self::of(tree)
    }

    fn of(tree: Tree) -> Result<Self> {
        let queue = tree.inotify.queue().context("opening the notices of cgroups once more")?;
        // SAFETY: the file owns its descriptor and gives the same one until it is dropped, together with this.
        let notices = unsafe { AsyncFd::register_with_interest(queue, Interest::READABLE) }
            .context("waiting for notices of cgroups")?;
        let tree = Arc::new(Mutex::new(tree));
        let task = tokio::spawn(follow(Arc::clone(&tree), notices)).abort_handle();
        Ok(Self { tree, task })
    }

    /// How many cgroups are there.
    pub fn cgroups(&self) -> usize {
        self.tree.lock().index.len()
    }

    /// Whether it has the cgroups of the whole node, and not only of the part that is mounted here.
    pub fn is_whole(&self) -> bool {
        self.tree.lock().is_whole()
    }

    /// The path of the cgroup with this id, from the root of the memory hierarchy. Also of one that was removed lately;
    /// absent if it was never met.
    pub fn path(&self, id: u64) -> Option<String> {
        self.tree.lock().path(id)
    }

    /// Fills in what the kernel did not tell of the cgroups of a kill: paths, names, and the limits that are in force
    /// now. What it told stays.
    ///
    /// If the victim's own cgroup was never met, `cgroup_path` stays absent, but those above it have their names and
    /// limits.
    pub fn complete(&mut self, kill: &mut Kill) {
        if kill.cgroup_path.is_none() {
            complete(&mut self.tree.lock(), kill);
        }
    }
}

impl Drop for CgroupNames {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for CgroupNames {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CgroupNames").field("cgroups", &self.cgroups()).finish_non_exhaustive()
    }
}

/// Applies notices as they come.
async fn follow(tree: Arc<Mutex<Tree>>, notices: AsyncFd<File>) {
    while let Ok(mut ready) = notices.readable().await {
        if tree.lock().apply(1) {
            ready.clear_ready();
        }
        tokio::task::yield_now().await;
    }
}

/// Fills in what is absent in a kill.
fn complete(tree: &mut Tree, kill: &mut Kill) {
    tree.apply(READS_AT_MOST);
    let ids = || kill.cgroups.iter().filter_map(|cgroup| cgroup.id);
    if let Some(innermost) = ids().find(|&id| tree.index.is_live(id))
        && ids().next().is_some_and(|own| !tree.index.knows(own))
    {
        tree.look_into(innermost);
    }
    for cgroup in &mut kill.cgroups {
        fill(tree, cgroup);
    }
    add_outer_levels(tree, kill);
    if let Some(path) = kill.cgroups.first().and_then(|own| tree.path(own.id?)) {
        (kill.cgroup_path, kill.path_cut) = (Some(path), !tree.is_whole());
    }
    if kill.trigger.cgroup_path.is_none()
        && let Some(path) = kill.trigger.cgroup_id.and_then(|id| tree.path(id))
    {
        (kill.trigger.cgroup_path, kill.trigger.path_cut) = (Some(path), !tree.is_whole());
    }
    kill.cgroups_from_files = kill.cgroups.iter().any(|cgroup| cgroup.name.is_some());
}

fn fill(tree: &Tree, cgroup: &mut Cgroup) {
    let Some(id) = cgroup.id else { return };
    cgroup.name = cgroup.name.take().or_else(|| tree.name(id));
    if let Some(directory) = tree.open(id) {
        limits::fill(cgroup, &directory, tree.version, tree.is_root(id));
    }
}

/// The levels that are more than the probe keeps.
fn add_outer_levels(tree: &Tree, kill: &mut Kill) {
    let mut outermost = kill.cgroups.last().and_then(|cgroup| cgroup.id);
    while let Some(id) = outermost.and_then(|id| tree.index.parent(id)).filter(|_| kill.cgroups.len() <= MAX_DEPTH) {
        let mut cgroup = Cgroup { id: Some(id), ..Cgroup::default() };
        fill(tree, &mut cgroup);
        kill.cgroups.push(cgroup);
        outermost = Some(id);
    }
}

#[cfg(test)]
mod tests;
