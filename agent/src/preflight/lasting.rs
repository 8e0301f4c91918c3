//! What outlives the agent: whether the probe can be pinned, and the state be saved.

use super::{Finding, Verdict, finding};
use crate::config::Config;
use crate::source::probe::pins::{self, Kept};
use crate::state::Store;

/// What outlives the agent. Absent: it is not wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lasting {
    /// What is pinned, or why nothing can be.
    pub pins: Option<Result<Kept, String>>,
    /// Whether a state is there, or why it cannot be saved or used.
    pub state: Option<Result<bool, String>>,
}

impl Lasting {
    /// Tries both, in no agent's way. Nothing is left.
    pub(super) fn look(config: &Config) -> Self {
        let pins =
            config.probe.pins.as_deref().map(|folder| pins::try_out(folder).map_err(|error| format!("{error:#}")));
        let store = config.state_directory.clone().map(|directory| Store::new(Some(directory)));
        Self { pins, state: store.map(|store| store.try_out(&config.node).map_err(|error| format!("{error:#}"))) }
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
            Some(Err(why)) => {
                finding("pins", Verdict::Degraded, format!("kills while no agent runs are not seen: {why}"))
                    .or_else("let the agent write to a BPF file system, or set OOM_WATCHER_PIN_DIR=none")
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
            Some(Err(why)) => finding("state", Verdict::Degraded, format!("counts begin at 0 with each agent: {why}"))
                .or_else("a directory that the agent's user may write to, or OOM_WATCHER_STATE_DIR=none"),
        }
    }
}
