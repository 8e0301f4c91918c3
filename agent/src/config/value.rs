//! The texts of single values become types. Pure; each parser says what it expected.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::keys::{Bounds, Kind, MAX_NODE_NAME, MAX_POD_KEYS};
use super::problem::{Refused, quoted};
use super::yaml;
use crate::cgroups::node::Choice;
use crate::export::settings::Protocol;
use crate::kubernetes::settings::Name;

/// How the agent's own messages look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lines for people.
    Human,
    /// One JSON object per line.
    Json,
}

/// A duration that is shown as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

/// A number of bytes that is shown as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Size(pub(super) u32);

/// A place in the file system, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Directory(pub(super) Option<PathBuf>);

/// A DaemonSet, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OwnDaemonSet(pub(super) Option<Name>);

/// Which memory cgroups are this node's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeCgroup(pub(super) Choice);

pub(super) fn node_cgroup(text: &str) -> Result<NodeCgroup, Refused> {
    match text {
        "auto" => Ok(NodeCgroup(Choice::Auto)),
        "all" => Ok(NodeCgroup(Choice::All)),
        _ if text.starts_with('/') && !text.contains('\0') => Ok(NodeCgroup(Choice::Below(PathBuf::from(text)))),
        _ => Err(Kind::NodeCgroup.into()),
    }
}

pub(super) fn port(text: &str) -> Result<u16, Refused> {
    match text.parse() {
        // `parse` takes a plus sign.
        Ok(port) if port != 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Ok(port),
        _ if text.starts_with("tcp://") => Err(format!(
            "{}; Kubernetes sets this for a Service of that name unless the pod has `enableServiceLinks: false`",
            Kind::Port
        )
        .into()),
        _ => Err(Kind::Port.into()),
    }
}

/// Whether pods are watched; absent: as it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Watched(pub(super) Option<bool>);

pub(super) fn watched(text: &str) -> Result<Watched, Refused> {
    match text {
        "auto" => Ok(Watched(None)),
        "true" => Ok(Watched(Some(true))),
        "false" => Ok(Watched(Some(false))),
        _ => Err(Kind::Auto.into()),
    }
}

/// Keys of labels or annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keys(pub(super) Vec<String>);

/// The form of Kubernetes: an optional DNS name and `/`, then at most 63 letters, digits, `-`, `_` and `.`.
pub(super) fn keys(text: &str) -> Result<Keys, Refused> {
    let is_name = |name: &str| {
        (1..=63).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && [name.bytes().next(), name.bytes().next_back()]
                .into_iter()
                .flatten()
                .all(|byte| byte.is_ascii_alphanumeric())
    };
    let is_domain = |domain: &str| {
        (1..=253).contains(&domain.len())
            && domain.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
    };
    let is_key = |key: &str| {
        key.rsplit_once('/').map_or_else(|| is_name(key), |(domain, name)| is_domain(domain) && is_name(name))
    };
    let keys: Vec<String> = text.split(',').map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned).collect();
    let expected = Kind::PodKeys.to_string();
    if let Some(bad) = keys.iter().find(|key| !is_key(key)) {
        return Err(Refused { found: Some(format!("the key {}", quoted(bad))), expected });
    }
    if keys.len() > MAX_POD_KEYS {
        return Err(Refused { found: Some(format!("{} keys", keys.len())), expected });
    }
    Ok(Keys(keys))
}

/// An address with its port.
pub(super) fn address(text: &str, any_port: bool) -> Result<SocketAddr, Refused> {
    match text.parse::<SocketAddr>() {
        Ok(address) if any_port || address.port() != 0 => Ok(address),
        Ok(_) => Err(Kind::Port.into()),
        Err(_) => Err(Kind::Address.into()),
    }
}

/// An address without a port. No other name than `localhost`: names are not looked up here.
pub(super) fn ip(text: &str) -> Result<IpAddr, Refused> {
    match text {
        "localhost" => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        _ => text.parse().map_err(|_| "an IP address, such as 0.0.0.0 or ::, or localhost".into()),
    }
}

pub(super) fn node_name(text: &str) -> Result<String, Refused> {
    if text.is_empty() || text.len() > MAX_NODE_NAME || text.chars().any(char::is_control) || text.trim() != text {
        return Err(Kind::Name.into());
    }
    Ok(text.to_owned())
}

pub(super) fn log_filter(text: &str) -> Result<String, Refused> {
    match EnvFilter::builder().parse(text) {
        Ok(_) if !text.trim().is_empty() => Ok(text.to_owned()),
        _ => Err(Kind::Filter.into()),
    }
}

/// Whether any part of the filter concerns the agent: a level, or a target of ours. `RUST_LOG=inof` is a valid filter
/// for a crate called `inof`.
pub(super) fn filter_reaches_agent(filter: &str) -> bool {
    filter.split(',').map(str::trim).any(|directive| {
        directive.parse::<LevelFilter>().is_ok() || directive.starts_with("oom_watcher") || directive.starts_with('[')
    })
}

pub(super) fn number(text: &str, allowed: RangeInclusive<usize>) -> Result<usize, Refused> {
    let number = text.parse().ok().filter(|number| allowed.contains(number));
    number.ok_or_else(|| format!("a whole number from {} to {}", allowed.start(), allowed.end()).into())
}

/// [`number`] between bounds that are texts.
pub(super) fn count(text: &str, bounds: Bounds) -> Result<usize, Refused> {
    let bound = |text: &str| text.parse().ok();
    let allowed = bound(bounds.min).zip(bound(bounds.max));
    allowed.ok_or_else(|| Kind::Number(bounds).into()).and_then(|(min, max)| number(text, min..=max))
}

/// A power of two: a number of bytes, or one of `KiB` or `MiB`.
pub(super) fn size(text: &str, bounds: Bounds) -> Result<Size, Refused> {
    // If the smallest is a multiple of every page size, each greater power of two is one too.
    let allowed = |bytes: &u32| {
        bytes.is_power_of_two() && byte_count(bounds.min) <= Some(*bytes) && Some(*bytes) <= byte_count(bounds.max)
    };
    byte_count(text).filter(allowed).map(Size).ok_or_else(|| Kind::Size(bounds).into())
}

fn byte_count(text: &str) -> Option<u32> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let unit = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        _ => return None,
    };
    digits.parse::<u32>().ok()?.checked_mul(unit)
}

/// A whole number and `ms`, `s`, `m`, `h` or `d`; the bounds likewise.
pub(super) fn duration(text: &str, bounds: Bounds) -> Result<Span, Refused> {
    let allowed = |duration: &Duration| span(bounds.min) <= Some(*duration) && Some(*duration) <= span(bounds.max);
    span(text).filter(allowed).map(Span).ok_or_else(|| Kind::Duration(bounds).into())
}

/// A path from the root, or `none`: relative ones would depend on where the agent was started.
pub(super) fn directory(text: &str) -> Result<Directory, Refused> {
    match text {
        "" | "none" => Ok(Directory(None)),
        _ if text.starts_with('/') && !text.contains('\0') => Ok(Directory(Some(PathBuf::from(text)))),
        _ => Err(Kind::Path.into()),
    }
}

fn span(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let unit = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit).map(Duration::from_millis)
}

/// The agent's own DaemonSet.
pub(super) fn daemonset(text: &str) -> Result<OwnDaemonSet, Refused> {
    match text {
        "" | "none" => Ok(OwnDaemonSet(None)),
        _ => Name::parse(text).map(|name| OwnDaemonSet(Some(name))).ok_or_else(|| Kind::DaemonSet.into()),
    }
}

/// A number of milliseconds, as in the variables of OpenTelemetry.
pub(super) fn milliseconds(text: &str, allowed: RangeInclusive<u64>) -> Result<Span, Refused> {
    let number = text.parse().ok().filter(|number| allowed.contains(number));
    let expected = || format!("milliseconds, a whole number from {} to {}", allowed.start(), allowed.end()).into();
    number.map(|number| Span(Duration::from_millis(number))).ok_or_else(expected)
}

pub(super) fn boolean(text: &str) -> Result<bool, Refused> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(Kind::Boolean.into()),
    }
}

pub(super) fn protocol(text: &str) -> Result<Protocol, Refused> {
    match text.to_ascii_lowercase().as_str() {
        "grpc" => Ok(Protocol::Grpc),
        "http/protobuf" => Ok(Protocol::HttpProtobuf),
        "http/json" => Err("grpc or http/protobuf: JSON is not supported".into()),
        _ => Err("grpc or http/protobuf".into()),
    }
}

/// Whether to compress with gzip.
pub(super) fn compression(text: &str) -> Result<bool, Refused> {
    match text.to_ascii_lowercase().as_str() {
        "gzip" => Ok(true),
        "none" => Ok(false),
        _ => Err("gzip or none".into()),
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let units = [(3_600_000, "h"), (60_000, "m"), (1000, "s")];
        let (unit, name) =
            units.into_iter().find(|(unit, _)| millis != 0 && millis.is_multiple_of(*unit)).unwrap_or((1, "ms"));
        write!(f, "{}{name}", millis / unit)
    }
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            None => "auto",
            Some(true) => "true",
            Some(false) => "false",
        })
    }
}

impl fmt::Display for NodeCgroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Choice::Auto => f.write_str("auto"),
            Choice::All => f.write_str("all"),
            Choice::Below(directory) => directory.display().fmt(f),
        }
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}]", self.0.iter().map(|key| yaml::scalar(key)).collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Display for OwnDaemonSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(name) => name.fmt(f),
            None => f.write_str("none"),
        }
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(path) => path.display().fmt(f),
            None => f.write_str("none"),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes % (1 << 20) == 0 => write!(f, "{}MiB", bytes >> 20),
            bytes if bytes % (1 << 10) == 0 => write!(f, "{}KiB", bytes >> 10),
            bytes => write!(f, "{bytes}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: ToString>(parsed: Result<T, Refused>, expected: Result<&str, &str>) {
        let parsed = parsed.map(|value| value.to_string()).map_err(|refused| refused.expected);
        assert_eq!(parsed.as_deref().map_err(String::as_str), expected);
    }

    #[test]
    fn a_size_is_a_power_of_two_within_bounds() {
        let size = |text| size(text, Bounds { min: "64KiB", max: "64MiB" });
        for (text, shown) in
            [("1MiB", "1MiB"), ("65536", "64KiB"), ("64KiB", "64KiB"), ("64MiB", "64MiB"), ("1024KiB", "1MiB")]
        {
            check(size(text), Ok(shown));
        }
        for text in [
            "",
            "MiB",
            "1GiB",
            "1MB",
            "3MiB",
            "32KiB",
            "128MiB",
            "4294967296MiB",
            "-1",
            "1.5MiB",
            "1 MiB",
            "1000000000",
        ] {
            check(size(text), Err("a power of two from 64KiB to 64MiB, such as 1MiB"));
        }
    }

    #[test]
    fn a_duration_has_a_unit_and_bounds() {
        let duration = |text| duration(text, Bounds { min: "1s", max: "10m" });
        for (text, shown) in [("1s", "1s"), ("600s", "10m"), ("10m", "10m"), ("1500ms", "1500ms"), ("090s", "90s")] {
            check(duration(text), Ok(shown));
        }
        for text in [
            "",
            "10",
            "s",
            "0s",
            "999ms",
            "11m",
            "1h",
            "1h30m",
            "-1s",
            "1 s",
            "1S",
            "99999999999999999999s",
            "9999999999999999999d",
        ] {
            check(duration(text), Err("a duration from 1s to 10m with the unit ms, s, m, h or d"));
        }
        check(duration("0060s"), Ok("1m"));
        assert_eq!(Span(Duration::ZERO).to_string(), "0ms");
    }

    #[test]
    fn a_directory_is_absolute_or_none() {
        for (text, shown) in
            [("/run/x", "/run/x"), ("/", "/"), ("/sys/fs/bpf/a b", "/sys/fs/bpf/a b"), ("none", "none"), ("", "none")]
        {
            check(directory(text), Ok(shown));
        }
        for text in ["run/x", ".", "./run", "None", "~/x", "/a\0b"] {
            check(directory(text), Err("an absolute path, or none"));
        }
    }

    #[test]
    fn the_cgroups_of_the_node_are_found_or_told() {
        for text in ["auto", "all", "/sys/fs/cgroup/docker/node", "/"] {
            check(node_cgroup(text), Ok(text));
        }
        for text in ["", "none", "docker/node", "ALL", "/a\0b"] {
            check(node_cgroup(text), Err("auto, all, or the absolute path of a memory cgroup's directory"));
        }
    }

    #[test]
    fn a_count_is_within_bounds() {
        let count = |text| count(text, Bounds { min: "1", max: "100" });
        for text in ["1", "100"] {
            check(count(text), Ok(text));
        }
        for text in ["", "0", "101", "-1", "1.5", "1k"] {
            check(count(text), Err("a whole number from 1 to 100"));
        }
    }

    #[test]
    fn a_node_name_is_bounded() {
        check(node_name(&"n".repeat(253)), Ok(&"n".repeat(253)));
        assert!(node_name(&"n".repeat(254)).is_err());
        assert!(node_name("").is_err());
    }

    #[test]
    fn a_filter_without_a_level_for_the_agent_silences_it() {
        for (filter, reaches) in [
            ("info", true),
            ("WARN", true),
            ("off", true),
            ("hyper=debug, info", true),
            ("oom_watcher=debug", true),
            ("oom_watcher::export", true),
            ("[span]=info", true),
            ("inof", false),
            ("hyper=debug", false),
        ] {
            assert_eq!(filter_reaches_agent(filter), reaches, "{filter}");
            assert!(log_filter(filter).is_ok(), "{filter}");
        }
        assert!(log_filter(" ").is_err());
    }
}
