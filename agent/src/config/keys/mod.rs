//! The one table of settings: what each is called in the file, on the command line and in the environment, its default,
//! its values and its meaning.
//!
//! The reader of the file, the flags and `--help` work from it. The JSON schemas, the example file and the tables of
//! the documentation are written from it.

mod table;

use std::fmt;

pub use table::{KEYS, SECTIONS};

use crate::stats::Signal;

/// The file that is read if none is named. Whoever can write there owns the host, or the image, or the pod.
pub(super) const DEFAULT_FILE: &str = "/etc/oom-watcher/config.yaml";

/// The longest name of a Kubernetes object, and longer than any host's.
pub const MAX_NODE_NAME: usize = 253;

/// Labels, or annotations, of a pod that are recorded.
pub const MAX_POD_KEYS: usize = 16;

/// One setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The key in the file, sections joined with dots. Absent if a file cannot set it.
    pub file: Option<&'static str>,
    /// The flag, if there is one.
    pub flag: Option<Flag>,
    /// The variable, if there is one.
    pub variable: Option<&'static str>,
    /// Whether each signal can have a variable of its own: `OTEL_EXPORTER_OTLP_LOGS_ENDPOINT` and so on.
    pub per_signal: bool,
    /// The values it takes.
    pub kind: Kind,
    /// What applies if nothing sets it.
    pub default: Unset,
    /// What it does, in sentences without the last full stop.
    pub meaning: &'static str,
}

/// A flag of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flag {
    /// With its dashes.
    pub name: &'static str,
    /// What help calls its value.
    pub value: &'static str,
    /// The commands that use it. Others refuse it.
    pub commands: &'static [Command],
}

/// The commands that read the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are those of the commands")]
pub enum Command {
    Run,
    Check,
    Selftest,
    Detach,
    Config,
}

/// What applies if nothing sets a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unset {
    /// A value, as it would be written.
    Value(&'static str),
    /// What happens instead, in words.
    Else(&'static str),
}

/// The values of a setting. Its text completes "expected …".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The name of a node.
    Name,
    /// A choice of memory cgroups.
    NodeCgroup,
    /// An IP address and a port.
    Address,
    /// A port.
    Port,
    /// A filter of log messages.
    Filter,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// A boolean.
    Boolean,
    /// A boolean, or `auto`.
    Auto,
    /// The configuration file.
    File,
    /// A file or a directory.
    Path,
    /// A power of two, in bytes.
    Size(Bounds),
    /// A whole number.
    Number(Bounds),
    /// A duration.
    Duration(Bounds),
    /// Keys of labels or annotations.
    PodKeys,
    /// A DaemonSet.
    DaemonSet,
    /// What a specification says of the variable.
    Specified,
}

/// The smallest and the largest value, as they would be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "see above")]
pub struct Bounds {
    pub min: &'static str,
    pub max: &'static str,
}

impl Key {
    /// The names of its variables: its own, then those of the signals.
    pub fn variables(&self) -> impl Iterator<Item = String> {
        let rest = self.variable.and_then(|name| name.strip_prefix("OTEL_EXPORTER_OTLP_")).filter(|_| self.per_signal);
        let signals = rest.into_iter().flat_map(|rest| {
            Signal::ALL.map(|signal| format!("OTEL_EXPORTER_OTLP_{}_{rest}", signal.as_str().to_uppercase()))
        });
        self.variable.map(str::to_owned).into_iter().chain(signals)
    }

    /// Its default as a file would have it, if there is one.
    pub const fn written_default(&self) -> Option<&'static str> {
        match (self.kind, self.default) {
            (Kind::PodKeys, _) => Some("[]"),
            (_, Unset::Value(text)) => Some(text),
            (_, Unset::Else(_)) => None,
        }
    }
}

/// The row of a key of the file.
pub(super) fn of_file(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.file == Some(name))
}

/// The keys of the file in their order, sections joined with dots.
pub(super) fn in_file() -> impl Iterator<Item = (&'static str, &'static Key)> {
    KEYS.iter().filter_map(|key| Some((key.file?, key)))
}

impl Command {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Run, Self::Check, Self::Selftest, Self::Detach, Self::Config];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Check => "check",
            Self::Selftest => "selftest",
            Self::Detach => "detach",
            Self::Config => "config",
        }
    }
}

impl fmt::Display for Unset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(text) | Self::Else(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => write!(
                f,
                "a name of 1 to {MAX_NODE_NAME} bytes without control characters and without spaces around it"
            ),
            Self::NodeCgroup => f.write_str("auto, all, or the absolute path of a memory cgroup's directory"),
            Self::Address => f.write_str("an IP address and a port, such as 0.0.0.0:8080 or [::]:8080"),
            Self::Port => f.write_str("a port from 1 to 65535"),
            Self::Filter => f.write_str("a filter, such as info or info,oom_watcher=debug"),
            Self::OneOf([words @ .., last]) => write!(f, "{} or {last}", words.join(", ")),
            Self::OneOf([]) => f.write_str("nothing"),
            Self::Boolean => f.write_str("true or false"),
            Self::Auto => f.write_str("auto, true or false"),
            Self::File => f.write_str("the path of a YAML file, or none"),
            Self::Path => f.write_str("an absolute path, or none"),
            Self::Size(Bounds { min, max }) => write!(f, "a power of two from {min} to {max}, such as 1MiB"),
            Self::Number(Bounds { min, max }) => write!(f, "a whole number from {min} to {max}"),
            Self::Duration(Bounds { min, max }) => {
                write!(f, "a duration from {min} to {max} with the unit ms, s, m, h or d")
            }
            Self::PodKeys => write!(f, "at most {MAX_POD_KEYS} keys, such as app.kubernetes.io/name or team"),
            Self::DaemonSet => f.write_str("NAMESPACE/NAME of a DaemonSet, or none"),
            Self::Specified => f.write_str("what OpenTelemetry specifies"),
        }
    }
}
