//! Reads the project's pages: tables, links, headings, words.

use std::fs;

use crate::root;

/// The text of a file, by its path from the root.
pub fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files with this ending below `folder`, as paths from the root. Not what was built, nor what is hidden.
pub fn files(folder: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        if entry.file_type().unwrap().is_dir() {
            if name != "target" && !name.starts_with('.') {
                found.extend(files(&path, ending));
            }
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The cells of the tables below a heading, up to the next one. Without the line of titles.
pub fn rows(path: &str, heading: &str) -> Vec<Vec<String>> {
    let text = page(path);
    let mut lines = text.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with('#'));
    let mut rows = Vec::new();
    while let Some(line) = lines.next() {
        if line.starts_with("| ---") {
            let body = lines.by_ref().take_while(|line| line.starts_with('|'));
            rows.extend(
                body.map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()),
            );
        }
    }
    assert!(!rows.is_empty(), "{path} has no table below {heading}");
    rows
}

/// What stands in the brackets of `[text](target)`.
pub fn links(text: &str) -> Vec<&str> {
    text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target).collect()
}

/// What links to the headings of a page end in, as GitHub makes them.
pub fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let of = |heading: &str| {
        heading.to_lowercase().replace(' ', "-").chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
    };
    headings.map(of).collect()
}

/// Runs of the characters that names are made of.
pub fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && !"_.:".contains(c)).map(|word| word.trim_end_matches(['.', ':']))
}

/// As pages write what is code.
pub fn code(text: &str) -> String {
    format!("`{text}`")
}
