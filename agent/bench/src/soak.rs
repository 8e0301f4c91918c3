//! `make soak`: the agent under churn for as long as is asked: pods come and go, containers are killed, the collector
//! hangs for a while, somebody scrapes. Its memory, threads and descriptors are written down, and drawn.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use plotters::prelude::{
    BLACK, ChartBuilder, Color, IntoDrawingArea, IntoFont, LineSeries, PathElement, RGBColor, SVGBackend,
    SeriesLabelPosition, WHITE,
};
use serde::Serialize;

use crate::process::Usage;
use crate::report::{Cell, Machine, Report, Unit};
use oom_watcher_testkit::agent::{Agent, NODE};
use oom_watcher_testkit::cluster::Cluster;
use oom_watcher_testkit::cluster::client::{delete, post};
use oom_watcher_testkit::cluster::kubelet::{PODS, pair};
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::exposition::total;
use oom_watcher_testkit::kills::make;
use oom_watcher_testkit::programs::Programs;
use oom_watcher_testkit::wait::{patience, try_within};

/// In each round so many containers are killed, and so many pods come and go.
const KILLS: u32 = 20;
const PODS_AT_ONCE: usize = 10;
/// Between two samples, each of which is a scrape, too.
const SAMPLE: Duration = Duration::from_secs(5);
/// The collector hangs for a part of each such time.
const OUTAGES: Duration = Duration::from_secs(120);
const OUTAGE: Duration = Duration::from_secs(15);
/// Rows of the table: an outage of the collector shows in each, and what it takes for a moment is told apart from what
/// stays.
const PARTS: usize = 10;
/// What the agent may keep is kept after this: the table of counts is full, as many pods are remembered as can be.
const FULL: Duration = Duration::from_secs(300);

/// The agent at one moment.
#[derive(Clone, Copy, Serialize)]
struct Sample {
    seconds: f64,
    resident_bytes: u64,
    anonymous_bytes: u64,
    threads: u64,
    descriptors: usize,
    cpu_seconds: f64,
    kills: f64,
    series: f64,
}

/// What came of the churn so far.
#[derive(Default)]
struct Churned {
    samples: Vec<Sample>,
    /// Pods that came and went.
    pods: usize,
    /// Kills that were made, by the kernel's count.
    kernel_kills: u64,
}

/// Churns for so long, then prints what became of it; also if it failed before its time was over.
pub(crate) fn run(minutes: u64, json: Option<&Path>, picture: Option<&Path>) -> ExitCode {
    println!("## Soak\n\n`make soak MINUTES={minutes}`\n");
    let (mut report, mut churned) = (Report::new(Machine::this(), None), Churned::default());
    report.part("soak", |_| churn(Duration::from_secs(minutes * 60), &mut churned));
    if !churned.samples.is_empty() {
        tell(&churned);
        if let Some(file) = json {
            fs::write(file, serde_json::to_string_pretty(&churned.samples).unwrap())
                .unwrap_or_else(|error| panic!("writing {}: {error}", file.display()));
        }
        if let Some(file) = picture {
            draw(&churned.samples, file);
            println!("Drawn in {}.", file.display());
        }
    }
    println!();
    report.finish()
}

fn churn(time: Duration, churned: &mut Churned) {
    let cluster = match Programs::find() {
        Ok(programs) => Some(Cluster::start(programs, false)),
        Err(why) => {
            eprintln!("soak: without pods: {why}");
            None
        }
    };
    let (collector, folder) = (Collector::start(), tempfile::tempdir().unwrap());
    let settings = cluster.as_ref().map(|cluster| cluster.settings("0s"));
    let flags: Vec<_> = settings.iter().flat_map(|settings| ["--config", settings]).collect();
    let spool = folder.path().display().to_string();
    let agent = Agent::start(&[&collector.environment()[..], &[("OOM_WATCHER_SPOOL_DIR", &spool)]].concat(), &flags);
    let (begin, mut round, mut hangs) = (Instant::now(), 0, false);
    while begin.elapsed() < time {
        let made = make(&format!("--seed {round} burst {KILLS} --limit-kib 1024"));
        churned.kernel_kills += made.done.kernel_kills;
        if let Some(cluster) = &cluster {
            let names: Vec<_> = (0..PODS_AT_ONCE).map(|number| format!("goes-{round}-{number}")).collect();
            cluster.admin.all(names.iter().map(|name| post(PODS, &pair(name, NODE))));
            cluster.admin.all(names.iter().map(|name| delete(&format!("{PODS}/{name}"))));
            churned.pods += PODS_AT_ONCE;
        }
        round += 1;
        let is_away = begin.elapsed().as_secs() % OUTAGES.as_secs() < OUTAGE.as_secs();
        if is_away != hangs {
            if is_away {
                collector.hang()
            } else {
                collector.answer()
            }
            hangs = is_away;
        }
        let is_due = |last: &Sample| begin.elapsed().as_secs_f64() - last.seconds >= SAMPLE.as_secs_f64();
        if churned.samples.last().is_none_or(is_due) {
            churned.samples.push(sample(&agent, begin));
        }
    }
    // What is missing then is told below.
    let kills = churned.kernel_kills as f64;
    let _ = try_within(patience(), || if sample(&agent, begin).kills < kills { Err(()) } else { Ok(()) });
    churned.samples.push(sample(&agent, begin));
}

fn sample(agent: &Agent, begin: Instant) -> Sample {
    let page = agent.metrics();
    let usage = Usage::of(agent.pid());
    Sample {
        seconds: begin.elapsed().as_secs_f64(),
        resident_bytes: usage.resident,
        anonymous_bytes: usage.anonymous,
        threads: usage.threads,
        descriptors: fs::read_dir(format!("/proc/{}/fd", agent.pid())).unwrap().count(),
        cpu_seconds: usage.cpu.as_secs_f64(),
        kills: total(&page, "oom_kills_per_node_total"),
        series: total(&page, "oom_watcher_series"),
    }
}

fn tell(Churned { samples, pods, kernel_kills }: &Churned) {
    // Parts of a short one are less than a minute.
    let digits = usize::from(samples.last().is_some_and(|last| last.seconds < 600.0));
    println!(
        "| minutes | kills | resident | of that, no file's | threads | descriptors | CPU so far |\n| --- | --- | --- | \
         --- | --- | --- | --- |"
    );
    for part in samples.chunks(samples.len().div_ceil(PARTS)) {
        let (first, last) = (part[0], part[part.len() - 1]);
        let bytes =
            |of: fn(&Sample) -> u64| Cell::of(part.iter().map(|sample| of(sample) as f64)).unwrap().show(Unit::Bytes);
        let most = |of: fn(&Sample) -> u64| part.iter().map(of).max().unwrap_or_default();
        println!(
            "| {:.digits$} – {:.digits$} | {} | {} | {} | {} | {} | {:.1} s |",
            first.seconds / 60.0,
            last.seconds / 60.0,
            last.kills,
            bytes(|sample| sample.resident_bytes),
            bytes(|sample| sample.anonymous_bytes),
            most(|sample| sample.threads),
            most(|sample| sample.descriptors as u64),
            last.cpu_seconds
        );
    }
    println!("\n{pods} pods came and went.");
    let counted = samples.last().map_or(0.0, |last| last.kills);
    println!(
        "{kernel_kills} kills were made, by the kernel's count of their cgroups; the agent counted {counted}, those of \
         others among them."
    );
    let full: Vec<_> = samples.iter().filter(|sample| sample.seconds >= FULL.as_secs_f64()).collect();
    if full.len() > 1 {
        println!(
            "After the first {} minutes resident memory changes by {:.1} kB an hour (least squares).",
            FULL.as_secs() / 60,
            slope(&full) * 3600.0 / 1e3
        );
    } else {
        println!(
            "It was too short for a trend, which is told of what comes after the first {} minutes.",
            FULL.as_secs() / 60
        );
    }
}

/// Bytes a second, as the line has it that is nearest to all samples.
fn slope(samples: &[&Sample]) -> f64 {
    let count = samples.len() as f64;
    let mean = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(|sample| of(sample)).sum::<f64>() / count;
    let (seconds, bytes) = (mean(&|sample| sample.seconds), mean(&|sample| sample.resident_bytes as f64));
    let sum = |of: &dyn Fn(f64, f64) -> f64| {
        samples.iter().map(|sample| of(sample.seconds - seconds, sample.resident_bytes as f64 - bytes)).sum::<f64>()
    };
    sum(&|x, y| x * y) / sum(&|x, _| x * x)
}

fn draw(samples: &[Sample], file: &Path) {
    let area = SVGBackend::new(file, (800, 320)).into_drawing_area();
    let minutes = |sample: &Sample| sample.seconds / 60.0;
    let end = samples.last().map_or(1.0, minutes);
    let most = samples.iter().map(|sample| sample.resident_bytes).max().unwrap_or_default() as f64 / 1e6;
    let draw = || -> Result<(), Box<dyn std::error::Error>> {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption("Memory of the agent under churn", ("sans-serif", 16).into_font())
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(44)
            .build_cartesian_2d(0.0..end, 0.0..(most * 1.25))?;
        chart.configure_mesh().disable_x_mesh().x_desc("minutes").y_desc("MB").draw()?;
        for (name, color, bytes) in [
            ("resident", RGBColor(31, 119, 180), (|sample: &Sample| sample.resident_bytes) as fn(&Sample) -> u64),
            ("of that, no file's", RGBColor(214, 39, 40), |sample| sample.anonymous_bytes),
        ] {
            let line = samples.iter().map(|sample| (minutes(sample), bytes(sample) as f64 / 1e6));
            chart
                .draw_series(LineSeries::new(line, color.stroke_width(2)))?
                .label(name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE)
            .border_style(BLACK.mix(0.3))
            .draw()?;
        Ok(area.present()?)
    };
    draw().unwrap_or_else(|error| panic!("drawing {}: {error}", file.display()));
}
