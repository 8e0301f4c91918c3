//! That each query of the dashboards finds something where a kill has happened: Grafana, which would run them, is not
//! to be had where the tests run.

use serde_json::Value;

use crate::{POD, container, kill, needs_stack, pod};
use oom_watcher_testkit::api_server::ApiServer;
use oom_watcher_testkit::stack::{Stack, encoded, source};
use oom_watcher_testkit::wait::eventually;

const DASHBOARDS: [&str; 2] = ["overview", "workload"];

/// With what Grafana puts in for its variables, if all is chosen that can be, and an hour is shown.
fn filled_in(query: &str) -> String {
    let variables = [
        ("$__rate_interval", "5m"),
        ("$__range_s", "3600"),
        ("$__range", "1h"),
        ("$node", ".*"),
        ("$pod", ".*"),
        ("$container", ".*"),
        ("$namespace", "shop"),
    ];
    variables.iter().fold(query.to_owned(), |query, (name, value)| query.replace(name, value))
}

#[test]
fn each_query_of_the_dashboards_finds_something() {
    needs_stack!(programs);
    let (stack, api) = (Stack::start(&programs, "groups: []"), ApiServer::start());
    api.apply(pod(&container()));
    let _agent = stack.agent(&api, &[]);
    eventually("series at 0", || stack.prometheus(&format!(r#"oom_kills_total{{pod="{POD}"}} == 0"#)).pop());
    let _held = kill();
    eventually("count of the kill", || {
        stack.prometheus(&format!(r#"increase(oom_kills_total{{pod="{POD}"}}[5m]) > 0"#)).pop()
    });
    eventually("log record", || stack.loki(r#"{service_name="oom-watcher"}"#).pop());
    let mut queries = 0;
    for name in DASHBOARDS {
        let dashboard: Value = serde_json::from_str(&source(&format!("k8s/dashboards/{name}.json"))).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            for target in panel["targets"].as_array().unwrap() {
                let query = filled_in(target["expr"].as_str().unwrap());
                assert!(!query.contains('$'), "{query}");
                let find = || {
                    if panel["datasource"]["type"] == "loki" { stack.loki(&query) } else { stack.prometheus(&query) }
                };
                // A series that begins with the kill has an increase from its second scrape on.
                eventually(&format!("result of {name}, {}: {query}", panel["title"]), || {
                    (!find().is_empty()).then_some(())
                });
                queries += 1;
            }
        }
        // And there is something to choose from.
        for variable in
            dashboard["templating"]["list"].as_array().unwrap().iter().filter(|variable| variable["type"] == "query")
        {
            let query = filled_in(variable["query"]["query"].as_str().unwrap());
            let (series, label) =
                query.strip_prefix("label_values(").unwrap().strip_suffix(')').unwrap().rsplit_once(", ").unwrap();
            let found = stack.prometheus_path(&format!("/api/v1/label/{label}/values?match[]={}", encoded(series)));
            assert!(found.as_array().is_some_and(|values| !values.is_empty()), "{name}: {query}");
        }
    }
    assert!(queries > 20, "{queries}");
}
