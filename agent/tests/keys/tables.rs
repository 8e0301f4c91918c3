//! The tables of `docs/operations.md`.

use oom_watcher::config::{Command, Flag, KEYS, Key, Unset};

/// What sets a key, what it is if nothing does, and what it means.
pub(crate) fn keys() -> String {
    let rows = KEYS.iter().filter(|key| key.file.is_some() || key.flag.is_some()).map(|key| {
        let name = key.file.map(code).unwrap_or_default();
        let variable = key.variable.map(code);
        let flag = key.flag.map(|flag| code(flag.name));
        let others: Vec<_> = variable.into_iter().chain(flag).collect();
        [name, default(key), others.join(", "), key.kind.to_string(), key.meaning.to_owned()]
    });
    table(["key of the file", "default", "variable, flag", "values", "meaning"], rows)
}

/// The flags, and the commands that take them.
pub(crate) fn flags() -> String {
    let rows = KEYS.iter().filter_map(|key| key.flag).map(|Flag { name, value, commands }| {
        let takes = |command| if commands.contains(&command) { "yes" } else { "" }.to_owned();
        let [run, check, selftest, detach, config] = Command::ALL.map(takes);
        [code(&format!("{name} {value}")), run, check, selftest, detach, config]
    });
    let [run, check, selftest, detach, config] = Command::ALL.map(|command| code(command.name()));
    table(["flag".to_owned(), run, check, selftest, detach, config], rows)
}

/// The variables that are no key of the file.
pub(crate) fn variables() -> String {
    let only = KEYS.iter().filter(|key| key.file.is_none() && key.flag.is_none());
    let rows = only.map(|key| {
        let per_signal = if key.per_signal { " (per signal)" } else { "" };
        let name = key.variable.map(code).unwrap_or_default();
        [format!("{name}{per_signal}"), default(key), key.meaning.to_owned()]
    });
    table(["variable", "default", "meaning"], rows)
}

/// The page with this in place of the first table below a heading.
pub(crate) fn replaced(page: &str, heading: &str, table: &str) -> String {
    let (before, rest) = page.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let start = rest.find("\n|").unwrap_or_else(|| panic!("no table below {heading}")) + 1;
    let end = rest[start..].find("\n\n").map_or(rest.len(), |end| start + end + 1);
    format!("{before}\n{heading}\n{}{table}{}", &rest[..start], &rest[end..])
}

fn table<const N: usize>(titles: [impl ToString; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let line =
        |cells: [String; N]| format!("| {} |\n", cells.join(" | ")).replace("|  |", "| |").replace("|  |", "| |");
    let rule = titles.each_ref().map(|_| "---".to_owned());
    [titles.map(|title| title.to_string()), rule].into_iter().chain(rows).map(line).collect()
}

fn default(key: &Key) -> String {
    match key.default {
        Unset::Value(_) => key.written_default().map(code).unwrap_or_default(),
        Unset::Else(words) => words.to_owned(),
    }
}

/// As pages write what is code.
fn code(text: &str) -> String {
    format!("`{text}`")
}
