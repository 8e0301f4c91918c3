//! Files that are made of others, because kustomize and Helm read none outside of their own folder.

use std::fs;
use std::path::Path;

use crate::needs_programs;
use crate::renders::{chart, examples, root};

/// The file is this; with `OOM_WATCHER_WRITE` it becomes this.
#[track_caller]
pub(crate) fn check(path: &Path, expected: &str) {
    if std::env::var_os("OOM_WATCHER_WRITE").is_some() {
        fs::write(path, expected).unwrap();
    }
    let found = fs::read_to_string(path).unwrap_or_default();
    let line = found
        .lines()
        .zip(expected.lines())
        .position(|(found, expected)| found != expected)
        .unwrap_or(found.lines().count().min(expected.lines().count()));
    let [is, should] = [&found, expected].map(|text| text.lines().nth(line).unwrap_or("(the end)"));
    let again = "OOM_WATCHER_WRITE=1 cargo test -p oom-watcher --test manifests";
    assert!(
        found == expected,
        "{} is not what it is made of, in line {}:\n  {is}\nshould be\n  {should}\nTo write it again: {again}",
        path.display(),
        line + 1
    );
}

#[test]
fn the_base_of_the_overlays_is_the_manifest() {
    check(&root().join("k8s/base/daemonset.yaml"), &fs::read_to_string(root().join("k8s/daemonset.yaml")).unwrap());
}

#[test]
fn the_rules_of_the_chart_are_those_of_the_manifest() {
    let manifest = fs::read_to_string(root().join("k8s/prometheusrule.yaml")).unwrap();
    let (_, spec) = manifest.split_once("\nspec:\n").unwrap();
    let lines: Vec<_> = spec.lines().map(|line| line.strip_prefix("  ").unwrap_or(line)).collect();
    let head = "# A copy of the spec of k8s/prometheusrule.yaml, which is the one to change.";
    check(&chart().join("files/rules.yaml"), &format!("{head}\n{}\n", lines.join("\n")));
}

#[test]
fn what_the_examples_of_the_chart_give_is_beside_them() {
    needs_programs!(renders);
    for name in examples() {
        check(&chart().join("examples").join(&name).join("rendered.yaml"), &renders.example(&name));
    }
    assert!(examples().len() > 1);
}
