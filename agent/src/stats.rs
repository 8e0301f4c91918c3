//! What the agent counts about itself. Written by every stage, read by the metrics callbacks.
//!
//! Plain atomics without order between them: each number is right by itself, two of them may be of slightly different
//! moments.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::kill::{Missed, Why};

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

/// A number that may be unknown.
#[derive(Debug)]
pub struct Reading(AtomicU64);

impl Reading {
    /// No count gets there.
    const UNKNOWN: u64 = u64::MAX;

    /// Sets it.
    pub fn set(&self, n: Option<u64>) {
        self.0.store(n.unwrap_or(Self::UNKNOWN), Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|n| *n != Self::UNKNOWN)
    }
}

impl Default for Reading {
    fn default() -> Self {
        Self(AtomicU64::new(Self::UNKNOWN))
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
    /// Their bytes.
    pub queued_bytes: Level,
    /// Bytes of the files in which they are kept; 0 without a spool.
    pub spooled_bytes: Level,
    /// Attempts to write these that failed.
    pub spool_failures: Count,
}

/// Kills that nobody saw, by whether the kernel's counters tell whose they were.
#[derive(Debug, Default)]
pub struct MissedCount {
    /// They do: the kills count for their owners.
    pub reconstructed: Count,
    /// They do not.
    pub without_owner: Count,
}

impl MissedCount {
    /// Both.
    pub fn total(&self) -> u64 {
        self.reconstructed.get() + self.without_owner.get()
    }
}

/// What goes on over a restart of the agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// [`Stats::node_kills`]
    pub node_kills: u64,
    /// By [`Missed`], in its order: with an owner, without.
    pub missed: [(u64, u64); Missed::ALL.len()],
    /// [`Stats::ring_full`], which the kills of the node include. Absent in the state of an agent that did not keep it.
    #[serde(default)]
    pub ring_full: Option<u64>,
}

/// How many kills the probes had no room for when another agent saved its counts, and since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// The attached probe, until then: the kills of the node include these.
    pub before: u64,
    /// The probe that was detached for it, since then.
    pub since: u64,
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
    /// Kills on other nodes of the same kernel, and of those that the kernel counted and nobody saw the ones that no
    /// cgroup of this node tells of.
    pub other_nodes: Count,
    /// Whether there are such nodes. Set before anything is counted.
    pub shares_kernel: AtomicBool,
    /// Kills that reached the agent and wait for their container to be known.
    pub waiting_kills: Level,
    /// Pods of this node that are known from the Kubernetes API. Unknown if it is not asked.
    pub pods: Reading,
    /// Those that found no room, each time that they did not.
    pub pods_left_out: Level,
    /// Whether these are all, and changes are told.
    pub pods_synced: AtomicBool,
    /// Events that were not of the expected form.
    pub malformed_events: Count,
    /// The same kill delivered again.
    pub duplicates: Count,
    /// Whether the probe is attached.
    pub attached: AtomicBool,
    /// Whether the attached probe outlives the agent.
    pub pinned: AtomicBool,
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
    /// The kernel's own count of the node's kills since it was booted. Unknown until it is read, and where the kernel
    /// does not tell.
    pub kernel_kills: Reading,
    /// Kills of the node before this agent was started.
    earlier_kills: Count,
    missed: [MissedCount; Missed::ALL.len()],
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
        self.add_without_owner(why, 1);
    }

    /// Counts kills whose owner is not known.
    pub fn add_without_owner(&self, why: Why, kills: u64) {
        if let Some((count, _)) = self.without_owner.iter().zip(Why::ALL).find(|(_, reason)| *reason == why) {
            count.add(kills);
        }
    }

    /// Kills whose owner is not known, by reason; each reason is there from the start.
    pub fn without_owner(&self) -> BTreeMap<Why, u64> {
        Why::ALL.into_iter().zip(self.without_owner.iter().map(Count::get)).collect()
    }

    /// Kills that nobody saw, for one reason.
    pub fn missed(&self, why: Missed) -> &MissedCount {
        let [away, dropped, unexplained] = &self.missed;
        match why {
            Missed::Away => away,
            Missed::Dropped => dropped,
            Missed::Unexplained => unexplained,
        }
    }

    /// All kills on this node that the agent knows of: those that reached it, also if they wait for their container to
    /// be known, those that found no room in the ring buffer, those whose events were not understood, those that nobody
    /// saw; and with them those before a restart.
    ///
    /// Where other nodes have the same kernel: those that are known to be of this one.
    pub fn node_kills(&self) -> u64 {
        let lost = if self.shares_kernel.load(Ordering::Relaxed) {
            Missed::ALL.map(|why| self.missed(why).reconstructed.get()).iter().sum()
        } else {
            // Those that were dropped are counted already, whether their owners were found or not.
            let missed = self.missed(Missed::Away).total() + self.missed(Missed::Unexplained).total();
            self.ring_full.get() + self.malformed_events.get() + missed
        };
        self.earlier_kills.get() + self.kills.get() + lost
    }

    /// What the next agent goes on with. So many kills are counted and wait: it reads them again, and counts them then.
    pub fn keep(&self, waiting: u64) -> Kept {
        let missed =
            Missed::ALL.map(|why| (self.missed(why).reconstructed.get(), self.missed(why).without_owner.get()));
        let ring_full = Some(self.ring_full.get());
        Kept { node_kills: self.node_kills().saturating_sub(waiting), missed, ring_full }
    }

    /// Goes on with what another agent kept, before anything else is counted but [`ring_full`](Self::ring_full), which
    /// has to have its first value: of a pinned probe it includes what the other agent counted, and what was dropped
    /// since.
    pub fn restore(&self, kept: &Kept, dropped: Dropped) {
        for (why, (reconstructed, without_owner)) in Missed::ALL.into_iter().zip(kept.missed) {
            self.missed(why).reconstructed.add(reconstructed);
            self.missed(why).without_owner.add(without_owner);
        }
        // On a shared kernel nobody knows whose they were: they are not among the node's.
        let (counted, dropped) = match self.shares_kernel.load(Ordering::Relaxed) {
            true => (0, Dropped::default()),
            false => (self.ring_full.get(), dropped),
        };
        let included = self.node_kills().saturating_sub(counted).saturating_add(dropped.before);
        self.earlier_kills.add(kept.node_kills.saturating_sub(included).saturating_add(dropped.since));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kills_of_a_node_go_on_over_a_restart() {
        let before = Stats::default();
        before.kills.add(5);
        before.ring_full.set(2);
        before.missed(Missed::Away).reconstructed.add(3);
        before.missed(Missed::Unexplained).without_owner.add(1);
        before.missed(Missed::Dropped).reconstructed.add(2);
        assert_eq!(before.node_kills(), 11, "what was dropped counts once");

        // Of the probe that is attached: counted before, and in all; of the one before it, since; by both, since.
        for (counted, all, detached, since) in [(0, 0, 0, 0), (2, 2, 0, 0), (2, 5, 0, 3), (0, 0, 4, 4), (0, 1, 4, 5)] {
            let after = Stats::default();
            after.ring_full.set(all);
            after.restore(&before.keep(0), Dropped { before: counted, since: detached });
            assert_eq!(
                (after.node_kills(), after.missed(Missed::Away).reconstructed.get()),
                (11 + since, 3),
                "{counted} of {all} counted by a pinned probe, {detached} by another"
            );
            after.kills.add(1);
            after.missed(Missed::Away).without_owner.add(1);
            assert_eq!(after.node_kills(), 13 + since);
            assert_eq!(after.keep(0).missed, [(3, 1), (2, 0), (0, 1)]);
        }
    }

    #[test]
    fn what_nobody_saw_counts_for_a_node_that_shares_its_kernel_if_it_is_known_to_be_its_own() {
        let stats = Stats::default();
        stats.shares_kernel.store(true, Ordering::Relaxed);
        stats.kills.add(5);
        stats.ring_full.set(4);
        stats.missed(Missed::Dropped).reconstructed.add(2);
        stats.missed(Missed::Away).without_owner.add(7);
        assert_eq!(stats.node_kills(), 7);
    }

    #[test]
    fn a_reading_is_unknown_until_it_is_set() {
        let reading = Reading::default();
        assert_eq!(reading.get(), None);
        reading.set(Some(0));
        assert_eq!(reading.get(), Some(0));
        reading.set(None);
        assert_eq!(reading.get(), None);
    }
}
