//! The schema that editors read, `docs/oom-watcher.schema.json`, says of a file what the reader says. For tests alone.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

use super::file;
use super::tests::{load_env, load_file, write};

fn schema() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/oom-watcher.schema.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// What the schema has for each key, by the key's name with its sections.
fn keys(name: &str, schema: &Value, found: &mut BTreeMap<String, Value>) {
    if !name.is_empty() {
        let texts = ["title", "description"].map(|text| schema[text].as_str().unwrap_or_default());
        assert!(texts.iter().all(|text| !text.is_empty()), "{name} has no title, or no description");
    }
    let Some(properties) = schema["properties"].as_object() else {
        found.insert(name.to_owned(), schema.clone());
        return;
    };
    assert_eq!(schema["additionalProperties"], Value::Bool(false), "the section {name:?} takes other keys");
    for (key, schema) in properties {
        keys(format!("{name}.{key}").trim_start_matches('.'), schema, found);
    }
}

fn all_keys() -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    keys("", &schema(), &mut found);
    found
}

/// A file with this one key.
fn document(key: &str, value: &str) -> String {
    match key.split_once('.') {
        Some((section, key)) => format!("{section}:\n  {key}: {value}\n"),
        None => format!("{key}: {value}\n"),
    }
}

#[test]
fn the_schema_has_the_keys_of_the_reader_with_their_defaults() {
    let loaded = load_env(&[]).unwrap();
    let in_force = |key: &str| match key {
        // It is the host's, and differs.
        "node_name" => None,
        "listen" => Some(loaded.config.listen.to_string()),
        _ => Some(loaded.origins.iter().find(|setting| setting.key == key).unwrap().value.clone()),
    };
    let expected: BTreeMap<String, Option<String>> = file::keys().map(|key| (key.to_owned(), in_force(key))).collect();
    let found = all_keys().into_iter().map(|(key, schema)| {
        let default = schema.get("default").map(|default| default.as_str().map_or_else(|| default.to_string(), str::to_owned));
        (key, default)
    });
    assert_eq!(found.collect::<BTreeMap<_, _>>(), expected);
}

/// What an editor says of a text that does not match, instead of showing the pattern.
#[test]
fn the_schema_says_what_the_reader_expects() {
    for (key, schema) in all_keys() {
        let (schema, value) = if schema["type"] == "array" { (&schema["items"], "[/]") } else { (&schema, "\" \"") };
        assert_eq!(schema.get("pattern").is_some(), schema.get("patternErrorMessage").is_some(), "{key}");
        let Some(message) = schema["patternErrorMessage"].as_str() else { continue };
        let problems = load_file(write(&document(&key, value)).path()).unwrap_err();
        let expected: Vec<String> = problems.iter().map(|problem| format!("Expected {}", problem.expected)).collect();
        assert_eq!(expected, [message], "{key}");
    }
}
