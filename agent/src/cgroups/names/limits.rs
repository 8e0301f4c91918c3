//! The limits of a cgroup as its files say now. What a cgroup uses is not read: right after a kill that is another
//! number.

use std::fs::File;

use super::directory;
use crate::cgroups::hierarchy::Version;
use crate::kill::Cgroup;

/// A limit of this many bytes or more is none: version 1 writes "no limit" as the greatest multiple of the page size
/// below 2^63.
const NO_LIMIT: u64 = i64::MAX as u64 - (1 << 20);

/// Fills in what is absent, except for what cannot be read: the cgroup may have been removed by now.
///
/// `is_root`: it is the root of the hierarchy, which has no limit and, with version 2, none of the files.
pub(super) fn fill(cgroup: &mut Cgroup, directory: &File, version: Version, is_root: bool) {
    let read = |file: &str| directory::read(directory, file).as_deref().and_then(limit);
    let (memory, swap) = match version {
        _ if is_root => (Some(None), None),
        Version::V1 => (read("memory.limit_in_bytes"), read("memory.memsw.limit_in_bytes")),
        Version::V2 => (read("memory.max"), read("memory.swap.max")),
    };
    if !cgroup.limit_known
        && let Some(memory) = memory
    {
        (cgroup.limit, cgroup.limit_known) = (memory, true);
    }
    cgroup.swap_limit = cgroup.swap_limit.or(swap.flatten());
    cgroup.oom_group = cgroup.oom_group.or_else(|| match version {
        // It has no such file, and the kernel heeds no such setting there: `mem_cgroup_get_oom_group`, mm/memcontrol.c.
        Version::V1 => Some(false),
        Version::V2 if is_root => Some(false),
        Version::V2 => directory::read(directory, "memory.oom.group").as_deref().and_then(flag),
    });
}

/// A number of bytes, or no limit. Absent if it is neither.
fn limit(text: &str) -> Option<Option<u64>> {
    match text.trim() {
        "max" => Some(None),
        number => number.parse().ok().map(|bytes| Some(bytes).filter(|&bytes| bytes < NO_LIMIT)),
    }
}

fn flag(text: &str) -> Option<bool> {
    match text.trim() {
        "0" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use super::*;

    fn unknown() -> Cgroup {
        Cgroup { id: Some(2), ..Cgroup::default() }
    }

    /// What is known of a cgroup with these files: limit and whether it is known, swap limit, oom_group.
    fn check(
        files: &[(&str, &str)],
        version: Version,
        is_root: bool,
        expected: (Option<u64>, bool, Option<u64>, Option<bool>),
    ) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let mut cgroup = unknown();
        fill(&mut cgroup, &File::open(folder.path()).unwrap(), version, is_root);
        assert_eq!((cgroup.limit, cgroup.limit_known, cgroup.swap_limit, cgroup.oom_group), expected, "{files:?}");
        assert_eq!((cgroup.usage, cgroup.swap_usage), (None, None));
    }

    #[test]
    fn limits_are_what_the_files_say() {
        let v2 = [
            ("memory.max", "4194304\n"),
            ("memory.swap.max", "0\n"),
            ("memory.oom.group", "1\n"),
            ("memory.current", "77\n"),
        ];
        check(&v2, Version::V2, false, (Some(4 << 20), true, Some(0), Some(true)));
        check(
            &[("memory.max", "max\n"), ("memory.oom.group", "0\n")],
            Version::V2,
            false,
            (None, true, None, Some(false)),
        );
        let v1 = [("memory.limit_in_bytes", "4194304\n"), ("memory.memsw.limit_in_bytes", "9223372036854771712\n")];
        check(&v1, Version::V1, false, (Some(4 << 20), true, None, Some(false)));
        check(
            &[("memory.limit_in_bytes", "9223372036854710272\n")],
            Version::V1,
            false,
            (None, true, None, Some(false)),
        );
    }

    #[test]
    fn what_cannot_be_read_stays_unknown() {
        check(&[], Version::V2, false, (None, false, None, None));
        check(&[("memory.max", "a lot\n"), ("memory.oom.group", "2\n")], Version::V2, false, (None, false, None, None));
    }

    #[test]
    fn the_root_has_no_limit_and_no_files() {
        check(&[], Version::V2, true, (None, true, None, Some(false)));
    }

    #[test]
    fn what_the_kernel_told_stays() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("memory.max"), "1\n").unwrap();
        let mut cgroup = Cgroup {
            limit: Some(5),
            limit_known: true,
            swap_limit: Some(6),
            oom_group: Some(true),
            usage: Some(7),
            ..unknown()
        };
        let told = cgroup.clone();
        fill(&mut cgroup, &File::open(folder.path()).unwrap(), Version::V2, false);
        assert_eq!(cgroup, told);
    }
}
