//! What a queue promises, with a collector in the hands of the test and a clock that stands still.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use std::path::Path;

use tokio::sync::{mpsc, oneshot};

use super::keep::SAVE_RETRY;
use super::*;

const LIMITS: QueueLimits = QueueLimits { items: 8, batch: 4, bytes: 1000 };

/// A collector in the test's hands: tells each request, then waits for what to answer.
struct Collector {
    requests: mpsc::UnboundedReceiver<(Vec<u8>, Reply)>,
}

type Reply = oneshot::Sender<Result<Taken, Failure>>;

impl Collector {
    /// The items of the next request: each is one byte.
    async fn answer(&mut self, answer: Result<Taken, Failure>) -> Vec<u8> {
        let (items, reply) = self.requests.recv().await.unwrap();
        reply.send(answer).unwrap();
        items
    }

    /// Fails each request, until there are no more.
    async fn is_away(&mut self) {
        while let Some((_, reply)) = self.requests.recv().await {
            let _ = reply.send(failure());
        }
    }
}

fn start(limits: QueueLimits) -> (Working, Collector, Arc<Stats>) {
    start_with(limits, None)
}

fn start_with(limits: QueueLimits, spool: Option<(Spool, Left)>) -> (Working, Collector, Arc<Stats>) {
    let stats = Arc::new(Stats::default());
    let (tell, requests) = mpsc::unbounded_channel();
    let working = Working::start(Signal::Logs, limits, &stats, spool, move |items| {
        let (reply, answer) = oneshot::channel();
        let told = tell.send((items.concat(), reply));
        async move {
            // Where the test has ended, nobody is asked any more.
            if told.is_err() { std::future::pending().await } else { answer.await.unwrap_or_else(|_| failure()) }
        }
    });
    (working, Collector { requests }, stats)
}

fn spool(folder: &Path) -> Option<(Spool, Left)> {
    Some(Spool::open(folder).unwrap())
}

fn push(working: &Working, items: impl IntoIterator<Item = u8>) {
    items.into_iter().for_each(|item| working.queue().push(vec![item].into()));
}

/// Waits until all up to that item need no more care.
async fn until_acknowledged(working: &Working, number: u64) {
    while working.queue().acknowledged() < number {
        working.queue().acknowledging().notified().await;
    }
}

fn taken() -> Result<Taken, Failure> {
    Ok(Taken::default())
}

fn failure() -> Result<Taken, Failure> {
    Err(Failure { cause: "away".to_owned(), ..Failure::default() })
}

fn refusal() -> Result<Taken, Failure> {
    Err(Failure { permanent: true, cause: "wrong".to_owned(), ..Failure::default() })
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_a_request_is_under_way_goes_together() {
    let (working, mut collector, stats) = start(LIMITS);
    push(&working, [1]);
    let (first, reply) = collector.requests.recv().await.unwrap();
    push(&working, 2..=6);
    assert_eq!((stats.logs.queued.get(), stats.logs.queued_bytes.get()), (6, 6), "what is under way still waits");
    reply.send(taken()).unwrap();
    assert_eq!((working.queue().accepted(), working.queue().acknowledged()), (6, 0), "and is not acknowledged");
    assert_eq!(
        (first, collector.answer(taken()).await, collector.answer(taken()).await),
        (vec![1], vec![2, 3, 4, 5], vec![6])
    );
    until_acknowledged(&working, 6).await;
    assert_eq!(working.shutdown(soon()).await, 6);
    assert_eq!((stats.logs.sent.get(), stats.logs.queued.get(), stats.logs.lost_shutdown.get()), (6, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_loses_the_newest_and_counts_it() {
    let (working, mut collector, stats) = start(LIMITS);
    push(&working, 1..=11);
    assert_eq!((stats.logs.lost_queue_full.get(), stats.logs.queued.get()), (3, 8));
    assert_eq!([collector.answer(taken()).await, collector.answer(taken()).await], [[1, 2, 3, 4], [5, 6, 7, 8]]);
    until_acknowledged(&working, 8).await;
    push(&working, [12]);
    assert_eq!(working.queue().accepted(), 9, "what found no room has no number");
    assert_eq!(collector.answer(taken()).await, [12]);
    assert_eq!(working.shutdown(soon()).await, 9);
    assert_eq!(stats.logs.sent.get(), 9);
}

#[tokio::test(start_paused = true)]
async fn so_does_one_that_is_full_of_bytes() {
    let (working, mut collector, stats) = start(LIMITS);
    for item in [vec![1; 600], vec![2; 500], vec![3; 400], vec![4]] {
        working.queue().push(item.into());
    }
    assert_eq!(
        (stats.logs.lost_queue_full.get(), stats.logs.queued.get(), stats.logs.queued_bytes.get()),
        (2, 2, 1000)
    );
    assert_eq!(collector.answer(taken()).await, [vec![1; 600], vec![3; 400]].concat());
    working.shutdown(soon()).await;
    assert_eq!((stats.logs.sent.get(), stats.logs.queued_bytes.get()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_request_has_a_bound_in_bytes_and_one_item_at_least() {
    let (working, mut collector, _) = start(QueueLimits { bytes: 100 << 20, ..LIMITS });
    for size in [MAX_REQUEST / 2, MAX_REQUEST / 2, 1, MAX_REQUEST * 2] {
        working.queue().push(vec![0; size].into());
    }
    let mut sizes = Vec::new();
    for _ in 0..3 {
        sizes.push(collector.answer(taken()).await.len());
    }
    assert_eq!(sizes, [MAX_REQUEST, 1, MAX_REQUEST * 2]);
    working.shutdown(soon()).await;
}

#[tokio::test(start_paused = true)]
async fn what_failed_comes_again_in_order_and_in_smaller_requests() {
    let (working, mut collector, stats) = start(LIMITS);
    push(&working, 1..=5);
    let failed =
        [collector.answer(failure()).await, collector.answer(failure()).await, collector.answer(failure()).await];
    assert_eq!(failed, [vec![1, 2, 3, 4], vec![1, 2], vec![1]]);
    assert_eq!([collector.answer(taken()).await, collector.answer(taken()).await], [vec![1], vec![2, 3, 4, 5]]);
    working.shutdown(soon()).await;
    assert_eq!((stats.logs.failures.get(), stats.logs.sent.get()), (3, 5));
}

#[tokio::test(start_paused = true)]
async fn a_collector_that_wants_to_be_left_alone_is() {
    let (working, mut collector, _) = start(LIMITS);
    push(&working, [1]);
    let begin = Instant::now();
    for (asked, least, most) in [(30, 30, 31), (100_000, 60, 62)] {
        let asked = Some(Duration::from_secs(asked));
        collector.answer(Err(Failure { retry_after: asked, cause: "busy".to_owned(), ..Failure::default() })).await;
        let before = begin.elapsed();
        let (_, reply) = collector.requests.recv().await.unwrap();
        let pause = begin.elapsed() - before;
        assert!(pause >= Duration::from_secs(least) && pause < Duration::from_secs(most), "{pause:?}");
        reply.send(failure()).unwrap();
    }
    collector.answer(taken()).await;
    working.shutdown(soon()).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_three_times_is_given_up() {
    let (working, mut collector, stats) = start(QueueLimits { batch: 1, ..LIMITS });
    push(&working, [1]);
    push(&working, [2]);
    // An outage in between is no refusal.
    for answer in [refusal(), refusal(), failure(), refusal(), refusal(), refusal()] {
        assert_eq!(collector.answer(answer).await, [1]);
    }
    assert_eq!(collector.answer(taken()).await, [2]);
    working.shutdown(soon()).await;
    assert_eq!((stats.logs.lost_rejected.get(), stats.logs.sent.get(), stats.logs.failures.get()), (1, 1, 6));
}

#[tokio::test(start_paused = true)]
async fn what_a_collector_leaves_out_of_a_request_that_it_takes_is_lost_and_counted() {
    let (working, mut collector, stats) = start(LIMITS);
    push(&working, 1..=3);
    collector.answer(Ok(Taken { rejected: 2, why: "too old".to_owned() })).await;
    push(&working, [4]);
    // More than there were cannot be.
    collector.answer(Ok(Taken { rejected: 7, why: String::new() })).await;
    working.shutdown(soon()).await;
    assert_eq!((stats.logs.lost_rejected.get(), stats.logs.sent.get(), stats.logs.failures.get()), (3, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn the_end_cuts_the_pause_short_and_then_tries_until_all_is_sent() {
    let (working, mut collector, stats) = start(LIMITS);
    let queue = working.queue().clone();
    push(&working, 1..=5);
    for _ in 0..4 {
        collector.answer(failure()).await;
    }
    while stats.logs.failures.get() < 4 {
        tokio::task::yield_now().await;
    }
    // The worker is now in a pause of 800 ms at least.
    let deadline = Instant::now() + Duration::from_millis(700);
    let collect = async {
        assert_eq!(collector.answer(taken()).await, [1]);
        assert_eq!(collector.answer(failure()).await, [2, 3, 4, 5]);
        assert_eq!(collector.answer(taken()).await, [2, 3]);
        assert_eq!(collector.answer(taken()).await, [4, 5]);
    };
    let (acknowledged, ()) = tokio::join!(working.shutdown(deadline), collect);
    assert_eq!(acknowledged, 5);
    queue.push(vec![6].into());
    assert_eq!((stats.logs.sent.get(), stats.logs.lost_shutdown.get(), stats.logs.queued.get()), (5, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn the_end_gives_up_at_its_deadline() {
    let (working, mut collector, stats) = start(LIMITS);
    push(&working, 1..=5);
    let begin = Instant::now();
    let (acknowledged, ()) = tokio::join!(working.shutdown(begin + Duration::from_secs(10)), collector.is_away());
    assert_eq!(acknowledged, 0);
    assert_eq!(begin.elapsed(), Duration::from_secs(10));
    assert!(stats.logs.failures.get() > 3, "{stats:?}");
    assert_eq!((stats.logs.sent.get(), stats.logs.lost_shutdown.get()), (0, 5));
}

#[tokio::test(start_paused = true)]
async fn the_end_does_not_wait_for_an_answer_beyond_its_deadline() {
    let (working, mut collector, stats) = start(LIMITS);
    push(&working, [1]);
    let under_way = collector.requests.recv().await.unwrap();
    working.shutdown(Instant::now() + Duration::from_millis(50)).await;
    assert_eq!(stats.logs.lost_shutdown.get(), 1);
    drop(under_way);
}

#[tokio::test(start_paused = true)]
async fn what_is_on_disk_needs_no_more_care_and_goes_before_what_is_new() {
    let folder = tempfile::tempdir().unwrap();
    let (working, mut collector, stats) = start_with(LIMITS, spool(folder.path()));
    push(&working, 1..=3);
    // The collector says nothing, and has all of them.
    let under_way = collector.requests.recv().await.unwrap();
    until_acknowledged(&working, 3).await;
    assert!(stats.logs.spooled_bytes.get() > 3);
    let acknowledged = working.shutdown(Instant::now() + Duration::from_millis(50)).await;
    assert_eq!((acknowledged, stats.logs.lost_shutdown.get(), stats.logs.sent.get()), (3, 0, 0));
    drop(under_way);

    let (working, mut collector, stats) = start_with(LIMITS, spool(folder.path()));
    assert_eq!((working.queue().accepted(), working.queue().acknowledged(), stats.logs.queued.get()), (3, 3, 3));
    push(&working, [4]);
    assert_eq!(collector.answer(taken()).await, [1, 2, 3, 4]);
    assert_eq!(working.shutdown(soon()).await, 4);
    assert_eq!(stats.logs.sent.get(), 4);
    assert_eq!(Spool::open(folder.path()).unwrap().1.items, []);
}

#[tokio::test(start_paused = true)]
async fn what_an_agent_that_was_killed_had_is_sent_by_the_next_but_for_what_is_done() {
    let folder = tempfile::tempdir().unwrap();
    let (working, mut collector, _) = start_with(QueueLimits { batch: 1, ..LIMITS }, spool(folder.path()));
    push(&working, 1..=4);
    assert_eq!(collector.answer(taken()).await, [1]);
    assert_eq!(collector.answer(taken()).await, [2]);
    let under_way = collector.requests.recv().await.unwrap();
    until_acknowledged(&working, 4).await;
    // As the files are now: no end that could tidy up.
    let left = tempfile::tempdir().unwrap();
    loop {
        for file in std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), left.path().join(file.file_name())).unwrap();
        }
        // That the second one is done is noted after it is.
        let numbers: Vec<_> = Spool::open(left.path()).unwrap().1.items.into_iter().map(|item| item.number).collect();
        if numbers == [3, 4] {
            break;
        }
        assert!(numbers.ends_with(&[3, 4]), "{numbers:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(under_way);
    let (working, mut collector, _) = start_with(LIMITS, spool(left.path()));
    assert_eq!(collector.answer(taken()).await, [3, 4]);
    working.shutdown(soon()).await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_takes_nothing_is_tried_again_and_holds_up_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("spool");
    let (working, mut collector, stats) = start_with(LIMITS, spool(&place));
    std::fs::remove_dir(&place).unwrap();
    std::fs::write(&place, "in its way").unwrap();
    push(&working, 1..=2);
    let (items, reply) = collector.requests.recv().await.unwrap();
    while stats.logs.spool_failures.get() < 3 {
        tokio::time::sleep(SAVE_RETRY).await;
    }
    assert_eq!((items, working.queue().acknowledged()), (vec![1, 2], 0), "they are in memory alone");
    std::fs::remove_file(&place).unwrap();
    until_acknowledged(&working, 2).await;
    reply.send(taken()).unwrap();
    assert_eq!(working.shutdown(soon()).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_spool_with_more_than_there_is_room_for_gives_the_oldest() {
    let folder = tempfile::tempdir().unwrap();
    let (mut kept, _) = Spool::open(folder.path()).unwrap();
    kept.append(
        (1..=10_u8)
            .map(|number| (u64::from(number), [number]))
            .collect::<Vec<_>>()
            .iter()
            .map(|(number, item)| (*number, item.as_slice())),
    )
    .unwrap();
    drop(kept);
    let (working, mut collector, stats) = start_with(LIMITS, spool(folder.path()));
    assert_eq!((stats.logs.queued.get(), stats.logs.lost_queue_full.get()), (8, 2));
    assert_eq!([collector.answer(taken()).await, collector.answer(taken()).await], [[1, 2, 3, 4], [5, 6, 7, 8]]);
    until_acknowledged(&working, 10).await;
    push(&working, [11]);
    assert_eq!(collector.answer(taken()).await, [11]);
    assert_eq!(working.shutdown(soon()).await, 11);
}
