//! What leaves the node, on the wire: OTLP over real connections on loopback, and `/metrics` as a client reads it.
#![expect(clippy::panic, clippy::unwrap_used, reason = "a failed test panics")]

mod http;
mod metrics;
mod otlp;
mod page;
mod setup;
mod spool;
mod tls;
