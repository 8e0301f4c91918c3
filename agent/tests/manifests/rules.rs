//! The alerts, by Prometheus's own program: alerts.yaml says what fires when, each alert at least once each way.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::renders::{Renders, items, root, run, text};
use oom_watcher::record::schema::METRICS;
use oom_watcher_testkit::needs::needs;

fn spec() -> Value {
    serde_yaml::from_str(&fs::read_to_string(root().join("k8s/rules.yaml")).unwrap()).unwrap()
}

fn alerts(spec: &Value) -> impl Iterator<Item = &Value> {
    rules(spec).filter(|rule| rule.get("alert").is_some())
}

fn rules(spec: &Value) -> impl Iterator<Item = &Value> {
    items(&spec["groups"]).iter().flat_map(|group| items(&group["rules"]))
}

#[test]
fn each_alert_fires_when_it_should_and_not_otherwise() {
    let renders = needs!(Renders::find());
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let spec = spec();
    let rules_file = file("rules.yaml", &serde_yaml::to_string(&spec).unwrap());
    let said = run(renders.program("promtool").args(["check", "rules", "--lint-fatal"]).arg(rules_file)).unwrap();
    assert!(said.contains(&format!("SUCCESS: {} rules found", rules(&spec).count())), "{said}");
    let cases = include_str!("alerts.yaml");
    run(renders.program("promtool").args(["test", "rules"]).arg(file("alerts.yaml", cases))).unwrap();
    // Which cases there are: promtool does not mind an alert that nobody asks for.
    let cases: Value = serde_yaml::from_str(cases).unwrap();
    let mut missing: BTreeSet<_> =
        alerts(&spec).flat_map(|rule| [(text(&rule["alert"]), true), (text(&rule["alert"]), false)]).collect();
    for case in items(&cases["tests"]).iter().flat_map(|test| items(&test["alert_rule_test"])) {
        missing.remove(&(text(&case["alertname"]), !items(&case["exp_alerts"]).is_empty()));
    }
    assert!(missing.is_empty(), "(alert, fires): {missing:?}");
}

#[test]
fn each_alert_asks_for_series_that_there_are_and_says_what_it_means() {
    let spec = spec();
    let recorded: BTreeSet<_> = rules(&spec).filter_map(|rule| rule["record"].as_str()).collect();
    for rule in rules(&spec) {
        let expression = text(&rule["expr"]);
        let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && !['_', ':'].contains(&c));
        let series = words.filter(|word| word.starts_with("oom_") || word.contains(':') && word.len() > 1);
        let unknown: Vec<_> = series
            .filter(|word| !recorded.contains(word) && !METRICS.iter().any(|metric| metric.prometheus == *word))
            .collect();
        assert!(unknown.is_empty(), "{expression}: {unknown:?}");
    }
    let pages = root().join("docs/runbooks");
    let mut described: BTreeSet<_> =
        fs::read_dir(&pages).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    for rule in alerts(&spec) {
        let alert = text(&rule["alert"]);
        let mut keys: Vec<_> = rule["annotations"].as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["description", "runbook_url", "summary"], "{alert}");
        let page = format!("{alert}.md");
        assert_eq!(text(&rule["annotations"]["runbook_url"]), format!("docs/runbooks/{page}"));
        assert!(described.remove(&page), "{alert} has no page");
        assert!(fs::read_to_string(pages.join(page)).unwrap().starts_with(&format!("# {alert}\n")));
        let summary = text(&rule["annotations"]["summary"]);
        assert!(summary.ends_with('.') && !summary.contains("{{"), "{alert}: the summary is the same for all");
        assert!(["critical", "warning", "info"].contains(&text(&rule["labels"]["severity"])), "{alert}");
    }
    assert!(alerts(&spec).count() > 12);
    assert_eq!(described, BTreeSet::from(["README.md".to_owned()]), "pages of no alert");
}
