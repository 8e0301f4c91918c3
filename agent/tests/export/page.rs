//! The HTTP server of `/metrics`, with clients that behave and clients that do not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oom_watcher::export::prometheus::{Bridge, Health, MAX_CONNECTIONS, bind, serve};
use oom_watcher::stats::Stats;
use opentelemetry::metrics::MeterProvider;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::setup::{ANY, LONG, OWNERS, until};

struct Site {
    address: SocketAddr,
    health: Health,
    stats: Arc<Stats>,
    scrapes: Arc<AtomicU64>,
    /// While it is held, no page can be written.
    gate: Arc<tokio::sync::Mutex<()>>,
}

fn start(bridge: Bridge) -> Site {
    let listener = bind(ANY).unwrap();
    let address = listener.local_addr().unwrap();
    let (health, stats, scrapes) =
        (Health::not_ready("the probe is not attached"), Arc::<Stats>::default(), Arc::<AtomicU64>::default());
    let (count, gate) = (scrapes.clone(), Arc::<tokio::sync::Mutex<()>>::default());
    let pass = gate.clone();
    let before = move || {
        drop(pass.blocking_lock());
        count.fetch_add(1, Ordering::Relaxed);
    };
    tokio::spawn(serve(listener, Arc::new(bridge), health.clone(), stats.clone(), before));
    Site { address, health, stats, scrapes, gate }
}

fn bridge() -> Bridge {
    let bridge = Bridge::new(OWNERS).unwrap();
    bridge
        .provider()
        .meter("test")
        .u64_observable_counter("kills")
        .with_callback(|observer| observer.observe(3, &[]))
        .build();
    bridge
}

impl Site {
    async fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tokio::time::timeout(LONG, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    async fn check(&self, request: &str, status: &str, part: &str) {
        let answer = self.ask(&format!("{request} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(part), "{request}: {answer}");
    }
}

#[tokio::test]
async fn each_path_has_its_page() {
    let site = start(bridge());
    site.check("GET /metrics", "200", "content-type: text/plain; version=0.0.4").await;
    site.check("GET /metrics", "200", "\nkills_total 3\n").await;
    assert_eq!(site.scrapes.load(Ordering::Relaxed), 2);
    site.check("GET /metrics?x=1", "200", "kills_total").await;
    site.check("GET /", "200", "/metrics").await;
    site.check("GET /healthz", "200", "ok").await;
    site.check("GET /other", "404", "not found").await;
    site.check("GET /metrics/", "404", "not found").await;
    site.check("POST /metrics", "405", "allow: GET, HEAD").await;
    site.check("DELETE /healthz", "405", "allow: GET, HEAD").await;
    let answer = site.ask("HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("content-length: ") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
}

#[tokio::test]
async fn readiness_is_told_with_its_reason() {
    let site = start(bridge());
    site.check("GET /readyz", "503", "not ready: the probe is not attached").await;
    site.health.set(None);
    site.check("GET /readyz", "200", "ready").await;
    site.health.set(Some("the probe is gone".to_owned()));
    site.check("GET /readyz", "503", "the probe is gone").await;
    site.check("GET /healthz", "200", "ok").await;
}

#[tokio::test]
async fn a_scrape_without_metrics_is_an_error() {
    let broken = Bridge::new(OWNERS).unwrap();
    broken.provider().meter("test").u64_observable_counter("kills").with_callback(|_| panic!("on purpose")).build();
    let site = start(broken);
    // The first is the panic itself, the others are what it left behind.
    for _ in 0..3 {
        site.check("GET /metrics", "500", "panicked").await;
    }
    site.check("GET /metrics", "500", "\r\n\r\n").await;
    start(Bridge::new(OWNERS).unwrap()).check("GET /metrics", "500", "there are no metrics").await;
}

#[tokio::test]
async fn a_client_that_never_ends_its_request_is_cut_off_and_others_are_served() {
    let site = start(bridge());
    let mut slow = TcpStream::connect(site.address).await.unwrap();
    slow.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nx-slow: ").await.unwrap();
    let mut silent = TcpStream::connect(site.address).await.unwrap();
    site.check("GET /metrics", "200", "kills_total 3").await;
    for client in [&mut slow, &mut silent] {
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(LONG, client.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "still open");
        assert!(!String::from_utf8_lossy(&rest).contains("kills_total"));
    }
    site.check("GET /metrics", "200", "kills_total 3").await;
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let site = start(bridge());
    let large = format!("GET /metrics HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET /metrics HTTP/1.1\r\nhost: x\r\n{}\r\n", "x-many: 1\r\n".repeat(200));
    for request in [large, many] {
        let mut stream = TcpStream::connect(site.address).await.unwrap();
        // The server may close before it has read all.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(!String::from_utf8_lossy(&answer).contains("kills_total"));
    }
    site.check("GET /metrics", "200", "kills_total 3").await;
}

#[tokio::test]
async fn those_who_wait_for_one_page_share_the_next() {
    const CLIENTS: usize = 20;
    let site = start(bridge());
    let closed = site.gate.lock().await;
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = TcpStream::connect(site.address).await.unwrap();
        client.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        clients.push(client);
    }
    // It came after them, so they are waiting.
    site.check("GET /healthz", "200", "ok").await;
    drop(closed);
    for client in &mut clients {
        let mut answer = String::new();
        tokio::time::timeout(LONG, client.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(answer.contains("kills_total 3"), "{answer}");
    }
    let pages = site.scrapes.load(Ordering::Relaxed);
    assert!(pages < CLIENTS as u64 / 2, "{pages} pages for {CLIENTS} clients at once");
}

#[tokio::test]
async fn more_connections_than_there_is_room_for_close_the_oldest_silent_ones() {
    const CLIENTS: usize = 200;
    let site = start(bridge());
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(TcpStream::connect(site.address).await.unwrap());
    }
    let over = (CLIENTS - MAX_CONNECTIONS) as u64;
    until("refused", || site.stats.connections_refused.get() >= over).await;
    assert_eq!(site.stats.connections_refused.get(), over);
    // They are full of clients that say nothing, and who asks is served all the same: who is already there, and who
    // comes.
    let last = clients.last_mut().unwrap();
    last.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    last.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("kills_total 3"), "{answer}");
    for _ in 0..MAX_CONNECTIONS {
        clients.push(TcpStream::connect(site.address).await.unwrap());
        site.check("GET /healthz", "200", "ok").await;
    }
    drop(clients);
    for _ in 0..CLIENTS {
        let answer = async { site.ask("GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await };
        assert!(tokio::time::timeout(LONG, answer).await.is_ok());
    }
}
