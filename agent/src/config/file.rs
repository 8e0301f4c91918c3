//! The YAML file: which keys it may have, and what is wrong with its form. What the values mean is not known here.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::path::Path;

use super::keys::{self, Kind};
use super::origin::{Candidate, Origin};
use super::problem::{Problems, quoted};
use super::yaml::{self, Tree};

/// What a file may be long: configuration, certificates.
pub(super) const MAX_BYTES: u64 = 1 << 20;

/// More are not told of one file: each costs a walk through it.
const MAX_PROBLEMS: usize = 20;

/// The values of a file by key, sections joined with dots.
#[derive(Default)]
pub(super) struct File(BTreeMap<&'static str, Candidate>);

impl File {
    pub(super) fn get(&self, key: &str) -> Option<Candidate> {
        self.0.get(key).cloned()
    }
}

/// What YAML has for a value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Number,
    TextOrNumber,
    Flag,
    FlagOrText,
    /// A list of texts, handed on as one text with commas.
    Texts,
}

impl Form {
    fn of(kind: Kind) -> Self {
        match kind {
            Kind::Number(_) => Self::Number,
            Kind::Size(_) => Self::TextOrNumber,
            Kind::Boolean => Self::Flag,
            Kind::Auto => Self::FlagOrText,
            Kind::PodKeys => Self::Texts,
            _ => Self::Text,
        }
    }
}

/// Reads the file at `path`, which was set by `name`. What is wrong with its form is added to `problems`; its values
/// are still texts.
pub(super) fn read(path: &Path, name: &str, problems: &mut Problems) -> File {
    let mut file = File::default();
    let shown = path.display().to_string();
    let bytes = match bounded(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            problems.push(name, format!("{}: {error}", quoted(&shown)), "a readable YAML file");
            return file;
        }
    };
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) => text,
        Err(error) => {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            let column = before.iter().rev().take_while(|byte| **byte != b'\n').count() + 1;
            problems.push(format!("{shown}:{line}:{column}"), "bytes that are not UTF-8", "a YAML text");
            return file;
        }
    };
    // An empty document is no error: everything may be left out.
    let is_empty = text.lines().map(str::trim).all(|line| line.is_empty() || line.starts_with('#'));
    match if is_empty { Ok(Tree::Nothing) } else { yaml::parse(text) } {
        Ok(tree) => Reading { path: &shown, text, problems, file: &mut file }.section("", &tree, &mut Vec::new()),
        Err(error) => syntax(&shown, text, error, problems),
    }
    file
}

/// The content of a regular file of at most [`MAX_BYTES`].
pub(super) fn bounded(path: &Path) -> io::Result<Vec<u8>> {
    let kind = fs::metadata(path)?.file_type();
    if !kind.is_file() {
        // A pipe would have to be waited for.
        return Err(io::Error::other(if kind.is_dir() { "a directory" } else { "not a regular file" }));
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_BYTES {
        true => Err(io::Error::other("larger than 1 MiB")),
        false => Ok(bytes),
    }
}

fn syntax(path: &str, text: &str, error: yaml::Malformed, problems: &mut Problems) {
    let (name, line) = match error.at {
        Some((line, column)) => (format!("{path}:{line}:{column}"), text.lines().nth(line.saturating_sub(1))),
        None => (path.to_owned(), None),
    };
    let has_tab = line.is_some_and(|line| line.chars().take_while(|c| c.is_whitespace()).any(|c| c == '\t'));
    let expected =
        if has_tab { "YAML, which is indented with spaces: there is a tab" } else { "YAML with `key: value` lines" };
    problems.push(name, error.message, expected);
}

struct Reading<'a> {
    path: &'a str,
    text: &'a str,
    problems: &'a mut Problems,
    file: &'a mut File,
}

impl Reading<'_> {
    /// Takes the keys of the section `name` (with a dot at its end, or empty), whose entry is found by the positions in
    /// `at`.
    fn section(&mut self, name: &str, tree: &Tree, at: &mut Vec<usize>) {
        let entries = match tree {
            Tree::Nothing => return,
            Tree::Map(entries) => entries,
            other => {
                let place = if at.is_empty() {
                    self.path.to_owned()
                } else {
                    format!("{}: {}", self.place(at), name.trim_end_matches('.'))
                };
                self.problems.push(place, other.to_string(), format!("the keys {}", known(name)));
                return;
            }
        };
        for (index, (key, value)) in entries.iter().enumerate() {
            if self.problems.iter().count() >= MAX_PROBLEMS {
                return;
            }
            at.push(index);
            self.entry(key, name, value, at);
            if entries.iter().take(index).any(|(earlier, _)| earlier == key) {
                self.problems.push(format!("{}: {name}{key}", self.place(at)), "the same key again", "each key once");
            }
            at.pop();
        }
    }

    fn entry(&mut self, name: &str, section: &str, value: &Tree, at: &mut Vec<usize>) {
        let key = format!("{section}{name}");
        let prefix = format!("{key}.");
        if keys::in_file().any(|(known, _)| known.starts_with(&prefix)) {
            return self.section(&prefix, value, at);
        }
        let place = self.place(at);
        let Some((key, row)) = keys::in_file().find(|(known, _)| *known == key && !name.contains('.')) else {
            self.problems.push(format!("{place}: {key}"), "an unknown key", format!("one of {}", known(section)));
            return;
        };
        let form = Form::of(row.kind);
        let text = match value {
            Tree::Text(text) if matches!(form, Form::Text | Form::TextOrNumber | Form::FlagOrText) => text.clone(),
            Tree::Number(number) if matches!(form, Form::Number | Form::TextOrNumber) => number.clone(),
            Tree::Bool(flag) if matches!(form, Form::Flag | Form::FlagOrText) => flag.to_string(),
            Tree::List(texts) if form == Form::Texts && texts.iter().all(Option::is_some) => {
                texts.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(",")
            }
            other => {
                let expected = match form {
                    Form::Text => "a text; write it in quotation marks",
                    Form::Number => "a whole number without quotation marks",
                    Form::TextOrNumber => "a number of bytes or a text such as 1MiB",
                    Form::Flag => "true or false, without quotation marks",
                    Form::FlagOrText => "true, false, or a text",
                    Form::Texts => "a list of texts, such as [app, team]",
                };
                self.problems.push(format!("{place}: {key}"), other.to_string(), expected);
                return;
            }
        };
        self.file.0.insert(key, Candidate { origin: Origin::File { place, key }, text });
    }

    /// Path, line and column of the key at these positions.
    fn place(&self, at: &[usize]) -> String {
        match yaml::place(self.text, at) {
            Some((line, column)) => format!("{}:{line}:{column}", self.path),
            None => self.path.to_owned(),
        }
    }
}

/// The keys that a section may have.
fn known(section: &str) -> String {
    let mut names: Vec<&str> =
        keys::in_file().filter_map(|(key, _)| key.strip_prefix(section)?.split('.').next()).collect();
    names.dedup();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use super::*;

    fn problems(content: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), content).unwrap();
        let mut problems = Problems::default();
        read(file.path(), "--config", &mut problems);
        problems.to_string().replace(&file.path().display().to_string(), "F")
    }

    #[test]
    fn a_malformed_file_is_refused_with_its_place() {
        let keys = known("");
        #[rustfmt::skip]
        let rows: &[(&str, &str)] = &[
            ("", ""),
            ("# nothing\n\n  # at all\n", ""),
            ("---\n", ""),
            ("probe:\n", ""),
            ("log: {filter: info}\n", ""),
            ("probe:\n  ring_bytes: 65536\n", ""),
            ("nodename: a\n", &format!("F:1:1: nodename: an unknown key, expected one of {keys}")),
            ("1: a\n", &format!("F:1:1: 1: an unknown key, expected one of {keys}")),
            ("<<: {}\n", &format!("F:1:1: <<: an unknown key, expected one of {keys}")),
            ("log.filter: info\n", &format!("F:1:1: log.filter: an unknown key, expected one of {keys}")),
            ("log:\n  filter: info\n  level: info\n", "F:3:3: log.level: an unknown key, expected one of filter, \
                format"),
            ("log:\n\tfilter: info\n", "F:2:1: found character that cannot start any token, expected YAML, which is \
                indented with spaces: there is a tab"),
            ("a: [\n", "F:2:1: did not find expected node content, expected YAML with `key: value` lines"),
            ("log: {format: json}\nnode_name: a\nlog: {format: human}\n", "F:3:1: log: the same key again, expected \
                each key once"),
            ("log:\n  filter: info\n  filter: warn\n", "F:3:3: log.filter: the same key again, expected each key once"),
            ("node_name: 12\n", "F:1:1: node_name: the number 12, expected a text; write it in quotation marks"),
            ("node_name:\n", "F:1:1: node_name: nothing, expected a text; write it in quotation marks"),
            ("listen: [a]\n", "F:1:1: listen: a list, expected a text; write it in quotation marks"),
            ("series:\n  max_owners: \"5\"\n", "F:2:3: series.max_owners: the text \"5\", expected a whole number \
                without quotation marks"),
            ("probe:\n  ring_bytes: true\n", "F:2:3: probe.ring_bytes: true, expected a number of bytes or a text such \
                as 1MiB"),
            ("log: info\n", "F:1:1: log: the text \"info\", expected the keys filter, format"),
            ("just a text\n", &format!("F: the text \"just a text\", expected the keys {keys}")),
            ("node_name: !secret a\n", "F:1:12: node_name: invalid type: enum, expected a YAML value without a tag, \
                expected YAML with `key: value` lines"),
            ("a: 1\n---\nb: 2\n", "F: deserializing from YAML containing more than one document is not supported, \
                expected YAML with `key: value` lines"),
            ("nodename: a\nlog:\n  filter: 1\nfoo: b\n", &format!("F:1:1: nodename: an unknown key, expected one of \
                {keys}\nF:3:3: log.filter: the number 1, expected a text; write it in quotation marks\nF:4:1: foo: an \
                unknown key, expected one of {keys}")),
        ];
        for (text, expected) in rows {
            assert_eq!(problems(text.as_bytes()), *expected, "{text}");
        }
        assert_eq!(problems(b"log:\n  filter: \xff\xfe"), "F:2:11: bytes that are not UTF-8, expected a YAML text");
        assert!(
            problems(b"\x7fELF\x02\x01\x01\0\0").contains("control characters are not allowed"),
            "{}",
            problems(b"\x7fELF\x02\x01\x01\0\0")
        );
        let wrong = (0..1000).map(|key| format!("key{key}: {{}}\n")).collect::<String>();
        assert_eq!(problems(wrong.as_bytes()).lines().count(), MAX_PROBLEMS);
        assert!(problems("[".repeat(1000).as_bytes()).starts_with("F:"));
        assert!(problems("&a [*a, *a]".repeat(9).as_bytes()).starts_with("F:"));
    }

    #[test]
    fn what_is_no_file_of_a_reasonable_size_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("none.yaml");
        let check = |path: &Path, expected: &str| {
            let mut problems = Problems::default();
            read(path, "--config", &mut problems);
            assert_eq!(
                problems.to_string(),
                format!("--config: {:?}: {expected}, expected a readable YAML file", path.display().to_string())
            );
        };
        check(&missing, "No such file or directory (os error 2)");
        check(directory.path(), "a directory");
        check(Path::new("/dev/null"), "not a regular file");
        let large = directory.path().join("large.yaml");
        fs::write(&large, "#".repeat(1 << 20)).unwrap();
        assert_eq!(bounded(&large).unwrap().len(), 1 << 20);
        fs::write(&large, "#".repeat((1 << 20) + 1)).unwrap();
        check(&large, "larger than 1 MiB");
    }
}
