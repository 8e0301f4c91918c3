//! What stands for the Kubernetes API server where it cannot be had, as in a guest: it lists and watches the pods that
//! a test gives it, over plain HTTP.
//!
//! Not checked here: that the real one answers so, authentication, permissions. That is for the ring with a real API
//! server.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

use futures_util::stream::{self, Stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

use crate::agent::NODE;

/// A running one, on a free port, ended with the test.
pub struct ApiServer {
    shared: Arc<Shared>,
    folder: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// The resource version.
    version: watch::Sender<u64>,
}

#[derive(Default)]
struct State {
    /// By uid.
    pods: BTreeMap<String, Value>,
    /// What a watch tells, by the resource version.
    events: Vec<(u64, Value)>,
    refuse: Option<u16>,
    /// Paths that were asked for, with their queries.
    asked: Vec<String>,
}

impl ApiServer {
    /// Starts it, without pods.
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::<Shared>::default();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = Arc::clone(&shared);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let serve = async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            tokio::select! {
                _ = accept(listener, served) => {}
                _ = stopped => {}
            }
        };
        let thread = thread::spawn(move || runtime.block_on(serve));
        let folder = tempfile::tempdir().unwrap();
        let server = format!("http://{address}");
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "c", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        });
        std::fs::write(folder.path().join("kubeconfig"), kubeconfig.to_string()).unwrap();
        Self { shared, folder, stop: Some(stop), thread: Some(thread) }
    }

    /// The configuration of an agent that asks it; kills wait so long.
    pub fn settings(&self, container_wait: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        // The agent may be somebody else.
        for (path, mode) in [(self.folder.path().to_owned(), 0o755), (self.folder.path().join("kubeconfig"), 0o644)] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let path = self.folder.path().join("settings.yaml");
        let kubeconfig = self.folder.path().join("kubeconfig").display().to_string();
        let pod_logs = self.folder.path().join("log/pods").display().to_string();
        let settings = json!({"kubernetes": {
            "kubeconfig": kubeconfig, "container_wait": container_wait, "labels": ["team"], "pod_logs": pod_logs,
        }});
        std::fs::write(&path, settings.to_string()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        path
    }

    /// Makes the directory of a container's log, as the kubelet does before it starts one.
    pub fn make_log(&self, pod: &str, container: &str) {
        std::fs::create_dir_all(self.folder.path().join("log/pods").join(pod).join(container)).unwrap();
    }

    /// Makes or changes a pod.
    pub fn apply(&self, mut pod: Value) {
        self.change(|state, version| {
            let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
            pod["metadata"]["resourceVersion"] = version.to_string().into();
            let kind = if state.pods.insert(uid, pod.clone()).is_some() { "MODIFIED" } else { "ADDED" };
            json!({"type": kind, "object": pod})
        });
    }

    /// Deletes a pod.
    pub fn delete(&self, uid: &str) {
        self.change(|state, version| {
            let mut pod = state.pods.remove(uid).unwrap();
            pod["metadata"]["resourceVersion"] = version.to_string().into();
            json!({"type": "DELETED", "object": pod})
        });
    }

    /// From now on answers so; `None`: what was asked for. Watches end.
    pub fn refuse(&self, status: Option<u16>) {
        self.shared.state.lock().unwrap().refuse = status;
        self.shared.version.send_modify(|_| {});
    }

    /// What was asked for so far.
    pub fn asked(&self) -> Vec<String> {
        self.shared.state.lock().unwrap().asked.clone()
    }

    fn change(&self, change: impl FnOnce(&mut State, u64) -> Value) {
        let mut state = self.shared.state.lock().unwrap();
        let version = *self.shared.version.borrow() + 1;
        let event = change(&mut state, version);
        state.events.push((version, event));
        drop(state);
        self.shared.version.send_replace(version);
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().map(thread::JoinHandle::join);
    }
}

async fn accept(listener: tokio::net::TcpListener, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        let service = service_fn(move |request| {
            let shared = Arc::clone(&shared);
            async move { Ok::<_, Infallible>(answer(&request, &shared)) }
        });
        // With the test's end it ends too.
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn answer(request: &Request<Incoming>, shared: &Arc<Shared>) -> Response<BoxBody<Bytes, Infallible>> {
    let mut state = shared.state.lock().unwrap();
    state.asked.push(request.uri().to_string());
    let query = request.uri().query().unwrap_or_default().to_owned();
    let version = *shared.version.borrow();
    if let Some(status) = state.refuse {
        let body =
            json!({"kind": "Status", "status": "Failure", "code": status, "message": "refused", "reason": "Forbidden"});
        return reply(StatusCode::from_u16(status).unwrap(), whole(&body));
    }
    if request.uri().path() != "/api/v1/pods" || !query.contains(&format!("fieldSelector=spec.nodeName%3D{NODE}")) {
        return reply(StatusCode::NOT_FOUND, whole(&json!({"kind": "Status", "status": "Failure", "code": 404})));
    }
    if !query.contains("watch=true") {
        let list = json!({
            "kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": version.to_string()},
            "items": state.pods.values().collect::<Vec<_>>(),
        });
        return reply(StatusCode::OK, whole(&list));
    }
    let from = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion=")?.parse().ok()).unwrap_or(0);
    drop(state);
    reply(StatusCode::OK, StreamBody::new(events(Arc::clone(shared), from)).boxed())
}

/// What happened after that version, a line each, until requests are refused.
fn events(shared: Arc<Shared>, from: u64) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    let changes = shared.version.subscribe();
    stream::unfold((shared, changes, from), |(shared, mut changes, from)| async move {
        loop {
            let next = {
                let state = shared.state.lock().unwrap();
                if state.refuse.is_some() {
                    return None;
                }
                state.events.iter().find(|(version, _)| *version > from).cloned()
            };
            match next {
                Some((version, event)) => {
                    return Some((Ok(Frame::data(Bytes::from(format!("{event}\n")))), (shared, changes, version)));
                }
                None => changes.changed().await.ok()?,
            }
        }
    })
}

fn whole(body: &Value) -> BoxBody<Bytes, Infallible> {
    Full::new(Bytes::from(body.to_string())).boxed()
}

fn reply(status: StatusCode, body: BoxBody<Bytes, Infallible>) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}
