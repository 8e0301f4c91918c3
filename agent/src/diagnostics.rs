//! The agent's own story: its log on standard error, and its spans of handling a kill, which join the kill's trace.
//!
//! Only spans of the target [`HANDLING`] are exported. Without that filter the exporter's own events would be exported,
//! which makes more of them.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use opentelemetry_sdk::trace::SdkTracer;
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::{EnvFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, fmt};

use crate::config::{Format, Log};
use crate::stats::Stats;

/// Target of the spans of handling a kill: `handle`, and in it `attribute`, `record` and `hand_over`.
pub const HANDLING: &str = "oom_watcher::handling";

/// Libraries whose everyday messages are not news to an operator, and OpenTelemetry's, because the agent itself tells
/// once when an export begins to fail. A filter that names them has them again.
const QUIET: &str = "opentelemetry=off,opentelemetry_sdk=off,opentelemetry-otlp=off,kube_client=off,kube_runtime=off,\
    h2=warn,hyper=warn,hyper_util=warn,rustls=warn,tonic=warn,tower=warn";

/// What a pipe that is said to be writable takes without waiting: `PIPE_BUF`, pipe(7).
const PIPE_BUF: usize = 4096;

/// Standard error, without ever waiting for who reads it: a kill must not. A line that finds no room is left out, and
/// counted.
#[derive(Clone, Debug)]
struct Lines(Arc<Stats>);

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        for part in line.chunks(PIPE_BUF) {
            if !has_room() {
                self.0.log_lines_lost.add(1);
                break;
            }
            io::stderr().write_all(part)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether standard error takes something now. A closed one does: it fails at once.
fn has_room() -> bool {
    let mut stderr = libc::pollfd { fd: libc::STDERR_FILENO, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one element, which outlives the call.
    unsafe { libc::poll(&raw mut stderr, 1, 0) != 0 }
}

/// Starts the log, and the export of the spans if there is where to. Once per process.
pub fn start(log: &Log, tracer: Option<SdkTracer>, stats: &Arc<Stats>) -> Result<(), TryInitError> {
    let stderr = Lines(Arc::clone(stats));
    let writer = move || stderr.clone();
    // Checked by `config`; what comes later wins.
    let filter = EnvFilter::builder().parse_lossy(format!("{QUIET},{}", log.filter));
    let lines = match log.format {
        Format::Human => {
            fmt::layer().with_ansi(io::stderr().is_terminal()).with_writer(writer).with_filter(filter).boxed()
        }
        Format::Json => fmt::layer().json().flatten_event(true).with_writer(writer).with_filter(filter).boxed(),
    };
    tracing_subscriber::registry().with(lines).with(tracer.map(spans)).try_init()
}

/// Exports the spans of handling a kill, and no others.
pub fn spans<S: Subscriber + for<'a> LookupSpan<'a>>(tracer: SdkTracer) -> impl Layer<S> {
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(Targets::new().with_target(HANDLING, Level::INFO))
}
