//! What an agent that was killed now would leave for the next one.

use std::fs;
use std::path::Path;

use oom_watcher::export::spool::Spool;

use crate::agent::Agent;
use crate::exposition::total;

/// Whether all of these kills have their log record, and those that wait for the collector are in the spool: `waiting`
/// of them at least.
pub fn is_whole(agent: &Agent, spool: &Path, kills: f64, waiting: f64) -> bool {
    let samples = agent.metrics();
    let queued = samples
        .iter()
        .find(|sample| sample.name == "oom_watcher_export_queue_items" && sample.label("signal") == "logs")
        .unwrap()
        .value;
    let are_told =
        total(&samples, "oom_kills_per_node_total") >= kills && total(&samples, "oom_watcher_waiting_kills") == 0.0;
    // Looked at after that: what was queued then is not less now, as nobody takes it.
    are_told && queued >= waiting && kept(&spool.join("logs")) as f64 >= queued
}

/// How many items are found in a copy of the folder, which the agent goes on writing to.
fn kept(folder: &Path) -> usize {
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        // It may be gone by now.
        let _ = fs::copy(file.path(), copy.path().join(file.file_name()));
    }
    Spool::open(copy.path()).unwrap().1.items.len()
}
