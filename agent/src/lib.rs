//! oom-watcher: says which container the kernel's OOM killer killed, why, and that nothing was missed.
//!
//! The modules in reading order. A module imports only from the lines above its own group; modules of one group never
//! import each other (`tests/architecture.rs` checks it). [`run`] is the data path: read it first.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`kill`] | the vocabulary: `Kill`, `Owner`, `Incident` |
//! | [`stats`] | what the agent counts about itself |
//! | [`record`] | what we write down about a kill: series, log records, spans. Pure |
//! | [`reconcile`] | what was seen against what the kernel counted. Pure |
//! | [`source`] | where kills come from: BTF, the probe, the ring buffer |
//! | [`attribution`] | whose process it was, by its cgroup's path and by the node's pods. Pure |
//! | [`export`] | how it leaves the node: OTLP, the Prometheus bridge |
//! | [`kubernetes`] | watches this node's pods |
//! | [`config`] | flags, environment and file become one `Config`. The only reader of the environment |
//! | [`diagnostics`] | the agent's own log, and its spans of handling a kill |
//! | [`preflight`] | what this node allows: `oom-watcher check` |
//! | [`run`] | the data path: builds the stages, loops, drains |
//! | [`selftest`] | a real kill in a scratch cgroup, followed to the outputs |

pub mod kill;

pub mod stats;

pub mod reconcile;
pub mod record;

pub mod attribution;
pub mod export;
pub mod source;

pub mod kubernetes;

pub mod config;

pub mod diagnostics;

pub mod preflight;
pub mod run;

pub mod selftest;
