//! bpftrace on the tracepoint `oom:mark_victim`, as its documentation and many guides have it; the cgroup is looked up
//! in /proc when its line comes.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use super::{Sighting, Sightings, cgroup_of};
use oom_watcher_testkit::programs::end_with_this;

/// In a mount namespace of its own, so that the machine stays as it is where tracefs is not mounted.
const SCRIPT: &str = r#"[ -e /sys/kernel/tracing/events ] || mount -t tracefs tracefs /sys/kernel/tracing
exec bpftrace -B line -e 'tracepoint:oom:mark_victim { printf("victim %d\n", args->pid); }'"#;

/// A running one. Dropping it ends it.
pub(crate) struct Bpftrace {
    pub(crate) seen: Sightings,
    child: Child,
}

impl Bpftrace {
    /// Starts it and waits until it is attached.
    ///
    /// # Errors
    /// It cannot be started or attached here.
    pub(crate) fn start() -> Result<Self, String> {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        end_with_this(&mut command);
        let mut child = command.spawn().map_err(|error| format!("starting unshare: {error}"))?;
        let (seen, attached) = (Sightings::default(), mpsc::channel());
        let (told, lines) = (seen.clone(), BufReader::new(child.stdout.take().unwrap()).lines());
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if let Some(pid) = line.strip_prefix("victim ").and_then(|pid| pid.parse().ok()) {
                    told.add(Sighting { pid, cgroup: cgroup_of(pid) });
                } else if line.starts_with("Attach") {
                    // "Attaching" or, from 0.24 on, "Attached". Nobody listens to a second one.
                    let _ = attached.0.send(());
                }
            }
        });
        let this = Self { seen, child };
        attached
            .1
            .recv()
            .map(|()| this)
            .map_err(|_| "bpftrace ended before it was attached (try it by hand)".to_owned())
    }
}

impl Drop for Bpftrace {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
