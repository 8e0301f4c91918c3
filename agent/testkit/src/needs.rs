//! What a test needs and a machine may lack: the test says so in the form that `make test` counts, and ends.

use std::fmt;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use oom_watcher::cgroups::hierarchy::Hierarchy;

use crate::restricted::Restricted;

/// What the test needs, or the end of the test as skipped: `let programs = needs!(Programs::find());`
///
/// Takes a `Result` whose error becomes a [`Lack`]: a text is [`Lack::Missing`].
#[macro_export]
macro_rules! needs {
    ($needed:expr) => {
        match $needed {
            Ok(there) => there,
            Err(lack) => return $crate::needs::skip(lack),
        }
    };
}
pub use needs;

/// Why a test cannot run here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// The machine lacks a package, a program or a privilege: with `CI=true` that is a failure.
    Missing(String),
    /// The test does not apply to such a machine, and no package would change that.
    Inapplicable(String),
}

impl From<String> for Lack {
    fn from(reason: String) -> Self {
        Self::Missing(reason)
    }
}

impl From<&String> for Lack {
    fn from(reason: &String) -> Self {
        Self::Missing(reason.clone())
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Missing(reason) | Self::Inapplicable(reason)) = self;
        formatter.write_str(reason)
    }
}

/// Real kills on this machine, for one test at a time: tests count what happens on the machine.
#[must_use = "other tests make kills once this is dropped"]
pub struct RealKills {
    _one: MutexGuard<'static, ()>,
}

/// Waits until no other test of this program makes real kills.
///
/// # Errors
/// No memory cgroups can be made here.
pub fn real_kills() -> Result<RealKills, String> {
    static ONE: Mutex<()> = Mutex::new(());
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    cgroups().map(|()| RealKills { _one: one })
}

/// Whether memory cgroups can be made here.
///
/// # Errors
/// They cannot.
pub fn cgroups() -> Result<(), String> {
    root()?;
    Hierarchy::writable().map(drop).map_err(|error| format!("{error:#}"))
}

/// Whether this is root.
///
/// # Errors
/// It is somebody else.
pub fn root() -> Result<(), String> {
    // SAFETY: no memory is involved.
    if unsafe { libc::geteuid() } == 0 { Ok(()) } else { Err("it needs root".to_owned()) }
}

/// Reports that this test is skipped: what [`needs!`] does.
pub fn skip(lack: impl Into<Lack>) {
    let test = thread::current();
    let mut test = test.name().unwrap_or("?").to_owned();
    if let Some(restricted) = Restricted::of_environment() {
        // Each skip is counted: the same test may be skipped with other agents too.
        test += &format!(" (user {})", restricted.user);
    }
    match line(&test, &lack.into(), std::env::var("CI").as_deref() == Ok("true")) {
        // Not by a macro: what macros print is captured where a test succeeds.
        Ok(line) => std::io::stderr().write_all(line.as_bytes()).unwrap(),
        Err(failure) => panic!("{failure}"),
    }
}

/// The line that says so; or why the test may not be skipped.
fn line(test: &str, lack: &Lack, in_ci: bool) -> Result<String, String> {
    match lack {
        Lack::Missing(reason) if in_ci => Err(format!("{test} may not be skipped in CI: {reason}")),
        _ => Ok(format!("skipped: {test}: {lack}\n")),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{Lack, line};

    #[test]
    fn what_is_missing_is_a_failure_in_ci_alone() {
        let check = |lack: &Lack, in_ci: bool, expected: Result<&str, &str>| {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(line("a::test", lack, in_ci), expected);
        };
        let missing = Lack::from("it needs root".to_owned());
        check(&missing, false, Ok("skipped: a::test: it needs root\n"));
        check(&missing, true, Err("a::test may not be skipped in CI: it needs root"));
        let inapplicable = Lack::Inapplicable("no swap here".to_owned());
        check(&inapplicable, false, Ok("skipped: a::test: no swap here\n"));
        check(&inapplicable, true, Ok("skipped: a::test: no swap here\n"));
    }

    /// Says to the child that it is the child.
    const CHILD: &str = "OOM_WATCHER_TESTKIT_CHILD";

    #[test]
    fn a_test_that_lacks_something_ends_and_is_named_on_standard_error() {
        if std::env::var_os(CHILD).is_some() {
            let there = needs!(Ok::<_, String>(1));
            let _: () = needs!(Err(format!("{there} thing is missing")));
            panic!("it does not end");
        }
        let name = std::thread::current().name().unwrap().to_owned();
        let run = |ci: &str| {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", &name]).env(CHILD, "1").env("CI", ci);
            let output = child.output().unwrap();
            (output.status.success(), String::from_utf8(output.stderr).unwrap())
        };
        assert_eq!(run("false"), (true, format!("skipped: {name}: 1 thing is missing\n")));
        assert!(!run("true").0);
    }
}
