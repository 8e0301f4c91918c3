//! Whether the DaemonSet that the agent belongs to is still there: an agent that is told to end leaves its state, pins
//! and spool for the next one, unless none comes.
//!
//! Asked when the agent has begun, so that it is known whether it may ask; and when it ends. RBAC: get of that one
//! DaemonSet.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use kube::Client;
use serde::Deserialize;
use tracing::{info, warn};

use super::client;
use super::settings::{Name, Settings};

/// An answer that takes longer at the end is none. In less than the least that a pod is given to end.
const PATIENCE: Duration = Duration::from_secs(5);
/// After so many answers that it is not there, or not told, it is taken to be so. And what is between two attempts:
/// permissions may come a moment after the pod.
const ATTEMPTS: u32 = 3;
const AGAIN: Duration = Duration::from_secs(30);

/// What the API says of it.
#[derive(Debug)]
enum Answer {
    There,
    Gone,
    /// 401 or 403: who removes a DaemonSet often removes its permissions a moment earlier.
    Denied,
    /// Anything else, as no answer.
    Unknown(anyhow::Error),
}

/// The agent's own. Cloning it shares what was learned.
#[derive(Clone, Debug)]
pub struct Own {
    node: String,
    name: Name,
    kubeconfig: Option<PathBuf>,
    was_there: Arc<AtomicBool>,
}

/// Of an object, whether it is being deleted.
#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    deletion_timestamp: Option<String>,
}

impl Own {
    /// `None`: the configuration names none.
    pub fn new(settings: &Settings) -> Option<Self> {
        let name = settings.daemonset.clone()?;
        Some(Self {
            node: settings.node.clone(),
            name,
            kubeconfig: settings.kubeconfig.clone(),
            was_there: Arc::default(),
        })
    }

    /// Learns whether it is there and may be asked for. Must be called inside a Tokio runtime.
    pub async fn remember(self) {
        // Agents that are started together ask one after the other, and go on so.
        tokio::time::sleep(client::spread(&self.node)).await;
        let mut denials = 0;
        loop {
            match self.ask().await {
                Answer::There => return self.was_there.store(true, Ordering::Relaxed),
                // The API is away for as long as it is away.
                Answer::Unknown(_) => {}
                answer => {
                    denials += 1;
                    if denials == ATTEMPTS {
                        return warn!(
                            daemonset = %self.name,
                            reason = answer.to_string(),
                            "the agent's DaemonSet is not known: state and pins will stay on this node when it is \
                             removed"
                        );
                    }
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Whether it is certain that no agent follows this one here.
    pub async fn is_gone(self) -> bool {
        let answer = tokio::time::timeout(PATIENCE, self.ask())
            .await
            .unwrap_or_else(|_| Answer::Unknown(anyhow::anyhow!("nothing came in time")));
        info!(daemonset = %self.name, answer = answer.to_string(), "whether another agent follows");
        answer.is_gone(self.was_there.load(Ordering::Relaxed))
    }

    async fn ask(&self) -> Answer {
        self.find().await.unwrap_or_else(Answer::Unknown)
    }

    async fn find(&self) -> Result<Answer> {
        let client = Client::try_from(client::connection(self.kubeconfig.as_deref()).await?)
            .context("setting up the client of the Kubernetes API")?;
        let path = format!("/apis/apps/v1/namespaces/{}/daemonsets/{}", self.name.namespace, self.name.name);
        let request = http::Request::get(path).body(Vec::new())?;
        match client.request::<Object>(request).await {
            Ok(Object { metadata: Metadata { deletion_timestamp: None } }) => Ok(Answer::There),
            Ok(_) => Ok(Answer::Gone),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Answer::Gone),
            Err(kube::Error::Api(status)) if [401, 403].contains(&status.code) => Ok(Answer::Denied),
            Err(error) => Err(error.into()),
        }
    }
}

impl Answer {
    /// What was never there has another name, and an agent that was never allowed to ask learns nothing from being
    /// denied it.
    fn is_gone(&self, was_there: bool) -> bool {
        was_there && matches!(self, Self::Gone | Self::Denied)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::There => f.write_str("it is there"),
            Self::Gone => f.write_str("there is none of this name, or it is being deleted"),
            Self::Denied => {
                f.write_str("the API does not tell (401 or 403): the Role of k8s/ allows that, get of this DaemonSet")
            }
            Self::Unknown(error) => write!(f, "{error:#}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_agent_follows_only_if_that_is_certain() {
        let gone = |answer: Answer| [false, true].map(|was_there| answer.is_gone(was_there));
        assert_eq!(gone(Answer::Gone), [false, true], "one that never was is called otherwise");
        assert_eq!(gone(Answer::Denied), [false, true], "permissions that were there are gone with it");
        assert_eq!(gone(Answer::There), [false, false]);
        assert_eq!(gone(Answer::Unknown(anyhow::anyhow!("no route to host"))), [false, false]);
    }
}
