//! Where OTLP goes and how, checked and complete: plain data that `config` fills in and `otlp` obeys.

use std::path::PathBuf;
use std::time::Duration;

use opentelemetry::KeyValue;

/// Everything OTLP needs to know. A signal without an endpoint is not exported.
#[derive(Clone, Debug, PartialEq)]
pub struct Otlp {
    /// Log records.
    pub logs: Option<Endpoint>,
    /// Spans.
    pub traces: Option<Endpoint>,
    /// Data points.
    pub metrics: Option<Endpoint>,
    /// Time between two exports of data points.
    pub metric_interval: Duration,
    /// Bounds of the queues of log records and spans.
    pub queue: QueueLimits,
    /// A folder in which what waits is kept too, so that it outlives the agent. Absent if it need not.
    pub spool: Option<PathBuf>,
    /// Attributes of the resource: the agent, never a victim.
    pub resource: Vec<KeyValue>,
}

/// Bounds of one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// Items that may wait. When full, the oldest are kept and new ones are lost, and counted.
    pub items: usize,
    /// Their bytes in all.
    pub bytes: usize,
    /// Items in one request at the most.
    pub batch: usize,
}

/// One destination.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// How to speak to it.
    pub protocol: Protocol,
    /// `http://`, `https://` or `unix://` (gRPC only) and all that follows. For HTTP with the signal's path.
    pub url: String,
    /// Sent with each request. The values may be secrets: `Debug` does not show them.
    pub headers: Vec<(String, String)>,
    /// Compress requests with gzip.
    pub gzip: bool,
    /// Limit for one request.
    pub timeout: Duration,
    /// Certificates; used with `https://` only.
    pub tls: Tls,
}

/// The protocols of `OTEL_EXPORTER_OTLP_PROTOCOL` that the agent speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `grpc`
    Grpc,
    /// `http/protobuf`
    HttpProtobuf,
}

/// PEM texts, read from the files of the standard variables.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Whom to trust instead of the system's roots.
    pub ca: Option<Vec<u8>>,
    /// Our certificate and its key, for mutual TLS.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Endpoint")
            .field("protocol", &self.protocol)
            .field("url", &self.url)
            .field("headers", &names)
            .field("gzip", &self.gzip)
            .field("timeout", &self.timeout)
            .field("tls", &self.tls)
            .finish()
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("ca", &self.ca.is_some()).field("identity", &self.identity.is_some()).finish()
    }
}
