//! The task that empties a queue: one request after the other, repeated until the collector takes it.

use std::collections::hash_map::RandomState;
use std::future::Future;
use std::hash::{BuildHasher, Hasher};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_http::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::Queue;
use super::outage::Outage;

/// The pause after the first failure; doubled by each further one.
const FIRST_DELAY: Duration = Duration::from_millis(200);
/// The longest pause between two attempts.
const MAX_DELAY: Duration = Duration::from_secs(5);
/// The longest pause that a collector may ask for.
const MAX_ASKED_DELAY: Duration = Duration::from_secs(60);
/// How often in a row the collector may call a request wrong before its items are given up: one wrong item must not
/// hold up all others for ever.
const MAX_REFUSALS: u32 = 3;

/// Why a request failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// The collector called the request wrong: the same request will fail again.
    pub permanent: bool,
    /// How long the collector wants not to be asked.
    pub retry_after: Option<Duration>,
    /// What happened, with its causes. For people.
    pub cause: String,
}

/// What the collector did with a request that it took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Items that it did not want, and will not want.
    pub rejected: u64,
    /// What it said to it. For people.
    pub why: String,
}

impl Taken {
    /// The same, with so many items that were not sent, as they cannot be understood: nobody will want these either.
    pub fn without(mut self, unreadable: u64) -> Self {
        self.rejected = self.rejected.saturating_add(unreadable);
        self
    }
}

/// Sends what waits with `send`, until the queue is closed and empty, or its deadline has come.
pub(super) async fn deliver<F, Fut>(queue: Arc<Queue>, send: F)
where
    F: Fn(Vec<Bytes>) -> Fut,
    Fut: Future<Output = Result<Taken, Failure>>,
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

        let failure = match within_deadline(send(items), &mut closing).await {
            Ok(taken) => {
                let rejected = taken.rejected.min(count as u64);
                queue.export().lost_rejected.add(rejected);
                queue.export().sent.add(count as u64 - rejected);
                queue.remove(count);
                if rejected > 0 {
                    warn!(
                        signal = queue.signal.as_str(),
                        rejected,
                        why = taken.why,
                        "the collector took a request, but not all that was in it"
                    );
                }
                outage.ended();
                (batch, delay, refusals) = (full_batch, FIRST_DELAY, 0);
                continue;
            }
            Err(failure) => failure,
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
            let asked = failure.retry_after.unwrap_or_default().min(MAX_ASKED_DELAY);
            delay = if pause(delay, asked, &mut closing).await { FIRST_DELAY } else { (delay * 2).min(MAX_DELAY) };
        }
    }
}

/// Waits for an attempt; once the agent ends, no longer than its deadline.
async fn within_deadline(
    attempt: impl Future<Output = Result<Taken, Failure>>,
    closing: &mut watch::Receiver<Option<Instant>>,
) -> Result<Taken, Failure> {
    let mut attempt = pin!(attempt);
    loop {
        let deadline = *closing.borrow_and_update();
        match deadline {
            Some(deadline) => {
                let late = || Failure {
                    cause: "the agent ended before the collector answered".to_owned(),
                    ..Failure::default()
                };
                return tokio::time::timeout_at(deadline, attempt).await.unwrap_or_else(|_| Err(late()));
            }
            None => tokio::select! {
                result = &mut attempt => return result,
                _ = closing.changed() => {}
            },
        }
    }
}

/// Waits for `asked`, and between half of `delay` and all of it, so that the agents of a cluster do not come back in
/// step; not beyond the deadline. `true`, and at once, when the agent begins to end: time is short from then on.
async fn pause(delay: Duration, asked: Duration, closing: &mut watch::Receiver<Option<Instant>>) -> bool {
    let random = RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64;
    let until = Instant::now() + asked + delay.mul_f64(0.5 + random / 2.0);
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
