//! The task that keeps on disk what waits.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::Queue;
use crate::export::spool::{Damaged, Spool};

/// How long after a failure it is tried again to write to the disk.
pub(super) const SAVE_RETRY: Duration = Duration::from_secs(5);

/// Keeps on disk what waits, and no longer what does not. First it says what was `found`, and was `damaged`: where a
/// queue is made, nobody hears that yet.
pub(super) async fn keep(queue: Arc<Queue>, mut spool: Spool, found: usize, damaged: Vec<Damaged>) {
    let signal = queue.signal.as_str();
    queue.export().spool_failures.add(damaged.len() as u64);
    for Damaged { file, why, kept } in damaged {
        let file = file.display().to_string();
        match kept {
            Some(kept) => {
                warn!(signal, why, file, kept = %kept.display(), "a file of the spool is damaged: what is behind the \
                    damage is lost")
            }
            None => warn!(signal, why, file, "a file of the spool cannot be used, and stays as it is"),
        }
    }
    if found > 0 {
        info!(signal, items = found, "what an earlier agent could not deliver is sent first");
    }
    let mut closed = queue.closed.subscribe();
    let (mut noted, mut fails) = (0, false);
    loop {
        // Before the look: what comes after it wakes this.
        let ends = *closed.borrow_and_update();
        let (done, items) = queue.unsaved();
        if items.is_empty() && done == noted {
            if ends {
                return;
            }
            tokio::select! {
                () = queue.unsaved.notified() => {}
                _ = closed.changed() => {}
            }
            continue;
        }

        let last = items.last().map(|item| item.number);
        let write = move || {
            let marked = if done == noted { Ok(()) } else { spool.done(done) };
            let kept = spool.append(items.iter().map(|item| (item.number, item.bytes.as_ref())));
            (marked, kept, spool)
        };
        // Only if it panicked.
        let Ok((marked, kept, returned)) = tokio::task::spawn_blocking(write).await else { return };
        spool = returned;
        queue.export().spooled_bytes.set(spool.size());
        // Each by itself: what is written must not be written again because the other one failed.
        if marked.is_ok() {
            noted = done;
        }
        if kept.is_ok() {
            queue.saved(last);
        }
        match marked.and(kept) {
            Ok(()) => {
                if std::mem::take(&mut fails) {
                    info!(signal, "the spool can be written again");
                }
            }
            Err(error) => {
                queue.export().spool_failures.add(1);
                if !std::mem::replace(&mut fails, true) {
                    warn!(signal, %error, "the spool cannot be written: what waits for the collector is lost if the \
                        agent ends");
                }
                if ends {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep(SAVE_RETRY) => {}
                    _ = closed.changed() => {}
                }
            }
        }
    }
}
