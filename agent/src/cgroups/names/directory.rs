//! Opens directories however long their paths are, and reads what is in them. The kernel takes paths of 4095 bytes
//! (`PATH_MAX`).

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirEntryExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of names that are opened in one go: with one more name and what stands before them they fit into `PATH_MAX`.
const STEP: usize = 3072;

/// Bytes of a file that are read. What is read has one number.
const FILE: u64 = 64;

/// Opens a directory to go on from, not to read.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(path)
}

/// Opens what is below `top` under these names, the outermost first.
pub(super) fn below<'a>(top: &File, names: impl IntoIterator<Item = &'a OsStr>) -> io::Result<File> {
    let (mut step, mut reached) = (PathBuf::from("."), None);
    for name in names {
        step.push(name);
        if step.as_os_str().len() > STEP {
            reached = Some(open(&inside(reached.as_ref().unwrap_or(top), step.as_os_str()))?);
            step = PathBuf::from(".");
        }
    }
    open(&inside(reached.as_ref().unwrap_or(top), step.as_os_str()))
}

/// The directories in it, at most `most`, with the inode numbers that the listing gives. On some file systems, not on
/// the kernel's cgroups, these are not those of the directories themselves.
pub(super) fn list(directory: &File, most: usize) -> io::Result<Vec<(OsString, u64)>> {
    let entries = fs::read_dir(inside(directory, OsStr::new(".")))?.filter_map(Result::ok);
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(directories.map(|entry| (entry.file_name(), entry.ino())).take(most).collect())
}

/// The text of a small file in it. Absent if there is none, or it is no text.
pub(super) fn read(directory: &File, name: &str) -> Option<String> {
    let mut text = String::new();
    File::open(inside(directory, OsStr::new(name))).and_then(|file| file.take(FILE).read_to_string(&mut text)).ok()?;
    Some(text)
}

/// A path that the kernel follows from an open directory.
fn inside(directory: &File, name: &OsStr) -> PathBuf {
    Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_directory_deeper_than_a_path_can_say_is_reached() {
        let folder = tempfile::tempdir().unwrap();
        let top = open(folder.path()).unwrap();
        let name = "n".repeat(255);
        let (mut names, mut ids) = (Vec::new(), Vec::new());
        for _ in 0..30 {
            let above = below(&top, names.iter().copied()).unwrap();
            fs::create_dir(inside(&above, OsStr::new(&name))).unwrap();
            names.push(OsStr::new(&name));
            ids.push(below(&top, names.iter().copied()).unwrap().metadata().unwrap().ino());
        }
        ids.dedup();
        assert_eq!(ids.len(), 30);
        let above = below(&top, names[1..].iter().copied()).unwrap();
        assert_eq!(list(&above, 9).unwrap().len(), 1);
        assert!(below(&top, names.iter().copied().chain([OsStr::new("x")])).is_err());
        assert_eq!(below(&top, []).unwrap().metadata().unwrap().ino(), folder.path().metadata().unwrap().ino());
    }

    #[test]
    fn only_directories_are_listed_and_only_texts_read() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::create_dir(folder.path().join("b")).unwrap();
        fs::write(folder.path().join("c"), "12\n").unwrap();
        fs::write(folder.path().join("d"), [0xff]).unwrap();
        let top = open(folder.path()).unwrap();
        let mut names: Vec<_> = list(&top, 9).unwrap().into_iter().map(|(name, _)| name).collect();
        names.sort();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(list(&top, 1).unwrap().len(), 1);
        assert_eq!((read(&top, "c").as_deref(), read(&top, "d"), read(&top, "e")), (Some("12\n"), None, None));
    }
}
