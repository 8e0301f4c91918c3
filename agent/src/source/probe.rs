//! Loads and attaches the probe and reads its ring buffer. The only module that knows aya.
//!
//! Only a BTF and a raw tracepoint: no perf events, no tracefs, no kprobes, so CAP_BPF and CAP_PERFMON are enough. Nothing is polled.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use aya::maps::{MapData, PerCpuArray, RingBuf};
use aya::programs::{BtfTracePoint, ProgramError, RawTracePoint};
use aya::{Ebpf, EbpfError, EbpfLoader, VerifierLogLevel};
use oom_watcher_shared::Counter;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use uuid::Uuid;

use super::btf::{self, Btf};
use super::denial::{Denial, Standing};
use super::event::{self, Malformed, Scale};
use super::layout::{self, Missing};
use crate::kill::Kill;

/// What the probe is loaded with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Size of the ring buffer in bytes: a power of two and a multiple of the page size. An event takes 0.5 to 10 KiB.
    pub ring_bytes: u32,
}

/// Where the kernel's type information is.
pub const BTF: &str = "/sys/kernel/btf/vmlinux";

/// What the programs are attached to.
pub const TRACEPOINTS: [&str; 2] = ["signal_generate", "mark_victim"];

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Identifies the probe that was built into this binary: a hash of the object, `none` without one.
pub const BUILD: &str = env!("PROBE_BUILD");

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probe.o"));

/// Why the probe is not attached. Each says what to do about it.
#[derive(Debug)]
pub enum AttachError {
    /// The binary was built without the eBPF toolchain.
    NoObject,
    /// The kernel's type information cannot be read.
    NoBtf(io::Error),
    /// The id of this boot cannot be read.
    NoBootId(io::Error),
    /// It was read but not understood.
    BadBtf(btf::Malformed),
    /// The kernel has not what the probe reads.
    Layout(Missing),
    /// The kernel has not all of [`TRACEPOINTS`].
    NoTracepoint(&'static str),
    /// The kernel does not allow this process to load it.
    NotPermitted(&'static str, anyhow::Error, Denial),
    /// The kernel's verifier, or something else on the way, refused it.
    Refused(&'static str, anyhow::Error),
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoObject => f.write_str("this binary was built without the eBPF probe: build it with `make build`, which builds the probe first"),
            Self::NoBtf(error) => {
                write!(
                    f,
                    "reading the kernel's type information at {BTF}: {error}: use a kernel built with CONFIG_DEBUG_INFO_BTF=y, and mount /sys in a container"
                )
            }
            Self::BadBtf(error) => {
                write!(f, "understanding {BTF}: {error}: use a kernel built with CONFIG_DEBUG_INFO_BTF=y, or a newer oom-watcher for a newer kernel")
            }
            Self::NoBootId(error) => write!(f, "reading {BOOT_ID}: {error}: mount /proc"),
            Self::Layout(missing) => write!(f, "{missing}: the kernel must be 5.10 or newer, 64-bit, with memory cgroups (CONFIG_MEMCG)"),
            Self::NoTracepoint(name) => write!(f, "the kernel has no tracepoint {name}: use a kernel built with CONFIG_TRACEPOINTS=y"),
            Self::NotPermitted(step, error, why) => write!(f, "{step}: {error:#}: {why}"),
            Self::Refused(step, error) => write!(f, "{step}: {error:#}"),
        }
    }
}

impl std::error::Error for AttachError {}

/// The attached probe. Detached when dropped.
pub struct Probe {
    ring: AsyncFd<RingBuf<MapData>>,
    counters: CounterMap,
    boot_id: Uuid,
    page: u64,
    reads_names: bool,
    /// Holds the links: the kernel detaches them when they are closed.
    programs: Option<Ebpf>,
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
    /// The kernel's own SIGKILLs that were no OOM kills. The last one on each CPU is counted with the next.
    pub signals_without_mark: u64,
}

/// Reads the probe's counters; it outlives the probe, with numbers that no longer move.
#[derive(Clone)]
pub struct CounterMap(Arc<PerCpuArray<MapData, u64>>);

impl CounterMap {
    /// What the probe counted so far. 0 where the kernel does not let them be read.
    pub fn read(&self) -> Counters {
        let sum = |counter: Counter| self.0.get(&(counter as u32), 0).map(|values| values.iter().sum()).unwrap_or_default();
        Counters {
            kills: sum(Counter::Kills),
            ring_full: sum(Counter::RingFull),
            marks_without_kill: sum(Counter::MarkWithoutKill),
            signals_without_mark: sum(Counter::SignalWithoutMark),
        }
    }
}

impl fmt::Debug for CounterMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.read().fmt(f)
    }
}

impl Probe {
    /// Loads and attaches it, with the capabilities that are in effect. Must be called inside a Tokio runtime.
    pub fn attach(config: &Config) -> Result<Self, AttachError> {
        if OBJECT.is_empty() {
            return Err(AttachError::NoObject);
        }
        let boot_id =
            std::fs::read_to_string(BOOT_ID).and_then(|text| text.trim().parse().map_err(io::Error::other)).map_err(AttachError::NoBootId)?;
        let bytes = std::fs::read(BTF).map_err(AttachError::NoBtf)?;
        let btf = Btf::parse(&bytes).map_err(AttachError::BadBtf)?;
        if let Some(name) = TRACEPOINTS.into_iter().find(|name| !btf.has_tracepoint(name)) {
            return Err(AttachError::NoTracepoint(name));
        }
        let attached = match load(config, &btf, true) {
            // Under lockdown=confidentiality programs that read strings do not load; the same object without them does.
            Err(AttachError::Refused(..) | AttachError::NotPermitted(..)) if lockdown_forbids_reads() => {
                load(config, &btf, false).map(|programs| (programs, false))
            }
            other => other.map(|programs| (programs, true)),
        };
        drop(btf);
        drop(bytes);
        let (programs, reads_names) = attached?;
        let probe = Self::read_from(programs, reads_names, boot_id).map_err(|error| AttachError::Refused("opening the probe's maps", error));
        // SAFETY: no arguments that could be wrong. The type information took tens of megabytes which glibc would keep.
        #[cfg(target_env = "gnu")]
        unsafe {
            libc::malloc_trim(0);
        }
        probe
    }

    fn read_from(mut programs: Ebpf, reads_names: bool, boot_id: Uuid) -> anyhow::Result<Self> {
        let mut map = |name: &'static str| programs.take_map(name).with_context(|| format!("the probe has no map {name}"));
        let ring = RingBuf::try_from(map("EVENTS")?)?;
        let counters = PerCpuArray::try_from(map("COUNTERS")?)?;
        Ok(Self {
            // SAFETY: the ring buffer owns its descriptor and gives the same one until it is dropped, together with this.
            ring: unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }?,
            counters: CounterMap(Arc::new(counters)),
            boot_id,
            page: page_size(),
            reads_names,
            programs: Some(programs),
        })
    }

    /// Whether cgroup names and limits are read in the kernel. If not (lockdown=confidentiality), kills carry the ids of their cgroups only.
    pub fn reads_names(&self) -> bool {
        self.reads_names
    }

    /// Waits for events and hands over at most `most` of them. An event leaves the ring buffer after `take` has returned.
    pub async fn read(&mut self, most: usize, mut take: impl FnMut(Result<Kill, Malformed>)) -> io::Result<()> {
        let (boot_id, page) = (self.boot_id, self.page);
        let mut ready = self.ring.readable_mut().await?;
        let scale = Scale { boot_id, booted: booted(), page };
        for _ in 0..most {
            let Some(item) = ready.get_inner_mut().next() else {
                ready.clear_ready();
                return Ok(());
            };
            take(event::kill(&item, &scale));
        }
        Ok(())
    }

    /// Detaches the probe and hands over what is left in the ring buffer. Nothing new comes, so it ends.
    pub fn drain(&mut self, mut take: impl FnMut(Result<Kill, Malformed>)) {
        self.programs = None;
        let scale = self.scale();
        while let Some(item) = self.ring.get_mut().next() {
            take(event::kill(&item, &scale));
        }
    }

    /// A reader of what the probe counts.
    pub fn counters(&self) -> CounterMap {
        self.counters.clone()
    }

    fn scale(&self) -> Scale {
        Scale { boot_id: self.boot_id, booted: booted(), page: self.page }
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").field("ring", &self.ring.as_raw_fd()).field("reads_names", &self.reads_names).finish_non_exhaustive()
    }
}

fn load(config: &Config, btf: &Btf<'_>, use_helpers: bool) -> Result<Ebpf, AttachError> {
    let layout = layout::resolve(btf, use_helpers).map_err(AttachError::Layout)?;
    let types = aya::Btf::from_sys_fs().map_err(|error| AttachError::Refused("reading the kernel's type information", error.into()))?;
    let mut programs = EbpfLoader::new()
        // Nothing to relocate: the offsets travel in LAYOUT.
        .btf(None)
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global("LAYOUT", &layout, true)
        .map_max_entries("EVENTS", config.ring_bytes)
        .load(OBJECT)
        .map_err(|error| from_loader(config, "creating the probe's maps", error))?;
    let signal: &mut BtfTracePoint = program(&mut programs, "on_signal")?;
    signal.load("signal_generate", &types).map_err(|error| from_program(config, "loading the program for signal_generate", error))?;
    let mark: &mut RawTracePoint = program(&mut programs, "on_mark")?;
    mark.load().map_err(|error| from_program(config, "loading the program for mark_victim", error))?;
    // The capture first: a mark without one would be counted as no kill.
    let signal: &mut BtfTracePoint = program(&mut programs, "on_signal")?;
    signal.attach().map_err(|error| from_program(config, "attaching to signal_generate", error))?;
    let mark: &mut RawTracePoint = program(&mut programs, "on_mark")?;
    mark.attach("mark_victim").map_err(|error| from_program(config, "attaching to mark_victim", error))?;
    Ok(programs)
}

fn program<'a, P>(programs: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, AttachError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let refused = |error| AttachError::Refused("looking into the probe's object", error);
    let program = programs.program_mut(name).with_context(|| format!("no program {name}")).map_err(refused)?;
    program.try_into().map_err(|error: ProgramError| refused(error.into()))
}

fn from_loader(config: &Config, step: &'static str, error: EbpfError) -> AttachError {
    by_cause(config, step, error.into())
}

fn from_program(config: &Config, step: &'static str, error: ProgramError) -> AttachError {
    by_cause(config, step, error.into())
}

/// EPERM and EACCES anywhere in the chain are a matter of privilege.
fn by_cause(config: &Config, step: &'static str, error: anyhow::Error) -> AttachError {
    let denied = error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied));
    if !denied {
        return AttachError::Refused(step, error);
    }
    let why = Standing::of_this_thread().map_or(Denial::Unknown, |standing| standing.denial(config.ring_bytes));
    AttachError::NotPermitted(step, error, why)
}

fn lockdown_forbids_reads() -> bool {
    // Unreadable where securityfs is not mounted, as in most containers: then the second attempt is made too, and its error is the one to see.
    std::fs::read_to_string("/sys/kernel/security/lockdown").map_or(true, |text| text.contains("[confidentiality]"))
}

/// Wall time at `CLOCK_BOOTTIME` 0.
fn booted() -> Duration {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut now) };
    let since_boot = Duration::new(now.tv_sec as u64, now.tv_nsec as u32);
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(since_boot)
}

fn page_size() -> u64 {
    // SAFETY: no pointers.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).ok().filter(|size| size.is_power_of_two()).unwrap_or(4096)
}
