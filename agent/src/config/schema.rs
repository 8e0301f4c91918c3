//! The schema that editors read, `docs/oom-watcher.schema.json`, says of a file what the reader says. For tests alone.
//!
//! It may take what the reader refuses, where a schema cannot say why; [`only_the_reader_refuses`] has all of that. It
//! refuses nothing that the reader takes.

#![expect(clippy::unwrap_used, reason = "a failed test panics")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use jsonschema::Validator;
use serde_json::Value;

use super::keys::{self, Bounds, Key, Kind};
use super::tests::{load_env, load_file, write};
use super::value;

fn schema() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/oom-watcher.schema.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Fails if the schema is none.
fn validator() -> Validator {
    jsonschema::draft7::new(&schema()).unwrap()
}

/// What the schema has for each key, by the key's name with its sections.
fn keys(name: &str, schema: &Value, found: &mut BTreeMap<String, Value>) {
    if !name.is_empty() {
        assert!(schema["description"].as_str().is_some_and(|text| !text.is_empty()), "{name} has no description");
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

/// What no text may be.
const NO_TEXT: &[&str] = &["", "~", "12", "1.5", "true", "[a]", "{a: b}"];

/// Values as YAML.
type Values = &'static [&'static str];

/// Values of a kind that are good, and such that are not.
fn values(kind: Kind) -> (Values, Vec<&'static str>) {
    let (good, bad): (Values, Values) = match kind {
        Kind::Name => (
            &["a", "worker-1.example.org", "a b", "ä", r#""12""#, r#""\uFEFFa""#],
            &[
                r#""""#,
                r#"" ""#,
                r#""a ""#,
                r#"" a""#,
                r#""\u00a0a""#,
                r#""a\u2003""#,
                r#""a\nb""#,
                r#""a\x7fb""#,
                r#""a\u0085b""#,
            ],
        ),
        Kind::NodeCgroup => (
            &["auto", "all", "/docker/node", "/"],
            &[r#""""#, "none", "Auto", "docker/node", r#""all ""#, r#""/a\0b""#],
        ),
        Kind::Address => (GOOD_ADDRESSES, BAD_ADDRESSES),
        Kind::Filter => (
            &["info", "WARN", r#""off""#, "inof", r#""info,oom_watcher=debug""#, r#""[span]=info""#],
            &[r#""""#, r#"" ""#, r#""\n""#],
        ),
        // Its words are checked by themselves.
        Kind::OneOf(_) => (&[], &[r#""""#, "Human", "text", r#""json ""#, "Kills", "all", "0"]),
        Kind::Boolean => (&["true", "false", "False"], &["", "~", "yes", "1", r#""true""#, "[true]"]),
        Kind::Auto => (
            &["auto", "true", "false", r#""true""#, r#""false""#, "True"],
            &["", "~", "yes", "Auto", "1", r#""""#, r#""True""#, "[auto]"],
        ),
        Kind::Path => (
            &["/run/x", "/", "none", r#""""#, "/a b", r#""/a\nb""#],
            &["run/x", ".", "None", r#""none ""#, "~/x", r#"" /a""#, r#""/a\0b""#],
        ),
        Kind::Size(_) => (
            &["1MiB", "001MiB", "1024KiB", "65536", r#""65536""#, "0x10000", "65536.0"],
            &[
                "",
                "~",
                "true",
                "[1MiB]",
                r#""""#,
                "MiB",
                "1GiB",
                "1MB",
                "1mib",
                "1.5MiB",
                r#""1 MiB""#,
                "-1",
                "-65536",
                "0",
                "1048576.5",
                "4294967296MiB",
                ".inf",
            ],
        ),
        Kind::Number(_) => (
            &["2000", "2000.0", "1e3", "0x10"],
            &["", "~", "true", "[1]", "-1", "1.5", r#""2000""#, "1k", ".inf", ".nan", "18446744073709551616"],
        ),
        Kind::Duration(_) => (&[], NO_DURATIONS),
        Kind::PodKeys => (GOOD_LISTS, BAD_LISTS),
        Kind::DaemonSet => (
            &["kube-system/oom-watcher", "a/b.c-9", "none", r#""""#],
            &[
                "oom-watcher",
                "a/",
                "/a",
                "a/b/c",
                "A/b",
                "a/B",
                "a.b/c",
                "a/-b",
                "a/b.",
                r#""a/b\n""#,
                "None",
                r#""none ""#,
            ],
        ),
        Kind::File | Kind::Port | Kind::Specified => (&[], &[]),
    };
    let is_text = !matches!(kind, Kind::Boolean | Kind::Auto | Kind::Size(_) | Kind::Number(_) | Kind::PodKeys);
    (good, [if is_text { NO_TEXT } else { &[] }, bad].concat())
}

const GOOD_ADDRESSES: Values = &[
    "0.0.0.0:8080",
    "127.0.0.1:1",
    "249.199.99.9:9",
    "255.255.255.255:65535",
    "1.2.3.4:00080",
    "1.2.3.4:6553",
    r#""[::]:8080""#,
    r#""[2001:DB8::1]:80""#,
    r#""[::ffff:1.2.3.4]:80""#,
    r#""[fe80::1%2]:80""#,
];
#[rustfmt::skip]
const BAD_ADDRESSES: Values = &[
    r#""""#, "8080", r#""8080""#, r#"":8080""#, "0.0.0.0", "0.0.0.0:0", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:70000",
    "1.2.3.4:100000", "1.2.3.4:-1", "1.2.3.4:+80", "1.2.3.4:80/", r#"" 1.2.3.4:80""#, "256.0.0.1:80", "1.2.3.300:80",
    "01.2.3.4:80", "1.2.3:80", "1.2.3.4.5:80", "localhost:80", "::1", r#""::1:80""#, r#""[::]""#, r#""[::]:0""#,
    r#""[]:80""#, r#""[::1%]:80""#, r#""[::1%a]:80""#,
];

const GOOD_LISTS: Values = &[
    "[]",
    "[a]",
    "[app.kubernetes.io/name, team]",
    r#"["1"]"#,
    "[A_b.C-1]",
    "[-./a]",
    r#"[""]"#,
    r#"[" a "]"#,
    r#"["a,b/c"]"#,
    r#"[",", "a,"]"#,
];
#[rustfmt::skip]
const BAD_LISTS: Values = &[
    "", "~", "a", "1", "true", "{}", r#""""#, "[1]", "[true]", "[~]", "[[a]]", "[a/b/c]", "[-a]", "[a-]", "[_]",
    "[a b]", "[A.io/a]", "[/a]", "[a/]", "[ä]", "[a, b/]",
];

const NO_DURATIONS: Values = &[
    "",
    "~",
    "10",
    r#""10""#,
    "s",
    "5S",
    "5sec",
    r#""5 s""#,
    "1m30s",
    "-5s",
    "+5s",
    "5.0s",
    "99999999999999999999s",
    "9999999999999999999d",
];

/// A file with this one key.
fn document(key: &str, value: &str) -> String {
    match key.split_once('.') {
        Some((section, key)) => format!("{section}:\n  {key}: {value}\n"),
        None => format!("{key}: {value}\n"),
    }
}

fn reader_takes(text: &str) -> bool {
    load_file(write(text).path()).is_ok()
}

fn schema_takes(validator: &Validator, text: &str) -> bool {
    serde_yaml::from_str(text).is_ok_and(|file: Value| validator.is_valid(&file))
}

/// Both say this of a file.
#[track_caller]
fn check(validator: &Validator, text: &str, expected: bool) {
    assert_eq!(
        (reader_takes(text), schema_takes(validator, text)),
        (expected, expected),
        "reader and schema of\n{text}"
    );
}

#[test]
fn the_schema_has_the_keys_of_the_reader_with_their_defaults() {
    let default = |key: &Key| key.written_default().map(str::to_owned);
    let expected: BTreeMap<_, _> = keys::in_file().map(|(name, key)| (name.to_owned(), default(key))).collect();
    let found = all_keys().into_iter().map(|(key, schema)| {
        let default =
            schema.get("default").map(|default| default.as_str().map_or_else(|| default.to_string(), str::to_owned));
        (key, default)
    });
    assert_eq!(found.collect::<BTreeMap<_, _>>(), expected);
}

#[test]
fn the_schema_and_the_reader_agree_on_the_form_of_a_file() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/oom-watcher.example.yaml");
    let example = std::fs::read_to_string(example).unwrap();
    assert!(
        example.starts_with("# yaml-language-server: $schema=oom-watcher.schema.json\n"),
        "no editor finds the schema of the example"
    );
    let validator = validator();
    check(&validator, &example, true);
    check(&validator, &load_env(&[]).unwrap().to_string(), true);
    for text in [
        "",
        "# nothing\n",
        "---\n",
        "~\n",
        "{}\n",
        "log:\n",
        "log: ~\n",
        "log: {}\n",
        "log:\nprobe:\nseries:\nkubernetes:\nstate:\nexport:\n",
        "log: {filter: info, format: json}\n",
    ] {
        check(&validator, text, true);
    }
    for text in [
        "\"\"\n",
        "just a text\n",
        "true\n",
        "1\n",
        "[]\n",
        "nodename: a\n",
        "Listen: 1.2.3.4:80\n",
        "nothing: ~\n",
        "1: a\n",
        "<<: {}\n",
        "log: info\n",
        "log: []\n",
        "log: \"\"\n",
        "log: {level: info}\n",
        "log: {log: {filter: info}}\n",
        "log.filter: info\n",
        "filter: info\n",
        "a: [\n",
        "node_name: !secret a\n",
        "listen: 1.2.3.4:80\n---\nlisten: 1.2.3.4:80\n",
    ] {
        check(&validator, text, false);
    }
}

#[test]
fn the_schema_and_the_reader_agree_on_each_value() {
    let validator = validator();
    for (name, key) in keys::in_file() {
        let (good, bad) = values(key.kind);
        good.iter().for_each(|value| check(&validator, &document(name, value), true));
        bad.iter().for_each(|value| check(&validator, &document(name, value), false));
        if let Kind::OneOf(words) = key.kind {
            words.iter().for_each(|word| check(&validator, &document(name, word), true));
        }
    }
}

#[test]
fn the_schema_and_the_reader_agree_on_lengths() {
    let validator = validator();
    let (name, domain) = ("n".repeat(63), "d".repeat(253));
    let list = |members: usize| vec!["a"; members].join(", ");
    check(&validator, &document("node_name", &domain), true);
    check(&validator, &document("node_name", &format!("{domain}d")), false);
    for (good, bad) in [
        (format!("[{name}]"), format!("[{name}n]")),
        (format!("[{domain}/{name}]"), format!("[d{domain}/{name}]")),
        (format!("[{}]", list(16)), format!("[{}]", list(17))),
        // What is empty does not count.
        (format!("[{}, \"\", \" \"]", list(16)), format!("[{}, b]", list(16))),
    ] {
        for key in ["kubernetes.labels", "kubernetes.annotations"] {
            check(&validator, &document(key, &good), true);
            check(&validator, &document(key, &bad), false);
        }
    }
}

/// At each border, beside it by each power of ten, and at each number of digits.
#[test]
fn the_schema_and_the_reader_agree_on_the_bounds_of_durations() {
    let validator = validator();
    let (second, minute, day) = (1000_u64, 60_000, 86_400_000);
    let millis =
        |text: &'static str| value::duration(text, Bounds { min: text, max: text }).unwrap().0.as_millis() as u64;
    for (key, row) in keys::in_file() {
        let Kind::Duration(Bounds { min, max }) = row.kind else { continue };
        let (min, max) = (millis(min), millis(max));
        for (unit, millis) in [("ms", 1), ("s", second), ("m", minute), ("h", 60 * minute), ("d", day)] {
            let powers = (0..10).map(|digits| 10_u64.pow(digits));
            let beside = [min / millis, max / millis].into_iter().flat_map(|border| {
                powers
                    .clone()
                    .flat_map(move |power| [Some(border), border.checked_sub(power), border.checked_add(power)])
                    .flatten()
            });
            let digits = powers
                .clone()
                .flat_map(|power| (1..10).flat_map(move |digit| [digit * power, (digit + 1) * power - 1]));
            for number in beside.chain(digits).collect::<BTreeSet<u64>>() {
                check(&validator, &document(key, &format!("{number}{unit}")), (min..=max).contains(&(number * millis)));
            }
        }
    }
}

#[test]
fn the_schema_and_the_reader_agree_on_the_bounds_of_sizes_and_numbers() {
    let validator = validator();
    for (key, row) in keys::in_file() {
        if let Kind::Number(Bounds { min, max }) = row.kind {
            let [min, max] = [min, max].map(|bound| bound.parse::<u64>().unwrap());
            for number in [min.saturating_sub(1), min, max, max + 1] {
                check(&validator, &document(key, &number.to_string()), (min..=max).contains(&number));
            }
        }
        let Kind::Size(Bounds { min, max }) = row.kind else { continue };
        let [min, max] = [min, max].map(|bound| value::size(bound, Bounds { min, max }).unwrap().0.into());
        for power in (0..32).map(|digits| 1_u64 << digits) {
            for number in [power - 1, power, power + 1, 3 * power] {
                for (unit, bytes) in [("", 1), ("KiB", 1 << 10), ("MiB", 1 << 20)] {
                    let bytes = number * bytes;
                    let expected = bytes.is_power_of_two() && (min..=max).contains(&bytes);
                    check(&validator, &document(key, &format!("{number}{unit}")), expected);
                    check(&validator, &document(key, &format!("\"{number}{unit}\"")), expected);
                }
            }
        }
    }
}

#[test]
fn only_the_reader_refuses() {
    let validator = validator();
    for (why, text) in [
        ("bytes are not characters", document("node_name", &"ä".repeat(127))),
        ("the grammar of IPv6 addresses", document("listen", r#""[:::]:80""#)),
        ("the grammar of IPv6 addresses", document("listen", r#""[1:2]:80""#)),
        ("a scope of an IPv6 address has 32 bits", document("listen", r#""[fe80::1%4294967296]:80""#)),
        ("the grammar of filters", document("log.filter", r#""info,a=loud""#)),
        ("17 keys in one member of a list", document("kubernetes.labels", &format!("[\"{}\"]", ["a"; 17].join(",")))),
        (
            "17 keys in a list with an empty member",
            document("kubernetes.annotations", &format!("[\"\", {}]", ["a"; 17].join(", "))),
        ),
        // Editors say this of any YAML.
        ("a key that is there twice", "listen: 1.2.3.4:80\nlisten: 1.2.3.4:80\n".to_owned()),
    ] {
        assert_eq!(
            (reader_takes(&text), schema_takes(&validator, &text)),
            (false, true),
            "{why}: reader and schema of\n{text}"
        );
    }
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
