//! Log records and spans over the end of an agent: what waits is in a folder, and the next agent sends it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use oom_watcher::export::otlp::{Answer, Otlp, Receiver};
use oom_watcher::export::settings;
use oom_watcher::stats::Stats;
use tonic::Code;

use crate::otlp::{free_address, numbers, span};
use crate::setup::{ANY, LONG, OWNERS, deadline, grpc, log_record, settings, start, until};

fn spooling(address: SocketAddr, folder: &Path) -> settings::Otlp {
    settings::Otlp { spool: Some(folder.to_owned()), ..settings(&grpc(address)) }
}

/// Waits until all up to this record is kept.
async fn until_kept(otlp: &Otlp, record: Option<u64>) {
    while otlp.acknowledged() < record.unwrap() {
        otlp.acknowledging().notified().await;
    }
}

/// Ends it, though the collector does not answer.
async fn end(otlp: Otlp) {
    otlp.shutdown(tokio::time::Instant::now() + Duration::from_millis(50)).await;
}

#[tokio::test]
async fn what_waits_at_the_end_is_sent_by_the_next_agent_before_what_is_new() {
    let (folder, address) = (tempfile::tempdir().unwrap(), free_address());
    let (otlp, stats) = start(&spooling(address, folder.path()));
    otlp.span(span("oom_kill"));
    (0..99).for_each(|number| {
        otlp.log(log_record(number));
    });
    let last = otlp.log(log_record(99));
    until_kept(&otlp, last).await;
    end(otlp).await;
    assert_eq!((stats.logs.lost_shutdown.get(), stats.traces.lost_shutdown.get(), stats.logs.sent.get()), (0, 0, 0));

    let (otlp, stats) = start(&spooling(address, folder.path()));
    assert_eq!((stats.logs.queued.get(), stats.traces.queued.get()), (100, 1));
    otlp.log(log_record(100));
    let receiver = Receiver::start(address).unwrap();
    let received = receiver
        .wait_for(|received| received.records().count() == 101 && received.spans().count() == 1, LONG)
        .await
        .unwrap();
    otlp.shutdown(deadline()).await;
    assert_eq!(numbers(received.records()), (0..=100).collect::<Vec<_>>());
    assert!(received.logs.len() < 10, "{} requests: they go together", received.logs.len());
    let resource = received.logs[0].resource_logs[0].resource.as_ref().unwrap();
    assert_eq!(resource.attributes[0].key, "service.name", "as the agent sent it that had the kill");
    assert_eq!((stats.logs.spooled_bytes.get(), stats.logs.lost_queue_full.get()), (0, 0));
    // Nothing of it comes a third time.
    let (otlp, stats) = start(&spooling(address, folder.path()));
    assert_eq!((stats.logs.queued.get(), stats.traces.queued.get()), (0, 0));
    otlp.shutdown(deadline()).await;
}

#[tokio::test]
async fn what_was_taken_does_not_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start(ANY).unwrap();
    let (otlp, _) = start(&spooling(receiver.address(), folder.path()));
    let first = otlp.log(log_record(1));
    receiver.wait_for(|received| received.records().count() == 1, LONG).await.unwrap();
    until_kept(&otlp, first).await;
    receiver.answer(Answer::Refuse(Code::ResourceExhausted));
    let second = otlp.log(log_record(2));
    until_kept(&otlp, second).await;
    end(otlp).await;
    // Another one: what was under way to the first when the agent ended is refused there, whenever that is.
    let next = Receiver::start(ANY).unwrap();
    let (otlp, _) = start(&spooling(next.address(), folder.path()));
    otlp.shutdown(deadline()).await;
    assert_eq!((numbers(&receiver.records()), numbers(&next.records())), (vec![1], vec![2]));
}

#[tokio::test]
async fn a_folder_is_one_agents_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let settings = spooling(free_address(), folder.path());
    let (otlp, _) = start(&settings);
    let refused = Otlp::start(&settings, &Arc::new(Stats::default()), OWNERS, |_| {}).map(drop).unwrap_err();
    let message = format!("{refused:#}");
    assert!(message.contains("another agent has it") && message.contains("OOM_WATCHER_SPOOL_DIR"), "{message}");
    end(otlp).await;
    end(start(&settings).0).await;
}

#[tokio::test]
async fn without_a_folder_what_waits_is_in_memory_alone() {
    let folder = tempfile::tempdir().unwrap();
    let taken = folder.path().join("taken");
    std::fs::write(&taken, "").unwrap();
    let receiver = Receiver::start(ANY).unwrap();
    receiver.answer(Answer::Hang);
    let (otlp, stats) = start(&spooling(receiver.address(), &taken));
    otlp.log(log_record(1));
    until("it waits", || stats.logs.queued.get() == 1).await;
    assert_eq!((otlp.acknowledged(), stats.logs.spooled_bytes.get()), (0, 0));
    receiver.answer(Answer::Ok);
    otlp.shutdown(deadline()).await;
    assert_eq!(numbers(&receiver.records()), [1]);
}
