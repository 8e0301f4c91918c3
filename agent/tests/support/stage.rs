//! The cgroups of one run of oom-maker and its processes: made, awaited, told and removed in one place.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result, bail};
use oom_watcher::selftest::scratch::Scratch;

use crate::told::{Cgroup, Container, End, Process, Role};

/// No mode needs as much: whatever goes wrong, the machine stays whole.
const SAFETY_LIMIT: u64 = 2 << 30;

/// What exists during a run.
pub(crate) struct Stage {
    /// The cgroup that all others are in.
    pub(crate) root: Scratch,
    /// The limit of one cgroup, in bytes.
    pub(crate) limit: u64,
    /// Chooses the random names.
    pub(crate) seed: u64,
    /// The processes made so far.
    pub(crate) processes: Vec<Process>,
    cgroups: Vec<(Scratch, Option<Container>)>,
}

impl Stage {
    /// An empty one. Its root has a limit of `root_limit` bytes, if that is less than what keeps the machine safe.
    pub(crate) fn new(root: &str, limit: u64, seed: u64, root_limit: Option<u64>) -> Result<Self> {
        let root = Scratch::create(root, root_limit.unwrap_or(SAFETY_LIMIT).min(SAFETY_LIMIT))?;
        Ok(Self { root, limit, seed, processes: Vec::new(), cgroups: Vec::new() })
    }

    /// Makes a cgroup below the root and returns its number.
    pub(crate) fn make(&mut self, path: &str, limit: Option<u64>, container: Option<Container>) -> Result<usize> {
        self.cgroups.push((self.root.nested(path, limit)?, container));
        Ok(self.cgroups.len() - 1)
    }

    /// The cgroup with this number.
    pub(crate) fn cgroup(&self, number: usize) -> Result<&Scratch> {
        self.cgroups.get(number).map(|(scratch, _)| scratch).with_context(|| format!("no cgroup {number}"))
    }

    /// Starts a process in that cgroup that does `body` and ends.
    pub(crate) fn start(&mut self, role: Role, cgroup: usize, body: impl FnOnce() -> Result<()>) -> Result<u32> {
        let scratch = self.cgroup(cgroup)?;
        let (pid, cgroup) = (fork(Some(scratch), body)?, scratch.path());
        self.processes.push(Process { role, pid, cgroup, end: None });
        Ok(pid)
    }

    /// Waits for the end of that process.
    pub(crate) fn wait(&mut self, pid: u32) -> Result<()> {
        let end = wait(pid)?;
        self.ended(pid, end)
    }

    /// Waits for the end of any process.
    pub(crate) fn wait_any(&mut self) -> Result<()> {
        let (pid, end) = wait_for(-1)?;
        self.ended(pid, end)
    }

    /// What there is to tell about the cgroups.
    pub(crate) fn told(&self) -> Result<Vec<Cgroup>> {
        let tell = |(scratch, container): &(Scratch, Option<Container>)| -> Result<Cgroup> {
            Ok(Cgroup { path: scratch.path(), id: scratch.id()?, kernel_kills: scratch.kills()?, container: container.clone() })
        };
        self.cgroups.iter().map(tell).collect()
    }

    fn ended(&mut self, pid: u32, end: End) -> Result<()> {
        // The newest first: a pid may come again.
        let process = self.processes.iter_mut().rev().find(|process| process.pid == pid);
        process.with_context(|| format!("process {pid} is not ours"))?.end = Some(end);
        Ok(())
    }
}

impl Drop for Stage {
    /// Ends the survivors and removes the cgroups, the last first: later ones may be below directories made for earlier ones.
    fn drop(&mut self) {
        for survivor in self.processes.iter().filter(|process| process.end.is_none()) {
            if let Err(error) = signal(survivor.pid, libc::SIGKILL).and_then(|()| wait(survivor.pid)) {
                eprintln!("ending what survived: {error:#}");
            }
        }
        while self.cgroups.pop().is_some() {}
    }
}

/// Starts a process that joins `cgroup` (`None`: stays where this one is), does `body` and ends, at the latest when this one does.
/// Only for a process with one thread.
pub(crate) fn fork(cgroup: Option<&Scratch>, body: impl FnOnce() -> Result<()>) -> Result<u32> {
    // SAFETY: the caller has one thread, so nothing is locked by another one that the child would lack.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()).context("making a process"),
        0 => {
            // SAFETY: no memory is involved.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let whole = || {
                cgroup.map_or(Ok(()), Scratch::join).context("joining the cgroup")?;
                body()
            };
            let code = match catch_unwind(AssertUnwindSafe(whole)) {
                Ok(Ok(())) => 0,
                Ok(Err(error)) => {
                    eprintln!("in a child: {error:#}");
                    2
                }
                Err(_) => 3,
            };
            // SAFETY: ends this process at once; what is to be dropped belongs to the parent.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(pid.cast_unsigned()),
    }
}

/// Waits for the end of that child.
pub(crate) fn wait(pid: u32) -> Result<End> {
    Ok(wait_for(pid.cast_signed())?.1)
}

/// Sends a signal to a child.
pub(crate) fn signal(pid: u32, number: i32) -> Result<()> {
    // SAFETY: no memory is involved; the child was not waited for, so the pid is still its own.
    match unsafe { libc::kill(pid.cast_signed(), number) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).with_context(|| format!("sending signal {number} to {pid}")),
    }
}

fn wait_for(pid: i32) -> Result<(u32, End)> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let pid = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    if pid < 0 {
        return Err(io::Error::last_os_error()).context("waiting for a process");
    }
    if libc::WIFSIGNALED(status) {
        return Ok((pid.cast_unsigned(), End::Signal(libc::WTERMSIG(status))));
    }
    if libc::WIFEXITED(status) {
        return Ok((pid.cast_unsigned(), End::Code(libc::WEXITSTATUS(status))));
    }
    bail!("process {pid} changed its state to {status:#x}")
}
