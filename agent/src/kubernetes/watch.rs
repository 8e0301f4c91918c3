//! Lists and watches the pods of one node.
//!
//! One list (`resourceVersion=0`, from the API server's cache) and one watch, both with the field selector
//! `spec.nodeName`, which the API server has an index of: what reaches this agent is about its own pods. Nothing else
//! is asked, so the permissions needed are list and watch of pods.

use std::borrow::Cow;
use std::path::Path;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use futures_util::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::ListParams;
use kube::client::ClientBuilder;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, Resource};
use serde::{Deserialize, Deserializer};
use tower::util::MapResultLayer;

use super::client::{CONNECT_TIMEOUT, causes, connection, spread};
use super::settings::Settings;
use super::{Store, Trouble};
use crate::attribution::pods::Known;
use crate::attribution::pods::object::Object;
use crate::host::allocator;

/// How long one watch lasts: the API server ends it then, and kube begins another one. A connection that is dead
/// without a word is noticed 5 s later.
const WATCH: u32 = 240;
/// A list that takes longer has no answer. More than [`WATCH`]: a watch may be silent for as long as it lasts.
const READ_TIMEOUT: Duration = Duration::from_secs(260);
/// Between two attempts to find out where the API is.
const AGAIN: Duration = Duration::from_secs(30);
/// Between two looks for pods that have been gone for long enough.
const EXPIRY: Duration = Duration::from_secs(60);

/// Keeps `store` up to date, for ever. Must be called inside a Tokio runtime.
pub async fn run(settings: Settings, store: Store) {
    tokio::time::sleep(spread(&settings.node)).await;
    loop {
        if let Err(error) = watch_pods(&settings, &store).await {
            store.answered(Some(Trouble::NoClient), Some(&error));
        }
        // What is missing may be there later, as a token that is mounted.
        tokio::time::sleep(AGAIN).await;
    }
}

/// Asks once for the pods of the node, as the watch does, and tells how many there are.
///
/// # Errors
/// It was not answered so; with what is wrong, and what to do.
pub async fn ask(settings: &Settings) -> Result<usize> {
    let store = Store::default();
    let client = client(settings.kubeconfig.as_deref(), &store).await.context(Trouble::NoClient.as_str())?;
    let pods: Api<Watched> = Api::all(client);
    let one_list = ListParams::default().fields(&selector(&settings.node)).match_any();
    match tokio::time::timeout(CONNECT_TIMEOUT, pods.list(&one_list)).await {
        Ok(Ok(list)) => Ok(list.items.len()),
        Ok(Err(error)) => {
            let trouble =
                store.trouble().filter(|trouble| *trouble != Trouble::NotAsked).unwrap_or(Trouble::Unreachable);
            let said = match &error {
                kube::Error::Api(status) => status.message.clone(),
                error => causes(error),
            };
            Err(anyhow::anyhow!(said).context(trouble.as_str()))
        }
        Err(_) => anyhow::bail!("{}: nothing came within {CONNECT_TIMEOUT:?}", Trouble::Unreachable.as_str()),
    }
}

fn selector(node: &str) -> String {
    format!("spec.nodeName={node}")
}

/// Does not end, unless there is nothing to connect to.
async fn watch_pods(settings: &Settings, store: &Store) -> Result<()> {
    let client = client(settings.kubeconfig.as_deref(), store).await?;
    let pods: Api<Watched> = Api::all(client);
    let config = watcher::Config::default().fields(&selector(&settings.node)).any_semantic().timeout(WATCH);
    // A list in pages is not answered from the API server's cache, and kube leaves the version 0 out then.
    let config = watcher::Config { page_size: None, ..config };
    let mut events = pin!(watch(pods, config).backoff(Pauses {
        pauses: watcher::DefaultBackoff::default(),
        had_trouble: false,
        store: store.clone()
    }));
    let mut listing = Vec::new();
    let mut expiry = tokio::time::interval(EXPIRY);
    let known = |watched: &Watched| Known::of(&watched.object, &settings.selection);
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            _ = expiry.tick() => {
                let mut forgotten = 0;
                store.write(|pods| forgotten = pods.expire(SystemTime::now()));
                if forgotten > 0 {
                    allocator::give_back();
                }
                continue;
            }
        };
        match event {
            Some(Ok(Event::Init)) => listing.clear(),
            Some(Ok(Event::InitApply(pod))) => listing.extend(known(&pod)),
            // Not before it is whole: a pod that is missing from half a list is not gone.
            Some(Ok(Event::InitDone)) => store.listed(std::mem::take(&mut listing), SystemTime::now()),
            Some(Ok(Event::Apply(pod))) => {
                if let Some(known) = known(&pod) {
                    store.write(|pods| pods.apply(known));
                }
            }
            Some(Ok(Event::Delete(pod))) => store.write(|pods| {
                // With its last status, which may have an id that was not known yet.
                known(&pod).into_iter().for_each(|known| pods.apply(known));
                pods.remove(&pod.object.metadata.uid, SystemTime::now());
            }),
            // Each request's answer was seen by the client already; what ends a watch that had begun, such as an
            // expired version (410), is followed by a list.
            Some(Err(error)) => tracing::debug!(error = format!("{:#}", anyhow::Error::from(error)), "watching pods"),
            None => anyhow::bail!("the watch of pods has ended"),
        }
    }
}

/// The pauses between attempts, which begin anew when the API has answered again: after a long time away a version is
/// expired, and the pause before the list would be as long as the last one.
struct Pauses {
    pauses: watcher::DefaultBackoff,
    had_trouble: bool,
    store: Store,
}

impl Iterator for Pauses {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let has_trouble = self.store.trouble().is_some();
        // Once: an API that answers and fails all the same is asked less and less often, too.
        if self.had_trouble && !has_trouble {
            self.pauses.reset();
        }
        self.had_trouble = has_trouble;
        self.pauses.next()
    }
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.pauses.reset();
    }
}

/// A client that reads its token and certificate authority again when they change (kube does), and tells `store` how it
/// is answered.
async fn client(kubeconfig: Option<&Path>, store: &Store) -> Result<Client> {
    let mut config = connection(kubeconfig).await?;
    config.read_timeout = Some(READ_TIMEOUT);
    // Counted from the request, not from when the connection was used last.
    config.reset_reader_on_write = true;
    let store = store.clone();
    let observe = MapResultLayer::new(move |result: Result<http::Response<_>, tower::BoxError>| {
        match &result {
            Ok(response) => store.answered(trouble(response.status().as_u16()), None),
            Err(error) => store.answered(Some(Trouble::Unreachable), Some(&anyhow::anyhow!("{}", causes(&**error)))),
        }
        result
    });
    Ok(ClientBuilder::try_from(config)
        .context("setting up the client of the Kubernetes API")?
        .with_layer(&observe)
        .build())
}

fn trouble(status: u16) -> Option<Trouble> {
    match status {
        200..=299 | 410 => None,
        401 => Some(Trouble::Unauthenticated),
        403 => Some(Trouble::Forbidden),
        429 | 500..=599 => Some(Trouble::Server(status)),
        _ => Some(Trouble::Refused(status)),
    }
}

/// A pod as kube wants its objects. Only what it asks for is in the metadata: what an object has there that nobody
/// reads can be a hundred times as much.
#[derive(Clone, Debug)]
struct Watched {
    metadata: ObjectMeta,
    object: Object,
}

impl<'de> Deserialize<'de> for Watched {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let object = Object::deserialize(from)?;
        let text = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let metadata = ObjectMeta {
            name: text(&object.metadata.name),
            namespace: text(&object.metadata.namespace),
            uid: text(&object.metadata.uid),
            resource_version: text(&object.metadata.resource_version),
            ..ObjectMeta::default()
        };
        Ok(Self { metadata, object })
    }
}

impl Resource for Watched {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Pod".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "pods".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let refused = [401, 403, 429, 500, 503, 404].map(trouble);
        let expected = [
            Trouble::Unauthenticated,
            Trouble::Forbidden,
            Trouble::Server(429),
            Trouble::Server(500),
            Trouble::Server(503),
            Trouble::Refused(404),
        ];
        assert_eq!(refused, expected.map(Some));
        assert_eq!([200, 201, 410].map(trouble), [None; 3]);
    }

    #[tokio::test]
    async fn a_kubeconfig_that_cannot_be_read_is_told_without_its_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kubeconfig");
        std::fs::write(
            &path,
            "apiVersion: v1\nkind: Config\nusers: [{name: u, user: {token: secret}\ncurrent-context: x\n",
        )
        .unwrap();
        let error = format!("{:#}", client(Some(&path), &Store::default()).await.err().unwrap());
        assert!(
            error.starts_with(&format!("reading {}: failed to parse kubeconfig YAML: ", path.display()))
                && error.contains("line 3"),
            "{error}"
        );
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn pauses_grow_until_the_api_answers_again() {
        let store = Store::default();
        let mut pauses =
            Pauses { pauses: watcher::DefaultBackoff::default(), had_trouble: false, store: store.clone() };
        let longest = |pauses: &mut Pauses, number: usize| pauses.take(number).max().unwrap();
        store.answered(Some(Trouble::Unreachable), None);
        assert!(longest(&mut pauses, 9) > Duration::from_secs(10));
        store.answered(None, None);
        // With jitter up to twice as long.
        assert!(longest(&mut pauses, 1) <= Duration::from_millis(1600));
        assert!(longest(&mut pauses, 8) > Duration::from_secs(10), "it answers, but does not do what is asked");
    }
}
