//! What waits until the Kubernetes API knows the container of a kill: an id reaches the status of its pod a moment
//! after the container has started.
//!
//! In order: what the probe tells behind such a kill waits with it, and for no longer. So the events leave the ring
//! buffer in the order in which they came, and a state that is saved has handled all before a certain one, and none
//! behind it.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::kill::KillId;
use crate::source::probe::Told;

/// What waits at most. With more, the first go on with what is known of them.
const MAX_WAITING: usize = 4096;

/// What was told and is not handled.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    queue: VecDeque<(Instant, Waits)>,
    /// Of the kills among them.
    ids: HashSet<KillId>,
    /// When the first came since there was nothing.
    since: Option<Instant>,
}

/// What waits.
#[derive(Debug)]
pub(super) struct Waits {
    /// What it is.
    pub(super) told: Told,
    /// A kill that counts for the node already.
    pub(super) counted: bool,
}

impl Waiting {
    /// Puts it behind all others. It waits until `until` at the latest.
    pub(super) fn push(&mut self, waits: Waits, until: Instant) {
        if self.queue.is_empty() {
            self.since = Some(Instant::now());
        }
        self.ids.extend(id(&waits.told));
        self.queue.push_back((until, waits));
    }

    /// Whether that kill waits.
    pub(super) fn has(&self, kill: KillId) -> bool {
        self.ids.contains(&kill)
    }

    /// The first, if it is known (`is_whole`) or has waited for long enough.
    pub(super) fn next(&mut self, is_whole: impl FnOnce(&Told) -> bool, now: Instant) -> Option<Waits> {
        let is_full = self.queue.len() > MAX_WAITING;
        let (until, waits) = self.queue.front()?;
        if is_full || *until <= now || is_whole(&waits.told) { self.give_up() } else { None }
    }

    /// The first, whatever is known of it.
    pub(super) fn give_up(&mut self) -> Option<Waits> {
        let (_, waits) = self.queue.pop_front()?;
        if let Some(id) = id(&waits.told) {
            self.ids.remove(&id);
        }
        Some(waits)
    }

    /// When the first has waited for long enough. Absent if nothing waits.
    pub(super) fn until(&self) -> Option<Instant> {
        self.queue.front().map(|(until, _)| *until)
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether something has waited all the time for as long as this, one thing after the other.
    pub(super) fn has_lasted(&self, long: Duration) -> bool {
        !self.queue.is_empty() && self.since.is_some_and(|since| since.elapsed() >= long)
    }

    /// Kills that wait.
    pub(super) fn kills(&self) -> usize {
        self.ids.len()
    }
}

fn id(told: &Told) -> Option<KillId> {
    match told {
        Told::Kill(Ok(kill), _) => Some(kill.id),
        Told::Kill(Err(_), _) | Told::Freed { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(sequence: u64) -> Waits {
        Waits { told: Told::Freed { sequence, time: std::time::SystemTime::UNIX_EPOCH }, counted: false }
    }

    fn sequence(waits: Option<Waits>) -> Option<u64> {
        match waits?.told {
            Told::Freed { sequence, .. } => Some(sequence),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_goes_when_it_is_known_or_has_waited_and_the_others_behind_it() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut waiting = Waiting::default();
        for number in 1..=3 {
            waiting.push(told(number), start + second * 5);
            tokio::time::advance(second).await;
        }
        assert_eq!(sequence(waiting.next(|_| false, Instant::now())), None);
        assert_eq!(sequence(waiting.next(|_| true, Instant::now())), Some(1));
        assert_eq!(waiting.until(), Some(start + second * 5));
        assert!(waiting.has_lasted(second * 3) && !waiting.has_lasted(second * 4));
        assert_eq!(sequence(waiting.next(|_| false, start + second * 5)), Some(2));
        assert_eq!((sequence(waiting.give_up()), sequence(waiting.give_up())), (Some(3), None));
        assert!(!waiting.has_lasted(Duration::ZERO));
    }

    #[tokio::test]
    async fn what_waits_is_bounded() {
        let mut waiting = Waiting::default();
        let until = Instant::now() + Duration::from_secs(3600);
        (0..=MAX_WAITING as u64).for_each(|number| waiting.push(told(number), until));
        assert_eq!(sequence(waiting.next(|_| false, Instant::now())), Some(0));
        assert_eq!(sequence(waiting.next(|_| false, Instant::now())), None);
    }
}
