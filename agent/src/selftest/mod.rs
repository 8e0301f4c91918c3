//! `oom-watcher selftest`: a real kill of our own child in a scratch cgroup, followed to `/metrics` and to the
//! collector.
//!
//! The whole agent runs, on a port of its own. Without a configured OTLP endpoint a receiver on loopback stands in for
//! the collector; with one, the collector's acknowledgement is the proof, and there is no record to show.

pub mod evidence;
pub mod scratch;

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::time::Instant;
use uuid::Uuid;

use crate::config::Config;
use crate::export::otlp::{Received, Receiver};
use crate::export::settings::{Endpoint, Protocol, Tls};
use crate::privileges::thread::Privileged;
use crate::run::{self, Agent};
use crate::stats::{Signal, Stats};
use scratch::Scratch;

/// What the child may use.
const LIMIT: u64 = 16 << 20;
/// What it tries to use.
const WANTED: usize = 64 << 20;
/// No step may take longer.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks at `/metrics`, which cannot be waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// The child: takes more than the limit, and does not live to see the end of it.
///
/// # Errors
/// The kernel does not give the addresses.
pub fn victim() -> io::Result<()> {
    scratch::allocate(WANTED)
}

/// Runs it all and prints each step with the time it took. `show`: also what came of the kill.
///
/// # Errors
/// The first step that failed.
pub async fn run(mut config: Config, show: bool, out: &mut impl Write) -> Result<()> {
    config.listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = run::bind(&config)?;
    // Beside: the directory of the outermost cgroup is writable to nobody, so root makes others in it with
    // CAP_DAC_OVERRIDE alone.
    let privileged = Privileged::beside().context("starting the thread that attaches the probe")?;
    // An agent may run beside it, whose kills these are too.
    (config.probe.pins, config.state_directory, config.otlp.spool) = (None, None, None);
    let receiver = match (&config.otlp.logs, &config.otlp.traces) {
        (None, None) => {
            let receiver = Receiver::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
                .context("starting a receiver on loopback")?;
            let endpoint = loopback(receiver.address());
            (config.otlp.logs, config.otlp.traces) = (Some(endpoint.clone()), Some(endpoint));
            Some(receiver)
        }
        _ => None,
    };
    let started = Instant::now();
    let agent = Agent::build(config, listener)?;
    let (address, stats) = (agent.address(), agent.stats());
    let (ready, is_ready) = oneshot::channel();
    let (stop, is_stopped) = oneshot::channel::<()>();
    let watching = agent.watch(
        privileged,
        |features| {
            let _ = ready.send(features.names);
        },
        is_stopped,
        std::future::pending::<()>(),
    );
    let follow = async {
        let reads_names = is_ready.await.map_err(|_| anyhow!("the agent ended before it was ready"))?;
        step(out, "attached", &took(started.elapsed()), "the probe sees this machine's OOM kills")?;
        let followed = follow(address, &stats, receiver.as_ref(), reads_names, show, out).await;
        drop(stop);
        followed
    };
    let (watched, followed) = tokio::join!(watching, follow);
    watched?;
    followed
}

async fn follow(
    address: SocketAddr,
    stats: &Stats,
    receiver: Option<&Receiver>,
    reads_names: bool,
    show: bool,
    out: &mut impl Write,
) -> Result<()> {
    // A pod uid and a container id of this run alone, of the forms that attribution knows.
    let run = std::process::id();
    let pod = Uuid::new_v5(&Uuid::NAMESPACE_OID, &run.to_le_bytes());
    let container = format!("{}{}", pod.simple(), Uuid::new_v5(&pod, b"container").simple());
    // Without names the owner is unknown, and the label is empty.
    let short = if reads_names { &container[..12] } else { "" };
    let cgroup = Scratch::create(&format!("oom-watcher-selftest-{run}/kubepods/burstable/pod{pod}/{container}"), LIMIT)
        .context("making a scratch cgroup")?;
    step(
        out,
        "cgroup",
        "",
        &format!("{} with a limit of {} MiB, named like a Kubernetes container's", cgroup.path(), LIMIT >> 20),
    )?;

    let id = cgroup.id().context("reading the cgroup's id")?;
    let began = Instant::now();
    let (killed, scraped) = match receiver {
        None => tokio::try_join!(kill(&cgroup), scrape_until(address, short))?,
        Some(receiver) => {
            // All at once: each is to be seen when it comes, not when the one before it has come.
            let record = arrived(receiver, "log record", |received| {
                received.records().find(|record| evidence::is_about(&record.attributes, id)).cloned()
            });
            let span = arrived(receiver, "span", |received| {
                received.spans().find(|span| evidence::is_about(&span.attributes, id)).cloned()
            });
            let (killed, scraped, record, span) =
                tokio::try_join!(kill(&cgroup), scrape_until(address, short), record, span)?;
            told_killed(out, &cgroup, killed, began.elapsed())?;
            return compare(out, show, short, scraped, record, span);
        }
    };
    told_killed(out, &cgroup, killed, began.elapsed())?;
    step(
        out,
        "/metrics",
        &took(scraped.1.duration_since(SystemTime::now() - began.elapsed()).unwrap_or_default()),
        "after the child was started the series were there",
    )?;
    let (records, spans) = (acknowledged(stats, Signal::Logs).await?, acknowledged(stats, Signal::Traces).await?);
    Ok(writeln!(
        out,
        "\npassed: /metrics has the kill, and the collector took {records} log record(s) and {spans} span(s)"
    )?)
}

fn told_killed(out: &mut impl Write, cgroup: &Scratch, pid: u32, time: Duration) -> Result<()> {
    Ok(step(
        out,
        "killed",
        &took(time),
        &format!("process {pid} came and went; the kernel's own counter of the cgroup says {}", cgroup.kills()?),
    )?)
}

fn compare(
    out: &mut impl Write,
    show: bool,
    container: &str,
    (text, scraped): (String, SystemTime),
    (record, record_came): (LogRecord, SystemTime),
    (span, span_came): (Span, SystemTime),
) -> Result<()> {
    let killed = UNIX_EPOCH + Duration::from_nanos(record.time_unix_nano);
    let after = |seen: SystemTime| took(seen.duration_since(killed).unwrap_or_default());
    step(out, "/metrics", &after(scraped), "after the kill the series were there")?;
    step(out, "log record", &after(record_came), "after the kill it was received over OTLP")?;
    step(out, "span", &after(span_came), "after the kill it was received over OTLP")?;
    if show {
        evidence::print(out, &text, container, &record, &span)?;
    }
    ensure!(
        span.trace_id == record.trace_id && span.span_id == record.span_id,
        "the log record does not point to the span"
    );
    Ok(writeln!(
        out,
        "\npassed: one kill, seen as series, log record and span of trace {}",
        evidence::hex(&record.trace_id)
    )?)
}

/// Starts the child inside of the cgroup, so that all it has is charged there, and waits until the kernel has killed
/// it.
async fn kill(cgroup: &Scratch) -> Result<u32> {
    let program = std::env::current_exe().context("finding this program")?;
    let mut entrance = cgroup.entrance().with_context(|| format!("opening {}", cgroup.path()))?;
    let mut command = Command::new(program);
    command.args(["selftest", "--victim"]).kill_on_drop(true);
    // SAFETY: between fork and exec the child does nothing but one write to a file that is open already.
    unsafe { command.pre_exec(move || entrance.write_all(b"0")) };
    let mut child = command.spawn().with_context(|| format!("starting the child in {}", cgroup.path()))?;
    let pid = child.id().context("the child ended at once")?;
    let status = tokio::time::timeout(PATIENCE, child.wait())
        .await
        .map_err(|_| anyhow!("the child was not killed within {PATIENCE:?}"))??;
    match status.signal() {
        Some(libc::SIGKILL) => Ok(pid),
        _ => bail!(
            "the child was not killed by the kernel but ended with {status}: is the memory controller in force here?"
        ),
    }
}

/// The text of `/metrics` once it has the kill of this container, and when that was.
async fn scrape_until(address: SocketAddr, container: &str) -> Result<(String, SystemTime)> {
    let patience = Instant::now() + PATIENCE;
    loop {
        let text = scrape(address).await.with_context(|| format!("reading http://{address}/metrics"))?;
        if evidence::series(&text, container).any(|line| line.starts_with("oom_kills_total{") && !line.ends_with(" 0"))
        {
            return Ok((text, SystemTime::now()));
        }
        ensure!(Instant::now() < patience, "the kill was not on http://{address}/metrics within {PATIENCE:?}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn scrape(address: SocketAddr) -> Result<String> {
    let mut connection = TcpStream::connect(address).await?;
    connection.write_all(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Waits until the receiver has it, and says when that was.
async fn arrived<T>(receiver: &Receiver, what: &str, find: impl Fn(&Received) -> Option<T>) -> Result<(T, SystemTime)> {
    let found = receiver.find(find, PATIENCE).await.with_context(|| format!("waiting for the {what}"))?;
    Ok((found, SystemTime::now()))
}

/// Waits until the collector has acknowledged something of this signal, if it is exported at all.
async fn acknowledged(stats: &Stats, signal: Signal) -> Result<u64> {
    let patience = Instant::now() + PATIENCE;
    let export = stats.export(signal);
    while export.sent.get() == 0 {
        ensure!(
            Instant::now() < patience,
            "the collector took no {} within {PATIENCE:?}; `oom-watcher check` says why",
            signal.as_str()
        );
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    Ok(export.sent.get())
}

fn loopback(address: SocketAddr) -> Endpoint {
    Endpoint {
        protocol: Protocol::Grpc,
        url: format!("http://{address}"),
        headers: Vec::new(),
        gzip: false,
        timeout: PATIENCE,
        tls: Tls::default(),
    }
}

fn step(out: &mut impl Write, name: &str, time: &str, what: &str) -> io::Result<()> {
    writeln!(out, "{name:<11} {time:>9}  {what}")?;
    out.flush()
}

fn took(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
