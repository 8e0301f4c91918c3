//! The connection to the Kubernetes API: the pod's service account, or a kubeconfig.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};

/// The longest wait for a connection.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Agents that are started together ask one after the other, within this time.
const SPREAD: Duration = Duration::from_secs(2);

/// The address of the API, and the identity that is used there.
///
/// # Errors
/// There is neither a service account nor a usable kubeconfig.
pub(super) async fn connection(kubeconfig: Option<&Path>) -> Result<kube::Config> {
    let mut config = match kubeconfig {
        None => kube::Config::incluster()
            .context("finding the Kubernetes API in the pod's environment and service account")?,
        Some(path) => {
            let kubeconfig = Kubeconfig::read_from(path).map_err(|error| anyhow::anyhow!(first_line(&causes(&error))));
            let kubeconfig = kubeconfig.with_context(|| format!("reading {}", path.display()))?;
            let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
            config.with_context(|| format!("understanding {}", path.display()))?
        }
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Ok(config)
}

/// An error with what caused it, each once: some say it themselves.
pub(super) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let said = cause.to_string();
        if !text.contains(&said) {
            text += &format!(": {said}");
        }
        next = cause.source();
    }
    text
}

/// What is wrong in a file, without the lines of it that the reader of YAML shows behind that: there are secrets in
/// them.
fn first_line(error: &str) -> String {
    error.lines().next().unwrap_or_default().to_owned()
}

/// The same for one node each time, and another for another node.
pub(super) fn spread(node: &str) -> Duration {
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    Duration::from_millis(hasher.finish() % u64::try_from(SPREAD.as_millis()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_are_started_together_ask_one_after_the_other() {
        let waits: std::collections::BTreeSet<_> = (0..100).map(|number| spread(&format!("node-{number}"))).collect();
        assert!(waits.len() > 50 && waits.iter().all(|wait| *wait < SPREAD), "{waits:?}");
        assert_eq!(spread("node-a"), spread("node-a"));
    }
}
