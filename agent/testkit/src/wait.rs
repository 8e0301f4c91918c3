//! Waits for what has no event to wait for, with a limit.

use std::thread;
use std::time::{Duration, Instant};

use crate::machine::guest;

/// What a test waits for comes within this, or never. A guest is slow, and on a busy machine its clock runs ahead of
/// what it does.
pub fn patience() -> Duration {
    Duration::from_secs(if guest() { 180 } else { 30 })
}

/// Looks until `look` finds something.
pub fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    eventually_within(patience(), what, look)
}

/// The same for what may take longer than anything else.
pub fn eventually_within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    try_within(patience, || look().ok_or(())).unwrap_or_else(|()| panic!("within {patience:?} there was no {what}"))
}

/// The same for what may fail for a while.
///
/// # Errors
/// The last error, if it does not succeed.
pub fn try_within<T, E>(patience: Duration, mut attempt: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let begin = Instant::now();
    loop {
        match attempt() {
            Err(_) if begin.elapsed() < patience => thread::sleep(pause()),
            result => return result,
        }
    }
}

/// Between two looks. In a guest each look takes from the one CPU what it looks for.
fn pause() -> Duration {
    Duration::from_millis(if guest() { 50 } else { 10 })
}
