//! The whole machine runs out of memory: only in a guest that nobody needs afterwards.

use std::fs;
use std::io::{self, Read, Write};
use std::ptr;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use oom_watcher::cgroups::hierarchy::Version;

use super::{await_ready, fill, idle, ready};
use crate::stage::{SAFETY_LIMIT, Stage, share_memory, vmstat_kills};
use oom_watcher_testkit::kills::report::Role;

/// Says that this is such a guest.
const GUEST: &str = "OOM_WATCHER_GUEST";

/// What the victim has. It is given back within one pause of the trigger's.
const VICTIM: u64 = 64 << 20;
/// The room that is left below the limit of the victim's cgroup: less than a huge page, so that who guesses takes it
/// for full.
const ROOM: u64 = 512 << 10;
/// What the trigger takes between two looks at the kernel's count.
const STEP: usize = 1 << 20;

/// The smallest page of any machine, and what the smallest table of pages is for.
const PAGE: usize = 4 << 10;
const TABLE: usize = 2 << 20;

/// `oom_score_adj` of who must survive, and of who must not.
const NEVER: &str = "-1000";
const FIRST: &str = "1000";

/// One process takes all memory, in a cgroup without a limit. The kernel kills another one: its cgroup is nearly full,
/// but that is not why.
///
/// `beside`: the trigger is in the cgroup of the victim. Its memory belongs to its parent as well, to whom the kernel
/// charges it: in the cgroup without limit. So all that can be seen from the cgroups is that the one of both is nearly
/// full.
pub(super) fn global(stage: &mut Stage, beside: bool) -> Result<Instant> {
    if std::env::var(GUEST).as_deref() != Ok("1") {
        bail!("refused: the machine would run out of memory. {GUEST}=1 says that it is a guest that nobody needs");
    }
    let memory = machine_memory()?;
    if memory >= SAFETY_LIMIT {
        bail!("{memory} bytes of memory and swap are more than the limit that keeps the machine safe, {SAFETY_LIMIT}");
    }
    // Also for the processes made from now on.
    set_score(NEVER)?;
    let (near, far) = (stage.make("near", None, None)?, stage.make("far", None, None)?);
    let begin = Instant::now();
    let (reader, writer) = io::pipe()?;
    let victim = stage.start(Role::Victim, near, move || {
        set_score(FIRST)?;
        fill(VICTIM)?;
        ready(writer)?;
        idle()
    })?;
    await_ready(reader, 1)?;
    let cgroup = stage.cgroup(near)?;
    let usage = cgroup.read(match cgroup.version() {
        Version::V1 => "memory.usage_in_bytes",
        Version::V2 => "memory.current",
    })?;
    cgroup.set_limit(usage.trim().parse::<u64>()? + ROOM)?;
    let before = vmstat_kills()?;
    let trigger = if beside {
        trigger_beside(stage, near, far, memory, before)?
    } else {
        stage.start(Role::Trigger, far, move || take_all(&Addresses::of(memory)?, before))?
    };
    stage.wait(victim)?;
    stage.wait(trigger)?;
    if beside {
        stage.wait_any()?;
    }
    Ok(begin)
}

/// A process in `near` that takes all memory for its parent in `far`, which waits for its end (`CLONE_VFORK`).
fn trigger_beside(stage: &mut Stage, near: usize, far: usize, memory: u64, before: u64) -> Result<u32> {
    let entrance = stage.cgroup(near)?.entrance()?;
    let (mut reader, mut writer) = io::pipe()?;
    stage.start(Role::Parent, far, move || {
        // By the parent: unlike pages, tables are charged to whoever makes them.
        let addresses = Addresses::of(memory)?;
        let whole = move || {
            (&entrance).write_all(b"0")?;
            writer.write_all(&std::process::id().to_ne_bytes())?;
            take_all(&addresses, before)
        };
        share_memory(libc::CLONE_VFORK, whole).map(drop)
    })?;
    let mut trigger = [0; 4];
    reader.read_exact(&mut trigger).context("the trigger ended before it was there")?;
    let trigger = u32::from_ne_bytes(trigger);
    stage.adopt(Role::Trigger, near, trigger)?;
    Ok(trigger)
}

/// Writes to all of the addresses, until the kernel has killed somebody.
fn take_all(addresses: &Addresses, before: u64) -> Result<()> {
    for offset in (0..addresses.bytes).step_by(PAGE) {
        // SAFETY: inside of the mapping; volatile, so that the write is not optimized away.
        unsafe { addresses.start.add(offset).write_volatile(1) };
        if offset % STEP == 0 && vmstat_kills()? != before {
            return Ok(());
        }
    }
    bail!("{} bytes were there without a kill", addresses.bytes)
}

/// Memory that is not there yet, but the kernel's tables for it are: who writes there needs nothing but pages.
struct Addresses {
    start: *mut u8,
    bytes: usize,
}

impl Addresses {
    fn of(bytes: u64) -> Result<Self> {
        let bytes = usize::try_from(bytes)?;
        let (access, kind) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // SAFETY: a new private mapping at an address that the kernel chooses touches nothing that exists.
        let start = unsafe { libc::mmap(ptr::null_mut(), bytes, access, kind, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error()).context("getting addresses");
        }
        // SAFETY: the mapping is ours. A kernel without huge pages refuses the advice, which then is not needed.
        unsafe { libc::madvise(start, bytes, libc::MADV_NOHUGEPAGE) };
        let start = start.cast::<u8>();
        for offset in (0..bytes).step_by(TABLE) {
            // SAFETY: inside of the mapping. What is read is the kernel's page of zeros, so this takes no memory but
            // the table's.
            unsafe { start.add(offset).read_volatile() };
        }
        Ok(Self { start, bytes })
    }
}

fn set_score(score: &str) -> Result<()> {
    fs::write("/proc/self/oom_score_adj", score).context("setting oom_score_adj")
}

/// Memory and swap of the machine, in bytes.
fn machine_memory() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("reading /proc/meminfo")?;
    let kibibytes = |name: &str| -> Result<u64> {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .with_context(|| format!("no {name} in /proc/meminfo"))?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    };
    Ok((kibibytes("MemTotal:")? + kibibytes("SwapTotal:")?) << 10)
}
