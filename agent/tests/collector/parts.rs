//! That the Collector takes each configuration, and has what they use and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::Value;

use oom_watcher_testkit::needs::needs;
use oom_watcher_testkit::otelcol::configuration;
use oom_watcher_testkit::programs::Programs;

/// Combinations of files that are meant to be used.
const COMBINATIONS: [&[&str]; 5] = [
    &["agent"],
    &["gateway"],
    &["gateway", "kubernetes"],
    &["gateway", "remote-write"],
    &["gateway", "kubernetes", "remote-write"],
];

#[test]
fn the_collector_takes_each_configuration() {
    let programs = needs!(Programs::find());
    let folder = tempfile::tempdir().unwrap();
    for combination in COMBINATIONS {
        let mut command = Command::new(programs.path("otelcol"));
        command.arg("validate").env("QUEUE_DIRECTORY", folder.path());
        for name in combination {
            command.arg(format!("--config={}", configuration(name).display()));
        }
        for exporters in ["[debug]", "[otlp_http/metrics]"]
            .into_iter()
            .chain(combination.contains(&"remote-write").then_some("[prometheus_remote_write/metrics]"))
        {
            let output = command.env("METRICS_EXPORTERS", exporters).output().unwrap();
            assert!(
                output.status.success(),
                "{combination:?} {exporters}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
}

#[test]
fn it_is_built_of_what_they_use_and_of_nothing_else() {
    let programs = needs!(Programs::find());
    let output = Command::new(programs.path("otelcol")).arg("components").output().unwrap();
    let has: Value = serde_yaml::from_slice(&output.stdout).unwrap();
    for kind in ["receivers", "processors", "exporters", "extensions"] {
        let mut used = BTreeSet::new();
        for name in ["agent", "gateway", "kubernetes", "remote-write"] {
            let config: Value = serde_yaml::from_str(&fs::read_to_string(configuration(name)).unwrap()).unwrap();
            let ids = config[kind].as_object().into_iter().flat_map(serde_json::Map::keys);
            used.extend(ids.map(|id| id.split('/').next().unwrap().to_owned()));
        }
        let built: BTreeSet<_> =
            has[kind].as_array().unwrap().iter().map(|part| part["name"].as_str().unwrap().to_owned()).collect();
        assert_eq!(built, used, "{kind}");
    }
}
