//! The kernel's notices about directories: something in it was made, removed or renamed. Two system calls and the form
//! of what is read.
//!
//! A crate for inotify brings streams and builders, and watches by path alone; what is needed of it is shorter than its
//! use.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

/// Bytes of `struct inotify_event` before the name: watch, mask, cookie and length of the name, four each. inotify(7).
const HEADER: usize = 16;

/// What is to be told of a directory.
const MASK: u32 = libc::IN_CREATE | libc::IN_DELETE | libc::IN_MOVED_FROM | libc::IN_MOVED_TO | libc::IN_ONLYDIR;

/// A queue of notices. The kernel keeps `fs.inotify.max_queued_events` (16,384) of them, then one that says that some
/// were lost.
#[derive(Debug)]
pub(super) struct Inotify(File);

/// One notice.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event<'a> {
    /// The number of the watch; -1 if it is about the queue.
    pub(super) watch: i32,
    mask: u32,
    /// The name inside of the watched directory; empty if it is about the directory itself.
    pub(super) name: &'a OsStr,
}

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    /// A directory was made, or came here under this name.
    Came,
    /// A directory was removed, or left this name.
    Left,
    /// The watch has ended, because its directory has.
    Ended,
    /// Notices were lost.
    Lost,
    /// Nothing about directories.
    Other,
}

impl Inotify {
    /// An empty one that is never waited for when it is read.
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::inotify_init1(libc::IN_NONBLOCK | libc::IN_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just given it to us, and nobody else knows it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }.into()))
    }

    /// Watches an open directory, however long its path is. Watching it again gives the same number.
    pub(super) fn watch(&self, directory: &File) -> io::Result<i32> {
        let path = CString::new(format!("/proc/self/fd/{}", directory.as_raw_fd()))?;
        // SAFETY: the path outlives the call.
        let watch = unsafe { libc::inotify_add_watch(self.0.as_raw_fd(), path.as_ptr(), MASK) };
        if watch < 0 { Err(io::Error::last_os_error()) } else { Ok(watch) }
    }

    /// The same queue by another descriptor, to wait for notices.
    pub(super) fn queue(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    /// Whole notices, as many as fit. `WouldBlock` if there are none.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.0).read(buffer)
    }
}

impl Event<'_> {
    /// What it says.
    pub(super) fn notice(&self) -> Notice {
        let has = |bits: u32| self.mask & bits != 0;
        if has(libc::IN_Q_OVERFLOW) {
            Notice::Lost
        } else if has(libc::IN_IGNORED) {
            Notice::Ended
        } else if !has(libc::IN_ISDIR) {
            Notice::Other
        } else if has(libc::IN_CREATE | libc::IN_MOVED_TO) {
            Notice::Came
        } else if has(libc::IN_DELETE | libc::IN_MOVED_FROM) {
            Notice::Left
        } else {
            Notice::Other
        }
    }
}

/// The notices in what was read. Ends early where the form is not the kernel's.
pub(super) fn events(mut bytes: &[u8]) -> impl Iterator<Item = Event<'_>> {
    std::iter::from_fn(move || {
        let (header, rest) = bytes.split_at_checked(HEADER)?;
        let number = |at: usize| header.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_ne_bytes);
        let (watch, mask, length) = (number(0)?, number(4)?, number(12)?);
        let (padded, rest) = rest.split_at_checked(length as usize)?;
        bytes = rest;
        let name = padded.split(|&byte| byte == 0).next().unwrap_or_default();
        Some(Event { watch: watch.cast_signed(), mask, name: OsStr::from_bytes(name) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(watch: i32, mask: u32, padded: &[u8]) -> Vec<u8> {
        [&watch.to_ne_bytes()[..], &mask.to_ne_bytes(), &[0; 4], &(padded.len() as u32).to_ne_bytes(), padded].concat()
    }

    #[test]
    fn notices_are_read_one_after_the_other() {
        let made = event(1, libc::IN_CREATE | libc::IN_ISDIR, b"pod\0\0\0\0\0");
        let bytes =
            [made.clone(), event(-1, libc::IN_Q_OVERFLOW, b""), event(7, libc::IN_DELETE | libc::IN_ISDIR, b"x\0")]
                .concat();
        let told: Vec<_> = events(&bytes).map(|event| (event.watch, event.notice(), event.name.to_owned())).collect();
        assert_eq!(
            told,
            [(1, Notice::Came, "pod".into()), (-1, Notice::Lost, "".into()), (7, Notice::Left, "x".into())]
        );
        for end in 0..made.len() {
            assert_eq!(events(&made[..end]).count(), 0, "a part of a notice is none: {end}");
        }
    }

    #[test]
    fn only_directories_matter() {
        let check = |mask: u32, expected: Notice| {
            assert_eq!(Event { watch: 1, mask, name: OsStr::new("a") }.notice(), expected)
        };
        check(libc::IN_CREATE, Notice::Other);
        check(libc::IN_CREATE | libc::IN_ISDIR, Notice::Came);
        check(libc::IN_MOVED_TO | libc::IN_ISDIR, Notice::Came);
        check(libc::IN_MOVED_FROM | libc::IN_ISDIR, Notice::Left);
        check(libc::IN_IGNORED, Notice::Ended);
    }
}
