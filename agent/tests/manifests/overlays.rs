//! In what each overlay differs from the base: exactly this, and nothing else. And the chart's values for the same.

use std::collections::BTreeSet;
use std::fs;

use crate::OVERLAYS;
use crate::differences::{differences, differences_from_chart};
use crate::renders::{OPENSHIFT, Objects, Renders, id, root};
use oom_watcher_testkit::needs::needs;

/// Where most differences are.
const POD: &str = "DaemonSet oom-watcher spec template spec";
const AGENT: &str = "DaemonSet oom-watcher spec template spec containers [oom-watcher]";

/// A volume of the node that an overlay adds.
fn volume(name: &str, path: &str, kind: &str) -> String {
    format!(r#"volumes [{name}]: none -> {{"hostPath":{{"path":"{path}","type":"{kind}"}},"name":"{name}"}}"#)
}

/// `of POD`, `of AGENT`: the rest of a line.
fn check(overlay: &Objects, base: &Objects, expected: &[(&str, &str)]) {
    let mut expected: Vec<_> = expected.iter().map(|(place, rest)| format!("{place} {rest}")).collect();
    expected.sort();
    let mut found = differences(base, overlay);
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn every_overlay_says_when_to_use_it_and_what_it_costs() {
    let folders: BTreeSet<_> = fs::read_dir(root().join("k8s/overlays"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(folders, OVERLAYS.map(str::to_owned).into());
    for overlay in OVERLAYS {
        let text = fs::read_to_string(root().join(format!("k8s/overlays/{overlay}/kustomization.yaml"))).unwrap();
        let comment: Vec<_> = text.lines().take_while(|line| line.starts_with('#')).collect();
        assert!(comment.len() > 3 && comment.iter().any(|line| line.starts_with("# What it costs: ")), "{overlay}");
    }
}

#[test]
fn privileged_is_the_whole_node_and_reads_it_alone() {
    let renders = needs!(Renders::find());
    check(
        &renders.overlay("privileged"),
        &renders.base(),
        &[
            (POD, "dnsPolicy: none -> \"ClusterFirstWithHostNet\""),
            (POD, "hostNetwork: none -> true"),
            (POD, "hostPID: none -> true"),
            (AGENT, "securityContext allowPrivilegeEscalation: false -> none"),
            (AGENT, r#"securityContext capabilities: {"add":["BPF","PERFMON"],"drop":["ALL"]} -> none"#),
            (AGENT, "securityContext privileged: false -> true"),
            (
                AGENT,
                r#"volumeMounts [debug]: none -> {"mountPath":"/sys/kernel/debug","name":"debug","readOnly":true}"#,
            ),
            (AGENT, r#"volumeMounts [proc]: none -> {"mountPath":"/host/proc","name":"proc","readOnly":true}"#),
            (AGENT, r#"volumeMounts [sys]: none -> {"mountPath":"/sys","name":"sys","readOnly":true}"#),
            (POD, &volume("debug", "/sys/kernel/debug", "Directory")),
            (POD, &volume("proc", "/proc", "Directory")),
            (POD, &volume("sys", "/sys", "Directory")),
        ],
    );
}

#[test]
fn non_root_is_another_user_and_what_hands_the_directory_over() {
    let renders = needs!(Renders::find());
    let overlay = renders.overlay("non-root");
    // Word for word, as it is root.
    let hand_over = &overlay.get("DaemonSet", "oom-watcher")["spec"]["template"]["spec"]["initContainers"];
    let expected = concat!(
        r#"[{"command":["find","/run/oom-watcher","-user","0","-exec","chgrp","65532","{}","+","#,
        r#""-exec","chmod","g=u,o=","{}","+"],"#,
        r#""image":"oom-watcher:latest","imagePullPolicy":"IfNotPresent","name":"hand-over","#,
        r#""resources":{"limits":{"memory":"32Mi"},"requests":{"cpu":"10m","memory":"16Mi"}},"#,
        r#""securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]},"privileged":false,"#,
        r#""readOnlyRootFilesystem":true,"runAsGroup":65532,"runAsUser":0},"#,
        r#""terminationMessagePolicy":"FallbackToLogsOnError","#,
        r#""volumeMounts":[{"mountPath":"/run/oom-watcher","name":"state"}]}]"#,
    );
    assert_eq!(hand_over.to_string(), expected);
    check(
        &overlay,
        &renders.base(),
        &[
            (POD, &format!("initContainers: none -> {hand_over}")),
            (AGENT, "securityContext runAsGroup: 0 -> 65532"),
            (AGENT, "securityContext runAsNonRoot: none -> true"),
            (AGENT, "securityContext runAsUser: 0 -> 65532"),
        ],
    );
}

#[test]
fn pinned_has_its_own_directory_of_the_bpf_file_system() {
    let renders = needs!(Renders::find());
    check(
        &renders.overlay("pinned"),
        &renders.base(),
        &[
            (AGENT, r#"env [OOM_WATCHER_PIN_DIR] value: "none" -> "/pins""#),
            (AGENT, r#"volumeMounts [pins]: none -> {"mountPath":"/pins","name":"pins"}"#),
            (POD, &volume("pins", "/sys/fs/bpf/oom-watcher", "DirectoryOrCreate")),
        ],
    );
}

#[test]
fn spool_has_a_directory_of_the_node() {
    let renders = needs!(Renders::find());
    let spool = r#"{"name":"OOM_WATCHER_SPOOL_DIR","value":"/var/lib/oom-watcher"}"#;
    check(
        &renders.overlay("spool"),
        &renders.base(),
        &[
            (AGENT, &format!("env [OOM_WATCHER_SPOOL_DIR]: none -> {spool}")),
            (AGENT, r#"volumeMounts [spool]: none -> {"mountPath":"/var/lib/oom-watcher","name":"spool"}"#),
            (POD, &volume("spool", "/var/lib/oom-watcher", "DirectoryOrCreate")),
        ],
    );
}

#[test]
fn old_kernel_is_one_more_capability() {
    let renders = needs!(Renders::find());
    let added = r#"securityContext capabilities add: ["BPF","PERFMON"] -> ["BPF","PERFMON","SYS_RESOURCE"]"#;
    check(&renders.overlay("old-kernel"), &renders.base(), &[(AGENT, added)]);
}

#[test]
fn openshift_is_a_type_and_who_may_use_the_constraints() {
    let renders = needs!(Renders::find());
    let (overlay, base) = (renders.overlay("openshift"), renders.base());
    let own = Objects(
        overlay
            .0
            .iter()
            .filter(|object| {
                base.find(object["kind"].as_str().unwrap(), object["metadata"]["name"].as_str().unwrap()).is_none()
            })
            .cloned()
            .collect(),
    );
    let mut ids: Vec<_> = own.0.iter().map(id).collect();
    ids.sort();
    assert_eq!(ids, ["Role oom-watcher-scc", "RoleBinding oom-watcher-scc", "SecurityContextConstraints oom-watcher"]);
    let constraints = own.get("SecurityContextConstraints", "oom-watcher");
    let allowed: Vec<_> = constraints
        .as_object()
        .unwrap()
        .iter()
        .filter(|(key, value)| key.starts_with("allow") && **value != false)
        .collect();
    let allowed: Vec<_> = allowed.iter().map(|(key, value)| format!("{key}: {value}")).collect();
    assert_eq!(allowed, ["allowHostDirVolumePlugin: true", r#"allowedCapabilities: ["BPF","PERFMON"]"#]);
    let rules = &own.get("Role", "oom-watcher-scc")["rules"];
    let expected = serde_json::json!([{
        "apiGroups": ["security.openshift.io"],
        "resources": ["securitycontextconstraints"],
        "resourceNames": ["oom-watcher"],
        "verbs": ["use"],
    }]);
    assert_eq!(rules, &expected);
    let rest = Objects(overlay.0.into_iter().filter(|object| !own.0.contains(object)).collect());
    check(&rest, &base, &[(POD, r#"securityContext seLinuxOptions: none -> {"type":"spc_t"}"#)]);
}

#[test]
fn collector_is_the_collectors_and_where_they_are() {
    let renders = needs!(Renders::find());
    let (overlay, collectors) = (renders.overlay("collector"), renders.kustomize("otel-collector"));
    let rest = Objects(overlay.0.iter().filter(|object| !collectors.0.contains(object)).cloned().collect());
    assert_eq!(overlay.0.len(), rest.0.len() + collectors.0.len());
    let endpoint = r#"{"name":"OTEL_EXPORTER_OTLP_ENDPOINT","value":"http://$(HOST_IP):4317"}"#;
    check(&rest, &renders.base(), &[(AGENT, &format!("env [OTEL_EXPORTER_OTLP_ENDPOINT]: none -> {endpoint}"))]);
    let ports = &collectors.get("DaemonSet", "otel-agent")["spec"]["template"]["spec"]["containers"][0]["ports"];
    assert!(ports.as_array().unwrap().iter().any(|port| port["hostPort"] == 4317), "{ports}");
}

#[test]
fn the_values_of_the_chart_are_the_overlays() {
    let renders = needs!(Renders::find());
    let set = |value: &'static str| ["--set", value];
    let base = (renders.base(), renders.release(&[]));
    let overlays = [
        ("non-root", set("nonRoot=true")),
        ("old-kernel", set("oldKernel=true")),
        ("openshift", OPENSHIFT),
        ("pinned", set("pin=true")),
        ("privileged", set("privileged=true")),
        ("spool", set("spool=true")),
    ];
    let overlays = overlays.map(|(name, arguments)| (renders.overlay(name), renders.release(&arguments)));
    for (kustomize, helm) in [base].into_iter().chain(overlays) {
        assert_eq!(differences_from_chart(&kustomize, &helm), [""; 0]);
    }
}
