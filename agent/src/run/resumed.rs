//! What the books begin with: nothing, or what the last agent on this node has saved, as far as it still holds.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::Origin;
use super::counts::{kernel_counts, probe_counts};
use crate::cgroups::hierarchy::Hierarchy;
use crate::reconcile::{Account, Observed, ProbeCounts};
use crate::record::series::Table;
use crate::state::{Handled, Loaded, State};
use crate::stats::{Dropped, Stats};

/// What of the books comes from the agent before.
pub(super) struct Resumed {
    pub(super) account: Account,
    pub(super) begun: u64,
    pub(super) handled: BTreeMap<u32, Handled>,
    pub(super) complete: Option<SystemTime>,
}

impl Resumed {
    /// There was none: what was killed before is not ours to report.
    pub(super) fn first(cgroups: Option<&Hierarchy>, origin: &Origin, stats: &Stats) -> Self {
        let observed = Observed { probe: probe_counts(&origin.counted, stats), ..kernel_counts(cgroups) };
        stats.kernel_kills.set(observed.node);
        Self {
            account: Account::first(&observed),
            begun: observed.probe.confirmed,
            handled: BTreeMap::new(),
            complete: Some(SystemTime::now()),
        }
    }

    /// The statistics and the table of series go on with what was saved, too.
    pub(super) fn after(loaded: Loaded, origin: &Origin, stats: &Stats, table: &mut Table) -> Self {
        let Loaded { mut state, this_boot } = loaded;
        stats.restore(&state.counted, dropped(&state, this_boot, origin));
        table.restore(std::mem::take(&mut state.series), SystemTime::now());
        let detached = |ring: u32| origin.detached.iter().find(|(detached, _)| *detached == ring);
        // A new probe may have seen kills since it was attached: they are as good as any later one. So are those of one
        // whose agent ended before it had saved anything, and left the state to the probe before it.
        let is_in_no_state = origin.is_new || this_boot && detached(state.probe).is_some();
        let before = if is_in_no_state { ProbeCounts::default() } else { probe_counts(&origin.counted, stats) };
        let begun = before.confirmed;
        let mut account = state.account;
        if !this_boot {
            account.after_boot(before);
            return Self { account, begun, handled: BTreeMap::new(), complete: None };
        }
        let is_readable = |ring: u32| ring == origin.ring || detached(ring).is_some();
        let mut handled = state.handled;
        let waiting = |handled: &BTreeMap<u32, Handled>| handled.values().map(Handled::waiting).sum::<u64>();
        let waited = waiting(&handled);
        // Of the others there is nothing more to read.
        handled.retain(|ring, _| is_readable(*ring));
        match detached(state.probe) {
            Some((_, counted)) => account.hand_over(probe_counts(counted, stats), before),
            None if state.probe == origin.ring => account.resume(before, true),
            None => {
                // Another agent had the node last, with a probe of its own. Which of the kills that wait here it has
                // counted nobody knows: all since its state are found in the kernel's counters, and their records tell
                // more of them.
                let detached = origin.detached.iter().map(|(ring, counted)| (*ring, counted.kills));
                let all = detached.chain([(origin.ring, before.confirmed)]);
                handled.extend(all.map(|(ring, confirmed)| (ring, Handled::through(confirmed))));
                account.resume(before, false);
            }
        }
        account.lost(waited.saturating_sub(waiting(&handled)));
        Self { account, begun, handled, complete: Some(state.saved) }
    }
}

/// The kills without room in a ring buffer that the state has, and those since.
fn dropped(state: &State, this_boot: bool, origin: &Origin) -> Dropped {
    let saved = state.counted.ring_full.unwrap_or(state.account.dropped());
    let detached = origin.detached.iter().find(|(ring, _)| *ring == state.probe);
    match detached {
        _ if !this_boot => Dropped::default(),
        Some((_, counted)) => Dropped { before: 0, since: counted.ring_full.saturating_sub(saved) },
        None if state.probe == origin.ring => Dropped { before: saved.min(origin.counted.ring_full), since: 0 },
        // Another agent had the node last: what it has counted is in the kernel's counters.
        None => Dropped { before: origin.counted.ring_full, since: 0 },
    }
}
