//! The commands of `oom-watcher` and their exit codes.

use std::fmt;
use std::io::{self, BufRead, Write};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use oom_watcher::attribution::proc_cgroup;
use oom_watcher::attribution::report::{self, Report, Subject};
use oom_watcher::config::{self, Flags, Loaded, Problems};
use oom_watcher::diagnostics;
use oom_watcher::preflight::{self, Verdict};
use oom_watcher::privileges::thread::Privileged;
use oom_watcher::run::{self, Agent, Failure};
use oom_watcher::selftest;
use oom_watcher::source::probe::pins;
use opentelemetry::trace::TracerProvider;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::warn;

/// Says which container the kernel's OOM killer killed, why, and that nothing was missed.
///
/// Without a command it watches: kills become Prometheus series on /metrics, and log records, spans and metrics over
/// OTLP.
#[derive(Parser)]
#[command(name = "oom-watcher", version = VERSION, after_help = AFTER_HELP, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (probe ", env!("PROBE_BUILD"), ")");

const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 failed; 2 wrong command line or configuration; 3 this node does not allow the probe.
`oom-watcher config` prints the effective configuration and the source of each value.";

/// The commands. [`command_line`] adds the flags of the configuration to those that use it.
#[derive(Subcommand)]
enum Command {
    /// Watch this node (the default)
    Run,
    /// Show whether this node can run the agent, with a remedy for each problem
    Check {
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Kill a child process in a scratch cgroup and follow the kill to the outputs
    Selftest {
        /// Print the series, the log record and the span of the kill
        #[arg(long)]
        show: bool,
        /// The child: allocates more than its cgroup allows
        #[arg(long, hide = true)]
        victim: bool,
    },
    /// Show which container or unit a cgroup path or process belongs to, and why
    Owner {
        /// A cgroup's path, a process id, or - for paths on standard input, one a line
        #[arg(value_name = "PATH|PID|-")]
        subject: String,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Remove the probe that an agent has left in the kernel for the next one
    Detach,
    /// Print the effective configuration and the source of each value
    Config,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// The whole command line. Each command has the flags of the keys that it uses, and refuses all others.
fn command_line() -> clap::Command {
    config::Command::ALL.into_iter().fold(Cli::command().args(Flags::of(config::Command::Run)), |line, command| {
        line.mut_subcommand(command.name(), |line| line.args(Flags::of(command)))
    })
}

/// How a command ended without doing its job. The codes are documented in docs/operations.md.
enum Error {
    /// 1
    Failed(anyhow::Error),
    /// 2
    Configuration(Problems),
    /// 3
    Node(Failure),
}

impl Error {
    fn code(&self) -> ExitCode {
        match self {
            Self::Failed(_) => ExitCode::FAILURE,
            Self::Configuration(_) => ExitCode::from(2),
            Self::Node(_) => ExitCode::from(3),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => write!(f, "{error:#}"),
            Self::Configuration(problems) => write!(f, "{problems}"),
            Self::Node(failure) => write!(f, "{failure}"),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Attach(_) => Self::Node(failure),
            other => Self::Failed(other.into()),
        }
    }
}

impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Failed(error.into())
    }
}

fn main() -> ExitCode {
    let matches = command_line().get_matches();
    let flags = Flags::given(matches.subcommand().map_or(&matches, |(_, of_command)| of_command));
    let command = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit()).command;
    let done = match command.unwrap_or(Command::Run) {
        Command::Run => run(&flags),
        Command::Check { json } => check(&flags, json),
        Command::Selftest { victim: true, .. } => selftest::victim().map_err(Error::from).map(|()| ExitCode::SUCCESS),
        Command::Selftest { show, .. } => self_test(&flags, show),
        Command::Owner { subject, json } => owner(&subject, json),
        Command::Detach => detach(&flags),
        Command::Config => show_config(&flags),
        Command::Completions { shell } => {
            // Not to standard output at once: the generator panics if that is closed.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut command_line(), "oom-watcher", &mut script);
            io::stdout().write_all(&script).map_err(Error::from).map(|()| ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|error| {
        // A closed pipe (`oom-watcher owner … | head`) is nobody's failure.
        if let Error::Failed(cause) = &error
            && cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
        {
            return ExitCode::SUCCESS;
        }
        // Each configuration problem is a line of its own, and in a log others may come between two of them.
        for line in error.to_string().lines() {
            let _ = writeln!(io::stderr(), "oom-watcher: {line}");
        }
        error.code()
    })
}

fn load(flags: &Flags) -> Result<Loaded, Error> {
    config::load(flags, &config::from_process).map_err(Error::Configuration)
}

/// It ends with the process and not before: the threads of OpenTelemetry's SDK panic if they look for a timer while it
/// is shut down. Nor is a name resolution that hangs waited for then.
fn runtime() -> io::Result<&'static tokio::runtime::Runtime> {
    // One thread carries kills, scrapes and export: each of them takes microseconds or waits. The blocking pool encodes
    // scrapes and resolves names.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
    Ok(Box::leak(Box::new(runtime)))
}

fn run(flags: &Flags) -> Result<ExitCode, Error> {
    let Loaded { config, warnings, .. } = load(flags)?;
    let log = config.log.clone();
    let runtime = runtime()?;
    runtime.block_on(async {
        // Before anything that takes time: a signal during start must end the agent properly too.
        let mut signals = Signals::listen()?;
        let listener = run::bind(&config)?;
        // Before any other thread: those that come have no capabilities.
        let privileged = Privileged::separate()?;
        let agent = Agent::build(config, listener)?;
        let tracer = agent.tracer_provider().map(|provider| provider.tracer("oom-watcher"));
        diagnostics::start(&log, tracer, &agent.stats()).map_err(anyhow::Error::from)?;
        for warning in warnings {
            warn!(setting = %warning.name, problem = %warning.text, "configuration");
        }
        let (first, second) = signals.split();
        agent.watch(privileged, |_| {}, first.recv(), second.recv()).await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// SIGTERM and SIGINT: the first ends the agent properly, the second at once.
struct Signals {
    first: Ending,
    second: Ending,
}

struct Ending {
    terminate: Signal,
    interrupt: Signal,
    skip: u32,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let ending = |skip| {
            Ok::<_, io::Error>(Ending {
                terminate: signal(SignalKind::terminate())?,
                interrupt: signal(SignalKind::interrupt())?,
                skip,
            })
        };
        Ok(Self { first: ending(0)?, second: ending(1)? })
    }

    fn split(&mut self) -> (&mut Ending, &mut Ending) {
        (&mut self.first, &mut self.second)
    }
}

impl Ending {
    async fn recv(&mut self) {
        for _ in 0..=self.skip {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
            }
        }
    }
}

fn check(flags: &Flags, json: bool) -> Result<ExitCode, Error> {
    let loaded = load(flags)?;
    let report = preflight::judge(&runtime()?.block_on(preflight::inspect(loaded)));
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string(&report).map_err(anyhow::Error::from)?)?;
    } else {
        write!(out, "{report}")?;
    }
    Ok(match report.verdict {
        Verdict::Fail => ExitCode::from(3),
        Verdict::Pass | Verdict::Degraded => ExitCode::SUCCESS,
    })
}

fn self_test(flags: &Flags, show: bool) -> Result<ExitCode, Error> {
    let loaded = load(flags)?;
    diagnostics::start(&config::Log { filter: "error".to_owned(), ..loaded.config.log.clone() }, None, &Arc::default())
        .map_err(anyhow::Error::from)?;
    let runtime = runtime()?;
    runtime.block_on(selftest::run(loaded.config, show, &mut io::stdout())).map_err(|error| {
        match error.downcast::<Failure>() {
            Ok(failure) => failure.into(),
            Err(error) => Error::Failed(error),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn owner(subject: &str, json: bool) -> Result<ExitCode, Error> {
    // Line by line: who feeds it one path at a time gets each answer at once.
    let mut out = io::stdout().lock();
    let mut print = |report: &Report| {
        if json { writeln!(out, "{}", serde_json::to_string(report)?) } else { writeln!(out, "{report}") }
    };
    if subject == "-" {
        for path in io::stdin().lock().split(b'\n') {
            print(&report::report(&String::from_utf8_lossy(&path?)))?;
        }
        out.flush()?;
        return Ok(ExitCode::SUCCESS);
    }
    match report::subject(subject) {
        Subject::Path(path) => print(&report::report(path))?,
        Subject::Pid(pid) => {
            let file = format!("/proc/{pid}/cgroup");
            let text = std::fs::read_to_string(&file)
                .map_err(|error| anyhow::anyhow!("reading {file}: {error}: is there a process {pid}?"))?;
            let path =
                proc_cgroup::memory_path(&text).ok_or_else(|| anyhow::anyhow!("{file} names no memory cgroup"))?;
            print(&report::report(path))?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn detach(flags: &Flags) -> Result<ExitCode, Error> {
    let config = load(flags)?.config;
    let Some(pins) = config.probe.pins else {
        writeln!(io::stdout(), "nothing is pinned: probe.pin_directory is none")?;
        return Ok(ExitCode::SUCCESS);
    };
    let removed = pins::remove_all(&pins)?;
    let mut out = io::stdout().lock();
    if removed.is_empty() {
        writeln!(out, "nothing is pinned in {}", pins.display())?;
    }
    for path in removed {
        writeln!(out, "removed {}", path.display())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn show_config(flags: &Flags) -> Result<ExitCode, Error> {
    let loaded = load(flags)?;
    let mut out = io::stdout().lock();
    write!(out, "{loaded}")?;
    Ok(ExitCode::SUCCESS)
}
