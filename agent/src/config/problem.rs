//! What is wrong with a configuration, and what is only odd: values to be shown, nothing is logged here.

use std::fmt;

use super::keys::Kind;

/// One value that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The flag, the variable, or the file's path, line, column and key.
    pub name: String,
    /// What was there. Secrets are not repeated.
    pub found: String,
    /// What could have been there, or the remedy.
    pub expected: String,
}

/// All that is wrong: at least one problem, one per line when shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

/// Something that is allowed but probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The flag, the variable or the place in the file.
    pub name: String,
    /// What about it.
    pub text: String,
}

/// Why a parser did not take a text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// What to show instead of the text itself: it is a secret, or its content is what is wrong.
    pub(super) found: Option<String>,
    pub(super) expected: String,
}

impl Problems {
    /// The problems in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    /// A general variable is read for each signal: the same problem is told once.
    pub(super) fn push(&mut self, name: impl Into<String>, found: impl Into<String>, expected: impl Into<String>) {
        let problem = Problem { name: name.into(), found: found.into(), expected: expected.into() };
        if !self.0.contains(&problem) {
            self.0.push(problem);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Refused {
    pub(super) fn new(found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self { found: Some(found.into()), expected: expected.into() }
    }
}

impl<T: Into<String>> From<T> for Refused {
    fn from(expected: T) -> Self {
        Self { found: None, expected: expected.into() }
    }
}

impl From<Kind> for Refused {
    fn from(kind: Kind) -> Self {
        Self { found: None, expected: kind.to_string() }
    }
}

/// In quotation marks, control characters escaped, not longer than a line of a log.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 120;
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{:?}…", text.get(..cut).unwrap_or_default()),
        None => format!("{text:?}"),
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, expected {}", self.name, self.found, self.expected)
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.text)
    }
}
