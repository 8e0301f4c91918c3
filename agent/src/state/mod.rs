//! What outlives the agent: a small file and the changes since then, so that a restart goes on counting, and knows what
//! was missed meanwhile.
//!
//! By default they are on a tmpfs (`/run`), like the probe's pins in bpffs: neither outlives the machine, and the
//! kernel's counters begin at 0 with it. So the state is renamed into place whole, its changes are appended, and
//! neither is synced to a disk: after a crash of the agent they are there, after one of the machine nobody needs them.
//! On a disk a lost or torn file is a state that cannot be read: set aside, with a warning.
//!
//! The form, and what may be added to it: `docs/decisions/0010-the-state.md`.

mod changes;
mod handled;

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use uuid::Uuid;

use crate::host::lock;
use crate::host::refusal::{Refusal, explained};
use crate::reconcile::{self, Account};
use crate::record::series::{Rows, Snapshot};
use crate::stats::Kept;
use changes::Changes;
pub use handled::Handled;

/// Where the state is kept if nothing else is set: on a tmpfs, as it is of no use after the machine was booted again.
pub const DEFAULT: &str = "/run/oom-watcher";

/// The form of the file. [`OLDEST`] and those between are read, too; no other one is.
pub const VERSION: u32 = 2;
const OLDEST: u32 = 1;

/// A larger file is not read. 100,000 owners, the most that can be configured, take 57 MiB.
const MAX_BYTES: u64 = 128 << 20;

const NAME: &str = "state.json";
const TEMPORARY: &str = "state.json.new";
const CHANGES: &str = "state.changes";
const BAD: &str = "state.json.bad";

/// The directory of the state, if there is one.
#[derive(Debug)]
pub struct Store {
    directory: Option<PathBuf>,
    /// Absent until the state was saved whole, and after something could not be saved.
    changes: Option<Changes>,
    fails: bool,
}

/// What is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// When it was saved.
    pub saved: SystemTime,
    /// The node it is of.
    pub node: String,
    /// What of the kernel's counts is explained.
    pub account: Account,
    /// The probe whose counters are in the account: the id of its ring buffer, the same for as long as the kernel runs.
    pub probe: u32,
    /// By the id of a ring buffer: which of its kills are among the counts.
    pub handled: BTreeMap<u32, Handled>,
    /// What was counted for the node.
    pub counted: Kept,
    /// What was counted for the owners.
    pub series: Snapshot,
}

/// What has changed in a state since it was saved. Values, not differences.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// [`State::saved`]
    pub saved: SystemTime,
    /// Of [`State::account`].
    pub account: reconcile::Change,
    /// [`State::handled`]
    pub handled: BTreeMap<u32, Handled>,
    /// [`State::counted`]
    pub counted: Kept,
    /// Of [`State::series`].
    pub series: Rows,
}

impl State {
    fn apply(&mut self, change: Change) {
        let Change { saved, account, handled, counted, series } = change;
        (self.saved, self.handled, self.counted) = (saved, handled, counted);
        self.account.apply(account);
        self.series.apply(series);
    }
}

/// A state that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The state.
    pub state: State,
    /// Whether it was saved since this boot. Otherwise the kernel's counters began anew: [`Account::after_boot`].
    pub this_boot: bool,
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    boot_id: Uuid,
    /// Another one each time: the changes say which they belong to.
    id: Uuid,
    state: &'a State,
}

/// Read first: the rest of another version may be anything.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Deserialize)]
struct Found {
    boot_id: Uuid,
    /// Version 1 has none, and no changes.
    #[serde(default)]
    id: Option<Uuid>,
    state: State,
}

impl Store {
    /// Nothing is read or made yet. Without a directory nothing ever is.
    pub fn new(directory: Option<PathBuf>) -> Self {
        Self { directory, changes: None, fails: false }
    }

    /// What was saved for `node`. A state that cannot be used is set aside (one is kept), with a warning that says what
    /// is lost; it never stops the agent.
    pub fn load(&self, boot: Uuid, node: &str) -> Option<Loaded> {
        let directory = self.directory.as_deref()?;
        let reason = match read(&directory.join(NAME), node) {
            Ok(found) => return found.map(|found| with_changes(directory, found, boot)),
            Err(reason) => reason,
        };
        let kept = fs::rename(directory.join(NAME), directory.join(BAD)).is_ok().then_some(BAD);
        warn!(
            reason = Refusal::parted(&reason).0,
            directory = %directory.display(),
            kept,
            "the saved state cannot be used: counts begin at 0, and kills while no agent ran are known only if the \
             probe \
             was pinned"
        );
        None
    }

    /// Tries whether a state can be saved, without leaving anything, and looks at the one that is there. `false`: there
    /// is none, or no directory for one.
    ///
    /// # Errors
    /// It cannot be saved, or not be used; with the reason.
    pub fn try_out(&self, node: &str) -> anyhow::Result<bool> {
        let Some(directory) = self.directory.as_deref() else { return Ok(false) };
        lock::try_out(directory)?;
        let Some(found) = read(&directory.join(NAME), node).context(NAME)? else { return Ok(false) };
        if let Some(id) = found.id {
            let changes = changes::read(&directory.join(CHANGES), id, |_| {});
            changes.map_err(|why| Refusal::new(why, "counts since then are found by the kernel's")).context(CHANGES)?;
        }
        Ok(true)
    }

    /// Whether there is a directory for it.
    pub fn keeps(&self) -> bool {
        self.directory.is_some()
    }

    /// Whether the state is to be saved whole: not yet done, its changes have become many, or its files were removed.
    pub fn wants_whole(&self) -> bool {
        let Some(directory) = &self.directory else { return true };
        let is_there = |changes: &Changes| changes.are_at(&directory.join(CHANGES)) && directory.join(NAME).exists();
        self.changes.as_ref().is_none_or(|changes| changes.are_many() || !is_there(changes))
    }

    /// Saves the whole state atomically: a reader finds this state or the one before. Whether it could be saved is
    /// reported when that changes, with what is lost otherwise.
    pub fn save(&mut self, boot: Uuid, state: &State) -> bool {
        let Some(directory) = &self.directory else { return false };
        let saved = write(directory, boot, state);
        self.finish(saved.map(Some))
    }

    /// Adds a change to what was saved. If that fails, the state has to be saved whole next.
    pub fn append(&mut self, change: &Change) -> bool {
        let (Some(directory), Some(changes)) = (&self.directory, &mut self.changes) else { return false };
        let added = changes.append(change).map_err(|error| explained(error, directory));
        self.finish(added.map(|()| None))
    }

    fn finish(&mut self, saved: anyhow::Result<Option<Changes>>) -> bool {
        let directory = self.directory.as_deref().unwrap_or(Path::new("")).display();
        let is_saved = saved.is_ok();
        match saved {
            Err(error) => {
                self.changes = None;
                if !self.fails {
                    warn!(
                        %error,
                        %directory,
                        "the state cannot be saved: after a restart counts begin at 0 or at an older state, and kills \
                         meanwhile are missed or reported again"
                    );
                }
            }
            Ok(begun) => {
                if let Some(changes) = begun {
                    self.changes = Some(changes);
                }
                if self.fails {
                    info!(%directory, "the state is saved again");
                }
            }
        }
        self.fails = !is_saved;
        is_saved
    }
}

/// Removes what is kept of it, for a node that no agent will come to, and the directory unless something else is in it
/// or it is where something is mounted.
///
/// # Errors
/// Something cannot be removed.
pub fn remove(directory: &Path) -> anyhow::Result<()> {
    for name in [NAME, TEMPORARY, CHANGES, BAD] {
        match fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(explained(error, directory))
                    .with_context(|| format!("removing {}", directory.join(name).display()));
            }
            _ => {}
        }
    }
    // Where it cannot be removed, as a mount point in a container, it stays: nothing of ours is in it.
    let _ = fs::remove_dir(directory);
    Ok(())
}

/// The state with its changes. What cannot be read of them is lost, with a warning: the events of those kills may still
/// be in the probe, and the kernel's counters have them.
fn with_changes(directory: &Path, found: Found, boot: Uuid) -> Loaded {
    let Found { boot_id, id, mut state } = found;
    if let Some(id) = id
        && let Err(reason) = changes::read(&directory.join(CHANGES), id, |change| state.apply(change))
    {
        warn!(
            reason,
            file = %directory.join(CHANGES).display(),
            "changes of the saved state cannot be read: kills counted since then are counted as missed, or again"
        );
    }
    Loaded { this_boot: boot_id == boot, state }
}

/// What is wrong with a file, and what happens to it.
fn unusable(why: impl Into<String>) -> anyhow::Error {
    Refusal::new(why, "the next agent sets it aside").into()
}

/// `None` if there is no file; what is wrong with it otherwise.
fn read(path: &Path, node: &str) -> anyhow::Result<Option<Found>> {
    // A pipe would have to be waited for, and a link may lead anywhere.
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(explained(error, path)),
        Ok(metadata) if !metadata.is_file() => return Err(unusable("not a regular file")),
        Ok(metadata) if metadata.len() > MAX_BYTES => return Err(unusable("too large")),
        Ok(_) => {}
    }
    let mut text = String::new();
    let whole = File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text));
    whole.map_err(|error| explained(error, path))?;
    let Version { version } = serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))?;
    if !(OLDEST..=VERSION).contains(&version) {
        return Err(unusable(format!("of version {version}, this agent reads versions {OLDEST} to {VERSION}")));
    }
    let found: Found = serde_json::from_str(&text).map_err(|error| unusable(error.to_string()))?;
    if found.state.node != node {
        return Err(unusable(format!("of another node, {}", found.state.node)));
    }
    Ok(Some(found))
}

/// Replaces the state, and begins the changes anew: an agent that ends between the two leaves changes of another state,
/// which nobody reads.
fn write(directory: &Path, boot: Uuid, state: &State) -> anyhow::Result<Changes> {
    let since = state.saved.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let id = Uuid::new_v5(&boot, format!("{}/{}", std::process::id(), since.as_nanos()).as_bytes());
    let text = serde_json::to_vec(&Written { version: VERSION, boot_id: boot, id, state })?;
    let saved = match replace(directory, &text) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(directory).and_then(|()| replace(directory, &text))
        }
        saved => saved,
    };
    let begun = saved.and_then(|()| Changes::create(&directory.join(CHANGES), id, text.len() as u64));
    begun.map_err(|error| explained(error, directory))
}

fn replace(directory: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = directory.join(TEMPORARY);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let mut file = options.open(&temporary)?;
    file.write_all(text)?;
    drop(file);
    fs::rename(temporary, directory.join(NAME))
}

#[cfg(test)]
mod tests;
