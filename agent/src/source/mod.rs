//! Where kills come from: the kernel's BTF gives the offsets, aya loads the probe, the ring buffer delivers.

pub mod btf;
pub mod event;
pub mod layout;
pub mod probe;
pub mod ring;
