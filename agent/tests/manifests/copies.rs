//! Files that are made of others, because kustomize and Helm read none outside of their own folder.

use std::fs;
use std::path::PathBuf;

use crate::renders::{Renders, chart, examples, root};
use oom_watcher_testkit::needs::needs;
use oom_watcher_testkit::written::check;

#[test]
fn the_base_of_the_overlays_is_the_manifest() {
    check(&root().join("k8s/base/daemonset.yaml"), &fs::read_to_string(root().join("k8s/daemonset.yaml")).unwrap());
}

#[test]
fn the_rules_for_the_operator_and_those_of_the_chart_are_the_rule_file() {
    let (manifest, rules) =
        (root().join("k8s/prometheusrule.yaml"), fs::read_to_string(root().join("k8s/rules.yaml")).unwrap());
    let groups = &rules[rules.find("groups:").unwrap()..];
    let text = fs::read_to_string(&manifest).unwrap();
    let (head, _) = text.split_once("\nspec:\n").unwrap();
    let lines: Vec<_> = groups.lines().map(|line| format!("  {line}")).collect();
    check(&manifest, &format!("{head}\nspec:\n{}\n", lines.join("\n")));
    check(
        &chart().join("files/rules.yaml"),
        &format!("# A copy of k8s/rules.yaml, which is the one to change.\n{groups}"),
    );
}

#[test]
fn what_the_examples_of_the_chart_give_is_beside_them() {
    let renders = needs!(Renders::find());
    for name in examples() {
        check(&chart().join("examples").join(&name).join("rendered.yaml"), &renders.example(&name));
    }
    assert!(examples().len() > 1);
}

#[test]
fn the_dashboards_are_what_their_sources_say() {
    for source in sources() {
        let mut dashboard: serde_yaml::Value = serde_yaml::from_str(&fs::read_to_string(&source).unwrap()).unwrap();
        dashboard.apply_merge().unwrap();
        let dashboard: serde_json::Value = serde_yaml::from_value(dashboard).unwrap();
        check(&source.with_extension("json"), &format!("{}\n", serde_json::to_string_pretty(&dashboard).unwrap()));
    }
    assert!(sources().len() > 1);
}

/// What the dashboards are made of.
pub(crate) fn sources() -> Vec<PathBuf> {
    let files = fs::read_dir(root().join("k8s/dashboards")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "yaml")).collect()
}
