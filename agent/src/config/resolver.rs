//! Chooses between the places where a value can be set, remembers which one it was, and collects what is wrong.

use std::fmt;

use super::effective::{Origins, Setting};
use super::file::File;
use super::flags::Flags;
use super::keys::{self, Bounds, KEYS, Kind, Unset};
use super::origin::{Candidate, Origin};
use super::problem::{Problems, Refused, Warning, quoted};
use super::{Config, Loaded};
use crate::stats::Signal;

/// What has been found so far.
pub(super) struct Resolver<'a> {
    flags: &'a Flags,
    env: &'a dyn Fn(&str) -> Option<String>,
    pub(super) file: File,
    pub(super) problems: Problems,
    warnings: Vec<Warning>,
    origins: Origins,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(flags: &'a Flags, env: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            flags,
            env,
            file: File::default(),
            problems: Problems::default(),
            warnings: Vec::new(),
            origins: Origins::default(),
        }
    }

    /// `config` is absent if something is wrong with it.
    pub(super) fn finish(self, config: Option<Config>) -> Result<Loaded, Problems> {
        match config.filter(|_| self.problems.is_empty()) {
            Some(config) => Ok(Loaded { config, warnings: self.warnings, origins: self.origins }),
            None => Err(self.problems),
        }
    }

    pub(super) fn flag(&self, name: &'static str) -> Option<Candidate> {
        self.flags.get(name)
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

    /// What applies if nothing sets the key, or the variable, of this name.
    pub(super) fn default(&mut self, name: &str) -> Option<Candidate> {
        match KEYS.iter().find(|key| key.file == Some(name) || key.variable == Some(name)).map(|key| key.default) {
            Some(Unset::Value(text)) => Some(Candidate { origin: Origin::Default, text: text.to_owned() }),
            _ => {
                self.problems.push(name, "no default", "a row with a value in the table of keys");
                None
            }
        }
    }

    /// The value of a key of the file and the place where it was set. `None` is a mistake in the table, reported like a
    /// bad value.
    pub(super) fn find<T: fmt::Display>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, Refused>,
    ) -> Option<(T, Origin)> {
        let row = keys::of_file(name);
        let flag = row.and_then(|key| self.flag(key.flag?.name));
        let variable = row.and_then(|key| self.variable(key.variable?));
        let candidates = [flag, variable, self.file.get(name), self.default(name)];
        let (value, origin) = self.choose(candidates, parse)?;
        self.record(name, &value, origin.clone());
        Some((value, origin))
    }

    /// [`Self::find`] without the origin.
    pub(super) fn resolve<T: fmt::Display>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, Refused>,
    ) -> Option<T> {
        Some(self.find(name, parse)?.0)
    }

    /// [`Self::resolve`] for a key with bounds.
    pub(super) fn within<T: fmt::Display>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str, Bounds) -> Result<T, Refused>,
    ) -> Option<T> {
        match keys::of_file(name).map(|key| key.kind) {
            Some(Kind::Size(bounds) | Kind::Number(bounds) | Kind::Duration(bounds)) => {
                self.resolve(name, |text| parse(text, bounds))
            }
            _ => {
                self.problems.push(name, "no bounds", "a row with bounds in the table of keys");
                None
            }
        }
    }

    /// [`Self::resolve`] for a key that is one of these words.
    pub(super) fn one_of<T: Copy>(&mut self, name: &'static str, words: &[(&'static str, T)]) -> Option<T> {
        let expected = keys::of_file(name).map(|key| key.kind.to_string()).unwrap_or_default();
        let word = |text: &str| words.iter().find(|(word, _)| *word == text).map(|(word, _)| *word);
        let chosen = self.resolve(name, |text| word(text).ok_or_else(|| Refused::from(expected.clone())))?;
        words.iter().find(|(word, _)| *word == chosen).map(|(_, value)| *value)
    }

    /// A value in force. Whether a file can say it, the table knows.
    pub(super) fn record(&mut self, key: impl Into<String>, value: impl ToString, origin: Origin) {
        let key = key.into();
        let of_file = keys::of_file(&key).is_some();
        self.origins.0.push(Setting { key, value: value.to_string(), origin, of_file });
    }

    /// The same for a value of a key that a file cannot have.
    pub(super) fn note(&mut self, key: impl Into<String>, value: impl ToString, origin: Origin) {
        self.origins.0.push(Setting { key: key.into(), value: value.to_string(), origin, of_file: false });
    }

    /// A general variable is read for each signal: the same warning is given once.
    pub(super) fn warn(&mut self, name: impl Into<String>, text: impl Into<String>) {
        let warning = Warning { name: name.into(), text: text.into() };
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}
