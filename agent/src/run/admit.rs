//! The door for kills: what an event is, and whether it counts.
//!
//! The only place that asks on which node a kill was, whether it was read before, and whether an earlier agent has
//! counted it; and the only one that counts kills for the node.

use std::sync::Arc;
use std::time::SystemTime;

use tracing::warn;

use super::backlog::Admitted;
use super::books::{Books, Whose};
use crate::cgroups::names::CgroupNames;
use crate::cgroups::node::Node;
use crate::record::duplicates::Duplicates;
use crate::source::probe::{Event, Place};
use crate::stats::Stats;

/// What an event is.
#[derive(Debug)]
pub(super) enum Admission {
    /// A kill of this node that was not read before. It counts for the node from now on.
    Kill(Admitted),
    /// Nothing to record: a kill of another node, one that was read before, or an event that was not understood.
    Nothing {
        /// Where the event is.
        place: Place,
        /// The [sequence](crate::kill::Kill::sequence). Absent if it was not understood.
        sequence: Option<u64>,
    },
    /// The memory of a victim is free.
    Freed {
        /// The [sequence](crate::kill::Kill::sequence) of its kill.
        sequence: u64,
        /// When it was.
        time: SystemTime,
    },
}

/// What decides whether a kill counts.
#[derive(Debug)]
pub(super) struct Door {
    node: Node,
    /// Names and limits of cgroups, where the kernel refuses to have them read with the kill.
    names: Option<CgroupNames>,
    /// The ring buffer that the probe writes now: of its kills alone it reports when memory is free.
    ring: u32,
    duplicates: Duplicates,
    stats: Arc<Stats>,
}

impl Door {
    pub(super) fn new(node: Node, names: Option<CgroupNames>, ring: u32, stats: Arc<Stats>) -> Self {
        Self { node, names, ring, duplicates: Duplicates::default(), stats }
    }

    /// The ring buffer that the probe writes now.
    pub(super) fn ring(&self) -> u32 {
        self.ring
    }

    /// Says what an event is, and counts a kill for the node and in the account.
    pub(super) fn admit(&mut self, event: Event, books: &mut Books) -> Admission {
        let (mut kill, place) = match event {
            Event::Kill(Ok(kill), place) => (kill, place),
            Event::Kill(Err(error), place) => {
                self.stats.malformed_events.add(1);
                warn!(%error, "an event of the probe was not understood");
                return Admission::Nothing { place, sequence: None };
            }
            Event::Freed { sequence, time } => return Admission::Freed { sequence, time },
        };
        kill.victim.end_is_told &= place.ring == self.ring;
        if let Some(names) = &mut self.names {
            names.complete(&mut kill);
        }
        let is_own = self.node.has(&kill);
        let is_new = !self.duplicates.seen(kill.id);
        let is_counted = books.has_counted(place.ring, kill.sequence);
        self.stats.duplicates.add(u64::from(!is_new));
        self.stats.kills.add(u64::from(is_own && is_new && !is_counted));
        self.stats.other_nodes.add(u64::from(!is_own && is_new));
        if !is_counted {
            let whose = match (is_own, is_new) {
                (_, false) => Whose::Known,
                (true, true) => Whose::Own,
                (false, true) => Whose::Others,
            };
            books.see(&kill, place.ring, whose);
        }
        if is_own && is_new {
            Admission::Kill(Admitted { kill, place, is_counted })
        } else {
            Admission::Nothing { place, sequence: Some(kill.sequence) }
        }
    }
}
