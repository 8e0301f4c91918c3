//! How much memory the machine has left, for kernels that do not say what a decision was about.

use crate::kill::Machine;

/// `/proc/meminfo` now. Absent if it cannot be read.
pub(super) fn machine() -> Option<Machine> {
    parse(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

/// proc_meminfo(5): `MemTotal:       24582608 kB`
fn parse(meminfo: &str) -> Option<Machine> {
    let bytes = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(Machine { total: bytes("MemTotal")?, available: bytes("MemAvailable")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_figures_are_needed() {
        let check = |text: &str, expected: Option<(u64, u64)>| {
            assert_eq!(parse(text).map(|machine| (machine.total, machine.available)), expected, "{text}")
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
