//! The spans of victims whose memory is not free yet: each waits for that, but not for ever.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use opentelemetry::KeyValue;
use opentelemetry_sdk::trace::SpanData;

use crate::record::{attributes, schema};

/// How long a span waits. The kernel's reaper takes the memory of a victim that does not give it back itself after 2 s.
pub const WAIT: Duration = Duration::from_secs(10);

/// Spans that wait at once; at the bound the oldest ends where it is.
pub const MAX_WAITING: usize = 1024;

/// When a span ends: the values of `oom_watcher.span.end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The victim's memory was free.
    MemoryFreed,
    /// It was not within [`WAIT`], or nobody waits any longer.
    Timeout,
    /// The agent read the kill: the kernel does not tell more.
    Read,
}

impl End {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::MemoryFreed, Self::Timeout, Self::Read];

    /// The value in spans.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MemoryFreed => "memory_freed",
            Self::Timeout => "timeout",
            Self::Read => "read",
        }
    }
}

/// Spans by the sequence of their kill, the oldest first.
#[derive(Debug, Default)]
pub struct Ends(VecDeque<(u64, SpanData)>);

impl Ends {
    /// A span that waits. Gives back the oldest one, ended, if there were too many.
    pub fn wait(&mut self, sequence: u64, span: SpanData, now: SystemTime) -> Option<SpanData> {
        self.0.push_back((sequence, span));
        (self.0.len() > MAX_WAITING)
            .then(|| self.0.pop_front())
            .flatten()
            .map(|(_, span)| ended(span, now, End::Timeout))
    }

    /// The span of the kill whose victim's memory was free at `time`, and how long after the kill that was.
    pub fn freed(&mut self, sequence: u64, time: SystemTime) -> Option<(SpanData, Duration)> {
        let index = self.0.iter().position(|(waiting, _)| *waiting == sequence)?;
        let (_, span) = self.0.remove(index)?;
        let took = time.duration_since(span.start_time).unwrap_or_default();
        Some((ended(span, time, End::MemoryFreed), took))
    }

    /// Those that had waited for longer than [`WAIT`] at `looked`. They end `now`.
    pub fn expired(&mut self, looked: SystemTime, now: SystemTime) -> Vec<SpanData> {
        let late = |span: &SpanData| looked.duration_since(span.start_time).is_ok_and(|age| age > WAIT);
        let count = self.0.iter().take_while(|(_, span)| late(span)).count();
        self.0.drain(..count).map(|(_, span)| ended(span, now, End::Timeout)).collect()
    }

    /// All that wait.
    pub fn give_up(&mut self, now: SystemTime) -> Vec<SpanData> {
        self.0.drain(..).map(|(_, span)| ended(span, now, End::Timeout)).collect()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The span with its end, and what that end is.
pub fn ended(mut span: SpanData, time: SystemTime, end: End) -> SpanData {
    span.end_time = time.max(span.start_time);
    span.attributes.push(KeyValue::new(schema::SPAN_END.key, end.as_str()));
    attributes::sort(&mut span.attributes);
    span
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{sample, span};

    fn waiting(pid: u32, seconds: u64) -> SpanData {
        let (kill, owner) = (sample::kill_of(pid, seconds), sample::container("app"));
        span::span(&kill, &owner, &sample::incident(&kill, &owner), "node-a")
    }

    fn told(span: &SpanData) -> (SystemTime, String) {
        let end = span.attributes.iter().find(|attribute| attribute.key.as_str() == "oom_watcher.span.end");
        (span.end_time, end.map(|end| end.value.to_string()).unwrap_or_default())
    }

    #[test]
    fn a_span_ends_when_the_memory_of_its_victim_is_free() {
        let mut ends = Ends::default();
        for sequence in 1..=3 {
            assert!(ends.wait(sequence, waiting(sequence as u32, 0), sample::time(0)).is_none());
        }
        let free = sample::time(0) + Duration::from_millis(9);
        assert_eq!(
            ends.freed(2, free).map(|(span, took)| (told(&span), took)),
            Some(((free, "memory_freed".into()), Duration::from_millis(9)))
        );
        assert!(ends.freed(2, free).is_none() && ends.freed(7, free).is_none());
        let before = sample::time(0) - Duration::from_secs(1);
        assert_eq!(
            ends.freed(1, before).map(|(span, took)| (told(&span).0, took)),
            Some((sample::time(0), Duration::ZERO)),
            "the clock was set back"
        );
    }

    #[test]
    fn nobody_waits_for_ever() {
        let mut ends = Ends::default();
        ends.wait(1, waiting(1, 0), sample::time(0));
        ends.wait(2, waiting(2, 1), sample::time(1));
        let (before, looked, now) = (sample::time(10), sample::time(11), sample::time(12));
        assert!(ends.expired(before, looked).is_empty());
        assert_eq!(ends.expired(looked, now).iter().map(told).collect::<Vec<_>>(), [(now, "timeout".to_owned())]);
        assert_eq!((ends.give_up(now).len(), ends.is_empty()), (1, true));
    }

    #[test]
    fn at_the_bound_the_oldest_ends() {
        let mut ends = Ends::default();
        let given_up = (0..=MAX_WAITING as u64)
            .filter_map(|sequence| ends.wait(sequence, waiting(sequence as u32, sequence), sample::time(9)));
        assert_eq!(given_up.map(|span| span.start_time).collect::<Vec<_>>(), [sample::time(0)]);
    }
}
