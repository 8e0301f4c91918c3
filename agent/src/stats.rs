//! What the agent counts about itself. Written by every stage, read by the metrics callbacks.
//!
//! Plain atomics without order between them: each number is right by itself, two of them may be of slightly different moments.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::kill::Why;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Level(AtomicU64);

impl Level {
    /// Sets it.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The signals of OpenTelemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// Log records.
    Logs,
    /// Spans.
    Traces,
    /// Data points.
    Metrics,
}

impl Signal {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Logs, Self::Traces, Self::Metrics];

    /// The value in metrics and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Traces => "traces",
            Self::Metrics => "metrics",
        }
    }
}

/// What became of the items of one signal.
#[derive(Debug, Default)]
pub struct Export {
    /// Items (records, spans, data points) that the collector took.
    pub sent: Count,
    /// Requests that failed and are, or were, tried again.
    pub failures: Count,
    /// Items lost because the queue was full.
    pub lost_queue_full: Count,
    /// Items lost because the collector refused them for good.
    pub lost_rejected: Count,
    /// Items still waiting when the agent ended.
    pub lost_shutdown: Count,
    /// Items waiting now.
    pub queued: Level,
}

/// Everything that is counted. One per agent.
#[derive(Debug, Default)]
pub struct Stats {
    /// Kills that reached the agent.
    pub kills: Count,
    /// Kills the probe saw whose events found no room in the ring buffer.
    pub ring_full: Level,
    /// Marks of dying tasks that were not killed.
    pub marks_without_kill: Level,
    /// The kernel's own SIGKILLs that were no OOM kills, none of the three below.
    pub signals_without_mark: Level,
    /// Victims met again by the decision that killed them: the kernel counts them twice.
    pub repeated: Level,
    /// Processes that shared their memory with a victim.
    pub shared_memory: Level,
    /// Processes that a dying first process of a pid namespace took along.
    pub collateral: Level,
    /// Events that were not of the expected form.
    pub malformed_events: Count,
    /// The same kill delivered again.
    pub duplicates: Count,
    /// Whether the probe is attached.
    pub attached: AtomicBool,
    /// The log records' way out.
    pub logs: Export,
    /// The spans' way out.
    pub traces: Export,
    /// The data points' way out.
    pub metrics: Export,
    /// Connections to `/metrics` refused because too many were open.
    pub connections_refused: Count,
    /// Lines of the agent's own log that were left out because nobody read standard error.
    pub log_lines_lost: Count,
    without_owner: [Count; Why::ALL.len()],
}

impl Stats {
    /// The way out of one signal.
    pub fn export(&self, signal: Signal) -> &Export {
        match signal {
            Signal::Logs => &self.logs,
            Signal::Traces => &self.traces,
            Signal::Metrics => &self.metrics,
        }
    }

    /// Counts a kill whose owner is not known.
    pub fn count_without_owner(&self, why: Why) {
        if let Some((count, _)) = self.without_owner.iter().zip(Why::ALL).find(|(_, reason)| *reason == why) {
            count.add(1);
        }
    }

    /// Kills whose owner is not known, by reason; each reason is there from the start.
    pub fn without_owner(&self) -> BTreeMap<Why, u64> {
        Why::ALL.into_iter().zip(self.without_owner.iter().map(Count::get)).collect()
    }

    /// All kills on this node since the probe was attached: those that reached the agent, those that found no room in the ring buffer, and those whose
    /// events were not understood.
    pub fn node_kills(&self) -> u64 {
        self.kills.get() + self.ring_full.get() + self.malformed_events.get()
    }
}
