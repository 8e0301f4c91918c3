//! The memory cgroups of this node: where they are mounted, which of them are the node's, what the kernel counted in
//! them, and their names by id. Reads files of the cgroup file system, writes none.

pub mod counters;
pub mod hierarchy;
pub mod names;
pub mod node;
