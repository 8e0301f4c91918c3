//! What the kernel and the probe have counted, as the account and the statistics have it.

use crate::cgroups::counters;
use crate::cgroups::hierarchy::Hierarchy;
use crate::reconcile::{Observed, ProbeCounts};
use crate::source::probe::Counters;
use crate::stats::Stats;

/// What the kernel has counted on this node, and in these cgroups. The probe's part is left empty.
pub(super) fn kernel_counts(cgroups: Option<&Hierarchy>) -> Observed {
    let node = counters::node_kills();
    Observed { node, cgroups: cgroups.map(counters::cgroup_kills), probe: ProbeCounts::default() }
}

/// What the probe has counted.
pub(super) fn probe_counts(counted: &Counters, stats: &Stats) -> ProbeCounts {
    let dropped = counted.ring_full.saturating_add(stats.malformed_events.get());
    ProbeCounts { confirmed: counted.kills, repeated: counted.repeated, dropped }
}

/// Copies what the probe has counted to the statistics.
pub(super) fn copy_counters(counted: &Counters, stats: &Stats) {
    stats.ring_full.set(counted.ring_full);
    stats.marks_without_kill.set(counted.marks_without_kill);
    stats.signals_without_mark.set(counted.signals_without_mark);
    stats.repeated.set(counted.repeated);
    stats.shared_memory.set(counted.shared_memory);
    stats.collateral.set(counted.collateral);
}
