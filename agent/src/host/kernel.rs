//! The version of the running kernel.

/// Major and minor version of a kernel.
pub type Version = (u32, u32);

/// `5.10.0-32-cloud` → (5, 10). Absent if the release does not begin with two numbers.
pub fn parse(release: &str) -> Option<Version> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// `uname -r`. Absent if /proc is not mounted.
pub fn release() -> Option<String> {
    Some(std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?.trim().to_owned())
}

/// The version of the running kernel. Absent if /proc is not mounted.
pub fn running() -> Option<Version> {
    parse(&release()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_begins_with_the_version() {
        let check = |release: &str, expected| assert_eq!(parse(release), expected, "{release}");
        check("5.10.0-32-cloud-amd64", Some((5, 10)));
        check("7.3+deb13", Some((7, 3)));
        check("six", None);
        check("6", None);
        check("", None);
        assert!(running().is_some_and(|version| version >= (4, 0)));
    }
}
