//! That the objects of one render find each other: selectors and labels, ports and their names, permissions and who has
//! them.

use serde_json::Value;

use crate::pod::names;
use crate::renders::{Objects, Renders, id, items, text};
use oom_watcher_testkit::needs::needs;

/// Whether an object with these labels is selected.
fn selects(selector: &Value, labels: &Value) -> bool {
    let selector = selector.as_object().unwrap();
    !selector.is_empty() && selector.iter().all(|(name, value)| labels[name] == *value)
}

/// Of one render: the agent is called `name`, in `namespace`.
fn check(render: &str, objects: &Objects, name: &str, namespace: &str) {
    let daemon_set = objects.get("DaemonSet", name);
    let (labels, pod) =
        (&daemon_set["spec"]["template"]["metadata"]["labels"], &daemon_set["spec"]["template"]["spec"]);
    let container = &pod["containers"][0];
    let of_cluster = ["ClusterRole", "ClusterRoleBinding", "SecurityContextConstraints"];
    for object in &objects.0 {
        let (place, spec) = (format!("{render}: {}", id(object)), &object["spec"]);
        let of_cluster = of_cluster.contains(&text(&object["kind"]));
        assert_eq!(object["metadata"]["namespace"].as_str(), (!of_cluster).then_some(namespace), "{place}");
        match text(&object["kind"]) {
            "DaemonSet" | "Deployment" => {
                assert!(selects(&spec["selector"]["matchLabels"], &spec["template"]["metadata"]["labels"]), "{place}");
                let account = text(&spec["template"]["spec"]["serviceAccountName"]);
                objects.get("ServiceAccount", account);
            }
            "Service" => {
                let selected: Vec<_> = objects
                    .workloads()
                    .filter(|of| selects(&spec["selector"], &of["spec"]["template"]["metadata"]["labels"]))
                    .collect();
                // Another's pods would be scraped as the agent's, or get its OTLP.
                assert_eq!(
                    selected.iter().map(|of| &of["metadata"]["name"]).collect::<Vec<_>>(),
                    [&object["metadata"]["name"]],
                    "{place}"
                );
                let known = names(&selected[0]["spec"]["template"]["spec"]["containers"][0]["ports"]);
                assert!(items(&spec["ports"]).iter().all(|port| known.contains(&text(&port["targetPort"]))), "{place}");
            }
            "RoleBinding" | "ClusterRoleBinding" => {
                objects.get(text(&object["roleRef"]["kind"]), text(&object["roleRef"]["name"]));
                assert_eq!(
                    object["subjects"],
                    serde_json::json!([{"kind": "ServiceAccount", "name": name, "namespace": namespace}]),
                    "{place}"
                );
                assert_eq!(pod["serviceAccountName"], *name, "{place}");
            }
            "ServiceMonitor" => {
                let service = objects.get("Service", name);
                assert!(selects(&spec["selector"]["matchLabels"], &service["metadata"]["labels"]), "{place}");
                check_scrape(
                    &place,
                    spec,
                    &spec["endpoints"],
                    &names(&service["spec"]["ports"]),
                    &service["metadata"]["labels"],
                );
            }
            "PodMonitor" => {
                assert!(selects(&spec["selector"]["matchLabels"], labels), "{place}");
                check_scrape(&place, spec, &spec["podMetricsEndpoints"], &names(&container["ports"]), labels);
            }
            "NetworkPolicy" if object["metadata"]["name"] != *name => {
                let own = objects.workloads().find(|of| of["metadata"]["name"] == object["metadata"]["name"]).unwrap();
                assert!(
                    selects(&spec["podSelector"]["matchLabels"], &own["spec"]["template"]["metadata"]["labels"]),
                    "{place}"
                );
                let known = names(&own["spec"]["template"]["spec"]["containers"][0]["ports"]);
                assert!(
                    items(&spec["ingress"][0]["ports"]).iter().all(|port| known.contains(&text(&port["port"]))),
                    "{place}"
                );
            }
            "NetworkPolicy" => {
                assert!(selects(&spec["podSelector"]["matchLabels"], labels), "{place}");
                assert_eq!(spec["policyTypes"], serde_json::json!(["Ingress"]), "{place}: what goes out is left open");
                assert_eq!(
                    spec["ingress"][0]["ports"],
                    serde_json::json!([{"port": "metrics", "protocol": "TCP"}]),
                    "{place}"
                );
            }
            _ => {}
        }
    }
    // The agent asks for its own DaemonSet, which it may.
    assert_eq!(objects.get("Role", name)["rules"][0]["resourceNames"], serde_json::json!([name]), "{render}");
    let own = items(&container["env"]).iter().find(|variable| variable["name"] == "OOM_WATCHER_DAEMONSET").unwrap();
    assert_eq!(text(&own["value"]), format!("$(POD_NAMESPACE)/{name}"), "{render}");
    // The state outlives the pod where it is looked for.
    assert!(
        items(&container["volumeMounts"]).iter().any(|mount| mount["mountPath"] == oom_watcher::state::DEFAULT),
        "{render}"
    );
}

/// The victim's labels are kept, `up` tells the node, and the job is the one that the rules ask for.
fn check_scrape(place: &str, spec: &Value, endpoints: &Value, ports: &[&str], labels: &Value) {
    assert_eq!(labels[text(&spec["jobLabel"])], "oom-watcher", "{place}");
    let [endpoint] = items(endpoints) else { panic!("{place}: {endpoints}") };
    assert!(ports.contains(&text(&endpoint["port"])), "{place}: no port {}", endpoint["port"]);
    assert_eq!(endpoint["honorLabels"], true, "{place}");
    // Nothing of a pod's own is in the labels of its series: the next one goes on with them.
    let by_node =
        |label: &str| serde_json::json!({"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": label});
    let dropped = serde_json::json!({"action": "labeldrop", "regex": "pod|container|endpoint"});
    assert_eq!(endpoint["relabelings"], serde_json::json!([by_node("node"), by_node("instance"), dropped]), "{place}");
}

#[test]
fn what_is_applied_beside_the_base_finds_it() {
    let renders = needs!(Renders::find());
    let files = ["servicemonitor", "podmonitor", "prometheusrule", "networkpolicy"].map(Objects::of_file);
    for (render, mut objects) in
        renders.all().iter().filter(|(_, objects)| objects.workloads().next().is_some()).cloned()
    {
        let namespace = if render.starts_with("chart-") { "monitoring" } else { "kube-system" };
        if namespace == "kube-system" {
            objects.0.extend(files.iter().flat_map(|file| file.0.clone()));
        }
        check(&render, &objects, "oom-watcher", namespace);
    }
}

#[test]
fn a_release_of_another_name_is_of_one_piece_too() {
    let renders = needs!(Renders::find());
    let all = [
        "serviceMonitor.enabled=true",
        "prometheusRule.enabled=true",
        "networkPolicy.enabled=true",
        "nonRoot=true,pin=true",
        "port=9100",
    ];
    let mut arguments: Vec<_> = all.iter().flat_map(|value| ["--set", value]).collect();
    let release =
        |release: &str, arguments: &[&str]| Objects::parse(&renders.helm(release, "monitoring", arguments).unwrap());
    check("shop", &release("shop", &arguments), "shop-oom-watcher", "monitoring");
    check("my-oom-watcher-2", &release("my-oom-watcher-2", &arguments), "my-oom-watcher-2", "monitoring");
    check("a.b", &release("a.b", &arguments), "a-b-oom-watcher", "monitoring");
    arguments.extend(["--set", "fullnameOverride=kills"]);
    check("kills", &release("shop", &arguments), "kills", "monitoring");
    arguments.extend(["--set", "serviceMonitor.enabled=false,podMonitor.enabled=true"]);
    check("pods", &release("shop", &arguments), "kills", "monitoring");
}
