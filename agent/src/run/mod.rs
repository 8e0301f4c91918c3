//! THE DATA PATH: builds the stages, carries each kill through them ([`Pipeline`]), drains them at the end.
//!
//! The order of building matters: the port is bound before the probe is attached, because a port that is taken must not
//! cost a kill; the capabilities go to a thread of their own before there is another one, so that no thread which
//! listens or sends ever has any; and kills are read before anything is exported, because the pipeline never waits for
//! the network.

mod account;
mod held;
mod pipeline;
mod waiting;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::cgroups::names::CgroupNames;
use crate::cgroups::node::{Node, Reason};
use crate::config::Config;
use crate::export::instruments::{self, Build, Keys};
use crate::export::otlp::{self, Otlp};
use crate::export::prometheus::{self, Bridge, Health};
use crate::host::lock::{self, Lock};
use crate::kubernetes;
use crate::kubernetes::daemonset;
use crate::kubernetes::pod_logs::PodLogs;
use crate::privileges::thread::Privileged;
use crate::record::duplicates::Duplicates;
use crate::record::ends::Ends;
use crate::record::incident::Incidents;
use crate::record::series::Table;
use crate::source::probe::{self, AttachError, CounterMap, Features, Pinned, Probe, pins};
use crate::state;
use crate::stats::Stats;
use held::Held;
pub use pipeline::Pipeline;
use pipeline::copy_counters;
use waiting::Waiting;

/// Why the agent cannot do its job.
#[derive(Debug)]
pub enum Failure {
    /// `/metrics` cannot be served.
    Listen(SocketAddr, io::Error),
    /// OTLP is configured in a way that cannot work.
    Export(anyhow::Error),
    /// Which cgroups are this node's cannot be told as the configuration says.
    Node(anyhow::Error),
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
                write!(
                    f,
                    "serving /metrics on {address}: {error}: stop what listens there (another oom-watcher?), or set \
                     METRICS_PORT or --listen"
                )
            }
            Self::Listen(address, error) => {
                write!(f, "serving /metrics on {address}: {error}: set --listen to an address of this machine")
            }
            Self::Export(error) | Self::Node(error) => write!(f, "{error:#}"),
            Self::Attach(error) => write!(f, "attaching the probe: {error}"),
            Self::Read(error) => write!(f, "reading the probe's ring buffer: {error}"),
            Self::Interrupted => f.write_str("a second signal ended the agent before everything was delivered"),
        }
    }
}

impl std::error::Error for Failure {}

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
        let mut recorders = vec![instruments::register(
            bridge.provider(),
            Keys::Prometheus,
            &config.node,
            &table,
            owners,
            &stats,
            &build,
        )];
        let otlp = Otlp::start(&config.otlp, &stats, owners, |provider| {
            recorders.push(instruments::register(
                provider,
                Keys::Semantic,
                &config.node,
                &table,
                owners,
                &stats,
                &build,
            ));
        })
        .map_err(Failure::Export)?;

        let pipeline = Pipeline {
            node: config.node.clone(),
            cgroups_of_node: Node::All(Reason::Configured),
            stats,
            table,
            cgroups: None,
            duplicates: Duplicates::default(),
            incidents: Incidents::default(),
            ends: Ends::default(),
            recorders,
            held: Held::default(),
            pods: config.kubernetes.is_some().then(kubernetes::Store::default),
            pod_logs: config.pod_logs.clone().map(PodLogs::new),
            patience: config.container_wait,
            waiting: Waiting::default(),
            ledger: None,
            otlp,
        };
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
    pub fn into_parts(
        self,
        before_scrape: impl Fn() + Send + Sync + 'static,
    ) -> (Pipeline, impl Future<Output = io::Result<()>> + Send) {
        let server =
            prometheus::serve(self.listener, self.bridge, self.health, Arc::clone(&self.pipeline.stats), before_scrape);
        (self.pipeline, server)
    }

    /// Attaches the probe on the thread that has the capabilities for it, and watches until `stop` gives way; then
    /// drains, for as long as the configuration allows or until `stop_now` gives way. `ready` is called when kills are
    /// seen from now on, with what the probe can tell. Names of cgroups are told too where they are found by their ids.
    pub async fn watch(
        self,
        privileged: Privileged,
        ready: impl FnOnce(Features),
        stop: impl Future,
        stop_now: impl Future,
    ) -> Result<(), Failure> {
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
        let pods = config
            .kubernetes
            .clone()
            .zip(pipeline.pods.clone())
            .map(|(settings, store)| tokio::spawn(kubernetes::watch::run(settings, store)));
        let daemonset = config.kubernetes.as_ref().and_then(daemonset::Own::new);
        let remembered = daemonset.clone().map(|own| tokio::spawn(own.remember()));

        pipeline.cgroups_of_node = Node::find(&config.node_cgroup).map_err(Failure::Node)?;
        info!(node_cgroup = %pipeline.cgroups_of_node, "which kills are this node's");
        stats.shares_kernel.store(!pipeline.cgroups_of_node.is_all(), Ordering::Relaxed);
        let _lock = state_lock(&config)?;
        let attach = {
            let (runtime, settings) = (Handle::current(), config.probe.clone());
            move || {
                let _inside = runtime.enter();
                Probe::attach(&settings)
            }
        };
        let attached =
            privileged.run(attach).unwrap_or_else(|error| Err(AttachError::Refused("attaching", error.into())));
        let mut probe = attached.map_err(Failure::Attach)?;
        *lock(&seen) = Some(probe.counters());
        copy_counters(&probe.counters(), &stats);
        pipeline.open_ledger(&config, &probe);
        stats.attached.store(true, Ordering::Relaxed);
        stats.pinned.store(matches!(probe.pinned(), Pinned::New | Pinned::TakenOver), Ordering::Relaxed);
        health.set(None);
        tell(&probe);
        let mut features = probe.features();
        if !features.names {
            pipeline.cgroups = table_of_cgroups();
            features.names = pipeline.cgroups.is_some();
        }
        info!(metrics_address = %address, probe_attached = true, node = config.node, "ready");
        ready(features);

        let read = pipeline.watch(&mut probe, &health, stop).await;
        // Nothing new from here on, unless the next agent is to have it: what is there is handled, then everything that
        // waits is delivered.
        probe.stop();
        pipeline.wait_no_longer();
        pipeline.save(&mut probe);
        copy_counters(&probe.counters(), &stats);
        health.set(Some("the agent is ending".to_owned()));
        stats.attached.store(false, Ordering::Relaxed);
        info!(grace = ?config.shutdown_grace, "ending: delivering what waits");
        pipeline.give_up_ends();
        remembered.inspect(JoinHandle::abort);
        let gone = daemonset.map(|own| tokio::spawn(own.is_gone()));
        let (mut held, otlp) = (std::mem::take(&mut pipeline.held), pipeline.otlp);
        let drained = tokio::select! {
            settled = otlp.shutdown(Instant::now() + config.shutdown_grace) => {
                held.safe(settled).for_each(|place| probe.release(place));
                if let Some(gone) = gone && gone.await.unwrap_or(false) {
                    leave_nothing(&config, probe);
                }
                Ok(())
            }
            _ = stop_now => Err(Failure::Interrupted),
        };
        server.abort();
        pods.inspect(JoinHandle::abort);
        read.and(drained)
    }
}

/// One agent at a time has a state.
fn state_lock(config: &Config) -> Result<Option<Lock>, Failure> {
    match config.state_directory.as_deref().map(Lock::take) {
        Some(Ok(lock)) => Ok(Some(lock)),
        Some(Err(lock::Denied::Taken(holder))) => Err(Failure::Attach(AttachError::Taken(holder))),
        // That it cannot be saved there is told when it is.
        Some(Err(lock::Denied::Unusable(_))) | None => Ok(None),
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

/// Says once what the probe cannot do here.
fn tell(probe: &Probe) {
    for program in probe.programs() {
        match &program.refused {
            Some(refused) => {
                info!(program = program.name, refused, "a program is not attached that the kernel could do without")
            }
            None => {
                debug!(program = program.name, verified_instructions = program.verified_instructions, time = ?program.time, "loaded")
            }
        }
    }
    match probe.pinned() {
        Pinned::TakenOver => info!("the probe was attached already: kills that happened while no agent ran follow"),
        Pinned::Refused(why) => warn!(why, "the probe is not pinned: kills while no agent runs are not seen"),
        Pinned::New | Pinned::No => {}
    }
}

/// What takes the place of names and limits where the kernel refuses to have them read. Says what is missing then.
fn table_of_cgroups() -> Option<CgroupNames> {
    match CgroupNames::start() {
        Ok(table) if table.is_whole() => {
            let cgroups = table.cgroups();
            warn!(
                cgroups,
                "the kernel refuses reading strings (lockdown=confidentiality): names and limits are read from the \
                 cgroups' files, usage is absent"
            );
            Some(table)
        }
        Ok(table) => {
            let cgroups = table.cgroups();
            warn!(
                cgroups,
                "the kernel refuses reading strings (lockdown=confidentiality), and only a part of the cgroups is \
                 mounted here: others have ids instead of names"
            );
            Some(table)
        }
        Err(error) => {
            let error = format!("{error:#}");
            warn!(
                error,
                "the kernel refuses reading strings (lockdown=confidentiality): kills carry ids instead of names of \
                 cgroups, and no limits"
            );
            None
        }
    }
}

/// Takes a lock even if another thread panicked with it: counts are whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
