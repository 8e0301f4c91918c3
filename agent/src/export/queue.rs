//! The way out of one signal: a bounded queue and the task that empties it. Whoever pushes never waits for the network.
//!
//! An item stays at the front until the collector has taken it, so what is lost is always the newest, and always counted.

use std::collections::VecDeque;
use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

use super::settings::QueueLimits;
use crate::stats::{Export, Signal, Stats};

/// The pause after the first failure; doubled by each further one.
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// The longest pause between two attempts.
const MAX_DELAY: Duration = Duration::from_secs(5);
/// How often in a row the collector may call a request wrong before its items are given up: one wrong item must not hold up all others for ever.
const MAX_REFUSALS: u32 = 3;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The collector called the request wrong: the same request will fail again.
    pub permanent: bool,
    /// What happened, with its causes. For people.
    pub cause: String,
}

/// Items of one signal that wait for the collector.
#[derive(Debug)]
pub struct Queue<T> {
    signal: Signal,
    limits: QueueLimits,
    stats: Arc<Stats>,
    waiting: Mutex<Waiting<T>>,
    arrived: Notify,
    settling: Arc<Notify>,
    /// When the agent ends: the moment after which nothing is tried any more.
    closing: watch::Sender<Option<Instant>>,
}

#[derive(Debug)]
struct Waiting<T> {
    /// Oldest first. Those of the request under way are still there.
    items: VecDeque<T>,
    /// Items that were ever taken in.
    accepted: u64,
    ended: bool,
}

impl<T: Clone + Send + 'static> Queue<T> {
    /// A queue, and the task that sends its items with `send`: at once when idle, several in one request while others are on their way.
    ///
    /// A failed request is repeated without end while the agent runs, half as large each time: a request may fail because of its size. `send` has to
    /// give up by itself after a time. Must be called inside a Tokio runtime.
    pub fn start<F, Fut>(signal: Signal, limits: QueueLimits, stats: &Arc<Stats>, send: F) -> (Arc<Self>, JoinHandle<()>)
    where
        F: Fn(Vec<T>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), Failure>> + Send + 'static,
    {
        let queue = Arc::new(Self {
            signal,
            limits,
            stats: stats.clone(),
            waiting: Mutex::new(Waiting { items: VecDeque::new(), accepted: 0, ended: false }),
            arrived: Notify::new(),
            settling: Arc::new(Notify::new()),
            closing: watch::Sender::new(None),
        });
        let worker = tokio::spawn(deliver(queue.clone(), send));
        (queue, worker)
    }

    /// Adds an item; never waits. When the queue is full the item is lost, and counted.
    pub fn push(&self, item: T) {
        let mut waiting = self.lock();
        if waiting.ended {
            self.export().lost_shutdown.add(1);
        } else if waiting.items.len() >= self.limits.items {
            self.export().lost_queue_full.add(1);
        } else {
            waiting.items.push_back(item);
            waiting.accepted += 1;
            self.export().queued.set(waiting.items.len() as u64);
            drop(waiting);
            self.arrived.notify_one();
        }
    }

    /// Items that were ever taken in: the number of the last one, counted from 1.
    pub fn accepted(&self) -> u64 {
        self.lock().accepted
    }

    /// The number of the last item that needs no more care, the collector's or as a counted loss: those before it do not either.
    pub fn settled(&self) -> u64 {
        let waiting = self.lock();
        waiting.accepted.saturating_sub(waiting.items.len() as u64)
    }

    /// Tells that [`settled`](Self::settled) has grown.
    pub fn settling(&self) -> Arc<Notify> {
        self.settling.clone()
    }

    /// Sends what waits until nothing does or the `deadline` has come; what is left then is lost, and counted. The pause after a failure ends at once. Gives
    /// the number of the last item that the collector has, or that was given up before.
    pub async fn shutdown(&self, mut worker: JoinHandle<()>, deadline: Instant) -> u64 {
        self.closing.send_replace(Some(deadline));
        // The worker keeps the deadline itself; this is for a worker that cannot.
        if tokio::time::timeout_at(deadline, &mut worker).await.is_err() {
            worker.abort();
        }
        let mut waiting = self.lock();
        let lost = waiting.items.len() as u64;
        let settled = waiting.accepted.saturating_sub(lost);
        waiting.ended = true;
        waiting.items.clear();
        self.export().lost_shutdown.add(lost);
        self.export().queued.set(0);
        drop(waiting);
        if lost > 0 {
            warn!(signal = self.signal.as_str(), lost, "the agent ends before the collector took everything");
        }
        settled
    }

    fn front(&self, count: usize) -> Vec<T> {
        self.lock().items.iter().take(count).cloned().collect()
    }

    fn remove(&self, count: usize) {
        let mut waiting = self.lock();
        let count = count.min(waiting.items.len());
        waiting.items.drain(..count);
        self.export().queued.set(waiting.items.len() as u64);
        drop(waiting);
        self.settling.notify_one();
    }

    fn export(&self) -> &Export {
        self.stats.export(self.signal)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn deliver<T, F, Fut>(queue: Arc<Queue<T>>, send: F)
where
    T: Clone + Send + 'static,
    F: Fn(Vec<T>) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    let mut closing = queue.closing.subscribe();
    let outage = Outage::new(queue.signal);
    let full_batch = queue.limits.batch.max(1);
    let (mut batch, mut delay, mut refusals) = (full_batch, FIRST_DELAY, 0);
    loop {
        let items = queue.front(batch);
        let count = items.len();
        let deadline = *closing.borrow();
        if deadline.is_some_and(|deadline| count == 0 || Instant::now() >= deadline) {
            return;
        }
        if count == 0 {
            tokio::select! {
                () = queue.arrived.notified() => {}
                _ = closing.changed() => {}
            }
            continue;
        }

        let Err(failure) = within_deadline(send(items), &mut closing).await else {
            queue.remove(count);
            queue.export().sent.add(count as u64);
            outage.ended();
            (batch, delay, refusals) = (full_batch, FIRST_DELAY, 0);
            continue;
        };
        queue.export().failures.add(1);
        outage.failed(&failure);
        refusals = if failure.permanent { refusals + 1 } else { 0 };
        if refusals >= MAX_REFUSALS {
            queue.remove(count);
            queue.export().lost_rejected.add(count as u64);
            (batch, delay, refusals) = (full_batch, FIRST_DELAY, 0);
        } else {
            batch = (batch / 2).max(1);
            delay = if pause(delay, &mut closing).await { FIRST_DELAY } else { (delay * 2).min(MAX_DELAY) };
        }
    }
}

/// Waits for an attempt; once the agent ends, no longer than its deadline.
async fn within_deadline(attempt: impl Future<Output = Result<(), Failure>>, closing: &mut watch::Receiver<Option<Instant>>) -> Result<(), Failure> {
    let mut attempt = pin!(attempt);
    loop {
        let deadline = *closing.borrow_and_update();
        match deadline {
            Some(deadline) => {
                let late = || Failure { permanent: false, cause: "the agent ended before the collector answered".to_owned() };
                return tokio::time::timeout_at(deadline, attempt).await.unwrap_or_else(|_| Err(late()));
            }
            None => tokio::select! {
                result = &mut attempt => return result,
                _ = closing.changed() => {}
            },
        }
    }
}

/// Waits between half of `delay` and all of it, so that the agents of a cluster do not come back in step; not beyond the deadline. `true`, and at once,
/// when the agent begins to end: time is short from then on.
async fn pause(delay: Duration, closing: &mut watch::Receiver<Option<Instant>>) -> bool {
    let random = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
    let until = Instant::now() + delay.mul_f64(0.5 + random / 2.0);
    let deadline = *closing.borrow_and_update();
    match deadline {
        Some(deadline) => {
            tokio::time::sleep_until(until.min(deadline)).await;
            false
        }
        None => tokio::select! {
            () = tokio::time::sleep_until(until) => false,
            _ = closing.changed() => true,
        },
    }
}

/// Says once that a signal's export fails, and once that it works again.
#[derive(Debug)]
pub(super) struct Outage {
    signal: Signal,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Working,
    Failing,
    Refused,
}

impl Outage {
    pub(super) fn new(signal: Signal) -> Self {
        Self { signal, state: Mutex::new(State::Working) }
    }

    pub(super) fn failed(&self, failure: &Failure) {
        let (signal, cause) = (self.signal.as_str(), failure.cause.as_str());
        if failure.permanent {
            if self.change(State::Refused) {
                warn!(signal, cause, "the collector refuses what the agent sends, it is lost");
            }
        } else if self.change(State::Failing) {
            warn!(signal, cause, "export fails, the agent goes on trying");
        }
    }

    pub(super) fn ended(&self) {
        if self.change(State::Working) {
            info!(signal = self.signal.as_str(), "export works again");
        }
    }

    /// Whether it was another state before.
    fn change(&self, to: State) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *state, to) != to
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use tokio::sync::{mpsc, oneshot};

    use super::*;

    const LIMITS: QueueLimits = QueueLimits { items: 8, batch: 4 };

    /// A collector in the test's hands: tells each request, then waits for what to answer.
    struct Collector {
        requests: mpsc::UnboundedReceiver<(Vec<u32>, Reply)>,
    }

    type Reply = oneshot::Sender<Result<(), Failure>>;

    impl Collector {
        async fn answer(&mut self, answer: Result<(), Failure>) -> Vec<u32> {
            let (items, reply) = self.requests.recv().await.unwrap();
            reply.send(answer).unwrap();
            items
        }
    }

    fn start(limits: QueueLimits) -> (Arc<Queue<u32>>, JoinHandle<()>, Collector, Arc<Stats>) {
        let stats = Arc::new(Stats::default());
        let (tell, requests) = mpsc::unbounded_channel();
        let (queue, worker) = Queue::start(Signal::Logs, limits, &stats, move |items| {
            let (reply, answer) = oneshot::channel();
            let told = tell.send((items, reply));
            async move {
                told.unwrap();
                answer.await.unwrap()
            }
        });
        (queue, worker, Collector { requests }, stats)
    }

    fn failure() -> Result<(), Failure> {
        Err(Failure { permanent: false, cause: "away".to_owned() })
    }

    fn refusal() -> Result<(), Failure> {
        Err(Failure { permanent: true, cause: "wrong".to_owned() })
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_a_request_is_under_way_goes_together() {
        let (queue, worker, mut collector, stats) = start(LIMITS);
        queue.push(1);
        let (first, reply) = collector.requests.recv().await.unwrap();
        (2..=6).for_each(|item| queue.push(item));
        assert_eq!(stats.logs.queued.get(), 6, "what is under way still waits");
        reply.send(Ok(())).unwrap();
        assert_eq!((queue.accepted(), queue.settled()), (6, 0), "and is not settled");
        assert_eq!((first, collector.answer(Ok(())).await, collector.answer(Ok(())).await), (vec![1], vec![2, 3, 4, 5], vec![6]));
        queue.settling().notified().await;
        queue.shutdown(worker, soon()).await;
        assert_eq!((stats.logs.sent.get(), stats.logs.queued.get(), stats.logs.lost_shutdown.get()), (6, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_loses_the_newest_and_counts_it() {
        let (queue, worker, mut collector, stats) = start(LIMITS);
        (1..=11).for_each(|item| queue.push(item));
        assert_eq!((stats.logs.lost_queue_full.get(), stats.logs.queued.get()), (3, 8));
        assert_eq!([collector.answer(Ok(())).await, collector.answer(Ok(())).await], [[1, 2, 3, 4], [5, 6, 7, 8]]);
        queue.push(12);
        assert_eq!(collector.answer(Ok(())).await, [12]);
        queue.shutdown(worker, soon()).await;
        assert_eq!((stats.logs.sent.get(), queue.accepted(), queue.settled()), (9, 9, 9), "what found no room has no number");
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_comes_again_in_order_and_in_smaller_requests() {
        let (queue, worker, mut collector, stats) = start(LIMITS);
        (1..=5).for_each(|item| queue.push(item));
        let failed = [collector.answer(failure()).await, collector.answer(failure()).await, collector.answer(failure()).await];
        assert_eq!(failed, [vec![1, 2, 3, 4], vec![1, 2], vec![1]]);
        assert_eq!([collector.answer(Ok(())).await, collector.answer(Ok(())).await], [vec![1], vec![2, 3, 4, 5]]);
        queue.shutdown(worker, soon()).await;
        assert_eq!((stats.logs.failures.get(), stats.logs.sent.get()), (3, 5));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_refused_three_times_is_given_up() {
        let (queue, worker, mut collector, stats) = start(QueueLimits { items: 8, batch: 1 });
        queue.push(1);
        queue.push(2);
        // An outage in between is no refusal.
        for answer in [refusal(), refusal(), failure(), refusal(), refusal(), refusal()] {
            assert_eq!(collector.answer(answer).await, [1]);
        }
        assert_eq!(collector.answer(Ok(())).await, [2]);
        queue.shutdown(worker, soon()).await;
        assert_eq!((stats.logs.lost_rejected.get(), stats.logs.sent.get(), stats.logs.failures.get()), (1, 1, 6));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_cuts_the_pause_short_and_then_tries_until_all_is_sent() {
        let (queue, worker, mut collector, stats) = start(LIMITS);
        (1..=5).for_each(|item| queue.push(item));
        for _ in 0..4 {
            collector.answer(failure()).await;
        }
        while stats.logs.failures.get() < 4 {
            tokio::task::yield_now().await;
        }
        // The worker is now in a pause of 800 ms at least.
        let deadline = Instant::now() + Duration::from_millis(700);
        let collect = async {
            assert_eq!(collector.answer(Ok(())).await, [1]);
            assert_eq!(collector.answer(failure()).await, [2, 3, 4, 5]);
            assert_eq!(collector.answer(Ok(())).await, [2, 3]);
            assert_eq!(collector.answer(Ok(())).await, [4, 5]);
        };
        let (settled, ()) = tokio::join!(queue.shutdown(worker, deadline), collect);
        assert_eq!(settled, 5);
        queue.push(6);
        assert_eq!((stats.logs.sent.get(), stats.logs.lost_shutdown.get(), stats.logs.queued.get()), (5, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_gives_up_at_its_deadline() {
        let (queue, worker, mut collector, stats) = start(LIMITS);
        (1..=5).for_each(|item| queue.push(item));
        let begin = Instant::now();
        let fail = async {
            while let Some((_, reply)) = collector.requests.recv().await {
                reply.send(failure()).unwrap();
            }
        };
        tokio::join!(queue.shutdown(worker, begin + Duration::from_secs(10)), fail);
        assert_eq!(begin.elapsed(), Duration::from_secs(10));
        assert!(stats.logs.failures.get() > 3, "{stats:?}");
        assert_eq!((stats.logs.sent.get(), stats.logs.lost_shutdown.get()), (0, 5));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_does_not_wait_for_an_answer_beyond_its_deadline() {
        let (queue, worker, mut collector, stats) = start(LIMITS);
        queue.push(1);
        let under_way = collector.requests.recv().await.unwrap();
        queue.shutdown(worker, Instant::now() + Duration::from_millis(50)).await;
        assert_eq!(stats.logs.lost_shutdown.get(), 1);
        drop(under_way);
    }
}
