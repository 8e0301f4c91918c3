//! The JSON schema of the configuration file, draft 7: what editors and Helm read.
//!
//! It may accept what the agent refuses, where a schema cannot say why. It refuses nothing that the agent accepts.

use oom_watcher::config::{Bounds, KEYS, Key, Kind, MAX_NODE_NAME, MAX_POD_KEYS, SECTIONS};

use crate::{description, pattern};

/// Members of an object in their order, with their values as JSON.
type Members = Vec<(&'static str, String)>;

/// The schema of the whole file.
pub(crate) fn of_the_file() -> String {
    let head = vec![
        ("$schema", quoted("http://json-schema.org/draft-07/schema#")),
        ("title", quoted("oom-watcher")),
        ("description", quoted("The configuration file of oom-watcher. Every key may be left out.")),
    ];
    object(&[head, section(keys_of_the_file())].concat())
}

/// The same as a part of the chart's schema. It has also the keys that the pod sets, which the chart refuses by itself
/// and says what to use instead.
pub(crate) fn of_the_chart() -> String {
    let written = "Written from the table of keys (agent/src/config/keys/table.rs). Do not change it here.";
    object(&[vec![("$comment", quoted(written))], section(keys_of_the_file())].concat())
}

fn keys_of_the_file() -> Members {
    let mut members: Members = Vec::new();
    for key in KEYS {
        let Some(name) = key.file else { continue };
        match name.split_once('.') {
            None => members.push((name, schema(key))),
            Some((of, _)) if members.iter().any(|(name, _)| *name == of) => {}
            Some((of, _)) => members.push((of, of_section(of))),
        }
    }
    members
}

fn of_section(name: &str) -> String {
    let (_, meaning) = SECTIONS.iter().find(|(section, _)| *section == name).unwrap();
    let own = |key: &'static Key| Some((key.file?.strip_prefix(name)?.strip_prefix('.')?, schema(key)));
    let description = vec![("description", quoted(&format!("{meaning}.")))];
    object(&[description, section(KEYS.iter().filter_map(own).collect())].concat())
}

/// Without any key a section is `null` in YAML.
fn section(keys: Members) -> Members {
    vec![
        ("type", r#"["object", "null"]"#.to_owned()),
        ("additionalProperties", "false".to_owned()),
        ("properties", object(&keys)),
    ]
}

fn schema(key: &Key) -> String {
    let default = key.written_default();
    let shown = default.map(|default| format!(" Default: {default}.")).unwrap_or_default();
    let mut members = vec![("description", quoted(&format!("{}{shown}", description(key))))];
    members.extend(values(key.kind));
    if let Some(default) = default {
        let is_text = !matches!(key.kind, Kind::Boolean | Kind::Number(_) | Kind::PodKeys);
        members.push(("default", if is_text { quoted(default) } else { default.to_owned() }));
    }
    object(&members)
}

/// What restricts the values.
fn values(kind: Kind) -> Members {
    match kind {
        Kind::Name => [vec![("maxLength", MAX_NODE_NAME.to_string())], text(kind, &name())].concat(),
        Kind::NodeCgroup => text(kind, "^(?:auto|all|/[^\0]*)$"),
        Kind::Address => text(kind, &address()),
        Kind::Filter => text(kind, r"\S"),
        Kind::OneOf(words) => vec![("type", quoted("string")), ("enum", array(words.iter().map(|word| quoted(word))))],
        Kind::Boolean => vec![("type", quoted("boolean"))],
        Kind::Auto => vec![("enum", r#"["auto", true, false, "true", "false"]"#.to_owned())],
        Kind::Path => text(kind, "^(?:none|/[^\0]*)?$"),
        Kind::Size(Bounds { min, max }) => {
            let numbers = array(pattern::powers(min, max).iter().map(u64::to_string));
            let of_numbers =
                [("if", r#"{ "type": "integer" }"#.to_owned()), ("then", format!(r#"{{ "enum": {numbers} }}"#))];
            let mut members = text(kind, &pattern::size(min, max));
            members[0].1 = r#"["string", "integer"]"#.to_owned();
            [members, of_numbers.to_vec()].concat()
        }
        Kind::Number(Bounds { min, max }) => {
            vec![("type", quoted("integer")), ("minimum", min.to_owned()), ("maximum", max.to_owned())]
        }
        Kind::Duration(Bounds { min, max }) => text(kind, &pattern::duration(min, max)),
        Kind::PodKeys => pod_keys(),
        Kind::DaemonSet => {
            let namespace = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?";
            text(kind, &format!("^(?:none|{namespace}/[a-z0-9](?:[a-z0-9.-]{{0,251}}[a-z0-9])?)?$"))
        }
        Kind::File | Kind::Port | Kind::Specified => panic!("{kind:?} is no kind of a key of the file"),
    }
}

/// A text of this form. Editors show the message in place of the pattern.
fn text(kind: Kind, pattern: &str) -> Members {
    let message = format!("Expected {kind}");
    vec![("type", quoted("string")), ("pattern", quoted(pattern)), ("patternErrorMessage", quoted(&message))]
}

/// No control characters, and no spaces around it.
fn name() -> String {
    let (controls, spaces) =
        ("\0-\u{1f}\u{7f}-\u{9f}", "\u{a0}\u{1680}\u{2000}-\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}");
    let edge = format!("[^{controls} {spaces}]");
    format!("^{edge}(?:[^{controls}]*{edge})?$")
}

fn address() -> String {
    let octet = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
    let port = pattern::numbers(1, 65_535).join("|");
    format!(r"^(?:(?:{octet}\.){{3}}{octet}|\[[0-9A-Fa-f:.]+(?:%[0-9]+)?\]):0*(?:{port})$")
}

fn pod_keys() -> Members {
    let key = "(?:[a-z0-9.-]{1,253}/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?";
    let member = text(Kind::PodKeys, &format!(r"^(?:\s*(?:{key})?\s*(?:,|$))*$"));
    let most = format!(r#"{{ "maxItems": {MAX_POD_KEYS} }}"#);
    vec![
        ("type", quoted("array")),
        ("items", object(&member)),
        ("$comment", quoted("A member may be empty or have several keys: such a list may be longer.")),
        ("anyOf", array([most, r#"{ "contains": { "pattern": "^[\\s,]*$" } }"#.to_owned()].into_iter())),
    ]
}

fn object(members: &[(&'static str, String)]) -> String {
    let line = |(name, value): &(&str, String)| format!("  {}: {}", quoted(name), value.replace('\n', "\n  "));
    format!("{{\n{}\n}}", members.iter().map(line).collect::<Vec<_>>().join(",\n"))
}

fn array(values: impl Iterator<Item = String>) -> String {
    format!("[{}]", values.collect::<Vec<_>>().join(", "))
}

/// A text in JSON, whose own escapes stand for what cannot be seen: not every dialect of regular expressions has them.
fn quoted(text: &str) -> String {
    let escaped = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        ' '..='~' => c.to_string(),
        _ => format!("\\u{:04x}", c as u32),
    };
    format!("\"{}\"", text.chars().map(escaped).collect::<String>())
}
