//! What the Kubernetes API knows of this node's pods: one writer that watches them ([`watch`]), and cheap readers.
//! Where it does not tell, the kubelet's directories name them ([`pod_logs`]). And whether the agent's own DaemonSet is
//! there ([`daemonset`]).
//!
//! Without the API the agent goes on: kills have what their cgroups tell. What is wrong with it is told once, when it
//! changes.

mod client;
pub mod daemonset;
pub mod pod_logs;
pub mod settings;
pub mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use tokio::sync::watch as signal;
use tracing::{info, warn};

use crate::attribution::pods::{Known, Pods};

/// What is most often wrong then, where nothing else is.
const NO_PODS: &str = "the Kubernetes API knows no pod of this node: is NODE_NAME the node's name in the cluster?";

/// The pods, shared between who watches them and who asks. Cloning it shares it.
#[derive(Clone, Debug, Default)]
pub struct Store(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    pods: RwLock<Pods>,
    /// Whether the pods have been listed whole at least once.
    listed: AtomicBool,
    /// What the API answered last: nothing, if all is well.
    trouble: Mutex<Option<Trouble>>,
    /// Counts the changes.
    changes: signal::Sender<u64>,
}

/// Why pods cannot be listed or watched now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It has not been asked yet.
    NotAsked,
    /// 401: the token is not accepted.
    Unauthenticated,
    /// 403: the service account may not list or watch pods.
    Forbidden,
    /// 429 and 5xx, the API server's own trouble.
    Server(u16),
    /// Any other answer that is no success.
    Refused(u16),
    /// No answer.
    Unreachable,
    /// It is not known where it is, or how to log in.
    NoClient,
}

impl Trouble {
    /// What it is, and what to do about it.
    fn as_str(self) -> &'static str {
        match self {
            Self::NotAsked => "it was not asked yet",
            Self::Unauthenticated => "it does not accept the token (401): mount the service account's token",
            Self::Forbidden => {
                "it forbids listing or watching pods (403): apply the ClusterRole of k8s/, which needs pods: list, \
                 watch"
            }
            Self::Server(_) => "it has trouble of its own (429 or 5xx): see the API server's log",
            Self::Refused(_) => "it refuses the request: is it a Kubernetes API server?",
            Self::Unreachable => "it does not answer: look at the network, the address and the certificate authority",
            Self::NoClient => {
                "it is not known where it is: run the agent in a pod with a service account's token, or set \
                 kubernetes.kubeconfig"
            }
        }
    }
}

impl Store {
    /// The pods as they are known now.
    pub fn pods(&self) -> RwLockReadGuard<'_, Pods> {
        self.0.pods.read()
    }

    /// Whether all pods are known, and changes are told. Not while there are none: the agent is in a pod of its node
    /// itself, so it asks for another one.
    pub fn is_synced(&self) -> bool {
        self.0.listed.load(Ordering::Relaxed) && self.trouble().is_none() && !self.pods().is_empty()
    }

    /// Whether a pod or container that is not known now may be known a moment later: not where the API has trouble.
    pub fn may_tell_more(&self) -> bool {
        self.trouble().is_none()
    }

    /// Wakes whenever pods have changed.
    pub fn changes(&self) -> signal::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// What is wrong, as a sentence. `None`: nothing.
    pub fn degraded(&self) -> Option<String> {
        let listed = self.0.listed.load(Ordering::Relaxed);
        let Some(trouble) = self.trouble().or((!listed).then_some(Trouble::NotAsked)) else {
            return self.pods().is_empty().then(|| NO_PODS.to_owned());
        };
        Some(format!("the pods of this node are not known from the Kubernetes API: {}", trouble.as_str()))
    }

    fn trouble(&self) -> Option<Trouble> {
        *self.0.trouble.lock()
    }

    fn write(&self, change: impl FnOnce(&mut Pods)) {
        change(&mut self.0.pods.write());
        self.0.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn listed(&self, all: Vec<Known>, now: SystemTime) {
        self.write(|pods| pods.replace(all, now));
        self.0.listed.store(true, Ordering::Relaxed);
        match self.pods().len() {
            0 => warn!("{NO_PODS}"),
            pods => info!(pods, "the pods of this node are known"),
        }
    }

    /// What the API answered, or why it did not. Told when it changes.
    fn answered(&self, trouble: Option<Trouble>, error: Option<&anyhow::Error>) {
        let before = std::mem::replace(&mut *self.0.trouble.lock(), trouble);
        match trouble {
            Some(now) if before != Some(now) => warn!(
                reason = now.as_str(),
                error = error.map(|error| format!("{error:#}")),
                "the Kubernetes API cannot be asked for pods: kills have what their cgroups tell"
            ),
            None if before.is_some() => info!("the Kubernetes API answers again"),
            _ => return,
        }
        self.0.changes.send_modify(|count| *count = count.wrapping_add(1));
    }
}
