//! What outlives the agent: whether the probe can be pinned, the state and the spool be saved, and whether an agent has
//! them already.

use super::{Finding, Port, Verdict, finding};
use crate::config::Config;
use crate::host::lock;
use crate::host::refusal::Refusal;
use crate::source::probe::AttachError;
use crate::source::probe::pins::{self, Kept};
use crate::state::Store;
use crate::stats::Signal;

/// Why something cannot be kept, and the remedy if one is known.
type Trouble = (String, Option<&'static str>);

/// What outlives the agent. Absent: it is not wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lasting {
    /// What is pinned, or why nothing can be.
    pub pins: Option<Result<Kept, Trouble>>,
    /// Whether a state is there, or why it cannot be saved or used.
    pub state: Option<Result<bool, Trouble>>,
    /// The agent that has the state, if one runs that can be seen from here.
    pub state_holder: Option<u32>,
    /// Which agent has the spool, if any, or why nothing can be kept there.
    pub spool: Option<Result<Option<u32>, Trouble>>,
}

impl Lasting {
    /// Tries all, in no agent's way. Nothing is left.
    pub(super) fn inspect(config: &Config) -> Self {
        let pins = config.probe.pins.as_deref().map(|folder| pins::try_out(folder).map_err(|e| Refusal::parted(&e)));
        let directory = config.state_directory.as_deref();
        let store = directory.map(|directory| Store::new(Some(directory.to_owned())));
        let spool = config.otlp.spool.as_deref().map(|folder| {
            let holder = lock::holder_of(&folder.join(Signal::Logs.as_str()));
            lock::try_out(folder).map(|()| holder).map_err(|e| Refusal::parted(&e))
        });
        Self {
            pins,
            state: store.map(|store| store.try_out(&config.node).map_err(|e| Refusal::parted(&e))),
            state_holder: directory.and_then(lock::holder_of),
            spool,
        }
    }

    /// `port`: whether the agent that has them is the one that is asked about.
    pub(super) fn judge(&self, port: &Port) -> [Finding; 3] {
        [self.judge_pins(port), self.judge_state(port), self.judge_spool(port)]
    }

    fn judge_pins(&self, port: &Port) -> Finding {
        match &self.pins {
            None => finding(
                "pins",
                Verdict::Pass,
                "none are wanted: of kills while no agent runs there is what the kernel's counters tell",
            ),
            Some(Ok(Kept { sets, holder })) => {
                let there = match sets {
                    0 => "nothing is pinned yet".to_owned(),
                    sets => format!("{sets} there"),
                };
                unless_taken("pins", format!("the probe can outlive the agent; {there}"), *holder, port)
            }
            Some(Err((why, remedy))) => {
                finding("pins", Verdict::Degraded, format!("kills while no agent runs are not seen: {why}"))
                    .or_else(remedy.unwrap_or("set OOM_WATCHER_PIN_DIR to a directory that the agent may write to"))
            }
        }
    }

    fn judge_state(&self, port: &Port) -> Finding {
        match &self.state {
            None => finding("state", Verdict::Pass, "none is wanted: counts begin at 0 with each agent"),
            Some(Ok(is_there)) => {
                let found = if *is_there { "can be saved; one is there" } else { "can be saved; none is there yet" };
                unless_taken("state", found.to_owned(), self.state_holder, port)
            }
            Some(Err((why, remedy))) => finding("state", Verdict::Degraded, format!("counts begin at 0: {why}"))
                .or_else(remedy.unwrap_or("set OOM_WATCHER_STATE_DIR to a directory that the agent may write to")),
        }
    }

    fn judge_spool(&self, port: &Port) -> Finding {
        match &self.spool {
            None => finding("spool", Verdict::Pass, "none is wanted: queued records are lost if the agent ends"),
            Some(Ok(holder)) => unless_taken("spool", "can be written".to_owned(), *holder, port),
            Some(Err((why, remedy))) => {
                finding("spool", Verdict::Degraded, format!("queued records are lost if the agent ends: {why}"))
                    .or_else(remedy.unwrap_or("set OOM_WATCHER_SPOOL_DIR to a directory that the agent may write to"))
            }
        }
    }
}

/// Passes, unless another agent has it than the one that serves the port: an agent would not start then.
fn unless_taken(name: &'static str, found: String, holder: Option<u32>, port: &Port) -> Finding {
    match (holder, port) {
        (None, _) => finding(name, Verdict::Pass, found),
        (Some(pid), Port::Ours) => finding(name, Verdict::Pass, format!("{found}, in use by process {pid}")),
        (Some(_), _) => {
            let taken = AttachError::Taken(holder);
            finding(name, Verdict::Fail, taken.problem()).or_else(taken.remedy())
        }
    }
}
