//! The changes since the state was saved whole: a file that is appended to at each save, a line for each.
//!
//! Its first line names the state that they belong to. A line that is not whole is the last one of an agent that was
//! killed while it wrote: it is left out.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Change;

/// Changes take no more than this, or than the state, whichever is more: then the state is saved whole again.
const MIN_BYTES: u64 = 256 << 10;

/// A larger file is not read to its end: [`MIN_BYTES`], or as much as a state, and one change more.
const MAX_BYTES: u64 = super::MAX_BYTES;

/// The file, open for more.
#[derive(Debug)]
pub(super) struct Changes {
    file: File,
    bytes: u64,
    most: u64,
}

/// The first line.
#[derive(Serialize, Deserialize)]
struct Header {
    /// [`Written::id`](super::Written)
    of: Uuid,
}

impl Changes {
    /// Begins anew, for the state `id` which takes so many bytes.
    pub(super) fn create(path: &Path, id: Uuid, state_bytes: u64) -> io::Result<Self> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
        let mut changes = Self { file, bytes: 0, most: state_bytes.max(MIN_BYTES) };
        changes.write(&Header { of: id })?;
        Ok(changes)
    }

    /// Adds a change. If that fails a part of it may be there: nothing is to be added behind it.
    pub(super) fn append(&mut self, change: &Change) -> io::Result<()> {
        self.write(change)
    }

    /// Whether it is time to save the state whole.
    pub(super) fn are_many(&self) -> bool {
        self.bytes >= self.most
    }

    /// Whether the file with this path is the one that is added to. Somebody may have removed it.
    pub(super) fn are_at(&self, path: &Path) -> bool {
        let place = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        match (self.file.metadata(), fs::symlink_metadata(path)) {
            (Ok(own), Ok(found)) => place(own) == place(found),
            _ => false,
        }
    }

    fn write(&mut self, line: &impl Serialize) -> io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.file.write_all(&text)?;
        self.bytes = self.bytes.saturating_add(text.len() as u64);
        Ok(())
    }
}

/// Reads the changes of the state `id`, in their order. What cannot be read ends them, and is the second part: a line
/// that is no change, or the file itself. A line without an end is left out without a word.
pub(super) fn read(path: &Path, id: Uuid, mut change: impl FnMut(Change)) -> Result<(), String> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
        Ok(metadata) if !metadata.is_file() => return Err("not a regular file".to_owned()),
        Ok(_) => {}
    }
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let mut lines = BufReader::new(file.map_err(|error| error.to_string())?.take(MAX_BYTES));
    let mut line = Vec::new();
    let mut next = || -> Result<Option<Vec<u8>>, String> {
        line.clear();
        lines.read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
        Ok(line.ends_with(b"\n").then(|| line.clone()))
    };
    let Some(header) = next()? else { return Ok(()) };
    // Of a state that was replaced: an agent was killed before it began anew.
    if serde_json::from_slice::<Header>(&header).map_err(|error| format!("line 1: {error}"))?.of != id {
        return Ok(());
    }
    let mut number = 1;
    while let Some(line) = next()? {
        number += 1;
        change(serde_json::from_slice(&line).map_err(|error| format!("line {number}: {error}"))?);
    }
    Ok(())
}
