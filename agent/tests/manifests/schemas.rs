//! Kubernetes's own schemas, of each version from the oldest that we know to work to the newest there is: unknown
//! fields are mistakes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::renders::{Objects, Renders, id, text};
use oom_watcher_testkit::needs::needs;

/// The second part of the version: 1.29 to 1.37.
const VERSIONS: std::ops::RangeInclusive<u32> = 29..=37;
/// Not Kubernetes's own, so no schema is there: Prometheus Operator's and OpenShift's.
const OF_OTHERS: [&str; 4] = ["PodMonitor", "PrometheusRule", "SecurityContextConstraints", "ServiceMonitor"];

/// What was found wrong in a file with these objects, a line each. Every object was looked at for every version, or is
/// one of others.
fn mistakes(renders: &Renders, folder: &Path, objects: &[Value]) -> Vec<String> {
    let file = folder.join("objects.yaml");
    let documents: Vec<_> = objects.iter().map(|object| serde_yaml::to_string(object).unwrap()).collect();
    fs::write(&file, documents.join("---\n")).unwrap();
    let mut command: Command = renders.program("kubernetes-validate");
    command.arg("--strict").args(VERSIONS.flat_map(|version| ["-k".to_owned(), format!("1.{version}")])).arg(&file);
    let said = String::from_utf8(command.output().unwrap().stdout).unwrap();
    let count = |start: &str| said.lines().filter(|line| line.starts_with(start)).count();
    let of_others = objects.iter().filter(|object| OF_OTHERS.contains(&text(&object["kind"]))).count();
    let versions = VERSIONS.count();
    let unknown = said.lines().filter(|line| {
        line.starts_with("WARN ") && !OF_OTHERS.iter().any(|kind| line.contains(&format!(" for kind {kind} ")))
    });
    let mistakes: Vec<_> = said
        .lines()
        .filter(|line| !["INFO ", "WARN "].iter().any(|start| line.starts_with(start)))
        .chain(unknown)
        .collect();
    assert_eq!(
        count("WARN "),
        of_others * versions + mistakes.iter().filter(|line| line.starts_with("WARN ")).count(),
        "{said}"
    );
    assert_eq!(count("INFO ") + mistakes.len(), (objects.len() - of_others) * versions, "{said}");
    mistakes.into_iter().map(|line| line.replace(&*file.to_string_lossy(), "")).collect()
}

#[test]
fn every_version_of_kubernetes_knows_every_field() {
    let renders = needs!(Renders::find());
    let folder = tempfile::tempdir().unwrap();
    // Most of a render is in others too.
    let mut seen = BTreeSet::new();
    let all = renders
        .all()
        .iter()
        .flat_map(|(_, objects)| objects.0.clone())
        .filter(|object| seen.insert(object.to_string()));
    let all: Vec<_> = all.collect();
    assert!(
        OF_OTHERS.iter().all(|kind| all.iter().any(|object| object["kind"] == *kind)),
        "a kind of others that nothing has"
    );
    assert_eq!(mistakes(renders, folder.path(), &all), [""; 0]);
}

#[test]
fn a_field_that_only_some_versions_know_is_told() {
    let renders = needs!(Renders::find());
    let folder = tempfile::tempdir().unwrap();
    let mut daemon_set = Objects::of_file("daemonset").get("DaemonSet", "oom-watcher").clone();
    // From 1.30 on: so it cannot be in a manifest for 1.29.
    daemon_set["spec"]["template"]["spec"]["securityContext"]["appArmorProfile"] = json!({"type": "RuntimeDefault"});
    let found = mistakes(renders, folder.path(), &[daemon_set.clone()]);
    assert!(
        found.len() == 1 && found[0].contains("against version 1.29") && found[0].contains("appArmorProfile"),
        "{found:?}"
    );
    daemon_set["kind"] = "DaemonSett".into();
    assert_eq!(mistakes(renders, folder.path(), &[daemon_set.clone()]).len(), VERSIONS.count(), "{}", id(&daemon_set));
}
