//! How it leaves the node: log records, spans and data points over OTLP, and a Prometheus bridge on `/metrics`.

pub mod instruments;
pub mod otlp;
pub mod prometheus;
pub mod queue;
pub mod settings;
pub mod spool;
