//! Where kills come from: the kernel's BTF gives the offsets, aya loads the probe, the ring buffer delivers.

pub mod btf;
pub mod cgroup_table;
pub mod counters;
pub mod event;
pub mod hierarchy;
pub mod layout;
pub mod lock;
mod machine;
pub mod probe;
pub mod ring;
pub mod state;
