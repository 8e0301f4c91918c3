//! Keeps all CPUs busy while it lives.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Processes that never rest: two for each CPU.
pub(crate) struct Load(Vec<Child>);

impl Load {
    pub(crate) fn start() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let busy = || {
            let mut command = Command::new("sh");
            command.args(["-c", "while :; do :; done"]).stdin(Stdio::null());
            // Also if the bench is killed. SAFETY: prctl(2) allocates nothing and takes no lock.
            unsafe {
                command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                });
            }
            command.spawn().unwrap()
        };
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
