//! Where kills come from: the kernel's BTF gives the offsets, aya loads the probe, the ring buffer delivers.

pub mod allocator;
pub mod btf;
pub mod capabilities;
pub mod cgroup_table;
pub mod counters;
pub mod denial;
pub mod event;
pub mod hierarchy;
pub mod layout;
pub mod lock;
pub mod locked_memory;
mod machine;
pub mod node;
pub mod privileged;
pub mod probe;
pub mod ring;
pub mod state;
