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
#[allow(dead_code, unused_imports, reason = "each test program uses a part of it")]
#[path = "../support/mod.rs"]
mod support;

/// The cluster, or the test is skipped.
macro_rules! needs_node {
    ($cluster:ident) => {
        let _one = $crate::support::one_at_a_time();
        if let Err(why) = $crate::support::cgroups() {
            $crate::support::skip!("{why}");
        }
        let $cluster = match $crate::support::programs::Programs::find().and_then($crate::cluster::Cluster::start) {
            Ok(cluster) => cluster,
            Err(why) => $crate::support::skip!("{why}"),
        };
    };
}
pub(crate) use needs_node;
