//! Log records and spans over gRPC, with a collector that comes, goes, hangs and refuses.

use std::net::SocketAddr;
use std::time::{Duration, UNIX_EPOCH};

use oom_watcher::export::otlp::{Answer, Receiver, reach};
use oom_watcher::export::settings::{Protocol, QueueLimits};
use oom_watcher::stats::Signal;
use opentelemetry::trace::{SpanId, SpanKind, Status, TraceContextExt, Tracer, TracerProvider};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tonic::Code;

use crate::setup::{ANY, LONG, deadline, endpoint, grpc, log_record, settings, span_context, start, time, until};

/// The attribute `number` of each record.
pub(crate) fn numbers<'a>(records: impl IntoIterator<Item = &'a LogRecord>) -> Vec<i64> {
    let number = |record: &LogRecord| match attribute(record, "number") {
        Some(Value::IntValue(number)) => number,
        other => panic!("{other:?}"),
    };
    records.into_iter().map(number).collect()
}

fn attribute(record: &LogRecord, key: &str) -> Option<Value> {
    record.attributes.iter().find(|attribute| attribute.key == key)?.value.clone()?.value
}

fn nanos(seconds: u64) -> u64 {
    time(seconds).duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

#[tokio::test]
async fn a_record_is_sent_at_once_with_all_it_says() {
    let receiver = Receiver::start(ANY).unwrap();
    let (otlp, stats) = start(&settings(&grpc(receiver.address())));
    otlp.log(log_record(7));
    let received = receiver.wait_for(|received| received.records().count() == 1, LONG).await.unwrap();

    let resource = &received.logs[0].resource_logs[0];
    assert_eq!(
        resource
            .resource
            .as_ref()
            .unwrap()
            .attributes
            .iter()
            .map(|attribute| attribute.key.as_str())
            .collect::<Vec<_>>(),
        ["service.name"]
    );
    assert_eq!(resource.scope_logs[0].scope.as_ref().unwrap().name, "oom-watcher");
    let record = &resource.scope_logs[0].log_records[0];
    assert_eq!(record.event_name, "oom_watcher.oom_kill");
    assert_eq!(record.time_unix_nano, nanos(1));
    assert!(record.observed_time_unix_nano > 0);
    assert_eq!((record.severity_number, record.severity_text.as_str()), (17, "ERROR"));
    assert_eq!(record.body.as_ref().unwrap().value, Some(Value::StringValue("python3 was killed".to_owned())));
    let context = span_context();
    assert_eq!(
        (record.trace_id.as_slice(), record.span_id.as_slice()),
        (&context.trace_id().to_bytes()[..], &context.span_id().to_bytes()[..])
    );
    assert_eq!(record.flags, 1);
    assert_eq!(attribute(record, "number"), Some(Value::IntValue(7)));
    assert_eq!(attribute(record, "k8s.pod.name"), Some(Value::StringValue("web-1".to_owned())));
    assert_eq!(attribute(record, "share"), Some(Value::DoubleValue(0.5)));
    assert_eq!(attribute(record, "survived"), Some(Value::BoolValue(true)));
    let Some(Value::ArrayValue(path)) = attribute(record, "path") else { panic!("{:?}", record.attributes) };
    let path: Vec<_> = path.values.into_iter().filter_map(|value| value.value).collect();
    assert_eq!(path, [Value::StringValue("a".to_owned()), Value::StringValue("b".to_owned())]);

    otlp.shutdown(deadline()).await;
    assert_eq!((stats.logs.sent.get(), stats.logs.queued.get()), (1, 0));
}

#[tokio::test]
async fn many_records_go_in_few_requests_in_order() {
    let receiver = Receiver::start(ANY).unwrap();
    let (otlp, stats) = start(&settings(&grpc(receiver.address())));
    (0..1000).for_each(|number| {
        otlp.log(log_record(number));
    });
    let received = receiver.wait_for(|received| received.records().count() >= 1000, LONG).await.unwrap();
    assert_eq!(numbers(received.records()), (0..1000).collect::<Vec<_>>());
    assert_eq!(received.logs.len(), 10);
    otlp.shutdown(deadline()).await;
    assert_eq!((stats.logs.sent.get(), stats.logs.lost_queue_full.get()), (1000, 0));
}

#[tokio::test]
async fn nothing_is_lost_while_the_collector_is_away() {
    let address = free_address();
    let (otlp, stats) = start(&settings(&grpc(address)));
    (0..50).for_each(|number| {
        otlp.log(log_record(number));
    });
    until("a failure", || stats.logs.failures.get() > 0).await;
    let receiver = Receiver::start(address).unwrap();
    receiver.wait_for(|received| received.records().count() >= 50, LONG).await.unwrap();
    // And again, with the connection broken under it.
    drop(receiver);
    (50..100).for_each(|number| {
        otlp.log(log_record(number));
    });
    let before = stats.logs.failures.get();
    until("another failure", || stats.logs.failures.get() > before).await;
    let receiver = Receiver::start(address).unwrap();
    receiver.wait_for(|received| received.records().count() >= 50, LONG).await.unwrap();
    otlp.shutdown(deadline()).await;
    assert_eq!(numbers(&receiver.records()), (50..100).collect::<Vec<_>>());
    assert_eq!((stats.logs.sent.get(), stats.logs.lost_shutdown.get()), (100, 0));
}

#[tokio::test]
async fn a_full_queue_keeps_the_oldest_records() {
    let address = free_address();
    let (otlp, stats) = start(&oom_watcher::export::settings::Otlp {
        queue: QueueLimits { items: 5, batch: 2, ..settings(&grpc(address)).queue },
        ..settings(&grpc(address))
    });
    (0..8).for_each(|number| {
        otlp.log(log_record(number));
    });
    assert_eq!((stats.logs.lost_queue_full.get(), stats.logs.queued.get()), (3, 5));
    let receiver = Receiver::start(address).unwrap();
    let received = receiver.wait_for(|received| received.records().count() >= 5, LONG).await.unwrap();
    assert_eq!(numbers(received.records()), [0, 1, 2, 3, 4]);
    otlp.shutdown(deadline()).await;
}

#[tokio::test]
async fn a_collector_that_hangs_is_asked_again() {
    let receiver = Receiver::start(ANY).unwrap();
    receiver.answer(Answer::Hang);
    let mut endpoint = grpc(receiver.address());
    endpoint.timeout = Duration::from_millis(200);
    let (otlp, stats) = start(&settings(&endpoint));
    otlp.log(log_record(1));
    until("a failure", || stats.logs.failures.get() > 0).await;
    receiver.answer(Answer::Ok);
    receiver.wait_for(|received| received.records().count() >= 1, LONG).await.unwrap();
    otlp.shutdown(deadline()).await;
    assert_eq!((stats.logs.sent.get(), stats.logs.lost_shutdown.get()), (1, 0));
}

#[tokio::test]
async fn what_the_collector_calls_wrong_is_given_up_and_counted() {
    let receiver = Receiver::start(ANY).unwrap();
    receiver.answer(Answer::Refuse(Code::InvalidArgument));
    let (otlp, stats) = start(&settings(&grpc(receiver.address())));
    otlp.log(log_record(1));
    until("given up", || stats.logs.lost_rejected.get() == 1).await;
    receiver.answer(Answer::Ok);
    otlp.log(log_record(2));
    let received = receiver.wait_for(|received| received.records().count() >= 1, LONG).await.unwrap();
    assert_eq!(numbers(received.records()), [2]);
    assert_eq!(received.headers.len(), 4, "three refusals, one success");
    otlp.shutdown(deadline()).await;
}

#[tokio::test]
async fn an_overloaded_or_closed_collector_is_asked_until_it_takes_everything() {
    for code in [Code::ResourceExhausted, Code::Unavailable, Code::Internal, Code::Unauthenticated] {
        let receiver = Receiver::start(ANY).unwrap();
        receiver.answer(Answer::Refuse(code));
        let (otlp, stats) = start(&settings(&grpc(receiver.address())));
        otlp.log(log_record(1));
        until("four failures", || stats.logs.failures.get() >= 4).await;
        receiver.answer(Answer::Ok);
        receiver.wait_for(|received| received.records().count() == 1, LONG).await.unwrap();
        otlp.shutdown(deadline()).await;
        assert_eq!((stats.logs.sent.get(), stats.logs.lost_rejected.get()), (1, 0), "{code:?}");
    }
}

#[tokio::test]
async fn shutdown_delivers_what_waits() {
    let receiver = Receiver::start(ANY).unwrap();
    let (otlp, stats) = start(&settings(&grpc(receiver.address())));
    (0..250).for_each(|number| {
        otlp.log(log_record(number));
    });
    otlp.span(span("oom_kill"));
    otlp.shutdown(deadline()).await;
    assert_eq!((receiver.records().len(), receiver.spans().len()), (250, 1));
    assert_eq!((stats.logs.sent.get(), stats.traces.sent.get()), (250, 1));
}

#[tokio::test]
async fn shutdown_with_no_collector_ends_by_its_deadline_and_counts() {
    let hanging = Receiver::start(ANY).unwrap();
    hanging.answer(Answer::Hang);
    for address in [free_address(), hanging.address()] {
        let (otlp, stats) = start(&settings(&grpc(address)));
        (0..7).for_each(|number| {
            otlp.log(log_record(number));
        });
        otlp.span(span("oom_kill"));
        let ended =
            tokio::time::timeout(LONG, otlp.shutdown(tokio::time::Instant::now() + Duration::from_millis(300))).await;
        assert!(ended.is_ok());
        assert_eq!(
            (stats.logs.lost_shutdown.get(), stats.traces.lost_shutdown.get(), stats.logs.queued.get()),
            (7, 1, 0),
            "{address}"
        );
    }
}

#[tokio::test]
async fn a_signal_without_endpoint_goes_nowhere() {
    let nothing =
        oom_watcher::export::settings::Otlp { logs: None, traces: None, metrics: None, ..settings(&grpc(ANY)) };
    let (otlp, stats) = start(&nothing);
    otlp.log(log_record(1));
    otlp.span(span("oom_kill"));
    assert!(otlp.tracer_provider().is_none());
    otlp.shutdown(deadline()).await;
    assert_eq!((stats.logs.queued.get(), stats.logs.lost_shutdown.get()), (0, 0));
}

#[tokio::test]
async fn spans_of_both_kinds_arrive() {
    let receiver = Receiver::start(ANY).unwrap();
    let (otlp, _) = start(&settings(&grpc(receiver.address())));
    otlp.span(span("oom_kill"));
    let tracer = otlp.tracer_provider().unwrap().tracer("oom-watcher");
    let parent = Context::new().with_remote_span_context(span_context());
    drop(tracer.start_with_context("attribute", &parent));
    let received = receiver.wait_for(|received| received.spans().count() == 2, LONG).await.unwrap();
    let names: Vec<_> = received.spans().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["oom_kill", "attribute"]);
    let spans: Vec<_> = received.spans().collect();
    assert_eq!((spans[0].start_time_unix_nano, spans[0].end_time_unix_nano), (nanos(1), nanos(2)));
    assert_eq!(spans[1].trace_id, spans[0].trace_id);
    assert_eq!(spans[1].parent_span_id, spans[0].span_id);
    otlp.shutdown(deadline()).await;
}

#[tokio::test]
async fn requests_are_compressed_and_carry_the_headers_once() {
    let receiver = Receiver::start(ANY).unwrap();
    let mut endpoint = grpc(receiver.address());
    endpoint.gzip = true;
    endpoint.headers =
        vec![("x-scope-orgid".to_owned(), "tenant-1".to_owned()), ("authorization".to_owned(), "Bearer t".to_owned())];
    let (otlp, _) = start(&settings(&endpoint));
    otlp.log(log_record(1));
    otlp.span(span("oom_kill"));
    let enough =
        |received: &oom_watcher::export::otlp::Received| received.records().count() + received.spans().count() == 2;
    let received = receiver.wait_for(enough, LONG).await.unwrap();
    for headers in &received.headers {
        let all = |name: &str| {
            headers.get_all(name).iter().map(|value| value.to_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(
            (all("x-scope-orgid"), all("authorization"), all("grpc-encoding")),
            (vec!["tenant-1".to_owned()], vec!["Bearer t".to_owned()], vec!["gzip".to_owned()])
        );
        assert!(all("user-agent").concat().starts_with("oom-watcher/"), "{headers:?}");
    }
    otlp.shutdown(deadline()).await;
}

#[tokio::test]
async fn a_unix_socket_will_do() {
    let receiver = Receiver::start(ANY).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("otlp.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let address = receiver.address();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut server = tokio::net::TcpStream::connect(address).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    let endpoint = endpoint(Protocol::Grpc, format!("unix://{}", path.display()));
    assert_eq!(reach(Signal::Logs, &endpoint).await, Ok(()));
    let (otlp, _) = start(&settings(&endpoint));
    otlp.log(log_record(1));
    receiver.wait_for(|received| received.records().count() == 1, LONG).await.unwrap();
    otlp.shutdown(deadline()).await;
}

#[tokio::test]
async fn reach_says_what_is_wrong() {
    let receiver = Receiver::start(ANY).unwrap();
    for signal in Signal::ALL {
        assert_eq!(reach(signal, &grpc(receiver.address())).await, Ok(()));
    }
    receiver.answer(Answer::Refuse(Code::Unauthenticated));
    let check = |message: Result<(), String>, part: &str| {
        let message = message.unwrap_err();
        assert!(message.contains(part), "{message:?} does not say {part:?}");
    };
    check(reach(Signal::Logs, &grpc(receiver.address())).await, "Unauthenticated");
    check(reach(Signal::Logs, &grpc(free_address())).await, "Connection refused");
    check(
        reach(Signal::Logs, &endpoint(Protocol::Grpc, "http://collector.invalid:4317".to_owned())).await,
        "dns error",
    );
    check(reach(Signal::Logs, &endpoint(Protocol::Grpc, "http://two words".to_owned())).await, "reading the address");
    receiver.answer(Answer::Hang);
    let mut hanging = grpc(receiver.address());
    hanging.timeout = Duration::from_millis(100);
    check(reach(Signal::Logs, &hanging).await, "no answer within 100ms");
    assert_eq!(receiver.records(), []);
}

pub(crate) fn span(name: &'static str) -> SpanData {
    SpanData {
        span_context: span_context(),
        parent_span_id: SpanId::INVALID,
        parent_span_is_remote: false,
        span_kind: SpanKind::Internal,
        name: name.into(),
        start_time: time(1),
        end_time: time(2),
        attributes: vec![KeyValue::new("k8s.pod.name", "web-1")],
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::builder("oom-watcher").build(),
    }
}

/// An address where nobody listens. Not of that loopback address where the other tests take any port that is free.
pub(crate) fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.7.7.7:0").unwrap().local_addr().unwrap()
}
