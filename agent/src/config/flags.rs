//! The flags of the commands that read the configuration. Their values are texts: `load` checks them like all others.

use std::collections::BTreeMap;

use clap::builder::NonEmptyStringValueParser;
use clap::{Arg, ArgMatches};

use super::keys::{Command, Flag, KEYS};
use super::origin::{Candidate, Origin};

const HEADING: &str = "Configuration (a flag wins over a variable, a variable over the file)";

/// The flags that were given, with their values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags(BTreeMap<&'static str, String>);

impl Flags {
    /// The flags that a command takes: those of the keys that it uses.
    pub fn of(command: Command) -> impl Iterator<Item = Arg> {
        KEYS.iter().filter_map(move |key| {
            let flag = key.flag.filter(|flag| flag.commands.contains(&command))?;
            let variable = key.variable.map(|name| format!(" [env: {name}]")).unwrap_or_default();
            let help = format!("{}{variable} [default: {}]", key.meaning, key.default);
            let arg = Arg::new(id(flag)).long(id(flag)).value_name(flag.value).help(help).help_heading(HEADING);
            // A variable that is not set gives an empty one in a script, which is never meant.
            let arg = arg.value_parser(NonEmptyStringValueParser::new());
            // The address has a port already.
            Some(if flag.name == "--listen" { arg.conflicts_with("metrics-port") } else { arg })
        })
    }

    /// Those that a command was given.
    pub fn given(matches: &ArgMatches) -> Self {
        let flags = KEYS.iter().filter_map(|key| key.flag);
        let given = |flag: Flag| {
            let value = matches.try_get_one::<String>(id(flag)).ok().flatten()?;
            Some((flag.name, value.clone()))
        };
        Self(flags.filter_map(given).collect())
    }

    pub(super) fn get(&self, name: &'static str) -> Option<Candidate> {
        Some(Candidate { origin: Origin::Flag(name), text: self.0.get(name)?.clone() })
    }
}

/// Flags with their dashes, as if they were given.
impl<const N: usize> From<[(&'static str, &str); N]> for Flags {
    fn from(flags: [(&'static str, &str); N]) -> Self {
        flags.into_iter().collect()
    }
}

impl<'a> FromIterator<(&'static str, &'a str)> for Flags {
    fn from_iter<I: IntoIterator<Item = (&'static str, &'a str)>>(flags: I) -> Self {
        Self(flags.into_iter().map(|(name, text)| (name, text.to_owned())).collect())
    }
}

fn id(flag: Flag) -> &'static str {
    flag.name.trim_start_matches('-')
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use clap::error::ErrorKind;

    use super::*;

    fn parse(command: Command, arguments: &str) -> Result<Flags, ErrorKind> {
        let program = clap::Command::new("p").no_binary_name(true).args(Flags::of(command));
        let matches = program.try_get_matches_from(arguments.split_whitespace()).map_err(|error| error.kind())?;
        Ok(Flags::given(&matches))
    }

    #[test]
    fn flags_are_texts_and_an_address_excludes_a_port() {
        let all = "--config f --node-name n --metrics-port x --pin-dir d --state-dir s --log-format y --log-filter z";
        let expected = Flags::from([
            ("--config", "f"),
            ("--node-name", "n"),
            ("--metrics-port", "x"),
            ("--pin-dir", "d"),
            ("--state-dir", "s"),
            ("--log-format", "y"),
            ("--log-filter", "z"),
        ]);
        assert_eq!(parse(Command::Run, all), Ok(expected));
        assert_eq!(parse(Command::Run, ""), Ok(Flags::default()));
        assert_eq!(parse(Command::Run, "--listen a --metrics-port 1"), Err(ErrorKind::ArgumentConflict));
        assert_eq!(parse(Command::Run, "--state-dir="), Err(ErrorKind::InvalidValue));
    }

    #[test]
    fn a_command_refuses_what_it_does_not_use() {
        let flags: Vec<Flag> = KEYS.iter().filter_map(|key| key.flag).collect();
        for command in Command::ALL {
            for flag in &flags {
                let parsed =
                    parse(command, &format!("{} text", flag.name)).map(|given| given.get(flag.name).unwrap().text);
                let expected = match flag.commands.contains(&command) {
                    true => Ok("text".to_owned()),
                    false => Err(ErrorKind::UnknownArgument),
                };
                assert_eq!(parsed, expected, "{} {}", command.name(), flag.name);
            }
        }
        let taken = |command| Flags::of(command).count();
        assert_eq!(Command::ALL.map(taken), [flags.len(), 6, 3, 2, flags.len()]);
    }

    #[test]
    fn help_says_what_else_sets_a_key_and_its_default() {
        let help = clap::Command::new("p").args(Flags::of(Command::Detach)).render_help().to_string();
        let words = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let row = KEYS.iter().find(|key| key.variable == Some("OOM_WATCHER_PIN_DIR")).unwrap();
        let expected = format!("{} [env: OOM_WATCHER_PIN_DIR] [default: /sys/fs/bpf/oom-watcher]", row.meaning);
        assert!(words.contains(&expected), "{help}");
    }
}
