//! What holds for every pod of ours, in every render.

use serde_json::{Value, json};

use crate::OVERLAYS;
use crate::renders::{Renders, id, items, text};
use oom_watcher_testkit::needs::needs;

/// The containers, those that run before others included.
pub(crate) fn containers(workload: &Value) -> impl Iterator<Item = &Value> {
    let pod = &workload["spec"]["template"]["spec"];
    items(&pod["initContainers"]).iter().chain(items(&pod["containers"]))
}

/// The names of a list.
pub(crate) fn names(list: &Value) -> Vec<&str> {
    items(list).iter().map(|item| text(&item["name"])).collect()
}

/// What nobody of ours may lack, in whatever variant.
fn check(place: &str, workload: &Value) {
    let pod = &workload["spec"]["template"]["spec"];
    assert_eq!(pod["securityContext"]["seccompProfile"], json!({"type": "RuntimeDefault"}), "{place}");
    let mut unused: Vec<_> = names(&pod["volumes"]);
    for container in containers(workload) {
        let place = format!("{place} {}", text(&container["name"]));
        let context = &container["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], json!(true), "{place}");
        if context["privileged"] != json!(true) {
            assert_eq!(context["allowPrivilegeEscalation"], json!(false), "{place}");
            assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "{place}");
        }
        assert_eq!(container["imagePullPolicy"], json!("IfNotPresent"), "{place}: an image of the node's own must do");
        assert!(
            container["resources"]["limits"]["memory"].is_string()
                && container["resources"]["requests"]["cpu"].is_string(),
            "{place}"
        );
        for mount in items(&container["volumeMounts"]) {
            assert!(names(&pod["volumes"]).contains(&text(&mount["name"])), "{place}: no volume {mount}");
            unused.retain(|volume| *volume != text(&mount["name"]));
        }
        for probe in ["livenessProbe", "readinessProbe"] {
            let port = &container[probe]["httpGet"]["port"];
            assert!(
                port.is_null() || names(&container["ports"]).contains(&text(port)),
                "{place}: {probe} asks an unknown port {port}"
            );
        }
        // `$(NAME)` is what a variable before it has; one that comes later stays as it is written.
        let mut known: Vec<&str> = Vec::new();
        for variable in items(&container["env"]) {
            for used in variable["value"].as_str().unwrap_or_default().split("$(").skip(1) {
                let used = used.split(')').next().unwrap();
                assert!(known.contains(&used), "{place}: {variable} uses {used}, which is not before it");
            }
            known.push(text(&variable["name"]));
        }
    }
    assert!(unused.is_empty(), "{place}: {unused:?} is mounted nowhere");
    assert!(
        items(&pod["containers"])
            .iter()
            .all(|container| container["livenessProbe"].is_object() && container["readinessProbe"].is_object())
    );
}

#[test]
fn every_pod_is_confined_and_complete_in_every_render() {
    let renders = needs!(Renders::find());
    let mut pods = 0;
    for (render, objects) in renders.all() {
        for workload in objects.workloads() {
            check(&format!("{render}: {}", id(workload)), workload);
            pods += 1;
        }
    }
    assert!(pods > OVERLAYS.len());
}

#[test]
fn the_collectors_have_no_rights_at_all() {
    let renders = needs!(Renders::find());
    let objects = renders.kustomize("otel-collector");
    for workload in objects.workloads() {
        let (place, pod) = (id(workload), &workload["spec"]["template"]["spec"]);
        assert_eq!(pod["automountServiceAccountToken"], json!(false), "{place}");
        assert_eq!(
            (&pod["securityContext"]["runAsNonRoot"], &pod["securityContext"]["runAsUser"]),
            (&json!(true), &json!(10001)),
            "{place}"
        );
        assert!(["hostPID", "hostNetwork", "hostIPC"].iter().all(|key| pod[key].is_null()), "{place}");
        assert!(items(&pod["volumes"]).iter().all(|volume| volume["hostPath"].is_null()), "{place}");
        for container in containers(workload) {
            assert_eq!(container["securityContext"]["capabilities"], json!({"drop": ["ALL"]}), "{place}");
            assert!(container["securityContext"]["privileged"].is_null(), "{place}");
        }
    }
    assert_eq!(objects.workloads().count(), 2);
    assert!(
        objects.0.iter().all(|object| !text(&object["kind"]).contains("Role")),
        "no permission of the Kubernetes API"
    );
    assert!(objects.0.iter().all(|object| object["metadata"]["namespace"] == "kube-system"));
}
