//! The dashboards as far as they can be looked at without Grafana. That each query finds something where a kill has
//! happened is tested by the ring "stack".

use std::collections::BTreeSet;
use std::fs;

use oom_watcher::record::schema::METRICS;
use serde_json::Value;

use crate::copies::sources;
use crate::renders::{items, text};

/// What a timeseries asks of a counter is over a time that fits what is shown.
const OVER_TIME: [&str; 2] = ["rate(", "increase("];

fn dashboards() -> Vec<Value> {
    let read = |path: std::path::PathBuf| {
        serde_json::from_str(&fs::read_to_string(path.with_extension("json")).unwrap()).unwrap()
    };
    sources().into_iter().map(read).collect()
}

/// The places of a panel on the grid.
fn places(panel: &Value) -> impl Iterator<Item = (u64, u64)> {
    let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
    let (x, y, width, height) = (at("x"), at("y"), at("w"), at("h"));
    assert!(width > 0 && height > 0 && x + width <= 24, "{panel}");
    (x..x + width).flat_map(move |x| (y..y + height).map(move |y| (x, y)))
}

#[test]
fn each_panel_says_what_it_is_and_is_where_no_other_is() {
    for dashboard in dashboards() {
        let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for panel in items(&dashboard["panels"]) {
            let title = text(&panel["title"]);
            assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
            assert!(text(&panel["description"]).ends_with('.'), "{title}");
            assert!(places(panel).all(|place| taken.insert(place)), "{title} is on top of another one");
            if !["logs", "table"].contains(&text(&panel["type"])) {
                assert!(panel["fieldConfig"]["defaults"]["unit"].is_string(), "{title} has no unit");
            }
        }
        assert_eq!(taken.len() as u64 % 4, 0);
    }
}

#[test]
fn each_query_asks_for_series_that_there_are_of_a_source_that_can_be_chosen() {
    for dashboard in dashboards() {
        let variables: BTreeSet<_> =
            items(&dashboard["templating"]["list"]).iter().map(|variable| text(&variable["name"])).collect();
        for panel in items(&dashboard["panels"]) {
            for target in items(&panel["targets"]) {
                let query = text(&target["expr"]);
                let source = text(&target["datasource"]["uid"]);
                assert!(
                    source
                        .strip_prefix("${")
                        .and_then(|name| name.strip_suffix('}'))
                        .is_some_and(|name| variables.contains(name)),
                    "{query}: {source}"
                );
                let words = query
                    .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                    .filter(|word| word.starts_with("oom_") && *word != "oom_watcher");
                for word in words.filter(|word| *word != "oom_kill") {
                    let series = word.strip_suffix("_bucket").unwrap_or(word);
                    assert!(METRICS.iter().any(|metric| metric.prometheus == series), "{query}: {word}");
                }
                for name in query
                    .split('$')
                    .skip(1)
                    .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap())
                {
                    assert!(
                        variables.contains(name) || ["__rate_interval", "__range", "__range_s"].contains(&name),
                        "{query}: {name}"
                    );
                }
                if panel["type"] == "timeseries" && OVER_TIME.iter().any(|function| query.contains(function)) {
                    assert!(query.contains("[$__rate_interval]"), "{query}");
                }
            }
        }
    }
}

#[test]
fn a_kill_leads_to_its_workload_and_its_record_to_its_trace() {
    let dashboards = dashboards();
    let uids: BTreeSet<_> = dashboards.iter().map(|dashboard| text(&dashboard["uid"])).collect();
    let links: Vec<_> = dashboards
        .iter()
        .flat_map(|dashboard| items(&dashboard["panels"]))
        .filter_map(|panel| {
            let overrides = panel["fieldConfig"]["overrides"].as_array()?;
            overrides
                .iter()
                .flat_map(|rule| items(&rule["properties"]))
                .find(|property| property["id"] == "links")
                .map(|links| text(&links["value"][0]["url"]))
        })
        .collect();
    assert!(!links.is_empty());
    for link in links {
        let target = link.strip_prefix("/d/").unwrap().split('?').next().unwrap();
        assert!(uids.contains(target), "{link}");
    }
    // Grafana makes the link of a record by the data source.
    let sources: Value = serde_yaml::from_str(
        &fs::read_to_string(crate::renders::root().join("otel-collector/stack/grafana/datasources.yaml")).unwrap(),
    )
    .unwrap();
    let of = |name: &str| {
        items(&sources["datasources"]).iter().find(|source| source["uid"] == name).unwrap()["jsonData"].clone()
    };
    assert_eq!(of("loki")["derivedFields"][0]["datasourceUid"], "traces");
    assert_eq!(of("traces")["tracesToLogsV2"]["datasourceUid"], "loki");
}
