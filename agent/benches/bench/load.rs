//! Keeps all CPUs busy while it lives.

use std::process::{Child, Command, Stdio};

/// Processes that never rest: two for each CPU.
pub(crate) struct Load(Vec<Child>);

impl Load {
    pub(crate) fn start() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let busy = || Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().unwrap();
        Self((0..2 * cpus).map(|_| busy()).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It can have ended no other way.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
