//! Where a value was set.

use std::fmt;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag(&'static str),
    /// The environment.
    Variable(String),
    /// The configuration file.
    File {
        /// Path, line and column.
        place: String,
        /// The key with its sections, joined with dots.
        key: &'static str,
    },
    /// The two parts of `listen` from two places.
    Listen {
        /// Where the address came from.
        address: Box<Origin>,
        /// Where the port came from.
        port: Box<Origin>,
    },
    /// The host's name.
    Host,
    /// Nowhere: it is not set.
    Default,
}

/// A text that was set somewhere.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) origin: Origin,
    pub(super) text: String,
}

impl Origin {
    /// What the user called it: the beginning of a message about it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Flag(name) => (*name).to_owned(),
            Self::Variable(name) => name.clone(),
            Self::File { place, key } => format!("{place}: {key}"),
            Self::Listen { .. } => "listen".to_owned(),
            Self::Host => "the host's name".to_owned(),
            Self::Default => "default".to_owned(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "from {name}"),
            Self::Variable(name) => write!(f, "from {name}"),
            Self::File { place, .. } => write!(f, "from {place}"),
            Self::Listen { address, port } => write!(f, "address: {address}; port: {port}"),
            Self::Host => f.write_str("the host's name"),
            Self::Default => f.write_str("default"),
        }
    }
}
