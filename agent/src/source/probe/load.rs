//! Loads the eBPF programs and attaches them.
//!
//! Only BTF and raw tracepoints and, where the kernel has it, one fentry: no perf events, no tracefs, no kprobes, so
//! CAP_BPF and CAP_PERFMON are enough.

use std::io;
use std::time::{Duration, Instant};

use anyhow::Context;
use aya::maps::{Map, MapData};
use aya::programs::links::FdLink;
use aya::programs::{BtfTracePoint, FEntry, Program, ProgramError, ProgramInfo, RawTracePoint};
use aya::{Ebpf, EbpfError, EbpfLoader, VerifierLogLevel};
use oom_watcher_shared::Counter;

use super::{AttachError, Config, Features};
use crate::privileges::denial::{Denial, Standing};
use crate::source::btf::Btf;
use crate::source::layout::{self, Switches};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probe.o"));

/// One program in the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its name.
    pub name: &'static str,
    /// Instructions that the verifier walked through. Absent before kernel 5.16, which does not tell.
    pub verified_instructions: Option<u32>,
    /// How long loading it took, verifier and compiler included.
    pub time: Duration,
    /// Why it is not attached. Absent if it is.
    pub refused: Option<String>,
}

/// A probe that is attached for as long as its links are kept, here or in bpffs.
pub(super) struct Attached {
    pub(super) events: MapData,
    pub(super) notes: MapData,
    pub(super) counters: MapData,
    /// Each with the program's name.
    pub(super) links: Vec<(&'static str, FdLink)>,
    pub(super) features: Features,
    pub(super) programs: Vec<Loaded>,
}

/// The programs by what the kernel calls the place where each is attached.
const ON_SIGNAL: &str = "on_signal";
const ON_MARK: &str = "on_mark";
const ON_DECISION: &str = "on_decision";
const ON_EXIT_MMAP: &str = "on_exit_mmap";

/// The programs that are attached where the kernel has what `features` says.
pub(super) fn programs_of(features: Features) -> impl Iterator<Item = &'static str> {
    let all = [(ON_SIGNAL, true), (ON_MARK, true), (ON_DECISION, features.decisions), (ON_EXIT_MMAP, features.ends)];
    all.into_iter().filter(|(_, is_attached)| *is_attached).map(|(name, _)| name)
}

/// Whether the programs are in this binary.
pub(super) fn is_embedded() -> bool {
    !OBJECT.is_empty()
}

/// Loads and attaches everything that this kernel has. `bytes`: what `btf` was made of; `helpers`: as in [`Switches`].
pub(super) fn attach(
    config: &Config,
    bytes: &[u8],
    btf: &Btf<'_>,
    cpus: u32,
    helpers: bool,
) -> Result<Attached, AttachError> {
    let layout =
        layout::resolve(btf, Switches { helpers, arguments: config.arguments, cpus }).map_err(AttachError::Layout)?;
    let types = aya::Btf::parse(bytes, aya::Endianness::default())
        .map_err(|error| AttachError::Refused("reading the kernel's type information", error.into()))?;
    let mut object = EbpfLoader::new()
        // Nothing to relocate: the offsets travel in LAYOUT.
        .btf(None)
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global("LAYOUT", &layout, true)
        .map_max_entries("EVENTS", config.ring_bytes)
        .map_max_entries("COUNTERS", cpus.saturating_mul(Counter::SLOTS))
        .load(OBJECT)
        .map_err(|error| from_loader(config, "creating the probe's maps", error))?;

    let mut programs = Vec::new();
    // All are loaded before the first is attached: the time between the first and the last hook is short.
    let signal: &mut BtfTracePoint = program(&mut object, ON_SIGNAL)?;
    let taken = timed(|| signal.load("signal_generate", &types))
        .map_err(|error| from_program(config, "loading the program for signal_generate", error))?;
    programs.push(loaded(ON_SIGNAL, taken, signal.info()));
    let mark: &mut RawTracePoint = program(&mut object, ON_MARK)?;
    let taken =
        timed(|| mark.load()).map_err(|error| from_program(config, "loading the program for mark_victim", error))?;
    programs.push(loaded(ON_MARK, taken, mark.info()));

    let mut links = Vec::new();
    let mut features = Features { names: helpers, ..Features::default() };
    if layout.has_exit_mmap != 0 {
        let exit: &mut RawTracePoint = program(&mut object, ON_EXIT_MMAP)?;
        let attached = timed(|| exit.load()).and_then(|taken| {
            programs.push(loaded(ON_EXIT_MMAP, taken, exit.info()));
            let link = exit.attach("exit_mmap")?;
            Ok(exit.take_link(link)?.into())
        });
        features.ends = keep(&mut links, &mut programs, ON_EXIT_MMAP, attached);
    }
    if layout::tells_decisions(btf, &layout) {
        let decision: &mut FEntry = program(&mut object, ON_DECISION)?;
        let attached = timed(|| decision.load("oom_kill_process", &types)).and_then(|taken| {
            programs.push(loaded(ON_DECISION, taken, decision.info()));
            let link = decision.attach()?;
            Ok(decision.take_link(link)?.into())
        });
        features.decisions = keep(&mut links, &mut programs, ON_DECISION, attached);
    }
    // The capture before what confirms it: a mark without one would be counted as no kill.
    let signal: &mut BtfTracePoint = program(&mut object, ON_SIGNAL)?;
    let link = signal
        .attach()
        .and_then(|link| signal.take_link(link))
        .map_err(|error| from_program(config, "attaching to signal_generate", error))?;
    links.push((ON_SIGNAL, link.into()));
    let mark: &mut RawTracePoint = program(&mut object, ON_MARK)?;
    let link = mark
        .attach("mark_victim")
        .and_then(|link| mark.take_link(link))
        .map_err(|error| from_program(config, "attaching to mark_victim", error))?;
    links.push((ON_MARK, link.into()));

    if config.arguments && layout.wants_arguments == 0 {
        tracing::warn!(
            "probe.arguments has no effect: command lines can be read from kernel 5.11 on, and not under \
             lockdown=confidentiality"
        );
    }
    let refused = |error: anyhow::Error| AttachError::Refused("opening the probe's maps", error);
    let mut map = |name: &'static str| map_data(&mut object, name).map_err(refused);
    Ok(Attached { events: map("EVENTS")?, notes: map("NOTES")?, counters: map("COUNTERS")?, links, features, programs })
}

/// Keeps the link of a program that the main job can do without, or the reason why there is none.
fn keep(
    links: &mut Vec<(&'static str, FdLink)>,
    programs: &mut Vec<Loaded>,
    name: &'static str,
    attached: Result<FdLink, ProgramError>,
) -> bool {
    match attached {
        Ok(link) => {
            links.push((name, link));
            true
        }
        Err(error) => {
            let refused = Some(format!("{:#}", anyhow::Error::from(error)));
            match programs.iter_mut().find(|program| program.name == name) {
                Some(program) => program.refused = refused,
                None => programs.push(Loaded { name, verified_instructions: None, time: Duration::ZERO, refused }),
            }
            false
        }
    }
}

fn timed(load: impl FnOnce() -> Result<(), ProgramError>) -> Result<Duration, ProgramError> {
    let begin = Instant::now();
    load().map(|()| begin.elapsed())
}

fn loaded(name: &'static str, time: Duration, info: Result<ProgramInfo, ProgramError>) -> Loaded {
    Loaded {
        name,
        verified_instructions: info.ok().and_then(|info| info.verified_instruction_count()),
        time,
        refused: None,
    }
}

fn map_data(object: &mut Ebpf, name: &'static str) -> anyhow::Result<MapData> {
    match object.take_map(name).with_context(|| format!("the probe has no map {name}"))? {
        Map::RingBuf(map) | Map::Array(map) => Ok(map),
        _ => anyhow::bail!("{name} is of another type"),
    }
}

fn program<'a, P>(programs: &'a mut Ebpf, name: &'static str) -> Result<&'a mut P, AttachError>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
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
    let denied = error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    });
    if !denied {
        return AttachError::Refused(step, error);
    }
    let why = Standing::of_this_thread().map_or(Denial::Unknown, |standing| standing.denial(config.ring_bytes));
    AttachError::NotPermitted(step, error, why)
}
