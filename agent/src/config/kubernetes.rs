//! Whether the pods of this node are watched, how the Kubernetes API is reached, and what of a pod is recorded.

use std::path::PathBuf;
use std::time::Duration;

use super::file::File;
use super::resolver::Resolver;
use super::value::{self, Directory, Keys, OwnDaemonSet, Span, Watched};
use crate::attribution::pods::Selection;
use crate::kubernetes::pod_logs;
use crate::kubernetes::settings::Settings;

/// Every pod has it, from its kubelet.
const IN_A_POD: &str = "KUBERNETES_SERVICE_HOST";

/// `None`: pods are not watched.
pub(super) fn resolve(r: &mut Resolver<'_>, file: &File, node: &str) -> Option<Settings> {
    let in_a_pod = r.variable(IN_A_POD).is_some();
    let candidates = [r.variable("OOM_WATCHER_KUBERNETES"), file.get("kubernetes.enabled")];
    let watched = r.resolve("kubernetes.enabled", candidates, Watched(None), value::watched).0;
    let kubeconfig =
        r.resolve("kubernetes.kubeconfig", [file.get("kubernetes.kubeconfig")], Directory(None), value::directory).0;
    let labels = r.resolve("kubernetes.labels", [file.get("kubernetes.labels")], Keys::default(), value::keys).0;
    let annotations =
        r.resolve("kubernetes.annotations", [file.get("kubernetes.annotations")], Keys::default(), value::keys).0;
    let candidates = [r.variable("OOM_WATCHER_DAEMONSET"), file.get("kubernetes.daemonset")];
    let daemonset = r.resolve("kubernetes.daemonset", candidates, OwnDaemonSet(None), value::daemonset).0;
    let is_watched = watched.unwrap_or(in_a_pod || kubeconfig.is_some());
    is_watched.then(|| Settings {
        node: node.to_owned(),
        kubeconfig,
        selection: Selection { labels, annotations },
        daemonset,
    })
}

/// Where the kubelet has the logs of its pods.
pub(super) fn pod_logs(r: &mut Resolver<'_>, file: &File) -> Option<PathBuf> {
    let default = Directory(Some(pod_logs::DEFAULT.into()));
    r.resolve("kubernetes.pod_logs", [file.get("kubernetes.pod_logs")], default, value::directory).0
}

/// How long a kill waits for its container to be known.
pub(super) fn container_wait(r: &mut Resolver<'_>, file: &File) -> Duration {
    let parse = |text: &str| value::duration(text, "0s", "30s");
    r.resolve("kubernetes.container_wait", [file.get("kubernetes.container_wait")], Span(Duration::from_secs(5)), parse)
        .0
}
