//! One process in one cgroup: of one thread, of many, dying, without its main thread, or with another one that shares
//! its memory.

use std::fs;
use std::io::{self, Read, Write};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use oom_watcher::cgroups::hierarchy::Version;
use oom_watcher::selftest::scratch::Scratch;

use super::{await_ready, exceed, idle, ready};
use crate::stage::{Stage, share_memory, signal};
use oom_watcher_testkit::kills::report::{End, Role};

/// How often a state that has no event is looked at, and how long at the most.
const LOOK: Duration = Duration::from_millis(1);
const LOOKS: u32 = 30_000;

/// Enough for the page of a thread's own and for the kernel's table of that page to be needed for nobody else.
const APART: usize = 4 << 20;

/// More than a thread costs before it allocates anything: its stack in the kernel and what it touches of its own.
const THREAD: u64 = 64 << 10;

pub(super) fn one(stage: &mut Stage, path: &str) -> Result<Instant> {
    let limit = stage.limit;
    let cgroup = stage.make(path, Some(limit), None)?;
    let begin = Instant::now();
    let pid = stage.start(Role::Victim, cgroup, || exceed(limit))?;
    stage.wait(pid)?;
    Ok(begin)
}

pub(super) fn threads(stage: &mut Stage, count: u32) -> Result<Instant> {
    let limit = stage.limit + u64::from(count) * THREAD;
    let cgroup = stage.make("threads", Some(limit), None)?;
    let begin = Instant::now();
    let pid = stage.start(Role::Victim, cgroup, || exceed_together(count, limit))?;
    stage.wait(pid)?;
    Ok(begin)
}

pub(super) fn leader(stage: &mut Stage) -> Result<Instant> {
    let limit = stage.limit;
    let cgroup = stage.make("leader", Some(limit), None)?;
    let begin = Instant::now();
    let pid = stage.start(Role::Victim, cgroup, || {
        let state = format!("/proc/self/task/{}/stat", std::process::id());
        thread::Builder::new().spawn(move || {
            // The state follows the command name, which is in parentheses.
            while !fs::read_to_string(&state)
                .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')))
            {
                thread::sleep(LOOK);
            }
            exceed(limit)
        })?;
        // SAFETY: ends this thread alone, without unwinding; what it has on its stack is not used by the other one.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
        bail!("the main thread is still there")
    })?;
    stage.wait(pid)?;
    Ok(begin)
}

/// Every thread touches a new page at its exit: there the kernel writes what `set_tid_address` asked for. By then all
/// are dying and there is no room left, which newer kernels (6.16 and later) answer with marks. None of it is an OOM
/// kill.
pub(super) fn dying(stage: &mut Stage, rounds: u32, threads: u32) -> Result<Instant> {
    // Room for what the kernel has not given back yet of the rounds before, such as stacks. Later it is taken away
    // anyway.
    let limit = 4 * (stage.limit + u64::from(threads) * THREAD);
    let cgroup = stage.make("dying", Some(limit), None)?;
    let begin = Instant::now();
    for _ in 0..rounds {
        let (reader, writer) = io::pipe()?;
        let pid = stage.start(Role::Signalled, cgroup, move || {
            let all = Arc::new(Barrier::new(threads as usize + 1));
            for _ in 0..threads {
                let all = Arc::clone(&all);
                thread::Builder::new().spawn(move || {
                    let untouched =
                        Box::leak(Box::<[u8]>::new_uninit_slice(APART)).as_mut_ptr().wrapping_add(APART / 2);
                    // SAFETY: the address is in memory that is never given back.
                    unsafe { libc::syscall(libc::SYS_set_tid_address, untouched) };
                    all.wait();
                    idle()
                })?;
            }
            all.wait();
            ready(writer)?;
            idle()
        })?;
        await_ready(reader, 1)?;
        leave_no_room(stage.cgroup(cgroup)?)?;
        signal(pid, libc::SIGKILL)?;
        stage.wait(pid)?;
        stage.cgroup(cgroup)?.set_limit(limit)?;
    }
    Ok(begin)
}

/// Two processes with one memory, as between `vfork` and `exec`, but without end. The kernel chooses either, and the
/// other one dies of it as well: it would keep the memory. That one is neither marked nor counted.
pub(super) fn sibling(stage: &mut Stage) -> Result<Instant> {
    let limit = stage.limit;
    let cgroup = stage.make("sibling", Some(limit), None)?;
    let begin = Instant::now();
    let (mut reader, mut writer) = io::pipe()?;
    let first = stage.start(Role::Sibling, cgroup, move || {
        let second = share_memory(0, idle_for_ever)?;
        writer.write_all(&second.to_ne_bytes())?;
        exceed(limit)
    })?;
    let mut second = [0; 4];
    reader.read_exact(&mut second).context("the process ended before it had a sibling")?;
    let second = u32::from_ne_bytes(second);
    stage.adopt(Role::Sibling, cgroup, second)?;
    if stage.wait(first)? != End::Signal(libc::SIGKILL) {
        bail!("process {first} was not killed");
    }
    stage.wait(second)?;
    Ok(begin)
}

/// The same from several threads at once, this one among them. All are made before the first allocates: later they
/// might not be given.
fn exceed_together(threads: u32, limit: u64) -> Result<()> {
    let all = Arc::new(Barrier::new(threads as usize));
    for _ in 1..threads {
        let all = Arc::clone(&all);
        thread::Builder::new().spawn(move || {
            all.wait();
            exceed(limit)
        })?;
    }
    all.wait();
    exceed(limit)
}

/// Lowers the limit to what is used, so that there is no room for another page. Nobody is killed for it.
fn leave_no_room(cgroup: &Scratch) -> Result<()> {
    let usage = || {
        cgroup.read(match cgroup.version() {
            Version::V1 => "memory.usage_in_bytes",
            Version::V2 => "memory.current",
        })
    };
    let mut before = usage()?;
    for _ in 0..LOOKS {
        // Makes the kernel give back what can be given back, and what it keeps ready per CPU: the latter somewhat
        // later.
        let _ = match cgroup.version() {
            // Refused, since all cannot be given back.
            Version::V1 => cgroup.write("memory.limit_in_bytes", "4096"),
            Version::V2 => cgroup.write("memory.high", "0"),
        };
        thread::sleep(LOOK);
        let now = usage()?;
        if now == before {
            cgroup.set_limit(now.trim().parse()?)?;
            if cgroup.version() == Version::V2 {
                cgroup.write("memory.high", "max")?;
            }
            return Ok(());
        }
        before = now;
    }
    bail!("the use of memory of {} does not settle", cgroup.path())
}

/// Neither allocates nor returns: the memory is in use by the other one.
fn idle_for_ever() -> Result<()> {
    loop {
        idle()?;
    }
}
