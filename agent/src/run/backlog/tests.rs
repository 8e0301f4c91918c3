//! Who waits, who goes past, and what may leave the kernel's memory meanwhile.

use std::time::Duration;

use super::*;
use crate::kill::{Decision, KillId};
use crate::record::sample;
use crate::source::ring::Position;

const RING: u32 = 1;

fn place(end: u64) -> Place {
    Place { ring: RING, end: Position(end) }
}

/// A kill of a decision of its own.
fn admitted(sequence: u64) -> Admitted {
    let mut kill = sample::kill_of(sequence as u32, 0);
    kill.sequence = sequence;
    kill.decision = Some(decision(sequence));
    Admitted { kill: Box::new(kill), place: place(sequence * 8), is_counted: false }
}

fn decision(number: u64) -> Decision {
    Decision { number, limit: None, constraint: None, order: None, by_hand: false, gfp_mask: 0 }
}

fn sequences(ready: &[Ready]) -> Vec<u64> {
    ready.iter().map(|ready| ready.waiting.admitted.kill.sequence).collect()
}

fn ends(places: impl Iterator<Item = Place>) -> Vec<u64> {
    places.map(|place| place.end.0).collect()
}

/// The kills of these pods, from sequence 1 on, wait for a second each, the first one longest.
fn waiting(pods: &[&str]) -> Backlog {
    let mut backlog = Backlog::default();
    for (sequence, pod) in (1..).zip(pods) {
        let until = Instant::now() + Duration::from_secs(sequence);
        backlog.wait(admitted(sequence), Some((*pod).to_owned()), until);
    }
    backlog
}

#[test]
fn an_event_stays_for_its_record_and_for_those_before_it() {
    let mut backlog = Backlog::default();
    for (end, record) in [(8, Some(1)), (16, None), (24, Some(2)), (32, Some(3)), (40, None)] {
        backlog.add(place(end), record);
    }
    assert_eq!(ends(backlog.safe(9)), [0; 0], "none is saved");
    backlog.saved();
    backlog.add(place(48), None);
    assert_eq!(ends(backlog.safe(0)), [0; 0]);
    assert_eq!(ends(backlog.safe(1)), [8, 16]);
    assert_eq!(backlog.oldest(), Some(place(24)));
    assert_eq!(ends(backlog.safe(2)), [24]);
    backlog.forget_oldest();
    assert_eq!(ends(backlog.safe(2)), [40], "the last one is not saved");
    backlog.saved();
    assert_eq!(ends(backlog.safe(2)), [48]);
    assert_eq!(backlog.oldest(), None);
}

#[test]
fn an_event_stays_behind_one_that_waits_though_its_kill_went_past() {
    let mut backlog = waiting(&["a"]);
    backlog.add(place(16), None);
    backlog.saved();
    assert_eq!(ends(backlog.safe(9)), [0; 0]);
    let [ready] = &backlog.take(|_| true)[..] else { unreachable!("one waits") };
    backlog.handled(ready, Some(4));
    assert_eq!(ends(backlog.safe(9)), [0; 0], "it is not saved");
    backlog.saved();
    assert_eq!(ends(backlog.safe(3)), [0; 0]);
    assert_eq!(ends(backlog.safe(4)), [8, 16]);
}

#[tokio::test(start_paused = true)]
async fn a_kill_waits_for_its_time_and_no_longer() {
    let (mut backlog, start) = (waiting(&["a", "b"]), Instant::now());
    assert_eq!(backlog.until(), Some(start + Duration::from_secs(1)));
    assert_eq!(sequences(&backlog.take(|waiting| waiting.is_overdue(start))), [0; 0]);
    let later = start + Duration::from_secs(1);
    assert_eq!(sequences(&backlog.take(|waiting| waiting.is_overdue(later))), [1]);
    assert_eq!(backlog.until(), Some(start + Duration::from_secs(2)));
    assert_eq!((backlog.waiting(), backlog.oldest_uncounted(RING), backlog.oldest_uncounted(9)), (1, Some(2), None));
}

#[test]
fn others_go_past_unless_they_are_of_its_pod_or_its_decision() {
    let mut backlog = waiting(&["a", "b", "a", "c"]);
    let known = |waiting: &Waiting| waiting.admitted.kill.sequence != 1;
    assert_eq!(sequences(&backlog.take(known)), [2, 4], "3 is of the same pod as 1");
    assert!(backlog.blocks(&admitted(9).kill, Some("a")));
    assert!(!backlog.blocks(&admitted(9).kill, Some("b")) && !backlog.blocks(&admitted(9).kill, None));
    let mut same = admitted(9);
    same.kill.decision = Some(decision(3));
    assert!(backlog.blocks(&same.kill, Some("d")));
    backlog.wait(same, Some("d".to_owned()), Instant::now());
    assert_eq!(sequences(&backlog.take(known)), [0; 0], "9 is of the same decision as 3");
    assert_eq!(sequences(&backlog.take(|_| true)), [1, 3, 9]);
}

#[tokio::test(start_paused = true)]
async fn a_known_kill_goes_with_the_one_that_it_stayed_behind() {
    let (mut backlog, later) = (waiting(&["a", "a", "a"]), Instant::now() + Duration::from_secs(1));
    let known = |waiting: &Waiting| waiting.admitted.kill.sequence == 2;
    assert_eq!(sequences(&backlog.take(known)), [0; 0]);
    // The first one has waited for long enough, 3 has neither.
    assert_eq!(sequences(&backlog.take(|waiting| waiting.is_overdue(later) || known(waiting))), [1, 2]);
}

#[test]
fn what_waits_is_bounded() {
    let mut backlog = Backlog::default();
    let until = Instant::now() + Duration::from_secs(3600);
    (0..=MAX_WAITING as u64).for_each(|number| backlog.wait(admitted(number), None, until));
    assert!(backlog.until() <= Some(Instant::now()), "one is too many");
    assert_eq!(sequences(&backlog.take(|_| false)), [0]);
    assert_eq!((backlog.until(), sequences(&backlog.take(|_| false))), (Some(until), vec![]));
}

#[test]
fn the_end_of_a_victim_is_noted_where_its_kill_waits() {
    let (mut backlog, time) = (waiting(&["a"]), sample::time(1));
    assert!(!backlog.freed(RING, 2, time) && !backlog.freed(9, 1, time) && backlog.freed(RING, 1, time));
    assert_eq!(backlog.take_front().map(|ready| ready.waiting.freed), Some(Some(time)));
    assert!(backlog.take_front().is_none() && !backlog.freed(RING, 1, time));
}

#[test]
fn what_an_earlier_agent_has_counted_is_not_uncounted() {
    let mut backlog = Backlog::default();
    let counted = Admitted { is_counted: true, ..admitted(1) };
    let id: KillId = admitted(2).kill.id;
    backlog.wait(counted, None, Instant::now());
    backlog.wait(admitted(2), None, Instant::now());
    assert_eq!(backlog.uncounted().map(|admitted| admitted.kill.id).collect::<Vec<_>>(), [id]);
    assert_eq!((backlog.oldest_uncounted(RING), backlog.waiting()), (Some(2), 2));
    assert_eq!(backlog.take_oldest(RING).map(|ready| ready.waiting.admitted.is_counted), Some(true));
}
