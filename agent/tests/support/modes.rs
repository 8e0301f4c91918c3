//! The shapes of OOM kills that oom-maker can make, one function each.

use std::fs;
use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use oom_watcher::selftest::scratch::{Scratch, allocate};
use oom_watcher::source::hierarchy::Version;

use crate::stage::{Stage, fork, signal, wait};
use crate::told::{Process, Role};
use crate::{Mode, Naming, names};

/// How often a state that has no event is looked at, and how long at the most.
const LOOK: Duration = Duration::from_millis(1);
const LOOKS: u32 = 30_000;

/// Enough for the page of a thread's own and for the kernel's table of that page to be needed for nobody else.
const APART: usize = 4 << 20;

/// More than a thread costs before it allocates anything: its stack in the kernel and what it touches of its own.
const THREAD: u64 = 64 << 10;

/// Does what `mode` says and returns the seconds that it took; `None` where the kernel has not what it needs.
pub(crate) fn perform(stage: &mut Stage, mode: &Mode) -> Result<Option<f64>> {
    let begin = match *mode {
        Mode::One => one(stage),
        Mode::Threads { threads: count } => threads(stage, count),
        Mode::Tree => tree(stage),
        Mode::Burst { kills, names, concurrency } => burst(stage, kills, names, concurrency),
        Mode::Dying { rounds, threads } => dying(stage, rounds, threads),
        Mode::Foreign => foreign(stage),
        Mode::Leader => leader(stage),
        Mode::Group { members } => return Ok(group(stage, members)?.map(|begin| begin.elapsed().as_secs_f64())),
        Mode::Deep { levels, name_bytes, names } => deep(stage, levels, name_bytes, names),
    }?;
    Ok(Some(begin.elapsed().as_secs_f64()))
}

/// The limit of the root that a mode needs; `None`: none of its own.
pub(crate) fn root_limit(mode: &Mode, limit: u64) -> Option<u64> {
    match mode {
        // The kernel's own memory for each level is charged to the one above.
        Mode::Deep { levels, .. } => Some(limit + (u64::from(*levels) << 20)),
        _ => None,
    }
}

fn one(stage: &mut Stage) -> Result<Instant> {
    let limit = stage.limit;
    let cgroup = stage.make("one", Some(limit), None)?;
    let begin = Instant::now();
    let pid = stage.start(Role::Victim, cgroup, || exceed(limit))?;
    stage.wait(pid)?;
    Ok(begin)
}

fn threads(stage: &mut Stage, count: u32) -> Result<Instant> {
    let limit = stage.limit + u64::from(count) * THREAD;
    let cgroup = stage.make("threads", Some(limit), None)?;
    let begin = Instant::now();
    let pid = stage.start(Role::Victim, cgroup, || exceed_together(count, limit))?;
    stage.wait(pid)?;
    Ok(begin)
}

/// As in a container: the parent is the first process of a pid namespace, in a cgroup named like a Kubernetes container.
fn tree(stage: &mut Stage) -> Result<Instant> {
    let limit = stage.limit;
    let (path, container) = names::kubernetes(stage.seed, 0);
    let cgroup = stage.make(&path, Some(limit), container)?;
    let path = stage.cgroup(cgroup)?.path();
    // SAFETY: no memory is involved; the next process is the first one in the new namespace, this one stays where it is.
    if unsafe { libc::unshare(libc::CLONE_NEWPID) } != 0 {
        return Err(io::Error::last_os_error()).context("making a pid namespace (needs CAP_SYS_ADMIN)");
    }
    let begin = Instant::now();
    let (child_ready, ready_writer) = io::pipe()?;
    let (go, mut go_writer) = io::pipe()?;
    let (end, mut end_writer) = io::pipe()?;
    let parent = stage.start(Role::Parent, cgroup, move || {
        let child = fork(None, || {
            ready(ready_writer)?;
            await_ready(go, 1)?;
            exceed(limit)
        })?;
        serde_json::to_writer(&end_writer, &wait(child)?)?;
        end_writer.write_all(b"\n")?;
        idle()
    })?;
    await_ready(child_ready, 1)?;
    // Only here the child has the pid that this process knows it by.
    let members = stage.cgroup(cgroup)?.read("cgroup.procs")?;
    let child = members.lines().filter_map(|pid| pid.parse().ok()).find(|pid| *pid != parent).context("the child is not in the cgroup")?;
    go_writer.write_all(b".")?;
    let mut line = String::new();
    BufReader::new(end).read_line(&mut line)?;
    let end = serde_json::from_str(&line).context("reading how the child ended")?;
    stage.processes.push(Process { role: Role::Victim, pid: child, cgroup: path, end: Some(end) });
    Ok(begin)
}

fn burst(stage: &mut Stage, kills: u32, naming: Naming, concurrency: u32) -> Result<Instant> {
    let limit = stage.limit;
    let mut cgroups = Vec::new();
    for index in 0..u64::from(kills) {
        let (path, container) = match naming {
            Naming::Kubernetes => names::kubernetes(stage.seed, index),
            Naming::Plain => (format!("burst-{index}"), None),
        };
        cgroups.push(stage.make(&path, Some(limit), container)?);
    }
    let begin = Instant::now();
    for (started, cgroup) in cgroups.into_iter().enumerate() {
        if started >= concurrency as usize {
            stage.wait_any()?;
        }
        stage.start(Role::Victim, cgroup, || exceed(limit))?;
    }
    for _ in 0..kills.min(concurrency) {
        stage.wait_any()?;
    }
    Ok(begin)
}

/// Every thread touches a new page at its exit: there the kernel writes what `set_tid_address` asked for. By then all are dying and
/// there is no room left, which newer kernels (6.16 and later) answer with marks. None of it is an OOM kill.
fn dying(stage: &mut Stage, rounds: u32, threads: u32) -> Result<Instant> {
    let limit = stage.limit + u64::from(threads) * THREAD;
    let cgroup = stage.make("dying", Some(limit), None)?;
    let begin = Instant::now();
    for _ in 0..rounds {
        let (reader, writer) = io::pipe()?;
        let pid = stage.start(Role::Signalled, cgroup, move || {
            let all = Arc::new(Barrier::new(threads as usize + 1));
            for _ in 0..threads {
                let all = Arc::clone(&all);
                thread::Builder::new().spawn(move || {
                    let untouched = Box::leak(Box::<[u8]>::new_uninit_slice(APART)).as_mut_ptr().wrapping_add(APART / 2);
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

fn foreign(stage: &mut Stage) -> Result<Instant> {
    let limit = stage.limit;
    stage.make("foreign", Some(limit), None)?;
    let (big, small) = (stage.make("foreign/victim", None, None)?, stage.make("foreign/trigger", None, None)?);
    let begin = Instant::now();
    let (reader, writer) = io::pipe()?;
    let victim = stage.start(Role::Victim, big, move || {
        fill(limit / 4 * 3)?;
        ready(writer)?;
        idle()
    })?;
    await_ready(reader, 1)?;
    let trigger = stage.start(Role::Trigger, small, || fill(limit / 2))?;
    stage.wait(victim)?;
    stage.wait(trigger)?;
    Ok(begin)
}

fn leader(stage: &mut Stage) -> Result<Instant> {
    let limit = stage.limit;
    let cgroup = stage.make("leader", Some(limit), None)?;
    let begin = Instant::now();
    let pid = stage.start(Role::Victim, cgroup, || {
        let state = format!("/proc/self/task/{}/stat", std::process::id());
        thread::Builder::new().spawn(move || {
            // The state follows the command name, which is in parentheses.
            while !fs::read_to_string(&state).is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z'))) {
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

fn group(stage: &mut Stage, members: u32) -> Result<Option<Instant>> {
    let limit = stage.limit;
    let cgroup = stage.make("group", Some(limit), None)?;
    if !stage.cgroup(cgroup)?.set_oom_group()? {
        return Ok(None);
    }
    let begin = Instant::now();
    let (reader, writer) = io::pipe()?;
    for _ in 1..members {
        let writer = writer.try_clone()?;
        stage.start(Role::Victim, cgroup, move || {
            ready(writer)?;
            idle()
        })?;
    }
    drop(writer);
    await_ready(reader, members - 1)?;
    stage.start(Role::Victim, cgroup, || exceed(limit))?;
    for _ in 0..members {
        stage.wait_any()?;
    }
    Ok(Some(begin))
}

fn deep(stage: &mut Stage, levels: u32, name_bytes: u32, naming: Naming) -> Result<Instant> {
    let limit = root_limit(&Mode::Deep { levels, name_bytes, names: naming }, stage.limit).unwrap_or(stage.limit);
    let (end, container) = match naming {
        Naming::Kubernetes => names::kubernetes(stage.seed, 0),
        Naming::Plain => ("victim".to_owned(), None),
    };
    let end: Vec<&str> = end.split('/').filter(|name| !name.is_empty()).collect();
    let Some(above) = (levels as usize).checked_sub(end.len()) else { bail!("{} levels at least for these names", end.len()) };
    let long = (0..above).map(|level| format!("{:x<width$}", format!("level-{level}-"), width = name_bytes as usize));
    let path: Vec<String> = long.chain(end.iter().map(|name| (*name).to_owned())).collect();
    let cgroup = stage.make(&path.join("/"), None, container)?;
    let begin = Instant::now();
    let pid = stage.start(Role::Victim, cgroup, || exceed(limit))?;
    stage.wait(pid)?;
    Ok(begin)
}

/// Allocates more than the limit: does not return where the OOM killer works.
fn exceed(limit: u64) -> Result<()> {
    fill(limit * 4)
}

/// The same from several threads at once, this one among them. All are made before the first allocates: later they might not be given.
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

fn fill(bytes: u64) -> Result<()> {
    Ok(allocate(usize::try_from(bytes)?)?)
}

/// Waits for a signal, for ever.
fn idle() -> Result<()> {
    // SAFETY: no memory is involved.
    unsafe { libc::pause() };
    Ok(())
}

fn ready(mut writer: PipeWriter) -> Result<()> {
    Ok(writer.write_all(b".")?)
}

fn await_ready(mut reader: PipeReader, processes: u32) -> Result<()> {
    reader.read_exact(&mut vec![0; processes as usize]).context("a process ended before it was ready")
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
        // Makes the kernel give back what can be given back, and what it keeps ready per CPU: the latter somewhat later.
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
