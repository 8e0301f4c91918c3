//! The findings about what this process may do: capabilities, what makes them ineffective, and the limit of locked
//! memory.

use super::{Finding, Seen, Verdict, finding};
use crate::privileges::capabilities::{CAP_BPF, CAP_PERFMON};
use crate::privileges::denial::Denial;
use crate::privileges::locked_memory;

/// Whether the kernel lets it load the probe, as far as can be known beforehand.
pub(super) fn capabilities(seen: &Seen) -> Finding {
    let Some(standing) = &seen.standing else {
        return finding("capabilities", Verdict::Degraded, "cannot be read from /proc/thread-self/status")
            .or_else("mount /proc");
    };
    let denial = standing.denial(seen.ring_bytes);
    match denial {
        Denial::Missing(_) | Denial::UserNamespace | Denial::Filter => {
            finding("capabilities", Verdict::Fail, denial.problem()).or_else(denial.remedy())
        }
        // The first is a finding of its own; whether the others refuse anything, the attempt to attach tells.
        Denial::LockedMemory | Denial::SeLinux(_) | Denial::AppArmor(_) | Denial::Unknown => {
            let own = standing.permitted.has(CAP_BPF) && standing.permitted.has(CAP_PERFMON);
            let found =
                if own { "CAP_BPF, CAP_PERFMON" } else { "CAP_SYS_ADMIN, which stands for CAP_BPF and CAP_PERFMON" };
            finding("capabilities", Verdict::Pass, format!("{found} of user {}", standing.user))
        }
    }
}

/// Whether the maps find room below the limit of locked memory.
pub(super) fn locked_memory(seen: &Seen) -> Finding {
    let Some(standing) = &seen.standing else {
        return finding("memlock", Verdict::Pass, "cannot be told; the attempt to attach tells");
    };
    let needed = locked_memory::needed(seen.ring_bytes) >> 10;
    match standing.memlock {
        None => finding("memlock", Verdict::Pass, "unlimited"),
        Some(_) if !locked_memory::is_charged(standing.kernel) => {
            finding("memlock", Verdict::Pass, "not charged for maps by this kernel")
        }
        Some(limit) if standing.lacks_memory(seen.ring_bytes) => finding(
            "memlock",
            Verdict::Fail,
            format!("{} KiB may be locked, and this kernel charges {needed} KiB of maps to that", limit >> 10),
        )
        .or_else(Denial::LockedMemory.remedy()),
        Some(limit) => {
            finding("memlock", Verdict::Pass, format!("{} KiB, enough or raised by CAP_SYS_RESOURCE", limit >> 10))
        }
    }
}
