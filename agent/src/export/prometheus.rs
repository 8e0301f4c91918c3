//! `/metrics`: the OpenTelemetry Prometheus bridge, and the HTTP server in front of it with the agent's health.
//!
//! The bridge writes the text format 0.0.4 only: no OpenMetrics, no times of creation, no exemplars.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use parking_lot::{Mutex, MutexGuard};
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{info, warn};

use super::instruments;
use crate::record::schema;
use crate::stats::Stats;

/// Connections open at once. Prometheus and the kubelet need a handful; more are closed at once, and counted.
pub const MAX_CONNECTIONS: usize = 64;
/// The longest wait for a whole request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest life of a connection, from its first byte to the last of the answer: Prometheus itself waits for 10 s
/// unless told otherwise. One connection, one request: to connect again costs nothing here, and so one limit holds for
/// clients that do not send, do not read or do not leave.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a request's head; the least that hyper allows.
const MAX_HEAD: usize = 8 * 1024;
/// Headers of a request.
const MAX_HEADERS: usize = 64;
/// The pause after a connection could not be accepted. Most likely there are no file descriptors left, which does not
/// pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Bytes that are read of somebody else's answer: more than the largest table of counts gives.
const MAX_ANSWER: u64 = 64 << 20;

const TEXT: &str = "text/plain; charset=utf-8";
const INDEX: &str = "oom-watcher\n\n/metrics  what the kernel's OOM killer killed\n/healthz  is the agent \
    alive\n/readyz   does it see kills\n";

/// The way from instruments to the text that Prometheus reads.
#[derive(Debug)]
pub struct Bridge {
    registry: Registry,
    provider: SdkMeterProvider,
}

impl Bridge {
    /// An empty one, with room for a table of `owners` rows.
    ///
    /// A provider of its own: with two readers on one, a series that is gone would be told once more by the other.
    ///
    /// # Errors
    /// None in practice: the registry is new.
    pub fn new(owners: usize) -> anyhow::Result<Self> {
        let registry = Registry::new();
        let reader = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .context("setting up the Prometheus bridge")?;
        let provider = SdkMeterProvider::builder().with_view(instruments::limit(owners)).with_reader(reader).build();
        Ok(Self { registry, provider })
    }

    /// Where the instruments are registered.
    pub fn provider(&self) -> &SdkMeterProvider {
        &self.provider
    }

    /// What `/metrics` shows now. Runs the callbacks of all instruments.
    ///
    /// # Errors
    /// There is nothing to show: a callback panicked, now or earlier. Prometheus must not take that for a node without
    /// kills.
    pub fn text(&self) -> anyhow::Result<Vec<u8>> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).context("writing the metrics")?;
        anyhow::ensure!(!text.is_empty(), "there are no metrics: an instrument's callback panicked");
        Ok(text)
    }
}

/// Whether the agent does what it is for. Clones share it.
#[derive(Clone, Debug)]
pub struct Health(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    not_ready: Option<String>,
    degraded: Option<String>,
}

impl Health {
    /// Not ready, because of `reason`.
    pub fn not_ready(reason: impl Into<String>) -> Self {
        Self(Arc::new(Mutex::new(State { not_ready: Some(reason.into()), degraded: None })))
    }

    /// From now on ready, or not because of `reason`.
    pub fn set(&self, reason: Option<String>) {
        self.state().not_ready = reason;
    }

    /// Something is lost, because of `reason`, or nothing any more. The agent does what it is for all the same, so it
    /// stays ready.
    pub fn degrade(&self, reason: Option<String>) {
        self.state().degraded = reason;
    }

    /// What `/readyz` answers.
    fn answer(&self) -> (StatusCode, String) {
        let state = self.state();
        match (&state.not_ready, &state.degraded) {
            (Some(reason), _) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")),
            (None, Some(reason)) => (StatusCode::OK, format!("ready, degraded: {reason}\n")),
            (None, None) => (StatusCode::OK, "ready\n".to_owned()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }
}

/// Takes the address, for [`serve`]. Before anything else: a port that is taken must not cost a missed kill.
///
/// # Errors
/// The address cannot be had.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// What to do where an address cannot be had.
pub fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "stop what listens there (another oom-watcher?), or set another METRICS_PORT or --listen"
        }
        io::ErrorKind::PermissionDenied => "set a port from 1024 on, or add CAP_NET_BIND_SERVICE",
        _ => "set --listen to an address of this machine",
    }
}

/// Whether an oom-watcher answers at this address already.
pub async fn is_served(address: SocketAddr) -> bool {
    let local = match address {
        SocketAddr::V4(all) if all.ip().is_unspecified() => SocketAddr::from((Ipv4Addr::LOCALHOST, all.port())),
        SocketAddr::V6(all) if all.ip().is_unspecified() => SocketAddr::from((Ipv6Addr::LOCALHOST, all.port())),
        one => one,
    };
    let ask = async {
        let mut connection = TcpStream::connect(local).await?;
        connection.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        connection.take(MAX_ANSWER).read_to_end(&mut answer).await?;
        io::Result::Ok(String::from_utf8_lossy(&answer).contains(schema::BUILD_INFO.prometheus))
    };
    matches!(tokio::time::timeout(REQUEST_TIMEOUT, ask).await, Ok(Ok(true)))
}

/// Answers requests until dropped. `before_scrape` is called before each look at the instruments, on a thread that may
/// block.
///
/// # Errors
/// The listener is not of [`bind`].
pub async fn serve(
    listener: TcpListener,
    bridge: Arc<Bridge>,
    health: Health,
    stats: Arc<Stats>,
    before_scrape: impl Fn() + Send + Sync + 'static,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let site = Arc::new(Site { bridge, health, before_scrape, page: Arc::default() });
    let door = Arc::new(Door {
        places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        silent: Mutex::default(),
        next: AtomicU64::new(0),
    });
    let mut failing = false;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "cannot accept connections to the metrics port");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if std::mem::replace(&mut failing, false) {
            info!("connections to the metrics port are accepted again");
        }
        door.let_in(stream, &site, &stats);
    }
}

/// Who may come in, and who has come in without a word. When all places are taken, who has been silent for longest
/// makes room: clients that only connect keep out nobody who asks.
struct Door {
    places: Arc<Semaphore>,
    /// Connections without a whole request yet, oldest first. No more than there are places.
    silent: Mutex<VecDeque<Silent>>,
    /// The id of the next connection.
    next: AtomicU64,
}

struct Silent {
    id: u64,
    connection: AbortHandle,
    place: OwnedSemaphorePermit,
}

impl Door {
    fn let_in<F: Fn() + Send + Sync + 'static>(
        self: &Arc<Self>,
        stream: TcpStream,
        site: &Arc<Site<F>>,
        stats: &Stats,
    ) {
        let mut silent = self.silent.lock();
        let place = match self.places.clone().try_acquire_owned() {
            Ok(place) => place,
            Err(_) => {
                stats.connections_refused.add(1);
                let Some(oldest) = silent.pop_front() else { return };
                oldest.connection.abort();
                oldest.place
            }
        };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (door, site) = (self.clone(), site.clone());
        let connection = tokio::spawn(async move {
            converse(stream, site, &door, id).await;
            door.heard(id);
        });
        silent.push_back(Silent { id, connection: connection.abort_handle(), place });
    }

    /// From now on the connection keeps its place, until what is returned is dropped.
    fn heard(&self, id: u64) -> Option<OwnedSemaphorePermit> {
        let mut silent = self.silent.lock();
        let at = silent.iter().position(|connection| connection.id == id)?;
        silent.remove(at).map(|connection| connection.place)
    }
}

/// One request and its answer. Whatever goes wrong is the client's trouble.
async fn converse<F: Fn() + Send + Sync + 'static>(stream: TcpStream, site: Arc<Site<F>>, door: &Door, id: u64) {
    // Held until the answer is out.
    let place = Mutex::new(None);
    let service = service_fn(|request| {
        *place.lock() = door.heard(id);
        let site = site.clone();
        async move { Ok::<_, Infallible>(site.answer(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
}

struct Site<F> {
    bridge: Arc<Bridge>,
    health: Health,
    before_scrape: F,
    /// The last page and when it was begun. The registry lets in one at a time anyway; the others wait here, where they
    /// take no thread.
    page: Arc<tokio::sync::Mutex<Option<(Instant, Bytes)>>>,
}

impl<F: Fn() + Send + Sync + 'static> Site<F> {
    async fn answer(self: &Arc<Self>, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if !matches!(path, "/" | "/metrics" | "/healthz" | "/readyz") {
            return reply(StatusCode::NOT_FOUND, TEXT, "not found, try /metrics\n");
        }
        // For HEAD, hyper leaves out the body.
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut refusal = reply(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n");
            refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return refusal;
        }
        match path {
            "/metrics" => self.metrics().await,
            "/healthz" => reply(StatusCode::OK, TEXT, "ok\n"),
            "/readyz" => {
                let (status, text) = self.health.answer();
                reply(status, TEXT, text)
            }
            _ => reply(StatusCode::OK, TEXT, INDEX),
        }
    }

    async fn metrics(self: &Arc<Self>) -> Response<Full<Bytes>> {
        let asked = Instant::now();
        let mut page = self.page.clone().lock_owned().await;
        // Who waited while a page was begun and written has that one: many at once cost two pages, not as many as they
        // are.
        if let Some((_, text)) = page.as_ref().filter(|(begun, _)| *begun >= asked) {
            return reply(StatusCode::OK, prometheus::TEXT_FORMAT, text.clone());
        }
        let site = self.clone();
        let text = tokio::task::spawn_blocking(move || {
            let begun = Instant::now();
            (site.before_scrape)();
            let text = site.bridge.text().map(Bytes::from);
            *page = text.as_ref().ok().map(|text| (begun, text.clone()));
            text
        });
        match text.await {
            Ok(Ok(text)) => reply(StatusCode::OK, prometheus::TEXT_FORMAT, text),
            Ok(Err(error)) => reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error:#}\n")),
            Err(error) => reply(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
        }
    }
}

fn reply(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
