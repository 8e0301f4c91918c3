//! YAML as it was written: duplicate keys are kept, and each key's place can be found. But for a test the only importer
//! of `serde_yaml`.
//!
//! The reader does not say where a good value was, so a place is looked up by reading again up to it.

use std::fmt;

use serde::de::{self, Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::problem::quoted;

/// A document as it was written: with duplicate keys.
pub(super) enum Tree {
    Nothing,
    Bool(bool),
    Number(String),
    Text(String),
    /// Its texts; `None` for what is none.
    List(Vec<Option<String>>),
    Map(Vec<(String, Tree)>),
}

/// No YAML.
pub(super) struct Malformed {
    /// Line and column, from 1.
    pub(super) at: Option<(usize, usize)>,
    pub(super) message: String,
}

pub(super) fn parse(text: &str) -> Result<Tree, Malformed> {
    serde_yaml::from_str(text).map_err(|error| {
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default().to_owned();
        Malformed { at: error.location().map(|place| (place.line(), place.column())), message }
    })
}

/// A text as a value in one line: plain where any reader of YAML takes it for a text, else in quotation marks.
pub(super) fn scalar(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:,=".contains(c);
    // Booleans of YAML 1.1, which is what Helm and kubectl read.
    let is_word = ["y", "n", "yes", "no", "on", "off"].iter().any(|word| text.eq_ignore_ascii_case(word));
    if text.chars().all(is_plain) && !is_word && matches!(parse(text), Ok(Tree::Text(read)) if read == text) {
        return text.to_owned();
    }
    let escaped = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        _ if c == '\'' || c.escape_debug().eq([c]) => c.to_string(),
        _ => format!("\\U{:08x}", c as u32),
    };
    format!("\"{}\"", text.chars().map(escaped).collect::<String>())
}

/// Line and column, from 1, of the key that is reached by these positions: the entry of the document, the entry of that
/// section, and so on.
pub(super) fn place(text: &str, at: &[usize]) -> Option<(usize, usize)> {
    let place = Locate(at).deserialize(serde_yaml::Deserializer::from_str(text)).err()?.location()?;
    Some((place.line(), place.column()))
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Number(number) => write!(f, "the number {number}"),
            Self::Text(text) => write!(f, "the text {}", quoted(text)),
            Self::List(_) => f.write_str("a list"),
            Self::Map(_) => f.write_str("a section"),
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value without a tag")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Nothing)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Number(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Number(value.to_string()))
    }

    fn visit_u128<E>(self, value: u128) -> Result<Tree, E> {
        Ok(Tree::Number(value.to_string()))
    }

    fn visit_i128<E>(self, value: i128) -> Result<Tree, E> {
        Ok(Tree::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut texts = Vec::new();
        while let Some(member) = list.next_element::<Tree>()? {
            texts.push(if let Tree::Text(text) = member { Some(text) } else { None });
        }
        Ok(Tree::List(texts))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, value)) = map.next_entry::<Tree, Tree>()? {
            let key = match key {
                Tree::Text(text) | Tree::Number(text) => text,
                other => other.to_string(),
            };
            entries.push((key, value));
        }
        Ok(Tree::Map(entries))
    }
}

/// Fails at the key at these positions, which makes the reader say where that is.
struct Locate<'a>(&'a [usize]);

impl<'de> DeserializeSeed<'de> for Locate<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Locate<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the place that is looked for")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((index, below)) = self.0.split_first() else {
            return Err(de::Error::custom("found"));
        };
        for _ in 0..*index {
            map.next_entry::<IgnoredAny, IgnoredAny>()?;
        }
        if below.is_empty() {
            return map.next_key_seed(Locate(below)).map(|_| ());
        }
        map.next_key::<IgnoredAny>()?;
        map.next_value_seed(Locate(below))
    }
}
