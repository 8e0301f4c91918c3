//! The instruments of both outputs: the same names, each with the label names of its world.
//!
//! All of them observe what is kept elsewhere, so a series that left the table has left both outputs at their next
//! collection.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use opentelemetry::metrics::{AsyncInstrument, Histogram, Meter, MeterProvider};
use opentelemetry::{KeyValue, StringValue};
use opentelemetry_sdk::metrics::{Instrument, SdkMeterProvider, Stream};
use parking_lot::Mutex;

use crate::kill::{Memory, Missed, Scope};
use crate::record::schema::{self, Kind, Metric, reason};
use crate::record::series::{Counts, Labels, Table};
use crate::record::span;
use crate::stats::{Export, MissedCount, Signal, Stats};

/// Rows of the table beyond its bound: the overflow.
const OVERFLOW_ROWS: usize = 1;
/// Data points of an instrument that has none per owner, at the most.
const FEW: usize = 100;

/// What labels are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// `namespace`, `pod`, …; what is not known is empty.
    Prometheus,
    /// `k8s.namespace.name`, `k8s.pod.name`, …; what is not known is absent.
    Semantic,
}

/// Which agent and which probe run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// The agent's version.
    pub version: String,
    /// The build of the probe.
    pub probe: String,
}

/// Takes what is measured once instead of being observed.
#[derive(Clone, Debug)]
pub struct Recorder {
    reclaim: Histogram<f64>,
    node: Vec<KeyValue>,
}

impl Recorder {
    /// A victim's memory was free this long after the kill.
    pub fn reclaimed(&self, time: Duration) {
        self.reclaim.record(time.as_secs_f64(), &self.node);
    }
}

/// What the instruments observe.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The node's name.
    pub node: &'a str,
    /// The counts of all owners.
    pub table: &'a Arc<Mutex<Table>>,
    /// The bound of that.
    pub owners: usize,
    /// What the agent counts about itself.
    pub stats: &'a Arc<Stats>,
    /// Which agent it is.
    pub build: &'a Build,
}

impl Observed<'_> {
    /// Registers all instruments. The provider's view has to be [`limit`].
    pub fn register(self, provider: &SdkMeterProvider, keys: Keys) -> Recorder {
        let Self { node, table, owners, stats, build } = self;
        let meter = provider.meter_with_scope(span::scope());
        let attributes = Attributes { keys, node: Arc::<str>::from(node).into() };
        register_owners(&meter, &attributes, table);
        register_kills(&meter, &attributes, stats);
        register_exports(&meter, &attributes, stats);
        register_agent(&meter, &attributes, table, owners, stats, build);
        let metric = schema::RECLAIM;
        let reclaim =
            meter.f64_histogram(metric.name).with_unit(metric.unit.unwrap_or_default()).with_description(metric.help);
        Recorder {
            reclaim: reclaim.with_boundaries(schema::RECLAIM_BUCKETS.to_vec()).build(),
            node: attributes.node(&[]),
        }
    }
}

/// A view that has room for all data points of a table with `owners` rows, twice: a gauge's of the previous collection
/// count too.
pub fn limit(owners: usize) -> impl Fn(&Instrument) -> Option<Stream> + Send + Sync + 'static {
    let rows = owners.saturating_add(OVERFLOW_ROWS);
    move |instrument| {
        // One series, whose buckets a view would take away.
        if instrument.name() == schema::RECLAIM.name {
            return None;
        }
        let points = if instrument.name() == schema::MEMORY_USAGE.name {
            rows.saturating_mul(schema::memory_types(&Memory::default()).len())
        } else if instrument.name() == schema::INCIDENTS.name {
            rows.saturating_mul(Scope::ALL.len())
        } else {
            rows
        };
        Stream::builder().with_cardinality_limit(points.max(FEW).saturating_mul(2)).build().ok()
    }
}

fn register_owners(meter: &Meter, attributes: &Attributes, table: &Arc<Mutex<Table>>) {
    per_owner(meter, schema::KILLS, attributes, table, |counts, observe| observe(counts.kills, None));
    per_owner(meter, schema::SURVIVED_KILLS, attributes, table, |counts, observe| {
        if counts.survived > 0 {
            observe(counts.survived, None);
        }
    });
    per_owner(meter, schema::INCIDENTS, attributes, table, |counts, observe| {
        for (scope, count) in &counts.incidents {
            observe(*count, Some(("scope", scope.as_str())));
        }
    });
    per_owner(meter, schema::MEMORY_USAGE, attributes, table, |counts, observe| {
        for (kind, bytes) in schema::memory_types(&counts.memory) {
            if let Some(bytes) = bytes {
                observe(bytes, Some(("memory_type", kind)));
            }
        }
    });
    per_owner(meter, schema::MEMORY_LIMIT, attributes, table, |counts, observe| {
        if let Some(limit) = counts.limit {
            observe(limit, None);
        }
    });

    // The only one with fractions.
    let (attributes, table) = (attributes.clone(), table.clone());
    let metric = schema::LAST_TIMESTAMP;
    let instrument =
        meter.f64_observable_gauge(metric.name).with_description(metric.help).with_callback(move |observer| {
            for (labels, counts) in table.lock().rows() {
                if let Some(Ok(time)) = counts.last_kill.map(|time| time.duration_since(UNIX_EPOCH)) {
                    observer.observe(time.as_secs_f64(), &attributes.owner(&labels, None));
                }
            }
        });
    instrument.build();
}

fn register_kills(meter: &Meter, attributes: &Attributes, stats: &Arc<Stats>) {
    number(meter, schema::KILLS_PER_NODE, attributes, stats, |stats, observe| observe(stats.node_kills(), &[]));
    number(meter, schema::KILLS_DROPPED, attributes, stats, |stats, observe| {
        observe(stats.ring_full.get(), &[("reason", reason::RING_FULL)]);
        observe(stats.malformed_events.get(), &[("reason", reason::MALFORMED)]);
    });
    number(meter, schema::EVENTS_IGNORED, attributes, stats, |stats, observe| {
        observe(stats.marks_without_kill.get(), &[("reason", reason::MARK_WITHOUT_KILL)]);
        observe(stats.signals_without_mark.get(), &[("reason", reason::SIGNAL_WITHOUT_MARK)]);
        observe(stats.repeated.get(), &[("reason", reason::REPEATED)]);
        observe(stats.shared_memory.get(), &[("reason", reason::SHARED_MEMORY)]);
        observe(stats.collateral.get(), &[("reason", reason::COLLATERAL)]);
        observe(stats.duplicates.get(), &[("reason", reason::DUPLICATE)]);
        observe(stats.other_nodes.get(), &[("reason", reason::OTHER_NODE)]);
    });
    number(meter, schema::MISSED_KILLS, attributes, stats, |stats, observe| {
        for why in [Missed::Away, Missed::Dropped] {
            let MissedCount { reconstructed, without_owner } = stats.missed(why);
            observe(reconstructed.get(), &[("reason", why.as_str()), ("reconstructed", "true")]);
            observe(without_owner.get(), &[("reason", why.as_str()), ("reconstructed", "false")]);
        }
    });
    number(meter, schema::UNEXPLAINED_KILLS, attributes, stats, |stats, observe| {
        observe(stats.missed(Missed::Unexplained).total(), &[])
    });
    number(meter, schema::KERNEL_KILLS, attributes, stats, |stats, observe| {
        if let Some(kills) = stats.kernel_kills.get() {
            observe(kills, &[]);
        }
    });
    number(meter, schema::KILLS_WITHOUT_OWNER, attributes, stats, |stats, observe| {
        for (why, count) in stats.without_owner() {
            observe(count, &[("reason", why.as_str())]);
        }
    });
}

fn register_exports(meter: &Meter, attributes: &Attributes, stats: &Arc<Stats>) {
    // Data points have no queue and are not lost: the next ones tell the same and more.
    const QUEUED: [Signal; 2] = [Signal::Logs, Signal::Traces];
    number(meter, schema::EXPORT_ITEMS, attributes, stats, |stats, observe| {
        for signal in Signal::ALL {
            observe(stats.export(signal).sent.get(), &[("signal", signal.as_str())]);
        }
    });
    number(meter, schema::EXPORT_FAILURES, attributes, stats, |stats, observe| {
        for signal in Signal::ALL {
            observe(stats.export(signal).failures.get(), &[("signal", signal.as_str())]);
        }
    });
    number(meter, schema::EXPORT_QUEUE_ITEMS, attributes, stats, |stats, observe| {
        for signal in QUEUED {
            observe(stats.export(signal).queued.get(), &[("signal", signal.as_str())]);
        }
    });
    number(meter, schema::EXPORT_QUEUE_BYTES, attributes, stats, |stats, observe| {
        for signal in QUEUED {
            observe(stats.export(signal).queued_bytes.get(), &[("signal", signal.as_str())]);
        }
    });
    number(meter, schema::EXPORT_SPOOL_BYTES, attributes, stats, |stats, observe| {
        for signal in QUEUED {
            observe(stats.export(signal).spooled_bytes.get(), &[("signal", signal.as_str())]);
        }
    });
    number(meter, schema::EXPORT_SPOOL_FAILURES, attributes, stats, |stats, observe| {
        for signal in QUEUED {
            observe(stats.export(signal).spool_failures.get(), &[("signal", signal.as_str())]);
        }
    });
    number(meter, schema::EXPORT_LOST, attributes, stats, |stats, observe| {
        for signal in QUEUED {
            let Export { lost_queue_full, lost_rejected, lost_shutdown, .. } = stats.export(signal);
            for (reason, lost) in [
                (reason::QUEUE_FULL, lost_queue_full),
                (reason::REJECTED, lost_rejected),
                (reason::SHUTDOWN, lost_shutdown),
            ] {
                observe(lost.get(), &[("reason", reason), ("signal", signal.as_str())]);
            }
        }
    });
}

fn register_agent(
    meter: &Meter,
    attributes: &Attributes,
    table: &Arc<Mutex<Table>>,
    owners: usize,
    stats: &Arc<Stats>,
    build: &Build,
) {
    let rows = table.clone();
    number(meter, schema::SERIES, attributes, stats, move |_, observe| observe(rows.lock().len() as u64, &[]));
    let rows = table.clone();
    number(meter, schema::SERIES_OVERFLOW_KILLS, attributes, stats, move |_, observe| {
        observe(rows.lock().overflow_kills(), &[])
    });
    number(meter, schema::SERIES_LIMIT, attributes, stats, move |_, observe| observe(owners as u64, &[]));
    number(meter, schema::PROBE_ATTACHED, attributes, stats, |stats, observe| {
        observe(u64::from(stats.attached.load(Ordering::Relaxed)), &[])
    });
    number(meter, schema::PODS, attributes, stats, |stats, observe| {
        if let Some(pods) = stats.pods.get() {
            observe(pods, &[]);
        }
    });
    number(meter, schema::PODS_LEFT_OUT, attributes, stats, |stats, observe| {
        if stats.pods.get().is_some() {
            observe(stats.pods_left_out.get(), &[]);
        }
    });
    number(meter, schema::PODS_SYNCED, attributes, stats, |stats, observe| {
        if stats.pods.get().is_some() {
            observe(u64::from(stats.pods_synced.load(Ordering::Relaxed)), &[]);
        }
    });
    number(meter, schema::WAITING_KILLS, attributes, stats, |stats, observe| observe(stats.waiting_kills.get(), &[]));
    number(meter, schema::PROBE_PINNED, attributes, stats, |stats, observe| {
        observe(u64::from(stats.pinned.load(Ordering::Relaxed)), &[])
    });
    number(meter, schema::CONNECTIONS_REFUSED, attributes, stats, |stats, observe| {
        observe(stats.connections_refused.get(), &[])
    });
    number(meter, schema::LOG_LINES_LOST, attributes, stats, |stats, observe| observe(stats.log_lines_lost.get(), &[]));
    let build = build.clone();
    number(meter, schema::BUILD_INFO, attributes, stats, move |_, observe| {
        observe(1, &[("probe", &build.probe), ("version", &build.version)])
    });
}

/// An instrument with data points per owner; `read` says which of a row, each with one more label or none.
fn per_owner(
    meter: &Meter,
    metric: Metric,
    attributes: &Attributes,
    table: &Arc<Mutex<Table>>,
    read: impl Fn(&Counts, &mut dyn FnMut(u64, Option<(&'static str, &'static str)>)) + Send + Sync + 'static,
) {
    let (attributes, table) = (attributes.clone(), table.clone());
    observable(meter, metric, move |observer| {
        for (labels, counts) in table.lock().rows() {
            read(counts, &mut |value, label| observer.observe(value, &attributes.owner(&labels, label)));
        }
    });
}

/// An instrument with data points of the node; `read` says which, each with its further labels.
fn number(
    meter: &Meter,
    metric: Metric,
    attributes: &Attributes,
    stats: &Arc<Stats>,
    read: impl Fn(&Stats, &mut dyn FnMut(u64, &[(&'static str, &str)])) + Send + Sync + 'static,
) {
    let (attributes, stats) = (attributes.clone(), stats.clone());
    observable(meter, metric, move |observer| {
        read(&stats, &mut |value, labels| observer.observe(value, &attributes.node(labels)));
    });
}

/// Callbacks run inside the collection: one that panics ends it for good.
fn observable(meter: &Meter, metric: Metric, callback: impl Fn(&dyn AsyncInstrument<u64>) + Send + Sync + 'static) {
    let unit = metric.unit.unwrap_or_default();
    match metric.kind {
        Kind::Counter => {
            meter
                .u64_observable_counter(metric.name)
                .with_unit(unit)
                .with_description(metric.help)
                .with_callback(callback)
                .build();
        }
        Kind::Gauge => {
            meter
                .u64_observable_gauge(metric.name)
                .with_unit(unit)
                .with_description(metric.help)
                .with_callback(callback)
                .build();
        }
        // Not observed but recorded: see `Recorder`.
        Kind::Histogram => {}
    }
}

/// Makes the attributes of data points, sorted by key: the SDK keeps an unsorted set twice.
#[derive(Clone)]
struct Attributes {
    keys: Keys,
    node: StringValue,
}

impl Attributes {
    fn owner(&self, labels: &Labels, more: Option<(&'static str, &'static str)>) -> Vec<KeyValue> {
        let mut set = Vec::with_capacity(5);
        self.add(&mut set, "container", labels.container.clone().into());
        self.add(&mut set, "namespace", labels.namespace.clone().into());
        self.add(&mut set, "pod", labels.pod.clone().into());
        self.finish(set, more)
    }

    fn node<'a>(&self, labels: &[(&'static str, &'a str)]) -> Vec<KeyValue> {
        let own = |value: &'a str| StringValue::from(value.to_owned());
        let mut set = Vec::with_capacity(labels.len() + 1);
        for (label, value) in labels {
            self.add(&mut set, label, own(value));
        }
        self.finish(set, None)
    }

    fn finish(&self, mut set: Vec<KeyValue>, more: Option<(&'static str, &'static str)>) -> Vec<KeyValue> {
        self.add(&mut set, "node", self.node.clone());
        if let Some((label, value)) = more {
            self.add(&mut set, label, value.into());
        }
        set.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        set
    }

    fn add(&self, set: &mut Vec<KeyValue>, label: &'static str, value: StringValue) {
        let key = match self.keys {
            Keys::Prometheus => label,
            Keys::Semantic if value.as_str().is_empty() => return,
            Keys::Semantic => {
                schema::LABELS.iter().find(|known| known.prometheus == label).map_or(label, |known| known.otlp)
            }
        };
        set.push(KeyValue::new(key, value));
    }
}
