//! The data path behind the source, and its loop. The picture in docs/architecture.md as code.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::Failure;
use super::admit::{Admission, Door};
use super::backlog::{Backlog, Ready, Waiting};
use super::books::Books;
use super::handle::Handler;
use crate::export::prometheus::Health;
use crate::host::allocator;
use crate::kill::Kill;
use crate::kubernetes;
use crate::source::probe::{Event, Place, Probe};

/// Events handed over at once: others get their turn, then the next ones.
const AT_ONCE: usize = 64;

/// How often spans that wait for too long are looked for, while any waits.
const ENDS_INTERVAL: Duration = Duration::from_secs(1);

/// Where events go: through the door, into the backlog, to the stages and into the books.
#[derive(Debug)]
pub struct Pipeline {
    pub(super) door: Door,
    pub(super) backlog: Backlog,
    pub(super) handler: Handler,
    pub(super) books: Books,
    /// How long a kill waits for its container to be known.
    pub(super) patience: Duration,
    /// When spans that wait for too long were looked for, and when they are again.
    pub(super) ends_seen: SystemTime,
    pub(super) ends_at: Instant,
}

impl Pipeline {
    /// Reads the probe and does what is due, until `stop` gives way.
    pub(super) async fn watch(&mut self, probe: &mut Probe, health: &Health, stop: impl Future) -> Result<(), Failure> {
        let (mut owners, acknowledging) = (self.handler.changes(), self.handler.otlp.acknowledging());
        tokio::pin!(stop);
        loop {
            let deadline = self.deadline();
            tokio::select! {
                _ = &mut stop => return Ok(()),
                read = probe.read(AT_ONCE, |event| self.admit(event)) => {
                    read.map_err(Failure::Read)?;
                    tokio::task::yield_now().await;
                }
                () = changed(owners.as_mut()) => {
                    self.owners_changed();
                    health.degrade(self.handler.pods.as_ref().and_then(kubernetes::Store::degraded));
                }
                () = acknowledging.notified() => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
            self.advance(probe);
        }
    }

    /// Admits one event, and handles a kill at once unless it has to wait for its container. Never waits itself.
    pub fn admit(&mut self, event: Event) {
        match self.door.admit(event, &mut self.books) {
            Admission::Kill(admitted) => {
                if self.has_to_wait(&admitted.kill) {
                    let pod = self.handler.pod_uid(&admitted.kill);
                    self.backlog.wait(admitted, pod, Instant::now() + self.patience);
                } else {
                    let record = self.handler.handle(&admitted, None, &mut self.books);
                    self.done(admitted.place, admitted.kill.sequence);
                    self.backlog.add(admitted.place, record);
                }
            }
            Admission::Nothing { place, sequence } => {
                if let Some(sequence) = sequence {
                    self.done(place, sequence);
                }
                self.backlog.add(place, None);
            }
            Admission::Freed { sequence, time } => {
                if !self.backlog.freed(self.door.ring(), sequence, time) {
                    self.handler.freed(sequence, time);
                }
            }
        }
    }

    /// Whether more may be known of a kill's owner a moment later, or it would go past one that it has to stay behind.
    fn has_to_wait(&self, kill: &Kill) -> bool {
        if !self.patience.is_zero() && !self.handler.is_whole(kill) {
            return true;
        }
        self.backlog.waiting() > 0 && self.backlog.blocks(kill, self.handler.pod_uid(kill).as_deref())
    }

    fn done(&mut self, place: Place, sequence: u64) {
        self.books.handled(place.ring, sequence, self.backlog.oldest_uncounted(place.ring));
    }

    /// When there is something to do at the latest.
    fn deadline(&self) -> Instant {
        let ends_at = (!self.handler.ends.is_empty()).then_some(self.ends_at);
        [self.backlog.until(), ends_at].into_iter().flatten().fold(self.books.deadline(), Instant::min)
    }

    /// Does all that is due: after each event, and at each [deadline](Self::deadline).
    fn advance(&mut self, probe: &mut Probe) {
        let now = Instant::now();
        if self.backlog.until().is_some_and(|until| until <= now) {
            self.handle_ready(now);
        }
        while let Some(ready) = self.books.crowded_ring().and_then(|ring| self.backlog.take_oldest(ring)) {
            self.handle(&ready);
            self.handle_ready(now);
        }
        self.books.note(&probe.counters().read(), self.backlog.waiting());
        if self.books.wants_check(now) {
            self.check(probe);
        }
        if self.books.wants_save(now) {
            self.save(probe);
        }
        if self.ends_at <= now {
            // Those that were late at the look before: what the probe had reported by then has been read since.
            let looked = std::mem::replace(&mut self.ends_seen, SystemTime::now());
            self.handler.expire_ends(looked);
            self.ends_at = now + ENDS_INTERVAL;
        }
        if self.books.wants_expiry(now) {
            self.expect_containers();
            self.expire(SystemTime::now());
            allocator::give_back_much();
        }
        self.release(probe);
    }

    /// Pods have changed: containers have their series, and kills that waited for them go on.
    fn owners_changed(&mut self) {
        self.expect_containers();
        self.handle_ready(Instant::now());
    }

    /// Handles the kills of which all is known that will be, or that have waited for long enough; with them those that
    /// had to stay behind one of these and have nothing else to wait for.
    fn handle_ready(&mut self, now: Instant) {
        let handler = &self.handler;
        let ready = self.backlog.take(|waiting| waiting.is_overdue(now) || handler.is_whole(&waiting.admitted.kill));
        ready.iter().for_each(|ready| self.handle(ready));
    }

    fn handle(&mut self, ready: &Ready) {
        let Waiting { admitted, freed, .. } = &ready.waiting;
        let record = self.handler.handle(admitted, *freed, &mut self.books);
        self.done(admitted.place, admitted.kill.sequence);
        self.backlog.handled(ready, record);
    }

    /// At the end: handles all that waits, and what still comes, with what is known of it, and saves.
    pub(super) fn finish(&mut self, probe: &mut Probe) {
        self.patience = Duration::ZERO;
        let all = self.backlog.take(|_| true);
        all.iter().for_each(|ready| self.handle(ready));
        self.save(probe);
        self.books.note(&probe.counters().read(), 0);
    }

    /// Reads what is there and saves what outlives the agent.
    fn save(&mut self, probe: &mut Probe) {
        // The counters first: what they count is read then.
        let counted = self.books.probe_counts(&probe.counters().read());
        self.read_all(probe);
        self.books.save(counted, &mut self.backlog);
    }

    /// Compares the kernel's counters with what was seen, and reports what nobody saw.
    fn check(&mut self, probe: &mut Probe) {
        let observed = self.books.observe(|| probe.counters().read());
        self.read_all(probe);
        let handler = &self.handler;
        let attribute = |kills: &_| handler.owner_of_missed(kills);
        self.books.check(observed, &mut self.backlog, attribute, |record| {
            handler.otlp.log(record);
        });
    }

    /// Reads all that is in the ring buffers.
    fn read_all(&mut self, probe: &mut Probe) {
        while !probe.read_available(AT_ONCE, |event| self.admit(event)) {
            self.release(probe);
        }
    }

    /// Gives back to the kernel what needs no more care, and what it needs the room of.
    fn release(&mut self, probe: &mut Probe) {
        self.backlog.safe(self.handler.otlp.acknowledged()).for_each(|place| probe.release(place));
        // The oldest of all, though it may be in another ring buffer than the one without room: that of a probe which
        // was detached waits before it.
        while let Some(place) = self.backlog.oldest().filter(|_| probe.is_crowded()) {
            if let Some(ready) = self.backlog.take_front() {
                self.handle(&ready);
                self.handle_ready(Instant::now());
            }
            if !self.backlog.is_oldest_saved() {
                // Before it leaves the kernel's memory: the next agent cannot read it again.
                self.books.save_handled(&mut self.backlog);
            }
            probe.release(place);
            self.backlog.forget_oldest();
        }
    }

    fn expect_containers(&self) {
        if let Some(pods) = &self.handler.pods {
            self.books.expect_containers(pods);
        }
    }

    /// Removes the series of owners that had no kill for longer than the configuration allows.
    pub fn expire(&self, now: SystemTime) {
        self.books.expire(now);
    }

    /// Delivers what is queued, no longer than until `deadline`; what is left then is lost, and counted. Returns the
    /// events that may leave the kernel's memory.
    pub async fn drain(self, deadline: Instant) -> Vec<Place> {
        let Self { mut handler, mut backlog, .. } = self;
        handler.give_up_ends();
        let acknowledged = handler.otlp.shutdown(deadline).await;
        backlog.safe(acknowledged).collect()
    }
}

/// Wakes when pods have changed; never if they are not watched.
async fn changed(changes: Option<&mut tokio::sync::watch::Receiver<u64>>) {
    match changes {
        // The store is the pipeline's own: it does not end before.
        Some(changes) => changes.changed().await.unwrap_or_default(),
        None => std::future::pending().await,
    }
}
