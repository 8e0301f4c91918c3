//! Every collected path and `/proc/PID/cgroup` file has the owner that its row says; see `data/README.md`.

use oom_watcher::attribution::container::owner;
use oom_watcher::attribution::proc_cgroup::memory_path;
use oom_watcher::kill::{KubernetesOwner, Owner};

const PATHS: &str = include_str!("data/cgroup-paths.tsv");
const FILES: &str = include_str!("data/proc-cgroup-files.tsv");

struct Row<'a> {
    input: &'a str,
    shape: &'a str,
    pod_uid: Option<&'a str>,
    container_id: Option<&'a str>,
}

#[test]
fn every_collected_path_has_its_owner() {
    assert_all_right(rows(PATHS), |path| owner(Some(path), false));
}

#[test]
fn every_collected_proc_file_has_its_owner() {
    assert_all_right(rows(FILES), |text| owner(memory_path(&text.replace("\\n", "\n")), false));
}

/// No text makes the parser panic, and what it takes for an id is one and was there.
#[test]
fn a_damaged_path_never_makes_up_an_id() {
    for row in rows(PATHS) {
        for at in (0..=row.input.len()).filter(|at| row.input.is_char_boundary(*at)) {
            let (head, tail) = row.input.split_at(at);
            let without_one: String = head.chars().chain(tail.chars().skip(1)).collect();
            for damaged in [head, tail, &without_one, &format!("{head}\u{e9}{tail}"), &format!("{head}/{tail}")] {
                for path_cut in [false, true] {
                    let owner = owner(Some(damaged), path_cut);
                    if let Some(id) = ids(&owner).1 {
                        let is_id = id.len() == 64 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                        assert!(is_id && damaged.contains(id), "{damaged} -> {owner:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_damaged_proc_file_is_read_without_panic() {
    for row in rows(FILES) {
        let text = row.input.replace("\\n", "\n");
        for at in (0..text.len()).filter(|at| text.is_char_boundary(*at)) {
            let (head, tail) = text.split_at(at);
            for damaged in [head, tail] {
                assert!(memory_path(damaged).is_none_or(|path| damaged.contains(path)));
            }
        }
    }
}

/// Lists every wrong row, not only the first.
fn assert_all_right<'a>(rows: impl Iterator<Item = Row<'a>>, owner_of: impl Fn(&str) -> Owner) {
    let (mut count, mut wrong) = (0, Vec::new());
    for row in rows {
        count += 1;
        let owner = owner_of(row.input);
        if ids(&owner) != (row.pod_uid, row.container_id) {
            wrong.push(format!(
                "{}\n  {}\n  expected {:?} {:?}\n  got {owner:?}",
                row.shape, row.input, row.pod_uid, row.container_id
            ));
        }
    }
    assert!(count > 0 && wrong.is_empty(), "{} of {count} rows are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

fn ids(owner: &Owner) -> (Option<&str>, Option<&str>) {
    match owner {
        Owner::Kubernetes(KubernetesOwner { pod_uid, container_id, .. }) => (Some(pod_uid), container_id.as_deref()),
        Owner::Container { id, .. } => (None, Some(id)),
        Owner::Unit { .. } | Owner::Unknown { .. } => (None, None),
    }
}

/// Below the heading: the input, its shape, the pod's uid and the container's id, `-` for none.
fn rows(table: &str) -> impl Iterator<Item = Row<'_>> {
    table.lines().skip(1).map(|line| {
        let mut columns = line.split('\t');
        let mut column = || columns.next().unwrap_or_default();
        let (input, shape) = (column(), column());
        let mut known = || Some(column()).filter(|value| *value != "-");
        Row { input, shape, pod_uid: known(), container_id: known() }
    })
}
