//! That alerts fire on a real kill, in the real Prometheus, and what the real Alertmanager makes of them.

use serde_json::{Value, json};

use crate::{POD, SEED, container, kill, pod};
use oom_watcher_testkit::api_server::ApiServer;
use oom_watcher_testkit::kills;
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::programs::Programs;
use oom_watcher_testkit::stack::Stack;
use oom_watcher_testkit::wait::eventually;

/// The alert of the project's first README, as it stood there.
const FIRST_RULES: &str = "groups:
- name: first
  rules:
  - alert: HighOOMRate
    expr: rate(oom_kills_total[5m]) > 0
";

/// More than 0.1 a second within 5 minutes.
const KILLS: usize = 40;

fn firing<'a>(alerts: &'a Value, name: &str) -> Option<&'a Value> {
    let alerts = alerts["alerts"].as_array().unwrap();
    alerts.iter().find(|alert| {
        alert["labels"]["alertname"] == name && alert["labels"]["pod"] == POD && alert["state"] == "firing"
    })
}

#[test]
fn the_first_kill_fires_and_what_the_first_readme_said_works_as_written() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find_stack());
    let (stack, api) = (Stack::start(&programs, FIRST_RULES), ApiServer::start());
    api.apply(pod(&container()));
    let _agent = stack.agent(&api, &[]);
    eventually("series at 0", || stack.prometheus(&format!(r#"oom_kills_total{{pod="{POD}"}} == 0"#)).pop());
    assert!(
        ["ContainerOOMKilled", "HighOOMRate"].iter().all(|alert| firing(
            &stack.prometheus_path("/api/v1/alerts"),
            alert
        )
        .is_none())
    );
    let _held = kill();
    for alert in ["ContainerOOMKilled", "HighOOMRate"] {
        eventually(alert, || firing(&stack.prometheus_path("/api/v1/alerts"), alert).map(|_| ()));
    }
    let told = eventually("it in Alertmanager", || {
        stack
            .alerts()
            .into_iter()
            .find(|alert| alert["labels"]["alertname"] == "ContainerOOMKilled" && alert["labels"]["pod"] == POD)
    });
    assert_eq!((&told["labels"]["namespace"], &told["labels"]["container"]), (&"shop".into(), &"app".into()), "{told}");
    assert!(told["annotations"]["description"].as_str().unwrap().contains(&format!("app of pod shop/{POD}")), "{told}");
    // Three queries of that README.
    let by_namespace = stack.prometheus("sum by (namespace) (oom_kills_total)");
    assert!(
        by_namespace.iter().any(|series| series["metric"]["namespace"] == "shop" && series["value"][1] != "0"),
        "{by_namespace:?}"
    );
    assert!(!stack.prometheus(r#"oom_memory_usage_bytes{memory_type="anon_rss"}"#).is_empty());
    for _ in 0..KILLS {
        kills::make(&format!("burst 1 --seed {SEED}"));
    }
    eventually("a rate above 0.1", || stack.prometheus("rate(oom_kills_total[5m]) > 0.1").pop());
}

fn alert(name: &str, labels: Value) -> Value {
    let mut alert = json!({"labels": labels, "annotations": {}});
    alert["labels"]["alertname"] = name.into();
    alert
}

#[test]
fn a_bad_release_is_one_message_however_many_nodes_it_is_on() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find_stack());
    let stack = Stack::start(&programs, "groups: []");
    let killed = |node: usize, namespace: &str| {
        let (node, pod) = (format!("n-{node}"), format!("web-{node}"));
        let labels = json!({
            "severity": "warning", "node": node, "namespace": namespace, "pod": pod, "container": "app",
        });
        alert("ContainerOOMKilled", labels)
    };
    // Outside of pods it is a matter of each node.
    stack.post_alerts(&(0..20).map(|node| killed(node, "shop")).chain((0..2).map(|node| killed(node, ""))).collect());
    let mut groups = eventually("all alerts in groups", || {
        let groups: Vec<_> =
            stack.alert_groups().iter().map(|group| group["alerts"].as_array().unwrap().len()).collect();
        (groups.iter().sum::<usize>() == 22).then_some(groups)
    });
    groups.sort_unstable();
    assert_eq!(groups, [1, 1, 20]);
}

#[test]
fn what_says_more_silences_what_says_less() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find_stack());
    let stack = Stack::start(&programs, "groups: []");
    let app = || json!({"node": "n", "namespace": "shop", "pod": "web-1", "container": "app"});
    let other = || json!({"node": "m", "namespace": "other", "pod": "db-0", "container": "db"});
    let rows = [
        (alert("WorkloadOOMKilled", json!({"namespace": "shop", "workload": "web", "container": "app"})), false),
        (alert("ContainerOOMKilledRepeatedly", app()), true),
        (alert("ContainerOOMKilled", app()), true),
        (alert("ContainerOOMKilled", other()), false),
        (alert("NodeOutOfMemory", json!({"node": "k"})), false),
        (alert("ContainerOOMKilled", json!({"node": "k", "namespace": "x", "pod": "y", "container": "z"})), true),
        (alert("OOMWatcherAbsent", json!({})), false),
        (alert("OOMWatcherDown", json!({"node": "n"})), true),
        (alert("OOMWatcherExportFailing", json!({"node": "n"})), false),
    ];
    stack.post_alerts(&rows.iter().map(|(alert, _)| alert.clone()).collect());
    for (alert, is_silenced) in rows {
        let state = if is_silenced { "suppressed" } else { "active" };
        eventually(&format!("{alert} that is {state}"), || {
            stack
                .alerts()
                .into_iter()
                .find(|told| told["labels"] == alert["labels"] && told["status"]["state"] == state)
        });
    }
}
