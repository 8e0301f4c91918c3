//! Names of pods and containers by the directories of their logs: for kills that the API does not tell of.
//!
//! The kubelet makes them before a container starts, and removes them with the pod:
//! `/var/log/pods/NAMESPACE_POD_UID/CONTAINER` (pkg/kubelet/kuberuntime/ helpers.go), and
//! `/var/log/containers/POD_NAMESPACE_CONTAINER-ID.log` for each container that has begun to write (legacy.go).
//! Namespaces, pods and containers are DNS names: `_` is in none of them. The uid of a static pod is the one in its
//! cgroup's path, not that of the API.
//!
//! Absent: everything that names do not tell, and the names of containers that cannot be told apart.

use std::fs;
use std::path::{Path, PathBuf};

use crate::kill::{KubernetesOwner, Owner, Pod, PodContainer};

/// Where the kubelet has the logs of its pods.
pub const DEFAULT: &str = "/var/log/pods";

/// Entries of one directory that are looked at. A pod has one, a container one for each time that it was started.
const MAX_ENTRIES: usize = 65_536;

/// The directories of the logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodLogs {
    pods: PathBuf,
}

impl PodLogs {
    /// Those of the pods in `pods`, and beside it those of `containers`.
    pub fn new(pods: PathBuf) -> Self {
        Self { pods }
    }

    /// Whether they can be read: not whether a pod is there.
    pub fn are_there(&self) -> bool {
        fs::read_dir(&self.pods).is_ok()
    }

    /// Adds names to an owner that has none.
    pub fn complete(&self, owner: Owner) -> Owner {
        match owner {
            Owner::Kubernetes(in_pod) if in_pod.pod.is_none() => {
                let pod = self.find(&in_pod.pod_uid, in_pod.container_id.as_deref()).map(Box::new);
                Owner::Kubernetes(KubernetesOwner { pod, ..in_pod })
            }
            other => other,
        }
    }

    fn find(&self, uid: &str, container_id: Option<&str>) -> Option<Pod> {
        let (directory, namespace, name) = names(&self.pods).find_map(|entry| {
            let (namespace, pod) = entry.strip_suffix(uid)?.strip_suffix('_')?.split_once('_')?;
            let directory = self.pods.join(&entry);
            let is_it = !namespace.is_empty() && !pod.is_empty() && !pod.contains('_') && directory.is_dir();
            is_it.then(|| (directory, namespace.to_owned(), pod.to_owned()))
        })?;
        let container = container_id.and_then(|id| self.container(id, &namespace, &name).or_else(|| only(&directory)));
        let container = container.map(|name| PodContainer { name, ..PodContainer::default() });
        Some(Pod { namespace, name, container, ..Pod::default() })
    }

    /// By the link to its log, which has its id.
    fn container(&self, id: &str, namespace: &str, pod: &str) -> Option<String> {
        let containers = self.pods.parent()?.join("containers");
        let (before, behind) = (format!("{pod}_{namespace}_"), format!("-{id}.log"));
        let mut found =
            names(&containers).filter_map(|entry| Some(entry.strip_prefix(&before)?.strip_suffix(&behind)?.to_owned()));
        found.find(|container| !container.is_empty())
    }
}

/// The name of the only container that the pod has ever had.
fn only(pod: &Path) -> Option<String> {
    let mut containers = names(pod).filter(|container| pod.join(container).is_dir());
    containers.next().filter(|_| containers.next().is_none())
}

/// The names in a directory. Nothing if it cannot be read.
fn names(directory: &Path) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(directory).into_iter().flatten().take(MAX_ENTRIES).flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use super::*;

    const UID: &str = "4a163a05-439d-484b-8e53-2968bc15824f";
    const HASH: &str = "b53dfa9e2dc9b890f7fadb2770857b03";
    const ID: &str = "cde6dfaf5007ed65aad2d6aed72af91b0f3d95813492f773286e29ae145d20f4";

    /// Those with these directories and files.
    fn logs(paths: &[String]) -> (tempfile::TempDir, PodLogs) {
        let root = tempfile::tempdir().unwrap();
        for path in paths {
            fs::create_dir_all(root.path().join(path)).unwrap();
        }
        let logs = PodLogs::new(root.path().join("pods"));
        (root, logs)
    }

    fn check(paths: &[String], uid: &str, id: Option<&str>, expected: Option<(&str, &str, Option<&str>)>) {
        let (_root, logs) = logs(paths);
        let found = logs.find(uid, id);
        let names = found.as_ref().map(|pod| {
            (pod.namespace.as_str(), pod.name.as_str(), pod.container.as_ref().map(|container| container.name.as_str()))
        });
        assert_eq!(names, expected, "{paths:?}");
    }

    #[test]
    fn names_are_those_of_the_directories() {
        let pod = |container: &str| format!("pods/shop_cart-0_{UID}/{container}");
        let link = |container: &str, id: &str| format!("containers/cart-0_shop_{container}-{id}.log");
        let one = [pod("app")];
        check(&one, UID, Some(ID), Some(("shop", "cart-0", Some("app"))));
        check(&one, UID, None, Some(("shop", "cart-0", None)));
        check(&one, HASH, Some(ID), None);
        check(
            &[format!("pods/kube-system_etcd-node_{HASH}/etcd")],
            HASH,
            Some(ID),
            Some(("kube-system", "etcd-node", Some("etcd"))),
        );
        // With two nobody guesses, unless the id is in a link.
        let two = [pod("app"), pod("side-car")];
        check(&two, UID, Some(ID), Some(("shop", "cart-0", None)));
        let (other, of_app) = (ID.replace('c', "d"), link("app", ID));
        check(
            &[two.as_slice(), &[link("side-car", ID), link("app", &other)]].concat(),
            UID,
            Some(ID),
            Some(("shop", "cart-0", Some("side-car"))),
        );
        check(
            &[two.as_slice(), &[link("app", &other), link("side-car", &other)]].concat(),
            UID,
            Some(ID),
            Some(("shop", "cart-0", None)),
        );
        check(
            &[two.as_slice(), &[of_app.replace("shop", "other")]].concat(),
            UID,
            Some(ID),
            Some(("shop", "cart-0", None)),
        );
    }

    #[test]
    fn what_has_another_form_names_nobody() {
        for directory in ["", "_", "shop_", "_cart", "a_b_c", "shop"] {
            check(&[format!("pods/{directory}_{UID}/app")], UID, Some(ID), None);
            check(&[format!("pods/{directory}{UID}/app")], UID, Some(ID), None);
        }
        check(&[], UID, Some(ID), None);
        check(&["pods".to_owned()], "", None, None);
        check(&[format!("pods/shop_cart-0_{UID}")], UID, Some(ID), Some(("shop", "cart-0", None)));
        let (root, with_file) = logs(&["pods".to_owned()]);
        fs::write(root.path().join(format!("pods/shop_file_{UID}")), "").unwrap();
        assert_eq!(with_file.find(UID, None), None);
        let (_root, logs) = logs(&[]);
        assert!(!logs.are_there());
    }

    #[test]
    fn who_has_names_keeps_them_and_who_is_in_no_pod_gets_none() {
        let (_root, logs) = logs(&[format!("pods/shop_cart-0_{UID}/app")]);
        let named = |pod: Option<Pod>| {
            let owner = KubernetesOwner {
                pod_uid: UID.to_owned(),
                qos: None,
                runtime: None,
                container_id: None,
                why_no_container: None,
                pod: pod.map(Box::new),
            };
            match logs.complete(Owner::Kubernetes(owner)) {
                Owner::Kubernetes(owner) => owner.pod.map(|pod| pod.name),
                _ => None,
            }
        };
        assert_eq!(named(None).as_deref(), Some("cart-0"));
        assert_eq!(named(Some(Pod { name: "known".to_owned(), ..Pod::default() })).as_deref(), Some("known"));
        let unit = Owner::Unit { name: "sshd.service".to_owned() };
        assert_eq!(logs.complete(unit.clone()), unit);
    }
}
