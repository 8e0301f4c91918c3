//! The stages behind the source, and the loop that carries each kill through them. The picture in docs/architecture.md
//! as code.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{info_span, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::account::{Attached, Ledger, Whose};
use super::held::Held;
use super::waiting::{Waiting, Waits};
use super::{Failure, lock};
use crate::attribution;
use crate::cgroups::names::CgroupNames;
use crate::cgroups::node::Node;
use crate::config::Config;
use crate::diagnostics::HANDLING;
use crate::export::instruments::Recorder;
use crate::export::otlp::Otlp;
use crate::export::prometheus::Health;
use crate::host::allocator;
use crate::kill::{Kill, KubernetesOwner, MissedKills, Owner};
use crate::kubernetes;
use crate::kubernetes::pod_logs::PodLogs;
use crate::reconcile::ProbeCounts;
use crate::record::duplicates::Duplicates;
use crate::record::ends::{self, End, Ends};
use crate::record::incident::Incidents;
use crate::record::log_record::log_record;
use crate::record::series::Table;
use crate::record::span;
use crate::source::probe::{CounterMap, Counters, Pinned, Probe, Told};
use crate::state::Store;
use crate::stats::Stats;

/// Kills that are handled before others get their turn: the server of `/metrics` and the export share this thread.
const AT_ONCE: usize = 64;
/// How often owners without kills are looked for, and memory that is free.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(30);
/// How often spans that wait for too long are looked for, while any waits.
const ENDS_INTERVAL: Duration = Duration::from_secs(1);
/// How soon after a kill the state is saved: at once, but in a burst not more often than this, and not for more than a
/// tenth of the time.
const SAVE_INTERVAL: Duration = Duration::from_millis(100);

/// How many times as long as one kill may wait one after the other may, before all go on, so that the state is saved
/// and the kernel's counters are looked at.
const MAX_WAITS: u32 = 3;

/// All stages but the source: where kills go.
#[derive(Debug)]
pub struct Pipeline {
    pub(super) node: String,
    /// Whose kills count.
    pub(super) cgroups_of_node: Node,
    pub(super) stats: Arc<Stats>,
    pub(super) table: Arc<Mutex<Table>>,
    /// Where the kernel refuses to have names read.
    pub(super) cgroups: Option<CgroupNames>,
    pub(super) duplicates: Duplicates,
    pub(super) incidents: Incidents,
    pub(super) ends: Ends,
    pub(super) recorders: Vec<Recorder>,
    pub(super) held: Held,
    /// This node's pods. Absent if they are not watched.
    pub(super) pods: Option<kubernetes::Store>,
    /// Where names come from that the API does not tell.
    pub(super) pod_logs: Option<PodLogs>,
    /// How long a kill waits for its container to be known.
    pub(super) patience: Duration,
    pub(super) waiting: Waiting,
    /// Absent without a probe.
    pub(super) ledger: Option<Ledger>,
    pub(super) otlp: Otlp,
}

impl Pipeline {
    /// Opens the account where the last agent has left it.
    pub(super) fn open_ledger(&mut self, config: &Config, probe: &Probe) {
        // Without the cgroups missed kills have no owners; preflight says what to do about it.
        let hierarchy = self.cgroups_of_node.hierarchy();
        let mut ledger =
            Ledger::load(&self.node, probe.boot_id(), Store::new(config.state_directory.clone()), hierarchy);
        let detached: Vec<_> = probe.leftovers().iter().map(|(ring, counted)| (*ring, self.counts(counted))).collect();
        let is_new = !matches!(probe.pinned(), Pinned::TakenOver);
        let attached = Attached { ring: probe.ring(), counted: self.counts(&probe.counters().read()), is_new };
        ledger.attached(attached, &detached, &self.stats, &self.table, SystemTime::now());
        self.ledger = Some(ledger);
    }

    fn counts(&self, counted: &Counters) -> ProbeCounts {
        let dropped = counted.ring_full.saturating_add(self.stats.malformed_events.get());
        ProbeCounts { confirmed: counted.kills, repeated: counted.repeated, dropped }
    }

    pub(super) async fn watch(&mut self, probe: &mut Probe, health: &Health, stop: impl Future) -> Result<(), Failure> {
        let (counters, own, settling) = (probe.counters(), probe.ring(), self.otlp.settling());
        let (mut expiry, mut ends) = (tokio::time::interval(EXPIRY_INTERVAL), tokio::time::interval(ENDS_INTERVAL));
        // While no span waits nobody looks, and what was missed then need not be made up for.
        ends.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked = SystemTime::UNIX_EPOCH;
        let mut told_dropped = self.ledger.as_ref().map_or(0, Ledger::dropped);
        // Whether something was handled that is not saved, and when it may be.
        let (mut unsaved, mut save_at) = (true, Instant::now());
        let mut check_at = Instant::now();
        let mut changes = self.pods.as_ref().map(kubernetes::Store::changes);
        tokio::pin!(stop);
        loop {
            let anything_ends = !self.ends.is_empty();
            // What waits is neither saved nor explained: both can be done for all before it and for none behind it, so
            // they wait as well.
            if self.waiting.has_lasted(self.patience * MAX_WAITS) {
                self.give_up_waiting();
                self.expire_ends(looked, SystemTime::now());
                unsaved = true;
            }
            let (is_idle, until) = (self.waiting.is_empty(), self.waiting.until());
            tokio::select! {
                _ = &mut stop => return Ok(()),
                read = probe.read(AT_ONCE, |told| self.take(told, own)) => {
                    read.map_err(Failure::Read)?;
                    self.go_on();
                    unsaved = true;
                    copy_counters(&counters, &self.stats);
                    // Not by what the statistics said before: a scrape may have brought them up to date in between.
                    let dropped = self.stats.ring_full.get().saturating_sub(told_dropped);
                    if dropped > 0 {
                        told_dropped += dropped;
                        warn!(dropped, "kills found no room in the ring buffer: they are counted for the node, and \
                            their owners are looked for in the cgroups");
                        // While the cgroups are there.
                        check_at = Instant::now();
                    }
                    tokio::task::yield_now().await;
                }
                () = settling.notified() => {}
                () = changed(changes.as_mut()) => {
                    self.ensure_containers();
                    self.go_on();
                    unsaved |= !is_idle;
                    health.degrade(self.pods.as_ref().and_then(kubernetes::Store::degraded));
                }
                () = tokio::time::sleep_until(until.unwrap_or(check_at)), if !is_idle => {
                    self.go_on();
                    unsaved = true;
                }
                () = tokio::time::sleep_until(save_at), if unsaved && is_idle => {
                    let begin = Instant::now();
                    self.save(probe);
                    unsaved = !self.waiting.is_empty();
                    save_at = Instant::now() + SAVE_INTERVAL.max(begin.elapsed() * 10);
                }
                () = tokio::time::sleep_until(check_at), if is_idle => {
                    self.check(probe);
                    check_at = Instant::now() + self.ledger.as_ref().map_or(EXPIRY_INTERVAL, Ledger::pause);
                }
                _ = ends.tick(), if anything_ends => {
                    // Those that were late at the look before: what the probe had told by then has been read since.
                    let now = SystemTime::now();
                    self.expire_ends(std::mem::replace(&mut looked, now), now);
                }
                _ = expiry.tick() => {
                    self.ensure_containers();
                    self.expire(SystemTime::now());
                    allocator::give_back_much();
                }
            }
            self.release(probe);
        }
    }

    /// Handles what is there and saves what outlives the agent.
    pub(super) fn save(&mut self, probe: &mut Probe) {
        // The counters first: what they tell of is handled then.
        let counted = probe.counters().read();
        while !self.read_what_is_there(probe) {}
        // What has come just now may have to wait, and is saved the next time.
        if !self.waiting.is_empty() {
            return;
        }
        let counts = self.counts(&counted);
        if let Some(ledger) = &mut self.ledger {
            // If it fails that is told, and nothing waits for it: what the state is for is lost then.
            ledger.save(counts, &self.stats, &self.table, SystemTime::now());
        }
        self.held.are_saved();
    }

    /// Compares the kernel's counters with what was seen, and tells of what nobody saw.
    fn check(&mut self, probe: &mut Probe) {
        let Some(ledger) = &self.ledger else { return };
        let observed = ledger.look(|| self.counts(&probe.counters().read()));
        while !self.read_what_is_there(probe) {}
        if !self.waiting.is_empty() {
            return;
        }
        let (Some(ledger), otlp) = (&mut self.ledger, &self.otlp) else { return };
        let pods = self.pods.as_ref().map(kubernetes::Store::pods);
        let attribute = |kills: &MissedKills| {
            with_names(attribution::attribute_missed(kills, pods.as_deref()), self.pod_logs.as_ref())
        };
        ledger.check(observed, &self.stats, &self.table, SystemTime::now(), attribute, |record| {
            otlp.log(record);
        });
        drop(pods);
        self.save(probe);
    }

    /// Handles what is in the ring buffers, as much as at once. Whether that was all.
    fn read_what_is_there(&mut self, probe: &mut Probe) -> bool {
        let own = probe.ring();
        let all = probe.read_what_is_there(AT_ONCE, |told| self.take(told, own));
        self.go_on();
        self.release(probe);
        all
    }

    /// Gives back to the kernel what needs no more care, and what it needs the room of.
    fn release(&mut self, probe: &mut Probe) {
        self.held.safe(self.otlp.settled()).for_each(|place| probe.release(place));
        while let Some(place) = self.held.oldest().filter(|place| probe.is_crowded(place.ring)) {
            probe.release(place);
            self.held.give_up_oldest();
        }
    }

    /// `own`: the ring buffer that the probe writes now, of which alone it tells when memory is free.
    fn take(&mut self, mut told: Told, own: u32) {
        if let Told::Kill(Ok(kill), place) = &mut told {
            kill.victim.end_is_told &= place.ring == own;
            if let Some(cgroups) = &mut self.cgroups {
                cgroups.complete(kill);
            }
        }
        if self.waiting.is_empty() && self.is_whole(&told) {
            self.settle(Waits { told, counted: false });
        } else {
            let counted = self.count_now(&told);
            self.waiting.push(Waits { told, counted }, Instant::now() + self.patience);
        }
    }

    /// Counts a kill that has to wait for the node, unless it was counted before, or its like waits already.
    fn count_now(&self, told: &Told) -> bool {
        let Told::Kill(Ok(kill), place) = told else { return false };
        let has_counted = self.ledger.as_ref().is_some_and(|ledger| ledger.has_counted(place.ring, kill.sequence));
        let is_new = self.cgroups_of_node.has(kill)
            && !has_counted
            && !self.duplicates.knows(kill.id)
            && !self.waiting.has(kill.id);
        self.stats.kills.add(u64::from(is_new));
        is_new
    }

    /// Handles what need not wait any longer.
    fn go_on(&mut self) {
        let now = Instant::now();
        let mut waiting = std::mem::take(&mut self.waiting);
        while let Some(waits) = waiting.next(|told| self.is_whole(told), now) {
            self.settle(waits);
        }
        self.waiting = waiting;
        self.stats.waiting_kills.set(self.waiting.kills() as u64);
    }

    /// At the end: handles all that waits with what is known of it, and what still comes too.
    pub(super) fn wait_no_longer(&mut self) {
        self.patience = Duration::ZERO;
        self.give_up_waiting();
    }

    /// Handles all that waits with what is known of it.
    fn give_up_waiting(&mut self) {
        while let Some(waits) = self.waiting.give_up() {
            self.settle(waits);
        }
        self.stats.waiting_kills.set(0);
    }

    /// Whether waiting would tell no more of it.
    fn is_whole(&self, told: &Told) -> bool {
        match (told, &self.pods) {
            (Told::Kill(Ok(kill), _), Some(pods)) if self.cgroups_of_node.has(kill) => {
                !pods.may_tell_more() || attribution::is_whole(kill, &pods.pods())
            }
            _ => true,
        }
    }

    fn settle(&mut self, waits: Waits) {
        match waits.told {
            Told::Kill(Ok(kill), place) if !self.cgroups_of_node.has(&kill) => {
                let is_new = !self.has_come_before(&kill);
                self.stats.other_nodes.add(u64::from(is_new));
                if let Some(ledger) = &mut self.ledger {
                    ledger.seen(&kill, place.ring, if is_new { Whose::Others } else { Whose::Known });
                }
                self.held.add(place, None);
            }
            Told::Kill(Ok(kill), place) => {
                let is_new = !self.has_come_before(&kill);
                let counted = self.ledger.as_ref().is_some_and(|ledger| ledger.has_counted(place.ring, kill.sequence));
                if let Some(ledger) = self.ledger.as_mut().filter(|_| !counted) {
                    ledger.seen(&kill, place.ring, if is_new { Whose::Own } else { Whose::Known });
                }
                self.stats.kills.add(u64::from(is_new && !counted && !waits.counted));
                let record = if is_new { self.tell(&kill, !counted) } else { None };
                self.held.add(place, record);
            }
            Told::Kill(Err(error), place) => {
                self.stats.malformed_events.add(1);
                warn!(%error, "an event of the probe was not understood");
                self.held.add(place, None);
            }
            Told::Freed { sequence, time } => {
                if let Some((span, took)) = self.ends.freed(sequence, time) {
                    self.recorders.iter().for_each(|recorder| recorder.reclaimed(took));
                    self.otlp.span(span);
                }
            }
        }
    }

    /// Gives each container of the node its series, from 0.
    fn ensure_containers(&self) {
        if let Some(pods) = &self.pods {
            let (now, known) = (SystemTime::now(), pods.pods());
            lock(&self.table).ensure(known.containers(), now);
            self.stats.pods.set(Some(known.len() as u64));
            self.stats.pods_left_out.set(known.left_out());
            self.stats.pods_synced.store(pods.is_synced(), Ordering::Relaxed);
        }
    }

    /// Removes the series of owners that had no kill for longer than the configuration allows.
    pub fn expire(&self, now: SystemTime) {
        lock(&self.table).expire(now);
    }

    /// Ends the spans that were late at `looked`, unless their ends may be among what waits.
    fn expire_ends(&mut self, looked: SystemTime, now: SystemTime) {
        if self.waiting.is_empty() {
            self.ends.expired(looked, now).into_iter().for_each(|span| self.otlp.span(span));
        }
    }

    pub(super) fn give_up_ends(&mut self) {
        self.ends.give_up(SystemTime::now()).into_iter().for_each(|span| self.otlp.span(span));
    }

    /// Delivers what waits, for as long as `grace`; what is left then is counted and told.
    pub async fn deliver(mut self, grace: Duration) {
        self.give_up_ends();
        self.otlp.shutdown(Instant::now() + grace).await;
    }

    /// Carries one kill through attribution and record to the exports. Never waits. Gives the number of its log record,
    /// if that waits for the collector.
    pub fn handle(&mut self, kill: &Kill) -> Option<u64> {
        if self.has_come_before(kill) {
            return None;
        }
        self.stats.kills.add(1);
        self.tell(kill, true)
    }

    fn has_come_before(&mut self, kill: &Kill) -> bool {
        let before = self.duplicates.seen(kill.id);
        self.stats.duplicates.add(u64::from(before));
        before
    }

    /// `counts`: it is not among its owner's counts already, as one is whose record an agent could not deliver before
    /// it died.
    fn tell(&mut self, kill: &Kill, counts: bool) -> Option<u64> {
        // Signed: the layer makes a text of any other number.
        let handling = info_span!(target: HANDLING, "handle", "process.pid" = i64::from(kill.victim.pid));
        // Before it has children, which settle whose trace it is in. Fails only where no spans are exported.
        let _ = handling
            .set_parent(Context::new().with_remote_span_context(span::context(self.incidents.id(kill), kill.id)));
        let pods = self.pods.as_ref().map(kubernetes::Store::pods);
        let owner = info_span!(target: HANDLING, parent: &handling, "attribute")
            .in_scope(|| with_names(attribution::attribute(kill, pods.as_deref()), self.pod_logs.as_ref()));
        drop(pods);
        match &owner {
            Owner::Unknown { why } | Owner::Kubernetes(KubernetesOwner { why_no_container: Some(why), .. })
                if counts =>
            {
                self.stats.count_without_owner(*why);
            }
            _ => {}
        }
        let (incident, record) = info_span!(target: HANDLING, parent: &handling, "record").in_scope(|| {
            let incident = self.incidents.assign(kill, &owner);
            if counts {
                lock(&self.table).record(kill, &owner, &incident);
            }
            let record = log_record(kill, &owner, &incident, &self.node);
            (incident, record)
        });
        warn!(
            pid = kill.victim.pid,
            command = kill.victim.command,
            cgroup = kill.cgroup_path,
            trace_id = %record.context.trace_id(),
            sentence = record.body,
            "the OOM killer killed a process"
        );
        info_span!(target: HANDLING, parent: &handling, "hand_over").in_scope(|| {
            let number = self.otlp.log(record);
            let (span, now) = (span::span(kill, &owner, &incident, &self.node), SystemTime::now());
            let ended = if kill.victim.end_is_told {
                self.ends.wait(kill.sequence, span, now)
            } else {
                Some(ends::ended(span, now, End::Read))
            };
            ended.into_iter().for_each(|span| self.otlp.span(span));
            number
        })
    }
}

/// The owner, with names from the directories of the logs if the API has told none.
fn with_names(owner: Owner, logs: Option<&PodLogs>) -> Owner {
    match logs {
        Some(logs) => logs.complete(owner),
        None => owner,
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

pub(super) fn copy_counters(counters: &CounterMap, stats: &Stats) {
    let counted = counters.read();
    stats.ring_full.set(counted.ring_full);
    stats.marks_without_kill.set(counted.marks_without_kill);
    stats.signals_without_mark.set(counted.signals_without_mark);
    stats.repeated.set(counted.repeated);
    stats.shared_memory.set(counted.shared_memory);
    stats.collateral.set(counted.collateral);
}

#[cfg(test)]
mod tests;
