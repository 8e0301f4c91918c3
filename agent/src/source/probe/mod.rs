//! The probe in the kernel: attached, taken over from an earlier agent, read. The only module that knows aya.
//!
//! Nothing is polled: the kernel wakes the agent. After [`Probe::attach`] no capability is needed any more: events and
//! counters are shared memory.

mod error;
mod load;
pub mod pins;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use aya::maps::{Map, MapData, RingBuf};
use aya::programs::links::FdLink;
use oom_watcher_shared::{Counter, Note};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use uuid::Uuid;

use super::btf::Btf;
use super::event::{self, Malformed, Scale};
use super::layout;
use super::ring::{Numbers, Position, Ring};
use crate::host::{allocator, meminfo};
use crate::kill::{Kill, Machine};
pub use error::AttachError;
use load::Attached;
pub use load::Loaded;
use pins::{Denied, Folder, Set, Sets};

/// What the probe is loaded with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Size of the ring buffer in bytes: a power of two and a multiple of the page size. An event takes 1 to 10 KiB.
    pub ring_bytes: u32,
    /// Whether the beginning of the victim's command line is read. It may have secrets in it.
    pub arguments: bool,
    /// Whether names of cgroups may be read where the kernel allows it. False only to try what is left without.
    pub read_names: bool,
    /// The folder in bpffs where the probe outlives the agent. `None`: it does not.
    pub pins: Option<PathBuf>,
}

/// Where the kernel's type information is.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";

/// What the programs are attached to that the main job cannot do without.
pub const TRACEPOINTS: [&str; 2] = ["signal_generate", "mark_victim"];

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Ends of victims that wait until the events before them are read: as many as there can be notes in their ring buffer
/// (64 KiB).
const MAX_FREED: usize = 4096;

/// Identifies the probe that was built into this binary: a hash of the object, `none` without one.
pub const BUILD: &str = env!("PROBE_BUILD");

/// What the attached probe can tell on this kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Names of cgroups and limits are read in the kernel. If not (lockdown=confidentiality), kills carry the ids of
    /// their cgroups only.
    pub names: bool,
    /// `oom_kill_process` says what each decision is about.
    pub decisions: bool,
    /// `exit_mmap` says when a victim's memory is free.
    pub ends: bool,
}

impl Features {
    const LETTERS: &str = "nde";

    /// A letter for each, in the name of a pinned set.
    fn letters(self) -> String {
        let has = [self.names, self.decisions, self.ends];
        Self::LETTERS.chars().zip(has).filter_map(|(letter, has)| has.then_some(letter)).collect()
    }

    fn parse(letters: &str) -> Option<Self> {
        let has = |letter| letters.contains(letter);
        letters.chars().all(|letter| Self::LETTERS.contains(letter)).then(|| Self {
            names: has('n'),
            decisions: has('d'),
            ends: has('e'),
        })
    }
}

/// Whether the probe outlives the agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pinned {
    /// It does: pinned by this agent.
    New,
    /// It does, and has done since an earlier agent pinned it.
    TakenOver,
    /// It does not: nobody asked for it.
    No,
    /// It does not, for this reason.
    Refused(String),
}

/// A place in one of the ring buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which ring buffer: the id of its map, the same for as long as the kernel runs.
    pub ring: u32,
    /// Where the event ends.
    pub end: Position,
}

/// What the probe reports.
#[derive(Debug)]
pub enum Event {
    /// A kill. It stays in the kernel until its place is [released](Probe::release).
    Kill(Result<Box<Kill>, Malformed>, Place),
    /// The memory of a victim is free.
    Freed {
        /// The [`Kill::sequence`] of its kill.
        sequence: u64,
        /// When it was.
        time: SystemTime,
    },
}

/// The attached probe. When dropped it is detached, unless it is pinned.
pub struct Probe {
    notes: AsyncFd<RingBuf<MapData>>,
    /// Those of other sets first, the own one last.
    sources: Vec<Source>,
    counters: CounterMap,
    leftovers: Vec<(u32, Counters)>,
    boot_id: Uuid,
    page: u64,
    features: Features,
    pinned: Pinned,
    programs: Vec<Loaded>,
    /// There may be events that no note was read of.
    unread: bool,
    freed: VecDeque<Note>,
    /// The kernel detaches what is not pinned when they are closed.
    links: Vec<(&'static str, FdLink)>,
    /// Keeps other agents out.
    _folder: Option<Folder>,
}

/// A ring buffer with events.
struct Source {
    id: u32,
    ring: Ring,
    /// Of another set: it is removed as soon as everything in it is released.
    leftover: Option<Set>,
}

/// What the probe counted since it was attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Confirmed kills, those that found no room among them.
    pub kills: u64,
    /// Kills whose event found no room in the ring buffer.
    pub ring_full: u64,
    /// Marks of dying tasks that were not killed.
    pub marks_without_kill: u64,
    /// The kernel's own SIGKILLs that were no OOM kills, none of the three below.
    pub signals_without_mark: u64,
    /// Victims met again by the decision that killed them: the kernel counts them twice.
    pub repeated: u64,
    /// Processes that shared their memory with a victim.
    pub shared_memory: u64,
    /// Processes that a dying first process of a pid namespace took along.
    pub collateral: u64,
    /// Notes that found no room: ends of victims that were not told.
    pub notes_full: u64,
}

/// Reads the probe's counters; it outlives the probe, with numbers that no longer move.
#[derive(Clone)]
pub struct CounterMap(Arc<Numbers>);

impl CounterMap {
    /// What the probe counted so far.
    pub fn read(&self) -> Counters {
        let mut sums = [0_u64; Counter::SLOTS as usize];
        for (index, number) in self.0.iter().enumerate() {
            if let Some(sum) = sums.get_mut(index % Counter::SLOTS as usize) {
                // A signal is taken back on the CPU that counted it: each is 0 or more.
                *sum = sum.wrapping_add(number);
            }
        }
        let sum = |counter: Counter| sums.get(counter as usize).copied().unwrap_or_default();
        Counters {
            kills: sum(Counter::Kills),
            ring_full: sum(Counter::RingFull),
            marks_without_kill: sum(Counter::MarkWithoutKill),
            signals_without_mark: sum(Counter::SignalWithoutMark),
            repeated: sum(Counter::Repeated),
            shared_memory: sum(Counter::SharedMemory),
            collateral: sum(Counter::Collateral),
            notes_full: sum(Counter::NotesFull),
        }
    }
}

impl fmt::Debug for CounterMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}

impl Probe {
    /// Takes over the probe that an earlier agent of this build has pinned, or loads and attaches it, with the
    /// capabilities that are in effect. Must be called inside a Tokio runtime.
    ///
    /// # Errors
    /// It cannot be attached, or another agent runs. That it cannot be pinned is no error: [`Self::pinned`] tells.
    pub fn attach(config: &Config) -> Result<Self, AttachError> {
        if !load::is_embedded() {
            return Err(AttachError::NoObject);
        }
        let boot_id = std::fs::read_to_string(BOOT_ID)
            .and_then(|text| text.trim().parse().map_err(io::Error::other))
            .map_err(AttachError::NoBootId)?;
        let (folder, refused) = match config.pins.as_deref().map(Folder::open) {
            None => (None, Pinned::No),
            Some(Ok(folder)) => (Some(folder), Pinned::New),
            Some(Err(Denied::Taken(holder))) => return Err(AttachError::Taken(holder)),
            Some(Err(Denied::Unusable(error))) => (None, Pinned::Refused(format!("{error:#}"))),
        };
        let Some(folder) = folder else {
            return Self::start(attach_new(config)?, Vec::new(), None, refused, boot_id);
        };

        let Sets { own, others } = match folder.sets(config) {
            Ok(sets) => sets,
            Err(error) => {
                return Self::start(
                    attach_new(config)?,
                    Vec::new(),
                    None,
                    Pinned::Refused(format!("{error:#}")),
                    boot_id,
                );
            }
        };
        let (attached, pinned) = match own.map(|(set, features)| set.open(features).map_err(|error| (set, error))) {
            Some(Ok(attached)) => (attached, Pinned::TakenOver),
            Some(Err((set, error))) => {
                // Whatever is wrong with it, a new one can be had.
                tracing::warn!(error = format!("{error:#}"), set = %set.path().display(), "a pinned probe cannot be \
                    taken over, it is replaced");
                remove(&set);
                Self::pin(config, &folder)?
            }
            None => Self::pin(config, &folder)?,
        };
        // Only now, with another one attached: no kill falls between the two.
        let leftovers = others.into_iter().filter_map(leftover).collect();
        Self::start(attached, leftovers, Some(folder), pinned, boot_id)
    }

    fn pin(config: &Config, folder: &Folder) -> Result<(Attached, Pinned), AttachError> {
        let mut attached = attach_new(config)?;
        match folder.pin(config, &mut attached) {
            Ok(_) => Ok((attached, Pinned::New)),
            // What was pinned of it has been removed, and with it what was attached.
            Err(error) => {
                drop(attached);
                attach_new(config).map(|attached| (attached, Pinned::Refused(format!("{error:#}"))))
            }
        }
    }

    fn start(
        attached: Attached,
        leftovers: Vec<Leftover>,
        folder: Option<Folder>,
        pinned: Pinned,
        boot_id: Uuid,
    ) -> Result<Self, AttachError> {
        let page = page_size();
        let start = || -> anyhow::Result<Self> {
            let mut sources = Vec::new();
            let mut counted = Vec::new();
            for Leftover { events, counters, set } in leftovers {
                match source(&events, page, Some(set)).and_then(|source| Ok((numbers(&counters, page)?.read(), source)))
                {
                    Ok((counts, source)) => {
                        counted.push((source.id, counts));
                        sources.push(source);
                    }
                    Err(error) => {
                        tracing::warn!(error = format!("{error:#}"), "what another probe has left cannot be read")
                    }
                }
            }
            sources.push(source(&attached.events, page, None)?);
            let counters = numbers(&attached.counters, page)?;
            let notes = RingBuf::try_from(Map::RingBuf(attached.notes))?;
            Ok(Self {
                // SAFETY: the ring buffer owns its descriptor and gives the same one until it is dropped, together with
                // this.
                notes: unsafe { AsyncFd::register_with_interest(notes, Interest::READABLE) }?,
                sources,
                counters,
                leftovers: counted,
                boot_id,
                page: page as u64,
                features: attached.features,
                pinned,
                programs: attached.programs,
                unread: true,
                freed: VecDeque::new(),
                links: attached.links,
                _folder: folder,
            })
        };
        start().map_err(|error| AttachError::Refused("opening the probe's maps", error))
    }

    /// What it can tell on this kernel.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Whether it outlives the agent.
    pub fn pinned(&self) -> &Pinned {
        &self.pinned
    }

    /// The programs that were loaded. Empty if it was taken over.
    pub fn programs(&self) -> &[Loaded] {
        &self.programs
    }

    /// The boot that it lives in.
    pub fn boot_id(&self) -> Uuid {
        self.boot_id
    }

    /// What the probes had counted that were detached for this one, by their ring buffers. A kill while both were
    /// attached is in both.
    pub fn leftovers(&self) -> &[(u32, Counters)] {
        &self.leftovers
    }

    /// The ring buffer that kills go to now.
    pub fn ring(&self) -> u32 {
        self.sources.last().map_or(0, |source| source.id)
    }

    /// Waits until there are events, and hands over at most `most` of them. Nothing is lost if it is no longer awaited.
    pub async fn read(&mut self, most: usize, admit: impl FnMut(Event)) -> io::Result<()> {
        if !self.unread && self.freed.is_empty() {
            let mut ready = self.notes.readable_mut().await?;
            let room = MAX_FREED.saturating_sub(self.freed.len());
            let mut count = 0;
            while let Some(item) = ready.get_inner_mut().next() {
                if let Some(note) = note(&item).filter(|note| note.freed_boot_ns != 0)
                    && count < room
                {
                    self.freed.push_back(note);
                    count += 1;
                }
            }
            ready.clear_ready();
            self.unread = true;
        }
        self.read_available(most, admit);
        Ok(())
    }

    /// Hands over at most `most` of the events that are there, without waiting. Whether there were fewer.
    pub fn read_available(&mut self, most: usize, mut admit: impl FnMut(Event)) -> bool {
        let scale = self.scale();
        let mut read = 0;
        for source in &mut self.sources {
            while read < most {
                let Some((bytes, end)) = source.ring.read() else { break };
                let kill = event::kill(bytes, &scale).map(|mut kill| {
                    if kill.decision.is_none() && kill.cgroups.iter().any(|cgroup| cgroup.oom_lock.is_none()) {
                        let left = meminfo::read();
                        kill.machine = left.map(|left| Machine { total: left.total, available: left.available });
                    }
                    Box::new(kill)
                });
                admit(Event::Kill(kill, Place { ring: source.id, end }));
                read += 1;
            }
        }
        if read >= most {
            return false;
        }
        self.unread = false;
        // After the kills: nobody's memory is free before it was killed.
        for note in self.freed.drain(..) {
            admit(Event::Freed { sequence: note.seq, time: scale.wall(note.freed_boot_ns) });
        }
        self.remove_leftovers();
        true
    }

    /// Lets the kernel use the room up to `place` again, and what is before it: nobody will read that once more.
    pub fn release(&mut self, place: Place) {
        for source in &mut self.sources {
            if source.id == place.ring && source.ring.released() < place.end {
                source.ring.release(place.end);
            }
        }
        self.remove_leftovers();
    }

    /// Whether so much of a ring buffer is held that the kernel may soon have no room: more than half.
    pub fn is_crowded(&self) -> bool {
        self.sources.iter().any(|source| source.ring.held() > source.ring.capacity() / 2)
    }

    /// Detaches the probe if it is not pinned, so that nothing new comes.
    pub fn stop(&mut self) {
        self.links.clear();
    }

    /// A reader of what the probe counts.
    pub fn counters(&self) -> CounterMap {
        self.counters.clone()
    }

    /// Other sets whose events are all safe.
    fn remove_leftovers(&mut self) {
        self.sources.retain_mut(|source| {
            let done = source.ring.held() == 0 && source.ring.is_empty();
            match &source.leftover {
                Some(set) if done => {
                    remove(set);
                    false
                }
                _ => true,
            }
        });
    }

    fn scale(&self) -> Scale {
        Scale { boot_id: self.boot_id, booted: booted(), page: self.page }
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = (self.notes.as_raw_fd(), self.features, &self.pinned);
        f.debug_struct("Probe")
            .field("notes", &shown.0)
            .field("features", &shown.1)
            .field("pinned", shown.2)
            .finish_non_exhaustive()
    }
}

/// Whether the kernel's type information has all that the probe cannot do without.
///
/// # Errors
/// It cannot be read, or what it lacks.
pub fn check_types() -> Result<(), AttachError> {
    let bytes = std::fs::read(BTF).map_err(AttachError::NoBtf)?;
    let needed = layout::Switches { helpers: true, arguments: false, cpus: 1 };
    layout::resolve(&types(&bytes)?, needed).map_err(AttachError::Layout).map(|_| ())
}

fn types(bytes: &[u8]) -> Result<Btf<'_>, AttachError> {
    let btf = Btf::parse(bytes).map_err(AttachError::BadBtf)?;
    match TRACEPOINTS.into_iter().find(|name| !btf.has_tracepoint(name)) {
        Some(name) => Err(AttachError::NoTracepoint(name)),
        None => Ok(btf),
    }
}

/// With names if the kernel allows it.
fn attach_new(config: &Config) -> Result<Attached, AttachError> {
    let bytes = std::fs::read(BTF).map_err(AttachError::NoBtf)?;
    let btf = types(&bytes)?;
    let cpus = aya::util::nr_cpus().map_err(|(step, error)| AttachError::Refused(step, error.into()))? as u32;
    // Under lockdown=confidentiality programs that read strings do not load; the same object without them does. It
    // cannot be read where securityfs is not mounted, as in most containers: then both are tried, and the error of the
    // second is the one to see.
    let forbids_reads =
        std::fs::read_to_string("/sys/kernel/security/lockdown").ok().map(|text| text.contains("[confidentiality]"));
    let attached = match load::attach(config, &bytes, &btf, cpus, config.read_names && forbids_reads != Some(true)) {
        Err(AttachError::Refused(..) | AttachError::NotPermitted(..))
            if config.read_names && forbids_reads.is_none() =>
        {
            load::attach(config, &bytes, &btf, cpus, false)
        }
        other => other,
    };
    drop(btf);
    drop(bytes);
    // The type information took tens of megabytes.
    allocator::give_back();
    attached
}

/// What another set has left, its programs detached.
struct Leftover {
    events: MapData,
    counters: MapData,
    set: Set,
}

fn leftover(set: Set) -> Option<Leftover> {
    match set.detach() {
        Ok(Some((events, counters))) => Some(Leftover { events, counters, set }),
        Ok(None) => {
            remove(&set);
            None
        }
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), set = %set.path().display(), "what another probe has left \
                cannot be taken over");
            None
        }
    }
}

fn remove(set: &Set) {
    if let Err(error) = set.remove() {
        tracing::warn!(error = format!("{error:#}"), "pins of another probe are not removed");
    }
}

fn source(events: &MapData, page: usize, leftover: Option<Set>) -> anyhow::Result<Source> {
    let bytes = events.info().context("asking for the size of a ring buffer")?.max_entries();
    let ring = Ring::open(events.fd().as_fd(), bytes, page).context("mapping a ring buffer")?;
    Ok(Source { id: pins::id(events)?, ring, leftover })
}

fn numbers(counters: &MapData, page: usize) -> anyhow::Result<CounterMap> {
    let count = counters.info().context("asking for the size of the counters")?.max_entries() as usize;
    let numbers = Numbers::open(counters.fd().as_fd(), count, page).context("mapping the probe's counters")?;
    Ok(CounterMap(Arc::new(numbers)))
}

fn note(bytes: &[u8]) -> Option<Note> {
    let word = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_ne_bytes);
    Some(Note { seq: word(0)?, freed_boot_ns: word(8)? })
}

/// Wall time at `CLOCK_BOOTTIME` 0.
fn booted() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    let since_boot = Duration::new(now.tv_sec as u64, now.tv_nsec as u32);
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(since_boot)
}

fn page_size() -> usize {
    // SAFETY: no pointers.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096)
}
