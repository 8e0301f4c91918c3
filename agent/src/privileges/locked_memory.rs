//! The limit of locked memory (`ulimit -l`), to which kernels before 5.11 charge maps. Newer ones charge them to the
//! memory cgroup, and nothing is to be done: "bpf: Eliminate rlimit-based memory accounting", December 2020.

use std::io;

use crate::host::kernel::Version;

/// The first kernel that does not charge maps to this limit.
const CHARGES_NO_MORE: Version = (5, 11);
/// What the probe's maps take besides the ring buffer: the places of pending kills, one for each CPU, are the most of
/// it.
const BESIDES_THE_RING: u64 = 3 << 20;

/// Whether the maps are charged to the limit. A kernel of unknown version is taken for a newer one.
pub fn is_charged(kernel: Option<Version>) -> bool {
    kernel.is_some_and(|version| version < CHARGES_NO_MORE)
}

/// Bytes that have to be allowed for a ring buffer of so many.
pub fn needed(ring_bytes: u32) -> u64 {
    BESIDES_THE_RING + u64::from(ring_bytes)
}

/// Bytes that this process may allow itself without `CAP_SYS_RESOURCE`: the hard limit. Absent if unlimited.
pub fn limit() -> Option<u64> {
    get().ok().map(|limit| limit.rlim_max).filter(|limit| *limit != libc::RLIM_INFINITY)
}

/// Allows this process as much as it may: the hard limit, and no limit at all with `CAP_SYS_RESOURCE` in effect.
///
/// # Errors
/// A seccomp filter refuses it.
pub fn raise() -> io::Result<()> {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    set(unlimited).or_else(|_| {
        let limit = get()?;
        set(libc::rlimit { rlim_cur: limit.rlim_max, ..limit })
    })
}

fn get() -> io::Result<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives the call.
    let done = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    if done == 0 { Ok(limit) } else { Err(io::Error::last_os_error()) }
}

fn set(limit: libc::rlimit) -> io::Result<()> {
    // SAFETY: `limit` outlives the call.
    let done = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::kernel;

    #[test]
    fn only_kernels_before_5_11_charge_maps_to_the_limit() {
        let check =
            |release: &str, expected: bool| assert_eq!(is_charged(kernel::parse(release)), expected, "{release}");
        check("5.10.0-32-cloud-amd64", true);
        check("4.19.0", true);
        check("5.11.0", false);
        check("7.3+deb13", false);
        check("six", false);
    }
}
