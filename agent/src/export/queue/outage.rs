//! What is said of a collector that is away, and no more than once.

use parking_lot::Mutex;
use tracing::{info, warn};

use super::Failure;
use crate::stats::Signal;

/// Says once that a signal's export fails, and once that it works again.
#[derive(Debug)]
pub(in crate::export) struct Outage {
    signal: Signal,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Working,
    Failing,
    Refused,
}

impl Outage {
    pub(in crate::export) fn new(signal: Signal) -> Self {
        Self { signal, state: Mutex::new(State::Working) }
    }

    pub(in crate::export) fn failed(&self, failure: &Failure) {
        let (signal, cause) = (self.signal.as_str(), failure.cause.as_str());
        if failure.permanent {
            if self.change(State::Refused) {
                warn!(signal, cause, "the collector refuses what the agent sends, it is lost");
            }
        } else if self.change(State::Failing) {
            warn!(signal, cause, "export fails, the agent goes on trying");
        }
    }

    pub(in crate::export) fn ended(&self) {
        if self.change(State::Working) {
            info!(signal = self.signal.as_str(), "export works again");
        }
    }

    /// Whether it was another state before.
    fn change(&self, to: State) -> bool {
        let mut state = self.state.lock();
        std::mem::replace(&mut *state, to) != to
    }
}
