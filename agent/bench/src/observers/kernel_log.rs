//! A reader of the kernel log, as the kubelet (cAdvisor), node-problem-detector and others are: who was killed is in
//! the line "Killed process", whose it was in the line "oom-kill:", which the kernel leaves out after ten in five
//! seconds (the rate limit of dump_header, mm/oom_kill.c).

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::{Sighting, Sightings};

/// Longer than a record can be (PRINTKRB_RECORD_MAX of the kernel is 1,024, and the reader's text adds its prefix and
/// escapes).
const RECORD: usize = 8192;

/// How often it looks whether it is to end, in milliseconds.
const LOOK_UP: i32 = 100;

/// A running one. Dropping it ends it.
pub(crate) struct KernelLog {
    /// Each line "Killed process".
    pub(crate) killed: Sightings,
    /// Each line "oom-kill:".
    pub(crate) explained: Sightings,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl KernelLog {
    pub(crate) fn start() -> Self {
        let mut log = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").unwrap();
        log.seek(SeekFrom::End(0)).unwrap();
        let (killed, explained, ends) = (Sightings::default(), Sightings::default(), Arc::new(AtomicBool::new(false)));
        let (told_killed, told_explained, is_to_end) = (killed.clone(), explained.clone(), Arc::clone(&ends));
        let read = move || {
            let mut buffer = vec![0; RECORD];
            while !is_to_end.load(Ordering::Relaxed) {
                let length = match log.read(&mut buffer) {
                    Ok(length) => length,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        let mut ready = libc::pollfd { fd: log.as_raw_fd(), events: libc::POLLIN, revents: 0 };
                        // SAFETY: one entry, which outlives the call.
                        unsafe { libc::poll(&raw mut ready, 1, LOOK_UP) };
                        continue;
                    }
                    // It was overtaken: what comes next is the oldest that there is.
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => continue,
                    Err(error) => panic!("reading the kernel log: {error}"),
                };
                let record = String::from_utf8_lossy(&buffer[..length]);
                let Some(message) = record.split_once(';').and_then(|(_, rest)| rest.lines().next()) else { continue };
                if let Some(sighting) = explanation(message) {
                    told_explained.add(sighting);
                } else if let Some(pid) = victim(message) {
                    told_killed.add(Sighting { pid, cgroup: None });
                }
            }
        };
        Self { killed, explained, ends, thread: Some(thread::spawn(read)) }
    }
}

impl Drop for KernelLog {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // If it panicked, it has said so.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// `oom-kill:constraint=…,task_memcg=PATH,task=NAME,pid=PID,uid=UID`
fn explanation(message: &str) -> Option<Sighting> {
    let fields = message.strip_prefix("oom-kill:")?;
    let (_, rest) = fields.split_once(",task_memcg=")?;
    let (cgroup, rest) = rest.split_once(",task=")?;
    let (_, rest) = rest.rsplit_once(",pid=")?;
    Some(Sighting { pid: rest.split(',').next()?.parse().ok()?, cgroup: Some(cgroup.to_owned()) })
}

/// `…: Killed process PID (NAME) …`
fn victim(message: &str) -> Option<u32> {
    message.split_once("Killed process ")?.1.split(' ').next()?.parse().ok()
}
