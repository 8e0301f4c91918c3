//! The files of the state: what is kept, what is set aside, what an older version wrote.

#![expect(clippy::unwrap_used, clippy::unreachable, reason = "a failed test panics")]

use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::kill::Owner;
use crate::reconcile::{CgroupCounts, Cgroups, Counted, Observed, ProbeCounts};
use crate::record::series::{FromZero, Limits, Table};

const BOOT: Uuid = Uuid::from_u128(1);

fn state(owners: usize) -> State {
    let time = UNIX_EPOCH + Duration::new(1_790_000_000, 123_456_789);
    let mut table = Table::new(Limits { owners, expiry: Duration::from_secs(60), from_zero: FromZero::Kills });
    for owner in 0..owners {
        table.record_reconstructed(1, &Owner::Unit { name: format!("\"{owner}\".service") }, time);
    }
    let own = Counted { kills: 3, group_kills: None };
    let cgroups = Cgroups {
        counts: vec![CgroupCounts { id: 7, parent: None, path: "/a".to_owned(), own, subtree: None }],
        left_out: 0,
    };
    State {
        saved: time,
        node: "node-a".to_owned(),
        account: Account::first(&Observed { node: Some(41), cgroups: Some(cgroups), ..Observed::default() }),
        probe: 5,
        handled: BTreeMap::from([(5, Handled::through(7))]),
        counted: Kept { node_kills: 41, missed: [(1, 2), (3, 4), (5, 6)], ring_full: Some(7) },
        series: table.snapshot(),
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("run/oom-watcher");
    (directory, Store::new(Some(path)))
}

fn path(store: &Store, name: &str) -> PathBuf {
    store.directory.clone().unwrap().join(name)
}

#[test]
fn what_is_saved_is_loaded() {
    let (_kept, mut store) = store();
    assert_eq!(store.load(BOOT, "node-a"), None, "no directory yet");
    for owners in [3, 1] {
        assert!(store.save(BOOT, &state(owners)));
        assert_eq!(store.load(BOOT, "node-a"), Some(Loaded { state: state(owners), this_boot: true }));
    }
    assert_eq!(store.load(Uuid::from_u128(2), "node-a").map(|loaded| loaded.this_boot), Some(false));
    assert_eq!(fs::metadata(path(&store, NAME)).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(path(&store, "")).unwrap().permissions().mode() & 0o777, 0o700);
    assert!(!path(&store, TEMPORARY).exists() && !path(&store, BAD).exists());
}

#[test]
fn what_is_removed_is_gone_and_what_others_have_there_stays() {
    let (_kept, mut store) = store();
    let directory = path(&store, "");
    remove(&directory).unwrap();
    assert!(store.save(BOOT, &state(1)));
    fs::write(path(&store, BAD), "").unwrap();
    fs::write(path(&store, "note"), "somebody's").unwrap();
    remove(&directory).unwrap();
    assert_eq!(fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>(), ["note"]);
    fs::remove_file(path(&store, "note")).unwrap();
    remove(&directory).unwrap();
    assert!(!directory.exists());
}

#[test]
fn a_state_that_cannot_be_used_is_set_aside_and_never_stops_the_agent() {
    let (_kept, mut store) = store();
    store.save(BOOT, &state(2));
    let good = fs::read_to_string(path(&store, NAME)).unwrap();
    let newer = good.replacen("\"version\":2", "\"version\":3", 1);
    let cut = good.get(..good.len() / 2).unwrap().to_owned();
    for bad in [
        String::new(),
        "{}".to_owned(),
        "null".to_owned(),
        "[".repeat(100_000),
        cut,
        newer,
        good.replace("node-a", "node-b"),
    ] {
        assert_ne!(bad, good);
        fs::write(path(&store, NAME), &bad).unwrap();
        assert_eq!(store.load(BOOT, "node-a"), None, "{bad:.40}");
        assert_eq!(fs::read_to_string(path(&store, BAD)).unwrap(), bad);
        assert!(!path(&store, NAME).exists());
        assert!(store.save(BOOT, &state(2)));
    }
    fs::write(path(&store, NAME), [0xff, 0xfe]).unwrap();
    assert_eq!(store.load(BOOT, "node-a"), None);
    symlink("/dev/zero", path(&store, NAME)).unwrap();
    assert_eq!(store.load(BOOT, "node-a"), None, "a link");
    fs::create_dir(path(&store, NAME)).unwrap();
    assert_eq!(store.load(BOOT, "node-a"), None, "a directory");
}

#[test]
fn a_state_that_cannot_be_saved_leaves_the_one_before() {
    let (_kept, mut store) = store();
    assert!(store.save(BOOT, &state(1)));
    symlink(path(&store, "elsewhere"), path(&store, TEMPORARY)).unwrap();
    assert!(!store.save(BOOT, &state(2)), "no link is followed");
    assert!(!path(&store, "elsewhere").exists() && store.fails);
    assert_eq!(store.load(BOOT, "node-a").map(|loaded| loaded.state), Some(state(1)));
    fs::remove_file(path(&store, TEMPORARY)).unwrap();
    assert!(store.save(BOOT, &state(2)) && !store.fails);
}

#[test]
fn trying_it_out_leaves_nothing_and_tells_what_is_there() {
    let (kept, mut store) = store();
    assert!(!store.try_out("node-a").unwrap());
    assert_eq!(fs::read_dir(kept.path()).unwrap().count(), 0);
    assert!(store.save(BOOT, &state(1)) && store.try_out("node-a").unwrap());
    assert_eq!(
        format!("{:#}", store.try_out("node-b").unwrap_err()),
        "state.json: of another node, node-a: the next agent sets it aside"
    );
    // Its first line is no change.
    fs::write(path(&store, CHANGES), "garbage\n").unwrap();
    let damaged = format!("{:#}", store.try_out("node-a").unwrap_err());
    assert!(damaged.starts_with("state.changes: line 1: "), "{damaged}");
    assert_eq!(fs::read_dir(path(&store, "")).unwrap().count(), 2, "the state and its changes");
    let nowhere = Store::new(Some(PathBuf::from("/proc/oom-watcher")));
    assert!(format!("{:#}", nowhere.try_out("node-a").unwrap_err()).starts_with("making a folder in /proc: "));
}

#[test]
fn a_state_that_somebody_removed_is_saved_whole_again() {
    let (_kept, mut store) = store();
    for removed in [CHANGES, NAME] {
        assert!(store.save(BOOT, &state(3)) && !store.wants_whole());
        fs::remove_file(path(&store, removed)).unwrap();
        assert!(store.wants_whole(), "{removed}");
    }
    assert!(store.save(BOOT, &state(3)));
    fs::remove_dir_all(path(&store, "")).unwrap();
    assert!(store.wants_whole() && store.save(BOOT, &state(3)) && !store.wants_whole());
}

/// A change of [`state`] with so many owners: another time, and what the next kills of the first ones made of it.
fn change(owners: usize, kills: u64) -> (Change, State) {
    let mut after = state(owners);
    after.saved += Duration::from_secs(kills);
    after.handled = BTreeMap::from([(5, Handled::through(7 + kills))]);
    after.counted.node_kills += kills;
    let mut table = Table::new(Limits { owners, expiry: Duration::from_secs(60), from_zero: FromZero::Kills });
    table.restore(after.series, after.saved - Duration::from_secs(kills));
    table.changes();
    table.record_reconstructed(kills, &Owner::Unit { name: "\"0\".service".to_owned() }, after.saved);
    let series = table.changes();
    after.series = table.snapshot();
    after.account.keep([].iter(), false);
    after.account.counted(ProbeCounts { confirmed: kills, ..ProbeCounts::default() });
    let account = match after.account.keep([].iter(), false) {
        reconcile::Kept::Change(change) => change,
        reconcile::Kept::Whole(_) => unreachable!("it was kept whole a moment before"),
    };
    let (saved, handled, counted) = (after.saved, after.handled.clone(), after.counted);
    (Change { saved, account, handled, counted, series }, after)
}

fn loaded(store: &Store) -> String {
    serde_json::to_string(&store.load(BOOT, "node-a").unwrap().state).unwrap()
}

#[test]
fn changes_are_loaded_with_the_state() {
    let (_kept, mut store) = store();
    let (first, _) = change(3, 1);
    assert!(!store.append(&first) && store.wants_whole(), "there is nothing yet that it would change");
    assert!(store.save(BOOT, &state(3)) && !store.wants_whole());
    for kills in 1..=3 {
        let (change, after) = change(3, kills);
        assert!(store.append(&change));
        assert_eq!(loaded(&store), serde_json::to_string(&after).unwrap());
    }
    let changes = fs::read_to_string(path(&store, CHANGES)).unwrap();
    assert_eq!(fs::metadata(path(&store, CHANGES)).unwrap().permissions().mode() & 0o777, 0o600);
    // The last line was not written to its end: the one before it counts.
    let (_, second) = change(3, 2);
    fs::write(path(&store, CHANGES), &changes[..changes.len() - 1]).unwrap();
    assert_eq!(loaded(&store), serde_json::to_string(&second).unwrap());
    // A line that is no change ends them, with a warning.
    let lines: Vec<&str> = changes.lines().collect();
    fs::write(path(&store, CHANGES), [lines[0], lines[1], "{}", lines[3], ""].join("\n")).unwrap();
    let (_, only) = change(3, 1);
    assert_eq!(loaded(&store), serde_json::to_string(&only).unwrap());
    // Those of another state are not its.
    fs::write(path(&store, CHANGES), changes.replacen(lines[0], r#"{"of":"00000000-0000-0000-0000-000000000001"}"#, 1))
        .unwrap();
    assert_eq!(loaded(&store), serde_json::to_string(&state(3)).unwrap());
    // Nor is a pipe, which nobody writes to.
    fs::remove_file(path(&store, CHANGES)).unwrap();
    symlink(path(&store, NAME), path(&store, CHANGES)).unwrap();
    assert_eq!(loaded(&store), serde_json::to_string(&state(3)).unwrap());
    assert!(store.save(BOOT, &state(1)), "and it is replaced");
    assert_eq!(loaded(&store), serde_json::to_string(&state(1)).unwrap());
}

#[test]
fn changes_are_as_many_as_the_state_has_room_for() {
    let (_kept, mut store) = store();
    assert!(store.save(BOOT, &state(3)));
    let (change, _) = change(3, 1);
    let mut appended = 0;
    while !store.wants_whole() {
        assert!(store.append(&change));
        appended += 1;
    }
    let bytes = fs::metadata(path(&store, CHANGES)).unwrap().len();
    assert!((256 << 10..300 << 10).contains(&bytes), "{appended} changes take {bytes} bytes");
    assert!(store.save(BOOT, &state(3)) && !store.wants_whole());
}

/// What an agent of version 1 wrote, of this boot: `tests/data/README.md` says how it was made.
#[test]
fn what_version_1_wrote_is_taken_over() {
    let (_kept, mut store) = store();
    fs::create_dir_all(path(&store, "")).unwrap();
    let text = include_str!("../../tests/data/state-v1.json");
    fs::write(path(&store, NAME), text).unwrap();
    fs::write(path(&store, CHANGES), "{\"of\":\"00000000-0000-0000-0000-000000000001\"}\n").unwrap();
    let boot = serde_json::from_str::<serde_json::Value>(text).unwrap()["boot_id"].as_str().unwrap().parse().unwrap();
    let node = serde_json::from_str::<serde_json::Value>(text).unwrap()["state"]["node"].as_str().unwrap().to_owned();
    let Loaded { state, this_boot } = store.load(boot, &node).unwrap();
    assert!(this_boot && state.counted.node_kills == 3 && state.handled[&state.probe].has(3));
    assert_eq!(state.handled[&state.probe].waiting(), 0);
    assert!(store.save(boot, &state));
    assert_eq!(store.load(boot, &node).map(|loaded| loaded.state), Some(state));
}

#[test]
fn without_a_directory_nothing_is_kept() {
    let mut store = Store::new(None);
    assert!(!store.try_out("node-a").unwrap());
    assert!(!store.save(BOOT, &state(1)) && !store.fails);
    assert_eq!(store.load(BOOT, "node-a"), None);
}
