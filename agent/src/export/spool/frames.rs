//! What a file of the spool has: a mark, then frames, each with its length, its checksum and its number.

use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What a segment begins with: whose it is, and in which form.
pub(super) const MARK: &[u8; 8] = b"oomspl1\n";
/// Length and checksum of what follows.
pub(super) const HEAD: usize = 8;
/// What of a frame the checksum is of, without the item: its kind and its number.
pub(super) const NUMBERED: usize = 9;
/// No item is larger; nor is a request that a collector takes by default.
const MAX_ITEM: usize = 4 << 20;
/// A larger file is none of ours: a segment, and what was written at once when it was nearly full.
const MAX_SEGMENT: u64 = 9 << 20;
pub(super) const ITEM: u8 = 1;
pub(super) const DONE: u8 = 2;

/// An item with its number: numbers only grow, also over the ends of agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// Its place in the order.
    pub number: u64,
    /// The item.
    pub bytes: Vec<u8>,
}

/// What a file has.
#[derive(Default)]
pub(super) struct Content {
    pub(super) items: Vec<Numbered>,
    /// Up to which item all are done, as far as it tells.
    pub(super) done: u64,
    /// How much of it could be read.
    pub(super) size: u64,
    /// Why not all. A torn frame at the end is none: an agent was killed when it wrote that.
    pub(super) trouble: Option<String>,
}

/// What a file has, as far as it has the form of one.
///
/// # Errors
/// It cannot be read now: nothing is known of what it has.
pub(super) fn read(path: &Path) -> io::Result<Content> {
    match load(path) {
        Ok(bytes) => Ok(parse(&bytes)),
        // A link, which may lead anywhere, or what is no file.
        Err(error) if error.kind() == ErrorKind::InvalidData || error.raw_os_error() == Some(libc::ELOOP) => {
            Ok(Content { trouble: Some(error.to_string()), ..Content::default() })
        }
        Err(error) => Err(error),
    }
}

fn parse(bytes: &[u8]) -> Content {
    let mut content = Content::default();
    let Some(mut rest) = bytes.strip_prefix(MARK) else {
        // Killed before it had written that.
        let torn = MARK.starts_with(bytes);
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
            return Content {
                trouble: Some(format!("the frame at byte {} has another checksum", content.size)),
                ..content
            };
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

/// Adds a frame.
pub(super) fn frame(frames: &mut Vec<u8>, kind: u8, number: u64, item: &[u8]) {
    let start = frames.len();
    frames.extend_from_slice(&[0; HEAD]);
    frames.push(kind);
    frames.extend_from_slice(&number.to_le_bytes());
    frames.extend_from_slice(item);
    let (length, checksum) =
        frames.get(start + HEAD..).map_or((0, 0), |frame| (frame.len() as u32, crc32fast::hash(frame)));
    if let Some(head) = frames.get_mut(start..start + HEAD) {
        head[..4].copy_from_slice(&length.to_le_bytes());
        head[4..].copy_from_slice(&checksum.to_le_bytes());
    }
}
