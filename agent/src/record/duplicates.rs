//! Recognises a kill that was delivered before, so that it is counted once.
//!
//! Not for ever: the last [`REMEMBERED`] kills. A kill comes twice only when a ring buffer is read again or two probes
//! overlap for a moment.

use std::collections::{HashSet, VecDeque};

use crate::kill::KillId;

/// Kills that are remembered: more than the largest ring buffer holds of the commonest size.
pub const REMEMBERED: usize = 16_384;

/// The ids of the last kills.
#[derive(Debug, Default)]
pub struct Duplicates {
    known: HashSet<KillId>,
    order: VecDeque<KillId>,
}

impl Duplicates {
    /// Whether this kill was seen before.
    pub fn knows(&self, id: KillId) -> bool {
        self.known.contains(&id)
    }

    /// The same; from now on it was.
    pub fn seen(&mut self, id: KillId) -> bool {
        if !self.known.insert(id) {
            return true;
        }
        self.order.push_back(id);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn id(number: usize) -> KillId {
        KillId(Uuid::from_u128(number as u128))
    }

    #[test]
    fn a_kill_is_new_once() {
        let mut duplicates = Duplicates::default();
        assert_eq!([1, 2, 1, 2, 3].map(|number| duplicates.seen(id(number))), [false, false, true, true, false]);
    }

    #[test]
    fn the_oldest_are_forgotten_at_the_bound() {
        let mut duplicates = Duplicates::default();
        for number in 0..=REMEMBERED {
            assert!(!duplicates.seen(id(number)));
        }
        assert_eq!((duplicates.known.len(), duplicates.order.len()), (REMEMBERED, REMEMBERED));
        assert!(duplicates.seen(id(1)) && !duplicates.seen(id(0)));
    }
}
