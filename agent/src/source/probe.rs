//! (being written) Loads and attaches the probe, reads its ring buffer.

/// What the probe is loaded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Size of the ring buffer in bytes: a power of two and a multiple of the page size.
    pub ring_bytes: u32,
}
