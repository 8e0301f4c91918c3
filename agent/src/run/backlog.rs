//! Events in the order in which they were read, until they may leave the kernel's memory: their owner is known, their
//! counts are saved, their log record is safe. If the agent dies, the next one reads all others again.
//!
//! A kill whose container the Kubernetes API does not know yet waits, for a bounded time. Others go past it, unless
//! they are of the same pod or may be of the same decision: so an incident's first kill is the same for whoever reads
//! them. The kernel gets its memory back in order alone, so events behind one that waits stay there with it.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::SystemTime;

use tokio::time::Instant;

use crate::kill::Kill;
use crate::record::incident::{Decided, decided};
use crate::source::probe::Place;

/// Kills that wait at most. With more, the first is handled with what is known of it.
pub(super) const MAX_WAITING: usize = 4096;

/// A kill of this node that was not read before.
#[derive(Debug)]
pub(super) struct Admitted {
    /// The kill, with all that the kernel tells of it.
    pub(super) kill: Box<Kill>,
    /// Where its event is.
    pub(super) place: Place,
    /// Whether its owner's counts have it: an earlier agent handled it, and ended before its record was safe.
    pub(super) is_counted: bool,
}

/// The events that are in a ring buffer. Bounded by what the ring buffers hold.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    events: VecDeque<Held>,
    /// The number of the first of them: numbers go on for as long as the agent runs.
    first: u64,
    /// By the number of their event.
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Held {
    place: Place,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Waiting,
    Handled {
        /// The number of its log record. `None`: it has none, or it was lost and counted.
        record: Option<u64>,
        /// Whether it is among the counts that are saved.
        is_saved: bool,
    },
}

/// A kill that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The kill.
    pub(super) admitted: Admitted,
    /// The pod that it was in.
    pod: Option<String>,
    since: Instant,
    /// When it has waited for long enough.
    until: Instant,
    /// When the memory of its victim was free, if that was reported meanwhile.
    pub(super) freed: Option<SystemTime>,
}

/// A kill that waits no longer, to be [handled](Backlog::handled).
#[derive(Debug)]
pub(super) struct Ready {
    number: u64,
    /// The kill.
    pub(super) waiting: Waiting,
}

impl Backlog {
    /// An event that needs no more than to be saved, and its record to be safe.
    pub(super) fn add(&mut self, place: Place, record: Option<u64>) {
        self.events.push_back(Held { place, state: State::Handled { record, is_saved: false } });
    }

    /// A kill that waits until its owner is known, or `until`.
    pub(super) fn wait(&mut self, admitted: Admitted, pod: Option<String>, until: Instant) {
        let number = self.first + self.events.len() as u64;
        self.events.push_back(Held { place: admitted.place, state: State::Waiting });
        self.waiting.insert(number, Waiting { admitted, pod, since: Instant::now(), until, freed: None });
    }

    /// Whether a kill in this pod has to stay behind one that waits.
    pub(super) fn blocks(&self, kill: &Kill, pod: Option<&str>) -> bool {
        let decision = decided(kill);
        self.waiting.values().any(|waiting| {
            pod.is_some() && waiting.pod.as_deref() == pod || decided(&waiting.admitted.kill) == decision
        })
    }

    /// Takes the kills that `may_go`, and those that are too many, in the order in which they came; none goes past
    /// another one of its pod or its decision.
    pub(super) fn take(&mut self, may_go: impl Fn(&Waiting) -> bool) -> Vec<Ready> {
        let too_many = self.waiting.len().saturating_sub(MAX_WAITING);
        let (mut pods, mut decisions): (HashSet<&str>, HashSet<Decided>) = Default::default();
        let mut going = Vec::new();
        for (index, (number, waiting)) in self.waiting.iter().enumerate() {
            let (pod, decision) = (waiting.pod.as_deref(), decided(&waiting.admitted.kill));
            let is_blocked = pod.is_some_and(|pod| pods.contains(pod)) || decisions.contains(&decision);
            if index < too_many || !is_blocked && may_go(waiting) {
                going.push(*number);
            } else {
                pods.extend(pod);
                decisions.insert(decision);
            }
        }
        going.into_iter().filter_map(|number| self.remove(number)).collect()
    }

    /// Takes the kill that waits longest in one ring buffer.
    pub(super) fn take_oldest(&mut self, ring: u32) -> Option<Ready> {
        let is_in = |waiting: &Waiting| waiting.admitted.place.ring == ring;
        let (number, _) = self.waiting.iter().find(|(_, waiting)| is_in(waiting))?;
        self.remove(*number)
    }

    /// Takes the kill of the oldest event, if it waits.
    pub(super) fn take_front(&mut self) -> Option<Ready> {
        self.remove(self.first)
    }

    fn remove(&mut self, number: u64) -> Option<Ready> {
        self.waiting.remove(&number).map(|waiting| Ready { number, waiting })
    }

    /// A kill that was taken is handled, with this log record.
    pub(super) fn handled(&mut self, ready: &Ready, record: Option<u64>) {
        let index = ready.number.checked_sub(self.first).and_then(|index| usize::try_from(index).ok());
        if let Some(held) = index.and_then(|index| self.events.get_mut(index)) {
            held.state = State::Handled { record, is_saved: false };
        }
    }

    /// Notes when the memory of a victim was free. `false`: its kill does not wait.
    pub(super) fn freed(&mut self, ring: u32, sequence: u64, time: SystemTime) -> bool {
        let is_it = |admitted: &Admitted| admitted.place.ring == ring && admitted.kill.sequence == sequence;
        let found = self.waiting.values_mut().find(|waiting| is_it(&waiting.admitted));
        found.map(|waiting| waiting.freed = Some(time)).is_some()
    }

    /// When the kill that waits longest has waited for long enough: long ago if too many wait. Absent if none waits.
    pub(super) fn until(&self) -> Option<Instant> {
        let first = self.waiting.values().next()?;
        Some(if self.waiting.len() > MAX_WAITING { first.since } else { first.until })
    }

    /// The kills that wait and are among nobody's counts, in the order in which they came.
    pub(super) fn uncounted(&self) -> impl Iterator<Item = &Admitted> {
        self.waiting.values().map(|waiting| &waiting.admitted).filter(|admitted| !admitted.is_counted)
    }

    /// The [`Kill::sequence`] of the first of these in one ring buffer.
    pub(super) fn oldest_uncounted(&self, ring: u32) -> Option<u64> {
        self.uncounted().find(|admitted| admitted.place.ring == ring).map(|admitted| admitted.kill.sequence)
    }

    /// Kills that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// All that were handled so far are among the counts that are saved.
    pub(super) fn saved(&mut self) {
        for held in &mut self.events {
            if let State::Handled { is_saved, .. } = &mut held.state {
                *is_saved = true;
            }
        }
    }

    /// Takes those from the front that need not be kept, now that all records up to `acknowledged` are safe.
    pub(super) fn safe(&mut self, acknowledged: u64) -> impl Iterator<Item = Place> {
        let is_safe = |held: &&Held| match held.state {
            State::Handled { record, is_saved } => is_saved && record.is_none_or(|record| record <= acknowledged),
            State::Waiting => false,
        };
        let count = self.events.iter().take_while(is_safe).count();
        self.first += count as u64;
        self.events.drain(..count).map(|held| held.place)
    }

    /// The oldest.
    pub(super) fn oldest(&self) -> Option<Place> {
        self.events.front().map(|held| held.place)
    }

    /// Whether the oldest was handled and is among the counts that are saved.
    pub(super) fn is_oldest_saved(&self) -> bool {
        self.events.front().is_some_and(|held| matches!(held.state, State::Handled { is_saved: true, .. }))
    }

    /// Forgets the oldest, which makes room for new ones: its record is in the queue alone from now on.
    pub(super) fn forget_oldest(&mut self) {
        if self.events.pop_front().is_some() {
            self.first += 1;
        }
    }
}

impl Waiting {
    /// Whether it has waited for long enough.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.until <= now
    }
}

#[cfg(test)]
mod tests;
