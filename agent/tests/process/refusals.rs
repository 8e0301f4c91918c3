//! Configurations that are refused: exit code 2, every mistake named with its place and what was expected, and nothing
//! on standard output.

use std::fs;

use oom_watcher::config::{Command, KEYS};

use crate::program::run;

/// What is wrong on the way to the program, and what it says: each line, with `{file}` for the path of the
/// configuration file.
struct Row {
    variables: &'static [(&'static str, &'static str)],
    flags: &'static [&'static str],
    file: Option<&'static str>,
    says: &'static [&'static str],
}

const NOTHING: Row = Row { variables: &[], flags: &[], file: None, says: &[] };
const PORT: &str = "expected a port from 1 to 65535";

/// The keys and the sections that a file may begin with.
fn top() -> String {
    let mut names: Vec<_> =
        KEYS.iter().filter_map(|key| key.file).map(|name| name.split('.').next().unwrap_or(name)).collect();
    names.dedup();
    format!("one of {}", names.join(", "))
}

fn rows() -> Vec<Row> {
    vec![
        Row { variables: &[("METRICS_PORT", "0")], says: &["METRICS_PORT: \"0\", {port}"], ..NOTHING },
        Row { variables: &[("METRICS_PORT", "70000")], says: &["METRICS_PORT: \"70000\", {port}"], ..NOTHING },
        Row { variables: &[("METRICS_PORT", "http")], says: &["METRICS_PORT: \"http\", {port}"], ..NOTHING },
        Row {
            variables: &[("METRICS_PORT", "-1")],
            flags: &["--listen", "127.0.0.1:1"],
            says: &["METRICS_PORT: \"-1\", {port}"],
            ..NOTHING
        },
        Row {
            flags: &["--listen", "8080"],
            says: &["--listen: \"8080\", expected an IP address and a port, such as 0.0.0.0:8080 or [::]:8080"],
            ..NOTHING
        },
        Row {
            variables: &[("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")],
            says: &["OTEL_EXPORTER_OTLP_ENDPOINT: \"collector:4317\", expected a URL with its scheme: write \
                 http://collector:4317 or https://collector:4317"],
            ..NOTHING
        },
        Row {
            variables: &[("OTEL_EXPORTER_OTLP_ENDPOINT", "htpp://collector:4317")],
            says: &[
                "OTEL_EXPORTER_OTLP_ENDPOINT: \"htpp://collector:4317\", expected the scheme http, https, or unix \
                 (gRPC only)",
            ],
            ..NOTHING
        },
        Row {
            variables: &[
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector"),
                ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/no/ca.pem"),
            ],
            says: &[
                "OTEL_EXPORTER_OTLP_CERTIFICATE: \"/no/ca.pem\": No such file or directory (os error 2), expected a \
                 PEM file with certificates",
            ],
            ..NOTHING
        },
        Row {
            variables: &[("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")],
            says: &[
                "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE: \"delta\", expected cumulative: Prometheus drops \
                 deltas, and a delta that is lost is a kill that is never counted",
            ],
            ..NOTHING
        },
        Row {
            file: Some("nodename: a\n"),
            says: &["{file}:1:1: nodename: an unknown key, expected {keys}"],
            ..NOTHING
        },
        Row {
            file: Some("log:\n\tfilter: info\n"),
            says: &["{file}:2:1: found character that cannot start any token, expected YAML, which is indented with \
                 spaces: there is a tab"],
            ..NOTHING
        },
        Row {
            file: Some("node_name: a\nnode_name: b\n"),
            says: &["{file}:2:1: node_name: the same key again, expected each key once"],
            ..NOTHING
        },
        Row {
            file: Some("# ours\nprobe:\n  ring_bytes: 1000000000\n"),
            says: &[
                "{file}:3:3: probe.ring_bytes: \"1000000000\", expected a power of two from 64KiB to 64MiB, such as \
                 1MiB",
            ],
            ..NOTHING
        },
        Row {
            flags: &["--config", "/no/file.yaml"],
            says: &[
                "--config: \"/no/file.yaml\": No such file or directory (os error 2), expected a readable YAML file",
            ],
            ..NOTHING
        },
        Row {
            variables: &[("OOM_WATCHER_CONFIG", "/no/file.yaml")],
            says: &["OOM_WATCHER_CONFIG: \"/no/file.yaml\": No such file or directory (os error 2), expected a \
                 readable YAML file"],
            ..NOTHING
        },
        // Whoever mends one mistake is not to find the next one only then.
        Row {
            variables: &[
                ("METRICS_PORT", "http"),
                ("OTEL_EXPORTER_OTLP_ENDPOINT", "localhost:4317"),
                ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s"),
            ],
            flags: &["--log-format", "xml"],
            file: Some("shutdown_grace: 10\nport: 1\n"),
            says: &[
                "{file}:1:1: shutdown_grace: the number 10, expected a text; write it in quotation marks",
                "{file}:2:1: port: an unknown key, expected {keys}",
                "METRICS_PORT: \"http\", {port}",
                "--log-format: \"xml\", expected human or json",
                "OTEL_EXPORTER_OTLP_ENDPOINT: \"localhost:4317\", expected a URL with its scheme: write \
                 http://localhost:4317 or https://localhost:4317",
                "OTEL_EXPORTER_OTLP_TIMEOUT: \"10s\", expected milliseconds, a whole number from 1 to 600000",
            ],
        },
    ]
}

#[test]
fn a_configuration_that_cannot_be_used_is_refused_with_all_its_mistakes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.yaml").display().to_string();
    for row in rows() {
        let mut flags = row.flags.to_vec();
        if let Some(text) = row.file {
            fs::write(&path, text).unwrap();
            flags.extend(["--config", path.as_str()]);
        }
        let ended = run(row.variables, &flags);
        let says: String = row.says.iter().map(|line| format!("oom-watcher: {line}\n")).collect();
        let says = says.replace("{file}", &path).replace("{port}", PORT).replace("{keys}", &top());
        assert_eq!((ended.code, ended.out.as_str(), ended.err), (Some(2), "", says));
    }
}

#[test]
fn every_command_that_needs_a_configuration_refuses_the_same() {
    for command in [&[][..], &["run"], &["check"], &["config"], &["selftest"], &["detach"]] {
        let ended = run(&[("METRICS_PORT", "0")], command);
        assert_eq!(
            (ended.code, ended.out.as_str(), ended.err),
            (Some(2), "", format!("oom-watcher: METRICS_PORT: \"0\", {PORT}\n")),
            "{command:?}"
        );
    }
}

#[test]
fn a_wrong_command_line_is_refused_with_a_hint() {
    let check = |arguments: &[&str], hint: &str| {
        let ended = run(&[], arguments);
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(ended.err.contains(hint), "{arguments:?}: {}", ended.err);
    };
    check(&["--lisen", "127.0.0.1:1"], "'--listen'");
    check(&["chek"], "'check'");
    check(&["owner"], "<PATH|PID|->");
    check(&["--listen", "127.0.0.1:1", "--metrics-port", "1"], "cannot be used with");
    check(&["completions", "tcsh"], "bash");
}

#[test]
fn a_flag_that_a_command_does_not_use_is_refused_by_it() {
    let check = |arguments: &[&str], flag: &str| {
        let ended = run(&[], &[arguments, &[flag, "none"]].concat());
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{arguments:?} {flag}");
        let says = format!("unexpected argument '{flag}' found");
        assert!(ended.err.contains(&says), "{arguments:?} {flag}: {}", ended.err);
    };
    for (command, flag) in [("selftest", "--listen"), ("detach", "--state-dir"), ("check", "--log-filter")] {
        check(&[command], flag);
    }
    for flag in KEYS.iter().filter_map(|key| key.flag) {
        let refusing = Command::ALL.into_iter().filter(|command| !flag.commands.contains(command));
        refusing.for_each(|command| check(&[command.name()], flag.name));
        check(&["owner", "/"], flag.name);
        check(&["completions", "bash"], flag.name);
    }
}
