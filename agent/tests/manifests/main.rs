//! The manifests of `k8s/` and `otel-collector/`, as kubectl and Helm render them: against Kubernetes's schemas, our
//! own rules of security, and each other.
//!
//! Nothing of it needs a cluster or the network, and one test root. `OOM_WATCHER_WRITE=1` writes again what is made of
//! other files: k8s/base/daemonset.yaml, the chart's rules, and what its examples give.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod agreement;
mod alertmanager;
mod base;
mod chart;
mod collector;
mod copies;
mod dashboards;
mod differences;
mod hand_over;
mod logql;
mod overlays;
mod pod;
mod renders;
mod rules;
mod scanners;
mod schemas;

/// The overlays: folders of `k8s/overlays`.
const OVERLAYS: [&str; 7] = ["collector", "non-root", "old-kernel", "openshift", "pinned", "privileged", "spool"];
