//! The table of counts: births, bounds, ends.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use super::*;
use crate::kill::{KubernetesOwner, LimitHit, Memory, Pod, Why};
use crate::record::sample::{self, CONTAINER_ID, MIB};

const HOUR: Duration = Duration::from_secs(3600);

fn table(owners: usize) -> Table {
    Table::new(Limits { owners, expiry: HOUR, from_zero: FromZero::Kills })
}

fn record(table: &mut Table, kill: &Kill, owner: &Owner) {
    table.record(kill, owner, &sample::incident(kill, owner));
}

fn counts(table: &Table, owner: &Owner) -> Option<Counts> {
    table.rows().find(|(labels, _)| *labels == Labels::of(owner)).map(|(_, counts)| counts.clone())
}

fn kills(table: &Table) -> Vec<(String, u64)> {
    table.rows().map(|(labels, counts)| (labels.container.to_string(), counts.kills)).collect()
}

#[test]
fn labels_are_those_of_the_contract() {
    let check = |owner: Owner, namespace: &str, pod: &str, container: &str| {
        let labels = Labels { namespace: namespace.into(), pod: pod.into(), container: container.into() };
        assert_eq!(Labels::of(&owner), labels, "{owner:?}");
    };
    let pod = Some(Box::new(Pod { container: None, ..sample::pod("app") }));
    check(sample::container("app"), "shop", "web-1", "app");
    check(
        Owner::Kubernetes(KubernetesOwner { pod: pod.clone(), ..sample::kubernetes() }),
        "shop",
        "web-1",
        "5c1b9a3b1f0d",
    );
    let pod_level = KubernetesOwner { pod, container_id: None, ..sample::kubernetes() };
    check(Owner::Kubernetes(pod_level), "shop", "web-1", "");
    check(Owner::Kubernetes(sample::kubernetes()), "", "", "5c1b9a3b1f0d");
    check(Owner::Container { runtime: None, id: CONTAINER_ID.to_owned() }, "", "", "5c1b9a3b1f0d");
    check(Owner::Container { runtime: None, id: "short".to_owned() }, "", "", "short");
    check(Owner::Unit { name: "nginx.service".to_owned() }, "", "", "nginx.service");
    check(Owner::Unknown { why: Why::NoPath }, "", "", "");
}

#[test]
fn kills_and_incidents_are_counted_per_owner() {
    let (mut table, app, db) = (table(9), sample::container("app"), sample::container("db"));
    record(&mut table, &sample::kill_of(1, 0), &app);
    let mut node = sample::kill_of(2, 5);
    sample::node_out_of_memory(&mut node);
    record(&mut table, &node, &app);
    record(&mut table, &sample::kill_of(3, 9), &db);
    assert_eq!(kills(&table), [("app".to_owned(), 2), ("db".to_owned(), 1)]);
    let app = counts(&table, &app).unwrap();
    assert_eq!(app.incidents, BTreeMap::from([(Scope::Container, 1), (Scope::Node, 1)]));
    assert_eq!((app.last_kill, app.limit), (Some(sample::time(5)), None), "the last incident hit no limit");
}

#[test]
fn who_is_there_takes_the_room_of_who_is_gone_but_not_of_kills() {
    let mut table = table(3);
    let ensure = |table: &mut Table, names: &[&'static str], seconds| {
        table.ensure(names.iter().map(|name| ("shop", "web-1", *name)), sample::time(seconds));
    };
    let names = |table: &Table| {
        kills(table).into_iter().map(|(name, kills)| format!("{name} {kills}")).collect::<Vec<_>>().join(", ")
    };
    record(&mut table, &sample::kill_of(1, 0), &sample::container("killed"));
    ensure(&mut table, &["first", "second"], 1);
    ensure(&mut table, &["second"], 2);
    ensure(&mut table, &["second", "third"], 3);
    assert_eq!(names(&table), "killed 1, second 0, third 0", "the first one is gone");
    ensure(&mut table, &["second", "third", "fourth"], 4);
    assert_eq!(names(&table), "killed 1, second 0, third 0", "all that are there have a right to their room");
    ensure(&mut table, &["fourth", "fifth", "sixth"], 5);
    assert_eq!(names(&table), "fifth 0, fourth 0, killed 1");
    record(&mut table, &sample::kill_of(2, 6), &sample::container("other"));
    assert_eq!(names(&table), "fourth 0, killed 1, other 1", "a kill comes first");
}

#[test]
fn what_is_at_0_before_the_first_kill_is_configured() {
    let check = |from_zero: FromZero, owners: usize, scopes: &[Scope]| {
        let mut table = Table::new(Limits { owners: 9, expiry: HOUR, from_zero });
        for seconds in [0, 1] {
            table.ensure([("shop", "web-1", "app")].into_iter(), sample::time(seconds));
        }
        let expected = vec![BTreeMap::from_iter(scopes.iter().map(|scope| (*scope, 0))); owners];
        assert_eq!(table.rows().map(|(_, counts)| counts.incidents.clone()).collect::<Vec<_>>(), expected);
        // What has a series keeps it for as long as it is expected.
        let app = sample::container("app");
        record(&mut table, &sample::kill_of(1, 2), &app);
        table.ensure([("shop", "web-1", "app")].into_iter(), sample::time(7200));
        table.expire(sample::time(7201));
        assert_eq!(counts(&table, &app).map(|counts| counts.incidents.values().sum()), Some(1), "{from_zero:?}");
    };
    check(FromZero::Nothing, 0, &[]);
    check(FromZero::Kills, 1, &[]);
    check(FromZero::Incidents, 1, &EXPECTED_SCOPES);
}

#[test]
fn a_container_is_at_0_before_its_first_kill_and_for_as_long_as_it_is_there() {
    let (mut table, app) = (table(2), sample::container("app"));
    let ensure = |table: &mut Table, seconds| {
        table.ensure([("shop", "web-1", "app"), ("shop", "web-1", "log")].into_iter(), sample::time(seconds))
    };
    ensure(&mut table, 0);
    assert_eq!(kills(&table), [("app".to_owned(), 0), ("log".to_owned(), 0)]);
    assert_eq!(table.snapshot(), Snapshot::default(), "nothing to keep");
    record(&mut table, &sample::kill_of(1, 1), &app);
    assert_eq!(kills(&table), [("app".to_owned(), 1), ("log".to_owned(), 0)]);
    for hour in 1..4 {
        ensure(&mut table, hour * 3600);
        table.expire(sample::time(hour * 3600));
    }
    assert_eq!(kills(&table), [("app".to_owned(), 1), ("log".to_owned(), 0)], "though the kill is long ago");
    // A kill of another one takes the place of a row that says nothing, not of one that does.
    record(&mut table, &sample::kill_of(2, 3 * 3600), &sample::container("db"));
    assert_eq!(kills(&table), [("app".to_owned(), 1), ("db".to_owned(), 1)]);
    ensure(&mut table, 3 * 3600);
    assert_eq!(table.len(), 2, "no room is no reason to take it from others");
    table.expire(sample::time(4 * 3600 + 1));
    assert!(table.is_empty(), "gone, and the grace period over");
}

#[test]
fn who_is_gone_and_was_never_killed_leaves_earlier() {
    let mut table = table(9);
    table.ensure([("shop", "web-1", "app"), ("shop", "web-1", "log")].into_iter(), sample::time(0));
    record(&mut table, &sample::kill_of(1, 0), &sample::container("app"));
    table.expire(sample::time(600));
    assert_eq!(kills(&table), [("app".to_owned(), 1), ("log".to_owned(), 0)]);
    table.expire(sample::time(601));
    assert_eq!(kills(&table), [("app".to_owned(), 1)]);
}

#[test]
fn a_group_kill_is_n_kills_and_one_incident() {
    let (mut table, app, db) = (table(9), sample::container("app"), sample::container("db"));
    let first = sample::kill_of(1, 0);
    record(&mut table, &first, &app);
    for pid in 2..5 {
        table.record(&sample::kill_of(pid, 0), &app, &sample::second_of(&first));
    }
    table.record(&sample::kill_of(9, 0), &db, &sample::second_of(&first));
    assert_eq!(
        counts(&table, &app).map(|counts| (counts.kills, counts.incidents)),
        Some((4, BTreeMap::from([(Scope::Container, 1)])))
    );
    assert_eq!(
        counts(&table, &db).map(|counts| (counts.kills, counts.incidents)),
        Some((1, BTreeMap::new())),
        "counted once in all"
    );
}

#[test]
fn the_memory_is_that_of_the_largest_victim_of_the_last_incident() {
    let (mut table, owner) = (table(9), sample::container("app"));
    let with = |pid, seconds, anon| {
        let mut kill = sample::kill_of(pid, seconds);
        kill.victim.memory = anon;
        kill
    };
    let first = with(1, 0, sample::memory(100));
    record(&mut table, &first, &owner);
    let check = |table: &Table, expected: Memory, why: &str| {
        assert_eq!(counts(table, &owner).unwrap().memory, expected, "{why}")
    };
    table.record(&with(2, 0, sample::memory(200)), &owner, &sample::second_of(&first));
    check(&table, sample::memory(200), "the peak, though it was not the first");
    table.record(&with(3, 0, sample::memory(50)), &owner, &sample::second_of(&first));
    check(&table, sample::memory(200), "a smaller victim of the same incident");
    table.record(&with(4, 0, Memory::default()), &owner, &sample::second_of(&first));
    check(&table, sample::memory(200), "one of unknown size");
    record(&mut table, &with(5, 1, sample::memory(10)), &owner);
    check(&table, sample::memory(10), "another incident");
    table.record(&with(6, 0, sample::memory(300)), &owner, &sample::second_of(&first));
    check(&table, sample::memory(10), "a late one of an earlier incident");
    assert_eq!(counts(&table, &owner).map(|counts| (counts.kills, counts.last_kill)), Some((6, Some(sample::time(1)))));
}

#[test]
fn the_limit_is_that_of_the_last_incident() {
    let (mut table, owner) = (table(9), sample::container("app"));
    record(&mut table, &sample::kill_of(1, 0), &owner);
    assert_eq!(counts(&table, &owner).unwrap().limit, Some(256 * MIB));
    let kill = sample::kill_of(2, 1);
    let hit = LimitHit { cgroup_id: None, cgroup_path: None, usage: Some(5), limit: Some(6) };
    table.record(&kill, &owner, &Incident { limit: Some(hit), ..sample::incident(&kill, &owner) });
    assert_eq!(counts(&table, &owner).unwrap().limit, Some(6));
}

#[test]
fn at_the_bound_new_owners_share_the_overflow_and_none_is_evicted() {
    let mut table = table(2);
    for (pid, owner) in ["a", "b", "c", "d", "a", "c"].iter().enumerate() {
        record(&mut table, &sample::kill_of(pid as u32, pid as u64), &sample::container(owner));
    }
    assert_eq!(kills(&table), [("a".to_owned(), 2), ("b".to_owned(), 1), (OVERFLOW.to_owned(), 3)]);
    assert_eq!((table.len(), table.overflow_kills()), (2, 3));
}

#[test]
fn an_expired_owner_makes_room_and_the_overflow_keeps_its_kills() {
    let (mut table, a, b) = (table(1), sample::container("a"), sample::container("b"));
    record(&mut table, &sample::kill_of(1, 0), &a);
    record(&mut table, &sample::kill_of(2, 3600), &b);
    assert_eq!(kills(&table), [("a".to_owned(), 1), (OVERFLOW.to_owned(), 1)], "an hour is not longer than an hour");
    record(&mut table, &sample::kill_of(3, 3601), &b);
    assert_eq!(kills(&table), [("b".to_owned(), 1), (OVERFLOW.to_owned(), 1)]);
}

#[test]
fn only_owners_without_recent_kills_expire() {
    let (mut table, a, b) = (table(9), sample::container("a"), sample::container("b"));
    record(&mut table, &sample::kill_of(1, 0), &a);
    record(&mut table, &sample::kill_of(2, 0), &b);
    record(&mut table, &sample::kill_of(3, 60), &b);
    table.expire(sample::time(3601));
    assert_eq!(kills(&table), [("b".to_owned(), 2)]);
    table.expire(sample::time(0));
    assert_eq!(kills(&table), [("b".to_owned(), 2)], "the clock was set back");
    table.expire(sample::time(9999));
    assert!(table.is_empty());
}

#[test]
fn no_kill_is_lost_without_any_room() {
    let mut table = table(0);
    for pid in 0..5 {
        record(&mut table, &sample::kill_of(pid, 0), &sample::container("a"));
    }
    assert_eq!(kills(&table), [(OVERFLOW.to_owned(), 5)]);
    table.expire(sample::time(99_999));
    assert_eq!(table.overflow_kills(), 5, "the overflow never expires");
}

fn restored(owners: usize, snapshot: &Snapshot, now: u64) -> Table {
    let text = serde_json::to_string(snapshot).unwrap();
    let mut table = table(owners);
    table.restore(serde_json::from_str(&text).unwrap(), sample::time(now));
    table
}

#[test]
fn a_restored_table_goes_on_where_the_other_ended() {
    let (mut whole, mut before, app) = (table(1), table(1), sample::container("app"));
    let first = sample::kill_of(1, 0);
    for table in [&mut whole, &mut before] {
        record(table, &first, &app);
        record(table, &sample::kill_of(2, 1), &sample::container("db"));
        table.record_reconstructed(3, &app, sample::time(2));
    }
    let mut after = restored(1, &before.snapshot(), 3);
    for table in [&mut whole, &mut after] {
        // Its incident began before the restart.
        let mut second = sample::kill_of(3, 3);
        second.victim.memory = sample::memory(250);
        table.record(&second, &app, &sample::second_of(&first));
        record(table, &sample::kill_of(4, 4), &sample::container("db"));
    }
    assert_eq!(after.rows().collect::<Vec<_>>(), whole.rows().collect::<Vec<_>>());
    assert_eq!(counts(&after, &app).map(|counts| (counts.kills, counts.memory)), Some((5, sample::memory(250))));
}

#[test]
fn a_restored_table_obeys_its_own_bounds() {
    let mut before = table(9);
    for (pid, owner) in ["a", "b", "c", "d"].iter().enumerate() {
        record(&mut before, &sample::kill_of(pid as u32, pid as u64 * 100), &sample::container(owner));
    }
    let snapshot = before.snapshot();
    assert_eq!(
        kills(&restored(2, &snapshot, 300)),
        [("c".to_owned(), 1), ("d".to_owned(), 1), (OVERFLOW.to_owned(), 2)]
    );
    assert_eq!(
        kills(&restored(2, &snapshot, 3650)),
        [("c".to_owned(), 1), ("d".to_owned(), 1), (OVERFLOW.to_owned(), 1)],
        "a has expired"
    );
    assert_eq!(kills(&restored(9, &snapshot, 3850)), [("d".to_owned(), 1)]);
    assert_eq!(restored(0, &snapshot, 0).rows().next().unwrap().1.last_kill, Some(sample::time(300)));
}

/// The rows of a table that begins with it.
fn shown(snapshot: &Snapshot) -> Vec<(Labels, Counts)> {
    let mut table = table(9);
    table.restore(snapshot.clone(), sample::time(0));
    table.rows().map(|(labels, counts)| (labels, counts.clone())).collect()
}

#[test]
fn changes_make_of_a_snapshot_the_next_one() {
    let mut table = table(3);
    let mut saved = table.snapshot();
    let mut check = |table: &mut Table, rows: usize| {
        let changes = serde_json::to_string(&table.changes()).unwrap();
        let changes: Rows = serde_json::from_str(&changes).unwrap();
        assert_eq!(changes.owners.len(), rows, "{changes:?}");
        for _ in 0..2 {
            saved.apply(changes.clone());
            let rows = table.rows().filter(|(_, counts)| counts.kills > 0);
            assert_eq!(shown(&saved), rows.map(|(labels, counts)| (labels, counts.clone())).collect::<Vec<_>>());
        }
        assert_eq!(table.changes().owners, []);
    };
    table.ensure([("shop", "web-1", "idle")].into_iter(), sample::time(0));
    check(&mut table, 0);
    for (pid, name) in ["a", "b", "a", "c", "d"].iter().enumerate() {
        record(&mut table, &sample::kill_of(pid as u32, pid as u64), &sample::container(name));
    }
    check(&mut table, 3);
    table.record_reconstructed(2, &sample::container("b"), sample::time(9));
    check(&mut table, 1);
    table.expire(sample::time(3609));
    assert_eq!(kills(&table), [("b".to_owned(), 3), (OVERFLOW.to_owned(), 1)]);
    check(&mut table, 2);
    // Gone and born again before it was saved.
    table.expire(sample::time(3610));
    record(&mut table, &sample::kill_of(9, 3611), &sample::container("b"));
    check(&mut table, 1);
}

#[test]
fn of_a_reconstructed_kill_nothing_is_known_but_its_owner() {
    let (mut table, app) = (table(9), sample::container("app"));
    table.record_reconstructed(2, &app, sample::time(10));
    let found = counts(&table, &app).unwrap();
    assert_eq!(
        (found.kills, found.incidents, found.memory, found.limit, found.last_kill),
        (2, BTreeMap::new(), Memory::default(), None, None)
    );
    record(&mut table, &sample::kill_of(1, 5), &app);
    table.record_reconstructed(1, &app, sample::time(20));
    let found = counts(&table, &app).unwrap();
    assert_eq!((found.kills, found.limit, found.last_kill), (4, Some(256 * MIB), Some(sample::time(5))));
    table.expire(sample::time(20 + 3600));
    assert_eq!(table.len(), 1, "found an hour ago, and not longer");
    table.expire(sample::time(20 + 3601));
    assert!(table.is_empty());
}
