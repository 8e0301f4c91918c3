//! Each query of the dashboards finds something where a kill has happened, and each LogQL expression that we ship
//! selects the record of the kill.
//!
//! No test runs Grafana or Loki. PromQL goes to Prometheus as it is; the filter of a LogQL expression goes to
//! VictoriaLogs as LogsQL.

use serde_json::{Map, Value, json};

use crate::{POD, container, kill, pod};
use oom_watcher_testkit::api_server::ApiServer;
use oom_watcher_testkit::logql::{Filter, Matcher, parse, shipped, shipped_logsql};
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::programs::Programs;
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

/// The field of a record that has this label in Loki, which writes an underscore for each dot.
fn field<'a>(record: &'a Map<String, Value>, label: &str) -> (&'a str, &'a str) {
    let mut fields = record.iter().filter(|(name, _)| name.replace(['.', '-'], "_") == label);
    let (name, value) = fields.next().unwrap_or_else(|| panic!("no field {label} in {record:?}"));
    assert!(fields.next().is_none(), "{label} is more than one field of {record:?}");
    (name, value.as_str().unwrap())
}

/// The filter of an expression in LogsQL.
fn in_logsql(filter: &Filter, record: &Map<String, Value>) -> String {
    let joined = |filters: &[Filter], word: &str| {
        let parts: Vec<_> = filters.iter().map(|filter| in_logsql(filter, record)).collect();
        format!("({})", parts.join(word))
    };
    match filter {
        // A selector is the same in LogsQL.
        Filter::Streams { streams } => {
            let matcher = |matcher: &Matcher| {
                let (name, value) = name_and_value(matcher, record);
                format!("{}{}{}", json!(name), matcher.operator, json!(value))
            };
            let matchers: Vec<_> = streams.iter().map(matcher).collect();
            format!("{{{}}}", matchers.join(","))
        }
        Filter::All { all } => joined(all, " AND "),
        Filter::Any { any } => joined(any, " OR "),
        Filter::Stage { stage } => panic!("{stage}: translate this stage into LogsQL here"),
        Filter::Label(matcher) => {
            let (name, value) = name_and_value(matcher, record);
            // A regular expression of LogQL is about the whole value.
            let whole = json!(format!("^(?:{value})$"));
            let [name, value] = [json!(name), json!(value)];
            match matcher.operator.as_str() {
                "=" => format!("{name}:={value}"),
                "!=" => format!("!{name}:={value}"),
                "=~" => format!("{name}:~{whole}"),
                "!~" => format!("!{name}:~{whole}"),
                other => panic!("{name}{other}{value}"),
            }
        }
    }
}

/// The field of a matcher and its value. Placeholders get the value of this record.
fn name_and_value<'a>(matcher: &'a Matcher, record: &'a Map<String, Value>) -> (&'a str, &'a str) {
    let Matcher { label, value, .. } = matcher;
    let (name, own) = field(record, label);
    let value = if value == "NAME" || value.starts_with("$$") { own } else { value };
    assert!(!value.contains('$'), "{label}: {value}");
    (name, value)
}

#[test]
fn each_query_of_the_dashboards_finds_something() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find_stack());
    let (stack, api) = (Stack::start(&programs, "groups: []"), ApiServer::start());
    api.apply(pod(&container()));
    let _agent = stack.agent(&api, &[]);
    eventually("series at 0", || stack.prometheus(&format!(r#"oom_kills_total{{pod="{POD}"}} == 0"#)).pop());
    let _held = kill();
    eventually("count of the kill", || {
        stack.prometheus(&format!(r#"increase(oom_kills_total{{pod="{POD}"}}[5m]) > 0"#)).pop()
    });
    let mut queries = 0;
    for name in DASHBOARDS {
        let dashboard: Value = serde_json::from_str(&source(&format!("k8s/dashboards/{name}.json"))).unwrap();
        for panel in dashboard["panels"].as_array().unwrap() {
            if panel["datasource"]["type"] == "loki" {
                continue;
            }
            for target in panel["targets"].as_array().unwrap() {
                let query = filled_in(target["expr"].as_str().unwrap());
                assert!(!query.contains('$'), "{query}");
                // A series that begins with the kill has an increase from its second scrape on.
                eventually(&format!("result of {name}, {}: {query}", panel["title"]), || {
                    (!stack.prometheus(&query).is_empty()).then_some(())
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

#[test]
fn each_logql_expression_selects_the_record_of_a_kill() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find_stack());
    let (stack, api) = (Stack::start(&programs, "groups: []"), ApiServer::start());
    api.apply(pod(&container()));
    let _agent = stack.agent(&api, &[]);
    // A kill before the agent knows the pod has no names.
    eventually("series at 0", || stack.prometheus(&format!(r#"oom_kills_total{{pod="{POD}"}} == 0"#)).pop());
    let _held = kill();
    // From now on an expression that does not find it is wrong.
    let record = eventually("log record", || {
        stack.records(&format!(r#"{{service.name="oom-watcher"}} k8s.pod.name:="{POD}""#)).pop()
    });
    let record = record.as_object().unwrap();
    let expressions: Vec<_> = shipped().iter().map(|expression| filled_in(&expression.text)).collect();
    let parsed = parse(&programs, expressions.iter().map(String::as_str));
    for (expression, parsed) in expressions.iter().zip(&parsed) {
        parsed.labels.iter().for_each(|label| assert!(!field(record, label).1.is_empty(), "{expression}: {label}"));
        let query = in_logsql(&parsed.filter, record);
        let found = stack.records(&query);
        assert!(found.iter().any(|found| found["log.record.uid"] == record["log.record.uid"]), "{expression}: {query}");
    }
    assert!(parsed.len() > 5, "{}", parsed.len());
    let pages = shipped_logsql();
    pages.iter().for_each(|query| assert!(!stack.records(query).is_empty(), "{query}"));
    assert!(pages.len() > 1, "{pages:?}");
}
