//! Files that are made of something else: compared with it, and with `OOM_WATCHER_WRITE` written again.

use std::fs;
use std::path::Path;

/// The file is this; with `OOM_WATCHER_WRITE` it becomes this.
#[track_caller]
pub fn check(path: &Path, expected: &str) {
    if std::env::var_os("OOM_WATCHER_WRITE").is_some() {
        fs::write(path, expected).unwrap();
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    let line = found
        .lines()
        .zip(expected.lines())
        .position(|(found, expected)| found != expected)
        .unwrap_or(found.lines().count().min(expected.lines().count()));
    let [is, should] = [&found, expected].map(|text| text.lines().nth(line).unwrap_or("(the end)"));
    let again = "OOM_WATCHER_WRITE=1 cargo test -p oom-watcher --test keys --test manifests";
    assert!(
        found == expected,
        "{} is not what it is made of, in line {}:\n  {is}\nshould be\n  {should}\nTo write it again: {again}",
        path.display(),
        line + 1
    );
}
