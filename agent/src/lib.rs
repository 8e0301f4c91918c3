//! oom-watcher: says which container the kernel's OOM killer killed, why, and that nothing was missed.
//!
//! The modules in reading order. A module imports only from the groups above its own; modules of one group never import
//! each other, and no two files import each other (`tests/architecture/` checks it). [`run`] is the data path: read
//! it first.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`kill`] | the vocabulary: `Kill`, `Owner`, `Incident` |
//! | [`stats`] | what the agent counts about itself |
//! | [`host`] | the machine: locks on folders, the allocator, free memory, the kernel's version |
//! | [`record`] | what we write down about a kill: series, log records, spans. Pure |
//! | [`reconcile`] | what was seen against what the kernel counted. Pure |
//! | [`attribution`] | whose process it was, by its cgroup's path and by the node's pods. Pure |
//! | [`cgroups`] | this node's memory cgroups: where they are, their counters, their names by id |
//! | [`privileges`] | capabilities, the thread that has them, why something was denied |
//! | [`state`] | what outlives the agent in a file |
//! | [`export`] | how it leaves the node: OTLP, the Prometheus bridge |
//! | [`kubernetes`] | watches this node's pods |
//! | [`source`] | where kills come from: BTF, the probe, the ring buffer |
//! | [`config`] | flags, environment and file become one `Config`. The only reader of the environment |
//! | [`diagnostics`] | the agent's own log, and its spans of handling a kill |
//! | [`preflight`] | what this node allows: `oom-watcher check` |
//! | [`run`] | the data path: builds the stages, loops, drains |
//! | [`selftest`] | a real kill in a scratch cgroup, followed to the outputs |

pub mod kill;

pub mod stats;

pub mod host;

pub mod attribution;
pub mod reconcile;
pub mod record;

pub mod cgroups;

pub mod privileges;

pub mod state;

pub mod export;

pub mod kubernetes;

pub mod source;

pub mod config;

pub mod diagnostics;

pub mod preflight;
pub mod run;

pub mod selftest;
