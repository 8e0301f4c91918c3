//! What of the probe outlives the agent: its maps and links pinned in bpffs, so that kills are kept while no agent
//! runs.
//!
//! One folder for each set, named after what it is: build of the object, size of the ring buffer, settings, features. A
//! set of the same name is taken over as it is. A set of another name, or one that a crash has left incomplete, is
//! detached and its ring buffer read to the end before it is removed.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aya::maps::{MapData, MapInfo};
use aya::programs::links::PinnedLink;

use super::load::{self, Attached};
use super::{BUILD, Config, Features};
use crate::host::lock::{self, Lock};
use crate::host::refusal::{Refusal, explained};

/// Where pins are kept if nothing else is set.
pub const DEFAULT: &str = "/sys/fs/bpf/oom-watcher";

/// `BPF_FS_MAGIC`, include/uapi/linux/magic.h
const BPF_FS: u64 = 0xcafe_4a11;
/// Sets of others that are looked at: more than upgrades leave. What is beyond stays where it is.
const MAX_SETS: usize = 64;

const EVENTS: &str = "events";
const NOTES: &str = "notes";
const COUNTERS: &str = "counters";
/// The link that is pinned last.
const LAST_LINK: &str = "link_on_mark";
const LINK: &str = "link_";
/// Why a folder that is empty may stay where it is.
const STAYS: [io::ErrorKind; 3] =
    [io::ErrorKind::DirectoryNotEmpty, io::ErrorKind::ResourceBusy, io::ErrorKind::ReadOnlyFilesystem];
/// Behind the name of a set that a crash has left incomplete, so that a new one can have it.
const INCOMPLETE: &str = "-incomplete";

/// The folder of all sets, locked: one agent at a time.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Whether it was not there before.
    is_new: bool,
    _lock: Lock,
}

/// What is kept in a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Sets of pins, of this build or others.
    pub sets: usize,
    /// The agent that has it, if one runs that can be seen from here.
    pub holder: Option<u32>,
}

/// One set of pins.
#[derive(Debug)]
pub(super) struct Set {
    path: PathBuf,
}

/// What is in the folder.
#[derive(Debug)]
pub(super) struct Sets {
    /// The complete one that fits the configuration and this build, and what it can do.
    pub(super) own: Option<(Set, Features)>,
    /// All others.
    pub(super) others: Vec<Set>,
}

/// Why there is no folder to pin in.
#[derive(Debug)]
pub(super) enum Denied {
    /// Another agent has it.
    Taken(Option<u32>),
    /// It cannot be used.
    Unusable(anyhow::Error),
}

impl Folder {
    /// Makes the folder if it is not there, and locks it until it is dropped.
    pub(super) fn open(path: &Path) -> Result<Self, Denied> {
        let there = on_bpffs(path).map_err(Denied::Unusable)?;
        match Lock::take(path) {
            Ok(lock) => Ok(Self { path: path.to_owned(), is_new: there != path, _lock: lock }),
            Err(lock::Denied::Taken(holder)) => Err(Denied::Taken(holder)),
            Err(lock::Denied::Unusable(error)) => {
                Err(Denied::Unusable(explained(error, path).context(format!("locking {}", path.display()))))
            }
        }
    }

    /// What is there, and what of it can be taken over.
    pub(super) fn sets(&self, config: &Config) -> Result<Sets> {
        let (mut own, mut others) = (None, Vec::new());
        for path in ours(&self.path)?.into_iter().take(MAX_SETS) {
            let features = path
                .file_name()
                .and_then(|name| name.to_str()?.strip_prefix(&prefix(config)))
                .and_then(Features::parse);
            let mut set = Set { path };
            match features {
                Some(features) if own.is_none() && set.is_complete(features) => own = Some((set, features)),
                _ => {
                    if features.is_some() {
                        set.make_room()?;
                    }
                    others.push(set);
                }
            }
        }
        // The oldest kills first, as far as names can tell; what is in two sets is recognised.
        others.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Sets { own, others })
    }

    /// Pins a probe that was just attached. Its links are in bpffs afterwards, and stay open: they outlive their names
    /// as long as the agent does.
    pub(super) fn pin(&self, config: &Config, attached: &mut Attached) -> Result<Set> {
        let set = Set { path: self.path.join(format!("{}{}", prefix(config), attached.features.letters())) };
        let pinned = set.fill(attached);
        if pinned.is_err() {
            // What was pinned of it would keep the programs attached.
            let _ = set.remove();
        }
        pinned.map(|()| set)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.is_new {
            // Nothing may have been pinned in it.
            let _ = fs::remove_dir(&self.path);
        }
    }
}

impl Set {
    fn fill(&self, attached: &mut Attached) -> Result<()> {
        DirBuilder::new().mode(0o700).create(&self.path).with_context(|| format!("making {}", self.path.display()))?;
        for (name, map) in [(EVENTS, &attached.events), (NOTES, &attached.notes), (COUNTERS, &attached.counters)] {
            map.pin(self.path.join(name)).with_context(|| format!("pinning {name} in {}", self.path.display()))?;
        }
        for (name, link) in std::mem::take(&mut attached.links) {
            let path = self.path.join(format!("{LINK}{name}"));
            let pinned =
                link.pin(path).with_context(|| format!("pinning the link {name} in {}", self.path.display()))?;
            attached.links.push((name, pinned.into()));
        }
        Ok(())
    }

    /// Whether each program that it must have is attached by it.
    fn is_complete(&self, features: Features) -> bool {
        load::programs_of(features).all(|name| self.path.join(format!("{LINK}{name}")).exists())
    }

    /// Gives its name to another one.
    fn make_room(&mut self) -> Result<()> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut names = (0..MAX_SETS).map(|number| self.path.with_file_name(format!("{name}{INCOMPLETE}-{number}")));
        let aside = names
            .find(|aside| !aside.exists())
            .context("too many incomplete sets: remove them with `oom-watcher detach`")?;
        fs::rename(&self.path, &aside).with_context(|| format!("renaming {}", self.path.display()))?;
        self.path = aside;
        Ok(())
    }

    /// Its maps, whose programs go on writing.
    pub(super) fn open(&self, features: Features) -> Result<Attached> {
        let (events, notes, counters) = (self.map(EVENTS)?, self.map(NOTES)?, self.map(COUNTERS)?);
        let link = |name: &'static str| {
            let path = self.path.join(format!("{LINK}{name}"));
            let link = PinnedLink::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
            Ok((name, link.into()))
        };
        let links = load::programs_of(features).map(link).collect::<Result<_>>()?;
        Ok(Attached { events, notes, counters, links, features, programs: Vec::new() })
    }

    fn map(&self, name: &str) -> Result<MapData> {
        MapData::from_pin(self.path.join(name)).with_context(|| format!("opening {name} in {}", self.path.display()))
    }

    /// Detaches its programs and gives the ring buffer with what they have left in it, and their counters. `None`: it
    /// has not both.
    pub(super) fn detach(&self) -> Result<Option<(MapData, MapData)>> {
        for path in self.entries()?.into_iter().filter(|path| is_link(path)) {
            // Opened first: where the link is broken, removing its name is all that can be done.
            if let Ok(link) = PinnedLink::from_pin(&path) {
                link.unpin().with_context(|| format!("removing {}", path.display()))?;
            } else {
                fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            }
        }
        if !self.path.join(EVENTS).exists() || !self.path.join(COUNTERS).exists() {
            return Ok(None);
        }
        Ok(Some((self.map(EVENTS)?, self.map(COUNTERS)?)))
    }

    /// Removes all of it.
    pub(super) fn remove(&self) -> Result<()> {
        // The link that confirms kills first, or the rest would go on confirming what was not captured.
        let mut entries = self.entries()?;
        entries.retain(|path| is_link(path) || [EVENTS, NOTES, COUNTERS].iter().any(|name| path.ends_with(name)));
        entries.sort_by_key(|path| (!path.ends_with(LAST_LINK), !is_link(path)));
        for path in entries {
            fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
        }
        fs::remove_dir(&self.path).with_context(|| format!("removing {}", self.path.display()))
    }

    /// Its folder.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn entries(&self) -> Result<Vec<PathBuf>> {
        let read =
            || fs::read_dir(&self.path)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
        read().with_context(|| format!("reading {}", self.path.display()))
    }
}

/// Tries whether anything can be kept below `path`, in no agent's way and without leaving anything.
///
/// # Errors
/// It cannot; with the reason, and what to do.
pub fn try_out(path: &Path) -> Result<Kept> {
    let there = on_bpffs(path)?;
    lock::try_out(path)?;
    let sets = if there == path { ours(path)?.len() } else { 0 };
    Ok(Kept { sets, holder: lock::holder_of(path) })
}

/// Removes everything that was ever pinned below `path`, and the folder unless something else is in it. Says what it
/// was.
///
/// # Errors
/// An agent runs, or something cannot be removed.
pub fn remove_all(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let folder = Folder::open(path).map_err(|denied| match denied {
        Denied::Taken(holder) => anyhow::anyhow!("{}: stop it first", super::AttachError::Taken(holder).problem()),
        Denied::Unusable(error) => error,
    })?;
    let mut removed = Vec::new();
    for path in ours(&folder.path)? {
        Set { path: path.clone() }.remove()?;
        removed.push(path);
    }
    match fs::remove_dir(&folder.path) {
        Ok(()) => removed.push(folder.path.clone()),
        // Where it is shared, is the root of the file system, or mounted in a container, whose own file system may be
        // read-only.
        Err(error) if STAYS.contains(&error.kind()) => {}
        Err(error) => return Err(error).with_context(|| format!("removing {}", folder.path.display())),
    }
    Ok(removed)
}

/// The folders of sets. What others keep there is not looked at.
fn ours(path: &Path) -> Result<Vec<PathBuf>> {
    let read = || fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>();
    let paths = read().map_err(|error| explained(error, path).context(format!("reading {}", path.display())))?;
    Ok(paths
        .into_iter()
        .filter(|path| path.is_dir() && path.file_name().and_then(|name| name.to_str()).is_some_and(names_a_set))
        .collect())
}

/// Names a map for as long as the kernel runs: no other map gets the same number soon.
pub(super) fn id(map: &MapData) -> Result<u32> {
    map.info().map(|info: MapInfo| info.id()).context("asking for a map's id")
}

/// `BUILD-RING-…`, of whatever build and version.
fn names_a_set(name: &str) -> bool {
    let mut parts = name.split('-');
    let mut next = || parts.next().unwrap_or_default();
    let (build, ring) = (next(), next());
    build.len() == BUILD.len() && build.bytes().all(|byte| byte.is_ascii_hexdigit()) && ring.parse::<u32>().is_ok()
}

fn is_link(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(LINK.as_bytes()))
}

/// The beginning of the name of a set: what must be the same for it to be taken over. bpffs allows no dots.
fn prefix(config: &Config) -> String {
    format!("{BUILD}-{}-{}-", config.ring_bytes, if config.arguments { "arguments" } else { "plain" })
}

/// The nearest folder that is there, if `path` can be made there for pins: one of another kind must not be left.
fn on_bpffs(path: &Path) -> Result<&Path> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if !is_bpffs(there)? {
        let problem = format!("{} is not on a BPF file system", path.display());
        return Err(Refusal::new(problem, "mount one (mount -t bpf bpf /sys/fs/bpf)").into());
    }
    let new = path.strip_prefix(there).unwrap_or(path);
    if new.as_os_str().as_encoded_bytes().contains(&b'.') {
        let problem = format!("{}: a BPF file system allows no dot in a name", path.display());
        return Err(Refusal::new(problem, "choose another folder").into());
    }
    Ok(there)
}

fn is_bpffs(path: &Path) -> Result<bool> {
    use std::os::unix::ffi::OsStrExt;
    let name = std::ffi::CString::new(path.as_os_str().as_bytes()).context("a path with a NUL")?;
    // SAFETY: zeroes are a valid value of this structure of integers.
    let mut found: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: both outlive the call.
    if unsafe { libc::statfs(name.as_ptr(), &raw mut found) } != 0 {
        return Err(io::Error::last_os_error()).with_context(|| format!("looking at {}", path.display()));
    }
    // The type of the field differs between architectures and C libraries.
    Ok(found.f_type as u64 & 0xffff_ffff == BPF_FS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_taken_over_only_if_everything_fits() {
        let config = Config { ring_bytes: 65_536, arguments: false, read_names: true, pins: None };
        let name = format!("{}nde", prefix(&config));
        assert!(name.strip_prefix(&prefix(&config)).and_then(Features::parse).is_some());
        for other in [Config { ring_bytes: 131_072, ..config.clone() }, Config { arguments: true, ..config }] {
            assert_eq!(name.strip_prefix(&prefix(&other)), None);
        }
    }

    #[test]
    fn nothing_is_pinned_on_another_file_system() {
        let place = std::env::temp_dir().join(format!("oom-watcher-pins-{}", std::process::id()));
        let denied = Folder::open(&place);
        assert!(
            matches!(&denied, Err(Denied::Unusable(error)) if format!("{error:#}").contains("mount -t bpf")),
            "{denied:?}"
        );
        assert!(try_out(&place).is_err_and(|error| format!("{error:#}").contains("mount -t bpf")));
        assert!(!place.exists());
    }
}
