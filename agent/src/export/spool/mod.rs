//! What waits for the collector, kept in a folder too, so that it outlives the agent.
//!
//! The folder has segments, files that are only ever appended to: a mark, then frames. A frame is an item, or says up
//! to which item all are done. A segment goes when everything in it is done; one that an earlier agent has left is
//! never appended to, so that a frame which a killed agent left torn is at the end of its file and nothing comes behind
//! it. Nothing is synced: what was written is safe from the agent's end, not from the machine's.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::host::lock::{Denied, Lock};
pub use frames::Numbered;
use frames::{DONE, ITEM, MARK, frame, read};

mod frames;

/// A segment that is as large is followed by another one.
const SEGMENT: u64 = 1 << 20;
/// Files that could not be read and are kept for people to look at; more are removed.
const MAX_BAD: usize = 4;

const SUFFIX: &str = "spool";
const BAD: &str = "bad";

/// The folder, for one agent at a time.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    /// Locked as long as it is open: until this agent ends, however it does.
    _lock: Lock,
    /// Oldest first. The last one is open if `file` is there.
    segments: VecDeque<Segment>,
    file: Option<File>,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    size: u64,
    /// The number of the last item in it.
    last: u64,
}

/// What an earlier agent has left.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// What is not done, in its order.
    pub items: Vec<Numbered>,
    /// The highest number that was given so far.
    pub last: u64,
    /// Files of which not all could be used.
    pub damaged: Vec<Damaged>,
}

/// A file of which not all could be used.
#[derive(Debug, PartialEq, Eq)]
pub struct Damaged {
    /// The file.
    pub file: PathBuf,
    /// Why not.
    pub why: String,
    /// Where it, or a copy of it, is kept for people to look at. Absent if it stays as it is: it could not be read, or
    /// not be set aside.
    pub kept: Option<PathBuf>,
}

impl Spool {
    /// Opens the folder; it is made if it is not there, for its owner alone. Of a file that is damaged what is before
    /// the damage is used, and a copy is set aside.
    ///
    /// # Errors
    /// The folder cannot be made or listed; [`ErrorKind::ResourceBusy`] if another agent has it.
    pub fn open(folder: &Path) -> io::Result<(Self, Left)> {
        let lock = Lock::take(folder).map_err(|denied| match denied {
            Denied::Taken(holder) => {
                let who = holder.map_or_else(String::new, |pid| format!(", process {pid}"));
                io::Error::new(ErrorKind::ResourceBusy, format!("another agent has it{who}"))
            }
            Denied::Unusable(error) => error,
        })?;
        let mut paths = files(folder, SUFFIX)?;
        // Names are numbers of one length.
        paths.sort();
        let mut spool = Self { folder: folder.to_owned(), _lock: lock, segments: VecDeque::new(), file: None };
        let (mut left, mut done) = (Left::default(), 0);
        for path in paths {
            let read = match read(&path) {
                Ok(read) => read,
                Err(error) => {
                    left.damaged.push(Damaged { file: path, why: error.to_string(), kept: None });
                    continue;
                }
            };
            let last = read.items.last().map_or(0, |item| item.number);
            done = done.max(read.done);
            left.last = left.last.max(last).max(read.done);
            left.items.extend(read.items);
            let size = match read.trouble {
                None => read.size,
                Some(why) => match set_aside(&path, read.size) {
                    Ok((size, kept)) => {
                        left.damaged.push(Damaged { file: path.clone(), why, kept: Some(kept) });
                        size
                    }
                    Err(error) => {
                        left.damaged.push(Damaged { file: path, why: format!("{why}, and {error}"), kept: None });
                        continue;
                    }
                },
            };
            spool.segments.push_back(Segment { path, size, last });
        }
        left.items.retain(|item| item.number > done);
        limit_bad(folder);
        spool.remove_until(done);
        Ok((spool, left))
    }

    /// Adds items, with higher numbers than all before. After an error none of them is there.
    ///
    /// # Errors
    /// They cannot be written: there is no room, most often.
    pub fn append<'a>(&mut self, items: impl IntoIterator<Item = (u64, &'a [u8])>) -> io::Result<()> {
        let mut frames = Vec::new();
        let (mut first, mut last) = (None, 0);
        for (number, bytes) in items {
            frame(&mut frames, ITEM, number, bytes);
            (first, last) = (first.or(Some(number)), number);
        }
        match first {
            Some(first) => self.write(first, &frames, last),
            None => Ok(()),
        }
    }

    /// Notes that all items up to that number are done; segments with nothing else go.
    ///
    /// # Errors
    /// It cannot be noted: the next agent finds the items once more.
    pub fn done(&mut self, number: u64) -> io::Result<()> {
        self.remove_until(number);
        let Some(segment) = self.segments.front() else { return Ok(()) };
        let (first, last) = (number, segment.last);
        let mut frames = Vec::new();
        frame(&mut frames, DONE, number, &[]);
        self.write(first, &frames, last)
    }

    /// What the files of the folder have in all, in bytes: more than what waits by what is done in the segments, and by
    /// the frames.
    pub fn size(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum()
    }

    fn write(&mut self, name: u64, frames: &[u8], last: u64) -> io::Result<()> {
        if self.file.is_none() || self.segments.back().is_none_or(|segment| segment.size >= SEGMENT) {
            self.file = None;
            let path = self.new_path(name);
            // Somebody may have removed it.
            DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .custom_flags(libc::O_NOFOLLOW)
                .open(&path)?;
            if let Err(error) = file.write_all(MARK) {
                drop(file);
                let _ = fs::remove_file(&path);
                return Err(error);
            }
            self.file = Some(file);
            self.segments.push_back(Segment { path, size: MARK.len() as u64, last: 0 });
        }
        let (Some(file), Some(segment)) = (&mut self.file, self.segments.back_mut()) else {
            return Err(ErrorKind::NotFound.into());
        };
        if let Err(error) = file.write_all(frames) {
            // The next frame must not come behind half of this one.
            if file
                .set_len(segment.size)
                .and_then(|()| io::Seek::seek(file, io::SeekFrom::Start(segment.size)).map(drop))
                .is_err()
            {
                self.file = None;
            }
            return Err(error);
        }
        segment.size += frames.len() as u64;
        segment.last = segment.last.max(last);
        Ok(())
    }

    /// One that is not there yet: a number may have named one before, if all of that could not be written.
    fn new_path(&self, number: u64) -> PathBuf {
        let after = self.segments.back().and_then(|segment| segment.path.file_stem()?.to_str()?.parse::<u64>().ok());
        let name = after.map_or(number, |after| number.max(after.saturating_add(1)));
        self.folder.join(format!("{name:020}.{SUFFIX}"))
    }

    fn remove_until(&mut self, number: u64) {
        while let Some(segment) = self.segments.front().filter(|segment| segment.last <= number) {
            if let Err(error) = fs::remove_file(&segment.path)
                && error.kind() != ErrorKind::NotFound
            {
                // It is tried again with the next items, and read again by the next agent.
                warn!(%error, file = %segment.path.display(), "a file of the spool whose items are done cannot be \
                    removed");
                return;
            }
            if self.segments.len() == 1 {
                self.file = None;
            }
            self.segments.pop_front();
        }
    }
}

/// Removes all of a spool, and its folder unless something else is in it or it is where something is mounted: no agent
/// follows.
///
/// # Errors
/// Something of it cannot be removed.
pub fn remove(folder: &Path) -> io::Result<()> {
    let mut own = match files(folder, SUFFIX) {
        Ok(own) => own.into_iter().chain(files(folder, BAD)?),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    own.try_for_each(fs::remove_file)?;
    let _ = fs::remove_dir(folder);
    Ok(())
}

fn files(folder: &Path, suffix: &str) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == suffix)).collect())
}

/// Keeps a copy of a damaged file, and of the file itself what could be read. Gives its size then, and where the copy
/// is.
fn set_aside(path: &Path, readable: u64) -> io::Result<(u64, PathBuf)> {
    let kept = path.with_extension(BAD);
    if readable <= MARK.len() as u64 {
        fs::rename(path, &kept)?;
        return Ok((0, kept));
    }
    fs::copy(path, &kept)?;
    OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path)?.set_len(readable)?;
    Ok((readable, kept))
}

/// Removes the oldest of those that were set aside.
fn limit_bad(folder: &Path) {
    let mut bad = files(folder, BAD).unwrap_or_default();
    bad.sort();
    let more = bad.len().saturating_sub(MAX_BAD);
    for path in bad.iter().take(more) {
        let _ = fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests;
