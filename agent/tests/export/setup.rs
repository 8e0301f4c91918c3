//! What the tests have in common: endpoints, sample kills, a way to wait.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use oom_watcher::export::otlp::Otlp;
use oom_watcher::export::settings::{self, Endpoint, Protocol, QueueLimits, Tls};
use oom_watcher::kill::{
    Incident, Kill, KillId, KubernetesOwner, LimitHit, Memory, Owner, Pod, PodContainer, Scope, Trigger, Victim,
};
use oom_watcher::record::log_record::LogRecord;
use oom_watcher::stats::Stats;
use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};
use opentelemetry::{Array, KeyValue, Value};
use uuid::Uuid;

/// Longer than anything takes that works.
pub(crate) const LONG: Duration = Duration::from_secs(30);
pub(crate) const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
pub(crate) const OWNERS: usize = 10;

pub(crate) fn endpoint(protocol: Protocol, url: String) -> Endpoint {
    Endpoint { protocol, url, headers: Vec::new(), gzip: false, timeout: Duration::from_secs(10), tls: Tls::default() }
}

pub(crate) fn grpc(address: SocketAddr) -> Endpoint {
    endpoint(Protocol::Grpc, format!("http://{address}"))
}

/// All three signals to the same place; data points only when asked for.
pub(crate) fn settings(endpoint: &Endpoint) -> settings::Otlp {
    settings::Otlp {
        logs: Some(endpoint.clone()),
        traces: Some(endpoint.clone()),
        metrics: Some(endpoint.clone()),
        metric_interval: Duration::from_secs(3600),
        queue: QueueLimits { items: 1000, bytes: 16 << 20, batch: 100 },
        spool: None,
        resource: vec![KeyValue::new("service.name", "oom-watcher")],
    }
}

pub(crate) fn start(settings: &settings::Otlp) -> (Otlp, Arc<Stats>) {
    let stats = Arc::new(Stats::default());
    (Otlp::start(settings, &stats, OWNERS, |_| {}).unwrap(), stats)
}

pub(crate) fn deadline() -> tokio::time::Instant {
    tokio::time::Instant::now() + LONG
}

/// Waits for what nobody tells: the agent's own numbers.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, waiting).await.is_ok(), "still not: {what}");
}

pub(crate) fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000 + seconds)
}

pub(crate) fn span_context() -> SpanContext {
    SpanContext::new(TraceId::from(0xabcd), SpanId::from(0x1234), TraceFlags::SAMPLED, false, TraceState::default())
}

/// A record whose attribute `number` tells it from others.
pub(crate) fn log_record(number: i64) -> LogRecord {
    LogRecord {
        time: time(1),
        body: "python3 was killed".to_owned(),
        attributes: vec![
            KeyValue::new("number", number),
            KeyValue::new("k8s.pod.name", "web-1"),
            KeyValue::new("share", 0.5),
            KeyValue::new("survived", true),
            KeyValue::new("path", Value::Array(Array::String(vec!["a".into(), "b".into()]))),
        ],
        context: span_context(),
    }
}

pub(crate) fn owner(pod: &str) -> Owner {
    Owner::Kubernetes(KubernetesOwner {
        pod_uid: "8d6e2c1a-3f4b-4c5d-9e6f-7a8b9c0d1e2f".to_owned(),
        qos: None,
        runtime: None,
        container_id: Some("5c1b9a3b1f0d4e6c8a7f2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f70".to_owned()),
        why_no_container: None,
        pod: Some(Box::new(Pod {
            namespace: "default".to_owned(),
            name: pod.to_owned(),
            container: Some(PodContainer { name: "app".to_owned(), ..PodContainer::default() }),
            ..Pod::default()
        })),
    })
}

pub(crate) fn kill(pid: u32) -> Kill {
    let memory = Memory {
        total_vm: Some(6000),
        anon_rss: Some(1000),
        file_rss: Some(2000),
        shmem_rss: Some(3000),
        swap: Some(0),
        pgtables: None,
        is_exact: false,
    };
    let victim = Victim {
        pid,
        tid: pid,
        // The first process of its container, if it is number 1.
        namespace_pid: Some(pid),
        in_host_pid_namespace: false,
        command: "python3".to_owned(),
        user_id: None,
        started: None,
        oom_score_adj: None,
        already_dying: false,
        memory,
        arguments: None,
        end_is_told: false,
    };
    Kill {
        id: KillId::new(Uuid::from_u128(7), pid, Duration::from_secs(1)),
        sequence: u64::from(pid),
        time: time(0) + Duration::from_millis(123),
        victim,
        trigger: Trigger {
            pid,
            tid: pid,
            command: "python3".to_owned(),
            cgroup_id: None,
            cgroup_path: None,
            path_cut: false,
        },
        cgroups: Vec::new(),
        cgroup_path: None,
        path_cut: false,
        decision: None,
        machine: None,
        cgroups_from_files: false,
    }
}

pub(crate) fn incident(kill: &Kill) -> Incident {
    let limit = LimitHit { cgroup_id: None, cgroup_path: None, usage: Some(9000), limit: Some(9000) };
    Incident { id: kill.id, time: kill.time, kills: 1, scope: Scope::Container, method: None, limit: Some(limit) }
}
