//! Why the agent cannot do its job, with what to do about it.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use crate::export::prometheus;
use crate::source::probe::AttachError;

/// Why the agent cannot do its job.
#[derive(Debug)]
pub enum Failure {
    /// `/metrics` cannot be served.
    Listen(SocketAddr, io::Error),
    /// OTLP is configured in a way that cannot work.
    Export(anyhow::Error),
    /// Which cgroups are this node's cannot be told as the configuration says.
    Node(anyhow::Error),
    /// The probe is not attached.
    Attach(AttachError),
    /// Reading its events failed.
    Read(io::Error),
    /// A second signal came while the stages were drained.
    Interrupted,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) => {
                write!(f, "serving /metrics on {address}: {error}: {}", prometheus::remedy(error))
            }
            Self::Export(error) | Self::Node(error) => write!(f, "{error:#}"),
            Self::Attach(error) => write!(f, "attaching the probe: {error}"),
            Self::Read(error) => write!(f, "reading the probe's ring buffer: {error}"),
            Self::Interrupted => f.write_str("a second signal ended the agent before everything was delivered"),
        }
    }
}

impl std::error::Error for Failure {}
