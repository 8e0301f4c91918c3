//! A folder that one agent at a time may use, and who uses it.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use super::refusal::explained;

/// Keeps the folder until it is dropped, or the process ends.
#[derive(Debug)]
pub struct Lock {
    _folder: File,
}

/// Who has the folder, if not we.
#[derive(Debug)]
pub enum Denied {
    /// Another process, with its id if it can be seen from here.
    Taken(Option<u32>),
    /// It cannot be locked.
    Unusable(io::Error),
}

impl Lock {
    /// Locks a folder. It is made if it is not there, for its owner alone.
    ///
    /// # Errors
    /// Another process has it, or it cannot be had.
    pub fn take(path: &Path) -> Result<Self, Denied> {
        match DirBuilder::new().recursive(true).mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(Denied::Unusable(error)),
            _ => {}
        }
        // What is another user's cannot be opened, but who has it is seen all the same.
        let folder = File::open(path).map_err(|error| match holder_of(path) {
            None => Denied::Unusable(error),
            holder => Denied::Taken(holder),
        })?;
        for last in [false, true] {
            match folder.try_lock() {
                Ok(()) => break,
                // Somebody has it. Some file systems have one device for their files and another for locks: if none is
                // found on the file's own, the inode has to do.
                Err(TryLockError::WouldBlock) => match holder_of(path).or_else(|| holder(path, |_, _| true)) {
                    // It may have ended between the two looks.
                    None if !last => {}
                    holder => return Err(Denied::Taken(holder)),
                },
                Err(TryLockError::Error(error)) => return Err(Denied::Unusable(error)),
            }
        }
        Ok(Self { _folder: folder })
    }
}

/// The process that has a folder locked, which need not be one that we may open. Absent also if it is in a pid
/// namespace that cannot be seen from here.
pub fn holder_of(path: &Path) -> Option<u32> {
    holder(path, |found, own| found == own)
}

/// `is_same`: whether a lock on a file of that number is on this one, by the device that the lock is on and the file's
/// own.
fn holder(path: &Path, is_same: impl Fn(&str, &str) -> bool) -> Option<u32> {
    let file = fs::metadata(path).ok()?;
    let own = format!("{:02x}:{:02x}", libc::major(file.dev()), libc::minor(file.dev()));
    holder_in(&fs::read_to_string("/proc/locks").ok()?, file.ino(), |found| is_same(found, &own))
}

/// Tries whether anything can be kept in the nearest folder of `path` that is there: makes another one, and removes it.
///
/// # Errors
/// It cannot; with the reason, and what to do.
pub fn try_out(path: &Path) -> anyhow::Result<()> {
    let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let trial = there.join(format!("oom-watcher-check-{}", std::process::id()));
    let made = match DirBuilder::new().mode(0o700).create(&trial) {
        // Of one that was killed, with this process id.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    };
    let made = made.and_then(|()| fs::remove_dir(&trial));
    made.map_err(|error| explained(error, there).context(format!("making a folder in {}", there.display())))
}

/// `1: FLOCK  ADVISORY  WRITE 28803 00:27:44442 0 EOF`: proc_locks(5).
fn holder_in(locks: &str, inode: u64, is_on: impl Fn(&str) -> bool) -> Option<u32> {
    let suffix = format!(":{inode}");
    locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find_map(|fields| match fields[..] {
        [_, "FLOCK", _, _, pid, file, ..] if file.strip_suffix(&suffix).is_some_and(&is_on) => {
            pid.parse().ok().filter(|pid| *pid != 0)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_by_the_inode() {
        let locks = "1: FLOCK  ADVISORY  READ 26597 fe:00:10051587 0 EOF\n\
            2: FLOCK  ADVISORY  WRITE 28803 00:27:44442 0 EOF\n\
            2: -> FLOCK  ADVISORY  WRITE 1 00:27:44443 0 EOF\n\
            3: POSIX  ADVISORY  WRITE 7 00:27:4444 0 EOF\n\
            4: FLOCK ADVISORY WRITE 0 00:27:5 0 EOF";
        assert_eq!(holder_in(locks, 44_442, |device| device == "00:27"), Some(28_803));
        assert_eq!(holder_in(locks, 44_442, |device| device == "00:2"), None);
        for (inode, expected) in [(44_442, Some(28_803)), (44_443, None), (4_444, None), (442, None), (5, None)] {
            assert_eq!(holder_in(locks, inode, |_| true), expected, "{inode}");
        }
    }

    #[test]
    fn a_folder_is_had_once_and_again_when_it_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("made/for/it");
        let first = Lock::take(&path).unwrap();
        assert!(matches!(Lock::take(&path), Err(Denied::Taken(Some(pid))) if pid == std::process::id()));
        assert_eq!(holder_of(&path), Some(std::process::id()));
        drop(first);
        assert_eq!(holder_of(&path), None);
        Lock::take(&path).unwrap();
        // Left by one that was killed.
        fs::create_dir(path.join(format!("oom-watcher-check-{}", std::process::id()))).unwrap();
        try_out(&path).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 0);
        assert!(matches!(Lock::take(Path::new("/proc/none")), Err(Denied::Unusable(_))));
    }
}
