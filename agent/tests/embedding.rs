//! When the build script embeds the eBPF object, and when only a stand-in. The script itself is the module under test.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

#[path = "../build.rs"]
#[expect(dead_code, reason = "a build script has a main")]
mod build;

use std::fs::{File, create_dir, write};
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Writes `path`, changed `age` seconds before now.
fn written(path: &Path, age: u64, now: SystemTime) {
    write(path, "bytes").unwrap();
    File::options().write(true).open(path).unwrap().set_modified(now - Duration::from_secs(age)).unwrap();
}

/// `object` and `sources` are ages in seconds; the words that the refusal must contain, none if the object is to be
/// embedded.
#[track_caller]
fn check(object: Option<u64>, sources: &[(&str, u64)], expected: Option<&str>) {
    let folder = tempfile::tempdir().unwrap();
    let (now, built, src) = (SystemTime::now(), folder.path().join("probe"), folder.path().join("src"));
    create_dir(&src).unwrap();
    create_dir(src.join("nested")).unwrap();
    for (name, age) in sources {
        written(&src.join(name), *age, now);
    }
    if let Some(age) = object {
        written(&built, age, now);
    }
    match (build::read_current(&built, &[src]), expected) {
        (Ok(bytes), None) => assert_eq!(bytes, b"bytes"),
        (Err(why), Some(words)) => assert!(why.contains(words), "{why}"),
        (got, expected) => panic!("expected {expected:?}, got {got:?}"),
    }
}

#[test]
fn an_object_is_embedded_unless_a_source_is_newer() {
    check(Some(10), &[("main.rs", 20)], None);
    check(Some(10), &[("main.rs", 10)], None);
    check(Some(10), &[("main.rs", 20), ("kernel.rs", 5)], Some("is older than"));
    check(Some(10), &[("main.rs", 20), ("kernel.rs", 5)], Some("src/kernel.rs"));
    check(Some(10), &[("main.rs", 20), ("nested/mod.rs", 5)], Some("src/nested/mod.rs"));
    check(None, &[("main.rs", 20)], Some("No such file"));
}

#[test]
fn a_folder_that_is_gone_is_a_reason_and_not_a_panic() {
    let folder = tempfile::tempdir().unwrap();
    let object = folder.path().join("probe");
    write(&object, "bytes").unwrap();
    assert!(build::read_current(&object, &[folder.path().join("src")]).unwrap_err().contains("src: No such file"));
}

#[test]
fn an_object_that_is_not_built_yet_is_awaited_in_its_folder() {
    let root = tempfile::tempdir().unwrap();
    let built = root.path().join(build::BUILT);
    let object = built.join("oom-watcher-probe");
    assert_eq!(build::watched(&object, root.path()), built);
    assert!(built.is_dir());
    write(&object, "bytes").unwrap();
    assert_eq!(build::watched(&object, root.path()), object);
    // A file elsewhere, named by the caller: its folder may hold anything.
    let elsewhere = root.path().join("elsewhere");
    assert_eq!(build::watched(&elsewhere, root.path()), elsewhere);
}

#[test]
fn the_fingerprint_is_fnv_1a() {
    // The test vectors of the algorithm's authors.
    for (bytes, expected) in
        [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)]
    {
        assert_eq!(build::fnv1a(bytes.as_bytes()), expected, "{bytes:?}");
    }
}
