//! The Helm chart by itself: what it refuses, and that Helm finds nothing wrong with it. What it gives is in copies.rs
//! and overlays.rs.

use std::fs;
use std::process::Command;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::renders::{OPENSHIFT, Objects, Renders, chart, examples, items, root, run, text};
use oom_watcher_testkit::needs::needs;

#[test]
fn a_mistake_in_the_values_is_refused_with_its_place() {
    let renders = needs!(Renders::find());
    let check = |values: &str, expected: &[&str]| {
        let error = renders
            .helm("oom-watcher", "kube-system", &["--set-json", values])
            .err()
            .unwrap_or_else(|| panic!("{values} was taken"));
        assert!(expected.iter().all(|part| error.contains(part)), "{values}: {error}");
    };
    check(r#"image={"tagg": "1"}"#, &["'/image'", "'tagg' not allowed"]);
    check(r#"pinned=true"#, &["'pinned' not allowed"]);
    check(r#"pin="yes""#, &["'/pin'", "got string, want boolean"]);
    check(r#"port=80"#, &["'/port'", "minimum"]);
    check(r#"config={"seris": {"expiry": "2h"}}"#, &["'/config'", "'seris' not allowed"]);
    check(r#"config={"series": {"expiri": "2h"}}"#, &["'/config/series'", "'expiri' not allowed"]);
    check(r#"config={"series": {"expiry": "1y"}}"#, &["'/config/series/expiry'", "does not match pattern"]);
    check(r#"config={"series": {"max_owners": "7"}}"#, &["'/config/series/max_owners'", "want integer"]);
    check(r#"config={"log": {"format": "xml"}}"#, &["'/config/log/format'", "'human', 'json'"]);
    check(r#"config={"state": 5}"#, &["'/config/state'", "got number"]);
    check(r#"image.digest="sha256:12""#, &["'/image/digest'", "does not match pattern"]);
    check(r#"image.pullPolicy="Sometimes""#, &["'/image/pullPolicy'", "'Always', 'IfNotPresent', 'Never'"]);
    check(r#"otlp.endpoint="collector:4317""#, &["'/otlp/endpoint'", "does not match pattern"]);
    check(r#"env=[{"name": "A", "value": 1}]"#, &["'/env/0/value'", "got number, want string"]);
    check(r#"env=[{"name": "A", "from": 1}]"#, &["'/env/0'", "'from' not allowed"]);
    check(r#"resources.limit={}"#, &["'/resources'", "'limit' not allowed"]);
    check(r#"tolerations=[{"operator": "exists"}]"#, &["'/tolerations/0/operator'"]);
    check(r#"podLabels={"tier": 1}"#, &["'/podLabels/tier'", "got number, want string"]);
    check(r#"serviceMonitor.interval="soon""#, &["'/serviceMonitor/interval'"]);
    check(r#"extraManifests=[{"kind": "ConfigMap"}]"#, &["'/extraManifests/0'", "apiVersion"]);
    check(r#"fullnameOverride="Kills""#, &["'/fullnameOverride'"]);
    check(r#"privileged=true,nonRoot=true"#, &["privileged and nonRoot are both true"]);
    check(r#"nonRoot=true,oldKernel=true"#, &["nonRoot and oldKernel are both true"]);
    check(r#"privileged=true,oldKernel=true"#, &["privileged and oldKernel are both true"]);
    check(r#"serviceMonitor.enabled=true,podMonitor.enabled=true"#, &["each kill would be there twice"]);
    // What begins with a digit is no name of a Service.
    check(r#"fullnameOverride="123""#, &["'/fullnameOverride'", "does not match pattern"]);
    check(r#"image.repository="registry.example/oom-watcher:1""#, &["'/image/repository'", "does not match pattern"]);
    check(r#"image.repository="oom watcher""#, &["'/image/repository'", "does not match pattern"]);
    check(r#"extraManifests=[1]"#, &["'/extraManifests/0'", "want string or object"]);
    check(r#"extraVolumes=[{"name": "a"}]"#, &["'/extraVolumes/0'", "minProperties"]);
    check(r#"extraVolumes=[{"name": "state", "emptyDir": {}}]"#, &["extraVolumes[0] is called state", "another name"]);
    check(
        r#"extraVolumes=[{"name": "a", "emptyDir": {}}, {"name": "a", "emptyDir": {}}]"#,
        &["extraVolumes[1] is called a"],
    );
    check(r#"extraVolumeMounts=[{"name": "a", "mountPath": "etc"}]"#, &["'/extraVolumeMounts/0/mountPath'"]);
    check(r#"extraVolumeMounts=[{"name": "a", "path": "/etc"}]"#, &["'/extraVolumeMounts/0'", "'path' not allowed"]);
    check(r#"terminationGracePeriodSeconds="30s""#, &["'/terminationGracePeriodSeconds'", "got string, want integer"]);
    check(r#"podAnnotations={"checksum/config": "1"}"#, &["podAnnotations has checksum/config", "leave it out"]);
    for place in ["podLabels", "serviceMonitor.labels", "podMonitor.labels", "prometheusRule.labels"] {
        check(&format!(r#"{place}={{"app": "shop"}}"#), &[&format!("{place} has the label app: leave it out")]);
        check(
            &format!(r#"{place}={{"app.kubernetes.io/name": "shop"}}"#),
            &[&format!("{place} has the label app.kubernetes.io/name: leave it out")],
        );
    }
}

#[test]
fn a_setting_that_the_pod_has_otherwise_is_refused_with_what_to_use() {
    let renders = needs!(Renders::find());
    let check = |values: &str, place: &str, instead: &str| {
        let error = renders
            .helm("oom-watcher", "kube-system", &["--set-json", values])
            .err()
            .unwrap_or_else(|| panic!("{values} was taken"));
        assert!(error.contains(&format!("{place}: ")) && error.contains(instead), "{values}: {error}");
    };
    check(r#"config={"listen": "0.0.0.0:9100"}"#, "config.listen is set", "use port");
    check(r#"config={"node_name": "a"}"#, "config.node_name is set", "the name of its node");
    check(r#"config={"state": {"directory": "none"}}"#, "config.state.directory is set", "/run/oom-watcher");
    check(
        r#"config={"probe": {"arguments": true, "pin_directory": "none"}}"#,
        "config.probe.pin_directory is set",
        "use pin",
    );
    check(r#"config={"export": {"spool_directory": "/data"}}"#, "config.export.spool_directory is set", "use spool");
    check(r#"config={"kubernetes": {"daemonset": "a/b"}}"#, "config.kubernetes.daemonset is set", "its own DaemonSet");
    let instead = [
        ("NODE_NAME", "the name of its node"),
        ("METRICS_PORT", "use port"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "use port"),
        ("POD_NAMESPACE", "leave it out"),
        ("OOM_WATCHER_DAEMONSET", "its own DaemonSet"),
        ("OOM_WATCHER_PIN_DIR", "use pin"),
        ("OOM_WATCHER_SPOOL_DIR", "use spool"),
        ("OOM_WATCHER_STATE_DIR", "/run/oom-watcher"),
        ("HOST_IP", "the address of its node"),
    ];
    for (name, instead) in instead {
        check(
            &format!(r#"env=[{{"name": "RUST_LOG", "value": "info"}}, {{"name": "{name}", "value": "1"}}]"#),
            &format!("env[1] is {name}"),
            instead,
        );
    }
    let endpoint = r#"[{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://a:4317"}]"#;
    check(
        &format!(r#"otlp.endpoint="http://b:4317",env={endpoint}"#),
        "env[0] is OTEL_EXPORTER_OTLP_ENDPOINT",
        "use one of the two",
    );
    let file = r#"[{"name": "OOM_WATCHER_CONFIG", "value": "/etc/own/config.yaml"}]"#;
    check(
        &format!(r#"config={{"series": {{"expiry": "2h"}}}},env={file}"#),
        "env[0] is OOM_WATCHER_CONFIG",
        "use one of the two",
    );
    renders.release(&["--set-json", &format!("env={file}")]);
    let twice = r#"env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]"#;
    let error = renders.helm("oom-watcher", "kube-system", &["--set-json", twice]).unwrap_err();
    assert!(error.contains("env[1] is A, which is there before"), "{error}");
    // By itself it is no mistake, and neither is what is beside the settings that are refused.
    renders.release(&["--set-json", &format!("env={endpoint}")]);
    renders.release(&[
        "--set-json",
        r#"config={"state": {}, "probe": {"arguments": true}, "kubernetes": {"enabled": false}}"#,
    ]);
    // An empty section is none.
    renders.release(&["--set-json", r#"config={"state": null, "probe": null}"#]);
}

#[test]
fn null_is_refused_where_there_is_no_default_without_it() {
    let renders = needs!(Renders::find());
    let check = |value: &str, place: &str, missing: &str| {
        let error = renders
            .helm("oom-watcher", "kube-system", &["--set", &format!("{value}=null")])
            .err()
            .unwrap_or_else(|| panic!("{value} was taken"));
        assert!(error.contains(&format!("at '{place}': missing property '{missing}'")), "{value}: {error}");
    };
    let needed = [
        "image",
        "otlp",
        "port",
        "pin",
        "spool",
        "nonRoot",
        "oldKernel",
        "privileged",
        "maxUnavailable",
        "terminationGracePeriodSeconds",
    ];
    let objects = ["podLabels", "podAnnotations", "serviceMonitor", "podMonitor", "prometheusRule", "networkPolicy"];
    needed.into_iter().chain(objects).for_each(|value| check(value, "", value));
    ["repository", "tag", "pullPolicy"].into_iter().for_each(|value| check(&format!("image.{value}"), "/image", value));
    ["serviceMonitor", "podMonitor"]
        .into_iter()
        .for_each(|of| check(&format!("{of}.interval"), &format!("/{of}"), "interval"));
    // For all others it is the same as nothing.
    let others = [
        "fullnameOverride",
        "image.digest",
        "imagePullSecrets",
        "otlp.endpoint",
        "env",
        "config",
        "seLinuxOptions",
        "extraVolumes",
    ];
    let of_pod = [
        "extraVolumeMounts",
        "resources",
        "priorityClassName",
        "tolerations",
        "nodeSelector",
        "affinity",
        "extraManifests",
    ];
    for value in others.into_iter().chain(of_pod) {
        renders.release(&["--set", &format!("{value}=null,serviceMonitor.labels=null")]);
    }
}

#[test]
fn a_name_is_a_text_whatever_it_looks_like() {
    let renders = needs!(Renders::find());
    let set = [
        "--set",
        "serviceMonitor.enabled=true,networkPolicy.enabled=true,nonRoot=true,pin=true",
        "--set-json",
        r#"config={"log": {"format": "json"}}"#,
    ];
    // As YAML 1.1 has it, which Kubernetes reads.
    for name in ["on", "null", "true", "yes"] {
        let own = format!("fullnameOverride={name},priorityClassName={name},image.repository=1,image.tag=30");
        let said = renders.helm(name, "123", &[&set[..], &OPENSHIFT, &["--set-string", &own]].concat()).unwrap();
        for line in said.lines().filter(|line| !line.trim_start().starts_with('#')) {
            let bare = line.split([' ', ',', '[', ']', '{', '}']).find(|word| [name, "123", "1:30"].contains(word));
            assert!(
                bare.is_none() || line.ends_with(": true") && bare == Some("true") || line.contains("Only: true"),
                "{name}: {line}"
            );
        }
        let (objects, name) = (Objects::parse(&said), Value::from(name));
        let labels = &objects.get("DaemonSet", text(&name))["spec"]["template"]["metadata"]["labels"];
        assert_eq!((&labels["app"], &labels["app.kubernetes.io/instance"]), (&name, &name));
    }
    for release in ["1", "0x1f", "1.2"] {
        let error = renders.helm(release, "kube-system", &[]).unwrap_err();
        assert!(error.contains("begins with a digit") && error.contains("set fullnameOverride"), "{error}");
        let objects =
            Objects::parse(&renders.helm(release, "kube-system", &["--set", "fullnameOverride=kills"]).unwrap());
        assert_eq!(objects.get("Service", "kills")["metadata"]["labels"]["app.kubernetes.io/instance"], release);
    }
}

#[test]
fn what_repeats_a_label_of_ours_is_there_once() {
    let renders = needs!(Renders::find());
    let labels = r#"{"app.kubernetes.io/instance": "own", "app": "oom-watcher", "release": "prometheus"}"#;
    let check = |values: &str, kind: &str, place: &str| {
        let said = renders.helm("oom-watcher", "kube-system", &["--set-json", values]).unwrap();
        for document in serde_yaml::Deserializer::from_str(&said) {
            // It refuses what is there twice; a `Value` of JSON would take the last one.
            serde_yaml::Value::deserialize(document).unwrap_or_else(|error| panic!("{values}: {error}"));
        }
        let objects = Objects::parse(&said);
        let found = objects.get(kind, "oom-watcher").pointer(place).unwrap();
        assert_eq!(
            (&found["app.kubernetes.io/instance"], &found["app"], &found["release"]),
            (&"own".into(), &"oom-watcher".into(), &"prometheus".into())
        );
    };
    check(&format!("serviceMonitor.enabled=true,serviceMonitor.labels={labels}"), "ServiceMonitor", "/metadata/labels");
    check(&format!("podMonitor.enabled=true,podMonitor.labels={labels}"), "PodMonitor", "/metadata/labels");
    check(&format!("prometheusRule.enabled=true,prometheusRule.labels={labels}"), "PrometheusRule", "/metadata/labels");
    check(&format!("podLabels={labels}"), "DaemonSet", "/spec/template/metadata/labels");
    let annotations = labels.replace("app.kubernetes.io/instance", "kubectl.kubernetes.io/default-container");
    let said =
        renders.helm("oom-watcher", "kube-system", &["--set-json", &format!("podAnnotations={annotations}")]).unwrap();
    assert_eq!(said.matches("kubectl.kubernetes.io/default-container").count(), 1, "{said}");
}

#[test]
fn what_is_set_for_the_pod_is_in_it() {
    let renders = needs!(Renders::find());
    let volumes = json!([
        {"name": "ca", "secret": {"secretName": "ca"}},
        {"name": "socket", "hostPath": {"path": "/run/otel", "type": "Directory"}}
    ]);
    let mounts = json!([
        {"name": "ca", "mountPath": "/etc/otlp", "readOnly": true},
        {"name": "socket", "mountPath": "/run/otel"}
    ]);
    let values = format!("extraVolumes={volumes},extraVolumeMounts={mounts},terminationGracePeriodSeconds=90");
    let objects = renders.release(&[&["--set-json", &values], &OPENSHIFT[..]].concat());
    let pod = &objects.get("DaemonSet", "oom-watcher")["spec"]["template"]["spec"];
    assert!(items(&pod["volumes"]).ends_with(items(&volumes)), "{}", pod["volumes"]);
    assert!(
        items(&pod["containers"][0]["volumeMounts"]).ends_with(items(&mounts)),
        "{}",
        pod["containers"][0]["volumeMounts"]
    );
    assert_eq!(pod["terminationGracePeriodSeconds"], 90);
    // OpenShift admits the types of volumes that are listed alone.
    assert_eq!(
        objects.get("SecurityContextConstraints", "oom-watcher")["volumes"],
        json!(["hostPath", "projected", "secret"])
    );
}

#[test]
fn more_objects_may_be_texts() {
    let renders = needs!(Renders::find());
    let long = "a".repeat(300);
    let manifest = format!(
        "kind: ConfigMap\nmetadata: {{name: more}}\ndata: {{a: {{{{ printf \"%s %s of {long}\" .Release.Name \"b c d\" \
         | quote }}}}}}\n"
    );
    let objects = renders.release(&[
        "--set-json",
        &format!(
            "extraManifests={}",
            json!([manifest, {"apiVersion": "v1", "kind": "A", "metadata": {"name": "{{ .Release.Name }}"}}])
        ),
    ]);
    assert_eq!(objects.get("ConfigMap", "more")["data"]["a"], format!("oom-watcher b c d of {long}"));
    objects.get("A", "oom-watcher");
}

#[test]
fn the_notes_say_what_has_no_effect() {
    let renders = needs!(Renders::find());
    // `helm template` leaves them out. In a file of another name they are a template like any other.
    let folder = tempfile::tempdir().unwrap();
    let copy = folder.path().join("oom-watcher");
    run(Command::new("cp").arg("-r").args([&chart(), &copy])).unwrap();
    let notes = fs::read_to_string(copy.join("templates/NOTES.txt")).unwrap();
    fs::write(
        copy.join("templates/notes.yaml"),
        format!(
            "notes: |\n  {{{{- define \"notes\" }}}}{notes}{{{{ end }}}}\n  {{{{- include \"notes\" . | nindent 2 \
            }}}}\n"
        ),
    )
    .unwrap();
    let notes = |values: &str| {
        let command = &mut renders.program("helm");
        command.args(["template", "oom-watcher"]).arg(&copy).args([
            "--namespace",
            "kube-system",
            "--kube-version",
            "1.35",
            "--set",
            values,
        ]);
        let objects = Objects::parse(&run(command.args(["--show-only", "templates/notes.yaml"])).unwrap());
        text(&objects.0[0]["notes"]).to_owned()
    };
    let said = "The NetworkPolicy has no effect";
    assert!(notes("privileged=true,networkPolicy.enabled=true").contains(said));
    assert!(!notes("networkPolicy.enabled=true").contains(said) && !notes("privileged=true").contains(said));
}

#[test]
fn every_value_is_explained_and_has_its_place_in_the_schema() {
    let schema: Value = serde_json::from_str(&fs::read_to_string(chart().join("values.schema.json")).unwrap()).unwrap();
    let text = fs::read_to_string(chart().join("values.yaml")).unwrap();
    let values: Value = serde_yaml::from_str(&text).unwrap();
    let mut expected: Vec<_> =
        schema["properties"].as_object().unwrap().keys().filter(|key| *key != "global").collect();
    let mut found: Vec<_> = values.as_object().unwrap().keys().collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    // Each key has a comment above it, above the one that it goes with, or in it.
    for section in text.split("\n\n").skip(1) {
        assert!(section.lines().any(|line| line.trim_start().starts_with('#')), "{section}");
    }
    // Whatever is an object has its keys listed, or says what its values are.
    let mut open = Vec::new();
    look_for_open("", &schema, &mut open);
    let of_others = [
        "global",
        "extraManifests",
        "from",
        "nodeAffinity",
        "podAffinity",
        "podAntiAffinity",
        "valueFrom",
        "extraVolumes",
    ];
    open.retain(|place| {
        !of_others.iter().any(|of| place.ends_with(&format!("/{of}")) || place.ends_with(&format!("/{of}/items")))
    });
    assert!(open.is_empty(), "what is written there is not checked: {open:?}");
}

/// Objects of a schema that take any key.
fn look_for_open(place: &str, schema: &Value, open: &mut Vec<String>) {
    let is_object =
        |kind: &Value| kind == "object" || kind.as_array().is_some_and(|kinds| kinds.contains(&"object".into()));
    if is_object(&schema["type"]) && schema["additionalProperties"].is_null() {
        open.push(place.to_owned());
    }
    match schema {
        Value::Object(keys) => {
            keys.iter().for_each(|(key, value)| look_for_open(&format!("{place}/{key}"), value, open))
        }
        Value::Array(values) => values.iter().for_each(|value| look_for_open(place, value, open)),
        _ => {}
    }
}

#[test]
fn helm_finds_nothing_wrong() {
    let renders = needs!(Renders::find());
    let said = run(renders.program("helm").args(["lint", "--strict"]).arg(chart())).unwrap();
    assert!(said.contains("0 chart(s) failed") && !said.contains("[WARNING]") && !said.contains("[ERROR]"), "{said}");
}

#[test]
fn the_chart_takes_every_key_of_the_agent_but_those_that_the_pod_sets() {
    let renders = needs!(Renders::find());
    let example = fs::read_to_string(root().join("docs/oom-watcher.example.yaml")).unwrap();
    let mut config: Value = serde_yaml::from_str(&example).unwrap();
    for of_the_pod in
        ["/listen", "/state/directory", "/probe/pin_directory", "/export/spool_directory", "/kubernetes/daemonset"]
    {
        let (section, key) = of_the_pod.rsplit_once('/').unwrap();
        config.pointer_mut(section).unwrap().as_object_mut().unwrap().remove(key).unwrap();
    }
    let objects = renders.release(&["--set-json", &format!("config={config}")]);
    let written = text(&objects.get("ConfigMap", "oom-watcher")["data"]["config.yaml"]);
    assert_eq!(serde_yaml::from_str::<Value>(written).unwrap(), config);
}

#[test]
fn the_agent_reads_what_the_examples_configure() {
    let schema: Value =
        serde_json::from_str(&fs::read_to_string(root().join("docs/oom-watcher.schema.json")).unwrap()).unwrap();
    let schema = jsonschema::validator_for(&schema).unwrap();
    let configured: Vec<_> = examples()
        .into_iter()
        .filter(|name| {
            let values: Value = serde_yaml::from_str(
                &fs::read_to_string(chart().join("examples").join(name).join("values.yaml")).unwrap(),
            )
            .unwrap();
            assert!(values["config"].is_null() || schema.is_valid(&values["config"]), "{name}: {}", values["config"]);
            !values["config"].is_null()
        })
        .collect();
    assert_eq!(configured, ["everything", "openshift"]);
}

#[test]
fn the_chart_is_of_the_version_of_the_agent() {
    let chart: Value = serde_yaml::from_str(&fs::read_to_string(chart().join("Chart.yaml")).unwrap()).unwrap();
    assert_eq!(
        (&chart["version"], &chart["appVersion"]),
        (&env!("CARGO_PKG_VERSION").into(), &env!("CARGO_PKG_VERSION").into())
    );
}
