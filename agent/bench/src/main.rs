//! `make bench`, `make soak` and `make fleet`: what oom-watcher does and what it costs, on this machine, with real
//! kills. Beside it, on the same kills, what people use today.
//!
//! Tables go to standard output as Markdown, the way docs/performance.md has them, and all samples to a JSON file.
//! Nothing here passes or fails by a time. What a measurement needs is checked first. A part that fails is named at the
//! end, beside what was measured. Exit codes: 0 all was measured, 1 a part failed, 2 nothing was tried.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a measurement that cannot be made ends the program")]

mod burst;
mod cluster;
mod conditions;
mod cost;
mod fleet;
mod growth;
mod latency;
mod load;
mod loss;
mod memory;
mod observers;
mod process;
mod programs;
mod report;
mod soak;
mod supervised;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use conditions::{Conditions, Servers};
use report::{Machine, Report};

/// Measures oom-watcher on this machine, with real kills. As root.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Measures, and prints tables.
    Measure {
        /// Only these parts, separated by commas.
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<Part>,
        /// How often each measurement is repeated.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
        repeat: u32,
        /// Where all samples are written.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// What the agents of many nodes are for the servers behind them.
    Fleet {
        #[command(flatten)]
        size: fleet::Size,
        /// Only these parts, separated by commas.
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<fleet::Part>,
        /// Where all samples are written.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Watches an agent under churn, and draws its memory.
    Soak {
        /// For how long.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
        minutes: u64,
        /// Where all samples are written.
        #[arg(long)]
        json: Option<PathBuf>,
        /// Where the picture goes, as SVG.
        #[arg(long)]
        picture: Option<PathBuf>,
    },
}

/// The parts, in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Who sees how many kills of a burst, and says rightly whose they were.
    Burst,
    /// How long after the kill it is known where.
    Latency,
    /// What the probe and the agent take of the CPU, and how long the start takes.
    Cost,
    /// Resident memory, threads and sizes.
    Memory,
    /// The same beside an API server, with pods.
    Cluster,
    /// `/metrics` and OTLP with more and more series.
    Growth,
    /// What is lost first when nobody reads.
    Loss,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(code) = supervised::run() {
        return code;
    }
    let problems = options.what.conditions().problems();
    if !problems.is_empty() {
        problems.iter().for_each(|problem| eprintln!("bench: {problem}"));
        return ExitCode::from(2);
    }
    match options.what {
        What::Measure { only, repeat, json } => measure(&only, repeat, json.as_deref()),
        What::Fleet { size, only, json } => {
            let mut report = Report::new(Machine::this(), json.as_deref());
            fleet::measure(&mut report, &only, size);
            report.finish()
        }
        What::Soak { minutes, json, picture } => soak::run(minutes, json.as_deref(), picture.as_deref()),
    }
}

impl What {
    fn conditions(&self) -> Conditions<'_> {
        let (of_parts, outputs) = match self {
            Self::Measure { only, json, .. } => {
                let servers =
                    if parts(only).any(|part| part == Part::Cluster) { Servers::Cluster } else { Servers::None };
                (Conditions { servers, ..Conditions::default() }, [json.as_deref(), None])
            }
            Self::Fleet { size, only, json } => (size.conditions(only), [json.as_deref(), None]),
            Self::Soak { json, picture, .. } => (Conditions::default(), [json.as_deref(), picture.as_deref()]),
        };
        Conditions { outputs: outputs.into_iter().flatten().collect(), ..of_parts }
    }
}

/// These parts, or all, in the order in which they run.
fn parts(only: &[Part]) -> impl Iterator<Item = Part> {
    Part::value_variants().iter().copied().filter(move |part| only.is_empty() || only.contains(part))
}

fn measure(only: &[Part], repeat: u32, json: Option<&Path>) -> ExitCode {
    let mut report = Report::new(Machine::this(), json);
    for part in parts(only) {
        report.part(&format!("{part:?}").to_lowercase(), |report| match part {
            Part::Burst => burst::measure(report, repeat),
            Part::Latency => latency::measure(report, repeat),
            Part::Cost => cost::measure(report, repeat),
            Part::Memory => memory::measure(report, repeat),
            Part::Cluster => cluster::measure(report),
            Part::Growth => growth::measure(report, repeat),
            Part::Loss => loss::measure(report),
        });
    }
    report.finish()
}
