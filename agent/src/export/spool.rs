//! What waits for the collector, kept in a folder too, so that it outlives the agent.
//!
//! The folder has segments, files that are only ever appended to: a mark, then frames. A frame is an item, or says up to which item all are done. A segment
//! goes when everything in it is done; one that an earlier agent has left is never appended to, so that a frame which a killed agent left torn is at the end
//! of its file and nothing comes behind it. Nothing is synced: what was written is safe from the agent's end, not from the machine's.

use std::collections::VecDeque;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tracing::warn;

/// What a segment begins with: whose it is, and in which form.
const MARK: &[u8; 8] = b"oomspl1\n";
/// Length and checksum of what follows.
const HEAD: usize = 8;
/// What of a frame the checksum is of, without the item: its kind and its number.
const NUMBERED: usize = 9;
/// No item is larger; nor is a request that a collector takes by default.
const MAX_ITEM: usize = 4 << 20;
/// A segment that is as large is followed by another one.
const SEGMENT: u64 = 1 << 20;
/// A larger file is none of ours: a segment, and what was written at once when it was nearly full.
const MAX_SEGMENT: u64 = 9 << 20;
/// Files that could not be read and are kept for people to look at; more are removed.
const MAX_BAD: usize = 4;

const SUFFIX: &str = "spool";
const BAD: &str = "bad";

const ITEM: u8 = 1;
const DONE: u8 = 2;

/// An item with its number: numbers only grow, also over the ends of agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// Its place in the order.
    pub number: u64,
    /// The item.
    pub bytes: Vec<u8>,
}

/// The folder, for one agent at a time.
#[derive(Debug)]
pub struct Spool {
    folder: PathBuf,
    /// Locked as long as it is open: until this agent ends, however it does.
    _lock: File,
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
    /// Files of which a part could not be read: they are set aside.
    pub set_aside: usize,
}

impl Spool {
    /// Opens the folder; it is made if it is not there, for its owner alone. Of a file that is damaged what is before the damage is used, and a copy is set aside.
    ///
    /// # Errors
    /// The folder cannot be made or listed; [`ErrorKind::ResourceBusy`] if another agent has it.
    pub fn open(folder: &Path) -> io::Result<(Self, Left)> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let lock = File::open(folder)?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(ErrorKind::ResourceBusy, "another agent has it"),
            TryLockError::Error(error) => error,
        })?;
        let mut paths = files(folder, SUFFIX)?;
        // Names are numbers of one length.
        paths.sort();
        let mut spool = Self { folder: folder.to_owned(), _lock: lock, segments: VecDeque::new(), file: None };
        let (mut left, mut done) = (Left::default(), 0);
        for path in paths {
            let read = read(&path);
            let last = read.items.last().map_or(0, |item| item.number);
            done = done.max(read.done);
            left.last = left.last.max(last).max(read.done);
            left.items.extend(read.items);
            let size = match read.trouble {
                None => Ok(read.size),
                Some(why) => {
                    left.set_aside += 1;
                    set_aside(&path, read.size, &why)
                }
            };
            match size {
                Ok(size) => spool.segments.push_back(Segment { path, size, last }),
                Err(error) => warn!(%error, file = %path.display(), "a damaged file of the spool stays as it is"),
            }
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

    /// What the files of the folder have in all, in bytes: more than what waits by what is done in the segments, and by the frames.
    pub fn size(&self) -> u64 {
        self.segments.iter().map(|segment| segment.size).sum()
    }

    fn write(&mut self, name: u64, frames: &[u8], last: u64) -> io::Result<()> {
        if self.file.is_none() || self.segments.back().is_none_or(|segment| segment.size >= SEGMENT) {
            self.file = None;
            let path = self.new_path(name);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).custom_flags(libc::O_NOFOLLOW).open(&path)?;
            if let Err(error) = file.write_all(MARK) {
                drop(file);
                let _ = fs::remove_file(&path);
                return Err(error);
            }
            self.file = Some(file);
            self.segments.push_back(Segment { path, size: MARK.len() as u64, last: 0 });
        }
        let (Some(file), Some(segment)) = (&mut self.file, self.segments.back_mut()) else { return Err(ErrorKind::NotFound.into()) };
        if let Err(error) = file.write_all(frames) {
            // The next frame must not come behind half of this one.
            if file.set_len(segment.size).and_then(|()| io::Seek::seek(file, io::SeekFrom::Start(segment.size)).map(drop)).is_err() {
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
                warn!(%error, file = %segment.path.display(), "a file of the spool whose items are done cannot be removed");
                return;
            }
            if self.segments.len() == 1 {
                self.file = None;
            }
            self.segments.pop_front();
        }
    }
}

/// Removes all of a spool, and its folder unless something else is in it or it is where something is mounted: no agent follows.
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

/// What a file has.
#[derive(Default)]
struct Content {
    items: Vec<Numbered>,
    /// Up to which item all are done, as far as it tells.
    done: u64,
    /// How much of it could be read.
    size: u64,
    /// Why not all. A torn frame at the end is none: an agent was killed when it wrote that.
    trouble: Option<String>,
}

fn read(path: &Path) -> Content {
    let mut content = Content::default();
    let bytes = match load(path) {
        Ok(bytes) => bytes,
        Err(error) => return Content { trouble: Some(error.to_string()), ..content },
    };
    let Some(mut rest) = bytes.strip_prefix(MARK) else {
        // Killed before it had written that.
        let torn = MARK.starts_with(&bytes);
        return Content { trouble: (!torn).then(|| "it is no file of this version's spool".to_owned()), ..content };
    };
    while !rest.is_empty() {
        content.size = (bytes.len() - rest.len()) as u64;
        let Some((length, checksum)) = rest.first_chunk::<HEAD>().map(head) else { return content };
        if !(NUMBERED..=NUMBERED + MAX_ITEM).contains(&length) {
            return Content { trouble: Some(format!("at byte {} there is no frame", content.size)), ..content };
        }
        let Some(frame) = rest.get(HEAD..HEAD + length) else { return content };
        let (Some((&kind, numbered)), true) = (frame.split_first(), crc32fast::hash(frame) == checksum) else {
            return Content { trouble: Some(format!("the frame at byte {} has another checksum", content.size)), ..content };
        };
        let Some((number, item)) = numbered.split_first_chunk::<8>() else { return content };
        let number = u64::from_le_bytes(*number);
        match kind {
            ITEM => content.items.push(Numbered { number, bytes: item.to_vec() }),
            DONE => content.done = content.done.max(number),
            // A later version's, which this one can do without.
            _ => {}
        }
        rest = &rest[HEAD + length..];
    }
    content.size = bytes.len() as u64;
    content
}

/// A file of reasonable size. A pipe would have to be waited for, and a link may lead anywhere.
fn load(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() > MAX_SEGMENT {
        return Err(io::Error::new(ErrorKind::InvalidData, "it is no file, or too large for one of the spool"));
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.take(MAX_SEGMENT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn head(head: &[u8; HEAD]) -> (usize, u32) {
    let [a, b, c, d, e, f, g, h] = *head;
    (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]))
}

fn frame(frames: &mut Vec<u8>, kind: u8, number: u64, item: &[u8]) {
    let start = frames.len();
    frames.extend_from_slice(&[0; HEAD]);
    frames.push(kind);
    frames.extend_from_slice(&number.to_le_bytes());
    frames.extend_from_slice(item);
    let (length, checksum) = frames.get(start + HEAD..).map_or((0, 0), |frame| (frame.len() as u32, crc32fast::hash(frame)));
    if let Some(head) = frames.get_mut(start..start + HEAD) {
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4..].copy_from_slice(&checksum.to_le_bytes());
    }
}

fn files(folder: &Path, suffix: &str) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == suffix)).collect())
}

/// Keeps a copy of a damaged file, and of the file itself what could be read. Gives its size then.
fn set_aside(path: &Path, readable: u64, why: &str) -> io::Result<u64> {
    let kept = path.with_extension(BAD);
    warn!(why, kept = %kept.display(), readable, "a file of the spool is damaged: what is behind the damage is lost");
    if readable <= MARK.len() as u64 {
        fs::rename(path, &kept)?;
        return Ok(0);
    }
    fs::copy(path, &kept)?;
    OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path)?.set_len(readable)?;
    Ok(readable)
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
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use super::*;

    fn append(spool: &mut Spool, numbers: std::ops::RangeInclusive<u64>) {
        for number in numbers {
            spool.append([(number, format!("item {number}").as_bytes())]).unwrap();
        }
    }

    fn numbers(folder: &Path) -> Vec<u64> {
        let (_, left) = Spool::open(folder).unwrap();
        assert!(left.items.iter().all(|item| item.bytes == format!("item {}", item.number).as_bytes()));
        left.items.iter().map(|item| item.number).collect()
    }

    /// The only segment.
    fn segment(folder: &Path) -> PathBuf {
        let files = files(folder, SUFFIX).unwrap();
        assert_eq!(files.len(), 1);
        files.into_iter().next().unwrap()
    }

    #[test]
    fn what_is_not_done_is_found_again_in_its_order() {
        let folder = tempfile::tempdir().unwrap();
        let (mut spool, left) = Spool::open(folder.path()).unwrap();
        assert_eq!(left, Left::default());
        append(&mut spool, 1..=5);
        spool.done(2).unwrap();
        drop(spool);
        let (mut spool, left) = Spool::open(folder.path()).unwrap();
        assert_eq!((left.items.len(), left.last), (3, 5));
        append(&mut spool, 6..=7);
        spool.done(4).unwrap();
        drop(spool);
        assert_eq!(numbers(folder.path()), [5, 6, 7]);
    }

    #[test]
    fn when_all_is_done_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let (mut spool, _) = Spool::open(folder.path()).unwrap();
        for round in 0..3 {
            append(&mut spool, round * 2 + 1..=round * 2 + 2);
            spool.done(round * 2 + 2).unwrap();
            assert_eq!((spool.size(), fs::read_dir(folder.path()).unwrap().count()), (0, 0));
        }
    }

    #[test]
    fn it_is_one_agents_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let (first, _) = Spool::open(folder.path()).unwrap();
        assert_eq!(Spool::open(folder.path()).unwrap_err().kind(), ErrorKind::ResourceBusy);
        drop(first);
        assert!(Spool::open(folder.path()).is_ok());
    }

    #[test]
    fn segments_go_as_they_are_done_and_bound_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let (mut spool, _) = Spool::open(folder.path()).unwrap();
        let item = vec![7; 100_000];
        for number in 1..=1000 {
            spool.append([(number, item.as_slice())]).unwrap();
            spool.done(number.saturating_sub(20)).unwrap();
            // 20 that wait, and what is done in the first and the last segment.
            assert!(spool.size() < 21 * 100_100 + 2 * SEGMENT, "{}", spool.size());
        }
        let files: u64 = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
        assert_eq!(files, spool.size());
    }

    #[test]
    fn a_frame_that_a_killed_agent_left_torn_is_no_damage() {
        let folder = tempfile::tempdir().unwrap();
        let (mut spool, _) = Spool::open(folder.path()).unwrap();
        append(&mut spool, 1..=3);
        drop(spool);
        let path = segment(folder.path());
        let whole = fs::read(&path).unwrap();
        let item = HEAD + NUMBERED + "item 3".len();
        for torn in 1..=whole.len() {
            fs::write(&path, &whole[..whole.len() - torn]).unwrap();
            let (_, left) = Spool::open(folder.path()).unwrap();
            let expected = (whole.len() - torn).saturating_sub(MARK.len()) / item;
            assert_eq!((left.items.len(), left.set_aside), (expected, 0), "{torn} bytes are missing");
            fs::write(&path, &whole).unwrap();
        }
    }

    #[test]
    fn damage_costs_what_is_behind_it_and_is_set_aside_once() {
        let folder = tempfile::tempdir().unwrap();
        let (mut spool, _) = Spool::open(folder.path()).unwrap();
        append(&mut spool, 1..=3);
        drop(spool);
        let path = segment(folder.path());
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            fs::write(&path, &damaged).unwrap();
            let (spool, left) = Spool::open(folder.path()).unwrap();
            let before = at.saturating_sub(MARK.len()) / (HEAD + NUMBERED + "item 1".len());
            assert_eq!(left.items.iter().map(|item| item.number).collect::<Vec<_>>(), (1..=before as u64).collect::<Vec<_>>(), "byte {at}");
            // A length that reaches beyond the end is as a torn frame is.
            let is_torn = left.set_aside == 0;
            assert_eq!(fs::read(path.with_extension(BAD)).is_ok_and(|kept| kept == damaged), !is_torn, "byte {at}");
            drop(spool);
            assert_eq!(Spool::open(folder.path()).unwrap().1.set_aside, 0, "once, byte {at}");
            let _ = fs::remove_file(path.with_extension(BAD));
        }
    }

    #[test]
    fn a_full_disk_costs_what_found_no_room_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (mut spool, _) = Spool::open(folder.path()).unwrap();
        append(&mut spool, 1..=2);
        // What a file of this process may have at most stands for the room that is left.
        let path = segment(folder.path());
        let size = fs::metadata(&path).unwrap().len();
        let limited = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let file = spool.file.replace(limited);
        assert_eq!(spool.append([(3, b"item 3".as_slice())]).unwrap_err().kind(), ErrorKind::StorageFull);
        spool.file = file;
        assert_eq!(fs::metadata(&path).unwrap().len(), size);
        append(&mut spool, 4..=4);
        drop(spool);
        assert_eq!(numbers(folder.path()), [1, 2, 4]);
    }

    #[test]
    fn all_of_it_can_be_removed_and_nothing_else_is() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("spool");
        remove(&place).unwrap();
        let fill = || {
            let (mut spool, _) = Spool::open(&place).unwrap();
            append(&mut spool, 1..=2);
            fs::write(place.join(format!("1.{BAD}")), "damaged").unwrap();
        };
        fill();
        fs::write(place.join("notes.txt"), "mine").unwrap();
        remove(&place).unwrap();
        assert_eq!(fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), ["notes.txt"]);
        fs::remove_file(place.join("notes.txt")).unwrap();
        fill();
        remove(&place).unwrap();
        assert!(!place.exists());
    }

    #[test]
    fn what_is_no_file_of_the_spool_is_left_alone_or_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("notes.txt"), "mine").unwrap();
        fs::write(folder.path().join("00000000000000000001.spool"), "a later version's").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("00000000000000000002.spool")).unwrap();
        let (mut spool, left) = Spool::open(folder.path()).unwrap();
        assert_eq!((left.items.len(), left.set_aside), (0, 2));
        append(&mut spool, 1..=1);
        drop(spool);
        assert_eq!(numbers(folder.path()), [1]);
        assert_eq!(fs::read_to_string(folder.path().join("notes.txt")).unwrap(), "mine");
    }
}
