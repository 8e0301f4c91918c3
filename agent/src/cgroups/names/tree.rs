//! What cgroups there are: read from their directories once, then kept in step by the kernel's notices.
//!
//! A directory is opened by its path from the top, so what is opened may be another one that has come to that path: its
//! inode number tells.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use tracing::warn;

use super::directory;
use super::index::{Index, Met};
use super::inotify::{self, Inotify, Notice};
use crate::cgroups::hierarchy::{Hierarchy, Version};

/// Bytes of notices that are read at once: some hundred of them.
const NOTICES: usize = 16 << 10;

/// The highest directory that can be seen.
struct Top {
    directory: File,
    /// Whether it is the root of the hierarchy.
    is_whole: bool,
    /// What is above it, as far as it is known: empty, or a path without the final slash.
    above: String,
}

/// The cgroups from the top down.
pub(super) struct Tree {
    pub(super) version: Version,
    pub(super) index: Index,
    pub(super) inotify: Inotify,
    top: Top,
    /// Which cgroup a watch is for.
    watches: HashMap<i32, u64>,
    most: usize,
    /// Some found no room.
    left_out: bool,
    told_unwatched: bool,
}

/// A directory that is to be looked at.
struct Found {
    parent: u64,
    name: OsString,
}

impl Tree {
    /// Reads what is there; keeps `most` of it. `is_whole`: see [`Hierarchy::is_whole`].
    pub(super) fn read(hierarchy: &Hierarchy, is_whole: bool, most: usize) -> io::Result<Self> {
        let directory = directory::open(&hierarchy.mount)?;
        let id = directory.metadata()?.ino();
        // Seen from inside of a cgroup namespace, what is outside of it is `..`.
        let above = if is_whole || hierarchy.root.contains("..") { "" } else { hierarchy.root.trim_end_matches('/') };
        let mut tree = Self {
            version: hierarchy.version,
            index: Index::new(id, most),
            inotify: Inotify::new().map_err(|error| {
                let message = format!("watching them: {error}: raise fs.inotify.max_user_instances");
                io::Error::new(error.kind(), message)
            })?,
            top: Top { directory, is_whole, above: above.to_owned() },
            watches: HashMap::new(),
            most,
            left_out: false,
            told_unwatched: false,
        };
        tree.scan_all();
        Ok(tree)
    }

    /// Looks at everything again. What is not there any more is gone then.
    fn scan_all(&mut self) {
        let top = self.index.top();
        // Those that are still there get the same number again.
        self.watches.clear();
        if let Some(directory) = self.open(top) {
            let found = self.watch_and_list(top, &directory, true);
            self.scan(found, true);
        }
    }

    /// Looks at these directories and at all that is below them; where `also_known` is not set, only at what is new.
    fn scan(&mut self, mut found: Vec<Found>, also_known: bool) {
        // Ends: each is in one listing of another, and no more are listed than may be kept.
        while let Some(Found { parent, name }) = found.pop() {
            let Some(directory) =
                self.open(parent).and_then(|parent| directory::below(&parent, [name.as_os_str()]).ok())
            else {
                continue;
            };
            let Ok(id) = directory.metadata().map(|metadata| metadata.ino()) else { continue };
            match self.index.insert(parent, &name, id) {
                Met::New => {}
                Met::Known if also_known => {}
                Met::Known | Met::TooDeep | Met::NoParent => continue,
                Met::NoRoom => {
                    if !self.left_out {
                        self.left_out = true;
                        warn!(
                            kept = self.most,
                            "there are more cgroups than are kept: kills in the others have no names"
                        );
                    }
                    continue;
                }
            }
            found.extend(self.watch_and_list(id, &directory, also_known));
        }
    }

    /// The directories in one that is known, from now on told if they change; all, or those that are new. The watch
    /// comes first: what is made in between is listed, or told, or both.
    fn watch_and_list(&mut self, id: u64, directory: &File, all: bool) -> Vec<Found> {
        match self.inotify.watch(directory) {
            Ok(watch) => {
                self.watches.insert(watch, id);
            }
            Err(error) => self.cannot_watch(&error),
        }
        // Two links: its name and its own `.`, but no `..` in a directory below. The kernel's cgroups count as file
        // systems do that count at all.
        let has_none = directory.metadata().is_ok_and(|metadata| metadata.nlink() == 2);
        let Ok(listed) = (if has_none { Ok(Vec::new()) } else { directory::list(directory, self.most) }) else {
            return Vec::new();
        };
        let names: HashSet<&OsStr> = listed.iter().map(|(name, _)| name.as_os_str()).collect();
        self.index.retain(id, |name| names.contains(name));
        let is_known = |name: &OsStr, inode: u64| self.index.child(id, name) == Some(inode);
        let found = listed.iter().filter(|(name, inode)| all || !is_known(name, *inode));
        found.map(|(name, _)| Found { parent: id, name: name.clone() }).collect()
    }

    /// Looks into a cgroup that is there for what nobody told of: where no more watches could be had, notices do not
    /// come.
    pub(super) fn look_into(&mut self, id: u64) {
        if let Some(directory) = self.open(id) {
            let found = self.watch_and_list(id, &directory, false);
            self.scan(found, false);
        }
    }

    /// As if no watches could be had.
    #[cfg(test)]
    pub(super) fn forget_watches(&mut self) {
        self.watches.clear();
    }

    fn cannot_watch(&mut self, error: &io::Error) {
        // It was removed meanwhile: its parent tells.
        if error.kind() != io::ErrorKind::NotFound && !self.told_unwatched {
            self.told_unwatched = true;
            warn!(%error, "not every cgroup can be watched: those that are made unwatched are looked for at a kill, \
                and unknown if they are gone by then");
        }
    }

    /// Applies the notices that are there, with at most so many reads. Whether that was all.
    pub(super) fn apply(&mut self, reads: usize) -> bool {
        let mut buffer = vec![0; NOTICES];
        let (mut all, mut lost) = (false, false);
        for _ in 0..reads {
            match self.inotify.read(&mut buffer) {
                Ok(length) => lost |= self.apply_read(buffer.get(..length).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    all = true;
                    break;
                }
            }
        }
        let has_room_again = self.left_out && self.index.len() <= self.most - self.most / 8;
        if lost || has_room_again {
            self.left_out = false;
            self.scan_all();
        }
        all
    }

    /// Whether notices were lost.
    fn apply_read(&mut self, bytes: &[u8]) -> bool {
        let mut lost = false;
        for event in inotify::events(bytes) {
            let of = self.watches.get(&event.watch).copied();
            match (event.notice(), of) {
                (Notice::Came, Some(parent)) => self.scan(vec![Found { parent, name: event.name.to_owned() }], false),
                (Notice::Left, Some(parent)) => self.index.remove(parent, event.name),
                (Notice::Ended, _) => {
                    self.watches.remove(&event.watch);
                }
                (Notice::Lost, _) => lost = true,
                (Notice::Came | Notice::Left, None) | (Notice::Other, _) => {}
            }
        }
        lost
    }

    /// Opens a cgroup that is there. By its path: so it may be another one by now, which is none.
    pub(super) fn open(&self, id: u64) -> Option<File> {
        let names = self.index.names(id).filter(|_| self.index.is_live(id))?;
        let directory = directory::below(&self.top.directory, names).ok()?;
        directory.metadata().is_ok_and(|metadata| metadata.ino() == id).then_some(directory)
    }

    /// Its path from the root of the hierarchy, or from the top if nobody knows more. Absent if it was never met.
    pub(super) fn path(&self, id: u64) -> Option<String> {
        let mut path = self.top.above.clone();
        for name in self.index.names(id)? {
            path.push('/');
            path.push_str(&name.to_string_lossy());
        }
        Some(if path.is_empty() { "/".to_owned() } else { path })
    }

    /// Its own name: empty for the root, absent for one that is not known.
    pub(super) fn name(&self, id: u64) -> Option<String> {
        if id != self.index.top() {
            return self.index.name(id).map(|name| name.to_string_lossy().into_owned());
        }
        let own = self.top.above.rsplit('/').next().filter(|name| !name.is_empty());
        if self.top.is_whole { Some(String::new()) } else { own.map(str::to_owned) }
    }

    /// Whether the top is the root of the hierarchy.
    pub(super) fn is_whole(&self) -> bool {
        self.top.is_whole
    }

    /// Whether this is the root of the hierarchy.
    pub(super) fn is_root(&self, id: u64) -> bool {
        self.top.is_whole && id == self.index.top()
    }
}

#[cfg(test)]
mod tests;
