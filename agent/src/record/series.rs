//! (being written) The bounded table of counts.

use std::time::Duration;

/// Bounds of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Owners that have series of their own.
    pub owners: usize,
    /// How long an owner without kills keeps its series.
    pub expiry: Duration,
}
