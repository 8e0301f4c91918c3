//! An OTLP/gRPC receiver on loopback that keeps what it is sent: the collector of `oom-watcher selftest` and of the
//! tests.
//!
//! It has a thread and a runtime of its own, so the code that waits for it may block.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use anyhow::anyhow;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint, metric};
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::sync::{oneshot, watch};
use tonic::codec::CompressionEncoding::Gzip;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status};

/// Requests of one signal that are kept; of what comes after, the newest.
const KEPT_REQUESTS: usize = 10_000;

/// A running receiver. Dropping it closes all connections and frees the address.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    service: Service,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Everything received so far: only requests that were answered with success.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// Requests with log records, oldest first.
    pub logs: Vec<ExportLogsServiceRequest>,
    /// When each of these had been decoded.
    pub log_times: Vec<SystemTime>,
    /// Requests with spans, oldest first.
    pub traces: Vec<ExportTraceServiceRequest>,
    /// Requests with data points, oldest first.
    pub metrics: Vec<ExportMetricsServiceRequest>,
    /// Headers of all requests, also of those that were refused.
    pub headers: Vec<MetadataMap>,
}

/// What the receiver answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// Success.
    #[default]
    Ok,
    /// This error.
    Refuse(Code),
    /// Nothing, until another answer is set.
    Hang,
    /// Success, so long after the request has come.
    After(Duration),
}

impl Receiver {
    /// Listens at `address`, port 0 for any, without TLS.
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn start(address: SocketAddr) -> io::Result<Self> {
        Self::start_with(address, Server::builder())
    }

    /// The same on a server that is set up otherwise, for instance with TLS.
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn start_with(address: SocketAddr, mut server: Server) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let service = Service { received: watch::Sender::default(), answer: watch::Sender::default() };
        let (stop, stopped) = oneshot::channel::<()>();
        let router = server
            .add_service(LogsServiceServer::new(service.clone()).accept_compressed(Gzip))
            .add_service(TraceServiceServer::new(service.clone()).accept_compressed(Gzip))
            .add_service(MetricsServiceServer::new(service.clone()).accept_compressed(Gzip));
        let serve = async move {
            if let Ok(listener) = tokio::net::TcpListener::from_std(listener) {
                // Not gracefully: that would wait for clients that keep their connection.
                tokio::select! {
                    _ = router.serve_with_incoming(TcpIncoming::from(listener)) => {}
                    _ = stopped => {}
                }
            }
        };
        // The runtime ends with the thread, and with it all connections.
        let thread =
            std::thread::Builder::new().name("otlp-receiver".to_owned()).spawn(move || runtime.block_on(serve))?;
        Ok(Self { address, service, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on answers so; requests that hang are answered too.
    pub fn answer(&self, answer: Answer) {
        self.service.answer.send_replace(answer);
    }

    /// What `look` says of everything received so far. Meanwhile nothing is received.
    pub fn look<T>(&self, look: impl FnOnce(&Received) -> T) -> T {
        look(&self.service.received.borrow())
    }

    /// All log records, in the order of their arrival.
    pub fn records(&self) -> Vec<LogRecord> {
        self.service.received.borrow().records().cloned().collect()
    }

    /// All spans, in the order of their arrival.
    pub fn spans(&self) -> Vec<Span> {
        self.service.received.borrow().spans().cloned().collect()
    }

    /// All data points of sums and gauges with the names of their metrics, in the order of their arrival.
    pub fn data_points(&self) -> Vec<(String, NumberDataPoint)> {
        self.service
            .received
            .borrow()
            .data_points()
            .map(|(metric, point)| (metric.name.clone(), point.clone()))
            .collect()
    }

    /// Waits until `enough` says so of what was received, then gives all of it.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub async fn wait_for(
        &self,
        mut enough: impl FnMut(&Received) -> bool,
        timeout: Duration,
    ) -> anyhow::Result<Received> {
        self.find(|received| enough(received).then(|| received.clone()), timeout).await
    }

    /// What `look` finds in everything received so far, as soon as it finds something.
    ///
    /// # Errors
    /// It found nothing within `timeout`; the text says what there was instead.
    pub async fn find<T>(&self, mut look: impl FnMut(&Received) -> Option<T>, timeout: Duration) -> anyhow::Result<T> {
        let (mut changes, mut found) = (self.service.received.subscribe(), None);
        let looking = changes.wait_for(|received| {
            found = look(received);
            found.is_some()
        });
        let _ = tokio::time::timeout(timeout, looking).await;
        match found {
            Some(found) => Ok(found),
            None => {
                let received = self.service.received.borrow();
                let (records, spans, points) =
                    (received.records().count(), received.spans().count(), received.data_points().count());
                let requests = received.headers.len();
                Err(anyhow!(
                    "after {timeout:?} there were {records} log records, {spans} spans and {points} data points in \
                     {requests} requests"
                ))
            }
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It ends at once; it panicked only if the server did, and then there is nothing to stop.
            let _ = thread.join();
        }
    }
}

impl Received {
    /// All log records, in the order of their arrival.
    pub fn records(&self) -> impl Iterator<Item = &LogRecord> {
        self.logs
            .iter()
            .flat_map(|request| &request.resource_logs)
            .flat_map(|resource| &resource.scope_logs)
            .flat_map(|scope| &scope.log_records)
    }

    /// All spans, in the order of their arrival.
    pub fn spans(&self) -> impl Iterator<Item = &Span> {
        self.traces
            .iter()
            .flat_map(|request| &request.resource_spans)
            .flat_map(|resource| &resource.scope_spans)
            .flat_map(|scope| &scope.spans)
    }

    /// All data points of sums and gauges with their metrics, in the order of their arrival.
    pub fn data_points(&self) -> impl Iterator<Item = (&Metric, &NumberDataPoint)> {
        let resources = self.metrics.iter().flat_map(|request| &request.resource_metrics);
        resources.flat_map(|resource| &resource.scope_metrics).flat_map(|scope| &scope.metrics).flat_map(|metric| {
            let points: &[NumberDataPoint] = match &metric.data {
                Some(metric::Data::Sum(sum)) => &sum.data_points,
                Some(metric::Data::Gauge(gauge)) => &gauge.data_points,
                _ => &[],
            };
            points.iter().map(move |point| (metric, point))
        })
    }
}

#[derive(Clone, Debug)]
struct Service {
    received: watch::Sender<Received>,
    answer: watch::Sender<Answer>,
}

impl Service {
    async fn take<T, R: Default>(
        &self,
        request: Request<T>,
        kept: impl FnOnce(&mut Received) -> &mut Vec<T>,
    ) -> Result<Response<R>, Status> {
        let (headers, _, message) = request.into_parts();
        self.received.send_modify(|received| keep(&mut received.headers, headers));
        let answered = self.answer.subscribe().wait_for(|answer| *answer != Answer::Hang).await.map(|answer| *answer);
        match answered {
            Ok(Answer::Refuse(code)) => return Err(Status::new(code, "told to refuse")),
            Ok(Answer::After(delay)) => tokio::time::sleep(delay).await,
            _ => {}
        }
        self.received.send_modify(|received| keep(kept(received), message));
        Ok(Response::new(R::default()))
    }
}

fn keep<T>(kept: &mut Vec<T>, new: T) {
    if kept.len() >= KEPT_REQUESTS {
        kept.remove(0);
    }
    kept.push(new);
}

#[tonic::async_trait]
impl LogsService for Service {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let decoded = SystemTime::now();
        self.take(request, move |received| {
            keep(&mut received.log_times, decoded);
            &mut received.logs
        })
        .await
    }
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.take(request, |received| &mut received.traces).await
    }
}

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.take(request, |received| &mut received.metrics).await
    }
}
