//! Where kills come from: the kernel's BTF gives the offsets, aya loads the probe, the ring buffer delivers.

pub mod btf;
pub mod capabilities;
pub mod denial;
pub mod event;
pub mod hierarchy;
pub mod layout;
pub mod locked_memory;
pub mod privileged;
pub mod probe;
