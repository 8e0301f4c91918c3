//! The first process of a pid namespace, as in a container: it survives its child, or takes all others with it.

use std::io::{self, BufRead, BufReader, Write};
use std::time::Instant;

use anyhow::{Context, Result};

use super::{await_ready, exceed, idle, ready};
use crate::names;
use crate::stage::{Stage, fork, wait};
use oom_watcher_testkit::kills::report::{Process, Role};

/// More than a process costs that only waits.
const PROCESS: u64 = 512 << 10;

/// As in a container: the parent is the first process of a pid namespace, in a cgroup named like a Kubernetes
/// container.
pub(super) fn tree(stage: &mut Stage) -> Result<Instant> {
    let limit = stage.limit;
    let (path, container) = names::kubernetes(stage.seed, 0);
    let cgroup = stage.make(&path, Some(limit), container)?;
    let path = stage.cgroup(cgroup)?.path();
    enter_pid_namespace()?;
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
    let child = members
        .lines()
        .filter_map(|pid| pid.parse().ok())
        .find(|pid| *pid != parent)
        .context("the child is not in the cgroup")?;
    go_writer.write_all(b".")?;
    let mut line = String::new();
    BufReader::new(end).read_line(&mut line)?;
    let end = serde_json::from_str(&line).context("reading how the child ended")?;
    stage.processes.push(Process { role: Role::Victim, pid: child, cgroup: path, end: Some(end) });
    Ok(begin)
}

/// The kernel kills the first process, and that one on its way out the rest of its namespace (`zap_pid_ns_processes`),
/// by the same signal: those are no OOM kills.
pub(super) fn pid1(stage: &mut Stage, siblings: u32) -> Result<Instant> {
    let limit = stage.limit + u64::from(siblings) * PROCESS;
    let (path, container) = names::kubernetes(stage.seed, 0);
    let cgroup = stage.make(&path, Some(limit), container)?;
    enter_pid_namespace()?;
    let begin = Instant::now();
    let (go, mut go_writer) = io::pipe()?;
    stage.start(Role::Victim, cgroup, move || {
        await_ready(go, 1)?;
        exceed(limit)
    })?;
    let (reader, writer) = io::pipe()?;
    for _ in 0..siblings {
        let writer = writer.try_clone()?;
        stage.start(Role::Collateral, cgroup, move || {
            ready(writer)?;
            idle()
        })?;
    }
    drop(writer);
    await_ready(reader, siblings)?;
    go_writer.write_all(b".")?;
    // In any order: the first process stays until the others are gone.
    for _ in 0..=siblings {
        stage.wait_any()?;
    }
    Ok(begin)
}

/// The next process is the first one in a new namespace; this one stays where it is.
fn enter_pid_namespace() -> Result<()> {
    // SAFETY: no memory is involved.
    match unsafe { libc::unshare(libc::CLONE_NEWPID) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()).context("making a pid namespace (needs CAP_SYS_ADMIN)"),
    }
}
