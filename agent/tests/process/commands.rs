//! The commands that look and tell: what they print can be read by people and by programs, and a reader that goes away
//! is no failure.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::program::{Agent, Guarded, command, end_of, get, may_attach, run};
use oom_watcher_testkit::kills::make;
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::wait::eventually;

const PATHS: &str = include_str!("../data/cgroup-paths.tsv");

#[test]
fn config_says_where_each_value_came_from_and_no_secrets() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml").display().to_string();
    std::fs::write(&file, "series:\n  expiry: 2h\n").unwrap();
    let variables = [
        ("METRICS_PORT", "9090"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4317"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20SECRET,tenant=SECRET"),
    ];
    let ended = run(&variables, &["config", "--node-name", "node-a", "--config", &file]);
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    assert!(!ended.out.contains("SECRET"), "{}", ended.out);
    let lines: Vec<_> = ended
        .out
        .lines()
        .filter_map(|line| line.rsplit_once("  # "))
        .map(|(value, origin)| (value.trim(), origin))
        .collect();
    let from_file = format!("from {file}:2:3");
    for expected in [
        ("node_name: node-a", "from --node-name"),
        ("listen: 0.0.0.0:9090", "address: default; port: from METRICS_PORT"),
        ("expiry: 2h", &from_file),
        ("# otlp.logs.endpoint: http://collector:4317", "from OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("# otlp.logs.headers: authorization, tenant (values not shown)", "from OTEL_EXPORTER_OTLP_HEADERS"),
    ] {
        assert!(lines.contains(&expected), "{expected:?} is not in\n{}", ended.out);
    }
}

#[test]
fn the_output_of_config_is_a_file_that_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml").display().to_string();
    let print = |variables: &[(&str, &str)], flags: &[&str]| {
        let ended = run(variables, &[&["config"], flags].concat());
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""), "{}", ended.out);
        std::fs::write(&file, &ended.out).unwrap();
        serde_yaml::from_str::<Value>(&ended.out).unwrap()
    };
    let variables = [("NODE_NAME", "node a: #1"), ("METRICS_PORT", "9090"), ("OOM_WATCHER_SPOOL_DIR", "/spool/a b")];
    let first = print(&variables, &["--log-format", "json"]);
    assert_eq!((&first["node_name"], &first["log"]["format"]), (&"node a: #1".into(), &"json".into()));
    assert_eq!(print(&[], &["--config", &file]), first);
    assert_eq!(print(&[("OOM_WATCHER_CONFIG", &file)], &[]), first);
}

/// Gives `input` on standard input and the lines that came of it.
fn owners(input: &[u8]) -> Vec<Value> {
    let mut owner =
        command(&[], &["owner", "--json", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, input) = (owner.stdin.take().unwrap(), input.to_owned());
    let writer = std::thread::spawn(move || stdin.write_all(&input).unwrap());
    let lines = BufReader::new(owner.stdout.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    writer.join().unwrap();
    assert!(owner.wait().unwrap().success());
    lines
}

#[test]
fn owner_reads_every_collected_path() {
    let rows: Vec<Vec<&str>> = PATHS.lines().skip(1).map(|row| row.split('\t').collect()).collect();
    let input: String = rows.iter().map(|row| format!("{}\n", row[0])).collect();
    let answers = owners(input.as_bytes());
    assert_eq!(answers.len(), rows.len());
    assert!(rows.len() > 90, "{}", rows.len());
    for (row, answer) in rows.iter().zip(&answers) {
        let expected = |column: &str| if column == "-" { Value::Null } else { column.into() };
        assert_eq!(
            (&answer["path"], &answer["pod_uid"], &answer["container_id"]),
            (&row[0].into(), &expected(row[2]), &expected(row[3])),
            "{row:?}"
        );
    }
}

#[test]
fn owner_answers_whatever_a_line_is() {
    let long = format!("/{}", "a".repeat(100_000));
    let answers = owners(&[b"\n/a\xff\xfe\n\0\n4711\n", long.as_bytes()].concat());
    let paths: Vec<_> = answers.iter().map(|answer| answer["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["", "/a\u{fffd}\u{fffd}", "\0", "4711", &long]);
    assert_eq!(owners(b""), [Value::Null; 0]);
}

#[test]
fn owner_of_a_process_is_read_from_proc() {
    let ended = run(&[], &["owner", &std::process::id().to_string()]);
    // Wherever the tests run, there is an answer and its reason.
    assert_eq!((ended.code, ended.out.contains("\nbecause ")), (Some(0), true), "{ended:?}");

    // Beyond the greatest pid that the kernel gives.
    let ended = run(&[], &["owner", "4194305"]);
    let says = "oom-watcher: reading /proc/4194305/cgroup: No such file or directory (os error 2): is there a process \
        4194305?\n";
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (Some(1), "", says));
}

#[test]
fn help_and_version_name_what_one_looks_for() {
    let help = run(&[], &["--help"]);
    assert_eq!((help.code, help.err.as_str()), (Some(0), ""));
    for expected in
        ["run", "check", "selftest", "owner", "config", "completions", "--listen", "METRICS_PORT", "Exit codes: 0 "]
    {
        assert!(help.out.contains(expected), "{expected} is not in\n{}", help.out);
    }
    let version = run(&[], &["--version"]);
    let build = version.out.trim_end().strip_prefix(concat!("oom-watcher ", env!("CARGO_PKG_VERSION"), " (probe "));
    let build = build.and_then(|rest| rest.strip_suffix(')')).unwrap_or_else(|| panic!("{version:?}"));
    assert!(build == "none" || build.len() == 16 && build.bytes().all(|byte| byte.is_ascii_hexdigit()), "{version:?}");
}

#[test]
fn completions_are_scripts_of_their_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let ended = run(&[], &["completions", shell]);
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
        for command in ["check", "selftest", "owner", "config"] {
            assert!(ended.out.contains(command), "{shell}: {}", ended.out);
        }
        let option = if shell == "fish" { "--no-execute" } else { "-n" };
        let Ok(mut reader) = Command::new(shell).arg(option).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()
        else {
            // Only bash is on every machine that builds this.
            assert_ne!(shell, "bash", "there is no bash");
            continue;
        };
        reader.stdin.take().unwrap().write_all(ended.out.as_bytes()).unwrap();
        let read = reader.wait_with_output().unwrap();
        assert!(read.status.success(), "{shell}: {}", String::from_utf8_lossy(&read.stderr));
    }
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    for arguments in [
        &["--help"][..],
        &["--version"],
        &["config"],
        &["check", "--listen", "127.0.0.1:0"],
        &["owner", "/kubepods"],
        &["owner", "--json", "-"],
        &["completions", "bash"],
        &["completions", "zsh"],
        &["completions", "fish"],
    ] {
        let mut program = command(&[], arguments);
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let ended = program.stdout(writer).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        assert_eq!(
            (ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
}

#[test]
fn output_that_cannot_be_written_is_a_failure_with_its_cause() {
    for arguments in [&["config"][..], &["owner", "/kubepods"], &["completions", "bash"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let ended =
            command(&[], arguments).stdout(full).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
        let says = "oom-watcher: No space left on device (os error 28)\n";
        assert_eq!(
            (ended.status.code(), String::from_utf8_lossy(&ended.stderr).as_ref()),
            (Some(1), says),
            "{arguments:?}"
        );
    }
}

#[test]
fn an_agent_that_nobody_listens_to_goes_on() {
    needs!(may_attach());
    let mut agent = command(&[("NODE_NAME", "node-a")], &["--listen", "127.0.0.1:0", "--log-format", "json"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let ready = BufReader::new(agent.stderr.take().unwrap())
        .lines()
        .map(Result::unwrap)
        .find(|line| line.contains("\"ready\""));
    // The reader is gone with the iterator: what is logged from here on cannot be written.
    let ready: Value = serde_json::from_str(&ready.unwrap()).unwrap();
    assert!(get(ready["metrics_address"].as_str().unwrap().parse().unwrap(), "/metrics").0.ends_with("200 OK"));
    // SAFETY: no memory is involved; the child was not waited for, so the pid is still its own.
    assert_eq!(unsafe { libc::kill(agent.id().cast_signed(), libc::SIGTERM) }, 0);
    assert_eq!(eventually("end of the agent", || agent.try_wait().unwrap()).code(), Some(0));
}

#[test]
fn words_that_nobody_hears_do_not_change_the_exit_code() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut deaf = command(&[("METRICS_PORT", "0")], &[]);
    assert_eq!(deaf.stderr(writer).spawn().unwrap().wait().unwrap().code(), Some(2));
    assert_eq!(end_of(command(&[("METRICS_PORT", "0")], &[])).unwrap().code, Some(2));
}

#[test]
fn who_stops_reading_standard_error_stops_neither_kills_nor_scrapes() {
    needs!(may_attach());
    let _alone = needs!(real_kills());
    let mut agent = command(&[("NODE_NAME", "node-a")], &["--listen", "127.0.0.1:0", "--log-format", "json"]);
    let mut agent = Guarded(agent.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(agent.0.stderr.take().unwrap()).lines().map(Result::unwrap);
    let ready = lines
        .by_ref()
        .map(|line| serde_json::from_str::<Value>(&line).unwrap())
        .find(|line| line["message"] == "ready")
        .unwrap();
    let address = ready["metrics_address"].as_str().unwrap().parse().unwrap();
    // Each is told with some 700 bytes; a pipe holds 64 KiB.
    make("burst 300");
    let number = |text: &str, name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.split(' ').next_back()?.parse::<f64>().ok())
    };
    eventually("count of all kills", || {
        let (_, text) = get(address, "/metrics");
        let lost = number(&text, "oom_watcher_log_lines_lost_total{").unwrap();
        number(&text, "oom_kills_per_node_total{").filter(|kills| *kills >= 300.0 && lost > 0.0)
    });
    // SAFETY: no memory is involved; the child was not waited for, so the pid is still its own.
    assert_eq!(unsafe { libc::kill(agent.0.id().cast_signed(), libc::SIGTERM) }, 0);
    assert_eq!(eventually("end of the agent", || agent.0.try_wait().unwrap()).code(), Some(0));
    drop(lines);
}

#[test]
fn kills_without_room_in_the_ring_buffer_are_counted_and_told() {
    needs!(may_attach());
    let _alone = needs!(real_kills());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml").display().to_string();
    std::fs::write(&file, "probe:\n  ring_bytes: 64KiB\n").unwrap();
    let (mut agent, address) = Agent::ready(&[], &["--config", &file]);
    // Stopped it reads nothing, and 64 KiB hold some tens of kills.
    agent.signal(libc::SIGSTOP);
    make("burst 200");
    agent.signal(libc::SIGCONT);
    let told = agent
        .wait_for("ring buffer full: kills counted without details, looking up their containers in cgroup counters");
    let (_, text) = get(address, "/metrics");
    let number = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.split(' ').next_back()?.parse::<f64>().ok()).unwrap()
    };
    let dropped = number("oom_watcher_kills_dropped_total{node=\"node-a\",reason=\"ring_full\"}");
    assert!(dropped > 0.0 && told["dropped"].as_f64() == Some(dropped), "{told}: {dropped}");
    assert!(number("oom_kills_per_node_total{") >= 200.0, "{text}");
    assert_eq!(agent.stop(), Some(0));
}
