//! How much memory the machine has, and has left: `/proc/meminfo`.

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meminfo {
    /// `MemTotal`.
    pub total: u64,
    /// `MemAvailable`: what could be had without swapping.
    pub available: u64,
}

/// The figures of now. Absent if /proc is not mounted, or lacks one of the two.
pub fn read() -> Option<Meminfo> {
    parse(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

/// proc_meminfo(5): `MemTotal:       24582608 kB`
fn parse(meminfo: &str) -> Option<Meminfo> {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Meminfo { total: bytes("MemTotal")?, available: bytes("MemAvailable")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_figures_are_needed() {
        let check = |text: &str, expected: Option<(u64, u64)>| {
            assert_eq!(parse(text).map(|found| (found.total, found.available)), expected, "{text}")
        };
        check(
            "MemTotal:       24582608 kB\nMemFree:        20000000 kB\nMemAvailable:   22000000 kB\n",
            Some((24_582_608 << 10, 22_000_000 << 10)),
        );
        check("MemTotal:       24582608 kB\nMemFree:        20000000 kB\n", None);
        check("MemTotal:  x kB\nMemAvailable:   1 kB\n", None);
        check("", None);
    }
}
