//! Which events may leave the kernel's memory: those whose log records need no more care. If the agent dies, the next one reads all others again.
//!
//! In the order in which they were read, which is the order in which their records are delivered.

use std::collections::VecDeque;

use crate::source::probe::Place;

/// The events that were handled and are still in a ring buffer. Bounded by what the ring buffers hold.
#[derive(Debug, Default)]
pub(super) struct Held(VecDeque<Event>);

#[derive(Debug)]
struct Event {
    place: Place,
    /// The number of its log record. `None`: it has none, or it was lost and counted.
    record: Option<u64>,
}

impl Held {
    /// An event that was handled.
    pub(super) fn add(&mut self, place: Place, record: Option<u64>) {
        self.0.push_back(Event { place, record });
    }

    /// Those that need not be kept any longer, now that all records up to `settled` are safe.
    pub(super) fn safe(&mut self, settled: u64) -> impl Iterator<Item = Place> {
        let count = self.0.iter().take_while(|event| event.record.is_none_or(|record| record <= settled)).count();
        self.0.drain(..count).map(|event| event.place)
    }

    /// The oldest, which makes room for new ones: its record is in the queue alone from now on.
    pub(super) fn oldest(&self) -> Option<Place> {
        self.0.front().map(|event| event.place)
    }

    /// Forgets the oldest.
    pub(super) fn give_up_oldest(&mut self) {
        self.0.pop_front();
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
        assert_eq!(ends(held.safe(0)), [0; 0]);
        assert_eq!(ends(held.safe(1)), [8, 16]);
        assert_eq!(held.oldest(), Some(place(24)));
        assert_eq!(ends(held.safe(2)), [24]);
        held.give_up_oldest();
        assert_eq!(ends(held.safe(2)), [40]);
        assert_eq!(held.oldest(), None);
    }
}
