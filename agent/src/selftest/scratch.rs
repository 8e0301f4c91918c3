//! A memory cgroup of our own with a small limit, where a process can be killed without harm to anybody else. Works on
//! cgroup v1 and v2.
//!
//! Kills nobody: a process that joins and allocates more than the limit is killed by the kernel.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tracing::warn;

use crate::cgroups::hierarchy::{Hierarchy, Version};

/// How often the removal of a cgroup that still has processes is tried, `REMOVE_PAUSE` apart. v1 has no event for
/// "empty".
const REMOVE_ATTEMPTS: u32 = 100;
const REMOVE_PAUSE: Duration = Duration::from_millis(10);

/// The smallest page of any machine: where pages are bigger, some are touched more than once.
const PAGE: usize = 4096;

/// A memory cgroup that we made. Dropping it removes it, and those above it that were made for it.
///
/// All its processes should have ended by then: the removal is tried for a second, then given up with a warning. Drop
/// children before their parents.
#[derive(Debug)]
pub struct Scratch {
    hierarchy: Hierarchy,
    /// The names from the hierarchy's mount down.
    names: Vec<String>,
    /// How many of the last `names` are ours to remove.
    made: usize,
}

impl Scratch {
    /// Makes the cgroup `path` below the root of the memory hierarchy, with a limit in bytes and without swap.
    ///
    /// On v2 those above it hand the memory controller down from then on.
    ///
    /// # Errors
    /// There is no hierarchy to write to, or the cgroup exists already, or its limit cannot be set.
    pub fn create(path: &str, limit: u64) -> Result<Self> {
        Self::make(Hierarchy::writable()?, Vec::new(), path, Some(limit))
    }

    /// Makes the cgroup `path` below this one; those between that are not there yet are made without a limit.
    ///
    /// On v2 a cgroup that has children cannot have processes itself.
    ///
    /// # Errors
    /// The cgroup exists already, or its limit cannot be set.
    pub fn nested(&self, path: &str, limit: Option<u64>) -> Result<Self> {
        Self::make(self.hierarchy.clone(), self.names.clone(), path, limit)
    }

    /// The interface it has.
    pub fn version(&self) -> Version {
        self.hierarchy.version
    }

    /// Its path as the kernel names it, from the root of the hierarchy. In a cgroup namespace the kernel's own name is
    /// longer: compare the end.
    pub fn path(&self) -> String {
        format!("{}/{}", self.hierarchy.root.trim_end_matches('/'), self.names.join("/"))
    }

    /// The inode number of its directory, which is the kernel's cgroup id.
    ///
    /// # Errors
    /// It was removed.
    pub fn id(&self) -> io::Result<u64> {
        Ok(self.directory(self.names.len())?.metadata()?.ino())
    }

    /// What a process writes `0` to in order to join. Opened now, so that a child that was just forked has nothing to
    /// do but to write.
    ///
    /// # Errors
    /// It was removed.
    pub fn entrance(&self) -> io::Result<File> {
        OpenOptions::new().write(true).open(beneath(&self.directory(self.names.len())?, "cgroup.procs"))
    }

    /// Moves the calling process into it.
    ///
    /// # Errors
    /// The kernel refuses: the process is in a cgroup that it cannot leave, or this one has children (v2).
    pub fn join(&self) -> io::Result<()> {
        self.write("cgroup.procs", "0")
    }

    /// How many processes of this very cgroup the OOM killer has killed, as the kernel counts: those below it are not
    /// among them.
    ///
    /// # Errors
    /// It was removed, or the kernel does not count (before 5.2 on v2).
    pub fn kills(&self) -> Result<u64> {
        match self.hierarchy.version {
            Version::V1 => self.counter("memory.oom_control", "oom_kill"),
            Version::V2 => self.counter("memory.events.local", "oom_kill"),
        }
    }

    /// Sets its limit, in bytes, and leaves no swap beside it.
    ///
    /// # Errors
    /// v1: more is used and cannot be given back. v2 kills instead. Or it was removed.
    pub fn set_limit(&self, bytes: u64) -> io::Result<()> {
        let bytes = bytes.to_string();
        // Not every kernel accounts swap.
        let if_there = |result: io::Result<()>| match result {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result,
        };
        match self.hierarchy.version {
            Version::V1 => {
                // The limit of memory and swap may at no time be below the one of memory.
                if_there(self.write("memory.memsw.limit_in_bytes", "-1"))?;
                self.write("memory.limit_in_bytes", &bytes)?;
                if_there(self.write("memory.memsw.limit_in_bytes", &bytes))?;
                if_there(self.write("memory.swappiness", "0"))
            }
            Version::V2 => {
                self.write("memory.max", &bytes)?;
                if_there(self.write("memory.swap.max", "0"))
            }
        }
    }

    /// Has the kernel kill all processes in and below it at once. `false` where the kernel cannot: on v1.
    ///
    /// # Errors
    /// It was removed.
    pub fn set_oom_group(&self) -> Result<bool> {
        if self.hierarchy.version == Version::V1 {
            return Ok(false);
        }
        self.write("memory.oom.group", "1").context("setting memory.oom.group")?;
        Ok(true)
    }

    /// Reads one of its files.
    ///
    /// # Errors
    /// This kernel has no such file, or the cgroup was removed.
    pub fn read(&self, file: &str) -> Result<String> {
        let read = || fs::read_to_string(beneath(&self.directory(self.names.len())?, file));
        read().with_context(|| format!("reading {file} of the cgroup {}", self.path()))
    }

    /// Writes one of its files.
    ///
    /// # Errors
    /// This kernel has no such file, or refuses the value.
    pub fn write(&self, file: &str, value: &str) -> io::Result<()> {
        // `fs::write` would create a file that is missing, which cgroups answer with "permission denied" instead of
        // "not found".
        let mut file = OpenOptions::new().write(true).open(beneath(&self.directory(self.names.len())?, file))?;
        io::Write::write_all(&mut file, value.as_bytes())
    }

    fn make(hierarchy: Hierarchy, above: Vec<String>, path: &str, limit: Option<u64>) -> Result<Self> {
        let mut scratch = Self { hierarchy, names: above, made: 0 };
        let mut new = false;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            if matches!(name, "." | "..") {
                bail!("{path} is not a path of cgroup names");
            }
            new = scratch.descend(name)?;
        }
        if !new {
            bail!("the cgroup {} exists already: choose another path, or remove it if nobody needs it", scratch.path());
        }
        if let Some(limit) = limit {
            scratch
                .set_limit(limit)
                .with_context(|| format!("limiting the memory of {} to {limit} bytes", scratch.path()))?;
        }
        Ok(scratch)
    }

    /// Goes one level down, and says whether it had to be made. What is made belongs to `self` at once, so that an
    /// error later removes it.
    fn descend(&mut self, name: &str) -> Result<bool> {
        if self.hierarchy.version == Version::V2 {
            self.hand_memory_down()?;
        }
        let parent = self.directory(self.names.len()).with_context(|| format!("opening the cgroup {}", self.path()))?;
        match fs::create_dir(beneath(&parent, name)) {
            Ok(()) => {
                self.names.push(name.to_owned());
                self.made += 1;
                if self.hierarchy.version == Version::V1 {
                    // Without it kernels before 5.11 ignore the limits of those above; later ones always obey them.
                    let _ = self.write("memory.use_hierarchy", "1");
                }
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.names.push(name.to_owned());
                Ok(false)
            }
            Err(error) => {
                let remedy = match error.kind() {
                    ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
                        ": it needs root, or a cgroup delegated to this user"
                    }
                    _ => "",
                };
                Err(error).with_context(|| format!("making the cgroup {name} in {}{remedy}", self.path()))
            }
        }
    }

    /// v2: lets the children of this cgroup have limits.
    fn hand_memory_down(&self) -> Result<()> {
        if self.read("cgroup.subtree_control")?.split_whitespace().any(|controller| controller == "memory") {
            return Ok(());
        }
        self.write("cgroup.subtree_control", "+memory").map_err(|error| {
            let remedy = match error.kind() {
                ErrorKind::ResourceBusy => {
                    ": it has processes, so its children cannot have limits; run this where the root of the hierarchy \
                     is mounted"
                }
                ErrorKind::PermissionDenied => ": it needs root, or a cgroup delegated to this user",
                _ => "",
            };
            anyhow!(error).context(format!("enabling the memory controller below the cgroup {}{remedy}", self.path()))
        })
    }

    /// The number behind `key` in a file of `key number` lines.
    fn counter(&self, file: &str, key: &str) -> Result<u64> {
        let text = self.read(file)?;
        let number = text.lines().filter_map(|line| line.split_once(' ')).find(|(name, _)| *name == key);
        let (_, number) = number.with_context(|| format!("no {key} in {file} of the cgroup {}", self.path()))?;
        number.trim().parse().with_context(|| format!("{key} in {file} of the cgroup {}", self.path()))
    }

    /// Opens the cgroup `depth` levels below the mount, level by level: the whole path may be longer than the kernel
    /// takes (`PATH_MAX`).
    fn directory(&self, depth: usize) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY);
        self.names
            .iter()
            .take(depth)
            .try_fold(options.open(&self.hierarchy.mount)?, |above, name| options.open(beneath(&above, name)))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        while self.made > 0 {
            let above = self.names.len().saturating_sub(1);
            if let (Ok(parent), Some(name)) = (self.directory(above), self.names.last())
                && let Err(error) = remove(&beneath(&parent, name))
            {
                warn!(%error, cgroup = self.path(), "scratch cgroup not removed");
                return;
            }
            self.names.pop();
            self.made -= 1;
        }
    }
}

/// Maps `bytes` of anonymous memory and touches every page of it, none of them huge. It stays mapped until the process
/// ends.
///
/// # Errors
/// The kernel does not give the addresses.
pub fn allocate(bytes: usize) -> io::Result<()> {
    let (access, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
    // SAFETY: a new private mapping at an address that the kernel chooses touches nothing that exists.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, kind, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the mapping is ours. A kernel without huge pages refuses the advice, which then is not needed.
    unsafe { libc::madvise(start, bytes, libc::MADV_NOHUGEPAGE) };
    for offset in (0..bytes).step_by(PAGE) {
        // SAFETY: `offset` is inside of the mapping, which nobody else knows; volatile, so that the write is not
        // optimized away.
        unsafe { start.cast::<u8>().add(offset).write_volatile(1) };
    }
    Ok(())
}

/// A path that reaches `name` from an open directory, however long the directory's own path is.
fn beneath(directory: &File, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{name}", directory.as_raw_fd()))
}

/// Removes an empty cgroup. Its last process may still be on its way out: bounded retries.
fn remove(directory: &Path) -> io::Result<()> {
    for _ in 1..REMOVE_ATTEMPTS {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy => thread::sleep(REMOVE_PAUSE),
            result => return result,
        }
    }
    fs::remove_dir(directory)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use super::*;

    #[test]
    fn allocated_memory_is_resident() {
        let resident_pages =
            || fs::read_to_string("/proc/self/statm").unwrap().split(' ').nth(1).unwrap().parse::<usize>().unwrap();
        let before = resident_pages();
        allocate(64 << 20).unwrap();
        // Other tests of this process give memory back at the same time.
        assert!(resident_pages() - before > (48 << 20) / PAGE);
    }
}
