//! The one thread of the agent that ever uses a capability. It attaches the probe, gives up what it has, and ends.
//!
//! Threads begin with the capabilities of the thread that starts them. So this one is started first; then the main
//! thread gives up its own, and every thread after that begins without: those that listen, parse and send have never
//! had any. Nothing after attaching needs a capability: the ring buffer is read through memory that is shared with the
//! kernel, and the programs are detached by closing descriptors.

use std::io;
use std::sync::mpsc::{self, Sender};
use std::thread;

use tracing::{info, warn};

use super::capabilities::{self, Capabilities, Set};
use crate::host::allocator;

/// What the thread is to do. It runs with the capabilities in effect that the probe has a use for.
type Job = Box<dyn FnOnce(Set) + Send>;

/// The thread, waiting for what it is to do. If it is dropped the thread ends, and with it the capabilities.
#[derive(Debug)]
pub struct Privileged {
    job: Sender<Job>,
    /// What was permitted before.
    permitted: Set,
    /// The bounding set of the thread that separated it, or why that one could not give up its capabilities. Absent if
    /// it keeps them.
    left: Option<io::Result<Set>>,
}

impl Privileged {
    /// Moves the capabilities of the calling thread to a thread of its own. Has to be called while there is no other
    /// one, or that keeps what it has.
    ///
    /// # Errors
    /// The process may have no more threads, or a seccomp filter refuses capget(2). That capabilities could not be
    /// given up is no error: it is logged by [`run`](Self::run), once there is a log.
    pub fn separate() -> io::Result<Self> {
        let mut privileged = Self::beside()?;
        privileged.left = Some(capabilities::drop_all());
        Ok(privileged)
    }

    /// The same, and the calling thread keeps its own.
    ///
    /// # Errors
    /// As [`separate`](Self::separate).
    pub fn beside() -> io::Result<Self> {
        let permitted = Capabilities::of_this_thread()?.permitted;
        let (job, waiting) = mpsc::channel::<Job>();
        let wait = move || {
            if let Ok(job) = waiting.recv() {
                job(super::raise());
            }
        };
        allocator::configure();
        thread::Builder::new().name("attach".to_owned()).spawn(wait)?;
        Ok(Self { job, permitted, left: None })
    }

    /// Waits until the thread has done `job` with the capabilities and given them up, and says so in the log. It blocks
    /// the caller, so that nothing is exported before kills are seen.
    ///
    /// # Errors
    /// The thread has ended without doing it.
    pub fn run<T: Send + 'static>(self, job: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let (sender, result) = mpsc::channel();
        let job: Job = Box::new(move |used| {
            let made = job();
            // Before the result is handed over: from then on nothing has capabilities.
            let left = capabilities::drop_all();
            let _ = sender.send((made, used, left));
        });
        let ended = || io::Error::other("the thread that has the capabilities ended");
        self.job.send(job).map_err(|_| ended())?;
        let (made, used, left) = result.recv().map_err(|_| ended())?;
        match self.left.map(|first| first.and(left)) {
            // With a pinned probe none are needed.
            Some(Ok(_)) if self.permitted == Set::default() => {}
            Some(Ok(bounding)) => {
                info!(permitted = %self.permitted, used = used.names().join(","), %bounding, "all capabilities are \
                    given up")
            }
            Some(Err(error)) => {
                warn!(%error, permitted = %self.permitted, "capabilities could not be given up, the agent keeps what \
                    it has")
            }
            None => {}
        }
        Ok(made)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    #[test]
    fn after_the_job_neither_thread_has_a_capability() {
        // On a thread of its own: the other tests keep theirs.
        let test = || {
            let had = Capabilities::of_this_thread().unwrap().permitted;
            let privileged = Privileged::separate().unwrap();
            assert_eq!(Capabilities::of_this_thread().unwrap(), Capabilities::default());
            let (sender, receiver) = mpsc::channel();
            let job = move || {
                sender.send(thread::current().id()).unwrap();
                Capabilities::of_this_thread().unwrap().permitted
            };
            assert_eq!(privileged.run(job).unwrap(), had);
            assert_ne!(receiver.recv().unwrap(), thread::current().id());
            assert_eq!(
                thread::spawn(|| Capabilities::of_this_thread().unwrap()).join().unwrap(),
                Capabilities::default()
            );
        };
        thread::spawn(test).join().unwrap();
    }
}
