//! Where kills come from: the kernel's BTF gives the offsets, aya loads the probe, the ring buffer delivers.

pub mod btf;
pub mod cgroup_table;
pub mod event;
pub mod hierarchy;
pub mod layout;
mod machine;
pub mod probe;
pub mod ring;
