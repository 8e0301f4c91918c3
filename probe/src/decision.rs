//! What the kernel's own `oom_control` says of a decision: whose limit was hit, how much memory was asked for. Where
//! `oom_kill_process` can be hooked.
//!
//! The kernel decides under `oom_lock`: there is one decision at a time, and one place for it is enough.

use aya_ebpf::{macros::map, maps::Array};
use oom_watcher_shared::{OomEvent, present};

/// The decision under way, or the last one.
#[map]
pub(crate) static DECISION: Array<Decision> = Array::with_max_entries(1, 0);

#[repr(C)]
pub(crate) struct Decision {
    /// `pid_tgid` of the task that decides; 0 before the first.
    pub(crate) sender: u64,
    /// From 1.
    pub(crate) number: u64,
    pub(crate) limit_id: u64,
    pub(crate) limit_usage: u64,
    pub(crate) limit_max: u64,
    pub(crate) gfp_mask: u32,
    pub(crate) order: i32,
    pub(crate) constraint: u32,
    pub(crate) unused: u32,
}

/// Adds the decision that `sender` has made to a victim's event. Nothing if `oom_kill_process` is not hooked.
#[inline(always)]
pub(crate) unsafe fn copy(event: *mut OomEvent, sender: u64) {
    let Some(decision) = DECISION.get(0) else {
        return;
    };
    if decision.sender != sender {
        return;
    }
    // SAFETY: `event` is a map element.
    unsafe {
        (*event).present |= present::DECISION;
        (*event).decision = decision.number;
        (*event).limit_id = decision.limit_id;
        (*event).limit_usage = decision.limit_usage;
        (*event).limit_max = decision.limit_max;
        (*event).gfp_mask = decision.gfp_mask;
        (*event).order = decision.order;
        (*event).constraint = decision.constraint;
    }
}
