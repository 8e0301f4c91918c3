//! THE DATA PATH: builds the stages, carries each kill through them ([`Pipeline`]), drains them at the end.
//!
//! The order matters: the port is bound before the probe is attached, because a port that is taken must not cost a
//! kill; the capabilities go to a thread of their own before there is another one, so that no thread which listens or
//! sends ever has any; exports are set up before the probe is attached, and nothing that handles a kill waits for the
//! network.
//!
//! One kill: [`admit`] decides whether it counts, [`backlog`] has it wait for its container and stay in the kernel
//! until it is safe, [`handle`] makes series, record and span of it, [`books`] saves what is counted and compares it
//! with the kernel's counters. [`pipeline`] is the loop around them.

mod admit;
mod backlog;
mod books;
mod counts;
mod failure;
mod handle;
mod pipeline;
mod resumed;
mod start;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use anyhow::Context as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};
use uuid::Uuid;

use crate::cgroups::names::CgroupNames;
use crate::cgroups::node::Node;
use crate::config::Config;
use crate::export::instruments::{self, Build, Keys, Recorder};
use crate::export::otlp::{self, Otlp};
use crate::export::prometheus::{self, Bridge, Health};
use crate::kubernetes;
use crate::kubernetes::daemonset;
use crate::kubernetes::pod_logs::PodLogs;
use crate::privileges::thread::Privileged;
use crate::record::ends::Ends;
use crate::record::incident::Incidents;
use crate::record::series::Table;
use crate::source::probe::{self, CounterMap, Counters, Features, Pinned, Probe, pins};
use crate::state;
use crate::stats::Stats;
use admit::Door;
use backlog::Backlog;
use books::Books;
pub use failure::Failure;
use handle::Handler;
pub use pipeline::Pipeline;

/// The agent with its exports: nothing is attached yet.
#[derive(Debug)]
pub struct Agent {
    outlets: Outlets,
    web: Web,
    address: SocketAddr,
}

/// Where the data path leads to.
#[derive(Debug)]
struct Outlets {
    config: Config,
    stats: Arc<Stats>,
    table: Arc<Mutex<Table>>,
    recorders: Vec<Recorder>,
    otlp: Otlp,
    /// This node's pods. Absent if they are not watched.
    pods: Option<kubernetes::Store>,
}

/// What answers on the port.
#[derive(Debug)]
struct Web {
    listener: TcpListener,
    bridge: Arc<Bridge>,
    health: Health,
    stats: Arc<Stats>,
}

/// Where kills come from, as far as the data path has to know it.
#[derive(Debug)]
pub struct Origin {
    /// The boot in which they happen.
    pub boot_id: Uuid,
    /// The ring buffer that they go to now.
    pub ring: u32,
    /// What the probe has counted so far.
    pub counted: Counters,
    /// Whether this agent has attached the probe: no other one has handled any of that.
    pub is_new: bool,
    /// Other ring buffers with events, and what their probes had counted when they were detached.
    pub detached: Vec<(u32, Counters)>,
    /// Which kills are this node's.
    pub node: Node,
    /// Names and limits of cgroups. Absent where kills come with them.
    pub names: Option<CgroupNames>,
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
    ///
    /// # Errors
    /// OTLP is configured in a way that cannot work.
    pub fn build(config: Config, listener: TcpListener) -> Result<Self, Failure> {
        let address = listener.local_addr().map_err(|error| Failure::Listen(config.listen, error))?;
        let stats = Arc::new(Stats::default());
        let table = Arc::new(Mutex::new(Table::new(config.series)));
        let build = Build { version: env!("CARGO_PKG_VERSION").to_owned(), probe: probe::BUILD.to_owned() };
        let owners = config.series.owners;

        let bridge = Arc::new(Bridge::new(owners).map_err(Failure::Export)?);
        let instruments =
            instruments::Observed { node: &config.node, table: &table, owners, stats: &stats, build: &build };
        let mut recorders = vec![instruments.register(bridge.provider(), Keys::Prometheus)];
        let otlp = Otlp::start(&config.otlp, &stats, owners, |provider| {
            recorders.push(instruments.register(provider, Keys::Semantic));
        })
        .map_err(Failure::Export)?;
        let health = Health::not_ready("the probe is not attached yet");
        let web = Web { listener, bridge, health, stats: Arc::clone(&stats) };
        let pods = config.kubernetes.is_some().then(kubernetes::Store::default);
        Ok(Self { outlets: Outlets { config, stats, table, recorders, otlp, pods }, web, address })
    }

    /// Where `/metrics` is served: the port is a real one, even if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the agent counts about itself.
    pub fn stats(&self) -> Arc<Stats> {
        Arc::clone(&self.outlets.stats)
    }

    /// Makes the spans of handling a kill. Absent if no spans are exported.
    pub fn tracer_provider(&self) -> Option<SdkTracerProvider> {
        self.outlets.otlp.tracer_provider()
    }

    /// The data path for kills from `origin`, and what answers on the port while it is awaited.
    pub fn into_parts(self, origin: Origin) -> (Pipeline, impl Future<Output = io::Result<()>> + Send) {
        (self.outlets.open(origin), self.web.serve(Arc::default()))
    }

    /// Attaches the probe on the thread that has the capabilities for it, and watches until `stop` gives way; then
    /// drains, for as long as the configuration allows or until `stop_now` gives way. `ready` is called when kills are
    /// seen from now on, with what the probe can report. Names of cgroups are counted in where they are found by their
    /// ids.
    ///
    /// # Errors
    /// The probe cannot be attached or read, or something was lost because `stop_now` gave way.
    pub async fn watch(
        self,
        privileged: Privileged,
        ready: impl FnOnce(Features),
        stop: impl Future,
        stop_now: impl Future,
    ) -> Result<(), Failure> {
        let Self { outlets, web, address } = self;
        let (config, health, stats) = (outlets.config.clone(), web.health.clone(), Arc::clone(&outlets.stats));
        let attached: Arc<OnceLock<CounterMap>> = Arc::default();
        let server = tokio::spawn(web.serve(Arc::clone(&attached)));
        let watched = config.kubernetes.clone().zip(outlets.pods.clone());
        let pods = watched.map(|(settings, store)| tokio::spawn(kubernetes::watch::run(settings, store)));
        let daemonset = config.kubernetes.as_ref().and_then(daemonset::Own::new);
        let remembered = daemonset.clone().map(|own| tokio::spawn(own.remember()));

        let node = Node::find(&config.node_cgroup).map_err(Failure::Node)?;
        info!(node_cgroup = %node, "which kills are this node's");
        let _lock = start::state_lock(&config)?;
        let mut probe = start::attach(&config, privileged)?;
        let counters = attached.get_or_init(|| probe.counters());
        let names = if probe.features().names { None } else { start::cgroup_names() };
        let features = Features { names: probe.features().names || names.is_some(), ..probe.features() };
        let mut pipeline = outlets.open(Origin {
            boot_id: probe.boot_id(),
            ring: probe.ring(),
            counted: counters.read(),
            is_new: !matches!(probe.pinned(), Pinned::TakenOver),
            detached: probe.leftovers().to_vec(),
            node,
            names,
        });
        stats.attached.store(true, Ordering::Relaxed);
        stats.pinned.store(matches!(probe.pinned(), Pinned::New | Pinned::TakenOver), Ordering::Relaxed);
        health.set(None);
        start::report(&probe);
        info!(metrics_address = %address, probe_attached = true, node = config.node, "ready");
        ready(features);

        let watched = pipeline.watch(&mut probe, &health, stop).await;
        // Nothing new from here on, unless the next agent is to have it: what is there is handled, then everything that
        // is queued is delivered.
        probe.stop();
        pipeline.finish(&mut probe);
        health.set(Some("the agent is ending".to_owned()));
        stats.attached.store(false, Ordering::Relaxed);
        info!(grace = ?config.shutdown_grace, "ending: delivering queued records");
        remembered.inspect(JoinHandle::abort);
        let gone = daemonset.map(|own| tokio::spawn(own.is_gone()));
        let drained = tokio::select! {
            places = pipeline.drain(Instant::now() + config.shutdown_grace) => {
                places.into_iter().for_each(|place| probe.release(place));
                if let Some(gone) = gone && gone.await.unwrap_or(false) {
                    leave_nothing(&config, probe);
                }
                Ok(())
            }
            _ = stop_now => Err(Failure::Interrupted),
        };
        server.abort();
        pods.inspect(JoinHandle::abort);
        watched.and(drained)
    }
}

impl Outlets {
    /// The data path for kills from there. Counts go on where the last agent ended.
    fn open(self, origin: Origin) -> Pipeline {
        let Self { config, stats, table, recorders, otlp, pods } = self;
        stats.shares_kernel.store(!origin.node.is_all(), Ordering::Relaxed);
        let books = Books::open(&config, &origin, &stats, &table);
        let handler = Handler {
            node: config.node,
            pods,
            pod_logs: config.pod_logs.map(PodLogs::new),
            incidents: Incidents::default(),
            ends: Ends::default(),
            recorders,
            otlp,
        };
        Pipeline {
            door: Door::new(origin.node, origin.names, origin.ring, stats),
            backlog: Backlog::default(),
            handler,
            books,
            patience: config.container_wait,
            ends_seen: SystemTime::UNIX_EPOCH,
            ends_at: Instant::now(),
        }
    }
}

impl Web {
    /// Serves `/metrics`, with what the probe has counted once it is `attached`.
    async fn serve(self, attached: Arc<OnceLock<CounterMap>>) -> io::Result<()> {
        let Self { listener, bridge, health, stats } = self;
        let counted = Arc::clone(&stats);
        let before_scrape = move || {
            if let Some(counters) = attached.get() {
                counts::copy_counters(&counters.read(), &counted);
            }
        };
        prometheus::serve(listener, bridge, health, stats, before_scrape).await
    }
}

/// Removes from the node what the next agent would have begun with.
fn leave_nothing(config: &Config, probe: Probe) {
    // It has the folder of the pins.
    drop(probe);
    let pins = config.probe.pins.as_deref().map_or(Ok(Vec::new()), pins::remove_all);
    let state = config.state_directory.as_deref().map_or(Ok(()), state::remove);
    let spool = otlp::remove_spool(&config.otlp).context("removing the spool");
    match pins.and(state).and(spool) {
        Ok(()) => info!("no other agent follows: state, pins and spool are removed"),
        Err(error) => warn!(
            error = format!("{error:#}"),
            "state, pins or spool stay on this node: remove them with `oom-watcher detach`, and the directories of \
             state and spool"
        ),
    }
}
