//! `make fleet`: what the agents of many nodes are for those who serve them all. One real agent is recorded with real
//! kills, and what it sent and served is sent and served again with the names of as many nodes as are asked for: at a
//! real Collector (the gateway of `otel-collector/`) with real back ends, by a real Prometheus, and the agent's own
//! watch of pods at a real API server. docs/scale.md is written from its output.

mod otlp;
mod recorded;
mod scrapes;
mod sender;
mod watches;

use std::sync::Arc;
use std::thread::JoinHandle;

use clap::{Args, ValueEnum};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::conditions::{Conditions, Servers};
use crate::report::{Cell, Report, Table, Unit};
use oom_watcher_testkit::programs::Programs;
use recorded::Recorded;

/// The parts, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Connections, metrics, log records and spans at one gateway.
    Otlp,
    /// Scrapes by one Prometheus.
    Scrapes,
    /// Watches at one API server.
    Watches,
}

/// Open files of a server or of this process that are no connection of a node.
const OTHER_FILES: u64 = 1000;

/// How large it is.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Size {
    /// Nodes that send, and are scraped.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    nodes: u32,
    /// Nodes that have pods at the API server, and watch them.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    watched: u32,
    /// Memory that the gateway may have, in MiB.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(128..))]
    gateway_mib: u32,
}

impl Size {
    /// What these parts of such a fleet need.
    pub(crate) fn conditions(self, only: &[Part]) -> Conditions<'static> {
        let connections = |part: Part| if part == Part::Watches { 2 * self.watched } else { self.nodes };
        let most = parts(only).map(connections).max().unwrap_or_default();
        Conditions { servers: Servers::Stack, open_files: u64::from(most) + OTHER_FILES, ..Conditions::default() }
    }
}

/// These parts, or all, in the order in which they run.
fn parts(only: &[Part]) -> impl Iterator<Item = Part> {
    Part::value_variants().iter().copied().filter(move |part| only.is_empty() || only.contains(part))
}

/// Measures a fleet.
pub(crate) fn measure(report: &mut Report, only: &[Part], size: Size) {
    let [nodes, watched] = [size.nodes, size.watched].map(|nodes| nodes as usize);
    let programs = Programs::find_stack().unwrap_or_else(|why| panic!("{why}"));
    let recorded = report.part("one node", |report| {
        let recorded = Arc::new(Recorded::of_one_node());
        report.add(of_one_node(&recorded));
        recorded
    });
    // All others are made of it.
    let Some(recorded) = recorded else { return };
    for part in parts(only) {
        let servers: &[&str] = match part {
            Part::Otlp => &["otelcol", "prometheus", "victoria-logs", "jaeger"],
            Part::Scrapes => &["prometheus"],
            Part::Watches => &["kube-apiserver", "etcd"],
        };
        servers.iter().for_each(|server| report.beside(programs.path(server)));
        report.part(&format!("{part:?}").to_lowercase(), |report| match part {
            Part::Otlp => otlp::measure(report, &programs, &recorded, nodes, size.gateway_mib),
            Part::Scrapes => scrapes::measure(report, &programs, &recorded, nodes),
            Part::Watches => watches::measure(report, programs.clone(), watched),
        });
    }
}

fn of_one_node(recorded: &Recorded) -> Table {
    let sizes = recorded.sizes();
    let mut table = Table::by(
        &format!("One node: {} containers, {} of them with kills", recorded::CONTAINERS, recorded::KILLS),
        "make fleet",
        &[
            ("series of `/metrics`", Unit::Count),
            ("its size", Unit::Bytes),
            ("data points of an export", Unit::Count),
            ("its size", Unit::Bytes),
            ("log record of a kill", Unit::Bytes),
            ("spans of a kill", Unit::Bytes),
        ],
    );
    let cells = [
        sizes.series as f64,
        sizes.page as f64,
        sizes.points as f64,
        sizes.metrics as f64,
        sizes.logs_of_kill,
        sizes.traces_of_kill,
    ];
    table.row("one node", cells.map(Cell::one).into());
    table
}

/// A thread for what runs beside the measuring, which ends with this.
struct Background {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (handle, (stop, stopped)) = (runtime.handle().clone(), oneshot::channel());
        // Whoever stops it drops the sender.
        let thread = std::thread::spawn(move || drop(runtime.block_on(stopped)));
        Self { handle, stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().map(JoinHandle::join);
    }
}
