//! That the configurations of the Collectors fit each other, their manifests, and what oom-watcher is told. That the
//! Collector takes them is tested by the ring "collector".

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::renders::{Renders, items, root, text};
use oom_watcher_testkit::needs::needs;

const COLLECTORS: [&str; 2] = ["agent", "gateway"];

fn config(name: &str) -> Value {
    serde_yaml::from_str(&fs::read_to_string(root().join(format!("otel-collector/{name}.yaml"))).unwrap()).unwrap()
}

/// The text with each variable as it is if nobody sets it: `${env:NAME:-default}`.
fn with_defaults(text: &str) -> String {
    match text.split_once("${env:").and_then(|(before, rest)| Some((before, rest.split_once('}')?))) {
        Some((before, (variable, after))) => {
            let (_, default) =
                variable.split_once(":-").unwrap_or_else(|| panic!("{text}: a variable without a default"));
            format!("{before}{default}{}", with_defaults(after))
        }
        None => text.to_owned(),
    }
}

/// What all that may be set is if it is not.
fn unset(value: &Value) -> Value {
    match value {
        // A list in a variable is YAML too.
        Value::String(text) if text.contains("${env:") => serde_yaml::from_str(&with_defaults(text)).unwrap(),
        Value::Array(values) => values.iter().map(unset).collect(),
        Value::Object(values) => values.iter().map(|(key, value)| (key.clone(), unset(value))).collect(),
        other => other.clone(),
    }
}

#[test]
fn every_part_of_a_pipeline_is_configured_and_every_part_that_is_configured_can_be_used() {
    for name in COLLECTORS {
        let config = config(name);
        for part in ["receivers", "processors", "exporters"] {
            let configured: BTreeSet<_> = config[part].as_object().unwrap().keys().map(String::as_str).collect();
            let pipelines = config["service"]["pipelines"].as_object().unwrap();
            assert_eq!(pipelines.keys().collect::<Vec<_>>(), ["logs", "metrics", "traces"], "{name}");
            let mut used: BTreeSet<String> = BTreeSet::new();
            for (signal, pipeline) in pipelines {
                used.extend(items(&unset(&pipeline[part])).iter().map(|id| text(id).to_owned()));
                // What a signal can be sent to instead is called after it.
                used.extend(
                    configured
                        .iter()
                        .filter(|id| id.ends_with(&format!("/{signal}")) && pipeline[part].is_string())
                        .map(|id| (*id).to_owned()),
                );
                assert_eq!(
                    pipeline["processors"][0], "memory_limiter",
                    "{name}: it refuses before anything is done with what comes"
                );
            }
            assert_eq!(used, configured.iter().map(|id| (*id).to_owned()).collect(), "{name}: {part}");
        }
        assert_eq!(
            config["service"]["extensions"],
            json!(["health_check", "file_storage"]),
            "{name}: what the probes ask, and where queues are"
        );
        for (exporter, settings) in
            config["exporters"].as_object().unwrap().iter().filter(|(exporter, _)| *exporter != "debug")
        {
            assert_eq!(
                settings["sending_queue"]["storage"], "file_storage",
                "{name}: what waits in {exporter} outlives the Collector"
            );
            assert_eq!(settings["retry_on_failure"]["max_elapsed_time"], "0s", "{name}: {exporter} goes on trying");
        }
    }
}

#[test]
fn a_kill_can_be_read_in_the_log_of_a_gateway_that_knows_no_back_end() {
    let config = config("gateway");
    assert_eq!(unset(&config["service"]["pipelines"]["logs"]["exporters"]), json!(["debug"]));
    assert_eq!(
        config["exporters"]["debug"],
        json!({"verbosity": "detailed"}),
        "less tells how many records came, and no more"
    );
}

#[test]
fn a_gateway_with_the_component_reads_its_second_configuration_and_has_the_rights_for_it() {
    let renders = needs!(Renders::find());
    // Kustomize reads nothing by an absolute path.
    let folder = tempfile::tempdir_in(root().join("target")).unwrap();
    let collectors = "../../otel-collector";
    fs::write(
        folder.path().join("kustomization.yaml"),
        format!("resources: [{collectors}]\ncomponents: [{collectors}/kubernetes]\n"),
    )
    .unwrap();
    let objects = renders.kustomize(&format!("target/{}", folder.path().file_name().unwrap().display()));
    let pod = &objects.get("Deployment", "otel-gateway")["spec"]["template"]["spec"];
    assert_eq!(pod["containers"][0]["args"], json!(["--config=/conf/gateway.yaml", "--config=/conf/kubernetes.yaml"]));
    assert_eq!(pod["automountServiceAccountToken"], true);
    let mounted = text(&pod["volumes"][0]["configMap"]["name"]);
    assert!(objects.get("ConfigMap", mounted)["data"]["kubernetes.yaml"].is_string());
    let rules = &objects.get("ClusterRole", "otel-gateway")["rules"];
    assert!(items(rules).iter().all(|rule| rule["verbs"] == json!(["get", "list", "watch"])), "{rules}");
    let subject = &objects.get("ClusterRoleBinding", "otel-gateway")["subjects"][0];
    assert_eq!(
        (&subject["name"], &subject["namespace"]),
        (&pod["serviceAccountName"], &objects.get("Deployment", "otel-gateway")["metadata"]["namespace"])
    );
}

#[test]
fn what_is_sent_arrives() {
    let renders = needs!(Renders::find());
    let objects = renders.overlay("collector");
    for (name, kind) in COLLECTORS.into_iter().zip(["DaemonSet", "Deployment"]) {
        let (config, own) = (config(name), format!("otel-{name}"));
        let pod = &objects.get(kind, &own)["spec"]["template"]["spec"];
        let ports = items(&pod["containers"][0]["ports"])
            .iter()
            .map(|port| (text(&port["name"]), port["containerPort"].clone()));
        let listens =
            |endpoint: &Value| json!(text(&unset(endpoint)).strip_prefix("0.0.0.0:").unwrap().parse::<u16>().unwrap());
        let protocols = &config["receivers"]["otlp"]["protocols"];
        let expected = [
            ("otlp-grpc", &protocols["grpc"]),
            ("otlp-http", &protocols["http"]),
            ("health", &config["extensions"]["health_check"]),
        ];
        assert_eq!(ports.collect::<Vec<_>>(), expected.map(|(port, of)| (port, listens(&of["endpoint"]))), "{name}");
        // The file that it is told to read is in the directory that is mounted, by the name that it has there.
        assert_eq!(pod["containers"][0]["args"], json!([format!("--config=/conf/{name}.yaml")]));
        let mounted = text(&pod["volumes"][0]["configMap"]["name"]);
        let data = &objects.get("ConfigMap", mounted)["data"];
        assert_eq!(serde_yaml::from_str::<Value>(text(&data[format!("{name}.yaml")])).unwrap(), config);
        assert!(mounted.starts_with(&format!("{own}-")), "a change of it makes the pods anew");
        let queue = unset(&config["extensions"]["file_storage"]["directory"]);
        let mount =
            items(&pod["containers"][0]["volumeMounts"]).iter().find(|mount| mount["mountPath"] == queue).unwrap();
        assert!(
            items(&pod["volumes"])
                .iter()
                .any(|volume| volume["name"] == mount["name"] && volume["emptyDir"].is_object()),
            "{name}"
        );
    }
    // From oom-watcher to the node's Collector, from that to the gateway's Service.
    let agent = &objects.get("DaemonSet", "otel-agent")["spec"]["template"]["spec"]["containers"][0]["ports"];
    assert!(items(agent).iter().any(|port| port["hostPort"] == 4317 && port["containerPort"] == 4317), "{agent}");
    let endpoint = unset(&config("agent")["exporters"]["otlp_grpc/gateway"]["endpoint"]);
    let (service, port) = text(&endpoint).split_once(':').unwrap();
    let ports = &objects.get("Service", service)["spec"]["ports"];
    assert!(items(ports).iter().any(|of| of["port"] == json!(port.parse::<u16>().unwrap())), "{ports}");
}
