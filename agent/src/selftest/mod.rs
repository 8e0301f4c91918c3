//! A real kill in a scratch cgroup, followed to the outputs.

pub mod scratch;
