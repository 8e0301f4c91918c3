//! What outlives the agent: whether the probe can be pinned, and the state be saved.

use super::{Finding, Verdict, finding};
use crate::config::Config;
use crate::host::refusal::Refusal;
use crate::source::probe::pins::{self, Kept};
use crate::state::Store;

/// Why something cannot be kept, and the remedy if one is known.
type Trouble = (String, Option<&'static str>);

/// What outlives the agent. Absent: it is not wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lasting {
    /// What is pinned, or why nothing can be.
    pub pins: Option<Result<Kept, Trouble>>,
    /// Whether a state is there, or why it cannot be saved or used.
    pub state: Option<Result<bool, Trouble>>,
}

impl Lasting {
    /// Tries both, in no agent's way. Nothing is left.
    pub(super) fn inspect(config: &Config) -> Self {
        let pins = config.probe.pins.as_deref().map(|folder| pins::try_out(folder).map_err(|e| Refusal::parted(&e)));
        let store = config.state_directory.clone().map(|directory| Store::new(Some(directory)));
        Self { pins, state: store.map(|store| store.try_out(&config.node).map_err(|e| Refusal::parted(&e))) }
    }

    pub(super) fn judge(&self) -> [Finding; 2] {
        [self.judge_pins(), self.judge_state()]
    }

    fn judge_pins(&self) -> Finding {
        match &self.pins {
            None => finding(
                "pins",
                Verdict::Pass,
                "none are wanted: of kills while no agent runs there is what the kernel's counters tell",
            ),
            Some(Ok(Kept { sets, holder })) => {
                let user = holder.map(|pid| format!(", in use by process {pid}")).unwrap_or_default();
                let there = match sets {
                    0 => "nothing is pinned yet".to_owned(),
                    sets => format!("{sets} there"),
                };
                finding("pins", Verdict::Pass, format!("the probe can outlive the agent; {there}{user}"))
            }
            Some(Err((why, remedy))) => {
                finding("pins", Verdict::Degraded, format!("kills while no agent runs are not seen: {why}"))
                    .or_else(remedy.unwrap_or("set OOM_WATCHER_PIN_DIR to a directory that the agent may write to"))
            }
        }
    }

    fn judge_state(&self) -> Finding {
        match &self.state {
            None => finding("state", Verdict::Pass, "none is wanted: counts begin at 0 with each agent"),
            Some(Ok(is_there)) => finding(
                "state",
                Verdict::Pass,
                if *is_there { "can be saved; one is there" } else { "can be saved; none is there yet" },
            ),
            Some(Err((why, remedy))) => {
                finding("state", Verdict::Degraded, format!("counts begin at 0 with each agent: {why}"))
                    .or_else(remedy.unwrap_or("set OOM_WATCHER_STATE_DIR to a directory that the agent may write to"))
            }
        }
    }
}
