//! A reader of /proc after the event, as most eBPF tools are: it learns the victim's pid in the kernel and looks up its
//! cgroup when it is told.
//!
//! It is told by our own probe, attached a second time, on a thread that does nothing else: no tool of that kind can be
//! sooner.

use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use oom_watcher::source::probe::{self, Event, Probe};

use tokio::sync::oneshot;

use super::{Sighting, Sightings, cgroup_of};

/// Events that are taken at once.
const AT_ONCE: usize = 64;
const RING_BYTES: u32 = 16 << 20;

/// A running one. Dropping it detaches its probe.
pub(crate) struct ProcReader {
    pub(crate) seen: Sightings,
    ends: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ProcReader {
    pub(crate) fn start() -> Self {
        let (seen, attached, (ends, ended)) = (Sightings::default(), mpsc::channel(), oneshot::channel());
        let told = seen.clone();
        let read = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let config = probe::Config { ring_bytes: RING_BYTES, arguments: false, read_names: true, pins: None };
                let mut probe =
                    Probe::attach(&config).unwrap_or_else(|error| panic!("attaching a second probe: {error}"));
                attached.0.send(()).unwrap();
                tokio::select! {
                    () = follow(&mut probe, &told) => {}
                    _ = ended => {}
                }
            });
        };
        let thread = thread::spawn(read);
        attached.1.recv().unwrap();
        Self { seen, ends: Some(ends), thread: Some(thread) }
    }
}

async fn follow(probe: &mut Probe, told: &Sightings) {
    loop {
        let mut done = None;
        let take = |event| {
            if let Event::Kill(kill, place) = event {
                let pid = kill.unwrap().victim.pid;
                told.add(Sighting { pid, cgroup: cgroup_of(pid) });
                done = Some(place);
            }
        };
        probe.read(AT_ONCE, take).await.unwrap();
        if let Some(place) = done {
            probe.release(place);
        }
        // A probe that has always something to tell must not keep this from ending.
        tokio::task::yield_now().await;
    }
}

impl Drop for ProcReader {
    fn drop(&mut self) {
        drop(self.ends.take());
        // If it panicked, it has said so.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
