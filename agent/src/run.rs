//! THE DATA PATH: builds the stages, carries each kill through them, drains them at the end. The picture in docs/architecture.md as code.
//!
//! The order of building matters: the port is bound before the probe is attached, because a port that is taken must not cost a kill; the capabilities
//! go to a thread of their own before there is another one, so that no thread which listens or sends ever has any; and kills are read before anything
//! is exported, because the pipeline never waits for the network.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tokio::time::Instant;
use tracing::{info, info_span, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::attribution;
use crate::config::Config;
use crate::diagnostics::HANDLING;
use crate::export::instruments::{self, Build, Keys};
use crate::export::otlp::Otlp;
use crate::export::prometheus::{self, Bridge, Health};
use crate::kill::{Kill, KubernetesOwner, Owner};
use crate::record::duplicates::Duplicates;
use crate::record::incident::Incidents;
use crate::record::log_record::log_record;
use crate::record::series::Table;
use crate::record::span;
use crate::source::event::Malformed;
use crate::source::privileged::Privileged;
use crate::source::probe::{self, AttachError, CounterMap, Probe};
use crate::stats::Stats;

/// Kills that are handled before others get their turn: the server of `/metrics` and the export share this thread.
const AT_ONCE: usize = 64;
/// How often owners without kills are looked for.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(30);

/// Why the agent cannot do its job.
#[derive(Debug)]
pub enum Failure {
    /// `/metrics` cannot be served.
    Listen(SocketAddr, io::Error),
    /// OTLP is configured in a way that cannot work.
    Export(anyhow::Error),
    /// The probe is not attached.
    Attach(AttachError),
    /// Reading its events failed.
    Read(io::Error),
    /// A second signal came while the stages were drained.
    Interrupted,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(address, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(f, "serving /metrics on {address}: {error}: stop what listens there (another oom-watcher?), or set METRICS_PORT or --listen")
            }
            Self::Listen(address, error) => write!(f, "serving /metrics on {address}: {error}: set --listen to an address of this machine"),
            Self::Export(error) => write!(f, "{error:#}"),
            Self::Attach(error) => write!(f, "attaching the probe: {error}"),
            Self::Read(error) => write!(f, "reading the probe's ring buffer: {error}"),
            Self::Interrupted => f.write_str("a second signal ended the agent before everything was delivered"),
        }
    }
}

impl std::error::Error for Failure {}

/// All stages but the source: where kills go.
#[derive(Debug)]
pub struct Pipeline {
    node: String,
    stats: Arc<Stats>,
    table: Arc<Mutex<Table>>,
    duplicates: Duplicates,
    incidents: Incidents,
    otlp: Otlp,
}

/// The agent, built but not yet watching.
#[derive(Debug)]
pub struct Agent {
    config: Config,
    pipeline: Pipeline,
    listener: TcpListener,
    address: SocketAddr,
    bridge: Arc<Bridge>,
    health: Health,
}

/// Binds the port of `/metrics`: before the capabilities are given up, since a port below 1024 needs one.
///
/// # Errors
/// The port is taken, or the address is not to be had.
pub fn bind(config: &Config) -> Result<TcpListener, Failure> {
    prometheus::bind(config.listen).map_err(|error| Failure::Listen(config.listen, error))
}

impl Agent {
    /// Starts the exports; `listener` is that of [`bind`]. Must be called inside a Tokio runtime.
    pub fn build(config: Config, listener: TcpListener) -> Result<Self, Failure> {
        let address = listener.local_addr().map_err(|error| Failure::Listen(config.listen, error))?;
        let stats = Arc::new(Stats::default());
        let table = Arc::new(Mutex::new(Table::new(config.series)));
        let build = Build { version: env!("CARGO_PKG_VERSION").to_owned(), probe: probe::BUILD.to_owned() };
        let owners = config.series.owners;

        let bridge = Arc::new(Bridge::new(owners).map_err(Failure::Export)?);
        instruments::register(bridge.provider(), Keys::Prometheus, &config.node, &table, owners, &stats, &build);
        let otlp = Otlp::start(&config.otlp, &stats, owners, |provider| {
            instruments::register(provider, Keys::Semantic, &config.node, &table, owners, &stats, &build);
        })
        .map_err(Failure::Export)?;

        let pipeline = Pipeline { node: config.node.clone(), stats, table, duplicates: Duplicates::default(), incidents: Incidents::default(), otlp };
        let health = Health::not_ready("the probe is not attached yet");
        Ok(Self { config, pipeline, listener, address, bridge, health })
    }

    /// Where `/metrics` is served: the port is a real one, even if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the agent counts about itself.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.pipeline.stats)
    }

    /// Makes the spans of handling a kill. Absent if no spans are exported.
    pub fn tracer_provider(&self) -> Option<SdkTracerProvider> {
        self.pipeline.otlp.tracer_provider()
    }

    /// Where kills go, and what answers on the port while it is awaited. `before_scrape` brings the counts up to date.
    pub fn into_parts(self, before_scrape: impl Fn() + Send + Sync + 'static) -> (Pipeline, impl Future<Output = io::Result<()>> + Send) {
        let server = prometheus::serve(self.listener, self.bridge, self.health, Arc::clone(&self.pipeline.stats), before_scrape);
        (self.pipeline, server)
    }

    /// Attaches the probe on the thread that has the capabilities for it, and watches until `stop` gives way; then drains, for as long as the
    /// configuration allows or until `stop_now` gives way. `ready` is called when kills are seen from now on, with whether names of cgroups can be
    /// read.
    pub async fn watch(self, privileged: Privileged, ready: impl FnOnce(bool), stop: impl Future, stop_now: impl Future) -> Result<(), Failure> {
        let (config, address, health, stats) = (self.config.clone(), self.address, self.health.clone(), self.stats());
        let seen: Arc<Mutex<Option<CounterMap>>> = Arc::default();
        let before_scrape = {
            let (stats, seen) = (Arc::clone(&stats), Arc::clone(&seen));
            move || {
                if let Some(counters) = &*lock(&seen) {
                    copy_counters(counters, &stats);
                }
            }
        };
        let (mut pipeline, server) = self.into_parts(before_scrape);
        let server = tokio::spawn(server);

        let attach = {
            let (runtime, settings) = (Handle::current(), config.probe);
            move || {
                let _inside = runtime.enter();
                Probe::attach(&settings)
            }
        };
        let attached = privileged.run(attach).unwrap_or_else(|error| Err(AttachError::Refused("attaching", error.into())));
        let mut probe = attached.map_err(Failure::Attach)?;
        *lock(&seen) = Some(probe.counters());
        stats.attached.store(true, Ordering::Relaxed);
        health.set(None);
        if !probe.reads_names() {
            warn!("the kernel refuses reading strings (lockdown=confidentiality): kills carry ids instead of names of cgroups, and no limits");
        }
        info!(metrics_address = %address, probe_attached = true, node = config.node, "ready");
        ready(probe.reads_names());

        let read = pipeline.watch(&mut probe, stop).await;
        // Nothing new from here on: what is in the ring buffer is handled, then everything that waits is delivered.
        probe.drain(|kill| pipeline.receive(kill));
        copy_counters(&probe.counters(), &stats);
        drop(probe);
        health.set(Some("the agent is ending".to_owned()));
        stats.attached.store(false, Ordering::Relaxed);
        info!(grace = ?config.shutdown_grace, "ending: delivering what waits");
        let drained = tokio::select! {
            () = pipeline.deliver(config.shutdown_grace) => Ok(()),
            _ = stop_now => Err(Failure::Interrupted),
        };
        server.abort();
        read.and(drained)
    }
}

impl Pipeline {
    async fn watch(&mut self, probe: &mut Probe, stop: impl Future) -> Result<(), Failure> {
        let counters = probe.counters();
        let mut expiry = tokio::time::interval(EXPIRY_INTERVAL);
        let mut told_dropped = 0;
        tokio::pin!(stop);
        loop {
            tokio::select! {
                _ = &mut stop => return Ok(()),
                read = probe.read(AT_ONCE, |kill| self.receive(kill)) => {
                    read.map_err(Failure::Read)?;
                    copy_counters(&counters, &self.stats);
                    // Not by what the statistics said before: a scrape may have brought them up to date in between.
                    let dropped = self.stats.ring_full.get().saturating_sub(told_dropped);
                    if dropped > 0 {
                        told_dropped += dropped;
                        warn!(dropped, "kills found no room in the ring buffer: they are counted for the node, and nothing else is known of them");
                    }
                    tokio::task::yield_now().await;
                }
                _ = expiry.tick() => self.expire(SystemTime::now()),
            }
        }
    }

    fn receive(&mut self, kill: Result<Kill, Malformed>) {
        match kill {
            Ok(kill) => self.handle(&kill),
            Err(error) => {
                self.stats.malformed_events.add(1);
                warn!(%error, "an event of the probe was not understood");
            }
        }
    }

    /// Removes the series of owners that had no kill for longer than the configuration allows.
    pub fn expire(&self, now: SystemTime) {
        lock(&self.table).expire(now);
    }

    /// Delivers what waits, for as long as `grace`; what is left then is counted and told.
    pub async fn deliver(self, grace: Duration) {
        self.otlp.shutdown(Instant::now() + grace).await;
    }

    /// Carries one kill through attribution and record to the exports. Never waits.
    pub fn handle(&mut self, kill: &Kill) {
        if self.duplicates.seen(kill.id) {
            self.stats.duplicates.add(1);
            return;
        }
        self.stats.kills.add(1);

        // Signed: the layer makes a text of any other number.
        let handling = info_span!(target: HANDLING, "handle", "process.pid" = i64::from(kill.victim.pid));
        // Before it has children, which settle whose trace it is in. Fails only where no spans are exported.
        let _ = handling.set_parent(Context::new().with_remote_span_context(span::context(self.incidents.id(kill), kill.id)));
        let owner = info_span!(target: HANDLING, parent: &handling, "attribute").in_scope(|| attribution::attribute(kill, |_| None));
        match &owner {
            Owner::Unknown { why } | Owner::Kubernetes(KubernetesOwner { why_no_container: Some(why), .. }) => self.stats.count_without_owner(*why),
            Owner::Kubernetes(_) | Owner::Container { .. } | Owner::Unit { .. } => {}
        }
        let (incident, record) = info_span!(target: HANDLING, parent: &handling, "record").in_scope(|| {
            let incident = self.incidents.assign(kill, &owner);
            lock(&self.table).record(kill, &owner, &incident);
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
            self.otlp.log(record);
            self.otlp.span(span::span(kill, &owner, &incident, &self.node, SystemTime::now()));
        });
    }
}

fn copy_counters(counters: &CounterMap, stats: &Stats) {
    let counted = counters.read();
    stats.ring_full.set(counted.ring_full);
    stats.marks_without_kill.set(counted.marks_without_kill);
    stats.signals_without_mark.set(counted.signals_without_mark);
}

/// Takes a lock even if another thread panicked with it: counts are whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
