//! The pages agree with the code: names, units, defaults, bounds, messages and links. What a page says in its own words
//! nobody checks.
//!
//! Where the code has no list to compare with, its text is read: `const` lines and string literals.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod rust_text;

use std::collections::BTreeSet;
use std::process::Command;

use oom_watcher::config::{self, Flags};
use oom_watcher::kill::{Scope, Why};
use oom_watcher::record::schema::{ATTRIBUTES, EVENT_NAME, Kind, LABELS, METRICS, SPAN_NAME, Type, memory_types};
use oom_watcher_testkit::pages::{anchors, code, files, links, page, rows, words};
use oom_watcher_testkit::root;
use rust_text::{constant, constant_part, literals, literals_of, number};

const TELEMETRY: &str = "docs/telemetry.md";
const OPERATIONS: &str = "docs/operations.md";
const ARCHITECTURE: &str = "docs/architecture.md";
const SECURITY: &str = "docs/security.md";

/// The rows below `heading` of `page` are these; of the last cell only the beginning counts, a page may say more.
#[track_caller]
fn check_table(page: &str, heading: &str, expected: &[Vec<String>]) {
    let found = rows(page, heading);
    let agree = |a: &Vec<String>, b: &Vec<String>| {
        let (Some((a_last, a)), Some((b_last, b))) = (a.split_last(), b.split_last()) else { return false };
        a == b && a_last.starts_with(b_last)
    };
    let missing: Vec<String> = expected
        .iter()
        .filter(|row| !found.iter().any(|found| agree(found, row)))
        .map(|row| format!("| {} |", row.join(" | ")))
        .collect();
    let extra: Vec<String> = found
        .iter()
        .filter(|row| !expected.iter().any(|expected| agree(row, expected)))
        .map(|row| row.join(" | "))
        .collect();
    assert!(
        missing.is_empty() && extra.is_empty(),
        "{page}, {heading}\nmissing:\n{}\nnot in the code:\n{}",
        missing.join("\n"),
        extra.join("\n")
    );
}

#[test]
fn every_metric_is_on_the_page() {
    let expected: Vec<Vec<String>> = METRICS
        .iter()
        .map(|metric| {
            let kind = match metric.kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
                Kind::Histogram => "histogram",
            };
            let unit = metric.unit.map(code).unwrap_or_default();
            vec![
                code(metric.prometheus),
                code(metric.name),
                kind.to_owned(),
                unit,
                metric.labels.join(", "),
                metric.help.to_owned(),
            ]
        })
        .collect();
    check_table(TELEMETRY, "## Metrics", &expected);
}

#[test]
fn every_label_is_on_the_page() {
    let expected: Vec<Vec<String>> =
        LABELS.iter().map(|label| vec![code(label.prometheus), code(label.otlp), String::new()]).collect();
    check_table(TELEMETRY, "### Labels", &expected);
}

#[test]
fn every_attribute_is_on_the_page() {
    let expected: Vec<Vec<String>> = ATTRIBUTES
        .iter()
        .map(|attribute| {
            let kind = match attribute.r#type {
                Type::Bool => "bool",
                Type::Int => "int",
                Type::String => "string",
                Type::Strings => "string[]",
            };
            vec![
                code(attribute.key),
                kind.to_owned(),
                attribute.unit.unwrap_or_default().to_owned(),
                attribute.help.to_owned(),
            ]
        })
        .collect();
    check_table(TELEMETRY, "### Attributes", &expected);
}

#[test]
fn every_value_of_a_label_is_on_the_page() {
    let text = page(TELEMETRY);
    let schema = page("agent/src/record/schema.rs");
    let (_, reasons) = schema.split_once("pub mod reason").unwrap();
    let reasons: Vec<&str> =
        reasons.lines().filter_map(|line| line.split_once(": &str = \"")?.1.strip_suffix("\";")).collect();
    assert!(reasons.len() > 5, "{reasons:?}");
    let kinds = memory_types(&Default::default()).map(|(kind, _)| kind);
    let scopes = Scope::ALL.map(Scope::as_str);
    for value in reasons.into_iter().chain(Why::ALL.map(Why::as_str)).chain(kinds).chain(scopes) {
        assert!(text.contains(&code(value)), "{TELEMETRY} does not have {}", code(value));
    }
}

/// The kernel's and our own names that look like a metric's or an attribute's.
const OTHER_NAMES: [&str; 7] =
    ["oom_control", "oom_group", "oom_kill", "oom_kill_process", "oom_lock", "oom_score_adj", "oom_watcher"];

#[test]
fn nothing_else_claims_to_be_a_metric_or_an_attribute() {
    let metrics = METRICS.iter().flat_map(|metric| [metric.name, metric.prometheus]);
    let attributes = ATTRIBUTES.iter().map(|attribute| attribute.key).chain(LABELS.iter().map(|label| label.otlp));
    let known: BTreeSet<&str> = metrics.chain(attributes).chain(OTHER_NAMES).chain([EVENT_NAME, SPAN_NAME]).collect();
    for path in files("", ".md") {
        let text = page(&path);
        // `oom_watcher_` and the like are beginnings of names, `oom_watcher::` of paths in the code.
        let ours = words(&text).filter(|word| {
            word.starts_with("oom_")
                && !word.starts_with("oom_control.")
                && !word.contains("::")
                && !word.ends_with('_')
                && !word.ends_with(".rs")
        });
        let unknown: BTreeSet<&str> = ours.filter(|word| !known.contains(word)).collect();
        assert!(unknown.is_empty(), "{path} names {unknown:?}");
    }
}

#[test]
fn every_variable_without_effect_is_on_the_page() {
    let (text, code) = (page(OPERATIONS), page("agent/src/config/environment.rs"));
    // The first of each pair: `("NAME", "what has an effect")`.
    let names: BTreeSet<&str> = code
        .split("(\"OTEL_")
        .skip(1)
        .filter_map(|rest| rest.split_once("\","))
        .map(|(name, _)| name)
        .filter(|name| !name.contains('{'))
        .collect();
    assert!(names.len() > 25, "{names:?}");
    for name in names {
        assert!(text.contains(&format!("`OTEL_{name}`")), "{OPERATIONS} does not have OTEL_{name}");
    }
}

#[test]
fn every_command_is_on_the_page() {
    let help = Command::new(env!("CARGO_BIN_EXE_oom-watcher")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let text = page(OPERATIONS);
    for command in
        commands.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next())
    {
        assert!(
            command == "help" || text.contains(&format!("`oom-watcher {command}")),
            "{OPERATIONS} does not have `oom-watcher {command}`"
        );
    }
}

/// What they say, each with what it means: `operations.md` has the tables.
#[test]
fn every_message_is_on_the_page() {
    let text = page(OPERATIONS);
    let mut messages = Vec::new();
    for file in files("agent/src", ".rs").iter().filter(|file| !file.contains("/tests")) {
        // Before the message there may be fields.
        let logged = ["warn!(", "error!(", "info!("].into_iter().flat_map(|log| literals(file, log));
        messages.extend(logged.filter_map(|mut literals| literals.pop()));
        messages.extend(literals(file, ".warn(").into_iter().flatten().filter(|literal| literal.contains(' ')));
    }
    for (file, mark) in [
        ("agent/src/run/mod.rs", "write!("),
        ("agent/src/run/mod.rs", "write_str("),
        ("agent/src/source/btf.rs", "write!("),
        ("agent/src/source/btf.rs", "write_str("),
        ("agent/src/source/layout.rs", "write!("),
        ("agent/src/source/event.rs", "write!("),
        ("agent/src/preflight/lasting.rs", ".or_else("),
        ("agent/src/preflight/lasting.rs", "finding("),
        ("agent/src/preflight/attach.rs", ".or_else("),
        ("agent/src/preflight/attach.rs", "finding("),
        ("agent/src/privileges/denial.rs", "of("),
        ("agent/src/privileges/denial.rs", "write!("),
        ("agent/src/preflight/mod.rs", ".or_else("),
        ("agent/src/preflight/mod.rs", "finding("),
        ("agent/src/preflight/permissions.rs", ".or_else("),
        ("agent/src/preflight/permissions.rs", "finding("),
        ("agent/src/preflight/finding.rs", "format!("),
        ("agent/src/host/refusal.rs", "Refusal::new("),
        ("agent/src/source/probe/pins.rs", "Refusal::new("),
    ] {
        messages.extend(literals(file, mark).into_iter().flatten());
    }
    for file in ["agent/src/source/probe/error.rs", "agent/src/privileges/denial.rs"] {
        let said = ["problem", "remedy"].map(|function| literals_of(file, function));
        assert!(said.iter().all(|said| said.len() > 4), "{file}: {said:?}");
        messages.extend(said.into_iter().flatten());
    }
    assert!(messages.len() > 60, "only {} messages were found in the code", messages.len());
    let missing: BTreeSet<&str> =
        messages.iter().map(|message| constant_part(message)).filter(|part| !text.contains(part)).collect();
    assert!(missing.is_empty(), "{OPERATIONS} does not have\n{}", missing.into_iter().collect::<Vec<_>>().join("\n"));
}

/// Who runs the agent has to know what it looks at.
#[test]
fn every_field_of_the_kernel_and_every_file_that_is_read_is_on_the_page() {
    let text = page(SECURITY);
    let layout = "agent/src/source/layout.rs";
    let marks = ["find.offset(", "find.optional(", "find.either(", "find.enumerator(", "btf.offset(", "counter("];
    let fields: Vec<String> = marks
        .into_iter()
        .flat_map(|mark| literals(layout, mark))
        .filter_map(|literals| literals.into_iter().next())
        .collect();
    assert!(fields.len() > 25, "{fields:?}");
    let mut paths = BTreeSet::new();
    for file in files("agent/src", ".rs").into_iter().filter(|file| !file.contains("/tests")) {
        let texts = ["(", "const BTF: &str = ", "const BOOT_ID: &str = "]
            .into_iter()
            .flat_map(|mark| literals(&file, mark))
            .flatten();
        let is_path =
            |text: &String| ["/proc/", "/sys/"].iter().any(|root| text.starts_with(root)) && !text.contains(' ');
        let constant = |path: String| path.replace("{pid}", "PID").split("/{").next().map(str::to_owned);
        paths.extend(texts.filter(is_path).filter_map(constant));
    }
    assert!(paths.len() > 8, "{paths:?}");
    // The place of the memory controller in an array, and no field.
    for name in fields.iter().filter(|name| *name != "memory_cgrp_id").chain(&paths) {
        assert!(text.contains(&code(name)), "{SECURITY} does not have {}", code(name));
    }
}

#[test]
fn every_shape_of_kill_on_the_page_is_tested_and_every_shape_tested_is_on_the_page() {
    let (mut named, mut tested) = (BTreeSet::new(), BTreeSet::new());
    for row in rows(TELEMETRY, "## What one kill is") {
        let [.., tests] = &row[..] else { panic!("{row:?}") };
        named.extend(tests.split(", ").map(|test| test.trim_matches('`').to_owned()));
    }
    for file in ["exactly_once", "limit"] {
        let text = page(&format!("agent/tests/kernel/{file}.rs"));
        tested.extend(text.split("#[test]\nfn ").skip(1).filter_map(|rest| Some(rest.split_once('(')?.0.to_owned())));
    }
    let owner = page("agent/tests/kernel/owner.rs");
    let missing: Vec<_> =
        named.iter().filter(|test| !tested.contains(*test) && !owner.contains(&format!("fn {test}("))).collect();
    assert!(
        missing.is_empty() && named.is_superset(&tested),
        "not tested: {missing:?}; not on the page: {:?}",
        tested.difference(&named)
    );
}

#[test]
fn every_constant_has_the_value_that_the_page_says() {
    let table = rows(ARCHITECTURE, "### Constants");
    assert!(table.len() > 20, "{table:?}");
    for row in table {
        let [name, file, value, ..] = &row[..] else { panic!("{row:?}") };
        let (name, file) = (name.trim_matches('`'), file.trim_matches('`'));
        let in_code = constant(file, name).unwrap_or_else(|| panic!("{file} has no constant {name}"));
        assert_eq!(number(value), number(&in_code), "{name} in {file} is {in_code}, not {value}");
    }
}

#[test]
fn every_setting_that_bounds_something_has_the_default_that_the_page_says() {
    let endpoint = |name: &str| (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| "http://localhost:4317".to_owned());
    let loaded = config::load(&Flags::from([("--config", "none")]), &endpoint).unwrap();
    let table = rows(ARCHITECTURE, "### Settings");
    assert!(table.len() > 4, "{table:?}");
    for row in table {
        let [key, value, ..] = &row[..] else { panic!("{row:?}") };
        let setting = loaded
            .origins
            .iter()
            .find(|setting| code(&setting.key) == *key)
            .unwrap_or_else(|| panic!("no setting {key}"));
        assert_eq!(code(&setting.value), *value, "{key}");
    }
}

#[test]
fn the_code_map_has_the_modules_of_the_library() {
    let library = page("agent/src/lib.rs");
    let modules: Vec<&str> =
        library.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let described: Vec<Vec<String>> = library
        .lines()
        .filter_map(|line| line.strip_prefix("//! | [`"))
        .filter_map(|line| line.strip_suffix(" |")?.split_once("`] | "))
        .map(|(module, what)| vec![code(module), what.to_owned()])
        .collect();
    assert_eq!(
        described.iter().map(|row| row[0].clone()).collect::<BTreeSet<_>>(),
        modules.into_iter().map(code).collect(),
        "the table of lib.rs"
    );
    check_table(ARCHITECTURE, "### Modules", &described);
}

#[test]
fn every_function_on_the_way_of_a_kill_is_where_the_page_says() {
    let table = rows(ARCHITECTURE, "## The way of one kill");
    assert!(table.len() > 8, "{table:?}");
    for row in table {
        let [_, functions, file, ..] = &row[..] else { panic!("{row:?}") };
        let text = page(file.trim_matches('`'));
        for function in functions.split(", ") {
            let name = function.trim_matches('`').rsplit("::").next().unwrap_or_default();
            assert!(
                text.contains(&format!("fn {name}(")) || text.contains(&format!("fn {name}<")),
                "{file} has no function {name}"
            );
        }
    }
}

#[test]
fn every_link_and_every_path_leads_somewhere() {
    for path in files("", ".md") {
        let (text, file) = (page(&path), root().join(&path));
        for link in links(&text).into_iter().filter(|link| !link.contains("://")) {
            let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if target.is_empty() { file.clone() } else { file.parent().unwrap().join(target) };
            assert!(target.exists(), "{path} links to {link}");
            let has_heading =
                || anchors(&std::fs::read_to_string(&target).unwrap()).iter().any(|heading| heading == anchor);
            assert!(anchor.is_empty() || has_heading(), "{path} links to {link}");
        }
        for named in text.split('`').skip(1).step_by(2).filter(|quoted| quoted.ends_with(".rs") && quoted.contains('/'))
        {
            assert!(file.parent().unwrap().join(named).exists() || root().join(named).exists(), "{path} names {named}");
        }
    }
}
