//! Reads the text of `/metrics` (Prometheus text format 0.0.4), strictly: a line that is not of the format fails the
//! test.

use std::collections::BTreeMap;

/// One line with a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The name of the series.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

impl Sample {
    /// A label; empty if there is none, which Prometheus takes for the same.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// All samples of a text, in its order. Comments are passed over.
pub fn parse_exposition(text: &str) -> Vec<Sample> {
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| sample(line).unwrap_or_else(|| panic!("not a line of the text format: {line}"))).collect()
}

/// The sum of the samples of that name.
pub fn total(samples: &[Sample], name: &str) -> f64 {
    samples.iter().filter(|sample| sample.name == name).map(|sample| sample.value).sum()
}

fn sample(line: &str) -> Option<Sample> {
    let name_end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            if labels.insert(label.to_owned(), value).is_some() {
                return None;
            }
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = &rest[1..];
    }
    // A time may follow the value.
    let value = rest.strip_prefix(' ')?.split(' ').next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels, value })
}

/// The value up to the closing quotation mark, and what follows that.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(match characters.next()?.1 {
                'n' => '\n',
                escaped @ ('\\' | '"') => escaped,
                _ => return None,
            }),
            plain => value.push(plain),
        }
    }
    None
}

#[test]
fn the_text_format_is_read() {
    type Expected<'a> = Option<(&'a str, &'a [(&'a str, &'a str)], f64)>;
    let check = |line: &str, expected: Expected<'_>| {
        let expected = expected.map(|(name, labels, value)| Sample {
            name: name.to_owned(),
            labels: labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            value,
        });
        assert_eq!(sample(line), expected, "{line}");
    };
    check("up 1", Some(("up", &[], 1.0)));
    check("up 1 1395066363000", Some(("up", &[], 1.0)));
    check("up{} 1e3", Some(("up", &[], 1000.0)));
    check(r#"a{b="c",d=""} +Inf"#, Some(("a", &[("b", "c"), ("d", "")], f64::INFINITY)));
    check(r#"a{b="x, y=\"z\"}\\\n",} 0"#, Some(("a", &[("b", "x, y=\"z\"}\\\n")], 0.0)));
    check(r#"a{b="c",b="d"} 1"#, None);
    check(r#"a{b="c} 1"#, None);
    check(r#"a{b="\x"} 1"#, None);
    check("a{b=c} 1", None);
    check("a one", None);
    check("a", None);
}
