//! Why the probe is not attached, and what to do about it.

use std::fmt;
use std::io;

use super::{BOOT_ID, BTF};
use crate::privileges::denial::Denial;
use crate::source::btf;
use crate::source::layout::Missing;

/// Why the probe is not attached. Displayed as `PROBLEM: REMEDY`.
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
    /// The kernel has not all of [`super::TRACEPOINTS`].
    NoTracepoint(&'static str),
    /// Another agent runs, with its process id if it can be seen.
    Taken(Option<u32>),
    /// The kernel does not allow this process to load it.
    NotPermitted(&'static str, anyhow::Error, Denial),
    /// The kernel's verifier, or something else on the way, refused it.
    Refused(&'static str, anyhow::Error),
}

impl AttachError {
    /// What failed, on what, and why.
    pub fn problem(&self) -> String {
        match self {
            Self::NoObject => "this binary was built without the eBPF probe".to_owned(),
            Self::NoBtf(error) => format!("reading the kernel's type information at {BTF}: {error}"),
            Self::BadBtf(error) => format!("understanding {BTF}: {error}"),
            Self::NoBootId(error) => format!("reading {BOOT_ID}: {error}"),
            Self::Layout(missing) => missing.to_string(),
            Self::Taken(holder) => {
                let who = holder.map_or_else(
                    || "in a pid namespace that cannot be seen from here".to_owned(),
                    |pid| format!("process {pid}"),
                );
                format!("another oom-watcher runs on this node, {who}")
            }
            Self::NoTracepoint(name) => format!("the kernel has no tracepoint {name}"),
            Self::NotPermitted(step, error, why) => format!("{step}: {error:#}: {}", why.problem()),
            Self::Refused(step, error) => format!("{step}: {error:#}"),
        }
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoObject => "build it with `make build`, which builds the probe first",
            Self::NoBtf(_) => "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, and mount /sys in a container",
            Self::BadBtf(_) => {
                "use a kernel built with CONFIG_DEBUG_INFO_BTF=y, or a newer oom-watcher for a newer kernel"
            }
            Self::NoBootId(_) => "mount /proc",
            Self::Layout(_) => "the kernel must be 5.10 or newer, 64-bit, with memory cgroups (CONFIG_MEMCG)",
            Self::Taken(_) => "stop it, or give one of them another --pin-dir and --state-dir",
            Self::NoTracepoint(_) => "use a kernel built with CONFIG_TRACEPOINTS=y",
            Self::NotPermitted(_, _, why) => why.remedy(),
            Self::Refused(..) => "please open an issue with this whole message",
        }
    }
}

impl fmt::Display for AttachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.problem(), self.remedy())
    }
}

impl std::error::Error for AttachError {}
