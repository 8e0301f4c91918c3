//! What outlives the agent: one small file, so that a restart goes on counting, and knows what was missed meanwhile.
//!
//! By default it is on a tmpfs (`/run`), like the probe's pins in bpffs: neither outlives the machine, and the kernel's
//! counters begin at 0 with it. So the file is renamed into place whole, and never synced to a disk: after a crash of
//! the agent it is there, after one of the machine nobody needs it. On a disk a lost or torn file is a state that
//! cannot be read: set aside, with a warning.

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
use crate::reconcile::Account;
use crate::record::series::Snapshot;
use crate::stats::Kept;

/// Where the state is kept if nothing else is set: on a tmpfs, as it is of no use after the machine was booted again.
pub const DEFAULT: &str = "/run/oom-watcher";

/// The form of the file. Another one is not read.
pub const VERSION: u32 = 1;

/// A larger file is not read. 100,000 owners, the most that can be configured, take 57 MiB.
const MAX_BYTES: u64 = 128 << 20;

const NAME: &str = "state.json";
const TEMPORARY: &str = "state.json.new";
const BAD: &str = "state.json.bad";

/// The directory of the state, if there is one.
///
/// With 50 owners and their cgroups the file has 28 KiB and is saved in 0.4 ms; with 2,000 it has 1.1 MiB, is saved in
/// 13 to 18 ms and loaded in 6 to 10 ms (release build, 2 busy CPUs).
#[derive(Debug)]
pub struct Store {
    directory: Option<PathBuf>,
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
    /// By the id of a ring buffer: the [sequence](crate::kill::Kill::sequence) of the last of its kills that is among
    /// the counts.
    pub handled: BTreeMap<u32, u64>,
    /// What was counted for the node.
    pub counted: Kept,
    /// What was counted for the owners.
    pub series: Snapshot,
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
    state: State,
}

impl Store {
    /// Nothing is read or made yet. Without a directory nothing ever is.
    pub fn new(directory: Option<PathBuf>) -> Self {
        Self { directory, fails: false }
    }

    /// What was saved for `node`. A state that cannot be used is set aside (one is kept) and told, with what is lost;
    /// it never stops the agent.
    pub fn load(&self, boot: Uuid, node: &str) -> Option<Loaded> {
        let directory = self.directory.as_deref()?;
        let reason = match read(&directory.join(NAME), node) {
            Ok(found) => return found.map(|found| Loaded { this_boot: found.boot_id == boot, state: found.state }),
            Err(reason) => reason,
        };
        let kept = fs::rename(directory.join(NAME), directory.join(BAD)).is_ok().then_some(BAD);
        warn!(
            reason,
            directory = %directory.display(),
            kept,
            "the saved state cannot be used: counts begin at 0, and kills while no agent ran are known only if the \
             probe was pinned"
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
        let found = read(&directory.join(NAME), node).map_err(|reason| anyhow::anyhow!("{reason}").context(NAME))?;
        Ok(found.is_some())
    }

    /// Saves atomically: a reader finds this state or the one before. Whether it could be saved is told when that
    /// changes, and what is lost otherwise.
    pub fn save(&mut self, boot: Uuid, state: &State) -> bool {
        let Some(directory) = &self.directory else { return false };
        let saved = write(directory, &Written { version: VERSION, boot_id: boot, state });
        match &saved {
            Err(error) if !self.fails => warn!(
                %error,
                directory = %directory.display(),
                "the state cannot be saved: after a restart counts begin at 0 or at an older state, and kills \
                 meanwhile are missed or told again"
            ),
            Ok(()) if self.fails => info!(directory = %directory.display(), "the state is saved again"),
            _ => {}
        }
        self.fails = saved.is_err();
        saved.is_ok()
    }
}

/// Removes what is kept of it, for a node that no agent will come to, and the directory unless something else is in it
/// or it is where something is mounted.
///
/// # Errors
/// Something cannot be removed.
pub fn remove(directory: &Path) -> anyhow::Result<()> {
    for name in [NAME, TEMPORARY, BAD] {
        match fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(lock::explained(error, directory))
                    .with_context(|| format!("removing {}", directory.join(name).display()));
            }
            _ => {}
        }
    }
    // Where it cannot be removed, as a mount point in a container, it stays: nothing of ours is in it.
    let _ = fs::remove_dir(directory);
    Ok(())
}

/// `None` if there is no file; what is wrong with it otherwise.
fn read(path: &Path, node: &str) -> Result<Option<Found>, String> {
    // A pipe would have to be waited for, and a link may lead anywhere.
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(lock::explained(error, path).to_string()),
        Ok(metadata) if !metadata.is_file() => return Err("not a regular file".to_owned()),
        Ok(metadata) if metadata.len() > MAX_BYTES => return Err("too large".to_owned()),
        Ok(_) => {}
    }
    let mut text = String::new();
    let whole = File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text));
    whole.map_err(|error| lock::explained(error, path).to_string())?;
    let Version { version } = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("of version {version}, this agent reads version {VERSION}"));
    }
    let found: Found = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    if found.state.node != node {
        return Err(format!("of another node, {}", found.state.node));
    }
    Ok(Some(found))
}

fn write(directory: &Path, state: &Written<'_>) -> anyhow::Result<()> {
    let text = serde_json::to_vec(state)?;
    let saved = match save(directory, &text) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(directory).and_then(|()| save(directory, &text))
        }
        saved => saved,
    };
    saved.map_err(|error| lock::explained(error, directory))
}

fn save(directory: &Path, text: &[u8]) -> io::Result<()> {
    let temporary = directory.join(TEMPORARY);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&temporary)?;
    file.write_all(text)?;
    drop(file);
    fs::rename(temporary, directory.join(NAME))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::kill::Owner;
    use crate::reconcile::{CgroupCounts, Cgroups, Counted, Observed};
    use crate::record::series::{FromZero, Limits, Table};

    const BOOT: Uuid = Uuid::from_u128(1);

    fn state(owners: usize) -> State {
        let time = UNIX_EPOCH + Duration::new(1_790_000_000, 123_456_789);
        let mut table = Table::new(Limits { owners, expiry: Duration::from_secs(60), from_zero: FromZero::Kills });
        for owner in 0..owners {
            table.record_reconstructed(1, &Owner::Unit { name: format!("\"{owner}\".service") }, time);
        }
        let own = Counted { kills: 3, group_kills: None };
        let cgroups = Cgroups {
            counts: vec![CgroupCounts { id: 7, parent: None, path: "/a".to_owned(), own, subtree: None }],
            left_out: 0,
        };
        State {
            saved: time,
            node: "node-a".to_owned(),
            account: Account::first(&Observed { node: Some(41), cgroups: Some(cgroups), ..Observed::default() }),
            probe: 5,
            handled: BTreeMap::from([(5, 7)]),
            counted: Kept { node_kills: 41, missed: [(1, 2), (3, 4), (5, 6)] },
            series: table.snapshot(),
        }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run/oom-watcher");
        (directory, Store::new(Some(path)))
    }

    fn path(store: &Store, name: &str) -> PathBuf {
        store.directory.clone().unwrap().join(name)
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let (_kept, mut store) = store();
        assert_eq!(store.load(BOOT, "node-a"), None, "no directory yet");
        for owners in [3, 1] {
            assert!(store.save(BOOT, &state(owners)));
            assert_eq!(store.load(BOOT, "node-a"), Some(Loaded { state: state(owners), this_boot: true }));
        }
        assert_eq!(store.load(Uuid::from_u128(2), "node-a").map(|loaded| loaded.this_boot), Some(false));
        assert_eq!(fs::metadata(path(&store, NAME)).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path(&store, "")).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(!path(&store, TEMPORARY).exists() && !path(&store, BAD).exists());
    }

    #[test]
    fn what_is_removed_is_gone_and_what_others_have_there_stays() {
        let (_kept, mut store) = store();
        let directory = path(&store, "");
        remove(&directory).unwrap();
        assert!(store.save(BOOT, &state(1)));
        fs::write(path(&store, BAD), "").unwrap();
        fs::write(path(&store, "note"), "somebody's").unwrap();
        remove(&directory).unwrap();
        assert_eq!(
            fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(),
            ["note"]
        );
        fs::remove_file(path(&store, "note")).unwrap();
        remove(&directory).unwrap();
        assert!(!directory.exists());
    }

    #[test]
    fn a_state_that_cannot_be_used_is_set_aside_and_never_stops_the_agent() {
        let (_kept, mut store) = store();
        store.save(BOOT, &state(2));
        let good = fs::read_to_string(path(&store, NAME)).unwrap();
        let newer = good.replacen("\"version\":1", "\"version\":2", 1);
        let cut = good.get(..good.len() / 2).unwrap().to_owned();
        for bad in [
            String::new(),
            "{}".to_owned(),
            "null".to_owned(),
            "[".repeat(100_000),
            cut,
            newer,
            good.replace("node-a", "node-b"),
        ] {
            assert_ne!(bad, good);
            fs::write(path(&store, NAME), &bad).unwrap();
            assert_eq!(store.load(BOOT, "node-a"), None, "{bad:.40}");
            assert_eq!(fs::read_to_string(path(&store, BAD)).unwrap(), bad);
            assert!(!path(&store, NAME).exists());
            assert!(store.save(BOOT, &state(2)));
        }
        fs::write(path(&store, NAME), [0xff, 0xfe]).unwrap();
        assert_eq!(store.load(BOOT, "node-a"), None);
        symlink("/dev/zero", path(&store, NAME)).unwrap();
        assert_eq!(store.load(BOOT, "node-a"), None, "a link");
        fs::create_dir(path(&store, NAME)).unwrap();
        assert_eq!(store.load(BOOT, "node-a"), None, "a directory");
    }

    #[test]
    fn a_state_that_cannot_be_saved_leaves_the_one_before() {
        let (_kept, mut store) = store();
        assert!(store.save(BOOT, &state(1)));
        symlink(path(&store, "elsewhere"), path(&store, TEMPORARY)).unwrap();
        assert!(!store.save(BOOT, &state(2)), "no link is followed");
        assert!(!path(&store, "elsewhere").exists() && store.fails);
        assert_eq!(store.load(BOOT, "node-a").map(|loaded| loaded.state), Some(state(1)));
        fs::remove_file(path(&store, TEMPORARY)).unwrap();
        assert!(store.save(BOOT, &state(2)) && !store.fails);
    }

    #[test]
    fn trying_it_out_leaves_nothing_and_tells_what_is_there() {
        let (kept, mut store) = store();
        assert!(!store.try_out("node-a").unwrap());
        assert_eq!(fs::read_dir(kept.path()).unwrap().count(), 0);
        assert!(store.save(BOOT, &state(1)) && store.try_out("node-a").unwrap());
        assert_eq!(format!("{:#}", store.try_out("node-b").unwrap_err()), "state.json: of another node, node-a");
        assert_eq!(fs::read_dir(path(&store, "")).unwrap().count(), 1);
        let nowhere = Store::new(Some(PathBuf::from("/proc/oom-watcher")));
        assert!(format!("{:#}", nowhere.try_out("node-a").unwrap_err()).starts_with("making a folder in /proc: "));
    }

    #[test]
    fn without_a_directory_nothing_is_kept() {
        let mut store = Store::new(None);
        assert!(!store.try_out("node-a").unwrap());
        assert!(!store.save(BOOT, &state(1)) && !store.fails);
        assert_eq!(store.load(BOOT, "node-a"), None);
    }
}
