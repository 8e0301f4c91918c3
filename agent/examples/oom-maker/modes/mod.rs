//! The shapes of OOM kills that oom-maker can make, one function each, and what several of them do.

mod cgroups;
mod machine;
mod namespaces;
mod processes;

use std::io::{PipeReader, PipeWriter, Read, Write};

use anyhow::{Context, Result};
use oom_watcher::selftest::scratch::allocate;

use crate::Mode;
use crate::stage::Stage;

/// More than the kernel's own memory for a cgroup, which is charged to the one above.
const LEVEL: u64 = 1 << 20;

/// Does what `mode` says and returns the seconds that it took; `None` where the kernel has not what it needs.
pub(crate) fn perform(stage: &mut Stage, mode: &Mode) -> Result<Option<f64>> {
    let begin = match mode {
        Mode::At { path } => processes::one(stage, path),
        Mode::One => processes::one(stage, "one"),
        Mode::Threads { threads: count } => processes::threads(stage, *count),
        Mode::Tree => namespaces::tree(stage),
        Mode::Burst { kills, names, concurrency, one_cgroup } => {
            cgroups::burst(stage, *kills, if *one_cgroup { 1 } else { *kills }, *names, *concurrency)
        }
        Mode::Dying { rounds, threads } => processes::dying(stage, *rounds, *threads),
        Mode::Foreign => cgroups::foreign(stage),
        Mode::Leader => processes::leader(stage),
        Mode::Sibling => processes::sibling(stage),
        Mode::Pid1 { siblings } => namespaces::pid1(stage, *siblings),
        Mode::Nested => cgroups::nested(stage),
        Mode::Global { beside } => machine::global(stage, *beside),
        Mode::Group { members } => {
            return Ok(cgroups::group(stage, *members)?.map(|begin| begin.elapsed().as_secs_f64()));
        }
        Mode::Groups { members } => {
            return Ok(cgroups::groups(stage, *members)?.map(|begin| begin.elapsed().as_secs_f64()));
        }
        Mode::Deep { levels, name_bytes, names } => cgroups::deep(stage, *levels, *name_bytes, *names),
    }?;
    Ok(Some(begin.elapsed().as_secs_f64()))
}

/// The limit of the root that a mode needs; `None`: none of its own.
pub(crate) fn root_limit(mode: &Mode, limit: u64) -> Option<u64> {
    match mode {
        Mode::Deep { levels, .. } => Some(limit + (u64::from(*levels) * LEVEL)),
        _ => None,
    }
}

/// Allocates more than the limit: does not return where the OOM killer works.
fn exceed(limit: u64) -> Result<()> {
    fill(limit * 4)
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
