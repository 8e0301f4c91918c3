//! What k8s/daemonset.yaml asks of a cluster, word for word: its rights, and what it needs to run everywhere.

use serde_json::{Value, json};

use crate::renders::{Objects, Renders, items, text};
use oom_watcher_testkit::needs::needs;

const NAME: &str = "oom-watcher";

fn daemon_set(objects: &Objects) -> &Value {
    objects.get("DaemonSet", NAME)
}

#[test]
fn kubectl_applies_the_same_from_the_file_and_from_the_folders() {
    let renders = needs!(Renders::find());
    let mut file = Objects::of_file("daemonset").0;
    let sorted = |mut objects: Vec<Value>| {
        objects.sort_by_key(Value::to_string);
        objects
    };
    file = sorted(file);
    assert_eq!(file, sorted(renders.base().0));
    assert_eq!(file, sorted(renders.kustomize("k8s").0));
    let kinds: Vec<_> = Objects::of_file("daemonset").0.iter().map(|object| text(&object["kind"]).to_owned()).collect();
    // In the order in which they are needed.
    assert_eq!(
        kinds,
        ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Service", "DaemonSet"]
    );
}

#[test]
fn the_agent_has_two_capabilities_and_no_other_right_over_the_node() {
    let objects = Objects::of_file("daemonset");
    let pod = &daemon_set(&objects)["spec"]["template"]["spec"];
    assert_eq!(items(&pod["containers"]).len(), 1);
    assert!(pod["initContainers"].is_null());
    assert_eq!(pod["securityContext"], json!({"seccompProfile": {"type": "RuntimeDefault"}}));
    assert_eq!(
        pod["containers"][0]["securityContext"],
        json!({
            "privileged": false,
            "runAsUser": 0,
            "runAsGroup": 0,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["BPF", "PERFMON"]},
        })
    );
    for shared in ["hostPID", "hostNetwork", "hostIPC", "hostUsers", "shareProcessNamespace"] {
        assert!(pod[shared].is_null(), "{shared}");
    }
}

#[test]
fn of_the_node_it_sees_the_cgroups_and_the_tracepoints_and_writes_to_a_directory_of_its_own() {
    let objects = Objects::of_file("daemonset");
    let pod = &daemon_set(&objects)["spec"]["template"]["spec"];
    let mounts = |volume: &Value| {
        let mounts =
            items(&pod["containers"][0]["volumeMounts"]).iter().filter(|mount| mount["name"] == volume["name"]);
        mounts.map(|mount| json!([mount["mountPath"], mount["readOnly"]])).collect::<Vec<_>>()
    };
    let found: Vec<_> =
        items(&pod["volumes"]).iter().map(|volume| json!([volume["hostPath"], mounts(volume)])).collect();
    assert_eq!(
        found,
        [
            json!([{"path": "/sys/fs/cgroup", "type": "Directory"}, [["/sys/fs/cgroup", true]]]),
            json!([{"path": "/sys/kernel/tracing"}, [["/sys/kernel/tracing", true]]]),
            json!([{"path": "/run/oom-watcher", "type": "DirectoryOrCreate"}, [["/run/oom-watcher", null]]]),
        ]
    );
}

#[test]
fn of_the_cluster_it_may_read_pods_and_its_own_daemon_set() {
    let objects = Objects::of_file("daemonset");
    assert_eq!(
        objects.get("ClusterRole", NAME)["rules"],
        json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}])
    );
    assert_eq!(
        objects.get("Role", NAME)["rules"],
        json!([{"apiGroups": ["apps"], "resources": ["daemonsets"], "resourceNames": [NAME], "verbs": ["get"]}])
    );
    // The token is in the agent's pods alone.
    assert_eq!(objects.get("ServiceAccount", NAME)["automountServiceAccountToken"], json!(false));
    assert_eq!(daemon_set(&objects)["spec"]["template"]["spec"]["automountServiceAccountToken"], json!(true));
}

#[test]
fn it_runs_on_every_node_also_when_memory_is_tight() {
    let objects = Objects::of_file("daemonset");
    let daemon_set = daemon_set(&objects);
    let pod = &daemon_set["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    assert_eq!(
        daemon_set["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}})
    );
    assert_eq!(
        (&pod["priorityClassName"], &pod["tolerations"]),
        (&json!("system-node-critical"), &json!([{"operator": "Exists"}]))
    );
    assert_eq!(pod["nodeSelector"], json!({"kubernetes.io/os": "linux"}));
    assert_eq!(
        container["resources"],
        json!({"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}})
    );
    assert_eq!(
        (&container["image"], &container["imagePullPolicy"]),
        (&json!("oom-watcher:latest"), &json!("IfNotPresent"))
    );
    let probe = |path: &str, seconds: u8| {
        let get = json!({"path": path, "port": "metrics"});
        json!({"httpGet": get, "periodSeconds": seconds, "timeoutSeconds": 5})
    };
    assert_eq!(
        (&container["livenessProbe"], &container["readinessProbe"]),
        (&probe("/healthz", 20), &probe("/readyz", 10))
    );
    // The agent delivers for 10 s before it ends.
    assert!(pod["terminationGracePeriodSeconds"].as_u64() > Some(10));
    let environment: Vec<_> = items(&container["env"]).iter().map(|variable| text(&variable["name"])).collect();
    assert_eq!(environment, ["NODE_NAME", "POD_NAMESPACE", "OOM_WATCHER_DAEMONSET", "OOM_WATCHER_PIN_DIR", "HOST_IP"]);
}
