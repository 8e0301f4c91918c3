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

/// The cluster, or the test is skipped.
macro_rules! needs_node {
    ($cluster:ident) => {
        let _one = oom_watcher_testkit::needs::one_at_a_time();
        if let Err(why) = oom_watcher_testkit::needs::cgroups() {
            oom_watcher_testkit::needs::skip!("{why}");
        }
        let $cluster = match oom_watcher_testkit::programs::Programs::find().and_then($crate::cluster::Cluster::start) {
            Ok(cluster) => cluster,
            Err(why) => oom_watcher_testkit::needs::skip!("{why}"),
        };
    };
}
pub(crate) use needs_node;
