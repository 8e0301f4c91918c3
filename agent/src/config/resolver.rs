//! Chooses between the places where a value can be set, remembers which one it was, and collects what is wrong.

use std::fmt;

use super::problem::{Problems, Refused, Warning, quoted};
use super::{Config, Loaded};
use crate::stats::Signal;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag(&'static str),
    /// The environment.
    Variable(String),
    /// The configuration file.
    File {
        /// Path, line and column.
        place: String,
        /// The key with its sections, joined with dots.
        key: &'static str,
    },
    /// The host's name.
    Host,
    /// Nowhere: it is not set.
    Default,
}

/// One value in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// What it is called in the configuration file, or would be.
    pub key: String,
    /// As it could be written. Secrets are left out.
    pub value: String,
    /// Where it came from.
    pub origin: Origin,
}

/// The values in force, in the order of the documentation. Its text has one per line: key, value, origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origins(Vec<Setting>);

/// A text that was set somewhere.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) origin: Origin,
    pub(super) text: String,
}

/// What has been found so far.
pub(super) struct Resolver<'a> {
    env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) problems: Problems,
    warnings: Vec<Warning>,
    origins: Origins,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { env, problems: Problems::default(), warnings: Vec::new(), origins: Origins::default() }
    }

    pub(super) fn finish(self, config: Config) -> Result<Loaded, Problems> {
        match self.problems.is_empty() {
            true => Ok(Loaded { config, warnings: self.warnings, origins: self.origins }),
            false => Err(self.problems),
        }
    }

    /// A variable that is set. Empty is the same as not set, as OpenTelemetry asks.
    pub(super) fn variable(&mut self, name: &str) -> Option<Candidate> {
        let text = self.variable_or_empty(name).filter(|text| !text.is_empty())?;
        Some(Candidate { origin: Origin::Variable(name.to_owned()), text })
    }

    pub(super) fn variable_or_empty(&mut self, name: &str) -> Option<String> {
        let text = (self.env)(name)?;
        // What was not UTF-8 was replaced on the way here.
        if text.contains(char::REPLACEMENT_CHARACTER) {
            self.problems.push(name, "bytes that are not UTF-8", "UTF-8");
            return None;
        }
        Some(text)
    }

    /// `OTEL_EXPORTER_OTLP_…` of one signal, then the one for all signals.
    pub(super) fn signal_variables(&mut self, signal: Signal, rest: &str) -> [Option<Candidate>; 2] {
        let specific = format!("OTEL_EXPORTER_OTLP_{}_{rest}", signal.as_str().to_uppercase());
        [self.variable(&specific), self.variable(&format!("OTEL_EXPORTER_OTLP_{rest}"))]
    }

    /// The first candidate that is set. Each is parsed: a bad value is a problem also where another one wins.
    pub(super) fn choose<T>(
        &mut self,
        candidates: impl IntoIterator<Item = Option<Candidate>>,
        parse: impl Fn(&str) -> Result<T, Refused>,
    ) -> Option<(T, Origin)> {
        let mut chosen = None;
        for Candidate { origin, text } in candidates.into_iter().flatten() {
            match parse(&text) {
                Ok(value) if chosen.is_none() => chosen = Some((value, origin)),
                Ok(_) => {}
                Err(refused) => {
                    self.problems.push(origin.name(), refused.found.unwrap_or_else(|| quoted(&text)), refused.expected)
                }
            }
        }
        chosen
    }

    /// [`Self::choose`] or `default`, recorded under `key`.
    pub(super) fn resolve<T: fmt::Display>(
        &mut self,
        key: &str,
        candidates: impl IntoIterator<Item = Option<Candidate>>,
        default: T,
        parse: impl Fn(&str) -> Result<T, Refused>,
    ) -> T {
        let (value, origin) = self.choose(candidates, parse).unwrap_or((default, Origin::Default));
        self.record(key, &value, origin);
        value
    }

    pub(super) fn record(&mut self, key: impl Into<String>, value: impl ToString, origin: Origin) {
        self.origins.0.push(Setting { key: key.into(), value: value.to_string(), origin });
    }

    /// A general variable is read for each signal: the same warning is given once.
    pub(super) fn warn(&mut self, name: impl Into<String>, text: impl Into<String>) {
        let warning = Warning { name: name.into(), text: text.into() };
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

impl Origins {
    /// The settings in the order of the documentation.
    pub fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.0.iter()
    }
}

impl Origin {
    /// What the user called it: the beginning of a message about it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Flag(name) => (*name).to_owned(),
            Self::Variable(name) => name.clone(),
            Self::File { place, key } => format!("{place}: {key}"),
            Self::Host => "the host's name".to_owned(),
            Self::Default => "default".to_owned(),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) => write!(f, "from {name}"),
            Self::Variable(name) => write!(f, "from {name}"),
            Self::File { place, .. } => write!(f, "from {place}"),
            Self::Host => f.write_str("the host's name"),
            Self::Default => f.write_str("default"),
        }
    }
}

impl fmt::Display for Origins {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One very long value does not push all the others' origins out of sight.
        const COLUMN: usize = 60;
        let lines: Vec<_> =
            self.0.iter().map(|setting| (format!("{}: {}", setting.key, setting.value), &setting.origin)).collect();
        let width =
            lines.iter().map(|(text, _)| text.chars().count()).filter(|width| *width <= COLUMN).max().unwrap_or(0);
        for (text, origin) in lines {
            writeln!(f, "{text:width$}  # {origin}")?;
        }
        Ok(())
    }
}
