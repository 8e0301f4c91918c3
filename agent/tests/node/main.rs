//! The documented deployment on a real node: our image, our manifests applied by kubectl, a real kubelet and
//! containerd, and pods that are really killed.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod agents;
mod cluster;
mod deploy;
mod machine;
mod others;
mod pods;
mod rollout;
