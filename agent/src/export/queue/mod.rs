//! The way out of one signal: a bounded queue, the task that empties it, and the one that keeps it on disk. Whoever
//! pushes waits for neither.
//!
//! An item stays at the front until the collector has taken it, so what is lost is always the newest, and always
//! counted.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_http::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

use super::settings::QueueLimits;
use super::spool::{Left, Spool};
use crate::stats::{Export, Signal, Stats};
pub use deliver::{Failure, Taken};
pub(super) use outage::Outage;

mod deliver;
mod keep;
mod outage;

/// How long at the end the disk is waited for, if nothing is left of the time for the collector.
const SAVE_GRACE: Duration = Duration::from_secs(2);
/// The most that goes in one request, in bytes, unless one item alone is larger. Collectors take 4 MiB by default.
const MAX_REQUEST: usize = 1 << 20;

/// Items of one signal that wait for the collector, each as bytes of its own.
#[derive(Debug)]
pub struct Queue {
    signal: Signal,
    limits: QueueLimits,
    stats: Arc<Stats>,
    waiting: Mutex<Waiting>,
    arrived: Notify,
    unsaved: Notify,
    acknowledging: Arc<Notify>,
    /// When the agent ends: the moment after which nothing is tried any more.
    closing: watch::Sender<Option<Instant>>,
    /// When nothing will be sent any more.
    closed: watch::Sender<bool>,
}

#[derive(Debug)]
struct Waiting {
    /// Oldest first. Those of the request under way are still there.
    items: VecDeque<Item>,
    bytes: usize,
    /// The number of the last item that was taken in.
    last: u64,
    /// That of the last one that is on disk; those before it are or were, too.
    saved: u64,
    ended: bool,
}

#[derive(Clone, Debug)]
struct Item {
    number: u64,
    bytes: Bytes,
}

impl Waiting {
    /// The number of the last item that the collector has, or that is lost.
    fn done(&self) -> u64 {
        self.items.front().map_or(self.last, |item| item.number.saturating_sub(1))
    }
}

/// A queue at work.
#[derive(Debug)]
pub struct Working {
    queue: Arc<Queue>,
    worker: JoinHandle<()>,
    keeper: Option<JoinHandle<()>>,
}

impl Working {
    /// Starts the task that sends items with `send`: at once when idle, several in one request while others are on
    /// their way; and with a spool the one that keeps them there, after what an earlier agent has left is taken in, to
    /// go first.
    ///
    /// A failed request is repeated without end while the agent runs, half as large each time: a request may fail
    /// because of its size. `send` has to give up by itself after a time. Must be called inside a Tokio runtime.
    pub fn start<F, Fut>(
        signal: Signal,
        limits: QueueLimits,
        stats: &Arc<Stats>,
        spool: Option<(Spool, Left)>,
        send: F,
    ) -> Self
    where
        F: Fn(Vec<Bytes>) -> Fut + Send + 'static,
        Fut: Future<Output = Result<Taken, Failure>> + Send + 'static,
    {
        let queue = Arc::new(Queue {
            signal,
            limits,
            stats: stats.clone(),
            waiting: Mutex::new(Waiting { items: VecDeque::new(), bytes: 0, last: 0, saved: 0, ended: false }),
            arrived: Notify::new(),
            unsaved: Notify::new(),
            acknowledging: Arc::new(Notify::new()),
            closing: watch::Sender::new(None),
            closed: watch::Sender::new(false),
        });
        let keeper = spool.map(|(spool, mut left)| {
            let damaged = std::mem::take(&mut left.damaged);
            queue.export().spooled_bytes.set(spool.size());
            let found = queue.take_in(left);
            tokio::spawn(keep::keep(queue.clone(), spool, found, damaged))
        });
        let worker = tokio::spawn(deliver::deliver(queue.clone(), send));
        Self { queue, worker, keeper }
    }

    /// Where items are pushed.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Sends what waits until nothing does or the `deadline` has come. What is left then, and not on disk, is lost, and
    /// counted. The pause after a failure ends at once. Gives the number of the last item that the collector has, that
    /// is on disk, or that was given up before.
    pub async fn shutdown(self, deadline: Instant) -> u64 {
        let Self { queue, mut worker, keeper } = self;
        queue.closing.send_replace(Some(deadline));
        // The worker keeps the deadline itself; this is for a worker that cannot.
        if tokio::time::timeout_at(deadline, &mut worker).await.is_err() {
            worker.abort();
        }
        queue.closed.send_replace(true);
        if let Some(mut keeper) = keeper {
            // A disk that hangs does not hold up the end. What was given to it is not known to be there.
            if tokio::time::timeout_at(deadline.max(Instant::now() + SAVE_GRACE), &mut keeper).await.is_err() {
                keeper.abort();
            }
        }
        queue.end()
    }
}

impl Queue {
    /// Adds an item; never waits. When the queue is full the item is lost, and counted.
    pub fn push(&self, bytes: Bytes) {
        let mut waiting = self.lock();
        if waiting.ended {
            self.export().lost_shutdown.add(1);
        } else if self.is_full(&waiting, bytes.len()) {
            self.export().lost_queue_full.add(1);
        } else {
            let number = waiting.last + 1;
            waiting.last = number;
            self.add(&mut waiting, Item { number, bytes });
            drop(waiting);
            self.arrived.notify_one();
            self.unsaved.notify_one();
        }
    }

    /// The number of the last item that was taken in. Numbers only grow.
    pub fn accepted(&self) -> u64 {
        self.lock().last
    }

    /// The number of the last item that needs no more care, the collector's, on disk, or a counted loss: those before
    /// it do not either.
    pub fn acknowledged(&self) -> u64 {
        let waiting = self.lock();
        waiting.done().max(waiting.saved)
    }

    /// Tells that [`acknowledged`](Self::acknowledged) has grown.
    pub fn acknowledging(&self) -> Arc<Notify> {
        self.acknowledging.clone()
    }

    fn is_full(&self, waiting: &Waiting, more: usize) -> bool {
        waiting.items.len() >= self.limits.items || waiting.bytes.saturating_add(more) > self.limits.bytes
    }

    fn add(&self, waiting: &mut Waiting, item: Item) {
        waiting.bytes = waiting.bytes.saturating_add(item.bytes.len());
        waiting.items.push_back(item);
        self.set_gauges(waiting);
    }

    fn set_gauges(&self, waiting: &Waiting) {
        self.export().queued.set(waiting.items.len() as u64);
        self.export().queued_bytes.set(waiting.bytes as u64);
    }

    /// Gives how many items there are.
    fn take_in(&self, left: Left) -> usize {
        let mut waiting = self.lock();
        let found = left.items.len();
        for item in left.items {
            if self.is_full(&waiting, item.bytes.len()) {
                self.export().lost_queue_full.add(1);
            } else {
                self.add(&mut waiting, Item { number: item.number, bytes: item.bytes.into() });
            }
        }
        (waiting.last, waiting.saved) = (left.last, left.last);
        found
    }

    fn front(&self, count: usize) -> Vec<Bytes> {
        let waiting = self.lock();
        let mut bytes = 0_usize;
        let fits = |item: &&Item| {
            let is_first = bytes == 0;
            bytes = bytes.saturating_add(item.bytes.len());
            is_first || bytes <= MAX_REQUEST
        };
        waiting.items.iter().take(count).take_while(fits).map(|item| item.bytes.clone()).collect()
    }

    fn remove(&self, count: usize) {
        let mut waiting = self.lock();
        let count = count.min(waiting.items.len());
        let bytes: usize = waiting.items.drain(..count).map(|item| item.bytes.len()).sum();
        waiting.bytes = waiting.bytes.saturating_sub(bytes);
        self.set_gauges(&waiting);
        drop(waiting);
        self.acknowledging.notify_one();
        self.unsaved.notify_one();
    }

    /// Up to which item all are done; and those that are not on disk, as many as are written at once.
    fn unsaved(&self) -> (u64, Vec<Item>) {
        let waiting = self.lock();
        let from = waiting.items.partition_point(|item| item.number <= waiting.saved);
        let mut bytes = 0_usize;
        let fits = |item: &&Item| {
            bytes = bytes.saturating_add(item.bytes.len());
            bytes <= MAX_REQUEST || bytes == item.bytes.len()
        };
        (waiting.done(), waiting.items.range(from..).take_while(fits).cloned().collect())
    }

    fn saved(&self, last: Option<u64>) {
        let Some(last) = last else { return };
        let mut waiting = self.lock();
        waiting.saved = waiting.saved.max(last);
        drop(waiting);
        self.acknowledging.notify_one();
    }

    fn end(&self) -> u64 {
        let mut waiting = self.lock();
        let acknowledged = waiting.done().max(waiting.saved);
        let lost = waiting.items.iter().filter(|item| item.number > acknowledged).count() as u64;
        let kept = waiting.items.len() as u64 - lost;
        waiting.ended = true;
        waiting.items.clear();
        waiting.bytes = 0;
        self.export().lost_shutdown.add(lost);
        self.set_gauges(&waiting);
        drop(waiting);
        if lost > 0 {
            warn!(signal = self.signal.as_str(), lost, "the agent ends before the collector took everything");
        }
        if kept > 0 {
            info!(
                signal = self.signal.as_str(),
                kept, "what the collector did not take is in the spool, for the next agent"
            );
        }
        acknowledged
    }

    fn export(&self) -> &Export {
        self.stats.export(self.signal)
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock()
    }
}

#[cfg(test)]
mod tests;
