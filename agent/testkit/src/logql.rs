//! Finds the LogQL that we ship and parses it with Grafana's grammar: no test runs Loki. Finds the LogsQL of the pages.

use std::io::Write;
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::Value;

use crate::pages::{files, page};
use crate::programs::Programs;

/// The selector of all our streams, and the text by which LogQL is recognized.
const OUR_STREAMS: &str = r#"{service_name="oom-watcher"}"#;
const MARK: &str = "service_name=";
/// The beginning of a filter that a page shows without the selector.
const GOES_ON: &str = "| ";

/// A LogQL expression and the file that contains it.
#[derive(Debug)]
pub struct Expression {
    /// The file, from the root.
    pub file: String,
    /// The expression, with Grafana's placeholders.
    pub text: String,
}

/// The result of `agent/tests/servers/logql/parse.mjs` for an expression.
#[derive(Debug, Deserialize)]
pub struct Parsed {
    /// Places that do not parse.
    pub errors: Vec<Value>,
    /// The names of all labels in it.
    pub labels: Vec<String>,
    /// The lines that it selects.
    pub filter: Filter,
}

/// The lines that an expression selects.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Filter {
    /// Those with this label.
    Label(Matcher),
    /// Those of the streams with all of these labels.
    Streams {
        /// The conditions.
        streams: Vec<Matcher>,
    },
    /// Those that all of these select.
    All {
        /// The filters.
        all: Vec<Filter>,
    },
    /// Those that one of these selects.
    Any {
        /// The filters.
        any: Vec<Filter>,
    },
    /// Any other stage, which selects no lines.
    Stage {
        /// As it is written.
        stage: String,
    },
}

/// A condition on one label.
#[derive(Clone, Debug, Deserialize)]
pub struct Matcher {
    /// The label's name.
    pub label: String,
    /// `=`, `!=`, `=~` and the like.
    pub operator: String,
    /// What it is compared with.
    pub value: String,
}

/// Each LogQL expression in the pages, manifests, dashboards and configurations. Grafana's placeholders stay in them,
/// except for ranges of time, which would not parse.
pub fn shipped() -> Vec<Expression> {
    let folders = ["docs", "k8s", "otel-collector"].into_iter().flat_map(|folder| files(folder, ""));
    let pages = files("", ".md").into_iter().filter(|file| !file.contains('/'));
    folders.chain(pages).flat_map(|file| of_file(&file)).collect()
}

/// The blocks of LogsQL in the pages.
pub fn shipped_logsql() -> Vec<String> {
    files("docs", ".md").iter().flat_map(|file| blocks(&page(file), "logsql")).collect()
}

fn of_file(file: &str) -> Vec<Expression> {
    let text = page(file);
    let mut found = Vec::new();
    match file.rsplit_once('.').map(|(_, ending)| ending) {
        Some("md") => found = of_page(&text),
        // A template is not YAML yet. The chart's examples show what it renders to.
        Some("json" | "yaml") if !file.contains("/templates/") => {
            for document in serde_yaml::Deserializer::from_str(&text) {
                let mut document = serde_yaml::Value::deserialize(document).unwrap();
                document.apply_merge().unwrap();
                of_value(&serde_json::to_value(document).unwrap(), &mut found);
            }
        }
        _ => {}
    }
    // LogQL in any other place, such as a comment or a script, would be unchecked.
    let count = |text: &str| text.matches(MARK).count();
    let ours = found.iter().map(|text| count(text)).sum::<usize>();
    let escaped = text.replace("\\\"", "\"");
    assert!(count(&escaped) <= ours, "{file} has LogQL in a place that no test reads; found: {found:?}");
    let whole = |text: String| if text.starts_with(GOES_ON) { format!("{OUR_STREAMS} {text}") } else { text };
    let expression = |text| Expression { file: file.to_owned(), text: with_ranges(&whole(text)) };
    found.into_iter().map(expression).collect()
}

/// The blocks of LogQL, and the inline code that selects our streams or is a filter for them.
fn of_page(text: &str) -> Vec<String> {
    let in_lines = text.split("```").step_by(2).flat_map(|text| text.split('`').skip(1).step_by(2));
    let in_lines = in_lines.filter(|code| code.contains(MARK) || code.starts_with(GOES_ON)).map(str::to_owned);
    blocks(text, "logql").into_iter().chain(in_lines).collect()
}

/// The contents of the blocks in that language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let blocks = text.split("```").skip(1).step_by(2);
    blocks.filter_map(|block| Some(block.strip_prefix(language)?.strip_prefix('\n')?.to_owned())).collect()
}

/// Each text that selects our streams, and each query of a panel that has Loki as its source.
fn of_value(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) if text.contains(MARK) => found.push(text.clone()),
        Value::Array(values) => values.iter().for_each(|value| of_value(value, found)),
        Value::Object(values) => {
            if let (Some("loki"), Some(query)) = (value["datasource"]["type"].as_str(), value["expr"].as_str()) {
                found.extend((!query.contains(MARK)).then(|| query.to_owned()));
            }
            values.values().for_each(|value| of_value(value, found));
        }
        _ => {}
    }
}

/// The query with an hour in place of each range of time that Grafana fills in.
fn with_ranges(query: &str) -> String {
    let ranges = ["[$__auto]", "[$__interval]", "[$__range]", "[$__rate_interval]"];
    ranges.iter().fold(query.to_owned(), |query, range| query.replace(range, "[1h]"))
}

/// Parses the expressions; the results are in the same order.
pub fn parse<'a>(programs: &Programs, texts: impl IntoIterator<Item = &'a str>) -> Vec<Parsed> {
    let mut parser = Command::new(programs.path("node"))
        .arg(programs.path("logql"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let texts: Value = texts.into_iter().collect();
    parser.stdin.take().unwrap().write_all(texts.to_string().as_bytes()).unwrap();
    let output = parser.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}
