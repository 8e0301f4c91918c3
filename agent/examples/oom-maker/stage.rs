//! The cgroups of one run of oom-maker and its processes: made, awaited, told and removed in one place.

use std::ffi::{c_int, c_void};
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, Result, bail};
use oom_watcher::selftest::scratch::Scratch;

use oom_watcher_testkit::kills::report::{Cgroup, Container, End, Process, Role};

/// The stack of a process that shares its memory with another one.
const SHARER_STACK: usize = 256 << 10;

/// No mode needs as much: whatever goes wrong, the machine stays whole.
pub(crate) const SAFETY_LIMIT: u64 = 2 << 30;

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
    /// What the kernel had counted before, see [`vmstat_kills`].
    kills_before: u64,
    cgroups: Vec<(Scratch, Option<Container>)>,
}

impl Stage {
    /// An empty one. Its root has a limit of `root_limit` bytes, if that is less than what keeps the machine safe.
    pub(crate) fn new(root: &str, limit: u64, seed: u64, root_limit: Option<u64>) -> Result<Self> {
        let root = Scratch::create(root, root_limit.unwrap_or(SAFETY_LIMIT).min(SAFETY_LIMIT))?;
        Ok(Self { root, limit, seed, processes: Vec::new(), kills_before: vmstat_kills()?, cgroups: Vec::new() })
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

    /// Takes over a child of this process that another one made in that cgroup.
    pub(crate) fn adopt(&mut self, role: Role, cgroup: usize, pid: u32) -> Result<()> {
        let cgroup = self.cgroup(cgroup)?.path();
        self.processes.push(Process { role, pid, cgroup, end: None });
        Ok(())
    }

    /// Waits for the end of that process.
    pub(crate) fn wait(&mut self, pid: u32) -> Result<End> {
        let end = wait(pid)?;
        self.ended(pid, end)?;
        Ok(end)
    }

    /// Waits for the end of any process.
    pub(crate) fn wait_any(&mut self) -> Result<()> {
        let (pid, end) = wait_for(-1)?;
        self.ended(pid, end)
    }

    /// What there is to tell about the cgroups.
    pub(crate) fn told(&self) -> Result<Vec<Cgroup>> {
        let tell = |(scratch, container): &(Scratch, Option<Container>)| -> Result<Cgroup> {
            let (path, id, kernel_kills) = (scratch.path(), scratch.id()?, scratch.kills()?);
            // Files of version 2. The number of groups came with 5.17.
            let event = |file: &str, key: &str| scratch.read(file).ok().and_then(|events| number(&events, key));
            let events_kills = event("memory.events", "oom_kill");
            let (limit_hits, group_kills) =
                (event("memory.events.local", "oom"), event("memory.events.local", "oom_group_kill"));
            Ok(Cgroup { path, id, kernel_kills, events_kills, limit_hits, group_kills, container: container.clone() })
        };
        self.cgroups.iter().map(tell).collect()
    }

    /// How many kills the kernel counted on the whole machine since the stage was made.
    pub(crate) fn vmstat_kills(&self) -> Result<u64> {
        Ok(vmstat_kills()?.saturating_sub(self.kills_before))
    }

    fn ended(&mut self, pid: u32, end: End) -> Result<()> {
        // The newest first: a pid may come again.
        let process = self.processes.iter_mut().rev().find(|process| process.pid == pid);
        process.with_context(|| format!("process {pid} is not ours"))?.end = Some(end);
        Ok(())
    }
}

impl Drop for Stage {
    /// Ends the survivors and removes the cgroups, the last first: later ones may be below directories made for earlier
    /// ones.
    fn drop(&mut self) {
        for survivor in self.processes.iter().filter(|process| process.end.is_none()) {
            if let Err(error) = signal(survivor.pid, libc::SIGKILL).and_then(|()| wait(survivor.pid)) {
                eprintln!("ending what survived: {error:#}");
            }
        }
        while self.cgroups.pop().is_some() {}
    }
}

/// Starts a process that joins `cgroup` (`None`: stays where this one is), does `body` and ends, at the latest when
/// this one does. Only for a process with one thread.
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
            // SAFETY: ends this process at once; what is to be dropped belongs to the parent.
            unsafe { libc::_exit(exit_code(whole)) }
        }
        pid => Ok(pid.cast_unsigned()),
    }
}

/// Starts a process that has the memory of this one, and the parent of this one; it does `body` and ends, at the latest
/// when its parent does.
///
/// Without `CLONE_VFORK` in `flags` both run at once, on one set of thread-local variables: then `body` captures
/// nothing, and does not allocate.
pub(crate) fn share_memory<F: FnOnce() -> Result<()>>(flags: c_int, body: F) -> Result<u32> {
    extern "C" fn run<F: FnOnce() -> Result<()>>(body: *mut c_void) -> c_int {
        // SAFETY: no memory is involved.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        // SAFETY: it is the box from below, of this type, and nobody else takes it.
        exit_code(*unsafe { Box::from_raw(body.cast::<F>()) })
    }
    let stack = Box::leak(Box::<[u8]>::new_uninit_slice(SHARER_STACK)).as_mut_ptr_range().end;
    let top = stack.wrapping_sub(stack.addr() % 16).cast();
    let flags = flags | libc::CLONE_VM | libc::CLONE_PARENT | libc::SIGCHLD;
    // SAFETY: the stack is used by nobody else and never given back; the function takes what it is given here.
    match unsafe { libc::clone(run::<F>, top, flags, Box::into_raw(Box::new(body)).cast()) } {
        -1 => Err(io::Error::last_os_error()).context("making a process that shares the memory of this one"),
        pid => Ok(pid.cast_unsigned()),
    }
}

/// Does it, and says what a process that did it ends with.
fn exit_code(body: impl FnOnce() -> Result<()>) -> c_int {
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            eprintln!("in a child: {error:#}");
            2
        }
        Err(_) => 3,
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

/// `oom_kill` of /proc/vmstat: what the kernel counted on the whole machine since it was started.
pub(crate) fn vmstat_kills() -> Result<u64> {
    let counters = fs::read_to_string("/proc/vmstat").context("reading /proc/vmstat")?;
    number(&counters, "oom_kill").context("no oom_kill in /proc/vmstat (it came with 4.13)")
}

/// The number behind `key` in lines of `key number`.
fn number(lines: &str, key: &str) -> Option<u64> {
    lines.lines().filter_map(|line| line.split_once(' ')).find(|(name, _)| *name == key)?.1.trim().parse().ok()
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
