//! Ring "collector": the real OpenTelemetry Collector, built from `otel-collector/builder.yaml`, with the
//! configurations of `otel-collector/`, between the agent with real kills and a receiver in this process that stands
//! for all back ends. Those themselves are in the ring "stack".

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod outages;
mod parts;
mod way;

/// The programs, or the test is skipped; real kills are made by one test at a time.
macro_rules! needs_collector {
    ($programs:ident) => {
        let _one = oom_watcher_testkit::needs::one_at_a_time();
        if let Err(why) = oom_watcher_testkit::needs::cgroups() {
            oom_watcher_testkit::needs::skip!("{why}");
        }
        let $programs = match oom_watcher_testkit::programs::Programs::find() {
            Ok(programs) => programs,
            Err(why) => oom_watcher_testkit::needs::skip!("{why}"),
        };
    };
}
pub(crate) use needs_collector;
