//! Resident memory of the agent, and the sizes of what is installed.

use std::fs;

use crate::process::Usage;
use crate::report::{Cell, Report, Table, Unit};
use oom_watcher_testkit::agent::{Agent, program};
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::kills::make;
use oom_watcher_testkit::root;

/// Kills of one burst, and how many bursts make "many".
const BURST: u32 = 2000;
const BURSTS: u32 = 10;

pub(crate) fn measure(report: &mut Report, repeat: u32) {
    resident(report, repeat);
    sizes(report);
}

fn resident(report: &mut Report, repeat: u32) {
    let mut table = Table::new(
        "Resident memory",
        "memory",
        &[("resident (VmRSS)", Unit::Bytes), ("of that, no file's", Unit::Bytes), ("peak (VmHWM)", Unit::Bytes)],
    );
    let mut row = |name: &str, usages: &[Usage]| {
        let cell = |of: fn(&Usage) -> u64| Cell::of(usages.iter().map(|usage| of(usage) as f64));
        table.row(name, vec![cell(|usage| usage.resident), cell(|usage| usage.anonymous), cell(|usage| usage.peak)]);
        cell(|usage| usage.resident).unwrap().median()
    };
    let scraped_once = |agent: &Agent| {
        agent.metrics();
        Usage::of(agent.pid())
    };
    let started: Vec<_> = (0..repeat).map(|_| scraped_once(&Agent::start(&[], &[]))).collect();
    let idle = row("no OTLP, no cluster, one scrape", &started);
    let collector = Collector::start();
    let start = || Agent::start(&collector.environment(), &[]);
    let started: Vec<_> = (0..repeat).map(|_| scraped_once(&start())).collect();
    row("with OTLP, one scrape", &started);
    let agent = start();
    // What is waited for is told by the agent: the receiver of this program would keep all of it.
    let kills =
        |agent: &Agent| oom_watcher_testkit::exposition::total(&agent.metrics(), "oom_kills_per_node_total") as u64;
    for burst in 1..=BURSTS {
        make(&format!("--seed {burst} burst {BURST} --limit-kib 1024"));
        oom_watcher_testkit::wait::eventually("count of all kills", || {
            (kills(&agent) >= u64::from(burst * BURST)).then_some(())
        });
        if burst == 1 {
            row(&format!("after {BURST} kills in as many containers (the bound of series)"), &[Usage::of(agent.pid())]);
        }
    }
    row(&format!("after {} kills in as many containers", BURST * BURSTS), &[Usage::of(agent.pid())]);
    report.add(table);
    report.goal("agent, idle: resident memory without a cluster", "< 12 MB", Unit::Bytes, idle, idle < 12e6);
}

fn sizes(report: &mut Report) {
    let mut table = Table::new("Sizes", "memory", &[("", Unit::Bytes)]);
    let binary = fs::metadata(program()).unwrap().len() as f64;
    table.row("binary, stripped, the eBPF programs inside", vec![Cell::one(binary)]);
    report.goal("binary, stripped", "< 12 MB", Unit::Bytes, binary, binary < 12e6);
    let image = root().join("target/image/oom-watcher.tar");
    let image = fs::metadata(image).ok().and_then(|file| Cell::one(file.len() as f64));
    table.row("image, uncompressed (made by `agent/tests/servers/image`)", vec![image]);
    report.add(table);
}
