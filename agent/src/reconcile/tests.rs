//! Each way a kill can be missed, one by one.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use super::*;
use crate::kill::{Cgroup, Kill};
use crate::record::sample;

/// A kill in the first of these cgroups, below the others.
pub(crate) fn kill_in(cgroups: &[u64]) -> Kill {
    let level = |id: &u64| Cgroup { id: Some(*id), ..Cgroup::default() };
    Kill { cgroups: cgroups.iter().map(level).collect(), ..sample::kill() }
}

fn probe(confirmed: u64, repeated: u64, dropped: u64) -> ProbeCounts {
    ProbeCounts { confirmed, repeated, dropped }
}

fn counted(kills: u64, groups: u64) -> Counted {
    Counted { kills, group_kills: Some(groups) }
}

/// A cgroup of v1: `(id, kills)`.
fn v1(counts: &[(u64, u64)]) -> Cgroups {
    let of = |&(id, kills): &(u64, u64)| CgroupCounts {
        id,
        parent: None,
        path: format!("/{id}"),
        own: counted(kills, 0),
        subtree: None,
    };
    Cgroups { counts: counts.iter().map(of).collect(), left_out: 0 }
}

/// Kills and group kills.
type Pair = (u64, u64);

/// Cgroups of v2: `(id, parent, own kills and group kills, those of the subtree)`.
fn v2(counts: &[(u64, u64, Pair, Pair)]) -> Cgroups {
    let of = |&(id, parent, own, subtree): &(u64, u64, Pair, Pair)| CgroupCounts {
        id,
        parent: (parent != 0).then_some(parent),
        path: format!("/{id}"),
        own: counted(own.0, own.1),
        subtree: Some(counted(subtree.0, subtree.1)),
    };
    Cgroups { counts: counts.iter().map(of).collect(), left_out: 0 }
}

fn look(node: u64, probe: ProbeCounts, cgroups: &Cgroups) -> Observed {
    Observed { node: Some(node), probe, cgroups: Some(cgroups.clone()) }
}

fn node(node: u64, probe: ProbeCounts) -> Observed {
    Observed { node: Some(node), probe, cgroups: None }
}

/// Over a restart of the agent.
fn saved(account: &Account) -> Account {
    serde_json::from_str(&serde_json::to_string(account).unwrap()).unwrap()
}

/// Checks until nothing is open, always with the same counters.
fn settled(account: &mut Account, observed: &Observed) -> Findings {
    let mut all = Findings::default();
    for _ in 0..4 {
        let found = account.check(observed.clone());
        all.missed.extend(found.missed);
        for why in Missed::ALL {
            let number = found.without_owner.of(why);
            match why {
                Missed::Away => all.without_owner.away += number,
                Missed::Dropped => all.without_owner.dropped += number,
                Missed::Unexplained => all.without_owner.unexplained += number,
            }
        }
    }
    assert!(account.is_balanced(), "{account:?}");
    all
}

/// `(cgroup, removed, first, number, why)`
#[track_caller]
fn check(found: &Findings, missed: &[(u64, bool, u64, u64, Missed)], away: u64, dropped: u64, unexplained: u64) {
    let told: Vec<_> = found
        .missed
        .iter()
        .map(|kills| (kills.cgroup_id, kills.removed, kills.first, kills.number, kills.why))
        .collect();
    assert_eq!((told, found.without_owner), (missed.to_vec(), Numbers { away, dropped, unexplained }));
}

#[test]
fn a_probe_that_is_replaced_hands_over_and_what_both_saw_counts_once() {
    // Six kills: the fourth and the fifth were seen by both probes, the sixth by the new one alone, and one more by
    // nobody.
    let mut account = Account::first(&Observed { node: Some(100), ..Observed::default() });
    account.counted(probe(3, 0, 0));
    account.hand_over(probe(5, 0, 0), probe(0, 0, 0));
    (0..2).for_each(|_| account.seen_by_both());
    let look = |node| Observed { node: Some(node), probe: probe(3, 0, 0), cgroups: Some(Cgroups::default()) };
    let missed =
        |account: &mut Account, node| (0..3).map(|_| account.check(look(node)).without_owner.unexplained).sum::<u64>();
    assert_eq!(missed(&mut account, 106), 0);
    assert_eq!(missed(&mut account, 107), 1);
}

#[test]
fn what_the_probe_saw_is_not_missing() {
    let mut account = Account::first(&look(3, probe(0, 0, 0), &v1(&[(7, 3)])));
    account.seen(&kill_in(&[7]));
    check(&settled(&mut account, &look(4, probe(1, 0, 0), &v1(&[(7, 4)]))), &[], 0, 0, 0);
}

#[test]
fn a_group_kill_that_counts_twice_is_explained_by_the_probe() {
    let mut account = Account::first(&look(0, probe(0, 0, 0), &v2(&[])));
    (0..5).for_each(|_| account.seen(&kill_in(&[7, 5])));
    check(
        &settled(&mut account, &look(6, probe(5, 1, 0), &v2(&[(5, 0, (0, 0), (6, 1)), (7, 5, (6, 1), (6, 1))]))),
        &[],
        0,
        0,
        0,
    );
}

#[test]
fn a_kill_that_is_on_its_way_is_not_missing() {
    let mut account = Account::first(&node(0, probe(0, 0, 0)));
    // Each is counted by the kernel before the probe sees it, and another one is on its way at each check.
    for confirmed in 0..20 {
        check(&account.check(node(confirmed + 1, probe(confirmed, 0, 0))), &[], 0, 0, 0);
    }
    check(&settled(&mut account, &node(20, probe(20, 0, 0))), &[], 0, 0, 0);
}

#[test]
fn a_kill_that_the_probe_did_not_see_is_unexplained_and_has_its_owner() {
    let mut account = Account::first(&look(0, probe(0, 0, 0), &v1(&[])));
    account.seen(&kill_in(&[7]));
    let observed = look(3, probe(1, 0, 0), &v1(&[(7, 2), (8, 1)]));
    check(&account.check(observed.clone()), &[], 0, 0, 0);
    assert!(account.wants_cgroups() || account.is_balanced());
    check(
        &settled(&mut account, &observed),
        &[(7, false, 1, 1, Missed::Unexplained), (8, false, 1, 1, Missed::Unexplained)],
        0,
        0,
        0,
    );
    check(&settled(&mut account, &observed), &[], 0, 0, 0);
}

#[test]
fn an_unexplained_kill_without_cgroups_has_no_owner() {
    let mut account = Account::first(&node(0, probe(0, 0, 0)));
    check(&settled(&mut account, &node(2, probe(0, 0, 0))), &[], 0, 0, 2);
}

#[test]
fn more_seen_than_counted_hides_no_later_kill() {
    let mut account = Account::first(&node(0, probe(0, 0, 0)));
    check(&settled(&mut account, &node(1, probe(3, 0, 0))), &[], 0, 0, 0);
    check(&settled(&mut account, &node(2, probe(3, 0, 0))), &[], 0, 0, 1);
}

#[test]
fn kills_while_a_pinned_probe_counted_on_are_not_missing() {
    let mut account = Account::first(&look(0, probe(0, 0, 0), &v1(&[])));
    account.seen(&kill_in(&[7]));
    account.counted(probe(1, 0, 0));
    let mut account = saved(&account);
    account.resume(probe(3, 0, 1), true);
    // One of the two since then was delivered, one was dropped, and one the probe did not see.
    account.seen(&kill_in(&[7]));
    let observed = look(4, probe(3, 0, 1), &v1(&[(7, 2), (8, 1), (9, 1)]));
    let found = settled(&mut account, &observed);
    check(&found, &[(8, false, 1, 1, Missed::Dropped), (9, false, 1, 1, Missed::Unexplained)], 0, 0, 0);
    check(&settled(&mut saved(&account), &observed), &[], 0, 0, 0);
}

#[test]
fn everything_without_a_probe_is_missed() {
    let mut account = Account::first(&look(10, probe(0, 0, 0), &v1(&[(7, 10)])));
    account.seen(&kill_in(&[7]));
    account.counted(probe(1, 0, 0));
    let mut account = saved(&account);
    account.resume(probe(0, 0, 0), false);
    // Of the kills since then, one was in a cgroup that is gone.
    let observed = look(15, probe(0, 0, 0), &v1(&[(7, 13), (8, 1)]));
    let found = settled(&mut account, &observed);
    check(&found, &[(7, false, 11, 2, Missed::Away), (8, false, 1, 1, Missed::Away)], 1, 0, 0);

    let mut again = saved(&account);
    again.resume(probe(0, 0, 0), false);
    check(&settled(&mut again, &observed), &[], 0, 0, 0);
}

#[test]
fn a_missed_group_kill_is_not_counted_twice() {
    let mut account = Account::first(&look(0, probe(0, 0, 0), &v2(&[])));
    account.resume(probe(0, 0, 0), false);
    // Three processes of 7, whose group is its parent's; and two of 8 by itself, one of which had given up its memory
    // when it was met again.
    let cgroups = v2(&[(5, 0, (0, 1), (6, 2)), (7, 5, (4, 0), (4, 0)), (8, 5, (2, 1), (2, 1))]);
    let found = settled(&mut account, &look(6, probe(0, 0, 0), &cgroups));
    check(&found, &[(7, false, 1, 3, Missed::Away), (8, false, 1, 1, Missed::Away)], 0, 0, 0);
}

#[test]
fn where_the_kernel_tells_no_group_kills_there_may_be_one_too_much() {
    let mut account = Account::first(&look(0, probe(0, 0, 0), &v2(&[])));
    account.resume(probe(0, 0, 0), false);
    let mut cgroups = v2(&[(7, 0, (4, 0), (4, 0))]);
    cgroups.counts[0].own.group_kills = None;
    cgroups.counts[0].subtree = Some(Counted { kills: 4, group_kills: None });
    let found = settled(&mut account, &look(4, probe(0, 0, 0), &cgroups));
    check(&found, &[(7, false, 1, 4, Missed::Away)], 0, 0, 0);
    assert!(found.missed[0].may_repeat);
}

#[test]
fn the_nearest_cgroup_that_is_left_tells_of_those_that_are_gone() {
    let mut account = Account::first(&look(
        2,
        probe(0, 0, 0),
        &v2(&[(5, 0, (0, 0), (2, 0)), (6, 5, (0, 0), (2, 0)), (7, 6, (2, 0), (2, 0))]),
    ));
    account.seen(&kill_in(&[7, 6, 5]));
    account.counted(probe(1, 0, 0));
    account.resume(probe(0, 0, 0), false);
    // Since then 7 had one more and is gone, like another container of the pod 6 with a group kill of three; a whole
    // pod below 5 with one kill too.
    let found = settled(&mut account, &look(9, probe(0, 0, 0), &v2(&[(5, 0, (0, 0), (9, 1)), (6, 5, (0, 0), (8, 1))])));
    check(&found, &[(5, true, 3, 1, Missed::Away), (6, true, 3, 4, Missed::Away)], 0, 0, 0);
}

#[test]
fn the_first_start_tells_nothing_of_the_past() {
    let cgroups = v1(&[(7, 40)]);
    let mut account = Account::first(&look(50, probe(0, 0, 0), &cgroups));
    check(&settled(&mut account, &look(50, probe(0, 0, 0), &cgroups)), &[], 0, 0, 0);
    let mut account = Account::first(&node(50, probe(0, 0, 0)));
    check(&settled(&mut account, &look(50, probe(0, 0, 0), &cgroups)), &[], 0, 0, 0);
    // What is told later does not blame a kill of the past.
    check(
        &settled(&mut account, &look(51, probe(0, 0, 0), &v1(&[(7, 40), (8, 1)]))),
        &[(8, false, 1, 1, Missed::Unexplained)],
        0,
        0,
        0,
    );
}

#[test]
fn everything_since_another_boot_is_missed() {
    let mut account = Account::first(&look(50, probe(9, 0, 0), &v1(&[(7, 40)])));
    account.seen(&kill_in(&[7]));
    let mut account = saved(&account);
    account.after_boot(probe(0, 0, 0));
    // The probe saw one since it is attached. The id is the same, the cgroup is another.
    account.seen(&kill_in(&[7]));
    let found = settled(&mut account, &look(4, probe(1, 0, 0), &v1(&[(7, 2)])));
    check(&found, &[(7, false, 1, 1, Missed::Away)], 2, 0, 0);
}

#[test]
fn dropped_kills_have_the_owners_that_the_cgroups_tell() {
    let mut account = Account::first(&look(0, probe(0, 0, 0), &v1(&[])));
    account.seen(&kill_in(&[7]));
    let observed = look(5, probe(5, 0, 4), &v1(&[(7, 3), (8, 1)]));
    check(
        &settled(&mut account, &observed),
        &[(7, false, 1, 2, Missed::Dropped), (8, false, 1, 1, Missed::Dropped)],
        0,
        1,
        0,
    );
    check(&settled(&mut account, &observed), &[], 0, 0, 0);
}

#[test]
fn with_more_in_the_cgroups_than_is_missing_only_the_certain_are_told() {
    let mut account = Account::first(&look(0, probe(0, 0, 0), &v1(&[])));
    // Three kills were seen in 8 but are not in the account, as after a lost state; four were dropped in 7.
    let found = settled(&mut account, &look(7, probe(7, 0, 4), &v1(&[(7, 4), (8, 3)])));
    check(&found, &[(7, false, 1, 1, Missed::Dropped)], 0, 3, 0);
    let found = settled(&mut account, &look(7, probe(7, 0, 4), &v1(&[(7, 4), (8, 3)])));
    check(&found, &[], 0, 0, 0);
}

#[test]
fn owners_wait_for_a_pause_but_not_for_ever() {
    let mut account = Account::first(&look(0, probe(0, 0, 0), &v1(&[])));
    // One is dropped, and others in the same cgroup go on.
    let mut told = Vec::new();
    for kills in 1..=u64::from(PATIENCE) + 3 {
        account.seen(&kill_in(&[7]));
        let found = account.check(look(kills + 1, probe(kills + 1, 0, 1), &v1(&[(7, kills + 1)])));
        told.push(found.with_owner(Missed::Dropped) + found.without_owner.dropped);
    }
    assert_eq!((told.iter().sum::<u64>(), told.iter().position(|told| *told == 1)), (1, Some(PATIENCE as usize + 1)));
}

#[test]
fn a_kernel_without_the_nodes_counter_is_asked_by_cgroup() {
    let mut account = Account::first(&Observed { node: None, ..look(0, probe(0, 0, 0), &v1(&[(7, 1)])) });
    account.resume(probe(0, 0, 0), false);
    let observed = Observed { node: None, ..look(0, probe(0, 0, 0), &v1(&[(7, 3)])) };
    check(&settled(&mut account, &observed), &[(7, false, 2, 2, Missed::Away)], 0, 0, 0);
    check(&settled(&mut account, &observed), &[], 0, 0, 0);
}

#[test]
fn an_incomplete_look_blames_nobody() {
    let mut account = Account::first(&look(5, probe(0, 0, 0), &Cgroups { left_out: 1, ..v1(&[]) }));
    // All kills of 8 are older than the agent; it was left out then.
    check(&settled(&mut account, &look(6, probe(0, 0, 0), &v1(&[(8, 5), (9, 1)]))), &[], 0, 0, 1);
}

#[test]
fn cgroups_that_are_gone_are_forgotten_in_time() {
    let mut account = Account::first(&look(0, probe(0, 0, 0), &v1(&[])));
    let kills = FURTHER_CGROUPS as u64 + 1;
    for id in 0..kills {
        assert!(!account.wants_cgroups(), "{id}");
        account.seen(&kill_in(&[id]));
    }
    assert!(account.wants_cgroups());
    check(&settled(&mut account, &look(kills, probe(kills, 0, 0), &v1(&[(3, 1)]))), &[], 0, 0, 0);
    assert_eq!((account.cgroups.len(), account.wants_cgroups()), (1, false));
}

#[test]
fn too_many_cgroups_cost_owners_and_no_kill() {
    let mut account = Account::first(&look(0, probe(0, 0, 0), &v1(&[])));
    let kills = KNOWN_CGROUPS as u64 + 5;
    (0..kills).for_each(|id| account.seen(&kill_in(&[id])));
    assert_eq!(account.cgroups.len(), KNOWN_CGROUPS);
    assert!(account.wants_cgroups());
    // All but two are gone; of those one had a kill more.
    let left = v1(&[(3, 2), (kills - 1, 1)]);
    check(&settled(&mut account, &look(kills + 1, probe(kills, 0, 0), &left)), &[], 0, 0, 1);
    assert_eq!(account.cgroups.len(), 2, "what is gone is forgotten");
    check(
        &settled(&mut account, &look(kills + 2, probe(kills, 0, 0), &v1(&[(3, 3), (kills - 1, 1)]))),
        &[(3, false, 3, 1, Missed::Unexplained)],
        0,
        0,
        0,
    );
}
