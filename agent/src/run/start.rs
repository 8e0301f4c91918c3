//! What happens once, before kills are seen: the lock, the probe, what stands in for what it cannot read.

use tokio::runtime::Handle;
use tracing::{debug, info, warn};

use super::Failure;
use crate::cgroups::names::CgroupNames;
use crate::config::Config;
use crate::host::lock::{self, Lock};
use crate::privileges::thread::Privileged;
use crate::source::probe::{AttachError, Pinned, Probe};

/// One agent at a time has a state.
pub(super) fn state_lock(config: &Config) -> Result<Option<Lock>, Failure> {
    match config.state_directory.as_deref().map(Lock::take) {
        Some(Ok(lock)) => Ok(Some(lock)),
        Some(Err(lock::Denied::Taken(holder))) => Err(Failure::Attach(AttachError::Taken(holder))),
        // That it cannot be saved there is told when it is.
        Some(Err(lock::Denied::Unusable(_))) | None => Ok(None),
    }
}

/// Attaches the probe on the thread that has the capabilities for it, and waits for that.
pub(super) fn attach(config: &Config, privileged: Privileged) -> Result<Probe, Failure> {
    let (runtime, settings) = (Handle::current(), config.probe.clone());
    let attach = move || {
        let _inside = runtime.enter();
        Probe::attach(&settings)
    };
    let attached = privileged.run(attach).unwrap_or_else(|error| Err(AttachError::Refused("attaching", error.into())));
    attached.map_err(Failure::Attach)
}

/// Says once what the probe cannot do here.
pub(super) fn report(probe: &Probe) {
    for program in probe.programs() {
        match &program.refused {
            Some(refused) => {
                info!(program = program.name, refused, "a program is not attached that the kernel could do without")
            }
            None => {
                let instructions = program.verified_instructions;
                debug!(program = program.name, verified_instructions = instructions, time = ?program.time, "loaded")
            }
        }
    }
    match probe.pinned() {
        Pinned::TakenOver => info!("the probe was attached already: kills that happened while no agent ran follow"),
        Pinned::Refused(why) => warn!(why, "the probe is not pinned: kills while no agent runs are not seen"),
        Pinned::New | Pinned::No => {}
    }
}

/// What takes the place of names and limits where the kernel refuses to have them read. Says what is missing then.
pub(super) fn cgroup_names() -> Option<CgroupNames> {
    match CgroupNames::start() {
        Ok(table) if table.is_whole() => {
            let cgroups = table.cgroups();
            warn!(
                cgroups,
                "the kernel refuses reading strings (lockdown=confidentiality): names and limits are read from the \
                 cgroups' files, usage is absent"
            );
            Some(table)
        }
        Ok(table) => {
            let cgroups = table.cgroups();
            warn!(
                cgroups,
                "the kernel refuses reading strings (lockdown=confidentiality), and only a part of the cgroups is \
                 mounted here: others have ids instead of names"
            );
            Some(table)
        }
        Err(error) => {
            let error = format!("{error:#}");
            warn!(
                error,
                "the kernel refuses reading strings (lockdown=confidentiality): kills carry ids instead of names of \
                 cgroups, and no limits"
            );
            None
        }
    }
}
