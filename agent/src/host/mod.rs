//! The machine under the agent, without a word about kills: locks on folders, the allocator, free memory, the kernel's
//! version.

pub mod allocator;
pub mod kernel;
pub mod lock;
pub mod meminfo;
pub mod refusal;
