//! What the tests of real kills share: the agent as a child, oom-maker, a collector, the text of `/metrics`, and
//! counted skips.

pub(crate) mod agent;
pub(crate) mod api_server;
pub(crate) mod collector;
pub(crate) mod exposition;
pub(crate) mod machine;
pub(crate) mod makers;
pub(crate) mod otelcol;
pub(crate) mod pki;
pub(crate) mod programs;
pub(crate) mod restricted;
pub(crate) mod spooled;
pub(crate) mod told;

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use oom_watcher::cgroups::hierarchy::Hierarchy;

/// What a test waits for comes within this, or never. A guest is slow, and on a busy machine its clock runs ahead of
/// what it does.
pub(crate) fn patience() -> Duration {
    Duration::from_secs(if machine::guest() { 180 } else { 30 })
}
/// Between two looks at what has no event. In a guest each look takes from the one CPU what it looks for.
fn pause() -> Duration {
    Duration::from_millis(if machine::guest() { 50 } else { 10 })
}

/// Ends the test as skipped: `skip!("it needs root")`.
macro_rules! skip {
    ($($reason:tt)+) => {{
        $crate::support::count_skip(&format!($($reason)+));
        return;
    }};
}
pub(crate) use skip;

/// Tells what `make test` counts. With `CI=true`, what the machine lacks is a failure.
pub(crate) fn count_skip(reason: &str) {
    let test = thread::current();
    let test = test.name().unwrap_or("?");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} may not be skipped in CI: {reason}");
    tell_skip(reason);
}

/// The same for what cannot be had on such a machine at all.
pub(crate) fn tell_skip(reason: &str) {
    let test = thread::current();
    let mut test = test.name().unwrap_or("?").to_owned();
    if let Some(restricted) = restricted::Restricted::of_environment() {
        // Each skip is counted: the same test may be skipped with other agents too.
        test += &format!(" (user {})", restricted.user);
    }
    // Not by a macro: what macros print is captured where a test succeeds.
    std::io::stderr().write_all(format!("skipped: {test}: {reason}\n").as_bytes()).unwrap();
}

/// Real kills are made by one test at a time: they count what happens on the machine.
pub(crate) fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether memory cgroups can be made here; if not, why.
pub(crate) fn cgroups() -> Result<(), String> {
    // SAFETY: no memory is involved.
    if unsafe { libc::geteuid() } != 0 {
        return Err("it needs root".to_owned());
    }
    Hierarchy::writable().map(drop).map_err(|error| format!("{error:#}"))
}

/// Looks until `look` finds something. For what has no event to wait for.
pub(crate) fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    eventually_within(patience(), what, look)
}

/// The same for what may take longer than anything else.
pub(crate) fn eventually_within<T>(patience: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    try_within(patience, || look().ok_or(())).unwrap_or_else(|()| panic!("within {patience:?} there was no {what}"))
}

/// The same for what may fail for a while: the last error, if it does not succeed.
pub(crate) fn try_within<T, E>(patience: Duration, mut attempt: impl FnMut() -> Result<T, E>) -> Result<T, E> {
    let begin = Instant::now();
    loop {
        match attempt() {
            Err(_) if begin.elapsed() < patience => thread::sleep(pause()),
            result => return result,
        }
    }
}
