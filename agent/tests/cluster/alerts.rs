//! That Prometheus sees the first kill of a container: its own reader of rules, over what was scraped from a running
//! agent.

use std::fmt::Write as _;
use std::fs::File;
use std::process::Command;

use serde_json::{Value, json};

use crate::{KILLS, record, start};
use oom_watcher_testkit::agent::Agent;
use oom_watcher_testkit::cluster::Cluster;
use oom_watcher_testkit::cluster::kubelet::{id, running};
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::exposition::{Sample, parse_exposition};
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::programs::Programs;
use oom_watcher_testkit::wait::eventually;

/// Scrapes before the kill, and after it: one a minute.
const BEFORE: usize = 5;
const AFTER: usize = 10;

/// The only line of these texts that is a series of this pod's container; absent where there is none.
fn of_pod(text: &str, pod: &str) -> Option<Sample> {
    parse_exposition(text)
        .into_iter()
        .find(|sample| sample.name == KILLS && (sample.label("pod"), sample.label("container")) == (pod, "app"))
}

/// The series as promtool writes them: a value for each scrape, `_` for none.
fn series(scrapes: &[String], pod: &str) -> Value {
    let samples: Vec<_> = scrapes.iter().map(|text| of_pod(text, pod)).collect();
    let labels = &samples.iter().flatten().next().unwrap_or_else(|| panic!("no series of {pod}")).labels;
    let labels: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
    let mut values = String::new();
    for sample in &samples {
        write!(values, "{} ", sample.as_ref().map_or("_".to_owned(), |sample| sample.value.to_string())).unwrap();
    }
    json!({"series": format!("{KILLS}{{{}}}", labels.join(",")), "values": values.trim()})
}

/// What promtool says of the series at the end, for each query whether it has a result.
fn check(cluster: &Cluster, series: &[Value], queries: &[(String, bool)]) {
    let tests: Vec<_> = queries
        .iter()
        .map(|(query, finds)| {
            // The value is that of the comparison with `bool`, so that no number is to be guessed.
            let found = if *finds { json!([{"labels": "{}", "value": 1}]) } else { json!([]) };
            json!({"expr": format!("group({query})"), "eval_time": format!("{}m", BEFORE + 1), "exp_samples": found})
        })
        .collect();
    let file = cluster.folder().join("promtool.yaml");
    let tests = json!({"interval": "1m", "input_series": series, "promql_expr_test": tests});
    let rules = json!({"evaluation_interval": "1m", "tests": [tests]});
    std::fs::write(&file, rules.to_string()).unwrap();
    let output = Command::new(cluster.program("promtool")).args(["test", "rules"]).arg(&file).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("SUCCESS"), "{said}\n{rules}");
}

/// As Prometheus scrapes it: what it says a minute later is the same, if nothing happens.
fn scrapes(agent: &Agent, number: usize) -> Vec<String> {
    vec![agent.get("/metrics"); number]
}

#[test]
fn prometheus_sees_the_first_kill_of_a_container_that_is_known() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find());
    let (cluster, collector) = (Cluster::start(programs, false), Collector::start());
    let killed = cluster.make_bare("killed", &["app", "log"]);
    cluster.report(&killed, "containerStatuses", &[running("app", &id(1), 0)]);
    // What others do: a series is born with the first kill.
    let settings = cluster.settings_with("5s", &json!({"series": {"from_zero": "none"}}));
    let naive = Agent::start(&[], &["--node-name", "test-node", "--config", &settings]);
    eventually("pods", || naive.get("/metrics").contains("oom_watcher_pods{node=\"test-node\"} 1").then_some(()));
    let agent = start(&cluster, &collector, "5s");
    eventually("series", || agent.kills("killed", "app"));
    let mut ours = scrapes(&agent, BEFORE);
    let mut theirs = scrapes(&naive, BEFORE);
    record(&collector, &killed.kill(&id(1)));
    eventually("the kill", || of_pod(&naive.get("/metrics"), "killed"));
    ours.extend(scrapes(&agent, AFTER));
    theirs.extend(scrapes(&naive, AFTER));
    let (increase, rate) = (format!("increase({KILLS}[5m]) > 0"), format!("rate({KILLS}[5m]) > 0"));
    check(&cluster, &[series(&ours, "killed")], &[(increase.clone(), true), (rate.clone(), true)]);
    let born_late = format!("({KILLS} unless last_over_time({KILLS}[1h] offset 5m)) > 0");
    check(&cluster, &[series(&theirs, "killed")], &[(increase, false), (rate, false), (born_late, true)]);
    // And nothing of what we say is malformed, or named as Prometheus would not.
    let page = cluster.folder().join("metrics");
    std::fs::write(&page, ours.last().unwrap()).unwrap();
    let output = Command::new(cluster.program("promtool"))
        .args(["check", "metrics"])
        .stdin(File::open(page).unwrap())
        .output()
        .unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
