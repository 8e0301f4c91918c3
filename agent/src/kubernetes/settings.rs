//! How the Kubernetes API is reached, and what is wanted of it.

use std::fmt;
use std::path::PathBuf;

use crate::attribution::pods::Selection;

/// How the API is reached, and what is wanted of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The node whose pods are watched.
    pub node: String,
    /// A kubeconfig. Absent: the service account of the pod that the agent runs in.
    pub kubeconfig: Option<PathBuf>,
    /// Labels and annotations to keep.
    pub selection: Selection,
    /// The agent's own DaemonSet, if it is to be known whether that is there.
    pub daemonset: Option<Name>,
}

/// A DaemonSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub(super) namespace: String,
    pub(super) name: String,
}

impl Name {
    /// `NAMESPACE/NAME`. `None`: no object has such a name.
    pub fn parse(text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/')?;
        let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_name = |text: &str, longest: usize, also: &[u8]| {
            let bytes = text.as_bytes();
            let ends = [bytes.first(), bytes.last()].into_iter().all(|end| end.is_some_and(|byte| is_inner(*byte)));
            ends && bytes.len() <= longest && bytes.iter().all(|byte| is_inner(*byte) || also.contains(byte))
        };
        let is_good = is_name(namespace, 63, b"-") && is_name(name, 253, b"-.");
        is_good.then(|| Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_an_object() {
        let long = "a".repeat(63);
        for good in ["kube-system/oom-watcher", "a/b.c-d.9", &format!("{long}/{long}{long}{long}{long}a")] {
            assert_eq!(Name::parse(good).map(|name| name.to_string()).as_deref(), Some(good));
        }
        let too_long = [format!("{long}a/a"), format!("a/{long}{long}{long}{long}aa")];
        let bad = [
            "", "/", "a", "a/", "/a", "A/a", "a/A", "a/b/c", "a/b?c", "a.b/c", "a/-b", "a/b-", "a/..", "a/b%2fc",
            "none/", " a/b",
        ];
        for bad in bad.into_iter().chain(too_long.iter().map(String::as_str)) {
            assert_eq!(Name::parse(bad), None, "{bad}");
        }
    }
}
