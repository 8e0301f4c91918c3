//! The LogQL that we ship parses with Grafana's grammar, and its labels exist. No Loki is needed. The ring "stack"
//! tests that its filters select the record of a real kill.

use oom_watcher::record::schema::ATTRIBUTES;

use oom_watcher_testkit::logql::{parse, shipped};
use oom_watcher_testkit::needs::needs;
use oom_watcher_testkit::programs::Programs;

/// Labels that are not attributes of a record: they come from the agent's resource and from fields of OTLP.
const OTHERS: [&str; 5] = ["k8s_node_name", "service_name", "severity_text", "span_id", "trace_id"];

/// The label that Loki makes of an attribute.
fn label(key: &str) -> String {
    key.replace('.', "_")
}

#[test]
fn each_logql_expression_parses_and_asks_for_labels_that_records_have() {
    let programs = needs!(Programs::find());
    let shipped = shipped();
    let parsed = parse(&programs, shipped.iter().map(|expression| expression.text.as_str()));
    assert_eq!(parsed.len(), shipped.len());
    for (expression, parsed) in shipped.iter().zip(&parsed) {
        assert!(parsed.errors.is_empty(), "{expression:?}: {:?}", parsed.errors);
        assert!(!parsed.labels.is_empty(), "{expression:?}");
        for name in &parsed.labels {
            let is_known = OTHERS.contains(&name.as_str()) || ATTRIBUTES.iter().any(|known| label(known.key) == *name);
            assert!(is_known, "{expression:?}: {name}");
        }
    }
    for file in ["k8s/dashboards/overview.json", "docs/operations.md", "otel-collector/stack/grafana/datasources.yaml"]
    {
        assert!(shipped.iter().any(|expression| expression.file == file), "{file}");
    }
}

#[test]
fn what_is_not_logql_does_not_parse() {
    let programs = needs!(Programs::find());
    let bad = [
        "",
        "oom_kills_total",
        r#"{service_name="oom-watcher""#,
        r#"{service_name=oom-watcher}"#,
        r#"{service_name="oom-watcher"} | k8s_pod_name="#,
        r#"{service_name="oom-watcher"} | k8s.pod.name="web""#,
        r#"count(sum by (log_record_uid) (count_over_time({service_name="oom-watcher"})))"#,
        r#"{service_name="oom-watcher"} | stats count()"#,
    ];
    for (text, parsed) in bad.iter().zip(parse(&programs, bad)) {
        assert!(!parsed.errors.is_empty(), "{text}");
    }
}
