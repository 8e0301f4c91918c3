//! Which events may leave the kernel's memory: those whose log records need no more care, and whose counts are saved.
//! If the agent dies, the next one reads all others again.
//!
//! In the order in which they were read, which is the order in which their records are delivered.

use std::collections::VecDeque;

use crate::source::probe::Place;

/// The events that were handled and are still in a ring buffer. Bounded by what the ring buffers hold.
#[derive(Debug, Default)]
pub(super) struct Held {
    events: VecDeque<Event>,
    /// How many of them, the oldest, are among the counts that are saved.
    saved: usize,
}

#[derive(Debug)]
struct Event {
    place: Place,
    /// The number of its log record. `None`: it has none, or it was lost and counted.
    record: Option<u64>,
}

impl Held {
    /// An event that was handled.
    pub(super) fn add(&mut self, place: Place, record: Option<u64>) {
        self.events.push_back(Event { place, record });
    }

    /// All that were handled so far are among the counts that are saved.
    pub(super) fn are_saved(&mut self) {
        self.saved = self.events.len();
    }

    /// Those that need not be kept any longer, now that all records up to `settled` are safe.
    pub(super) fn safe(&mut self, settled: u64) -> impl Iterator<Item = Place> {
        let saved = self.events.iter().take(self.saved);
        let count = saved.take_while(|event| event.record.is_none_or(|record| record <= settled)).count();
        self.saved -= count;
        self.events.drain(..count).map(|event| event.place)
    }

    /// The oldest, which makes room for new ones: its record is in the queue alone from now on.
    pub(super) fn oldest(&self) -> Option<Place> {
        self.events.front().map(|event| event.place)
    }

    /// Forgets the oldest.
    pub(super) fn give_up_oldest(&mut self) {
        self.events.pop_front();
        self.saved = self.saved.saturating_sub(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::ring::Position;

    fn place(end: u64) -> Place {
        Place { ring: 1, end: Position(end) }
    }

    fn ends(places: impl Iterator<Item = Place>) -> Vec<u64> {
        places.map(|place| place.end.0).collect()
    }

    #[test]
    fn an_event_waits_for_its_record_and_for_those_before_it() {
        let mut held = Held::default();
        for (end, record) in [(8, Some(1)), (16, None), (24, Some(2)), (32, Some(3)), (40, None)] {
            held.add(place(end), record);
        }
        assert_eq!(ends(held.safe(9)), [0; 0], "none is saved");
        held.are_saved();
        held.add(place(48), None);
        assert_eq!(ends(held.safe(0)), [0; 0]);
        assert_eq!(ends(held.safe(1)), [8, 16]);
        assert_eq!(held.oldest(), Some(place(24)));
        assert_eq!(ends(held.safe(2)), [24]);
        held.give_up_oldest();
        assert_eq!(ends(held.safe(2)), [40], "the last one is not saved");
        held.are_saved();
        assert_eq!(ends(held.safe(2)), [48]);
        assert_eq!(held.oldest(), None);
    }
}
