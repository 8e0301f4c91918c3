//! `make bench`, `make soak` and `make fleet`: what oom-watcher does and what it costs, on this machine, with real
//! kills. Beside it, on the same kills, what people use today.
//!
//! Tables go to standard output as Markdown, the way docs/performance.md has them, and all samples to a JSON file.
//! Nothing here passes or fails by a time.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a measurement that cannot be made ends the program")]

mod burst;
mod cluster;
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
use std::time::Instant;

use clap::{Parser, Subcommand, ValueEnum};

use report::Report;

/// Measures oom-watcher on this machine, with real kills. As root.
#[derive(Parser)]
struct Options {
    #[command(subcommand)]
    what: What,
    /// What cargo says to each benchmark.
    #[arg(long, global = true, hide = true)]
    bench: bool,
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

fn main() {
    let options = Options::parse();
    if let Err(why) = oom_watcher_testkit::needs::cgroups() {
        eprintln!("bench: no real kills can be made here: {why}");
        std::process::exit(2);
    }
    if let Some(code) = supervised::run() {
        std::process::exit(code);
    }
    match options.what {
        What::Measure { only, repeat, json } => measure(&only, repeat, json.as_deref()),
        What::Fleet { size, only, json } => {
            let mut report = Report::new();
            if let Err(why) = fleet::measure(&mut report, &only, size) {
                eprintln!("bench: {why}");
                std::process::exit(2);
            }
            tell(&report, json.as_deref());
        }
        What::Soak { minutes, json, picture } => {
            if let Err(why) = soak::run(minutes, json.as_deref(), picture.as_deref()) {
                eprintln!("bench: {why}");
                std::process::exit(2);
            }
        }
    }
}

fn measure(only: &[Part], repeat: u32, json: Option<&Path>) {
    let parts = Part::value_variants().iter().filter(|part| only.is_empty() || only.contains(part));
    let (mut report, begin) = (Report::new(), Instant::now());
    for part in parts {
        eprintln!("bench: {} …", format!("{part:?}").to_lowercase());
        match part {
            Part::Burst => burst::measure(&mut report, repeat),
            Part::Latency => latency::measure(&mut report, repeat),
            Part::Cost => cost::measure(&mut report, repeat),
            Part::Memory => memory::measure(&mut report, repeat),
            Part::Cluster => cluster::measure(&mut report),
            Part::Growth => growth::measure(&mut report, repeat),
            Part::Loss => loss::measure(&mut report),
        }
    }
    report.took(begin.elapsed());
    tell(&report, json);
}

fn tell(report: &Report, json: Option<&Path>) {
    println!("{}", report.summary());
    if let Some(file) = json {
        std::fs::write(file, report.json()).unwrap_or_else(|error| panic!("writing {}: {error}", file.display()));
    }
}
