//! OTLP over HTTP, against a server that decodes what it is sent.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use oom_watcher::export::otlp::{Otlp, reach};
use oom_watcher::export::settings::{Endpoint, Protocol};
use oom_watcher::stats::{Signal, Stats};
use opentelemetry_proto::tonic::collector::logs::v1::{
    ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse,
};
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use prost::Message;
use tokio::sync::mpsc;

use crate::otlp::{free_address, numbers};
use crate::setup::{ANY, LONG, OWNERS, deadline, endpoint, log_record, settings, start, until};

struct Received {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

/// Answers the first requests with `statuses`, all others with 200.
async fn serve(statuses: &[u16]) -> (SocketAddr, mpsc::UnboundedReceiver<Received>) {
    serve_with(statuses.iter().map(|status| (*status, Bytes::new())).collect()).await
}

async fn serve_with(mut answers: Vec<(u16, Bytes)>) -> (SocketAddr, mpsc::UnboundedReceiver<Received>) {
    let listener = tokio::net::TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::unbounded_channel();
    answers.reverse();
    let answers = Arc::new(std::sync::Mutex::new(answers));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (tell, answers) = (tell.clone(), answers.clone());
            let service = service_fn(move |request: Request<Incoming>| {
                let (tell, answers) = (tell.clone(), answers.clone());
                async move {
                    let (head, body) = request.into_parts();
                    let body = body.collect().await.unwrap().to_bytes();
                    let (status, answer) = answers.lock().unwrap().pop().unwrap_or((200, Bytes::new()));
                    let _ = tell.send(Received { path: head.uri.path().to_owned(), headers: head.headers, body });
                    let response = Response::builder().status(StatusCode::from_u16(status).unwrap());
                    Ok::<_, Infallible>(response.body(Full::new(answer)).unwrap())
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, told)
}

async fn next(told: &mut mpsc::UnboundedReceiver<Received>) -> Received {
    tokio::time::timeout(LONG, told.recv()).await.unwrap().unwrap()
}

fn http(address: SocketAddr, path: &str) -> Endpoint {
    endpoint(Protocol::HttpProtobuf, format!("http://{address}{path}"))
}

#[tokio::test]
async fn what_a_collector_leaves_out_is_counted_as_lost() {
    let partial = ExportLogsPartialSuccess { rejected_log_records: 2, error_message: "too old".to_owned() };
    let answer = ExportLogsServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    // Success is success, also from a proxy that answers with something else.
    let (address, mut told) = serve_with(vec![(200, answer.into()), (200, Bytes::from_static(b"OK"))]).await;
    let (otlp, stats) = start(&settings(&http(address, "/v1/logs")));
    (1..=3).for_each(|number| {
        otlp.log(log_record(number));
    });
    next(&mut told).await;
    until("taken", || stats.logs.queued.get() == 0).await;
    otlp.log(log_record(4));
    next(&mut told).await;
    otlp.shutdown(deadline()).await;
    assert_eq!((stats.logs.lost_rejected.get(), stats.logs.sent.get(), stats.logs.failures.get()), (2, 2, 0));
}

#[tokio::test]
async fn records_are_posted_as_protobuf_with_our_headers_only() {
    let (address, mut told) = serve(&[]).await;
    let mut endpoint = http(address, "/v1/logs");
    endpoint.headers = vec![("x-scope-orgid".to_owned(), "tenant-1".to_owned())];
    let (otlp, stats) = start(&settings(&endpoint));
    otlp.log(log_record(5));
    let request = next(&mut told).await;
    assert_eq!(request.path, "/v1/logs");
    let mut names: Vec<_> = request.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "content-type", "host", "user-agent", "x-scope-orgid"]);
    assert_eq!(
        (&request.headers["content-type"], &request.headers["x-scope-orgid"]),
        (&"application/x-protobuf".parse().unwrap(), &"tenant-1".parse().unwrap())
    );
    let decoded = ExportLogsServiceRequest::decode(request.body).unwrap();
    let records =
        decoded.resource_logs.iter().flat_map(|resource| &resource.scope_logs).flat_map(|scope| &scope.log_records);
    assert_eq!(numbers(records), [5]);
    otlp.shutdown(deadline()).await;
    assert_eq!(stats.logs.sent.get(), 1);
}

#[tokio::test]
async fn gzip_is_on_the_wire() {
    let (address, mut told) = serve(&[]).await;
    let mut endpoint = http(address, "/v1/logs");
    endpoint.gzip = true;
    let (otlp, _) = start(&settings(&endpoint));
    otlp.log(log_record(5));
    let request = next(&mut told).await;
    assert_eq!(request.headers["content-encoding"], "gzip");
    assert_eq!(request.body[..2], [0x1f, 0x8b]);
    otlp.shutdown(deadline()).await;
}

#[tokio::test]
async fn an_overloaded_collector_is_asked_again_and_a_refusing_one_is_not() {
    let (address, mut told) = serve(&[503, 429, 200, 400, 400, 400, 200]).await;
    let (otlp, stats) = start(&settings(&http(address, "/v1/logs")));
    otlp.log(log_record(1));
    until("delivered", || stats.logs.sent.get() == 1).await;
    otlp.log(log_record(2));
    until("given up", || stats.logs.lost_rejected.get() == 1).await;
    otlp.log(log_record(3));
    until("delivered", || stats.logs.sent.get() == 2).await;
    otlp.shutdown(deadline()).await;
    let mut requests = 0;
    while told.try_recv().is_ok() {
        requests += 1;
    }
    assert_eq!(requests, 7);
}

#[tokio::test]
async fn data_points_are_posted_from_the_readers_own_thread() {
    use opentelemetry::metrics::MeterProvider;
    let (address, mut told) = serve(&[]).await;
    let mut settings = settings(&http(address, "/v1/metrics"));
    (settings.logs, settings.traces) = (None, None);
    let stats = Arc::new(Stats::default());
    let otlp = Otlp::start(&settings, &stats, OWNERS, |provider| {
        provider
            .meter("test")
            .u64_observable_counter("kills")
            .with_callback(|observer| observer.observe(1, &[]))
            .build();
    });
    otlp.unwrap().shutdown(deadline()).await;
    let request = next(&mut told).await;
    assert_eq!(request.path, "/v1/metrics");
    let decoded = ExportMetricsServiceRequest::decode(request.body).unwrap();
    assert_eq!(decoded.resource_metrics[0].scope_metrics[0].metrics[0].name, "kills");
    assert_eq!((stats.metrics.sent.get(), stats.metrics.failures.get()), (1, 0));
}

#[tokio::test]
async fn reach_says_what_is_wrong_over_http() {
    let (address, _told) = serve(&[200, 401]).await;
    let check = |message: Result<(), String>, part: &str| {
        let message = message.unwrap_err();
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    };
    assert_eq!(reach(Signal::Traces, &http(address, "/v1/traces")).await, Ok(()));
    check(reach(Signal::Logs, &http(address, "/v1/logs")).await, "status code: 401");
    check(reach(Signal::Logs, &http(free_address(), "/v1/logs")).await, "Connection refused");
    let mut grpc_to_http = http(address, "");
    grpc_to_http.protocol = Protocol::Grpc;
    check(reach(Signal::Logs, &grpc_to_http).await, "no gRPC server");
}

/// One HTTPS request on a thread; the answer is 200.
pub(crate) fn serve_tls(config: rustls::ServerConfig) -> SocketAddr {
    let listener = std::net::TcpListener::bind(ANY).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let mut stream = rustls::StreamOwned::new(rustls::ServerConnection::new(Arc::new(config)).unwrap(), stream);
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
            head.push(byte[0]);
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.conn.send_close_notify();
        let _ = stream.flush();
    });
    address
}
