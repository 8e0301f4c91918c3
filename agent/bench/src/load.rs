//! Keeps all CPUs busy while it lives.

use std::path::Path;

use oom_watcher_testkit::programs::Server;

/// Processes that never rest: two for each CPU.
pub(crate) struct Load {
    _busy: Vec<Server>,
}

impl Load {
    pub(crate) fn start() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let busy = || {
            Server::start(
                Path::new("/bin/sh"),
                &["-c".to_owned(), "while :; do :; done".to_owned()],
                Path::new("/dev/null"),
            )
        };
        Self { _busy: (0..2 * cpus).map(|_| busy()).collect() }
    }
}
