//! Requests to the API server. What is refused fails the test, unless the function says otherwise.

use futures_util::{StreamExt, stream};
use http::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use tokio::runtime::Runtime;

/// Requests at once, of many.
const AT_ONCE: usize = 16;

/// Somebody who asks.
pub struct Client {
    runtime: Runtime,
    client: kube::Client,
}

impl Client {
    /// One that reaches the API server so.
    pub fn new(kubeconfig: &Value) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig.clone()).unwrap();
            let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
            kube::Client::try_from(config).unwrap()
        });
        Self { runtime, client }
    }

    /// Reads an object.
    pub fn get(&self, path: &str) -> Value {
        self.ask(request("GET", path, "", None))
    }

    /// The same, if it is there.
    pub fn find(&self, path: &str) -> Option<Value> {
        self.runtime.block_on(self.client.request(request("GET", path, "", None))).ok()
    }

    /// A text, if there is an answer.
    pub fn try_text(&self, path: &str) -> Option<String> {
        self.runtime.block_on(self.client.request_text(request("GET", path, "", None))).ok()
    }

    /// Makes an object.
    pub fn post(&self, path: &str, object: &Value) -> Value {
        self.ask(request("POST", path, "application/json", Some(object)))
    }

    /// Makes or changes an object, as `kubectl apply --server-side` does.
    pub fn apply(&self, path: &str, object: &Value) -> Value {
        self.ask(request(
            "PATCH",
            &format!("{path}?fieldManager=test&force=true"),
            "application/apply-patch+yaml",
            Some(object),
        ))
    }

    /// Changes a part of an object.
    pub fn merge(&self, path: &str, part: &Value) -> Value {
        self.ask(request("PATCH", path, "application/merge-patch+json", Some(part)))
    }

    /// Deletes an object at once.
    pub fn delete(&self, path: &str) -> Value {
        self.ask(delete(path))
    }

    /// All of these, several at once.
    pub fn all(&self, requests: impl Iterator<Item = Request<Vec<u8>>>) -> Vec<Value> {
        let answers = stream::iter(requests)
            .map(|request| self.client.request::<Value>(request))
            .buffered(AT_ONCE)
            .collect::<Vec<_>>();
        self.runtime.block_on(answers).into_iter().map(Result::unwrap).collect()
    }

    fn ask(&self, request: Request<Vec<u8>>) -> Value {
        let what = format!("{} {}", request.method(), request.uri());
        self.runtime.block_on(self.client.request(request)).unwrap_or_else(|error| panic!("{what}: {error}"))
    }
}

/// One that makes an object.
pub fn post(path: &str, object: &Value) -> Request<Vec<u8>> {
    request("POST", path, "application/json", Some(object))
}

/// One that changes a part of an object.
pub fn merge(path: &str, part: &Value) -> Request<Vec<u8>> {
    request("PATCH", path, "application/merge-patch+json", Some(part))
}

/// One that deletes an object at once.
pub fn delete(path: &str) -> Request<Vec<u8>> {
    request("DELETE", &format!("{path}?gracePeriodSeconds=0"), "", None)
}

fn request(method: &str, path: &str, kind: &str, body: Option<&Value>) -> Request<Vec<u8>> {
    let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    let mut request = Request::builder().method(method).uri(path);
    if !kind.is_empty() {
        request = request.header("content-type", kind);
    }
    request.body(body).unwrap()
}
