//! What was measured: tables of samples, as Markdown for people and as JSON with all samples.

use std::any::Any;
use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use serde::Serialize;

use crate::process;
use oom_watcher_testkit::agent::program;

/// All tables, and on what they were measured.
#[derive(Serialize)]
pub(crate) struct Report {
    machine: Machine,
    seconds: f64,
    tables: Vec<Table>,
    goals: Vec<Goal>,
    failures: Vec<Failure>,
    #[serde(skip)]
    begin: Instant,
    /// Where all samples are written.
    #[serde(skip)]
    file: Option<PathBuf>,
}

/// A part that could not be measured.
#[derive(Serialize)]
struct Failure {
    part: String,
    why: String,
}

/// On what it was measured.
#[derive(Serialize)]
pub(crate) struct Machine {
    date: String,
    kernel: String,
    cpu: String,
    cpus: usize,
    memory_bytes: u64,
    agent: String,
    /// Programs of others that took part, and their versions.
    others: Vec<String>,
}

/// One table. Each row has a cell for each column.
#[derive(Serialize)]
pub(crate) struct Table {
    title: String,
    /// How to have it again.
    command: String,
    columns: Vec<Column>,
    rows: Vec<Row>,
}

#[derive(Clone, Serialize)]
struct Column {
    name: String,
    unit: Unit,
}

#[derive(Serialize)]
struct Row {
    name: String,
    cells: Vec<Option<Cell>>,
}

/// What was measured for one thing: once for each repetition.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cell {
    minimum: f64,
    median: f64,
    maximum: f64,
    samples: Vec<f64>,
}

/// A number that design or documents promise.
#[derive(Serialize)]
struct Goal {
    what: String,
    goal: String,
    measured: String,
    met: bool,
}

/// In what a column is measured, and so how it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Unit {
    /// Things.
    Count,
    /// Things per second.
    PerSecond,
    /// Seconds, shown in what is readable.
    Seconds,
    /// Bytes, shown in what is readable: kB is 1,000 of them.
    Bytes,
    /// A part of 1, shown in percent.
    Part,
    /// A quotient.
    Ratio,
}

impl Report {
    /// An empty one, whose samples are written to that file.
    pub(crate) fn new(machine: Machine, file: Option<&Path>) -> Self {
        Self {
            machine,
            seconds: 0.0,
            tables: Vec::new(),
            goals: Vec::new(),
            failures: Vec::new(),
            begin: Instant::now(),
            file: file.map(Path::to_owned),
        }
    }

    /// Measures a part, and writes what there is then. Where the part fails, with a panic, that is noted: what was
    /// measured before stays, and the next part may follow.
    pub(crate) fn part<T>(&mut self, part: &str, measure: impl FnOnce(&mut Self) -> T) -> Option<T> {
        eprintln!("bench: {part} …");
        let measured = catch_unwind(AssertUnwindSafe(|| measure(self)));
        let measured = measured.map_err(|panic| {
            let why = message(panic.as_ref());
            eprintln!("bench: {part} failed: {why}");
            self.failures.push(Failure { part: part.to_owned(), why });
        });
        self.write();
        measured.ok()
    }

    /// Prints where it was measured, the goals and what failed; the exit code of it all.
    pub(crate) fn finish(mut self) -> ExitCode {
        self.write();
        println!("{}", self.summary());
        if self.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn write(&mut self) {
        self.seconds = self.begin.elapsed().as_secs_f64();
        if let Some(file) = &self.file {
            let text = serde_json::to_string_pretty(self).unwrap();
            std::fs::write(file, text).unwrap_or_else(|error| panic!("writing {}: {error}", file.display()));
        }
    }

    /// Prints the table, and keeps it.
    pub(crate) fn add(&mut self, table: Table) {
        println!("{}", table.markdown());
        self.tables.push(table);
    }

    /// A program that takes part.
    pub(crate) fn beside(&mut self, program: &Path) {
        let version = process::version(program);
        if !self.machine.others.contains(&version) {
            self.machine.others.push(version);
        }
    }

    /// Sets what was measured beside what is promised.
    pub(crate) fn goal(&mut self, what: &str, goal: &str, unit: Unit, measured: f64, met: bool) {
        self.goals.push(Goal { what: what.to_owned(), goal: goal.to_owned(), measured: unit.show(measured), met });
    }

    /// Where it was measured and with what, the goals and what failed: what there is to say after all tables.
    fn summary(&self) -> String {
        let Machine { date, kernel, cpu, cpus, memory_bytes, agent, others } = &self.machine;
        let memory = memory_bytes >> 30;
        let mut text = format!("{date}, Linux {kernel}, {cpus} CPUs ({cpu}), {memory} GiB, {agent}");
        others.iter().for_each(|other| text += &format!(", {other}"));
        let _ = writeln!(text, "; {:.0} s.", self.seconds);
        if !self.goals.is_empty() {
            text += "\n## Goals\n\n`make bench`\n\n| | goal | measured | |\n| --- | --- | --- | --- |\n";
            for Goal { what, goal, measured, met } in &self.goals {
                let _ =
                    writeln!(text, "| {what} | {goal} | {measured} | {} |", if *met { "met" } else { "**missed**" });
            }
        }
        if !self.failures.is_empty() {
            text += "\n## Not measured\n\n| part | why |\n| --- | --- |\n";
            for Failure { part, why } in &self.failures {
                // A cell is one line.
                let why = why.lines().next().unwrap_or_default().replace('|', "\\|");
                let _ = writeln!(text, "| {part} | **failed**: {why} |");
            }
        }
        text
    }
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without words").to_owned()
}

impl Table {
    /// `part`: what `make bench` is asked for to have it again.
    pub(crate) fn new(title: &str, part: &str, columns: &[(&str, Unit)]) -> Self {
        Self::by(title, &format!("make bench ONLY={part}"), columns)
    }

    /// `command`: how to have it again.
    pub(crate) fn by(title: &str, command: &str, columns: &[(&str, Unit)]) -> Self {
        let columns = columns.iter().map(|(name, unit)| Column { name: (*name).to_owned(), unit: *unit }).collect();
        Self { title: title.to_owned(), command: command.to_owned(), columns, rows: Vec::new() }
    }

    /// Adds a row with a cell for each column; `None`: not measured.
    pub(crate) fn row(&mut self, name: &str, cells: Vec<Option<Cell>>) {
        assert_eq!(cells.len(), self.columns.len(), "{name}");
        self.rows.push(Row { name: name.to_owned(), cells });
    }

    fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n`{}`\n\n| |", self.title, self.command);
        self.columns.iter().for_each(|column| text += &format!(" {} |", column.name));
        text += "\n| --- |";
        self.columns.iter().for_each(|_| text += " --- |");
        text.push('\n');
        for row in &self.rows {
            let _ = write!(text, "| {} |", row.name);
            for (cell, column) in row.cells.iter().zip(&self.columns) {
                let _ = write!(text, " {} |", cell.as_ref().map_or("–".to_owned(), |cell| cell.show(column.unit)));
            }
            text.push('\n');
        }
        text
    }
}

impl Cell {
    /// One for each repetition. `None` without any.
    pub(crate) fn of(samples: impl IntoIterator<Item = f64>) -> Option<Self> {
        let samples: Vec<f64> = samples.into_iter().collect();
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let (minimum, maximum) = (*sorted.first()?, *sorted.last()?);
        Some(Self { minimum, median: percentile(&sorted, 0.5), maximum, samples })
    }

    /// Measured once.
    pub(crate) fn one(value: f64) -> Option<Self> {
        Self::of([value])
    }

    pub(crate) fn median(&self) -> f64 {
        self.median
    }

    /// The value below which that part of the samples is.
    pub(crate) fn percentile(&self, part: f64) -> f64 {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        percentile(&sorted, part)
    }

    pub(crate) fn minimum(&self) -> f64 {
        self.minimum
    }

    pub(crate) fn maximum(&self) -> f64 {
        self.maximum
    }

    /// The median, with the least and the most.
    pub(crate) fn show(&self, unit: Unit) -> String {
        let [minimum, median, maximum] = [self.minimum, self.median, self.maximum].map(|value| unit.show(value));
        if minimum == maximum { median } else { format!("{median} ({minimum} – {maximum})") }
    }
}

impl Unit {
    fn show(self, value: f64) -> String {
        let scaled = |steps: &[(f64, &str)]| {
            let (factor, name) = steps.iter().find(|(factor, _)| value.abs() >= *factor).or(steps.last()).unwrap();
            format!("{} {name}", digits(value / factor))
        };
        match self {
            Self::Count => thousands(value),
            Self::PerSecond => format!("{} /s", digits(value)),
            Self::Seconds => scaled(&[(1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")]),
            Self::Bytes => scaled(&[(1e6, "MB"), (1e3, "kB"), (1.0, "B")]),
            Self::Part => format!("{} %", digits(value * 100.0)),
            Self::Ratio => digits(value),
        }
    }
}

/// The value below which that part of the sorted ones is.
pub(crate) fn percentile(sorted: &[f64], part: f64) -> f64 {
    let at = (sorted.len() - 1) as f64 * part;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

/// Three digits that matter.
fn digits(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => thousands(value.round()),
        middle if middle >= 10.0 => format!("{value:.1}"),
        0.0 => "0".to_owned(),
        small if small < 0.01 => format!("{value:.4}"),
        _ => format!("{value:.2}"),
    }
}

fn thousands(value: f64) -> String {
    let plain = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in plain.chars().enumerate() {
        if index > 0 && (plain.len() - index).is_multiple_of(3) && text != "-" {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

impl Machine {
    /// This one, and the agent that is measured.
    pub(crate) fn this() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, key: &str| {
            text.lines().find_map(|line| {
                line.strip_prefix(key)?.trim_start().strip_prefix(':').map(|value| value.trim().to_owned())
            })
        };
        let total = field(&read("/proc/meminfo"), "MemTotal")
            .and_then(|value| value.strip_suffix(" kB")?.trim().parse::<u64>().ok());
        Self {
            date: jiff::Zoned::now().date().to_string(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            cpu: field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: total.unwrap_or(0) << 10,
            agent: process::version(&program()),
            others: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Cell, Machine, Report, Table, Unit};

    fn report(file: &Path) -> Report {
        let machine = Machine {
            date: "2026-01-02".to_owned(),
            kernel: "6.1".to_owned(),
            cpu: "a CPU".to_owned(),
            cpus: 2,
            memory_bytes: 4 << 30,
            agent: "oom-watcher 1.2.3".to_owned(),
            others: Vec::new(),
        };
        Report::new(machine, Some(file))
    }

    #[test]
    fn what_was_measured_stays_when_a_later_part_fails() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bench.json");
        let mut report = report(&file);
        let measured = report.part("first", |report| {
            let mut table = Table::new("Title", "first", &[("time", Unit::Seconds)]);
            table.row("row", vec![Cell::one(0.5)]);
            report.add(table);
        });
        assert_eq!(measured, Some(()));
        let failed = report.part("second", |_| -> () { panic!("no kill | came\nwithin 30 s") });
        assert_eq!(failed, None);
        assert_eq!(report.part("third", |_| 3), Some(3));
        let written: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
        assert_eq!(written["tables"][0]["rows"][0]["cells"][0]["samples"][0], 0.5);
        assert_eq!(
            (&written["failures"][0]["part"], written["failures"].as_array().unwrap().len()),
            (&"second".into(), 1)
        );
        assert!(report.summary().ends_with("| second | **failed**: no kill \\| came |\n"), "{}", report.summary());
        assert_eq!(format!("{:?}", report.finish()), format!("{:?}", std::process::ExitCode::FAILURE));
    }
}
