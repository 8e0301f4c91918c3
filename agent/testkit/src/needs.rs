//! What a test needs of the machine, and what it says where that is missing.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use oom_watcher::cgroups::hierarchy::Hierarchy;

use crate::restricted::Restricted;

/// Ends the test as skipped: `skip!("it needs root")`.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)+) => {{
        $crate::needs::count_skip(&format!($($reason)+));
        return;
    }};
}
pub use skip;

/// Tells what `make test` counts. With `CI=true`, what the machine lacks is a failure.
pub fn count_skip(reason: &str) {
    let test = thread::current();
    let test = test.name().unwrap_or("?");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{test} may not be skipped in CI: {reason}");
    tell_skip(reason);
}

/// The same for what cannot be had on such a machine at all.
pub fn tell_skip(reason: &str) {
    let test = thread::current();
    let mut test = test.name().unwrap_or("?").to_owned();
    if let Some(restricted) = Restricted::of_environment() {
        // Each skip is counted: the same test may be skipped with other agents too.
        test += &format!(" (user {})", restricted.user);
    }
    // Not by a macro: what macros print is captured where a test succeeds.
    std::io::stderr().write_all(format!("skipped: {test}: {reason}\n").as_bytes()).unwrap();
}

/// Real kills are made by one test at a time: they count what happens on the machine.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether memory cgroups can be made here; if not, why.
///
/// # Errors
/// The reason.
pub fn cgroups() -> Result<(), String> {
    // SAFETY: no memory is involved.
    if unsafe { libc::geteuid() } != 0 {
        return Err("it needs root".to_owned());
    }
    Hierarchy::writable().map(drop).map_err(|error| format!("{error:#}"))
}
