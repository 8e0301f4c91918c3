//! Ring "collector": the real OpenTelemetry Collector, built from `otel-collector/builder.yaml`, with the
//! configurations of `otel-collector/`, between the agent with real kills and a receiver in this process that stands
//! for all back ends. Those themselves are in the ring "stack".

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod outages;
mod parts;
mod way;
