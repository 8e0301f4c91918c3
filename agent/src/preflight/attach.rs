//! The attempt to attach the probe: why it failed, or where names and limits of cgroups come from on this node, and
//! what is missing where the kernel refuses to have them read (lockdown=confidentiality).

use super::{Finding, Verdict, finding};
use crate::cgroups::names::CgroupNames;
use crate::privileges::denial::Denial;
use crate::source::probe::{AttachError, Probe};

/// Why it failed. Most causes were found before.
pub(super) fn judge(error: &AttachError, before: &[Finding]) -> Finding {
    let cause = match error {
        AttachError::NoObject => "probe",
        AttachError::NoBtf(_) | AttachError::BadBtf(_) | AttachError::Layout(_) | AttachError::NoTracepoint(_) => {
            "types"
        }
        AttachError::NotPermitted(_, _, Denial::Missing(_) | Denial::UserNamespace | Denial::Filter) => "capabilities",
        AttachError::NotPermitted(_, _, Denial::LockedMemory) => "memlock",
        AttachError::NotPermitted(..) | AttachError::NoBootId(_) | AttachError::Taken(_) | AttachError::Refused(..) => {
            ""
        }
    };
    let attach = |found: String| finding("attach", Verdict::Fail, found).or_as(cause, before, error.remedy());
    match error {
        _ if attach(String::new()).refers().is_none() => attach(error.problem()),
        AttachError::NotPermitted(step, error, _) => attach(format!("{step}: {error:#}")),
        _ => attach("the probe cannot be attached".to_owned()),
    }
}

/// Where names and limits of cgroups come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// The probe reads them.
    FromKernel,
    /// The kernel refuses; they are in the table of cgroups.
    FromFiles {
        /// How many are in it.
        cgroups: usize,
        /// Whether these are all there are.
        all: bool,
    },
    /// Neither, and why there is no table.
    Nowhere(String),
}

impl Names {
    /// What an attached probe and this node allow. Must be called inside a Tokio runtime.
    pub(super) fn inspect(probe: &Probe) -> Self {
        if probe.features().names {
            return Self::FromKernel;
        }
        match CgroupNames::start() {
            Ok(table) => Self::FromFiles { cgroups: table.cgroups(), all: table.is_whole() },
            Err(error) => Self::Nowhere(format!("{error:#}")),
        }
    }

    /// What is missing where names and limits are not read in the kernel.
    pub(super) fn judge<'a>(&self, others: impl Iterator<Item = &'a Finding>) -> Finding {
        const INTEGRITY: &str = "lockdown=integrity, where whose limit was hit matters more";
        const MOUNT: &str = "mount the host's /sys/fs/cgroup, read-only is enough";
        let refused = "attached; the kernel refuses reading strings";
        let degraded = |found| finding("attach", Verdict::Degraded, found);
        match self {
            Self::FromKernel => {
                finding("attach", Verdict::Pass, "loaded, attached to signal_generate and mark_victim, detached")
            }
            Self::FromFiles { cgroups, all: true } => degraded(format!(
                "{refused}: names and limits come from the files of {cgroups} cgroups; absent are what cgroups used at \
                 the kill and so, without on_decision, whose limit was hit; the pid in a container, and the name of a \
                 cgroup that was made and gone at once"
            ))
            .or_as("lockdown", others, INTEGRITY),
            Self::FromFiles { cgroups, all: false } => degraded(format!(
                "{refused}, and only a part of the cgroups is mounted here ({cgroups}): kills in others carry ids \
                 instead of names, and no limits"
            ))
            .or_as("node", others, MOUNT),
            Self::Nowhere(why) => {
                degraded(format!("{refused}: kills carry ids instead of names of cgroups, and no limits: {why}"))
                    .or_as("cgroups", others, MOUNT)
            }
        }
    }
}
