//! Whether the pods of this node are watched, how the Kubernetes API is reached, and what of a pod is recorded.

use super::resolver::Resolver;
use super::value;
use crate::attribution::pods::Selection;
use crate::kubernetes::settings::Settings;

/// Every pod has it, from its kubelet.
const IN_A_POD: &str = "KUBERNETES_SERVICE_HOST";

/// `Some(None)`: pods are not watched.
pub(super) fn resolve(r: &mut Resolver<'_>, node: &str) -> Option<Option<Settings>> {
    let in_a_pod = r.variable(IN_A_POD).is_some();
    let watched = r.resolve("kubernetes.enabled", value::watched)?.0;
    let kubeconfig = r.resolve("kubernetes.kubeconfig", value::directory)?.0;
    let labels = r.resolve("kubernetes.labels", value::keys)?.0;
    let annotations = r.resolve("kubernetes.annotations", value::keys)?.0;
    let daemonset = r.resolve("kubernetes.daemonset", value::daemonset)?.0;
    let is_watched = watched.unwrap_or(in_a_pod || kubeconfig.is_some());
    Some(is_watched.then(|| Settings {
        node: node.to_owned(),
        kubeconfig,
        selection: Selection { labels, annotations },
        daemonset,
    }))
}
