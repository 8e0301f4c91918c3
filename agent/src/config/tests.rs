//! Flags, environment and file together: every bad input with what is said about it, and who wins over whom.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::*;
use crate::export::settings::Protocol;

pub(super) type Variables<'a> = &'a [(&'a str, &'a str)];

pub(super) fn load_with(flags: &Flags, variables: Variables<'_>) -> Result<Loaded, Problems> {
    let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
    load_on(&host(Some("host-a")), flags, &|name| variables.get(name).map(|value| (*value).to_owned()))
}

/// Without a file of its own.
fn host(name: Option<&str>) -> Host<'static> {
    Host { name: name.map(str::to_owned), default_file: Path::new("/no/such/file") }
}

/// With a node name, so that there is no warning about that.
pub(super) fn load_env(variables: Variables<'_>) -> Result<Loaded, Problems> {
    load_with(&Flags::from([("--node-name", "node-a")]), variables)
}

pub(super) fn load_file(path: &Path) -> Result<Loaded, Problems> {
    load_with(&file_flag(path), &[("NODE_NAME", "node-a")])
}

pub(super) fn file_flag(path: &Path) -> Flags {
    Flags::from([("--config", path.to_str().unwrap())])
}

fn refused(variables: Variables<'_>) -> String {
    load_env(variables).map(|loaded| loaded.config).unwrap_err().to_string()
}

fn warnings(loaded: &Loaded) -> Vec<String> {
    loaded.warnings.iter().map(ToString::to_string).collect()
}

#[test]
fn bad_variables_are_refused_with_name_value_and_what_was_expected() {
    let port = "a port from 1 to 65535";
    let of_a_service = format!(
        "{port}; Kubernetes sets this for a Service of that name unless the pod has `enableServiceLinks: false`"
    );
    let name = "a name of 1 to 253 bytes without control characters and without spaces around it";
    let timeout = "milliseconds, a whole number from 1 to 600000";
    for (variable, value, expected) in [
        ("METRICS_PORT", "0", port),
        ("METRICS_PORT", "70000", port),
        ("METRICS_PORT", "http", port),
        ("METRICS_PORT", " 80", port),
        ("METRICS_PORT", "+80", port),
        ("METRICS_PORT", "tcp://10.0.0.1:80", &of_a_service),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "x", port),
        ("OTEL_EXPORTER_PROMETHEUS_HOST", "example.org", "an IP address, such as 0.0.0.0 or ::, or localhost"),
        ("NODE_NAME", "a\nb", name),
        ("NODE_NAME", "a ", name),
        ("OOM_WATCHER_STATE_DIR", "state", "an absolute path, or none"),
        ("OOM_WATCHER_KUBERNETES", "yes", "auto, true or false"),
        ("OOM_WATCHER_DAEMONSET", "oom-watcher", "NAMESPACE/NAME of a DaemonSet, or none"),
        ("RUST_LOG", "info,a=loud", "a filter, such as info or info,oom_watcher=debug"),
        ("OTEL_LOGS_EXPORTER", "console", "otlp or none"),
        ("OTEL_TRACES_EXPORTER", "prometheus", "otlp or none"),
        ("OTEL_METRICS_EXPORTER", "otlp,console", "otlp, prometheus or none"),
        (
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "collector:4317",
            "a URL with its scheme: write http://collector:4317 or https://collector:4317",
        ),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "htp://collector", "the scheme http, https, or unix (gRPC only)"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "grpc or http/protobuf: JSON is not supported"),
        ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "udp", "grpc or http/protobuf"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "gzip or none"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", timeout),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0", timeout),
        ("OTEL_EXPORTER_OTLP_INSECURE", "1", "true or false"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "0", "milliseconds, a whole number from 100 to 3600000"),
        ("OTEL_BLRP_MAX_QUEUE_SIZE", "0", "a whole number from 1 to 65536"),
        ("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "2049", "a whole number from 1 to 2048"),
        (
            "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE",
            "delta",
            "cumulative: Prometheus drops deltas, and a delta that is lost is a kill that is never counted",
        ),
    ] {
        assert_eq!(refused(&[(variable, value)]), format!("{variable}: {value:?}, expected {expected}"));
    }
}

#[test]
fn what_may_be_a_secret_is_refused_without_repeating_it() {
    let pairs = "(not shown, it may be a secret), expected name=value,name=value, percent-encoded";
    for (variable, value, said) in [
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,token", format!("item 2 without `=` {pairs}")),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a b=1", format!("item 1 without a valid name {pairs}")),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=%zz", format!("item 1 with a bad percent-encoding {pairs}")),
        ("NODE_NAME", "a\u{fffd}", "bytes that are not UTF-8, expected UTF-8".to_owned()),
    ] {
        assert_eq!(refused(&[(variable, value)]), format!("{variable}: {said}"));
    }
}

#[test]
fn all_problems_are_told_at_once_and_each_once() {
    let file = write("probe:\n  ring_bytes: 1000000000\n");
    let flags = Flags::from([("--config", file.path().to_str().unwrap()), ("--node-name", " x")]);
    let problems = load_with(&flags, &[("METRICS_PORT", "0"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "udp")]).unwrap_err();
    let names: Vec<String> = problems.iter().map(|problem| problem.name.clone()).collect();
    let ring = format!("{}:2:3: probe.ring_bytes", file.path().display());
    assert_eq!(names, ["--node-name", "METRICS_PORT", &ring, "OTEL_EXPORTER_OTLP_PROTOCOL"]);
    assert_eq!(problems.to_string().lines().count(), 4);
}

#[test]
fn odd_variables_are_accepted_with_a_warning() {
    const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    const HTTP: (&str, &str) = ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let collector = (ENDPOINT, "http://collector:4317");
    let check = |variables: Variables<'_>, expected: &[&str]| {
        assert_eq!(warnings(&load_env(variables).unwrap()), expected, "{variables:?}");
    };
    check(&[collector], &[]);
    check(
        &[],
        &["OTEL_EXPORTER_OTLP_ENDPOINT: not set: no OTLP export of logs, traces, metrics. /metrics is served all the \
           same. If that is meant, set OTEL_LOGS_EXPORTER, OTEL_TRACES_EXPORTER, OTEL_METRICS_EXPORTER to none"],
    );
    check(
        &[("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://c"), ("OTEL_TRACES_EXPORTER", "none")],
        &["OTEL_EXPORTER_OTLP_ENDPOINT: not set: no OTLP export of metrics. /metrics is served all the same. If \
           that is meant, set OTEL_METRICS_EXPORTER to none"],
    );
    check(
        &[("OTEL_SDK_DISABLED", "TRUE")],
        &["OTEL_SDK_DISABLED: true: no OTLP export at all. /metrics is served all the same"],
    );
    check(&[collector, ("OTEL_SDK_DISABLED", "yes")], &["OTEL_SDK_DISABLED: neither true nor false: taken as false"]);
    check(
        &[collector, ("NODE_NAME", "")],
        &["NODE_NAME: empty, the same as not set: the node is called node-a from --node-name"],
    );
    check(
        &[collector, ("RUST_LOG", "inof")],
        &["RUST_LOG: \"inof\" names no level for oom_watcher: the agent's own messages are off, also its errors"],
    );
    check(
        &[collector, ("OTEL_LOG_LEVEL", "debug")],
        &["OTEL_LOG_LEVEL: not supported, it has no effect; RUST_LOG has one"],
    );
    check(
        &[collector, ("OTEL_TRACES_SAMPLER", "always_on")],
        &["OTEL_TRACES_SAMPLER: not supported, it has no effect"],
    );
    check(&[collector, ("OTEL_TRACES_SAMPLER", "")], &[]);
    check(
        &[(ENDPOINT, "http://collector:4318")],
        &["OTEL_EXPORTER_OTLP_ENDPOINT: port 4318 usually speaks HTTP, the protocol is grpc: set \
           OTEL_EXPORTER_OTLP_PROTOCOL to say which is meant"],
    );
    check(&[(ENDPOINT, "http://collector:4318"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")], &[]);
    check(
        &[(ENDPOINT, "http://c:80/v1/logs")],
        &["OTEL_EXPORTER_OTLP_ENDPOINT: the path /v1/logs is not used by the protocol grpc"],
    );
    check(
        &[(ENDPOINT, "http://c/v1/logs"), HTTP],
        &["OTEL_EXPORTER_OTLP_ENDPOINT: ends with the path of one signal, and each signal's path is put behind it: \
           leave it out here"],
    );
    check(
        &[(ENDPOINT, "https://c"), ("OTEL_EXPORTER_OTLP_INSECURE", "true")],
        &["OTEL_EXPORTER_OTLP_INSECURE: true has no effect: OTEL_EXPORTER_OTLP_ENDPOINT says https"],
    );
    check(
        &[collector, ("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=a")],
        &["OTEL_RESOURCE_ATTRIBUTES: k8s.pod.name names the agent's own pod, and back ends take it for the victim's: \
           leave it out"],
    );
}

#[test]
fn a_node_without_a_name_is_called_after_its_host() {
    for (value, text) in [(None, "not set"), (Some(""), "empty")] {
        let env = |name: &str| value.filter(|_| name == "NODE_NAME").map(str::to_owned);
        let loaded = load_on(&host(Some("host-a")), &Flags::default(), &env).unwrap();
        assert_eq!(loaded.config.node, "host-a");
        let expected = format!(
            "NODE_NAME: {text}: the node is called host-a after the host's name, which in a pod is the pod's. Set it \
             from spec.nodeName"
        );
        assert!(warnings(&loaded).contains(&expected), "{:?}", loaded.warnings);

        let problems = load_on(&host(None), &Flags::default(), &env).unwrap_err().to_string();
        assert!(problems.starts_with(&format!("NODE_NAME: {text}, expected the name of this node")), "{problems}");
    }
    assert!(host::name().is_some_and(|name| value::node_name(&name).is_ok()));
}

#[test]
fn a_flag_wins_over_a_variable_over_the_file_over_the_default() {
    let file = write(
        "node_name: from-file\nlisten: 127.0.0.2:2000\nlog: {filter: warn, format: json}\nseries:\n  expiry: 2h\n",
    );
    let path = file.path().to_str().unwrap();
    let all = Flags::from([
        ("--config", path),
        ("--node-name", "from-flag"),
        ("--listen", "127.0.0.9:0"),
        ("--pin-dir", "none"),
        ("--log-format", "human"),
        ("--log-filter", "debug"),
    ]);
    let port_flag = Flags::from([("--config", path), ("--metrics-port", "9000")]);
    let only_file = file_flag(file.path());
    let variables: Variables<'_> = &[("NODE_NAME", "from-env"), ("METRICS_PORT", "3000"), ("RUST_LOG", "error")];
    let prometheus: Variables<'_> =
        &[("OTEL_EXPORTER_PROMETHEUS_HOST", "localhost"), ("OTEL_EXPORTER_PROMETHEUS_PORT", "4000")];
    let both: Variables<'_> = &[
        ("METRICS_PORT", "3000"),
        ("OTEL_EXPORTER_PROMETHEUS_HOST", "::1"),
        ("OTEL_EXPORTER_PROMETHEUS_PORT", "4000"),
    ];

    let check = |flags: &Flags, variables, node: &str, listen: &str, filter: &str, format| {
        let config = load_with(flags, variables).unwrap().config;
        let found = (config.node.as_str(), config.listen.to_string(), config.log.filter.as_str(), config.log.format);
        assert_eq!(found, (node, listen.to_owned(), filter, format));
    };
    check(&all, variables, "from-flag", "127.0.0.9:0", "debug", Format::Human);
    check(&only_file, variables, "from-env", "127.0.0.2:3000", "error", Format::Json);
    check(&only_file, &[], "from-file", "127.0.0.2:2000", "warn", Format::Json);
    check(&port_flag, variables, "from-env", "127.0.0.2:9000", "error", Format::Json);
    check(&only_file, prometheus, "from-file", "127.0.0.1:4000", "warn", Format::Json);
    check(&only_file, both, "from-file", "[::1]:3000", "warn", Format::Json);
    check(&Flags::default(), &[], "host-a", "0.0.0.0:8080", "info", Format::Human);
    assert_eq!(load_with(&only_file, &[]).unwrap().config.series.expiry, Duration::from_secs(7200));
    let pins = |flags: &Flags, variables| load_with(flags, variables).unwrap().config.probe.pins;
    let variable: Variables<'_> = &[("OOM_WATCHER_PIN_DIR", "/sys/fs/bpf/a")];
    assert_eq!(pins(&all, variable), None);
    assert_eq!(pins(&only_file, variable), Some("/sys/fs/bpf/a".into()));
    assert_eq!(pins(&only_file, &[]), Some("/sys/fs/bpf/oom-watcher".into()));
}

#[test]
fn the_file_is_the_one_that_is_named_or_else_the_one_at_the_default_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    for name in ["flag", "variable", "default"] {
        std::fs::write(path(name), format!("node_name: from-{name}\n")).unwrap();
    }
    let load = |default: &str, flags: &Flags, variable: Option<&str>| {
        let host = Host { name: Some("host-a".to_owned()), default_file: &folder.path().join(default) };
        load_on(&host, flags, &|name| variable.filter(|_| name == "OOM_WATCHER_CONFIG").map(str::to_owned))
    };
    let node =
        |default: &str, flags: &Flags, variable: Option<&str>| load(default, flags, variable).unwrap().config.node;
    let (flag, none) = (Flags::from([("--config", path("flag").as_str())]), Flags::default());
    assert_eq!(node("default", &flag, Some(&path("variable"))), "from-flag");
    assert_eq!(node("default", &none, Some(&path("variable"))), "from-variable");
    assert_eq!(node("default", &none, Some("")), "from-default");
    assert_eq!(node("default", &none, None), "from-default");
    assert_eq!(node("missing", &none, None), "host-a");
    assert_eq!(node("default", &none, Some("none")), "host-a");
    assert_eq!(node("default", &Flags::from([("--config", "none")]), Some(&path("variable"))), "host-a");

    let refused =
        |default: &str, flags: &Flags, variable: Option<&str>| load(default, flags, variable).unwrap_err().to_string();
    let missing = path("missing");
    let says = format!("{missing:?}: No such file or directory (os error 2), expected a readable YAML file");
    let flag = Flags::from([("--config", missing.as_str())]);
    assert_eq!(refused("default", &flag, Some(&path("variable"))), format!("--config: {says}"));
    assert_eq!(refused("default", &none, Some(&missing)), format!("OOM_WATCHER_CONFIG: {says}"));
    // There, but not to be used: the agent must not start without the settings that it has.
    let says = format!("{:?}: Not a directory (os error 20), expected a readable YAML file", path("flag/below"));
    assert_eq!(refused("flag/below", &none, None), format!("the configuration file: {says}"));
    assert!(refused("", &none, None).contains("a directory, expected a readable YAML file"));
}

#[test]
fn the_table_names_the_default_path() {
    let row = KEYS.iter().find(|key| key.variable == Some("OOM_WATCHER_CONFIG")).unwrap();
    assert_eq!(row.default.to_string(), format!("{}, if it exists", keys::DEFAULT_FILE));
}

#[test]
fn the_state_is_kept_where_it_is_said_or_nowhere() {
    let file = write("state:\n  directory: /from/file\n");
    let path = file.path().to_str().unwrap();
    let with = |flag: Option<&str>| match flag {
        Some(flag) => Flags::from([("--config", path), ("--state-dir", flag)]),
        None => file_flag(file.path()),
    };
    let variable: Variables<'_> = &[("OOM_WATCHER_STATE_DIR", "/from/variable")];
    let check = |flags: &Flags, variables, expected: Option<&str>| {
        assert_eq!(load_with(flags, variables).unwrap().config.state_directory.as_deref(), expected.map(Path::new));
    };
    check(&with(Some("/from/flag")), variable, Some("/from/flag"));
    check(&with(None), variable, Some("/from/variable"));
    check(&with(None), &[("OOM_WATCHER_STATE_DIR", "")], Some("/from/file"));
    check(&with(Some("")), variable, None);
    check(&with(None), &[("OOM_WATCHER_STATE_DIR", "none")], None);
    check(&Flags::default(), &[], Some("/run/oom-watcher"));
    let nowhere = write("state: {directory: \"\"}\n");
    assert_eq!(load_file(nowhere.path()).unwrap().config.state_directory, None);
}

#[test]
fn pods_are_watched_in_a_pod_or_with_a_kubeconfig_or_as_it_is_said() {
    let in_a_pod: Variables<'_> = &[("KUBERNETES_SERVICE_HOST", "10.96.0.1")];
    let check = |content: &str, variables, expected: bool| {
        let file = write(content);
        let found = load_with(&file_flag(file.path()), variables).unwrap().config.kubernetes;
        assert_eq!(found.is_some(), expected, "{content} {variables:?}");
        found
    };
    check("", &[], false);
    check("", in_a_pod, true);
    check("kubernetes: {enabled: false}\n", in_a_pod, false);
    check("kubernetes: {enabled: true}\n", &[], true);
    check("kubernetes: {enabled: true}\n", &[("OOM_WATCHER_KUBERNETES", "false")], false);
    check(
        "kubernetes: {enabled: false}\n",
        &[("OOM_WATCHER_KUBERNETES", "auto"), ("KUBERNETES_SERVICE_HOST", "10.96.0.1")],
        true,
    );
    let found = check(
        "kubernetes: {kubeconfig: /etc/kube/config, labels: [app.kubernetes.io/name, team], annotations: [note]}\n",
        &[],
        true,
    )
    .unwrap();
    assert_eq!((found.node.as_str(), found.kubeconfig.as_deref()), ("host-a", Some(Path::new("/etc/kube/config"))));
    assert_eq!(
        (found.selection.labels.join(" "), found.selection.annotations.join(" ")),
        ("app.kubernetes.io/name team".into(), "note".into())
    );
    for (content, expected) in [
        ("kubernetes: {labels: team}\n", "the text \"team\", expected a list of texts, such as [app, team]"),
        ("kubernetes: {labels: [1]}\n", "a list, expected a list of texts, such as [app, team]"),
        (
            "kubernetes: {labels: [no/such/key]}\n",
            "\"no/such/key\", expected at most 16 keys, such as app.kubernetes.io/name or team",
        ),
        ("kubernetes: {labels: [-a]}\n", "\"-a\", expected at most 16 keys, such as app.kubernetes.io/name or team"),
        ("kubernetes: {enabled: 1}\n", "the number 1, expected true, false, or a text"),
        (
            "kubernetes: {container_wait: 1h}\n",
            "\"1h\", expected a duration from 0s to 30s with the unit ms, s, m, h or d",
        ),
        ("kubernetes: {kubeconfig: config}\n", "\"config\", expected an absolute path, or none"),
    ] {
        let file = write(content);
        let problem = load_file(file.path()).map(|loaded| loaded.config).unwrap_err().to_string();
        assert!(problem.ends_with(expected), "{problem}");
    }
}

#[test]
fn a_signal_wins_over_the_general_variable() {
    let variables: Variables<'_> = &[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://general:4318/base/"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=1,b=%31%2C,"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1500"),
        ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://logs:4318/insert?x=1"),
        ("OTEL_EXPORTER_OTLP_LOGS_HEADERS", "c=3"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "unix:///run/otel.sock"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "GRPC"),
        ("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "none"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "2000"),
    ];
    let otlp = load_env(variables).unwrap().config.otlp;
    let (logs, traces, metrics) = (otlp.logs.unwrap(), otlp.traces.unwrap(), otlp.metrics.unwrap());
    let owned = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(
        (logs.url.as_str(), logs.protocol, logs.gzip),
        ("http://logs:4318/insert?x=1", Protocol::HttpProtobuf, true)
    );
    assert_eq!((traces.url.as_str(), traces.protocol, traces.gzip), ("unix:///run/otel.sock", Protocol::Grpc, false));
    assert_eq!(
        (metrics.url.as_str(), metrics.protocol),
        ("http://general:4318/base/v1/metrics", Protocol::HttpProtobuf)
    );
    assert_eq!((logs.headers, metrics.headers), (owned(&[("c", "3")]), owned(&[("a", "1"), ("b", "1,")])));
    assert_eq!((traces.timeout, metrics.timeout), (Duration::from_secs(2), Duration::from_millis(1500)));
}

#[test]
fn a_signal_that_is_switched_off_is_not_exported_and_not_checked() {
    let bad = ("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", "/no/such/file");
    let good = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c");
    let exported = |variables: Variables<'_>| {
        let otlp = load_env(variables).unwrap().config.otlp;
        (otlp.logs.is_some(), otlp.traces.is_some(), otlp.metrics.is_some())
    };
    assert_eq!(exported(&[good, bad, ("OTEL_LOGS_EXPORTER", "none")]), (false, true, true));
    assert_eq!(exported(&[good, bad, ("OTEL_SDK_DISABLED", "true")]), (false, false, false));
    assert_eq!(exported(&[good, ("OTEL_METRICS_EXPORTER", "prometheus")]), (true, true, false));
    assert_eq!(exported(&[good, ("OTEL_METRICS_EXPORTER", "prometheus, OTLP")]), (true, true, true));
    assert_eq!(exported(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]), (false, false, false));
}

#[test]
fn a_small_queue_has_small_batches() {
    let queue = |variables: Variables<'_>| load_env(variables).unwrap().config.otlp.queue;
    assert_eq!((queue(&[]).items, queue(&[]).batch), (2048, 512));
    assert_eq!(queue(&[("OTEL_BLRP_MAX_QUEUE_SIZE", "100")]).batch, 100);
    assert_eq!(queue(&[("OTEL_BLRP_MAX_EXPORT_BATCH_SIZE", "7")]).batch, 7);
}

#[test]
fn the_resource_is_the_agent_unless_the_user_says_otherwise() {
    let resource = |variables: Variables<'_>| {
        let resource = load_env(variables).unwrap().config.otlp.resource;
        resource.into_iter().map(|pair| (pair.key.to_string(), pair.value.to_string())).collect::<BTreeMap<_, _>>()
    };
    let ours = resource(&[]);
    let names: Vec<&str> = ours.keys().map(String::as_str).collect();
    let sdk = ["telemetry.sdk.language", "telemetry.sdk.name", "telemetry.sdk.version"];
    let expected = [
        "host.arch",
        "host.name",
        "k8s.node.name",
        "os.type",
        "service.instance.id",
        "service.name",
        "service.version",
    ];
    assert_eq!(names, [&expected[..], &sdk[..]].concat());
    assert_eq!((ours["service.name"].as_str(), ours["service.instance.id"].as_str()), ("oom-watcher", "node-a"));
    assert_eq!((ours["k8s.node.name"].as_str(), ours["host.name"].as_str()), ("node-a", "node-a"));

    let attributes = ("OTEL_RESOURCE_ATTRIBUTES", "service.name=mine, k8s.cluster.name=eu%2D1%20west ,host.name=h");
    let theirs = resource(&[attributes]);
    assert_eq!(
        (theirs["service.name"].as_str(), theirs["k8s.cluster.name"].as_str(), theirs["host.name"].as_str()),
        ("mine", "eu-1 west", "h")
    );
    assert_eq!(resource(&[attributes, ("OTEL_SERVICE_NAME", "first")])["service.name"], "first");
}

#[test]
fn every_variable_that_is_asked_for_is_documented() {
    let asked = RefCell::new(BTreeSet::new());
    load_on(&host(Some("host-a")), &Flags::default(), &|name| {
        asked.borrow_mut().insert(name.to_owned());
        None
    })
    .unwrap();
    let documented: BTreeSet<String> = KEYS.iter().flat_map(Key::variables).collect();
    let unsupported = environment::unsupported().map(str::to_owned).collect();
    assert_eq!(asked.into_inner(), &documented | &unsupported);
    assert!(documented.is_disjoint(&unsupported));
}

#[test]
fn every_row_has_its_place_and_its_words() {
    let mut names = BTreeSet::new();
    for key in KEYS {
        let own = [key.file, key.flag.map(|flag| flag.name), key.variable];
        for name in own.into_iter().flatten() {
            assert!(names.insert(name), "{name} is there twice");
        }
        assert!(own.iter().any(Option::is_some), "nothing sets {key:?}");
        let words = key.meaning;
        assert!(!words.is_empty() && !words.ends_with('.') && words.len() <= 180, "{words}");
        let section = key.file.and_then(|name| Some(name.split_once('.')?.0));
        assert!(section.is_none_or(|section| SECTIONS.iter().any(|(name, _)| *name == section)), "{section:?}");
    }
    // The rows of a section are together.
    let mut sections: Vec<&str> = keys::in_file().filter_map(|(name, _)| Some(name.split_once('.')?.0)).collect();
    sections.dedup();
    assert_eq!(sections, SECTIONS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
}

#[test]
fn every_key_of_the_file_is_resolved() {
    let loaded = load_env(&[]).unwrap();
    for (name, _) in keys::in_file() {
        let found: Vec<_> = loaded.origins.iter().filter(|setting| setting.key == name).collect();
        assert_eq!(found.len(), 1, "{name}: {found:?}");
    }
}

#[test]
fn a_setting_that_is_set_to_its_default_changes_nothing() {
    let collector = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317");
    let expected = load_env(&[collector]).unwrap().config;
    for key in KEYS {
        let Unset::Value(default) = key.default else { continue };
        for name in key.variables() {
            assert_eq!(load_env(&[collector, (&name, default)]).unwrap().config, expected, "{name}={default}");
        }
    }
}

#[test]
fn the_example_file_has_every_key_at_its_default() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/oom-watcher.example.yaml");
    let text = std::fs::read_to_string(&example).unwrap().replace("# node_name: worker-1", "node_name: node-a");
    let file = write(&text);
    let loaded = load_file(file.path()).unwrap();
    assert_eq!(loaded.config, load_env(&[]).unwrap().config);
    for (key, _) in keys::in_file() {
        assert!(
            file::read(file.path(), "--config", &mut Problems::default()).get(key).is_some(),
            "{key} is not in the example"
        );
    }
}

pub(super) fn write(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}
