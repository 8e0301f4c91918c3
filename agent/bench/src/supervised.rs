//! The measuring runs in a process of its own, so that it can be ended at any moment and leaves nothing: its servers
//! and agents end with it, and this process, which waits for it, removes the files of all of them.
//!
//! Nothing is left either when make is asked to end, whose child this process is.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use oom_watcher_testkit::programs::end_with_this;

/// Set for the process that measures.
const MEASURES: &str = "OOM_WATCHER_BENCH_MEASURES";
/// What asks to end: a terminal, whoever sends signals, a terminal that goes away.
const ENDS: [libc::c_int; 4] = [libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGHUP];

/// The signal that came, or 0.
static CAME: AtomicI32 = AtomicI32::new(0);
/// The process that measures, and its group; 0 before there is one.
static CHILD: AtomicI32 = AtomicI32::new(0);
/// It has ended, and what it has left is waited for.
static ENDED: AtomicBool = AtomicBool::new(false);

/// `None`: this is the process that measures. Else it has ended, and this is the exit code of all.
pub(crate) fn run() -> Option<ExitCode> {
    if std::env::var_os(MEASURES).is_some() {
        return None;
    }
    let code = supervise().unwrap_or_else(|error| {
        eprintln!("bench: {error}");
        1
    });
    Some(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}

fn supervise() -> io::Result<i32> {
    // One that was interrupted may still be ending, and its last kills would be counted here.
    let program = File::open(std::env::current_exe()?)?;
    if program.try_lock().is_err() {
        eprintln!("bench: waits for an earlier one to end");
        program.lock()?;
    }
    // SAFETY: numbers, and a handler that does nothing but what a handler may.
    unsafe {
        // What the process that measures has started becomes a child of this one, which waits for its end.
        libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM, 0, 0, 0);
        for signal in ENDS {
            // What nohup(1) or a shell has made deaf to it stays so.
            if libc::signal(signal, ask_to_end as *const () as libc::sighandler_t) == libc::SIG_IGN {
                libc::signal(signal, libc::SIG_IGN);
            }
        }
    }
    // For the files of all, which are below it.
    let folder = tempfile::Builder::new().prefix("oom-watcher-bench-").tempdir()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(std::env::args_os().skip(1)).env(MEASURES, OsStr::new("1")).env("TMPDIR", folder.path());
    // A terminal tells all of its group: then makers of kills would end without removing their cgroups.
    command.process_group(0);
    end_with_this(&mut command);
    let mut child = command.spawn()?;
    CHILD.store(child.id().cast_signed(), Ordering::SeqCst);
    // It came before there was anybody to end.
    if CAME.load(Ordering::SeqCst) != 0 {
        child.kill()?;
    }
    let ended = await_all(&mut child)?;
    folder.close()?;
    Ok(match CAME.load(Ordering::SeqCst) {
        0 => ended.code().unwrap_or_else(|| 128 + ended.signal().unwrap_or_default()),
        signal => {
            eprintln!("bench: ended by signal {signal}; agents and servers are ended, their files removed");
            128 + signal
        }
    })
}

/// Waits for the child, and then for all that it has left.
fn await_all(child: &mut Child) -> io::Result<ExitStatus> {
    let ended = child.wait()?;
    ENDED.store(true, Ordering::SeqCst);
    if CAME.load(Ordering::SeqCst) != 0 {
        eprintln!("bench: waits for what makes kills, which removes its cgroups (once more to end that, too)");
    }
    loop {
        // SAFETY: nobody asks how it ended.
        if unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } == -1 {
            match io::Error::last_os_error() {
                again if again.kind() == io::ErrorKind::Interrupted => {}
                // There is none.
                _ => return Ok(ended),
            }
        }
    }
}

extern "C" fn ask_to_end(signal: libc::c_int) {
    CAME.store(signal, Ordering::SeqCst);
    match CHILD.load(Ordering::SeqCst) {
        0 => {}
        // SAFETY: a number; kill(2) is one of the calls that a handler may make.
        group if ENDED.load(Ordering::SeqCst) => drop(unsafe { libc::kill(-group, libc::SIGKILL) }),
        // SAFETY: the same.
        child => drop(unsafe { libc::kill(child, libc::SIGKILL) }),
    }
}
