//! What a spool promises, with each byte of a file torn or damaged once.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use super::frames::{HEAD, MARK, NUMBERED};
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
        assert_eq!((left.items.len(), left.damaged.len()), (expected, 0), "{torn} bytes are missing");
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
        assert_eq!(
            left.items.iter().map(|item| item.number).collect::<Vec<_>>(),
            (1..=before as u64).collect::<Vec<_>>(),
            "byte {at}"
        );
        // A length that reaches beyond the end is as a torn frame is.
        let is_torn = left.damaged.is_empty();
        assert_eq!(fs::read(path.with_extension(BAD)).is_ok_and(|kept| kept == damaged), !is_torn, "byte {at}");
        drop(spool);
        assert_eq!(Spool::open(folder.path()).unwrap().1.damaged, [], "once, byte {at}");
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
    assert_eq!(
        fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(),
        ["notes.txt"]
    );
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
    assert_eq!((left.items.len(), left.damaged.len()), (0, 2));
    append(&mut spool, 1..=1);
    drop(spool);
    assert_eq!(numbers(folder.path()), [1]);
    assert_eq!(fs::read_to_string(folder.path().join("notes.txt")).unwrap(), "mine");
}

/// What an agent of version 0.1 left: `tests/data/README.md` says how it was made.
#[test]
fn what_an_earlier_version_wrote_is_taken_over() {
    for (name, file, items) in [
        ("logs", &include_bytes!("../../../tests/data/spool-v1/logs/00000000000000000001.spool")[..], 3),
        ("traces", &include_bytes!("../../../tests/data/spool-v1/traces/00000000000000000001.spool")[..], 15),
    ] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("00000000000000000001.spool"), file).unwrap();
        let (_, left) = Spool::open(folder.path()).unwrap();
        assert_eq!((left.items.len(), left.damaged), (items, Vec::new()), "{name}");
    }
}
