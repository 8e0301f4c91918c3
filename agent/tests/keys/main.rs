//! What is written from the table of keys: the schemas, the example file and the tables of the documentation. Each is
//! compared with the table; `OOM_WATCHER_WRITE=1` writes it again.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod pattern;
mod schema;
mod tables;

use oom_watcher::config::{KEYS, Key, SECTIONS};
use oom_watcher_testkit::pages::{page, rows};
use oom_watcher_testkit::root;
use oom_watcher_testkit::written::check;

#[test]
fn the_schema_of_the_file_is_written() {
    check(&root().join("docs/oom-watcher.schema.json"), &format!("{}\n", schema::of_the_file()));
}

#[test]
fn the_schema_of_the_chart_s_config_is_written() {
    let (path, mark) = (root().join("k8s/chart/values.schema.json"), "\n    \"configuration\": ");
    let text = page("k8s/chart/values.schema.json");
    // It is the last definition.
    let (head, _) = text.split_once(mark).unwrap();
    let schema = schema::of_the_chart().replace('\n', "\n    ");
    check(&path, &format!("{head}{mark}{schema}\n  }}\n}}\n"));
}

#[test]
fn the_example_file_is_written() {
    let mut example = "\
# yaml-language-server: $schema=oom-watcher.schema.json
# The configuration file of oom-watcher, with every key at its default. Leave out what you do not change.
# `oom-watcher config --config FILE` checks a file and prints the effective configuration.
"
    .to_owned();
    let mut section = None;
    for key in KEYS {
        let Some(name) = key.file else { continue };
        let (of, name) = name.split_once('.').map_or((None, name), |(section, name)| (Some(section), name));
        if of != section || of.is_none() {
            example.push('\n');
        }
        if let Some(of) = of.filter(|_| of != section) {
            let (_, meaning) = SECTIONS.iter().find(|(name, _)| *name == of).unwrap();
            example.push_str(&format!("# {meaning}.\n{of}:\n"));
        }
        section = of;
        let indent = if of.is_some() { "  " } else { "" };
        for line in wrapped(&description(key), 98 - indent.len()) {
            example.push_str(&format!("{indent}# {line}\n"));
        }
        let value = match key.written_default() {
            Some(default) => format!("{name}: {default}"),
            // Only the name of a node has no default of its own.
            None => format!("# {name}: worker-1"),
        };
        example.push_str(&format!("{indent}{value}\n"));
    }
    check(&root().join("docs/oom-watcher.example.yaml"), &example);
}

#[test]
fn the_tables_of_the_documentation_are_written() {
    let operations = page("docs/operations.md");
    let operations = tables::replaced(&operations, "### Keys", &tables::keys());
    let operations = tables::replaced(&operations, "### Flags", &tables::flags());
    let operations = tables::replaced(&operations, "### Variables", &tables::variables());
    check(&root().join("docs/operations.md"), &operations);
}

/// It has the most important variables only, with words of its own.
#[test]
fn the_readme_has_the_variables_with_their_defaults() {
    let table = rows("README.md", "## Configuration");
    assert!(table.len() > 4, "{table:?}");
    for row in table {
        let [variable, default, ..] = &row[..] else { panic!("{row:?}") };
        let variable = variable.trim_matches('`');
        let Some(key) = KEYS.iter().find(|key| key.variable == Some(variable)) else {
            assert_eq!(variable, "OTEL_*", "README.md has an unknown variable");
            continue;
        };
        let expected = key.default.to_string();
        assert!(default.trim_matches('`').starts_with(&expected), "README.md: {variable} is {expected}, not {default}");
    }
}

/// What a key is, in sentences, without its default.
fn description(key: &Key) -> String {
    let mut text = format!("{}. Values: {}.", key.meaning, key.kind);
    for (what, name) in [("Variable", key.variable), ("Flag", key.flag.map(|flag| flag.name))] {
        if let Some(name) = name {
            text.push_str(&format!(" {what}: {name}."));
        }
    }
    text
}

/// Lines of at most so many characters, of whole words.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().unwrap();
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= width {
            *line = format!("{line} {word}");
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}
